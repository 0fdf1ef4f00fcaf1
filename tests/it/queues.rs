//! Acknowledgements of tracked deliveries: which ones count, and what follows from the others; queues.

use crate::harness::{Broker, Peer};
use crate::levels::{IMPATIENT, PROFILES, publish, with};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

async fn member(broker: &Broker, user: &str, profile: &str) -> Peer {
    let mut peer = broker.connect_as(user, "d", profile).await;
    peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.>", "queue": "w"})).await;
    peer
}

/// The next message that one of two peers gets, and whether it was the second.
async fn either(one: &mut Peer, two: &mut Peer) -> (Value, bool) {
    tokio::select! {
        frame = one.receive() => (frame, false),
        frame = two.receive() => (frame, true),
    }
}

#[tokio::test]
async fn acks_count_cumulatively_and_by_id_in_any_order() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as("bob", "b", profile).await;
        let frames: Vec<_> = (0..6).map(|i| publish(i, "user/bob", i, "delivered")).collect();
        alice.send_all(&frames).await;
        let mut got = Vec::new();
        for i in 0..6_u64 {
            got.push(bob.expect_message(i).await);
        }
        bob.ack(&got[4]).await;
        alice.expect_receipt(4, "delivered").await;
        bob.ask_ok(json!({"type": "ack", "ref": 1, "to": "user/bob", "upto": got[2]["pos"]})).await;
        for i in 0..3 {
            alice.expect_receipt(i, "delivered").await;
        }
        alice.expect_quiet().await;
        // A cumulative ack repeats itself without harm; a single one is told.
        bob.ask_ok(json!({"type": "ack", "ref": 2, "to": "user/bob", "upto": got[2]["pos"]})).await;
        bob.send(&json!({"type": "ack", "ref": 3, "ids": [got[4]["id"]]})).await;
        assert_eq!(bob.expect_error(1430).await["ref"], 3);
        bob.send(&json!({"type": "nack", "ref": 4, "id": got[4]["id"]})).await;
        assert_eq!(bob.expect_error(1430).await["ref"], 4);
        bob.send(&json!({"type": "nack", "id": got[4]["id"]})).await;
        bob.expect_quiet().await;
        bob.ask_ok(json!({"type": "ack", "ref": 5, "ids": [got[5]["id"], got[3]["id"]]})).await;
        let mut refs = [alice.receive().await["ref"].clone(), alice.receive().await["ref"].clone()];
        refs.sort_by_key(Value::as_u64);
        assert_eq!(refs, [3, 5]);
    }
}

#[tokio::test]
async fn another_session_cannot_acknowledge() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let (mut bob, mut mallory) = (broker.connect("bob").await, broker.connect("mallory").await);
    alice.send(&publish(1, "user/bob", 1, "delivered")).await;
    let message = bob.expect_message(1).await;
    for (reference, frame) in [
        (1, json!({"type": "ack", "ref": 1, "ids": [message["id"]]})),
        (2, json!({"type": "ack", "ref": 2, "to": "user/bob", "upto": message["pos"]})),
        (3, json!({"type": "nack", "ref": 3, "id": message["id"]})),
        (4, json!({"type": "ack", "ref": 4, "ids": [message["id"]], "queue": "w"})),
    ] {
        mallory.send(&frame).await;
        assert_eq!(mallory.expect_error(1430).await["ref"], reference);
    }
    alice.expect_quiet().await;
    bob.ack(&message).await;
    alice.expect_receipt(1, "delivered").await;
}

#[tokio::test]
async fn who_publishes_to_itself_acknowledges_itself() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        alice.send(&publish(1, "user/alice", "memo", "delivered")).await;
        let message = alice.expect_message("memo").await;
        alice.send(&json!({"type": "ack", "ids": [message["id"]]})).await;
        alice.expect_receipt(1, "delivered").await;
    }
}

