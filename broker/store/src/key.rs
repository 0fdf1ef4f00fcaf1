//! Keys: what a record is found by.
//!
//! Names and addresses contain no byte 0, so it separates them and no key is the beginning of another's part.
//! Numbers are big endian, so keys order as what they name.
//!
//! ```text
//! messages   address 0 epoch(4) offset(8)          epoch and offset of the LAST message of the run
//! state      'a' address                           what is known of an address
//!            'c' user 0 device 0 address           cursor; the device is empty where there is none
//!            'd' id(16) recipient                  dead letter
//!            'g' group                             group
//!            'k' shard(2) slot(2)                  dedup key
//!            'l' id(16)                            ledger
//!            'm' group 0 user                      member
//!            'n'                                   the last group of the log that was applied
//!            'p' address 0 pattern 0 name          how far a queue is in an address
//!            'q' pattern 0 name                    queue
//!            'r' user 0 address                    read mark
//!            's' token hash(32)                    what a session is resumed from
//!            't'                                   bytes of the ledgers
//!            'u' user                              last seen
//!            'w' due(8) id(16)                     delayed message
//! ```

use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId, limits};

pub(crate) const ADDRESS: u8 = b'a';
pub(crate) const CURSOR: u8 = b'c';
pub(crate) const DEAD_LETTER: u8 = b'd';
pub(crate) const GROUP: u8 = b'g';
pub(crate) const DEDUP: u8 = b'k';
pub(crate) const LEDGER: u8 = b'l';
pub(crate) const MEMBER: u8 = b'm';
pub(crate) const APPLIED: u8 = b'n';
pub(crate) const QUEUE_CURSOR: u8 = b'p';
pub(crate) const QUEUE: u8 = b'q';
pub(crate) const READ_MARK: u8 = b'r';
pub(crate) const RESUME: u8 = b's';
pub(crate) const LEDGER_TALLY: u8 = b't';
pub(crate) const LAST_SEEN: u8 = b'u';
pub(crate) const DELAYED: u8 = b'w';

/// Bytes of epoch and offset at the end of a run's key.
pub(crate) const PLACE_BYTES: usize = 12;

/// Epoch and offset: a position without its shard, which is the same for all messages of an address.
pub(crate) type Place = (u32, u64);

pub(crate) const fn place(position: Position) -> Place {
    (position.stream.epoch, position.offset)
}

/// The place right behind.
pub(crate) const fn behind((epoch, offset): Place) -> Place {
    match offset.checked_add(1) {
        Some(offset) => (epoch, offset),
        None => (epoch.saturating_add(1), 0),
    }
}

/// The key of the run whose last message is at `last`.
pub(crate) fn run(address: &str, (epoch, offset): Place) -> Vec<u8> {
    let mut key = Vec::with_capacity(address.len() + 1 + PLACE_BYTES);
    key.extend_from_slice(address.as_bytes());
    key.push(0);
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The first key behind all runs of an address.
pub(crate) fn runs_end(address: &str) -> Vec<u8> {
    [address.as_bytes(), &[1]].concat()
}

/// Address and last place of a run's key.
pub(crate) fn parse_run(key: &[u8]) -> Option<(&str, Place)> {
    let (rest, offset) = key.split_last_chunk::<8>()?;
    let (rest, epoch) = rest.split_last_chunk::<4>()?;
    let (&0, address) = rest.split_last()? else { return None };
    let address = std::str::from_utf8(address).ok()?;
    Some((address, (u32::from_be_bytes(*epoch), u64::from_be_bytes(*offset))))
}

pub(crate) fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len() + 1).sum::<usize>());
    key.push(tag);
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            key.push(0);
        }
        key.extend_from_slice(part);
    }
    key
}

pub(crate) fn address(address: &str) -> Vec<u8> {
    tagged(ADDRESS, &[address.as_bytes()])
}

pub(crate) fn cursor(user: &Name, device: Option<&Name>, address: &Address) -> Vec<u8> {
    let device = device.map_or("", Name::as_str);
    tagged(CURSOR, &[user.as_str().as_bytes(), device.as_bytes(), address.as_str().as_bytes()])
}

