//! The policies that ship with the broker, as components: all take the fast lane, bad configurations are refused by the
//! key, and what depends on the broker (members, their loads, values) does what each README says.

use crate::guests::built;
use crate::hooks::fail;
use crate::lanes::lanes_of;
use crate::{document, host, message, put_anew, route};
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::address::{Kind, Name};
use waspmq_core::delivery::{AckPlan, Cause, Exhausted, Quorum};
use waspmq_core::level::Level;
use waspmq_core::policy::{
    Acking, Decision, Failure, Message, Outcome, Policies, QueueMembers, Route, Verdict,
};
use waspmq_core::registry::Loads;
use waspmq_core::settings::Settings;
use waspmq_policy::{Host, WorkerPolicies};

const MEMBERS: [&str; 4] = ["ann/big-1/s1", "bob/big-2/s2", "cat/small-1/s3", "dan/small-2/s4"];

/// Each with a configuration that it takes.
fn shipped() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("ack-tiers", "ack", json!({"tiers": [{"match": ["topic/paid.>"], "attempts": 3}]})),
        (
            "filter-headers",
            "routing",
            json!({"rules": [{"header": "tenant", "present": false, "drop": "no tenant"}]}),
        ),
        ("route-consistent-hash", "routing", json!({"queue": "w"})),
        ("route-least-loaded", "routing", json!({"queue": "w"})),
        ("route-mirror", "routing", json!({"to": "topic/audit"})),
        ("route-priority", "routing", json!({"queue": "w", "classes": [{"priority_min": 7, "first": 1}]})),
        ("route-region-canary", "routing", json!({"percent": 5, "to": "topic/canary.{name}"})),
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
    let state = put_anew(host, plugin, document(plugin, &["topic/>", "user/*"], more));
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
        ("ack-tiers", json!({"tiers": [{"attempts": 0}]}), "tiers[0].attempts: a number from 1 to 1000"),
        (
            "filter-headers",
            json!({"rules": [{"header": "a", "present": true}]}),
            "rules[0]: a rule does something",
        ),
        (
            "route-priority",
            json!({"classes": [{"priority_min": 7, "first": 1}]}),
            "classes[0].first: members of",
        ),
        ("route-region-canary", json!({"percent": 5}), "to: where the canary is"),
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

#[test]
fn classes_have_members_of_their_own_and_the_rest_serves_for_them() {
    let config = json!({"queue": "w", "classes": [
        {"senders": ["vip-*"], "header": {"tier": ["gold"]}, "first": 1}, {"priority_min": 7, "members": ["small-*"]}]});
    let host = serving("route-priority", &config);
    host.queue_changed(members(1, &MEMBERS, &[9, 0, 5, 4]));
    put(&host, "route-priority", &config).unwrap();
    let mut policies = host.worker(0);
    let gold = [("tier".to_owned(), "gold".to_owned())];
    let of = |from: &'static str, priority| (0..20).map(move |ms| Message { priority, ..job(from, "", ms) });
    assert_eq!(picks(&mut policies, of("vip-1", 0)), [20, 0, 0, 0]);
    assert_eq!(
        picks(&mut policies, of("alice", 0).map(|job| Message { headers: &gold, ..job })),
        [20, 0, 0, 0]
    );
    assert_eq!(picks(&mut policies, of("alice", 7)), [0, 0, 0, 20], "the one with less in flight");
    assert_eq!(picks(&mut policies, of("alice", 0)), [0, 20, 0, 0]);
    host.queue_changed(members(2, &MEMBERS[..2], &[0, 7]));
    put(&host, "route-priority", &config).unwrap();
    assert_eq!(picks(&mut policies, of("alice", 7)), [0, 20, 0, 0], "nobody small is there");
}

