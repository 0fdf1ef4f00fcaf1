//! The member's side: what a queue's home gave to a session of this worker.

use super::{Done, Told};
use crate::worker::Worker;
use crate::worker::segment::{Terms, Told as Asked};
use std::sync::Arc;
use waspmq_core::delivery::{Cause, Failed, Give, Sending};
use waspmq_core::message::Batch;
use waspmq_core::{QueueId, SessionId};

/// A stored message for a member of a queue.
#[derive(Debug)]
pub(crate) struct Given {
    queue: QueueId,
    session: SessionId,
    /// Holds the one message.
    batch: Arc<Batch>,
    attempt: u16,
}

impl Given {
    pub(crate) fn new(queue: &QueueId, give: Give) -> Self {
        let Give { session, batch, attempt, .. } = give;
        Self { queue: queue.clone(), session, batch, attempt }
    }

    /// Memory of the message.
    pub(crate) fn size_bytes(&self) -> usize {
        self.batch.size_bytes()
    }
}

impl Worker {
    /// Sends messages to members of this worker. What cannot be sent goes back at once.
    pub(in crate::worker) fn deliver_given(&mut self, given: Vec<Given>) {
        let shared = self.shared.clone();
        let now = shared.clock.now();
        let dictionaries = &*shared.dictionaries.load();
        let counters = &shared.mailboxes.of(self.number).counters;
        for one in given {
            let Given { queue, session, batch, attempt } = &one;
            let overflow = self.settled.of(&batch.to).overflow;
            let number = self.numbers.get(session).copied();
            let connection =
                number.and_then(|number| self.connections.get_mut(number as usize)).and_then(Option::as_mut);
            let Some(connection) = connection else {
                self.tell_unsent(&one);
                continue;
            };
            let terms = Terms { overflow, is_decided: false, now_unix_ms: now.unix_ms };
            let bytes = batch.size_bytes();
            if batch.messages.first().is_none_or(|envelope| terms.has_expired(envelope)) {
                counters.dropped_expired.add(1);
                self.tell_not_given(&one, Cause::Expired);
                continue;
            }
            // Only into a queue that has room, so that nothing that waits there is dropped for it.
            if !connection.window.has_room(1, bytes)
                || !self.outbox.has_room_for_replay(connection, bytes)
                || connection.window.has_elsewhere(batch, queue)
            {
                self.tell_not_given(&one, Cause::QueueFull);
                continue;
            }
            connection.catching.note_passed(batch.first.stream.shard);
            let told = Asked { policies: &mut self.policies, dictionaries, counters };
            let how = ((connection.encoding, terms), None);
            if let Some(segment) = self.encoder.queue_segment((batch, 0), (queue, *attempt), how, told) {
                self.outbox.push(connection, segment, None);
            }
            let sending = Sending { queue: Some(queue), attempt: *attempt, now_ms: now.us / 1_000 };
            connection.window.sent(batch, 0..1, sending);
        }
        self.handle_losses();
        self.close_slow();
    }

    /// The session is gone, or could not be reached.
    pub(super) fn tell_unsent(&mut self, given: &Given) {
        self.tell_not_given(given, Cause::Offline);
    }

    fn tell_not_given(&mut self, given: &Given, cause: Cause) {
        let failed = Some(Failed::by(cause));
        let done = Done::new(&given.queue, &given.batch, &(0..1)).by(given.session, given.attempt, failed);
        self.tell_home(Told::Done(done));
    }
}
