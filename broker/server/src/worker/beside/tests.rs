//! What is laid out to leave the stream.

use super::super::delivery::tests::Bench;
use super::super::framing::Framing;
use super::super::segment::{Encoding, Terms, Told};
use super::*;
use std::sync::Arc;
use waspmq_core::Position;
use waspmq_core::compression::Codecs;
use waspmq_core::outbound::Segment as _;
use waspmq_core::settings::{Keep, Overflow};
use waspmq_protocol::Profile;
use waspmq_protocol::server::Received;
use waspmq_protocol::stream;

const ASKED: Encoding = Encoding {
    framing: Framing::Stream,
    profile: Profile::Binary,
    batch: true,
    codecs: Codecs::NONE,
    beside: Asked { datagrams: true, streams: false },
};

const BOTH: Encoding = Encoding { beside: Asked { datagrams: true, streams: true }, ..ASKED };

type Laid = (Option<Beside>, u32, Position);

/// Of each segment: how it may leave the stream, how many messages it has, and where the first one says it is.
fn segments(bench: &mut Bench, batches: &[Arc<Batch>], encoding: Encoding) -> Vec<Laid> {
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
        assert!(first.is_some() || segment.segment().beside.is_some(), "its class has its position");
        assert_ne!(segment.class().first, Position::NONE);
        (segment.segment().beside, segment.frames(), message.position)
    };
    segments.iter().map(of).collect()
}

#[test]
fn what_may_be_lost_and_is_short_is_a_datagram_without_a_position() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let mut batch = |level| Arc::new(bench.batch("topic/t", level, &[("", 0, 0), ("", 0, 0)]));
    let [none, accepted, stored] = [Level::None, Level::Accepted, Level::Stored].map(&mut batch);
    let kept = Arc::new(Batch { is_kept: true, ..(*batch(Level::None)).clone() });
    let datagram = (Some(Beside::Datagram), 1, Position::NONE);
    let mut check = |batch: &Arc<Batch>, encoding, expected: &[Laid]| {
        assert_eq!(segments(&mut bench, std::slice::from_ref(batch), encoding), expected);
    };
    check(&none, ASKED, &[datagram, datagram]);
    check(&none, Encoding { beside: Asked::NOTHING, ..ASKED }, &[(None, 2, none.first)]);
    for other in [&accepted, &stored, &kept] {
        check(other, ASKED, &[(None, 2, other.first)]);
    }
    // Beside others each is still alone, and the others stay together.
    let run = [accepted.clone(), none, accepted.clone(), accepted.clone()];
    let together = [(None, 2, accepted.first), datagram, datagram, (None, 4, accepted.first)];
    assert_eq!(segments(&mut bench, &run, ASKED), together);
}

#[test]
fn what_fits_no_datagram_keeps_its_position() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let mut batch = bench.batch("topic/t", Level::None, &[("", 0, 0)]);
    let payload = batch.store(&[b'1'; QUIC_DATAGRAM_BYTES_MAX]);
    batch.messages[0].payload = payload;
    let first = batch.first;
    assert_eq!(segments(&mut bench, &[Arc::new(batch)], ASKED), [(None, 1, first)]);
}

#[test]
fn what_is_long_and_neither_kept_nor_acknowledged_has_a_stream_of_its_own() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let mut batch = |level, bytes: usize| {
        let mut batch = bench.batch("topic/t", level, &[("", 0, 0)]);
        let payload = batch.store(&vec![b'1'; bytes]);
        batch.messages[0].payload = payload;
        Arc::new(batch)
    };
    let long = [Level::None, Level::Accepted, Level::Stored, Level::Delivered]
        .map(|level| batch(level, LONG_FROM_BYTES));
    let short = batch(Level::Accepted, LONG_FROM_BYTES - 1);
    let kept = Arc::new(Batch { is_kept: true, ..(*long[1]).clone() });
    let mut laid = |batch: &Arc<Batch>, encoding| segments(&mut bench, std::slice::from_ref(batch), encoding);
    for (index, batch) in long.iter().enumerate() {
        let plain = vec![(None, 1, batch.first)];
        let beside = vec![(Some(Beside::Stream), 1, Position::NONE)];
        assert_eq!(laid(batch, BOTH), if index < 2 { beside } else { plain.clone() }, "{index}");
        assert_eq!(laid(batch, ASKED), plain, "{index}");
    }
    for batch in [short, kept] {
        assert_eq!(laid(&batch, BOTH), [(None, 1, batch.first)]);
    }
}
