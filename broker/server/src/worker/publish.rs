//! Publishing: plans become batches, batches get their positions and go to the workers that have recipients.
//!
//! Order of doing, here and nowhere else: address, plan (core), batch, dedup, targets, room, offset, hand-off,
//! receipt. Consecutive messages of one session to one address share a batch and one look-up.

use super::Worker;
use super::batch::{OpenBatch, Source, single};
use super::connection::Connection;
use super::counters::{ByKind, Published as Counts};
use super::mailbox::{Entry, QueueDelivery};
use crate::clock::Moment;
use crate::control::{Publication, Published};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::Arc;
use waspmq_core::dedup::{Begin, Remembered, scoped_key};
use waspmq_core::message::Batch;
use waspmq_core::publish::{self, Destination, Plan, Request};
use waspmq_core::registry::{Locked, Pick, Targets, WorkerSet};
use waspmq_core::{Address, Code, MessageId, Name, Reject};
use waspmq_protocol::client::Publish;
use waspmq_protocol::{Content, Level, server};

impl Worker {
    /// Takes one message of the connection at hand.
    pub(super) fn handle_publish(&mut self, connection: &mut Connection, publish: &Publish<'_>, now: Moment) {
        let known = connection.last_to.take().filter(|last| *last.as_str() == *publish.to);
        let refused = match known.map_or_else(|| Address::parse(&publish.to), Ok) {
            Ok(to) => {
                let done = self.publish_to(connection, (&to, publish), now);
                connection.last_to = Some(to);
                done.err()
            }
            Err(error) => Some(error.into()),
        };
        if let Some(reject) = refused {
            self.finish_batch(connection);
            self.refuse_publish(connection, publish.reference, &publish.to, reject);
        }
    }

