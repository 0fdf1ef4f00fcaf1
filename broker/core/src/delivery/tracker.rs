//! The deliveries that one worker's publishers wait for, from the publish to the last recipient's end.
//!
//! Every batch of level `delivered` is one flight with one timer. Whatever is reported about a flight's messages
//! comes here from the workers of the recipients; what is to be done comes out as [`Event`]s. Reports about
//! messages that ended, or that this tracker never had, change nothing and are counted. When all flights have
//! ended there are no timers and nobody is waited for.
//!
//! Moments are milliseconds of the broker's monotonic clock, the one of [`Batch::published_us`]. The states are
//! in [`super::flight`]; which failure leads where is the [`Acking`] policy's decision.

use super::event::{Event, References};
use super::flight::{Note, State};
use super::ledger::{LedgerEntry, Ring, index_within};
use super::live::{Live, Surroundings};
use super::receipts::Publishers;
use super::waiting::Waiting;
use super::wheel::Wheel;
use super::{AckPlan, Cause, Recipient};
use crate::address::{Address, Name};
use crate::id::{MessageId, SessionId};
use crate::limits;
use crate::message::Batch;
use crate::policy::Acking;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

/// What a tracker may hold. The first two close it ([`Tracker::has_room`]), behind the third the oldest is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages times recipients.
    pub deliveries_max: usize,
    /// Memory of the batches, and of the reasons of nacks about them, which are kept while there is room.
    pub bytes_max: usize,
    /// Ended messages whose ledger is kept.
    pub ledger_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            deliveries_max: limits::TRACKED_DELIVERIES_MAX,
            bytes_max: limits::TRACKED_BYTES_MAX,
            ledger_max: limits::LEDGER_MESSAGES_MAX,
        }
    }
}

/// A batch whose delivery is to be tracked. The ids of its messages have consecutive counts. Batches of several addresses may
/// begin with the same id: a policy gave one message to all of them.
#[derive(Debug)]
pub struct Flight {
    pub batch: Arc<Batch>,
    /// Those it was enqueued for; a name twice counts once.
    pub recipients: SmallVec<[Recipient; 1]>,
    /// Those known to have no session; none of them is among `recipients`.
    pub offline: Vec<Recipient>,
    pub plan: AckPlan,
    /// Who wants the receipts: one id per connection, as the references are those of one. A session that goes on in
    /// another connection asks under another id.
    pub publisher: Option<SessionId>,
    pub references: References,
}

/// What a session did with consecutive messages of one batch that it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub first: MessageId,
    pub messages: u16,
    /// The address of the batch, without which the id may mean several.
    pub to: &'a Address,
    pub recipient: &'a Recipient,
    pub device: Option<&'a Name>,
    /// `None` when the recipient had no session, or none with room.
    pub session: Option<SessionId>,
    /// The attempt this is about.
    pub attempt: u16,
    pub sent_ms: u64,
}

/// Why the attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub cause: Cause,
    /// The wait that the recipient asked for.
    pub retry_ms: Option<u32>,
    /// What the recipient says about it, for people; of at most [`limits::NACK_REASON_BYTES_MAX`].
    pub reason: Option<Arc<str>>,
}

impl Failed {
    /// A failure of which nothing more is known.
    pub const fn by(cause: Cause) -> Self {
        Self { cause, retry_ms: None, reason: None }
    }
}

/// What a call is given besides its input: the time, who decides about failures, and where events go.
#[expect(missing_debug_implementations, reason = "a policy is not shown")]
pub struct Turn<'a> {
    pub now_ms: u64,
    pub acking: &'a mut dyn Acking,
    pub out: &'a mut Vec<Event>,
}

/// Who gets no more of a broker that leaves service, and what is not lost with it.
#[expect(missing_debug_implementations, reason = "functions are not shown")]
pub struct Stopping<'a> {
    pub is_over: &'a dyn Fn(&Recipient) -> bool,
    /// Whether the store has the batch, or can have it, for the recipient's next session.
    pub is_kept: &'a dyn Fn(&Batch, &Recipient) -> bool,
}

