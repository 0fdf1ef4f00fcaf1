//! The circuit breaker of one version on one worker: it stops asking what fails or takes too much of the worker.
//!
//! | state | event | next |
//! | --- | --- | --- |
//! | closed | [`FAILURES`] failures within the last [`RECENT_CALLS`] calls | open |
//! | closed, half-open | more than its share of the worker within a window | open |
//! | open | asked when [`OPEN_MS`] are over | half-open |
//! | half-open | a failure | open |
//! | half-open | [`TRIAL_CALLS`] calls without one | closed |
//!
//! Time is an argument. Deliberately not here: what serves a message while a breaker is open.
//!
//! [`FAILURES`]: limits::BREAKER_FAILURES
//! [`RECENT_CALLS`]: limits::BREAKER_RECENT_CALLS
//! [`OPEN_MS`]: limits::BREAKER_OPEN_MS
//! [`TRIAL_CALLS`]: limits::BREAKER_TRIAL_CALLS

use crate::limits;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What a breaker lets through, in the order of how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Every call.
    #[default]
    Closed,
    /// A few calls, which decide.
    HalfOpen,
    /// None.
    Open,
}

impl BreakerState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// Why a breaker changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Failures,
    CpuShare,
    /// The time for which it was open is over.
    Trial,
    Recovered,
}

impl Cause {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::CpuShare => "cpu_share",
            Self::Trial => "trial",
            Self::Recovered => "recovered",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// The last calls, the latest in the lowest bit; a failure is a one.
    recent: u32,
    window_began: Option<Instant>,
    used: Duration,
    /// Part of a worker's time that calls may take.
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { succeeded: u32 },
}

const WINDOW: Duration = Duration::from_millis(limits::BREAKER_WINDOW_MS);
const OPEN: Duration = Duration::from_millis(limits::BREAKER_OPEN_MS);

impl Breaker {
    pub(crate) const fn new(share: f64) -> Self {
        Self { state: State::Closed, recent: 0, window_began: None, used: Duration::ZERO, share }
    }

    /// Whether every call is let through, so that nobody needs to know the time.
    #[inline]
    pub(crate) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Takes in a call without a failure that was not timed.
    #[inline]
    pub(crate) const fn pass(&mut self) {
        self.recent = self.recent << 1 & RECENT_MASK;
    }

    /// Whether a call may be made now, and the change of state that this is.
    #[inline]
    pub(crate) fn permits(&mut self, now: Instant) -> (bool, Option<Cause>) {
        match self.state {
            State::Closed | State::HalfOpen { .. } => (true, None),
            State::Open { until } if now < until => (false, None),
            State::Open { .. } => {
                self.state = State::HalfOpen { succeeded: 0 };
                self.recent = 0;
                self.window_began = None;
                (true, Some(Cause::Trial))
            }
        }
    }

    /// Takes in a call that ended `now` and stands for this much time; answers why the state changed, if it did.
    #[inline]
    pub(crate) fn record(&mut self, now: Instant, failed: bool, took: Duration) -> Option<Cause> {
        if self.is_over_share(now, took) {
            return Some(self.open(now, Cause::CpuShare));
        }
        self.recent = (self.recent << 1 | u32::from(failed)) & RECENT_MASK;
        match self.state {
            State::HalfOpen { .. } if failed => Some(self.open(now, Cause::Failures)),
            State::HalfOpen { succeeded } if succeeded + 1 >= limits::BREAKER_TRIAL_CALLS => {
                self.state = State::Closed;
                Some(Cause::Recovered)
            }
            State::HalfOpen { succeeded } => {
                self.state = State::HalfOpen { succeeded: succeeded + 1 };
                None
            }
            State::Closed if failed && self.recent.count_ones() >= limits::BREAKER_FAILURES => {
                Some(self.open(now, Cause::Failures))
            }
            State::Closed | State::Open { .. } => None,
        }
    }

