//! What is allocated in a span of time, and what of it is still there at its end.
//!
//! [`Sampled`] is a global allocator around another one. While no profile runs it adds one relaxed load and a branch to
//! each call. While one runs, every thread counts down allocated bytes to its next sample; the distances are random,
//! exponential around [`HEAP_PERIOD_BYTES`], so that no rhythm of the program is met. An allocation of `s` bytes is therefore a
//! sample with the probability `1 - exp(-s / period)`, and stands for the inverse of that many of its kind.
//!
//! Invariants: a hook that is entered within a hook does nothing (taking a sample allocates); an address leaves the table
//! of live samples before it is given back. Memory that C code asks of the C library is not seen.

use super::errno;
use super::live::{Allocation, Live};
use super::registers::Registers;
use super::walk::Walker;
use super::{Frames, Stack, nanoseconds, now, unix_ns};
use crate::limits::{FRAMES_MAX, HEAP_PERIOD_BYTES, STACKS_MAX};
use crate::profile::{Error, Kind, Profile, Sample};
use crate::stop::Stop;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::Duration;

/// Held while a profile is taken.
static ONE: Mutex<()> = Mutex::new(());

/// Whether the hooks sample.
static IS_ON: AtomicBool = AtomicBool::new(false);

static LIVE: OnceLock<Live> = OnceLock::new();

static MADE: Mutex<Made> = Mutex::new(Made::new());

/// Takes a profile for so long, or until it is stopped.
///
/// # Errors
/// When one is being taken, when the process has another global allocator, or when `/proc` cannot be read.
pub fn profile(duration: Duration, stop: &Stop) -> Result<Profile, Error> {
    let _one = match ONE.try_lock() {
        Ok(one) => one,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(Error::Running),
    };
    Walker::prepare()?;
    let live = LIVE.get_or_init(Live::new);
    drop(std::mem::replace(&mut *made(), Made::new()));
    // Behind that: what is noted from now on has a number of a stack of this profile, even by a hook that is late.
    live.clear();
    let (started_unix_ns, started) = (unix_ns(), now());
    IS_ON.store(true, Ordering::SeqCst);
    let off = Off;
    if !is_installed() {
        return Err(Error::OtherAllocator);
    }
    let mut elapsed = Duration::ZERO;
    while elapsed < duration && !stop.wait(duration - elapsed) {
        elapsed = now() - started;
    }
    drop(off);
    let duration_ns = nanoseconds(now() - started);
    // From here on no hook of this thread waits for what this thread holds.
    let made = std::mem::replace(&mut *made(), Made::new());
    made.finish(live, (started_unix_ns, duration_ns))
}

/// Whether allocations are sampled now.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::SeqCst)
}

/// Ends the hooks' work however a profile ends.
struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        IS_ON.store(false, Ordering::SeqCst);
    }
}

/// Whether allocations come by here: tried with one.
fn is_installed() -> bool {
    LOCAL.with(|local| {
        let before = local.seen.get();
        local.is_inside.set(true);
        drop(std::hint::black_box(Box::new([0_u64; 8])));
        local.is_inside.set(false);
        local.seen.get() != before
    })
}

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What each thread has for itself. Nothing here is dropped, so it is there as long as the thread is.
struct Local {
    /// Bytes to the next sample.
    left: Cell<u64>,
    /// State of its random numbers; 0 until the first one.
    random: Cell<u64>,
    /// Whether a hook is at work.
    is_inside: Cell<bool>,
    /// Calls that came while one was.
    seen: Cell<u64>,
}

thread_local! {
    static LOCAL: Local = const {
        Local { left: Cell::new(0), random: Cell::new(0), is_inside: Cell::new(false), seen: Cell::new(0) }
    };
}

impl Local {
    /// Counts an allocation; whether it is a sample.
    fn pass(&self, bytes: u64) -> bool {
        if self.random.get() == 0 {
            // Threads differ by where this is, profiles by the time.
            let place = std::ptr::from_ref(self) as usize as u64;
            self.random.set((place ^ nanoseconds(now()).cast_unsigned()) | 1);
            self.left.set(self.distance());
        }
        let left = self.left.get();
        if bytes < left {
            self.left.set(left - bytes);
            return false;
        }
        self.left.set(self.distance());
        true
    }

    /// A random distance, exponential.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 37 periods"
    )]
    fn distance(&self) -> u64 {
        // xorshift64*, of which the upper 53 bits make a number above 0, up to 1.
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        let upper = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        let unit = (upper + 1) as f64 / (1_u64 << 53) as f64;
        (-unit.ln() * HEAP_PERIOD_BYTES as f64) as u64 + 1
    }
}

