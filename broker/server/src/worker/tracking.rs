//! The publishers' side of a tracked delivery: carries out what the tracker decides.
//!
//! Repeats are handed to the workers of the recipient's sessions, dead letters to the journal, receipts to the
//! publisher. Each event is carried out once, in the order in which the tracker gave them.

use super::Worker;
use super::connection::Connection;
use super::enqueue::{journal_full, written};
use super::mailbox::{Entry, QueueDelivery};
use super::receipts::{Asker, INTERNAL, Pending};
use super::segment::{Terms, Told};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use waspmq_core::delivery::{Cause, Event, Flight, Recipient, Report, Sending, Turn};
use waspmq_core::message::Batch;
use waspmq_core::policy::Overflowing;
use waspmq_core::{Code, Level, Name, QueueId, Reject, SessionId};
use waspmq_protocol::server;
use waspmq_store::{DeadLetter, Ticket, Write};

/// Messages of a batch for the sessions of one user on one worker, again.
#[derive(Debug)]
pub(crate) struct Redelivery {
    pub(super) batch: Arc<Batch>,
    pub(super) range: Range<u16>,
    pub(super) user: Name,
    pub(super) attempt: u16,
    pub(super) sessions: Vec<SessionId>,
    /// Whether no other worker is asked: then it is known here when nobody can be sent the messages.
    pub(super) is_only: bool,
}

impl Redelivery {
    pub(super) fn size_bytes(&self) -> usize {
        self.batch.size_bytes()
    }
}

impl Worker {
    pub(super) fn begin_flight(&mut self, flight: Flight) {
        let now_ms = self.shared.clock.now_us() / 1_000;
        let Self { tracker, policies, events, .. } = self;
        tracker.begin(flight, &mut Turn { now_ms, acking: policies, out: events });
        self.count_tracked();
        self.timers.notify_one();
    }

    /// Handles everything that is due. Gives when to call again, on the broker's clock.
    pub(super) fn advance(&mut self) -> Option<u64> {
        let now_ms = self.shared.clock.now_us() / 1_000;
        let Self { tracker, policies, events, .. } = self;
        tracker.advance(&mut Turn { now_ms, acking: policies, out: events });
        self.publish_due(now_ms);
        self.advance_queues(now_ms);
        self.settle();
        let due = [self.tracker.next_due_ms(), self.delays.next_due_ms(), self.queues_due_ms()];
        due.into_iter().flatten().min()
    }

    /// Tells the counters what the tracker holds.
    pub(super) fn count_tracked(&self) {
        let stats = self.tracker.stats();
        let counters = self.counters();
        counters.waiting_offline.set(stats.waiting as u64);
        counters.tracked_deliveries.set(stats.deliveries as u64);
        counters.tracked_bytes.set(stats.bytes as u64);
    }

    /// Carries out what the tracker asks for.
    pub(super) fn handle_events(&mut self) {
        for event in std::mem::take(&mut self.events) {
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            // How many recipients there are was noted when it was sent out.
            Event::Reached { publisher, reference, .. } if publisher == INTERNAL => {
                self.handle_reached(reference, Ok(()));
            }
            Event::NotDelivered { publisher, reference, cause, attempts, .. } if publisher == INTERNAL => {
                self.handle_reached(reference, Err(not_delivered(cause, attempts)));
            }
            Event::Reached { publisher, reference, batch, range, recipients } => {
                let level = Level::Delivered;
                let ids = batch.messages.get(indexes(&range)).unwrap_or_default().iter().map(|e| e.id);
                let receipts = (reference..).zip(ids).map(|(reference, id)| {
                    server::Frame::Receipt(server::Receipt { reference, id, level, recipients })
                });
                self.send_to_asker(publisher, receipts);
            }
            Event::NotDelivered { publisher, reference, range, cause, attempts, .. } => {
                let reject = not_delivered(cause, attempts);
                let errors = (reference..).take(range.len()).map(|reference| server::Frame::Error {
                    reference: Some(reference),
                    reject: reject.clone(),
                });
                self.send_to_asker(publisher, errors);
            }
            Event::Redeliver { batch, range, recipient, attempt, avoid } => {
                self.counters().redeliveries.add(u64::from(range.end - range.start));
                match recipient {
                    Recipient::User(user) => self.redeliver_to_user(&batch, range, user, attempt),
                    Recipient::Queue(queue) => {
                        self.redeliver_to_queue(&batch, range, &queue, (attempt, avoid));
                    }
                }
            }
            Event::DeadLetter { batch, range, recipient, cause, attempts, reason } => {
                self.end_of_queue(&batch, &range, &recipient);
                self.bury(&batch, range, &recipient, (cause, attempts, reason.as_deref()));
            }
            // Of a queue, what is stored and not done is given out again; its end is not told.
            Event::Store { batch, range, .. } => self.keep(&batch, range),
            Event::Dropped { batch, range, recipient, cause, .. } => {
                self.end_of_queue(&batch, &range, &recipient);
                self.counters().given_up(cause).add(u64::from(range.end - range.start));
            }
        }
    }

