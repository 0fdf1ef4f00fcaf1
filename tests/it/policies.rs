//! Plugins and policies through the admin API: upload, refusal, swap under load, rollback, and guests that misbehave.

#[path = "../long/swap.rs"]
mod swap;

use crate::harness::Broker;
use serde_json::json;
use std::path::{Path, PathBuf};

over_every_transport!(
    mirror_copies_to_the_audit_topic_until_it_is_off,
    a_mirrored_message_is_delivered_when_each_address_has_acknowledged,
    what_is_stored_at_several_addresses_is_acknowledged_at_each,
    consistent_hash_keeps_keys_on_their_member,
    swaps_under_load_lose_nothing,
);

pub(crate) fn component(name: &str) -> Vec<u8> {
    let path = plugins().join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", path.display()))
}

/// Where `cargo xtask plugins` leaves components: beside the build of this test.
pub(crate) fn plugins() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_waspmq"));
    binary.ancestors().nth(2).unwrap().join("plugins")
}

pub(crate) fn upload(broker: &Broker, plugin: &str, file: &str) {
    let path = format!("/v1/plugins/{plugin}/revisions");
    let (status, body) = broker.admin("POST", &path, Some(("application/wasm", component(file))));
    assert_eq!(status, 201, "{body}");
}

pub(crate) fn set(broker: &Broker, policy: &str, plugin: &str, pattern: &str, config: &serde_json::Value) {
    set_hook(broker, "routing", (policy, plugin), pattern, config);
}

pub(crate) fn set_hook(
    broker: &Broker,
    hook: &str,
    (policy, plugin): (&str, &str),
    pattern: &str,
    config: &serde_json::Value,
) {
    let document = json!({"hook": hook, "plugin": plugin, "match": [pattern], "config": config});
    let (status, body) = broker.put_json(&format!("/v1/policies/{policy}"), &document);
    assert!(status < 300, "{status} {body}");
}

async fn mirror_copies_to_the_audit_topic_until_it_is_off(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    upload(&broker, "mirror", "route-mirror");
    set(&broker, "audit", "mirror@1", "topic/orders.>", &json!({"to": "topic/audit"}));
    let (mut alice, mut auditor) = (broker.connect("alice").await, broker.connect("auditor").await);
    auditor.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/audit"})).await;
    let receipt =
        alice.ask(json!({"type": "publish", "ref": 2, "to": "topic/orders.eu", "payload": 1})).await;
    let copy = auditor.receive().await;
    assert_eq!((&copy["to"], &copy["payload"]), (&json!("topic/audit"), &json!(1)));
    assert_eq!(copy["id"], receipt["id"], "one publish, one id");
    let document = json!({
        "hook": "routing", "plugin": "mirror@1", "match": ["topic/orders.>"], "config": {"to": "topic/audit"}, "mode": "off"
    });
    assert!(broker.put_json("/v1/policies/audit", &document).0 < 300);
    alice.ask(json!({"type": "publish", "ref": 3, "to": "topic/orders.eu", "payload": 2})).await;
    auditor.expect_quiet().await;
    let (status, _) = broker.admin("POST", "/v1/policies/audit/rollback", None);
    assert!(status < 300);
    alice.ask(json!({"type": "publish", "ref": 4, "to": "topic/orders.eu", "payload": 3})).await;
    assert_eq!(auditor.receive().await["payload"], json!(3));
}

async fn a_mirrored_message_is_delivered_when_each_address_has_acknowledged(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    upload(&broker, "mirror", "route-mirror");
    set(&broker, "audit", "mirror@1", "topic/orders.>", &json!({"to": "topic/audit"}));
    let mut alice = broker.connect("alice").await;
    let (mut trader, mut auditor) = (broker.connect("trader").await, broker.connect("auditor").await);
    trader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.eu"})).await;
    for (reference, to) in [(1, "topic/orders.*"), (2, "topic/audit")] {
        auditor.ask(json!({"type": "subscribe", "ref": reference, "to": to})).await;
    }
    alice
        .send(
            &json!({"type": "publish", "ref": 2, "to": "topic/orders.eu", "payload": 1, "ack": "delivered"}),
        )
        .await;
    let copies = [auditor.receive().await, auditor.receive().await];
    assert_eq!(copies[0]["id"], copies[1]["id"]);
    auditor.ack(&copies[0]).await;
    alice.expect_quiet().await;
    let message = trader.receive().await;
    trader.ack(&message).await;
    assert_eq!(alice.expect_receipt(2, "delivered").await["id"], message["id"]);
}

