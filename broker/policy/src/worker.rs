//! The policies of one I/O worker: its own instances, its own memory of which policies an address has.
//!
//! No lock and no wait on the way of a message: a newer generation is one pointer comparison. The look-up at the
//! beginning of a message's pass settles its generation, and the hooks behind it do not look again. Instances of
//! bindings that a newer generation keeps stay where they are.

use crate::answers;
use crate::binding::{Generation, Masks};
use crate::decisions::Decisions;
use crate::document::OnFailure;
use crate::hook::Hook;
use crate::instance::Failure;
use crate::limits;
use crate::seat::{Desk, Seat};
use crate::shared::Shared;
use crate::state::set_header;
use crate::stats::CallOutcome;
use crate::verdict::{self, Routed};
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use std::collections::HashMap;
use std::sync::Arc;
use waspmq_core::address::Address;
use waspmq_core::policy::{
    self, Acking, Acknowledgement, Admission, Admittance, Bound, BySettings, Decision, Message, Outcome,
    Overflowed, Overflowing, Policies, Route, Routing, Verdict,
};
use waspmq_core::settings::{Overflow, Settings};

/// The policies of one worker. Made by [`crate::Host::worker`], once per worker.
#[derive(Debug)]
pub struct WorkerPolicies {
    shared: Arc<Shared>,
    worker: usize,
    cache: Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>,
    generation: Arc<Generation>,
    seats: Vec<Seat>,
    matches: HashMap<Box<str>, Masks, foldhash::fast::RandomState>,
    /// The address asked about last, with its bound policies: each hook looks its message's address up.
    last: (String, Masks),
    decisions: Decisions,
}

/// What a policy is asked with.
struct Asking<'a> {
    desk: Desk<'a>,
    number: usize,
    decisions: &'a mut Decisions,
}

/// What came of asking the policies of a hook one after the other.
enum Asked<T> {
    /// One decided.
    Decided(T),
    /// All passed.
    Passed,
    /// One failed that is set to end the matter then; the text says which.
    Failed(String),
}

