//! Tails: operators see what is published as it happens, by the API and by the command line.

use crate::harness::{Broker, PATIENCE};
use crate::levels::{publish, with};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use ureq::BodyReader;

over_every_transport!(each_publish_is_seen_with_what_became_of_it);

/// A reader of `GET /v1/tail`, which reads when it is asked to.
struct Tail(BufReader<BodyReader<'static>>);

impl Tail {
    /// What is published behind this is seen.
    fn open(broker: &Broker, query: &str) -> Self {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_per_read(Some(PATIENCE)).build().into();
        let request = agent.get(format!("http://{}/v1/tail{query}", broker.admin));
        let answer = request.header("authorization", format!("Bearer {}", broker.token())).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut tail = Self(BufReader::new(answer.into_body().into_reader()));
        let (name, ready) = tail.next().unwrap();
        assert!(name == "ready" && ready["node"].is_string(), "{name} {ready}");
        tail
    }

    /// The next event; none at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(event) = line.trim_end().strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    fn message(&mut self) -> Value {
        let (name, message) = self.next().unwrap();
        assert_eq!(name, "message", "{message}");
        message
    }

    /// Outcome, address, sender and error of the next message.
    fn outcome(&mut self) -> (String, String, String, String) {
        let message = self.message();
        let text = |key: &str| message[key].as_str().unwrap_or("-").to_owned();
        (text("outcome"), text("to"), text("from"), text("error"))
    }
}

fn words(words: [&str; 4]) -> (String, String, String, String) {
    let [outcome, to, from, error] = words.map(str::to_owned);
    (outcome, to, from, error)
}

fn set_rules(broker: &Broker, table: &Value) {
    let document = json!({"hook": "routing", "match": ["topic/>"], "rules": table});
    let (status, body) = broker.put_json("/v1/policies/p", &document);
    assert!(status < 300, "{body}");
}

