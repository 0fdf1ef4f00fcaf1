//! Compressed WebSocket messages: any bytes are handled, within the limit of a message, and how a stream is cut into
//! reads changes nothing; and what the broker compresses is read back.
//!
//! The first byte is the length of all reads but the last of the second pass (0: one byte each). The second has the
//! form of the rest: frames as they are, or (bit 0) the compressed payload of a message, a text (bit 1) or not, in two
//! frames (bit 2) or one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waspmq_transport::websocket::{Decoder, Deflater, Event, Inflater, Limits, Opcode};

const LIMITS: Limits = Limits { message_bytes_max: 20_000, fragments_max: 8, control_frames_max: 4 };

/// Every event of the stream, and the bytes left over at its end; a violation ends both.
fn events<'a>(reads: impl Iterator<Item = &'a [u8]>, inflater: &mut Inflater) -> (Vec<String>, usize) {
    let mut decoder = Decoder::new();
    let mut received = Vec::new();
    let mut events = Vec::new();
    for read in reads {
        received.extend_from_slice(read);
        let mut start = 0;
        loop {
            let decoded = match decoder.decode(&mut received[start..], Some(&mut *inflater), &LIMITS) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    events.push(format!("{violation:?}"));
                    return (events, 0);
                }
            };
            start += decoded.consumed;
            match decoded.event {
                Event::NeedMore { .. } => break,
                Event::Message { is_text, data, compressed_bytes } => {
                    assert!(data.len() <= LIMITS.message_bytes_max);
                    assert!(!is_text || std::str::from_utf8(&data).is_ok());
                    // Borrowed or owned must not show.
                    events.push(format!("message {is_text} {compressed_bytes:?} {:?}", &data[..]));
                }
                event => events.push(format!("{event:?}")),
            }
        }
        received.drain(..start);
    }
    assert!(inflater.held_bytes() <= LIMITS.message_bytes_max + 1);
    (events, received.len())
}

/// A client's frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let opcode = if first & 0xf == 1 { Opcode::Text } else { Opcode::Binary };
    waspmq_transport::websocket::write_header(opcode, payload.len(), &mut frame);
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fuzz_target!(|input: &[u8]| {
    let &[length, form, ref rest @ ..] = input else { return };
    let opcode = if form & 2 == 0 { 2 } else { 1 };
    let stream = match form & 5 {
        1 => frame(0xc0 | opcode, rest),
        5 => {
            let (first, last) = rest.split_at(rest.len() / 2);
            [frame(0x40 | opcode, first), frame(0x80, last)].concat()
        }
        _ => rest.to_vec(),
    };
    let mut inflater = Inflater::default();
    let whole = events(std::iter::once(&stream[..]), &mut inflater);
    assert_eq!(events(stream.chunks(usize::from(length).max(1)), &mut inflater), whole);

    let plain = &rest[..rest.len().min(LIMITS.message_bytes_max)];
    let mut written = Vec::new();
    Deflater::new(form >> 4).write_frame(Opcode::Binary, plain, &mut written);
    let header_bytes = match written[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    let read = events(std::iter::once(&frame(0xc2, &written[header_bytes..])[..]), &mut inflater);
    let compressed_bytes = Some(written.len() - header_bytes);
    assert_eq!(read, (vec![format!("message false {compressed_bytes:?} {plain:?}")], 0));
});