    fn redeliver_to_user(&mut self, batch: &Arc<Batch>, range: Range<u16>, user: Name, attempt: u16) {
        let sessions = self.shared.registry.sessions_of(&user);
        let mut by_worker: Vec<(u8, Vec<SessionId>)> = Vec::new();
        for session in sessions {
            match by_worker.iter_mut().find(|(worker, _)| *worker == session.worker) {
                Some((_, sessions)) => sessions.push(session.id),
                None => by_worker.push((session.worker, vec![session.id])),
            }
        }
        if by_worker.is_empty() {
            return self.answer_unsent(batch, range, Recipient::User(user), (attempt, Cause::Offline));
        }
        let is_only = by_worker.len() == 1;
        for (worker, sessions) in by_worker {
            let (batch, range, user) = (batch.clone(), range.clone(), user.clone());
            let redelivery = Redelivery { batch, range, user, attempt, sessions, is_only };
            if worker == self.number {
                self.handle_redelivery(&redelivery);
            } else if self.shared.mailboxes.send(worker, Entry::Redeliver(Box::new(redelivery))).is_err() {
                // The attempt times out.
                tracing::debug!(worker, "a repeat found no room");
            }
        }
    }

    /// Sends messages again to sessions of this worker.
    pub(super) fn handle_redelivery(&mut self, redelivery: &Redelivery) {
        let Redelivery { batch, range, user, attempt, sessions, is_only } = redelivery;
        let is_decided = self.policies.has_overflow(batch.to.as_str());
        let terms = Terms { is_decided, ..self.terms(std::slice::from_ref(batch), &batch.to) };
        let (mut sent, mut is_full) = (false, false);
        for session in sessions {
            self.with_session(*session, |worker, connection| {
                let is_origin = batch.exclude_origin && connection.has_id(batch.origin);
                if is_origin || !worker.listens(connection.number, &batch.to) {
                    return;
                }
                if connection.catching.will_send(batch) {
                    // In its place, and without an attempt; the window takes it down then.
                    sent = true;
                    return;
                }
                if !connection.window.has_room(range.len(), batch.size_bytes()) {
                    is_full = true;
                    return;
                }
                for (part, is_acked) in parts(connection, batch, range, *attempt) {
                    if is_acked {
                        worker.answer_read(connection, batch, part);
                    } else {
                        worker.send_again(connection, (batch, part), *attempt, terms);
                    }
                }
                worker.handle_losses_of(connection);
                sent = true;
            });
        }
        // Otherwise another worker may have sent them; when none has, the attempt times out.
        if !sent && *is_only {
            let cause = if is_full { Cause::QueueFull } else { Cause::Offline };
            self.answer_unsent(batch, range.clone(), Recipient::User(user.clone()), (*attempt, cause));
        }
    }

    fn send_again(
        &mut self,
        connection: &mut Connection,
        (batch, range): (&Arc<Batch>, Range<u16>),
        attempt: u16,
        terms: Terms,
    ) {
        let shared = self.shared.clone();
        let dictionaries = &*shared.dictionaries.load();
        let counters = &shared.mailboxes.of(self.number).counters;
        for index in range.clone() {
            if attempt == 1 && connection.replays(batch, index) {
                continue;
            }
            if !connection.catching.is_idle() {
                connection.catching.note_passed(batch.first.stream.shard);
            }
            let told = Told { policies: &mut self.policies, dictionaries, counters };
            let how = (connection.encoding, terms);
            if let Some(segment) = self.encoder.repeat((batch, usize::from(index)), attempt, how, told) {
                let policies = terms.is_decided.then_some(&mut self.policies);
                self.outbox.push(connection, segment, policies);
            }
        }
        let now_ms = self.shared.clock.now_us() / 1_000;
        connection.window.sent(batch, range.clone(), Sending { queue: None, attempt, now_ms });
        if batch.is_kept {
            connection.cursors.sent(batch, indexes(&range));
        }
    }

    /// Remembers which member of a queue a message went to, so that the next attempt goes to another.
    pub(super) fn note_member(
        &mut self,
        batch: &Batch,
        message: usize,
        (queue, session, attempt): (QueueId, SessionId, u16),
    ) {
        let Some(envelope) = batch.messages.get(message) else { return };
        self.tracker.handle_sent(&Report {
            first: envelope.id,
            messages: 1,
            to: &batch.to,
            recipient: &Recipient::Queue(queue),
            device: None,
            session: Some(session),
            attempt,
            sent_ms: self.shared.clock.now_us() / 1_000,
        });
    }

