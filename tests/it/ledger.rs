//! The delivery ledger, histories and dead letters: what operators see of messages and can do about them.

use crate::harness::{Broker, Peer};
use serde_json::{Value, json};

/// Recipients that say nothing are given up after two attempts.
const SHORT: &str = "
[[address]]
match = \"user/*\"
ack_timeout_ms = 600
attempts = 2
backoff_ms = 10
backoff_max_ms = 10

[[address]]
match = \"topic/short.>\"
ack_timeout_ms = 1000
attempts = 1
";

async fn publish(peer: &mut Peer, to: &str, payload: Value, ack: &str) -> Value {
    peer.ask(json!({"type": "publish", "ref": 7, "to": to, "payload": payload, "ack": ack})).await
}

fn ledger(broker: &Broker, id: &str) -> Value {
    let (status, ledger) = broker.admin("GET", &format!("/v1/messages/{id}"), None);
    assert_eq!(status, 200, "{ledger}");
    ledger
}

fn letters(broker: &Broker, query: &str) -> Vec<Value> {
    let (status, page) = broker.admin("GET", &format!("/v1/dead-letters{query}"), None);
    assert_eq!(status, 200, "{page}");
    page["dead_letters"].as_array().unwrap().clone()
}

fn post(broker: &Broker, path: &str, document: &Value) -> (u16, Value) {
    broker.admin("POST", path, Some(("application/json", document.to_string().into_bytes())))
}

#[tokio::test]
async fn an_acknowledged_message_shows_who_has_it_and_since_when() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.open(Some("waspmq.v1.json")).await;
    bob.ask(json!({"type": "connect", "user": "bob", "device": "phone"})).await;
    alice
        .send(&json!({"type": "publish", "ref": 1, "to": "user/bob", "payload": 1, "ack": "delivered"}))
        .await;
    let message = bob.receive().await;
    let id = message["id"].as_str().unwrap();
    let sent = ledger(&broker, id);
    assert_eq!(
        (&sent["source"], &sent["state"], &sent["to"], &sent["from"], &sent["level"]),
        (&json!("memory"), &json!("under_way"), &json!("user/bob"), &json!("alice"), &json!("delivered"))
    );
    let row = &sent["recipients"][0];
    assert_eq!(
        (&row["recipient"], &row["state"], &row["attempts"]),
        (&json!("user/bob"), &json!("sent"), &json!(1))
    );
    let device = &row["devices"][0];
    assert_eq!(
        (&device["device"], &device["state"], &device["acked_at"]),
        (&json!("phone"), &json!("sent"), &Value::Null)
    );
    bob.send(&json!({"type": "ack", "ids": [id]})).await;
    assert_eq!(alice.receive().await["level"], "delivered");
    let acked = ledger(&broker, id);
    assert_eq!((&acked["state"], &acked["recipients"][0]["state"]), (&json!("acked"), &json!("acked")));
    let device = &acked["recipients"][0]["devices"][0];
    assert_eq!((&device["device"], &device["state"]), (&json!("phone"), &json!("acked")));
    let at = |value: &Value| value.as_u64().unwrap();
    assert!(at(&acked["ts"]) <= at(&device["sent_at"]) && at(&device["sent_at"]) <= at(&device["acked_at"]));
    assert_eq!(acked["dead_letters"], json!([]));
}

#[tokio::test]
async fn what_is_unknown_is_not_found() {
    let broker = Broker::start();
    let unknown = "0".repeat(32);
    assert_eq!(broker.admin("GET", &format!("/v1/messages/{unknown}"), None).0, 404);
    assert_eq!(broker.admin("GET", "/v1/messages/xyz", None).0, 400);
    assert_eq!(broker.admin("GET", &format!("/v1/dead-letters/{unknown}"), None).0, 404);
    assert_eq!(broker.admin("POST", &format!("/v1/dead-letters/{unknown}/requeue"), None).0, 404);
    // Neither tracked nor stored: nobody knows.
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let receipt = publish(&mut alice, "user/bob", json!(1), "accepted").await;
    bob.receive().await;
    let id = receipt["id"].as_str().unwrap();
    assert_eq!(broker.admin("GET", &format!("/v1/messages/{id}?to=user/bob"), None).0, 404);
}

