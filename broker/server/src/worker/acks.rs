//! The recipients' side of a tracked delivery: what a session was sent, acknowledged or refused.
//!
//! Answers go to the worker that published, which is part of the message's id: one mailbox entry per worker and
//! turn, or by hand when it is this one. Neither happens while a connection is worked on, because what follows
//! may be for that connection. An answer that finds no room is lost; the tracker's timeout then delivers again,
//! and the repeat is acknowledged.

use super::Worker;
use super::connection::Connection;
use super::counters::Ended;
use super::mailbox::Entry;
use super::outbox::end_of;
use super::queues::{Done, Told};
use super::segment::{Shared, Terms};
use hashbrown::HashMap;
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use waspmq_core::delivery::{Acked, Cause, Failed, Recipient, Report, Sending, Turn, Window};
use waspmq_core::message::Batch;
use waspmq_core::outbound::Segment as _;
use waspmq_core::registry;
use waspmq_core::{Address, Code, Kind, Level, MessageId, Name, Reject, SessionId, limits};
use waspmq_protocol::client::Acked as Ack;
use waspmq_store::Write;

/// What a session did with consecutive messages of one batch.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) first: MessageId,
    pub(crate) messages: u16,
    pub(crate) to: Address,
    pub(crate) recipient: Recipient,
    pub(crate) device: Option<Name>,
    pub(crate) session: Option<SessionId>,
    pub(crate) attempt: u16,
    pub(crate) sent_ms: u64,
    /// `None` is an ack.
    pub(crate) failed: Option<Failed>,
}

/// Answers that are on their way, by worker.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: HashMap<u8, Vec<Answer>>,
    /// For this worker itself.
    own: Vec<Answer>,
    scratch: Vec<Acked>,
}

#[cfg(test)]
impl Answers {
    /// For tests without a publisher.
    pub(super) fn take_own(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.own)
    }
}

/// Connections whose cursors have moved since they were saved. Saved together a moment later: a broker that is killed
/// repeats what was acknowledged in that moment, which is less than clients remember to drop.
#[derive(Debug, Default)]
pub(super) struct Moved {
    numbers: Vec<u32>,
    pub(super) wake: Rc<Notify>,
}

impl Worker {
    /// Takes an `ack` frame. What is not in flight to the session is counted, and told where the frame asks to
    /// be answered.
    pub(super) fn take_ack(
        &mut self,
        connection: &mut Connection,
        what: Ack<'_>,
        queue: Option<&str>,
    ) -> Result<(), Reject> {
        let queue = queue.map(super::inbound::name).transpose()?;
        let mut acked = std::mem::take(&mut self.answers.scratch);
        let missing = match &what {
            Ack::Ids(ids) => {
                let missing = |id: &&MessageId| {
                    let tracked = connection.window.ack_ids(&[**id], queue.as_ref(), &mut acked) == 0;
                    let stored = queue.is_none() && connection.cursors.ack_id(**id);
                    !tracked && !stored
                };
                ids.iter().filter(missing).count()
            }
            Ack::UpTo { to, upto } => {
                let to = Address::parse(to)?;
                let tracked = connection.window.ack_upto(&to, *upto, &mut acked).is_ok();
                let stored = connection.cursors.ack_upto(&to, *upto).is_ok();
                // Messages of an address may be of both kinds: the ack names one, and is about all before it.
                match (tracked, stored) {
                    (false, true) => connection.window.ack_before(&to, *upto, &mut acked),
                    (true, false) => connection.cursors.ack_before(&to, *upto),
                    _ => {}
                }
                usize::from(!tracked && !stored)
            }
        };
        if let Some(identity) = connection.session.identity() {
            for taken in acked.drain(..) {
                self.answer_taken(identity, taken, None);
            }
        }
        self.answers.scratch = acked;
        self.note_moved(connection);
        self.read_behind_window(connection);
        if missing == 0 {
            return Ok(());
        }
        self.counters().acks_not_in_flight.add(missing as u64);
        Err(Reject::new(
            Code::NotInFlight,
            format!("{missing} of the acknowledged messages are not in flight here"),
        ))
    }

