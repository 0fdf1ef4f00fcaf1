//! Ordered records on disk, kept by fjall.
//!
//! ```text
//! <path>/            mode 0700
//!   format           the layout's number, see `layout`
//!   epoch            that of the last start, see `data_dir`
//!   db/              fjall's
//!   log/             what is not synced in db yet, see `log`
//! ```
//! Invariants: only one thread writes; no write waits for a background thread that has died. A database that failed is
//! read for as long as possible, and replaced by a newly opened one as soon as there is space again; everything that
//! was synced is in its files.

mod fail;
mod files;
pub(crate) mod layout;
mod open;
pub(crate) mod scan;

use crate::records::Bounds;
use crate::shelf::{Change, Entries, Entry, Shelf, Space, View};
use crate::store::{Durability, StoreError};
pub(crate) use fail::told;
use fail::{is_full, store_error};
pub(crate) use files::find_damaged;
use fjall::{AbstractTree as _, Database, Keyspace, PersistMode, Readable, Slice, Snapshot};
pub use open::{Cut, Progress, Recovered};
pub(crate) use open::{applied_before, cut_off, journals, may_be_cut, open_database};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// How a store on disk is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    pub path: PathBuf,
    pub bounds: Bounds,
    /// Space on the file system that is never filled: writes that need room are refused before.
    pub reserve_bytes: u64,
    /// Memory for blocks that were read.
    pub cache_bytes: u64,
    /// Memory for what is not in tables yet; up to four times as much while tables are written.
    pub memtable_bytes: u64,
}

impl StoreOptions {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            path: path.into(),
            bounds: Bounds::default(),
            reserve_bytes: 32 * MIB,
            cache_bytes: 32 * MIB,
            memtable_bytes: 16 * MIB,
        }
    }
}

/// Sealed memtables, and tables not yet merged, at which a write waits. Lower than where fjall waits by itself:
/// that wait has no end when its background threads have died.
const SEALED_MAX: usize = 3;
const TABLES_MAX: usize = 18;

/// How long a write waits for background work at most. Longer: the write is refused as unavailable.
const BACKGROUND_WAIT_MAX: Duration = Duration::from_secs(10);

/// The wait between two attempts to open a database that failed.
const REOPEN_WAIT: Duration = Duration::from_millis(250);

/// Records on disk.
pub struct Disk {
    options: StoreOptions,
    /// Locked for writing only to replace the database.
    database: RwLock<Option<Tables>>,
    failure: Mutex<Option<Failure>>,
}

/// An open database.
pub(crate) struct Tables {
    pub(crate) db: Database,
    pub(crate) messages: Keyspace,
    pub(crate) state: Keyspace,
    /// What each of the two has in memory at most, and a write.
    pub(crate) memtable_bytes: u64,
}

/// Why the database is not written to.
struct Failure {
    error: StoreError,
    since: Instant,
    tried: Instant,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.options.path).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "a wait for a disk, not the time of anything")]
fn now() -> Instant {
    Instant::now()
}

