//! WebSocket frames: any bytes are handled, and how a stream is cut into reads changes nothing.
//!
//! The first byte is the length of all reads but the last of the second pass (0: one byte each).

#![no_main]

use libfuzzer_sys::fuzz_target;
use waspmq_transport::websocket::{Decoder, Event, Limits};

const LIMITS: Limits = Limits { message_bytes_max: 1_000, fragments_max: 8, control_frames_max: 4 };

/// Every event of the stream, and the bytes left over at its end; a violation ends both.
fn events<'a>(reads: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, usize) {
    let mut decoder = Decoder::new();
    let mut received = Vec::new();
    let mut events = Vec::new();
    for read in reads {
        received.extend_from_slice(read);
        let mut start = 0;
        loop {
            let decoded = match decoder.decode(&mut received[start..], None, &LIMITS) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    events.push(format!("{violation:?}"));
                    return (events, 0);
                }
            };
            start += decoded.consumed;
            match decoded.event {
                Event::NeedMore { at_least } => {
                    assert!(at_least > received.len() - start || decoder.is_finished());
                    break;
                }
                Event::Message { is_text, data, .. } => {
                    assert!(data.len() <= LIMITS.message_bytes_max);
                    assert!(!is_text || std::str::from_utf8(&data).is_ok());
                    // Borrowed or owned must not show.
                    events.push(format!("message {is_text} {:?}", &data[..]));
                }
                event => events.push(format!("{event:?}")),
            }
        }
        received.drain(..start);
        assert!(decoder.held_bytes() <= 2 * LIMITS.message_bytes_max);
    }
    (events, received.len())
}

fuzz_target!(|input: &[u8]| {
    let Some((&length, stream)) = input.split_first() else { return };
    let whole = events(std::iter::once(stream));
    assert_eq!(events(stream.chunks(usize::from(length).max(1))), whole);
});
