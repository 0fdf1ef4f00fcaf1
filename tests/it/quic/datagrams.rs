//! Messages that are datagrams of QUIC.

use super::proxy::Proxy;
use super::raw::Raw;
use crate::binary::{from_binary, to_binary};
use crate::bridge::{connect, framed, message};
use crate::harness::{Broker, PATIENCE};
use crate::levels::{PROFILES, publish, with};
use futures_util::future::poll_immediate;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use waspmq_client::{Client, Payload, PublishOptions};

fn counted(broker: &Broker, direction: &str, outcome: &str) -> f64 {
    let name = format!("waspmq_quic_datagrams_total{{direction=\"{direction}\",outcome=\"{outcome}\"}}");
    broker.metric(&name).unwrap()
}

#[tokio::test]
async fn what_may_be_lost_comes_as_a_datagram_to_who_asked() {
    let broker = Broker::start();
    let mut asked = Raw::subscribed(&broker, "asked", json!({"datagrams": true})).await;
    let mut other = Raw::subscribed(&broker, "other", json!({})).await;
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let large = "x".repeat(5_000);
    alice.send(&publish(1, "topic/t", 1, "none")).await;
    alice.send(&publish(2, "topic/t", 2, "accepted")).await;
    alice.send(&publish(3, "topic/t", large.clone(), "none")).await;
    let first = asked.datagram().await;
    assert_eq!((&first["payload"], &first["pos"]), (&json!(1), &json!("s0e0:0")), "{first}");
    for (session, expected) in
        [(&mut asked, vec![json!(2), json!(large)]), (&mut other, vec![json!(1), json!(2), json!(large)])]
    {
        for expected in expected {
            let message = session.next().await;
            assert_eq!(message["payload"], expected);
            assert_ne!(message["pos"], "s0e0:0");
        }
    }
    // Its own messages do not come back to a session that leaves itself out.
    asked.send_datagram(&with(publish(4, "topic/t", 4, "none"), json!({"exclude_self": true})));
    assert_eq!(other.next().await["payload"], json!(4));
    alice.send(&publish(5, "topic/t", 5, "accepted")).await;
    assert_eq!(asked.next().await["payload"], json!(5));
    assert_eq!(other.next().await["payload"], json!(5));
    assert!(poll_immediate(other.connection.read_datagram()).await.is_none());
    assert!(poll_immediate(asked.connection.read_datagram()).await.is_none());
    assert_eq!((counted(&broker, "out", "sent"), counted(&broker, "in", "taken")), (1.0, 1.0));
    let delivered = "waspmq_messages_delivered_total{kind=\"topic\",transport=\"quic\"}";
    assert_eq!(broker.metric(delivered), Some(9.0));
    // Over WebSocket it is asked for in vain.
    let mut socket = broker.open(None).await;
    socket.send(&json!({"type": "connect", "user": "carol", "datagrams": true, "streams": true})).await;
    socket.receive().await;
    alice.send(&publish(6, "user/carol", 6, "none")).await;
    assert_ne!(socket.expect_message(6).await["pos"], "s0e0:0");
}

#[tokio::test]
async fn a_session_that_was_sent_datagrams_has_missed_something() {
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    for (level, recovered) in [("accepted", true), ("none", false)] {
        let mut bob = Raw::subscribed(&broker, "bob", json!({"datagrams": true})).await;
        alice.send(&publish(1, "topic/t", 1, level)).await;
        if level == "none" {
            bob.datagram().await;
        } else {
            bob.next().await;
        }
        // What comes later on the stream has a later position than the datagram had.
        alice.send(&publish(2, "topic/t", 2, "accepted")).await;
        let position = bob.next().await["pos"].clone();
        bob.connection.close(0_u32.into(), b"");
        let resume = json!({"token": bob.welcome["resume_token"], "positions": [position]});
        let bob = Raw::connect(&broker, "bob", json!({"datagrams": true, "resume": resume})).await;
        let told = (&bob.welcome["resumed"], &bob.welcome["recovered"]);
        assert_eq!(told, (&json!(true), &json!(recovered)), "{level}");
        // It is said once.
        bob.connection.close(0_u32.into(), b"");
        let resume = json!({"token": bob.welcome["resume_token"], "positions": [position]});
        let bob = Raw::connect(&broker, "bob", json!({"resume": resume})).await;
        assert_eq!(bob.welcome["recovered"], true);
        bob.connection.close(0_u32.into(), b"");
    }
}

