//! Live traffic is captured by the command line and replayed against two revisions: what differs is found, and nothing else.

use crate::harness::{Broker, PATIENCE};
use crate::levels::{publish, with};
use crate::policies::plugins;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Begins to capture orders, and answers when the broker does.
fn capture(broker: &Broker, out: &Path, more: &[&str]) -> Child {
    let mut command = command();
    command.args(["policy", "capture", "--match", "topic/orders.>", "--admin", &broker.admin]);
    command.args(["--token", &broker.token(), "--out"]).arg(out).args(more);
    let child = command.spawn().unwrap();
    broker.eventually("a capture", |broker| broker.admin("GET", "/v1/capture", None).0 == 200);
    child
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The exit code, standard output and standard error.
fn ended(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Replays with plugins by their names and configurations in files.
struct Replays {
    directory: TempDir,
    capture: PathBuf,
}

impl Replays {
    fn config(&self, name: &str, config: &Value) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, config.to_string()).unwrap();
        format!("@{}", path.display())
    }

    fn run(&self, [old, new]: [&str; 2], more: &[&str]) -> (i32, String, String) {
        let mut command = command();
        command.args(["plugin", "replay"]);
        for plugin in [old, new] {
            command.arg(plugins().join(format!("{plugin}.wasm")));
        }
        ended(&command.arg(&self.capture).args(more).output().unwrap())
    }
}

/// Publishes 20 orders, the first of which is refused once, and some of what is no order.
async fn trade(broker: &Broker) {
    let mut senders = [broker.connect("alice").await, broker.connect("bob").await];
    let mut reader = broker.connect("reader").await;
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/>"})).await;
    senders[0].send(&publish(1, "topic/orders.0", "first", "delivered")).await;
    let first = reader.expect_message("first").await;
    reader
        .ask_ok(json!({"type": "nack", "ref": 2, "id": first["id"], "reason": "busy", "retry_ms": 10}))
        .await;
    let again = reader.expect_message("first").await;
    reader.ack(&again).await;
    senders[0].expect_receipt(1, "delivered").await;
    for number in 1..20_u64 {
        let sender = &mut senders[usize::try_from(number % 2).unwrap()];
        let order = publish(number, &format!("topic/orders.{number}"), "order", "accepted");
        sender.send(&with(order, json!({"headers": {"n": number.to_string()}, "key": "k"}))).await;
        sender.expect_receipt(number, "accepted").await;
        reader.expect_message("order").await;
        sender.send(&publish(100, "topic/news", "news", "accepted")).await;
        sender.expect_receipt(100, "accepted").await;
        reader.expect_message("news").await;
    }
}

