//! The policies that ship with the broker, put in place as their pages say: what they decide is what clients see.

use crate::harness::{Broker, Peer};
use crate::levels::{publish, with};
use crate::policies::{set_hook, upload};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A broker with one shipped plugin and no policy yet.
fn with_plugin(plugin: &str, settings: &str) -> Broker {
    let broker = Broker::start_with_config(settings);
    upload(&broker, plugin, plugin);
    broker
}

/// Puts the policy in place; its instances know the members that are there now.
fn put(broker: &Broker, plugin: &str, config: &Value) {
    let hook = if plugin == "ack-tiers" { "ack" } else { "routing" };
    set_hook(broker, hook, (plugin, plugin), "topic/>", config);
}

async fn subscribed(broker: &Broker, user: &str, to: &str) -> Peer {
    let mut peer = broker.connect(user).await;
    peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": to})).await;
    peer
}

/// Members of the queue `w` of `topic/jobs.>`.
async fn members<const N: usize>(broker: &Broker, users: [&str; N]) -> Vec<(String, Peer)> {
    let mut members = Vec::new();
    for user in users {
        let mut peer = broker.connect(user).await;
        peer.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs.>", "queue": "w"})).await;
        members.push((user.to_owned(), peer));
    }
    members
}

/// Publishes a job with more fields, at a level; answers which member got it.
async fn job(alice: &mut Peer, members: &mut [(String, Peer)], level: &str, more: Value) -> String {
    assert_eq!(alice.ask(with(publish(1, "topic/jobs.x", "job", level), more)).await["type"], "receipt");
    let waiting = members.iter_mut().map(|(user, peer)| {
        Box::pin(async move {
            peer.expect_message("job").await;
            user.clone()
        })
    });
    futures_util::future::select_all(waiting).await.0
}

/// How many jobs each member gets.
async fn jobs(
    alice: &mut Peer,
    members: &mut [(String, Peer)],
    count: u32,
    more: Value,
) -> BTreeMap<String, u32> {
    let mut got = BTreeMap::new();
    for _ in 0..count {
        *got.entry(job(alice, members, "accepted", more.clone()).await).or_default() += 1;
    }
    got
}

fn counts<const N: usize>(of: [(&str, u32); N]) -> BTreeMap<String, u32> {
    of.map(|(user, count)| (user.to_owned(), count)).into()
}

#[tokio::test]
async fn least_loaded_spreads_a_key_by_what_members_have_in_flight() {
    let broker =
        with_plugin("route-least-loaded", "[[address]]\nmatch = \"topic/jobs.>\"\nkeep = \"always\"\n");
    let mut alice = broker.connect("alice").await;
    let mut pool = members(&broker, ["one", "two"]).await;
    put(&broker, "route-least-loaded", &json!({"queue": "w"}));
    let mut got = BTreeMap::new();
    for _ in 0..6 {
        // Not acknowledged by anybody.
        *got.entry(job(&mut alice, &mut pool, "stored", json!({"key": "k"})).await).or_default() += 1;
    }
    assert_eq!(got, counts([("one", 3), ("two", 3)]));
    pool.extend(members(&broker, ["three"]).await);
    // Put again by itself it would be left as it is, and hear of members a little later.
    assert_eq!(broker.admin("DELETE", "/v1/policies/route-least-loaded", None).0, 204);
    put(&broker, "route-least-loaded", &json!({"queue": "w"}));
    for _ in 0..2 {
        assert_eq!(job(&mut alice, &mut pool, "stored", json!({"key": "k"})).await, "three");
    }
}

#[tokio::test]
async fn weighted_gives_what_weights_say() {
    let broker = with_plugin("route-weighted", "");
    let mut alice = broker.connect("alice").await;
    let mut pool = members(&broker, ["small-1", "big-1", "idle"]).await;
    put(
        &broker,
        "route-weighted",
        &json!({"queue": "w", "weights": {"big-*": 3, "small-*": 1}, "default": 0}),
    );
    let got = jobs(&mut alice, &mut pool, 8, json!({})).await;
    assert_eq!(got, counts([("big-1", 6), ("small-1", 2)]));
}

