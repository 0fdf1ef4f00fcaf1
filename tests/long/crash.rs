//! Two hundred kills, and the start with a store of a hundred megabytes.

use crate::harness::{Broker, PATIENCE};
use crate::kills;
use crate::kills::dice::Dice;
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_survives_two_hundred_kills() {
    kills::run_rounds(200).await;
}

/// Waits for the banner; gives the time to it and everything that was logged before.
fn start(data: &tempfile::TempDir) -> (Duration, String) {
    let log = data.path().join("log");
    let started = Instant::now();
    let mut process = Broker::command(data)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    while !said().contains("is ready") {
        assert!(process.try_wait().unwrap().is_none() && started.elapsed() < 6 * PATIENCE, "{}", said());
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = started.elapsed();
    process.kill().unwrap();
    process.wait().unwrap();
    (took, said())
}

fn allocated_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => allocated_bytes(&entry.path()),
            false => std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap()) * 512,
        })
        .sum()
}

#[tokio::test]
async fn a_start_with_a_large_store_is_bounded_and_shows_its_progress() {
    let (users, each, mut dice) = (1_000, 100, Dice::new(1));
    // Such that compressing it, which the store does, gains at most half.
    let mut body = || (0..63).map(|_| format!("{:016x}", dice.next())).collect::<String>();
    let mut broker = Broker::start();
    let mut publisher = broker.connect("publisher").await;
    for user in 0..users {
        let to = format!("user/u{user}");
        let frames = (0..each)
            .map(|n| json!({"type": "publish", "ref": n, "to": to, "payload": [n, body()], "ack": "stored"}));
        publisher.send_text(&frames.map(|frame| frame.to_string()).collect::<Vec<_>>().join("\n")).await;
        for _ in 0..each {
            let receipt = publisher.receive().await;
            assert_eq!(receipt["type"], "receipt", "{receipt}");
        }
    }
    broker.signal("KILL");
    broker.wait();
    let on_disk = allocated_bytes(&broker.data.path().join("store"));
    println!("the store has {on_disk} bytes on disk");
    assert!(on_disk > 50_000_000, "{on_disk}");
    let (after_kill, said) = start(&broker.data);
    println!("ready after {after_kill:?} with {} messages of 1 kB, after a kill", users * each);
    assert!(said.contains("opening the store") && said.contains("done_bytes"), "{said}");
    assert!(said.contains("the store is open"), "{said}");
    let (again, _) = start(&broker.data);
    println!("ready after {again:?} the next time");
    // 1 GB in 10 s is what is asked for; a tenth of it has a margin of five for a busy machine.
    assert!(after_kill < Duration::from_secs(5), "{after_kill:?}");
}