async fn what_is_stored_at_several_addresses_is_acknowledged_at_each(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    upload(&broker, "mirror", "route-mirror");
    set(&broker, "copy", "mirror@1", "user/auditor", &json!({"to": "all"}));
    let (mut alice, mut auditor) = (broker.connect("alice").await, broker.connect("auditor").await);
    for payload in 1..=2 {
        let publish =
            json!({"type": "publish", "ref": 2, "to": "user/auditor", "payload": payload, "ack": "stored"});
        alice.send(&publish).await;
    }
    let mut copies = Vec::new();
    for _ in 0..4 {
        copies.push(auditor.receive().await);
    }
    copies.sort_by_key(|copy| copy["payload"].as_u64());
    assert_eq!(copies[0]["id"], copies[1]["id"]);
    assert_ne!(copies[0]["to"], copies[1]["to"]);
    auditor.ack(&copies[0]).await;
    auditor.send(&json!({"type": "disconnect"})).await;
    auditor.expect_close().await;
    // The next session is sent the second one, at each of its addresses, and nothing else.
    let mut auditor = broker.connect("auditor").await;
    for _ in 0..2 {
        assert_eq!(auditor.receive().await["payload"], json!(2));
    }
    auditor.expect_quiet().await;
}

async fn consistent_hash_keeps_keys_on_their_member(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    upload(&broker, "hash", "route-consistent-hash");
    let mut members = Vec::new();
    for i in 0..3 {
        let mut member = broker.connect(&format!("w{i}")).await;
        member.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs", "queue": "pool"})).await;
        members.push(member);
    }
    // Members that come later are told a moment later, and until then the broker chooses.
    set(&broker, "sticky", "hash", "topic/jobs", &json!({"queue": "pool"}));
    let mut alice = broker.connect("alice").await;
    for round in 0..3 {
        for key in 0..30 {
            let frame = json!({"type": "publish", "ref": 1, "to": "topic/jobs", "payload": round, "key": format!("k{key}")});
            assert_eq!(alice.ask(frame).await["recipients"], json!(1));
        }
    }
    let mut owners = std::collections::BTreeMap::new();
    for (index, member) in members.iter_mut().enumerate() {
        for frame in member.receive_until_marker(&format!("w{index}"), &mut alice).await {
            let key = frame["key"].as_str().unwrap().to_owned();
            owners.entry(key).or_insert_with(Vec::new).push(index);
        }
    }
    let sticks = |members: &Vec<usize>| members.iter().all(|member| *member == members[0]);
    assert!(owners.values().all(sticks), "a key belongs to one member: {owners:?}");
    assert_eq!(owners.values().map(Vec::len).sum::<usize>(), 90);
    let (_, policy) = broker.admin("GET", "/v1/policies/sticky", None);
    assert!(policy["calls"].as_u64().unwrap() >= 90, "{policy}");
}

