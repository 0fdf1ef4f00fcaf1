//! Plugins and policies outlive the broker: killed at any moment it comes back with everything that was answered, and
//! a file that somebody changed costs what needs it, by name, and nothing else.

use crate::harness::Broker;
use crate::policies::{component, set, upload};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Output;

fn generation(broker: &Broker) -> Value {
    broker.admin("GET", "/v1/status", None).1["generation"].clone()
}

/// The policies as they are to be after a restart: without what is counted anew.
fn policies(broker: &Broker) -> Value {
    let (status, mut list) = broker.admin("GET", "/v1/policies", None);
    assert_eq!(status, 200, "{list}");
    for policy in list["policies"].as_array_mut().unwrap() {
        for counted in ["calls", "failures", "outcomes", "latency", "instances", "counters", "on_probation"] {
            policy.as_object_mut().unwrap().remove(counted);
        }
    }
    list
}

/// The headers that `stamp` puts on a message to the policy's topic.
async fn stamped(broker: &Broker, policy: &str) -> (Value, Value) {
    let topic = format!("topic/{policy}");
    let (mut alice, mut reader) = (broker.connect("alice").await, broker.connect("reader").await);
    reader.ask(json!({"type": "subscribe", "ref": 1, "to": topic})).await;
    alice.ask(json!({"type": "publish", "ref": 1, "to": topic, "payload": 1})).await;
    let headers = reader.receive().await["headers"].clone();
    (headers["stamp"].clone(), headers["stamp-build"].clone())
}

fn stamp(broker: &Broker, policy: &str, plugin: &str, text: &str) {
    set(broker, policy, plugin, &format!("topic/{policy}"), &json!({"stamp": text}));
}

fn changes(broker: &Broker, query: &str) -> Vec<Value> {
    let (status, page) = broker.admin("GET", &format!("/v1/audit{query}"), None);
    assert_eq!(status, 200, "{page}");
    page["changes"].as_array().unwrap().clone()
}

/// Where the component of a revision is.
fn file_of(broker: &Broker, plugin: &str, revision: usize) -> PathBuf {
    let (_, shown) = broker.admin("GET", &format!("/v1/plugins/{plugin}"), None);
    let digest = shown["revisions"][revision - 1]["digest"].as_str().unwrap().to_owned();
    broker.data.path().join(format!("policies/components/{digest}.wasm"))
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    upload(&broker, "stamp", "stamp-b");
    stamp(&broker, "a", "stamp@1", "first");
    stamp(&broker, "a", "stamp", "second");
    let off = json!({
        "hook": "routing", "plugin": "stamp@1", "match": ["topic/b"], "config": {"stamp": "b"}, "mode": "off",
        "on_failure": "closed", "order": -3
    });
    assert_eq!(broker.put_json("/v1/policies/b", &off).0, 200);
    let before = (generation(&broker), policies(&broker), broker.admin("GET", "/v1/plugins/stamp", None));
    assert_eq!(before.0, 3);
    broker.restart();
    let after = (generation(&broker), policies(&broker), broker.admin("GET", "/v1/plugins/stamp", None));
    assert_eq!(after, before);
    assert_eq!(stamped(&broker, "a").await, (json!("second"), json!("2")));
    assert_eq!(stamped(&broker, "b").await, (Value::Null, Value::Null), "off");
    // The kill comes right behind the answer, change after change.
    for round in 0..4 {
        stamp(&broker, "a", if round % 2 == 0 { "stamp@1" } else { "stamp@2" }, &format!("round {round}"));
        broker.restart();
        let build = if round % 2 == 0 { "1" } else { "2" };
        assert_eq!(stamped(&broker, "a").await, (json!(format!("round {round}")), json!(build)));
        assert_eq!(generation(&broker), 4 + round);
    }
    assert_eq!(broker.admin("POST", "/v1/policies/a/rollback", None).0, 200);
    broker.restart();
    assert_eq!(stamped(&broker, "a").await, (json!("round 2"), json!("1")));
    assert_eq!(
        broker.admin("POST", "/v1/policies/a/rollback", None).0,
        200,
        "the previous version came back, too"
    );
    assert_eq!(broker.admin("DELETE", "/v1/policies/b", None).0, 204);
    broker.restart_after("TERM");
    assert_eq!(policies(&broker)["policies"].as_array().unwrap().len(), 1);
    assert_eq!(generation(&broker), 10);
}

