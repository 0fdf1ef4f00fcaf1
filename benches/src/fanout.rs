//! One publisher, many subscribers of `topic/bench`: server CPU per delivery.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::load;
use crate::options::{Common, Timing};
use crate::plan::{Pace, Plan, Shape};
use crate::process;
use crate::report::{self, Journal, Samples, Subject as _};
use crate::sample::{Faults, Sample};
use crate::server::{Kind, Server};

/// Subscribers of one run; each takes a file here and one in the server.
const SUBSCRIBERS_MAX: usize = 50_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    timing: Timing,
    /// Subscriber counts
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64, 256, 1000])]
    subs: Vec<usize>,
}

/// True when every sample was clean.
///
/// # Errors
/// When a server does not start, set-up fails or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { common, timing, subs } = arguments;
    timing.check()?;
    ensure!(subs.iter().all(|count| (1..=SUBSCRIBERS_MAX).contains(count)), "--subs are between 1 and 50000");
    process::allow_files(subs.iter().max().map_or(0, |&count| count as u64) + 200)?;
    let mut journal = Journal::open("fanout", &common.output.results)?;
    let mut rows = vec![header(timing.rate.is_some())];
    let mut clean = true;
    for &subscribers in subs {
        let parameters = json!({
            "subscribers": subscribers, "payload": timing.payload, "window": timing.window, "rate": timing.rate,
            "batch": timing.batch,
        });
        let samples = Samples::take(common, &mut journal, &parameters, |kind| {
            let server = Server::start(kind, common)?;
            let sample = load::run(&plan(kind, &server, arguments, subscribers))?;
            progress(kind, subscribers, &sample);
            Ok(sample)
        })?;
        clean &= samples.all(Sample::is_clean);
        rows.push(row(subscribers, &samples, timing.rate.is_some()));
    }
    print!("{}", report::table(&rows));
    println!("samples: {}", journal.path().display());
    Ok(clean)
}

fn plan(kind: Kind, server: &Server, arguments: &Arguments, subscribers: usize) -> Plan {
    let timing = &arguments.timing;
    Plan {
        wire: kind.wire(arguments.common.profile),
        port: server.port(),
        is_secure: false,
        pid: server.pid(),
        batch: timing.batch,
        shape: Shape::Fanout { subscribers },
        pace: timing.rate.map_or(Pace::Window(timing.window), Pace::Rate),
        payload_bytes: timing.payload,
        latency: timing.rate.is_some(),
        warm_up: timing.warming(),
        measure: timing.measured(),
    }
}

/// One line per sample while the run goes on; faults in full.
pub(crate) fn progress(kind: Kind, size: usize, sample: &Sample) {
    eprintln!(
        "{:>6} {size:>5}: {:.4} us/delivery, {:.0}k/s, server {:.2} cores, generator {:.4} us",
        kind.name(),
        sample.server_us_per_delivery,
        sample.deliveries_per_s / 1_000.0,
        sample.server_cores,
        sample.generator_us_per_delivery,
    );
    if !sample.is_clean() {
        let deliveries = sample.deliveries;
        let Faults { lost, duplicated, disconnected, complaints, stalled, first_complaint } = &sample.faults;
        eprintln!(
            "       not clean: {deliveries} deliveries, {lost} lost, {duplicated} duplicated, {disconnected} \
             disconnected, stalled {stalled}, {complaints} complaints {}",
            first_complaint.as_deref().unwrap_or_default()
        );
    }
}

fn header(latency: bool) -> Vec<String> {
    let mut columns = vec!["subs", "relay us/del", "broker us/del", "ratio", "relay del/s", "broker del/s"];
    columns.extend(["relay cores", "broker cores", "lost", "closed"]);
    if latency {
        columns.extend(["relay p50/p99 us", "broker p50/p99 us"]);
    }
    columns.into_iter().map(str::to_owned).collect()
}

fn row(subscribers: usize, samples: &Samples<Sample>, latency: bool) -> Vec<String> {
    use Kind::{Broker, Relay};
    let cpu = |sample: &Sample| sample.server_us_per_delivery;
    let rate = |sample: &Sample| sample.deliveries_per_s;
    let cores = |sample: &Sample| sample.server_cores;
    let sum = |figure: fn(&Sample) -> u64| {
        samples.iter().map(|(_, sample)| figure(sample)).sum::<u64>().to_string()
    };
    let mut cells = vec![
        subscribers.to_string(),
        report::median(samples.of(Relay, cpu), 4),
        report::median(samples.of(Broker, cpu), 4),
        report::range(samples.ratio(cpu)),
        report::thousands(samples.of(Relay, rate)),
        report::thousands(samples.of(Broker, rate)),
        report::median(samples.of(Relay, cores), 2),
        report::median(samples.of(Broker, cores), 2),
        sum(|sample| sample.faults.lost),
        sum(|sample| sample.faults.disconnected),
    ];
    if latency {
        for server in [Relay, Broker] {
            let quantile = |figure: fn(&crate::latency::Summary) -> f64| {
                report::median(
                    samples.of(server, |sample| sample.latency.as_ref().map_or(f64::NAN, figure)),
                    0,
                )
            };
            cells.push(format!(
                "{}/{}",
                quantile(|latency| latency.p50_us),
                quantile(|latency| latency.p99_us)
            ));
        }
    }
    cells
}
