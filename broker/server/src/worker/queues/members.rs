//! Joining and leaving queues.

use super::Told;
use crate::worker::Worker;
use waspmq_core::registry::{self, Attached};
use waspmq_core::settings::Keep;
use waspmq_core::{Position, QueueId, Reject};
use waspmq_protocol::From;
use waspmq_store::QueueBegin;

impl Worker {
    /// Makes a session a member. A queue that is new begins at `from`.
    pub(in crate::worker) fn join_queue(
        &mut self,
        id: &QueueId,
        session: &registry::Session,
        from: From,
    ) -> Result<Attached, Reject> {
        let address = id.pattern().to_address();
        let keeps = address.is_none_or(|address| self.shared.rules.of(&address).keep != Keep::Never);
        let (queues, journal) = (&self.shared.queues, &self.shared.journal);
        let is_new =
            keeps && queues.open(id, self.begin_of(id, from), (self.shared.clock.now().unix_ms, journal))?;
        let home = keeps.then(|| queues.home(id));
        let (queue, attached) = self.shared.registry.join_queue(id, session, home).inspect_err(|_| {
            if is_new {
                queues.forget(id, journal);
            }
        })?;
        self.shared.policies.queue_changed(queue.to_members());
        self.tell_home(Told::Members(queue));
        Ok(attached)
    }

    /// Ends a membership.
    pub(in crate::worker) fn leave_queue(&mut self, id: &QueueId, session: &registry::Session) {
        let Some(queue) = self.shared.registry.leave_queue(id, session) else { return };
        self.shared.policies.queue_changed(queue.to_members());
        if queue.members.is_empty() && queue.home.is_some() {
            self.shared.queues.handle_left(id, (self.shared.clock.now().unix_ms, &self.shared.journal));
        }
        self.tell_home(Told::Members(queue));
    }

    /// Where a queue begins.
    fn begin_of(&self, id: &QueueId, from: From) -> QueueBegin {
        let ends = || match id.pattern().to_address() {
            Some(address) => [self.end_of(&address)].into(),
            None => self.shared.registry.stream_ends(),
        };
        match from {
            From::Now => QueueBegin::After(ends()),
            From::Earliest => QueueBegin::Earliest,
            From::Last => QueueBegin::Last(ends()),
            From::Time(unix_ms) => QueueBegin::Time(unix_ms),
            // Of an address, whose shard is the same whatever the client names.
            From::Position(position) => {
                let ends: Box<[Position]> = ends();
                let of = |end: &Position| {
                    let mut after = position;
                    after.stream.shard = end.stream.shard;
                    after
                };
                QueueBegin::After(ends.iter().map(of).collect())
            }
        }
    }
}
