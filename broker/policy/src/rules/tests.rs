//! Which documents are rules, where their faults are, and which messages they match.

use super::admission::Admitted;
use super::when::{Facts, List, When};
use super::*;
use crate::bindings::Cache;
use serde_json::json;

fn compile(hook: Hook, rules: Value) -> Result<Table, Vec<String>> {
    let rules = rules.as_array().unwrap().clone();
    Table::compile(hook, &rules).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// Checks what is said about one rule behind a good one.
fn bad(hook: Hook, rule: Value, expected: &str) {
    let good = if hook == Hook::Overflow { json!({"then": "close"}) } else { json!({"then": "continue"}) };
    let faults = compile(hook, json!([good, rule.clone()])).unwrap_err();
    assert!(faults.len() == 1 && faults[0].starts_with(expected), "{rule}: {faults:?}");
}

fn good(hook: Hook, then: &Value) {
    let table = compile(hook, json!([{ "then": then }]));
    assert!(table.is_ok(), "{then}: {table:?}");
}

#[test]
fn conditions_are_checked_and_named() {
    let when = |when: Value, expected: &str| {
        bad(Hook::Routing, json!({"when": when, "then": "continue"}), expected);
    };
    when(json!({"colour": 1}), "rules[1].when.colour: unknown field `colour`, expected one of `address`");
    when(json!({"address": "nonsense"}), "rules[1].when.address: \"nonsense\": address must be");
    when(
        json!({"address": ["topic/a", "topic/a.>.b"]}),
        "rules[1].when.address: \"topic/a.>.b\": `>` stands",
    );
    when(json!({"address": 7}), "rules[1].when.address: must be a text or a list of texts");
    when(json!({"sender": []}), "rules[1].when.sender: must have one pattern or more");
    when(json!({"sender": ""}), "rules[1].when.sender: a pattern has 1 to 256 bytes");
    when(json!({"key": "*********"}), "rules[1].when.key: a pattern has at most 8 stars");
    when(json!({"header": {"a": 1}}), "rules[1].when.header.a: must be a text or a list of texts, true");
    when(json!({"header": {"a": []}}), "rules[1].when.header.a: must have one pattern");
    when(json!({"header": {"": "x"}}), "rules[1].when.header: a header has a name");
    when(json!({"size_min": -1}), "rules[1].when.size_min: invalid value: integer `-1`");
    when(json!({"size_min": 5, "size_max": 4}), "rules[1].when.size_max: must not be less than size_min");
    when(json!({"priority_min": 10}), "rules[1].when.priority_min: must be 0 to 9");
    when(json!({"recipient": "a"}), "rules[1].when.recipient: is not known when hook routing is asked");
    when(json!([]), "rules[1].when: invalid type: sequence, expected a map");
    let headers: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), Value::Null)).collect();
    when(json!({ "header": headers }), "rules[1].when.header: has more than 16 headers");
    for key in ["sender", "key", "header"] {
        let value = if key == "header" { json!({"a": "b"}) } else { json!("a") };
        let expected = format!("rules[1].when.{key}: is not known when hook overflow is asked");
        bad(Hook::Overflow, json!({"when": {key: value}, "then": "close"}), &expected);
    }
    bad(Hook::Routing, json!({"if": {}, "then": "continue"}), "rules[1].if: unknown field `if`");
    bad(Hook::Routing, json!({"when": {}}), "rules[1]: missing field `then`");
    bad(Hook::Routing, json!("continue"), "rules[1]: invalid type: string");
    let list = "invalid type: sequence, expected an object";
    bad(Hook::Routing, json!([{}, "continue"]), &format!("rules[1]: {list}"));
    bad(Hook::Routing, json!({"then": ["deliver"]}), &format!("rules[1].then: {list}"));
    bad(Hook::Ack, json!({"then": {"on": ["give_up"]}}), &format!("rules[1].then.on: {list}"));
}

#[test]
fn every_rule_tells_its_first_fault() {
    let rule = |word: &str| json!({"when": {"colour": 1}, "then": word});
    let faults = compile(Hook::Routing, json!([rule("x"), {"then": "continue"}, rule("y")])).unwrap_err();
    assert!(faults[0].starts_with("rules[0].when.colour") && faults[1].starts_with("rules[2].when.colour"));
    let put = crate::PutError::of_rules(vec![
        BadRule { path: "rules[0].then".to_owned(), reason: "is wrong".to_owned() },
        BadRule { path: "rules[2].then".to_owned(), reason: "is, too".to_owned() },
    ]);
    assert_eq!(put.to_string(), "rules[0].then: is wrong (and 1 more rules have faults)");
}

