//! Encoded frames that many connections of a worker share, and the encoder that lays them out.
//!
//! Consecutive messages for the same recipients become segments of at most [`limits::SEGMENT_BYTES`] (one
//! frame may be larger), split where the priority or the overflow action changes; a message that may be
//! conflated, or leave the stream, has one of its own. A segment is encoded once per worker and encoding, and is never
//! changed after. Messages that have expired are left out.

use super::beside::{Asked, Beside};
use super::compression::{Compression, Deflating, Form, Subjects};
use super::counters::Counters;
use super::framing::{self, Begun, Framing};
use crate::dictionaries::{Dictionaries, Dictionary};
use bytes::Bytes;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use waspmq_core::compression::Codecs;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::outbound::{self, Class};
use waspmq_core::registry::InFlight;
use waspmq_core::settings::Overflow;
use waspmq_core::{Address, Kind, MessageId, Name, Position, QueueId, Stream, limits};
use waspmq_policy::WorkerPolicies;
use waspmq_protocol::server::MessageFrame;
use waspmq_protocol::{Content, HeaderBlock, Profile, encode};

/// How a connection wants its frames: in which framing and profile, whether several may share a message, and the codecs it
/// takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) framing: Framing,
    pub(crate) profile: Profile,
    pub(crate) batch: bool,
    pub(crate) codecs: Codecs,
    /// What may leave the stream, and is laid out for that.
    pub(crate) beside: Asked,
}

impl Encoding {
    /// What a socket begins with, before it said anything.
    pub(crate) const START: Self = Self {
        framing: Framing::WebSocket,
        profile: Profile::Json,
        batch: false,
        codecs: Codecs::NONE,
        beside: Asked::NOTHING,
    };

    /// Ways to encode a control frame.
    pub(crate) const CONTROL_COUNT: usize = 8;

    /// The way to encode a control frame, which is never compressed: below [`Self::CONTROL_COUNT`].
    pub(crate) const fn control_index(self) -> usize {
        let way = match (self.framing, self.profile) {
            (Framing::WebSocket, Profile::Json) => 0,
            (Framing::WebSocket, Profile::Binary) => 2,
            (Framing::Stream, _) => 4,
            (Framing::Events, _) => 6,
        };
        way + self.batch as usize
    }

    /// What stands between two frames of one message.
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
    bytes: Bytes,
    frames: u32,
    pub(crate) kind: Kind,
    /// When the first message was published, on the broker's clock.
    pub(crate) published_us: u64,
    class: Class,
    /// The queue for which its one message was chosen, when it is to be acknowledged.
    of_queue: Option<(QueueId, MessageId)>,
    /// What its messages are compressed with: the connection must have it before.
    dictionary: Option<Arc<Dictionary>>,
    /// How its one message may leave the stream.
    pub(crate) beside: Option<Beside>,
    /// Held until a queue delivery is written or dropped.
    _in_flight: Option<InFlight>,
}

/// A segment in an outbound queue; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Rc<Segment>);

impl Shared {
    /// The frame of a dictionary: no message, never dropped, and nothing passes it on its way.
    pub(super) fn of_dictionary(frame: Vec<u8>) -> Self {
        let stream = Stream { shard: u16::MAX, epoch: 0 };
        let class = Class {
            to: Address::all(),
            overflow: Overflow::DropNewest,
            priority: limits::PRIORITY_MAX,
            first: Position { stream, offset: 0 },
            last_offset: 0,
            key: None,
            expires_unix_ms: 0,
            is_stored: false,
            of_queue: false,
        };
        Self(Rc::new(Segment {
            bytes: frame.into(),
            frames: 0,
            kind: Kind::All,
            published_us: 0,
            class,
            of_queue: None,
            dictionary: None,
            beside: None,
            _in_flight: None,
        }))
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.0
    }

    /// Its bytes, for who has to hold on to them.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl Segment {
    /// The dictionary that whoever gets this must have.
    pub(crate) const fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        self.dictionary.as_ref()
    }

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
#[derive(Debug)]
pub(crate) struct Encoder {
    scratch: Vec<u8>,
    compression: Compression,
}

/// Whom compression asks and tells.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) policies: &'a mut WorkerPolicies,
    pub(crate) dictionaries: &'a Dictionaries,
    pub(crate) counters: &'a Counters,
}

/// Buffers above this size are given back after use.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;

impl Encoder {
    pub(crate) const fn new(compression: Compression) -> Self {
        Self { scratch: Vec::new(), compression }
    }

    /// Forgets what was compressed for the run before.
    pub(crate) fn begin_run(&mut self) {
        self.compression.begin_run();
    }

