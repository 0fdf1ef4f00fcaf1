//! The store over ordered records: one implementation for disk and for memory.
//!
//! Invariants: one commit at a time (the tally's mutex); readers see whole commits only, each through one view; an
//! address that has or had messages has a record, so nothing is stored that retention does not find.
//! Deliberately not here: what happens when a commit would not fit (see `journal`).

mod commit;
mod count;
mod find;
mod ledgers;
mod maintain;
mod old;
mod read;
mod tally;

use crate::disk::Disk;
use crate::shelf::{Memory, Shelf};
use crate::store::{
    DeadLetter, DelayedPage, Durability, Found, Maintained, Member, Page, Query, QueueRecord, ResumeRecord,
    Search, Seen, Store, StoreError, Usage, Write,
};
pub(crate) use ledgers::LedgerTally;
pub(crate) use read::{count_behind, describe_run, parse_address, parse_delayed, parse_run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tally::Tallies;
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId};

/// Messages on disk.
pub type FjallStore = Records<Disk>;

/// Messages in memory: the twin of [`FjallStore`] for tests and for brokers that keep nothing.
pub type MemoryStore = Records<Memory>;

/// What a store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of messages, dead letters, delayed messages and ledgers, which take at most an eighth of them. More: [`StoreError::Full`] until retention made room.
    pub bytes: u64,
    /// How long a ledger stays, measured from the publish.
    pub ledger_age_ms: u64,
    /// How long a dead letter stays, measured from when the message was given up.
    pub dead_letter_age_ms: u64,
}

impl Default for Bounds {
    /// No bound of the bytes, a day, 30 days.
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 3_600_000;
        Self { bytes: u64::MAX, ledger_age_ms: DAY_MS, dead_letter_age_ms: 30 * DAY_MS }
    }
}

/// A [`Store`] over a [`Shelf`].
#[derive(Debug)]
pub struct Records<S: Shelf> {
    shelf: S,
    bounds: Bounds,
    /// Locked for as long as a commit or a round of maintenance takes; never by a reader.
    tallies: Mutex<Tallies>,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// See [`Store::free_bytes`]; [`u64::MAX`] is none.
    free_bytes: AtomicU64,
}

impl MemoryStore {
    pub fn new(bounds: Bounds) -> Self {
        Self::over(Memory::default(), bounds, Usage::default())
    }
}

impl<S: Shelf> Records<S> {
    pub(crate) fn over(shelf: S, bounds: Bounds, usage: Usage) -> Self {
        let (messages, bytes) = (usage.messages.into(), usage.bytes.into());
        let free_bytes = AtomicU64::new(u64::MAX);
        Self { shelf, bounds, tallies: Mutex::default(), messages, bytes, free_bytes }
    }

    fn has_room(&self, pending_bytes: u64) -> Result<(), StoreError> {
        if self.bytes.load(Ordering::Relaxed).saturating_add(pending_bytes) >= self.bounds.bytes {
            return Err(StoreError::Full {
                reason: format!("it holds its bound of {} bytes", self.bounds.bytes),
            });
        }
        self.shelf.room(pending_bytes)
    }

    fn account(&self, messages: i64, bytes: i64) {
        let add = |counter: &AtomicU64, change: i64| {
            // Never below nothing: a tally that was low by a crash may be corrected by more than it said.
            let add = |now: u64| Some(now.saturating_add_signed(change));
            counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_default();
        };
        add(&self.messages, messages);
        add(&self.bytes, bytes);
    }
}

impl<S: Shelf> Drop for Records<S> {
    /// Saves what is known of each address, so that the next opening knows it too. Without, it counts again.
    fn drop(&mut self) {
        let tallies = self.tallies.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shelf = &self.shelf;
        if let Err(error) = tallies.save(usize::MAX, |changes| shelf.write(changes, Durability::Buffered)) {
            tracing::warn!(%error, "what is known of the addresses was not saved");
        }
    }
}

impl<S: Shelf> Store for Records<S> {
    fn commit(&self, writes: &[Write], durability: Durability) -> Result<(), StoreError> {
        if writes.iter().any(Write::needs_room) {
            self.shelf.ready()?;
            self.has_room(0)?;
        }
        self.commit_writes(writes, durability, None)
    }

    fn apply(&self, writes: &[Write], groups: (u64, u64)) -> Result<(), StoreError> {
        self.commit_writes(writes, Durability::Buffered, Some(groups))
    }

    fn apply_alone(&self, write: &Write) -> Result<(), StoreError> {
        self.commit_writes(std::slice::from_ref(write), Durability::Buffered, None)
    }

