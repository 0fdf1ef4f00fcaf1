//! Writing: which connections have something to write, and one write per connection and turn.

use super::chunks::Chunks;
use super::connection::{Connection, Stage};
use super::counters::{Counters, Ended, Transport};
use super::dictionaries::{self, Telling};
use super::framing::Framing;
use super::link::Link;
use super::posted::Http;
use super::segment::Shared;
use super::tls;
use crate::clock::Moment;
use crate::dictionaries::Dictionary;
use hashbrown::HashMap;
use std::io::{ErrorKind, IoSlice};
use tokio::sync::Notify;
use waspmq_core::delivery::Cause;
use waspmq_core::outbound::{Lost, Segment};
use waspmq_core::policy::{Overflowed, Overflowing};
use waspmq_core::registry;
use waspmq_core::settings::Overflow;
use waspmq_core::{Address, Kind, Position};
use waspmq_policy::WorkerPolicies;

/// The dirty list and the accounts of all outbound queues of a worker.
#[derive(Debug)]
pub(super) struct Outbox {
    dirty: Vec<u32>,
    pub(super) wake: std::rc::Rc<Notify>,
    /// Bytes that the queues of all connections pin.
    pinned_bytes: usize,
    connection_bytes_max: usize,
    worker_bytes_max: usize,
    /// Messages by what was done with them because a queue was full, in the order of [`Overflow::ALL`].
    pub(super) acted: [u64; Overflow::ALL.len()],
    /// Connections to be closed because they do not keep up.
    slow: Vec<u32>,
    /// Connections that are to read an address from the store, from this message on.
    spilled: Vec<(u32, Address, Position)>,
    /// What was dropped and why, until it is taken from what its connection has in flight.
    losses: Vec<(u32, Shared, Cause)>,
    /// Used during a push.
    lost: Vec<Lost<Shared>>,
    /// Used during a flush.
    expired: Vec<Shared>,
    scratch: Vec<u8>,
    chunks: Chunks,
    /// Dictionaries sent so far.
    pub(super) dictionaries_sent: u64,
    /// Frames that connections were sent lately.
    dictionary_frames: HashMap<(u32, Telling, Framing), Shared, foldhash::fast::RandomState>,
}

/// Queues keep this much even when the worker's bound is reached, so that a healthy connection goes on.
const FLOOR_BYTES: usize = 64 * 1024;
/// Up to this many bytes, pieces are copied together for one plain write: cheaper than a vectored one.
const COPY_BYTES: usize = 16 * 1024;
/// Pieces of one vectored write.
const PIECES: usize = 64;
/// Frames of dictionaries that are kept for other connections; with one more, all are made anew.
const DICTIONARY_FRAMES_MAX: usize = 64;
/// Writes of one connection in one turn, so that one fast reader does not starve the others.
const WRITES_PER_TURN: usize = 8;

/// What a flush left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    Empty,
    /// More to write in the next turn.
    More,
    /// The socket takes no more.
    Blocked,
    /// The connection is broken.
    Broken,
}

impl Outbox {
    pub(super) fn new(connection_bytes_max: usize, worker_bytes_max: usize) -> Self {
        Self {
            dirty: Vec::new(),
            wake: std::rc::Rc::default(),
            pinned_bytes: 0,
            connection_bytes_max,
            worker_bytes_max,
            acted: [0; Overflow::ALL.len()],
            slow: Vec::new(),
            spilled: Vec::new(),
            losses: Vec::new(),
            lost: Vec::new(),
            expired: Vec::new(),
            scratch: Vec::new(),
            chunks: Chunks::default(),
            dictionaries_sent: 0,
            dictionary_frames: HashMap::default(),
        }
    }

    /// Queues a shared segment, or does what its address says about a full queue. False when the connection is
    /// to be closed, see [`Self::take_slow`], and gets nothing more.
    ///
    /// `policies` are asked first when the segment does not fit; there are none where none is bound to the address.
    pub(super) fn push(
        &mut self,
        connection: &mut Connection,
        segment: Shared,
        policies: Option<&mut WorkerPolicies>,
    ) -> bool {
        self.give_dictionary(connection, &segment);
        let bound = self.bound_of(connection);
        let before = connection.out.pinned_bytes();
        match policies {
            Some(policies) if !connection.out.has_room_for(&segment, bound) => {
                let action = decided(policies, connection, (&segment, bound));
                connection.out.push_shared_or(action, segment, bound, &mut self.lost);
            }
            _ => connection.out.push_shared(segment, bound, &mut self.lost),
        }
        self.settle(before, connection);
        self.mark(connection);
        self.lost.is_empty() || self.handle_lost(connection)
    }

