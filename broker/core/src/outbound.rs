//! One connection's outbound queue: what is written next, what is done when it is full.
//!
//! Segments are encoded bytes, shared between connections or owned by this one. The queue is bounded by the
//! bytes it pins. What happens to a shared segment that does not fit is said by its own [`Class::overflow`] or by
//! who pushes it:
//!
//! | action | done |
//! | --- | --- |
//! | drop oldest | waiting segments make room: those of the least priority first, of these the oldest |
//! | drop newest | the segment is dropped |
//! | conflate | waiting segments with the address and key of a newer one go first, then as for drop oldest |
//! | spill | the segment is left to the store, and its address's later ones too until [`Queue::handle_replayed`] |
//! | close | the segment is dropped; the caller closes the connection |
//!
//! Whatever is not queued, or not any more, is handed back as [`Lost`] and remembered for the reports that the
//! client gets ([`Queue::poll_report`]).
//!
//! Segments without a message, such as a dictionary that the next messages need, are outside of the bound, or they would
//! take the place of what they are sent for.
//!
//! *Invariants.* Only segments of addresses that drop their oldest or conflate make room for others, and none
//! that has a higher priority than the new one. A segment that is partly written is never dropped. Segments of
//! one stream's shard stay in the order they were pushed, whatever their priority. The connection's own frames
//! (receipts, errors) are never dropped; their number is bounded by not reading the peer any more
//! ([`Queue::owes_much`]). Not here: sockets, the store.

mod class;
mod item;
mod latest;
mod reports;
mod room;
mod spilled;

pub use class::{Class, Lost, PRIORITIES, Piece, Segment};
pub use reports::Report;
pub use spilled::Spilled;

use crate::address::Address;
use crate::id::Position;
use crate::settings::Overflow;
use item::Item;
use latest::Latest;
use reports::Reports;
use spilled::Marks;
use std::collections::VecDeque;

/// The queue. `S` is the worker's kind of shared segment.
#[derive(Debug)]
pub struct Queue<S> {
    items: VecDeque<Item<S>>,
    /// Items that are [`Item::Gone`].
    gone: usize,
    /// Bytes of the first item that are written already.
    written: usize,
    shared_bytes: usize,
    /// Of shared segments without a message, outside of the bound.
    bare_bytes: usize,
    own_bytes: usize,
    /// Absent while there have been plain segments only and all of them fitted.
    rare: Option<Box<Rare>>,
}

/// What only some queues need.
#[derive(Debug, Default)]
struct Rare {
    /// Bytes of the shared segments that are not [`Class::is_plain`].
    special_bytes: usize,
    /// Of these, the bytes that may be dropped, by priority.
    droppable_bytes: [usize; PRIORITIES],
    /// Shared segments that expire.
    expiring: usize,
    /// Index before which nothing may be dropped.
    kept_before: usize,
    /// Where the latest segment of each key lies; kept from an overflow until the queue has been empty.
    latest: Option<Latest>,
    spilled: Marks,
    reports: Reports,
}

impl<S> Default for Queue<S> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            gone: 0,
            written: 0,
            shared_bytes: 0,
            bare_bytes: 0,
            own_bytes: 0,
            rare: None,
        }
    }
}

/// Own bytes above which the peer is not read until it reads.
const OWN_BYTES_HIGH: usize = 256 * 1024;
/// Own bytes above which the connection is given up: one read can ask for many answers.
const OWN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Own items larger than this are not appended to, so that written memory is freed.
const OWN_ITEM_BYTES: usize = 16 * 1024;
/// Own bytes above which reports wait, so that they do not add up while nobody reads them.
const REPORT_BELOW_BYTES: usize = 16 * 1024;
/// Queues shrink to nothing above this capacity when they become empty.
const KEPT_CAPACITY: usize = 64;
/// Waiting items that a segment of higher priority looks at; behind more of them it waits.
const PRIORITY_WALK: usize = 64;
/// Items at the front among which nothing is left that has expired: more than one write can reach.
const EXPIRY_WALK: usize = 512;

impl<S: Segment> Queue<S> {
    /// Queues a shared segment so that no more than `bound_bytes` of shared segments wait, or one that is
    /// larger. What is lost by that, which may be the segment itself, is appended to `lost`. After a loss by
    /// [`Overflow::Close`] the connection is to be closed.
    pub fn push_shared(&mut self, segment: S, bound_bytes: usize, lost: &mut Vec<Lost<S>>) {
        let action = segment.class().overflow;
        self.push_shared_or(action, segment, bound_bytes, lost);
    }

