//! Broker frames of the binary profile, as a client reads them.

use super::check;
use crate::codec::DICTIONARY_BYTES_MAX;
use crate::error::{DecodeError, Problem};
use crate::headers;
use crate::meta::{
    self, CloseV1, ErrorV1, GoawayV1, MarkV1, OkV1, OverflowMoreV1, OverflowV1, PageV1, PresentUserV1,
    PresentV1, ReceiptV1, WelcomeMoreV1, WelcomeV1,
};
use crate::profile::{Content, Level};
use crate::secret::Secret;
use crate::server::{
    Close, Goaway, History, Message, Overflow, Presence, PresenceChange, Read, Receipt, Received, Refusal,
    SentDictionary, UserPresence, Welcome,
};
use crate::wire::{self, BODY_VERSION, Reader, flag, kind};
use waspmq_core::{MessageId, Position, Stream};

/// Reads the first frame of `bytes`: the frame and how many bytes it took.
///
/// # Errors
/// When the bytes do not begin with a whole frame, or a frame of a known type and version is not valid.
pub fn server_binary(bytes: &[u8]) -> Result<(Received, usize), DecodeError> {
    received(bytes).map_err(|problem| DecodeError::new(None, problem))
}

fn received(bytes: &[u8]) -> Result<(Received, usize), Problem> {
    let raw = wire::split(bytes)?;
    let received = if raw.version != BODY_VERSION {
        Received::Unknown { kind: format!("{:#04x} version {}", raw.kind, raw.version) }
    } else if raw.kind == kind::MESSAGE {
        Received::Message(message(raw.body)?)
    } else {
        control(raw.kind, raw.body)?
    };
    Ok((received, raw.consumed))
}

fn control(kind: u8, body: &[u8]) -> Result<Received, Problem> {
    Ok(match kind {
        kind::WELCOME => {
            let (body, rest): (WelcomeV1<'_>, _) = meta::read_front(body)?;
            let codecs = match rest {
                [] => Vec::new(),
                rest => meta::read::<WelcomeMoreV1<'_>>(rest)?.codecs,
            };
            check::list("codecs", &codecs)?;
            Received::Welcome(Welcome {
                session: body.session.to_owned(),
                resume_token: body.resume_token.map(|token| Secret::new(token.to_owned())),
                node: body.node.to_owned(),
                resumed: body.resumed,
                recovered: body.recovered,
                heartbeat_ms: body.heartbeat_ms,
                max_message_bytes: body.max_message_bytes,
                codecs: codecs.into_iter().map(str::to_owned).collect(),
            })
        }
        kind::RECEIPT => {
            let ReceiptV1 { reference, id, level, recipients } = meta::read(body)?;
            let level =
                Level::from_u8(level).ok_or_else(|| Problem::invalid("unknown level in a receipt"))?;
            Received::Receipt(Receipt { reference, id: MessageId::from_bytes(id), level, recipients })
        }
        kind::OK => {
            let OkV1 { reference } = meta::read(body)?;
            Received::Ok { reference }
        }
        kind::ERROR => {
            let ErrorV1 { reference, code, name, message, retry_ms } = meta::read(body)?;
            let (name, message) = (name.to_owned(), message.to_owned());
            Received::Error { reference, refusal: Refusal { number: code, name, message, retry_ms } }
        }
        kind::OVERFLOW => {
            let (OverflowV1 { to, dropped }, rest) = meta::read_front(body)?;
            let action = match rest {
                [] => None,
                rest => meta::read::<OverflowMoreV1<'_>>(rest)?.action.and_then(check::action),
            };
            Received::Overflow(Overflow { to: to.to_owned(), dropped, action })
        }
        kind::PRESENT => presence(&meta::read_present(body)?)?,
        kind::PAGE => Received::History(history(body)?),
        kind::MARK => {
            let MarkV1 { of, upto, unread } = meta::read(body)?;
            Received::Read(Read { of: of.to_owned(), upto: check::position("upto", upto)?, unread })
        }
        kind::GOAWAY => {
            let GoawayV1 { reason, reconnect_ms } = meta::read(body)?;
            Received::Goaway(Goaway { reason: reason.to_owned(), reconnect_ms })
        }
        kind::CLOSE => {
            let CloseV1 { code, name, message } = meta::read(body)?;
            Received::Close(Close { code, name: name.to_owned(), message: message.to_owned() })
        }
        kind::DICTIONARY => Received::Dictionary(dictionary(body)?),
        kind::PONG => Received::Pong,
        unknown => Received::Unknown { kind: format!("{unknown:#04x}") },
    })
}

/// `id u32 | digest 32 bytes | the dictionary`.
fn dictionary(body: &[u8]) -> Result<SentDictionary, Problem> {
    let early = || Problem::invalid("the body of dictionary ends early");
    let mut reader = Reader::new(body);
    let (id, digest) = (reader.u32().ok_or_else(early)?, reader.array().ok_or_else(early)?);
    let bytes = reader.rest();
    if bytes.len() > DICTIONARY_BYTES_MAX {
        return Err(Problem::invalid(format!("a dictionary of {} bytes", bytes.len())));
    }
    Ok(SentDictionary { id, digest, bytes: bytes.to_vec() })
}

fn presence(body: &PresentV1<'_>) -> Result<Received, Problem> {
    let user = |user: &PresentUserV1<'_>| UserPresence {
        user: user.user.to_owned(),
        online: user.online,
        sessions: user.sessions,
        last_seen_unix_ms: user.last_seen,
        seq: user.seq,
    };
    match (body.of, &*body.users) {
        (Some(of), users) => Ok(Received::Presence(Presence {
            reference: body.reference,
            of: of.to_owned(),
            users: users.iter().map(user).collect(),
            more: body.more,
        })),
        (None, [one]) => Ok(Received::PresenceChange(PresenceChange {
            user: one.user.to_owned(),
            online: one.online,
            last_seen_unix_ms: one.last_seen,
            seq: one.seq,
        })),
        (None, _) => Err(Problem::invalid("a presence event has exactly one user")),
    }
}

