//! Vectors: questions with the decisions that a component has to give, put to it without a broker.
//!
//! Each vector begins with a new instance, no values and no time passed, unless it continues the one before it. Everything a
//! component can ask for comes from the vector, so a run gives the same answers every time, and takes the same fuel for
//! them. Deliberately not here: files, and what people are shown.

mod asked;
mod expected;
mod judge;
mod prepared;

use crate::bindings::Cache;
use crate::document::PolicyLimits;
use crate::hook::Hook;
use crate::hostcalls::Surroundings;
use crate::limits;
use crate::plugin::Unfit;
use crate::question::Question;
use crate::side::{Asking, Ground, Side, Told};
use crate::state::Pulls;
use crate::stats::CallOutcome;
use asked::{AskedAudience, AskedMessage, AskedQueue};
use prepared::Asker;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use judge::Deviation;
pub(crate) use prepared::Prepared;

/// A file of vectors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vectors {
    /// The configuration of all vectors that have none of their own.
    #[serde(default)]
    pub config: Map<String, Value>,
    #[serde(rename = "vector", default)]
    pub vectors: Vec<Vector>,
}

/// One question and what is expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    /// Which hook a message is put to, for components that have several.
    pub hook: Option<Hook>,
    pub config: Option<Map<String, Value>>,
    message: Option<AskedMessage>,
    failure: Option<Map<String, Value>>,
    overflow: Option<Map<String, Value>>,
    /// With the hook compression: those that the message goes to.
    #[serde(default)]
    audience: AskedAudience,
    #[serde(default)]
    queues: Vec<AskedQueue>,
    /// Users who have a session, and groups with the number of their members.
    #[serde(default)]
    online: BTreeSet<String>,
    #[serde(default)]
    groups: BTreeMap<String, u32>,
    /// Milliseconds since 1970.
    now: Option<u64>,
    /// As many milliseconds later.
    #[serde(default)]
    after_ms: u64,
    /// What `random` follows from.
    #[serde(default)]
    seed: u64,
    /// It goes on with the instance and the values that the vector before it left.
    #[serde(default)]
    continues: bool,
    /// How often it is asked; the last answer counts.
    #[serde(default = "once")]
    repeat: u32,
    expect: Value,
    /// The most fuel that the last answer may take.
    max_fuel: Option<u64>,
}

const fn once() -> u32 {
    1
}

/// The time of vectors that say none: 2026-09-21, 14:13:20 UTC.
const NOW: u64 = 1_790_000_000_000;

/// Why vectors cannot be put to a component.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    #[error("{0}")]
    Engine(String),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("there is no [[vector]]")]
    Empty,
    #[error("there are more than {} vectors", limits::VECTORS_MAX)]
    TooMany,
    #[error("vector {name:?}: {reason}")]
    Vector { name: String, reason: String },
}

/// What became of one vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VectorResult {
    pub name: String,
    pub hook: Hook,
    pub answer: Value,
    /// None: it is as expected.
    pub deviations: Vec<Deviation>,
    /// What the last answer took; none where the component did not answer.
    pub fuel: Option<u64>,
}

/// Vectors on their way through a component.
pub struct VectorsRun {
    ground: Ground,
    side: Side,
    config: Map<String, Value>,
    /// The time of the vector before, where it was set up.
    last: Option<u64>,
}

#[derive(Debug)]
struct Somebody {
    online: BTreeSet<String>,
    groups: BTreeMap<String, u32>,
}

impl Surroundings for Somebody {
    fn is_online(&self, user: &str) -> bool {
        self.online.contains(user)
    }

    fn group_size(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }
}

impl std::fmt::Debug for VectorsRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VectorsRun").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Vectors {
    /// Checks how many there are.
    pub fn check(&self) -> Result<(), VectorError> {
        match self.vectors.len() {
            0 => Err(VectorError::Empty),
            count if count > limits::VECTORS_MAX => Err(VectorError::TooMany),
            _ => Ok(()),
        }
    }
}

