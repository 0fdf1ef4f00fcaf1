//! Where relay threads hand over what is to be on disk, and the one thread that puts it there and acknowledges it.
//!
//! The committer takes all that waits, within the bounds of [`crate::commit`], appends it, calls `fdatasync` once,
//! and then writes every publisher's receipts of the batch in one write. A socket that is full keeps its receipts;
//! its relay thread writes them when it has room.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::commit::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, held};
use crate::fsync::HEADER_BYTES;
use crate::poll::Poller;
use crate::relay::written;
use crate::scrape::COMMITS;
use crate::ws;

/// Bytes of records that may wait for the committer. More: relay threads read nothing until a batch is taken.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of receipts that a publisher may leave unread. More: it is disconnected.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;

/// Upper bounds of the histogram of commits in seconds: the broker's, so that both are interpolated alike.
const BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A publisher's connection: read by its relay thread, written by the committer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    /// Of the relay thread that it belongs to, with its key there.
    poller: Arc<Poller>,
    key: usize,
    out: Mutex<Out>,
}

#[derive(Debug, Default)]
struct Out {
    unwritten: Vec<u8>,
    /// Whether the relay thread waits for room in the socket.
    watched: bool,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, poller: Arc<Poller>, key: usize) -> Self {
        Self { stream, poller, key, out: Mutex::default() }
    }

    /// Adds bytes to be written; true when a [`Peer::flush`] is due: there were none, so nobody writes them yet, or
    /// there are too many.
    pub(super) fn push(&self, add: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut out = held(&self.out);
        let first = out.unwritten.is_empty();
        add(&mut out.unwritten);
        first || out.unwritten.len() > UNREAD_BYTES_MAX
    }

    /// Writes what the socket takes; the rest follows when it has room.
    ///
    /// # Errors
    /// When the connection is over, or its peer leaves too much unread.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut out = held(&self.out);
        let count = written((&self.stream).write(&out.unwritten))?;
        out.unwritten.drain(..count);
        if out.unwritten.len() > UNREAD_BYTES_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let full = !out.unwritten.is_empty();
        if full != out.watched {
            self.poller.watch_writes(&self.stream, self.key, full)?;
            out.watched = full;
        }
        Ok(())
    }
}

/// A publish that is to be acknowledged once its bytes are on disk.
#[derive(Debug)]
struct Record {
    peer: Arc<Peer>,
    reference: u64,
    bytes: usize,
}

/// Records in the order they came, and their bytes end to end.
#[derive(Debug, Default)]
pub(super) struct Records {
    list: Vec<Record>,
    bytes: Vec<u8>,
}

