//! What is printed and drawn of the samples.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::chart::{self, Line, Panel};
use super::{Sample, Subjects};
use crate::report::{self, Samples, Spread, Subject as _};
use crate::wire::Wire;

/// Bars of the largest count of subscribers.
const CPU_MAX: f64 = 1.3;
const BYTES_MAX: f64 = 0.3;
const DEFLATE_CPU_MAX: f64 = 1.5;

/// All samples of one count of subscribers.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) subscribers: usize,
    pub(super) samples: Samples<Sample, Subjects>,
}

type Figure = fn(&Sample) -> f64;

const CPU: Figure = |sample| sample.run.server_us_per_delivery;
const BYTES: Figure = |sample| sample.run.received_bytes_per_delivery;
const COMPRESSING: Figure = |sample| sample.compressing.us_per_message;

/// One line per sample while the run goes on; faults in full.
pub(super) fn progress(subject: Subjects, subscribers: usize, sample: &Sample) {
    let Sample { run, compressing } = sample;
    eprintln!(
        "{:>12} {subscribers:>5}: {:.4} us/delivery, {:.0} B/delivery, {:.0}k/s, server {:.2} cores, {:.2} compressions \
         and {:.2} us of them per message, generator {:.4} us",
        subject.name(),
        run.server_us_per_delivery,
        run.received_bytes_per_delivery,
        run.deliveries_per_s / 1e3,
        run.server_cores,
        compressing.times_per_message,
        compressing.us_per_message,
        run.generator_us_per_delivery,
    );
    if !run.is_clean() {
        eprintln!("              not clean: {:?}", run.faults);
    }
}

/// Tables and bars on standard output, and the chart as a file.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn show(cases: &[Case], budget: &Case, svg: &Path) -> Result<()> {
    let mut table = rows(cases);
    table.extend(rows(std::slice::from_ref(budget)).into_iter().skip(1));
    print!("{}", report::table(&table));
    println!();
    print!("{}", report::table(&by_clients(cases)));
    for line in verdicts(cases) {
        println!("{line}");
    }
    println!("{}", budget_verdict(budget));
    fs::write(svg, chart::svg(&panels(cases))).with_context(|| format!("writing {}", svg.display()))?;
    println!("chart: {}", svg.display());
    Ok(())
}

