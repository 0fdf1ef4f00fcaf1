//! Queues on addresses that keep messages: what members did not acknowledge is given out again, whatever happened to the
//! member or to the broker, and what they acknowledged is not.

use crate::harness::{Broker, Peer};
use crate::levels::{PROFILES, publish, with};
use futures_util::SinkExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio_tungstenite::tungstenite::Message;

/// Everything is kept. An attempt outlasts a test, but not that at the address of those who are silent.
const KEEPS: &str = r#"
[[address]]
match = "topic/silent"
keep = "always"
ack_timeout_ms = 1500

[[address]]
match = "topic/>"
keep = "always"
ack_timeout_ms = 60000
attempts = 3
backoff_ms = 10
backoff_max_ms = 20
backoff_jitter_percent = 0
"#;

/// Nothing but what a test does is written to the journal.
const NO_RESUMES: [(&str, &str); 1] = [("WASPMQ_STORE__RESUME_WINDOW_MS", "0")];

async fn member(broker: &Broker, user: &str, to: &str) -> Peer {
    let mut peer = broker.connect(user).await;
    peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": to, "queue": "w"})).await;
    peer
}

/// Publishes messages one after the other, each stored when this answers.
async fn store(peer: &mut Peer, to: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(peer.ask(publish(number, to, number, "stored")).await["level"], "stored");
    }
}

async fn ack(peer: &mut Peer, messages: &[&Value]) {
    let ids: Vec<_> = messages.iter().map(|message| &message["id"]).collect();
    peer.ask_ok(json!({"type": "ack", "ref": 2, "ids": ids, "queue": "w"})).await;
}

/// The next messages.
async fn take(peer: &mut Peer, count: usize) -> Vec<Value> {
    let mut messages = Vec::new();
    for _ in 0..count {
        let message = peer.receive().await;
        assert_eq!(
            (&message["type"], &message["queue"], &message["ack"]),
            (&json!("message"), &json!("w"), &json!(true)),
            "{message}"
        );
        messages.push(message);
    }
    messages
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["payload"].as_u64().unwrap()).collect()
}

/// Writes of the journal since the start.
fn written(broker: &Broker) -> f64 {
    broker.metric("waspmq_journal_batch_messages_sum").unwrap_or_default()
}

#[tokio::test]
async fn what_no_member_acknowledged_survives_a_kill_and_what_one_did_does_not_come_again() {
    for (to, pattern) in [("topic/jobs", "topic/jobs"), ("topic/jobs.x", "topic/jobs.*")] {
        let mut broker = Broker::start_with(&NO_RESUMES);
        let mut alice = broker.connect("alice").await;
        let mut one = member(&broker, "one", pattern).await;
        store(&mut alice, to, 0..8).await;
        let had = take(&mut one, 8).await;
        assert_eq!(numbers(&had), (0..8).collect::<Vec<_>>());
        // That two users were seen first, the queue, eight messages, and once that the broker is alive.
        broker.eventually("all is written that will be", |broker| written(broker) >= 12.0);
        ack(&mut one, &[&had[0], &had[1], &had[4], &had[6]]).await;
        broker.eventually("the cursor is written", |broker| written(broker) > 12.0);
        broker.restart();
        let mut alice = broker.connect("alice").await;
        // Nobody is there yet, and the queue reads it later.
        store(&mut alice, to, 8..10).await;
        let mut two = member(&broker, "two", pattern).await;
        let again = take(&mut two, 6).await;
        assert_eq!(numbers(&again), [2, 3, 5, 7, 8, 9]);
        assert_eq!((&again[0]["id"], &again[0]["pos"]), (&had[2]["id"], &had[2]["pos"]));
        two.expect_quiet().await;
        store(&mut alice, to, 10..11).await;
        assert_eq!(numbers(&take(&mut two, 1).await), [10], "and goes on live");
        ack(&mut two, &again.iter().collect::<Vec<_>>()).await;
        two.expect_quiet().await;
    }
}