    /// All messages of consecutive batches of one address, in order. Gives the number of those that have expired
    /// and are left out.
    pub(crate) fn segments(
        &mut self,
        batches: &[Arc<Batch>],
        (encoding, terms): (Encoding, Terms),
        mut told: Told<'_>,
        out: &mut Vec<Shared>,
    ) -> u64 {
        let Some(first) = batches.first() else { return 0 };
        self.scratch.clear();
        let subjects = self.subjects(first, encoding, &mut told);
        let mut layout = Layout { encoder: self, told, encoding };
        let (mut open, mut expired) = (None::<Open>, 0);
        for batch in batches {
            let overflow = terms.overflow(batch);
            // A segment lies in one stream; messages from the store may be of several.
            if let Some(other) = open.take_if(|open| open.class.first.stream != batch.first.stream) {
                out.push(other.finish(&mut layout, None));
            }
            for (index, envelope) in batch.messages.iter().enumerate() {
                if terms.has_expired(envelope) {
                    expired += 1;
                    continue;
                }
                let form = layout.form(batch, envelope, subjects.as_ref());
                let beside = encoding.beside.of((batch, envelope), &form);
                let takes = |open: &mut Open| {
                    open.takes(batch, envelope, (overflow, terms)) && open.shares(encoding, &form)
                };
                if let Some(other) = open.take_if(|open| beside.is_some() || !takes(open)) {
                    out.push(other.finish(&mut layout, None));
                }
                let message = (&**batch, index, envelope);
                let current = open.get_or_insert_with(|| Open::new(message, (overflow, terms), &form));
                current.beside = beside;
                current.append(&mut layout, message, (None, None), form);
                let may_conflate = overflow == Overflow::Conflate || current.class.key.is_some();
                if beside.is_some() || may_conflate || layout.encoder.scratch.len() >= limits::SEGMENT_BYTES {
                    out.extend(open.take().map(|open| open.finish(&mut layout, None)));
                }
            }
        }
        out.extend(open.map(|open| open.finish(&mut layout, None)));
        self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
        expired
    }

    /// One message for one recipient, which is a frame of its own: mostly a repeat.
    pub(crate) fn repeat(
        &mut self,
        message: (&Batch, usize),
        attempt: u16,
        how: (Encoding, Terms),
        told: Told<'_>,
    ) -> Option<Shared> {
        self.alone(message, ((None, Some(attempt).filter(|&attempt| attempt > 1)), None), how, told)
    }

    /// One message for one member of a queue, which is a frame of its own. A newer one does not replace it.
    pub(crate) fn queue_segment(
        &mut self,
        (batch, index): (&Batch, usize),
        (queue, attempt): (&QueueId, u16),
        (how, in_flight): ((Encoding, Terms), Option<InFlight>),
        told: Told<'_>,
    ) -> Option<Shared> {
        let id = batch.messages.get(index)?.id;
        let of_queue = batch.wants_ack().then(|| (queue.clone(), id));
        let named = (Some(queue.name().as_str()), Some(attempt).filter(|&attempt| attempt > 1));
        self.alone((batch, index), (named, Some((in_flight, of_queue))), how, told)
    }

    fn alone(
        &mut self,
        (batch, index): (&Batch, usize),
        (named, chosen): (Named<'_>, Option<Chosen>),
        (encoding, terms): (Encoding, Terms),
        mut told: Told<'_>,
    ) -> Option<Shared> {
        let message = (batch, index, batch.messages.get(index)?);
        self.scratch.clear();
        self.compression.begin_run();
        let subjects = self.subjects(batch, encoding, &mut told);
        let mut layout = Layout { encoder: self, told, encoding };
        let form = layout.form(batch, message.2, subjects.as_ref());
        let mut open = Open::new(message, (terms.overflow(batch), terms), &form);
        open.class.key = None;
        open.class.of_queue = chosen.is_some();
        open.append(&mut layout, message, named, form);
        Some(open.finish(&mut layout, chosen))
    }

    fn subjects<'d>(&self, batch: &Batch, encoding: Encoding, told: &mut Told<'d>) -> Option<Subjects<'d>> {
        self.compression.subjects(batch, encoding.codecs, told.dictionaries, told.policies)
    }
}

/// What segments are laid out with.
struct Layout<'e, 't> {
    encoder: &'e mut Encoder,
    told: Told<'t>,
    encoding: Encoding,
}

impl Layout<'_, '_> {
    fn form(&mut self, batch: &Batch, envelope: &Envelope, subjects: Option<&Subjects<'_>>) -> Form {
        let Some(subjects) = subjects else { return Form::Plain };
        let Told { policies, counters, .. } = &mut self.told;
        self.encoder.compression.form((batch, envelope), subjects, policies, counters)
    }

