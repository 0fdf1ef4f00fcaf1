//! The audit log on disk: one line of JSON for every change, numbered, oldest first.
//!
//! ```text
//! <data-dir>/audit.log      mode 0600: the newest lines
//!            audit.log.1    what was in it before, and
//!            audit.log.2    before that; older lines are gone
//! line       {"seq":17,"unix_ms":…,…}
//! ```
//! A line is on disk before [`AuditLog::append`] returns. What a crash left of a line is cut off when the log is opened.
//! What lines say besides their number is for whoever writes them.

mod files;
#[cfg(test)]
mod tests;

use crate::error::FileError;
use files::{Writing, line_with, read_lines};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes from which a file takes no further line. The next line begins a new one.
pub const AUDIT_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Full files that are kept besides the one that is written. More: the oldest goes.
pub const AUDIT_FILES_KEPT: usize = 2;

/// The log of one broker, which has locked the data directory.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file_bytes_max: u64,
    failures: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    writing: Writing,
    /// The number of the next line.
    next: u64,
}

impl AuditLog {
    /// Opens the log, making it where there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_with(path.into(), AUDIT_FILE_BYTES_MAX)
    }

    fn open_with(path: PathBuf, file_bytes_max: u64) -> Result<Self, FileError> {
        let writing = Writing::open(&path)?;
        let mut last = 0;
        for file in Self::files(&path) {
            read_lines(&file, &mut |seq, _| {
                last = last.max(seq);
                true
            })?;
        }
        let state = State { writing, next: last.saturating_add(1) };
        Ok(Self { path, file_bytes_max, failures: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Writes a line. `fields` is a JSON object without line breaks; the number is put before its fields and given.
    pub fn append(&self, fields: &str) -> Result<u64, FileError> {
        self.append_if(fields, || Ok(()))
    }

    /// Writes a line for a change that `make` then makes. When that fails, the line is taken back; no other comes in
    /// between. A crash in between may leave a line without its change, and never a change without its line.
    pub fn append_if<E: From<FileError>>(
        &self,
        fields: &str,
        make: impl FnOnce() -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut state = self.state();
        let seq = state.next;
        let line = line_with(seq, fields);
        let is_full = state.writing.bytes() + line.len() as u64 > self.file_bytes_max;
        let rotated =
            if is_full && state.writing.bytes() > 0 { state.writing.rotate(&self.path) } else { Ok(()) };
        let appended = rotated.and_then(|()| state.writing.append(&line));
        let before = appended.inspect_err(|_| {
            self.failures.fetch_add(1, Ordering::Relaxed);
        })?;
        if let Err(error) = make() {
            if let Err(left) = state.writing.cut_to(before) {
                tracing::error!(seq, error = %left.chain(), "the audit log has a line for a change that was refused");
            }
            return Err(error);
        }
        state.next = seq.saturating_add(1);
        Ok(seq)
    }

    /// Lines in their order: the first `limit` behind the number `after`, or the last `limit`. Bytes that are no line
    /// are passed over.
    pub fn lines(&self, after: Option<u64>, limit: usize) -> Result<VecDeque<String>, FileError> {
        if limit == 0 {
            return Ok(VecDeque::new());
        }
        // Nothing is written or renamed meanwhile.
        let _state = self.state();
        let mut found = VecDeque::new();
        for file in Self::files(&self.path) {
            read_lines(&file, &mut |seq, line| {
                if after.is_some_and(|after| seq <= after) {
                    return true;
                }
                if found.len() >= limit {
                    if after.is_some() {
                        return false;
                    }
                    found.pop_front();
                }
                found.push_back(line.to_owned());
                true
            })?;
        }
        Ok(found)
    }

    /// Lines that could not be written.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files, oldest first.
    fn files(path: &Path) -> impl Iterator<Item = PathBuf> {
        (0..=AUDIT_FILES_KEPT).rev().map(|age| files::aged(path, age))
    }
}
