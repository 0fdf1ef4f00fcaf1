//! The host of all policies: what the server starts, asks about, and hands its workers' hooks out of.
//!
//! Deliberately not here: how plugins and policies change (`admin.rs`), and how they come back (`restore.rs`).

use crate::breaker::BreakerState;
use crate::capacity;
use crate::capture::Captures;
use crate::discards::Discards;
use crate::engine::{self, Ticker};
use crate::exceeded::LIMITS;
use crate::fast::Adapters;
use crate::hook::Hook;
use crate::hostcalls::Surroundings;
use crate::keeper::Keeper;
use crate::limits;
use crate::linker;
use crate::memory::Kept;
use crate::queues::Queues;
use crate::registry::{Policy, Registry};
use crate::shared::Shared;
use crate::stats::{Compressed, LatencyBuckets};
use crate::worker::WorkerPolicies;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use waspmq_core::limits::WORKERS_MAX;
use waspmq_core::policy::QueueMembers;

/// How large the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostOptions {
    /// I/O workers, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// Policies that can be there at once, 1 to [`limits::POLICIES_MAX`]. Each reserves address space for
    /// [`limits::INSTANCES_PER_POLICY`] instances per worker. Fewer where the kernel does not allow as many memory maps.
    pub policies_max: usize,
    /// Calls one instance serves before another takes its place, 1 to [`limits::INSTANCE_CALLS_MAX`].
    pub instance_calls_max: u32,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { workers: 1, policies_max: 16, instance_calls_max: limits::INSTANCE_CALLS_MAX }
    }
}

/// Why the host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "workers, policies_max and instance_calls_max must be 1 to {WORKERS_MAX}, 1 to {} and 1 to {}",
        limits::POLICIES_MAX,
        limits::INSTANCE_CALLS_MAX
    )]
    Options,
    #[error(
        "the kernel allows a process {maps_max} memory maps, which is not enough for one policy; raise vm.max_map_count to at least {needed}, or have fewer workers"
    )]
    Maps { maps_max: usize, needed: usize },
    #[error("the WebAssembly engine cannot reserve room for {instances} instances: {reason}")]
    Engine { instances: usize, reason: String },
    #[error("a thread does not start")]
    Thread(#[from] std::io::Error),
}

