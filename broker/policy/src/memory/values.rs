//! Values by key, each until its time.

use super::{Map, Outcome, Shards, is_key};
use crate::limits;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The values of one policy.
#[derive(Debug, Default)]
pub(crate) struct Values {
    shards: Shards<Shard>,
    count: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    values: Map<Value>,
    /// Nothing ends before this moment.
    quiet_until_ms: u64,
}

#[derive(Debug, Clone)]
struct Value {
    bytes: Box<[u8]>,
    /// When it ends; `u64::MAX` is never.
    ends_ms: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { values: Map::default(), quiet_until_ms: u64::MAX }
    }
}

impl Values {
    pub(crate) fn get(&self, key: &str, now_ms: u64) -> Option<Vec<u8>> {
        let shard = self.shards.of(key);
        shard.live(key, now_ms).map(|value| value.bytes.to_vec())
    }

    /// Keeps a value for `ttl_ms`, 0 being for good.
    pub(crate) fn set(&self, key: &str, bytes: &[u8], ttl_ms: u64, now_ms: u64) -> Outcome<()> {
        self.change(key, now_ms, |_| Some((Value::new(bytes, ttl_ms, now_ms), ())))
    }

    pub(crate) fn delete(&self, key: &str) {
        let mut shard = self.shards.of(key);
        if let Some(gone) = shard.values.remove(key) {
            self.give_back(1, size(key, &gone));
        }
    }

    /// Keeps a value if what is there is `expected`.
    pub(crate) fn compare_and_set(
        &self,
        (key, expected): (&str, Option<&[u8]>),
        bytes: &[u8],
        ttl_ms: u64,
        now_ms: u64,
    ) -> Outcome<()> {
        self.change(key, now_ms, |known| {
            let is_expected = known.map(|value| &*value.bytes) == expected;
            is_expected.then(|| (Value::new(bytes, ttl_ms, now_ms), ()))
        })
    }

    /// Adds to a number and gives the sum. A number that is there keeps its end.
    pub(crate) fn add(&self, key: &str, delta: i64, ttl_ms: u64, now_ms: u64) -> Outcome<i64> {
        self.change(key, now_ms, |known| {
            let (number, ends_ms) = match known {
                None => (0, None),
                Some(value) => {
                    (i64::from_le_bytes(value.bytes.as_ref().try_into().ok()?), Some(value.ends_ms))
                }
            };
            let sum = number.saturating_add(delta);
            let mut value = Value::new(&sum.to_le_bytes(), ttl_ms, now_ms);
            value.ends_ms = ends_ms.unwrap_or(value.ends_ms);
            Some((value, sum))
        })
    }

    /// Values that are there, and bytes of them and their keys.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.count.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Replaces what is under a key by what `next` makes of it; nothing from it leaves what is there. When there is no
    /// room, what has ended makes some.
    fn change<T>(
        &self,
        key: &str,
        now_ms: u64,
        mut next: impl FnMut(Option<&Value>) -> Option<(Value, T)>,
    ) -> Outcome<T> {
        if !is_key(key) {
            return Outcome::OverBounds;
        }
        loop {
            {
                let mut shard = self.shards.of(key);
                let Some((value, answer)) = next(shard.live(key, now_ms)) else { return Outcome::Not };
                if value.bytes.len() > limits::VALUE_BYTES_MAX {
                    return Outcome::OverBounds;
                }
                if self.reserve(&shard, key, &value) {
                    shard.quiet_until_ms = shard.quiet_until_ms.min(value.ends_ms);
                    shard.values.insert(key.into(), value);
                    return Outcome::Done(answer);
                }
            }
            if !self.remove_ended(now_ms) {
                return Outcome::OverBounds;
            }
        }
    }

    /// Makes the counts those behind the change, if they stay within the bounds.
    fn reserve(&self, shard: &Shard, key: &str, value: &Value) -> bool {
        let known = shard.values.get(key);
        if known.is_none() && !up_to(&self.count, 1, limits::VALUES_MAX) {
            return false;
        }
        let (before, after) = (known.map_or(0, |known| size(key, known)), size(key, value));
        if after <= before {
            self.bytes.fetch_sub(before - after, Relaxed);
            return true;
        }
        if up_to(&self.bytes, after - before, limits::VALUES_BYTES_MAX) {
            return true;
        }
        if known.is_none() {
            self.count.fetch_sub(1, Relaxed);
        }
        false
    }

    /// Removes what has ended; false when that is nothing. Shards in which nothing can have ended are not searched.
    fn remove_ended(&self, now_ms: u64) -> bool {
        let (mut count, mut bytes) = (0, 0);
        for mut shard in self.shards.all() {
            if shard.quiet_until_ms > now_ms {
                continue;
            }
            let mut quiet_until_ms = u64::MAX;
            shard.values.retain(|key, value| {
                let stays = value.ends_ms > now_ms;
                if stays {
                    quiet_until_ms = quiet_until_ms.min(value.ends_ms);
                } else {
                    count += 1;
                    bytes += size(key, value);
                }
                stays
            });
            shard.quiet_until_ms = quiet_until_ms;
        }
        self.give_back(count, bytes);
        count > 0
    }

