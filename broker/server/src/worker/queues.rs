//! Queues on addresses that keep messages: their progress, which one worker keeps for each, and what the others tell it.
//!
//! ```text
//! publisher's worker ── Queued ──▶ home ── Given ──▶ member's worker ──▶ connection
//!                                  ▲  │
//!              journal ── QueueRead┘  └──── Told ◀── member's worker (acks, refusals, losses, members)
//! ```
//! A stored message goes to the queue's home under the address lock, and the home gives it to a member with room; what the
//! members do comes back as [`Told`], one mailbox entry per worker and turn. Messages that are not stored never come here.
//!
//! Invariants: whatever is given goes through the mailbox of the member's worker, so that a session sees the queue's
//! delivery behind the plain one. Nothing that is told is lost: without room it waits for the next turn. Not here: the
//! decisions (`core::delivery::Backlog`), and which queues there are (`crate::queues`).

mod deliver;
mod members;
mod read;

pub(crate) use deliver::Given;
pub(crate) use read::QueueRead;

use super::Worker;
use super::mailbox::Entry;
use crate::phase::Phase;
use hashbrown::HashMap;
use indexmap::{IndexMap, IndexSet};
use std::ops::Range;
use std::sync::Arc;
use waspmq_core::delivery::{AckPlan, Answered, Backlog, Failed, Read, Recipient, Turn};
use waspmq_core::message::Batch;
use waspmq_core::registry::{Pick, Queue};
use waspmq_core::{Address, Level, Position, QueueId, SessionId, limits};
use waspmq_store::Write;

/// Messages, and their bytes, that are given to one worker as one entry.
const GIVEN_MAX: usize = 256;
const GIVEN_BYTES: usize = 64 * 1024;
/// How long a list of addresses is waited for before the next one is asked for.
const LIST_WAIT_MS: u64 = 10_000;

/// What a queue's home is told, in the order in which it happened.
#[derive(Debug)]
pub(crate) enum Told {
    /// Somebody joined or left.
    Members(Arc<Queue>),
    Done(Done),
}

/// What became of stored messages of a queue.
#[derive(Debug)]
pub(crate) struct Done {
    queue: QueueId,
    to: Address,
    first: Position,
    messages: u16,
    /// `None` when it is not a member's doing.
    session: Option<SessionId>,
    attempt: u16,
    /// `None` is done: an ack, or the end of what a tracker had.
    failed: Option<Failed>,
    /// Whether it was put behind what was under way, because nothing was known of it.
    is_late: bool,
}

impl Done {
    /// About consecutive messages of a batch.
    pub(super) fn new(queue: &QueueId, batch: &Batch, range: &Range<u16>) -> Self {
        Self {
            queue: queue.clone(),
            to: batch.to.clone(),
            first: batch.position(range.start.into()),
            messages: range.end - range.start,
            session: None,
            attempt: 0,
            failed: None,
            is_late: false,
        }
    }

    pub(super) fn by(self, session: SessionId, attempt: u16, failed: Option<Failed>) -> Self {
        Self { session: Some(session), attempt, failed, ..self }
    }
}

#[cfg(test)]
impl Desk {
    /// For tests without a home: messages that failed, by offset.
    pub(super) fn take_failed(&mut self) -> Vec<(u64, waspmq_core::delivery::Cause)> {
        let told = self.told.drain().flat_map(|(_, told)| told);
        let failed = told.filter_map(|told| match told {
            Told::Done(done) => Some((done.first.offset, done.failed?.cause)),
            Told::Members(_) => None,
        });
        failed.collect()
    }
}

/// The queues whose home is this worker, and what is to be told to others.
#[derive(Debug, Default)]
pub(super) struct Desk {
    backlogs: HashMap<QueueId, Backlog, foldhash::fast::RandomState>,
    /// Those that may have something to give or to ask.
    woken: IndexSet<QueueId, foldhash::fast::RandomState>,
    /// Memory of what all of them have open.
    bytes: usize,
    /// Nothing of them is due before.
    due_ms: Option<u64>,
    has_moved: bool,
    /// Queues whose addresses are to be listed, which takes a reader long: one after the other.
    to_list: IndexMap<QueueId, Read, foldhash::fast::RandomState>,
    /// When the list that is on its way was asked for.
    listing_ms: Option<u64>,
    /// By worker, this one included.
    told: HashMap<u8, Vec<Told>>,
}

