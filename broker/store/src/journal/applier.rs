//! The thread that applies what is in the log to the store.
//!
//! Invariants: groups are applied in order, each exactly once, however often the store fails in between; a segment of the
//! log goes only after a sync of the store. What it does is in nobody's way: writes are answered before, and readings that
//! would have to wait for a store that fails are refused.

use super::backlog::{Backlog, Step, take_readings};
use super::health::{Failing, Part};
use super::metrics::Meters;
use super::queue::Queue;
use super::readers::Readers;
use super::writer::{End, now};
use super::{Answers, JournalOptions, Reading};
use crate::log::{Alone, Segments};
use crate::store::{Durability, Store, StoreError, Write};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The wait before a store that failed is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// The wait before the next turn where a sync is wanted and the last one failed.
const SYNC_RETRY_WAIT: Duration = Duration::from_millis(10);

/// Tries once the journal is being stopped. More: the rest is in the log, and the next start applies it.
const LAST_TRIES: usize = 20;

/// The time between two reports of errors in keeping the store in order.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Bytes of applied writes behind which the store is synced before it is time.
const UNSYNCED_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) struct Applier {
    pub(super) store: Arc<dyn Store>,
    pub(super) options: JournalOptions,
    pub(super) answers: Arc<dyn Answers>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) segments: Arc<Segments>,
    pub(super) queue: Arc<Queue>,
    pub(super) meters: Arc<Meters>,
    pub(super) readers: Arc<Readers>,
    /// The last group that was applied, and that is synced.
    pub(super) applied: u64,
    pub(super) synced: u64,
    /// When an error in keeping the store in order was told last.
    pub(super) told: Option<Instant>,
    pub(super) syncing: Failing,
    pub(super) upkeep: Failing,
}

/// What is applied in one commit.
#[derive(Default)]
struct Unit {
    from: u64,
    to: u64,
    writes: Vec<Write>,
    bytes: usize,
    readings: Vec<Reading>,
    /// Where a damaged record is in the way of some.
    alone: Alone,
}

/// What a turn goes by.
struct Times {
    synced: Instant,
    maintained: Instant,
    unsynced_bytes: usize,
}

