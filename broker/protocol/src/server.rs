//! What the broker sends: control frames, messages, and both as a client receives them.

use crate::codec::{Dictionary, Packed, UnpackError, Unpacker};
use crate::headers::HeaderBlock;
use crate::limits::PRESENCE_USERS_MAX;
use crate::profile::{Content, Level};
use crate::secret::Secret;
use waspmq_core::settings::Overflow as OverflowAction;
use waspmq_core::{Code, MessageId, Position, Reject};

/// One control frame from broker to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Welcome(Welcome),
    Receipt(Receipt),
    Ok { reference: Option<u64> },
    Error { reference: Option<u64>, reject: Reject },
    Overflow(Overflow),
    Presence(Presence),
    PresenceChange(PresenceChange),
    Read(Read),
    Goaway(Goaway),
    Close(Close),
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
    /// The codecs in which the broker takes payloads, by name; none where it is older.
    pub codecs: Vec<String>,
}

/// A dictionary that messages behind it may be compressed with; sent once on a connection, in the binary profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentDictionary {
    /// What [`crate::codec::PackedCodec::Dictionary`] calls it.
    pub id: u32,
    /// BLAKE3 of the bytes, for a client that keeps them.
    pub digest: [u8; 32],
    /// At most [`crate::codec::DICTIONARY_BYTES_MAX`]; empty for one that the client said it has.
    pub bytes: Vec<u8>,
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
    /// What the address's settings did about it; absent when not told, or not known to this version.
    pub action: Option<OverflowAction>,
}

/// The answer to `presence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    pub reference: Option<u64>,
    /// The address asked about.
    pub of: String,
    /// Of more than [`PRESENCE_USERS_MAX`] the encoder writes the first ones and says `more`.
    pub users: Vec<UserPresence>,
    /// Whether there are users beyond these.
    pub more: bool,
}

impl Presence {
    /// The users that fit a frame, and whether there are more.
    pub(crate) fn bounded(&self) -> (&[UserPresence], bool) {
        match self.users.get(..PRESENCE_USERS_MAX) {
            Some(users) => (users, self.more || self.users.len() > PRESENCE_USERS_MAX),
            None => (&self.users, self.more),
        }
    }
}

/// One user of a presence answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPresence {
    pub user: String,
    pub online: bool,
    pub sessions: u32,
    /// When the user was seen last, milliseconds since 1970; absent when never.
    pub last_seen_unix_ms: Option<u64>,
    /// Ascends with every change of this user: of an answer and an event, the higher one is the later.
    pub seq: u64,
}

/// What watchers of a user are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    pub user: String,
    pub online: bool,
    /// As in [`UserPresence`].
    pub last_seen_unix_ms: Option<u64>,
    /// As in [`UserPresence`].
    pub seq: u64,
}

/// What a user's other sessions are told when one of them has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub of: String,
    pub upto: Position,
    /// Messages behind the mark, at most [`crate::limits::UNREAD_MAX`], which means "at least"; absent when unknown.
    pub unread: Option<u32>,
}

/// Everything of a history answer but the messages, as [`crate::encode::history`] takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryHead<'a> {
    pub reference: Option<u64>,
    /// The address asked about.
    pub of: &'a str,
    /// Whether there are messages behind these.
    pub more: bool,
    /// Whether retention has removed messages behind `after`, so that the first one here is not the next.
    pub gap: bool,
    /// Messages behind the user's read mark, at most [`crate::limits::UNREAD_MAX`], which means "at least"; absent when unknown.
    pub unread: Option<u32>,
}

/// A history answer as a client receives it; the fields are those of [`HistoryHead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub reference: Option<u64>,
    pub of: String,
    /// In the order of their positions.
    pub messages: Vec<Message>,
    pub more: bool,
    pub gap: bool,
    pub unread: Option<u32>,
}

/// The broker is about to close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    pub reason: String,
    /// Milliseconds to wait before connecting again.
    pub reconnect_ms: u32,
}

/// The connection ends, and why: the last frame of all. Sent where what lies below the messages cannot say it, or may lose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The code that a close frame of WebSocket would have.
    pub code: u16,
    /// What the code is called; empty for one that has no name of ours.
    pub name: String,
    /// What there is to say beyond the name; may be empty.
    pub message: String,
}

impl Close {
    /// With the reason that a close frame of WebSocket would have.
    pub fn new(code: u16, reason: &str) -> Self {
        let name = waspmq_core::Close::from_number(code).map_or("", waspmq_core::Close::name);
        let message = if reason == name { "" } else { reason };
        Self { code, name: name.to_owned(), message: message.to_owned() }
    }

    /// The reason that a close frame of WebSocket would have.
    pub fn reason(&self) -> &str {
        if self.message.is_empty() { &self.name } else { &self.message }
    }
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
    /// With [`Content::Json`]: one valid value, copied as it is. Compressed where `packed` is there.
    pub payload: &'a [u8],
    /// How the payload is compressed; in the binary profile alone.
    pub packed: Option<Packed>,
    pub headers: HeaderBlock<'a>,
    pub key: Option<&'a str>,
    pub priority: u8,
    pub reply_to: Option<&'a str>,
    /// The queue this delivery was chosen for.
    pub queue: Option<&'a str>,
    /// Present on redeliveries.
    pub attempt: Option<u16>,
    /// Whether the broker waits for an acknowledgement.
    pub wants_ack: bool,
    /// Publish time, milliseconds since 1970.
    pub unix_ms: u64,
}

/// A message as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: MessageId,
    pub to: String,
    pub from: Option<String>,
    /// [`Position::NONE`] where it has none.
    pub position: Position,
    pub content: Content,
    /// Compressed where `packed` is there, see [`Self::unpack`].
    pub payload: Vec<u8>,
    pub packed: Option<Packed>,
    pub headers: Vec<(String, String)>,
    pub key: Option<String>,
    pub priority: u8,
    pub reply_to: Option<String>,
    pub queue: Option<String>,
    pub attempt: Option<u16>,
    pub wants_ack: bool,
    pub unix_ms: u64,
}

impl Message {
    /// Makes the payload what was published; nothing is done where it is that already.
    ///
    /// # Errors
    /// When it has more than `max` bytes, is damaged, or the dictionary is missing.
    pub fn unpack(
        &mut self,
        unpacker: &mut Unpacker,
        dictionary: Option<&Dictionary>,
        max: usize,
    ) -> Result<(), UnpackError> {
        if let Some(packed) = self.packed {
            self.payload = unpacker.unpack(packed, dictionary, (&self.payload, max))?;
            self.packed = None;
        }
        Ok(())
    }
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
    Presence(Presence),
    PresenceChange(PresenceChange),
    Read(Read),
    History(History),
    Goaway(Goaway),
    Close(Close),
    Dictionary(SentDictionary),
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
            Frame::Presence(presence) => Self::Presence(presence),
            Frame::PresenceChange(change) => Self::PresenceChange(change),
            Frame::Read(read) => Self::Read(read),
            Frame::Goaway(goaway) => Self::Goaway(goaway),
            Frame::Close(close) => Self::Close(close),
            Frame::Pong => Self::Pong,
        }
    }
}
