//! `GET /v1/tail`: what is published, as server-sent events (WHATWG HTML, 9.2), as it happens.
//!
//! | event | data | when |
//! | --- | --- | --- |
//! | `ready` | what is shown | first: what is published from now on is seen |
//! | `message` | a publish and what became of it | for each |
//! | `dropped` | how many | where in the order of messages they are missing, because the reader was slow |
//! | a comment | nothing | every [`limits::SILENCE_MAX`] without anything else |
//!
//! Who asks for payloads is on the audit log, as with captures. Deliberately not here: what is taken down, and the queue
//! between the workers and this, which is [`crate::tail`].

use super::audit::{self, Change, Who};
use super::problem::Problem;
use super::stored::Headers;
use super::{Handlers, body};
use crate::tail::{Content, Line, Seen, Shown, Tail, Unopened, Wanted, limits};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep};
use utoipa::ToSchema;
use waspmq_core::{Code, Pattern, Position};

/// What is shown.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query, which has `match` any number of times")]
struct Query {
    /// Publishes to addresses that match, or that policies sent to such; may be there up to 64 times. Without one: all.
    /// Also `user/*` and `group/*`.
    #[param(rename = "match")]
    patterns: Option<Vec<String>>,
    /// Publishes of this user only.
    from: Option<String>,
    /// With payloads, of which the first 16 KiB, and headers.
    #[param(default = false)]
    payload: Option<bool>,
}

/// The data of the event `message`. What is absent is not known or not there.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TailMessage)]
struct Message<'a> {
    /// Not of a message that was refused before it got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// When it was published, milliseconds since 1970.
    ts: u64,
    /// The address as published.
    to: &'a str,
    /// The publishing user; absent for the admin API and for strangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    /// Its place in its address, or in the one that policies chose instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pos: Option<String>,
    /// `user`, `group`, `topic` or `all`.
    kind: &'static str,
    /// As in the metric `waspmq_messages_published_total`.
    #[schema(example = "accepted")]
    outcome: &'static str,
    /// The name of the error that its publisher was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// The words of that error; a policy's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// The addresses that policies chose instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instead: Vec<&'a str>,
    /// At all addresses together.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipients: Option<u32>,
    /// The level to reach; of a refused message the level that was asked for.
    #[schema(example = "delivered")]
    ack: &'static str,
    /// How long it waits before it is delivered.
    #[serde(skip_serializing_if = "is_zero")]
    delay_ms: u64,
    /// Bytes of the whole payload.
    size: usize,
    priority: u8,
    #[serde(flatten)]
    carried: Carried,
}

/// What a message carries, where it was asked for.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = TailCarried)]
struct Carried {
    #[serde(skip_serializing_if = "Headers::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: Headers,
    /// Any JSON value; where it is truncated, a string with the beginning of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Bytes that are not JSON, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_b64: Option<String>,
    /// Whether there is more of the payload, or of the headers.
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_false(is: &bool) -> bool {
    !*is
}

impl<'a> Message<'a> {
    fn of(seen: &'a Seen, index: usize, has_content: bool) -> Option<Self> {
        let line = seen.messages.get(index)?;
        let content = line.content.as_ref().filter(|_| has_content);
        let place = |first: Position| Position { offset: first.offset + index as u64, ..first };
        Some(Self {
            id: line.id.map(|id| id.to_string()),
            ts: seen.unix_ms,
            to: seen.to.as_str(),
            from: seen.from.as_ref().map(|from| from.as_str()),
            pos: seen.fate.first.map(|first| place(first).to_string()),
            kind: seen.to.kind().as_str(),
            outcome: seen.fate.outcome.as_str(),
            error: seen.fate.refusal.as_ref().map(|(code, _)| code.name()),
            reason: seen.fate.refusal.as_ref().map(|(_, reason)| &**reason),
            instead: seen.instead.iter().map(|address| address.as_str()).collect(),
            recipients: seen.fate.recipients,
            ack: seen.level.as_str(),
            delay_ms: seen.delay_ms,
            size: line.payload_bytes,
            priority: line.priority,
            carried: content.map(|content| Carried::of(line, content)).unwrap_or_default(),
        })
    }
}

impl Carried {
    fn of(line: &Line, content: &Content) -> Self {
        let is_whole = content.payload.len() == line.payload_bytes;
        let payload = if !content.is_json {
            None
        } else if is_whole {
            let text = String::from_utf8(content.payload.to_vec()).ok();
            text.and_then(|text| RawValue::from_string(text).ok())
        } else {
            serde_json::value::to_raw_value(beginning(&content.payload)).ok()
        };
        Self {
            headers: Headers(content.headers.clone()),
            payload_b64: payload.is_none().then(|| BASE64_STANDARD.encode(&content.payload)),
            payload,
            truncated: content.is_cut,
        }
    }
}

/// As much of it as is text.
fn beginning(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
    }
}

