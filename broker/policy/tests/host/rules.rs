//! Rules as policies: what every answer does, what is cached, that they decide as a plugin does which says the same, and
//! that versions go from one to the other.

use crate::archive::Shelf;
use crate::guests::built;
use crate::{decide, document, eventually, host, message, outcome, route, sized_host};
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::address::{Address, Kind, Name};
use waspmq_core::delivery::{AckPlan, Backoff, Cause, Exhausted, Quorum, Recipient};
use waspmq_core::level::Level;
use waspmq_core::policy::{
    Acking, Acknowledgement, Admission, Admittance, BySettings, Decision, Failure, Message, Outcome,
    Overflowed, Overflowing, Policies, Route, Verdict,
};
use waspmq_core::settings::{Keep, Overflow, Settings};
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{Host, PolicyDocument, PolicyState, PutError, WorkerPolicies};

fn rules(hook: &str, rules: &Value, more: &Value) -> PolicyDocument {
    let mut document = json!({ "hook": hook, "rules": rules, "match": ["topic/>"] });
    more.as_object().unwrap().iter().for_each(|(key, value)| document[key] = value.clone());
    serde_json::from_value(document).unwrap()
}

fn put(host: &Host, name: &str, hook: &str, table: &Value) -> PolicyState {
    host.put_policy(name, rules(hook, table, &json!({})), "test").unwrap()
}

/// A host with one policy `p` of these rules.
fn ruled(hook: &str, table: &Value) -> (Arc<Host>, WorkerPolicies) {
    let host = host(1);
    put(&host, "p", hook, table);
    let policies = host.worker(0);
    (host, policies)
}

fn to(address: &str) -> Address {
    Address::parse(address).unwrap()
}

