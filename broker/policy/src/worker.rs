//! The policies of one I/O worker: its own instances, its own memory of which policies an address has.
//!
//! No lock and no wait on the way of a message: a newer generation is one pointer comparison. The look-up at the
//! beginning of a message's pass settles its generation, and the hooks behind it do not look again. Instances of
//! bindings that a newer generation keeps stay where they are.

use crate::answers;
use crate::capture::Recorder;
use crate::decisions::Decisions;
use crate::hook::Hook;
use crate::limits;
use crate::lineup::{Generation, Masks};
use crate::place::{Answered, Concerned, Ended, Place};
use crate::question::{Admitted, Delivered, Full, Missed, Planned, Question, Routed};
use crate::seat::{Desk, Seat};
use crate::shared::Shared;
use crate::trace::{Explained, Traces};
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use std::collections::HashMap;
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::address::Address;
use waspmq_core::compression::{Audience, Codec};
use waspmq_core::policy::{
    Acking, Acknowledgement, Admission, Admittance, Bound, BySettings, Chosen, Compressing, Decision,
    Failure, Message, Outcome, Overflowed, Overflowing, Policies, PolicyIndex, Route, Routing, TraceId,
    Verdict, Work,
};
use waspmq_core::settings::{Overflow, Settings};

/// The policies of one worker. Made by [`crate::Host::worker`], once per worker.
#[derive(Debug)]
pub struct WorkerPolicies {
    shared: Arc<Shared>,
    worker: usize,
    cache: Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>,
    generation: Arc<Generation>,
    places: Vec<Place>,
    matches: HashMap<Box<str>, Masks, foldhash::fast::RandomState>,
    /// The address asked about last, with its bound policies: each hook looks its message's address up.
    last: (String, Masks),
    decisions: Decisions,
    recorder: Recorder,
    traces: Traces,
}

/// What came of asking the policies of a hook one after the other.
enum Asked<T> {
    /// One decided, the one with this number.
    Decided(T, u32),
    /// None decided.
    Passed,
    /// One failed that is set to end the matter then, the one with this number.
    Failed(Box<Ended>, u32),
}

