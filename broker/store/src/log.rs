//! The log before the store: what was pushed, in order, appended and synced before it is applied to the tables.
//!
//! ```text
//! <store>/log/<first sequence, 20 digits>.log     segments, oldest first
//! ```
//! Each commit of the journal is one group with a number; the store keeps the number of the last group it applied
//! together with what the group changed, so that a group is applied exactly once. Invariants: numbers of groups
//! follow each other without holes, also from segment to segment; a segment is synced before the next is begun; it is
//! removed, or used again under another name, only when the store has synced what it holds. Deliberately not here: when
//! to sync and who is told (see `journal`).

mod append;
mod entry;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use append::{Appender, Segments};
pub(crate) use replay::{Alone, Damage, examine, is_empty, last_behind, remove_all, replay, salvage};
use std::path::{Path, PathBuf};

/// Whose log it is, and how large its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The directory of the store.
    pub store: PathBuf,
    /// Bytes of a segment; one group may be larger and has a segment of its own then.
    pub segment_bytes: u64,
}

impl LogOptions {
    /// The log of the store at `store`; opening that store replays it.
    pub fn of_store(store: &Path) -> Self {
        Self { store: store.to_owned(), segment_bytes: 16 * 1024 * 1024 }
    }

    fn path(&self) -> PathBuf {
        log_path(&self.store)
    }
}

pub(crate) fn log_path(store: &Path) -> PathBuf {
    store.join("log")
}
