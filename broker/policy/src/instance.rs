//! One live instance of a component: set up, told its queues, asked for decisions.
//!
//! An instance is used by one thread at a time. After a failure that breaks it (all but a verdict that is readable
//! and out of bounds) its owner discards it. Every entry into guest code has a deadline, a memory limit and bounded host calls.

use crate::answers;
use crate::bindings;
use crate::codecs;
use crate::document::Lane;
use crate::engine::{Live, Ticker};
use crate::fast::{Hooks, Prepared, Unsuited};
use crate::guest::{Exports, Guest};
use crate::hook::Hook;
use crate::hostcalls::Random;
use crate::limits;
use crate::plugin::{LANE_COMPONENT, LANE_CORE};
use crate::queues::Changes;
use crate::state::{Context, Pulls, State};
use crate::stats::CallOutcome;
use crate::verdict;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::InstancePre;
use wasmtime::component::types::ComponentItem;
use wasmtime::{PoolConcurrencyLimitError, Store, StoreContextMut, Trap};
use waspmq_core::compression::Audience;
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Message, Overflowed};
use waspmq_core::settings::{Overflow, Settings};

/// A validated, compiled and linked component.
pub(crate) struct Compiled {
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Exports,
    /// The same for the fast lane, or why it does not take it.
    pub(crate) direct: Result<Prepared, Unsuited>,
    pub(crate) pulls: Pulls,
}

impl Compiled {
    /// The lane that calls take unless a policy asks for the other one.
    pub(crate) const fn lane(&self) -> &'static str {
        if self.direct.is_ok() { LANE_CORE } else { LANE_COMPONENT }
    }

    /// The functions that it imports of an interface.
    pub(crate) fn host_functions(&self, interface: &str) -> Vec<String> {
        let (component, engine) = (self.pre.component(), self.pre.engine());
        let imported = component.component_type().get_import(engine, interface).map(|import| import.ty);
        let Some(ComponentItem::ComponentInstance(instance)) = imported else { return Vec::new() };
        let functions = instance.exports(engine).filter_map(|(name, item)| match item.ty {
            ComponentItem::ComponentFunc(_) => Some(name.to_owned()),
            _ => None,
        });
        functions.collect()
    }

    pub(crate) fn lane_reason(&self) -> Option<&Unsuited> {
        self.direct.as_ref().err()
    }
}

/// Why a guest did not do what it was called for; the text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) outcome: CallOutcome,
    pub(crate) text: String,
    /// Whether the guest was left in the middle of a call, so that its instance is not usable any more.
    pub(crate) broke_instance: bool,
    /// The pool of instances is exhausted; the guest is not to blame.
    pub(crate) no_capacity: bool,
}

/// What an instance is made for and from.
pub(crate) struct Recipe<'a> {
    pub(crate) ticker: &'a Ticker,
    pub(crate) compiled: &'a Compiled,
    /// What it will be asked; nothing for one that is only tried out.
    pub(crate) hook: Option<Hook>,
    pub(crate) lane: Lane,
    pub(crate) context: Context,
    pub(crate) memory_bytes_max: usize,
    pub(crate) calls_max: u32,
}

pub(crate) struct Instance {
    callee: Callee,
    store: Store<State>,
    hook: Option<Hook>,
    pulls: Pulls,
    /// Decisions it was asked for, how many it may be, and the bytes of memory it had when it was set up.
    asked: u32,
    calls_max: u32,
    memory_bytes_at_first: usize,
    /// The number of the last member change it was told of.
    pub(crate) members_seen: u64,
    _live: Live,
}

/// What is called, by the lane that calls take.
enum Callee {
    Component(Box<Guest>),
    Core(Box<Hooks>),
}

impl Callee {
    fn start(recipe: &Recipe<'_>, store: &mut Store<State>) -> wasmtime::Result<Self> {
        let compiled = recipe.compiled;
        match &compiled.direct {
            Ok(prepared) if recipe.lane == Lane::Auto => {
                Hooks::start(store, prepared, recipe.hook).map(|hooks| Self::Core(Box::new(hooks)))
            }
            _ => {
                let instance = compiled.pre.instantiate(&mut *store)?;
                compiled.exports.load(store, &instance).map(|guest| Self::Component(Box::new(guest)))
            }
        }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("members_seen", &self.members_seen).finish_non_exhaustive()
    }
}

