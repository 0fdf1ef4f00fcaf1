//! What a broker that ends at any moment, in order or not, owes its clients, and what it makes of damaged files.

use crate::harness::{Broker, PATIENCE, Peer};
use futures_util::SinkExt;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message as Frame;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_survives_twenty_kills() {
    crate::kills::run_rounds(20).await;
}

/// A publisher of numbered messages to `user/bob`, until its connection ends; gives what was promised and how many
/// publishes have no answer.
async fn publish_until_closed(mut peer: Peer, level: &'static str) -> (Vec<u64>, usize) {
    let (mut promised, mut waiting, mut next) = (Vec::new(), 0, 0_u64);
    loop {
        while waiting < 64 {
            let publish = json!({"type": "publish", "ref": next, "to": "user/bob", "payload": [level, next],
                "ack": level});
            if peer.socket.send(Frame::text(publish.to_string())).await.is_err() {
                break;
            }
            (waiting, next) = (waiting + 1, next + 1);
        }
        let Ok(Frame::Text(text)) = peer.next().await else { return (promised, waiting) };
        for line in text.lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            match frame["type"].as_str().unwrap() {
                "receipt" => promised.push(frame["ref"].as_u64().unwrap()),
                "goaway" => continue,
                _ => assert_eq!(frame["code"], 1504, "{frame}"),
            }
            waiting -= 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_order_loses_nothing_that_was_promised() {
    let mut broker = Broker::start_with(&[("WASPMQ_DRAIN_MS", "2000")]);
    let mut stored = Vec::new();
    for number in 0..4 {
        let peer = broker.connect(&format!("stored{number}")).await;
        stored.push(tokio::spawn(publish_until_closed(peer, "stored")));
    }
    let mut bob = broker.connect("bob").await;
    let delivered = tokio::spawn(publish_until_closed(broker.connect("delivered").await, "delivered"));
    let mut acked = HashSet::new();
    let mut received = 0;
    while let Ok(Frame::Text(text)) = bob.next().await {
        for line in text.lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            if frame["type"] != "message" {
                continue;
            }
            received += 1;
            if received == 2_000 {
                broker.signal("TERM");
            }
            if frame["payload"][0] == "delivered" {
                acked.insert(frame["payload"][1].as_u64().unwrap());
                let ack = json!({"type": "ack", "ids": [frame["id"]]});
                // It may have been told to go by now.
                _ = bob.socket.send(Frame::text(ack.to_string())).await;
            }
        }
    }
    drop(bob);
    let (promised, _) = delivered.await.unwrap();
    assert!(!promised.is_empty() && promised.iter().all(|number| acked.contains(number)));
    let mut expected = HashSet::new();
    for (number, publisher) in (0..).zip(stored) {
        let (promised, _) = publisher.await.unwrap();
        assert!(!promised.is_empty());
        expected.extend(promised.into_iter().map(|n| (format!("stored{number}"), n)));
    }
    assert_eq!(broker.wait().code(), Some(0));
    let broker = Broker::start_on(&broker.data, &[]);
    let missing = missing_for(&broker, "bob", expected.clone()).await;
    assert!(missing.is_empty(), "{} of {} are lost: {missing:?}", missing.len(), expected.len());
}

/// What a new device of a user does not get of `expected`, by sender and number.
pub(crate) async fn missing_for(
    broker: &Broker,
    user: &str,
    mut expected: HashSet<(String, u64)>,
) -> HashSet<(String, u64)> {
    let mut end = broker.connect("end").await;
    let publish =
        json!({"type": "publish", "ref": 1, "to": format!("user/{user}"), "payload": "end", "ack": "stored"});
    assert_eq!(end.ask(publish).await["type"], "receipt");
    let mut peer = broker.open(Some("waspmq.v1.json")).await;
    peer.send(&json!({"type": "connect", "user": user, "device": "reader"})).await;
    loop {
        let frame = peer.receive().await;
        if frame["payload"] == "end" {
            return expected;
        }
        if frame["type"] == "message" {
            let number = frame["payload"][1].as_u64().unwrap();
            expected.remove(&(frame["from"].as_str().unwrap().to_owned(), number));
        }
    }
}

/// A data directory with so many stored messages to `user/bob`, left by a broker that was killed.
async fn killed_with(count: u64) -> (Arc<TempDir>, HashSet<(String, u64)>) {
    let mut broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(200);
    for n in 0..count {
        let publish = json!({"type": "publish", "ref": n, "to": "user/bob", "payload": ["s", n, body], "ack": "stored"});
        assert_eq!(alice.ask(publish).await["level"], "stored");
    }
    broker.signal("KILL");
    broker.wait();
    (broker.data.clone(), (0..count).map(|n| ("alice".to_owned(), n)).collect())
}

/// The journals of a data directory, oldest first; each with where its content ends.
fn journals(data: &TempDir) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![data.path().join("store")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jnl" || extension == "log") {
                let content = std::fs::read(&path).unwrap();
                found.push((path, content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)));
            }
        }
    }
    found.retain(|(_, end)| *end > 0);
    found.sort();
    found
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_with_a_warning_and_costs_nothing_else() {
    let (data, mut expected) = killed_with(50).await;
    let journals = journals(&data);
    let (journal, end) = journals.last().expect("a journal");
    // Into the last record: it was promised, and this is what a disk that lies leaves of it.
    let file = std::fs::OpenOptions::new().write(true).open(journal).unwrap();
    file.set_len(u64::try_from(end - 20).unwrap()).unwrap();
    let output = std::fs::File::create(data.path().join("log")).unwrap();
    let mut process = Broker::command(&data)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stderr(output)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(data.path().join("log")).unwrap();
    let started = Instant::now();
    while !said().contains("is ready") && process.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENCE, "{}", said());
        std::thread::yield_now();
    }
    _ = process.kill();
    process.wait().unwrap();
    let said = said();
    assert!(said.contains("is ready") && said.contains("WARN") && said.contains("cut"), "{said}");
    let broker = Broker::start_on(&data, &[]);
    expected.remove(&("alice".to_owned(), 49));
    assert_eq!(missing_for(&broker, "bob", expected).await, HashSet::new());
}

#[tokio::test]
async fn damage_in_the_middle_is_refused_and_says_what_to_do() {
    let (data, _) = killed_with(50).await;
    let journals = journals(&data);
    let (journal, end) = journals.first().expect("a journal");
    let mut content = std::fs::read(journal).unwrap();
    content[end / 2] ^= 0x40;
    std::fs::write(journal, content).unwrap();
    let output = Broker::command(&data).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("waspmq store check") && text.contains(journal.to_str().unwrap()), "{text}");
}