#[tokio::test]
async fn captured_traffic_shows_what_a_revision_decides_differently() {
    let broker = Broker::start();
    let mut member = broker.connect("worker").await;
    member.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.later", "queue": "w"})).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.jsonl");
    let child = capture(&broker, &path, &["--messages-max", "21", "--payload", "--headers"]);
    trade(&broker).await;
    let (code, out, noted) = ended(&child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{noted}");
    assert_eq!(out, format!("{}: 22 records, as many as asked for\n", path.display()));
    assert_eq!(broker.admin("GET", "/v1/capture", None).0, 404, "it is saved and removed");
    broker.audited(&["capture start", "topic/orders.>", "with payload and headers"]);
    broker.audited(&["capture read", "22 records"]);
    assert_eq!(broker.metric("waspmq_capture_records_total"), Some(22.0));

    let records = lines(&path);
    assert_eq!((&records[0]["recorded"], &records[0]["ended_by"]), (&json!(22), &json!("messages")));
    let of = |kind: &str| records.iter().filter_map(|record| record.get(kind)).collect::<Vec<_>>();
    let messages = of("message");
    let expected: Vec<_> = (0..20).map(|number| format!("topic/orders.{number}")).collect();
    assert_eq!(messages.iter().map(|m| m["address"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!((&messages[7]["sender"], &messages[7]["key"]), (&json!("bob"), &json!("k")));
    assert_eq!(
        (&messages[7]["headers"], &messages[7]["payload"]),
        (&json!([["n", "7"]]), &json!("\"order\""))
    );
    assert_eq!(of("failure").iter().map(|f| f["cause"].clone()).collect::<Vec<_>>(), ["nack"]);
    assert_eq!(of("members").iter().map(|m| m["queue"].clone()).collect::<Vec<_>>(), ["w"]);

    find_differences(&Replays { directory, capture: path });
}

fn find_differences(replays: &Replays) {
    let stamp = replays.config("stamp.json", &json!({"stamp": "x"}));
    let (code, out, noted) = replays.run(["stamp-a", "stamp-a"], &["--config", &stamp]);
    assert_eq!((code, noted.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("22 records\n") && out.contains("routing  20     0"), "{out}");
    let more = ["--config", r#"{"stamp":"x"}"#, "--memory-mb", "1"];
    let (code, _, noted) = replays.run(["stamp-a", "stamp-a"], &more);
    assert!(code == 2 && noted.contains("it needs more memory than its limit allows"), "{code} {noted}");

    let (code, out, noted) = replays.run(["stamp-a", "stamp-b"], &["--config", &stamp]);
    assert_eq!((code, noted.as_str()), (1, "error: 20 of the decisions differ\n"));
    assert!(
        out.contains(r#"new: {"route":"continue","set_headers":{"stamp":"x","stamp-build":"2"}}"#),
        "{out}"
    );

    let [good, bad] =
        [0, 5].map(|n| replays.config(&format!("{n}.json"), &json!({"mark": "1", "fail_one_in": n})));
    let more = ["--config", &good, "--new-config", &bad, "--json"];
    let (code, out, _) = replays.run(["guest-trial", "guest-trial"], &more);
    let found: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let addresses: Vec<_> = found.iter().filter_map(|f| f["input"]["message"]["address"].as_str()).collect();
    assert_eq!(addresses, ["topic/orders.4", "topic/orders.9", "topic/orders.14", "topic/orders.19"]);
    assert_eq!((code, &found[0]["new"]), (1, &json!({"failed": "bad_verdict"})));
    assert_eq!(found[4]["summary"]["hooks"][0]["new"]["failures"], json!({"bad_verdict": 4}));

    let give_up = replays.config("give-up.json", &json!({"ack": {"on_nack": "give-up"}}));
    let (code, out, noted) =
        replays.run(["guest-decide", "guest-decide"], &["--hook", "ack", "--new-config", &give_up]);
    assert_eq!((code, noted.as_str()), (1, "error: 1 of the decisions differ\n"));
    assert!(out.contains("old: \"continue\"\n  new: \"give-up\""), "{out}");

    let stamps = ["--config", &stamp, "--new-config", &give_up];
    let (code, _, noted) = replays.run(["stamp-a", "guest-decide"], &stamps);
    assert_eq!(code, 1);
    assert!(noted.contains("only the new component has the hook admission"), "{noted}");

    let text = std::fs::read_to_string(&replays.capture).unwrap();
    std::fs::write(&replays.capture, text.replacen("\"sender\"", "\"sendor\"", 1)).unwrap();
    let (code, _, noted) = replays.run(["stamp-a", "stamp-a"], &["--config", &stamp]);
    assert_eq!(code, 2);
    assert!(noted.contains("orders.jsonl: line 3: missing field `sender`"), "{noted}");
}

#[tokio::test]
async fn ctrl_c_saves_what_there_is() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.jsonl");
    let child = capture(&broker, &path, &["--seconds", "3600"]);
    let mut alice = broker.connect("alice").await;
    let mut reader = broker.connect("reader").await;
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.>"})).await;
    for number in 0..3 {
        alice.send(&publish(number, "topic/orders.a", "order", "accepted")).await;
        alice.expect_receipt(number, "accepted").await;
    }
    let second = command()
        .args(["policy", "capture", "--match", "all", "--admin", &broker.admin, "--token", &broker.token()])
        .arg("--out")
        .arg(directory.path().join("second.jsonl"))
        .output()
        .unwrap();
    let (code, _, noted) = ended(&second);
    assert_eq!(code, 1);
    assert!(noted.contains("a capture is running") && noted.contains("DELETE /v1/capture"), "{noted}");
    let interrupted = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let (code, out, noted) = ended(&child.wait_with_output().unwrap());
    assert_eq!((code, out), (0, format!("{}: 3 records, ended early\n", path.display())), "{noted}");
    let records = lines(&path);
    assert_eq!((records.len(), &records[0]["ended_by"]), (4, &Value::Null));
    assert!(records[1]["message"].get("payload").is_none() && records[1]["message"].get("headers").is_none());
    assert_eq!(broker.admin("GET", "/v1/capture", None).0, 404);
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(names, ["orders.jsonl"], "nothing else is left behind");
}

/// An admin API that answers these requests, one after the other, and nothing behind them.
fn scripted(answers: Vec<(u16, Value)>) -> (String, JoinHandle<TcpListener>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        for (status, answer) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while request.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            request.read_exact(&mut vec![0; length]).unwrap();
            let body = if answer.is_null() { String::new() } else { answer.to_string() };
            let head =
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
        listener
    });
    (address, answering)
}

/// Captures from such an API into `out`.
fn capture_from(api: &str, out: &Path) -> Command {
    let mut command = command();
    command.args(["policy", "capture", "--match", "all", "--token", "t", "--admin", api, "--out"]).arg(out);
    command
}

#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (api, answering) = scripted(vec![(201, json!({"started_unix_ms": 5}))]);
    let mut child = capture_from(&api, &directory.path().join("all.jsonl")).spawn().unwrap();
    let _hangs = answering.join().unwrap();
    let started = std::time::Instant::now();
    let status = loop {
        // Signals that come together may count as one.
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < PATIENCE, "it waits for an answer that does not come");
    };
    let mut noted = String::new();
    child.stderr.take().unwrap().read_to_string(&mut noted).unwrap();
    assert_eq!(status.code(), Some(1), "{noted}");
    assert!(noted.contains("interrupted twice"), "{noted}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

/// What becomes of a complete capture whose records have this header, when its removal is answered like this.
fn saved_from(header: Value, removed: (u16, Value)) -> (i32, String, usize) {
    let directory = tempfile::tempdir().unwrap();
    let complete = json!({"started_unix_ms": 5, "state": "complete", "recorded": 0});
    let answers = vec![(201, complete.clone()), (200, complete), (200, header), removed];
    let (api, _) = scripted(answers);
    let (code, _, noted) = ended(&capture_from(&api, &directory.path().join("all.jsonl")).output().unwrap());
    (code, noted, std::fs::read_dir(directory.path()).unwrap().count())
}

#[test]
fn what_is_saved_is_its_own_and_stays_saved() {
    let mine = || json!({"capture": 1, "started": 5});
    let (code, noted, files) = saved_from(mine(), (204, Value::Null));
    assert_eq!((code, files), (0, 1), "{noted}");
    let (code, noted, files) = saved_from(mine(), (404, json!({"title": "Not Found"})));
    assert!(!noted.contains("not removed"), "{noted}");
    assert_eq!((code, files), (0, 1), "somebody removed it before: {noted}");
    let another = json!({"title": "Conflict", "detail": "the capture that is there is another one"});
    let (code, noted, files) = saved_from(mine(), (409, another));
    assert!(noted.contains("was not removed: the capture that is there is another one"), "{noted}");
    assert_eq!((code, files), (0, 1), "{noted}");
    let (code, noted, files) = saved_from(json!({"capture": 1, "started": 6}), (204, Value::Null));
    assert!(noted.contains("somebody removed this capture and began another one"), "{noted}");
    assert_eq!((code, files), (1, 0), "{noted}");
}
