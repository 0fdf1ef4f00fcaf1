//! The vectors of shipped policies, `plugins/<name>/vectors.toml`: each is put to the component on both lanes, and answered as the
//! file says. No broker runs; the files are what anybody else may hold a component against, too.

use crate::policies::component;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use waspmq_core::address::{Address, Name};
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::delivery::{AckPlan, Cause, Recipient};
use waspmq_core::policy::{Acking, Compressing, Decision, Failure, Message, Policies, QueueMembers, Routing};
use waspmq_core::settings::Settings;
use waspmq_core::{MessageId, SessionId};
use waspmq_policy::{Host, HostOptions, Nobody, WorkerPolicies};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Of vectors that have none of their own.
    #[serde(default)]
    config: Map<String, Value>,
    vector: Vec<Vector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    config: Option<Map<String, Value>>,
    message: Option<Asked>,
    failure: Option<Failed>,
    /// Who a message is delivered to, for policies that compress.
    audience: Option<AskedAudience>,
    #[serde(default)]
    queues: Vec<Queue>,
    /// It goes on with what the vector before it left.
    #[serde(default)]
    continues: bool,
    /// How often it is asked; the last answer counts.
    #[serde(default = "once")]
    repeat: u32,
    expect: Value,
}

const fn once() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    from: String,
    to: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    priority: u8,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    payload: Option<String>,
}

/// Recipients that take the same codecs, by the names that clients give them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedAudience {
    codecs: Vec<String>,
    #[serde(default)]
    dictionary: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    to: String,
    cause: String,
    attempt: u16,
    attempts: u16,
    #[serde(default)]
    waited_ms: u64,
    retry_ms: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    pattern: String,
    queue: String,
    version: u64,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    in_flight: Vec<u32>,
}

/// A host with one plugin, which answers one vector after the other.
struct Run {
    host: Arc<Host>,
    policies: WorkerPolicies,
    lane: &'static str,
    hook: &'static str,
    config: Map<String, Value>,
    /// Added to versions, which have to be larger than those of earlier vectors.
    base: u64,
    told: Vec<QueueMembers>,
    /// Messages so far, which number their ids.
    count: u64,
}

impl Run {
    fn new(plugin: &str) -> Self {
        let host =
            Host::start(HostOptions { policies_max: 1, ..HostOptions::default() }, Arc::new(Nobody)).unwrap();
        let revision = host.upload(plugin, &component(plugin), "test").unwrap();
        assert_eq!((revision.lane, revision.lane_reason), ("core", None), "{plugin}");
        let (hook, policies) = (revision.hooks[0].as_str(), host.worker(0));
        Self { host, policies, lane: "auto", hook, config: Map::new(), base: 0, told: Vec::new(), count: 0 }
    }

    /// The answer; what a refused configuration is told instead.
    fn answer(&mut self, (plugin, config): (&str, &Map<String, Value>), vector: &Vector) -> Value {
        if !vector.continues {
            for mut queue in std::mem::take(&mut self.told) {
                queue.version = self.base + 999;
                queue.members.clear();
                self.host.queue_changed(queue);
            }
            self.base += 1_000;
            _ = self.host.remove_policy("p", "test");
            self.config.clone_from(vector.config.as_ref().unwrap_or(config));
        }
        for queue in &vector.queues {
            self.host.queue_changed(queue.told(self.base));
            self.told.push(queue.told(self.base));
        }
        let document = json!({
            "hook": self.hook, "plugin": plugin, "match": ["topic/>", "user/*", "all"], "config": self.config,
            "lane": self.lane, "limits": {"deadline_ms": 1_000, "cpu_share": 1.0}
        });
        if let Err(refusal) = self.host.put_policy("p", serde_json::from_value(document).unwrap(), "test") {
            return json!({ "configure": refusal.to_string() });
        }
        let mut answer = Value::Null;
        for _ in 0..vector.repeat {
            answer = match (&vector.message, &vector.failure) {
                (Some(message), None) => self.ask(message, vector.audience.as_ref()),
                (None, Some(failure)) => self.fail(failure),
                _ => panic!("{}: it asks one thing", vector.name),
            };
        }
        answer
    }

    fn ask(&mut self, asked: &Asked, audience: Option<&AskedAudience>) -> Value {
        self.count += 1;
        let headers: Vec<_> = asked.headers.clone().into_iter().collect();
        let to = Address::parse(&asked.to).unwrap();
        let message = Message {
            from: &asked.from,
            session: Some(SessionId::new(1, 0, 1)),
            to: &asked.to,
            kind: to.kind(),
            key: &asked.key,
            payload: asked.payload.as_deref().unwrap_or("{}").as_bytes(),
            is_json: true,
            headers: &headers,
            priority: asked.priority,
            unix_ms: 1_790_000_000_000 + self.count,
        };
        self.policies.bound(&asked.to);
        match self.hook {
            "ack" => _ = self.policies.plan(&message, &Settings::of_kind(to.kind())),
            "routing" => _ = self.policies.route(&message),
            _ => {}
        }
        let id = MessageId::new(1, 1, 0, self.count);
        let trace = self.policies.trace();
        self.policies.name(trace, id);
        if let Some(audience) = audience {
            self.policies.choose(&message, id, audience.told());
        }
        let explained = self.policies.explain(id).found.unwrap().explain();
        explained.decisions[0].decision.clone().unwrap()
    }

