//! What a worker can say afterwards about a message: each way in which a policy is asked leaves the right trace.

use crate::guests::{Guest, built};
use crate::versions::{host_of, version};
use crate::{document, host, message, sized_host};
use serde_json::{Value, json};
use waspmq_core::address::{Address, Name};
use waspmq_core::delivery::{AckPlan, Cause, Recipient};
use waspmq_core::policy::{Acking, Admission, Failure, Message, Overflowed, Overflowing, Policies, Routing};
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{Kind, MessageId};
use waspmq_policy::{Explanation, Host, WorkerPolicies};

const ALL: [&str; 1] = ["topic/>"];

fn id(count: u64) -> MessageId {
    MessageId::new(1, 1, 0, count)
}

/// A whole pass, as a publish makes it, of a message that is taken in under the id with this count.
fn publish(policies: &mut WorkerPolicies, count: u64, message: &Message<'_>) -> Option<Explanation> {
    let bound = policies.bound(message.to);
    if bound.admission {
        policies.admit(message);
    }
    if bound.routing {
        policies.route(message);
    }
    if bound.acking {
        policies.plan(message, &Settings::of_kind(Kind::Topic));
    }
    let trace = policies.trace();
    policies.name(trace, id(count));
    explanation(policies, count)
}

fn explanation(policies: &WorkerPolicies, count: u64) -> Option<Explanation> {
    policies.explain(id(count)).found.map(|recorded| recorded.explain())
}

fn put(host: &Host, name: &str, plugin: &str, more: Value) {
    host.put_policy(name, document(plugin, &ALL, more), "test").unwrap();
}

/// Of each decision: policy, revision, version, and what it said or why it failed and what served instead.
fn decided(explanation: &Explanation) -> Vec<String> {
    let line = |of: &waspmq_policy::Decided| {
        let shadow = if of.shadow { " shadow" } else { "" };
        let said = match (&of.failed, &of.decision) {
            (Some(failed), None) => format!("{} -> {}", failed.outcome, failed.instead.unwrap_or("-")),
            (None, Some(decision)) => match decision.pointer("/route/drop").and_then(Value::as_str) {
                Some(mark) => mark.to_owned(),
                None => decision.get("route").unwrap_or(decision).to_string(),
            },
            other => panic!("{other:?}"),
        };
        format!("{} {} {}{shadow}: {said}", of.policy, of.plugin, of.version)
    };
    explanation.decisions.iter().map(line).collect()
}

fn outcome(explanation: &Explanation, subject: &str) -> (Option<String>, String) {
    let ended = &explanation.outcome[subject];
    (ended.by.clone(), ended.decision.as_str().map_or_else(|| ended.decision.to_string(), str::to_owned))
}

fn keyed<'a>(message: Message<'a>, key: &'a str) -> Message<'a> {
    Message { key, ..message }
}

#[test]
fn policies_are_listed_in_the_order_of_asking() {
    let host = host(1);
    host.upload("pass", &Guest::default().build(), "test").unwrap();
    host.upload("p", &version("1", 0), "test").unwrap();
    put(&host, "late", "p", json!({ "order": 2 }));
    put(&host, "early", "pass", json!({ "order": 1 }));
    let mut policies = host.worker(0);
    let explanation = publish(&mut policies, 1, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&explanation), ["early pass@1 active: \"continue\"", "late p@1 active: 1"]);
    assert_eq!((explanation.address.as_str(), explanation.left_out), ("topic/a", 0));
    let first = &explanation.decisions[0];
    assert_eq!((first.hook, first.question, first.generation, first.cached), ("routing", "route", 2, false));
    assert_eq!(first.decision, Some(json!({ "route": "continue", "set_headers": {} })));
    assert!(explanation.decisions.iter().all(|of| of.ns.is_some_and(|ns| ns > 0 && ns <= 2_000_000)));
    let by_late =
        (Some("late".to_owned()), json!({ "route": { "drop": "1" }, "set_headers": {} }).to_string());
    assert_eq!(outcome(&explanation, "routing"), by_late);
    assert_eq!(explanation.outcome.len(), 1);
}

