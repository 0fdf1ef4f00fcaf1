//! Long messages on streams of their own, in both directions.
//!
//! *To clients.* A message is handed to quinn piece by piece, by a task of its own, which waits while the connection's stream
//! does: what is on that one passes. [`UNDER_WAY_MAX`] of a connection are under way until the client's side has acknowledged
//! them; what of them is not handed over counts for the connection's outbound queue.
//!
//! *From clients.* A stream brings publishes, with their lengths in front. What is not complete counts for the worker's bound of
//! inbound bytes. A publish that waits for the journal holds up its stream and no other.
//!
//! *Invariants.* A message arrives as a whole or not at all. One whose connection ends before it was handed over is counted as
//! those in the outbound queue are.

use super::beside::Beside;
use super::chunks::SHARED_UPTO_BYTES;
use super::connection::Connection;
use super::counters::{Counters, Ended};
use super::link::Link;
use super::outbox::{Outbox, count_delivered};
use super::room::{Held, Pause};
use super::segment::Shared;
use super::tasks::{Cell, wait_for_mailboxes};
use super::{This, Worker};
use crate::clock::Moment;
use bytes::Bytes;
use std::io;
use std::rc::{Rc, Weak};
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;
use waspmq_core::limits::PRIORITY_MAX;
use waspmq_core::outbound::Segment as _;
use waspmq_core::{Close, Code, Reject};
use waspmq_protocol::stream;
use waspmq_transport::quic::{Channel, SideOpening, SideReceiver, SideSender, SideStreams};

/// Messages of one connection that are on streams of their own at a time. One more goes on the connection's stream.
const UNDER_WAY_MAX: u8 = 16;
/// Bytes that are handed over before others run.
const WRITE_BYTES: usize = 64 * 1024;

/// What a connection has beside its stream.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    /// Messages that its peer has not acknowledged as a whole.
    pub(crate) under_way: u8,
    /// Bytes of those that were not handed over as a whole.
    pub(crate) unwritten_bytes: usize,
    /// What its peer sent of publishes that are not complete, or wait.
    pub(crate) held_bytes: usize,
    /// Told when the connection's stream does not wait any more.
    pub(crate) wake: Option<Rc<Notify>>,
}

/// A message on its way.
struct Transfer {
    number: u32,
    link: Link,
    segment: Shared,
}

/// Sends a segment on a stream of its own; false when it has to go on the connection's.
pub(super) fn send(
    connection: &mut Connection,
    segment: &Shared,
    (outbox, worker, counters): (&mut Outbox, &This, &Counters),
) -> bool {
    let Link::Quic(channel) = &connection.link else { return false };
    let Some(worker) = worker.upgrade() else { return false };
    let has_room = connection.sides.under_way < UNDER_WAY_MAX && outbox.has_room_beside(connection, segment);
    let Some(opening) = has_room.then(|| channel.open_side()).flatten() else {
        counters.streams.full.add(1);
        return false;
    };
    connection.sides.under_way += 1;
    outbox.begin_beside(connection, segment.len());
    let transfer =
        Transfer { number: connection.number, link: connection.link.clone(), segment: segment.clone() };
    spawn_local(transfer.run(worker, opening));
    true
}

impl Transfer {
    async fn run(self, worker: Cell, opening: SideOpening) {
        let written = self.write(&worker, opening).await;
        worker.borrow_mut().note_side_written(&self, written.as_ref().err());
        let Self { number, link, segment } = self;
        drop(segment);
        if let Ok(stream) = written {
            stream.finish().await;
        }
        worker.borrow_mut().note_side_over(number, &link);
    }

    async fn write(&self, worker: &Cell, opening: SideOpening) -> io::Result<SideSender> {
        // Behind the connection's stream, which has 0.
        let priority = i32::from(self.segment.class().priority) - i32::from(PRIORITY_MAX) - 1;
        let mut stream = opening.opened(priority).await?;
        let bytes = self.segment.bytes();
        let mut written = 0;
        while written < bytes.len() {
            self.wait_for_main(worker).await?;
            let end = bytes.len().min(written + WRITE_BYTES);
            let chunk = bytes.slice(written..end);
            // As on the connection's stream: what is held until the peer has acknowledged it holds no more than that.
            let is_shared = bytes.len() <= SHARED_UPTO_BYTES;
            stream.write(if is_shared { chunk } else { Bytes::copy_from_slice(&chunk) }).await?;
            written = end;
            yield_now().await;
        }
        Ok(stream)
    }

