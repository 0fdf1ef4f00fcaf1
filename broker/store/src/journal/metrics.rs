//! What the journal counts.

use super::health::Health;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the time of a commit, seconds: a sync takes 0.1 ms on a fast disk and seconds on one that hangs.
pub const SECONDS_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Upper bounds of the writes of a commit.
pub const BATCH_BUCKETS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Observations by bucket; not cumulative. The last one is what lies above all bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    pub bounds: &'static [f64],
    pub counts: Vec<u64>,
    pub sum: f64,
}

/// The journal's counters since its start, and its queue now.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalMetrics {
    pub commit_seconds: Histogram,
    pub commit_writes: Histogram,
    pub commits: u64,
    /// Commits that ended with a sync.
    pub syncs: u64,
    /// Writes that were committed.
    pub writes: u64,
    /// Bytes of all writes that left the queue, as they were in memory.
    pub bytes: u64,
    pub failures: u64,
    /// Writes that nobody waited for and that failed.
    pub lost: u64,
    /// Pushes and readings that were refused.
    pub refused: u64,
    pub queue_entries: usize,
    pub queue_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    seconds: [AtomicU64; SECONDS_BUCKETS.len() + 1],
    commit_us: AtomicU64,
    batches: [AtomicU64; BATCH_BUCKETS.len() + 1],
    attempted: AtomicU64,
    commits: AtomicU64,
    syncs: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    pub(super) health: Health,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn observe(counts: &[AtomicU64], bounds: &[f64], value: f64) {
    let bucket = bounds.partition_point(|bound| *bound < value);
    if let Some(count) = counts.get(bucket) {
        add(count, 1);
    }
}

impl Meters {
    pub(super) fn commit(&self, writes: usize, took: Duration, synced: bool, done: bool) {
        observe(&self.seconds, &SECONDS_BUCKETS, took.as_secs_f64());
        observe(&self.batches, &BATCH_BUCKETS, writes as f64);
        add(&self.commit_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        add(&self.attempted, writes as u64);
        if !done {
            return self.failed();
        }
        add(&self.commits, 1);
        add(&self.syncs, synced.into());
        add(&self.writes, writes as u64);
    }

    pub(super) fn bytes(&self, bytes: usize) {
        add(&self.bytes, bytes as u64);
    }

    pub(super) fn failed(&self) {
        add(&self.failures, 1);
    }

    pub(super) fn lost(&self, writes: usize) {
        add(&self.lost, writes as u64);
    }

    pub(super) fn refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn read(&self, queue_entries: usize, queue_bytes: usize) -> JournalMetrics {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = |counters: &[AtomicU64]| counters.iter().map(now).collect();
        JournalMetrics {
            commit_seconds: Histogram {
                bounds: &SECONDS_BUCKETS,
                counts: all(&self.seconds),
                sum: Duration::from_micros(now(&self.commit_us)).as_secs_f64(),
            },
            commit_writes: Histogram {
                bounds: &BATCH_BUCKETS,
                counts: all(&self.batches),
                sum: now(&self.attempted) as f64,
            },
            commits: now(&self.commits),
            syncs: now(&self.syncs),
            writes: now(&self.writes),
            bytes: now(&self.bytes),
            failures: now(&self.failures),
            lost: now(&self.lost),
            refused: now(&self.refused),
            queue_entries,
            queue_bytes,
        }
    }
}
