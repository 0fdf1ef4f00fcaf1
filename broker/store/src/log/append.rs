//! Appending to the log.
//!
//! A segment is filled with zeros ahead of the groups, and used again where possible: a sync of bytes that replace others
//! takes about 100 us where one that makes a file longer takes 160 us. Invariants: what fails is undone or stops the log;
//! a stopped log begins anew only when the store has synced everything that was handed over, so no number is missing.

use super::segment::{self, END_BYTES, HEAD_BYTES, Secret};
use super::{LogOptions, entry};
use crate::error::OpenError;
use crate::file;
use crate::store::{Durability, StoreError, Write};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

/// Bytes of zeros written at once where a segment is used for the first time.
const FILL_BYTES: usize = 1024 * 1024;

/// Segments of applied groups behind which a sync of the store is not put off any longer.
const CLOSED_WANTED: usize = 2;

/// Segments kept to be used again. More: removed.
const FREE_MAX: usize = 4;

/// A buffer that grew larger for one group is given back.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The segments that are not written to, shared with whoever applies what they hold.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Oldest first, each with its last group.
    closed: VecDeque<(PathBuf, u64)>,
    free: Vec<PathBuf>,
    /// The last group that the store has synced.
    durable: u64,
    /// The log waits for the store to sync everything.
    wanted: bool,
}

impl Segments {
    /// The store has synced everything up to this group: older segments can go.
    pub(crate) fn synced_to(&self, sequence: u64) {
        let mut known = self.known.lock().unwrap();
        known.durable = known.durable.max(sequence);
        known.wanted = false;
        let mut unneeded = Vec::new();
        while let Some((path, _)) = known.closed.pop_front_if(|(_, last)| *last <= sequence) {
            let list = if known.free.len() < FREE_MAX { &mut known.free } else { &mut unneeded };
            list.push(path);
        }
        // Removing a large file takes a while, in which the writer may want a segment.
        drop(known);
        unneeded.iter().for_each(|path| remove(path));
    }

    /// Whether a sync of the store, which has applied the groups up to this one, would help now: the log waits for it, or
    /// holds more than it should.
    pub(crate) fn wants_sync(&self, applied: u64) -> bool {
        let known = self.known.lock().unwrap();
        let done = known.closed.iter().take_while(|(_, last)| *last <= applied).count();
        applied > known.durable && (known.wanted || done >= CLOSED_WANTED)
    }

    /// Gives up the space of segments that hold nothing.
    pub(crate) fn drop_free(&self) {
        let free = std::mem::take(&mut self.known.lock().unwrap().free);
        free.iter().for_each(|path| remove(path));
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a segment of the log that is not needed was not removed");
    }
}

/// Writes the log. There is one.
#[derive(Debug)]
pub(crate) struct Appender {
    options: LogOptions,
    segments: Arc<Segments>,
    current: Current,
    /// The last group that was written, and the last one known to be on stable storage.
    last: u64,
    synced: u64,
    buffer: Vec<u8>,
    /// Whether what the current segment holds behind its last group is not known.
    stopped: bool,
    /// Whether the current segment is full and no other one could be begun.
    is_stuck: bool,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    secret: Secret,
    /// Where the next group goes.
    at: u64,
    /// Bytes the file has.
    filled: u64,
}

