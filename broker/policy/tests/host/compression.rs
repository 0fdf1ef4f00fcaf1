//! The hook `compression`: what policies choose, for whom, who chose it, and what is told about it afterwards.

use crate::archive::{Shelf, next};
use crate::guests::built;
use crate::{document, host, message, outcome};
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::address::Name;
use waspmq_core::compression::{Audience, Codec, Codecs};
use waspmq_core::policy::{Bound, Chosen, Compressing, Message, Policies, Work};
use waspmq_policy::{Compressed, Host, WorkerPolicies};

const ALL: Codecs = Codecs::LZ4.with(Codecs::ZSTD).with(Codecs::DICTIONARY).with(Codecs::DEFLATE);

fn takes(codecs: Codecs) -> Audience {
    Audience { codecs, has_dictionary: false }
}

fn id(count: u64) -> MessageId {
    MessageId::new(1, 1, 0, count)
}

fn deciding() -> Arc<Host> {
    let host = host(1);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    host
}

/// Puts a policy that chooses this codec, changed by `more`.
fn put(host: &Host, name: &str, codec: &Value, more: Value) {
    let mut all = json!({ "hook": "compression", "config": { "compression": { "codec": codec } } });
    let fields = all.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    host.put_policy(name, document("decide", &["topic/>"], all), "test").unwrap();
}

fn choose(policies: &mut WorkerPolicies, message: &Message<'_>, audience: Audience) -> Option<Chosen> {
    assert!(policies.has_compression(message.to));
    policies.choose(message, id(1), audience)
}

fn codec(policies: &mut WorkerPolicies) -> Option<Codec> {
    choose(policies, &message("topic/a", &[]), takes(ALL)).map(|chosen| chosen.codec)
}

#[test]
fn every_codec_can_be_chosen() {
    let host = deciding();
    let mut policies = host.worker(0);
    assert!(!policies.has_compression("topic/a"));
    let orders = Name::parse("orders").unwrap();
    for (config, expected) in [
        (json!("none"), Codec::Plain),
        (json!("lz4"), Codec::Lz4),
        (json!({"zstd": -7}), Codec::Zstd { level: -7 }),
        (json!({"zstd": 9}), Codec::Zstd { level: 9 }),
        (json!({"dictionary": ""}), Codec::Dictionary { name: None }),
        (json!({"dictionary": "orders"}), Codec::Dictionary { name: Some(orders) }),
        (json!({"deflate": 1}), Codec::Deflate { level: 1 }),
        (json!({"deflate": 9}), Codec::Deflate { level: 9 }),
    ] {
        put(&host, "p", &config, json!({}));
        assert_eq!(codec(&mut policies), Some(expected), "{config}");
    }
    put(&host, "p", &Value::Null, json!({}));
    assert_eq!(codec(&mut policies), None, "left to the broker");
    put(&host, "q", &json!("lz4"), json!({ "order": 200 }));
    assert_eq!(codec(&mut policies), Some(Codec::Lz4), "left to the next one");
    assert!(!policies.has_compression("user/a"), "not bound");
    let bound = policies.bound("topic/a");
    assert_eq!(bound, Bound { compression: true, ..Bound::default() });
    assert!(!bound.on_publish(), "nothing is asked then");
}

#[test]
fn headers_and_payload_can_be_pulled() {
    let host = deciding();
    put(&host, "p", &json!("asked"), json!({}));
    let mut policies = host.worker(0);
    let three = Message { payload: &[3, 1], ..message("topic/a", &[]) };
    let chosen = choose(&mut policies, &three, takes(ALL)).unwrap();
    assert_eq!(chosen.codec, Codec::Zstd { level: 3 });
    let headers = [("dictionary".to_owned(), "größe".to_owned())];
    let chosen = choose(&mut policies, &message("topic/a", &headers), takes(ALL)).unwrap();
    assert_eq!(chosen.codec, Codec::Dictionary { name: Some(Name::parse("größe").unwrap()) });
    let bad = Message { payload: &[10], ..message("topic/a", &[]) };
    assert_eq!(choose(&mut policies, &bad, takes(ALL)), None);
    assert_eq!((outcome(&host, "p", "ok"), outcome(&host, "p", "bad_verdict")), (2, 1));
}

