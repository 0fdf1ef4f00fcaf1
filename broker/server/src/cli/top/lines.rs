//! What is told of a broker, line by line: the same for a screen and for `--once`.

use super::super::output;
use super::delta::{Quantile, total};
use super::figures::{ACCEPTED, Figures, Latency};
use super::number::{age, amount, bytes, count, latency};
use super::policy_figures::{Candidate, Policy};
use super::table::{Column, Theme, beside, cut, table, wrapped};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use serde_json::Value;
use std::collections::BTreeMap;

type Lines = Vec<Line<'static>>;

/// How the broker is, in two lines, and why it is not ready.
pub(super) fn header(figures: &Figures, address: &str, theme: Theme, width: usize) -> Lines {
    let Figures { broker, process, connections, .. } = figures;
    let state = match (&*broker.phase, broker.ready) {
        ("ready", true) => Span::styled("ready", theme.good()),
        ("ready", false) => Span::styled("not ready", theme.bad()),
        (phase, _) => Span::styled(cut(phase, 12), theme.warning()),
    };
    let files = match (process.open_fds, process.max_fds) {
        (Some(open), Some(max)) => format!("{}/{}", count(open), count(max)),
        _ => "-".to_owned(),
    };
    let first = [
        format!("up {}", age(broker.uptime_ms)),
        format!("generation {}", broker.generation),
        cut(address, 40),
        format!("node {}", cut(&broker.node, 24)),
        format!("waspmq {}", cut(&broker.version, 16)),
    ];
    let second = [
        format!("memory {}", process.resident_bytes.map_or_else(|| "-".to_owned(), bytes)),
        format!(
            "connections {}",
            count(connections.open.values().fold(0, |sum, open| sum.saturating_add(*open)))
        ),
        format!("sessions {}", count(connections.sessions)),
        format!("files {files}"),
        format!("threads {}", process.threads.map_or_else(|| "-".to_owned(), count)),
        format!("workers {}", broker.workers),
    ];
    let cpu = process.cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}%"));
    let cpu = Span::raw(format!("cpu {cpu}"));
    let mut lines = vec![parts(state, &first, width), parts(cpu, &second, width)];
    // A phase says for itself why it is not ready.
    if let Some(why) = broker.not_ready.as_ref().filter(|_| broker.phase == "ready") {
        lines.extend(wrapped(why, width, theme.bad()));
    }
    lines
}

