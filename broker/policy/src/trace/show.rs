//! A trace in words, for whoever asks: who was asked what, in which order, and what came of each question.

use super::said::SET_HEADERS;
use super::{Asked, Facts, Instead, NOT_TIMED, Noted, OF_EARLIER, Role, Said, Trace};
use crate::codecs;
use crate::hook::Hook;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use waspmq_core::MessageId;

/// What one worker knows about a message, and how far back it knows anything.
#[derive(Debug, Clone)]
pub struct Explained {
    pub found: Option<Box<Recorded>>,
    /// Messages it remembers at present.
    pub remembered: u64,
    /// The oldest of them.
    pub oldest: Option<MessageId>,
}

/// What was decided about a message, not yet in words.
#[derive(Debug, Clone)]
pub struct Recorded(pub(super) Trace);

/// What was decided about a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub address: String,
    /// In the order in which policies were asked.
    pub decisions: Vec<Decided>,
    /// Decisions beyond those that are remembered of one message.
    pub left_out: u32,
    /// By the hook, and for failed attempts by `failed`: what holds in the end.
    pub outcome: BTreeMap<&'static str, Ended>,
}

/// What one policy said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decided {
    pub hook: &'static str,
    /// The function that was called: `admit`, `route`, `plan`, `failed` or `choose`.
    pub question: &'static str,
    pub policy: String,
    /// `name@revision`.
    pub plugin: String,
    /// `active`, `candidate` or `previous`.
    pub version: &'static str,
    /// Whether it was asked for comparison only.
    pub shadow: bool,
    pub generation: u64,
    /// Null when it failed.
    pub decision: Option<Value>,
    /// Null when the plugin was not called.
    pub ns: Option<u32>,
    /// False when there was no call, or `ns` is that of the latest one that was timed, as most quick ones of many are not.
    pub timed: bool,
    /// Whether an earlier verdict was said to hold for this message, too.
    pub cached: bool,
    pub failed: Option<Failed>,
    /// Of question `failed`: why the attempt failed.
    pub cause: Option<&'static str>,
    /// Of question `failed`: which attempt.
    pub attempt: Option<u16>,
    /// Of question `choose`: what the recipients it is about take.
    pub audience: Option<ToldAudience>,
}

/// What some recipients of a message take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldAudience {
    /// Of `lz4`, `zstd`, `zstd-dict` and `deflate`.
    pub codecs: Vec<&'static str>,
    /// Whether there was a dictionary for the address.
    pub dictionary: bool,
}

/// The failure of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// As in the counts of calls: `trap`, `deadline`, `breaker_open` and so on.
    pub outcome: &'static str,
    /// What served instead: `next`, `built_in`, `refused`, `configured`, `none` (sent as it is), or another version:
    /// `previous`, `active`. Null for a shadow.
    pub instead: Option<&'static str>,
}

/// What holds in the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ended {
    /// The policy whose answer it is; null when none decided.
    pub by: Option<String>,
    pub decision: Value,
}

impl Recorded {
    /// Puts it into words.
    pub fn explain(&self) -> Explanation {
        let Self(trace) = self;
        let mut outcome = BTreeMap::new();
        let mut set_headers = Map::new();
        for noted in trace.decisions().iter().filter(|noted| !noted.facts.is_shadow) {
            set_headers.extend(noted.set_headers(trace));
            outcome.insert(noted.facts.asked.subject(), noted.end(trace, &set_headers));
        }
        for asked in Asked::ALL.into_iter().filter(|&asked| trace.left_out_of & 1 << asked as u8 != 0) {
            let decision = json!("left out: more policies were asked than are remembered of one message");
            outcome.insert(asked.subject(), Ended { by: None, decision });
        }
        // A shadow that stands alone decides nothing.
        for Noted { facts, .. } in trace.decisions() {
            let asked = facts.asked;
            outcome.entry(asked.subject()).or_insert_with(|| Ended::of_nobody(asked));
        }
        Explanation {
            address: trace.texts.address(),
            decisions: trace.decisions().iter().map(|noted| noted.show(trace)).collect(),
            left_out: trace.left_out.into(),
            outcome,
        }
    }
}