    /// As [`Self::push_shared`], but does `action` with the segment when it does not fit. One that is not in the store
    /// cannot be left to it; room is made for it instead.
    #[inline]
    pub fn push_shared_or(
        &mut self,
        action: Overflow,
        segment: S,
        bound_bytes: usize,
        lost: &mut Vec<Lost<S>>,
    ) {
        let bytes = self.shared_bytes + segment.len();
        if self.rare.is_none() && bytes <= bound_bytes && segment.class().is_plain() {
            // Nearly every push; the rest would come to the same.
            self.shared_bytes = bytes;
            return self.items.push_back(Item::Shared(segment));
        }
        self.push_special(action, segment, bound_bytes, lost);
    }

    /// Whether a segment needs no decision: it fits, or its address is spilled and it follows the others.
    pub fn has_room_for(&self, segment: &S, bound_bytes: usize) -> bool {
        let fits = self.shared_bytes == 0 || self.shared_bytes + segment.len() <= bound_bytes;
        fits || self.rare.as_ref().is_some_and(|rare| rare.spilled.has(segment.class()))
    }

    fn push_special(&mut self, action: Overflow, segment: S, bound_bytes: usize, lost: &mut Vec<Lost<S>>) {
        if let Some(rare) = &mut self.rare {
            if let Some(action) = rare.spilled.extend(segment.class()) {
                return self.lose(segment, action, lost);
            }
            self.drop_superseded_by(&segment, lost);
        }
        let need = (self.shared_bytes + segment.len()).saturating_sub(bound_bytes);
        if need > 0
            && self.shared_bytes > 0
            && let Err(action) = self.make_room(action, &segment, bound_bytes, lost)
        {
            return self.lose(segment, action, lost);
        }
        self.insert(segment);
    }

    /// Queues a segment without a message, which later ones need, behind everything else. Such are outside of the bound:
    /// their number is the caller's matter.
    pub fn push_bare(&mut self, segment: S) {
        debug_assert_eq!(segment.frames(), 0, "a message is within the bound");
        self.count(&segment);
        self.items.push_back(Item::Shared(segment));
    }

    /// Queues a segment of a spilled address that was read from the store, behind everything else; gives it
    /// back when there is no room at the moment.
    ///
    /// # Errors
    /// The segment, when it does not fit.
    pub fn push_replayed(&mut self, segment: S, bound_bytes: usize) -> Result<(), S> {
        if self.shared_bytes > 0 && self.shared_bytes + segment.len() > bound_bytes {
            return Err(segment);
        }
        self.count(&segment);
        self.items.push_back(Item::Shared(segment));
        Ok(())
    }

    /// Messages of a spilled address are queued again up to and with `upto`, or are known to be no more. True
    /// when that is all that was spilled: the address's next messages are queued as they come.
    pub fn handle_replayed(&mut self, to: &Address, upto: Position) -> bool {
        self.rare.as_mut().is_none_or(|rare| rare.spilled.handle_replayed(to, upto))
    }

    /// Appends whole frames that only this connection gets and that are never dropped.
    pub fn push_own(&mut self, frames: &[u8]) {
        self.own_bytes += frames.len();
        match self.items.back_mut() {
            Some(Item::Own(bytes)) if bytes.len() < OWN_ITEM_BYTES => bytes.extend_from_slice(frames),
            _ => self.items.push_back(Item::Own(frames.to_vec())),
        }
    }

    /// Puts whole frames in front of everything that is not begun.
    pub fn push_own_first(&mut self, frames: &[u8]) {
        self.own_bytes += frames.len();
        let index = self.first_waiting();
        self.items.insert(index, Item::Own(frames.to_vec()));
        if let Some(latest) = self.rare.as_mut().and_then(|rare| rare.latest.as_mut()) {
            latest.handle_pushed_first();
        }
    }