    /// Messages for a connection that are not stored were dropped before they came to its queue: its client is told. They do not come
    /// later, as what is spilled does.
    pub(super) fn note_dropped(
        &mut self,
        connection: &mut Connection,
        (to, action): (&Address, Overflow),
        dropped: u64,
    ) {
        let action = if action == Overflow::Spill { Overflow::DropNewest } else { action };
        connection.out.note_dropped(to, action, dropped);
        connection.dropped += dropped;
        self.mark(connection);
    }

    /// Whether a segment needs nothing to be done about a full queue.
    pub(super) fn has_room(&self, connection: &Connection, segment: &Shared) -> bool {
        connection.out.has_room_for(segment, self.bound_of(connection))
    }

    /// Whether a segment may go on a stream of its own: half of the room is for what is on the connection's.
    pub(super) fn has_room_beside(&self, connection: &Connection, segment: &Shared) -> bool {
        let unwritten_bytes = connection.sides.unwritten_bytes;
        let fits = unwritten_bytes + segment.len() <= self.bound() / 2;
        (fits || unwritten_bytes == 0) && connection.out.shared_bytes() <= self.bound() / 2
    }

    /// A segment that is not in the queue is to be written.
    pub(super) const fn begin_beside(&mut self, connection: &mut Connection, bytes: usize) {
        connection.sides.unwritten_bytes += bytes;
        self.pinned_bytes += bytes;
    }

    /// It is written, or given up.
    pub(super) const fn end_beside(&mut self, connection: &mut Connection, bytes: usize) {
        connection.sides.unwritten_bytes -= bytes;
        self.pinned_bytes -= bytes;
    }

    /// Bytes of shared segments that may wait for a connection.
    const fn bound(&self) -> usize {
        if self.is_full() { FLOOR_BYTES } else { self.connection_bytes_max }
    }

    /// Bytes of shared segments that may wait in its queue.
    fn bound_of(&self, connection: &Connection) -> usize {
        let bound = self.bound();
        bound.saturating_sub(connection.sides.unwritten_bytes).max(bound / 2)
    }

    /// Sends the dictionary that a segment needs, unless the connection has it.
    fn give_dictionary(&mut self, connection: &mut Connection, segment: &Shared) {
        let Some(dictionary) = segment.segment().dictionary() else { return };
        if let Some(telling) = connection.dictionaries.tell(dictionary) {
            self.dictionaries_sent += 1;
            let frame = self.dictionary_frame(dictionary, (telling, connection.encoding.framing));
            let before = connection.out.pinned_bytes();
            connection.out.push_bare(frame);
            self.settle(before, connection);
            self.mark(connection);
            connection.note_dictionaries();
        }
    }

    /// The frame that tells of a dictionary, shared by all connections that are told alike.
    fn dictionary_frame(
        &mut self,
        dictionary: &Dictionary,
        (telling, framing): (Telling, Framing),
    ) -> Shared {
        if self.dictionary_frames.len() >= DICTIONARY_FRAMES_MAX {
            self.dictionary_frames.clear();
        }
        let made = || Shared::of_dictionary(dictionaries::frame(dictionary, (telling, framing)));
        self.dictionary_frames.entry((dictionary.id, telling, framing)).or_insert_with(made).clone()
    }

    /// Counts what did not stay in a queue. Spilled messages are not dropped: they come from the store later.
    fn handle_lost(&mut self, connection: &mut Connection) -> bool {
        let mut keeps_up = true;
        for Lost { segment, action } in self.lost.drain(..) {
            let frames = u64::from(segment.frames());
            if let Some((_, acted)) = Overflow::ALL.iter().zip(&mut self.acted).find(|(of, _)| **of == action)
            {
                *acted += frames;
            }
            if action == Overflow::Spill {
                let class = segment.class();
                self.spilled.push((connection.number, class.to.clone(), class.first));
            } else {
                connection.dropped += frames;
            }
            keeps_up &= action != Overflow::Close;
            // What is spilled is sent later; a session that is closed ends with everything it has in flight.
            if !matches!(action, Overflow::Spill | Overflow::Close) {
                self.losses.push((connection.number, segment, Cause::QueueFull));
            }
        }
        if !keeps_up {
            self.slow.push(connection.number);
        }
        keeps_up
    }

    /// What was dropped on its way and why, by connection.
    pub(super) fn take_losses(&mut self) -> Vec<(u32, Shared, Cause)> {
        std::mem::take(&mut self.losses)
    }

