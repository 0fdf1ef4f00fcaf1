//! How profiles are taken on Linux.
//!
//! What runs in signal handlers and below the allocator is `walk` with `stack`, `registers` and `errno`, the handler in `cpu`, and
//! the hooks in `heap`; the rest runs on the thread that asked for the profile.

pub mod cpu;
pub mod heap;

mod errno;
mod image;
mod live;
mod maps;
mod registers;
mod stack;
mod symbols;
mod threads;
mod timer;
mod walk;

use crate::profile::Frame;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::time::Duration;

/// A stack that was taken: addresses within its instructions, the innermost first.
type Stack = Box<[u64]>;

/// Since some moment in the past.
fn now() -> Duration {
    time_of(ClockId::Monotonic)
}

/// Nanoseconds since 1970.
fn unix_ns() -> i64 {
    i64::try_from(time_of(ClockId::Realtime).as_nanos()).unwrap_or(i64::MAX)
}

fn time_of(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Frames of a profile, each address once.
struct Frames {
    frames: Vec<Frame>,
    places: HashMap<u64, u32>,
}

impl Frames {
    /// Names the addresses of all stacks.
    fn of<'a>(stacks: impl Iterator<Item = &'a Stack>) -> std::io::Result<Self> {
        let mut addresses: Vec<u64> = stacks.flat_map(|stack| stack.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let frames = symbols::frames(&addresses)?;
        let places = addresses.into_iter().zip(0..).collect();
        Ok(Self { frames, places })
    }

    /// A stack as places in the frames.
    fn places(&self, stack: &Stack) -> Vec<u32> {
        stack.iter().filter_map(|address| self.places.get(address).copied()).collect()
    }
}
