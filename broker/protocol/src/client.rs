//! What a client sends. Values borrow from the received buffer wherever the encoding allows.
//!
//! A frame that came out of [`crate::decode`] is within all bounds; addresses and names in it are not checked yet.
//! A frame that is built to be sent is checked by [`crate::encode::client`].

use crate::codec::{Dictionary, Packed, Unpacker};
use crate::error::Problem;
use crate::payload;
use crate::profile::{Content, Level};
use crate::secret::Secret;
use std::borrow::Cow;
use waspmq_core::{MessageId, Position};

/// One frame from client to broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    Connect(Connect<'a>),
    Publish(Publish<'a>),
    Subscribe {
        reference: Option<u64>,
        /// The pattern.
        to: Cow<'a, str>,
        queue: Option<Cow<'a, str>>,
        /// Where to begin: `now`, `earliest`, `last`, a time or a position. Absent means `now`.
        from: Option<Cow<'a, str>>,
    },
    Unsubscribe {
        reference: Option<u64>,
        to: Cow<'a, str>,
        queue: Option<Cow<'a, str>>,
    },
    Join {
        reference: Option<u64>,
        group: Cow<'a, str>,
    },
    Leave {
        reference: Option<u64>,
        group: Cow<'a, str>,
    },
    Ack {
        reference: Option<u64>,
        what: Acked<'a>,
        queue: Option<Cow<'a, str>>,
    },
    Nack {
        reference: Option<u64>,
        id: MessageId,
        queue: Option<Cow<'a, str>>,
        reason: Option<Cow<'a, str>>,
        /// Milliseconds before the message is tried again; the broker's choice when absent.
        retry_ms: Option<u64>,
    },
    History {
        reference: Option<u64>,
        of: Cow<'a, str>,
        after: Option<Position>,
        limit: Option<u32>,
    },
    Read {
        reference: Option<u64>,
        of: Cow<'a, str>,
        upto: Position,
    },
    Presence {
        reference: Option<u64>,
        of: Cow<'a, str>,
        /// The members of a group behind this name.
        after: Option<Cow<'a, str>>,
    },
    Watch {
        reference: Option<u64>,
        users: Vec<Cow<'a, str>>,
    },
    Refresh {
        reference: Option<u64>,
        token: Secret<'a>,
    },
    Ping,
    Disconnect,
}

impl Frame<'_> {
    /// The number by which the client wants to be answered.
    pub const fn reference(&self) -> Option<u64> {
        match self {
            Self::Publish(publish) => publish.reference,
            Self::Subscribe { reference, .. }
            | Self::Unsubscribe { reference, .. }
            | Self::Join { reference, .. }
            | Self::Leave { reference, .. }
            | Self::Ack { reference, .. }
            | Self::Nack { reference, .. }
            | Self::History { reference, .. }
            | Self::Read { reference, .. }
            | Self::Presence { reference, .. }
            | Self::Watch { reference, .. }
            | Self::Refresh { reference, .. } => *reference,
            Self::Connect(_) | Self::Ping | Self::Disconnect => None,
        }
    }

    /// The frame's `type`, from a closed set.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Publish(_) => "publish",
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Ack { .. } => "ack",
            Self::Nack { .. } => "nack",
            Self::History { .. } => "history",
            Self::Read { .. } => "read",
            Self::Presence { .. } => "presence",
            Self::Watch { .. } => "watch",
            Self::Refresh { .. } => "refresh",
            Self::Ping => "ping",
            Self::Disconnect => "disconnect",
        }
    }
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect<'a> {
    pub user: Option<Cow<'a, str>>,
    pub device: Option<Cow<'a, str>>,
    pub token: Option<Secret<'a>>,
    /// Compression the client can read, by name, best first.
    pub codecs: Vec<Cow<'a, str>>,
    /// Whether the broker may put several frames into one WebSocket message.
    pub batch: bool,
    pub resume: Option<Resume<'a>>,
    /// Whether messages that may be lost may come as datagrams, and be sent so. Without effect over WebSocket.
    pub datagrams: bool,
    /// Whether long messages may come on streams of their own, and be sent so. Without effect over WebSocket.
    pub streams: bool,
}

/// A session to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume<'a> {
    pub token: Secret<'a>,
    /// The latest position of each stream the client has seen.
    pub positions: Vec<Position>,
}

/// A message on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    pub reference: Option<u64>,
    pub to: Cow<'a, str>,
    pub content: Content,
    /// With [`Content::Json`]: one valid value. Compressed, and then not checked, where `packed` is there.
    pub payload: Cow<'a, [u8]>,
    /// How the payload is compressed; in the binary profile alone.
    pub packed: Option<Packed>,
    /// Distinct, non-empty names in the order sent.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub ack: Level,
    pub dedup: Option<Cow<'a, str>>,
    /// 0 is none.
    pub ttl_ms: Option<u64>,
    pub delay_ms: u64,
    /// 0 (default) to 9 (first).
    pub priority: u8,
    pub key: Option<Cow<'a, str>>,
    /// A valid address.
    pub reply_to: Option<Cow<'a, str>>,
    /// Whether the publishing session is left out of the recipients.
    pub exclude_self: bool,
}

impl<'a> Publish<'a> {
    /// A publish with every option at its default: no reference, no receipt.
    pub fn new(to: impl Into<Cow<'a, str>>, content: Content, payload: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            reference: None,
            to: to.into(),
            content,
            payload: payload.into(),
            packed: None,
            headers: Vec::new(),
            ack: Level::None,
            dedup: None,
            ttl_ms: None,
            delay_ms: 0,
            priority: 0,
            key: None,
            reply_to: None,
            exclude_self: false,
        }
    }
}

impl<'a> Publish<'a> {
    /// The publish with its payload as it was before it was compressed, at most `max` bytes; JSON is checked.
    /// `dictionary` is the one that the payload names, if it is there.
    ///
    /// # Errors
    /// When the payload cannot be unpacked within the bound, or is not the JSON that it claims to be.
    pub fn unpack(
        self,
        unpacker: &mut Unpacker,
        dictionary: Option<&Dictionary>,
        max: usize,
    ) -> Result<Self, Problem> {
        let Some(packed) = self.packed else { return Ok(self) };
        let plain = unpacker.unpack(packed, dictionary, (&self.payload, max))?;
        let payload = match payload::one_line(self.content, &plain)? {
            Cow::Borrowed(line) if line.len() == plain.len() => plain,
            line => line.into_owned(),
        };
        Ok(Self { payload: payload.into(), packed: None, ..self })
    }
}

/// What an ack covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acked<'a> {
    /// These messages.
    Ids(Vec<MessageId>),
    /// Everything of this address that the session was sent, up to and including this position.
    UpTo { to: Cow<'a, str>, upto: Position },
}
