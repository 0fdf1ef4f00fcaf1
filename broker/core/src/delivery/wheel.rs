//! Timers of one owner: a hierarchical wheel (Varghese and Lauck, 1987) of 6 levels of 64 slots, 1 ms fine.
//!
//! A timer is named by its owner's number, so there is at most one per number and a new one replaces it. Setting
//! and cancelling are O(1); a timer moves down at most once per level. A timer never fires early, and
//! [`Wheel::next_due_ms`] is never later than the earliest of them. Further away than 2 years a timer goes round
//! the outermost level again.

const LEVELS: usize = LEVEL_LAST as usize + 1;
const LEVEL_LAST: u8 = 5;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The span of all levels.
const SPAN_MS: u64 = 1 << (SLOT_BITS * 6);
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    due_ms: u64,
    previous: u32,
    next: u32,
    level: u8,
    slot: u8,
    is_set: bool,
}

const UNSET: Node = Node { due_ms: 0, previous: NONE, next: NONE, level: 0, slot: 0, is_set: false };

#[derive(Debug, Clone)]
struct Level {
    /// One bit per slot that has timers.
    occupied: u64,
    heads: [u32; SLOTS],
}

/// The timers of the numbers 0 to a bound that the owner keeps.
#[derive(Debug)]
pub(super) struct Wheel {
    elapsed_ms: u64,
    levels: [Level; LEVELS],
    nodes: Vec<Node>,
    len: usize,
}

impl Default for Wheel {
    fn default() -> Self {
        let level = Level { occupied: 0, heads: [NONE; SLOTS] };
        Self { elapsed_ms: 0, levels: std::array::from_fn(|_| level.clone()), nodes: Vec::new(), len: 0 }
    }
}

impl Wheel {
    /// Sets the timer of `key`, in place of the one it has.
    pub(super) fn set(&mut self, key: u32, due_ms: u64) {
        self.cancel(key);
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, UNSET);
        }
        self.len += 1;
        self.link(key, due_ms);
    }

    /// Takes the timer of `key` away, if it has one.
    pub(super) fn cancel(&mut self, key: u32) {
        if self.nodes.get(key as usize).is_some_and(|node| node.is_set) {
            self.unlink(key);
            self.len -= 1;
        }
    }

    /// One timer that is due at `now_ms`, earliest first, taken out of the wheel.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<u32> {
        loop {
            let Some((level, slot, start_ms)) = self.next_slot().filter(|(.., start)| *start <= now_ms)
            else {
                self.elapsed_ms = self.elapsed_ms.max(now_ms);
                return None;
            };
            self.elapsed_ms = self.elapsed_ms.max(start_ms);
            let head = self.levels.get(level)?.heads.get(slot).copied()?;
            if level == 0 {
                self.unlink(head);
                self.len -= 1;
                return Some(head);
            }
            self.move_down(head);
        }
    }

    /// When to call [`Self::pop_due`] next: no timer is due earlier.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.next_slot().map(|(.., start_ms)| start_ms)
    }

    /// When the timer of `key` is due.
    pub(super) fn due_ms(&self, key: u32) -> Option<u64> {
        self.nodes.get(key as usize).filter(|node| node.is_set).map(|node| node.due_ms)
    }

    /// Timers set.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The next occupied slot: level, slot and the moment it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let mut shift = 0;
        for (index, level) in self.levels.iter().enumerate() {
            if level.occupied != 0 {
                let now_slot = slot_of(self.elapsed_ms >> shift);
                let ahead = level.occupied.rotate_right(u32::from(now_slot)).trailing_zeros();
                let slot = slot_of(u64::from(now_slot) + u64::from(ahead));
                let round = 1 << (shift + SLOT_BITS);
                let mut start_ms = (self.elapsed_ms & !(round - 1)) + (u64::from(slot) << shift);
                if slot < now_slot {
                    start_ms += round;
                }
                return Some((index, usize::from(slot), start_ms));
            }
            shift += SLOT_BITS;
        }
        None
    }

    /// Puts a whole list of timers, whose slot begins now, into lower levels.
    fn move_down(&mut self, head: u32) {
        let mut key = head;
        while let Some(node) = self.nodes.get(key as usize).copied() {
            self.unlink(key);
            self.link(key, node.due_ms);
            key = node.next;
        }
    }

    fn link(&mut self, key: u32, due_ms: u64) {
        let when_ms = due_ms.clamp(self.elapsed_ms, self.elapsed_ms + SPAN_MS - SPAN_MS / SLOTS as u64);
        let distinct = (self.elapsed_ms ^ when_ms) | (SLOTS as u64 - 1);
        let level_index = slot_of(u64::from((63 - distinct.leading_zeros()) / SLOT_BITS)).min(LEVEL_LAST);
        let slot = slot_of(when_ms >> (SLOT_BITS * u32::from(level_index)));
        let Some(level) = self.levels.get_mut(usize::from(level_index)) else { return };
        let Some(head) = level.heads.get_mut(usize::from(slot)) else { return };
        let next = std::mem::replace(head, key);
        level.occupied |= 1 << slot;
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.previous = key;
        }
        if let Some(node) = self.nodes.get_mut(key as usize) {
            *node = Node { due_ms, previous: NONE, next, level: level_index, slot, is_set: true };
        }
    }

    fn unlink(&mut self, key: u32) {
        let Some(node) = self.nodes.get_mut(key as usize) else { return };
        let Node { previous, next, level, slot, .. } = *node;
        node.is_set = false;
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.previous = previous;
        }
        if let Some(node) = self.nodes.get_mut(previous as usize) {
            node.next = next;
            return;
        }
        let Some(level) = self.levels.get_mut(usize::from(level)) else { return };
        if let Some(head) = level.heads.get_mut(usize::from(slot)) {
            *head = next;
        }
        if next == NONE {
            level.occupied &= !(1 << slot);
        }
    }
}

