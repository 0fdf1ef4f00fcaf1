//! Captures as operators begin, read and remove them. Who may, and who did, is for the admin API to know.

use super::{Capture, CaptureCounts, CaptureError, CaptureRecords, CaptureRequest, CaptureStatus};
use crate::host::Host;
use crate::stats::now;
use std::sync::Arc;
use waspmq_core::policy::QueueMembers;

impl Host {
    /// Begins to take down what policies are asked; the records of the capture before are gone.
    pub fn start_capture(&self, request: CaptureRequest) -> Result<CaptureStatus, CaptureError> {
        let shared = &self.shared;
        shared.captures.tend(now());
        let capture = shared.captures.start(request, shared.workers, now())?;
        capture.begin_with(&shared.captures, &shared.queues);
        shared.wake_keeper();
        Ok(capture.status())
    }

    /// The capture that is there, running or complete.
    pub fn capture(&self) -> Option<CaptureStatus> {
        self.present_capture().map(|capture| capture.status())
    }

    /// How it is now, with the records that it has.
    pub fn read_capture(&self) -> Option<(CaptureStatus, CaptureRecords)> {
        self.present_capture().map(|capture| (capture.status(), capture.records()))
    }

    /// Removes the capture, running or complete, if it is the one that began at this time where one is named; answers how
    /// it was.
    pub fn remove_capture(&self, started_unix_ms: Option<u64>) -> Result<CaptureStatus, CaptureError> {
        let capture = self.present_capture().ok_or(CaptureError::None)?;
        let found = capture.started_unix_ms;
        if started_unix_ms.is_some_and(|expected| expected != found) {
            return Err(CaptureError::Other { started_unix_ms: found });
        }
        let is_removed = self.shared.captures.remove(&capture);
        is_removed.then(|| capture.status()).ok_or(CaptureError::None)
    }

    /// What captures took down since the start.
    pub fn capture_counts(&self) -> CaptureCounts {
        self.shared.captures.counts()
    }

    /// The capture, of which nothing is overdue.
    fn present_capture(&self) -> Option<Arc<Capture>> {
        self.shared.captures.tend(now());
        self.shared.captures.current()
    }

    /// Takes down the members of a queue that changed, which have to be in the table already: a capture that begins
    /// meanwhile finds them there, or is found here.
    pub(crate) fn capture_members(&self, members: &QueueMembers) {
        let captures = &self.shared.captures;
        if captures.running() > 0
            && let Some(capture) = captures.current()
        {
            captures.members(&capture, members);
        }
    }
}
