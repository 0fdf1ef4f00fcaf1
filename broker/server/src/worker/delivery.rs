//! From a worker's mailbox to the outbound queues of its connections.

use super::acks;
use super::beside::{self, Asked};
use super::catchup::Start;
use super::connection::Connection;
use super::mailbox::{Entry, QueueDelivery};
use super::segment::{Encoding, Shared, Terms, Told};
use super::{DELIVERED_BYTES_PER_TURN, ENTRIES_PER_TURN, FRAME_OVERHEAD_BYTES, Worker};
use std::sync::Arc;
use waspmq_core::delivery::{Cause, Recipient, Sending};
use waspmq_core::message::Batch;
use waspmq_core::policy::Overflowing;
use waspmq_core::{Address, Level, Position, QueueId};

impl Worker {
    /// Takes a bounded number of entries; true when more may wait.
    pub(super) fn take_mail(&mut self) -> bool {
        let mailboxes = self.shared.mailboxes.clone();
        let mailbox = mailboxes.of(self.number);
        let mut run = std::mem::take(&mut self.run);
        let (mut more, mut bytes) = (true, 0);
        for _ in 0..ENTRIES_PER_TURN {
            if bytes >= DELIVERED_BYTES_PER_TURN {
                break;
            }
            let Some(entry) = mailbox.pop() else {
                more = false;
                break;
            };
            match entry {
                Entry::Deliver { batch, plain, queues } => {
                    bytes += batch.bytes.len() + batch.messages.len() * FRAME_OVERHEAD_BYTES;
                    if plain {
                        self.extend_run(&mut run, batch.clone());
                    }
                    if !queues.is_empty() {
                        // Whoever is a member and a plain subscriber sees both in the order of offsets.
                        self.deliver(&mut run);
                        self.deliver_to_members(&batch, queues);
                    }
                }
                other => {
                    self.deliver(&mut run);
                    bytes += self.obey(other);
                }
            }
        }
        self.deliver(&mut run);
        self.run = run;
        self.settle();
        mailbox.offer_room();
        more
    }

    /// Appends to the run when it has the same recipients, else delivers the run first.
    fn extend_run(&mut self, run: &mut Vec<Arc<Batch>>, batch: Arc<Batch>) {
        let same = |last: &Arc<Batch>| last.to == batch.to && !last.exclude_origin && !batch.exclude_origin;
        if !run.last().is_none_or(same) {
            self.deliver(run);
        }
        run.push(batch);
    }

    /// Delivers batches with the same recipients and empties the run.
    pub(super) fn deliver(&mut self, run: &mut Vec<Arc<Batch>>) {
        let Some(first) = run.first() else { return };
        self.delivery += 1;
        let excluded = first.origin.filter(|_| first.exclude_origin);
        let is_decided = self.policies.has_overflow(first.to.as_str());
        let terms = Terms { is_decided, ..self.terms(run, &first.to) };
        let counters = &self.shared.mailboxes.of(self.number).counters;
        let wants_ack = run.iter().any(|batch| batch.wants_ack());
        let now_us = self.shared.clock.now_us();
        let mut began = Vec::new();
        let dictionaries = &*self.shared.dictionaries.load();
        let Self { recipients, connections, outbox, encoder, encoded, full, policies, this, .. } = self;
        encoder.begin_run();
        for listeners in recipients.of(&first.to) {
            for &number in listeners {
                let Some(connection) = connections.get_mut(number as usize).and_then(Option::as_mut) else {
                    continue;
                };
                if connection.last_delivery == self.delivery
                    || connection.is_closing()
                    || connection.has_id(excluded)
                {
                    continue;
                }
                connection.last_delivery = self.delivery;
                if !connection.catching.is_idle() {
                    let may_be_stored = self.shared.kept.may_have(&first.to);
                    if let Some(dropped) = connection.catching.hold(run, may_be_stored) {
                        if dropped > 0 {
                            outbox.note_dropped(connection, (&first.to, terms.overflow), dropped);
                            counters.dropped_catching_up.add(dropped);
                        }
                        continue;
                    }
                    connection.catching.note_passed(first.first.stream.shard);
                }
                if wants_ack && !acks::has_room(connection, run) {
                    full.push(number);
                    continue;
                }
                let encoding = connection.encoding;
                let (segments, expired) = encoded.of(encoding, |out| {
                    let told = Told { policies, dictionaries, counters };
                    encoder.segments(run, (encoding, terms), told, out)
                });
                if expired > 0 {
                    counters.dropped_expired.add(expired);
                }
                let mut policies = is_decided.then_some(&mut *policies);
                for segment in segments {
                    if beside::send(connection, segment, (outbox, this), (counters, now_us)) {
                        began.extend((!connection.has_beside).then_some(number));
                        connection.has_beside = true;
                    } else if !outbox.push(connection, segment.clone(), policies.as_deref_mut()) {
                        break;
                    }
                }
                if wants_ack {
                    acks::note_sent(connection, run, terms, now_us / 1_000);
                }
            }
        }
        encoded.clear();
        self.note_beside(&began);
        self.handle_losses();
        self.deliver_to_full(run);
        run.clear();
        self.close_slow();
        self.begin_spilled();
    }

