//! The parts that the example `call_cost` measures, each in a process of its own.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rows::{Bar, Row};
use super::{Arguments, Part};
use crate::report::Journal;

/// A call without strings in its answer, one with, and one on the lane `component`, as multiples of a bare call.
const CORE: f64 = 5.0;
const CORE_STRINGS: f64 = 9.0;
const COMPONENT: f64 = 15.0;
const KEPT: f64 = 1.0;

/// The questions whose multiples are judged, with the bar of the lane `core`.
const JUDGED: [(&str, f64); 6] = [
    ("route, no strings: continue", CORE),
    ("route, strings: redirect", CORE_STRINGS),
    ("route, kept: continue", KEPT),
    ("admit, no strings: continue", CORE),
    ("admit, strings: refuse", CORE_STRINGS),
    ("plan: none", CORE),
];

/// One line of what the example prints.
#[derive(Debug, Deserialize, Serialize)]
struct Figure {
    figure: String,
    unit: String,
    values: Vec<f64>,
}

type Figures = BTreeMap<String, Vec<f64>>;

/// Runs one part and judges it.
///
/// # Errors
/// When the example does not run to its end, or prints something else.
pub(super) fn measure(part: Part, arguments: &Arguments, journal: &mut Journal) -> Result<Vec<Row>> {
    let name = json!(part);
    let name = name.as_str().unwrap_or_default();
    let program = &arguments.inside;
    let output = Command::new(program).args(["--json", name]).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("running {}", program.display()))?;
    ensure!(output.status.success(), "{} {name} ended with {}", program.display(), output.status);
    let mut figures = Figures::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let figure: Figure =
            serde_json::from_str(line).with_context(|| format!("{name} printed {line:?}"))?;
        journal.note("in-process", &json!({ "part": name }), &figure)?;
        figures.insert(figure.figure, figure.values);
    }
    Ok(judge(part, &figures))
}

fn judge(part: Part, figures: &Figures) -> Vec<Row> {
    let one = |name: &str, unit, bar| Row::new(name, unit, of(figures, name), bar);
    match part {
        Part::Calls => calls(figures),
        Part::Cuts => vec![
            Row::new(
                "cut of a loop, half of them",
                "ms",
                of(figures, "cut of a loop"),
                Bar::MedianAtMost(2.5),
            ),
            Row::new("cut of a loop, the worst", "ms", of(figures, "cut of a loop"), Bar::WorstAtMost(10.0)),
            one("calls of 0.5 ms that were cut", "", Bar::WorstAtMost(0.0)),
            one("calls of 0.9 ms that were cut", "", Bar::None),
        ],
        Part::Replacement => vec![
            one("a panic, until its message is served without it", "us", Bar::MedianAtMost(100.0)),
            one("policy thread per instance freed and made", "us", Bar::MedianAtMost(100.0)),
        ],
        Part::Share => vec![one("other messages beside a policy of 0.9 ms", "of 1", Bar::AtLeast(0.8))],
        Part::Memory => vec![one("resident memory per instance, stamp", "kB", Bar::MedianAtMost(64.0))],
        Part::Capacity => {
            let count = |what: &str| of(figures, &format!("64 policies swapped at once: {what}"));
            let (done, refused) = (count("done"), count("refused for want of room"));
            let answered = done.iter().zip(&refused).map(|(done, refused)| done + refused).collect();
            let what = "64 policies swapped at once: done or refused";
            let answered = Row::new(what, "", answered, Bar::AtLeast(64.0));
            let names = figures.keys().map(String::as_str);
            std::iter::once(answered).chain(names.map(|name| one(name, "", Bar::None))).collect()
        }
        _ => figures.iter().map(|(name, values)| Row::new(name, "", values.clone(), Bar::None)).collect(),
    }
}

fn of(figures: &Figures, name: &str) -> Vec<f64> {
    figures.get(name).cloned().unwrap_or_default()
}

fn calls(figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    let questions = figures.keys().filter_map(|name| name.strip_prefix("bare: "));
    for question in questions {
        let column = |name: &str| of(figures, &format!("{name}: {question}"));
        let bare = column("bare");
        let judged = JUDGED.iter().find(|(judged, _)| *judged == question);
        let bars = judged.map_or([Bar::None; 2], |(_, core)| {
            let component = if *core < CORE { Bar::None } else { Bar::MedianAtMost(COMPONENT) };
            [Bar::MedianAtMost(*core), component]
        });
        for (lane, bar) in ["core", "component"].into_iter().zip(bars) {
            rows.push(Row::new(format!("{lane}: {question}"), "ns", column(lane), Bar::None));
            let ratios = column(lane).iter().zip(&bare).map(|(lane, bare)| lane / bare).collect();
            rows.push(Row::new(format!("{lane}: {question}, of a bare call"), "x", ratios, bar));
        }
        rows.push(Row::new(format!("bare call beside {question}"), "ns", bare, Bar::None));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_taken_inside_a_round() {
        let mut figures = Figures::new();
        let question = "route, no strings: continue";
        for (lane, values) in [("bare", [20.0, 40.0]), ("core", [80.0, 160.0]), ("component", [400.0, 800.0])]
        {
            figures.insert(format!("{lane}: {question}"), values.to_vec());
        }
        let rows = judge(Part::Calls, &figures);
        let missed: Vec<_> = rows.iter().filter(|row| row.is_missed()).map(Row::what).collect();
        assert_eq!(missed, ["component: route, no strings: continue, of a bare call"]);
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn a_cut_call_is_one_too_many() {
        let mut figures = Figures::new();
        figures.insert("cut of a loop".to_owned(), vec![1.9, 2.4, 10.1]);
        figures.insert("calls of 0.5 ms that were cut".to_owned(), vec![0.0, 1.0]);
        let rows = judge(Part::Cuts, &figures);
        assert_eq!(rows.iter().map(Row::is_missed).collect::<Vec<_>>(), [false, true, true, false]);
    }
}
