//! The lines of a capture: what they say, and how they are made of what policies are asked.
//!
//! A capture is JSON lines, a [`Header`] first and one [`Record`] in each line behind it. The kind of an address is its
//! first word. Deliberately not here: where lines are kept, and how they become questions again (`replay`).

use crate::answers::{self, word};
use crate::bindings;
use crate::codecs;
use crate::limits::CAPTURE_PAYLOAD_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use waspmq_core::Level;
use waspmq_core::compression::{Audience, Codecs};
use waspmq_core::delivery::{AckPlan, Backoff, Exhausted, Quorum};
use waspmq_core::policy::{Message, Overflowed, QueueMembers};
use waspmq_core::settings::{Keep, Overflow, Settings};

/// The form that this broker writes and reads.
pub(crate) const FORM: u32 = 1;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The form of the lines.
    pub(crate) capture: u32,
    /// The broker's version.
    pub(crate) version: String,
    /// Milliseconds since 1970.
    pub(crate) started: u64,
    pub(crate) ended: Option<u64>,
    pub(crate) ended_by: Option<String>,
    #[serde(rename = "match")]
    pub(crate) patterns: Vec<String>,
    pub(crate) payload: bool,
    pub(crate) headers: bool,
    pub(crate) recorded: u64,
    pub(crate) left_out: BTreeMap<String, u64>,
}

/// One line behind the first. Texts are borrowed where they need no escapes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Record<'a> {
    #[serde(borrow)]
    Message(Published<'a>),
    Failure(Failed<'a>),
    Overflow(Full<'a>),
    Compression(Delivered<'a>),
    Members(Members<'a>),
}

/// A message as policies are told of it before any of them decided.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published<'a> {
    pub(crate) ts: u64,
    #[serde(borrow)]
    pub(crate) sender: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) address: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub(crate) key: Cow<'a, str>,
    pub(crate) size: u32,
    #[serde(default)]
    pub(crate) priority: u8,
    /// None of a message that is being delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) configured: Option<Configured>,
    /// None: they were not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) headers: Option<Vec<(String, String)>>,
    /// The payload as text, or in base64 where it is none; neither: it was not asked for, or is cut.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload_b64: Option<String>,
    /// The payload was asked for and is too large.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) payload_cut: bool,
}

/// What the settings of an address say about acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Configured {
    level: ConfiguredLevel,
    quorum: ConfiguredQuorum,
    timeout_ms: u32,
    attempts: u16,
    initial_ms: u32,
    max_ms: u32,
    jitter_percent: u8,
    dead_letter: bool,
    /// Whether a policy may raise the level to `stored`.
    may_store: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConfiguredLevel {
    None,
    Accepted,
    Stored,
    Delivered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConfiguredQuorum {
    Any,
    All,
    Count(u32),
}

/// An attempt that failed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed<'a> {
    pub(crate) ts: u64,
    #[serde(borrow)]
    pub(crate) sender: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) address: Cow<'a, str>,
    #[serde(borrow)]
    recipient: Cow<'a, str>,
    cause: FailedCause,
    attempt: u16,
    attempts: u16,
    messages: u16,
    waited_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u32>,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FailedCause {
    Timeout,
    Nack,
    QueueFull,
    Offline,
    ConnectionLost,
}

/// Messages that do not fit a recipient's queue.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Full<'a> {
    pub(crate) ts: u64,
    #[serde(borrow)]
    pub(crate) address: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) recipient: Cow<'a, str>,
    pub(crate) priority: u8,
    pub(crate) size: u32,
    pub(crate) queued_bytes: u32,
    pub(crate) queued_bytes_max: u32,
    /// The action, as decisions name it.
    #[serde(borrow)]
    configured: Cow<'a, str>,
}

/// A message on its way to some recipients.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivered<'a> {
    /// The codecs that they take.
    codecs: Vec<Cow<'a, str>>,
    dictionary: bool,
    #[serde(borrow, flatten)]
    pub(crate) message: Published<'a>,
}

/// The members of a queue, from this line on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Members<'a> {
    pub(crate) ts: u64,
    #[serde(borrow)]
    pub(crate) pattern: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) queue: Cow<'a, str>,
    pub(crate) version: u64,
    pub(crate) members: Cow<'a, [String]>,
}

