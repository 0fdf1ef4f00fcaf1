//! What a receipt of each level promises, and who must have acknowledged what for it.

use crate::harness::{Broker, Peer};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use waspmq_core::MessageId;
use waspmq_store::{DeadLetter, FjallStore, Store, StoreOptions};

pub(crate) const PROFILES: [&str; 5] = ["waspmq.v1.json", "waspmq.v1.bin", "quic", "webtransport", "sse"];

/// Every attempt fails fast. No jitter, so that bounds of time can be told.
pub(crate) const IMPATIENT: &str = r#"
[[address]]
match = "user/*"
ack_timeout_ms = 150
attempts = 2
backoff_ms = 10
backoff_max_ms = 20
backoff_jitter_percent = 0

[[address]]
match = "group/*"
ack_timeout_ms = 150
attempts = 2
backoff_ms = 10
backoff_max_ms = 20
backoff_jitter_percent = 0

[[address]]
match = "topic/>"
ack_timeout_ms = 150
attempts = 2
backoff_ms = 10
backoff_max_ms = 20
backoff_jitter_percent = 0
"#;

pub(crate) fn publish(reference: u64, to: &str, payload: impl Into<Value>, level: &str) -> Value {
    json!({"type": "publish", "ref": reference, "to": to, "payload": payload.into(), "ack": level})
}

pub(crate) fn with(mut frame: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("fields") };
    frame.as_object_mut().unwrap().extend(more);
    frame
}

impl Peer {
    /// The next frame, which is a message with this payload.
    pub(crate) async fn expect_message(&mut self, payload: impl Into<Value>) -> Value {
        let frame = self.receive().await;
        assert_eq!((&frame["type"], &frame["payload"]), (&json!("message"), &payload.into()), "{frame}");
        frame
    }

    /// The next frame, which is the receipt of this publish at this level.
    pub(crate) async fn expect_receipt(&mut self, reference: u64, level: &str) -> Value {
        let frame = self.receive().await;
        let got = (&frame["type"], &frame["ref"], &frame["level"]);
        assert_eq!(got, (&json!("receipt"), &json!(reference), &json!(level)), "{frame}");
        frame
    }

    /// Acknowledges a message by its id and waits until that is done.
    pub(crate) async fn ack(&mut self, message: &Value) {
        let done = self.ask(json!({"type": "ack", "ref": 901, "ids": [message["id"]]})).await;
        assert_eq!(done, json!({"type": "ok", "ref": 901}));
    }

    pub(crate) async fn ask_ok(&mut self, frame: Value) {
        let answer = self.ask(frame.clone()).await;
        assert_eq!(answer["type"], "ok", "{answer} for {frame}");
    }

    /// Everything that is there now, up to the answer to a ping.
    pub(crate) async fn drain(&mut self) -> Vec<Value> {
        self.send(&json!({"type": "ping"})).await;
        let mut frames = Vec::new();
        loop {
            let frame = self.receive().await;
            if frame["type"] == "pong" {
                return frames;
            }
            frames.push(frame);
        }
    }
}

/// What the store of a broker that has ended says.
fn dead_letters(broker: &mut Broker) -> Vec<DeadLetter> {
    broker.signal("TERM");
    assert_eq!(broker.wait().code(), Some(0));
    let options = StoreOptions::new(broker.data.path().join("store"));
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    store.dead_letters(None, 100).unwrap()
}

#[tokio::test]
async fn none_and_accepted_say_no_more_than_they_are() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as("bob", "b", profile).await;
        alice.send(&publish(1, "user/bob", "quiet", "none")).await;
        alice.send(&publish(2, "user/bob", "loud", "accepted")).await;
        let receipt = alice.expect_receipt(2, "accepted").await;
        assert_eq!(receipt["recipients"], 1);
        let quiet = bob.expect_message("quiet").await;
        assert!(quiet.get("ack").is_none(), "nothing waits for an ack: {quiet}");
        let loud = bob.expect_message("loud").await;
        assert_eq!(loud["id"], receipt["id"]);
        alice.expect_quiet().await;
        // Nobody listens: accepted all the same.
        let receipt = alice.ask(publish(3, "topic/nobody", 1, "accepted")).await;
        assert_eq!((&receipt["level"], &receipt["recipients"]), (&json!("accepted"), &json!(0)));
    }
}

