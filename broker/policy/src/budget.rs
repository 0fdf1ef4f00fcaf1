//! How much worse than the version before a new one may be, and what is counted to tell.
//!
//! Each worker counts its own calls; the policy thread looks at the sums ten times in a window. A question that was
//! not put, because the breaker is open or no instance is ready, is one the version did not answer.
//! Deliberately not here: what is done about a version that is over its budget.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// When a new version is taken back without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Part of the calls in a window that fails: 1 to 100.
    pub failure_percent: u8,
    /// Mean time of a call, as a multiple of that of the version before: 2 to 1000.
    pub latency_factor: u32,
    /// Calls in a window below which nothing is concluded.
    pub calls_min: u32,
    /// Seconds that are looked at: 1 to 300.
    pub window_s: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            failure_percent: limits::BUDGET_FAILURE_PERCENT_DEFAULT,
            latency_factor: limits::BUDGET_LATENCY_FACTOR_DEFAULT,
            calls_min: limits::BUDGET_CALLS_DEFAULT,
            window_s: limits::BUDGET_WINDOW_S_DEFAULT,
        }
    }
}

/// Counts of one version on one worker, which alone writes them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    passed_by: AtomicU64,
    busy_ns: AtomicU64,
}

impl Tally {
    #[inline]
    pub(crate) fn record(&self, failed: bool, took: Duration) {
        add(&self.calls, 1);
        add(&self.failures, u64::from(failed));
        add(&self.busy_ns, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a call without a failure that was not timed; a later one stands for its time.
    #[inline]
    pub(crate) fn count(&self) {
        add(&self.calls, 1);
    }

    pub(crate) fn pass_by(&self) {
        add(&self.passed_by, 1);
    }

    pub(crate) fn totals(&self) -> Totals {
        let of = |count: &AtomicU64| count.load(Relaxed);
        Totals {
            calls: of(&self.calls),
            failures: of(&self.failures),
            passed_by: of(&self.passed_by),
            busy_ns: of(&self.busy_ns),
        }
    }
}

/// Adds with a plain load and store: correct because there is one writer.
fn add(count: &AtomicU64, delta: u64) {
    count.store(count.load(Relaxed).wrapping_add(delta), Relaxed);
}

/// What one version did, in all or in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    /// Questions that were not put.
    pub(crate) passed_by: u64,
    pub(crate) busy_ns: u64,
}

impl Totals {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            failures: self.failures + other.failures,
            passed_by: self.passed_by + other.passed_by,
            busy_ns: self.busy_ns + other.busy_ns,
        }
    }

    const fn minus(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            failures: self.failures.saturating_sub(earlier.failures),
            passed_by: self.passed_by.saturating_sub(earlier.passed_by),
            busy_ns: self.busy_ns.saturating_sub(earlier.busy_ns),
        }
    }

    pub(crate) const fn asked(self) -> u64 {
        self.calls + self.passed_by
    }

    pub(crate) const fn mean_ns(self) -> Option<u64> {
        self.busy_ns.checked_div(self.calls)
    }
}

/// The last window of one version's counts, in slices.
#[derive(Debug)]
pub(crate) struct Window {
    slices: VecDeque<Totals>,
    slice: Duration,
    due: Instant,
}

const SLICES: usize = 10;

impl Window {
    pub(crate) fn new(now: Instant, budget: &Budget) -> Self {
        let slice = Duration::from_secs(u64::from(budget.window_s)) / 10;
        Self { slices: VecDeque::from([Totals::default()]), slice, due: now + slice }
    }

    /// Begins anew with the counts as they are.
    pub(crate) fn reset(&mut self, now: Instant, totals: Totals) {
        self.slices.clear();
        self.slices.push_back(totals);
        self.due = now + self.slice;
    }

    /// Forgets what is older than the window; answers what came since, up to `totals`.
    pub(crate) fn advance(&mut self, now: Instant, totals: Totals) -> Totals {
        if now >= self.due {
            self.slices.push_back(totals);
            self.due = now + self.slice;
            if self.slices.len() > SLICES {
                self.slices.pop_front();
            }
        }
        self.latest(totals)
    }

