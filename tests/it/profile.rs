//! Profiles of a broker at work: it serves meanwhile and afterwards, and what comes out names its functions.

use crate::harness::{Broker, PATIENCE, Peer};
use crate::policies::{set, upload};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Profiles that are taken until everything was seen in one of them.
const PROFILES_MAX: u32 = 15;

/// Publishes that are under way at once from each client.
const BATCH: u64 = 20;

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// An answer of the admin API: its status, its type and its bytes.
fn get(admin: &str, token: &str, path: &str) -> (u16, String, Vec<u8>) {
    let request =
        agent().get(format!("http://{admin}{path}")).header("Authorization", format!("Bearer {token}"));
    let mut answer = request.call().unwrap();
    let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let bytes = answer.body_mut().with_config().limit(64 << 20).read_to_vec().unwrap();
    (answer.status().as_u16(), kind, bytes)
}

/// As [`get`], while tests go on.
async fn get_meanwhile(broker: &Broker, path: &'static str) -> (u16, String, Vec<u8>) {
    let (admin, token) = (broker.admin.clone(), broker.token());
    tokio::task::spawn_blocking(move || get(&admin, &token, path)).await.unwrap()
}

/// The protocol buffer in a gzip file.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.starts_with(&[0x1f, 0x8b]), "{:?}", bytes.get(..16));
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || input.write_all(&bytes));
    let output = gzip.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// The fields of one message: number and bytes, or number and value.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Value(u64, u64),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (number, rest) = bytes.split_at(length);
    *bytes = rest;
    number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn fields(mut bytes: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = varint(&mut bytes);
        fields.push(match tag & 7 {
            0 => Field::Value(tag >> 3, value),
            2 => {
                let (content, rest) = bytes.split_at(usize::try_from(value).unwrap());
                bytes = rest;
                Field::Bytes(tag >> 3, content)
            }
            other => panic!("wire type {other}"),
        });
    }
    fields
}

/// What a profile says.
#[derive(Default)]
struct Decoded {
    kinds: usize,
    /// Locations and count of values of each sample.
    samples: Vec<(Vec<u64>, usize)>,
    /// The function of each location, and the name of each function.
    locations: HashMap<u64, u64>,
    functions: HashMap<u64, u64>,
    period: u64,
    texts: Vec<String>,
}

fn read(gzip: &[u8]) -> Decoded {
    let bytes = unpacked(gzip);
    let mut read = Decoded::default();
    for field in fields(&bytes) {
        match field {
            Field::Bytes(1, _) => read.kinds += 1,
            Field::Bytes(2, sample) => read.samples.push((packed(sample, 1), packed(sample, 2).len())),
            Field::Bytes(4, location) => {
                let line = bytes_of(location, 4).unwrap();
                read.locations.insert(value_of(location, 1), value_of(line, 1));
            }
            Field::Bytes(5, function) => {
                read.functions.insert(value_of(function, 1), value_of(function, 2));
            }
            Field::Bytes(6, text) => read.texts.push(String::from_utf8(text.to_vec()).unwrap()),
            Field::Value(12, period) => read.period = period,
            Field::Bytes(..) | Field::Value(..) => {}
        }
    }
    read.check();
    read
}

fn value_of(message: &[u8], number: u64) -> u64 {
    let found = fields(message).into_iter().find_map(|field| match field {
        Field::Value(n, value) if n == number => Some(value),
        _ => None,
    });
    found.unwrap_or(0)
}

fn bytes_of(message: &[u8], number: u64) -> Option<&[u8]> {
    fields(message).into_iter().find_map(|field| match field {
        Field::Bytes(n, bytes) if n == number => Some(bytes),
        _ => None,
    })
}

fn packed(message: &[u8], number: u64) -> Vec<u64> {
    let mut bytes = bytes_of(message, number).unwrap_or_default();
    std::iter::from_fn(|| (!bytes.is_empty()).then(|| varint(&mut bytes))).collect()
}