    /// Takes a `nack` frame.
    pub(super) fn take_nack(
        &mut self,
        connection: &mut Connection,
        (id, queue): (MessageId, Option<&str>),
        (retry_ms, reason): (Option<u64>, Option<&str>),
    ) -> Result<(), Reject> {
        let queue = queue.map(super::inbound::name).transpose()?;
        let mut refused = std::mem::take(&mut self.answers.scratch);
        if !connection.window.nack(id, queue.as_ref(), &mut refused) {
            self.answers.scratch = refused;
            // Nothing repeats what is only stored: the cursor stays before it, so that the device's next session
            // is sent it again.
            if queue.is_none() && connection.cursors.nack(id) {
                return Ok(());
            }
            self.counters().acks_not_in_flight.add(1);
            return Err(Reject::new(Code::NotInFlight, format!("message {id} is not in flight here")));
        }
        let retry_ms = retry_ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
        let reason = reason.filter(|reason| !reason.is_empty()).map(|reason| {
            let end = reason.floor_char_boundary(limits::NACK_REASON_BYTES_MAX);
            Arc::from(reason.get(..end).unwrap_or_default())
        });
        let failed = Failed { cause: Cause::Nack, retry_ms, reason };
        if let Some(identity) = connection.session.identity() {
            for taken in refused.drain(..) {
                self.answer_taken(identity, taken, Some(failed.clone()));
            }
        }
        self.answers.scratch = refused;
        Ok(())
    }

    /// Everything in flight to a session whose connection ended.
    pub(super) fn fail_in_flight(&mut self, identity: &registry::Session, connection: &mut Connection) {
        let in_flight = connection.window.drain();
        // Of a broker that leaves service that is no attempt: its publishers' workers end the deliveries as stopped, and
        // what is a queue's is given out again by the next broker.
        if end_of(connection) == Ended::Drained {
            return;
        }
        let lost = Failed::by(Cause::ConnectionLost);
        for taken in in_flight {
            self.answer_taken(identity, taken, Some(lost.clone()));
        }
    }

