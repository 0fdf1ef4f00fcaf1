//! What one policy did: outcomes and latencies per worker, what the guest measures, lines of its log.
//!
//! Each column has one writer, its worker (the last one: the policy thread), so a count is a plain load and
//! store; readers add the columns up. Deliberately not here: names of metrics, which the server gives.

use crate::exceeded::Exceeded;
use crate::limits;
use crate::measures::{Counters, Histograms};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use waspmq_core::policy::Work;

/// How a call of a policy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CallOutcome {
    /// It decided.
    Ok,
    /// The guest trapped: it panicked, ran out of stack or touched memory it does not have.
    Trap,
    /// It used more CPU time than its deadline allows.
    Deadline,
    /// It failed after it was denied memory.
    Memory,
    /// Its verdict names an invalid address, is outside of the bounds, or cannot be read at all.
    BadVerdict,
    /// There was no instance ready to ask, since replacements are paced.
    Unavailable,
    /// An earlier verdict said that it holds for this message, too.
    Cached,
    /// It was not asked, because it failed too often or took too much of its worker.
    BreakerOpen,
}

impl CallOutcome {
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::BadVerdict,
        Self::Unavailable,
        Self::Cached,
        Self::BreakerOpen,
    ];

    /// Whether the guest was called at all.
    pub(crate) const fn is_call(self) -> bool {
        !matches!(self, Self::Unavailable | Self::Cached | Self::BreakerOpen)
    }

    /// The closed label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::BadVerdict => "bad_verdict",
            Self::Unavailable => "unavailable",
            Self::Cached => "cached",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

/// Latencies of the calls as a histogram of fixed buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyBuckets {
    /// Upper bounds in seconds; the last bucket of `counts` has none.
    pub bounds: &'static [f64],
    /// Calls per bucket, not cumulative; one more than `bounds`.
    pub counts: Vec<u64>,
    pub sum_seconds: f64,
}

/// Quantiles of the calls in nanoseconds, each the upper bound of a bucket a quarter of an octave wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    pub timed_calls: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
}

/// Bounds of [`LatencyBuckets`]: factors of four from 256 ns, because a call costs some hundred nanoseconds in
/// a compiled guest, some microseconds in an interpreted one, and milliseconds at a deadline.
pub const LATENCY_BOUNDS: [f64; 12] = [
    256e-9,
    1.024e-6,
    4.096e-6,
    16.384e-6,
    65.536e-6,
    262.144e-6,
    1.048_576e-3,
    4.194_304e-3,
    16.777_216e-3,
    67.108_864e-3,
    268.435_456e-3,
    1.073_741_824,
];

/// What a policy's choices of one codec came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Compressed {
    pub messages: u64,
    /// Bytes before, and what was sent instead of them.
    pub plain_bytes: u64,
    pub packed_bytes: u64,
    pub spent_ns: u64,
}

/// The codecs that compress, as metrics name them.
const CODECS: [&str; 4] = ["lz4", "zstd", "zstd-dict", "deflate"];

#[derive(Debug)]
pub(crate) struct PolicyStats {
    columns: Box<[Column]>,
    pub(crate) counters: Counters,
    pub(crate) histograms: Histograms,
    pub(crate) exceeded: Exceeded,
    pub(crate) replaced: AtomicU64,
    pub(crate) recycled: AtomicU64,
    started: Instant,
    log_window: AtomicU64,
}

/// 128 bytes, so that no two writers share a pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Column {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    /// By codec: messages, bytes before and behind, nanoseconds.
    compressed: [[AtomicU64; 4]; CODECS.len()],
}

const OCTAVE_FIRST: u32 = 6;
const OCTAVE_LAST: u32 = 30;
const PER_OCTAVE: usize = 4;
/// One below 64 ns, four per octave, one above 1.07 s.
const BUCKETS: usize = (OCTAVE_LAST - OCTAVE_FIRST) as usize * PER_OCTAVE + 2;

impl PolicyStats {
    pub(crate) fn new(workers: usize) -> Self {
        let column = || Column {
            outcomes: [const { AtomicU64::new(0) }; CallOutcome::ALL.len()],
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum_ns: AtomicU64::new(0),
            compressed: [const { [const { AtomicU64::new(0) }; 4] }; CODECS.len()],
        };
        Self {
            columns: (0..=workers).map(|_| column()).collect(),
            counters: Counters::new(workers),
            histograms: Histograms::new(workers),
            exceeded: Exceeded::new(workers),
            replaced: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
            started: now(),
            log_window: AtomicU64::new(0),
        }
    }

