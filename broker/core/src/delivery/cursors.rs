//! What a session was sent of stored messages, and how far it has acknowledged them.
//!
//! A device's cursor in an address moves over what it acknowledged without a gap; what lies behind it is read
//! from the store when the device comes back. It stays before messages that were dropped on their way
//! ([`Cursors::lose`]), or could not be sent at all, until they are sent again and acknowledged. Nothing here keeps messages. Bounds:
//! [`limits::CURSOR_RUNS_MAX`] runs and as many single acks out of order per address; beyond them the oldest is
//! forgotten, so that only a cumulative ack moves the cursor over it, and what was acknowledged singly is sent
//! again later. [`limits::CURSOR_ADDRESSES_MAX`] addresses. Acks by id need an index, which is made with the first
//! such ack, so that sessions that ack cumulatively never pay for it.

mod progress;

use super::window::origin;
use crate::address::Address;
use crate::id::{MessageId, Position, Stream};
use crate::limits;
use crate::message::Batch;
use hashbrown::HashMap;
use progress::{Progress, Run};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;

/// What was sent in one go, by (origin, count) of its first message and once per address: an unchanging fact, so an entry
/// may stay when its messages are acknowledged. One message at several addresses is sent alone at each.
type Ids = BTreeMap<(u32, u64), SmallVec<[Sent; 1]>>;

#[derive(Debug, Clone)]
struct Sent {
    to: Address,
    first: Position,
    messages: u64,
}

/// The progress of one session in every address.
#[derive(Debug, Clone, Default)]
pub struct Cursors {
    addresses: HashMap<Address, Progress, foldhash::fast::RandomState>,
    /// New addresses until it is looked for those that can be forgotten.
    tidy_in: usize,
    ids: Option<Ids>,
    /// The size at which the index is made anew.
    ids_max: usize,
    /// Addresses whose cursors moved since they were last taken.
    moved: Vec<Address>,
    /// Whether something was acknowledged since the cursors were last taken.
    is_touched: bool,
}

/// The ack names something that was not sent to this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

/// New addresses between two looks for those that can be forgotten, at least.
const TIDY_EVERY: usize = 1_024;
/// Entries that the index may have although their messages are acknowledged, at least.
const IDS_SPARE: usize = 64;

impl Cursors {
    /// Takes down that `range` of a stored batch was sent.
    pub fn sent(&mut self, batch: &Batch, range: Range<usize>) {
        let Some(envelope) = batch.messages.get(range.start) else { return };
        let run =
            Run { first: batch.position(range.start), first_id: envelope.id, messages: range.len() as u64 };
        let progress = match self.addresses.get_mut(&batch.to) {
            Some(progress) => progress,
            None => {
                if !self.has_room() {
                    return;
                }
                self.addresses.entry(batch.to.clone()).or_insert_with(|| Progress::new(run.last()))
            }
        };
        if progress.sent(run) && self.ids.is_some() {
            self.index(&batch.to, run);
        }
    }

    /// Messages of `to`, `first` and those behind it up to and with `last_offset`, were dropped on their way: the
    /// cursor stays before those of them that are stored.
    pub fn lose(&mut self, to: &Address, first: Position, last_offset: u64) {
        if let Some(progress) = self.addresses.get_mut(to) {
            progress.lose(first, last_offset);
        }
    }

    /// Messages of `to`, `first` and those behind it up to and with `last_offset`, came to their end on their way: the cursor
    /// passes them as if they were acknowledged.
    pub fn pass(&mut self, to: &Address, first: Position, last_offset: u64) {
        if self.addresses.get_mut(to).is_some_and(|progress| progress.pass(first, last_offset)) {
            self.moved.push(to.clone());
            self.is_touched = true;
        }
    }

