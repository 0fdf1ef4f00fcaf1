//! Publishing: plans become batches, batches get their positions and go to the workers that have recipients.
//!
//! Order of doing, here and nowhere else: address, plan (core), batch, dedup, targets, room, offset, journal,
//! hand-off, tracking, receipt. Consecutive messages of one session to one address share a batch and one look-up.

use super::Worker;
use super::alone::Alone;
use super::batch::{OpenBatch, Source};
use super::connection::Connection;
use super::counters::Outcome;
use super::enqueue::{Enqueued, Outgoing};
use super::receipts::{Asker, INTERNAL, Pending};
use super::tail::One;
use crate::clock::Moment;
use crate::control::Published;
use crate::tail::Fate;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use waspmq_core::dedup::Key;
use waspmq_core::delivery::{AckPlan, Flight, References};
use waspmq_core::message::Batch;
use waspmq_core::publish::{self, Destination, Plan, Request};
use waspmq_core::registry::{Pick, Recipients, WorkerSet};
use waspmq_core::settings::Settings;
use waspmq_core::{Address, Level, MessageId, Position, Reject, SessionId};
use waspmq_protocol::client::Publish;
use waspmq_protocol::{Content, server};

/// An address with what holds for it.
pub(super) type Target = (Address, Arc<Settings>);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Done,
    /// It is to be taken again when there is room: see [`super::room`].
    Waits,
}

/// A batch that is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// The position of its first message.
    pub(super) first: Position,
    /// Of each message.
    pub(super) recipients: u32,
    /// Whether it goes to the store.
    pub(super) is_kept: bool,
}

/// The connection that wants receipts, with its references by index of the message.
type Asked<'a> = (Option<SessionId>, &'a [(u64, u16)]);

impl Worker {
    /// Takes one message of the connection at hand.
    pub(super) fn handle_publish(
        &mut self,
        connection: &mut Connection,
        publish: &Publish<'_>,
        now: Moment,
    ) -> Taken {
        let planned = self.planned.take();
        let known = connection.last_to.take().filter(|(last, _)| *last.as_str() == *publish.to);
        let is_last = known.is_some();
        let taken = known.map_or_else(|| self.target(&publish.to), Ok).and_then(|target| {
            let done = Self::check_publish(connection, &target.0, is_last)
                .and_then(|()| self.publish_to(connection, (&target, publish), planned, now));
            connection.last_to = Some(target);
            done
        });
        taken.unwrap_or_else(|reject| {
            self.finish_batch(connection);
            if self.shared.tails.is_open()
                && let Ok(to) = Address::parse(&publish.to)
            {
                let from = connection.session.identity().map(|identity| &identity.user);
                self.show_refused(One { to: &to, from, now, publish, decided: None }, &reject);
            }
            self.refuse_publish(connection, publish.reference, &publish.to, reject);
            Taken::Done
        })
    }

    fn target(&mut self, to: &str) -> Result<Target, Reject> {
        let to = Address::parse(to)?;
        let settings = self.settled.of(&to).clone();
        Ok((to, settings))
    }

