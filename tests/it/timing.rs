//! What a message says about time: how long it is worth delivering, and when it may be.

use crate::harness::{Broker, PATIENCE};
use crate::levels::{PROFILES, publish, with};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::{Address, Level, MessageId, Position, Stream};
use waspmq_store::{Durability, FjallStore, Store, StoreOptions, Write};

#[tokio::test]
async fn what_has_expired_is_not_in_the_inbox() {
    let broker = Broker::start();
    for profile in PROFILES {
        let user = profile.replace('.', "-");
        let to = format!("user/{user}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let started = Instant::now();
        for (i, ttl_ms) in [(1, 50), (2, 60_000)] {
            alice.send(&with(publish(i, &to, i, "stored"), json!({"ttl_ms": ttl_ms}))).await;
            alice.expect_receipt(i, "stored").await;
        }
        while started.elapsed() < Duration::from_millis(80) {
            alice.expect_quiet().await;
        }
        let mut bob = broker.connect_as(&user, "b", profile).await;
        bob.expect_message(2).await;
        bob.expect_quiet().await;
        let page = bob.ask(json!({"type": "history", "ref": 1, "of": to})).await;
        assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_expires_in_flight_is_an_error() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as("bob", "b", profile).await;
        alice.send(&with(publish(1, "user/bob", 1, "delivered"), json!({"ttl_ms": 60}))).await;
        let message = bob.expect_message(1).await;
        let error = alice.expect_error(1512).await;
        assert_eq!((&error["ref"], &error["name"]), (&json!(1), &json!("expired")));
        // The ack comes too late and harms nobody.
        bob.send(&json!({"type": "ack", "ids": [message["id"]]})).await;
        bob.expect_quiet().await;
        alice.expect_quiet().await;
        alice.send(&with(publish(2, "user/away", 2, "delivered"), json!({"ttl_ms": 30}))).await;
        assert_eq!(alice.expect_error(1512).await["ref"], 2);
    }
}

#[tokio::test]
async fn a_delayed_message_comes_at_its_time() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as("bob", "b", profile).await;
        let started = Instant::now();
        let delayed = |i, level, ms: u64| with(publish(i, "user/bob", i, level), json!({"delay_ms": ms}));
        alice.send(&delayed(1, "accepted", 2_000)).await;
        alice.expect_receipt(1, "accepted").await;
        alice.send(&delayed(2, "delivered", 100)).await;
        alice.send(&publish(3, "user/bob", 3, "accepted")).await;
        alice.expect_receipt(3, "accepted").await;
        bob.expect_message(3).await;
        let second = bob.expect_message(2).await;
        assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
        bob.ack(&second).await;
        alice.expect_receipt(2, "delivered").await;
        bob.expect_message(1).await;
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test]
async fn a_delayed_stored_message_survives_a_kill() {
    let mut broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut ids = Vec::new();
    for (i, delay_ms) in [(1, 1_200_u64), (2, 600), (3, 1)] {
        alice.send(&with(publish(i, "user/bob", i, "stored"), json!({"delay_ms": delay_ms}))).await;
        ids.push(alice.expect_receipt(i, "stored").await["id"].clone());
    }
    let published = Instant::now();
    broker.restart();
    let mut bob = broker.connect("bob").await;
    for i in [3, 2, 1_usize] {
        assert_eq!(bob.expect_message(i).await["id"], ids[i - 1]);
    }
    assert!(published.elapsed() >= Duration::from_millis(1_100));
    // What is stored later is on disk, so this is.
    bob.send(&publish(9, "user/carol", 9, "stored")).await;
    bob.expect_receipt(9, "stored").await;
    broker.restart();
    let mut bob = broker.connect_as("bob", "other", PROFILES[0]).await;
    let mut carol = broker.connect("carol").await;
    let frames = bob.receive_until_marker("bob", &mut carol).await;
    let kept: Vec<_> = frames.iter().map(|frame| frame["payload"].clone()).collect();
    assert_eq!(kept, [3, 2, 1], "they are in the inbox, each once");
}

#[tokio::test]
async fn a_delayed_message_that_was_stored_is_not_lost_for_want_of_a_reader() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    alice.send(&with(publish(1, "topic/t", 1, "stored"), json!({"delay_ms": 20}))).await;
    alice.expect_receipt(1, "stored").await;
    let mut page = Value::Null;
    let started = Instant::now();
    while page["messages"].as_array().is_none_or(Vec::is_empty) {
        assert!(started.elapsed() < PATIENCE, "it is in the history");
        page = alice.ask(json!({"type": "history", "ref": 2, "of": "topic/t"})).await;
    }
    assert_eq!(page["messages"][0]["payload"], 1);
}