impl Records {
    pub(super) fn push(&mut self, peer: &Arc<Peer>, reference: u64, payload: &[u8]) {
        self.list.push(Record { peer: peer.clone(), reference, bytes: HEADER_BYTES + payload.len() });
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        self.bytes.extend_from_slice(payload);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether there is a batch of them, so that nothing is won by waiting for more.
    pub(super) fn is_batch(&self) -> bool {
        self.list.len() >= BATCH_RECORDS_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    fn append(&mut self, other: &mut Self) {
        self.list.append(&mut other.list);
        self.bytes.append(&mut other.bytes);
    }

    /// Moves one batch from the front into `batch`; a record beyond the bytes of a batch is one by itself.
    fn take_batch(&mut self, batch: &mut Self) {
        let (mut count, mut bytes) = (0, 0);
        for record in self.list.iter().take(BATCH_RECORDS_MAX) {
            if count > 0 && bytes + record.bytes > BATCH_BYTES_MAX {
                break;
            }
            count += 1;
            bytes += record.bytes;
        }
        batch.list.extend(self.list.drain(..count));
        batch.bytes.extend(self.bytes.drain(..bytes));
    }
}

#[derive(Debug, Default)]
pub(super) struct Desk {
    waiting: Mutex<Waiting>,
    handed: Condvar,
    room: Condvar,
    commits: Commits,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Records,
    /// The committer waits for records.
    idle: bool,
    /// A relay thread waits for room.
    crowded: bool,
    /// Why a relay thread ended.
    failure: Option<anyhow::Error>,
}

/// What the committer works with, used again for each batch.
#[derive(Debug, Default)]
pub(super) struct Committer {
    batch: Records,
    receipt: Vec<u8>,
    publishers: Vec<Arc<Peer>>,
}

impl Desk {
    /// Hands over all of `records`; waits while there is no room.
    pub(super) fn hand_over(&self, records: &mut Records) {
        let mut waiting = held(&self.waiting);
        while waiting.records.bytes.len() > WAITING_BYTES_MAX {
            waiting.crowded = true;
            waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.records.append(records);
        let wake = std::mem::take(&mut waiting.idle);
        drop(waiting);
        if wake {
            self.handed.notify_one();
        }
    }

    /// Ends the committer, and with it the process.
    pub(super) fn fail(&self, error: anyhow::Error) {
        held(&self.waiting).failure = Some(error);
        self.handed.notify_one();
    }

    /// The committer: serves until something fails.
    ///
    /// # Errors
    /// When the file cannot be written or synced, or a relay thread ended.
    pub(super) fn commit(&self, mut file: File) -> Result<()> {
        let mut committer = Committer::default();
        loop {
            self.commit_batch(&mut file, &mut committer)?;
        }
    }

    /// Waits for records, commits one batch and acknowledges it.
    pub(super) fn commit_batch(&self, file: &mut File, committer: &mut Committer) -> Result<()> {
        self.take(&mut committer.batch)?;
        let start = Instant::now();
        file.write_all(&committer.batch.bytes)
            .and_then(|()| file.sync_data())
            .context("committing a batch")?;
        self.commits.observe(start.elapsed());
        committer.acknowledge();
        Ok(())
    }

    fn take(&self, batch: &mut Records) -> Result<()> {
        batch.list.clear();
        batch.bytes.clear();
        let mut waiting = held(&self.waiting);
        loop {
            if let Some(error) = waiting.failure.take() {
                return Err(error);
            }
            if !waiting.records.is_empty() {
                break;
            }
            waiting.idle = true;
            waiting = self.handed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        waiting.records.take_batch(batch);
        let wake = std::mem::take(&mut waiting.crowded);
        drop(waiting);
        if wake {
            self.room.notify_all();
        }
        Ok(())
    }

    /// The histogram of commits as a scrape of the broker has it.
    pub(super) fn figures(&self) -> String {
        self.commits.text()
    }
}

impl Committer {
    /// Writes the receipts of the batch, one write per publisher. A connection that is over is left to its relay
    /// thread, which reads its end.
    fn acknowledge(&mut self) {
        for Record { peer, reference, .. } in self.batch.list.drain(..) {
            lay_out_receipt(&mut self.receipt, reference);
            if peer.push(|out| ws::push_frame(out, ws::BINARY, None, &self.receipt)) {
                self.publishers.push(peer);
            }
        }
        for peer in self.publishers.drain(..) {
            if peer.flush().is_err() {
                drop(peer.stream.shutdown(Shutdown::Both));
            }
        }
    }
}

/// A receipt frame of level `stored` for one recipient; the id is zero, since there are none here.
pub(super) fn lay_out_receipt(frame: &mut Vec<u8>, reference: u64) {
    const PREFIX: [u8; 6] = [0x83, 1, 0, 0, 0, 0];
    frame.clear();
    frame.extend_from_slice(&PREFIX);
    push_varint(frame, reference);
    frame.extend_from_slice(&[0; 16]);
    frame.extend_from_slice(&[2, 1]);
    // A body is far below 256 bytes.
    frame[2] = u8::try_from(frame.len() - PREFIX.len()).unwrap_or(u8::MAX);
}

/// As bincode's standard configuration has it.
fn push_varint(out: &mut Vec<u8>, value: u64) {
    match (u8::try_from(value), u16::try_from(value), u32::try_from(value)) {
        (Ok(small), _, _) if small < 251 => out.push(small),
        (_, Ok(medium), _) => {
            out.push(251);
            out.extend_from_slice(&medium.to_le_bytes());
        }
        (_, _, Ok(large)) => {
            out.push(252);
            out.extend_from_slice(&large.to_le_bytes());
        }
        _ => {
            out.push(253);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// How long commits took; not cumulative, the last count is of those beyond all bounds.
#[derive(Debug, Default)]
struct Commits([AtomicU64; BOUNDS.len() + 1]);

impl Commits {
    fn observe(&self, took: Duration) {
        let at = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.0[at].fetch_add(1, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut sum = 0;
        let lines = bounds.zip(&self.0).map(|(bound, count)| {
            sum += count.load(Ordering::Relaxed);
            format!("{COMMITS}_bucket{{le=\"{bound}\"}} {sum}\n")
        });
        lines.collect()
    }
}
