//! The way to a worker from other threads: one bounded queue each, one wake-up from empty.
//!
//! Publishes and changes of membership enter under the address lock of the registry, so each worker sees an
//! address in offset order. Above [`PUBLISH_ENTRIES_MAX`] entries or [`PUBLISH_BYTES_MAX`] bytes publishes
//! are refused and publishing connections are not read until there is room ([`Mailbox::room`]); the rest of
//! the queue is kept for changes and commands.

use super::acks::Answer;
use super::alone::PutOff;
use super::catchup::{Listing, PageOf};
use super::counters::Counters;
use super::drain::Span;
use super::history::{HistoryOf, ReadOf};
use super::ledger::Found;
use super::posted::{Posted, Taken};
use super::presence::PresenceOf;
use super::queues::{Given, QueueRead, Told};
use super::resume::{Takeover, Taker};
use super::tracking::Redelivery;
use crate::control::{Publication, Published};
use crossbeam_queue::ArrayQueue;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc, oneshot};
use waspmq_core::delivery::AckPlan;
use waspmq_core::message::Batch;
use waspmq_core::registry::{Change, InFlight, Pick, PresenceChange, Queue, Workers};
use waspmq_core::{Close, MessageId, Name, QueueId, Reject, SessionId};
use waspmq_policy::Explained;

/// One message of a batch for one queue member of the receiving worker.
#[derive(Debug)]
pub(crate) struct QueueDelivery {
    /// Index of the message in the batch.
    pub(crate) message: usize,
    pub(crate) session: SessionId,
    pub(crate) queue: QueueId,
    /// 1 for the first delivery.
    pub(crate) attempt: u16,
    pub(crate) in_flight: InFlight,
}

/// What a worker is handed.
#[derive(Debug)]
pub(crate) enum Entry {
    Deliver {
        batch: Arc<Batch>,
        /// Whether this worker has plain recipients.
        plain: bool,
        queues: Vec<QueueDelivery>,
    },
    /// Stored messages for queues whose home this worker is, with what policies decided about them.
    Queued {
        batch: Arc<Batch>,
        queues: SmallVec<[Arc<Queue>; 1]>,
        picks: Box<[Option<Pick>]>,
        plan: Option<Box<AckPlan>>,
    },
    /// What became of such messages, and who joined and left.
    Told(Vec<Told>),
    /// Such messages for members of this worker.
    Given(Vec<Given>),
    QueueRead(Box<QueueRead>),
    Change(Change),
    /// For those connections that watch the user.
    Presence(PresenceChange),
    Close {
        session: SessionId,
        close: Close,
    },
    Publish {
        publication: Box<Publication>,
        answer: mpsc::Sender<Result<Published, Reject>>,
    },
    /// Writes are on stable storage, or not, by the tokens of the receipts that wait.
    Stored {
        tokens: Box<[u64]>,
        result: Result<(), Reject>,
    },
    /// What sessions of another worker did with messages published here.
    Answers(Vec<Answer>),
    Redeliver(Box<Redelivery>),
    Page(Box<PageOf>),
    Listing(Box<Listing>),
    History(Box<HistoryOf>),
    Read(Box<ReadOf>),
    /// The answer about users of whom only the store knows when they were seen.
    PresenceOf(Box<PresenceOf>),
    /// A page of delayed messages of earlier runs.
    PutOff(Vec<PutOff>),
    /// Asks what is known about the delivery of a message.
    Ledger {
        id: MessageId,
        answer: mpsc::Sender<Found>,
    },
    /// Asks what policies decided about a message that was published here.
    Explain {
        id: MessageId,
        answer: oneshot::Sender<Explained>,
    },
    /// Frames for a session of this worker that came by a request to another connection.
    Posted(Box<Posted>),
    /// What became of those that came to this worker.
    Taken(Taken),
    /// A session of this worker is about to go on in a connection of another one.
    Takeover(Box<Takeover>),
    /// The other way: its record is complete.
    WrittenDown(Taker),
    /// A user has a session again: what waits for it is delivered.
    Online(Name),
    /// The journal has room again, and connections of this worker wait for it.
    Room,
    /// Leave service: `goaway` to every session, then close.
    Drain(Span),
}

impl Entry {
    /// Memory of the messages in it.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Deliver { batch, .. } | Self::Queued { batch, .. } => batch.size_bytes(),
            Self::Given(given) => given.iter().map(Given::size_bytes).sum(),
            Self::QueueRead(read) => read.size_bytes(),
            Self::Publish { publication, .. } => publication.payload.len(),
            Self::Redeliver(redelivery) => redelivery.size_bytes(),
            Self::Page(page) => page.size_bytes(),
            Self::History(history) => history.size_bytes(),
            Self::Posted(posted) => posted.size_bytes(),
            Self::PutOff(page) => page.iter().flat_map(PutOff::batches).map(Batch::size_bytes).sum(),
            _ => 0,
        }
    }
}

