//! What is laid out as a datagram.

use super::super::delivery::tests::Bench;
use super::super::framing::Framing;
use super::super::segment::{Terms, Told};
use super::*;
use std::sync::Arc;
use waspmq_core::Position;
use waspmq_core::compression::Codecs;
use waspmq_core::settings::{Keep, Overflow};
use waspmq_protocol::Profile;
use waspmq_protocol::server::Received;

const ASKED: Encoding = Encoding {
    framing: Framing::Stream,
    profile: Profile::Binary,
    batch: true,
    codecs: Codecs::NONE,
    datagrams: true,
};

/// Of each segment: whether it is a datagram, how many messages it has, and where the first one says it is.
fn segments(bench: &mut Bench, batches: &[Arc<Batch>], encoding: Encoding) -> Vec<(bool, u32, Position)> {
    let worker = &mut bench.worker;
    let terms = Terms { overflow: Overflow::DropOldest, is_decided: false, now_unix_ms: 0 };
    let dictionaries = &*worker.shared.dictionaries.load();
    let counters = &worker.shared.mailboxes.of(0).counters;
    let told = Told { policies: &mut worker.policies, dictionaries, counters };
    let mut segments = Vec::new();
    worker.encoder.begin_run();
    assert_eq!(worker.encoder.segments(batches, (encoding, terms), told, &mut segments), 0);
    let of = |segment: &Shared| {
        let (_, length_bytes) = stream::length(segment).unwrap();
        let (frame, _) = decode::server_binary(&segment[length_bytes..]).unwrap();
        let Received::Message(message) = frame else { panic!("{frame:?}") };
        let first = batches.iter().find(|batch| batch.first == segment.class().first);
        assert!(first.is_some() || segment.segment().is_datagram, "its class has its position");
        assert_ne!(segment.class().first, Position::NONE);
        (segment.segment().is_datagram, segment.frames(), message.position)
    };
    segments.iter().map(of).collect()
}

#[test]
fn what_may_be_lost_and_is_short_is_a_datagram_without_a_position() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let mut batch = |level| Arc::new(bench.batch("topic/t", level, &[("", 0, 0), ("", 0, 0)]));
    let [none, accepted, stored] = [Level::None, Level::Accepted, Level::Stored].map(&mut batch);
    let kept = Arc::new(Batch { is_kept: true, ..(*batch(Level::None)).clone() });
    let datagram = (true, 1, Position::NONE);
    let mut check = |batch: &Arc<Batch>, encoding, expected: &[(bool, u32, Position)]| {
        assert_eq!(segments(&mut bench, std::slice::from_ref(batch), encoding), expected);
    };
    check(&none, ASKED, &[datagram, datagram]);
    check(&none, Encoding { datagrams: false, ..ASKED }, &[(false, 2, none.first)]);
    for other in [&accepted, &stored, &kept] {
        check(other, ASKED, &[(false, 2, other.first)]);
    }
    // Beside others each is still alone, and the others stay together.
    let run = [accepted.clone(), none, accepted.clone(), accepted.clone()];
    let together = [(false, 2, accepted.first), datagram, datagram, (false, 4, accepted.first)];
    assert_eq!(segments(&mut bench, &run, ASKED), together);
}

#[test]
fn what_fits_no_datagram_keeps_its_position() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let mut batch = bench.batch("topic/t", Level::None, &[("", 0, 0)]);
    let payload = batch.store(&[b'1'; QUIC_DATAGRAM_BYTES_MAX]);
    batch.messages[0].payload = payload;
    let first = batch.first;
    assert_eq!(segments(&mut bench, &[Arc::new(batch)], ASKED), [(false, 1, first)]);
}
