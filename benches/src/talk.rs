//! How publishers and receivers talk to a server that acknowledges: the broker, NATS JetStream, MQTT 3.1.1.
//!
//! A publish is told apart by its *slot*, a number below the publisher's window that is used again once the publish
//! is acknowledged. Receivers acknowledge what they receive as their protocol wants it, into the buffer that is
//! written after the read. Clients are minimal: what a load generator needs, and an error for everything else.

mod mqtt;
mod nats;
mod waspmq;

use std::net::TcpStream;

use anyhow::Result;

use crate::conn::Gone;
use crate::wire::Wire;

pub(crate) use nats::create_stream;

/// Bytes of one write of publishes.
const WRITE_BYTES: usize = 64 * 1024;

/// How far a publish gets before its receipt, as the binary profile numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// There is no receipt.
    None = 0,
    Accepted = 1,
    Stored = 2,
    Delivered = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Binary profile; `batch` allows the broker several frames in one WebSocket message.
    Waspmq { level: Level, batch: bool },
    /// Publishes to a stream, each with a reply subject that its acknowledgement comes to.
    Nats,
    /// Quality of service 1 on both sides.
    Mqtt,
}

/// What one frame from a server means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The publish in this slot is acknowledged.
    Receipt(u64),
    Message {
        /// A redelivery, which at-least-once allows; not counted as received.
        repeat: bool,
    },
    /// An ack named nothing that is in flight: at-least-once allows that, too.
    LateAck,
    /// There was no room for the publish in this slot: to be published again after so long. Words for people.
    Overloaded { slot: u64, retry_ms: u64, words: String },
    /// An error or anything unknown, for people.
    Complaint(String),
}

impl Dialect {
    /// Whether publishes are answered.
    pub(crate) fn has_receipts(self) -> bool {
        !matches!(self, Self::Waspmq { level: Level::None, .. })
    }

    /// Where publisher `i` publishes, and receiver `i` receives.
    pub(crate) fn address(self, i: usize) -> String {
        match self {
            Self::Waspmq { .. } => format!("user/r{i}"),
            Self::Nats => nats::subject(i),
            Self::Mqtt => mqtt::topic(i),
        }
    }

    /// A connection that publishes, and what was read from it beyond the last answer.
    ///
    /// # Errors
    /// With the server's words when it refuses.
    pub(crate) fn publisher(self, port: u16, i: usize) -> Result<(TcpStream, Vec<u8>)> {
        match self {
            Self::Waspmq { batch, .. } => waspmq::connect(port, &format!("s{i}"), batch),
            Self::Nats => nats::connect(port, i),
            Self::Mqtt => mqtt::connect(port, &format!("s{i}"), None),
        }
    }

    /// A connection that receives what is published to [`Dialect::address`].
    ///
    /// # Errors
    /// With the server's words when it refuses.
    pub(crate) fn receiver(self, port: u16, i: usize) -> Result<(TcpStream, Vec<u8>)> {
        match self {
            // A user's own address is subscribed by itself.
            Self::Waspmq { batch, .. } => waspmq::connect(port, &format!("r{i}"), batch),
            Self::Nats => nats::connect(port, i),
            Self::Mqtt => mqtt::connect(port, &format!("r{i}"), Some(&self.address(i))),
        }
    }

    /// Publishes of publisher `i` to `address`, laid out for its slots.
    pub(crate) fn publishes(self, i: usize, address: &str, payload_bytes: usize) -> Publishes {
        let payload = vec![b'x'; payload_bytes];
        match self {
            Self::Waspmq { level, .. } => waspmq::publishes(level, address, &payload),
            Self::Nats => nats::publishes(i, address, &payload),
            Self::Mqtt => mqtt::publishes(address, &payload),
        }
    }

    /// Hands each complete frame in `bytes` to `take`, pushes what has to be answered onto `out`, and returns how
    /// many bytes are done with.
    ///
    /// # Errors
    /// When the bytes are not what the protocol allows, or say goodbye.
    pub(crate) fn hear(
        self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        take: impl FnMut(Heard),
    ) -> Result<usize, Gone> {
        match self {
            Self::Waspmq { level, .. } => waspmq::hear(level, bytes, out, take),
            Self::Nats => nats::hear(bytes, out, take),
            Self::Mqtt => mqtt::hear(bytes, out, take),
        }
    }

    /// Appends what keeps a silent connection open.
    pub(crate) fn push_sign_of_life(self, out: &mut Vec<u8>) {
        match self {
            Self::Waspmq { .. } => Wire::push_pong(out, b""),
            Self::Nats => out.extend_from_slice(b"PONG\r\n"),
            // Connections are made without a keep-alive time.
            Self::Mqtt => {}
        }
    }
}

/// Where a publish carries its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Nowhere,
    /// Eight bytes, little-endian, under this mask.
    Masked {
        at: usize,
        mask: [u8; 8],
    },
    /// Two bytes, big-endian, one above the slot: 0 is not a packet id.
    Packet {
        at: usize,
    },
    /// Five decimal digits.
    Digits {
        at: usize,
    },
}

/// Publishes laid out before the run: only the slot changes.
#[derive(Debug)]
pub(crate) struct Publishes {
    frames: Vec<u8>,
    frame_bytes: usize,
    slot: Slot,
}

impl Publishes {
    fn new(frame: &[u8], slot: Slot) -> Self {
        let copies = (WRITE_BYTES / frame.len()).clamp(1, 64);
        Self { frames: frame.repeat(copies), frame_bytes: frame.len(), slot }
    }

    /// How many publishes [`Publishes::frames`] can give at once.
    pub(crate) fn copies(&self) -> usize {
        self.frames.len() / self.frame_bytes
    }

    /// The bytes of one publish for each of the first slots, at most [`Publishes::copies`].
    pub(crate) fn frames(&mut self, slots: &[u16]) -> &[u8] {
        let count = slots.len().min(self.copies());
        for (frame, &slot) in self.frames.chunks_exact_mut(self.frame_bytes).zip(slots) {
            match self.slot {
                Slot::Nowhere => {}
                Slot::Masked { at, mask } => {
                    for (i, byte) in u64::from(slot).to_le_bytes().into_iter().enumerate() {
                        frame[at + i] = byte ^ mask[i];
                    }
                }
                Slot::Packet { at } => frame[at..at + 2].copy_from_slice(&(slot + 1).to_be_bytes()),
                Slot::Digits { at } => {
                    let mut rest = slot;
                    for byte in frame[at..at + 5].iter_mut().rev() {
                        *byte = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                        rest /= 10;
                    }
                }
            }
        }
        &self.frames[..count * self.frame_bytes]
    }
}
