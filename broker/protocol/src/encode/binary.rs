//! Broker frames of the binary profile.

use crate::meta::{
    self, CloseV1, ErrorV1, GoawayV1, MarkV1, OkV1, OverflowMoreV1, OverflowV1, PageV1, PresentUserV1,
    PresentV1, ReceiptV1, WelcomeMoreV1, WelcomeV1,
};
use crate::secret::Secret;
use crate::server::{Frame, HistoryHead, MessageFrame, Presence, PresenceChange, SentDictionary};
use crate::wire::{begin_frame, end_frame, flag, kind, len16, put_text16};
use waspmq_core::settings::Overflow;

pub(super) fn message(frame: &MessageFrame<'_>, out: &mut Vec<u8>) {
    let to = crate::error::prefix(frame.to, usize::from(u16::MAX));
    let from = crate::error::prefix(frame.from.unwrap_or_default(), usize::from(u16::MAX));
    out.reserve(128 + to.len() + from.len() + frame.headers.as_bytes().len() + frame.payload.len());
    let start = begin_frame(out, kind::MESSAGE);
    out.extend_from_slice(&flags(frame).to_le_bytes());
    out.extend_from_slice(&[frame.content.as_u8(), frame.priority]);
    out.extend_from_slice(&frame.id.to_bytes());
    out.extend_from_slice(&frame.position.stream.shard.to_le_bytes());
    out.extend_from_slice(&frame.position.stream.epoch.to_le_bytes());
    out.extend_from_slice(&frame.position.offset.to_le_bytes());
    out.extend_from_slice(&frame.unix_ms.to_le_bytes());
    out.extend_from_slice(&len16(to).to_le_bytes());
    out.extend_from_slice(&len16(from).to_le_bytes());
    out.extend_from_slice(to.as_bytes());
    out.extend_from_slice(from.as_bytes());
    for text in [frame.key, frame.reply_to, frame.queue].into_iter().flatten() {
        put_text16(out, text);
    }
    if let Some(attempt) = frame.attempt {
        out.extend_from_slice(&attempt.to_le_bytes());
    }
    if !frame.headers.is_empty() {
        out.extend_from_slice(frame.headers.as_bytes());
    }
    if let Some(packed) = frame.packed {
        packed.write(out);
    }
    out.extend_from_slice(frame.payload);
    end_frame(out, start);
}

const fn flags(frame: &MessageFrame<'_>) -> u16 {
    const fn flag_if(condition: bool, flag: u16) -> u16 {
        if condition { flag } else { 0 }
    }
    flag_if(frame.key.is_some(), flag::KEY)
        | flag_if(frame.reply_to.is_some(), flag::REPLY_TO)
        | flag_if(!frame.headers.is_empty(), flag::HEADERS)
        | flag_if(frame.queue.is_some(), flag::QUEUE)
        | flag_if(frame.attempt.is_some(), flag::ATTEMPT)
        | flag_if(frame.from.is_some(), flag::FROM)
        | flag_if(frame.wants_ack, flag::ACK)
        | flag_if(frame.packed.is_some(), flag::PACKED)
}

