//! What a broker did between two looks at it, and how it is at the second one. This is what `--json` prints;
//! `docs/ADMIN.md` describes every field.

use super::super::exposition::whole;
use super::delta::{ByTwo, Delta, Observed, Quantile, total};
use super::policy_figures::{self, Policy};
use super::sample::Sample;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

type By = BTreeMap<String, f64>;

#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) unix_ms: u64,
    /// What rates and quantiles are of.
    pub(super) interval_s: f64,
    /// The broker was started within the interval, which then begins with its start.
    pub(super) restarted: bool,
    pub(super) broker: Broker,
    pub(super) process: Process,
    pub(super) connections: Connections,
    pub(super) messages: Messages,
    pub(super) latency: Latencies,
    pub(super) queues: Queues,
    pub(super) policies: Vec<Policy>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Broker {
    pub(super) node: String,
    pub(super) version: String,
    pub(super) phase: String,
    pub(super) ready: bool,
    pub(super) not_ready: Option<String>,
    pub(super) uptime_ms: u64,
    pub(super) workers: u64,
    pub(super) generation: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Process {
    /// 100 is one core.
    pub(super) cpu_percent: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Connections {
    /// By transport.
    pub(super) open: BTreeMap<String, u64>,
    pub(super) sessions: u64,
    pub(super) opened_per_s: f64,
    pub(super) closed_per_s: By,
    pub(super) handshakes_refused_per_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Messages {
    /// By kind and outcome.
    pub(super) published_per_s: ByTwo,
    /// By kind and transport.
    pub(super) delivered_per_s: ByTwo,
    pub(super) dropped_per_s: By,
    pub(super) slow_consumers_per_s: By,
    pub(super) redeliveries_per_s: f64,
    pub(super) dead_letters_per_s: By,
    pub(super) given_up_per_s: By,
    pub(super) acks_per_s: f64,
    pub(super) acks_ignored_per_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Latencies {
    pub(super) delivery: Latency,
    pub(super) delivery_by_kind: BTreeMap<String, Latency>,
    pub(super) ack: Latency,
    pub(super) journal_commit: Latency,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    pub(super) per_s: f64,
    pub(super) p50_s: Option<Quantile>,
    pub(super) p99_s: Option<Quantile>,
}

/// What waits, and what is kept.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Queues {
    pub(super) outbound_bytes: u64,
    pub(super) journal_bytes: u64,
    pub(super) in_flight: u64,
    pub(super) offline: u64,
    pub(super) stored_messages: u64,
    pub(super) store_bytes: u64,
}

impl From<Observed> for Latency {
    fn from(observed: Observed) -> Self {
        Self {
            per_s: observed.rate().unwrap_or_default(),
            p50_s: observed.quantile(0.5),
            p99_s: observed.quantile(0.99),
        }
    }
}

impl Figures {
    /// `before` is an earlier look at the same address, be it at this run of the broker or at another one.
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let uptime_ms = number(&after.status, "uptime_ms");
        let restarted = after.status.get("epoch") != before.status.get("epoch")
            || uptime_ms < number(&before.status, "uptime_ms");
        // No interval is shorter than a microsecond, so nothing is divided by 0.
        let elapsed_us = after.at_us.saturating_sub(before.at_us);
        let elapsed_us = if restarted { elapsed_us.min(uptime_ms.saturating_mul(1_000)) } else { elapsed_us };
        let seconds = std::time::Duration::from_micros(elapsed_us.max(1)).as_secs_f64();
        let delta = Delta { before: (!restarted).then_some(&before.metrics), after: &after.metrics, seconds };
        Self {
            unix_ms: after.unix_ms,
            interval_s: seconds,
            restarted,
            broker: Broker::of(after),
            process: Process::of(&delta),
            connections: Connections::of(&delta),
            messages: Messages::of(&delta),
            latency: Latencies::of(&delta),
            queues: Queues::of(&delta),
            policies: after.policies.iter().map(|policy| policy_figures::policy(policy, &delta)).collect(),
        }
    }
}

fn number(document: &Value, key: &str) -> u64 {
    document.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn text(document: &Value, key: &str) -> String {
    document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Broker {
    fn of(Sample { status, unready, .. }: &Sample) -> Self {
        Self {
            node: text(status, "node"),
            version: text(status, "version"),
            phase: text(status, "phase"),
            ready: unready.is_none(),
            not_ready: unready.clone(),
            uptime_ms: number(status, "uptime_ms"),
            workers: number(status, "workers"),
            generation: number(status, "generation"),
        }
    }
}

impl Process {
    fn of(delta: &Delta<'_>) -> Self {
        Self {
            cpu_percent: delta.rate("process_cpu_seconds_total").map(|cores| cores * 100.0),
            resident_bytes: delta.after.total("process_resident_memory_bytes").map(whole),
            threads: delta.after.total("process_threads").map(whole),
            open_fds: delta.after.total("process_open_fds").map(whole),
            max_fds: delta.after.total("process_max_fds").map(whole),
        }
    }
}

impl Connections {
    fn of(delta: &Delta<'_>) -> Self {
        let open = delta.after.by("waspmq_connections", "transport");
        Self {
            open: open.into_iter().map(|(transport, count)| (transport, whole(count))).collect(),
            sessions: gauge(delta, "waspmq_sessions"),
            opened_per_s: rate(delta, "waspmq_connections_opened_total"),
            closed_per_s: delta.rates("waspmq_connections_closed_total", "reason"),
            handshakes_refused_per_s: rate(delta, "waspmq_handshakes_refused_total"),
        }
    }
}

impl Messages {
    fn of(delta: &Delta<'_>) -> Self {
        Self {
            published_per_s: delta.rates_by("waspmq_messages_published_total", "kind", "outcome"),
            delivered_per_s: delta.rates_by("waspmq_messages_delivered_total", "kind", "transport"),
            dropped_per_s: delta.rates("waspmq_messages_dropped_total", "reason"),
            slow_consumers_per_s: delta.rates("waspmq_slow_consumers_total", "action"),
            redeliveries_per_s: rate(delta, "waspmq_redeliveries_total"),
            dead_letters_per_s: delta.rates("waspmq_dead_letters_total", "reason"),
            given_up_per_s: delta.rates("waspmq_deliveries_given_up_total", "reason"),
            // Each ack is one observation of its latency.
            acks_per_s: rate(delta, "waspmq_ack_latency_seconds_count"),
            acks_ignored_per_s: rate(delta, "waspmq_acks_ignored_total"),
        }
    }

    /// Messages published with this outcome, of one kind or of all.
    pub(super) fn published(&self, kind: Option<&str>, wanted: impl Fn(&str) -> bool) -> f64 {
        sum(&self.published_per_s, kind, wanted)
    }

    pub(super) fn delivered(&self, kind: Option<&str>, wanted: impl Fn(&str) -> bool) -> f64 {
        sum(&self.delivered_per_s, kind, wanted)
    }

    /// Published and refused, dropped or repeated, by outcome.
    pub(super) fn not_accepted(&self) -> By {
        let mut by = By::new();
        let outcomes = self.published_per_s.values().flatten();
        for (outcome, rate) in outcomes.filter(|(outcome, _)| *outcome != ACCEPTED) {
            *by.entry(outcome.clone()).or_insert(0.0) += rate;
        }
        by
    }
}

pub(super) const ACCEPTED: &str = "accepted";

fn sum(table: &ByTwo, kind: Option<&str>, wanted: impl Fn(&str) -> bool) -> f64 {
    let rows = table.iter().filter(|(row, _)| kind.is_none_or(|kind| kind == *row));
    total(rows.flat_map(|(_, row)| row).filter(|(name, _)| wanted(name)).map(|(_, rate)| *rate))
}

impl Latencies {
    fn of(delta: &Delta<'_>) -> Self {
        let delivery = "waspmq_delivery_latency_seconds_bucket";
        let kinds = delta.after.by(delivery, "kind").into_keys();
        let of_kind = |kind: String| {
            let latency = delta.observed(delivery, |labels| labels.get("kind") == kind).into();
            (kind, latency)
        };
        Self {
            delivery: delta.observed(delivery, |_| true).into(),
            delivery_by_kind: kinds.map(of_kind).collect(),
            ack: delta.observed("waspmq_ack_latency_seconds_bucket", |_| true).into(),
            journal_commit: delta.observed("waspmq_journal_commit_seconds_bucket", |_| true).into(),
        }
    }
}

impl Queues {
    fn of(delta: &Delta<'_>) -> Self {
        Self {
            outbound_bytes: gauge(delta, "waspmq_outbound_queue_bytes"),
            journal_bytes: gauge(delta, "waspmq_journal_queue_bytes"),
            in_flight: gauge(delta, "waspmq_deliveries_in_flight"),
            offline: gauge(delta, "waspmq_deliveries_offline"),
            stored_messages: gauge(delta, "waspmq_inbox_messages"),
            store_bytes: gauge(delta, "waspmq_store_bytes"),
        }
    }
}

fn rate<'a>(delta: &Delta<'a>, name: &'a str) -> f64 {
    delta.rate(name).unwrap_or_default()
}

fn gauge(delta: &Delta<'_>, name: &str) -> u64 {
    whole(delta.after.total(name).unwrap_or_default())
}

#[cfg(test)]
mod tests;
