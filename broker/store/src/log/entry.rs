//! The entries of a group in the log: one write each, as bytes and back.
//!
//! ```text
//! bytes behind this(4) kind(1) body
//! 1  messages        address(2+n) epoch(4) offset(8) age(8) count(8) bytes(8) run      place of the first message
//! 2  cursor          user(2+n) device(2+n) address(2+n) position(14)                   the device is empty for none
//! 3  read mark       user(2+n) address(2+n) position(14)
//! 4  member          group(2+n) user(2+n) position(14)                                who joined
//! 5  no member       group(2+n) user(2+n)
//! 6  group           group(2+n)
//! 7  no group        group(2+n)
//! 8  resume          hash(32) expires(8) body
//! 9  no resume       hash(32)
//! 10 dead letter     id(16) recipient(2+n) unix_ms(8) attempts(2) cause(2+n) detail(2+n) address(2+n) run
//! 11 no dead letter  id(16) recipient(2+n), of formats from 5 on behind the recipient 0 address
//! 12 ledger          id(16) body
//! 13 delayed         due(8) address(2+n) run
//! 14 no delayed      due(8) id(16)
//! 15 last seen       user(2+n) unix_ms(8)
//! 16 queue           pattern(2+n) name(2+n), then as its record, see `queue`
//! 17 no queue        pattern(2+n) name(2+n)
//! 18 queue cursor    pattern(2+n) name(2+n) address(2+n), then as its record
//! 19 member          group(2+n) user(2+n) position(14)                                whom an operator added
//! 20 dedup key       shard(2), then as its record, see `dedup`, then nothing or its message: kind(1) = 1 or 13, body
//! 21 no dedup key    shard(2) number(8) id(16)
//! 22 first seen      user(2+n) unix_ms(8)
//! 23 due             due(8), then as messages, of which there is one
//! ```
//! Invariant: what can be written here fits the store's records, so the store never refuses it for its size.

use crate::dedup;
use crate::key;
use crate::queue;
use crate::record::{Reader, put_position, put_text, read_position};
use crate::run::{self, Run};
use crate::store::{DeadLetter, ResumeRecord, StoreError, Write};
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::registry::JoinedBy;
use waspmq_core::settings::Retention;
use waspmq_core::{Address, MessageId, Name, Pattern, QueueId};

/// Bytes of a recipient and an address in the key of a dead letter, which must fit 2^16 with what is around them.
const PLACE_BYTES_MAX: usize = 60_000;

/// Appends a write. On an error `out` is as it was.
pub(super) fn put(out: &mut Vec<u8>, write: &Write) -> Result<(), StoreError> {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    let written = put_body(out, write).and_then(|()| {
        let len = out.len() - begin - 4;
        u32::try_from(len).map_err(|_| StoreError::TooLarge { what: "a write" })
    });
    match written {
        Ok(len) => {
            if let Some(place) = out.get_mut(begin..begin + 4) {
                place.copy_from_slice(&len.to_be_bytes());
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(begin);
            Err(error)
        }
    }
}

fn put_body(out: &mut Vec<u8>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Messages { batch, retention } => {
            out.push(1);
            put_messages(out, batch, *retention)?;
        }
        Write::Cursor { user, device, address, position } => {
            let device = device.as_ref().map_or("", Name::as_str);
            put_texts(out, 2, &[user.as_str(), device, address.as_str()])?;
            put_position(out, *position);
        }
        Write::ReadMark { user, address, position } => {
            put_texts(out, 3, &[user.as_str(), address.as_str()])?;
            put_position(out, *position);
        }
        Write::Member { group, user, since, by } => {
            let kind = if *by == JoinedBy::Member { 4 } else { 19 };
            put_texts(out, kind, &[group.as_str(), user.as_str()])?;
            put_position(out, *since);
        }
        Write::NoMember { group, user } => put_texts(out, 5, &[group.as_str(), user.as_str()])?,
        Write::Group { group } => put_texts(out, 6, &[group.as_str()])?,
        Write::NoGroup { group } => put_texts(out, 7, &[group.as_str()])?,
        Write::Resume(record) => {
            out.push(8);
            out.extend_from_slice(&record.token_hash);
            put_numbers(out, &[record.expires_unix_ms]);
            out.extend_from_slice(&record.body);
        }
        Write::NoResume { token_hash } => {
            out.push(9);
            out.extend_from_slice(token_hash);
        }
        Write::DeadLetter(letter) => put_letter(out, letter)?,
        Write::NoDeadLetter { id, place } => {
            put_id(out, 11, *id);
            put_place(out, (place, place))?;
        }
        Write::Ledger { id, body } => {
            put_id(out, 12, *id);
            out.extend_from_slice(body);
        }
        Write::Delayed { due_unix_ms, batch } => {
            out.push(13);
            put_numbers(out, &[*due_unix_ms]);
            put_text(out, batch.to.as_str(), "an address")?;
            run::put(out, batch)?;
        }
        Write::NoDelayed { due_unix_ms, id } => {
            out.push(14);
            put_numbers(out, &[*due_unix_ms]);
            out.extend_from_slice(&id.to_bytes());
        }
        Write::Due { due_unix_ms, batch, retention } => {
            out.push(23);
            put_numbers(out, &[*due_unix_ms]);
            put_messages(out, batch, *retention)?;
        }
        Write::LastSeen { user, unix_ms } => {
            put_texts(out, 15, &[user.as_str()])?;
            put_numbers(out, &[*unix_ms]);
        }
        Write::FirstSeen { user, unix_ms } => {
            put_texts(out, 22, &[user.as_str()])?;
            put_numbers(out, &[*unix_ms]);
        }
        Write::Queue(_) | Write::NoQueue { .. } | Write::QueueCursor { .. } => put_queue(out, write)?,
        Write::DedupKey { .. } | Write::NoDedupKey { .. } => put_dedup(out, write)?,
    }
    Ok(())
}

