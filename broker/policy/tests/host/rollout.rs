//! Versions side by side: fallbacks, shadows, canaries, and the steps from one to the next.

use crate::guests::{Guest, built};
use crate::versions::{LONG, host_of, mark, revision, version};
use crate::{decide, document, eventually, outcome, sized_host};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::policy::{Policies, Route};
use waspmq_policy::{
    BreakerState, Host, HostOptions, Nobody, PromoteError, PutError, RollbackError, StartError, limits,
};

const ALL: [&str; 1] = ["topic/>"];

#[test]
fn the_breaker_opens_serves_and_recovers() {
    let host = host_of(1, &[0]);
    let more = json!({ "on_failure": "closed", "required": true });
    host.put_policy("p", document("p", &ALL, more), "test").unwrap();
    let mut policies = host.worker(0);
    assert_eq!(host.unready(), []);
    for _ in 0..5 {
        assert_eq!(mark(&mut policies, "a", "k"), "policy p failed (bad_verdict)");
    }
    assert_eq!(mark(&mut policies, "a", ""), "policy p failed (breaker_open)", "the guest is not asked");
    let state = host.policy("p").unwrap();
    assert_eq!((state.breaker, state.calls, outcome(&host, "p", "breaker_open")), (BreakerState::Open, 5, 1));
    assert_eq!(host.metrics()[0].breaker, BreakerState::Open);
    let unready = host.unready();
    assert_eq!((unready[0].policy.as_str(), unready[0].reason.as_str()), ("p", "its breaker is open"));
    eventually("its time is over, without any message", || {
        (host.policy("p")?.breaker == BreakerState::HalfOpen).then_some(())
    });
    assert_eq!(host.unready(), [], "messages have to come for it to close");
    for n in 0..5 {
        assert_eq!(host.policy("p").unwrap().breaker, BreakerState::HalfOpen, "{n}");
        assert_eq!(mark(&mut policies, "a", ""), "1");
    }
    assert_eq!(host.policy("p").unwrap().breaker, BreakerState::Closed);
}

#[test]
fn a_slow_policy_gets_its_share_of_a_worker() {
    let host = host_of(1, &[LONG]);
    let put = |share: f64| {
        let more = json!({ "limits": { "deadline_ms": 200, "cpu_share": share } });
        host.put_policy("p", document("p", &ALL, more), "test").unwrap();
    };
    let mut policies = host.worker(0);
    put(1.0);
    (0..200).for_each(|_| assert_eq!(mark(&mut policies, "a", ""), "1"));
    assert_eq!(outcome(&host, "p", "breaker_open"), 0);
    put(0.05);
    (0..200).for_each(|_| drop(mark(&mut policies, "a", "")));
    assert!(outcome(&host, "p", "breaker_open") > 100, "{:?}", host.policy("p").unwrap().outcomes);
    assert_eq!(outcome(&host, "p", "ok") + outcome(&host, "p", "breaker_open"), 400);
}

#[test]
fn builtin_asks_nobody_else() {
    let host = host_of(1, &[0]);
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    let put = |on_failure: &str| {
        let more = json!({ "order": 1, "on_failure": on_failure });
        host.put_policy("first", document("bad", &ALL, more), "test").unwrap();
    };
    host.put_policy("second", document("p", &ALL, json!({ "order": 2 })), "test").unwrap();
    put("builtin");
    assert_eq!(mark(&mut host.worker(0), "a", ""), "-", "delivered as addressed");
    assert_eq!(outcome(&host, "second", "ok"), 0);
    put("open");
    assert_eq!(mark(&mut host.worker(0), "a", ""), "1", "passed on");
}

