//! Messages that are not batched: with a dedup key, a delay, addresses from a policy, or of the admin API.

mod due;

use super::Worker;
use super::batch::{Source, single};
use super::enqueue::{Enqueued, Outgoing, journal_full, not_stored};
use super::publish::Target;
use super::receipts::{Asker, Dedup, Pending};
use super::tail::One;
use crate::clock::Moment;
use crate::control::{Publication, Published};
use crate::tail::Fate;
use std::sync::Arc;
use tokio::sync::mpsc;
use waspmq_core::dedup::{Begin, Key, Remembered, scoped_key};
use waspmq_core::delivery::AckPlan;
use waspmq_core::message::Batch;
use waspmq_core::publish::{self, Destination, Plan, Request};
use waspmq_core::registry::{Locked, Pick};
use waspmq_core::settings::Keep;
use waspmq_core::{Address, Code, Level, MessageId, Name, Reject};
use waspmq_protocol::client::Publish;
use waspmq_store::{Ticket, Write};

/// When a publish whose dedup key is under way may ask again: the first one waits for the disk or for recipients.
const UNDER_WAY_RETRY_MS: u32 = 250;

/// One message with everything that was decided about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alone<'a> {
    pub(super) target: &'a Target,
    pub(super) plan: &'a Plan,
    pub(super) publish: &'a Publish<'a>,
    pub(super) id: MessageId,
    pub(super) source: Source<'a>,
}

/// A message that waits for its time.
#[derive(Debug)]
pub(crate) struct PutOff {
    batches: Vec<Batch>,
    due_unix_ms: u64,
    /// Its plan, where a policy made one.
    ack: Option<AckPlan>,
    /// The receipt that waits for it.
    token: Option<u64>,
    /// Whether the journal has it and must forget it.
    is_stored: bool,
}

impl PutOff {
    /// One that the journal has, as a later run finds it: without a plan or anybody who waits for a receipt.
    pub(super) fn stored(due_unix_ms: u64, batch: Batch) -> Self {
        Self { batches: vec![batch], due_unix_ms, ack: None, token: None, is_stored: true }
    }

    pub(super) fn batches(&self) -> &[Batch] {
        &self.batches
    }

    pub(super) const fn due_unix_ms(&self) -> u64 {
        self.due_unix_ms
    }
}

impl Worker {
    /// A message that is not batched. `None` when its receipt comes later.
    pub(super) fn publish_alone(
        &mut self,
        alone: &Alone<'_>,
        asker: Asker,
    ) -> Result<Option<Published>, Reject> {
        let Alone { target: (to, _), publish, id, source, .. } = *alone;
        let raised = self.raised(alone.plan);
        let alone = &Alone { plan: raised.as_ref().unwrap_or(alone.plan), ..*alone };
        let Some(key) = &publish.dedup else {
            let published = self.publish_without_key(alone, asker, None)?;
            self.counters().published.accepted.of(to.kind()).add(1);
            return Ok(published);
        };
        let text: Arc<str> = scoped_key(source.from.map_or("", Name::as_str), to.as_str(), key).into();
        let mut locked = self.shared.registry.lock(to);
        let number = match locked.dedup().begin(&text, source.now.us / 1_000) {
            Begin::First(number) => number,
            Begin::Done(Remembered { id, recipients, level }) => {
                drop(locked);
                self.counters().published.duplicate.of(to.kind()).add(1);
                self.show_alone(alone, id, || Fate::duplicate(recipients));
                return Ok(Some(Published { id, level, recipients }));
            }
            Begin::UnderWay => {
                let message = "the first publish with this dedup key is still under way";
                return Err(Reject::new(Code::Overloaded, message).retry_after(UNDER_WAY_RETRY_MS));
            }
        };
        // What a repeat is answered behind a restart: whether recipients have acknowledged is not known then.
        let level = alone.plan.level.clamp(Level::Accepted, Level::Stored);
        let answer = Remembered { id, recipients: 0, level };
        let key = Key { shard: self.shared.registry.shard_of(to), number, text, answer };
        // The usual case under one lock from the question to the answer, so that nobody is told to come back.
        let sent = match &alone.plan.destination {
            Destination::AsAddressed(pick)
                if alone.plan.level <= Level::Accepted && publish.delay_ms == 0 =>
            {
                let sent;
                (locked, sent) = self.enqueue_with_key(locked, alone, (*pick, &key));
                sent.map(|enqueued| (Some(enqueued.recipients), Some(enqueued)))
            }
            _ => {
                drop(locked);
                let dedup = Some(Dedup { to: to.clone(), key: key.clone(), is_kept: false });
                let sent = self.publish_without_key(alone, asker, dedup);
                locked = self.shared.registry.lock(to);
                sent.map(|done| (done.map(|published| published.recipients), None))
            }
        };
        match &sent {
            Ok((None, _)) => {}
            Ok((Some(recipients), _)) => {
                let answer = Remembered { id, recipients: *recipients, level: Level::Accepted };
                locked.dedup().finish(&key.text, number, answer);
            }
            Err(_) => locked.dedup().forget(&key.text, number),
        }
        drop(locked);
        let (recipients, enqueued) = sent?;
        if let Some(Enqueued { workers, first, recipients, .. }) = enqueued {
            self.wake(workers);
            self.show_alone(alone, id, || Fate::accepted(Some(first), Some(recipients)));
        }
        self.counters().published.accepted.of(to.kind()).add(1);
        Ok(recipients.map(|recipients| Published { id, level: Level::Accepted, recipients }))
    }