#[tokio::test]
async fn an_orderly_stop_keeps_every_ack() {
    let mut broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut members = Vec::new();
    for user in ["one", "two", "three", "four"] {
        members.push(member(&broker, user, "topic/jobs.>").await);
    }
    for number in 0..40 {
        alice.send(&publish(number, &format!("topic/jobs.{}", number % 3), number, "none")).await;
    }
    let mut had = Vec::new();
    for peer in &mut members {
        had.push(take(peer, 10).await);
    }
    let mut left = BTreeSet::new();
    for (peer, had) in members.iter_mut().zip(&had) {
        ack(peer, &had[..7].iter().collect::<Vec<_>>()).await;
        left.extend(numbers(&had[7..]));
    }
    broker.restart_after("TERM");
    let mut five = member(&broker, "five", "topic/jobs.>").await;
    let again: BTreeSet<_> = numbers(&take(&mut five, left.len()).await).into_iter().collect();
    assert_eq!(again, left);
    five.expect_quiet().await;
}

#[tokio::test]
async fn what_came_while_nobody_was_there_is_shared_by_those_who_come() {
    // More than one member is given before it acknowledges.
    const MESSAGES: u64 = 1_100;
    let broker = Broker::start_with_config(KEEPS);
    for (round, profile) in (0_u64..).zip(PROFILES) {
        let to = format!("topic/jobs{round}.x");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut one = broker.connect_as("one", "d", profile).await;
        let subscribe = json!({"type": "subscribe", "ref": 1, "to": to, "queue": "w"});
        one.ask_ok(subscribe.clone()).await;
        one.ask_ok(json!({"type": "unsubscribe", "ref": 2, "to": to, "queue": "w"})).await;
        alice
            .send_all(&(0..MESSAGES).map(|number| publish(number, &to, number, "stored")).collect::<Vec<_>>())
            .await;
        for _ in 0..MESSAGES {
            assert_eq!(alice.receive().await["level"], "stored");
        }
        let mut two = broker.connect_as("two", "d", profile).await;
        let (mut seen, mut unacked, mut shares) = (BTreeSet::new(), [Vec::new(), Vec::new()], [0, 0]);
        one.send(&subscribe).await;
        two.send(&subscribe).await;
        while (seen.len() as u64) < MESSAGES {
            let (message, is_two) = tokio::select! {
                message = one.receive() => (message, false),
                message = two.receive() => (message, true),
            };
            if message["type"] != "message" {
                continue;
            }
            let number = message["payload"].as_u64().unwrap();
            assert!(seen.insert(number), "{number} twice");
            unacked[usize::from(is_two)].push(message["id"].clone());
            shares[usize::from(is_two)] += 1;
            // Whoever is faster must not have all by acknowledging before the other is there.
            if shares.iter().all(|share| *share > 0) {
                for (peer, ids) in [&mut one, &mut two].into_iter().zip(&mut unacked) {
                    for id in ids.drain(..) {
                        peer.send(&json!({"type": "ack", "ids": [id], "queue": "w"})).await;
                    }
                }
            }
        }
        one.expect_quiet().await;
        two.expect_quiet().await;
    }
}