#[test]
fn tables_are_bounded() {
    let all = |count: usize, rule: &Value| Value::Array(vec![rule.clone(); count]);
    let fault = |rules: Value| compile(Hook::Routing, rules).unwrap_err().remove(0);
    let plain = json!({"then": "continue"});
    assert_eq!(fault(json!([])), "rules: must have 1 to 256 rules");
    assert_eq!(fault(all(257, &plain)), "rules: must have 1 to 256 rules");
    assert!(compile(Hook::Routing, all(256, &plain)).is_ok());
    let wide = json!({"when": {"sender": vec!["a"; 5]}, "then": "continue"});
    assert!(fault(all(256, &wide)).starts_with("rules: have 1280 patterns in their conditions"));
    let wide = json!({"when": {"header": {"a": vec!["a"; 4], "b": false}}, "then": "continue"});
    assert!(fault(all(256, &wide)).starts_with("rules: have 1280 patterns in their conditions"));
    let searching = json!({"when": {"header": {"a": ["*a*", "b*"], "b": "*b", "c": false}, "key": "*c*"}, "then": "continue"});
    assert!(compile(Hook::Routing, all(32, &searching)).is_ok(), "only one of each searches a header");
    assert!(fault(all(33, &searching)).starts_with("rules: have 33 patterns with several stars for headers"));
    let long = json!({"then": {"drop": "x".repeat(1_000)}});
    assert_eq!(fault(all(100, &long)), "rules: have more than 65536 bytes");
}

#[test]
fn routing_words() {
    for then in [
        json!("continue"),
        json!("deliver"),
        json!({"route": "deliver", "set_headers": {"a": "b"}}),
        json!({"set_headers": {"a": "b"}}),
        json!({"to": "topic/a"}),
        json!({"to": ["topic/a", "user/b", "all"]}),
        json!({"mirror": "topic/a"}),
        json!({"mirror": vec!["topic/a"; 63]}),
        json!({"drop": "no"}),
    ] {
        good(Hook::Routing, &then);
    }
    let then = |then: Value, expected: &str| bad(Hook::Routing, json!({ "then": then }), expected);
    then(json!("accept"), "rules[1].then: \"accept\" is none of \"continue\", \"deliver\"");
    then(json!({"route": "x"}), "rules[1].then.route: \"x\" is none of");
    then(json!({}), "rules[1].then: has one of `route`, `to`, `mirror` and `drop`");
    then(json!({"to": "topic/a", "drop": "x"}), "rules[1].then: has one of");
    then(json!({"to": "topic/a.*"}), "rules[1].then.to: \"topic/a.*\" is not an address: wildcards are for");
    then(json!({"to": []}), "rules[1].then.to: fan-out to 0 addresses, allowed are 1 to 64");
    then(json!({"to": vec!["all"; 65]}), "rules[1].then.to: fan-out to 65 addresses");
    then(json!({"mirror": ["topic/a", "x"]}), "rules[1].then.mirror: \"x\" is not an address");
    let many: Vec<_> = (0..64).map(|n| format!("topic/{n}")).collect();
    then(json!({ "mirror": many }), "rules[1].then.mirror: has more than 63 addresses");
    then(json!({"drop": "x".repeat(1_025)}), "rules[1].then.drop: drop reason of 1025 bytes");
    then(json!({"set_headers": {"": "x"}}), "rules[1].then.set_headers: a header without a name");
    then(
        json!({"set_headers": {"a": "x".repeat(9_000)}}),
        "rules[1].then.set_headers: 9001 bytes of headers",
    );
    then(json!({"refuse": 1}), "rules[1].then.refuse: unknown field `refuse`, expected one of `route`, `to`");
    then(json!(3), "rules[1].then: invalid type: integer `3`");
}

