//! How a connection's bytes are cut into messages.

use waspmq_protocol::{Profile, stream};
use waspmq_transport::websocket::{self, FrameStart, Opcode};

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Framing {
    /// RFC 6455.
    WebSocket,
    /// Each with its length in front, on a stream of QUIC: [`waspmq_protocol::stream`].
    Stream,
    /// Each the data of a server-sent event, in the JSON profile, which has no line breaks within a message.
    Events,
}

/// A message that is being appended.
#[derive(Debug)]
pub(crate) enum Begun {
    WebSocket(FrameStart),
    Stream(stream::Start),
    Event,
}

impl Framing {
    /// Whether a connection's end has its reason in a message of the framing, behind everything else. Otherwise the last message
    /// is a frame `close`, see `Worker::close_with`.
    pub(crate) const fn has_close(self) -> bool {
        matches!(self, Self::WebSocket)
    }

    /// Appends what keeps a connection alive and, over WebSocket, is answered. QUIC has its own.
    pub(crate) fn write_ping(self, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket => websocket::write_ping(b"", out),
            Self::Stream => {}
            // A comment.
            Self::Events => out.extend_from_slice(b":\n\n"),
        }
    }

    /// Leaves room for what stands in front of a message; what is appended until [`Begun::end`] is the message.
    pub(crate) fn begin(self, out: &mut Vec<u8>) -> Begun {
        match self {
            Self::WebSocket => Begun::WebSocket(websocket::begin_frame(out)),
            Self::Stream => Begun::Stream(stream::begin(out)),
            Self::Events => {
                out.extend_from_slice(b"data: ");
                Begun::Event
            }
        }
    }
}

impl Begun {
    /// Writes what stands in front of the message.
    pub(crate) fn end(self, out: &mut Vec<u8>, profile: Profile) {
        match self {
            Self::WebSocket(start) => websocket::end_frame(out, start, opcode(profile)),
            Self::Stream(start) => stream::end(out, start),
            Self::Event => out.extend_from_slice(b"\n\n"),
        }
    }
}

/// The opcode of a profile's messages.
pub(crate) const fn opcode(profile: Profile) -> Opcode {
    match profile {
        Profile::Json => Opcode::Text,
        Profile::Binary => Opcode::Binary,
    }
}
