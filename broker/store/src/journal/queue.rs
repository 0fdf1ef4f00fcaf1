//! What waits for the writer.

use super::pace::Company;
use super::{Answers, Full, JournalOptions, Reading, Ticket};
use crate::store::Write;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

pub(super) enum Entry {
    Write { write: Box<Write>, ticket: Option<Ticket> },
    Read(Reading),
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// Writes among them that somebody waits for.
    awaited: usize,
    /// The writer waits for so many of them; 0: it does not.
    wanted: usize,
    /// Nothing more is taken.
    closed: bool,
    /// The writer sleeps and has to be woken.
    idle: bool,
    /// The writer has ended.
    ended: bool,
}

/// Bounded; the writer takes everything at once, so pushing only ever waits for another push.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    ended: Condvar,
    writes: AtomicUsize,
    bytes: AtomicUsize,
    readings: AtomicUsize,
    /// As in `waiting`, for those who only look.
    is_closed: AtomicBool,
    /// Workers, as bits, that are to be told when the queue is not busy any more.
    blocked_workers: AtomicU64,
    entries_max: usize,
    bytes_max: usize,
    readings_max: usize,
}

impl Queue {
    pub(super) fn new(options: &JournalOptions) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            writes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            readings: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            blocked_workers: AtomicU64::new(0),
            entries_max: options.entries_max,
            bytes_max: options.bytes_max,
            readings_max: options.readings_max,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.is_below(2) && !self.is_closed.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.is_below(3) && !self.is_closed.load(Ordering::Relaxed)
    }

    /// Whether less than so many halves of the bounds wait.
    fn is_below(&self, halves: usize) -> bool {
        let of = |bound: usize| bound.saturating_mul(halves).div_ceil(2);
        self.writes.load(Ordering::Relaxed) < of(self.entries_max)
            && self.bytes.load(Ordering::Relaxed) < of(self.bytes_max)
    }

    /// Has a worker told when the queue is not busy any more. False when it is not busy now.
    pub(super) fn await_room(&self, worker: u8) -> bool {
        self.blocked_workers.fetch_or(bit(worker), Ordering::Relaxed);
        // Either this sees the room that is given back, or whoever gives it back sees the bit.
        fence(Ordering::SeqCst);
        self.is_busy()
    }

    /// Tells the workers that wait, when the queue is not busy any more.
    fn offer_room(&self, answers: &dyn Answers) {
        fence(Ordering::SeqCst);
        if self.blocked_workers.load(Ordering::Relaxed) == 0 || self.is_busy() {
            return;
        }
        let blocked = self.blocked_workers.swap(0, Ordering::Relaxed);
        (0..64).filter(|&worker| blocked & bit(worker) != 0).for_each(|worker| answers.room(worker));
    }

    pub(super) fn push(&self, entry: Entry) -> Result<(), Full> {
        let mut waiting = self.waiting.lock().unwrap();
        let is_taken = match &entry {
            Entry::Write { .. } => self.is_below(4),
            Entry::Read(_) => self.readings.load(Ordering::Relaxed) < self.readings_max,
        };
        if waiting.closed || !is_taken {
            return Err(Full);
        }
        match &entry {
            Entry::Write { write, ticket } => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(write.size_bytes(), Ordering::Relaxed);
                waiting.awaited += usize::from(ticket.is_some());
            }
            Entry::Read(_) => {
                self.readings.fetch_add(1, Ordering::Relaxed);
            }
        }
        waiting.entries.push_back(entry);
        let is_enough = waiting.wanted > 0 && waiting.awaited >= waiting.wanted;
        if std::mem::take(&mut waiting.idle) || is_enough {
            waiting.wanted = 0;
            drop(waiting);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves everything that waits to `taken`, which is empty; waits for the first entry, up to `most`, and if somebody
    /// waits for it, a little for `company`. Gives whether there will be no more.
    pub(super) fn take(&self, taken: &mut VecDeque<Entry>, most: Duration, company: Option<Company>) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        if waiting.entries.is_empty() && !waiting.closed {
            waiting.idle = true;
            let is_idle = |waiting: &mut Waiting| waiting.entries.is_empty() && !waiting.closed;
            waiting = self.wake.wait_timeout_while(waiting, most, is_idle).unwrap().0;
            waiting.idle = false;
        }
        if let Some(Company { wanted, most }) = company
            && (1..wanted).contains(&waiting.awaited)
        {
            waiting.wanted = wanted;
            let is_short = |waiting: &mut Waiting| waiting.wanted > 0 && !waiting.closed;
            waiting = self.wake.wait_timeout_while(waiting, most, is_short).unwrap().0;
            waiting.wanted = 0;
        }
        waiting.awaited = 0;
        std::mem::swap(&mut waiting.entries, taken);
        waiting.closed && taken.is_empty()
    }

    /// Writes that somebody waits for and that were not taken.
    pub(super) fn awaited(&self) -> usize {
        self.waiting.lock().unwrap().awaited
    }

    /// Takes room for writes that failed and are tried again.
    pub(super) fn hold(&self, writes: usize, bytes: usize) {
        self.writes.fetch_add(writes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back the room of writes that were committed or failed, and tells who waits for it.
    pub(super) fn release(&self, writes: usize, bytes: usize, answers: &dyn Answers) {
        self.writes.fetch_sub(writes, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.offer_room(answers);
    }

    pub(super) fn release_reading(&self) {
        self.readings.fetch_sub(1, Ordering::Relaxed);
    }

    /// Writes that wait, are being committed or are in the log only, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.writes.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.waiting.lock().unwrap().closed = true;
        self.wake.notify_one();
    }

    /// The writer has ended, in whatever way.
    pub(super) fn end(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // A thread that panics may have poisoned the lock; it ends nevertheless.
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (waiting.closed, waiting.ended) = (true, true);
        drop(waiting);
        self.ended.notify_all();
    }

    /// Whether the writer ended by then.
    #[expect(clippy::disallowed_methods, reason = "a wait for a thread, not the time of anything")]
    pub(super) fn wait_for_end(&self, until: Instant) -> bool {
        let waiting = self.waiting.lock().unwrap();
        let left = until.saturating_duration_since(Instant::now());
        self.ended.wait_timeout_while(waiting, left, |waiting| !waiting.ended).unwrap().0.ended
    }
}

const fn bit(worker: u8) -> u64 {
    1 << (worker as u64 % 64)
}
