//! Catching up: a session reads stored messages of an address before it goes on with live ones.
//!
//! | state | live message of the address | page from the store | next |
//! | --- | --- | --- | --- |
//! | listing (a wildcard), not come to yet | stored: left to the store, else held | – | waiting, per address found |
//! | waiting for its turn | stored: left to the store, else held | – | reading, when the outbound queue is short |
//! | reading | as above | sent, with what was held before it | waiting, or live |
//! | reading | as above | no room for it: thrown away | waiting, until the outbound queue is empty |
//! | reading | as above | sent up to where the session's window is full | parked |
//! | parked | as above | – | waiting, when half of the window is free |
//! | reading | as above | the store failed | waiting, until the next sweep |
//! | reading | as above | a record is damaged | live; the cursor stays before it |
//!
//! Invariants: an address is sent in the order of its positions; one page is read at a time per session and only into
//! a short outbound queue, so a replay of any length costs one page of memory and drops nothing that waits there. Of
//! tracked messages no more are on their way than the session's window holds. Addresses of wildcards are listed in parts,
//! the next one when most of those found before have been read, so that memory does not grow with them. What was read is
//! sent or read again. Held messages are bounded; beyond that they are dropped, counted and told as those of a slow
//! consumer. Not here: what of a session is still to be read (`state`), which addresses a wildcard brings (`listing`), what of
//! a page is sent (`portion`), the reader's side (`read`).

mod listing;
mod portion;
mod read;
mod state;

pub(crate) use listing::Listing;
pub(super) use read::hand_over;
pub(super) use state::Catching;

use super::connection::Connection;
use super::mailbox::Entry;
use super::resume::Seen;
use super::{Worker, acks};
use crate::resumes::Begin;
use portion::Portion;
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::session::Subscription;
use waspmq_core::{Address, Code, Name, Position, Reject, SessionId};
use waspmq_protocol::server;
use waspmq_store::{Page, Store, StoreError};

/// Messages and bytes of one page.
const PAGE_MESSAGES: usize = 512;
const PAGE_BYTES: usize = 256 * 1024;
/// A page has no more messages than its bytes are multiples of this, so that what encodings add stays in proportion.
const PAGE_MESSAGE_BYTES: usize = 256;
/// A page is asked for when the outbound queue pins no more than this.
const LOW_BYTES: usize = 128 * 1024;
/// Pages and [`LOW_BYTES`] are smaller where the outbound queue is: this part of its bound.
const QUEUE_PART: usize = 4;

/// Where a session begins to read.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// Behind the device's cursor; without one, at the first stored message.
    Cursor {
        user: Name,
        device: Option<Name>,
    },
    /// Behind the device's cursor; without one, behind what was published before the user left last, and for a user
    /// who was never seen behind `before`, the last position before the session had the address.
    CursorOrSeen {
        user: Name,
        device: Option<Name>,
        before: Position,
    },
    Earliest,
    /// The newest message.
    Last,
    /// The newest message before this one, which is live and may be stored by now.
    LastBefore(Position),
    /// The newest message up to the end of its shard, of those that are given. For patterns with wildcards.
    LastUpto(Arc<[Position]>),
    Time(u64),
    After(Position),
    /// Behind the device's cursor, or this position where it is the earlier or there is no cursor.
    CursorUpTo {
        user: Name,
        device: Option<Name>,
        upto: Position,
    },
    /// Where a resumed session goes on in each address. For patterns with wildcards.
    Seen(Arc<Seen>),
}

/// A page for one session.
#[derive(Debug)]
pub(crate) struct PageOf {
    session: SessionId,
    to: Address,
    /// Of the reading that asked.
    number: u64,
    /// Where the page began.
    start: Start,
    page: Result<Page, StoreError>,
}

impl PageOf {
    /// Memory of the messages.
    pub(super) fn size_bytes(&self) -> usize {
        self.page.iter().flat_map(|page| &page.messages).map(Batch::size_bytes).sum()
    }
}

impl Start {
    /// A place to begin at that can be kept. `None` for that of a resumed session, which differs by address.
    const fn to_begin(&self) -> Option<Begin> {
        Some(match self {
            Self::Cursor { .. } | Self::CursorOrSeen { .. } => Begin::Cursor,
            Self::Earliest => Begin::Earliest,
            Self::Last | Self::LastBefore(_) | Self::LastUpto(_) => Begin::Last,
            Self::Time(unix_ms) => Begin::Time(*unix_ms),
            Self::After(position) | Self::CursorUpTo { upto: position, .. } => Begin::After(*position),
            Self::Seen(_) => return None,
        })
    }

    /// The position behind which it begins, where that is known.
    const fn after(&self) -> Option<Position> {
        if let Self::After(position) = self { Some(*position) } else { None }
    }
}

const fn place(position: Position) -> (u32, u64) {
    (position.stream.epoch, position.offset)
}

/// The position in front of one.
const fn before(position: Position) -> Position {
    Position { offset: position.offset.saturating_sub(1), ..position }
}

