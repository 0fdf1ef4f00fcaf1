//! What stored messages, in histories and as dead letters, have in common as documents: content and headers.

use axum::http::Uri;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use waspmq_core::MessageId;
use waspmq_core::message::{Batch, Envelope};
use waspmq_protocol::HeaderBlock;

use super::problem::Problem;

/// What a message carries; either `payload` or `payload_b64` is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Carried {
    /// Any JSON value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Bytes that are not JSON, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_b64: Option<String>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: Headers,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    priority: u8,
    /// When it is of no more use, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// Names and values in the order they were published.
#[derive(Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Carried {
    pub(crate) fn of(batch: &Batch, envelope: &Envelope) -> Self {
        let bytes = batch.slice(envelope.payload);
        let json = envelope.is_json.then(|| String::from_utf8(bytes.to_vec()).ok()).flatten();
        let payload = json.and_then(|text| RawValue::from_string(text).ok());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            payload_b64: payload.is_none().then(|| BASE64_STANDARD.encode(bytes)),
            payload,
            headers: Headers(headers(batch, envelope)),
            key: text(batch.text(envelope.key)),
            reply_to: text(batch.text(envelope.reply_to)),
            priority: envelope.priority,
            expires: (envelope.expires_unix_ms > 0).then_some(envelope.expires_unix_ms),
        }
    }
}

/// A message's headers in their order.
pub(crate) fn headers(batch: &Batch, envelope: &Envelope) -> Vec<(String, String)> {
    let block = HeaderBlock::from_encoded(batch.slice(envelope.headers));
    block.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A message's id from a path or a query.
pub(crate) fn message_id(text: &str) -> Result<MessageId, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request("invalid_id", "a message id has 32 hexadecimal digits").key("id"))
}

/// The number of items that were asked for, within the bounds of a page.
pub(crate) fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let default = super::body::Page::default();
    super::body::Page { limit: limit.unwrap_or(default.limit), offset: 0 }.checked().map(|page| page.limit)
}

/// Refuses a query where none is taken.
pub(crate) fn no_query(uri: &Uri) -> Result<(), Problem> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Problem::bad_request("invalid_query", "this endpoint takes no query")),
    }
}
