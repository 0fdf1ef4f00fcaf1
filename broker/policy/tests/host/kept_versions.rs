//! Versions beside each other, and an archive: a restart comes back to them, and no step is taken that is not kept.

use crate::archive::{Shelf, next};
use crate::document;
use crate::versions::{mark, revision, version};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use waspmq_policy::{Archive, Host, PolicyState, PromoteError, PutError, RollbackError, WorkerPolicies};

const ALL: [&str; 1] = ["topic/>"];

/// Revision 2 decides, 3 is tried as `more` says, 1 is what a rollback goes back to.
fn on_trial(more: serde_json::Value) -> (Arc<Shelf>, Arc<Host>) {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 4);
    ["1", "2", "3"].into_iter().for_each(|mark| drop(host.upload("p", &version(mark, 0), "test").unwrap()));
    for (plugin, more) in [("p@1", json!({})), ("p@2", json!({})), ("p@3", more)] {
        host.put_policy("p", document(plugin, &ALL, more), "test").unwrap();
    }
    (shelf, host)
}

/// Of a host that was not asked for its worker before.
fn marks(host: &Host) -> Vec<String> {
    marks_by(&mut host.worker(0))
}

fn marks_by(policies: &mut WorkerPolicies) -> Vec<String> {
    (0..50).map(|n| mark(policies, &format!("user{n}"), "")).collect()
}

#[test]
fn a_canary_goes_on_for_the_same_senders() {
    let (shelf, host) = on_trial(json!({ "canary_percent": 50 }));
    let (before, generation) = (marks(&host), host.generation());
    assert!(before.iter().any(|mark| mark == "2") && before.iter().any(|mark| mark == "3"), "{before:?}");
    drop(host);
    let lines = shelf.changes();
    let host = next(&shelf, 4);
    assert_eq!((marks(&host), host.generation(), shelf.changes()), (before, generation, lines));
    let state = host.policy("p").unwrap();
    let tried = state.candidate.as_ref().unwrap();
    assert_eq!((tried.version.revision, tried.version.document.canary_percent), (Some(3), Some(50)));
    assert_eq!(
        (revision(&state), state.previous.unwrap().revision, state.generation),
        (Some(2), Some(1), generation)
    );
    host.promote("p", None, "test").unwrap();
    drop(host);
    let host = next(&shelf, 4);
    assert!(marks(&host).iter().all(|mark| mark == "3"));
    host.rollback("p", None, "test").unwrap();
    assert!(marks(&host).iter().all(|mark| mark == "2"));
}

#[test]
fn a_shadow_goes_on_comparing() {
    let (shelf, host) = on_trial(json!({ "mode": "shadow" }));
    drop(host);
    let host = next(&shelf, 4);
    assert!(marks(&host).iter().all(|mark| mark == "2"));
    let compared = host.policy("p").unwrap().candidate.unwrap().comparison.unwrap();
    assert_eq!((compared.same, compared.different), (0, 50));
}

#[test]
fn the_version_that_is_fallen_back_on_is_there_again() {
    let (shelf, host) = on_trial(json!({ "on_failure": "previous" }));
    drop(host);
    let host = next(&shelf, 4);
    let mut policies = host.worker(0);
    assert_eq!(mark(&mut policies, "a", ""), "3");
    assert_eq!(mark(&mut policies, "a", "fail"), "-", "both fail");
    assert_eq!(host.policy("p").unwrap().calls, 3, "the one before was asked, too");
}

#[test]
fn steps_that_cannot_be_kept_are_not_taken() {
    let (shelf, host) = on_trial(json!({ "canary_percent": 50 }));
    let mut policies = host.worker(0);
    let (before, generation) = (marks_by(&mut policies), host.generation());
    shelf.refuse(true);
    let promoted = host.promote("p", None, "test");
    assert!(matches!(promoted, Err(PromoteError::Put(PutError::NotKept(_)))), "{promoted:?}");
    let back = host.rollback("p", None, "test");
    assert!(matches!(back, Err(RollbackError::Put(PutError::NotKept(_)))), "{back:?}");
    assert_eq!((marks_by(&mut policies), host.generation()), (before, generation));
    shelf.refuse(false);
    host.promote("p", None, "test").unwrap();
    assert!(marks_by(&mut policies).iter().all(|mark| mark == "3"));
}

