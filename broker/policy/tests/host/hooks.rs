//! Hooks other than routing, asked through a guest that has all of them.

use crate::guests::{Guest, built};
use crate::{host, message, outcome};
use serde_json::json;
use std::sync::Arc;
use waspmq_core::address::{Address, Kind, Name};
use waspmq_core::delivery::{AckPlan, Cause, Exhausted, Recipient};
use waspmq_core::level::Level;
use waspmq_core::policy::{
    Acking, Acknowledgement, Admission, Admittance, Bound, BySettings, Decision, Failure, Overflowed,
    Overflowing, Policies,
};
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{Hook, Host, PolicyDocument, PutError};

fn deciding(policies: &[(&str, &str, serde_json::Value)]) -> Arc<Host> {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    policies.iter().for_each(|(name, hook, more)| put(&host, name, hook, more.clone()).unwrap());
    host
}

fn put(host: &Host, name: &str, hook: &str, more: serde_json::Value) -> Result<(), PutError> {
    let mut document = json!({ "hook": hook, "plugin": "decide", "match": ["topic/>"] });
    let fields = document.as_object_mut().unwrap();
    more.as_object().unwrap().iter().for_each(|(key, value)| {
        fields.insert(key.clone(), value.clone());
    });
    let document = serde_json::from_value::<PolicyDocument>(document).unwrap();
    host.put_policy(name, document, "test").map(|_| ())
}

fn settings() -> Settings {
    Settings::of_kind(Kind::Topic)
}

