//! Publishing as the operator: the same pass as any session's message, without a session.

use super::problem::{self, Problem};
use super::{Handlers, body, limits};
use crate::control::{Publication, Published as Reached};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;
use waspmq_core::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, PRIORITY_MAX};
use waspmq_core::{Address, Code, Level};
use waspmq_protocol::HeaderBlock;
use waspmq_protocol::payload::validate_json;

/// A message to publish, with either `payload` or `payload_b64`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Publication)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// `user/<name>`, `group/<name>`, `topic/<tokens>` or `all`.
    #[schema(example = "topic/orders.eu.created")]
    to: String,
    /// Any JSON value.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Bytes that are not JSON, in base64.
    #[serde(default)]
    payload_b64: Option<String>,
    /// Names and values, in this order.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: Headers,
    /// Messages of one key go to the same member of a queue.
    #[serde(default)]
    key: String,
    /// 0 to 9 (first).
    #[serde(default)]
    #[schema(maximum = 9)]
    priority: u8,
    /// How far the message must get before the answer comes: `accepted`, `stored` or `delivered`.
    #[serde(default)]
    ack: Option<String>,
    /// Milliseconds after which the message is of no more use; 0 is none.
    #[serde(default)]
    ttl_ms: Option<u64>,
    /// Milliseconds to wait before it is delivered.
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Published {
    /// 32 hexadecimal digits.
    id: String,
    /// The level that was reached.
    level: String,
    /// Users the message was enqueued for, and queue members.
    recipients: u32,
}

/// The members of a JSON object in their order; one that is there twice is kept twice, for the check that refuses it.
#[derive(Debug, Default)]
struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Headers(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// `null` is a payload; only a missing key is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Publishes a message. The answer comes when the level that `ack` asks for is reached, or cannot be: `not_delivered` and
/// `expired` are 504. As many as may wait for that at once: 503 `overloaded`. At level `accepted`, `recipients` is how many it was enqueued for, not how many have it.
#[utoipa::path(
    post, path = "/v1/publish", tag = "messages", request_body = Wanted,
    responses((status = 200, body = Published), (status = 409), (status = 413), (status = 422), (status = 503), (status = 504), (status = 507))
)]
pub(crate) async fn publish(State(shared): Handlers, request: Request) -> Result<Response, Problem> {
    let wanted: Wanted = body::document(request, limits::PUBLISH_BYTES_MAX).await?;
    let publication = check(wanted)?;
    let _place = if publication.level > Level::Accepted {
        let place = shared.publishes.try_acquire().map_err(|_| {
            let most = limits::PUBLISHES_WAITING_MAX;
            Problem::overloaded(format!(
                "{most} publishes wait for their level already; this one was not published"
            ))
        })?;
        Some(place)
    } else {
        None
    };
    let publishing = shared.state.control.publish(publication);
    let published = tokio::time::timeout(limits::PUBLISH_TIMEOUT, publishing).await.map_err(|_| {
        let seconds = limits::PUBLISH_TIMEOUT.as_secs();
        let detail =
            format!("the message was accepted and has not reached its level within {seconds} s; it is still on its way");
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    })??;
    let Reached { id, level, recipients } = published;
    let published = Published { id: id.to_string(), level: level.as_str().to_owned(), recipients };
    Ok(problem::json(StatusCode::OK, &published))
}

fn check(wanted: Wanted) -> Result<Publication, Problem> {
    let invalid =
        |key: &'static str, detail: String| Problem::unprocessable("invalid_document", detail).key(key);
    let to = Address::parse(&wanted.to).map_err(|error| {
        Problem::unprocessable(Code::InvalidAddress.name(), format!("to: {error}")).key("to")
    })?;
    let (payload, is_json) = payload(wanted.payload, wanted.payload_b64)?;
    if payload.len() > MESSAGE_BYTES_MAX {
        let detail = format!("the payload has {} bytes, the limit is {MESSAGE_BYTES_MAX}", payload.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::MessageTooLarge.name(), detail));
    }
    HeaderBlock::encode(&wanted.headers.0, &mut Vec::new())
        .map_err(|error| invalid("headers", format!("headers: {error}")))?;
    if wanted.key.len() > KEY_BYTES_MAX {
        return Err(invalid(
            "key",
            format!("key has {} bytes, the limit is {KEY_BYTES_MAX}", wanted.key.len()),
        ));
    }
    if wanted.priority > PRIORITY_MAX {
        return Err(invalid("priority", format!("priority must be 0 to {}", PRIORITY_MAX)));
    }
    let level = match wanted.ack.as_deref() {
        None => Level::Accepted,
        Some(text) => Level::parse(text)
            .filter(|&level| level > Level::None)
            .ok_or_else(|| invalid("ack", format!("ack: {text:?} is not accepted, stored or delivered")))?,
    };
    Ok(Publication {
        to,
        from: None,
        payload,
        is_json,
        headers: wanted.headers.0,
        key: wanted.key,
        priority: wanted.priority,
        level,
        ttl_ms: wanted.ttl_ms,
        delay_ms: wanted.delay_ms,
        reply_to: String::new(),
        answers_early: false,
    })
}

/// The payload's bytes, and whether they are JSON.
fn payload(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<(Vec<u8>, bool), Problem> {
    let invalid = |key: &'static str, detail: String| {
        Problem::unprocessable(Code::InvalidPayload.name(), detail).key(key)
    };
    match (json, base64) {
        (Some(json), None) => match validate_json(json.get().as_bytes()) {
            Ok(payload) => Ok((payload.into_owned(), true)),
            Err(error) => Err(invalid("payload", error.to_string())),
        },
        (None, Some(text)) => match BASE64_STANDARD.decode(text) {
            Ok(payload) => Ok((payload, false)),
            Err(error) => Err(invalid("payload_b64", format!("payload_b64 is not base64: {error}"))),
        },
        _ => Err(invalid("payload", "exactly one of payload and payload_b64 must be there".to_owned())),
    }
}
