//! The listener for QUIC: one socket and one thread, which receives for all connections and hands each new one to a worker.
//!
//! The worker has the connection's work from then on: its encryption, its timers, its sending. ADR 15 says why there is
//! one socket. Who comes while many shake hands is asked to prove its address first; who comes while even more do is
//! refused.

use crate::phase::{Phase, PhaseCell};
use crate::tls::Tls;
use crate::worker::mailbox::Mailboxes;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};
use waspmq_store::DataDir;
use waspmq_transport::quic::{Incoming, Listener, Secret, Windows};

/// Handshakes of the whole broker that were begun and are not over. Who comes in addition is refused.
const HANDSHAKES_MAX: usize = 2_048;
/// From so many on, who comes has to prove its address, which costs it a round trip.
const RETRY_FROM: usize = 256;
/// Connections that wait for a worker's turn; one more is refused.
const HANDED_MAX: usize = 256;
/// What is asked of the kernel for either direction; it gives what `net.core.rmem_max` and `wmem_max` allow.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What was done with who came, for the metrics.
#[derive(Debug, Default)]
pub struct QuicCounters {
    handshakes: AtomicUsize,
    pub retried: AtomicU64,
    pub refused: AtomicU64,
}

/// A connection on its way to a worker, counted as a handshake until it is dropped.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) incoming: Incoming,
    pub(crate) handshake: Handshake,
}

/// One of the handshakes that were begun.
#[derive(Debug)]
pub(crate) struct Handshake(Arc<QuicCounters>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the listener's thread works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) socket: UdpSocket,
    pub(crate) tls: Arc<Tls>,
    pub(crate) windows: Windows,
    pub(crate) secret: Secret,
    pub(crate) phase: Arc<PhaseCell>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) counters: Arc<QuicCounters>,
    pub(crate) workers: Vec<mpsc::Sender<Handed>>,
}

/// The ways over which workers are handed connections; none where QUIC is off.
pub(crate) fn hand_overs(
    is_on: bool,
    workers: usize,
) -> (Vec<mpsc::Sender<Handed>>, Vec<Option<mpsc::Receiver<Handed>>>) {
    if !is_on {
        return (Vec::new(), std::iter::repeat_with(|| None).take(workers).collect());
    }
    let hand_over = |_| mpsc::channel(HANDED_MAX);
    (0..workers).map(hand_over).map(|(sender, receiver)| (sender, Some(receiver))).unzip()
}

/// The listener's secret, the same at every start on a data directory.
pub(crate) fn secret(data_dir: &DataDir) -> Secret {
    // The seed is random and never told to anybody.
    let of = format!("{}/{:016x}", data_dir.node_id(), data_dir.shard_seed());
    Secret(blake3::derive_key("waspmq 2026-11-29 QUIC stateless reset", of.as_bytes()))
}

/// Binds the UDP side of an address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves on this thread until `stop` turns true. Connections that are left then are closed.
pub(crate) fn run(parts: Parts, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async move {
        let Parts { socket, tls, windows, secret, .. } = &parts;
        let listener = Listener::new(socket.try_clone()?, (&tls.credentials(), secret), *windows)?;
        loop {
            // All branches are cancel-safe.
            tokio::select! {
                _ = stop.wait_for(|&stop| stop) => break,
                () = tls.changed() => {
                    if let Err(error) = listener.replace(&tls.credentials()) {
                        tracing::error!(%error, "QUIC keeps the certificate from before");
                    }
                }
                incoming = listener.accept() => match incoming {
                    Some(incoming) => parts.hand(incoming),
                    None => break,
                },
            }
        }
        listener.close().await;
        Ok(())
    })
}

impl Parts {
    /// Gives a connection to the worker that has the fewest.
    fn hand(&self, incoming: Incoming) {
        let counters = &self.counters;
        let begun = counters.handshakes.load(Ordering::Relaxed);
        if begun >= HANDSHAKES_MAX || self.phase.load() > Phase::Ready {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return incoming.refuse();
        }
        if begun >= RETRY_FROM && !incoming.is_validated() {
            counters.retried.fetch_add(1, Ordering::Relaxed);
            return incoming.retry();
        }
        counters.handshakes.fetch_add(1, Ordering::Relaxed);
        let handshake = Handshake(counters.clone());
        // Those on their way are not connections yet, and a crowd that comes at once is spread, too.
        let waiting = |worker: &mpsc::Sender<Handed>| (worker.max_capacity() - worker.capacity()) as u64;
        let load = |(worker, mailbox): (&mpsc::Sender<Handed>, u64)| mailbox + waiting(worker);
        let connections = self.mailboxes.iter().map(|mailbox| mailbox.counters.connections.load());
        let least = self.workers.iter().zip(connections).min_by_key(|&worker| load(worker));
        let Some((worker, _)) = least else { return incoming.refuse() };
        if let Err(error) = worker.try_send(Handed { incoming, handshake }) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            let (mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed)) = error;
            handed.incoming.refuse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_second_broker_on_the_same_address_fails() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let error = bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