fn headers(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn routing_rules_do_what_they_say() {
    let table = json!([
        {"when": {"address": "topic/one"}, "then": {"to": "topic/other"}},
        {"when": {"address": "topic/many"}, "then": {"to": ["topic/a", "user/b", "topic/a"]}},
        {"when": {"address": "topic/copied"}, "then": {"mirror": ["topic/audit", "topic/copied"], "set_headers": {"copied": "yes"}}},
        {"when": {"address": "topic/audit"}, "then": {"mirror": "topic/audit"}},
        {"when": {"address": "topic/gone", "sender": "al*"}, "then": {"drop": "not here"}},
        {"when": {"address": "topic/kept"}, "then": "deliver"},
        {"when": {"address": "topic/passed"}, "then": "continue"},
        {"when": {"header": {"tenant": "acme"}}, "then": {"set_headers": {"seen": "acme"}}},
    ]);
    let (host, mut policies) = ruled("routing", &table);
    let mut routed = |address: &str| decide(&mut policies, address).route;
    assert_eq!(routed("topic/one"), Route::Redirect(to("topic/other")));
    assert_eq!(routed("topic/many"), Route::FanOut(vec![to("topic/a"), to("user/b")]));
    assert_eq!(routed("topic/audit"), Route::Continue, "a mirror is not mirrored into itself");
    assert_eq!(routed("topic/gone"), Route::Drop("not here".to_owned()));
    assert_eq!(routed("topic/kept"), Route::Deliver);
    assert_eq!(routed("topic/passed"), Route::Continue);
    assert_eq!(routed("topic/unnamed"), Route::Continue);
    let copied = decide(&mut policies, "topic/copied");
    let expected = Verdict {
        route: Route::FanOut(vec![to("topic/copied"), to("topic/audit")]),
        set_headers: headers(&[("copied", "yes")]),
    };
    assert_eq!(copied, expected);
    let tenant = headers(&[("tenant", "acme")]);
    let Outcome::Decided(verdict) = route(&mut policies, &message("topic/x", &tenant)) else { panic!() };
    assert_eq!(verdict, Verdict { route: Route::Continue, set_headers: headers(&[("seen", "acme")]) });
    let state = host.policy("p").unwrap();
    assert_eq!((state.lane, state.instances.serving, state.instances.spare), ("native", 1, 1));
    assert_eq!(state.calls, outcome(&host, "p", "ok"));
}

#[test]
fn headers_that_earlier_policies_set_are_looked_at_and_count() {
    let (host, mut policies) = ruled("routing", &json!([{"then": {"set_headers": {"colour": "red"}}}]));
    let table = json!([{"when": {"header": {"colour": "red"}}, "then": {"to": "topic/red"}}]);
    host.put_policy("q", rules("routing", &table, &json!({"order": 200})), "test").unwrap();
    let blue = headers(&[("colour", "blue")]);
    let Outcome::Decided(verdict) = route(&mut policies, &message("topic/a", &blue)) else { panic!() };
    assert_eq!(verdict.route, Route::Redirect(to("topic/red")));
    // As many headers as there may be: one more is a verdict out of bounds, as from a plugin.
    let many: Vec<_> = (0..64).map(|n| (n.to_string(), String::new())).collect();
    let Outcome::Decided(verdict) = route(&mut policies, &message("topic/a", &many)) else { panic!() };
    assert_eq!((verdict.set_headers, outcome(&host, "p", "bad_verdict")), (Vec::new(), 1));
}

#[test]
fn nobody_switches_rules_off_for_others() {
    let table = json!([{"then": {"set_headers": {"colour": "red"}}}]);
    let (host, mut policies) = ruled("routing", &table);
    // A canary would be taken back by its budget.
    let wider = json!([{"then": {"set_headers": {"colour": "blue"}}}]);
    let budget = json!({"canary_percent": 50, "budget": {"calls_min": 1, "failure_percent": 1}});
    host.put_policy("p", rules("routing", &wider, &budget), "test").unwrap();
    let many: Vec<_> = (0..64).map(|n| (n.to_string(), String::new())).collect();
    let senders: Vec<String> = (0..100).map(|n| format!("user-{n}")).collect();
    for from in &senders {
        let outcome = route(&mut policies, &Message { from, ..message("topic/a", &many) });
        assert!(matches!(outcome, Outcome::Decided(verdict) if verdict == Verdict::default()));
    }
    assert_eq!((outcome(&host, "p", "bad_verdict"), outcome(&host, "p", "breaker_open")), (100, 0));
    let state = host.policy("p").unwrap();
    assert_eq!((state.breaker.as_str(), state.candidate.unwrap().failures), ("closed", 0));
    assert!(decide(&mut policies, "topic/a").set_headers.len() == 1, "rules serve everybody else");
}

/// Counts of `ok` and `cached` behind these messages of two connections.
fn asked(table: &Value) -> (u64, u64) {
    let (host, mut policies) = ruled("routing", table);
    for session in [1, 1, 2, 2] {
        let session = Some(SessionId::new(1, 0, session));
        route(&mut policies, &Message { session, ..message("topic/a", &[]) });
    }
    (outcome(&host, "p", "ok"), outcome(&host, "p", "cached"))
}

#[test]
fn verdicts_are_kept_where_that_is_exact() {
    let by_address = json!([{"when": {"address": "topic/a"}, "then": {"to": "topic/b"}}]);
    assert_eq!(asked(&by_address), (1, 3));
    assert_eq!(
        asked(&json!([{"when": {"address": "topic/x"}, "then": "deliver"}])),
        (1, 3),
        "also that none matches"
    );
    let by_sender = json!([{"when": {"sender": "bob"}, "then": "deliver"}, {"then": {"to": "topic/b"}}]);
    assert_eq!(asked(&by_sender), (2, 2));
    for looks in [
        json!({"header": {"a": false}}),
        json!({"size_max": 9}),
        json!({"priority_min": 1}),
        json!({"key": "x"}),
    ] {
        let table = json!([{"when": looks, "then": {"to": "topic/b"}}]);
        assert_eq!(asked(&table), (4, 0), "{table}");
    }
    let elsewhere =
        json!([{"when": {"address": "topic/x", "key": "x"}, "then": "deliver"}, {"then": "deliver"}]);
    assert_eq!(asked(&elsewhere), (1, 3), "rules for other addresses are not looked at");
}

#[test]
fn admission_rules_do_what_they_say() {
    let table = json!([
        {"when": {"size_min": 1_000}, "then": {"refuse": {"reason": "too large"}}},
        {"when": {"sender": "root"}, "then": "accept"},
        {"when": {"address": "topic/free"}, "then": "continue"},
        {"when": {"address": "topic/shared"}, "then": {"limit": {"per_hour": 1, "burst": 2, "by": "address"}}},
        {"when": {"address": "topic/fast"}, "then": {"limit": {"per_second": 20, "burst": 1, "by": "sender"}}},
        {"then": {"limit": {"per_minute": 2, "burst": 1, "by": "sender", "reason": "slow down"}}},
    ]);
    let (host, mut policies) = ruled("admission", &table);
    let behind = json!([{"when": {"address": ["topic/free", "topic/shared"], "sender": ["last", "root"]}, "then": {"refuse": {"reason": "behind", "retry_ms": 9}}}]);
    host.put_policy("q", rules("admission", &behind, &json!({"order": 200})), "test").unwrap();
    let payload = vec![b' '; 1_000];
    let mut admit = |from: &str, address: &str, size: usize| {
        policies.bound(address);
        let payload = payload.get(..size).unwrap();
        match policies.admit(&Message { from, payload, ..message(address, &[]) }) {
            Admittance::Admitted => "in".to_owned(),
            Admittance::Refused { reason, retry_ms } => format!("{reason} {retry_ms}"),
            Admittance::Failed(reason) => panic!("{reason}"),
        }
    };
    assert_eq!(admit("root", "topic/a", 1_000), "too large 0");
    assert_eq!(admit("root", "topic/free", 999), "in", "nobody else is asked");
    assert_eq!(admit("last", "topic/free", 1), "behind 9", "it was passed on");
    assert_eq!(
        [admit("a", "topic/x", 1), admit("a", "topic/y", 1)],
        ["in", "slow down 30000"],
        "over all addresses"
    );
    assert_eq!(admit("b", "topic/x", 1), "in", "each sender has its own");
    let shared = ["a", "b", "c"].map(|from| admit(from, "topic/shared", 1));
    assert_eq!(shared, ["in", "in", "too many messages 3600000"], "over all senders");
    let long = "x".repeat(256);
    assert_eq!([admit(&long, "topic/x", 1), admit(&long, "topic/x", 1)], ["in", "slow down 30000"]);
    assert_eq!(host.policy("p").unwrap().kept.buckets, 4);
    assert_eq!(admit("a", "topic/fast", 1), "in");
    eventually("its bucket gains a token", || (admit("a", "topic/fast", 1) == "in").then_some(()));
}

#[test]
fn a_limit_goes_on_over_a_change_of_other_rules() {
    let limit =
        json!({"when": {"address": "topic/a"}, "then": {"limit": {"per_hour": 1, "burst": 3, "by": "rule"}}});
    let (host, mut policies) = ruled("admission", &json!([limit]));
    let mut taken = |count: usize| {
        policies.bound("topic/a");
        (0..count).filter(|_| policies.admit(&message("topic/a", &[])) == Admittance::Admitted).count()
    };
    assert_eq!(taken(2), 2);
    put(&host, "p", "admission", &json!([{"when": {"address": "topic/x"}, "then": "accept"}, limit]));
    assert_eq!(taken(3), 1);
}

#[test]
fn limits_of_other_rates_share_nothing() {
    let limit = |limit: Value| json!([{"when": {"address": "topic/a"}, "then": {"limit": limit}}]);
    let slow = limit(json!({"per_hour": 2, "by": "rule"}));
    let (host, mut policies) = ruled("admission", &slow);
    let mut taken = |from: &str, count: usize| {
        policies.bound("topic/a");
        let message = Message { from, ..message("topic/a", &[]) };
        (0..count).filter(|_| policies.admit(&message) == Admittance::Admitted).count()
    };
    assert_eq!(taken("alice", 5), 2, "an hour's worth");
    put(&host, "p", "admission", &limit(json!({"per_second": 1_000_000, "by": "rule"})));
    assert_eq!(taken("alice", 5), 5, "the loosened limit does not wait for the hour of the tight one");
    // The other way around: a slow canary beside a fast version takes nothing from it.
    let canary = rules("admission", &slow, &json!({"canary_percent": 50}));
    host.put_policy("p", canary, "test").unwrap();
    let senders: Vec<String> = (0..40).map(|n| format!("user-{n}")).collect();
    let by_sender: Vec<usize> = senders.iter().map(|from| taken(from, 3)).collect();
    let refused = by_sender.iter().filter(|&&count| count == 0).count();
    let admitted = by_sender.iter().filter(|&&count| count == 3).count();
    assert!(refused > 5 && admitted > 5 && refused + admitted == 40, "{by_sender:?}");
}

fn settings() -> Settings {
    Settings::of_kind(Kind::Topic)
}

fn plan(policies: &mut WorkerPolicies, address: &str, settings: &Settings) -> Option<Acknowledgement> {
    policies.bound(address);
    policies.plan(&message(address, &[]), settings)
}

#[test]
fn ack_rules_change_what_they_name() {
    let full = json!({
        "level": "delivered", "quorum": 2, "timeout_ms": 70, "attempts": 9, "backoff_ms": 5, "backoff_max_ms": 6,
        "backoff_jitter_percent": 0, "exhausted": "drop"
    });
    let table = json!([
        {"when": {"address": "topic/none"}, "then": "continue"},
        {"when": {"address": "topic/failures"}, "then": {"on": {"nack": "give_up"}}},
        {"when": {"address": "topic/full"}, "then": full},
        {"when": {"address": "topic/slow"}, "then": {"backoff_ms": 3_600_000}},
        {"when": {"address": "topic/fast"}, "then": {"backoff_max_ms": 100, "quorum": "any"}},
        {"when": {"priority_min": 4}, "then": {"level": "stored"}},
    ]);
    let (host, mut policies) = ruled("ack", &table);
    let configured = settings();
    let mut planned = |address: &str| plan(&mut policies, address, &configured);
    assert_eq!(planned("topic/none"), None);
    let mut planned = |address: &str| planned(address).unwrap();
    let expected = AckPlan {
        quorum: Quorum::Count(2),
        timeout_ms: 70,
        attempts: 9,
        backoff: Backoff { initial_ms: 5, max_ms: 6, jitter_percent: 0 },
        exhausted: Exhausted::Drop,
    };
    assert_eq!(planned("topic/full"), Acknowledgement { level: Level::Delivered, plan: expected });
    let backoff = |initial_ms, max_ms| Backoff { initial_ms, max_ms, ..configured.ack.backoff };
    assert_eq!(planned("topic/slow").plan.backoff, backoff(3_600_000, 3_600_000));
    assert_eq!(
        planned("topic/fast").plan,
        AckPlan { quorum: Quorum::Any, backoff: backoff(100, 100), ..configured.ack }
    );
    assert_eq!(
        planned("topic/failures").level,
        Level::Stored,
        "a rule about failures says nothing about plans"
    );
    let never = Settings { keep: Keep::Never, ..settings() };
    assert_eq!(plan(&mut policies, "topic/b", &never), None);
    assert_eq!(outcome(&host, "p", "bad_verdict"), 1, "what the address cannot keep is no plan for it");
}

/// A failure on `address` of alice's message, handed to `ask`.
fn fail<T>(
    address: &str,
    (cause, attempt, waited_ms): (Cause, u16, u64),
    ask: impl FnOnce(&Failure<'_>) -> T,
) -> T {
    let (to, alice, plan) = (to(address), Name::parse("alice").unwrap(), AckPlan::default());
    ask(&Failure {
        to: &to,
        from: Some(&alice),
        id: MessageId::new(1, 1, 0, 1),
        messages: 2,
        recipient: &Recipient::User(Name::parse("bob").unwrap()),
        cause,
        attempt,
        waited_ms,
        retry_ms: None,
        plan: &plan,
        random: 7,
    })
}

#[test]
fn ack_rules_decide_about_failures_by_cause() {
    let on = json!({
        "timeout": {"retry_ms": 20}, "nack": "give_up", "queue_full": {"wait_ms": 500}, "offline": {"wait_ms": 1_000}
    });
    let table = json!([
        {"when": {"header": {"a": null}}, "then": {"level": "stored"}},
        {"when": {"address": "topic/a", "sender": "bob"}, "then": {"on": {"timeout": "give_up"}}},
        {"when": {"address": "topic/a", "sender": "alice"}, "then": {"on": on}},
        {"when": {"address": "topic/b"}, "then": "continue"},
        {"then": {"on": {"timeout": "give_up"}}},
    ]);
    let (_host, mut policies) = ruled("ack", &table);
    let mut failed = |address: &str, failure| fail(address, failure, |failure| policies.failed(failure));
    let (retry, wait) = (|after_ms| Decision::Retry { after_ms }, |at_most_ms| Decision::Wait { at_most_ms });
    assert_eq!(failed("topic/a", (Cause::Timeout, 1, 0)), retry(20));
    assert_eq!(failed("topic/a", (Cause::Timeout, 4, 0)), retry(20));
    assert_eq!(failed("topic/a", (Cause::Timeout, 5, 0)), Decision::GiveUp, "the plan has five attempts");
    assert_eq!(failed("topic/a", (Cause::Nack, 1, 0)), Decision::GiveUp);
    assert_eq!(failed("topic/a", (Cause::QueueFull, 1, 0)), wait(500));
    assert_eq!(failed("topic/a", (Cause::Offline, 0, 300)), wait(700));
    assert_eq!(failed("topic/a", (Cause::Offline, 0, 1_000)), Decision::GiveUp);
    assert_eq!(failed("topic/c", (Cause::Timeout, 1, 0)), Decision::GiveUp);
    for (address, failure) in [
        ("topic/a", (Cause::ConnectionLost, 1, 0)),
        ("topic/b", (Cause::Timeout, 1, 0)),
        ("topic/c", (Cause::Nack, 1, 0)),
    ] {
        let by_plan = fail(address, failure, |failure| BySettings.failed(failure));
        assert_eq!(failed(address, failure), by_plan, "{address} {failure:?}");
    }
}

fn overflow(
    policies: &mut WorkerPolicies,
    address: &str,
    recipient: &str,
    (priority, size_bytes): (u8, usize),
) -> Overflow {
    let to = to(address);
    assert!(policies.has_overflow(address));
    policies.overflow(&Overflowed {
        to: &to,
        recipient,
        priority,
        size_bytes,
        queued_bytes: 1_000,
        queued_bytes_max: 1_050,
        configured: Overflow::DropNewest,
    })
}

#[test]
fn overflow_rules_do_what_they_say() {
    let table = json!([
        {"when": {"address": "topic/a", "priority_min": 7}, "then": "spill"},
        {"when": {"address": "topic/a", "size_min": 1_000}, "then": "drop_oldest"},
        {"when": {"recipient": "kiosk-*"}, "then": "close"},
        {"when": {"address": "topic/a"}, "then": "conflate"},
        {"when": {"address": "topic/b"}, "then": "continue"},
    ]);
    let (host, mut policies) = ruled("overflow", &table);
    let mut asked = |address, recipient, what| overflow(&mut policies, address, recipient, what);
    assert_eq!(asked("topic/a", "bob/phone/1", (7, 2_000)), Overflow::Spill);
    assert_eq!(asked("topic/a", "bob/phone/1", (6, 1_000)), Overflow::DropOldest);
    assert_eq!(asked("topic/a", "kiosk-1//2", (6, 999)), Overflow::Close);
    assert_eq!(asked("topic/a", "bob/kiosk-1/1", (6, 999)), Overflow::Conflate);
    assert_eq!(asked("topic/b", "bob//1", (0, 1)), Overflow::DropNewest);
    assert_eq!(asked("topic/c", "bob//1", (0, 1)), Overflow::DropNewest, "none matches");
    put(&host, "p", "overflow", &json!([{"then": "drop_newest"}]));
    assert_eq!(overflow(&mut policies, "topic/a", "kiosk-1//2", (9, 1)), Overflow::DropNewest);
}

/// The same policy as a plugin and as rules, side by side over everything that could make a difference to it.
#[test]
fn rules_decide_as_a_plugin_that_says_the_same() {
    let host = sized_host(1, 6);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    host.upload("mirror", &built("route-mirror"), "test").unwrap();
    let plugin = |hook: &str, plugin: &str, config: Value| {
        let more =
            json!({"hook": hook, "config": config, "limits": {"deadline_ms": 1_000, "cpu_share": 1.0}});
        host.put_policy(hook, document(plugin, &["topic/>"], more), "test").unwrap();
    };
    let shadow = |hook: &str, table: Value| {
        host.put_policy(hook, rules(hook, &table, &json!({"mode": "shadow"})), "test").unwrap();
    };
    plugin("routing", "mirror", json!({"to": "topic/audit"}));
    shadow("routing", json!([{"then": {"mirror": "topic/audit"}}]));
    let acking = json!({"level": "delivered", "attempts": 3, "timeout_ms": 70, "backoff_ms": 40_000, "exhausted": "drop"});
    let on_nack = json!({"retry-ms": 20});
    let mut config = acking.clone();
    config["on_nack"] = on_nack;
    plugin("ack", "decide", json!({ "ack": config }));
    let mut then = acking;
    then["on"] = json!({"nack": {"retry_ms": 20}});
    shadow("ack", json!([{ "then": then }]));
    plugin("overflow", "decide", json!({"overflow": "conflate"}));
    shadow("overflow", json!([{"then": "conflate"}]));
    let mut policies = host.worker(0);
    for number in 0_u8..40 {
        let address =
            if number % 4 == 0 { "topic/audit".to_owned() } else { format!("topic/{}", number % 7) };
        let from = format!("user-{}", number % 5);
        let message = Message { from: &from, priority: number % 10, ..message(&address, &[]) };
        route(&mut policies, &message);
        policies.plan(&message, &settings());
        let cause = Cause::ALL[usize::from(number) % 5];
        fail(&address, (cause, u16::from(number % 3), u64::from(number)), |failure| policies.failed(failure));
        overflow(&mut policies, &address, "bob//1", (number % 10, usize::from(number)));
    }
    for (hook, asked) in [("routing", 40), ("ack", 80), ("overflow", 40)] {
        let comparison = host.policy(hook).unwrap().candidate.unwrap().comparison.unwrap();
        assert_eq!(
            (comparison.same, comparison.different, comparison.failed),
            (asked, 0, 0),
            "{hook}: {comparison:?}"
        );
    }
}

#[test]
fn a_policy_goes_from_plugin_to_rules_and_back() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    let stamped = json!({ "config": { "stamp": "plugin" } });
    host.put_policy("p", document("stamp", &["topic/>"], stamped), "test").unwrap();
    let mut policies = host.worker(0);
    let mut stamp = || decide(&mut policies, "topic/a").set_headers[0].1.clone();
    assert_eq!(stamp(), "plugin");
    let table = json!([{"then": {"set_headers": {"stamp": "rules"}}}]);
    let state = put(&host, "p", "routing", &table);
    let (current, previous) = (state.current.unwrap(), state.previous.unwrap());
    assert_eq!((current.revision, current.version.len()), (None, "rules@".len() + 8));
    assert!(current.version[6..] == current.digest[..8] && current.digest.len() == 64, "{current:?}");
    assert_eq!((previous.revision, &*previous.version), (Some(1), "stamp@1"));
    assert_eq!(stamp(), "rules");
    assert!(host.remove_plugin("stamp", "test").is_err(), "a rollback needs it");
    host.rollback("p", None, "test").unwrap();
    assert_eq!(stamp(), "plugin");
    let back = host.rollback("p", None, "test").unwrap();
    assert_eq!((stamp(), &*back.current.unwrap().version), ("rules".to_owned(), &*current.version));
    let last = back.last_rollback.unwrap();
    assert_eq!((&*last.from, &*last.to), ("stamp@1", &*current.version));
    // Two changes on nothing of the plugin is left.
    put(&host, "p", "routing", &json!([{"then": {"set_headers": {"stamp": "more"}}}]));
    host.remove_plugin("stamp", "test").unwrap();
    assert_eq!(stamp(), "more");
}

#[test]
fn rules_are_tried_beside_a_plugin() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    let config = json!({ "config": { "stamp": "1" } });
    host.put_policy("p", document("stamp", &["topic/>"], config), "test").unwrap();
    let table = json!([
        {"when": {"sender": "alice"}, "then": {"set_headers": {"stamp": "1", "stamp-build": "1"}}},
        {"then": {"set_headers": {"stamp": "2"}}},
    ]);
    let shadow = host.put_policy("p", rules("routing", &table, &json!({"mode": "shadow"})), "test").unwrap();
    let version = shadow.candidate.unwrap().version;
    assert!(version.version.starts_with("rules@") && shadow.current.unwrap().version == "stamp@1");
    let mut policies = host.worker(0);
    let mut stamp = |from: &str| {
        let Outcome::Decided(verdict) = route(&mut policies, &Message { from, ..message("topic/a", &[]) })
        else {
            panic!()
        };
        verdict.set_headers[0].1.clone()
    };
    assert_eq!([stamp("alice"), stamp("bob"), stamp("bob")], ["1", "1", "1"]);
    let comparison = host.policy("p").unwrap().candidate.unwrap().comparison.unwrap();
    assert_eq!((comparison.same, comparison.different), (1, 2), "{comparison:?}");
    host.put_policy("p", rules("routing", &table, &json!({"canary_percent": 50})), "test").unwrap();
    let senders: Vec<String> = (0..40).map(|n| format!("user-{n}")).collect();
    let tried = senders.iter().filter(|from| stamp(from) == "2").count();
    assert!((5..35).contains(&tried), "{tried} of 40 senders");
    host.promote("p", None, "test").unwrap();
    assert_eq!(stamp("bob"), "2");
    let config = json!({ "config": { "stamp": "3" }, "on_failure": "previous" });
    host.put_policy("p", document("stamp", &["topic/>"], config), "test").unwrap();
    assert_eq!(stamp("bob"), "3");
}

