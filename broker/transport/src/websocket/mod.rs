//! WebSocket framing for the side that accepts connections (RFC 6455), with permessage-deflate.
//!
//! ```text
//!   0               1               2               3
//!  +-+-+-+-+-------+-+-------------+-------------------------------+
//!  |F|R|R|R| opcode|M| length      | 16 or 64 bits of length, if   |
//!  |I|S|S|S|  (4)  |A|   (7)       | length is 126 or 127          |
//!  |N|V|V|V|       |S|             | (big endian, shortest form)   |
//!  +-+-+-+-+-------+K+-------------+-------------------------------+
//!  | 32 bits of masking key: always from a client, never from here |
//!  +---------------------------------------------------------------+
//!  | payload                                                       |
//! ```
//!
//! Reading is [`Decoder`], writing is [`begin_frame`], [`end_frame`] and the `write_*` functions. The two share no
//! state: what is written does not depend on the connection it is written to.
//!
//! Where permessage-deflate was negotiated (RFC 7692, [`crate::http::Deflate`]), the first reserved bit of a message's
//! first frame says that the message is compressed, each message by itself. [`Inflater`] and [`Deflater`] have what
//! that takes, for all connections of a worker.

mod decode;
mod deflate;
mod encode;
mod header;
mod inflate;
mod mask;
mod utf8;
mod violation;

pub use decode::{Decoded, Decoder, Event, Limits};
pub use deflate::Deflater;
pub use encode::{
    FrameStart, HEADER_MAX, begin_frame, end_frame, header_bytes, write_close, write_frame, write_header,
    write_ping, write_pong,
};
pub use inflate::Inflater;
pub use violation::Violation;

/// What a frame is (RFC 6455, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// Whether frames of this kind may stand between the fragments of a message, and are short.
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// Close codes of RFC 6455, 7.4. The broker's own (4000 to 4199) are `waspmq_core::Close`.
pub mod close_code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// Stands for a close frame without a code; never on the wire.
    pub const NO_STATUS: u16 = 1005;
    pub const INVALID_DATA: u16 = 1007;
    pub const POLICY_VIOLATION: u16 = 1008;
    pub const MESSAGE_TOO_BIG: u16 = 1009;
    pub const INTERNAL_ERROR: u16 = 1011;

    /// Whether `code` may stand in a close frame: assigned by RFC 6455 or IANA's registry, or private use.
    pub const fn is_sendable(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}