#[tokio::test]
async fn a_stored_message_is_found_in_its_history_and_acked_by_a_cursor() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let receipt = publish(&mut alice, "user/bob", json!({"n": 1}), "stored").await;
    assert_eq!(receipt["level"], "stored");
    let id = receipt["id"].as_str().unwrap().to_owned();
    let find = |broker: &Broker| broker.admin("GET", &format!("/v1/messages/{id}"), None);
    let (status, stored) = find(&broker);
    assert_eq!(
        broker.admin("GET", &format!("/v1/messages/{id}?to=user/bob"), None),
        (200, stored.clone()),
        "the address may be named"
    );
    assert_eq!(broker.admin("GET", &format!("/v1/messages/{id}?to=user/alice"), None).0, 404);
    assert_eq!(
        (status, &stored["source"], &stored["state"]),
        (200, &json!("history"), &json!("stored")),
        "{stored}"
    );
    let (status, page) = broker.admin("GET", "/v1/history/user/bob?limit=10", None);
    assert_eq!((status, &page["next"], &page["gap"]), (200, &Value::Null, &json!(false)), "{page}");
    let message = &page["messages"][0];
    assert_eq!(
        (&message["id"], &message["payload"], &message["from"], &message["pos"]),
        (&json!(id), &json!({"n": 1}), &json!("alice"), &stored["pos"])
    );
    let mut bob = broker.open(Some("waspmq.v1.json")).await;
    bob.ask(json!({"type": "connect", "user": "bob", "device": "phone"})).await;
    assert_eq!(bob.receive().await["id"], json!(id));
    bob.send(&json!({"type": "ack", "ids": [id]})).await;
    broker.eventually("the cursor passes the message", |broker| find(broker).1["state"] == "acked");
    assert_eq!(find(&broker).1["recipients"][0]["devices"][0]["device"], "phone");
}

#[tokio::test]
async fn stored_messages_are_found_by_their_ids_alone_after_a_restart_too() {
    let keep = "[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n";
    let mut broker = Broker::start_with_config(keep);
    let mut published = Vec::new();
    for run in 0..2 {
        let mut alice = broker.connect("alice").await;
        for to in ["topic/a", "topic/a.b", "user/bob", "user/carol", "topic/z"] {
            for level in ["accepted", "stored"] {
                let receipt = publish(&mut alice, to, json!(run), level).await;
                published.push((receipt["id"].as_str().unwrap().to_owned(), to));
            }
        }
        broker.restart_after("TERM");
    }
    for (id, to) in published {
        let found = ledger(&broker, &id);
        assert_eq!(
            (&found["source"], &found["to"], &found["id"]),
            (&json!("history"), &json!(to), &json!(id))
        );
        assert!(found["pos"].is_string(), "{found}");
    }
}

#[tokio::test]
async fn the_ledger_of_a_stored_delivery_outlives_the_broker() {
    let config = "[[address]]\nmatch = \"user/*\"\nkeep = \"always\"\n";
    let mut broker = Broker::start_with_config(config);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    alice
        .send(&json!({"type": "publish", "ref": 1, "to": "user/bob", "payload": 1, "ack": "delivered"}))
        .await;
    let id = bob.receive().await["id"].as_str().unwrap().to_owned();
    bob.send(&json!({"type": "ack", "ids": [id]})).await;
    assert_eq!(alice.receive().await["level"], "delivered");
    broker.restart_after("TERM");
    let kept = ledger(&broker, &id);
    assert_eq!(
        (&kept["source"], &kept["state"], &kept["recipients"][0]["recipient"]),
        (&json!("ledger"), &json!("acked"), &json!("user/bob")),
        "{kept}"
    );
}