    /// What the outbound queues dropped is not in flight: no ack covers it, and no cursor passes it but where nobody needs
    /// it any more.
    pub(super) fn handle_losses(&mut self) {
        for (number, segment, cause) in self.outbox.take_losses() {
            if let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) {
                self.handle_loss(&mut connection, (&segment, cause));
                self.put_back(number, connection);
            }
        }
    }

    /// The same for a connection that is worked on, when nothing was queued for others meanwhile.
    pub(super) fn handle_losses_of(&mut self, connection: &mut Connection) {
        for (_, segment, cause) in self.outbox.take_losses() {
            self.handle_loss(connection, (&segment, cause));
        }
    }

    fn handle_loss(&mut self, connection: &mut Connection, (segment, cause): (&Shared, Cause)) {
        let mut lost = std::mem::take(&mut self.answers.scratch);
        let class = segment.class();
        if class.of_queue {
            let in_flight = segment.segment().of_queue();
            lost.extend(
                in_flight.and_then(|(queue, id)| connection.window.lose_of_queue(*id, queue, &class.to)),
            );
        } else {
            connection.window.lose(&class.to, class.first, class.last_offset, &mut lost);
            if cause == Cause::Expired {
                connection.cursors.pass(&class.to, class.first, class.last_offset);
                self.note_moved(connection);
            } else {
                connection.cursors.lose(&class.to, class.first, class.last_offset);
            }
        }
        if let Some(identity) = connection.session.identity() {
            for taken in lost.drain(..) {
                self.answer_taken(identity, taken, Some(Failed::by(cause)));
            }
        }
        lost.clear();
        self.answers.scratch = lost;
    }

    /// Tells the publisher's worker, or the queue's home, about messages that left a window.
    fn answer_taken(&mut self, identity: &registry::Session, taken: Acked, failed: Option<Failed>) {
        let recipient = match &taken.queue {
            Some(queue) => Recipient::Queue(queue.clone()),
            None => Recipient::User(identity.user.clone()),
        };
        let Some(first) = taken.first() else { return };
        if let Some(queue) = taken.queue.as_ref().filter(|_| taken.batch.is_kept) {
            let done =
                Done::new(queue, &taken.batch, &taken.range).by(identity.id, taken.attempt, failed.clone());
            self.tell_home(Told::Done(done));
            if taken.batch.level < Level::Delivered {
                return;
            }
        }
        let (messages, to) = (taken.messages(), taken.batch.to.clone());
        let (attempt, sent_ms) = (taken.attempt, taken.sent_ms);
        let (device, session) = (identity.device.clone(), Some(identity.id));
        self.answer(Answer { first, messages, to, recipient, device, session, attempt, sent_ms, failed });
    }

    /// Messages that a session has acknowledged before their publisher had them sent there: it read them from the store.
    pub(super) fn answer_read(&mut self, connection: &Connection, batch: &Batch, range: Range<u16>) {
        let (Some(identity), Some(first)) =
            (connection.identity(), batch.messages.get(usize::from(range.start)))
        else {
            return;
        };
        self.answer(Answer {
            first: first.id,
            messages: range.end - range.start,
            to: batch.to.clone(),
            recipient: Recipient::User(identity.user.clone()),
            device: identity.device.clone(),
            session: Some(identity.id),
            attempt: 1,
            sent_ms: self.shared.clock.now_us() / 1_000,
            failed: None,
        });
    }

    /// A batch, or a part of it, that could not be sent to a recipient.
    pub(super) fn answer_unsent(
        &mut self,
        batch: &Batch,
        range: Range<u16>,
        recipient: Recipient,
        (attempt, cause): (u16, Cause),
    ) {
        let Some(first) = batch.messages.get(usize::from(range.start)) else { return };
        let failed = Some(Failed::by(cause));
        self.answer(Answer {
            first: first.id,
            messages: range.end - range.start,
            to: batch.to.clone(),
            recipient,
            device: None,
            session: None,
            attempt,
            sent_ms: self.shared.clock.now_us() / 1_000,
            failed,
        });
    }

    fn answer(&mut self, answer: Answer) {
        // Messages of an earlier run have no flight; reading them from the store was the retry.
        if answer.first.epoch() != self.shared.registry.epoch() {
            return;
        }
        if answer.first.worker() == self.number {
            self.answers.own.push(answer);
        } else {
            self.answers.waiting.entry(answer.first.worker()).or_default().push(answer);
        }
    }

    /// Carries out what was collected while connections were worked on. Every task of the worker ends its turn
    /// with this, when all connections are in their places.
    pub(super) fn settle(&mut self) {
        debug_assert!(self.open.is_none(), "a batch is finished by the connection that filled it");
        self.close_slow();
        while !self.answers.own.is_empty() || !self.events.is_empty() {
            for answer in std::mem::take(&mut self.answers.own) {
                self.handle_answer(&answer);
            }
            self.handle_events();
            self.close_slow();
        }
        self.begin_spilled();
        self.keep_ledgers();
        self.count_tracked();
        self.send_answers();
        self.pump_queues();
        self.send_told();
    }

    fn send_answers(&mut self) {
        let shared = self.shared.clone();
        for (&worker, answers) in &mut self.answers.waiting {
            if !answers.is_empty()
                && usize::from(worker) < shared.mailboxes.len()
                && shared.mailboxes.send(worker, Entry::Answers(std::mem::take(answers))).is_err()
            {
                tracing::warn!(worker, "acknowledgements found no room; their messages are delivered again");
            }
        }
    }

    /// Takes what another worker's session, or one of this worker, did with messages that were published here.
    pub(super) fn handle_answer(&mut self, answer: &Answer) {
        let now_ms = self.shared.clock.now_us() / 1_000;
        let report = Report {
            first: answer.first,
            messages: answer.messages,
            to: &answer.to,
            recipient: &answer.recipient,
            device: answer.device.as_ref(),
            session: answer.session,
            attempt: answer.attempt,
            sent_ms: answer.sent_ms,
        };
        let Self { tracker, policies, events, .. } = self;
        match answer.failed {
            None => {
                tracker.handle_acked(&report, now_ms, events);
                let waited_us = now_ms.saturating_sub(answer.sent_ms) * 1_000;
                self.counters().ack_latency.observe(waited_us, u64::from(answer.messages));
            }
            Some(ref failed) => {
                let failed = failed.clone();
                tracker.handle_failed(&report, failed, &mut Turn { now_ms, acking: policies, out: events });
                // The next attempt may be due before anything that was waited for.
                self.timers.notify_one();
            }
        }
    }

    /// Remembers to save the cursors of a connection.
    fn note_moved(&mut self, connection: &mut Connection) {
        if !connection.cursors.is_moved() || std::mem::replace(&mut connection.is_moved, true) {
            return;
        }
        self.moved.numbers.push(connection.number);
        self.moved.wake.notify_one();
    }

    /// Saves the cursors of all connections that are remembered, and of queues.
    pub(super) fn save_moved(&mut self) {
        self.save_queues();
        for number in std::mem::take(&mut self.moved.numbers) {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            connection.is_moved = false;
            if let Some(identity) = connection.identity().cloned() {
                self.save_cursors(&identity, &mut connection);
            }
            self.put_back(number, connection);
        }
    }

    /// Hands the cursors that moved to the journal; without room there, a moment later while the session lasts.
    pub(super) fn save_cursors(&mut self, identity: &registry::Session, connection: &mut Connection) {
        if connection.session.identity().is_some() && !self.shared.journal.has_room() {
            return self.note_moved(connection);
        }
        let mut unsaved = Vec::new();
        for (address, position) in connection.cursors.take_moved() {
            // Nobody begins to read a topic at a cursor.
            if address.kind() == Kind::Topic {
                continue;
            }
            let write = Write::Cursor {
                user: identity.user.clone(),
                device: identity.device.clone(),
                address: address.clone(),
                position,
            };
            if self.shared.journal.push(write, None).is_err() {
                tracing::debug!(%address, "the journal has no room for a cursor");
                unsaved.push(address);
            }
        }
        // Saved with the next ones; when the broker ends before, the messages are sent again, as repeats.
        if !unsaved.is_empty() {
            connection.cursors.keep_moved(unsaved);
            self.note_moved(connection);
        }
    }
}