/// As many parts as fit on one line.
fn parts(first: Span<'static>, rest: &[String], width: usize) -> Line<'static> {
    let mut line = Line::from(first);
    for part in rest {
        let part = Span::raw(format!("  {part}"));
        if line.width() + part.width() > width {
            break;
        }
        line.push_span(part);
    }
    line
}

/// What flows, where it flows and how fast, and what does not go as it should.
pub(super) fn overview(figures: &Figures, theme: Theme, width: usize) -> [Lines; 3] {
    let ways = beside(transports(figures, width), latencies(figures, width), width);
    [kinds(figures, theme, width), ways, events(figures, theme, width)]
}

/// What is published and delivered, by the kind of address.
fn kinds(figures: &Figures, theme: Theme, width: usize) -> Lines {
    const COLUMNS: [Column; 6] = [
        Column::left("KIND", 6, 0),
        Column::right("PUBLISHED/s", 12, 0),
        Column::right("NOT TAKEN/s", 12, 3),
        Column::right("DELIVERED/s", 12, 0),
        Column::right("p50", 8, 2),
        Column::right("p99", 8, 1),
    ];
    let messages = &figures.messages;
    let row = |kind: &String| {
        let not_taken = messages.published(Some(kind), |outcome| outcome != ACCEPTED);
        let latency = figures.latency.delivery_by_kind.get(kind);
        vec![
            Span::raw(kind.clone()),
            figure(messages.published(Some(kind), |outcome| outcome == ACCEPTED), Style::new()),
            figure(not_taken, theme.warning()),
            figure(messages.delivered(Some(kind), |_| true), Style::new()),
            quantile(latency.and_then(|latency| latency.p50_s)),
            quantile(latency.and_then(|latency| latency.p99_s)),
        ]
    };
    table(&COLUMNS, messages.published_per_s.keys().map(row).collect(), width)
}

fn transports(figures: &Figures, width: usize) -> Lines {
    const COLUMNS: [Column; 3] =
        [Column::left("TRANSPORT", 12, 0), Column::right("OPEN", 7, 0), Column::right("DELIVERED/s", 12, 0)];
    let row = |(transport, open): (&String, &u64)| {
        vec![
            Span::raw(transport.clone()),
            Span::styled(count(*open), if *open == 0 { Theme::dim() } else { Style::new() }),
            figure(figures.messages.delivered(None, |name| name == transport), Style::new()),
        ]
    };
    table(&COLUMNS, figures.connections.open.iter().map(row).collect(), width)
}

fn latencies(figures: &Figures, width: usize) -> Lines {
    const COLUMNS: [Column; 4] = [
        Column::left("LATENCY", 14, 0),
        Column::right("COUNT/s", 8, 2),
        Column::right("p50", 7, 1),
        Column::right("p99", 7, 0),
    ];
    let row = |(name, latency): (&'static str, &Latency)| {
        vec![
            Span::raw(name),
            figure(latency.per_s, Style::new()),
            quantile(latency.p50_s),
            quantile(latency.p99_s),
        ]
    };
    let of = &figures.latency;
    let rows = [("delivery", &of.delivery), ("ack", &of.ack), ("journal commit", &of.journal_commit)];
    table(&COLUMNS, rows.into_iter().map(row).collect(), width)
}

/// What goes otherwise than it should, and what waits.
fn events(figures: &Figures, theme: Theme, width: usize) -> Lines {
    let width = width.saturating_sub(NAME_COLUMNS);
    let Figures { messages, connections, queues, .. } = figures;
    let warned = |name, by: &BTreeMap<String, f64>| event(name, by, theme.warning(), width);
    let (opened, away) = (rate(connections.opened_per_s), rate(connections.handshakes_refused_per_s));
    let moves = format!("opened {opened}, turned away {away}, closed {}", told(&connections.closed_per_s));
    let acks = format!(
        "{}, {} ignored; {} in flight, {} recipients offline",
        rate(messages.acks_per_s),
        rate(messages.acks_ignored_per_s),
        count(queues.in_flight),
        count(queues.offline)
    );
    let again = BTreeMap::from([(String::new(), messages.redeliveries_per_s)]);
    let waiting = format!(
        "outbound {}, journal {}; stored {} messages, {}",
        bytes(queues.outbound_bytes),
        bytes(queues.journal_bytes),
        count(queues.stored_messages),
        bytes(queues.store_bytes)
    );
    vec![
        Line::from(vec![name("connections"), Span::raw(cut(&moves, width))]),
        warned("not taken", &messages.not_accepted()),
        warned("dropped", &messages.dropped_per_s),
        warned("slow consumers", &messages.slow_consumers_per_s),
        warned("redelivered", &again),
        warned("given up", &messages.given_up_per_s),
        event("dead letters", &messages.dead_letters_per_s, theme.bad(), width),
        Line::from(vec![name("acks"), Span::raw(cut(&acks, width))]),
        Line::from(vec![name("queues"), Span::raw(cut(&waiting, width))]),
    ]
}

/// Columns in front of what happens.
const NAME_COLUMNS: usize = 16;

fn name(name: &str) -> Span<'static> {
    Span::styled(format!("{name:<NAME_COLUMNS$}"), Theme::title())
}

fn event(title: &str, by: &BTreeMap<String, f64>, style: Style, width: usize) -> Line<'static> {
    let happens = by.values().any(|rate| *rate > 0.0);
    let style = if happens { style } else { Theme::dim() };
    Line::from(vec![name(title), Span::styled(cut(&told(by), width), style)])
}

/// A rate and what it is made of, the most first.
fn told(by: &BTreeMap<String, f64>) -> String {
    let mut parts: Vec<_> = by.iter().filter(|(name, rate)| **rate > 0.0 && !name.is_empty()).collect();
    parts.sort_by(|a, b| b.1.total_cmp(a.1));
    let parts: Vec<String> =
        parts.into_iter().map(|(name, rate)| format!("{} {}", cut(name, 32), amount(*rate))).collect();
    let total = rate(total(by.values().copied()));
    if parts.is_empty() { total } else { format!("{total} ({})", parts.join(", ")) }
}

fn rate(per_s: f64) -> String {
    format!("{}/s", amount(per_s))
}

fn figure(value: f64, style: Style) -> Span<'static> {
    Span::styled(amount(value), if value > 0.0 { style } else { Theme::dim() })
}

fn quantile(of: Option<Quantile>) -> Span<'static> {
    Span::styled(latency(of), if of.is_some() { Style::new() } else { Theme::dim() })
}

