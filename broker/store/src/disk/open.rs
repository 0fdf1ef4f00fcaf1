//! Opening a store, and what is found when it is.

use super::layout::{self, db_path};
use super::scan::{self, Scan, Verdict};
use super::{Disk, StoreOptions, Tables};
use crate::error::OpenError;
use crate::key;
use crate::log;
use crate::record::AddressRecord;
use crate::records::{FjallStore, LedgerTally};
use crate::shelf::{Shelf, Space, View};
use crate::store::{Store, StoreError, Usage};
use fjall::{Database, KeyspaceCreateOptions};
use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of all journals at which tables are written so that the oldest can go.
const JOURNALS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Addresses between two reports of progress.
const PROGRESS_ADDRESSES: u64 = 10_000;

/// How long an opening counts what an end without order left uncounted. The rest is counted while the store is used.
const COUNT_MAX: Duration = Duration::from_millis(500);

/// How far an opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of journals checked, of how many.
    Journal { done_bytes: u64, total_bytes: u64 },
    /// The journals are read into memory.
    Replay,
    /// Addresses counted.
    Addresses { done: u64 },
}

/// The end of a journal that was cut off, because it was never completely written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    /// Bytes before it, which are whole.
    pub kept_bytes: u64,
    pub cut_bytes: u64,
}

/// What was found in a store that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Stored messages; low after a crash where there is more to count than a moment allows.
    pub messages: u64,
    /// Bytes of the records that the store's bound counts.
    pub bytes: u64,
    pub addresses: u64,
    /// Bytes of journals that were read.
    pub journal_bytes: u64,
    pub took: Duration,
    pub truncated_tail: Option<Cut>,
    /// Writes of the log that the tables did not have.
    pub log_writes: u64,
    /// Writes of the log that met a damaged record of the tables, and are lost.
    pub log_lost: u64,
    /// Bytes of the log that were read.
    pub log_bytes: u64,
    /// As `truncated_tail`, of the log.
    pub log_cut: Option<Cut>,
}

impl FjallStore {
    /// Opens the store at `options.path`, making it where there is none.
    ///
    /// What the log holds and the tables do not is applied. A tail of a journal or of the log that was never completely
    /// written is cut off and reported. Any other damage is [`OpenError::StoreDamaged`].
    pub fn open(
        options: StoreOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Recovered), OpenError> {
        let began = super::now();
        let path = options.path.clone();
        let (store, mut recovered) = Self::open_without_log(options, progress)?;
        let replayed = log::replay(&path, &store)?;
        // Last, so that an older broker still opens what this one refuses; nothing that is its own is written before.
        layout::mark(&path)?;
        let counts = super::now();
        store.count_at_start(|| counts.elapsed() < COUNT_MAX);
        let usage = store.usage();
        (recovered.messages, recovered.bytes) = (usage.messages, usage.bytes);
        (recovered.log_writes, recovered.log_bytes) = (replayed.writes, replayed.bytes);
        recovered.log_lost = replayed.lost;
        (recovered.log_cut, recovered.took) = (replayed.cut, began.elapsed());
        Ok((store, recovered))
    }

    /// Opens the tables only, and marks nothing.
    pub(crate) fn open_without_log(
        options: StoreOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Recovered), OpenError> {
        let began = super::now();
        layout::prepare(&options.path)?;
        let (journal_bytes, truncated_tail) = check_journals(&options.path, progress)?;
        progress(Progress::Replay);
        let tables = open_database(&options)?;
        let disk = Disk::new(options, tables);
        let (usage, addresses) = count(&disk, progress).map_err(|error| OpenError::StoreDamaged {
            path: disk.path().to_owned(),
            detail: error.to_string(),
        })?;
        let recovered = Recovered {
            messages: usage.messages,
            bytes: usage.bytes,
            addresses,
            journal_bytes,
            took: began.elapsed(),
            truncated_tail,
            log_writes: 0,
            log_lost: 0,
            log_bytes: 0,
            log_cut: None,
        };
        let bounds = disk.options.bounds;
        Ok((Self::over(disk, bounds, usage), recovered))
    }
}