    fn end(&mut self, begun: OpenMessage, deflating: Option<Deflating>) {
        let Encoder { scratch, compression } = &mut *self.encoder;
        let OpenMessage { begun, at } = begun;
        match (deflating, begun) {
            (Some(deflating), Begun::WebSocket(start)) => {
                let plain_bytes = scratch.len() - at;
                let frame = (scratch, start, plain_bytes);
                let told = (&mut *self.told.policies, self.told.counters);
                compression.end_deflated(frame, framing::opcode(self.encoding.profile), deflating, told);
            }
            (_, begun) => begun.end(scratch, self.encoding.profile),
        }
    }
}

/// A message with its batch and its index there.
type Message<'a> = (&'a Batch, usize, &'a Envelope);

/// What a queue delivery holds until it is written or dropped, and what it is when it is to be acknowledged.
type Chosen = (Option<InFlight>, Option<(QueueId, MessageId)>);

/// The segment being laid out.
struct Open {
    published_us: u64,
    class: Class,
    frames: u32,
    /// The open message, where several frames share one.
    begun: Option<OpenMessage>,
    dictionary: Option<Arc<Dictionary>>,
    /// How its messages of WebSocket are compressed.
    deflating: Option<Deflating>,
    beside: Option<Beside>,
}

/// A message that is being laid out, and where its payload begins.
struct OpenMessage {
    begun: Begun,
    at: usize,
}

impl Open {
    /// A segment that begins with `message`, which is still to be appended.
    fn new((batch, index, envelope): Message<'_>, (overflow, terms): (Overflow, Terms), form: &Form) -> Self {
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
        Self {
            published_us: batch.published_us,
            class,
            frames: 0,
            begun: None,
            dictionary: form.dictionary().cloned(),
            deflating: form.deflating(),
            beside: None,
        }
    }

    /// Whether a message may lie in the same segment, and in its open WebSocket message, as far as compression goes.
    fn shares(&self, encoding: Encoding, form: &Form) -> bool {
        let has_same = match (&self.dictionary, form.dictionary()) {
            (Some(one), Some(other)) => one.id == other.id,
            _ => true,
        };
        has_same && (!encoding.batch || self.deflating == form.deflating())
    }

    fn takes(&self, batch: &Batch, envelope: &Envelope, (overflow, terms): (Overflow, Terms)) -> bool {
        let has_key = terms.is_decided && !envelope.key.is_empty();
        self.class.priority == envelope.priority
            && self.class.overflow == overflow
            && self.class.is_stored == batch.is_kept
            && !has_key
    }

    fn append(&mut self, layout: &mut Layout<'_, '_>, message: Message<'_>, named: Named<'_>, form: Form) {
        let (batch, index, envelope) = message;
        self.class.last_offset = batch.position(index).offset;
        // The segment is of no more use when the last of its messages is not.
        self.class.expires_unix_ms = match (self.class.expires_unix_ms, envelope.expires_unix_ms) {
            (0, _) | (_, 0) => 0,
            (a, b) => a.max(b),
        };
        if self.dictionary.is_none() {
            self.dictionary = form.dictionary().cloned();
        }
        let deflating = form.deflating();
        let encoding = layout.encoding;
        let Encoder { scratch, compression } = &mut *layout.encoder;
        let begun = match self.begun.take() {
            Some(begun) => {
                scratch.extend_from_slice(encoding.separator());
                begun
            }
            None => {
                let begun = encoding.framing.begin(scratch);
                OpenMessage { begun, at: scratch.len() }
            }
        };
        let mut frame = frame(batch, index, envelope, named);
        frame.position = if self.beside.is_some() { Position::NONE } else { frame.position };
        if let Form::Packed { packed, at, .. } = form {
            (frame.packed, frame.payload) = (Some(packed), compression.bytes(at));
        }
        encode::message(encoding.profile, &frame, scratch);
        self.frames += 1;
        if encoding.batch {
            self.begun = Some(begun);
        } else {
            layout.end(begun, deflating);
        }
    }

    fn finish(self, layout: &mut Layout<'_, '_>, chosen: Option<Chosen>) -> Shared {
        if let Some(begun) = self.begun {
            layout.end(begun, self.deflating);
        }
        let scratch = &mut layout.encoder.scratch;
        let (in_flight, of_queue) = chosen.unzip();
        let segment = Segment {
            bytes: Bytes::copy_from_slice(scratch),
            frames: self.frames,
            kind: self.class.to.kind(),
            published_us: self.published_us,
            class: self.class,
            of_queue: of_queue.flatten(),
            dictionary: self.dictionary,
            beside: self.beside,
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
