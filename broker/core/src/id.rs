//! Identifiers the broker hands out: sessions, messages, positions.
//!
//! Ids are unique within a broker's data directory: the epoch, which grows at every start, is part of them.
//! Text forms are fixed here so that every profile and the admin API print the same.

use std::fmt;
use std::str::FromStr;

/// An authenticated conversation. Not a secret. Text form: 16 hexadecimal digits.
///
/// Layout: epoch (24 bits), worker (8 bits), count (32 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    pub const fn new(epoch: u32, worker: u8, count: u32) -> Self {
        Self(((epoch as u64) << 40) | ((worker as u64) << 32) | count as u64)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 16 {
            return Err(IdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| IdError)
    }
}

/// A message. Text form: 32 hexadecimal digits. Ids of one worker ascend.
///
/// Layout: publish time in milliseconds since 1970 (48 bits), epoch (24 bits), worker (8 bits), count (48 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

impl MessageId {
    pub const fn new(unix_ms: u64, epoch: u32, worker: u8, count: u64) -> Self {
        Self(
            (((unix_ms & 0xffff_ffff_ffff) as u128) << 80)
                | (((epoch & 0x00ff_ffff) as u128) << 56)
                | ((worker as u128) << 48)
                | (count & 0xffff_ffff_ffff) as u128,
        )
    }

    /// Publish time, milliseconds since 1970.
    pub const fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// The run of the broker that made it.
    #[expect(clippy::cast_possible_truncation, reason = "the field is exactly as wide")]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 56) as u32 & 0x00ff_ffff
    }

    /// The worker that made it and that tracks its delivery.
    #[expect(clippy::cast_possible_truncation, reason = "the field is exactly as wide")]
    pub const fn worker(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Its number among that worker's messages of the epoch; ascending.
    #[expect(clippy::cast_possible_truncation, reason = "the field is exactly as wide")]
    pub const fn count(self) -> u64 {
        self.0 as u64 & 0xffff_ffff_ffff
    }

    /// The id of the message `count` later in the same batch, whose ids have consecutive counts. Its publish time
    /// is this one's.
    #[must_use]
    pub const fn later(self, count: u64) -> Self {
        Self((self.0 & !0xffff_ffff_ffff) | ((self.count() + count) & 0xffff_ffff_ffff) as u128)
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The text form without allocation.
    pub fn to_hex(self) -> [u8; 32] {
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.to_bytes()) {
            if let [high, low] = pair {
                *high = hex_digit(byte >> 4);
                *low = hex_digit(byte & 15);
            }
        }
        text
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for MessageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 32 {
            return Err(IdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| IdError)
    }
}

/// The stream that numbers the messages of an address: a registry shard in one epoch of the broker.
/// Text form: `s<shard>e<epoch>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    pub shard: u16,
    pub epoch: u32,
}

/// A message's place in its address. Text form: `s<shard>e<epoch>:<offset>`. Offsets of one address strictly
/// increase and are not consecutive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub stream: Stream,
    pub offset: u64,
}

impl Position {
    /// Stands where a message has none: it is before every other, and not a message's, because epochs begin with 1.
    pub const NONE: Self = Self { stream: Stream { shard: 0, epoch: 0 }, offset: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}e{}:{}", self.stream.shard, self.stream.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (stream, offset) = text.strip_prefix('s').and_then(|t| t.split_once(':')).ok_or(IdError)?;
        let (shard, epoch) = stream.split_once('e').ok_or(IdError)?;
        Ok(Self { stream: Stream { shard: number(shard)?, epoch: number(epoch)? }, offset: number(offset)? })
    }
}

fn number<N: FromStr>(digits: &str) -> Result<N, IdError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(IdError);
    }
    digits.parse().map_err(|_| IdError)
}

/// The text is not an id of the asked kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct IdError;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_forms_round_trip(a in any::<u64>(), epoch in 0u32..1 << 24, worker in any::<u8>(), count in any::<u32>()) {
            let session = SessionId::new(epoch, worker, count);
            prop_assert_eq!(session.to_string().parse(), Ok(session));
            let message = MessageId::new(a, epoch, worker, u64::from(count));
            prop_assert_eq!(message.to_string().parse(), Ok(message));
            let hex = message.to_hex();
            prop_assert_eq!(std::str::from_utf8(&hex).unwrap(), message.to_string());
            prop_assert_eq!(MessageId::from_bytes(message.to_bytes()), message);
            prop_assert_eq!(
                (message.unix_ms(), message.epoch(), message.worker(), message.count()),
                (a & 0xffff_ffff_ffff, epoch, worker, u64::from(count))
            );
            let position = Position { stream: Stream { shard: u16::from(worker), epoch }, offset: a };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn bad_ids() {
        for text in ["", "s1", "s1e2", "s1e2:", "se:1", "s1e2:+3", "s1e2:3 ", "x1e2:3", "s99999e1:1"] {
            assert_eq!(text.parse::<Position>(), Err(IdError), "{text:?}");
        }
        assert_eq!("zz".parse::<SessionId>(), Err(IdError));
        assert_eq!("0".repeat(33).parse::<MessageId>(), Err(IdError));
    }
}
