//! The reference for level `stored`: what a group commit costs on this disk when nothing is done but committing.
//!
//! Publishers hand records of one size to one writer thread. The writer takes all that waits, within
//! [`BATCH_RECORDS_MAX`] and [`BATCH_BYTES_MAX`], appends it to a file, calls `fdatasync` once and reports every
//! record of the batch as done; then it takes what has come meanwhile. A publisher has at most its window
//! outstanding and hands over the next record when one is done.
//!
//! Publishers are driven by one thread or by several; a driver takes all that is done at once and hands over all
//! that follows under one lock. With one driver there is next to no cost but the disk's.
//!
//! Not here: a network, names, checksums, an index, rotation.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::latency::{Recorder, Summary};
use crate::load::nanoseconds;

/// Records of one batch.
pub(crate) const BATCH_RECORDS_MAX: usize = 1_000;

/// Bytes of one batch.
pub(crate) const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How often the end of a run is looked for.
const TICK: Duration = Duration::from_millis(5);

/// The longest that a run goes on for the sake of `bytes_min`.
const RUN_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where the file is made; it is removed in the end.
    pub(crate) dir: PathBuf,
    pub(crate) publishers: usize,
    /// Threads that drive them.
    pub(crate) drivers: usize,
    /// Records outstanding per publisher.
    pub(crate) window: usize,
    pub(crate) record_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// Bytes that the measured interval writes at least, however long that takes.
    pub(crate) bytes_min: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) records: u64,
    pub(crate) records_per_s: f64,
    pub(crate) fsyncs_per_s: f64,
    pub(crate) written_bytes: u64,
    pub(crate) batch: Batches,
    /// Write and `fdatasync` of one batch.
    pub(crate) commit: Summary,
    /// From handing over to done, of one record.
    pub(crate) latency: Summary,
}

/// Records per batch.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Batches {
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    /// How many batches had at most so many records, and more than the entry before: `[records, batches]`.
    pub(crate) distribution: Vec<(u64, u64)>,
}

/// Runs the reference once.
///
/// # Errors
/// When the file cannot be made, written or synced.
pub(crate) fn run(plan: &Plan) -> Result<Sample> {
    let desk = Desk::new(plan);
    let mut file = tempfile::Builder::new().prefix("bench-fsync-").tempfile_in(&plan.dir)?;
    let append = OpenOptions::new().append(true).open(file.path());
    let append = append.with_context(|| format!("opening {}", file.path().display()))?;
    file.flush()?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| desk.write(append, plan));
        let drivers: Vec<_> = (0..plan.drivers)
            .map(|i| {
                let desk = &desk;
                scope.spawn(move || desk.drive(i, plan))
            })
            .collect();
        let seconds = desk.measure(plan);
        let written = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        let mut latency = Recorder::new()?;
        latency.measure(0..u64::MAX);
        for driver in drivers {
            latency.add(&driver.join().map_err(|_| anyhow!("a driver panicked"))??)?;
        }
        Ok(written?.sample(seconds, plan, &latency))
    })
}

/// A record that is handed over, or done.
#[derive(Debug, Clone, Copy)]
struct Record {
    driver: usize,
    handed_ns: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    bytes: Vec<u8>,
}

/// What is done and not yet seen by its driver.
#[derive(Debug, Default)]
struct Tray {
    done: Mutex<Vec<Record>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Desk {
    clock: Instant,
    waiting: Mutex<Waiting>,
    handed: Condvar,
    trays: Vec<Tray>,
    measuring: AtomicBool,
    over: AtomicBool,
    measured_bytes: AtomicU64,
}

/// What the writer counted in the measured interval.
#[derive(Debug)]
struct Written {
    records: u64,
    sizes: Histogram<u64>,
    commits: Recorder,
}

impl Desk {
    fn new(plan: &Plan) -> Self {
        Self {
            clock: Instant::now(),
            waiting: Mutex::default(),
            handed: Condvar::new(),
            trays: (0..plan.drivers).map(|_| Tray::default()).collect(),
            measuring: AtomicBool::new(false),
            over: AtomicBool::new(false),
            measured_bytes: AtomicU64::new(0),
        }
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits through warm-up and measured interval, ends the run and returns the interval's length in seconds.
    fn measure(&self, plan: &Plan) -> f64 {
        thread::sleep(plan.warm_up);
        self.measuring.store(true, Ordering::Release);
        let start = Instant::now();
        let enough = || self.measured_bytes.load(Ordering::Relaxed) >= plan.bytes_min;
        while !self.is_over() && (start.elapsed() < plan.measure || !enough()) && start.elapsed() < RUN_MAX {
            thread::sleep(TICK);
        }
        let seconds = start.elapsed().as_secs_f64();
        self.measuring.store(false, Ordering::Release);
        self.end();
        seconds
    }

    /// Taking each lock before notifying makes sure that nobody is between looking and waiting.
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        drop(held(&self.waiting));
        self.handed.notify_all();
        for tray in &self.trays {
            drop(held(&tray.done));
            tray.filled.notify_all();
        }
    }