pub(super) fn control(frame: &Frame, out: &mut Vec<u8>) {
    let start = begin_frame(out, kind_of(frame));
    match frame {
        Frame::Welcome(frame) => {
            let body = WelcomeV1 {
                session: &frame.session,
                resume_token: frame.resume_token.as_ref().map(Secret::expose),
                node: &frame.node,
                resumed: frame.resumed,
                recovered: frame.recovered,
                heartbeat_ms: frame.heartbeat_ms,
                max_message_bytes: frame.max_message_bytes,
            };
            meta::write(body, out);
            meta::write(WelcomeMoreV1 { codecs: frame.codecs.iter().map(String::as_str).collect() }, out);
        }
        Frame::Receipt(frame) => meta::write(
            ReceiptV1 {
                reference: frame.reference,
                id: frame.id.to_bytes(),
                level: frame.level.as_u8(),
                recipients: frame.recipients,
            },
            out,
        ),
        Frame::Ok { reference } => meta::write(OkV1 { reference: *reference }, out),
        Frame::Error { reference, reject } => meta::write(
            ErrorV1 {
                reference: *reference,
                code: reject.code.number(),
                name: reject.code.name(),
                message: &reject.message,
                retry_ms: reject.retry_ms,
            },
            out,
        ),
        Frame::Overflow(frame) => {
            meta::write(OverflowV1 { to: &frame.to, dropped: frame.dropped }, out);
            meta::write(OverflowMoreV1 { action: frame.action.map(Overflow::as_str) }, out);
        }
        Frame::Presence(frame) => presence(frame, out),
        Frame::PresenceChange(frame) => presence_change(frame, out),
        Frame::Read(frame) => {
            let upto = frame.upto.to_string();
            meta::write(MarkV1 { of: &frame.of, upto: &upto, unread: frame.unread }, out);
        }
        Frame::Goaway(frame) => {
            meta::write(GoawayV1 { reason: &frame.reason, reconnect_ms: frame.reconnect_ms }, out);
        }
        Frame::Close(frame) => {
            meta::write(CloseV1 { code: frame.code, name: &frame.name, message: &frame.message }, out);
        }
        Frame::Pong => {}
    }
    end_frame(out, start);
}

pub(super) fn dictionary(frame: &SentDictionary, out: &mut Vec<u8>) {
    let start = begin_frame(out, kind::DICTIONARY);
    out.extend_from_slice(&frame.id.to_le_bytes());
    out.extend_from_slice(&frame.digest);
    out.extend_from_slice(&frame.bytes);
    end_frame(out, start);
}

fn presence(frame: &Presence, out: &mut Vec<u8>) {
    let (users, more) = frame.bounded();
    let users = users.iter().map(|user| PresentUserV1 {
        user: &user.user,
        online: user.online,
        sessions: user.sessions,
        last_seen: user.last_seen_unix_ms,
        seq: user.seq,
    });
    let body = PresentV1 { reference: frame.reference, of: Some(&frame.of), users: users.collect(), more };
    meta::write(body, out);
}

fn presence_change(frame: &PresenceChange, out: &mut Vec<u8>) {
    let user = PresentUserV1 {
        user: &frame.user,
        online: frame.online,
        sessions: 0,
        last_seen: frame.last_seen_unix_ms,
        seq: frame.seq,
    };
    meta::write(PresentV1 { reference: None, of: None, users: vec![user], more: false }, out);
}

/// The messages are written first, as only then their length is known, and the fields are put before them.
pub(super) fn history<'a>(
    head: &HistoryHead<'_>,
    messages: impl Iterator<Item = MessageFrame<'a>>,
    out: &mut Vec<u8>,
) {
    let start = begin_frame(out, kind::PAGE);
    let body_start = out.len();
    for frame in messages {
        message(&frame, out);
    }
    let page = PageV1 {
        reference: head.reference,
        of: head.of,
        more: head.more,
        gap: head.gap,
        unread: head.unread,
        messages_bytes: u32::try_from(out.len() - body_start).unwrap_or(u32::MAX),
    };
    let mut fields = Vec::new();
    meta::write(page, &mut fields);
    drop(out.splice(body_start..body_start, fields));
    end_frame(out, start);
}

const fn kind_of(frame: &Frame) -> u8 {
    match frame {
        Frame::Welcome(_) => kind::WELCOME,
        Frame::Receipt(_) => kind::RECEIPT,
        Frame::Ok { .. } => kind::OK,
        Frame::Error { .. } => kind::ERROR,
        Frame::Overflow(_) => kind::OVERFLOW,
        Frame::Presence(_) | Frame::PresenceChange(_) => kind::PRESENT,
        Frame::Read(_) => kind::MARK,
        Frame::Goaway(_) => kind::GOAWAY,
        Frame::Close(_) => kind::CLOSE,
        Frame::Pong => kind::PONG,
    }
}