/// A slot's number: the lowest bits.
#[expect(clippy::cast_possible_truncation, reason = "6 bits fit")]
const fn slot_of(number: u64) -> u8 {
    (number & (SLOTS as u64 - 1)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn due(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut keys: Vec<_> = std::iter::from_fn(|| wheel.pop_due(now_ms)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_timer_further_away_than_the_wheel_reaches() {
        let mut wheel = Wheel::default();
        let far = SPAN_MS * 3 + 17;
        wheel.set(0, far);
        assert_eq!(due(&mut wheel, far - 1), []);
        assert_eq!(due(&mut wheel, far), [0]);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn a_timer_of_the_past_fires_at_once() {
        let mut wheel = Wheel::default();
        assert_eq!(due(&mut wheel, 5_000), []);
        wheel.set(3, 10);
        assert_eq!(wheel.next_due_ms(), Some(5_000));
        assert_eq!(due(&mut wheel, 5_000), [3]);
    }

    proptest! {
        #[test]
        fn like_a_sorted_map(
            steps in prop::collection::vec((0u8..4, 0u32..24, 0u32..40, any::<u64>()), 1..300),
        ) {
            let (mut wheel, mut model, mut now_ms) = (Wheel::default(), BTreeMap::new(), 0);
            for (kind, key, scale, random) in steps {
                let distance = random & ((1 << scale) - 1);
                match kind {
                    0 | 1 => {
                        wheel.set(key, now_ms + distance);
                        model.insert(key, now_ms + distance);
                    }
                    2 => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    _ => {
                        now_ms += distance;
                        let expected: Vec<_> =
                            model.iter().filter(|(_, at)| **at <= now_ms).map(|(key, _)| *key).collect();
                        prop_assert_eq!(due(&mut wheel, now_ms), expected);
                        model.retain(|_, at| *at > now_ms);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert_eq!(wheel.next_due_ms().is_some(), !model.is_empty());
                if let (Some(next), Some(first)) = (wheel.next_due_ms(), model.values().min()) {
                    prop_assert!(next <= *first);
                }
            }
        }
    }
}
