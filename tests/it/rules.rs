//! Policies of rules through the admin API and the command line: what clients see of them, and what is said of bad ones.

use crate::harness::{Broker, Peer};
use crate::levels::publish;
use crate::policies::upload;
use serde_json::{Value, json};

fn put(broker: &Broker, policy: &str, document: &Value) -> Value {
    let (status, body) = broker.put_json(&format!("/v1/policies/{policy}"), document);
    assert_eq!(status, 200, "{body}");
    body
}

fn rules(hook: &str, table: &Value) -> Value {
    json!({"hook": hook, "match": ["topic/>"], "rules": table})
}

/// A broker with one policy `p` of these rules.
fn ruled(hook: &str, table: &Value) -> Broker {
    let broker = Broker::start();
    put(&broker, "p", &rules(hook, table));
    broker
}

async fn subscribed(broker: &Broker, user: &str, topic: &str) -> Peer {
    let mut peer = broker.connect(user).await;
    peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": topic})).await;
    peer
}

fn waspmq(broker: &Broker, arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_waspmq"))
        .args(arguments)
        .args(["--admin", &broker.admin, "--token", &broker.token()])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn routing_rules_mirror_drop_and_redirect() {
    let table = json!([
        {"when": {"sender": "mallory"}, "then": {"drop": "not you"}},
        {"when": {"address": "topic/old.*"}, "then": {"to": "topic/new"}},
        {"when": {"address": "topic/orders.>", "header": {"tenant": ["acme", "ev*"]}, "key": "eu-*", "priority_min": 5, "size_max": 10},
         "then": {"mirror": "topic/audit", "set_headers": {"audited": "yes"}}},
    ]);
    let broker = ruled("routing", &table);
    let mut auditor = subscribed(&broker, "auditor", "topic/audit").await;
    let mut reader = subscribed(&broker, "reader", "topic/*.eu").await;
    let mut new = subscribed(&broker, "new", "topic/new").await;
    let (mut alice, mut mallory) = (broker.connect("alice").await, broker.connect("mallory").await);
    let order = |number: u64, tenant: &str, priority: u64| {
        json!({
            "type": "publish", "ref": number, "to": "topic/orders.eu", "payload": number, "ack": "accepted",
            "headers": {"tenant": tenant}, "key": "eu-7", "priority": priority
        })
    };
    let receipt = alice.ask(order(1, "everything", 5)).await;
    assert_eq!(receipt["recipients"], json!(2), "{receipt}");
    let (original, copy) = (reader.expect_message(1).await, auditor.expect_message(1).await);
    assert_eq!((&original["to"], &copy["to"]), (&json!("topic/orders.eu"), &json!("topic/audit")));
    assert_eq!((&copy["id"], &copy["headers"]["audited"]), (&original["id"], &json!("yes")));
    for (number, tenant, priority) in [(2, "other", 9), (3, "acme", 4)] {
        alice.ask(order(number, tenant, priority)).await;
        assert_eq!(reader.expect_message(number).await["headers"].get("audited"), None);
    }
    alice.ask(publish(4, "topic/old.eu", 4, "accepted")).await;
    new.expect_message(4).await;
    mallory.send(&publish(1, "topic/orders.eu", 5, "accepted")).await;
    assert_eq!(mallory.expect_error(1520).await["message"], json!("not you"));
    alice.ask(order(6, "acme", 9)).await;
    auditor.expect_message(6).await;
    reader.expect_message(6).await;
    auditor.expect_quiet().await;
    reader.expect_quiet().await;
    let (_, state) = broker.admin("GET", "/v1/policies/p", None);
    assert_eq!(
        (&state["lane"], &state["failures"], &state["revision"]),
        (&json!("native"), &json!(0), &Value::Null)
    );
    let calls = r#"waspmq_policy_calls_total{policy="p",hook="routing",outcome="ok"}"#;
    let count = |broker: &Broker, name: &str| broker.metric(name).unwrap_or(0.0);
    broker.eventually("each is counted", |broker| {
        count(broker, calls) + count(broker, &calls.replace("\"ok\"", "\"cached\"")) > 5.5
    });
}

#[tokio::test]
async fn an_admission_rule_limits_each_sender() {
    let table = json!([
        {"when": {"sender": "root"}, "then": "accept"},
        {"when": {"address": "topic/closed"}, "then": {"refuse": {"reason": "it is closed"}}},
        {"then": {"limit": {"per_hour": 1, "burst": 2, "by": "sender", "retry_ms": 777}}},
    ]);
    let broker = ruled("admission", &table);
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let (mut alice, mut root) = (broker.connect("alice").await, broker.connect("root").await);
    alice
        .send_all(&[
            publish(1, "topic/a", 1, "accepted"),
            publish(2, "topic/b", 2, "accepted"),
            publish(3, "topic/c", 3, "accepted"),
        ])
        .await;
    alice.expect_receipt(1, "accepted").await;
    alice.expect_receipt(2, "accepted").await;
    let error = alice.expect_error(1522).await;
    let told = (&error["ref"], &error["message"], &error["retry_ms"]);
    assert_eq!(told, (&json!(3), &json!("too many messages"), &json!(777)));
    alice.send(&publish(4, "topic/closed", 4, "accepted")).await;
    assert_eq!(alice.expect_error(1522).await["message"], json!("it is closed"));
    for number in 1..=3 {
        root.send(&publish(number, "topic/closed", number + 10, "accepted")).await;
        root.expect_receipt(number, "accepted").await;
    }
    let mut got = Vec::new();
    for _ in 0..5 {
        got.push(reader.receive().await["payload"].as_u64().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [1, 2, 11, 12, 13]);
    reader.expect_quiet().await;
    let (_, state) = broker.admin("GET", "/v1/policies/p", None);
    assert_eq!(state["kept"]["buckets"], json!(1), "{state}");
}

#[tokio::test]
async fn an_ack_rule_raises_the_level_and_gives_up_by_cause() {
    let table = json!([
        {"when": {"address": "topic/paid.>"}, "then": {
            "level": "delivered", "attempts": 2, "timeout_ms": 150, "backoff_ms": 10, "exhausted": "drop"
        }},
        {"when": {"address": "topic/nacked"}, "then": {"level": "delivered", "timeout_ms": 60_000, "on": {"nack": "give_up"}}},
        {"when": {"address": "topic/again"}, "then": {"level": "delivered", "timeout_ms": 60_000, "on": {"nack": {"retry_ms": 20}}}},
    ]);
    let broker = ruled("ack", &table);
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(1, "topic/paid.a", "acknowledged", "accepted")).await;
    let message = reader.expect_message("acknowledged").await;
    reader.ack(&message).await;
    alice.expect_receipt(1, "delivered").await;
    alice.send(&publish(2, "topic/paid.a", "ignored", "accepted")).await;
    reader.expect_message("ignored").await;
    assert_eq!(reader.expect_message("ignored").await["attempt"], json!(2));
    assert_eq!(alice.expect_error(1511).await["ref"], json!(2), "two attempts and no more");
    for (number, topic) in [(3, "topic/nacked"), (4, "topic/again")] {
        alice.send(&publish(number, topic, number, "accepted")).await;
        let message = reader.expect_message(number).await;
        let nack =
            json!({"type": "nack", "ref": 2, "id": message["id"], "reason": "no", "retry_ms": 3_600_000});
        reader.ask_ok(nack).await;
    }
    assert_eq!(alice.expect_error(1511).await["ref"], json!(3), "at the first nack");
    let message = reader.expect_message(4).await;
    assert_eq!(message["attempt"], json!(2), "in the rule's time");
    reader.ack(&message).await;
    alice.expect_receipt(4, "delivered").await;
    alice.send(&publish(5, "topic/free", "elsewhere", "accepted")).await;
    alice.expect_receipt(5, "accepted").await;
    reader.expect_message("elsewhere").await;
}

#[tokio::test]
async fn a_plan_goes_with_its_message_to_where_routing_sends_it() {
    let broker = Broker::start_with_config(
        "[[address]]\nmatch = \"topic/there.>\"\nattempts = 1\nack_timeout_ms = 300\nexhausted = \"drop\"\n",
    );
    put(&broker, "route", &rules("routing", &json!([{"then": {"to": "topic/there.a"}}])));
    // What it says of attempts is what the settings of the address say that is published to.
    let plan = json!([{"then": {"level": "delivered", "attempts": 5, "on": {"nack": {"retry_ms": 1}}}}]);
    put(&broker, "plan", &rules("ack", &plan));
    let mut reader = subscribed(&broker, "reader", "topic/there.a").await;
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(1, "topic/here", 1, "accepted")).await;
    for attempt in 1..=5 {
        let message = reader.expect_message(1).await;
        assert_eq!(message.get("attempt").and_then(Value::as_u64).unwrap_or(1), attempt);
        reader.ask_ok(json!({"type": "nack", "ref": 2, "id": message["id"]})).await;
    }
    alice.expect_error(1511).await;
    broker.eventually("it is a dead letter", |broker| {
        broker.admin("GET", "/v1/dead-letters", None).1["dead_letters"][0]["attempts"] == 5
    });
}

