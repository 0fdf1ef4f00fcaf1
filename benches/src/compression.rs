//! One publisher, many subscribers of `topic/bench` that take compressed messages: what each codec costs the server and
//! saves on the wire, over the same without.
//!
//! At the largest count of subscribers every codec runs; at the smaller ones those that show whether cost is per codec
//! or per client. Adaptive compression chooses; it is given all of the workers' time, so that no message goes plain for want of
//! budget, but for one subject that shows that the budget holds. That one runs with few subscribers, where messages are so
//! many that compressing all of them takes more than the budget.

mod chart;
mod check;
mod report;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use waspmq_protocol::codec;

use self::report::Case;
use crate::admin::Admin;
use crate::documents::Documents;
use crate::load;
use crate::options::{Broker, Output};
use crate::plan::{Pace, Plan, Shape, Traffic};
use crate::process;
use crate::report::{Journal, Samples, Subject, Turns};
use crate::sample;
use crate::scrape;
use crate::server::{Server, Site};
use crate::wire::{Reads, Wire};

/// Bytes of the trained dictionary.
const DICTIONARY_BYTES: usize = 16 * 1024;

/// What the default of `compression.cpu_percent` lets compressing take of the workers' time.
const DEFAULT_SHARE: f64 = 0.1;

/// Time for which the broker keeps budget that is not spent: this much of it is there when messages begin.
const BUDGET_KEPT_SECONDS: f64 = 0.2;

/// Subscribers of the subjects that show the budget: few, and enough for every worker to have one.
const BUDGET_SUBSCRIBERS: usize = 8;

/// Messages outstanding there, so that they are many.
const BUDGET_WINDOW: u32 = 64;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    /// What to measure, in this order in each repetition
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Subjects::ALL)]
    subjects: Vec<Subjects>,
    /// Subscriber counts; at the largest every codec is measured, at the others plain, zstd, zstd-dict and mix
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300, 1000])]
    subs: Vec<usize>,
    /// Messages outstanding
    #[arg(long, default_value_t = 8)]
    window: u32,
    /// JSON values to publish, one a line: 64, and 100 or more to train the dictionary from; made-up orders if absent
    #[arg(long)]
    payload: Option<PathBuf>,
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds under load before that
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subjects {
    Plain,
    Lz4,
    Zstd,
    ZstdDict,
    /// A quarter each of none, lz4, zstd and zstd-dict
    Mix,
    /// The JSON profile, uncompressed
    Json,
    /// The JSON profile with permessage-deflate
    JsonDeflate,
    /// zstd with the default budget, for few subscribers
    ZstdDefault,
}

impl Subjects {
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Lz4,
        Self::Zstd,
        Self::ZstdDict,
        Self::Mix,
        Self::Json,
        Self::JsonDeflate,
        Self::ZstdDefault,
    ];

    /// Those of which the broker compresses as much as its default budget allows, and what it would without.
    const BUDGETED: [Self; 2] = [Self::Zstd, Self::ZstdDefault];

    /// Those that are measured at every count of subscribers.
    const CHARTED: [Self; 4] = [Self::Plain, Self::Zstd, Self::ZstdDict, Self::Mix];

    fn wire(self) -> Wire {
        if matches!(self, Self::Json | Self::JsonDeflate) { Wire::Json } else { Wire::Binary }
    }

    /// What the subscribers say they read, in turn.
    fn readers(self) -> &'static [Reads] {
        const fn codecs(codecs: &'static [&'static str]) -> Reads {
            Reads { codecs, deflate: false }
        }
        const LZ4: Reads = codecs(&["lz4"]);
        const ZSTD: Reads = codecs(&["zstd"]);
        const DICTIONARY: Reads = codecs(&["zstd-dict"]);
        match self {
            Self::Plain | Self::Json => &[Reads::PLAIN],
            Self::Lz4 => &[LZ4],
            Self::Zstd | Self::ZstdDefault => &[ZSTD],
            Self::ZstdDict => &[DICTIONARY],
            Self::Mix => &[Reads::PLAIN, LZ4, ZSTD, DICTIONARY],
            Self::JsonDeflate => &[Reads { codecs: &[], deflate: true }],
        }
    }

    /// The same without compression.
    fn plain(self) -> Self {
        if self.wire() == Wire::Json { Self::Json } else { Self::Plain }
    }

    fn configuration(self) -> &'static str {
        if self == Self::ZstdDefault { "" } else { "[compression]\ncpu_percent = 100\n" }
    }
}

impl Subject for Subjects {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::ZstdDict => "zstd-dict",
            Self::Mix => "mix",
            Self::Json => "json",
            Self::JsonDeflate => "json-deflate",
            Self::ZstdDefault => "zstd-default",
        }
    }

    fn profile(self, _profile: Wire) -> String {
        self.wire().to_string()
    }
}

#[derive(Debug, Serialize)]
struct Sample {
    #[serde(flatten)]
    run: sample::Sample,
    compressing: Compressing,
}

/// What the broker says about compressing, over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Compressing {
    /// For each message published: one per codec and worker that has recipients of it.
    times_per_message: f64,
    us_per_message: f64,
    /// Of the time of all workers.
    share: f64,
    /// Of what the default budget allows in that time.
    share_of_budget: f64,
}

