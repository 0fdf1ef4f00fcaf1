//! The exposition of a fresh broker against `docs/METRICS.md`, and that what workers count arrives.

use super::Metrics;
use crate::admin::tests::control;
use crate::worker::counters::Ended;
use crate::worker::counters::Transport;
use std::collections::{BTreeMap, BTreeSet};
use waspmq_core::Kind;
use waspmq_core::delivery::Cause;
use waspmq_store::Write;

/// Metrics of which a fresh broker has no series yet, because there is one for every policy.
const WITHOUT_SERIES: [&str; 13] = [
    "waspmq_policy_calls_total",
    "waspmq_policy_call_seconds",
    "waspmq_policy_values",
    "waspmq_policy_value_bytes",
    "waspmq_policy_buckets",
    "waspmq_policy_kept_refused_total",
    "waspmq_policy_limits_total",
    "waspmq_policy_breaker_state",
    "waspmq_policy_rollbacks_total",
    "waspmq_policy_instances_recycled_total",
    "waspmq_policy_shadow_total",
    "waspmq_policy_compression_bytes_total",
    "waspmq_policy_compression_seconds_total",
];

/// A metric's type and label names.
type Listed = BTreeMap<String, (String, BTreeSet<String>)>;

/// Reads an exposition; histograms are listed by their own name, without `le`.
fn exposed(text: &str) -> Listed {
    let mut listed = Listed::new();
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = (format!("{name}{suffix}"), kind.to_owned());
            listed.insert(current.0.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            let (_, found) = listed.get_mut(&current.0).unwrap();
            for label in labels.map_or("", |(labels, _)| labels).split(',').filter(|label| !label.is_empty())
            {
                let (name, _) = label.split_once('=').unwrap();
                if !(name == "le" && current.1 == "histogram") {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    listed
}

/// Reads the rows of the table: name, type, labels, meaning.
fn documented() -> Listed {
    let guide =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md")).unwrap();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.map(|(name, rest)| {
        let cells: Vec<&str> = rest.trim_end_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells[2].len() > 10, "{name} has no meaning");
        // Labels are in back quotes; their values, in brackets, are not.
        let labels = cells[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.to_owned(), (cells[0].to_owned(), labels))
    });
    rows.collect()
}

#[test]
fn docs_list_what_a_fresh_broker_exposes() {
    let mut documented = documented();
    for name in WITHOUT_SERIES {
        let (_, labels) = documented.get_mut(name).unwrap();
        assert!(labels.remove("policy"), "{name}");
        labels.retain(|label| {
            !["hook", "outcome", "reason", "codec", "side", "limit"].contains(&label.as_str())
        });
    }
    let exposed = exposed(&Metrics::new(control()).encode().unwrap());
    for (name, metric) in &exposed {
        assert_eq!(documented.get(name), Some(metric), "{name}");
    }
    let gone: Vec<_> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(gone.is_empty(), "documented and not exposed: {gone:?}");
}

#[test]
fn workers_are_summed() {
    let control = control();
    for (counters, n) in control.counters().zip([1, 2]) {
        counters.connections_by.of(Transport::WebSocket).set(n);
        counters.connections_by.of(Transport::Quic).set(10 * n);
        counters.closed(Ended::Kicked).add(n);
        counters.published.duplicate.of(Kind::Topic).add(n);
        counters.dropped_no_member.add(n);
        counters.dropped_catching_up.add(n);
        counters.redeliveries.add(n);
        counters.acks_not_in_flight.add(n);
        counters.dead_letters(Cause::Nack).add(n);
        counters.given_up(Cause::Expired).add(n);
        counters.ack_latency.observe(60, n);
        counters.tracked_deliveries.set(n);
        counters.tracked_bytes.set(n * 10);
        counters.waiting_offline.set(n);
        counters.delivery_latency.of(Kind::Topic).observe(60, n);
        counters.delivery_latency.of(Kind::Topic).observe(10_000_000, 1);
    }
    let text = Metrics::new(control).encode().unwrap();
    for line in [
        "waspmq_connections{transport=\"websocket\"} 3",
        "waspmq_connections_closed_total{reason=\"kicked\"} 3",
        "waspmq_connections_closed_total{reason=\"peer\"} 0",
        "waspmq_messages_published_total{kind=\"topic\",outcome=\"duplicate\"} 3",
        "waspmq_messages_dropped_total{reason=\"no_member\"} 3",
        "waspmq_messages_dropped_total{reason=\"catching_up\"} 3",
        "waspmq_redeliveries_total 3",
        "waspmq_acks_ignored_total 3",
        "waspmq_dead_letters_total{reason=\"nack\"} 3",
        "waspmq_dead_letters_total{reason=\"timeout\"} 0",
        "waspmq_deliveries_given_up_total{reason=\"expired\"} 3",
        "waspmq_ack_latency_seconds_bucket{le=\"0.0001\"} 3",
        "waspmq_deliveries_in_flight 3",
        "waspmq_deliveries_bytes 30",
        "waspmq_deliveries_offline 3",
        "waspmq_delivery_latency_seconds_bucket{le=\"0.00005\",kind=\"topic\"} 0",
        "waspmq_delivery_latency_seconds_bucket{le=\"0.0001\",kind=\"topic\"} 3",
        "waspmq_delivery_latency_seconds_bucket{le=\"5.0\",kind=\"topic\"} 3",
        "waspmq_delivery_latency_seconds_bucket{le=\"+Inf\",kind=\"topic\"} 5",
        "waspmq_delivery_latency_seconds_count{kind=\"topic\"} 5",
        "waspmq_delivery_latency_seconds_sum{kind=\"topic\"} 20.00018",
        "# UNIT waspmq_delivery_latency_seconds seconds",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn what_is_stored_is_counted() {
    let control = control();
    let user = waspmq_core::Name::parse("bob").unwrap();
    control.journal.push(Write::LastSeen { user, unix_ms: 1 }, None).unwrap();
    let (told, committed) = std::sync::mpsc::sync_channel(1);
    control.journal.read(Box::new(move |_| told.send(()).unwrap())).unwrap();
    committed.recv().unwrap();
    let text = Metrics::new(control).encode().unwrap();
    for line in [
        "waspmq_journal_batch_messages_count 1",
        "waspmq_journal_batch_messages_sum 1.0",
        "waspmq_journal_batch_messages_bucket{le=\"1.0\"} 1",
        "waspmq_journal_commit_seconds_count 1",
        "waspmq_journal_queue_bytes 0",
        "waspmq_journal_failures_total 0",
        "waspmq_inbox_messages 0",
        "waspmq_store_bytes 0",
        "waspmq_store_bytes_max 1073741824",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
