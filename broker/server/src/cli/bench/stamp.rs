//! What every message of a run carries in front of its padding. All clients are in one process, so the times in it are of one clock.
//!
//! ```text
//! binary   run u32 | publisher u32 | number u64 | due u64 (ns), big-endian | padding
//! JSON     a string: the same as 48 hexadecimal digits | padding
//! ```

use waspmq_client::{Content, Payload, Profile};

/// Which message this is, and when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Messages of other runs and other programs are no messages of this one.
    pub(super) run: u32,
    pub(super) publisher: u32,
    pub(super) number: u64,
    pub(super) due_ns: u64,
}

const BYTES: usize = 24;

/// The number of the message that shows, before a run, that its publisher may publish.
pub(super) const PROBE: u64 = u64::MAX;

const PADDING: u8 = b'x';

/// The least bytes of a payload.
pub(super) const fn size_min(profile: Profile) -> usize {
    match profile {
        Profile::Binary => BYTES,
        // Its quotes count.
        Profile::Json => 2 * BYTES + 2,
    }
}

impl Stamp {
    /// A payload of that size.
    pub(super) fn payload(&self, profile: Profile, size: usize) -> Payload {
        match profile {
            Profile::Binary => Payload::bytes(self.binary(size)),
            Profile::Json => Payload::json_text(self.json(size)),
        }
    }

    /// That of a payload as [`Self::payload`] makes it, to its last byte.
    pub(super) fn read(content: Content, payload: &[u8], size: usize) -> Option<Self> {
        if payload.len() != size {
            return None;
        }
        match content {
            Content::Bytes => {
                let (bytes, padding) = payload.split_first_chunk()?;
                is_padding(padding).then(|| Self::from_bytes(bytes))?
            }
            Content::Json => {
                let text = payload.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
                let (digits, padding) = text.split_first_chunk::<{ 2 * BYTES }>()?;
                if !is_padding(padding) {
                    return None;
                }
                let mut bytes = [0; BYTES];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
                }
                Self::from_bytes(&bytes)
            }
        }
    }

    fn binary(&self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&self.run.to_be_bytes());
        bytes.extend_from_slice(&self.publisher.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.due_ns.to_be_bytes());
        bytes.resize(size.max(BYTES), PADDING);
        bytes
    }

    fn json(&self, size: usize) -> Vec<u8> {
        let Self { run, publisher, number, due_ns } = self;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(format!("\"{run:08x}{publisher:08x}{number:016x}{due_ns:016x}").as_bytes());
        bytes.resize(size.max(size_min(Profile::Json)) - 1, PADDING);
        bytes.push(b'"');
        bytes
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Option<Self> {
        let (run, rest) = bytes.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        Some(Self {
            run: u32::from_be_bytes(*run),
            publisher: u32::from_be_bytes(*publisher),
            number: u64::from_be_bytes(*number),
            due_ns: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }
}

/// Looks at all bytes, many at a time: to end early would be slower.
fn is_padding(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |differs, byte| differs | (byte ^ PADDING)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { run: 0x0102_0304, publisher: 5, number: u64::MAX - 1, due_ns: 1_234_567_890_123 };

    #[test]
    fn a_stamp_survives_and_a_payload_has_its_size() {
        for size in [0, 24, 50, 51, 128, 65_536] {
            let binary = STAMP.binary(size);
            assert_eq!(binary.len(), size.max(size_min(Profile::Binary)));
            assert_eq!(Stamp::read(Content::Bytes, &binary, binary.len()), Some(STAMP));
            let json = STAMP.json(size);
            assert_eq!(json.len(), size.max(size_min(Profile::Json)));
            assert_eq!(Stamp::read(Content::Json, &json, json.len()), Some(STAMP));
            assert!(serde_json::from_slice::<String>(&json).is_ok());
        }
    }

    #[test]
    fn other_payloads_are_none() {
        let check = |content, payload: &[u8]| {
            assert_eq!(Stamp::read(content, payload, payload.len()), None, "{payload:?}");
        };
        check(Content::Bytes, b"");
        check(Content::Bytes, &[0; BYTES - 1]);
        check(Content::Json, b"{\"n\":1}");
        check(Content::Json, b"\"0102\"");
        check(Content::Json, &[b'"'; 2 * BYTES + 2]);
        check(Content::Json, "\"\u{fc}".repeat(40).as_bytes());
        // Neither are those of which something is missing or changed behind the stamp.
        for (content, whole) in [(Content::Bytes, STAMP.binary(64)), (Content::Json, STAMP.json(64))] {
            assert_eq!(Stamp::read(content, &whole, 65), None);
            for at in [whole.len() - 2, whole.len() - 1] {
                let mut changed = whole.clone();
                changed[at] = b'y';
                check(content, &changed);
            }
        }
    }
}