#[test]
fn the_version_before_is_asked_instead() {
    let host = host_of(1, &[0, 0]);
    let falling_back = || document("p@2", &ALL, json!({ "on_failure": "previous" }));
    let refused = host.put_policy("p", falling_back(), "test").unwrap_err();
    assert!(matches!(refused, PutError::Invalid { ref field, .. } if field == "on_failure"), "{refused}");
    host.put_policy("p", document("p@1", &ALL, json!({})), "test").unwrap();
    host.put_policy("p", falling_back(), "test").unwrap();
    let mut policies = host.worker(0);
    assert_eq!(mark(&mut policies, "a", ""), "2");
    assert_eq!(mark(&mut policies, "a", "k"), "-", "the one before fails, too: open");
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    host.put_policy("q", document("p@1", &["topic/>"], json!({ "order": -1 })), "test").unwrap();
    let bad = document("bad", &["topic/>"], json!({ "order": -1, "on_failure": "previous" }));
    host.put_policy("q", bad, "test").unwrap();
    for _ in 0..50 {
        assert_eq!(mark(&mut policies, "a", ""), "1", "failed, without an instance, or with an open breaker");
    }
    assert_eq!(outcome(&host, "q", "ok"), 50);
}

#[test]
fn a_shadow_is_compared_and_decides_nothing() {
    let host = host_of(1, &[0, 0]);
    host.put_policy("p", document("p@1", &ALL, json!({})), "test").unwrap();
    let state = host.put_policy("p", document("p@2", &ALL, json!({ "mode": "shadow" })), "test").unwrap();
    assert_eq!((revision(&state), state.generation), (Some(1), 2));
    let mut policies = host.worker(0);
    for _ in 0..100 {
        assert_eq!(mark(&mut policies, "alice", ""), "1");
    }
    let state = host.policy("p").unwrap();
    assert_eq!(state.calls, 100, "those of the shadow are not among them");
    let candidate = state.candidate.unwrap();
    let comparison = candidate.comparison.unwrap();
    assert_eq!((comparison.same, comparison.different, comparison.failed, candidate.calls), (0, 100, 0, 100));
    assert_eq!(comparison.samples.len(), 32);
    let sample = &comparison.samples[0];
    assert_eq!((sample.sender.as_str(), sample.address.as_str()), ("alice", "topic/a"));
    let verdict = |mark: &str| json!({ "route": { "drop": mark }, "set_headers": {} });
    assert_eq!((&sample.active, &sample.shadow), (&verdict("1"), &verdict("2")));
    assert_eq!(host.metrics()[0].shadow, [("same", 0), ("different", 100), ("failed", 0)]);
    host.put_policy("p", document("p@1", &ALL, json!({ "mode": "shadow" })), "test").unwrap();
    assert_eq!(mark(&mut policies, "alice", ""), "1");
    assert_eq!(
        host.metrics()[0].shadow,
        [("same", 1), ("different", 0), ("failed", 0)],
        "counts of the new one"
    );
    let state = host.rollback("p", None, "test").unwrap();
    assert_eq!((revision(&state), state.candidate), (Some(1), None));
    assert_eq!(
        host.promote("p", None, "test").unwrap_err(),
        PromoteError::NoCandidate { name: "p".to_owned() }
    );
}

/// Samples are taken before messages have ids, which come in another order, or not at all.
#[test]
fn samples_are_named_once_their_messages_have_ids() {
    let host = host_of(1, &[0, 0]);
    host.put_policy("p", document("p@1", &ALL, json!({})), "test").unwrap();
    host.put_policy("p", document("p@2", &ALL, json!({ "mode": "shadow" })), "test").unwrap();
    let mut policies = host.worker(0);
    let mut decided = |from: &str| {
        assert_eq!(mark(&mut policies, from, ""), "1");
        from.starts_with("taken").then(|| policies.trace().unwrap())
    };
    let [waits, none, first] = ["taken-1", "refused", "taken-2"].map(&mut decided);
    assert_eq!((none, decided("refused")), (None, None));
    let id = |count| MessageId::new(1, 1, 0, count);
    policies.name(first, id(7));
    policies.name(waits, id(8));
    assert_eq!(mark(&mut policies, "taken-3", ""), "1");
    let last = policies.trace();
    policies.name(last, id(9));
    let compared = host.policy("p").unwrap().candidate.unwrap().comparison.unwrap();
    let named: Vec<_> = compared.samples.iter().map(|s| (s.sender.as_str(), s.id.clone())).collect();
    let expected = [
        ("taken-1", Some(id(8).to_string())),
        ("refused", None),
        ("taken-2", Some(id(7).to_string())),
        ("refused", None),
        ("taken-3", Some(id(9).to_string())),
    ];
    assert_eq!(named, expected);
}