#[tokio::test]
async fn clients_publish_in_datagrams_what_may_be_lost_and_nothing_else() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", PROFILES[0]).await;
    let mut alice = Raw::connect(&broker, "alice", json!({"datagrams": true})).await;
    alice.send_datagram(&publish(1, "user/bob", 1, "none"));
    bob.expect_message(1).await;
    // Several frames in one, as in any message.
    let two = [publish(2, "user/bob", 2, "none"), publish(3, "user/bob", 3, "none")];
    let two: Vec<u8> = two.iter().flat_map(|frame| to_binary(&frame.to_string())).collect();
    alice.connection.send_datagram(two.into()).unwrap();
    bob.expect_message(2).await;
    bob.expect_message(3).await;
    let ack = json!({"type": "ack", "ids": ["01a0c41b780000000102000000000001"], "ref": 5});
    for (frame, reference) in [
        (publish(4, "user/bob", 4, "accepted"), json!(4)),
        (ack, json!(5)),
        (json!({"type": "connect", "user": "mallory"}), Value::Null),
        (json!({"type": "disconnect"}), Value::Null),
    ] {
        alice.send_datagram(&frame);
        let error = alice.next().await;
        assert_eq!((&error["name"], &error["ref"]), (&json!("invalid_frame"), &reference), "{error}");
    }
    // A frame that is cut.
    let cut = to_binary(&publish(6, "user/bob", 6, "none").to_string())[..20].to_vec();
    alice.connection.send_datagram(cut.into()).unwrap();
    assert_eq!(alice.next().await["name"], "invalid_frame");
    // What is wrong with a publish itself is told as on the stream.
    alice.send_datagram(&publish(6, "nowhere", 6, "none"));
    assert_eq!(alice.next().await["name"], "invalid_address");
    assert_eq!((counted(&broker, "in", "taken"), counted(&broker, "in", "refused")), (3.0, 5.0));
    bob.expect_quiet().await;
    alice.send_datagram(&publish(7, "user/bob", 7, "none"));
    bob.expect_message(7).await;
}

#[tokio::test]
async fn datagrams_of_web_transport_are_those_of_the_session() {
    let broker = Broker::start();
    let (_endpoint, connection) = connect(&broker, b"h3").await;
    let url = format!("https://{}/wt", broker.address).parse::<url::Url>().unwrap();
    let session = web_transport_quinn::Session::connect(connection.clone(), url).await.unwrap();
    let (mut send, mut receive) = session.open_bi().await.unwrap();
    send.write_all(&framed(&json!({"type": "connect", "user": "alice", "datagrams": true}))).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
    let mut bob = broker.connect_as("bob", "one", "quic").await;
    // One of a session that is not there, and one without any.
    connection.send_datagram(vec![0x3f, 1, 2, 3].into()).unwrap();
    connection.send_datagram(Vec::new().into()).unwrap();
    let sent = to_binary(&publish(1, "user/bob", 1, "none").to_string());
    session.send_datagram(sent.into()).unwrap();
    bob.expect_message(1).await;
    bob.send(&publish(2, "user/alice", 2, "none")).await;
    let datagram = tokio::time::timeout(PATIENCE, session.read_datagram()).await.unwrap().unwrap();
    assert_eq!(from_binary(&datagram)["payload"], json!(2));
    assert_eq!(counted(&broker, "in", "refused"), 2.0);
}

#[tokio::test]
async fn datagrams_wait_for_the_session_and_for_its_asking() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", PROFILES[0]).await;
    let early = |count: u64| to_binary(&publish(count, "user/bob", count, "none").to_string());
    let (_endpoint, connection) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    // The broker hears of the stream by its first byte, and of the session by the rest.
    let hello = framed(&json!({"type": "connect", "user": "alice", "datagrams": true}));
    send.write_all(&hello[..1]).await.unwrap();
    connection.send_datagram(early(1).into()).unwrap();
    bob.expect_quiet().await;
    send.write_all(&hello[1..]).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
    bob.expect_message(1).await;
    let mut other = Raw::connect(&broker, "other", json!({})).await;
    other.connection.send_datagram(early(2).into()).unwrap();
    assert_eq!(other.ask(json!({"type": "ping"})).await["type"], "pong");
    bob.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_does_not_read_its_errors_is_not_answered_for_ever() {
    let broker = Broker::start();
    let deaf = Raw::connect(&broker, "deaf", json!({"datagrams": true})).await;
    let many: Vec<u8> = to_binary("{\"type\":\"ping\"}").repeat(16);
    for round in 0.. {
        assert!(round < 1_000, "its datagrams are dropped at last");
        for _ in 0..32 {
            deaf.connection.send_datagram(many.clone().into()).unwrap();
        }
        if counted(&broker, "in", "dropped") > 0.0 {
            break;
        }
    }
    let errors = broker.metric("waspmq_error_frames_sent_total").unwrap();
    assert!(errors > 1_000.0, "{errors}");
    broker.connect("healthy").await.expect_quiet().await;
}