#[test]
fn what_cannot_serve_is_refused_with_a_reason_and_changes_nothing() {
    let broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    set(&broker, "stamps", "stamp@1", "topic/>", &json!({"stamp": "1"}));
    let before = broker.admin("GET", "/v1/status", None).1["generation"].clone();
    let refused = |bytes: &[u8]| {
        let (status, problem) =
            broker.admin("POST", "/v1/plugins/bad/revisions", Some(("application/wasm", bytes.to_vec())));
        assert_eq!(status, 422, "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    assert!(refused(b"not wasm at all").to_lowercase().contains("webassembly"));
    assert!(refused(b"\0asm\x01\0\0\0").contains("component"));
    assert!(!refused(&component("stamp-a")[..1000]).is_empty());
    assert_eq!(broker.admin("GET", "/v1/plugins/bad", None).0, 404);
    let document = |plugin: &str, config: serde_json::Value| json!({"hook": "routing", "plugin": plugin, "match": ["topic/>"], "config": config});
    for document in [
        document("stamp@9", json!({"stamp": "1"})),
        document("nobody", json!({})),
        document("stamp@1", json!({"wrong": true})),
        json!({"hook": "routing", "plugin": "stamp@1", "match": ["nonsense"]}),
        json!({"hook": "routing", "plugin": "stamp@1", "match": ["topic/>"], "mode": "shadow", "canary_percent": 5}),
    ] {
        let (status, problem) = broker.put_json("/v1/policies/stamps", &document);
        assert_eq!(status, 422, "{problem}");
    }
    let unknown = json!({"hook": "routing", "plugin": "stamp@1", "match": ["topic/>"], "surprise": 1});
    let (status, problem) = broker.put_json("/v1/policies/stamps", &unknown);
    assert!((400..500).contains(&status) && problem.to_string().contains("surprise"), "{problem}");
    assert_eq!(broker.admin("GET", "/v1/status", None).1["generation"], before);
    assert!(broker.admin("DELETE", "/v1/plugins/stamp", None).0 == 409, "it is in use");
}

#[tokio::test]
async fn misbehaving_guests_are_cut_and_counted_and_others_served() {
    let broker = Broker::start();
    upload(&broker, "misbehave", "guest-misbehave");
    upload(&broker, "stamp", "stamp-a");
    set(&broker, "healthy", "stamp@1", "topic/healthy", &json!({"stamp": "1"}));
    let mut alice = broker.connect("alice").await;
    let mut reader = broker.connect("reader").await;
    reader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    for (how, outcome) in [
        ("loop", "deadline"),
        ("trap", "trap"),
        ("grow", "memory"),
        ("huge", "bad_verdict"),
        ("nowhere", "bad_verdict"),
    ] {
        let topic = format!("topic/{how}");
        // Writing megabytes takes longer than the default deadline on a busy machine.
        let deadline_ms = if how == "loop" { 2 } else { 1_000 };
        let document = json!({
            "hook": "routing", "plugin": "misbehave@1", "match": [topic], "config": {"how": how},
            "limits": {"deadline_ms": deadline_ms}
        });
        let (status, body) = broker.put_json(&format!("/v1/policies/{how}"), &document);
        assert!(status < 300, "{status} {body}");
        for payload in 0..5 {
            let receipt =
                alice.ask(json!({"type": "publish", "ref": 1, "to": topic, "payload": payload})).await;
            assert_eq!(receipt["type"], "receipt", "on_failure is open: {receipt}");
            assert_eq!(reader.receive().await["payload"], json!(payload));
            alice.ask(json!({"type": "publish", "ref": 1, "to": "topic/healthy", "payload": payload})).await;
            assert_eq!(reader.receive().await["headers"]["stamp"], json!("1"));
        }
        let metric =
            format!(r#"waspmq_policy_calls_total{{policy="{how}",hook="routing",outcome="{outcome}"}}"#);
        assert!(broker.metric(&metric).is_some_and(|count| count >= 1.0), "{metric}");
    }
    let healthy = r#"waspmq_policy_calls_total{policy="healthy",hook="routing",outcome="deadline"}"#;
    assert_eq!(broker.metric(healthy).unwrap_or(0.0), 0.0, "no healthy call is cut");
    let closed = json!({
        "hook": "routing", "plugin": "misbehave@1", "match": ["topic/trap"], "config": {"how": "trap"}, "on_failure": "closed"
    });
    assert!(broker.put_json("/v1/policies/trap", &closed).0 < 300);
    alice.send(&json!({"type": "publish", "ref": 9, "to": "topic/trap", "payload": 1})).await;
    alice.expect_error(1521).await;
    reader.expect_quiet().await;
}

/// The short form of the swap test: every message once and in order while revisions alternate.
async fn swaps_under_load_lose_nothing(spoken: &'static str) {
    swap_under_load(false, spoken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_between_a_plugin_and_rules_under_load_lose_nothing() {
    swap_under_load(true, "waspmq.v1.bin").await;
}

async fn swap_under_load(with_rules: bool, spoken: &'static str) {
    let broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    upload(&broker, "stamp", "stamp-b");
    let pause = std::time::Duration::from_millis(100);
    let plan = swap::Load { pairs: 10, window: 64, swaps: 10, pause, with_rules, spoken };
    let report = swap::run(&broker, plan).await;
    assert_eq!((report.lost, report.swaps_seen), (0, 10), "{report:?}");
    assert!(report.delivered > 1_000 && report.per_second > 500.0, "{report:?}");
    assert!(report.gap_p999_us < 5_000_000, "{report:?}");
}
