//! Buckets of tokens, as the generic cell rate algorithm: of each the moment at which it is full again, and at which rate.
//!
//! A bucket that is full is the same as none, so it can be forgotten where there is no room for another. The rate may differ from call
//! to call: what a bucket holds stays then, as far as the new rate lets it hold that. So nobody gains more by taking turns than the
//! higher rate gives, also where one of them fills a bucket soon.

use super::{Map, Outcome, Shards, is_key};
use crate::limits;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The buckets of one policy.
#[derive(Debug)]
pub(crate) struct Buckets {
    shards: Shards<Shard>,
    count: AtomicUsize,
    count_max: usize,
    /// Full buckets are not looked for before this moment, in milliseconds.
    sweep_due: AtomicU64,
    /// Which shard is looked at first.
    sweep_next: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    known: Map<Bucket>,
    /// No bucket is full before this moment.
    quiet_until: u128,
}

impl Default for Shard {
    fn default() -> Self {
        Self { known: Map::default(), quiet_until: u128::MAX }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it is full if nothing is taken, in picoseconds.
    full_at: u128,
    /// That of the last call.
    rate: Rate,
}

impl Bucket {
    /// The same tokens at this moment, at another rate; at most as many as it lets a bucket hold. One that is full holds what it would
    /// have gained had it been larger.
    fn at_rate(self, rate: Rate, now: u128) -> Self {
        if self.rate == rate {
            return self;
        }
        let gained = (self.rate.capacity() + now).saturating_sub(self.full_at);
        let held = gained.saturating_mul(rate.token()) / self.rate.token();
        Self { full_at: now + rate.capacity().saturating_sub(held), rate }
    }
}

/// How many tokens a bucket gains and holds; it gains some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Rate {
    /// How long a bucket takes to gain one, in picoseconds.
    fn token(self) -> u128 {
        SECOND / u128::from(self.per_second.max(1))
    }

    /// How long an empty bucket takes to be full, in picoseconds.
    fn capacity(self) -> u128 {
        self.token() * u128::from(self.burst)
    }
}

const SECOND: u128 = 1_000_000_000_000;

impl Buckets {
    pub(crate) fn new(count_max: usize) -> Self {
        Self {
            shards: Shards::default(),
            count: AtomicUsize::new(0),
            count_max,
            sweep_due: AtomicU64::new(0),
            sweep_next: AtomicUsize::new(0),
        }
    }

