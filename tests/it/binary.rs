//! The binary profile for raw peers: tests write and read frames as JSON, whatever goes over the wire.

use serde_json::{Value, json};
use waspmq_protocol::server::{Message, Received, UserPresence};
use waspmq_protocol::{Content, Profile, decode, encode};

/// The bytes of a client frame, if the text is one.
pub(crate) fn try_binary(text: &str) -> Option<Vec<u8>> {
    let frame = decode::json_frames(text.as_bytes()).next()?.ok()?;
    let mut bytes = Vec::new();
    encode::client(Profile::Binary, &frame, &mut bytes).ok()?;
    Some(bytes)
}

/// The bytes of a client frame.
pub(crate) fn to_binary(text: &str) -> Vec<u8> {
    let frame = decode::json_frames(text.as_bytes()).next().unwrap().unwrap();
    let mut bytes = Vec::new();
    encode::client(Profile::Binary, &frame, &mut bytes).unwrap();
    bytes
}

/// The one frame of a WebSocket message, as the JSON profile would have it.
pub(crate) fn from_binary(bytes: &[u8]) -> Value {
    let (frame, consumed) = decode::server_binary(bytes).unwrap();
    assert_eq!(consumed, bytes.len(), "one frame per WebSocket message");
    let value = match frame {
        Received::Message(frame) => message(&frame),
        Received::Welcome(frame) => json!({
            "type": "welcome", "session": frame.session, "resume_token": frame.resume_token.as_ref().map(|token| token.expose()),
            "resumed": frame.resumed, "recovered": frame.recovered,
        }),
        Received::Receipt(frame) => json!({
            "type": "receipt", "ref": frame.reference, "id": frame.id.to_string(),
            "level": frame.level.as_str(), "recipients": frame.recipients,
        }),
        Received::Ok { reference } => json!({"type": "ok", "ref": reference}),
        Received::Error { reference, refusal } => json!({
            "type": "error", "ref": reference, "code": refusal.number, "name": refusal.name,
            "message": refusal.message, "retry_ms": refusal.retry_ms,
        }),
        Received::History(frame) => json!({
            "type": "history", "ref": frame.reference, "of": frame.of, "more": frame.more, "gap": frame.gap,
            "unread": frame.unread, "messages": frame.messages.iter().map(message).collect::<Vec<_>>(),
        }),
        Received::Presence(frame) => {
            let user = |user: &UserPresence| {
                without_nulls(json!({
                    "user": user.user, "online": user.online, "sessions": user.sessions,
                    "last_seen": user.last_seen_unix_ms, "seq": user.seq,
                }))
            };
            let users: Vec<_> = frame.users.iter().map(user).collect();
            json!({"type": "presence", "ref": frame.reference, "of": frame.of, "users": users, "more": frame.more})
        }
        Received::Read(frame) => json!({
            "type": "read", "of": frame.of, "upto": frame.upto.to_string(), "unread": frame.unread,
        }),
        Received::Overflow(frame) => {
            json!({"type": "overflow", "to": frame.to, "dropped": frame.dropped, "action": frame.action.map(|action| action.as_str())})
        }
        Received::Goaway(frame) => json!({"type": "goaway", "reason": frame.reason}),
        Received::Close(frame) => {
            json!({"type": "close", "code": frame.code, "name": frame.name, "message": frame.message})
        }
        Received::Pong => json!({"type": "pong"}),
        other => panic!("not a frame these tests ask for: {other:?}"),
    };
    without_nulls(value)
}

fn message(message: &Message) -> Value {
    assert_eq!(message.content, Content::Json);
    let headers: serde_json::Map<_, _> =
        message.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut value = without_nulls(json!({
        "type": "message", "id": message.id.to_string(), "to": message.to, "from": message.from,
        "pos": message.position.to_string(), "ts": message.unix_ms, "key": message.key,
        "headers": (!headers.is_empty()).then_some(headers), "reply_to": message.reply_to,
        "queue": message.queue, "attempt": message.attempt,
        "priority": (message.priority > 0).then_some(message.priority),
        "ack": message.wants_ack.then_some(true),
    }));
    value["payload"] = serde_json::from_slice(&message.payload).unwrap();
    value
}

/// Absent fields, as JSON frames have them.
fn without_nulls(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    value
}
