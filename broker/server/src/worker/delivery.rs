//! From a worker's mailbox to the outbound queues of its connections.

use super::mailbox::{Entry, QueueDelivery};
use super::segment::{Encoding, Shared};
use super::{DELIVERED_BYTES_PER_TURN, ENTRIES_PER_TURN, FRAME_OVERHEAD_BYTES, Worker};
use std::sync::Arc;
use waspmq_core::Name;
use waspmq_core::message::Batch;
use waspmq_core::registry::Change;

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
                    self.obey(other);
                }
            }
        }
        self.deliver(&mut run);
        self.run = run;
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
    fn deliver(&mut self, run: &mut Vec<Arc<Batch>>) {
        let Some(first) = run.first() else { return };
        self.delivery += 1;
        let excluded = first.origin.filter(|_| first.exclude_origin);
        let Self { recipients, connections, outbox, encoder, encoded, .. } = self;
        for listeners in recipients.of(&first.to) {
            for &number in listeners {
                let Some(connection) = connections.get_mut(number as usize).and_then(Option::as_mut) else {
                    continue;
                };
                if connection.last_delivery == self.delivery
                    || connection.is_closing()
                    || excluded.is_some() && connection.session_id == excluded
                {
                    continue;
                }
                connection.last_delivery = self.delivery;
                for segment in
                    encoded.of(connection.encoding, |out| encoder.segments(run, connection.encoding, out))
                {
                    outbox.push(connection, segment.clone());
                }
            }
        }
        encoded.clear();
        run.clear();
    }

    fn deliver_to_members(&mut self, batch: &Arc<Batch>, deliveries: Vec<QueueDelivery>) {
        for QueueDelivery { message, session, queue, in_flight } in deliveries {
            let number = self.numbers.get(&session).copied();
            let connection =
                number.and_then(|number| self.connections.get_mut(number as usize)).and_then(Option::as_mut);
            let Some(connection) = connection else {
                drop(in_flight);
                self.choose_again(batch, message, &queue);
                continue;
            };
            let segment =
                self.encoder.queue_segment((batch, message), queue.as_str(), connection.encoding, in_flight);
            if let Some(segment) = segment {
                self.outbox.push(connection, segment);
            }
        }
    }

    /// The chosen member left before it was reached: the message goes to another one, while there is one.
    fn choose_again(&self, batch: &Arc<Batch>, message: usize, name: &Name) {
        let targets = self.shared.registry.lock(&batch.to).targets(&batch.to);
        let queue = targets.queues.iter().find(|queue| queue.name == *name);
        let key =
            batch.messages.get(message).map_or_else(Default::default, |envelope| batch.slice(envelope.key));
        let excluded = batch.origin.filter(|_| batch.exclude_origin);
        let Some(member) = queue.and_then(|queue| queue.choose(key, None, excluded)) else {
            self.counters().dropped_no_member.add(1);
            return;
        };
        let (session, in_flight) = (member.session, member.begin());
        let delivery = QueueDelivery { message, session, queue: name.clone(), in_flight };
        let entry = Entry::Deliver { batch: batch.clone(), plain: false, queues: vec![delivery] };
        if self.shared.mailboxes.send(member.worker, entry).is_err() {
            self.counters().dropped_no_member.add(1);
        }
    }

    /// Carries out an entry that is no delivery.
    fn obey(&mut self, entry: Entry) {
        match entry {
            Entry::Deliver { .. } => {}
            Entry::Change(Change { session, address, attach }) => {
                let Some(&number) = self.numbers.get(&session) else { return };
                let Some(Some(connection)) = self.connections.get_mut(number as usize) else { return };
                if attach {
                    self.recipients.attach(&address, number);
                    connection.groups.push(address);
                } else {
                    self.recipients.detach(&address, number);
                    connection.groups.retain(|group| *group != address);
                }
            }
            Entry::Close { session, close } => {
                if let Some(&number) = self.numbers.get(&session) {
                    self.close_number(number, close);
                }
            }
            Entry::Publish { publication, answer } => {
                let published = self.publish_for_operator(&publication);
                if answer.send(published).is_err() {
                    tracing::debug!("an operator's publish ended after its caller");
                }
            }
            Entry::Drain { spread_ms } => self.begin_drain(spread_ms),
        }
    }
}

/// The segments of the run at hand, per encoding, made when the first connection asks.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    segments: [Vec<Shared>; Encoding::COUNT],
}

impl Encoded {
    fn of(&mut self, encoding: Encoding, encode: impl FnOnce(&mut Vec<Shared>)) -> &[Shared] {
        let Some(segments) = self.segments.get_mut(encoding.index()) else { return &[] };
        if segments.is_empty() {
            encode(segments);
        }
        segments
    }

    fn clear(&mut self) {
        for segments in &mut self.segments {
            segments.clear();
        }
    }
}
