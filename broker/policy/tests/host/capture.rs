//! What a worker is asked is taken down, whether policies are bound or not, and decisions stay what they were.

use crate::guests::built;
use crate::{document, eventually, host, message, route};
use serde_json::{Value, json};
use waspmq_core::address::{Address, Kind, Name};
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::delivery::{AckPlan, Cause, Recipient};
use waspmq_core::policy::{
    Acking, Bound, BySettings, Compressing, Failure, Overflowed, Overflowing, Policies, QueueMembers, Routing,
};
use waspmq_core::registry::Loads;
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{CaptureError, CaptureRequest, Host, WorkerPolicies};

/// Starts a capture of these patterns with all there is of a message.
pub(crate) fn start(host: &Host, patterns: &[&str]) {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let (seconds, messages_max) = (60, 1_000);
    let request = CaptureRequest { patterns, seconds, messages_max, payload: true, headers: true };
    host.start_capture(request).unwrap();
}

/// Publishes as a worker's pass does, as far as policies are concerned.
pub(crate) fn publish(policies: &mut WorkerPolicies, to: &str, headers: &[(String, String)], payload: &[u8]) {
    let bound = policies.bound(to);
    let message = waspmq_core::policy::Message { payload, ..message(to, headers) };
    if bound.captured {
        policies.capture(&message, &Settings::of_kind(Kind::Topic));
    }
    if bound.routing {
        policies.route(&message);
    }
}

/// The records as text.
pub(crate) fn text(host: &Host) -> String {
    String::from_utf8(host.read_capture().unwrap().1.flatten().collect()).unwrap()
}

/// What kinds of records there are, with their addresses or queues.
fn kinds(host: &Host) -> Vec<String> {
    let about = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let (kind, record) = line.as_object().unwrap().iter().next().unwrap();
        let of = record.get("address").or_else(|| record.get("queue")).unwrap();
        format!("{kind} {}", of.as_str().unwrap())
    };
    text(host).lines().skip(1).map(about).collect()
}

/// A failed attempt of alice's message to bob, and what is decided about it.
pub(crate) fn fail(policies: &mut WorkerPolicies, to: &str, cause: Cause) {
    let (to, alice) = (Address::parse(to).unwrap(), Name::parse("alice").unwrap());
    let plan = AckPlan::default();
    let failure = Failure {
        to: &to,
        from: Some(&alice),
        id: MessageId::new(1, 1, 0, 1),
        messages: 2,
        recipient: &Recipient::User(Name::parse("bob").unwrap()),
        cause,
        attempt: 1,
        waited_ms: 10,
        retry_ms: None,
        plan: &plan,
        random: u64::MAX,
    };
    assert_eq!(policies.failed(&failure), BySettings.failed(&failure));
}

pub(crate) fn overflow(policies: &mut WorkerPolicies, to: &str) {
    let to = Address::parse(to).unwrap();
    let recipient = format!("bob/phone/{}", SessionId::new(1, 0, 1));
    let what = Overflowed {
        to: &to,
        recipient: &recipient,
        priority: 3,
        size_bytes: 100,
        queued_bytes: 1_000,
        queued_bytes_max: 1_050,
        configured: Overflow::DropNewest,
    };
    if policies.has_overflow(to.as_str()) {
        assert_eq!(policies.overflow(&what), Overflow::DropNewest);
    }
}

/// A message on its way to recipients that take LZ4, and what is chosen for them.
pub(crate) fn deliver(policies: &mut WorkerPolicies, to: &str, headers: &[(String, String)], payload: &[u8]) {
    let message = waspmq_core::policy::Message { payload, ..message(to, headers) };
    let audience = Audience { codecs: Codecs::LZ4, has_dictionary: true };
    if policies.has_compression(to) {
        assert_eq!(policies.choose(&message, MessageId::new(1, 1, 0, 1), audience), None);
    }
}

pub(crate) fn members(queue: &str, pattern: &str, version: u64, count: usize) -> QueueMembers {
    let members = (0..count).map(|n| format!("worker{n}/box/{n}")).collect();
    let queue = Name::parse(queue).unwrap();
    QueueMembers { pattern: pattern.to_owned(), queue, version, members, loads: Loads::default() }
}

