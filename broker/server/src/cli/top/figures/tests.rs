//! Figures of two looks at brokers that did all sorts of things in between.

use super::super::fixture::{figures, sample};
use super::*;
use serde_json::json;

#[test]
fn rates_are_of_the_interval() {
    let figures = figures();
    assert_eq!((figures.interval_s, figures.restarted), (2.0, false));
    let json = serde_json::to_value(&figures).unwrap();
    let check = |pointer: &str, expected: Value| {
        assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
    };
    check("/unix_ms", json!(1_790_000_006_000_u64));
    check("/broker/uptime_ms", json!(6_000));
    check("/broker/ready", json!(true));
    check("/process/cpu_percent", json!(50.0));
    check("/process/resident_bytes", json!(125_829_120));
    check("/connections/open", json!({"websocket": 100, "quic": 20, "sse": 0}));
    check("/connections/opened_per_s", json!(5.0));
    check("/connections/closed_per_s", json!({"peer": 2.0, "timeout": 3.0, "kicked": 0.0}));
    check("/messages/published_per_s/topic/accepted", json!(12_345.0));
    check("/messages/published_per_s/user", json!({"accepted": 1.5, "refused_by_policy": 1.0}));
    check("/messages/delivered_per_s/topic", json!({"websocket": 50_000.0, "quic": 10_000.0}));
    check("/messages/acks_per_s", json!(15.0));
    check("/latency/ack", json!({"per_s": 15.0, "p50_s": 0.0005, "p99_s": 0.00099}));
    check("/latency/delivery/p99_s", json!(5.0));
    check("/latency/delivery_by_kind/user", json!({"per_s": 0.0, "p50_s": null, "p99_s": null}));
    check("/queues/offline", json!(3));
    assert_eq!(figures.latency.delivery.p99_s, Some(Quantile { seconds: 5.0, is_above: true }));
}

#[test]
fn a_policy_has_what_it_and_its_candidate_did() {
    let figures = figures();
    let [mirror, pace, spare, torn, unknown] = &figures.policies[..] else { panic!("{figures:?}") };
    assert_eq!((mirror.calls_per_s, mirror.failures_per_s), (50.0, 5.0));
    assert_eq!(mirror.p50_s, Some(Quantile { seconds: 0.75e-6, is_above: false }));
    let shadow = mirror.candidate.as_ref().unwrap();
    assert_eq!(
        (shadow.mode, shadow.differences_per_s, shadow.failures_per_s),
        ("shadow", Some(2.5), Some(0.5))
    );
    let canary = pace.candidate.as_ref().unwrap();
    assert_eq!((canary.mode, canary.canary_percent, canary.differences_per_s), ("canary", Some(10), None));
    assert_eq!((pace.calls_per_s, pace.p50_s, pace.outcomes_per_s.len()), (0.0, None, 0));
    assert_eq!((&*spare.hook, &spare.version), ("ack", &None));
    assert_eq!((&*torn.state, torn.candidate.is_none(), &torn.breaker), ("refused", true, &None));
    assert_eq!((&*unknown.hook, &*unknown.state), ("", ""));
}

#[test]
fn a_broker_that_was_started_again_counts_from_its_start() {
    let check = |before: &Sample, after: &Sample, interval_s: f64, per_s: f64| {
        let figures = Figures::between(before, after);
        assert!(figures.restarted);
        assert_eq!((figures.interval_s, figures.messages.acks_per_s), (interval_s, per_s));
        let all = serde_json::to_string(&figures).unwrap();
        assert!(!all.contains(":-"), "nothing is negative: {all}");
    };
    // Two rounds of the new run are looked at, 20 s behind the last look at the one before.
    let mut after = sample(2, 2);
    after.at_us += 30_000_000;
    check(&sample(1, 7), &after, 4.0, 15.0);
    // The same epoch, as of a broker without any, and less uptime.
    let mut after = sample(1, 1);
    after.at_us += 30_000_000;
    check(&sample(1, 7), &after, 2.0, 15.0);
    // More uptime than there are microseconds, which no broker has.
    let mut after = sample(2, 2);
    after.at_us += 30_000_000;
    after.status["uptime_ms"] = u64::MAX.into();
    check(&sample(1, 7), &after, 20.0, 3.0);
    // It has been there longer than nobody looked.
    check(&sample(1, 2), &sample(2, 3), 2.0, 45.0);
}