fn history(body: &[u8]) -> Result<History, Problem> {
    let (page, rest): (PageV1<'_>, _) = meta::read_front(body)?;
    let skipped = rest.len().checked_sub(page.messages_bytes as usize);
    let Some((_appended, mut frames)) = skipped.and_then(|skipped| rest.split_at_checked(skipped)) else {
        return Err(Problem::invalid("the messages of a history answer are longer than the frame"));
    };
    let mut messages = Vec::new();
    while !frames.is_empty() {
        let raw = wire::split(frames)?;
        if raw.kind != kind::MESSAGE {
            return Err(Problem::invalid("something else than a message in a history answer"));
        }
        // A message of a later body version is one of those that a client skips.
        if raw.version == BODY_VERSION {
            messages.push(message(raw.body)?);
        }
        frames = frames.get(raw.consumed..).unwrap_or_default();
    }
    Ok(History {
        reference: page.reference,
        of: page.of.to_owned(),
        messages,
        more: page.more,
        gap: page.gap,
        unread: page.unread,
    })
}

fn message(body: &[u8]) -> Result<Message, Problem> {
    let early = || Problem::invalid("the body of message ends early or a text in it is not UTF-8");
    let mut reader = Reader::new(body);
    let flags = reader.u16().ok_or_else(early)?;
    let [content, priority] = reader.array().ok_or_else(early)?;
    if flags & !flag::MESSAGE != 0 {
        return Err(Problem::invalid(format!("unknown flags {flags:#06x}")));
    }
    let content = Content::from_u8(content).ok_or_else(|| Problem::invalid("unknown content type"))?;
    let mut message = head(&mut reader, flags, content).ok_or_else(early)?;
    message.priority = priority;
    if flags & flag::HEADERS != 0 {
        let pairs = headers::read(&mut reader)?;
        message.headers =
            pairs.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    }
    if flags & flag::PACKED != 0 {
        message.packed = Some(check::packed(&mut reader)?);
    }
    message.payload = reader.rest().to_vec();
    Ok(message)
}

/// Everything between the first four bytes and the headers.
fn head(reader: &mut Reader<'_>, flags: u16, content: Content) -> Option<Message> {
    let has = |flag: u16| flags & flag != 0;
    let id = MessageId::from_bytes(reader.array()?);
    let stream = Stream { shard: reader.u16()?, epoch: reader.u32()? };
    let position = Position { stream, offset: reader.u64()? };
    let unix_ms = reader.u64()?;
    let (to_len, from_len) = (reader.u16()?, reader.u16()?);
    let to = reader.text(usize::from(to_len))?.to_owned();
    let from = reader.text(usize::from(from_len))?;
    let mut text = |flag| match has(flag) {
        true => reader.text16().map(|text| Some(text.to_owned())),
        false => Some(None),
    };
    let (key, reply_to, queue) = (text(flag::KEY)?, text(flag::REPLY_TO)?, text(flag::QUEUE)?);
    let attempt = if has(flag::ATTEMPT) { Some(reader.u16()?) } else { None };
    Some(Message {
        id,
        to,
        from: has(flag::FROM).then(|| from.to_owned()),
        position,
        content,
        payload: Vec::new(),
        packed: None,
        headers: Vec::new(),
        key,
        priority: 0,
        reply_to,
        queue,
        attempt,
        wants_ack: has(flag::ACK),
        unix_ms,
    })
}
