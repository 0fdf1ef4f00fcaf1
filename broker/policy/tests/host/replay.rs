//! Captures put to two components: equal ones never differ, and what differs is found with its line.

use crate::capture::{deliver, fail, members, overflow, publish, start, text};
use crate::guests::{Guest, built};
use crate::host;
use serde_json::{Map, Value, json};
use waspmq_core::delivery::Cause;
use waspmq_policy::{Hook, PolicyLimits, Replay, ReplayDifference, ReplayError, ReplaySide, ReplaySummary};

fn config(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Replays with one configuration for each side.
fn replay_with(
    capture: &str,
    [old, new]: [(&[u8], &Value); 2],
    hook: Option<Hook>,
) -> (Vec<ReplayDifference>, ReplaySummary) {
    let configs = [config(old.1), config(new.1)];
    let sides = [(old.0, &configs[0]), (new.0, &configs[1])]
        .map(|(component, config)| ReplaySide { component, config });
    let limits = PolicyLimits { deadline_ms: 100, ..PolicyLimits::default() };
    let mut lines = capture.lines();
    let mut replay = Replay::new(sides, hook, limits, lines.next().unwrap().as_bytes()).unwrap();
    let differences = lines.flat_map(|line| replay.line(line.as_bytes()).unwrap()).collect();
    (differences, replay.summary())
}

fn replay(capture: &str, old: &[u8], new: &[u8]) -> (Vec<ReplayDifference>, ReplaySummary) {
    replay_with(capture, [(old, &json!({})), (new, &json!({}))], None)
}

/// A capture of messages to `topic/a`, each with its `do` header and payload.
fn captured(messages: &[(&str, &[u8])]) -> String {
    let host = host(1);
    start(&host, &["topic/a"]);
    let mut policies = host.worker(0);
    for (commands, payload) in messages {
        let headers = [("do".to_owned(), (*commands).to_owned())];
        publish(&mut policies, "topic/a", &headers, payload);
    }
    text(&host)
}

#[test]
fn equal_components_never_differ_whatever_they_ask_the_host_for() {
    let all = "now; random; random; set k v 1; get k; add n 1 0; take b 1 1 3; online alice; group eng";
    let capture = captured(&[(all, &b"{}"[..]); 20]);
    let decide = built("guest-decide");
    let (differences, summary) = replay(&capture, &decide, &decide);
    assert_eq!(differences, []);
    assert_eq!((summary.records, summary.differences), (20, 0));
    let asked: Vec<_> = summary.hooks.iter().map(|hook| (hook.hook, hook.asked)).collect();
    let expected = [
        (Hook::Routing, 20),
        (Hook::Ack, 20),
        (Hook::Admission, 20),
        (Hook::Overflow, 0),
        (Hook::Compression, 0),
    ];
    assert_eq!(asked, expected);
    let routing = &summary.hooks[0];
    assert!(routing.old.failures.is_empty() && routing.old.mean_ns > Some(0) && routing.old.p99_ns > 0);
    assert!(summary.lacking.is_empty() && summary.only.is_empty());
}

#[test]
fn what_routing_decides_differently_is_found_with_its_line() {
    let capture = captured(&[("get k", b"{}"), ("now", b"{}"), ("random", b"{}")]);
    let [a, b] = ["stamp-a", "stamp-b"].map(built);
    let stamp = json!({ "stamp": "x" });
    let (same, _) = replay_with(&capture, [(&a, &stamp), (&a, &stamp)], None);
    assert_eq!(same, []);
    let (differences, summary) = replay_with(&capture, [(&a, &stamp), (&b, &stamp)], None);
    assert_eq!(differences.iter().map(|difference| difference.line).collect::<Vec<_>>(), [2, 3, 4]);
    let expected = json!({
        "line": 2, "hook": "routing",
        "input": {"message": {
            "ts": 1_700_000_000_000_u64, "sender": "alice", "address": "topic/a", "size": 2, "priority": 4
        }},
        "old": {"route": "continue", "set_headers": {"stamp": "x", "stamp-build": "1"}},
        "new": {"route": "continue", "set_headers": {"stamp": "x", "stamp-build": "2"}},
    });
    assert_eq!(serde_json::to_value(&differences[0]).unwrap(), expected);
    assert_eq!((summary.differences, summary.hooks[0].differences), (3, 3));
}

#[test]
fn values_and_buckets_follow_the_time_of_the_records() {
    let capture = captured(&[("take b 1 1 1", b"{}"), ("take b 1 1 1", b"{}"), ("set k v 500", b"{}")]);
    let late = captured(&[("take b 1 1 1; get k; random", b"{}")]).replace("1700000000000", "1700000001000");
    let capture = capture + late.lines().nth(1).unwrap() + "\n";
    // The test's messages are older than its capture.
    let started = capture.split_once("\"started\":").unwrap().1.split_once(',').unwrap().0.to_owned();
    let capture = capture.replacen(&started, "1700000000000", 1);
    let decide = built("guest-decide");
    // Another component, so that every decision about a route is shown.
    let (differences, _) =
        replay_with(&capture, [(&decide, &json!({})), (&built("stamp-a"), &json!({ "stamp": "x" }))], None);
    let done: Vec<_> = differences.iter().map(|d| d.old["set_headers"]["done"].as_str().unwrap()).collect();
    assert_eq!(done[..3], ["true", "false", "true"]);
    let last: Vec<_> = done[3].split("; ").collect();
    assert_eq!(last[..2], ["true", "none"], "a second behind, the bucket is full and the value has ended");
    let (again, _) =
        replay_with(&capture, [(&decide, &json!({})), (&built("stamp-a"), &json!({ "stamp": "x" }))], None);
    assert_eq!(again, differences, "chance comes from the record");
}

#[test]
fn the_other_hooks_are_asked_what_was_taken_down() {
    let host = host(1);
    start(&host, &["topic/a"]);
    let mut policies = host.worker(0);
    publish(&mut policies, "topic/a", &[], b"{}");
    fail(&mut policies, "topic/a", Cause::Nack);
    fail(&mut policies, "topic/a", Cause::Timeout);
    overflow(&mut policies, "topic/a");
    let (capture, decide) = (text(&host), built("guest-decide"));
    let old = json!({ "ack": { "level": "stored", "on_nack": "give-up" }, "overflow": "close" });
    let new = json!({
        "ack": { "level": "stored", "on_nack": { "retry-ms": 7 } }, "overflow": "drop-oldest",
        "admission": { "amount": 1, "per_second": 0, "burst": 0, "retry_ms": 5 },
    });
    let (differences, summary) = replay_with(&capture, [(&decide, &old), (&decide, &new)], None);
    let found: Vec<_> =
        differences.iter().map(|d| (d.line, d.hook, d.old.to_string(), d.new.to_string())).collect();
    let row = |line, hook, old: &str, new: &str| (line, hook, old.to_owned(), new.to_owned());
    let refused = r#"{"refuse":{"reason":"too many at once","retry_ms":5}}"#;
    let expected = [
        row(2, Hook::Admission, r#""continue""#, refused),
        row(3, Hook::Ack, r#""give-up""#, r#"{"retry_ms":7}"#),
        row(5, Hook::Overflow, r#""close""#, r#""drop-oldest""#),
    ];
    assert_eq!(found, expected);
    assert_eq!(summary.hooks.iter().map(|hook| hook.asked).collect::<Vec<_>>(), [1, 3, 1, 1, 0]);
    let (only_ack, summary) = replay_with(&capture, [(&decide, &old), (&decide, &new)], Some(Hook::Ack));
    assert_eq!((only_ack.len(), summary.hooks.len()), (1, 1));
}

#[test]
fn choices_of_a_codec_are_asked_for_again() {
    let host = host(1);
    start(&host, &["topic/a"]);
    let mut policies = host.worker(0);
    deliver(&mut policies, "topic/a", &[], &[3]);
    deliver(&mut policies, "topic/a", &[("dictionary".to_owned(), "orders".to_owned())], &[9]);
    let (capture, decide) = (text(&host), built("guest-decide"));
    let old = json!({ "compression": { "codec": "asked" } });
    let new = json!({ "compression": { "codec": { "zstd": 3 } } });
    let (same, summary) = replay_with(&capture, [(&decide, &old), (&decide, &old)], None);
    assert_eq!(
        (same.as_slice(), summary.hooks[4].hook, summary.hooks[4].asked),
        (&[][..], Hook::Compression, 2)
    );
    let (differences, _) = replay_with(&capture, [(&decide, &old), (&decide, &new)], None);
    let expected = json!([{
        "line": 3, "hook": "compression",
        "input": {"compression": {
            "codecs": ["lz4"], "dictionary": true, "ts": 1_700_000_000_000_u64, "sender": "alice", "address": "topic/a",
            "size": 1, "priority": 4
        }},
        "old": {"dictionary": "orders"}, "new": {"zstd": 3},
    }]);
    assert_eq!(serde_json::to_value(&differences).unwrap(), expected);
    let without = capture.replace("\"headers\":[", "\"other\":[");
    let (_, summary) = replay_with(&without, [(&decide, &old), (&decide, &old)], None);
    assert_eq!(summary.lacking, [("headers", 2)].into());
}

#[test]
fn members_are_told_before_the_messages_that_are_picked_for() {
    let host = host(1);
    host.queue_changed(members("workers", "topic/jobs.>", 5, 3));
    start(&host, &["topic/jobs.>"]);
    let mut policies = host.worker(0);
    publish(&mut policies, "topic/jobs.1", &[], b"{}");
    host.queue_changed(members("workers", "topic/jobs.>", 6, 4));
    publish(&mut policies, "topic/jobs.1", &[], b"{}");
    let (capture, hash) = (text(&host), built("route-consistent-hash"));
    let (mine, others) = (json!({ "queue": "workers" }), json!({ "queue": "others" }));
    let (same, _) = replay_with(&capture, [(&hash, &mine), (&hash, &mine)], None);
    assert_eq!(same, []);
    let (differences, _) = replay_with(&capture, [(&hash, &mine), (&hash, &others)], None);
    let picked: Vec<_> =
        differences.iter().map(|d| (d.line, &d.old["route"]["pick"]["version"], &d.new["route"])).collect();
    assert_eq!(picked, [(3, &json!(5), &json!("continue")), (5, &json!(6), &json!("continue"))]);

    let deaf = Guest { members_changed: "unreachable", ..Guest::default() }.build();
    let (differences, summary) = replay(&capture, &Guest::default().build(), &deaf);
    let told = &differences[0];
    assert_eq!((told.line, &told.old, &told.new), (2, &json!("told"), &json!({ "failed": "trap" })));
    assert_eq!(told.input["members"]["members"], 3, "as many, not which");
    let unavailable = summary.hooks[0].new.failures.get("unavailable");
    assert_eq!(unavailable, Some(&2), "no instance that knows the members, so nobody to ask");
    let reason = summary.hooks[0].new.no_instance.as_deref().unwrap();
    assert!(reason.contains("members"), "{reason}");
    assert_eq!(summary.hooks[0].old.no_instance, None);
}

#[test]
fn failures_are_counted_and_the_next_record_meets_a_new_instance() {
    let capture = captured(&[("", b"panic"), ("", b"calm!"), ("", b"panic")]);
    let stamp = built("stamp-a");
    let config = json!({ "stamp": "x" });
    let (differences, summary) = replay_with(&capture, [(&stamp, &config), (&stamp, &config)], None);
    assert_eq!(differences, [], "both fail alike");
    assert_eq!(summary.hooks[0].old.failures, [("trap", 2)].into());
    let (differences, _) =
        replay_with(&capture, [(&stamp, &config), (&Guest::default().build(), &config)], None);
    assert_eq!(differences.len(), 3);
    assert_eq!(differences[0].old, json!({ "failed": "trap" }));
    assert_eq!(differences[1].old["route"], "continue");
}

#[test]
fn a_replay_says_what_the_capture_lacks() {
    let capture = captured(&[("get k", b"panic"), ("get k", b"longer")]);
    let cut: String = capture
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if let Some(message) = line["message"].as_object_mut() {
                ["payload", "headers"].iter().for_each(|key| _ = message.remove(*key));
            }
            line.to_string() + "\n"
        })
        .collect();
    let config = json!({ "stamp": "x" });
    let [a, b] = ["stamp-a", "stamp-b"].map(built);
    let (differences, summary) = replay_with(&cut, [(&a, &config), (&b, &config)], None);
    assert_eq!(summary.lacking, [("payload", 1)].into(), "only the first one is looked into");
    assert_eq!((differences[0].lacking.as_slice(), differences[1].lacking.len()), (&["payload"][..], 0));
    let decide = built("guest-decide");
    let (_, summary) = replay(&cut, &decide, &decide);
    assert_eq!(summary.lacking, [("headers", 2)].into());
    assert!(replay(&capture, &decide, &decide).1.lacking.is_empty());
}

#[test]
fn hooks_of_one_component_are_named() {
    let capture = captured(&[("", b"{}")]);
    let (decide, stamp) = (built("guest-decide"), built("stamp-a"));
    let sides = [(&decide[..], &json!({})), (&stamp[..], &json!({ "stamp": "x" }))];
    let (_, summary) = replay_with(&capture, sides, None);
    assert_eq!(summary.hooks.len(), 1);
    let only: Vec<_> = summary.only.iter().map(|only| (only.hook, only.side)).collect();
    assert_eq!(
        only,
        [Hook::Ack, Hook::Admission, Hook::Overflow, Hook::Compression].map(|hook| (hook, "old"))
    );
    let (none, stamps) = (config(&json!({})), config(&json!({ "stamp": "x" })));
    let side = |component, config| ReplaySide { component, config };
    let refused = |sides, hook, header: &str| {
        Replay::new(sides, hook, PolicyLimits::default(), header.as_bytes()).unwrap_err()
    };
    let header = capture.lines().next().unwrap();
    let stamps = [side(&stamp, &stamps), side(&stamp, &stamps)];
    let error = refused(stamps, Some(Hook::Ack), header);
    assert!(matches!(error, ReplayError::NoHook(Hook::Ack)), "{error}");
    let error = refused([side(&decide, &none), side(&stamp, &none)], None, header).to_string();
    assert!(
        error.starts_with("the new component does not take its configuration for hook routing: "),
        "{error}"
    );
    let error = refused([side(b"text", &none), side(&stamp, &none)], None, header).to_string();
    assert!(error.starts_with("the old component: this is not WebAssembly"), "{error}");
    let error = refused(stamps, None, "{\"message\":{}}").to_string();
    assert!(error.starts_with("line 1: this is not the first line of a capture: "), "{error}");
    let error = refused(stamps, None, &header.replace("\"capture\":1", "\"capture\":2")).to_string();
    assert_eq!(error, "line 1: the capture has form 2, known is 1");
}

#[test]
fn a_line_that_is_no_record_is_refused_by_its_number() {
    let capture = captured(&[("", b"{}")]);
    let (stamp, config) = (built("stamp-a"), config(&json!({ "stamp": "x" })));
    let side = ReplaySide { component: &stamp, config: &config };
    let lines: Vec<_> = capture.lines().collect();
    let mut replay = Replay::new([side, side], None, PolicyLimits::default(), lines[0].as_bytes()).unwrap();
    assert_eq!(replay.line(lines[1].as_bytes()), Ok(Vec::new()));
    let mut number = 2;
    let mut refused = |line: &[u8], reason: &str| {
        number += 1;
        let error = replay.line(line).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {number}: {reason}")), "{error}");
    };
    refused(b"{", "EOF");
    refused(b"{\"other\":{}}", "unknown variant `other`");
    refused(b"\xff", "is not text");
    refused(&vec![b' '; 1024 * 1024 + 1], "has more than 1048576 bytes");
    let mut with = |from: &str, to: &str, reason| refused(lines[1].replace(from, to).as_bytes(), reason);
    with("topic/a", "topic/", "address: ");
    with("\"size\":2", "\"size\":3", "size: ");
    with("\"size\":2", "\"size\":2000000000", "size: ");
    with("\"payload\":", "\"payload_b64\":", "payload_b64: ");
    with("\"configured\":", "\"other\":", "configured: is missing");
    with("{\"message\":{", "{\"compression\":{\"codecs\":[\"br\"],\"dictionary\":false,", "codecs: ");
    with("{\"message\":{", "{\"compression\":{\"dictionary\":false,", "missing field `codecs`");
}