#[tokio::test]
async fn stored_survives_a_kill() {
    let mut broker = Broker::start();
    let mut ids = Vec::new();
    {
        let mut alice = broker.connect("alice").await;
        for i in 0..20 {
            alice.send(&publish(i, "user/bob", i, "stored")).await;
            ids.push(alice.expect_receipt(i, "stored").await["id"].clone());
        }
    }
    broker.restart();
    for profile in PROFILES {
        let mut bob = broker.connect_as("bob", profile, profile).await;
        for (i, id) in ids.iter().enumerate() {
            let message = bob.expect_message(i).await;
            assert_eq!((&message["id"], &message["from"]), (id, &json!("alice")));
            assert_eq!(message["ack"], true, "it moves the device's cursor");
        }
        bob.expect_quiet().await;
    }
}

#[tokio::test]
async fn delivered_waits_for_one_ack_of_the_user() {
    let broker = Broker::start();
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut phone = broker.connect_as("bob", "phone", profile).await;
        let mut laptop = broker.connect_as("bob", "laptop", profile).await;
        alice.send(&publish(1, "user/bob", "hi", "delivered")).await;
        let message = phone.expect_message("hi").await;
        assert_eq!(laptop.expect_message("hi").await["id"], message["id"]);
        assert_eq!((&message["ack"], message.get("attempt")), (&json!(true), None));
        alice.expect_quiet().await;
        laptop.ack(&message).await;
        let receipt = alice.expect_receipt(1, "delivered").await;
        assert_eq!((&receipt["id"], &receipt["recipients"]), (&message["id"], &json!(1)));
        // The other device's ack is fine, and nobody hears of it.
        phone.ack(&message).await;
        alice.expect_quiet().await;
    }
}

#[tokio::test]
async fn delivered_to_a_group_waits_for_all_members() {
    let broker = Broker::start();
    let mut members = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let mut peer = broker.connect(user).await;
        peer.ask_ok(json!({"type": "join", "ref": 1, "group": "g"})).await;
        members.push(peer);
    }
    let [alice, bob, carol] = &mut members[..] else { panic!() };
    alice.send(&with(publish(7, "group/g", "all", "delivered"), json!({"exclude_self": true}))).await;
    let message = bob.expect_message("all").await;
    carol.expect_message("all").await;
    bob.ack(&message).await;
    alice.expect_quiet().await;
    carol.ack(&message).await;
    assert_eq!(alice.expect_receipt(7, "delivered").await["recipients"], 2, "the publisher is left out");
    // Without exclude_self the publisher's own ack counts.
    alice.send(&publish(8, "group/g", "too", "delivered")).await;
    let message = alice.expect_message("too").await;
    for peer in [&mut *bob, &mut *carol] {
        peer.expect_message("too").await;
        peer.ack(&message).await;
    }
    alice.expect_quiet().await;
    alice.send(&json!({"type": "ack", "ids": [message["id"]]})).await;
    assert_eq!(alice.expect_receipt(8, "delivered").await["recipients"], 3);
}

#[tokio::test]
async fn a_quorum_is_enough() {
    let broker = Broker::start_with_config(
        "[[address]]\nmatch = \"topic/any.>\"\nquorum = \"any\"\n\
         [[address]]\nmatch = \"topic/two.>\"\nquorum = 2\n",
    );
    let mut alice = broker.connect("alice").await;
    let mut readers = Vec::new();
    for user in ["a", "b", "c"] {
        let mut peer = broker.connect(user).await;
        peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
        readers.push(peer);
    }
    for (to, needed) in [("topic/any.x", 1), ("topic/two.x", 2), ("topic/all.x", 3)] {
        alice.send(&publish(needed, to, to, "delivered")).await;
        let mut message = Value::Null;
        for reader in &mut readers {
            message = reader.expect_message(to).await;
        }
        for (acks, reader) in (1..).zip(&mut readers) {
            reader.ack(&message).await;
            if acks == needed {
                let receipt = alice.expect_receipt(needed, "delivered").await;
                assert_eq!(receipt["recipients"], needed, "{to}");
            } else {
                alice.expect_quiet().await;
            }
        }
    }
}