    pub(crate) const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }

    /// Adds a call to the window it belongs to. A call longer than a window is measured against its own length.
    fn is_over_share(&mut self, now: Instant, took: Duration) -> bool {
        let began = *self.window_began.get_or_insert_with(|| now.checked_sub(took).unwrap_or(now));
        self.used += took;
        let elapsed = now.saturating_duration_since(began);
        // What calls stand for is an estimate, and no more than all of the time there was.
        let over = self.used.min(elapsed) > elapsed.max(WINDOW).mul_f64(self.share);
        if elapsed >= WINDOW {
            self.window_began = None;
            self.used = Duration::ZERO;
        }
        over
    }

    fn open(&mut self, now: Instant, cause: Cause) -> Cause {
        self.state = State::Open { until: now + OPEN };
        self.window_began = None;
        self.used = Duration::ZERO;
        cause
    }
}

const RECENT_MASK: u32 = (1 << limits::BREAKER_RECENT_CALLS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const MS: Duration = Duration::from_millis(1);

    fn opened(calls: impl IntoIterator<Item = bool>) -> Option<usize> {
        let (mut breaker, now) = (Breaker::new(0.2), crate::stats::now());
        calls.into_iter().position(|failed| breaker.record(now, failed, US) == Some(Cause::Failures))
    }

    #[test]
    fn five_failures_within_twenty_calls_open() {
        assert_eq!(opened([true; 5]), Some(4));
        assert_eq!(opened([true; 4]), None);
        assert_eq!(
            opened((0..20).map(|n| n % 5 == 0 || n == 19)),
            Some(19),
            "the fifth comes as the twentieth"
        );
        assert_eq!(opened((0..1_000).map(|n| n % 5 == 0)), None, "four in any twenty");
        assert_eq!(opened((0..1_000).map(|n| n % 4 == 0)), Some(16));
    }

    #[test]
    fn trials_decide_when_a_second_is_over() {
        let (mut breaker, start) = (Breaker::new(1.0), crate::stats::now());
        let first: Vec<_> = (0..5).filter_map(|_| breaker.record(start, true, US)).collect();
        assert_eq!(first, [Cause::Failures]);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.permits(start + 999 * MS), (false, None));
        let late = start + 1_000 * MS;
        assert_eq!(breaker.permits(late), (true, Some(Cause::Trial)));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        for _ in 0..4 {
            assert_eq!(breaker.record(late, false, US), None);
        }
        assert_eq!(breaker.record(late, true, US), Some(Cause::Failures), "one failure is enough");
        let later = late + 1_000 * MS;
        assert_eq!(breaker.permits(later), (true, Some(Cause::Trial)));
        let causes: Vec<_> = (0..5).filter_map(|_| breaker.record(later, false, US)).collect();
        assert_eq!((causes, breaker.state()), (vec![Cause::Recovered], BreakerState::Closed));
        let again: Vec<_> = (0..5).filter_map(|_| breaker.record(later, true, US)).collect();
        assert_eq!(again, [Cause::Failures], "old failures do not count again");
    }

    #[test]
    fn more_than_the_share_of_a_window_opens() {
        let (mut breaker, start) = (Breaker::new(0.2), crate::stats::now());
        for n in 0..20 {
            assert_eq!(breaker.record(start + n * MS, false, MS), None, "20 ms are the share: {n}");
        }
        assert_eq!(breaker.record(start + 20 * MS, false, US), Some(Cause::CpuShare));
        let mut steady = Breaker::new(0.2);
        for n in 0..10_000 {
            assert_eq!(steady.record(start + n * 10 * MS, false, MS), None, "a tenth, for long");
        }
        let mut whole = Breaker::new(1.0);
        assert_eq!(
            whole.record(start + 700 * MS, false, 700 * MS),
            None,
            "all of a worker is never too much"
        );
        for n in 0..10_000 {
            let now = start + (701 + n) * MS;
            assert_eq!(whole.record(now, false, 3 * MS), None, "nor when it is estimated too high");
        }
        let mut long = Breaker::new(0.2);
        assert_eq!(long.record(start + 700 * MS, false, 700 * MS), Some(Cause::CpuShare));
    }
}
