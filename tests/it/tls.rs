//! Clients over TLS: certificates from files and of the broker's own making, and what replaces them.

use crate::harness::{Broker, PATIENCE, Peer};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::Connector;
use waspmq_client::{Client, Error};
use waspmq_transport::tls::self_signed;

const COMPLETED: &str = "waspmq_tls_handshakes_total{outcome=\"completed\"}";
const FAILED: &str = "waspmq_tls_handshakes_total{outcome=\"failed\"}";
const REPLACED: &str = "waspmq_tls_reloads_total{outcome=\"replaced\"}";
const NOT_REPLACED: &str = "waspmq_tls_reloads_total{outcome=\"failed\"}";

/// An authority that has vouched for nobody; its key is gone.
const STRANGER: &str = "\
-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUWF64XJh/ef7Rhe9MbYEJMGWET+4wCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwObm9ib2R5IHdlIGtub3cwIBcNMjYxMTI5MDkxMDU4WhgPMjEy
NjExMDUwOTEwNThaMBkxFzAVBgNVBAMMDm5vYm9keSB3ZSBrbm93MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE6v+wLSh4d9DB4gBkIe5pizYGqsozGe4dmmsgNz1c
v/mBUtlTHBQoGmXquFhg/yn6RaJiapCrgQKk/TW8X0mSJKNTMFEwHQYDVR0OBBYE
FKJPl+0HxACuIIrsm6LpCGOJF00zMB8GA1UdIwQYMBaAFKJPl+0HxACuIIrsm6Lp
CGOJF00zMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMFkJ8Wl
lAG4XCNv4AQeM8z90sGxXJA2ali8ZbFrWKqTAiBApOLG8DrN8iUq0UB4xDTH7tU1
dRW3GmH+8RSA3tnOzg==
-----END CERTIFICATE-----
";

pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Writes a fresh certificate and its key.
pub(crate) fn write_certificate(directory: &TempDir, name: &str, made_unix_s: u64) -> (PathBuf, PathBuf) {
    let made = self_signed(&[name.to_owned()], made_unix_s).unwrap();
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    std::fs::write(&certificate, made.certificate_pem).unwrap();
    std::fs::write(&key, made.key_pem).unwrap();
    (certificate, key)
}

/// A broker with a certificate for a name, made at a time.
pub(crate) fn start(name: &str, made_unix_s: u64, more: &[(&str, &str)]) -> (Broker, PathBuf) {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let (certificate, key) = write_certificate(&data, name, made_unix_s);
    let mut environment = vec![
        ("WASPMQ_TLS__CERTIFICATE", certificate.to_str().unwrap()),
        ("WASPMQ_TLS__KEY", key.to_str().unwrap()),
    ];
    environment.extend(more);
    (Broker::start_on(&data, &environment), certificate)
}

/// Connects as a user who trusts what this file has.
async fn connect(broker: &Broker, authority: &Path, user: &str, profile: &str) -> Peer {
    let tls = Client::builder(broker.url()).tls_ca(authority).tls_config().unwrap();
    let mut peer = broker.open_secure(Connector::Rustls(tls), profile).await;
    peer.send(&json!({"type": "connect", "user": user})).await;
    assert_eq!(peer.receive().await["type"], "welcome");
    peer
}

#[tokio::test]
async fn both_profiles_go_over_tls_both_ways() {
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    assert!(broker.url().starts_with("wss://"));
    let mut text = connect(&broker, &authority, "text", "waspmq.v1.json").await;
    let mut binary = connect(&broker, &authority, "binary", "waspmq.v1.bin").await;
    // From less than a record to more than one read, at once.
    let bodies: Vec<_> = [1, 20_000, 100_000, 900_000].map(|bytes| "x".repeat(bytes)).to_vec();
    for body in &bodies {
        text.send(&json!({"type": "publish", "to": "user/binary", "payload": body})).await;
        binary.send(&json!({"type": "publish", "to": "user/text", "payload": body})).await;
    }
    for body in &bodies {
        assert_eq!(binary.receive().await["payload"], json!(body));
        assert_eq!(text.receive().await["payload"], json!(body));
    }
    assert_eq!(broker.metric(COMPLETED), Some(2.0));
    assert_eq!(broker.metric(FAILED), Some(0.0));
}