    fn redeliver_to_queue(
        &mut self,
        batch: &Arc<Batch>,
        range: Range<u16>,
        id: &QueueId,
        (attempt, avoid): (u16, Option<SessionId>),
    ) {
        let targets = self.shared.registry.lock(&batch.to).targets(&batch.to);
        let queue = targets.queues.iter().find(|queue| queue.id == *id);
        for index in range {
            let message = usize::from(index);
            let key =
                batch.messages.get(message).map(|envelope| batch.slice(envelope.key)).unwrap_or_default();
            // The member that failed is asked again when it is the only one; the publisher is not asked.
            let excluded = batch.origin.filter(|_| batch.exclude_origin);
            let member = queue.and_then(|queue| {
                let is_left_out = |session| Some(session) == avoid || Some(session) == excluded;
                queue.choose_but(key, None, is_left_out).or_else(|| queue.choose(key, None, excluded))
            });
            let Some(member) = member else {
                let recipient = Recipient::Queue(id.clone());
                self.answer_unsent(batch, index..index + 1, recipient, (attempt, Cause::Offline));
                continue;
            };
            let (worker, session, in_flight) = (member.worker, member.session, member.begin());
            self.note_member(batch, message, (id.clone(), session, attempt));
            let delivery = QueueDelivery { message, session, queue: id.clone(), attempt, in_flight };
            let entry = Entry::Deliver { batch: batch.clone(), plain: false, queues: vec![delivery] };
            if self.shared.mailboxes.send(worker, entry).is_err() {
                tracing::debug!(worker, "a repeat found no room");
            }
        }
    }

    /// Leaves messages to their address's history, for a recipient who does not get them before the broker stops. They
    /// get positions of their own where they were not stored: a cursor may have passed the ones they had.
    fn keep(&self, batch: &Arc<Batch>, range: Range<u16>) {
        if batch.is_kept {
            return;
        }
        let settings = self.shared.rules.of(&batch.to);
        for alone in indexes(&range).filter_map(|index| batch.message_alone(index)) {
            let mut locked = self.shared.registry.lock(&batch.to);
            let targets = locked.targets(&batch.to);
            let first = locked.take((&batch.to, &targets), 1, (true, None));
            let alone = Arc::new(Batch { first, is_kept: true, ..alone });
            let stored = self.store(&batch.to, written(&alone, settings, None), None);
            drop(locked);
            if stored.is_err() {
                tracing::error!(to = %batch.to, "the journal has no room for a message under way; it is lost");
            }
        }
    }

    /// Keeps messages that were given up for a recipient. Whether they are kept is known, and counted, when the journal answers.
    fn bury(
        &mut self,
        batch: &Arc<Batch>,
        range: Range<u16>,
        recipient: &Recipient,
        (cause, attempts, reason): (Cause, u16, Option<&str>),
    ) {
        let detail = not_delivered(cause, attempts).message;
        let detail = reason.map_or_else(|| detail.clone(), |reason| format!("{detail}: {reason}"));
        let recipient: Arc<str> = recipient.to_string().into();
        let unix_ms = self.shared.clock.now().unix_ms;
        for index in indexes(&range) {
            let Some(alone) = batch.message_alone(index) else { continue };
            let Some(id) = alone.messages.first().map(|envelope| envelope.id) else { continue };
            let letter = DeadLetter {
                id,
                recipient: recipient.to_string(),
                unix_ms,
                cause: cause.as_str().to_owned(),
                attempts,
                detail: detail.clone(),
                batch: Arc::new(alone),
            };
            let asker = Asker::Letter { id, recipient: recipient.clone(), cause };
            let token = self.receipts.insert(Pending::of_store(asker));
            let ticket = Ticket { worker: self.number, token };
            if self.shared.journal.push(Write::DeadLetter(letter), Some(ticket)).is_err() {
                self.handle_reached(token, Err(journal_full()));
            }
        }
    }
}

/// The parts of a delivery that a session has acknowledged already, or not. A message that waited for its user is read
/// from the store when the user comes, and may be acknowledged before its publisher's worker has heard of that.
fn parts(
    connection: &Connection,
    batch: &Batch,
    range: &Range<u16>,
    attempt: u16,
) -> SmallVec<[(Range<u16>, bool); 1]> {
    let is_acked = |index: u16| {
        attempt == 1
            && batch.is_kept
            && connection.cursors.is_acked(&batch.to, batch.position(usize::from(index)))
    };
    let mut parts: SmallVec<[(Range<u16>, bool); 1]> = SmallVec::new();
    for index in range.clone() {
        let is_acked = is_acked(index);
        match parts.last_mut() {
            Some((part, of_part)) if *of_part == is_acked => part.end = index + 1,
            _ => parts.push((index..index + 1, is_acked)),
        }
    }
    parts
}

fn indexes(range: &Range<u16>) -> Range<usize> {
    usize::from(range.start)..usize::from(range.end)
}

fn not_delivered(cause: Cause, attempts: u16) -> Reject {
    let times = if attempts == 1 { "attempt" } else { "attempts" };
    let message = match cause {
        Cause::Stopped => "not acknowledged before the broker left service".to_owned(),
        cause => format!("not delivered after {attempts} {times}: {}", cause.as_str()),
    };
    let code = if cause == Cause::Expired { Code::Expired } else { Code::NotDelivered };
    Reject::new(code, message)
}
