//! Making the bytes of messages fewer: who decides, who does it, and what it came to.
//!
//! For each message and set of codecs that recipients take, the compression policies of the address are asked, or, where
//! there are none, what adaptive compression has learned. The work is done once per codec and shared by all recipients
//! of the worker, however many sets of codecs there are.
//!
//! Payloads are compressed by themselves in the binary profile; permessage-deflate compresses WebSocket messages, which
//! is left to the encoder that lays them out ([`Form::Deflate`]).

use super::counters::Counters;
use crate::clock::Clock;
use crate::dictionaries::{Dictionaries, Dictionary};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use waspmq_core::compression::{Adaptive, Audience, Codec, Codecs, Subject, Trial};
use waspmq_core::limits::DICTIONARIES_PER_RUN_MAX;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::policy::{Compressing, Message, PolicyIndex, Work};
use waspmq_core::{Address, MessageId, Name};
use waspmq_policy::WorkerPolicies;
use waspmq_protocol::HeaderBlock;
use waspmq_protocol::codec::{Method, Packed, PackedCodec, Packer};
use waspmq_transport::websocket::{Deflater, FrameStart, Opcode};

/// Levels of DEFLATE, each with a compressor of its own where it is used.
const DEFLATE_LEVELS: usize = 9;

/// What a worker compresses with.
#[derive(Debug)]
pub(super) struct Compression {
    clock: Clock,
    /// Absent where messages are compressed by policies alone.
    adaptive: Option<Adaptive>,
    packer: Packer,
    deflaters: [Option<Box<Deflater>>; DEFLATE_LEVELS],
    /// Compressed payloads of the run at hand, and where they lie; none where compressing made nothing less.
    packed: Vec<u8>,
    done: HashMap<Key, Option<Range<usize>>, foldhash::fast::RandomState>,
    /// What policies chose for messages of the run at hand, by who takes what.
    chosen: HashMap<(MessageId, u8), Option<(Codec, By)>, foldhash::fast::RandomState>,
    /// The dictionaries that they name.
    named: SmallVec<[u32; DICTIONARIES_PER_RUN_MAX]>,
    hasher: foldhash::fast::FixedState,
}

/// What was done with which message: the codec by number, its level, and the dictionary.
type Key = (MessageId, u8, i8, u32);

/// Who asked for the compression of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Policy(PolicyIndex),
    Adaptive(Trial),
}

/// How a message is laid out.
#[derive(Debug)]
pub(super) enum Form {
    Plain,
    /// With this payload instead, see [`Compression::bytes`].
    Packed {
        packed: Packed,
        at: Range<usize>,
        dictionary: Option<Arc<Dictionary>>,
    },
    /// The WebSocket message around it is to be compressed.
    Deflate(Deflating),
}

/// How a WebSocket message is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deflating {
    level: u8,
    by: By,
}

/// What holds for the messages of one address while they are laid out.
#[derive(Debug)]
pub(super) struct Subjects<'a> {
    dictionaries: &'a Dictionaries,
    by_address: Option<&'a Arc<Dictionary>>,
    audience: Audience,
    /// Whether a policy is bound.
    is_asked: bool,
    kin: u64,
}

impl Compression {
    pub(super) fn new(clock: Clock, adaptive: Option<Adaptive>) -> Self {
        Self {
            clock,
            adaptive,
            packer: Packer::default(),
            deflaters: Default::default(),
            packed: Vec::new(),
            done: HashMap::default(),
            chosen: HashMap::default(),
            named: SmallVec::new(),
            hasher: foldhash::fast::FixedState::default(),
        }
    }

    /// Forgets the compressed messages of the run before.
    pub(super) fn begin_run(&mut self) {
        /// Buffers above this size are given back.
        const KEPT_BYTES: usize = 256 * 1024;
        self.chosen.clear();
        self.named.clear();
        if !self.done.is_empty() {
            self.done.clear();
            self.packed.clear();
            self.packed.shrink_to(KEPT_BYTES);
        }
    }