#[test]
fn a_choice_for_an_address_is_asked_for_once_for_each_audience() {
    for (cache, calls) in [("address", 4), ("connection", 6), ("never", 6)] {
        let host = deciding();
        let config = json!({ "compression": { "codec": "lz4", "cache": cache } });
        put(&host, "p", &Value::Null, json!({ "config": config }));
        let mut policies = host.worker(0);
        let dictionary = Audience { has_dictionary: true, ..takes(ALL) };
        for (to, audience) in [
            ("topic/a", takes(ALL)),
            ("topic/a", takes(ALL)),
            ("topic/a", takes(Codecs::LZ4)),
            ("topic/a", dictionary),
            ("topic/a", dictionary),
            ("topic/b", takes(ALL)),
        ] {
            let chosen = choose(&mut policies, &message(to, &[]), audience).unwrap();
            assert_eq!(chosen.codec, Codec::Lz4);
        }
        assert_eq!((outcome(&host, "p", "ok"), outcome(&host, "p", "cached")), (calls, 6 - calls), "{cache}");
        put(&host, "p", &json!("none"), json!({}));
        assert_eq!(codec(&mut policies), Some(Codec::Plain), "forgotten with the generation");
    }
}

#[test]
fn failures_have_their_fallbacks() {
    let host = deciding();
    put(&host, "behind", &json!("lz4"), json!({ "order": 200 }));
    let mut policies = host.worker(0);
    for (on_failure, expected) in
        [("open", Some(Codec::Lz4)), ("closed", Some(Codec::Plain)), ("builtin", None)]
    {
        put(&host, "p", &json!({"zstd": 100}), json!({ "on_failure": on_failure }));
        assert_eq!(codec(&mut policies), expected, "{on_failure}");
    }
    put(&host, "p", &json!({"zstd": 2}), json!({}));
    put(&host, "p", &json!({"zstd": 100}), json!({ "on_failure": "previous" }));
    assert_eq!(codec(&mut policies), Some(Codec::Zstd { level: 2 }));
    // A breaker that is open serves the same without a call.
    put(&host, "p", &json!({"zstd": 100}), json!({ "on_failure": "closed" }));
    (0..10).for_each(|_| assert_eq!(codec(&mut policies), Some(Codec::Plain)));
    assert_eq!(host.policy("p").unwrap().breaker.as_str(), "open");
    assert!(outcome(&host, "p", "breaker_open") > 0);
}

#[test]
fn shadows_are_compared_and_canaries_decide_by_sender() {
    let host = deciding();
    put(&host, "p", &json!("lz4"), json!({}));
    put(&host, "p", &json!({"dictionary": "orders"}), json!({ "mode": "shadow" }));
    let mut policies = host.worker(0);
    assert_eq!(codec(&mut policies), Some(Codec::Lz4));
    let compared = host.policy("p").unwrap().candidate.unwrap().comparison.unwrap();
    let sample = &compared.samples[0];
    assert_eq!((compared.different, &sample.id), (1, &Some(id(1).to_string())));
    assert_eq!((&sample.active, &sample.shadow), (&json!("lz4"), &json!({"dictionary": "orders"})));
    put(&host, "p", &json!("none"), json!({ "canary_percent": 50 }));
    let mut senders = [0, 0];
    for n in 0..100 {
        let from = format!("user-{n}");
        let message = Message { from: &from, ..message("topic/a", &[]) };
        let chosen = choose(&mut policies, &message, takes(ALL)).unwrap();
        senders[usize::from(chosen.codec == Codec::Plain)] += 1;
        assert_eq!(choose(&mut policies, &message, takes(ALL)), Some(chosen), "the same for the same sender");
    }
    assert!(senders.iter().all(|&count| count > 20), "{senders:?}");
    host.promote("p", None, "test").unwrap();
    assert_eq!(codec(&mut policies), Some(Codec::Plain));
    host.rollback("p", None, "test").unwrap();
    assert_eq!(codec(&mut policies), Some(Codec::Lz4));
}