    pub(super) const fn has_losses(&self) -> bool {
        !self.losses.is_empty()
    }

    /// A connection that is to read an address from the store, from this message on.
    pub(super) fn take_spilled(&mut self) -> Option<(u32, Address, Position)> {
        (!self.spilled.is_empty()).then(|| self.spilled.remove(0))
    }

    /// Whether a page that was read from the store fits. A queue that is empty takes a page of any size, so that a
    /// replay goes on whatever the bound is.
    pub(super) const fn has_room_for_replay(&self, connection: &Connection, bytes: usize) -> bool {
        let waiting = connection.out.shared_bytes();
        waiting == 0 || waiting + connection.sides.unwritten_bytes + bytes <= self.connection_bytes_max
    }

    /// Queues a segment of a page for which there is room.
    pub(super) fn push_replayed(&mut self, connection: &mut Connection, segment: Shared) {
        self.give_dictionary(connection, &segment);
        let before = connection.out.pinned_bytes();
        // The page's first segments do not stand in the way of its others: there is no bound here that it could miss.
        if connection.out.push_replayed(segment, usize::MAX).is_ok() {
            self.settle(before, connection);
            self.mark(connection);
        }
    }

    /// A connection that is to be closed because it does not keep up.
    pub(super) fn take_slow(&mut self) -> Option<u32> {
        self.slow.pop()
    }

    /// Queues frames for this connection alone, in front of everything that is not begun.
    pub(super) fn push_own_first(&mut self, connection: &mut Connection, frames: &[u8]) {
        let before = connection.out.pinned_bytes();
        connection.out.push_own_first(frames);
        self.settle(before, connection);
        self.mark(connection);
    }

    /// Drops what expired while it waited, see [`Self::take_losses`]; gives the number of messages.
    pub(super) fn drop_expired(&mut self, connection: &mut Connection, now_unix_ms: u64) -> u64 {
        let before = connection.out.pinned_bytes();
        connection.out.handle_time(now_unix_ms, &mut self.expired);
        self.settle(before, connection);
        let dropped = self.expired.iter().map(|segment| u64::from(segment.frames())).sum();
        let number = connection.number;
        self.losses.extend(self.expired.drain(..).map(|segment| (number, segment, Cause::Expired)));
        connection.dropped += dropped;
        dropped
    }

    /// Queues frames for this connection alone.
    pub(super) fn push_own(&mut self, connection: &mut Connection, frames: &[u8]) {
        let before = connection.out.pinned_bytes();
        connection.out.push_own(frames);
        self.settle(before, connection);
        self.mark(connection);
    }

    /// Puts a connection on the list of those to write.
    pub(super) fn mark(&mut self, connection: &mut Connection) {
        if connection.dirty || connection.blocked {
            return;
        }
        connection.dirty = true;
        if self.dirty.is_empty() {
            self.wake.notify_one();
        }
        self.dirty.push(connection.number);
    }

    /// Takes the list; its connections are to be flushed.
    pub(super) fn take_dirty(&mut self, into: &mut Vec<u32>) {
        std::mem::swap(&mut self.dirty, into);
    }

    /// Forgets what a connection still had to be written.
    pub(super) fn forget(&mut self, connection: &Connection) {
        self.pinned_bytes -=
            connection.out.pinned_bytes() + tls::sealed_bytes(connection) + connection.sides.unwritten_bytes;
    }

    /// Whether the worker's queues together are at their bound.
    pub(super) const fn is_full(&self) -> bool {
        self.pinned_bytes >= self.worker_bytes_max
    }

    pub(super) const fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Writes what the socket takes, with a bounded number of calls, but for what has expired; `now` has the time of day where
    /// something expires.
    pub(super) fn flush(&mut self, connection: &mut Connection, counters: &Counters, now: Moment) -> Flushed {
        let sealed = tls::sealed_bytes(connection);
        let flushed = self.flush_queue(connection, counters, now);
        self.note_sealed(sealed, tls::sealed_bytes(connection));
        flushed
    }

    /// What TLS has sealed and the socket not taken became another number of bytes.
    pub(super) const fn note_sealed(&mut self, before: usize, now: usize) {
        self.pinned_bytes = self.pinned_bytes + now - before;
    }

