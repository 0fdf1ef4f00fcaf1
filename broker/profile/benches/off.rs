//! What heap profiles cost while none runs: an allocator with and without the wrapper, in turns.
//!
//! `cargo bench -p waspmq-profile`. Each line: nanoseconds for an allocation and its free, median of the rounds, and the
//! median of the rounds' ratios, which a machine that is busy in between moves least.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark has a clock and a reader")]
#![expect(unsafe_code, reason = "allocators are called without their language")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::time::Instant;
use waspmq_profile::Sampled;

const ROUNDS: usize = 101;
const PAIRS: u32 = 200_000;
/// Alive at once, so that not every free is of what was allocated last.
const ALIVE: usize = 64;

static WITHOUT: mimalloc::MiMalloc = mimalloc::MiMalloc;
static WITH: Sampled<mimalloc::MiMalloc> = Sampled::new(mimalloc::MiMalloc);

#[inline(never)]
fn round(allocator: &impl GlobalAlloc, layout: Layout) -> f64 {
    let mut alive = [std::ptr::null_mut(); ALIVE];
    let started = Instant::now();
    for pair in 0..PAIRS {
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
    taken.as_secs_f64() * 1e9 / f64::from(PAIRS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    for bytes in [16, 128, 1_024, 16 * 1024] {
        let layout = Layout::from_size_align(bytes, 8).unwrap_or(Layout::new::<u64>());
        let rounds = (0..ROUNDS).map(|n| {
            // Which one goes first takes turns, too.
            if n % 2 == 0 {
                let without = round(&WITHOUT, layout);
                (without, round(&WITH, layout))
            } else {
                let with = round(&WITH, layout);
                (round(&WITHOUT, layout), with)
            }
        });
        let (without, with): (Vec<f64>, Vec<f64>) = rounds.unzip();
        let ratio = median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let (without, with) = (median(without), median(with));
        println!("{bytes:>6} bytes: {without:.2} ns without, {with:.2} ns with, ratio {ratio:.3}");
    }
}
