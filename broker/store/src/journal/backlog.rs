//! What is in the log and waits to be applied to the store.

use super::Reading;
use crate::store::Write;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a group waits for others, so that they are applied together, and how many writes do not wait.
const LINGER: Duration = Duration::from_millis(1);
const LINGER_WRITES: usize = 512;

pub(super) enum Step {
    /// A group of the log, with its number and what it counts in the queue.
    Group { sequence: u64, writes: Vec<Write>, bytes: usize },
    /// To be run when everything before was applied.
    Readings(Vec<Reading>),
}

#[derive(Default)]
struct Waiting {
    steps: VecDeque<Step>,
    writes: usize,
    urgent: bool,
    closed: bool,
    idle: bool,
}

/// Bounded by the journal's queue: what waits here keeps its room there.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Bytes of the groups that are not applied.
    bytes: AtomicU64,
}

impl Backlog {
    pub(super) fn push_group(&self, sequence: u64, writes: Vec<Write>, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.push(Step::Group { sequence, writes, bytes });
    }

    pub(super) fn push_readings(&self, readings: Vec<Reading>) {
        self.push(Step::Readings(readings));
    }

    fn push(&self, step: Step) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let was_urgent = waiting.urgent;
        match &step {
            Step::Group { writes, .. } => {
                waiting.writes += writes.len();
                waiting.urgent |= waiting.writes >= LINGER_WRITES;
            }
            Step::Readings(_) => waiting.urgent = true,
        }
        waiting.steps.push_back(step);
        let wakes = std::mem::take(&mut waiting.idle) || waiting.urgent && !was_urgent;
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting.lock().unwrap().closed
    }

    /// Moves everything that waits to `taken`, which is empty; waits for the first, up to `most`, and a little for more.
    /// Gives whether there will be no more.
    pub(super) fn take(&self, taken: &mut VecDeque<Step>, most: Duration) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        if waiting.steps.is_empty() && !waiting.closed {
            waiting.idle = true;
            let is_idle = |waiting: &mut Waiting| waiting.steps.is_empty() && !waiting.closed;
            waiting = self.wake.wait_timeout_while(waiting, most, is_idle).unwrap().0;
            waiting.idle = false;
        }
        if !waiting.steps.is_empty() {
            let may_linger = |waiting: &mut Waiting| !waiting.urgent && !waiting.closed;
            waiting = self.wake.wait_timeout_while(waiting, LINGER, may_linger).unwrap().0;
        }
        std::mem::swap(&mut waiting.steps, taken);
        (waiting.writes, waiting.urgent) = (0, false);
        waiting.closed && taken.is_empty()
    }

    /// Takes the readings out of what waits.
    pub(super) fn take_readings(&self) -> Vec<Reading> {
        take_readings(&mut self.waiting.lock().unwrap().steps)
    }

    /// Groups were applied.
    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of the groups that are not applied.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Takes the readings out of steps, wherever they are.
pub(super) fn take_readings(steps: &mut VecDeque<Step>) -> Vec<Reading> {
    let mut taken = Vec::new();
    steps.retain_mut(|step| match step {
        Step::Group { .. } => true,
        Step::Readings(readings) => {
            taken.append(readings);
            false
        }
    });
    taken
}
