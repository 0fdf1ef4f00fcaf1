//! New versions over their budget are taken back without being asked; good ones are left alone.

use crate::versions::{LONG, host_of, mark, revision};
use crate::{audit, document, eventually, now};
use serde_json::{Value, json};
use std::time::Duration;
use waspmq_core::policy::Policies;
use waspmq_policy::{Hook, Host, PolicyState, PromoteError, RollbackError};

const ALL: [&str; 1] = ["topic/>"];

fn put(host: &Host, name: &str, plugin: &str, more: &Value) -> PolicyState {
    let mut fields =
        json!({ "limits": { "deadline_ms": 200, "cpu_share": 1.0 }, "budget": { "window_s": 1 } });
    more.as_object().unwrap().iter().for_each(|(key, value)| fields[key] = value.clone());
    host.put_policy(name, document(plugin, &ALL, fields), "test").unwrap()
}

/// Publishes until the policy was taken back; one message in `one_in` is one that versions fail on.
fn until_taken_back(host: &Host, policies: &mut impl Policies, one_in: usize) -> PolicyState {
    let mut sent = 0;
    eventually("the rollback", || {
        sent += 1;
        let key = if sent % one_in == 0 { "k" } else { "" };
        mark(policies, &format!("user-{}", sent % 100), key);
        host.policy("new").filter(|state| state.last_rollback.is_some())
    })
}

#[test]
fn a_version_that_fails_one_call_in_twenty_is_taken_back() {
    let host = host_of(1, &[0, 0]);
    put(&host, "new", "p@1", &json!({}));
    let mut policies = host.worker(0);
    (0..200).for_each(|_| drop(mark(&mut policies, "a", "")));
    assert!(put(&host, "new", "p@2", &json!({})).on_probation);
    let state = until_taken_back(&host, &mut policies, 18);
    let rollback = state.last_rollback.clone().unwrap();
    assert_eq!((revision(&state), rollback.reason, state.generation), (Some(1), "failures", 3));
    assert_eq!((rollback.from.as_str(), rollback.to.as_str(), rollback.generation), ("p@2", "p@1", 3));
    assert!(rollback.detail.ends_with("calls failed"), "{}", rollback.detail);
    assert_eq!(state.rollbacks[0], ("failures", 1));
    assert_eq!(mark(&mut policies, "a", ""), "1");
    assert_eq!(state.previous.unwrap().revision, Some(2));
    // It is written behind the change, by the thread that makes it.
    eventually("the line of the audit log", || {
        let line = "broker | automatic rollback | p@2 | p@1";
        audit::about("new").iter().any(|written| written == line).then_some(())
    });
    let details = audit::rollback_of("p@2");
    assert_eq!((&*details["changed"], &*details["reason"]), ("plugin", "failures"));
    assert_eq!(details["detail"], rollback.detail);
    // An operator who goes back, too, does not return to it; asked for once more it is tried once more.
    let refused = host.rollback("new", None, "test");
    let taken_back = RollbackError::TakenBack { name: "new".to_owned(), version: "p@2".to_owned() };
    assert_eq!((refused, revision(&host.policy("new").unwrap())), (Err(taken_back), Some(1)));
    let state = put(&host, "new", "p@2", &json!({}));
    assert_eq!((revision(&state), state.on_probation), (Some(2), true));
}

#[test]
fn a_step_is_not_taken_from_a_generation_that_was_not_seen() {
    let host = host_of(1, &[0, 0, 0]);
    put(&host, "new", "p@1", &json!({}));
    put(&host, "new", "p@2", &json!({}));
    let seen = put(&host, "new", "p@3", &json!({ "canary_percent": 99 })).generation;
    let mut policies = host.worker(0);
    let generation = until_taken_back(&host, &mut policies, 2).generation;
    let name = "new".to_owned();
    let refused = host.rollback("new", Some(seen), "test").unwrap_err();
    assert_eq!(refused, RollbackError::OtherGeneration { name, seen, generation });
    assert_eq!(revision(&host.policy("new").unwrap()), Some(2), "only the canary was to be dropped");
    let name = "new".to_owned();
    let refused = host.promote("new", Some(seen), "test").unwrap_err();
    assert_eq!(refused, PromoteError::OtherGeneration { name, seen, generation });
    assert_eq!(revision(&host.rollback("new", Some(generation), "test").unwrap()), Some(1));
}

