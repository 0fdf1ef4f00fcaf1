//! Encoded frames that many connections of a worker share, and the encoder that lays them out.
//!
//! Consecutive messages for the same recipients become segments of at most [`limits::SEGMENT_BYTES`] (one
//! frame may be larger), split where the priority or the overflow action changes; a message that may be
//! conflated has one of its own. A segment is encoded once per worker and encoding, and is never changed after.
//! Messages that have expired are left out.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::outbound::{self, Class};
use waspmq_core::registry::InFlight;
use waspmq_core::settings::Overflow;
use waspmq_core::{Kind, MessageId, Name, QueueId, limits};
use waspmq_protocol::server::MessageFrame;
use waspmq_protocol::{Content, HeaderBlock, Profile, encode};
use waspmq_transport::websocket::{self, Opcode};

/// How a connection wants its frames: the profile, and whether several may share a WebSocket message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) profile: Profile,
    pub(crate) batch: bool,
}

impl Encoding {
    pub(crate) const COUNT: usize = 4;

    pub(crate) const fn index(self) -> usize {
        let profile = match self.profile {
            Profile::Json => 0,
            Profile::Binary => 2,
        };
        profile + self.batch as usize
    }

    pub(crate) const fn opcode(self) -> Opcode {
        match self.profile {
            Profile::Json => Opcode::Text,
            Profile::Binary => Opcode::Binary,
        }
    }

    /// What stands between two frames of one WebSocket message.
    const fn separator(self) -> &'static [u8] {
        match self.profile {
            Profile::Json => b"\n",
            Profile::Binary => b"",
        }
    }
}

/// Encoded frames with what must be known when they are written or dropped.
#[derive(Debug)]
pub(crate) struct Segment {
    bytes: Box<[u8]>,
    frames: u32,
    pub(crate) kind: Kind,
    /// When the first message was published, on the broker's clock.
    pub(crate) published_us: u64,
    class: Class,
    /// The queue for which its one message was chosen, when it is to be acknowledged.
    of_queue: Option<(QueueId, MessageId)>,
    /// Held until a queue delivery is written or dropped.
    _in_flight: Option<InFlight>,
}

/// A segment in an outbound queue; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Rc<Segment>);

impl Shared {
    pub(crate) fn segment(&self) -> &Segment {
        &self.0
    }
}

impl Segment {
    /// The queue for which its one message was chosen, and the message, when it is to be acknowledged.
    pub(crate) const fn of_queue(&self) -> Option<&(QueueId, MessageId)> {
        self.of_queue.as_ref()
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl outbound::Segment for Shared {
    fn frames(&self) -> u32 {
        self.0.frames
    }

    fn class(&self) -> &Class {
        &self.0.class
    }
}

/// What holds for the messages of a run while it is encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Of the address.
    pub(crate) overflow: Overflow,
    /// Whether a policy decides what is done with messages that do not fit.
    pub(crate) is_decided: bool,
    /// 0 when none of the messages can expire.
    pub(crate) now_unix_ms: u64,
}

impl Terms {
    /// What is done with messages of this batch that do not fit. Only what is in the store can be left to it.
    fn overflow(&self, batch: &Batch) -> Overflow {
        match self.overflow {
            Overflow::Spill if !batch.is_kept => Overflow::DropOldest,
            overflow => overflow,
        }
    }

    pub(crate) const fn has_expired(&self, envelope: &Envelope) -> bool {
        envelope.expires_unix_ms != 0 && envelope.expires_unix_ms <= self.now_unix_ms
    }
}

/// Lays out frames; keeps its buffer between calls.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    scratch: Vec<u8>,
}

/// Buffers above this size are given back after use.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;

impl Encoder {
    /// All messages of consecutive batches of one address, in order. Gives the number of those that have expired
    /// and are left out.
    pub(crate) fn segments(
        &mut self,
        batches: &[Arc<Batch>],
        encoding: Encoding,
        terms: Terms,
        out: &mut Vec<Shared>,
    ) -> u64 {
        let Self { scratch } = self;
        scratch.clear();
        let (mut open, mut expired) = (None::<Open>, 0);
        for batch in batches {
            let overflow = terms.overflow(batch);
            // A segment lies in one stream; messages from the store may be of several.
            if let Some(other) = open.take_if(|open| open.class.first.stream != batch.first.stream) {
                out.push(other.finish(scratch, None));
            }
            for (index, envelope) in batch.messages.iter().enumerate() {
                if terms.has_expired(envelope) {
                    expired += 1;
                    continue;
                }
                if let Some(other) = open.take_if(|open| !open.takes(batch, envelope, (overflow, terms))) {
                    out.push(other.finish(scratch, None));
                }
                let message = (&**batch, index, envelope);
                let current = open.get_or_insert_with(|| Open::new(encoding, message, (overflow, terms)));
                current.append(scratch, message, (None, None));
                let is_alone = overflow == Overflow::Conflate || current.class.key.is_some();
                if is_alone || scratch.len() >= limits::SEGMENT_BYTES {
                    out.extend(open.take().map(|open| open.finish(scratch, None)));
                }
            }
        }
        out.extend(open.map(|open| open.finish(scratch, None)));
        scratch.shrink_to(SCRATCH_KEPT_BYTES);
        expired
    }

