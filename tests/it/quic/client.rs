//! The Rust client and the command line over QUIC and WebTransport.

use super::proxy::Proxy;
use crate::harness::{Broker, PATIENCE};
use crate::tls::{now_unix_s, start, write_certificate};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use waspmq_client::{Client, Error, Level, Messages, Payload, PublishOptions, Transport};

/// A client of this user at a URL, which trusts the broker's certificate by its hash.
async fn client(broker: &Broker, url: String, user: &str, is_auto: bool) -> (Client, Messages) {
    let builder = Client::builder(url).user(user).tls_fingerprint(broker.fingerprint.as_ref().unwrap());
    let builder = if is_auto { builder.transport(Transport::Auto) } else { builder };
    builder.connect().await.unwrap()
}

#[tokio::test]
async fn clients_talk_over_whatever_reaches_the_broker() {
    let broker = Broker::start();
    let (quic, web) = (format!("quic://{}", broker.address), format!("wt://{}/wt", broker.address));
    let ways = [
        ("ws", broker.url(), false, Transport::WebSocket),
        ("quic", quic, false, Transport::Quic),
        ("wt", web, false, Transport::WebTransport),
        ("auto", broker.url(), true, Transport::Quic),
    ];
    let mut clients = Vec::new();
    for (user, url, is_auto, spoken) in ways {
        let (client, messages) = client(&broker, url, user, is_auto).await;
        assert_eq!(client.transport(), spoken);
        clients.push((user, client, messages));
    }
    let options = || PublishOptions { ack: Level::Delivered, ..PublishOptions::default() };
    let body = "ü€".repeat(40_000);
    for from in 0..clients.len() {
        for to in 0..clients.len() {
            let address = format!("user/{}", clients[to].0);
            let payload = Payload::json(&body).unwrap();
            let waiting = clients[from].1.publish(&address, payload, options()).await.unwrap();
            let message = tokio::time::timeout(PATIENCE, clients[to].2.recv()).await.unwrap().unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap(), body.as_str());
            assert_eq!(waiting.await.unwrap().recipients, 1);
        }
    }
    for (_, client, _) in clients {
        client.close().await.unwrap();
    }
    let other = Broker::start_with(&[("WASPMQ_QUIC__ENABLED", "false")]);
    assert!(other.fingerprint.is_none(), "nothing speaks TLS");
    let builder = Client::builder(other.url()).user("alone").transport(Transport::Auto);
    let (client, _messages) = builder.connect().await.unwrap();
    assert_eq!(client.transport(), Transport::WebSocket);
}

/// The datagram with which the broker closes a connection is sent once, and may be lost: the stream has the reason.
#[tokio::test]
async fn who_was_kicked_stays_away_even_if_the_close_is_lost() {
    let broker = Broker::start();
    let proxy = Proxy::good(&broker).await;
    let (client, mut messages) = client(&broker, format!("quic://{}", proxy.address), "bob", false).await;
    let session = client.welcome().session;
    // The broker does not learn that its last words have arrived: it closes when the client has gone long ago.
    proxy.cut();
    assert_eq!(broker.admin("DELETE", &format!("/v1/sessions/{session}"), None).0, 204);
    let last = tokio::time::timeout(PATIENCE, messages.recv()).await.expect("the client ends");
    assert!(last.is_none());
    let ended = Error::Closed { code: 4002, reason: "kicked".to_owned(), refusal: None };
    assert_eq!(client.close().await, Err(ended));
    assert_eq!(broker.admin("GET", "/v1/sessions", None).1["total"], 0);
}

#[test]
fn the_command_line_speaks_them_too() {
    let broker = Broker::start();
    let pin = broker.fingerprint.clone().unwrap();
    for url in [format!("quic://{}", broker.address), format!("wt://{}/wt", broker.address)] {
        let command = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
            command.args(arguments).args(["--url", &url, "--tls-fingerprint", &pin]);
            command
        };
        let subscribe = ["sub", "topic/a", "--as", "bob", "--count", "1", "--json"];
        let mut subscriber = command(&subscribe).stdout(Stdio::piped()).spawn().unwrap();
        broker.eventually("the subscription is there", |broker| {
            let (_, sessions) = broker.admin("GET", "/v1/sessions", None);
            sessions["sessions"]
                .as_array()
                .is_some_and(|sessions| sessions.iter().any(|s| s["user"] == "bob"))
                && broker.metric("waspmq_audiences") >= Some(2.0)
        });
        let published =
            command(&["pub", "topic/a", "{\"n\":1}", "--as", "alice", "--ack", "accepted"]).output().unwrap();
        assert!(published.status.success(), "{published:?}");
        let line = BufReader::new(subscriber.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["payload"]["n"], 1, "{line}");
        assert!(subscriber.wait().unwrap().success());
        broker
            .eventually("both are gone", |broker| broker.admin("GET", "/v1/sessions", None).1["total"] == 0);
    }
}

/// A program that ends without a word leaves a session behind until QUIC has found out.
#[test]
fn a_command_that_fails_says_goodbye() {
    let broker = Broker::start();
    let (pin, url) = (broker.fingerprint.clone().unwrap(), format!("quic://{}", broker.address));
    for arguments in [&["sub", "user/alice", "--as", "bob"][..], &["req", "topic/a", "1", "--timeout", "1"]] {
        let ended = Command::new(env!("CARGO_BIN_EXE_waspmq"))
            .args(arguments)
            .args(["--url", &url, "--tls-fingerprint", &pin])
            .output()
            .unwrap();
        assert!(!ended.status.success(), "{ended:?}");
        broker.eventually("the session has ended", |broker| {
            broker.admin("GET", "/v1/sessions", None).1["total"] == 0
        });
    }
}

#[tokio::test]
async fn quic_has_the_certificate_that_sockets_have_and_its_successor() {
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    let url = format!("quic://{}", broker.address);
    let trusting = |user: &str| Client::builder(url.clone()).user(user).tls_ca(&authority);
    let (before, mut messages) = trusting("before").connect().await.unwrap();
    let old = broker.data.path().join("old.pem");
    std::fs::copy(&authority, &old).unwrap();
    write_certificate(&broker.data, "127.0.0.1", now_unix_s());
    broker.eventually("the files are noticed", |broker| {
        broker.metric("waspmq_tls_reloads_total{outcome=\"replaced\"}") == Some(1.0)
    });
    // The listener's thread takes it in its own time.
    let (after, _messages) = loop {
        match trusting("after").connect().await {
            Ok(connected) => break connected,
            Err(error) => assert!(error.to_string().contains("unknown issuer"), "{error}"),
        }
    };
    let error = Client::builder(url.clone()).user("late").tls_ca(&old).connect().await.unwrap_err();
    assert!(error.to_string().contains("unknown issuer"), "{error}");
    let payload = Payload::json(&"hi").unwrap();
    after.publish("user/before", payload, PublishOptions::default()).await.unwrap().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().is_some(), "it keeps what it had");
    before.close().await.unwrap();
}
