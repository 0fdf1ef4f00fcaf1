//! Sessions across connections: resuming, beginning anew, and the tokens for both.

use crate::support::{FAST, Peer, Server, message, pair, tracked};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use waspmq_client::{Client, Code, Error, Event, From, Payload, Profile, PublishOptions, Stats};
use waspmq_core::Reject;
use waspmq_protocol::encode;
use waspmq_protocol::server::{Frame, Goaway, MessageFrame};

async fn connected(server: &Server, token: &'static str) -> (Client, waspmq_client::Messages, Peer) {
    let connecting = Client::builder(server.url()).user("alice").token("t-1").backoff(FAST).connect();
    let (connected, (peer, connect)) = tokio::join!(connecting, server.welcome_session(token, false));
    assert!(connect.text.contains("resume: None"), "{}", connect.text);
    let (client, messages) = connected.unwrap();
    (client, messages, peer)
}

async fn subscribe(client: &Client, peer: &mut Peer, to: &str, from: Option<From>) {
    let asking = async {
        match from {
            Some(from) => client.subscribe_from(to, None, from).await,
            None => client.subscribe(to, None).await,
        }
    };
    let (subscribed, got) = tokio::join!(asking, peer.expect_ok("subscribe"));
    subscribed.unwrap();
    let from = from.map_or_else(|| "from: None".to_owned(), |from| format!("from: Some(\"{from}\")"));
    assert!(got.text.contains(to) && got.text.contains(&from), "{}", got.text);
}

#[tokio::test]
async fn a_session_goes_on_where_it_was() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = connected(&server, "r-1").await;
    let mut events = client.events();
    subscribe(&client, &mut peer, "topic/a", None).await;
    peer.deliver(tracked(7)).await;
    messages.recv().await.unwrap();
    peer.expect("ack").await;
    peer.deliver(tracked(9)).await;
    messages.recv().await.unwrap();
    peer.expect("ack").await;
    drop(peer);
    let (mut peer, connect) = server.welcome_session("r-2", true).await;
    assert!(connect.text.contains("epoch: 1 }, offset: 9 }]"), "{}", connect.text);
    // Nothing is asked for again, and a repeat is acknowledged again.
    peer.deliver(MessageFrame { attempt: Some(2), ..tracked(9) }).await;
    assert!(peer.expect("ack").await.text.contains("Ids"));
    assert_eq!(events.recv().await, Some(Event::Reconnected { resumed: true, recovered: true }));
    drop(peer);
    // The token of the second welcome is used for the third connection.
    let (_peer, connect) = server.welcome_session("r-3", true).await;
    assert!(connect.text.contains("resume: Some"), "{}", connect.text);
    assert_eq!(events.recv().await, Some(Event::Reconnected { resumed: true, recovered: true }));
    assert_eq!(client.stats(), Stats { reconnects: 2, duplicates: 1, ..Stats::default() });
    assert_eq!(client.welcome().resume_token.unwrap().expose(), "r-3");
}

#[tokio::test]
async fn a_new_session_is_asked_for_what_the_old_one_had() {
    let server = Server::start(Profile::Json).await;
    let connecting =
        Client::builder(server.url()).user("alice").profile(Profile::Json).backoff(FAST).connect();
    let (made, (mut peer, _)) = tokio::join!(connecting, server.welcome_session("r-1", false));
    let (client, mut messages) = made.unwrap();
    let mut events = client.events();
    subscribe(&client, &mut peer, "topic/a", None).await;
    subscribe(&client, &mut peer, "topic/a", Some(From::Earliest)).await;
    subscribe(&client, &mut peer, "topic/quiet", Some(From::Last)).await;
    subscribe(&client, &mut peer, "topic/live.*", None).await;
    subscribe(&client, &mut peer, "topic/kept.>", Some(From::Earliest)).await;
    let (watched, got) = tokio::join!(client.watch(&["bob", "carol"]), peer.expect_ok("watch"));
    watched.unwrap();
    assert!(got.text.contains("bob") && got.text.contains("carol"), "{}", got.text);
    peer.deliver(MessageFrame { unix_ms: 60_000, ..tracked(7) }).await;
    messages.recv().await.unwrap();
    peer.expect("ack").await;
    peer.deliver(tracked(8)).await;
    drop(peer);
    let (mut peer, _) = server.welcome_session("r-2", false).await;
    let mut references = Vec::new();
    let a = if messages.try_recv().is_some() { "s1e1:8" } else { "s1e1:7" };
    for (to, from) in [
        ("topic/a", Some(a)),
        ("topic/quiet", Some("last")),
        ("topic/live.*", None),
        ("topic/kept.>", Some("59000")),
    ] {
        let got = peer.expect("subscribe").await;
        assert!(got.text.contains(&format!("{to:?}")), "{to} {}", got.text);
        assert!(got.text.contains(&format!("from: {from:?}")), "{from:?} {}", got.text);
        references.push(got.reference);
    }
    peer.expect_ok("watch").await;
    peer.refuse(references[0], Code::NotStored).await;
    // What keeps nothing is subscribed without a beginning.
    let got = peer.expect("subscribe").await;
    assert!(got.text.contains("\"topic/a\"") && got.text.contains("from: None"), "{}", got.text);
    peer.ok(got.reference).await;
    assert_eq!(events.recv().await, Some(Event::Reconnected { resumed: false, recovered: false }));
    assert_eq!(client.stats(), Stats { reconnects: 1, ..Stats::default() });
    let (ended, _) = tokio::join!(client.watch(&[]), peer.expect_ok("watch"));
    ended.unwrap();
}

