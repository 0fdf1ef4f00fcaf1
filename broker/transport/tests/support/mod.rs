//! A client's frames, and the decoder driven as a reader drives it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses another part, and a failure fails the test"
)]

use std::borrow::Cow;

use waspmq_transport::websocket::{Decoder, Deflater, Event, Inflater, Limits, Opcode, Violation};

/// One step of a connection, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    Failed(Violation),
}

pub(crate) const FIN: u8 = 0x80;
pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame; `first` is the whole first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A close frame's payload.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

pub(crate) fn seen(event: Event<'_>) -> Option<Seen> {
    Some(match event {
        Event::Message { is_text: true, data, .. } => {
            Seen::Text(String::from_utf8(data.into_owned()).unwrap())
        }
        Event::Message { is_text: false, data, .. } => Seen::Binary(data.into_owned()),
        Event::Ping(payload) => Seen::Ping(payload.to_vec()),
        Event::Pong(payload) => Seen::Pong(payload.to_vec()),
        Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
        Event::NeedMore { .. } => return None,
    })
}

/// All events of a stream that arrives in `reads`, and how many bytes were left over at its end.
pub(crate) fn decode_reads<'a>(
    reads: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<Seen>, usize) {
    decode_reads_with(reads, None, limits)
}

/// As [`decode_reads`]; with an inflater, permessage-deflate was negotiated.
pub(crate) fn decode_reads_with<'a>(
    reads: impl IntoIterator<Item = &'a [u8]>,
    mut inflater: Option<&mut Inflater>,
    limits: &Limits,
) -> (Vec<Seen>, usize) {
    let mut decoder = Decoder::new();
    let mut buffer = Vec::new();
    let mut events = Vec::new();
    for read in reads {
        buffer.extend_from_slice(read);
        let mut start = 0;
        loop {
            let decoded = match decoder.decode(&mut buffer[start..], inflater.as_deref_mut(), limits) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    assert!(decoder.is_finished());
                    events.push(Seen::Failed(violation));
                    return (events, 0);
                }
            };
            start += decoded.consumed;
            if let Event::Message { data: Cow::Owned(_), .. } = decoded.event {
                assert_eq!(decoder.held_bytes(), 0, "a message's fragments go with it");
            }
            let Event::NeedMore { at_least } = decoded.event else {
                events.extend(seen(decoded.event));
                continue;
            };
            let rest = buffer.len() - start;
            assert!(at_least > rest || decoder.is_finished(), "{at_least} bytes are here: {rest}");
            break;
        }
        buffer.drain(..start);
    }
    (events, buffer.len())
}

/// As one read, which must equal the same bytes one at a time.
pub(crate) fn decode_all(bytes: &[u8], limits: &Limits) -> Vec<Seen> {
    let whole = decode_reads([bytes], limits);
    let single = decode_reads(bytes.chunks(1), limits);
    assert_eq!(whole, single, "{bytes:x?}");
    whole.0
}

/// The same where permessage-deflate was negotiated.
pub(crate) fn decode_all_deflate(bytes: &[u8], limits: &Limits) -> Vec<Seen> {
    let mut inflater = Inflater::default();
    let whole = decode_reads_with([bytes], Some(&mut inflater), limits);
    let single = decode_reads_with(bytes.chunks(1), Some(&mut inflater), limits);
    assert_eq!(whole, single, "{bytes:x?}");
    whole.0
}

/// The payload of a compressed message, as a client makes it: whole blocks without what ends a flush.
pub(crate) fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Deflater::new(9).write_frame(Opcode::Binary, plain, &mut frame);
    payload_of(&frame).to_vec()
}

/// The payload of a frame without a mask.
pub(crate) fn payload_of(frame: &[u8]) -> &[u8] {
    let header_bytes = match frame[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    &frame[header_bytes..]
}
