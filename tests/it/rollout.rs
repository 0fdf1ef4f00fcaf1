//! New versions of policies through the admin API: shadow, canary, promotion, fallbacks, the breaker, and versions that are
//! taken back without being asked. The plugin `trial` marks messages with the header of its configuration.

use crate::harness::{Broker, Peer};
use crate::policies::upload;
use serde_json::{Value, json};

fn with_trial() -> Broker {
    let broker = Broker::start();
    upload(&broker, "trial", "guest-trial");
    broker
}

/// A document for plugin `trial` on `topic/t`, with these keys replaced.
fn document(config: Value, more: &Value) -> Value {
    let mut document = json!({
        "hook": "routing", "plugin": "trial", "match": ["topic/t"], "config": config,
        "limits": {"deadline_ms": 100, "cpu_share": 1.0}, "budget": {"window_s": 2}
    });
    more.as_object().unwrap().iter().for_each(|(key, value)| document[key] = value.clone());
    document
}

fn put(broker: &Broker, config: Value, more: &Value) -> Value {
    let (status, body) = broker.put_json("/v1/policies/p", &document(config, more));
    assert_eq!(status, 200, "{body}");
    body
}

fn show(broker: &Broker) -> Value {
    broker.admin("GET", "/v1/policies/p", None).1
}

fn step(broker: &Broker, step: &str) -> (u16, Value) {
    broker.admin("POST", &format!("/v1/policies/p/{step}"), None)
}