#[tokio::test]
async fn sticky_users_stay_when_members_come_and_the_policy_is_swapped() {
    let broker = with_plugin("route-sticky-user", "");
    let mut alice = broker.connect("alice").await;
    let mut pool = members(&broker, ["one", "two"]).await;
    put(&broker, "route-sticky-user", &json!({"queue": "w", "header": "user"}));
    let of = |user: u32| json!({"headers": {"user": format!("user{user}")}});
    let mut before = Vec::new();
    for user in 0..12 {
        before.push(job(&mut alice, &mut pool, "accepted", of(user)).await);
    }
    pool.extend(members(&broker, ["three", "four"]).await);
    put(&broker, "route-sticky-user", &json!({"queue": "w", "header": "user", "ttl_s": 60}));
    for (user, was) in (0..12).zip(&before) {
        assert_eq!(job(&mut alice, &mut pool, "accepted", of(user)).await, *was);
    }
    assert_eq!(broker.admin("GET", "/v1/policies/route-sticky-user", None).1["kept"]["values"], json!(12));
}

#[tokio::test]
async fn priority_has_members_for_some_until_they_leave() {
    let broker = with_plugin("route-priority", "");
    let (mut alice, mut boss) = (broker.connect("alice").await, broker.connect("boss").await);
    let mut pool = members(&broker, ["first", "second", "third"]).await;
    let config = json!({"queue": "w", "classes": [{"senders": ["boss"], "priority_min": 8, "first": 1}]});
    put(&broker, "route-priority", &config);
    assert_eq!(jobs(&mut boss, &mut pool, 4, json!({})).await, counts([("first", 4)]));
    assert_eq!(jobs(&mut alice, &mut pool, 2, json!({"priority": 9})).await, counts([("first", 2)]));
    let got = jobs(&mut alice, &mut pool, 6, json!({})).await;
    assert!(got.keys().eq(["second", "third"]), "{got:?}");
    for (_, peer) in pool.iter_mut().skip(1) {
        peer.ask_ok(json!({"type": "unsubscribe", "ref": 1, "to": "topic/jobs.>", "queue": "w"})).await;
    }
    put(&broker, "route-priority", &config);
    assert_eq!(
        jobs(&mut alice, &mut pool, 2, json!({})).await,
        counts([("first", 2)]),
        "nobody else is there"
    );
}

#[tokio::test]
async fn a_canary_gets_its_region() {
    let broker = with_plugin("route-region-canary", "");
    let mut alice = broker.connect("alice").await;
    let mut canary = subscribed(&broker, "canary", "topic/canary.>").await;
    let mut others = subscribed(&broker, "others", "topic/jobs.>").await;
    put(&broker, "route-region-canary", &json!({"regions": ["eu-*"], "to": "topic/canary.{name}"}));
    for (region, payload) in [("eu-1", 1), ("us", 2), ("eu-2", 3)] {
        let message = publish(1, "topic/jobs.x", payload, "accepted");
        alice.ask(with(message, json!({"headers": {"region": region}}))).await;
    }
    assert_eq!(canary.expect_message(1).await["to"], json!("topic/canary.jobs.x"));
    canary.expect_message(3).await;
    others.expect_message(2).await;
    others.expect_quiet().await;
}

#[tokio::test]
async fn a_share_of_zero_is_not_mirrored() {
    let broker = with_plugin("route-mirror", "");
    let mut alice = broker.connect("alice").await;
    let mut auditor = subscribed(&broker, "auditor", "topic/audit.>").await;
    for (percent, is_copied) in [(100, true), (0, false)] {
        put(&broker, "route-mirror", &json!({"to": "topic/audit.{name}", "percent": percent}));
        for payload in 0..5 {
            alice.send(&publish(1, "topic/orders", payload, "none")).await;
            if is_copied {
                assert_eq!(auditor.expect_message(payload).await["to"], json!("topic/audit.orders"));
            }
        }
        assert!(auditor.receive_until_marker("auditor", &mut alice).await.is_empty());
    }
}

