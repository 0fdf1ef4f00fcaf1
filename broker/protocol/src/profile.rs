//! The words both profiles share: which profile, what a payload is, how far a publish must get.

pub use waspmq_core::Level;

/// The WebSocket subprotocol of [`Profile::Json`].
pub const SUBPROTOCOL_JSON: &str = "waspmq.v1.json";

/// The WebSocket subprotocol of [`Profile::Binary`].
pub const SUBPROTOCOL_BINARY: &str = "waspmq.v1.bin";

/// How frames are encoded on a connection; fixed when the connection opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// JSON text; in a batch, one frame per line.
    Json,
    /// Binary, little-endian; in a batch, concatenated.
    Binary,
}

impl Profile {
    pub const ALL: [Self; 2] = [Self::Json, Self::Binary];

    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => SUBPROTOCOL_JSON,
            Self::Binary => SUBPROTOCOL_BINARY,
        }
    }

    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.subprotocol() == name)
    }
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Any bytes. JSON carries them as `payload_b64`.
    Bytes,
    /// One JSON value that [`crate::payload::validate_json`] has accepted.
    Json,
}

impl Content {
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::Bytes => 0,
            Self::Json => 1,
        }
    }

    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Bytes),
            1 => Some(Self::Json),
            _ => None,
        }
    }
}
