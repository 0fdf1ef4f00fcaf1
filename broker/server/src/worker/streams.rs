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
use super::connection::Connection;
use super::counters::{Counters, Ended};
use super::link::Link;
use super::outbox::{Outbox, count_whole};
use super::room::{Held, Pause};
use super::segment::Shared;
use super::tasks::{Cell, wait_for_mailboxes};
use super::{This, Worker};
use crate::clock::Moment;
use bytes::Bytes;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Weak;
use std::task::{Poll, Waker, ready};
use std::time::Duration;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};
use waspmq_core::limits::{JOURNAL_WAIT_MS, PRIORITY_MAX};
use waspmq_core::outbound::Segment as _;
use waspmq_core::{Code, Reject};
use waspmq_protocol::stream::{self, Front};
use waspmq_transport::quic::{Channel, SideReceiver, SideSender, SideStreams};
use waspmq_transport::websocket::close_code;

/// Messages of one connection that are on streams of their own at a time. One more goes on the connection's stream.
const UNDER_WAY_MAX: u8 = 16;
/// Bytes that are handed over before others run. A segment that is longer is copied so far each time: what is held until the peer
/// has acknowledged it holds no more than that.
const WRITE_BYTES: usize = 64 * 1024;

/// How long a client's end waits for what it sent on streams of their own: longer than any of it waits for the journal.
const LEAVE_WAIT: Duration = Duration::from_millis(JOURNAL_WAIT_MS + 1_000);

/// What a connection has beside its stream.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    /// Messages that its peer has not acknowledged as a whole.
    pub(crate) under_way: u8,
    /// Bytes of those that were not handed over as a whole.
    pub(crate) unwritten_bytes: usize,
    /// What its peer sent of publishes that are not complete, or wait.
    pub(crate) held_bytes: usize,
    /// Streams that its peer opened and that are not read to their ends.
    pub(super) reading: u16,
    /// Whether its client has ended it, which takes effect when these are read.
    is_leaving: bool,
    /// Those who wait until the connection's stream does not wait any more.
    waiting: Vec<Waker>,
}

impl Sides {
    /// The connection's stream does not wait any more, or is gone.
    pub(super) fn go_on(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
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
    // Behind the connection's stream, which has 0.
    let priority = i32::from(segment.class().priority) - i32::from(PRIORITY_MAX) - 1;
    let Some(stream) = has_room.then(|| channel.open_side(priority)).flatten() else {
        counters.streams.full.add(1);
        return false;
    };
    connection.sides.under_way += 1;
    outbox.begin_beside(connection, segment.len());
    let transfer =
        Transfer { number: connection.number, link: connection.link.clone(), segment: segment.clone() };
    spawn_local(transfer.run(worker, stream));
    true
}

impl Transfer {
    async fn run(self, worker: Cell, mut stream: SideSender) {
        let written = self.write(&worker, &mut stream).await;
        worker.borrow_mut().note_side_written(&self, written.as_ref().err());
        let Self { number, link, segment } = self;
        drop(segment);
        match written {
            Ok(()) => stream.finish().await,
            Err(_) => drop(stream),
        }
        worker.borrow_mut().note_side_over(number, &link);
    }

    async fn write(&self, worker: &Cell, stream: &mut SideSender) -> io::Result<()> {
        let bytes = self.segment.bytes();
        let mut begun = 0;
        loop {
            let end = bytes.len().min(begun + WRITE_BYTES);
            let mut chunk = bytes.slice(begun..end);
            if bytes.len() > WRITE_BYTES {
                chunk = Bytes::copy_from_slice(&chunk);
            }
            while !chunk.is_empty() {
                let is_begun = begun > 0 || chunk.len() < end;
                poll_fn(|context| {
                    // Asked each time: whatever the network takes again is for the connection's stream first.
                    let turn = worker.borrow_mut().poll_side(self, is_begun, context.waker());
                    ready!(turn)?;
                    stream.poll_write(context, &mut chunk)
                })
                .await?;
            }
            begun = end;
            if begun == bytes.len() {
                return Ok(());
            }
            yield_now().await;
        }
    }
}

/// Takes the streams that a client opens, until its connection ends.
pub(super) async fn accept(worker: Cell, number: u32, channel: Weak<Channel>, streams: SideStreams) {
    while let Some(stream) = streams.next().await {
        let Some(link) = channel.upgrade().map(Link::Quic) else { return };
        let Some(()) = worker.borrow_mut().begin_side(number, &link) else { return };
        spawn_local(Receiving::new(number, channel.clone()).run(worker.clone(), stream));
    }
}

/// Ends a session whose client has ended it, whether or not its streams have come to their ends.
async fn end_leaving(worker: Cell, number: u32, link: Link) {
    sleep(LEAVE_WAIT).await;
    let mut worker = worker.borrow_mut();
    let slot = worker.connections.get_mut(number as usize);
    let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(&link))) else { return };
    if !connection.is_closing() {
        connection.sides.reading = 0;
        worker.end_by_peer(&mut connection);
    }
    worker.put_back(number, connection);
    worker.settle();
}

