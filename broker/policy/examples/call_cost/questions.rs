//! The questions whose price is measured: each hook, with and without text in its answer.

use crate::Fallible;
use crate::hosts;
use serde_json::{Value, json};
use std::cell::Cell;
use std::hint::black_box;
use waspmq_core::address::{Address, Name};
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::delivery::{AckPlan, Cause, Recipient};
use waspmq_core::policy::{
    Acking as _, Admission as _, Compressing as _, Failure, Message, Overflowed, Overflowing as _,
    Policies as _, Route, Routing as _, Verdict,
};
use waspmq_core::settings::{Overflow, Settings};
use waspmq_core::{Kind, MessageId};
use waspmq_policy::WorkerPolicies;

/// A question to one policy, and the same decision natively where that is a routing decision.
pub(crate) struct Question {
    pub(crate) what: &'static str,
    pub(crate) plugin: &'static str,
    /// Further fields of the policy's document.
    pub(crate) document: Value,
    pub(crate) ask: fn(&mut WorkerPolicies, &Subject),
    pub(crate) native: Option<fn(&Message<'_>) -> Verdict>,
}

/// What questions are about.
pub(crate) struct Subject {
    headers: Vec<(String, String)>,
    to: Address,
    recipient: Recipient,
    sender: Name,
    settings: Settings,
    plan: AckPlan,
    /// Messages asked about.
    count: Cell<u64>,
}

impl Subject {
    pub(crate) fn new() -> Fallible<Self> {
        Ok(Self {
            headers: vec![("region".to_owned(), "eu-central".to_owned())],
            to: Address::parse("topic/orders.eu.created")?,
            recipient: Recipient::User(Name::parse("bob")?),
            sender: Name::parse("alice")?,
            settings: Settings::of_kind(Kind::Topic),
            plan: AckPlan::default(),
            count: Cell::new(0),
        })
    }

    pub(crate) fn message(&self) -> Message<'_> {
        hosts::message(&self.headers)
    }
}

pub(crate) fn all() -> Vec<Question> {
    let routing = |what, plugin, config, native| Question {
        what,
        plugin,
        document: json!({ "config": config }),
        ask: route,
        native: Some(native),
    };
    let other = |what, hook, ask| Question {
        what,
        plugin: "guest-decide",
        document: json!({ "hook": hook }),
        ask,
        native: None,
    };
    let admission = |what, how| Question {
        what,
        plugin: "guest-plain",
        document: json!({ "hook": "admission", "config": { "how": how, "to": "too much" } }),
        ask: admit,
        native: None,
    };
    vec![
        routing("route, no strings: continue", "guest-plain", json!({ "how": "pass" }), |_| {
            Verdict::default()
        }),
        routing("route, headers and payload shown", "guest-echo", json!({ "how": "pass" }), |_| {
            Verdict::default()
        }),
        routing(
            "route, strings: redirect",
            "guest-plain",
            json!({ "how": "redirect", "to": "topic/orders.us" }),
            |_| Verdict {
                route: Address::parse("topic/orders.us").map_or(Route::Continue, Route::Redirect),
                ..Verdict::default()
            },
        ),
        routing("route, kept: continue", "guest-plain", json!({ "how": "keep" }), |_| Verdict::default()),
        routing(
            "route, a header pulled",
            "guest-echo",
            json!({ "how": "header", "to": "region" }),
            by_header,
        ),
        routing("route-consistent-hash: pick", "route-consistent-hash", json!({ "queue": "w" }), |_| {
            Verdict { route: Route::Pick { version: 1, index: 3 }, ..Verdict::default() }
        }),
        routing("route-mirror: fan out to 2", "route-mirror", json!({ "to": "topic/audit" }), mirror),
        routing("stamp: 2 headers set", "stamp-a", json!({ "stamp": "x" }), |_| Verdict {
            set_headers: vec![
                ("stamp".to_owned(), "x".to_owned()),
                ("stamp-build".to_owned(), "1".to_owned()),
            ],
            ..Verdict::default()
        }),
        admission("admit, no strings: continue", "pass"),
        admission("admit, strings: refuse", "redirect"),
        other("plan: none", "ack", plan),
        other("failed, a counter: continue", "ack", failed),
        other("overflow, a histogram: continue", "overflow", overflow),
    ]
    .into_iter()
    .chain(choosing())
    .chain(shipped())
    .collect()
}

/// Choices of a codec: without a level, with one, and kept for the address.
fn choosing() -> [Question; 3] {
    let choosing = |what, compression| Question {
        what,
        plugin: "guest-decide",
        document: json!({ "hook": "compression", "config": { "compression": compression } }),
        ask: choose,
        native: None,
    };
    [
        choosing("choose, a counter: lz4", json!({ "codec": "lz4" })),
        choosing("choose, a counter: zstd at a level", json!({ "codec": { "zstd": 3 } })),
        choosing("choose, kept: lz4", json!({ "codec": "lz4", "cache": "address" })),
    ]
}