    /// Waits while the connection's stream waits for the network: what is on it goes first.
    async fn wait_for_main(&self, worker: &Cell) -> io::Result<()> {
        loop {
            let wake = {
                let mut worker = worker.borrow_mut();
                let Some(connection) = worker.connection_of(self.number, &self.link) else {
                    return Err(io::ErrorKind::NotConnected.into());
                };
                if !connection.blocked {
                    return Ok(());
                }
                connection.sides.wake.get_or_insert_default().clone()
            };
            wake.notified().await;
        }
    }
}

/// Takes the streams that a client opens, until its connection ends.
pub(super) async fn accept(worker: Cell, number: u32, channel: Weak<Channel>, streams: SideStreams) {
    while let Some(stream) = streams.next().await {
        spawn_local(Receiving::new(number, channel.clone()).run(worker.clone(), stream));
    }
}

/// What is read of one stream of a client.
pub(super) struct Receiving {
    number: u32,
    channel: Weak<Channel>,
    /// Of a message that is not complete.
    pub(super) partial: Vec<u8>,
    /// The rest of a message, which begins with a publish that waits for the journal.
    pub(super) held: Option<Held>,
    /// What of this counts for the connection.
    charged_bytes: usize,
    is_clean: bool,
}

/// What is done next about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    /// What it brought waits for the journal.
    Wait,
    /// Nothing more is taken of it.
    Over,
}

impl Receiving {
    pub(super) const fn new(number: u32, channel: Weak<Channel>) -> Self {
        Self { number, channel, partial: Vec::new(), held: None, charged_bytes: 0, is_clean: true }
    }

    async fn run(mut self, worker: Cell, mut stream: SideReceiver) {
        let is_whole = self.read(&worker, &mut stream).await;
        worker.borrow_mut().end_side(&mut self, is_whole);
    }

    /// Reads to the end; false when that does not come.
    async fn read(&mut self, worker: &Cell, stream: &mut SideReceiver) -> bool {
        loop {
            if self.wait_for_room(worker).await.is_none() {
                return false;
            }
            let count = match stream.read(&mut self.partial).await {
                Ok(0) => return true,
                Ok(count) => count,
                Err(_) => return false,
            };
            let mut next = worker.borrow_mut().take_side(self, count);
            while next == Next::Wait {
                if self.wait_for_room(worker).await.is_none() {
                    return false;
                }
                next = worker.borrow_mut().take_side(self, 0);
            }
            if next == Next::Over {
                return false;
            }
            yield_now().await;
        }
    }

    /// Back-pressure, as for the connection's stream; `None` when the connection is gone.
    async fn wait_for_room(&self, worker: &Cell) -> Option<()> {
        loop {
            let link = Link::Quic(self.channel.upgrade()?);
            let pause = worker.borrow_mut().pause_side(self.number, &link, self.held.is_some())?;
            drop(link);
            match pause {
                Pause::Wait(paused, most) => drop(timeout(most, paused.notified()).await),
                Pause::GoOn { .. } => break,
            }
        }
        wait_for_mailboxes(worker).await;
        Some(())
    }

    fn held_bytes(&self) -> usize {
        self.partial.capacity() + self.held.as_ref().map_or(0, Held::size_bytes)
    }
}

impl Worker {
    /// A connection, while it is there.
    pub(super) fn connection_of(&mut self, number: u32, link: &Link) -> Option<&mut Connection> {
        let slot = self.connections.get_mut(number as usize)?;
        slot.as_deref_mut().filter(|connection| connection.link.is(link))
    }

    /// A message was handed over as a whole, or will not be any more.
    fn note_side_written(&mut self, transfer: &Transfer, error: Option<&io::Error>) {
        let Transfer { number, link, segment } = transfer;
        let now_us = self.shared.clock.now_us();
        let counters = &self.shared.mailboxes.of(self.number).counters;
        let slot = self.connections.get_mut(*number as usize).and_then(Option::as_deref_mut);
        let connection = slot.filter(|connection| connection.link.is(link));
        let connection = connection.map(|connection| {
            self.outbox.end_beside(connection, segment.len());
            &*connection
        });
        let connection = match (connection, error) {
            (Some(connection), None) => connection,
            (_, Some(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return counters.streams.stopped.add(1);
            }
            (_, _) => return counters.dropped_connection_lost.add(u64::from(segment.frames())),
        };
        counters.streams.sent.add(1);
        counters.bytes_written.add(segment.len() as u64);
        let of = segment.segment();
        let delivered = Some((of.kind, of.published_us, u64::from(segment.frames())));
        count_delivered(counters, connection.transport, delivered, now_us);
    }

    /// A stream of a connection is over: one that is closing may wait for that.
    fn note_side_over(&mut self, number: u32, link: &Link) {
        let slot = self.connections.get_mut(number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(link))) else { return };
        connection.sides.under_way -= 1;
        if connection.is_closing() && connection.sides.under_way == 0 {
            self.outbox.mark(&mut connection);
        }
        self.put_back(number, connection);
    }

