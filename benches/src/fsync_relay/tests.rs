//! Against the load generator, the broker's own layout of a receipt, and peers that do not keep up.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use waspmq_core::MessageId;
use waspmq_protocol::server::{Frame, Receipt};
use waspmq_protocol::{Profile, encode};

use super::desk::{Committer, Peer, Records, lay_out_receipt};
use super::*;
use crate::commit::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use crate::exchange::{self, Interval, Plan};
use crate::poll::{self, Poller};
use crate::scrape::{self, Buckets, COMMITS};
use crate::talk::{Dialect, Level};
use crate::wire::Wire;

const DIALECT: Dialect = Dialect::Waspmq { level: Level::Stored, batch: false };

/// Serves on free ports until the test process ends: clients, figures.
fn started(threads: usize, file: File) -> (u16, u16) {
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners = bind((Ipv4Addr::LOCALHOST, 0).into(), threads).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let ports = (port(&listeners[0]), port(&admin));
    thread::spawn(move || serve(listeners, admin, file));
    ports
}

fn plan(port: u16, window: u16) -> Plan {
    Plan {
        dialect: DIALECT,
        port,
        pid: std::process::id(),
        addresses: (0..5).map(|i| vec![DIALECT.address(i)]).collect(),
        receivers: false,
        window,
        refill_at: window - 1,
        payload_bytes: 128,
    }
}

#[test]
fn what_the_generator_publishes_is_on_disk_and_acknowledged_once() {
    let interval =
        Interval { warm_up: Duration::from_millis(20), measure: Duration::from_millis(100), bytes_min: 0 };
    for (threads, window) in [(1, 1), (2, 1), (2, 64), (3, 400)] {
        let file = tempfile::tempfile().unwrap();
        let (port, admin) = started(threads, file.try_clone().unwrap());
        let outcome = exchange::run(&plan(port, window), interval, || Ok(())).unwrap();
        assert!(outcome.sample.is_clean(), "{threads} {window}: {outcome:?}");
        let written = file.metadata().unwrap().size();
        assert!(written >= outcome.sample.deliveries * 192, "{written} bytes, {outcome:?}");
        assert_eq!(written % 192, 0, "128 of payload and 64 of header");
        let figures = Buckets::parse(&scrape::get(admin, "/metrics").unwrap(), COMMITS).unwrap().figures();
        assert!(figures.count > 0 && figures.p99_us > 0.0, "{figures:?}");
    }
}

#[test]
fn a_receipt_is_the_brokers_but_for_its_id() {
    for reference in [0, 250, 251, 4095, 65_535, 65_536, u64::MAX] {
        let (mut own, mut brokers) = (Vec::new(), Vec::new());
        lay_out_receipt(&mut own, reference);
        let (id, level) = (MessageId::new(0, 0, 0, 0), waspmq_protocol::Level::Stored);
        let receipt = Receipt { reference, id, level, recipients: 1 };
        encode::control(Profile::Binary, &Frame::Receipt(receipt), &mut brokers);
        for frame in [&mut own, &mut brokers] {
            let id_at = frame.len() - 18;
            frame[id_at..id_at + 16].fill(0);
        }
        assert_eq!(own, brokers, "{reference}");
    }
}

/// Two ends of one connection, the first as a peer of nobody's poller.
fn connection() -> (Arc<Peer>, TcpStream, Arc<Poller>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    let poller = Arc::new(Poller::new().unwrap());
    poller.add(&near, 7).unwrap();
    (Arc::new(Peer::new(near, poller.clone(), 7)), far, poller)
}

