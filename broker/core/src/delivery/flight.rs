//! One batch on its way: the state of each of its messages for each of its recipients.
//!
//! | state | ack | failure | due | recipient online |
//! | --- | --- | --- | --- | --- |
//! | planned | acked | – | sent | sent |
//! | sent | acked | retrying, planned, expired or an end | as a failure with cause `timeout` | – |
//! | retrying | acked | – | sent | – |
//! | acked, expired, dead-lettered, dropped, stored | – | – | – | – |
//!
//! Consecutive messages with the same fate are one [`Run`], so that a batch that is acknowledged as a whole costs
//! as much as a message. A failure counts for the attempt it names and no other; an ack counts for any. Times are
//! kept relative to the flight's beginning. Not here: decisions about failures, and what an end means.

use super::ledger::{DeviceRow, RecipientRow};
use super::{Cause, Recipient};
use crate::address::Name;
use crate::id::SessionId;
use crate::limits;
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;

/// How far a message is with a recipient, or with one of its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waits for a session of the recipient.
    Planned,
    Sent,
    Acked,
    /// Refused for now; of sessions only.
    Nacked,
    /// The attempt failed otherwise; of sessions only.
    Failed,
    /// Waits for the next attempt.
    Retrying,
    Expired,
    DeadLettered,
    Dropped,
    /// The broker left service; the store has it for the recipient's next session.
    Stored,
}

impl State {
    /// The word in ledgers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Nacked => "nacked",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
            Self::Expired => "expired",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Stored => "stored",
        }
    }

    /// Whether nothing more can happen to the message for this recipient.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Acked | Self::Expired | Self::DeadLettered | Self::Dropped | Self::Stored)
    }
}

/// The state of one message for one recipient. Milliseconds since the flight began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) state: State,
    pub(super) cause: Option<Cause>,
    /// Deliveries made, the one under way included.
    pub(super) attempt: u16,
    /// When the state ends by itself.
    pub(super) due: u32,
    /// When the state began.
    pub(super) at: u32,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    start: u16,
    cell: Cell,
}

/// The cells of a batch. Runs ascend, begin with 0 and are never empty; neighbours differ.
#[derive(Debug)]
pub(super) struct Runs {
    runs: SmallVec<[Run; 2]>,
    len: u16,
}

impl Runs {
    fn new(len: u16, cell: Cell) -> Self {
        Self { runs: smallvec![Run { start: 0, cell }], len }
    }

    /// Replaces the cells of `range` for which `change` has others.
    pub(super) fn update(
        &mut self,
        range: Range<u16>,
        mut change: impl FnMut(Range<u16>, Cell) -> Option<Cell>,
    ) {
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return;
        }
        let first = self.split(range.start);
        let behind = self.split(range.end);
        for index in first..behind {
            let end = self.end(index);
            if let Some(run) = self.runs.get_mut(index)
                && let Some(cell) = change(run.start..end, run.cell)
            {
                run.cell = cell;
            }
        }
        self.merge(first.max(1), (behind + 1).min(self.runs.len()));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<u16>, Cell)> {
        let ends = self.runs.iter().skip(1).map(|run| run.start).chain([self.len]);
        self.runs.iter().zip(ends).map(|(run, end)| (run.start..end, run.cell))
    }

    fn at(&self, index: u16) -> Option<Cell> {
        let behind = self.runs.partition_point(|run| run.start <= index);
        self.runs.get(behind.checked_sub(1)?).map(|run| run.cell)
    }

    /// Makes a run begin at `at` and gives its place; the number of runs for the end of the batch.
    fn split(&mut self, at: u16) -> usize {
        if at >= self.len {
            return self.runs.len();
        }
        let behind = self.runs.partition_point(|run| run.start <= at);
        match behind.checked_sub(1).and_then(|index| self.runs.get(index)) {
            Some(run) if run.start < at => {
                let cell = run.cell;
                self.runs.insert(behind, Run { start: at, cell });
                behind
            }
            _ => behind.saturating_sub(1),
        }
    }

    /// Makes equal neighbours one run, for the runs `from..to` and each one's predecessor.
    fn merge(&mut self, from: usize, to: usize) {
        for index in (from..to).rev() {
            if let [before, run] = self.runs.get(index - 1..=index).unwrap_or_default()
                && before.cell == run.cell
            {
                self.runs.remove(index);
            }
        }
    }

    fn end(&self, index: usize) -> u16 {
        self.runs.get(index + 1).map_or(self.len, |run| run.start)
    }
}

