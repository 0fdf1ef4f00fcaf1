//! A timer on the CPU time of one thread, which sends that thread `SIGPROF`, and what is told with the signal.
//!
//! One per thread, because the kernel has at most one signal per clock tick for a timer: one for the whole process would
//! miss most of what many cores do.

use std::io;
use std::time::Duration;

pub(super) struct Timer(libc::timer_t);

impl Timer {
    /// Fails where the thread has ended, or where the kernel allows no more timers (`RLIMIT_SIGPENDING`).
    #[expect(unsafe_code, reason = "libraries have no safe name for these")]
    pub(super) fn start(thread: u32, period: Duration) -> io::Result<Self> {
        let thread = libc::pid_t::try_from(thread).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a structure of numbers, of which all may be 0.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGPROF;
        event.sigev_notify_thread_id = thread;
        event.sigev_value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(thread as usize) };
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both places are ours and are written before the call returns.
        if unsafe { libc::timer_create(cpu_clock(thread), &raw mut event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = Self(timer);
        let span = libc::timespec {
            tv_sec: libc::time_t::try_from(period.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(period.subsec_nanos().cast_signed()),
        };
        let spans = libc::itimerspec { it_interval: span, it_value: span };
        // SAFETY: the timer is there until it is dropped, and nothing is written.
        match unsafe { libc::timer_settime(timer.0, 0, &raw const spans, std::ptr::null_mut()) } {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Timer {
    #[expect(unsafe_code, reason = "libraries have no safe name for it")]
    fn drop(&mut self) {
        // SAFETY: it was made by `start` and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// The clock of a thread's CPU time, as the kernel numbers them.
const fn cpu_clock(thread: libc::pid_t) -> libc::clockid_t {
    const OF_THREAD: libc::clockid_t = 4;
    const SCHEDULED: libc::clockid_t = 2;
    (!thread << 3) | OF_THREAD | SCHEDULED
}

/// What a timer tells with its signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick {
    pub(super) thread: u32,
    /// How many periods have passed since the one before.
    pub(super) periods: u32,
}

/// `siginfo_t` of a timer, as Linux lays it out on 64-bit machines.
#[repr(C)]
struct Told {
    signal: i32,
    errno: i32,
    code: i32,
    _padding: i32,
    timer: i32,
    overrun: i32,
    value: u64,
}

const _: () = assert!(size_of::<Told>() <= size_of::<libc::siginfo_t>());

impl Tick {
    /// `None`: the signal is somebody else's.
    #[expect(unsafe_code, reason = "the kernel tells through a union")]
    pub(super) fn read(told: &libc::siginfo_t) -> Option<Self> {
        // SAFETY: `siginfo_t` is larger, aligned the same, and plain numbers.
        let told = unsafe { &*std::ptr::from_ref(told).cast::<Told>() };
        (told.signal == libc::SIGPROF && told.code == libc::SI_TIMER).then(|| Self {
            thread: u32::try_from(told.value).unwrap_or(0),
            periods: 1_u32.saturating_add_signed(told.overrun.max(0)),
        })
    }
}
