//! Direct, group, topic, queue and broadcast messages, across both workers and both profiles.

use crate::harness::Broker;
use serde_json::{Value, json};
use std::collections::BTreeSet;

over_every_transport!(
    every_kind_of_address_reaches_its_recipients,
    each_message_of_a_queue_goes_to_one_member_and_keys_stick,
    dedup_makes_a_publish_idempotent_per_user_and_address,
    offsets_of_an_address_strictly_increase_over_publishers,
    groups_can_be_managed_by_operators,
    operators_publish_and_end_sessions,
);

async fn publish(peer: &mut crate::harness::Peer, to: &str, payload: Value) -> Value {
    peer.ask(json!({"type": "publish", "ref": 7, "to": to, "payload": payload})).await
}

async fn every_kind_of_address_reaches_its_recipients(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let mut phone = broker.connect("bob").await;
    for frame in [
        json!({"type": "subscribe", "ref": 1, "to": "topic/orders.*.created"}),
        json!({"type": "subscribe", "ref": 2, "to": "topic/orders.>"}),
        json!({"type": "join", "ref": 3, "group": "eng"}),
    ] {
        let reference = frame["ref"].clone();
        assert_eq!(bob.ask(frame).await, json!({"type": "ok", "ref": reference}));
    }
    let receipt = publish(&mut alice, "user/bob", json!({"n": 1})).await;
    assert_eq!(
        (&receipt["type"], &receipt["level"], &receipt["recipients"]),
        (&json!("receipt"), &json!("accepted"), &json!(1))
    );
    let (on_laptop, on_phone) = (bob.receive().await, phone.receive().await);
    assert_eq!(on_laptop, on_phone, "a first delivery is the same for every recipient");
    assert_eq!(on_laptop["id"], receipt["id"]);
    assert_eq!((&on_laptop["from"], &on_laptop["payload"]), (&json!("alice"), &json!({"n": 1})));

    publish(&mut alice, "topic/orders.eu.created", json!(2)).await;
    assert_eq!(bob.receive().await["payload"], json!(2));
    bob.expect_quiet().await; // once, although two patterns match
    publish(&mut alice, "group/eng", json!(3)).await;
    assert_eq!(
        (bob.receive().await["payload"].clone(), phone.receive().await["payload"].clone()),
        (json!(3), json!(3))
    );
    alice.send(&json!({"type": "publish", "to": "all", "payload": 4, "exclude_self": true})).await;
    assert_eq!(
        (bob.receive().await["payload"].clone(), phone.receive().await["payload"].clone()),
        (json!(4), json!(4))
    );
    alice.expect_quiet().await;
    let receipt = publish(&mut alice, "user/nobody", json!(5)).await;
    assert_eq!(receipt["recipients"], json!(1), "it waits for the user");
}

async fn each_message_of_a_queue_goes_to_one_member_and_keys_stick(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let mut alice = broker.connect("alice").await;
    let mut workers = Vec::new();
    for i in 0..4 {
        let mut worker = broker.connect(&format!("w{i}")).await;
        worker.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.*", "queue": "pool"})).await;
        workers.push(worker);
    }
    for i in 0..200 {
        let frame = json!({"type": "publish", "ref": i, "to": "topic/jobs.a", "payload": i, "key": format!("k{}", i % 10)});
        assert_eq!(alice.ask(frame).await["recipients"], json!(1));
    }
    let mut seen = BTreeSet::new();
    for (number, worker) in workers.iter_mut().enumerate() {
        let mut keys = BTreeSet::new();
        for frame in worker.receive_until_marker(&format!("w{number}"), &mut alice).await {
            assert_eq!(frame["queue"], json!("pool"));
            assert!(seen.insert(frame["payload"].as_u64().unwrap()), "delivered twice");
            keys.insert(frame["key"].as_str().unwrap().to_owned());
        }
        workers_keys_are_disjoint(&keys);
    }
    assert_eq!(seen.len(), 200);
}

