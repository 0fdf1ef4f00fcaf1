//! Ack, admission and overflow policies through the admin API: what they decide is what clients see.

use crate::harness::{Broker, Peer};
use crate::levels::{publish, with};
use crate::policies::{set_hook, upload};
use serde_json::{Value, json};

fn decide(broker: &Broker, hook: &str, pattern: &str, config: &Value) {
    set_hook(broker, hook, (hook, "decide@1"), pattern, config);
}

fn deciding(hook: &str, pattern: &str, config: &Value) -> Broker {
    let broker = Broker::start();
    upload(&broker, "decide", "guest-decide");
    decide(&broker, hook, pattern, config);
    broker
}

async fn subscribed(broker: &Broker, user: &str, topic: &str) -> Peer {
    let mut peer = broker.connect(user).await;
    peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": topic})).await;
    peer
}

#[tokio::test]
async fn an_ack_policy_raises_the_level_and_drops_what_two_attempts_did_not_deliver() {
    let plan = json!({"level": "delivered", "attempts": 2, "timeout_ms": 150, "backoff_ms": 10, "exhausted": "drop"});
    let broker = deciding("ack", "topic/paid.>", &json!({"ack": plan}));
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(1, "topic/paid.a", "acknowledged", "accepted")).await;
    let message = reader.expect_message("acknowledged").await;
    reader.ack(&message).await;
    alice.expect_receipt(1, "delivered").await;

    alice.send(&publish(2, "topic/paid.a", "ignored", "accepted")).await;
    let first = reader.expect_message("ignored").await;
    let second = reader.expect_message("ignored").await;
    assert_eq!((&second["id"], &second["attempt"]), (&first["id"], &json!(2)));
    assert_eq!(alice.expect_error(1511).await["ref"], json!(2), "two attempts and no more");
    reader.expect_quiet().await;
    let (status, letters) = broker.admin("GET", "/v1/dead-letters", None);
    assert_eq!((status, letters["dead_letters"].as_array().map(Vec::len)), (200, Some(0)), "{letters}");

    alice.send(&publish(3, "topic/free", "elsewhere", "accepted")).await;
    alice.expect_receipt(3, "accepted").await;
    reader.expect_message("elsewhere").await;
}

#[tokio::test]
async fn messages_of_one_turn_keep_their_own_plans() {
    let broker = deciding("ack", "topic/paid", &json!({"ack": {"level": "delivered"}}));
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let mut alice = broker.connect("alice").await;
    alice
        .send_all(&[
            publish(1, "topic/paid", 1, "accepted"),
            publish(2, "topic/free", 2, "accepted"),
            publish(3, "topic/paid", 3, "none"),
        ])
        .await;
    alice.expect_receipt(2, "accepted").await;
    let mut received = Vec::new();
    for _ in 0..3 {
        received.push(reader.receive().await);
    }
    received.sort_by_key(|message| message["payload"].as_u64());
    for message in [&received[0], &received[2]] {
        reader.ack(message).await;
    }
    alice.expect_receipt(1, "delivered").await;
}

#[tokio::test]
async fn an_ack_policy_decides_about_a_nack() {
    let patient = json!({"level": "delivered", "attempts": 5, "timeout_ms": 60_000, "on_nack": "give-up"});
    let broker = deciding("ack", "topic/t", &json!({"ack": patient}));
    let mut reader = subscribed(&broker, "reader", "topic/t").await;
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(1, "topic/t", "refused", "accepted")).await;
    let message = reader.expect_message("refused").await;
    reader.ask_ok(json!({"type": "nack", "ref": 2, "id": message["id"], "reason": "no"})).await;
    assert_eq!(alice.expect_error(1511).await["ref"], json!(1), "at the first nack");

    let again = with(patient.clone(), json!({"on_nack": {"retry-ms": 20}}));
    decide(&broker, "ack", "topic/t", &json!({"ack": again}));
    alice.send(&publish(2, "topic/t", "later", "accepted")).await;
    let message = reader.expect_message("later").await;
    reader
        .ask_ok(
            json!({"type": "nack", "ref": 3, "id": message["id"], "reason": "busy", "retry_ms": 3_600_000}),
        )
        .await;
    let message = reader.expect_message("later").await;
    assert_eq!(message["attempt"], json!(2), "in the policy's time, not in the hour that was asked for");
    reader.ack(&message).await;
    alice.expect_receipt(2, "delivered").await;
    let (_, policy) = broker.admin("GET", "/v1/policies/ack", None);
    assert_eq!(policy["counters"]["failed"], json!(2), "{policy}");
}