#[tokio::test]
async fn a_recipient_who_never_acknowledges_becomes_a_dead_letter_that_can_be_requeued() {
    let broker = Broker::start_with_config(SHORT);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    alice
        .send(&json!({
            "type": "publish", "ref": 1, "to": "user/bob", "payload": {"n": 1}, "headers": {"k": "v"},
            "ack": "delivered", "reply_to": "user/alice",
        }))
        .await;
    let first = bob.receive().await;
    let id = first["id"].as_str().unwrap().to_owned();
    assert_eq!(bob.receive().await["attempt"], 2);
    let refused = alice.expect_error(1511).await;
    assert!(refused["message"].as_str().unwrap().contains("timeout"), "{refused}");
    broker.eventually("the letter is there", |broker| !letters(broker, "").is_empty());
    let found = letters(&broker, "?cause=timeout&to=user/*&recipient=user/bob");
    let letter = &found[0];
    assert_eq!(
        (&letter["id"], &letter["recipient"], &letter["from"], &letter["cause"], &letter["attempts"]),
        (&json!(id), &json!("user/bob"), &json!("alice"), &json!("timeout"), &json!(2)),
        "{letter}"
    );
    assert_eq!(
        (&letter["payload"], &letter["headers"], &letter["generation"]),
        (&json!({"n": 1}), &json!({"k": "v"}), &Value::Null)
    );
    assert_eq!(letters(&broker, "?cause=nack"), [] as [Value; 0]);
    let given_up = ledger(&broker, &id);
    assert_eq!(
        (&given_up["state"], &given_up["dead_letters"][0]["cause"]),
        (&json!("incomplete"), &json!("timeout"))
    );
    assert_eq!(given_up["recipients"][0]["state"], "dead_lettered");
    broker.eventually("it is counted, once the journal says that it is kept", |broker| {
        broker.metric("waspmq_dead_letters_total{reason=\"timeout\"}") == Some(1.0)
    });
    assert_eq!(broker.metric("waspmq_redeliveries_total"), Some(1.0));

    let (status, requeued) = broker.admin("POST", &format!("/v1/dead-letters/{id}/requeue"), None);
    assert_eq!(
        (status, &requeued["requeued"], &requeued["failed"]),
        (200, &json!(1), &json!(0)),
        "{requeued}"
    );
    let again = bob.receive().await;
    assert_eq!(
        (&again["payload"], &again["from"], &again["reply_to"]),
        (&json!({"n": 1}), &json!("alice"), &json!("user/alice"))
    );
    assert_eq!((&again["headers"]["k"], &again["headers"]["waspmq-original-id"]), (&json!("v"), &json!(id)));
    assert_eq!((&again["id"], again.get("attempt")), (&requeued["messages"][0]["id"], None));
    bob.send(&json!({"type": "ack", "ids": [again["id"]]})).await;
    assert_eq!(letters(&broker, ""), [] as [Value; 0], "the letter is gone when the answer is there");
    let anew = again["id"].as_str().unwrap();
    broker.eventually("the requeued message is acknowledged", |broker| {
        ledger(broker, anew)["state"] == "acked"
    });
    assert_eq!(broker.admin("POST", &format!("/v1/dead-letters/{id}/requeue"), None).0, 404);
}

#[tokio::test]
async fn letters_of_a_topic_go_to_the_one_who_failed_and_can_be_purged() {
    let broker = Broker::start_with_config(SHORT);
    let (mut alice, mut bob, mut carol) =
        (broker.connect("alice").await, broker.connect("bob").await, broker.connect("carol").await);
    for peer in [&mut bob, &mut carol] {
        peer.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/short.>"})).await;
    }
    for n in 0..3 {
        alice.send(&json!({"type": "publish", "ref": n, "to": "topic/short.a", "payload": n, "ack": "delivered"})).await;
        let id = carol.receive().await["id"].clone();
        carol.send(&json!({"type": "ack", "ids": [id]})).await;
        assert_eq!(bob.receive().await["payload"], json!(n));
        alice.expect_error(1511).await;
    }
    broker.eventually("the letters are there", |broker| letters(broker, "").len() == 3);
    let (status, page) = broker.admin("GET", "/v1/dead-letters?limit=2", None);
    let next = page["next"].as_str().unwrap();
    assert_eq!((status, page["dead_letters"].as_array().unwrap().len()), (200, 2));
    let rest = letters(&broker, &format!("?after={next}"));
    assert_eq!((rest.len(), &rest[0]["payload"]), (1, &json!(2)));
    let ids: Vec<String> =
        letters(&broker, "").iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(letters(&broker, &format!("?after={}", ids[0])).len(), 2);

    let (status, purged) = broker.admin("DELETE", &format!("/v1/dead-letters/{}", ids[0]), None);
    assert_eq!((status, purged), (200, json!({"purged": 1, "more": false})));
    let (status, none) = post(&broker, "/v1/dead-letters/requeue", &json!({"to": "topic/other.>"}));
    assert_eq!((status, &none["requeued"]), (200, &json!(0)));
    assert_eq!(post(&broker, "/v1/dead-letters/requeue", &json!({"cause": "boredom"})).0, 400);
    let (status, requeued) =
        post(&broker, "/v1/dead-letters/requeue", &json!({"to": "topic/short.a", "recipient": "user/bob"}));
    assert_eq!(
        (status, &requeued["requeued"], &requeued["more"]),
        (200, &json!(2), &json!(false)),
        "{requeued}"
    );
    for n in 1..3 {
        let again = bob.receive().await;
        assert_eq!((&again["to"], &again["payload"]), (&json!("user/bob"), &json!(n)));
        assert_eq!(again["headers"]["waspmq-original-to"], "topic/short.a");
    }
    carol.expect_quiet().await;
    // Nobody acknowledges, so they come back.
    for _ in 0..2 {
        assert_eq!(bob.receive().await["attempt"], 2);
    }
    broker.eventually("the letters are back", |broker| letters(broker, "").len() == 2);
    let (status, purged) = broker.admin("DELETE", "/v1/dead-letters?recipient=user/bob", None);
    assert_eq!((status, purged), (200, json!({"purged": 2, "more": false})));
    assert_eq!(letters(&broker, ""), [] as [Value; 0]);
}