impl Disk {
    pub(crate) const fn new(options: StoreOptions, tables: Tables) -> Self {
        Self { options, database: RwLock::new(Some(tables)), failure: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.options.path
    }

    /// Opens the database again when it has failed; an error when that is not possible yet.
    fn recover(&self) -> Result<(), StoreError> {
        let mut failure = self.failure.lock().unwrap();
        let Some(failed) = failure.as_mut() else { return Ok(()) };
        if failed.tried.elapsed() < REOPEN_WAIT {
            return Err(failed.error.clone());
        }
        failed.tried = now();
        match self.reopen() {
            Ok(()) => {
                tracing::warn!(path = %self.path().display(), after = ?failed.since.elapsed(), "the store is open again");
                *failure = None;
                Ok(())
            }
            Err(error) => {
                failed.error = error.clone();
                Err(error)
            }
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        // What reopening writes replaces itself.
        self.free_for(0)?;
        let mut database = self.database.write().unwrap();
        // Dropping ends its threads and its lock, so that it can be opened again.
        drop(database.take());
        let opened = open::reopen(&self.options);
        *database = Some(opened.map_err(|error| StoreError::Unavailable { reason: error.to_string() })?);
        Ok(())
    }

    /// An error unless the file system has the reserve and `bytes` free.
    fn free_for(&self, bytes: u64) -> Result<(), StoreError> {
        let free = free_bytes(self.path()).map_err(|error| StoreError::Unavailable {
            reason: format!("cannot ask for free space: {error}"),
        })?;
        if free >= self.options.reserve_bytes.saturating_add(bytes) {
            return Ok(());
        }
        let reserve = self.options.reserve_bytes;
        Err(StoreError::Full {
            reason: format!(
                "{free} bytes are free on the disk; {reserve} are reserved, and {bytes} go to what is not written there yet"
            ),
        })
    }

    fn fail(&self, error: &StoreError) {
        tracing::error!(path = %self.path().display(), %error, "the store failed and will be opened again");
        let (since, tried) = (now(), now());
        *self.failure.lock().unwrap() = Some(Failure { error: error.clone(), since, tried });
    }
}

/// Between the end of a failed database and the next successful opening.
fn closed() -> StoreError {
    StoreError::Unavailable { reason: "it failed and could not be opened again yet".into() }
}

/// Bytes an unprivileged process may still write to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

impl Tables {
    pub(crate) const fn of(&self, space: Space) -> &Keyspace {
        match space {
            Space::Messages => &self.messages,
            Space::State => &self.state,
        }
    }

    /// Waits while background threads are behind, as long as they live.
    fn wait_for_background(&self) -> Result<(), StoreError> {
        let began = now();
        let is_behind = |tables: &Keyspace| {
            tables.sealed_memtable_count() >= SEALED_MAX || tables.l0_table_count() >= TABLES_MAX
        };
        while is_behind(&self.messages) || is_behind(&self.state) {
            // Fails once a background thread has failed.
            self.db.persist(PersistMode::Buffer).map_err(|error| store_error(&error))?;
            if began.elapsed() > BACKGROUND_WAIT_MAX {
                return Err(StoreError::Full {
                    reason: "tables are not written as fast as messages come".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Seals what has grown beyond its bound. fjall would have its background thread do so, and asks it once more with every
    /// write until it has: where that comes late, its queue fills up, and it stands still for good when it
    /// has sealed and finds no place there for the order to write the table.
    fn seal(&self) -> Result<(), fjall::Error> {
        for keyspace in [&self.messages, &self.state] {
            if keyspace.tree.active_memtable().size() > self.memtable_bytes {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Writes one record, for who is alone with the database.
    pub(crate) fn insert(&self, space: Space, key: &[u8], value: &[u8]) -> Result<(), fjall::Error> {
        self.seal()?;
        self.of(space).insert(key, value)
    }

    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), fjall::Error> {
        // Before, not behind: what is written then has not failed.
        self.seal()?;
        let mode = match durability {
            Durability::Buffered => PersistMode::Buffer,
            Durability::Synced => PersistMode::SyncData,
        };
        if changes.is_empty() {
            return self.db.persist(mode);
        }
        let mut batch =
            fjall::OwnedWriteBatch::with_capacity(self.db.clone(), changes.len()).durability(Some(mode));
        for Change { space, key, value } in changes {
            match value {
                Some(value) => batch.insert(self.of(space), key, value),
                None => batch.remove(self.of(space), key),
            }
        }
        batch.commit()
    }
}

impl Shelf for Disk {
    type View<'a> = DiskView<'a>;

    fn view(&self) -> Result<DiskView<'_>, StoreError> {
        let tables = self.database.read().unwrap();
        match &*tables {
            Some(open) => Ok(DiskView { snapshot: open.db.snapshot(), tables }),
            None => Err(closed()),
        }
    }

    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), StoreError> {
        let tables = self.database.read().unwrap();
        let Some(open) = &*tables else { return Err(closed()) };
        open.wait_for_background().inspect_err(|error| {
            if matches!(error, StoreError::Unavailable { .. }) {
                self.fail(error);
            }
        })?;
        open.write(changes, durability).map_err(|error| {
            let full = is_full(&error);
            let mut error = store_error(&error);
            if full {
                error = StoreError::Full { reason: "the disk is full".into() };
            }
            self.fail(&error);
            error
        })
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.recover()
    }

    fn room(&self, pending_bytes: u64) -> Result<(), StoreError> {
        // What is in memory takes as much space again when it becomes a table. While the database is replaced nothing is.
        let unwritten = match self.database.try_read() {
            Ok(tables) => tables.as_ref().map_or(0, |open| open.db.write_buffer_size()),
            Err(_) => 0,
        };
        self.free_for(unwritten.saturating_add(pending_bytes))
    }

    fn free_bytes(&self) -> Option<u64> {
        free_bytes(self.path()).ok()
    }
}

/// A snapshot. Holds off the replacement of the database while it lives.
pub struct DiskView<'a> {
    snapshot: Snapshot,
    tables: RwLockReadGuard<'a, Option<Tables>>,
}

impl fmt::Debug for DiskView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskView")
    }
}

impl View for DiskView<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        let Some(tables) = &*self.tables else { return Ok(None) };
        self.snapshot.get(tables.of(space), key).map_err(|error| store_error(&error))
    }

    fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Entries<'_> {
        let Some(tables) = &*self.tables else { return Box::new(std::iter::empty()) };
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let entries = self.snapshot.range(tables.of(space), from..to);
        Box::new(entries.map(|guard| -> Entry { guard.into_inner().map_err(|error| store_error(&error)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(space: Space, key: u64, bytes: usize) -> Vec<Change> {
        // Random bytes, or they are packed to nothing.
        let mut value = vec![0; bytes];
        getrandom::fill(&mut value).unwrap();
        vec![Change { space, key: key.to_be_bytes().to_vec(), value: Some(value) }]
    }

    /// The state's table takes a while. Meanwhile fjall is asked a thousand times to seal the messages: more than its queue takes.
    #[test]
    fn tables_are_written_however_long_one_takes() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions { memtable_bytes: 64 * 1024, ..StoreOptions::new(directory.path()) };
        let tables = open_database(&options).unwrap();
        tables.write(set(Space::State, 0, 8 << 20), Durability::Buffered).unwrap();
        for key in 0..20_000 {
            tables.write(set(Space::Messages, key, 8), Durability::Buffered).unwrap();
            let size = tables.messages.tree.active_memtable().size();
            assert!(size <= options.memtable_bytes + 1_024, "{size} bytes behind {key}");
        }
        let began = now();
        while tables.messages.sealed_memtable_count() + tables.state.sealed_memtable_count() > 0 {
            assert!(began.elapsed() < BACKGROUND_WAIT_MAX, "no table is written");
            std::thread::yield_now();
        }
    }
}
