//! What the broker can say about the delivery of one message: who it is for and how far it is with each.
//!
//! Ended flights stay for a while, without their payload, in a ring that is bounded by messages. All times are
//! milliseconds since 1970. Not here: sessions that were sent a message and have not answered; their windows know.

use super::flight::Part;
use super::{AckPlan, Cause, Recipient, State};
use crate::address::{Address, Name};
use crate::id::{MessageId, SessionId};
use crate::level::Level;
use crate::message::Batch;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// The delivery of one message at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    pub id: MessageId,
    pub to: Address,
    /// The publishing user, `None` for the admin API.
    pub from: Option<Name>,
    pub unix_ms: u64,
    pub level: Level,
    pub plan: AckPlan,
    /// In ascending order.
    pub recipients: Vec<RecipientRow>,
}

/// How far the message is with one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRow {
    pub recipient: Recipient,
    pub state: State,
    /// Deliveries made so far.
    pub attempts: u16,
    /// Why the last attempt failed.
    pub cause: Option<Cause>,
    /// Since when it is in this state.
    pub at_ms: u64,
    /// What sessions reported, oldest first.
    pub devices: Vec<DeviceRow>,
}

/// What one session reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    pub device: Option<Name>,
    /// `None` when no session was found.
    pub session: Option<SessionId>,
    /// [`State::Sent`], [`State::Acked`], [`State::Nacked`] or [`State::Failed`].
    pub state: State,
    pub sent_ms: u64,
    pub acked_ms: Option<u64>,
    pub cause: Option<Cause>,
    /// What it said about a nack.
    pub reason: Option<Arc<str>>,
    pub attempt: u16,
}

/// What is the same for all messages of a flight, as the ledger tells it.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) first: MessageId,
    pub(super) messages: u16,
    to: Address,
    from: Option<Name>,
    unix_ms: u64,
    /// The monotonic clock at `unix_ms`.
    published_ms: u64,
    level: Level,
    plan: AckPlan,
}

impl Common {
    pub(super) fn new(batch: &Batch, first: MessageId, messages: u16, plan: AckPlan) -> Self {
        Self {
            first,
            messages,
            to: batch.to.clone(),
            from: batch.from.clone(),
            unix_ms: batch.unix_ms,
            published_ms: batch.published_us / 1_000,
            level: batch.level,
            plan,
        }
    }

    /// The entry of message `index`.
    pub(super) fn entry(&self, id: MessageId, parts: &[Part], begun_ms: u64) -> Option<LedgerEntry> {
        let index = index_within(self.first, self.messages, id)?;
        let unix_ms = |now_ms: u64| (self.unix_ms + now_ms).saturating_sub(self.published_ms);
        let recipients = parts.iter().map(|part| part.row(index, |since| unix_ms(begun_ms + since)));
        Some(LedgerEntry {
            id,
            to: self.to.clone(),
            from: self.from.clone(),
            unix_ms: self.unix_ms,
            level: self.level,
            plan: self.plan,
            recipients: recipients.collect(),
        })
    }
}

/// Which of the messages that begin with `first` has this id.
pub(super) fn index_within(first: MessageId, messages: u16, id: MessageId) -> Option<u16> {
    let same = (first.epoch(), first.worker()) == (id.epoch(), id.worker());
    let index = u16::try_from(id.count().checked_sub(first.count())?).ok()?;
    (same && index < messages).then_some(index)
}

#[derive(Debug)]
struct Ended {
    common: Common,
    begun_ms: u64,
    parts: SmallVec<[Part; 1]>,
    weight: usize,
}

/// Ended flights, oldest first.
#[derive(Debug)]
pub(super) struct Ring {
    ended: VecDeque<Ended>,
    /// First count and number of messages of each, apart so that a search reads little memory.
    keys: VecDeque<(u64, u16)>,
    weight: usize,
    weight_max: usize,
}

impl Ring {
    pub(super) const fn new(weight_max: usize) -> Self {
        Self { ended: VecDeque::new(), keys: VecDeque::new(), weight: 0, weight_max }
    }

    /// Keeps the end of a flight; the oldest make room.
    pub(super) fn push(&mut self, common: Common, begun_ms: u64, parts: SmallVec<[Part; 1]>) {
        let rows: usize = parts.iter().map(Part::rows).sum();
        let weight = rows.max(usize::from(common.messages));
        self.weight += weight;
        self.keys.push_back((common.first.count(), common.messages));
        self.ended.push_back(Ended { common, begun_ms, parts, weight });
        while self.weight > self.weight_max
            && let Some(oldest) = self.ended.pop_front()
        {
            self.keys.pop_front();
            self.weight -= oldest.weight;
        }
    }

    /// What is kept of a message, at each of its addresses.
    pub(super) fn entries(&self, id: MessageId) -> impl Iterator<Item = LedgerEntry> {
        let count = id.count();
        let covers = move |(first, messages): &(u64, u16)| {
            count.checked_sub(*first).is_some_and(|index| index < u64::from(*messages))
        };
        let ended = self.keys.iter().zip(&self.ended).filter(move |(key, _)| covers(key));
        ended.filter_map(move |(_, ended)| ended.common.entry(id, &ended.parts, ended.begun_ms))
    }

    /// What is kept, as it counts against the bound.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }
}
