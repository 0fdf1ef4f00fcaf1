//! Values: what a record says, byte by byte. Numbers are big endian.
//!
//! Every value begins with its version and a CRC-32 over the key and everything else of the value, so a record that
//! was damaged, or found under a key that is not its own, is recognised.
//!
//! ```text
//! all        0 version(1) = 1 | 1 flags(1) | 2 crc(4) | 6 body
//! ```
//! Bodies are drawn where they are encoded. Deliberately not here: runs of messages (see `run`).

use crate::key::Place;
use crate::store::{DeadLetter, QueueRecord, ResumeRecord, Seen, StoreError};
use std::sync::Arc;
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::registry::JoinedBy;
use waspmq_core::settings::Retention;
use waspmq_core::{Address, MessageId, Position, Stream};

pub(crate) const VERSION: u8 = 1;

/// Bytes before the body of every value.
pub(crate) const HEAD_BYTES: usize = 6;

/// The flag of a time that is a user's first.
const FIRST: u8 = 1;
/// The flag of a member whom an operator added.
const BY_OPERATOR: u8 = 1;

const CRC: std::ops::Range<usize> = 2..6;

/// A value without its body, to be filled and then [`seal`]ed.
pub(crate) fn begin(flags: u8, body_bytes: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + body_bytes);
    value.extend_from_slice(&[VERSION, flags, 0, 0, 0, 0]);
    value
}

/// Writes the checksum.
pub(crate) fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = checksum(key, &value);
    if let Some(place) = value.get_mut(CRC) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
    value
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value.get(..CRC.start).unwrap_or_default());
    hasher.update(value.get(CRC.end..).unwrap_or_default());
    hasher.finalize()
}

/// The flags and the body of a value that is whole.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<(u8, Reader<'a>), StoreError> {
    let corrupt = || StoreError::Corrupt { what: describe(key) };
    let [VERSION, flags, a, b, c, d, body @ ..] = value else { return Err(corrupt()) };
    if u32::from_be_bytes([*a, *b, *c, *d]) != checksum(key, value) {
        return Err(corrupt());
    }
    Ok((*flags, Reader { rest: body }))
}

/// What a key is about, for errors and reports.
pub(crate) fn describe(key: &[u8]) -> String {
    format!("the record of {:?}", String::from_utf8_lossy(key))
}

/// Takes a body apart. Every method gives `None` when the body is too short.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text behind its length (2).
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(len.into())?).ok()
    }
}

/// A text with its length (2) before it.
pub(crate) fn put_text(value: &mut Vec<u8>, text: &str, what: &'static str) -> Result<(), StoreError> {
    let len = u16::try_from(text.len()).map_err(|_| StoreError::TooLarge { what })?;
    value.extend_from_slice(&len.to_be_bytes());
    value.extend_from_slice(text.as_bytes());
    Ok(())
}

/// `shard(2) epoch(4) offset(8)`
pub(crate) fn position(key: &[u8], position: Position) -> Vec<u8> {
    let mut value = begin(0, 14);
    put_position(&mut value, position);
    seal(key, value)
}

/// As a position. A member of whom it is not said who made them one joined: then their rights decide.
pub(crate) fn member(key: &[u8], since: Position, by: JoinedBy) -> Vec<u8> {
    let mut value = begin(if by == JoinedBy::Operator { BY_OPERATOR } else { 0 }, 14);
    put_position(&mut value, since);
    seal(key, value)
}

pub(crate) fn parse_member(key: &[u8], value: &[u8]) -> Result<(Position, JoinedBy), StoreError> {
    let (flags, mut reader) = open(key, value)?;
    let since = read_position(&mut reader).ok_or_else(|| StoreError::Corrupt { what: describe(key) })?;
    let by = if flags & BY_OPERATOR == 0 { JoinedBy::Member } else { JoinedBy::Operator };
    Ok((since, by))
}

pub(crate) fn put_position(value: &mut Vec<u8>, position: Position) {
    value.extend_from_slice(&position.stream.shard.to_be_bytes());
    value.extend_from_slice(&position.stream.epoch.to_be_bytes());
    value.extend_from_slice(&position.offset.to_be_bytes());
}

