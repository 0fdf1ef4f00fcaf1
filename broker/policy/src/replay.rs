//! A capture put to two components, to see which decisions differ.
//!
//! Both components run here as in a broker, with an instance for each hook, and are asked the same in the order of the
//! records. Equal components never differ: what looks random and what time it is come from the record, and what a capture
//! lacks is the same for both. Deliberately not here: files, and what people are shown.

use crate::capture::{Delivered, FORM, Failed, Full, Header, Members, Published, Record};
use crate::document::PolicyLimits;
use crate::hook::Hook;
use crate::limits;
use crate::plugin::Unfit;
use crate::question::{self, Question};
use crate::side::{Asking, Ground, Side, Told};
use crate::state::Pulls;
use crate::stats::CallOutcome;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use waspmq_core::address::{Address, Name};
use waspmq_core::limits::MESSAGE_BYTES_MAX;
use waspmq_core::policy::{Message, Overflowed, QueueMembers};
use waspmq_core::registry::Loads;
use waspmq_core::settings::Settings;

/// A component and its configuration.
#[derive(Debug, Clone, Copy)]
pub struct ReplaySide<'a> {
    pub component: &'a [u8],
    pub config: &'a serde_json::Map<String, Value>,
}

/// Why a replay does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{0}")]
    Engine(String),
    #[error("the {side} component: {unfit}")]
    Unfit { side: &'static str, unfit: Unfit },
    #[error("neither component has the hook {}", .0.as_str())]
    NoHook(Hook),
    #[error("the {side} component does not take its configuration for hook {}: {reason}", .hook.as_str())]
    Setup { side: &'static str, hook: Hook, reason: String },
    #[error(transparent)]
    Line(#[from] BadLine),
}

/// A line that is not one of a capture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    pub line: u64,
    pub reason: String,
}

/// A question that the two components answered differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayDifference {
    pub line: u64,
    pub hook: Hook,
    /// The record, without what may be large.
    pub input: Value,
    pub old: Value,
    pub new: Value,
    /// What a component asked for and the capture lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<&'static str>,
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplaySummary {
    pub records: u64,
    pub differences: u64,
    pub hooks: Vec<ReplayedHook>,
    /// Hooks that only one of the components has.
    pub only: Vec<OnlyHook>,
    /// Records of which a component asked for something that the capture lacks.
    pub lacking: BTreeMap<&'static str, u64>,
}

/// A hook that only the `old` or the `new` component has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnlyHook {
    pub hook: Hook,
    pub side: &'static str,
}

/// One hook in a summary.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedHook {
    pub hook: Hook,
    pub asked: u64,
    pub differences: u64,
    pub old: ReplayedSide,
    pub new: ReplayedSide,
}

/// How one component answered for one hook.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ReplayedSide {
    /// Calls that did not end in a decision, by how they ended.
    pub failures: BTreeMap<&'static str, u64>,
    /// Why no instance could be set up in the place of one that failed, the last time that happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_instance: Option<String>,
    pub mean_ns: Option<u64>,
    /// The upper bound of a bucket a quarter of an octave wide.
    pub p99_ns: u64,
}