#[test]
fn admission_words() {
    for then in [
        json!("continue"),
        json!("accept"),
        json!({"refuse": {"reason": "no"}}),
        json!({"refuse": {"reason": "no", "retry_ms": 86_400_000}}),
        json!({"limit": {"per_second": 1, "by": "sender"}}),
        json!({"limit": {"per_second": 9, "burst": 1, "by": "address", "reason": "slow down", "retry_ms": 0}}),
        json!({"limit": {"per_hour": 1_000_000, "burst": 1_000_000, "by": "sender"}}),
        json!({"limit": {"per_second": 1_000_000, "burst": 1_000_000, "by": "rule"}}),
    ] {
        good(Hook::Admission, &then);
    }
    let then = |then: Value, expected: &str| bad(Hook::Admission, json!({ "then": then }), expected);
    then(json!("refuse"), "rules[1].then: \"refuse\" is none of \"continue\", \"accept\"");
    then(json!({}), "rules[1].then: is \"accept\", \"continue\", or has one of");
    then(json!({"refuse": {}}), "rules[1].then.refuse: missing field `reason`");
    then(json!({"refuse": {"reason": "x", "after": 1}}), "rules[1].then.refuse.after: unknown field");
    then(json!({"refuse": {"reason": "x".repeat(1_025)}}), "rules[1].then.refuse.reason: has more than 1024");
    let late = json!({"refuse": {"reason": "x", "retry_ms": 86_400_001}});
    then(late, "rules[1].then.refuse.retry_ms: must be 0 to 86400000");
    then(json!({"limit": {"per_second": 0, "by": "sender"}}), "rules[1].then.limit.per_second: must be 1 to");
    then(json!({"limit": {"by": "sender"}}), "rules[1].then.limit: has one of `per_second`, `per_minute`");
    let twice = json!({"limit": {"per_second": 1, "per_minute": 1, "by": "sender"}});
    then(twice, "rules[1].then.limit: has one of");
    let burst = json!({"limit": {"per_second": 1, "burst": 1_000_001, "by": "sender"}});
    then(burst, "rules[1].then.limit.burst: must be 1 to 1000000");
    then(json!({"limit": {"per_second": 1, "by": "moon"}}), "rules[1].then.limit.by: \"moon\" is none of");
}

#[test]
fn ack_words() {
    for then in [
        json!("continue"),
        json!({"level": "stored", "quorum": "any", "timeout_ms": 1, "attempts": 1_000}),
        json!({"quorum": 3, "backoff_ms": 0, "backoff_max_ms": 86_400_000, "backoff_jitter_percent": 100}),
        json!({"exhausted": "dead-letter"}),
        json!({"exhausted": "dead_letter", "on": {"nack": "give_up"}}),
        json!({"on": {"timeout": {"retry_ms": 5}, "queue-full": {"wait_ms": 1}, "offline": "continue"}}),
        json!({"on": {"connection_lost": "give-up", "queue_full": {"retry_ms": 86_400_000}}}),
    ] {
        good(Hook::Ack, &then);
    }
    let then = |then: Value, expected: &str| bad(Hook::Ack, json!({ "then": then }), expected);
    then(json!("accept"), "rules[1].then: \"accept\" is none of \"continue\"");
    then(json!({}), "rules[1].then: says nothing");
    then(json!({"level": "seen"}), "rules[1].then.level: \"seen\" is none of \"none\", \"accepted\"");
    then(json!({"quorum": 0}), "rules[1].then.quorum: must be 1 to 4294967295");
    then(json!({"quorum": "most"}), "rules[1].then.quorum: \"most\" is none of \"any\", \"all\"");
    then(json!({"quorum": []}), "rules[1].then.quorum: must be \"any\", \"all\" or a number");
    then(json!({"timeout_ms": 0}), "rules[1].then.timeout_ms: must be 1 to 86400000");
    then(json!({"attempts": 1_001}), "rules[1].then.attempts: must be 1 to 1000");
    then(json!({"backoff_max_ms": 86_400_001}), "rules[1].then.backoff_max_ms: must be 0 to 86400000");
    then(json!({"backoff_ms": 2, "backoff_max_ms": 1}), "rules[1].then.backoff_max_ms: must not be less");
    then(json!({"backoff_jitter_percent": 101}), "rules[1].then.backoff_jitter_percent: must be 0 to 100");
    then(json!({"exhausted": "keep"}), "rules[1].then.exhausted: \"keep\" is none of");
    then(json!({"on": {"expired": "give_up"}}), "rules[1].then.on.expired: unknown field");
    then(
        json!({"on": {"nack": "stop"}}),
        "rules[1].then.on.nack: \"stop\" is none of \"continue\", \"give_up\"",
    );
    then(json!({"on": {"nack": {"retry_ms": 0}}}), "rules[1].then.on.nack.retry_ms: must be 1 to 86400000");
    then(json!({"on": {"nack": {}}}), "rules[1].then.on.nack: is \"continue\", \"give_up\", or has one of");
    let late = json!({"when": {"header": {"a": null}}, "then": {"on": {"nack": "give_up"}}});
    bad(Hook::Ack, late, "rules[1].then.on: goes with no other conditions than `address` and `sender`");
}