fn put_messages(out: &mut Vec<u8>, batch: &Batch, retention: Retention) -> Result<(), StoreError> {
    put_text(out, batch.to.as_str(), "an address")?;
    out.extend_from_slice(&batch.first.stream.epoch.to_be_bytes());
    put_numbers(out, &[batch.first.offset, retention.age_ms, retention.count, retention.bytes]);
    out.reserve(run::size_hint(batch));
    run::put(out, batch)
}

/// What is about queues.
fn put_queue(out: &mut Vec<u8>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Queue(record) => {
            put_texts(out, 16, &of_queue(&record.id))?;
            queue::put(out, record);
        }
        Write::NoQueue { id } => put_texts(out, 17, &of_queue(id))?,
        Write::QueueCursor { id, born_unix_ms, address, cursor } => {
            put_texts(out, 18, &of_queue(id))?;
            put_text(out, address.as_str(), "an address")?;
            queue::put_cursor(out, *born_unix_ms, cursor);
        }
        _ => {}
    }
    Ok(())
}

/// What is about dedup keys.
fn put_dedup(out: &mut Vec<u8>, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::DedupKey { key, message } => {
            out.push(20);
            out.extend_from_slice(&key.shard.to_be_bytes());
            dedup::put(out, key)?;
            message.as_ref().map_or(Ok(()), |message| put_body(out, message))
        }
        Write::NoDedupKey { shard, number, id } => {
            out.push(21);
            out.extend_from_slice(&shard.to_be_bytes());
            put_numbers(out, &[*number]);
            out.extend_from_slice(&id.to_bytes());
            Ok(())
        }
        _ => Ok(()),
    }
}

fn of_queue(id: &QueueId) -> [&str; 2] {
    [id.pattern().as_str(), id.name().as_str()]
}

fn put_letter(out: &mut Vec<u8>, letter: &DeadLetter) -> Result<(), StoreError> {
    put_id(out, 10, letter.id);
    put_place(out, (&letter.place(), &letter.recipient))?;
    put_numbers(out, &[letter.unix_ms]);
    out.extend_from_slice(&letter.attempts.to_be_bytes());
    put_text(out, &letter.cause, "the cause of a dead letter")?;
    put_text(out, &letter.detail, "the detail of a dead letter")?;
    put_text(out, letter.batch.to.as_str(), "an address")?;
    run::put(out, &letter.batch)
}

/// What is to be said of a letter's place, which becomes its key.
fn put_place(out: &mut Vec<u8>, (place, said): (&str, &str)) -> Result<(), StoreError> {
    const WHAT: &str = "the recipient of a dead letter";
    if place.len() > PLACE_BYTES_MAX {
        return Err(StoreError::TooLarge { what: WHAT });
    }
    put_text(out, said, WHAT)
}

fn put_id(out: &mut Vec<u8>, kind: u8, id: MessageId) {
    out.push(kind);
    out.extend_from_slice(&id.to_bytes());
}