pub(super) fn policies(figures: &Figures, theme: Theme, width: usize) -> Lines {
    const COLUMNS: [Column; 11] = [
        Column::left("POLICY", 14, 0),
        Column::left("HOOK", 11, 8),
        Column::left("STATE", 7, 1),
        Column::left("VERSION", 14, 5),
        Column::right("GEN", 5, 7),
        Column::right("CALL/s", 6, 0),
        Column::right("FAIL/s", 6, 0),
        Column::right("p50", 6, 6),
        Column::right("p99", 6, 2),
        Column::left("BREAKER", 7, 3),
        Column::right("DIFF/s", 6, 4),
    ];
    if figures.policies.is_empty() {
        return vec![Line::styled("there are no policies", Theme::dim())];
    }
    let rows = figures.policies.iter().flat_map(|policy| {
        let candidate = policy.candidate.as_ref().map(|candidate| trial(candidate, theme));
        std::iter::once(active(policy, theme)).chain(candidate)
    });
    table(&COLUMNS, rows.collect(), width)
}

fn active(policy: &Policy, theme: Theme) -> Vec<Span<'static>> {
    let state = match &*policy.state {
        "active" if policy.on_probation => Span::styled("new", theme.warning()),
        "active" => Span::styled("active", theme.good()),
        "refused" => Span::styled("refused", theme.bad()),
        state => Span::raw(state.to_owned()),
    };
    vec![
        Span::raw(policy.name.clone()),
        Span::raw(policy.hook.clone()),
        state,
        Span::raw(policy.version.clone().unwrap_or_else(|| "-".to_owned())),
        Span::raw(policy.generation.to_string()),
        figure(policy.calls_per_s, Style::new()),
        figure(policy.failures_per_s, theme.bad()),
        quantile(policy.p50_s),
        quantile(policy.p99_s),
        breaker(policy.breaker.as_deref(), theme),
        Span::default(),
    ]
}

/// The row of a candidate, below that of its policy.
fn trial(candidate: &Candidate, theme: Theme) -> Vec<Span<'static>> {
    let mode = match candidate.canary_percent {
        Some(percent) => format!("  canary {percent}%"),
        None => format!("  {}", candidate.mode),
    };
    let own = |rate: Option<f64>, style| rate.map_or_else(Span::default, |rate| figure(rate, style));
    vec![
        Span::styled(mode, theme.warning()),
        Span::default(),
        Span::styled("trial", theme.warning()),
        Span::raw(candidate.version.clone().unwrap_or_else(|| "-".to_owned())),
        Span::default(),
        Span::default(),
        own(candidate.failures_per_s, theme.bad()),
        Span::default(),
        Span::default(),
        breaker(candidate.breaker.as_deref(), theme),
        own(candidate.differences_per_s, theme.warning()),
    ]
}

/// In seven characters.
fn breaker(state: Option<&str>, theme: Theme) -> Span<'static> {
    match state {
        None => Span::raw("-"),
        Some("closed") => Span::styled("closed", Theme::dim()),
        Some("half-open") => Span::styled("half", theme.warning()),
        Some(state) => Span::styled(state.to_owned(), theme.bad()),
    }
}

/// What `/v1/sessions` answered: the first of them, and how many there are.
pub(super) fn sessions(page: &Value, now_unix_ms: u64, width: usize) -> Lines {
    const COLUMNS: [Column; 6] = [
        Column::left("USER", 12, 0),
        Column::left("DEVICE", 12, 3),
        Column::left("TRANSPORT", 16, 1),
        Column::left("REMOTE", 21, 2),
        Column::right("SINCE", 7, 0),
        Column::left("SESSION", 16, 4),
    ];
    let sessions = page.get("sessions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let total = page.get("total").and_then(Value::as_u64).unwrap_or_default();
    let row = |session: &Value| {
        let cell = |key: &str| Span::raw(output::cell(session.get(key).unwrap_or_default()));
        let connected = session.get("connected_unix_ms").and_then(Value::as_u64);
        let since = connected.map_or_else(String::new, |then| age(now_unix_ms.saturating_sub(then)));
        vec![cell("user"), cell("device"), cell("transport"), cell("remote"), Span::raw(since), cell("id")]
    };
    let mut lines = table(&COLUMNS, sessions.iter().map(row).collect(), width);
    if total > sessions.len() as u64 {
        lines.push(Line::styled(
            format!("the first {} of {} sessions", sessions.len(), count(total)),
            Theme::dim(),
        ));
    }
    lines
}
