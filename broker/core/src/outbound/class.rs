//! What an outbound queue must know of a segment, and what it hands back.

use crate::address::Address;
use crate::id::Position;
use crate::limits::PRIORITY_MAX;
use crate::settings::Overflow;
use std::ops::Deref;

/// Priorities from 0; higher ones count as the highest.
pub const PRIORITIES: usize = PRIORITY_MAX as usize + 1;

/// Encoded frames that lie one behind the other, of messages of one address.
pub trait Segment: Deref<Target = [u8]> {
    /// Messages in the segment; 0 where it is none, see [`Queue::push_bare`](super::Queue::push_bare).
    fn frames(&self) -> u32;

    fn class(&self) -> &Class;
}

/// What is written next of one item of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a, S> {
    pub bytes: &'a [u8],
    /// The segment in which the bytes lie; none when they are the connection's own.
    pub segment: Option<&'a S>,
}

/// What the messages of a segment have in common.
#[derive(Debug, Clone)]
pub struct Class {
    pub to: Address,
    /// What is done when the segment does not fit, unless the caller decides otherwise. For `Spill` its messages
    /// must be in the store.
    pub overflow: Overflow,
    pub priority: u8,
    /// Of the first message.
    pub first: Position,
    /// Offset of the last message, in the same stream.
    pub last_offset: u64,
    /// What a newer segment of the same address must have for this one to be of no more use, where that is how
    /// room is made. A segment with a key holds one message.
    pub key: Option<Box<[u8]>>,
    /// When all its messages are of no more use, milliseconds since 1970; 0 is never.
    pub expires_unix_ms: u64,
    /// Whether all its messages are in the store, so that it may be left to it.
    pub is_stored: bool,
    /// Whether the connection was chosen for it as a member of a queue. Such a segment is not read from the
    /// store again: where it would be spilled it is dropped.
    pub of_queue: bool,
}

impl Class {
    /// Whether it may make room for others.
    pub(super) const fn is_droppable(&self) -> bool {
        matches!(self.overflow, Overflow::DropOldest | Overflow::Conflate)
    }

    /// Whether it is like most: what it counts for is known without looking at it.
    pub(super) const fn is_plain(&self) -> bool {
        self.priority == 0 && self.expires_unix_ms == 0 && self.is_droppable()
    }

    pub(super) fn level(&self) -> usize {
        usize::from(self.priority).min(PRIORITIES - 1)
    }

    /// The position of its last message.
    pub const fn last(&self) -> Position {
        Position { stream: self.first.stream, offset: self.last_offset }
    }

    pub(super) const fn gives_way_to(&self, other: &Self) -> bool {
        self.priority < other.priority && self.first.stream.shard != other.first.stream.shard
    }

    /// Whether its time is over.
    pub const fn has_expired(&self, now_unix_ms: u64) -> bool {
        self.expires_unix_ms != 0 && self.expires_unix_ms <= now_unix_ms
    }

    /// What is compared for conflation.
    pub(super) fn conflated_by(&self) -> Option<(&Address, &[u8])> {
        let key = self.key.as_deref().filter(|_| self.overflow == Overflow::Conflate)?;
        Some((&self.to, key))
    }
}

/// A segment that is not in the queue, or not any more.
#[derive(Debug)]
pub struct Lost<S> {
    pub segment: S,
    /// What was done. Where nothing waits that may make room, the new segment is dropped: `DropNewest`.
    pub action: Overflow,
}