    /// One message for one recipient, which is a frame of its own: mostly a repeat.
    pub(crate) fn repeat(
        &mut self,
        (batch, index): (&Batch, usize),
        attempt: u16,
        (encoding, terms): (Encoding, Terms),
    ) -> Option<Shared> {
        let message = (batch, index, batch.messages.get(index)?);
        let mut open = Open::new(encoding, message, (terms.overflow(batch), terms));
        open.class.key = None;
        self.scratch.clear();
        open.append(&mut self.scratch, message, (None, Some(attempt).filter(|&attempt| attempt > 1)));
        Some(open.finish(&mut self.scratch, None))
    }

    /// One message for one member of a queue, which is a frame of its own. A newer one does not replace it.
    pub(crate) fn queue_segment(
        &mut self,
        (batch, index): (&Batch, usize),
        (queue, attempt): (&QueueId, u16),
        (encoding, terms): (Encoding, Terms),
        in_flight: Option<InFlight>,
    ) -> Option<Shared> {
        let message = (batch, index, batch.messages.get(index)?);
        let mut open = Open::new(encoding, message, (terms.overflow(batch), terms));
        open.class.key = None;
        open.class.of_queue = true;
        self.scratch.clear();
        open.append(
            &mut self.scratch,
            message,
            (Some(queue.name().as_str()), Some(attempt).filter(|&attempt| attempt > 1)),
        );
        let of_queue = batch.wants_ack().then(|| (queue.clone(), message.2.id));
        Some(open.finish(&mut self.scratch, Some((in_flight, of_queue))))
    }
}

/// A message with its batch and its index there.
type Message<'a> = (&'a Batch, usize, &'a Envelope);

/// What a queue delivery holds until it is written or dropped, and what it is when it is to be acknowledged.
type Chosen = (Option<InFlight>, Option<(QueueId, MessageId)>);

/// The segment being laid out.
struct Open {
    encoding: Encoding,
    published_us: u64,
    class: Class,
    frames: u32,
    /// The open WebSocket message, where several frames share one.
    start: Option<websocket::FrameStart>,
}

impl Open {
    /// A segment that begins with `message`, which is still to be appended.
    fn new(
        encoding: Encoding,
        (batch, index, envelope): Message<'_>,
        (overflow, terms): (Overflow, Terms),
    ) -> Self {
        let first = batch.position(index);
        let may_conflate = overflow == Overflow::Conflate || terms.is_decided;
        let is_conflated = may_conflate && !envelope.key.is_empty();
        let class = Class {
            to: batch.to.clone(),
            overflow,
            priority: envelope.priority,
            first,
            last_offset: first.offset,
            key: is_conflated.then(|| batch.slice(envelope.key).into()),
            expires_unix_ms: envelope.expires_unix_ms,
            is_stored: batch.is_kept,
            of_queue: false,
        };
        Self { encoding, published_us: batch.published_us, class, frames: 0, start: None }
    }

    fn takes(&self, batch: &Batch, envelope: &Envelope, (overflow, terms): (Overflow, Terms)) -> bool {
        let has_key = terms.is_decided && !envelope.key.is_empty();
        self.class.priority == envelope.priority
            && self.class.overflow == overflow
            && self.class.is_stored == batch.is_kept
            && !has_key
    }

    fn append(&mut self, scratch: &mut Vec<u8>, message: Message<'_>, named: Named<'_>) {
        let (batch, index, envelope) = message;
        self.class.last_offset = batch.position(index).offset;
        // The segment is of no more use when the last of its messages is not.
        self.class.expires_unix_ms = match (self.class.expires_unix_ms, envelope.expires_unix_ms) {
            (0, _) | (_, 0) => 0,
            (a, b) => a.max(b),
        };
        let start = match self.start.take() {
            Some(start) => {
                scratch.extend_from_slice(self.encoding.separator());
                start
            }
            None => websocket::begin_frame(scratch),
        };
        encode::message(self.encoding.profile, &frame(batch, index, envelope, named), scratch);
        self.frames += 1;
        if self.encoding.batch {
            self.start = Some(start);
        } else {
            websocket::end_frame(scratch, start, self.encoding.opcode());
        }
    }

    fn finish(self, scratch: &mut Vec<u8>, chosen: Option<Chosen>) -> Shared {
        if let Some(start) = self.start {
            websocket::end_frame(scratch, start, self.encoding.opcode());
        }
        let (in_flight, of_queue) = chosen.unzip();
        let segment = Segment {
            bytes: scratch.as_slice().into(),
            frames: self.frames,
            kind: self.class.to.kind(),
            published_us: self.published_us,
            class: self.class,
            of_queue: of_queue.flatten(),
            _in_flight: in_flight.flatten(),
        };
        scratch.clear();
        Shared(Rc::new(segment))
    }
}

/// What makes a frame differ from the one that all plain recipients share: its queue, and its attempt.
pub(super) type Named<'a> = (Option<&'a str>, Option<u16>);

pub(super) fn frame<'a>(
    batch: &'a Batch,
    index: usize,
    envelope: &Envelope,
    (queue, attempt): Named<'a>,
) -> MessageFrame<'a> {
    let text = |slice| Some(batch.text(slice)).filter(|text| !text.is_empty());
    MessageFrame {
        id: envelope.id,
        to: batch.to.as_str(),
        from: batch.from.as_ref().map(Name::as_str),
        position: batch.position(index),
        content: if envelope.is_json { Content::Json } else { Content::Bytes },
        payload: batch.slice(envelope.payload),
        packed: None,
        headers: HeaderBlock::from_encoded(batch.slice(envelope.headers)),
        key: text(envelope.key),
        priority: envelope.priority,
        reply_to: text(envelope.reply_to),
        queue,
        attempt,
        wants_ack: batch.wants_ack(),
        unix_ms: batch.unix_ms,
    }
}
