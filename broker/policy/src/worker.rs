//! The routing hooks of one I/O worker: its own instances, its own memory of which policies an address has.
//!
//! No lock and no wait on the way of a message: a newer generation is one pointer comparison, a spare is taken
//! with a `try_lock`. Instances of bindings that a newer generation keeps stay where they are.

use crate::binding::{Binding, Generation};
use crate::document::OnFailure;
use crate::instance::{Failure, Instance};
use crate::limits;
use crate::shared::Shared;
use crate::state::set_header;
use crate::stats::{CallOutcome, now};
use crate::verdict;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use std::collections::HashMap;
use std::sync::Arc;
use waspmq_core::address::Address;
use waspmq_core::policy::{Message, Outcome, Route, Routing, Verdict};

/// The policies of one worker. Made by [`crate::Host::routing`], once per worker.
#[derive(Debug)]
pub struct WorkerRouting {
    shared: Arc<Shared>,
    worker: usize,
    cache: Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>,
    generation: Arc<Generation>,
    seats: Vec<Seat>,
    matches: HashMap<Box<str>, u64, foldhash::fast::RandomState>,
    /// The address asked about last, with its bound policies: a message's address is looked up twice.
    last: (String, u64),
}

/// One binding of the current generation with this worker's instance of it.
#[derive(Debug)]
struct Seat {
    binding: Arc<Binding>,
    serving: Option<Instance>,
    calls: u32,
}

impl WorkerRouting {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            cache: Cache::new(Arc::clone(&shared.active)),
            shared,
            worker,
            generation: Arc::default(),
            seats: Vec::new(),
            matches: HashMap::default(),
            last: (String::new(), 0),
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
            // A binding is retired behind the store of the generation without it, so the next turn finds that one.
            let overtaken = |seat: &Seat| seat.serving.is_none() && seat.binding.is_retired();
            if !self.seats.iter().any(overtaken) {
                return;
            }
        }
    }

    /// The policies bound to `to`, as a mask of seats.
    fn bound_to(&mut self, to: &str) -> u64 {
        if self.last.0 != to {
            let bound = self.look_up(to);
            to.clone_into(&mut self.last.0);
            self.last.1 = bound;
        }
        self.last.1
    }

    fn look_up(&mut self, to: &str) -> u64 {
        if let Some(&known) = self.matches.get(to) {
            return known;
        }
        let Ok(address) = Address::parse(to) else { return 0 };
        let bound =
            if self.generation.has_kind(address.kind()) { self.generation.bound_to(&address) } else { 0 };
        if self.matches.len() >= limits::MATCH_CACHE_MAX {
            self.matches.clear();
        }
        self.matches.insert(to.into(), bound);
        bound
    }
}

impl Routing for WorkerRouting {
    fn applies(&mut self, to: &str) -> bool {
        self.refresh();
        !self.seats.is_empty() && self.bound_to(to) != 0
    }

    fn route(&mut self, message: &Message<'_>) -> Outcome {
        self.refresh();
        let mut decided = Verdict::default();
        let mut asked = if self.seats.is_empty() { 0 } else { self.bound_to(message.to) };
        while asked != 0 {
            let seat = self.seats.get_mut(asked.trailing_zeros() as usize);
            asked &= asked - 1;
            let Some(seat) = seat else { continue };
            match seat.ask(&self.shared, self.worker, message, &mut decided) {
                Ok(Route::Continue) => {}
                Ok(route) => {
                    decided.route = route;
                    break;
                }
                Err(outcome) if seat.binding.on_failure == OnFailure::Closed => {
                    return Outcome::Refused(format!(
                        "policy {} failed ({})",
                        seat.binding.name,
                        outcome.as_str()
                    ));
                }
                Err(_) => {}
            }
        }
        Outcome::Decided(decided)
    }
}

impl Seat {
    fn new(binding: &Arc<Binding>, worker: usize) -> Self {
        let serving = binding.cells.get(worker).and_then(|cell| cell.take_warm());
        Self { binding: Arc::clone(binding), serving, calls: 0 }
    }

    /// Asks this policy and adds the headers it sets to `so_far`; counts the call either way.
    fn ask(
        &mut self,
        shared: &Shared,
        worker: usize,
        message: &Message<'_>,
        so_far: &mut Verdict,
    ) -> Result<Route, CallOutcome> {
        let binding = &*self.binding;
        let Some(cell) = binding.cells.get(worker) else { return Err(CallOutcome::Unavailable) };
        if (cell.has_newer() || self.serving.is_none()) && cell.exchange(&mut self.serving) {
            shared.wake_keeper();
        }
        let Some(instance) = self.serving.as_mut() else {
            binding.stats.record(worker, CallOutcome::Unavailable, None);
            return Err(CallOutcome::Unavailable);
        };
        self.calls = self.calls.wrapping_add(1);
        let started = (self.calls & (limits::SAMPLE_EVERY - 1) == 1).then(now);
        let answer = instance.route(message, &so_far.set_headers, binding.limits.deadline_ms);
        let answer = answer.and_then(|verdict| merge(verdict, message, so_far));
        let timed = started.map(|started| started.elapsed());
        let failure = match answer {
            Ok(route) => {
                binding.stats.record(worker, CallOutcome::Ok, timed);
                return Ok(route);
            }
            Err(failure) => failure,
        };
        binding.stats.record(worker, failure.outcome, timed);
        if binding.stats.log_line_allowed() {
            let outcome = failure.outcome.as_str();
            tracing::warn!(target: "plugin", policy = &*binding.name, outcome, error = %failure, "a call failed");
        }
        if failure.broke_instance {
            self.serving.take().into_iter().for_each(|failed| shared.discard(failed));
            cell.stopped_serving();
            cell.exchange(&mut self.serving);
            shared.wake_keeper();
        }
        Err(failure.outcome)
    }
}

/// Adds a verdict's headers to those set so far, unless the message would have too many then.
fn merge(verdict: Verdict, message: &Message<'_>, so_far: &mut Verdict) -> Result<Route, Failure> {
    if verdict.set_headers.is_empty() {
        return Ok(verdict.route);
    }
    let lists = [message.headers, &so_far.set_headers, &verdict.set_headers];
    if !verdict::fit_together(lists) {
        // Some may replace others, so only the list as it would be tells.
        let mut all = message.headers.to_vec();
        let set = so_far.set_headers.iter().chain(&verdict.set_headers);
        set.for_each(|(name, value)| set_header(&mut all, name, value));
        verdict::check_headers(&all).map_err(|bad| Failure::bad_verdict(&bad))?;
    }
    if so_far.set_headers.is_empty() {
        so_far.set_headers = verdict.set_headers;
    } else {
        verdict.set_headers.iter().for_each(|(name, value)| set_header(&mut so_far.set_headers, name, value));
    }
    Ok(verdict.route)
}
