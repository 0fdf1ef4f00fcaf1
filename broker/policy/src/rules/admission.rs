//! What a rule says about whether a message is taken in.

use super::reader::{At, BadRule};
use crate::limits;
use crate::memory::Rate;
use serde::Deserialize;
use serde_json::Value;
use waspmq_core::limits::RETRY_WAIT_MS_MAX;

/// The answer of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    Continue,
    Accept,
    Refuse(Refusal),
    /// So many are passed on, and more are refused.
    Limit(Limit),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Box<str>,
    pub(crate) retry_ms: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) rate: Rate,
    /// Tokens that one message takes: a bucket gains so many times its rate as there are seconds in the time that the
    /// rate is written for.
    pub(crate) amount: u32,
    pub(crate) by: By,
    /// How the names of its buckets begin: the same for the same conditions and the same rate, so that a rule keeps its
    /// buckets when others change, and that versions with other rates do not share them.
    pub(crate) prefix: Box<str>,
    pub(crate) refusal: Refusal,
}

/// Whose messages share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Sender,
    Address,
    /// All that the rule matches.
    Rule,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    refuse: Option<Value>,
    limit: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefuseDocument {
    reason: String,
    #[serde(default)]
    retry_ms: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitDocument {
    per_second: Option<u32>,
    per_minute: Option<u32>,
    per_hour: Option<u32>,
    burst: Option<u32>,
    by: String,
    reason: Option<String>,
    retry_ms: Option<u32>,
}

impl Admitted {
    /// `when` is the rule's conditions as they are written.
    pub(crate) fn parse(at: At<'_>, then: &Value, when: &str) -> Result<Self, BadRule> {
        if let Value::String(word) = then {
            return Ok(match at.word(word, &[("continue", false), ("accept", true)])? {
                false => Self::Continue,
                true => Self::Accept,
            });
        }
        let below = |key: &str| format!("{}.{key}", at.0);
        match at.read(then)? {
            Document { refuse: Some(refuse), limit: None } => {
                let here = below("refuse");
                let RefuseDocument { reason, retry_ms } = At(&here).read(&refuse)?;
                refusal(At(&here), reason, retry_ms).map(Self::Refuse)
            }
            Document { refuse: None, limit: Some(limit) } => {
                let here = below("limit");
                Limit::read(At(&here), &limit, when).map(Self::Limit)
            }
            _ => Err(at.bad("is \"accept\", \"continue\", or has one of `refuse` and `limit`")),
        }
    }
}

impl Limit {
    fn read(at: At<'_>, limit: &Value, when: &str) -> Result<Self, BadRule> {
        let LimitDocument { per_second, per_minute, per_hour, burst, by, reason, retry_ms } =
            at.read(limit)?;
        let (key, count, amount) = match (per_second, per_minute, per_hour) {
            (Some(count), None, None) => ("per_second", count, 1),
            (None, Some(count), None) => ("per_minute", count, 60),
            (None, None, Some(count)) => ("per_hour", count, SECONDS_MAX),
            _ => return Err(at.bad("has one of `per_second`, `per_minute` and `per_hour`")),
        };
        let rates = 1..=limits::RULE_RATE_MAX;
        at.within(key, count, rates.clone())?;
        let burst = at.within("burst", burst.unwrap_or(count), rates)?;
        let words = [("sender", By::Sender), ("address", By::Address), ("rule", By::Rule)];
        let chosen = At(&format!("{}.by", at.0)).word(&by, &words)?;
        let reason = reason.unwrap_or_else(|| "too many messages".to_owned());
        // The time in which a bucket gains what a message takes.
        let retry_ms = retry_ms.unwrap_or_else(|| (amount * 1_000).div_ceil(count));
        // A bucket that another rate filled says nothing to this one, so the rate is part of the name, too.
        let named = format!("{by} {count} {amount} {burst} {when}");
        let hash = blake3::hash(named.as_bytes()).to_hex();
        let prefix = format!("{} ", hash.get(..PREFIX_DIGITS).unwrap_or_default());
        let refusal = refusal(at, reason, retry_ms)?;
        let rate = Rate { per_second: count, burst: burst * amount };
        Ok(Self { rate, amount, by: chosen, prefix: prefix.into(), refusal })
    }

    /// Writes the name of the bucket that a message takes its token from.
    pub(crate) fn name_bucket(&self, (from, to): (&str, &str), name: &mut String) {
        name.clear();
        name.push_str(&self.prefix);
        let whose = match self.by {
            By::Sender => from,
            By::Address => to,
            By::Rule => "",
        };
        if name.len() + whose.len() <= limits::KEY_BYTES_MAX {
            name.push_str(whose);
        } else {
            // Not a name that anybody has: names have no spaces.
            name.push(' ');
            name.push_str(&blake3::hash(whose.as_bytes()).to_hex());
        }
    }
}

/// The longest time that a rate is written for.
const SECONDS_MAX: u32 = 3_600;

const _: () = assert!(
    limits::RULE_RATE_MAX <= u32::MAX / SECONDS_MAX,
    "the largest burst of the longest time fits a bucket"
);

/// Enough to keep the rules of one policy apart.
const PREFIX_DIGITS: usize = 16;

fn refusal(at: At<'_>, reason: String, retry_ms: u32) -> Result<Refusal, BadRule> {
    if reason.len() > limits::REASON_BYTES_MAX {
        return Err(at.bad_key("reason", format!("has more than {} bytes", limits::REASON_BYTES_MAX)));
    }
    at.within("retry_ms", u64::from(retry_ms), 0..=RETRY_WAIT_MS_MAX)?;
    Ok(Refusal { reason: reason.into(), retry_ms })
}