#[tokio::test]
async fn headers_are_filtered() {
    let broker = with_plugin("filter-headers", "");
    let mut alice = broker.connect("alice").await;
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let rules = json!([
        {"header": "tenant", "present": false, "drop": "the header tenant is missing"},
        {"header": "amount", "min": 1000, "set": {"review": "yes"}},
        {"header": "env", "equals": ["test"], "to": "topic/test.{name}"}]);
    put(&broker, "filter-headers", &json!({"rules": rules}));
    let order = |headers: Value| with(publish(1, "topic/orders", 1, "accepted"), json!({"headers": headers}));
    alice.send(&order(json!({"env": "test"}))).await;
    let error = alice.expect_error(1520).await;
    assert!(error["message"].as_str().unwrap().contains("the header tenant is missing"), "{error}");
    alice.ask(order(json!({"tenant": "a", "env": "test", "amount": "5"}))).await;
    assert_eq!(reader.expect_message(1).await["to"], json!("topic/test.orders"));
    alice.ask(order(json!({"tenant": "a", "amount": "2500.5"}))).await;
    let message = reader.expect_message(1).await;
    assert_eq!((&message["to"], &message["headers"]["review"]), (&json!("topic/orders"), &json!("yes")));
}

#[tokio::test]
async fn tiers_differ_by_priority_in_level_attempts_and_causes() {
    let broker = with_plugin("ack-tiers", "");
    let tiers = json!([
        {"match": ["topic/paid"], "priority_min": 7, "level": "delivered", "attempts": 9, "timeout_ms": 60_000,
         "waits_ms": [10], "give_up_on": ["nack"], "exhausted": "drop"},
        {"match": ["topic/paid"], "level": "delivered", "attempts": 2, "timeout_ms": 60_000, "waits_ms": [10]}]);
    put(&broker, "ack-tiers", &json!({"tiers": tiers}));
    let mut reader = subscribed(&broker, "reader", "topic/>").await;
    let mut alice = broker.connect("alice").await;
    let refuse = async |reader: &mut Peer, payload: &str| {
        let message = reader.expect_message(payload).await;
        reader.ask_ok(json!({"type": "nack", "ref": 9, "id": message["id"], "reason": "no"})).await;
        message["attempt"].as_u64().unwrap_or(1)
    };
    alice.send(&with(publish(1, "topic/paid", "urgent", "none"), json!({"priority": 8}))).await;
    refuse(&mut reader, "urgent").await;
    reader.expect_quiet().await;
    alice.send(&with(publish(2, "topic/paid", "usual", "accepted"), json!({"priority": 2}))).await;
    assert_eq!([refuse(&mut reader, "usual").await, refuse(&mut reader, "usual").await], [1, 2]);
    assert_eq!(alice.expect_error(1511).await["ref"], json!(2), "two attempts and no more");
    let letters = || broker.admin("GET", "/v1/dead-letters", None).1["dead_letters"].as_array().map(Vec::len);
    broker.eventually("the usual one is a dead letter, the urgent one is dropped", |_| letters() == Some(1));
    alice.send(&publish(3, "topic/free", "free", "accepted")).await;
    alice.expect_receipt(3, "accepted").await;
    reader.expect_message("free").await;
}

#[test]
fn what_a_policy_cannot_use_is_refused_with_its_key() {
    let broker = with_plugin("filter-headers", "");
    let rules = json!([{"header": "a", "present": true, "to": "nowhere"}]);
    let document = json!({
        "hook": "routing", "plugin": "filter-headers", "match": ["topic/>"], "config": {"rules": rules}
    });
    let (status, problem) = broker.put_json("/v1/policies/p", &document);
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("rules[0].to: an address such as"), "{problem}");
}
