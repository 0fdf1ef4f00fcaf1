//! A component that is asked without a broker: its instances, one for each hook, set up and called as a worker does.
//!
//! What differs between workers and moments is taken out: there is one instance and no spare, chance and time come from who
//! asks, values and buckets begin empty. A failed instance is replaced at once.

use crate::clock::Clock;
use crate::discards::Discards;
use crate::document::{Lane, PolicyLimits};
use crate::engine::{self, Ticker};
use crate::fast::Adapters;
use crate::hook::Hook;
use crate::hostcalls::{Nobody, Surroundings};
use crate::instance::{Compiled, Failure, Instance, Recipe, Setup, SetupError};
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

/// What components run on: the same as in a broker.
pub(crate) struct Ground {
    pub(crate) engine: Engine,
    linker: Linker<State>,
    adapters: Arc<Adapters>,
    ticker: Ticker,
    discards: Discards,
    pub(crate) clock: Arc<Clock>,
    pub(crate) queues: Queues,
    pub(crate) surroundings: Arc<dyn Surroundings>,
}

/// One component.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) compiled: Compiled,
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

/// What a question came to.
pub(crate) struct Told<A> {
    pub(crate) answer: Result<A, CallOutcome>,
    /// What the component asked for.
    pub(crate) pulled: Pulls,
    /// What it took where calls are counted, and unless it failed.
    pub(crate) fuel: Option<u64>,
}

/// How the next question is put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    pub(crate) seed: u64,
    /// What there is to be pulled.
    pub(crate) given: Pulls,
}

impl<A> Told<A> {
    const UNAVAILABLE: Self = Self {
        answer: Err(CallOutcome::Unavailable),
        pulled: Pulls { headers: false, payload: false },
        fuel: None,
    };
}

impl Ground {
    pub(crate) fn new() -> Result<Self, String> {
        Self::on(engine::engine(INSTANCES))
    }

    /// One on which calls are counted in instructions, which makes them slower and the same every time.
    pub(crate) fn counting() -> Result<Self, String> {
        Self::on(engine::counting(INSTANCES))
    }

    fn on(engine: wasmtime::Result<Engine>) -> Result<Self, String> {
        let failed = |error: wasmtime::Error| format!("the WebAssembly engine does not start: {error:#}");
        let engine = engine.map_err(failed)?;
        let linker = linker::linker(&engine).map_err(failed)?;
        let adapters = Arc::new(Adapters::new(&engine).map_err(failed)?);
        let ticker = Ticker::start(&engine).map_err(|error| format!("a thread does not start: {error}"))?;
        let (clock, queues) = (Arc::new(Clock::standing()), Queues::default());
        let (discards, surroundings) = (Discards::default(), Arc::new(Nobody));
        Ok(Self { engine, linker, adapters, ticker, discards, clock, queues, surroundings })
    }

    /// Goes back to the beginning of everything: no time has passed, there are no queues.
    pub(crate) fn begin_anew(&mut self, surroundings: Arc<dyn Surroundings>) {
        (self.clock, self.queues) = (Arc::new(Clock::standing()), Queues::default());
        self.surroundings = surroundings;
    }
}

impl Side {
    pub(crate) fn new(
        ground: &Ground,
        (name, component): (&'static str, &[u8]),
        config: String,
        limits: PolicyLimits,
    ) -> Result<Self, Unfit> {
        let Ground { engine, linker, adapters, ticker, discards, .. } = ground;
        let compiled = Workbench { engine, linker, adapters, ticker, discards }.compile(name, component)?;
        Ok(Self { name, compiled, config, limits, hooks: Vec::new() })
    }

    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.compiled.exports.hooks().contains(&hook)
    }

    /// Sets up what answers the questions of a hook.
    pub(crate) fn open(&mut self, ground: &Ground, hook: Hook) -> Result<(), SetupError> {
        let context = self.context(ground);
        let serving = Some(self.set_up(ground, &context, hook)?);
        self.hooks.push(OneHook { hook, context, serving, failed_setups: 0, why_not: None });
        Ok(())
    }

