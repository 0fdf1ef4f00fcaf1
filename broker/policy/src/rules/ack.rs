//! What a rule says about how a message is acknowledged, and about an attempt that failed.

use super::reader::{At, BadRule};
use crate::bindings::{self, AckLevel, Cause, Exhausted};
use crate::json::Object;
use serde::Deserialize;
use serde_json::Value;
use waspmq_core::delivery::Quorum;
use waspmq_core::limits::{ATTEMPTS_MAX, RETRY_WAIT_MS_MAX};

/// What of a plan a rule changes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    level: Option<AckLevel>,
    quorum: Option<Quorum>,
    timeout_ms: Option<u32>,
    attempts: Option<u16>,
    backoff_ms: Option<u32>,
    backoff_max_ms: Option<u32>,
    backoff_jitter_percent: Option<u8>,
    exhausted: Option<Exhausted>,
}

/// What a rule does about failures, by cause.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Causes([Missed; 5]);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Missed {
    #[default]
    Continue,
    /// Deliver again after this wait, while the plan has attempts left.
    Retry(u32),
    /// Wait for the recipient until this long behind the publish.
    Wait(u32),
    GiveUp,
}

/// What a rule says: nothing about a question is not the same as to leave it to the next policy.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Acked {
    pub(crate) plan: Option<Changes>,
    pub(crate) failures: Option<Causes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    level: Option<String>,
    quorum: Option<QuorumDocument>,
    timeout_ms: Option<u32>,
    attempts: Option<u16>,
    backoff_ms: Option<u32>,
    backoff_max_ms: Option<u32>,
    backoff_jitter_percent: Option<u8>,
    exhausted: Option<String>,
    on: Option<Object<OnDocument>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be \"any\", \"all\" or a number of recipients")]