impl Desk {
    /// Works on a queue, which is new when it is not known, and looks at it when the turn ends.
    fn with<T>(&mut self, id: &QueueId, new: (u64, u64), work: impl FnOnce(&mut Backlog) -> T) -> T {
        let backlog = self.backlogs.entry_ref(id).or_insert_with(|| Backlog::new(id.clone(), new.0, new.1));
        let before = backlog.pinned_bytes();
        let done = work(backlog);
        self.bytes = (self.bytes + backlog.pinned_bytes()).saturating_sub(before);
        self.has_moved |= backlog.has_moved();
        if !self.woken.contains(id) {
            self.woken.insert(id.clone());
        }
        done
    }

    const fn room_bytes(&self) -> usize {
        limits::QUEUES_OPEN_BYTES_MAX.saturating_sub(self.bytes)
    }

    fn note_due(&mut self, due_ms: Option<u64>) -> bool {
        let is_earlier = due_ms.is_some_and(|due_ms| self.due_ms.is_none_or(|known_ms| due_ms < known_ms));
        if is_earlier {
            self.due_ms = due_ms;
        }
        is_earlier
    }
}

impl Worker {
    /// Tells a queue's home something when this turn ends.
    pub(super) fn tell_home(&mut self, told: Told) {
        let home = match &told {
            Told::Members(queue) => queue.home,
            Told::Done(done) => Some(self.shared.queues.home(&done.queue)),
        };
        if let Some(home) = home {
            self.desk.told.entry(home).or_default().push(told);
        }
    }

    /// Sends what is to be told. What finds no room is sent by a later turn.
    pub(super) fn send_told(&mut self) {
        for (&worker, told) in &mut self.desk.told {
            if !told.is_empty()
                && let Err(Entry::Told(back)) =
                    self.shared.mailboxes.send(worker, Entry::Told(std::mem::take(told)))
            {
                *told = back;
            }
        }
    }

    /// Stored messages were published for queues whose home is this worker.
    pub(super) fn handle_queued(
        &mut self,
        batch: &Arc<Batch>,
        (queues, picks): (&[Arc<Queue>], &[Option<Pick>]),
        plan: Option<&AckPlan>,
    ) {
        let plan = plan.copied().unwrap_or_else(|| self.shared.rules.of(&batch.to).ack);
        let new = self.new_backlog();
        for queue in queues {
            let room_bytes = self.desk.room_bytes();
            self.desk.with(&queue.id, new, |backlog| {
                backlog.handle_members(queue);
                backlog.handle_published(batch, picks, (&plan, room_bytes));
            });
        }
    }

    pub(super) fn handle_told(&mut self, told: Vec<Told>) {
        let new = self.new_backlog();
        for told in told {
            match told {
                Told::Members(queue) => {
                    self.desk.with(&queue.id, new, |backlog| backlog.handle_members(&queue))
                }
                Told::Done(done) => self.handle_done(done),
            }
        }
    }

    fn handle_done(&mut self, done: Done) {
        let is_known = self.desk.backlogs.get(&done.queue).is_some_and(|backlog| backlog.knows(&done.to));
        if !is_known {
            if !done.is_late {
                // An ack may be faster than the publish, which still holds the lock. Behind it, both are in order.
                drop(self.shared.registry.lock(&done.to));
                self.tell_home(Told::Done(Done { is_late: true, ..done }));
            }
            return;
        }
        let now_ms = self.shared.clock.now_us() / 1_000;
        let Done { queue, to, first, messages, session, attempt, failed, .. } = &done;
        let answered =
            Answered { to, first: *first, messages: *messages, session: *session, attempt: *attempt };
        let new = self.new_backlog();
        let Self { desk, policies, events, .. } = self;
        desk.with(queue, new, |backlog| match failed {
            None => backlog.handle_done(&answered, now_ms),
            Some(failed) => {
                backlog.handle_failed(
                    &answered,
                    failed.clone(),
                    &mut Turn { now_ms, acking: policies, out: events },
                );
            }
        });
    }

