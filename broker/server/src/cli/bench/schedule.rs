//! When the messages of a fixed rate are due: a pure function of their number, so that a broker or a generator that stalls moves nothing.

use std::time::Duration;

/// So many a second, evenly, for so long or so many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    rate: f64,
    count: u64,
}

/// What ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// So long behind the warm-up.
    Time(Duration),
    /// So many behind the warm-up, of all publishers together.
    Messages(u64),
}

impl Schedule {
    pub(super) fn new(rate: f64, warmup: Duration, until: Until) -> Self {
        let within = |time: Duration| number_within(rate, time);
        let count = match until {
            Until::Time(time) => within(warmup + time),
            Until::Messages(count) => within(warmup).saturating_add(count),
        };
        Self { rate, count }
    }

    /// How many there are in all.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// When one is due, from the start on.
    pub(super) fn due(&self, number: u64) -> Duration {
        time_of(self.rate, number)
    }
}

/// How many are due before that time: the first one is due at once.
fn number_within(rate: f64, time: Duration) -> u64 {
    let exact = rate * time.as_secs_f64();
    // Rounded, because 0.1 s at 1000/s are a hundred.
    let whole = exact.round();
    let number = if (exact - whole).abs() < 1e-6 { whole } else { exact.ceil() };
    // A float becomes an integer as the seconds of a time; all bounds are far below what one takes.
    Duration::try_from_secs_f64(number).map_or(u64::MAX, |time| time.as_secs())
}

fn time_of(rate: f64, number: u64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX)
}

/// By how many percent a generator fell behind: it was asked for `rate`, and sent `count` until `elapsed`.
pub(super) fn behind_percent(rate: f64, count: u64, elapsed: Duration) -> f64 {
    // The last one is due one interval before the end, so being in time is not being ahead.
    let planned = time_of(rate, count);
    if elapsed <= planned || count == 0 {
        return 0.0;
    }
    100.0 * (1.0 - planned.as_secs_f64() / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn as_many_as_the_time_has() {
        let check = |rate: f64, warmup_ms: u64, until, expected: u64| {
            let schedule = Schedule::new(rate, Duration::from_millis(warmup_ms), until);
            assert_eq!(schedule.count(), expected, "{rate} {warmup_ms} {until:?}");
        };
        check(1_000.0, 0, Until::Time(SECOND), 1_000);
        check(1_000.0, 100, Until::Time(SECOND), 1_100);
        check(0.5, 0, Until::Time(SECOND), 1);
        check(0.5, 0, Until::Time(4 * SECOND), 2);
        check(3.0, 0, Until::Time(Duration::from_millis(500)), 2);
        check(1_000.0, 100, Until::Messages(7), 107);
        check(1_000.0, 0, Until::Messages(7), 7);
        check(10_000_000.0, 0, Until::Time(24 * 3_600 * SECOND), 864_000_000_000);
    }

    #[test]
    fn each_is_due_when_its_number_says() {
        let check = |rate: f64, number: u64, expected_ns: u128| {
            let schedule = Schedule::new(rate, Duration::ZERO, Until::Messages(1));
            assert_eq!(schedule.due(number).as_nanos(), expected_ns, "{rate} {number}");
        };
        check(1_000.0, 0, 0);
        check(1_000.0, 1, 1_000_000);
        check(3.0, 1, 333_333_333);
        check(3.0, 3_000_000, 1_000_000_000_000_000);
        check(0.1, 2, 20_000_000_000);
    }

    #[test]
    fn what_was_sent_too_slowly_is_told_as_a_part() {
        let check = |rate: f64, count: u64, elapsed_ms: u64, expected: f64| {
            let percent = behind_percent(rate, count, Duration::from_millis(elapsed_ms));
            assert!((percent - expected).abs() < 1e-9, "{rate} {count} {elapsed_ms}: {percent}");
        };
        check(1_000.0, 1_000, 1_000, 0.0);
        check(1_000.0, 1_000, 999, 0.0);
        check(1_000.0, 900, 1_000, 10.0);
        check(1_000.0, 1_000, 2_000, 50.0);
        check(1_000.0, 0, 1_000, 0.0);
    }
}