impl Worker {
    /// Begins to read an address for a session, unless it is being read. Live messages of it are kept back from now on.
    pub(super) fn catch_up(&mut self, connection: &mut Connection, to: &Address, start: Start) {
        let acks_behind = connection.cursors.last_sent(to);
        self.begin_reading(connection, to, (start, acks_behind));
    }

    /// As [`Self::catch_up`], for a session that is resumed and has the cursors that it had. Where it goes on behind a position
    /// that its cursor has not passed, the cursor tells of what is read as soon as it moves.
    pub(super) fn catch_up_resumed(&mut self, connection: &mut Connection, to: &Address, start: Start) {
        let is_in_front =
            |cursor: &Position| start.after().is_some_and(|after| place(*cursor) <= place(after));
        let cursor = connection.cursors.cursor(to).filter(is_in_front);
        let acks_behind = cursor.or_else(|| connection.cursors.last_sent(to));
        self.begin_reading(connection, to, (start, acks_behind));
    }

    /// An ack behind `acks_behind` says how far the client has what is read.
    fn begin_reading(
        &mut self,
        connection: &mut Connection,
        to: &Address,
        (start, acks_behind): (Start, Option<Position>),
    ) {
        let Some(begin) = start.to_begin() else { return };
        let shard = self.shared.registry.shard_of(to);
        connection.catching.begin(to, shard, (start, begin, acks_behind));
        self.mark_unsaved(connection);
        self.read_on(connection);
    }

    /// As [`Self::catch_up`]; what is being read is read from `start` behind that.
    fn catch_up_anew(&mut self, connection: &mut Connection, to: &Address, start: Start) {
        if !connection.catching.read_again(to, &start) {
            self.catch_up(connection, to, start);
        }
    }

    /// Forgets what was to be read for a subscription that has ended, as far as no other one wants it.
    pub(super) fn stop_catching(&self, connection: &mut Connection, ended: &Subscription) {
        if ended.queue.is_none() && !connection.catching.is_idle() {
            let number = connection.number;
            connection.catching.stop(&ended.pattern, |to| self.listens(number, to));
        }
    }

    /// Asks for the next page of the session, when there is room for it and none is on its way.
    pub(super) fn read_on(&mut self, connection: &mut Connection) {
        let Some(session) = connection.session_id else { return };
        let Some((number, to)) = connection.catching.next_turn() else { return };
        let queue_part = self.shared.settings.outbound_bytes_max / QUEUE_PART;
        let low_bytes = if self.outbox.is_full() { 0 } else { LOW_BYTES.min(queue_part) };
        if connection.out.pinned_bytes() > low_bytes
            || connection.catching.wants_empty && connection.out.shared_bytes() > 0
        {
            return;
        }
        let to = to.clone();
        let Some(reading) = connection.catching.addresses.get(&to) else { return };
        let (start, wanted) = (reading.start.clone(), to.clone());
        let (mailboxes, worker, registry) =
            (self.shared.mailboxes.clone(), self.number, self.shared.registry.clone());
        let bounds = (PAGE_BYTES.min(queue_part), self.shared.clock.now().unix_ms);
        let read = move |store: &dyn Store| {
            let (start, page) = read::read(store, &wanted, start, bounds);
            // Whoever has stored a message of the page and holds the lock has not handed it over yet. Behind the
            // lock it is in the mailbox before the page, and is not delivered a second time behind it.
            drop(registry.lock(&wanted));
            let page = PageOf { session, to: wanted, number, start, page };
            hand_over(&mailboxes, worker, Entry::Page(Box::new(page)));
        };
        // Full: the sweep asks again.
        if self.shared.journal.read(Box::new(read)).is_ok() {
            connection.catching.handle_asked(&to, self.shared.clock.now_us());
        }
    }

    pub(super) fn handle_page(&mut self, page: PageOf) {
        let PageOf { session, to, number, start, page } = page;
        self.with_session(session, |worker, connection| {
            connection.catching.handle_page(number);
            if connection.catching.reading(&to, number).is_some() && !connection.is_closing() {
                match page {
                    Ok(page) => worker.take_page(connection, (&to, number), (start, page)),
                    Err(error) => worker.handle_unread(connection, (&to, number), (&start, &error)),
                }
            }
            worker.read_on(connection);
            worker.list_on(connection);
        });
    }

