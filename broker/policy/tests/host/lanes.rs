//! The two lanes: which components take the fast one and why others do not, and that both decide alike.

use crate::guests::{Guest, built};
use crate::{document, eventually, host, outcome, put_anew, route};
use serde_json::{Value, json};
use std::sync::Arc;
use waspmq_core::address::{Kind, Name};
use waspmq_core::policy::{Message, Outcome, QueueMembers};
use waspmq_policy::{Host, limits};

/// Messages that every guest decides on both lanes.
const MESSAGES: u32 = 20_000;

/// Two hosts with the same routing policy, on the lane `core` and on the lane `component`.
pub(crate) fn lanes(component: &[u8], config: &Value) -> [Arc<Host>; 2] {
    lanes_of("routing", component, config)
}

/// The same for any hook.
pub(crate) fn lanes_of(hook: &str, component: &[u8], config: &Value) -> [Arc<Host>; 2] {
    ["auto", "component"].map(|lane| {
        let host = host(1);
        let revision = host.upload("p", component, "test").unwrap();
        assert_eq!((revision.lane, revision.lane_reason), ("core", None));
        for version in 1..4 {
            host.queue_changed(members(version));
        }
        put(&host, hook, lane, config);
        host
    })
}

/// Puts the policy in place. It may take its time, all of its worker, and fail as it likes.
fn put(host: &Host, hook: &str, lane: &str, config: &Value) {
    let (limits, budget) =
        (json!({ "cpu_share": 1.0, "deadline_ms": 1_000 }), json!({ "calls_min": 1_000_000 }));
    let more = json!({ "lane": lane, "config": config, "hook": hook, "limits": limits, "budget": budget });
    let patterns = ["topic/>", "user/*", "group/*", "all"];
    let state = put_anew(host, "p", document("p", &patterns, more)).unwrap();
    assert_eq!(state.lane, if lane == "auto" { "core" } else { "component" });
}

fn members(version: u64) -> QueueMembers {
    QueueMembers {
        pattern: ["topic/>", "topic/a.>", "topic/größe.*"][usize::try_from(version % 3).unwrap()].to_owned(),
        queue: Name::parse("w").unwrap(),
        version,
        members: (0..version * 5).map(|i| format!("user{i}/gerät/{i}")).collect(),
        loads: (0..u32::try_from(version * 5).unwrap()).map(|i| i * 100_003).collect(),
    }
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, bound: u32) -> usize {
        usize::try_from(self.next() % u64::from(bound)).unwrap()
    }

    /// Mostly short, now and then empty or 10 KB; of all lengths of a code point.
    pub(crate) fn text(&mut self) -> String {
        const PARTS: [&str; 8] = ["a", "key-", "ß", "漢字", "😀", "\0", "\u{7ff}", "x y"];
        let parts = match self.below(200) {
            0 => 10_240,
            1..20 => 0,
            n => n % 12,
        };
        let mut text = String::new();
        while text.len() < parts {
            text.push_str(PARTS[self.below(8)]);
        }
        text
    }

    pub(crate) fn address(&mut self) -> (Kind, String) {
        match self.below(5) {
            0 => (Kind::User, format!("user/u{}", self.below(50))),
            1 => (Kind::Group, format!("group/größe{}", self.below(50))),
            2 => (Kind::All, "all".to_owned()),
            3 => (Kind::Topic, format!("topic/{}", "n".repeat(1 + self.below(250)))),
            _ => (Kind::Topic, format!("topic/a.{}.漢字", self.below(1_000))),
        }
    }

    /// None, some, or as many as a message may have.
    pub(crate) fn headers(&mut self) -> Vec<(String, String)> {
        let count = match self.below(40) {
            0 => 64,
            n => n % 4,
        };
        let mut header = |i: usize| match self.below(6) {
            0 => ("x".to_owned(), self.text()),
            1 => (format!("to{i}"), self.address().1),
            _ => (format!("h{i}"), format!("v{}", self.below(9))),
        };
        (0..count).map(&mut header).collect()
    }
}

