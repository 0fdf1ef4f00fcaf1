//! Explanations: what an operator is told about a message of which only the id in its receipt is known.

use crate::harness::{Broker, Peer};
use crate::levels::publish;
use crate::policies::{set, set_hook, upload};
use serde_json::{Value, json};

fn explain(broker: &Broker, id: &str) -> Value {
    let (status, explanation) = broker.admin("GET", &format!("/v1/explain/{id}"), None);
    assert_eq!(status, 200, "{explanation}");
    explanation
}

/// What the command line prints about a message.
fn cli(broker: &Broker, arguments: &[&str]) -> std::process::Output {
    let (admin, token) = (broker.admin.to_string(), broker.token());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.args(["policy", "explain"]).args(arguments).args(["--admin", &admin, "--token", &token]);
    command.output().unwrap()
}

async fn receipt_of(peer: &mut Peer, reference: u64, to: &str) -> String {
    let receipt = peer.ask(publish(reference, to, reference, "accepted")).await;
    receipt["id"].as_str().unwrap_or_else(|| panic!("{receipt}")).to_owned()
}

fn decided(explanation: &Value) -> Vec<(String, String)> {
    let decisions = explanation["decisions"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    decisions.iter().map(|of| (text(&of["policy"]), text(&of["plugin"]))).collect()
}

#[tokio::test]
async fn a_message_is_explained_by_http_and_on_the_command_line() {
    let broker = Broker::start();
    upload(&broker, "mirror", "route-mirror");
    set(&broker, "audit", "mirror@1", "topic/orders.>", &json!({"to": "topic/audit"}));
    let mut alice = broker.connect("alice").await;
    let id = receipt_of(&mut alice, 1, "topic/orders.eu").await;
    let explanation = explain(&broker, &id);
    assert_eq!((&explanation["id"], &explanation["address"]), (&json!(id), &json!("topic/orders.eu")));
    let decision = &explanation["decisions"][0];
    let generation = broker.admin("GET", "/v1/status", None).1["generation"].clone();
    let told = ["hook", "policy", "plugin", "version", "shadow", "generation", "cached", "failed"];
    let expected = json!(["routing", "audit", "mirror@1", "active", false, generation, false, null]);
    assert_eq!(json!(told.map(|field| &decision[field])), expected, "{explanation}");
    let verdict = json!({"route": {"fan_out": ["topic/orders.eu", "topic/audit"]}, "set_headers": {}});
    assert_eq!(decision["decision"], verdict);
    assert!(decision["ns"].as_u64().is_some_and(|ns| ns > 0), "{explanation}");
    assert_eq!(explanation["outcome"], json!({"routing": {"by": "audit", "decision": verdict}}));
    assert_eq!(explanation["left_out"], json!(0));

    let output = cli(&broker, &[&id]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let row = text.lines().find(|line| line.starts_with("routing ")).unwrap();
    let words: Vec<&str> = row.split_whitespace().take(4).collect();
    assert_eq!(words, ["routing", "audit", "mirror@1", "active"], "{text}");
    assert!(text.lines().any(|line| line.starts_with("routing: ") && line.ends_with(", by audit")), "{text}");
    let output = cli(&broker, &[&id, "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), explanation);
    let output = cli(&broker, &[&"0".repeat(32)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this run of the broker"));
}

#[tokio::test]
async fn a_swap_is_seen_in_the_next_message_and_not_in_the_one_before() {
    let broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    upload(&broker, "stamp", "stamp-b");
    set(&broker, "stamps", "stamp@1", "topic/>", &json!({"stamp": "x"}));
    let mut alice = broker.connect("alice").await;
    let before = receipt_of(&mut alice, 1, "topic/a").await;
    set(&broker, "stamps", "stamp@2", "topic/>", &json!({"stamp": "x"}));
    let after = receipt_of(&mut alice, 2, "topic/a").await;
    let [before, after] = [before, after].map(|id| explain(&broker, &id));
    assert_eq!(decided(&before), [("stamps".to_owned(), "stamp@1".to_owned())]);
    assert_eq!(decided(&after), [("stamps".to_owned(), "stamp@2".to_owned())]);
    let generation = |of: &Value| of["decisions"][0]["generation"].as_u64().unwrap();
    assert_eq!(generation(&before) + 1, generation(&after));
    let unchanged = json!({"by": null, "decision": {
        "route": "no policy decided: as addressed", "set_headers": {"stamp": "x", "stamp-build": "2"},
    }});
    assert_eq!(after["outcome"]["routing"], unchanged, "it sets headers and passes on");
}

#[tokio::test]
async fn every_message_of_a_batch_and_of_the_admin_api_is_explained() {
    let broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    set(&broker, "stamps", "stamp@1", "topic/a", &json!({"stamp": "x"}));
    let mut alice = broker.connect("alice").await;
    let frames: Vec<Value> = (0..200).map(|n| publish(n, "topic/a", n, "accepted")).collect();
    alice.send_all(&frames).await;
    for _ in 0..200 {
        let receipt = alice.receive().await;
        let explanation = explain(&broker, receipt["id"].as_str().unwrap());
        assert_eq!((decided(&explanation).len(), &explanation["address"]), (1, &json!("topic/a")));
    }
    let alone =
        alice.ask(json!({"type": "publish", "ref": 1, "to": "topic/a", "payload": 1, "dedup": "k"})).await;
    assert_eq!(decided(&explain(&broker, alone["id"].as_str().unwrap())).len(), 1);
    let body = json!({"to": "topic/a", "payload": "operator"}).to_string().into_bytes();
    let (status, published) = broker.admin("POST", "/v1/publish", Some(("application/json", body)));
    assert!(status < 300, "{published}");
    let explanation = explain(&broker, published["id"].as_str().unwrap());
    assert_eq!(decided(&explanation), [("stamps".to_owned(), "stamp@1".to_owned())]);
}

#[tokio::test]
async fn a_failed_attempt_is_part_of_the_explanation() {
    let broker = Broker::start();
    upload(&broker, "decide", "guest-decide");
    let plan = json!({"level": "delivered", "attempts": 5, "timeout_ms": 60_000, "on_nack": "give-up"});
    set_hook(&broker, "ack", ("acks", "decide@1"), "topic/t", &json!({"ack": plan}));
    let (mut reader, mut alice) = (broker.connect("reader").await, broker.connect("alice").await);
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    alice.send(&publish(1, "topic/t", "refused", "accepted")).await;
    let message = reader.expect_message("refused").await;
    reader.ask_ok(json!({"type": "nack", "ref": 2, "id": message["id"], "reason": "no"})).await;
    alice.expect_error(1511).await;
    let explanation = explain(&broker, message["id"].as_str().unwrap());
    let questions: Vec<_> =
        explanation["decisions"].as_array().unwrap().iter().map(|of| &of["question"]).collect();
    assert_eq!(questions, [&json!("plan"), &json!("failed")], "{explanation}");
    let failed = &explanation["decisions"][1];
    assert_eq!((&failed["cause"], &failed["attempt"]), (&json!("nack"), &json!(1)));
    assert_eq!(explanation["outcome"]["failed"], json!({"by": "acks", "decision": "give-up"}));
}

#[tokio::test]
async fn what_is_not_remembered_is_not_found_and_says_why() {
    let broker = Broker::start();
    let refusal = |id: &str| {
        let (status, problem) = broker.admin("GET", &format!("/v1/explain/{id}"), None);
        (status, problem["detail"].as_str().unwrap().to_owned())
    };
    let mut alice = broker.connect("alice").await;
    let unbound = receipt_of(&mut alice, 1, "topic/free").await;
    let (status, detail) = refusal(&unbound);
    assert!(
        status == 404 && detail.contains("remembers none") && detail.contains("no policy is bound"),
        "{detail}"
    );
    upload(&broker, "stamp", "stamp-a");
    set(&broker, "stamps", "stamp@1", "topic/a", &json!({"stamp": "x"}));
    let bound = receipt_of(&mut alice, 2, "topic/a").await;
    explain(&broker, &bound);
    let (status, detail) = refusal(&unbound);
    assert!(status == 404 && detail.contains("remembers the last 1 it decided, since 20"), "{detail}");
    assert_eq!(refusal("xyz").0, 400);
    assert_eq!(broker.admin("GET", &format!("/v1/explain/{bound}?x=1"), None).0, 400);
    let (status, detail) = refusal(&"f".repeat(32));
    assert!(status == 404 && detail.contains("this run of the broker"), "{detail}");
    let (status, _) = broker.http("GET", &format!("/v1/explain/{bound}"), &[], None);
    assert_eq!(status, 401);
}