#[tokio::test]
async fn a_session_that_broke_off_is_asked_for_what_it_was_not_given_yet() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = connected(&server, "r-1").await;
    let mut events = client.events();
    subscribe(&client, &mut peer, "topic/a", None).await;
    subscribe(&client, &mut peer, "topic/b", Some(From::Last)).await;
    drop(peer);
    // A new session, of which the client hears nothing but the welcome and one answer.
    let (mut peer, _) = server.welcome_session("r-2", false).await;
    peer.expect_ok("subscribe").await;
    peer.expect("subscribe").await;
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    drop(peer);
    let (mut peer, connect) = server.welcome_session("r-3", true).await;
    assert!(connect.text.contains("resume: Some"), "{}", connect.text);
    let got = peer.expect_ok("subscribe").await;
    assert!(got.text.contains("\"topic/b\"") && got.text.contains("from: Some(\"last\")"), "{}", got.text);
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    drop(peer);
    // It has all of them now.
    let (mut peer, _) = server.welcome_session("r-4", true).await;
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    for (resumed, recovered) in [(false, false), (true, false), (true, true)] {
        assert_eq!(events.recv().await, Some(Event::Reconnected { resumed, recovered }));
    }
}

#[tokio::test]
async fn what_the_broker_has_no_room_for_at_the_moment_is_asked_for_again() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = connected(&server, "r-1").await;
    subscribe(&client, &mut peer, "topic/a", None).await;
    subscribe(&client, &mut peer, "topic/b", None).await;
    drop(peer);
    let (mut peer, _) = server.welcome_session("r-2", false).await;
    for _ in 0..2 {
        let got = peer.expect("subscribe").await;
        peer.refuse(got.reference, Code::Overloaded).await;
    }
    // What the program does not want any more, and the broker does not have, is not asked for again.
    let ending = async {
        let mut of_b = 0;
        loop {
            let got = peer.next().await.unwrap();
            match got.kind {
                "unsubscribe" => break peer.refuse(got.reference, Code::NotFound).await,
                _ if got.text.contains("\"topic/a\"") => peer.ok(got.reference).await,
                _ => {
                    of_b += 1;
                    assert!(of_b < 3, "{}", got.text);
                    peer.refuse(got.reference, Code::Overloaded).await;
                }
            }
        }
    };
    let (ended, ()) = tokio::join!(client.unsubscribe("topic/b", None), ending);
    assert!(matches!(ended, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::NotFound)));
    drop(peer);
    let (mut peer, _) = server.welcome_session("r-3", false).await;
    let got = peer.expect_ok("subscribe").await;
    assert!(got.text.contains("\"topic/a\""), "{}", got.text);
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    assert_eq!(client.stats(), Stats { reconnects: 2, ..Stats::default() });
}

