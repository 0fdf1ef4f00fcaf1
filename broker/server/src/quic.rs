//! The listener for QUIC: one socket and one thread, which receives for all connections and hands each new one to a worker.
//!
//! The worker has the connection's work from then on: its encryption, its timers, its sending. ADR 15 says why there is
//! one socket. Who comes while many shake hands is asked to prove its address first; who comes while even more do is
//! refused.

use crate::phase::{Phase, PhaseCell};
use crate::tls::Tls;
use crate::worker::mailbox::Mailboxes;
use hashbrown::HashMap;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use waspmq_core::limits::WORKERS_MAX;
use waspmq_store::DataDir;
use waspmq_transport::quic::{Incoming, Listener, Secret, Windows};

/// Handshakes of the whole broker that were begun and are not over. Who comes in addition is refused.
const HANDSHAKES_MAX: usize = 2_048;
/// From so many on, who comes has to prove its address, which costs it a round trip.
const RETRY_FROM: usize = 192;
/// Handshakes of one address, or one IPv6 network of 64 bits. Those whose address is not proven cannot take them all.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 256;
const _: () = assert!(RETRY_FROM < HANDSHAKES_PER_ADDRESS_MAX);
/// How long it takes until a socket that broke is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Connections that wait for a worker's turn; one more is refused.
const HANDED_MAX: usize = 256;
/// What is asked of the kernel for either direction; it gives what `net.core.rmem_max` and `wmem_max` allow.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What was done with who came, for the metrics.
#[derive(Debug, Default)]
pub struct QuicCounters {
    begun: Mutex<Begun>,
    pub retried: AtomicU64,
    pub refused: AtomicU64,
}

/// Handshakes that were begun and are not over.
#[derive(Debug)]
struct Begun {
    count: usize,
    by_worker: [usize; WORKERS_MAX],
    by_address: HashMap<IpAddr, usize, foldhash::fast::RandomState>,
}

impl Default for Begun {
    fn default() -> Self {
        Self { count: 0, by_worker: [0; WORKERS_MAX], by_address: HashMap::default() }
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) incoming: Incoming,
    pub(crate) handshake: Handshake,
}

/// One of the handshakes that were begun, until it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    counters: Arc<QuicCounters>,
    worker: usize,
    address: IpAddr,
}

impl QuicCounters {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more for the worker that has the least to do: `connections` are those that each has.
    fn begin(self: &Arc<Self>, address: IpAddr, connections: impl Iterator<Item = u64>) -> Handshake {
        let mut begun = self.begun();
        let loads = connections.zip(begun.by_worker).map(|(connections, begun)| connections + begun as u64);
        let worker = loads.enumerate().min_by_key(|&(_, load)| load).map_or(0, |(worker, _)| worker);
        begun.count += 1;
        *begun.by_address.entry(address).or_default() += 1;
        if let Some(of_worker) = begun.by_worker.get_mut(worker) {
            *of_worker += 1;
        }
        Handshake { counters: self.clone(), worker, address }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut begun = self.counters.begun();
        begun.count -= 1;
        if let Some(of_worker) = begun.by_worker.get_mut(self.worker) {
            *of_worker -= 1;
        }
        if let Some(of_address) = begun.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                begun.by_address.remove(&self.address);
            }
        }
    }
}

/// What one peer has at the least: an address, or a network of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
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

/// Serves on this thread until `stop` turns true. Connections that are left then are closed, while their workers still
/// run.
pub(crate) fn run(parts: &Parts, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async move {
        loop {
            let Err(error) = serve(parts, &mut stop).await else { return Ok(()) };
            tracing::error!(%error, "QUIC does not work; its connections are lost, and it is tried again");
            tokio::select! {
                _ = stop.wait_for(|&stop| stop) => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    })
}

async fn serve(parts: &Parts, stop: &mut watch::Receiver<bool>) -> io::Result<()> {
    let Parts { socket, tls, windows, secret, .. } = parts;
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
                None => return Err(io::Error::other("nothing can be received any more")),
            },
        }
    }
    listener.close().await;
    Ok(())
}

impl Parts {
    /// Gives a connection to the worker that has the fewest.
    fn hand(&self, incoming: Incoming) {
        let counters = &self.counters;
        let address = network(incoming.remote().ip());
        let (begun, of_address) = {
            let begun = counters.begun();
            (begun.count, begun.by_address.get(&address).copied().unwrap_or_default())
        };
        let is_crowded = begun >= HANDSHAKES_MAX || of_address >= HANDSHAKES_PER_ADDRESS_MAX;
        if is_crowded || self.phase.load() > Phase::Ready {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return incoming.refuse();
        }
        if begun >= RETRY_FROM && !incoming.is_validated() {
            counters.retried.fetch_add(1, Ordering::Relaxed);
            return incoming.retry();
        }
        let connections = self.mailboxes.iter().map(|mailbox| mailbox.counters.connections.load());
        let handshake = counters.begin(address, connections);
        let Some(worker) = self.workers.get(handshake.worker) else { return incoming.refuse() };
        if let Err(error) = worker.try_send(Handed { incoming, handshake }) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            let (TrySendError::Full(handed) | TrySendError::Closed(handed)) = error;
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

    #[test]
    fn a_crowd_that_comes_at_once_is_spread_and_forgotten() {
        let counters = Arc::new(QuicCounters::default());
        let address = |last: u8| network(format!("2001:db8::{last}").parse().unwrap());
        assert_eq!(address(1), address(2));
        assert_ne!(network("10.0.0.1".parse().unwrap()), network("10.0.0.2".parse().unwrap()));
        // The first worker has three connections more than the others.
        let crowd: Vec<_> = (0..9).map(|_| counters.begin(address(1), [3, 0, 0].into_iter())).collect();
        let of = |worker| crowd.iter().filter(|handshake| handshake.worker == worker).count();
        assert_eq!([of(0), of(1), of(2)], [1, 4, 4]);
        assert_eq!(counters.begun().by_address.get(&address(7)), Some(&9));
        drop(crowd);
        let begun = counters.begun();
        assert_eq!((begun.count, begun.by_address.len(), begun.by_worker.iter().sum()), (0, 0, 0_usize));
    }
}