impl Applier {
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store-apply".into()).spawn(move || self.run())
    }

    fn run(mut self) {
        let end = End { queue: self.queue.clone(), readers: self.readers.clone() };
        let mut taken = VecDeque::new();
        let mut times = Times { synced: now(), maintained: now(), unsynced_bytes: 0 };
        loop {
            if taken.is_empty() && self.backlog.take(&mut taken, self.time_to_next(&times)) {
                break;
            }
            let mut unit = self.gather(&mut taken);
            if !unit.writes.is_empty() && !self.apply(&mut unit, &mut taken) {
                tracing::warn!(
                    "the store fails; what it does not have is in the log, and the next start applies it"
                );
                break;
            }
            times.unsynced_bytes += unit.bytes;
            self.backlog.release(unit.bytes);
            self.queue.release(unit.writes.len(), unit.bytes, &*self.answers);
            if !unit.readings.is_empty() {
                self.readers.push(unit.readings.into_iter());
            }
            self.keep_house(&mut times);
        }
        self.sync();
        // Whoever waits for the end may open the store again.
        drop(self);
        drop(end);
    }

    fn time_to_next(&self, times: &Times) -> Duration {
        let maintain = self.options.maintain_every.saturating_sub(times.maintained.elapsed());
        let sync = self.options.sync_every.saturating_sub(times.synced.elapsed());
        if self.segments.wants_sync(self.applied) {
            return SYNC_RETRY_WAIT;
        }
        if self.applied > self.synced { sync.min(maintain) } else { maintain }
    }

    /// As many groups as one commit may hold, up to the next reading.
    fn gather(&self, taken: &mut VecDeque<Step>) -> Unit {
        let mut unit = Unit { from: self.applied + 1, to: self.applied, ..Unit::default() };
        while unit.writes.len() < self.options.commit_entries_max
            && unit.bytes < self.options.commit_bytes_max
        {
            match taken.pop_front() {
                Some(Step::Group { sequence, mut writes, bytes }) => {
                    unit.to = sequence;
                    unit.bytes += bytes;
                    unit.writes.append(&mut writes);
                }
                Some(Step::Readings(readings)) => {
                    unit.readings = readings;
                    break;
                }
                None => break,
            }
        }
        unit
    }

    /// Applies until it is done. Gives whether it is; if not, all readings were refused.
    fn apply(&mut self, unit: &mut Unit, taken: &mut VecDeque<Step>) -> bool {
        let (mut tries, mut last_tries, mut failed) = (0_usize, 0, None);
        loop {
            // What was done alone is not done again.
            let applied = match unit.alone.done {
                0 => self.store.apply(&unit.writes, (unit.from, unit.to)),
                _ => self.apply_each(unit),
            };
            let Err(mut error) = applied else { break };
            self.meters.failed();
            if !error.is_retryable() && unit.alone.done == 0 {
                match self.apply_each(unit) {
                    Ok(()) => break,
                    Err(stopped) => error = stopped,
                }
            }
            if tries.is_multiple_of(100) {
                tracing::error!(%error, tries, "the store does not take what is in the log; it is tried again");
            }
            tries += 1;
            last_tries += usize::from(self.backlog.is_closed());
            let is_over = last_tries >= LAST_TRIES;
            if is_over || failed.get_or_insert_with(now).elapsed() >= self.options.readings_wait {
                self.meters.health.set_failing(Part::Apply, true);
                self.refuse_readings((unit, taken), &error);
            }
            if is_over {
                return false;
            }
            std::thread::sleep(RETRY_WAIT);
        }
        self.meters.health.set_failing(Part::Apply, false);
        self.applied = unit.to;
        true
    }

    /// What was read now would lack what is in the log only, and nobody would know.
    fn refuse_readings(&self, (unit, taken): (&mut Unit, &mut VecDeque<Step>), error: &StoreError) {
        let reason = format!("it does not take what was written before: {error}");
        let mut readings = std::mem::take(&mut unit.readings);
        readings.append(&mut take_readings(taken));
        readings.append(&mut self.backlog.take_readings());
        if !readings.is_empty() {
            self.readers.refuse(readings.into_iter(), &StoreError::Unavailable { reason });
        }
    }

    /// Commits what can be where a damaged record is in the way of some, from where it got to before.
    fn apply_each(&self, unit: &mut Unit) -> Result<(), StoreError> {
        unit.alone.apply(&*self.store, &unit.writes)?;
        self.store.apply(&[], (unit.from, unit.to))?;
        self.meters.lost(unit.alone.lost);
        Ok(())
    }

    fn keep_house(&mut self, times: &mut Times) {
        let is_due = self.applied > self.synced
            && (times.synced.elapsed() >= self.options.sync_every
                || times.unsynced_bytes >= UNSYNCED_BYTES_MAX);
        if is_due || self.segments.wants_sync(self.applied) {
            self.sync();
            (times.synced, times.unsynced_bytes) = (now(), 0);
        }
        if times.maintained.elapsed() >= self.options.maintain_every {
            let now_unix_ms = (self.options.clock)();
            let maintained = self.store.maintain(now_unix_ms).map(drop);
            let is_failing = self.upkeep.note(&maintained, self.options.readings_wait);
            self.meters.health.set_failing(Part::Upkeep, is_failing);
            self.report(maintained);
            times.maintained = now();
        }
    }

    fn sync(&mut self) {
        let result = self.store.commit(&[], Durability::Synced);
        if result.is_ok() {
            self.synced = self.applied;
            self.segments.synced_to(self.synced);
        }
        let is_failing = self.syncing.note(&result, self.options.readings_wait);
        self.meters.health.set_failing(Part::Sync, is_failing);
        self.report(result);
    }

    /// Tells of an error now and then: rounds may meet several that take turns.
    fn report(&mut self, result: Result<(), StoreError>) {
        let Err(error) = result else { return };
        self.meters.failed();
        if may_tell(self.told, now()) {
            tracing::warn!(%error, "keeping the store in order failed");
            self.told = Some(now());
        }
    }
}

fn may_tell(told: Option<Instant>, now: Instant) -> bool {
    told.is_none_or(|told| now.duration_since(told) >= REPORT_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_once_a_minute_whatever_they_are() {
        let told = now();
        assert!(may_tell(None, told));
        assert!(!may_tell(Some(told), told + Duration::from_secs(59)));
        assert!(may_tell(Some(told), told + REPORT_EVERY));
    }
}
