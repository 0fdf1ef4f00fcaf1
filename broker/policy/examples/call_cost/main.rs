//! What policies cost inside of the broker, measured through the hooks that a worker has, without a server.
//!
//! `cargo xtask bench policy` runs each part in a process of its own and holds the figures against their bars; by hand:
//! `cargo xtask plugins && cargo run --release -p waspmq-policy --example call_cost -- calls`. A figure is the list
//! of what its rounds measured. Figures of one part are taken in turns, so that all of them meet the same state of the
//! machine: take ratios inside a round. Exit code 1 means that a policy did not do what the measurement is about.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a measuring tool prints what it timed")]

mod bare;
mod calls;
mod capacity;
mod cuts;
mod hosts;
mod memory;
mod questions;
mod replacement;
mod share;

use serde_json::json;
use std::error::Error;

type Fallible<T> = Result<T, Box<dyn Error>>;

type Measure = fn(&Run) -> Fallible<()>;

/// What is measured, in a process of its own each.
const PARTS: [(&str, Measure); 6] = [
    ("calls", calls::measure),
    ("cuts", cuts::measure),
    ("replacement", replacement::measure),
    ("share", share::measure),
    ("memory", memory::measure),
    ("capacity", capacity::measure),
];

/// One measured thing: a value for each round.
#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// How figures are shown, and which.
struct Run {
    as_json: bool,
    /// Of the calls, those whose question has this in its name.
    only: String,
    /// More rounds than usual, and only the lane `core`, to look at with a profiler.
    rounds: usize,
    only_core: bool,
}

impl Run {
    fn show(&self, figures: impl IntoIterator<Item = Figure>) {
        figures.into_iter().for_each(|figure| figure.print(self.as_json));
    }
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { name: name.into(), unit, values }
    }

    fn print(&self, as_json: bool) {
        let Self { name, unit, values } = self;
        if as_json {
            println!("{}", json!({ "figure": name, "unit": unit, "values": values }));
            return;
        }
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (median, least, most) = (at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)));
        println!("{name:<48} {median:>10.2} {unit:<3} ({least:.2}-{most:.2})");
    }
}

fn main() -> Fallible<()> {
    let mut run = Run { as_json: false, only: String::new(), rounds: calls::ROUNDS, only_core: false };
    let mut asked = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--only", only)) => run.only = only.to_owned(),
            Some(("--rounds", rounds)) => run.rounds = rounds.parse()?,
            None if argument == "--json" => run.as_json = true,
            None if argument == "--only-core" => run.only_core = true,
            None if PARTS.iter().any(|(part, _)| *part == argument) => asked.push(argument),
            _ => {
                let parts = PARTS.map(|(part, _)| part);
                return Err(format!(
                    "no part {argument:?}; there are {parts:?}, --json, --only-core, --only= and --rounds="
                )
                .into());
            }
        }
    }
    for (part, measure) in PARTS {
        if asked.is_empty() || asked.iter().any(|name| name == part) {
            measure(&run)?;
        }
    }
    Ok(())
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}