    /// Connections that have as much unacknowledged as they may have get what needs no tracking; of the rest the
    /// publisher's worker is told.
    fn deliver_to_full(&mut self, run: &[Arc<Batch>]) {
        while let Some(number) = self.full.pop() {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            if let Some(identity) = connection.identity().cloned() {
                let (tracked, others): (Vec<_>, Vec<_>) =
                    run.iter().cloned().partition(|batch| batch.level == Level::Delivered);
                self.deliver_alone(&mut connection, &others);
                for batch in tracked {
                    let messages = 0..u16::try_from(batch.messages.len()).unwrap_or(u16::MAX);
                    if batch.is_kept {
                        connection.cursors.pass_over(&batch, 0..batch.messages.len());
                    }
                    let recipient = Recipient::User(identity.user.clone());
                    self.answer_unsent(&batch, messages, recipient, (1, Cause::QueueFull));
                }
            }
            self.put_back(number, connection);
        }
    }

    /// Sends live batches of one address to one connection, in addition to what others get.
    pub(super) fn deliver_alone(&mut self, connection: &mut Connection, run: &[Arc<Batch>]) {
        let shared = self.shared.clone();
        let is_own = |batch: &Batch| batch.exclude_origin && connection.has_id(batch.origin);
        let run: Vec<_> = run.iter().filter(|batch| !is_own(batch)).cloned().collect();
        let Some(first) = run.first() else { return };
        if connection.is_closing() {
            return;
        }
        if !connection.catching.is_idle() {
            connection.catching.note_passed(first.first.stream.shard);
        }
        let is_decided = self.policies.has_overflow(first.to.as_str());
        let terms = Terms { is_decided, ..self.terms(&run, &first.to) };
        let (segments, expired) = self.encode_alone(&run, (connection.encoding, terms));
        self.counters().dropped_expired.add(expired);
        for segment in segments {
            if !self.outbox.push(connection, segment, is_decided.then_some(&mut self.policies)) {
                break;
            }
        }
        acks::note_sent(connection, &run, terms, shared.clock.now_us() / 1_000);
        self.handle_losses_of(connection);
    }

    /// Lays out messages of one address for one connection, and says how many of them have expired. None of them
    /// leaves the stream.
    pub(super) fn encode_alone(
        &mut self,
        run: &[Arc<Batch>],
        (encoding, terms): (Encoding, Terms),
    ) -> (Vec<Shared>, u64) {
        let how = (Encoding { beside: Asked::NOTHING, ..encoding }, terms);
        let mut segments = Vec::new();
        let dictionaries = &*self.shared.dictionaries.load();
        let counters = &self.shared.mailboxes.of(self.number).counters;
        let told = Told { policies: &mut self.policies, dictionaries, counters };
        self.encoder.begin_run();
        let expired = self.encoder.segments(run, how, told, &mut segments);
        (segments, expired)
    }

    /// Sessions whose messages were left in the store begin to read them from there.
    pub(super) fn begin_spilled(&mut self) {
        while let Some((number, to, first)) = self.outbox.take_spilled() {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            let before = Position { offset: first.offset.saturating_sub(1), ..first };
            // What went past it in its shard meanwhile is not known here.
            connection.catching.note_passed(first.stream.shard);
            self.catch_up(&mut connection, &to, Start::After(before));
            self.put_back(number, connection);
        }
    }

    /// What holds for batches to an address. The time is read only when one of their messages can expire.
    pub(super) fn terms(&mut self, batches: &[Arc<Batch>], to: &Address) -> Terms {
        let expires = |batch: &Arc<Batch>| batch.messages.iter().any(|message| message.expires_unix_ms != 0);
        let now_unix_ms = if batches.iter().any(expires) { self.shared.clock.now().unix_ms } else { 0 };
        Terms { overflow: self.settled.of(to).overflow, is_decided: false, now_unix_ms }
    }