impl WorkerPolicies {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            cache: Cache::new(Arc::clone(&shared.active)),
            shared,
            worker,
            generation: Arc::default(),
            places: Vec::new(),
            matches: HashMap::default(),
            last: (String::new(), Masks::default()),
            decisions: Decisions::default(),
            recorder: Recorder::new(worker),
            traces: Traces::default(),
        }
    }

    /// The number of the generation that the last question was answered by.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Says which id a message has that was decided, so that what was decided can be found by it.
    #[inline]
    pub fn name(&mut self, trace: Option<TraceId>, id: MessageId) {
        if let Some(trace) = trace {
            self.traces.name(trace, id);
        }
    }

    /// What was decided about a message, as far as this worker remembers.
    pub fn explain(&self, id: MessageId) -> Explained {
        self.traces.find(id)
    }

    #[inline]
    fn refresh(&mut self) {
        if !Arc::ptr_eq(self.cache.load(), &self.generation) {
            self.adopt();
        }
    }

    /// Takes over the current generation: keeps the instances of bindings it has already, takes the warm ones
    /// of the others.
    #[cold]
    fn adopt(&mut self) {
        loop {
            let newest = Arc::clone(self.cache.load());
            let places = std::mem::take(&mut self.places);
            let is_kept = |seat: &Seat| newest.bindings().any(|kept| Arc::ptr_eq(kept, &seat.binding));
            // What goes goes first, so that this worker never holds more than one generation has.
            let (mut old, gone): (Vec<Seat>, Vec<Seat>) =
                places.into_iter().flat_map(Place::into_seats).partition(is_kept);
            gone.into_iter().filter_map(|seat| seat.serving).for_each(|gone| self.shared.discard(gone));
            let worker = self.worker;
            for lineup in &newest.lineups {
                self.places.push(Place::new(lineup, |binding| {
                    match old.iter().position(|seat| Arc::ptr_eq(&seat.binding, binding)) {
                        Some(known) => old.swap_remove(known),
                        None => Seat::new(binding, worker),
                    }
                }));
            }
            self.generation = newest;
            self.matches.clear();
            self.last.0.clear();
            self.decisions.clear();
            // A binding is retired behind the store of the generation without it, so the next turn finds that one.
            if !self.places.iter().any(Place::is_overtaken) {
                return;
            }
        }
    }

    /// The policies bound to `to` in the generation at hand.
    fn masks(&mut self, to: &str) -> Masks {
        if self.places.is_empty() {
            return Masks::default();
        }
        if self.last.0 != to {
            let bound = self.look_up(to);
            to.clone_into(&mut self.last.0);
            self.last.1 = bound;
        }
        self.last.1
    }

    fn look_up(&mut self, to: &str) -> Masks {
        if let Some(&known) = self.matches.get(to) {
            return known;
        }
        let Ok(address) = Address::parse(to) else { return Masks::default() };
        let bound = self.generation.bound_to(&address);
        if self.matches.len() >= limits::MATCH_CACHE_MAX {
            self.matches.clear();
        }
        self.matches.insert(to.into(), bound);
        bound
    }

    /// Puts a question to the policies of `hook` in their order, until one decides.
    fn first<Q: Question>(&mut self, hook: Hook, question: &mut Q) -> Asked<Q::Answer> {
        let masks = self.masks(question.to());
        let mut asked = masks.of(hook);
        let desk = Desk { shared: &self.shared, worker: self.worker };
        while asked != 0 {
            let index = asked.trailing_zeros();
            asked &= asked - 1;
            let Some(place) = self.places.get_mut(index as usize) else { continue };
            let has = |mask: u64| mask >> index & 1 == 1;
            let concerned = Concerned {
                active: has(masks.active),
                candidate: has(masks.candidate),
                previous: has(masks.previous),
            };
            let (decisions, traces) = (&mut self.decisions, &mut self.traces);
            match place.decide(desk, (index as usize, concerned), (question, decisions), traces) {
                Answered::With(answer) => {
                    if let Some(answer) = question.take(answer) {
                        return Asked::Decided(answer, index);
                    }
                }
                Answered::Nothing => {}
                Answered::BuiltIn => return Asked::Passed,
                Answered::Failed(ended) => return Asked::Failed(ended, index),
            }
        }
        Asked::Passed
    }
}

impl Policies for WorkerPolicies {
    fn bound(&mut self, to: &str) -> Bound {
        self.refresh();
        let masks = self.masks(to);
        let has = |hook| masks.of(hook) != 0;
        let bound = Bound {
            admission: has(Hook::Admission),
            routing: has(Hook::Routing),
            acking: has(Hook::Ack),
            overflow: has(Hook::Overflow),
            compression: has(Hook::Compression),
            captured: self.recorder.wants(&self.shared.captures, to),
        };
        if bound.on_publish() || bound.compression {
            self.traces.begin(to, self.generation.number);
        } else {
            self.traces.begin_nothing();
        }
        bound
    }

    #[inline]
    fn trace(&mut self) -> Option<TraceId> {
        self.traces.ticket()
    }

    fn capture(&mut self, message: &Message<'_>, settings: &Settings) {
        self.recorder.message(&self.shared.captures, message, settings);
    }
}

impl Admission for WorkerPolicies {
    fn admit(&mut self, message: &Message<'_>) -> Admittance {
        match self.first(Hook::Admission, &mut Admitted(message)) {
            Asked::Decided(admittance, _) => admittance.unwrap_or(Admittance::Admitted),
            Asked::Passed => Admittance::Admitted,
            Asked::Failed(ended, _) => Admittance::Failed(ended.to_string()),
        }
    }
}

impl Routing for WorkerPolicies {
    fn route(&mut self, message: &Message<'_>) -> Outcome {
        let mut question = Routed::new(message);
        let route = match self.first(Hook::Routing, &mut question) {
            Asked::Decided(said, _) => Verdict::from(said).route,
            Asked::Passed => Route::Continue,
            Asked::Failed(ended, _) => return Outcome::Refused(ended.to_string()),
        };
        Outcome::Decided(Verdict { route, set_headers: question.set_headers })
    }
}

