//! Policies: putting them in place, seeing what they do, going back. The policy host checks, and logs its changes.

use super::audit::Who;
use super::problem::{self, Problem};
use super::trials::{Candidate, RefusedVersion, Rollback, Seen};
use super::{Handlers, body, limits};
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use waspmq_core::Code;
use waspmq_policy::{
    Mode, PolicyDocument, PolicyState, PolicyVersion, PutError, RefusedPolicy, RollbackError,
};

/// A policy as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Policy {
    name: String,
    /// `active` or `off`, as the document says; `trial` while there is only a candidate, or one beside a version that is off; `removed` or
    /// `refused` in the answer to a rollback that left nothing, or nothing but versions that could not be brought back.
    #[schema(example = "active")]
    state: &'static str,
    /// How calls reach it: `core` or `component` for a plugin, `native` for rules.
    lane: &'static str,
    /// The generation it came with.
    generation: u64,
    /// The document of the version that decides; none while there is only a candidate.
    #[schema(value_type = Option<Document>)]
    document: Option<PolicyDocument>,
    /// What decides: `plugin@revision`, or `rules@` and the first eight digits of the digest.
    #[schema(example = "route-mirror@1")]
    version: Option<String>,
    /// The revision that `document.plugin` stands for; none of rules.
    revision: Option<u32>,
    /// BLAKE3 of that revision's component, or of the rules.
    digest: Option<String>,
    /// What a rollback without a candidate goes back to.
    previous: Option<Version>,
    /// The version on trial.
    candidate: Option<Candidate>,
    /// Whether the version that decides is new and compared with the one before.
    on_probation: bool,
    /// `closed`, `half-open` or `open`: the worst of all workers and of the versions that decide.
    breaker: &'static str,
    /// Calls into the plugin since the policy was first put, without those of shadows; decisions that were cached are none.
    calls: u64,
    /// Calls that did not end in a decision.
    failures: u64,
    /// Calls by how they ended.
    outcomes: BTreeMap<&'static str, u64>,
    latency: Latency,
    instances: Instances,
    /// What the plugin counts.
    counters: BTreeMap<String, u64>,
    /// What the plugin measures.
    histograms: BTreeMap<String, Distribution>,
    /// How often calls went over limits that do not end them, without those of shadows, by limit: `hostcalls`, `log_lines`, `counters`,
    /// `histograms`, `values` and `buckets`. What was asked for is left out then; limits that were kept to are not here.
    exceeded: BTreeMap<&'static str, u64>,
    /// What became of messages whose codec it chose, by codec: `lz4`, `zstd`, `zstd-dict` and `deflate`.
    compressed: BTreeMap<&'static str, Compressed>,
    kept: Kept,
    /// Versions taken back, by reason.
    rollbacks: BTreeMap<&'static str, u64>,
    last_rollback: Option<Rollback>,
    /// Versions of an earlier run that could not be brought back at the start; a file that is put right brings them back with the next.
    refused_versions: Vec<RefusedVersion>,
}

/// A histogram of the plugin. Quantiles are upper bounds of buckets a quarter of an octave wide.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyDistribution)]
struct Distribution {
    count: u64,
    sum: u64,
    p50: u64,
    p99: u64,
    max: u64,
}

/// What compressing by the policy's choice came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyCompressed)]
struct Compressed {
    messages: u64,
    /// Bytes before.
    plain_bytes: u64,
    /// Bytes that were sent instead.
    packed_bytes: u64,
    /// Time that workers spent on it.
    spent_ns: u64,
}

/// What the broker keeps for the policy.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyKept)]
struct Kept {
    values: usize,
    /// Bytes of the values and their keys.
    value_bytes: usize,
    /// Token buckets.
    buckets: usize,
    /// Values and buckets refused because they are over a bound.
    refused: u64,
}

/// What a policy is made of, now, on trial, or before its last change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyVersion)]
pub(super) struct Version {
    #[schema(value_type = Document)]
    document: PolicyDocument,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    #[schema(example = "rules@1f3a9c02")]
    version: String,
    /// The revision that `document.plugin` stands for; none of rules.
    revision: Option<u32>,
    /// BLAKE3 of that revision's component, or of the rules.
    digest: String,
}

