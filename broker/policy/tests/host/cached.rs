//! Verdicts that hold for more than one message.

use crate::guests::{Guest, built};
use crate::{document, host, message, outcome, put_anew, route};
use serde_json::json;
use std::sync::Arc;
use waspmq_core::SessionId;
use waspmq_core::address::Name;
use waspmq_core::policy::{Message, Outcome, QueueMembers};
use waspmq_core::registry::Loads;
use waspmq_policy::{Host, WorkerPolicies};

fn caching(cache: &str) -> Arc<Host> {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    put(&host, cache);
    host
}

fn put(host: &Host, cache: &str) {
    let config = json!({ "config": { "routing": { "cache": cache } } });
    put_anew(host, "p", document("decide", &["topic/>"], config)).unwrap();
}

/// Which call of its instance decided a message.
fn call(policies: &mut WorkerPolicies, to: &str, session: Option<u32>) -> String {
    let session = session.map(|count| SessionId::new(1, 0, count));
    let Outcome::Decided(verdict) = route(policies, &Message { session, ..message(to, &[]) }) else {
        panic!()
    };
    verdict.set_headers[0].1.clone()
}

#[test]
fn a_verdict_for_an_address_is_asked_for_once() {
    let host = caching("address");
    let mut policies = host.worker(0);
    let mut decided = |to, session| call(&mut policies, to, session);
    let calls = [("topic/a", Some(1)), ("topic/a", Some(2)), ("topic/a", None), ("topic/b", Some(1))];
    assert_eq!(calls.map(|(to, session)| decided(to, session)), ["1", "1", "1", "2"]);
    assert_eq!((outcome(&host, "p", "ok"), outcome(&host, "p", "cached")), (2, 2));
    let state = host.policy("p").unwrap();
    assert_eq!((state.calls, state.latency.timed_calls), (2, 2), "what is cached is no call");
}

#[test]
fn a_verdict_for_a_connection_is_asked_for_once_by_each() {
    let host = caching("connection");
    let mut policies = host.worker(0);
    let calls = [
        ("topic/a", Some(1)),
        ("topic/a", Some(1)),
        ("topic/a", Some(2)),
        ("topic/a", None),
        ("topic/a", None),
    ];
    assert_eq!(calls.map(|(to, session)| call(&mut policies, to, session)), ["1", "1", "2", "3", "4"]);
}

#[test]
fn without_a_promise_every_message_is_decided() {
    let host = caching("never");
    let mut policies = host.worker(0);
    assert_eq!([1, 2, 3].map(|_| call(&mut policies, "topic/a", Some(1))), ["1", "2", "3"]);
    assert_eq!(outcome(&host, "p", "cached"), 0);
}

#[test]
fn another_generation_decides_anew() {
    let host = caching("address");
    let mut policies = host.worker(0);
    assert_eq!([1, 2].map(|_| call(&mut policies, "topic/a", Some(1))), ["1", "1"]);
    put(&host, "address");
    assert_eq!([1, 2].map(|_| call(&mut policies, "topic/a", Some(1))), ["1", "1"]);
    assert_eq!((outcome(&host, "p", "ok"), outcome(&host, "p", "cached")), (2, 2));
}

#[test]
fn an_instance_that_is_replaced_is_a_reason_to_ask_again_and_a_bad_verdict_is_none() {
    let host = caching("address");
    for (name, component) in
        [("bad", Guest::answering(2, &[(8, 512), (12, 0)], "")), ("trap", Guest::routing("unreachable"))]
    {
        host.upload(name, &component, "test").unwrap();
        let first = json!({ "order": 1 });
        host.put_policy(name, document(name, &[&format!("topic/{name}")], first), "test").unwrap();
    }
    let mut policies = host.worker(0);
    let mut decided = |to| call(&mut policies, to, Some(1));
    assert_eq!(["topic/a", "topic/bad", "topic/a"].map(&mut decided), ["1", "2", "1"]);
    assert_eq!(outcome(&host, "bad", "bad_verdict"), 1);
    assert_eq!(["topic/trap", "topic/a"].map(&mut decided), ["3", "4"]);
    assert_eq!(outcome(&host, "trap", "trap"), 1);
}

#[test]
fn members_that_changed_are_a_reason_to_ask_again() {
    let host = caching("address");
    let mut policies = host.worker(0);
    call(&mut policies, "topic/a", Some(1));
    host.queue_changed(QueueMembers {
        pattern: "topic/a".to_owned(),
        queue: Name::parse("w").unwrap(),
        version: 1,
        members: vec!["bob/phone/1".to_owned()],
        loads: Loads::default(),
    });
    crate::eventually("it is asked again", || {
        call(&mut policies, "topic/a", Some(1));
        (outcome(&host, "p", "ok") == 2).then_some(())
    });
}