impl Appender {
    /// Begins a log whose first group follows `last`, in a directory without segments.
    pub(crate) fn begin(options: LogOptions, last: u64) -> Result<Self, OpenError> {
        let path = options.path();
        if !path.is_dir() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&path);
            made.map_err(OpenError::io("make the log", &path))?;
            file::sync_directory(&options.store)?;
        }
        let segments = Arc::new(Segments::default());
        segments.synced_to(last);
        let current =
            Current::create(&path, last + 1, None).map_err(OpenError::io("begin the log in", &path))?;
        Ok(Self {
            options,
            segments,
            current,
            last,
            synced: last,
            buffer: Vec::new(),
            stopped: false,
            is_stuck: false,
        })
    }

    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.segments.clone()
    }

    /// Appends one group and gives its number. On an error nothing was appended, or the log is stopped and what was
    /// appended may be found by the next start.
    pub(crate) fn append(&mut self, writes: &[Write], durability: Durability) -> Result<u64, StoreError> {
        segment::begin(&mut self.buffer);
        for write in writes {
            entry::put(&mut self.buffer, write)?;
        }
        if self.stopped {
            self.begin_anew()?;
        }
        let bytes = (self.buffer.len() + END_BYTES) as u64;
        let is_begun = self.current.at > HEAD_BYTES as u64;
        if is_begun && self.current.at + bytes > self.options.segment_bytes {
            self.next_segment()?;
        }
        let sequence = self.last + 1;
        let count = u32::try_from(writes.len()).unwrap_or(u32::MAX);
        segment::seal(&mut self.buffer, self.current.secret, (sequence, self.synced), count);
        self.write()?;
        if durability == Durability::Synced {
            self.sync_to(sequence)?;
        }
        self.current.at += bytes - END_BYTES as u64;
        self.last = sequence;
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(sequence)
    }

    /// Whether the log can be written: puts the end behind the last group once more, or begins anew.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        if self.stopped {
            return self.begin_anew();
        }
        if self.is_stuck {
            return self.next_segment();
        }
        let written = self.current.file.write_all_at(&[0; END_BYTES], self.current.at);
        written.map_err(|error| store_error(&error))?;
        self.sync_to(self.last)
    }

    /// Puts everything that was appended on stable storage.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if self.stopped || self.synced == self.last {
            return Ok(());
        }
        self.sync_to(self.last)
    }

    fn sync_to(&mut self, sequence: u64) -> Result<(), StoreError> {
        if let Err(error) = self.current.file.sync_data() {
            // What a failed sync left unwritten may look written: nothing is added to it.
            self.stop("synced", &error);
            return Err(store_error(&error));
        }
        self.synced = sequence;
        Ok(())
    }

    /// Writes the buffer behind the last group, or leaves everything as it was.
    fn write(&mut self) -> Result<(), StoreError> {
        let room = self.options.segment_bytes;
        let Err(error) = self.current.write(&self.buffer, room) else { return Ok(()) };
        if let Err(undone) = self.current.undo() {
            self.stop("cut", &undone);
        }
        self.segments.drop_free();
        Err(store_error(&error))
    }

    fn next_segment(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let free = self.segments.known.lock().unwrap().free.pop();
        let next = Current::create(&self.options.path(), self.last + 1, free).map_err(|error| {
            self.segments.drop_free();
            self.is_stuck = true;
            store_error(&error)
        })?;
        self.is_stuck = false;
        let old = std::mem::replace(&mut self.current, next);
        self.segments.known.lock().unwrap().closed.push_back((old.path, self.last));
        Ok(())
    }

    /// Puts a file in place of the one that is written to.
    #[cfg(test)]
    pub(super) fn break_file(&mut self, file: File) {
        self.current.file = file;
    }

    #[cfg(test)]
    pub(super) fn undo_for_test(&mut self) -> io::Result<()> {
        self.current.undo()
    }

    fn stop(&mut self, what: &str, error: &io::Error) {
        tracing::error!(path = %self.current.path.display(), %error, "the log could not be {what}; it begins anew when the store has synced everything");
        self.stopped = true;
    }

    /// Begins a new log behind a failed one, once that is not needed any more.
    fn begin_anew(&mut self) -> Result<(), StoreError> {
        {
            let mut known = self.segments.known.lock().unwrap();
            if known.durable < self.last {
                known.wanted = true;
                return Err(StoreError::Unavailable { reason: "the log failed and begins anew soon".into() });
            }
        }
        self.segments.synced_to(self.last);
        self.segments.drop_free();
        // The old file may hold a group that was refused; it goes before its number is given again.
        let begun = match fs::remove_file(&self.current.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Current::create(&self.options.path(), self.last + 1, None),
        };
        self.current = begun.map_err(|error| store_error(&error))?;
        (self.stopped, self.is_stuck, self.synced) = (false, false, self.last);
        tracing::warn!(path = %self.options.path().display(), "the log was begun anew");
        Ok(())
    }
}

impl Current {
    /// A segment without groups, on stable storage with its name.
    fn create(directory: &Path, first: u64, free: Option<PathBuf>) -> io::Result<Self> {
        let path = segment::path_of(directory, first);
        if let Some(free) = free {
            fs::rename(free, &path)?;
        }
        let made =
            Self::make(path.clone(), first).and_then(|made| File::open(directory)?.sync_all().map(|()| made));
        made.inspect_err(|_| remove(&path))
    }

    fn make(path: PathBuf, first: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let filled = file.metadata()?.len();
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let secret = Secret::new(salt);
        let mut head = segment::head(first, secret);
        head.extend_from_slice(&[0; END_BYTES]);
        file.write_all_at(&head, 0)?;
        file.sync_data()?;
        let at = HEAD_BYTES as u64;
        Ok(Self { file, path, secret, at, filled: filled.max(head.len() as u64) })
    }

    fn write(&mut self, group: &[u8], room: u64) -> io::Result<()> {
        let end = self.at + group.len() as u64;
        if end > self.filled && self.filled < room {
            self.fill(end, room);
        }
        self.file.write_all_at(group, self.at)?;
        self.filled = self.filled.max(end);
        Ok(())
    }

    /// Makes the file longer, ahead of the groups. Where there is no space for that there may be for the group.
    fn fill(&mut self, end: u64, room: u64) {
        const ZEROS: &[u8] = &[0; FILL_BYTES];
        let missing = end.saturating_sub(self.filled).max(FILL_BYTES as u64).min(room - self.filled);
        let zeros = usize::try_from(missing).ok().and_then(|missing| ZEROS.get(..missing)).unwrap_or(ZEROS);
        match self.file.write_all_at(zeros, self.filled) {
            Ok(()) => self.filled += zeros.len() as u64,
            Err(error) => tracing::debug!(%error, "the log is not filled ahead"),
        }
    }

    /// Takes away what a failed write left behind the last group.
    fn undo(&mut self) -> io::Result<()> {
        self.file.set_len(self.at)?;
        self.filled = self.at;
        // The end that the last group was written with.
        self.file.write_all_at(&[0; END_BYTES], self.at).or_else(|error| match error.kind() {
            // An end of the file says the same.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Ok(()),
            _ => Err(error),
        })
    }
}

fn store_error(error: &io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Full { reason: "the disk is full".into() }
        }
        _ => StoreError::Unavailable { reason: format!("the log cannot be written: {error}") },
    }
}