enum QuorumDocument {
    Count(u32),
    Word(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OnDocument {
    timeout: Option<Value>,
    nack: Option<Value>,
    #[serde(alias = "queue-full")]
    queue_full: Option<Value>,
    offline: Option<Value>,
    #[serde(alias = "connection-lost")]
    connection_lost: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MissedDocument {
    retry_ms: Option<u32>,
    wait_ms: Option<u32>,
}

impl Acked {
    /// `is_lasting`: whether the rule's conditions can be looked at when an attempt failed.
    pub(crate) fn parse(at: At<'_>, then: &Value, is_lasting: bool) -> Result<Self, BadRule> {
        if let Value::String(word) = then {
            at.word(word, &[("continue", ())])?;
            return Ok(Self { plan: Some(Changes::default()), failures: is_lasting.then(Causes::default) });
        }
        let document: Document = at.read(then)?;
        let (plan, on) = Changes::read(at, document)?;
        if on.is_some() && !is_lasting {
            let reason = "goes with no other conditions than `address` and `sender`: the rest is not known any more when a \
                          delivery fails";
            return Err(at.bad_key("on", reason));
        }
        let failures = on.map(|on| Causes::read(At(&format!("{}.on", at.0)), on)).transpose()?;
        let plan = (plan != Changes::default()).then_some(plan);
        if plan.is_none() && failures.is_none() {
            return Err(at.bad("says nothing; to leave messages to the next policy, it is \"continue\""));
        }
        Ok(Self { plan, failures })
    }
}

impl Changes {
    fn read(at: At<'_>, document: Document) -> Result<(Self, Option<OnDocument>), BadRule> {
        let Document { level, quorum, exhausted, on, .. } = document;
        let on = on.map(|Object(on)| on);
        let (timeout_ms, attempts) = (document.timeout_ms, document.attempts);
        let (backoff_ms, backoff_max_ms) = (document.backoff_ms, document.backoff_max_ms);
        let backoff_jitter_percent = document.backoff_jitter_percent;
        check(timeout_ms, |ms| at.within("timeout_ms", u64::from(ms), 1..=RETRY_WAIT_MS_MAX))?;
        check(attempts, |count| at.within("attempts", count, 1..=ATTEMPTS_MAX))?;
        check(backoff_ms, |ms| at.within("backoff_ms", u64::from(ms), 0..=RETRY_WAIT_MS_MAX))?;
        check(backoff_max_ms, |ms| at.within("backoff_max_ms", u64::from(ms), 0..=RETRY_WAIT_MS_MAX))?;
        check(backoff_jitter_percent, |part| at.within("backoff_jitter_percent", part, 0..=100))?;
        if backoff_ms.zip(backoff_max_ms).is_some_and(|(first, longest)| first > longest) {
            return Err(at.bad_key("backoff_max_ms", "must not be less than backoff_ms"));
        }
        let changes = Self {
            level: word(at, "level", level, &LEVELS)?,
            quorum: match quorum {
                Some(QuorumDocument::Count(count)) => {
                    Some(Quorum::Count(at.within("quorum", count, 1..=u32::MAX)?))
                }
                Some(QuorumDocument::Word(text)) => word(at, "quorum", Some(text), &QUORUMS)?,
                None => None,
            },
            timeout_ms,
            attempts,
            backoff_ms,
            backoff_max_ms,
            backoff_jitter_percent,
            exhausted: word(at, "exhausted", exhausted, &ENDS)?,
        };
        Ok((changes, on))
    }

    /// The configured plan with these changes; none when there are none. A first wait that is longer than the longest
    /// raises that, and the other way round.
    pub(crate) fn apply(&self, configured: bindings::AckPlan) -> Option<bindings::AckPlan> {
        if *self == Self::default() {
            return None;
        }
        let initial_ms = self.backoff_ms.unwrap_or(configured.initial_ms);
        let max_ms = self.backoff_max_ms.unwrap_or_else(|| configured.max_ms.max(initial_ms));
        Some(bindings::AckPlan {
            level: self.level.unwrap_or(configured.level),
            quorum: self.quorum.map_or(configured.quorum, told),
            timeout_ms: self.timeout_ms.unwrap_or(configured.timeout_ms),
            attempts: self.attempts.unwrap_or(configured.attempts),
            initial_ms: initial_ms.min(max_ms),
            max_ms,
            jitter_percent: self.backoff_jitter_percent.unwrap_or(configured.jitter_percent),
            exhausted: self.exhausted.unwrap_or(configured.exhausted),
        })
    }
}

const fn told(quorum: Quorum) -> bindings::Quorum {
    match quorum {
        Quorum::Any => bindings::Quorum::Any,
        Quorum::Count(count) => bindings::Quorum::Count(count),
        Quorum::All => bindings::Quorum::All,
    }
}

const LEVELS: [(&str, AckLevel); 4] = [
    ("none", AckLevel::None),
    ("accepted", AckLevel::Accepted),
    ("stored", AckLevel::Stored),
    ("delivered", AckLevel::Delivered),
];
const QUORUMS: [(&str, Quorum); 2] = [("any", Quorum::Any), ("all", Quorum::All)];
const ENDS: [(&str, Exhausted); 2] = [("dead_letter", Exhausted::DeadLetter), ("drop", Exhausted::Drop)];

fn check<T, U>(value: Option<T>, within: impl FnOnce(T) -> Result<U, BadRule>) -> Result<(), BadRule> {
    value.map_or(Ok(()), |value| within(value).map(|_| ()))
}

fn word<T: Copy>(
    at: At<'_>,
    key: &str,
    word: Option<String>,
    words: &[(&str, T)],
) -> Result<Option<T>, BadRule> {
    word.map(|word| At(&format!("{}.{key}", at.0)).word(&word, words)).transpose()
}

impl Causes {
    fn read(at: At<'_>, document: OnDocument) -> Result<Self, BadRule> {
        let OnDocument { timeout, nack, queue_full, offline, connection_lost } = document;
        let read = |key: &str, value: Option<Value>| {
            value.map_or(Ok(Missed::Continue), |value| Missed::read(At(&format!("{}.{key}", at.0)), &value))
        };
        Ok(Self([
            read("timeout", timeout)?,
            read("nack", nack)?,
            read("queue_full", queue_full)?,
            read("offline", offline)?,
            read("connection_lost", connection_lost)?,
        ]))
    }

    /// What is done about this failure; `continue` leaves it to the next policy.
    pub(crate) fn decide(&self, failure: &bindings::Failure<'_>) -> bindings::Decision {
        let Self([timeout, nack, queue_full, offline, connection_lost]) = *self;
        let missed = match failure.cause {
            Cause::Timeout => timeout,
            Cause::Nack => nack,
            Cause::QueueFull => queue_full,
            Cause::Offline => offline,
            Cause::ConnectionLost => connection_lost,
        };
        match missed {
            Missed::Retry(ms) if failure.attempt < failure.attempts => bindings::Decision::Retry(ms),
            Missed::Continue | Missed::Retry(_) => bindings::Decision::Continue,
            Missed::GiveUp => bindings::Decision::GiveUp,
            Missed::Wait(ms) => match u64::from(ms).saturating_sub(failure.waited_ms) {
                0 => bindings::Decision::GiveUp,
                left_ms => bindings::Decision::Wait(u32::try_from(left_ms).unwrap_or(ms)),
            },
        }
    }
}

impl Missed {
    fn read(at: At<'_>, value: &Value) -> Result<Self, BadRule> {
        if let Value::String(word) = value {
            return at.word(word, &[("continue", Self::Continue), ("give_up", Self::GiveUp)]);
        }
        let wait = |key, ms: u32| at.within(key, u64::from(ms), 1..=RETRY_WAIT_MS_MAX).map(|_| ms);
        match at.read(value)? {
            MissedDocument { retry_ms: Some(ms), wait_ms: None } => wait("retry_ms", ms).map(Self::Retry),
            MissedDocument { retry_ms: None, wait_ms: Some(ms) } => wait("wait_ms", ms).map(Self::Wait),
            _ => Err(at.bad("is \"continue\", \"give_up\", or has one of `retry_ms` and `wait_ms`")),
        }
    }
}