    /// Messages of a stored batch were not sent for lack of room: the cursor stays before them, as for
    /// [`Self::lose`].
    pub fn pass_over(&mut self, batch: &Batch, range: Range<usize>) {
        if range.is_empty() || !self.addresses.contains_key(&batch.to) && !self.has_room() {
            return;
        }
        let (first, behind) = (batch.position(range.start), batch.position(range.end));
        let before = Position { offset: first.offset.saturating_sub(1), ..first };
        let progress = self.addresses.entry(batch.to.clone()).or_insert_with(|| Progress::new(before));
        progress.pass_over(first, behind);
    }

    /// Messages of `to` behind `after`, or from the very first on, up to and with `upto`, cannot be sent: the cursor stays
    /// before them, as for [`Self::lose`].
    pub fn hold(&mut self, to: &Address, after: Option<Position>, upto: Position) {
        let start = Position { stream: Stream { epoch: 0, ..upto.stream }, offset: 0 };
        let (before, first) = after.map_or((start, start), |after| (after, next(after)));
        let behind = next(upto);
        if (first.stream.epoch, first.offset) >= (behind.stream.epoch, behind.offset)
            || !self.addresses.contains_key(to) && !self.has_room()
        {
            return;
        }
        let progress = self.addresses.entry(to.clone()).or_insert_with(|| Progress::new(before));
        progress.pass_over(first, behind);
    }

    /// Everything of `to` up to `upto` was received, but for what is known to be lost.
    pub fn ack_upto(&mut self, to: &Address, upto: Position) -> Result<(), NotSent> {
        let progress = self.addresses.get_mut(to).ok_or(NotSent)?;
        if !progress.was_sent(upto) {
            return Err(NotSent);
        }
        if progress.ack_upto(upto) {
            self.moved.push(to.clone());
        }
        self.is_touched = true;
        Ok(())
    }

    /// As [`Self::ack_upto`], where `upto` is known to be of a message that was sent but is not stored.
    pub fn ack_before(&mut self, to: &Address, upto: Position) {
        if let Some(progress) = self.addresses.get(to) {
            let upto = progress.sent_upto(upto);
            _ = self.ack_upto(to, upto);
        }
    }

    /// One message was received, at each address at which it was sent; false when it was not sent, or so long ago that it is
    /// forgotten.
    pub fn ack_id(&mut self, id: MessageId) -> bool {
        if self.ids.is_none() {
            self.make_index();
        }
        let Self { addresses, ids, moved, .. } = self;
        let mut is_acked = false;
        for (to, position) in ids.iter().flat_map(|ids| find(ids, id)) {
            let Some(is_moved) = addresses.get_mut(to).and_then(|progress| progress.ack(position)) else {
                continue;
            };
            if is_moved {
                moved.push(to.clone());
            }
            is_acked = true;
        }
        self.is_touched |= is_acked;
        is_acked
    }

    /// A session refuses a message: the cursors stay before it, as for [`Self::lose`]. False when it was not sent or
    /// is acknowledged.
    pub fn nack(&mut self, id: MessageId) -> bool {
        if self.ids.is_none() {
            self.make_index();
        }
        let Self { addresses, ids, .. } = self;
        let mut is_held = false;
        for (to, position) in ids.iter().flat_map(|ids| find(ids, id)) {
            if let Some(progress) = addresses.get_mut(to).filter(|progress| progress.holds(position)) {
                progress.lose(position, position.offset);
                is_held = true;
            }
        }
        is_held
    }

    /// Whether a message of `to` was sent and is acknowledged, as far as that is still known.
    pub fn is_acked(&self, to: &Address, position: Position) -> bool {
        self.addresses.get(to).is_some_and(|progress| progress.is_acked(position))
    }

    /// Up to where everything of `to` that was sent is acknowledged, while that is known.
    pub fn cursor(&self, to: &Address) -> Option<Position> {
        self.addresses.get(to)?.cursor
    }

    /// The last of `to` that was sent, while that is known.
    pub fn last_sent(&self, to: &Address) -> Option<Position> {
        self.addresses.get(to).map(Progress::last)
    }

