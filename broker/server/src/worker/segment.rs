//! Encoded frames that many connections of a worker share, and the encoder that lays them out.
//!
//! Consecutive messages for the same recipients become segments of at most [`limits::SEGMENT_BYTES`] (one
//! frame may be larger). A segment is encoded once per worker and encoding, and is never changed after.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::registry::InFlight;
use waspmq_core::{Kind, limits, outbound};
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
}

/// Lays out frames; keeps its buffer between calls.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    scratch: Vec<u8>,
}

/// Buffers above this size are given back after use.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;

impl Encoder {
    /// All messages of consecutive batches, in order.
    pub(crate) fn segments(&mut self, batches: &[Arc<Batch>], encoding: Encoding, out: &mut Vec<Shared>) {
        let Some(first) = batches.first() else { return };
        let mut open = Open {
            encoding,
            kind: first.to.kind(),
            published_us: first.published_us,
            frames: 0,
            start: None,
        };
        self.scratch.clear();
        for batch in batches {
            for (index, envelope) in batch.messages.iter().enumerate() {
                if open.frames == 0 {
                    open.published_us = batch.published_us;
                }
                open.append(&mut self.scratch, &frame(batch, index, envelope, None));
                if self.scratch.len() >= limits::SEGMENT_BYTES {
                    out.push(open.finish(&mut self.scratch, None));
                }
            }
        }
        if open.frames > 0 {
            out.push(open.finish(&mut self.scratch, None));
        }
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
    }

    /// One message for one member of a queue, which is a frame of its own.
    pub(crate) fn queue_segment(
        &mut self,
        (batch, index): (&Batch, usize),
        queue: &str,
        encoding: Encoding,
        in_flight: InFlight,
    ) -> Option<Shared> {
        let envelope = batch.messages.get(index)?;
        let (kind, published_us) = (batch.to.kind(), batch.published_us);
        let mut open = Open { encoding, kind, published_us, frames: 0, start: None };
        self.scratch.clear();
        open.append(&mut self.scratch, &frame(batch, index, envelope, Some(queue)));
        Some(open.finish(&mut self.scratch, Some(in_flight)))
    }
}

/// The segment being laid out.
struct Open {
    encoding: Encoding,
    kind: Kind,
    published_us: u64,
    frames: u32,
    /// The open WebSocket message, where several frames share one.
    start: Option<websocket::FrameStart>,
}

impl Open {
    fn append(&mut self, scratch: &mut Vec<u8>, frame: &MessageFrame<'_>) {
        let start = match self.start.take() {
            Some(start) => {
                scratch.extend_from_slice(self.encoding.separator());
                start
            }
            None => websocket::begin_frame(scratch),
        };
        encode::message(self.encoding.profile, frame, scratch);
        self.frames += 1;
        if self.encoding.batch {
            self.start = Some(start);
        } else {
            websocket::end_frame(scratch, start, self.encoding.opcode());
        }
    }

    fn finish(&mut self, scratch: &mut Vec<u8>, in_flight: Option<InFlight>) -> Shared {
        if let Some(start) = self.start.take() {
            websocket::end_frame(scratch, start, self.encoding.opcode());
        }
        let segment = Segment {
            bytes: scratch.as_slice().into(),
            frames: std::mem::take(&mut self.frames),
            kind: self.kind,
            published_us: self.published_us,
            _in_flight: in_flight,
        };
        scratch.clear();
        Shared(Rc::new(segment))
    }
}

fn frame<'a>(
    batch: &'a Batch,
    index: usize,
    envelope: &Envelope,
    queue: Option<&'a str>,
) -> MessageFrame<'a> {
    let text = |slice| Some(batch.text(slice)).filter(|text| !text.is_empty());
    MessageFrame {
        id: envelope.id,
        to: batch.to.as_str(),
        from: batch.from.as_ref().map(waspmq_core::Name::as_str),
        position: batch.position(index),
        content: if envelope.is_json { Content::Json } else { Content::Bytes },
        payload: batch.slice(envelope.payload),
        headers: HeaderBlock::from_encoded(batch.slice(envelope.headers)),
        key: text(envelope.key),
        priority: envelope.priority,
        reply_to: text(envelope.reply_to),
        queue,
        attempt: None,
        unix_ms: batch.unix_ms,
    }
}
