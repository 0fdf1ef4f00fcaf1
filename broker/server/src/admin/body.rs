//! Reading what a request carries: documents, components, names in paths, pages of lists. All of it bounded, and
//! every fault named by its key and line.

use super::guard::{content_type, has_body, unsupported};
use super::limits;
use super::problem::{Place, Problem};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Query, Request};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use waspmq_core::{Code, Name};
use waspmq_policy::Object;

/// Reads a JSON object of at most `bytes_max`.
///
/// # Errors
/// 415 for another content type, 413, 408; 400 where the bytes are not JSON; 422 where they are and do not fit.
pub(crate) async fn document<T: DeserializeOwned>(request: Request, bytes_max: usize) -> Result<T, Problem> {
    let bytes = bytes(request, &["application/json"], bytes_max).await?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let Object(document) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let key = error.path().to_string();
        let key = (key != ".").then_some(key);
        faulty(error.inner(), key)
    })?;
    json.end().map_err(|error| faulty(&error, None))?;
    Ok(document)
}

fn faulty(error: &serde_json::Error, key: Option<String>) -> Problem {
    let place = Place { key, line: Some(error.line()), column: Some(error.column()) };
    if error.is_data() {
        Problem::unprocessable("invalid_document", error.to_string()).at(place)
    } else {
        Problem::bad_request("invalid_json", error.to_string()).at(Place { key: None, ..place })
    }
}

/// For an endpoint that takes no body: what is in one would be passed over.
pub(crate) fn none(headers: &HeaderMap) -> Result<(), Problem> {
    if has_body(headers) {
        return Err(Problem::bad_request("bad_request", "this endpoint takes no body"));
    }
    Ok(())
}

/// Reads a body of at most `bytes_max` of one of the content types.
pub(crate) async fn bytes(mut request: Request, types: &[&str], bytes_max: usize) -> Result<Bytes, Problem> {
    let given = content_type(request.headers());
    if !types.contains(&given.as_str()) {
        return Err(unsupported(&given, &types.join(" or ")));
    }
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    match tokio::time::timeout(limits::BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body has more than {bytes_max} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
        }
        Ok(Err(rejection)) => Err(Problem::bad_request("bad_request", rejection.body_text())),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", limits::BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
        }
    }
}

/// A user's or group's name from a path.
pub(crate) fn name(key: &'static str, text: &str) -> Result<Name, Problem> {
    Name::parse(text)
        .map_err(|error| Problem::bad_request(Code::InvalidName.name(), format!("{key}: {error}")).key(key))
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Items at most, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    pub(crate) limit: usize,
    /// Items passed over.
    #[param(default = 0)]
    pub(crate) offset: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: limits::PAGE_ITEMS_DEFAULT, offset: 0 }
    }
}

impl Page {
    pub(crate) fn checked(self) -> Result<Self, Problem> {
        if (1..=limits::PAGE_ITEMS_MAX).contains(&self.limit) {
            return Ok(self);
        }
        let detail = format!("limit must be 1 to {}", limits::PAGE_ITEMS_MAX);
        Err(Problem::bad_request("invalid_query", detail).key("limit"))
    }

    /// The items of this page.
    pub(crate) fn cut<T>(self, items: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        items.into_iter().skip(self.offset).take(self.limit)
    }
}

/// Reads a request's query; an unknown or ill-typed parameter is refused and named.
pub(crate) fn query<T: DeserializeOwned>(uri: &axum::http::Uri) -> Result<T, Problem> {
    match Query::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(Problem::bad_request("invalid_query", rejection.body_text())),
    }
}
