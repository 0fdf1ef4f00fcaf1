//! Sessions that go on after their connection was lost, and what a broker still knows after a crash.

use crate::harness::{Broker, Peer};
use serde_json::{Value, json};
use std::sync::Arc;

/// A session, and what it needs to go on in another connection.
struct Session {
    peer: Peer,
    welcome: Value,
}

impl Session {
    async fn connect(broker: &Broker, mut frame: Value) -> Self {
        let mut peer = broker.open(Some("waspmq.v1.json")).await;
        frame["type"] = json!("connect");
        let welcome = peer.ask(frame).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        Self { peer, welcome }
    }

    async fn begin(broker: &Broker, user: &str) -> Self {
        let session = Self::connect(broker, json!({"user": user})).await;
        assert_eq!(
            (&session.welcome["resumed"], &session.welcome["recovered"]),
            (&json!(false), &json!(false))
        );
        session
    }

    fn token(&self) -> &str {
        self.welcome["resume_token"].as_str().unwrap()
    }

    /// Goes on in a new connection, whatever became of the old one.
    async fn resume(broker: &Broker, user: &str, token: &str, positions: &[&Value]) -> Self {
        let resume = json!({"token": token, "positions": positions});
        Self::connect(broker, json!({"user": user, "resume": resume})).await
    }

    fn says(&self, resumed: bool, recovered: bool) {
        let said = (&self.welcome["resumed"], &self.welcome["recovered"]);
        assert_eq!(said, (&json!(resumed), &json!(recovered)), "{}", self.welcome);
    }

    async fn ok(&mut self, frame: Value) {
        let answer = self.peer.ask(frame).await;
        assert_eq!(answer["type"], "ok", "{answer}");
    }

    async fn subscribe(&mut self, to: &str) {
        self.ok(json!({"type": "subscribe", "ref": 1, "to": to})).await;
    }

    /// The next message's payload and position.
    async fn message(&mut self) -> (Value, Value) {
        let frame = self.peer.receive().await;
        assert_eq!(frame["type"], "message", "{frame}");
        (frame["payload"].clone(), frame["pos"].clone())
    }

    async fn expect(&mut self, payloads: &[u64]) -> Value {
        let mut last = Value::Null;
        for payload in payloads {
            let (found, position) = self.message().await;
            assert_eq!(found, json!(payload));
            last = position;
        }
        last
    }

    async fn ack(&mut self, to: &str, upto: &Value) {
        self.ok(json!({"type": "ack", "ref": 9, "to": to, "upto": upto})).await;
    }

    /// Ends the connection without a word, and waits until the broker knows.
    async fn lose(self, broker: &Broker) {
        let sessions =
            |broker: &Broker| broker.admin("GET", "/v1/sessions", None).1["total"].as_u64().unwrap();
        let before = sessions(broker);
        drop(self);
        broker.eventually("the session's end", |broker| sessions(broker) < before);
    }
}

async fn publish(peer: &mut Peer, to: &str, payloads: &[u64], level: &str) {
    for payload in payloads {
        let frame = json!({"type": "publish", "ref": 5, "to": to, "payload": payload, "ack": level});
        let receipt = peer.ask(frame).await;
        assert_eq!(receipt["type"], "receipt", "{receipt}");
    }
}