    /// Memory of an instance that is not configured.
    pub(crate) fn memory_bytes(&self, ground: &Ground) -> Result<usize, Unfit> {
        let context = self.context(ground);
        let recipe = self.recipe(ground, &context, None);
        let unfit = |failure: Failure| Unfit::Trapped { stage: "instantiate", reason: failure.text };
        Ok(Instance::new(&recipe).map_err(unfit)?.memory_bytes())
    }

    fn context(&self, ground: &Ground) -> Context {
        Context {
            name: self.name.into(),
            worker: 0,
            stats: Arc::new(PolicyStats::new(1)),
            memory: Arc::default(),
            clock: Arc::clone(&ground.clock),
            surroundings: Arc::clone(&ground.surroundings),
        }
    }

    fn recipe<'a>(&'a self, ground: &'a Ground, context: &Context, hook: Option<Hook>) -> Recipe<'a> {
        Recipe {
            ticker: &ground.ticker,
            compiled: &self.compiled,
            hook,
            lane: Lane::Auto,
            context: context.clone(),
            memory_bytes_max: self.limits.memory_mb as usize * 1024 * 1024,
            calls_max: limits::INSTANCE_CALLS_MAX,
        }
    }

    fn set_up(&self, ground: &Ground, context: &Context, hook: Hook) -> Result<Serving, SetupError> {
        let recipe = self.recipe(ground, context, Some(hook));
        let failed = |failure| SetupError::Failed { stage: "instantiate", failure };
        let mut instance = Instance::new(&recipe).map_err(failed)?;
        instance.rehearse(0, Pulls::default());
        Setup { recipe, config: &self.config, changes: &ground.queues.all() }
            .finish(instance)
            .map(Serving::Guest)
    }

    /// Forgets all instances and what they kept, and takes another configuration.
    pub(crate) fn begin_anew(&mut self, config: String) {
        self.hooks.clear();
        self.config = config;
    }

    /// What serves a hook that was opened, for who puts questions to it directly.
    pub(crate) fn serving(&mut self, hook: Hook) -> Option<&mut Serving> {
        self.hooks.iter_mut().find(|of| of.hook == hook)?.serving.as_mut()
    }

    /// Puts a question to the instance of its hook.
    pub(crate) fn ask<Q: Question>(
        &mut self,
        ground: &Ground,
        (hook, question): (Hook, &Q),
        asking: Asking,
    ) -> Told<Q::Answer> {
        let (pulls, deadline_ms) = (self.compiled.pulls, self.limits.deadline_ms);
        self.revive(ground, hook);
        let Some(asked) = self.hooks.iter_mut().find(|of| of.hook == hook) else {
            return Told::UNAVAILABLE;
        };
        let stats = Arc::clone(&asked.context.stats);
        let Some(serving) = asked.serving.as_mut() else {
            stats.record(0, CallOutcome::Unavailable, None);
            return Told::UNAVAILABLE;
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
        let (pulled, fuel) = match serving {
            Serving::Guest(instance) => (instance.pulled(), instance.fuel_taken()),
            Serving::Rules(_) => (Pulls::default(), None),
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
        let fuel = fuel.filter(|_| answer.is_ok());
        Told { answer: answer.map_err(|failure| failure.outcome), pulled, fuel }
    }

    /// Tells the instance that routes what changed in queues.
    pub(crate) fn tell(&mut self, ground: &Ground) -> Result<(), CallOutcome> {
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
    pub(crate) fn replace(&mut self, ground: &Ground, hook: Hook) {
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
    pub(crate) fn why_not(&self, hook: Hook) -> Option<&str> {
        self.hooks.iter().find(|of| of.hook == hook)?.why_not.as_deref()
    }

    /// What the questions of a hook came to.
    pub(crate) fn stats(&self, hook: Hook) -> Option<&PolicyStats> {
        self.hooks.iter().find(|of| of.hook == hook).map(|of| &*of.context.stats)
    }
}

/// The longest that a call can take and be told apart.
const CHARGE_MAX: Duration = Duration::from_secs(1);