    fn give_back(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

impl Shard {
    fn live(&self, key: &str, now_ms: u64) -> Option<&Value> {
        self.values.get(key).filter(|value| value.ends_ms > now_ms)
    }
}

impl Value {
    fn new(bytes: &[u8], ttl_ms: u64, now_ms: u64) -> Self {
        let ends_ms = if ttl_ms == 0 { u64::MAX } else { now_ms.saturating_add(ttl_ms) };
        Self { bytes: bytes.into(), ends_ms }
    }
}

const fn size(key: &str, value: &Value) -> usize {
    key.len() + value.bytes.len()
}

/// Adds to a count unless it would be over `most`.
fn up_to(count: &AtomicUsize, more: usize, most: usize) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| Some(count + more).filter(|&sum| sum <= most)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end() {
        let values = Values::default();
        assert_eq!(values.set("k", b"v", 10, 100), Outcome::Done(()));
        assert_eq!(values.get("k", 109), Some(b"v".to_vec()));
        assert_eq!(values.get("k", 110), None);
        assert_eq!(values.compare_and_set(("k", None), b"w", 0, 110), Outcome::Done(()), "it is no more");
        assert_eq!(values.compare_and_set(("k", None), b"x", 0, 110), Outcome::Not);
        assert_eq!(values.compare_and_set(("k", Some(b"w")), b"x", 0, 110), Outcome::Done(()));
        assert_eq!(values.get("k", u64::MAX - 1), Some(b"x".to_vec()));
        values.delete("k");
        assert_eq!((values.get("k", 111), values.size()), (None, (0, 0)));
    }

    #[test]
    fn numbers_are_added_and_keep_their_end() {
        let values = Values::default();
        assert_eq!(values.add("n", 5, 10, 0), Outcome::Done(5));
        assert_eq!(values.add("n", -7, 1_000, 5), Outcome::Done(-2));
        assert_eq!(values.get("n", 9), Some((-2_i64).to_le_bytes().to_vec()));
        assert_eq!(values.add("n", 1, 0, 10), Outcome::Done(1), "the first one has ended");
        assert_eq!(values.add("n", i64::MAX, 0, 10), Outcome::Done(i64::MAX));
        values.set("n", b"text", 0, 10);
        assert_eq!(values.add("n", 1, 0, 10), Outcome::Not);
    }

    #[test]
    fn the_quota_holds_and_what_ended_makes_room() {
        let values = Values::default();
        let large = vec![0; limits::VALUE_BYTES_MAX];
        assert_eq!(values.set("", b"v", 0, 0), Outcome::OverBounds);
        assert_eq!(values.set(&"k".repeat(limits::KEY_BYTES_MAX + 1), b"v", 0, 0), Outcome::OverBounds);
        assert_eq!(values.set("k", &vec![0; limits::VALUE_BYTES_MAX + 1], 0, 0), Outcome::OverBounds);
        let fits = (0..).take_while(|n| values.set(&format!("{n:04}"), &large, 50, 0) == Outcome::Done(()));
        assert_eq!(fits.count(), limits::VALUES_BYTES_MAX / (limits::VALUE_BYTES_MAX + 4));
        assert_eq!(values.set("late", &large, 0, 49), Outcome::OverBounds);
        assert_eq!(values.set("0000", b"smaller", 50, 49), Outcome::Done(()), "replaces what is there");
        assert_eq!(values.set("late", &large, 0, 50), Outcome::Done(()), "that left room");
        assert_eq!(values.set("last", &large, 0, 50), Outcome::Done(()), "all others have ended");
        assert_eq!(values.size(), (3, 4 + 7 + 2 * (4 + large.len())));
        let many = (0..).take_while(|n| values.set(&format!("{n}"), b"", 0, 50) == Outcome::Done(()));
        assert_eq!(many.count(), limits::VALUES_MAX - 3);
    }

    #[test]
    fn two_threads_compare_and_set_without_losing_one() {
        const ROUNDS: u64 = 2_000;
        let values = Values::default();
        values.set("n", &0_u64.to_le_bytes(), 0, 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        loop {
                            let known = values.get("n", 0).unwrap();
                            let next = u64::from_le_bytes(known.as_slice().try_into().unwrap()) + 1;
                            let set = values.compare_and_set(("n", Some(&known)), &next.to_le_bytes(), 0, 0);
                            if set == Outcome::Done(()) {
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(values.get("n", 0), Some((2 * ROUNDS).to_le_bytes().to_vec()));
    }
}