pub(crate) fn read_mark(user: &Name, address: &Address) -> Vec<u8> {
    tagged(READ_MARK, &[user.as_str().as_bytes(), address.as_str().as_bytes()])
}

/// The address of a cursor's or a read mark's key.
pub(crate) fn last_part(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.rsplit(|byte| *byte == 0).next()?).ok()
}

pub(crate) fn member(group: &Name, user: &Name) -> Vec<u8> {
    tagged(MEMBER, &[group.as_str().as_bytes(), user.as_str().as_bytes()])
}

pub(crate) fn named(tag: u8, name: &Name) -> Vec<u8> {
    tagged(tag, &[name.as_str().as_bytes()])
}

pub(crate) fn queue(id: &QueueId) -> Vec<u8> {
    tagged(QUEUE, &[id.pattern().as_str().as_bytes(), id.name().as_str().as_bytes()])
}

pub(crate) fn queue_cursor(id: &QueueId, address: &str) -> Vec<u8> {
    let (pattern, name) = (id.pattern().as_str().as_bytes(), id.name().as_str().as_bytes());
    tagged(QUEUE_CURSOR, &[address.as_bytes(), pattern, name])
}

/// The queue of a key: of itself, or of its cursor in an address.
pub(crate) fn parse_queue(key: &[u8]) -> Option<QueueId> {
    let (tag, rest) = key.split_first()?;
    let mut parts = std::str::from_utf8(rest).ok()?.split('\0');
    if *tag == QUEUE_CURSOR {
        parts.next()?;
    }
    let (pattern, name) = (parts.next()?, parts.next()?);
    parts.next().is_none().then_some(())?;
    Some(QueueId::new(Pattern::parse(pattern).ok()?, Name::parse(name).ok()?))
}

/// All cursors of queues in an address: the first key, and the first one behind them.
pub(crate) fn queue_cursors(address: &str) -> (Vec<u8>, Vec<u8>) {
    let ending = |last| [&[QUEUE_CURSOR], address.as_bytes(), &[last]].concat();
    (ending(0), ending(1))
}

/// Where the dedup key of a publish is: each place of a shard is taken again by as many publishes later as it has places.
pub(crate) fn dedup(shard: u16, number: u64) -> Vec<u8> {
    let slot = number % limits::DEDUP_KEYS_PER_SHARD as u64;
    let [.., a, b] = slot.to_be_bytes();
    [&[DEDUP][..], &shard.to_be_bytes(), &[a, b]].concat()
}

const _: () = assert!(limits::DEDUP_KEYS_PER_SHARD <= 1 << 16, "a slot has two bytes");

/// All dedup keys of a shard: the first key, and the first one behind them.
pub(crate) fn dedups(shard: u16) -> (Vec<u8>, Vec<u8>) {
    let from = [&[DEDUP][..], &shard.to_be_bytes()].concat();
    let to = [&*from, &[0xff; 3]].concat();
    (from, to)
}

/// The shard of a dedup key.
pub(crate) fn parse_dedup(key: &[u8]) -> Option<u16> {
    let [DEDUP, a, b, _, _] = key else { return None };
    Some(u16::from_be_bytes([*a, *b]))
}

pub(crate) fn resume(token_hash: &[u8; 32]) -> Vec<u8> {
    tagged(RESUME, &[token_hash])
}

/// `place` as [`crate::DeadLetter::place`] has it, or a recipient alone, as formats before 5 have it.
pub(crate) fn dead_letter(id: MessageId, place: &str) -> Vec<u8> {
    let mut key = tagged(DEAD_LETTER, &[&id.to_bytes()]);
    key.extend_from_slice(place.as_bytes());
    key
}

pub(crate) fn ledger(id: MessageId) -> Vec<u8> {
    tagged(LEDGER, &[&id.to_bytes()])
}

pub(crate) fn delayed(due_unix_ms: u64, id: MessageId) -> Vec<u8> {
    let mut key = tagged(DELAYED, &[&due_unix_ms.to_be_bytes()]);
    key.extend_from_slice(&id.to_bytes());
    key
}