#[tokio::test]
async fn pipelined_levels_are_each_answered_once() {
    let broker = Broker::start();
    for (profile, name) in PROFILES.into_iter().zip(["bob", "bert"]) {
        let to = &*format!("user/{name}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as(name, "b", profile).await;
        let levels = ["accepted", "stored", "delivered", "none"];
        let frames: Vec<_> =
            (0..400).map(|i| publish(i, to, i, levels[usize::try_from(i % 4).unwrap()])).collect();
        alice.send_all(&frames).await;
        let mut ids = HashMap::new();
        for i in 0..400_u64 {
            let message = bob.expect_message(i).await;
            ids.insert(i, message["id"].clone());
            assert_eq!(message.get("ack").is_some(), matches!(i % 4, 1 | 2), "{message}");
        }
        let wanted: Vec<_> = (0..400).filter(|i| i % 4 == 2).map(|i| ids[&i].clone()).collect();
        bob.ask_ok(json!({"type": "ack", "ref": 1, "ids": wanted})).await;
        let mut by_level: HashMap<String, Vec<u64>> = HashMap::new();
        for _ in 0..300 {
            let receipt = alice.receive().await;
            assert_eq!(receipt["type"], "receipt", "{receipt}");
            let reference = receipt["ref"].as_u64().unwrap();
            assert_eq!(receipt["id"], ids[&reference]);
            by_level.entry(receipt["level"].as_str().unwrap().to_owned()).or_default().push(reference);
        }
        alice.expect_quiet().await;
        for (index, level) in levels.iter().take(3).enumerate() {
            let expected: Vec<_> = (0..400).filter(|i| i % 4 == index as u64).collect();
            assert_eq!(by_level[*level], expected, "receipts of one level come in order");
        }
    }
}

#[tokio::test]
async fn delivered_to_a_user_who_is_away_waits_for_the_user() {
    let broker = Broker::start();
    for (i, profile) in PROFILES.iter().enumerate() {
        let user = format!("away{i}");
        let to = format!("user/{user}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        alice.send(&publish(1, &to, "first", "accepted")).await;
        alice.expect_receipt(1, "accepted").await;
        alice.send(&publish(2, &to, "second", "delivered")).await;
        alice.send(&publish(3, &to, "third", "accepted")).await;
        alice.expect_receipt(3, "accepted").await;
        alice.expect_quiet().await;
        let mut bob = broker.connect_as(&user, "b", profile).await;
        bob.expect_message("first").await;
        let second = bob.expect_message("second").await;
        bob.expect_message("third").await;
        alice.expect_quiet().await;
        bob.ack(&second).await;
        alice.expect_receipt(2, "delivered").await;
        let more = bob.receive_until_marker(&user, &mut alice).await;
        assert!(more.is_empty(), "each comes once: {more:?}");
    }
}

#[tokio::test]
async fn delivered_to_nobody_in_time_fails_and_is_a_dead_letter() {
    let mut broker = Broker::start_with_config(IMPATIENT);
    let mut alice = broker.connect("alice").await;
    let started = std::time::Instant::now();
    alice.send(&publish(1, "user/away", "lost", "delivered")).await;
    let error = alice.expect_error(1511).await;
    assert_eq!(error["ref"], 1);
    assert!(error["message"].as_str().unwrap().contains("offline"), "{error}");
    assert!(started.elapsed().as_millis() >= 150, "the plan's time is waited for");
    // Online, but never an ack: both attempts are made, with the same id.
    let mut bob = broker.connect("bob").await;
    alice.send(&publish(2, "user/bob", "deaf", "delivered")).await;
    let first = bob.expect_message("deaf").await;
    let second = bob.expect_message("deaf").await;
    assert_eq!((&second["id"], &second["pos"]), (&first["id"], &first["pos"]));
    assert_eq!((first.get("attempt"), &second["attempt"]), (None, &json!(2)));
    let error = alice.expect_error(1511).await;
    assert!(error["message"].as_str().unwrap().contains("timeout"), "{error}");
    assert_eq!(error["ref"], 2);
    drop((alice, bob));
    let letters = dead_letters(&mut broker);
    let found: BTreeSet<_> = letters
        .iter()
        .map(|letter| (letter.recipient.as_str(), letter.cause.as_str(), letter.attempts))
        .collect();
    assert_eq!(found, BTreeSet::from([("user/away", "offline", 0), ("user/bob", "timeout", 2)]));
    let id: MessageId = letters.iter().find(|letter| letter.recipient == "user/bob").unwrap().id;
    assert_eq!(json!(id.to_string()), first["id"]);
}

#[tokio::test]
async fn levels_above_accepted_need_a_recipient() {
    let broker = Broker::start_with_config("[[address]]\nmatch = \"topic/kept.>\"\nkeep = \"always\"\n");
    let mut alice = broker.connect("alice").await;
    for level in ["stored", "delivered"] {
        for to in ["topic/nobody", "group/nobody"] {
            alice.send(&publish(1, to, 1, level)).await;
            assert_eq!(alice.expect_error(1510).await["ref"], 1, "{level} to {to}");
        }
    }
    // Whoever comes later reads what is kept, so it can be stored; but nobody can have acknowledged it.
    alice.send(&publish(2, "topic/kept.x", 2, "stored")).await;
    alice.expect_receipt(2, "stored").await;
    alice.send(&publish(3, "topic/kept.x", 3, "delivered")).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 3);
    let frame = with(publish(4, "topic/kept.x", 4, "delivered"), json!({"dedup": "k"}));
    alice.send(&frame).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 4);
    alice.send(&frame).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 4, "the key is free again");
}

