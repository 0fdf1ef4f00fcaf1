//! One version of a policy on one worker: its instance, its breaker, and how it is called.
//!
//! No lock and no wait on the way of a message: a spare is taken with a `try_lock`. Every call is counted, as many as it
//! takes are timed (`timing.rs`), and a failed one costs the instance where it broke it; what a failure means for the
//! message is the caller's decision.

use crate::binding::{Binding, Cell};
use crate::breaker::{Breaker, BreakerState, Cause};
use crate::instance::Failure;
use crate::limits::RULES_CHARGE_MS_MAX;
use crate::question::Question;
use crate::serving::Serving;
use crate::shared::Shared;
use crate::state::thread_cpu_time;
use crate::stats::{CallOutcome, now};
use crate::timing::Timing;
use crate::trace::{Label, NOT_TIMED, OF_EARLIER, Role};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// One version of the current generation with this worker's instance of it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) binding: Arc<Binding>,
    label: Arc<Label>,
    /// What the version is to its policy in the generation at hand.
    role: Role,
    /// What the last question took; [`NOT_TIMED`] when it was not put, and with [`OF_EARLIER`] when it was not timed.
    took_ns: u32,
    /// What the latest timed one took.
    latest_ns: u32,
    pub(crate) serving: Option<Serving>,
    /// Whether another instance serves than before the last [`Seat::has_changed`], which may decide otherwise.
    changed: bool,
    breaker: Breaker,
    timing: Timing,
    /// What one call is charged for at most without asking how much CPU time it used: its deadline, or the bound of rules.
    charge_max: Duration,
    /// Whether the latest call that was timed took longer than that. The next one's CPU time is measured from its beginning, for a
    /// long instruction has no check inside from which it could be.
    overran: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) worker: usize,
}

impl Seat {
    pub(crate) fn new(binding: &Arc<Binding>, worker: usize) -> Self {
        let serving = binding.cells.get(worker).and_then(|cell| cell.take_warm());
        Self {
            serving,
            label: Label::of(binding),
            role: Role::Active,
            took_ns: NOT_TIMED,
            latest_ns: 0,
            changed: false,
            breaker: Breaker::new(binding.limits.cpu_share),
            timing: Timing::new(binding.seed(worker)),
            charge_max: match binding.is_native() {
                true => Duration::from_millis(RULES_CHARGE_MS_MAX),
                false => Duration::from_millis(u64::from(binding.limits.deadline_ms)),
            },
            overran: false,
            binding: Arc::clone(binding),
        }
    }

    #[must_use]
    pub(crate) fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    pub(crate) const fn label(&self) -> &Arc<Label> {
        &self.label
    }

    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    pub(crate) const fn took_ns(&self) -> u32 {
        self.took_ns
    }

    /// Takes the spare where it ought to.
    #[inline]
    pub(crate) fn renew(&mut self, desk: Desk<'_>) {
        if let Some(cell) = self.binding.cells.get(desk.worker) {
            self.changed |= seat_someone(desk.shared, &self.binding, cell, &mut self.serving);
        }
    }

    /// Whether another instance serves since this was asked last.
    #[inline]
    pub(crate) const fn has_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Counts a decision that was made before.
    pub(crate) fn note_cached(&self, desk: Desk<'_>) {
        self.binding.stats.record(desk.worker, CallOutcome::Cached, None);
    }

    /// Whether a breaker that is not closed lets a call through now.
    #[cold]
    fn is_permitted(&mut self, worker: usize) -> bool {
        let (permitted, cause) = self.breaker.permits(now());
        if let Some(cause) = cause {
            note(&self.binding, worker, (self.breaker.state(), cause));
        }
        permitted
    }

    /// Puts a question to this version.
    pub(crate) fn ask<Q: Question>(
        &mut self,
        desk: Desk<'_>,
        question: &Q,
    ) -> Result<Q::Answer, CallOutcome> {
        self.renew(desk);
        self.ask_seated(desk, question)
    }

