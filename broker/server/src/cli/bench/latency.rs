//! Latencies as high dynamic range histograms: every sample is kept, to three digits.

use super::limits::LATENCY_MAX;
use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

/// Samples that many tasks record: each takes one of a few histograms, which are added up in the end.
pub(super) struct Recorder(Vec<Mutex<Histogram<u64>>>);

/// What is said of samples. Times are nanoseconds.
#[derive(Debug)]
pub(super) struct Summary(Histogram<u64>);

/// The quantiles of a result, by name.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Steps of the raw quantiles until half of the rest of the samples is behind.
const TICKS_PER_HALF: u32 = 5;

fn empty() -> Result<Histogram<u64>> {
    let longest = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, longest, 3).map_err(|error| anyhow!("cannot lay out a histogram: {error}"))
}

impl Recorder {
    /// As many histograms as threads record.
    pub(super) fn new(threads: usize) -> Result<Self> {
        let histograms: Result<_> = (0..threads.max(1)).map(|_| Ok(Mutex::new(empty()?))).collect();
        Ok(Self(histograms?))
    }

    /// `who` tells recorders apart, so that few of them meet. Longer than [`LATENCY_MAX`] counts as that.
    pub(super) fn record(&self, who: usize, ns: u64) {
        if let Some(histogram) = self.0.get(who % self.0.len().max(1)) {
            histogram.lock().unwrap().saturating_record(ns.max(1));
        }
    }

    pub(super) fn summary(&self) -> Result<Summary> {
        let mut all = empty()?;
        for histogram in &self.0 {
            all.add(&*histogram.lock().unwrap()).map_err(|error| anyhow!("{error}"))?;
        }
        Ok(Summary(all))
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.0.len()).finish()
    }
}

impl Summary {
    /// Microseconds, and the quantiles as the histogram has them: quantile, nanoseconds, samples up to there.
    pub(super) fn json(&self) -> Value {
        let us = |ns: u64| ns as f64 / 1_000.0;
        let at = |quantile| us(self.0.value_at_quantile(quantile));
        let mut upto = 0;
        let raw: Vec<_> = self
            .0
            .iter_quantiles(TICKS_PER_HALF)
            .map(|step| {
                upto += step.count_since_last_iteration();
                json!([step.quantile_iterated_to(), step.value_iterated_to(), upto])
            })
            .collect();
        json!({
            "samples": self.0.len(),
            "min_us": us(self.0.min()),
            "mean_us": self.0.mean() / 1_000.0,
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p99_us": at(0.99),
            "p999_us": at(0.999),
            "max_us": us(self.0.max()),
            "quantiles": if self.0.is_empty() { Vec::new() } else { raw },
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        if self.0.is_empty() {
            return "no samples".to_owned();
        }
        let quantiles =
            QUANTILES.map(|(name, quantile)| format!("{name} {}", time(self.0.value_at_quantile(quantile))));
        format!("{}  max {}", quantiles.join("  "), time(self.0.max()))
    }
}

/// Nanoseconds with a unit and three digits.
pub(super) fn time(ns: u64) -> String {
    let time = Duration::from_nanos(ns);
    let (number, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (time.as_secs_f64(), "s"),
    };
    let digits = match number {
        number if number < 10.0 => 2,
        number if number < 100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_all_recorders_are_one_result() {
        let recorder = Recorder::new(3).unwrap();
        for number in 1..=1_000_u64 {
            recorder.record(usize::try_from(number).unwrap(), number * 1_000);
        }
        recorder.record(0, 0);
        recorder.record(1, u64::MAX);
        let document = recorder.summary().unwrap().json();
        assert_eq!(document["samples"], 1_002);
        let close = |key: &str, expected: f64| {
            let found = document[key].as_f64().unwrap();
            assert!((found - expected).abs() <= expected / 500.0, "{key}: {found}");
        };
        close("p50_us", 500.0);
        close("p90_us", 901.0);
        close("p99_us", 991.0);
        close("max_us", LATENCY_MAX.as_secs_f64() * 1e6);
        let raw = document["quantiles"].as_array().unwrap();
        let counts: Vec<_> = raw.iter().map(|step| step[2].as_u64().unwrap()).collect();
        assert!(counts.is_sorted() && counts.last() == Some(&1_002), "{counts:?}");
        assert!(raw.iter().map(|step| step[1].as_u64().unwrap()).is_sorted());
    }

    #[test]
    fn no_samples_are_no_times() {
        let summary = Recorder::new(1).unwrap().summary().unwrap();
        assert_eq!(summary.text(), "no samples");
        assert_eq!(summary.json()["quantiles"], json!([]));
    }

    #[test]
    fn times_have_three_digits() {
        let check = |ns, expected: &str| assert_eq!(time(ns), expected);
        check(0, "0.00 us");
        check(999, "1.00 us");
        check(85_400, "85.4 us");
        check(850_400, "850 us");
        check(1_234_000, "1.23 ms");
        check(12_340_000_000, "12.3 s");
        check(600_000_000_000, "600 s");
    }
}
