//! A version of a policy as it serves: a revision, or rules, bound to patterns, with its instances.
//!
//! A binding never changes; a new document makes a new one. Each worker has one cell in it with an instance to
//! start with and a spare, both made ready on other threads, so that no message waits for one:
//!
//! ```text
//! admin thread ──warm──▶ cell ──────────▶ worker (owns it, no lock per call)
//! policy thread ──spare─▶ cell ◀─exchange─▶ worker, when its instance failed or members changed
//! ```
//!
//! The instance a worker gives up in an exchange becomes the next spare, behind the policy thread's update.

use crate::breaker::BreakerState;
use crate::budget::{Budget, Tally, Totals, Window};
use crate::document::{Lane, OnFailure, PolicyLimits};
use crate::engine::Ticker;
use crate::hook::Hook;
use crate::hostcalls::Surroundings;
use crate::instance::{Recipe, Setup, SetupError, SharedCompiled};
use crate::limits;
use crate::memory::Memory;
use crate::queues::Changes;
use crate::rules::{Judge, Table};
use crate::serving::Serving;
use crate::state::Context;
use crate::stats::{PolicyStats, now};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use waspmq_core::address::Pattern;

#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: Arc<str>,
    /// `plugin@revision`.
    pub(crate) revision: Arc<str>,
    pub(crate) hook: Hook,
    pub(crate) order: i32,
    pub(crate) on_failure: OnFailure,
    pub(crate) limits: PolicyLimits,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) stats: Arc<PolicyStats>,
    /// Calls one instance serves.
    calls_max: u32,
    memory: Arc<Memory>,
    surroundings: Arc<dyn Surroundings>,
    pub(crate) cells: Box<[Cell]>,
    /// What it did lately; for the policy thread.
    pub(crate) window: Mutex<Window>,
    made: Instant,
    making: Making,
    retired: AtomicBool,
}

/// What a binding is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) hook: Hook,
    pub(crate) order: i32,
    pub(crate) on_failure: OnFailure,
    pub(crate) limits: PolicyLimits,
    pub(crate) calls_max: u32,
    pub(crate) budget: Budget,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) stats: Arc<PolicyStats>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) surroundings: Arc<dyn Surroundings>,
    pub(crate) making: Making,
}

/// What its instances are made of.
#[derive(Debug)]
pub(crate) enum Making {
    Guest { compiled: SharedCompiled, config: String, lane: Lane },
    Rules(Arc<Table>),
}

/// One worker's place in a binding.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    warm: Mutex<Option<Serving>>,
    spare: Mutex<Option<Serving>>,
    offer: AtomicU8,
    /// The last member change that the worker's instance knows; `NOT_SERVING` when there is no instance.
    serving_seen: AtomicU64,
    /// The breaker of the worker's seat: closed, half-open, or until which age of the binding it is open.
    breaker: AtomicU64,
    pub(crate) tally: Tally,
    /// Milliseconds on the policy thread's clock before which it makes no new spare; only it uses this.
    pub(crate) refill_at_ms: AtomicU64,
}

/// What a worker may do with its cell's spare: leave it.
const NOTHING: u8 = 0;
/// Take it when its own instance is gone.
const SPARE: u8 = 1;
/// Exchange its own for it, because it knows newer members.
const NEWER: u8 = 2;

const NOT_SERVING: u64 = u64::MAX;

const BREAKER_CLOSED: u64 = 0;
const BREAKER_HALF_OPEN: u64 = 1;

impl Binding {
    pub(crate) fn new(parts: Parts, workers: usize) -> Self {
        let made = now();
        let cell = || Cell { serving_seen: AtomicU64::new(NOT_SERVING), ..Cell::default() };
        Self {
            name: parts.name,
            revision: parts.revision,
            hook: parts.hook,
            order: parts.order,
            on_failure: parts.on_failure,
            limits: parts.limits,
            patterns: parts.patterns,
            stats: parts.stats,
            calls_max: parts.calls_max,
            memory: parts.memory,
            surroundings: parts.surroundings,
            cells: (0..workers).map(|_| cell()).collect(),
            window: Mutex::new(Window::new(made, &parts.budget)),
            made,
            making: parts.making,
            retired: AtomicBool::new(false),
        }
    }

    /// Makes an instance for `worker` that may serve at once.
    pub(crate) fn set_up(
        &self,
        ticker: &Ticker,
        worker: usize,
        changes: &Changes,
    ) -> Result<Serving, SetupError> {
        let context = Context {
            name: Arc::clone(&self.name),
            worker,
            stats: Arc::clone(&self.stats),
            memory: Arc::clone(&self.memory),
            clock: ticker.clock(),
            surroundings: Arc::clone(&self.surroundings),
        };
        let (compiled, config, lane) = match &self.making {
            Making::Guest { compiled, config, lane } => (compiled, config, *lane),
            Making::Rules(table) => {
                return Ok(Serving::Rules(Judge::new(Arc::clone(table), context, ticker)));
            }
        };
        let memory_bytes_max = self.limits.memory_mb as usize * 1024 * 1024;
        let (hook, calls_max) = (Some(self.hook), self.calls_max);
        let recipe = Recipe { ticker, compiled, hook, lane, context, memory_bytes_max, calls_max };
        Setup { recipe, config, changes }.run().map(Serving::Guest)
    }

    /// Whether rules answer, which know no members and have no deadline.
    pub(crate) const fn is_native(&self) -> bool {
        matches!(self.making, Making::Rules(_))
    }