fn put_texts(out: &mut Vec<u8>, kind: u8, texts: &[&str]) -> Result<(), StoreError> {
    out.push(kind);
    texts.iter().try_for_each(|text| put_text(out, text, "a name"))
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// The writes of a group's body. `None` for what is none: never where the checksum is right.
pub(super) fn parse_all(body: &[u8]) -> Option<Vec<Write>> {
    let mut reader = Reader { rest: body };
    let mut writes = Vec::new();
    while !reader.rest.is_empty() {
        let len = usize::try_from(reader.u32()?).ok()?;
        writes.push(parse(Reader { rest: reader.bytes(len)? })?);
    }
    Some(writes)
}

fn parse(mut reader: Reader<'_>) -> Option<Write> {
    let kind = reader.u8()?;
    parse_kind(kind, &mut reader).filter(|_| reader.rest.is_empty())
}

fn parse_kind(kind: u8, reader: &mut Reader<'_>) -> Option<Write> {
    Some(match kind {
        1 => {
            let (batch, retention) = parse_messages(reader)?;
            Write::Messages { batch, retention }
        }
        2 => {
            let (user, device) = (name(reader)?, reader.text()?);
            let device = if device.is_empty() { None } else { Some(Name::parse(device).ok()?) };
            Write::Cursor { user, device, address: address(reader)?, position: read_position(reader)? }
        }
        3 => Write::ReadMark {
            user: name(reader)?,
            address: address(reader)?,
            position: read_position(reader)?,
        },
        4 => parse_member(reader, JoinedBy::Member)?,
        5 => Write::NoMember { group: name(reader)?, user: name(reader)? },
        6 => Write::Group { group: name(reader)? },
        7 => Write::NoGroup { group: name(reader)? },
        8 => Write::Resume(ResumeRecord {
            token_hash: reader.array()?,
            expires_unix_ms: reader.u64()?,
            body: rest(reader).to_vec(),
        }),
        9 => Write::NoResume { token_hash: reader.array()? },
        10 => parse_letter(reader)?,
        11 => Write::NoDeadLetter { id: id(reader)?, place: reader.text()?.to_owned() },
        12 => Write::Ledger { id: id(reader)?, body: rest(reader).to_vec() },
        13 => {
            let (due_unix_ms, to) = (reader.u64()?, address(reader)?);
            Write::Delayed { due_unix_ms, batch: Arc::new(batch(reader, &to)?) }
        }
        14 => Write::NoDelayed { due_unix_ms: reader.u64()?, id: id(reader)? },
        15 => Write::LastSeen { user: name(reader)?, unix_ms: reader.u64()? },
        16 => Write::Queue(queue::parse(queue_id(reader)?, reader)?),
        17 => Write::NoQueue { id: queue_id(reader)? },
        18 => {
            let (id, address) = (queue_id(reader)?, address(reader)?);
            let (born_unix_ms, cursor) = queue::parse_cursor(reader)?;
            Write::QueueCursor { id, born_unix_ms, address, cursor }
        }
        19 => parse_member(reader, JoinedBy::Operator)?,
        20 => parse_dedup_key(reader)?,
        21 => Write::NoDedupKey { shard: reader.u16()?, number: reader.u64()?, id: id(reader)? },
        22 => Write::FirstSeen { user: name(reader)?, unix_ms: reader.u64()? },
        23 => {
            let due_unix_ms = reader.u64()?;
            let (batch, retention) = parse_messages(reader)?;
            Write::Due { due_unix_ms, batch, retention }
        }
        _ => return None,
    })
}

fn parse_member(reader: &mut Reader<'_>, by: JoinedBy) -> Option<Write> {
    Some(Write::Member { group: name(reader)?, user: name(reader)?, since: read_position(reader)?, by })
}

fn parse_messages(reader: &mut Reader<'_>) -> Option<(Arc<Batch>, Retention)> {
    let to = address(reader)?;
    let place: key::Place = (reader.u32()?, reader.u64()?);
    let retention = Retention { age_ms: reader.u64()?, count: reader.u64()?, bytes: reader.u64()? };
    let mut batch = batch(reader, &to)?;
    (batch.first.stream.epoch, batch.first.offset) = place;
    Some((Arc::new(batch), retention))
}

fn parse_letter(reader: &mut Reader<'_>) -> Option<Write> {
    let (id, recipient) = (id(reader)?, reader.text()?.to_owned());
    let (unix_ms, attempts) = (reader.u64()?, reader.u16()?);
    let (cause, detail) = (reader.text()?.to_owned(), reader.text()?.to_owned());
    let to = address(reader)?;
    let batch = Arc::new(batch(reader, &to)?);
    Some(Write::DeadLetter(DeadLetter { id, recipient, unix_ms, cause, attempts, detail, batch }))
}

fn parse_dedup_key(reader: &mut Reader<'_>) -> Option<Write> {
    let shard = reader.u16()?;
    let key = dedup::parse(shard, reader)?;
    if reader.rest.is_empty() {
        return Some(Write::DedupKey { key, message: None });
    }
    let kind = reader.u8().filter(|kind| matches!(kind, 1 | 13))?;
    Some(parse_kind(kind, reader)?.with_key(Some(key)))
}

fn rest<'a>(reader: &mut Reader<'a>) -> &'a [u8] {
    std::mem::take(&mut reader.rest)
}

/// The run that the rest is.
fn batch(reader: &mut Reader<'_>, to: &Address) -> Option<Batch> {
    Run::parse(Reader { rest: rest(reader) })?.to_batch(to)
}

fn queue_id(reader: &mut Reader<'_>) -> Option<QueueId> {
    let pattern = Pattern::parse(reader.text()?).ok()?;
    Some(QueueId::new(pattern, name(reader)?))
}

fn name(reader: &mut Reader<'_>) -> Option<Name> {
    Name::parse(reader.text()?).ok()
}

fn address(reader: &mut Reader<'_>) -> Option<Address> {
    Address::parse(reader.text()?).ok()
}

fn id(reader: &mut Reader<'_>) -> Option<MessageId> {
    Some(MessageId::from_bytes(reader.array()?))
}