/// What is published, as it happens: an event for each publish. Who asks for payloads is on the audit log.
#[utoipa::path(
    get, operation_id = "tail", path = "/v1/tail", tag = "messages", params(Query),
    responses(
        (status = 200, description = "server-sent events; the data of `message`", body = Message<'static>, content_type = "text/event-stream"),
        (status = 400), (status = 503)
    )
)]
pub(crate) async fn show(State(shared): Handlers, uri: Uri, who: Who) -> Result<Response, Problem> {
    let wanted = wanted(&uri)?;
    let patterns: Vec<_> = wanted.patterns.iter().map(ToString::to_string).collect();
    let has_payload = wanted.payload;
    let control = &shared.state.control;
    let tail = control.tails.open(wanted).map_err(|why| match why {
        Unopened::TooMany => Problem::overloaded(format!("{} tails are open already", limits::TAILS_MAX)),
        Unopened::Closed => {
            let detail = "the broker is leaving service";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Draining.name(), detail)
        }
    })?;
    let ready = json!({ "node": &*control.node, "match": patterns, "payload": has_payload });
    if has_payload {
        let name = if patterns.is_empty() { "everything".to_owned() } else { patterns.join(" ") };
        let change = Change { what: "tail open", name: &name, from: &"", to: &"with payload and headers" };
        audit::record(&shared, who, change).await;
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // nginx would gather events before it passes them on.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::new(Events::new(tail, &ready))).into_response())
}

fn wanted(uri: &Uri) -> Result<Wanted, Problem> {
    let invalid = |key: &str, detail: String| Problem::bad_request("invalid_query", detail).key(key);
    let (mut wanted, mut payload) = (Wanted::default(), None);
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            "match" if wanted.patterns.len() >= limits::PATTERNS_MAX => {
                return Err(invalid("match", format!("a tail has at most {} `match`", limits::PATTERNS_MAX)));
            }
            "match" => {
                let unfit = |error| {
                    let detail = format!("match: {value:?}: {error}");
                    Problem::bad_request(Code::InvalidAddress.name(), detail).key("match")
                };
                wanted.patterns.push(Pattern::parse_scope(&value).map_err(unfit)?);
            }
            "from" if wanted.from.is_none() => wanted.from = Some(body::name("from", &value)?),
            "payload" if payload.is_none() => {
                let unfit = |_| invalid("payload", "payload is neither true nor false".to_owned());
                payload = Some(value.parse().map_err(unfit)?);
            }
            "from" | "payload" => return Err(invalid(&name, format!("{name} is there twice"))),
            _ => {
                let detail =
                    format!("unknown parameter `{name}`, expected one of `match`, `from`, `payload`");
                return Err(Problem::bad_request("invalid_query", detail));
            }
        }
    }
    wanted.payload = payload.unwrap_or(false);
    Ok(wanted)
}

/// The events as a body, which is asked for more when the reader has taken what was there.
struct Events {
    tail: Tail,
    /// What is to be written first.
    ready: Vec<u8>,
    silence: Pin<Box<Sleep>>,
}

impl Events {
    fn new(tail: Tail, ready: &Value) -> Self {
        let mut text = Vec::new();
        event("ready", ready, &mut text);
        Self { tail, ready: text, silence: Box::pin(sleep(limits::SILENCE_MAX)) }
    }

    /// The next piece; `None` at the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut piece = std::mem::take(&mut self.ready);
        let has_content = self.tail.wanted().payload;
        while piece.len() < limits::PIECE_BYTES {
            match self.tail.poll_next(context) {
                Poll::Ready(Some(Shown::Message(seen, index))) => {
                    if let Some(message) = Message::of(&seen, index, has_content) {
                        event("message", &message, &mut piece);
                    }
                }
                Poll::Ready(Some(Shown::Dropped(count))) => {
                    event("dropped", &json!({ "count": count }), &mut piece);
                }
                // What is there goes first; both are asked again.
                Poll::Ready(None) | Poll::Pending if !piece.is_empty() => break,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.silence.as_mut().poll(context));
                    piece.extend_from_slice(b":\n\n");
                    break;
                }
            }
        }
        self.silence.as_mut().reset(Instant::now() + limits::SILENCE_MAX);
        Poll::Ready(Some(piece))
    }
}

/// Appends an event; JSON has no line breaks.
fn event(name: &str, data: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    if serde_json::to_writer(&mut *out, data).is_ok() {
        out.extend_from_slice(b"\n\n");
    } else {
        out.truncate(start);
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_piece(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece.into()))))
    }
}
