//! Presence as clients see it: answers, watch lists, changes in order.

use crate::harness::{Broker, Peer};
use serde_json::{Value, json};

/// Sends a watch list and gives the states that follow its answer.
async fn watch(peer: &mut Peer, users: &[&str]) -> Vec<Value> {
    assert_eq!(
        peer.ask(json!({"type": "watch", "ref": 8, "users": users})).await,
        json!({"type": "ok", "ref": 8})
    );
    let mut states = Vec::new();
    for user in users {
        let state = peer.receive().await;
        assert_eq!((&state["type"], &state["user"]), (&json!("presence"), &json!(user)), "{state}");
        states.push(state);
    }
    states
}

async fn leave(mut peer: Peer) {
    peer.send(&json!({"type": "disconnect"})).await;
    assert_eq!(peer.expect_close().await, 1000);
}

/// Expects a change and gives its number.
async fn expect_change(peer: &mut Peer, user: &str, online: bool) -> u64 {
    let change = peer.receive().await;
    assert_eq!(
        (&change["type"], &change["user"], &change["online"]),
        (&json!("presence"), &json!(user), &json!(online)),
        "{change}"
    );
    assert_eq!(change["last_seen"].is_u64(), !online, "{change}");
    change["seq"].as_u64().unwrap()
}

#[tokio::test]
async fn watchers_are_told_who_comes_and_goes_in_order() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let [bob, carol] = watch(&mut alice, &["bob", "carol"]).await.try_into().unwrap();
    assert_eq!((&bob["online"], &carol["online"]), (&json!(false), &json!(false)));
    assert!(bob.get("last_seen").is_none_or(Value::is_null), "nobody has seen bob: {bob}");
    let mut last = bob["seq"].as_u64().unwrap();
    for _ in 0..20 {
        let phone = broker.connect("bob").await;
        let seq = expect_change(&mut alice, "bob", true).await;
        let laptop = broker.connect("bob").await;
        leave(phone).await;
        alice.expect_quiet().await; // one of two devices is no change
        leave(laptop).await;
        let left = expect_change(&mut alice, "bob", false).await;
        assert!(last < seq && seq < left, "{last} {seq} {left}");
        last = left;
    }
    drop(broker.connect("carol").await); // lost, not ended
    expect_change(&mut alice, "carol", true).await;
    expect_change(&mut alice, "carol", false).await;
    broker.connect("dave").await;
    alice.expect_quiet().await; // nobody watches dave
    let again = watch(&mut alice, &["bob"]).await;
    assert_eq!((&again[0]["online"], &again[0]["seq"]), (&json!(false), &json!(last)));
    assert!(again[0]["last_seen"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(broker.metric("waspmq_presence_changes_total{outcome=\"told\"}"), Some(42.0));
}

#[tokio::test]
async fn watchers_are_told_when_an_earlier_run_saw_somebody() {
    let mut broker = Broker::start();
    leave(broker.connect("zed").await).await;
    broker.eventually("zed's end", |broker| {
        broker.admin("GET", "/v1/users/zed", None).1["online"] == json!(false)
    });
    broker.restart_after("TERM");
    let mut alice = broker.connect("alice").await;
    let [alice_herself, zed, nobody] =
        watch(&mut alice, &["alice", "zed", "nobody"]).await.try_into().unwrap();
    assert_eq!(alice_herself["online"], json!(true));
    assert!(nobody.get("last_seen").is_none_or(Value::is_null), "{nobody}");
    let answer = alice.ask(json!({"type": "presence", "ref": 7, "of": "user/zed"})).await;
    assert!(
        zed["last_seen"].is_u64() && zed["last_seen"] == answer["users"][0]["last_seen"],
        "{zed} {answer}"
    );
    let _zed = broker.connect("zed").await;
    assert!(expect_change(&mut alice, "zed", true).await > zed["seq"].as_u64().unwrap());
}

#[tokio::test]
async fn a_list_replaces_the_one_before_and_ends_with_the_session() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    watch(&mut alice, &["bob", "carol"]).await;
    assert_eq!(broker.metric("waspmq_watched_users"), Some(2.0));
    let _bob = broker.connect("bob").await;
    expect_change(&mut alice, "bob", true).await;
    let states = watch(&mut alice, &["carol", "alice"]).await;
    assert_eq!((&states[0]["online"], &states[1]["online"]), (&json!(false), &json!(true)));
    leave(broker.connect("bob").await).await;
    let carol = broker.connect("carol").await;
    expect_change(&mut alice, "carol", true).await;
    watch(&mut alice, &[]).await;
    leave(carol).await;
    alice.expect_quiet().await;
    assert_eq!(broker.metric("waspmq_watched_users"), Some(0.0));
    watch(&mut alice, &["bob"]).await;
    leave(alice).await;
    broker.eventually("an empty list", |broker| broker.metric("waspmq_watched_users") == Some(0.0));
}

