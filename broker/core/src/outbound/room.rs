//! Making room in a full queue.

use super::{Item, Lost, PRIORITIES, Queue, Segment};
use crate::settings::Overflow;

/// Where segments of several priorities or actions wait, a pass over the queue frees at least this part of the
/// bound, so that its cost is shared by the many segments that then fit.
const SWEEP_SHARE: usize = 8;

impl<S: Segment> Queue<S> {
    /// Makes room for a segment that does not fit.
    ///
    /// # Errors
    /// What is to be done with the segment itself instead.
    pub(super) fn make_room(
        &mut self,
        action: Overflow,
        segment: &S,
        bound_bytes: usize,
        lost: &mut Vec<Lost<S>>,
    ) -> Result<(), Overflow> {
        let class = segment.class();
        match action {
            Overflow::DropOldest => {}
            Overflow::Spill if !class.is_stored => {}
            Overflow::Conflate if class.overflow != Overflow::Conflate => {
                self.conflate_once(segment, lost);
                if self.shared_bytes + segment.len() > bound_bytes {
                    // Another such pass is far off then.
                    let bound_bytes = bound_bytes - bound_bytes / SWEEP_SHARE;
                    return self.drop_least(segment, bound_bytes, lost);
                }
            }
            Overflow::Conflate => {
                if self.rare.as_ref().is_none_or(|rare| rare.latest.is_none()) {
                    self.begin_conflation(lost);
                    self.drop_superseded_by(segment, lost);
                }
            }
            Overflow::Spill if class.of_queue => return Err(Overflow::DropNewest),
            Overflow::Spill if !self.rare.get_or_insert_default().spilled.mark(class) => {
                return Err(Overflow::Close);
            }
            action @ (Overflow::DropNewest | Overflow::Spill | Overflow::Close) => return Err(action),
        }
        self.drop_least(segment, bound_bytes, lost)
    }

    /// Drops waiting segments of the least priority, of these the oldest, until `segment` fits or nothing waits.
    fn drop_least(
        &mut self,
        segment: &S,
        bound_bytes: usize,
        lost: &mut Vec<Lost<S>>,
    ) -> Result<(), Overflow> {
        let need = (self.shared_bytes + segment.len()).saturating_sub(bound_bytes).min(self.shared_bytes);
        let droppable_bytes = self.droppable_bytes();
        let mut available = droppable_bytes;
        if self.written > 0
            && let Some(Item::Shared(begun)) = self.items.front()
            && let Some(bytes) = available.get_mut(begun.class().level())
            && begun.class().is_droppable()
        {
            *bytes -= begun.len();
        }
        let levels = segment.class().level() + 1;
        let in_reach: usize = available.iter().take(levels).sum();
        if in_reach < need {
            return Err(Overflow::DropNewest);
        }
        if need == 0 {
            return Ok(());
        }
        if droppable_bytes.iter().take(levels).any(|&bytes| bytes == self.shared_bytes) {
            self.drop_oldest(need, lost);
        } else {
            self.sweep(need.max(bound_bytes / SWEEP_SHARE).min(in_reach), &available, lost);
        }
        Ok(())
    }

    /// The plain case: all segments have one priority and may be dropped.
    fn drop_oldest(&mut self, need: usize, lost: &mut Vec<Lost<S>>) {
        let target = self.shared_bytes.saturating_sub(need);
        let mut index = self.first_waiting();
        while self.shared_bytes > target {
            match self.items.get(index) {
                Some(Item::Shared(_)) => {
                    if let Some(segment) = self.take(index) {
                        self.lose(segment, Overflow::DropOldest, lost);
                    }
                }
                Some(Item::Own(_)) => {
                    index += 1;
                    continue;
                }
                Some(Item::Gone) => {}
                None => break,
            }
            // What lies before it is little and moves up by one, as if the first item had been taken.
            self.items.remove(index);
            self.gone -= 1;
            if let Some(rare) = &mut self.rare {
                rare.handle_popped(self.items.is_empty());
            }
        }
        self.tidy();
    }

    /// Bytes of the shared segments that may be dropped, by priority.
    pub(super) fn droppable_bytes(&self) -> [usize; PRIORITIES] {
        let rare = self.rare.as_deref();
        let mut bytes = rare.map_or([0; PRIORITIES], |rare| rare.droppable_bytes);
        let [least, ..] = &mut bytes;
        *least += self.shared_bytes - rare.map_or(0, |rare| rare.special_bytes);
        bytes
    }

    /// Frees `target` bytes in one pass: whole priorities from the least on, of the last one its oldest.
    fn sweep(&mut self, target: usize, available: &[usize; PRIORITIES], lost: &mut Vec<Lost<S>>) {
        let (mut last, mut left) = (0, target);
        for &bytes in available {
            if left <= bytes {
                break;
            }
            left -= bytes;
            last += 1;
        }
        let kept_before = self.rare.as_ref().map_or(0, |rare| rare.kept_before);
        let mut first_left = None;
        for index in kept_before.max(self.first_waiting())..self.items.len() {
            let Some(Item::Shared(segment)) = self.items.get(index) else { continue };
            let (class, len) = (segment.class(), segment.len());
            let level = class.level();
            if !class.is_droppable() {
                continue;
            }
            if level > last || level == last && left == 0 {
                first_left.get_or_insert(index);
                continue;
            }
            if level == last {
                left = left.saturating_sub(len);
            }
            if let Some(segment) = self.take(index) {
                self.lose(segment, Overflow::DropOldest, lost);
            }
        }
        if let Some(rare) = &mut self.rare {
            rare.kept_before = first_left.unwrap_or(self.items.len());
        }
        self.tidy();
    }
}
