//! What policies cost, held against their bars: calls and instances measured inside of a process by the example
//! `call_cost` of `waspmq-policy`, and what traffic through a broker notices.
//!
//! Deliberately not here: how calls are made, which the example says.

mod component;
mod inside;
mod rows;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::options::{Broker, Output};
use crate::process;
use crate::report::Journal;
use rows::Row;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    /// What to measure, all of it by default
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only what needs no broker
    #[arg(long, conflicts_with = "parts")]
    in_process: bool,
    /// The program that measures inside of a process
    #[arg(long, default_value = "target/release/examples/call_cost")]
    inside: PathBuf,
    /// Folder of the built plugins
    #[arg(long, default_value = "target/plugins")]
    plugins: PathBuf,
    /// Pairs of one sender and one receiver
    #[arg(long, default_value_t = 50)]
    pairs: u16,
    /// Messages per second over all pairs, open loop
    #[arg(long, default_value_t = 100_000.0)]
    rate: f64,
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    /// Nanoseconds per call, by hook and lane
    Calls,
    /// Loops that are cut, and calls that are not
    Cuts,
    /// What a failed instance costs
    Replacement,
    /// A slow policy beside other messages of its worker
    Share,
    /// Resident memory of an instance
    Memory,
    /// As many policies as there may be, swapped at once
    Capacity,
    /// Over the wire: latency at a fixed rate with a policy and without
    Added,
    /// Over the wire: a large plugin compiled beside messages
    Compile,
    /// Over the wire: a slow policy beside other messages
    Slow,
    /// Over the wire: policies of all hooks swapped under load
    Swap,
}

impl Part {
    const fn needs_broker(self) -> bool {
        matches!(self, Self::Added | Self::Compile | Self::Slow | Self::Swap)
    }
}

/// True when every sample over the wire was clean.
///
/// # Errors
/// When a part cannot be measured or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    ensure!((0.1..=1e7).contains(&arguments.rate), "--rate is between 0.1 and 10000000");
    ensure!((0.5..=600.0).contains(&arguments.seconds), "--seconds is between 0.5 and 600");
    ensure!((1..=1000).contains(&arguments.pairs), "--pairs is between 1 and 1000");
    process::allow_files(u64::from(arguments.pairs) * 2 + 200)?;
    let mut journal = Journal::open("policy", &arguments.output.results)?;
    let asked = |part: &&Part| {
        if arguments.in_process {
            !part.needs_broker()
        } else {
            arguments.parts.is_empty() || arguments.parts.contains(part)
        }
    };
    let (mut all, mut is_clean) = (Vec::new(), true);
    for &part in Part::value_variants().iter().filter(asked) {
        let rows = match part {
            Part::Added => wire::added(arguments, &mut journal, &mut is_clean)?,
            Part::Compile => wire::compile(arguments, &mut journal, &mut is_clean)?,
            Part::Slow => wire::slow(arguments, &mut journal, &mut is_clean)?,
            Part::Swap => wire::swap(arguments, &mut journal, &mut is_clean)?,
            inside => inside::measure(inside, arguments, &mut journal)?,
        };
        print!("{}", rows::table(&rows));
        all.extend(rows);
    }
    println!("{}", rows::load_average());
    println!("samples: {}", journal.path().display());
    let missed: Vec<&str> = all.iter().filter(|row| row.is_missed()).map(Row::what).collect();
    println!("bars missed: {}", if missed.is_empty() { "none".to_owned() } else { missed.join("; ") });
    Ok(is_clean)
}
