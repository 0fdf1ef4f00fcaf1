//! One policy of one worker: its instance, and how it is called.
//!
//! No lock and no wait on the way of a message: a spare is taken with a `try_lock`. Every call is counted, and a
//! failed one costs the instance where it broke it; what a failure means for the message is the caller's decision.

use crate::binding::Binding;
use crate::instance::{Failure, Instance};
use crate::limits;
use crate::shared::Shared;
use crate::stats::{CallOutcome, now};
use std::sync::Arc;

/// One binding of the current generation with this worker's instance of it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) binding: Arc<Binding>,
    pub(crate) serving: Option<Instance>,
    calls: u32,
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
        Self { binding: Arc::clone(binding), serving, calls: 0 }
    }

    /// Calls this policy; `question` is handed the instance and the deadline in milliseconds.
    pub(crate) fn ask<T>(
        &mut self,
        desk: Desk<'_>,
        question: impl FnOnce(&mut Instance, u32) -> Result<T, Failure>,
    ) -> Result<T, CallOutcome> {
        let Desk { shared, worker } = desk;
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
        let answer = question(instance, binding.limits.deadline_ms);
        let timed = started.map(|started| started.elapsed());
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