    /// Whether a cursor may have moved since they were last taken.
    pub const fn may_have_moved(&self) -> bool {
        self.is_touched
    }

    /// Whether [`Self::take_moved`] has something to give.
    pub const fn is_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// The addresses whose cursor moved since the last call.
    pub fn take_moved(&mut self) -> impl Iterator<Item = (Address, Position)> {
        self.is_touched = false;
        let Self { addresses, moved, .. } = self;
        moved.drain(..).filter_map(|address| {
            let cursor = addresses.get_mut(&address)?.take_moved()?;
            Some((address, cursor))
        })
    }

    /// Puts addresses that were taken back: their cursors could not be saved.
    pub fn keep_moved(&mut self, addresses: impl IntoIterator<Item = Address>) {
        for address in addresses {
            if self.addresses.get_mut(&address).is_some_and(Progress::keep_moved) {
                self.moved.push(address);
            }
        }
    }

    /// Whether everything that was sent is acknowledged.
    pub fn is_settled(&self) -> bool {
        self.addresses.values().all(Progress::is_settled)
    }

    /// Whether one more address may be noted.
    fn has_room(&mut self) -> bool {
        if self.tidy_in == 0 {
            self.addresses.retain(|_, progress| !progress.is_idle());
            self.tidy_in = self.addresses.len().max(TIDY_EVERY);
        }
        self.tidy_in -= 1;
        self.addresses.len() < limits::CURSOR_ADDRESSES_MAX
    }

    /// Adds what was sent to the index, which is made anew when half of it may be of the past.
    fn index(&mut self, to: &Address, run: Run) {
        let Some(ids) = &mut self.ids else { return };
        if ids.len() >= self.ids_max {
            self.make_index();
        } else {
            add(ids, to, run);
        }
    }

    fn make_index(&mut self) {
        let mut ids = Ids::new();
        for (to, progress) in &self.addresses {
            progress.runs().for_each(|run| add(&mut ids, to, run));
        }
        self.ids_max = 2 * ids.len() + IDS_SPARE;
        self.ids = Some(ids);
    }
}

/// The position behind one.
const fn next(position: Position) -> Position {
    Position { offset: position.offset.saturating_add(1), ..position }
}

/// Where the index says a message is, at each of its addresses.
fn find(ids: &Ids, id: MessageId) -> impl Iterator<Item = (&Address, Position)> {
    let last = ids.range(..=(origin(id), id.count())).next_back();
    let (count, sent) = last
        .filter(|((maker, _), _)| *maker == origin(id))
        .map_or((0, [].as_slice()), |((_, count), sent)| (*count, sent.as_slice()));
    let index = id.count() - count;
    sent.iter().filter(move |sent| index < sent.messages).map(move |sent| {
        let position = Position { offset: sent.first.offset + index, ..sent.first };
        (&sent.to, position)
    })
}

/// Adds to the index, so that no entry of an address lies within another: the last one that begins at or before a message
/// holds it, if any does.
fn add(ids: &mut Ids, to: &Address, run: Run) {
    let (maker, count) = (origin(run.first_id), run.first_id.count());
    let end = count + run.messages;
    let before = ids.range(..=(maker, count)).next_back().filter(|(known, _)| known.0 == maker);
    let holds = |known: u64, sent: &Sent| sent.to == *to && known + sent.messages >= end;
    if before.is_some_and(|(known, sent)| sent.iter().any(|sent| holds(known.1, sent))) {
        return;
    }
    let is_left = |known: u64, sent: &Sent| sent.to != *to || known + sent.messages > end;
    let within = ids.extract_if((maker, count)..(maker, end), |known, sent| {
        sent.retain(|sent| is_left(known.1, sent));
        sent.is_empty()
    });
    within.for_each(drop);
    ids.entry((maker, count)).or_default().push(Sent {
        to: to.clone(),
        first: run.first,
        messages: run.messages,
    });
}

#[cfg(test)]
mod tests;
