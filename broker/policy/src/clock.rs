//! The time as guests are told it: read once per tick, not once per question.

use crate::limits::TICK_MS;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A clock that is a tick behind at most while somebody advances it.
#[derive(Debug)]
pub(crate) struct Clock {
    unix_ms: AtomicU64,
    ms: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let clock = Self { unix_ms: AtomicU64::new(0), ms: AtomicU64::new(0) };
        clock.advance();
        clock
    }

    /// A clock that stands still until it is set.
    pub(crate) const fn standing() -> Self {
        Self { unix_ms: AtomicU64::new(0), ms: AtomicU64::new(0) }
    }

    /// Sets both times to one moment; the one that only goes forward stays where that lies behind it.
    pub(crate) fn set(&self, unix_ms: u64) {
        self.unix_ms.store(unix_ms, Relaxed);
        self.ms.fetch_max(unix_ms, Relaxed);
    }

    /// Reads the time of the machine.
    pub(crate) fn advance(&self) {
        self.unix_ms.store(read(ClockId::Realtime), Relaxed);
        self.ms.store(read(ClockId::Monotonic), Relaxed);
    }

    /// Milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Relaxed)
    }

    /// Milliseconds of a clock that only goes forward.
    pub(crate) fn ms(&self) -> u64 {
        self.ms.load(Relaxed)
    }
}

/// Milliseconds since 1970, as the machine knows them now.
pub(crate) fn read_unix_ms() -> u64 {
    read(ClockId::Realtime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let of = |number: i64| u64::try_from(number).unwrap_or(0);
    of(time.tv_sec) * 1_000 + of(time.tv_nsec) / 1_000_000
}

const _: () = assert!(TICK_MS <= 10, "guests are told that the time is a few milliseconds behind at most");