#[test]
fn documents_have_a_plugin_or_good_rules() {
    let host = host(1);
    let refuse = |document: Value| {
        let document: PolicyDocument = serde_json::from_value(document).unwrap();
        match host.put_policy("p", document, "test").unwrap_err() {
            PutError::Invalid { field, reason } => (field.into_owned(), reason),
            other => panic!("{other}"),
        }
    };
    let base = |more: Value| {
        let mut base = json!({"hook": "routing", "match": ["all"]});
        more.as_object().unwrap().iter().for_each(|(key, value)| base[key] = value.clone());
        base
    };
    let (field, reason) = refuse(base(json!({})));
    assert_eq!((&*field, &*reason), ("plugin", "a policy has either `plugin` or `rules`; this has neither"));
    assert_eq!(refuse(base(json!({"plugin": "p", "rules": [{"then": "continue"}]}))).0, "rules");
    assert_eq!(refuse(base(json!({"rules": []}))).0, "rules");
    let wrong = json!({"rules": [{"then": "continue"}, {"then": {"to": "nowhere"}}]});
    let (field, reason) = refuse(base(wrong));
    assert_eq!(field, "rules[1].then.to");
    assert!(reason.starts_with("\"nowhere\" is not an address"), "{reason}");
    assert_eq!(
        refuse(base(json!({"rules": [{"then": "accept"}]}))).0,
        "rules[0].then",
        "a word of another hook"
    );
    assert_eq!((host.generation(), host.policies().len()), (0, 0));
}