impl Instance {
    /// Makes an instance that is neither configured nor tested.
    pub(crate) fn new(recipe: &Recipe<'_>) -> Result<Self, Failure> {
        let live = recipe.ticker.live();
        let state = State::new(recipe.context.clone(), recipe.memory_bytes_max);
        let mut store = Store::new(recipe.compiled.pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits::CALL_BYTES_MAX);
        refuel(&mut store);
        store
            .epoch_deadline_callback(|mut store: StoreContextMut<'_, State>| Ok(store.data_mut().on_epoch()));
        arm(&mut store);
        match Callee::start(recipe, &mut store) {
            Ok(callee) => {
                let (hook, pulls) = (recipe.hook, recipe.compiled.pulls);
                let (asked, memory_bytes_at_first) = (0, 0);
                Ok(Self {
                    callee,
                    store,
                    hook,
                    pulls,
                    asked,
                    calls_max: recipe.calls_max,
                    memory_bytes_at_first,
                    members_seen: 0,
                    _live: live,
                })
            }
            Err(error) => Err(failure(&error, store.data())),
        }
    }

    /// Hands the instance its configuration; the inner error is the guest's own answer.
    pub(crate) fn configure(&mut self, config: &str) -> Result<Result<(), String>, Failure> {
        arm(&mut self.store);
        let answer = match &mut self.callee {
            Callee::Component(guest) => {
                guest.configure.call(&mut self.store, (config,)).map(|(answer,)| answer)
            }
            Callee::Core(hooks) => hooks.configure(&mut self.store, config),
        };
        answer.map_err(|error| failure(&error, self.store.data()))
    }

    /// Lets the guest test itself; the inner error is the guest's own answer.
    pub(crate) fn self_test(&mut self) -> Result<Result<(), String>, Failure> {
        arm(&mut self.store);
        let answer = match &mut self.callee {
            Callee::Component(guest) => guest.self_test.call(&mut self.store, ()).map(|(answer,)| answer),
            Callee::Core(hooks) => hooks.self_test(&mut self.store),
        };
        answer.map_err(|error| failure(&error, self.store.data()))
    }

    /// Tells a guest that routes the queues that changed; all of them share one deadline.
    pub(crate) fn members_changed(&mut self, changes: &Changes) -> Result<(), Failure> {
        if self.hook != Some(Hook::Routing) {
            self.members_seen = changes.sequence;
            return Ok(());
        }
        arm(&mut self.store);
        for members in &changes.queues {
            self.store.data_mut().told.change(members);
            let answer = match &mut self.callee {
                Callee::Core(hooks) => hooks.members_changed(&mut self.store, members),
                Callee::Component(guest) => {
                    let Some(hears) = guest.members_changed else { break };
                    let names: Vec<&str> = members.members.iter().map(String::as_str).collect();
                    let told = bindings::QueueMembers {
                        pattern: &members.pattern,
                        queue: members.queue.as_str(),
                        version: members.version,
                        members: &names,
                    };
                    hears.call(&mut self.store, (told,))
                }
            };
            answer.map_err(|error| failure(&error, self.store.data()))?;
        }
        self.members_seen = changes.sequence;
        Ok(())
    }

    /// Asks for the verdict on one message, to which earlier policies set the headers `set`.
    pub(crate) fn route(
        &mut self,
        message: &Message<'_>,
        set: &[(String, String)],
        deadline_ms: u32,
    ) -> Result<verdict::Routed, Box<Failure>> {
        self.begin(Some((message, set)), deadline_ms);
        let told = answers::message(message);
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.route(&mut self.store, &told),
            Callee::Component(guest) => {
                let Some(route) = guest.route else { return Err(Failure::no_hook()) };
                let answer = route.call(&mut self.store, (told,));
                answer.map(|(answer,)| {
                    verdict::check(answer.into(), &mut self.store.data_mut().known).map_err(Box::new)
                })
            }
        };
        self.concluded(answer)
    }