#[test]
fn the_outcome_has_the_headers_of_every_policy() {
    let host = host(1);
    let put = |name: &str, order: i32, then: Value| {
        let document =
            json!({ "hook": "routing", "match": ALL, "order": order, "rules": [{ "then": then }] });
        host.put_policy(name, serde_json::from_value(document).unwrap(), "test").unwrap();
    };
    put("a", 1, json!({ "set_headers": { "a": "1", "x": "a" } }));
    put("b", 2, json!({ "set_headers": { "b": "2", "x": "b" } }));
    let mut policies = host.worker(0);
    let mut routed = |count| {
        let explanation = publish(&mut policies, count, &message("topic/a", &[])).unwrap();
        let ended = explanation.outcome["routing"].clone();
        (ended.by, ended.decision)
    };
    let nobody = json!({ "route": "no policy decided: as addressed", "set_headers": { "a": "1", "b": "2", "x": "b" } });
    assert_eq!(routed(1), (None, nobody));
    put("c", 3, json!({ "route": "deliver", "set_headers": { "c": "3" } }));
    let decided = json!({ "route": "deliver", "set_headers": { "a": "1", "b": "2", "c": "3", "x": "b" } });
    assert_eq!(routed(2), (Some("c".to_owned()), decided));
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    let bad = |on_failure: &str| document("bad", &ALL, json!({ "order": 3, "on_failure": on_failure }));
    host.put_policy("c", bad("builtin"), "test").unwrap();
    let built_in =
        json!({ "route": "policy c failed: as addressed", "set_headers": { "a": "1", "b": "2", "x": "b" } });
    assert_eq!(routed(3), (None, built_in));
    host.put_policy("c", bad("closed"), "test").unwrap();
    assert_eq!(routed(4), (None, json!("policy c failed (trap): refused")));
}

#[test]
fn nothing_is_recorded_without_a_policy_and_a_swap_is_seen() {
    let host = host_of(1, &[0, 0]);
    let mut policies = host.worker(0);
    assert_eq!(publish(&mut policies, 1, &message("topic/a", &[])), None);
    put(&host, "p", "p@1", json!({}));
    let before = publish(&mut policies, 2, &message("topic/a", &[])).unwrap();
    put(&host, "p", "p@2", json!({}));
    let after = publish(&mut policies, 3, &message("topic/a", &[])).unwrap();
    let user = Message { kind: Kind::User, ..message("user/a", &[]) };
    assert_eq!(publish(&mut policies, 4, &user), None, "not bound");
    assert_eq!(
        (decided(&before), decided(&after)),
        (vec!["p p@1 active: 1".into()], vec!["p p@2 active: 2".into()])
    );
    assert_eq!((before.decisions[0].generation, after.decisions[0].generation), (1, 2));
    assert_eq!(explanation(&policies, 2), Some(before), "a swap changes nothing of what was");
    let explained = policies.explain(id(9));
    assert_eq!((explained.remembered, explained.oldest), (2, Some(id(2))));
}

#[test]
fn cached_verdicts_are_no_calls() {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    put(&host, "p", "decide", json!({ "config": { "routing": { "cache": "address" } } }));
    let mut policies = host.worker(0);
    let [first, second] = [1, 2]
        .map(|count| publish(&mut policies, count, &message("topic/a", &[])).unwrap().decisions.remove(0));
    assert!(!first.cached && first.ns.is_some() && second.cached);
    assert_eq!((second.ns, &second.decision, second.plugin.as_str()), (None, &first.decision, "decide@1"));
    assert!(first.decision.unwrap()["set_headers"].as_object().is_some_and(|headers| !headers.is_empty()));
}