/// The journals of a store, oldest first.
pub(crate) fn journals(path: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let directory = db_path(path);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(OpenError::io("read", &directory))? {
        let path = entry.map_err(OpenError::io("read", &directory))?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Checks every journal and cuts off what was never completely written. Gives the bytes of all journals. An error changes
/// nothing.
fn check_journals(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(u64, Option<Cut>), OpenError> {
    let journals = journals(path)?;
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let total_bytes = journals.iter().map(size).sum();
    let (mut done_bytes, mut whole_bytes, mut cut) = (0, 0, None);
    let mut applied = applied_before(&journals);
    for (index, journal) in journals.iter().enumerate() {
        let content = std::fs::read(journal).map_err(OpenError::io("read", journal))?;
        let found = scan::scan(&content);
        let is_last = index + 1 == journals.len();
        applied = found.applied.or(applied);
        if may_be_cut(path, is_last, applied, &found)? {
            cut = Some(cut_off(journal, found.whole_bytes, found.other_bytes)?);
        } else if found.verdict != Verdict::Whole {
            let detail = format!("what follows byte {} cannot be read", found.whole_bytes);
            return Err(OpenError::StoreDamaged { path: journal.clone(), detail });
        }
        done_bytes += content.len() as u64;
        whole_bytes += found.whole_bytes as u64;
        progress(Progress::Journal { done_bytes, total_bytes });
    }
    Ok((whole_bytes, cut))
}

/// The last group of the log that was applied before the journals begin, where that is known: none before the very first.
pub(crate) fn applied_before(journals: &[PathBuf]) -> Option<u64> {
    journals.first().filter(|journal| journal.ends_with("0.jnl")).map(|_| 0)
}

/// Whether what lies behind the whole batches of a journal is a tail that was never completely written, with `applied` the
/// last group of the log that the journals say was applied up to there.
///
/// Older journals were synced before the next was begun. In the last one the log has to go on from there: where it does not,
/// what lies behind was synced, as the log lets go of nothing else. Where the journals do not say what was applied, the one
/// that did is gone because the tables have all of it, and a replay compares them with the log.
pub(crate) fn may_be_cut(
    path: &Path,
    is_last: bool,
    applied: Option<u64>,
    found: &Scan,
) -> Result<bool, OpenError> {
    if !is_last || found.verdict != Verdict::Torn {
        return Ok(false);
    }
    let is_there = !log::is_empty(path)?;
    let is_needed = found.applied_behind.is_some() || !found.is_searched || (applied.is_some() && is_there);
    Ok(!is_needed || log::last_behind(path, applied)?.is_some())
}

/// Ends a journal behind its whole batches.
pub(crate) fn cut_off(journal: &Path, kept: usize, cut: usize) -> Result<Cut, OpenError> {
    let (kept_bytes, cut_bytes) = (kept as u64, cut as u64);
    tracing::warn!(file = %journal.display(), kept_bytes, cut_bytes, "the journal's tail was not completely written: cut off");
    let file = OpenOptions::new().write(true).open(journal).map_err(OpenError::io("open", journal))?;
    file.set_len(kept_bytes).and_then(|()| file.sync_all()).map_err(OpenError::io("cut", journal))?;
    Ok(Cut { file: journal.to_owned(), kept_bytes, cut_bytes })
}

/// fjall asserts much while it opens: what fails there is damage too, not a reason to end the process.
pub(crate) fn open_database(options: &StoreOptions) -> Result<Tables, OpenError> {
    let path = db_path(&options.path);
    let opened = catch_unwind(AssertUnwindSafe(|| open_tables(options, &path)));
    let damaged = |detail: String| OpenError::StoreDamaged { path: path.clone(), detail };
    match opened {
        Ok(Ok(tables)) => Ok(tables),
        Ok(Err(fjall::Error::Locked)) => Err(OpenError::StoreLocked { path: options.path.clone() }),
        Ok(Err(fjall::Error::Io(source))) => Err(OpenError::Io { action: "open the store in", path, source }),
        Ok(Err(error)) => Err(damaged(super::told(&error))),
        Err(_) => Err(damaged("the tables contradict each other".into())),
    }
}

fn open_tables(options: &StoreOptions, path: &Path) -> fjall::Result<Tables> {
    let db = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .manual_journal_persist(true)
        // Of several, one hands each compaction back to the queue until another takes it, and spins while all are busy.
        .worker_threads(1)
        .open()?;
    let create = || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes);
    let messages = db.keyspace("messages", create)?;
    let state = db.keyspace("state", create)?;
    Ok(Tables { db, messages, state, memtable_bytes: options.memtable_bytes })
}

/// Opens a database again after it failed.
///
/// What a failed sync left unwritten may look written until the machine restarts, and what is synced behind it would
/// be lost with it. So the current journal is written anew first, and all of it is on disk before it is used. Its bytes
/// go over themselves: that needs no space, and whatever ends it changes none of them.
pub(super) fn reopen(options: &StoreOptions) -> Result<Tables, OpenError> {
    check_journals(&options.path, &mut |_| {})?;
    if let Some(journal) = journals(&options.path)?.last() {
        let content = std::fs::read(journal).map_err(OpenError::io("read", journal))?;
        let whole = content.get(..scan::scan(&content).whole_bytes).unwrap_or_default();
        let write = || {
            let mut file = OpenOptions::new().write(true).open(journal)?;
            file.write_all(whole)?;
            file.sync_all()
        };
        write().map_err(OpenError::io("rewrite", journal))?;
    }
    open_database(options)
}

/// Sums up the saved records.
fn count(disk: &Disk, progress: &mut dyn FnMut(Progress)) -> Result<(Usage, u64), StoreError> {
    let view = disk.view()?;
    let (mut usage, mut addresses) = (Usage::default(), 0);
    for entry in view.range(Space::State, &[key::ADDRESS], &[key::ADDRESS + 1]) {
        let (key, value) = entry?;
        let record = AddressRecord::parse(&key, &value)?;
        usage.messages += record.count;
        usage.bytes += record.bytes;
        addresses += 1;
        if addresses % PROGRESS_ADDRESSES == 0 {
            progress(Progress::Addresses { done: addresses });
        }
    }
    for tag in [key::DEAD_LETTER, key::DELAYED] {
        for entry in view.range(Space::State, &[tag], &[tag + 1]) {
            let (key, value) = entry?;
            usage.bytes += (key.len() + value.len()) as u64;
        }
    }
    usage.bytes += LedgerTally::load(&view)?.bytes;
    Ok((usage, addresses))
}
