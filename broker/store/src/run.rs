//! Runs: the consecutive messages of one batch as one record.
//!
//! A run is stored under its last position, so the first key behind a position belongs to the run that holds the next
//! message. What the messages share is stored once.
//!
//! ```text
//! shard(2) level(1) flags(1) count(2) unix_ms(8) origin(8) from(2+n)
//! count times   id(16) expires(8) json(1) priority(1) key(2) reply_to(2) headers(4) payload(4)
//! count times   payload headers key reply_to
//! flags: 1 from, 2 origin, 4 origin left out
//! ```
//! `first` is not stored where the key says `last`: offsets of a run are consecutive.

use crate::record::Reader;
use crate::store::StoreError;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::{Address, Level, MessageId, Name, Position, SessionId, Stream};

const FROM: u8 = 1;
const ORIGIN: u8 = 2;
const EXCLUDE_ORIGIN: u8 = 4;

/// Bytes of the numbers of one message.
const ENTRY_BYTES: usize = 38;

/// Bytes of a run besides its messages and its `from`.
const HEAD_BYTES: usize = 24;

/// About the bytes that [`put`] writes.
pub(crate) fn size_hint(batch: &Batch) -> usize {
    let from = batch.from.as_ref().map_or(0, |from| from.as_str().len());
    HEAD_BYTES + from + batch.messages.len() * ENTRY_BYTES + batch.bytes.len()
}

/// Appends `batch` as a run.
pub(crate) fn put(value: &mut Vec<u8>, batch: &Batch) -> Result<(), StoreError> {
    let count = u16::try_from(batch.messages.len()).map_err(|_| StoreError::TooLarge { what: "a batch" })?;
    let mut flags = 0;
    flags |= if batch.from.is_some() { FROM } else { 0 };
    flags |= if batch.origin.is_some() { ORIGIN } else { 0 };
    flags |= if batch.exclude_origin { EXCLUDE_ORIGIN } else { 0 };
    value.extend_from_slice(&batch.first.stream.shard.to_be_bytes());
    value.extend_from_slice(&[batch.level.as_u8(), flags]);
    value.extend_from_slice(&count.to_be_bytes());
    value.extend_from_slice(&batch.unix_ms.to_be_bytes());
    value.extend_from_slice(&batch.origin.map_or(0, SessionId::as_u64).to_be_bytes());
    crate::record::put_text(value, batch.from.as_ref().map_or("", Name::as_str), "a user")?;
    for message in &batch.messages {
        put_entry(value, batch, message)?;
    }
    for message in &batch.messages {
        for slice in [message.payload, message.headers, message.key, message.reply_to] {
            value.extend_from_slice(batch.slice(slice));
        }
    }
    Ok(())
}

fn put_entry(value: &mut Vec<u8>, batch: &Batch, message: &Envelope) -> Result<(), StoreError> {
    let short =
        |slice, what| u16::try_from(batch.slice(slice).len()).map_err(|_| StoreError::TooLarge { what });
    let long =
        |slice, what| u32::try_from(batch.slice(slice).len()).map_err(|_| StoreError::TooLarge { what });
    value.extend_from_slice(&message.id.to_bytes());
    value.extend_from_slice(&message.expires_unix_ms.to_be_bytes());
    value.extend_from_slice(&[message.is_json.into(), message.priority]);
    value.extend_from_slice(&short(message.key, "a key")?.to_be_bytes());
    value.extend_from_slice(&short(message.reply_to, "a reply address")?.to_be_bytes());
    value.extend_from_slice(&long(message.headers, "a header block")?.to_be_bytes());
    value.extend_from_slice(&long(message.payload, "a payload")?.to_be_bytes());
    Ok(())
}

/// A run that is being read.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) shard: u16,
    pub(crate) unix_ms: u64,
    level: Level,
    flags: u8,
    origin: u64,
    from: &'a str,
    pub(crate) entries: Vec<Entry<'a>>,
}

/// One message of a run.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: MessageId,
    pub(crate) expires_unix_ms: u64,
    is_json: bool,
    priority: u8,
    payload: &'a [u8],
    headers: &'a [u8],
    key: &'a [u8],
    reply_to: &'a [u8],
}

impl Entry<'_> {
    /// Bytes it counts with in a page.
    pub(crate) const fn size_bytes(&self) -> usize {
        ENTRY_BYTES + self.payload.len() + self.headers.len() + self.key.len() + self.reply_to.len()
    }

    pub(crate) const fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.expires_unix_ms != 0 && self.expires_unix_ms <= now_unix_ms
    }
}

