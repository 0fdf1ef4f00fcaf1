//! Dictionaries from captured traffic to the broker and over a restart, and what is refused on the way.

use crate::harness::{Broker, Peer};
use crate::levels::{publish, with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use waspmq_protocol::codec;

/// The exit code, standard output and standard error.
fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Broker {
    /// Runs `waspmq dict` with this broker's address.
    fn dict(&self, arguments: &[&str]) -> (i32, String, String) {
        let access = ["--admin", &self.admin, "--token", &self.token()];
        ended(&command(&[&["dict"], arguments, &access].concat()).output().unwrap())
    }

    /// The same, done without a word, as JSON.
    fn dict_json(&self, arguments: &[&str]) -> Value {
        let (code, out, noted) = self.dict(&[arguments, &["--json"]].concat());
        assert_eq!((code, noted.as_str()), (0, ""), "{out}");
        serde_json::from_str(&out).unwrap()
    }

    fn push(&self, name: &str, bytes: &[u8]) -> (u16, Value) {
        let path = format!("/v1/dictionaries/{name}/revisions?match=topic/orders.%3E");
        self.admin("POST", &path, Some(("application/octet-stream", bytes.to_vec())))
    }
}

fn order(number: u64) -> Value {
    json!({
        "order": number, "customer": { "id": number * 7_919 % 10_007, "tier": "gold", "country": "DE" },
        "items": [{ "sku": format!("A-{}", number * 31 % 997), "quantity": number % 5 + 1 }], "currency": "EUR",
    })
}

/// A dictionary; another one for another shop.
fn trained(shop: u64) -> Vec<u8> {
    let orders: Vec<_> =
        (0..300).map(|number| format!("{{\"shop\":{shop},\"of\":{}}}", order(number))).collect();
    let orders: Vec<&[u8]> = orders.iter().map(String::as_bytes).collect();
    codec::train(&orders, 1_024).unwrap()
}

/// Publishes an order and waits until it was accepted.
async fn trade(sender: &mut Peer, number: u64) {
    let frame = publish(number, "topic/orders.eu", "", "accepted");
    sender.send(&with(frame, json!({ "payload": order(number) }))).await;
    sender.expect_receipt(number, "accepted").await;
}

/// Orders of live traffic, in a file.
async fn captured(broker: &Broker, directory: &Path, more: &[&str]) -> PathBuf {
    let path = directory.join("orders.jsonl");
    let access = ["--admin", &broker.admin, "--token", &broker.token()];
    let asked = ["policy", "capture", "--match", "topic/>", "--messages-max", "300"];
    let child = command(&[&asked[..], more, &access].concat()).arg("--out").arg(&path).spawn().unwrap();
    broker.eventually("a capture", |broker| broker.admin("GET", "/v1/capture", None).0 == 200);
    let mut reader = broker.connect("reader").await;
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    let mut sender = broker.connect("alice").await;
    for number in 0..300 {
        trade(&mut sender, number).await;
    }
    let (code, _, noted) = ended(&child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{noted}");
    path
}

#[tokio::test]
async fn a_dictionary_of_captured_traffic_outlives_the_broker() {
    let mut broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let capture = captured(&broker, directory.path(), &["--payload"]).await;
    let file = directory.path().join("orders.dict");
    let (capture, path) = (capture.to_str().unwrap(), file.to_str().unwrap());
    let (code, out, noted) = broker.dict(&["train", "--from", capture, "--size", "2KiB", "-o", path]);
    assert_eq!((code, noted.as_str()), (0, ""));
    assert!(
        out.contains(" bytes, learned from 270 messages; on 30 held out, each by itself:\nCODEC "),
        "{out}"
    );
    let asked = ["train", "--from", capture, "--address", "topic/orders.>", "-o", path];
    let trained = broker.dict_json(&asked);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!((&trained["bytes"], &trained["held_out"]), (&json!(bytes.len()), &json!(30)));
    let mean = |codec: usize| trained["savings"][codec]["mean_bytes"].as_f64().unwrap();
    assert!(mean(2) * 2.0 < mean(1) && mean(1) <= mean(0), "{trained}");

    let push = ["push", "orders", path, "--match", "topic/orders.>"];
    assert_eq!(broker.dict(&push), (0, "orders@1\n".to_owned(), String::new()));
    broker.audited(&["dictionary push", "orders", "orders@1"]);
    let listed = broker.dict_json(&["list"]);
    assert_eq!(listed["dictionaries"][0]["digest"], trained["digest"]);
    assert_eq!(listed["dictionaries"][0]["match"], json!(["topic/orders.>"]));
    broker.restart();
    assert_eq!(broker.dict_json(&["list"]), listed, "it is as it was");
    assert_eq!(broker.metric("waspmq_dictionaries"), Some(1.0));
    assert_eq!(broker.dict(&push), (0, "orders@1\n".to_owned(), String::new()), "the same again");

    assert_eq!(broker.push("orders", &self::trained(1)).1["revision"], 2);
    assert_eq!(broker.dict_json(&["show", "orders"])["revisions"].as_array().unwrap().len(), 2);
    let (code, out, _) = broker.dict(&["show", "orders"]);
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
    assert_eq!(broker.dict(&["rm", "orders"]), (0, String::new(), String::new()));
    broker.audited(&["dictionary remove", "orders", "orders@2"]);
    broker.restart_after("TERM");
    assert_eq!(broker.dict_json(&["list"])["dictionaries"], json!([]));
    let again = broker.push("orders", &self::trained(1)).1;
    assert_eq!((&again["revision"], &again["id"]), (&json!(1), &json!(3)), "no id is given out again");
}

#[tokio::test]
async fn what_cannot_be_trained_or_pushed_says_why() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let capture = captured(&broker, directory.path(), &[]).await;
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (bare, out) = (capture.to_str().unwrap(), file("orders.dict"));
    let (code, _, noted) = broker.dict(&["train", "--from", bare, "-o", &out]);
    assert_eq!(code, 2);
    assert!(
        noted.contains("has no payloads; take it down with `waspmq policy capture --payload`"),
        "{noted}"
    );
    std::fs::write(file("few"), "one\ntwo\nthree\n").unwrap();
    let (code, _, noted) = broker.dict(&["train", "--lines", &file("few"), "-o", &out]);
    assert_eq!(code, 1);
    assert!(noted.contains("3 messages are too few: 12 are needed"), "{noted}");
    assert!(!Path::new(&out).exists(), "nothing is left behind");
    let (code, _, noted) = broker.dict(&["push", "orders", &file("few"), "--match", "all"]);
    assert_eq!(code, 1);
    assert!(
        noted.contains("The bytes cannot be a dictionary: these bytes are not a dictionary: "),
        "{noted}"
    );
    assert_eq!(broker.dict(&["push", "orders", &file("few")]).0, 2, "no pattern");
    std::fs::write(file("huge"), vec![0; 30_000_000]).unwrap();
    let (code, _, noted) = broker.dict(&["push", "orders", &file("huge"), "--match", "all"]);
    assert_eq!(code, 2);
    assert!(noted.contains("huge: more than 131072 bytes are no dictionary"), "{noted}");
    assert_eq!(broker.dict(&["show", "orders"]).0, 1);
    assert_eq!(broker.dict(&["rm", "orders"]).0, 1);
}

#[tokio::test]
async fn hostile_bytes_are_refused_while_messages_flow() {
    let broker = Broker::start();
    let good = trained(0);
    assert_eq!(broker.push("good", &good).0, 201);
    let mut reader = broker.connect("reader").await;
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.eu"})).await;
    let mut sender = broker.connect("alice").await;
    let raw = order(1).to_string().into_bytes();
    let refused = [
        Vec::new(),
        vec![0; 4_096],
        raw.repeat(20),
        good[..4].to_vec(),
        good[..64].to_vec(),
        [&[0x37, 0xa4, 0x30, 0xec][..], &raw].concat(),
        good[1..].to_vec(),
        vec![0xff; 100_000],
    ];
    for (number, bytes) in (0..).zip(&refused) {
        let (status, problem) = broker.push("hostile", bytes);
        assert_eq!(
            (status, &problem["type"]),
            (422, &json!("urn:waspmq:problem:unfit_dictionary")),
            "{problem}"
        );
        trade(&mut sender, number).await;
    }
    assert_eq!(
        broker.push("hostile", &[good.clone(), vec![b'x'; codec::DICTIONARY_BYTES_MAX]].concat()).0,
        413
    );
    assert_eq!(broker.admin("GET", "/v1/dictionaries/hostile", None).0, 404);
    // What is changed behind the tables is another dictionary and may be taken; nothing may break.
    let tables_and_some = (0..160).chain((160..good.len()).step_by(29));
    let (mut taken, mut count) = (0, refused.len() as u64);
    for at in tables_and_some {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        let (status, answer) = broker.push("flipped", &bytes);
        assert!(matches!(status, 201 | 422), "byte {at}: {status} {answer}");
        taken += u64::from(status == 201);
        trade(&mut sender, count).await;
        count += 1;
    }
    for number in 0..count {
        assert_eq!(reader.receive().await["payload"]["order"], number, "nothing is lost");
    }
    let shown = broker.admin("GET", "/v1/dictionaries/flipped", None).1;
    let kept: Vec<_> = shown["revisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kept| kept["revision"].as_u64().unwrap())
        .collect();
    assert_eq!(kept, (taken - 3..=taken).collect::<Vec<_>>(), "the last four are kept");
    let listed = broker.admin("GET", "/v1/dictionaries", None).1;
    assert_eq!(
        (&listed["dictionaries"][1]["name"], &listed["dictionaries"][1]["revision"]),
        (&json!("good"), &json!(1))
    );
    let directory = std::fs::read_dir(broker.data.path().join("dictionaries")).unwrap();
    assert_eq!(directory.count(), 1 + 1 + 4, "the index and what is kept");
}

#[tokio::test]
async fn what_was_changed_on_disk_is_refused_by_name() {
    let mut broker = Broker::start();
    assert_eq!(broker.push("orders", &trained(1)).0, 201);
    let digest = broker.push("orders", &trained(2)).1["digest"].as_str().unwrap().to_owned();
    let file = broker.data.path().join(format!("dictionaries/{digest}.dict"));
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    broker.restart();
    let (code, out, _) = broker.dict(&["list"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("orders@2 is not used: ") && out.contains(&format!("{digest}.dict was changed")),
        "{out}"
    );
    assert_eq!(broker.metric("waspmq_dictionaries"), Some(1.0), "the one before serves");
    let mended = broker.push("orders", &trained(2));
    assert_eq!((mended.0, &mended.1["revision"], &mended.1["refused"]), (200, &json!(2), &Value::Null));
    broker.restart();
    assert!(!broker.dict(&["list"]).1.contains("is not used"));
}

/// Pushes one dictionary after the other until nobody answers; shows the last revision that was answered.
fn push_on(admin: &str, token: &str, bytes: &[Vec<u8>], answered: &AtomicU64) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{admin}/v1/dictionaries/orders/revisions?match=all");
    for bytes in bytes.iter().cycle() {
        let request = agent.post(&url).header("authorization", format!("Bearer {token}"));
        let answer = request.content_type("application/octet-stream").send(bytes.as_slice());
        let text = answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok());
        let Some(document) = text.and_then(|text| serde_json::from_str::<Value>(&text).ok()) else { return };
        answered.store(document["revision"].as_u64().unwrap(), Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill_between_two_pushes() {
    let mut broker = Broker::start();
    let bytes = [trained(1), trained(2), trained(3)];
    for round in 1..4 {
        let (admin, token, answered) = (broker.admin.clone(), broker.token(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let pushing = scope.spawn(|| push_on(&admin, &token, &bytes, &answered));
            broker.eventually("a few pushes", |_| answered.load(Ordering::SeqCst) >= round * 5);
            broker.signal("KILL");
            pushing.join().unwrap();
        });
        broker.restart();
        let shown = broker.dict_json(&["show", "orders"]);
        let kept = shown["revisions"].as_array().unwrap();
        let last = kept.last().unwrap()["revision"].as_u64().unwrap();
        let answered = answered.into_inner();
        assert!((answered..=answered + 1).contains(&last), "{last} behind {answered}");
        assert!(kept.iter().all(|kept| kept["refused"].is_null()), "{shown}");
        let files = std::fs::read_dir(broker.data.path().join("dictionaries")).unwrap();
        let digests: BTreeSet<_> = kept.iter().map(|kept| kept["digest"].as_str().unwrap()).collect();
        assert_eq!(files.count(), 1 + digests.len(), "the index and what it names");
    }
}
