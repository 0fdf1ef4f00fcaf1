//! Tables of rules: policies for people who do not compile anything.
//!
//! A table is a list of conditions with an answer each, of which the first that matches decides; when none does, the
//! next policy is asked. It is checked and compiled as a whole when its policy is put, cannot fail by itself, and sits
//! behind the same questions as an instance of a plugin ([`crate::serving`]). What the parts of a rule are is told in
//! `docs/RULES.md`.

mod ack;
mod admission;
mod compression;
mod glob;
mod judge;
mod reader;
mod routing;
#[cfg(test)]
mod tests;
mod when;

use crate::bindings::Action;
use crate::hook::Hook;
use crate::limits;
pub(crate) use judge::Judge;
use reader::At;
pub use reader::BadRule;
use serde::Deserialize;
use serde_json::Value;
use when::{List, When};

/// The checked rules of one policy.
#[derive(Debug)]
pub(crate) struct Table {
    answers: Answers,
    count: usize,
    /// BLAKE3 of the rules as JSON, as 64 hexadecimal digits.
    digest: String,
}

/// The rules by what is asked of them.
#[derive(Debug)]
enum Answers {
    Routing(List<routing::Routed>),
    Admission(List<admission::Admitted>),
    Ack { plans: List<ack::Changes>, failures: List<ack::Causes> },
    Overflow(List<Action>),
    Compression(List<compression::Compressed>),
}

/// Rules that a policy could have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRules {
    pub count: usize,
    /// What the version is called: `rules@` and eight digits.
    pub version: String,
    /// BLAKE3 of the rules as JSON.
    pub digest: String,
}

/// Checks rules for a hook without a broker.
///
/// # Errors
/// The first fault of each rule.
pub fn check_rules(hook: Hook, rules: &[Value]) -> Result<CheckedRules, Vec<BadRule>> {
    let table = Table::compile(hook, rules)?;
    Ok(CheckedRules { count: table.count, version: table.label(), digest: table.digest })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    when: serde_json::Map<String, Value>,
    then: Value,
}

impl Table {
    /// Checks and compiles all rules; tells the first fault of each.
    pub(crate) fn compile(hook: Hook, rules: &[Value]) -> Result<Self, Vec<BadRule>> {
        let text = serde_json::to_string(rules).unwrap_or_default();
        check_size(rules, &text).map_err(|bad| vec![bad])?;
        let mut answers = Answers::none(hook);
        let (mut patterns, mut searches, mut faults) = (0, 0, Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            match answers.add(&format!("rules[{index}]"), rule) {
                Ok(cost) => {
                    patterns += cost.patterns;
                    searches += cost.searches;
                }
                Err(bad) => faults.push(bad),
            }
        }
        for (count, what, most) in [
            (patterns, "patterns in their conditions", limits::RULES_PATTERNS_MAX),
            (searches, "patterns with several stars for headers", limits::RULES_SEARCHES_MAX),
        ] {
            if count > most {
                let reason = format!("have {count} {what}, at most {most} are allowed");
                faults.push(At("rules").bad(reason));
            }
        }
        match faults.is_empty() {
            true => {
                let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
                Ok(Self { answers, count: rules.len(), digest })
            }
            false => Err(faults),
        }
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// What a version with these rules is called where others are `plugin@revision`.
    pub(crate) fn label(&self) -> String {
        label(&self.digest)
    }

    /// Whether it counts messages, for which it needs the time.
    fn has_limits(&self) -> bool {
        let Answers::Admission(list) = &self.answers else { return false };
        list.0.iter().any(|(_, answer)| matches!(answer, admission::Admitted::Limit(_)))
    }
}

const LABEL_DIGITS: usize = 8;

/// What a version is called whose rules have this digest.
pub(crate) fn label(digest: &str) -> String {
    format!("rules@{}", digest.get(..LABEL_DIGITS).unwrap_or_default())
}

fn check_size(rules: &[Value], text: &str) -> Result<(), BadRule> {
    if rules.is_empty() || rules.len() > limits::RULES_MAX {
        return Err(At("rules").bad(format!("must have 1 to {} rules", limits::RULES_MAX)));
    }
    if text.len() > limits::RULES_BYTES_MAX {
        return Err(At("rules").bad(format!("have more than {} bytes", limits::RULES_BYTES_MAX)));
    }
    Ok(())
}

/// What the conditions of a rule have of what all rules together have a bound of.
#[derive(Debug, Clone, Copy)]
struct Cost {
    patterns: usize,
    searches: usize,
}

impl Answers {
    fn none(hook: Hook) -> Self {
        match hook {
            Hook::Routing => Self::Routing(List::default()),
            Hook::Admission => Self::Admission(List::default()),
            Hook::Ack => Self::Ack { plans: List::default(), failures: List::default() },
            Hook::Overflow => Self::Overflow(List::default()),
            Hook::Compression => Self::Compression(List::default()),
        }
    }

    const fn hook(&self) -> Hook {
        match self {
            Self::Routing(_) => Hook::Routing,
            Self::Admission(_) => Hook::Admission,
            Self::Ack { .. } => Hook::Ack,
            Self::Overflow(_) => Hook::Overflow,
            Self::Compression(_) => Hook::Compression,
        }
    }

    /// Checks a rule and adds it behind the others; tells what its conditions cost.
    fn add(&mut self, place: &str, rule: &Value) -> Result<Cost, BadRule> {
        let Document { when, then } = At(place).read(rule)?;
        let when = Value::Object(when);
        let text = when.to_string();
        let when = When::parse(At(&format!("{place}.when")), &when, self.hook())?;
        let cost = Cost { patterns: when.patterns_count(), searches: when.searches_count() };
        let is_lasting = when.is_lasting();
        let here = format!("{place}.then");
        let at = At(&here);
        match self {
            Self::Routing(list) => list.0.push((when, routing::Routed::parse(at, &then)?)),
            Self::Admission(list) => list.0.push((when, admission::Admitted::parse(at, &then, &text)?)),
            Self::Overflow(list) => list.0.push((when, action(at, &then)?)),
            Self::Compression(list) => list.0.push((when, compression::Compressed::parse(at, &then)?)),
            Self::Ack { plans, failures } => {
                let ack::Acked { plan, failures: causes } = ack::Acked::parse(at, &then, is_lasting)?;
                // Each question has a list of its own, of the rules that say something about it.
                causes.into_iter().for_each(|causes| failures.0.push((when.clone(), causes)));
                plan.into_iter().for_each(|plan| plans.0.push((when.clone(), plan)));
            }
        }
        Ok(cost)
    }
}

fn action(at: At<'_>, then: &Value) -> Result<Action, BadRule> {
    const ACTIONS: [(&str, Action); 6] = [
        ("continue", Action::Continue),
        ("drop_oldest", Action::DropOldest),
        ("drop_newest", Action::DropNewest),
        ("conflate", Action::Conflate),
        ("spill", Action::Spill),
        ("close", Action::Close),
    ];
    let word = then.as_str().ok_or_else(|| at.bad("must be a word such as \"conflate\""))?;
    at.word(word, &ACTIONS)
}
