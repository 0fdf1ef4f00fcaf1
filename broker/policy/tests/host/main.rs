//! The host with real components: what is refused, what is decided, what happens when a guest misbehaves, and
//! what a swap under load looks like.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod archive;
mod audit;
mod cached;
mod capture;
mod compress_adaptive;
mod compression;
mod deciding;
mod explain;
mod failures;
mod guests;
mod hooks;
mod hostile;
mod hostile_hooks;
mod hostile_uploads;
mod kept_versions;
mod lanes;
mod lanes_hooks;
mod load;
mod members;
mod memory;
mod plugins;
mod policies;
mod replay;
mod rollout;
mod room;
mod rules;
mod shipped;
mod taken_back;
mod vectors;
mod versions;

use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use waspmq_core::SessionId;
use waspmq_core::address::Kind;
use waspmq_core::policy::{Message, Outcome, Policies, Verdict};
use waspmq_policy::{Host, HostOptions, PolicyDocument, PolicyState, PutError, Surroundings};

/// Surroundings in which alice is online and the group `eng` has three members.
#[derive(Debug)]
struct Somebody;

impl Surroundings for Somebody {
    fn is_online(&self, user: &str) -> bool {
        user == "alice"
    }

    fn group_size(&self, group: &str) -> u32 {
        if group == "eng" { 3 } else { 0 }
    }
}

fn host(workers: usize) -> Arc<Host> {
    sized_host(workers, 4)
}

fn sized_host(workers: usize, policies_max: usize) -> Arc<Host> {
    audit::record();
    Host::start(HostOptions { workers, policies_max, ..HostOptions::default() }, Arc::new(Somebody)).unwrap()
}

/// A host with one plugin `p` and the policy `p` for all topics, changed by `more`.
fn serving(component: &[u8], more: serde_json::Value) -> Arc<Host> {
    let host = host(1);
    host.upload("p", component, "test").unwrap();
    host.put_policy("p", document("p", &["topic/>"], more), "test").unwrap();
    host
}

fn document(plugin: &str, patterns: &[&str], more: serde_json::Value) -> PolicyDocument {
    let mut document = json!({ "hook": "routing", "plugin": plugin, "match": patterns });
    let fields = document.as_object_mut().unwrap();
    more.as_object().unwrap().iter().for_each(|(key, value)| {
        fields.insert(key.clone(), value.clone());
    });
    serde_json::from_value(document).unwrap()
}

/// Puts a version with instances of its own also where this document is in place already.
fn put_anew(host: &Host, name: &str, mut document: PolicyDocument) -> Result<PolicyState, PutError> {
    let current = host.policy(name).and_then(|state| state.current);
    if current.is_some_and(|current| current.document == document) {
        document.budget.latency_factor += 1;
    }
    host.put_policy(name, document, "test")
}

fn message<'a>(to: &'a str, headers: &'a [(String, String)]) -> Message<'a> {
    Message {
        from: "alice",
        session: Some(SessionId::new(1, 0, 1)),
        to,
        kind: Kind::Topic,
        key: "",
        payload: b"{}",
        is_json: true,
        headers,
        priority: 4,
        unix_ms: 1_700_000_000_000,
    }
}

/// One pass: the look-up settles by which policies, and then they are asked.
fn route(policies: &mut impl Policies, message: &Message<'_>) -> Outcome {
    policies.bound(message.to);
    policies.route(message)
}

fn decide(policies: &mut impl Policies, to: &str) -> Verdict {
    match route(policies, &message(to, &[])) {
        Outcome::Decided(verdict) => verdict,
        Outcome::Refused(reason) => panic!("{to}: {reason}"),
    }
}

fn outcome(host: &Host, policy: &str, name: &str) -> u64 {
    let state = host.policy(policy).unwrap();
    state.outcomes.iter().find(|(outcome, _)| *outcome == name).unwrap().1
}

#[expect(clippy::disallowed_methods, reason = "tests of deadlines measure time")]
fn now() -> Instant {
    Instant::now()
}

/// Asks again until the answer is there; what other threads do is waited for by its effect.
fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::yield_now();
    }
}
