//! The delivery domain in a simulated world: clients that refuse, forget and repeat acks, connections that break,
//! a broker that crashes between any two steps, a clock that jumps. Everything follows from a seed.
//!
//! `WASPMQ_SIMULATION_SEEDS=10000` runs more seeds, `WASPMQ_SIMULATION_FIRST=77` begins with another one; a failure
//! names its seed. What holds at the end of every run is in [`checks`].

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test: everything in it is small, and what is not as it should be is a failure"
)]

mod checks;
mod client;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// Enough to notice each of the faults the domain was tried with, in a few seconds.
const SEEDS: u64 = 1_000;
const STEPS: u32 = 120;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_its_promises() {
    let first = from_env("WASPMQ_SIMULATION_FIRST", 0);
    let seeds = from_env("WASPMQ_SIMULATION_SEEDS", SEEDS);
    let (next, totals) = (AtomicU64::new(first), [const { AtomicU64::new(0) }; 9]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let counts = World::new(seed).run(STEPS);
                    for (total, count) in totals.iter().zip(counts.in_order()) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.map(|total| total.load(Ordering::Relaxed));
    println!(
        "published, reached, failed, redelivered, dead letters, dropped, crashes, not in flight, late: {totals:?}"
    );
    assert!(seeds < 100 || totals.iter().all(|total| *total > 0), "every fate occurs: {totals:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let trace = |seed| World::new(seed).run(STEPS).trace;
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
        traces.insert(trace(seed));
    }
    assert_eq!(traces.len(), 50, "seeds differ");
}