#[test]
fn a_canary_that_takes_ten_times_as_long_is_dropped() {
    let host = host_of(1, &[0, LONG]);
    put(&host, "new", "p@1", &json!({}));
    // A window in which a busy machine finds the time for as many slow calls as are needed.
    put(&host, "new", "p@2", &json!({ "canary_percent": 50, "budget": { "window_s": 10 } }));
    let mut policies = host.worker(0);
    let state = until_taken_back(&host, &mut policies, usize::MAX);
    let rollback = state.last_rollback.clone().unwrap();
    assert_eq!((rollback.reason, rollback.from.as_str()), ("latency", "p@2 (canary 50 %)"));
    assert_eq!((revision(&state), state.candidate), (Some(1), None));
    assert!((0..100).all(|n| mark(&mut policies, &format!("user-{n}"), "") == "1"));
}

#[test]
fn a_version_that_never_answers_is_taken_back_though_its_breaker_is_open() {
    let host = host_of(1, &[0]);
    host.upload("bad", &crate::guests::Guest::routing("unreachable"), "test").unwrap();
    put(&host, "new", "p@1", &json!({}));
    put(&host, "new", "bad", &json!({ "on_failure": "previous" }));
    let mut policies = host.worker(0);
    let state = until_taken_back(&host, &mut policies, usize::MAX);
    assert_eq!((revision(&state), state.last_rollback.unwrap().reason), (Some(1), "failures"));
}

#[test]
fn a_good_version_is_left_alone_and_its_probation_ends() {
    let host = host_of(1, &[0, 0]);
    put(&host, "new", "p@1", &json!({}));
    put(&host, "new", "p@2", &json!({ "budget": { "window_s": 1, "calls_min": 50 } }));
    let mut policies = host.worker(0);
    let started = now();
    let mut sent = 0;
    let state = eventually("the end of the probation", || {
        sent += 1;
        mark(&mut policies, "a", if sent % 60 == 0 { "k" } else { "" });
        host.policy("new").filter(|state| !state.on_probation)
    });
    assert!(started.elapsed() >= Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!((revision(&state), state.generation, state.last_rollback), (Some(2), 2, None));
    let state = host.rollback("new", None, "test").unwrap();
    assert_eq!((revision(&state), mark(&mut policies, "a", "")), (Some(1), "1".to_owned()));
}

#[test]
fn a_candidate_of_another_hook_goes_with_the_version_that_is_taken_back() {
    let host = host_of(1, &[0, 0]);
    let first = json!({ "hook": "admission", "plugin": null, "rules": [{ "then": "accept" }] });
    put(&host, "new", "p", &first);
    put(&host, "new", "p@1", &json!({}));
    let canary = json!({
        "canary_percent": 50, "on_failure": "closed", "budget": { "calls_min": 1_000_000 }
    });
    put(&host, "new", "p@2", &canary);
    let mut policies = host.worker(0);
    let state = until_taken_back(&host, &mut policies, 10);
    assert_eq!(state.current.unwrap().document.hook, Hook::Admission);
    assert_eq!((state.candidate, state.generation), (None, 4));
    let detail = state.last_rollback.unwrap().detail;
    assert!(
        detail.ends_with("p@2 (canary 50 %), the candidate, has another hook and is dropped"),
        "{detail}"
    );
    assert!((0..100).all(|n| mark(&mut policies, &format!("user-{n}"), "k") == "-"));
}