    fn fail(&mut self, failed: &Failed) -> Value {
        let cause = match failed.cause.as_str() {
            "timeout" => Cause::Timeout,
            "nack" => Cause::Nack,
            "queue-full" => Cause::QueueFull,
            "offline" => Cause::Offline,
            "connection-lost" => Cause::ConnectionLost,
            other => panic!("{other} is no cause"),
        };
        let (alice, bob) = (Name::parse("alice").unwrap(), Name::parse("bob").unwrap());
        let failure = Failure {
            to: &Address::parse(&failed.to).unwrap(),
            from: Some(&alice),
            id: MessageId::new(1, 1, 0, 1),
            messages: 1,
            recipient: &Recipient::User(bob),
            cause,
            attempt: failed.attempt,
            waited_ms: failed.waited_ms,
            retry_ms: failed.retry_ms,
            plan: &AckPlan { attempts: failed.attempts, ..AckPlan::default() },
            random: 0,
        };
        match self.policies.failed(&failure) {
            Decision::Retry { after_ms } => json!({ "retry_ms": after_ms }),
            Decision::Wait { at_most_ms } => json!({ "wait_ms": at_most_ms }),
            Decision::GiveUp => json!("give-up"),
        }
    }
}

impl AskedAudience {
    fn told(&self) -> Audience {
        let codecs = self.codecs.iter().map(|name| match name.as_str() {
            "deflate" => Codecs::DEFLATE,
            name => Codecs::from_names([name]),
        });
        Audience { codecs: codecs.fold(Codecs::NONE, Codecs::with), has_dictionary: self.dictionary }
    }
}

impl Queue {
    fn told(&self, base: u64) -> QueueMembers {
        QueueMembers {
            pattern: self.pattern.clone(),
            queue: Name::parse(&self.queue).unwrap(),
            version: base + self.version,
            members: self.members.clone(),
            loads: self.in_flight.iter().copied().collect(),
        }
    }
}

/// Whether an answer has everything that is expected of it: of objects what is named, of the headers a verdict sets all.
fn is_as_expected(expected: &Value, answer: &Value, base: u64) -> bool {
    match (expected, answer) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().all(|(key, value)| {
            let found = found.get(key).unwrap_or(&Value::Null);
            match (key.as_str(), value.as_str()) {
                ("set_headers", _) => value == found,
                ("version", _) => value.as_u64().map(|version| version + base) == found.as_u64(),
                ("configure", Some(part)) => found.as_str().is_some_and(|found| found.contains(part)),
                _ => is_as_expected(value, found, base),
            }
        }),
        _ => expected == answer,
    }
}

/// A verdict in full: an object without any of a verdict's keys, and a word, are its route.
fn in_full(hook: &str, expected: &Value) -> Value {
    let is_whole = |key: &str| expected.get(key).is_some();
    if hook != "routing" || is_whole("configure") {
        return expected.clone();
    }
    let mut whole = if is_whole("route") || is_whole("set_headers") {
        expected.clone()
    } else {
        json!({ "route": expected })
    };
    whole.as_object_mut().unwrap().entry("set_headers").or_insert_with(|| json!({}));
    whole
}

/// Puts the vectors of a policy to it, on one lane and then on the other.
fn hold(plugin: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(plugin);
    let text = std::fs::read_to_string(folder.join("vectors.toml")).unwrap();
    let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{plugin}: {error}"));
    let (mut run, mut deviating) = (Run::new(plugin), Vec::new());
    for (lane, vector) in
        ["auto", "component"].iter().flat_map(|lane| file.vector.iter().map(move |of| (lane, of)))
    {
        run.lane = lane;
        let answer = run.answer((plugin, &file.config), vector);
        let expected = in_full(run.hook, &vector.expect);
        if !is_as_expected(&expected, &answer, run.base) {
            let (name, base) = (&vector.name, run.base);
            deviating
                .push(format!("{lane}, {name}: expected {expected}, got {answer} (versions from {base})"));
        }
    }
    assert!(deviating.is_empty(), "{plugin}\n{}", deviating.join("\n"));
}

const ALL: [&str; 10] = [
    "ack-tiers",
    "compress-adaptive",
    "filter-headers",
    "route-consistent-hash",
    "route-least-loaded",
    "route-mirror",
    "route-priority",
    "route-region-canary",
    "route-sticky-user",
    "route-weighted",
];

/// Its vectors ask for codecs, and are put to it by the tests of the policy host.
const ELSEWHERE: &str = "compress-adaptive";

#[test]
fn every_shipped_policy_has_vectors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name != "common" {
            assert!(path.join("vectors.toml").is_file(), "{name} has no vectors.toml");
            let is_tested = ALL.contains(&name.as_str()) || name == ELSEWHERE;
            assert!(is_tested, "{name} is not tested");
        }
    }
}

#[test]
fn vectors_hold() {
    ALL[..3].iter().for_each(|plugin| hold(plugin));
}

#[test]
fn more_vectors_hold() {
    ALL[3..6].iter().for_each(|plugin| hold(plugin));
}

#[test]
fn the_last_vectors_hold() {
    ALL[6..].iter().for_each(|plugin| hold(plugin));
}
