//! The document that describes a policy, as the admin API takes it, and its checked form.
//!
//! An unknown key is an error.

use crate::budget::Budget;
use crate::hook::Hook;
use crate::json;
use crate::limits;
use crate::lineup::Trial;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use waspmq_core::address::Pattern;

/// A policy as an operator writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// What the policy decides; the plugin has to have this hook.
    pub hook: Hook,
    /// `name@revision`, or `name` for its latest revision at the time of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What is decided without a plugin; a policy has either.
    #[serde(default, deserialize_with = "json::strict_list", skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<serde_json::Value>>,
    /// Patterns of the addresses whose messages are decided; also `user/*` and `group/*`.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Handed to the plugin as JSON text.
    #[serde(default, deserialize_with = "json::strict_map")]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Lower runs first; equal ones run by name.
    #[serde(default = "order_default")]
    pub order: i32,
    #[serde(default)]
    pub mode: Mode,
    /// With mode `active`: it decides for this share of senders, 1 to 99, and the version before for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_percent: Option<u8>,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The broker is not ready while this policy does not serve.
    #[serde(default)]
    pub required: bool,
    #[serde(default, deserialize_with = "json::object")]
    pub limits: PolicyLimits,
    #[serde(default, deserialize_with = "json::object")]
    pub budget: Budget,
    /// How calls reach the plugin.
    #[serde(default)]
    pub lane: Lane,
}

/// How calls reach a policy's plugin. Both ways decide alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Directly where the component allows it, through the component API otherwise.
    #[default]
    Auto,
    /// Through the component API in any case.
    Component,
}

/// Whether a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Active,
    /// Kept, checked, but bound to nothing.
    Off,
    /// Asked behind the active version, to be compared with it; decides nothing.
    Shadow,
}

/// What serves a message whose policy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// As if the policy had said `continue`.
    #[default]
    Open,
    /// The message is refused with `policy_failed`; where a policy cannot refuse, what is configured is done (hooks `ack`
    /// and `overflow`) or the message sent as it is (`compression`), and no further policy asked.
    Closed,
    /// What is built in is done, and no further policy asked.
    Builtin,
    /// The version before is asked.
    Previous,
}

/// What one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLimits {
    /// CPU time of one decision, in milliseconds: 2 to 1000.
    pub deadline_ms: u32,
    /// Linear memory of each instance, in MiB: 1 to 64.
    pub memory_mb: u32,
    /// Part of each worker that calls may take: 0.01 to 1.0. More opens the breaker.
    pub cpu_share: f64,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self {
            deadline_ms: limits::DEADLINE_MS_DEFAULT,
            memory_mb: limits::MEMORY_MB_DEFAULT,
            cpu_share: limits::CPU_SHARE_DEFAULT,
        }
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDocument {
    #[error("{field}: {reason}")]
    Invalid { field: Cow<'static, str>, reason: String },
}

/// A checked document; its rules are checked where they are compiled.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) decider: Decider<'a>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) config: String,
}

/// What a document has decide.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Decider<'a> {
    /// Without a revision the latest one.
    Plugin {
        name: &'a str,
        revision: Option<u32>,
    },
    Rules(&'a [serde_json::Value]),
}

