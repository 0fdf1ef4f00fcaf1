//! Client frames of the binary profile. Everything borrows; only lists and headers allocate.

use super::check;
use crate::client::{Acked, Connect, Frame, Publish, Resume};
use crate::error::{DecodeError, Problem};
use crate::headers;
use crate::meta::{self, AckV1, ConnectV1, HistoryV1, MembershipV1, NackV1, PresenceV1, ReadV1, RefreshV1};
use crate::meta::{ConnectMoreV1, ConnectMoreV2, PresenceMoreV1, SubscribeV1, UnsubscribeV1, WatchV1};
use crate::payload;
use crate::profile::{Content, Level};
use crate::secret::Secret;
use crate::wire::{self, BODY_VERSION, Raw, Reader, flag, kind};
use std::borrow::Cow;
use waspmq_core::MessageId;

/// Reads one frame that fills `bytes`.
///
/// # Errors
/// When the bytes are not exactly one valid client frame.
pub fn binary(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let raw = wire::split(bytes).map_err(|problem| DecodeError::new(None, problem))?;
    if raw.consumed != bytes.len() {
        let text = format!("{} bytes follow the frame", bytes.len() - raw.consumed);
        return Err(DecodeError::new(None, Problem::invalid(text)));
    }
    frame(raw)
}

/// Reads a frame that was split off.
pub(super) fn frame(raw: Raw<'_>) -> Result<Frame<'_>, DecodeError> {
    if !(kind::CONNECT..=kind::DISCONNECT).contains(&raw.kind) {
        return Err(DecodeError::new(None, Problem::unknown_type(&format!("{:#04x}", raw.kind))));
    }
    if raw.version != BODY_VERSION {
        let text = format!("body version {} of frame type {:#04x} is not known", raw.version, raw.kind);
        return Err(DecodeError::new(None, Problem::invalid(text)).of_connect(raw.kind == kind::CONNECT));
    }
    if raw.kind == kind::PUBLISH {
        return publish(raw.body);
    }
    control(raw.kind, raw.body).map_err(|problem| {
        let is_connect = raw.kind == kind::CONNECT;
        let reference = if is_connect { None } else { meta::read_reference(raw.body) };
        DecodeError::new(reference, problem).of_connect(is_connect)
    })
}

fn control(kind: u8, body: &[u8]) -> Result<Frame<'_>, Problem> {
    Ok(match kind {
        kind::CONNECT => {
            let (front, rest) = meta::read_front(body)?;
            let (ConnectMoreV1 { datagrams }, rest) = meta::read_appended(rest)?;
            let (ConnectMoreV2 { streams }, _rest) = meta::read_appended(rest)?;
            connect(front, (datagrams, streams))?
        }
        kind::SUBSCRIBE => {
            let SubscribeV1 { reference, to, queue, from } = meta::read(body)?;
            Frame::Subscribe {
                reference,
                to: to.into(),
                queue: queue.map(Cow::from),
                from: from.map(Cow::from),
            }
        }
        kind::UNSUBSCRIBE => {
            let UnsubscribeV1 { reference, to, queue } = meta::read(body)?;
            Frame::Unsubscribe { reference, to: to.into(), queue: queue.map(Cow::from) }
        }
        kind::JOIN => {
            let MembershipV1 { reference, group } = meta::read(body)?;
            Frame::Join { reference, group: group.into() }
        }
        kind::LEAVE => {
            let MembershipV1 { reference, group } = meta::read(body)?;
            Frame::Leave { reference, group: group.into() }
        }
        kind::ACK => ack(meta::read(body)?)?,
        kind::NACK => {
            let NackV1 { reference, id, queue, reason, retry_ms } = meta::read(body)?;
            let (queue, reason) = (queue.map(Cow::from), reason.map(Cow::from));
            Frame::Nack { reference, id: MessageId::from_bytes(id), queue, reason, retry_ms }
        }
        kind::HISTORY => {
            let HistoryV1 { reference, of, after, limit } = meta::read(body)?;
            let after = after.map(|text| check::position("after", text)).transpose()?;
            Frame::History { reference, of: of.into(), after, limit }
        }
        kind::READ => {
            let ReadV1 { reference, of, upto } = meta::read(body)?;
            Frame::Read { reference, of: of.into(), upto: check::position("upto", upto)? }
        }
        kind::PRESENCE => {
            let (PresenceV1 { reference, of }, rest) = meta::read_front(body)?;
            let after = match rest {
                [] => None,
                rest => meta::read::<PresenceMoreV1<'_>>(rest)?.after,
            };
            Frame::Presence { reference, of: of.into(), after: after.map(Cow::from) }
        }
        kind::WATCH => {
            let WatchV1 { reference, users } = meta::read(body)?;
            check::list("users", &users)?;
            Frame::Watch { reference, users: users.into_iter().map(Cow::from).collect() }
        }
        kind::REFRESH => {
            let RefreshV1 { reference, token } = meta::read(body)?;
            Frame::Refresh { reference, token: Secret::new(token) }
        }
        kind::PING => Frame::Ping,
        _ => Frame::Disconnect,
    })
}