#[test]
fn a_shadow_alone_is_compared_with_no_policy() {
    let host = host_of(1, &[0]);
    let state = host.put_policy("p", document("p", &ALL, json!({ "mode": "shadow" })), "test").unwrap();
    assert!(state.current.is_none());
    let mut policies = host.worker(0);
    assert_eq!(mark(&mut policies, "a", ""), "-");
    assert_eq!(host.metrics()[0].shadow[1], ("different", 1));
    let unknown = host.rollback("q", None, "test").unwrap_err();
    assert_eq!(unknown, RollbackError::UnknownPolicy { name: "q".to_owned() });
    let state = host.promote("p", None, "test").unwrap();
    assert_eq!((revision(&state), state.candidate), (Some(1), None));
    assert_eq!(mark(&mut policies, "a", ""), "1");
}

#[test]
fn a_canary_decides_for_its_share_of_senders() {
    let host = host_of(1, &[0, 0]);
    host.put_policy("p", document("p@1", &ALL, json!({})), "test").unwrap();
    let mut policies = host.worker(0);
    let mut chosen = |percent: u8| -> BTreeSet<String> {
        let more = json!({ "canary_percent": percent, "limits": { "cpu_share": 1.0 } });
        host.put_policy("p", document("p@2", &ALL, more), "test").unwrap();
        let senders = (0..400).map(|n| format!("user-{n}"));
        senders.filter(|sender| mark(&mut policies, sender, "") == "2").collect()
    };
    let tenth = chosen(10);
    assert!((20..60).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(chosen(10), tenth, "the same senders again, by other instances");
    let half = chosen(50);
    assert!((150..250).contains(&half.len()) && half.is_superset(&tenth), "{}", half.len());
    let state = host.promote("p", None, "test").unwrap();
    assert_eq!((revision(&state), state.previous.and_then(|v| v.revision)), (Some(2), Some(1)));
    let current = state.current.unwrap();
    assert_eq!(current.document.canary_percent, None);
    let mut policies = host.worker(0);
    assert!((0..400).all(|n| mark(&mut policies, &format!("user-{n}"), "") == "2"));
    let state = host.rollback("p", None, "test").unwrap();
    assert_eq!((revision(&state), state.last_rollback.unwrap().reason), (Some(1), "operator"));
    assert_eq!(mark(&mut policies, "user-1", ""), "1");
}

#[test]
fn a_canary_falls_back_on_the_active_version() {
    let host = host_of(1, &[0, 0]);
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    host.put_policy("p", document("p@1", &ALL, json!({})), "test").unwrap();
    let more = json!({ "canary_percent": 99, "on_failure": "previous" });
    host.put_policy("p", document("bad", &ALL, more), "test").unwrap();
    let mut policies = host.worker(0);
    assert!((0..50).all(|n| mark(&mut policies, &format!("user-{n}"), "") == "1"));
}

#[test]
fn patterns_of_active_and_candidate_may_differ() {
    let host = host_of(1, &[0, 0]);
    host.put_policy("p", document("p@1", &["topic/b"], json!({})), "test").unwrap();
    host.put_policy("p", document("p@2", &["topic/a"], json!({ "mode": "shadow" })), "test").unwrap();
    let mut policies = host.worker(0);
    assert_eq!(mark(&mut policies, "a", ""), "-", "nobody decides topic/a");
    assert_eq!(host.metrics()[0].shadow[1], ("different", 1), "where it alone matches");
    assert_eq!(decide(&mut policies, "topic/b").route, Route::Drop("1".to_owned()));
    assert_eq!(host.metrics()[0].shadow[1], ("different", 1), "where it does not match it is not asked");
}

#[test]
fn no_version_is_asked_where_it_does_not_match() {
    let host = host_of(1, &[0]);
    host.upload("bad", &Guest::routing("unreachable"), "test").unwrap();
    let put = |plugin: &str, patterns: &[&str], more| {
        host.put_policy("p", document(plugin, patterns, more), "test").unwrap();
    };
    let mut policies = host.worker(0);
    let mut routes = || ["topic/a", "topic/b"].map(|to| decide(&mut policies, to).route);
    let one = || Route::Drop("1".to_owned());
    put("p@1", &["topic/a"], json!({}));
    put("bad", &["topic/a", "topic/b"], json!({ "on_failure": "previous" }));
    assert_eq!(routes(), [one(), Route::Continue], "the previous one matches topic/a");
    put("p@1", &["topic/b"], json!({ "mode": "shadow" }));
    assert_eq!(routes(), [one(), Route::Continue], "the same beside a candidate");
    put("p@1", &["topic/a"], json!({}));
    put("bad", &["topic/b"], json!({ "canary_percent": 99, "on_failure": "previous" }));
    assert_eq!(routes(), [Route::Continue, Route::Continue], "the active one does not match topic/b");
}

#[test]
fn required_policies_are_missed() {
    let host = host_of(2, &[0]);
    let reasons = || host.unready().into_iter().map(|unready| unready.reason).collect::<Vec<_>>();
    host.note_missing("p", "its component is damaged");
    assert_eq!(reasons(), ["its component is damaged"]);
    host.put_policy("p", document("p", &ALL, json!({ "required": true })), "test").unwrap();
    assert_eq!(reasons(), [""; 0]);
    host.put_policy("p", document("p", &ALL, json!({ "required": true, "mode": "off" })), "test").unwrap();
    assert_eq!(reasons(), ["it is off"]);
    host.note_missing("q", "gone");
    assert_eq!(reasons(), ["it is off", "gone"]);
    host.remove_policy("p", "test").unwrap();
    assert_eq!(reasons(), ["gone"]);
    let tried = json!({ "required": true, "mode": "shadow" });
    host.put_policy("p", document("p", &ALL, tried), "test").unwrap();
    assert_eq!(reasons(), ["it is only tried", "gone"]);
    host.promote("p", None, "test").unwrap();
    assert_eq!(reasons(), ["gone"]);
}

#[test]
fn an_instance_that_served_long_enough_is_replaced() {
    const CALLS_MAX: u32 = 10;
    let options = HostOptions { workers: 2, policies_max: 1, instance_calls_max: CALLS_MAX };
    let host = Host::start(options, Arc::new(Nobody)).unwrap();
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    let whole = json!({ "limits": { "cpu_share": 1.0 } });
    host.put_policy("p", document("decide", &ALL, whole), "test").unwrap();
    let (mut busy, mut idle) = (host.worker(0), host.worker(1));
    for round in 0..3 {
        for call in 1..=CALLS_MAX {
            // The guest counts its calls.
            let headers = decide(&mut busy, "topic/a").set_headers;
            assert_eq!(headers, [("call".to_owned(), call.to_string())], "round {round}");
        }
        eventually("both have a spare", || (host.policy("p")?.instances.spare == 2).then_some(()));
        assert_eq!(
            host.policy("p").unwrap().instances.recycled,
            round,
            "what is worn goes with the next call"
        );
    }
    assert_eq!(decide(&mut idle, "topic/a").set_headers[0].1, "1");
    assert_eq!(decide(&mut busy, "topic/a").set_headers[0].1, "1");
    let state = host.policy("p").unwrap();
    assert_eq!((state.instances.recycled, outcome(&host, "p", "ok")), (3, 3 * u64::from(CALLS_MAX) + 2));
    assert_eq!(host.metrics()[0].recycled, 3);
    for instance_calls_max in [0, limits::INSTANCE_CALLS_MAX + 1] {
        let options = HostOptions { instance_calls_max, ..HostOptions::default() };
        assert!(matches!(Host::start(options, Arc::new(Nobody)), Err(StartError::Options)));
    }
}

/// Each call takes one more page, until most of the memory is taken.
#[test]
fn an_instance_whose_memory_is_nearly_full_is_replaced() {
    let growing =
        "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (i32.const 1024)";
    let host =
        crate::serving(&Guest::routing(growing), json!({ "limits": { "memory_mb": 1, "cpu_share": 1.0 } }));
    let mut policies = host.worker(0);
    // 16 pages are the limit, 13 of them are 80 %.
    for calls in 0..60 {
        decide(&mut policies, "topic/a");
        eventually("a spare", || (host.policy("p")?.instances.spare == 1).then_some(()));
        assert_eq!(outcome(&host, "p", "memory"), 0, "after {calls} calls");
    }
    let state = host.policy("p").unwrap();
    assert_eq!((outcome(&host, "p", "ok"), state.instances.recycled), (60, 5), "{state:?}");
    assert_eq!(host.metrics()[0].recycled, 5);
}

#[test]
fn there_is_room_for_every_version_of_every_policy() {
    const POLICIES: usize = 8;
    let host = sized_host(2, POLICIES);
    for mark in ["1", "2", "3"] {
        host.upload("p", &version(mark, 0), "test").unwrap();
    }
    let names: Vec<String> = (0..POLICIES).map(|n| format!("p{n}")).collect();
    let put = |name: &str, plugin: &str, more: serde_json::Value| {
        host.put_policy(name, document(plugin, &ALL, more), "test").map(drop)
    };
    let (mut busy, mut idle) = (host.worker(0), host.worker(1));
    for round in 0..3 {
        // Each has an active version, the one before with its instances, and a candidate.
        for name in &names {
            put(name, "p@1", json!({})).unwrap();
            put(name, "p@2", json!({ "on_failure": "previous" })).unwrap();
            put(name, "p@3", json!({ "mode": "shadow" })).unwrap();
            mark(&mut busy, "a", "");
        }
        if round == 0 {
            // From here on this worker holds what it has.
            mark(&mut idle, "a", "");
        }
        let full = put("one-more", "p@1", json!({})).unwrap_err();
        assert_eq!(full, PutError::NoCapacity { policies_max: POLICIES });
    }
    let generation = host.generation();
    for name in &names {
        host.promote(name, None, "test").unwrap();
    }
    assert_eq!(host.generation(), generation + POLICIES as u64);
    assert_eq!([mark(&mut busy, "a", ""), mark(&mut idle, "a", "")], ["3", "3"]);
    assert!(host.worker(0).bound("topic/a").routing);
}

/// A client repeats what it got no answer to.
#[test]
fn what_is_put_again_changes_nothing() {
    let host = host_of(1, &[0, 0, 0]);
    let put = |plugin: &str, more: &serde_json::Value| {
        host.put_policy("again", document(plugin, &ALL, more.clone()), "test").unwrap()
    };
    let versions = |state: &waspmq_policy::PolicyState| {
        let previous = state.previous.as_ref().and_then(|version| version.revision);
        let candidate = state.candidate.as_ref().and_then(|tried| tried.version.revision);
        (revision(state), candidate, previous, state.generation)
    };
    let whole = json!({});
    put("p@1", &whole);
    for _ in 0..3 {
        assert_eq!(versions(&put("p@2", &whole)), (Some(2), None, Some(1), 2));
    }
    for more in [json!({ "mode": "shadow" }), json!({ "canary_percent": 10 })] {
        let tried = versions(&put("p@3", &more));
        assert_eq!(versions(&put("p@3", &more)), tried);
    }
    assert_eq!(host.generation(), 4);
    assert_eq!(versions(&put("p@3", &json!({ "canary_percent": 20 }))), (Some(2), Some(3), Some(1), 5));
    assert_eq!(versions(&put("p@2", &whole)), (Some(2), None, Some(1), 6), "the candidate is dropped");
    assert_eq!(crate::audit::about("again").len(), 6);
    let named = put("p", &whole);
    host.upload("p", &version("4", 0), "test").unwrap();
    assert_eq!(versions(&named), (Some(3), None, Some(2), 7));
    assert_eq!(versions(&put("p", &whole)), (Some(4), None, Some(3), 8), "the latest is another one");
}
