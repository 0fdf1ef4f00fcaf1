//! What one policy did: its document and state are the API's, its rates those of the metrics.

use super::delta::{Delta, Quantile, total};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Serialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) hook: String,
    /// `active`, `off`, `trial` or `refused`.
    pub(super) state: String,
    /// `plugin@revision` or `rules@digest`; none while there is only a candidate.
    pub(super) version: Option<String>,
    pub(super) generation: u64,
    pub(super) on_probation: bool,
    pub(super) breaker: Option<String>,
    /// By outcome, without those of a shadow.
    pub(super) outcomes_per_s: BTreeMap<String, f64>,
    /// All of these.
    pub(super) calls_per_s: f64,
    /// Those that are neither `ok` nor `cached`.
    pub(super) failures_per_s: f64,
    pub(super) p50_s: Option<Quantile>,
    pub(super) p99_s: Option<Quantile>,
    pub(super) candidate: Option<Candidate>,
}

/// A version on trial beside the active one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Candidate {
    pub(super) version: Option<String>,
    /// `shadow` or `canary`.
    pub(super) mode: &'static str,
    pub(super) canary_percent: Option<u64>,
    pub(super) breaker: Option<String>,
    /// Of a shadow: decisions that differ from those of the active version.
    pub(super) differences_per_s: Option<f64>,
    /// Of a shadow: messages that it failed to decide.
    pub(super) failures_per_s: Option<f64>,
}

/// `state` is an item of `/v1/policies`.
pub(super) fn policy(state: &Value, delta: &Delta<'_>) -> Policy {
    let name = text(state, "/name").unwrap_or_default();
    let outcomes =
        delta.rates_where("waspmq_policy_calls_total", "outcome", |labels| labels.get("policy") == name);
    let calls = delta.observed("waspmq_policy_call_seconds_bucket", |labels| labels.get("policy") == name);
    let is_failure = |outcome: &&String| !["ok", "cached"].contains(&outcome.as_str());
    Policy {
        hook: text(state, "/document/hook")
            .or_else(|| text(state, "/candidate/document/hook"))
            .unwrap_or_default(),
        state: text(state, "/state").unwrap_or_default(),
        version: text(state, "/version"),
        generation: state.get("generation").and_then(Value::as_u64).unwrap_or_default(),
        on_probation: state.get("on_probation").and_then(Value::as_bool).unwrap_or_default(),
        breaker: text(state, "/breaker"),
        calls_per_s: total(outcomes.values().copied()),
        failures_per_s: total(
            outcomes.iter().filter(|(outcome, _)| is_failure(outcome)).map(|(_, rate)| *rate),
        ),
        outcomes_per_s: outcomes,
        p50_s: calls.quantile(0.5),
        p99_s: calls.quantile(0.99),
        candidate: state
            .get("candidate")
            .filter(|candidate| candidate.is_object())
            .map(|state| candidate(&name, state, delta)),
        name,
    }
}

fn candidate(policy: &str, state: &Value, delta: &Delta<'_>) -> Candidate {
    let shadow =
        delta.rates_where("waspmq_policy_shadow_total", "outcome", |labels| labels.get("policy") == policy);
    let is_shadow = text(state, "/document/mode").as_deref() == Some("shadow");
    Candidate {
        version: text(state, "/version"),
        mode: if is_shadow { "shadow" } else { "canary" },
        canary_percent: state.pointer("/document/canary_percent").and_then(Value::as_u64),
        breaker: text(state, "/breaker"),
        differences_per_s: shadow.get("different").copied(),
        failures_per_s: shadow.get("failed").copied(),
    }
}

fn text(state: &Value, pointer: &str) -> Option<String> {
    state.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}