    /// Counts one call. Only `writer` itself may call this with its number.
    pub(crate) fn record(&self, writer: usize, outcome: CallOutcome, timed: Option<Duration>) {
        let Some(column) = self.columns.get(writer.min(self.columns.len() - 1)) else { return };
        if let Some(count) = column.outcomes.get(outcome as usize) {
            add(count, 1);
        }
        if let Some(timed) = timed {
            let ns = u64::try_from(timed.as_nanos()).unwrap_or(u64::MAX);
            if let Some(bucket) = column.buckets.get(bucket_of(ns)) {
                add(bucket, 1);
            }
            add(&column.sum_ns, ns);
        }
    }

    /// Counts what came of a choice; what was sent as it is came to nothing. Only `writer` itself may call this with its
    /// number.
    pub(crate) fn compressed(&self, writer: usize, work: &Work<'_>) {
        let Some(column) = self.columns.get(writer.min(self.columns.len() - 1)) else { return };
        let codec = CODECS.iter().position(|name| *name == work.codec.name());
        let Some(counts) = codec.and_then(|codec| column.compressed.get(codec)) else { return };
        let work = [1, work.plain_bytes as u64, work.packed_bytes as u64, work.spent_ns];
        counts.iter().zip(work).for_each(|(count, delta)| add(count, delta));
    }

    /// What all choices came to, by codec; those that were never chosen are left out.
    pub(crate) fn compressed_totals(&self) -> Vec<(&'static str, Compressed)> {
        let total = |codec: usize, place: usize| {
            self.total(|column| column.compressed.get(codec).and_then(|counts| counts.get(place)))
        };
        let all = CODECS.into_iter().enumerate().map(|(codec, name)| {
            let [messages, plain_bytes, packed_bytes, spent_ns] =
                [0, 1, 2, 3].map(|place| total(codec, place));
            (name, Compressed { messages, plain_bytes, packed_bytes, spent_ns })
        });
        all.filter(|(_, compressed)| compressed.messages > 0).collect()
    }

    /// The column of the policy thread.
    pub(crate) fn policy_thread(&self) -> usize {
        self.columns.len() - 1
    }

    /// Calls into the guest, however they ended.
    pub(crate) fn calls(&self) -> u64 {
        let called = CallOutcome::ALL.into_iter().filter(|outcome| outcome.is_call());
        called.map(|outcome| self.total(|column| column.outcomes.get(outcome as usize))).sum()
    }

    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        CallOutcome::ALL.iter().map(|&o| (o.as_str(), self.total(|c| c.outcomes.get(o as usize)))).collect()
    }

    pub(crate) fn latency(&self) -> Latency {
        let counts = self.bucket_totals();
        let timed_calls = counts.iter().sum();
        let at = |share: f64| quantile(&counts, timed_calls, share);
        Latency { timed_calls, p50_ns: at(0.5), p99_ns: at(0.99), p999_ns: at(0.999) }
    }

    /// Mean time of the calls that were timed.
    pub(crate) fn mean_ns(&self) -> Option<u64> {
        self.total(|column| Some(&column.sum_ns)).checked_div(self.bucket_totals().iter().sum())
    }

    pub(crate) fn latency_buckets(&self) -> LatencyBuckets {
        let mut counts = vec![0; LATENCY_BOUNDS.len() + 1];
        for (index, count) in self.bucket_totals().into_iter().enumerate() {
            // Two octaves of the inner histogram make one outer bucket; the first reaches up to 256 ns.
            let outer = index.saturating_sub(1) / (2 * PER_OCTAVE);
            let outer = if index == BUCKETS - 1 { LATENCY_BOUNDS.len() } else { outer };
            if let Some(total) = counts.get_mut(outer) {
                *total += count;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 53 bits")]
        let sum_seconds = self.total(|c| Some(&c.sum_ns)) as f64 / 1e9;
        LatencyBuckets { bounds: &LATENCY_BOUNDS, counts, sum_seconds }
    }

    /// Whether a line may be logged now: [`limits::LOG_LINES_PER_SECOND`] in each second. Two threads at the
    /// border of a second may log a line too many or too few.
    pub(crate) fn log_line_allowed(&self) -> bool {
        let second = self.started.elapsed().as_secs() + 1;
        let packed = self.log_window.load(Relaxed);
        let (window, lines) = (packed >> 8, packed & 0xff);
        let lines = if window == second { lines } else { 0 };
        if lines >= u64::from(limits::LOG_LINES_PER_SECOND) {
            return false;
        }
        self.log_window.store(second << 8 | (lines + 1), Relaxed);
        true
    }

    fn bucket_totals(&self) -> Vec<u64> {
        (0..BUCKETS).map(|index| self.total(|column| column.buckets.get(index))).collect()
    }

    fn total(&self, pick: impl Fn(&Column) -> Option<&AtomicU64>) -> u64 {
        self.columns.iter().filter_map(pick).map(|count| count.load(Relaxed)).sum()
    }
}

/// Adds with a plain load and store: correct because a column has one writer.
fn add(count: &AtomicU64, delta: u64) {
    count.store(count.load(Relaxed).wrapping_add(delta), Relaxed);
}

fn bucket_of(ns: u64) -> usize {
    let octave = ns.checked_ilog2().unwrap_or(0);
    if octave < OCTAVE_FIRST {
        return 0;
    }
    if octave >= OCTAVE_LAST {
        return BUCKETS - 1;
    }
    let quarter = (ns >> (octave - 2)) & 3;
    1 + (octave - OCTAVE_FIRST) as usize * PER_OCTAVE + quarter as usize
}

fn upper_bound_ns(bucket: usize) -> u64 {
    let Some(index) = bucket.checked_sub(1) else { return 1 << OCTAVE_FIRST };
    let (octave, quarter) = (index / PER_OCTAVE, index % PER_OCTAVE);
    (PER_OCTAVE as u64 + quarter as u64 + 1) << (octave + OCTAVE_FIRST as usize - 2)
}

fn quantile(counts: &[u64], total: u64, share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rank among sampled calls, not negative"
    )]
    let rank = (total as f64 * share).ceil() as u64;
    let mut seen = 0;
    for (bucket, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= rank && total > 0 {
            return upper_bound_ns(bucket);
        }
    }
    0
}