impl Decoded {
    /// What `go tool pprof` refuses otherwise.
    fn check(&self) {
        assert_eq!(self.texts[0], "", "the first text is the empty one");
        for (locations, values) in &self.samples {
            assert_eq!(*values, self.kinds);
            assert!(locations.iter().all(|location| self.locations.contains_key(location)));
        }
        for function in self.locations.values() {
            let name = self.functions[function];
            assert!(!self.texts[usize::try_from(name).unwrap()].is_empty());
        }
    }

    fn has(&self, wanted: &str) -> bool {
        self.texts.iter().any(|text| text.contains(wanted))
    }

    #[track_caller]
    fn names(&self, wanted: &[&str]) {
        for wanted in wanted {
            assert!(self.has(wanted), "{wanted} in {:#?}", self.texts);
        }
    }
}

/// Clients that publish to a policy until they are told to stop; every publish has its receipt.
struct Traffic {
    clients: JoinSet<()>,
    ends: Arc<AtomicBool>,
    receipts: Arc<AtomicU64>,
}

impl Traffic {
    async fn start(broker: &Broker) -> Self {
        upload(broker, "mirror", "route-mirror");
        set(broker, "copy", "mirror@1", "topic/hot.>", &json!({"to": "topic/copies"}));
        let (ends, receipts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        // Enough for both workers to have some.
        for number in 0..8 {
            let peer = broker.connect(&format!("client{number}")).await;
            clients.spawn(publish(peer, number, ends.clone(), receipts.clone()));
        }
        Self { clients, ends, receipts }
    }

    async fn end(mut self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.receipts.load(Ordering::Relaxed)
    }
}

async fn publish(mut peer: Peer, number: u32, ends: Arc<AtomicBool>, receipts: Arc<AtomicU64>) {
    let to = format!("topic/hot.{number}");
    while !ends.load(Ordering::Relaxed) {
        let frames: Vec<Value> = (1..=BATCH)
            .map(|n| json!({"type": "publish", "ref": n, "to": to, "payload": {"text": "x".repeat(200)}}))
            .collect();
        peer.send_all(&frames).await;
        for n in 1..=BATCH {
            let receipt = peer.receive().await;
            assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(n)), "{receipt}");
        }
        receipts.fetch_add(BATCH, Ordering::Relaxed);
    }
}

/// Signals come into compiled policies, the allocator and system calls, on all workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_profiled_again_and_again_while_policies_run() {
    let broker = Broker::start();
    let traffic = Traffic::start(&broker).await;
    let wanted = ["waspmq::worker::", "worker-0", "worker-1", "[policy code]", "nanoseconds"];
    let mut seen = Vec::new();
    for round in 1..=PROFILES_MAX {
        let (status, kind, bytes) = get_meanwhile(&broker, "/v1/profile/cpu?seconds=2").await;
        assert_eq!(
            (status, &*kind),
            (200, "application/octet-stream"),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        let profile = read(&bytes);
        assert_eq!(profile.period, 10_000_000);
        seen.extend(wanted.iter().filter(|wanted| profile.has(wanted)));
        // A machine that has little time for the broker has few samples of it.
        if round >= 3 && wanted.iter().all(|wanted| seen.contains(&wanted)) {
            break;
        }
        assert!(round < PROFILES_MAX, "{wanted:?}: only {seen:?} in {:#?}", profile.texts);
    }
    for round in 1..=PROFILES_MAX {
        let (status, kind, bytes) = get_meanwhile(&broker, "/v1/profile/cpu?seconds=1&format=svg").await;
        assert_eq!((status, &*kind), (200, "image/svg+xml"));
        let picture = String::from_utf8(bytes).unwrap();
        assert!(picture.starts_with("<?xml") && picture.ends_with("</svg>\n"), "{picture}");
        if picture.contains("waspmq::worker::") {
            break;
        }
        assert!(round < PROFILES_MAX, "{picture}");
    }
    assert!(traffic.end().await > 0);
    broker.audited(&["profile", "cpu", "2 s"]);
    still_serves(&broker).await;
}

async fn still_serves(broker: &Broker) {
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    alice.send(&json!({"type": "publish", "to": "user/bob", "payload": "still here"})).await;
    assert_eq!(bob.receive().await["payload"], json!("still here"));
}