#[tokio::test]
async fn an_admission_policy_with_a_bucket_refuses_what_is_too_much() {
    // A second is worth a thousandth of a message.
    let bucket = json!({"amount": 1_000, "per_second": 1, "burst": 2_000, "retry_ms": 777});
    let broker = deciding("admission", "topic/>", &json!({"admission": bucket}));
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    for number in 1..=2 {
        alice.send(&publish(number, "topic/t", number, "accepted")).await;
        alice.expect_receipt(number, "accepted").await;
        reader.expect_message(number).await;
    }
    alice.send(&publish(3, "topic/t", 3, "accepted")).await;
    let error = alice.expect_error(1522).await;
    let told = (&error["ref"], &error["name"], &error["message"], &error["retry_ms"]);
    let expected = (&json!(3), &json!("refused_by_policy"), &json!("too many at once"), &json!(777));
    assert_eq!(told, expected);
    bob.send(&publish(1, "topic/t", "bob", "accepted")).await;
    bob.expect_receipt(1, "accepted").await;
    reader.expect_message("bob").await;
    reader.expect_quiet().await;
    alice.send(&publish(4, "user/bob", "not bound", "accepted")).await;
    alice.expect_receipt(4, "accepted").await;

    let by_operator = || {
        let body = json!({"to": "topic/t", "payload": "operator"}).to_string().into_bytes();
        broker.admin("POST", "/v1/publish", Some(("application/json", body)))
    };
    assert!(by_operator().0 < 300 && by_operator().0 < 300);
    let (status, problem) = by_operator();
    assert_eq!((status, &problem["retry_ms"]), (429, &json!(777)), "{problem}");
    let refused = "waspmq_messages_published_total{kind=\"topic\",outcome=\"refused_by_policy\"}";
    broker.eventually("refusals are counted", |broker| broker.metric(refused) == Some(2.0));
    let (_, policy) = broker.admin("GET", "/v1/policies/admission", None);
    assert_eq!(policy["kept"]["buckets"], json!(3), "one for each sender: {policy}");
    assert_eq!(policy["histograms"]["refused_bytes"]["count"], json!(2), "{policy}");
}

const LARGE: usize = 60_000;
/// Of large messages: more than the kernel and the outbound queue hold.
const MANY: u64 = 400;

#[tokio::test]
async fn an_overflow_policy_closes_who_does_not_keep_up() {
    let broker = deciding("overflow", "topic/t", &json!({"overflow": "close"}));
    let mut stalled = subscribed(&broker, "stalled", "topic/t").await;
    let mut healthy = subscribed(&broker, "healthy", "topic/t").await;
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(LARGE);
    for number in 0..MANY {
        alice.send(&publish(number, "topic/t", json!([number, body]), "accepted")).await;
        alice.expect_receipt(number, "accepted").await;
        assert_eq!(healthy.receive().await["payload"][0], json!(number));
    }
    broker.eventually("the connection is closed", |broker| {
        broker.metric("waspmq_slow_consumers_total{action=\"close\"}").is_some_and(|n| n > 0.0)
    });
    let dropped = broker.metric("waspmq_slow_consumers_total{action=\"drop_oldest\"}");
    assert_eq!(dropped.unwrap_or(0.0), 0.0, "what is configured is not done");
    let mut expected = 0;
    let code = loop {
        match stalled.next().await {
            Ok(tokio_tungstenite::tungstenite::Message::Text(text)) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["type"] == "message" {
                    assert_eq!(frame["payload"][0], json!(expected), "nothing is missing before the end");
                    expected += 1;
                }
            }
            Ok(tokio_tungstenite::tungstenite::Message::Close(frame)) => break frame.map(|f| f.code.into()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, Some(4104_u16));
}

#[tokio::test]
async fn an_overflow_policy_conflates_by_key() {
    const KEYS: u64 = 4;
    let broker = deciding("overflow", "topic/t", &json!({"overflow": "conflate"}));
    let mut stalled = subscribed(&broker, "stalled", "topic/t").await;
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(LARGE);
    for number in 0..MANY {
        let key = json!({"key": format!("k{}", number % KEYS)});
        alice.send(&with(publish(number, "topic/t", json!([number, body]), "accepted"), key)).await;
        alice.expect_receipt(number, "accepted").await;
    }
    let frames = stalled.receive_until_marker("stalled", &mut alice).await;
    let (overflows, messages): (Vec<_>, Vec<_>) =
        frames.iter().partition(|frame| frame["type"] == "overflow");
    let received: Vec<_> = messages.iter().map(|frame| frame["payload"][0].as_u64().unwrap()).collect();
    assert!(received.windows(2).all(|pair| pair[0] < pair[1]), "order holds");
    assert!(received.ends_with(&[MANY - 4, MANY - 3, MANY - 2, MANY - 1]), "the newest of each key");
    let told: u64 = overflows.iter().map(|frame| frame["dropped"].as_u64().unwrap()).sum();
    assert!(told > 0 && told + received.len() as u64 == MANY, "what is missing is told");
    broker.eventually("every one is counted by its action", |broker| {
        let by = |action| broker.metric(&format!("waspmq_slow_consumers_total{{action=\"{action}\"}}"));
        by("conflate") == Some(told as f64) && by("drop_oldest").unwrap_or(0.0) == 0.0
    });
    let (_, policy) = broker.admin("GET", "/v1/policies/overflow", None);
    assert!(policy["calls"].as_u64().unwrap() < MANY / 4, "asked about what does not fit, only: {policy}");
}
