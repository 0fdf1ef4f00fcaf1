//! The progress of a session in one address.

use crate::delivery::held::Held;
use crate::id::{MessageId, Position, Stream};
use crate::limits;
use std::collections::{BTreeSet, VecDeque};

/// Order of positions in one address: its shard is the same in all epochs.
type Place = (u32, u64);

/// Consecutive messages of one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) first: Position,
    pub(super) first_id: MessageId,
    pub(super) messages: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) runs: VecDeque<Run>,
    /// The last message that was sent.
    last: Position,
    /// Up to where everything is acknowledged but for what was lost.
    reached: Option<Position>,
    /// The same, before the first loss.
    pub(super) cursor: Option<Position>,
    is_moved: bool,
    /// The end of what was forgotten without an acknowledgement: single acks do not move the cursor over it.
    forgotten: Option<Position>,
    /// Acknowledged behind a message that is not.
    early: BTreeSet<Place>,
    /// Absent while nothing was lost.
    losses: Option<Box<Losses>>,
}

/// What was dropped on its way.
#[derive(Debug, Clone, Default)]
struct Losses {
    held: Held,
    /// What of it was sent again, with the last place that was sent before.
    again: VecDeque<(Run, Place)>,
}

const fn place(position: Position) -> Place {
    (position.stream.epoch, position.offset)
}

impl Progress {
    pub(super) const fn new(last: Position) -> Self {
        Self {
            runs: VecDeque::new(),
            last,
            reached: None,
            cursor: None,
            is_moved: false,
            forgotten: None,
            early: BTreeSet::new(),
            losses: None,
        }
    }

    /// The last message that was sent.
    pub(super) const fn last(&self) -> Position {
        self.last
    }

    /// Takes a run down; false when it was sent before and still is in its place in the order.
    pub(super) fn sent(&mut self, run: Run) -> bool {
        let last = run.last();
        if place(last) <= place(self.last) {
            let before = place(self.last);
            if self.losses.as_mut().is_some_and(|losses| losses.sent_again(run, before)) {
                return true;
            }
            // What is sent again was sent before: its place in the order is the earlier one.
            if !self.runs.is_empty() {
                return false;
            }
        } else {
            self.last = last;
            if let Some(losses) = &mut self.losses {
                // Was passed over before.
                losses.held.release(place(run.first), run.end());
            }
        }
        if self.runs.len() >= limits::CURSOR_RUNS_MAX {
            self.forgotten = self.runs.pop_front().map(|run| run.last());
        }
        self.runs.push_back(run);
        true
    }

    /// A position, or that of the last message when it is the earlier one.
    pub(super) fn sent_upto(&self, upto: Position) -> Position {
        if place(upto) > place(self.last) { self.last } else { upto }
    }

    pub(super) fn was_sent(&self, position: Position) -> bool {
        position.stream.shard == self.last.stream.shard && place(position) <= place(self.last)
    }

    /// Says whether the cursor has moved for the first time since it was taken; so do the other acks.
    pub(super) fn ack_upto(&mut self, upto: Position) -> bool {
        while let Some(run) = self.runs.front_mut() {
            let behind = run.behind(upto);
            if behind == 0 {
                break;
            }
            if behind >= run.messages {
                self.runs.pop_front();
                continue;
            }
            run.skip(behind);
        }
        self.early = self.early.split_off(&(upto.stream.epoch, upto.offset.saturating_add(1)));
        self.forgotten = self.forgotten.filter(|&forgotten| place(forgotten) > place(upto));
        if let Some(losses) = &mut self.losses {
            losses.ack_upto(place(upto));
        }
        self.reach(upto);
        self.advance();
        self.move_cursor()
    }

    /// One message is acknowledged; `None` when it is not in flight.
    pub(super) fn ack(&mut self, position: Position) -> Option<bool> {
        let is_of_lost = self.losses.as_mut().is_some_and(|losses| losses.ack(place(position)));
        if !is_of_lost {
            self.run_of(position)?;
            self.early.insert(place(position));
            if self.early.len() > limits::CURSOR_RUNS_MAX {
                self.early.pop_first();
            }
            self.advance();
        }
        Some(self.move_cursor())
    }