/// Kills a broker while changes pour in; whatever it answered last is there, and nothing is half there.
#[tokio::test]
async fn a_kill_between_changes_leaves_one_of_them() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    stamp(&broker, "a", "stamp", "0");
    for round in 0..3_u64 {
        let (admin, token, process) = (broker.admin.clone(), broker.token(), broker.id());
        let changing = std::thread::spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            for n in 1_u64.. {
                let document = json!({
                    "hook": "routing", "plugin": "stamp", "match": ["topic/a"], "config": {"stamp": format!("{round}/{n}")},
                    "limits": {"deadline_ms": 100, "cpu_share": 1.0}
                });
                let put = agent.put(format!("http://{admin}/v1/policies/a"));
                let put =
                    put.header("authorization", format!("Bearer {token}")).content_type("application/json");
                if !put.send(document.to_string().as_bytes()).is_ok_and(|answer| answer.status() == 200) {
                    return n - 1;
                }
                if n == 3 + round * 4 {
                    std::thread::spawn(move || {
                        _ = std::process::Command::new("kill").args(["-KILL", &process.to_string()]).status();
                    });
                }
            }
            unreachable!()
        });
        let answered = changing.join().unwrap();
        broker.restart();
        let found = stamped(&broker, "a").await.0.as_str().unwrap().to_owned();
        let expected = [format!("{round}/{answered}"), format!("{round}/{}", answered + 1)];
        assert!(expected.contains(&found), "{found}, answered was {}", expected[0]);
        // Every change that is in force has its line; the last may have one without being in force.
        let (_, shown) = broker.admin("GET", "/v1/policies/a", None);
        let noted =
            changes(&broker, "?limit=2").iter().any(|change| change["generation"] == shown["generation"]);
        assert!(noted, "{shown}");
    }
}

#[tokio::test]
async fn a_changed_component_is_refused_by_name_and_the_rest_serves() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    upload(&broker, "stamp", "stamp-b");
    stamp(&broker, "one", "stamp@1", "1");
    stamp(&broker, "two", "stamp@2", "2");
    let damaged = file_of(&broker, "stamp", 2);
    let mut bytes = std::fs::read(&damaged).unwrap();
    assert_eq!(bytes, component("stamp-b"));
    bytes[100] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    broker.restart();
    assert_eq!(broker.http("GET", "/readyz", &[], None).0, 200, "no policy is required");
    assert_eq!(stamped(&broker, "one").await.0, json!("1"));
    assert_eq!(stamped(&broker, "two").await.0, Value::Null);
    let (_, list) = broker.admin("GET", "/v1/policies", None);
    let (one, two) = (&list["policies"][0], &list["policies"][1]);
    assert_eq!((&one["name"], &one["state"]), (&json!("one"), &json!("active")), "{list}");
    assert_eq!((&two["name"], &two["state"]), (&json!("two"), &json!("refused")), "{list}");
    let (digest, reason) = (two["digest"].as_str().unwrap(), two["reason"].as_str().unwrap());
    assert!(reason.contains("stamp@2") && reason.contains(digest), "{reason}");
    assert!(reason.contains(damaged.to_str().unwrap()) && reason.contains("was changed"), "{reason}");
    assert_eq!(broker.admin("GET", "/v1/policies/two", None).1["state"], "refused");
    let (_, plugin) = broker.admin("GET", "/v1/plugins/stamp", None);
    assert_eq!(
        (&plugin["revisions"][0]["revision"], &plugin["refused"][0]["revision"]),
        (&json!(1), &json!(2))
    );
    let rollback = broker.admin("POST", "/v1/policies/two/rollback", None);
    assert_eq!(
        (rollback.0, &rollback.1["type"]),
        (409, &json!("urn:waspmq:problem:refused_policy")),
        "{}",
        rollback.1
    );
    let promote = broker.admin("POST", "/v1/policies/two/promote", None);
    assert_eq!((promote.0, &promote.1["detail"]), (409, &rollback.1["detail"]), "{}", promote.1);
    // The same bytes again put the file right, and the next start has everything.
    upload(&broker, "stamp", "stamp-b");
    broker.restart();
    assert_eq!(stamped(&broker, "two").await, (json!("2"), json!("2")));
    std::fs::remove_file(file_of(&broker, "stamp", 1)).unwrap();
    broker.restart();
    let (_, one) = broker.admin("GET", "/v1/policies/one", None);
    assert!(one["reason"].as_str().unwrap().contains("is missing"), "{one}");
    assert_eq!(stamped(&broker, "two").await.0, json!("2"));
}

