//! Peers that do not keep to what they may do.

use crate::binary::from_binary;
use crate::bridge::{connect, endpoint, framed, message};
use crate::harness::{Broker, PATIENCE};
use crate::levels::{PROFILES, publish};
use futures_util::future::poll_immediate;
use quinn::{ConnectionError, VarInt};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// What the last frame of a stream says.
async fn last(receive: &mut quinn::RecvStream) -> Value {
    let close = from_binary(&message(receive).await.unwrap());
    assert_eq!(close["type"], "close");
    assert_eq!(message(receive).await, None);
    json!([close["code"], close["name"], close["message"]])
}

/// How a connection ended.
async fn end(connection: &quinn::Connection) -> (u64, String) {
    match tokio::time::timeout(PATIENCE, connection.closed()).await.expect("an end in time") {
        ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("expected a close with a code, got {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sessions_are_listed_and_counted_by_what_they_come_over() {
    let broker = Broker::start();
    let mut peers = Vec::new();
    for (profile, spoken) in
        PROFILES.into_iter().zip(["websocket+json", "websocket+binary", "quic", "webtransport", "sse"])
    {
        peers.push(broker.connect_as(spoken, "one", profile).await);
    }
    let (_, sessions) = broker.admin("GET", "/v1/sessions", None);
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), PROFILES.len());
    assert!(sessions.iter().all(|session| session["transport"] == session["user"]), "{sessions:?}");
    let count = |transport| broker.metric(&format!("waspmq_connections{{transport=\"{transport}\"}}"));
    // Who gets events has said nothing yet on the connection of requests, which counts as the first it could be.
    let counts = ["websocket", "quic", "webtransport", "sse"].map(count);
    assert_eq!(counts, [Some(3.0), Some(1.0), Some(1.0), Some(1.0)]);
    drop(peers);
    broker.eventually("no connection is left", |_| {
        ["quic", "webtransport", "sse"].map(count) == [Some(0.0); 3]
    });
}

#[tokio::test]
async fn who_speaks_something_else_is_turned_away_and_counted() {
    let broker = Broker::start();
    let endpoint = endpoint(&broker, b"h2");
    let address: SocketAddr = broker.address.parse().unwrap();
    let error = endpoint.connect(address, "localhost").unwrap().await.unwrap_err();
    assert!(error.to_string().contains("any known protocol"), "{error}");
    broker.eventually("it is counted", |broker| {
        broker.metric("waspmq_tls_handshakes_total{outcome=\"failed\"}") == Some(1.0)
    });
    let url = |path: &str| url::Url::parse(&format!("https://{}{path}", broker.address)).unwrap();
    let (_endpoint, connection) = connect(&broker, b"h3").await;
    let elsewhere = web_transport_quinn::Session::connect(connection, url("/elsewhere")).await;
    assert!(elsewhere.err().unwrap().to_string().contains("404"));
    let (_endpoint, connection) = connect(&broker, b"h3").await;
    let origin = (web_transport_quinn::http::header::ORIGIN, "https://evil.example".parse().unwrap());
    let request = web_transport_quinn::proto::ConnectRequest::new(url("/wt")).with_header(origin.0, origin.1);
    let foreign = web_transport_quinn::Session::connect(connection, request).await;
    assert!(foreign.err().unwrap().to_string().contains("403"));
}

