//! What heap profiles cost: an allocator with and without the wrapper, in turns, while none runs and while one does.
//!
//! `cargo bench -p waspmq-profile`. Each line: nanoseconds for an allocation and its free, median of the rounds, and the
//! median of the rounds' ratios, which a machine that is busy in between moves least.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark has a clock and a reader")]
#![expect(unsafe_code, reason = "allocators are called without their language")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::time::{Duration, Instant};
use waspmq_profile::{Sampled, Stop, heap};

const ROUNDS: usize = 101;
const PAIRS: u32 = 200_000;
/// Alive at once, so that not every free is of what was allocated last.
const ALIVE: usize = 16;

static WITHOUT: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[global_allocator]
static WITH: Sampled<mimalloc::MiMalloc> = Sampled::new(mimalloc::MiMalloc);

#[inline(never)]
fn round(allocator: &impl GlobalAlloc, layout: Layout, pairs: u32) -> f64 {
    let mut alive = [std::ptr::null_mut::<u8>(); ALIVE];
    let started = Instant::now();
    for pair in 0..pairs {
        let place = &mut alive[pair as usize % ALIVE];
        // SAFETY: each pointer is given back once, with its layout, to the allocator that made it.
        unsafe {
            if !place.is_null() {
                allocator.dealloc(*place, layout);
            }
            *place = black_box(allocator.alloc(layout));
        }
    }
    let taken = started.elapsed();
    for pointer in alive {
        // SAFETY: as above.
        unsafe { allocator.dealloc(pointer, layout) };
    }
    taken.as_secs_f64() * 1e9 / f64::from(pairs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    println!("while no profile runs");
    compare(ROUNDS);
    println!("while one runs");
    let stop = Stop::default();
    let other = stop.clone();
    let running = std::thread::spawn(move || heap::profile(Duration::from_secs(3_600), &other));
    while !heap::is_on() {
        std::thread::yield_now();
    }
    compare(ROUNDS / 10);
    stop.stop();
    if let Ok(Ok(profile)) = running.join() {
        println!(
            "{} stacks, {} MiB allocated, {:?}",
            profile.samples.len(),
            profile.total(1) >> 20,
            profile.notes
        );
    }
}

fn compare(rounds: usize) {
    for bytes in [16, 128, 1_024, 16 * 1024, 2 << 20] {
        let layout = Layout::from_size_align(bytes, 8).unwrap_or(Layout::new::<u64>());
        let pairs = if bytes > 1 << 20 { PAIRS / 100 } else { PAIRS };
        let rounds = (0..rounds).map(|n| {
            // Which one goes first takes turns, too.
            if n % 2 == 0 {
                let without = round(&WITHOUT, layout, pairs);
                (without, round(&WITH, layout, pairs))
            } else {
                let with = round(&WITH, layout, pairs);
                (round(&WITHOUT, layout, pairs), with)
            }
        });
        let (without, with): (Vec<f64>, Vec<f64>) = rounds.unzip();
        let ratio = median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let (without, with) = (median(without), median(with));
        println!("{bytes:>6} bytes: {without:.2} ns without, {with:.2} ns with, ratio {ratio:.3}");
    }
}
