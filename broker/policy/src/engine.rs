//! The wasmtime engine of the broker and the thread that advances its epochs.
//!
//! One engine for all policies: pooled slots reserved at start, so that starting an instance maps nothing new,
//! and a policy that does not fit is refused before anything changes. No WASI, no async, and no fuel but for who counts.

use crate::clock::Clock;
use crate::limits::{CORE_INSTANCES_MAX, MEMORY_MB_MAX, TABLE_ELEMENTS_MAX, TABLES_PER_COMPONENT, TICK_MS};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

const MIB: usize = 1024 * 1024;

/// With this much address space behind each memory, guest code needs no bounds checks.
const RESERVATION_FULL: u64 = 4 * 1024 * 1024 * 1024;

/// As much as the largest memory a policy may ask for.
const RESERVATION_SMALL: u64 = MEMORY_MB_MAX as u64 * MIB as u64;

/// Bytes at the beginning of a table that are zeroed when its instance is freed, and stay with its slot for the next one. All
/// the tables of usual components are within that; giving the page back instead costs more than the zeroing, and stops
/// other threads for a moment.
const TABLE_KEPT_BYTES: usize = 4096;

/// A component made by the usual tools has one main module and up to three small ones that connect it. One that
/// has more is not called on the fast lane.
pub(crate) const CORE_INSTANCES_PER_COMPONENT: usize = 4;

/// What the fast lane adds to them: two adapters for imports and at most two for a hook's functions.
const ADAPTERS_PER_COMPONENT: usize = 4;

const _: () = assert!(
    CORE_INSTANCES_PER_COMPONENT + ADAPTERS_PER_COMPONENT <= CORE_INSTANCES_MAX,
    "the fast lane stays within what is set aside"
);

/// An engine with room for `instances` components. Reserves 4 GiB of address space for each, or 64 MiB where
/// that much is not to be had (guest code then checks bounds itself, 7 to 14 % slower).
pub(crate) fn engine(instances: usize) -> wasmtime::Result<Engine> {
    Engine::new(&config(instances, RESERVATION_FULL))
        .or_else(|_| Engine::new(&config(instances, RESERVATION_SMALL)))
}

/// One whose guests count what they do: the same number for the same call, in about instructions.
pub(crate) fn counting(instances: usize) -> wasmtime::Result<Engine> {
    let with = |reservation| Engine::new(config(instances, reservation).consume_fuel(true));
    with(RESERVATION_FULL).or_else(|_| with(RESERVATION_SMALL))
}

fn config(instances: usize, reservation: u64) -> Config {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let core_instances = count(instances.saturating_mul(CORE_INSTANCES_MAX));
    let tables = count(instances.saturating_mul(TABLES_PER_COMPONENT));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count(instances))
        .total_core_instances(core_instances)
        .total_memories(count(instances))
        .total_tables(tables)
        .max_core_instances_per_component(count(CORE_INSTANCES_MAX))
        .max_tables_per_component(count(TABLES_PER_COMPONENT))
        .max_memories_per_component(1)
        .max_memory_size(MEMORY_MB_MAX as usize * MIB)
        .table_keep_resident(TABLE_KEPT_BYTES)
        .table_elements(TABLE_ELEMENTS_MAX);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(reservation)
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_backtrace_max_frames(None::<NonZeroUsize>);
    config
}

/// Advances the epoch and the guests' clock every [`TICK_MS`] while there are instances, and rests otherwise.
#[derive(Debug)]
pub(crate) struct Ticker {
    thread: Thread,
    live: Arc<AtomicUsize>,
    clock: Arc<Clock>,
}

/// Held by each instance: while one exists, epochs advance.
#[derive(Debug)]
pub(crate) struct Live(Arc<AtomicUsize>);

impl Ticker {
    /// The thread ends by itself once the engine and all that was made with it are gone.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let weak = engine.weak();
        let live = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&live);
        let clock = Arc::new(Clock::new());
        let advanced = Arc::clone(&clock);
        let thread = std::thread::Builder::new().name("policy-epoch".to_owned()).spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                advanced.advance();
                drop(engine);
                if seen.load(Relaxed) > 0 {
                    std::thread::sleep(Duration::from_millis(u64::from(TICK_MS)));
                } else {
                    std::thread::park_timeout(Duration::from_millis(200));
                }
            }
        })?;
        Ok(Self { thread: thread.thread().clone(), live, clock })
    }

    pub(crate) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// Another number in each tick.
    #[inline]
    pub(crate) fn tick(&self) -> u64 {
        self.clock.ms()
    }

    /// Wakes the ticker when this is the first instance.
    pub(crate) fn live(&self) -> Live {
        if self.live.fetch_add(1, Relaxed) == 0 {
            self.clock.advance();
            self.thread.unpark();
        }
        Live(Arc::clone(&self.live))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_reservations_make_an_engine() {
        for reservation in [RESERVATION_FULL, RESERVATION_SMALL] {
            let engine = Engine::new(&config(16, reservation)).unwrap();
            let module = wat::parse_str("(module (memory 1) (func (export \"f\")))").unwrap();
            let module = wasmtime::Module::new(&engine, module).unwrap();
            let mut store = wasmtime::Store::new(&engine, ());
            store.set_epoch_deadline(1);
            wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        }
    }

    /// What stays with the slot of a table is not what was in it.
    #[test]
    fn the_next_instance_finds_an_empty_table() {
        let engine = Engine::new(&config(1, RESERVATION_SMALL)).unwrap();
        // Elements on the first page, and behind it.
        let module = wat::parse_str(
            "(module (table $t 20000 funcref) (elem declare func $set)
               (func (export \"is-empty\") (result i32) (i32.and
                 (ref.is_null (table.get $t (i32.const 3))) (ref.is_null (table.get $t (i32.const 19999)))))
               (func $set (export \"set\")
                 (table.set $t (i32.const 3) (ref.func $set)) (table.set $t (i32.const 19999) (ref.func $set))))",
        );
        let module = wasmtime::Module::new(&engine, module.unwrap()).unwrap();
        for _ in 0..=TABLES_PER_COMPONENT * 2 {
            let mut store = wasmtime::Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            let is_empty = instance.get_typed_func::<(), i32>(&mut store, "is-empty").unwrap();
            assert_eq!(is_empty.call(&mut store, ()).unwrap(), 1);
            instance.get_typed_func::<(), ()>(&mut store, "set").unwrap().call(&mut store, ()).unwrap();
            assert_eq!(is_empty.call(&mut store, ()).unwrap(), 0);
        }
    }

    #[test]
    fn the_largest_host_has_an_engine() {
        let per_worker = crate::limits::POLICIES_MAX * crate::limits::INSTANCES_PER_POLICY + 2;
        engine(waspmq_core::limits::WORKERS_MAX * per_worker + 3).unwrap();
    }

    #[test]
    fn the_ticker_ends_with_its_engine() {
        let engine = Engine::new(&config(1, RESERVATION_SMALL)).unwrap();
        let ticker = Ticker::start(&engine).unwrap();
        let live = ticker.live();
        let weak = Arc::downgrade(&live.0);
        drop((engine, live, ticker));
        // The thread holds the last handle.
        let started = crate::stats::now();
        while weak.strong_count() > 0 {
            assert!(started.elapsed() < Duration::from_secs(5), "the ticker runs on without an engine");
            std::thread::yield_now();
        }
    }
}