/// Both kinds at once: signals come into the hooks of the allocator, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_profiled_beside_cpu_time() {
    let broker = Broker::start();
    let traffic = Traffic::start(&broker).await;
    for round in 1..=PROFILES_MAX {
        let (memory, time) = tokio::join!(
            get_meanwhile(&broker, "/v1/profile/heap?seconds=4"),
            get_meanwhile(&broker, "/v1/profile/cpu?seconds=3"),
        );
        assert_eq!((memory.0, time.0), (200, 200));
        let (memory, time) = (read(&memory.2), read(&time.2));
        assert_eq!(memory.period, 512 * 1024);
        memory.names(&["alloc_space", "inuse_space", "bytes"]);
        if memory.has("waspmq::") && time.has("waspmq::worker::") {
            break;
        }
        assert!(round < PROFILES_MAX, "{:#?} {:#?}", memory.texts, time.texts);
    }
    let (status, kind, bytes) = get_meanwhile(&broker, "/v1/profile/heap?seconds=1&format=svg").await;
    assert_eq!((status, &*kind), (200, "image/svg+xml"));
    assert!(String::from_utf8(bytes).unwrap().ends_with("</svg>\n"));
    assert!(traffic.end().await > 0);
    still_serves(&broker).await;
}

/// Sends the request for a long profile, and waits until it is being taken.
fn begin(broker: &Broker, kind: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&broker.admin).unwrap();
    let head = format!(
        "GET /v1/profile/{kind}?seconds=60 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        broker.token()
    );
    stream.write_all(head.as_bytes()).unwrap();
    broker.audited(&["profile", kind, "60 s"]);
    stream
}

#[test]
fn a_second_one_is_refused_and_a_client_that_goes_away_ends_its_own() {
    let broker = Broker::start();
    for kind in ["cpu", "heap"] {
        let stream = begin(&broker, kind);
        let path = format!("/v1/profile/{kind}?seconds=1");
        let (status, problem) = broker.admin("GET", &path, None);
        assert_eq!(status, 409, "{problem}");
        assert_eq!(problem["type"], "urn:waspmq:problem:already_running");
        drop(stream);
        broker.eventually("a place for another profile", |broker| {
            get(&broker.admin, &broker.token(), &path).0 == 200
        });
    }
}

#[test]
fn a_drain_ends_a_profile_with_what_it_has() {
    let mut broker = Broker::start();
    let mut stream = begin(&broker, "cpu");
    broker.signal("TERM");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn only_the_operator_is_answered() {
    let broker = Broker::start();
    for kind in ["cpu", "heap"] {
        let path = format!("/v1/profile/{kind}?seconds=1");
        assert_eq!(broker.http("GET", &path, &[], None).0, 401);
        assert_eq!(broker.http("GET", &path, &[("Authorization", "Bearer other")], None).0, 401);
    }
}

#[test]
fn the_command_line_writes_files() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.current_dir(directory.path()).arg("profile").args(arguments);
        command.args(["--seconds", "1", "--admin", &broker.admin, "--token", &broker.token()]);
        command.output().unwrap()
    };
    let file = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    let done = run(&["cpu", "-o", "cpu.pb.gz"]);
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("cpu.pb.gz: "), "{done:?}");
    read(&file("cpu.pb.gz")).names(&["samples"]);
    assert!(run(&["heap", "-o", "heap.svg"]).status.success());
    assert!(file("heap.svg").starts_with(b"<?xml"));
    let piped = run(&["heap", "--format", "pprof"]);
    read(&piped.stdout).names(&["inuse_space"]);
    // A Ctrl-C leaves nothing behind. TERM stands for it: whoever starts tests in the background may have them ignore INT.
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let before = files();
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.current_dir(directory.path()).args(["profile", "cpu", "--seconds", "60", "-o", "never.svg"]);
    let mut interrupted =
        command.args(["--admin", &broker.admin, "--token", &broker.token()]).spawn().unwrap();
    broker.audited(&["profile", "cpu", "60 s"]);
    let id = rustix::process::Pid::from_child(&interrupted);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(!interrupted.wait().unwrap().success());
    assert_eq!(files(), before);
    // A place that cannot be written is found out before the broker is asked.
    let refused = run(&["cpu", "-o", "no/such/directory/cpu.pb.gz"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