#[tokio::test]
async fn another_member_gets_what_one_refuses_loses_or_is_silent_about() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let (mut one, mut two) =
        (member(&broker, "one", "topic/jobs").await, member(&broker, "two", "topic/jobs").await);
    let first = async |one: &mut Peer, two: &mut Peer| {
        tokio::select! {
            message = one.receive() => (message, false),
            message = two.receive() => (message, true),
        }
    };
    // Refused.
    store(&mut alice, "topic/jobs", 1..2).await;
    let (had, is_two) = first(&mut one, &mut two).await;
    let (refuses, other) = if is_two { (&mut two, &mut one) } else { (&mut one, &mut two) };
    refuses.ask_ok(json!({"type": "nack", "ref": 3, "id": had["id"], "queue": "w", "retry_ms": 1})).await;
    let again = &take(other, 1).await[0];
    assert_eq!((&again["id"], &again["attempt"]), (&had["id"], &json!(2)));
    ack(other, &[again]).await;
    refuses.send(&json!({"type": "ack", "ref": 4, "ids": [had["id"]], "queue": "w"})).await;
    refuses.expect_error(1430).await;
    // Silent.
    for peer in [&mut one, &mut two] {
        peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/silent", "queue": "w"})).await;
    }
    store(&mut alice, "topic/silent", 2..3).await;
    let (had, is_two) = first(&mut one, &mut two).await;
    let other = if is_two { &mut one } else { &mut two };
    let again = &take(other, 1).await[0];
    assert_eq!((&again["id"], &again["attempt"]), (&had["id"], &json!(2)));
    ack(other, &[again]).await;
    // Gone.
    store(&mut alice, "topic/jobs", 3..4).await;
    let (had, is_two) = first(&mut one, &mut two).await;
    let (gone, mut other) = if is_two { (two, one) } else { (one, two) };
    drop(gone);
    let again = &take(&mut other, 1).await[0];
    assert_eq!((&again["id"], &again["attempt"]), (&had["id"], &json!(2)));
    ack(&mut other, &[again]).await;
    other.expect_quiet().await;
}

#[tokio::test]
async fn what_nobody_acknowledges_is_a_dead_letter_in_the_end_and_not_given_out_again() {
    let mut broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut one = member(&broker, "one", "topic/jobs").await;
    store(&mut alice, "topic/jobs", 1..2).await;
    for attempt in 1..=3 {
        let had = &take(&mut one, 1).await[0];
        assert_eq!(had.get("attempt").and_then(Value::as_u64).unwrap_or(1), attempt);
        one.ask_ok(json!({"type": "nack", "ref": 3, "id": had["id"], "queue": "w", "reason": "no paper", "retry_ms": 1})).await;
    }
    broker.eventually("it is given up", |broker| {
        let (_, page) = broker.admin("GET", "/v1/dead-letters?recipient=queue/w", None);
        page["dead_letters"][0]["cause"] == "nack"
            && page["dead_letters"][0]["attempts"] == 3
            && page["dead_letters"][0]["detail"].as_str().unwrap().ends_with(": no paper")
    });
    broker.restart_after("TERM");
    let mut two = member(&broker, "two", "topic/jobs").await;
    let mut alice = broker.connect("alice").await;
    store(&mut alice, "topic/jobs", 2..3).await;
    assert_eq!(numbers(&take(&mut two, 1).await), [2]);
}

#[tokio::test]
async fn a_policys_plan_holds_for_a_stored_message_of_a_queue() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut one = member(&broker, "one", "topic/jobs").await;
    // With an answer for it the queue needs nothing of the store any more.
    store(&mut alice, "topic/jobs", 1..2).await;
    let had = &take(&mut one, 1).await[0];
    ack(&mut one, &[had]).await;
    let then = json!({"attempts": 2, "exhausted": "drop", "on": {"nack": {"retry_ms": 1}}});
    let rules = json!({"hook": "ack", "match": ["topic/jobs"], "rules": [{"then": then}]});
    assert_eq!(broker.put_json("/v1/policies/p", &rules).0, 200);
    let delayed = json!({"type": "publish", "to": "topic/jobs", "payload": 3, "ack": "stored", "delay_ms": 1, "ref": 3});
    alice.send_all(&[publish(2, "topic/jobs", 2, "stored"), delayed]).await;
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let had = &take(&mut one, 1).await[0];
        attempts.push((had["payload"].as_u64(), had.get("attempt").map_or(1, |of| of.as_u64().unwrap())));
        one.send(&json!({"type": "nack", "id": had["id"], "queue": "w"})).await;
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(Some(2), 1), (Some(2), 2), (Some(3), 1), (Some(3), 2)]);
    one.expect_quiet().await;
    assert_eq!(broker.admin("GET", "/v1/dead-letters", None).1["dead_letters"], json!([]));
}