#[tokio::test]
async fn delivered_to_the_publisher_alone_reaches_nobody() {
    let broker = Broker::start_with_config("[[address]]\nmatch = \"group/*\"\nkeep = \"always\"\n");
    let mut alice = broker.connect("alice").await;
    alice.ask_ok(json!({"type": "join", "ref": 1, "group": "g"})).await;
    alice.send(&with(publish(2, "group/g", 1, "delivered"), json!({"exclude_self": true}))).await;
    assert_eq!(alice.expect_error(1510).await["ref"], 2);
}

#[tokio::test]
async fn who_leaves_itself_out_reaches_whoever_else_listens() {
    let broker = Broker::start();
    let mut phone = broker.connect_as("alice", "phone", PROFILES[0]).await;
    let excluding =
        |reference, to, level| with(publish(reference, to, 1, level), json!({"exclude_self": true}));
    phone.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/x.y"})).await;
    for (reference, level) in [(2, "stored"), (3, "delivered")] {
        phone.send(&excluding(reference, "topic/x.y", level)).await;
        assert_eq!(phone.expect_error(1510).await["ref"], reference, "nobody else listens");
    }
    phone.send(&excluding(4, "topic/x.y", "accepted")).await;
    assert_eq!(phone.expect_receipt(4, "accepted").await["recipients"], 0);
    // Of a queue it is the only member: who joins later has what is stored, and nobody the rest.
    phone.ask_ok(json!({"type": "subscribe", "ref": 5, "to": "topic/q", "queue": "w"})).await;
    phone.send(&excluding(6, "topic/q", "delivered")).await;
    assert_eq!(phone.expect_error(1510).await["ref"], 6);
    for (reference, level) in [(7, "accepted"), (8, "stored")] {
        phone.send(&excluding(reference, "topic/q", level)).await;
        assert_eq!(phone.expect_receipt(reference, level).await["recipients"], 0);
    }
    // Another device of the user listens, by another pattern.
    let mut laptop = broker.connect_as("alice", "laptop", PROFILES[0]).await;
    laptop.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/x.*"})).await;
    phone.send(&excluding(9, "topic/x.y", "delivered")).await;
    let message = laptop.expect_message(1).await;
    laptop.ack(&message).await;
    assert_eq!(phone.expect_receipt(9, "delivered").await["recipients"], 1);
    phone.send(&excluding(10, "topic/x.y", "stored")).await;
    assert_eq!(phone.expect_receipt(10, "stored").await["recipients"], 1);
}

