//! What peers of TLS cost a worker, on one without a thread.

use super::*;
use crate::admin::tests::control;
use crate::worker::delivery::tests::Bench;
use crate::worker::inbound::{Next, STRANGERS_DIVISOR, after_read};
use crate::worker::lifecycle::Way;
use std::net::{TcpListener, TcpStream as Client};
use waspmq_core::settings::{Keep, Overflow};
use waspmq_transport::tls::{Credentials, self_signed};

fn bench() -> Bench {
    Bench::of(control(), (Overflow::DropOldest, Keep::Always), 1_000)
}

fn credentials() -> Credentials {
    let made = self_signed(&["localhost".to_owned()], 1_800_000_000).unwrap();
    Credentials::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap()
}

/// A connection that has said nothing yet, and its peer's end.
fn open(bench: &mut Bench, credentials: &Credentials) -> (u32, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, remote) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let _guard = bench.runtime.enter();
    let link = Link::Tcp(Rc::new(tokio::net::TcpStream::from_std(stream).unwrap()));
    (bench.worker.open((link, remote), Way::Socket(Some(Box::new(credentials.accept().unwrap())))), client)
}

/// The beginning of a handshake message of 60,000 bytes.
fn half_a_handshake(bytes: usize) -> Vec<u8> {
    let message: Vec<u8> = [1, 0, 0xea, 0x60].into_iter().chain(std::iter::repeat_n(0, bytes)).collect();
    let record =
        |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(16 * 1024).flat_map(record).collect()
}

/// Reads until the socket is empty or the connection is gone.
fn read(bench: &mut Bench, number: u32) {
    let link = bench.worker.connections[number as usize].as_ref().unwrap().link.clone();
    bench.runtime.block_on(link.readable()).unwrap();
    while !matches!(bench.worker.on_readable(number, &link), Next::Read | Next::Gone | Next::Ended) {
        bench.worker.handshakes.begin_turn();
    }
}

fn is_closing(bench: &Bench, number: u32) -> bool {
    bench.worker.connections[number as usize].as_ref().unwrap().is_closing()
}

#[test]
fn handshakes_that_stop_halfway_are_within_the_workers_bound() {
    let (mut bench, credentials) = (bench(), credentials());
    let (quiet, mut quiet_client) = open(&mut bench, &credentials);
    quiet_client.write_all(&half_a_handshake(1_000)).unwrap();
    read(&mut bench, quiet);
    let most = bench.worker.shared.settings.inbound_bytes_max / STRANGERS_DIVISOR;
    let mut others: Vec<_> = (0..20).map(|_| open(&mut bench, &credentials)).collect();
    for (number, client) in &mut others {
        client.write_all(&half_a_handshake(40_000)).unwrap();
        read(&mut bench, *number);
    }
    let closed = others.iter().filter(|(number, _)| is_closing(&bench, *number)).count();
    assert_eq!(closed, 20 - most / 40_000, "those that no longer fit");
    // One that holds little is left alone, however full it is.
    quiet_client.write_all(&half_a_handshake(1_000)).unwrap();
    read(&mut bench, quiet);
    assert!(!is_closing(&bench, quiet));
    assert_eq!(bench.worker.counters().closed(Ended::Overloaded).load(), 0, "they are counted at their end");
    for number in others.iter().map(|(number, _)| *number).chain([quiet]) {
        bench.worker.remove(number);
    }
    assert_eq!(bench.worker.held_bytes, 0);
    assert_eq!(bench.worker.counters().closed(Ended::Overloaded).load(), closed as u64);
}

#[test]
fn so_many_handshakes_go_on_in_one_turn() {
    let (mut bench, credentials) = (bench(), credentials());
    let mut open: Vec<_> = (0..HANDSHAKES_PER_TURN + 3).map(|_| open(&mut bench, &credentials)).collect();
    let mut turn = |bench: &mut Bench| {
        let heard = |bench: &Bench, number: u32| {
            bench.worker.connections[number as usize].as_ref().unwrap().held_bytes > 0
        };
        for (number, client) in &mut open {
            if !heard(bench, *number) {
                client.write_all(&half_a_handshake(100)).unwrap();
                let link = bench.worker.connections[*number as usize].as_ref().unwrap().link.clone();
                bench.runtime.block_on(link.readable()).unwrap();
                bench.worker.on_readable(*number, &link);
            }
        }
        open.iter().filter(|(number, _)| heard(bench, *number)).count()
    };
    assert_eq!(turn(&mut bench), HANDSHAKES_PER_TURN);
    assert_eq!(turn(&mut bench), HANDSHAKES_PER_TURN, "the turn is not over");
    bench.worker.handshakes.begin_turn();
    assert_eq!(turn(&mut bench), HANDSHAKES_PER_TURN + 3);
}

#[test]
fn a_read_that_may_leave_something_lets_others_run_before_the_next() {
    let mut bench = bench();
    let (number, _client) = open(&mut bench, &credentials());
    let mut connection = bench.worker.connections[number as usize].take().unwrap();
    assert_eq!(after_read(&connection, false), Next::Unread);
    assert_eq!(after_read(&connection, true), Next::Yield);
    let mut end = |kind: ErrorKind| bench.worker.take_end(&mut connection, Err(kind.into()));
    assert_eq!(end(ErrorKind::Interrupted), Next::Yield);
    assert_eq!(end(ErrorKind::WouldBlock), Next::Read);
}