#[test]
fn rules_outlive_the_host() {
    let shelf = Arc::new(Shelf::default());
    let open = || {
        let host = host(1);
        let restored = host.open_archive(Arc::clone(&shelf) as _).unwrap();
        (host, restored)
    };
    let (first, _) = open();
    first.upload("stamp", &built("stamp-a"), "test").unwrap();
    let config = json!({ "config": { "stamp": "plugin" } });
    first.put_policy("p", document("stamp", &["topic/>"], config), "test").unwrap();
    let before = put(&first, "p", "routing", &json!([{"then": {"set_headers": {"stamp": "rules"}}}]));
    let version = before.current.as_ref().unwrap().version.clone();
    let change = shelf.last_change();
    assert_eq!((&*change.what, &*change.from, &*change.to), ("policy put", "stamp@1", &*version));
    let canary = rules("routing", &json!([{"then": "deliver"}]), &json!({"canary_percent": 1}));
    let tried = first.put_policy("p", canary, "test").unwrap().candidate.unwrap().version;
    drop(first);
    let (second, restored) = open();
    assert_eq!((restored.policies, restored.refused_policies, restored.generation), (1, 0, 3));
    let state = second.policy("p").unwrap();
    assert_eq!((&state.current, &state.previous), (&before.current, &before.previous));
    assert_eq!(state.candidate.unwrap().version, tried);
    let mut policies = second.worker(0);
    assert_eq!(decide(&mut policies, "topic/a").set_headers, headers(&[("stamp", "rules")]));
    second.rollback("p", None, "test").unwrap();
    second.rollback("p", None, "test").unwrap();
    assert_eq!(decide(&mut policies, "topic/a").set_headers[0].1, "plugin");
    drop((second, policies));
    // Without its component the plugin's version is refused, and so is the policy; rules need none.
    shelf.lose_components();
    let (third, restored) = open();
    assert_eq!((restored.policies, restored.refused_policies), (0, 1));
    assert_eq!(third.refused_policies()[0].version, "stamp@1");
    put(&third, "p", "routing", &json!([{"then": {"set_headers": {"stamp": "again"}}}]));
    drop(third);
    let (fourth, restored) = open();
    assert_eq!((restored.policies, restored.refused_policies), (1, 0));
    assert_eq!(decide(&mut fourth.worker(0), "topic/a").set_headers, headers(&[("stamp", "again")]));
}

#[test]
fn rules_that_are_not_what_they_were_are_refused_at_a_start() {
    let shelf = Arc::new(Shelf::default());
    let open = || {
        let host = host(1);
        (host.open_archive(Arc::clone(&shelf) as _).unwrap(), host)
    };
    let (_, first) = open();
    let before = put(&first, "p", "routing", &json!([{"then": {"drop": "before"}}])).current.unwrap();
    drop(first);
    shelf.edit_manifest("before", "after!");
    let (restored, second) = open();
    assert_eq!((restored.policies, restored.refused_policies), (0, 1));
    let refused = second.refused_policies().remove(0);
    assert_eq!((refused.revision, &refused.version), (None, &before.version));
    let expected = format!("its rules were changed: expected digest {}, found ", before.digest);
    assert!(refused.reason.starts_with(&expected) && refused.digest == before.digest, "{}", refused.reason);
    assert_eq!(decide(&mut second.worker(0), "topic/a").route, Route::Continue, "it decides nothing");
}