/// Policies that ship with the broker, which have no native counterpart. The message has a key.
fn shipped() -> Vec<Question> {
    let shipped = |what, plugin, config| Question {
        what,
        plugin,
        document: json!({ "config": config }),
        ask: route,
        native: None,
    };
    vec![
        shipped("route-least-loaded: pick", "route-least-loaded", json!({ "queue": "w" })),
        shipped("route-weighted: pick", "route-weighted", json!({ "queue": "w", "weights": { "user1": 3 } })),
        shipped("route-sticky-user: pick", "route-sticky-user", json!({ "queue": "w" })),
        shipped(
            "route-priority: pick",
            "route-priority",
            json!({ "queue": "w", "classes": [{ "senders": ["vip-*"], "first": 2 }] }),
        ),
        shipped(
            "route-region-canary: redirect",
            "route-region-canary",
            json!({ "regions": ["eu-*"], "to": "topic/canary.{name}" }),
        ),
        shipped(
            "filter-headers: 3 rules",
            "filter-headers",
            json!({ "rules": [
                { "header": "region", "present": false, "drop": "no region" },
                { "header": "region", "equals": ["us", "asia"], "to": "topic/far" },
                { "header": "region", "prefix": ["eu-"], "deliver": true }
            ] }),
        ),
        Question {
            what: "ack-tiers: plan",
            plugin: "ack-tiers",
            document: json!({ "hook": "ack", "config": { "tiers": [
                { "match": ["topic/paid.>"], "level": "delivered" },
                { "match": ["topic/orders.>"], "attempts": 3, "waits_ms": [100, 1_000] }
            ] } }),
            ask: plan,
            native: None,
        },
    ]
}

fn by_header(message: &Message<'_>) -> Verdict {
    match message.headers.iter().find(|(name, _)| name == "region") {
        Some((_, value)) if value == "drop" => {
            Verdict { route: Route::Drop("asked to".to_owned()), ..Verdict::default() }
        }
        _ => Verdict::default(),
    }
}

fn mirror(message: &Message<'_>) -> Verdict {
    let route = Address::parse(message.to)
        .and_then(|to| Ok(Route::FanOut(vec![to, Address::parse("topic/audit")?])))
        .unwrap_or_default();
    Verdict { route, ..Verdict::default() }
}

/// As a broker asks: which hooks are bound, then the one; and what was decided is remembered under the message's id.
fn route(policies: &mut WorkerPolicies, subject: &Subject) {
    let message = black_box(subject.message());
    if policies.bound(message.to).routing {
        black_box(policies.route(&message));
    }
    name(policies, subject);
}

fn name(policies: &mut WorkerPolicies, subject: &Subject) {
    let trace = policies.trace();
    subject.count.set(subject.count.get() + 1);
    policies.name(trace, MessageId::new(1_700_000_000_000, 1, 0, subject.count.get()));
}

fn admit(policies: &mut WorkerPolicies, subject: &Subject) {
    let message = black_box(subject.message());
    if policies.bound(message.to).admission {
        black_box(policies.admit(&message));
    }
    name(policies, subject);
}

fn plan(policies: &mut WorkerPolicies, subject: &Subject) {
    let message = black_box(subject.message());
    if policies.bound(message.to).acking {
        black_box(policies.plan(&message, &subject.settings));
    }
    name(policies, subject);
}

fn failed(policies: &mut WorkerPolicies, subject: &Subject) {
    black_box(policies.failed(black_box(&Failure {
        to: &subject.to,
        from: Some(&subject.sender),
        id: MessageId::new(1_700_000_000_000, 1, 0, 1),
        messages: 1,
        recipient: &subject.recipient,
        cause: Cause::Timeout,
        attempt: 1,
        waited_ms: 1_000,
        retry_ms: None,
        plan: &subject.plan,
        random: 7,
    })));
}

fn choose(policies: &mut WorkerPolicies, subject: &Subject) {
    const AUDIENCE: Audience = Audience { codecs: Codecs::LZ4.with(Codecs::ZSTD), has_dictionary: false };
    let message = black_box(subject.message());
    if policies.has_compression(message.to) {
        let id = MessageId::new(1_700_000_000_000, 1, 0, 1);
        black_box(policies.choose(&message, id, black_box(AUDIENCE)));
    }
}

fn overflow(policies: &mut WorkerPolicies, subject: &Subject) {
    let what = black_box(Overflowed {
        to: &subject.to,
        recipient: "bob/phone/7",
        priority: 4,
        size_bytes: 128,
        queued_bytes: 1 << 20,
        queued_bytes_max: 1 << 20,
        configured: Overflow::DropOldest,
    });
    if policies.has_overflow(what.to.as_str()) {
        black_box(policies.overflow(&what));
    }
}