impl Compressing {
    fn between(before: &str, after: &str, run: &sample::Sample, workers: usize) -> Self {
        let count = |text: &str| scrape::counter(text, "waspmq_compressed_messages_total");
        let seconds = |text: &str| scrape::seconds(text, "waspmq_compression_seconds_total");
        let (count, seconds) = (count(after) - count(before), seconds(after) - seconds(before));
        let (published, workers) = (run.published_in_all.max(1) as f64, workers as f64);
        Self {
            times_per_message: count as f64 / published,
            us_per_message: seconds * 1e6 / published,
            share: seconds / (run.seconds_in_all.max(1e-9) * workers),
            share_of_budget: seconds / ((run.seconds_in_all + BUDGET_KEPT_SECONDS) * workers * DEFAULT_SHARE),
        }
    }
}

/// True when every message arrived once.
///
/// # Errors
/// When an argument is out of range, the broker does not start, a connection is refused, a client cannot unpack what it is
/// sent, or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, subs, .. } = arguments;
    check(arguments)?;
    let largest = subs.iter().copied().max().unwrap_or(0);
    process::allow_files(largest as u64 + 200)?;
    let documents = match &arguments.payload {
        Some(path) => Documents::of_file(path)?,
        None => Documents::made_up(),
    };
    let samples: Vec<&[u8]> = documents.others.iter().map(Vec::as_slice).collect();
    let dictionary = codec::train(&samples, DICTIONARY_BYTES).context("training the dictionary")?;
    let setting = Setting { arguments, documents: &documents, dictionary: &dictionary };
    let mut journal = Journal::open("compression", &output.results)?;
    let mut cases = Vec::new();
    for &subscribers in subs {
        let is_measured = |subject: &Subjects| match subject {
            Subjects::ZstdDefault => false,
            subject => subscribers == largest || Subjects::CHARTED.contains(subject),
        };
        cases.push(measure((subscribers, arguments.window), is_measured, &setting, &mut journal)?);
    }
    let is_asked = arguments.subjects.contains(&Subjects::ZstdDefault);
    let is_measured = |subject: &Subjects| is_asked && Subjects::BUDGETED.contains(subject);
    let budget = measure((BUDGET_SUBSCRIBERS, BUDGET_WINDOW), is_measured, &setting, &mut journal)?;
    report::show(&cases, &budget, &journal.path().with_extension("svg"))?;
    println!("samples: {}", journal.path().display());
    let is_clean = |case: &Case| case.samples.all(|sample| sample.run.is_clean());
    Ok(cases.iter().all(is_clean) && is_clean(&budget))
}

/// The samples of all asked subjects that `is_measured` holds for.
fn measure(
    (subscribers, window): (usize, u32),
    is_measured: impl Fn(&Subjects) -> bool,
    setting: &Setting<'_>,
    journal: &mut Journal,
) -> Result<Case> {
    let Setting { arguments, documents, dictionary } = setting;
    let subjects: Vec<_> = arguments.subjects.iter().copied().filter(is_measured).collect();
    let turns = Turns {
        subjects: &subjects,
        repetitions: arguments.output.repetitions,
        back_and_forth: true,
        profile: Wire::Binary,
    };
    let parameters = json!({
        "subscribers": subscribers, "window": window, "payload": documents.mean_bytes(),
        "dictionary": dictionary.len(),
    });
    let samples = Samples::in_turn(&turns, journal, &parameters, |subject| {
        let sample = take(subject, (subscribers, window), setting)?;
        report::progress(subject, subscribers, &sample);
        Ok(sample)
    })?;
    Ok(Case { subscribers, samples })
}

fn check(arguments: &Arguments) -> Result<()> {
    let Arguments { subs, window, seconds, warm_up, .. } = arguments;
    ensure!(subs.iter().all(|count| (1..=50_000).contains(count)), "--subs are between 1 and 50000");
    ensure!((1..=1 << 10).contains(window), "--window is between 1 and 1024");
    ensure!((0.05..=600.0).contains(seconds), "--seconds is between 0.05 and 600");
    ensure!((0.0..=600.0).contains(warm_up), "--warm-up is between 0 and 600");
    Ok(())
}

/// What all samples have in common.
#[derive(Debug, Clone, Copy)]
struct Setting<'a> {
    arguments: &'a Arguments,
    documents: &'a Documents,
    dictionary: &'a [u8],
}

fn take(subject: Subjects, (subscribers, window): (usize, u32), setting: &Setting<'_>) -> Result<Sample> {
    let Setting { arguments, documents, dictionary } = setting;
    let dir = std::env::temp_dir();
    let configuration = subject.configuration();
    let server = Server::broker(&Site { broker: &arguments.broker, dir: &dir, data: None, configuration })?;
    Admin::of(server.admin(), &server.data())?.push_dictionary("bench", "topic/bench", dictionary)?;
    let plan = Plan {
        wire: subject.wire(),
        port: server.port(),
        is_secure: false,
        pid: server.pid(),
        // One frame in each WebSocket message, so that those that are compressed as a whole can be counted as they are.
        batch: false,
        shape: Shape::Fanout { subscribers },
        pace: Pace::Window(window),
        payload_bytes: documents.mean_bytes(),
        latency: false,
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        measure: Duration::from_secs_f64(arguments.seconds),
    };
    let metrics = || scrape::get(server.admin(), "/metrics");
    let before = metrics()?;
    let traffic = Traffic { documents: &documents.published, readers: subject.readers() };
    let run = load::run_with(&plan, traffic)?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let compressing = Compressing::between(&before, &metrics()?, &run, workers);
    for &reads in subject.readers() {
        check::can_be_read(&plan, reads, &documents.published).with_context(|| format!("{reads:?}"))?;
    }
    Ok(Sample { run, compressing })
}

#[cfg(test)]
mod tests;