/// The host's clock: it times calls and paces replacements, and no decision of the domain depends on it.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads a clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::compression::Codec;

    #[test]
    fn buckets_contain_what_falls_into_them() {
        for ns in (0..40).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3, (1 << bit) * 2 - 1]) {
            let bucket = bucket_of(ns);
            assert!(bucket == BUCKETS - 1 || ns < upper_bound_ns(bucket), "{ns} in {bucket}");
            assert!(bucket == 0 || ns >= upper_bound_ns(bucket - 1), "{ns} in {bucket}");
        }
    }

    #[test]
    fn quantiles_and_outer_buckets_agree_with_the_samples() {
        let stats = PolicyStats::new(2);
        for index in 0..1_000 {
            stats.record(index % 2, CallOutcome::Ok, Some(Duration::from_nanos(300)));
        }
        stats.record(0, CallOutcome::Deadline, Some(Duration::from_millis(2)));
        let latency = stats.latency();
        assert!((300..=320).contains(&latency.p50_ns), "{latency:?}");
        assert!((300..=320).contains(&latency.p99_ns), "{latency:?}");
        let buckets = stats.latency_buckets();
        assert_eq!((buckets.counts[1], buckets.counts[7]), (1_000, 1));
        assert_eq!(buckets.counts.iter().sum::<u64>(), 1_001);
        assert_eq!(stats.outcomes()[0], ("ok", 1_000));
        assert_eq!(stats.outcomes()[2], ("deadline", 1));
    }

    #[test]
    fn what_compressing_came_to_is_counted_by_codec() {
        let stats = PolicyStats::new(2);
        let zstd = Codec::Zstd { level: 3 };
        for (writer, codec) in [(0, &zstd), (1, &zstd), (0, &Codec::Deflate { level: 1 }), (1, &Codec::Plain)]
        {
            let work = Work { codec, plain_bytes: 100, packed_bytes: 40, spent_ns: 7 };
            stats.compressed(writer, &work);
        }
        let one = Compressed { messages: 1, plain_bytes: 100, packed_bytes: 40, spent_ns: 7 };
        let two = Compressed { messages: 2, plain_bytes: 200, packed_bytes: 80, spent_ns: 14 };
        assert_eq!(stats.compressed_totals(), [("zstd", two), ("deflate", one)]);
        let named = [Codec::Lz4, zstd, Codec::Dictionary { name: None }, Codec::Deflate { level: 1 }];
        assert_eq!(named.map(|codec| codec.name()), CODECS);
    }
}