/// Lets both lanes decide the same messages; answers how many of them were decided each way.
fn agree(component: &[u8], config: &Value) -> (u32, u32) {
    let hosts = lanes(component, config);
    let [mut core, mut component] = hosts.each_ref().map(|host| host.worker(0));
    let mut numbers = Numbers(4_711);
    let (mut plain, mut failures) = (0, 0);
    for index in 0..MESSAGES {
        let (kind, to) = numbers.address();
        let (from, key, headers) = (numbers.text(), numbers.text(), numbers.headers());
        let payload = vec![b'p'; numbers.below(if index % 64 == 0 { 100_000 } else { 300 })];
        let message = Message {
            from: &from,
            session: None,
            to: &to,
            kind,
            key: &key,
            payload: &payload,
            is_json: false,
            headers: &headers,
            priority: u8::try_from(numbers.below(256)).unwrap(),
            unix_ms: numbers.next(),
        };
        let [a, b] = [route(&mut core, &message), route(&mut component, &message)];
        assert_eq!(
            a,
            b,
            "message {index} from {from:?} to {to:?} with {} bytes and {headers:?}",
            payload.len()
        );
        if a == Outcome::Decided(Default::default()) {
            plain += 1;
            let failed = outcome(&hosts[0], "p", "bad_verdict");
            if failed >= failures + u64::from(limits::BREAKER_FAILURES) - 1 {
                // A new version has a closed breaker.
                failures = failed;
                hosts
                    .iter()
                    .zip(["auto", "component"])
                    .for_each(|(host, lane)| put(host, "routing", lane, config));
            }
        }
    }
    let [core, component] = hosts.each_ref().map(|host| host.policy("p").unwrap());
    assert_eq!((core.outcomes, &core.counters), (component.outcomes, &component.counters));
    assert_eq!(core.calls, u64::from(MESSAGES));
    assert_eq!([core.instances.replaced, component.instances.replaced], [0, 0]);
    (plain, MESSAGES - plain)
}

#[test]
fn a_guest_that_shows_all_it_is_told_is_told_the_same() {
    let (plain, other) = agree(&built("guest-echo"), &json!({ "how": "echo" }));
    assert!(plain > 1_000 && other > 10_000, "{plain} and {other}");
}

#[test]
fn the_shipped_mirror_decides_alike() {
    agree(&built("route-mirror"), &json!({ "to": "topic/größe" }));
}

