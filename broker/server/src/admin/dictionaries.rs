//! Compression dictionaries: pushing their bytes, and which ones there are. The library checks, and logs its changes.

use super::audit::Who;
use super::problem::{self, Problem};
use super::{Handlers, Shared, body};
use crate::dictionaries::{By, Push, PushError, Pushed, RemoveError};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use waspmq_protocol::codec::DICTIONARY_BYTES_MAX;

/// The content type of a dictionary's bytes.
const BYTES: &str = "application/octet-stream";

/// One push of a dictionary.
#[derive(Debug, Serialize, ToSchema)]
struct DictionaryRevision {
    name: String,
    /// The n-th push under this name, from 1.
    revision: u32,
    /// Its number in this broker's life, never given to another one.
    id: u32,
    /// BLAKE3 of the bytes, 64 hexadecimal digits.
    digest: String,
    bytes: usize,
    /// Patterns of the addresses it is for.
    #[serde(rename = "match")]
    #[schema(example = json!(["topic/orders.>"]))]
    patterns: Vec<String>,
    /// When it was pushed, in milliseconds since 1970.
    pushed_unix_ms: u64,
    /// Why it is not used: its bytes were changed on disk, or are not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl From<crate::dictionaries::Revision> for DictionaryRevision {
    fn from(revision: crate::dictionaries::Revision) -> Self {
        let crate::dictionaries::Revision { name, revision, id, digest, bytes, patterns, unix_ms, refused } =
            revision;
        Self { name, revision, id, digest, bytes, patterns, pushed_unix_ms: unix_ms, refused }
    }
}

/// The latest revision of every dictionary, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct DictionaryList {
    /// The number of the set that serves.
    generation: u64,
    dictionaries: Vec<DictionaryRevision>,
}

/// The kept revisions of one dictionary, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct DictionaryRevisions {
    name: String,
    revisions: Vec<DictionaryRevision>,
}

/// All dictionaries.
#[utoipa::path(get, operation_id = "list_dictionaries", path = "/v1/dictionaries", tag = "dictionaries", responses((status = 200, body = DictionaryList)))]
pub(crate) async fn list(State(shared): Handlers) -> Result<Response, Problem> {
    // A change holds the list until it is on disk.
    let listed = shared.blocking(|control| {
        let generation = control.dictionaries.load().generation();
        let dictionaries = control.dictionaries.list().into_iter().map(DictionaryRevision::from).collect();
        DictionaryList { generation, dictionaries }
    });
    Ok(problem::json(StatusCode::OK, &listed.await?))
}

/// One dictionary with its kept revisions; with `bytes` or `accept: application/octet-stream` the bytes of the one that serves.
#[utoipa::path(
    get, operation_id = "show_dictionary", path = "/v1/dictionaries/{name}", tag = "dictionaries",
    params(("name" = String, Path), ("bytes" = Option<String>, Query, description = "the bytes are wanted; its value is not read")),
    responses((status = 200, body = DictionaryRevisions), (status = 400), (status = 404))
)]
pub(crate) async fn show(
    State(shared): Handlers,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query: Vec<(String, String)> = body::query(&uri)?;
    if let Some((other, _)) = query.iter().find(|(key, _)| key != "bytes") {
        return Err(unknown_parameter(other, "bytes"));
    }
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !query.is_empty() || accepts == Some(BYTES) {
        let current = shared.state.control.dictionaries.load();
        let dictionary = current.by_name(&name).ok_or_else(|| {
            Problem::not_found(format!("there is no dictionary {name:?} of which the bytes can be used"))
        })?;
        return Ok(([(header::CONTENT_TYPE, BYTES)], dictionary.bytes.to_vec()).into_response());
    }
    let asked = name.clone();
    let revisions = shared.blocking(move |control| control.dictionaries.revisions(&asked)).await?;
    let revisions =
        revisions.ok_or_else(|| Problem::not_found(format!("there is no dictionary {name:?}")))?;
    let revisions = revisions.into_iter().map(DictionaryRevision::from).collect();
    Ok(problem::json(StatusCode::OK, &DictionaryRevisions { name, revisions }))
}

/// Makes these bytes the next revision of a dictionary. The bytes and patterns of the latest one again give that one again.
#[utoipa::path(
    post, operation_id = "push_dictionary", path = "/v1/dictionaries/{name}/revisions", tag = "dictionaries",
    params(("name" = String, Path), ("match" = Vec<String>, Query, description = "a pattern of the addresses it is for; 1 to 64, also `user/*` and `group/*`")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "a trained Zstandard dictionary"),
    responses(
        (status = 201, body = DictionaryRevision), (status = 200, body = DictionaryRevision, description = "it was the latest one already"),
        (status = 400), (status = 413), (status = 422), (status = 503), (status = 507)
    )
)]
pub(crate) async fn push(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let query: Vec<(String, String)> = body::query(request.uri())?;
    if let Some((other, _)) = query.iter().find(|(key, _)| key != "match") {
        return Err(unknown_parameter(other, "match"));
    }
    let push = Push::new(&name, query.iter().map(|(_, pattern)| pattern.as_str()))?;
    let bytes = body::bytes(request, &[BYTES], DICTIONARY_BYTES_MAX).await?;
    let by = by(&shared, who);
    let pushed = shared.blocking(move |control| control.dictionaries.push(&push, &bytes, &by)).await?;
    let Pushed { revision, is_new } = pushed?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(problem::json(status, &DictionaryRevision::from(revision)))
}

/// Removes a dictionary with all its revisions. Messages to its addresses go on without.
#[utoipa::path(delete, operation_id = "remove_dictionary", path = "/v1/dictionaries/{name}", tag = "dictionaries", params(("name" = String, Path)), responses((status = 204), (status = 404), (status = 503), (status = 507)))]
pub(crate) async fn remove(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let by = by(&shared, who);
    shared.blocking(move |control| control.dictionaries.remove(&name, &by)).await??;
    Ok(StatusCode::NO_CONTENT)
}

fn by(shared: &Shared, who: Who) -> By {
    let control = &shared.state.control;
    By {
        who: who.to_string(),
        unix_ms: control.clock.now().unix_ms,
        generation: control.policies.generation(),
    }
}

fn unknown_parameter(other: &str, known: &str) -> Problem {
    Problem::bad_request(
        "invalid_query",
        format!("{other:?} is not a parameter of this endpoint; {known:?} is"),
    )
    .key(other)
}

impl From<PushError> for Problem {
    fn from(error: PushError) -> Self {
        let detail = error.to_string();
        match error {
            PushError::Name { .. } => Self::bad_request("invalid_name", detail).key("name"),
            PushError::Pattern { .. } | PushError::Patterns { .. } => {
                Self::bad_request("invalid_query", detail).key("match")
            }
            PushError::Unfit(_) => Self::unprocessable("unfit_dictionary", detail),
            PushError::TooMany | PushError::NoIds => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_capacity", detail)
            }
            PushError::NotKept(error) => error.into(),
        }
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Unknown { .. } => Self::not_found(error.to_string()),
            RemoveError::NotKept(error) => error.into(),
        }
    }
}