/// What a session reported about consecutive messages.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) range: Range<u16>,
    pub(super) device: Option<Name>,
    pub(super) session: Option<SessionId>,
    pub(super) state: State,
    pub(super) cause: Option<Cause>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) attempt: u16,
    pub(super) sent: u32,
    pub(super) at: u32,
}

impl Note {
    /// Whether the other one adds nothing but that it is so still: that the recipient was offline for an attempt.
    fn says_all_of(&self, other: &Self) -> bool {
        let (Some(Cause::Offline), Some(Cause::Offline)) = (self.cause, other.cause) else { return false };
        self.range.start <= other.range.start
            && other.range.end <= self.range.end
            && (self.attempt, self.session, &self.device, &self.reason)
                == (other.attempt, other.session, &other.device, &other.reason)
    }

    fn reason_bytes(&self) -> usize {
        self.reason.as_ref().map_or(0, |reason| reason.len())
    }
}

/// A batch for one recipient.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) recipient: Recipient,
    pub(super) runs: Runs,
    /// Whether it is among those that wait for the recipient to come online.
    pub(super) is_waiting: bool,
    notes: SmallVec<[Note; 1]>,
    /// Of the reasons in the notes.
    pub(super) reasons_bytes: usize,
}

impl Part {
    pub(super) fn new(recipient: Recipient, messages: u16, cell: Cell) -> Self {
        let (runs, notes) = (Runs::new(messages, cell), SmallVec::new());
        Self { recipient, runs, is_waiting: false, notes, reasons_bytes: 0 }
    }

    /// Keeps what was reported; as one with the last report if it goes on where that ends, or with an earlier one that says
    /// the same of a wait.
    pub(super) fn note(&mut self, note: Note) {
        if let Some(last) = self.notes.last_mut()
            && last.range.end == note.range.start
            && (last.session, last.state, last.attempt, last.cause)
                == (note.session, note.state, note.attempt, note.cause)
            && (last.sent, last.at, &last.reason) == (note.sent, note.at, &note.reason)
        {
            last.range.end = note.range.end;
            return;
        }
        if let Some(known) = self.notes.iter_mut().rev().find(|known| known.says_all_of(&note)) {
            known.at = note.at;
            return;
        }
        if self.notes.len() >= limits::LEDGER_REPORTS_MAX {
            self.reasons_bytes -= self.notes.remove(0).reason_bytes();
        }
        self.reasons_bytes += note.reason_bytes();
        self.notes.push(note);
    }

    /// The session that failed last with the message, to be avoided by the next attempt.
    pub(super) fn last_failed(&self, index: u16) -> Option<SessionId> {
        let mut notes = self.notes.iter().rev();
        notes.find(|note| note.range.contains(&index) && note.session.is_some())?.session
    }

    /// What the recipient said when it refused this attempt of a message.
    pub(super) fn reason(&self, index: u16, attempt: u16) -> Option<Arc<str>> {
        let mut notes = self.notes.iter().rev();
        notes.find(|note| note.range.contains(&index) && note.attempt == attempt)?.reason.clone()
    }

    /// Runs and reports, as they count against the ledger's bound; reasons as the reports that their bytes would be.
    pub(super) fn rows(&self) -> usize {
        self.runs.runs.len() + self.notes.len() + self.reasons_bytes.div_ceil(size_of::<Note>())
    }

    pub(super) fn row(&self, index: u16, unix_ms: impl Fn(u64) -> u64) -> RecipientRow {
        let unix_ms = |since: u32| unix_ms(u64::from(since));
        let cell = self.runs.at(index);
        let notes = self.notes.iter().filter(|note| note.range.contains(&index));
        let device = |note: &Note| DeviceRow {
            device: note.device.clone(),
            session: note.session,
            state: note.state,
            sent_ms: unix_ms(note.sent),
            acked_ms: (note.state == State::Acked).then(|| unix_ms(note.at)),
            cause: note.cause,
            reason: note.reason.clone(),
            attempt: note.attempt,
        };
        RecipientRow {
            recipient: self.recipient.clone(),
            state: cell.map_or(State::Planned, |cell| cell.state),
            attempts: cell.map_or(0, |cell| cell.attempt),
            cause: cell.and_then(|cell| cell.cause),
            at_ms: unix_ms(cell.map_or(0, |cell| cell.at)),
            devices: notes.map(device).collect(),
        }
    }
}
