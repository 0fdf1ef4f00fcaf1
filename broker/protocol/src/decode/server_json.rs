//! Broker frames of the JSON profile, as a client reads them.

mod answers;

use super::fields::{Raw, Text, headers, maybe_bool, maybe_number, maybe_text, need, parse, present, text};
use super::{check, json};
use crate::error::{DecodeError, Problem};
use crate::payload::PayloadError;
use crate::profile::{Content, Level};
use crate::secret::Secret;
use crate::server::{Close, Goaway, Message, Overflow, Read, Receipt, Received, Refusal, Welcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::borrow::Cow;
use waspmq_core::MessageId;

/// Reads the first frame of `text`: the frame and how many bytes it took, white space behind it included.
///
/// # Errors
/// When the text does not begin with a whole JSON value, or a frame of a known type is not valid.
pub fn server_json(text: &[u8]) -> Result<(Received, usize), DecodeError> {
    let fail = |problem| DecodeError::new(None, problem);
    let text = std::str::from_utf8(text).map_err(|_| fail(Problem::NotUtf8))?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let received = match values.next() {
        Some(Ok(fields)) if json::is_object(text) => build(&fields).map_err(fail)?,
        Some(Ok(_)) => return Err(fail(Problem::invalid("a frame is an object"))),
        Some(Err(error)) => return Err(fail(Problem::invalid(error.to_string()))),
        None => return Err(fail(Problem::invalid("no frame"))),
    };
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    Ok((received, text.len() - rest.trim_ascii_start().len()))
}

/// Every field any broker frame has.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(rename = "ref", borrow)]
    reference: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    to: Raw<'a>,
    #[serde(borrow)]
    from: Raw<'a>,
    #[serde(borrow)]
    pos: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Raw<'a>,
    #[serde(borrow)]
    payload_b64: Raw<'a>,
    #[serde(borrow)]
    headers: Raw<'a>,
    #[serde(borrow)]
    ts: Raw<'a>,
    #[serde(borrow)]
    key: Raw<'a>,
    #[serde(borrow)]
    priority: Raw<'a>,
    #[serde(borrow)]
    reply_to: Raw<'a>,
    #[serde(borrow)]
    queue: Raw<'a>,
    #[serde(borrow)]
    attempt: Raw<'a>,
    #[serde(borrow)]
    level: Raw<'a>,
    #[serde(borrow)]
    recipients: Raw<'a>,
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    retry_ms: Raw<'a>,
    #[serde(borrow)]
    dropped: Raw<'a>,
    #[serde(borrow)]
    reason: Raw<'a>,
    #[serde(borrow)]
    reconnect_ms: Raw<'a>,
    #[serde(borrow)]
    session: Raw<'a>,
    #[serde(borrow)]
    resume_token: Raw<'a>,
    #[serde(borrow)]
    node: Raw<'a>,
    #[serde(borrow)]
    resumed: Raw<'a>,
    #[serde(borrow)]
    recovered: Raw<'a>,
    #[serde(borrow)]
    heartbeat_ms: Raw<'a>,
    #[serde(borrow)]
    limits: Raw<'a>,
    #[serde(borrow)]
    ack: Raw<'a>,
    #[serde(borrow)]
    action: Raw<'a>,
    #[serde(borrow)]
    of: Raw<'a>,
    #[serde(borrow)]
    messages: Raw<'a>,
    #[serde(borrow)]
    more: Raw<'a>,
    #[serde(borrow)]
    gap: Raw<'a>,
    #[serde(borrow)]
    unread: Raw<'a>,
    #[serde(borrow)]
    upto: Raw<'a>,
    #[serde(borrow)]
    users: Raw<'a>,
    #[serde(borrow)]
    user: Raw<'a>,
    #[serde(borrow)]
    online: Raw<'a>,
    #[serde(borrow)]
    last_seen: Raw<'a>,
    #[serde(borrow)]
    seq: Raw<'a>,
}

#[derive(Deserialize)]
struct LimitFields<'a> {
    #[serde(borrow)]
    max_message_bytes: Raw<'a>,
}

