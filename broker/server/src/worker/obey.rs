//! Mailbox entries that are no deliveries: changes, commands, and answers of the store and of other workers.

use super::Worker;
use super::connection::Connection;
use super::mailbox::Entry;
use waspmq_core::delivery::{Recipient, Turn};
use waspmq_core::registry::{Change, Step};
use waspmq_core::session::Subscription;
use waspmq_core::{Address, Code, Name, Pattern, Position, Reject, SessionId};

impl Worker {
    /// Carries out an entry that is no delivery; gives the bytes it queued for connections.
    pub(super) fn obey(&mut self, entry: Entry) -> usize {
        let bytes = entry.size_bytes();
        match entry {
            Entry::Deliver { .. } => {}
            Entry::Queued { batch, queues, picks, plan } => {
                self.handle_queued(&batch, (&queues, &picks), plan.as_deref());
            }
            Entry::Told(told) => self.handle_told(told),
            Entry::Given(given) => self.deliver_given(given),
            Entry::QueueRead(read) => self.handle_queue_read(*read),
            Entry::Change(change) => self.change(change),
            Entry::Presence(change) => return self.tell_watchers(&change),
            Entry::Close { session, close } => {
                if let Some(&number) = self.numbers.get(&session) {
                    self.close_number(number, close);
                }
            }
            Entry::Publish { publication, answer } => self.publish_for_operator(&publication, answer),
            Entry::Stored { tokens, result } => {
                for &token in &tokens {
                    self.handle_reached(token, result.clone());
                }
            }
            Entry::Answers(answers) => answers.iter().for_each(|answer| self.handle_answer(answer)),
            Entry::Redeliver(redelivery) => self.handle_redelivery(&redelivery),
            Entry::Page(page) => self.handle_page(*page),
            Entry::Listing(listing) => self.handle_listing(*listing),
            Entry::History(history) => self.handle_history(*history),
            Entry::Read(read) => self.handle_read(*read),
            Entry::PresenceOf(presence) => self.handle_presence_of(*presence),
            Entry::PutOff(page) => self.handle_put_off(page),
            Entry::Ledger { id, answer } => {
                if answer.try_send(self.find_delivery(id)).is_err() {
                    tracing::debug!(%id, "a question about a message ended before its answer");
                }
            }
            Entry::Explain { id, answer } => {
                if answer.send(self.policies.explain(id)).is_err() {
                    tracing::debug!(%id, "a question about decisions ended before its answer");
                }
            }
            Entry::Posted(posted) => self.take_posted(&posted),
            Entry::Taken(taken) => self.handle_taken(&taken),
            Entry::Takeover(takeover) => self.handle_takeover(&takeover),
            Entry::WrittenDown(taker) => self.handle_written_down(taker),
            Entry::Online(user) => self.handle_online(user),
            Entry::Room => self.handle_room(),
            Entry::Drain(span) => self.begin_drain(span),
        }
        bytes
    }

    fn change(&mut self, change: Change) {
        let Change { session, address, step, last } = change;
        self.with_session(session, |worker, connection| match step {
            Step::Attach => {
                worker.note_group(connection, &address, (true, last));
                worker.recipients.attach(&address, connection.number);
                connection.groups.push(address);
            }
            Step::Detach => worker.detach_group(connection, &address, last),
            Step::Forbid => worker.forbid_group(connection, &address, last),
        });
    }

    fn detach_group(&mut self, connection: &mut Connection, group: &Address, last: Position) {
        self.note_group(connection, group, (false, last));
        self.recipients.detach(group, connection.number);
        connection.groups.retain(|other| other != group);
        let ended = Subscription { pattern: Pattern::from(group), queue: None };
        self.stop_catching(connection, &ended);
    }

    /// The membership of the session's user ended for want of a right. Told once, whoever says so first.
    pub(super) fn forbid_group(&mut self, connection: &mut Connection, group: &Address, last: Position) {
        if connection.groups.contains(group) {
            self.detach_group(connection, group, last);
            let message = format!("the membership of {group} ended: it is no longer allowed");
            self.refuse(connection, None, Reject::new(Code::Forbidden, message));
        }
    }

    fn handle_online(&mut self, user: Name) {
        let now_ms = self.shared.clock.now_us() / 1_000;
        let Self { tracker, policies, events, .. } = self;
        let turn = &mut Turn { now_ms, acking: policies, out: events };
        tracker.handle_online(&Recipient::User(user), turn);
        self.timers.notify_one();
    }

    /// Works on the connection of a session of this worker, if there is one.
    pub(super) fn with_session(&mut self, session: SessionId, work: impl FnOnce(&mut Self, &mut Connection)) {
        let Some(&number) = self.numbers.get(&session) else { return };
        let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        work(self, &mut connection);
        self.put_back(number, connection);
    }

    /// Works on the connection that asked something, if it is still there.
    pub(super) fn with_asker(&mut self, asker: SessionId, work: impl FnOnce(&mut Self, &mut Connection)) {
        self.with_session(asker, |worker, connection| {
            // A session that was resumed in another connection has the id under which the first one asked.
            if connection.asker == Some(asker) {
                work(worker, connection);
            }
        });
    }
}
