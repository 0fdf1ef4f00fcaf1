//! What a queue still has to give out of the stored messages of its pattern, and which member has what.
//!
//! There is one for each queue with members, on one worker. Messages come live, or from the store where there was no room
//! for them live; each goes to a member with room, and back when it is refused, times out or its member leaves.
//! What the members acknowledged is kept as a [`QueueCursor`] per address, so that the next start, or the first member
//! after a while without any, goes on there.
//!
//! | members | messages published | store | next |
//! | --- | --- | --- | --- |
//! | none | not noted: the store has them | – | catching up, with the first member |
//! | catching up | left to the store where it is not known that it has nothing before them | addresses are listed in parts, pages read | level |
//! | level | taken live; left to the store where there is no room | read as members have room | none, with the last member: everything open goes back to the store |
//!
//! Invariants: messages of one address are taken in the order of their positions. A message that is not done is in the
//! store, open, or with a tracker; a cursor never passes it, also not one that the store cannot read: what is published
//! behind that goes on live. Bounds: [`limits::QUEUE_OPEN_MAX`] messages and
//! [`limits::QUEUE_OPEN_BYTES_MAX`], and what one member is given; beyond them messages stay in the store. One question to
//! the store is on its way at a time. Not here: messages that are not stored, and the workers that deliver.

mod answers;
mod done;
mod give;
mod list;
mod loads;
mod progress;
mod unread;

pub use answers::Answered;
pub use done::{Place, QueueCursor};
pub use give::Give;

use super::AckPlan;
use crate::address::Address;
use crate::id::Position;
use crate::level::Level;
use crate::limits;
use crate::message::Batch;
use crate::queue::QueueId;
use crate::registry::{Pick, Queue};
use done::{Done, place};
use hashbrown::HashMap;
use list::List;
use loads::Loads;
use progress::{Open, Progress, State};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// A message: its address and its place there.
type Key = (Address, Place);

/// A page is asked for when no more wait for a member.
const READY_LOW: usize = 64;

/// What is to be asked of the store. `number` comes back with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Addresses that the queue has not given out completely: a part of them, behind this one.
    Addresses { number: u64, after: Option<Address> },
    /// Messages of an address, at most so many: behind a position, or where the queue's cursor says.
    Page { number: u64, to: Address, after: Option<Position>, limit: usize },
}

/// A page of the store.
#[derive(Debug)]
pub struct Page {
    /// Where it began, if that was not said.
    pub begun: Option<QueueCursor>,
    /// One message each, in order.
    pub messages: Vec<Batch>,
    /// The beginning of the broker's clock, milliseconds since 1970: the store knows no other time of a publish.
    pub clock_unix_ms: u64,
    pub more: bool,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    /// `None` for the list.
    to: Option<Address>,
    asked_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Backlog {
    id: QueueId,
    members: Option<Arc<Queue>>,
    /// Of the latest state of the members that is known.
    version: u64,
    addresses: HashMap<Address, Progress, foldhash::fast::RandomState>,
    /// Whether the store has nothing for the queue in addresses that are not known here.
    is_complete: bool,
    /// How far the store was asked for others.
    list: List,
    /// Addresses to be read, in turns.
    turns: VecDeque<Address>,
    asked: Option<Asked>,
    number: u64,
    /// Whether the store failed; nothing is asked before the next tick.
    is_stalled: bool,
    /// When what the store cannot read is asked for again: the list, and any address.
    list_due_ms: u64,
    held_due_ms: u64,
    ready: VecDeque<Key>,
    resting: BTreeSet<(u64, Key)>,
    loads: Loads,
    /// No given message times out before.
    due_ms: u64,
    moved: Vec<Address>,
    open: usize,
    bytes: usize,
    seed: u64,
}

impl Backlog {
    /// `number` is what questions are numbered behind, so that answers to an earlier backlog are none to this one. `seed`
    /// makes the jitter differ from that of others.
    pub fn new(id: QueueId, number: u64, seed: u64) -> Self {
        Self {
            id,
            members: None,
            version: 0,
            addresses: HashMap::default(),
            is_complete: false,
            list: List::default(),
            turns: VecDeque::new(),
            asked: None,
            number,
            is_stalled: false,
            list_due_ms: 0,
            held_due_ms: u64::MAX,
            ready: VecDeque::new(),
            resting: BTreeSet::new(),
            loads: Loads::default(),
            due_ms: u64::MAX,
            moved: Vec::new(),
            open: 0,
            bytes: 0,
            seed,
        }
    }

