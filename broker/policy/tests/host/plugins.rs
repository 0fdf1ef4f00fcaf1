//! Uploads: what is taken, and for what reason something is not.

use crate::guests::{Guest, built};
use crate::host;
use serde_json::json;
use waspmq_policy::{Hook, RemoveError, Unfit, limits};

#[test]
fn a_component_becomes_a_revision() {
    let host = host(1);
    let first = host.upload("stamp", &built("stamp-a"), "test").unwrap();
    assert_eq!((first.revision, first.hooks.as_slice()), (1, [Hook::Routing].as_slice()));
    assert_eq!((first.lane, &first.lane_reason), ("core", &None));
    assert_eq!(
        (first.abi, first.digest.len(), first.size),
        ("waspmq:policy@0.1.0", 64, built("stamp-a").len())
    );
    assert_eq!(host.upload("stamp", &built("stamp-a"), "test").unwrap(), first, "the same bytes, no new one");
    let second = host.upload("stamp", &built("stamp-b"), "test").unwrap();
    assert_eq!(second.revision, 2);
    assert_ne!(second.digest, first.digest);
    assert_eq!(host.plugin("stamp").unwrap(), [first, second.clone()]);
    assert_eq!(host.plugins(), [second]);
    assert_eq!(host.plugin("other"), None);
    assert_eq!(host.generation(), 0, "an upload changes no decision");
}

#[test]
fn what_is_unfit_is_refused_with_a_reason_and_leaves_no_trace() {
    let host = host(1);
    let check = |component: &[u8], expected: &str| {
        let reason = host.upload("p", component, "test").unwrap_err().to_string();
        assert!(reason.contains(expected), "{expected}: {reason}");
        assert!(host.plugins().is_empty());
    };
    let edited = |from, to| Guest { edits: vec![(from, to)], ..Guest::default() }.build();
    check(b"not wasm at all", "this is not WebAssembly");
    check(b"", "this is not WebAssembly");
    check(&wat::parse_str("(module)").unwrap(), "this is a core module, not a component");
    check(b"\0asm\x0d\0\x01\0garbage", "the component is not valid");
    check(&vec![0; limits::PLUGIN_BYTES_MAX + 1], "the limit is 25165824");
    check(&wat::parse_str("(component)").unwrap(), "does not export `configure`");
    check(
        &wat::parse_str(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#).unwrap(),
        "imports `wasi:cli/environment@0.2.0`",
    );
    check(&wat::parse_str(r#"(component (import "now" (func)))"#).unwrap(), "imports `now`");
    check(
        &edited(
            r#"(export "log" (func (param "level" $level) (param "text" string)))"#,
            r#"(export "log" (func (param "level" $level) (param "text" string))) (export "exec" (func))"#,
        ),
        "imports `waspmq:policy/host@0.1.0#exec`",
    );
    check(&edited(r#"(param "delta" u64)"#, r#"(param "delta" s64)"#), "with another type");
    check(
        &edited(
            r#"(func (export "self-test") (result (result"#,
            r#"(func (export "selftest") (result (result"#,
        ),
        "does not export `self-test`",
    );
    check(
        &edited(r#"(export "route") (param "message""#, r#"(export "rout") (param "message""#),
        "does not export `route`, which the world `routing`",
    );
    check(&edited(r#"(field "size" u32)"#, r#"(field "size" s32)"#), "exports `route` with another type");
    let trapping = Guest { self_test: "unreachable", ..Guest::default() };
    check(&trapping.build(), "failed in self-test: wasm trap: wasm `unreachable`");
    let looping = Guest { self_test: "(loop $l (br $l)) (i32.const 0)", ..Guest::default() };
    check(&looping.build(), "more than 250 ms of CPU time in self-test");
    let failing = Guest {
        data: r#"(data (i32.const 64) "\01\00\00\00\00\02\00\00\0c\00\00\00") (data (i32.const 512) "bad firmware")"#
            .to_owned(),
        self_test: "(i32.const 64)",
        ..Guest::default()
    };
    check(&failing.build(), "self-test answered: bad firmware");
    let reason = host.upload("No Name", &Guest::default().build(), "test").unwrap_err();
    assert_eq!(reason, Unfit::Name { name: "No Name".to_owned() });
    assert_eq!(
        host.upload("p", &Guest::default().build(), "test").unwrap().revision,
        1,
        "and a good one works"
    );
}

#[test]
fn a_route_inside_of_an_interface_is_pointed_out() {
    let host = host(1);
    let component = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $inner (export "configure" (func $f)))
        (export "waspmq:policy/routing@0.1.0" (instance $inner)))"#;
    let reason = host.upload("p", &wat::parse_str(component).unwrap(), "test").unwrap_err().to_string();
    assert!(reason.contains("`configure`") && reason.contains("inside of an interface"), "{reason}");
}

#[test]
fn old_revisions_go_unless_a_policy_uses_them() {
    let host = host(1);
    let upload = |n: u32| {
        let guest = Guest { data: format!("(data (i32.const 0) \"{n}\")"), ..Guest::default() };
        host.upload("p", &guest.build(), "test").unwrap()
    };
    upload(1);
    host.put_policy("p", crate::document("p@1", &["topic/a"], json!({})), "test").unwrap();
    let last = u32::try_from(limits::REVISIONS_KEPT).unwrap() + 2;
    (2..=last).for_each(|n| assert_eq!(upload(n).revision, n));
    let kept: Vec<u32> = host.plugin("p").unwrap().iter().map(|revision| revision.revision).collect();
    assert_eq!(kept.len(), limits::REVISIONS_KEPT);
    assert_eq!((kept[0], kept[1], kept[15]), (1, 4, 18), "the used one stays, 2 and 3 went");
}

#[test]
fn a_used_plugin_is_not_removed() {
    let host = host(1);
    host.upload("p", &Guest::default().build(), "test").unwrap();
    host.put_policy("x", crate::document("p", &["topic/a"], json!({})), "test").unwrap();
    let in_use = RemoveError::InUse { name: "p".to_owned(), policy: "x".to_owned() };
    assert_eq!(host.remove_plugin("p", "test"), Err(in_use));
    host.remove_policy("x", "test").unwrap();
    host.remove_plugin("p", "test").unwrap();
    assert_eq!(host.remove_plugin("p", "test"), Err(RemoveError::UnknownPlugin { name: "p".to_owned() }));
}