/// How many messages a run holds, and when they were published, without looking at them.
pub(crate) fn peek(body: &[u8]) -> Option<(u16, u64)> {
    let mut reader = Reader { rest: body.get(4..)? };
    Some((reader.u16()?, reader.u64()?))
}

impl<'a> Run<'a> {
    /// `None` for what is not a run.
    pub(crate) fn parse(mut reader: Reader<'a>) -> Option<Self> {
        let (shard, level, flags) = (reader.u16()?, Level::from_u8(reader.u8()?)?, reader.u8()?);
        let (count, unix_ms, origin) = (reader.u16()?, reader.u64()?, reader.u64()?);
        let from = reader.text()?;
        let mut numbers = Reader { rest: reader.bytes(usize::from(count) * ENTRY_BYTES)? };
        let mut entries = Vec::with_capacity(count.into());
        for _ in 0..count {
            entries.push(parse_entry(&mut numbers, &mut reader)?);
        }
        let whole = reader.rest.is_empty();
        whole.then_some(Self { shard, unix_ms, level, flags, origin, from, entries })
    }

    /// The place of entry `index` in a run whose last message is at `last`. A run never crosses an epoch.
    pub(crate) fn offset(&self, last: u64, index: usize) -> u64 {
        last.saturating_sub((self.entries.len() - 1).saturating_sub(index) as u64)
    }

    /// A batch that holds entry `index` only.
    pub(crate) fn message(
        &self,
        address: &Address,
        (epoch, offset): (u32, u64),
        index: usize,
    ) -> Option<Batch> {
        let mut batch =
            self.empty(address, Position { stream: Stream { shard: self.shard, epoch }, offset })?;
        push(&mut batch, self.entries.get(index)?);
        Some(batch)
    }

    /// A batch with all messages. Its position means nothing.
    pub(crate) fn to_batch(&self, address: &Address) -> Option<Batch> {
        let mut batch =
            self.empty(address, Position { stream: Stream { shard: self.shard, epoch: 0 }, offset: 0 })?;
        for entry in &self.entries {
            push(&mut batch, entry);
        }
        Some(batch)
    }

    fn empty(&self, address: &Address, first: Position) -> Option<Batch> {
        let from = if self.flags & FROM != 0 { Some(Name::parse(self.from).ok()?) } else { None };
        Some(Batch {
            to: address.clone(),
            from,
            origin: (self.flags & ORIGIN != 0).then(|| session(self.origin)),
            exclude_origin: self.flags & EXCLUDE_ORIGIN != 0,
            level: self.level,
            is_kept: true,
            unix_ms: self.unix_ms,
            published_us: 0,
            first,
            messages: Vec::with_capacity(1),
            bytes: Vec::new(),
        })
    }
}

/// The inverse of [`SessionId::as_u64`].
#[expect(clippy::cast_possible_truncation, reason = "takes the parts of the number out")]
const fn session(number: u64) -> SessionId {
    SessionId::new((number >> 40) as u32, (number >> 32) as u8, number as u32)
}

fn push(batch: &mut Batch, entry: &Entry<'_>) {
    let bytes = entry.payload.len() + entry.headers.len() + entry.key.len() + entry.reply_to.len();
    batch.bytes.reserve_exact(bytes);
    let envelope = Envelope {
        id: entry.id,
        is_json: entry.is_json,
        priority: entry.priority,
        expires_unix_ms: entry.expires_unix_ms,
        payload: batch.store(entry.payload),
        headers: batch.store(entry.headers),
        key: batch.store(entry.key),
        reply_to: batch.store(entry.reply_to),
    };
    batch.messages.push(envelope);
}

fn parse_entry<'a>(numbers: &mut Reader<'a>, bytes: &mut Reader<'a>) -> Option<Entry<'a>> {
    let (id, expires_unix_ms) = (MessageId::from_bytes(numbers.array()?), numbers.u64()?);
    let (is_json, priority) = (numbers.u8()? != 0, numbers.u8()?);
    let (key, reply_to, headers, payload) = (numbers.u16()?, numbers.u16()?, numbers.u32()?, numbers.u32()?);
    Some(Entry {
        id,
        expires_unix_ms,
        is_json,
        priority,
        payload: bytes.bytes(usize::try_from(payload).ok()?)?,
        headers: bytes.bytes(usize::try_from(headers).ok()?)?,
        key: bytes.bytes(key.into())?,
        reply_to: bytes.bytes(reply_to.into())?,
    })
}