#[test]
fn failures_say_what_served_instead() {
    let configured = "no policy decided: as addressed";
    for (on_failure, instead, ended) in [
        ("open", "next", configured),
        ("builtin", "built_in", "policy q failed: as addressed"),
        ("closed", "refused", "policy q failed (trap): refused"),
    ] {
        let host = host(1);
        host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
        put(&host, "q", "bad", json!({ "on_failure": on_failure }));
        let mut policies = host.worker(0);
        let explanation = publish(&mut policies, 1, &message("topic/a", &[])).unwrap();
        assert_eq!(decided(&explanation), [format!("q bad@1 active: trap -> {instead}")]);
        assert_eq!(outcome(&explanation, "routing"), (None, ended.to_owned()), "{on_failure}");
        let failed = &explanation.decisions[0];
        assert!(failed.ns.is_some_and(|ns| ns > 0));
        (0..20).for_each(|_| drop(publish(&mut policies, 2, &message("topic/a", &[]))));
        let last = publish(&mut policies, 3, &message("topic/a", &[])).unwrap().decisions.remove(0);
        assert!(matches!(last.failed.unwrap().outcome, "breaker_open" | "unavailable"), "nobody was called");
        assert_eq!(last.ns, None);
    }
}

#[test]
fn an_ack_policy_that_fails_closed_leaves_what_is_configured() {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    let bad = json!({ "hook": "ack", "on_failure": "closed", "config": { "ack": { "level": "delivered", "attempts": 0 } } });
    put(&host, "q", "decide", bad);
    let explanation = publish(&mut host.worker(0), 1, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&explanation), ["q decide@1 active: bad_verdict -> configured"]);
    let ended = "policy q failed (bad_verdict): configured";
    assert_eq!(outcome(&explanation, "ack"), (None, ended.to_owned()));
}

#[test]
fn the_version_before_is_listed_behind_the_one_that_failed() {
    let host = host_of(1, &[0, 0]);
    put(&host, "p", "p@1", json!({}));
    put(&host, "p", "p@2", json!({ "on_failure": "previous" }));
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    let mut policies = host.worker(0);
    let bad = "bad_verdict";
    let both = publish(&mut policies, 1, &keyed(message("topic/a", &[]), "k")).unwrap();
    let expected = [format!("p p@2 active: {bad} -> previous"), format!("p p@1 previous: {bad} -> next")];
    assert_eq!(decided(&both), expected);
    assert_eq!(outcome(&both, "routing"), (None, "no policy decided: as addressed".to_owned()));
    put(&host, "p", "p@1", json!({}));
    put(&host, "p", "bad", json!({ "on_failure": "previous" }));
    let served = publish(&mut policies, 2, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&served), ["p bad@1 active: trap -> previous", "p p@1 previous: 1"]);
    assert_eq!(outcome(&served, "routing").0, Some("p".to_owned()));
}

#[test]
fn canaries_and_shadows_are_marked() {
    let host = host_of(1, &[0, 0]);
    put(&host, "p", "p@1", json!({}));
    put(&host, "p", "p@2", json!({ "mode": "shadow" }));
    let mut policies = host.worker(0);
    let shadowed = publish(&mut policies, 1, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&shadowed), ["p p@1 active: 1", "p p@2 candidate shadow: 2"]);
    assert_eq!(
        outcome(&shadowed, "routing").1,
        json!({ "route": { "drop": "1" }, "set_headers": {} }).to_string()
    );
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    put(&host, "p", "bad", json!({ "mode": "shadow" }));
    let failed = publish(&mut policies, 2, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&failed), ["p p@1 active: 1", "p bad@1 candidate shadow: trap -> -"]);
    put(&host, "p", "p@2", json!({ "canary_percent": 50 }));
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..50 {
        let from = format!("user-{n}");
        let explanation = publish(&mut policies, 3 + n, &Message { from: &from, ..message("topic/a", &[]) });
        seen.extend(decided(&explanation.unwrap()));
    }
    assert_eq!(Vec::from_iter(seen), ["p p@1 active: 1", "p p@2 candidate: 2"]);
    host.promote("p", None, "test").unwrap();
    let promoted = publish(&mut policies, 100, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&promoted), ["p p@2 active: 2"], "the same instance in another role");
}

