//! WebSocket framing (RFC 6455, section 5.2) as far as a measuring tool and its relay need it: walking frame
//! headers, masking, and the accept key. Both ends of a benchmark use it, so it must be right in both roles.
//!
//! Not here: reassembly of fragmented messages (a fragment is a fault of the peer's set-up and ends the run),
//! inflating what permessage-deflate compressed, UTF-8 checks.

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

/// Payload of the largest frame that is taken, in bytes; a longer one ends the connection.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A frame longer than [`FRAME_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What the first bytes of a frame say.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) opcode: u8,
    pub(crate) fin: bool,
    /// The first reserved bit: compressed, where permessage-deflate was negotiated (RFC 7692, section 6).
    pub(crate) is_compressed: bool,
    pub(crate) mask: Option<[u8; 4]>,
    /// Bytes before the payload, the mask included.
    pub(crate) header_bytes: usize,
    pub(crate) payload_bytes: usize,
}

impl Head {
    /// The header at the start of `bytes`; `None` while it is incomplete.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, TooLong> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (length_bytes, payload) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (2, usize::from(u16::from_be_bytes(*length))),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (8, usize::try_from(u64::from_be_bytes(*length)).map_err(|_| TooLong)?),
                None => return Ok(None),
            },
            short => (0, usize::from(short)),
        };
        if payload > FRAME_BYTES_MAX {
            return Err(TooLong);
        }
        let mut header_bytes = 2 + length_bytes;
        let mut mask = None;
        if second & 0x80 != 0 {
            let Some(key) = rest[length_bytes..].first_chunk::<4>() else { return Ok(None) };
            mask = Some(*key);
            header_bytes += 4;
        }
        let (opcode, fin, is_compressed) = (first & 0x0f, first & 0x80 != 0, first & 0x40 != 0);
        Ok(Some(Self { opcode, fin, is_compressed, mask, header_bytes, payload_bytes: payload }))
    }

    /// Bytes of the whole frame.
    #[inline]
    pub(crate) fn frame_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }
}

/// Appends one unfragmented frame, masked if a key is given.
pub(crate) fn push_frame(out: &mut Vec<u8>, opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    let length = payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(masked | short),
        (_, Ok(medium)) => {
            out.push(masked | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let Some(key) = mask else {
        out.extend_from_slice(payload);
        return;
    };
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], key);
}

/// Masks or unmasks in place, eight bytes at a time.
pub(crate) fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The `Sec-WebSocket-Accept` value that answers `key` (RFC 6455, section 4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn check(payload_bytes: usize, mask: Option<[u8; 4]>, header_bytes: usize) {
        let payload: Vec<u8> = (0..=250).cycle().take(payload_bytes).collect();
        let mut frame = Vec::new();
        push_frame(&mut frame, BINARY, mask, &payload);
        for cut in 0..header_bytes {
            assert_eq!(Head::parse(&frame[..cut]), Ok(None), "{payload_bytes} bytes cut at {cut}");
        }
        let head = Head::parse(&frame).unwrap().unwrap();
        let (opcode, fin, is_compressed) = (BINARY, true, false);
        assert_eq!(head, Head { opcode, fin, is_compressed, mask, header_bytes, payload_bytes });
        assert_eq!(head.frame_bytes(), frame.len());
        if let Some(key) = mask {
            apply_mask(&mut frame[header_bytes..], key);
        }
        assert_eq!(&frame[header_bytes..], payload);
    }

    #[test]
    fn frames_of_every_length_form_come_back() {
        for (payload_bytes, plain) in
            [(0, 2), (1, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (70_001, 10)]
        {
            check(payload_bytes, None, plain);
            check(payload_bytes, Some(KEY), plain + 4);
        }
    }

    #[test]
    fn the_masked_hello_of_the_rfc() {
        let mut frame = Vec::new();
        push_frame(&mut frame, TEXT, Some(KEY), b"Hello");
        assert_eq!(frame, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused() {
        let mut frame = vec![0x82, 127];
        frame.extend_from_slice(&(FRAME_BYTES_MAX as u64 + 1).to_be_bytes());
        assert_eq!(Head::parse(&frame), Err(TooLong));
    }

    #[test]
    fn the_accept_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
