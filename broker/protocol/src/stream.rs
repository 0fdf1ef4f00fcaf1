//! Messages on a stream of bytes, where nothing else says where one ends: QUIC and WebTransport.
//!
//! ```text
//! +------------------------+--------------------------------------+
//! | length: 1, 2, 4 or 8   | that many bytes: what a WebSocket    |
//! | bytes (RFC 9000, 16)   | message of the binary profile has    |
//! +------------------------+--------------------------------------+
//! ```
//!
//! The length may take more bytes than it needs. Here it is written with 2, and with 4 from 16 KiB on.

/// The longest message whose length takes two bytes.
const SHORT_MAX: usize = (1 << 14) - 1;
/// The longest message.
pub const LENGTH_MAX: usize = (1 << 30) - 1;
const SHORT_BYTES: usize = 2;
const LONG_BYTES: usize = 4;
/// Bytes of the longest length.
const LENGTH_BYTES_MAX: usize = 8;

/// A message that is being appended; [`end`] takes it back.
#[derive(Debug)]
#[must_use = "a message that is not ended has no length"]
pub struct Start(usize);

/// Leaves room for a length at the end of `out`; what is appended until [`end`] is the message.
pub fn begin(out: &mut Vec<u8>) -> Start {
    let start = Start(out.len());
    out.extend_from_slice(&[0; SHORT_BYTES]);
    start
}

/// Writes the length in front of what was appended since `start`. Moves a message that is longer than 16 KiB by 2 bytes.
///
/// # Panics
/// When `out` is not the buffer `start` came from or was cut below it, or the message is longer than [`LENGTH_MAX`]: the
/// broker's own bounds are far below.
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the lengths were just compared"
)]
pub fn end(out: &mut Vec<u8>, Start(start): Start) {
    let message = start + SHORT_BYTES;
    assert!(message <= out.len(), "the message's room for a length is gone");
    let length = out.len() - message;
    assert!(length <= LENGTH_MAX, "a message of {length} bytes");
    if length <= SHORT_MAX {
        out[start..message].copy_from_slice(&(length as u16 | 0x4000).to_be_bytes());
        return;
    }
    out.extend_from_slice(&[0; LONG_BYTES - SHORT_BYTES]);
    out.copy_within(message..message + length, start + LONG_BYTES);
    out[start..start + LONG_BYTES].copy_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes());
}

/// The length at the front of `bytes`, and how many bytes it takes. `None` when it is not there as a whole.
pub fn length(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let taken = 1 << (first >> 6);
    let rest = bytes.get(1..taken)?;
    let length = rest.iter().fold(u64::from(first & 0x3f), |length, &byte| length << 8 | u64::from(byte));
    Some((length, taken))
}

/// What there is of the first message.
#[derive(Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// All of it; with its length it takes so many bytes.
    Whole { message: &'a [u8], bytes: usize },
    /// So many bytes have to be there for it, or at most so many before that is known.
    Part { wanted_bytes: usize },
    /// It has this length, which is more than it may have.
    TooLong(u64),
}

/// The first message of `bytes`, which may have `message_bytes_max`.
pub fn front(bytes: &[u8], message_bytes_max: usize) -> Front<'_> {
    let Some((length, length_bytes)) = length(bytes) else {
        return Front::Part { wanted_bytes: LENGTH_BYTES_MAX };
    };
    let Some(message_bytes) = usize::try_from(length).ok().filter(|&bytes| bytes <= message_bytes_max) else {
        return Front::TooLong(length);
    };
    let whole_bytes = length_bytes + message_bytes;
    match bytes.get(length_bytes..whole_bytes) {
        Some(message) => Front::Whole { message, bytes: whole_bytes },
        None => Front::Part { wanted_bytes: whole_bytes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000, A.1.
    #[test]
    fn lengths_are_those_of_the_rfc() {
        let cases: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, expected) in cases {
            assert_eq!(length(bytes), Some((expected, bytes.len())));
            assert_eq!(length(&[bytes, b"more"].concat()), Some((expected, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(length(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bytes in [0, 1, 63, 64, SHORT_MAX, SHORT_MAX + 1, 100_000] {
            let mut out = b"before".to_vec();
            let start = begin(&mut out);
            let message: Vec<u8> = (0..=250).cycle().take(bytes).collect();
            out.extend_from_slice(&message);
            end(&mut out, start);
            let (read, taken) = length(&out[6..]).unwrap();
            assert_eq!(read, bytes as u64);
            assert!(out.starts_with(b"before"));
            assert!(out[6 + taken..] == message, "{bytes}");
        }
    }

    #[test]
    fn the_first_message_is_known_as_soon_as_it_is_there() {
        let bytes = [&[0x40, 3][..], b"one", b"more"].concat();
        assert_eq!(front(&bytes, 3), Front::Whole { message: b"one", bytes: 5 });
        assert_eq!(front(&bytes[..4], 3), Front::Part { wanted_bytes: 5 });
        assert_eq!(front(&bytes[..1], 3), Front::Part { wanted_bytes: 8 });
        assert_eq!(front(&bytes[..2], 2), Front::TooLong(3));
        assert_eq!(front(&[0xff; 8], usize::MAX), Front::Part { wanted_bytes: (1 << 62) + 7 });
        assert_eq!(front(&[0], 0), Front::Whole { message: b"", bytes: 1 });
    }
}