/// A key belongs to one member, so no member sees all ten unless hashing is broken.
fn workers_keys_are_disjoint(keys: &BTreeSet<String>) {
    assert!(keys.len() < 10, "one member got every key");
}

async fn dedup_makes_a_publish_idempotent_per_user_and_address(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let frame = |to: &str| json!({"type": "publish", "ref": 1, "to": to, "payload": 1, "dedup": "order-7"});
    let first = alice.ask(frame("user/bob")).await;
    let second = alice.ask(frame("user/bob")).await;
    assert_eq!(first, second, "the same id and recipients");
    let elsewhere = alice.ask(frame("user/carol")).await;
    assert_ne!(first["id"], elsewhere["id"]);
    assert_eq!(bob.receive().await["id"], first["id"]);
    bob.expect_quiet().await;
}

async fn offsets_of_an_address_strictly_increase_over_publishers(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let mut reader = broker.connect("reader").await;
    reader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    let mut writers = Vec::new();
    for i in 0..4 {
        writers.push(broker.connect(&format!("w{i}")).await);
    }
    for round in 0..50 {
        for writer in &mut writers {
            writer.send(&json!({"type": "publish", "to": "topic/t", "payload": round})).await;
        }
    }
    let mut last = 0;
    for _ in 0..200 {
        let frame = reader.receive().await;
        let offset: u64 = frame["pos"].as_str().unwrap().split_once(':').unwrap().1.parse().unwrap();
        assert!(offset > last, "{offset} after {last}");
        last = offset;
    }
}

#[tokio::test]
async fn batches_are_newline_delimited_only_when_asked_for() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut plain = broker.connect("bob").await;
    let mut batched = broker.open(None).await;
    batched.send(&json!({"type": "connect", "user": "bob", "batch": true})).await;
    batched.receive().await;
    let frames: Vec<_> =
        (0..20).map(|i| json!({"type": "publish", "to": "user/bob", "payload": i}).to_string()).collect();
    alice.send_text(&frames.join("\n")).await;
    for i in 0..20 {
        assert_eq!(plain.receive().await["payload"], json!(i), "one frame per WebSocket message");
    }
    let (mut payloads, mut largest) = (Vec::new(), 0);
    while payloads.len() < 20 {
        let text = batched.next().await.unwrap().into_text().unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        largest = largest.max(lines.len());
        payloads.extend(lines.into_iter().map(|frame| frame["payload"].as_u64().unwrap()));
    }
    assert_eq!(payloads, (0..20).collect::<Vec<_>>());
    assert!(largest > 1, "frames published together arrive together");
}

async fn groups_can_be_managed_by_operators(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    assert!(broker.admin("PUT", "/v1/groups/ops/members/bob", None).0 < 300);
    publish(&mut alice, "group/ops", json!("hello")).await;
    assert_eq!(bob.receive().await["payload"], json!("hello"));
    let (status, group) = broker.admin("GET", "/v1/groups/ops", None);
    assert_eq!(status, 200);
    assert!(group.to_string().contains("bob"), "{group}");
    assert!(broker.admin("DELETE", "/v1/groups/ops", None).0 < 300);
    publish(&mut alice, "group/ops", json!("gone")).await;
    bob.expect_quiet().await;
}

async fn operators_publish_and_end_sessions(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let mut bob = broker.connect("bob").await;
    let document = json!({"to": "user/bob", "payload": {"maintenance": true}});
    let (status, published) =
        broker.admin("POST", "/v1/publish", Some(("application/json", document.to_string().into_bytes())));
    assert_eq!((status, &published["recipients"]), (200, &json!(1)), "{published}");
    let frame = bob.receive().await;
    assert_eq!((&frame["payload"], frame.get("from")), (&json!({"maintenance": true}), None));
    let (_, sessions) = broker.admin("GET", "/v1/sessions", None);
    let text = sessions.to_string();
    let id = text.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(broker.admin("DELETE", &format!("/v1/sessions/{id}"), None).0 < 300);
    assert_eq!(bob.expect_close().await, 4002);
}
