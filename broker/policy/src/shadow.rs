//! What came of a shadow: how often it answered as the active version did, and examples of where it did not.
//!
//! Counts are exact. Of the differences the first [`limits::DIFFERENCES_KEPT`] are kept, and then one at most in each
//! [`limits::DIFFERENCES_INTERVAL_MS`] takes the place of the oldest, so that a shadow that always differs costs no more than
//! one that never does. No worker waits for another one here.

use crate::limits;
use crate::question::Question;
use crate::stats::{CallOutcome, now};
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use waspmq_core::MessageId;

/// One message that a shadow decided differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The message, unless it got no id because it was refused, dropped or is still waiting; of several with the same
    /// fate the first.
    pub id: Option<String>,
    pub sender: String,
    pub address: String,
    pub active: Value,
    pub shadow: Value,
}

/// What came of a shadow so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Comparison {
    /// Messages that both versions decided in the same way.
    pub same: u64,
    /// Messages that they decided differently.
    pub different: u64,
    /// Messages that the shadow failed to decide.
    pub failed: u64,
    /// Some of those decided differently, the oldest first.
    pub samples: Vec<Difference>,
}

#[derive(Debug, Default)]
pub(crate) struct Differences {
    same: AtomicU64,
    different: AtomicU64,
    failed: AtomicU64,
    samples: Mutex<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    /// With a number each, by which it is found again when its message has an id.
    kept: VecDeque<(u64, Difference)>,
    next: u64,
    last: Option<Instant>,
}

impl Differences {
    /// Compares what the active version answers with what the shadow did. Answers the number of a sample whose message has
    /// no id yet, for [`Differences::name`].
    pub(crate) fn compare<Q: Question>(
        &self,
        question: &Q,
        active: &Q::Answer,
        shadow: Result<Q::Answer, CallOutcome>,
    ) -> Option<u64> {
        match shadow {
            Err(_) => {
                self.failed.fetch_add(1, Relaxed);
                None
            }
            Ok(shadow) if shadow == *active => {
                self.same.fetch_add(1, Relaxed);
                None
            }
            Ok(shadow) => {
                self.different.fetch_add(1, Relaxed);
                let number = self.sample(|| Difference {
                    id: question.id().map(|id| id.to_string()),
                    sender: question.sender().to_owned(),
                    address: question.to().to_owned(),
                    active: Q::show(active),
                    shadow: Q::show(&shadow),
                });
                number.filter(|_| question.id().is_none())
            }
        }
    }

    /// Says which id the message of a sample has. Nothing happens where that is gone, or is being shown.
    pub(crate) fn name(&self, number: u64, id: MessageId) {
        let Some(mut samples) = self.try_lock() else { return };
        let sample = samples.kept.iter_mut().find(|(of, _)| *of == number);
        sample.into_iter().for_each(|(_, difference)| difference.id = Some(id.to_string()));
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Samples>> {
        match self.samples.try_lock() {
            Ok(samples) => Some(samples),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Keeps a difference, unless there were many lately; answers its number.
    fn sample(&self, difference: impl FnOnce() -> Difference) -> Option<u64> {
        let mut samples = self.try_lock()?;
        if samples.kept.len() >= limits::DIFFERENCES_KEPT {
            let interval = Duration::from_millis(limits::DIFFERENCES_INTERVAL_MS);
            if samples.last.is_some_and(|last| last.elapsed() < interval) {
                return None;
            }
            samples.kept.pop_front();
        }
        samples.last = Some(now());
        let number = samples.next;
        samples.next += 1;
        samples.kept.push_back((number, difference()));
        Some(number)
    }

    /// Messages by how the shadow compared: the closed label of metrics.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Relaxed);
        [("same", of(&self.same)), ("different", of(&self.different)), ("failed", of(&self.failed))]
    }

    pub(crate) fn show(&self) -> Comparison {
        let [(_, same), (_, different), (_, failed)] = self.counts();
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Comparison {
            same,
            different,
            failed,
            samples: samples.kept.iter().map(|(_, sample)| sample.clone()).collect(),
        }
    }
}