#[tokio::test]
async fn what_the_broker_takes_away_is_told() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = connected(&server, "r-1").await;
    let mut events = client.events();
    subscribe(&client, &mut peer, "topic/a", None).await;
    subscribe(&client, &mut peer, "topic/a.>", None).await;
    let (joined, _) = tokio::join!(client.join("eng"), peer.expect_ok("join"));
    joined.unwrap();
    peer.deliver(tracked(7)).await;
    messages.recv().await.unwrap();
    peer.expect("ack").await;
    let say = async |peer: &mut Peer, text: &str| {
        let reject = Reject::new(
            Code::Forbidden,
            format!("the subscription to {text} ended: it is no longer allowed"),
        );
        peer.send(&Frame::Error { reference: None, reject }).await;
    };
    // Whether something is gone says the broker when it is asked, from where the client was.
    say(&mut peer, "topic/a").await;
    let got = peer.expect_ok("subscribe").await;
    assert!(got.text.contains("\"topic/a\"") && got.text.contains("s1e1:7"), "{}", got.text);
    say(&mut peer, "topic/a.>").await;
    let got = peer.expect("subscribe").await;
    peer.refuse(got.reference, Code::Forbidden).await;
    say(&mut peer, "group/eng").await;
    let got = peer.expect("join").await;
    peer.refuse(got.reference, Code::Forbidden).await;
    say(&mut peer, "topic/other").await;
    for expected in [Some("topic/a.>"), Some("group/eng"), None] {
        let told = events.recv().await;
        let Some(Event::Refused { of, refusal }) = told else { panic!("{told:?}") };
        assert_eq!((of.as_deref(), refusal.code()), (expected, Some(Code::Forbidden)));
    }
    assert_eq!(client.stats(), Stats { refused: 3, ..Stats::default() });
    drop(peer);
    let (mut peer, _) = server.welcome_session("r-2", false).await;
    peer.expect_ok("subscribe").await;
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
}

/// The client's queue has room for this many.
const QUEUE: u64 = 1_024;

/// Asks a client to leave, with more messages behind that than it has places for.
async fn overfill(peer: &mut Peer) {
    let mut goaway = Vec::new();
    let frame = Frame::Goaway(Goaway { reason: "drain".to_owned(), reconnect_ms: 1 });
    encode::control(Profile::Binary, &frame, &mut goaway);
    let waiting = (1..=QUEUE + 2).map(|count| message(Profile::Binary, count, b"x"));
    peer.send_batch(&std::iter::once(goaway).chain(waiting).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_had_no_place_when_the_connection_ended_was_not_seen() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = connected(&server, "r-1").await;
    overfill(&mut peer).await;
    assert!(peer.next().await.is_none());
    let (mut peer, connect) = server.welcome_session("r-2", true).await;
    assert!(connect.text.contains(&format!("epoch: 1 }}, offset: {QUEUE} }}]")), "{}", connect.text);
    for count in [QUEUE + 1, QUEUE + 2] {
        peer.message(count, b"x").await;
    }
    for count in 1..=QUEUE + 2 {
        assert_eq!(messages.recv().await.unwrap().position.offset, count);
    }
    assert_eq!(client.stats().duplicates, 0);
}

#[tokio::test]
async fn what_had_no_place_is_not_overtaken_by_what_comes_behind_the_goodbye() {
    let server = Server::start(Profile::Binary).await;
    let (_client, mut messages, mut peer) = pair(&server, Profile::Binary).await;
    overfill(&mut peer).await;
    peer.expect("disconnect").await;
    peer.message(QUEUE + 3, b"x").await;
    for count in 1..=QUEUE + 3 {
        assert_eq!(messages.recv().await.unwrap().position.offset, count);
    }
}

#[tokio::test]
async fn what_is_asked_for_again_is_no_repeat() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = pair(&server, Profile::Binary).await;
    for count in 1..=2 {
        peer.deliver(tracked(count)).await;
        messages.recv().await.unwrap();
    }
    peer.expect("ack").await;
    let again = [
        ("topic/a", From::Now, 0),
        ("topic/a", From::Earliest, 2),
        ("topic/b", From::Last, 0),
        ("topic/>", From::Last, 2),
    ];
    for (marker, (to, from, comes)) in (100..).zip(again) {
        subscribe(&client, &mut peer, to, Some(from)).await;
        for count in [1, 2, marker] {
            peer.deliver(MessageFrame { wants_ack: false, ..tracked(count) }).await;
        }
        for count in (1..=comes).chain([marker]) {
            assert_eq!(messages.recv().await.unwrap().position.offset, count, "{to}");
        }
    }
}