fn connect(body: ConnectV1<'_>, (datagrams, streams): (bool, bool)) -> Result<Frame<'_>, Problem> {
    check::list("codecs", &body.codecs)?;
    let resume = match body.resume {
        Some(resume) => {
            check::list("positions", &resume.positions)?;
            let positions = check::positions(resume.positions.into_iter())?;
            Some(Resume { token: Secret::new(resume.token), positions })
        }
        None => None,
    };
    Ok(Frame::Connect(Connect {
        user: body.user.map(Cow::from),
        device: body.device.map(Cow::from),
        token: body.token.map(Secret::new),
        codecs: body.codecs.into_iter().map(Cow::from).collect(),
        batch: body.batch,
        resume,
        datagrams,
        streams,
    }))
}

fn ack(body: AckV1<'_>) -> Result<Frame<'_>, Problem> {
    let AckV1 { reference, ids, to, upto, queue } = body;
    check::list("ids", &ids)?;
    let what = match (ids.is_empty(), to, upto) {
        (false, None, None) => Acked::Ids(ids.into_iter().map(MessageId::from_bytes).collect()),
        (true, Some(to), Some(upto)) if queue.is_none() => {
            Acked::UpTo { to: to.into(), upto: check::position("upto", upto)? }
        }
        _ => return Err(Problem::invalid(check::ACK_SHAPE)),
    };
    Ok(Frame::Ack { reference, what, queue: queue.map(Cow::from) })
}

fn publish(body: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let Some(head) = Head::read(&mut reader) else {
        return Err(DecodeError::new(None, Problem::invalid("the body of publish ends inside its header")));
    };
    publish_rest(&head, reader).map_err(|problem| DecodeError::new(head.reference, problem))
}

/// The fixed part of a publish body and the reference behind it.
struct Head {
    flags: u16,
    content: u8,
    ack: u8,
    priority: u8,
    reserved: u8,
    to_len: u16,
    reference: Option<u64>,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let flags = reader.u16()?;
        let [content, ack, priority, reserved] = reader.array()?;
        let to_len = reader.u16()?;
        let reference = if flags & flag::REFERENCE == 0 { None } else { Some(reader.u64()?) };
        Some(Self { flags, content, ack, priority, reserved, to_len, reference })
    }
}

fn publish_rest<'a>(head: &Head, mut reader: Reader<'a>) -> Result<Frame<'a>, Problem> {
    let has = |flag: u16| head.flags & flag != 0;
    if has(!flag::PUBLISH) || head.reserved != 0 {
        return Err(Problem::invalid(format!("unknown flags {:#06x} or reserved byte set", head.flags)));
    }
    let content = Content::from_u8(head.content).ok_or_else(|| Problem::invalid("unknown content type"))?;
    let ack = Level::from_u8(head.ack).ok_or_else(|| Problem::invalid("unknown ack level"))?;
    let early = || Problem::invalid("the body of publish ends early or a text in it is not UTF-8");
    let mut number = |flag| if has(flag) { reader.u64().ok_or_else(early).map(Some) } else { Ok(None) };
    let (ttl_ms, delay_ms) = (number(flag::TTL)?, number(flag::DELAY)?.unwrap_or(0));
    let to = reader.text(usize::from(head.to_len)).ok_or_else(early)?;
    let mut text = |flag| match has(flag).then(|| reader.text16().ok_or_else(early)) {
        Some(text) => text.map(|text| Some(Cow::Borrowed(text))),
        None => Ok(None),
    };
    let (dedup, key, reply_to) = (text(flag::DEDUP)?, text(flag::KEY)?, text(flag::REPLY_TO)?);
    let headers = if has(flag::HEADERS) { headers::read(&mut reader)? } else { Vec::new() };
    let packed = if has(flag::PACKED) { Some(check::packed(&mut reader)?) } else { None };
    check::publish(Publish {
        reference: head.reference,
        to: to.into(),
        content,
        payload: match packed {
            Some(_) => reader.rest().into(),
            None => payload::one_line(content, reader.rest())?,
        },
        packed,
        headers,
        ack,
        dedup,
        ttl_ms,
        delay_ms,
        priority: head.priority,
        key,
        reply_to,
        exclude_self: has(flag::EXCLUDE_SELF),
    })
}
