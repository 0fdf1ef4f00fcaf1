//! Versions of a policy that are tried or were taken back, as the API shows them, and the step from trial to use.

use super::audit::Who;
use super::policies::{Policy, Version};
use super::problem::{self, Problem};
use super::{Handlers, body};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waspmq_policy::{CandidateState, Comparison, PromoteError};

/// A version on trial: a shadow, or a canary.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Candidate {
    #[serde(flatten)]
    version: Version,
    /// `closed`, `half-open` or `open`; the worst of all workers.
    breaker: &'static str,
    /// Calls into the plugin, in this trial.
    calls: u64,
    /// Calls that did not end in a decision.
    failures: u64,
    /// Messages it was not asked about, because its breaker was open or no instance ready.
    passed_by: u64,
    /// Mean time of a call.
    mean_ns: Option<u64>,
    /// Of a shadow: how its decisions compare with those of the active version.
    differences: Option<Differences>,
}

/// Decisions of a shadow beside those of the active version.
#[derive(Debug, Serialize, ToSchema)]
struct Differences {
    same: u64,
    different: u64,
    /// Messages that the shadow failed to decide.
    failed: u64,
    /// Up to 32 of those that were decided differently.
    samples: Vec<Difference>,
}

/// One message that a shadow decided differently.
#[derive(Debug, Serialize, ToSchema)]
struct Difference {
    /// The message, unless it got no id because it was refused, dropped or is still waiting; of several with the same fate
    /// the first.
    id: Option<String>,
    sender: String,
    address: String,
    #[schema(example = json!({"route": {"redirect": "topic/a"}, "set_headers": {}}))]
    active: serde_json::Value,
    shadow: serde_json::Value,
}

/// A version that was taken back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rollback {
    /// `failures` and `latency` are automatic, `operator` is not.
    reason: &'static str,
    /// The figures that were the reason.
    detail: String,
    from: String,
    to: String,
    generation: u64,
}

/// A version of an earlier run that could not be brought back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedPolicyVersion)]
pub(super) struct RefusedVersion {
    /// `active`, `candidate` or `previous`.
    role: &'static str,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    version: String,
    /// Such as what was expected of the component and what was found.
    reason: String,
}

impl From<CandidateState> for Candidate {
    fn from(state: CandidateState) -> Self {
        Self {
            version: state.version.into(),
            breaker: state.breaker.as_str(),
            calls: state.calls,
            failures: state.failures,
            passed_by: state.passed_by,
            mean_ns: state.mean_ns,
            differences: state.comparison.map(Differences::from),
        }
    }
}

impl From<Comparison> for Differences {
    fn from(comparison: Comparison) -> Self {
        let Comparison { same, different, failed, samples } = comparison;
        let sample = |sample: waspmq_policy::Difference| Difference {
            id: sample.id,
            sender: sample.sender,
            address: sample.address,
            active: sample.active,
            shadow: sample.shadow,
        };
        Self { same, different, failed, samples: samples.into_iter().map(sample).collect() }
    }
}

impl From<waspmq_policy::RefusedVersion> for RefusedVersion {
    fn from(refused: waspmq_policy::RefusedVersion) -> Self {
        let waspmq_policy::RefusedVersion { role, version, reason } = refused;
        Self { role, version, reason }
    }
}

impl From<waspmq_policy::Rollback> for Rollback {
    fn from(rollback: waspmq_policy::Rollback) -> Self {
        let waspmq_policy::Rollback { reason, detail, from, to, generation } = rollback;
        Self { reason, detail, from, to, generation }
    }
}

/// What the step was decided by.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Seen {
    /// The policy's generation as it was seen; 409 when it is another one by now.
    pub(super) generation: Option<u64>,
}

/// Makes the candidate, a shadow or a canary, what decides for everybody. The version before is kept.
#[utoipa::path(
    post, operation_id = "promote_policy", path = "/v1/policies/{name}/promote", tag = "policies", params(("name" = String, Path), Seen),
    responses((status = 200, body = Policy), (status = 404), (status = 409), (status = 503), (status = 507))
)]
pub(crate) async fn promote(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Seen { generation } = body::query(&uri)?;
    let state = shared
        .blocking(move |control| control.policies.promote(&name, generation, &who.to_string()))
        .await??;
    Ok(problem::json(StatusCode::OK, &Policy::from(state)))
}

impl From<PromoteError> for Problem {
    fn from(error: PromoteError) -> Self {
        let detail = error.to_string();
        match error {
            PromoteError::UnknownPolicy { .. } => Self::not_found(detail),
            PromoteError::NoCandidate { .. } => Self::new(StatusCode::CONFLICT, "no_candidate", detail),
            PromoteError::OtherGeneration { .. } => {
                Self::new(StatusCode::CONFLICT, "other_generation", detail)
            }
            PromoteError::Refused { .. } => Self::new(StatusCode::CONFLICT, "refused_policy", detail),
            PromoteError::Put(error) => error.into(),
        }
    }
}