/// How much of a stop is done at once. The last recipient's messages may go beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Messages times recipients that end, and recipients that are looked at.
    pub deliveries: usize,
    /// What is copied to be kept: a batch for each of its recipients.
    pub bytes: usize,
}

impl Share {
    pub(super) const fn is_used(&self) -> bool {
        self.deliveries == 0 || self.bytes == 0
    }

    pub(super) const fn take(&mut self, deliveries: usize, bytes: usize) {
        self.deliveries = self.deliveries.saturating_sub(deliveries);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What a tracker holds, and what it ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub flights: usize,
    /// Messages times recipients that have not ended.
    pub deliveries: usize,
    pub bytes: usize,
    pub timers: usize,
    /// Recipients that are waited for, once per batch.
    pub waiting: usize,
    pub ledger: usize,
    /// Messages acknowledged or failed after their end, or unknown: a total.
    pub ignored: u64,
}

/// The flights of one worker.
#[derive(Debug)]
pub struct Tracker {
    bounds: Bounds,
    slots: Vec<Option<Live>>,
    free: Vec<u32>,
    /// Slots by the count of the first message, one for each of its addresses.
    by_count: BTreeMap<u64, SmallVec<[u32; 1]>>,
    timers: Wheel,
    publishers: Publishers,
    waiting: Waiting,
    ended: Ring,
    /// Stored batches whose flights ended, until they are asked for.
    ended_kept: Vec<Arc<Batch>>,
    seed: u64,
    deliveries: usize,
    bytes: usize,
    ignored: u64,
}

impl Tracker {
    /// `seed` makes the jitter of this tracker differ from that of others.
    pub fn new(bounds: Bounds, seed: u64) -> Self {
        Self {
            bounds,
            slots: Vec::new(),
            free: Vec::new(),
            by_count: BTreeMap::new(),
            timers: Wheel::default(),
            publishers: Publishers::default(),
            waiting: Waiting::default(),
            ended: Ring::new(bounds.ledger_max),
            ended_kept: Vec::new(),
            seed,
            deliveries: 0,
            bytes: 0,
            ignored: 0,
        }
    }

    /// Takes a batch over. Offline recipients are decided about at once. Without recipients nothing is tracked and
    /// the publisher is told so.
    pub fn begin(&mut self, flight: Flight, turn: &mut Turn<'_>) {
        let bytes = flight.batch.size_bytes();
        let Some((mut live, offline)) = Live::new(flight, turn) else { return };
        let count = live.common.first.count();
        live.receipts.begin(&mut self.publishers);
        self.deliveries += live.open;
        self.bytes += bytes;
        let slot = self.free.pop().unwrap_or_else(|| u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        let mut around = Surroundings {
            slot,
            publishers: &self.publishers,
            waiting: &mut self.waiting,
            seed: self.seed,
            turn: &mut *turn,
        };
        if offline {
            let open = live.open;
            live.handle_begun(&mut around);
            self.deliveries -= open - live.open;
        }
        self.by_count.entry(count).or_default().push(slot);
        self.timers.set(slot, live.due_ms);
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = Some(live),
            None => self.slots.push(Some(live)),
        }
        self.finish(slot);
    }

    /// A session has the messages: kept for the ledger, and so that the next attempt avoids it. Needed only where
    /// the recipient is a queue.
    pub fn handle_sent(&mut self, report: &Report<'_>) {
        if let Some((slot, range)) = self.locate(report)
            && let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut)
        {
            let bytes = live.bytes();
            live.handle_note(report, &range, State::Sent, (None, report.sent_ms));
            self.bytes = self.bytes + live.bytes() - bytes;
        }
    }

    /// The messages are acknowledged; for those that ended already this changes nothing.
    pub fn handle_acked(&mut self, report: &Report<'_>, now_ms: u64, out: &mut Vec<Event>) {
        let messages = u64::from(report.messages);
        let Some((slot, range)) = self.locate(report) else {
            self.ignored += messages;
            return;
        };
        let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let bytes = live.bytes();
        let acked = live.handle_acked(report, &range, (now_ms, &self.publishers), out);
        self.deliveries -= acked;
        self.bytes = self.bytes + live.bytes() - bytes;
        self.ignored += messages.saturating_sub(acked as u64);
        if live.open == 0 || live.receipts.is_over() {
            self.finish(slot);
        }
    }