    /// Publishes one message as addressed, by who has the lock already. While members of a large queue are chosen, somebody
    /// else with its key is told to come back.
    fn enqueue_with_key<'a>(
        &'a self,
        locked: Locked<'a>,
        alone: &Alone<'_>,
        (pick, key): (Option<Pick>, &Key),
    ) -> (Locked<'a>, Result<Enqueued, Reject>) {
        let Alone { target: (to, settings), plan, publish, id, source } = *alone;
        let batch = match single((to, settings), plan, (id, publish), source) {
            Ok(batch) => batch,
            Err(reject) => return (locked, Err(reject)),
        };
        let (picks, ack, token, due_unix_ms, key) = (&[pick], plan.ack, None, None, Some(key));
        self.enqueue_locked(locked, Outgoing { batch, picks, settings, ack, token, due_unix_ms, key })
    }

    /// The plan with the least level that its addresses demand, where that is more than its own: all of them reach it.
    fn raised(&mut self, plan: &Plan) -> Option<Plan> {
        let Destination::Instead(addresses) = &plan.destination else { return None };
        let level = addresses.iter().map(|to| self.settled.of(to).level).min()?;
        (level > plan.level).then(|| Plan { level, ..plan.clone() })
    }

    fn publish_without_key(
        &mut self,
        alone: &Alone<'_>,
        asker: Asker,
        dedup: Option<Dedup>,
    ) -> Result<Option<Published>, Reject> {
        if alone.publish.delay_ms > 0 {
            self.put_off(alone, asker, dedup)
        } else if alone.plan.level > Level::Accepted {
            self.publish_and_wait(alone, asker, dedup).map(|()| None)
        } else {
            let recipients = self.publish_everywhere(alone, (None, dedup.map(|dedup| dedup.key)))?;
            Ok(Some(Published { id: alone.id, level: Level::Accepted, recipients }))
        }
    }

    /// Publishes to every address of the plan; the receipt comes when all of them have reached the level.
    fn publish_and_wait(
        &mut self,
        alone: &Alone<'_>,
        asker: Asker,
        dedup: Option<Dedup>,
    ) -> Result<(), Reject> {
        // One more than addresses, so that the entry outlives the loop over them.
        let level = alone.plan.level;
        let key = dedup.as_ref().map(|dedup| dedup.key.clone());
        let token =
            self.receipts.insert(Pending { asker, level, recipients: 0, waits: 1, failure: None, dedup });
        match self.publish_everywhere(alone, (Some(token), key)) {
            Ok(recipients) => {
                if let Some(pending) = self.receipts.get_mut(token) {
                    pending.recipients = recipients;
                }
                self.handle_reached(token, Ok(()));
                Ok(())
            }
            Err(reject) => {
                self.receipts.take(token);
                Err(reject)
            }
        }
    }

    /// Publishes one message to each address of its plan, with what that demands. It is accepted when one address accepts it, because
    /// a second try would repeat it there; the refusals of the others are counted. A higher level is that of all
    /// addresses: with one refusal it is not reached. The dedup key goes to the store with the last message: a crash
    /// between two of them repeats and loses nothing. Where a higher level is asked for and not all of them are stored, it does
    /// not go there: what is not would be lost with a repeat that is not published.
    fn publish_everywhere(
        &mut self,
        alone: &Alone<'_>,
        (token, mut key): (Option<u64>, Option<Key>),
    ) -> Result<u32, Reject> {
        let Alone { target: (to, settings), plan, publish, id, source } = *alone;
        let (pick, addresses) = match &plan.destination {
            Destination::AsAddressed(pick) => (*pick, std::slice::from_ref(to)),
            Destination::Instead(addresses) => (None, addresses.as_slice()),
        };
        let (mut recipients, mut first, mut refused) = (0_u32, None, Vec::new());
        // Of the messages before the last, and of that.
        let (mut is_kept, mut is_last_kept) = (false, false);
        for (left, address) in (0..addresses.len()).rev().zip(addresses) {
            let own = (address != to).then(|| self.settled.of(address).clone());
            let settings = own.as_ref().unwrap_or(settings);
            let batch = single((address, settings), plan, (id, publish), source)?;
            let batch = Batch { level: plan.level.max(settings.level), ..batch };
            if let Some(pending) = token.and_then(|token| self.receipts.get_mut(token)) {
                pending.waits += 1;
            }
            let of_last = key.as_ref().filter(|_| left == 0);
            let sent = self.send_out(batch, (&[pick], settings, plan.ack), (token, of_last), (None, &[]));
            let is_this_kept = match sent {
                Ok(sent) => {
                    (first, recipients) = (Some(sent.first), recipients.saturating_add(sent.recipients));
                    sent.is_kept
                }
                Err(reject) => {
                    if let Some(pending) = token.and_then(|token| self.receipts.get_mut(token)) {
                        pending.waits -= 1;
                        pending.failure.get_or_insert_with(|| reject.clone());
                    }
                    refused.push((address, reject));
                    false
                }
            };
            if left == 0 {
                is_last_kept = is_this_kept
            } else {
                is_kept |= is_this_kept
            }
            // Behind a restart, a repeat is told that it is stored only where it is so at all addresses.
            key = key.filter(|_| is_this_kept || plan.level <= Level::Accepted);
            key.iter_mut().for_each(|key| key.answer.recipients = recipients);
        }
        if first.is_none()
            && let Some((_, reject)) = refused.pop()
        {
            return Err(reject);
        }
        let first = first.filter(|_| addresses.len() == 1);
        self.show_alone(alone, id, || Fate::accepted(first, Some(recipients)));
        for (address, reject) in &refused {
            self.count_refused(address, reject);
            self.show_refused_part(alone, address, reject);
        }
        if let Some(key) = key.filter(|_| is_kept || is_last_kept) {
            if !is_last_kept {
                self.keep_key_alone(key);
            }
            let pending = token.and_then(|token| self.receipts.get_mut(token));
            if let Some(dedup) = pending.and_then(|pending| pending.dedup.as_mut()) {
                dedup.is_kept = true;
            }
        }
        Ok(recipients)
    }

    /// Stores a dedup key behind the messages of its publish that are stored, the last of which is not.
    fn keep_key_alone(&self, key: Key) {
        if self.shared.journal.push(Write::DedupKey { key, message: None }, None).is_err() {
            tracing::warn!(
                "the journal has no room for a dedup key; behind a restart, a repeat is published again"
            );
        }
    }

    /// Keeps a message until its time. It is accepted when it is kept, stored when the journal has it, and
    /// delivered as any other.
    fn put_off(
        &mut self,
        alone: &Alone<'_>,
        asker: Asker,
        dedup: Option<Dedup>,
    ) -> Result<Option<Published>, Reject> {
        let Alone { target: (to, settings), plan, publish, id, source, .. } = *alone;
        let level = plan.level;
        let addresses = match &plan.destination {
            Destination::AsAddressed(_) => std::slice::from_ref(to),
            Destination::Instead(addresses) => addresses.as_slice(),
        };
        let batch_for = |address: &Address| {
            let own = (address != to).then(|| self.shared.rules.of(address));
            let settings = own.unwrap_or(settings);
            // The receipt comes long before the address itself could refuse.
            if level == Level::Stored && settings.keep == Keep::Never {
                return Err(not_stored(address));
            }
            let batch = single((address, settings), plan, (id, publish), source)?;
            // What is promised to be stored is stored, also where a higher level would do without.
            let own = if level == Level::Stored { level } else { level.max(settings.level) };
            Ok(Batch { level: own, ..batch })
        };
        let batches = addresses.iter().map(batch_for).collect::<Result<Vec<_>, _>>()?;
        let bytes = batches.iter().map(Batch::size_bytes).sum();
        self.check_put_off(level, (batches.len(), bytes))?;
        let due_unix_ms = source.now.unix_ms.saturating_add(publish.delay_ms);
        let waits = u32::try_from(batches.len()).unwrap_or(u32::MAX);
        let is_stored = level == Level::Stored;
        let dedup = dedup.map(|dedup| Dedup { is_kept: is_stored, ..dedup });
        let key = dedup.as_ref().map(|dedup| dedup.key.clone());
        let token = (level > Level::Accepted).then(|| {
            self.receipts.insert(Pending { asker, level, recipients: 0, waits, failure: None, dedup })
        });
        let due_ms = (source.now.us / 1_000).saturating_add(publish.delay_ms);
        let lost = || tracing::error!(%to, "a delayed message found no room after room was promised");
        if is_stored {
            let ticket = token.map(|token| Ticket { worker: self.number, token });
            // The store knows a delayed message by its time and id, so the addresses of one get times of their own.
            for ((due_unix_ms, batch), left) in (due_unix_ms..).zip(batches).zip((0..waits).rev()) {
                let bytes = batch.size_bytes();
                let write = Write::Delayed { due_unix_ms, batch: Arc::new(batch.clone()) }
                    .with_key(key.clone().filter(|_| left == 0));
                let waiting = PutOff { ack: plan.ack, ..PutOff::stored(due_unix_ms, batch) };
                if self.shared.journal.push(write, ticket).is_err() {
                    if let Some(token) = token {
                        self.handle_reached(token, Err(journal_full()));
                    }
                } else if self.delays.push(due_ms, bytes, waiting).is_err() {
                    lost();
                }
            }
        } else if self
            .delays
            .push(due_ms, bytes, PutOff { batches, due_unix_ms, ack: plan.ack, token, is_stored: false })
            .is_err()
        {
            lost();
        }
        self.timers.notify_one();
        self.show_alone(alone, id, || Fate::accepted(None, None));
        Ok(token.is_none().then_some(Published { id, level: Level::Accepted, recipients: 0 }))
    }

    /// Publishes for the admin API and answers it, now or when the level is reached.
    pub(super) fn publish_for_operator(
        &mut self,
        publication: &Publication,
        answer: mpsc::Sender<Result<Published, Reject>>,
    ) {
        let now = self.shared.clock.now();
        let id = self.next_message_id(now);
        let asker = if publication.answers_early {
            Asker::Nobody
        } else {
            Asker::Operator { id, answer: answer.clone() }
        };
        let publish = publication.as_publish();
        let done = match self.publish_publication((publication, &publish), (id, now), asker) {
            Ok(None) if publication.answers_early => {
                Ok(Published { id, level: Level::Accepted, recipients: 0 })
            }
            Ok(None) => return,
            Ok(Some(published)) => Ok(published),
            Err(reject) => {
                let (to, from) = (&publication.to, publication.from.as_ref());
                self.show_refused(One { to, from, now, publish: &publish, decided: None }, &reject);
                self.count_refused(to, &reject);
                Err(reject)
            }
        };
        if answer.try_send(done).is_err() {
            tracing::debug!("an operator's publish ended after its caller");
        }
    }

    fn publish_publication(
        &mut self,
        (publication, publish): (&Publication, &Publish<'_>),
        (id, now): (MessageId, Moment),
        asker: Asker,
    ) -> Result<Option<Published>, Reject> {
        let to = &publication.to;
        let target = (to.clone(), self.settled.of(to).clone());
        let request = Request {
            to,
            payload: &publication.payload,
            is_json: publication.is_json,
            headers: &publish.headers,
            key: &publication.key,
            reply_to: &publication.reply_to,
            priority: publication.priority,
            level: publication.level,
            settings: &target.1,
            delay_ms: publication.delay_ms,
            unix_ms: now.unix_ms,
            now_us: now.us,
        };
        let plan = publish::plan_for_operator(&request, &mut self.policies)?;
        self.policies.name(plan.trace, id);
        let from = publication.from.as_ref();
        let source = Source { from, origin: None, exclude_origin: false, now };
        let alone = Alone { target: &target, plan: &plan, publish, id, source };
        self.publish_alone(&alone, asker)
    }
}

#[cfg(test)]
pub(super) mod tests;
