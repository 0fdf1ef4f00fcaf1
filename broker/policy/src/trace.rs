//! What the policies of one worker decided lately: a ring of traces, each about one message.
//!
//! ```text
//! begin ──note…note──▶ ticket ──────────▶ name        a message that was taken in
//!   ▲                    └─ (it waits) ─▶ name        moves to the end, where its id belongs
//!   └──────────────────────── begin                   a message that was refused: its place is taken anew
//! ```
//!
//! Invariants: nothing is kept of a message to whose address no policy is bound; the counts of ids ascend along the
//! ring, so that a message is found by bisection; a place keeps its room when it is taken anew, so that a message costs
//! no allocation; nothing is put into words before somebody asks. Deliberately not here: how a trace reads (`show.rs`).

mod notes;
mod said;
mod samples;
mod show;

pub(crate) use said::{Said, Texts, show};
pub use show::{Decided, Ended, Explained, Explanation, Failed, Recorded, ToldAudience};

use crate::binding::Binding;
use crate::limits::{TRACE_DECISIONS_MAX, TRACES_MAX};
use crate::shadow::Differences;
use crate::stats::CallOutcome;
use samples::Samples;
use smallvec::SmallVec;
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::compression::Audience;
use waspmq_core::delivery::Cause;
use waspmq_core::policy::{Failure, TraceId};

/// Of a policy's version, what a trace says of it. Each seat has its own, so that no two workers count references to
/// the same one.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    policy: Arc<str>,
    /// `plugin@revision`.
    revision: Arc<str>,
    hook: &'static str,
}

impl Label {
    pub(crate) fn of(binding: &Binding) -> Arc<Self> {
        let (policy, revision) = (Arc::clone(&binding.name), Arc::clone(&binding.revision));
        Arc::new(Self { policy, revision, hook: binding.hook.as_str() })
    }
}

/// What a version is to its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Active,
    Candidate,
    Previous,
}

/// The questions of the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Admit,
    Route,
    Plan,
    Failed,
    Choose,
}

/// What served instead of a version that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// The next policy, or behind the last one what is built in or configured.
    Next,
    BuiltIn,
    /// Nothing: the message was refused, or where a policy cannot refuse, what is configured was done or the message sent as
    /// it is.
    Closed,
    /// Another version of the policy, which was asked then.
    Version(Role),
    /// Nothing was to be served: it decided nothing.
    Nothing,
}

/// One policy that was asked.
#[derive(Debug, Clone)]
struct Noted {
    label: Arc<Label>,
    facts: Facts,
}

#[derive(Debug, Clone, Copy)]
struct Facts {
    said: Said,
    generation: u64,
    /// [`NOT_TIMED`] where the plugin was not called; with [`OF_EARLIER`] where the call was not timed.
    ns: u32,
    failed: Option<(CallOutcome, Instead)>,
    /// Of the attempt that the question is about.
    attempt: Option<(Cause, u16)>,
    /// Those that the question is about.
    audience: Option<Audience>,
    asked: Asked,
    role: Role,
    is_shadow: bool,
    is_cached: bool,
}

/// What was decided about one message.
#[derive(Debug, Clone)]
struct Trace {
    ticket: u64,
    /// [`UNNAMED`] before the message has one.
    id: MessageId,
    /// The address, and behind it the texts of what was decided.
    texts: Texts,
    /// Those behind `count` are of an earlier message.
    decisions: SmallVec<[Noted; 1]>,
    count: u16,
    left_out: u16,
    /// By [`Asked`], of which questions decisions were left out.
    left_out_of: u8,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            ticket: NOBODY,
            id: UNNAMED,
            texts: Texts::default(),
            decisions: SmallVec::new(),
            count: 0,
            left_out: 0,
            left_out_of: 0,
        }
    }
}

impl Trace {
    #[inline]
    fn begin(&mut self, ticket: u64, to: &str) {
        (self.ticket, self.id) = (ticket, UNNAMED);
        (self.count, self.left_out, self.left_out_of) = (0, 0, 0);
        self.texts.begin(to);
    }