#[test]
fn an_automatic_rollback_is_kept_and_goes_on_where_it_cannot_be() {
    for refuses in [false, true] {
        let (shelf, host) = on_trial(json!({ "canary_percent": 99, "budget": { "calls_min": 5 } }));
        shelf.refuse(refuses);
        let mut policies = host.worker(0);
        let state = crate::eventually("it is taken back", || {
            (0..20).for_each(|n| drop(mark(&mut policies, &format!("user{n}"), "fail")));
            host.policy("p").filter(|state| state.candidate.is_none())
        });
        assert_eq!((revision(&state), state.last_rollback.unwrap().reason), (Some(2), "failures"));
        assert_eq!(host.changes_not_kept(), u64::from(refuses));
        drop((policies, host));
        shelf.refuse(false);
        let again = next(&shelf, 4).policy("p").unwrap();
        assert_eq!(again.candidate.is_some(), refuses);
        if !refuses {
            let last = shelf.last_change();
            assert_eq!((last.who.as_str(), last.what.as_str()), ("broker", "automatic rollback"));
            assert_eq!(last.details["reason"], "failures");
            assert_eq!(last.generation, again.generation);
        }
    }
}

#[test]
fn a_probation_begins_anew_with_a_start_until_its_end_is_kept() {
    let (shelf, host) = on_trial(json!({ "budget": { "calls_min": 5, "window_s": 1 } }));
    let until = |host: &Host, key: &str, is_it: &dyn Fn(&PolicyState) -> bool| {
        let mut policies = host.worker(0);
        crate::eventually("it is over", || {
            (0..20).for_each(|n| drop(mark(&mut policies, &format!("user{n}"), key)));
            host.policy("p").filter(|state| is_it(state))
        })
    };
    let is_taken_back = |state: &PolicyState| revision(state) == Some(2);
    assert!(host.policy("p").is_some_and(|state| state.on_probation && revision(&state) == Some(3)));
    // A rollback that is not kept is made again.
    shelf.refuse(true);
    until(&host, "fail", &is_taken_back);
    drop(host);
    shelf.refuse(false);
    let host = next(&shelf, 4);
    assert!(host.policy("p").is_some_and(|state| state.on_probation && revision(&state) == Some(3)));
    until(&host, "fail", &is_taken_back);
    drop(host);
    let host = next(&shelf, 4);
    assert!(host.policy("p").is_some_and(|state| !state.on_probation && revision(&state) == Some(2)));
    let again = json!({ "limits": { "deadline_ms": 200, "cpu_share": 1.0 }, "budget": { "calls_min": 5, "window_s": 1, "latency_factor": 1_000 } });
    host.put_policy("p", document("p@3", &ALL, again), "test").unwrap();
    let changes = shelf.changes();
    // An end that cannot be kept is none, and is tried again a window later.
    shelf.refuse(true);
    until(&host, "", &|_| shelf.replaces_refused().len() > 2);
    let refused = shelf.replaces_refused();
    assert!(refused[2] - refused[0] > Duration::from_secs(1), "{refused:?}");
    assert!(host.policy("p").is_some_and(|state| state.on_probation));
    shelf.refuse(false);
    until(&host, "", &|state| !state.on_probation);
    drop(host);
    let state = next(&shelf, 4).policy("p").unwrap();
    assert_eq!((state.on_probation, revision(&state), shelf.changes()), (false, Some(3), changes));
    assert!(state.previous.is_some());
}

#[test]
fn a_required_policy_that_is_refused_is_missed() {
    let (shelf, host) = on_trial(json!({ "required": true }));
    drop(host);
    shelf.lose_components();
    let host = next(&shelf, 4);
    let unready = host.unready();
    assert_eq!(unready.len(), 1);
    assert!(unready[0].policy == "p" && unready[0].reason.contains("p@3"), "{unready:?}");
    host.remove_policy("p", "test").unwrap();
    assert_eq!(host.unready(), []);
}

