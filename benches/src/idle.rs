//! Many connections that say nothing: resident memory each, CPU per accept, idle CPU.
//!
//! "Accept" is everything until a connection can be used: TCP, the WebSocket upgrade, and at the broker `connect`
//! up to `welcome`. Memory is the server's resident set only; the kernel's socket buffers are not in it.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;

use crate::link::Link;
use crate::options::Common;
use crate::process::{self, Cpu};
use crate::report::{self, Journal, Samples, Subject as _};
use crate::server::Server;
use crate::stream::Stream;
use crate::wire::Wire;

/// Connections from one source address; a default range of ephemeral ports holds 28,232.
const PER_ADDRESS: usize = 20_000;

/// Threads that connect at the same time: enough to keep one server thread busy.
const CONNECTING_THREADS: usize = 4;

const CONNECTIONS_MAX: usize = 1_000_000;

/// Pause before each reading of memory, for what a server does after its last connection.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Seconds over which idle CPU is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Over TLS, broker and relay alike; the scenario is `wss-idle` then
    #[arg(long)]
    tls: bool,
}

#[derive(Debug, Serialize)]
struct Sample {
    connections: usize,
    connections_per_s: f64,
    server_us_per_accept: f64,
    resident_bytes_per_connection: f64,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    /// Of one core.
    idle_cpu_percent: f64,
    disconnected: usize,
}

/// True when no connection was closed.
///
/// # Errors
/// When a server does not start, a connection is refused or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { common, connections, seconds, tls } = arguments;
    ensure!((1..=CONNECTIONS_MAX).contains(connections), "--connections is between 1 and {CONNECTIONS_MAX}");
    ensure!((0.1..=20.0).contains(seconds), "--seconds is between 0.1 and 20, below the broker's heartbeat");
    process::allow_files(*connections as u64 + 200)?;
    let mut journal = Journal::open(if *tls { "wss-idle" } else { "idle" }, &common.output.results)?;
    let parameters = json!({ "connections": connections, "seconds": seconds });
    let samples = Samples::take(common, &mut journal, &parameters, |kind| {
        let server = Server::start_over(kind, common, *tls)?;
        let road = Road { wire: kind.wire(common.profile), port: server.port(), is_secure: *tls };
        let sample = measure(road, server.pid(), *connections, Duration::from_secs_f64(*seconds))?;
        eprintln!(
            "{:>6}: {:.0} B and {:.1} us CPU per connection, {:.2} % idle CPU, {} closed",
            kind.name(),
            sample.resident_bytes_per_connection,
            sample.server_us_per_accept,
            sample.idle_cpu_percent,
            sample.disconnected
        );
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(common, &samples)));
    println!(
        "CPU per accept, broker over relay: {}",
        report::range(samples.ratio(|s| s.server_us_per_accept))
    );
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.disconnected == 0))
}

/// How a server is reached.
#[derive(Debug, Clone, Copy)]
struct Road {
    wire: Wire,
    port: u16,
    is_secure: bool,
}

fn measure(road: Road, pid: u32, connections: usize, idle: Duration) -> Result<Sample> {
    thread::sleep(SETTLE);
    let (resident_bytes_before, before) = (process::resident_bytes(pid)?, Cpu::of(pid)?);
    let start = Instant::now();
    let held = connect_all(road, connections)?;
    let connecting = start.elapsed().as_secs_f64();
    let connected = Cpu::of(pid)?;
    thread::sleep(SETTLE);
    let (resident_bytes_after, settled, start) =
        (process::resident_bytes(pid)?, Cpu::of(pid)?, Instant::now());
    thread::sleep(idle);
    let idle_cpu = Cpu::of(pid)?.since(&settled).total.as_secs_f64() / start.elapsed().as_secs_f64();
    let disconnected = held.iter().filter(|stream| !is_open(stream.socket())).count();
    let count = connections as f64;
    Ok(Sample {
        connections,
        connections_per_s: count / connecting,
        server_us_per_accept: connected.since(&before).total.as_secs_f64() * 1e6 / count,
        resident_bytes_per_connection: (resident_bytes_after as f64 - resident_bytes_before as f64) / count,
        resident_bytes_before,
        resident_bytes_after,
        idle_cpu_percent: idle_cpu * 100.0,
        disconnected,
    })
}

fn connect_all(road: Road, connections: usize) -> Result<Vec<Stream>> {
    thread::scope(|scope| {
        let connect = move |first: usize| -> Result<Vec<Stream>> {
            (first..connections).step_by(CONNECTING_THREADS).map(|i| connect_one(road, i)).collect()
        };
        let threads: Vec<_> =
            (0..CONNECTING_THREADS).map(|first| scope.spawn(move || connect(first))).collect();
        let mut held = Vec::with_capacity(connections);
        for thread in threads {
            held.append(&mut thread.join().map_err(|_| anyhow!("a connecting thread panicked"))??);
        }
        Ok(held)
    })
}

fn connect_one(road: Road, i: usize) -> Result<Stream> {
    let Road { wire, port, is_secure } = road;
    let open = if is_secure { Link::secure } else { Link::open };
    let mut link = open(wire, port, Some(source(i)))?;
    link.connect(&format!("i{i}"), false)?;
    let (stream, _) = link.into_stream();
    stream.socket().set_nonblocking(true)?;
    Ok(stream)
}

/// The loopback address that connection `i` comes from.
fn source(i: usize) -> Ipv4Addr {
    let host = u8::try_from(2 + i / PER_ADDRESS).unwrap_or(254);
    Ipv4Addr::new(127, 0, 0, host)
}

/// Whether the peer has not closed; what it sent meanwhile is thrown away.
fn is_open(mut stream: &TcpStream) -> bool {
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

fn rows(common: &Common, samples: &Samples<Sample>) -> Vec<Vec<String>> {
    let header = ["server", "connections", "B/connection", "us/accept", "accepts/s", "idle CPU %", "closed"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for &server in &common.servers {
        let closed: usize =
            samples.iter().filter(|(kind, _)| *kind == server).map(|(_, sample)| sample.disconnected).sum();
        rows.push(vec![
            server.name().to_owned(),
            report::median(samples.of(server, |sample| sample.connections as f64), 0),
            report::median(samples.of(server, |sample| sample.resident_bytes_per_connection), 0),
            report::median(samples.of(server, |sample| sample.server_us_per_accept), 1),
            report::median(samples.of(server, |sample| sample.connections_per_s), 0),
            report::median(samples.of(server, |sample| sample.idle_cpu_percent), 2),
            closed.to_string(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_change_before_ports_run_out() {
        assert_eq!(source(0), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(PER_ADDRESS - 1), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(PER_ADDRESS), Ipv4Addr::new(127, 0, 0, 3));
        assert_eq!(source(CONNECTIONS_MAX - 1), Ipv4Addr::new(127, 0, 0, 51));
    }
}
