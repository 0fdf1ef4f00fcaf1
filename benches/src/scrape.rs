//! What the broker's `/metrics` says: one histogram in the OpenMetrics text format, and its difference over a run.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// The histogram of the journal's commits.
pub(crate) const COMMITS: &str = "waspmq_journal_commit_seconds";

/// How long a scrape may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Cumulative counts by upper bound in seconds, the last bound infinite.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Buckets(Vec<(f64, u64)>);

/// A histogram in figures. Quantiles are interpolated inside a bucket, so they are as good as the buckets are narrow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// The body that an HTTP server on loopback answers to GET.
///
/// # Errors
/// When it does not answer, or otherwise than with 200.
pub(crate) fn get(port: u16, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting to the admin listener")?;
    stream.set_read_timeout(Some(WITHIN))?;
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("reading {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "{path} answered {status}");
    Ok(body.to_owned())
}

/// A counter of seconds summed over its label sets, 0 where there is none of that name.
pub(crate) fn seconds(text: &str, name: &str) -> f64 {
    let own =
        text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
    own.filter_map(|rest| rest.rsplit('}').next()?.split_ascii_whitespace().next()?.parse::<f64>().ok()).sum()
}

/// A counter summed over its label sets, 0 where there is none of that name.
pub(crate) fn counter(text: &str, name: &str) -> u64 {
    counter_of(text, name, "")
}

/// The same over those label sets that have `label` among them, such as `outcome="ok"`.
pub(crate) fn counter_of(text: &str, name: &str, label: &str) -> u64 {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.contains(label));
    let own = samples.filter(|rest| rest.starts_with(['{', ' ']));
    own.filter_map(|rest| rest.rsplit('}').next()?.split_ascii_whitespace().next()?.parse::<u64>().ok()).sum()
}

impl Buckets {
    /// The histogram `name` summed over its label sets; `None` when there is no such histogram.
    pub(crate) fn parse(text: &str, name: &str) -> Option<Self> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix("_bucket{")) else {
                continue;
            };
            let (labels, value) = rest.split_once('}')?;
            let bound = labels.split(',').find_map(|label| label.strip_prefix("le=\"")?.strip_suffix('"'))?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            let count: u64 = value.split_ascii_whitespace().next()?.parse().ok()?;
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        (!buckets.is_empty()).then_some(Self(buckets))
    }

    /// What was counted since an earlier reading of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.0.iter().find(|(known, _)| *known == bound).map_or(0, |(_, count)| *count);
        Self(self.0.iter().map(|&(bound, count)| (bound, count.saturating_sub(before(bound)))).collect())
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures { count: self.count(), p50_us: self.quantile(0.5) * 1e6, p99_us: self.quantile(0.99) * 1e6 }
    }

    fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// Seconds; the lower bound of the last bucket where the quantile is in that one.
    fn quantile(&self, quantile: f64) -> f64 {
        let rank = self.count() as f64 * quantile;
        let (mut low, mut below) = (0.0, 0_u64);
        for &(bound, count) in &self.0 {
            if count as f64 >= rank && count > below {
                if bound.is_infinite() {
                    return low;
                }
                return low + (bound - low) * (rank - below as f64) / (count - below) as f64;
            }
            (low, below) = (bound, count);
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE waspmq_journal_commit_seconds histogram\n\
        waspmq_journal_commit_seconds_bucket{le=\"0.001\"} 50\n\
        waspmq_journal_commit_seconds_bucket{le=\"0.002\"} 100\n\
        waspmq_journal_commit_seconds_bucket{le=\"+Inf\"} 100\n\
        waspmq_journal_commit_seconds_sum 0.12\nwaspmq_journal_commit_seconds_count 100\n\
        waspmq_journal_commit_seconds_other_bucket{le=\"+Inf\"} 7\n";

    #[test]
    fn quantiles_are_interpolated() {
        let figures = Buckets::parse(TEXT, COMMITS).unwrap().figures();
        assert_eq!(figures.count, 100);
        assert!(
            (figures.p50_us - 1_000.0).abs() < 1e-6 && (figures.p99_us - 1_980.0).abs() < 1e-6,
            "{figures:?}"
        );
    }

    #[test]
    fn a_difference_leaves_out_what_was_there() {
        let before = Buckets(vec![(0.001, 50), (0.002, 50), (f64::INFINITY, 50)]);
        let after = Buckets::parse(TEXT, COMMITS).unwrap().since(&before);
        assert_eq!(after, Buckets(vec![(0.001, 0), (0.002, 50), (f64::INFINITY, 50)]));
        assert!(after.figures().p50_us > 1_000.0);
    }

    #[test]
    fn label_sets_are_added_and_other_names_left_out() {
        let text = "h_bucket{worker=\"0\",le=\"1\"} 1\nh_bucket{le=\"1\",worker=\"1\"} 2\nh_bucket{le=\"+Inf\"} 4 # {} 1\n";
        assert_eq!(Buckets::parse(text, "h"), Some(Buckets(vec![(1.0, 3), (f64::INFINITY, 4)])));
        assert_eq!(Buckets::parse(text, "other"), None);
    }

    #[test]
    fn a_counter_is_added_over_its_label_sets() {
        let text = "# TYPE c counter\nc_total{reason=\"a b\"} 3\nc_total{reason=\"c\"} 4\nc_total_more 9\nd_total 5\n";
        assert_eq!((counter(text, "c_total"), counter(text, "d_total"), counter(text, "e")), (7, 5, 0));
    }

    #[test]
    fn seconds_are_added_over_their_label_sets() {
        let text = "c_total{codec=\"a\"} 0.25\nc_total{codec=\"b\"} 1e-3\nc_total_more 9\n";
        assert!((seconds(text, "c_total") - 0.251).abs() < 1e-9 && seconds(text, "d").abs() < 1e-9);
    }

    #[test]
    fn beyond_the_last_bound_the_last_bound_is_told() {
        let buckets = Buckets(vec![(1.0, 1), (f64::INFINITY, 100)]);
        assert!((buckets.quantile(0.99) - 1.0).abs() < 1e-9);
        assert!(Buckets::default().quantile(0.5).abs() < 1e-9);
    }
}