/// A message of the run that made the directory.
fn delayed(to: &str, number: u64) -> Arc<Batch> {
    let mut batch = Batch {
        to: Address::parse(to).unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: false,
        unix_ms: 1,
        published_us: 0,
        first: Position { stream: Stream { shard: 0, epoch: 0 }, offset: 0 },
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    let payload = batch.store(number.to_string().as_bytes());
    batch.messages.push(Envelope {
        id: MessageId::new(1, 0, 0, number),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload,
        headers: Slice::default(),
        key: Slice::default(),
        reply_to: Slice::default(),
    });
    Arc::new(batch)
}

#[tokio::test]
async fn more_delayed_messages_than_workers_hold_all_come_at_their_time() {
    const COUNT: u64 = 25_000;
    let data = Arc::new(tempfile::tempdir().unwrap());
    let store_path = data.path().join("store");
    let (store, _) = FjallStore::open(StoreOptions::new(store_path), &mut |_| {}).unwrap();
    let now_unix_ms =
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let due_unix_ms = |number| now_unix_ms - number;
    let write =
        |number| Write::Delayed { due_unix_ms: due_unix_ms(number), batch: delayed("user/bob", number) };
    let writes: Vec<_> = (1..=COUNT).map(write).collect();
    for writes in writes.chunks(1_000) {
        store.commit(writes, Durability::Buffered).unwrap();
    }
    store.commit(&[], Durability::Synced).unwrap();
    drop(store);
    let broker = Broker::start_on(&data, &[]);
    let mut bob = broker.connect("bob").await;
    let mut found = HashSet::new();
    while found.len() < usize::try_from(COUNT).unwrap() {
        let frame = bob.receive().await;
        assert_eq!(frame["type"], "message", "{frame}");
        assert!(found.insert(frame["payload"].as_u64().unwrap()), "twice: {frame}");
    }
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_delayed_message_leaves_its_publisher_out_too() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    for peer in [&mut alice, &mut bob] {
        peer.ask_ok(json!({"type": "join", "ref": 1, "group": "g"})).await;
    }
    let more = json!({"delay_ms": 20, "exclude_self": true});
    alice.send(&with(publish(1, "group/g", 1, "delivered"), more)).await;
    let message = bob.expect_message(1).await;
    bob.ack(&message).await;
    assert_eq!(alice.expect_receipt(1, "delivered").await["recipients"], 1);
}

#[tokio::test]
async fn a_delayed_delivery_that_nobody_is_there_for_fails() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    alice.send(&with(publish(1, "topic/nobody", 1, "delivered"), json!({"delay_ms": 10}))).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 1);
    // The time to live is counted from the publish.
    alice.send(&with(publish(2, "user/away", 2, "delivered"), json!({"delay_ms": 60, "ttl_ms": 20}))).await;
    assert_eq!(alice.expect_error(1512).await["ref"], 2);
}

#[tokio::test]
async fn a_key_is_taken_while_its_message_is_delayed() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    for (level, base) in [("accepted", 10), ("stored", 20)] {
        let frame = with(publish(base, "user/bob", base, level), json!({"delay_ms": 100, "dedup": level}));
        alice.send(&frame).await;
        let first = alice.expect_receipt(base, level).await;
        alice.send(&with(frame, json!({"ref": base + 1}))).await;
        assert_eq!(alice.expect_receipt(base + 1, level).await["id"], first["id"]);
        bob.expect_message(base).await;
    }
    let frames = bob.receive_until_marker("bob", &mut alice).await;
    assert!(frames.is_empty(), "{frames:?}");
}

#[tokio::test]
async fn what_a_message_carries_arrives_at_once_and_from_the_store() {
    let broker = Broker::start();
    for profile in PROFILES {
        let user = profile.replace('.', "-");
        let to = format!("user/{user}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as(&user, "b", profile).await;
        let carried = json!({"priority": 7, "reply_to": "user/alice", "key": "k", "headers": {"h": "v"}});
        for level in ["accepted", "stored", "delivered"] {
            alice.send(&with(publish(1, &to, level, level), carried.clone())).await;
            let message = bob.expect_message(level).await;
            for (field, value) in carried.as_object().unwrap() {
                assert_eq!(&message[field], value, "{level}: {field}");
            }
            assert_eq!((&message["from"], &message["to"]), (&json!("alice"), &json!(to)));
            bob.send(&json!({"type": "ack", "ids": [message["id"]]})).await;
            assert_eq!(alice.receive().await["level"], level);
        }
        let page = bob.ask(json!({"type": "history", "ref": 1, "of": to})).await;
        let message = &page["messages"][0];
        assert_eq!(message["payload"], "stored");
        for (field, value) in carried.as_object().unwrap() {
            assert_eq!(&message[field], value, "history: {field}");
        }
    }
}
