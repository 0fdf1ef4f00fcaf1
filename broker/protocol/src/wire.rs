//! The binary profile's numbers and a reader over its bytes.
//!
//! Everything is little-endian. A frame is `type: u8 | body version: u8 | body length: u32 | body`. All reads
//! are bounded by what is there, so a length that lies can only end a read early.

use crate::error::Problem;

/// Bytes before a frame's body.
pub(crate) const PREFIX_BYTES: usize = 6;

/// The version of every body that this crate writes.
pub(crate) const BODY_VERSION: u8 = 1;

/// Frame types, client to broker below 0x80, broker to client above.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 0x01;
    pub(crate) const PUBLISH: u8 = 0x02;
    pub(crate) const SUBSCRIBE: u8 = 0x03;
    pub(crate) const UNSUBSCRIBE: u8 = 0x04;
    pub(crate) const JOIN: u8 = 0x05;
    pub(crate) const LEAVE: u8 = 0x06;
    pub(crate) const ACK: u8 = 0x07;
    pub(crate) const NACK: u8 = 0x08;
    pub(crate) const HISTORY: u8 = 0x09;
    pub(crate) const READ: u8 = 0x0a;
    pub(crate) const PRESENCE: u8 = 0x0b;
    pub(crate) const WATCH: u8 = 0x0c;
    pub(crate) const REFRESH: u8 = 0x0d;
    pub(crate) const PING: u8 = 0x0e;
    pub(crate) const DISCONNECT: u8 = 0x0f;
    pub(crate) const WELCOME: u8 = 0x81;
    pub(crate) const MESSAGE: u8 = 0x82;
    pub(crate) const RECEIPT: u8 = 0x83;
    pub(crate) const OK: u8 = 0x84;
    pub(crate) const ERROR: u8 = 0x85;
    pub(crate) const OVERFLOW: u8 = 0x86;
    pub(crate) const PRESENT: u8 = 0x87;
    pub(crate) const GOAWAY: u8 = 0x88;
    pub(crate) const PONG: u8 = 0x89;
    pub(crate) const PAGE: u8 = 0x8a;
    pub(crate) const MARK: u8 = 0x8b;
    pub(crate) const DICTIONARY: u8 = 0x8c;
    pub(crate) const CLOSE: u8 = 0x8d;
}

/// Flags of publish and message bodies; one space, so that a bit means the same in both.
pub(crate) mod flag {
    pub(crate) const REFERENCE: u16 = 1;
    pub(crate) const EXCLUDE_SELF: u16 = 2;
    pub(crate) const DEDUP: u16 = 4;
    pub(crate) const KEY: u16 = 8;
    pub(crate) const REPLY_TO: u16 = 16;
    pub(crate) const HEADERS: u16 = 32;
    pub(crate) const TTL: u16 = 64;
    pub(crate) const DELAY: u16 = 128;
    pub(crate) const QUEUE: u16 = 256;
    pub(crate) const ATTEMPT: u16 = 512;
    pub(crate) const FROM: u16 = 1024;
    pub(crate) const ACK: u16 = 2048;
    pub(crate) const PACKED: u16 = 4096;
    /// What a publish may carry.
    pub(crate) const PUBLISH: u16 =
        REFERENCE | EXCLUDE_SELF | DEDUP | KEY | REPLY_TO | HEADERS | TTL | DELAY | PACKED;
    /// What a message may carry.
    pub(crate) const MESSAGE: u16 = KEY | REPLY_TO | HEADERS | QUEUE | ATTEMPT | FROM | ACK | PACKED;
}

/// A frame's type, body version and body, and how many bytes it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) kind: u8,
    pub(crate) version: u8,
    pub(crate) body: &'a [u8],
    pub(crate) consumed: usize,
}

/// Splits the first frame off `bytes`.
pub(crate) fn split(bytes: &[u8]) -> Result<Raw<'_>, Problem> {
    let mut reader = Reader::new(bytes);
    let (kind, version, body_len) = (reader.u8(), reader.u8(), reader.u32());
    let (Some(kind), Some(version), Some(body_len)) = (kind, version, body_len) else {
        return Err(Problem::invalid(format!("{} bytes are not a whole frame prefix", bytes.len())));
    };
    let body_len = body_len as usize;
    let Some(body) = reader.take(body_len) else {
        return Err(incomplete(body_len, reader.rest().len()));
    };
    Ok(Raw { kind, version, body, consumed: PREFIX_BYTES + body_len })
}

/// A length no broker accepts by default is reported as what it is; otherwise bytes are missing.
fn incomplete(body_len: usize, there: usize) -> Problem {
    let (bytes, max) = (body_len.saturating_add(PREFIX_BYTES), waspmq_core::limits::MESSAGE_BYTES_MAX);
    if bytes > max {
        return Problem::TooLarge { bytes, max };
    }
    Problem::invalid(format!("the frame announces {body_len} bytes of body, {there} are there"))
}

/// Bytes that are read from the front.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text of `len` bytes.
    pub(crate) fn text(&mut self, len: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(len)?).ok()
    }

    /// A text behind its 16-bit length.
    pub(crate) fn text16(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        self.text(usize::from(len))
    }
}

/// Appends a text behind its 16-bit length. Callers pass texts that were checked to be far shorter; a longer
/// one is cut, because a wrong length would make the rest of the connection unreadable.
pub(crate) fn put_text16(out: &mut Vec<u8>, text: &str) {
    let text = crate::error::prefix(text, usize::from(u16::MAX));
    out.extend_from_slice(&len16(text).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The length of a text of at most 65,535 bytes.
pub(crate) fn len16(text: &str) -> u16 {
    u16::try_from(text.len()).unwrap_or(u16::MAX)
}

/// Starts a frame; [`end_frame`] fills in the length.
pub(crate) fn begin_frame(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[kind, BODY_VERSION, 0, 0, 0, 0]);
    start
}

/// Fills in the length of the frame that began at `start`.
pub(crate) fn end_frame(out: &mut [u8], start: usize) {
    let body_len = out.len().saturating_sub(start + PREFIX_BYTES);
    let body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 2..start + PREFIX_BYTES) {
        place.copy_from_slice(&body_len.to_le_bytes());
    }
}