#[test]
fn a_damaged_manifest_stops_the_start_and_is_named() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    stamp(&broker, "a", "stamp", "1");
    broker.signal("KILL");
    broker.wait();
    let file = broker.data.path().join("policies/policies.json");
    let whole = std::fs::read(&file).unwrap();
    let refuse = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let output: Output = Broker::command(&broker.data)
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(file.to_str().unwrap()), "{text}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "it is left as it was");
        text
    };
    assert!(refuse(&whole[..whole.len() / 2]).contains("damaged"));
    let mut changed = whole.clone();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    assert!(refuse(&changed).contains("Restore it from a backup"));
    assert!(refuse(br#"{"format":9,"all":"new"}"#).contains("newer version"));
    std::fs::write(&file, &whole).unwrap();
    broker.restart();
    assert_eq!(generation(&broker), 1);
}

#[test]
fn every_change_is_in_the_audit_log_and_outlives_the_broker() {
    let mut broker = Broker::start();
    upload(&broker, "stamp", "stamp-a");
    stamp(&broker, "a", "stamp", "1");
    assert_eq!(
        broker.put_json("/v1/policies/a", &json!({"hook": "routing", "plugin": "x", "match": ["all"]})).0,
        422
    );
    assert_eq!(broker.admin("PUT", "/v1/groups/eng", None).0, 201);
    broker.restart();
    assert_eq!(broker.admin("DELETE", "/v1/policies/a", None).0, 204);
    let lines = changes(&broker, "");
    let show = |line: &Value| {
        assert!(
            line["who"].as_str().unwrap().starts_with("admin 127.0.0.1:") && line["unix_ms"].is_u64(),
            "{line}"
        );
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (
            line["seq"].as_u64().unwrap(),
            text("what"),
            text("name"),
            text("from"),
            text("to"),
            line["generation"].clone(),
        )
    };
    let expected = [
        (1, "plugin upload", "stamp", "0", "1", 0),
        (2, "policy put", "a", "", "stamp@1", 1),
        (3, "group create", "eng", "", "eng", 1),
        (4, "policy remove", "a", "stamp@1", "", 2),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (seq, what, name, from, to, generation)) in lines.iter().zip(expected) {
        let expected =
            (seq, what.to_owned(), name.to_owned(), from.to_owned(), to.to_owned(), json!(generation));
        assert_eq!(show(line), expected);
    }
    assert_eq!(lines[0]["details"]["digest"].as_str().map(str::len), Some(64));
    let page = broker.admin("GET", "/v1/audit?after=1&limit=2", None).1;
    assert_eq!((page["changes"].as_array().unwrap().len(), &page["next"]), (2, &json!("3")), "{page}");
    assert_eq!(changes(&broker, "?limit=1")[0]["seq"], 4, "without `after`, the last ones");
    assert_eq!(broker.admin("GET", "/v1/audit?limit=0", None).0, 400);
    assert_eq!(broker.http("GET", "/v1/audit", &[], None).0, 401);
    let kept = std::fs::read_to_string(broker.data.path().join("audit.log")).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kept.len(), 4);
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_waspmq"))
        .args(["policy", "audit", "--after", "2", "--admin", &broker.admin, "--token", &broker.token()])
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert!(printed.contains(": policy remove a, stamp@1 -> - (from_digest "), "{printed}");
}
