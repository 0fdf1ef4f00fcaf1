//! What the host keeps for policies, and what it tells them, through a guest that does what a header asks.

use crate::guests::{built, templates};
use crate::{document, host, message, outcome, serving};
use serde_json::json;
use std::sync::Arc;
use waspmq_core::policy::{Message, Outcome};
use waspmq_policy::{Host, WorkerPolicies, limits};

/// A host with the policy `p` on `topic/p` and the policy `q` on `topic/q`, both of one plugin.
fn commanded() -> Arc<Host> {
    let host = host(2);
    host.upload("decide", &built("guest-decide"), "test").unwrap();
    for name in ["p", "q"] {
        let whole = json!({ "limits": { "cpu_share": 1.0 } });
        host.put_policy(name, document("decide", &[&format!("topic/{name}")], whole), "test").unwrap();
    }
    host
}

/// Has a policy do the commands.
fn run(policies: &mut WorkerPolicies, policy: &str, commands: &str) -> String {
    let (to, headers) = (format!("topic/{policy}"), [("do".to_owned(), commands.to_owned())]);
    let outcome = crate::route(policies, &message(&to, &headers));
    let Outcome::Decided(verdict) = outcome else { panic!("{outcome:?}") };
    let done = verdict.set_headers.into_iter().find(|(name, _)| name == "done");
    done.unwrap_or_else(|| panic!("{commands} was not done")).1
}

#[test]
fn values_are_shared_by_workers_and_separate_by_policy() {
    let host = commanded();
    let (mut first, mut second) = (host.worker(0), host.worker(1));
    assert_eq!(run(&mut first, "p", "get k; set k v 0; get k"), "none; true; v");
    assert_eq!(run(&mut second, "p", "get k; cas k - w 0; cas k v w 0; get k"), "v; false; true; w");
    assert_eq!(run(&mut first, "q", "get k; add n 2 0; add n -5 0"), "none; 2; -3");
    assert_eq!(run(&mut second, "p", "get n; delete k; get k; add k 1 0"), "none; deleted; none; 1");
    assert_eq!(run(&mut second, "p", "set text abc 0; add text 1 0"), "true; none");
}

#[test]
fn values_survive_swaps_and_rollbacks_and_end_with_the_policy() {
    let host = commanded();
    let mut policies = host.worker(0);
    run(&mut policies, "p", "set k v 0");
    let other = document("decide", &["topic/p"], json!({ "config": { "routing": { "cache": "address" } } }));
    host.put_policy("p", other, "test").unwrap();
    assert_eq!(run(&mut policies, "p", "get k; set k w 0"), "v; true");
    host.rollback("p", None, "test").unwrap();
    assert_eq!(run(&mut policies, "p", "get k"), "w");
    assert_eq!(host.policy("p").unwrap().kept.values, 1);
    host.remove_policy("p", "test").unwrap();
    host.put_policy("p", document("decide", &["topic/p"], json!({})), "test").unwrap();
    assert_eq!(run(&mut policies, "p", "get k"), "none");
}

#[test]
fn values_end_at_their_time() {
    let host = commanded();
    let mut policies = host.worker(0);
    assert_eq!(run(&mut policies, "p", "set k v 30; set kept v 0; get kept"), "true; true; v");
    crate::eventually("the value ends", || (run(&mut policies, "p", "get k") == "none").then_some(()));
    assert_eq!(run(&mut policies, "p", "get kept"), "v");
}

#[test]
fn the_quota_is_one_policys_own() {
    let host = commanded();
    let mut policies = host.worker(0);
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    assert_eq!(run(&mut policies, "p", &format!("set {long} v 0; get {long}")), "false; none");
    assert_eq!(run(&mut policies, "p", &format!("fill {}", limits::VALUE_BYTES_MAX + 1)), "0");
    let kept = |policy: &str| host.policy(policy).unwrap().kept;
    assert_eq!((kept("p").values, kept("p").refused), (0, 2));
    assert_eq!(run(&mut policies, "p", "fill 4000"), "60");
    assert_eq!(run(&mut policies, "q", "fill 10"), "60");
    assert!(kept("p").value_bytes > 60 * 4_000 && kept("q").value_bytes < 60 * 20);
}

