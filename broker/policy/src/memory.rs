//! What the host keeps for one policy, whatever instances and revisions serve it: values by key, and buckets of tokens.
//!
//! Shared by all workers. A lock is held for one look-up or change and never while a guest runs; keys are spread over
//! shards, so that workers rarely meet. Whatever is over a bound is refused and counted, and what is there stays.
//! Moments are milliseconds of a clock that only goes forward.

mod buckets;
mod values;

use crate::limits;
use buckets::Buckets;
pub(crate) use buckets::Rate;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use values::Values;

/// What is kept for one policy.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) values: Values,
    /// Those of a plugin.
    pub(crate) buckets: Buckets,
    /// Those that rules count messages with.
    pub(crate) rule_buckets: Buckets,
    refused: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            values: Values::default(),
            buckets: Buckets::new(limits::BUCKETS_MAX),
            rule_buckets: Buckets::new(limits::RULE_BUCKETS_MAX),
            refused: AtomicU64::new(0),
        }
    }
}

/// How much of its bounds a policy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Kept {
    pub values: usize,
    pub value_bytes: usize,
    pub buckets: usize,
    /// Changes refused because they are over a bound.
    pub refused: u64,
}

impl Memory {
    pub(crate) fn kept(&self) -> Kept {
        let (values, value_bytes) = self.values.size();
        let buckets = self.buckets.len() + self.rule_buckets.len();
        Kept { values, value_bytes, buckets, refused: self.refused.load(Relaxed) }
    }

    /// Counts an answer that is missing for want of room.
    pub(crate) fn note<T>(&self, answer: Outcome<T>) -> Option<T> {
        match answer {
            Outcome::Done(answer) => Some(answer),
            Outcome::Not => None,
            Outcome::OverBounds => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    Done(T),
    /// What is there is not what the change is for.
    Not,
    OverBounds,
}

/// Tables behind locks of their own, each with the moment before which nothing in it ends.
#[derive(Debug)]
struct Shards<T> {
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<T>; SHARDS],
}

const SHARDS: usize = 8;

impl<T: Default> Default for Shards<T> {
    fn default() -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<T> Shards<T> {
    fn of(&self, key: &str) -> MutexGuard<'_, T> {
        #[expect(clippy::cast_possible_truncation, reason = "a hash is cut to an index")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        let [first, ..] = &self.shards;
        lock(self.shards.get(index).unwrap_or(first))
    }

    /// All in turn, beginning with one of them; each is locked when it is asked for.
    fn all_from(&self, first: usize) -> impl Iterator<Item = MutexGuard<'_, T>> {
        let (before, from) = self.shards.split_at(first % SHARDS);
        from.iter().chain(before).map(lock)
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(lock)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a text may name a value or a bucket.
fn is_key(key: &str) -> bool {
    (1..=limits::KEY_BYTES_MAX).contains(&key.len())
}

type Map<V> = std::collections::HashMap<Box<str>, V, foldhash::fast::RandomState>;