#[tokio::test]
async fn a_message_of_several_addresses_has_a_letter_for_each() {
    let broker = Broker::start_with_config(SHORT);
    let to = ["topic/short.a", "topic/short.b"];
    let rules = json!({"hook": "routing", "match": ["topic/x"], "rules": [{"then": {"to": to}}]});
    assert_eq!(broker.put_json("/v1/policies/p", &rules).0, 200);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    bob.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/short.>"})).await;
    alice
        .send(&json!({"type": "publish", "ref": 1, "to": "topic/x", "payload": 1, "ack": "delivered"}))
        .await;
    alice.expect_error(1511).await;
    let addresses = |query: &str| {
        letters(&broker, query).into_iter().map(|letter| letter["to"].clone()).collect::<Vec<_>>()
    };
    broker.eventually("the letters are there", |_| addresses("") == to);
    broker.eventually("it is counted, once the journal says that it is kept", |broker| {
        broker.metric("waspmq_dead_letters_total{reason=\"timeout\"}") == Some(2.0)
    });
    let id = letters(&broker, "")[0]["id"].as_str().unwrap().to_owned();
    let (_, ledger) = broker.admin("GET", &format!("/v1/messages/{id}"), None);
    for rows in ["recipients", "dead_letters"] {
        let mut told: Vec<_> =
            ledger[rows].as_array().unwrap().iter().map(|row| (&row["to"], &row["recipient"])).collect();
        told.sort_unstable_by_key(|(to, _)| to.as_str());
        let bob = json!("user/bob");
        assert_eq!(told, [(&json!(to[0]), &bob), (&json!(to[1]), &bob)], "{rows}: {ledger}");
    }
    let next = broker.admin("GET", "/v1/dead-letters?limit=1", None).1["next"].as_str().unwrap().to_owned();
    assert_eq!(addresses(&format!("?after={next}")), to[1..]);
    let (status, requeued) = post(&broker, "/v1/dead-letters/requeue", &json!({"to": to[0]}));
    assert_eq!((status, &requeued["requeued"]), (200, &json!(1)), "{requeued}");
    assert_eq!(addresses("?to=topic/*.*"), to[1..], "the other one stays");
}

#[tokio::test]
async fn operators_wait_for_the_level_they_ask_for() {
    let broker = Broker::start_with_config(SHORT);
    let publish = |document: Value| post(&broker, "/v1/publish", &document);
    let (status, stored) = publish(json!({"to": "user/bob", "payload": 1, "ack": "stored"}));
    assert_eq!((status, &stored["level"]), (200, &json!("stored")), "{stored}");
    let (status, nobody) = publish(json!({"to": "topic/nobody", "payload": 1, "ack": "delivered"}));
    assert_eq!((status, &nobody["type"]), (409, &json!("urn:waspmq:problem:no_recipients")), "{nobody}");
    let mut carol = broker.connect("carol").await;
    let (status, failed) = publish(json!({"to": "user/carol", "payload": 1, "ack": "delivered"}));
    assert_eq!((status, &failed["type"]), (504, &json!("urn:waspmq:problem:not_delivered")), "{failed}");
    let first = carol.receive().await;
    assert_eq!((first.get("from"), &carol.receive().await["attempt"]), (None, &json!(2)));
}
