//! A server's resident memory over time, read by a thread of its own while a scenario runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::process;

/// Points of the curve that are kept for the record.
const POINTS_MAX: usize = 60;

#[derive(Debug)]
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, u64)>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Resident {
    pub(crate) before_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) after_bytes: u64,
    /// Seconds since the start and bytes, thinned out.
    pub(crate) curve: Vec<(f64, u64)>,
}

impl Watch {
    /// Reads the memory of `pid` now and then every `interval`.
    ///
    /// # Errors
    /// When the process is not there.
    pub(crate) fn start(pid: u32, interval: Duration) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (start, first, ended) = (Instant::now(), process::resident_bytes_now(pid)?, over.clone());
        let thread = thread::spawn(move || {
            let mut readings = vec![(Duration::ZERO, first)];
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(interval);
                // A server that is gone is noticed by who talks to it.
                let Ok(bytes) = process::resident_bytes_now(pid) else { break };
                readings.push((start.elapsed(), bytes));
            }
            readings
        });
        Ok(Self { over, thread })
    }

    /// Ends reading.
    ///
    /// # Errors
    /// When the thread panicked.
    pub(crate) fn finish(self) -> Result<Resident> {
        self.over.store(true, Ordering::Relaxed);
        let readings = self.thread.join().map_err(|_| anyhow!("the memory watch panicked"))?;
        Ok(Resident::of(&readings))
    }
}

impl Resident {
    fn of(readings: &[(Duration, u64)]) -> Self {
        let bytes = |reading: Option<&(Duration, u64)>| reading.map_or(0, |(_, bytes)| *bytes);
        let step = readings.len().div_ceil(POINTS_MAX).max(1);
        Self {
            before_bytes: bytes(readings.first()),
            max_bytes: readings.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0),
            after_bytes: bytes(readings.last()),
            curve: readings.iter().step_by(step).map(|(at, bytes)| (at.as_secs_f64(), *bytes)).collect(),
        }
    }

    pub(crate) fn growth_bytes(&self) -> u64 {
        self.max_bytes.saturating_sub(self.before_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_to_the_highest_reading_and_the_curve_is_bounded() {
        let readings: Vec<_> =
            (0..1_000).map(|i| (Duration::from_millis(i), 1_000 + 500_u64.abs_diff(i))).collect();
        let resident = Resident::of(&readings);
        assert_eq!((resident.before_bytes, resident.max_bytes, resident.after_bytes), (1_500, 1_500, 1_499));
        assert_eq!(resident.growth_bytes(), 0);
        assert!(resident.curve.len() <= POINTS_MAX && resident.curve.len() > POINTS_MAX / 2);
    }

    #[test]
    fn this_process_is_watched() {
        let watch = Watch::start(std::process::id(), Duration::from_millis(1)).unwrap();
        let held = vec![1_u8; 32 * 1024 * 1024];
        thread::sleep(Duration::from_millis(20));
        let resident = watch.finish().unwrap();
        assert_eq!(std::hint::black_box(&held).last(), Some(&1));
        assert!(resident.growth_bytes() > 16 * 1024 * 1024, "{resident:?}");
    }
}
