//! How often calls of one policy went over a limit that does not end them: what was asked for is left out, and the guest
//! goes on. Each is counted, and told the log now and then.

use crate::limits;
use crate::stats::now;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Calls of the host in one call of the guest.
    Hostcalls,
    /// Lines in the log in a second.
    LogLines,
    /// Names of counters: how many, and what they may be.
    Counters,
    /// The same of histograms.
    Histograms,
    /// Values by key: how many, and their bytes.
    Values,
    /// Token buckets.
    Buckets,
}

/// How many there are.
pub(crate) const LIMITS: usize = 6;

impl Limit {
    const ALL: [Self; LIMITS] =
        [Self::Hostcalls, Self::LogLines, Self::Counters, Self::Histograms, Self::Values, Self::Buckets];

    /// The closed label of metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Hostcalls => "hostcalls",
            Self::LogLines => "log_lines",
            Self::Counters => "counters",
            Self::Histograms => "histograms",
            Self::Values => "values",
            Self::Buckets => "buckets",
        }
    }
}

/// How often each limit was exceeded.
#[derive(Debug)]
pub(crate) struct Exceeded {
    workers: Box<[Worker]>,
    started: Instant,
    /// Of each limit, the second behind `started` before which the log is not told again.
    quiet_until_s: [AtomicU64; LIMITS],
}

/// 128 bytes, so that no two workers share a pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker([AtomicU64; LIMITS]);

impl Exceeded {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1)).map(|_| Worker::default()).collect(),
            started: now(),
            quiet_until_s: Default::default(),
        }
    }

    #[cold]
    pub(crate) fn note(&self, (policy, worker): (&str, usize), limit: Limit) {
        // An instance is set up on another thread than its worker's, so this one may have two writers.
        let count = self.workers.get(worker).and_then(|Worker(counts)| counts.get(limit as usize));
        count.into_iter().for_each(|count| {
            count.fetch_add(1, Relaxed);
        });
        if self.is_worth_a_line(limit) {
            let (limit, count) = (limit.as_str(), self.total(limit));
            tracing::warn!(target: "plugin", policy, limit, count, "a limit is exceeded");
        }
    }

    /// By limit.
    pub(crate) fn totals(&self) -> [(&'static str, u64); LIMITS] {
        Limit::ALL.map(|limit| (limit.as_str(), self.total(limit)))
    }

    fn total(&self, limit: Limit) -> u64 {
        let counts = self.workers.iter().filter_map(|Worker(counts)| counts.get(limit as usize));
        counts.map(|count| count.load(Relaxed)).sum()
    }

    fn is_worth_a_line(&self, limit: Limit) -> bool {
        let Some(quiet_until_s) = self.quiet_until_s.get(limit as usize) else { return false };
        let now_s = self.started.elapsed().as_secs();
        let due_s = quiet_until_s.load(Relaxed);
        let next_s = now_s + limits::EXCEEDED_LINE_S;
        now_s >= due_s && quiet_until_s.compare_exchange(due_s, next_s, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_told_now_and_then() {
        let exceeded = Exceeded::new(2);
        for n in 0..5 {
            exceeded.note(("p", n % 2), Limit::Values);
        }
        exceeded.note(("p", 1), Limit::Hostcalls);
        let counts = exceeded.totals().map(|(_, count)| count);
        assert_eq!(counts, [1, 0, 0, 0, 5, 0]);
        let told = Exceeded::new(1);
        let lines = [Limit::Values, Limit::Values, Limit::Buckets].map(|limit| told.is_worth_a_line(limit));
        assert_eq!(lines, [true, false, true]);
        assert_eq!(Limit::ALL.map(|limit| limit as usize), [0, 1, 2, 3, 4, 5]);
    }
}