#[tokio::test]
async fn lists_are_bounded_and_a_refused_one_changes_nothing() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    watch(&mut alice, &["bob"]).await;
    let many: Vec<_> = (0..1_001).map(|i| format!("user-{i}")).collect();
    alice.send(&json!({"type": "watch", "ref": 1, "users": many})).await;
    assert_eq!(alice.expect_error(1425).await["name"], "too_many_watched");
    alice.send(&json!({"type": "watch", "ref": 2, "users": ["carol", "a name"]})).await;
    alice.expect_error(1411).await;
    let _bob = broker.connect("bob").await;
    expect_change(&mut alice, "bob", true).await;
    assert_eq!(broker.metric("waspmq_watched_users"), Some(1.0));
    let most: Vec<_> = many.iter().take(1_000).map(String::as_str).collect();
    watch(&mut alice, &most).await;
    assert_eq!(broker.metric("waspmq_watched_users"), Some(1_000.0));
    watch(&mut alice, &["bob"]).await;
    let repeated = json!({"type": "watch", "ref": 3, "users": ["bob", "bob"]});
    assert_eq!(alice.ask(repeated).await["type"], "ok");
    assert_eq!(alice.receive().await["user"], "bob");
    alice.expect_quiet().await; // named twice, told once
}

#[tokio::test]
async fn members_see_their_group() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect("bob").await;
    let ask = json!({"type": "presence", "ref": 7, "of": "group/eng"});
    alice.send(&ask).await;
    alice.expect_error(1403).await;
    for peer in [&mut alice, &mut bob] {
        assert_eq!(peer.ask(json!({"type": "join", "group": "eng"})).await["type"], "ok");
    }
    assert_eq!(broker.admin("PUT", "/v1/groups/eng/members/carol", None).0, 201);
    leave(bob).await;
    broker.eventually("bob's end", |broker| {
        broker.admin("GET", "/v1/sessions?user=bob", None).1["total"] == json!(0)
    });
    let answer = alice.ask(ask).await;
    assert_eq!(
        (&answer["type"], &answer["ref"], &answer["of"], &answer["more"]),
        (&json!("presence"), &json!(7), &json!("group/eng"), &json!(false)),
        "{answer}"
    );
    let users = answer["users"].as_array().unwrap();
    let shown: Vec<_> =
        users.iter().map(|user| (&user["user"], &user["online"], &user["sessions"])).collect();
    assert_eq!(
        shown,
        [
            (&json!("alice"), &json!(true), &json!(1)),
            (&json!("bob"), &json!(false), &json!(0)),
            (&json!("carol"), &json!(false), &json!(0))
        ]
    );
    assert!(users[1]["last_seen"].is_u64() && users[1]["seq"].is_u64(), "{answer}");
    let one = alice.ask(json!({"type": "presence", "ref": 9, "of": "user/bob"})).await;
    assert_eq!(one["users"][0], users[1]);
    alice.send(&json!({"type": "presence", "of": "topic/a"})).await;
    alice.expect_error(1410).await;
}

#[tokio::test]
async fn a_large_group_is_asked_for_page_by_page() {
    let broker = Broker::start();
    let mut expected: Vec<_> = (0..1_204).map(|i| format!("member-{i:04}")).collect();
    for user in &expected {
        assert_eq!(broker.admin("PUT", &format!("/v1/groups/eng/members/{user}"), None).0, 201);
    }
    let mut alice = broker.connect("alice").await;
    assert_eq!(alice.ask(json!({"type": "join", "group": "eng"})).await["type"], "ok");
    expected.insert(0, "alice".to_owned());
    for profile in ["waspmq.v1.json", "waspmq.v1.bin"] {
        let mut alice = broker.connect_as("alice", "other", profile).await;
        let mut found: Vec<String> = Vec::new();
        for more in [true, false] {
            let mut ask = json!({"type": "presence", "ref": 7, "of": "group/eng"});
            if let Some(last) = found.last() {
                ask["after"] = json!(last);
            }
            let answer = alice.ask(ask).await;
            assert_eq!(answer["more"], json!(more));
            let users = answer["users"].as_array().unwrap().iter();
            found.extend(users.map(|user| user["user"].as_str().unwrap().to_owned()));
        }
        assert_eq!(found, expected);
        // Behind a name that is no member's, and behind the last.
        for (after, count) in [("member-12", 4), ("zz", 0)] {
            let ask = json!({"type": "presence", "ref": 8, "of": "group/eng", "after": after});
            let answer = alice.ask(ask).await;
            assert_eq!((answer["users"].as_array().unwrap().len(), &answer["more"]), (count, &json!(false)));
        }
        alice.send(&json!({"type": "presence", "of": "group/eng", "after": "a b"})).await;
        alice.expect_error(1411).await;
        alice.send(&json!({"type": "presence", "of": "user/bob", "after": "a"})).await;
        alice.expect_error(1400).await;
    }
}