#[test]
fn the_shipped_consistent_hash_decides_alike() {
    let (plain, other) = agree(&built("route-consistent-hash"), &json!({ "queue": "w" }));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_least_loaded_decides_alike() {
    let (plain, other) = agree(&built("route-least-loaded"), &json!({ "queue": "w" }));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_weighted_decides_alike() {
    let config = json!({ "queue": "w", "weights": { "user1*": 5, "user2": 0 } });
    let (plain, other) = agree(&built("route-weighted"), &config);
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_sticky_user_decides_alike() {
    let (plain, other) = agree(&built("route-sticky-user"), &json!({ "queue": "w", "header": "x" }));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_priority_decides_alike() {
    let classes = json!([{ "senders": ["*k*"], "first": 2 }, { "header": { "h0": ["v1", "v2"] }, "to": "topic/vip.{name}" }]);
    let (plain, other) = agree(&built("route-priority"), &json!({ "queue": "w", "classes": classes }));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_region_canary_decides_alike() {
    let config = json!({ "percent": 50, "header": "h0", "regions": ["v*"], "to": "topic/canary.{name}" });
    let (plain, other) = agree(&built("route-region-canary"), &config);
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn the_shipped_header_filter_decides_alike() {
    let rules = json!([
        { "header": "h0", "equals": ["v1"], "drop": "größer" }, { "header": "h1", "present": true, "set": { "h2": "v3" } },
        { "header": "h2", "prefix": ["v3"], "to": "topic/größe" }
    ]);
    let (plain, other) = agree(&built("filter-headers"), &json!({ "rules": rules }));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

#[test]
fn a_guest_that_sets_headers_decides_alike() {
    agree(&built("stamp-a"), &json!({ "stamp": "größer 😀" }));
}

#[test]
fn a_hand_written_guest_decides_alike() {
    let (plain, other) = agree(&echo(false).build(), &json!({ "text": "größer 😀" }));
    assert!(plain > 1_000 && other > 10_000, "{plain} and {other}");
}

#[test]
fn a_hand_written_guest_with_strings_in_utf16_decides_alike() {
    let (plain, other) = agree(&echo(true).build(), &json!({ "text": "größer 😀" }));
    assert!(plain > 1_000 && other > 10_000, "{plain} and {other}");
}

/// Answers what it was told: sender, address, key and the header `x` as headers, and as value of the verdict.
/// Frees everything in its post-return function.
fn echo(utf16: bool) -> Guest {
    let x = if utf16 { "x\\00" } else { "x" };
    let utf8 = Guest {
        data: format!("(data (i32.const 512) \"{x}\")"),
        route: ECHO.to_owned(),
        edits: vec![
            ("(call $free-all)\n      ", ""),
            // Strings that turn out shorter than they might be are made smaller where they are.
            ("(local $at i32)", "(local $at i32) (if (local.get $old) (then (return (local.get $old))))"),
            (
                "(func (export \"route\")\n",
                "(func (export \"post-route\") (param i32) (call $free-all))\n(func (export \"route\")\n",
            ),
            (
                "(canon lift (core func $main \"route\")",
                "(canon lift (core func $main \"route\") (post-return (core func $main \"post-route\"))",
            ),
        ],
        ..Guest::default()
    };
    if utf16 { in_utf16(utf8) } else { utf8 }
}

const ECHO: &str = r#"
  (memory.fill (i32.const 2048) (i32.const 0) (i32.const 512))
  (call $counter (local.get $key) (local.get $key_len) (local.get $ts))
  (call $header (i32.const 512) (i32.const 1) (i32.const 2400))
  (i32.store (i32.const 2304) (local.get $sender)) (i32.store (i32.const 2308) (local.get $sender_len))
  (i32.store (i32.const 2312) (local.get $address)) (i32.store (i32.const 2316) (local.get $address_len))
  (i32.store (i32.const 2320) (local.get $address)) (i32.store (i32.const 2324) (local.get $address_len))
  (i32.store (i32.const 2328) (local.get $key)) (i32.store (i32.const 2332) (local.get $key_len))
  (if (i32.load8_u (i32.const 2400)) (then
    (i32.store (i32.const 2328) (i32.load (i32.const 2404)))
    (i32.store (i32.const 2332) (i32.load (i32.const 2408)))))
  (local.set $i (i32.rem_u (local.get $size) (i32.const 7)))
  (if (i32.eq (local.get $i) (i32.const 6)) (then (return (i32.const 2048))))
  (i32.store (i32.const 2072) (i32.const 2304))
  (i32.store (i32.const 2076) (i32.add (i32.const 1) (i32.and (local.get $kind) (i32.const 1))))
  (i32.store8 (i32.const 2048) (local.get $i))
  (if (i32.eq (local.get $i) (i32.const 2)) (then
    (i32.store (i32.const 2056) (local.get $address)) (i32.store (i32.const 2060) (local.get $address_len))))
  (if (i32.eq (local.get $i) (i32.const 3)) (then
    (i32.store (i32.const 2056) (i32.const 2312)) (i32.store (i32.const 2060) (i32.const 2))))
  (if (i32.eq (local.get $i) (i32.const 4)) (then
    (i64.store (i32.const 2056) (local.get $ts)) (i32.store (i32.const 2064) (local.get $priority))))
  (if (i32.eq (local.get $i) (i32.const 5)) (then
    (i32.store (i32.const 2056) (local.get $sender)) (i32.store (i32.const 2060) (local.get $sender_len))))
  (i32.const 2048)"#;

#[test]
fn an_import_without_strings_has_no_encoding_to_agree_on() {
    let long_is_delivered = "(call $payload (i32.const 2400))
      (i32.store8 (i32.const 2048) (i32.gt_u (i32.load (i32.const 2404)) (i32.const 100))) (i32.const 2048)";
    let mut guest = in_utf16(Guest { route: long_is_delivered.to_owned(), ..Guest::default() });
    // Tools write no encoding where no string is passed.
    guest.edits.extend([
        (
            "(result (option string))))))",
            "(result (option string)))) (export \"payload\" (func (result (list u8))))))",
        ),
        (
            "  (core module $main\n",
            "  (core func $payload (canon lower (func $host \"payload\")
              (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))))
            (core module $main (import \"host\" \"payload\" (func $payload (param i32)))\n",
        ),
        (
            "(export \"header\" (func $header))",
            "(export \"header\" (func $header)) (export \"payload\" (func $payload))",
        ),
    ]);
    let (plain, other) = agree(&guest.build(), &json!({}));
    assert!(plain > 1_000 && other > 1_000, "{plain} and {other}");
}

/// The same guest with strings of 16-bit code units.
pub(crate) fn in_utf16(mut guest: Guest) -> Guest {
    guest.edits.push((
        "(memory (core memory $libc \"memory\"))",
        "(memory (core memory $libc \"memory\")) string-encoding=utf16",
    ));
    guest
}

#[test]
fn components_that_are_not_simple_are_served_through_the_component_api() {
    let check = |edits: &[(&'static str, &'static str)], expected: &str| {
        let host = host(1);
        let guest = Guest { edits: edits.to_vec(), ..Guest::default() };
        let revision = host.upload("p", &guest.build(), "test").unwrap();
        assert_eq!((revision.lane, revision.lane_reason.as_deref()), ("component", Some(expected)));
        let state = host.put_policy("p", document("p", &["topic/>"], json!({})), "test").unwrap();
        assert_eq!(state.lane, "component");
        assert_eq!(crate::decide(&mut host.worker(0), "topic/a"), Default::default());
        assert_eq!(outcome(&host, "p", "ok"), 1);
    };
    let behind = "  (func (export \"configure\") (param \"config\" string)";
    let memory = "(memory (core memory $libc \"memory\"))";
    let compact = "(memory (core memory $libc \"memory\")) string-encoding=latin1+utf16";
    check(&[(memory, compact)], "passes strings as latin1+utf16");
    check(
        &[(
            "(canon lift (core func $main \"self-test\") (memory",
            "(canon lift (core func $main \"self-test\") string-encoding=utf16 (memory",
        )],
        "uses more than one string encoding in its hooks and imports",
    );
    check(
        &[
            (
                "(global $heap (mut i32) (i32.const 4096))",
                "(global $heap (mut i32) (i32.const 4096)) (func (export \"other\") (param i32 i32 i32 i32) (result i32) unreachable)",
            ),
            (
                "(canon lift (core func $main \"self-test\") (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))",
                "(canon lift (core func $main \"self-test\") (memory (core memory $libc \"memory\")) (realloc (core func $libc \"other\"))",
            ),
        ],
        "uses more than one realloc function in its hooks and imports",
    );
    check(
        &[(behind, "  (component $inner)\n  (func (export \"configure\") (param \"config\" string)")],
        "contains a component inside of the component",
    );
    check(
        &[(
            behind,
            "  (type $r (resource (rep i32)))\n  (core func (canon resource.new $r))\n  (func (export \"configure\") (param \"config\" string)",
        )],
        "contains a resource",
    );
    check(
        &[(
            behind,
            "  (instance $bag (export \"types\" (instance $types)))\n  (func (export \"configure\") (param \"config\" string)",
        )],
        "contains an instance of a component",
    );
    check(
        &[(
            behind,
            "  (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)) (core instance (instantiate $m))\n  (func (export \"configure\") (param \"config\" string)",
        )],
        "has more than 4 core instances",
    );
}

#[test]
fn member_changes_reach_an_instance_on_the_fast_lane() {
    let hosts = lanes(&built("route-consistent-hash"), &json!({ "queue": "w" }));
    let picked = hosts.each_ref().map(|host| {
        let mut routing = host.worker(0);
        let before = crate::decide(&mut routing, "topic/a.1");
        host.queue_changed(QueueMembers { version: 9, ..members(3) });
        let after = eventually("the change", || {
            Some(crate::decide(&mut routing, "topic/a.1")).filter(|after| *after != before)
        });
        (before, after)
    });
    assert_eq!(picked[0], picked[1]);
}
