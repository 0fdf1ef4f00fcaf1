//! The policies that ship with the broker, as components: all take the fast lane, bad configurations are refused by the
//! key, and what depends on the broker (members, their loads, values) does what each README says.

use crate::guests::built;
use crate::{document, host, message, route};
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::address::{Kind, Name};
use waspmq_core::policy::{Message, Outcome, QueueMembers, Route, Verdict};
use waspmq_core::registry::Loads;
use waspmq_policy::{Host, WorkerPolicies};

const MEMBERS: [&str; 4] = ["ann/big-1/s1", "bob/big-2/s2", "cat/small-1/s3", "dan/small-2/s4"];

/// Each with a configuration that it takes.
fn shipped() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("route-consistent-hash", "routing", json!({"queue": "w"})),
        ("route-least-loaded", "routing", json!({"queue": "w"})),
        ("route-mirror", "routing", json!({"to": "topic/audit"})),
        ("route-sticky-user", "routing", json!({"queue": "w", "header": "user"})),
        ("route-weighted", "routing", json!({"queue": "w", "weights": {"big-*": 3, "small-*": 1}})),
    ]
}

/// A host with one shipped policy for all topics and users, under its own name.
fn serving(plugin: &str, config: &Value) -> Arc<Host> {
    let host = host(2);
    host.upload(plugin, &built(plugin), "test").unwrap();
    put(&host, plugin, config).unwrap();
    host
}

/// The error is what the operator is told.
fn put(host: &Host, plugin: &str, config: &Value) -> Result<(), String> {
    let hook = shipped().iter().find(|(name, ..)| *name == plugin).unwrap().1;
    let more = json!({"hook": hook, "config": config, "limits": {"deadline_ms": 200, "cpu_share": 1.0}});
    let state = host.put_policy(plugin, document(plugin, &["topic/>", "user/*"], more), "test");
    state.map(|state| assert_eq!(state.lane, "core")).map_err(|error| error.to_string())
}

/// The queue `w` of `topic/jobs.>`.
fn members(version: u64, names: &[&str], loads: &[u32]) -> QueueMembers {
    QueueMembers {
        pattern: "topic/jobs.>".to_owned(),
        queue: Name::parse("w").unwrap(),
        version,
        members: names.iter().map(|&name| name.to_owned()).collect(),
        loads: loads.iter().copied().collect(),
    }
}

fn job<'a>(from: &'a str, key: &'a str, unix_ms: u64) -> Message<'a> {
    Message { from, key, unix_ms, ..message("topic/jobs.x", &[]) }
}

fn decided(policies: &mut WorkerPolicies, message: &Message<'_>) -> Verdict {
    match route(policies, message) {
        Outcome::Decided(verdict) => verdict,
        Outcome::Refused(reason) => panic!("{reason}"),
    }
}

/// The index of the member that is picked.
fn picked(policies: &mut WorkerPolicies, message: &Message<'_>) -> Option<u32> {
    match decided(policies, message).route {
        Route::Pick { index, .. } => Some(index),
        Route::Continue => None,
        other => panic!("{other:?}"),
    }
}

/// How often each of four members is picked for these messages.
fn picks<'a>(policies: &mut WorkerPolicies, messages: impl Iterator<Item = Message<'a>>) -> [u32; 4] {
    let mut counts = [0; 4];
    for message in messages {
        let index = picked(policies, &message).unwrap();
        counts[usize::try_from(index).unwrap()] += 1;
    }
    counts
}

#[test]
fn all_take_the_fast_lane_and_serve_without_members() {
    for (plugin, hook, config) in shipped() {
        let host = host(1);
        let revision = host.upload(plugin, &built(plugin), "test").unwrap();
        assert_eq!((revision.lane, revision.lane_reason), ("core", None), "{plugin}");
        put(&host, plugin, &config).unwrap();
        if hook == "routing" {
            let outcome = route(&mut host.worker(0), &job("alice", "", 1));
            assert!(matches!(outcome, Outcome::Decided(_)), "{plugin}: {outcome:?}");
            assert_eq!(crate::outcome(&host, plugin, "ok"), 1, "{plugin}");
        }
    }
}

#[test]
fn bad_configurations_are_refused_by_the_key() {
    let (long, many) = ("x".repeat(300), vec!["topic/a"; 65]);
    for (plugin, config, expected) in [
        ("route-consistent-hash", json!({"queue": ""}), "queue"),
        ("route-least-loaded", json!({"queue": long}), "queue: a text of 1 to 256 bytes"),
        ("route-least-loaded", json!({"queue": "w", "keep_keys": "yes"}), "keep_keys: invalid type"),
        ("route-mirror", json!({"to": many}), "to: invalid type"),
        ("route-sticky-user", json!({"queue": "w", "ttl_s": 0}), "ttl_s: a number from 1 to 604800"),
        (
            "route-weighted",
            json!({"queue": "w", "weights": {"a": 1_001}}),
            "weights.a: a number from 0 to 1000",
        ),
        ("route-mirror", json!({"to": "topic/a", "percent": 200}), "percent: a percentage from 0 to 100"),
    ] {
        let host = host(1);
        host.upload(plugin, &built(plugin), "test").unwrap();
        let refused = put(&host, plugin, &config).unwrap_err();
        assert!(refused.contains(expected), "{plugin} {config}: {refused}");
        assert!(host.policy(plugin).is_none(), "nothing is in place");
    }
}

