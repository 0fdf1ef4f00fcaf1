//! Policies that behave: what they decide, in which order, how they are put, rolled back and removed.

use crate::guests::{Guest, built};
use crate::{decide, document, host, message, serving, sized_host};
use serde_json::json;
use waspmq_core::address::Address;
use waspmq_core::policy::{Outcome, Policies, Route, Verdict};
use waspmq_policy::{PutError, RollbackError};

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn the_shipped_mirror_mirrors() {
    let host = host(1);
    host.upload("mirror", &built("route-mirror"), "test").unwrap();
    let mut routing = host.worker(0);
    assert!(!routing.bound("topic/orders.1").routing);
    let config = json!({ "config": { "to": "topic/audit" } });
    host.put_policy("mirror", document("mirror@1", &["topic/>"], config), "test").unwrap();
    assert!(routing.bound("topic/orders.1").routing && !routing.bound("user/alice").routing);
    let both = vec![address("topic/orders.1"), address("topic/audit")];
    assert_eq!(decide(&mut routing, "topic/orders.1").route, Route::FanOut(both));
    assert_eq!(decide(&mut routing, "topic/audit"), Verdict::default());
    assert_eq!(routing.generation(), 1);
    host.remove_policy("mirror", "test").unwrap();
    assert!(!routing.bound("topic/orders.1").routing);
    assert_eq!(decide(&mut routing, "topic/orders.1"), Verdict::default());
}

#[test]
fn every_verdict_arrives_as_it_was_given() {
    let text = |at: u32, text: &str| format!("(data (i32.const {at}) \"{text}\")");
    let check = |component: Vec<u8>, expected: Route| {
        let host = serving(&component, json!({}));
        assert_eq!(decide(&mut host.worker(0), "topic/a").route, expected);
        assert_eq!(crate::outcome(&host, "p", "ok"), 1);
    };
    check(Guest::answering(0, &[], ""), Route::Continue);
    check(Guest::answering(1, &[], ""), Route::Deliver);
    check(
        Guest::answering(2, &[(8, 512), (12, 6)], &text(512, "user/a")),
        Route::Redirect(address("user/a")),
    );
    let list = format!(
        "{} {}",
        text(512, "\\40\\02\\00\\00\\03\\00\\00\\00\\40\\02\\00\\00\\03\\00\\00\\00"),
        text(576, "all")
    );
    check(Guest::answering(3, &[(8, 512), (12, 2)], &list), Route::FanOut(vec![address("all")]));
    check(
        Guest::answering(4, &[(8, 7), (12, 1), (16, 3)], ""),
        Route::Pick { version: 7 | 1 << 32, index: 3 },
    );
    check(Guest::answering(5, &[(8, 512), (12, 2)], &text(512, "no")), Route::Drop("no".to_owned()));
}

#[test]
fn policies_run_by_order_and_headers_are_kept() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    // Goes to topic/seen when the header `stamp` is there.
    let seeing = Guest {
        data: r#"(data (i32.const 512) "stamp") (data (i32.const 528) "topic/seen")"#.to_owned(),
        route: "(call $header (i32.const 512) (i32.const 5) (i32.const 256))
            (i32.store8 (i32.const 2048) (i32.shl (i32.load8_u (i32.const 256)) (i32.const 1)))
            (i32.store (i32.const 2056) (i32.const 528)) (i32.store (i32.const 2060) (i32.const 10))
            (i32.const 2048)"
            .to_owned(),
        ..Guest::default()
    };
    host.upload("seeing", &seeing.build(), "test").unwrap();
    host.upload("dropping", &Guest::answering(5, &[(8, 512), (12, 0)], ""), "test").unwrap();
    let put = |name: &str, plugin: &str, order: i32, config: serde_json::Value| {
        let more = json!({ "order": order, "config": config });
        host.put_policy(name, document(plugin, &["topic/>"], more), "test").unwrap();
    };
    put("b-see", "seeing", 20, json!({}));
    let mut routing = host.worker(0);
    assert_eq!(decide(&mut routing, "topic/a"), Verdict::default(), "nobody set the header");
    put("a-stamp", "stamp", 10, json!({ "stamp": "x" }));
    put("c-drop", "dropping", 30, json!({}));
    let verdict = decide(&mut routing, "topic/a");
    assert_eq!(verdict.route, Route::Redirect(address("topic/seen")), "the first final verdict");
    assert_eq!(verdict.set_headers, [header("stamp", "x"), header("stamp-build", "1")]);
    put("b-see", "seeing", 40, json!({}));
    assert_eq!(decide(&mut routing, "topic/a").route, Route::Drop(String::new()), "the order changed");
    let own = [header("stamp", "publisher")];
    let Outcome::Decided(verdict) = crate::route(&mut routing, &message("topic/a", &own)) else { panic!() };
    assert_eq!(verdict.set_headers[0], header("stamp", "x"), "replaces the publisher's");
}