#[tokio::test]
async fn more_recipients_than_can_be_tracked_are_refused() {
    let broker = Broker::start();
    let agent = ureq::Agent::new_with_defaults();
    let token = format!("Bearer {}", broker.token());
    for i in 0..=1_000 {
        if i == 1_000 {
            let mut alice = broker.connect("alice").await;
            alice.send(&publish(1, "group/g", 1, "delivered")).await;
            alice.expect_quiet().await;
        }
        let url = format!("http://{}/v1/groups/g/members/m{i}", broker.admin);
        agent.put(&url).header("Authorization", &token).send_empty().unwrap();
    }
    let mut alice = broker.connect("alice").await;
    alice.send(&publish(2, "group/g", 1, "delivered")).await;
    assert_eq!(alice.expect_error(1431).await["ref"], 2);
    alice.send(&publish(3, "group/g", 1, "stored")).await;
    alice.expect_receipt(3, "stored").await;
}

#[tokio::test]
async fn rules_of_an_address_raise_the_level_or_forbid_to_store() {
    let mut broker = Broker::start_with_config(
        "[[address]]\nmatch = \"topic/never.>\"\nkeep = \"never\"\n\
         [[address]]\nmatch = \"topic/raised.>\"\nlevel = \"stored\"\n\
         [[address]]\nmatch = \"topic/acked.>\"\nlevel = \"delivered\"\n",
    );
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    alice.send(&publish(1, "topic/never.x", 1, "stored")).await;
    assert_eq!(alice.expect_error(1432).await["ref"], 1);
    alice.send(&json!({"type": "history", "ref": 2, "of": "topic/never.x"})).await;
    assert_eq!(alice.expect_error(1432).await["ref"], 2);
    alice.send(&json!({"type": "read", "ref": 3, "of": "topic/never.x", "upto": "s1e1:1"})).await;
    assert_eq!(alice.expect_error(1432).await["ref"], 3);
    alice.send(&publish(4, "topic/raised.x", 4, "accepted")).await;
    alice.expect_receipt(4, "stored").await;
    bob.expect_message(4).await;
    alice.send(&publish(5, "topic/acked.x", 5, "accepted")).await;
    let message = bob.expect_message(5).await;
    alice.expect_quiet().await;
    bob.ack(&message).await;
    alice.expect_receipt(5, "delivered").await;
    // Nobody asked to hear of it: it is stored nevertheless.
    alice.send(&publish(6, "topic/raised.x", 6, "none")).await;
    bob.expect_message(6).await;
    alice.send(&publish(7, "topic/raised.x", 7, "stored")).await;
    alice.expect_receipt(7, "stored").await;
    broker.restart();
    let mut carol = broker.connect("carol").await;
    let page = carol.ask(json!({"type": "history", "ref": 1, "of": "topic/raised.x"})).await;
    let payloads: Vec<_> =
        page["messages"].as_array().unwrap().iter().map(|m| m["payload"].clone()).collect();
    assert_eq!(payloads, [4, 6, 7]);
}

