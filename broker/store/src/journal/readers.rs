//! The threads that read.

use super::Reading;
use super::queue::Queue;
use super::shut::Shut;
use crate::store::{Store, StoreError};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

#[derive(Default)]
struct Work {
    /// Bounded by the queue they came through. With an error it is all that they are told.
    readings: VecDeque<(Reading, Option<StoreError>)>,
    closed: bool,
    threads: usize,
}

#[derive(Default)]
pub(super) struct Readers {
    work: Mutex<Work>,
    wake: Condvar,
    ended: Condvar,
}

impl Readers {
    pub(super) fn push(&self, readings: impl Iterator<Item = Reading>) {
        self.extend(readings.map(|reading| (reading, None)));
    }

    /// Answers with an error instead of the store.
    pub(super) fn refuse(&self, readings: impl Iterator<Item = Reading>, error: &StoreError) {
        self.extend(readings.map(|reading| (reading, Some(error.clone()))));
    }

    fn extend(&self, readings: impl Iterator<Item = (Reading, Option<StoreError>)>) {
        self.work.lock().unwrap().readings.extend(readings);
        self.wake.notify_all();
    }

    /// The threads end when nothing is left.
    pub(super) fn close(&self) {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    fn next(&self) -> Option<(Reading, Option<StoreError>)> {
        let mut work = self.work.lock().unwrap();
        work = self.wake.wait_while(work, |work| work.readings.is_empty() && !work.closed).unwrap();
        work.readings.pop_front()
    }

    /// Whether all threads ended by then.
    #[expect(clippy::disallowed_methods, reason = "a wait for threads, not the time of anything")]
    pub(super) fn wait_for_end(&self, until: Instant) -> bool {
        let work = self.work.lock().unwrap();
        let left = until.saturating_duration_since(Instant::now());
        self.ended.wait_timeout_while(work, left, |work| work.threads > 0).unwrap().0.threads == 0
    }
}

pub(super) fn start(
    index: usize,
    readers: &Arc<Readers>,
    store: &Arc<dyn Store>,
    queue: &Arc<Queue>,
) -> io::Result<()> {
    let (readers, store, queue) = (readers.clone(), store.clone(), queue.clone());
    readers.work.lock().unwrap().threads += 1;
    let mine = readers.clone();
    let body = move || {
        while let Some((work, error)) = mine.next() {
            let read = || match error {
                Some(error) => work(&Shut(error)),
                None => work(&*store),
            };
            // One reading that fails must not end the others.
            if catch_unwind(AssertUnwindSafe(read)).is_err() {
                tracing::error!("a reading of the store panicked");
            }
            queue.release_reading();
        }
        drop(store);
        mine.work.lock().unwrap().threads -= 1;
        mine.ended.notify_all();
    };
    let started = std::thread::Builder::new().name(format!("store-read-{index}")).spawn(body);
    started.map(drop).inspect_err(|_| readers.work.lock().unwrap().threads -= 1)
}