fn build(fields: &Fields<'_>) -> Result<Received, Problem> {
    let kind = need(fields.kind.as_ref(), "type")?;
    Ok(match kind.0.as_ref() {
        "message" => Received::Message(message(fields)?),
        "receipt" => Received::Receipt(Receipt {
            reference: number(fields.reference, "ref")?,
            id: id(fields)?,
            level: Level::parse(&text(fields.level, "level")?)
                .ok_or_else(|| Problem::invalid("unknown level in a receipt"))?,
            recipients: number(fields.recipients, "recipients")?,
        }),
        "ok" => Received::Ok { reference: maybe_number(fields.reference, "ref")? },
        "error" => Received::Error {
            reference: maybe_number(fields.reference, "ref")?,
            refusal: Refusal {
                number: number(fields.code, "code")?,
                name: maybe_owned(fields.name, "name")?.unwrap_or_default(),
                message: maybe_owned(fields.message, "message")?.unwrap_or_default(),
                retry_ms: maybe_number(fields.retry_ms, "retry_ms")?.unwrap_or(0),
            },
        },
        "overflow" => Received::Overflow(Overflow {
            to: owned(fields.to, "to")?,
            dropped: number(fields.dropped, "dropped")?,
            action: maybe_text(fields.action, "action")?.and_then(|text| check::action(&text)),
        }),
        "history" => Received::History(answers::history(fields)?),
        "presence" if fields.users.is_some() => Received::Presence(answers::presence(fields)?),
        "presence" => Received::PresenceChange(answers::presence_change(fields)?),
        "read" => Received::Read(Read {
            of: owned(fields.of, "of")?,
            upto: check::position("upto", &text(fields.upto, "upto")?)?,
            unread: maybe_number(fields.unread, "unread")?,
        }),
        "goaway" => Received::Goaway(Goaway {
            reason: maybe_owned(fields.reason, "reason")?.unwrap_or_default(),
            reconnect_ms: maybe_number(fields.reconnect_ms, "reconnect_ms")?.unwrap_or(0),
        }),
        "close" => Received::Close(Close {
            code: number(fields.code, "code")?,
            name: maybe_owned(fields.name, "name")?.unwrap_or_default(),
            message: maybe_owned(fields.message, "message")?.unwrap_or_default(),
        }),
        "pong" => Received::Pong,
        "welcome" => Received::Welcome(welcome(fields)?),
        unknown => Received::Unknown { kind: unknown.to_owned() },
    })
}

fn welcome(fields: &Fields<'_>) -> Result<Welcome, Problem> {
    let limits: LimitFields<'_> = parse(need(fields.limits, "limits")?, "limits")?;
    Ok(Welcome {
        session: owned(fields.session, "session")?,
        resume_token: maybe_owned(fields.resume_token, "resume_token")?.map(Secret::new),
        node: owned(fields.node, "node")?,
        resumed: need(maybe_bool(fields.resumed, "resumed")?, "resumed")?,
        recovered: need(maybe_bool(fields.recovered, "recovered")?, "recovered")?,
        heartbeat_ms: number(fields.heartbeat_ms, "heartbeat_ms")?,
        max_message_bytes: number(limits.max_message_bytes, "limits.max_message_bytes")?,
        codecs: Vec::new(),
    })
}

fn message(fields: &Fields<'_>) -> Result<Message, Problem> {
    let (content, payload) = match fields.payload {
        Some(raw) => (Content::Json, raw.get().as_bytes().to_vec()),
        None if fields.payload_b64.is_none() => return Err(Problem::missing("payload")),
        None => {
            let text = text(fields.payload_b64, "payload_b64")?;
            (Content::Bytes, STANDARD.decode(text.as_bytes()).map_err(|_| PayloadError::NotBase64)?)
        }
    };
    let headers = headers(fields.headers)?;
    Ok(Message {
        id: id(fields)?,
        to: owned(fields.to, "to")?,
        from: maybe_owned(fields.from, "from")?,
        position: check::position("pos", &text(fields.pos, "pos")?)?,
        content,
        payload,
        packed: None,
        headers: headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        key: maybe_owned(fields.key, "key")?,
        priority: maybe_number(fields.priority, "priority")?.unwrap_or(0),
        reply_to: maybe_owned(fields.reply_to, "reply_to")?,
        queue: maybe_owned(fields.queue, "queue")?,
        attempt: maybe_number(fields.attempt, "attempt")?,
        wants_ack: maybe_bool(fields.ack, "ack")?.unwrap_or(false),
        unix_ms: number(fields.ts, "ts")?,
    })
}

fn id(fields: &Fields<'_>) -> Result<MessageId, Problem> {
    text(fields.id, "id")?.parse().map_err(|_| Problem::invalid("`id` is not a message id"))
}

fn number<N: TryFrom<u64>>(field: Raw<'_>, name: &str) -> Result<N, Problem> {
    need(maybe_number(field, name)?, name)
}

fn maybe_owned(field: Raw<'_>, name: &str) -> Result<Option<String>, Problem> {
    maybe_text(field, name).map(|text| text.map(Cow::into_owned))
}

fn owned(field: Raw<'_>, name: &str) -> Result<String, Problem> {
    text(field, name).map(Cow::into_owned)
}
