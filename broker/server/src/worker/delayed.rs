//! Delayed messages of earlier runs: read from the store page by page, in the order of their time.
//!
//! | a worker asks for a page when | and gets |
//! | --- | --- |
//! | it holds no more than half of what it may | the next ones |
//! | the next one is due within [`AHEAD_MS`] | those due by then, beyond what it may hold |
//!
//! Invariants: one page is read at a time, so that workers get them in order and each message once. What is held beyond
//! the bounds is due at once, and less than two pages of it: a message is late only while those in front of it are
//! published. Messages of this run are passed over, because their worker holds them from the beginning.

use super::Worker;
use super::alone::PutOff;
use super::mailbox::Entry;
use super::storage_error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use waspmq_core::limits::{DELAYED_BYTES_MAX, DELAYED_MESSAGES_MAX};
use waspmq_core::message::Batch;
use waspmq_core::{Code, Level, MessageId, Reject, limits};
use waspmq_store::{Delayed, DelayedPage, Store, StoreError};

/// Messages and bytes of one page; one message more where it alone is larger.
const PAGE_MESSAGES: usize = 512;
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Pages of messages of this run that one reading passes over.
const PAGES_PER_READING: usize = 16;
/// How long before its time a message is read in any case: several sweeps.
const AHEAD_MS: u64 = 5_000;
/// Nothing is left to read.
const NEVER: u64 = u64::MAX;

const _: () = assert!(PAGE_MESSAGES <= DELAYED_MESSAGES_MAX / 2, "a page fits the half that is free");
const _: () = assert!(
    PAGE_BYTES + limits::MESSAGE_BYTES_MAX <= DELAYED_BYTES_MAX / 2,
    "a page and the message by which it is longer fit the half that is free"
);

/// How far the workers of a broker have read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Time and id of the last message that was read.
    last: Mutex<Option<(u64, MessageId)>>,
    /// When the first one that was not read is due, or before, milliseconds since 1970.
    due_unix_ms: AtomicU64,
    is_reading: AtomicBool,
}

impl Unread {
    /// Reads the next messages of runs before `epoch`, those due by `upto_unix_ms`.
    fn read(&self, store: &dyn Store, epoch: u32, upto_unix_ms: u64) -> Result<Vec<PutOff>, StoreError> {
        let mut last = self.last.lock().unwrap();
        for _ in 0..PAGES_PER_READING {
            let DelayedPage { mut messages, next_due_unix_ms } =
                store.delayed(*last, (PAGE_MESSAGES, PAGE_BYTES))?;
            let due = messages.partition_point(|delayed| delayed.due_unix_ms <= upto_unix_ms);
            let next = messages.get(due).map(|delayed| delayed.due_unix_ms).or(next_due_unix_ms);
            messages.truncate(due);
            *last = messages.last().and_then(key).or(*last);
            self.due_unix_ms.store(next.unwrap_or(NEVER), Ordering::SeqCst);
            messages.retain(|delayed| key(delayed).is_some_and(|(_, id)| id.epoch() != epoch));
            if !messages.is_empty() || next.is_none_or(|next| next > upto_unix_ms) {
                let put_off = |delayed: Delayed| {
                    PutOff::stored(delayed.due_unix_ms, Arc::unwrap_or_clone(delayed.batch))
                };
                return Ok(messages.into_iter().map(put_off).collect());
            }
        }
        Ok(Vec::new())
    }

    /// What the store has cannot be read: the rest waits for another start.
    fn give_up(&self) {
        self.due_unix_ms.store(NEVER, Ordering::SeqCst);
    }

    fn due_unix_ms(&self) -> Option<u64> {
        Some(self.due_unix_ms.load(Ordering::SeqCst)).filter(|due| *due != NEVER)
    }

    /// Whether nobody reads; then the caller does, until [`Self::end`].
    fn begin(&self) -> bool {
        !self.is_reading.swap(true, Ordering::SeqCst)
    }

    fn end(&self) {
        self.is_reading.store(false, Ordering::SeqCst);
    }
}

fn key(delayed: &Delayed) -> Option<(u64, MessageId)> {
    Some((delayed.due_unix_ms, delayed.batch.messages.first()?.id))
}

impl Worker {
    /// Refuses so many messages where they may not wait here, or the journal is known not to keep what is to be stored: they
    /// would wait here with each try of their publisher, and be published as often when there is room.
    pub(super) fn check_put_off(&self, level: Level, (count, bytes): (usize, usize)) -> Result<(), Reject> {
        let journal = (level == Level::Stored).then_some(&self.shared.journal);
        if !self.delays.has_room(count, bytes) || journal.is_some_and(|journal| !journal.has_room()) {
            let message = "as many messages wait for their time as this worker may hold";
            return Err(Reject::new(Code::Overloaded, message).retry_after(1_000));
        }
        journal.map_or(Ok(()), |journal| journal.check_room().map_err(|error| storage_error(&error)))
    }

    /// Asks for delayed messages of earlier runs, if there is room for them or they are due soon.
    pub(super) fn read_delayed(&self) {
        let unread = &self.shared.unread;
        let Some(due_unix_ms) = unread.due_unix_ms() else { return };
        let soon_unix_ms = self.shared.clock.now().unix_ms + AHEAD_MS;
        let (count, bytes) = (self.delays.len(), self.delays.bytes());
        let is_low = count <= DELAYED_MESSAGES_MAX / 2 && bytes <= DELAYED_BYTES_MAX / 2;
        let is_due = due_unix_ms <= soon_unix_ms
            && count <= DELAYED_MESSAGES_MAX + PAGE_MESSAGES / 2
            && bytes <= DELAYED_BYTES_MAX + PAGE_BYTES / 2;
        if !(is_low || is_due) || !unread.begin() {
            return;
        }
        let (mailboxes, worker) = (self.shared.mailboxes.clone(), self.number);
        let epoch = MessageId::new(0, self.shared.registry.epoch(), 0, 0).epoch();
        let (reading, upto_unix_ms) = (unread.clone(), if is_low { NEVER - 1 } else { soon_unix_ms });
        let read = move |store: &dyn Store| {
            let page = reading.read(store, epoch, upto_unix_ms).unwrap_or_else(|error| {
                if error.is_retryable() {
                    tracing::warn!(%error, "delayed messages cannot be read now");
                } else {
                    tracing::error!(%error, "delayed messages of an earlier run cannot be read and wait for another start");
                    reading.give_up();
                }
                Vec::new()
            });
            mailboxes.answer(worker, Entry::PutOff(page));
        };
        // Full: the sweep asks again.
        if self.shared.journal.read(Box::new(read)).is_err() {
            unread.end();
        }
    }

    /// Takes a page over.
    pub(super) fn handle_put_off(&mut self, page: Vec<PutOff>) {
        let now = self.shared.clock.now();
        let has_more = !page.is_empty();
        for put_off in page {
            let wait_ms = put_off.due_unix_ms().saturating_sub(now.unix_ms);
            let bytes = put_off.batches().iter().map(Batch::size_bytes).sum();
            self.delays.put_back((now.us / 1_000).saturating_add(wait_ms), bytes, put_off);
        }
        self.shared.unread.end();
        self.timers.notify_one();
        // Behind an error or what was passed over, the sweep asks.
        if has_more {
            self.read_delayed();
        }
    }
}

#[cfg(test)]
mod tests;
