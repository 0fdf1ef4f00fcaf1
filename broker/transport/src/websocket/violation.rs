//! The ways a peer can break the framing, each with the close code and the text it is told.

use super::close_code::{INVALID_DATA, MESSAGE_TOO_BIG, POLICY_VIOLATION, PROTOCOL_ERROR};

/// Why a connection has to be failed (RFC 6455, 7.1.7). The texts are stable: they are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.reason())]
pub enum Violation {
    /// One of the three reserved bits is set where no extension that was negotiated has a use for it (5.2).
    ReservedBits,
    /// The opcode is none of the six that are defined (5.2).
    ReservedOpcode,
    /// A client's frame without a mask (5.1).
    Unmasked,
    /// A length in more bytes than it needs (5.2).
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (5.2).
    LengthTopBit,
    /// A control frame of more than 125 bytes (5.5).
    ControlTooLong,
    /// A control frame without the FIN bit (5.5).
    ControlFragmented,
    /// A continuation although no message is open (5.4).
    UnexpectedContinuation,
    /// A text or binary frame although the fragments of another message have not ended (5.4).
    UnfinishedMessage,
    /// A close frame with one byte of payload (5.5.1).
    CloseTooShort,
    /// A close code that may not be sent (7.4).
    CloseCode,
    /// The reason in a close frame is not UTF-8 (5.5.1).
    CloseReasonUtf8,
    /// A text message is not UTF-8 (8.1).
    TextUtf8,
    /// A compressed message is not whole blocks of DEFLATE (RFC 7692, 7.2.2).
    CompressedData,
    /// The message is longer than [`Limits::message_bytes_max`](super::Limits::message_bytes_max).
    MessageTooLong,
    /// The message has more than [`Limits::fragments_max`](super::Limits::fragments_max) fragments.
    TooManyFragments,
    /// More than [`Limits::control_frames_max`](super::Limits::control_frames_max) control frames inside a message.
    TooManyControlFrames,
}

impl Violation {
    pub const ALL: &'static [Self] = &[
        Self::ReservedBits,
        Self::ReservedOpcode,
        Self::Unmasked,
        Self::LengthNotMinimal,
        Self::LengthTopBit,
        Self::ControlTooLong,
        Self::ControlFragmented,
        Self::UnexpectedContinuation,
        Self::UnfinishedMessage,
        Self::CloseTooShort,
        Self::CloseCode,
        Self::CloseReasonUtf8,
        Self::TextUtf8,
        Self::CompressedData,
        Self::MessageTooLong,
        Self::TooManyFragments,
        Self::TooManyControlFrames,
    ];

    /// The code of the close frame that answers this.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::CloseReasonUtf8 | Self::TextUtf8 | Self::CompressedData => INVALID_DATA,
            Self::TooManyFragments | Self::TooManyControlFrames => POLICY_VIOLATION,
            Self::MessageTooLong => MESSAGE_TOO_BIG,
            _ => PROTOCOL_ERROR,
        }
    }

    /// The reason of the close frame that answers this; short enough for one.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set without an extension",
            Self::ReservedOpcode => "reserved opcode",
            Self::Unmasked => "client frame is not masked",
            Self::LengthNotMinimal => "frame length is not in its shortest form",
            Self::LengthTopBit => "frame length has its top bit set",
            Self::ControlTooLong => "control frame is longer than 125 bytes",
            Self::ControlFragmented => "control frame is fragmented",
            Self::UnexpectedContinuation => "continuation frame without a message",
            Self::UnfinishedMessage => "new message inside a fragmented message",
            Self::CloseTooShort => "close frame has half a code",
            Self::CloseCode => "close code is not allowed",
            Self::CloseReasonUtf8 => "close reason is not UTF-8",
            Self::TextUtf8 => "text message is not UTF-8",
            Self::CompressedData => "compressed message is broken",
            Self::MessageTooLong => "message is too long",
            Self::TooManyFragments => "message has too many fragments",
            Self::TooManyControlFrames => "too many control frames inside a message",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reasons_differ_and_fit_a_close_frame() {
        let reasons: HashSet<_> = Violation::ALL.iter().map(|v| v.reason()).collect();
        assert_eq!(reasons.len(), Violation::ALL.len());
        assert!(reasons.iter().all(|reason| reason.len() <= 123));
    }
}