#[test]
fn what_came_of_a_choice_is_counted_for_its_policy() {
    let host = deciding();
    put(&host, "first", &json!("asked"), json!({ "on_failure": "open" }));
    put(&host, "second", &json!("lz4"), json!({ "order": 200 }));
    let mut policies = host.worker(0);
    let zstd = Message { payload: &[3], ..message("topic/a", &[]) };
    let bad = Message { payload: &[100], ..message("topic/a", &[]) };
    for (message, packed_bytes) in [(&zstd, 40), (&bad, 90), (&zstd, 30)] {
        let Chosen { codec, policy } = choose(&mut policies, message, takes(ALL)).unwrap();
        let work = Work { codec: &codec, plain_bytes: 100, packed_bytes, spent_ns: 1_000 };
        policies.compressed(policy, &work);
    }
    let compressed = |name: &str| host.policy(name).unwrap().compressed;
    let zstd = Compressed { messages: 2, plain_bytes: 200, packed_bytes: 70, spent_ns: 2_000 };
    let lz4 = Compressed { messages: 1, plain_bytes: 100, packed_bytes: 90, spent_ns: 1_000 };
    assert_eq!((compressed("first"), compressed("second")), (vec![("zstd", zstd)], vec![("lz4", lz4)]));
    let metrics = host.metrics();
    assert_eq!((metrics[0].hook, &metrics[0].compressed), ("compression", &vec![("zstd", zstd)]));
    let shown = serde_json::to_value(host.policy("second").unwrap()).unwrap();
    let expected = json!({"lz4": {"messages": 1, "plain_bytes": 100, "packed_bytes": 90, "spent_ns": 1_000}});
    assert_eq!(shown["compressed"], expected);
    // What is told of an earlier generation is nobody's, since another policy may have its place now.
    let message = message("topic/a", &[]);
    let Chosen { codec, policy } = choose(&mut policies, &message, takes(ALL)).unwrap();
    host.remove_policy("first", "test").unwrap();
    assert!(policies.has_compression("topic/a"));
    policies.compressed(policy, &Work { codec: &codec, plain_bytes: 9, packed_bytes: 9, spent_ns: 9 });
    assert_eq!(compressed("second"), [("lz4", lz4)]);
}

#[test]
fn a_choice_is_explained_where_the_message_has_a_record() {
    let host = deciding();
    put(&host, "p", &json!({"dictionary": "orders"}), json!({}));
    let mut policies = host.worker(0);
    policies.bound("topic/a");
    let trace = policies.trace();
    policies.name(trace, id(1));
    let message = message("topic/a", &[]);
    let dictionary = Audience { has_dictionary: true, ..takes(ALL) };
    policies.choose(&message, id(1), takes(Codecs::LZ4));
    policies.choose(&message, id(1), dictionary);
    policies.choose(&message, id(2), dictionary);
    assert!(policies.explain(id(2)).found.is_none(), "published elsewhere, or before");
    let explanation = policies.explain(id(1)).found.unwrap().explain();
    let [first, second] = &explanation.decisions[..] else { panic!("{explanation:?}") };
    for decided in [first, second] {
        assert_eq!((decided.hook, decided.question, &*decided.policy), ("compression", "choose", "p"));
        assert_eq!(decided.decision, Some(json!({"dictionary": "orders"})));
    }
    let audience = serde_json::to_value(&first.audience).unwrap();
    assert_eq!(audience, json!({"codecs": ["lz4"], "dictionary": false}));
    let audience = serde_json::to_value(&second.audience).unwrap();
    let all = json!(["lz4", "zstd", "zstd-dict", "deflate"]);
    assert_eq!(audience, json!({"codecs": all, "dictionary": true}));
    let ended = &explanation.outcome["compression"];
    assert_eq!((ended.by.as_deref(), &ended.decision), (Some("p"), &json!({"dictionary": "orders"})));
    // Behind it, the next message is recorded as ever.
    policies.bound("topic/a");
    let trace = policies.trace();
    policies.name(trace, id(3));
    put(&host, "p", &json!({"zstd": 100}), json!({ "on_failure": "closed" }));
    assert!(policies.has_compression("topic/a"));
    policies.choose(&message, id(3), takes(ALL));
    let explanation = policies.explain(id(3)).found.unwrap().explain();
    let failed = explanation.decisions[0].failed.as_ref().unwrap();
    assert_eq!((failed.outcome, failed.instead), ("bad_verdict", Some("none")));
    let ended = &explanation.outcome["compression"].decision;
    assert_eq!(ended, &json!("policy p failed (bad_verdict): sent as it is"));
}

