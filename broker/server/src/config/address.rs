//! `[[address]]`: what holds for the messages of an address, by pattern.

use super::check::Problem;
use serde::{Deserialize, Serialize};
use waspmq_core::delivery::{AckPlan, Backoff, Exhausted, Quorum};
use waspmq_core::settings::{Keep, Overflow, Retention, Rules, Settings};
use waspmq_core::{Kind, Level, Pattern};

/// Rules are looked at one after the other for every address that is new to a connection.
pub(super) const RULES_MAX: usize = 256;

/// One rule. Keys that are absent have the default of the pattern's kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressRule {
    /// A pattern, or `user/*` or `group/*`.
    #[serde(rename = "match")]
    pub pattern: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LevelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<OverflowName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumSetting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_max_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_jitter_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<ExhaustedName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelName {
    None,
    Accepted,
    Stored,
    Delivered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepName {
    Never,
    Requested,
    Offline,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverflowName {
    DropOldest,
    DropNewest,
    Conflate,
    Spill,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExhaustedName {
    DeadLetter,
    Drop,
}

/// `"any"`, `"all"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum QuorumSetting {
    Named(QuorumName),
    Count(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuorumName {
    Any,
    All,
}

/// The rules as the broker uses them. Rules of a valid configuration have valid patterns; others are left out.
pub(crate) fn rules(rules: &[AddressRule]) -> Rules {
    let compiled = rules.iter().filter_map(|rule| {
        let pattern = Pattern::parse_scope(&rule.pattern).ok()?;
        let settings = settings(rule, pattern.kind());
        Some((pattern, settings))
    });
    Rules::new(compiled.collect())
}

fn settings(rule: &AddressRule, kind: Kind) -> Settings {
    let of_kind = Settings::of_kind(kind);
    let AckPlan { quorum, timeout_ms, attempts, backoff, exhausted } = of_kind.ack;
    Settings {
        level: rule.level.map_or(of_kind.level, |name| match name {
            LevelName::None => Level::None,
            LevelName::Accepted => Level::Accepted,
            LevelName::Stored => Level::Stored,
            LevelName::Delivered => Level::Delivered,
        }),
        ack: AckPlan {
            quorum: rule.quorum.map_or(quorum, |setting| match setting {
                QuorumSetting::Named(QuorumName::Any) => Quorum::Any,
                QuorumSetting::Named(QuorumName::All) => Quorum::All,
                QuorumSetting::Count(count) => Quorum::Count(count),
            }),
            timeout_ms: rule.ack_timeout_ms.unwrap_or(timeout_ms),
            attempts: rule.attempts.unwrap_or(attempts),
            backoff: Backoff {
                initial_ms: rule.backoff_ms.unwrap_or(backoff.initial_ms),
                max_ms: rule.backoff_max_ms.unwrap_or(backoff.max_ms),
                jitter_percent: rule.backoff_jitter_percent.unwrap_or(backoff.jitter_percent),
            },
            exhausted: rule.exhausted.map_or(exhausted, |name| match name {
                ExhaustedName::DeadLetter => Exhausted::DeadLetter,
                ExhaustedName::Drop => Exhausted::Drop,
            }),
        },
        keep: rule.keep.map_or(of_kind.keep, |name| match name {
            KeepName::Never => Keep::Never,
            KeepName::Requested => Keep::Requested,
            KeepName::Offline => Keep::Offline,
            KeepName::Always => Keep::Always,
        }),
        retention: Retention {
            age_ms: rule.history_age_ms.unwrap_or(of_kind.retention.age_ms),
            count: rule.history_count.unwrap_or(of_kind.retention.count),
            bytes: rule.history_bytes.unwrap_or(of_kind.retention.bytes),
        },
        overflow: rule.overflow.map_or(of_kind.overflow, |name| match name {
            OverflowName::DropOldest => Overflow::DropOldest,
            OverflowName::DropNewest => Overflow::DropNewest,
            OverflowName::Conflate => Overflow::Conflate,
            OverflowName::Spill => Overflow::Spill,
            OverflowName::Close => Overflow::Close,
        }),
    }
}

pub(super) fn check(rules: &[AddressRule], problems: &mut Vec<Problem>) {
    if rules.len() > RULES_MAX {
        problems.push(("address".into(), format!("{} rules, the limit is {RULES_MAX}", rules.len())));
    }
    for (index, rule) in rules.iter().enumerate() {
        let mut problem = |key: &str, text: String| {
            let text = format!("entry {}: rule for {:?}: {text}", index + 1, rule.pattern);
            problems.push((format!("address[{index}].{key}").into(), text));
        };
        match Pattern::parse_scope(&rule.pattern) {
            Ok(pattern) => check_rule(&settings(rule, pattern.kind()), pattern.kind(), &mut problem),
            Err(error) => problem("match", error.to_string()),
        }
    }
}

fn check_rule(settings: &Settings, kind: Kind, problem: &mut impl FnMut(&str, String)) {
    let AckPlan { timeout_ms, attempts, backoff, quorum, .. } = settings.ack;
    let Retention { age_ms, count, bytes } = settings.retention;
    let numbers: [(&str, u64, u64, u64); 8] = [
        ("ack_timeout_ms", timeout_ms.into(), 10, 86_400_000),
        ("attempts", attempts.into(), 1, 1_000),
        ("backoff_ms", backoff.initial_ms.into(), 1, 3_600_000),
        ("backoff_max_ms", backoff.max_ms.into(), backoff.initial_ms.into(), 86_400_000),
        ("backoff_jitter_percent", backoff.jitter_percent.into(), 0, 100),
        ("history_age_ms", age_ms, 1_000, 10 * 365 * 86_400_000),
        ("history_count", count, 1, 1 << 40),
        ("history_bytes", bytes, 1024, 1 << 50),
    ];
    for (key, value, least, most) in numbers {
        if !(least..=most).contains(&value) {
            problem(key, format!("{key} {value} is not between {least} and {most}"));
        }
    }
    if quorum == Quorum::Count(0) {
        problem("quorum", "a quorum of 0 would be reached by nobody's ack; use level `accepted`".to_owned());
    }
    if settings.keep == Keep::Never && settings.level == Level::Stored {
        problem("level", "level `stored` with keep `never` can never be reached".to_owned());
    }
    if settings.keep == Keep::Never && settings.overflow == Overflow::Spill {
        problem("overflow", "overflow `spill` needs messages to be kept, and keep is `never`".to_owned());
    }
    if settings.keep == Keep::Offline && kind != Kind::User {
        problem("keep", "keep `offline` is for users; others are stored `requested` or `always`".to_owned());
    }
}
