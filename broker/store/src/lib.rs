//! What a broker keeps on disk: its data directory, and in it the store of messages.
//!
//! [`DataDir`] is the directory of one running broker. It holds a lock, so that two brokers never share it, and
//! the few values that must outlive the process. [`Store`] keeps messages and what belongs to them; [`FjallStore`] does
//! so on disk, [`MemoryStore`] in memory, both by the same code over ordered records. [`Journal`] is the thread that
//! writes: it gathers what waits into one commit with one sync, in a log before the store where it has one. [`ContentFiles`] keeps
//! plugins, policies and dictionaries, [`AuditLog`] what was changed by whom. The layouts are in `docs/STORE.md`.
//! Deliberately not here: when something is stored, and who may read it.

mod audit;
mod check;
mod contents;
mod data_dir;
mod dedup;
mod disk;
mod error;
mod file;
mod journal;
mod key;
mod log;
mod queue;
mod record;
mod records;
mod run;
#[cfg(test)]
mod samples;
mod shelf;
mod store;
mod token;

pub use audit::{AUDIT_FILE_BYTES_MAX, AUDIT_FILES_KEPT, AuditLog};
pub use check::{Report, check, repair};
pub use contents::ContentFiles;
pub use data_dir::DataDir;
pub use disk::{Cut, Disk, DiskView, Progress, Recovered, StoreOptions};
pub use error::{FileError, OpenError};
pub use journal::{
    Answers, BATCH_BUCKETS, Clock, Full, Histogram, Journal, JournalMetrics, JournalOptions, JournalThreads,
    Late, Reading, SECONDS_BUCKETS, Ticket,
};
pub use log::LogOptions;
pub use records::{Bounds, FjallStore, MemoryStore, Records};
pub use shelf::{Change, Entries, Entry, Memory, MemoryView, Shelf, Space, View};
pub use store::{
    DeadLetter, Delayed, DelayedPage, Durability, Found, Maintained, Member, Page, Query, QueueBegin,
    QueueRecord, ResumeRecord, Search, Seen, Store, StoreError, Usage, Write,
};
pub use token::{AdminToken, read_admin_token};