impl<'a> Published<'a> {
    /// `with` says whether headers and payload are wanted. Without settings it is one that is delivered.
    pub(crate) fn new(message: &Message<'a>, settings: Option<&Settings>, with: With) -> Self {
        let mut record = Self {
            ts: message.unix_ms,
            sender: message.from.into(),
            address: message.to.into(),
            key: message.key.into(),
            size: u32::try_from(message.payload.len()).unwrap_or(u32::MAX),
            priority: message.priority,
            configured: settings.map(Configured::of),
            headers: with.headers.then(|| message.headers.to_vec()),
            payload: None,
            payload_b64: None,
            payload_cut: false,
        };
        if with.payload {
            record.set_payload(message.payload);
        }
        record
    }

    fn set_payload(&mut self, payload: &'a [u8]) {
        if payload.len() > CAPTURE_PAYLOAD_BYTES_MAX {
            self.payload_cut = true;
        } else if let Ok(text) = std::str::from_utf8(payload) {
            self.payload = Some(text.into());
        } else {
            self.payload_b64 = Some(STANDARD.encode(payload));
        }
    }

    /// The payload, where the record has it; an error where what it has is not base64.
    pub(crate) fn payload(&self) -> Result<Option<Cow<'_, [u8]>>, base64::DecodeError> {
        match (&self.payload, &self.payload_b64) {
            (Some(text), _) => Ok(Some(text.as_bytes().into())),
            (None, Some(encoded)) => STANDARD.decode(encoded).map(|bytes| Some(bytes.into())),
            (None, None) => Ok(None),
        }
    }
}

/// What of a message is taken down besides what policies are told by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct With {
    pub(crate) payload: bool,
    pub(crate) headers: bool,
}

impl Configured {
    pub(crate) fn of(settings: &Settings) -> Self {
        let AckPlan { quorum, timeout_ms, attempts, backoff, exhausted } = settings.ack;
        Self {
            level: match settings.level {
                Level::None => ConfiguredLevel::None,
                Level::Accepted => ConfiguredLevel::Accepted,
                Level::Stored => ConfiguredLevel::Stored,
                Level::Delivered => ConfiguredLevel::Delivered,
            },
            quorum: match quorum {
                Quorum::Any => ConfiguredQuorum::Any,
                Quorum::All => ConfiguredQuorum::All,
                Quorum::Count(count) => ConfiguredQuorum::Count(count),
            },
            timeout_ms,
            attempts,
            initial_ms: backoff.initial_ms,
            max_ms: backoff.max_ms,
            jitter_percent: backoff.jitter_percent,
            dead_letter: exhausted == Exhausted::DeadLetter,
            may_store: settings.keep != Keep::Never,
        }
    }

    /// Puts what it says into `settings`.
    pub(crate) const fn apply(self, settings: &mut Settings) {
        settings.level = match self.level {
            ConfiguredLevel::None => Level::None,
            ConfiguredLevel::Accepted => Level::Accepted,
            ConfiguredLevel::Stored => Level::Stored,
            ConfiguredLevel::Delivered => Level::Delivered,
        };
        settings.keep = if self.may_store { Keep::Requested } else { Keep::Never };
        settings.ack = AckPlan {
            quorum: match self.quorum {
                ConfiguredQuorum::Any => Quorum::Any,
                ConfiguredQuorum::All => Quorum::All,
                ConfiguredQuorum::Count(count) => Quorum::Count(count),
            },
            timeout_ms: self.timeout_ms,
            attempts: self.attempts,
            backoff: Backoff {
                initial_ms: self.initial_ms,
                max_ms: self.max_ms,
                jitter_percent: self.jitter_percent,
            },
            exhausted: if self.dead_letter { Exhausted::DeadLetter } else { Exhausted::Drop },
        };
    }
}

impl<'a> Failed<'a> {
    pub(crate) fn new(told: &bindings::Failure<'a>, ts: u64) -> Self {
        Self {
            ts,
            sender: told.sender.into(),
            address: told.address.into(),
            recipient: told.recipient.into(),
            cause: match told.cause {
                bindings::Cause::Timeout => FailedCause::Timeout,
                bindings::Cause::Nack => FailedCause::Nack,
                bindings::Cause::QueueFull => FailedCause::QueueFull,
                bindings::Cause::Offline => FailedCause::Offline,
                bindings::Cause::ConnectionLost => FailedCause::ConnectionLost,
            },
            attempt: told.attempt,
            attempts: told.attempts,
            messages: told.messages,
            waited_ms: told.waited_ms,
            retry_ms: told.retry_ms,
            random: told.random,
        }
    }