    /// Asks for the plan of one message; nothing when it is left to others.
    pub(crate) fn plan(
        &mut self,
        message: &Message<'_>,
        settings: &Settings,
        deadline_ms: u32,
    ) -> Result<Option<Acknowledgement>, Box<Failure>> {
        self.begin(Some((message, &[])), deadline_ms);
        let (message, configured) = (answers::message(message), answers::configured(settings));
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.plan(&mut self.store, &message, &configured),
            Callee::Component(guest) => {
                let Some(plan) = guest.plan else { return Err(Failure::no_hook()) };
                plan.call(&mut self.store, (message, configured)).map(|(answer,)| answer)
            }
        };
        let checked = |plan| answers::ack_plan(plan, settings.keep);
        self.concluded(answer.map(|answer| answer.map(checked).transpose()))
    }

    /// Asks what is done about a failed attempt; nothing when it is left to others.
    pub(crate) fn failed(
        &mut self,
        told: bindings::Failure<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Decision>, Box<Failure>> {
        self.begin(None, deadline_ms);
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.failed(&mut self.store, &told),
            Callee::Component(guest) => {
                let Some(failed) = guest.failed else { return Err(Failure::no_hook()) };
                failed.call(&mut self.store, (told,)).map(|(answer,)| answer)
            }
        };
        self.concluded(answer.map(answers::decision))
    }

    /// Asks whether a message is taken in; nothing when it is left to others.
    pub(crate) fn admit(
        &mut self,
        message: &Message<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Admittance>, Box<Failure>> {
        self.begin(Some((message, &[])), deadline_ms);
        let told = answers::message(message);
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.admit(&mut self.store, &told),
            Callee::Component(guest) => {
                let Some(admit) = guest.admit else { return Err(Failure::no_hook()) };
                admit.call(&mut self.store, (told,)).map(|(answer,)| answer)
            }
        };
        self.concluded(answer.map(answers::admittance))
    }

    /// Asks what is done about a full queue; nothing when it is left to others.
    pub(crate) fn overflow(
        &mut self,
        what: &Overflowed<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Overflow>, Box<Failure>> {
        self.begin(None, deadline_ms);
        let told = answers::overflowing(what);
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.overflow(&mut self.store, &told),
            Callee::Component(guest) => {
                let Some(overflow) = guest.overflow else { return Err(Failure::no_hook()) };
                overflow.call(&mut self.store, (told,)).map(|(answer,)| answer)
            }
        };
        answer.map(answers::action).map_err(|error| Box::new(failure(&error, self.store.data())))
    }

    /// Asks what a message is sent with; no codec where it is left to others.
    pub(crate) fn choose(
        &mut self,
        message: &Message<'_>,
        audience: Audience,
        deadline_ms: u32,
    ) -> Result<codecs::Choice, Box<Failure>> {
        self.begin(Some((message, &[])), deadline_ms);
        let told = answers::message(message);
        let answer = match &mut self.callee {
            Callee::Core(hooks) => hooks.choose(&mut self.store, &told, audience),
            Callee::Component(guest) => {
                let Some(choose) = guest.choose else { return Err(Failure::no_hook()) };
                let answer = choose.call(&mut self.store, (told, codecs::audience(audience)));
                answer.map(|(answer,)| codecs::check(answer.into(), &mut self.store.data_mut().known))
            }
        };
        self.concluded(answer)
    }

    /// Prepares the next decision to be repeated: what looks random follows from `seed`, and of the message only what is
    /// in `given` can be pulled, of what the component pulls at all.
    pub(crate) fn rehearse(&mut self, seed: u64, given: Pulls) {
        refuel(&mut self.store);
        let state = self.store.data_mut();
        state.random = Random::of(seed);
        state.hide();
        state.pulled = Pulls::default();
        self.pulls = given;
    }

    /// What the guest took since it was last prepared, where that is counted.
    pub(crate) fn fuel_taken(&self) -> Option<u64> {
        self.store.get_fuel().ok().map(|left| FUEL.saturating_sub(left))
    }

    /// About the CPU time that the latest call used, where that was measured.
    pub(crate) fn cpu_time_used(&self) -> Option<Duration> {
        self.store.data().cpu_time_used()
    }

    /// Bytes of memory it has.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes
    }

    /// What the guest asked for since it was last prepared.
    pub(crate) fn pulled(&self) -> Pulls {
        self.store.data().pulled
    }

    /// What came of a call whose answer was read and checked.
    fn concluded<T, B: ToString>(&self, answer: wasmtime::Result<Result<T, B>>) -> Result<T, Box<Failure>> {
        match answer {
            Ok(checked) => checked.map_err(|bad| Failure::bad_verdict(&bad)),
            Err(error) => Err(Box::new(failure(&error, self.store.data()))),
        }
    }

    /// Whether it served long enough, or filled most of the memory it may have since it was set up.
    #[inline]
    pub(crate) fn is_worn(&self) -> bool {
        let memory_bytes = self.store.data().memory_bytes;
        self.asked >= self.calls_max
            || (memory_bytes > self.memory_bytes_at_first && self.store.data().is_nearly_full())
    }

    /// Starts the bounds of a decision, with the message it is about and the headers set so far.
    fn begin(&mut self, message: Option<(&Message<'_>, &[(String, String)])>, deadline_ms: u32) {
        self.asked = self.asked.saturating_add(1);
        let state = self.store.data_mut();
        state.arm(deadline_ms);
        if self.pulls.headers || self.pulls.payload {
            match message {
                Some((message, set)) => state.show(message, set, self.pulls),
                None => state.hide(),
            }
        }
        self.store.set_epoch_deadline(1);
    }
}

