//! What a phase showed.

use super::super::output;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Row {
    pub(super) phase: &'static str,
    /// Messages published.
    pub(super) sent: usize,
    /// Deliveries that had to happen, over all recipients.
    pub(super) expected: usize,
    pub(super) received: usize,
    pub(super) lost: usize,
    /// Deliveries that had not to happen.
    pub(super) repeated: usize,
    /// Whether the phase showed what it is for.
    pub(super) seen: bool,
    pub(super) effect: String,
    pub(super) elapsed: Duration,
}

impl Row {
    fn per_second(&self) -> u64 {
        let micros = self.elapsed.as_micros().max(1);
        u64::try_from(self.received as u128 * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let headings = ["PHASE", "SENT", "EXPECTED", "RECEIVED", "LOST", "DELIVERIES/S", "SEEN"];
    let cells = |row: &Row| {
        vec![
            row.phase.to_owned(),
            row.sent.to_string(),
            row.expected.to_string(),
            row.received.to_string(),
            row.lost.to_string(),
            row.per_second().to_string(),
            format!("{}: {}", if row.seen { "yes" } else { "NO" }, row.effect),
        ]
    };
    output::table(&headings, &rows.iter().map(cells).collect::<Vec<_>>())
}