/// How many allocations of a size, and how many of their bytes, one sample of it stands for.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn weight(bytes: usize) -> (f64, f64) {
    let bytes = bytes.max(1) as f64;
    let probability = -(-bytes / HEAP_PERIOD_BYTES as f64).exp_m1();
    (1.0 / probability, bytes / probability)
}

/// `extern`, so that a panic in here ends the process: an allocator that unwinds is undefined behaviour.
#[cold]
#[inline(never)]
extern "C" fn allocated(pointer: *mut u8, bytes: usize) {
    // A thread that ends has none any more.
    _ = LOCAL.try_with(|local| {
        if local.is_inside.get() {
            local.seen.set(local.seen.get().wrapping_add(1));
        } else if !pointer.is_null() && local.pass(bytes as u64) {
            local.is_inside.set(true);
            // Memory may be asked for between a call that failed and the look at its reason.
            errno::kept(|| sample(pointer as usize, bytes));
            local.is_inside.set(false);
        }
    });
}

#[inline(never)]
fn sample(address: usize, bytes: usize) {
    let (Some(walker), Some(live)) = (Walker::shared(), LIVE.get()) else { return };
    let mut stack = [0; FRAMES_MAX];
    let depth = walker.walk(Registers::here(), &mut stack);
    let mut made = made();
    let Some(number) = depth.and_then(|depth| made.count(stack.get(..depth)?, bytes)) else {
        made.left_out += 1;
        return;
    };
    if !live.put(address, Allocation { stack: number, bytes }) {
        made.not_followed += 1;
    }
}

#[cold]
#[inline(never)]
fn freed(pointer: *mut u8) -> Option<Allocation> {
    LIVE.get()?.take(pointer as usize)
}

/// Samples by stack.
struct Made {
    numbers: Option<HashMap<Stack, u32>>,
    /// Allocations and bytes that the samples of each stack stand for.
    totals: Vec<(f64, f64)>,
    /// Samples without a stack: too many different ones, or too many taken at once.
    left_out: u64,
    /// Samples of which nobody knows whether they are alive.
    not_followed: u64,
}

impl Made {
    const fn new() -> Self {
        Self { numbers: None, totals: Vec::new(), left_out: 0, not_followed: 0 }
    }

    /// The number of a stack, with a sample more; `None`: there are too many different ones.
    fn count(&mut self, stack: &[u64], bytes: usize) -> Option<u32> {
        let numbers = self.numbers.get_or_insert_default();
        let number = match numbers.get(stack) {
            Some(number) => *number,
            None if numbers.len() == STACKS_MAX => return None,
            None => {
                let number = u32::try_from(numbers.len()).ok()?;
                numbers.insert(stack.into(), number);
                self.totals.push((0.0, 0.0));
                number
            }
        };
        let total = self.totals.get_mut(number as usize)?;
        let (count, bytes) = weight(bytes);
        *total = (total.0 + count, total.1 + bytes);
        Some(number)
    }

