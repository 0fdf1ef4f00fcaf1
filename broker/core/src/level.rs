//! How far a publish must get before its publisher is told.
//!
//! Levels mean what they say: a receipt never names a level that was not reached.

/// How far a publish must get before its publisher is told; in a receipt, how far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is told.
    None,
    /// Decided and enqueued.
    Accepted,
    /// On stable storage.
    Stored,
    /// Acknowledged by every recipient user.
    Delivered,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::None, Self::Accepted, Self::Stored, Self::Delivered];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Accepted => "accepted",
            Self::Stored => "stored",
            Self::Delivered => "delivered",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }

    pub const fn as_u8(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Accepted => 1,
            Self::Stored => 2,
            Self::Delivered => 3,
        }
    }

    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Accepted),
            2 => Some(Self::Stored),
            3 => Some(Self::Delivered),
            _ => None,
        }
    }

    /// The level of a publish that names none: a receipt needs a `ref` to be told by.
    pub const fn implied(has_reference: bool) -> Self {
        if has_reference { Self::Accepted } else { Self::None }
    }
}