    /// What holds for messages of `batch`'s address to those who take `codecs`; `None` when they take none, or nobody
    /// would choose one.
    pub(super) fn subjects<'a>(
        &self,
        batch: &Batch,
        codecs: Codecs,
        dictionaries: &'a Dictionaries,
        policies: &mut WorkerPolicies,
    ) -> Option<Subjects<'a>> {
        if codecs.is_empty() {
            return None;
        }
        let is_asked = policies.has_compression(batch.to.as_str());
        if !is_asked && self.adaptive.is_none() {
            return None;
        }
        let takes_dictionaries = codecs.contains(Codecs::DICTIONARY) && !dictionaries.is_empty();
        let by_address = if takes_dictionaries { dictionaries.for_address(&batch.to) } else { None };
        let audience = Audience { codecs, has_dictionary: by_address.is_some() };
        let kin = self.hasher.hash_one(batch.to.as_str());
        Some(Subjects { dictionaries, by_address, audience, is_asked, kin })
    }

    /// How one message is laid out for these recipients. Compresses its payload where that is how.
    pub(super) fn form(
        &mut self,
        (batch, envelope): (&Batch, &Envelope),
        subjects: &Subjects<'_>,
        policies: &mut WorkerPolicies,
        counters: &Counters,
    ) -> Form {
        let payload = batch.slice(envelope.payload);
        let Some((codec, by)) = self.choose((batch, envelope), subjects, policies) else {
            return Form::Plain;
        };
        let dictionary = match &codec {
            Codec::Dictionary { name } => self.named(subjects.dictionary(&batch.to, name.as_ref())),
            _ => None,
        };
        let (method, known_as) = match &codec {
            Codec::Plain => return Form::Plain,
            Codec::Deflate { level } => return Form::Deflate(Deflating { level: *level, by }),
            Codec::Lz4 => (Method::Lz4, PackedCodec::Lz4),
            Codec::Zstd { level } => (Method::Zstd { level: *level }, PackedCodec::Zstd),
            Codec::Dictionary { .. } => match dictionary {
                Some(found) => {
                    (Method::Dictionary(&found.prepared), PackedCodec::Dictionary { id: found.id })
                }
                None => (Method::Zstd { level: 1 }, PackedCodec::Zstd),
            },
        };
        let codec = match method {
            Method::Zstd { level } => Codec::Zstd { level },
            _ => codec,
        };
        let key = key(envelope.id, &codec, known_as);
        if !self.done.contains_key(&key) {
            let at = self.pack((method, &codec), payload, by, (policies, counters));
            self.done.insert(key, at);
        }
        let Some(Some(at)) = self.done.get(&key).cloned() else { return Form::Plain };
        let plain_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let packed = Packed { codec: known_as, plain_bytes };
        Form::Packed { packed, at, dictionary: dictionary.cloned() }
    }

    /// The payload of a [`Form::Packed`] of the run at hand.
    pub(super) fn bytes(&self, at: Range<usize>) -> &[u8] {
        self.packed.get(at).unwrap_or_default()
    }

    /// Ends a WebSocket message of `plain_bytes`, compressed unless that makes it longer.
    pub(super) fn end_deflated(
        &mut self,
        (out, start, plain_bytes): (&mut Vec<u8>, FrameStart, usize),
        opcode: Opcode,
        deflating: Deflating,
        told: (&mut WorkerPolicies, &Counters),
    ) {
        let index = usize::from(deflating.level.saturating_sub(1));
        let Some(place) = self.deflaters.get_mut(index) else {
            return waspmq_transport::websocket::end_frame(out, start, opcode);
        };
        let deflater = place.get_or_insert_with(|| Box::new(Deflater::new(deflating.level)));
        let (before, begun) = (out.len(), self.clock.now_ns());
        deflater.end_frame(out, start, opcode);
        let spent_ns = self.clock.now_ns().saturating_sub(begun);
        let packed_bytes = plain_bytes.saturating_sub(before.saturating_sub(out.len()));
        let codec = Codec::Deflate { level: deflating.level };
        let work = Work { codec: &codec, plain_bytes, packed_bytes, spent_ns };
        self.note(&work, deflating.by, told);
    }

    /// The dictionary, unless the run names as many others as it may.
    fn named<'d>(&mut self, dictionary: Option<&'d Arc<Dictionary>>) -> Option<&'d Arc<Dictionary>> {
        let id = dictionary?.id;
        if !self.named.contains(&id) {
            if self.named.len() >= DICTIONARIES_PER_RUN_MAX {
                return None;
            }
            self.named.push(id);
        }
        dictionary
    }

    fn choose(
        &mut self,
        (batch, envelope): (&Batch, &Envelope),
        subjects: &Subjects<'_>,
        policies: &mut WorkerPolicies,
    ) -> Option<(Codec, By)> {
        if subjects.is_asked
            && let Some(chosen) = self.ask((batch, envelope), subjects, policies)
        {
            return Some(chosen);
        }
        let adaptive = self.adaptive.as_mut()?;
        let size = batch.slice(envelope.payload).len();
        if adaptive.is_too_short(size) {
            return None;
        }
        let subject = Subject {
            size,
            kin: subjects.kin ^ u64::from(envelope.is_json),
            dictionary: subjects.by_address.map_or(0, |dictionary| dictionary.id),
            audience: subjects.audience,
        };
        let (codec, trial) = adaptive.choose(subject, self.clock.now_us())?;
        Some((codec, By::Adaptive(trial)))
    }

    /// What the policies choose for a message, asked once for those who take the same codecs.
    fn ask(
        &mut self,
        (batch, envelope): (&Batch, &Envelope),
        subjects: &Subjects<'_>,
        policies: &mut WorkerPolicies,
    ) -> Option<(Codec, By)> {
        let audience = subjects.audience;
        let key = (envelope.id, audience.codecs.bits());
        if let Some(chosen) = self.chosen.get(&key) {
            return chosen.clone();
        }
        let headers = headers(batch, envelope);
        let message = Message {
            from: batch.from.as_ref().map_or("", Name::as_str),
            session: None,
            to: batch.to.as_str(),
            kind: batch.to.kind(),
            key: batch.text(envelope.key),
            payload: batch.slice(envelope.payload),
            is_json: envelope.is_json,
            headers: &headers,
            priority: envelope.priority,
            unix_ms: batch.unix_ms,
        };
        let chosen = policies.choose(&message, envelope.id, audience);
        let chosen = chosen.map(|chosen| (chosen.codec.for_audience(audience), By::Policy(chosen.policy)));
        self.chosen.insert(key, chosen.clone());
        chosen
    }

    fn pack(
        &mut self,
        (method, codec): (Method<'_>, &Codec),
        payload: &[u8],
        by: By,
        told: (&mut WorkerPolicies, &Counters),
    ) -> Option<Range<usize>> {
        let (start, begun) = (self.packed.len(), self.clock.now_ns());
        let is_smaller = self.packer.pack(method, payload, &mut self.packed);
        let spent_ns = self.clock.now_ns().saturating_sub(begun);
        let said_bytes = if matches!(method, Method::Dictionary(_)) { 9 } else { 5 };
        let packed_bytes = if is_smaller { self.packed.len() - start + said_bytes } else { payload.len() };
        self.note(&Work { codec, plain_bytes: payload.len(), packed_bytes, spent_ns }, by, told);
        is_smaller.then_some(start..self.packed.len())
    }

    /// Counts what compressing came to, and tells it to who asked for it.
    fn note(&mut self, work: &Work<'_>, by: By, (policies, counters): (&mut WorkerPolicies, &Counters)) {
        let counts = counters.compression.of(work.codec);
        counts.messages.add(1);
        counts.plain_out.add(work.plain_bytes as u64);
        counts.wire_out.add(work.packed_bytes as u64);
        counts.spent_ns.add(work.spent_ns);
        match by {
            By::Policy(policy) => policies.compressed(policy, work),
            By::Adaptive(trial) => {
                if let Some(adaptive) = &mut self.adaptive {
                    adaptive.measured(
                        (trial, work.plain_bytes),
                        work.codec,
                        work.packed_bytes,
                        work.spent_ns,
                    );
                }
            }
        }
    }
}

