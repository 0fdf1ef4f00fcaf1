//! What the host, its policy thread and the workers have in common.

use crate::archive::{Archive, AuditEntry};
use crate::binding::{Binding, lock};
use crate::capture::Captures;
use crate::discards::Discards;
use crate::engine::Ticker;
use crate::fast::Adapters;
use crate::hostcalls::Surroundings;
use crate::instance::SetupError;
use crate::lineup::Generation;
use crate::queues::{Changes, Queues};
use crate::registry::Registry;
use crate::serving::Serving;
use crate::state::State;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::Thread;
use wasmtime::Engine;
use wasmtime::component::Linker;

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) adapters: Arc<Adapters>,
    pub(crate) ticker: Ticker,
    pub(crate) surroundings: Arc<dyn Surroundings>,
    pub(crate) workers: usize,
    pub(crate) policies_max: usize,
    pub(crate) instance_calls_max: u32,
    pub(crate) registry: Mutex<Registry>,
    /// One change of policies at a time holds this while it works. Locks are taken in the order uploading, changing,
    /// registry.
    pub(crate) changing: Mutex<()>,
    /// A supervision found that held.
    pub(crate) supervision_missed: AtomicBool,
    /// Where changes are written down; nowhere before it is opened.
    pub(crate) archive: OnceLock<Arc<dyn Archive>>,
    /// Changes that the broker made by itself and could not write down.
    pub(crate) not_kept: AtomicU64,
    /// Those of them that are not written down yet. At most two of each policy, which has no more versions to take back
    /// until one is put, and then these are written down first.
    pub(crate) overdue: Mutex<Vec<AuditEntry>>,
    pub(crate) active: Arc<ArcSwap<Generation>>,
    pub(crate) queues: Queues,
    pub(crate) captures: Captures,
    /// Member changes wait for the policy thread.
    pub(crate) members_pending: AtomicBool,
    pub(crate) discards: Discards,
    pub(crate) keeper: OnceLock<Thread>,
    pub(crate) stopping: AtomicBool,
}

impl Shared {
    /// Lets the policy thread look after all cells.
    pub(crate) fn wake_keeper(&self) {
        if let Some(thread) = self.keeper.get() {
            thread.unpark();
        }
    }

    /// Has an instance freed by the policy thread.
    pub(crate) fn discard(&self, gone: Serving) {
        self.discards.put(gone);
        self.wake_keeper();
    }

    /// Makes an instance of a version that may serve at once.
    pub(crate) fn set_up(
        &self,
        binding: &Binding,
        worker: usize,
        changes: &Changes,
    ) -> Result<Serving, SetupError> {
        let make = || binding.set_up(&self.ticker, worker, changes);
        self.discards.with_room(make, SetupError::lacks_room)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}