#[tokio::test]
async fn a_refused_message_comes_again_when_its_recipient_says() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as("bob", "b", profile).await;
        alice.send(&publish(1, "user/bob", 1, "delivered")).await;
        let first = bob.expect_message(1).await;
        let refused = Instant::now();
        bob.ask_ok(json!({"type": "nack", "ref": 2, "id": first["id"], "reason": "busy", "retry_ms": 60}))
            .await;
        let second = bob.expect_message(1).await;
        assert!(refused.elapsed() >= Duration::from_millis(60));
        assert_eq!(
            (&second["id"], &second["pos"], &second["attempt"]),
            (&first["id"], &first["pos"], &json!(2))
        );
        assert_eq!(second["ack"], true);
        bob.ack(&second).await;
        alice.expect_receipt(1, "delivered").await;
        bob.expect_quiet().await;
    }
}

#[tokio::test]
async fn silence_is_a_failed_attempt_and_a_late_ack_counts() {
    let broker = Broker::start_with_config(&IMPATIENT.replace("attempts = 2", "attempts = 20"));
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    alice.send(&publish(1, "user/bob", 1, "delivered")).await;
    let first = bob.expect_message(1).await;
    for attempt in 2..4 {
        let again = bob.expect_message(1).await;
        assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(attempt)));
    }
    bob.ack(&first).await;
    alice.expect_receipt(1, "delivered").await;
}

#[tokio::test]
async fn a_lost_connection_hands_the_message_to_the_next_session() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    alice.send(&publish(1, "user/bob", 1, "delivered")).await;
    let first = bob.expect_message(1).await;
    drop(bob);
    let mut bob = broker.connect_as("bob", "next", PROFILES[1]).await;
    let again = bob.expect_message(1).await;
    assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(2)));
    alice.expect_quiet().await;
    bob.ack(&again).await;
    alice.expect_receipt(1, "delivered").await;
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_subscriber_that_comes_back_gets_what_it_did_not_acknowledge() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let subscribe = json!({"type": "subscribe", "ref": 1, "to": "topic/t"});
    let mut bob = broker.connect("bob").await;
    bob.ask_ok(subscribe.clone()).await;
    alice.send(&publish(1, "topic/t", 1, "delivered")).await;
    let first = bob.expect_message(1).await;
    drop(bob);
    let mut bob = broker.connect("bob").await;
    bob.ask_ok(subscribe).await;
    let again = bob.expect_message(1).await;
    assert_eq!(again["id"], first["id"]);
    bob.ack(&again).await;
    alice.expect_receipt(1, "delivered").await;
}

#[tokio::test]
async fn a_queue_shares_and_a_key_sticks() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut members = [member(&broker, "one", profile).await, member(&broker, "two", profile).await];
        let frames: Vec<_> = (0..100)
            .map(|i| with(publish(i, "topic/jobs.x", i, "delivered"), json!({"key": format!("k{}", i % 10)})))
            .collect();
        alice.send_all(&frames).await;
        let [one, two] = &mut members;
        let mut of_key: HashMap<String, HashSet<bool>> = HashMap::new();
        let mut seen = HashSet::new();
        let mut last: HashMap<String, u64> = HashMap::new();
        for _ in 0..100 {
            let (frame, is_two) = either(one, two).await;
            assert_eq!((&frame["queue"], &frame["ack"]), (&json!("w"), &json!(true)), "{frame}");
            let (key, number) =
                (frame["key"].as_str().unwrap().to_owned(), frame["payload"].as_u64().unwrap());
            assert!(last.insert(key.clone(), number).is_none_or(|last| last < number), "order of a key");
            assert!(seen.insert(number), "each goes to one of them");
            of_key.entry(key).or_default().insert(is_two);
            let peer = if is_two { &mut *two } else { &mut *one };
            peer.send(&json!({"type": "ack", "ids": [frame["id"]], "queue": "w"})).await;
        }
        assert!(of_key.values().all(|members| members.len() == 1), "a key goes to one member: {of_key:?}");
        assert!(of_key.values().flatten().collect::<HashSet<_>>().len() == 2, "both have keys");
        for _ in 0..100 {
            let receipt = alice.receive().await;
            assert_eq!(
                (&receipt["level"], &receipt["recipients"]),
                (&json!("delivered"), &json!(1)),
                "{receipt}"
            );
        }
    }
}