impl WorkerPolicies {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            cache: Cache::new(Arc::clone(&shared.active)),
            shared,
            worker,
            generation: Arc::default(),
            seats: Vec::new(),
            matches: HashMap::default(),
            last: (String::new(), Masks::default()),
            decisions: Decisions::default(),
        }
    }

    /// The number of the generation that the last question was answered by.
    pub fn generation(&self) -> u64 {
        self.generation.number
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
            let mut old = std::mem::take(&mut self.seats);
            for binding in &newest.bindings {
                let seat = match old.iter().position(|seat| Arc::ptr_eq(&seat.binding, binding)) {
                    Some(known) => old.swap_remove(known),
                    None => Seat::new(binding, self.worker),
                };
                self.seats.push(seat);
            }
            old.into_iter().filter_map(|seat| seat.serving).for_each(|gone| self.shared.discard(gone));
            self.generation = newest;
            self.matches.clear();
            self.last.0.clear();
            self.decisions.clear();
            // A binding is retired behind the store of the generation without it, so the next turn finds that one.
            let overtaken = |seat: &Seat| seat.serving.is_none() && seat.binding.is_retired();
            if !self.seats.iter().any(overtaken) {
                return;
            }
        }
    }

    /// The policies bound to `to` in the generation at hand.
    fn masks(&mut self, to: &str) -> Masks {
        if self.seats.is_empty() {
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

    /// Asks the policies of `hook` for `to` in their order, until one decides. They are told apart by the number of
    /// their seat.
    fn first<T>(
        &mut self,
        (hook, to): (Hook, &str),
        mut ask: impl FnMut(&mut Seat, Asking<'_>) -> Result<Option<T>, CallOutcome>,
    ) -> Asked<T> {
        let mut asked = self.masks(to).of(hook);
        let desk = Desk { shared: &self.shared, worker: self.worker };
        while asked != 0 {
            let number = asked.trailing_zeros() as usize;
            asked &= asked - 1;
            let Some(seat) = self.seats.get_mut(number) else { continue };
            if seat.renew(desk) {
                self.decisions.clear();
            }
            let answer = ask(seat, Asking { desk, number, decisions: &mut self.decisions });
            if answer.is_err() {
                // Another instance may serve now.
                self.decisions.clear();
            }
            match answer {
                Ok(Some(answer)) => return Asked::Decided(answer),
                Err(outcome) if seat.binding.on_failure == OnFailure::Closed => {
                    let (name, outcome) = (&seat.binding.name, outcome.as_str());
                    return Asked::Failed(format!("policy {name} failed ({outcome})"));
                }
                Ok(None) | Err(_) => {}
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
        Bound {
            admission: has(Hook::Admission),
            routing: has(Hook::Routing),
            acking: has(Hook::Ack),
            overflow: has(Hook::Overflow),
        }
    }
}

impl Admission for WorkerPolicies {
    fn admit(&mut self, message: &Message<'_>) -> Admittance {
        let asked = self.first((Hook::Admission, message.to), |seat, asking| {
            seat.ask(asking.desk, |instance, deadline_ms| instance.admit(message, deadline_ms))
        });
        match asked {
            Asked::Decided(admittance) => admittance,
            Asked::Passed => Admittance::Admitted,
            Asked::Failed(reason) => Admittance::Failed(reason),
        }
    }
}

impl Routing for WorkerPolicies {
    fn route(&mut self, message: &Message<'_>) -> Outcome {
        let mut set_headers = Vec::new();
        let asked = self.first((Hook::Routing, message.to), |seat, asking| {
            let Asking { desk, number, decisions } = asking;
            if let Some(verdict) = decisions.find(number, message)
                && let Ok(route) = merge(verdict.clone(), message, &mut set_headers)
            {
                seat.note_cached(desk);
                return Ok((route != Route::Continue).then_some(route));
            }
            let route = seat.ask(desk, |instance, deadline_ms| {
                let Routed { verdict, cache } = instance.route(message, &set_headers, deadline_ms)?;
                decisions.keep(number, message, (&verdict, cache));
                merge(verdict, message, &mut set_headers)
            })?;
            Ok((route != Route::Continue).then_some(route))
        });
        let route = match asked {
            Asked::Decided(route) => route,
            Asked::Passed => Route::Continue,
            Asked::Failed(reason) => return Outcome::Refused(reason),
        };
        Outcome::Decided(Verdict { route, set_headers })
    }
}

impl Acking for WorkerPolicies {
    fn plan(&mut self, message: &Message<'_>, settings: &Settings) -> Acknowledgement {
        let asked = self.first((Hook::Ack, message.to), |seat, asking| {
            seat.ask(asking.desk, |instance, deadline_ms| instance.plan(message, settings, deadline_ms))
        });
        match asked {
            Asked::Decided(acknowledgement) => acknowledgement,
            Asked::Passed | Asked::Failed(_) => BySettings.plan(message, settings),
        }
    }

    fn failed(&mut self, failure: &policy::Failure<'_>) -> Decision {
        self.refresh();
        let to = failure.to.as_str();
        if self.masks(to).of(Hook::Ack) == 0 {
            return BySettings.failed(failure);
        }
        let recipient = answers::recipient(failure.recipient);
        let Some(told) = answers::told(failure, &recipient) else { return BySettings.failed(failure) };
        let asked = self.first((Hook::Ack, to), |seat, asking| {
            seat.ask(asking.desk, |instance, deadline_ms| instance.failed(told.clone(), deadline_ms))
        });
        match asked {
            Asked::Decided(decision) => decision,
            Asked::Passed | Asked::Failed(_) => BySettings.failed(failure),
        }
    }
}

impl Overflowing for WorkerPolicies {
    fn has_overflow(&mut self, to: &str) -> bool {
        self.refresh();
        self.masks(to).of(Hook::Overflow) != 0
    }

    fn overflow(&mut self, what: &Overflowed<'_>) -> Overflow {
        let asked = self.first((Hook::Overflow, what.to.as_str()), |seat, asking| {
            seat.ask(asking.desk, |instance, deadline_ms| instance.overflow(what, deadline_ms))
        });
        match asked {
            Asked::Decided(action) => action,
            Asked::Passed | Asked::Failed(_) => what.configured,
        }
    }
}

/// Adds a verdict's headers to those set so far, unless the message would have too many then.
fn merge(
    verdict: Verdict,
    message: &Message<'_>,
    so_far: &mut Vec<(String, String)>,
) -> Result<Route, Failure> {
    let Verdict { route, set_headers } = verdict;
    if set_headers.is_empty() {
        return Ok(route);
    }
    if !verdict::fit_together([message.headers, so_far, &set_headers]) {
        // Some may replace others, so only the list as it would be tells.
        let mut all = message.headers.to_vec();
        so_far.iter().chain(&set_headers).for_each(|(name, value)| set_header(&mut all, name, value));
        verdict::check_headers(&all).map_err(|bad| Failure::bad_verdict(&bad))?;
    }
    if so_far.is_empty() {
        *so_far = set_headers;
    } else {
        set_headers.iter().for_each(|(name, value)| set_header(so_far, name, value));
    }
    Ok(route)
}
