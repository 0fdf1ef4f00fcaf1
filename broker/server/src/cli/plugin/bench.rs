//! `waspmq plugin bench`: what a component's decisions cost, without a broker.

use super::check::Component;
use super::vectors;
use crate::cli::failure::Failure;
use crate::cli::output;
use anyhow::anyhow;
use clap::Args;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use waspmq_policy::limits::BENCH_ROUNDS_MAX;
use waspmq_policy::{Bench, BenchError, Measured};

#[derive(Debug, Args)]
#[command(after_help = "\
Asks the vectors that need no configuration of their own over and over, in turns with a bare call
of a core function, and shows nanoseconds per decision: the call, what the component asks of the
broker meanwhile, and the checks of its answer. Compare the ratio to the bare call between
machines, not the nanoseconds. Exit codes: 0 measured, 1 a question failed, 2 a file cannot be
used.

Examples:
  waspmq plugin bench orders.wasm --vectors vectors.toml
  waspmq plugin bench orders.wasm --vectors vectors.toml --config @production.json --json")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    component: Component,
    /// The file with the vectors
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Rounds in which everything is measured once
    #[arg(long, value_name = "N", default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=i64::from(BENCH_ROUNDS_MAX)))]
    rounds: u32,
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Arguments { component, vectors: path, rounds } = arguments;
    let vectors = vectors::read(path)?;
    let config = component.config()?.unwrap_or_else(|| vectors.config.clone());
    let bytes = component.read()?;
    let failed = |error: BenchError| match error {
        BenchError::Nothing | BenchError::TooMany => Failure::Usage(format!("{}: {error}", path.display())),
        other => Failure::Failed(anyhow!("{}: {other}", component.file.display())),
    };
    if cfg!(debug_assertions) {
        output::note(format_args!(
            "this waspmq is a debug build: all but the component itself is slower than it will be"
        ));
    }
    let mut bench = Bench::new(&bytes, &vectors, &config, component.memory_mb).map_err(failed)?;
    let progress = std::io::stderr().is_terminal();
    for round in 1..=*rounds {
        bench.round().map_err(failed)?;
        if progress {
            // Whoever watches sees the next one.
            drop(write!(std::io::stderr(), "\rround {round} of {rounds}"));
        }
    }
    if progress {
        output::note(format_args!(""));
    }
    let (measured, bare_ns) = (bench.measured(), bench.bare_ns());
    if as_json {
        return Ok(output::json(&json!({ "bare_ns": bare_ns, "rounds": rounds, "questions": measured }))?);
    }
    Ok(output::line(format_args!("{}\nbare call: {bare_ns:.1} ns", table(&measured)))?)
}

fn table(measured: &[Measured]) -> String {
    let row = |of: &Measured| {
        vec![
            of.name.clone(),
            of.hook.as_str().to_owned(),
            format!("{:.0}", of.median_ns),
            of.p99_ns.to_string(),
            format!("{:.1}", of.of_bare),
        ]
    };
    let rows: Vec<_> = measured.iter().map(row).collect();
    output::table(&["QUESTION", "HOOK", "MEDIAN NS", "P99 NS", "OF BARE"], &rows)
}