    #[inline]
    fn push(&mut self, label: &Arc<Label>, facts: Facts) {
        let count = usize::from(self.count);
        if count >= TRACE_DECISIONS_MAX {
            self.left_out = self.left_out.saturating_add(1);
            self.left_out_of |= 1 << facts.asked as u8;
            return;
        }
        match self.decisions.get_mut(count) {
            Some(old) => {
                // Mostly the same as in the message before at this place: no reference is counted then.
                if !Arc::ptr_eq(&old.label, label) {
                    old.label = Arc::clone(label);
                }
                old.facts = facts;
            }
            None => self.decisions.push(Noted { label: Arc::clone(label), facts }),
        }
        self.count += 1;
    }

    fn decisions(&self) -> &[Noted] {
        self.decisions.get(..usize::from(self.count)).unwrap_or_default()
    }
}

/// Where a note goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Writing {
    /// Nowhere: nobody asks about this message.
    #[default]
    Nothing,
    /// The next place of the ring.
    Message,
    /// The traces of messages that are in the ring already, by way of `failure`.
    Failure(Cause, u16),
    /// The trace at this place, which is that of the message being delivered.
    Delivery(usize, Audience),
}

/// The traces of one worker.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// By the ticket modulo [`TRACES_MAX`].
    places: Vec<Trace>,
    /// Of the same places: the count of the id, or that of the id named before where there is none.
    counts: Vec<u64>,
    /// The ticket of the message at hand, or of the next one.
    next: u64,
    last_count: u64,
    writing: Writing,
    generation: u64,
    failure: Trace,
    /// Examples for people that wait for the id of their message.
    samples: Samples,
}

impl Traces {
    /// A message to `to` is decided by this generation. What was noted since the last ticket is dropped.
    #[inline]
    pub(crate) fn begin(&mut self, to: &str, generation: u64) {
        (self.writing, self.generation) = (Writing::Message, generation);
        let (ticket, count) = (self.next, self.last_count);
        self.samples.forget(ticket);
        let (trace, of_place) = self.place(ticket);
        trace.begin(ticket, to);
        *of_place = count;
    }

    /// A message is decided about which nothing is noted.
    #[inline]
    pub(crate) const fn begin_nothing(&mut self) {
        self.writing = Writing::Nothing;
    }

    /// What the trace of the message at hand is called; nothing is noted in it any more.
    #[inline]
    pub(crate) fn ticket(&mut self) -> Option<TraceId> {
        if self.writing != Writing::Message {
            return None;
        }
        self.writing = Writing::Nothing;
        self.next += 1;
        Some(TraceId(self.next - 1))
    }

    /// The message of this trace has this id. Nothing happens when its place was taken since.
    pub(crate) fn name(&mut self, TraceId(ticket): TraceId, id: MessageId) {
        self.samples.name(ticket, id);
        let index = index(ticket);
        if self.places.get(index).is_none_or(|trace| trace.ticket != ticket || trace.id != UNNAMED) {
            return;
        }
        let mut place = index;
        if ticket + 1 != self.next {
            // It waited, and others were named meanwhile, whose ids are smaller.
            let next = self.next;
            self.place(next);
            place = self::index(next);
            self.places.swap(index, place);
            self.next += 1;
            if place != index
                && let Some(left) = self.places.get_mut(index)
            {
                (left.ticket, left.id) = (NOBODY, UNNAMED);
            }
        }
        if let (Some(trace), Some(count)) = (self.places.get_mut(place), self.counts.get_mut(place)) {
            (trace.ticket, trace.id) = (self.next - 1, id);
            (*count, self.last_count) = (id.count(), id.count());
        }
    }

    /// A sample was taken of the message at hand, which is to be told its id.
    pub(crate) fn sampled(&mut self, differences: &Arc<Differences>, number: u64) {
        if self.writing == Writing::Message {
            self.samples.push(self.next, differences, number);
        }
    }

    /// A question about a failed attempt is put; its answers go to the traces of its messages, as far as there are any.
    pub(crate) fn begin_failure(&mut self, failure: &Failure<'_>, generation: u64) {
        if self.messages_of(failure).next().is_none() {
            self.writing = Writing::Nothing;
            return;
        }
        (self.writing, self.generation) = (Writing::Failure(failure.cause, failure.attempt), generation);
        self.failure.begin(NOBODY, "");
    }

    /// Copies the answers about a failed attempt.
    pub(crate) fn end_failure(&mut self, failure: &Failure<'_>) {
        if self.writing == Writing::Nothing {
            return;
        }
        self.writing = Writing::Nothing;
        let places: SmallVec<[usize; 8]> = self.messages_of(failure).collect();
        let Self { places: traces, failure, .. } = self;
        for place in places {
            let Some(trace) = traces.get_mut(place) else { continue };
            for Noted { label, facts } in failure.decisions() {
                trace.push(label, *facts);
            }
            trace.left_out = trace.left_out.saturating_add(failure.left_out);
            trace.left_out_of |= failure.left_out_of;
        }
    }