#[tokio::test]
async fn many_frames_in_one_message_of_many_records_are_all_read() {
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    let mut peer = connect(&broker, &authority, "a", "waspmq.v1.json").await;
    // 200 KB in one WebSocket message.
    let frames: Vec<_> = (0..2_000)
        .map(|i| json!({"type": "publish", "to": "user/a", "payload": [i, "some text to make it longer"]}))
        .collect();
    peer.send_all(&frames).await;
    for i in 0..2_000 {
        assert_eq!(peer.receive().await["payload"][0], json!(i));
    }
}

#[tokio::test]
async fn a_certificate_of_the_brokers_own_is_pinned() {
    let mut broker = Broker::start_with(&[("WASPMQ_TLS__SELF_SIGNED", "true")]);
    let pin = broker.fingerprint.clone().unwrap();
    assert_eq!(pin.len(), 95, "{pin}");
    let pinned = |broker: &Broker, pin: &str| Client::builder(broker.url()).user("a").tls_fingerprint(pin);
    let (client, mut messages) = pinned(&broker, &pin).connect().await.unwrap();
    let payload = waspmq_client::Payload::json(&"hi").unwrap();
    let options = waspmq_client::PublishOptions::default();
    client.publish("user/a", payload, options).await.unwrap().await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().is_some());
    client.close().await.unwrap();
    // Its own file vouches for it; this system does not, and another fingerprint does not either.
    let file = broker.data.path().join("tls/self-signed.pem");
    Client::builder(broker.url()).user("a").tls_ca(file).connect().await.unwrap();
    let wrong = pin.replace(&pin[..2], if &pin[..2] == "00" { "11" } else { "00" });
    let error = pinned(&broker, &wrong).connect().await.unwrap_err();
    assert!(matches!(&error, Error::Connect { message, .. } if message.contains(&pin)), "{error}");
    // The command line says the same, and works with the right one.
    let publish = |pin: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.args(["pub", "user/a", "1", "--url", &broker.url(), "--tls-fingerprint", pin]);
        command.output().unwrap()
    };
    assert!(publish(&pin).status.success());
    let refused = publish(&wrong);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another fingerprint"), "{refused:?}");
    broker.restart();
    assert_eq!(broker.fingerprint.as_ref(), Some(&pin), "it outlives the broker");
}

#[tokio::test]
async fn a_client_says_what_is_wrong_with_a_certificate() {
    let now = now_unix_s();
    let check = async |name: &str, made: u64, expected: &str| {
        let (broker, authority) = start(name, made, &[]);
        let error = Client::builder(broker.url()).tls_ca(authority).connect().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        broker.eventually("the handshake is counted", |broker| broker.metric(FAILED) == Some(1.0));
    };
    check("a.example", now, "for another name").await;
    check("127.0.0.1", now - 14 * 86_400, "has expired").await;
    check("127.0.0.1", now + 86_400, "not valid yet").await;
    // Of the same name and another key, as an earlier certificate is, and of a name of its own.
    let (broker, _) = start("127.0.0.1", now, &[]);
    let other = tempfile::tempdir().unwrap();
    let (earlier, _) = write_certificate(&other, "127.0.0.1", now);
    let stranger = other.path().join("stranger.pem");
    std::fs::write(&stranger, STRANGER).unwrap();
    for authority in [earlier, stranger] {
        let error = Client::builder(broker.url()).tls_ca(authority).connect().await.unwrap_err();
        assert!(error.to_string().contains("the certificate is of an unknown issuer"), "{error}");
    }
    let plain = Broker::start();
    let url = plain.url().replace("ws://", "wss://");
    let error = Client::builder(url).tls_fingerprint("00".repeat(32)).connect().await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS; is it ws://?"), "{error}");
    let url = broker.url().replace("wss://", "ws://");
    let error = Client::builder(url).connect().await.unwrap_err();
    assert!(error.to_string().contains("does not speak HTTP; is it wss://?"), "{error}");
}

