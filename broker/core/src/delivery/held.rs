//! Stretches of messages that a cursor must not pass.

use super::lane::Key;
use crate::limits;
use smallvec::SmallVec;

/// Stretches (from, behind) in ascending order, without overlap; at most [`limits::WINDOW_HELD_MAX`].
#[derive(Debug, Clone, Default)]
pub(super) struct Held(SmallVec<[(Key, Key); 1]>);

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the first stretch begins.
    pub(super) fn first(&self) -> Option<Key> {
        self.0.first().map(|held| held.0)
    }

    pub(super) fn overlaps(&self, from: Key, behind: Key) -> bool {
        self.0.iter().any(|held| held.0 < behind && from < held.1)
    }

    pub(super) fn hold(&mut self, from: Key, behind: Key) {
        self.release(from, behind);
        let index = self.0.partition_point(|held| held.0 < from);
        match index.checked_sub(1).and_then(|before| self.0.get_mut(before)) {
            Some(before) if before.1 == from => before.1 = behind,
            _ => self.0.insert(index, (from, behind)),
        }
        if self.0.len() > limits::WINDOW_HELD_MAX
            && let Some((_, end)) = self.0.pop()
            && let Some(last) = self.0.last_mut()
        {
            // Holding more than must be only makes the cursor stay behind, and that only repeats messages.
            last.1 = end;
        }
    }

    pub(super) fn release(&mut self, from: Key, behind: Key) {
        if !self.overlaps(from, behind) {
            return;
        }
        let rest = |held: (Key, Key)| [(held.0, held.1.min(from)), (held.0.max(behind), held.1)];
        self.0 = self.0.iter().flat_map(|held| rest(*held)).filter(|part| part.0 < part.1).collect();
    }
}