fn calls(broker: &Broker, outcome: &str) -> f64 {
    let name = format!(r#"waspmq_policy_calls_total{{policy="p",hook="routing",outcome="{outcome}"}}"#);
    broker.metric(&name).unwrap_or(0.0)
}

fn breaker(broker: &Broker) -> Option<f64> {
    broker.metric(r#"waspmq_policy_breaker_state{policy="p"}"#)
}

async fn reader(broker: &Broker) -> Peer {
    let mut reader = broker.connect("reader").await;
    reader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    reader
}

fn to(address: &str) -> Value {
    json!({"type": "publish", "ref": 1, "to": address, "payload": 1})
}

/// Publishes one message to `topic/t` and answers the mark it arrives with.
async fn mark(sender: &mut Peer, reader: &mut Peer) -> String {
    let receipt = sender.ask(to("topic/t")).await;
    assert_eq!(receipt["type"], "receipt", "{receipt}");
    reader.receive().await["headers"]["mark"].as_str().unwrap_or("-").to_owned()
}

#[tokio::test]
async fn a_shadow_is_compared_then_promoted_then_rolled_back() {
    let broker = with_trial();
    put(&broker, json!({"mark": "1"}), &json!({}));
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    assert_eq!(step(&broker, "promote").0, 409, "there is no candidate");
    let state = put(&broker, json!({"mark": "2"}), &json!({"mode": "shadow"}));
    assert_eq!((&state["document"]["config"]["mark"], &state["generation"]), (&json!("1"), &json!(2)));
    let mut id = Value::Null;
    for _ in 0..20 {
        id = alice.ask(to("topic/t")).await["id"].clone();
        assert_eq!(reader.receive().await["headers"]["mark"], "1");
    }
    let differences = show(&broker)["candidate"]["differences"].clone();
    assert_eq!((&differences["same"], &differences["different"]), (&json!(0), &json!(20)));
    let sample = json!({
        "id": id, "sender": "alice", "address": "topic/t",
        "active": {"route": "continue", "set_headers": {"mark": "1"}},
        "shadow": {"route": "continue", "set_headers": {"mark": "2"}}
    });
    assert_eq!(differences["samples"][19], sample);
    assert_eq!(broker.metric(r#"waspmq_policy_shadow_total{policy="p",outcome="different"}"#), Some(20.0));
    assert!((calls(&broker, "ok") - 20.0).abs() < 0.5, "calls of the shadow are not the policy's");
    let (status, state) = step(&broker, "promote");
    assert_eq!(
        (status, &state["document"]["mode"], &state["candidate"]),
        (200, &json!("active"), &Value::Null)
    );
    assert_eq!(state["previous"]["document"]["config"]["mark"], "1");
    assert_eq!(mark(&mut alice, &mut reader).await, "2");
    let (status, state) = step(&broker, "rollback");
    assert_eq!((status, &state["last_rollback"]["reason"]), (200, &json!("operator")));
    assert_eq!(mark(&mut alice, &mut reader).await, "1");
    for line in [
        ["policy put", "to=\"trial@1 (shadow)\"", "generation=2"],
        ["policy promote", "to=\"trial@1\"", "generation=3"],
        ["policy rollback", "to=\"trial@1\"", "generation=4"],
    ] {
        broker.audited(&line);
    }
    let rollbacks = r#"waspmq_policy_rollbacks_total{policy="p",reason="operator"}"#;
    assert_eq!(broker.metric(rollbacks), Some(1.0));
}

#[tokio::test]
async fn a_canary_is_stable_by_sender() {
    let broker = with_trial();
    let mut reader = reader(&broker).await;
    let mut senders = Vec::new();
    for n in 0..30 {
        senders.push(broker.connect(&format!("user-{n}")).await);
    }
    put(&broker, json!({"mark": "1"}), &json!({}));
    let mut before: Option<Vec<String>> = None;
    for percent in [40, 40, 80] {
        put(&broker, json!({"mark": "2"}), &json!({"canary_percent": percent}));
        let mut marks = Vec::new();
        for sender in &mut senders {
            let all = [mark(sender, &mut reader).await, mark(sender, &mut reader).await];
            assert_eq!(all[0], all[1], "one sender meets one version");
            marks.push(all[0].clone());
        }
        let chosen = marks.iter().filter(|mark| *mark == "2").count();
        assert!((3..30).contains(&chosen), "{percent} % are {chosen} of 30");
        for (before, now) in before.iter().flatten().zip(&marks) {
            assert!(before != "2" || now == "2", "whoever was in the share stays in it");
        }
        assert!(
            percent != 40 || before.is_none_or(|before| before == marks),
            "another generation, the same share"
        );
        before = Some(marks);
    }
    let (_, state) = step(&broker, "rollback");
    assert_eq!((&state["candidate"], &state["document"]["config"]["mark"]), (&Value::Null, &json!("1")));
    for sender in &mut senders {
        assert_eq!(mark(sender, &mut reader).await, "1");
    }
    broker.audited(&["policy rollback", "from=\"trial@1 (canary 80 %)\""]);
}

#[tokio::test]
async fn every_way_to_fail_serves_as_it_says() {
    let broker = with_trial();
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    let (status, problem) = broker
        .put_json("/v1/policies/p", &document(json!({"mark": "1"}), &json!({"on_failure": "previous"})));
    assert_eq!((status, &problem["key"]), (422, &json!("on_failure")), "there is nothing before: {problem}");
    let behind = json!({"hook": "routing", "plugin": "trial", "match": ["topic/t"], "config": {"mark": "behind"}, "order": 200});
    assert_eq!(broker.put_json("/v1/policies/behind", &behind).0, 200);
    let failing = json!({"mark": "2", "fail_one_in": 1});
    // With a budget of all calls a version that fails stays for the time of the test.
    let patient = json!({"failure_percent": 100, "calls_min": 1_000_000});
    for (on_failure, expected) in [("open", "behind"), ("builtin", "-")] {
        put(&broker, failing.clone(), &json!({"on_failure": on_failure, "budget": patient}));
        for _ in 0..8 {
            assert_eq!(mark(&mut alice, &mut reader).await, expected, "{on_failure}");
        }
        assert_eq!(show(&broker)["breaker"], "open", "the last three were not asked");
    }
    assert!(calls(&broker, "breaker_open") >= 6.0 && calls(&broker, "bad_verdict") >= 10.0);
    put(&broker, failing.clone(), &json!({"on_failure": "closed", "budget": patient}));
    for n in 0..8 {
        alice.send(&to("topic/t")).await;
        let error = alice.expect_error(1521).await;
        let why = if n < 5 { "bad_verdict" } else { "breaker_open" };
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    assert_eq!(broker.admin("DELETE", "/v1/policies/behind", None).0, 204);
    put(&broker, json!({"mark": "1"}), &json!({}));
    put(&broker, failing, &json!({"on_failure": "previous", "budget": patient}));
    for _ in 0..8 {
        assert_eq!(mark(&mut alice, &mut reader).await, "1", "the version before");
    }
}

#[tokio::test]
async fn a_required_policy_whose_breaker_is_open_makes_the_broker_unready() {
    let broker = with_trial();
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    // It fails five times in a row and then recovers.
    put(&broker, json!({"mark": "1", "fail_one_in": 1}), &json!({"required": true}));
    assert_eq!(broker.http("GET", "/readyz", &[], None).0, 200);
    assert_eq!(breaker(&broker), Some(0.0));
    for _ in 0..6 {
        mark(&mut alice, &mut reader).await;
    }
    let (status, text) = broker.http("GET", "/readyz", &[], None);
    assert!(status == 503 && text.contains("its breaker is open"), "{status} {text}");
    assert_eq!(breaker(&broker), Some(2.0));
    broker.eventually("a half-open breaker", |broker| breaker(broker) == Some(1.0));
    assert_eq!(broker.http("GET", "/readyz", &[], None).0, 200);
    mark(&mut alice, &mut reader).await;
    assert_eq!(breaker(&broker), Some(2.0), "its trial failed");
    put(&broker, json!({"mark": "1"}), &json!({"required": true}));
    for _ in 0..6 {
        assert_eq!(mark(&mut alice, &mut reader).await, "1");
    }
    assert_eq!((breaker(&broker), broker.http("GET", "/readyz", &[], None).0), (Some(0.0), 200));
    put(&broker, json!({"mark": "1"}), &json!({"required": true, "mode": "off"}));
    let (status, text) = broker.http("GET", "/readyz", &[], None);
    assert!(status == 503 && text.contains("it is off"), "{status} {text}");
}

/// Publishes until the policy was taken back; answers its state then and how many messages it took.
async fn until_taken_back(broker: &Broker, alice: &mut Peer, reader: &mut Peer) -> (Value, usize) {
    for sent in 1..20_000 {
        mark(alice, reader).await;
        let state = show(broker);
        if state["last_rollback"]["reason"].is_string() {
            return (state, sent);
        }
    }
    panic!("nothing was taken back: {}", show(broker));
}

#[tokio::test]
async fn a_revision_that_fails_one_call_in_twenty_is_taken_back() {
    let broker = with_trial();
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    put(&broker, json!({"mark": "1"}), &json!({}));
    mark(&mut alice, &mut reader).await;
    let state = put(&broker, json!({"mark": "2", "fail_one_in": 20}), &json!({"budget": {"window_s": 60}}));
    assert_eq!(state["on_probation"], true);
    let (state, sent) = until_taken_back(&broker, &mut alice, &mut reader).await;
    assert!(sent >= 100, "{sent} are too few to conclude from");
    assert_eq!((&state["document"]["config"]["mark"], &state["generation"]), (&json!("1"), &json!(3)));
    assert_eq!(state["last_rollback"]["reason"], "failures");
    assert_eq!(mark(&mut alice, &mut reader).await, "1");
    broker.audited(&["who=\"broker\"", "automatic rollback", "generation=3", "failures", "calls failed"]);
    assert_eq!(broker.metric(r#"waspmq_policy_rollbacks_total{policy="p",reason="failures"}"#), Some(1.0));
    assert_eq!(broker.metric("waspmq_policy_generation"), Some(3.0));
    // An operator who means to go back from what was seen, or goes back, too, does not return to it.
    for (asked, expected) in [("rollback?generation=2", "other_generation"), ("rollback", "taken_back")] {
        let (status, problem) = step(&broker, asked);
        let expected = json!(format!("urn:waspmq:problem:{expected}"));
        assert_eq!((status, &problem["type"]), (409, &expected), "{problem}");
    }
    assert_eq!(show(&broker)["document"]["config"]["mark"], "1");
}

#[tokio::test]
async fn a_revision_ten_times_slower_is_taken_back() {
    let broker = with_trial();
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    put(&broker, json!({"mark": "1"}), &json!({}));
    // So many that their mean is theirs, also where the machine is busy and takes some of them for a while.
    for _ in 0..50 {
        let many = vec![json!({"type": "publish", "to": "topic/t", "payload": 1}); 100];
        alice.send_all(&many).await;
        for _ in &many {
            reader.receive().await;
        }
    }
    put(&broker, json!({"mark": "2", "turns": 3_000_000}), &json!({"budget": {"window_s": 60}}));
    let (state, _) = until_taken_back(&broker, &mut alice, &mut reader).await;
    assert_eq!(state["document"]["config"]["mark"], "1");
    assert_eq!(state["last_rollback"]["reason"], "latency", "{state}");
    broker.audited(&["automatic rollback", "latency", "of the version before"]);
    assert_eq!(broker.metric(r#"waspmq_policy_rollbacks_total{policy="p",reason="latency"}"#), Some(1.0));
}

#[tokio::test]
async fn policies_compose_by_order_and_what_they_produce_is_not_routed_again() {
    let broker = with_trial();
    upload(&broker, "mirror", "route-mirror");
    let (mut alice, mut reader) = (broker.connect("alice").await, reader(&broker).await);
    let put = |name: &str, plugin: &str, config: Value, order: i32| {
        let document = json!({
            "hook": "routing", "plugin": plugin, "match": ["topic/>"], "config": config, "order": order
        });
        assert_eq!(broker.put_json(&format!("/v1/policies/{name}"), &document).0, 200);
    };
    put("a", "trial", json!({"mark": "a"}), 10);
    put("b", "trial", json!({"mark": "b"}), 20);
    assert_eq!(mark(&mut alice, &mut reader).await, "b", "the later one replaces the header");
    put("a", "trial", json!({"mark": "a"}), 30);
    assert_eq!(mark(&mut alice, &mut reader).await, "a", "the order changed");
    // Its own pattern matches the topic it copies to, and a second one copies back from there.
    put("mirror", "mirror", json!({"to": "topic/audit"}), 40);
    put("back", "mirror", json!({"to": "topic/t"}), 50);
    let receipt = alice.ask(to("topic/t")).await;
    let mut copies = [reader.receive().await, reader.receive().await];
    copies.sort_by_key(|copy| copy["to"].to_string());
    assert_eq!((&copies[0]["to"], &copies[1]["to"]), (&json!("topic/audit"), &json!("topic/t")));
    assert!(copies.iter().all(|copy| copy["id"] == receipt["id"] && copy["headers"]["mark"] == "a"));
    reader.expect_quiet().await;
    alice.ask(to("topic/audit")).await;
    let mut copies = [reader.receive().await["to"].clone(), reader.receive().await["to"].clone()];
    copies.sort_by_key(Value::to_string);
    assert_eq!(
        copies,
        [json!("topic/audit"), json!("topic/t")],
        "passed on by the first, copied by the second"
    );
    reader.expect_quiet().await;
}

#[test]
fn without_room_nothing_changes() {
    let broker = Broker::start_with(&[("WASPMQ_POLICY__MAX_POLICIES", "1")]);
    upload(&broker, "trial", "guest-trial");
    put(&broker, json!({"mark": "1"}), &json!({}));
    put(&broker, json!({"mark": "2"}), &json!({"on_failure": "previous"}));
    put(&broker, json!({"mark": "3"}), &json!({"mode": "shadow"}));
    let before = show(&broker);
    let (status, problem) = broker.put_json("/v1/policies/q", &document(json!({"mark": "4"}), &json!({})));
    assert_eq!((status, &problem["title"]), (507, &problem["title"]), "{problem}");
    assert_eq!(show(&broker), before);
    assert_eq!(
        step(&broker, "promote").1["document"]["config"]["mark"],
        "3",
        "the versions of one policy fit"
    );
}
