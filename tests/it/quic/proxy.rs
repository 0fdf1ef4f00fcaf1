//! A bad network between clients and a broker: one datagram in twenty is lost, and one in ten comes late.

use crate::binary::from_binary;
use crate::bridge::{connect_to, framed, message};
use crate::harness::Broker;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use tokio::net::UdpSocket;

/// Forwards to one broker.
pub(super) struct Proxy {
    address: SocketAddr,
    lost: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<()>,
}

impl Proxy {
    pub(super) async fn start(broker: &Broker) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (lost, mut tasks) = (Arc::new(AtomicU64::new(0)), tokio::task::JoinSet::new());
        tasks.spawn(serve(socket, broker.address.parse().unwrap(), lost.clone()));
        Self { address, lost, tasks }
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
        let whole = connect_to(broker, self.address, b"waspmq/1").await;
        let (mut send, mut receive) = whole.1.open_bi().await.unwrap();
        send.write_all(&framed(&json!({"type": "connect", "user": user}))).await.unwrap();
        assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
        (whole, (send, receive))
    }
}

/// One direction of the network.
#[derive(Default)]
struct Direction {
    seen: u64,
    late: Option<(Vec<u8>, SocketAddr)>,
}

impl Direction {
    /// What goes on of a datagram, and what was held back before.
    fn pass(&mut self, datagram: &[u8], to: SocketAddr, lost: &AtomicU64) -> Vec<(Vec<u8>, SocketAddr)> {
        self.seen += 1;
        // Multiplied with a large odd number, the counter's upper bits are spread evenly.
        let dice = self.seen.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let datagram = (datagram.to_vec(), to);
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

/// Gives each client a socket of its own towards the broker.
async fn serve(socket: UdpSocket, broker: SocketAddr, lost: Arc<AtomicU64>) {
    let mut clients: Vec<(SocketAddr, UdpSocket)> = Vec::new();
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let (mut near, mut far) = ([0; 2048], [0; 2048]);
    loop {
        let answer = std::future::poll_fn(|context| {
            let ready = clients.iter().find(|(_, socket)| socket.poll_recv_ready(context).is_ready());
            ready.map_or(Poll::Pending, |(client, _)| Poll::Ready(*client))
        });
        tokio::select! {
            received = socket.recv_from(&mut near) => {
                let Ok((length, client)) = received else { continue };
                if !clients.iter().any(|(known, _)| *known == client) {
                    clients.push((client, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()));
                }
                for (datagram, client) in up.pass(&near[..length], client, &lost) {
                    let own = clients.iter().find(|(known, _)| *known == client);
                    _ = own.unwrap().1.send_to(&datagram, broker).await;
                }
            }
            client = answer => {
                let own = clients.iter().find(|(known, _)| *known == client);
                let Ok((length, _)) = own.unwrap().1.try_recv_from(&mut far) else { continue };
                for (datagram, client) in down.pass(&far[..length], client, &lost) {
                    _ = socket.send_to(&datagram, client).await;
                }
            }
        }
    }
}