#[test]
fn all_that_policies_are_asked_is_taken_down_though_none_is_bound() {
    let host = host(2);
    host.queue_changed(members("early", "topic/a.>", 1, 2));
    host.queue_changed(members("elsewhere", "topic/b.>", 2, 2));
    let mut workers = [host.worker(0), host.worker(1)];
    assert_eq!(workers[0].bound("topic/a.1"), Bound::default());
    start(&host, &["topic/a.>"]);
    assert_eq!(workers[0].bound("topic/a.1"), Bound { captured: true, ..Bound::default() });
    assert_eq!(workers[0].bound("topic/b.1"), Bound::default());
    for to in ["topic/a.1", "topic/b.1"] {
        publish(&mut workers[0], to, &[], b"{}");
        fail(&mut workers[1], to, Cause::Nack);
        overflow(&mut workers[0], to);
        deliver(&mut workers[1], to, &[], b"{}");
    }
    fail(&mut workers[0], "topic/a.1", Cause::Expired);
    host.queue_changed(members("late", "topic/*.1", 3, 1));
    host.queue_changed(members("late", "topic/*.1", 3, 1));
    host.queue_changed(members("elsewhere", "topic/b.>", 4, 1));
    let expected = [
        "members early",
        "message topic/a.1",
        "failure topic/a.1",
        "overflow topic/a.1",
        "compression topic/a.1",
        "members late",
    ];
    assert_eq!(kinds(&host), expected);
    let started = host.capture().unwrap().started_unix_ms;
    let other = host.remove_capture(Some(started - 1));
    assert_eq!(other, Err(CaptureError::Other { started_unix_ms: started }));
    let status = host.remove_capture(Some(started)).unwrap();
    assert_eq!((status.recorded, status.ended), (6, None));
    assert_eq!((host.capture(), host.remove_capture(None)), (None, Err(CaptureError::None)));
    assert_eq!(workers[0].bound("topic/a.1"), Bound::default());
    assert_eq!(host.capture_counts().recorded, 6);
}

#[test]
fn a_capture_that_begins_meanwhile_misses_no_change_of_members() {
    let host = host(1);
    let together = std::sync::Barrier::new(2);
    const ROUNDS: u64 = 300;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=ROUNDS {
                together.wait();
                host.queue_changed(members("q", "topic/a", version, 1));
                together.wait();
            }
        });
        for version in 1..=ROUNDS {
            together.wait();
            start(&host, &["topic/a"]);
            together.wait();
            assert!(text(&host).contains(&format!("\"version\":{version},")), "{version}: {}", text(&host));
            host.remove_capture(None).unwrap();
        }
    });
}

#[test]
fn a_bound_policy_decides_as_ever_and_each_publish_is_one_record() {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    for hook in ["routing", "ack", "admission"] {
        host.put_policy(hook, document("decide", &["topic/>"], json!({ "hook": hook })), "test").unwrap();
    }
    let mut policies = host.worker(0);
    let before = route(&mut policies, &message("topic/a", &[]));
    start(&host, &["topic/a"]);
    let headers = [("k".to_owned(), "v".to_owned())];
    publish(&mut policies, "topic/a", &headers, b"{\"a\":1}");
    let record: Value = serde_json::from_str(text(&host).lines().nth(1).unwrap()).unwrap();
    let expected = json!({"message": {
        "ts": 1_700_000_000_000_u64, "sender": "alice", "address": "topic/a", "size": 7, "priority": 4,
        "configured": {
            "level": "none", "quorum": "all", "timeout_ms": 10_000, "attempts": 5, "initial_ms": 500, "max_ms": 30_000,
            "jitter_percent": 20, "dead_letter": true, "may_store": true
        },
        "headers": [["k", "v"]], "payload": "{\"a\":1}"
    }});
    assert_eq!((record, kinds(&host).len()), (expected, 1));
    assert_ne!(route(&mut policies, &message("topic/a", &[])), before, "it counts its calls, and was asked");
}

#[test]
fn the_policy_thread_ends_a_capture_in_time() {
    let host = host(1);
    let request = CaptureRequest {
        patterns: vec!["all".to_owned()],
        seconds: 1,
        messages_max: 1,
        payload: false,
        headers: false,
    };
    host.start_capture(request).unwrap();
    let mut policies = host.worker(0);
    assert!(policies.bound("all").captured);
    eventually("the end of the capture", || (!policies.bound("all").captured).then_some(()));
}