    /// A message is delivered to some of its recipients; what is decided goes to its trace, where there is one.
    #[inline]
    pub(crate) fn begin_delivery(&mut self, id: MessageId, audience: Audience, generation: u64) {
        let place = self.range(id, 1).find(|_| id != UNNAMED);
        self.writing = place.map_or(Writing::Nothing, |place| Writing::Delivery(place, audience));
        self.generation = generation;
    }

    pub(crate) const fn end_delivery(&mut self) {
        self.writing = Writing::Nothing;
    }

    #[inline]
    fn at_hand(&mut self) -> &mut Trace {
        match self.writing {
            Writing::Delivery(place, _) => self.places.get_mut(place).unwrap_or(&mut self.failure),
            Writing::Message => {
                let next = self.next;
                self.place(next).0
            }
            Writing::Failure(..) | Writing::Nothing => &mut self.failure,
        }
    }

    /// The place for a ticket that is not larger than the next one.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "places are made in order, and the last one was made just now"
    )]
    fn place(&mut self, ticket: u64) -> (&mut Trace, &mut u64) {
        let index = index(ticket);
        if index >= self.places.len() {
            self.grow();
        }
        (&mut self.places[index], &mut self.counts[index])
    }

    /// One more place. All of them are reserved with the first one, and cost memory when they are used.
    #[cold]
    fn grow(&mut self) {
        if self.places.is_empty() {
            self.places.reserve_exact(TRACES_MAX);
            self.counts.reserve_exact(TRACES_MAX);
        }
        self.places.push(Trace::default());
        self.counts.push(self.last_count);
    }

    /// The tickets whose traces are there. The place behind them belongs to the message at hand.
    fn tickets(&self) -> std::ops::Range<u64> {
        self.next.saturating_sub(TRACES_MAX as u64 - 1)..self.next
    }

    /// The first ticket with an id of at least this count.
    fn first_with(&self, count: u64) -> u64 {
        let std::ops::Range { mut start, mut end } = self.tickets();
        while start < end {
            let middle = start + (end - start) / 2;
            if self.counts.get(index(middle)).is_some_and(|&of| of < count) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        start
    }

    /// The places of the traces of messages with ids of consecutive counts.
    fn range(&self, first: MessageId, messages: u16) -> impl Iterator<Item = usize> {
        let end = first.count() + u64::from(messages);
        let places = (self.first_with(first.count())..self.next).map(index);
        let places =
            places.take_while(move |&place| self.counts.get(place).is_some_and(|&count| count < end));
        places.filter(move |&place| {
            let id = self.places.get(place).map_or(UNNAMED, |trace| trace.id);
            id.count() >= first.count() && id == first.later(id.count() - first.count())
        })
    }

    fn messages_of(&self, failure: &Failure<'_>) -> impl Iterator<Item = usize> {
        self.range(failure.id, failure.messages)
    }

    /// What is known about a message, and how far back anything is.
    pub(crate) fn find(&self, id: MessageId) -> Explained {
        let found = self.range(id, 1).find(|_| id != UNNAMED).and_then(|place| self.places.get(place));
        let mut places = self.tickets().map(index);
        Explained {
            found: found.cloned().map(|trace| Box::new(Recorded(trace))),
            remembered: self.tickets().end - self.tickets().start,
            oldest: places.find_map(|place| Some(self.places.get(place)?.id).filter(|id| *id != UNNAMED)),
        }
    }
}

/// The ticket of what is in nobody's hands.
const NOBODY: u64 = u64::MAX;
/// The id of a message that has none yet; no message has it.
const UNNAMED: MessageId = MessageId::new(0, 0, 0, 0);
/// Instead of a time.
pub(crate) const NOT_TIMED: u32 = u32::MAX;
/// Marks the time of the latest call that was timed, beside a call that was not. More than any time.
pub(crate) const OF_EARLIER: u32 = 1 << 31;

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "less than the number of places")]
const fn index(ticket: u64) -> usize {
    (ticket % TRACES_MAX as u64) as usize
}

#[cfg(test)]
mod tests;
