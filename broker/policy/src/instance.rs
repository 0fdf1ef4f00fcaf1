//! One live instance of a component: set up, told its queues, asked for verdicts.
//!
//! An instance is used by one thread at a time. After a failure that breaks it (all but a verdict that is readable
//! and out of bounds) its owner discards it. Every entry into guest code has a deadline, a memory limit and bounded host calls.

use crate::bindings::{self, Routing, RoutingPre};
use crate::document::Lane;
use crate::engine::{Live, Ticker};
use crate::fast::{Asked, Hooks, Prepared, Unsuited};
use crate::limits;
use crate::queues::Changes;
use crate::state::{Context, Pulls, State};
use crate::stats::CallOutcome;
use crate::verdict;
use std::sync::Arc;
use wasmtime::{PoolConcurrencyLimitError, Store, StoreContextMut, Trap};
use waspmq_core::address::Kind;
use waspmq_core::policy::{Message, Verdict};

/// A validated, compiled and linked component.
pub(crate) struct Compiled {
    pub(crate) pre: RoutingPre<State>,
    /// The same for the fast lane, or why it does not take it.
    pub(crate) direct: Result<Prepared, Unsuited>,
    pub(crate) pulls: Pulls,
}

impl Compiled {
    /// The lane that calls take unless a policy asks for the other one.
    pub(crate) const fn lane(&self) -> &'static str {
        if self.direct.is_ok() { "core" } else { "component" }
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
    pub(crate) lane: Lane,
    pub(crate) context: Context,
    pub(crate) memory_bytes_max: usize,
}

pub(crate) struct Instance {
    guest: Guest,
    store: Store<State>,
    pulls: Pulls,
    /// The number of the last member change it was told of.
    pub(crate) members_seen: u64,
    _live: Live,
}

/// The hooks by the lane that calls take.
enum Guest {
    Component(Routing),
    Core(Box<Hooks>),
}

impl Guest {
    fn start(recipe: &Recipe<'_>, store: &mut Store<State>) -> wasmtime::Result<Self> {
        match &recipe.compiled.direct {
            Ok(prepared) if recipe.lane == Lane::Auto => {
                Hooks::start(store, prepared).map(|hooks| Self::Core(Box::new(hooks)))
            }
            _ => recipe.compiled.pre.instantiate(store).map(Self::Component),
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
        store
            .epoch_deadline_callback(|mut store: StoreContextMut<'_, State>| Ok(store.data_mut().on_epoch()));
        arm(&mut store);
        match Guest::start(recipe, &mut store) {
            Ok(guest) => {
                Ok(Self { guest, store, pulls: recipe.compiled.pulls, members_seen: 0, _live: live })
            }
            Err(error) => Err(failure(&error, store.data())),
        }
    }

    /// Hands the instance its configuration; the inner error is the guest's own answer.
    pub(crate) fn configure(&mut self, config: &str) -> Result<Result<(), String>, Failure> {
        arm(&mut self.store);
        let answer = match &mut self.guest {
            Guest::Component(guest) => guest.call_configure(&mut self.store, config),
            Guest::Core(guest) => guest.configure(&mut self.store, config),
        };
        answer.map_err(|error| failure(&error, self.store.data()))
    }

    /// Lets the guest test itself; the inner error is the guest's own answer.
    pub(crate) fn self_test(&mut self) -> Result<Result<(), String>, Failure> {
        arm(&mut self.store);
        let answer = match &mut self.guest {
            Guest::Component(guest) => guest.call_self_test(&mut self.store),
            Guest::Core(guest) => guest.self_test(&mut self.store),
        };
        answer.map_err(|error| failure(&error, self.store.data()))
    }

    /// Tells the guest the queues that changed; all of them share one deadline.
    pub(crate) fn members_changed(&mut self, changes: &Changes) -> Result<(), Failure> {
        arm(&mut self.store);
        for members in &changes.queues {
            let answer = match &mut self.guest {
                Guest::Component(guest) => {
                    let names: Vec<&str> = members.members.iter().map(String::as_str).collect();
                    let told = bindings::QueueMembers {
                        pattern: &members.pattern,
                        queue: members.queue.as_str(),
                        version: members.version,
                        members: &names,
                    };
                    guest.call_members_changed(&mut self.store, told)
                }
                Guest::Core(guest) => guest.members_changed(&mut self.store, members),
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
    ) -> Result<Verdict, Failure> {
        let state = self.store.data_mut();
        state.arm(deadline_ms);
        if self.pulls.headers || self.pulls.payload {
            state.show(message, set, self.pulls);
        }
        self.store.set_epoch_deadline(1);
        let size = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
        let answer = match &mut self.guest {
            Guest::Core(guest) => {
                let asked = Asked {
                    sender: message.from,
                    address: message.to,
                    kind: kind(message.kind) as u32,
                    key: message.key,
                    size,
                    priority: message.priority,
                    ts: message.unix_ms,
                };
                guest.route(&mut self.store, &asked)
            }
            Guest::Component(guest) => {
                let asked = bindings::Message {
                    sender: message.from,
                    address: message.to,
                    kind: kind(message.kind),
                    key: message.key,
                    size,
                    priority: message.priority,
                    ts: message.unix_ms,
                };
                guest.call_route(&mut self.store, asked).map(|answer| verdict::check(answer.into()))
            }
        };
        match answer {
            Ok(verdict) => verdict.map_err(|bad| Failure::bad_verdict(&bad)),
            Err(error) => Err(failure(&error, self.store.data())),
        }
    }
}

impl Failure {
    pub(crate) fn bad_verdict(bad: &verdict::BadVerdict) -> Self {
        let outcome = CallOutcome::BadVerdict;
        Self { outcome, text: bad.to_string(), broke_instance: false, no_capacity: false }
    }
}

/// Starts the bounds of a call outside of a decision.
fn arm(store: &mut Store<State>) {
    let state = store.data_mut();
    state.arm(limits::SETUP_DEADLINE_MS);
    state.hide();
    store.set_epoch_deadline(1);
}

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

const fn kind(kind: Kind) -> bindings::Kind {
    match kind {
        Kind::User => bindings::Kind::User,
        Kind::Group => bindings::Kind::Group,
        Kind::Topic => bindings::Kind::Topic,
        Kind::All => bindings::Kind::All,
    }
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
        let failed = |stage| move |failure| SetupError::Failed { stage, failure };
        let refused = |stage| {
            move |reason: String| SetupError::Refused {
                stage,
                reason: bindings::cut(&reason, limits::LOG_BYTES_MAX).to_owned(),
            }
        };
        let mut instance = Instance::new(&self.recipe).map_err(failed("instantiate"))?;
        instance.configure(self.config).map_err(failed("configure"))?.map_err(refused("configure"))?;
        instance.self_test().map_err(failed("self-test"))?.map_err(refused("self-test"))?;
        instance.members_changed(self.changes).map_err(failed("members-changed"))?;
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