#[tokio::test]
async fn authorities_are_read_again_when_they_do_not_vouch() {
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    let copy = broker.data.path().join("copy.pem");
    std::fs::copy(&authority, &copy).unwrap();
    let tls = Client::builder(broker.url()).tls_ca(&copy).tls_config().unwrap();
    let connect = async || {
        let request = broker.url();
        let connector = Some(Connector::Rustls(tls.clone()));
        tokio_tungstenite::connect_async_tls_with_config(request, None, true, connector).await
    };
    connect().await.unwrap();
    write_certificate(&broker.data, "127.0.0.1", now_unix_s());
    broker.eventually("the files are noticed", |broker| broker.metric(REPLACED) == Some(1.0));
    assert!(connect().await.is_err(), "the file is still that of the first");
    // What is no file with authorities now leaves what was read.
    std::fs::write(&copy, "nothing of use").unwrap();
    assert!(connect().await.is_err());
    std::fs::copy(&authority, &copy).unwrap();
    connect().await.unwrap();
    std::fs::remove_file(&copy).unwrap();
    connect().await.unwrap();
    // Nobody writes into it: whoever read it would wait.
    mkfifoat(CWD, &copy, Mode::RUSR | Mode::WUSR).unwrap();
    write_certificate(&broker.data, "127.0.0.1", now_unix_s());
    broker.eventually("the files are noticed again", |broker| broker.metric(REPLACED) == Some(2.0));
    assert!(connect().await.is_err());
}

#[tokio::test]
async fn who_does_not_speak_tls_is_closed_and_others_are_served() {
    let (broker, authority) =
        start("127.0.0.1", now_unix_s(), &[("WASPMQ_LIMITS__CONNECT_TIMEOUT_MS", "1000")]);
    let mut peer = connect(&broker, &authority, "a", "waspmq.v1.json").await;
    let mut said = Vec::new();
    let mut plain = TcpStream::connect(&broker.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    // Closed in order, or reset because it said more than was read.
    _ = plain.read_to_end(&mut said);
    assert_eq!(said.first(), Some(&21), "a TLS alert and nothing else: {said:?}");
    // One that begins a handshake and stops, and one that says nothing, have as long as a request has.
    let mut halves: Vec<_> = [&[22, 3, 1, 2, 0][..], &[]]
        .into_iter()
        .map(|bytes| {
            let mut half = TcpStream::connect(&broker.address).unwrap();
            half.set_read_timeout(Some(PATIENCE)).unwrap();
            half.write_all(bytes).unwrap();
            half
        })
        .collect();
    for half in &mut halves {
        _ = half.read_to_end(&mut said);
    }
    drop(halves);
    broker.eventually("each is counted", |broker| broker.metric(FAILED) == Some(3.0));
    peer.expect_quiet().await;
    connect(&broker, &authority, "b", "waspmq.v1.bin").await;
    assert_eq!(broker.metric(COMPLETED), Some(2.0));
}

#[tokio::test]
async fn another_certificate_is_for_new_connections() {
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    let mut before = connect(&broker, &authority, "before", "waspmq.v1.json").await;
    let first = std::fs::read(&authority).unwrap();
    write_certificate(&broker.data, "127.0.0.1", now_unix_s());
    broker.eventually("the files are noticed", |broker| broker.metric(REPLACED) == Some(1.0));
    let mut behind = connect(&broker, &authority, "behind", "waspmq.v1.bin").await;
    before.expect_quiet().await;
    // Whoever trusts only the first one is not served by the second.
    let old = broker.data.path().join("old.pem");
    std::fs::write(&old, first).unwrap();
    assert!(Client::builder(broker.url()).tls_ca(old).connect().await.is_err());
    // A hang-up with the same files replaces nothing.
    broker.signal("HUP");
    // What cannot be used changes nothing, whoever asks for it.
    let good = std::fs::read(&authority).unwrap();
    std::fs::write(&authority, "nothing of use").unwrap();
    broker.eventually("the file is refused", |broker| broker.metric(NOT_REPLACED) == Some(1.0));
    broker.signal("HUP");
    broker.eventually("the hang-up is refused", |broker| broker.metric(NOT_REPLACED) == Some(2.0));
    let trusted = broker.data.path().join("trusted.pem");
    std::fs::write(&trusted, good).unwrap();
    connect(&broker, &trusted, "after", "waspmq.v1.json").await;
    before.expect_quiet().await;
    behind.expect_quiet().await;
    assert_eq!(broker.metric(REPLACED), Some(1.0));
}

/// A configuration with this certificate and more.
fn configuration((certificate, key): &(PathBuf, PathBuf), more: &str) -> String {
    format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}")
}

