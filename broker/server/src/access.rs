//! Access control: which tokens are accepted and what their holders may do.
//!
//! A [`Gate`] is one immutable value, made from the configuration as a whole; [`AccessControl`] is the gate in
//! force, replaced at once for everybody. Workers see a replacement by its version and apply it to live sessions.
//!
//! *Invariants.* A key is used with its one algorithm, whatever a token says. What is refused is refused with a
//! fixed text: nothing of a token or a key is in an error or a log. Not here: what rights are (`waspmq_core::access`)
//! and what a worker does with them (`worker::access`).

mod keys;
pub(crate) mod mint;
mod rules;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use keys::{read_bounded, read_opened};
pub(crate) use token::{Token, unauthorized};

use crate::config::{AccessConfig, Problem};
use arc_swap::ArcSwap;
use keys::Key;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use waspmq_core::Name;
use waspmq_core::access::{Grants, Rights, Rule, Subject};

/// What tokens and rules there are.
#[derive(Debug, Default)]
pub struct Gate {
    keys: Vec<Key>,
    rules: Vec<Rule>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_ms: u64,
    require_expiry: bool,
    allow_anonymous: bool,
}

impl Gate {
    /// Reads the keys and checks the rules; gives everything that is wrong.
    pub(crate) fn new(config: &AccessConfig) -> Result<Self, Vec<Problem>> {
        let mut problems: Vec<Problem> = Vec::new();
        let keys = keys::read_all(&config.keys, &mut problems);
        let rules = config.rules.iter().map(|rule| (rule.patterns.as_slice(), rule.allow.as_slice()));
        let rules = rules::parse(rules).unwrap_or_else(|rules::Problem { rule, key, problem }| {
            problems.push((format!("access.rules[{rule}].{key}").into(), problem));
            Vec::new()
        });
        if config.keys.is_empty() && !config.rules.is_empty() {
            let problem =
                "rules are for those who show a token, and there are no access.keys to check one with";
            problems.push(("access.rules".into(), problem.to_owned()));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            keys,
            rules,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_ms: config.token_leeway_ms.into(),
            require_expiry: config.require_expiry,
            allow_anonymous: config.allow_anonymous,
        })
    }

    /// Whether everybody needs a token and only what is granted is allowed.
    pub(crate) fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether somebody without a token may connect, under a name that the broker gives.
    pub(crate) const fn takes_anonymous(&self) -> bool {
        self.allow_anonymous
    }

    /// What the holder of a token may do.
    pub(crate) fn rights_of(&self, token: &Token) -> Rights {
        let subject =
            Subject { user: &token.user, device: token.device.as_ref(), claims: token.claims.as_slice() };
        Rights::Granted(Grants::new(self.rules.iter().chain(&token.rules), &subject))
    }

    /// What somebody without a token may do.
    pub(crate) fn rights_of_anonymous(&self, user: &Name) -> Rights {
        if !self.is_on() {
            return Rights::Everything;
        }
        Rights::Granted(Grants::new(&self.rules, &Subject { user, device: None, claims: &[] }))
    }
}

/// Access control cannot be turned off while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are no access.keys any more; to let everybody in without a token, restart the broker")]
pub struct KeysGone;

/// The gate in force.
#[derive(Debug, Default)]
pub struct AccessControl {
    gate: ArcSwap<Gate>,
    /// Grows after each replacement, so that whoever sees a number sees its gate or a later one.
    version: AtomicU64,
}

impl AccessControl {
    pub fn new(gate: Gate) -> Self {
        Self { gate: ArcSwap::from_pointee(gate), version: AtomicU64::new(0) }
    }

    /// From now on this gate decides; live sessions follow within a second.
    ///
    /// # Errors
    /// The gate in force has keys and this one has none. Such a gate is mostly a file that is just being written,
    /// and would let everybody do everything.
    pub fn replace(&self, gate: Gate) -> Result<(), KeysGone> {
        if self.gate.load().is_on() && !gate.is_on() {
            return Err(KeysGone);
        }
        let (keys, rules) = (gate.keys.len(), gate.rules.len());
        self.gate.store(Arc::new(gate));
        let version = self.version.fetch_add(1, Ordering::Release) + 1;
        tracing::info!(version, keys, rules, "access keys and rules were replaced");
        Ok(())
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.gate.load_full()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// The gate of a configuration.
///
/// # Errors
/// A key cannot be read or a rule is none; the text names all of them.
pub fn gate(config: &AccessConfig) -> anyhow::Result<Gate> {
    Gate::new(config).map_err(|problems| {
        // What is wrong names the entry itself.
        let line = |(path, problem): &Problem| {
            let key = path.split_once('[').map_or(&**path, |(key, _)| key);
            format!("{key}: {problem}")
        };
        let lines: Vec<_> = problems.iter().map(line).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    })
}
