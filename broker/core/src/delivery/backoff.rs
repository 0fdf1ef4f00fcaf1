//! Waits between attempts. Deterministic: the random part comes from a number that the caller draws.

use super::{AckPlan, Backoff};

impl Backoff {
    /// The wait behind attempt `attempt`, the first being 1: `initial_ms` doubled with every attempt, at most
    /// `max_ms`, of which the random part may take away up to `jitter_percent`.
    pub fn wait_ms(&self, attempt: u16, random: u64) -> u32 {
        let doublings = u32::from(attempt.saturating_sub(1)).min(31);
        let full = (u64::from(self.initial_ms) << doublings).min(u64::from(self.max_ms.max(1)));
        let jitter = full * u64::from(self.jitter_percent.min(100)) / 100;
        let wait = full - random % (jitter + 1);
        u32::try_from(wait).unwrap_or(u32::MAX).max(1)
    }
}

impl AckPlan {
    /// How long the plan takes when every attempt times out.
    pub fn longest_ms(&self) -> u64 {
        let waits = (1..self.attempts.min(32)).map(|attempt| u64::from(self.backoff.wait_ms(attempt, 0)));
        let more = u64::from(self.attempts.saturating_sub(32)) * u64::from(self.backoff.max_ms);
        u64::from(self.timeout_ms) * u64::from(self.attempts.max(1)) + waits.sum::<u64>() + more
    }
}

/// A number that looks random and is the same for the same inputs: the finaliser of splitmix64.
pub(super) const fn draw(seed: u64, count: u64, attempt: u16) -> u64 {
    let mut x = seed ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((attempt as u64) << 48);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap() {
        let backoff = Backoff { initial_ms: 500, max_ms: 3_000, jitter_percent: 0 };
        let waits = [1, 2, 3, 4, 40, u16::MAX].map(|attempt| backoff.wait_ms(attempt, 7));
        assert_eq!(waits, [500, 1_000, 2_000, 3_000, 3_000, 3_000]);
    }

    #[test]
    fn jitter_takes_away_at_most_its_part() {
        let backoff = Backoff { initial_ms: 1_000, max_ms: 60_000, jitter_percent: 20 };
        let waits: Vec<_> = (0..500).map(|count| backoff.wait_ms(1, draw(9, count, 1))).collect();
        assert!(waits.iter().all(|wait| (800..=1_000).contains(wait)));
        assert!(waits.iter().max().unwrap() - waits.iter().min().unwrap() > 150, "spread");
        assert_eq!(draw(9, 5, 1), draw(9, 5, 1));
        assert_ne!(draw(9, 5, 1), draw(9, 5, 2));
    }

    #[test]
    fn the_longest_a_plan_takes() {
        assert_eq!(AckPlan::default().longest_ms(), 5 * 10_000 + 500 + 1_000 + 2_000 + 4_000);
        let once = AckPlan { attempts: 1, ..AckPlan::default() };
        assert_eq!(once.longest_ms(), 10_000);
    }
}