    /// The writer's thread.
    fn write(&self, mut file: std::fs::File, plan: &Plan) -> Result<Written> {
        let mut written = Written { records: 0, sizes: Histogram::new(3)?, commits: Recorder::new()? };
        written.commits.measure(0..u64::MAX);
        let (mut records, mut bytes) = (Vec::new(), Vec::new());
        while self.take(plan, &mut records, &mut bytes) {
            let start_ns = self.now_ns();
            let outcome = file.write_all(&bytes).and_then(|()| file.sync_data());
            if let Err(error) = outcome {
                self.end();
                return Err(error).context("committing a batch");
            }
            if self.measuring.load(Ordering::Acquire) {
                written.records += records.len() as u64;
                written.sizes.saturating_record(records.len() as u64);
                written.commits.record(Some(start_ns), self.now_ns());
                self.measured_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            self.give_back(&mut records);
        }
        Ok(written)
    }

    /// Waits for records and takes one batch; false when the run is over.
    fn take(&self, plan: &Plan, records: &mut Vec<Record>, bytes: &mut Vec<u8>) -> bool {
        let mut waiting = held(&self.waiting);
        while waiting.records.is_empty() && !self.is_over() {
            waiting = self.handed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let count = waiting.records.len().min(BATCH_RECORDS_MAX).min(BATCH_BYTES_MAX / plan.record_bytes);
        records.clear();
        bytes.clear();
        records.extend(waiting.records.drain(..count));
        bytes.extend(waiting.bytes.drain(..count * plan.record_bytes));
        !self.is_over()
    }

    /// Sorts what is done to its drivers and wakes them.
    fn give_back(&self, records: &mut [Record]) {
        records.sort_unstable_by_key(|record| record.driver);
        for of_one in records.chunk_by(|one, other| one.driver == other.driver) {
            let Some(tray) = of_one.first().and_then(|record| self.trays.get(record.driver)) else {
                continue;
            };
            held(&tray.done).extend_from_slice(of_one);
            tray.filled.notify_one();
        }
    }

    /// A driver's thread; returns the latencies of its records.
    fn drive(&self, driver: usize, plan: &Plan) -> Result<Recorder> {
        let own = (driver..plan.publishers).step_by(plan.drivers).count();
        let record = vec![b'x'; plan.record_bytes];
        let mut latency = Recorder::new()?;
        latency.measure(0..u64::MAX);
        self.hand_over(driver, own * plan.window, &record);
        let mut done = Vec::new();
        while self.collect(&self.trays[driver], &mut done) {
            let now_ns = self.now_ns();
            if self.measuring.load(Ordering::Acquire) {
                done.iter().for_each(|record| latency.record(Some(record.handed_ns), now_ns));
            }
            self.hand_over(driver, done.len(), &record);
        }
        Ok(latency)
    }

    fn hand_over(&self, driver: usize, count: usize, record: &[u8]) {
        let handed_ns = self.now_ns();
        let mut waiting = held(&self.waiting);
        for _ in 0..count {
            waiting.records.push(Record { driver, handed_ns });
            waiting.bytes.extend_from_slice(record);
        }
        drop(waiting);
        self.handed.notify_one();
    }

    /// Waits for something to be done and takes it; false when the run is over.
    fn collect(&self, tray: &Tray, into: &mut Vec<Record>) -> bool {
        into.clear();
        let mut done = held(&tray.done);
        while done.is_empty() && !self.is_over() {
            done = tray.filled.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        into.append(&mut done);
        !self.is_over()
    }
}

impl Written {
    fn sample(&self, seconds: f64, plan: &Plan, latency: &Recorder) -> Sample {
        let batches = self.sizes.len();
        Sample {
            seconds,
            records: self.records,
            records_per_s: self.records as f64 / seconds,
            fsyncs_per_s: batches as f64 / seconds,
            written_bytes: self.records * plan.record_bytes as u64,
            batch: Batches::of(&self.sizes),
            commit: self.commits.summary(),
            latency: latency.summary(),
        }
    }
}

impl Batches {
    fn of(sizes: &Histogram<u64>) -> Self {
        let bounds = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, BATCH_RECORDS_MAX as u64];
        let mut below = 0;
        let mut distribution = Vec::new();
        for bound in bounds {
            let count = sizes.count_between(0, bound);
            if count > below {
                distribution.push((bound, count - below));
            }
            below = count;
        }
        Self {
            mean: sizes.mean(),
            p50: sizes.value_at_quantile(0.5),
            p99: sizes.value_at_quantile(0.99),
            max: sizes.max(),
            distribution,
        }
    }
}

/// A thread that panicked ends the run with an error of its own.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(drivers: usize, window: usize) -> Plan {
        Plan {
            dir: std::env::temp_dir(),
            publishers: 8,
            drivers,
            window,
            record_bytes: 192,
            warm_up: Duration::from_millis(20),
            measure: Duration::from_millis(150),
            bytes_min: 0,
        }
    }

    #[test]
    fn no_batch_is_larger_than_what_may_be_outstanding() {
        for (drivers, window) in [(1, 1), (1, 4), (8, 1), (3, 2)] {
            let sample = run(&plan(drivers, window)).unwrap();
            assert!(sample.records > 0 && sample.commit.samples > 0, "{sample:?}");
            assert!(sample.batch.max <= 8 * window as u64, "{sample:?}");
            let batches: u64 = sample.batch.distribution.iter().map(|(_, count)| count).sum();
            assert_eq!(batches, sample.commit.samples);
            assert_eq!(sample.written_bytes, sample.records * 192);
        }
    }

    #[test]
    fn a_batch_is_bounded_in_records_and_in_bytes() {
        let mut plan = plan(1, 400);
        assert_eq!(run(&plan).unwrap().batch.max, BATCH_RECORDS_MAX as u64);
        plan.record_bytes = 10_000;
        assert!(run(&plan).unwrap().batch.max <= 104, "1 MiB holds 104 records of 10,000 bytes");
    }

    #[test]
    fn a_run_goes_on_until_enough_is_written() {
        let mut plan = plan(1, 1);
        plan.measure = Duration::from_millis(1);
        plan.bytes_min = 300_000;
        assert!(run(&plan).unwrap().written_bytes >= 300_000);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let mut plan = plan(1, 1);
        plan.dir = "/nonexistent/folder".into();
        run(&plan).unwrap_err();
    }
}