    /// The queue's members are these, unless a later state of it is known.
    pub fn handle_members(&mut self, queue: &Arc<Queue>) {
        if queue.version < self.version {
            return;
        }
        self.version = queue.version;
        let had_members = self.members.is_some();
        self.members = (!queue.members.is_empty()).then(|| queue.clone());
        match (had_members, &self.members) {
            (false, Some(_)) => self.begin(),
            (true, None) => self.end(),
            _ => {}
        }
    }

    /// The queue has no members, whatever was known.
    pub fn handle_no_members(&mut self) {
        if self.members.take().is_some() {
            self.end();
        }
    }

    /// Messages were published and stored. `room_bytes` is what may be taken; what is not is read from the store later.
    pub fn handle_published(
        &mut self,
        batch: &Arc<Batch>,
        picks: &[Option<Pick>],
        (plan, room_bytes): (&AckPlan, usize),
    ) {
        if self.members.is_none() {
            return;
        }
        if !self.addresses.contains_key(&batch.to) {
            let before = Position { offset: batch.first.offset.saturating_sub(1), ..batch.first };
            if self.is_complete {
                self.addresses.insert(batch.to.clone(), Progress::behind(before));
            } else if self.addresses.len() >= limits::QUEUE_ADDRESSES_MAX {
                self.list.has_left_out = true;
                return;
            } else {
                self.read_later(&batch.to);
            }
        }
        let most = self.bytes.saturating_add(room_bytes).min(limits::QUEUE_OPEN_BYTES_MAX);
        for index in 0..batch.messages.len() {
            let pick = picks.get(index).copied().flatten();
            self.take_live((batch, index), (plan, pick), most);
        }
        self.tidy(&batch.to);
    }

    fn take_live(
        &mut self,
        (batch, index): (&Arc<Batch>, usize),
        (plan, pick): (&AckPlan, Option<Pick>),
        bytes_max: usize,
    ) {
        let is_tracked = batch.level == Level::Delivered;
        let has_room = self.open < limits::QUEUE_OPEN_MAX && self.bytes + batch.size_bytes() <= bytes_max;
        let is_ready = has_room && (is_tracked || self.ready.len() < limits::QUEUE_READY_MAX);
        let position = batch.position(index);
        let at = place(position);
        let Some(progress) = self.addresses.get_mut(&batch.to) else { return };
        if progress.is_reached(at) {
            return;
        }
        let mut before = progress.before();
        if progress.held_ms.is_some() && is_ready {
            // Where it belongs is said when it is read.
            before = (0, 0);
        } else if progress.is_behind || !is_ready {
            if !progress.is_behind {
                self.read_later(&batch.to);
            } else {
                progress.is_fresh = true;
            }
            // What a tracker has is known, so that it is passed over when it is read.
            if !is_tracked || !has_room {
                return;
            }
        } else if !progress.reach(position) {
            return;
        }
        let alone = if batch.messages.len() == 1 {
            batch.clone()
        } else {
            let Some(alone) = batch.message_alone(index) else { return };
            Arc::new(alone)
        };
        let state = if is_tracked { State::Tracked } else { State::Ready };
        self.insert((batch.to.clone(), at), Open { before, ..Open::new(alone, *plan, pick, state) });
    }