    /// Whether a message is in flight.
    pub(super) fn holds(&self, position: Position) -> bool {
        let is_of_lost = self.losses.as_ref().is_some_and(|losses| losses.holds(place(position)));
        is_of_lost || self.run_of(position).is_some() && !self.early.contains(&place(position))
    }

    /// Whether a message is acknowledged, by itself or with those behind it.
    pub(super) fn is_acked(&self, position: Position) -> bool {
        let at = place(position);
        if !self.was_sent(position)
            || self.losses.as_ref().is_some_and(|losses| losses.held.overlaps(at, (at.0, at.1 + 1)))
        {
            return false;
        }
        match self.run_of(position) {
            Some(_) => self.early.contains(&at),
            None => self.reached.is_some_and(|reached| at <= place(reached)),
        }
    }

    /// Messages of one stream were dropped on their way.
    pub(super) fn lose(&mut self, first: Position, last_offset: u64) {
        let (from, behind) = (place(first), (first.stream.epoch, last_offset.saturating_add(1)));
        let mut is_known = self.forgotten.is_some_and(|forgotten| from <= place(forgotten));
        let index = self.runs.partition_point(|run| run.end() <= from);
        while let Some(run) = self.runs.get(index).copied()
            && place(run.first) < behind
        {
            self.runs.remove(index);
            is_known = true;
            let (mut before, mut after) = (run, run);
            before.messages = from.1.saturating_sub(run.first.offset);
            after.skip((behind.1 - run.first.offset).min(run.messages));
            if after.messages > 0 {
                self.runs.insert(index, after);
            }
            if before.messages > 0 {
                self.runs.insert(index, before);
                break;
            }
            if after.messages > 0 {
                break;
            }
        }
        if let Some(losses) = &mut self.losses {
            is_known |= losses.held.overlaps(from, behind);
            losses.again.retain(|(run, _)| run.end() <= from || behind <= place(run.first));
        }
        if is_known {
            self.losses.get_or_insert_default().held.hold(from, behind);
        }
    }

    /// Messages of one stream are of no more use, as far as they are in flight. Says whether the cursor has moved, as an ack
    /// does.
    pub(super) fn pass(&mut self, first: Position, last_offset: u64) -> bool {
        let (from, behind) = (place(first), (first.stream.epoch, last_offset.saturating_add(1)));
        let within = |run: Run| {
            let end = (run.first.offset + run.messages).min(behind.1);
            (run.first.offset.max(from.1)..end).map(move |offset| Position { offset, ..run.first })
        };
        let runs = self.runs().filter(|run| place(run.first) < behind && from < run.end());
        let passed: Vec<_> = runs.flat_map(within).collect();
        passed
            .into_iter()
            .filter_map(|position| self.ack(position))
            .fold(false, |moved, by_ack| moved | by_ack)
    }

    /// Messages were not sent for lack of room.
    pub(super) fn pass_over(&mut self, first: Position, behind: Position) {
        self.losses.get_or_insert_default().held.hold(place(first), place(behind));
    }

    /// Says whether the cursor is to be taken for the first time since it was.
    pub(super) const fn keep_moved(&mut self) -> bool {
        !std::mem::replace(&mut self.is_moved, true)
    }

    pub(super) fn take_moved(&mut self) -> Option<Position> {
        self.is_moved = false;
        self.cursor
    }

    pub(super) fn is_settled(&self) -> bool {
        self.runs.is_empty() && self.losses.as_ref().is_none_or(|losses| losses.held.is_empty())
    }