    fn take_page(
        &mut self,
        connection: &mut Connection,
        (to, number): (&Address, u64),
        (start, page): (Start, Page),
    ) {
        let Connection { catching, window, session_id, former, .. } = connection;
        let Some(reading) = catching.reading(to, number) else { return };
        let last = page.messages.last().map(|batch| batch.first);
        if let (Start::Last, Some((first, _))) = (&reading.start, reading.live)
            && last.is_none_or(|last| place(first) <= place(last))
        {
            reading.start = Start::LastBefore(first);
            return;
        }
        let has_gap = page.gap;
        let own: Vec<_> = session_id.iter().chain(&*former).copied().collect();
        let Portion { run, held, next, has_stored, is_over, left } =
            Portion::of(reading, (start, page), &own, window);
        if let Some(left) = left
            && run.is_empty()
        {
            return connection.catching.park(number, left);
        }
        let terms = self.terms(&run, to);
        let (segments, expired) = self.encode_alone(&run, (connection.encoding, terms));
        let bytes = segments.iter().map(|segment| segment.len()).sum();
        if !self.outbox.has_room_for_replay(connection, bytes) {
            connection.catching.wants_empty = true;
            return;
        }
        connection.catching.wants_empty = false;
        if has_gap {
            self.tell_gap(connection, to);
        }
        if let Some(reading) = connection.catching.reading(to, number) {
            reading.start = next;
            reading.has_sent |= has_stored;
            let sent = reading.held.drain(..held).collect();
            connection.catching.release(&sent);
        }
        self.counters().dropped_expired.add(expired);
        for segment in segments {
            self.outbox.push_replayed(connection, segment);
        }
        acks::note_sent(connection, &run, terms, self.shared.clock.now_us() / 1_000);
        if is_over {
            self.end_catching(connection, to);
        } else if let Some(left) = left {
            connection.catching.park(number, left);
        } else {
            connection.catching.pass_turn(number);
        }
    }

    /// Acks, or losses, may have made room for what did not fit the session's window.
    pub(super) fn read_behind_window(&mut self, connection: &mut Connection) {
        let Connection { catching, window, .. } = connection;
        if catching.parked_bytes().is_some_and(|bytes| window.is_half_free(bytes)) {
            catching.unpark();
            self.read_on(connection);
        }
    }

    /// The store gave no page. What passes is waited for: live messages go on behind what is stored. What does not is told,
    /// and holds the cursor back, so that the device is sent it when the store is whole again.
    fn handle_unread(
        &mut self,
        connection: &mut Connection,
        (to, number): (&Address, u64),
        (start, error): (&Start, &StoreError),
    ) {
        if passes(error) {
            connection.catching.is_stalled = true;
            if let Some(reading) = connection.catching.reading(to, number)
                && !std::mem::replace(&mut reading.has_failed, true)
            {
                tracing::warn!(%to, %error, "stored messages cannot be read now");
            }
            return;
        }
        tracing::warn!(%to, %error, "stored messages cannot be read");
        connection.cursors.hold(to, start.after(), self.end_of(to));
        connection.catching.note_unread(to);
        self.tell_gap(connection, to);
        self.end_catching(connection, to);
        let message = format!("stored messages of {to} cannot be read");
        self.refuse(connection, None, Reject::new(Code::StorageFailed, message).retry_after(1_000));
    }

    /// Tells the client that messages which it had not seen cannot be sent: they were removed, or cannot be read.
    pub(super) fn tell_gap(&mut self, connection: &mut Connection, to: &Address) {
        connection.catching.has_gap = true;
        let overflow = server::Overflow { to: to.to_string(), dropped: 0, action: None };
        self.send(connection, &server::Frame::Overflow(overflow));
    }

    /// Once a second: goes on for all sessions whose page was refused by a full journal, failed or was lost.
    pub(super) fn read_on_all(&mut self) {
        let now_us = self.shared.clock.now_us();
        let reads = |connection: &Connection| !connection.catching.is_idle();
        let numbers: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.as_deref().is_some_and(reads))
            .filter_map(|(number, _)| u32::try_from(number).ok())
            .collect();
        for number in numbers {
            if let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) {
                connection.catching.handle_time(now_us);
                self.read_behind_window(&mut connection);
                self.read_on(&mut connection);
                self.list_on(&mut connection);
                self.put_back(number, connection);
            }
        }
    }

    /// Goes on live with an address, or reads it once more where that was asked for.
    fn end_catching(&mut self, connection: &mut Connection, to: &Address) {
        let Some(reading) = connection.catching.addresses.get(to) else { return };
        let read_upto = reading.start.after();
        let last = read_upto.filter(|_| reading.has_sent);
        let end = self.end_of(to);
        let Some(over) = connection.catching.end(to, (last, end)) else { return };
        self.mark_unsaved(connection);
        // Everything that was left to the store by now has been read, or is there no more.
        let mut spilled = connection.out.spilled().iter().filter(|spilled| spilled.to == *to);
        if let Some(upto) = spilled.next().map(|spilled| spilled.last) {
            connection.out.handle_replayed(to, upto);
        }
        for batch in over.held {
            self.deliver_alone(connection, &[batch]);
        }
        if let Some(start) = over.again {
            connection.catching.note_passed(over.shard);
            self.catch_up(connection, to, start);
        }
    }
}

/// Whether the same reading may work later. A store that has been stopped ends its sessions anyway.
const fn passes(error: &StoreError) -> bool {
    error.is_retryable() || matches!(error, StoreError::Stopped)
}

pub(super) fn busy() -> Reject {
    Reject::new(Code::Overloaded, "more reads wait for the store than it takes").retry_after(200)
}

#[cfg(test)]
mod tests;