#[test]
fn codecs() {
    for codec in [
        json!("none"),
        json!("lz4"),
        json!("zstd"),
        json!("dictionary"),
        json!("deflate"),
        json!({"zstd": -7}),
        json!({"zstd": 9}),
        json!({"dictionary": "orders"}),
        json!({"deflate": 6}),
    ] {
        good(Hook::Compression, &json!({ "codec": codec }));
    }
    good(Hook::Compression, &json!("continue"));
    let recipient = json!({"when": {"recipient": "a"}, "then": "continue"});
    bad(Hook::Compression, recipient, "rules[1].when.recipient: is not known");
    let bad = |then: Value, expected: &str| bad(Hook::Compression, json!({ "then": then }), expected);
    bad(json!("lz4"), "rules[1].then: \"lz4\" is none of \"continue\"");
    bad(json!({"codec": "br"}), "rules[1].then.codec: \"br\" is none of \"none\", \"lz4\"");
    bad(json!({"codec": {"zstd": 10}}), "rules[1].then.codec.zstd: level 10 of zstd, allowed are -7 to 9");
    bad(json!({"codec": {"zstd": 200}}), "rules[1].then.codec");
    bad(json!({"codec": {"deflate": 0}}), "rules[1].then.codec.deflate: level 0 of deflate");
    bad(json!({"codec": {"dictionary": "two words"}}), "rules[1].then.codec.dictionary: ");
    bad(json!({"codec": {"dictionary": ""}}), "rules[1].then.codec.dictionary: ");
    bad(json!({"codec": {"lz4": 1}}), "rules[1].then.codec: unknown variant `lz4`");
    bad(json!({"codec": {"zstd": 1, "deflate": 1}}), "rules[1].then.codec");
    bad(json!({"codec": "lz4", "level": 1}), "rules[1].then.level: unknown field `level`");
    bad(json!({}), "rules[1].then: missing field `codec`");
}

#[test]
fn overflow_words() {
    for word in ["continue", "drop_oldest", "drop-newest", "conflate", "spill", "close"] {
        good(Hook::Overflow, &json!(word));
    }
    bad(Hook::Overflow, json!({"then": "wait"}), "rules[1].then: \"wait\" is none of \"continue\"");
    bad(Hook::Overflow, json!({"then": {"close": true}}), "rules[1].then: must be a word such as");
}

/// A message on which every condition can hold.
const FACTS: Facts<'static> =
    Facts { to: "topic/orders.eu", user: "alice", key: "eu-7", size: 100, priority: 5, headers: [&[], &[]] };

fn first(rules: &[Value], facts: &Facts<'_>) -> (Option<usize>, Cache) {
    let parse =
        |(index, when): (usize, &Value)| (When::parse(At("when"), when, Hook::Routing).unwrap(), index);
    let list = List(rules.iter().enumerate().map(parse).collect());
    let (found, cache) = list.first(facts);
    (found.copied(), cache)
}