impl Vectors {
    /// The vectors in groups of those that continue each other.
    pub fn groups(&self) -> impl Iterator<Item = &[Vector]> {
        self.vectors.chunk_by(|_, next| next.continues)
    }

    /// The questions that all go with one configuration and one moment, for who only wants to put them. All know
    /// all queues.
    pub(crate) fn prepare(
        &self,
        side: &Side,
        ground: &mut Ground,
    ) -> Result<Vec<Prepared>, (String, String)> {
        ground.clock.set(NOW);
        let is_plain = |vector: &&Vector| vector.config.is_none() && !vector.continues && !vector.fails();
        let mut questions = Vec::new();
        for vector in self.vectors.iter().filter(is_plain) {
            let bad = |reason| (vector.name.clone(), reason);
            let hook = hook(side, vector).map_err(bad)?;
            for queue in &vector.queues {
                ground.queues.change(queue.members().map_err(bad)?);
            }
            questions.push(Prepared::new(vector, hook, NOW).map_err(bad)?);
        }
        Ok(questions)
    }
}

impl Vector {
    /// Whether it expects that there is no answer.
    fn fails(&self) -> bool {
        ["configure", "failed"].iter().any(|key| self.expect.get(key).is_some())
    }
}

impl VectorsRun {
    /// Checks the component. `config` is that of vectors which have none of their own; `memory_mb` is a policy's limit.
    pub fn new(component: &[u8], config: Map<String, Value>, memory_mb: u32) -> Result<Self, VectorError> {
        let ground = Ground::counting().map_err(VectorError::Engine)?;
        // Where fuel is counted, calls are slower, and what is too slow is told by the fuel.
        let limits =
            PolicyLimits { deadline_ms: limits::DEADLINE_MS_MAX, memory_mb, ..PolicyLimits::default() };
        let side = Side::new(&ground, ("vectors", component), String::new(), limits)?;
        Ok(Self { ground, side, config, last: None })
    }

    /// Puts one vector to the component; vectors that continue have to come behind those they continue.
    pub fn run(&mut self, vector: &Vector) -> Result<VectorResult, VectorError> {
        let bad = |reason| VectorError::Vector { name: vector.name.clone(), reason };
        let hook = hook(&self.side, vector).map_err(bad)?;
        expected::check(hook, vector.failure.is_some(), &vector.expect).map_err(bad)?;
        if !(1..=limits::VECTOR_REPEAT_MAX).contains(&vector.repeat) {
            return Err(bad(format!("repeat: must be 1 to {}", limits::VECTOR_REPEAT_MAX)));
        }
        let result = |answer: Value, deviations, fuel| {
            let name = vector.name.clone();
            Ok(VectorResult { name, hook, answer, deviations, fuel })
        };
        if let Some(refusal) = self.set_up(vector, hook).map_err(bad)? {
            let answer = json!({ "configure": refusal });
            let wanted = vector.expect.get("configure").and_then(Value::as_str);
            let is_expected = wanted.is_some_and(|wanted| refusal.contains(wanted));
            let deviations = if is_expected { Vec::new() } else { judge::compare(&vector.expect, &answer) };
            return result(answer, deviations, None);
        }
        let (mut answer, mut fuel) = (Value::Null, None);
        let question = Prepared::new(vector, hook, self.last.unwrap_or(NOW)).map_err(bad)?;
        for _ in 0..vector.repeat {
            (answer, fuel) = self.ask(&question, vector.seed);
        }
        let expected = match hook {
            Hook::Routing => judge::verdict(&vector.expect),
            _ => vector.expect.clone(),
        };
        let mut deviations = judge::compare(&expected, &answer);
        if let (Some(most), Some(taken)) = (vector.max_fuel, fuel)
            && taken > most
        {
            deviations.push(Deviation { at: "fuel".to_owned(), expected: most.into(), found: taken.into() });
        }
        result(answer, deviations, fuel)
    }

