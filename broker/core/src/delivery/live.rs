//! A flight that has not ended: its parts, and what a report or a moment does to them.
//!
//! Invariants: `open` is the number of (message, recipient) pairs without an end; `due_ms` is not later than the
//! earliest moment anything of it is due. What the publisher is told is in [`super::receipts`].

use super::backoff::draw;
use super::event::Event;
use super::flight::{Cell, Note, Part, State};
use super::ledger::{Common, LedgerEntry};
use super::receipts::{Outcome, Publishers, Receipts};
use super::tracker::{Failed, Flight, Report, Share, Stopping, Turn};
use super::waiting::Waiting;
use super::{AckPlan, Cause, Exhausted, Recipient};
use crate::id::MessageId;
use crate::limits;
use crate::message::Batch;
use crate::policy::{Decision, Failure};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;

/// What a flight needs of its tracker and its caller.
pub(super) struct Surroundings<'a, 'b> {
    /// Where the flight is kept.
    pub(super) slot: u32,
    pub(super) publishers: &'a Publishers,
    pub(super) waiting: &'a mut Waiting,
    pub(super) seed: u64,
    pub(super) turn: &'a mut Turn<'b>,
}

/// Milliseconds from `begun_ms` to `ms`, at most [`limits::DELIVERY_MS_MAX`].
pub(super) fn since(begun_ms: u64, ms: u64) -> u32 {
    u32::try_from(ms.saturating_sub(begun_ms)).unwrap_or(u32::MAX)
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) common: Common,
    pub(super) batch: Arc<Batch>,
    /// In ascending order of the recipients.
    pub(super) parts: SmallVec<[Part; 1]>,
    plan: AckPlan,
    pub(super) receipts: Receipts,
    pub(super) begun_ms: u64,
    pub(super) open: usize,
    /// Of the reasons in its parts.
    reasons_bytes: usize,
    pub(super) due_ms: u64,
    /// The earliest end of a message's time to live.
    expires_ms: u64,
}

/// The stretches of a range, and whether their time to live is over.
type Stretches = SmallVec<[(Range<u16>, bool); 1]>;

impl Live {
    /// The flight with everything sent or planned, and whether anything is planned. `None` without messages or
    /// recipients; the publisher is told then.
    pub(super) fn new(flight: Flight, turn: &mut Turn<'_>) -> Option<(Self, bool)> {
        let Flight { batch, recipients, offline, mut plan, publisher, references } = flight;
        let messages = u16::try_from(batch.messages.len()).unwrap_or(u16::MAX);
        let first = batch.messages.first()?.id;
        plan.timeout_ms = plan.timeout_ms.max(1);
        plan.attempts = plan.attempts.clamp(1, limits::ATTEMPTS_MAX);
        let cell = |state, attempt, due| Cell { state, cause: None, attempt, due, at: 0 };
        let (sent, planned) = (cell(State::Sent, 1, plan.timeout_ms), cell(State::Planned, 0, u32::MAX));
        let is_offline = !offline.is_empty();
        let mut parts: SmallVec<[Part; 1]> =
            recipients.into_iter().map(|recipient| Part::new(recipient, messages, sent)).collect();
        if parts.len() + offline.len() > 1 {
            parts.extend(offline.into_iter().map(|recipient| Part::new(recipient, messages, planned)));
            parts.sort_by(|a, b| a.recipient.cmp(&b.recipient));
            parts.dedup_by(|a, b| a.recipient == b.recipient);
        } else {
            parts.extend(offline.into_iter().map(|recipient| Part::new(recipient, messages, planned)));
        }
        let receipts = Receipts::new((publisher, references), (parts.len(), messages), plan.quorum);
        let mut live = Self {
            common: Common::new(&batch, first, messages, plan),
            batch,
            open: parts.len() * usize::from(messages),
            parts,
            plan,
            receipts,
            begun_ms: turn.now_ms,
            reasons_bytes: 0,
            due_ms: turn.now_ms + u64::from(plan.timeout_ms),
            expires_ms: u64::MAX,
        };
        if live.parts.is_empty() {
            live.receipts.tell(&live.batch, 0..messages, Outcome::Failed(Cause::Offline, 0), turn.out);
            return None;
        }
        live.expires_ms = (0..messages).map(|index| live.expiry_ms(index)).min().unwrap_or(u64::MAX);
        live.due_ms = live.due_ms.min(live.expires_ms);
        Some((live, is_offline))
    }

