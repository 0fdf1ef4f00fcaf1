//! Why bytes are not a frame, and why a frame cannot become bytes.

use crate::codec::UnpackError;
use crate::headers::HeaderError;
use crate::limits::{ERROR_TEXT_BYTES_MAX, TYPE_NAME_BYTES_MAX};
use crate::payload::PayloadError;
use waspmq_core::{Code, Reject};

/// A frame that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DecodeError {
    /// The frame's `ref`, when it could be read in spite of the problem.
    pub reference: Option<u64>,
    /// Whether the frame was to be a `connect`: of a stranger, it is told what is wrong with it.
    pub is_connect: bool,
    pub problem: Problem,
}

impl DecodeError {
    pub(crate) const fn new(reference: Option<u64>, problem: Problem) -> Self {
        Self { reference, is_connect: false, problem }
    }

    pub(crate) fn of_connect(self, is_connect: bool) -> Self {
        Self { is_connect, ..self }
    }

    /// What the peer is told.
    pub fn reject(&self) -> Reject {
        self.problem.reject()
    }
}

/// What is wrong with the bytes. The text is written for the person who made them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    InvalidFrame(String),
    #[error("unknown frame type {0}")]
    UnknownType(String),
    #[error("payload: {0}")]
    InvalidPayload(#[from] PayloadError),
    #[error("{0}")]
    Packed(#[from] UnpackError),
    #[error("reply_to: {0}")]
    InvalidAddress(#[from] waspmq_core::AddressError),
    #[error("the text is not UTF-8")]
    NotUtf8,
    #[error("the frame has {bytes} bytes, the limit is {max}")]
    TooLarge { bytes: usize, max: usize },
}

impl Problem {
    /// An `invalid_frame` with a text that may quote input, so it is cut.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::InvalidFrame(cut(text.into(), ERROR_TEXT_BYTES_MAX))
    }

    pub(crate) fn unknown_type(name: &str) -> Self {
        Self::UnknownType(format!("{:?}", prefix(name, TYPE_NAME_BYTES_MAX)))
    }

    pub(crate) fn missing(field: &str) -> Self {
        Self::InvalidFrame(format!("missing field `{field}`"))
    }

    /// What the peer is told.
    pub fn reject(&self) -> Reject {
        Reject::new(self.code(), self.to_string())
    }

    pub const fn code(&self) -> Code {
        match self {
            Self::InvalidFrame(_) => Code::InvalidFrame,
            Self::UnknownType(_) => Code::UnknownType,
            Self::TooLarge { .. } | Self::Packed(UnpackError::TooLarge { .. }) => Code::MessageTooLarge,
            Self::InvalidPayload(_) | Self::Packed(_) => Code::InvalidPayload,
            Self::InvalidAddress(_) => Code::InvalidAddress,
            Self::NotUtf8 => Code::WrongProfile,
        }
    }
}

impl From<HeaderError> for Problem {
    fn from(error: HeaderError) -> Self {
        Self::InvalidFrame(error.to_string())
    }
}

/// A client frame that the protocol cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("{field} has {len} bytes, the limit is {max}")]
    TooLong { field: &'static str, len: usize, max: usize },
    #[error("{field} has {len} entries, the limit is {max}")]
    TooMany { field: &'static str, len: usize, max: usize },
    #[error("{field} is empty")]
    Empty { field: &'static str },
    #[error("a compressed payload has no form in the JSON profile")]
    PackedText,
    #[error("priority is {priority}, the highest is 9")]
    Priority { priority: u8 },
    #[error("headers: {0}")]
    Headers(HeaderError),
    #[error("payload: {0}")]
    Payload(PayloadError),
}

// Not sources: the texts have them already.
impl From<HeaderError> for EncodeError {
    fn from(error: HeaderError) -> Self {
        Self::Headers(error)
    }
}

impl From<PayloadError> for EncodeError {
    fn from(error: PayloadError) -> Self {
        Self::Payload(error)
    }
}

/// `text` cut to at most `max` bytes at a character boundary.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}
