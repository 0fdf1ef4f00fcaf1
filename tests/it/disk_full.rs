//! A disk without space: publishers are told to try again, nothing that was promised is lost, and the broker goes on
//! by itself when there is space.
//!
//! The data directory is a small file system in memory (a tmpfs). Mounting one takes root; without it the test says so,
//! and only the store's own bound is tested.

use crate::crash::missing_for;
use crate::harness::{Broker, PATIENCE, Peer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 48 * 1024 * 1024;
const RESERVE_BYTES: &str = "8388608";

/// A file system of its own; unmounted when dropped.
pub(crate) struct SmallDisk {
    pub(crate) path: PathBuf,
    _parent: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount.
    pub(crate) fn mount() -> Option<Self> {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "waspmq-test"])
            .arg(&path)
            .output();
        mount.ok()?.status.success().then_some(Self { path, _parent: parent })
    }

    /// Takes all space but so many bytes. The broker writes meanwhile, and may take what was free a moment ago.
    pub(crate) fn fill_but(&self, left: u64) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let piece = vec![0_u8; 1 << 20];
        loop {
            let over = free_bytes(&self.path).saturating_sub(left);
            let count = piece.len().min(usize::try_from(over).unwrap());
            match ballast.write(&piece[..count]) {
                _ if count == 0 => return,
                Err(error) if error.kind() != ErrorKind::StorageFull => panic!("{error}"),
                Ok(_) | Err(_) => {}
            }
        }
    }

    pub(crate) fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}

fn free_bytes(path: &Path) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().unwrap());
    numbers.next().unwrap() * numbers.next().unwrap()
}

/// A publisher that keeps what it was promised.
struct Publisher {
    peer: Peer,
    next: u64,
    promised: HashSet<(String, u64)>,
}

impl Publisher {
    async fn new(broker: &Broker) -> Self {
        Self { peer: broker.connect("alice").await, next: 0, promised: HashSet::new() }
    }

    /// Publishes one message to somebody who is not there; the refusal when it is refused.
    async fn publish(&mut self, body: &str) -> Result<(), Value> {
        let publish = json!({"type": "publish", "ref": self.next, "to": "user/bob",
            "payload": ["s", self.next, body], "ack": "stored"});
        let answer = self.peer.ask(publish).await;
        assert_eq!(answer["ref"], json!(self.next), "{answer}");
        self.next += 1;
        if answer["type"] == "receipt" {
            assert_eq!(answer["level"], "stored");
            self.promised.insert(("alice".to_owned(), self.next - 1));
            return Ok(());
        }
        assert!(matches!(answer["code"].as_u64(), Some(1503 | 1505 | 1506)), "{answer}");
        Err(answer)
    }

    /// Publishes until one is refused for lack of space.
    async fn publish_until_full(&mut self, body: &str) {
        loop {
            match self.publish(body).await {
                Err(refusal) if refusal["code"] == 1505 => {
                    assert!(refusal["retry_ms"].as_u64() > Some(0), "it says when to try again: {refusal}");
                    return;
                }
                _ => assert!(self.next < 10_000, "the disk is never full"),
            }
        }
    }

    /// Publishes until one is taken again.
    async fn publish_until_taken(&mut self) {
        let started = Instant::now();
        while self.publish("again").await.is_err() {
            assert!(started.elapsed() < PATIENCE, "it does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Messages that are not stored pass as ever.
async fn expect_memory_traffic(carol: &mut Peer, dave: &mut Peer) {
    for n in 0..200 {
        carol.send(&json!({"type": "publish", "to": "user/dave", "payload": n})).await;
    }
    for n in 0..200 {
        assert_eq!(dave.receive().await["payload"], json!(n));
    }
    carol.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_it_cannot_keep_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("NOT ROOT: no tmpfs can be mounted, so only the store's own bound is tested here");
        return a_store_at_its_bound(&Arc::new(tempfile::tempdir().unwrap())).await;
    };
    for (round, left) in [0, 200_000, 3_000_000, 9_000_000].into_iter().enumerate() {
        let data = Arc::new(tempfile::tempdir_in(&disk.path).unwrap());
        // Without a reserve, the file system itself refuses, in the middle of whatever is written then.
        let reserve = if round % 2 == 0 { "0" } else { RESERVE_BYTES };
        let environment = [("WASPMQ_STORE__RESERVE_BYTES", reserve)];
        let mut broker = Broker::start_on(&data, &environment);
        let (mut carol, mut dave) = (broker.connect("carol").await, broker.connect("dave").await);
        let mut publisher = Publisher::new(&broker).await;
        for _ in 0..20 {
            publisher.publish(&"x".repeat(1_000)).await.unwrap();
        }
        disk.fill_but(left);
        publisher.publish_until_full(&"y".repeat(100_000)).await;
        expect_memory_traffic(&mut carol, &mut dave).await;
        // What the store itself gave back meanwhile is used up soon.
        publisher.publish_until_full(&"z".repeat(100_000)).await;
        std::fs::remove_file(disk.ballast()).unwrap();
        publisher.publish_until_taken().await;
        expect_memory_traffic(&mut carol, &mut dave).await;
        // Ended in order once, killed once: nothing that was promised depends on the end.
        broker.signal(if round < 2 { "KILL" } else { "TERM" });
        drop((carol, dave));
        let promised = std::mem::take(&mut publisher.promised);
        drop(publisher);
        broker.wait();
        let broker = Broker::start_on(&data, &environment);
        assert_eq!(missing_for(&broker, "bob", promised).await, HashSet::new(), "with {left} bytes left");
    }
}

#[tokio::test]
async fn a_store_that_holds_its_bound_is_full_until_it_may_hold_more() {
    a_store_at_its_bound(&Arc::new(tempfile::tempdir().unwrap())).await;
}

async fn a_store_at_its_bound(data: &Arc<tempfile::TempDir>) {
    let bound = [("WASPMQ_STORE__BYTES_MAX", "16777216")];
    let mut broker = Broker::start_on(data, &bound);
    let (mut carol, mut dave) = (broker.connect("carol").await, broker.connect("dave").await);
    let mut publisher = Publisher::new(&broker).await;
    publisher.publish_until_full(&"y".repeat(200_000)).await;
    assert!(publisher.promised.len() >= 16 * 1024 * 1024 / 200_000 - 1, "{}", publisher.promised.len());
    expect_memory_traffic(&mut carol, &mut dave).await;
    drop((carol, dave));
    broker.signal("TERM");
    let mut promised = std::mem::take(&mut publisher.promised);
    drop(publisher);
    assert_eq!(broker.wait().code(), Some(0));
    let broker = Broker::start_on(data, &[]);
    let mut publisher = Publisher::new(&broker).await;
    publisher.next = 20_000;
    publisher.publish("more").await.unwrap();
    promised.extend(publisher.promised);
    assert_eq!(missing_for(&broker, "bob", promised).await, HashSet::new());
}
