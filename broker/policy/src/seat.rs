//! One policy of one worker: its instance, and how it is called.
//!
//! No lock and no wait on the way of a message: a spare is taken with a `try_lock`. Every call is counted, and a
//! failed one costs the instance where it broke it; what a failure means for the message is the caller's decision.

use crate::binding::Binding;
use crate::instance::{Failure, Instance};
use crate::shared::Shared;
use crate::stats::{CallOutcome, now};
use std::sync::Arc;

/// One binding of the current generation with this worker's instance of it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) binding: Arc<Binding>,
    pub(crate) serving: Option<Instance>,
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
        Self { binding: Arc::clone(binding), serving }
    }

    /// Takes the spare where it ought to; true when another instance serves now, which may decide otherwise.
    #[inline]
    pub(crate) fn renew(&mut self, desk: Desk<'_>) -> bool {
        let Some(cell) = self.binding.cells.get(desk.worker) else { return false };
        let renewed = (cell.has_newer() || self.serving.is_none()) && cell.exchange(&mut self.serving);
        if renewed {
            desk.shared.wake_keeper();
        }
        renewed
    }

    /// Counts a decision that was made before.
    pub(crate) fn note_cached(&self, desk: Desk<'_>) {
        self.binding.stats.record(desk.worker, CallOutcome::Cached, None);
    }

    /// Calls this policy, behind [`Self::renew`]; `question` is handed the instance and the deadline in milliseconds.
    pub(crate) fn ask<T>(
        &mut self,
        desk: Desk<'_>,
        question: impl FnOnce(&mut Instance, u32) -> Result<T, Failure>,
    ) -> Result<T, CallOutcome> {
        let Desk { shared, worker } = desk;
        let binding = &*self.binding;
        let Some(cell) = binding.cells.get(worker) else { return Err(CallOutcome::Unavailable) };
        let Some(instance) = self.serving.as_mut() else {
            binding.stats.record(worker, CallOutcome::Unavailable, None);
            return Err(CallOutcome::Unavailable);
        };
        let started = now();
        let answer = question(instance, binding.limits.deadline_ms);
        let timed = Some(started.elapsed());
        let failure = match answer {
            Ok(answer) => {
                binding.stats.record(worker, CallOutcome::Ok, timed);
                return Ok(answer);
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
