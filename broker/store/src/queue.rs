//! The records of queues: which there are, and how far each is in an address.
//!
//! ```text
//! queue         born(8) seen(8) begin(1) rest      begin 0  earliest
//!                                                  begin 1  last: position(14) …
//!                                                  begin 2  time: unix_ms(8)
//!                                                  begin 3  after: position(14) …
//! queue cursor  born(8) position(14) then for each stretch: from epoch(4) offset(8), behind epoch(4) offset(8)
//! ```
//! Everything up to the position is done, and what lies in the stretches. `born` is that of the queue: a cursor with
//! another is of an earlier queue of the same name, and means nothing.

use crate::key::Place;
use crate::record::{Reader, put_position, read_position};
use crate::store::{QueueBegin, QueueRecord};
use waspmq_core::delivery::QueueCursor;
use waspmq_core::{Position, QueueId};

pub(crate) fn put(out: &mut Vec<u8>, record: &QueueRecord) {
    out.extend_from_slice(&record.born_unix_ms.to_be_bytes());
    out.extend_from_slice(&record.seen_unix_ms.to_be_bytes());
    let positions = |out: &mut Vec<u8>, positions: &[Position]| {
        positions.iter().for_each(|position| put_position(out, *position));
    };
    match &record.begin {
        QueueBegin::Earliest => out.push(0),
        QueueBegin::Last(before) => {
            out.push(1);
            positions(out, before);
        }
        QueueBegin::Time(unix_ms) => {
            out.push(2);
            out.extend_from_slice(&unix_ms.to_be_bytes());
        }
        QueueBegin::After(before) => {
            out.push(3);
            positions(out, before);
        }
    }
}

/// The record of a queue, which is all that is left to read.
pub(crate) fn parse(id: QueueId, reader: &mut Reader<'_>) -> Option<QueueRecord> {
    let (born_unix_ms, seen_unix_ms) = (reader.u64()?, reader.u64()?);
    let begin = match reader.u8()? {
        0 => QueueBegin::Earliest,
        1 => QueueBegin::Last(positions(reader)?),
        2 => QueueBegin::Time(reader.u64()?),
        3 => QueueBegin::After(positions(reader)?),
        _ => return None,
    };
    reader.rest.is_empty().then_some(QueueRecord { id, born_unix_ms, seen_unix_ms, begin })
}

fn positions(reader: &mut Reader<'_>) -> Option<Box<[Position]>> {
    let mut found = Vec::new();
    while !reader.rest.is_empty() {
        found.push(read_position(reader)?);
    }
    Some(found.into())
}

pub(crate) fn put_cursor(out: &mut Vec<u8>, born_unix_ms: u64, cursor: &QueueCursor) {
    out.extend_from_slice(&born_unix_ms.to_be_bytes());
    put_position(out, cursor.upto);
    for (epoch, offset) in cursor.done.iter().flat_map(|(from, behind)| [from, behind]) {
        out.extend_from_slice(&epoch.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
    }
}

/// When the queue of a cursor was made, and the cursor, which is all that is left to read.
pub(crate) fn parse_cursor(reader: &mut Reader<'_>) -> Option<(u64, QueueCursor)> {
    let (born_unix_ms, upto) = (reader.u64()?, read_position(reader)?);
    let mut done = Vec::new();
    while !reader.rest.is_empty() {
        done.push((place(reader)?, place(reader)?));
    }
    Some((born_unix_ms, QueueCursor { upto, done }))
}

fn place(reader: &mut Reader<'_>) -> Option<Place> {
    Some((reader.u32()?, reader.u64()?))
}