    /// The same, on its own.
    pub(crate) fn into_owned(self) -> Failed<'static> {
        Failed {
            sender: self.sender.into_owned().into(),
            address: self.address.into_owned().into(),
            recipient: self.recipient.into_owned().into(),
            ..self
        }
    }

    /// As policies are told it.
    pub(crate) fn told(&self) -> bindings::Failure<'_> {
        bindings::Failure {
            address: &self.address,
            sender: &self.sender,
            recipient: &self.recipient,
            cause: match self.cause {
                FailedCause::Timeout => bindings::Cause::Timeout,
                FailedCause::Nack => bindings::Cause::Nack,
                FailedCause::QueueFull => bindings::Cause::QueueFull,
                FailedCause::Offline => bindings::Cause::Offline,
                FailedCause::ConnectionLost => bindings::Cause::ConnectionLost,
            },
            attempt: self.attempt,
            messages: self.messages,
            waited_ms: self.waited_ms,
            retry_ms: self.retry_ms,
            attempts: self.attempts,
            random: self.random,
        }
    }
}

impl<'a> Full<'a> {
    pub(crate) fn new(what: &Overflowed<'a>, ts: u64) -> Self {
        let told = answers::overflowing(what);
        Self {
            ts,
            address: told.address.into(),
            recipient: told.recipient.into(),
            priority: told.priority,
            size: told.size,
            queued_bytes: told.queued_bytes,
            queued_bytes_max: told.queued_bytes_max,
            configured: word(what.configured).into(),
        }
    }

    /// The same, on its own.
    pub(crate) fn into_owned(self) -> Full<'static> {
        Full {
            address: self.address.into_owned().into(),
            recipient: self.recipient.into_owned().into(),
            configured: self.configured.into_owned().into(),
            ..self
        }
    }

    /// The action that the settings ask for; none where the record's word is not one.
    pub(crate) fn configured(&self) -> Option<Overflow> {
        Overflow::ALL.into_iter().find(|action| word(*action) == self.configured)
    }
}

impl<'a> Delivered<'a> {
    pub(crate) fn new(message: &Message<'a>, audience: Audience, with: With) -> Self {
        Self {
            codecs: codecs::names(audience.codecs).map(Cow::Borrowed).collect(),
            dictionary: audience.has_dictionary,
            message: Published::new(message, None, with),
        }
    }

    /// Those that it goes to; none where the record names a codec that there is not.
    pub(crate) fn audience(&self) -> Option<Audience> {
        let codecs = self.codecs.iter().map(|name| codecs::of_name(name));
        let codecs = codecs.collect::<Option<Vec<_>>>()?.into_iter().fold(Codecs::NONE, Codecs::with);
        Some(Audience { codecs, has_dictionary: self.dictionary })
    }
}

impl Record<'_> {
    /// Whether a payload is missing because it is too large.
    pub(crate) const fn is_cut(&self) -> bool {
        match self {
            Record::Message(message) | Record::Compression(Delivered { message, .. }) => message.payload_cut,
            Record::Failure(_) | Record::Overflow(_) | Record::Members(_) => false,
        }
    }
}