/// A replay under way.
pub struct Replay {
    ground: Ground,
    old: Side,
    new: Side,
    /// Those both have, with the questions put and how many were answered differently.
    hooks: Vec<(Hook, u64, u64)>,
    only: Vec<OnlyHook>,
    lacking: BTreeMap<&'static str, u64>,
    line: u64,
    /// Stands in for payloads of which only the size is known.
    blank: Vec<u8>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("hooks", &self.hooks).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Replay {
    /// Checks and sets up both components. `header` is the first line of the capture; `hook` asks for that one alone.
    pub fn new(
        [old, new]: [ReplaySide<'_>; 2],
        hook: Option<Hook>,
        policy_limits: PolicyLimits,
        header: &[u8],
    ) -> Result<Self, ReplayError> {
        let ground = Ground::new().map_err(ReplayError::Engine)?;
        ground.clock.set(read_header(header)?.started);
        let side = |name: &'static str, of: ReplaySide<'_>| {
            let config = Value::Object(of.config.clone()).to_string();
            let side = Side::new(&ground, (name, of.component), config, policy_limits);
            side.map_err(|unfit| ReplayError::Unfit { side: name, unfit })
        };
        let (mut old, mut new) = (side("old", old)?, side("new", new)?);
        let (mut hooks, mut only) = (Vec::new(), Vec::new());
        for hook in Hook::ALL.into_iter().filter(|of| hook.is_none_or(|wanted| wanted == *of)) {
            match (old.has(hook), new.has(hook)) {
                (true, true) => hooks.push((hook, 0, 0)),
                (true, false) => only.push(OnlyHook { hook, side: old.name }),
                (false, true) => only.push(OnlyHook { hook, side: new.name }),
                (false, false) => {}
            }
        }
        if let Some(hook) = hook.filter(|_| hooks.is_empty() && only.is_empty()) {
            return Err(ReplayError::NoHook(hook));
        }
        for &(hook, ..) in &hooks {
            for side in [&mut old, &mut new] {
                let failed = |error: crate::instance::SetupError| error.to_string();
                let opened = side.open(&ground, hook).map_err(failed);
                opened.map_err(|reason| ReplayError::Setup { side: side.name, hook, reason })?;
            }
        }
        let blank = vec![0; MESSAGE_BYTES_MAX];
        Ok(Self { ground, old, new, hooks, only, lacking: BTreeMap::new(), line: 1, blank })
    }

    /// Replays the next line behind the header; answers what was decided differently.
    pub fn line(&mut self, line: &[u8]) -> Result<Vec<ReplayDifference>, BadLine> {
        self.line += 1;
        let number = self.line;
        let bad = |reason: String| BadLine { line: number, reason };
        if line.len() > limits::CAPTURE_LINE_BYTES_MAX {
            return Err(bad(format!("has more than {} bytes", limits::CAPTURE_LINE_BYTES_MAX)));
        }
        let text = std::str::from_utf8(line).map_err(|_| bad("is not text".to_owned()))?;
        let record: Record<'_> = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let differences = match record {
            Record::Message(message) => self.message(&message),
            Record::Failure(failed) => self.failed(&failed),
            Record::Overflow(full) => self.overflow(&full),
            Record::Compression(delivered) => self.delivered(&delivered),
            Record::Members(members) => self.members(members),
        };
        let mut differences = differences.map_err(bad)?;
        if !differences.is_empty() {
            let input = input(text);
            differences.iter_mut().for_each(|difference| difference.input.clone_from(&input));
        }
        Ok(differences)
    }

    pub fn summary(&self) -> ReplaySummary {
        let side = |side: &Side, hook| ReplayedSide {
            no_instance: side.why_not(hook).map(str::to_owned),
            ..side.stats(hook).map(replayed).unwrap_or_default()
        };
        let hook = |&(hook, asked, differences): &(Hook, u64, u64)| ReplayedHook {
            hook,
            asked,
            differences,
            old: side(&self.old, hook),
            new: side(&self.new, hook),
        };
        ReplaySummary {
            records: self.line - 1,
            differences: self.hooks.iter().map(|&(.., differences)| differences).sum(),
            hooks: self.hooks.iter().map(hook).collect(),
            only: self.only.clone(),
            lacking: self.lacking.clone(),
        }
    }

    fn message(&mut self, record: &Published<'_>) -> Result<Vec<ReplayDifference>, String> {
        let configured = record.configured.ok_or("configured: is missing")?;
        self.about(record, |replay, message, given| {
            let mut settings = Settings::of_kind(message.kind);
            configured.apply(&mut settings);
            let admitted = question::Admitted(message);
            let planned = question::Planned { message, settings: &settings };
            let (mut lacked, mut differences) = (Pulls::default(), Vec::new());
            differences.extend(replay.ask((Hook::Admission, &admitted), given, &mut lacked));
            let routed = question::Routed::new(message);
            differences.extend(replay.ask((Hook::Routing, &routed), given, &mut lacked));
            differences.extend(replay.ask((Hook::Ack, &planned), given, &mut lacked));
            (differences, lacked)
        })
    }

    fn delivered(&mut self, record: &Delivered<'_>) -> Result<Vec<ReplayDifference>, String> {
        let audience = record.audience().ok_or("codecs: there is no such codec")?;
        self.about(&record.message, |replay, message, given| {
            let mut lacked = Pulls::default();
            let question = question::Delivered::new(message, None, audience);
            let difference = replay.ask((Hook::Compression, &question), given, &mut lacked);
            (difference.into_iter().collect(), lacked)
        })
    }

    /// Has questions put about a message, and notes what of it was asked for and is not there.
    fn about(
        &mut self,
        record: &Published<'_>,
        ask: impl FnOnce(&mut Self, &Message<'_>, Pulls) -> (Vec<ReplayDifference>, Pulls),
    ) -> Result<Vec<ReplayDifference>, String> {
        let address = Address::parse(&record.address).map_err(|error| format!("address: {error}"))?;
        let payload = record.payload().map_err(|error| format!("payload_b64: {error}"))?;
        let size = record.size as usize;
        if size > MESSAGE_BYTES_MAX || payload.as_ref().is_some_and(|payload| payload.len() != size) {
            return Err(format!("size: no message or its payload has {size} bytes"));
        }
        let given = Pulls { headers: record.headers.is_some(), payload: payload.is_some() };
        let blank = std::mem::take(&mut self.blank);
        let message = Message {
            from: &record.sender,
            session: None,
            to: &record.address,
            kind: address.kind(),
            key: &record.key,
            payload: payload.as_deref().or_else(|| blank.get(..size)).unwrap_or_default(),
            is_json: false,
            headers: record.headers.as_deref().unwrap_or_default(),
            priority: record.priority,
            unix_ms: record.ts,
        };
        self.ground.clock.set(record.ts);
        let (differences, lacked) = ask(self, &message, given);
        for what in names(lacked) {
            *self.lacking.entry(what).or_default() += 1;
        }
        self.blank = blank;
        Ok(differences)
    }

    fn failed(&mut self, record: &Failed<'_>) -> Result<Vec<ReplayDifference>, String> {
        self.ground.clock.set(record.ts);
        let question = question::Missed { told: record.told(), id: None };
        let difference = self.ask((Hook::Ack, &question), Pulls::default(), &mut Pulls::default());
        Ok(difference.into_iter().collect())
    }

    fn overflow(&mut self, record: &Full<'_>) -> Result<Vec<ReplayDifference>, String> {
        let to = Address::parse(&record.address).map_err(|error| format!("address: {error}"))?;
        let what = Overflowed {
            to: &to,
            recipient: &record.recipient,
            priority: record.priority,
            size_bytes: record.size as usize,
            queued_bytes: record.queued_bytes as usize,
            queued_bytes_max: record.queued_bytes_max as usize,
            configured: record.configured().ok_or("configured: there is no such action")?,
        };
        self.ground.clock.set(record.ts);
        let question = question::Full(&what);
        let difference = self.ask((Hook::Overflow, &question), Pulls::default(), &mut Pulls::default());
        Ok(difference.into_iter().collect())
    }

    fn members(&mut self, record: Members<'_>) -> Result<Vec<ReplayDifference>, String> {
        let queue = Name::parse(&record.queue).map_err(|error| format!("queue: {error}"))?;
        let (pattern, members) = (record.pattern.into_owned(), record.members.into_owned());
        self.ground.clock.set(record.ts);
        let (version, loads) = (record.version, Loads::default());
        self.ground.queues.change(QueueMembers { pattern, queue, version, members, loads });
        let (old, new) = (self.old.tell(&self.ground), self.new.tell(&self.ground));
        if old == new {
            return Ok(Vec::new());
        }
        let show = |told: Result<(), CallOutcome>| told.map_or_else(show_failure, |()| json!("told"));
        Ok(vec![self.difference(Hook::Routing, (show(old), show(new)), Pulls::default())])
    }

    /// Asks both; notes in `lacked` what one of them asked for and is not given.
    fn ask<Q: Question>(
        &mut self,
        (hook, question): (Hook, &Q),
        given: Pulls,
        lacked: &mut Pulls,
    ) -> Option<ReplayDifference> {
        let (_, asked, _) = self.hooks.iter_mut().find(|(known, ..)| *known == hook)?;
        *asked += 1;
        let asking = Asking { seed: self.line, given };
        let Told { answer: old, pulled: of_old, .. } = self.old.ask(&self.ground, (hook, question), asking);
        let Told { answer: new, pulled: of_new, .. } = self.new.ask(&self.ground, (hook, question), asking);
        let lacks = Pulls {
            headers: !given.headers && (of_old.headers || of_new.headers),
            payload: !given.payload && (of_old.payload || of_new.payload),
        };
        lacked.headers |= lacks.headers;
        lacked.payload |= lacks.payload;
        if old == new {
            return None;
        }
        let show = |answer: Result<Q::Answer, CallOutcome>| {
            answer.map_or_else(show_failure, |answer| Q::show(&answer))
        };
        Some(self.difference(hook, (show(old), show(new)), lacks))
    }

    fn difference(&mut self, hook: Hook, (old, new): (Value, Value), lacks: Pulls) -> ReplayDifference {
        if let Some((.., differences)) = self.hooks.iter_mut().find(|(known, ..)| *known == hook) {
            *differences += 1;
        }
        let lacking = names(lacks).collect();
        ReplayDifference { line: self.line, hook, input: Value::Null, old, new, lacking }
    }
}

pub(crate) fn read_header(line: &[u8]) -> Result<Header, BadLine> {
    let bad = |reason: String| BadLine { line: 1, reason };
    if line.len() > limits::CAPTURE_LINE_BYTES_MAX {
        return Err(bad(format!("has more than {} bytes", limits::CAPTURE_LINE_BYTES_MAX)));
    }
    let not_one = |error| bad(format!("this is not the first line of a capture: {error}"));
    let header: Header = serde_json::from_slice(line).map_err(not_one)?;
    if header.capture != FORM {
        return Err(bad(format!("the capture has form {}, known is {FORM}", header.capture)));
    }
    Ok(header)
}

fn names(pulls: Pulls) -> impl Iterator<Item = &'static str> {
    let all = [("headers", pulls.headers), ("payload", pulls.payload)];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name)
}

fn show_failure(outcome: CallOutcome) -> Value {
    json!({ "failed": outcome.as_str() })
}

/// The record without what may be large, or is of no help to find it again.
fn input(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).unwrap_or_default();
    for kind in ["message", "compression"] {
        let Some(message) = record.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        for large in ["configured", "headers", "payload", "payload_b64"] {
            message.remove(large);
        }
    }
    if let Some(members) = record.get_mut("members").and_then(Value::as_object_mut) {
        let count = members.get("members").and_then(Value::as_array).map_or(0, Vec::len);
        members.insert("members".to_owned(), count.into());
    }
    record
}

fn replayed(stats: &crate::stats::PolicyStats) -> ReplayedSide {
    let is_failure =
        |&(outcome, count): &(&'static str, u64)| outcome != CallOutcome::Ok.as_str() && count > 0;
    ReplayedSide {
        failures: stats.outcomes().into_iter().filter(is_failure).collect(),
        no_instance: None,
        mean_ns: stats.mean_ns(),
        p99_ns: stats.latency().p99_ns,
    }
}
