//! The relay of quinn under the load that is measured, in this process.

use super::relay::Sockets;
use super::*;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

/// Ports that relays of this process have tried. Below those that the system gives away by itself, which others may be given
/// between a look and a bind.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// A relay on a port of its own, which is up.
fn relay(threads: usize, sockets: Sockets) -> u16 {
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    loop {
        let port = first + TRIED.fetch_add(1, Ordering::Relaxed);
        // One that is taken ends it.
        let relay = thread::spawn(move || relay::run(&relay::Arguments::at(port, threads, sockets)));
        while !relay.is_finished() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return port;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn pairs_on_one_thread_and_on_two_lose_and_repeat_nothing() {
    use Sockets::{Apart, Each, First};
    let cases = [(1, First, 128), (2, First, 128), (2, First, 20_000), (2, Apart, 128), (2, Each, 128)];
    for (threads, sockets, payload_bytes) in cases {
        let sample = load::run(&load::Plan {
            wire: Wire::Relay,
            port: relay(threads, sockets),
            pid: std::process::id(),
            pairs: 4,
            sockets: 3,
            batch: 64,
            payload_bytes,
            warm_up: Duration::from_millis(30),
            measure: Duration::from_millis(200),
        });
        let sample = sample.unwrap();
        assert!(sample.is_clean(), "{threads} {sockets:?} {payload_bytes}: {sample:?}");
        assert!(sample.published_in_all.is_multiple_of(64) && sample.published_in_all > 0);
        // A delivery is the payload and its length.
        let header_bytes = if payload_bytes < 1 << 14 { 2.0 } else { 4.0 };
        let excess = sample.received_bytes_per_delivery - payload_bytes as f64 - header_bytes;
        assert!(excess.abs() < payload_bytes as f64 / 10.0, "{sample:?}");
    }
}

#[test]
fn a_subscriber_that_is_missing_ends_its_sender_and_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = relay(1, Sockets::First);
    let outcome = runtime.block_on(async {
        let endpoint = client::endpoint().unwrap();
        let mut link = client::Link::open(&endpoint, Wire::Relay, port, "s").await.unwrap();
        let message = Wire::Relay.publish_message(crate::wire::Target::Receiver(7), 16);
        let mut framed = Vec::new();
        framing::push_message(&mut framed, &message);
        link.send.write_all(&framed).await.unwrap();
        link.ear.hear().await
    });
    assert!(outcome.is_err());
}

#[test]
fn idle_connections_are_all_there() {
    let port = relay(2, Sockets::First);
    let sample = idle::measure(Wire::Relay, port, std::process::id(), 70, Duration::from_millis(50)).unwrap();
    assert_eq!(sample.disconnected, 0);
}
