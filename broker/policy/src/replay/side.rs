//! One of the two components of a replay: its instances, one for each hook, set up and called as a worker does.
//!
//! What differs between workers and moments is taken out: there is one instance and no spare, chance and time come from the
//! record, values and buckets begin empty. A failed instance is replaced at once.

use crate::clock::Clock;
use crate::discards::Discards;
use crate::document::{Lane, PolicyLimits};
use crate::engine::{self, Ticker};
use crate::fast::Adapters;
use crate::hook::Hook;
use crate::hostcalls::Nobody;
use crate::instance::{Compiled, Instance, Recipe, Setup, SetupError};
use crate::limits;
use crate::linker;
use crate::plugin::{Unfit, Workbench};
use crate::question::Question;
use crate::queues::{Changes, Queues};
use crate::serving::Serving;
use crate::state::{Context, Pulls, State};
use crate::stats::{CallOutcome, PolicyStats, now};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::Linker;

/// Instances at once: one for each hook of both sides, and those that an upload is tried out in.
const INSTANCES: usize = 2 * Hook::ALL.len() + 3;

/// What both sides run on: the same as in a broker.
pub(super) struct Ground {
    engine: Engine,
    linker: Linker<State>,
    adapters: Arc<Adapters>,
    ticker: Ticker,
    discards: Discards,
    pub(super) clock: Arc<Clock>,
    pub(super) queues: Queues,
}

/// One component.
pub(super) struct Side {
    pub(super) name: &'static str,
    compiled: Compiled,
    config: String,
    limits: PolicyLimits,
    hooks: Vec<OneHook>,
}

/// One hook of it.
struct OneHook {
    hook: Hook,
    context: Context,
    /// None: the last one failed, and no other could be set up.
    serving: Option<Serving>,
    /// Set-ups in a row that failed.
    failed_setups: u32,
    /// Why the last of them did.
    why_not: Option<String>,
}

/// How the next question is put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub(super) seed: u64,
    /// What there is to be pulled.
    pub(super) given: Pulls,
}

impl Ground {
    pub(super) fn new() -> Result<Self, String> {
        let failed = |error: wasmtime::Error| format!("the WebAssembly engine does not start: {error:#}");
        let engine = engine::engine(INSTANCES).map_err(failed)?;
        let linker = linker::linker(&engine).map_err(failed)?;
        let adapters = Arc::new(Adapters::new(&engine).map_err(failed)?);
        let ticker = Ticker::start(&engine).map_err(|error| format!("a thread does not start: {error}"))?;
        let (clock, queues) = (Arc::new(Clock::standing()), Queues::default());
        Ok(Self { engine, linker, adapters, ticker, discards: Discards::default(), clock, queues })
    }
}

