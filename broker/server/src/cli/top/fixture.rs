//! A broker for tests: what its API says after so many rounds of the same traffic, two seconds each.

use super::super::exposition::Exposition;
use super::figures::Figures;
use super::sample::Sample;
use serde_json::{Value, json};

/// Seconds of a round.
pub(super) const ROUND_S: u64 = 2;

/// Each counter's line ends with what one round adds to it.
const COUNTERS: &str = r#"
process_cpu_seconds_total 1
waspmq_connections_opened_total 10
waspmq_connections_closed_total{reason="peer"} 4
waspmq_connections_closed_total{reason="timeout"} 6
waspmq_connections_closed_total{reason="kicked"} 0
waspmq_handshakes_refused_total 2
waspmq_messages_published_total{kind="topic",outcome="accepted"} 24690
waspmq_messages_published_total{kind="topic",outcome="rejected"} 6
waspmq_messages_published_total{kind="user",outcome="accepted"} 3
waspmq_messages_published_total{kind="user",outcome="refused_by_policy"} 2
waspmq_messages_delivered_total{kind="topic",transport="websocket"} 100000
waspmq_messages_delivered_total{kind="topic",transport="quic"} 20000
waspmq_messages_delivered_total{kind="user",transport="quic"} 3
waspmq_messages_dropped_total{reason="slow_consumer"} 20
waspmq_messages_dropped_total{reason="expired"} 40
waspmq_slow_consumers_total{action="drop_oldest"} 20
waspmq_redeliveries_total 8
waspmq_dead_letters_total{reason="timeout"} 2
waspmq_deliveries_given_up_total{reason="expired"} 0
waspmq_ack_latency_seconds_count 30
waspmq_acks_ignored_total 1
waspmq_ack_latency_seconds_bucket{le="0.001"} 30
waspmq_ack_latency_seconds_bucket{le="+Inf"} 30
waspmq_delivery_latency_seconds_bucket{le="0.0001",kind="topic"} 50
waspmq_delivery_latency_seconds_bucket{le="0.001",kind="topic"} 90
waspmq_delivery_latency_seconds_bucket{le="5.0",kind="topic"} 95
waspmq_delivery_latency_seconds_bucket{le="+Inf",kind="topic"} 100
waspmq_delivery_latency_seconds_bucket{le="0.0001",kind="user"} 0
waspmq_delivery_latency_seconds_bucket{le="+Inf",kind="user"} 0
waspmq_journal_commit_seconds_bucket{le="0.001"} 10
waspmq_journal_commit_seconds_bucket{le="+Inf"} 10
waspmq_policy_calls_total{policy="mirror",hook="routing",outcome="ok"} 60
waspmq_policy_calls_total{policy="mirror",hook="routing",outcome="cached"} 30
waspmq_policy_calls_total{policy="mirror",hook="routing",outcome="trap"} 6
waspmq_policy_calls_total{policy="mirror",hook="routing",outcome="breaker_open"} 4
waspmq_policy_call_seconds_bucket{le="0.000001",policy="mirror",hook="routing"} 40
waspmq_policy_call_seconds_bucket{le="0.000002",policy="mirror",hook="routing"} 60
waspmq_policy_call_seconds_bucket{le="+Inf",policy="mirror",hook="routing"} 60
waspmq_policy_shadow_total{policy="mirror",outcome="same"} 50
waspmq_policy_shadow_total{policy="mirror",outcome="different"} 5
waspmq_policy_shadow_total{policy="mirror",outcome="failed"} 1
"#;

const GAUGES: &str = r#"
waspmq_build_info{version="0.1.0"} 1
process_resident_memory_bytes 125829120
process_threads 12
process_open_fds 40
process_max_fds 1048576
waspmq_connections{transport="websocket"} 100
waspmq_connections{transport="quic"} 20
waspmq_connections{transport="sse"} 0
waspmq_sessions 118
waspmq_outbound_queue_bytes 2097152
waspmq_journal_queue_bytes 10
waspmq_deliveries_in_flight 7
waspmq_deliveries_offline 3
waspmq_inbox_messages 12345
waspmq_store_bytes 1073741824
"#;

/// The broker of an epoch, started at 0, after so many rounds.
pub(super) fn sample(epoch: u32, rounds: u64) -> Sample {
    let counted = COUNTERS.lines().filter_map(|line| line.rsplit_once(' '));
    let counted =
        counted.map(|(series, more)| format!("{series} {}\n", more.parse::<u64>().unwrap() * rounds));
    let text: String = counted.chain([GAUGES.to_owned()]).collect();
    Sample {
        at_us: 5_000_000 + rounds * ROUND_S * 1_000_000,
        unix_ms: 1_790_000_000_000 + rounds * ROUND_S * 1_000,
        status: json!({
            "node": "n1", "version": "0.1.0", "phase": "ready", "uptime_ms": rounds * ROUND_S * 1_000, "workers": 2,
            "connections": 120, "sessions": 118, "generation": 17, "epoch": epoch
        }),
        unready: None,
        metrics: Exposition::parse(&text),
        policies: policies(),
    }
}

/// The third round.
pub(super) fn figures() -> Figures {
    Figures::between(&sample(1, 2), &sample(1, 3))
}

pub(super) fn policies() -> Vec<Value> {
    let policies = json!([
        {
            "name": "mirror", "state": "active", "generation": 16, "version": "route-mirror@1", "breaker": "half-open",
            "on_probation": false, "document": {"hook": "routing", "mode": "active"},
            "candidate": {
                "version": "route-mirror@2", "breaker": "closed", "document": {"hook": "routing", "mode": "shadow"}
            }
        },
        {
            "name": "pace", "state": "active", "generation": 17, "version": "rules@1f3a9c02", "breaker": "closed",
            "on_probation": true, "document": {"hook": "admission", "mode": "active"},
            "candidate": {
                "version": "rules@00000000", "breaker": "open",
                "document": {"hook": "admission", "mode": "active", "canary_percent": 10}
            }
        },
        {
            "name": "spare", "state": "trial", "generation": 3, "version": null, "breaker": "closed", "on_probation": false,
            "document": null, "candidate": {"version": "a@1", "breaker": "closed", "document": {"hook": "ack", "mode": "shadow"}}
        },
        {
            "name": "torn", "state": "refused", "generation": 2, "version": "torn@3", "reason": "it is not what it was",
            "document": {"hook": "overflow"}
        },
        {"name": "unknown\u{1b}[2J"}
    ]);
    match policies {
        Value::Array(policies) => policies,
        other => panic!("{other}"),
    }
}
