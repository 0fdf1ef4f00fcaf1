//! Writing: which connections have something to write, and one write per connection and turn.

use super::connection::{Connection, Stage};
use super::counters::{Counters, Ended};
use super::segment::Shared;
use std::io::{ErrorKind, IoSlice};
use tokio::sync::Notify;
use waspmq_core::Kind;

/// The dirty list and the accounts of all outbound queues of a worker.
#[derive(Debug)]
pub(super) struct Outbox {
    dirty: Vec<u32>,
    pub(super) wake: std::rc::Rc<Notify>,
    /// Bytes that the queues of all connections pin.
    pinned_bytes: usize,
    connection_bytes_max: usize,
    worker_bytes_max: usize,
    pub(super) dropped: u64,
    scratch: Vec<u8>,
}

/// Queues keep this much even when the worker's bound is reached, so that a healthy connection goes on.
const FLOOR_BYTES: usize = 64 * 1024;
/// Up to this many bytes, pieces are copied together for one plain write: cheaper than a vectored one.
const COPY_BYTES: usize = 16 * 1024;
/// Pieces of one vectored write.
const PIECES: usize = 64;
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
            dropped: 0,
            scratch: Vec::new(),
        }
    }

    /// Queues a shared segment. A full queue drops its oldest messages.
    pub(super) fn push(&mut self, connection: &mut Connection, segment: Shared) {
        let full = self.pinned_bytes >= self.worker_bytes_max;
        let bound = if full { FLOOR_BYTES } else { self.connection_bytes_max };
        let before = connection.out.pinned_bytes();
        let dropped = u64::from(connection.out.push_shared(segment, bound));
        connection.dropped += dropped;
        self.dropped += dropped;
        self.settle(before, connection);
        self.mark(connection);
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
        self.pinned_bytes -= connection.out.pinned_bytes();
    }

    pub(super) const fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Writes what the socket takes, with a bounded number of calls.
    pub(super) fn flush(&mut self, connection: &mut Connection, counters: &Counters, now_us: u64) -> Flushed {
        connection.dirty = false;
        for _ in 0..WRITES_PER_TURN {
            if connection.out.is_empty() {
                return Flushed::Empty;
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
            for finished in connection.out.handle_written(written) {
                let segment = finished.segment();
                let frames = u64::from(waspmq_core::outbound::Segment::frames(&finished));
                match &mut delivered {
                    Some((kind, us, count)) if *kind == segment.kind && *us == segment.published_us => {
                        *count += frames
                    }
                    _ => {
                        count_delivered(counters, delivered, now_us);
                        delivered = Some((segment.kind, segment.published_us, frames));
                    }
                }
            }
            count_delivered(counters, delivered, now_us);
            self.settle(before, connection);
        }
        if connection.out.is_empty() { Flushed::Empty } else { Flushed::More }
    }

    fn write(&mut self, connection: &Connection) -> std::io::Result<usize> {
        let (stream, out) = (&connection.stream, &connection.out);
        if out.len() == 1 {
            return out.pieces(1).next().map_or(Ok(0), |piece| stream.try_write(piece));
        }
        if out.pinned_bytes() <= COPY_BYTES {
            self.scratch.clear();
            out.pieces(usize::MAX).for_each(|piece| self.scratch.extend_from_slice(piece));
            return stream.try_write(&self.scratch);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(out.pieces(PIECES)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        stream.try_write_vectored(slices.get(..count).unwrap_or_default())
    }

    fn settle(&mut self, before: usize, connection: &Connection) {
        self.pinned_bytes = self.pinned_bytes + connection.out.pinned_bytes() - before;
    }
}

fn count_delivered(counters: &Counters, delivered: Option<(Kind, u64, u64)>, now_us: u64) {
    if let Some((kind, published_us, frames)) = delivered {
        counters.delivered.of(kind).add(frames);
        counters.delivery_latency.observe(now_us.saturating_sub(published_us), frames);
    }
}

/// Why a connection that is closing closes; a peer that just went away otherwise.
pub(super) const fn end_of(connection: &Connection) -> Ended {
    match connection.stage {
        Stage::Closing { reason, .. } => reason,
        Stage::Http | Stage::Open => Ended::ByPeer,
    }
}