    /// A page, as it was asked for.
    pub fn handle_page(&mut self, number: u64, page: Page, plan: &AckPlan) {
        let Some(to) = self.take_asked(number) else { return };
        let Some(progress) = self.addresses.get_mut(&to) else { return };
        if let Some(cursor) = page.begun {
            progress.held_ms = None;
            // What was done before this was known is saved now.
            let has_moved = !progress.done.is_empty();
            progress.resolve(cursor);
            if has_moved {
                self.note_moved(&to);
            }
        }
        if self.members.is_none() {
            // Nothing else was wanted. A page that does not say where the queue was has nothing of it.
            if let Some(progress) = self.addresses.get_mut(&to).filter(|progress| progress.reached.is_none())
            {
                progress.done = Done::default();
            }
            return;
        }
        for batch in page.messages {
            let Some(progress) = self.addresses.get_mut(&to) else { return };
            let at = place(batch.first);
            if progress.is_reached(at) {
                continue;
            }
            let before = progress.before();
            if progress.reach(batch.first) {
                let published_ms =
                    batch.unix_ms.cast_signed().saturating_sub(page.clock_unix_ms.cast_signed());
                let open = Open::new(Arc::new(batch), *plan, None, State::Ready);
                self.insert((to.clone(), at), Open { before, published_ms, ..open });
            } else {
                // What was done behind the cursor belongs to it now.
                self.note_moved(&to);
            }
        }
        let Some(progress) = self.addresses.get_mut(&to) else { return };
        progress.held_ms = None;
        progress.is_behind = page.more || progress.is_fresh;
        if progress.is_behind {
            self.turns.push_back(to);
        } else {
            self.tidy(&to);
        }
    }

    /// What to ask of the store now.
    pub fn poll_read(&mut self, now_ms: u64) -> Option<Read> {
        if self.asked.is_some() || self.is_stalled {
            return None;
        }
        if self.members.is_none() {
            return self.poll_unsaved(now_ms);
        }
        if self.turns.is_empty() {
            // Also when some addresses found no place here: those that had one are level by now.
            let is_due = !self.is_complete && now_ms >= self.list_due_ms;
            return is_due
                .then(|| Read::Addresses { number: self.ask(None, now_ms), after: self.list.upto.clone() });
        }
        let has_room = self.open < limits::QUEUE_OPEN_MAX && self.bytes < limits::QUEUE_OPEN_BYTES_MAX;
        if self.ready.len() > READY_LOW || !has_room || !self.has_room_somewhere() {
            return None;
        }
        let limit = limits::QUEUE_PAGE_MAX.min(limits::QUEUE_OPEN_MAX - self.open);
        while let Some(to) = self.turns.pop_front() {
            let Some(progress) = self.addresses.get_mut(&to).filter(|progress| progress.is_behind) else {
                continue;
            };
            progress.is_fresh = false;
            let after = progress.reached;
            return Some(Read::Page { number: self.ask(Some(to.clone()), now_ms), to, after, limit });
        }
        None
    }

    /// Without members: what was done before it was known where the queue was is saved when that is known.
    fn poll_unsaved(&mut self, now_ms: u64) -> Option<Read> {
        let is_askable = |progress: &Progress| progress.is_unsaved() && progress.held_ms.is_none();
        let (to, _) = self.addresses.iter().find(|(_, progress)| is_askable(progress))?;
        let (to, limit) = (to.clone(), 1);
        Some(Read::Page { number: self.ask(Some(to.clone()), now_ms), to, after: None, limit })
    }

    /// Whether something that is done waits for an answer of the store to be saved.
    pub fn is_unsaved(&self) -> bool {
        self.addresses.values().any(Progress::is_unsaved)
    }

    /// An address whose cursor has moved since this was asked last, and where it is.
    pub fn poll_moved(&mut self) -> Option<(Address, QueueCursor)> {
        while let Some(to) = self.moved.pop() {
            let Some(progress) = self.addresses.get_mut(&to) else { continue };
            progress.is_moved = false;
            if let Some(cursor) = progress.cursor(limits::QUEUE_STRETCHES_MAX) {
                self.tidy(&to);
                return Some((to, cursor));
            }
        }
        None
    }