    /// Whether nothing is lost when it is forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.is_settled() && !self.is_moved
    }

    /// Everything in flight.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let again = self.losses.iter().flat_map(|losses| losses.again.iter().map(|(run, _)| *run));
        self.runs.iter().copied().chain(again)
    }

    fn run_of(&self, position: Position) -> Option<&Run> {
        let index = self.runs.partition_point(|run| run.end() <= place(position));
        self.runs.get(index).filter(|run| run.holds(place(position)))
    }

    /// Moves over everything at the front that was acknowledged early.
    fn advance(&mut self) {
        while let Some(run) = self.runs.front_mut() {
            let first = run.first;
            if !self.early.remove(&place(first)) {
                return;
            }
            if run.messages == 1 {
                self.runs.pop_front();
            } else {
                run.skip(1);
            }
            if self.forgotten.is_none() {
                self.reach(first);
            }
        }
    }

    fn reach(&mut self, upto: Position) {
        if self.reached.is_none_or(|reached| place(reached) < place(upto)) {
            self.reached = Some(upto);
        }
    }

    /// Moves the cursor to where the acknowledgements have got, or before the first loss.
    fn move_cursor(&mut self) -> bool {
        let Some(mut upto) = self.reached else { return false };
        if let Some((epoch, offset)) = self.losses.as_ref().and_then(|losses| losses.held.first())
            && (epoch, offset) <= place(upto)
        {
            // What begins at the very first has nothing before it.
            let Some(offset) = offset.checked_sub(1) else { return false };
            upto = Position { stream: Stream { epoch, ..upto.stream }, offset };
        }
        if self.cursor.is_some_and(|cursor| place(cursor) >= place(upto)) {
            return false;
        }
        self.cursor = Some(upto);
        !std::mem::replace(&mut self.is_moved, true)
    }
}

impl Losses {
    /// Takes down that a run was sent again; false when nothing of it was lost. Of too many the oldest is
    /// forgotten: it stays lost.
    fn sent_again(&mut self, run: Run, before: Place) -> bool {
        if !self.held.overlaps(place(run.first), run.end()) {
            return false;
        }
        if self.again.len() >= limits::WINDOW_HELD_MAX {
            self.again.pop_front();
        }
        self.again.push_back((run, before));
        true
    }

    /// A cumulative ack may have been on its way when something was sent again: it covers that when it names
    /// one of its messages, or one that was sent behind it.
    fn ack_upto(&mut self, upto: Place) {
        for (run, before) in &self.again {
            if upto > *before {
                self.held.release(place(run.first), run.end());
            } else if run.holds(upto) {
                self.held.release(place(run.first), (upto.0, upto.1.saturating_add(1)));
            }
        }
        self.forget();
    }

    fn ack(&mut self, at: Place) -> bool {
        let is_held = self.holds(at);
        if is_held {
            self.held.release(at, (at.0, at.1 + 1));
            self.forget();
        }
        is_held
    }

    /// Whether a message was lost, sent again, and is not acknowledged.
    fn holds(&self, at: Place) -> bool {
        self.held.overlaps(at, (at.0, at.1.saturating_add(1)))
            && self.again.iter().any(|(run, _)| run.holds(at))
    }

    /// Forgets what is acknowledged.
    fn forget(&mut self) {
        let Self { held, again } = self;
        again.retain(|(run, _)| held.overlaps(place(run.first), run.end()));
    }
}

impl Run {
    /// How many of its messages lie at or before `upto`.
    fn behind(&self, upto: Position) -> u64 {
        match self.first.stream.epoch.cmp(&upto.stream.epoch) {
            std::cmp::Ordering::Less => self.messages,
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Equal => {
                upto.offset.saturating_add(1).saturating_sub(self.first.offset).min(self.messages)
            }
        }
    }

    /// The position of its last message.
    pub(super) const fn last(&self) -> Position {
        Position { stream: self.first.stream, offset: self.first.offset + self.messages.saturating_sub(1) }
    }

    /// The place behind its last message.
    const fn end(&self) -> Place {
        (self.first.stream.epoch, self.first.offset + self.messages)
    }

    fn holds(&self, at: Place) -> bool {
        place(self.first) <= at && at < self.end()
    }

    /// Forgets its first `count` messages.
    const fn skip(&mut self, count: u64) {
        self.first.offset += count;
        self.first_id = self.first_id.later(count);
        self.messages -= count;
    }
}