    /// An attempt failed. Counts for messages whose attempt this is, and for no others. A reason for which there is no room is
    /// not kept.
    pub fn handle_failed(&mut self, report: &Report<'_>, mut failed: Failed, turn: &mut Turn<'_>) {
        let messages = u64::from(report.messages);
        let Some((slot, range)) = self.locate(report) else {
            self.ignored += messages;
            return;
        };
        let seed = self.seed;
        let room_bytes = self.bounds.bytes_max.saturating_sub(self.bytes);
        failed.reason = failed.reason.filter(|reason| reason.len() <= room_bytes);
        let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let (open, bytes) = (live.open, live.bytes());
        let (publishers, waiting) = (&self.publishers, &mut self.waiting);
        let mut around = Surroundings { slot, publishers, waiting, seed, turn };
        let counted = live.handle_failed(report, &range, failed, &mut around);
        self.deliveries -= open - live.open;
        self.bytes = self.bytes + live.bytes() - bytes;
        self.ignored += messages.saturating_sub(counted as u64);
        self.finish(slot);
    }

    /// The recipient has a session again: what waits for it is delivered.
    pub fn handle_online(&mut self, recipient: &Recipient, turn: &mut Turn<'_>) {
        for slot in self.waiting.take(recipient) {
            let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            let open = live.open;
            let (publishers, waiting, seed) = (&self.publishers, &mut self.waiting, self.seed);
            let mut around = Surroundings { slot, publishers, waiting, seed, turn: &mut *turn };
            live.handle_online(recipient, &mut around);
            self.deliveries -= open - live.open;
            self.finish(slot);
        }
    }

    /// The publisher's connection ended: its receipts are not wanted any more. Deliveries go on.
    pub fn handle_publisher_gone(&mut self, publisher: SessionId) {
        self.publishers.remove(&publisher);
    }

    /// Ends a share of what is open for recipients that get no more, in the order of the messages, beginning with those of
    /// this count. Gives where there is more.
    pub fn handle_stop(
        &mut self,
        stopping: &Stopping<'_>,
        (mut from, mut share): (u64, Share),
        turn: &mut Turn<'_>,
    ) -> Option<u64> {
        while let Some((&count, slots)) = self.by_count.range(from..).next() {
            if share.is_used() {
                return Some(count);
            }
            let mut seen = 0;
            for slot in slots.clone() {
                let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
                let open = live.open;
                seen += live.parts.len();
                let (publishers, waiting, seed) = (&self.publishers, &mut self.waiting, self.seed);
                let mut around = Surroundings { slot, publishers, waiting, seed, turn: &mut *turn };
                let is_through = live.handle_stop(stopping, &mut share, &mut around);
                self.deliveries -= open - live.open;
                self.finish(slot);
                if !is_through {
                    return Some(count);
                }
            }
            // Behind the last of them, or those that are only looked at could use up every share.
            share.take(seen, 0);
            from = count.checked_add(1)?;
        }
        None
    }

    /// Whether a publisher waits for receipts.
    pub fn is_waited_for(&self, publisher: SessionId) -> bool {
        self.publishers.contains_key(&publisher)
    }

    /// Handles what is due, for at most [`limits::FLIGHTS_PER_TURN_MAX`] flights; [`Self::next_due_ms`] tells
    /// whether there are more.
    pub fn advance(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..limits::FLIGHTS_PER_TURN_MAX {
            let Some(slot) = self.timers.pop_due(turn.now_ms) else { return };
            let Some(live) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            let open = live.open;
            let (publishers, waiting, seed) = (&self.publishers, &mut self.waiting, self.seed);
            live.handle_due(&mut Surroundings { slot, publishers, waiting, seed, turn: &mut *turn });
            self.deliveries -= open - live.open;
            self.finish(slot);
        }
    }