impl Failure {
    #[cold]
    pub(crate) fn bad_verdict(bad: &impl ToString) -> Box<Self> {
        let outcome = CallOutcome::BadVerdict;
        Box::new(Self { outcome, text: bad.to_string(), broke_instance: false, no_capacity: false })
    }

    /// For a policy of a hook that its plugin does not have, which no document may ask for.
    #[cold]
    fn no_hook() -> Box<Self> {
        let text = "the plugin does not have the policy's hook".to_owned();
        let outcome = CallOutcome::Unavailable;
        Box::new(Self { outcome, text, broke_instance: false, no_capacity: false })
    }
}

/// More than any call takes before its deadline.
const FUEL: u64 = u64::MAX / 2;

/// Gives a guest that is counted as much as it wants; others have none to begin with.
fn refuel(store: &mut Store<State>) {
    if store.get_fuel().is_ok() {
        let refuelled = store.set_fuel(FUEL);
        debug_assert!(refuelled.is_ok(), "the engine counts");
    }
}

/// Starts the bounds of a call outside of a decision.
fn arm(store: &mut Store<State>) {
    let state = store.data_mut();
    state.arm(limits::SETUP_DEADLINE_MS);
    state.hide();
    store.set_epoch_deadline(1);
}

#[cold]
fn failure(error: &wasmtime::Error, state: &State) -> Failure {
    let (outcome, text) = if state.deadline_missed() {
        (CallOutcome::Deadline, "it used more CPU time than its deadline allows".to_owned())
    } else if state.growth_denied() {
        (CallOutcome::Memory, "it needs more memory than its limit allows".to_owned())
    } else if error.downcast_ref::<Trap>().is_some() {
        (CallOutcome::Trap, format!("{error:#}"))
    } else {
        // The guest ran, but what it handed over cannot be read as what the world says it is.
        (CallOutcome::BadVerdict, format!("{error:#}"))
    };
    let no_capacity = error.downcast_ref::<PoolConcurrencyLimitError>().is_some();
    Failure { outcome, text, broke_instance: true, no_capacity }
}

/// What every instance of one policy has in common, and the way from nothing to an instance that may serve.
pub(crate) struct Setup<'a> {
    pub(crate) recipe: Recipe<'a>,
    pub(crate) config: &'a str,
    pub(crate) changes: &'a Changes,
}

/// Why an instance could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("{stage} failed: {failure}")]
    Failed { stage: &'static str, failure: Failure },
    #[error("{stage} answered: {reason}")]
    Refused { stage: &'static str, reason: String },
}

impl SetupError {
    /// Whether the pool is exhausted, which is not the guest's fault.
    pub(crate) const fn lacks_room(&self) -> bool {
        matches!(self, Self::Failed { failure, .. } if failure.no_capacity)
    }

    pub(crate) const fn outcome(&self) -> CallOutcome {
        match self {
            Self::Failed { failure, .. } => failure.outcome,
            Self::Refused { .. } => CallOutcome::Trap,
        }
    }
}

impl Setup<'_> {
    /// Instantiates, configures, tests and tells all queues.
    pub(crate) fn run(&self) -> Result<Instance, SetupError> {
        let failed = |failure| SetupError::Failed { stage: "instantiate", failure };
        self.finish(Instance::new(&self.recipe).map_err(failed)?)
    }

    /// The steps behind instantiating.
    pub(crate) fn finish(&self, mut instance: Instance) -> Result<Instance, SetupError> {
        let failed = |stage| move |failure| SetupError::Failed { stage, failure };
        let refused = |stage| {
            move |reason: String| SetupError::Refused {
                stage,
                reason: bindings::cut(&reason, limits::LOG_BYTES_MAX).to_owned(),
            }
        };
        instance.configure(self.config).map_err(failed("configure"))?.map_err(refused("configure"))?;
        instance.self_test().map_err(failed("self-test"))?.map_err(refused("self-test"))?;
        instance.members_changed(self.changes).map_err(failed("members-changed"))?;
        instance.memory_bytes_at_first = instance.store.data().memory_bytes;
        Ok(instance)
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("pulls", &self.pulls).finish_non_exhaustive()
    }
}

/// A shared handle, kept by revisions and by the bindings made from them.
pub(crate) type SharedCompiled = Arc<Compiled>;
