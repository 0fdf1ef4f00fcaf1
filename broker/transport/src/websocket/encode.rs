//! Frames from the broker: unmasked, whole, with the shortest length (RFC 6455, 5.1 and 5.2).
//!
//! Everything is appended to the caller's `Vec`; the bytes depend on nothing but the arguments. Messages are never
//! fragmented here: a shared frame is complete before anyone sends it.

use super::header::COMPRESSED_BIT;
use super::{Opcode, close_code};
use crate::limits::CONTROL_BYTES_MAX;

/// Bytes of the longest header.
pub const HEADER_MAX: usize = 10;

/// Bytes that [`begin_frame`] reserves: right for payloads of 126 bytes to 64 KiB, which then stay in place.
const RESERVED_BYTES: usize = 4;

/// A frame whose payload is being appended; [`end_frame`] takes it back.
#[derive(Debug)]
#[must_use = "a frame that is not ended has no header"]
pub struct FrameStart(usize);

/// Bytes of the header in front of a payload of `payload_bytes`: 2, 4 or 10.
pub const fn header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => HEADER_MAX,
    }
}

/// Appends the header of a whole message or control frame.
pub fn write_header(opcode: Opcode, payload_bytes: usize, out: &mut Vec<u8>) {
    let (header, header_bytes) = header(opcode, payload_bytes);
    out.extend_from_slice(&header[..header_bytes]);
}

/// Appends a whole frame.
pub fn write_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(header_bytes(payload.len()) + payload.len());
    write_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Leaves room for a header at the end of `out`; what is appended until [`end_frame`] is the payload.
pub fn begin_frame(out: &mut Vec<u8>) -> FrameStart {
    let start = FrameStart(out.len());
    out.extend_from_slice(&[0; RESERVED_BYTES]);
    start
}

/// Writes the header in front of what was appended since `start`. Moves the payload by 2 or 6 bytes when it is
/// shorter than 126 bytes or longer than 64 KiB.
///
/// # Panics
/// When `out` is not the buffer `start` came from, or was cut below it.
pub fn end_frame(out: &mut Vec<u8>, start: FrameStart, opcode: Opcode) {
    let FrameStart(start) = start;
    let payload = start + RESERVED_BYTES..out.len();
    assert!(payload.start <= payload.end, "the frame's room for a header is gone");
    let (header, header_bytes) = header(opcode, payload.len());
    let frame_end = start + header_bytes + payload.len();
    if frame_end > out.len() {
        out.resize(frame_end, 0);
    }
    if header_bytes != RESERVED_BYTES {
        out.copy_within(payload, start + header_bytes);
        out.truncate(frame_end);
    }
    out[start..start + header_bytes].copy_from_slice(&header[..header_bytes]);
}

/// What was appended since `start`.
///
/// # Panics
/// As [`end_frame`].
pub(super) fn open_payload<'o>(out: &'o [u8], start: &FrameStart) -> &'o [u8] {
    let payload = out.get(start.0 + RESERVED_BYTES..);
    assert!(payload.is_some(), "the frame's room for a header is gone");
    payload.unwrap_or_default()
}

/// Ends the frame begun at `start` as a compressed one, with another payload than was appended.
pub(super) fn replace_frame(out: &mut Vec<u8>, start: FrameStart, (opcode, compressed): (Opcode, &[u8])) {
    let FrameStart(start) = start;
    out.truncate(start);
    write_compressed(opcode, compressed, out);
}

/// Appends a whole frame with a compressed payload.
pub(super) fn write_compressed(opcode: Opcode, compressed: &[u8], out: &mut Vec<u8>) {
    let (mut header, header_bytes) = header(opcode, compressed.len());
    header[0] |= COMPRESSED_BIT;
    out.reserve(header_bytes + compressed.len());
    out.extend_from_slice(&header[..header_bytes]);
    out.extend_from_slice(compressed);
}

/// Appends a close frame. [`close_code::NO_STATUS`] gives one without a payload; a reason is cut to the 123 bytes
/// that fit, between characters.
///
/// # Panics
/// When `code` is another one that may not be sent: closing with it is the broker's own mistake.
pub fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    if code == close_code::NO_STATUS {
        return write_header(Opcode::Close, 0, out);
    }
    assert!(close_code::is_sendable(code), "close code {code} is not for the wire");
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    write_header(Opcode::Close, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a ping.
///
/// # Panics
/// When the payload is longer than 125 bytes.
pub fn write_ping(payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a ping of {} bytes", payload.len());
    write_frame(Opcode::Ping, payload, out);
}

/// Appends the answer to a ping with this payload.
///
/// # Panics
/// When the payload is longer than 125 bytes; a decoded ping's never is.
pub fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a pong of {} bytes", payload.len());
    write_frame(Opcode::Pong, payload, out);
}

/// The header in its first bytes, and how many of them it has.
#[expect(clippy::cast_possible_truncation, reason = "each arm holds only lengths that fit its field")]
const fn header(opcode: Opcode, payload_bytes: usize) -> ([u8; HEADER_MAX], usize) {
    let mut header = [0; HEADER_MAX];
    header[0] = 0x80 | opcode as u8;
    match payload_bytes {
        0..=125 => header[1] = payload_bytes as u8,
        126..=0xffff => {
            [header[2], header[3]] = (payload_bytes as u16).to_be_bytes();
            header[1] = 126;
        }
        _ => {
            let (_, length) = header.split_at_mut(2);
            length.copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            header[1] = 127;
        }
    }
    (header, header_bytes(payload_bytes))
}