impl PolicyDocument {
    pub(crate) fn check(&self) -> Result<Plan<'_>, BadDocument> {
        self.check_numbers()?;
        if self.canary_percent.is_some() && self.mode != Mode::Active {
            return Err(invalid("canary_percent", "goes with mode \"active\""));
        }
        let config = serde_json::to_string(&self.config).map_err(|e| invalid("config", e.to_string()))?;
        if config.len() > limits::CONFIG_BYTES_MAX {
            return Err(invalid("config", format!("has more than {} bytes", limits::CONFIG_BYTES_MAX)));
        }
        Ok(Plan { decider: self.decider()?, patterns: self.parse_patterns()?, config })
    }

    fn check_numbers(&self) -> Result<(), BadDocument> {
        let (limits, budget) = (&self.limits, &self.budget);
        within("limits.deadline_ms", limits.deadline_ms, limits::DEADLINE_MS_MIN..=limits::DEADLINE_MS_MAX)?;
        within("limits.memory_mb", limits.memory_mb, limits::MEMORY_MB_MIN..=limits::MEMORY_MB_MAX)?;
        within("limits.cpu_share", limits.cpu_share, limits::CPU_SHARE_MIN..=limits::CPU_SHARE_MAX)?;
        self.canary_percent.map_or(Ok(()), |percent| within("canary_percent", percent, 1..=99))?;
        within("budget.failure_percent", budget.failure_percent, 1..=100)?;
        let factors = 2..=limits::BUDGET_LATENCY_FACTOR_MAX;
        within("budget.latency_factor", budget.latency_factor, factors)?;
        within("budget.calls_min", budget.calls_min, 1..=limits::BUDGET_CALLS_MAX)?;
        within("budget.window_s", budget.window_s, 1..=limits::BUDGET_WINDOW_S_MAX)
    }

    /// BLAKE3 of its JSON, as 64 hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&json).to_hex().to_string()
    }

    /// How the document asks to be tried before it decides for everybody.
    pub(crate) const fn trial(&self) -> Option<Trial> {
        match (self.mode, self.canary_percent) {
            (Mode::Shadow, _) => Some(Trial::Shadow),
            (Mode::Active, Some(percent)) => Some(Trial::Canary { percent }),
            (Mode::Active | Mode::Off, _) => None,
        }
    }

    /// The same document, deciding for everybody.
    pub(crate) fn promoted(mut self) -> Self {
        self.mode = Mode::Active;
        self.canary_percent = None;
        self
    }

    fn decider(&self) -> Result<Decider<'_>, BadDocument> {
        match (&self.plugin, &self.rules) {
            (Some(plugin), None) => plugin_and_revision(plugin),
            (None, Some(_)) if !self.config.is_empty() => {
                Err(invalid("config", "goes with a plugin; rules have none"))
            }
            (None, Some(_)) if self.lane != Lane::Auto => {
                Err(invalid("lane", "goes with a plugin; rules are not called"))
            }
            (None, Some(rules)) => Ok(Decider::Rules(rules)),
            (Some(_), Some(_)) => Err(invalid("rules", "a policy has either `plugin` or `rules`, not both")),
            (None, None) => {
                Err(invalid("plugin", "a policy has either `plugin` or `rules`; this has neither"))
            }
        }
    }

    fn parse_patterns(&self) -> Result<Vec<Pattern>, BadDocument> {
        if self.patterns.is_empty() || self.patterns.len() > limits::PATTERNS_MAX {
            return Err(invalid("match", format!("must have 1 to {} patterns", limits::PATTERNS_MAX)));
        }
        let parse = |text: &String| {
            Pattern::parse_scope(text).map_err(|error| invalid("match", format!("{text:?}: {error}")))
        };
        self.patterns.iter().map(parse).collect()
    }
}

fn plugin_and_revision(plugin: &str) -> Result<Decider<'_>, BadDocument> {
    let Some((name, number)) = plugin.split_once('@') else {
        return Ok(Decider::Plugin { name: plugin, revision: None });
    };
    let number = number.parse().ok().filter(|&n: &u32| n > 0);
    let number =
        number.ok_or_else(|| invalid("plugin", "must be `name` or `name@revision`, as in mirror@1"))?;
    Ok(Decider::Plugin { name, revision: Some(number) })
}

fn within<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), BadDocument> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format!("must be {} to {}", bounds.start(), bounds.end())))
}

fn invalid(field: &'static str, reason: impl Into<String>) -> BadDocument {
    BadDocument::Invalid { field: field.into(), reason: reason.into() }
}

