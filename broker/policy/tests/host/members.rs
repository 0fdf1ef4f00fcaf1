//! Queue members reach the instances of all workers, through spares.

use crate::guests::{Guest, built};
use crate::{decide, document, eventually, host, outcome, serving};
use serde_json::json;
use waspmq_core::address::Name;
use waspmq_core::policy::{Policies, QueueMembers, Route};
use waspmq_core::registry::Loads;

fn members(queue: &str, version: u64, count: usize) -> QueueMembers {
    QueueMembers {
        pattern: "topic/jobs.>".to_owned(),
        queue: Name::parse(queue).unwrap(),
        version,
        members: (0..count).map(|i| format!("worker{i}/box/{i}")).collect(),
        loads: Loads::default(),
    }
}

fn picked(routing: &mut impl Policies) -> Option<(u64, u32)> {
    match decide(routing, "topic/jobs.1").route {
        Route::Pick { version, index } => Some((version, index)),
        Route::Continue => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_shipped_consistent_hash_follows_its_queue() {
    let host = host(2);
    host.upload("hash", &built("route-consistent-hash"), "test").unwrap();
    host.queue_changed(members("workers", 5, 3));
    let config = json!({ "config": { "queue": "workers" } });
    host.put_policy("hash", document("hash", &["topic/jobs.>"], config), "test").unwrap();
    let mut workers = [host.worker(0), host.worker(1)];
    for routing in &mut workers {
        let (version, index) = picked(routing).expect("instances know the queues before they serve");
        assert!(version == 5 && index < 3);
    }
    // Worker 1 says nothing meanwhile; it hears of everything at its next calls.
    for version in 6..10 {
        host.queue_changed(members("workers", version, 4));
        host.queue_changed(members("others", version + 100, 4));
        eventually("the new members", || picked(&mut workers[0]).filter(|(seen, _)| *seen == version));
    }
    let same = picked(&mut workers[0]);
    eventually("the same on another worker", || (picked(&mut workers[1]) == same).then_some(()));
    host.queue_changed(members("workers", 300, 0));
    eventually("the queue is gone", || picked(&mut workers[0]).is_none().then_some(()));
    eventually("the queue is gone", || picked(&mut workers[1]).is_none().then_some(()));
    let state = host.policy("hash").unwrap();
    assert_eq!(state.instances.replaced, 0, "instances are exchanged, not made");
    assert_eq!(state.calls, outcome(&host, "hash", "ok"));
    assert_eq!(outcome(&host, "hash", "unavailable"), 0);
}

#[test]
fn a_replacement_knows_the_members_too() {
    let host = host(1);
    host.upload("stamp", &built("route-consistent-hash"), "test").unwrap();
    let config = json!({ "config": { "queue": "workers" } });
    host.put_policy("hash", document("stamp", &["topic/jobs.>"], config.clone()), "test").unwrap();
    let mut routing = host.worker(0);
    assert_eq!(picked(&mut routing), None);
    host.queue_changed(members("workers", 1, 2));
    host.put_policy("hash", document("stamp", &["topic/jobs.*"], config), "test").unwrap();
    assert_eq!(
        picked(&mut routing).map(|(version, _)| version),
        Some(1),
        "a new generation knows all queues"
    );
}

#[test]
fn rules_need_not_hear_of_members() {
    let host = host(2);
    host.upload("hash", &built("route-consistent-hash"), "test").unwrap();
    let config = json!({ "config": { "queue": "workers" } });
    host.put_policy("hash", document("hash", &["topic/jobs.>"], config), "test").unwrap();
    let rules = json!({"hook": "routing", "match": ["topic/a"], "rules": [{"then": "deliver"}]});
    host.put_policy("rules", serde_json::from_value(rules).unwrap(), "test").unwrap();
    let (mut ruled, mut routing) = (host.worker(0), host.worker(1));
    assert_eq!(decide(&mut ruled, "topic/a").route, Route::Deliver);
    for version in 1..4 {
        host.queue_changed(members("workers", version, 2));
        eventually("a plugin hears of it", || picked(&mut routing).filter(|(seen, _)| *seen == version));
        assert_eq!(decide(&mut ruled, "topic/a").route, Route::Deliver);
    }
    let asked = (outcome(&host, "rules", "ok"), outcome(&host, "rules", "cached"));
    assert_eq!(asked, (1, 3), "what they decided is kept");
    let instances = host.policy("rules").unwrap().instances;
    assert_eq!((instances.serving, instances.spare, instances.replaced), (2, 2, 0));
}

#[test]
fn a_guest_that_fails_in_members_changed_does_not_take_the_worker_down() {
    let guest = Guest { members_changed: "(loop $l (br $l))", ..Guest::default() };
    let host = serving(&guest.build(), json!({}));
    let mut routing = host.worker(0);
    host.queue_changed(members("workers", 1, 2));
    eventually("the failure", || {
        decide(&mut routing, "topic/a");
        (outcome(&host, "p", "deadline") > 0).then_some(())
    });
    decide(&mut routing, "topic/a");
    assert_eq!(outcome(&host, "p", "unavailable"), 0, "the worker keeps the instance that works");
}