#[tokio::test]
async fn another_member_takes_over_what_one_refuses_or_leaves() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut members = [member(&broker, "one", profile).await, member(&broker, "two", profile).await];
        let take = async |members: &mut [Peer; 2]| {
            let [one, two] = members;
            let (frame, is_two) = either(one, two).await;
            (frame, usize::from(is_two))
        };
        // Refused.
        alice.send(&publish(1, "topic/jobs.x", "refused", "delivered")).await;
        let (first, had) = take(&mut members).await;
        let nack = json!({"type": "nack", "ref": 9, "id": first["id"], "retry_ms": 1});
        members[had].send(&nack).await;
        members[had].expect_error(1430).await; // it came by a queue
        members[had].ask_ok(with(nack, json!({"queue": "w"}))).await;
        let again = members[1 - had].expect_message("refused").await;
        assert_eq!(
            (&again["id"], &again["attempt"], &again["queue"]),
            (&first["id"], &json!(2), &json!("w"))
        );
        members[1 - had].ask_ok(json!({"type": "ack", "ref": 1, "ids": [first["id"]], "queue": "w"})).await;
        alice.expect_receipt(1, "delivered").await;
        // The member leaves with a message in its hands.
        alice.send(&publish(2, "topic/jobs.x", "left", "delivered")).await;
        let (first, had) = take(&mut members).await;
        let [one, two] = members;
        let (leaver, mut other) = if had == 0 { (one, two) } else { (two, one) };
        drop(leaver);
        let again = other.expect_message("left").await;
        assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(2)));
        other.ask_ok(json!({"type": "ack", "ref": 1, "ids": [again["id"]], "queue": "w"})).await;
        alice.expect_receipt(2, "delivered").await;
        other.expect_quiet().await;
    }
}

#[tokio::test]
async fn another_member_takes_over_from_one_that_is_silent() {
    let broker =
        Broker::start_with_config(&IMPATIENT.replace("ack_timeout_ms = 150", "ack_timeout_ms = 1500"));
    let mut alice = broker.connect("alice").await;
    let (mut one, mut two) =
        (member(&broker, "one", PROFILES[0]).await, member(&broker, "two", PROFILES[0]).await);
    alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
    let (first, is_two) = either(&mut one, &mut two).await;
    let (silent, other) = if is_two { (&mut two, &mut one) } else { (&mut one, &mut two) };
    let again = other.expect_message(1).await;
    assert_eq!((&again["id"], &again["attempt"]), (&first["id"], &json!(2)));
    other.ask_ok(json!({"type": "ack", "ref": 1, "ids": [again["id"]], "queue": "w"})).await;
    alice.expect_receipt(1, "delivered").await;
    silent.expect_quiet().await;
}

#[tokio::test]
async fn a_queue_without_members_is_nobody_and_one_that_lost_them_waits() {
    let broker =
        Broker::start_with_config(&IMPATIENT.replace("ack_timeout_ms = 150", "ack_timeout_ms = 1500"));
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 1);
    let mut one = member(&broker, "one", PROFILES[0]).await;
    alice.send(&publish(2, "topic/jobs.x", 2, "delivered")).await;
    one.expect_message(2).await;
    drop(one);
    // The next member gets it.
    let mut two = member(&broker, "two", PROFILES[0]).await;
    let again = two.expect_message(2).await;
    two.ask_ok(json!({"type": "ack", "ref": 1, "ids": [again["id"]], "queue": "w"})).await;
    alice.expect_receipt(2, "delivered").await;
    alice.send(&publish(3, "topic/jobs.x", 3, "delivered")).await;
    two.expect_message(3).await;
    drop(two);
    assert_eq!(alice.expect_error(1511).await["ref"], 3, "nobody came in time");
}

