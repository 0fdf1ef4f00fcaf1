//! Start, stop, and what a second broker finds.

use crate::harness::{Broker, PATIENCE};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[tokio::test]
async fn sigterm_sends_everybody_away_and_exits_in_time() {
    let mut broker = Broker::start_with(&[("WASPMQ_DRAIN_MS", "3000")]);
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let frames: Vec<_> =
        (0..500).map(|i| json!({"type": "publish", "to": "user/bob", "payload": i}).to_string()).collect();
    alice.send_text(&frames.join("\n")).await;
    alice.expect_quiet().await; // the broker has them all
    broker.signal("TERM");
    for i in 0..500 {
        assert_eq!(bob.receive().await["payload"], json!(i), "in-flight messages are finished");
    }
    for peer in [&mut alice, &mut bob] {
        let goaway = peer.receive().await;
        assert_eq!((&goaway["type"], &goaway["reason"]), (&json!("goaway"), &json!("drain")));
        assert!(goaway["reconnect_ms"].as_u64().unwrap() > 0);
        assert_eq!(peer.expect_close().await, 4100);
    }
    drop((alice, bob));
    let started = Instant::now();
    assert_eq!(broker.wait().code(), Some(0));
    assert!(started.elapsed() < PATIENCE);
}

/// A stop waits for what is in flight; what nobody acknowledges until its end is kept, and its publishers are told.
#[tokio::test]
async fn a_stop_loses_nothing_that_is_under_way() {
    let mut broker = Broker::start_with(&[("WASPMQ_DRAIN_MS", "5000")]);
    let mut idle = broker.connect("idle").await;
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let (mut carol, mut dave) = (broker.connect("carol").await, broker.connect("dave").await);
    for peer in [&mut carol, &mut dave] {
        assert_eq!(peer.ask(json!({"type": "join", "ref": 1, "group": "eng"})).await["type"], "ok");
    }
    let publish = |reference: u64, to: &str| json!({"type": "publish", "ref": reference, "to": to, "payload": reference, "ack": "delivered"});
    for (reference, to) in
        [(1, "user/bob"), (2, "user/bob"), (3, "user/carol"), (4, "group/eng"), (5, "user/away")]
    {
        alice.send(&publish(reference, to)).await;
    }
    let ids = [bob.receive().await, bob.receive().await].map(|message| message["id"].clone());
    assert_eq!(
        bob.ask(json!({"type": "nack", "ref": 9, "id": ids[1], "retry_ms": 30_000})).await["type"],
        "ok"
    );
    let (of_carol, of_group) = (carol.receive().await["id"].clone(), carol.receive().await["id"].clone());
    assert_eq!(dave.receive().await["id"], of_group);
    let started = Instant::now();
    broker.signal("TERM");
    for peer in [&mut idle, &mut bob, &mut carol, &mut dave] {
        assert_eq!(peer.receive().await["type"], "goaway");
    }
    assert_eq!(idle.expect_close().await, 4100);
    assert!(started.elapsed() < Duration::from_millis(4_500), "{:?}", started.elapsed());
    // What is acknowledged meanwhile is delivered; who has answered everything is closed then.
    carol.send(&json!({"type": "ack", "ids": [of_carol, of_group]})).await;
    assert_eq!(carol.expect_close().await, 4100);
    let mut told = std::collections::HashMap::new();
    while told.len() < 5 {
        let frame = alice.receive().await;
        if frame["type"] != "goaway" {
            told.insert(frame["ref"].as_u64().unwrap(), frame);
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(4_900), "{:?}", started.elapsed());
    assert_eq!(told[&3]["type"], "receipt", "{told:?}");
    for reference in [1, 2, 4, 5] {
        assert_eq!(told[&reference]["name"], "not_delivered", "{told:?}");
        assert!(told[&reference]["message"].as_str().unwrap().contains("left service"), "{told:?}");
    }
    for peer in [&mut alice, &mut bob, &mut dave] {
        assert_eq!(peer.expect_close().await, 4100);
    }
    drop((idle, alice, bob, carol, dave));
    assert_eq!(broker.wait().code(), Some(0));
    let broker = Broker::start_on(&broker.data, &[]);
    let mut bob = broker.connect("bob").await;
    for id in &ids {
        let known = broker.admin("GET", &format!("/v1/messages/{}", id.as_str().unwrap()), None).1;
        assert_eq!(known["state"], "stored", "{known}");
        assert_eq!(bob.receive().await["id"], *id);
    }
    let mut away = broker.connect("away").await;
    assert_eq!(away.receive().await["payload"], 5);
    // A group does not keep what nobody asked it to.
    let letters = broker.admin("GET", "/v1/dead-letters", None).1;
    let letters = letters["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["cause"], &letters[0]["recipient"]), (&json!("stopped"), &json!("user/dave")));
    assert_eq!(letters[0]["id"], of_group);
}

#[test]
fn a_second_broker_on_the_same_address_or_directory_fails() {
    let broker = Broker::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let same_address = Broker::command(&elsewhere)
        .args(["--listen", &broker.address, "--admin", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(same_address.status.code(), Some(1));
    let text = String::from_utf8_lossy(&same_address.stderr);
    assert!(text.to_lowercase().contains("address") && text.contains("in use"), "{text}");
    assert!(text.contains("INFO") && !text.contains('\u{1b}'), "a log without colours: {text}");
    let same_directory = Broker::command(&broker.data)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(same_directory.status.code(), Some(1));
    let text = String::from_utf8_lossy(&same_directory.stderr);
    assert!(text.contains(broker.data.path().to_str().unwrap()), "{text}");
}

#[test]
fn bad_configuration_names_the_key_and_exits_with_64() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("waspmq.toml");
    std::fs::write(&file, "[limits]\nmax_mesage_bytes = 5\n").unwrap();
    let output = Broker::command(&data).arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("max_mesage_bytes") && text.contains("waspmq.toml") && text.contains('2'),
        "{text}"
    );
}

#[test]
fn an_url_that_cannot_be_used_is_wrong_usage() {
    for url in ["http://127.0.0.1:9470/ws", "127.0.0.1:9470"] {
        for command in [&["pub", "user/a", "1"][..], &["sub", "user/a"], &["req", "user/a", "1"]] {
            let mut waspmq = Command::new(env!("CARGO_BIN_EXE_waspmq"));
            let output = waspmq.args(command).args(["--url", url]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                (output.status.code(), text.contains("must begin with ws://")),
                (Some(2), true),
                "{text}"
            );
        }
    }
}

#[test]
fn datagrams_without_receipts_only() {
    let output = Command::new(env!("CARGO_BIN_EXE_waspmq"))
        .args(["pub", "user/a", "1", "--datagrams", "--url", "quic://127.0.0.1:1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.contains("--ack none")), (Some(2), true), "{text}");
}

#[tokio::test]
async fn silent_strangers_are_closed() {
    let broker = Broker::start_with(&[("WASPMQ_LIMITS__CONNECT_TIMEOUT_MS", "1000")]);
    let mut stranger = broker.open(None).await;
    stranger.expect_error(1408).await;
    assert_eq!(stranger.expect_close().await, 4102);
}

/// Systems start programs with a low limit and let each raise it.
#[cfg(target_os = "linux")]
#[test]
fn more_files_may_be_open_than_the_broker_was_started_with() {
    let data = tempfile::tempdir().unwrap();
    let serve =
        "ulimit -Sn 300 && exec \"$0\" serve --data-dir \"$1\" --listen 127.0.0.1:0 --admin 127.0.0.1:0";
    let mut process = Command::new("sh")
        .args(["-c", serve, env!("CARGO_BIN_EXE_waspmq")])
        .arg(data.path())
        .env("WASPMQ_LIMITS__CONNECTIONS_MAX", "1000")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let is_ready = lines.any(|line| line.unwrap().contains("is ready"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(is_ready);
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft > 1_000, "{files}");
}

#[cfg(target_os = "linux")]
#[test]
fn huge_pages_are_a_setting_that_the_kernel_knows() {
    for (settings, enabled) in [(&[][..], "0"), (&[("WASPMQ_HUGE_PAGES", "true")][..], "1")] {
        let broker = Broker::start_with(settings);
        let status = std::fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
        assert!(status.contains(&format!("\nTHP_enabled:\t{enabled}\n")), "{status}");
    }
}
