//! Client frames of the JSON profile, for client libraries and tests.

use super::json::{put_id, put_position};
use super::text::{
    put_base64, put_count, put_field, put_list, put_maybe, put_maybe_count, put_object, put_text, word,
};
use crate::client::{Acked, Connect, Frame, Publish};
use crate::profile::{Content, Level};
use crate::secret::Secret;

pub(super) fn frame(frame: &Frame<'_>, out: &mut Vec<u8>) {
    put_field(out, br#"{"type":"#, frame.type_name());
    put_maybe_count(out, br#","ref":"#, frame.reference());
    match frame {
        Frame::Connect(frame) => connect(frame, out),
        Frame::Publish(frame) => publish(frame, out),
        Frame::Subscribe { to, queue, from, .. } => {
            put_field(out, br#","to":"#, to);
            put_maybe(out, br#","queue":"#, queue.as_deref());
            put_maybe(out, br#","from":"#, from.as_deref());
        }
        Frame::Unsubscribe { to, queue, .. } => {
            put_field(out, br#","to":"#, to);
            put_maybe(out, br#","queue":"#, queue.as_deref());
        }
        Frame::Join { group, .. } | Frame::Leave { group, .. } => put_field(out, br#","group":"#, group),
        Frame::Ack { what, queue, .. } => {
            acked(what, out);
            put_maybe(out, br#","queue":"#, queue.as_deref());
        }
        Frame::Nack { id, queue, reason, retry_ms, .. } => {
            out.extend_from_slice(br#","id":"#);
            put_id(out, *id);
            put_maybe(out, br#","queue":"#, queue.as_deref());
            put_maybe(out, br#","reason":"#, reason.as_deref());
            put_maybe_count(out, br#","retry_ms":"#, *retry_ms);
        }
        Frame::History { of, after, limit, .. } => {
            put_field(out, br#","of":"#, of);
            if let Some(after) = after {
                out.extend_from_slice(br#","after":"#);
                put_position(out, *after);
            }
            put_maybe_count(out, br#","limit":"#, *limit);
        }
        Frame::Read { of, upto, .. } => {
            put_field(out, br#","of":"#, of);
            out.extend_from_slice(br#","upto":"#);
            put_position(out, *upto);
        }
        Frame::Presence { of, after, .. } => {
            put_field(out, br#","of":"#, of);
            put_maybe(out, br#","after":"#, after.as_deref());
        }
        Frame::Watch { users, .. } => {
            out.extend_from_slice(br#","users":"#);
            put_list(out, users.iter().map(AsRef::as_ref));
        }
        Frame::Refresh { token, .. } => put_field(out, br#","token":"#, token.expose()),
        Frame::Ping | Frame::Disconnect => {}
    }
    out.push(b'}');
}

fn connect(frame: &Connect<'_>, out: &mut Vec<u8>) {
    put_maybe(out, br#","user":"#, frame.user.as_deref());
    put_maybe(out, br#","device":"#, frame.device.as_deref());
    put_maybe(out, br#","token":"#, frame.token.as_ref().map(Secret::expose));
    if !frame.codecs.is_empty() {
        out.extend_from_slice(br#","codecs":"#);
        put_list(out, frame.codecs.iter().map(AsRef::as_ref));
    }
    if frame.batch {
        out.extend_from_slice(br#","batch":true"#);
    }
    if let Some(resume) = &frame.resume {
        put_field(out, br#","resume":{"token":"#, resume.token.expose());
        out.extend_from_slice(br#","positions":["#);
        for (index, position) in resume.positions.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put_position(out, *position);
        }
        out.extend_from_slice(b"]}");
    }
    if frame.datagrams {
        out.extend_from_slice(br#","datagrams":true"#);
    }
    if frame.streams {
        out.extend_from_slice(br#","streams":true"#);
    }
}

fn publish(frame: &Publish<'_>, out: &mut Vec<u8>) {
    put_field(out, br#","to":"#, &frame.to);
    match frame.content {
        Content::Json => {
            out.extend_from_slice(br#","payload":"#);
            out.extend_from_slice(&frame.payload);
        }
        Content::Bytes => {
            out.extend_from_slice(br#","payload_b64":"#);
            put_base64(out, &frame.payload);
        }
    }
    if !frame.headers.is_empty() {
        out.extend_from_slice(br#","headers":"#);
        put_object(out, frame.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
    }
    if frame.ack != Level::implied(frame.reference.is_some()) {
        put_field(out, br#","ack":"#, frame.ack.as_str());
    }
    put_maybe(out, br#","dedup":"#, frame.dedup.as_deref());
    put_maybe_count(out, br#","ttl_ms":"#, frame.ttl_ms);
    if frame.delay_ms > 0 {
        put_count(out, br#","delay_ms":"#, frame.delay_ms);
    }
    if frame.priority > 0 {
        put_count(out, br#","priority":"#, frame.priority);
    }
    put_maybe(out, br#","key":"#, frame.key.as_deref());
    put_maybe(out, br#","reply_to":"#, frame.reply_to.as_deref());
    if frame.exclude_self {
        out.extend_from_slice(br#","exclude_self":"#);
        out.extend_from_slice(word(true));
    }
}

fn acked(what: &Acked<'_>, out: &mut Vec<u8>) {
    match what {
        Acked::Ids(ids) => {
            out.extend_from_slice(br#","ids":["#);
            for (index, id) in ids.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_id(out, *id);
            }
            out.push(b']');
        }
        Acked::UpTo { to, upto } => {
            out.extend_from_slice(br#","to":"#);
            put_text(out, to);
            out.extend_from_slice(br#","upto":"#);
            put_position(out, *upto);
        }
    }
}
