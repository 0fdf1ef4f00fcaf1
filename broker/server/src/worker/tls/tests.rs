//! What peers of TLS cost a worker, on one without a thread.

use super::*;
use crate::admin::tests::control;
use crate::worker::delivery::tests::Bench;
use crate::worker::inbound::{Next, after_read};
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
    let stream = TcpStream::from_std(stream).unwrap();
    (bench.worker.open((stream, remote), Some(Box::new(credentials.accept().unwrap()))), client)
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
