//! What one session was sent in one sequence: of one address, or of one queue and one origin worker.
//!
//! A lane is a list of runs in ascending order of their keys, without overlap. The key of a message is its place
//! in the sequence: (epoch, offset) of its position, or its count among its worker's messages. Memory is charged
//! once per batch and stretch of neighbouring runs of it, however often acks split the stretch.
//!
//! A run is late when others with higher keys were sent before it. A cumulative ack may have been on its way when
//! a late run was sent, so it covers one only if it names a message that was sent with or behind it.

use crate::message::Batch;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A message's place in its lane.
pub(super) type Key = (u32, u64);

/// Consecutive messages of one batch, sent together.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Of the first message.
    pub(super) key: Key,
    pub(super) batch: Arc<Batch>,
    pub(super) range: Range<u16>,
    pub(super) attempt: u16,
    pub(super) sent_ms: u64,
    /// Ascends with every run the lane is given.
    pub(super) turn: u64,
    pub(super) is_late: bool,
}

impl Run {
    pub(super) fn len(&self) -> u16 {
        self.range.end - self.range.start
    }

    /// The key behind the last message.
    fn end(&self) -> Key {
        (self.key.0, self.key.1 + u64::from(self.len()))
    }

    fn holds(&self, key: Key) -> bool {
        self.key <= key && key < self.end()
    }

    /// Takes the first `count` messages off.
    fn split_front(&mut self, count: u16) -> Self {
        let middle = self.range.start + count;
        let front = Self { range: self.range.start..middle, batch: self.batch.clone(), ..*self };
        self.key.1 += u64::from(count);
        self.range.start = middle;
        front
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    runs: VecDeque<Run>,
    pub(super) bytes: usize,
    pub(super) messages: usize,
    /// The stream's shard, for positions.
    pub(super) shard: u16,
    first_sent: Option<Key>,
    last_sent: Key,
    turns: u64,
    /// Whether any run may be late.
    has_late: bool,
}

impl Lane {
    /// Adds a run; messages of it that are in flight already are replaced.
    pub(super) fn insert(&mut self, mut run: Run) {
        let (start, end) = (run.key, run.end());
        self.turns += 1;
        run.turn = self.turns;
        self.messages += usize::from(run.len());
        let last: Key = (end.0, end.1.saturating_sub(1));
        self.has_late &= !self.runs.is_empty();
        if self.first_sent.is_none() || self.last_sent < start {
            self.insert_at(self.runs.len(), run);
        } else {
            run.is_late = true;
            self.insert_again(run);
        }
        self.first_sent = Some(self.first_sent.map_or(start, |first| first.min(start)));
        self.last_sent = self.last_sent.max(last);
    }

    /// Adds a run some of which was sent before. It is as old as what it replaces, if that is all of it.
    fn insert_again(&mut self, mut run: Run) {
        let (start, end) = (run.key, run.end());
        let (mut messages, mut turn, mut is_late) = (0, 0, false);
        while let Some(index) = self.overlap(start, end)
            && let Some(replaced) = self.take_within(index, start, end)
        {
            messages += replaced.len();
            turn = turn.max(replaced.turn);
            is_late |= replaced.is_late;
        }
        self.messages -= usize::from(messages);
        if messages == run.len() {
            (run.turn, run.is_late) = (turn, is_late);
        }
        self.has_late |= run.is_late;
        let index = self.runs.partition_point(|other| other.key < start);
        self.insert_at(index, run);
    }

    /// The turn up to which late runs are covered by a cumulative ack that names `upto`.
    pub(super) fn turn_of(&self, upto: Key) -> u64 {
        if self.has_late { self.find(upto).map_or(0, |run| run.turn) } else { 0 }
    }