#[test]
fn headers_of_message_and_verdict_together_are_bounded() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    host.put_policy("s", document("stamp", &["topic/>"], json!({ "config": { "stamp": "x" } })), "test")
        .unwrap();
    let mut routing = host.worker(0);
    let mut check = |own: Vec<(String, String)>, expected: usize| {
        let Outcome::Decided(verdict) = crate::route(&mut routing, &message("topic/a", &own)) else {
            panic!()
        };
        assert_eq!(verdict.set_headers.len(), expected, "with {} own headers", own.len());
    };
    let many = |n: usize| (0..n).map(|i| header(&format!("h{i}"), "")).collect::<Vec<_>>();
    check(many(62), 2);
    check(many(63), 0);
    check([many(62), vec![header("stamp", "replaced")]].concat(), 2);
    check(vec![header("large", &"x".repeat(8_180))], 0);
    assert_eq!((crate::outcome(&host, "s", "ok"), crate::outcome(&host, "s", "bad_verdict")), (2, 2));
}

#[test]
fn the_payload_is_there_for_a_guest_that_asks() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    host.put_policy("s", document("stamp", &["topic/>"], json!({ "config": { "stamp": "x" } })), "test")
        .unwrap();
    let mut routing = host.worker(0);
    let mut panics = |payload: &[u8]| {
        let before = crate::outcome(&host, "s", "trap");
        crate::route(&mut routing, &waspmq_core::policy::Message { payload, ..message("topic/a", &[]) });
        crate::outcome(&host, "s", "trap") - before == 1
    };
    assert!(!panics(b"quiet"));
    assert!(panics(b"panic"));
    assert!(!panics(b"quiet"), "served by the spare");
}

