//! Readers that stopped reading beside readers that read: what the first cost the second, and the server in memory.
//!
//! A third of the topics is read by the good ones only, a third by the stalled ones only, a third by both; every
//! reader has one topic. Stalled readers subscribe, never read again and say that they live. Messages are published
//! at a fixed rate, the same with and without them.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;

use crate::latency::Summary;
use crate::link::{Link, dial};
use crate::load;
use crate::options::{Broker, Disk, Output};
use crate::plan::{Pace, Plan, Shape};
use crate::process;
use crate::report::{self, Journal, Samples, Subject, Turns};
use crate::sample;
use crate::scrape;
use crate::server::{Server, Site};
use crate::watch::{Resident, Watch};
use crate::wire::{Target, Wire};

/// The 99th percentile beside stalled readers over that without.
const RATIO_MAX: f64 = 1.5;

/// The receive buffer of a stalled reader; the kernel doubles it and has a minimum of its own.
const RECEIVE_BYTES: usize = 4096;

/// How often a stalled reader says that it lives, well below the broker's heartbeat.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

const TICK: Duration = Duration::from_millis(20);

/// The least `limits.outbound_bytes_max` in KiB: one and a half times the largest message, with a margin.
const OUTBOUND_KIB_MIN: u64 = 128;

/// Largest message that the broker is told to take.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    disk: Disk,
    /// Readers that read
    #[arg(long, default_value_t = 1000)]
    good: u16,
    /// Readers that do not
    #[arg(long, default_value_t = 1000)]
    stalled: u16,
    /// Topics of each of the three kinds
    #[arg(long, default_value_t = 10)]
    topics: u16,
    /// Messages published per second over all topics
    #[arg(long, default_value_t = 3000.0)]
    rate: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 4096)]
    payload: usize,
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds under load before that; long enough to fill the kernel's buffers and then the queues
    #[arg(long, default_value_t = 10.0)]
    warm_up: f64,
    /// The broker's `limits.outbound_bytes_max`, in KiB
    #[arg(long, default_value_t = 256)]
    outbound_kib: u64,
    /// The broker's `limits.worker_outbound_bytes_max`, in MiB
    #[arg(long, default_value_t = 512)]
    worker_outbound_mib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subjects {
    Alone,
    Beside,
}

impl Subject for Subjects {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Beside => "beside-stalled",
        }
    }

    fn profile(self, profile: Wire) -> String {
        profile.to_string()
    }
}

#[derive(Debug, Serialize)]
struct Sample {
    #[serde(flatten)]
    good: sample::Sample,
    /// Since before the stalled readers connected.
    resident: Resident,
    /// What the broker is configured to let all stalled readers' queues take.
    bound_bytes: u64,
    /// The kernel's memory for all TCP buffers of the machine, once the good readers are gone.
    kernel_tcp_bytes: u64,
    /// Messages that the broker dropped; none beside stalled readers means that their queues were not full.
    dropped: u64,
    /// Stalled readers whose connection the broker closed.
    stalled_closed: usize,
}

/// True when every good reader got everything.
///
/// # Errors
/// When an argument is out of range, the broker does not start, a connection is refused, or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, good, stalled, topics, rate, payload, .. } = arguments;
    check(arguments)?;
    process::allow_files(u64::from(*good) + u64::from(*stalled) + 3 * u64::from(*topics) + 200)?;
    let mut journal = Journal::open("stalled", &output.results)?;
    let parameters = json!({
        "good": good, "stalled": stalled, "topics": topics, "rate": rate, "payload": payload,
        "outbound_kib": arguments.outbound_kib, "worker_outbound_mib": arguments.worker_outbound_mib,
    });
    let turns = Turns {
        subjects: &[Subjects::Alone, Subjects::Beside],
        repetitions: output.repetitions,
        back_and_forth: true,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |subject| {
        let sample = take(subject, arguments)?;
        progress(subject, &sample);
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(&samples)));
    if samples.iter().any(|(subject, sample)| *subject == Subjects::Beside && sample.dropped == 0) {
        println!(
            "nothing was dropped: the queues were not full; more --warm-up, --rate or --payload fills them"
        );
    }
    let ratio = samples.ratio_of(Subjects::Beside, Subjects::Alone, |sample| quantile(sample, |l| l.p99_us));
    println!("p99 of the good readers, beside stalled over alone: {}", report::at_most(ratio, RATIO_MAX));
    let share = samples.of(Subjects::Beside, |sample| {
        sample.resident.growth_bytes() as f64 / sample.bound_bytes.max(1) as f64
    });
    println!("growth of memory over the configured bound: {}", report::at_most(share, 1.0));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.good.is_clean()))
}

fn check(arguments: &Arguments) -> Result<()> {
    let Arguments { good, stalled, topics, rate, payload, seconds, warm_up, outbound_kib, .. } = arguments;
    ensure!((1..=30_000).contains(good) && (1..=30_000).contains(stalled), "readers are between 1 and 30000");
    ensure!((1..=1000).contains(topics), "--topics is between 1 and 1000");
    ensure!((0.1..=1e6).contains(rate), "--rate is between 0.1 and 1000000");
    ensure!((16..=MESSAGE_BYTES_MAX / 2).contains(payload), "--payload is between 16 and 32768");
    ensure!((0.05..=600.0).contains(seconds) && (0.0..=600.0).contains(warm_up), "at most 600 seconds");
    ensure!(*outbound_kib >= OUTBOUND_KIB_MIN, "--outbound-kib is {OUTBOUND_KIB_MIN} at least");
    Ok(())
}