/// Whether a session may be sent what of a run is tracked.
pub(super) fn has_room(connection: &Connection, run: &[Arc<Batch>]) -> bool {
    let tracked = run.iter().filter(|batch| batch.level == Level::Delivered);
    let (messages, bytes) = tracked.fold((0, 0), |(messages, bytes), batch| {
        (messages + batch.messages.len(), bytes + batch.size_bytes())
    });
    messages == 0 || connection.window.has_room(messages, bytes)
}

/// How many of these batches, which were read for a session, may be sent to it.
pub(super) fn fits(window: &Window, run: &[Arc<Batch>]) -> usize {
    let tracked = |batch: &Arc<Batch>| match batch.level {
        Level::Delivered => (batch.messages.len(), batch.size_bytes()),
        _ => (0, 0),
    };
    window.fits(run.iter().map(tracked))
}

/// Notes that batches are on their way to a connection, but for their messages that were left out because they have
/// expired.
pub(super) fn note_sent(connection: &mut Connection, run: &[Arc<Batch>], terms: Terms, now_ms: u64) {
    for batch in run {
        for range in laid_out(batch, terms) {
            if batch.is_kept {
                connection.cursors.sent(batch, usize::from(range.start)..usize::from(range.end));
            }
            // What was held back while an address was read may find no place in the window; then it is a repeat's turn to
            // be acknowledged.
            if batch.level == Level::Delivered && connection.window.has_room(range.len(), batch.size_bytes())
            {
                connection.window.sent(batch, range, Sending { queue: None, attempt: 1, now_ms });
            }
        }
    }
}

/// The messages of a batch that have not expired.
fn laid_out(batch: &Batch, terms: Terms) -> SmallVec<[Range<u16>; 1]> {
    if terms.now_unix_ms == 0 {
        return smallvec![0..u16::try_from(batch.messages.len()).unwrap_or(u16::MAX)];
    }
    let mut ranges: SmallVec<[Range<u16>; 1]> = SmallVec::new();
    for (index, envelope) in (0..).zip(&batch.messages) {
        match ranges.last_mut() {
            _ if terms.has_expired(envelope) => {}
            Some(last) if last.end == index => last.end += 1,
            _ => ranges.push(index..index + 1),
        }
    }
    ranges
}
