//! Repetitions in turn, medians and ratios over them, JSON lines and tables.
//!
//! A ratio is taken inside each repetition, one subject over another (broker over relay), and the median of those is
//! shown: both ran within seconds of each other, so what the rest of the machine does at that time cancels.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::options::Common;
use crate::process::Machine;
use crate::server::Kind;
use crate::wire::Wire;

/// Where and with what samples were taken.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Origin {
    commit: String,
    /// Whether the tree held changes that are in no commit.
    dirty: bool,
    machine: Machine,
    date: String,
}

impl Origin {
    pub(crate) fn now() -> Self {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        Self {
            commit: git(&["rev-parse", "--short=12", "--verify", "HEAD"])
                .unwrap_or_else(|| "uncommitted".to_owned()),
            dirty: git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty()),
            machine: Machine::this(),
            date: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        }
    }
}

/// One JSON line.
#[derive(Debug, Serialize)]
struct Line<'a, P, S> {
    scenario: &'a str,
    server: &'static str,
    profile: String,
    repetition: u32,
    parameters: &'a P,
    sample: &'a S,
    #[serde(flatten)]
    origin: &'a Origin,
}

/// The file of JSON lines of one scenario and commit; runs append.
#[derive(Debug)]
pub(crate) struct Journal {
    scenario: &'static str,
    origin: Origin,
    path: PathBuf,
    file: File,
}

impl Journal {
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn open(scenario: &'static str, folder: &Path) -> Result<Self> {
        let origin = Origin::now();
        let path = folder.join(format!("{scenario}-{}.jsonl", origin.commit));
        fs::create_dir_all(folder)?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { scenario, origin, path, file })
    }

    fn write(&mut self, round: Round, parameters: &impl Serialize, sample: &impl Serialize) -> Result<()> {
        let Round { server, profile, repetition } = round;
        let line = Line {
            scenario: self.scenario,
            server,
            profile,
            repetition,
            parameters,
            sample,
            origin: &self.origin,
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Writes one line that belongs to no round of [`Samples`]; its parameters say what it is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn note(
        &mut self,
        server: &'static str,
        parameters: &impl Serialize,
        sample: &impl Serialize,
    ) -> Result<()> {
        self.write(Round { server, profile: String::new(), repetition: 1 }, parameters, sample)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Which server, which repetition.
#[derive(Debug, Clone)]
struct Round {
    server: &'static str,
    profile: String,
    repetition: u32,
}

/// What is measured in turn: a server, or a way of using one.
pub(crate) trait Subject: Copy + PartialEq {
    fn name(self) -> &'static str;

    /// The dialect it is driven in where the broker's is `profile`.
    fn profile(self, profile: Wire) -> String;
}

/// What to measure in each repetition, in this order.
#[derive(Debug)]
pub(crate) struct Turns<'a, K> {
    pub(crate) subjects: &'a [K],
    pub(crate) repetitions: u32,
    /// Every second repetition in the reverse order, for what one subject leaves to the next (a disk's burst allowance).
    pub(crate) back_and_forth: bool,
    pub(crate) profile: Wire,
}

/// All samples of one case.
#[derive(Debug)]
pub(crate) struct Samples<S, K = Kind>(Vec<(K, S)>);

/// A median and what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl<S: Serialize> Samples<S> {
    /// Takes every server's sample in turn, once per repetition, and writes each to the journal as soon as it is
    /// there.
    ///
    /// # Errors
    /// Those of `once`, with the round they happened in.
    pub(crate) fn take(
        common: &Common,
        journal: &mut Journal,
        parameters: &impl Serialize,
        once: impl FnMut(Kind) -> Result<S>,
    ) -> Result<Self> {
        let Common { servers, output, profile, .. } = common;
        let turns = Turns {
            subjects: servers,
            repetitions: output.repetitions,
            back_and_forth: false,
            profile: *profile,
        };
        Self::in_turn(&turns, journal, parameters, once)
    }
}

impl<S: Serialize, K: Subject> Samples<S, K> {
    /// As [`Samples::take`], for subjects of any kind.
    ///
    /// # Errors
    /// Those of `once`, with the round they happened in.
    pub(crate) fn in_turn(
        turns: &Turns<'_, K>,
        journal: &mut Journal,
        parameters: &impl Serialize,
        mut once: impl FnMut(K) -> Result<S>,
    ) -> Result<Self> {
        let mut samples = Vec::new();
        for repetition in 1..=turns.repetitions {
            let mut subjects = turns.subjects.to_vec();
            if turns.back_and_forth && repetition % 2 == 0 {
                subjects.reverse();
            }
            for subject in subjects {
                let server = subject.name();
                let sample = once(subject).with_context(|| format!("{server}, repetition {repetition}"))?;
                let profile = subject.profile(turns.profile);
                journal.write(Round { server, profile, repetition }, parameters, &sample)?;
                samples.push((subject, sample));
            }
        }
        Ok(Self(samples))
    }
}

impl<S> Samples<S> {
    /// Broker over relay, repetition by repetition.
    pub(crate) fn ratio(&self, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        self.ratio_of(Kind::Broker, Kind::Relay, figure)
    }
}

impl<S, K: Copy + PartialEq> Samples<S, K> {
    pub(crate) fn all(&self, mut holds: impl FnMut(&S) -> bool) -> bool {
        self.0.iter().all(|(_, sample)| holds(sample))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, S)> {
        self.0.iter()
    }

    pub(crate) fn of(&self, server: K, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        let figures = self.0.iter().filter(|(kind, _)| *kind == server).map(|(_, sample)| figure(sample));
        Spread::over(figures.collect())
    }

    /// One over another, repetition by repetition.
    pub(crate) fn ratio_of(&self, one: K, other: K, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        let of = |subject| {
            self.0.iter().filter(move |(kind, _)| *kind == subject).map(|(_, sample)| figure(sample))
        };
        Spread::over(of(one).zip(of(other)).map(|(one, other)| one / other).collect())
    }
}

impl Spread {
    /// Of these figures; none when there are none.
    pub(crate) fn over(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Self { median, min, max })
    }
}

