//! Whether what is pushed now can be kept, as far as what was tried last says.
//!
//! | refused | since | until |
//! | --- | --- | --- |
//! | everything | nothing could be written | something was written |
//! | what needs room | there was none | there was |
//!
//! Invariant: the writer tries again by itself what was refused, so nothing stays refused because nobody pushes. Not here:
//! the queue, which may be full besides.

use super::writer::now;
use crate::store::StoreError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// What fails by itself. A part counts as failing when it has failed for as long as readings wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Commits: appending to the log, where there is one.
    Commit = 1,
    /// Applying to the store what is in the log.
    Apply = 2,
    /// Making durable what was applied.
    Sync = 4,
    /// Retention.
    Upkeep = 8,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Everything = 1,
    /// What [`needs room`](crate::Write::needs_room).
    Large = 2,
}

#[derive(Debug, Default)]
pub(super) struct Health {
    failing: AtomicU8,
    refused: AtomicU8,
    error: Mutex<Option<StoreError>>,
}

impl Health {
    pub(super) fn set_failing(&self, part: Part, is_failing: bool) {
        let bit = part as u8;
        if is_failing {
            self.failing.fetch_or(bit, Ordering::Relaxed);
        } else if self.failing.load(Ordering::Relaxed) & bit != 0 {
            self.failing.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) != 0
    }

    pub(super) fn refuse(&self, what: Refused, error: &StoreError) {
        *self.error.lock().unwrap() = Some(error.clone());
        self.refused.fetch_or(what as u8, Ordering::Relaxed);
    }

    pub(super) fn take(&self, what: Refused) {
        if self.refuses(what) {
            self.refused.fetch_and(!(what as u8), Ordering::Relaxed);
        }
    }

    pub(super) fn refuses(&self, what: Refused) -> bool {
        self.refused.load(Ordering::Relaxed) & what as u8 != 0
    }

    pub(super) fn refuses_any(&self) -> bool {
        self.refused.load(Ordering::Relaxed) != 0
    }

    /// The error with which a write pushed now would be refused.
    pub(super) fn check(&self, needs_room: bool) -> Result<(), StoreError> {
        let is_refused = if needs_room { self.refuses_any() } else { self.refuses(Refused::Everything) };
        match is_refused.then(|| self.error.lock().unwrap().clone()).flatten() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Since when something has failed on end.
#[derive(Debug, Default)]
pub(super) struct Failing(Option<Instant>);

impl Failing {
    /// Takes what became of a try. Gives whether none has worked for `most`. What is full works; what cannot be done, or meets
    /// a damaged record, says nothing.
    pub(super) fn note(&mut self, result: &Result<(), StoreError>, most: Duration) -> bool {
        match result {
            Ok(()) | Err(StoreError::Full { .. }) => self.0 = None,
            Err(StoreError::Unavailable { .. }) => self.0 = self.0.or_else(|| Some(now())),
            Err(_) => {}
        }
        self.0.is_some_and(|since| since.elapsed() >= most)
    }
}
