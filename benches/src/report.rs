//! Repetitions in turn, medians and ratios over them, JSON lines and tables.
//!
//! A ratio is taken inside each repetition, broker over relay, and the median of those is shown: both ran within
//! seconds of each other, so what the rest of the machine does at that time cancels.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::options::Common;
use crate::process::Machine;
use crate::server::Kind;

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
    server: Kind,
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

    fn write(
        &mut self,
        round: Round,
        common: &Common,
        parameters: &impl Serialize,
        sample: &impl Serialize,
    ) -> Result<()> {
        let line = Line {
            scenario: self.scenario,
            server: round.server,
            profile: round.server.wire(common.profile).to_string(),
            repetition: round.repetition,
            parameters,
            sample,
            origin: &self.origin,
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).with_context(|| format!("writing {}", self.path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Which server, which repetition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) server: Kind,
    pub(crate) repetition: u32,
}

/// All samples of one case.
#[derive(Debug)]
pub(crate) struct Samples<S>(Vec<(Kind, S)>);

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
        mut once: impl FnMut(Kind) -> Result<S>,
    ) -> Result<Self> {
        let mut samples = Vec::new();
        for repetition in 1..=common.repetitions {
            for &server in &common.servers {
                let sample =
                    once(server).with_context(|| format!("{}, repetition {repetition}", server.name()))?;
                journal.write(Round { server, repetition }, common, parameters, &sample)?;
                samples.push((server, sample));
            }
        }
        Ok(Self(samples))
    }
}

impl<S> Samples<S> {
    pub(crate) fn all(&self, mut holds: impl FnMut(&S) -> bool) -> bool {
        self.0.iter().all(|(_, sample)| holds(sample))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Kind, S)> {
        self.0.iter()
    }

    pub(crate) fn of(&self, server: Kind, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        let figures = self.0.iter().filter(|(kind, _)| *kind == server).map(|(_, sample)| figure(sample));
        Spread::over(figures.collect())
    }

    /// Broker over relay, repetition by repetition.
    pub(crate) fn ratio(&self, figure: impl Fn(&S) -> f64) -> Option<Spread> {
        let of =
            |server| self.0.iter().filter(move |(kind, _)| *kind == server).map(|(_, sample)| figure(sample));
        Spread::over(of(Kind::Broker).zip(of(Kind::Relay)).map(|(broker, relay)| broker / relay).collect())
    }
}

impl Spread {
    fn over(mut figures: Vec<f64>) -> Option<Self> {
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
    fn table_cells_line_up() {
        let rows = [vec!["subs".to_owned(), "us".to_owned()], vec!["1000".to_owned(), "0.091".to_owned()]];
        assert_eq!(table(&rows), "| subs |    us |\n| ---- | ----- |\n| 1000 | 0.091 |\n");
    }
}