    /// Takes tokens out of a bucket, all of them or none.
    pub(crate) fn take(&self, bucket: &str, amount: u32, rate: Rate, now_ms: u64) -> Outcome<()> {
        if !is_key(bucket) {
            return Outcome::OverBounds;
        }
        if rate.per_second == 0 || rate.burst == 0 || amount > rate.burst {
            return Outcome::Not;
        }
        let now = u128::from(now_ms) * (SECOND / 1_000);
        let mut shard = self.shards.of(bucket);
        let known = shard.known.get(bucket).copied();
        let before = known.unwrap_or(Bucket { full_at: 0, rate }).at_rate(rate, now);
        let full_at = before.full_at.max(now) + rate.token() * u128::from(amount);
        let is_enough = full_at - now <= rate.capacity();
        let after = if is_enough { Bucket { full_at, rate } } else { before };
        if known.is_none() && !self.add_one() {
            drop(shard);
            self.forget_full(now_ms);
            if !self.add_one() {
                return Outcome::OverBounds;
            }
            shard = self.shards.of(bucket);
            if shard.known.contains_key(bucket) {
                // Another worker began it meanwhile; the next call finds it.
                self.count.fetch_sub(1, Relaxed);
                return Outcome::OverBounds;
            }
        }
        shard.quiet_until = shard.quiet_until.min(after.full_at);
        match shard.known.get_mut(bucket) {
            Some(known) => *known = after,
            None => {
                shard.known.insert(bucket.into(), after);
            }
        }
        if is_enough { Outcome::Done(()) } else { Outcome::Not }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn add_one(&self) -> bool {
        let one_more = |count| Some(count + 1).filter(|&count| count <= self.count_max);
        self.count.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Forgets the buckets of one shard that are full, unless that was done just now: a worker does this between two
    /// messages, and where there are many buckets and few of them are full, a look at all costs more than it gives.
    fn forget_full(&self, now_ms: u64) {
        let due = self.sweep_due.load(Relaxed);
        if now_ms < due {
            return;
        }
        let now = u128::from(now_ms) * (SECOND / 1_000);
        let first = self.sweep_next.load(Relaxed);
        let mut shards = self.shards.all_from(first).enumerate();
        let Some((steps, mut shard)) = shards.find(|(_, shard)| shard.quiet_until <= now) else { return };
        let next_due = now_ms.saturating_add(limits::BUCKETS_SWEEP_MS);
        if self.sweep_due.compare_exchange(due, next_due, Relaxed, Relaxed).is_err() {
            return;
        }
        self.sweep_next.store(first.wrapping_add(steps + 1), Relaxed);
        let (mut quiet_until, mut count) = (u128::MAX, 0);
        shard.known.retain(|_, Bucket { full_at, .. }| {
            let stays = *full_at > now;
            if stays {
                quiet_until = quiet_until.min(*full_at);
            } else {
                count += 1;
            }
            stays
        });
        shard.quiet_until = quiet_until;
        self.count.fetch_sub(count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::SHARDS;
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_bucket_begins_full_and_gains_its_rate() {
        let buckets = Buckets::new(limits::BUCKETS_MAX);
        let take = |amount, now_ms| buckets.take("b", amount, RATE, now_ms) == Outcome::Done(());
        assert_eq!([1, 1, 1, 1].map(|amount| take(amount, 5_000)), [true, true, true, false]);
        assert!(!take(1, 5_099), "a tenth of a second for each");
        assert!(take(1, 5_100) && !take(1, 5_100));
        assert!(!take(3, 5_399) && take(3, 5_400), "all or none");
        assert!(take(3, 100_000) && !take(1, 100_000), "holds no more than its burst");
        assert!(!take(4, 200_000), "never that many");
        assert!(take(0, 200_000));
    }

    #[test]
    fn without_a_rate_or_a_name_there_is_nothing() {
        let buckets = Buckets::new(limits::BUCKETS_MAX);
        assert_eq!(buckets.take("b", 1, Rate { per_second: 0, burst: 1 }, 0), Outcome::Not);
        assert_eq!(buckets.take("b", 1, Rate { per_second: 1, burst: 0 }, 0), Outcome::Not);
        assert_eq!(buckets.take("", 1, RATE, 0), Outcome::OverBounds);
        let fastest = Rate { per_second: u32::MAX, burst: u32::MAX };
        assert_eq!(buckets.take("b", u32::MAX, fastest, u64::MAX), Outcome::Done(()), "no overflow");
        assert_eq!(buckets.take("b", 3, RATE, u64::MAX), Outcome::Not, "no overflow");
    }

    #[test]
    fn what_a_bucket_holds_stays_when_its_rate_changes() {
        const LARGE: Rate = Rate { per_second: 1, burst: 100_000 };
        let buckets = Buckets::new(limits::BUCKETS_MAX);
        let take = |bucket: &str, amount, (per_second, burst), now_ms| {
            buckets.take(bucket, amount, Rate { per_second, burst }, now_ms) == Outcome::Done(())
        };
        let large = (LARGE.per_second, LARGE.burst);
        // Holds 98,000, and can hold 10 of them.
        assert!(
            take("less", 2_000, large, 0) && take("less", 10, (1, 10), 0) && !take("less", 1, (1, 10), 999)
        );
        assert!(take("less", 1, (1, 10), 1_000));
        // Empty, and gains at the new rate from the first call that names it, be it refused.
        assert!(take("faster", LARGE.burst, large, 0) && !take("faster", 100, (1_000, 100), 0));
        assert!(!take("faster", 100, (1_000, 100), 99) && take("faster", 100, (1_000, 100), 100));
        // Holds one of three, and gains one a second instead of ten.
        assert!(
            take("slower", 2, (10, 3), 0) && take("slower", 1, (1, 3), 0) && !take("slower", 1, (1, 3), 999)
        );
        assert!(take("slower", 1, (1, 3), 1_000));
        // No bucket holds more by a larger burst than it gains.
        assert!(
            take("more", 3, (1, 3), 0)
                && !take("more", 1, (1, 1_000), 0)
                && take("more", 1, (1, 1_000), 1_000)
        );
        // Not either by one that it filled long ago.
        assert!(take("full", 1, (1, 3), 0) && !take("full", 4, (1, 1_000), 1_000));
        assert!(!take("full", 1_000, (1, 1_000), 997_999) && take("full", 1_000, (1, 1_000), 998_000));
        assert!(take("idle", 1, (1, 3), 0) && take("idle", 1_000, (1, 1_000), 998_000));
        assert!(take("in turn", 1_000, (1, 1_000), 0) && !take("in turn", 1, (1, 3), 0));
        assert!(!take("in turn", 10, (1, 1_000), 9_999) && take("in turn", 9, (1, 1_000), 9_999));
        // Nobody gains by a change to and fro, nor by a bucket that holds nothing.
        assert!(!take("to and fro", 0, (1, 0), 0) && take("to and fro", 3, (1, 3), 0));
        for _ in 0..9 {
            assert!(!take("to and fro", 1, (9, 9), 100) && !take("to and fro", 1, (1, 3), 100));
        }
    }

    #[test]
    fn full_buckets_give_way_to_new_ones() {
        let buckets = Buckets::new(limits::BUCKETS_MAX);
        let take = |name: usize, now_ms| buckets.take(&format!("b{name}"), 1, RATE, now_ms);
        (0..limits::BUCKETS_MAX).for_each(|name| assert_eq!(take(name, 0), Outcome::Done(())));
        assert_eq!(take(limits::BUCKETS_MAX, 99), Outcome::OverBounds);
        assert_eq!(take(0, 99), Outcome::Done(()), "one that is there goes on");
        assert_eq!(take(limits::BUCKETS_MAX, 100), Outcome::Done(()));
        let left = buckets.len();
        assert!(
            left > limits::BUCKETS_MAX / 2 && left < limits::BUCKETS_MAX,
            "one shard of {SHARDS}: {left} are left"
        );
    }

    #[test]
    fn every_shard_has_its_turn() {
        let buckets = Buckets::new(limits::BUCKETS_MAX);
        let take = |name: usize, now_ms| buckets.take(&format!("b{name}"), 1, RATE, now_ms);
        (0..limits::BUCKETS_MAX).for_each(|name| assert_eq!(take(name, 0), Outcome::Done(())));
        for turn in 0..SHARDS as u64 {
            buckets.forget_full(100 + turn * limits::BUCKETS_SWEEP_MS);
        }
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn full_ones_are_not_looked_for_all_the_time() {
        let buckets = Buckets::new(2);
        let take = |name: &str, now_ms| buckets.take(name, 1, RATE, now_ms);
        assert_eq!([take("a", 0), take("b", 1)], [Outcome::Done(()); 2]);
        assert_eq!(take("c", 100), Outcome::Done(()), "in the place of the first, which is full");
        let next = 100 + limits::BUCKETS_SWEEP_MS;
        assert_eq!(take("d", next - 1), Outcome::OverBounds, "the second is full, too");
        assert_eq!(take("d", next), Outcome::Done(()), "in the place of the second");
        assert_eq!(buckets.len(), 2);
    }
}
