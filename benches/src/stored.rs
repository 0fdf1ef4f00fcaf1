//! Level `stored`: publishers that wait for their receipts, each publishing to a user of its own, against the
//! group-commit references on the same disk, without and with a network, and, where it is installed, NATS `JetStream`.

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::commit;
use crate::exchange::{self, Outcome, Plan};
use crate::foreign::{self, Sync};
use crate::fsync::{self, HEADER_BYTES, Publishers};
use crate::fsync_relay::{self, Threads};
use crate::options::{Broker, Disk, Output, Stretch};
use crate::process;
use crate::report::{self, Journal, Samples, Subject, Turns};
use crate::scrape::{self, Buckets, COMMITS, Figures};
use crate::server::{Server, Site};
use crate::talk::{Dialect, Level};
use crate::wire::Wire;

/// Messages per second of the broker over those of the reference without a network.
const OVER_FSYNC_MIN: f64 = 0.7;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    stretch: Stretch,
    #[command(flatten)]
    disk: Disk,
    #[command(flatten)]
    publishers: Publishers,
    #[command(flatten)]
    threads: Threads,
    /// What to measure, in this order in each repetition; what is not installed is left out
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["fsync", "fsync-relay", "broker", "broker-online", "nats", "nats-always"])]
    subjects: Vec<Subjects>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subjects {
    /// The group-commit reference
    Fsync,
    /// The same behind bare relay threads, over the broker's connections and frames
    FsyncRelay,
    /// Recipients are offline
    Broker,
    /// Recipients are online and acknowledge
    BrokerOnline,
    /// `JetStream` with its default sync interval: not synced per message
    Nats,
    /// `JetStream` that syncs each message
    NatsAlways,
}

impl Subject for Subjects {
    fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::FsyncRelay => "fsync-relay",
            Self::Broker => "broker",
            Self::BrokerOnline => "broker-online",
            Self::Nats => "nats",
            Self::NatsAlways => "nats-always",
        }
    }

    fn profile(self, profile: Wire) -> String {
        match self {
            Self::FsyncRelay | Self::Broker | Self::BrokerOnline => profile.to_string(),
            Self::Fsync | Self::Nats | Self::NatsAlways => "none".to_owned(),
        }
    }
}

/// A sample of the reference or of a server.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Sample {
    Reference(commit::Sample),
    Server {
        #[serde(flatten)]
        outcome: Box<Outcome>,
        /// The own histogram of commits of the broker or the reference, over the measured interval.
        journal_commits: Option<Figures>,
    },
}

/// True when every sample was clean.
///
/// # Errors
/// When an argument is out of range, a server does not start or refuses the level, the disk fails, or results cannot
/// be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, stretch, disk, publishers, threads, .. } = arguments;
    stretch.check()?;
    publishers.check()?;
    threads.check()?;
    let filesystem = disk.check()?;
    process::allow_files(publishers.publishers as u64 * 2 + 200)?;
    let nats = foreign::version("nats-server");
    let subjects = installed(&arguments.subjects, nats.is_some());
    let mut journal = Journal::open("stored", &output.results)?;
    let parameters = json!({
        "publishers": publishers.publishers, "window": publishers.window, "drivers": publishers.drivers,
        "payload": stretch.payload, "header": HEADER_BYTES, "bytes_min": stretch.bytes,
        "dir": disk.path, "filesystem": filesystem, "wear_in": publishers.wear_in, "nats": nats,
        "relay_threads": threads.count(),
    });
    publishers.wear_in(stretch, disk)?;
    let turns = Turns {
        subjects: &subjects,
        repetitions: output.repetitions,
        back_and_forth: true,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |subject| {
        let sample = take(subject, arguments)?;
        progress(subject, &sample);
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(&subjects, &samples)));
    if let Some(nats) = nats {
        println!("nats: {nats}; its default syncs every minute or two, not per message");
    }
    print_ratios(&samples);
    println!("samples: {}", journal.path().display());
    Ok(samples.all(Sample::is_clean))
}

/// One subject over another, for those that were measured.
fn print_ratios(samples: &Samples<Sample, Subjects>) {
    use Subjects::{Broker, BrokerOnline, Fsync, FsyncRelay, Nats, NatsAlways};
    let ratio_of = |one, other| samples.ratio_of(one, other, Sample::per_s);
    println!("messages/s, broker over fsync: {}", report::at_least(ratio_of(Broker, Fsync), OVER_FSYNC_MIN));
    for (one, other) in [
        (BrokerOnline, Fsync),
        (Broker, FsyncRelay),
        (BrokerOnline, FsyncRelay),
        (FsyncRelay, Fsync),
        (Broker, Nats),
        (Broker, NatsAlways),
    ] {
        let ratio = report::range(ratio_of(one, other));
        println!("messages/s, {} over {}: {ratio}", one.name(), other.name());
    }
}

