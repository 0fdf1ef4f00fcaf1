//! What a caller is told when something is refused: a problem document of RFC 9457.
//!
//! Handlers return a [`Problem`]; one layer around all of them gives it the request's path as `instance` and
//! writes it, and turns refusals that the framework makes by itself into problems, too.

use super::limits;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use waspmq_core::{Code, Reject};
use waspmq_policy::ArchiveError;

/// When a change that could not be kept is worth another try.
const STORAGE_RETRY_MS: u32 = 1_000;

/// When a request beyond a bound is worth another try.
const OVERLOADED_RETRY_MS: u32 = 1_000;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    /// The last part of `urn:waspmq:problem:<name>`.
    name: &'static str,
    detail: String,
    /// Boxed because few problems have one, and every handler's answer is as large as this.
    place: Option<Box<Place>>,
    retry_ms: Option<u32>,
    endpoints: Option<&'static [String]>,
}

/// Where in a document the fault is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Option<String>,
    pub(crate) line: Option<usize>,
    pub(crate) column: Option<usize>,
}

/// A problem document (RFC 9457), sent as `application/problem+json` with every status of 400 and above.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument<'a> {
    /// `urn:waspmq:problem:<name>`; the name is stable.
    #[serde(rename = "type")]
    #[schema(example = "urn:waspmq:problem:not_found")]
    kind: String,
    /// The kind of problem in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, for a person.
    detail: &'a str,
    /// The path that was asked for.
    instance: &'a str,
    /// The faulty key of a document, such as `limits.deadline_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The faulty line of a document, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// The faulty column of that line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    /// When the same request may succeed, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u32>,
    /// The endpoints that exist, when there is none at this path.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<&'a [String]>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, detail: detail.into(), place: None, retry_ms: None, endpoints: None }
    }

    pub(crate) fn bad_request(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, name, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound.name(), detail)
    }

    /// Too much of it is going on; the same may succeed in a moment.
    pub(crate) fn overloaded(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded.name(), detail);
        Self { retry_ms: Some(OVERLOADED_RETRY_MS), ..problem }
    }

    pub(crate) fn unprocessable(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, name, detail)
    }

    #[must_use]
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(Box::new(place));
        self
    }

    #[must_use]
    pub(crate) fn key(self, key: impl Into<String>) -> Self {
        self.at(Place { key: Some(key.into()), ..Place::default() })
    }

    #[must_use]
    pub(crate) const fn listing(mut self, endpoints: &'static [String]) -> Self {
        self.endpoints = Some(endpoints);
        self
    }

    /// Status, name and detail.
    #[cfg(test)]
    pub(crate) fn told(&self) -> (StatusCode, &'static str, &str) {
        (self.status, self.name, &self.detail)
    }

    fn write(&self, instance: &str) -> Response {
        let place = self.place.as_deref();
        let document = ProblemDocument {
            kind: format!("urn:waspmq:problem:{}", self.name),
            title: self.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
            key: place.and_then(|place| place.key.as_deref()),
            line: place.and_then(|place| place.line),
            column: place.and_then(|place| place.column),
            retry_ms: self.retry_ms,
            endpoints: self.endpoints,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"waspmq\""));
        }
        if let Some(retry_ms) = self.retry_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_ms.div_ceil(1_000)));
        }
        response
    }

    fn title(&self) -> &'static str {
        match self.name {
            "unauthorized" => "The admin token is missing or wrong",
            "forbidden_host" => "The broker does not answer by this host name",
            "forbidden_origin" => "Pages of this origin may not use the admin API",
            "no_such_endpoint" => "There is no such endpoint",
            "invalid_json" => "The body is not JSON",
            "invalid_document" => "The document is not what this endpoint takes",
            "unfit_plugin" => "The component cannot be a plugin",
            "unfit_dictionary" => "The bytes cannot be a dictionary",
            "already_running" => "One is running already",
            "no_capacity" => "There is no room for it",
            "storage_full" => "The disk has no space left",
            _ => self.status.canonical_reason().unwrap_or("Refused"),
        }
    }
}

impl From<Reject> for Problem {
    fn from(reject: Reject) -> Self {
        let status = match reject.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::RefusedByPolicy if reject.retry_ms > 0 => StatusCode::TOO_MANY_REQUESTS,
            Code::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Code::Overloaded | Code::Draining | Code::PolicyFailed | Code::StorageFailed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Code::NotDelivered | Code::Expired => StatusCode::GATEWAY_TIMEOUT,
            Code::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Code::NotStored
            | Code::GroupFull
            | Code::TooManyGroups
            | Code::TooManySessions
            | Code::NoRecipients => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let retry_ms = (reject.retry_ms > 0).then_some(reject.retry_ms);
        Self { retry_ms, ..Self::new(status, reject.code.name(), reject.message) }
    }
}

/// What cannot be kept on disk is not done.
impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        let (status, code) = match error {
            ArchiveError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, Code::StorageFull),
            ArchiveError::Failed { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::StorageFailed),
        };
        let detail = format!("nothing was changed, because it cannot be kept: {error}");
        Self { retry_ms: Some(STORAGE_RETRY_MS), ..Self::new(status, code.name(), detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the problem of a response, if it is one; `instance` is the path that was asked for.
pub(crate) async fn finish(mut response: Response, instance: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut written = problem.write(instance);
        written.headers_mut().extend(std::mem::take(response.headers_mut()));
        return written;
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, limits::REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut written = by_status(status, &text).write(instance);
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        written.headers_mut().insert(header::ALLOW, allow.clone());
    }
    written
}

/// The problem of a refusal that a part of the framework made.
fn by_status(status: StatusCode, text: &str) -> Problem {
    let name = match status {
        StatusCode::BAD_REQUEST => "bad_request",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ if status.is_client_error() => "refused",
        _ => "failed",
    };
    let detail = match (status, text) {
        (StatusCode::METHOD_NOT_ALLOWED, "") => "the `allow` header names what this endpoint takes",
        (_, "") => "the request cannot be served",
        (_, text) => text,
    };
    Problem::new(status, name, detail)
}

/// The body of an endpoint that answers a document.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => {
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (status, kind, Body::from(body)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer of the admin API could not be written");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the answer could not be written")
                .into_response()
        }
    }
}
