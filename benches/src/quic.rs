//! QUIC: user to user over streams, and sessions that say nothing, each against a bare relay of quinn.

mod client;
mod framing;
mod idle;
mod load;
mod relay;
mod sockets;
#[cfg(test)]
mod tests;

pub(crate) use relay::{Arguments as RelayArguments, run as run_relay};
pub(crate) use sockets::{Arguments as SocketsArguments, run as run_sockets};

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::fanout::progress;
use crate::options::Common;
use crate::process;
use crate::report::{self, Journal, Samples, Subject as _};
use crate::sample::Sample;
use crate::server::{Kind, Server};
use crate::wire::Wire;

/// What the broker and the relay speak on a stream.
const ALPN: &[u8] = b"waspmq/1";

/// CPU per message, broker over relay.
const CPU_BAR: f64 = 1.5;
/// Resident memory per session, broker over relay.
const MEMORY_BAR: f64 = 1.3;

/// Pairs of one run.
const PAIRS_MAX: u16 = 20_000;
/// Threads of the relay.
const THREADS_MAX: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    reference: Reference,
    #[command(flatten)]
    load: load::Load,
}

#[derive(Debug, clap::Args)]
pub(crate) struct IdleArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    reference: Reference,
    /// Sessions
    #[arg(long, default_value_t = 2_000)]
    connections: u16,
    /// Seconds over which idle CPU is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct Reference {
    /// Threads of the relay; as many as the broker has workers by default, one per core
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    relay_threads: usize,
}

/// True when every sample was clean.
///
/// # Errors
/// When a server does not start, set-up fails or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { common, reference, load } = arguments;
    reference.check(common)?;
    load.check(PAIRS_MAX)?;
    let mut journal = Journal::open("quic", &common.output.results)?;
    let parameters = json!({
        "pairs": load.pairs, "payload": load.payload, "window": load.window, "relay_threads": reference.relay_threads,
    });
    let samples = Samples::take(common, &mut journal, &parameters, |kind| {
        let server = reference.start(kind, common)?;
        let sample = load::run(&load.plan(kind.wire(common.profile), &server, 1))?;
        progress(kind, usize::from(load.pairs), &sample);
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(common, &samples)));
    let ratio = samples.ratio(|sample| sample.server_us_per_delivery);
    println!("CPU per message, broker over relay: {}", report::at_most(ratio, CPU_BAR));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(Sample::is_clean))
}

/// True when no session was closed.
///
/// # Errors
/// When a server does not start, a session is refused or results cannot be written.
pub(crate) fn run_idle(arguments: &IdleArguments) -> Result<bool> {
    let IdleArguments { common, reference, connections, seconds } = arguments;
    reference.check(common)?;
    ensure!(*connections > 0, "--connections is at least 1");
    ensure!((0.1..=600.0).contains(seconds), "--seconds is between 0.1 and 600");
    let mut journal = Journal::open("quic-idle", &common.output.results)?;
    let parameters = json!({
        "connections": connections, "seconds": seconds, "relay_threads": reference.relay_threads,
    });
    let samples = Samples::take(common, &mut journal, &parameters, |kind| {
        let server = reference.start(kind, common)?;
        let wire = kind.wire(common.profile);
        let idle = Duration::from_secs_f64(*seconds);
        let sample = idle::measure(wire, server.port(), server.pid(), *connections, idle)?;
        eprintln!(
            "{:>6}: {:.0} B and {:.1} us CPU per session, {:.2} % idle CPU, {} closed",
            kind.name(),
            sample.resident_bytes_per_connection,
            sample.server_us_per_accept,
            sample.idle_cpu_percent,
            sample.disconnected
        );
        Ok(sample)
    })?;
    let memory = samples.ratio(|sample| sample.resident_bytes_per_connection);
    println!("memory per session, broker over relay: {}", report::at_most(memory, MEMORY_BAR));
    let accept = samples.ratio(|sample| sample.server_us_per_accept);
    println!("CPU per accept, broker over relay: {}", report::range(accept));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.disconnected == 0))
}

impl Reference {
    fn check(self, common: &Common) -> Result<()> {
        ensure!(
            (1..=THREADS_MAX).contains(&self.relay_threads),
            "--relay-threads is between 1 and {THREADS_MAX}"
        );
        ensure!(common.profile == Wire::Binary, "QUIC has the binary profile only");
        process::allow_files(200)
    }

    fn start(self, kind: Kind, common: &Common) -> Result<Server> {
        if kind == Kind::Broker {
            return Server::start(kind, common);
        }
        start_relay(self.relay_threads, relay::Sockets::First)
    }
}

fn start_relay(threads: usize, sockets: relay::Sockets) -> Result<Server> {
    let bench = std::env::current_exe()?;
    Server::launch("relay", &std::env::temp_dir(), |command, ports, _| {
        command.arg(&bench).args(["quic-relay", "--listen", &format!("127.0.0.1:{}", ports.clients)]);
        command.args(["--threads", &threads.to_string(), "--sockets", sockets.name()]);
        Ok(())
    })
}

fn rows(common: &Common, samples: &Samples<Sample>) -> Vec<Vec<String>> {
    let header = ["server", "us/message", "user us", "system us", "messages/s", "cores", "lost", "closed"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &server in &common.servers {
        let sum = |figure: fn(&Sample) -> u64| {
            let own = samples.iter().filter(|(kind, _)| *kind == server);
            own.map(|(_, sample)| figure(sample)).sum::<u64>().to_string()
        };
        rows.push(vec![
            server.name().to_owned(),
            report::median(samples.of(server, |sample| sample.server_us_per_delivery), 3),
            report::median(samples.of(server, |sample| sample.server_user_us_per_delivery), 3),
            report::median(samples.of(server, |sample| sample.server_system_us_per_delivery), 3),
            report::thousands(samples.of(server, |sample| sample.deliveries_per_s)),
            report::median(samples.of(server, |sample| sample.server_cores), 2),
            sum(|sample| sample.faults.lost),
            sum(|sample| sample.faults.disconnected),
        ]);
    }
    rows
}
