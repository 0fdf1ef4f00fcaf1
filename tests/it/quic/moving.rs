//! Sessions that move: between networks, and between transports.

use super::proxy::Proxy;
use crate::binary::from_binary;
use crate::bridge::{connect, framed, message};
use crate::harness::{Broker, Peer};
use crate::levels::{PROFILES, publish};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, UdpSocket};

#[tokio::test]
async fn clients_that_change_their_address_keep_their_sessions() {
    let broker = Broker::start();
    let mut clients = Vec::new();
    for i in 0..50 {
        let (endpoint, connection) = connect(&broker, b"waspmq/1").await;
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&framed(&json!({"type": "connect", "user": format!("u{i}")}))).await.unwrap();
        assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
        clients.push((endpoint, connection, send, receive));
    }
    let (_, sessions) = broker.admin("GET", "/v1/sessions?limit=100", None);
    let on_first =
        sessions["sessions"].as_array().unwrap().iter().filter(|session| session["worker"] == 0).count();
    assert!((20..=30).contains(&on_first), "{on_first} of 50 are on the first of two workers");
    for (endpoint, _, send, receive) in &mut clients {
        endpoint.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        send.write_all(&framed(&json!({"type": "ping"}))).await.unwrap();
        assert_eq!(from_binary(&message(receive).await.unwrap()), json!({"type": "pong"}));
    }
    let mut alice = broker.connect("alice").await;
    for (i, (_, _, _, receive)) in (0_u64..).zip(&mut clients) {
        alice.send(&publish(i + 1, &format!("user/u{i}"), i, "accepted")).await;
        alice.expect_receipt(i + 1, "accepted").await;
        assert_eq!(from_binary(&message(receive).await.unwrap())["payload"], json!(i));
    }
}

/// Connects as bob over a transport, with what the session before can be resumed by.
async fn bob(broker: &Broker, profile: &str, before: Option<&Value>, positions: &[Value]) -> (Peer, Value) {
    let mut peer = broker.open(Some(profile)).await;
    let mut frame = json!({"type": "connect", "user": "bob", "device": "phone"});
    if let Some(before) = before {
        frame["resume"] = json!({"token": before["resume_token"], "positions": positions});
    }
    let welcome = peer.ask(frame).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (peer, welcome)
}

#[tokio::test]
async fn a_session_goes_on_over_any_other_transport() {
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let (mut peer, mut welcome) = bob(&broker, PROFILES[0], None, &[]).await;
    assert_eq!(peer.ask(json!({"type": "subscribe", "to": "topic/t", "ref": 1})).await["type"], "ok");
    let mut sent = 0;
    let mut positions: Vec<Value> = Vec::new();
    for profile in ["quic", "webtransport", PROFILES[1], "quic", PROFILES[0]] {
        for _ in 0..10 {
            sent += 1;
            alice.send(&publish(sent, "topic/t", sent, "stored")).await;
            alice.expect_receipt(sent, "stored").await;
        }
        // The first half was seen before the connection is lost.
        for i in sent - 9..=sent - 5 {
            let message = peer.expect_message(i).await;
            positions = vec![message["pos"].clone()];
        }
        drop(peer);
        let before = welcome;
        (peer, welcome) = bob(&broker, profile, Some(&before), &positions).await;
        assert_eq!((&welcome["resumed"], &welcome["recovered"]), (&json!(true), &json!(true)), "{profile}");
        for i in sent - 4..=sent {
            positions = vec![peer.expect_message(i).await["pos"].clone()];
        }
        peer.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_lost_connection_in_the_middle_of_a_stream_costs_nothing() {
    const COUNT: u64 = 10_000;
    let broker = Broker::start();
    let mut alice = broker.connect_as("alice", "one", PROFILES[1]).await;
    let (mut peer, welcome) = bob(&broker, PROFILES[0], None, &[]).await;
    assert_eq!(peer.ask(json!({"type": "subscribe", "to": "topic/t", "ref": 1})).await["type"], "ok");
    for begin in (1..=COUNT).step_by(500) {
        let frames: Vec<_> = (begin..begin + 500).map(|i| publish(i, "topic/t", i, "stored")).collect();
        alice.send_all(&frames).await;
    }
    let mut position = Value::Null;
    for i in 1..=COUNT / 3 {
        position = peer.expect_message(i).await["pos"].clone();
    }
    drop(peer);
    let (mut peer, welcome) = bob(&broker, "quic", Some(&welcome), &[position]).await;
    assert_eq!((&welcome["resumed"], &welcome["recovered"]), (&json!(true), &json!(true)));
    for i in COUNT / 3 + 1..=COUNT {
        peer.expect_message(i).await;
    }
    for i in 1..=COUNT {
        alice.expect_receipt(i, "stored").await;
    }
    peer.expect_quiet().await;
}

#[tokio::test]
async fn what_is_acknowledged_arrives_in_order_over_a_bad_network() {
    let broker = Broker::start();
    let proxy = Proxy::start(&broker).await;
    let (_near, mut alice) = proxy.session(&broker, "alice").await;
    let (_far, mut bob) = proxy.session(&broker, "bob").await;
    for i in 1..=600 {
        alice.0.write_all(&framed(&publish(i, "user/bob", i, "accepted"))).await.unwrap();
        assert_eq!(from_binary(&message(&mut alice.1).await.unwrap())["ref"], json!(i));
        assert_eq!(from_binary(&message(&mut bob.1).await.unwrap())["payload"], json!(i));
    }
    assert!(proxy.lost() > 20, "the network was bad: {} lost", proxy.lost());
}

#[tokio::test]
async fn a_broker_that_leaves_says_goodbye_and_why() {
    let mut broker = Broker::start();
    let mut peers = [
        broker.connect_as("alice", "one", "quic").await,
        broker.connect_as("bob", "one", "webtransport").await,
    ];
    broker.signal("TERM");
    for peer in &mut peers {
        assert_eq!(peer.receive().await["type"], "goaway");
        assert_eq!(peer.expect_close().await, 4100);
    }
    assert!(broker.wait().success());
}