impl Form {
    /// What a payload is compressed with.
    pub(super) const fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        match self {
            Self::Packed { dictionary, .. } => dictionary.as_ref(),
            Self::Plain | Self::Deflate(_) => None,
        }
    }

    /// How the WebSocket message is to be compressed.
    pub(super) const fn deflating(&self) -> Option<Deflating> {
        match self {
            Self::Deflate(deflating) => Some(*deflating),
            Self::Plain | Self::Packed { .. } => None,
        }
    }
}

impl Subjects<'_> {
    /// The dictionary that a choice means. One that is pushed for other addresses is not used here: it has pieces of
    /// messages to those, and recipients are sent it.
    fn dictionary(&self, to: &Address, name: Option<&Name>) -> Option<&Arc<Dictionary>> {
        let Some(name) = name else { return self.by_address };
        let named = self.dictionaries.by_name(name.as_str())?;
        named.patterns.iter().any(|pattern| pattern.matches(to)).then_some(named)
    }
}

/// The headers of a message, as a policy pulls them.
fn headers(batch: &Batch, envelope: &Envelope) -> Vec<(String, String)> {
    let block = HeaderBlock::from_encoded(batch.slice(envelope.headers));
    block.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

const fn key(id: MessageId, codec: &Codec, known_as: PackedCodec) -> Key {
    match (known_as, codec) {
        (PackedCodec::Lz4, _) => (id, 0, 0, 0),
        (PackedCodec::Zstd, Codec::Zstd { level }) => (id, 1, *level, 0),
        (PackedCodec::Zstd, _) => (id, 1, 1, 0),
        (PackedCodec::Dictionary { id: dictionary }, _) => (id, 2, 0, dictionary),
    }
}