    fn publish_to(
        &mut self,
        connection: &mut Connection,
        (to, publish): (&Address, &Publish<'_>),
        now: Moment,
    ) -> Result<(), Reject> {
        let request = Request {
            to,
            payload: &publish.payload,
            is_json: publish.content == Content::Json,
            headers: &publish.headers,
            key: publish.key.as_deref().unwrap_or_default(),
            reply_to: publish.reply_to.as_deref().unwrap_or_default(),
            priority: publish.priority,
            above_accepted: matches!(publish.ack, Level::Stored | Level::Delivered),
            delay_ms: publish.delay_ms,
            unix_ms: now.unix_ms,
            now_us: now.us,
        };
        let plan = publish::plan(&mut connection.session, &request, &mut self.routing)?;
        match &plan.destination {
            Destination::AsAddressed(pick) if publish.dedup.is_none() => {
                self.append(connection, (to, publish), (&plan, *pick), now)
            }
            _ => {
                self.finish_batch(connection);
                let identity = connection.session.identity().cloned();
                let source = Source::of(connection, identity.as_ref(), publish.exclude_self, now);
                let published = self.publish_alone(to, &plan, publish, source)?;
                if let Some(reference) = wanted_reference(publish) {
                    let receipt = receipt(reference, published.id, published.recipients);
                    self.send_receipts(connection, [receipt]);
                }
                Ok(())
            }
        }
    }

    /// Puts a message into the open batch, or into a new one when its address differs.
    fn append(
        &mut self,
        connection: &mut Connection,
        (to, publish): (&Address, &Publish<'_>),
        (plan, pick): (&Plan, Option<Pick>),
        now: Moment,
    ) -> Result<(), Reject> {
        if !self.open.as_ref().is_some_and(|open| open.takes(to, publish.exclude_self)) {
            self.finish_batch(connection);
            let source = Source::of(connection, connection.session.identity(), publish.exclude_self, now);
            self.open = Some(OpenBatch::new(to.clone(), source));
        }
        let id = self.next_message_id(now);
        let Some(open) = &mut self.open else { return Ok(()) };
        open.push(id, publish, plan.headers.as_deref())?;
        let index = open.batch.messages.len() - 1;
        if pick.is_some() {
            open.picks.resize(index, None);
            open.picks.push(pick);
        }
        match wanted_reference(publish) {
            Some(reference) => open.receipts.push((reference, index)),
            None => open.unanswered += 1,
        }
        Ok(())
    }

    /// A message that is not batched: it has a dedup key, or a policy gave it other addresses.
    fn publish_alone(
        &mut self,
        to: &Address,
        plan: &Plan,
        publish: &Publish<'_>,
        source: Source<'_>,
    ) -> Result<Published, Reject> {
        let id = self.next_message_id(source.now);
        let recipients = match &publish.dedup {
            None => self.publish_everywhere(to, plan, (id, publish), source)?,
            Some(key) => {
                let key = scoped_key(source.from.map_or("", Name::as_str), to.as_str(), key);
                match self.publish_once(to, plan, (id, publish, &key), source)? {
                    Once::Sent(recipients) => recipients,
                    Once::Before(published) => {
                        self.counters().published.duplicate.of(to.kind()).add(1);
                        return Ok(published);
                    }
                }
            }
        };
        self.counters().published.accepted.of(to.kind()).add(1);
        Ok(Published { id, recipients })
    }

    /// Publishes unless a message with this key was published before. One lock lasts from the question to the
    /// answer, except where a policy gave other addresses, whose locks are taken in between.
    fn publish_once(
        &self,
        to: &Address,
        plan: &Plan,
        (id, publish, key): (MessageId, &Publish<'_>, &str),
        source: Source<'_>,
    ) -> Result<Once, Reject> {
        let mut locked = self.shared.registry.lock(to);
        match locked.dedup().begin(key, id, source.now.us / 1_000) {
            Begin::First { .. } => {}
            Begin::Done(Remembered { id, recipients }) => {
                return Ok(Once::Before(Published { id, recipients }));
            }
            Begin::UnderWay => {
                let message = "the first publish with this dedup key is still under way";
                return Err(Reject::new(Code::Overloaded, message).retry_after(20));
            }
        }
        let sent = match &plan.destination {
            Destination::AsAddressed(pick) => single(to, plan, (id, publish), source)
                .and_then(|batch| self.enqueue_locked(&mut locked, batch, &[*pick])),
            Destination::Instead(_) => {
                drop(locked);
                let recipients = self.publish_everywhere(to, plan, (id, publish), source);
                locked = self.shared.registry.lock(to);
                recipients.map(|recipients| (WorkerSet::default(), recipients))
            }
        };
        match &sent {
            Ok((_, recipients)) => locked.dedup().finish(key, Remembered { id, recipients: *recipients }),
            Err(_) => locked.dedup().forget(key),
        }
        drop(locked);
        let (workers, recipients) = sent?;
        self.wake(workers);
        Ok(Once::Sent(recipients))
    }

    /// Publishes one message to each address of its plan. It is accepted when one address accepts it, because
    /// a second try would repeat it there; the others are counted as overloaded.
    fn publish_everywhere(
        &self,
        to: &Address,
        plan: &Plan,
        (id, publish): (MessageId, &Publish<'_>),
        source: Source<'_>,
    ) -> Result<u32, Reject> {
        let (pick, addresses) = match &plan.destination {
            Destination::AsAddressed(pick) => (*pick, std::slice::from_ref(to)),
            Destination::Instead(addresses) => (None, addresses.as_slice()),
        };
        let (mut recipients, mut accepted, mut refused) = (0_u32, false, None);
        for address in addresses {
            match self.enqueue(single(address, plan, (id, publish), source)?, &[pick]) {
                Ok(more) => (accepted, recipients) = (true, recipients.saturating_add(more)),
                Err(reject) => refused = Some((address, reject)),
            }
        }
        match refused {
            Some((_, reject)) if !accepted => Err(reject),
            Some((address, _)) => {
                self.counters().published.overloaded.of(address.kind()).add(1);
                Ok(recipients)
            }
            None => Ok(recipients),
        }
    }

    /// Sends the open batch on its way and answers its publishers.
    pub(super) fn finish_batch(&mut self, connection: &mut Connection) {
        let Some(OpenBatch { batch, picks, receipts, unanswered }) = self.open.take() else { return };
        let (to, count) = (batch.to.clone(), batch.messages.len() as u64);
        if count == 0 {
            return;
        }
        let ids: SmallVec<[_; 8]> = receipts
            .iter()
            .filter_map(|&(reference, index)| Some((reference, batch.messages.get(index)?.id)))
            .collect();
        match self.enqueue(batch, &picks) {
            Ok(recipients) => {
                self.counters().published.accepted.of(to.kind()).add(count);
                let receipts = ids.into_iter().map(|(reference, id)| receipt(reference, id, recipients));
                self.send_receipts(connection, receipts);
            }
            Err(reject) => {
                for (reference, _) in ids {
                    self.refuse_publish(connection, Some(reference), to.as_str(), reject.clone());
                }
                if unanswered > 0 {
                    // One answer for all messages that nobody asked to hear about, so that the publisher slows down.
                    self.refuse_publish(connection, None, to.as_str(), reject);
                    self.counters().published.overloaded.of(to.kind()).add(unanswered - 1);
                }
            }
        }
    }

    /// Publishes for the admin API.
    pub(super) fn publish_for_operator(&mut self, publication: &Publication) -> Result<Published, Reject> {
        let now = self.shared.clock.now();
        let headers: Vec<_> = publication
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect();
        let request = Request {
            to: &publication.to,
            payload: &publication.payload,
            is_json: publication.is_json,
            headers: &headers,
            key: &publication.key,
            reply_to: "",
            priority: publication.priority,
            above_accepted: false,
            delay_ms: 0,
            unix_ms: now.unix_ms,
            now_us: now.us,
        };
        let plan = publish::plan_for_operator(&request, &mut self.routing)
            .inspect_err(|reject| self.count_refused(&publication.to, reject))?;
        let content = if publication.is_json { Content::Json } else { Content::Bytes };
        let mut publish = Publish::new(publication.to.as_str(), content, publication.payload.as_slice());
        publish.headers = headers;
        publish.key = Some(publication.key.as_str().into()).filter(|_| !publication.key.is_empty());
        publish.priority = publication.priority;
        let source = Source { from: None, origin: None, exclude_origin: false, now };
        self.publish_alone(&publication.to, &plan, &publish, source)
    }

    /// Gives a batch its positions and hands it to every worker with recipients. Gives the recipients of one message.
    fn enqueue(&self, batch: Batch, picks: &[Option<Pick>]) -> Result<u32, Reject> {
        let to = batch.to.clone();
        let mut locked = self.shared.registry.lock(&to);
        let (workers, recipients) = self.enqueue_locked(&mut locked, batch, picks)?;
        drop(locked);
        self.wake(workers);
        Ok(recipients)
    }

    /// The part of [`Self::enqueue`] under the lock. The workers are to be woken when it is released.
    fn enqueue_locked(
        &self,
        locked: &mut Locked<'_>,
        mut batch: Batch,
        picks: &[Option<Pick>],
    ) -> Result<(WorkerSet, u32), Reject> {
        let mailboxes = &self.shared.mailboxes;
        let targets = locked.targets(&batch.to);
        let mut queues = self.choose_members(&batch, picks, &targets);
        let mut workers = targets.workers;
        queues.keys().for_each(|&worker| workers.insert(worker));
        if workers.iter().any(|worker| !mailboxes.of(worker).takes_publishes()) {
            let message = "the broker has no room for the message right now";
            return Err(Reject::new(Code::Overloaded, message).retry_after(100));
        }
        batch.first = locked.take(batch.messages.len());
        let batch = Arc::new(batch);
        for worker in workers.iter() {
            let entry = Entry::Deliver {
                batch: batch.clone(),
                plain: targets.workers.contains(worker),
                queues: queues.remove(&worker).unwrap_or_default(),
            };
            if mailboxes.of(worker).push(entry).is_err() {
                tracing::error!(worker, "a batch found no room after room was promised");
            }
        }
        let queue_count = u32::try_from(targets.queues.len()).unwrap_or(u32::MAX);
        Ok((workers, targets.recipients.saturating_add(queue_count)))
    }

    fn wake(&self, workers: WorkerSet) {
        workers.iter().for_each(|worker| self.shared.mailboxes.of(worker).wake());
    }

    /// One member of each queue for each message, by worker.
    fn choose_members(
        &self,
        batch: &Batch,
        picks: &[Option<Pick>],
        targets: &Targets,
    ) -> HashMap<u8, Vec<QueueDelivery>> {
        let mut chosen: HashMap<u8, Vec<QueueDelivery>> = HashMap::new();
        let excluded = batch.origin.filter(|_| batch.exclude_origin);
        for queue in &targets.queues {
            for (message, envelope) in batch.messages.iter().enumerate() {
                let pick = picks.get(message).copied().flatten();
                let Some(member) = queue.choose(batch.slice(envelope.key), pick, excluded) else {
                    self.counters().dropped_no_member.add(1);
                    continue;
                };
                chosen.entry(member.worker).or_default().push(QueueDelivery {
                    message,
                    session: member.session,
                    queue: queue.name.clone(),
                    in_flight: member.begin(),
                });
            }
        }
        chosen
    }

    /// The workers whose mailboxes are so full that this worker's publishers should wait.
    pub(super) fn busy_workers(&self) -> WorkerSet {
        let mut busy = WorkerSet::default();
        for (worker, mailbox) in (0..).zip(self.shared.mailboxes.iter()) {
            if mailbox.is_busy() {
                busy.insert(worker);
            }
        }
        busy
    }

    fn refuse_publish(
        &mut self,
        connection: &mut Connection,
        reference: Option<u64>,
        to: &str,
        reject: Reject,
    ) {
        if let Ok(to) = Address::parse(to) {
            self.count_refused(&to, &reject);
        }
        self.refuse(connection, reference, reject);
    }

    fn count_refused(&self, to: &Address, reject: &Reject) {
        let published: &Counts = &self.counters().published;
        let by_kind: &ByKind = match reject.code {
            Code::DroppedByPolicy => &published.dropped_by_policy,
            Code::PolicyFailed => &published.policy_failed,
            Code::Overloaded => &published.overloaded,
            _ => &published.rejected,
        };
        by_kind.of(to.kind()).add(1);
    }

    fn next_message_id(&mut self, now: Moment) -> MessageId {
        self.message_count += 1;
        MessageId::new(now.unix_ms, self.shared.registry.epoch(), self.number, self.message_count)
    }

    fn send_receipts(
        &mut self,
        connection: &mut Connection,
        receipts: impl IntoIterator<Item = server::Frame>,
    ) {
        for receipt in receipts {
            self.control.push(connection.encoding, &receipt);
        }
        self.send_control(connection);
    }
}

/// What became of a publish with a dedup key.
enum Once {
    /// To this many recipients, now.
    Sent(u32),
    Before(Published),
}

/// The reference to answer with a receipt, when the publisher wants one.
fn wanted_reference(publish: &Publish<'_>) -> Option<u64> {
    publish.reference.filter(|_| publish.ack != Level::None)
}

const fn receipt(reference: u64, id: MessageId, recipients: u32) -> server::Frame {
    server::Frame::Receipt(server::Receipt { reference, id, level: Level::Accepted, recipients })
}