    /// A tracker has given messages of a queue up, so that nobody acknowledges them any more.
    pub(super) fn end_of_queue(&mut self, batch: &Batch, range: &Range<u16>, recipient: &Recipient) {
        if let Recipient::Queue(queue) = recipient
            && batch.is_kept
            && batch.level == Level::Delivered
        {
            self.tell_home(Told::Done(Done::new(queue, batch, range)));
        }
    }

    /// Gives and asks for what can be, for all queues that something happened to. Called when all connections are in their
    /// places.
    pub(super) fn pump_queues(&mut self) {
        if self.desk.woken.is_empty() {
            return;
        }
        let now_ms = self.shared.clock.now_us() / 1_000;
        let (mut given, mut reads) = (HashMap::<u8, Vec<Given>>::new(), Vec::new());
        let mut is_earlier = false;
        // Whoever goes next would lose it again, and each time counts as an attempt.
        let is_draining = self.shared.phase.load() > Phase::Ready;
        for id in std::mem::take(&mut self.desk.woken) {
            let room_bytes = self.desk.room_bytes();
            let Some(backlog) = self.desk.backlogs.get_mut(&id) else { continue };
            let may_read = room_bytes > 0 && !(is_draining && backlog.has_members());
            while !is_draining && let Some(give) = backlog.poll_give(now_ms) {
                if give.attempt > 1 {
                    self.shared.mailboxes.of(self.number).counters.redeliveries.add(1);
                }
                given.entry(give.worker).or_default().push(Given::new(&id, give));
            }
            if may_read && let Some(read) = backlog.poll_read(now_ms) {
                reads.push((id.clone(), read));
            }
            let due_ms = backlog.next_due_ms();
            if backlog.is_over() {
                self.desk.backlogs.remove(&id);
            }
            is_earlier |= self.desk.note_due(due_ms);
        }
        for (worker, given) in given {
            self.hand_over_given(worker, given);
        }
        for (id, read) in reads {
            if matches!(read, Read::Addresses { .. }) {
                self.desk.to_list.insert(id, read);
            } else {
                self.read_for_queue(&id, read);
            }
        }
        self.list_next(now_ms);
        if is_earlier {
            self.timers.notify_one();
        }
        if std::mem::take(&mut self.desk.has_moved) {
            self.moved.wake.notify_one();
        }
    }

    /// Hands messages to the worker of their members, in entries that are not too long for a turn.
    fn hand_over_given(&mut self, worker: u8, given: Vec<Given>) {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for one in given {
            bytes += one.size_bytes();
            chunk.push(one);
            if chunk.len() >= GIVEN_MAX || bytes >= GIVEN_BYTES {
                self.send_given(worker, std::mem::take(&mut chunk));
                bytes = 0;
            }
        }
        if !chunk.is_empty() {
            self.send_given(worker, chunk);
        }
    }

    fn send_given(&mut self, worker: u8, given: Vec<Given>) {
        if let Err(Entry::Given(back)) = self.shared.mailboxes.send(worker, Entry::Given(given)) {
            tracing::debug!(worker, messages = back.len(), "messages of queues found no room");
            for one in back {
                self.tell_unsent(&one);
            }
        }
    }

    /// Asks for the next list, unless one is on its way.
    fn list_next(&mut self, now_ms: u64) {
        while self.desk.listing_ms.is_none()
            && let Some((id, read)) = self.desk.to_list.shift_remove_index(0)
        {
            if self.read_for_queue(&id, read) {
                self.desk.listing_ms = Some(now_ms);
            }
        }
    }

    /// Asks the store; false without room there.
    fn read_for_queue(&mut self, id: &QueueId, read: Read) -> bool {
        let number = match &read {
            Read::Addresses { number, .. } | Read::Page { number, .. } => *number,
        };
        let record = self.shared.queues.get(id);
        let is_asked = record.is_some_and(|record| {
            let reading = read::reading(&self.shared, self.number, (record, read));
            self.shared.journal.read(reading).is_ok()
        });
        if !is_asked && let Some(backlog) = self.desk.backlogs.get_mut(id) {
            backlog.handle_unasked(number);
        }
        is_asked
    }

