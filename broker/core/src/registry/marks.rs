//! What was published last where somebody listens, or did until lately, so that a session that comes back can be told
//! whether it missed something.
//!
//! | of | is | from | until |
//! | --- | --- | --- | --- |
//! | an address | in its audience, and behind its end in [`LeftMarks`] | its first listener | room is needed for those left later |
//! | a pattern with wildcards | in each shard, under the pattern's number | its first subscriber | the same |
//!
//! Invariants: what is not known is taken for published. A mark that begins says of what was before what the whole
//! shard says; a pattern that begins anew has another number, under which nobody who knew the old one looks. So a mark
//! may say that more was published than was, never less. Not here: what a session has seen.

use super::Registry;
use super::shard::{Map, Shard};
use crate::address::{Address, Pattern};
use crate::id::{Position, SessionId};
use crate::limits;
use std::collections::VecDeque;

/// The last messages of an address, or of one shard's addresses that a pattern matches. Offsets; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    last: u64,
    unstored: u64,
    /// The session that the last one that was not stored left out, because it published it; or [`NOBODY`].
    excluded: u64,
    /// The last one before that was not stored and did not leave it out.
    others: u64,
}

/// No session's number, because there is no such worker. An `Option` would cost every connected user eight bytes.
const NOBODY: u64 = u64::MAX;

impl Default for Mark {
    /// Nothing was published.
    fn default() -> Self {
        Self { last: 0, unstored: 0, excluded: NOBODY, others: 0 }
    }
}

impl Mark {
    pub(super) const fn of_shard(shard: &Shard) -> Self {
        let (last, unstored) = (shard.next_offset, shard.unstored_upto);
        Self { last, unstored, excluded: NOBODY, others: unstored }
    }

    /// Something was published, up to this offset.
    pub(super) fn note(&mut self, offset: u64, is_stored: bool, excluded: Option<SessionId>) {
        self.last = offset;
        if is_stored {
            return;
        }
        let excluded = excluded.map_or(NOBODY, SessionId::as_u64);
        if excluded != self.excluded || excluded == NOBODY {
            (self.others, self.excluded) = (self.unstored, excluded);
        }
        self.unstored = offset;
    }

    /// The last message that nothing brings back to a session that was to have it.
    pub fn unstored_upto(&self, session: SessionId) -> u64 {
        if self.excluded == session.as_u64() { self.others } else { self.unstored }
    }

    /// The last message.
    pub const fn last(&self) -> u64 {
        self.last
    }
}

/// How it is known later what was published since a session has an address or a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// To an address, whose last position was this one.
    To(Position),
    /// To a pattern with wildcards that has this number now.
    Number(u64),
}

/// Keys in the order in which they were left, with those that came back since.
#[derive(Debug)]
pub(super) struct Order<K> {
    keys: VecDeque<(K, u64)>,
    count: u64,
}

impl<K> Default for Order<K> {
    fn default() -> Self {
        Self { keys: VecDeque::new(), count: 0 }
    }
}

impl<K> Order<K> {
    /// Appends a key; the number tells this leaving from the key's others.
    pub(super) fn push(&mut self, key: K) -> u64 {
        self.count += 1;
        self.keys.push_back((key, self.count));
        self.count
    }

    /// Takes the key out that was left first and did not come back.
    pub(super) fn pop(&mut self, is_left: impl Fn(&K, u64) -> bool) -> Option<K> {
        while let Some((key, count)) = self.keys.pop_front() {
            if is_left(&key, count) {
                return Some(key);
            }
        }
        None
    }

    /// Drops keys that came back once they are more than the others may be.
    pub(super) fn tidy(&mut self, most: usize, is_left: impl Fn(&K, u64) -> bool) {
        if self.keys.len() > 2 * most {
            self.keys.retain(|(key, count)| is_left(key, *count));
        }
    }
}

/// Marks of one shard's addresses that nobody listens to any more.
#[derive(Debug, Default)]
pub(super) struct LeftMarks {
    marks: Map<Address, (Mark, u64)>,
    order: Order<Address>,
}

impl LeftMarks {
    pub(super) fn get(&self, address: &Address) -> Option<&Mark> {
        self.marks.get(address).map(|(mark, _)| mark)
    }

    pub(super) fn get_mut(&mut self, address: &Address) -> Option<&mut Mark> {
        if self.marks.is_empty() {
            return None;
        }
        self.marks.get_mut(address).map(|(mark, _)| mark)
    }

    pub(super) fn take(&mut self, address: &Address) -> Option<Mark> {
        self.marks.remove(address).map(|(mark, _)| mark)
    }

    pub(super) fn insert(&mut self, address: Address, mark: Mark) {
        let count = self.order.push(address.clone());
        let Self { marks, order } = self;
        marks.insert(address, (mark, count));
        if marks.len() > limits::LEFT_ADDRESSES_PER_SHARD_MAX {
            let oldest =
                order.pop(|address, count| marks.get(address).is_some_and(|(_, left)| *left == count));
            oldest.and_then(|oldest| marks.remove(&oldest));
        }
        order.tidy(limits::LEFT_ADDRESSES_PER_SHARD_MAX, |address, count| {
            marks.get(address).is_some_and(|(_, left)| *left == count)
        });
    }
}

impl Registry {
    /// What was published to an address.
    pub fn mark_of(&self, address: &Address) -> Mark {
        let locked = self.lock(address);
        let shard = &*locked.shard;
        let known = shard.audiences.get(address).map(|audience| &audience.mark);
        known.or_else(|| shard.left.get(address)).copied().unwrap_or_else(|| Mark::of_shard(shard))
    }

    /// What was published in one shard to what a pattern matches since it has this number. Without one, or in a shard
    /// there is not, what was published in the shard.
    pub fn mark_in(&self, shard: u16, number: Option<u64>) -> Mark {
        if usize::from(shard) >= limits::SHARD_COUNT {
            return Mark::default();
        }
        let shard = self.shard(shard);
        match number {
            Some(number) => shard.patterns.get(&number).copied().unwrap_or_default(),
            None => Mark::of_shard(&shard),
        }
    }

    /// The number of a pattern with wildcards that somebody subscribes to, or did until lately.
    pub fn number_of(&self, pattern: &Pattern) -> Option<u64> {
        self.wildcards.read().unwrap().number_of(pattern)
    }
}

#[cfg(test)]
mod tests;