/// Entries a mailbox holds.
const ENTRIES_MAX: usize = 16 * 1024;
/// Entries from which publishes are refused.
const PUBLISH_ENTRIES_MAX: usize = 12 * 1024;
/// Bytes of batches from which publishes are refused. A batch counts in every mailbox that holds it.
const PUBLISH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// From this part of either bound publishing connections are not read any more.
const PAUSE_DIVISOR: usize = 2;

const _: () =
    assert!(PUBLISH_ENTRIES_MAX < ENTRIES_MAX, "commands and changes need room when publishes are refused");

/// One worker's queue, with the counters that live as long.
#[derive(Debug)]
pub(crate) struct Mailbox {
    entries: ArrayQueue<Entry>,
    bytes: AtomicUsize,
    /// Whether the worker was woken since it last found the queue empty.
    woken: AtomicBool,
    wake: Notify,
    waiting: AtomicBool,
    room: Notify,
    /// Changes of presence that found no room: the worker's watchers have to look again.
    presence_lost: AtomicU64,
    /// Answers of the journal that found no room. At most those of the tickets that the journal holds, and a page.
    late: Mutex<VecDeque<Entry>>,
    has_late: AtomicBool,
    pub(crate) counters: Counters,
}

impl Mailbox {
    fn new() -> Self {
        Self {
            entries: ArrayQueue::new(ENTRIES_MAX),
            bytes: AtomicUsize::new(0),
            woken: AtomicBool::new(false),
            wake: Notify::new(),
            waiting: AtomicBool::new(false),
            room: Notify::new(),
            presence_lost: AtomicU64::new(0),
            late: Mutex::default(),
            has_late: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// Whether a publish may enter.
    pub(crate) fn takes_publishes(&self) -> bool {
        self.entries.len() < PUBLISH_ENTRIES_MAX && self.bytes.load(Ordering::SeqCst) < PUBLISH_BYTES_MAX
    }

    /// Whether publishers should wait for [`Self::room`] before they are read again.
    pub(crate) fn is_busy(&self) -> bool {
        self.entries.len() > PUBLISH_ENTRIES_MAX / PAUSE_DIVISOR
            || self.bytes.load(Ordering::SeqCst) > PUBLISH_BYTES_MAX / PAUSE_DIVISOR
    }

    /// Resolves when the mailbox is not busy. Cancel-safe.
    pub(crate) async fn room(&self) {
        loop {
            let room = self.room.notified();
            self.waiting.store(true, Ordering::SeqCst);
            if !self.is_busy() {
                return;
            }
            room.await;
        }
    }

    /// Queues without waking; [`Self::wake`] must follow once no lock is held.
    pub(crate) fn push(&self, entry: Entry) -> Result<(), Entry> {
        let size = entry.size_bytes();
        self.bytes.fetch_add(size, Ordering::SeqCst);
        self.entries.push(entry).inspect_err(|_| {
            self.bytes.fetch_sub(size, Ordering::SeqCst);
        })
    }

    /// Wakes the worker, once per time it found the queue empty.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// The next entry. `None` rearms the wake-up, so the queue must be asked until then or woken by hand.
    pub(crate) fn pop(&self) -> Option<Entry> {
        if let Some(late) = self.pop_late() {
            return Some(late);
        }
        let entry = self.entries.pop().or_else(|| {
            self.woken.store(false, Ordering::SeqCst);
            self.entries.pop()
        });
        let Some(entry) = entry else { return self.pop_late() };
        self.bytes.fetch_sub(entry.size_bytes(), Ordering::SeqCst);
        Some(entry)
    }

    /// Queues an answer of which only one will ever come, without waking: without room it waits beside the queue.
    fn push_answer(&self, answer: Entry) {
        if let Err(answer) = self.push(answer) {
            let mut late = self.late.lock().unwrap();
            late.push_back(answer);
            self.has_late.store(true, Ordering::SeqCst);
        }
    }

    fn pop_late(&self) -> Option<Entry> {
        if !self.has_late.load(Ordering::SeqCst) {
            return None;
        }
        let mut late = self.late.lock().unwrap();
        let entry = late.pop_front();
        self.has_late.store(!late.is_empty(), Ordering::SeqCst);
        entry
    }

    /// Lets waiting publishers go on if there is room again; called by the worker after it took entries.
    pub(crate) fn offer_room(&self) {
        if self.waiting.load(Ordering::SeqCst) && !self.is_busy() {
            self.waiting.store(false, Ordering::SeqCst);
            self.room.notify_waiters();
        }
    }

    /// Changes of presence that found no room since the start.
    pub(crate) fn presence_lost(&self) -> u64 {
        self.presence_lost.load(Ordering::SeqCst)
    }

    /// Resolves when the worker was woken. Cancel-safe.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// The mailboxes of all workers.
#[derive(Debug)]
pub(crate) struct Mailboxes(Box<[Mailbox]>);

impl Mailboxes {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mailbox::new()).collect())
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mailbox> {
        self.0.iter()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "worker numbers come from the registry, which has them from us"
    )]
    pub(crate) fn of(&self, worker: u8) -> &Mailbox {
        &self.0[worker as usize]
    }

