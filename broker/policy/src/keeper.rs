//! The policy thread: keeps a spare ready for every worker, tells spares of member changes, frees what failed, and
//! looks after new versions.
//!
//! It sleeps until it is woken or something is due. Spares are made at a bounded pace per worker and policy,
//! which is what bounds the harm of a policy that always fails.

use crate::binding::{Binding, Cell, Upkeep, lock};
use crate::hook::Hook;
use crate::instance::Failure;
use crate::limits;
use crate::shared::Shared;
use crate::stats::{CallOutcome, now};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    started: Instant,
    /// When collected member changes are told, and up to which they were.
    members_due: Option<Instant>,
    members_told: u64,
    supervision_due: Instant,
}

/// The longest sleep; work always comes with a wake-up, so this is not how work is found.
const IDLE: Duration = Duration::from_secs(3600);

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, started: now(), members_due: None, members_told: 0, supervision_due: now() }
    }

    pub(crate) fn run(mut self) {
        while !self.shared.is_stopping() {
            self.shared.discards.free();
            self.collect_members();
            let mut due = self.members_due;
            let active = self.shared.active.load_full();
            for binding in active.bindings() {
                for (worker, cell) in binding.cells.iter().enumerate() {
                    let cell_due = self.look_after(binding, worker, cell);
                    due = [due, cell_due].into_iter().flatten().min();
                }
            }
            drop(active);
            let due = [due, self.supervise(), self.shared.captures.tend(now())].into_iter().flatten().min();
            std::thread::park_timeout(due.map_or(IDLE, |due| due.saturating_duration_since(now())));
        }
    }

    /// Compares versions, and writes down what is overdue, when it is time to; returns when that is again, while there is
    /// any of it.
    fn supervise(&mut self) -> Option<Instant> {
        if self.shared.active.load().lineups.is_empty() && lock(&self.shared.overdue).is_empty() {
            return None;
        }
        let now = now();
        if now >= self.supervision_due {
            self.supervision_due = now + Duration::from_millis(limits::SUPERVISION_MS);
            self.shared.supervise();
        }
        Some(self.supervision_due)
    }

    /// Starts the delay at the first change, and raises the goal at its end.
    fn collect_members(&mut self) {
        match self.members_due {
            Some(due) if now() >= due => {
                self.members_due = None;
                self.shared.members_pending.store(false, Ordering::SeqCst);
                self.members_told = self.shared.queues.sequence();
            }
            None if self.shared.members_pending.load(Ordering::SeqCst) => {
                self.members_due = Some(now() + Duration::from_millis(limits::MEMBERS_DELAY_MS));
            }
            _ => {}
        }
    }

    /// Does what one cell needs now; returns when to look again.
    fn look_after(&self, binding: &Binding, worker: usize, cell: &Cell) -> Option<Instant> {
        // Other hooks and rules do not hear of members, so nothing is new to them.
        let hears = binding.hook == Hook::Routing && !binding.is_native();
        let target = if hears { self.members_told } else { 0 };
        match cell.inspect(target) {
            Upkeep::Nothing => None,
            Upkeep::Tell { mut spare, worker_is_behind } => {
                let told = match self.shared.queues.since(spare.members_seen()) {
                    Some(changes) => self.report(binding, spare.members_changed(&changes)),
                    None => false,
                };
                if told {
                    binding.offer(cell, *spare, worker_is_behind);
                    return None;
                }
                drop(spare);
                self.make(binding, worker, cell, worker_is_behind)
            }
            Upkeep::Make { worker_is_behind } => self.make(binding, worker, cell, worker_is_behind),
        }
    }

    fn make(&self, binding: &Binding, worker: usize, cell: &Cell, newer: bool) -> Option<Instant> {
        if binding.is_retired() {
            return None;
        }
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due_ms = cell.refill_at_ms.load(Ordering::Relaxed);
        if elapsed_ms < due_ms {
            return Some(self.started + Duration::from_millis(due_ms));
        }
        let interval = binding.replacement_interval();
        let next_ms = elapsed_ms + u64::try_from(interval.as_millis()).unwrap_or(u64::MAX / 2);
        cell.refill_at_ms.store(next_ms, Ordering::Relaxed);
        match self.shared.set_up(binding, worker, &self.shared.queues.all()) {
            Ok(spare) => {
                binding.stats.replaced.fetch_add(1, Ordering::Relaxed);
                binding.offer(cell, spare, newer);
                None
            }
            Err(error) => {
                if !error.lacks_room() {
                    binding.stats.record(binding.stats.policy_thread(), error.outcome(), None);
                }
                tracing::warn!(target: "plugin", policy = &*binding.name, %error, "no new instance");
                Some(self.started + Duration::from_millis(next_ms))
            }
        }
    }

    /// Counts a failed `members-changed`; a good one is no call of the hook and is not counted.
    fn report(&self, binding: &Binding, told: Result<(), Failure>) -> bool {
        let Err(failure) = told else { return true };
        binding.stats.record(binding.stats.policy_thread(), failure.outcome, None);
        let outcome = CallOutcome::as_str(failure.outcome);
        tracing::warn!(target: "plugin", policy = &*binding.name, outcome, error = %failure, "members-changed failed");
        false
    }
}