    pub(crate) fn latest(&self, totals: Totals) -> Totals {
        totals.minus(self.slices.front().copied().unwrap_or_default())
    }
}

/// Why a version is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    Failures { failed: u64, asked: u64 },
    Latency { mean_ns: u64, before_ns: u64 },
}

impl Breach {
    /// The closed label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Failures { .. } => "failures",
            Self::Latency { .. } => "latency",
        }
    }
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failures { failed, asked } => write!(f, "{failed} of {asked} calls failed"),
            Self::Latency { mean_ns, before_ns } => {
                write!(f, "a call takes {mean_ns} ns, of the version before {before_ns} ns")
            }
        }
    }
}

/// Whether a version that did `seen` is over its budget. `before_ns` is the mean of the version before, if it had calls.
pub(crate) fn judge(budget: &Budget, seen: Totals, before_ns: Option<u64>) -> Option<Breach> {
    let (calls_min, percent) = (u64::from(budget.calls_min), u64::from(budget.failure_percent));
    let is_over = |failed: u64, asked: u64| failed * 100 >= asked * percent;
    if seen.calls >= calls_min {
        if is_over(seen.failures, seen.calls) {
            return Some(Breach::Failures { failed: seen.failures, asked: seen.calls });
        }
        if let (Some(mean_ns), Some(before_ns)) = (seen.mean_ns(), before_ns) {
            let floor_ns = before_ns.max(limits::BUDGET_LATENCY_FLOOR_NS);
            if mean_ns > floor_ns.saturating_mul(u64::from(budget.latency_factor)) {
                return Some(Breach::Latency { mean_ns, before_ns });
            }
        }
    }
    let (failed, asked) = (seen.failures + seen.passed_by, seen.asked());
    (asked >= calls_min && is_over(failed, asked)).then_some(Breach::Failures { failed, asked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(calls: u64, failures: u64, passed_by: u64, mean_ns: u64) -> Totals {
        Totals { calls, failures, passed_by, busy_ns: calls * mean_ns }
    }

    #[test]
    fn budgets() {
        let budget = Budget::default();
        let check = |seen: Totals, before_ns: Option<u64>, expected: Option<&str>| {
            assert_eq!(
                judge(&budget, seen, before_ns).map(Breach::as_str),
                expected,
                "{seen:?} {before_ns:?}"
            );
        };
        check(seen(99, 99, 0, 1), None, None);
        check(seen(100, 5, 0, 1), None, Some("failures"));
        check(seen(100, 4, 0, 1), None, None);
        check(seen(5, 5, 95, 1), None, Some("failures"));
        check(seen(1_000, 1, 0, 50_001), Some(300), Some("latency"));
        check(seen(1_000, 1, 0, 49_999), Some(300), None);
        check(seen(1_000, 1, 0, 99_999), Some(10_000), None);
        check(seen(1_000, 1, 0, 100_001), Some(10_000), Some("latency"));
        check(seen(1_000, 0, 0, 900_000), None, None);
        check(seen(99, 0, 0, 900_000), Some(300), None);
        check(seen(200, 0, 50, 900_000), Some(300), Some("latency"));
        check(Totals::default(), Some(300), None);
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let start = crate::stats::now();
        let budget = Budget { window_s: 1, ..Budget::default() };
        let mut window = Window::new(start, &budget);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(window.advance(at(50), seen(10, 0, 0, 1)).calls, 10);
        for n in 1..=8 {
            assert_eq!(window.advance(at(n * 100), seen(20, 0, 0, 1)).calls, 20, "at {n}");
        }
        assert_eq!(window.advance(at(900), seen(21, 0, 0, 1)).calls, 21);
        assert_eq!(window.advance(at(1_000), seen(22, 0, 0, 1)).calls, 2, "the first slice is a window old");
        window.reset(at(1_050), seen(22, 0, 0, 1));
        assert_eq!(window.advance(at(1_060), seen(25, 0, 0, 1)).calls, 3);
        assert_eq!(window.latest(seen(26, 0, 0, 1)).calls, 4);
    }
}
