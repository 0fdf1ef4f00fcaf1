//! The way to a worker from other threads: one bounded queue each, one wake-up from empty.
//!
//! Publishes and changes of membership enter under the address lock of the registry, so each worker sees an
//! address in offset order. Above [`PUBLISH_ENTRIES_MAX`] entries or [`PUBLISH_BYTES_MAX`] bytes publishes
//! are refused and publishing connections are not read until there is room ([`Mailbox::room`]); the rest of
//! the queue is kept for changes and commands.

use super::counters::Counters;
use crate::control::{Publication, Published};
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, oneshot};
use waspmq_core::message::Batch;
use waspmq_core::registry::{Change, InFlight, Workers};
use waspmq_core::{Close, Name, Reject, SessionId};

/// One message of a batch for one queue member of the receiving worker.
#[derive(Debug)]
pub(crate) struct QueueDelivery {
    /// Index of the message in the batch.
    pub(crate) message: usize,
    pub(crate) session: SessionId,
    pub(crate) queue: Name,
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
    Change(Change),
    Close {
        session: SessionId,
        close: Close,
    },
    Publish {
        publication: Box<Publication>,
        answer: oneshot::Sender<Result<Published, Reject>>,
    },
    /// Leave service: `goaway` to every session, spread over the time given, then close.
    Drain {
        spread_ms: u64,
    },
}

impl Entry {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Deliver { batch, .. } => batch.size_bytes(),
            Self::Publish { publication, .. } => publication.payload.len(),
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
        let entry = self.entries.pop().or_else(|| {
            self.woken.store(false, Ordering::SeqCst);
            self.entries.pop()
        })?;
        self.bytes.fetch_sub(entry.size_bytes(), Ordering::SeqCst);
        Some(entry)
    }

    /// Lets waiting publishers go on if there is room again; called by the worker after it took entries.
    pub(crate) fn offer_room(&self) {
        if self.waiting.load(Ordering::SeqCst) && !self.is_busy() {
            self.waiting.store(false, Ordering::SeqCst);
            self.room.notify_waiters();
        }
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
