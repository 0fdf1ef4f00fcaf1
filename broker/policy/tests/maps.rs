//! Memory maps that instances take of what the kernel allows a process. A process of its own, since they are counted for
//! the whole of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "host/guests.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod guests;

use guests::{Guest, built};
use serde_json::json;
use std::sync::Arc;
use waspmq_core::address::Kind;
use waspmq_core::policy::{Message, Policies, Routing};
use waspmq_policy::{Host, HostOptions, Nobody, limits};

const WORKERS: usize = 4;
const POLICIES: usize = 4;

fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// As many tables and as much memory as there may be, in an instance that used both.
fn large() -> Vec<u8> {
    let tables = "(core module $part (table 1000 funcref)) ".to_owned()
        + &"(core instance (instantiate $part)) ".repeat(limits::TABLES_PER_COMPONENT);
    let edits = vec![(
        "(core instance $libc (instantiate $libc))",
        &*format!("(core instance $libc (instantiate $libc)) {tables}").leak(),
    )];
    let route =
        "(drop (memory.grow (i32.const 200))) (memory.fill (i32.const 65536) (i32.const 1) (i32.const 65536))
        (i32.const 1024)";
    let data = r#"(data (i32.const 512) "image")"#.to_owned();
    Guest { edits, route: route.to_owned(), data, ..Guest::default() }.build()
}

#[test]
fn an_instance_takes_no_more_maps_than_are_counted_for_it() {
    for (name, component) in [("decide", built("guest-decide")), ("large", large())] {
        let options = HostOptions { workers: WORKERS, policies_max: POLICIES, ..HostOptions::default() };
        let host = Host::start(options, Arc::new(Nobody)).unwrap();
        host.upload("p", &component, "test").unwrap();
        let before = maps();
        for lane in ["auto", "component"] {
            for policy in 0..POLICIES {
                let document =
                    json!({ "hook": "routing", "plugin": "p", "match": ["topic/>"], "lane": lane });
                let document = serde_json::from_value(document).unwrap();
                host.put_policy(&format!("p{policy}"), document, "test").unwrap();
            }
        }
        let mut workers: Vec<_> = (0..WORKERS).map(|worker| host.worker(worker)).collect();
        for policies in &mut workers {
            policies.bound("topic/a");
            policies.route(&message());
        }
        // The active version and the one before, each with a spare.
        let (taken, instances) = (maps() - before, WORKERS * POLICIES * 4);
        println!("{name}: {taken} maps for {instances} instances");
        assert!(taken <= instances * limits::MAPS_PER_INSTANCE, "{name}: {taken} maps for {instances}");
    }
}

fn message() -> Message<'static> {
    Message {
        from: "alice",
        session: None,
        to: "topic/a",
        kind: Kind::Topic,
        key: "",
        payload: b"{}",
        is_json: true,
        headers: &[],
        priority: 4,
        unix_ms: 1_700_000_000_000,
    }
}
