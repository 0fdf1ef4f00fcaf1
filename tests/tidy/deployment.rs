//! What `deploy` names of the broker: metrics with labels and values that `docs/METRICS.md` has, the toolchain of the image.
//!
//! An alert on a metric that is not there never fires, and nothing says so.

use crate::report::Findings;
use std::collections::{BTreeMap, BTreeSet};

/// What a scrape adds to each series.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];

/// Labels with their values; none are listed of a label with values of operators' choice.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// The samples that the guide lists, those of histograms under their three names.
pub(crate) fn documented(guide: &str) -> BTreeMap<String, Labels> {
    let mut metrics = BTreeMap::new();
    for row in guide.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells.as_slice() else { continue };
        let (name, mut labels) = (name.trim_end_matches('`'), labels_of(labels));
        if *kind == "histogram" {
            metrics.insert(format!("{name}_sum"), labels.clone());
            metrics.insert(format!("{name}_count"), labels.clone());
            labels.insert("le".to_owned(), BTreeSet::new());
            metrics.insert(format!("{name}_bucket"), labels);
        } else {
            metrics.insert(name.to_owned(), labels);
        }
    }
    metrics
}

/// Reads `` `kind` (user, all), `policy` ``.
fn labels_of(cell: &str) -> Labels {
    let pieces: Vec<_> = cell.split('`').collect();
    let pairs = pieces.iter().skip(1).step_by(2).zip(pieces.iter().skip(2).step_by(2));
    pairs.map(|(label, behind)| ((*label).to_owned(), values_of(behind))).collect()
}

fn values_of(text: &str) -> BTreeSet<String> {
    let list = text.trim().strip_prefix('(').and_then(|rest| rest.split(')').next());
    list.map_or_else(BTreeSet::new, |list| list.split(", ").map(str::to_owned).collect())
}

/// Rule: each metric that is named is documented, with the labels and values that it is asked for.
pub(crate) fn unknown_metrics(path: &str, text: &str, documented: &BTreeMap<String, Labels>) -> Findings {
    let mut findings = Findings::default();
    let text = text.replace("\\\"", "\"");
    // A piece has one expression, and what is said about it.
    for piece in text.split("expr") {
        let mut labels: BTreeSet<&str> = OF_THE_SCRAPE.into();
        let (expression, prose) = piece.split_once("annotations:").unwrap_or((piece, ""));
        for (name, _) in names(prose).filter(|(name, _)| !is_documented(name, documented)) {
            findings.add(path, format!("`{name}` is not in docs/METRICS.md"));
        }
        for (name, behind) in names(expression) {
            let Some(known) = documented.get(name) else {
                findings.add(path, format!("`{name}` is not in docs/METRICS.md"));
                continue;
            };
            labels.extend(known.keys().map(String::as_str));
            for problem in matchers(behind).filter_map(|matcher| problem_of(matcher, known)) {
                findings.add(path, format!("`{name}`: {problem}"));
            }
        }
        for label in named_labels(piece).filter(|label| !labels.contains(label)) {
            findings.add(
                path,
                format!("no metric of the expression has the label `{label}`: {}", first_line(piece)),
            );
        }
    }
    findings
}

/// In prose a histogram is called by its own name, which no sample has.
fn is_documented(name: &str, documented: &BTreeMap<String, Labels>) -> bool {
    documented.contains_key(name) || documented.contains_key(&format!("{name}_count"))
}

/// The metrics of the broker, each with the text behind it.
fn names(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let starts = ["waspmq_", "process_"].into_iter().flat_map(|prefix| text.match_indices(prefix));
    starts.filter(move |(start, _)| !text[..*start].ends_with(is_part)).map(move |(start, _)| {
        let rest = &text[start..];
        rest.split_at(rest.find(|character| !is_part(character)).unwrap_or(rest.len()))
    })
}

/// What stands in braces right behind a name.
fn matchers(behind: &str) -> impl Iterator<Item = &str> {
    let inside = behind.strip_prefix('{').and_then(|rest| rest.split('}').next());
    inside.unwrap_or_default().split(',').map(str::trim).filter(|matcher| !matcher.is_empty())
}

