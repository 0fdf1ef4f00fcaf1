//! Long messages on streams of their own.

use super::proxy::Proxy;
use super::raw::Raw;
use crate::binary::from_binary;
use crate::bridge::{connect, endpoint_with, framed, message};
use crate::harness::{Broker, PATIENCE};
use crate::levels::{PROFILES, publish};
use futures_util::future::poll_immediate;
use quinn::{RecvStream, TransportConfig};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::timeout;

const LONG: usize = 200_000;

fn long(letter: &str) -> String {
    letter.repeat(LONG)
}

/// A client that takes little of a stream ahead of what it reads, and lets the broker open so many.
async fn narrow(broker: &Broker, user: &str, streams: u32) -> Raw {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(8_192_u32.into()).max_concurrent_uni_streams(streams.into());
    let endpoint = endpoint_with(broker, b"waspmq/1", transport);
    let mut raw = Raw::connect_by(broker, endpoint, user, json!({"streams": true})).await;
    let answer = raw.ask(json!({"type": "subscribe", "to": "topic/t", "ref": 1})).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    raw
}

async fn accept(raw: &Raw) -> RecvStream {
    timeout(PATIENCE, raw.connection.accept_uni()).await.expect("a stream in time").unwrap()
}

/// The only message of a stream.
async fn only(stream: &mut RecvStream) -> Value {
    let message = timeout(PATIENCE, async {
        let first = message(stream).await.expect("a message");
        assert_eq!(message(stream).await, None, "a stream has one message");
        first
    });
    from_binary(&message.await.expect("a whole message in time"))
}

fn counted(broker: &Broker, direction: &str, outcome: &str) -> f64 {
    let name = format!("waspmq_quic_streams_total{{direction=\"{direction}\",outcome=\"{outcome}\"}}");
    broker.metric(&name).unwrap()
}

