//! One figure against its bar, and the table of them.

use std::fs;

use crate::report::{self, Spread};

/// How far a figure may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bar {
    /// It is told and not judged.
    None,
    MedianAtMost(f64),
    /// The same for a difference of large figures, which says nothing while its values are further apart than ten times
    /// the bar, or when there is but one.
    DifferenceAtMost(f64),
    /// Of all values.
    WorstAtMost(f64),
    /// The median.
    AtLeast(f64),
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    what: String,
    unit: &'static str,
    spread: Option<Spread>,
    bar: Bar,
}

impl Row {
    pub(super) fn new(what: impl Into<String>, unit: &'static str, values: Vec<f64>, bar: Bar) -> Self {
        Self { what: what.into(), unit, spread: Spread::over(values), bar }
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn is_missed(&self) -> bool {
        match (self.bar, self.spread) {
            (Bar::None, _) => false,
            (_, None) => true,
            _ if self.is_noise() => true,
            (Bar::MedianAtMost(bar) | Bar::DifferenceAtMost(bar), Some(spread)) => spread.median > bar,
            (Bar::WorstAtMost(bar), Some(spread)) => spread.max > bar,
            (Bar::AtLeast(bar), Some(spread)) => spread.median < bar,
        }
    }

    /// Whether the values are too far apart to be judged.
    fn is_noise(&self) -> bool {
        match (self.bar, self.spread) {
            (Bar::DifferenceAtMost(bar), Some(spread)) => {
                spread.max - spread.min > 10.0 * bar || spread.max <= spread.min
            }
            _ => false,
        }
    }

    fn cells(&self) -> Vec<String> {
        let bar = match self.bar {
            Bar::None => String::new(),
            Bar::MedianAtMost(bar) | Bar::DifferenceAtMost(bar) => format!("<= {bar}"),
            Bar::WorstAtMost(bar) => format!("all <= {bar}"),
            Bar::AtLeast(bar) => format!(">= {bar}"),
        };
        let verdict = match self.bar {
            Bar::None => "",
            _ if self.is_noise() => "not resolved",
            _ if self.is_missed() => "missed",
            _ => "met",
        };
        vec![self.what.clone(), report::range(self.spread), self.unit.to_owned(), bar, verdict.to_owned()]
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let header = ["figure", "median (range)", "unit", "bar", ""].map(str::to_owned).to_vec();
    let cells: Vec<_> = std::iter::once(header).chain(rows.iter().map(Row::cells)).collect();
    report::table(&cells)
}

pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let figures: Vec<&str> = text.split(' ').take(3).collect();
    format!("load average: {}", figures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let missed = |values: &[f64], bar| Row::new("x", "ns", values.to_vec(), bar).is_missed();
        assert!(
            !missed(&[1.0, 2.0, 9.0], Bar::MedianAtMost(2.0))
                && missed(&[1.0, 2.1, 2.2], Bar::MedianAtMost(2.0))
        );
        assert!(
            missed(&[1.0, 2.0, 9.0], Bar::WorstAtMost(8.0)) && !missed(&[1.0, 8.0], Bar::WorstAtMost(8.0))
        );
        assert!(missed(&[0.7], Bar::AtLeast(0.8)) && !missed(&[0.8], Bar::AtLeast(0.8)));
        assert!(missed(&[], Bar::MedianAtMost(1.0)), "what was not measured meets nothing");
        assert!(!missed(&[], Bar::None));
        assert!(!missed(&[1.0, 1.5, 8.0], Bar::DifferenceAtMost(2.0)));
        assert!(missed(&[1.0], Bar::DifferenceAtMost(2.0)), "one value does not show how far it may be off");
        assert!(missed(&[-30.0, 1.0, 40.0], Bar::DifferenceAtMost(2.0)), "noise");
    }

    #[test]
    fn a_row_says_whether_its_bar_is_met() {
        let text = table(&[Row::new("calls", "x", vec![3.0], Bar::MedianAtMost(5.0))]);
        assert!(text.contains("3.00 (3.00-3.00)") && text.contains("<= 5") && text.contains("met"), "{text}");
    }
}