/// Nobody asks a version that was taken back, by whomever, before a restart or behind it.
#[test]
fn nothing_falls_back_on_a_version_that_was_taken_back() {
    let calls = |host: &Host, policies: &mut WorkerPolicies| {
        let before = host.policy("p").unwrap().calls;
        assert_eq!(mark(policies, "a", "fail"), "-");
        host.policy("p").unwrap().calls - before
    };
    for by_broker in [false, true] {
        let shelf = Arc::new(Shelf::default());
        let host = next(&shelf, 4);
        for mark in ["1", "2", "3"] {
            host.upload("p", &version(mark, 0), "test").unwrap();
        }
        let put = |plugin, more| host.put_policy("p", document(plugin, &ALL, more), "test").unwrap();
        put("p@1", json!({}));
        put("p@2", json!({ "on_failure": "previous", "budget": { "calls_min": 1_000_000 } }));
        let mut policies = host.worker(0);
        assert_eq!(calls(&host, &mut policies), 2, "the one before is asked");
        put("p@3", json!({ "budget": { "calls_min": 5 } }));
        if by_broker {
            crate::eventually("it is taken back", || {
                mark(&mut policies, "a", "fail");
                host.policy("p").filter(|state| state.last_rollback.is_some())
            });
        } else {
            host.rollback("p", None, "test").unwrap();
        }
        assert_eq!((calls(&host, &mut policies), mark(&mut policies, "a", "")), (1, "2".to_owned()));
        drop((policies, host));
        let host = next(&shelf, 4);
        let mut policies = host.worker(0);
        assert_eq!((calls(&host, &mut policies), mark(&mut policies, "a", "")), (1, "2".to_owned()));
        assert_eq!(host.policy("p").unwrap().previous.unwrap().revision, Some(3));
    }
}

/// Going back and returning leaves everything as it was, what is fallen back on, too.
#[test]
fn who_returns_from_a_rollback_falls_back_as_before() {
    let (shelf, host) = on_trial(json!({ "on_failure": "previous" }));
    host.rollback("p", None, "test").unwrap();
    drop(host);
    let host = next(&shelf, 4);
    let state = host.rollback("p", None, "test").unwrap();
    assert_eq!(revision(&state), Some(3));
    let mut policies = host.worker(0);
    assert_eq!(mark(&mut policies, "a", "fail"), "-");
    assert_eq!(host.policy("p").unwrap().calls, 2, "the one before was asked, too");
}

/// Of a policy that had only a candidate nothing is left behind that, and its room is free.
#[test]
fn a_policy_that_was_only_tried_goes_with_its_candidate() {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 1);
    host.upload("p", &version("1", 0), "test").unwrap();
    for by_broker in [false, true] {
        let more = json!({ "canary_percent": 99, "required": true, "budget": { "calls_min": 5 } });
        host.put_policy("p", document("p", &ALL, more), "test").unwrap();
        if by_broker {
            let mut policies = host.worker(0);
            crate::eventually("it is taken back", || {
                (0..20).for_each(|n| drop(mark(&mut policies, &format!("user{n}"), "fail")));
                host.policy("p").is_none().then_some(())
            });
        } else {
            let state = host.rollback("p", None, "test").unwrap();
            assert_eq!((state.current, state.candidate), (None, None));
        }
        assert!(host.policy("p").is_none());
        let missed = host.unready().into_iter().map(|unready| unready.reason).collect::<Vec<_>>();
        assert_eq!(missed, vec!["its only version was taken back"; usize::from(by_broker)]);
        let last = shelf.last_change();
        assert_eq!((last.from.as_str(), last.to.as_str()), ("p@1 (canary 99 %)", ""));
        assert_eq!(last.generation, host.generation());
        host.put_policy("other", document("p", &ALL, json!({})), "test").unwrap();
        host.remove_policy("other", "test").unwrap();
    }
    host.put_policy("p", document("p", &ALL, json!({})), "test").unwrap();
    assert_eq!(host.unready(), [], "it is there again");
    host.remove_policy("p", "test").unwrap();
    drop(host);
    // As an earlier version may have kept what was left of it.
    shelf.edit_manifest(r#""policies":{}"#, r#""policies":{"p":{"generation":2}}"#);
    let host = next(&shelf, 1);
    assert_eq!((host.policies().len(), host.refused_policies().len()), (0, 0));
    host.put_policy("other", document("p", &ALL, json!({})), "test").unwrap();
}