/// The gauge is told once a second.
fn nothing_waits(broker: &Broker) {
    let queued = "waspmq_outbound_queue_bytes";
    broker.eventually("nothing waits", |broker| broker.metric(queued) == Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_short_passes_what_is_long() {
    let broker = Broker::start();
    let mut asked = narrow(&broker, "asked", 8).await;
    let mut other = Raw::subscribed(&broker, "other", json!({})).await;
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    alice.send(&publish(1, "topic/t", long("a"), "accepted")).await;
    alice.expect_receipt(1, "accepted").await;
    let mut stream = accept(&asked).await;
    // It is not read, and the broker has only begun with it.
    for i in 2..50 {
        alice.send(&publish(i, "topic/t", i, "accepted")).await;
        let message = asked.next().await;
        assert_eq!(message["payload"], json!(i));
        assert_ne!(message["pos"], "s0e0:0");
    }
    assert_eq!(counted(&broker, "out", "sent"), 0.0);
    let message = only(&mut stream).await;
    assert_eq!((&message["payload"], &message["pos"]), (&json!(long("a")), &json!("s0e0:0")));
    assert_eq!((&message["from"], &message["to"]), (&json!("alice"), &json!("topic/t")));
    broker.eventually("it is sent", |broker| counted(broker, "out", "sent") == 1.0);
    assert_eq!(other.next().await["payload"], json!(long("a")), "who did not ask has an order");
    assert!(poll_immediate(other.connection.accept_uni()).await.is_none());
    nothing_waits(&broker);
}

#[tokio::test]
async fn what_is_kept_or_acknowledged_or_for_a_queue_stays_on_the_stream() {
    let broker = Broker::start();
    let mut bob = Raw::connect(&broker, "bob", json!({"streams": true})).await;
    let answer = bob.ask(json!({"type": "subscribe", "to": "topic/q", "queue": "w", "ref": 1})).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    for (i, to, level) in
        [(1, "user/bob", "stored"), (2, "user/bob", "delivered"), (3, "topic/q", "accepted")]
    {
        alice.send(&publish(i, to, long("a"), level)).await;
        let message = bob.next().await;
        assert_eq!(message["payload"], json!(long("a")), "{level}");
        assert_ne!(message["pos"], "s0e0:0", "{level}");
    }
    assert!(poll_immediate(bob.connection.accept_uni()).await.is_none());
}

#[tokio::test]
async fn what_is_too_much_goes_on_the_stream() {
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    // By what the client lets the broker open, by what the broker has under way, and by the bytes that may wait.
    for (user, allowed, bytes, expected) in
        [("few", 2, 20_000, 2), ("many", 100, 20_000, 16), ("much", 100, 500_000, 2)]
    {
        let full = counted(&broker, "out", "full");
        let mut bob = narrow(&broker, user, allowed).await;
        for i in 0..=expected {
            alice.send(&publish(i, &format!("user/{user}"), "x".repeat(bytes), "accepted")).await;
            alice.expect_receipt(i, "accepted").await;
        }
        let message = bob.next().await;
        assert_eq!(message["payload"], json!("x".repeat(bytes)), "{user}");
        assert_eq!(message["pos"], "s0e0:0", "it was laid out for a stream");
        assert_eq!(counted(&broker, "out", "full") - full, 1.0, "{user}");
        for _ in 0..expected {
            let mut stream = accept(&bob).await;
            assert_eq!(only(&mut stream).await["payload"], json!("x".repeat(bytes)), "{user}");
        }
        // There is room again.
        alice.send(&publish(99, &format!("user/{user}"), long("z"), "accepted")).await;
        assert_eq!(only(&mut accept(&bob).await).await["payload"], json!(long("z")), "{user}");
        alice.expect_receipt(99, "accepted").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_that_was_sent_one_may_have_missed_something() {
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let mut bob = narrow(&broker, "bob", 8).await;
    alice.send(&publish(1, "topic/t", long("a"), "accepted")).await;
    let _stream = accept(&bob).await;
    alice.send(&publish(2, "topic/t", 2, "accepted")).await;
    let position = bob.next().await["pos"].clone();
    bob.connection.close(0_u32.into(), b"");
    broker.eventually("it is lost", |broker| {
        broker.metric("waspmq_messages_dropped_total{reason=\"connection_lost\"}") == Some(1.0)
    });
    nothing_waits(&broker);
    let resume = json!({"token": bob.welcome["resume_token"], "positions": [position]});
    let bob = Raw::connect(&broker, "bob", json!({"resume": resume})).await;
    assert_eq!((&bob.welcome["resumed"], &bob.welcome["recovered"]), (&json!(true), &json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_may_do_without_the_rest() {
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let mut bob = narrow(&broker, "bob", 64).await;
    for i in 1..=12 {
        alice.send(&publish(i, "topic/t", long("a"), "accepted")).await;
        accept(&bob).await.stop(1_u32.into()).unwrap();
    }
    broker.eventually("it gets no more", |broker| counted(broker, "out", "stopped") == 12.0);
    assert_eq!((counted(&broker, "out", "full"), counted(&broker, "out", "sent")), (0.0, 0.0));
    alice.send(&publish(13, "topic/t", 13, "accepted")).await;
    assert_eq!(bob.next().await["payload"], 13);
}

#[tokio::test]
async fn what_is_under_way_arrives_before_the_goodbye() {
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let mut bob = narrow(&broker, "bob", 8).await;
    alice.send(&publish(1, "topic/t", long("a"), "accepted")).await;
    let mut stream = accept(&bob).await;
    let (_, sessions) = broker.admin("GET", "/v1/sessions", None);
    let sessions = sessions["sessions"].as_array().unwrap();
    let session = sessions.iter().find(|session| session["user"] == "bob").unwrap()["id"].clone();
    let path = format!("/v1/sessions/{}", session.as_str().unwrap());
    assert_eq!(broker.admin("DELETE", &path, None).0, 204);
    assert_eq!(bob.next().await["type"], "close");
    assert_eq!(only(&mut stream).await["payload"], json!(long("a")));
    let ended = timeout(PATIENCE, bob.connection.closed()).await.unwrap();
    assert!(
        matches!(&ended, quinn::ConnectionError::ApplicationClosed(c) if u64::from(c.error_code) == 4002)
    );
    // Who reads nothing is not waited for for ever.
    let mut deaf = narrow(&broker, "deaf", 8).await;
    alice.send(&publish(2, "topic/t", long("a"), "accepted")).await;
    let _stream = accept(&deaf).await;
    deaf.send.write_all(&framed(&json!({"type": "disconnect"}))).await.unwrap();
    assert_eq!(deaf.next().await["type"], "close");
    timeout(PATIENCE, deaf.connection.closed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_publish_on_streams_of_their_own() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", PROFILES[0]).await;
    let mut alice = Raw::connect(&broker, "alice", json!({"streams": true})).await;
    let frame = |i: u64, letter: &str, level: &str| framed(&publish(i, "user/bob", long(letter), level));
    // Half of one is there while others come and go, on the stream, too.
    let slow = frame(1, "a", "stored");
    let mut first = alice.connection.open_uni().await.unwrap();
    first.write_all(&slow[..LONG / 2]).await.unwrap();
    for (i, level) in [(2, "accepted"), (3, "stored"), (4, "none")] {
        let mut stream = alice.connection.open_uni().await.unwrap();
        stream.write_all(&frame(i, "b", level)).await.unwrap();
        stream.finish().unwrap();
        if level != "none" {
            assert_eq!(alice.next().await["ref"], json!(i), "{level}");
        }
        assert_eq!(bob.receive().await["payload"], json!(long("b")), "{level}");
    }
    alice.send.write_all(&framed(&publish(5, "user/bob", 5, "accepted"))).await.unwrap();
    assert_eq!(alice.next().await["ref"], 5);
    bob.expect_message(5).await;
    first.write_all(&slow[LONG / 2..]).await.unwrap();
    let receipt = alice.next().await;
    assert_eq!((&receipt["ref"], &receipt["level"]), (&json!(1), &json!("stored")), "{receipt}");
    assert_eq!(bob.receive().await["payload"], json!(long("a")));
    // The stream goes on as long as it likes; short messages may be on it, too.
    for i in 6..40_u64 {
        first.write_all(&framed(&publish(i, "user/bob", i, "none"))).await.unwrap();
        bob.expect_message(i).await;
    }
    first.finish().unwrap();
    broker.eventually("all are over", |broker| counted(broker, "in", "taken") == 4.0);
    assert_eq!(counted(&broker, "in", "refused") + counted(&broker, "in", "reset"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_else_clients_send_there_is_refused() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", PROFILES[0]).await;
    let mut alice = Raw::connect(&broker, "alice", json!({"streams": true})).await;
    for (frame, reference) in [
        (json!({"type": "subscribe", "to": "topic/t", "ref": 5}), json!(5)),
        (json!({"type": "connect", "user": "mallory"}), Value::Null),
        (json!({"type": "disconnect"}), Value::Null),
    ] {
        let mut stream = alice.connection.open_uni().await.unwrap();
        let bytes = [framed(&frame), framed(&publish(1, "user/bob", 1, "none"))].concat();
        stream.write_all(&bytes).await.unwrap();
        stream.finish().unwrap();
        let error = alice.next().await;
        assert_eq!((&error["name"], &error["ref"]), (&json!("invalid_frame"), &reference), "{error}");
        bob.expect_message(1).await;
    }
    // One that ends within a message, and one that is given up there.
    let bytes =
        [framed(&publish(2, "user/bob", 2, "none")), framed(&publish(3, "user/bob", 3, "none"))].concat();
    for is_whole in [true, false] {
        let mut stream = alice.connection.open_uni().await.unwrap();
        stream.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        bob.expect_message(2).await;
        if is_whole {
            stream.finish().unwrap();
            let error = alice.next().await;
            assert_eq!(error["message"], "a stream ended within a message", "{error}");
        } else {
            stream.reset(7_u32.into()).unwrap();
        }
    }
    broker.eventually("all are over", |broker| counted(broker, "in", "reset") == 1.0);
    assert_eq!((counted(&broker, "in", "refused"), counted(&broker, "in", "taken")), (4.0, 0.0));
    // What is too long is so before it is kept.
    let mut stream = alice.connection.open_uni().await.unwrap();
    stream.write_all(&(1_u64 << 40 | 0xc0 << 56).to_be_bytes()).await.unwrap();
    assert_eq!(alice.next().await["name"], "message_too_large");
    assert_eq!(alice.next().await["type"], "close");
    bob.expect_quiet().await;
}

#[tokio::test]
async fn what_was_sent_before_the_goodbye_is_published() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", PROFILES[0]).await;
    for round in 0..10 {
        let mut alice = Raw::connect(&broker, "alice", json!({"streams": true})).await;
        let mut stream = alice.connection.open_uni().await.unwrap();
        stream.write_all(&framed(&publish(round, "user/bob", "x".repeat(900_000), "none"))).await.unwrap();
        stream.finish().unwrap();
        assert!(timeout(PATIENCE, stream.stopped()).await.unwrap().unwrap().is_none(), "it has arrived");
        if round % 2 == 0 {
            // What comes behind the goodbye is not heard.
            let last = [json!({"type": "disconnect"}), publish(99, "user/bob", 99, "accepted")];
            alice.send.write_all(&last.map(|frame| framed(&frame)).concat()).await.unwrap();
        }
        // As clients do, or end without a word.
        alice.send.finish().unwrap();
        assert_eq!(bob.receive().await["payload"].as_str().unwrap().len(), 900_000, "{round}");
        if round % 2 == 0 {
            assert_eq!(alice.next().await["type"], "close");
        }
        timeout(PATIENCE, alice.connection.closed()).await.expect("an end in time");
    }
    // Who never ends a stream is not waited for.
    let mut alice = Raw::connect(&broker, "alice", json!({"streams": true})).await;
    let mut stream = alice.connection.open_uni().await.unwrap();
    stream.write_all(&[0x40]).await.unwrap();
    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    alice.send.write_all(&framed(&json!({"type": "disconnect"}))).await.unwrap();
    assert_eq!(alice.next().await["type"], "close");
}

#[tokio::test]
async fn what_is_not_complete_is_bounded_and_who_did_not_ask_is_not_read() {
    let broker = Broker::start_with(&[("WASPMQ_LIMITS__WORKER_INBOUND_BYTES_MAX", "1048576")]);
    let mut alice = Raw::connect(&broker, "alice", json!({"streams": true})).await;
    let bytes = framed(&publish(1, "user/bob", "x".repeat(1_000_000), "none"));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = alice.connection.open_uni().await.unwrap();
        if stream.write_all(&bytes[..900_000]).await.is_err() {
            break;
        }
        streams.push(stream);
    }
    let close = alice.next().await;
    assert_eq!((&close["type"], &close["code"]), (&json!("close"), &json!(4103)), "{close}");
    let mut other = Raw::connect(&broker, "other", json!({})).await;
    let mut stream = other.connection.open_uni().await.unwrap();
    stream.write_all(&framed(&publish(1, "user/other", 1, "none"))).await.unwrap();
    stream.finish().unwrap();
    assert!(timeout(PATIENCE, stream.stopped()).await.unwrap().unwrap().is_none(), "it has arrived");
    for _ in 0..3 {
        assert_eq!(other.ask(json!({"type": "ping"})).await["type"], "pong");
    }
    assert_eq!(counted(&broker, "in", "taken") + counted(&broker, "in", "refused"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_of_web_transport_are_those_of_the_session() {
    let broker = Broker::start();
    let (_endpoint, connection) = connect(&broker, b"h3").await;
    let url = format!("https://{}/wt", broker.address).parse::<url::Url>().unwrap();
    let session = web_transport_quinn::Session::connect(connection.clone(), url).await.unwrap();
    let (mut send, mut receive) = session.open_bi().await.unwrap();
    send.write_all(&framed(&json!({"type": "connect", "user": "alice", "streams": true}))).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
    let mut bob = broker.connect_as("bob", "one", "quic").await;
    // More than may be open at once, one after the other.
    for i in 0..30_u64 {
        let mut stream = session.open_uni().await.unwrap();
        stream.write_all(&framed(&publish(i, "user/bob", i, "none"))).await.unwrap();
        stream.finish().unwrap();
        bob.expect_message(i).await;
        bob.send(&publish(i, "user/alice", long("b"), "accepted")).await;
        bob.expect_receipt(i, "accepted").await;
        let mut stream = timeout(PATIENCE, session.accept_uni()).await.unwrap().unwrap();
        let whole = timeout(PATIENCE, stream.read_to_end(2 * LONG)).await.unwrap().unwrap();
        let (_, length_bytes) = waspmq_protocol::stream::length(&whole).unwrap();
        assert_eq!(from_binary(&whole[length_bytes..])["payload"], json!(long("b")));
    }
    broker.eventually("all are over", |broker| {
        (counted(broker, "out", "sent"), counted(broker, "in", "taken")) == (30.0, 30.0)
    });
}

#[tokio::test]
async fn a_bad_network_delays_and_loses_nothing() {
    const COUNT: usize = 60;
    let broker = Broker::start();
    let proxy = Proxy::start(&broker).await;
    let asked = json!({"streams": true});
    let (near, mut alice) = proxy.session_with(&broker, "alice", asked.clone()).await;
    let (far, mut bob) = proxy.session_with(&broker, "bob", asked).await;
    let (mut came, mut on_stream) = (BTreeSet::new(), 0.0);
    for (i, n) in (1..).zip(1..=COUNT) {
        let mut frame = publish(i, "user/bob", "x".repeat(20_000 + n), "accepted");
        frame["headers"] = json!({"n": n.to_string()});
        let mut stream = near.1.open_uni().await.unwrap();
        stream.write_all(&framed(&frame)).await.unwrap();
        stream.finish().unwrap();
        let receipt = from_binary(&timeout(PATIENCE, message(&mut alice.1)).await.unwrap().unwrap());
        assert_eq!((&receipt["ref"], &receipt["level"]), (&json!(i), &json!("accepted")), "{receipt}");
    }
    // What found as many under way as may be comes on the stream.
    let full = counted(&broker, "out", "full");
    while came.len() < COUNT {
        let next = if on_stream < full {
            on_stream += 1.0;
            from_binary(&timeout(PATIENCE, message(&mut bob.1)).await.unwrap().unwrap())
        } else {
            only(&mut timeout(PATIENCE, far.1.accept_uni()).await.unwrap().unwrap()).await
        };
        let n: usize = next["headers"]["n"].as_str().unwrap().parse().unwrap();
        assert_eq!(next["payload"].as_str().unwrap().len(), 20_000 + n);
        assert!(came.insert(n), "twice: {n}");
    }
    assert!(proxy.lost() > 0);
}

/// Whatever the network takes again is for the connection's stream first, though the window is full of what is long.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_short_does_not_wait_for_the_window() {
    const BYTES: usize = 200_000;
    let broker = Broker::start_with(&[("WASPMQ_LIMITS__OUTBOUND_BYTES_MAX", "16777216")]);
    let proxy = Proxy::good(&broker).await;
    let (whole, mut bob) = proxy.session_with(&broker, "bob", json!({"streams": true})).await;
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let queued = |broker: &Broker| broker.metric("waspmq_outbound_queue_bytes").unwrap();
    proxy.stand_still(true);
    for i in 0..16 {
        alice.send(&publish(i, "user/bob", "x".repeat(BYTES), "accepted")).await;
        alice.expect_receipt(i, "accepted").await;
    }
    // One or two are handed over as a whole, and then the window is full.
    broker.eventually("the window is full", |broker| queued(broker) > 14.0 * 200_000.0);
    let before = queued(&broker);
    alice.send(&publish(99, "user/bob", 99, "accepted")).await;
    broker.eventually("it waits, too", |broker| queued(broker) > before);
    let (came, mut reading) = (Arc::new(AtomicUsize::new(0)), tokio::task::JoinSet::new());
    for _ in 0..16 {
        let (connection, came) = (whole.1.clone(), came.clone());
        reading.spawn(async move {
            let mut stream = connection.accept_uni().await.unwrap();
            while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.unwrap() {
                came.fetch_add(chunk.bytes.len(), Ordering::Relaxed);
            }
        });
    }
    proxy.stand_still(false);
    let next = from_binary(&timeout(PATIENCE, message(&mut bob.1)).await.unwrap().unwrap());
    let ahead = came.load(Ordering::Relaxed);
    assert_eq!(next["payload"], 99);
    assert!(ahead < 300_000, "{ahead} bytes went first: no more than the window had");
    while reading.join_next().await.is_some() {}
    assert!(came.load(Ordering::Relaxed) > 16 * BYTES);
    assert_eq!(counted(&broker, "out", "full"), 0.0);
}