#[test]
fn a_canary_is_an_address_or_members() {
    let header = |region: &str| [("region".to_owned(), region.to_owned())];
    let (eu, us) = (header("eu-1"), header("us"));
    let config = json!({"regions": ["eu-*"], "queue": "w", "members": ["small-*"]});
    let host = serving("route-region-canary", &config);
    host.queue_changed(members(1, &MEMBERS, &[0; 4]));
    put(&host, "route-region-canary", &config).unwrap();
    let mut policies = host.worker(0);
    let of = |headers| (0..20).map(move |ms| Message { headers, ..job("alice", "", ms) });
    assert_eq!(picks(&mut policies, of(&eu)), [0, 0, 10, 10]);
    assert_eq!(picks(&mut policies, of(&us)), [10, 10, 0, 0]);
    put(&host, "route-region-canary", &json!({"percent": 50, "to": "topic/canary.{name}"})).unwrap();
    let senders: Vec<String> = (0..100).map(|sender| format!("user{sender}")).collect();
    let canaries = |policies: &mut WorkerPolicies| -> Vec<bool> {
        let is_in = |sender| match decided(policies, &Message { session: None, ..job(sender, "", 1) }).route {
            Route::Redirect(to) => to.as_str() == "topic/canary.jobs.x",
            Route::Continue => false,
            other => panic!("{other:?}"),
        };
        senders.iter().map(String::as_str).map(is_in).collect()
    };
    let first = canaries(&mut policies);
    assert!((35..65).contains(&first.iter().filter(|is_in| **is_in).count()));
    assert_eq!(canaries(&mut host.worker(1)), first);
    let before = crate::outcome(&host, "route-region-canary", "cached");
    (0..3).for_each(|_| drop(decided(&mut policies, &job("alice", "", 1))));
    assert_eq!(
        crate::outcome(&host, "route-region-canary", "cached"),
        before + 2,
        "it holds for the connection"
    );
}

#[test]
fn headers_are_filtered() {
    let config = json!({"rules": [
        {"header": "tenant", "present": false, "drop": "no tenant"},
        {"header": "amount", "min": 1000, "set": {"review": "yes"}},
        {"header": "review", "equals": ["yes"], "to": "topic/review.{name}"}]});
    let host = serving("filter-headers", &config);
    let mut policies = host.worker(0);
    let mut route = |list: &[(&str, &str)]| {
        let headers: Vec<_> = list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        decided(&mut policies, &Message { headers: &headers, ..job("alice", "", 1) })
    };
    assert_eq!(route(&[]).route, Route::Drop("no tenant".to_owned()));
    assert_eq!(route(&[("tenant", "a"), ("amount", "999.9")]), Verdict::default());
    let large = route(&[("tenant", "a"), ("amount", "1e3")]);
    assert!(matches!(&large.route, Route::Redirect(to) if to.as_str() == "topic/review.jobs.x"), "{large:?}");
    assert_eq!(large.set_headers, [("review".to_owned(), "yes".to_owned())]);
}

#[test]
fn tiers_plan_and_decide_about_failures_on_both_lanes() {
    let config = json!({"tiers": [
        {"priority_min": 7, "level": "delivered", "quorum": "all", "attempts": 6, "waits_ms": [100, 1_000],
         "give_up_on": ["queue_full"], "exhausted": "drop"},
        {"attempts": 3, "waits_ms": [7], "offline_ms": 60_000}]});
    let settings = Settings::of_kind(Kind::Topic);
    for host in lanes_of("ack", &built("ack-tiers"), &config) {
        let mut policies = host.worker(0);
        let mut plan = |priority| {
            policies.bound("topic/jobs.x");
            policies.plan(&Message { priority, ..job("alice", "", 1) }, &settings).unwrap()
        };
        let urgent = plan(7);
        assert_eq!((urgent.level, urgent.plan.quorum), (Level::Delivered, Quorum::All));
        assert_eq!((urgent.plan.attempts, urgent.plan.exhausted), (6, Exhausted::Drop));
        assert_eq!((urgent.plan.backoff.initial_ms, urgent.plan.backoff.max_ms), (100, 1_000));
        let other = plan(6);
        assert_eq!((other.level, other.plan.attempts), (settings.level, 3));
        let mut failed = |cause, attempt, plan: &AckPlan| {
            fail(cause, |failure| {
                policies.failed(&Failure { attempt, plan, waited_ms: 20_000, retry_ms: None, ..*failure })
            })
        };
        assert_eq!(failed(Cause::Timeout, 1, &urgent.plan), Decision::Retry { after_ms: 100 });
        assert_eq!(failed(Cause::Timeout, 4, &urgent.plan), Decision::Retry { after_ms: 1_000 });
        assert_eq!(failed(Cause::Nack, 6, &urgent.plan), Decision::GiveUp);
        assert_eq!(failed(Cause::QueueFull, 1, &urgent.plan), Decision::GiveUp);
        assert_eq!(failed(Cause::Nack, 2, &other.plan), Decision::Retry { after_ms: 7 });
        assert_eq!(failed(Cause::Offline, 0, &other.plan), Decision::Wait { at_most_ms: 40_000 });
        assert_eq!(crate::outcome(&host, "p", "ok"), 8);
    }
}
