//! Captures: what policies are asked in live traffic, taken down for a while and read as JSON lines.
//!
//! Who begins, reads or removes one is one audit line each, because messages may be in it. Deliberately not here: what is
//! taken down and how much of it, which the policy host decides; replaying, which needs no broker.

use super::audit::{self, Change, Who};
use super::problem::{self, Problem};
use super::{Handlers, Shared, body, limits};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use waspmq_core::Code;
use waspmq_policy::limits::{CAPTURE_MESSAGES_DEFAULT, CAPTURE_SECONDS_DEFAULT};
use waspmq_policy::{CaptureEnd, CaptureError, CaptureRecords, CaptureRequest, CaptureStatus};

/// What is to be taken down.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CaptureDocument)]
struct Document {
    /// Patterns of the addresses, 1 to 64; also `user/*` and `group/*`.
    #[serde(rename = "match")]
    #[schema(example = json!(["topic/orders.>"]))]
    patterns: Vec<String>,
    /// How long, 1 to 3600.
    #[serde(default = "seconds_default")]
    #[schema(default = 60, minimum = 1, maximum = 3600)]
    seconds: u64,
    /// Records at most, 1 to 100000; those of queue members are not counted.
    #[serde(default = "messages_default")]
    #[schema(default = 10_000, minimum = 1, maximum = 100_000)]
    messages_max: u64,
    /// With payloads, those of up to 64 KiB.
    #[serde(default)]
    payload: bool,
    /// With headers.
    #[serde(default)]
    headers: bool,
}

const fn seconds_default() -> u64 {
    CAPTURE_SECONDS_DEFAULT
}

const fn messages_default() -> u64 {
    CAPTURE_MESSAGES_DEFAULT
}

/// A capture as it is now.
#[derive(Debug, Serialize, ToSchema)]
struct Capture {
    /// `running` or `complete`.
    state: &'static str,
    /// What ended it: `messages`, `seconds` or `bytes`; null while it runs.
    ended_by: Option<&'static str>,
    started_unix_ms: u64,
    ended_unix_ms: Option<u64>,
    #[serde(rename = "match")]
    patterns: Vec<String>,
    seconds: u64,
    messages_max: u64,
    payload: bool,
    headers: bool,
    /// Records it has, those of queue members included.
    recorded: u64,
    /// Their bytes.
    bytes: u64,
    /// What is not in it, by reason: `too_large` and `no_room` are records, `payload` payloads that records are without.
    left_out: BTreeMap<&'static str, u64>,
}

impl From<CaptureStatus> for Capture {
    fn from(status: CaptureStatus) -> Self {
        let CaptureStatus { request, started_unix_ms, ended, recorded, bytes, left_out } = status;
        Self {
            state: if ended.is_some() { "complete" } else { "running" },
            ended_by: ended.map(|(_, by)| CaptureEnd::as_str(by)),
            started_unix_ms,
            ended_unix_ms: ended.map(|(unix_ms, _)| unix_ms),
            patterns: request.patterns,
            seconds: request.seconds,
            messages_max: request.messages_max,
            payload: request.payload,
            headers: request.headers,
            recorded,
            bytes,
            left_out: left_out.into_iter().collect(),
        }
    }
}

/// Begins to take down what policies are asked about messages to these addresses. The records of the capture before are gone.
#[utoipa::path(
    post, operation_id = "start_capture", path = "/v1/capture", tag = "capture", request_body = Document,
    responses((status = 201, body = Capture), (status = 409), (status = 422))
)]
pub(crate) async fn start(State(shared): Handlers, who: Who, request: Request) -> Result<Response, Problem> {
    let document: Document = body::document(request, limits::DOCUMENT_BYTES_MAX).await?;
    let Document { patterns, seconds, messages_max, payload, headers } = document;
    let request = CaptureRequest { patterns, seconds, messages_max, payload, headers };
    let status = shared.state.control.policies.start_capture(request)?;
    note(&shared, who, ("capture start", &status)).await;
    Ok(problem::json(StatusCode::CREATED, &Capture::from(status)))
}

/// The capture, running or complete. It is kept for an hour behind its end.
#[utoipa::path(get, operation_id = "show_capture", path = "/v1/capture", tag = "capture", responses((status = 200, body = Capture), (status = 404)))]
pub(crate) async fn show(State(shared): Handlers) -> Result<Response, Problem> {
    let status = shared.state.control.policies.capture().ok_or_else(none)?;
    Ok(problem::json(StatusCode::OK, &Capture::from(status)))
}

/// The records as JSON lines, what the capture is in the first one; also while it runs.
#[utoipa::path(
    get, operation_id = "read_capture", path = "/v1/capture/records", tag = "capture",
    responses((status = 200, description = "JSON lines", content_type = "application/jsonl"), (status = 404))
)]
pub(crate) async fn records(State(shared): Handlers, who: Who) -> Result<Response, Problem> {
    let busy = |_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded.name(), "nothing is read any more")
    };
    let place = Arc::clone(&shared.capture_readers).acquire_owned().await.map_err(busy)?;
    let (status, records) = shared.state.control.policies.read_capture().ok_or_else(none)?;
    note(&shared, who, ("capture read", &status)).await;
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((kind, Body::new(Pieces { records, _place: place })).into_response())
}

/// Which capture is meant.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Its `started_unix_ms`; unless given, whichever is there.
    started: Option<u64>,
}

/// Removes the capture with its records, running or complete.
#[utoipa::path(
    delete, operation_id = "remove_capture", path = "/v1/capture", tag = "capture", params(Which),
    responses((status = 204), (status = 400), (status = 404), (status = 409))
)]
pub(crate) async fn remove(State(shared): Handlers, uri: Uri, who: Who) -> Result<StatusCode, Problem> {
    let Which { started } = body::query(&uri)?;
    let status = shared.state.control.policies.remove_capture(started)?;
    note(&shared, who, ("capture remove", &status)).await;
    Ok(StatusCode::NO_CONTENT)
}

fn none() -> Problem {
    Problem::not_found("there is no capture")
}

/// One audit line: the name is what is captured, and `to` how much of it.
async fn note(shared: &Shared, who: Who, (what, status): (&'static str, &CaptureStatus)) {
    let request = &status.request;
    let name = request.patterns.join(" ");
    let with = match (request.payload, request.headers) {
        (true, true) => "with payload and headers",
        (true, false) => "with payload",
        (false, true) => "with headers",
        (false, false) => "without payload and headers",
    };
    let to = match what {
        "capture start" => format!("{} s, {} records, {with}", request.seconds, request.messages_max),
        _ => format!("{} records, {with}", status.recorded),
    };
    audit::record(shared, who, Change { what, name: &name, from: &"", to: &to }).await;
}

/// The records as a body, piece by piece, so that no answer is in memory as a whole.
struct Pieces {
    records: CaptureRecords,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.records.next().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

impl From<CaptureError> for Problem {
    fn from(error: CaptureError) -> Self {
        let detail = error.to_string();
        match error {
            CaptureError::Running => {
                let detail = format!("{detail}; `DELETE /v1/capture` ends it and removes its records");
                Self::new(StatusCode::CONFLICT, "already_running", detail)
            }
            CaptureError::None => none(),
            CaptureError::Other { .. } => Self::new(StatusCode::CONFLICT, "other_capture", detail),
            CaptureError::Invalid { field, .. } => Self::unprocessable("invalid_document", detail).key(field),
        }
    }
}
