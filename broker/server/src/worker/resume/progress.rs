//! How far a session is that loses its connection: what it has still to read, what is not acknowledged, and whether something
//! of it is lost. Not here: where the record goes.

use crate::resumes::{Record, Replay};
use crate::worker::connection::Connection;
use waspmq_core::delivery::{Cursors, Window};

/// Addresses of which a session's record says how far they were read. More: the session has missed something.
const REPLAYS_MAX: usize = 1_024;

/// What is to be known of a session whose connection is given up.
pub(super) struct Progress {
    replays: Vec<Replay>,
    window: Vec<Window>,
    cursors: Option<Box<Cursors>>,
    has_missed: bool,
}

impl Progress {
    pub(super) fn of(connection: &Connection) -> Self {
        let (replays, is_complete) = replays(connection);
        let has_missed = connection.out.has_reports()
            || connection.catching.has_gap
            || connection.catching.holds_unstored()
            || !is_complete;
        let cursors = &connection.cursors;
        let cursors = (!cursors.is_settled()).then(|| Box::new(cursors.clone()));
        Self { replays, window: connection.window.left(), cursors, has_missed }
    }

    pub(super) fn write(self, record: &mut Record) {
        record.replays = self.replays;
        record.window = self.window;
        record.cursors = self.cursors;
        record.has_cursors = true;
        record.has_missed |= self.has_missed;
    }
}

/// What a session still reads, as far as its record has room, and whether it has.
pub(super) fn replays(connection: &Connection) -> (Vec<Replay>, bool) {
    let mut replays = connection.catching.replays(&connection.cursors);
    let is_complete = replays.len() <= REPLAYS_MAX;
    replays.truncate(REPLAYS_MAX);
    (replays, is_complete)
}