    /// The first run that a cumulative ack covers, as far as it lies at or before `upto`, taken out.
    pub(super) fn pop_upto(&mut self, upto: Key, turn: u64) -> Option<Run> {
        let index = if self.has_late {
            let before = self.runs.iter().take_while(|run| run.key <= upto);
            before.into_iter().position(|run| !run.is_late || run.turn <= turn)?
        } else {
            0
        };
        let run = self.runs.get_mut(index).filter(|run| run.key <= upto)?;
        let run = if run.end() <= (upto.0, upto.1.saturating_add(1)) {
            self.remove_at(index)?
        } else {
            // The run ends behind `upto`, so they are of one epoch and the difference is below its length.
            let count = u16::try_from(upto.1 - run.key.1 + 1).unwrap_or(u16::MAX);
            run.split_front(count)
        };
        self.messages -= usize::from(run.len());
        Some(run)
    }

    /// One message, taken out.
    pub(super) fn take(&mut self, key: Key) -> Option<Run> {
        let end = (key.0, key.1 + 1);
        let index = self.overlap(key, end)?;
        self.messages -= 1;
        self.take_within(index, key, end)
    }

    /// The run that holds a message.
    pub(super) fn find(&self, key: Key) -> Option<&Run> {
        self.overlap(key, (key.0, key.1 + 1)).and_then(|index| self.runs.get(index))
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    pub(super) fn into_runs(self) -> impl Iterator<Item = Run> {
        self.runs.into_iter()
    }

    /// Takes everything in flight from `from` on that lies before `behind` out.
    pub(super) fn lose(&mut self, from: Key, behind: Key, out: &mut Vec<Run>) {
        while let Some(index) = self.overlap(from, behind)
            && let Some(run) = self.take_within(index, from, behind)
        {
            self.messages -= usize::from(run.len());
            out.push(run);
        }
    }

    /// Whether something at or behind `key` was sent.
    pub(super) fn was_sent(&self, key: Key) -> bool {
        self.first_sent.is_some() && key <= self.last_sent
    }

    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first run that shares a message with `start..end`.
    fn overlap(&self, start: Key, end: Key) -> Option<usize> {
        if self.runs.front().is_some_and(|front| front.holds(start)) {
            return Some(0);
        }
        let index = self.runs.partition_point(|run| run.end() <= start);
        self.runs.get(index).filter(|run| run.key < end).map(|_| index)
    }

    /// The part of run `index` within `start..end`, taken out; the rest stays.
    fn take_within(&mut self, index: usize, start: Key, end: Key) -> Option<Run> {
        let run = self.runs.get_mut(index)?;
        let before = if run.key < start { offset(run.key, start) } else { 0 };
        let behind = if end < run.end() { offset(end, run.end()) } else { 0 };
        if before + behind == 0 {
            return self.remove_at(index);
        }
        // Parts of one run lie next to each other, so what is charged stays the same.
        if before == 0 {
            return Some(run.split_front(run.len() - behind));
        }
        let front = run.split_front(before);
        if behind == 0 {
            return self.runs.get_mut(index).map(|run| std::mem::replace(run, front));
        }
        let taken = run.split_front(run.len() - behind);
        self.runs.insert(index, front);
        Some(taken)
    }

    fn insert_at(&mut self, index: usize, run: Run) {
        let before = self.charge(index);
        self.runs.insert(index, run);
        self.bytes = self.bytes + self.charge(index) + self.charge(index + 1) - before;
    }

    fn remove_at(&mut self, index: usize) -> Option<Run> {
        let before = self.charge(index) + self.charge(index + 1);
        let run = if index == 0 { self.runs.pop_front() } else { self.runs.remove(index) };
        self.bytes = self.bytes + self.charge(index) - before;
        run
    }

    /// What the run at `index` is charged: nothing when its neighbour pins the same batch.
    fn charge(&self, index: usize) -> usize {
        let Some(run) = self.runs.get(index) else { return 0 };
        let before = index.checked_sub(1).and_then(|index| self.runs.get(index));
        if before.is_some_and(|before| Arc::ptr_eq(&before.batch, &run.batch)) {
            0
        } else {
            run.batch.size_bytes()
        }
    }
}

/// Messages from `from` to `to`, which lie in one run.
fn offset(from: Key, to: Key) -> u16 {
    u16::try_from(to.1.saturating_sub(from.1)).unwrap_or(u16::MAX)
}