    /// Decides about the recipients that are offline from the beginning.
    pub(super) fn handle_begun(&mut self, around: &mut Surroundings<'_, '_>) {
        for part in 0..self.parts.len() {
            for (range, cell) in
                self.cells(part, 0..self.common.messages, |cell| cell.state == State::Planned)
            {
                self.fail(part, (range, cell), (Cause::Offline, None), around);
            }
        }
    }

    pub(super) fn handle_note(
        &mut self,
        report: &Report<'_>,
        range: &Range<u16>,
        state: State,
        why: (Option<&Failed>, u64),
    ) {
        if let Some(part) = self.part(report.recipient) {
            self.note(part, report.to_note(range.clone(), state, why, self.begun_ms));
        }
    }

    fn note(&mut self, part: usize, note: Note) {
        let Some(part) = self.parts.get_mut(part) else { return };
        let before = part.reasons_bytes;
        part.note(note);
        self.reasons_bytes = self.reasons_bytes + part.reasons_bytes - before;
    }

    /// Gives how many messages this ended.
    pub(super) fn handle_acked(
        &mut self,
        report: &Report<'_>,
        range: &Range<u16>,
        (now_ms, publishers): (u64, &Publishers),
        out: &mut Vec<Event>,
    ) -> usize {
        let Some(index) = self.part(report.recipient) else { return 0 };
        let at = since(self.begun_ms, now_ms);
        let note = report.to_note(range.clone(), State::Acked, (None, now_ms), self.begun_ms);
        let Some(part) = self.parts.get_mut(index) else { return 0 };
        let mut acked: SmallVec<[Range<u16>; 4]> = SmallVec::new();
        part.runs.update(range.clone(), |range, cell| {
            if cell.state.is_end() {
                return None;
            }
            match acked.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => acked.push(range),
            }
            Some(Cell { state: State::Acked, due: u32::MAX, at, ..cell })
        });
        if acked.is_empty() {
            return 0;
        }
        self.note(index, note);
        let mut messages = 0;
        for range in acked {
            messages += range.len();
            self.open -= range.len();
            self.receipts.settle((&self.batch, &range), Outcome::Acked, publishers, out);
        }
        messages
    }

    /// Gives for how many messages this counted.
    pub(super) fn handle_failed(
        &mut self,
        report: &Report<'_>,
        range: &Range<u16>,
        failed: Failed,
        around: &mut Surroundings<'_, '_>,
    ) -> usize {
        let Some(part) = self.part(report.recipient) else { return 0 };
        let is_current = |cell: &Cell| cell.state == State::Sent && cell.attempt == report.attempt;
        let cells = self.cells(part, range.clone(), is_current);
        let state = if failed.cause == Cause::Nack { State::Nacked } else { State::Failed };
        self.handle_note(report, range, state, (Some(&failed), around.turn.now_ms));
        let mut messages = 0;
        for (range, mut cell) in cells {
            messages += range.len();
            if failed.cause == Cause::Offline {
                cell.attempt = cell.attempt.saturating_sub(1);
            }
            self.fail(part, (range, cell), (failed.cause, failed.retry_ms), around);
        }
        messages
    }

    pub(super) fn handle_online(&mut self, recipient: &Recipient, around: &mut Surroundings<'_, '_>) {
        let Some(index) = self.part(recipient) else { return };
        if let Some(part) = self.parts.get_mut(index) {
            part.is_waiting = false;
        }
        for (range, cell) in self.cells(index, 0..self.common.messages, |cell| cell.state == State::Planned) {
            self.send_or_expire(index, (range, cell), around);
        }
    }

    /// Handles everything that is due and finds the next moment.
    pub(super) fn handle_due(&mut self, around: &mut Surroundings<'_, '_>) {
        let now_ms = around.turn.now_ms;
        let (begun_ms, expires_ms) = (self.begun_ms, self.expires_ms);
        for part in 0..self.parts.len() {
            let is_due = |cell: &Cell| begun_ms + u64::from(cell.due) <= now_ms;
            let concerns = |cell: &Cell| !cell.state.is_end() && (is_due(cell) || expires_ms <= now_ms);
            for (range, cell) in self.cells(part, 0..self.common.messages, concerns) {
                match cell.state {
                    _ if !is_due(&cell) => self.expire(part, (range, cell), around),
                    State::Sent => self.fail(part, (range, cell), (Cause::Timeout, None), around),
                    _ => self.send_or_expire(part, (range, cell), around),
                }
            }
        }
        self.find_due();
    }

    /// Ends what is open for recipients that get no more, as far as the share goes; gives whether that was all.
    pub(super) fn handle_stop(
        &mut self,
        stopping: &Stopping<'_>,
        share: &mut Share,
        around: &mut Surroundings<'_, '_>,
    ) -> bool {
        for index in 0..self.parts.len() {
            let open = self.cells(index, 0..self.common.messages, |cell| !cell.state.is_end());
            let Some(part) = self.parts.get(index) else { continue };
            if open.is_empty() || !(stopping.is_over)(&part.recipient) {
                continue;
            }
            if share.is_used() {
                return false;
            }
            let is_kept = (stopping.is_kept)(&self.batch, &part.recipient);
            let bytes = if is_kept && self.batch.is_kept { 0 } else { self.batch.size_bytes() };
            share.take(open.iter().map(|(range, _)| range.len()).sum(), bytes);
            for (range, cell) in open {
                for (range, is_expired) in self.stretches(range, around.turn.now_ms) {
                    if is_kept && !is_expired {
                        self.end_as(index, (range, cell), (State::Stored, Cause::Stopped), around);
                    } else {
                        let cause = if is_expired { Cause::Expired } else { Cause::Stopped };
                        self.end(index, (range, cell), cause, around);
                    }
                }
            }
        }
        true
    }

    /// Whether a recipient's next session reads a part of it from the store.
    pub(super) fn is_left_to_store(&self) -> bool {
        self.parts.iter().any(|part| part.runs.iter().any(|(_, cell)| cell.state == State::Stored))
    }

    pub(super) fn entry(&self, id: MessageId) -> Option<LedgerEntry> {
        self.common.entry(id, &self.parts, self.begun_ms)
    }

    /// Memory charged: the batch, and what was said about it.
    pub(super) fn bytes(&self) -> usize {
        self.batch.size_bytes() + self.reasons_bytes
    }

    /// Where a recipient's part is.
    fn part(&self, recipient: &Recipient) -> Option<usize> {
        match self.parts.as_slice() {
            [part] => (part.recipient == *recipient).then_some(0),
            parts => parts.binary_search_by(|part| part.recipient.cmp(recipient)).ok(),
        }
    }

    /// The cells of a part within `range` that are `wanted`.
    fn cells(
        &self,
        part: usize,
        range: Range<u16>,
        wanted: impl Fn(&Cell) -> bool,
    ) -> SmallVec<[(Range<u16>, Cell); 4]> {
        let Some(part) = self.parts.get(part) else { return SmallVec::new() };
        let within = |run: Range<u16>| run.start.max(range.start)..run.end.min(range.end);
        let cells = part.runs.iter().map(|(run, cell)| (within(run), cell));
        cells.filter(|(range, cell)| !range.is_empty() && wanted(cell)).collect()
    }

    fn set(&mut self, part: usize, range: Range<u16>, cell: Cell) {
        if !cell.state.is_end() {
            self.due_ms = self.due_ms.min(self.begun_ms + u64::from(cell.due));
        }
        if let Some(part) = self.parts.get_mut(part) {
            part.runs.update(range, |_, _| Some(cell));
        }
    }

    /// Decides what is done about a failed attempt.
    fn fail(
        &mut self,
        index: usize,
        (range, cell): (Range<u16>, Cell),
        (cause, retry_ms): (Cause, Option<u32>),
        around: &mut Surroundings<'_, '_>,
    ) {
        let now_ms = around.turn.now_ms;
        for (range, is_expired) in self.stretches(range, now_ms) {
            if is_expired {
                self.end(index, (range, cell), Cause::Expired, around);
                continue;
            }
            let (state, after_ms) = match self.decide(index, (&range, cell), (cause, retry_ms), around) {
                Decision::GiveUp => {
                    self.end(index, (range, cell), cause, around);
                    continue;
                }
                Decision::Retry { after_ms } => (State::Retrying, after_ms),
                Decision::Wait { at_most_ms } => (State::Planned, at_most_ms),
            };
            let due_ms = now_ms + after_ms.clamp(1, limits::RETRY_WAIT_MS_MAX);
            let (due, at) = (since(self.begun_ms, due_ms), since(self.begun_ms, now_ms));
            self.set(index, range, Cell { state, cause: Some(cause), due, at, ..cell });
            if state == State::Planned
                && let Some(part) = self.parts.get_mut(index).filter(|part| !part.is_waiting)
            {
                part.is_waiting = true;
                let flight = (self.common.first.count(), around.slot);
                around.waiting.insert(part.recipient.clone(), flight);
            }
        }
    }

    /// What the policies decide, within the bounds of every plan.
    fn decide(
        &self,
        index: usize,
        (range, cell): (&Range<u16>, Cell),
        (cause, retry_ms): (Cause, Option<u32>),
        around: &mut Surroundings<'_, '_>,
    ) -> Decision {
        let envelope = self.batch.messages.get(usize::from(range.start));
        let (Some(envelope), Some(part)) = (envelope, self.parts.get(index)) else { return Decision::GiveUp };
        let waited_ms = around.turn.now_ms.saturating_sub(self.begun_ms);
        let failure = Failure {
            to: &self.batch.to,
            from: self.batch.from.as_ref(),
            id: envelope.id,
            messages: range.end - range.start,
            recipient: &part.recipient,
            cause,
            attempt: cell.attempt,
            waited_ms,
            retry_ms,
            plan: &self.plan,
            random: draw(around.seed, envelope.id.count(), cell.attempt),
        };
        around.turn.acking.failed(&failure).within(&failure)
    }

    /// Sends what is still of use, and ends the rest.
    fn send_or_expire(
        &mut self,
        index: usize,
        (range, cell): (Range<u16>, Cell),
        around: &mut Surroundings<'_, '_>,
    ) {
        let now_ms = around.turn.now_ms;
        for (range, is_expired) in self.stretches(range, now_ms) {
            if is_expired {
                self.end(index, (range, cell), Cause::Expired, around);
                continue;
            }
            let attempt = cell.attempt.saturating_add(1);
            let (at, due_ms) = (since(self.begun_ms, now_ms), now_ms + u64::from(self.plan.timeout_ms));
            let due = since(self.begun_ms, due_ms);
            self.set(index, range.clone(), Cell { state: State::Sent, attempt, due, at, ..cell });
            self.redeliver(index, range, attempt, around.turn.out);
        }
    }

    /// Asks for the delivery of a range, apart for each session that is to be avoided.
    fn redeliver(&self, index: usize, range: Range<u16>, attempt: u16, out: &mut Vec<Event>) {
        let Some(part) = self.parts.get(index) else { return };
        let avoid = |message| match part.recipient {
            Recipient::User(_) => None,
            Recipient::Queue(_) => part.last_failed(message),
        };
        let mut start = range.start;
        while start < range.end {
            let avoided = avoid(start);
            let is_user = matches!(part.recipient, Recipient::User(_));
            let others = (start + 1..range.end).find(|message| !is_user && avoid(*message) != avoided);
            let end = others.unwrap_or(range.end);
            out.push(Event::Redeliver {
                batch: self.batch.clone(),
                range: start..end,
                recipient: part.recipient.clone(),
                attempt,
                avoid: avoided,
            });
            start = end;
        }
    }

    /// Ends the messages of a range whose time to live is over.
    fn expire(&mut self, index: usize, (range, cell): (Range<u16>, Cell), around: &mut Surroundings<'_, '_>) {
        for (range, is_expired) in self.stretches(range, around.turn.now_ms) {
            if is_expired {
                self.end(index, (range, cell), Cause::Expired, around);
            }
        }
    }

    /// Ends messages without an ack.
    fn end(
        &mut self,
        index: usize,
        messages: (Range<u16>, Cell),
        cause: Cause,
        around: &mut Surroundings<'_, '_>,
    ) {
        let state = match (cause, self.plan.exhausted) {
            (Cause::Expired, _) => State::Expired,
            (_, Exhausted::DeadLetter) => State::DeadLettered,
            (_, Exhausted::Drop) => State::Dropped,
        };
        self.end_as(index, messages, (state, cause), around);
    }

    fn end_as(
        &mut self,
        index: usize,
        (range, cell): (Range<u16>, Cell),
        (state, cause): (State, Cause),
        around: &mut Surroundings<'_, '_>,
    ) {
        let at = since(self.begun_ms, around.turn.now_ms);
        self.set(index, range.clone(), Cell { state, cause: Some(cause), due: u32::MAX, at, ..cell });
        self.open -= range.len();
        let Some(part) = self.parts.get(index) else { return };
        let (batch, recipient, attempts) = (self.batch.clone(), part.recipient.clone(), cell.attempt);
        let ended = range.clone();
        around.turn.out.push(match state {
            State::DeadLettered => {
                let reason = part.reason(ended.start, attempts).filter(|_| cause == Cause::Nack);
                Event::DeadLetter { batch, range: ended, recipient, cause, attempts, reason }
            }
            State::Stored => Event::Store { batch, range: ended, recipient },
            _ => Event::Dropped { batch, range: ended, recipient, cause, attempts },
        });
        let outcome = Outcome::Failed(cause, attempts);
        self.receipts.settle((&self.batch, &range), outcome, around.publishers, around.turn.out);
    }

    /// The moment a message is of no more use, on the monotonic clock.
    fn expiry_ms(&self, index: u16) -> u64 {
        match self.batch.messages.get(usize::from(index)).map(|envelope| envelope.expires_unix_ms) {
            None | Some(0) => u64::MAX,
            Some(at) => self.batch.published_us / 1_000 + at.saturating_sub(self.batch.unix_ms),
        }
    }

    fn stretches(&self, range: Range<u16>, now_ms: u64) -> Stretches {
        if now_ms < self.expires_ms {
            return smallvec![(range, false)];
        }
        let mut stretches = Stretches::new();
        for index in range {
            let is_expired = self.expiry_ms(index) <= now_ms;
            match stretches.last_mut() {
                Some((stretch, same)) if *same == is_expired => stretch.end = index + 1,
                _ => stretches.push((index..index + 1, is_expired)),
            }
        }
        stretches
    }

    /// Finds the earliest moment anything is due; looks at every run.
    fn find_due(&mut self) {
        let (mut due, mut expires_ms) = (u32::MAX, u64::MAX);
        for part in &self.parts {
            for (range, cell) in part.runs.iter().filter(|(_, cell)| !cell.state.is_end()) {
                due = due.min(cell.due);
                if self.expires_ms != u64::MAX {
                    expires_ms = range.map(|index| self.expiry_ms(index)).fold(expires_ms, u64::min);
                }
            }
        }
        self.expires_ms = expires_ms;
        self.due_ms = expires_ms.min(self.begun_ms + u64::from(due));
    }
}
