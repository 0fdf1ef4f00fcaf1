//! The progress of a queue in one address.

use super::done::{Done, Place, QueueCursor, cursor_of, place};
use crate::delivery::AckPlan;
use crate::id::{Position, SessionId};
use crate::limits;
use crate::message::{Batch, Envelope};
use crate::registry::{InFlight, Pick};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message that was taken out of the stream of its address and is not done.
#[derive(Debug)]
pub(super) struct Open {
    /// Of this message alone.
    pub(super) batch: Arc<Batch>,
    pub(super) plan: AckPlan,
    /// On the broker's clock; negative when it was published before that began.
    pub(super) published_ms: i64,
    /// The member that a routing policy named.
    pub(super) pick: Option<Pick>,
    /// The message before it in its address.
    pub(super) before: Place,
    /// Deliveries made, the one under way included.
    pub(super) attempt: u16,
    /// The member that failed last.
    pub(super) avoid: Option<SessionId>,
    pub(super) state: State,
}

/// | state | given | answer of its member | due |
/// | --- | --- | --- | --- |
/// | ready | given | – | – |
/// | given | – | done, resting, ready or an end | as an answer with cause `timeout` |
/// | resting | – | – | ready |
/// | tracked | – | – | – |
///
/// An ack ends each of them.
#[derive(Debug)]
pub(super) enum State {
    /// Waits for a member with room.
    Ready,
    /// A member has it.
    Given { session: SessionId, sent_ms: u64, _in_flight: InFlight },
    /// Waits for its next attempt.
    Resting { due_ms: u64 },
    /// Its publisher waits for it: a tracker delivers and repeats it.
    Tracked,
}

impl Open {
    /// One that was published just now; what the store knows of the time of others is not on the broker's clock.
    pub(super) fn new(batch: Arc<Batch>, plan: AckPlan, pick: Option<Pick>, state: State) -> Self {
        let published_ms = (batch.published_us / 1_000).cast_signed();
        Self { batch, plan, published_ms, pick, before: (0, 0), attempt: 0, avoid: None, state }
    }

    /// Milliseconds since the publish.
    pub(super) const fn waited_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.published_ms.saturating_neg())
    }

    pub(super) fn envelope(&self) -> Option<&Envelope> {
        self.batch.messages.first()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.envelope().map_or(&[], |envelope| self.batch.slice(envelope.key))
    }
}

/// Invariant: every message of the address at or before `reached` is open or done; of those behind it, `done` and
/// some of `open` (the tracked ones, and what came live while it is held) are known, and the store has the others.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// `None` while only the store knows.
    pub(super) reached: Option<Position>,
    pub(super) done: Done,
    pub(super) open: BTreeMap<Place, Open>,
    /// Whether the store may have messages behind `reached`.
    pub(super) is_behind: bool,
    /// Whether one was published since the store was asked last.
    pub(super) is_fresh: bool,
    /// Held: when the store was asked last for what lies behind `reached` and could not read it. What is published meanwhile
    /// goes past it and does not move `reached`.
    pub(super) held_ms: Option<u64>,
    /// Whether it is to be saved.
    pub(super) is_moved: bool,
}

impl Progress {
    /// Nothing before this position is left.
    pub(super) fn behind(position: Position) -> Self {
        Self { reached: Some(position), ..Self::default() }
    }

    pub(super) fn is_reached(&self, at: Place) -> bool {
        self.reached.is_some_and(|reached| at <= place(reached))
    }

    /// What the store knew. Acknowledgements that came meanwhile stay.
    pub(super) fn resolve(&mut self, cursor: QueueCursor) {
        self.reached = Some(cursor.upto);
        cursor.done.into_iter().for_each(|(from, behind)| self.done.insert(from, behind));
    }

    /// Takes the next message of the stream; false when nothing is to be done about it, because it is done or in other
    /// hands.
    pub(super) fn reach(&mut self, position: Position) -> bool {
        let before = self.reached.map_or((0, 0), place);
        let at = place(position);
        self.reached = Some(position);
        let is_done = self.done.holds(at);
        self.done.forget_upto(at);
        match self.open.get_mut(&at) {
            Some(open) => open.before = before,
            None => return !is_done,
        }
        false
    }

    /// The place of the message that was reached last, for the one that follows it.
    pub(super) fn before(&self) -> Place {
        self.reached.map_or((0, 0), place)
    }

    /// Notes that a message is done. It is not open any more.
    pub(super) fn finish(&mut self, at: Place) {
        if !self.is_reached(at) {
            self.done.insert_one(at);
        }
    }

    /// What is to be kept of it, `None` while only the store knows.
    pub(super) fn cursor(&self, most: usize) -> Option<QueueCursor> {
        let reached = self.reached?;
        let open = self.open.range(..=place(reached)).map(|(at, open)| (*at, open.before));
        let (upto, mut done) = cursor_of(reached, open);
        done.extend(self.done.stretches());
        done.truncate(most);
        Some(QueueCursor { upto, done })
    }

    /// Gives everything back to the store that no tracker has.
    pub(super) fn rewind(&mut self) {
        if let Some(QueueCursor { upto, done }) = self.cursor(limits::QUEUE_DONE_MAX) {
            self.reached = Some(upto);
            self.done = Done::default();
            done.into_iter().for_each(|(from, behind)| self.done.insert(from, behind));
        }
        self.open.retain(|_, open| matches!(open.state, State::Tracked));
        (self.is_behind, self.is_fresh, self.held_ms) = (false, false, None);
    }

    /// Whether something was done before it was known where the queue was, so that it cannot be saved yet.
    pub(super) const fn is_unsaved(&self) -> bool {
        self.reached.is_none() && !self.done.is_empty()
    }

    /// Whether nothing is lost when it is forgotten, where the store has nothing that was not reached.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty() && !self.is_behind && !self.is_moved && !self.is_unsaved()
    }
}
