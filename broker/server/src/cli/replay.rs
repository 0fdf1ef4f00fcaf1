//! `waspmq plugin replay`: a capture put to two components, without a broker.

use super::failure::Failure;
use super::output;
use super::plugin::check::read;
use super::policy::{Hook, parse_config};
use anyhow::anyhow;
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use waspmq_policy::limits::{
    CAPTURE_LINE_BYTES_MAX, DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX, DEADLINE_MS_MIN, MEMORY_MB_DEFAULT,
    MEMORY_MB_MAX, MEMORY_MB_MIN, REPLAY_DIFFERENCES_MAX,
};
use waspmq_policy::{
    OnlyHook, PolicyLimits, Replay, ReplayDifference, ReplayError, ReplaySide, ReplaySummary, ReplayedHook,
    ReplayedSide,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Both components are asked the same in the order of the records, for each hook that both have; time
and chance come from the records, and what is kept for a policy begins empty. Exit codes: 0 no
decision differs, 1 some differ or only one component has a hook, 2 a file cannot be used.

Examples:
  waspmq plugin replay old.wasm new.wasm orders.jsonl
  waspmq plugin replay a.wasm a.wasm orders.jsonl --config @now.json --new-config @next.json")]
pub(super) struct Arguments {
    /// The component as it is
    old: PathBuf,
    /// The component to compare with it
    new: PathBuf,
    /// What `waspmq policy capture` wrote
    capture: PathBuf,
    /// The plugin's configuration: a JSON object, or `@file` with one
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// The configuration of the new component, when it is another one
    #[arg(long, value_name = "JSON")]
    new_config: Option<String>,
    /// Only this hook
    #[arg(long, value_enum)]
    hook: Option<Hook>,
    /// CPU time of one decision, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = DEADLINE_MS_DEFAULT, value_parser = clap::value_parser!(u32).range(i64::from(DEADLINE_MS_MIN)..=i64::from(DEADLINE_MS_MAX)))]
    deadline_ms: u32,
    /// Memory of an instance, in MiB, as the policy's limit is
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MB_DEFAULT, value_parser = clap::value_parser!(u32).range(i64::from(MEMORY_MB_MIN)..=i64::from(MEMORY_MB_MAX)))]
    memory_mb: u32,
    /// Differences that are shown; all are counted
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=REPLAY_DIFFERENCES_MAX))]
    differences_max: u64,
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let [old, new] = [&arguments.old, &arguments.new].map(|path| read(path));
    let (old, new) = (old?, new?);
    let config = arguments.config.as_deref().map(parse_config).transpose()?.unwrap_or_default();
    let new_config = arguments.new_config.as_deref().map(parse_config).transpose()?;
    let sides = [
        ReplaySide { component: &old, config: &config },
        ReplaySide { component: &new, config: new_config.as_ref().unwrap_or(&config) },
    ];
    let Arguments { deadline_ms, memory_mb, .. } = *arguments;
    let limits = PolicyLimits { deadline_ms, memory_mb, ..PolicyLimits::default() };
    let path = arguments.capture.display();
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("{path}: {error}"));
    let file = File::open(&arguments.capture).map_err(|error| unusable(&error))?;
    let mut lines = Lines::new(BufReader::new(file));
    let header = lines.next().map_err(|error| unusable(&error))?.unwrap_or_default();
    let replay = Replay::new(sides, arguments.hook.map(waspmq_policy::Hook::from), limits, header);
    let mut replay = replay.map_err(|error| match error {
        ReplayError::Line(bad) => unusable(&bad),
        other => Failure::Usage(other.to_string()),
    })?;
    let mut shown = 0;
    while let Some(line) = lines.next().map_err(|error| unusable(&error))? {
        for difference in replay.line(line).map_err(|error| unusable(&error))? {
            shown += 1;
            if shown <= arguments.differences_max {
                show(&difference, as_json)?;
            }
        }
    }
    conclude(&replay.summary(), arguments.differences_max, as_json)
}

/// Says what a replay came to; what differs is a failure.
fn conclude(summary: &ReplaySummary, shown_max: u64, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::line(format_args!("{}", json!({ "summary": summary })))?;
    } else {
        let hidden = summary.differences.saturating_sub(shown_max);
        if hidden > 0 {
            output::line(format_args!("{hidden} more decisions differ"))?;
        }
        output::line(format_args!("{}", table(summary)))?;
    }
    for (what, count) in &summary.lacking {
        output::note(format_args!(
            "{count} records: asked for {what} that the capture lacks; take it down with --{what}"
        ));
    }
    for hook in &summary.hooks {
        for (name, side) in [("old", &hook.old), ("new", &hook.new)] {
            let Some(reason) = &side.no_instance else { continue };
            let (hook, reason) = (hook.hook.as_str(), output::printable(reason));
            output::note(format_args!("the {name} component had no instance for hook {hook}: {reason}"));
        }
    }
    for OnlyHook { hook, side } in &summary.only {
        output::note(format_args!("only the {side} component has the hook {}", hook.as_str()));
    }
    if summary.differences > 0 {
        return Err(anyhow!("{} of the decisions differ", summary.differences).into());
    }
    if !summary.only.is_empty() {
        return Err(anyhow!("the components have different hooks").into());
    }
    Ok(())
}