async fn each_publish_is_seen_with_what_became_of_it(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    set_rules(
        &broker,
        &json!([
            {"when": {"address": "topic/spam"}, "then": {"drop": "spam"}},
            {"when": {"address": "topic/orders.>"}, "then": {"mirror": ["topic/audit"], "set_headers": {"seen": "yes"}}}
        ]),
    );
    let mut reader = broker.connect("reader").await;
    reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/news"})).await;
    let mut alice = broker.connect("alice").await;
    alice.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/none"})).await;
    let mut full = Tail::open(&broker, "?payload=true");
    let mut audit = Tail::open(&broker, "?match=topic/audit&from=alice");

    let news = with(
        publish(1, "topic/news", json!({"n": 1}), "accepted"),
        json!({"headers": {"k": "v"}, "priority": 4}),
    );
    alice.send(&news).await;
    let id = alice.expect_receipt(1, "accepted").await["id"].clone();
    let got = reader.expect_message(json!({"n": 1})).await;
    let seen = full.message();
    let expected = json!({
        "id": id, "ts": got["ts"], "to": "topic/news", "from": "alice", "pos": got["pos"], "kind": "topic",
        "outcome": "accepted", "recipients": 1, "ack": "accepted", "size": 7, "priority": 4, "headers": {"k": "v"},
        "payload": {"n": 1}
    });
    assert_eq!(seen, expected);

    alice.send(&publish(2, "topic/spam", "x", "accepted")).await;
    alice.expect_error(1520).await;
    let dropped = full.message();
    assert_eq!((&dropped["outcome"], &dropped["reason"]), (&json!("dropped_by_policy"), &json!("spam")));
    assert!(dropped.get("id").is_none() && dropped["payload"] == "x", "{dropped}");

    alice.send(&publish(3, "topic/orders.eu", 1, "accepted")).await;
    alice.expect_receipt(3, "accepted").await;
    let copied = full.message();
    let expected = (&json!(["topic/orders.eu", "topic/audit"]), &json!({"seen": "yes"}));
    assert_eq!((&copied["instead"], &copied["headers"]), expected, "{copied}");
    let mut copied_without = copied.clone();
    for key in ["headers", "payload"] {
        copied_without.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(audit.message(), copied_without, "who looks at the copies' address sees it, and no payload");

    alice.send(&publish(4, "topic/none", 1, "delivered")).await;
    // Nobody but the publisher, who is left out.
    alice.send(&with(publish(5, "topic/nobody", 1, "delivered"), json!({"exclude_self": true}))).await;
    assert_eq!(full.outcome(), words(["accepted", "topic/none", "alice", "-"]));
    assert_eq!(full.outcome(), words(["rejected", "topic/nobody", "alice", "no_recipients"]));
    for _ in 0..2 {
        reader.send(&with(publish(6, "user/nobody", 1, "accepted"), json!({"dedup": "once"}))).await;
        reader.expect_receipt(6, "accepted").await;
    }
    assert_eq!(full.outcome(), words(["accepted", "user/nobody", "reader", "-"]));
    assert_eq!(full.outcome(), words(["duplicate", "user/nobody", "reader", "-"]));
    let document = json!({"to": "all", "payload": "o", "priority": 1});
    let (status, _) =
        broker.admin("POST", "/v1/publish", Some(("application/json", document.to_string().into_bytes())));
    assert_eq!(status, 200);
    assert_eq!(full.outcome(), words(["accepted", "all", "-", "-"]));
    assert_eq!(broker.metric("waspmq_tails"), Some(2.0));
    drop((full, audit));
    broker.eventually("the tails are closed", |broker| broker.metric("waspmq_tails") == Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_what_it_missed_and_slows_nobody() {
    let broker = Broker::start();
    let mut slow = Tail::open(&broker, "?payload=true");
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(30_000);
    let mut published = 0;
    // More than the kernel and the queue hold, however much the kernel takes.
    while broker.metric("waspmq_tail_messages_total{outcome=\"dropped\"}") == Some(0.0) {
        for _ in 0..50 {
            alice.send(&json!({"type": "publish", "to": "topic/t", "payload": body})).await;
        }
        alice.send(&publish(1, "topic/t", "last", "accepted")).await;
        alice.expect_receipt(1, "accepted").await;
        published += 51;
    }
    let (mut seen, mut missing) = (0, 0);
    while seen + missing < published {
        let (name, event) = slow.next().unwrap();
        match name.as_str() {
            "message" => seen += 1,
            "dropped" => missing += event["count"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert!(missing > 0 && seen + missing == published, "{seen} {missing} {published}");
    alice.send(&publish(2, "topic/t", "again", "accepted")).await;
    assert_eq!(slow.message()["payload"], "again", "there is room again");
}

/// `waspmq tail`, when it sees what is published.
fn tail(broker: &Broker, more: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.args(["tail", "--admin", &broker.admin, "--token", &broker.token()]).args(more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.starts_with("watching what is published"), "{said}");
    child.stderr = Some(stderr.into_inner());
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// The exit code, and what else it said.
fn ended(mut child: Child) -> (i32, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_what_is_published_and_ends_in_order() {
    let mut broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let (counted, mut lines) = tail(&broker, &["topic/orders.>", "--payload", "--count", "2"]);
    let (interrupted, mut others) = tail(&broker, &["--json", "--from", "alice"]);
    let (piped, mut head) = tail(&broker, &[]);
    let (left, _others) = tail(&broker, &["user/*"]);
    for (reference, to) in [(1, "topic/orders.a"), (2, "topic/news"), (3, "topic/orders.b")] {
        alice.send(&publish(reference, to, json!({"n": reference}), "accepted")).await;
        alice.expect_receipt(reference, "accepted").await;
    }
    for (to, payload) in [("topic/orders.a", "{\"n\":1}"), ("topic/orders.b", "{\"n\":3}")] {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!("Z accepted {to} alice 0 7 {payload}\n")), "{line}");
    }
    assert_eq!(ended(counted), (0, String::new()));
    let mut line = String::new();
    others.read_line(&mut line).unwrap();
    let first: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&first["to"], first.get("payload")), (&json!("topic/orders.a"), None));
    let status = Command::new("kill").args(["-INT", &interrupted.id().to_string()]).status();
    assert!(status.unwrap().success());
    assert_eq!(ended(interrupted), (0, String::new()));
    // Who reads its first line and goes has seen enough.
    head.read_line(&mut line).unwrap();
    drop(head);
    let mut reference = 4;
    let mut piped = piped;
    while piped.try_wait().unwrap().is_none() {
        alice.send(&publish(reference, "topic/t", 1, "accepted")).await;
        alice.expect_receipt(reference, "accepted").await;
        reference += 1;
    }
    assert_eq!(ended(piped), (0, String::new()));
    let mut last = Tail::open(&broker, "");
    broker.signal("TERM");
    assert_eq!(last.next(), None, "the stream ends when the broker leaves service");
    let (code, said) = ended(left);
    assert!(code == 1 && said.contains("it leaves service"), "{code} {said}");
    assert!(broker.wait().success());
}