#[tokio::test]
async fn a_new_queue_begins_where_its_first_subscriber_says() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let cases = [
        ("x", "now", vec![]),
        ("x", "earliest", vec![0, 1, 2]),
        ("x", "last", vec![2]),
        ("x", "position", vec![2]),
        ("x", "time", vec![0, 1, 2]),
        ("*", "now", vec![]),
        ("*", "earliest", vec![0, 1, 2, 10, 11]),
        ("*", "last", vec![2, 11]),
        (">", "time", vec![0, 1, 2, 10, 11]),
    ];
    for (index, (of, from, mut expected)) in cases.into_iter().enumerate() {
        let to = format!("topic/a{index}");
        store(&mut alice, &format!("{to}.x"), 0..3).await;
        store(&mut alice, &format!("{to}.y"), 10..12).await;
        let (_, page) = broker.admin("GET", &format!("/v1/history/{to}.x"), None);
        let from = match from {
            "position" => page["messages"][1]["pos"].as_str().unwrap().to_owned(),
            "time" => page["messages"][0]["ts"].as_u64().unwrap().to_string(),
            word => word.to_owned(),
        };
        let mut one = broker.connect("one").await;
        let to = format!("{to}.{of}");
        one.ask_ok(json!({"type": "subscribe", "ref": 1, "to": to, "queue": "w", "from": from})).await;
        // Behind what was there before.
        store(&mut alice, &to.replace(['*', '>'], "x"), 99..100).await;
        expected.push(99);
        let mut got = numbers(&take(&mut one, expected.len()).await);
        one.expect_quiet().await;
        got.sort_unstable();
        assert_eq!(got, expected, "{to} from {from}");
    }
    let mut one = broker.connect("one").await;
    let subscribe = json!({"type": "subscribe", "ref": 1, "to": "topic/a.*", "queue": "w", "from": "s1e1:1"});
    one.send(&subscribe).await;
    one.expect_error(1400).await;
}

#[tokio::test]
async fn a_queue_that_is_known_goes_on_whatever_a_subscriber_says() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    store(&mut alice, "topic/a", 0..2).await;
    let mut one = member(&broker, "one", "topic/a").await;
    store(&mut alice, "topic/a", 2..4).await;
    let had = take(&mut one, 2).await;
    ack(&mut one, &[&had[0]]).await;
    let mut two = broker.connect("two").await;
    two.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/a", "queue": "w", "from": "earliest"}))
        .await;
    two.expect_quiet().await;
    drop(one);
    assert_eq!(numbers(&take(&mut two, 1).await), [3]);
}

#[tokio::test]
async fn delivered_messages_that_are_kept_survive_the_end_of_their_tracker() {
    let mut broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut one = member(&broker, "one", "topic/jobs.*").await;
    alice.send_all(&(0..4).map(|n| publish(n, "topic/jobs.x", n, "delivered")).collect::<Vec<_>>()).await;
    let had = take(&mut one, 4).await;
    ack(&mut one, &[&had[0], &had[2]]).await;
    for _ in 0..2 {
        assert_eq!(alice.receive().await["level"], "delivered");
    }
    one.expect_quiet().await;
    // Everything that was acknowledged is saved by an orderly stop, and the tracker is gone with the broker.
    broker.restart_after("TERM");
    let mut two = member(&broker, "two", "topic/jobs.*").await;
    let again = take(&mut two, 2).await;
    assert_eq!(numbers(&again), [1, 3]);
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(9, "topic/jobs.x", 9, "delivered")).await;
    let nine = take(&mut two, 1).await;
    ack(&mut two, &[&nine[0], &again[0], &again[1]]).await;
    alice.expect_receipt(9, "delivered").await;
    two.expect_quiet().await;
}