    /// Takes `count` written bytes off the front and hands each finished shared segment to the iterator, so that the caller can
    /// count its frames.
    pub fn handle_written(&mut self, count: usize) -> Finished<'_, S> {
        self.written += count;
        Finished { queue: self }
    }

    /// Drops what has expired among the items that the next write can reach and gives it to `expired`. What moves up
    /// to their places is looked at, too. Cheap when nothing waits that expires, see [`Self::has_expiring`].
    pub fn handle_time(&mut self, now_unix_ms: u64, expired: &mut Vec<S>) {
        let (mut index, mut left) = (self.first_waiting(), 0);
        while left < EXPIRY_WALK
            && let Some(item) = self.items.get(index)
        {
            match item {
                Item::Shared(segment) if segment.class().has_expired(now_unix_ms) => {
                    expired.extend(self.take(index));
                }
                Item::Shared(_) | Item::Own(_) => left += 1,
                Item::Gone => {}
            }
            index += 1;
        }
        self.tidy();
    }

    /// The next pieces to write, at most `max`, in order; some may be empty, never the first.
    pub fn pieces(&self, max: usize) -> impl Iterator<Item = &[u8]> {
        self.owned_pieces(max).map(|piece| piece.bytes)
    }

    /// As [`Self::pieces`], with the segments in which they lie.
    pub fn owned_pieces(&self, max: usize) -> impl Iterator<Item = Piece<'_, S>> {
        let written = self.written;
        self.items.iter().take(max).enumerate().map(move |(i, item)| Piece {
            bytes: item.bytes().get(if i == 0 { written } else { 0 }..).unwrap_or_default(),
            segment: item.segment(),
        })
    }

    /// Messages that never came to the queue are told as those that it lost.
    pub fn note_dropped(&mut self, to: &Address, action: Overflow, dropped: u64) {
        self.rare.get_or_insert_default().reports.add(to, action, dropped);
    }

    /// What the client is to be told of its losses, one address and action after the other; nothing while many
    /// of its own frames wait.
    pub fn poll_report(&mut self) -> Option<Report> {
        if self.own_bytes > REPORT_BELOW_BYTES {
            return None;
        }
        let reports = &mut self.rare.as_mut()?.reports;
        let report = reports.pop();
        if report.is_none() {
            *reports = Reports::default();
        }
        report
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.items.len() - self.gone
    }

    /// Bytes this queue keeps alive.
    pub const fn pinned_bytes(&self) -> usize {
        self.shared_bytes + self.bare_bytes + self.own_bytes
    }

    /// Bytes of shared segments with messages that are not completely written: what the bound is about.
    pub const fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// Whether so many of the connection's own frames wait that its peer should not be read.
    pub const fn owes_much(&self) -> bool {
        self.own_bytes > OWN_BYTES_HIGH
    }

    /// Whether the connection's own frames are beyond any peer that means well.
    pub const fn owes_too_much(&self) -> bool {
        self.own_bytes > OWN_BYTES_MAX
    }

    /// Whether segments wait that expire.
    pub fn has_expiring(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.expiring > 0)
    }

    /// Whether the client has not been told of all its losses.
    pub fn has_reports(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.reports.is_empty())
    }

    /// The addresses whose messages are left to the store, with what is to be read from there.
    pub fn spilled(&self) -> &[Spilled] {
        self.rare.as_ref().map_or(&[], |rare| rare.spilled.all())
    }

    /// Frames of shared segments that are not completely written.
    pub fn pending_frames(&self) -> u64 {
        let frames = |item: &Item<S>| match item {
            Item::Shared(segment) => u64::from(segment.frames()),
            Item::Own(_) | Item::Gone => 0,
        };
        self.items.iter().map(frames).sum()
    }

    /// Index of the first item of which nothing is written.
    fn first_waiting(&self) -> usize {
        usize::from(self.written > 0)
    }

    /// Puts a segment where its priority says.
    fn insert(&mut self, segment: S) {
        self.count(&segment);
        let index = self.place(segment.class());
        if index == self.items.len() {
            self.items.push_back(Item::Shared(segment));
        } else {
            self.items.insert(index, Item::Shared(segment));
        }
        if let Some(rare) = &mut self.rare {
            rare.kept_before = rare.kept_before.min(index);
            self.note_from(index);
        }
    }

    /// In front of waiting segments of lower priority, but of none of its own stream's shard, nor of frames that
    /// only this connection gets: an answer to `subscribe` precedes the messages.
    fn place(&self, class: &Class) -> usize {
        let end = self.items.len();
        if class.priority == 0 {
            return end;
        }
        let gives_way = |item: &Item<S>| match item {
            Item::Shared(other) => other.class().gives_way_to(class),
            Item::Own(_) => false,
            Item::Gone => true,
        };
        let waiting = self.items.iter().skip(self.first_waiting());
        end - waiting.rev().take(PRIORITY_WALK).take_while(|item| gives_way(item)).count()
    }

    fn lose(&mut self, segment: S, action: Overflow, lost: &mut Vec<Lost<S>>) {
        self.note_dropped(&segment.class().to, action, segment.frames().into());
        lost.push(Lost { segment, action });
    }

    /// Takes a waiting segment out; [`Self::tidy`] must follow.
    fn take(&mut self, index: usize) -> Option<S> {
        let item = self.items.get_mut(index)?;
        if !matches!(item, Item::Shared(_)) {
            return None;
        }
        let Item::Shared(segment) = std::mem::replace(item, Item::Gone) else { return None };
        self.gone += 1;
        self.discount(&segment);
        Some(segment)
    }

    /// Frees the places of what was taken out: at the front at once, elsewhere when they are most of the queue.
    fn tidy(&mut self) {
        if self.gone == 0 {
            return;
        }
        while let Some(Item::Gone) = self.items.front() {
            self.items.pop_front();
            self.gone -= 1;
            self.handle_popped();
        }
        if self.gone > self.items.len() / 2 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.items.retain(|item| !matches!(item, Item::Gone));
        self.gone = 0;
        if let Some(rare) = &mut self.rare {
            rare.kept_before = 0;
        }
        self.renumber();
    }

    fn count(&mut self, segment: &S) {
        if segment.frames() == 0 {
            self.bare_bytes += segment.len();
            return;
        }
        self.shared_bytes += segment.len();
        if !segment.class().is_plain() {
            self.rare.get_or_insert_default().count(segment.class(), segment.len());
        }
    }

    #[inline]
    fn discount(&mut self, segment: &S) {
        if segment.frames() == 0 {
            self.bare_bytes -= segment.len();
            return;
        }
        self.shared_bytes -= segment.len();
        if !segment.class().is_plain()
            && let Some(rare) = &mut self.rare
        {
            rare.discount(segment.class(), segment.len());
        }
    }

    fn pop_finished(&mut self) -> Option<Item<S>> {
        let len = self.items.front()?.bytes().len();
        if self.written < len {
            return None;
        }
        self.written -= len;
        let item = self.items.pop_front()?;
        match &item {
            Item::Shared(segment) => self.discount(segment),
            Item::Own(_) => self.own_bytes -= len,
            Item::Gone => self.gone -= 1,
        }
        self.handle_popped();
        Some(item)
    }

    fn handle_popped(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.handle_popped(self.items.is_empty());
        }
        if self.items.is_empty() && self.items.capacity() > KEPT_CAPACITY {
            self.items = VecDeque::new();
        }
    }
}