impl Side {
    pub(super) fn new(
        ground: &Ground,
        (name, component): (&'static str, &[u8]),
        config: String,
        limits: PolicyLimits,
    ) -> Result<Self, Unfit> {
        let Ground { engine, linker, adapters, ticker, discards, .. } = ground;
        let compiled = Workbench { engine, linker, adapters, ticker, discards }.compile(name, component)?;
        Ok(Self { name, compiled, config, limits, hooks: Vec::new() })
    }

    pub(super) fn has(&self, hook: Hook) -> bool {
        self.compiled.exports.hooks().contains(&hook)
    }

    /// Sets up what answers the questions of a hook.
    pub(super) fn open(&mut self, ground: &Ground, hook: Hook) -> Result<(), SetupError> {
        let context = Context {
            name: self.name.into(),
            worker: 0,
            stats: Arc::new(PolicyStats::new(1)),
            memory: Arc::default(),
            clock: Arc::clone(&ground.clock),
            surroundings: Arc::new(Nobody),
        };
        let serving = Some(self.set_up(ground, &context, hook)?);
        self.hooks.push(OneHook { hook, context, serving, failed_setups: 0, why_not: None });
        Ok(())
    }

    fn set_up(&self, ground: &Ground, context: &Context, hook: Hook) -> Result<Serving, SetupError> {
        let recipe = Recipe {
            ticker: &ground.ticker,
            compiled: &self.compiled,
            hook: Some(hook),
            lane: Lane::Auto,
            context: context.clone(),
            memory_bytes_max: self.limits.memory_mb as usize * 1024 * 1024,
            calls_max: limits::INSTANCE_CALLS_MAX,
        };
        let failed = |failure| SetupError::Failed { stage: "instantiate", failure };
        let mut instance = Instance::new(&recipe).map_err(failed)?;
        instance.rehearse(0, Pulls::default());
        Setup { recipe, config: &self.config, changes: &ground.queues.all() }
            .finish(instance)
            .map(Serving::Guest)
    }

    /// Puts a question to the instance of its hook; also says what it asked for.
    pub(super) fn ask<Q: Question>(
        &mut self,
        ground: &Ground,
        (hook, question): (Hook, &Q),
        asking: Asking,
    ) -> (Result<Q::Answer, CallOutcome>, Pulls) {
        let (pulls, deadline_ms) = (self.compiled.pulls, self.limits.deadline_ms);
        self.revive(ground, hook);
        let Some(asked) = self.hooks.iter_mut().find(|of| of.hook == hook) else {
            return (Err(CallOutcome::Unavailable), Pulls::default());
        };
        let stats = Arc::clone(&asked.context.stats);
        let Some(serving) = asked.serving.as_mut() else {
            stats.record(0, CallOutcome::Unavailable, None);
            return (Err(CallOutcome::Unavailable), Pulls::default());
        };
        let given = Pulls {
            headers: pulls.headers && asking.given.headers,
            payload: pulls.payload && asking.given.payload,
        };
        if let Serving::Guest(instance) = serving {
            instance.rehearse(asking.seed, given);
        }
        let started = now();
        let answer = question.put(serving, deadline_ms);
        let took = now().saturating_duration_since(started);
        let pulled = match serving {
            Serving::Guest(instance) => instance.pulled(),
            Serving::Rules(_) => Pulls::default(),
        };
        let is_over = match &answer {
            Ok(_) => serving.is_worn(),
            Err(failure) => failure.broke_instance,
        };
        let outcome = answer.as_ref().map_or_else(|failure| failure.outcome, |_| CallOutcome::Ok);
        stats.record(0, outcome, Some(took.min(CHARGE_MAX)));
        if is_over {
            self.replace(ground, hook);
        }
        (answer.map_err(|failure| failure.outcome), pulled)
    }

    /// Tells the instance that routes what changed in queues.
    pub(super) fn tell(&mut self, ground: &Ground) -> Result<(), CallOutcome> {
        let Some(asked) = self.hooks.iter_mut().find(|of| of.hook == Hook::Routing) else { return Ok(()) };
        let told = match asked.serving.as_mut() {
            None => Ok(false),
            Some(serving) => match ground.queues.since(serving.members_seen()) {
                None => Ok(false),
                Some(Changes { queues, .. }) if queues.is_empty() => Ok(true),
                Some(changes) => serving.members_changed(&changes).map(|()| true),
            },
        };
        let outcome = told.as_ref().err().map(|failure| failure.outcome);
        if let Some(outcome) = outcome {
            asked.context.stats.record(0, outcome, None);
        }
        if !matches!(told, Ok(true)) {
            self.replace(ground, Hook::Routing);
        }
        outcome.map_or(Ok(()), Err)
    }

    /// Tries to make an instance where none serves, unless that failed many times in a row.
    fn revive(&mut self, ground: &Ground, hook: Hook) {
        let is_dead = |of: &OneHook| {
            of.hook == hook && of.serving.is_none() && of.failed_setups < limits::REPLAY_SETUPS_MAX
        };
        if self.hooks.iter().any(is_dead) {
            self.replace(ground, hook);
        }
    }

    /// Makes a new instance, if it can be made; with the next question or change of members it is tried again.
    fn replace(&mut self, ground: &Ground, hook: Hook) {
        let Some(index) = self.hooks.iter().position(|of| of.hook == hook) else { return };
        let mut asked = self.hooks.swap_remove(index);
        asked.serving = None;
        match self.set_up(ground, &asked.context, hook) {
            Ok(serving) => (asked.serving, asked.failed_setups) = (Some(serving), 0),
            Err(error) => {
                asked.failed_setups += 1;
                asked.why_not = Some(error.to_string());
            }
        }
        self.hooks.push(asked);
    }

    /// Why the last instance that could not be set up for a hook could not.
    pub(super) fn why_not(&self, hook: Hook) -> Option<&str> {
        self.hooks.iter().find(|of| of.hook == hook)?.why_not.as_deref()
    }

    /// What the questions of a hook came to.
    pub(super) fn stats(&self, hook: Hook) -> Option<&PolicyStats> {
        self.hooks.iter().find(|of| of.hook == hook).map(|of| &*of.context.stats)
    }
}

/// The longest that a call can take and be told apart.
const CHARGE_MAX: Duration = Duration::from_secs(1);
