//! Binary frames from a peer, in both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waspmq_protocol::client::Frame;
use waspmq_protocol::server::{HistoryHead, Message, MessageFrame, Received};
use waspmq_protocol::{EncodeError, HeaderBlock, Profile, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let frames: Vec<_> = decode::binary_frames(bytes).collect();
    for frame in frames.iter().flatten() {
        survives(frame);
    }
    if let Ok(alone) = decode::binary(bytes) {
        assert_eq!(frames, [Ok(alone)]);
    }
    let mut rest = bytes;
    while let Ok((received, consumed)) = decode::server_binary(rest) {
        assert!(consumed > 0, "a frame takes bytes");
        match &received {
            Received::Message(message) => message_survives(message),
            Received::History(history) => {
                history.messages.iter().for_each(message_survives);
                let head = HistoryHead {
                    reference: history.reference,
                    of: &history.of,
                    more: history.more,
                    gap: history.gap,
                    unread: history.unread,
                };
                let blocks: Vec<_> = history.messages.iter().map(block).collect();
                let messages =
                    history.messages.iter().zip(&blocks).map(|(message, block)| frame(message, block));
                let mut out = Vec::new();
                encode::history(Profile::Binary, &head, messages, &mut out);
                let (again, consumed) = decode::server_binary(&out).expect("it was encoded here");
                assert_eq!((&again, consumed), (&received, out.len()));
            }
            _ => {}
        }
        rest = &rest[consumed..];
    }
});

fn survives(frame: &Frame<'_>) {
    for profile in Profile::ALL {
        let mut out = Vec::new();
        let encoded = encode::client(profile, frame, &mut out);
        // What is compressed is no text.
        if profile == Profile::Json && matches!(frame, Frame::Publish(publish) if publish.packed.is_some()) {
            assert_eq!(encoded, Err(EncodeError::PackedText));
            continue;
        }
        encoded.expect("what was decoded is within bounds");
        let again = match profile {
            Profile::Json => decode::json(&out),
            Profile::Binary => decode::binary(&out),
        };
        assert_eq!(again.as_ref(), Ok(frame), "{profile:?}");
    }
}

/// A message that a client accepted is encoded again as the broker would, and read as the same message.
fn message_survives(message: &Message) {
    let mut out = Vec::new();
    encode::message(Profile::Binary, &frame(message, &block(message)), &mut out);
    let (again, consumed) = decode::server_binary(&out).expect("it was encoded here");
    assert_eq!((again, consumed), (Received::Message(message.clone()), out.len()));
}

fn block(message: &Message) -> Vec<u8> {
    let mut block = Vec::new();
    HeaderBlock::encode(&message.headers, &mut block).expect("headers were checked");
    block
}

fn frame<'a>(message: &'a Message, block: &'a [u8]) -> MessageFrame<'a> {
    MessageFrame {
        id: message.id,
        to: &message.to,
        from: message.from.as_deref(),
        position: message.position,
        content: message.content,
        payload: &message.payload,
        packed: message.packed,
        headers: HeaderBlock::from_encoded(block),
        key: message.key.as_deref(),
        priority: message.priority,
        reply_to: message.reply_to.as_deref(),
        queue: message.queue.as_deref(),
        attempt: message.attempt,
        wants_ack: message.wants_ack,
        unix_ms: message.unix_ms,
    }
}