fn show(difference: &ReplayDifference, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let document = serde_json::to_value(difference)?;
        return Ok(output::line(format_args!("{document}"))?);
    }
    let ReplayDifference { line, hook, input, old, new, lacking } = difference;
    let lacking = lacking.iter().map(|what| format!(" (asked for {what} that the capture lacks)"));
    let lacking: String = lacking.collect();
    let [input, old, new] = [input, old, new].map(|value| output::printable(&value.to_string()));
    let hook = hook.as_str();
    Ok(output::line(format_args!("line {line}, {hook}{lacking}: {input}\n  old: {old}\n  new: {new}"))?)
}

/// One row for each hook.
fn table(summary: &ReplaySummary) -> String {
    let headings = ["HOOK", "ASKED", "DIFFERENT", "", "FAILURES", "MEAN NS", "P99 NS"];
    let side = |name: &str, side: &ReplayedSide| {
        let failures = side.failures.iter().map(|(outcome, count)| format!("{outcome} {count}"));
        let failures = failures.collect::<Vec<_>>().join(", ");
        let mean = side.mean_ns.map_or_else(|| "-".to_owned(), |ns| ns.to_string());
        [
            name.to_owned(),
            if failures.is_empty() { "-".to_owned() } else { failures },
            mean,
            side.p99_ns.to_string(),
        ]
    };
    let rows = |hook: &ReplayedHook| {
        let first = [hook.hook.as_str().to_owned(), hook.asked.to_string(), hook.differences.to_string()];
        let none = [const { String::new() }; 3];
        let rows =
            [first.into_iter().chain(side("old", &hook.old)), none.into_iter().chain(side("new", &hook.new))];
        rows.map(Iterator::collect::<Vec<_>>)
    };
    let rows: Vec<Vec<String>> = summary.hooks.iter().flat_map(rows).collect();
    format!("{} records\n{}", summary.records, output::table(&headings, &rows))
}

/// The lines of a file, of which none is read further than its bound.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self { reader, line: Vec::new() }
    }

    /// The next line without its end. One that is too long is cut where that is known.
    pub(super) fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        self.line.clear();
        let most = CAPTURE_LINE_BYTES_MAX as u64 + 1;
        if self.reader.by_ref().take(most).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        Ok(Some(self.line.strip_suffix(b"\n").unwrap_or(&self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_up_to_their_bound() {
        let long = "x".repeat(CAPTURE_LINE_BYTES_MAX);
        let text = format!("a\n{long}\n{long}x\nlast");
        let mut lines = Lines::new(text.as_bytes());
        let mut next = || lines.next().unwrap().map(<[u8]>::len);
        assert_eq!([next(), next()], [Some(1), Some(long.len())]);
        assert_eq!(next(), Some(long.len() + 1), "more than the bound, so that it is refused");
        let mut lines = Lines::new(&b"a\nlast"[..]);
        assert_eq!(lines.next().unwrap(), Some(&b"a"[..]));
        assert_eq!(lines.next().unwrap(), Some(&b"last"[..]));
        assert_eq!(lines.next().unwrap(), None);
    }

    #[test]
    fn a_summary_says_all_of_both() {
        let side = |failures: &[(&'static str, u64)], mean_ns| ReplayedSide {
            failures: failures.iter().copied().collect(),
            no_instance: None,
            mean_ns,
            p99_ns: 448,
        };
        let hook = ReplayedHook {
            hook: waspmq_policy::Hook::Routing,
            asked: 10,
            differences: 1,
            old: side(&[], Some(300)),
            new: side(&[("deadline", 1), ("trap", 2)], None),
        };
        let summary = ReplaySummary {
            records: 12,
            differences: 1,
            hooks: vec![hook],
            only: Vec::new(),
            lacking: [("payload", 3)].into(),
        };
        let expected = "12 records\n\
            HOOK     ASKED  DIFFERENT       FAILURES            MEAN NS  P99 NS\n\
            routing  10     1          old  -                   300      448\n\
            \x20                          new  deadline 1, trap 2  -        448";
        assert_eq!(table(&summary), expected);
        assert!(matches!(conclude(&summary, 20, true), Err(Failure::Failed(_))));
        let same = ReplaySummary { differences: 0, ..summary };
        assert!(conclude(&same, 20, true).is_ok(), "what a capture lacks is said and is no difference");
        let only = vec![OnlyHook { hook: waspmq_policy::Hook::Ack, side: "new" }];
        assert!(matches!(conclude(&ReplaySummary { only, ..same }, 20, true), Err(Failure::Failed(_))));
    }
}
