//! Live traffic is captured by the command line and replayed against two revisions: what differs is found, and nothing else.

use crate::harness::Broker;
use crate::levels::{publish, with};
use crate::policies::plugins;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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

/// Replays with plugins by their names and configurations by their files.
struct Replays {
    directory: TempDir,
    capture: PathBuf,
}

impl Replays {
    fn config(&self, name: &str, config: &Value) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, config.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
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
    assert!(noted.contains("a capture is running"), "{noted}");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
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