impl Acking for WorkerPolicies {
    fn plan(&mut self, message: &Message<'_>, settings: &Settings) -> Option<Acknowledgement> {
        match self.first(Hook::Ack, &mut Planned { message, settings }) {
            Asked::Decided(acknowledgement, _) => acknowledgement,
            Asked::Passed | Asked::Failed(..) => None,
        }
    }

    fn failed(&mut self, failure: &Failure<'_>) -> Decision {
        self.refresh();
        let to = failure.to.as_str();
        let is_captured = self.recorder.wants(&self.shared.captures, to);
        if !is_captured && self.masks(to).of(Hook::Ack) == 0 {
            return BySettings.failed(failure);
        }
        let recipient = answers::recipient(failure.recipient);
        let Some(told) = answers::told(failure, &recipient) else { return BySettings.failed(failure) };
        if is_captured {
            self.recorder.failure(&self.shared.captures, &told);
        }
        self.traces.begin_failure(failure, self.generation.number);
        let asked = self.first(Hook::Ack, &mut Missed { told, id: Some(failure.id) });
        self.traces.end_failure(failure);
        match asked {
            Asked::Decided(Some(decision), _) => decision,
            Asked::Decided(None, _) | Asked::Passed | Asked::Failed(..) => BySettings.failed(failure),
        }
    }
}

impl Overflowing for WorkerPolicies {
    fn has_overflow(&mut self, to: &str) -> bool {
        self.refresh();
        self.masks(to).of(Hook::Overflow) != 0 || self.recorder.wants(&self.shared.captures, to)
    }

    fn overflow(&mut self, what: &Overflowed<'_>) -> Overflow {
        if self.recorder.wants(&self.shared.captures, what.to.as_str()) {
            self.recorder.overflow(&self.shared.captures, what);
        }
        match self.first(Hook::Overflow, &mut Full(what)) {
            Asked::Decided(Some(action), _) => action,
            Asked::Decided(None, _) | Asked::Passed | Asked::Failed(..) => what.configured,
        }
    }
}

impl Compressing for WorkerPolicies {
    fn has_compression(&mut self, to: &str) -> bool {
        self.refresh();
        self.masks(to).of(Hook::Compression) != 0 || self.recorder.wants(&self.shared.captures, to)
    }

    fn choose(&mut self, message: &Message<'_>, id: MessageId, audience: Audience) -> Option<Chosen> {
        if self.recorder.wants(&self.shared.captures, message.to) {
            self.recorder.delivery(&self.shared.captures, message, audience);
        }
        if self.masks(message.to).of(Hook::Compression) == 0 {
            return None;
        }
        self.traces.begin_delivery(id, audience, self.generation.number);
        let asked = self.first(Hook::Compression, &mut Delivered::new(message, Some(id), audience));
        self.traces.end_delivery();
        let (codec, number) = match asked {
            Asked::Decided(Some(codec), number) => (codec, number),
            Asked::Failed(_, number) => (Codec::Plain, number),
            Asked::Decided(None, _) | Asked::Passed => return None,
        };
        let policy = PolicyIndex(self.generation.number << NUMBER_BITS | u64::from(number));
        Some(Chosen { codec, policy })
    }

    fn compressed(&mut self, PolicyIndex(policy): PolicyIndex, work: &Work<'_>) {
        // The places may be others by now, and another policy in this one.
        if policy >> NUMBER_BITS != self.generation.number {
            return;
        }
        let number = usize::try_from(policy & ((1 << NUMBER_BITS) - 1)).unwrap_or(usize::MAX);
        let stats = self.places.get(number).and_then(Place::stats);
        stats.into_iter().for_each(|stats| stats.compressed(self.worker, work));
    }
}

/// Bits of a [`PolicyIndex`] for the policy's number in its generation, which fits into them: policies of a generation are
/// told apart in a mask.
const NUMBER_BITS: u32 = 8;