fn digest(host: &Host, revision: usize) -> String {
    host.plugin("p").unwrap()[revision - 1].digest.clone()
}

/// What the policy shows of versions that did not come back: the role and the version.
fn lost(host: &Host) -> Vec<(&'static str, String)> {
    host.policy("p").unwrap().refused.into_iter().map(|lost| (lost.role, lost.version)).collect()
}

#[test]
fn versions_that_are_damaged_come_back_when_they_are_put_right() {
    let (shelf, host) = on_trial(json!({ "canary_percent": 50 }));
    let before = marks(&host);
    let gone: Vec<_> = [1, 3].map(|revision| digest(&host, revision)).into();
    drop(host);
    let whole: Vec<_> = gone.iter().map(|digest| shelf.load_component(digest).unwrap()).collect();
    gone.iter().for_each(|digest| shelf.remove_component(digest));
    let host = next(&shelf, 4);
    assert_eq!(lost(&host), [("candidate", "p@3".to_owned()), ("previous", "p@1".to_owned())]);
    assert!(marks(&host).iter().all(|mark| mark == "2"));
    assert!(host.policy("p").unwrap().refused[0].reason.contains("p@3, which is refused"));
    // Changes of others, and starts, forget nothing.
    host.put_policy("q", document("p@2", &ALL, json!({})), "test").unwrap();
    drop(host);
    assert_eq!(lost(&next(&shelf, 4)).len(), 2);
    for (digest, bytes) in gone.iter().zip(&whole) {
        shelf.save_component(digest, bytes).unwrap();
    }
    let host = next(&shelf, 4);
    host.remove_policy("q", "test").unwrap();
    assert_eq!((lost(&host), marks(&host)), (vec![], before));
    assert_eq!(host.policy("p").unwrap().previous.unwrap().revision, Some(1));
    drop(host);
    // Going back drops the candidate, though it is not there; another active version takes the places of both.
    gone.iter().for_each(|digest| shelf.remove_component(digest));
    let host = next(&shelf, 4);
    let state = host.rollback("p", None, "test").unwrap();
    assert_eq!((revision(&state), shelf.last_change().from), (Some(2), "p@3".to_owned()));
    assert_eq!(lost(&host), [("previous", "p@1".to_owned())]);
    host.put_policy("p", document("p@2", &ALL, json!({ "order": 1 })), "test").unwrap();
    assert_eq!(lost(&host), []);
}

#[test]
fn a_candidate_is_tried_beside_an_active_version_that_is_refused() {
    let (shelf, host) = on_trial(json!({ "required": true }));
    let third = digest(&host, 3);
    drop(host);
    let whole = shelf.load_component(&third).unwrap();
    shelf.remove_component(&third);
    let host = next(&shelf, 4);
    assert_eq!((host.unready().len(), host.refused_policies().len()), (1, 1));
    let shadow = |more| host.put_policy("p", document("p@1", &ALL, more), "test").unwrap();
    shadow(json!({ "mode": "shadow" }));
    assert_eq!((host.unready().len(), host.refused_policies().len()), (1, 0));
    assert_eq!(lost(&host), [("active", "p@3".to_owned()), ("previous", "p@2".to_owned())]);
    host.rollback("p", None, "test").unwrap();
    assert_eq!((host.unready().len(), host.refused_policies().len()), (1, 1), "refused as before");
    shadow(json!({ "canary_percent": 99 }));
    let before = marks(&host);
    drop(host);
    let host = next(&shelf, 4);
    assert_eq!((host.unready().len(), marks(&host)), (1, before), "the canary goes on");
    drop(host);
    shelf.save_component(&third, &whole).unwrap();
    let host = next(&shelf, 4);
    assert_eq!((host.unready(), lost(&host)), (vec![], vec![]));
    assert_eq!(revision(&host.policy("p").unwrap()), Some(3));
    assert!(host.policy("p").unwrap().candidate.is_some());
}

