//! What happened between two scrapes: rates, and quantiles of what was observed in between.
//!
//! Counters only grow. One that is lower than before, or was not there, began at 0 in between: all it has is new. So no rate is
//! negative, whatever was restarted, removed or put in place.

use super::super::exposition::{Exposition, Labels};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Two scrapes, and how far they are apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delta<'a> {
    /// None where everything counted from 0 in between.
    pub(super) before: Option<&'a Exposition>,
    pub(super) after: &'a Exposition,
    /// More than 0.
    pub(super) seconds: f64,
}

impl<'a> Delta<'a> {
    /// By how much each series of a counter grew.
    fn grown(&self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        let before = self.before;
        self.after.series(name).map(move |(labels, after)| {
            let before = before.and_then(|before| before.get(name, labels));
            (labels, increase(before, after))
        })
    }

    /// Per second, over all series; none where there is none.
    pub(super) fn rate(&self, name: &'a str) -> Option<f64> {
        let mut grown = self.grown(name).map(|(_, more)| more).peekable();
        grown.peek()?;
        Some(total(grown) / self.seconds)
    }

    /// Per second, by one label, over all others.
    pub(super) fn rates(&self, name: &'a str, label: &str) -> BTreeMap<String, f64> {
        self.rates_where(name, label, |_| true)
    }

    /// The same of some series only.
    pub(super) fn rates_where(
        &self,
        name: &'a str,
        label: &str,
        wanted: impl Fn(&Labels) -> bool,
    ) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        for (labels, more) in self.grown(name).filter(|(labels, _)| wanted(labels)) {
            *rates.entry(labels.get(label).to_owned()).or_insert(0.0) += more / self.seconds;
        }
        rates
    }

    /// Per second, by two labels.
    pub(super) fn rates_by(&self, name: &'a str, outer: &str, inner: &str) -> ByTwo {
        let mut rates = ByTwo::new();
        for (labels, more) in self.grown(name) {
            let of = rates.entry(labels.get(outer).to_owned()).or_default();
            *of.entry(labels.get(inner).to_owned()).or_insert(0.0) += more / self.seconds;
        }
        rates
    }

    /// What a histogram observed meanwhile, over all series that are wanted. `buckets` is the name of its buckets.
    pub(super) fn observed(&self, buckets: &'a str, wanted: impl Fn(&Labels) -> bool) -> Observed {
        let mut found: Vec<(f64, f64)> = Vec::new();
        for (labels, more) in self.grown(buckets).filter(|(labels, _)| wanted(labels)) {
            let Ok(bound) = labels.get("le").parse::<f64>() else { continue };
            match found.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += more,
                None if bound.is_nan() => {}
                None => found.push((bound, more)),
            }
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        Observed { buckets: found, seconds: self.seconds }
    }
}

pub(super) type ByTwo = BTreeMap<String, BTreeMap<String, f64>>;

/// The sum; of nothing `0`, where `sum` has `-0`.
pub(super) fn total(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |sum, number| sum + number)
}

/// What a counter counted since it was `before`.
fn increase(before: Option<f64>, after: f64) -> f64 {
    let before = before.filter(|before| before.is_finite() && *before <= after).unwrap_or(0.0);
    let more = after - before;
    if more.is_finite() { more.max(0.0) } else { 0.0 }
}

/// Observations of a while, cumulated by the upper bounds of their buckets.
#[derive(Debug)]
pub(super) struct Observed {
    buckets: Vec<(f64, f64)>,
    seconds: f64,
}

/// A quantile, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantile {
    pub(super) seconds: f64,
    /// It is more than that, the last bound there is.
    pub(super) is_above: bool,
}

impl Serialize for Quantile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.seconds)
    }
}

impl Observed {
    /// Observations per second; none where there is no such histogram.
    pub(super) fn rate(&self) -> Option<f64> {
        (!self.buckets.is_empty()).then(|| self.count() / self.seconds)
    }

    fn count(&self) -> f64 {
        self.buckets.iter().map(|(_, count)| *count).fold(0.0, f64::max)
    }