#[tokio::test]
async fn a_member_that_subscribes_plainly_too_gets_both() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut one = member(&broker, "one", PROFILES[0]).await;
    one.ask_ok(json!({"type": "subscribe", "ref": 2, "to": "topic/jobs.x"})).await;
    alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
    let (first, second) = (one.expect_message(1).await, one.expect_message(1).await);
    assert_eq!(first["id"], second["id"]);
    assert_ne!(first.get("queue"), second.get("queue"));
    one.ask_ok(json!({"type": "ack", "ref": 3, "ids": [first["id"]]})).await;
    alice.expect_quiet().await;
    one.ask_ok(json!({"type": "ack", "ref": 4, "ids": [first["id"]], "queue": "w"})).await;
    assert_eq!(alice.expect_receipt(1, "delivered").await["recipients"], 2);
}

#[tokio::test]
async fn queues_of_one_name_on_two_patterns_are_two() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut rest = member(&broker, "rest", profile).await;
        let mut token = broker.connect_as("token", "d", profile).await;
        token.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.*", "queue": "w"})).await;
        alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
        let (first, second) = (rest.expect_message(1).await, token.expect_message(1).await);
        assert_eq!((&first["queue"], &second["queue"]), (&json!("w"), &json!("w")));
        token
            .ask_ok(json!({"type": "nack", "ref": 2, "id": second["id"], "queue": "w", "retry_ms": 1}))
            .await;
        let again = token.expect_message(1).await;
        assert_eq!(again["attempt"], 2, "to its own queue, which has no other member");
        rest.ask_ok(json!({"type": "ack", "ref": 2, "ids": [first["id"]], "queue": "w"})).await;
        alice.expect_quiet().await;
        token.ask_ok(json!({"type": "ack", "ref": 3, "ids": [again["id"]], "queue": "w"})).await;
        assert_eq!(alice.expect_receipt(1, "delivered").await["recipients"], 2);
        rest.expect_quiet().await;
    }
}

#[tokio::test]
async fn one_ack_is_for_all_deliveries_of_a_message_that_say_the_same_queue() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut both = member(&broker, "both", profile).await;
        both.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.*", "queue": "w"})).await;
        alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
        let (first, second) = (both.expect_message(1).await, both.expect_message(1).await);
        assert_eq!((&first["id"], &first["queue"]), (&second["id"], &second["queue"]));
        both.ask_ok(json!({"type": "ack", "ref": 2, "ids": [first["id"]], "queue": "w"})).await;
        assert_eq!(alice.expect_receipt(1, "delivered").await["recipients"], 2);
        both.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_dead_letter_says_which_queue() {
    let broker = Broker::start_with_config(IMPATIENT);
    let mut alice = broker.connect("alice").await;
    let mut both = member(&broker, "both", PROFILES[0]).await;
    both.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.*", "queue": "w"})).await;
    alice.send(&publish(1, "topic/jobs.x", 1, "delivered")).await;
    alice.expect_error(1511).await;
    let recipients = |query: &str| {
        let (status, page) = broker.admin("GET", &format!("/v1/dead-letters{query}"), None);
        assert_eq!(status, 200, "{page}");
        let letters = page["dead_letters"].as_array().unwrap().clone();
        letters.iter().map(|letter| letter["recipient"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    broker.eventually("both queues gave it up", |_| recipients("").len() == 2);
    assert_eq!(recipients("?recipient=queue/w"), ["queue/w/topic/jobs.*", "queue/w/topic/jobs.>"]);
    assert_eq!(recipients("?recipient=queue/w/topic/jobs.*"), ["queue/w/topic/jobs.*"]);
}