#[tokio::test]
async fn what_a_bad_network_loses_is_lost_and_nothing_comes_twice() {
    const COUNT: u64 = 600;
    let broker = Broker::start();
    let proxy = Proxy::start(&broker).await;
    let asked = json!({"datagrams": true});
    let (near, mut alice) = proxy.session_with(&broker, "alice", asked.clone()).await;
    let (far, mut bob) = proxy.session_with(&broker, "bob", asked).await;
    let pad = "x".repeat(900);
    let (mut came, mut on_stream) = (BTreeSet::new(), 0);
    for i in 1..=COUNT {
        let frame = with(publish(i, "user/bob", i, "none"), json!({"headers": {"pad": pad}}));
        near.1.send_datagram(to_binary(&frame.to_string()).into()).unwrap();
        if i % 10 != 0 {
            continue;
        }
        // What the stream carries is all there, and in order.
        alice.0.write_all(&framed(&publish(i, "user/bob", json!({"upto": i}), "accepted"))).await.unwrap();
        assert_eq!(from_binary(&message(&mut alice.1).await.unwrap())["ref"], json!(i));
        loop {
            let next = from_binary(&message(&mut bob.1).await.unwrap());
            if next["payload"]["upto"] == json!(i) {
                break;
            }
            assert!(came.insert(next["payload"].as_u64().unwrap()), "twice: {next}");
            on_stream += 1;
        }
        while let Some(datagram) = poll_immediate(far.1.read_datagram()).await {
            let message = from_binary(&datagram.unwrap());
            assert!(came.insert(message["payload"].as_u64().unwrap()), "twice: {message}");
        }
    }
    let (all, lost) = (came.len() as u64, proxy.lost());
    assert!(all > COUNT / 2 && all < COUNT, "{all} came, {on_stream} of them on the stream; {lost} lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_rust_client_and_the_command_line_take_and_send_them() {
    let broker = Broker::start();
    let pin = broker.fingerprint.clone().unwrap();
    for url in [format!("quic://{}", broker.address), format!("wt://{}/wt", broker.address)] {
        let (sent, taken) = (counted(&broker, "out", "sent"), counted(&broker, "in", "taken"));
        let builder = |user: &str| Client::builder(&url).user(user).tls_fingerprint(&pin).datagrams();
        let (alice, _messages) = builder("alice").connect().await.unwrap();
        let (bob, mut messages) = builder("bob").connect().await.unwrap();
        for i in 0..20 {
            let payload = Payload::json(&i).unwrap();
            alice.send("user/bob", payload, PublishOptions::default()).await.unwrap();
            let message = tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
            assert_eq!(message.payload, i.to_string().as_bytes());
        }
        // What does not fit goes on the stream.
        let payload = Payload::json(&"x".repeat(50_000)).unwrap();
        alice.send("user/bob", payload, PublishOptions::default()).await.unwrap();
        let message = tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
        assert_eq!(message.payload.len(), 50_002);
        let arguments = ["pub", "user/bob", "7", "--as", "carol", "--ack", "none", "--datagrams"];
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.args(arguments).args(["--url", &url, "--tls-fingerprint", &pin]);
        assert!(command.output().unwrap().status.success());
        let message = tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
        assert_eq!(message.payload, b"7");
        let outcome = (counted(&broker, "out", "sent") - sent, counted(&broker, "in", "taken") - taken);
        assert_eq!(outcome, (21.0, 21.0), "{url}");
        alice.close().await.unwrap();
        bob.close().await.unwrap();
    }
}
