//! How the bytes of a message are made fewer on their way to recipients: the codecs, who takes which, and what is
//! chosen where no policy does.
//!
//! A message is compressed once per codec and worker and the bytes are shared, so what is chosen holds for an
//! [`Audience`]: the recipients that take the same codecs. Nothing here compresses; that is `waspmq-protocol`'s.

mod adaptive;

pub use adaptive::{Adaptive, Budget, Subject, Trial};

use crate::address::Name;

/// The codecs a recipient takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Codecs(u8);

impl Codecs {
    pub const NONE: Self = Self(0);
    /// LZ4 blocks.
    pub const LZ4: Self = Self(1);
    /// Zstandard, RFC 8878.
    pub const ZSTD: Self = Self(2);
    /// Zstandard with a dictionary that the broker sends beforehand.
    pub const DICTIONARY: Self = Self(4);
    /// DEFLATE of whole WebSocket messages: permessage-deflate, RFC 7692.
    pub const DEFLATE: Self = Self(8);

    /// The sets there are, [`Self::NONE`] included.
    pub const SETS: usize = 16;

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are taken.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A number below [`Self::SETS`].
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The codecs a client names in `connect`. Those it does not know, the broker passes over.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().fold(Self::NONE, |codecs, name| match name {
            "lz4" => codecs.with(Self::LZ4),
            "zstd" => codecs.with(Self::ZSTD),
            "zstd-dict" => codecs.with(Self::ZSTD).with(Self::DICTIONARY),
            _ => codecs,
        })
    }
}

/// Those that get the same bytes of a message: recipients on one worker that take the same codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    pub codecs: Codecs,
    /// Whether a dictionary is there for the address.
    pub has_dictionary: bool,
}

/// What a message is sent with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Plain,
    Lz4,
    /// At a level of [`ZSTD_LEVELS`].
    Zstd {
        level: i8,
    },
    /// With the dictionary of this name, or the one that is pushed for the address.
    Dictionary {
        name: Option<Name>,
    },
    /// At a level of [`DEFLATE_LEVELS`].
    Deflate {
        level: u8,
    },
}

/// The levels of Zstandard that may be chosen: above, a message of 1 MiB takes more than a quarter of a second.
pub const ZSTD_LEVELS: std::ops::RangeInclusive<i8> = -7..=9;

/// The levels of DEFLATE that may be chosen.
pub const DEFLATE_LEVELS: std::ops::RangeInclusive<u8> = 1..=9;

impl Codec {
    /// What a recipient must take for this.
    pub const fn needs(&self) -> Codecs {
        match self {
            Self::Plain => Codecs::NONE,
            Self::Lz4 => Codecs::LZ4,
            Self::Zstd { .. } => Codecs::ZSTD,
            Self::Dictionary { .. } => Codecs::DICTIONARY,
            Self::Deflate { .. } => Codecs::DEFLATE,
        }
    }

    /// The label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Plain => "none",
            Self::Lz4 => "lz4",
            Self::Zstd { .. } => "zstd",
            Self::Dictionary { .. } => "zstd-dict",
            Self::Deflate { .. } => "deflate",
        }
    }

    /// This, where the recipients take it; else the nearest thing that they do.
    #[must_use]
    pub fn for_audience(self, audience: Audience) -> Self {
        let is_known = !matches!(self, Self::Dictionary { name: None }) || audience.has_dictionary;
        match self {
            codec if audience.codecs.contains(codec.needs()) && is_known => codec,
            Self::Dictionary { .. } if audience.codecs.contains(Codecs::ZSTD) => Self::Zstd { level: 1 },
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_a_set() {
        let codecs = Codecs::from_names(["br", "zstd-dict", "lz4"]);
        assert!(codecs.contains(Codecs::LZ4.with(Codecs::ZSTD).with(Codecs::DICTIONARY)));
        assert!(!codecs.contains(Codecs::DEFLATE), "that is negotiated by the handshake");
        assert!(Codecs::from_names(["br"]).is_empty());
        assert!(usize::from(codecs.with(Codecs::DEFLATE).bits()) < Codecs::SETS);
    }

    #[test]
    fn what_is_not_taken_becomes_the_nearest_thing_that_is() {
        let audience = |codecs, has_dictionary| Audience { codecs, has_dictionary };
        let by_address = Codec::Dictionary { name: None };
        let both = Codecs::ZSTD.with(Codecs::DICTIONARY);
        assert_eq!(by_address.clone().for_audience(audience(both, true)), by_address);
        assert_eq!(by_address.clone().for_audience(audience(both, false)), Codec::Zstd { level: 1 });
        assert_eq!(by_address.clone().for_audience(audience(Codecs::LZ4, true)), Codec::Plain);
        let deflate = Codec::Deflate { level: 9 };
        assert_eq!(deflate.clone().for_audience(audience(Codecs::DEFLATE, false)), deflate);
        assert_eq!(deflate.for_audience(audience(both, false)), Codec::Plain);
        assert_eq!(Codec::Plain.for_audience(audience(both, true)), Codec::Plain);
    }
}