fn rows(cases: &[Case]) -> Vec<Vec<String>> {
    let header = [
        "subs",
        "subject",
        "us/del",
        "ratio",
        "bytes/del",
        "bytes ratio",
        "compr/msg",
        "compr us/msg",
        "compr % of workers",
        "del/s",
        "cores",
        "lost",
        "closed",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for Case { subscribers, samples } in cases {
        for subject in Subjects::ALL {
            let of = |figure: Figure| samples.of(subject, figure);
            if of(CPU).is_none() {
                continue;
            }
            let ratio = |figure: Figure| {
                let is_reference = subject == subject.plain();
                let ratio = samples.ratio_of(subject, subject.plain(), figure);
                if is_reference { "-".to_owned() } else { report::range(ratio) }
            };
            let sum = |figure: fn(&Sample) -> u64| {
                let own = samples.iter().filter(|(of, _)| *of == subject);
                own.map(|(_, sample)| figure(sample)).sum::<u64>().to_string()
            };
            rows.push(vec![
                subscribers.to_string(),
                subject.name().to_owned(),
                report::median(of(CPU), 4),
                ratio(CPU),
                report::median(of(BYTES), 0),
                ratio(BYTES),
                report::median(of(|sample| sample.compressing.times_per_message), 2),
                report::median(of(COMPRESSING), 2),
                report::median(of(|sample| sample.compressing.share * 100.0), 1),
                report::thousands(of(|sample| sample.run.deliveries_per_s)),
                report::median(of(|sample| sample.run.server_cores), 2),
                sum(|sample| sample.run.faults.lost),
                sum(|sample| sample.run.faults.disconnected),
            ]);
        }
    }
    rows
}

/// Cost against clients: what grows with them, and what does not.
fn by_clients(cases: &[Case]) -> Vec<Vec<String>> {
    let mut header = vec!["cost against clients".to_owned()];
    header.extend(cases.iter().map(|case| format!("{} clients", case.subscribers)));
    let mut rows = vec![header];
    let mut push = |what: &str, subject: Subjects, cell: &dyn Fn(&Samples<Sample, Subjects>) -> String| {
        let mut row = vec![format!("{}, {what}", subject.name())];
        row.extend(cases.iter().map(|case| cell(&case.samples)));
        rows.push(row);
    };
    for subject in Subjects::CHARTED {
        push("us/delivery", subject, &|samples| report::median(samples.of(subject, CPU), 4));
    }
    for subject in Subjects::CHARTED.into_iter().filter(|&subject| subject != Subjects::Plain) {
        push("compressing, us/message", subject, &|samples| {
            report::median(samples.of(subject, COMPRESSING), 2)
        });
    }
    rows
}

fn verdicts(cases: &[Case]) -> Vec<String> {
    use Subjects::{Json, JsonDeflate, Mix, Plain, ZstdDict};
    let Some(Case { subscribers, samples }) = cases.iter().max_by_key(|case| case.subscribers) else {
        return Vec::new();
    };
    let over = |one, other, figure: Figure, bar| report::at_most(samples.ratio_of(one, other, figure), bar);
    let mut lines = vec![
        format!("{subscribers} clients, zstd-dict over plain, CPU: {}", over(ZstdDict, Plain, CPU, CPU_MAX)),
        format!(
            "{subscribers} clients, zstd-dict over plain, bytes: {}",
            over(ZstdDict, Plain, BYTES, BYTES_MAX)
        ),
        format!(
            "{subscribers} clients, json-deflate over json, CPU: {}",
            over(JsonDeflate, Json, CPU, DEFLATE_CPU_MAX)
        ),
    ];
    for subject in [ZstdDict, Mix] {
        lines.extend(growth(cases, subject));
    }
    lines
}

/// Whether the budget holds, and how much would be spent without it: where that is less, the budget was not put to the test.
fn budget_verdict(Case { subscribers, samples }: &Case) -> String {
    let share = |subject| report::median(samples.of(subject, |sample| sample.compressing.share * 100.0), 1);
    let of_budget = samples.of(Subjects::ZstdDefault, |sample| sample.compressing.share_of_budget);
    format!(
        "{subscribers} clients, default budget: compressing takes {} % of the workers' time, {} % without a budget; over what \
         is allowed: {}",
        share(Subjects::ZstdDefault),
        share(Subjects::Zstd),
        report::at_most(of_budget, 1.0)
    )
}

/// How much more a message's compressing takes for the most clients than for the fewest. Across cases, and so across
/// minutes: of medians.
fn growth(cases: &[Case], subject: Subjects) -> Option<String> {
    let fewest = cases.iter().min_by_key(|case| case.subscribers)?;
    let most = cases.iter().max_by_key(|case| case.subscribers)?;
    if fewest.subscribers == most.subscribers {
        return None;
    }
    let median = |case: &Case| case.samples.of(subject, COMPRESSING).map(|spread| spread.median);
    let cost = median(most)? / median(fewest)?;
    let clients = most.subscribers as f64 / fewest.subscribers as f64;
    Some(format!("{}, {clients:.1} x the clients, compressing per message: {cost:.2} x", subject.name()))
}

fn panels(cases: &[Case]) -> [Panel; 2] {
    let mut cases: Vec<&Case> = cases.iter().collect();
    cases.sort_by_key(|case| case.subscribers);
    let line = |subject: Subjects, figure: Figure| {
        let median = |case: &&Case| {
            let spread: Option<Spread> = case.samples.of(subject, figure);
            spread.map(|spread| (case.subscribers, spread.median))
        };
        Line { name: subject.name(), points: cases.iter().filter_map(median).collect() }
    };
    let lines = |figure: Figure| {
        let subjects = Subjects::CHARTED.into_iter().filter(|subject| subject.wire() == Wire::Binary);
        subjects.map(|subject| line(subject, figure)).collect()
    };
    [
        Panel { title: "server CPU per delivery, us, against clients", lines: lines(CPU) },
        Panel { title: "compressing per message, us, against clients", lines: lines(COMPRESSING) },
    ]
}