#[tokio::test]
async fn a_session_that_was_closed_for_good_stays_so_where_nobody_takes_messages() {
    let server = Server::start(Profile::Binary).await;
    let connecting = Client::builder(server.url()).user("alice").backoff(FAST).connect();
    let (connected, mut peer) = tokio::join!(connecting, server.welcome_with(20, 65_536));
    let (client, _messages) = connected.unwrap();
    let mut events = client.events();
    for count in 1..=2 * QUEUE {
        peer.message(count, b"x").await;
    }
    peer.refuse(None, Code::TokenExpired).await;
    peer.close(4004).await;
    drop(peer);
    tokio::select! {
        _ = server.accept() => panic!("it came back"),
        event = events.recv() => assert!(matches!(event, Some(Event::Refused { .. })), "{event:?}"),
    }
    assert_eq!(events.recv().await, None);
    let ended = client.close().await.unwrap_err();
    assert!(matches!(ended, Error::Closed { code: 4004, refusal: Some(_), .. }), "{ended:?}");
}

#[tokio::test]
async fn a_session_that_can_be_resumed_is_left_without_a_goodbye() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = connected(&server, "r-1").await;
    peer.deliver(tracked(1)).await;
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    assert!(messages.try_recv().is_some());
    peer.goaway(1).await;
    peer.expect("ack").await;
    assert!(peer.next().await.is_none());
    let (_peer, connect) = server.welcome_session("r-2", true).await;
    assert!(connect.text.contains("resume: Some"), "{}", connect.text);
}

#[tokio::test]
async fn a_refused_token_ends_the_client() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = connected(&server, "r-1").await;
    let mut events = client.events();
    let (refreshed, _) = tokio::join!(client.refresh("t-2"), peer.expect_ok("refresh"));
    refreshed.unwrap();
    let refusing = async {
        let got = peer.expect("refresh").await;
        peer.refuse(got.reference, Code::TokenExpired).await;
        peer.close(4004).await;
    };
    let (refused, ()) = tokio::join!(client.refresh("t-old"), refusing);
    assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::TokenExpired)));
    // Without a provider the same would happen again.
    while events.recv().await.is_some() {}
    let ended = client.send("topic/a", Payload::bytes("x"), PublishOptions::default()).await;
    assert!(matches!(ended, Err(Error::Closed { code: 4004, .. })), "{ended:?}");
}

#[tokio::test]
async fn the_refreshed_token_is_the_next_connects() {
    let server = Server::start(Profile::Json).await;
    let (client, _messages, mut peer) = pair(&server, Profile::Json).await;
    let (refreshed, _) = tokio::join!(client.refresh("t-2"), peer.expect_ok("refresh"));
    refreshed.unwrap();
    drop(peer);
    let mut peer = server.accept().await;
    assert!(peer.expect("connect").await.text.contains("token: Some"));
}

#[tokio::test]
async fn a_provider_is_asked_before_every_connect() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let server = Server::start(Profile::Binary).await;
    let connecting = Client::builder(server.url())
        .token_provider(move || {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            async move { if number == 2 { Err("not now".to_owned()) } else { Ok(format!("t-{number}")) } }
        })
        .backoff(FAST)
        .connect();
    let (made, (mut peer, connect)) = tokio::join!(connecting, server.welcome_session("r-1", false));
    let (client, _messages) = made.unwrap();
    assert!(connect.text.contains("token: Some"), "{}", connect.text);
    // A token that ended is no reason to stay away, nor is a provider that fails once.
    peer.close(4004).await;
    let (mut peer, _) = server.welcome_session("r-2", true).await;
    peer.close(4004).await;
    let mut peer = server.accept().await;
    peer.expect("connect").await;
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    for _ in 0..2 {
        peer.refuse(None, Code::TokenExpired).await;
        peer.close(4004).await;
        if asked.load(Ordering::Relaxed) == 4 {
            peer = server.accept().await;
            peer.expect("connect").await;
        }
    }
    // Two fresh tokens refused in a row are enough.
    let mut events = client.events();
    while events.recv().await.is_some() {}
    let ended = client.close().await;
    assert!(
        matches!(&ended, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::TokenExpired)),
        "{ended:?}"
    );
    let failing =
        Client::builder(server.url()).token_provider(|| async { Err("no key".to_owned()) }).connect();
    assert_eq!(failing.await.unwrap_err(), Error::Token { message: "no key".to_owned() });
}