/// The median, or a dash where nothing was measured.
pub(crate) fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.digits$}", spread.median))
}

/// Median and range.
pub(crate) fn range(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, min, max }| format!("{median:.2} ({min:.2}-{max:.2})"),
    )
}

/// A rate in thousands.
pub(crate) fn thousands(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0}k", spread.median / 1_000.0))
}

/// Median and range, and whether the median is within the bar.
pub(crate) fn at_most(spread: Option<Spread>, bar: f64) -> String {
    format!("{}, bar <= {bar}: {}", range(spread), verdict(spread, |median| median <= bar))
}

/// Median and range, and whether the median reaches the bar.
pub(crate) fn at_least(spread: Option<Spread>, bar: f64) -> String {
    format!("{}, bar >= {bar}: {}", range(spread), verdict(spread, |median| median >= bar))
}

fn verdict(spread: Option<Spread>, holds: impl Fn(f64) -> bool) -> &'static str {
    match spread {
        Some(spread) if holds(spread.median) => "met",
        Some(_) => "missed",
        None => "not measured",
    }
}

/// Columns as wide as their widest cell, the first row underlined; also valid Markdown.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(String::len).max().unwrap_or(0))
        .collect();
    let line = |row: &[String]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        text += &line(row);
        if i == 0 {
            text += &line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(figures: &[(Kind, f64)]) -> Samples<f64> {
        Samples(figures.to_vec())
    }

    #[test]
    fn medians_of_odd_even_and_none() {
        let over = |figures: &[f64]| Spread::over(figures.to_vec());
        assert_eq!(over(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(over(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(over(&[]), None);
    }

    #[test]
    fn a_ratio_is_taken_inside_each_repetition() {
        use Kind::{Broker, Relay};
        // The machine is twice as slow in the second repetition; the ratio is not.
        let both = samples(&[(Relay, 1.0), (Broker, 1.5), (Relay, 2.0), (Broker, 3.0)]);
        assert_eq!(both.ratio(|&figure| figure), Some(Spread { median: 1.5, min: 1.5, max: 1.5 }));
        assert_eq!(samples(&[(Relay, 1.0)]).ratio(|&figure| figure), None);
        assert_eq!(both.of(Relay, |&figure| figure).map(|spread| spread.median), Some(1.5));
    }

    #[test]
    fn a_bar_is_met_up_to_and_with_its_value() {
        let spread = |median| Some(Spread { median, min: median, max: median });
        assert_eq!(at_most(spread(3.0), 3.0), "3.00 (3.00-3.00), bar <= 3: met");
        assert!(at_most(spread(3.1), 3.0).ends_with("missed"));
        assert!(at_most(None, 3.0).ends_with("not measured"));
        assert_eq!(at_least(spread(0.7), 0.7), "0.70 (0.70-0.70), bar >= 0.7: met");
        assert!(at_least(spread(0.69), 0.7).ends_with("missed"));
    }

    #[test]
    fn table_cells_line_up() {
        let rows = [vec!["subs".to_owned(), "us".to_owned()], vec!["1000".to_owned(), "0.091".to_owned()]];
        assert_eq!(table(&rows), "| subs |    us |\n| ---- | ----- |\n| 1000 | 0.091 |\n");
    }
}