#[test]
fn a_shadow_alone_decides_nothing() {
    let host = host_of(1, &[0]);
    put(&host, "p", "p", json!({ "mode": "shadow" }));
    let mut policies = host.worker(0);
    let explanation = publish(&mut policies, 1, &message("topic/a", &[])).unwrap();
    assert_eq!(decided(&explanation), ["p p@1 candidate shadow: 1"]);
    assert_eq!(outcome(&explanation, "routing"), (None, "no policy decided: as addressed".to_owned()));
}

fn fail(policies: &mut WorkerPolicies, first: u64, messages: u16) {
    let (to, plan) = (Address::parse("topic/a").unwrap(), AckPlan::default());
    policies.failed(&Failure {
        to: &to,
        from: None,
        id: id(first),
        messages,
        recipient: &Recipient::User(Name::parse("bob").unwrap()),
        cause: Cause::Nack,
        attempt: 3,
        waited_ms: 10,
        retry_ms: None,
        plan: &plan,
        random: 7,
    });
}

#[test]
fn every_hook_of_a_message_is_there_and_its_failed_attempts() {
    let host = sized_host(1, 4);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    let bucket = json!({ "amount": 1, "per_second": 1_000, "burst": 1_000, "retry_ms": 50 });
    let plan = json!({ "level": "delivered", "attempts": 4, "on_nack": "give-up" });
    put(&host, "in", "decide", json!({ "hook": "admission", "config": { "admission": bucket } }));
    put(&host, "acks", "decide", json!({ "hook": "ack", "config": { "ack": plan } }));
    put(&host, "full", "decide", json!({ "hook": "overflow", "config": { "overflow": "close" } }));
    let mut policies = host.worker(0);
    for count in 1..=3 {
        publish(&mut policies, count, &message("topic/a", &[])).unwrap();
    }
    fail(&mut policies, 2, 2);
    fail(&mut policies, 7, 1);
    let of = |policies: &WorkerPolicies, count| {
        let explanation = explanation(policies, count).unwrap();
        explanation.decisions.iter().map(|of| format!("{} {}", of.policy, of.question)).collect::<Vec<_>>()
    };
    assert_eq!(of(&policies, 1), ["in admit", "acks plan"]);
    assert_eq!([2, 3].map(|count| of(&policies, count).join(", ")), ["in admit, acks plan, acks failed"; 2]);
    let two = explanation(&policies, 2).unwrap();
    let failed = two.decisions.last().unwrap();
    assert_eq!((failed.hook, failed.cause, failed.attempt), ("ack", Some("nack"), Some(3)));
    assert_eq!(failed.decision, Some(json!("give-up")));
    assert_eq!(two.outcome["failed"].by.as_deref(), Some("acks"));
    assert_eq!(two.outcome["ack"].decision["attempts"], json!(4));
    assert_eq!(outcome(&two, "admission"), (Some("in".to_owned()), "accept".to_owned()));
    // A full queue is about an address, not about a message.
    let to = Address::parse("topic/a").unwrap();
    policies.bound("topic/a");
    let full = Overflowed {
        to: &to,
        recipient: "bob//1",
        priority: 3,
        size_bytes: 1,
        queued_bytes: 1,
        queued_bytes_max: 1,
        configured: Overflow::DropNewest,
    };
    assert!(policies.has_overflow("topic/a"));
    assert_eq!(policies.overflow(&full), Overflow::Close);
    let trace = policies.trace();
    policies.name(trace, id(4));
    let of_pass = explanation(&policies, 4).unwrap();
    assert_eq!((of_pass.decisions.len(), of_pass.outcome.len()), (0, 0));
}