/// Counts of one policy for metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyMetrics {
    pub policy: String,
    pub hook: &'static str,
    /// Calls by [`crate::CallOutcome`].
    pub outcomes: Vec<(&'static str, u64)>,
    pub latency: LatencyBuckets,
    pub kept: Kept,
    /// How often calls went over limits that do not end them, by limit.
    pub exceeded: [(&'static str, u64); LIMITS],
    /// The worst breaker of the versions that decide.
    pub breaker: BreakerState,
    /// Instances replaced because they served long enough or filled their memory.
    pub recycled: u64,
    /// Versions taken back, by reason.
    pub rollbacks: [(&'static str, u64); 3],
    /// Messages by how the present shadow compared; empty when there is none.
    pub shadow: Vec<(&'static str, u64)>,
    /// What choices of a codec came to, by codec.
    pub compressed: Vec<(&'static str, Compressed)>,
}

/// The policies of one broker. All methods are synchronous; changes may take as long as compiling takes, and
/// [`Host::queue_changed`] is cheap.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    /// One upload at a time holds this while it works.
    pub(crate) uploading: Mutex<()>,
    keeper: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the engine, its epoch thread and the policy thread. What policies ask about the broker, `surroundings` answers.
    pub fn start(options: HostOptions, surroundings: Arc<dyn Surroundings>) -> Result<Arc<Self>, StartError> {
        let in_range = (1..=WORKERS_MAX).contains(&options.workers)
            && (1..=limits::POLICIES_MAX).contains(&options.policies_max)
            && (1..=limits::INSTANCE_CALLS_MAX).contains(&options.instance_calls_max);
        if !in_range {
            return Err(StartError::Options);
        }
        let options = capacity::fit(options)?;
        let instances = capacity::instances(options);
        let failed = |error: wasmtime::Error| StartError::Engine { instances, reason: format!("{error:#}") };
        let engine = engine::engine(instances).map_err(failed)?;
        let linker = linker::linker(&engine).map_err(failed)?;
        let adapters = Arc::new(Adapters::new(&engine).map_err(failed)?);
        let ticker = Ticker::start(&engine)?;
        let shared = Arc::new(Shared {
            engine,
            linker,
            adapters,
            ticker,
            surroundings,
            workers: options.workers,
            policies_max: options.policies_max,
            instance_calls_max: options.instance_calls_max,
            registry: Mutex::default(),
            changing: Mutex::default(),
            supervision_missed: AtomicBool::new(false),
            archive: OnceLock::new(),
            not_kept: AtomicU64::new(0),
            overdue: Mutex::default(),
            active: Arc::new(ArcSwap::default()),
            queues: Queues::default(),
            captures: Captures::default(),
            members_pending: AtomicBool::new(false),
            discards: Discards::default(),
            keeper: OnceLock::new(),
            stopping: AtomicBool::new(false),
        });
        let keeper = Keeper::new(Arc::clone(&shared));
        let keeper = std::thread::Builder::new().name("policy".to_owned()).spawn(move || keeper.run())?;
        shared.keeper.get_or_init(|| keeper.thread().clone());
        shared.wake_keeper();
        Ok(Arc::new(Self { shared, uploading: Mutex::default(), keeper: Some(keeper) }))
    }

    /// The hooks of worker `worker` (from 0). To be asked for once per worker: its counters have one writer,
    /// and its warm instances are there once.
    pub fn worker(&self, worker: usize) -> WorkerPolicies {
        WorkerPolicies::new(Arc::clone(&self.shared), worker)
    }

    /// The policy thread, for who watches that it does not end before the host.
    pub const fn thread(&self) -> Option<&JoinHandle<()>> {
        self.keeper.as_ref()
    }

    /// The number of the current set of policies; 0 before the first change.
    pub fn generation(&self) -> u64 {
        self.shared.active.load().number
    }

    /// Notes the new members of a queue; an empty list says it is gone. Policies are told within about
    /// [`limits::MEMBERS_DELAY_MS`], each worker's instance by an exchange at its next call.
    pub fn queue_changed(&self, members: QueueMembers) {
        let Some(members) = self.shared.queues.change(members) else { return };
        self.capture_members(&members);
        if !self.shared.members_pending.swap(true, Ordering::SeqCst) {
            self.shared.wake_keeper();
        }
    }

    /// Member changes that policies were not told, because there are too many queues or members.
    pub fn queues_refused(&self) -> u64 {
        self.shared.queues.refused()
    }

    /// Automatic rollbacks that were made and could not be written down: that is made up for as soon as it
    /// can be, and a restart before that does not know of them.
    pub fn changes_not_kept(&self) -> u64 {
        self.shared.not_kept.load(Ordering::Relaxed)
    }

    /// Counts of all policies, in the order of their names.
    pub fn metrics(&self) -> Vec<PolicyMetrics> {
        let registry = self.registry();
        let of = |(name, policy): (&String, &Policy)| PolicyMetrics {
            policy: name.clone(),
            hook: policy.hook().map_or("", Hook::as_str),
            outcomes: policy.stats.outcomes(),
            latency: policy.stats.latency_buckets(),
            kept: policy.memory.kept(),
            exceeded: policy.stats.exceeded.totals(),
            breaker: policy.breaker(),
            recycled: policy.stats.recycled.load(Ordering::Relaxed),
            rollbacks: policy.rollbacks.counts(),
            shadow: policy.comparison(),
            compressed: policy.stats.compressed_totals(),
        };
        registry.policies.iter().map(of).collect()
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake_keeper();
        if let Some(Err(_)) = self.keeper.take().map(JoinHandle::join) {
            tracing::error!("the policy thread panicked");
        }
    }
}
