//! Client frames of the JSON profile.
//!
//! One pass into one flat struct of raw values: serde's tagged enums would copy every frame into a tree first.
//! Values are skipped without recursion, however deep they are.

use super::check;
use super::fields::{
    Raw, Text, headers, maybe_bool, maybe_list, maybe_number, maybe_text, need, parse, present, text,
};
use crate::client::{Acked, Connect, Frame, Publish, Resume};
use crate::error::{DecodeError, Problem};
use crate::payload::{self, PayloadError};
use crate::profile::{Content, Level};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use waspmq_core::MessageId;

/// Reads one frame that fills `text`, but for white space around it.
///
/// # Errors
/// When the text is not exactly one valid client frame.
pub fn json(text: &[u8]) -> Result<Frame<'_>, DecodeError> {
    match std::str::from_utf8(text) {
        Ok(text) => frame(serde_json::from_str(text), text),
        Err(_) => Err(DecodeError::new(None, Problem::NotUtf8)),
    }
}

/// Makes a frame of the fields found in `text`.
pub(super) fn frame<'a>(
    fields: serde_json::Result<Fields<'a>>,
    text: &str,
) -> Result<Frame<'a>, DecodeError> {
    match fields {
        _ if !is_object(text) => Err(DecodeError::new(None, Problem::invalid("a frame is a JSON object"))),
        Ok(fields) => {
            let reference = fields.reference;
            let is_connect = fields.kind.as_ref().is_some_and(|kind| kind.0 == CONNECT);
            build(fields).map_err(|problem| DecodeError::new(reference, problem).of_connect(is_connect))
        }
        Err(error) => {
            let Known { reference, is_connect } = known_of(text);
            let problem = Problem::invalid(error.to_string());
            Err(DecodeError::new(reference, problem).of_connect(is_connect))
        }
    }
}

const CONNECT: &str = "connect";

/// Whether `text` begins with an object; serde also takes an array of all fields for a struct.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_ascii_start().starts_with('{')
}

/// What is known of a frame that has a fault in another field.
#[derive(Default)]
struct Known {
    reference: Option<u64>,
    is_connect: bool,
}

fn known_of(text: &str) -> Known {
    #[derive(serde::Deserialize)]
    struct Found<'a> {
        #[serde(rename = "ref", borrow)]
        reference: Raw<'a>,
        #[serde(rename = "type", borrow)]
        kind: Raw<'a>,
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Found<'_>>();
    let Some(Ok(Found { reference, kind })) = values.next() else { return Known::default() };
    let is_connect = matches!(maybe_text(kind, "type"), Ok(Some(kind)) if kind == CONNECT);
    Known { reference: maybe_number(reference, "ref").ok().flatten(), is_connect }
}

/// Every field any client frame has.
#[derive(serde::Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    #[serde(rename = "ref")]
    reference: Option<u64>,
    #[serde(borrow)]
    to: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Raw<'a>,
    #[serde(borrow)]
    payload_b64: Raw<'a>,
    #[serde(borrow)]
    headers: Raw<'a>,
    #[serde(borrow)]
    ack: Raw<'a>,
    #[serde(borrow)]
    dedup: Raw<'a>,
    #[serde(borrow)]
    ttl_ms: Raw<'a>,
    #[serde(borrow)]
    delay_ms: Raw<'a>,
    #[serde(borrow)]
    priority: Raw<'a>,
    #[serde(borrow)]
    key: Raw<'a>,
    #[serde(borrow)]
    reply_to: Raw<'a>,
    #[serde(borrow)]
    exclude_self: Raw<'a>,
    #[serde(borrow)]
    queue: Raw<'a>,
    #[serde(borrow)]
    from: Raw<'a>,
    #[serde(borrow)]
    group: Raw<'a>,
    #[serde(borrow)]
    ids: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    upto: Raw<'a>,
    #[serde(borrow)]
    reason: Raw<'a>,
    #[serde(borrow)]
    retry_ms: Raw<'a>,
    #[serde(borrow)]
    of: Raw<'a>,
    #[serde(borrow)]
    after: Raw<'a>,
    #[serde(borrow)]
    limit: Raw<'a>,
    #[serde(borrow)]
    users: Raw<'a>,
    #[serde(borrow)]
    user: Raw<'a>,
    #[serde(borrow)]
    device: Raw<'a>,
    #[serde(borrow)]
    token: Raw<'a>,
    #[serde(borrow)]
    codecs: Raw<'a>,
    #[serde(borrow)]
    batch: Raw<'a>,
    #[serde(borrow)]
    resume: Raw<'a>,
    #[serde(borrow)]
    datagrams: Raw<'a>,
    #[serde(borrow)]
    streams: Raw<'a>,
}

#[derive(serde::Deserialize)]
struct ResumeFields<'a> {
    #[serde(borrow)]
    token: Raw<'a>,
    #[serde(borrow)]
    positions: Raw<'a>,
}

