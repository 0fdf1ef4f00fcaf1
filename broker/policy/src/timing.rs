//! Which calls of a version on a worker are timed, and how much of the worker's time each stands for.
//!
//! Reading a clock twice costs as much as a third of a quick call. So once a version is known to be quick, one call in
//! eight on average is timed, and stands for those since the one before it. Which ones, a guest cannot foresee. A call
//! that is not quick, or during which a tick passed, has the next ones timed one by one, so what a slow guest uses is
//! counted as it is.
//!
//! Slow calls further apart than that would mostly be missed. But the ticks are a second measure of the calls that are not
//! timed: in the long run as many milliseconds pass in ticks during them as they take. So both are held against each other,
//! and where ticks say more, by more than [`DOUBT`], the rest is charged. For quick calls alike the difference is chance, stays
//! within the doubt nearly always, and adds a few per cent.

use crate::limits::{TICK_MS, TIMED_AFTER_SLOW, TIMED_AFTER_TICK, TIMED_AT_FIRST, TIMED_ONE_IN};
use std::time::Duration;

/// A call that takes longer is not quick, and stands for itself alone.
const QUICK: Duration = Duration::from_micros(5);

/// The most calls in a row that are not timed.
const SKIP_MAX: u32 = 2 * (TIMED_ONE_IN - 1);

/// How far ticks and timed calls may be apart.
const DOUBT: Duration = Duration::from_millis(8);
/// More at once says that nobody advanced the ticks, not that a call took so long.
const TICKS_SEEN_MAX: u64 = 1_000 / TICK_MS as u64;

#[derive(Debug)]
pub(crate) struct Timing {
    /// Calls that will all be timed.
    exact: u32,
    /// Calls that will not be, behind those.
    skipped: u32,
    /// Calls since the last timed one.
    standing: u32,
    /// What was charged for calls that were not timed, less what ticks say, in nanoseconds; within [`DOUBT`].
    ahead_ns: i64,
    /// Of a generator of pseudo-random numbers.
    state: u32,
}

impl Timing {
    /// Different seeds have different calls timed.
    pub(crate) fn new(seed: u32) -> Self {
        Self { exact: TIMED_AT_FIRST, skipped: 0, standing: 0, ahead_ns: 0, state: seed | 1 }
    }

