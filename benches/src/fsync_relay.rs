//! The reference for level `stored` with a network: what a group commit costs when its records come over the same
//! connections, in the same frames and from the same generator as the broker's, and nothing else is done.
//!
//! As many relay threads as the broker has workers, each with a listener of its own on the same address
//! (`SO_REUSEPORT`) and an epoll instance, parse publishes and hand them to one committer at the end of each turn;
//! the committer appends what waits, calls `fdatasync` once and writes the receipts.
//!
//! Not here: sessions, names, a registry, positions, an index, delivery, rotation.

mod desk;
mod relay;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::options::Disk;
use crate::server::Server;
use desk::Desk;
use relay::Relay;

/// Connections that the kernel holds until they are accepted; above it, clients try again.
const BACKLOG: i32 = 4096;

const THREADS_MAX: usize = 64;

/// How long one who asks for figures may take.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of a request for figures that are read.
const REQUEST_BYTES: usize = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 9480)))]
    listen: SocketAddr,
    /// Address that answers every request with the histogram of commits
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 9481)))]
    admin: SocketAddr,
    #[command(flatten)]
    disk: Disk,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Threads {
    /// Relay threads of fsync-relay; 0 is one per core, as many as the broker has workers by itself
    #[arg(long = "relay-threads", default_value_t = 0)]
    count: usize,
}

impl Threads {
    /// # Errors
    /// When there are too many.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.count <= THREADS_MAX, "--relay-threads is between 0 and {THREADS_MAX}");
        Ok(())
    }

    /// How many that are.
    pub(crate) fn count(&self) -> usize {
        match self.count {
            0 => thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            count => count,
        }
    }
}

/// Serves until the process is ended.
///
/// # Errors
/// When an address cannot be bound, or the disk or epoll fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { listen, admin, disk, threads } = arguments;
    threads.check()?;
    disk.check()?;
    let file = tempfile::tempfile_in(&disk.path);
    let file = file.with_context(|| format!("making a file in {}", disk.path.display()))?;
    let admin = TcpListener::bind(admin).with_context(|| format!("binding {admin}"))?;
    let listeners = bind(*listen, threads.count()).with_context(|| format!("binding {listen}"))?;
    serve(listeners, admin, file)
}

/// Starts one as a process of its own with its file below `dir`.
///
/// # Errors
/// When it does not come up, with the end of its output.
pub(crate) fn start(dir: &Path, threads: &Threads) -> Result<Server> {
    let bench: PathBuf = std::env::current_exe()?;
    Server::launch("fsync-relay", dir, |command, ports, folder| {
        command
            .arg(&bench)
            .args(["fsync-relay", "--listen", &format!("127.0.0.1:{}", ports.clients)])
            .args(["--admin", &format!("127.0.0.1:{}", ports.admin)])
            .args(["--relay-threads", &threads.count().to_string(), "--dir"])
            .arg(folder);
        Ok(())
    })
}

/// Commits on this thread until something fails.
fn serve(listeners: Vec<TcpListener>, admin: TcpListener, file: File) -> Result<()> {
    let desk = Arc::new(Desk::default());
    for listener in listeners {
        let desk = desk.clone();
        thread::spawn(move || {
            // Not made here: epoll's events stay on the thread that takes them.
            let relayed = Relay::new(listener, desk.clone()).and_then(|mut relay| {
                loop {
                    relay.turn()?;
                }
            });
            let Err::<(), _>(error) = relayed else { return };
            desk.fail(anyhow::Error::new(error).context("a relay thread ended"));
        });
    }
    let asked = desk.clone();
    thread::spawn(move || {
        for stream in admin.incoming().flatten() {
            // Who does not listen to the end misses figures.
            drop(tell(stream, &asked.figures()));
        }
    });
    desk.commit(file)
}

/// One socket per thread, all on the same address; the kernel spreads connections over them. The first is bound
/// alone, so that an address that is taken is an error.
fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut listeners: Vec<TcpListener> = Vec::new();
    for _ in 0..count {
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, !listeners.is_empty())?;
        // Port 0 is any that is free, the same for all.
        let address = listeners.first().map_or(Ok(address), TcpListener::local_addr)?;
        rustix::net::bind(&socket, &address)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::listen(&socket, BACKLOG)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Answers one HTTP request, whatever it asks for.
fn tell(mut stream: TcpStream, figures: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(ASKED_WITHIN))?;
    stream.set_write_timeout(Some(ASKED_WITHIN))?;
    let mut request = Vec::new();
    let mut bytes = [0; REQUEST_BYTES];
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            break;
        }
        request.extend_from_slice(&bytes[..count]);
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{figures}")
}

#[cfg(test)]
mod tests;