/// It is in force, and outlives a restart as soon as it can be written down: by itself, or before the answer to a change.
#[test]
fn an_automatic_rollback_that_could_not_be_written_down_is_as_soon_as_it_can_be() {
    for changes in [0, 1, 2] {
        let (shelf, host) = on_trial(json!({ "canary_percent": 99, "budget": { "calls_min": 5 } }));
        shelf.refuse(true);
        let mut policies = host.worker(0);
        let state = crate::eventually("it is taken back", || {
            (0..20).for_each(|n| drop(mark(&mut policies, &format!("user{n}"), "fail")));
            host.policy("p").filter(|state| state.candidate.is_none())
        });
        // What is in its place already is not answered for before it is kept.
        let put_again = || host.put_policy("p", document("p@2", &ALL, json!({})), "test");
        assert!(matches!(put_again(), Err(PutError::NotKept(_))));
        let (lines, taken_back) = (shelf.changes(), state.generation);
        shelf.refuse(false);
        match changes {
            0 => crate::eventually("it is kept", || (shelf.changes() > lines).then_some(())),
            1 => drop(put_again().unwrap()),
            _ => drop(host.put_policy("q", document("p@2", &ALL, json!({})), "test").unwrap()),
        }
        drop((policies, host));
        assert_eq!(shelf.changes(), lines + changes.max(1));
        let noted = shelf.change_at(lines);
        assert_eq!((noted.what.as_str(), noted.generation), ("automatic rollback", taken_back));
        assert_eq!(next(&shelf, 4).policy("p").unwrap().candidate, None);
    }
}

/// What decided is what a rollback goes back to, also where its file is put right only later.
#[test]
fn an_active_version_that_is_refused_becomes_the_previous_one() {
    for promotes in [true, false] {
        let (shelf, host) = on_trial(json!({ "canary_percent": 50 }));
        let second = digest(&host, 2);
        drop(host);
        let whole = shelf.load_component(&second).unwrap();
        shelf.remove_component(&second);
        let host = next(&shelf, 4);
        assert_eq!(lost(&host), [("active", "p@2".to_owned())]);
        if promotes {
            host.promote("p", None, "test").unwrap();
        } else {
            host.put_policy("p", document("p@3", &ALL, json!({})), "test").unwrap();
        }
        assert_eq!(lost(&host), [("previous", "p@2".to_owned())]);
        assert_eq!(host.policy("p").unwrap().previous, None);
        drop(host);
        shelf.save_component(&second, &whole).unwrap();
        let host = next(&shelf, 4);
        assert_eq!(revision(&host.rollback("p", None, "test").unwrap()), Some(2));
    }
}

/// Who goes back from a bad version means that one, not a candidate that asks nothing.
#[test]
fn a_candidate_that_is_refused_is_in_the_way_of_no_rollback() {
    let (shelf, host) = on_trial(json!({ "canary_percent": 50 }));
    let third = digest(&host, 3);
    drop(host);
    let whole = shelf.load_component(&third).unwrap();
    shelf.remove_component(&third);
    let host = next(&shelf, 4);
    assert_eq!(revision(&host.rollback("p", None, "test").unwrap()), Some(1));
    assert_eq!(lost(&host), [("candidate", "p@3".to_owned())]);
    drop(host);
    shelf.save_component(&third, &whole).unwrap();
    let state = next(&shelf, 4).policy("p").unwrap();
    assert_eq!((revision(&state), state.candidate.unwrap().version.revision), (Some(1), Some(3)));
}
