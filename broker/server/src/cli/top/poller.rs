//! The thread that asks the broker, again and again, and tells the screen what came of it.
//!
//! It asks one thing after another and waits in between, longer and longer while nobody answers. It ends when nobody listens to
//! it any more; a request that is under way then is left behind with the process.

use super::super::api::Api;
use super::figures::Figures;
use super::sample::Sample;
use super::view::{Sessions, Trouble};
use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// The waits between attempts at a broker that does not answer: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Until the first rates are there, however long the interval is.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// Sessions that are listed.
const SESSIONS_MAX: &str = "200";

#[derive(Debug)]
pub(super) enum Update {
    Figures(Box<Figures>),
    Trouble(Trouble),
    Sessions(Sessions),
}

#[derive(Debug)]
pub(super) struct Poller {
    pub(super) api: Api,
    pub(super) clock: Clock,
    pub(super) interval: Duration,
    pub(super) updates: Sender<Update>,
    /// A view was chosen; the far end is gone when the screen is.
    pub(super) chosen: Receiver<()>,
    pub(super) wants_sessions: Arc<AtomicBool>,
}

impl Poller {
    /// `before` is the first look, if there was an answer to it.
    pub(super) fn run(self, mut before: Option<Sample>) {
        let mut retry = RETRY_FIRST;
        let mut wait = if before.is_some() { self.interval.min(FIRST_INTERVAL) } else { Duration::ZERO };
        let mut next_us = self.clock.now_us().saturating_add(micros(wait));
        loop {
            if !self.wait_until(next_us) {
                return;
            }
            match Sample::take(&self.api, self.clock) {
                Ok(sample) => {
                    retry = RETRY_FIRST;
                    wait = self.interval;
                    let figures = before.as_ref().map(|before| Figures::between(before, &sample));
                    if figures.is_none() {
                        wait = wait.min(FIRST_INTERVAL);
                    }
                    before = Some(sample);
                    if figures.is_some_and(|figures| !self.tell(Update::Figures(Box::new(figures)))) {
                        return;
                    }
                }
                Err(error) => {
                    wait = retry.max(self.interval.min(RETRY_LONGEST));
                    retry = (retry * 2).min(RETRY_LONGEST);
                    let since = before.as_ref().map_or(0, |before| before.at_us);
                    let trouble = Trouble {
                        said: format!("{error:#}"),
                        silent_ms: self.clock.now_us().saturating_sub(since) / 1_000,
                        retry_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    };
                    if !self.tell(Update::Trouble(trouble)) {
                        return;
                    }
                }
            }
            self.list_sessions();
            // In steps, so that the time that asking takes does not add up; but never twice at once.
            next_us = next_us.saturating_add(micros(wait));
            let now_us = self.clock.now_us();
            if next_us <= now_us {
                next_us = now_us.saturating_add(micros(wait));
            }
        }
    }

    /// Whether somebody listens still. A view that is chosen meanwhile gets what it needs.
    fn wait_until(&self, moment_us: u64) -> bool {
        loop {
            let left = Duration::from_micros(moment_us.saturating_sub(self.clock.now_us()));
            match self.chosen.recv_timeout(left) {
                Ok(()) => self.list_sessions(),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn list_sessions(&self) {
        if self.wants_sessions.load(Ordering::Relaxed) {
            let page = self.api.get_query(&["sessions"], &[("limit", SESSIONS_MAX)]);
            self.tell(Update::Sessions(page.map_err(|error| format!("{error:#}"))));
        }
    }

    /// Waits while the screen is busy. Whether it is there.
    fn tell(&self, update: Update) -> bool {
        self.updates.blocking_send(update).is_ok()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