    /// Makes what answers the vector ready; answers why the component does not take its configuration.
    fn set_up(&mut self, vector: &Vector, hook: Hook) -> Result<Option<String>, String> {
        let before = self.last.take();
        let queues = vector.queues.iter().map(AskedQueue::members).collect::<Result<Vec<_>, _>>()?;
        if vector.continues {
            let before = before.ok_or("continues: there is no vector before it, or it was not set up")?;
            if vector.config.is_some() || !vector.online.is_empty() || !vector.groups.is_empty() {
                return Err(
                    "continues: its configuration and surroundings are those of the one before".to_owned()
                );
            }
            let now = vector.now.unwrap_or(before) + vector.after_ms;
            self.ground.clock.set(now);
            for members in queues {
                self.ground.queues.change(members);
                self.side.tell(&self.ground).map_err(|failure| format!("queues: {}", failure.as_str()))?;
            }
            self.last = Some(now);
            return Ok(None);
        }
        let (online, groups) = (vector.online.clone(), vector.groups.clone());
        self.ground.begin_anew(Arc::new(Somebody { online, groups }));
        let now = vector.now.unwrap_or(NOW) + vector.after_ms;
        self.ground.clock.set(now);
        for members in queues {
            self.ground.queues.change(members);
        }
        let config = vector.config.as_ref().unwrap_or(&self.config);
        self.side.begin_anew(Value::Object(config.clone()).to_string());
        if let Err(refusal) = self.side.open(&self.ground, hook) {
            return Ok(Some(refusal.to_string()));
        }
        self.last = Some(now);
        Ok(None)
    }

    fn ask(&mut self, question: &Prepared, seed: u64) -> (Value, Option<u64>) {
        let now = self.last.unwrap_or(NOW);
        let mut putting = Putting { run: self, hook: question.hook(), seed };
        let ((mut answer, fuel), cache) = question.ask(&mut putting, now);
        if let (Some(cache), Some(verdict)) = (cache, answer.as_object_mut())
            && !verdict.contains_key("failed")
        {
            verdict.insert("cache".to_owned(), json!(word(cache)));
        }
        (answer, fuel)
    }
}

/// The hook that a vector is for.
fn hook(side: &Side, vector: &Vector) -> Result<Hook, String> {
    let hooks = side.compiled.exports.hooks();
    let takes_messages = |hook: &Hook| *hook != Hook::Overflow;
    let hook = match (&vector.message, &vector.failure, &vector.overflow) {
        (Some(_), None, None) => {
            let mut able = hooks.iter().copied().filter(takes_messages);
            match (vector.hook, able.next(), able.next()) {
                (Some(hook), ..) if takes_messages(&hook) => hook,
                (None, Some(only), None) => only,
                (None, Some(_), Some(_)) => return Err("hook: say which of the component's hooks".to_owned()),
                _ => return Err("message: the hook overflow is asked with `overflow`".to_owned()),
            }
        }
        (None, Some(_), None) => Hook::Ack,
        (None, None, Some(_)) => Hook::Overflow,
        _ => {
            let one = "asks with one of `message`, `failure` and `overflow`";
            return Err(format!("{one}; here is {}", asked::kind(vector)));
        }
    };
    if !hooks.contains(&hook) || vector.hook.is_some_and(|wanted| wanted != hook) {
        return Err(format!("hook: the component has none to answer this ({})", hook.as_str()));
    }
    Ok(hook)
}

struct Putting<'a> {
    run: &'a mut VectorsRun,
    hook: Hook,
    seed: u64,
}

impl Asker for Putting<'_> {
    type Out = (Value, Option<u64>);

    fn ask<Q: Question>(&mut self, question: &Q) -> Self::Out {
        let asking = Asking { seed: self.seed, given: Pulls { headers: true, payload: true } };
        let VectorsRun { ground, side, .. } = self.run;
        let Told { answer, fuel, .. } = side.ask(ground, (self.hook, question), asking);
        let failed = |outcome: CallOutcome| json!({ "failed": outcome.as_str() });
        (answer.map_or_else(failed, |answer| Q::show(&answer)), fuel)
    }
}

const fn word(of: Cache) -> &'static str {
    match of {
        Cache::Never => "never",
        Cache::Address => "address",
        Cache::Connection => "connection",
    }
}