/// The subjects that can be measured here; says which cannot.
fn installed(subjects: &[Subjects], nats: bool) -> Vec<Subjects> {
    let always = nats && subjects.contains(&Subjects::NatsAlways) && foreign::nats_syncs_always();
    let can = |subject: &Subjects| match subject {
        Subjects::Nats => nats,
        Subjects::NatsAlways => always,
        Subjects::Fsync | Subjects::FsyncRelay | Subjects::Broker | Subjects::BrokerOnline => true,
    };
    for subject in subjects.iter().filter(|subject| !can(subject)) {
        eprintln!("{:>14}: left out, not installed or not able to", subject.name());
    }
    subjects.iter().copied().filter(can).collect()
}

fn take(subject: Subjects, arguments: &Arguments) -> Result<Sample> {
    let Arguments { broker, stretch, disk, publishers, threads, .. } = arguments;
    let stored = Dialect::Waspmq { level: Level::Stored, batch: false };
    let (server, dialect) = match subject {
        Subjects::Fsync => return Ok(Sample::Reference(commit::run(&publishers.plan(stretch, disk))?)),
        Subjects::FsyncRelay => (fsync_relay::start(&disk.path, threads)?, stored),
        Subjects::Broker | Subjects::BrokerOnline => {
            (Server::broker(&Site { broker, dir: &disk.path, data: None, configuration: "" })?, stored)
        }
        Subjects::Nats => (foreign::nats(&disk.path, Sync::Default)?, Dialect::Nats),
        Subjects::NatsAlways => (foreign::nats(&disk.path, Sync::Always)?, Dialect::Nats),
    };
    let plan = Plan {
        dialect,
        port: server.port(),
        pid: server.pid(),
        addresses: (0..publishers.publishers).map(|i| vec![dialect.address(i)]).collect(),
        receivers: subject == Subjects::BrokerOnline,
        window: publishers.window,
        refill_at: publishers.window - 1,
        payload_bytes: stretch.payload,
    };
    ensure!(plan.window > 0, "a window of 0");
    let mut scrapes = Vec::new();
    let outcome = exchange::run(&plan, stretch.interval(), || {
        if dialect == stored {
            scrapes.push(scrape::get(server.admin(), "/metrics").context("reading the metrics")?);
        }
        Ok(())
    })?;
    let histogram = |text: &String| Buckets::parse(text, COMMITS);
    let journal_commits = match scrapes.as_slice() {
        [before, after] => {
            histogram(after).map(|after| after.since(&histogram(before).unwrap_or_default()).figures())
        }
        _ => None,
    };
    Ok(Sample::Server { outcome: Box::new(outcome), journal_commits })
}

impl Sample {
    fn per_s(&self) -> f64 {
        match self {
            Self::Reference(sample) => sample.records_per_s,
            Self::Server { outcome, .. } => outcome.sample.deliveries_per_s,
        }
    }

    fn latency(&self) -> crate::latency::Summary {
        match self {
            Self::Reference(sample) => sample.latency,
            Self::Server { outcome, .. } => outcome.latency(),
        }
    }

    fn server_us(&self) -> f64 {
        match self {
            Self::Reference(_) => f64::NAN,
            Self::Server { outcome, .. } => outcome.sample.server_us_per_delivery,
        }
    }

    /// The 99th percentile of a commit in microseconds and commits per second: the reference's own, or what the
    /// server says.
    fn commits(&self) -> (f64, f64) {
        match self {
            Self::Reference(sample) => (sample.commit.p99_us, sample.fsyncs_per_s),
            Self::Server { journal_commits: Some(figures), outcome } => {
                (figures.p99_us, figures.count as f64 / outcome.sample.seconds)
            }
            Self::Server { journal_commits: None, .. } => (f64::NAN, f64::NAN),
        }
    }

    fn is_clean(&self) -> bool {
        match self {
            Self::Reference(sample) => sample.records > 0,
            Self::Server { outcome, .. } => outcome.sample.is_clean(),
        }
    }
}

fn progress(subject: Subjects, sample: &Sample) {
    match sample {
        Sample::Reference(sample) => fsync::progress(sample),
        Sample::Server { outcome, .. } => outcome.progress(subject.name()),
    }
}

fn rows(subjects: &[Subjects], samples: &Samples<Sample, Subjects>) -> Vec<Vec<String>> {
    let header =
        ["subject", "messages/s", "p50 us", "p99 us", "p99.9 us", "us/message", "commits/s", "commit p99 us"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &subject in subjects {
        let cell = |figure: fn(&Sample) -> f64, digits| report::median(samples.of(subject, figure), digits);
        rows.push(vec![
            subject.name().to_owned(),
            cell(Sample::per_s, 0),
            cell(|sample| sample.latency().p50_us, 0),
            cell(|sample| sample.latency().p99_us, 0),
            cell(|sample| sample.latency().p999_us, 0),
            cell(Sample::server_us, 2),
            cell(|sample| sample.commits().1, 0),
            cell(|sample| sample.commits().0, 0),
        ]);
    }
    rows
}