#[test]
fn host_calls_beyond_the_bound_answer_nothing() {
    let host = commanded();
    let mut policies = host.worker(0);
    // One was spent on the header with the commands.
    let commands = vec!["set k v 0"; limits::HOSTCALLS_MAX as usize + 1].join("; ");
    let done = run(&mut policies, "p", &commands);
    let answers: Vec<&str> = done.split("; ").collect();
    let within = limits::HOSTCALLS_MAX as usize - 1;
    assert!(answers[..within].iter().all(|answer| *answer == "true"));
    assert_eq!(answers[within..], ["false", "false"]);
    assert_eq!(host.policy("p").unwrap().exceeded, [("hostcalls", 2)]);
    assert_eq!(host.policy("q").unwrap().exceeded, []);
}

#[test]
fn buckets_hold_what_they_may() {
    let host = commanded();
    let (mut first, mut second) = (host.worker(0), host.worker(1));
    // A second is worth a thousandth of what is taken.
    assert_eq!(run(&mut first, "p", "take b 1000 1 2000; take b 1000 1 2000"), "true; true");
    assert_eq!(run(&mut second, "p", "take b 1000 1 2000; take other 1000 1 2000"), "false; true");
    assert_eq!(run(&mut second, "q", "take b 1000 1 2000; take b 1 0 5; take b 6 5 5"), "true; false; false");
}

#[test]
fn the_host_tells_time_and_chance_and_who_is_there() {
    let host = commanded();
    let mut policies = host.worker(0);
    assert_eq!(
        run(&mut policies, "p", "online alice; online bob; group eng; group none"),
        "true; false; 3; 0"
    );
    let unix_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let before = unix_ms();
    let told: u128 = crate::eventually("the clock goes on", || {
        let told = run(&mut policies, "p", "now").parse().unwrap();
        (told >= before).then_some(told)
    });
    assert!(told <= unix_ms());
    let drawn = run(&mut policies, "p", "random; random; random");
    let mut numbers: Vec<&str> = drawn.split("; ").collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "{drawn}");
}

#[test]
fn histograms_are_shown() {
    let host = commanded();
    let (mut first, mut second) = (host.worker(0), host.worker(1));
    run(&mut first, "p", "observe h 100; observe h 200; observe Bad 1");
    run(&mut second, "p", "observe h 300");
    let histograms = host.policy("p").unwrap().histograms;
    assert_eq!(histograms.len(), 1);
    assert_eq!((histograms["h"].count, histograms["h"].sum), (3, 600));
    assert_eq!(outcome(&host, "p", "ok"), 2);
}

/// As many messages as would fill an instance's memory over and over if what they made stayed.
#[test]
fn what_goes_over_a_limit_is_counted_by_limit() {
    let host = commanded();
    let (mut first, mut second) = (host.worker(0), host.worker(1));
    let exceeded = || host.policy("p").unwrap().exceeded;
    run(&mut first, "p", "observe h 1; set k v 0; take b 1 1 1");
    assert_eq!(exceeded(), []);
    run(&mut first, "p", "observe Bad 1; take b 1 1 1");
    assert_eq!(exceeded(), [("histograms", 1)], "an empty bucket is no limit");
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    run(&mut second, "p", &format!("set {long} v 0; add {long} 1 0; take {long} 1 1 1; observe Bad 1"));
    assert_eq!(exceeded(), [("histograms", 2), ("values", 2), ("buckets", 1)]);
    let metrics = host.metrics();
    let expected = [
        ("hostcalls", 0),
        ("log_lines", 0),
        ("counters", 0),
        ("histograms", 2),
        ("values", 2),
        ("buckets", 1),
    ];
    assert_eq!(metrics[0].exceeded, expected);
}

#[test]
fn templates_are_not_worn_by_large_texts() {
    let key = "k".repeat(60_000);
    for name in templates().iter().filter(|name| name.ends_with("-routing")) {
        let config = json!({ "header": "region", "to": "topic/" });
        let whole = json!({ "config": config, "limits": { "cpu_share": 1.0, "deadline_ms": 1_000 } });
        let host = serving(&built(&format!("../templates/{name}")), whole);
        let mut policies = host.worker(0);
        for _ in 0..300 {
            crate::route(&mut policies, &Message { key: &key, ..message("topic/orders", &[]) });
        }
        assert_eq!(outcome(&host, "p", "ok"), 300, "{name}");
        assert_eq!(host.policy("p").unwrap().instances.replaced, 0, "{name}");
    }
}