const fn order_default() -> i32 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let outcome = match serde_json::from_str::<PolicyDocument>(text) {
            Ok(document) => document.check().map_or_else(|e| e.to_string(), |plan| format!("{plan:?}")),
            Err(error) => error.to_string(),
        };
        assert!(outcome.contains(expected), "{text}: {outcome}");
    }

    #[test]
    fn documents() {
        let with = |more: &str| format!(r#"{{"hook":"routing","plugin":"m@3","match":["topic/a.>"]{more}}}"#);
        check(&with(""), r#"name: "m", revision: Some(3)"#);
        check(&with(r#","config":{"to":"topic/b"}"#), r#"config: "{\"to\":\"topic/b\"}""#);
        check(&with(r#","mode":"off","on_failure":"closed""#), "Plan");
        check(&with(r#","lane":"component""#), "Plan");
        check(&with(r#","lane":"core""#), "unknown variant `core`, expected `auto` or `component`");
        check(&with(r#","colour":1"#), "unknown field `colour`");
        check(&with(r#","limits":{"deadline":1}"#), "unknown field `deadline`");
        check(&with(r#","limits":{"deadline_ms":1}"#), "limits.deadline_ms: must be 2 to 1000");
        check(&with(r#","limits":{"memory_mb":65}"#), "limits.memory_mb: must be 1 to 64");
        check(&with(r#","limits":{"cpu_share":0.001}"#), "limits.cpu_share: must be 0.01 to 1");
        check(&with(r#","limits":{"cpu_share":1.0}"#), "Plan");
        check(&with(r#","mode":"shadow","required":true,"on_failure":"previous""#), "Plan");
        check(&with(r#","canary_percent":100"#), "canary_percent: must be 1 to 99");
        check(&with(r#","canary_percent":5"#), "Plan");
        check(&with(r#","mode":"shadow","canary_percent":5"#), "canary_percent: goes with mode");
        check(&with(r#","budget":{"failure_percent":0}"#), "budget.failure_percent: must be 1 to 100");
        check(&with(r#","budget":{"latency_factor":1}"#), "budget.latency_factor: must be 2 to 1000");
        check(&with(r#","budget":{"calls_min":0}"#), "budget.calls_min: must be 1 to 1000000");
        check(&with(r#","budget":{"window_s":301}"#), "budget.window_s: must be 1 to 300");
        check(&with(r#","budget":{"window":1}"#), "unknown field `window`");
        check(&with(r#","budget":[5,10,100,10]"#), "invalid type: sequence, expected an object");
        check(&with(r#","limits":7"#), "invalid type: integer `7`, expected an object");
        check(&with(r#","config":[]"#), "expected an object");
        check(&with(r#","config":{"a":{"b":1,"b":1}}"#), "duplicate key `b`");
        check(
            r#"{"hook":"routing","rules":[{"then":"drop","then":"deliver"}],"match":["all"]}"#,
            "duplicate key `then`",
        );
        check(&with(r#","rules":[]"#), "rules: a policy has either `plugin` or `rules`, not both");
        let ruled = |more: &str| format!(r#"{{"hook":"routing","rules":[{{}}],"match":["all"]{more}}}"#);
        check(&ruled(""), "Rules");
        check(&ruled(r#","config":{"a":1}"#), "config: goes with a plugin");
        check(&ruled(r#","lane":"component""#), "lane: goes with a plugin");
        check(
            r#"{"hook":"routing","match":["all"]}"#,
            "plugin: a policy has either `plugin` or `rules`; this has neither",
        );
        check(r#"{"hook":"ack","plugin":"m","match":["all"]}"#, "revision: None");
        check(r#"{"hook":"compression","plugin":"m","match":["all"]}"#, "revision: None");
        check(r#"{"hook":"codec","plugin":"m","match":["all"]}"#, "unknown variant `codec`");
        check(r#"{"hook":"routing","plugin":"m@x","match":["all"]}"#, "plugin: must be");
        check(r#"{"hook":"routing","plugin":"m","match":[]}"#, "match: must have 1 to 64");
        check(r#"{"hook":"routing","plugin":"m","match":["user/a*"]}"#, "names may not contain");
        check(r#"{"hook":"routing","plugin":"m","match":["all","user/*"]}"#, "revision: None");
    }
}