#[tokio::test]
async fn an_overflow_rule_conflates_small_messages_by_key() {
    const LARGE: usize = 60_000;
    const MANY: u64 = 400;
    const KEYS: u64 = 4;
    let table = json!([
        {"when": {"recipient": "healthy"}, "then": "close"},
        {"when": {"size_min": 10_000_000}, "then": "close"},
        {"when": {"address": "topic/t"}, "then": "conflate"},
    ]);
    let broker = ruled("overflow", &table);
    let mut stalled = subscribed(&broker, "stalled", "topic/t").await;
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(LARGE);
    for number in 0..MANY {
        let mut frame = publish(number, "topic/t", json!([number, body]), "accepted");
        frame["key"] = json!(format!("k{}", number % KEYS));
        alice.send(&frame).await;
        alice.expect_receipt(number, "accepted").await;
    }
    let frames = stalled.receive_until_marker("stalled", &mut alice).await;
    let messages = frames.iter().filter(|frame| frame["type"] == "message");
    let received: Vec<_> = messages.map(|frame| frame["payload"][0].as_u64().unwrap()).collect();
    assert!(received.ends_with(&[MANY - 4, MANY - 3, MANY - 2, MANY - 1]), "the newest of each key");
    assert!(received.len() < 400, "something was in the way");
    broker.eventually("it is counted", |broker| {
        let by = |action| broker.metric(&format!("waspmq_slow_consumers_total{{action=\"{action}\"}}"));
        by("conflate").is_some_and(|count| count > 0.0) && by("close").unwrap_or(0.0) == 0.0
    });
}