#[tokio::test]
async fn a_member_that_does_not_read_or_acknowledge_keeps_nobody_waiting() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let _stuck = member(&broker, "stuck", "topic/jobs").await;
    let mut one = member(&broker, "one", "topic/jobs").await;
    let body = "x".repeat(2_000);
    let mut seen = 0;
    for round in 0..40 {
        let frames: Vec<_> = (0..100)
            .map(|n| with(publish(n, "topic/jobs", 0, "none"), json!({"payload": [round, n, body]})))
            .collect();
        alice.send_all(&frames).await;
        alice.expect_quiet().await;
    }
    // It is given no more than a member may have: everything else comes to the other one.
    while seen < 4_000 - 1_024 {
        let message = one.receive().await;
        assert_eq!(message["type"], "message", "{message}");
        seen += 1;
        one.send(&json!({"type": "ack", "ids": [message["id"]], "queue": "w"})).await;
    }
}

#[tokio::test]
async fn a_message_to_two_addresses_of_a_queue_is_acknowledged_for_each() {
    let broker = Broker::start_with_config(KEEPS);
    let mut one = member(&broker, "one", "topic/>").await;
    let mut alice = broker.connect("alice").await;
    store(&mut alice, "topic/a", 1..2).await;
    store(&mut alice, "topic/b", 2..3).await;
    let had = take(&mut one, 2).await;
    ack(&mut one, &[&had[0], &had[1]]).await;
    drop(one);
    let mut two = member(&broker, "two", "topic/>").await;
    two.expect_quiet().await;
    store(&mut alice, "topic/c", 3..4).await;
    assert_eq!(numbers(&take(&mut two, 1).await), [3]);
}

/// A member that acknowledges most of what it gets, until its connection ends; gives what it got.
async fn consume(mut peer: Peer) -> BTreeSet<u64> {
    let mut got = BTreeSet::new();
    while let Ok(frame) = peer.next().await {
        let Ok(text) = frame.to_text() else { continue };
        let Ok(frame) = serde_json::from_str::<Value>(text) else { continue };
        if let Some(number) = frame["payload"].as_u64() {
            got.insert(number);
            if number % 7 != 3 {
                let ack = json!({"type": "ack", "ids": [frame["id"]], "queue": "w"});
                // It may have been killed by now.
                _ = peer.socket.send(Message::text(ack.to_string())).await;
            }
        }
    }
    got
}

#[tokio::test]
async fn every_message_that_was_promised_reaches_a_member_whenever_the_broker_is_killed() {
    let mut broker = Broker::start();
    let (mut promised, mut got) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..5_u64 {
        let mut members = Vec::new();
        for user in ["one", "two"] {
            members.push(tokio::spawn(consume(member(&broker, user, "topic/jobs.*").await)));
        }
        let mut alice = broker.connect("alice").await;
        for number in round * 1_000..round * 1_000 + 60 + 20 * round {
            let to = format!("topic/jobs.{}", number % 5);
            assert_eq!(alice.ask(publish(number, &to, number, "stored")).await["level"], "stored");
            promised.insert(number);
        }
        broker.restart();
        for member in members {
            got.extend(member.await.unwrap());
        }
    }
    let mut last = member(&broker, "last", "topic/jobs.*").await;
    // What nobody acknowledged comes now, whether it was received or not.
    let unacked = promised.iter().filter(|number| *number % 7 == 3);
    let mut missing: BTreeSet<_> = unacked.chain(promised.difference(&got)).copied().collect();
    while !missing.is_empty() {
        let message = last.receive().await;
        missing.remove(&message["payload"].as_u64().unwrap());
        last.send(&json!({"type": "ack", "ids": [message["id"]], "queue": "w"})).await;
    }
}
