//! Messages inside the broker: envelopes, and batches of consecutive envelopes of one session to one address.
//!
//! A batch is what crosses from worker to worker. Everything its messages share is stored once, their bytes
//! lie in one buffer, and an envelope is plain numbers, so that a batch costs two allocations and one
//! reference count however many messages it carries. Batches never change after they have positions.

use crate::address::{Address, Name};
use crate::id::{MessageId, Position, SessionId};
use crate::level::Level;
use std::ops::Range;

/// A part of [`Batch::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slice {
    start: u32,
    end: u32,
}

impl Slice {
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One message: its numbers, and where its bytes lie in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    pub id: MessageId,
    pub is_json: bool,
    pub priority: u8,
    /// When it is of no more use, milliseconds since 1970; 0 is never.
    pub expires_unix_ms: u64,
    pub payload: Slice,
    /// An encoded header block, empty when there are no headers.
    pub headers: Slice,
    pub key: Slice,
    pub reply_to: Slice,
}

/// Consecutive messages of one session to one address, in the order they were published.
#[derive(Debug, Clone)]
pub struct Batch {
    pub to: Address,
    /// The publishing user, `None` for the admin API.
    pub from: Option<Name>,
    /// The publishing session, `None` for the admin API.
    pub origin: Option<SessionId>,
    /// Whether the publishing session is left out.
    pub exclude_origin: bool,
    /// What the publisher asked for or the address demands; the same for all messages of the batch.
    pub level: Level,
    /// Whether the messages are stored, so that they are read from there by whom they do not reach now.
    pub is_kept: bool,
    /// Publish time of the batch, milliseconds since 1970.
    pub unix_ms: u64,
    /// The same moment on the broker's monotonic clock, microseconds.
    pub published_us: u64,
    /// Position of the first message; message `i` has offset `first.offset + i`.
    pub first: Position,
    pub messages: Vec<Envelope>,
    pub bytes: Vec<u8>,
}

impl Batch {
    /// A batch of message `index` alone.
    pub fn message_alone(&self, index: usize) -> Option<Self> {
        let envelope = *self.messages.get(index)?;
        let mut alone = Self { first: self.position(index), ..self.without_messages() };
        let payload = alone.store(self.slice(envelope.payload));
        let headers = alone.store(self.slice(envelope.headers));
        let key = alone.store(self.slice(envelope.key));
        let reply_to = alone.store(self.slice(envelope.reply_to));
        alone.messages.push(Envelope { payload, headers, key, reply_to, ..envelope });
        Some(alone)
    }

    /// A batch of these messages, of which only their numbers are left.
    pub fn without_payloads(&self, range: Range<usize>) -> Self {
        let first = self.position(range.start);
        let nothing = Slice::default();
        let numbers = |envelope: &Envelope| Envelope {
            payload: nothing,
            headers: nothing,
            key: nothing,
            reply_to: nothing,
            ..*envelope
        };
        let messages = self.messages.get(range).unwrap_or_default().iter().map(numbers).collect();
        Self { first, messages, ..self.without_messages() }
    }

    /// What all messages share, without any.
    fn without_messages(&self) -> Self {
        Self {
            to: self.to.clone(),
            from: self.from.clone(),
            origin: self.origin,
            exclude_origin: self.exclude_origin,
            level: self.level,
            is_kept: self.is_kept,
            unix_ms: self.unix_ms,
            published_us: self.published_us,
            first: self.first,
            messages: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Whether recipients are asked to acknowledge: the delivery is tracked, or the messages are stored and move
    /// the cursor of a device.
    pub fn wants_ack(&self) -> bool {
        self.is_kept || self.level == Level::Delivered
    }

    /// The bytes of `slice`; empty when it does not belong to this batch.
    pub fn slice(&self, slice: Slice) -> &[u8] {
        self.bytes.get(slice.range()).unwrap_or_default()
    }

    /// The text of `slice`; empty when it is not text, which parsing has ruled out.
    pub fn text(&self, slice: Slice) -> &str {
        std::str::from_utf8(self.slice(slice)).unwrap_or_default()
    }

    /// The position of message `index`.
    pub const fn position(&self, index: usize) -> Position {
        Position { stream: self.first.stream, offset: self.first.offset + index as u64 }
    }

    /// Copies `bytes` to the end of the buffer. A batch ends long before 4 GiB, see
    /// [`crate::limits::BATCH_MESSAGES_MAX`] and [`crate::limits::MESSAGE_BYTES_MAX`].
    pub fn store(&mut self, bytes: &[u8]) -> Slice {
        let start = self.end();
        self.bytes.extend_from_slice(bytes);
        Slice { start, end: self.end() }
    }

    /// Where the next bytes will lie; with [`Self::since`] for bytes written to the buffer directly.
    pub fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// Everything written since [`Self::end`] answered `start`.
    pub fn since(&self, start: u32) -> Slice {
        Slice { start, end: self.end() }
    }

    /// Memory this batch holds, for the bounds of a hand-off.
    pub const fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.messages.capacity() * size_of::<Envelope>() + self.bytes.capacity()
    }
}