    fn applied(&self) -> Result<u64, StoreError> {
        read::applied(&self.shelf.view()?)
    }

    fn room(&self, pending_bytes: u64) -> Result<(), StoreError> {
        self.has_room(pending_bytes)
    }

    fn messages(&self, query: &Query) -> Result<Page, StoreError> {
        read::messages(&self.shelf.view()?, query)
    }

    fn find(&self, search: &Search) -> Result<Found, StoreError> {
        find::find(&self.shelf.view()?, search)
    }

    fn find_delayed(&self, search: &Search) -> Result<Found, StoreError> {
        find::find_delayed(&self.shelf.view()?, search)
    }

    fn first(&self, address: &Address) -> Result<Option<Position>, StoreError> {
        read::first(&self.shelf.view()?, address)
    }

    fn last(&self, address: &Address) -> Result<Option<Position>, StoreError> {
        read::last(&self.shelf.view()?, address)
    }

    fn count_after(
        &self,
        address: &Address,
        after: Option<Position>,
        most: usize,
    ) -> Result<usize, StoreError> {
        read::count_after(&self.shelf.view()?, address, after, most)
    }

    fn addresses(
        &self,
        pattern: &Pattern,
        after: Option<&Address>,
        most: usize,
    ) -> Result<Vec<Address>, StoreError> {
        read::addresses(&self.shelf.view()?, (pattern, after), most)
    }

    fn cursor(
        &self,
        user: &Name,
        device: Option<&Name>,
        address: &Address,
    ) -> Result<Option<Position>, StoreError> {
        read::position(&self.shelf.view()?, &crate::key::cursor(user, device, address))
    }

    fn cursors(
        &self,
        user: &Name,
        address: &Address,
        most: usize,
    ) -> Result<Vec<(Option<Name>, Position)>, StoreError> {
        read::cursors(&self.shelf.view()?, user, address, most)
    }

    fn read_mark(&self, user: &Name, address: &Address) -> Result<Option<Position>, StoreError> {
        read::position(&self.shelf.view()?, &crate::key::read_mark(user, address))
    }

    fn groups(&self, each: &mut dyn FnMut(Name)) -> Result<(), StoreError> {
        read::groups(&self.shelf.view()?, each)
    }

    fn members(&self, each: &mut dyn FnMut(Member)) -> Result<(), StoreError> {
        read::members(&self.shelf.view()?, each)
    }

    fn member_since(&self, group: &Name, user: &Name) -> Result<Option<Position>, StoreError> {
        read::position(&self.shelf.view()?, &crate::key::member(group, user))
    }

    fn resumes(&self, each: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError> {
        read::resumes(&self.shelf.view()?, each)
    }

    fn resume(&self, token_hash: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError> {
        read::resume(&self.shelf.view()?, token_hash)
    }

    fn dead_letters(
        &self,
        after: Option<(MessageId, &str)>,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        read::dead_letters(&self.shelf.view()?, after, most)
    }

    fn dead_letter(&self, id: MessageId) -> Result<Vec<DeadLetter>, StoreError> {
        read::dead_letter(&self.shelf.view()?, id)
    }

    fn ledger(&self, id: MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        read::ledger(&self.shelf.view()?, id)
    }

    fn delayed(
        &self,
        after: Option<(u64, MessageId)>,
        bounds: (usize, usize),
    ) -> Result<DelayedPage, StoreError> {
        read::delayed(&self.shelf.view()?, after, bounds)
    }

    fn seen(&self, user: &Name) -> Result<Option<Seen>, StoreError> {
        read::seen(&self.shelf.view()?, user)
    }

    fn queues(&self, each: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError> {
        read::queues(&self.shelf.view()?, each)
    }

    fn queue_cursor(
        &self,
        id: &QueueId,
        born_unix_ms: u64,
        address: &Address,
    ) -> Result<Option<QueueCursor>, StoreError> {
        read::queue_cursor(&self.shelf.view()?, id, born_unix_ms, address)
    }

    fn dedup_keys(&self, shard: u16) -> Result<(Vec<dedup::Key>, usize), StoreError> {
        read::dedup_keys(&self.shelf.view()?, shard)
    }

    fn maintain(&self, now_unix_ms: u64) -> Result<Maintained, StoreError> {
        self.maintain_once(now_unix_ms)
    }

    fn usage(&self) -> Usage {
        Usage { bytes: self.bytes.load(Ordering::Relaxed), messages: self.messages.load(Ordering::Relaxed) }
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes != u64::MAX)
    }
}