    /// A cursor could not be saved: it is given again.
    pub fn keep_moved(&mut self, to: &Address, cursor: QueueCursor) {
        self.addresses.entry(to.clone()).or_insert_with(|| {
            let mut progress = Progress::default();
            progress.resolve(cursor);
            progress
        });
        self.note_moved(to);
    }

    /// Whether anything is known of an address. Of one of which nothing is, everything up to now is done, or unknown.
    pub fn knows(&self, to: &Address) -> bool {
        self.addresses.contains_key(to)
    }

    /// Whether nothing has to be known of it.
    pub fn is_over(&self) -> bool {
        self.members.is_none() && self.addresses.is_empty()
    }

    pub fn id(&self) -> &QueueId {
        &self.id
    }

    pub const fn has_members(&self) -> bool {
        self.members.is_some()
    }

    pub const fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// Messages that are open.
    pub const fn len(&self) -> usize {
        self.open
    }

    pub const fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Memory of the messages that are open.
    pub const fn pinned_bytes(&self) -> usize {
        self.bytes
    }

    /// The first member has come.
    fn begin(&mut self) {
        let known: Vec<_> = self.addresses.keys().cloned().collect();
        known.iter().for_each(|to| self.read_later(to));
        if let Some(to) = self.id.pattern().to_address() {
            if !self.addresses.contains_key(&to) {
                self.read_later(&to);
            }
            self.is_complete = true;
        }
    }

    /// The last member has left: what no tracker has goes back to the store.
    fn end(&mut self) {
        self.addresses.values_mut().for_each(Progress::rewind);
        let open = self.addresses.values().flat_map(|progress| progress.open.values());
        (self.open, self.bytes) =
            open.fold((0, 0), |(open, bytes), one| (open + 1, bytes + one.batch.size_bytes()));
        (self.is_complete, self.asked, self.due_ms) = (false, None, u64::MAX);
        self.list = List::default();
        self.turns.clear();
        self.ready.clear();
        self.resting.clear();
        self.loads.clear();
    }

    /// The store has messages of an address that are to be read.
    fn read_later(&mut self, to: &Address) {
        let progress = self.addresses.entry(to.clone()).or_default();
        (progress.is_behind, progress.is_fresh) = (true, true);
        self.turns.push_back(to.clone());
    }

    fn ask(&mut self, to: Option<Address>, asked_ms: u64) -> u64 {
        self.number += 1;
        self.asked = Some(Asked { number: self.number, to, asked_ms });
        self.number
    }

    fn take_asked(&mut self, number: u64) -> Option<Address> {
        self.asked.take_if(|asked| asked.number == number && asked.to.is_some())?.to
    }

    fn insert(&mut self, key: Key, open: Open) {
        let is_ready = matches!(open.state, State::Ready);
        let Some(progress) = self.addresses.get_mut(&key.0) else { return };
        self.open += 1;
        self.bytes += open.batch.size_bytes();
        if let Some(replaced) = progress.open.insert(key.1, open) {
            self.open -= 1;
            self.bytes = self.bytes.saturating_sub(replaced.batch.size_bytes());
        }
        if is_ready {
            self.ready.push_back(key);
        }
    }

    fn note_moved(&mut self, to: &Address) {
        if let Some(progress) = self.addresses.get_mut(to)
            && !std::mem::replace(&mut progress.is_moved, true)
        {
            self.moved.push(to.clone());
        }
    }

    /// Forgets an address of which nothing has to be known.
    fn tidy(&mut self, to: &Address) {
        if self.is_complete && self.addresses.get(to).is_some_and(Progress::is_settled) {
            self.addresses.remove(to);
        }
    }
}

#[cfg(test)]
mod tests;