#[test]
fn a_policy_comes_back_after_a_restart() {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 4);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    put(&host, "p", &json!("lz4"), json!({}));
    drop(host);
    let host = next(&shelf, 4);
    assert_eq!(codec(&mut host.worker(0)), Some(Codec::Lz4));
}

/// A host with one policy of these rules.
fn ruled(rules: &Value) -> (Arc<Host>, WorkerPolicies) {
    let host = host(1);
    let document = json!({ "hook": "compression", "match": ["topic/>"], "rules": rules });
    host.put_policy("p", serde_json::from_value(document).unwrap(), "test").unwrap();
    let policies = host.worker(0);
    (host, policies)
}

#[test]
fn rules_choose_by_what_they_look_at() {
    let (host, mut policies) = ruled(&json!([
        {"when": {"size_max": 3}, "then": {"codec": "none"}},
        {"when": {"header": {"content-type": "image/*"}}, "then": {"codec": "none"}},
        {"when": {"address": "topic/orders.>"}, "then": {"codec": {"dictionary": "orders"}}},
        {"when": {"address": "topic/fast"}, "then": {"codec": "lz4"}},
        {"when": {"address": "topic/any"}, "then": {"codec": "dictionary"}},
        {"when": {"sender": "bob"}, "then": "continue"},
        {"when": {"priority_min": 4}, "then": {"codec": "zstd"}},
        {"then": {"codec": {"deflate": 6}}},
    ]));
    let payload = [b'x'; 9];
    let large = |to| Message { payload: &payload, ..message(to, &[]) };
    let mut chosen =
        |message: Message<'_>| choose(&mut policies, &message, takes(ALL)).map(|chosen| chosen.codec);
    let orders = Codec::Dictionary { name: Some(Name::parse("orders").unwrap()) };
    assert_eq!(chosen(message("topic/orders.1", &[])), Some(Codec::Plain), "too small");
    assert_eq!(chosen(large("topic/orders.1")), Some(orders));
    let image = [("content-type".to_owned(), "image/png".to_owned())];
    assert_eq!(chosen(Message { headers: &image, ..large("topic/fast") }), Some(Codec::Plain));
    assert_eq!(chosen(large("topic/fast")), Some(Codec::Lz4));
    assert_eq!(chosen(large("topic/any")), Some(Codec::Dictionary { name: None }));
    assert_eq!(chosen(Message { from: "bob", ..large("topic/a") }), None);
    assert_eq!(chosen(large("topic/a")), Some(Codec::Zstd { level: 1 }));
    assert_eq!(chosen(Message { priority: 3, ..large("topic/a") }), Some(Codec::Deflate { level: 6 }));
    assert_eq!(host.policy("p").unwrap().lane, "native");
}

#[test]
fn a_choice_of_rules_is_kept_where_that_is_exact() {
    for (when, kept) in [
        (json!({}), 3),
        (json!({"address": "topic/x", "size_min": 1}), 3),
        (json!({"sender": "alice"}), 0),
        (json!({"size_min": 1}), 0),
        (json!({"header": {"a": "b"}}), 0),
    ] {
        let (host, mut policies) = ruled(&json!([{"when": when, "then": {"codec": "lz4"}}]));
        for audience in [takes(ALL), takes(ALL), takes(ALL), takes(Codecs::LZ4), takes(Codecs::LZ4)] {
            choose(&mut policies, &message("topic/a", &[]), audience);
        }
        assert_eq!((outcome(&host, "p", "ok"), outcome(&host, "p", "cached")), (5 - kept, kept), "{when}");
    }
}