    fn flush_queue(&mut self, connection: &mut Connection, counters: &Counters, now: Moment) -> Flushed {
        let now_us = now.us;
        connection.dirty = false;
        for _ in 0..WRITES_PER_TURN {
            if connection.out.has_expiring() {
                counters.dropped_expired.add(self.drop_expired(connection, now.unix_ms));
            }
            if connection.out.is_empty() {
                return tls::flush_rest(connection);
            }
            let written = match self.write(connection) {
                Ok(0) => return Flushed::Broken,
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Flushed::Broken,
            };
            counters.bytes_written.add(written as u64);
            let before = connection.out.pinned_bytes();
            let mut delivered: Option<(Kind, u64, u64)> = None;
            let Connection { out, http, transport, .. } = &mut *connection;
            let mut events = http.as_deref_mut().and_then(Http::events);
            for finished in out.handle_written(written) {
                let segment = finished.segment();
                if let Some(events) = &mut events {
                    events.note_written(finished.class());
                }
                let frames = u64::from(finished.frames());
                match &mut delivered {
                    Some((kind, us, count)) if *kind == segment.kind && *us == segment.published_us => {
                        *count += frames
                    }
                    _ => {
                        count_delivered(counters, *transport, delivered, now_us);
                        delivered = Some((segment.kind, segment.published_us, frames));
                    }
                }
            }
            count_delivered(counters, connection.transport, delivered, now_us);
            if connection.http.is_some() {
                note_events(connection, written, now_us);
            }
            self.settle(before, connection);
        }
        if connection.out.is_empty() { tls::flush_rest(connection) } else { Flushed::More }
    }

    fn write(&mut self, connection: &mut Connection) -> std::io::Result<usize> {
        let (link, out) = (&connection.link, &connection.out);
        if let Link::Quic(channel) = link {
            return self.chunks.write(channel, out);
        }
        if out.len() == 1 && connection.tls.is_none() {
            return out.pieces(1).next().map_or(Ok(0), |piece| link.try_write(piece));
        }
        if out.pinned_bytes() <= COPY_BYTES && connection.tls.is_none() {
            self.scratch.clear();
            out.pieces(usize::MAX).for_each(|piece| self.scratch.extend_from_slice(piece));
            return link.try_write(&self.scratch);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(out.pieces(PIECES)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match &mut connection.tls {
            None => link.try_write_vectored(slices),
            Some(session) => tls::write(session, link, slices),
        }
    }

    fn settle(&mut self, before: usize, connection: &Connection) {
        self.pinned_bytes = self.pinned_bytes + connection.out.pinned_bytes() - before;
    }
}

/// What a policy says about a segment that does not fit.
fn decided(
    policies: &mut WorkerPolicies,
    connection: &Connection,
    (segment, bound): (&Shared, usize),
) -> Overflow {
    let class = segment.class();
    let name = |of: &registry::Session| {
        format!("{}/{}/{}", of.user, of.device.as_ref().map_or("", |device| device.as_str()), of.id)
    };
    let recipient = connection.identity().map(name).unwrap_or_default();
    policies.overflow(&Overflowed {
        to: &class.to,
        recipient: &recipient,
        priority: class.priority,
        size_bytes: segment.len(),
        queued_bytes: connection.out.shared_bytes(),
        queued_bytes_max: bound,
        configured: class.overflow,
    })
}

/// What was written to a connection that is sent events: its client is told how far it was sent, and is there.
fn note_events(connection: &mut Connection, written: usize, now_us: u64) {
    let Connection { out, http, .. } = &mut *connection;
    let Some(events) = http.as_deref_mut().and_then(Http::events) else { return };
    events.note_bytes(written);
    if let Some(id) = events.take_id(out.is_empty()) {
        out.push_own_first(&id);
    }
    // It says nothing itself: who takes what it is sent is there.
    connection.heard_us = now_us;
    connection.pinged = false;
}

/// A segment that was written at once.
pub(super) fn count_whole(counters: &Counters, transport: Transport, segment: &Shared, now_us: u64) {
    let of = segment.segment();
    let delivered = Some((of.kind, of.published_us, u64::from(segment.frames())));
    count_delivered(counters, transport, delivered, now_us);
}

pub(super) fn count_delivered(
    counters: &Counters,
    transport: Transport,
    delivered: Option<(Kind, u64, u64)>,
    now_us: u64,
) {
    if let Some((kind, published_us, frames)) = delivered {
        counters.delivered.of(transport).of(kind).add(frames);
        // What was read from the store was published at a time that this clock does not know.
        if published_us != 0 {
            counters.delivery_latency.of(kind).observe(now_us.saturating_sub(published_us), frames);
        }
    }
}

/// Why a connection that is closing closes; a peer that just went away otherwise.
pub(super) const fn end_of(connection: &Connection) -> Ended {
    match connection.stage {
        Stage::Closing { reason, .. } => reason,
        Stage::Http | Stage::Open => Ended::ByPeer,
    }
}