/// Quantiles of the calls, each the upper bound of a bucket a quarter of an octave wide.
#[derive(Debug, Serialize, ToSchema)]
struct Latency {
    timed_calls: u64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Instances {
    /// Workers that have one.
    serving: usize,
    /// Workers with a spare that is ready.
    spare: usize,
    /// Spares made since the policy was first put, to replace failed, outdated or worn instances.
    replaced: u64,
    /// Instances given up because they served long enough or filled their memory.
    recycled: u64,
}

/// A policy of an earlier run that could not be brought back at the start, and decides nothing until it is put anew.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedPolicy)]
struct Refused {
    name: String,
    /// `refused`.
    #[schema(example = "refused")]
    state: &'static str,
    /// Why, such as what was expected of the plugin's component and what was found.
    reason: String,
    /// The generation it came with.
    generation: u64,
    /// As it was put.
    document: serde_json::Value,
    /// None of rules.
    revision: Option<u32>,
    /// BLAKE3 of the component that it needs, or of its rules.
    digest: String,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    #[schema(example = "orders@3")]
    version: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ListedPolicy)]
enum Listed {
    There(Box<Policy>),
    Refused(Refused),
}

/// All policies, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct Policies {
    /// The number of the active set.
    generation: u64,
    policies: Vec<Listed>,
}

impl From<RefusedPolicy> for Refused {
    fn from(refused: RefusedPolicy) -> Self {
        let RefusedPolicy { name, generation, document, revision, digest, version, reason } = refused;
        Self { name, state: "refused", reason, generation, document, revision, digest, version }
    }
}

impl Listed {
    fn name(&self) -> &str {
        match self {
            Self::There(policy) => &policy.name,
            Self::Refused(refused) => &refused.name,
        }
    }
}

impl From<PolicyState> for Policy {
    fn from(state: PolicyState) -> Self {
        let outcomes: BTreeMap<_, _> = state.outcomes.into_iter().collect();
        let decided = outcomes.get("ok").copied().unwrap_or(0);
        let word = match state.current.as_ref().map(|current| current.document.mode) {
            Some(Mode::Active | Mode::Shadow) => "active",
            Some(Mode::Off) | None if state.candidate.is_some() => "trial",
            Some(Mode::Off) => "off",
            None if state.refused.is_empty() => "removed",
            None => "refused",
        };
        let revision = state.current.as_ref().and_then(|current| current.revision);
        let current = state.current.map(|current| (current.document, current.version, current.digest));
        let (document, version, digest) = current
            .map_or((None, None, None), |(document, version, digest)| {
                (Some(document), Some(version), Some(digest))
            });
        Self {
            name: state.name,
            state: word,
            lane: state.lane,
            generation: state.generation,
            document,
            version,
            revision,
            digest,
            previous: state.previous.map(Version::from),
            candidate: state.candidate.map(Candidate::from),
            on_probation: state.on_probation,
            breaker: state.breaker.as_str(),
            calls: state.calls,
            failures: state.calls.saturating_sub(decided),
            outcomes,
            latency: Latency {
                timed_calls: state.latency.timed_calls,
                p50_ns: state.latency.p50_ns,
                p99_ns: state.latency.p99_ns,
                p999_ns: state.latency.p999_ns,
            },
            instances: Instances {
                serving: state.instances.serving,
                spare: state.instances.spare,
                replaced: state.instances.replaced,
                recycled: state.instances.recycled,
            },
            counters: state.counters,
            histograms: state.histograms.into_iter().map(|(name, of)| (name, of.into())).collect(),
            exceeded: state.exceeded.into_iter().collect(),
            compressed: state.compressed.into_iter().map(|(codec, of)| (codec, of.into())).collect(),
            kept: Kept {
                values: state.kept.values,
                value_bytes: state.kept.value_bytes,
                buckets: state.kept.buckets,
                refused: state.kept.refused,
            },
            rollbacks: state.rollbacks.into_iter().collect(),
            last_rollback: state.last_rollback.map(Rollback::from),
            refused_versions: state.refused.into_iter().map(RefusedVersion::from).collect(),
        }
    }
}

impl From<waspmq_policy::Compressed> for Compressed {
    fn from(of: waspmq_policy::Compressed) -> Self {
        let waspmq_policy::Compressed { messages, plain_bytes, packed_bytes, spent_ns } = of;
        Self { messages, plain_bytes, packed_bytes, spent_ns }
    }
}

impl From<waspmq_policy::Distribution> for Distribution {
    fn from(of: waspmq_policy::Distribution) -> Self {
        Self { count: of.count, sum: of.sum, p50: of.p50, p99: of.p99, max: of.max }
    }
}

impl From<PolicyVersion> for Version {
    fn from(version: PolicyVersion) -> Self {
        let PolicyVersion { document, revision, digest, version } = version;
        Self { document, version, revision, digest }
    }
}

