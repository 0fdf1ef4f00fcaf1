//! How long to wait before connecting again.

use std::time::Duration;

/// Exponential backoff with full jitter: before attempt n (from 0), a random time between nothing and
/// `first_ms * 2^n`, at most `max_ms`. Spreads clients that lost the broker at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first_ms: u32,
    pub max_ms: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first_ms: 200, max_ms: 30_000 }
    }
}

impl Backoff {
    /// `random` is any number, each equally likely.
    pub(crate) fn wait(self, attempt: u32, random: u64) -> Duration {
        let factor = 1_u64.checked_shl(attempt.min(31)).unwrap_or(u64::MAX);
        let ceiling_ms = u64::from(self.first_ms).saturating_mul(factor).min(u64::from(self.max_ms));
        Duration::from_millis(random % (ceiling_ms + 1))
    }
}

/// Without random bytes from the operating system, no jitter: the wait is then shortest, not absent for long,
/// because attempts that fail grow it for others.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let backoff = Backoff { first_ms: 100, max_ms: 1_000 };
        let check = |attempt, ceiling_ms: u64| {
            assert_eq!(backoff.wait(attempt, ceiling_ms), Duration::from_millis(ceiling_ms));
            assert_eq!(backoff.wait(attempt, ceiling_ms + 1), Duration::ZERO);
        };
        check(0, 100);
        check(1, 200);
        check(3, 800);
        check(4, 1_000);
        check(u32::MAX, 1_000);
    }
}