#[test]
fn a_failed_put_changes_nothing() {
    let host = sized_host(2, 1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    let stamp = |text: &str| document("stamp@1", &["topic/>"], json!({ "config": { "stamp": text } }));
    host.put_policy("s", stamp("one"), "test").unwrap();
    let before = host.policy("s").unwrap();
    let check = |name: &str, plugin: &str, more: serde_json::Value, expected: &str| {
        let reason =
            host.put_policy(name, document(plugin, &["topic/>"], more), "test").unwrap_err().to_string();
        assert!(reason.contains(expected), "{expected}: {reason}");
        assert_eq!((host.generation(), host.policy("s").unwrap()), (1, before.clone()));
    };
    check("s", "stamp", json!({ "config": {} }), "configure answered: missing field `stamp`");
    check("s", "stamp", json!({ "config": {}, "mode": "off" }), "configure answered: missing field `stamp`");
    check("s", "stamp@2", json!({}), "has no revision 2");
    check("s", "stemp", json!({}), "there is no plugin \"stemp\"");
    check("S", "stamp", json!({}), "is not a policy name");
    check("s", "stamp", json!({ "mode": "shadow" }), "configure answered: missing field `stamp`");
    check("s", "stamp", json!({ "canary_percent": 0 }), "canary_percent: must be 1 to 99");
    check(
        "s",
        "stamp",
        json!({ "config": { "stamp": "x" }, "limits": { "memory_mb": 1 } }),
        "more memory than its limit",
    );
    check("t", "stamp", json!({ "config": { "stamp": "x" } }), "there is room for 1 policies");
    assert_eq!(
        host.put_policy("t", stamp("x"), "test").unwrap_err(),
        PutError::NoCapacity { policies_max: 1 }
    );
    host.put_policy("s", stamp("two"), "test").unwrap();
    assert_eq!(host.generation(), 2, "replacing needs no more room");
}

#[test]
fn rollback_goes_back_and_forth() {
    let host = host(1);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    let mut routing = host.worker(0);
    let mut stamped =
        || decide(&mut routing, "topic/a").set_headers.into_iter().map(|(_, v)| v).collect::<Vec<_>>();
    let unknown = RollbackError::UnknownPolicy { name: "s".to_owned() };
    assert_eq!(host.rollback("s", None, "test").unwrap_err(), unknown);
    host.put_policy("s", document("stamp", &["topic/>"], json!({ "config": { "stamp": "one" } })), "test")
        .unwrap();
    assert_eq!(
        host.rollback("s", None, "test").unwrap_err(),
        RollbackError::NoPrevious { name: "s".to_owned() }
    );
    assert_eq!(stamped(), ["one", "1"]);
    host.upload("stamp", &built("stamp-b"), "test").unwrap();
    assert_eq!(stamped(), ["one", "1"], "`stamp` meant the latest revision when it was put");
    let second = document("stamp", &["topic/>"], json!({ "config": { "stamp": "two" } }));
    let state = host.put_policy("s", second, "test").unwrap();
    assert_eq!(
        (state.current.unwrap().revision, state.previous.and_then(|p| p.revision), state.generation),
        (Some(2), Some(1), 2)
    );
    assert_eq!(stamped(), ["two", "2"]);
    let state = host.rollback("s", None, "test").unwrap();
    assert_eq!(
        (state.current.unwrap().revision, state.previous.and_then(|p| p.revision), state.generation),
        (Some(1), Some(2), 3)
    );
    assert_eq!(stamped(), ["one", "1"]);
    host.rollback("s", None, "test").unwrap();
    assert_eq!(stamped(), ["two", "2"]);
    assert_eq!(host.policy("s").unwrap().calls, 5, "counts outlive changes");
}

#[test]
fn off_is_kept_but_bound_to_nothing() {
    let host = serving(&Guest::answering(1, &[], ""), json!({}));
    let mut routing = host.worker(0);
    assert!(routing.bound("topic/a").routing);
    let state = host.put_policy("p", document("p", &["topic/>"], json!({ "mode": "off" })), "test").unwrap();
    assert!(!routing.bound("topic/a").routing);
    assert_eq!((state.instances.serving, state.instances.spare), (0, 0));
    host.rollback("p", None, "test").unwrap();
    assert!(routing.bound("topic/a").routing);
}

#[test]
fn an_idle_worker_does_not_use_up_the_room() {
    let host = sized_host(2, 2);
    host.upload("p", &Guest::default().build(), "test").unwrap();
    let mut idle = host.worker(0);
    for round in 0..30 {
        for name in ["a", "b"] {
            host.put_policy(name, document("p", &["topic/>"], json!({})), "test").unwrap();
        }
        if round == 3 {
            assert_eq!(decide(&mut idle, "topic/a"), Verdict::default());
        }
    }
    assert_eq!(decide(&mut idle, "topic/a"), Verdict::default());
    assert_eq!((crate::outcome(&host, "a", "ok"), crate::outcome(&host, "a", "unavailable")), (2, 0));
}
