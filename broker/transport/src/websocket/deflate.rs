//! Plain messages to compressed ones (RFC 7692, 7.2.1).
//!
//! Invariants:
//! - A compressed frame is complete by itself: no context is taken over from the one before, so any number of
//!   connections share it, like a plain one.
//! - Its window is [`DEFLATE_WINDOW_BITS`] long, which every connection that negotiated has room for.

use flate2::{Compress, Compression, FlushCompress};

use super::Opcode;
use super::encode::{self, FrameStart};
use crate::limits::{DEFLATE_WINDOW_BITS, DEFLATED_KEPT_BYTES};

/// Compresses one message at a time, for all connections of a worker. Holds nothing before the first one.
#[derive(Debug)]
pub struct Deflater {
    level: Compression,
    state: Option<Compress>,
    /// As long as the longest message of late, and written over.
    compressed: Vec<u8>,
}

/// The end of every flushed stream, which the receiver adds by itself.
const TAIL_BYTES: usize = 4;

/// Bytes by which a stream may be longer than what it has: literals of nine bits at level 1, stored blocks at the
/// others, and for the rest the tail and the block before it.
const fn growth(plain_bytes: usize) -> usize {
    plain_bytes / 8 + 64
}

impl Deflater {
    /// `level` is from 1, the fastest, to 9, the smallest; more is 9, and 0 stores.
    pub fn new(level: u8) -> Self {
        let level = Compression::new(u32::from(level.min(9)));
        Self { level, state: None, compressed: Vec::new() }
    }

    /// As [`end_frame`](super::end_frame), but with the payload compressed where that makes it smaller: whether it
    /// was. The frame must go to connections that negotiated permessage-deflate alone if it was.
    ///
    /// # Panics
    /// When `out` is not the buffer `start` came from, or was cut below it.
    pub fn end_frame(&mut self, out: &mut Vec<u8>, start: FrameStart, opcode: Opcode) -> bool {
        let payload = encode::open_payload(out, &start);
        let Some(compressed) = self.deflate(payload).filter(|compressed| compressed.len() < payload.len())
        else {
            encode::end_frame(out, start, opcode);
            return false;
        };
        encode::replace_frame(out, start, (opcode, compressed));
        true
    }

    /// Appends a whole frame with `payload` compressed, even where that makes it longer.
    pub fn write_frame(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        match self.deflate(payload) {
            Some(compressed) => encode::write_compressed(opcode, compressed, out),
            None => encode::write_frame(opcode, payload, out),
        }
    }

    /// The compressed payload, however long: stopped short, a stream would cost its state.
    fn deflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        let Self { level, state: kept, compressed } = self;
        let mut state =
            kept.take().unwrap_or_else(|| Compress::new_with_window_bits(*level, false, DEFLATE_WINDOW_BITS));
        let room = payload.len() + growth(payload.len());
        if compressed.len() < room || compressed.len() > room.max(DEFLATED_KEPT_BYTES) {
            compressed.resize(room, 0);
            compressed.shrink_to(room.max(DEFLATED_KEPT_BYTES));
        }
        let space = compressed.get_mut(..room)?;
        state.compress(payload, space, FlushCompress::Sync).ok()?;
        let (taken, written) = (state.total_in(), usize::try_from(state.total_out()).ok()?);
        // Room that is left over says that nothing waits to be flushed. A state where something waits is not to be
        // used again: it would keep the place of that when it is reset, and panic when its buffer is full of such.
        if taken != payload.len() as u64 || written >= room {
            return None;
        }
        state.reset();
        *kept = Some(state);
        compressed.get(..written.checked_sub(TAIL_BYTES)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inflater, begin_frame};
    use super::*;

    /// What a `Deflater` makes of a payload, behind other bytes; frames of less than 126 bytes.
    fn framed(payload: &[u8]) -> (bool, Vec<u8>) {
        let mut out = b"before".to_vec();
        let start = begin_frame(&mut out);
        out.extend_from_slice(payload);
        let is_compressed = Deflater::new(6).end_frame(&mut out, start, Opcode::Text);
        assert_eq!(out[..6], *b"before");
        (is_compressed, out.split_off(6))
    }

    #[test]
    fn a_frame_is_compressed_in_place_where_that_makes_it_smaller() {
        let (is_compressed, frame) = framed(&[b'a'; 100]);
        assert!(is_compressed);
        assert_eq!((frame[0], usize::from(frame[1])), (0xc1, frame.len() - 2));
        assert!(frame.len() < 12, "{frame:x?}");
        assert!(!frame.ends_with(&[0, 0, 0xff, 0xff]));
        assert_eq!(Inflater::default().inflate(&frame[2..], 100), Ok(&[b'a'; 100][..]));
    }

    #[test]
    fn what_would_not_be_smaller_stays_plain() {
        for payload in [&b""[..], b"x", b"Hello", b"8f1c6e09b7"] {
            let mut expected = Vec::new();
            encode::write_frame(Opcode::Text, payload, &mut expected);
            assert_eq!(framed(payload), (false, expected));
        }
    }

    #[test]
    fn a_whole_frame_is_compressed_in_any_case() {
        let mut deflater = Deflater::new(1);
        for payload in [&b""[..], b"x", b"Hello"] {
            let mut out = Vec::new();
            deflater.write_frame(Opcode::Binary, payload, &mut out);
            assert_eq!((out[0], usize::from(out[1])), (0xc2, out.len() - 2), "{payload:?}");
            assert_eq!(Inflater::default().inflate(&out[2..], 100), Ok(payload));
        }
    }

    /// Bytes that nothing compresses, always the same.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        (0..bytes).map(next).collect()
    }

    #[test]
    fn what_does_not_compress_leaves_nothing_behind() {
        for level in 0..=9 {
            let mut deflater = Deflater::new(level);
            for payload in [noise(40_000), noise(40_000), noise(300_000), noise(200), vec![b'a'; 40_000]] {
                let mut out = Vec::new();
                let start = begin_frame(&mut out);
                out.extend_from_slice(&payload);
                let is_compressed = deflater.end_frame(&mut out, start, Opcode::Binary);
                assert_eq!(
                    is_compressed,
                    level > 0 && payload[0] == payload[1],
                    "{level}: {}",
                    payload.len()
                );
                let mut whole = Vec::new();
                deflater.write_frame(Opcode::Binary, &payload, &mut whole);
                assert_eq!(whole[0], 0xc2, "level {level}: {} bytes", payload.len());
            }
        }
    }

    #[test]
    fn frames_are_alike_whatever_came_before() {
        let mut deflater = Deflater::new(6);
        let text = "the same text, the same bytes ".repeat(20);
        let mut frames = [Vec::new(), Vec::new()];
        for out in &mut frames {
            deflater.write_frame(Opcode::Text, text.as_bytes(), out);
            deflater.write_frame(Opcode::Text, &vec![7; 3_000_000], &mut Vec::new());
        }
        assert_eq!(frames[0], frames[1]);
        deflater.write_frame(Opcode::Text, b"short", &mut Vec::new());
        assert!(deflater.compressed.capacity() <= DEFLATED_KEPT_BYTES, "a large buffer goes back");
    }
}