/// What is read of one stream of a client.
pub(super) struct Receiving {
    number: u32,
    channel: Weak<Channel>,
    /// Of a message that is not complete.
    pub(super) partial: Vec<u8>,
    /// The rest of a message, which begins with a publish that waits for the journal.
    pub(super) held: Option<Held>,
    /// Until when that waits.
    pub(super) waits_until_us: Option<u64>,
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
        Self {
            number,
            channel,
            partial: Vec::new(),
            held: None,
            waits_until_us: None,
            charged_bytes: 0,
            is_clean: true,
        }
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
            let waits_until_us = self.held.as_ref().map(|_| self.waits_until_us.unwrap_or_default());
            let pause = worker.borrow_mut().pause_stream(self.number, &link, |_| waits_until_us)?;
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

    /// Whether a message may be handed on now. Not while the connection's stream waits for the network: what is on it goes first.
    fn poll_side(&mut self, transfer: &Transfer, is_begun: bool, waker: &Waker) -> Poll<io::Result<()>> {
        let Transfer { number, link, segment } = transfer;
        let now_unix_ms = match segment.class().expires_unix_ms {
            0 => 0,
            _ => self.shared.clock.now().unix_ms,
        };
        let Some(connection) = self.connection_of(*number, link) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if !is_begun && segment.class().has_expired(now_unix_ms) {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        if connection.blocked {
            connection.sides.wait(waker);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// A message was handed over as a whole, or will not be any more.
    fn note_side_written(&mut self, transfer: &Transfer, error: Option<&io::Error>) {
        let Transfer { number, link, segment } = transfer;
        let now_us = self.shared.clock.now_us();
        let slot = self.connections.get_mut(*number as usize).and_then(Option::as_deref_mut);
        let connection = slot.filter(|connection| connection.link.is(link)).map(|connection| {
            self.outbox.end_beside(connection, segment.len());
            connection.transport
        });
        let counters = &self.shared.mailboxes.of(self.number).counters;
        let frames = u64::from(segment.frames());
        match (connection, error.map(io::Error::kind)) {
            (Some(transport), None) => {
                counters.streams.sent.add(1);
                counters.bytes_written.add(segment.len() as u64);
                count_whole(counters, transport, segment, now_us);
            }
            (_, Some(ErrorKind::BrokenPipe)) => counters.streams.stopped.add(1),
            (_, Some(ErrorKind::TimedOut)) => counters.dropped_expired.add(frames),
            (_, _) => counters.dropped_connection_lost.add(frames),
        }
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

    /// A client opened a stream.
    fn begin_side(&mut self, number: u32, link: &Link) -> Option<()> {
        let connection = self.connection_of(number, link)?;
        if connection.is_closing() || connection.sides.is_leaving {
            return None;
        }
        connection.sides.reading += 1;
        Some(())
    }

    /// The client says that it goes.
    pub(super) fn disconnect(&mut self, connection: &mut Connection) {
        connection.is_disconnected = true;
        self.end_by_peer(connection);
    }

    /// The client ends its session, or its stream. What it sent on streams of their own before comes first, as far as it comes in
    /// time: they and the connection's have no order.
    pub(super) fn end_by_peer(&mut self, connection: &mut Connection) {
        if connection.sides.reading > 0
            && let Some(worker) = self.this.upgrade()
        {
            if !std::mem::replace(&mut connection.sides.is_leaving, true) {
                spawn_local(end_leaving(worker, connection.number, connection.link.clone()));
            }
            return;
        }
        if connection.is_disconnected {
            self.close_with(connection, (close_code::NORMAL, ""), Ended::ByPeer);
        } else {
            self.start_closing(connection, Ended::ByPeer);
        }
        self.outbox.mark(connection);
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
            let limit = self.shared.settings.message_bytes_max;
            match stream::front(partial.get(consumed..).unwrap_or_default(), limit) {
                Front::Whole { message, bytes } => {
                    consumed += bytes;
                    self.take_side_message(connection, (side, message), now);
                }
                Front::Part { .. } => break,
                Front::TooLong(_) => {
                    self.refuse_long(connection, limit);
                    break;
                }
            }
        }
        side.partial = partial;
        side.partial.drain(..consumed);
        if side.partial.is_empty() {
            side.partial = Vec::new();
        }
        self.planned = None;
        self.finish_batch(connection);
        self.close_unread(connection);
    }

    fn take_side_message(
        &mut self,
        connection: &mut Connection,
        (side, message): (&mut Receiving, &[u8]),
        now: Moment,
    ) {
        // Each stream waits for the journal by itself.
        std::mem::swap(&mut connection.waits_until_us, &mut side.waits_until_us);
        let took = self.take_beside(connection, message, Beside::Stream, now);
        std::mem::swap(&mut connection.waits_until_us, &mut side.waits_until_us);
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
        connection.sides.reading = connection.sides.reading.saturating_sub(1);
        if connection.sides.reading == 0 && connection.sides.is_leaving && !connection.is_closing() {
            self.end_by_peer(&mut connection);
        }
        self.put_back(side.number, connection);
        self.settle();
    }
}