fn problem_of(matcher: &str, known: &Labels) -> Option<String> {
    let (label, condition) = matcher.split_at(matcher.find(['=', '!'])?);
    if OF_THE_SCRAPE.contains(&label) {
        return None;
    }
    let Some(values) = known.get(label) else { return Some(format!("it has no label `{label}`")) };
    let asked = condition.split('"').nth(1).unwrap_or_default();
    let unknown = asked.split('|').find(|value| !values.is_empty() && !values.contains(*value));
    unknown.map(|value| format!("`{label}` is never \"{value}\""))
}

/// Labels that are aggregated by, or shown.
fn named_labels(text: &str) -> impl Iterator<Item = &str> {
    let by = text.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    let shown = text.split("$labels.").skip(1).filter_map(|rest| rest.split([' ', '}']).next());
    by.flat_map(|list| list.split(',')).chain(shown).map(str::trim)
}

fn first_line(text: &str) -> &str {
    text.lines()
        .map(|line| line.trim_matches([':', ' ', '>', '-']))
        .find(|line| !line.is_empty())
        .unwrap_or_default()
}

/// Rule: the image is built with the toolchain of the repository.
pub(crate) fn other_toolchain(path: &str, dockerfile: &str, toolchain: &str) -> Findings {
    let mut findings = Findings::default();
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'));
    let channel = channel.unwrap_or("(none)");
    for wanted in [format!("FROM rust:{channel}-"), format!("ENV RUSTUP_TOOLCHAIN={channel}\n")] {
        if !dockerfile.contains(&wanted) {
            findings.add(path, format!("has no `{}`, the channel of rust-toolchain.toml", wanted.trim()));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = "\
| metric | type | labels | meaning |
| --- | --- | --- | --- |
| `waspmq_drops_total` | counter | `reason` (slow, lost), `kind` (user, all) | what |
| `waspmq_call_seconds` | histogram | `policy` | how long |
| `process_open_fds` | gauge | | files |
";

    fn findings(text: &str) -> Findings {
        unknown_metrics("alerts.yml", text, &documented(GUIDE))
    }

    #[test]
    fn what_is_documented_may_be_named() {
        for text in [
            "expr: rate(waspmq_drops_total{reason=\"slow\", kind!~\"user|all\"}[5m]) > 0",
            "expr: sum by (instance, le) (waspmq_call_seconds_bucket{le=\"0.1\",policy=\"p\"})",
            "\"expr\": \"sum by (kind) (waspmq_drops_total{instance=~\\\"$instance\\\"})\"",
            "expr: process_open_fds{job=\"waspmq\"} > 1\n  summary: \"{{ $labels.instance }}\"",
            "expr: waspmq_drops_total\n  annotations:\n    description: see waspmq_call_seconds",
            "job_name: waspmq",
        ] {
            findings(text).assert_none();
        }
    }

    #[test]
    fn what_is_not_is_found() {
        for (text, part) in [
            ("expr: waspmq_drop_total", "`waspmq_drop_total` is not"),
            ("expr: waspmq_call_seconds", "`waspmq_call_seconds` is not"),
            ("expr: process_open_files", "`process_open_files` is not"),
            ("expr: waspmq_drops_total\n annotations: see waspmq_gone", "`waspmq_gone` is not"),
            ("expr: waspmq_drops_total{cause=\"slow\"}", "no label `cause`"),
            ("expr: waspmq_drops_total{reason=\"late\"}", "`reason` is never \"late\""),
            ("expr: waspmq_drops_total{kind=\"all\",reason=~\"slow|late\"}", "never \"late\""),
            ("expr: sum by (policy) (waspmq_drops_total)", "`policy`: sum by (policy)"),
            ("expr: waspmq_drops_total\n annotations: {{ $labels.le }}", "the label `le`"),
        ] {
            findings(text).assert_one(part);
        }
    }

    #[test]
    fn another_toolchain_is_found() {
        let toolchain = "[toolchain]\nchannel = \"1.95.0\"\n";
        let check = |dockerfile: &str| other_toolchain("Dockerfile", dockerfile, toolchain);
        check("FROM rust:1.95.0-slim AS build\nENV RUSTUP_TOOLCHAIN=1.95.0\n").assert_none();
        check("FROM rust:1.96.0-slim AS build\nENV RUSTUP_TOOLCHAIN=1.95.0\n")
            .assert_one("`FROM rust:1.95.0-`");
        check("FROM rust:1.95.0-slim AS build\n").assert_one("RUSTUP_TOOLCHAIN=1.95.0");
    }
}
