//! Which policies decided what about a message, at which revision and in which time.
//!
//! The worker that published the message remembers its last decisions and answers; what was decided is put into words
//! here, not on the worker. What it has forgotten nobody knows: nothing of this is stored.

use super::Handlers;
use super::problem::{self, Problem};
use super::stored::{message_id, no_query};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use waspmq_core::MessageId;
use waspmq_policy::{Decided, Ended, Explained};

/// What policies decided about a message.
#[derive(Debug, Serialize, ToSchema)]
struct Explanation {
    /// 32 hexadecimal digits.
    id: String,
    /// Where it was published to; policies may have sent it elsewhere.
    address: String,
    /// In the order in which policies were asked.
    decisions: Vec<Decision>,
    /// Decisions that were not recorded, because there were too many about one message.
    left_out: u32,
    /// What holds in the end: by hook, and for the last failed attempt by `failed`. Of hook `compression` it is what holds for the
    /// audience that was asked about last.
    outcome: BTreeMap<&'static str, Outcome>,
}

/// One policy that was asked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyDecision)]
struct Decision {
    /// `routing`, `ack`, `admission` or `compression`.
    #[schema(example = "routing")]
    hook: &'static str,
    /// What was asked: `admit`, `route`, `plan`, `failed` for a failed attempt, or `choose` for a delivery.
    #[schema(example = "route")]
    question: &'static str,
    policy: String,
    /// `name@revision`.
    #[schema(example = "route-mirror@1")]
    plugin: String,
    /// `active`, `candidate` or `previous`: what it was to its policy then.
    #[schema(example = "active")]
    version: &'static str,
    /// Whether it was only compared, and decided nothing.
    shadow: bool,
    /// The generation by which the message was decided.
    generation: u64,
    /// As the hook has it; null when the policy failed. Texts beyond a bound end with `…truncated`.
    #[schema(value_type = Option<serde_json::Value>)]
    decision: Option<serde_json::Value>,
    /// What the call took, at most the policy's deadline; null when the plugin was not called.
    ns: Option<u32>,
    /// False when there was no call, or `ns` is that of the latest one before that was timed: of many quick ones, one in
    /// eight is.
    timed: bool,
    /// Whether it is an earlier verdict of the policy that holds for this message, too.
    cached: bool,
    failed: Option<Failure>,
    /// Of `failed`: why the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Of `failed`: the number of the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    /// Of `choose`: what the recipients it is about take.
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<Audience>,
}

/// Recipients that get the same bytes of a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyAudience)]
struct Audience {
    /// Of `lz4`, `zstd`, `zstd-dict` and `deflate`.
    codecs: Vec<&'static str>,
    /// Whether there was a dictionary for the address.
    dictionary: bool,
}

/// The failure of a policy, and what served instead.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyFailure)]
struct Failure {
    /// `trap`, `deadline`, `memory`, `bad_verdict`, `unavailable` or `breaker_open`.
    #[schema(example = "trap")]
    outcome: &'static str,
    /// `next` (it was passed by), `built_in`, `refused`, `configured`, `none` (sent as it is), or the version that was asked instead: `previous` or
    /// `active`. Null for a shadow.
    #[schema(example = "next")]
    instead: Option<&'static str>,
}

/// What holds in the end.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyOutcome)]
struct Outcome {
    /// The policy that decided; null when none did.
    by: Option<String>,
    /// Its decision, or in words what holds without one; of `routing` with the headers that all policies set.
    #[schema(value_type = serde_json::Value)]
    decision: serde_json::Value,
}

impl From<Decided> for Decision {
    fn from(of: Decided) -> Self {
        let failed = of.failed.map(|failed| Failure { outcome: failed.outcome, instead: failed.instead });
        Self {
            hook: of.hook,
            question: of.question,
            policy: of.policy,
            plugin: of.plugin,
            version: of.version,
            shadow: of.shadow,
            generation: of.generation,
            decision: of.decision,
            ns: of.ns,
            timed: of.timed,
            cached: of.cached,
            failed,
            cause: of.cause,
            attempt: of.attempt,
            audience: of.audience.map(|of| Audience { codecs: of.codecs, dictionary: of.dictionary }),
        }
    }
}

impl From<Ended> for Outcome {
    fn from(Ended { by, decision }: Ended) -> Self {
        Self { by, decision }
    }
}

/// Which policies decided what about a message, as long as its worker remembers.
#[utoipa::path(
    get, operation_id = "explain_message", path = "/v1/explain/{id}", tag = "policies",
    params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, body = Explanation), (status = 400), (status = 404), (status = 503))
)]
pub(crate) async fn show(
    State(shared): Handlers,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    no_query(&uri)?;
    let id = message_id(&id)?;
    let Some(explained) = shared.state.control.explain(id).await? else {
        return Err(Problem::not_found(format!(
            "message {id} was not published by this run of the broker, and decisions are remembered no longer than that"
        )));
    };
    let Some(recorded) = &explained.found else { return Err(unknown(id, &explained)) };
    let of = recorded.explain();
    let document = Explanation {
        id: id.to_string(),
        address: of.address,
        decisions: of.decisions.into_iter().map(Decision::from).collect(),
        left_out: of.left_out,
        outcome: of.outcome.into_iter().map(|(hook, ended)| (hook, ended.into())).collect(),
    };
    Ok(problem::json(StatusCode::OK, &document))
}

/// Says how far back the worker remembers.
fn unknown(id: MessageId, explained: &Explained) -> Problem {
    let (worker, count) = (id.worker(), explained.remembered);
    let since = explained
        .oldest
        .and_then(|oldest| jiff::Timestamp::from_millisecond(i64::try_from(oldest.unix_ms()).ok()?).ok());
    let reach = match since {
        Some(since) => format!("worker {worker} remembers the last {count} it decided, since {since:.3}"),
        None => format!("worker {worker} remembers none"),
    };
    Problem::not_found(format!(
        "no decisions about message {id} are remembered: {reach}; at most {} are, and nothing is recorded of a message to whose \
         address no policy is bound",
        waspmq_policy::limits::TRACES_MAX - 1
    ))
}
