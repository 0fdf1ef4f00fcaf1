//! A network between clients and a broker. A bad one loses one datagram in twenty, and one in ten comes late; any can be cut
//! for those who are on it, or stand still towards them.

use crate::binary::from_binary;
use crate::bridge::{connect_to, framed, message};
use crate::harness::Broker;
use crate::levels::with;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long what the broker sends still comes through when the way to it is cut: less than it takes the broker to give up the wait for
/// an acknowledgement and to close.
const AFTER_CUT: Duration = Duration::from_secs(2);

/// Forwards to one broker.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    lost: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    still: watch::Sender<bool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Proxy {
    /// A bad network.
    pub(super) async fn start(broker: &Broker) -> Self {
        Self::of(broker, true).await
    }

    /// A network that loses nothing by itself.
    pub(super) async fn good(broker: &Broker) -> Self {
        Self::of(broker, false).await
    }

    async fn of(broker: &Broker, is_bad: bool) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (lost, cut, mut tasks) = (Arc::default(), Arc::default(), tokio::task::JoinSet::new());
        let (still, is_still) = watch::channel(false);
        let network = Network { up: Direction::new(is_bad), down: Direction::new(is_bad), is_still };
        let counts = (Arc::clone(&lost), Arc::clone(&cut));
        tasks.spawn(network.serve(socket, broker.address.parse().unwrap(), counts));
        Self { address, lost, cut, still, tasks }
    }

    /// From now on what the clients that are here send is lost, and after [`AFTER_CUT`] what they are sent, too. Those who come later
    /// are not concerned.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether what clients are sent waits on its way, and how long it does.
    pub(super) fn stand_still(&self, is_still: bool) {
        self.still.send(is_still).unwrap();
    }

    pub(super) fn lost(&self) -> u64 {
        assert_eq!(self.tasks.len(), 1);
        self.lost.load(Ordering::Relaxed)
    }

    /// A session through the proxy.
    pub(super) async fn session(
        &self,
        broker: &Broker,
        user: &str,
    ) -> ((quinn::Endpoint, quinn::Connection), (quinn::SendStream, quinn::RecvStream)) {
        self.session_with(broker, user, json!({})).await
    }

    /// The same, with more in its `connect`.
    pub(super) async fn session_with(
        &self,
        broker: &Broker,
        user: &str,
        more: Value,
    ) -> ((quinn::Endpoint, quinn::Connection), (quinn::SendStream, quinn::RecvStream)) {
        let whole = connect_to(broker, self.address, b"waspmq/1").await;
        let (mut send, mut receive) = whole.1.open_bi().await.unwrap();
        let hello = with(json!({"type": "connect", "user": user}), more);
        send.write_all(&framed(&hello)).await.unwrap();
        assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
        (whole, (send, receive))
    }
}

/// One direction of the network.
struct Direction {
    is_bad: bool,
    seen: u64,
    late: Option<(Vec<u8>, SocketAddr)>,
}

impl Direction {
    const fn new(is_bad: bool) -> Self {
        Self { is_bad, seen: 0, late: None }
    }

    /// What goes on of a datagram, and what was held back before.
    fn pass(&mut self, datagram: &[u8], to: SocketAddr, lost: &AtomicU64) -> Vec<(Vec<u8>, SocketAddr)> {
        self.seen += 1;
        // Multiplied with a large odd number, the counter's upper bits are spread evenly.
        let dice = self.seen.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let datagram = (datagram.to_vec(), to);
        if !self.is_bad {
            return vec![datagram];
        }
        if dice.is_multiple_of(20) {
            lost.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        if dice % 20 < 3 && self.late.is_none() {
            self.late = Some(datagram);
            return Vec::new();
        }
        std::iter::once(datagram).chain(self.late.take()).collect()
    }
}

/// A client, the socket that is its own towards the broker, and since when it is cut off.
type Client = (SocketAddr, UdpSocket, Option<Instant>);

struct Network {
    up: Direction,
    down: Direction,
    is_still: watch::Receiver<bool>,
}

impl Network {
    async fn serve(
        mut self,
        socket: UdpSocket,
        broker: SocketAddr,
        (lost, cut): (Arc<AtomicU64>, Arc<AtomicBool>),
    ) {
        let mut clients: Vec<Client> = Vec::new();
        let mut waiting: Vec<(Vec<u8>, SocketAddr)> = Vec::new();
        let (mut near, mut far) = ([0; 2048], [0; 2048]);
        loop {
            let answer = std::future::poll_fn(|context| {
                let ready = clients.iter().find(|(_, socket, _)| socket.poll_recv_ready(context).is_ready());
                ready.map_or(Poll::Pending, |(client, ..)| Poll::Ready(*client))
            });
            tokio::select! {
                received = socket.recv_from(&mut near) => {
                    let Ok((length, client)) = received else { continue };
                    cut_off(&mut clients, &cut);
                    if !clients.iter().any(|(known, ..)| *known == client) {
                        let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                        clients.push((client, own, None));
                    }
                    for (datagram, client) in self.up.pass(&near[..length], client, &lost) {
                        let (_, own, cut) = of(&clients, client);
                        if cut.is_none() {
                            _ = own.send_to(&datagram, broker).await;
                        }
                    }
                }
                Ok(()) = self.is_still.changed() => {
                    if !*self.is_still.borrow() {
                        for (datagram, client) in waiting.drain(..) {
                            _ = socket.send_to(&datagram, client).await;
                        }
                    }
                }
                client = answer => {
                    let (_, own, _) = of(&clients, client);
                    let Ok((length, _)) = own.try_recv_from(&mut far) else { continue };
                    cut_off(&mut clients, &cut);
                    for (datagram, client) in self.down.pass(&far[..length], client, &lost) {
                        if *self.is_still.borrow() {
                            waiting.push((datagram, client));
                            continue;
                        }
                        if of(&clients, client).2.is_none_or(|since| since.elapsed() < AFTER_CUT) {
                            _ = socket.send_to(&datagram, client).await;
                        }
                    }
                }
            }
        }
    }
}

fn of(clients: &[Client], client: SocketAddr) -> &Client {
    clients.iter().find(|(known, ..)| *known == client).unwrap()
}

/// Does what [`Proxy::cut`] asks for.
fn cut_off(clients: &mut [Client], cut: &AtomicBool) {
    if cut.swap(false, Ordering::Relaxed) {
        clients.iter_mut().for_each(|(_, _, since)| *since = Some(Instant::now()));
    }
}
