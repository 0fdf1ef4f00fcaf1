//! Client frames of the binary profile, for client libraries and tests. The frame was checked before.

use crate::client::{Acked, Connect, Frame, Publish};
use crate::meta::{
    self, AckV1, ConnectMoreV1, ConnectMoreV2, ConnectV1, HistoryV1, MembershipV1, NackV1, PresenceMoreV1,
    PresenceV1, ReadV1, RefreshV1, ResumeV1, SubscribeV1, UnsubscribeV1, WatchV1,
};
use crate::secret::Secret;
use crate::wire::{begin_frame, end_frame, flag, kind, len16, put_text16};
use std::borrow::Cow;
use waspmq_core::Position;

pub(super) fn frame(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let start = begin_frame(out, kind_of(frame));
    match frame {
        Frame::Connect(frame) => connect(frame, out),
        Frame::Publish(frame) => publish(frame, out),
        Frame::Subscribe { reference, to, queue, from } => meta::write(
            SubscribeV1 { reference: *reference, to, queue: queue.as_deref(), from: from.as_deref() },
            out,
        ),
        Frame::Unsubscribe { reference, to, queue } => {
            meta::write(UnsubscribeV1 { reference: *reference, to, queue: queue.as_deref() }, out);
        }
        Frame::Join { reference, group } | Frame::Leave { reference, group } => {
            meta::write(MembershipV1 { reference: *reference, group }, out);
        }
        Frame::Ack { reference, what, queue } => ack(*reference, what, queue.as_deref(), out),
        Frame::Nack { reference, id, queue, reason, retry_ms } => meta::write(
            NackV1 {
                reference: *reference,
                id: id.to_bytes(),
                queue: queue.as_deref(),
                reason: reason.as_deref(),
                retry_ms: *retry_ms,
            },
            out,
        ),
        Frame::History { reference, of, after, limit } => {
            let after = after.map(|position| position.to_string());
            meta::write(HistoryV1 { reference: *reference, of, after: after.as_deref(), limit: *limit }, out);
        }
        Frame::Read { reference, of, upto } => {
            meta::write(ReadV1 { reference: *reference, of, upto: &upto.to_string() }, out);
        }
        Frame::Presence { reference, of, after } => {
            meta::write(PresenceV1 { reference: *reference, of }, out);
            meta::write(PresenceMoreV1 { after: after.as_deref() }, out);
        }
        Frame::Watch { reference, users } => {
            meta::write(WatchV1 { reference: *reference, users: borrowed(users) }, out);
        }
        Frame::Refresh { reference, token } => {
            meta::write(RefreshV1 { reference: *reference, token: token.expose() }, out);
        }
        Frame::Ping | Frame::Disconnect => {}
    }
    end_frame(out, start);
}

const fn kind_of(frame: &Frame<'_>) -> u8 {
    match frame {
        Frame::Connect(_) => kind::CONNECT,
        Frame::Publish(_) => kind::PUBLISH,
        Frame::Subscribe { .. } => kind::SUBSCRIBE,
        Frame::Unsubscribe { .. } => kind::UNSUBSCRIBE,
        Frame::Join { .. } => kind::JOIN,
        Frame::Leave { .. } => kind::LEAVE,
        Frame::Ack { .. } => kind::ACK,
        Frame::Nack { .. } => kind::NACK,
        Frame::History { .. } => kind::HISTORY,
        Frame::Read { .. } => kind::READ,
        Frame::Presence { .. } => kind::PRESENCE,
        Frame::Watch { .. } => kind::WATCH,
        Frame::Refresh { .. } => kind::REFRESH,
        Frame::Ping => kind::PING,
        Frame::Disconnect => kind::DISCONNECT,
    }
}

fn connect(frame: &Connect<'_>, out: &mut Vec<u8>) {
    let resume = frame.resume.as_ref();
    let positions: Vec<String> =
        resume.map_or_else(Vec::new, |resume| resume.positions.iter().map(Position::to_string).collect());
    let resume = resume.map(|resume| ResumeV1 {
        token: resume.token.expose(),
        positions: positions.iter().map(String::as_str).collect(),
    });
    let body = ConnectV1 {
        user: frame.user.as_deref(),
        device: frame.device.as_deref(),
        token: frame.token.as_ref().map(Secret::expose),
        codecs: borrowed(&frame.codecs),
        batch: frame.batch,
        resume,
    };
    meta::write(body, out);
    meta::write(ConnectMoreV1 { datagrams: frame.datagrams }, out);
    meta::write(ConnectMoreV2 { streams: frame.streams }, out);
}

fn ack(reference: Option<u64>, what: &Acked<'_>, queue: Option<&str>, out: &mut Vec<u8>) {
    let empty = AckV1 { reference, ids: Vec::new(), to: None, upto: None, queue };
    match what {
        Acked::Ids(ids) => {
            let ids = ids.iter().map(|id| id.to_bytes()).collect();
            meta::write(AckV1 { ids, ..empty }, out);
        }
        Acked::UpTo { to, upto } => {
            meta::write(AckV1 { to: Some(to), upto: Some(&upto.to_string()), ..empty }, out);
        }
    }
}

fn publish(frame: &Publish<'_>, out: &mut Vec<u8>) {
    out.reserve(64 + frame.to.len() + frame.payload.len());
    out.extend_from_slice(&flags(frame).to_le_bytes());
    out.extend_from_slice(&[frame.content.as_u8(), frame.ack.as_u8(), frame.priority, 0]);
    out.extend_from_slice(&len16(&frame.to).to_le_bytes());
    let delay_ms = (frame.delay_ms > 0).then_some(frame.delay_ms);
    for number in [frame.reference, frame.ttl_ms, delay_ms].into_iter().flatten() {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(frame.to.as_bytes());
    for text in [&frame.dedup, &frame.key, &frame.reply_to].into_iter().flatten() {
        put_text16(out, text);
    }
    crate::headers::write(&frame.headers, out);
    if let Some(packed) = frame.packed {
        packed.write(out);
    }
    out.extend_from_slice(&frame.payload);
}

fn flags(frame: &Publish<'_>) -> u16 {
    [
        (frame.reference.is_some(), flag::REFERENCE),
        (frame.exclude_self, flag::EXCLUDE_SELF),
        (frame.dedup.is_some(), flag::DEDUP),
        (frame.key.is_some(), flag::KEY),
        (frame.reply_to.is_some(), flag::REPLY_TO),
        (!frame.headers.is_empty(), flag::HEADERS),
        (frame.ttl_ms.is_some(), flag::TTL),
        (frame.delay_ms > 0, flag::DELAY),
        (frame.packed.is_some(), flag::PACKED),
    ]
    .into_iter()
    .fold(0, |flags, (is_set, flag)| if is_set { flags | flag } else { flags })
}

fn borrowed<'a>(texts: &'a [Cow<'a, str>]) -> Vec<&'a str> {
    texts.iter().map(AsRef::as_ref).collect()
}
