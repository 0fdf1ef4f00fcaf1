//! What choosing the members of a queue costs a publish, and for how long it holds the address lock.
//!
//! `cargo run --release -p waspmq-core --example choose_cost [members] [messages of a batch]`
//!
//! "under the lock, one by one" looks at every member for every message while nobody else can publish to the shard;
//! "beside it" looks at each once per batch without the lock, takes it again and compares the queue's state.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement: it prints, has a clock, and may end when it fails"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use waspmq_core::registry::{InFlight, Queue, Registry, Session};
use waspmq_core::{Address, Name, Pattern, QueueId, SessionId};

const ROUNDS: u32 = 2_000;

fn argument(index: usize, default: usize) -> usize {
    std::env::args().nth(index).map_or(default, |text| text.parse().unwrap())
}

/// Nanoseconds of each round: how long the lock was held, and all of it.
fn measure(name: &str, messages: usize, mut round: impl FnMut(&mut Vec<InFlight>) -> Duration) {
    let (mut held, mut all) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut in_flight = Vec::with_capacity(messages);
        let began = Instant::now();
        held.push(round(&mut in_flight));
        all.push(began.elapsed());
        drop(black_box(in_flight));
    }
    let middle = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        (times[times.len() / 2].as_nanos() as f64, times[times.len() * 99 / 100].as_nanos() as f64)
    };
    let ((held, held_99), (all, all_99)) = (middle(&mut held), middle(&mut all));
    println!("{name:<32} lock {held:>9.0} ns (p99 {held_99:>9.0})   all {all:>9.0} ns (p99 {all_99:>9.0})");
}

fn main() {
    let (members, messages) = (argument(1, 1_000), argument(2, 64));
    let (registry, to) = (Registry::new(1, 0), Address::parse("topic/jobs").unwrap());
    let id = QueueId::new(Pattern::from(&to), Name::parse("workers").unwrap());
    for count in 0..u32::try_from(members).unwrap() {
        let user = Name::parse(&format!("u{count}")).unwrap();
        let session = Session { id: SessionId::new(1, 0, count), worker: 0, user, device: None };
        registry.join_queue(&id, &session, None).unwrap();
    }
    println!("{members} members, batches of {messages}, medians of {ROUNDS}");
    for (kind, key) in [("without a key", &b""[..]), ("with a key", b"order-7")] {
        measure(&format!("under the lock, one by one, {kind}"), messages, |in_flight| {
            let mut locked = registry.lock(&to);
            let began = Instant::now();
            let targets = locked.targets(&to);
            for _ in 0..messages {
                in_flight.push(targets.queues[0].choose(key, None, None).unwrap().begin());
            }
            black_box(locked.take((&to, &targets), messages, (false, None)));
            let held = began.elapsed();
            drop(locked);
            held
        });
        measure(&format!("beside it, {kind}"), messages, |in_flight| {
            let mut locked = registry.lock(&to);
            let began = Instant::now();
            let queue: Arc<Queue> = locked.targets(&to).queues[0].clone();
            let mut held = began.elapsed();
            drop(locked);
            let mut choosing = queue.choosing(None);
            for _ in 0..messages {
                in_flight.push(choosing.choose(key, None).unwrap().begin());
            }
            let mut locked = registry.lock(&to);
            let began = Instant::now();
            let targets = locked.targets(&to);
            assert!(Arc::ptr_eq(&targets.queues[0], &queue));
            black_box(locked.take((&to, &targets), messages, (false, None)));
            held += began.elapsed();
            drop(locked);
            held
        });
    }
}