pub(crate) fn read_position(reader: &mut Reader<'_>) -> Option<Position> {
    let stream = Stream { shard: reader.u16()?, epoch: reader.u32()? };
    Some(Position { stream, offset: reader.u64()? })
}

pub(crate) fn parse_position(key: &[u8], value: &[u8]) -> Result<Position, StoreError> {
    let (_, mut reader) = open(key, value)?;
    read_position(&mut reader).ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

/// A cursor or a read mark: as a position, then `behind_unix_ms(8)`, since when it has nothing to say, where that is known.
/// Who writes it anew leaves that out.
pub(crate) fn place(key: &[u8], position: Position, behind_unix_ms: Option<u64>) -> Vec<u8> {
    let mut value = begin(0, 22);
    put_position(&mut value, position);
    if let Some(unix_ms) = behind_unix_ms {
        value.extend_from_slice(&unix_ms.to_be_bytes());
    }
    seal(key, value)
}

pub(crate) fn parse_place(key: &[u8], value: &[u8]) -> Result<(Position, Option<u64>), StoreError> {
    let (_, mut reader) = open(key, value)?;
    let position = read_position(&mut reader).ok_or_else(|| StoreError::Corrupt { what: describe(key) })?;
    Ok((position, reader.u64()))
}

/// A body that is the caller's.
pub(crate) fn opaque(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = begin(0, body.len());
    value.extend_from_slice(body);
    seal(key, value)
}

/// `unix_ms(8)`
pub(crate) fn parse_number(key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let (_, mut reader) = open(key, value)?;
    reader.u64().ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

pub(crate) fn seen(key: &[u8], Seen { unix_ms, is_first }: Seen) -> Vec<u8> {
    let mut value = begin(if is_first { FIRST } else { 0 }, 8);
    value.extend_from_slice(&unix_ms.to_be_bytes());
    seal(key, value)
}

pub(crate) fn parse_seen(key: &[u8], value: &[u8]) -> Result<Seen, StoreError> {
    let (flags, mut reader) = open(key, value)?;
    let unix_ms = reader.u64().ok_or_else(|| StoreError::Corrupt { what: describe(key) })?;
    Ok(Seen { unix_ms, is_first: flags & FIRST != 0 })
}

/// See [`crate::queue`].
pub(crate) fn parse_queue(key: &[u8], value: &[u8]) -> Result<QueueRecord, StoreError> {
    let (_, mut reader) = open(key, value)?;
    let record = crate::key::parse_queue(key).and_then(|id| crate::queue::parse(id, &mut reader));
    record.ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

/// See [`crate::queue`].
pub(crate) fn parse_queue_cursor(key: &[u8], value: &[u8]) -> Result<(u64, QueueCursor), StoreError> {
    let (_, mut reader) = open(key, value)?;
    crate::queue::parse_cursor(&mut reader).ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

/// See [`crate::dedup`].
pub(crate) fn dedup(at: &[u8], key: &dedup::Key) -> Result<Vec<u8>, StoreError> {
    let mut value = begin(0, 31 + key.text.len());
    crate::dedup::put(&mut value, key)?;
    Ok(seal(at, value))
}

/// See [`crate::dedup`].
pub(crate) fn parse_dedup(at: &[u8], value: &[u8]) -> Result<dedup::Key, StoreError> {
    let (_, mut reader) = open(at, value)?;
    let key = crate::key::parse_dedup(at).and_then(|shard| crate::dedup::parse(shard, &mut reader));
    key.ok_or_else(|| StoreError::Corrupt { what: describe(at) })
}

/// `expires(8) body`
pub(crate) fn resume(key: &[u8], record: &ResumeRecord) -> Vec<u8> {
    let mut value = begin(0, 8 + record.body.len());
    value.extend_from_slice(&record.expires_unix_ms.to_be_bytes());
    value.extend_from_slice(&record.body);
    seal(key, value)
}

pub(crate) fn parse_resume(key: &[u8], value: &[u8]) -> Result<ResumeRecord, StoreError> {
    let corrupt = || StoreError::Corrupt { what: describe(key) };
    let (_, mut reader) = open(key, value)?;
    let token_hash = key.get(1..).and_then(|hash| hash.try_into().ok()).ok_or_else(corrupt)?;
    let expires_unix_ms = reader.u64().ok_or_else(corrupt)?;
    Ok(ResumeRecord { token_hash, expires_unix_ms, body: reader.rest.to_vec() })
}

/// `unix_ms(8) attempts(2) cause(2+n) detail(2+n) address(2+n) run`
pub(crate) fn dead_letter(key: &[u8], letter: &DeadLetter) -> Result<Vec<u8>, StoreError> {
    let mut value = begin(0, 64 + letter.detail.len() + letter.batch.bytes.len());
    value.extend_from_slice(&letter.unix_ms.to_be_bytes());
    value.extend_from_slice(&letter.attempts.to_be_bytes());
    put_text(&mut value, &letter.cause, "the cause of a dead letter")?;
    put_text(&mut value, &letter.detail, "the detail of a dead letter")?;
    put_text(&mut value, letter.batch.to.as_str(), "an address")?;
    crate::run::put(&mut value, &letter.batch)?;
    Ok(seal(key, value))
}

/// When a message was given up, unchecked.
pub(crate) fn dead_letter_unix_ms(key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let unix_ms = value.get(HEAD_BYTES..).and_then(|body| body.first_chunk());
    unix_ms.map(|ms| u64::from_be_bytes(*ms)).ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

pub(crate) fn parse_dead_letter(key: &[u8], value: &[u8]) -> Result<DeadLetter, StoreError> {
    let corrupt = || StoreError::Corrupt { what: describe(key) };
    let (_, mut reader) = open(key, value)?;
    let (id, place) = key.get(1..).and_then(|key| key.split_first_chunk::<16>()).ok_or_else(corrupt)?;
    let place = std::str::from_utf8(place).map_err(|_| corrupt())?;
    let recipient = place.split_once('\0').map_or(place, |(recipient, _)| recipient).to_owned();
    let parse = move || {
        let (unix_ms, attempts) = (reader.u64()?, reader.u16()?);
        let (cause, detail) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        let address = Address::parse(reader.text()?).ok()?;
        let batch = crate::run::Run::parse(reader)?.to_batch(&address)?;
        let id = MessageId::from_bytes(*id);
        Some(DeadLetter { id, recipient, unix_ms, cause, attempts, detail, batch: Arc::new(batch) })
    };
    parse().ok_or_else(corrupt)
}

/// What is known of an address that has or had stored messages.
///
/// `count` and `bytes` are of the messages up to `counted`; what lies behind it was stored since and is counted when
/// the address is used again.
///
/// ```text
/// age(8) count(8) bytes(8)                  retention
/// counted epoch(4) offset(8)
/// removed epoch(4) offset(8)                place of the last message that retention removed; 0 0 for none
/// count(8) bytes(8) emptied(8)              emptied: when the last message was removed, milliseconds since 1970
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressRecord {
    pub(crate) retention: Retention,
    pub(crate) counted: Place,
    pub(crate) removed: Place,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) emptied_unix_ms: u64,
}

impl AddressRecord {
    pub(crate) const fn new(retention: Retention) -> Self {
        Self { retention, counted: (0, 0), removed: (0, 0), count: 0, bytes: 0, emptied_unix_ms: 0 }
    }

    pub(crate) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut value = begin(0, 72);
        for number in [self.retention.age_ms, self.retention.count, self.retention.bytes] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        for (epoch, offset) in [self.counted, self.removed] {
            value.extend_from_slice(&epoch.to_be_bytes());
            value.extend_from_slice(&offset.to_be_bytes());
        }
        for number in [self.count, self.bytes, self.emptied_unix_ms] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        seal(key, value)
    }

    pub(crate) fn parse(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let (_, mut reader) = open(key, value)?;
        let mut parse = || {
            Some(Self {
                retention: Retention { age_ms: reader.u64()?, count: reader.u64()?, bytes: reader.u64()? },
                counted: (reader.u32()?, reader.u64()?),
                removed: (reader.u32()?, reader.u64()?),
                count: reader.u64()?,
                bytes: reader.u64()?,
                emptied_unix_ms: reader.u64()?,
            })
        };
        parse().ok_or_else(|| StoreError::Corrupt { what: describe(key) })
    }
}