/// A failure of the first attempt of alice's message for bob, handed to `ask`.
pub(crate) fn fail<T>(cause: Cause, ask: impl FnOnce(&Failure<'_>) -> T) -> T {
    let (to, alice) = (Address::parse("topic/a").unwrap(), Name::parse("alice").unwrap());
    let plan = AckPlan::default();
    ask(&Failure {
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
        random: 7,
    })
}

#[test]
fn a_component_tells_its_hooks_and_a_document_has_to_name_one_of_them() {
    let host = host(1);
    let revision = host.upload("decide", &built("guest-decide"), "test").unwrap();
    assert_eq!(revision.hooks, Hook::ALL);
    host.upload("route", &Guest::default().build(), "test").unwrap();
    let document = json!({ "hook": "ack", "plugin": "route", "match": ["all"] });
    let document = serde_json::from_value::<PolicyDocument>(document).unwrap();
    let refused = host.put_policy("p", document, "test").unwrap_err().to_string();
    assert_eq!(refused, "hook: route@1 has no hook ack, it has routing");
}

#[test]
fn only_the_bound_hooks_are_asked() {
    let host = deciding(&[("a", "ack", json!({})), ("o", "overflow", json!({}))]);
    let mut policies = host.worker(0);
    assert_eq!(policies.bound("topic/a"), Bound { acking: true, overflow: true, ..Bound::default() });
    assert_eq!(policies.bound("user/a"), Bound::default());
    assert!(policies.has_overflow("topic/a") && !policies.has_overflow("user/a"));
    assert_eq!(policies.admit(&message("topic/a", &[])), Admittance::Admitted);
    assert_eq!(outcome(&host, "a", "ok") + outcome(&host, "o", "ok"), 0);
}

#[test]
fn plans_and_failures() {
    let plan =
        json!({ "ack": { "level": "delivered", "attempts": 2, "exhausted": "drop", "on_nack": "give-up" } });
    let host =
        deciding(&[("silent", "ack", json!({ "order": 1 })), ("plan", "ack", json!({ "config": plan }))]);
    let mut policies = host.worker(0);
    policies.bound("topic/a");
    let asked = policies.plan(&message("topic/a", &[]), &settings());
    let expected = AckPlan { attempts: 2, exhausted: Exhausted::Drop, ..settings().ack };
    assert_eq!(asked, Some(Acknowledgement { level: Level::Delivered, plan: expected }));
    assert_eq!(outcome(&host, "silent", "ok"), 1, "it was asked and passed");
    assert_eq!(fail(Cause::Nack, |failure| policies.failed(failure)), Decision::GiveUp);
    let (by_policy, by_settings) =
        fail(Cause::Timeout, |failure| (policies.failed(failure), BySettings.failed(failure)));
    assert_eq!(by_policy, by_settings, "what no policy decides, the plan says");
    let calls = || outcome(&host, "plan", "ok");
    let before = calls();
    assert_eq!(fail(Cause::Expired, |failure| policies.failed(failure)), Decision::GiveUp);
    assert_eq!(calls(), before, "nobody is asked about what is of no more use");
    assert_eq!(host.policy("plan").unwrap().counters["failed"], 4);
}

#[test]
fn a_sample_of_a_shadow_names_the_message_that_was_not_delivered() {
    let on_nack = |what: serde_json::Value| json!({ "ack": { "level": "delivered", "on_nack": what } });
    let host = deciding(&[("a", "ack", json!({ "config": on_nack(json!("give-up")) }))]);
    let shadow = on_nack(json!({ "retry-ms": 7 }));
    put(&host, "a", "ack", json!({ "mode": "shadow", "config": shadow })).unwrap();
    let mut policies = host.worker(0);
    assert_eq!(fail(Cause::Nack, |failure| policies.failed(failure)), Decision::GiveUp);
    let compared = host.policy("a").unwrap().candidate.unwrap().comparison.unwrap();
    let sample = &compared.samples[0];
    assert_eq!(sample.id, Some(MessageId::new(1, 1, 0, 1).to_string()));
    assert_eq!((sample.sender.as_str(), sample.address.as_str()), ("alice", "topic/a"));
    assert_eq!((&sample.active, &sample.shadow), (&json!("give-up"), &json!({ "retry_ms": 7 })));
    // A message that is being published has no id yet.
    let plan = json!({ "ack": { "level": "delivered", "attempts": 2 } });
    put(&host, "a", "ack", json!({ "mode": "shadow", "config": plan })).unwrap();
    policies.bound("topic/a");
    policies.plan(&message("topic/a", &[]), &settings());
    let compared = host.policy("a").unwrap().candidate.unwrap().comparison.unwrap();
    assert_eq!((compared.different, &compared.samples[0].id), (1, &None));
}

#[test]
fn a_plan_outside_of_the_bounds_is_a_failure_and_the_configured_one_holds() {
    for (mode, served) in [("open", 1), ("closed", 0)] {
        let bad = json!({ "config": { "ack": { "level": "delivered", "attempts": 0 } }, "on_failure": mode, "order": 1 });
        let good = json!({ "config": { "ack": { "level": "stored" } } });
        let host = deciding(&[("bad", "ack", bad), ("good", "ack", good)]);
        let mut policies = host.worker(0);
        policies.bound("topic/a");
        let asked = policies.plan(&message("topic/a", &[]), &settings());
        let good = Acknowledgement { level: Level::Stored, plan: settings().ack };
        assert_eq!(asked, (mode == "open").then_some(good));
        assert_eq!((outcome(&host, "bad", "bad_verdict"), outcome(&host, "good", "ok")), (1, served));
        assert_eq!(host.policy("bad").unwrap().instances.replaced, 0, "the instance is as good as before");
    }
}

#[test]
fn admission_takes_tokens_and_tells_when_to_come_again() {
    let bucket = json!({ "amount": 1_000, "per_second": 1, "burst": 2_000, "retry_ms": 50 });
    let host = deciding(&[("a", "admission", json!({ "config": { "admission": bucket } }))]);
    let mut policies = host.worker(0);
    policies.bound("topic/a");
    let mut admit = || policies.admit(&message("topic/a", &[]));
    assert_eq!([admit(), admit()], [Admittance::Admitted, Admittance::Admitted]);
    let refused = Admittance::Refused { reason: "too many at once".to_owned(), retry_ms: 50 };
    assert_eq!([admit(), admit()], [refused.clone(), refused]);
    let day_ms = 24 * 3_600_000;
    let bucket = json!({ "amount": 1, "per_second": 0, "burst": 0, "retry_ms": day_ms + 1 });
    let bad = json!({ "config": { "admission": bucket }, "on_failure": "closed" });
    put(&host, "a", "admission", bad).unwrap();
    policies.bound("topic/a");
    let failed = Admittance::Failed("policy a failed (bad_verdict)".to_owned());
    assert_eq!(policies.admit(&message("topic/a", &[])), failed);
}

#[test]
fn overflow_is_decided_or_as_configured() {
    let host = deciding(&[]);
    let mut policies = host.worker(0);
    let to = Address::parse("topic/a").unwrap();
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
    for (config, expected) in [
        (json!({}), Overflow::DropNewest),
        (json!({ "overflow": "close" }), Overflow::Close),
        (json!({ "overflow": "conflate" }), Overflow::Conflate),
        (json!({ "overflow": "spill" }), Overflow::Spill),
        (json!({ "overflow": "drop-oldest" }), Overflow::DropOldest),
    ] {
        put(&host, "o", "overflow", json!({ "config": config })).unwrap();
        assert!(policies.has_overflow("topic/a"));
        assert_eq!(policies.overflow(&what), expected, "{config}");
    }
    let bytes = host.policy("o").unwrap().histograms["overflow_bytes"];
    assert_eq!((bytes.count, bytes.sum), (5, 500));
}