    /// When to call [`Self::advance`] next; never later than something is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.timers.next_due_ms()
    }

    /// Whether another `messages` for `recipients` each may be tracked. An empty tracker takes any one batch.
    pub const fn has_room(&self, messages: usize, recipients: usize, bytes: usize) -> bool {
        let more = messages.saturating_mul(recipients);
        self.deliveries == 0
            || (self.deliveries.saturating_add(more) <= self.bounds.deliveries_max
                && self.bytes + bytes <= self.bounds.bytes_max)
    }

    /// What is known about a message, on its way or ended a while ago, at each of its addresses: those where it ended first.
    pub fn entries(&self, id: MessageId) -> Vec<LedgerEntry> {
        let found = self.by_count.range(..=id.count()).next_back();
        let slots = found.iter().flat_map(|(_, slots)| slots.iter());
        let live = slots.filter_map(|&slot| self.slots.get(slot as usize)?.as_ref()?.entry(id));
        self.ended.entries(id).chain(live).collect()
    }

    /// Stored batches whose flights ended since the last call: what [`Self::entries`] says of their messages is final.
    /// To be taken after every call that may end a flight, as they hold their memory until then.
    pub fn take_ended(&mut self) -> Vec<Arc<Batch>> {
        std::mem::take(&mut self.ended_kept)
    }

    pub fn stats(&self) -> Stats {
        Stats {
            flights: self.slots.len() - self.free.len(),
            deliveries: self.deliveries,
            bytes: self.bytes,
            timers: self.timers.len(),
            waiting: self.waiting.len(),
            ledger: self.ended.weight(),
            ignored: self.ignored,
        }
    }

    /// The flight a report is about, and which of its messages.
    fn locate(&self, report: &Report<'_>) -> Option<(u32, Range<u16>)> {
        let (_, slots) = self.by_count.range(..=report.first.count()).next_back()?;
        let mut flights =
            slots.iter().filter_map(|&slot| Some((slot, self.slots.get(slot as usize)?.as_ref()?)));
        let (slot, live) = flights.find(|(_, live)| live.batch.to == *report.to)?;
        let common = &live.common;
        let start = index_within(common.first, common.messages, report.first)?;
        Some((slot, start..start.saturating_add(report.messages).min(common.messages)))
    }

    /// Ends a flight that has nothing open; sets another's timer when it is due earlier than that says.
    fn finish(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let Some(live) = place.as_mut() else { return };
        if live.open == 0 || live.receipts.is_over() {
            live.receipts.end(&mut self.publishers);
        }
        if live.open > 0 {
            if self.timers.due_ms(slot).is_none_or(|due_ms| live.due_ms < due_ms) {
                self.timers.set(slot, live.due_ms);
            }
            return;
        }
        let Some(live) = place.take() else { return };
        self.timers.cancel(slot);
        self.free.push(slot);
        let count = live.common.first.count();
        if let Entry::Occupied(mut slots) = self.by_count.entry(count) {
            slots.get_mut().retain(|other| *other != slot);
            if slots.get().is_empty() {
                slots.remove();
            }
        }
        self.bytes -= live.bytes();
        for part in live.parts.iter().filter(|part| part.is_waiting) {
            self.waiting.remove(&part.recipient, (count, slot));
        }
        if live.batch.is_kept && !live.is_left_to_store() {
            self.ended_kept.push(live.batch);
        }
        self.ended.push(live.common, live.begun_ms, live.parts);
    }
}

impl Report<'_> {
    /// The report as the ledger keeps it, `since` being the moment the flight began.
    pub(super) fn to_note(
        self,
        range: Range<u16>,
        state: State,
        (failed, at_ms): (Option<&Failed>, u64),
        begun_ms: u64,
    ) -> Note {
        let since = |ms: u64| super::live::since(begun_ms, ms);
        Note {
            range,
            device: self.device.cloned(),
            session: self.session,
            state,
            cause: failed.map(|failed| failed.cause),
            reason: failed.and_then(|failed| failed.reason.clone()),
            attempt: self.attempt,
            sent: since(self.sent_ms),
            at: since(at_ms),
        }
    }
}