    fn finish(self, live: &Live, (started_unix_ns, duration_ns): (i64, i64)) -> Result<Profile, Error> {
        let mut alive = vec![(0.0, 0.0); self.totals.len()];
        live.each(|Allocation { stack, bytes }| {
            if let Some(total) = alive.get_mut(stack as usize) {
                let (count, bytes) = weight(bytes);
                *total = (total.0 + count, total.1 + bytes);
            }
        });
        let numbers = self.numbers.unwrap_or_default();
        let frames = Frames::of(numbers.keys())?;
        let mut samples: Vec<Sample> = Vec::with_capacity(numbers.len());
        for (stack, number) in &numbers {
            let of = |totals: &[(f64, f64)]| totals.get(*number as usize).copied().unwrap_or_default();
            let (made, alive) = (of(&self.totals), of(&alive));
            let values = [made.0, made.1, alive.0, alive.1].map(rounded).to_vec();
            samples.push(Sample {
                values,
                thread: None,
                stack: without_hooks(&frames, frames.places(stack)),
            });
        }
        samples.sort_by(|a, b| b.values.iter().rev().cmp(a.values.iter().rev()));
        let bytes = |name| Kind { name, unit: "bytes" };
        let count = |name| Kind { name, unit: "count" };
        Ok(Profile {
            kinds: vec![
                count("alloc_objects"),
                bytes("alloc_space"),
                count("inuse_objects"),
                bytes("inuse_space"),
            ],
            main_kind: 3,
            period_kind: bytes("space"),
            period: HEAP_PERIOD_BYTES.cast_signed(),
            started_unix_ns,
            duration_ns,
            frames: frames.frames,
            samples,
            notes: notes(self.left_out, self.not_followed),
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates")]
fn rounded(value: f64) -> i64 {
    value.round() as i64
}

/// A stack without the frames of this file and of the language's allocator, which are in all of them.
fn without_hooks(frames: &Frames, stack: Vec<u32>) -> Vec<u32> {
    let is_hook = |place: &u32| {
        let name = frames.frames.get(*place as usize).map_or("", |frame| &*frame.name);
        name.contains("waspmq_profile::linux::heap::")
            || name.starts_with("__rust")
            || name.starts_with("waspmq_profile::linux::walk")
    };
    let hooks = stack.iter().take_while(|place| is_hook(place)).count();
    stack.into_iter().skip(hooks).collect()
}

fn notes(left_out: u64, not_followed: u64) -> Vec<String> {
    let told = [
        (
            left_out,
            "samples were left out: there are too many different stacks, or too many were taken at once",
        ),
        (not_followed, "samples count as allocated and not as in use: there was no room to follow them"),
    ];
    told.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

/// An allocator that heap profiles see; the memory is that of the one within.
#[derive(Debug)]
pub struct Sampled<A>(A);

impl<A> Sampled<A> {
    pub const fn new(within: A) -> Self {
        Self(within)
    }
}

#[expect(unsafe_code, reason = "an allocator hands out memory")]
// SAFETY: what is handed out, and what is given back, is the inner allocator's, with the caller's own layout; the hooks look at
// addresses and never at what is there. They do not unwind, and they allocate within themselves unseen.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Sampled<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let pointer = unsafe { self.0.alloc(layout) };
        if IS_ON.load(Ordering::Relaxed) {
            allocated(pointer, layout.size());
        }
        pointer
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if IS_ON.load(Ordering::Relaxed) {
            freed(pointer);
        }
        // SAFETY: the caller keeps the contract.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let pointer = unsafe { self.0.alloc_zeroed(layout) };
        if IS_ON.load(Ordering::Relaxed) {
            allocated(pointer, layout.size());
        }
        pointer
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !IS_ON.load(Ordering::Relaxed) {
            // SAFETY: the caller keeps the contract.
            return unsafe { self.0.realloc(pointer, layout, size) };
        }
        let before = freed(pointer);
        // SAFETY: the caller keeps the contract.
        let moved = unsafe { self.0.realloc(pointer, layout, size) };
        match (moved.is_null(), before, LIVE.get()) {
            (false, ..) => allocated(moved, size),
            // It stays where it was.
            (true, Some(before), Some(live)) => drop(live.put(pointer as usize, before)),
            (true, ..) => {}
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local { left: Cell::new(0), random: Cell::new(0), is_inside: Cell::new(false), seen: Cell::new(0) }
    }

    #[test]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn weighted_samples_add_up_to_what_was_allocated() {
        // About a thousand samples of each size, so an estimate is off by 3 %, and by 20 % in no run.
        for bytes in [64_usize, 4_096, 100_000, 512 * 1024, 4 << 20] {
            let local = local();
            let probability = 1.0 / weight(bytes).0;
            let allocations = (1_000.0 / probability) as u64;
            let samples = (0..allocations).filter(|_| local.pass(bytes as u64)).count() as f64;
            let (count, total) = weight(bytes);
            let off_by = (samples * count - allocations as f64).abs() / allocations as f64;
            assert!(off_by < 0.2, "{bytes} bytes: off by {off_by}");
            let ratio = samples * total / (allocations as f64 * bytes as f64);
            assert!((0.8..1.2).contains(&ratio), "{bytes} bytes: {ratio}");
        }
    }

    #[test]
    fn a_sample_stands_for_many_small_ones_or_itself() {
        let (count, bytes) = weight(64);
        assert!((bytes - 524_320.0).abs() < 1.0 && (count - 8_192.5).abs() < 0.1, "{count} {bytes}");
        let (count, bytes) = weight(64 << 20);
        assert!((count - 1.0).abs() < 1e-9 && (bytes - f64::from(64 << 20)).abs() < 1.0);
        assert!(weight(0).0.is_finite());
    }

    #[test]
    fn threads_count_down_differently() {
        let (one, other) = (local(), local());
        assert!(!one.pass(0) && !other.pass(0));
        assert_ne!(one.left.get(), other.left.get());
    }

    #[test]
    fn stacks_beyond_the_bound_are_left_out() {
        let mut made = Made::new();
        for number in 0..STACKS_MAX as u64 {
            assert!(made.count(&[number], 1).is_some());
        }
        assert_eq!(made.count(&[u64::MAX], 1), None);
        assert_eq!(made.count(&[5], 1), Some(5));
    }

    #[test]
    fn a_process_with_another_allocator_is_told_so() {
        let refused = profile(Duration::from_secs(3_600), &Stop::default());
        assert!(matches!(refused, Err(Error::OtherAllocator)), "{refused:?}");
        assert!(!IS_ON.load(Ordering::SeqCst));
    }
}