#[test]
fn an_interval_is_as_long_as_it_was() {
    let figures = Figures::between(&sample(1, 2), &sample(1, 12));
    assert_eq!((figures.interval_s, figures.messages.acks_per_s), (20.0, 15.0));
    let figures = Figures::between(&sample(1, 2), &sample(1, 2));
    assert_eq!((figures.interval_s, figures.messages.acks_per_s), (1e-6, 0.0));
}

#[test]
fn what_is_not_there_is_nothing() {
    let nothing = Sample {
        at_us: 0,
        unix_ms: 0,
        status: Value::Null,
        unready: Some("it drains".to_owned()),
        metrics: crate::cli::exposition::Exposition::default(),
        policies: Vec::new(),
    };
    let figures = Figures::between(&nothing, &nothing);
    assert_eq!((figures.broker.ready, figures.broker.not_ready.as_deref()), (false, Some("it drains")));
    assert_eq!((figures.process.cpu_percent, figures.process.open_fds), (None, None));
    assert_eq!((figures.connections.open.len(), figures.latency.ack.p50_s), (0, None));
}

/// `docs/ADMIN.md` has every field of the JSON, and no field that is not there.
#[test]
fn the_guide_has_every_field() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ADMIN.md")).unwrap();
    let section = guide.lines().skip_while(|line| *line != "## Watching a broker").skip(1);
    let rows = section.take_while(|line| !line.starts_with("## ")).filter_map(|line| {
        let (name, _) = line.strip_prefix("| `")?.split_once("` |")?;
        Some(name.split("`, `").map(str::to_owned).collect::<Vec<_>>())
    });
    let documented: std::collections::BTreeSet<String> = rows.flatten().collect();
    let mut found = std::collections::BTreeSet::new();
    fields("", &serde_json::to_value(figures()).unwrap(), &mut found);
    assert_eq!(documented, found);
}

/// Names of the fields; what stands for any key or item of a map or list has a `*`.
fn fields(path: &str, value: &Value, found: &mut std::collections::BTreeSet<String>) {
    const MAPS: [&str; 10] = [
        "connections.open",
        "connections.closed_per_s",
        "messages.published_per_s",
        "messages.delivered_per_s",
        "messages.dropped_per_s",
        "messages.slow_consumers_per_s",
        "messages.dead_letters_per_s",
        "messages.given_up_per_s",
        "latency.delivery_by_kind",
        "policies[].outcomes_per_s",
    ];
    match value {
        Value::Object(object) if !MAPS.contains(&path) => {
            for (name, value) in object {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(&inner, value, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            items
                .iter()
                .filter(|item| item.is_object())
                .for_each(|item| fields(&format!("{path}[]"), item, found));
        }
        _ => {
            // Where there is no candidate, it has no fields.
            if path != "policies[].candidate" {
                found.insert(path.to_owned());
            }
        }
    }
}

/// A metric that is renamed would be 0 for ever here.
#[test]
fn metrics_that_are_read_are_those_of_the_broker() {
    let guide =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md")).unwrap();
    let sources =
        [include_str!("../figures.rs"), include_str!("../policy_figures.rs"), include_str!("../sample.rs")];
    let words = sources.into_iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let names: Vec<&str> =
        words.filter(|word| word.starts_with("waspmq_") || word.starts_with("process_")).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        let listed = name.strip_suffix("_bucket").or_else(|| name.strip_suffix("_count")).unwrap_or(name);
        assert!(guide.contains(&format!("| `{listed}` |")), "{name}");
    }
}
