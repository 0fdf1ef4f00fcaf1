//! Where threads spend CPU time.
//!
//! Each thread has a timer on its own CPU time that sends it `SIGPROF` every [`CPU_PERIOD`]; the handler takes the stack
//! into a ring that is collected ten times a second. A thread that sleeps gets no signal, and a call that one
//! interrupts is taken up again by the kernel (`SA_RESTART`).
//!
//! | in the handler | so that |
//! | --- | --- |
//! | places and caches are only tried for, never waited for | the interrupted code may hold any lock |
//! | nothing is allocated | the interrupted code may be the allocator |
//! | the language's unwinder is not called | the interrupted code may be unwinding |
//! | only the thread's own stack is read, as far as it can be | registers may hold anything, in compiled policies too |
//! | `errno` is put back | the interrupted code may be about to read it |
//!
//! The handler stays behind the first profile and does nothing between two: a signal that is on its way when a timer
//! is deleted would otherwise end the process.

use super::errno;
use super::registers::Registers;
use super::threads;
use super::timer::{Tick, Timer};
use super::walk::Walker;
use super::{Frames, Stack, nanoseconds, now, unix_ns};
use crate::limits::{
    COLLECT_EVERY, CPU_PERIOD, FRAMES_MAX, LOOK_FOR_THREADS_EVERY, SAMPLES_WAITING_MAX, STACKS_MAX,
    THREADS_MAX,
};
use crate::profile::{Error, Kind, Profile, Sample};
use crate::stop::Stop;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::time::Duration;

/// Held while a profile is taken.
static ONE: Mutex<()> = Mutex::new(());

/// Whether the handler takes stacks.
static IS_ON: AtomicBool = AtomicBool::new(false);

static RING: OnceLock<Ring> = OnceLock::new();

/// Takes a profile for so long, or until it is stopped.
///
/// # Errors
/// When one is being taken, when `SIGPROF` is somebody else's, when the system refuses timers, or when `/proc` cannot be read.
pub fn profile(duration: Duration, stop: &Stop) -> Result<Profile, Error> {
    let _one = match ONE.try_lock() {
        Ok(one) => one,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(Error::Running),
    };
    Walker::prepare()?;
    let ring = RING.get_or_init(Ring::new);
    ring.clear();
    listen()?;
    let (started_unix_ns, started) = (unix_ns(), now());
    IS_ON.store(true, Ordering::SeqCst);
    let off = Off;
    let mut collected = Collected::default();
    let mut timers = Timers::default();
    let mut next_look = started;
    let mut elapsed = Duration::ZERO;
    while elapsed < duration {
        if now() >= next_look {
            timers.look()?;
            next_look = now() + LOOK_FOR_THREADS_EVERY;
        }
        let is_stopped = stop.wait(COLLECT_EVERY.min(duration - elapsed));
        collected.take(ring);
        elapsed = now() - started;
        if is_stopped {
            break;
        }
    }
    let names = timers.end();
    drop(off);
    collected.take(ring);
    collected.finish(ring, &names, (started_unix_ns, nanoseconds(elapsed)))
}

/// Ends the handler's work however a profile ends.
struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        IS_ON.store(false, Ordering::SeqCst);
    }
}

/// Makes `SIGPROF` ours.
#[expect(unsafe_code, reason = "a handler of a signal")]
fn listen() -> Result<(), Error> {
    let handler = handle as extern "C" fn(libc::c_int, *const libc::siginfo_t, *const libc::c_void) as usize;
    // SAFETY: a structure of numbers, of which all may be 0.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the signature that `SA_SIGINFO` asks for and calls only what may be called in one.
    if unsafe { libc::sigaction(libc::SIGPROF, &raw const action, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    if [libc::SIG_DFL, libc::SIG_IGN, handler].contains(&before.sa_sigaction) {
        return Ok(());
    }
    // SAFETY: as it was.
    unsafe { libc::sigaction(libc::SIGPROF, &raw const before, std::ptr::null_mut()) };
    Err(Error::SignalTaken)
}

#[expect(unsafe_code, reason = "the kernel gives pointers")]
extern "C" fn handle(_: libc::c_int, told: *const libc::siginfo_t, context: *const libc::c_void) {
    if !IS_ON.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: with `SA_SIGINFO` the kernel gives both, and they are there until the handler returns.
    let (told, context) = unsafe { (told.as_ref(), context.cast::<libc::ucontext_t>().as_ref()) };
    if let (Some(tick), Some(context)) = (told.and_then(Tick::read), context)
        && let (Some(walker), Some(ring)) = (Walker::shared(), RING.get())
    {
        errno::kept(|| ring.put(walker, tick, Registers::interrupted(context)));
    }
}

/// A sample on its way from the handler.
struct Waiting {
    /// A place without periods is free.
    tick: Tick,
    depth: usize,
    stack: [u64; FRAMES_MAX],
}

/// Samples on their way from the handlers. Places are only tried for, from both sides.
struct Ring {
    places: Box<[Mutex<Waiting>]>,
    next: AtomicUsize,
    /// Periods that found no place, or no cache to walk with.
    lost: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        let free = || {
            let tick = Tick { thread: 0, periods: 0 };
            Mutex::new(Waiting { tick, depth: 0, stack: [0; FRAMES_MAX] })
        };
        let places = (0..SAMPLES_WAITING_MAX).map(|_| free()).collect();
        Self { places, next: AtomicUsize::new(0), lost: AtomicU64::new(0) }
    }

    fn clear(&self) {
        self.each(|_, _| {});
        self.lost.store(0, Ordering::Relaxed);
    }

    /// Of the handler.
    fn put(&self, walker: &Walker, tick: Tick, registers: Registers) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.places.len();
        let place = self.places.get(index).and_then(|place| place.try_lock().ok());
        let walked = place.filter(|place| place.tick.periods == 0).and_then(|mut place| {
            place.depth = walker.walk(registers, &mut place.stack)?;
            place.tick = tick;
            Some(())
        });
        if walked.is_none() {
            self.lost.fetch_add(tick.periods.into(), Ordering::Relaxed);
        }
    }

    /// Takes out each sample that waits. One that is being written is there the next time.
    fn each(&self, mut take: impl FnMut(Tick, &[u64])) {
        for place in &self.places {
            let Ok(mut place) = place.try_lock() else { continue };
            if place.tick.periods > 0 {
                take(place.tick, place.stack.get(..place.depth).unwrap_or_default());
                place.tick.periods = 0;
            }
        }
    }
}

