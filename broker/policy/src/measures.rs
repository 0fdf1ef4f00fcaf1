//! What a guest measures itself, by name: counters and histograms. Names are claimed without a lock and never given
//! back.

use crate::limits;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Places for `N` names.
#[derive(Debug)]
struct Names<const N: usize>([OnceLock<Box<str>>; N]);

impl<const N: usize> Names<N> {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; N])
    }

    /// The place of a name; none when it is not valid or all places are taken.
    fn place_of(&self, name: &str) -> Option<usize> {
        for (place, slot) in self.0.iter().enumerate() {
            match slot.get() {
                Some(known) if **known == *name => return Some(place),
                Some(_) => continue,
                None if !is_name(name) => return None,
                None => {}
            }
            if **slot.get_or_init(|| name.into()) == *name {
                return Some(place);
            }
        }
        None
    }

    fn taken(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().enumerate().filter_map(|(place, name)| Some((place, &**name.get()?)))
    }
}

fn is_name(name: &str) -> bool {
    (1..=limits::COUNTER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The counters of one policy.
#[derive(Debug)]
pub(crate) struct Counters {
    names: Names<{ limits::COUNTERS_MAX }>,
    values: Box<[[AtomicU64; limits::COUNTERS_MAX]]>,
}

impl Counters {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            names: Names::new(),
            values: (0..workers.max(1))
                .map(|_| [const { AtomicU64::new(0) }; limits::COUNTERS_MAX])
                .collect(),
        }
    }

    /// Adds to a counter; false when it has no place, which is all that comes of it then.
    pub(crate) fn add(&self, worker: usize, name: &str, delta: u64) -> bool {
        let row = self.values.get(worker).and_then(|row| row.get(self.names.place_of(name)?));
        // An instance is set up on another thread than its worker's, so this one may have two writers.
        row.map(|value| value.fetch_add(delta, Relaxed)).is_some()
    }

    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        let total = |place: usize| {
            self.values.iter().filter_map(|row| row.get(place)).map(|value| value.load(Relaxed)).sum()
        };
        self.names.taken().map(|(place, name)| (name.to_owned(), total(place))).collect()
    }
}

/// The histograms of one policy.
#[derive(Debug)]
pub(crate) struct Histograms {
    names: Names<{ limits::HISTOGRAMS_MAX }>,
    /// By worker; buckets are made when the first value comes.
    rows: Box<[[OnceLock<Box<Buckets>>; limits::HISTOGRAMS_MAX]]>,
}

#[derive(Debug)]
struct Buckets {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

const PER_OCTAVE: usize = 4;
const BUCKETS: usize = u64::BITS as usize * PER_OCTAVE;

/// What a histogram of a guest says. Quantiles are upper bounds of buckets a quarter of an octave wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Distribution {
    pub count: u64,
    /// Wraps around.
    pub sum: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Histograms {
    pub(crate) fn new(workers: usize) -> Self {
        let row = || [const { OnceLock::new() }; limits::HISTOGRAMS_MAX];
        Self { names: Names::new(), rows: (0..workers.max(1)).map(|_| row()).collect() }
    }

    /// Adds one value; false when the histogram has no place, which is all that comes of it then.
    pub(crate) fn add(&self, worker: usize, name: &str, value: u64) -> bool {
        let slot = self.rows.get(worker).and_then(|row| row.get(self.names.place_of(name)?));
        let Some(slot) = slot else { return false };
        let buckets = slot.get_or_init(|| {
            let counts = [const { AtomicU64::new(0) }; BUCKETS];
            Box::new(Buckets { counts, sum: AtomicU64::new(0) })
        });
        if let Some(count) = buckets.counts.get(bucket_of(value)) {
            count.fetch_add(1, Relaxed);
            buckets.sum.fetch_add(value, Relaxed);
        }
        true
    }

    pub(crate) fn totals(&self) -> BTreeMap<String, Distribution> {
        self.names.taken().map(|(place, name)| (name.to_owned(), self.distribution(place))).collect()
    }

    fn distribution(&self, place: usize) -> Distribution {
        let mut counts = [0_u64; BUCKETS];
        let mut sum = 0_u64;
        for buckets in self.rows.iter().filter_map(|row| row.get(place)?.get()) {
            sum = sum.wrapping_add(buckets.sum.load(Relaxed));
            for (count, more) in counts.iter_mut().zip(&buckets.counts) {
                *count += more.load(Relaxed);
            }
        }
        let count: u64 = counts.iter().sum();
        let at = |permille: u64| {
            let rank = count - count.saturating_mul(1_000 - permille) / 1_000;
            let mut seen = 0;
            let found = counts.iter().position(|&count| {
                seen += count;
                seen >= rank && rank > 0
            });
            found.map_or(0, upper_bound)
        };
        Distribution { count, sum, p50: at(500), p99: at(990), max: at(1_000) }
    }
}

fn bucket_of(value: u64) -> usize {
    let octave = value.checked_ilog2().unwrap_or(0);
    let quarter = if octave < 2 { value << (2 - octave) } else { value >> (octave - 2) } & 3;
    octave as usize * PER_OCTAVE + usize::try_from(quarter).unwrap_or(0)
}

/// The largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    let next = (PER_OCTAVE as u128 + quarter as u128 + 1) << octave;
    u64::try_from(next.div_ceil(4).saturating_sub(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_bounded() {
        let counters = Counters::new(2);
        for index in 0..100 {
            counters.add(index % 2, &format!("c{index}"), 1);
            counters.add(0, "c0", 1);
            assert!(!counters.add(0, "Not a name", 1));
        }
        let totals = counters.totals();
        assert_eq!(totals.len(), limits::COUNTERS_MAX);
        assert_eq!(totals["c0"], 101);
    }

    #[test]
    fn buckets_contain_what_falls_into_them() {
        for value in
            (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit) / 3, (1 << bit) | ((1 << bit) - 1)])
        {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS && value <= upper_bound(bucket), "{value} in {bucket}");
            assert!(bucket == 0 || value > upper_bound(bucket - 1), "{value} in {bucket}");
        }
        assert_eq!((bucket_of(0), upper_bound(BUCKETS - 1)), (0, u64::MAX));
    }

    #[test]
    fn histograms_are_bounded_and_add_up_over_workers() {
        let histograms = Histograms::new(2);
        for value in 1..=1_000 {
            histograms.add((value % 2) as usize, "h", value);
        }
        let taken = (0..20).filter(|index| histograms.add(0, &format!("h{index}"), 1));
        assert_eq!(taken.count(), limits::HISTOGRAMS_MAX - 1);
        let totals = histograms.totals();
        assert_eq!(totals.len(), limits::HISTOGRAMS_MAX);
        let h = totals["h"];
        assert_eq!((h.count, h.sum), (1_000, 500_500));
        assert!((500..=640).contains(&h.p50) && (990..=1_280).contains(&h.p99) && h.max >= 1_000, "{h:?}");
    }
}