#[test]
fn nothing_is_acknowledged_before_it_is_committed() {
    let (peer, mut far, _poller) = connection();
    let (desk, mut records) = (Desk::default(), Records::default());
    let mut file = tempfile::tempfile().unwrap();
    for reference in 0..3 {
        records.push(&peer, reference, b"payload");
    }
    desk.hand_over(&mut records);
    assert!(records.is_empty());
    far.set_nonblocking(true).unwrap();
    assert_eq!(far.read(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    desk.commit_batch(&mut file, &mut Committer::default()).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 3 * 71);
    far.set_nonblocking(false).unwrap();
    let mut receipts = [0; 3 * 27];
    far.read_exact(&mut receipts).unwrap();
    let references: Vec<u8> = receipts.chunks(27).map(|receipt| receipt[8]).collect();
    assert_eq!(references, [0, 1, 2]);
}

#[test]
fn a_batch_is_bounded_in_records_and_in_bytes() {
    let (peer, _far, _poller) = connection();
    let sizes = |count: u64, payload_bytes: usize| {
        let (desk, mut records) = (Desk::default(), Records::default());
        let mut file = tempfile::tempfile().unwrap();
        (0..count).for_each(|i| records.push(&peer, i, &vec![0; payload_bytes]));
        desk.hand_over(&mut records);
        let mut sizes = Vec::new();
        let mut committer = Committer::default();
        let all = count * (payload_bytes as u64 + 64);
        while sizes.iter().sum::<u64>() < all {
            let before = file.metadata().unwrap().size();
            desk.commit_batch(&mut file, &mut committer).unwrap();
            sizes.push(file.metadata().unwrap().size() - before);
        }
        sizes
    };
    assert_eq!(sizes(2_100, 0), [1_000, 1_000, 100].map(|records| records * 64));
    assert_eq!(BATCH_RECORDS_MAX, 1_000);
    assert_eq!(sizes(105, 9_936), [104, 1].map(|records| records * 10_000), "1 MiB holds 104 of them");
    assert_eq!(sizes(2, BATCH_BYTES_MAX), [BATCH_BYTES_MAX as u64 + 64; 2], "larger than a batch");
}

#[test]
fn a_full_socket_keeps_its_receipts_until_there_is_room() {
    const PIECE: usize = 100_000;
    let (peer, mut far, poller) = connection();
    let mut sent = 0;
    // Until the kernel's buffers are full; a peer may leave more than one piece unread beyond them.
    loop {
        peer.push(|out| out.extend_from_slice(&[b'r'; PIECE]));
        sent += PIECE;
        peer.flush().unwrap();
        if !peer.push(|_| ()) {
            break;
        }
    }
    let reader = thread::spawn(move || {
        let mut received = vec![0; sent];
        far.read_exact(&mut received).unwrap();
        received
    });
    let start = Instant::now();
    let mut events = Vec::new();
    while !peer.push(|_| ()) {
        poller.wait(&mut events, Some(Duration::from_secs(1))).unwrap();
        if events.iter().any(poll::is_writable) {
            peer.flush().unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    assert!(reader.join().unwrap().iter().all(|&byte| byte == b'r'));
}

#[test]
fn a_peer_that_leaves_too_much_unread_is_disconnected() {
    let (peer, mut far, _poller) = connection();
    let (desk, mut records) = (Desk::default(), Records::default());
    // More than the kernel's buffers and the bound together.
    peer.push(|out| out.resize(64 * 1024 * 1024, b'r'));
    records.push(&peer, 1, b"payload");
    desk.hand_over(&mut records);
    desk.commit_batch(&mut tempfile::tempfile().unwrap(), &mut Committer::default()).unwrap();
    let mut read = Vec::new();
    far.read_to_end(&mut read).unwrap();
    assert!(!read.is_empty() && read.iter().all(|&byte| byte == b'r'), "the end comes after what was sent");
    assert_eq!(peer.flush().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn what_is_not_understood_ends_the_connection() {
    let (port, _) = started(1, tempfile::tempfile().unwrap());
    let accepted = Dialect::Waspmq { level: Level::Accepted, batch: false };
    let foreign = accepted.publishes(0, "user/r0", 16).frames(&[0]).to_vec();
    let subscribe = Wire::Binary.subscribe(crate::wire::Target::Topic);
    let unmasked = [&b"\x82\x06"[..], &[2, 1, 0, 0, 0, 0]].concat();
    for bytes in
        [foreign, subscribe, unmasked, vec![0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        let (mut stream, _) = DIALECT.publisher(port, 0).unwrap();
        stream.write_all(&bytes).unwrap();
        let end = stream.read(&mut [0; 100]);
        let is_reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(is_reset), "{bytes:?}: {end:?}");
    }
}

#[test]
fn a_disk_that_fails_ends_the_committer() {
    let (peer, _far, _poller) = connection();
    let (desk, mut records) = (Desk::default(), Records::default());
    records.push(&peer, 1, b"payload");
    desk.hand_over(&mut records);
    // Opened for reading alone.
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = desk.commit(File::open(file.path()).unwrap()).unwrap_err();
    assert!(format!("{error:#}").contains("committing a batch"), "{error:#}");
}

#[test]
fn a_relay_thread_that_ends_ends_the_committer() {
    let desk = Arc::new(Desk::default());
    let told = desk.clone();
    let thread = thread::spawn(move || told.commit(tempfile::tempfile().unwrap()));
    desk.fail(anyhow::anyhow!("no more epoll"));
    assert_eq!(thread.join().unwrap().unwrap_err().to_string(), "no more epoll");
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let first = bind((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
    assert_eq!(first[0].local_addr().unwrap(), first[1].local_addr().unwrap());
    assert_eq!(bind(first[0].local_addr().unwrap(), 2).unwrap_err().kind(), ErrorKind::AddrInUse);
}