fn build(fields: Fields<'_>) -> Result<Frame<'_>, Problem> {
    let kind = need(fields.kind.as_ref().map(|kind| kind.0.as_ref()), "type")?;
    let reference = fields.reference;
    Ok(match kind {
        "publish" => publish(&fields)?,
        CONNECT => connect(&fields)?,
        "subscribe" => Frame::Subscribe {
            reference,
            to: text(fields.to, "to")?,
            queue: maybe_text(fields.queue, "queue")?,
            from: maybe_text(fields.from, "from")?,
        },
        "unsubscribe" => {
            let queue = maybe_text(fields.queue, "queue")?;
            Frame::Unsubscribe { reference, to: text(fields.to, "to")?, queue }
        }
        "join" => Frame::Join { reference, group: text(fields.group, "group")? },
        "leave" => Frame::Leave { reference, group: text(fields.group, "group")? },
        "ack" => ack(&fields)?,
        "nack" => Frame::Nack {
            reference,
            id: message_id(&text(fields.id, "id")?)?,
            queue: maybe_text(fields.queue, "queue")?,
            reason: maybe_text(fields.reason, "reason")?,
            retry_ms: maybe_number(fields.retry_ms, "retry_ms")?,
        },
        "history" => {
            let after = maybe_text(fields.after, "after")?;
            let after = after.map(|text| check::position("after", &text)).transpose()?;
            let limit = maybe_number(fields.limit, "limit")?;
            Frame::History { reference, of: text(fields.of, "of")?, after, limit }
        }
        "read" => {
            let upto = check::position("upto", &text(fields.upto, "upto")?)?;
            Frame::Read { reference, of: text(fields.of, "of")?, upto }
        }
        "presence" => {
            let after = maybe_text(fields.after, "after")?;
            Frame::Presence { reference, of: text(fields.of, "of")?, after }
        }
        "watch" => Frame::Watch { reference, users: need(maybe_list(fields.users, "users")?, "users")? },
        "refresh" => Frame::Refresh { reference, token: Secret::new(text(fields.token, "token")?) },
        "ping" => Frame::Ping,
        "disconnect" => Frame::Disconnect,
        unknown => return Err(Problem::unknown_type(unknown)),
    })
}

fn publish<'a>(fields: &Fields<'a>) -> Result<Frame<'a>, Problem> {
    let (content, payload) = match (fields.payload, fields.payload_b64) {
        (Some(raw), None) => (Content::Json, payload::validate_text(raw.get())?),
        (None, Some(_)) => {
            let text = text(fields.payload_b64, "payload_b64")?;
            let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| PayloadError::NotBase64)?;
            (Content::Bytes, Cow::Owned(bytes))
        }
        (None, None) => return Err(Problem::missing("payload")),
        (Some(_), Some(_)) => return Err(Problem::invalid("both `payload` and `payload_b64`")),
    };
    let headers = headers(fields.headers)?;
    crate::headers::check(&headers)?;
    check::publish(Publish {
        reference: fields.reference,
        to: text(fields.to, "to")?,
        content,
        payload,
        packed: None,
        headers,
        ack: level(fields)?,
        dedup: maybe_text(fields.dedup, "dedup")?,
        ttl_ms: maybe_number(fields.ttl_ms, "ttl_ms")?,
        delay_ms: maybe_number(fields.delay_ms, "delay_ms")?.unwrap_or(0),
        priority: maybe_number(fields.priority, "priority")?.unwrap_or(0),
        key: maybe_text(fields.key, "key")?,
        reply_to: maybe_text(fields.reply_to, "reply_to")?,
        exclude_self: maybe_bool(fields.exclude_self, "exclude_self")?.unwrap_or(false),
    })
}

fn level(fields: &Fields<'_>) -> Result<Level, Problem> {
    match maybe_text(fields.ack, "ack")? {
        Some(text) => Level::parse(&text)
            .ok_or_else(|| Problem::invalid("`ack` must be `none`, `accepted`, `stored` or `delivered`")),
        None => Ok(Level::implied(fields.reference.is_some())),
    }
}

fn connect<'a>(fields: &Fields<'a>) -> Result<Frame<'a>, Problem> {
    Ok(Frame::Connect(Connect {
        user: maybe_text(fields.user, "user")?,
        device: maybe_text(fields.device, "device")?,
        token: maybe_text(fields.token, "token")?.map(Secret::new),
        codecs: maybe_list(fields.codecs, "codecs")?.unwrap_or_default(),
        batch: maybe_bool(fields.batch, "batch")?.unwrap_or(false),
        resume: fields.resume.map(resume).transpose()?,
        datagrams: maybe_bool(fields.datagrams, "datagrams")?.unwrap_or(false),
        streams: maybe_bool(fields.streams, "streams")?.unwrap_or(false),
    }))
}

fn resume(raw: &RawValue) -> Result<Resume<'_>, Problem> {
    if !is_object(raw.get()) {
        return Err(Problem::invalid("`resume` is not an object"));
    }
    let fields: ResumeFields<'_> = parse(raw, "resume")?;
    let positions = maybe_list(fields.positions, "resume.positions")?.unwrap_or_default();
    let positions = check::positions(positions.iter().map(AsRef::as_ref))?;
    Ok(Resume { token: Secret::new(text(fields.token, "resume.token")?), positions })
}

fn ack<'a>(fields: &Fields<'a>) -> Result<Frame<'a>, Problem> {
    let ids = maybe_list(fields.ids, "ids")?;
    let (to, upto) = (maybe_text(fields.to, "to")?, maybe_text(fields.upto, "upto")?);
    let what = match (ids, to, upto) {
        (Some(ids), None, None) if !ids.is_empty() => {
            Acked::Ids(ids.iter().map(|id| message_id(id)).collect::<Result<_, _>>()?)
        }
        (None, Some(to), Some(upto)) if fields.queue.is_none() => {
            Acked::UpTo { to, upto: check::position("upto", &upto)? }
        }
        _ => return Err(Problem::invalid(check::ACK_SHAPE)),
    };
    Ok(Frame::Ack { reference: fields.reference, what, queue: maybe_text(fields.queue, "queue")? })
}

fn message_id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| Problem::invalid("a message id has 32 hexadecimal digits"))
}

/// How many bytes the first JSON value of `text` takes, when there is a well-formed one.
pub(super) fn value_len(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}
