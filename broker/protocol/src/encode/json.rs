//! Broker frames of the JSON profile. The order of fields is fixed, so equal frames are equal bytes.

use super::text::{
    put_base64, put_count, put_field, put_maybe, put_maybe_count, put_number, put_object, word,
};
use crate::profile::Content;
use crate::secret::Secret;
use crate::server::{Frame, HistoryHead, MessageFrame, Presence, PresenceChange, Receipt, Welcome};
use waspmq_core::settings::Overflow;
use waspmq_core::{MessageId, Position, Reject};

pub(super) fn message(frame: &MessageFrame<'_>, out: &mut Vec<u8>) {
    let texts = frame.to.len() + frame.from.map_or(0, str::len) + frame.headers.as_bytes().len() * 2;
    out.reserve(256 + texts + frame.payload.len() * 4 / 3);
    out.extend_from_slice(br#"{"type":"message","id":"#);
    put_id(out, frame.id);
    put_field(out, br#","to":"#, frame.to);
    put_maybe(out, br#","from":"#, frame.from);
    out.extend_from_slice(br#","pos":"#);
    put_position(out, frame.position);
    match frame.content {
        Content::Json => {
            out.extend_from_slice(br#","payload":"#);
            out.extend_from_slice(frame.payload);
        }
        Content::Bytes => {
            out.extend_from_slice(br#","payload_b64":"#);
            put_base64(out, frame.payload);
        }
    }
    if !frame.headers.is_empty() {
        out.extend_from_slice(br#","headers":"#);
        put_object(out, frame.headers.iter());
    }
    put_count(out, br#","ts":"#, frame.unix_ms);
    put_maybe(out, br#","key":"#, frame.key);
    if frame.priority > 0 {
        put_count(out, br#","priority":"#, frame.priority);
    }
    put_maybe(out, br#","reply_to":"#, frame.reply_to);
    put_maybe(out, br#","queue":"#, frame.queue);
    put_maybe_count(out, br#","attempt":"#, frame.attempt);
    if frame.wants_ack {
        out.extend_from_slice(br#","ack":true"#);
    }
    out.push(b'}');
}

pub(super) fn control(frame: &Frame, out: &mut Vec<u8>) {
    match frame {
        Frame::Welcome(frame) => welcome(frame, out),
        Frame::Receipt(frame) => receipt(frame, out),
        Frame::Ok { reference } => {
            out.extend_from_slice(br#"{"type":"ok""#);
            put_maybe_count(out, br#","ref":"#, *reference);
        }
        Frame::Error { reference, reject } => error(*reference, reject, out),
        Frame::Overflow(frame) => {
            put_field(out, br#"{"type":"overflow","to":"#, &frame.to);
            put_count(out, br#","dropped":"#, frame.dropped);
            put_maybe(out, br#","action":"#, frame.action.map(Overflow::as_str));
        }
        Frame::Presence(frame) => presence(frame, out),
        Frame::PresenceChange(frame) => presence_change(frame, out),
        Frame::Read(frame) => {
            put_field(out, br#"{"type":"read","of":"#, &frame.of);
            out.extend_from_slice(br#","upto":"#);
            put_position(out, frame.upto);
            put_maybe_count(out, br#","unread":"#, frame.unread);
        }
        Frame::Goaway(frame) => {
            put_field(out, br#"{"type":"goaway","reason":"#, &frame.reason);
            put_count(out, br#","reconnect_ms":"#, frame.reconnect_ms);
        }
        Frame::Close(frame) => {
            put_count(out, br#"{"type":"close","code":"#, frame.code);
            put_field(out, br#","name":"#, &frame.name);
            put_field(out, br#","message":"#, &frame.message);
        }
        Frame::Pong => out.extend_from_slice(br#"{"type":"pong""#),
    }
    out.push(b'}');
}

fn welcome(frame: &Welcome, out: &mut Vec<u8>) {
    put_field(out, br#"{"type":"welcome","session":"#, &frame.session);
    put_maybe(out, br#","resume_token":"#, frame.resume_token.as_ref().map(Secret::expose));
    put_field(out, br#","node":"#, &frame.node);
    out.extend_from_slice(br#","resumed":"#);
    out.extend_from_slice(word(frame.resumed));
    out.extend_from_slice(br#","recovered":"#);
    out.extend_from_slice(word(frame.recovered));
    put_count(out, br#","heartbeat_ms":"#, frame.heartbeat_ms);
    put_count(out, br#","limits":{"max_message_bytes":"#, frame.max_message_bytes);
    out.push(b'}');
}

fn receipt(frame: &Receipt, out: &mut Vec<u8>) {
    put_count(out, br#"{"type":"receipt","ref":"#, frame.reference);
    out.extend_from_slice(br#","id":"#);
    put_id(out, frame.id);
    put_field(out, br#","level":"#, frame.level.as_str());
    put_count(out, br#","recipients":"#, frame.recipients);
}

fn error(reference: Option<u64>, reject: &Reject, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"error""#);
    put_maybe_count(out, br#","ref":"#, reference);
    put_count(out, br#","code":"#, reject.code.number());
    put_field(out, br#","name":"#, reject.code.name());
    put_field(out, br#","message":"#, &reject.message);
    put_count(out, br#","retry_ms":"#, reject.retry_ms);
}

fn presence(frame: &Presence, out: &mut Vec<u8>) {
    let (users, more) = frame.bounded();
    out.extend_from_slice(br#"{"type":"presence""#);
    put_maybe_count(out, br#","ref":"#, frame.reference);
    put_field(out, br#","of":"#, &frame.of);
    out.extend_from_slice(br#","users":["#);
    for (index, user) in users.iter().enumerate() {
        put_separator(out, index);
        put_field(out, br#"{"user":"#, &user.user);
        out.extend_from_slice(br#","online":"#);
        out.extend_from_slice(word(user.online));
        put_count(out, br#","sessions":"#, user.sessions);
        put_maybe_count(out, br#","last_seen":"#, user.last_seen_unix_ms);
        put_count(out, br#","seq":"#, user.seq);
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"more":"#);
    out.extend_from_slice(word(more));
}

fn presence_change(frame: &PresenceChange, out: &mut Vec<u8>) {
    put_field(out, br#"{"type":"presence","user":"#, &frame.user);
    out.extend_from_slice(br#","online":"#);
    out.extend_from_slice(word(frame.online));
    put_maybe_count(out, br#","last_seen":"#, frame.last_seen_unix_ms);
    put_count(out, br#","seq":"#, frame.seq);
}

pub(super) fn history<'a>(
    head: &HistoryHead<'_>,
    messages: impl Iterator<Item = MessageFrame<'a>>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(br#"{"type":"history""#);
    put_maybe_count(out, br#","ref":"#, head.reference);
    put_field(out, br#","of":"#, head.of);
    out.extend_from_slice(br#","messages":["#);
    for (index, frame) in messages.enumerate() {
        put_separator(out, index);
        message(&frame, out);
    }
    out.extend_from_slice(br#"],"more":"#);
    out.extend_from_slice(word(head.more));
    out.extend_from_slice(br#","gap":"#);
    out.extend_from_slice(word(head.gap));
    put_maybe_count(out, br#","unread":"#, head.unread);
    out.push(b'}');
}

fn put_separator(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

pub(super) fn put_id(out: &mut Vec<u8>, id: MessageId) {
    out.push(b'"');
    out.extend_from_slice(&id.to_hex());
    out.push(b'"');
}

pub(super) fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(b"\"s");
    put_number(out, position.stream.shard);
    out.push(b'e');
    put_number(out, position.stream.epoch);
    out.push(b':');
    put_number(out, position.offset);
    out.push(b'"');
}