/// Timers of all threads that there are.
#[derive(Default)]
struct Timers {
    timers: BTreeMap<u32, Timer>,
    names: HashMap<u32, Arc<str>>,
    /// Threads that have none, when this was last looked at.
    without: usize,
}

impl Timers {
    /// Gives new threads a timer, and takes those of ended ones back. Refused when no thread at all gets one.
    fn look(&mut self) -> Result<(), Error> {
        let threads = threads::all()?;
        self.timers.retain(|thread, _| threads.contains(thread));
        self.without = 0;
        let mut refused = None;
        for thread in threads {
            if self.timers.contains_key(&thread) {
                continue;
            }
            let is_room = self.timers.len() < THREADS_MAX;
            match is_room.then(|| Timer::start(thread, CPU_PERIOD)) {
                Some(Ok(timer)) => drop(self.timers.insert(thread, timer)),
                without => {
                    // One that has ended meanwhile needs none.
                    self.without += usize::from(threads::name(thread).is_some());
                    refused = without.and_then(Result::err).or(refused);
                }
            }
        }
        if let (true, Some(refused)) = (self.timers.is_empty(), refused) {
            return Err(Error::NoTimers(refused));
        }
        self.name();
        Ok(())
    }

    /// Looks up what threads are called: some get their names only when they run. Of ended ones, what they were.
    fn name(&mut self) {
        for thread in self.timers.keys() {
            if let Some(name) = threads::name(*thread) {
                self.names.insert(*thread, name);
            }
        }
        if self.names.len() > 2 * THREADS_MAX {
            self.names.retain(|thread, _| self.timers.contains_key(thread));
        }
    }

    fn end(mut self) -> Names {
        self.timers.clear();
        Names { names: self.names, without: self.without }
    }
}

/// What threads are called, and how many were not sampled.
struct Names {
    names: HashMap<u32, Arc<str>>,
    without: usize,
}

/// Periods by thread and stack.
#[derive(Default)]
struct Collected {
    stacks: HashMap<(u32, Stack), u64>,
    /// Periods of stacks beyond the bound.
    left_out: u64,
}

impl Collected {
    fn take(&mut self, ring: &Ring) {
        ring.each(|tick, stack| {
            let has_room = self.stacks.len() < STACKS_MAX;
            let key = (tick.thread, Stack::from(stack));
            match self.stacks.get_mut(&key) {
                Some(periods) => *periods += u64::from(tick.periods),
                None if has_room => drop(self.stacks.insert(key, tick.periods.into())),
                None => self.left_out += u64::from(tick.periods),
            }
        });
    }

    fn finish(
        self,
        ring: &Ring,
        names: &Names,
        (started_unix_ns, duration_ns): (i64, i64),
    ) -> Result<Profile, Error> {
        let frames = Frames::of(self.stacks.keys().map(|(_, stack)| stack))?;
        let period = nanoseconds(CPU_PERIOD);
        let mut samples: Vec<Sample> = Vec::with_capacity(self.stacks.len());
        for ((thread, stack), periods) in &self.stacks {
            let count = i64::try_from(*periods).unwrap_or(i64::MAX);
            let name = names.names.get(thread).cloned();
            samples.push(Sample {
                values: vec![count, count.saturating_mul(period)],
                thread: Some(name.unwrap_or_else(|| format!("thread {thread}").into())),
                stack: frames.places(stack),
            });
        }
        samples.sort_by(|a, b| b.values.cmp(&a.values));
        let cpu = Kind { name: "cpu", unit: "nanoseconds" };
        Ok(Profile {
            kinds: vec![Kind { name: "samples", unit: "count" }, cpu],
            main_kind: 1,
            period_kind: cpu,
            period,
            started_unix_ns,
            duration_ns,
            frames: frames.frames,
            samples,
            notes: notes(self.left_out, ring.lost.load(Ordering::Relaxed), names.without),
        })
    }
}

/// What is missing, in words.
fn notes(left_out: u64, lost: u64, without: usize) -> Vec<String> {
    let told = [
        (lost, "samples were lost, because too many came at once"),
        (left_out, "samples were left out, because there are too many different stacks"),
        (without as u64, "threads were not sampled, because they got no timer"),
    ];
    told.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}
