//! The broker's one clock. Everything else gets the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic microseconds since the broker's start, and the wall clock. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

/// One moment on both scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since the broker's start.
    pub us: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    #[expect(
        clippy::new_without_default,
        reason = "a clock that begins by itself would hide a reading of the time"
    )]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Microseconds since the broker's start.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Nanoseconds since the broker's start, to time what takes microseconds.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now(&self) -> Moment {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { us: self.now_us(), unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) }
    }
}