impl Rare {
    #[inline(never)]
    fn count(&mut self, class: &Class, bytes: usize) {
        self.special_bytes += bytes;
        self.expiring += usize::from(class.expires_unix_ms > 0);
        let droppable = self.droppable_bytes.get_mut(class.level());
        if let Some(droppable) = droppable.filter(|_| class.is_droppable()) {
            *droppable += bytes;
        }
    }

    #[inline(never)]
    fn discount(&mut self, class: &Class, bytes: usize) {
        self.special_bytes -= bytes;
        self.expiring -= usize::from(class.expires_unix_ms > 0);
        let droppable = self.droppable_bytes.get_mut(class.level());
        if let Some(droppable) = droppable.filter(|_| class.is_droppable()) {
            *droppable -= bytes;
        }
    }

    /// The first item is gone, or one of the first few and those before it moved up.
    #[inline(never)]
    fn handle_popped(&mut self, is_empty: bool) {
        self.kept_before = self.kept_before.saturating_sub(1);
        if is_empty {
            self.latest = None;
        } else if let Some(latest) = &mut self.latest {
            latest.handle_popped();
        }
    }
}

/// The shared segments that a write finished; must be run to its end.
#[derive(Debug)]
pub struct Finished<'a, S> {
    queue: &'a mut Queue<S>,
}

impl<S: Segment> Iterator for Finished<'_, S> {
    type Item = S;

    fn next(&mut self) -> Option<S> {
        loop {
            match self.queue.pop_finished()? {
                Item::Shared(segment) => return Some(segment),
                Item::Own(_) | Item::Gone => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