#[test]
fn the_least_loaded_member_is_picked() {
    let host = serving("route-least-loaded", &json!({"queue": "w"}));
    host.queue_changed(members(1, &MEMBERS, &[3, 0, 2, 9]));
    put(&host, "route-least-loaded", &json!({"queue": "w"})).unwrap();
    let mut policies = host.worker(0);
    assert_eq!(picks(&mut policies, (0..40).map(|ms| job("alice", "k", ms))), [0, 40, 0, 0]);
    let of_one_turn = picks(&mut policies, (0..40).map(|_| job("alice", "k", 99)));
    let loads: Vec<u32> = of_one_turn.iter().zip([3, 0, 2, 9]).map(|(given, had)| given + had).collect();
    assert!(loads.iter().all(|load| (13..=14).contains(load)), "those of one turn are counted: {loads:?}");
}

#[test]
fn idle_members_take_turns_on_every_worker() {
    let host = serving("route-least-loaded", &json!({"queue": "w"}));
    host.queue_changed(members(1, &MEMBERS, &[0; 4]));
    put(&host, "route-least-loaded", &json!({"queue": "w"})).unwrap();
    for worker in 0..2 {
        assert_eq!(picks(&mut host.worker(worker), (0..400).map(|ms| job("alice", "", ms))), [100; 4]);
    }
    host.queue_changed(QueueMembers { loads: Loads::default(), ..members(2, &MEMBERS, &[]) });
    put(&host, "route-least-loaded", &json!({"queue": "w"})).unwrap();
    let unknown = picked(&mut host.worker(0), &job("alice", "", 1));
    assert_eq!(unknown, None, "where loads are not known the broker chooses");
    let elsewhere = Message { kind: Kind::User, ..message("user/bob", &[]) };
    assert_eq!(picked(&mut host.worker(0), &elsewhere), None);
}

#[test]
fn weights_are_kept_with_and_without_a_key() {
    let config = json!({"queue": "w", "weights": {"big-*": 3, "small-2": 0}});
    let host = serving("route-weighted", &config);
    host.queue_changed(members(1, &MEMBERS, &[]));
    put(&host, "route-weighted", &config).unwrap();
    let mut policies = host.worker(0);
    assert_eq!(picks(&mut policies, (0..700).map(|ms| job("alice", "", ms))), [300, 300, 100, 0]);
    let keys: Vec<String> = (0..700).map(|key| format!("key{key}")).collect();
    let of_keys = picks(&mut policies, keys.iter().map(|key| job("alice", key, 1)));
    assert_eq!(of_keys[3], 0);
    assert!(of_keys[..2].iter().all(|count| (240..360).contains(count)), "{of_keys:?}");
    assert_eq!(picks(&mut host.worker(1), keys.iter().map(|key| job("bob", key, 2))), of_keys);
}

#[test]
fn a_sender_stays_with_its_member_over_workers_and_swaps() {
    let config = json!({"queue": "w", "header": "user"});
    let host = serving("route-sticky-user", &config);
    host.queue_changed(members(1, &MEMBERS[..2], &[]));
    put(&host, "route-sticky-user", &config).unwrap();
    let mut policies = host.worker(0);
    let senders: Vec<String> = (0..40).map(|sender| format!("user{sender}")).collect();
    let of = |policies: &mut WorkerPolicies| -> Vec<Option<u32>> {
        senders.iter().map(|sender| picked(policies, &job(sender, "", 1))).collect()
    };
    let before = of(&mut policies);
    host.queue_changed(members(2, &MEMBERS, &[]));
    put(&host, "route-sticky-user", &json!({"queue": "w", "header": "user", "ttl_s": 60})).unwrap();
    assert_eq!(of(&mut policies), before, "also in another version of the policy, which knows more members");
    assert_eq!(of(&mut host.worker(1)), before);
    assert_eq!(host.policy("route-sticky-user").unwrap().kept.values, 40);
    let named = |sender: &str| [("user".to_owned(), sender.to_owned())];
    for (sender, member) in senders.iter().zip(&before) {
        let headers = named(sender);
        let by_header = Message { headers: &headers, ..job("somebody", "", 1) };
        assert_eq!(picked(&mut policies, &by_header), *member);
    }
    host.queue_changed(members(3, &MEMBERS[1..], &[]));
    put(&host, "route-sticky-user", &config).unwrap();
    for (is, was) in of(&mut policies).into_iter().zip(before) {
        assert!(
            is == Some(0) || was == Some(0),
            "only those of the member that left move: {was:?} to {is:?}"
        );
    }
}
