//! Conflation: which waiting segment is the latest of its key.
//!
//! The index exists from the first overflow on which a conflating segment meets a full queue until the queue
//! has been empty. While it exists, a new segment displaces the waiting one of its key at once, so that at most
//! one waits per key. It holds numbers, which only lead to an item that is looked at before it is dropped: a
//! number that is out of date costs a missed conflation and never a message.

use super::{Class, Item, Lost, Queue, Segment};
use crate::settings::Overflow;
use hashbrown::{HashMap, HashSet};
use std::hash::BuildHasher;

/// Numbers of items by the hash of address and key.
#[derive(Debug)]
pub(super) struct Latest {
    hasher: foldhash::fast::RandomState,
    by_key: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// Number of the first item of the queue.
    head: u64,
}

impl Default for Latest {
    fn default() -> Self {
        Self { hasher: Default::default(), by_key: HashMap::default(), head: HEAD_AT_FIRST }
    }
}

impl Latest {
    /// The first item is gone, or one of the first few, which then keep numbers that are out of date.
    pub(super) const fn handle_popped(&mut self) {
        self.head += 1;
    }

    /// There is one more item in front, or among the first few.
    pub(super) const fn handle_pushed_first(&mut self) {
        self.head -= 1;
    }

    fn hash(&self, class: &Class) -> Option<u64> {
        class.conflated_by().map(|(to, key)| self.hasher.hash_one((to.as_str(), key)))
    }

    /// Where the latest segment with the key of `class` was seen.
    fn find(&self, class: &Class) -> Option<usize> {
        let number = self.by_key.get(&self.hash(class)?)?;
        number.checked_sub(self.head).and_then(|index| usize::try_from(index).ok())
    }

    fn note(&mut self, class: &Class, index: usize) {
        if let Some(hash) = self.hash(class) {
            self.by_key.insert(hash, self.head + index as u64);
        }
    }

    pub(super) fn is_stale(&self, items: usize) -> bool {
        self.by_key.len() > 2 * items + STALE_KEYS
    }
}

/// In the middle of the numbers, because the queue grows at both ends.
const HEAD_AT_FIRST: u64 = 1 << 63;
/// Keys without an item that the index may hold beside as many as there are items.
const STALE_KEYS: usize = 64;

impl<S: Segment> Queue<S> {
    /// Drops all waiting segments of which a newer one has the key, and keeps it so.
    pub(super) fn begin_conflation(&mut self, lost: &mut Vec<Lost<S>>) {
        self.rare.get_or_insert_default().latest = Some(Latest::default());
        for index in 0..self.items.len() {
            let Some(Item::Shared(segment)) = self.items.get(index) else { continue };
            let older = self.superseded_by(segment.class());
            if let Some(latest) = self.rare.as_mut().and_then(|rare| rare.latest.as_mut()) {
                latest.note(segment.class(), index);
            }
            self.drop_at(older, lost);
        }
        self.tidy();
    }

    /// Drops the waiting segments of the address of `segment` of which that or another one is newer with the same key,
    /// and keeps nothing in mind.
    pub(super) fn conflate_once(&mut self, segment: &S, lost: &mut Vec<Lost<S>>) {
        let of_address = |class: &Class| class.to == segment.class().to;
        let mut seen: HashSet<Box<[u8]>, foldhash::fast::RandomState> = HashSet::default();
        seen.extend(segment.class().key.clone());
        for index in (self.first_waiting()..self.items.len()).rev() {
            let Some(Item::Shared(waiting)) = self.items.get(index) else { continue };
            let class = waiting.class();
            let Some(key) = class.key.as_deref().filter(|_| of_address(class)) else { continue };
            if seen.contains(key) {
                self.drop_at(Some(index), lost);
            } else {
                seen.insert(key.into());
            }
        }
        self.tidy();
    }

    /// Drops the waiting segment with the key of `segment`, which is newer.
    pub(super) fn drop_superseded_by(&mut self, segment: &S, lost: &mut Vec<Lost<S>>) {
        let older = self.superseded_by(segment.class());
        if older.is_some() {
            self.drop_at(older, lost);
            self.tidy();
        }
    }

    /// Where a segment waits with the key of a newer one.
    fn superseded_by(&self, newer: &Class) -> Option<usize> {
        let index = self.rare.as_ref()?.latest.as_ref()?.find(newer)?;
        let same = |item: &Item<S>| match item {
            Item::Shared(segment) => segment.class().conflated_by() == newer.conflated_by(),
            Item::Own(_) | Item::Gone => false,
        };
        (index >= self.first_waiting() && self.items.get(index).is_some_and(same)).then_some(index)
    }

    fn drop_at(&mut self, index: Option<usize>, lost: &mut Vec<Lost<S>>) {
        if let Some(segment) = index.and_then(|index| self.take(index)) {
            self.lose(segment, Overflow::Conflate, lost);
        }
    }

    /// Notes the items from `index` on, which are new or have moved.
    pub(super) fn note_from(&mut self, index: usize) {
        let Some(latest) = self.rare.as_mut().and_then(|rare| rare.latest.as_mut()) else { return };
        for (index, item) in self.items.iter().enumerate().skip(index) {
            if let Item::Shared(segment) = item {
                latest.note(segment.class(), index);
            }
        }
        if latest.is_stale(self.items.len()) {
            self.renumber();
        }
    }

    /// Notes all items again after they moved.
    pub(super) fn renumber(&mut self) {
        let Some(latest) = self.rare.as_mut().and_then(|rare| rare.latest.as_mut()) else { return };
        latest.by_key.clear();
        for (index, item) in self.items.iter().enumerate() {
            if let Item::Shared(segment) = item {
                latest.note(segment.class(), index);
            }
        }
    }
}
