//! One socket whose connections are handed over, or a socket for each thread: what a message costs, of quinn alone.
//!
//! The load is that of `quic`, but each connection of the generator has a socket of its own, as clients have: with one
//! address for all, the kernel would give them all to one of the sockets.

use anyhow::{Result, ensure};
use serde_json::json;

use super::relay::Sockets;
use super::{PAIRS_MAX, THREADS_MAX, load, start_relay};
use crate::options::Output;
use crate::process;
use crate::report::{self, Journal, Samples, Subject, Turns};
use crate::sample::Sample;
use crate::wire::Wire;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
    /// Threads that serve connections; one per core by default
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    #[command(flatten)]
    load: load::Load,
}

impl Subject for Sockets {
    fn name(self) -> &'static str {
        self.name()
    }

    fn profile(self, _: Wire) -> String {
        Wire::Relay.to_string()
    }
}

/// True when every sample was clean.
///
/// # Errors
/// When a relay does not start, set-up fails or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, threads, load } = arguments;
    ensure!((1..=THREADS_MAX).contains(threads), "--threads is between 1 and {THREADS_MAX}");
    load.check(PAIRS_MAX / 2)?;
    // A socket and what its runtime has for it.
    process::allow_files(200 + 2 * u64::from(load.pairs))?;
    let mut journal = Journal::open("quic-sockets", &output.results)?;
    let parameters =
        json!({ "pairs": load.pairs, "payload": load.payload, "window": load.window, "threads": threads });
    let subjects = [Sockets::Apart, Sockets::Each, Sockets::First];
    let turns = Turns {
        subjects: &subjects,
        repetitions: output.repetitions,
        back_and_forth: true,
        profile: Wire::Relay,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |sockets| {
        let server = start_relay(*threads, sockets)?;
        load::run(&load.plan(Wire::Relay, &server, 2 * load.pairs))
    })?;
    print!("{}", report::table(&rows(&subjects, &samples)));
    let ratio = samples.ratio_of(Sockets::Apart, Sockets::Each, |sample| sample.server_us_per_delivery);
    println!("CPU per message, one socket over one for each thread: {}", report::range(ratio));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(Sample::is_clean))
}

fn rows(subjects: &[Sockets], samples: &Samples<Sample, Sockets>) -> Vec<Vec<String>> {
    let header = ["receives", "us/message", "user us", "system us", "messages/s", "cores"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &sockets in subjects {
        rows.push(vec![
            sockets.name().to_owned(),
            report::range(samples.of(sockets, |sample| sample.server_us_per_delivery)),
            report::median(samples.of(sockets, |sample| sample.server_user_us_per_delivery), 3),
            report::median(samples.of(sockets, |sample| sample.server_system_us_per_delivery), 3),
            report::thousands(samples.of(sockets, |sample| sample.deliveries_per_s)),
            report::median(samples.of(sockets, |sample| sample.server_cores), 2),
        ]);
    }
    rows
}