/// The stamp that a message to `topic/a` gets.
async fn stamp(broker: &Broker) -> Value {
    let mut reader = subscribed(broker, "reader", "topic/a").await;
    let mut alice = broker.connect("alice").await;
    alice.ask(publish(1, "topic/a", 1, "accepted")).await;
    reader.expect_message(1).await["headers"]["stamp"].clone()
}

#[tokio::test]
async fn versions_of_rules_and_plugins_outlive_the_broker_and_are_in_the_audit_log() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    let by_plugin =
        json!({"hook": "routing", "match": ["topic/>"], "plugin": "stamp", "config": {"stamp": "plugin"}});
    put(&broker, "p", &by_plugin);
    let table = json!([{"when": {"address": "topic/a"}, "then": {"set_headers": {"stamp": "rules"}}}]);
    let state = put(&broker, "p", &rules("routing", &table));
    let version = state["version"].as_str().unwrap().to_owned();
    assert_eq!(version, format!("rules@{}", &state["digest"].as_str().unwrap()[..8]));
    assert_eq!((&state["document"]["rules"], &state["previous"]["version"]), (&table, &json!("stamp@1")));
    assert_eq!(stamp(&broker).await, "rules");
    broker.restart();
    assert_eq!(stamp(&broker).await, "rules");
    let (_, again) = broker.admin("GET", "/v1/policies/p", None);
    for key in ["version", "digest", "document", "previous", "generation"] {
        assert_eq!(again[key], state[key], "{key}");
    }
    let (status, back) = broker.admin("POST", "/v1/policies/p/rollback", None);
    assert_eq!(
        (status, &back["version"], &back["previous"]["version"]),
        (200, &json!("stamp@1"), &json!(version))
    );
    assert_eq!(stamp(&broker).await, "plugin");
    let mut shadow = rules("routing", &table);
    shadow["mode"] = "shadow".into();
    put(&broker, "p", &shadow);
    assert_eq!(stamp(&broker).await, "plugin");
    let (_, tried) = broker.admin("GET", "/v1/policies/p", None);
    assert_eq!(
        (&tried["candidate"]["version"], &tried["candidate"]["differences"]["different"]),
        (&json!(version), &json!(1))
    );
    broker.restart();
    assert_eq!(broker.admin("POST", "/v1/policies/p/promote", None).0, 200);
    assert_eq!(stamp(&broker).await, "rules");
    let (_, page) = broker.admin("GET", "/v1/audit", None);
    let all = page["changes"].as_array().unwrap().iter().filter(|change| change["name"] == "p");
    let steps: Vec<_> =
        all.map(|change| (change["from"].as_str().unwrap(), change["to"].as_str().unwrap())).collect();
    let (shadow, version) = (format!("{version} (shadow)"), version.as_str());
    let expected = [
        ("", "stamp@1"),
        ("stamp@1", version),
        (version, "stamp@1"),
        ("stamp@1", &shadow),
        ("stamp@1", version),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn bad_documents_are_refused_by_place_and_change_nothing() {
    let broker = ruled("routing", &json!([{"then": "continue"}]));
    let many = Value::Array(vec![json!({"then": "continue"}); 257]);
    for (document, key) in [
        (json!({"hook": "routing", "match": ["all"]}), "plugin"),
        (
            json!({"hook": "routing", "match": ["all"], "plugin": "p", "rules": [{"then": "continue"}]}),
            "rules",
        ),
        (
            json!({"hook": "routing", "match": ["all"], "rules": [{"then": "continue"}], "config": {"a": 1}}),
            "config",
        ),
        (rules("routing", &json!([])), "rules"),
        (rules("routing", &many), "rules"),
        (rules("routing", &json!([{"then": "continue"}, {"then": {"to": "topic/*"}}])), "rules[1].then.to"),
        (rules("routing", &json!([{"when": {"addres": "all"}, "then": "continue"}])), "rules[0].when.addres"),
        (rules("routing", &json!([{"then": "accept"}])), "rules[0].then"),
        (
            rules("admission", &json!([{"then": {"limit": {"per_second": 0, "by": "sender"}}}])),
            "rules[0].then.limit.per_second",
        ),
        (
            rules("ack", &json!([{"when": {"key": "a"}, "then": {"on": {"nack": "give_up"}}}])),
            "rules[0].then.on",
        ),
        (rules("overflow", &json!([{"when": {"sender": "a"}, "then": "close"}])), "rules[0].when.sender"),
    ] {
        let (status, problem) = broker.put_json("/v1/policies/p", &document);
        assert_eq!((status, &problem["key"]), (422, &json!(key)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(&format!("{key}: ")), "{problem}");
    }
    assert_eq!(broker.admin("GET", "/v1/status", None).1["generation"], json!(1));
}

#[test]
fn rules_are_checked_set_and_shown_on_the_command_line() {
    let broker = Broker::start();
    let file = broker.data.path().join("rules.toml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        "[[rules]]\nwhen.sender = 'a'\nthen = 'deliver'\n\n[[rules]]\nthen.to = 'nowhere'\n",
    )
    .unwrap();
    let (code, said) = waspmq(&broker, &["policy", "rules", "check", path, "--hook", "routing"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with(&format!("error: {path}:6: rules[1].then.to: \"nowhere\" is not an address")),
        "{said}"
    );
    let set = ["policy", "set", "p", "--match", "topic/>", "--rules", path];
    let (code, said) = waspmq(&broker, &set);
    assert!(code == Some(1) && said.contains("rules.toml:6:"), "{said}");
    std::fs::write(&file, "[[rules]]\nwhen.sender = 'a'\nthen = 'deliver'\n").unwrap();
    let (code, said) = waspmq(&broker, &["policy", "rules", "check", path, "--hook", "routing"]);
    assert_eq!(code, Some(0), "{said}");
    let version = said.split(':').next().unwrap().to_owned();
    assert_eq!(said, format!("{version}: rules 1, hook routing\n"));
    assert_eq!(waspmq(&broker, &set).0, Some(0));
    std::fs::write(&file, "[[rules]]\nthen = 'deliver'\n").unwrap();
    let (code, said) = waspmq(&broker, &["policy", "canary", "p", "5", "--rules", path]);
    assert_eq!(code, Some(0), "{said}");
    let (_, shown) = waspmq(&broker, &["policy", "show", "p"]);
    for line in [
        &format!("version          {version}"),
        "rules[0]         {\"then\":\"deliver\",\"when\":{\"sender\":\"a\"}}",
        "its rules[0]     {\"then\":\"deliver\"}",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
    }
    let (_, listed) = waspmq(&broker, &["policy", "list"]);
    assert!(listed.contains(&version) && listed.lines().count() == 2, "{listed}");
}