    /// Queues a command and wakes the worker.
    pub(crate) fn send(&self, worker: u8, entry: Entry) -> Result<(), Entry> {
        let mailbox = self.of(worker);
        mailbox.push(entry)?;
        mailbox.wake();
        Ok(())
    }
}

impl Mailboxes {
    /// Hands a worker an answer that it cannot do without, and wakes it. Never waits and never refuses.
    pub(crate) fn answer(&self, worker: u8, answer: Entry) {
        let mailbox = self.of(worker);
        mailbox.push_answer(answer);
        mailbox.wake();
    }
}

impl Workers for Mailboxes {
    fn has_room(&self, worker: u8) -> bool {
        let mailbox = self.of(worker);
        mailbox.entries.len() + ENTRIES_MAX / 16 < ENTRIES_MAX
    }

    fn notify(&self, worker: u8, change: Change) {
        if self.send(worker, Entry::Change(change)).is_err() {
            tracing::error!(worker, "a change of membership found no room after room was promised");
        }
    }

    fn presence(&self, worker: u8, change: PresenceChange) {
        // The last room is for changes that cannot be caught up on.
        if !self.has_room(worker) || self.send(worker, Entry::Presence(change)).is_err() {
            self.of(worker).presence_lost.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close() -> Entry {
        Entry::Close { session: SessionId::new(0, 0, 0), close: Close::Kicked }
    }

    #[test]
    fn publishes_stop_before_commands_do() {
        let mailbox = Mailbox::new();
        for _ in 0..PUBLISH_ENTRIES_MAX {
            assert!(mailbox.takes_publishes());
            mailbox.push(close()).unwrap();
        }
        assert!(!mailbox.takes_publishes() && mailbox.is_busy());
        while mailbox.push(close()).is_ok() {}
        assert_eq!(mailbox.entries.len(), ENTRIES_MAX);
    }

    #[test]
    fn presence_without_room_is_counted_and_leaves_room_for_commands() {
        let boxes = Mailboxes::new(2);
        let user = Name::parse("alice").unwrap();
        let change = PresenceChange { user, online: true, last_seen_unix_ms: None, seq: 1 };
        for _ in 0..ENTRIES_MAX {
            boxes.presence(1, change.clone());
        }
        assert!(boxes.send(1, close()).is_ok());
        let kept = std::iter::from_fn(|| boxes.of(1).pop()).count() as u64 - 1;
        assert_eq!(kept + boxes.of(1).presence_lost(), ENTRIES_MAX as u64);
        assert!(boxes.of(1).presence_lost() > 0 && boxes.of(0).presence_lost() == 0);
    }

    #[test]
    fn an_answer_is_never_refused_and_comes_before_the_rest() {
        let boxes = Mailboxes::new(1);
        while boxes.send(0, close()).is_ok() {}
        let stored = |token: u64| Entry::Stored { tokens: [token].into(), result: Ok(()) };
        (0..100).for_each(|token| boxes.answer(0, stored(token)));
        let token = |entry| match entry {
            Some(Entry::Stored { tokens, .. }) => tokens.first().copied(),
            _ => None,
        };
        for expected in 0..100 {
            assert_eq!(token(boxes.of(0).pop()), Some(expected));
        }
        assert_eq!(std::iter::from_fn(|| boxes.of(0).pop()).count(), ENTRIES_MAX);
        boxes.answer(0, stored(100));
        assert_eq!(token(boxes.of(0).pop()), Some(100));
        assert!(boxes.of(0).pop().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_wake_up_from_empty() {
        let boxes = Mailboxes::new(1);
        let mailbox = boxes.of(0);
        for _ in 0..3 {
            boxes.send(0, close()).unwrap();
        }
        mailbox.woken().await;
        assert_eq!(std::iter::from_fn(|| mailbox.pop()).count(), 3);
        boxes.send(0, close()).unwrap();
        mailbox.woken().await;
        assert!(mailbox.pop().is_some() && mailbox.pop().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn publishers_wait_for_room() {
        let mailbox = Mailbox::new();
        while !mailbox.is_busy() {
            mailbox.push(close()).unwrap();
        }
        let drain = async {
            while mailbox.pop().is_some() {}
            mailbox.offer_room();
        };
        tokio::join!(mailbox.room(), drain);
        assert!(!mailbox.is_busy());
    }
}
