//! Every bound of a profile, with what happens when it is reached.

use std::time::Duration;

/// CPU time of a thread between two samples of it. Costs some microseconds each.
pub const CPU_PERIOD: Duration = Duration::from_millis(10);

/// Allocated bytes between two samples of the heap, on average.
pub const HEAP_PERIOD_BYTES: u64 = 512 * 1024;

/// Frames of one stack, from the innermost. More: the outer ones are missing.
pub const FRAMES_MAX: usize = 128;

/// Bytes of a stack that are looked at. More: as above.
pub const STACK_BYTES_MAX: u64 = 1024 * 1024;

/// Threads that have a timer. More: those are not sampled, and are counted.
pub const THREADS_MAX: usize = 1_024;

/// Samples that wait to be collected, every 100 ms; 1 KiB each, kept behind the first profile. More: lost, and counted.
pub const SAMPLES_WAITING_MAX: usize = 2_048;

/// How often they are collected, and how often new threads are looked for.
pub const COLLECT_EVERY: Duration = Duration::from_millis(100);
pub const LOOK_FOR_THREADS_EVERY: Duration = Duration::from_millis(500);

/// Different stacks of one profile; 1 KiB each at most. More: left out, and counted.
pub const STACKS_MAX: usize = 16_384;

/// Sampled allocations that are alive at once; 24 bytes each, kept behind the first profile. Reached in the group of eight that an
/// address falls in: counted as allocated and not as alive, and counted.
pub const LIVE_SAMPLES_MAX: usize = 64 * 1024;

/// Threads that may take a stack at the same moment; 32 KiB each, kept behind the first profile. More: lost, and counted.
pub const WALKS_MAX: usize = 64;

/// Frames that are drawn in a flame graph, from the root outwards. More: not drawn.
pub const RECTANGLES_MAX: usize = 20_000;

const _: () = assert!(LIVE_SAMPLES_MAX.is_multiple_of(8), "samples lie in groups of eight");
const _: () = assert!(SAMPLES_WAITING_MAX < STACKS_MAX, "what was collected once has room");