    fn publish_to(
        &mut self,
        connection: &mut Connection,
        (target, publish): (&Target, &Publish<'_>),
        planned: Option<Plan>,
        now: Moment,
    ) -> Result<Taken, Reject> {
        let plan = match planned {
            Some(plan) => plan,
            None => self.plan(connection, (target, publish), now)?,
        };
        let as_addressed = match &plan.destination {
            Destination::AsAddressed(pick) if publish.dedup.is_none() && publish.delay_ms == 0 => Some(*pick),
            _ => None,
        };
        let source = Source::of(connection, connection.session.identity(), publish.exclude_self, now);
        let is_open = |open: &OpenBatch| open.takes(&target.0, source, &plan);
        if as_addressed.is_none() || !self.open.as_ref().is_some_and(is_open) {
            self.finish_batch(connection);
            if self.waits_for_journal(connection, (target, publish), &plan, now)? {
                self.planned = Some(plan);
                return Ok(Taken::Waits);
            }
        }
        match as_addressed {
            Some(pick) => self.append(connection, (target, publish), (&plan, pick), now)?,
            None => self.publish_one(connection, (target, publish), &plan, now)?,
        }
        Ok(Taken::Done)
    }

    fn plan(
        &mut self,
        connection: &mut Connection,
        ((to, settings), publish): (&Target, &Publish<'_>),
        now: Moment,
    ) -> Result<Plan, Reject> {
        let request = Request {
            to,
            payload: &publish.payload,
            is_json: publish.content == Content::Json,
            headers: &publish.headers,
            key: publish.key.as_deref().unwrap_or_default(),
            reply_to: publish.reply_to.as_deref().unwrap_or_default(),
            priority: publish.priority,
            level: publish.ack,
            settings,
            delay_ms: publish.delay_ms,
            unix_ms: now.unix_ms,
            now_us: now.us,
        };
        publish::plan(&mut connection.session, &request, &mut self.policies)
    }

    /// Publishes a message that is not batched.
    fn publish_one(
        &mut self,
        connection: &mut Connection,
        (target, publish): (&Target, &Publish<'_>),
        plan: &Plan,
        now: Moment,
    ) -> Result<(), Reject> {
        let identity = connection.session.identity().cloned();
        let source = Source::of(connection, identity.as_ref(), publish.exclude_self, now);
        let id = self.next_message_id(now);
        self.policies.name(plan.trace, id);
        let reference = publish.reference.filter(|_| publish.ack != Level::None);
        let asker = match (reference, connection.asker) {
            (Some(reference), Some(asker)) => {
                Asker::Session { id: asker, references: smallvec![(reference, id)] }
            }
            _ => Asker::Nobody,
        };
        let alone = Alone { target, plan, publish, id, source };
        if let Some(published) = self.publish_alone(&alone, asker)?
            && let Some(reference) = reference
        {
            self.send(connection, &receipt(reference, published));
        }
        Ok(())
    }

    /// Puts a message into the open batch, which takes it, or into a new one.
    fn append(
        &mut self,
        connection: &mut Connection,
        ((to, settings), publish): (&Target, &Publish<'_>),
        (plan, pick): (&Plan, Option<Pick>),
        now: Moment,
    ) -> Result<(), Reject> {
        if self.open.is_none() {
            let source = Source::of(connection, connection.session.identity(), publish.exclude_self, now);
            self.open = Some(OpenBatch::new((to.clone(), settings.clone()), plan, source));
        }
        // An id is taken only by a message that enters the batch: the ids of a batch have no gaps.
        let id = self.message_id(self.message_count + 1, now);
        let Some(open) = &mut self.open else { return Ok(()) };
        open.push(id, publish, plan.headers.as_deref())?;
        self.message_count += 1;
        self.policies.name(plan.trace, id);
        let index = open.batch.messages.len() - 1;
        if pick.is_some() {
            open.picks.resize(index, None);
            open.picks.push(pick);
        }
        match publish.reference.filter(|_| publish.ack != Level::None) {
            Some(reference) => open.receipts.push((reference, index)),
            None => open.unanswered += 1,
        }
        Ok(())
    }

    /// Sends the open batch on its way and answers its publishers.
    pub(super) fn finish_batch(&mut self, connection: &mut Connection) {
        let Some(open) = self.open.take() else { return };
        let OpenBatch { batch, settings, ack, picks, receipts, unanswered } = open;
        let (to, level, count) = (batch.to.clone(), batch.level, batch.messages.len() as u64);
        if count == 0 {
            return;
        }
        let ids: SmallVec<[_; 4]> = receipts
            .iter()
            .filter_map(|&(reference, index)| Some((reference, batch.messages.get(index)?.id)))
            .collect();
        let token = (level == Level::Stored).then(|| {
            let asker = match connection.asker {
                Some(id) if !ids.is_empty() => Asker::Session { id, references: ids.clone() },
                _ => Asker::Nobody,
            };
            let pending = Pending { asker, level, recipients: 0, waits: 1, failure: None, dedup: None };
            self.receipts.insert(pending)
        });
        let references: SmallVec<[(u64, u16); 8]> = if level == Level::Delivered {
            let index = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
            receipts.iter().map(|&(reference, message)| (reference, index(message))).collect()
        } else {
            SmallVec::new()
        };
        let asked = (connection.asker, &*references);
        let seen = self.see(&batch);
        match self.send_out(batch, (&picks, &settings, ack), (token, None), asked) {
            Ok(Sent { recipients, first, .. }) => {
                self.show(seen, || Fate::accepted(Some(first), Some(recipients)));
                self.counters().published.accepted.of(to.kind()).add(count);
                match token.and_then(|token| self.receipts.get_mut(token)) {
                    Some(pending) => pending.recipients = recipients,
                    None if level <= Level::Accepted => {
                        let level = Level::Accepted;
                        let published = |id| Published { id, level, recipients };
                        let receipts =
                            ids.into_iter().map(|(reference, id)| receipt(reference, published(id)));
                        self.send_receipts(connection, receipts);
                    }
                    None => {}
                }
            }
            Err(reject) => {
                self.show(seen, || Fate::refused(&reject));
                token.and_then(|token| self.receipts.take(token));
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

    /// Enqueues a batch and begins to track it where its level asks for that. `token` is the receipt that
    /// waits, `references` are receipts of the connection that asked.
    pub(super) fn send_out(
        &mut self,
        batch: Batch,
        (picks, settings, ack): (&[Option<Pick>], &Settings, Option<AckPlan>),
        (token, key): (Option<u64>, Option<&Key>),
        asked: Asked<'_>,
    ) -> Result<Sent, Reject> {
        let token_of_disk = token.filter(|_| batch.level == Level::Stored);
        let outgoing = Outgoing { batch, picks, settings, ack, token: token_of_disk, due_unix_ms: None, key };
        let Enqueued { first, recipients, is_kept, tracked, members, .. } = self.enqueue(outgoing)?;
        if let Some((batch, waiting_for)) = tracked {
            self.track(batch.clone(), waiting_for, ack.unwrap_or(settings.ack), (token, asked));
            for (message, queue, session) in members {
                self.note_member(&batch, message, (queue, session, 1));
            }
        }
        Ok(Sent { first, recipients, is_kept })
    }

    fn track(
        &mut self,
        batch: Arc<Batch>,
        Recipients { online, offline }: Recipients,
        plan: AckPlan,
        (token, asked): (Option<u64>, Asked<'_>),
    ) {
        // Without a connection the reference is the token of the receipt that waits.
        let (publisher, references) = match token {
            Some(token) => (Some(INTERNAL), &[(token, 0)][..]),
            None => asked,
        };
        let mut refs = References::default();
        references.iter().for_each(|&(reference, index)| refs.push(reference, index));
        let flight = Flight { batch, recipients: online, offline, plan, publisher, references: refs };
        self.begin_flight(flight);
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

    pub(super) fn count_refused(&self, to: &Address, reject: &Reject) {
        let outcome = Outcome::of_refusal(reject.code);
        self.counters().published.of(outcome).of(to.kind()).add(1);
    }

    pub(super) fn next_message_id(&mut self, now: Moment) -> MessageId {
        self.message_count += 1;
        self.message_id(self.message_count, now)
    }

    fn message_id(&self, count: u64, now: Moment) -> MessageId {
        MessageId::new(now.unix_ms, self.shared.registry.epoch(), self.number, count)
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

/// The receipt of a message that has reached its level.
pub(super) const fn receipt(reference: u64, published: Published) -> server::Frame {
    let Published { id, level, recipients } = published;
    server::Frame::Receipt(server::Receipt { reference, id, level, recipients })
}
