//! The way to end a profile before its time, from any thread.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Copies mean the same profile.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Ends the profile; what it has so far is its result.
    pub fn stop(&self) {
        let (is_stopped, changed) = &*self.0;
        *is_stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        changed.notify_all();
    }

    /// Waits for at most so long, and answers whether it was stopped.
    pub fn wait(&self, most: Duration) -> bool {
        let (is_stopped, changed) = &*self.0;
        let guard = is_stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = changed.wait_timeout_while(guard, most, |is_stopped| !*is_stopped);
        waited.map_or(true, |(guard, _)| *guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_heard_at_once_and_stays() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(3_600)));
        stop.stop();
        assert!(waiting.join().unwrap());
        assert!(stop.wait(Duration::from_secs(3_600)));
    }
}