#[tokio::test]
async fn a_dedup_key_publishes_once_at_every_level() {
    let broker = Broker::start();
    for (profile, name) in PROFILES.into_iter().zip(["bob", "bert"]) {
        let to = &*format!("user/{name}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let mut bob = broker.connect_as(name, "b", profile).await;
        for level in ["accepted", "stored"] {
            let key = format!("{level}-{name}");
            let frame = with(publish(1, to, &*key, level), json!({"dedup": key}));
            alice.send(&frame).await;
            let first = alice.expect_receipt(1, level).await;
            alice.send(&with(frame, json!({"ref": 2, "payload": "other"}))).await;
            assert_eq!(alice.expect_receipt(2, level).await["id"], first["id"]);
            bob.expect_message(&*key).await;
        }
        let frame = with(publish(3, to, "d", "delivered"), json!({"dedup": name}));
        alice.send(&frame).await;
        let message = bob.expect_message("d").await;
        alice.send(&with(frame.clone(), json!({"ref": 4}))).await;
        let error = alice.expect_error(1503).await;
        assert!(error["ref"] == 4 && error["retry_ms"].as_u64() > Some(0), "under way: {error}");
        bob.ack(&message).await;
        let first = alice.expect_receipt(3, "delivered").await;
        alice.send(&with(frame, json!({"ref": 5}))).await;
        let again = alice.expect_receipt(5, "delivered").await;
        assert_eq!((&again["id"], &again["recipients"]), (&first["id"], &first["recipients"]));
        bob.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_key_whose_delivery_failed_is_free_again() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let frame = with(publish(1, "user/away", "x", "delivered"), json!({"dedup": "k", "ttl_ms": 60}));
    alice.send(&frame).await;
    assert_eq!(alice.expect_error(1512).await["ref"], 1);
    let mut away = broker.connect("away").await;
    alice.send(&with(frame, json!({"ref": 2, "ttl_ms": 60_000}))).await;
    let message = away.expect_message("x").await;
    away.ack(&message).await;
    alice.expect_receipt(2, "delivered").await;
}

/// Keeps everything.
const KEEPING: &str = "[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n";

/// Waits until everything that was published before is on disk.
async fn sync(peer: &mut Peer) {
    peer.send(&publish(900, "topic/other", 0, "stored")).await;
    peer.expect_receipt(900, "stored").await;
}

async fn history(peer: &mut Peer, of: &str) -> Vec<Value> {
    let page = peer.ask(json!({"type": "history", "ref": 901, "of": of})).await;
    page["messages"].as_array().unwrap().iter().map(|message| message["payload"].clone()).collect()
}

#[tokio::test]
async fn a_dedup_key_holds_over_a_kill() {
    let mut broker = Broker::start_with_config(KEEPING);
    let mut alice = broker.connect("alice").await;
    let levels = ["accepted", "stored"];
    let frame = |level: &str| with(publish(1, "topic/t", level, level), json!({"dedup": level}));
    let later = with(publish(2, "user/bob", "later", "stored"), json!({"dedup": "later", "delay_ms": 1_500}));
    let mut receipts = Vec::new();
    for level in levels {
        alice.send(&frame(level)).await;
        receipts.push(alice.expect_receipt(1, level).await);
    }
    alice.send(&later).await;
    let delayed = alice.expect_receipt(2, "stored").await;
    // Its publisher is not told whether it is delivered.
    let mut bob = broker.connect("bob").await;
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/heard"})).await;
    let heard = with(publish(3, "topic/heard", "heard", "delivered"), json!({"dedup": "heard"}));
    alice.send(&heard).await;
    let message = bob.expect_message("heard").await;
    sync(&mut bob).await;
    for signal in ["KILL", "TERM"] {
        broker.restart_after(signal);
        alice = broker.connect("alice").await;
        for (level, receipt) in levels.iter().zip(&receipts) {
            alice.send(&frame(level)).await;
            assert_eq!(&alice.expect_receipt(1, level).await, receipt);
        }
        alice.send(&later).await;
        assert_eq!(alice.expect_receipt(2, "stored").await, delayed);
        alice.send(&heard).await;
        assert_eq!(alice.expect_receipt(3, "stored").await["id"], message["id"]);
    }
    assert_eq!(history(&mut alice, "topic/t").await, levels);
    assert_eq!(history(&mut alice, "topic/heard").await, ["heard"]);
    let mut bob = broker.connect("bob").await;
    let message = bob.expect_message("later").await;
    assert_eq!(message["id"], delayed["id"]);
    bob.expect_quiet().await;
    // Keys are the user's own.
    bob.send(&frame("stored")).await;
    assert_ne!(bob.expect_receipt(1, "stored").await["id"], receipts[1]["id"]);
}

#[tokio::test]
async fn a_key_whose_delivery_failed_is_free_behind_a_kill() {
    let mut broker = Broker::start_with_config(&format!("{KEEPING}ack_timeout_ms = 150\nattempts = 1\n"));
    let frame = with(publish(1, "topic/t", "x", "delivered"), json!({"dedup": "k"}));
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    alice.send(&frame).await;
    let first = bob.expect_message("x").await;
    assert_eq!(alice.expect_error(1511).await["ref"], 1);
    sync(&mut alice).await;
    broker.restart();
    (alice, bob) = (broker.connect("alice").await, broker.connect("bob").await);
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    alice.send(&frame).await;
    let second = bob.expect_message("x").await;
    bob.ack(&second).await;
    let receipt = alice.expect_receipt(1, "delivered").await;
    assert!(receipt["id"] == second["id"] && second["id"] != first["id"], "{receipt} {first}");
}

#[tokio::test]
async fn a_publisher_that_left_harms_nobody() {
    let broker = Broker::start_with_config(IMPATIENT);
    let mut bob = broker.connect("bob").await;
    {
        let mut alice = broker.connect("alice").await;
        alice.send(&publish(1, "user/bob", "x", "delivered")).await;
        bob.expect_message("x").await;
    }
    let again = bob.expect_message("x").await;
    assert_eq!(again["attempt"], 2, "delivery goes on");
    bob.ack(&again).await;
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_graceful_stop_keeps_what_was_promised() {
    let mut broker = Broker::start_with(&[("WASPMQ_DRAIN_MS", "300")]);
    let mut promised = BTreeSet::new();
    let mut alice = broker.connect("alice").await;
    let mut sink = broker.connect("sink").await;
    // Two batches before the stop, the third while it goes on.
    for round in 0..3_u64 {
        let frames: Vec<_> = (round * 200..(round + 1) * 200)
            .map(|i| {
                let to = if i % 2 == 0 { "user/away" } else { "user/sink" };
                publish(i, to, i, if i % 2 == 0 { "stored" } else { "delivered" })
            })
            .collect();
        alice.send_all(&frames).await;
        if round == 0 {
            let first = loop {
                let frame = alice.receive().await;
                if frame["type"] == "receipt" {
                    break frame;
                }
            };
            promised.extend((first["level"] == "stored").then(|| first["ref"].as_u64().unwrap()));
        }
        if round == 1 {
            broker.signal("TERM");
        }
    }
    let reader = async {
        while let Ok(frame) = sink.next().await {
            let Ok(text) = frame.into_text() else { break };
            let Ok(frame) = serde_json::from_str::<Value>(&text) else { break };
            if frame["type"] == "message" {
                let ack = json!({"type": "ack", "ids": [frame["id"]]}).to_string();
                let ack = tokio_tungstenite::tungstenite::Message::text(ack);
                if futures_util::SinkExt::send(&mut sink.socket, ack).await.is_err() {
                    break;
                }
            }
        }
    };
    let publisher = async {
        while let Ok(frame) = alice.next().await {
            let Ok(text) = frame.into_text() else { break };
            let Ok(frame) = serde_json::from_str::<Value>(&text) else { break };
            if frame["level"] == "stored" {
                promised.insert(frame["ref"].as_u64().unwrap());
            }
        }
    };
    tokio::join!(reader, publisher);
    drop((alice, sink));
    assert_eq!(broker.wait().code(), Some(0));
    assert!(!promised.is_empty(), "some receipts were sent");
    broker.restart();
    let (mut away, mut alice) = (broker.connect("away").await, broker.connect("alice").await);
    let frames = away.receive_until_marker("away", &mut alice).await;
    let kept: BTreeSet<_> = frames.iter().map(|frame| frame["payload"].as_u64().unwrap()).collect();
    assert!(promised.is_subset(&kept), "missing: {:?}", promised.difference(&kept));
}
