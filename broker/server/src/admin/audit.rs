//! Who changed what: one event of the target `audit` and one line of the audit log for every change that the policy
//! host does not note by itself, and the log's lines to read.

use super::guard::Peer;
use super::problem::{self, Problem};
use super::stored::page_limit;
use super::{Handlers, Shared, body};
use crate::policies;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use utoipa::ToSchema;
use waspmq_core::Code;
use waspmq_policy::AuditEntry;

/// Who asks for a change. There is one operator, so the address is what tells two of them apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who(Option<Peer>);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Peer(address)) => write!(f, "admin {address}"),
            None => f.write_str("admin"),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().copied()))
    }
}

/// What changed.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) what: &'static str,
    pub(crate) name: &'a dyn fmt::Display,
    pub(crate) from: &'a dyn fmt::Display,
    pub(crate) to: &'a dyn fmt::Display,
}

/// Notes a change that was made. When it cannot be written, the broker's own log has it and says so.
pub(crate) fn record(shared: &Shared, who: Who, change: Change<'_>) -> impl Future<Output = ()> + Send {
    let control = &shared.state.control;
    let generation = control.policies.generation();
    let entry = AuditEntry {
        unix_ms: control.clock.now().unix_ms,
        who: who.to_string(),
        what: change.what.to_owned(),
        name: change.name.to_string(),
        from: change.from.to_string(),
        to: change.to.to_string(),
        generation,
        details: BTreeMap::new(),
    };
    let AuditEntry { who, what, name, from, to, .. } = &entry;
    // As texts, which the log quotes: a value may have spaces or be empty.
    tracing::info!(target: "audit", who, what, name, from, to, generation);
    async move {
        let Some(audit) = control.audit.clone() else { return };
        // What fails there is in the log.
        drop(shared.blocking(move |_| policies::note(&audit, &entry)).await);
    }
}

/// A change that was made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct AuditLine {
    /// Its number, one more than the line before.
    seq: u64,
    /// When, in milliseconds since 1970.
    unix_ms: u64,
    /// `admin` with the peer's address, or `broker` for what the broker does by itself.
    #[schema(example = "admin 127.0.0.1:50000")]
    who: String,
    #[schema(example = "policy put")]
    what: String,
    /// Of what was changed.
    name: String,
    from: String,
    to: String,
    /// The generation of policies from the change on.
    generation: u64,
    /// More: the `digest` of a component or a dictionary; of a policy `from_digest` and `to_digest` (its components or rules),
    /// `from_document` and `to_document` (digests of its documents), and in which keys of these it `changed`; of an
    /// automatic rollback `reason` and `detail`, its figures.
    #[serde(default)]
    details: BTreeMap<String, String>,
}

/// Lines of the audit log, the newest last.
#[derive(Debug, Serialize, ToSchema)]
struct Audit {
    changes: Vec<AuditLine>,
    /// The `after` of the next page; null when there is nothing behind this one now.
    next: Option<String>,
}

/// Which lines are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Only lines behind this number, the first of them; without it the last ones.
    after: Option<u64>,
    /// Lines at most, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Who changed what, the newest last. The log keeps the last 16 to 24 MiB of lines.
#[utoipa::path(
    get, operation_id = "list_changes", path = "/v1/audit", tag = "audit", params(Wanted),
    responses((status = 200, body = Audit), (status = 503))
)]
pub(crate) async fn list(State(shared): Handlers, uri: Uri) -> Result<Response, Problem> {
    let wanted: Wanted = body::query(&uri)?;
    let limit = page_limit(wanted.limit)?;
    let read = shared.blocking(move |control| {
        let audit = control.audit.as_ref();
        audit.map(|audit| audit.lines(wanted.after, limit + 1)).transpose().map(Option::unwrap_or_default)
    });
    let mut lines = read.await?.map_err(|error| {
        tracing::error!(error = error.chain(), "the audit log cannot be read");
        let detail = "the audit log cannot be read; the broker's log says more";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::StorageFailed.name(), detail)
    })?;
    let has_more = lines.len() > limit && wanted.after.is_some();
    while lines.len() > limit {
        if wanted.after.is_some() {
            lines.pop_back()
        } else {
            lines.pop_front()
        };
    }
    let changes: Vec<AuditLine> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let next = changes.last().filter(|_| has_more).map(|line| line.seq.to_string());
    Ok(problem::json(StatusCode::OK, &Audit { changes, next }))
}
