//! Many pairs, user to user, at each level of acknowledgement: what a receipt costs the server per message, against
//! none on the same shape and against mosquitto at quality of service 1.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use crate::exchange::{self, Outcome, Plan};
use crate::foreign;
use crate::latency::Summary;
use crate::options::{Broker, Disk, Output, Stretch};
use crate::process;
use crate::report::{self, Journal, Samples, Subject, Turns};
use crate::server::{Server, Site};
use crate::talk::{Dialect, Level};
use crate::wire::Wire;

/// Pairs of one run; each takes two files here and two in the server.
const PAIRS_MAX: u16 = 20_000;

/// `delivered` over `none`, CPU per message.
const OVER_NONE_MAX: f64 = 3.0;

/// `delivered` over mosquitto, CPU per message.
const OVER_MOSQUITTO_MAX: f64 = 0.15;

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
    /// Pairs of one sender and one receiver
    #[arg(long, default_value_t = 200)]
    pairs: u16,
    /// Messages outstanding per pair
    #[arg(long, default_value_t = 64)]
    window: u16,
    /// Let the broker put several frames into one WebSocket message
    #[arg(long)]
    batch: bool,
    /// What to measure, in this order in each repetition; what is not installed is left out
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["none", "accepted", "delivered", "mosquitto"])]
    subjects: Vec<Subjects>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subjects {
    /// No receipts; the receivers' counts limit what is outstanding
    None,
    /// Receipts once the broker took the message
    Accepted,
    /// Receipts once the recipient acknowledged
    Delivered,
    /// mosquitto, quality of service 1 on both sides
    Mosquitto,
}

impl Subject for Subjects {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Mosquitto => "mosquitto",
        }
    }

    fn profile(self, profile: Wire) -> String {
        if self == Self::Mosquitto { "mqtt".to_owned() } else { profile.to_string() }
    }
}

/// True when every sample was clean.
///
/// # Errors
/// When an argument is out of range, a server does not start or refuses the level, or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, stretch, pairs, window, batch, .. } = arguments;
    stretch.check()?;
    ensure!((1..=PAIRS_MAX).contains(pairs), "--pairs is between 1 and {PAIRS_MAX}");
    ensure!((1..=4096).contains(window), "--window is between 1 and 4096");
    process::allow_files(u64::from(*pairs) * 2 + 200)?;
    let mosquitto = foreign::version("mosquitto");
    let mut subjects = arguments.subjects.clone();
    if mosquitto.is_none() {
        eprintln!("mosquitto is not installed and left out");
        subjects.retain(|subject| *subject != Subjects::Mosquitto);
    }
    let mut journal = Journal::open("delivered", &output.results)?;
    let parameters = json!({
        "pairs": pairs, "window": window, "payload": stretch.payload, "batch": batch, "mosquitto": mosquitto,
    });
    let turns = Turns {
        subjects: &subjects,
        repetitions: output.repetitions,
        back_and_forth: true,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |subject| {
        let outcome = take(subject, arguments)?;
        outcome.progress(subject.name());
        Ok(outcome)
    })?;
    print!("{}", report::table(&rows(&subjects, &samples)));
    if let Some(mosquitto) = mosquitto {
        println!("mosquitto: {mosquitto}");
    }
    let over = |other| samples.ratio_of(Subjects::Delivered, other, cpu);
    println!(
        "CPU per message, delivered over none: {}",
        report::at_most(over(Subjects::None), OVER_NONE_MAX)
    );
    println!(
        "CPU per message, delivered over mosquitto: {}",
        report::at_most(over(Subjects::Mosquitto), OVER_MOSQUITTO_MAX)
    );
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|outcome| outcome.sample.is_clean()))
}

fn take(subject: Subjects, arguments: &Arguments) -> Result<Outcome> {
    let Arguments { broker, stretch, disk, window, batch, .. } = arguments;
    let level = match subject {
        Subjects::None => Level::None,
        Subjects::Accepted => Level::Accepted,
        Subjects::Delivered | Subjects::Mosquitto => Level::Delivered,
    };
    let (server, dialect) = if subject == Subjects::Mosquitto {
        (foreign::mosquitto(&disk.path, *window)?, Dialect::Mqtt)
    } else {
        let site = Site { broker, dir: &disk.path, data: None, configuration: "" };
        (Server::broker(&site)?, Dialect::Waspmq { level, batch: *batch })
    };
    let plan = Plan {
        dialect,
        port: server.port(),
        pid: server.pid(),
        addresses: (0..usize::from(arguments.pairs)).map(|i| vec![dialect.address(i)]).collect(),
        receivers: true,
        window: *window,
        refill_at: window / 2,
        payload_bytes: stretch.payload,
    };
    exchange::run(&plan, stretch.interval(), || Ok(()))
}

fn rows(subjects: &[Subjects], samples: &Samples<Outcome, Subjects>) -> Vec<Vec<String>> {
    let header = [
        "level",
        "us/message",
        "user",
        "system",
        "messages/s",
        "cores",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "lost",
        "again",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &subject in subjects {
        let cell = |figure: fn(&Outcome) -> f64, digits| report::median(samples.of(subject, figure), digits);
        let latency = |figure: fn(&Summary) -> f64| {
            report::median(samples.of(subject, |outcome| figure(&outcome.latency())), 0)
        };
        let sum = |figure: fn(&Outcome) -> u64| {
            let own = samples.iter().filter(|(other, _)| *other == subject);
            own.map(|(_, outcome)| figure(outcome)).sum::<u64>().to_string()
        };
        rows.push(vec![
            subject.name().to_owned(),
            cell(cpu, 4),
            cell(|outcome| outcome.sample.server_user_us_per_delivery, 3),
            cell(|outcome| outcome.sample.server_system_us_per_delivery, 3),
            report::thousands(samples.of(subject, |outcome| outcome.sample.deliveries_per_s)),
            cell(|outcome| outcome.sample.server_cores, 2),
            latency(|latency| latency.p50_us),
            latency(|latency| latency.p99_us),
            latency(|latency| latency.p999_us),
            sum(|outcome| outcome.sample.faults.lost),
            sum(|outcome| outcome.redelivered),
        ]);
    }
    rows
}

fn cpu(outcome: &Outcome) -> f64 {
    outcome.sample.server_us_per_delivery
}