    /// Gives every worker an instance to start with and a spare, made by `set_up`.
    pub(crate) fn warm(
        &self,
        set_up: impl Fn(usize) -> Result<Serving, SetupError>,
    ) -> Result<(), SetupError> {
        for (worker, cell) in self.cells.iter().enumerate() {
            let (warm, spare) = (set_up(worker)?, set_up(worker)?);
            cell.serving_seen.store(warm.members_seen(), Ordering::Relaxed);
            *lock(&cell.warm) = Some(warm);
            *lock(&cell.spare) = Some(spare);
            cell.offer.store(SPARE, Ordering::Release);
        }
        Ok(())
    }

    /// Frees the instances that no worker took. Workers notice the newer generation by themselves, which has
    /// to be in place before.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for cell in &self.cells {
            cell.offer.store(NOTHING, Ordering::Relaxed);
            drop(lock(&cell.warm).take());
            drop(lock(&cell.spare).take());
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// What all workers did with it.
    pub(crate) fn totals(&self) -> Totals {
        self.cells.iter().fold(Totals::default(), |sum, cell| sum.plus(cell.tally.totals()))
    }

    pub(crate) fn show_breaker(&self, worker: usize, state: BreakerState) {
        let shown = match state {
            BreakerState::Closed => BREAKER_CLOSED,
            BreakerState::HalfOpen => BREAKER_HALF_OPEN,
            BreakerState::Open => self.age_ms() + limits::BREAKER_OPEN_MS + BREAKER_HALF_OPEN,
        };
        if let Some(cell) = self.cells.get(worker) {
            cell.breaker.store(shown, Ordering::Relaxed);
        }
    }

    /// The worst breaker of all workers. An open one whose time is over lets the next call through, so it is half-open.
    pub(crate) fn breaker(&self) -> BreakerState {
        let age_ms = self.age_ms();
        let of = |cell: &Cell| match cell.breaker.load(Ordering::Relaxed) {
            BREAKER_CLOSED => BreakerState::Closed,
            until_ms if until_ms > age_ms => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        };
        self.cells.iter().map(of).max().unwrap_or_default()
    }

    /// A number that differs from binding to binding and from worker to worker, and that no guest knows.
    pub(crate) fn seed(&self, worker: usize) -> u32 {
        use std::hash::BuildHasher as _;
        let hash = foldhash::fast::RandomState::default().hash_one((&*self.name, worker));
        let [a, b, c, d, ..] = hash.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn age_ms(&self) -> u64 {
        // More than what stands for states that are not open.
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX / 2) + BREAKER_HALF_OPEN
    }

    /// The shortest time between two new spares of one worker.
    pub(crate) fn replacement_interval(&self) -> Duration {
        let by_deadline = self.limits.deadline_ms * limits::REPLACEMENT_DEADLINES;
        Duration::from_millis(u64::from(by_deadline.max(limits::REPLACEMENT_INTERVAL_MS)))
    }

    /// Puts a spare into a cell, for its worker to take; `newer` asks the worker to take it in any case.
    pub(crate) fn offer(&self, cell: &Cell, spare: Serving, newer: bool) {
        let mut slot = lock(&cell.spare);
        if self.is_retired() {
            return;
        }
        *slot = Some(spare);
        cell.offer.store(if newer { NEWER } else { SPARE }, Ordering::Release);
    }
}

impl Cell {
    /// The worker's first instance; nothing when it was taken before or the binding is retired.
    pub(crate) fn take_warm(&self) -> Option<Serving> {
        lock(&self.warm).take()
    }

    /// Whether the worker ought to exchange its instance for the spare.
    #[inline]
    pub(crate) fn has_newer(&self) -> bool {
        self.offer.load(Ordering::Relaxed) == NEWER
    }

    /// Exchanges the worker's instance, if it has one, for the spare. False when there is none to be had now;
    /// never waits.
    pub(crate) fn exchange(&self, serving: &mut Option<Serving>) -> bool {
        if self.offer.load(Ordering::Acquire) == NOTHING {
            return false;
        }
        let Ok(mut slot) = self.spare.try_lock() else { return false };
        let Some(fresh) = slot.take() else { return false };
        self.offer.store(NOTHING, Ordering::Relaxed);
        self.serving_seen.store(fresh.members_seen(), Ordering::Relaxed);
        *slot = serving.replace(fresh);
        true
    }

    /// Notes that the worker has no instance any more.
    pub(crate) fn stopped_serving(&self) {
        self.serving_seen.store(NOT_SERVING, Ordering::Relaxed);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving_seen.load(Ordering::Relaxed) != NOT_SERVING
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.offer.load(Ordering::Relaxed) != NOTHING
    }

    /// What the policy thread has to do for this cell so that spare and worker know the changes up to `target`.
    /// Takes the spare out while that is more than nothing.
    pub(crate) fn inspect(&self, target: u64) -> Upkeep {
        let worker_is_behind = self.serving_seen.load(Ordering::Relaxed) < target;
        let mut slot = lock(&self.spare);
        match slot.as_ref() {
            None => Upkeep::Make { worker_is_behind },
            Some(spare) => {
                let offer = if worker_is_behind { NEWER } else { SPARE };
                if spare.members_seen() >= target && self.offer.load(Ordering::Relaxed) == offer {
                    return Upkeep::Nothing;
                }
                self.offer.store(NOTHING, Ordering::Relaxed);
                slot.take().map_or(Upkeep::Nothing, |spare| {
                    let spare = Box::new(spare);
                    Upkeep::Tell { spare, worker_is_behind }
                })
            }
        }
    }
}

/// See [`Cell::inspect`].
#[derive(Debug)]
pub(crate) enum Upkeep {
    Nothing,
    /// There is no spare.
    Make {
        worker_is_behind: bool,
    },
    /// The spare has to be told of changes, or offered again.
    Tell {
        spare: Box<Serving>,
        worker_is_behind: bool,
    },
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