    /// As Prometheus has it: within the bucket where it lies, observations are taken as evenly spread.
    pub(super) fn quantile(&self, share: f64) -> Option<Quantile> {
        let rank = share * self.count();
        if rank <= 0.0 {
            return None;
        }
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(Quantile { seconds: low, is_above: true });
                }
                let part = (rank - below) / (count - below);
                return Some(Quantile { seconds: low + (bound - low) * part, is_above: false });
            }
            (low, below) = (bound, count.max(below));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(before: Option<&str>, after: &str, seconds: f64) -> BTreeMap<String, f64> {
        let before = before.map(Exposition::parse);
        let after = Exposition::parse(after);
        Delta { before: before.as_ref(), after: &after, seconds }.rates("c_total", "k")
    }

    fn map(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value)).collect()
    }

    #[test]
    fn counters_grow_and_begin_anew() {
        let check = |before: Option<&str>, after: &str, expected: &[(&str, f64)]| {
            assert_eq!(rates(before, after, 2.0), map(expected), "{before:?} {after}");
        };
        let one = "c_total{k=\"a\"} 10\n";
        check(Some(one), "c_total{k=\"a\"} 14\n", &[("a", 2.0)]);
        check(Some(one), one, &[("a", 0.0)]);
        check(Some(one), "c_total{k=\"a\"} 4\n", &[("a", 2.0)]);
        check(Some(one), "c_total{k=\"b\"} 4\n", &[("b", 2.0)]);
        check(Some(one), "", &[]);
        check(None, one, &[("a", 5.0)]);
        check(Some("c_total{k=\"a\"} NaN\n"), "c_total{k=\"a\"} 4\n", &[("a", 2.0)]);
        check(Some(one), "c_total{k=\"a\"} NaN\n", &[("a", 0.0)]);
        check(Some(one), "c_total{k=\"a\"} +Inf\n", &[("a", 0.0)]);
        check(Some(one), "c_total{k=\"a\"} -3\n", &[("a", 0.0)]);
        check(
            Some(one),
            "c_total{k=\"a\",x=\"1\"} 4\nc_total{k=\"a\",x=\"2\"} 6\nc_total{k=\"a\"} 12\n",
            &[("a", 6.0)],
        );
    }

    #[test]
    fn a_rate_of_nothing_is_none() {
        let after = Exposition::parse("c_total 6\n");
        let delta = Delta { before: None, after: &after, seconds: 3.0 };
        assert_eq!((delta.rate("c_total"), delta.rate("d_total")), (Some(2.0), None));
    }

    #[test]
    fn two_labels_make_a_table() {
        let after = Exposition::parse(
            "c_total{k=\"a\",o=\"x\"} 1\nc_total{k=\"a\",o=\"y\"} 2\nc_total{k=\"b\",o=\"x\"} 3\n",
        );
        let table = Delta { before: None, after: &after, seconds: 1.0 }.rates_by("c_total", "k", "o");
        let expected = [("a", map(&[("x", 1.0), ("y", 2.0)])), ("b", map(&[("x", 3.0)]))];
        assert_eq!(table, expected.map(|(kind, of)| (kind.to_owned(), of)).into());
    }

    fn observed(before: &str, after: &str) -> Observed {
        let (before, after) = (Exposition::parse(before), Exposition::parse(after));
        Delta { before: Some(&before), after: &after, seconds: 1.0 }
            .observed("h_bucket", |labels| labels.get("k") != "other")
    }

    fn buckets(counts: [u64; 3]) -> String {
        let lines = ["0.1", "0.2", "+Inf"].into_iter().zip(counts);
        lines.map(|(bound, count)| format!("h_bucket{{le=\"{bound}\",k=\"a\"}} {count}\n")).collect()
    }

    #[test]
    fn quantiles_are_of_the_interval() {
        let check = |before: [u64; 3], after: [u64; 3], share: f64, expected: Option<(f64, bool)>| {
            let found = observed(&buckets(before), &buckets(after)).quantile(share);
            let found = found.map(|found| ((found.seconds * 1e6).round() / 1e6, found.is_above));
            assert_eq!(found, expected, "{before:?} {after:?} {share}");
        };
        // 1,000 fast ones of before do not count.
        check([1_000, 1_000, 1_000], [1_000, 1_010, 1_010], 0.5, Some((0.15, false)));
        check([0, 0, 0], [10, 10, 10], 0.5, Some((0.05, false)));
        check([0, 0, 0], [10, 10, 10], 0.99, Some((0.099, false)));
        check([0, 0, 0], [10, 20, 20], 0.5, Some((0.1, false)));
        check([0, 0, 0], [0, 0, 10], 0.5, Some((0.2, true)));
        check([0, 0, 0], [90, 98, 100], 0.99, Some((0.2, true)));
        check([5, 5, 5], [5, 5, 5], 0.5, None);
        // Begun anew.
        check([50, 60, 70], [0, 10, 10], 0.5, Some((0.15, false)));
        // Half of it begun anew, which no broker does: still a number, and no negative one.
        check([50, 60, 70], [60, 10, 80], 0.99, Some((0.099, false)));
    }

    #[test]
    fn series_of_a_histogram_are_added_up_by_bound() {
        let more = "h_bucket{le=\"0.1\",k=\"b\"} 10\nh_bucket{le=\"+Inf\",k=\"b\"} 10\nh_bucket{le=\"0.1\",k=\"other\"} 99\nh_bucket{le=\"x\"} 5\nh_bucket{le=\"NaN\"} 5\n";
        let both = observed("", &(buckets([0, 10, 10]) + more));
        assert_eq!(both.buckets, [(0.1, 10.0), (0.2, 10.0), (f64::INFINITY, 20.0)]);
        assert_eq!(both.rate(), Some(20.0));
        let none = observed("", "");
        assert_eq!((none.rate(), none.quantile(0.5)), (None, None));
        let only_infinite = observed("", "h_bucket{le=\"+Inf\"} 5\n");
        assert_eq!(only_infinite.quantile(0.5), Some(Quantile { seconds: 0.0, is_above: true }));
    }
}
