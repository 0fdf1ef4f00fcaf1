//! The document that describes a policy, as the admin API takes it, and its checked form.
//!
//! An unknown key is an error; a key of the contract that this version does not serve is an error that says so.

use crate::hook::Hook;
use crate::limits;
use serde::{Deserialize, Serialize};
use waspmq_core::address::Pattern;

/// A policy as an operator writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// What the policy decides; the plugin has to have this hook.
    pub hook: Hook,
    /// `name@revision`, or `name` for its latest revision at the time of the call.
    pub plugin: String,
    /// Patterns of the addresses whose messages are decided; also `user/*` and `group/*`.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Handed to the plugin as JSON text.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Lower runs first; equal ones run by name.
    #[serde(default = "order_default")]
    pub order: i32,
    #[serde(default)]
    pub mode: Mode,
    /// Not served in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_percent: Option<u8>,
    #[serde(default)]
    pub on_failure: OnFailure,
    #[serde(default)]
    pub limits: PolicyLimits,
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
    /// Not served in this version.
    Shadow,
}

/// What serves a message whose policy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// As if the policy had said `continue`.
    #[default]
    Open,
    /// The message is refused with `policy_failed`; where a policy cannot refuse (hooks `ack` and `overflow`), what
    /// is configured is done and no further policy asked.
    Closed,
    /// Not served in this version.
    Builtin,
    /// Not served in this version.
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
    /// Not served in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<f64>,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self {
            deadline_ms: limits::DEADLINE_MS_DEFAULT,
            memory_mb: limits::MEMORY_MB_DEFAULT,
            cpu_share: None,
        }
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDocument {
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("{what} is not supported in this version")]
    NotSupported { what: &'static str },
}

/// A checked document.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) plugin: &'a str,
    /// None: the latest.
    pub(crate) revision: Option<u32>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) config: String,
}

impl PolicyDocument {
    pub(crate) fn check(&self) -> Result<Plan<'_>, BadDocument> {
        self.check_supported()?;
        let bounds = limits::DEADLINE_MS_MIN..=limits::DEADLINE_MS_MAX;
        if !bounds.contains(&self.limits.deadline_ms) {
            return Err(invalid(
                "limits.deadline_ms",
                format!("must be {} to {}", bounds.start(), bounds.end()),
            ));
        }
        let bounds = limits::MEMORY_MB_MIN..=limits::MEMORY_MB_MAX;
        if !bounds.contains(&self.limits.memory_mb) {
            return Err(invalid(
                "limits.memory_mb",
                format!("must be {} to {}", bounds.start(), bounds.end()),
            ));
        }
        let config = serde_json::to_string(&self.config).map_err(|e| invalid("config", e.to_string()))?;
        if config.len() > limits::CONFIG_BYTES_MAX {
            return Err(invalid("config", format!("has more than {} bytes", limits::CONFIG_BYTES_MAX)));
        }
        let (plugin, revision) = self.plugin_and_revision()?;
        Ok(Plan { plugin, revision, patterns: self.parse_patterns()?, config })
    }

    fn check_supported(&self) -> Result<(), BadDocument> {
        let refused = [
            (self.mode == Mode::Shadow, "mode \"shadow\""),
            (self.canary_percent.is_some(), "canary_percent"),
            (self.on_failure == OnFailure::Builtin, "on_failure \"builtin\""),
            (self.on_failure == OnFailure::Previous, "on_failure \"previous\""),
            (self.limits.cpu_share.is_some(), "limits.cpu_share"),
        ];
        match refused.iter().find(|(found, _)| *found) {
            Some(&(_, what)) => Err(BadDocument::NotSupported { what }),
            None => Ok(()),
        }
    }

    fn plugin_and_revision(&self) -> Result<(&str, Option<u32>), BadDocument> {
        let Some((name, number)) = self.plugin.split_once('@') else { return Ok((&self.plugin, None)) };
        let number = number.parse().ok().filter(|&n: &u32| n > 0);
        let number =
            number.ok_or_else(|| invalid("plugin", "must be `name` or `name@revision`, as in mirror@1"))?;
        Ok((name, Some(number)))
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

fn invalid(field: &'static str, reason: impl Into<String>) -> BadDocument {
    BadDocument::Invalid { field, reason: reason.into() }
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
        check(&with(""), r#"plugin: "m", revision: Some(3)"#);
        check(&with(r#","config":{"to":"topic/b"}"#), r#"config: "{\"to\":\"topic/b\"}""#);
        check(&with(r#","mode":"off","on_failure":"closed""#), "Plan");
        check(&with(r#","lane":"component""#), "Plan");
        check(&with(r#","lane":"core""#), "unknown variant `core`, expected `auto` or `component`");
        check(&with(r#","colour":1"#), "unknown field `colour`");
        check(&with(r#","limits":{"deadline":1}"#), "unknown field `deadline`");
        check(&with(r#","limits":{"deadline_ms":1}"#), "limits.deadline_ms: must be 2 to 1000");
        check(&with(r#","limits":{"memory_mb":65}"#), "limits.memory_mb: must be 1 to 64");
        check(&with(r#","limits":{"cpu_share":0.2}"#), "limits.cpu_share is not supported in this version");
        check(&with(r#","mode":"shadow""#), "mode \"shadow\" is not supported");
        check(&with(r#","canary_percent":5"#), "canary_percent is not supported");
        check(&with(r#","on_failure":"previous""#), "on_failure \"previous\" is not supported");
        check(&with(r#","config":[]"#), "expected a map");
        check(r#"{"hook":"ack","plugin":"m","match":["all"]}"#, "revision: None");
        check(r#"{"hook":"compression","plugin":"m","match":["all"]}"#, "unknown variant `compression`");
        check(r#"{"hook":"routing","plugin":"m@x","match":["all"]}"#, "plugin: must be");
        check(r#"{"hook":"routing","plugin":"m","match":[]}"#, "match: must have 1 to 64");
        check(r#"{"hook":"routing","plugin":"m","match":["user/a*"]}"#, "names may not contain");
        check(r#"{"hook":"routing","plugin":"m","match":["all","user/*"]}"#, "revision: None");
    }
}