    fn deliver_to_members(&mut self, batch: &Arc<Batch>, deliveries: Vec<QueueDelivery>) {
        let shared = self.shared.clone();
        let is_decided = self.policies.has_overflow(batch.to.as_str());
        let terms = self.terms(std::slice::from_ref(batch), &batch.to);
        let now_ms = shared.clock.now_us() / 1_000;
        let dictionaries = &*shared.dictionaries.load();
        let counters = &shared.mailboxes.of(self.number).counters;
        for QueueDelivery { message, session, queue, attempt, in_flight } in deliveries {
            let number = self.numbers.get(&session).copied();
            let connection =
                number.and_then(|number| self.connections.get_mut(number as usize)).and_then(Option::as_mut);
            let Some(connection) = connection else {
                drop(in_flight);
                self.choose_again(batch, message, (&queue, attempt));
                continue;
            };
            if batch.messages.get(message).is_some_and(|envelope| terms.has_expired(envelope)) {
                counters.dropped_expired.add(1);
                continue;
            }
            let is_tracked = batch.level == Level::Delivered;
            let index = u16::try_from(message).unwrap_or(u16::MAX);
            if is_tracked && !connection.window.has_room(1, batch.size_bytes()) {
                let recipient = Recipient::Queue(queue);
                self.answer_unsent(batch, index..index + 1, recipient, (attempt, Cause::QueueFull));
                continue;
            }
            connection.catching.note_passed(batch.first.stream.shard);
            let how = ((connection.encoding, terms), Some(in_flight));
            let told = Told { policies: &mut self.policies, dictionaries, counters };
            let segment = self.encoder.queue_segment((batch, message), (&queue, attempt), how, told);
            if let Some(segment) = segment {
                self.outbox.push(connection, segment, is_decided.then_some(&mut self.policies));
            }
            if is_tracked {
                let sending = Sending { queue: Some(&queue), attempt, now_ms };
                connection.window.sent(batch, index..index + 1, sending);
            }
        }
        self.handle_losses();
        self.close_slow();
    }

    /// The chosen member left before it was reached: the message goes to another one, while there is one.
    fn choose_again(&mut self, batch: &Arc<Batch>, message: usize, (id, attempt): (&QueueId, u16)) {
        let targets = self.shared.registry.lock(&batch.to).targets(&batch.to);
        let queue = targets.queues.iter().find(|queue| queue.id == *id);
        let key =
            batch.messages.get(message).map_or_else(Default::default, |envelope| batch.slice(envelope.key));
        let excluded = batch.origin.filter(|_| batch.exclude_origin);
        let Some(member) = queue.and_then(|queue| queue.choose(key, None, excluded)) else {
            if batch.level == Level::Delivered {
                let message = u16::try_from(message).unwrap_or(u16::MAX);
                let recipient = Recipient::Queue(id.clone());
                return self.answer_unsent(batch, message..message + 1, recipient, (attempt, Cause::Offline));
            }
            self.counters().dropped_no_member.add(1);
            return;
        };
        let (session, in_flight) = (member.session, member.begin());
        let delivery = QueueDelivery { message, session, queue: id.clone(), attempt, in_flight };
        let entry = Entry::Deliver { batch: batch.clone(), plain: false, queues: vec![delivery] };
        if self.shared.mailboxes.send(member.worker, entry).is_err() {
            self.counters().dropped_no_member.add(1);
        }
    }
}

/// The segments of the run at hand, per encoding, made when the first connection asks.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// Those of this run are the first `used`; the rest keeps its memory.
    laid_out: Vec<LaidOut>,
    used: usize,
}

#[derive(Debug)]
struct LaidOut {
    encoding: Encoding,
    segments: Vec<Shared>,
    /// Messages left out because they have expired.
    expired: u64,
}

impl Encoded {
    /// The segments, made by `encode` when they are not there, and the number of messages left out.
    fn of(&mut self, encoding: Encoding, encode: impl FnOnce(&mut Vec<Shared>) -> u64) -> (&[Shared], u64) {
        let known = self.laid_out.iter().take(self.used).position(|laid_out| laid_out.encoding == encoding);
        let index = known.unwrap_or(self.used);
        if known.is_none() {
            if self.used == self.laid_out.len() {
                self.laid_out.push(LaidOut { encoding, segments: Vec::new(), expired: 0 });
            }
            if let Some(laid_out) = self.laid_out.get_mut(index) {
                laid_out.encoding = encoding;
                laid_out.expired = encode(&mut laid_out.segments);
            }
            self.used += 1;
        }
        self.laid_out.get(index).map_or((&[], 0), |laid_out| (laid_out.segments.as_slice(), laid_out.expired))
    }

    fn clear(&mut self) {
        self.laid_out.iter_mut().take(self.used).for_each(|laid_out| laid_out.segments.clear());
        self.used = 0;
    }
}

#[cfg(test)]
pub(super) mod tests;