impl Noted {
    pub(super) fn show(&self, trace: &Trace) -> Decided {
        let Self { label, facts } = self;
        let failed = facts.failed.map(|(outcome, instead)| Failed {
            outcome: outcome.as_str(),
            instead: instead.as_str(facts.asked),
        });
        Decided {
            hook: label.hook,
            question: facts.asked.as_str(),
            policy: label.policy.to_string(),
            plugin: label.revision.to_string(),
            version: facts.role.as_str(),
            shadow: facts.is_shadow,
            generation: facts.generation,
            decision: facts.said.show(&trace.texts),
            ns: Some(facts.ns).filter(|&ns| ns != NOT_TIMED).map(|ns| ns & !OF_EARLIER),
            timed: facts.ns & OF_EARLIER == 0,
            cached: facts.is_cached,
            failed,
            cause: facts.attempt.map(|(cause, _)| cause.as_str()),
            attempt: facts.attempt.map(|(_, attempt)| attempt),
            audience: facts.audience.map(|audience| ToldAudience {
                codecs: codecs::names(audience.codecs).collect(),
                dictionary: audience.has_dictionary,
            }),
        }
    }

    /// The headers that it set, of which a message keeps those of every policy that was asked.
    fn set_headers(&self, trace: &Trace) -> Map<String, Value> {
        let Said::Routed(_) = self.facts.said else { return Map::new() };
        match self.facts.said.show(&trace.texts).as_mut().and_then(|said| said.get_mut(SET_HEADERS)) {
            Some(Value::Object(headers)) => std::mem::take(headers),
            _ => Map::new(),
        }
    }

    /// What holds when this is the last policy that was asked. What a message is routed by has the headers `set` so far.
    fn end(&self, trace: &Trace, set: &Map<String, Value>) -> Ended {
        let mut ended = self.end_alone(trace);
        let is_refused = matches!(self.facts.failed, Some((_, Instead::Closed)));
        if self.facts.asked == Asked::Route && !set.is_empty() && !is_refused {
            match ended.decision.get_mut(SET_HEADERS) {
                Some(own) => *own = set.clone().into(),
                None => ended.decision = json!({ "route": ended.decision, SET_HEADERS: set }),
            }
        }
        ended
    }

    fn end_alone(&self, trace: &Trace) -> Ended {
        let Self { label, facts: Facts { said, failed, asked, .. } } = self;
        let policy = &label.policy;
        match failed {
            Some((_, Instead::BuiltIn)) => {
                let decision = format!("policy {policy} failed: {}", asked.without_policies());
                Ended { by: None, decision: decision.into() }
            }
            Some((outcome, Instead::Closed)) => {
                let served = match asked {
                    Asked::Admit | Asked::Route => "refused",
                    Asked::Plan | Asked::Failed => asked.without_policies(),
                    Asked::Choose => "sent as it is",
                };
                let decision = format!("policy {policy} failed ({}): {served}", outcome.as_str());
                Ended { by: None, decision: decision.into() }
            }
            None if said.is_final() => {
                Ended { by: Some(policy.to_string()), decision: said.show(&trace.texts).unwrap_or_default() }
            }
            Some(_) | None => Ended::of_nobody(*asked),
        }
    }
}

impl Ended {
    fn of_nobody(asked: Asked) -> Self {
        let decision = format!("no policy decided: {}", asked.without_policies());
        Self { by: None, decision: decision.into() }
    }
}

impl Asked {
    const ALL: [Self; 5] = [Self::Admit, Self::Route, Self::Plan, Self::Failed, Self::Choose];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Plan => "plan",
            Self::Failed => "failed",
            Self::Choose => "choose",
        }
    }

    /// What an outcome is of: the hook, but for failed attempts, which its hook `ack` is asked about besides.
    const fn subject(self) -> &'static str {
        match self {
            Self::Admit => Hook::Admission.as_str(),
            Self::Route => Hook::Routing.as_str(),
            Self::Plan => Hook::Ack.as_str(),
            Self::Failed => self.as_str(),
            Self::Choose => Hook::Compression.as_str(),
        }
    }

    /// What is done where no policy decides.
    const fn without_policies(self) -> &'static str {
        match self {
            Self::Admit => "accepted",
            Self::Route => "as addressed",
            Self::Plan | Self::Failed => "configured",
            Self::Choose => "as the broker chooses",
        }
    }
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Candidate => "candidate",
            Self::Previous => "previous",
        }
    }
}

impl Instead {
    const fn as_str(self, asked: Asked) -> Option<&'static str> {
        Some(match self {
            Self::Next => "next",
            Self::BuiltIn => "built_in",
            Self::Closed => match asked {
                Asked::Admit | Asked::Route => "refused",
                Asked::Plan | Asked::Failed => "configured",
                Asked::Choose => "none",
            },
            Self::Version(role) => role.as_str(),
            Self::Nothing => return None,
        })
    }
}