#[tokio::test]
async fn operators_see_a_user() {
    let broker = Broker::start();
    assert_eq!(broker.admin("GET", "/v1/users/alice", None).0, 404);
    let mut alice = broker.connect("alice").await;
    assert_eq!(alice.ask(json!({"type": "join", "group": "eng"})).await["type"], "ok");
    let (status, user) = broker.admin("GET", "/v1/users/alice", None);
    assert_eq!((status, &user["online"], &user["sessions"]), (200, &json!(true), &json!(1)), "{user}");
    assert_eq!((&user["groups"], &user["last_seen_unix_ms"]), (&json!(["eng"]), &Value::Null));
    leave(alice).await;
    broker.eventually("alice's end", |broker| {
        let (_, user) = broker.admin("GET", "/v1/users/alice", None);
        user["online"] == json!(false) && user["last_seen_unix_ms"].is_u64()
    });
}

#[tokio::test]
async fn groups_of_strangers_end_with_them() {
    let broker = Broker::start();
    let mut stranger = broker.open(Some("waspmq.v1.json")).await;
    assert_eq!(stranger.ask(json!({"type": "connect"})).await["type"], "welcome");
    assert_eq!(stranger.ask(json!({"type": "join", "group": "eng"})).await["type"], "ok");
    assert_eq!(broker.admin("GET", "/v1/groups/eng", None).1["member_count"], json!(1));
    stranger.send(&json!({"type": "disconnect"})).await;
    broker.eventually("the group's end", |broker| broker.admin("GET", "/v1/groups/eng", None).0 == 404);
}

/// A watcher that does not read is left behind at a bounded cost, and told once where everybody is when it reads.
#[tokio::test]
async fn a_watcher_that_does_not_read_catches_up() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let mut publisher = broker.connect("publisher").await;
    let body = "x".repeat(60_000);
    let dropped = || broker.metric("waspmq_messages_dropped_total{reason=\"slow_consumer\"}").unwrap();
    // Until a round finds no more room than the ones before: then the kernel takes nothing more, and the queue stays full.
    let (mut sent, mut held) = (0.0, 0.0);
    loop {
        for _ in 0..50 {
            publisher.send(&json!({"type": "publish", "to": "user/alice", "payload": body})).await;
        }
        publisher.expect_quiet().await;
        sent += 50.0;
        let holds = sent - dropped();
        if dropped() > 0.0 && holds <= held {
            break;
        }
        held = holds;
    }
    let long = "b".repeat(250);
    let mut users: Vec<_> = (0..999).map(|i| format!("{i}-{long}")).collect();
    users.push("bob".to_owned());
    let queued = |broker: &Broker| broker.metric("waspmq_outbound_queue_bytes").unwrap();
    let before = queued(&broker);
    alice.send(&json!({"type": "watch", "users": users})).await;
    broker.eventually("the list", |broker| broker.metric("waspmq_watched_users") == Some(1_000.0));
    // When somebody who is not there was last seen, the store is asked for.
    broker.eventually("the states are told", |broker| queued(broker) >= before + 250_000.0);
    for _ in 0..5 {
        leave(broker.connect("bob").await).await;
    }
    let _bob = broker.connect("bob").await;
    broker.eventually("the watcher is behind", |broker| {
        broker.metric("waspmq_presence_changes_total{outcome=\"deferred\"}") == Some(11.0)
    });
    let mut states = Vec::new();
    while states.len() < 2 {
        let frame = alice.receive().await;
        if frame["user"] == "bob" {
            states.push((frame["online"] == json!(true), frame["seq"].as_u64().unwrap()));
        }
    }
    assert!(!states[0].0 && states[1].0 && states[0].1 < states[1].1, "{states:?}");
    alice.expect_quiet().await;
}