impl<'a> Members<'a> {
    pub(crate) fn new(members: &'a QueueMembers, ts: u64) -> Self {
        Self {
            ts,
            pattern: members.pattern.as_str().into(),
            queue: members.queue.as_str().into(),
            version: members.version,
            members: members.members.as_slice().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::address::{Address, Kind, Name};
    use waspmq_core::registry::Loads;

    fn round_trip(record: &Record<'_>) -> String {
        let line = serde_json::to_string(record).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(&serde_json::from_str::<Record<'_>>(&line).unwrap(), record, "{line}");
        line
    }

    fn message<'a>(payload: &'a [u8], headers: &'a [(String, String)]) -> Message<'a> {
        Message {
            from: "alice",
            session: None,
            to: "topic/a",
            kind: Kind::Topic,
            key: "k\"1",
            payload,
            is_json: false,
            headers,
            priority: 3,
            unix_ms: 17,
        }
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let headers = [("h".to_owned(), "line\nbreak".to_owned())];
        let settings = Settings {
            level: Level::Delivered,
            keep: Keep::Never,
            ack: AckPlan { quorum: Quorum::Count(3), exhausted: Exhausted::Drop, ..AckPlan::default() },
            ..Settings::of_kind(Kind::Topic)
        };
        let all = With { payload: true, headers: true };
        for (payload, with) in [(&b"{\"a\":1}"[..], all), (&[0xff, 0, 1], all), (b"x", With::default())] {
            let record = Published::new(&message(payload, &headers), Some(&settings), with);
            let expected = with.payload.then_some(payload);
            assert_eq!(record.payload().unwrap().as_deref(), expected);
            assert_eq!(record.headers.as_deref(), with.headers.then_some(&headers[..]));
            let mut back = Settings::of_kind(Kind::Topic);
            record.configured.unwrap().apply(&mut back);
            assert_eq!(back, settings);
            round_trip(&Record::Message(record));
        }
    }

    #[test]
    fn a_large_payload_is_cut_and_the_record_says_so() {
        let large = vec![b'x'; CAPTURE_PAYLOAD_BYTES_MAX + 1];
        let with = With { payload: true, headers: false };
        let record = Published::new(&message(&large, &[]), None, with);
        assert_eq!((record.payload_cut, record.size as usize), (true, large.len()));
        assert_eq!(record.payload(), Ok(None));
        let line = round_trip(&Record::Message(record));
        assert!(line.len() < 500, "{line}");
    }

    #[test]
    fn failures_overflows_and_members_come_back_as_they_were() {
        let told = bindings::Failure {
            address: "topic/a",
            sender: "alice",
            recipient: "user/bob",
            cause: bindings::Cause::ConnectionLost,
            attempt: 2,
            messages: 3,
            waited_ms: 40,
            retry_ms: None,
            attempts: 5,
            random: u64::MAX,
        };
        let failed = Failed::new(&told, 9);
        assert_eq!(format!("{:?}", failed.told()), format!("{told:?}"));
        let line = round_trip(&Record::Failure(failed));
        assert!(line.contains(r#""cause":"connection-lost""#), "{line}");

        let to = Address::parse("topic/a").unwrap();
        let what = Overflowed {
            to: &to,
            recipient: "bob/phone/1",
            priority: 3,
            size_bytes: 100,
            queued_bytes: 1_000,
            queued_bytes_max: 1_050,
            configured: Overflow::DropNewest,
        };
        let full = Full::new(&what, 9);
        assert_eq!(full.configured(), Some(Overflow::DropNewest));
        round_trip(&Record::Overflow(full));

        for codecs in [Codecs::NONE, Codecs::LZ4.with(Codecs::DEFLATE), Codecs::ZSTD.with(Codecs::DICTIONARY)]
        {
            let audience = Audience { codecs, has_dictionary: codecs.is_empty() };
            let headers = [("h".to_owned(), "v".to_owned())];
            let delivered = Delivered::new(
                &message(b"{\"a\":1}", &headers),
                audience,
                With { payload: true, headers: true },
            );
            assert_eq!(delivered.audience(), Some(audience));
            let line = round_trip(&Record::Compression(delivered));
            assert!(line.contains("\"payload\":\"{\\\"a\\\":1}\"") && !line.contains("configured"), "{line}");
            let other = line.replace("\"codecs\":[", "\"codecs\":[\"br\",").replace(",]", "]");
            let Record::Compression(other) = serde_json::from_str(&other).unwrap() else { panic!() };
            assert_eq!(other.audience(), None);
        }

        let members = QueueMembers {
            pattern: "topic/>".to_owned(),
            queue: Name::parse("workers").unwrap(),
            version: 4,
            members: vec!["u/d/s".to_owned()],
            loads: Loads::default(),
        };
        let line = round_trip(&Record::Members(Members::new(&members, 9)));
        let expected =
            r#"{"members":{"ts":9,"pattern":"topic/>","queue":"workers","version":4,"members":["u/d/s"]}}"#;
        assert_eq!(line, expected);
    }
}
