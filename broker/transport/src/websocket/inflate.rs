//! Compressed messages to plain ones (RFC 7692, 7.2.2).
//!
//! Invariants:
//! - Nothing of a message is remembered for the next one: clients are told not to take their context over, so one
//!   [`Inflater`] serves any number of connections and none of them holds a window.
//! - Memory grows with bytes that were inflated and ends at the limit of a message's bytes, whatever is announced.

use flate2::{Decompress, FlushDecompress, Status};

use super::Violation;
use crate::limits::INFLATED_KEPT_BYTES;

/// Inflates one message at a time, for all connections of a worker. Holds nothing before the first one.
#[derive(Debug, Default)]
pub struct Inflater {
    state: Option<Box<Decompress>>,
    plain: Vec<u8>,
}

/// What a sender takes away from a message's end, and an empty last block, which can be there only when everything
/// before it was whole.
const TAIL: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Bytes of the first output, and the factor to the compressed size that it has where that is more.
const FIRST_BYTES: usize = 4 * 1024;
const FIRST_FACTOR: usize = 4;

impl Inflater {
    /// Inflates a whole message to at most `bytes_max` bytes.
    pub fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<&[u8], Violation> {
        let Self { state, plain } = self;
        plain.clear();
        plain.shrink_to(INFLATED_KEPT_BYTES);
        // Not even one block, which some senders make of an empty message.
        if compressed.is_empty() {
            return Ok(plain);
        }
        let state = state.get_or_insert_with(|| Box::new(Decompress::new(false)));
        state.reset(false);
        let most = bytes_max.saturating_add(1);
        grow(plain, compressed.len().saturating_mul(FIRST_FACTOR).max(FIRST_BYTES), most);
        for part in [compressed, &TAIL] {
            if inflate_part(state, part, (plain, most))? {
                return Ok(plain);
            }
        }
        Err(Violation::CompressedData)
    }

    /// Bytes held for messages; the state of the algorithm, about 40 KiB, comes on top.
    pub fn held_bytes(&self) -> usize {
        self.plain.capacity()
    }
}

/// Inflates all of `part`: whether a last block ended with it. `most` is one byte more than there may be.
fn inflate_part(
    state: &mut Decompress,
    part: &[u8],
    (plain, most): (&mut Vec<u8>, usize),
) -> Result<bool, Violation> {
    let mut rest = part;
    loop {
        let before = (state.total_in(), plain.len());
        let status = state.decompress_vec(rest, plain, FlushDecompress::None);
        let status = status.map_err(|_| Violation::CompressedData)?;
        if plain.len() >= most {
            return Err(Violation::MessageTooLong);
        }
        let taken = usize::try_from(state.total_in() - before.0).unwrap_or(rest.len());
        rest = rest.get(taken..).unwrap_or_default();
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(true),
            // Blocks may follow a last one, from the next whole byte on.
            Status::StreamEnd => state.reset(false),
            Status::Ok | Status::BufError if plain.len() == plain.capacity() => {
                grow(plain, plain.len().saturating_mul(2), most);
            }
            Status::Ok | Status::BufError if rest.is_empty() => return Ok(false),
            Status::Ok | Status::BufError if taken == 0 && plain.len() == before.1 => {
                return Err(Violation::CompressedData);
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

/// Makes room for `wanted` bytes, or `most`.
fn grow(plain: &mut Vec<u8>, wanted: usize, most: usize) {
    plain.reserve_exact(wanted.min(most).saturating_sub(plain.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    const LIMIT: usize = 1 << 20;

    fn check(compressed: &[u8], expected: Result<&[u8], Violation>) {
        assert_eq!(Inflater::default().inflate(compressed, LIMIT), expected, "{compressed:x?}");
    }

    /// A whole DEFLATE stream, with a last block.
    fn finished(plain: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::with_capacity(plain.len() + 100);
        let status = Compress::new(Compression::best(), false).compress_vec(
            plain,
            &mut compressed,
            FlushCompress::Finish,
        );
        assert_eq!(status.unwrap(), Status::StreamEnd);
        compressed
    }

    /// RFC 7692, 7.2.3.
    #[test]
    fn examples_of_the_rfc() {
        check(HELLO, Ok(b"Hello"));
        check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], Ok(b"Hello"));
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], Ok(b"Hello"));
        let two_blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        check(&two_blocks, Ok(b"Hello"));
        check(&[0x00], Ok(b""));
    }

    #[test]
    fn empty_messages() {
        check(&[0x02, 0x00], Ok(b""));
        check(&[0x03, 0x00], Ok(b""));
        check(&[0x01, 0x00, 0x00, 0xff, 0xff], Ok(b""));
        check(&[], Ok(b""));
    }

    #[test]
    fn last_blocks_with_and_without_something_behind_them() {
        let hello = finished(b"Hello");
        check(&hello, Ok(b"Hello"));
        check(&[&hello[..], &[0x00]].concat(), Ok(b"Hello"));
        check(&[&hello[..], HELLO].concat(), Ok(b"HelloHello"));
        check(&[&hello[..], &hello, &hello].concat(), Ok(b"HelloHelloHello"));
    }

    #[test]
    fn broken_streams() {
        let cases: [&[u8]; 6] = [
            &[0x07],
            &[0xff; 20],
            // A stored block whose two lengths differ.
            &[0x00, 0x05, 0x00, 0x05, 0x00, 0x48],
            // A distance beyond the start.
            &[0xf2, 0x48, 0x05, 0x40, 0x00],
            // A stored block that is not whole.
            &[0x00, 0x50, 0x00, 0xaf, 0xff, 0x48, 0x65],
            &HELLO[..3],
        ];
        for compressed in cases {
            check(compressed, Err(Violation::CompressedData));
        }
    }

    #[test]
    fn no_message_sees_the_one_before() {
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(HELLO, LIMIT), Ok(&b"Hello"[..]));
        // The second "Hello" with the first as its context (RFC 7692, 7.2.3.2).
        assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], LIMIT), Err(Violation::CompressedData));
        assert_eq!(inflater.inflate(HELLO, LIMIT), Ok(&b"Hello"[..]));
    }

    #[test]
    fn the_limit_is_of_the_plain_bytes_and_exact() {
        for length in [0, 1, 4_095, 4_096, 4_097, 300_000] {
            let compressed = finished(&vec![b'a'; length]);
            let mut inflater = Inflater::default();
            assert_eq!(inflater.inflate(&compressed, length).map(<[u8]>::len), Ok(length));
            assert!(inflater.held_bytes() <= length + 1, "{length}");
            if let Some(less) = length.checked_sub(1) {
                assert_eq!(inflater.inflate(&compressed, less), Err(Violation::MessageTooLong), "{length}");
            }
        }
    }

    #[test]
    fn a_large_message_is_not_kept_for_long() {
        let mut inflater = Inflater::default();
        inflater.inflate(&finished(&vec![0; LIMIT]), LIMIT).unwrap();
        assert!(inflater.held_bytes() > LIMIT);
        inflater.inflate(HELLO, LIMIT).unwrap();
        assert!(inflater.held_bytes() <= INFLATED_KEPT_BYTES);
    }
}