fn take(subject: Subjects, arguments: &Arguments) -> Result<Sample> {
    let Arguments { broker, disk, topics, outbound_kib, worker_outbound_mib, .. } = arguments;
    let (outbound, per_worker) = (outbound_kib * 1024, worker_outbound_mib * 1024 * 1024);
    let workers = thread::available_parallelism().map_or(1, usize::from) as u64;
    let configuration = format!(
        "[limits]\nmax_message_bytes = {MESSAGE_BYTES_MAX}\noutbound_bytes_max = {outbound}\n\
         worker_outbound_bytes_max = {per_worker}\n"
    );
    let server =
        Server::broker(&Site { broker, dir: &disk.path, data: None, configuration: &configuration })?;
    let watch = Watch::start(server.pid(), Duration::from_millis(100))?;
    let count = if subject == Subjects::Beside { arguments.stalled } else { 0 };
    let stalled = connect_stalled(server.port(), usize::from(count), *topics)?;
    let plan = Plan {
        wire: Wire::Binary,
        port: server.port(),
        is_secure: false,
        pid: server.pid(),
        batch: false,
        shape: Shape::Topics {
            subscribers: usize::from(arguments.good),
            topics: topics * 2,
            unread: *topics,
        },
        pace: Pace::Rate(arguments.rate),
        payload_bytes: arguments.payload,
        latency: true,
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        measure: Duration::from_secs_f64(arguments.seconds),
    };
    let over = AtomicBool::new(false);
    let (good, kernel_tcp_bytes, stalled_closed) = thread::scope(|scope| {
        let keeper = scope.spawn(|| keep_alive(&stalled, &over));
        let good = load::run(&plan);
        let kernel = process::kernel_tcp_bytes();
        over.store(true, Ordering::Relaxed);
        let closed = keeper.join().map_err(|_| anyhow!("keeping stalled readers alive panicked"))?;
        Ok::<_, anyhow::Error>((good?, kernel?, closed))
    })?;
    Ok(Sample {
        good,
        resident: watch.finish()?,
        kernel_tcp_bytes,
        dropped: scrape::counter(&scrape::get(server.admin(), "/metrics")?, "waspmq_messages_dropped_total"),
        bound_bytes: (u64::from(count) * outbound).min(workers * per_worker),
        stalled_closed,
    })
}

/// Readers of the topics behind the first `topics`, which only good ones read, in turn.
fn connect_stalled(port: u16, count: usize, topics: u16) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|i| {
            let mut link = Link::over(Wire::Binary, port, dial(port, None, Some(RECEIVE_BYTES))?)?;
            link.connect(&format!("q{i}"), false)?;
            let offset = u16::try_from(i % (2 * usize::from(topics))).unwrap_or(0);
            link.subscribe(Target::Numbered(topics + offset))?;
            let (stream, _) = link.into_parts();
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .collect()
}

/// Writes a sign of life on each connection now and then, never reads, and returns how many were closed in the end.
fn keep_alive(stalled: &[TcpStream], over: &AtomicBool) -> usize {
    let mut pong = Vec::new();
    Wire::push_pong(&mut pong, b"");
    let mut signed = Instant::now();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        if signed.elapsed() >= SIGN_OF_LIFE {
            signed = Instant::now();
            for mut stream in stalled {
                // A connection that is closed is counted in the end.
                drop(stream.write_all(&pong));
            }
        }
    }
    // What is unread when a connection is closed makes it a reset, which a write finds.
    let is_closed = |mut stream: &TcpStream| {
        stream.write_all(&pong).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    };
    stalled.iter().filter(|stream| is_closed(stream)).count()
}

fn progress(subject: Subjects, sample: &Sample) {
    eprintln!(
        "{:>14}: p50 {:.0} us, p99 {:.0} us, {:.0}k deliveries/s, {:.1} MiB more memory, {} dropped, {} stalled ones closed",
        subject.name(),
        quantile(sample, |latency| latency.p50_us),
        quantile(sample, |latency| latency.p99_us),
        sample.good.deliveries_per_s / 1e3,
        sample.resident.growth_bytes() as f64 / 1_048_576.0,
        sample.dropped,
        sample.stalled_closed
    );
    if !sample.good.is_clean() {
        eprintln!("                not clean: {:?}", sample.good.faults);
    }
}

fn rows(samples: &Samples<Sample, Subjects>) -> Vec<Vec<String>> {
    let header = [
        "good readers",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "deliveries/s",
        "cores",
        "memory MiB",
        "growth MiB",
        "bound MiB",
        "kernel MiB",
        "dropped",
        "closed",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for subject in [Subjects::Alone, Subjects::Beside] {
        let cell = |figure: fn(&Sample) -> f64, digits| report::median(samples.of(subject, figure), digits);
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let latency = |figure: fn(&Summary) -> f64| {
            report::median(samples.of(subject, |sample| quantile(sample, figure)), 0)
        };
        rows.push(vec![
            subject.name().to_owned(),
            latency(|latency| latency.p50_us),
            latency(|latency| latency.p99_us),
            latency(|latency| latency.p999_us),
            latency(|latency| latency.max_us),
            report::thousands(samples.of(subject, |sample| sample.good.deliveries_per_s)),
            cell(|sample| sample.good.server_cores, 2),
            report::median(samples.of(subject, |sample| mib(sample.resident.max_bytes)), 1),
            report::median(samples.of(subject, |sample| mib(sample.resident.growth_bytes())), 1),
            report::median(samples.of(subject, |sample| mib(sample.bound_bytes)), 0),
            report::median(samples.of(subject, |sample| mib(sample.kernel_tcp_bytes)), 0),
            cell(|sample| sample.dropped as f64, 0),
            cell(|sample| sample.stalled_closed as f64, 0),
        ]);
    }
    rows
}

fn quantile(sample: &Sample, figure: fn(&Summary) -> f64) -> f64 {
    sample.good.latency.as_ref().map_or(f64::NAN, figure)
}