#[tokio::test]
async fn at_a_hang_up_access_and_the_certificate_fail_each_by_itself() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let (pair, file) = (write_certificate(&data, "127.0.0.1", now_unix_s()), data.path().join("waspmq.toml"));
    let configure = |text: &str| {
        // At once: the broker may be reading.
        let next = data.path().join("next.toml");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &file).unwrap();
    };
    configure(&configuration(&pair, ""));
    let broker = Broker::start_on(&data, &[("WASPMQ_CONFIG", file.to_str().unwrap())]);
    let mut peer = connect(&broker, &pair.0, "a", "waspmq.v1.json").await;
    // Files that cannot be used do not keep a token from being needed.
    let other = tempfile::tempdir().unwrap();
    let others = write_certificate(&other, "127.0.0.1", now_unix_s());
    let mixed = (others.0.clone(), pair.1.clone());
    let key = "[[access.keys]]\nid = \"k\"\nalgorithm = \"HS256\"\n";
    let secret = format!("{key}secret = \"{}\"\n", "c2VjcmV0".repeat(8));
    configure(&configuration(&mixed, &secret));
    broker.signal("HUP");
    peer.expect_error(1402).await;
    assert_eq!(peer.expect_close().await, 4004);
    broker.eventually("the files are refused", |broker| broker.metric(NOT_REPLACED) == Some(1.0));
    // A key that cannot be read does not keep a certificate from being replaced.
    configure(&configuration(&others, &format!("{key}secret_file = \"/nowhere\"\n")));
    broker.signal("HUP");
    broker.eventually("the files are taken", |broker| broker.metric(REPLACED) == Some(1.0));
    let tls = Client::builder(broker.url()).tls_ca(&others.0).tls_config().unwrap();
    let mut peer = broker.open_secure(Connector::Rustls(tls), "waspmq.v1.json").await;
    peer.send(&json!({"type": "connect", "user": "a"})).await;
    peer.expect_error(1401).await;
    // What is not valid in itself changes neither.
    configure(&configuration(&pair, "[limits]\nheartbeat_ms = 1\n"));
    broker.signal("HUP");
    broker.audited(&["nothing was changed", "heartbeat_ms"]);
    assert_eq!((broker.metric(REPLACED), broker.metric(NOT_REPLACED)), (Some(1.0), Some(1.0)));
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_broker_from_starting() {
    let data = tempfile::tempdir().unwrap();
    let (certificate, key) = write_certificate(&data, "127.0.0.1", now_unix_s());
    let check = |settings: &[(&str, &Path)], expected: &[&str]| {
        let mut command = Broker::command(&data);
        let output = command.envs(settings.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{settings:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(expected.iter().all(|word| said.contains(word)), "{said}");
    };
    let (of_certificate, of_key) = ("WASPMQ_TLS__CERTIFICATE", "WASPMQ_TLS__KEY");
    check(&[(of_certificate, &certificate)], &["tls.key", "is missing"]);
    check(&[(of_key, &key)], &["tls.certificate", "is missing"]);
    let nowhere = data.path().join("nowhere.pem");
    check(&[(of_certificate, &nowhere), (of_key, &key)], &["nowhere.pem", "cannot read"]);
    check(&[(of_certificate, &certificate), (of_key, &certificate)], &["c.pem", "tls.key", "no usable"]);
    let other = tempfile::tempdir().unwrap();
    let (_, key_of_other) = write_certificate(&other, "127.0.0.1", now_unix_s());
    check(&[(of_certificate, &certificate), (of_key, &key_of_other)], &["k.pem", "does not belong"]);
    let yes = ("WASPMQ_TLS__SELF_SIGNED", Path::new("true"));
    check(&[(of_certificate, &certificate), (of_key, &key), yes], &["tls.self_signed", "one or the other"]);
    check(&[yes, ("WASPMQ_TLS__SELF_SIGNED_NAMES", Path::new("a:1"))], &["without a port"]);
}

#[tokio::test]
async fn a_reader_that_stalls_over_tls_is_bounded_and_slows_nobody() {
    let bounds = [("WASPMQ_LIMITS__SEND_BUFFER_BYTES", "16384")];
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &bounds);
    let mut stalled = connect(&broker, &authority, "stalled", "waspmq.v1.json").await;
    let mut healthy = connect(&broker, &authority, "healthy", "waspmq.v1.json").await;
    for peer in [&mut stalled, &mut healthy] {
        peer.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    }
    let mut publisher = connect(&broker, &authority, "publisher", "waspmq.v1.json").await;
    let body = "x".repeat(60_000);
    let count = 300; // 18 MB: more than both sockets, a sealed chunk and the outbound queue hold
    for i in 0..count {
        publisher.send(&json!({"type": "publish", "ref": i, "to": "topic/t", "payload": [i, body]})).await;
        assert_eq!(publisher.receive().await["type"], "receipt");
        assert_eq!(healthy.receive().await["payload"][0], json!(i));
    }
    broker.eventually("the drop is counted", |broker| {
        broker.metric("waspmq_messages_dropped_total{reason=\"slow_consumer\"}").is_some_and(|n| n > 0.0)
    });
    let pinned = broker.metric("waspmq_outbound_queue_bytes").unwrap();
    assert!(pinned <= f64::from(2 * 1024 * 1024 + 64 * 1024 + 128 * 1024), "{pinned} bytes");
    let frames = stalled.receive_until_marker("stalled", &mut publisher).await;
    let received: Vec<_> = frames.iter().filter_map(|frame| frame["payload"][0].as_u64()).collect();
    let told: u64 = frames.iter().filter_map(|frame| frame["dropped"].as_u64()).sum();
    assert!(told > 0 && received.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(told + received.len() as u64, count, "what is missing is told");
    broker.eventually("nothing is pinned any more", |broker| {
        broker.metric("waspmq_outbound_queue_bytes") == Some(0.0)
    });
}

#[tokio::test]
async fn who_sends_no_more_still_gets_what_it_is_owed() {
    let bounds = [("WASPMQ_LIMITS__SEND_BUFFER_BYTES", "16384")];
    let (broker, authority) = start("127.0.0.1", now_unix_s(), &bounds);
    let mut reader = connect(&broker, &authority, "reader", "waspmq.v1.json").await;
    let mut publisher = connect(&broker, &authority, "publisher", "waspmq.v1.json").await;
    let body = "x".repeat(900_000);
    for i in 0..2 {
        let publish = json!({"type": "publish", "ref": i, "to": "user/reader", "payload": [i, body]});
        assert_eq!(publisher.ask(publish).await["type"], "receipt");
    }
    reader.socket.get_mut().shutdown().await.unwrap();
    for i in 0..2 {
        assert_eq!(reader.receive().await["payload"], json!([i, body]));
    }
    let ended = "waspmq_connections_closed_total{reason=\"peer\"}";
    broker.eventually("it is gone", |broker| broker.metric(ended) == Some(1.0));
    publisher.expect_quiet().await;
}

#[test]
fn a_plain_broker_says_that_tls_needs_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let (file, log) = (data.path().join("waspmq.toml"), data.path().join("log"));
    std::fs::write(&file, "").unwrap();
    let mut command = Broker::command(&data);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]).arg(&file);
    let mut process = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let id = process.id().to_string();
    let until = |word: &str| {
        let started = std::time::Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains(word) && started.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    };
    let signal = |name: &str| Command::new("kill").args([name, &id]).status().unwrap();
    until("is ready");
    std::fs::write(&file, "[tls]\nself_signed = true\n").unwrap();
    signal("-HUP");
    until("needs a restart");
    signal("-TERM");
    assert!(process.wait().unwrap().success());
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("has a TLS certificate now; to listen with it needs a restart"), "{said}");
}

#[tokio::test]
async fn a_stop_says_goodbye_to_everybody() {
    let (mut broker, authority) = start("127.0.0.1", now_unix_s(), &[]);
    let mut peer = connect(&broker, &authority, "a", "waspmq.v1.json").await;
    broker.signal("TERM");
    assert_eq!(peer.receive().await["type"], "goaway");
    assert_eq!(peer.expect_close().await, 4100);
    drop(peer);
    assert!(broker.wait().success());
}
