//! What the broker sends: control frames, messages, and both as a client receives them.

use crate::headers::HeaderBlock;
use crate::profile::{Content, Level};
use crate::secret::Secret;
use waspmq_core::{Code, MessageId, Position, Reject};

/// One control frame from broker to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Welcome(Welcome),
    Receipt(Receipt),
    Ok { reference: Option<u64> },
    Error { reference: Option<u64>, reject: Reject },
    Overflow(Overflow),
    Goaway(Goaway),
    Pong,
}

/// The answer to `connect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub session: String,
    pub resume_token: Option<Secret<'static>>,
    pub node: String,
    /// Whether the session asked for in `connect.resume` goes on.
    pub resumed: bool,
    /// Whether nothing was missed since.
    pub recovered: bool,
    /// Milliseconds between signs of life; twice that in silence closes the connection.
    pub heartbeat_ms: u32,
    pub max_message_bytes: u32,
}

/// How far a publish got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub reference: u64,
    pub id: MessageId,
    pub level: Level,
    pub recipients: u32,
}

/// Messages that were dropped because this connection did not keep up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overflow {
    /// The address or pattern the messages came by.
    pub to: String,
    pub dropped: u64,
}

/// The broker is about to close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    pub reason: String,
    /// Milliseconds to wait before connecting again.
    pub reconnect_ms: u32,
}

/// A message as [`crate::encode::message`] takes it. Texts come from checked values of at most 65,535 bytes.
#[derive(Debug, Clone, Copy)]
pub struct MessageFrame<'a> {
    pub id: MessageId,
    pub to: &'a str,
    /// The publishing user; absent when the admin API published.
    pub from: Option<&'a str>,
    pub position: Position,
    pub content: Content,
    /// With [`Content::Json`]: one valid value, copied as it is.
    pub payload: &'a [u8],
    pub headers: HeaderBlock<'a>,
    pub key: Option<&'a str>,
    pub priority: u8,
    pub reply_to: Option<&'a str>,
    /// The queue this delivery was chosen for.
    pub queue: Option<&'a str>,
    /// Present on redeliveries.
    pub attempt: Option<u16>,
    /// Publish time, milliseconds since 1970.
    pub unix_ms: u64,
}

/// A message as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: MessageId,
    pub to: String,
    pub from: Option<String>,
    pub position: Position,
    pub content: Content,
    pub payload: Vec<u8>,
    pub headers: Vec<(String, String)>,
    pub key: Option<String>,
    pub priority: u8,
    pub reply_to: Option<String>,
    pub queue: Option<String>,
    pub attempt: Option<u16>,
    pub unix_ms: u64,
}

/// A refusal as a client receives it: the number may be one that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub number: u16,
    pub name: String,
    pub message: String,
    pub retry_ms: u32,
}

impl Refusal {
    pub const fn code(&self) -> Option<Code> {
        Code::from_number(self.number)
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self {
            number: reject.code.number(),
            name: reject.code.name().to_owned(),
            message: reject.message,
            retry_ms: reject.retry_ms,
        }
    }
}

/// Any frame as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Message(Message),
    Welcome(Welcome),
    Receipt(Receipt),
    Ok {
        reference: Option<u64>,
    },
    Error {
        reference: Option<u64>,
        refusal: Refusal,
    },
    Overflow(Overflow),
    Goaway(Goaway),
    Pong,
    /// A frame of a type or version this library does not know. Clients ignore it.
    Unknown {
        kind: String,
    },
}

impl From<Frame> for Received {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Welcome(welcome) => Self::Welcome(welcome),
            Frame::Receipt(receipt) => Self::Receipt(receipt),
            Frame::Ok { reference } => Self::Ok { reference },
            Frame::Error { reference, reject } => Self::Error { reference, refusal: reject.into() },
            Frame::Overflow(overflow) => Self::Overflow(overflow),
            Frame::Goaway(goaway) => Self::Goaway(goaway),
            Frame::Pong => Self::Pong,
        }
    }
}
