//! One socket whose connections are handed over, or a socket for each thread: what a message costs, of quinn alone.
//!
//! The load is that of `quic`, but each connection of the generator has a socket of its own, as clients have: with one
//! address for all, the kernel would give them all to one of the sockets.

use std::time::Duration;

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
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds under load before that
    #[arg(long, default_value_t = 0.7)]
    warm_up: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Messages of one write, all of which arrive before the next
    #[arg(long, default_value_t = 64)]
    window: u32,
    /// Pairs of one sender and one receiver
    #[arg(long, default_value_t = 100)]
    pairs: u16,
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
    let Arguments { output, threads, seconds, warm_up, payload, window, pairs } = arguments;
    ensure!((1..=THREADS_MAX).contains(threads), "--threads is between 1 and {THREADS_MAX}");
    ensure!((1..=PAIRS_MAX / 2).contains(pairs), "--pairs is between 1 and {}", PAIRS_MAX / 2);
    ensure!((0.05..=600.0).contains(seconds), "--seconds is between 0.05 and 600");
    ensure!((0.0..=600.0).contains(warm_up), "--warm-up is between 0 and 600");
    ensure!((1..=1 << 20).contains(payload), "--payload is between 1 and 1048576");
    ensure!((1..=4_096).contains(window), "--window is between 1 and 4096");
    // A socket and what its runtime has for it.
    process::allow_files(200 + 2 * u64::from(*pairs))?;
    let mut journal = Journal::open("quic-sockets", &output.results)?;
    let parameters = json!({ "pairs": pairs, "payload": payload, "window": window, "threads": threads });
    let subjects = [Sockets::Apart, Sockets::Each, Sockets::First];
    let turns = Turns {
        subjects: &subjects,
        repetitions: output.repetitions,
        back_and_forth: true,
        profile: Wire::Relay,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |sockets| {
        let server = start_relay(*threads, sockets)?;
        load::run(&load::Plan {
            wire: Wire::Relay,
            port: server.port(),
            pid: server.pid(),
            pairs: *pairs,
            sockets: 2 * *pairs,
            batch: *window,
            payload_bytes: *payload,
            warm_up: Duration::from_secs_f64(*warm_up),
            measure: Duration::from_secs_f64(*seconds),
        })
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
