//! Against `waspmq-protocol`: what is sent is understood there, what it lays out is understood here.

use waspmq_core::{Code, MessageId, Position, Reject, Stream};
use waspmq_protocol::client::{Acked, Frame};
use waspmq_protocol::server::{self, MessageFrame};
use waspmq_protocol::{Content, HeaderBlock, Profile, decode, encode};

use super::*;
use crate::ws::Head;

/// The payload of the first of `frames`, and the rest.
fn unmasked(frames: &[u8]) -> (Vec<u8>, &[u8]) {
    let head = Head::parse(frames).unwrap().unwrap();
    let (frame, rest) = frames.split_at(head.frame_bytes());
    let mut payload = frame[head.header_bytes..].to_vec();
    ws::apply_mask(&mut payload, head.mask.unwrap());
    (payload, rest)
}

fn wrapped(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| ws::push_frame(&mut out, ws::BINARY, None, frame));
    out
}

/// A message frame as the broker lays it out; it wants an ack or is a redelivery if `flags` say so.
fn message_frame(to: &str, epoch: u32, offset: u64, flags: u16) -> Vec<u8> {
    let message = MessageFrame {
        id: MessageId::new(1_790_000_000_000, 1, 0, offset),
        to,
        from: Some("s0"),
        position: Position { stream: Stream { shard: 3, epoch }, offset },
        content: Content::Bytes,
        payload: b"payload",
        packed: None,
        headers: HeaderBlock::EMPTY,
        key: None,
        priority: 0,
        reply_to: None,
        queue: None,
        attempt: (flags & ATTEMPT != 0).then_some(2),
        unix_ms: 1_790_000_000_000,
        wants_ack: flags & ACK_WANTED != 0,
    };
    let mut frame = Vec::new();
    encode::message(Profile::Binary, &message, &mut frame);
    frame
}

fn control(frame: &server::Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::control(Profile::Binary, frame, &mut bytes);
    bytes
}

fn heard(frames: &[Vec<u8>]) -> (Vec<Heard>, Vec<u8>) {
    let (mut seen, mut out) = (Vec::new(), Vec::new());
    let bytes = wrapped(frames);
    assert_eq!(hear(Level::Stored, &bytes, &mut out, |heard| seen.push(heard)), Ok(bytes.len()));
    (seen, out)
}

#[test]
fn publishes_carry_level_reference_and_payload() {
    for level in [Level::Accepted, Level::Stored, Level::Delivered] {
        for payload in [vec![b'y'; 3], vec![b'y'; 128], vec![b'y'; 70_000]] {
            let mut publishes = publishes(level, "user/r9", &payload);
            let one = publishes.frame_bytes;
            let sent = publishes.frames(&[63, 300]).to_vec();
            let (first, rest) = unmasked(&sent);
            let frames = if publishes.copies() == 1 {
                vec![(63, first)]
            } else {
                vec![(63, first), (300, unmasked(rest).0)]
            };
            for (slot, frame) in &frames {
                let Frame::Publish(publish) = decode::binary(frame).unwrap() else { panic!("{frame:?}") };
                assert_eq!((publish.reference, publish.to.as_ref()), (Some(*slot), "user/r9"));
                assert_eq!(
                    (publish.ack.as_u8(), publish.payload.as_ref()),
                    (level as u8, payload.as_slice())
                );
            }
            assert_eq!(sent.len(), one * frames.len());
        }
    }
}

#[test]
fn publishes_without_a_receipt_carry_no_reference() {
    let mut publishes = publishes(Level::None, "user/r9", b"abc");
    let (frame, _) = unmasked(publishes.frames(&[5]));
    let Frame::Publish(publish) = decode::binary(&frame).unwrap() else { panic!("{frame:?}") };
    assert_eq!((publish.reference, publish.ack), (None, waspmq_protocol::Level::None));
}

#[test]
fn one_read_is_acknowledged_once_per_address_and_stream() {
    let frames = [
        message_frame("user/x", 1, 5, ACK_WANTED),
        message_frame("user/x", 1, 9, ACK_WANTED | ATTEMPT),
        message_frame("user/x", 1, 11, 0),
        message_frame("user/x", 2, 1, ACK_WANTED),
        message_frame("user/y", 2, 7, ACK_WANTED),
    ];
    let (seen, out) = heard(&frames);
    let message = |repeat| Heard::Message { repeat };
    assert_eq!(seen, [message(false), message(true), message(false), message(false), message(false)]);
    let mut acked = Vec::new();
    let mut rest = out.as_slice();
    while !rest.is_empty() {
        let (frame, after) = unmasked(rest);
        let Frame::Ack { reference: None, what: Acked::UpTo { to, upto }, queue: None } =
            decode::binary(&frame).unwrap()
        else {
            panic!("{frame:?}")
        };
        acked.push(format!("{to} {upto}"));
        rest = after;
    }
    assert_eq!(acked, ["user/x s3e1:9", "user/x s3e2:1", "user/y s3e2:7"]);
}

#[test]
fn messages_that_want_no_ack_get_none() {
    assert_eq!(
        heard(&[message_frame("user/x", 1, 5, 0)]),
        (vec![Heard::Message { repeat: false }], Vec::new())
    );
}

#[test]
fn receipts_name_their_slot_and_reach_the_level() {
    let receipt = |reference, level| {
        let id = MessageId::new(1, 1, 0, 1);
        control(&server::Frame::Receipt(server::Receipt { reference, id, level, recipients: 300 }))
    };
    let stored = waspmq_protocol::Level::Stored;
    for slot in [0, 63, 250, 251, 65_535] {
        assert_eq!(heard(&[receipt(slot, stored)]).0, [Heard::Receipt(slot)]);
    }
    let delivered = waspmq_protocol::Level::Delivered;
    assert_eq!(heard(&[receipt(1, delivered)]).0, [Heard::Receipt(1)], "more than was asked");
    let lower = heard(&[receipt(1, waspmq_protocol::Level::Accepted)]).0;
    assert!(matches!(lower.as_slice(), [Heard::Complaint(_)]), "{lower:?}");
}

#[test]
fn errors_are_told_in_words() {
    for reference in [None, Some(7), Some(70_000)] {
        let reject = Reject::new(Code::NotSupported, "level stored is not built");
        let (seen, _) = heard(&[control(&server::Frame::Error { reference, reject })]);
        let words = "error 1501 not_supported: level stored is not built".to_owned();
        assert_eq!(seen, [Heard::Complaint(words)]);
    }
    let late = Reject::new(Code::NotInFlight, "nothing to acknowledge");
    let late = heard(&[control(&server::Frame::Error { reference: None, reject: late })]).0;
    assert_eq!(late, [Heard::LateAck]);
    for slot in [7, 70_000] {
        let full = Reject::new(Code::Overloaded, "full").retry_after(300);
        let (seen, _) = heard(&[control(&server::Frame::Error { reference: Some(slot), reject: full })]);
        let words = "error 1503 overloaded: full".to_owned();
        assert_eq!(seen, [Heard::Overloaded { slot, retry_ms: 300, words }]);
    }
    let cut = heard(&[vec![0x85, 1, 1, 0, 0, 0, 1]]).0;
    assert!(matches!(cut.as_slice(), [Heard::Complaint(_)]), "{cut:?}");
    let (seen, _) = heard(&[control(&server::Frame::Pong), vec![0x90, 1, 0, 0, 0, 0]]);
    assert!(
        matches!(seen.as_slice(), [Heard::Complaint(_)]),
        "a pong is nothing, an unknown type is: {seen:?}"
    );
}