#[test]
fn every_condition_holds_or_does_not() {
    let headers = [("tenant", "acme"), ("debug", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let set = [("tenant".to_owned(), "other".to_owned())];
    let facts = Facts { headers: [&[], &headers], ..FACTS };
    let overruled = Facts { headers: [&set, &headers], ..FACTS };
    let check = |when: Value, facts: &Facts<'_>, expected: bool| {
        assert_eq!(first(std::slice::from_ref(&when), facts).0.is_some(), expected, "{when}");
    };
    check(json!({}), &facts, true);
    for (when, expected) in [
        (json!({"address": "topic/orders.eu"}), true),
        (json!({"address": "topic/orders.>"}), true),
        (json!({"address": "topic/orders.*.x"}), false),
        (json!({"address": "user/*"}), false),
        (json!({"address": ["user/*", "topic/*.eu"]}), true),
        (json!({"sender": "alice"}), true),
        (json!({"sender": ["bot-*", "al*"]}), true),
        (json!({"sender": "bob"}), false),
        (json!({"key": "eu-*"}), true),
        (json!({"key": "us-*"}), false),
        (json!({"size_min": 100, "size_max": 100}), true),
        (json!({"size_min": 101}), false),
        (json!({"size_max": 99}), false),
        (json!({"priority_min": 5}), true),
        (json!({"priority_min": 6}), false),
        (json!({"header": {"tenant": "acme"}}), true),
        (json!({"header": {"tenant": ["x", "ac*"]}}), true),
        (json!({"header": {"tenant": "x"}}), false),
        (json!({"header": {"debug": null}}), true),
        (json!({"header": {"debug": true}}), true),
        (json!({"header": {"debug": false}}), false),
        (json!({"header": {"absent": null}}), false),
        (json!({"header": {"absent": "*"}}), false),
        (json!({"header": {"absent": false}}), true),
        (json!({"header": {"tenant": "acme", "absent": false, "debug": true}}), true),
        (
            json!({"address": "topic/>", "sender": "alice", "key": "*7", "priority_min": 1, "size_max": 4096}),
            true,
        ),
        (json!({"address": "topic/>", "sender": "bob", "key": "*7"}), false),
    ] {
        check(when, &facts, expected);
    }
    check(json!({"header": {"tenant": "other"}}), &overruled, true);
    check(json!({"header": {"tenant": "acme"}}), &overruled, false);
}

#[test]
fn the_first_rule_decides_for_as_much_as_was_looked_at() {
    let all = |rules: &[Value]| first(rules, &FACTS);
    let here = |more: Value| {
        let mut when = json!({"address": "topic/orders.eu"});
        more.as_object().unwrap().iter().for_each(|(key, value)| when[key] = value.clone());
        when
    };
    let elsewhere = json!({"address": "topic/other", "header": {"a": null}, "sender": "x"});
    assert_eq!(all(&[json!({}), here(json!({}))]), (Some(0), Cache::Address));
    assert_eq!(all(&[elsewhere.clone(), here(json!({}))]), (Some(1), Cache::Address), "not looked at here");
    assert_eq!(all(&[elsewhere]), (None, Cache::Address));
    assert_eq!(all(&[here(json!({"sender": "bob"})), json!({})]), (Some(1), Cache::Connection));
    assert_eq!(all(&[here(json!({"sender": "bob"}))]), (None, Cache::Connection));
    for looks in [
        json!({"size_max": 1}),
        json!({"priority_min": 9}),
        json!({"key": "x"}),
        json!({"header": {"a": null}}),
    ] {
        assert_eq!(all(&[here(looks.clone()), json!({})]), (Some(1), Cache::Never), "{looks}");
        assert_eq!(all(&[json!({}), here(looks)]), (Some(0), Cache::Address), "behind the one that decides");
    }
}

#[test]
fn a_version_is_named_after_what_its_rules_say() {
    let rules = |to: &str| json!([{"when": {"address": "topic/a", "key": "k"}, "then": {"to": to}}]);
    let text = r#"[{"then": {"to": "topic/b"}, "when": {"key": "k", "address": "topic/a"}}]"#;
    let same: Value = serde_json::from_str(text).unwrap();
    let label = |rules: Value| compile(Hook::Routing, rules).unwrap().label();
    assert_eq!(label(rules("topic/b")), label(same), "the order of keys says nothing");
    assert_ne!(label(rules("topic/b")), label(rules("topic/c")));
    let checked = check_rules(Hook::Routing, rules("topic/b").as_array().unwrap()).unwrap();
    assert_eq!((checked.count, &checked.version[..14]), (1, &*format!("rules@{}", &checked.digest[..8])));
}

#[test]
fn buckets_belong_to_conditions_and_rates_and_have_names_that_fit() {
    let limit = |when: Value, by: &str, rate: u32| {
        let rules = json!([{"when": when, "then": {"limit": {"per_second": rate, "by": by}}}]);
        let Answers::Admission(list) = compile(Hook::Admission, rules).unwrap().answers else { panic!() };
        let Admitted::Limit(limit) = list.0.into_iter().next().unwrap().1 else { panic!() };
        limit
    };
    let name = |limit: &admission::Limit, from: &str, to: &str| {
        let mut name = "left over".to_owned();
        limit.name_bucket((from, to), &mut name);
        assert!(name.len() <= limits::KEY_BYTES_MAX, "{name}");
        name
    };
    let by_sender = limit(json!({"address": "all"}), "sender", 1);
    assert_eq!(name(&by_sender, "a", "all"), name(&by_sender, "a", "user/b"));
    assert_ne!(name(&by_sender, "a", "all"), name(&by_sender, "b", "all"));
    let faster = limit(json!({"address": "all"}), "sender", 9);
    assert_ne!(name(&by_sender, "a", "all"), name(&faster, "a", "all"), "another rate fills another bucket");
    let again = limit(json!({"address": "all"}), "sender", 9);
    assert_eq!(name(&again, "a", "all"), name(&faster, "a", "all"));
    let other = limit(json!({"address": "topic/a"}), "sender", 1);
    assert_ne!(name(&by_sender, "a", "all"), name(&other, "a", "all"));
    let by_address = limit(json!({}), "address", 1);
    assert_eq!(name(&by_address, "a", "all"), name(&by_address, "b", "all"));
    let by_rule = limit(json!({}), "rule", 1);
    assert_eq!(name(&by_rule, "a", "all"), name(&by_rule, "b", "user/c"));
    let (long, longer) = ("x".repeat(255), "x".repeat(256));
    assert_ne!(name(&by_sender, &long, "all"), name(&by_sender, &longer, "all"));
}