    /// Whether the call that begins now is timed.
    #[inline]
    pub(crate) const fn is_due(&mut self) -> bool {
        self.standing += 1;
        if self.exact > 0 {
            self.exact -= 1;
            return true;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        true
    }

    /// Takes in a timed call; answers the time it stands for.
    #[inline]
    pub(crate) fn timed(&mut self, took: Duration) -> Duration {
        let standing = std::mem::replace(&mut self.standing, 0);
        if took > QUICK {
            self.exact = self.exact.max(TIMED_AFTER_SLOW);
            return took;
        }
        if self.exact == 0 {
            self.skipped = self.draw() % (SKIP_MAX + 1);
        }
        self.ahead_ns =
            (self.ahead_ns + nanoseconds(took * standing.saturating_sub(1))).min(nanoseconds(DOUBT));
        took * standing
    }

    /// Takes in that ticks passed during a call that was not timed; answers what is to be charged for that.
    #[cold]
    pub(crate) fn ticks_passed(&mut self, ticks: u64) -> Duration {
        self.exact = self.exact.max(if ticks > 1 { TIMED_AFTER_SLOW } else { TIMED_AFTER_TICK });
        self.skipped = 0;
        let passed = Duration::from_millis(ticks.min(TICKS_SEEN_MAX) * u64::from(TICK_MS));
        self.ahead_ns -= nanoseconds(passed);
        let owed = (-nanoseconds(DOUBT)).saturating_sub(self.ahead_ns).max(0);
        self.ahead_ns += owed;
        Duration::from_nanos(owed.unsigned_abs())
    }

    /// Xorshift: quick, and a guest sees none of the numbers.
    #[inline]
    const fn draw(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.state
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: Duration = Duration::from_nanos(1);

    /// Puts calls of these lengths; answers how many were timed, and the time charged.
    fn charge(timing: &mut Timing, calls: impl IntoIterator<Item = Duration>) -> (u32, Duration) {
        let (mut timed, mut charged) = (0, Duration::ZERO);
        for took in calls {
            if timing.is_due() {
                timed += 1;
                charged += timing.timed(took);
            }
        }
        (timed, charged)
    }

    #[test]
    fn the_first_calls_are_all_timed_and_then_one_in_eight() {
        let mut timing = Timing::new(7);
        let first = charge(&mut timing, std::iter::repeat_n(300 * NS, TIMED_AT_FIRST as usize));
        assert_eq!(first, (TIMED_AT_FIRST, 300 * NS * TIMED_AT_FIRST));
        let (timed, charged) = charge(&mut timing, std::iter::repeat_n(300 * NS, 80_000));
        assert!((9_000..11_000).contains(&timed), "{timed}");
        let uncounted = (300 * NS * 80_000).checked_sub(charged).unwrap();
        assert!(uncounted <= 300 * NS * SKIP_MAX, "{uncounted:?}");
    }

    #[test]
    fn a_guest_that_becomes_slow_is_noticed_within_a_few_calls() {
        let slow = Duration::from_micros(100);
        for seed in 0..200 {
            let mut timing = Timing::new(seed);
            charge(&mut timing, std::iter::repeat_n(300 * NS, 5_000));
            let (_, charged) = charge(&mut timing, std::iter::repeat_n(slow, 1_000));
            let uncounted = (slow * 1_000).checked_sub(charged).unwrap();
            assert!(uncounted <= slow * SKIP_MAX, "seed {seed}: {uncounted:?}");
        }
    }

    /// The same where time passes, with other work of the worker between two calls; the part of the time charged, and
    /// used.
    fn share(seed: u32, calls: impl IntoIterator<Item = Duration>, other: Duration) -> (f64, f64) {
        let mut timing = Timing::new(seed);
        let (mut now, mut charged, mut used) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        // Such that ticks do not fall on the same parts of each round.
        let mut jitter = (1..).map(|n: u32| NS * (n.wrapping_mul(2_654_435_761) >> 22));
        for took in calls {
            let begun = now;
            now += took;
            used += took;
            if timing.is_due() {
                charged += timing.timed(took);
            } else {
                let ticks = now.as_millis() - begun.as_millis();
                if ticks > 0 {
                    charged += timing.ticks_passed(u64::try_from(ticks).unwrap());
                }
            }
            now += other + jitter.next().unwrap();
        }
        (charged.div_duration_f64(now), used.div_duration_f64(now))
    }

    #[test]
    fn slow_calls_are_charged_however_far_they_are_apart() {
        for every in [50, 100, 260, 300, 600, 1_000, 3_000] {
            for seed in 0..20 {
                let slow = |n: u32| n.is_multiple_of(every);
                let calls = (0..300_000).map(|n| if slow(n) { Duration::from_micros(950) } else { 400 * NS });
                let (charged, used) = share(seed, calls, 2_000 * NS);
                assert!((0.8..1.2).contains(&(charged / used)), "{every}, seed {seed}: {charged} of {used}");
            }
        }
    }

    #[test]
    fn quick_calls_are_charged_as_they_are() {
        for seed in 0..20 {
            let (charged, used) = share(seed, std::iter::repeat_n(400 * NS, 1_000_000), 2_600 * NS);
            assert!((0.95..1.15).contains(&(charged / used)), "seed {seed}: {charged} of {used}");
        }
    }

    #[test]
    fn ticks_that_nobody_advanced_are_charged_once_at_most() {
        let mut timing = Timing::new(5);
        assert!(timing.ticks_passed(u64::MAX) <= Duration::from_secs(1));
        assert_eq!(timing.ticks_passed(1), Duration::from_millis(u64::from(TICK_MS)));
    }

    #[test]
    fn a_tick_has_the_next_calls_timed() {
        let mut timing = Timing::new(9);
        charge(&mut timing, std::iter::repeat_n(300 * NS, 1_000));
        timing.ticks_passed(1);
        let (timed, _) = charge(&mut timing, std::iter::repeat_n(300 * NS, TIMED_AFTER_TICK as usize));
        assert_eq!(timed, TIMED_AFTER_TICK);
    }
}