    /// The same behind [`Seat::renew`].
    pub(crate) fn ask_seated<Q: Question>(
        &mut self,
        desk: Desk<'_>,
        question: &Q,
    ) -> Result<Q::Answer, CallOutcome> {
        let Desk { shared, worker } = desk;
        self.took_ns = NOT_TIMED;
        if !self.breaker.is_closed() && !self.is_permitted(worker) {
            return Err(not_asked(&self.binding, worker, CallOutcome::BreakerOpen));
        }
        let Self {
            binding, serving, changed, breaker, timing, charge_max, overran, took_ns, latest_ns, ..
        } = self;
        let Some(cell) = binding.cells.get(worker) else { return Err(CallOutcome::Unavailable) };
        let Some(instance) = serving.as_mut() else {
            return Err(not_asked(binding, worker, CallOutcome::Unavailable));
        };
        // Trial calls decide, so each of them is timed.
        let begun = if timing.is_due() || !breaker.is_closed() {
            Begun::At(now())
        } else {
            Begun::InTick(shared.ticker.tick())
        };
        let cpu_before = overran.then(thread_cpu_time);
        let answer = question.put(instance, binding.limits.deadline_ms);
        let outcome = answer.as_ref().map_or_else(|failure| failure.outcome, |_| CallOutcome::Ok);
        // An answer of rules is out of bounds by the message, which whoever publishes chooses: others keep their rules.
        let is_fault = answer.is_err() && !binding.is_native();
        let took = match begun {
            Begun::At(started) => {
                let ended = now();
                let took = ended.saturating_duration_since(started);
                *overran = took > *charge_max && !binding.is_native();
                let took = chargeable(took, *charge_max, (instance, cpu_before));
                Some((ended, Some(took), timing.timed(took)))
            }
            Begun::InTick(tick) => {
                let ticks = shared.ticker.tick().saturating_sub(tick);
                // Where rules are all there is, the ticker rests, and then many ticks seem to pass at once.
                let ticks = if binding.is_native() { ticks.min(1) } else { ticks };
                let owed = if ticks > 0 { timing.ticks_passed(ticks) } else { Duration::ZERO };
                let was_cut = outcome == CallOutcome::Deadline;
                let used = (&*instance, cpu_before);
                let took = was_cut.then(|| chargeable(Duration::MAX, *charge_max, used));
                let charged = took.unwrap_or_else(|| chargeable(owed, *charge_max, used));
                (is_fault || !charged.is_zero()).then(|| (now(), took, charged))
            }
        };
        let measured = took.and_then(|(_, took, _)| took);
        binding.stats.record(worker, outcome, measured);
        *took_ns = *latest_ns | OF_EARLIER;
        if let Some(measured) = measured {
            *latest_ns = u32::try_from(measured.as_nanos()).unwrap_or(OF_EARLIER).min(OF_EARLIER - 1);
            *took_ns = *latest_ns;
        }
        match took {
            Some((ended, _, charged)) => {
                cell.tally.record(is_fault, charged);
                if let Some(cause) = breaker.record(ended, is_fault, charged) {
                    note(binding, worker, (breaker.state(), cause));
                }
            }
            None => {
                cell.tally.count();
                breaker.pass();
            }
        }
        answer.map_err(|failure| {
            report(binding, &failure);
            if failure.broke_instance {
                *changed = true;
                serving.take().into_iter().for_each(|failed| shared.discard(failed));
                cell.stopped_serving();
                cell.exchange(serving);
                shared.wake_keeper();
            }
            failure.outcome
        })
    }
}

/// When a call began, as exactly as is asked.
enum Begun {
    At(Instant),
    InTick(u64),
}

/// Has an instance that may serve in the seat: the one that is there unless a better one is offered. True when another
/// one serves now.
#[inline]
fn seat_someone(shared: &Shared, binding: &Binding, cell: &Cell, serving: &mut Option<Serving>) -> bool {
    let mut changed = false;
    if (cell.has_newer() || serving.is_none()) && cell.exchange(serving) {
        shared.wake_keeper();
        changed = true;
    }
    if serving.as_ref().is_some_and(Serving::is_worn) && cell.has_spare() {
        let worn = serving.take();
        if cell.exchange(serving) {
            binding.stats.recycled.fetch_add(1, Ordering::Relaxed);
            worn.into_iter().for_each(|worn| shared.discard(worn));
            changed = true;
        } else {
            *serving = worn;
        }
    }
    changed
}

/// What a call is charged for that took this long on the clock. What the operating system did while it was set aside is not the
/// policy's, so a call beyond its deadline is charged for that, or for the CPU time it used where that is more: a grace is not
/// for nothing. Without the CPU time at its beginning, what it used is known to within a tick, and from its first check on.
#[inline]
fn chargeable(
    took: Duration,
    charge_max: Duration,
    (serving, cpu_before): (&Serving, Option<Duration>),
) -> Duration {
    if took <= charge_max {
        return took;
    }
    let used = match cpu_before {
        Some(before) => thread_cpu_time().saturating_sub(before),
        None => serving.cpu_time_used().unwrap_or_default(),
    };
    took.min(used.max(charge_max))
}

fn report(binding: &Binding, failure: &Failure) {
    if binding.stats.log_line_allowed() {
        let (policy, outcome) = (&*binding.name, failure.outcome.as_str());
        tracing::warn!(target: "plugin", policy, outcome, error = %failure, "a call failed");
    }
}

/// Shows and logs a change of the breaker.
#[cold]
fn note(binding: &Binding, worker: usize, (to, cause): (BreakerState, Cause)) {
    binding.show_breaker(worker, to);
    if binding.stats.log_line_allowed() {
        let (policy, breaker, cause) = (&*binding.name, to.as_str(), cause.as_str());
        tracing::warn!(target: "plugin", policy, worker, breaker, cause, "the breaker changed");
    }
}

/// Counts a question that was not put.
fn not_asked(binding: &Binding, worker: usize, outcome: CallOutcome) -> CallOutcome {
    binding.stats.record(worker, outcome, None);
    binding.cells.get(worker).into_iter().for_each(|cell| cell.tally.pass_by());
    outcome
}
