//! What policies ask the broker, what it remembers of their answers, and imports that it does not offer.

use crate::harness::{Broker, PATIENCE, Peer};
use crate::levels::with;
use crate::policies::{set, upload};
use serde_json::{Value, json};

fn deciding(routing: &Value) -> Broker {
    let broker = Broker::start();
    upload(&broker, "decide", "guest-decide");
    set(&broker, "p", "decide@1", "topic/>", &json!({ "routing": routing }));
    broker
}

/// Publishes to an address that `sender` is subscribed to itself; answers the headers the message arrives with.
async fn headers(sender: &mut Peer, to: &str, more: Value) -> Value {
    sender.send(&with(json!({"type": "publish", "to": to, "payload": 1, "ack": "none"}), more)).await;
    let message = sender.receive().await;
    assert_eq!((&message["type"], &message["to"]), (&json!("message"), &json!(to)), "{message}");
    message["headers"].clone()
}

async fn subscribed(broker: &Broker) -> Peer {
    let mut alice = broker.connect("alice").await;
    alice.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    alice
}

/// Lets the policy do what `commands` say.
async fn asked(alice: &mut Peer, commands: &str) -> String {
    let headers = headers(alice, "topic/t", json!({"headers": {"do": commands}})).await;
    headers["done"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_policy_is_told_who_is_online_and_how_large_a_group_is() {
    let broker = deciding(&json!({}));
    let mut alice = subscribed(&broker).await;
    let everything = "online alice; online bob; group ops; group nobody";
    assert_eq!(asked(&mut alice, everything).await, "true; false; 0; 0");
    // On whichever of the two workers a user is.
    let mut bobs = vec![broker.connect("bob").await, broker.connect("bob").await];
    for member in ["alice", "bob", "carol"] {
        assert!(broker.admin("PUT", &format!("/v1/groups/ops/members/{member}"), None).0 < 300);
    }
    assert_eq!(asked(&mut alice, everything).await, "true; true; 3; 0");
    assert!(broker.admin("DELETE", "/v1/groups/ops/members/carol", None).0 < 300);
    drop(bobs.pop());
    assert_eq!(asked(&mut alice, everything).await, "true; true; 2; 0");
    drop(bobs);
    until(&mut alice, everything, "true; false; 2; 0").await;
    assert!(broker.admin("DELETE", "/v1/groups/ops", None).0 < 300);
    assert_eq!(asked(&mut alice, everything).await, "true; false; 0; 0");
}

/// Asks until the answer is this one; a worker notices the end of a connection when it reads it.
async fn until(alice: &mut Peer, commands: &str, expected: &str) {
    let started = std::time::Instant::now();
    while asked(alice, commands).await != expected {
        assert!(started.elapsed() < PATIENCE, "{expected} did not come true");
    }
}

/// Which call of its instance decided a message.
async fn call(alice: &mut Peer, to: &str) -> String {
    headers(alice, to, json!({})).await["call"].as_str().unwrap().to_owned()
}

fn calls(broker: &Broker, outcome: &str) -> f64 {
    let name = format!(r#"waspmq_policy_calls_total{{policy="p",hook="routing",outcome="{outcome}"}}"#);
    broker.metric(&name).unwrap_or(0.0)
}

#[tokio::test]
async fn a_kept_decision_is_counted_and_goes_with_a_swap() {
    let broker = deciding(&json!({"cache": "address"}));
    let mut alice = subscribed(&broker).await;
    let mut said = Vec::new();
    for to in ["topic/a", "topic/a", "topic/b", "topic/b", "topic/a"] {
        said.push(call(&mut alice, to).await);
    }
    assert_eq!(said, ["1", "1", "2", "2", "1"]);
    assert_eq!([calls(&broker, "ok"), calls(&broker, "cached")], [2.0, 3.0]);
    let (_, state) = broker.admin("GET", "/v1/policies/p", None);
    assert_eq!((&state["calls"], &state["outcomes"]["cached"]), (&json!(2), &json!(3)), "{state}");
    set(&broker, "p", "decide@1", "topic/>", &json!({"routing": {"cache": "connection"}}));
    assert_eq!(call(&mut alice, "topic/b").await, "1", "the first call of another instance");
    assert_eq!(call(&mut alice, "topic/b").await, "1");
    assert_eq!([calls(&broker, "ok"), calls(&broker, "cached")], [3.0, 4.0]);
    let mut bob = broker.connect("bob").await;
    bob.send(&json!({"type": "publish", "to": "topic/b", "payload": 1, "ack": "none"})).await;
    assert!(alice.receive().await["headers"]["call"].is_string());
    assert_eq!(
        [calls(&broker, "ok"), calls(&broker, "cached")],
        [4.0, 4.0],
        "another connection is asked for"
    );
    set(&broker, "p", "decide@1", "topic/>", &json!({"routing": {"cache": "never"}}));
    said.clear();
    for _ in 0..3 {
        said.push(call(&mut alice, "topic/b").await);
    }
    assert_eq!(said, ["1", "2", "3"]);
    assert_eq!(calls(&broker, "cached"), 4.0);
}

#[tokio::test]
async fn a_kept_decision_goes_with_the_members_of_a_queue() {
    let broker = deciding(&json!({"cache": "address"}));
    let mut alice = subscribed(&broker).await;
    for (to, expected) in [("topic/a", "1"), ("topic/b", "2"), ("topic/b", "2")] {
        assert_eq!(call(&mut alice, to).await, expected);
    }
    let mut worker = broker.connect("worker").await;
    worker.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs", "queue": "pool"})).await;
    let started = std::time::Instant::now();
    // The instance that is told of the members takes the place of the other, and its calls begin anew.
    while call(&mut alice, "topic/b").await != "1" {
        assert!(started.elapsed() < PATIENCE, "the decision outlives the members it was made for");
    }
    assert_eq!(calls(&broker, "ok"), 3.0, "once more, and kept again");
    assert_eq!(call(&mut alice, "topic/b").await, "1");
    assert_eq!(calls(&broker, "ok"), 3.0);
}

/// `(component (import "read-file" (func)))`
const ASKING_FOR_MORE: &[u8] = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x0e\x01\0\x09read-file\x01\0";

#[test]
fn an_import_that_policies_do_not_get_is_refused_by_its_name() {
    let broker = Broker::start();
    let upload = |bytes: &[u8]| {
        broker.admin("POST", "/v1/plugins/curious/revisions", Some(("application/wasm", bytes.to_vec())))
    };
    let (status, problem) = upload(ASKING_FOR_MORE);
    assert_eq!(status, 422, "{problem}");
    assert_eq!(
        problem["detail"],
        "the component imports `read-file`, which policies do not get; they may import only waspmq:policy/host@0.1.0"
    );
    assert_eq!(broker.admin("GET", "/v1/plugins/curious", None).0, 404);
    assert_eq!(broker.admin("GET", "/v1/plugins", None).1["plugins"], json!([]));
}