    /// The store has answered.
    pub(super) fn handle_queue_read(&mut self, answer: QueueRead) {
        let (queue, new) = (answer.queue().clone(), self.new_backlog());
        if answer.address().is_none() {
            self.desk.listing_ms = None;
        }
        if !self.desk.backlogs.contains_key(&queue) {
            return self.list_next(self.shared.clock.now_us() / 1_000);
        }
        let plan = answer.address().map_or_else(AckPlan::default, |to| self.shared.rules.of(to).ack);
        self.desk.with(&queue, new, |backlog| answer.hand_to(backlog, &plan));
    }

    /// When something of the queues is due.
    pub(super) const fn queues_due_ms(&self) -> Option<u64> {
        self.desk.due_ms
    }

    /// Handles what of the queues is due.
    pub(super) fn advance_queues(&mut self, now_ms: u64) {
        if self.desk.due_ms.is_none_or(|due_ms| now_ms < due_ms) {
            return;
        }
        let Self { desk, policies, events, .. } = self;
        desk.due_ms = None;
        let is_due = |backlog: &Backlog| backlog.next_due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        let due: Vec<_> =
            desk.backlogs.values().filter(|backlog| is_due(backlog)).map(|b| b.id().clone()).collect();
        for id in due {
            desk.with(&id, (0, 0), |backlog| {
                backlog.handle_time(&mut Turn { now_ms, acking: policies, out: events })
            });
        }
        let next = desk.backlogs.values().filter_map(Backlog::next_due_ms).min();
        desk.note_due(next);
    }

    /// Once a second: what found no room is tried again, and who has members is looked up, in case a change found none.
    pub(super) fn tick_queues(&mut self) {
        let now = self.shared.clock.now();
        if self.number == 0 {
            self.shared.queues.tend(&self.shared.registry, (now.unix_ms, &self.shared.journal));
        }
        let now_ms = now.us / 1_000;
        // A list that did not come is lost.
        self.desk.listing_ms = self.desk.listing_ms.filter(|asked_ms| now_ms < asked_ms + LIST_WAIT_MS);
        let ids: Vec<_> = self.desk.backlogs.keys().cloned().collect();
        for id in ids {
            let queue = self.shared.registry.queue(&id);
            self.desk.with(&id, (0, 0), |backlog| {
                match &queue {
                    Some(queue) => backlog.handle_members(queue),
                    None => backlog.handle_no_members(),
                }
                backlog.handle_tick(now_ms);
            });
        }
    }

    /// Saves how far queues are, as [`Self::save_moved`] does for sessions.
    pub(super) fn save_queues(&mut self) {
        for backlog in self.desk.backlogs.values_mut().filter(|backlog| backlog.has_moved()) {
            let Some(record) = self.shared.queues.get(backlog.id()) else { continue };
            while self.shared.journal.has_room()
                && let Some((address, cursor)) = backlog.poll_moved()
            {
                let (id, born_unix_ms) = (record.id.clone(), record.born_unix_ms);
                let write =
                    Write::QueueCursor { id, born_unix_ms, address: address.clone(), cursor: cursor.clone() };
                if self.shared.journal.push(write, None).is_err() {
                    backlog.keep_moved(&address, cursor);
                    break;
                }
            }
            self.desk.has_moved |= backlog.has_moved();
        }
        if std::mem::take(&mut self.desk.has_moved) {
            self.moved.wake.notify_one();
        }
    }

    /// Whether anything that members did is not with the journal yet.
    pub(super) fn has_unsaved_queues(&self) -> bool {
        self.desk.backlogs.values().any(|backlog| backlog.is_unsaved() || backlog.has_moved())
    }

    /// What the numbers and the jitter of a new backlog begin with.
    fn new_backlog(&self) -> (u64, u64) {
        (self.shared.clock.now_us(), u64::from(self.number) + 1)
    }
}
