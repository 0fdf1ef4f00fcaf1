//! Rate limits, as the generic cell rate algorithm (ITU-T I.371, annex A): one number per limit, no timer.

/// Limits events to a rate with a burst. Time is an argument, microseconds on any monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval_us: u64,
    tolerance_us: u64,
    /// When the next event is due if events came exactly at the rate.
    due_us: u64,
}

impl Rate {
    /// `per_second` events with bursts of up to `burst`; `None` when `per_second` is 0, which means unlimited.
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval_us = 1_000_000_u64.checked_div(u64::from(per_second))?.max(1);
        Some(Self { interval_us, tolerance_us: interval_us * u64::from(burst.max(1) - 1), due_us: 0 })
    }

    /// Counts one event, or gives the milliseconds to wait before the next try.
    pub fn admit(&mut self, now_us: u64) -> Result<(), u32> {
        let due_us = self.due_us.max(now_us);
        let ahead_us = due_us - now_us;
        if ahead_us > self.tolerance_us {
            let wait_ms = (ahead_us - self.tolerance_us).div_ceil(1_000);
            return Err(u32::try_from(wait_ms).unwrap_or(u32::MAX));
        }
        self.due_us = due_us + self.interval_us;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut rate = Rate::new(10, 3).unwrap();
        for _ in 0..3 {
            assert_eq!(rate.admit(5_000_000), Ok(()));
        }
        assert_eq!(rate.admit(5_000_000), Err(100));
        assert_eq!(rate.admit(5_050_000), Err(50));
        assert_eq!(rate.admit(5_100_000), Ok(()));
        assert_eq!(rate.admit(5_100_000), Err(100));
    }

    #[test]
    fn zero_is_unlimited() {
        assert_eq!(Rate::new(0, 5), None);
    }
}
