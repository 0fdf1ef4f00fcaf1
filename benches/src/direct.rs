//! Many pairs, one sender and one receiver each, user to user: throughput, server CPU per message, latency.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::fanout::progress;
use crate::latency::Summary;
use crate::load;
use crate::options::{Common, Timing};
use crate::plan::{Pace, Plan, Shape};
use crate::process;
use crate::report::{self, Journal, Samples, Subject as _};
use crate::sample::Sample;
use crate::server::{Kind, Server};

/// Pairs of one run; each takes two files here and two in the server.
const PAIRS_MAX: u16 = 20_000;

/// CPU per message over TLS, broker over relay.
const TLS_BAR: f64 = 1.3;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    timing: Timing,
    /// Pairs of one sender and one receiver
    #[arg(long, default_value_t = 200)]
    pairs: u16,
    /// Over TLS, broker and relay alike; the scenario is `wss` then
    #[arg(long)]
    tls: bool,
}

/// True when every sample was clean.
///
/// # Errors
/// When a server does not start, set-up fails or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { common, timing, pairs, tls } = arguments;
    timing.check()?;
    ensure!((1..=PAIRS_MAX).contains(pairs), "--pairs is between 1 and {PAIRS_MAX}");
    process::allow_files(u64::from(*pairs) * 2 + 200)?;
    let mut journal = Journal::open(if *tls { "wss" } else { "direct" }, &common.output.results)?;
    let parameters = json!({
        "pairs": pairs, "payload": timing.payload, "window": timing.window, "rate": timing.rate, "batch": timing.batch,
    });
    let samples = Samples::take(common, &mut journal, &parameters, |kind| {
        let server = Server::start_over(kind, common, *tls)?;
        let sample = load::run(&plan(kind, &server, arguments))?;
        progress(kind, usize::from(*pairs), &sample);
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(common, &samples)));
    let ratio = samples.ratio(cpu);
    let ratio = if *tls { report::at_most(ratio, TLS_BAR) } else { report::range(ratio) };
    println!("CPU per message, broker over relay: {ratio}");
    println!(
        "p99, broker over relay: {}",
        report::range(samples.ratio(|sample| quantile(sample, |l| l.p99_us)))
    );
    println!("samples: {}", journal.path().display());
    Ok(samples.all(Sample::is_clean))
}

fn plan(kind: Kind, server: &Server, arguments: &Arguments) -> Plan {
    let timing = &arguments.timing;
    Plan {
        wire: kind.wire(arguments.common.profile),
        port: server.port(),
        is_secure: arguments.tls,
        pid: server.pid(),
        batch: timing.batch,
        shape: Shape::Direct { pairs: arguments.pairs },
        pace: timing.rate.map_or(Pace::Window(timing.window), Pace::Rate),
        payload_bytes: timing.payload,
        latency: true,
        warm_up: timing.warming(),
        measure: timing.measured(),
    }
}

fn rows(common: &Common, samples: &Samples<Sample>) -> Vec<Vec<String>> {
    let header = [
        "server",
        "us/message",
        "messages/s",
        "cores",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "lost",
        "closed",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &server in &common.servers {
        let sum = |figure: fn(&Sample) -> u64| {
            let own = samples.iter().filter(|(kind, _)| *kind == server);
            own.map(|(_, sample)| figure(sample)).sum::<u64>().to_string()
        };
        let latency = |figure: fn(&Summary) -> f64| {
            report::median(samples.of(server, |sample| quantile(sample, figure)), 0)
        };
        rows.push(vec![
            server.name().to_owned(),
            report::median(samples.of(server, cpu), 4),
            report::thousands(samples.of(server, |sample| sample.deliveries_per_s)),
            report::median(samples.of(server, |sample| sample.server_cores), 2),
            latency(|latency| latency.p50_us),
            latency(|latency| latency.p99_us),
            latency(|latency| latency.p999_us),
            latency(|latency| latency.max_us),
            sum(|sample| sample.faults.lost),
            sum(|sample| sample.faults.disconnected),
        ]);
    }
    rows
}

fn cpu(sample: &Sample) -> f64 {
    sample.server_us_per_delivery
}

fn quantile(sample: &Sample, figure: fn(&Summary) -> f64) -> f64 {
    sample.latency.as_ref().map_or(f64::NAN, figure)
}