#[tokio::test]
async fn what_was_stored_meanwhile_comes_once_and_in_order() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    publish(&mut sender, "topic/a", &[1, 2], "stored").await;
    let seen = alice.expect(&[1, 2]).await;
    let (token, session) = (alice.token().to_owned(), alice.welcome["session"].clone());
    alice.lose(&broker).await;
    publish(&mut sender, "topic/a", &[3, 4, 5], "stored").await;
    publish(&mut sender, "user/alice", &[6], "stored").await;

    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, true);
    assert_eq!(alice.welcome["session"], session, "the id stays");
    assert_ne!(alice.token(), token);
    let mut frames = Vec::new();
    for _ in 0..4 {
        frames.push(alice.message().await);
    }
    frames.sort_by_key(|(payload, _)| *payload == json!(6));
    let payloads: Vec<_> = frames.iter().map(|(payload, _)| payload.clone()).collect();
    assert_eq!(payloads, [json!(3), json!(4), json!(5), json!(6)]);
    publish(&mut sender, "topic/a", &[7], "stored").await;
    alice.expect(&[7]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn what_several_subscriptions_match_comes_once() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    for to in ["topic/a.b", "topic/a.*", "topic/>"] {
        alice.subscribe(to).await;
    }
    publish(&mut sender, "topic/a.b", &[1, 2], "stored").await;
    publish(&mut sender, "topic/a.c", &[3], "stored").await;
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        seen.push(alice.message().await.1);
    }
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "topic/a.b", &[4, 5, 6], "stored").await;
    publish(&mut sender, "topic/a.c", &[7, 8], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &seen.iter().collect::<Vec<_>>()).await;
    alice.says(true, true);
    for _ in 0..5 {
        found.push(alice.message().await.0.as_u64().unwrap());
    }
    let (of_b, of_c): (Vec<_>, Vec<_>) = found.into_iter().partition(|payload| *payload < 7);
    assert_eq!((of_b, of_c), (vec![4, 5, 6], vec![7, 8]));
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn a_session_that_saw_nothing_gets_what_was_stored_since_it_subscribed() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut early = broker.connect("early").await;
    early.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    publish(&mut sender, "topic/b", &[1], "stored").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/*").await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "topic/b", &[2, 3], "stored").await;
    publish(&mut sender, "topic/c", &[4], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.says(true, true);
    let mut found = Vec::new();
    for _ in 0..3 {
        found.push(alice.message().await.0.as_u64().unwrap());
    }
    let of_b: Vec<_> = found.iter().filter(|payload| **payload < 4).collect();
    assert_eq!(of_b, [&2, &3], "{found:?}");
    publish(&mut sender, "topic/d", &[5], "accepted").await;
    alice.expect(&[5]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn what_was_not_stored_is_missed_and_said() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    publish(&mut sender, "topic/a", &[1], "accepted").await;
    let seen = alice.expect(&[1]).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    let mut other = broker.connect("other").await;
    other.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/a"})).await;
    publish(&mut sender, "topic/a", &[2], "accepted").await;
    publish(&mut sender, "topic/a", &[3], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, false);
    let seen = alice.expect(&[3]).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    // Everything up to there was seen, however it was sent.
    Session::resume(&broker, "alice", &token, &[&seen]).await.says(true, true);
}

#[tokio::test]
async fn a_token_works_once_for_its_user_until_the_session_ends() {
    let broker = Broker::start();
    let alice = Session::begin(&broker, "alice").await;
    let first = alice.token().to_owned();
    alice.lose(&broker).await;
    Session::resume(&broker, "mallory", &first, &[]).await.says(false, false);
    Session::resume(&broker, "alice", "no such token", &[]).await.says(false, false);
    let alice = Session::resume(&broker, "alice", &first, &[]).await;
    alice.says(true, true);
    let second = alice.token().to_owned();
    alice.lose(&broker).await;
    Session::resume(&broker, "alice", &first, &[]).await.says(false, false);
    let mut alice = Session::resume(&broker, "alice", &second, &[]).await;
    alice.says(true, true);
    let third = alice.token().to_owned();
    alice.peer.send(&json!({"type": "disconnect"})).await;
    assert_eq!(alice.peer.expect_close().await, 1000);
    Session::resume(&broker, "alice", &third, &[]).await.says(false, false);
    // An operator's end is one, too.
    let mut alice = Session::begin(&broker, "alice").await;
    let path = format!("/v1/sessions/{}", alice.welcome["session"].as_str().unwrap());
    assert_eq!(broker.admin("DELETE", &path, None).0, 204);
    assert_eq!(alice.peer.expect_close().await, 4002);
    Session::resume(&broker, "alice", alice.token(), &[]).await.says(false, false);
}

#[tokio::test]
async fn a_broker_that_resumes_nothing_gives_no_token() {
    let broker = Broker::start_with(&[("WASPMQ_STORE__RESUME_WINDOW_MS", "0")]);
    let alice = Session::begin(&broker, "alice").await;
    assert_eq!(alice.welcome.get("resume_token"), None);
}

#[tokio::test]
async fn a_session_without_a_name_goes_on_under_its_own() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let stranger = Session::connect(&broker, json!({})).await;
    let own = format!("user/anonymous-{}", stranger.welcome["session"].as_str().unwrap());
    let token = stranger.token().to_owned();
    stranger.lose(&broker).await;
    let resume = json!({"token": token, "positions": []});
    let mut stranger = Session::connect(&broker, json!({"resume": resume})).await;
    stranger.says(true, true);
    publish(&mut sender, &own, &[1], "accepted").await;
    stranger.expect(&[1]).await;
}

#[tokio::test]
async fn a_half_open_connection_is_taken_over() {
    for login in ["coexist", "limit"] {
        let broker =
            Broker::start_with(&[("WASPMQ_ACCESS__LOGIN", login), ("WASPMQ_ACCESS__SESSIONS_PER_USER", "1")]);
        let mut sender = broker.connect("sender").await;
        let mut old = Session::begin(&broker, "alice").await;
        old.subscribe("topic/a").await;
        old.ok(json!({"type": "subscribe", "ref": 2, "to": "topic/jobs", "queue": "workers"})).await;
        old.peer.send(&json!({"type": "watch", "ref": 3, "users": ["bob"]})).await;
        assert_eq!(old.peer.receive().await["type"], "ok");
        assert_eq!(old.peer.receive().await["user"], "bob");
        publish(&mut sender, "topic/a", &[1], "stored").await;
        publish(&mut sender, "topic/a", &[2], "stored").await;
        let seen = old.expect(&[1]).await;
        // The second message is lost with the connection as far as the client knows.
        let mut new = Session::resume(&broker, "alice", old.token(), &[&seen]).await;
        new.says(true, true);
        assert_ne!(new.welcome["session"], old.welcome["session"]);
        let frames = [new.peer.receive().await, new.peer.receive().await];
        assert!(frames.iter().any(|frame| frame["user"] == "bob"), "{frames:?}");
        assert!(frames.iter().any(|frame| frame["payload"] == 2), "{frames:?}");
        old.expect(&[2]).await;
        assert_eq!(old.peer.expect_close().await, 4003);
        broker.eventually("one session of alice", |broker| {
            broker.admin("GET", "/v1/sessions", None).1["total"] == json!(2)
        });
        publish(&mut sender, "topic/jobs", &[3], "accepted").await;
        new.expect(&[3]).await;
        let _bob = broker.connect("bob").await;
        let change = new.peer.receive().await;
        assert_eq!((&change["user"], &change["online"]), (&json!("bob"), &json!(true)));
        new.peer.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_session_goes_on_after_a_crash_and_after_a_stop() {
    let mut broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    alice.ok(json!({"type": "join", "ref": 2, "group": "eng"})).await;
    publish(&mut sender, "topic/a", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "topic/a", &[2], "stored").await;
    publish(&mut sender, "group/eng", &[3], "stored").await;
    broker.restart_after("KILL");
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, false);
    let (one, two) = (alice.message().await, alice.message().await);
    let (of_a, of_eng) = if one.0 == json!(2) { (one, two) } else { (two, one) };
    assert_eq!((&of_a.0, &of_eng.0), (&json!(2), &json!(3)));
    let mut sender = broker.connect("sender").await;
    publish(&mut sender, "topic/a", &[4], "stored").await;
    let seen = alice.expect(&[4]).await;
    let token = alice.token().to_owned();
    // Connected while the broker goes.
    broker.restart_after("TERM");
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen, &of_a.1, &of_eng.1]).await;
    alice.says(true, false);
    publish(&mut sender, "topic/a", &[5], "stored").await;
    alice.expect(&[5]).await;
    alice.peer.expect_quiet().await;
    Session::resume(&broker, "alice", &token, &[]).await.says(false, false);
}

#[tokio::test]
async fn nothing_is_missed_over_a_stop_where_everything_is_kept() {
    let keep = |matching: &str| format!("[[address]]\nmatch = \"{matching}\"\nkeep = \"always\"\n");
    let mut broker = Broker::start_with_config(&["topic/>", "user/*", "group/*", "all"].map(keep).concat());
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    publish(&mut sender, "topic/a", &[1], "accepted").await;
    let seen = alice.expect(&[1]).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "topic/a", &[2], "accepted").await;
    broker.restart_after("TERM");
    drop(sender);
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, true);
    alice.expect(&[2]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn a_live_session_survives_a_crash() {
    let mut broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    let token = alice.token().to_owned();
    // The record is written one to two seconds after the last change.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    publish(&mut sender, "topic/a", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    publish(&mut sender, "topic/a", &[2], "stored").await;
    broker.restart_after("KILL");
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, false);
    alice.expect(&[2]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn members_get_what_came_since_they_joined() {
    let mut broker = Broker::start();
    assert_eq!(broker.admin("PUT", "/v1/groups/empty", None).0, 201);
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.ok(json!({"type": "join", "ref": 1, "group": "eng"})).await;
    publish(&mut sender, "group/eng", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    alice.ack("group/eng", &seen).await;
    // Bob was never here; carol left before the first message.
    drop(broker.connect("carol").await);
    publish(&mut sender, "group/eng", &[2], "stored").await;
    let seen = alice.expect(&[2]).await;
    alice.ack("group/eng", &seen).await;
    for user in ["bob", "carol"] {
        assert_eq!(broker.admin("PUT", &format!("/v1/groups/eng/members/{user}"), None).0, 201);
    }
    alice.lose(&broker).await;
    publish(&mut sender, "group/eng", &[3], "stored").await;
    broker.restart_after("KILL");
    assert_eq!(broker.admin("GET", "/v1/groups/empty", None).0, 200);
    for user in ["alice", "bob", "carol"] {
        let mut member = Session::begin(&broker, user).await;
        member.expect(&[3]).await;
        member.peer.expect_quiet().await;
    }
    assert_eq!(broker.admin("DELETE", "/v1/groups/eng/members/bob", None).0, 204);
    assert_eq!(broker.admin("DELETE", "/v1/groups/empty", None).0, 204);
    broker.restart_after("KILL");
    let members = broker.admin("GET", "/v1/groups/eng", None).1;
    assert_eq!(members["members"], json!(["alice", "carol"]));
    assert_eq!(broker.admin("GET", "/v1/groups/empty", None).0, 404);
}

#[tokio::test]
async fn each_device_gets_what_it_has_not_acknowledged() {
    let mut broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    publish(&mut sender, "user/alice", &[1, 2, 3], "stored").await;
    for device in ["phone", "laptop"] {
        let mut session = Session::connect(&broker, json!({"user": "alice", "device": device})).await;
        session.expect(&[1]).await;
        let (_, second) = session.message().await;
        session.expect(&[3]).await;
        session.ack("user/alice", &second).await;
        session.peer.expect_quiet().await;
        if device == "phone" {
            // The cursor is written within a second, or with the end of the session.
            session.lose(&broker).await;
        } else {
            tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        }
    }
    broker.restart_after("KILL");
    for device in ["phone", "laptop"] {
        let mut session = Session::connect(&broker, json!({"user": "alice", "device": device})).await;
        let third = session.expect(&[3]).await;
        session.ack("user/alice", &third).await;
        session.lose(&broker).await;
        let mut session = Session::connect(&broker, json!({"user": "alice", "device": device})).await;
        session.peer.expect_quiet().await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_of_a_catch_up_does_not_come_again() {
    let broker = Broker::start_with_config("[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n");
    let mut sender = broker.connect("sender").await;
    publish(&mut sender, "topic/a", &[1, 2, 3, 4, 5, 6], "stored").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.ok(json!({"type": "subscribe", "ref": 1, "to": "topic/a", "from": "earliest"})).await;
    for (round, (next, rest)) in
        [([1, 2], [3, 4, 5, 6].as_slice()), ([3, 4], &[5, 6])].into_iter().enumerate()
    {
        let seen = alice.expect(&next).await;
        alice.expect(rest).await;
        alice.ack("topic/a", &seen).await;
        let token = alice.token().to_owned();
        // Once cut, once taken over.
        if round == 0 {
            alice.lose(&broker).await;
            alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
        } else {
            let _old =
                std::mem::replace(&mut alice, Session::resume(&broker, "alice", &token, &[&seen]).await);
        }
        alice.says(true, true);
    }
    alice.expect(&[5, 6]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn acks_go_on_in_a_resumed_session() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    publish(&mut sender, "user/alice", &[1, 2], "stored").await;
    let (_, first) = alice.message().await;
    let (_, second) = alice.message().await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "user/alice", &[3], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&second]).await;
    alice.expect(&[3]).await;
    alice.ack("user/alice", &first).await;
    alice.peer.send(&json!({"type": "disconnect"})).await;
    alice.peer.expect_close().await;
    // What was seen and never acknowledged comes again.
    let mut alice = Session::begin(&broker, "alice").await;
    alice.expect(&[2, 3]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn who_was_there_before_a_crash_misses_nothing_of_all() {
    for window in ["60000", "0"] {
        let config =
            format!("store.resume_window_ms = {window}\n[[address]]\nmatch = \"all\"\nkeep = \"always\"\n");
        let mut broker = Broker::start_with_config(&config);
        let mut sender = broker.connect("sender").await;
        let mut bob = broker.connect("bob").await;
        // Behind this, what was written of bob is in the journal. No record of the session is: that takes a second.
        publish(&mut sender, "user/away", &[0], "stored").await;
        bob.expect_quiet().await;
        broker.restart_after("KILL");
        let mut sender = broker.connect("carol").await;
        let frame = json!({"type": "publish", "ref": 5, "to": "all", "payload": 1, "ack": "stored", "exclude_self": true});
        assert_eq!(sender.ask(frame).await["type"], "receipt");
        let found = sender.ask(json!({"type": "presence", "ref": 7, "of": "user/bob"})).await;
        assert!(found["users"][0]["last_seen"].is_u64(), "{found}");
        let mut bob = broker.connect("bob").await;
        assert_eq!(bob.receive().await["payload"], json!(1));
        let mut stranger = broker.connect("stranger").await;
        stranger.expect_quiet().await;
    }
}

#[tokio::test]
async fn when_a_user_was_seen_survives_a_crash() {
    let mut broker = Broker::start();
    let bob = Session::begin(&broker, "bob").await;
    bob.lose(&broker).await;
    let mut alice = broker.connect("alice").await;
    let ask = json!({"type": "presence", "ref": 7, "of": "user/bob"});
    let before = alice.ask(ask.clone()).await["users"][0].clone();
    assert!(before["last_seen"].is_u64(), "{before}");
    let stored = json!({"type": "publish", "ref": 1, "to": "user/alice", "payload": 1, "ack": "stored"});
    alice.send(&stored).await;
    let kinds = [alice.receive().await["type"].clone(), alice.receive().await["type"].clone()];
    assert!(kinds.contains(&json!("receipt")), "{kinds:?}");
    broker.restart_after("KILL");
    let mut alice = broker.connect("alice").await;
    assert_eq!(alice.receive().await["payload"], 1);
    let after = alice.ask(ask).await["users"][0].clone();
    assert_eq!((&after["last_seen"], &after["online"]), (&before["last_seen"], &json!(false)));
    let (status, shown) = broker.admin("GET", "/v1/users/bob", None);
    assert_eq!((status, &shown["last_seen_unix_ms"]), (200, &before["last_seen"]));
    assert_eq!(broker.admin("GET", "/v1/users/nobody", None).0, 404);
}

#[tokio::test]
async fn what_was_sent_and_never_arrived_comes_again() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    publish(&mut sender, "user/alice", &[1, 2], "stored").await;
    publish(&mut sender, "user/bob", &[1, 2], "stored").await;
    // Alice's inbox is sent, and she loses the connection before she reads any of it.
    let alice = Session::begin(&broker, "alice").await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    let alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.says(true, true);
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    let mut alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.expect(&[1, 2]).await;
    alice.peer.expect_quiet().await;
    // Bob read it, and it does not come again.
    let mut bob = Session::begin(&broker, "bob").await;
    let seen = bob.expect(&[1, 2]).await;
    let token = bob.token().to_owned();
    bob.lose(&broker).await;
    publish(&mut sender, "user/bob", &[3], "stored").await;
    let bob = Session::resume(&broker, "bob", &token, &[&seen]).await;
    let token = bob.token().to_owned();
    bob.lose(&broker).await;
    let mut bob = Session::resume(&broker, "bob", &token, &[&seen]).await;
    bob.expect(&[3]).await;
    bob.peer.expect_quiet().await;
}

#[tokio::test]
async fn a_group_that_was_left_meanwhile_is_not_given_back() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.ok(json!({"type": "join", "ref": 1, "group": "eng"})).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    assert_eq!(broker.admin("DELETE", "/v1/groups/eng/members/alice", None).0, 204);
    assert_eq!(broker.admin("PUT", "/v1/groups/eng/members/bob", None).0, 201);
    publish(&mut sender, "group/eng", &[1], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.says(true, false);
    let error = alice.peer.expect_error(1404).await;
    assert!(error["message"].as_str().unwrap().contains("group/eng"), "{error}");
    alice.peer.expect_quiet().await;
}

/// Whose name the broker gave stays in groups while it can come back, whether its connection ended or not.
#[tokio::test]
async fn a_member_without_a_name_comes_back_to_the_group() {
    for login in ["coexist", "limit", "replace"] {
        let config = format!("[access]\nlogin = \"{login}\"\n[store]\nresume_window_ms = 2000\n");
        let broker = Broker::start_with_config(&config);
        let mut sender = broker.connect("sender").await;
        let mut stranger = Session::connect(&broker, json!({})).await;
        stranger.ok(json!({"type": "join", "ref": 1, "group": "eng"})).await;
        let back = async |stranger: &Session| {
            let resume = json!({"token": stranger.token(), "positions": []});
            let session = Session::connect(&broker, json!({"resume": resume})).await;
            session.says(true, true);
            session
        };
        let mut next = back(&stranger).await;
        publish(&mut sender, "group/eng", &[1], "accepted").await;
        next.expect(&[1]).await;
        let token = next.token().to_owned();
        next.lose(&broker).await;
        let resume = json!({"token": token, "positions": []});
        let mut next = Session::connect(&broker, json!({"resume": resume})).await;
        publish(&mut sender, "group/eng", &[2], "accepted").await;
        next.expect(&[2]).await;
        let members = |broker: &Broker| broker.admin("GET", "/v1/groups/eng", None).0;
        next.lose(&broker).await;
        assert_eq!(members(&broker), 200);
        broker.eventually("the end of the window", |broker| members(broker) == 404);
    }
}

#[tokio::test]
async fn what_the_rules_no_longer_allow_is_not_given_back() {
    let rules = |topics: &str| {
        format!(
            "[access]\nallow_anonymous = true\n\
             [[access.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
             [[access.rules]]\nmatch = [{topics}]\nallow = [\"publish\", \"subscribe\"]\n"
        )
    };
    let mut broker = Broker::start_with_config(&rules("\"topic/a\", \"topic/b\""));
    let mut stranger = Session::connect(&broker, json!({})).await;
    stranger.subscribe("topic/a").await;
    stranger.subscribe("topic/b").await;
    let token = stranger.token().to_owned();
    stranger.lose(&broker).await;
    let path = broker.data.path().join("test.toml");
    std::fs::write(&path, rules("\"topic/b\"")).unwrap();
    broker.restart_after("TERM");
    let resume = json!({"token": token, "positions": []});
    let mut stranger = Session::connect(&broker, json!({"resume": resume})).await;
    stranger.says(true, false);
    let error = stranger.peer.expect_error(1403).await;
    assert!(error.get("ref").is_none() && error["message"].as_str().unwrap().contains("topic/a"), "{error}");
    let mut sender = Session::connect(&broker, json!({})).await;
    publish(&mut sender.peer, "topic/b", &[1], "accepted").await;
    stranger.expect(&[1]).await;
    stranger.peer.expect_quiet().await;
}

#[tokio::test]
async fn what_retention_removed_is_said() {
    let broker = Broker::start_with_config(
        "[[address]]\nmatch = \"topic/short\"\nkeep = \"always\"\nhistory_count = 2\n",
    );
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/short").await;
    publish(&mut sender, "topic/short", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish(&mut sender, "topic/short", &[2, 3, 4, 5], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, true);
    let overflow = alice.peer.receive().await;
    assert_eq!(overflow, json!({"type": "overflow", "to": "topic/short", "dropped": 0}));
    alice.expect(&[4, 5]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn receipts_go_to_the_connection_that_asked() {
    const PATIENT: &str = "[[address]]\nmatch = \"user/*\"\nack_timeout_ms = 60000\n";
    let data = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(data.path().join("test.toml"), PATIENT).unwrap();
    // One worker, so that the session goes on where it was.
    let broker = Broker::start_on(&data, &[("WASPMQ_WORKERS", "1")]);
    let mut bob = broker.connect("bob").await;
    let mut alice = Session::begin(&broker, "alice").await;
    let token = alice.token().to_owned();
    alice
        .peer
        .send(&json!({"type": "publish", "ref": 1, "to": "user/bob", "payload": 1, "ack": "delivered"}))
        .await;
    let first = bob.receive().await;
    alice.lose(&broker).await;
    let mut alice = Session::resume(&broker, "alice", &token, &[]).await;
    assert_eq!(alice.welcome["resumed"], json!(true));
    alice
        .peer
        .send(&json!({"type": "publish", "ref": 2, "to": "user/bob", "payload": 2, "ack": "delivered"}))
        .await;
    let second = bob.receive().await;
    for message in [&first, &second] {
        let answer = bob.ask(json!({"type": "ack", "ref": 1, "ids": [message["id"]]})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
    }
    let receipt = alice.peer.receive().await;
    assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(2)), "{receipt}");
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn what_came_by_a_lost_connection_is_acknowledged_at_once() {
    const SLOW: &str = "[[address]]\nmatch = \"topic/>\"\nbackoff_ms = 600000\nbackoff_max_ms = 600000\n";
    let data = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(data.path().join("test.toml"), SLOW).unwrap();
    let broker = Broker::start_on(&data, &[]);
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    let publish = |reference: u64| json!({"type": "publish", "ref": reference, "to": "topic/a", "payload": reference, "ack": "delivered"});
    let mut came = Vec::new();
    for reference in 1..=4 {
        sender.send(&publish(reference)).await;
        came.push(alice.peer.receive().await);
    }
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    // Nobody else was sent it, whatever the name.
    let mut other = Session::begin(&broker, "alice").await;
    let first = json!({"type": "ack", "ref": 8, "ids": [came[0]["id"]]});
    assert_eq!(other.peer.ask(first.clone()).await["code"], 1430);
    let mut alice = Session::resume(&broker, "alice", &token, &[&came[2]["pos"]]).await;
    alice.ok(first).await;
    let receipt = sender.receive().await;
    assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(1)), "{receipt}");
    // One that came by this connection does not say that those before it had come by the other.
    sender.send(&publish(5)).await;
    let (_, fifth) = alice.message().await;
    alice.ack("topic/a", &fifth).await;
    assert_eq!(sender.receive().await["ref"], 5);
    alice.ack("topic/a", &came[2]["pos"]).await;
    let mut receipts = [sender.receive().await["ref"].clone(), sender.receive().await["ref"].clone()];
    receipts.sort_by_key(Value::as_u64);
    assert_eq!(receipts, [2, 3]);
    sender.expect_quiet().await;
    alice.peer.expect_quiet().await;
    let (_, ledger) = broker.admin("GET", &format!("/v1/messages/{}", came[0]["id"].as_str().unwrap()), None);
    let row = &ledger["recipients"][0];
    assert_eq!((&row["state"], &row["attempts"]), (&json!("acked"), &json!(1)), "{ledger}");
}

/// Publishes unstored to thousands of addresses that none of alice's patterns matches: several in every shard.
async fn publish_elsewhere(broker: &Broker) {
    let mut noise = broker.connect("noise").await;
    let _listener = listener(broker, "topic/else.>").await;
    for round in 0..8 {
        let publish = |i: u32| {
            let to = match i % 3 {
                0 => format!("topic/else.r{round}.t{i}"),
                1 => format!("topic/mine.t{i}"),
                _ => format!("user/else{i}"),
            };
            json!({"type": "publish", "to": to, "payload": i, "ack": "accepted", "ref": i})
        };
        let frames: Vec<_> = (0..600).map(publish).collect();
        noise.send_all(&frames).await;
        for _ in frames {
            assert_eq!(noise.receive().await["type"], "receipt");
        }
    }
}

async fn listener(broker: &Broker, to: &str) -> Peer {
    let mut peer = broker.connect("listener").await;
    assert_eq!(peer.ask(json!({"type": "subscribe", "ref": 1, "to": to})).await["type"], "ok");
    peer
}

/// Addresses of users keep what nobody is there to get, so that only what alice has is not stored.
const NEVER: &str = "[[address]]\nmatch = \"user/*\"\nkeep = \"never\"\n";

/// A session with one of everything.
async fn begin_with_everything(broker: &Broker) -> Session {
    let mut alice = Session::begin(broker, "alice").await;
    alice.subscribe("topic/a").await;
    alice.subscribe("topic/mine.*.b").await;
    alice.subscribe("topic/*.c").await;
    alice.ok(json!({"type": "subscribe", "ref": 2, "to": "topic/jobs", "queue": "q"})).await;
    alice.ok(json!({"type": "subscribe", "ref": 2, "to": "topic/jobs.>", "queue": "q"})).await;
    alice.ok(json!({"type": "join", "ref": 3, "group": "eng"})).await;
    alice
}

#[tokio::test]
async fn what_others_were_sent_is_not_missed() {
    let broker = Broker::start_with_config(NEVER);
    let mut sender = broker.connect("sender").await;
    let mut alice = begin_with_everything(&broker).await;
    publish(&mut sender, "topic/a", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    publish_elsewhere(&broker).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish_elsewhere(&broker).await;
    publish(&mut sender, "topic/a", &[2], "stored").await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, true);
    alice.expect(&[2]).await;
    // The same once more, with a client that saw nothing at all in the connection before.
    publish_elsewhere(&broker).await;
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    publish_elsewhere(&broker).await;
    let mut alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.says(true, true);
    alice.expect(&[2]).await;
    alice.peer.expect_quiet().await;
}

#[tokio::test]
async fn one_message_among_many_is_missed_wherever_it_was_sent() {
    let broker = Broker::start_with_config(NEVER);
    let mut sender = broker.connect("sender").await;
    let mut alice = begin_with_everything(&broker).await;
    for to in ["user/alice", "all", "group/eng", "topic/a", "topic/mine.x.b", "topic/z.c"] {
        let token = alice.token().to_owned();
        alice.lose(&broker).await;
        let frame = json!({"type": "publish", "ref": 5, "to": to, "payload": 1, "exclude_self": true});
        assert_eq!(sender.ask(frame).await["type"], "receipt");
        publish_elsewhere(&broker).await;
        alice = Session::resume(&broker, "alice", &token, &[]).await;
        assert_eq!(alice.welcome["recovered"], json!(false), "{to}");
        // It was said, and is not said again.
        let token = alice.token().to_owned();
        alice.lose(&broker).await;
        alice = Session::resume(&broker, "alice", &token, &[]).await;
        assert_eq!(alice.welcome["recovered"], json!(true), "{to}");
    }
    // What a queue was sent went to others, stored or not.
    let _listener = listener(&broker, "topic/>").await;
    for to in ["topic/jobs", "topic/jobs.x"] {
        let token = alice.token().to_owned();
        alice.lose(&broker).await;
        publish(&mut sender, to, &[1], "stored").await;
        alice = Session::resume(&broker, "alice", &token, &[]).await;
        assert_eq!(alice.welcome["recovered"], json!(false), "{to}");
    }
}

#[tokio::test]
async fn what_a_session_left_itself_out_of_is_not_missed() {
    let broker = Broker::start();
    let mut other = listener(&broker, "topic/>").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    alice.subscribe("topic/*.b").await;
    for to in ["topic/a", "topic/a.b"] {
        let frame = json!({"type": "publish", "ref": 5, "to": to, "payload": 1, "exclude_self": true});
        assert_eq!(alice.peer.ask(frame).await["type"], "receipt");
        assert_eq!(other.receive().await["to"], to);
    }
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    let alice = Session::resume(&broker, "alice", &token, &[]).await;
    alice.says(true, true);
}

#[tokio::test]
async fn what_a_session_left_itself_out_of_does_not_come_however_often_it_is_taken_over() {
    let broker = Broker::start();
    let mut sender = broker.connect("sender").await;
    let mut alice = Session::begin(&broker, "alice").await;
    alice.subscribe("topic/a").await;
    let mut other = broker.connect("other").await;
    other.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/a"})).await;
    publish(&mut sender, "topic/a", &[1], "stored").await;
    let seen = alice.expect(&[1]).await;
    let frame = json!({"type": "publish", "ref": 5, "to": "topic/a", "payload": 2, "ack": "stored", "exclude_self": true});
    let mut olds = Vec::new();
    for _ in 0..3 {
        assert_eq!(alice.peer.ask(frame.clone()).await["type"], "receipt");
        let token = alice.token().to_owned();
        olds.push(std::mem::replace(&mut alice, Session::resume(&broker, "alice", &token, &[&seen]).await));
        alice.says(true, true);
    }
    let token = alice.token().to_owned();
    alice.lose(&broker).await;
    let mut alice = Session::resume(&broker, "alice", &token, &[&seen]).await;
    alice.says(true, true);
    alice.peer.expect_quiet().await;
}
