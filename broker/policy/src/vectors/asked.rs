//! What a vector asks, read and completed: what it does not say has a value that matters to nobody.

use crate::capture::{Configured, Full};
use crate::codecs;
use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use waspmq_core::address::{Address, Name};
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::limits::MESSAGE_BYTES_MAX;
use waspmq_core::policy::{Message, Overflowed, QueueMembers};
use waspmq_core::settings::{Overflow, Settings};

/// A message as a vector writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedMessage {
    #[serde(default)]
    from: String,
    to: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    priority: u8,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The payload: one of these, or as many zero bytes as `size` says.
    payload: Option<String>,
    payload_json: Option<Value>,
    payload_b64: Option<String>,
    size: Option<usize>,
    /// What the address's settings say about acknowledgement, where it is not the built-in.
    #[serde(default)]
    configured: Map<String, Value>,
}

/// Those that a message goes to, with what they take.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AskedAudience {
    codecs: Vec<String>,
    dictionary: bool,
}

impl AskedAudience {
    pub(super) fn ready(&self) -> Result<Audience, String> {
        let codec = |name: &String| {
            codecs::of_name(name)
                .ok_or_else(|| format!("audience.codecs: {name:?} is none of {}", codecs::all_names()))
        };
        let codecs = self.codecs.iter().map(codec).collect::<Result<Vec<_>, _>>()?;
        let codecs = codecs.into_iter().fold(Codecs::NONE, Codecs::with);
        Ok(Audience { codecs, has_dictionary: self.dictionary })
    }
}

/// The members of a queue that a policy is told of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedQueue {
    pattern: String,
    queue: String,
    version: u64,
    #[serde(default)]
    members: Vec<String>,
    /// What each of them has in flight; nothing is known of it when this is empty.
    #[serde(default)]
    in_flight: Vec<u32>,
}

/// A message with everything in its place.
pub(super) struct ReadyMessage {
    from: String,
    to: Address,
    key: String,
    priority: u8,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
    pub(super) settings: Settings,
}

impl AskedMessage {
    pub(super) fn ready(&self) -> Result<ReadyMessage, String> {
        let to = Address::parse(&self.to).map_err(|error| format!("message.to: {error}"))?;
        let mut settings = Settings::of_kind(to.kind());
        let known = serde_json::to_value(Configured::of(&settings)).map_err(|error| error.to_string())?;
        let configured = overlaid(known, &self.configured, "message.configured")?;
        read::<Configured>(&configured, "message.configured")?.apply(&mut settings);
        Ok(ReadyMessage {
            from: self.from.clone(),
            to,
            key: self.key.clone(),
            priority: self.priority,
            headers: self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            payload: self.payload()?,
            settings,
        })
    }

    fn payload(&self) -> Result<Vec<u8>, String> {
        let payload = match (&self.payload, &self.payload_json, &self.payload_b64, self.size) {
            (Some(text), None, None, None) => text.as_bytes().to_vec(),
            (None, Some(value), None, None) => value.to_string().into_bytes(),
            (None, None, Some(encoded), None) => {
                STANDARD.decode(encoded).map_err(|error| format!("message.payload_b64: {error}"))?
            }
            (None, None, None, size) => vec![0; size.unwrap_or(0).min(MESSAGE_BYTES_MAX + 1)],
            _ => {
                let one = "has one of `payload`, `payload_json`, `payload_b64` and `size`";
                return Err(format!("message: {one}"));
            }
        };
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(format!("message: a payload has at most {MESSAGE_BYTES_MAX} bytes"));
        }
        Ok(payload)
    }
}

impl ReadyMessage {
    pub(super) fn message(&self, unix_ms: u64) -> Message<'_> {
        Message {
            from: &self.from,
            session: None,
            to: self.to.as_str(),
            kind: self.to.kind(),
            key: &self.key,
            payload: &self.payload,
            is_json: false,
            headers: &self.headers,
            priority: self.priority,
            unix_ms,
        }
    }
}

impl AskedQueue {
    pub(super) fn members(&self) -> Result<QueueMembers, String> {
        let queue = Name::parse(&self.queue).map_err(|error| format!("queues: {error}"))?;
        let Self { pattern, version, members, .. } = self.clone();
        if members.len() > limits::QUEUE_MEMBERS_TOTAL_MAX {
            return Err(format!("queues: there are at most {} members", limits::QUEUE_MEMBERS_TOTAL_MAX));
        }
        if !self.in_flight.is_empty() && self.in_flight.len() != members.len() {
            return Err("queues: in_flight has a number for each of the members, or none".to_owned());
        }
        let loads = self.in_flight.iter().copied().collect();
        Ok(QueueMembers { pattern, queue, version, members, loads })
    }
}

/// The failed attempt that a vector writes, to be [`read`].
pub(super) fn failed(asked: &Map<String, Value>, ts: u64) -> Result<Value, String> {
    let known = json!({
        "ts": ts, "sender": "", "address": "", "recipient": "", "cause": "timeout", "attempt": 1, "attempts": 5,
        "messages": 1, "waited_ms": 0, "retry_ms": null, "random": 0,
    });
    overlaid(known, &renamed(asked), "failure")
}

/// The full queue that a vector writes, to be [`read`].
pub(super) fn full(asked: &Map<String, Value>, ts: u64) -> Result<Value, String> {
    let known = json!({
        "ts": ts, "address": "", "recipient": "", "priority": 0, "size": 100, "queued_bytes": 1_000_000,
        "queued_bytes_max": 1_000_000, "configured": "drop-oldest",
    });
    overlaid(known, &renamed(asked), "overflow")
}

/// What a value says, as what it is.
pub(super) fn read<'a, T: Deserialize<'a>>(value: &'a Value, place: &str) -> Result<T, String> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| format!("{place}.{}: {}", error.path(), error.inner()))
}

/// Addresses and senders as publishers call them.
fn renamed(asked: &Map<String, Value>) -> Map<String, Value> {
    let name = |name: &str| match name {
        "to" => "address".to_owned(),
        "from" => "sender".to_owned(),
        other => other.to_owned(),
    };
    asked.iter().map(|(key, value)| (name(key), value.clone())).collect()
}

/// What full queues are asked about.
pub(super) fn overflowed<'a>(full: &'a Full<'_>, to: &'a Address, configured: Overflow) -> Overflowed<'a> {
    Overflowed {
        to,
        recipient: &full.recipient,
        priority: full.priority,
        size_bytes: full.size as usize,
        queued_bytes: full.queued_bytes as usize,
        queued_bytes_max: full.queued_bytes_max as usize,
        configured,
    }
}

/// What is known, with what is asked for in its place.
fn overlaid(mut known: Value, asked: &Map<String, Value>, place: &str) -> Result<Value, String> {
    for (key, value) in asked {
        match known.get_mut(key) {
            Some(at) => *at = value.clone(),
            None => {
                let keys = known.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
                let keys = keys.collect::<Vec<_>>().join(", ");
                return Err(format!("{place}: there is no `{key}`; there are {keys}"));
            }
        }
    }
    Ok(known)
}

/// A text that names what is asked, for people.
pub(super) fn kind(vector: &super::Vector) -> Cow<'static, str> {
    let there = [
        ("message", vector.message.is_some()),
        ("failure", vector.failure.is_some()),
        ("overflow", vector.overflow.is_some()),
    ];
    let there: Vec<_> = there.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
    if there.is_empty() { "nothing".into() } else { there.join(" and ").into() }
}
