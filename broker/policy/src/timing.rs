//! Which calls of a version on a worker are timed, and how much of the worker's time each stands for.
//!
//! Reading a clock twice costs as much as a third of a quick call. So once a version is known to be quick, one call in
//! eight on average is timed, and stands for those since the one before it. Which ones, a guest cannot foresee. A call
//! that is not quick, or during which a tick passed, has the next ones timed one by one, so what a slow guest uses is
//! counted as it is: only calls of less than two ticks that fall between two that are timed go uncounted, and of those
//! there are at most [`SKIP_MAX`] until one is noticed.

use crate::limits::{TIMED_AFTER_SLOW, TIMED_AFTER_TICK, TIMED_AT_FIRST, TIMED_ONE_IN};
use std::time::Duration;

/// A call that takes longer is not quick, and stands for itself alone.
const QUICK: Duration = Duration::from_micros(5);

/// The most calls in a row that are not timed.
const SKIP_MAX: u32 = 2 * (TIMED_ONE_IN - 1);

#[derive(Debug)]
pub(crate) struct Timing {
    /// Calls that will all be timed.
    exact: u32,
    /// Calls that will not be, behind those.
    skipped: u32,
    /// Calls since the last timed one.
    standing: u32,
    /// Of a generator of pseudo-random numbers.
    state: u32,
}

impl Timing {
    /// Different seeds have different calls timed.
    pub(crate) fn new(seed: u32) -> Self {
        Self { exact: TIMED_AT_FIRST, skipped: 0, standing: 0, state: seed | 1 }
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
        took * standing
    }

    /// Takes in that a tick passed during a call that was not timed.
    #[cold]
    pub(crate) fn tick_passed(&mut self) {
        self.exact = self.exact.max(TIMED_AFTER_TICK);
        self.skipped = 0;
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

    #[test]
    fn rare_slow_calls_are_charged_as_they_are() {
        // One call in a hundred takes 0.9 ms: the timed calls behind each one reach the next.
        let calls = (0..100_000).map(|n| if n % 100 == 0 { Duration::from_micros(900) } else { 300 * NS });
        let exact: Duration = calls.clone().sum();
        let (_, charged) = charge(&mut Timing::new(3), calls);
        assert!(charged <= exact && charged > exact.mul_f64(0.9), "{charged:?} of {exact:?}");
    }

    #[test]
    fn a_tick_has_the_next_calls_timed() {
        let mut timing = Timing::new(9);
        charge(&mut timing, std::iter::repeat_n(300 * NS, 1_000));
        timing.tick_passed();
        let (timed, _) = charge(&mut timing, std::iter::repeat_n(300 * NS, TIMED_AFTER_TICK as usize));
        assert_eq!(timed, TIMED_AFTER_TICK);
    }
}