    /// Handles what is complete of a stream.
    fn take_side(&mut self, side: &mut Receiving, count: usize) -> Next {
        let Some(channel) = side.channel.upgrade() else { return Next::Over };
        let link = Link::Quic(channel);
        let slot = self.connections.get_mut(side.number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(&link))) else {
            return Next::Over;
        };
        if !connection.is_closing() {
            self.take_side_messages(&mut connection, side, count);
        }
        self.charge_side(&mut connection, side);
        let next = match side.held {
            _ if connection.is_closing() => Next::Over,
            Some(_) => Next::Wait,
            None => Next::Read,
        };
        self.put_back(side.number, connection);
        self.settle();
        next
    }

    pub(super) fn take_side_messages(
        &mut self,
        connection: &mut Connection,
        side: &mut Receiving,
        count: usize,
    ) {
        let now = self.shared.clock.now();
        connection.heard_us = now.us;
        self.counters().bytes_read.add(count as u64);
        if let Some(Held { frames, plan }) = side.held.take() {
            self.planned = plan;
            self.take_side_message(connection, (side, &frames), now);
        }
        let partial = std::mem::take(&mut side.partial);
        let mut consumed = 0;
        while side.held.is_none() && !connection.is_closing() {
            let Some(rest) = partial.get(consumed..) else { break };
            let Some((length, length_bytes)) = stream::length(rest) else { break };
            let limit = self.shared.settings.message_bytes_max;
            let Some(length) = usize::try_from(length).ok().filter(|&length| length <= limit) else {
                self.finish_batch(connection);
                let message = format!("a message may have {limit} bytes here");
                self.refuse(connection, None, Reject::new(Code::MessageTooLarge, message));
                break;
            };
            let Some(message) = rest.get(length_bytes..length_bytes + length) else { break };
            consumed += length_bytes + length;
            self.take_side_message(connection, (side, message), now);
        }
        side.partial = partial;
        side.partial.drain(..consumed);
        if side.partial.is_empty() {
            side.partial = Vec::new();
        }
        self.planned = None;
        self.finish_batch(connection);
        if connection.out.owes_too_much() {
            let close = (Close::Overloaded.number(), "too many answers are not read");
            self.close_with(connection, close, Ended::Overloaded);
        }
    }

    fn take_side_message(
        &mut self,
        connection: &mut Connection,
        (side, message): (&mut Receiving, &[u8]),
        now: Moment,
    ) {
        let took = self.take_beside(connection, message, Beside::Stream, now);
        side.is_clean &= took.is_clean;
        if let Some(rest) = took.waits {
            side.held = Some(Held { frames: rest.to_vec(), plan: self.planned.take() });
        }
    }

    fn charge_side(&mut self, connection: &mut Connection, side: &mut Receiving) {
        let held_bytes = side.held_bytes();
        let others = connection.sides.held_bytes - side.charged_bytes;
        connection.sides.held_bytes = others + held_bytes;
        side.charged_bytes = held_bytes;
        self.charge_held(connection);
    }

    /// Nothing more comes of a stream. What is left is the beginning of a message.
    fn end_side(&mut self, side: &mut Receiving, is_whole: bool) {
        let is_cut = is_whole && !side.partial.is_empty();
        let counts = &self.counters().streams;
        match (is_whole, side.is_clean && !is_cut) {
            (true, true) => counts.taken.add(1),
            (true, false) => counts.refused.add(1),
            (false, _) => counts.reset.add(1),
        }
        side.partial = Vec::new();
        side.held = None;
        let Some(channel) = side.channel.upgrade() else { return };
        let link = Link::Quic(channel);
        let slot = self.connections.get_mut(side.number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(&link))) else { return };
        if is_cut && !connection.is_closing() {
            let reject = Reject::new(Code::InvalidFrame, "a stream ended within a message");
            self.refuse(&mut connection, None, reject);
        }
        self.charge_side(&mut connection, side);
        self.put_back(side.number, connection);
    }
}
