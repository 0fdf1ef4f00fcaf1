//! The host of all policies: what the server starts, asks about, and hands its workers' hooks out of.
//!
//! Deliberately not here: how plugins and policies change (`admin.rs`), and how they come back (`restore.rs`).

use crate::archive::Archive;
use crate::engine::{self, Ticker};
use crate::fast::Adapters;
use crate::hostcalls::Surroundings;
use crate::keeper::Keeper;
use crate::limits;
use crate::linker;
use crate::memory::Kept;
use crate::queues::Queues;
use crate::registry::{Policy, Registry};
use crate::shared::Shared;
use crate::stats::LatencyBuckets;
use crate::worker::WorkerPolicies;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use waspmq_core::limits::WORKERS_MAX;
use waspmq_core::policy::QueueMembers;

/// How large the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostOptions {
    /// I/O workers, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// Policies that can be there at once, 1 to [`limits::POLICIES_MAX`]. Each reserves address space for three
    /// instances per worker.
    pub policies_max: usize,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { workers: 1, policies_max: 16 }
    }
}

/// Why the host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("workers and policies_max must be 1 to {WORKERS_MAX} and 1 to {}", limits::POLICIES_MAX)]
    Options,
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
}

/// The policies of one broker. All methods are synchronous; changes may take as long as compiling takes, and
/// [`Host::queue_changed`] is cheap.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: HostOptions,
    pub(crate) registry: Mutex<Registry>,
    /// One change of policies at a time, and one upload: each holds its lock while it works. Locks are taken in
    /// the order uploading, changing, registry.
    pub(crate) changing: Mutex<()>,
    pub(crate) uploading: Mutex<()>,
    /// Where changes are written down; nowhere before it is opened.
    pub(crate) archive: OnceLock<Arc<dyn Archive>>,
    keeper: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the engine, its epoch thread and the policy thread. What policies ask about the broker, `surroundings` answers.
    pub fn start(options: HostOptions, surroundings: Arc<dyn Surroundings>) -> Result<Arc<Self>, StartError> {
        let in_range = (1..=WORKERS_MAX).contains(&options.workers)
            && (1..=limits::POLICIES_MAX).contains(&options.policies_max);
        if !in_range {
            return Err(StartError::Options);
        }
        // Per policy and worker one that serves, a spare, and one of an older generation that an idle worker
        // holds; two per worker while a policy is replaced; one in which an upload is tested; two in the hands of
        // the policy thread.
        let instances = options.workers * (options.policies_max * 3 + 2) + 3;
        let failed = |error: wasmtime::Error| StartError::Engine { instances, reason: format!("{error:#}") };
        let engine = engine::engine(instances).map_err(failed)?;
        let linker = linker::linker(&engine).map_err(failed)?;
        let adapters = Arc::new(Adapters::new(&engine).map_err(failed)?);
        let ticker = Ticker::start(&engine)?;
        let (sender, retired) = std::sync::mpsc::sync_channel(limits::RETIRED_MAX);
        let shared = Arc::new(Shared {
            engine,
            linker,
            adapters,
            ticker,
            surroundings,
            workers: options.workers,
            active: Arc::new(ArcSwap::default()),
            queues: Queues::default(),
            members_pending: AtomicBool::new(false),
            retired: sender,
            keeper: OnceLock::new(),
            stopping: AtomicBool::new(false),
        });
        let keeper = Keeper::new(Arc::clone(&shared), retired);
        let keeper = std::thread::Builder::new().name("policy".to_owned()).spawn(move || keeper.run())?;
        shared.keeper.get_or_init(|| keeper.thread().clone());
        shared.wake_keeper();
        Ok(Arc::new(Self {
            shared,
            options,
            registry: Mutex::default(),
            changing: Mutex::default(),
            uploading: Mutex::default(),
            archive: OnceLock::new(),
            keeper: Some(keeper),
        }))
    }

    /// The hooks of worker `worker` (from 0). To be asked for once per worker: its counters have one writer,
    /// and its warm instances are there once.
    pub fn worker(&self, worker: usize) -> WorkerPolicies {
        WorkerPolicies::new(Arc::clone(&self.shared), worker)
    }

    /// The number of the current set of policies; 0 before the first change.
    pub fn generation(&self) -> u64 {
        self.shared.active.load().number
    }

    /// Notes the new members of a queue; an empty list says it is gone. Policies are told within about
    /// [`limits::MEMBERS_DELAY_MS`], each worker's instance by an exchange at its next call.
    pub fn queue_changed(&self, members: QueueMembers) {
        let changed = self.shared.queues.change(members);
        if changed && !self.shared.members_pending.swap(true, Ordering::SeqCst) {
            self.shared.wake_keeper();
        }
    }

    /// Member changes that policies were not told, because there are too many queues or members.
    pub fn queues_refused(&self) -> u64 {
        self.shared.queues.refused()
    }

    /// Counts of all policies, in the order of their names.
    pub fn metrics(&self) -> Vec<PolicyMetrics> {
        let registry = self.registry();
        let of = |(name, policy): (&String, &Policy)| PolicyMetrics {
            policy: name.clone(),
            hook: policy.current.document.hook.as_str(),
            outcomes: policy.stats.outcomes(),
            latency: policy.stats.latency_buckets(),
            kept: policy.memory.kept(),
        };
        registry.policies.iter().map(of).collect()
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
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