#[tokio::test]
async fn a_client_has_one_stream_however_many_it_opens() {
    let broker = Broker::start();
    let (_endpoint, connection) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    for _ in 0..10_000 {
        assert!(poll_immediate(connection.open_bi()).await.is_none(), "it has to wait");
    }
    // Each has a byte, so that the broker hears of it.
    let mut more = Vec::new();
    while let Some(Ok(mut stream)) = poll_immediate(connection.open_uni()).await {
        stream.write_all(b"x").await.unwrap();
        more.push(stream);
        assert!(more.len() < 16, "streams are bounded");
    }
    send.write_all(&framed(&json!({"type": "connect", "user": "many"}))).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_and_closed_with_its_code() {
    let broker = Broker::start_with(&[("WASPMQ_LIMITS__CONNECT_TIMEOUT_MS", "2000")]);
    // No stream at all: nobody waits for ever.
    let (_endpoint, silent) = connect(&broker, b"waspmq/1").await;
    // Half of a length, and no `connect`.
    let (_endpoint, idle) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = idle.open_bi().await.unwrap();
    send.write_all(&[0x40]).await.unwrap();
    let error = from_binary(&message(&mut receive).await.unwrap());
    assert_eq!(error["name"], "connect_timeout");
    assert_eq!(last(&mut receive).await, json!([4102, "connect_timeout", ""]));
    assert_eq!(end(&idle).await, (4102, "connect_timeout".to_owned()));
    let ended = tokio::time::timeout(PATIENCE, end(&silent)).await;
    assert_eq!(ended.unwrap(), (4102, "connect_timeout".to_owned()));
    broker.eventually("both are counted", |broker| {
        let closed = broker.metric("waspmq_connections_closed_total{reason=\"timeout\"}");
        closed == Some(2.0) && broker.metric("waspmq_connections_opened_total") == Some(2.0)
    });
    let (_endpoint, early) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = early.open_bi().await.unwrap();
    send.write_all(&framed(&json!({"type": "ping"}))).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["name"], "not_connected");
    assert_eq!(last(&mut receive).await, json!([4000, "protocol_violation", "not_connected"]));
    assert_eq!(end(&early).await.1, "not_connected");
    // More than a message may have, which is refused by its length alone.
    let (_endpoint, large) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = large.open_bi().await.unwrap();
    send.write_all(&[0xc0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["name"], "message_too_large");
    assert_eq!(end(&large).await.1, "message_too_large");
    // Bytes that are no frame.
    let (_endpoint, broken) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = broken.open_bi().await.unwrap();
    send.write_all(&[4, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "error");
    broken.close(VarInt::from_u32(0), b"");
    broker.connect("healthy").await.expect_quiet().await;
}

#[tokio::test]
async fn datagrams_of_rubbish_harm_nobody() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", "quic").await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for length in 0..1_200_usize {
        let bytes: Vec<u8> = (0..=255).cycle().skip(length * 7 % 256).step_by(3).take(length).collect();
        _ = socket.send_to(&bytes, &broker.address);
    }
    bob.expect_quiet().await;
    broker.connect_as("alice", "one", "webtransport").await.expect_quiet().await;
}

/// First datagrams of connections whose clients never answer, each of another connection.
async fn first_datagrams(broker: &Broker, count: usize) -> Vec<Vec<u8>> {
    let nobody = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = endpoint(broker, b"waspmq/1");
    // Kept: one that is dropped closes its connection, which would be the end of it at the broker, too.
    let mut connecting = Vec::new();
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let mut buffer = [0; 2048];
    // RFC 9000, 17.2: flags, version, a length, and the id that the client chose.
    let id = |datagram: &[u8]| datagram[6..6 + usize::from(datagram[5])].to_vec();
    while datagrams.len() < count {
        connecting.push(endpoint.connect(nobody.local_addr().unwrap(), "localhost").unwrap());
        let (length, _) = nobody.recv_from(&mut buffer).await.unwrap();
        // Others are repeats, or the second part of a long hello.
        let datagram = &buffer[..length];
        if !datagrams.iter().any(|known| id(known) == id(datagram)) {
            datagrams.push(datagram.to_vec());
        }
    }
    datagrams
}

#[tokio::test]
async fn a_crowd_has_to_prove_its_addresses() {
    let broker = Broker::start();
    let mut bob = broker.connect_as("bob", "one", "quic").await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (sent, datagram) in first_datagrams(&broker, 400).await.iter().enumerate() {
        socket.send_to(datagram, &broker.address).unwrap();
        // What comes behind them on the same socket is answered: none is lost for want of room.
        if sent % 16 == 15 {
            bob.expect_quiet().await;
        }
    }
    broker.eventually("some were asked for a proof", |broker| {
        broker.metric("waspmq_quic_incoming_total{outcome=\"retried\"}") > Some(0.0)
    });
    // Who does not answer holds no place for ever, and who proves its address is served meanwhile.
    bob.expect_quiet().await;
    broker.connect_as("alice", "one", "quic").await.expect_quiet().await;
}

#[tokio::test]
async fn who_never_reads_keeps_nobody_waiting() {
    let broker = Broker::start();
    let (_endpoint, connection) = connect(&broker, b"waspmq/1").await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&json!({"type": "connect", "user": "deaf"}))).await.unwrap();
    assert_eq!(from_binary(&message(&mut receive).await.unwrap())["type"], "welcome");
    let mut alice = broker.connect_as("alice", "one", "quic").await;
    let mut bob = broker.connect_as("bob", "one", "webtransport").await;
    let large = "x".repeat(60_000);
    for i in 1..=200_u64 {
        let mut frame = publish(i, "user/deaf", i, "none");
        frame["payload"] = json!(large);
        alice.send(&frame).await;
        alice.send(&publish(1_000 + i, "user/bob", i, "accepted")).await;
        bob.expect_message(i).await;
        alice.expect_receipt(1_000 + i, "accepted").await;
    }
    broker.eventually("something of 12 MB is dropped", |broker| {
        broker.metric("waspmq_messages_dropped_total{reason=\"slow_consumer\"}") > Some(0.0)
    });
}