/// A policy as an operator writes it; [`PolicyDocument`] with words for the description. Unknown keys are refused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyDocument)]
pub(super) struct Document {
    /// What is decided: `routing`, `ack`, `admission`, `overflow` or `compression`. The plugin has to have the hook.
    #[schema(example = "routing")]
    hook: String,
    /// `name@revision`, or `name` for its latest revision at the time of the call. A document has this or `rules`.
    #[schema(required = false, example = "route-mirror@1")]
    plugin: Option<String>,
    /// What is decided without a plugin: 1 to 256 rules, of which the first that matches counts.
    #[schema(required = false)]
    rules: Option<Vec<DocumentRule>>,
    /// Patterns of the addresses whose messages are decided.
    #[serde(rename = "match")]
    #[schema(example = json!(["topic/orders.>"]))]
    patterns: Vec<String>,
    /// Handed to the plugin.
    #[schema(required = false)]
    config: BTreeMap<String, serde_json::Value>,
    /// Lower runs first; equal ones run by name.
    #[schema(required = false, default = 100)]
    order: i32,
    /// `active`, `shadow` (asked behind the active version and compared with it, decides nothing) or `off`.
    #[schema(required = false, default = "active")]
    mode: String,
    /// With mode `active`: the version decides for this share of senders, and the one before for the others.
    #[schema(required = false, minimum = 1, maximum = 99)]
    canary_percent: Option<u8>,
    /// `open` (as if the policy had said `continue`), `closed` (the message is refused; where a policy cannot refuse,
    /// what is configured is done, or with hook `compression` the message sent as it is), `builtin` (what is built in is done and no further policy asked) or `previous` (the
    /// version before is asked).
    #[schema(required = false, default = "open")]
    on_failure: String,
    /// The broker is not ready while this policy does not serve.
    #[schema(required = false, default = false)]
    required: bool,
    #[schema(required = false)]
    limits: DocumentLimits,
    #[schema(required = false)]
    budget: DocumentBudget,
    /// `auto` (directly where the component allows it) or `component` (through the component API in any case).
    #[schema(required = false, default = "auto")]
    lane: String,
}

/// One rule, see `docs/RULES.md`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyRule)]
pub(super) struct DocumentRule {
    /// Conditions that all have to hold: `address`, `sender`, `recipient`, `key`, `header`, `size_min`, `size_max` and
    /// `priority_min`. Without any the rule is about everything.
    #[schema(required = false, example = json!({"address": "topic/orders.>", "sender": ["alice", "bot-*"], "header": {"tenant": "acme"}}))]
    when: BTreeMap<String, serde_json::Value>,
    /// The answer, in the words of the hook: a word, or an object.
    #[schema(example = json!({"mirror": ["topic/audit"]}))]
    then: serde_json::Value,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyLimits)]
pub(super) struct DocumentLimits {
    /// CPU time of one decision, in milliseconds.
    #[schema(required = false, default = 2, minimum = 2, maximum = 1000)]
    deadline_ms: u32,
    /// Linear memory of each instance, in MiB.
    #[schema(required = false, default = 16, minimum = 1, maximum = 64)]
    memory_mb: u32,
    /// Part of each worker that calls may take; more opens the breaker.
    #[schema(required = false, default = 0.2, minimum = 0.01, maximum = 1.0)]
    cpu_share: f64,
}

/// When a new version is taken back without being asked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyBudget)]
pub(super) struct DocumentBudget {
    /// Part of the calls in a window that fails.
    #[schema(required = false, default = 5, minimum = 1, maximum = 100)]
    failure_percent: u8,
    /// Mean time of a call, as a multiple of that of the version before.
    #[schema(required = false, default = 10, minimum = 2, maximum = 1000)]
    latency_factor: u32,
    /// Calls in a window below which nothing is concluded.
    #[schema(required = false, default = 100, minimum = 1, maximum = 1_000_000)]
    calls_min: u32,
    /// Seconds that are looked at.
    #[schema(required = false, default = 10, minimum = 1, maximum = 300)]
    window_s: u32,
}

/// All policies.
#[utoipa::path(get, operation_id = "list_policies", path = "/v1/policies", tag = "policies", responses((status = 200, body = Policies)))]
pub(crate) async fn list(State(shared): Handlers) -> Response {
    let host = &shared.state.control.policies;
    let there = host.policies().into_iter().map(|state| Listed::There(Box::new(state.into())));
    let refused = host.refused_policies().into_iter().map(|policy| Listed::Refused(policy.into()));
    let mut policies: Vec<Listed> = there.chain(refused).collect();
    policies.sort_by(|a, b| a.name().cmp(b.name()));
    problem::json(StatusCode::OK, &Policies { generation: host.generation(), policies })
}

/// One policy.
#[utoipa::path(get, operation_id = "show_policy", path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path)), responses((status = 200, body = Listed), (status = 404)))]
pub(crate) async fn show(State(shared): Handlers, Path(name): Path<String>) -> Result<Response, Problem> {
    let host = &shared.state.control.policies;
    let there = host.policy(&name).map(|state| Listed::There(Box::new(state.into())));
    let refused = || host.refused_policies().into_iter().find(|refused| refused.name == name);
    let found = there.or_else(|| refused().map(|refused| Listed::Refused(refused.into())));
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no policy {name:?}")))?;
    Ok(problem::json(StatusCode::OK, &found))
}

/// Puts a policy in place, new or instead of the one of that name, or a shadow or canary beside that. Answers once
/// messages are decided by it.
#[utoipa::path(
    put, operation_id = "put_policy", path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path)), request_body = Document,
    responses((status = 200, body = Policy), (status = 422), (status = 503), (status = 507))
)]
pub(crate) async fn put(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let document: PolicyDocument = body::document(request, limits::DOCUMENT_BYTES_MAX).await?;
    let put = shared
        .blocking(move |control| control.policies.put_policy(&name, document, &who.to_string()))
        .await?;
    Ok(problem::json(StatusCode::OK, &Policy::from(put?)))
}

/// Removes a policy.
#[utoipa::path(delete, operation_id = "remove_policy", path = "/v1/policies/{name}", tag = "policies", params(("name" = String, Path)), responses((status = 204), (status = 404), (status = 503), (status = 507)))]
pub(crate) async fn remove(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    shared.blocking(move |control| control.policies.remove_policy(&name, &who.to_string())).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Drops the candidate, and removes a policy that has nothing else; without one goes back to what the policy was before its
/// last change, and a second time returns from there, but not to a version that the broker took back.
#[utoipa::path(
    post, operation_id = "roll_policy_back", path = "/v1/policies/{name}/rollback", tag = "policies", params(("name" = String, Path), Seen),
    responses((status = 200, body = Policy), (status = 404), (status = 409), (status = 503), (status = 507))
)]
pub(crate) async fn rollback(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Seen { generation } = body::query(&uri)?;
    let state = shared
        .blocking(move |control| control.policies.rollback(&name, generation, &who.to_string()))
        .await??;
    Ok(problem::json(StatusCode::OK, &Policy::from(state)))
}

impl From<PutError> for Problem {
    fn from(error: PutError) -> Self {
        let detail = error.to_string();
        match error {
            PutError::Name { .. } => Self::bad_request("invalid_name", detail).key("name"),
            PutError::Invalid { field, .. } => {
                Self::unprocessable("invalid_document", detail).key(field.into_owned())
            }
            PutError::UnknownPlugin { .. }
            | PutError::UnknownRevision { .. }
            | PutError::RefusedRevision { .. } => Self::unprocessable("unknown_plugin", detail).key("plugin"),
            PutError::Guest { .. } => Self::unprocessable("refused_by_plugin", detail),
            PutError::NoCapacity { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_capacity", detail),
            PutError::Component(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::StorageFailed.name(), detail).key("plugin")
            }
            PutError::NotKept(error) => error.into(),
        }
    }
}

impl From<RollbackError> for Problem {
    fn from(error: RollbackError) -> Self {
        let detail = error.to_string();
        match error {
            RollbackError::UnknownPolicy { .. } => Self::not_found(detail),
            RollbackError::NoPrevious { .. } => Self::new(StatusCode::CONFLICT, "no_previous", detail),
            RollbackError::TakenBack { .. } => Self::new(StatusCode::CONFLICT, "taken_back", detail),
            RollbackError::OtherGeneration { .. } => {
                Self::new(StatusCode::CONFLICT, "other_generation", detail)
            }
            RollbackError::Refused { .. } => Self::new(StatusCode::CONFLICT, "refused_policy", detail),
            RollbackError::Put(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::PartialSchema;

    /// The description names the keys that documents have.
    #[test]
    fn the_description_is_that_of_the_document() {
        let full = r#"{"hook":"routing","plugin":"p","rules":[],"match":["all"],"canary_percent":1}"#;
        let document: PolicyDocument = serde_json::from_str(full).unwrap();
        let mut written = serde_json::to_value(document).unwrap();
        let described = serde_json::to_value(Document::schema()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&described["properties"]), keys(&written));
        let described = serde_json::to_value(DocumentLimits::schema()).unwrap();
        assert_eq!(keys(&described["properties"]), keys(&written["limits"].take()));
        let described = serde_json::to_value(DocumentBudget::schema()).unwrap();
        assert_eq!(keys(&described["properties"]), keys(&written["budget"].take()));
    }
}
