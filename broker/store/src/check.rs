//! Looks at a store that no broker runs on: what is whole, what is damaged, and how to keep the former.
//!
//! Not here: reading everything (`walk`), and going on behind what cannot be read (`around`).

mod around;
mod walk;

use crate::disk::scan::{self, Verdict};
use crate::disk::{
    StoreOptions, Tables, applied_before, cut_off, find_damaged, journals, layout, may_be_cut, open_database,
    told,
};
use crate::error::OpenError;
use crate::file;
use crate::key;
use crate::log::{self, Damage};
use crate::record::AddressRecord;
use crate::records::{FjallStore, describe_run};
use crate::shelf::Space;
use std::path::{Path, PathBuf};
use walk::{Found, Walk, walk};
use waspmq_core::settings::Retention;

/// Findings that are told one by one. More: only counted.
const FINDINGS_MAX: usize = 1_000;

/// What was found, and by [`repair`] done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that were read, of messages: runs.
    pub records: u64,
    pub messages: u64,
    pub addresses: u64,
    pub bytes: u64,
    /// Writes in the log that the next start applies, or that a repair applied. They are not among the records above.
    pub waiting: u64,
    /// Stretches of tables that cannot be read.
    pub unreadable: u64,
    /// Messages that their addresses count and that are not among those above. What was stored behind the last count, some
    /// seconds before a kill, is in neither.
    pub missing: u64,
    /// What cannot be read; up to a bound, with `damaged` the number of all.
    pub findings: Vec<String>,
    pub damaged: u64,
    /// What was removed or cut, up to the same bound. Empty for a check.
    pub removed: Vec<String>,
    /// A copy of the store as it was before a repair that had to build it anew.
    pub kept_aside: Option<PathBuf>,
}

impl Report {
    /// Whether everything could be read.
    pub const fn is_whole(&self) -> bool {
        self.damaged == 0
    }

    fn find(&mut self, finding: String) {
        self.damaged += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn remove(&mut self, what: String) {
        if self.removed.len() < FINDINGS_MAX {
            self.removed.push(what);
        }
    }
}

/// Reads every record of a store and verifies its checksum. Changes nothing that was stored.
///
/// While a part of the database is missing or a journal is damaged, the tables and the log are not looked at: opening the
/// former would make what is missing anew, and cut the journal.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    let mut report = Report::default();
    if layout::is_rebuild_unfinished(path) {
        report.find(
            "a repair ended before the database it built was in place; a start or a repair finishes it"
                .into(),
        );
        return Ok(report);
    }
    let mut can_open = has_all(path, &mut report)?;
    for Scanned { journal, found, may_be_cut, .. } in scan_journals(path)? {
        if found.verdict != Verdict::Whole {
            can_open = false;
            let (file, from, bytes) = (journal.display(), found.whole_bytes, found.other_bytes);
            let kind = if may_be_cut {
                "was not completely written, which a start or a repair cuts off,"
            } else {
                "is damaged"
            };
            report.find(format!(
                "{file}: {kind} from byte {from} on ({bytes} bytes); the tables were not looked at"
            ));
        }
    }
    if can_open {
        let tables = open_or_name(&StoreOptions::new(path))?;
        let walked = walk(&tables, &mut report)?;
        let (waiting, damage) = log::examine(path, walked.applied)?;
        report.waiting = waiting;
        for Damage { file, detail } in damage {
            report.find(format!("{}: {detail}", file.display()));
        }
    }
    Ok(report)
}

/// Removes what cannot be read and keeps the rest.
///
/// Damaged stretches of journals are cut out, damaged records removed. Where a table cannot be read, all records that
/// can be are copied to a new database and the old one is kept aside. The log is removed once everything was read again.
pub fn repair(path: &Path) -> Result<Report, OpenError> {
    layout::finish_rebuild(path)?;
    let mut report = Report::default();
    let has_all = has_all(path, &mut report)?;
    let doubted = repair_journals(path, &mut report)?;
    let options = StoreOptions::new(path);
    if !has_all {
        // What the journals hold for a keyspace goes into one that is there: made here, filled when it is opened again.
        open_or_name(&options).map(drop)?;
    }
    let tables = open_or_name(&options)?;
    let walked = walk(&tables, &mut report)?;
    for (space, key) in &walked.damaged {
        remove(&tables, *space, key).map_err(damaged(path))?;
        report.remove(describe_run(key));
    }
    if report.unreadable > 0 || !has_all {
        build(&options, tables, &walked)?;
        report.kept_aside = Some(layout::replace_db(path)?);
        report.remove("what could not be read of the tables".into());
    } else {
        recount(&tables, path, &walked)?;
        drop(tables);
    }
    layout::mark(path)?;
    repair_log(&options, doubted, &mut report)?;
    verify(&options)?;
    log::remove_all(path)?;
    Ok(report)
}

/// Applies every whole group of the log, also what was applied behind `doubted`.
fn repair_log(options: &StoreOptions, doubted: Option<u64>, report: &mut Report) -> Result<(), OpenError> {
    let (store, _) = FjallStore::open_without_log(options.clone(), &mut |_| {})?;
    let (applied, lost) = log::salvage(&options.path, &store, doubted)?;
    report.waiting = applied;
    for Damage { file, detail } in lost {
        let what = format!("{}: {detail}", file.display());
        report.find(what.clone());
        report.remove(what);
    }
    Ok(())
}

/// An error when the store that was repaired cannot be read.
fn verify(options: &StoreOptions) -> Result<(), OpenError> {
    let mut left = Report::default();
    has_all(&options.path, &mut left)?;
    let tables = open_or_name(options)?;
    walk(&tables, &mut left)?;
    let Some(finding) = left.findings.first() else { return Ok(()) };
    let detail = format!("behind the repair still: {finding}");
    Err(OpenError::StoreBeyondRepair { path: options.path.clone(), detail })
}

/// Finds what the directory of the store lacks. Gives whether all of the database is there; an error where no repair
/// would help.
fn has_all(path: &Path, report: &mut Report) -> Result<bool, OpenError> {
    let format = match layout::format(path) {
        Ok(None) if layout::db_path(path).exists() => Err(layout::no_format(path)),
        Ok(None) => {
            let source = std::io::ErrorKind::NotFound.into();
            Err(OpenError::Io { action: "find a store in", path: path.to_owned(), source })
        }
        other => other,
    };
    note(format.map(drop), report)?;
    note(layout::is_complete(path), report)
}

/// Makes damage that a repair helps with a finding. Gives whether there is none.
fn note(result: Result<(), OpenError>, report: &mut Report) -> Result<bool, OpenError> {
    match result {
        Ok(()) => Ok(true),
        Err(OpenError::StoreDamaged { path, detail }) => {
            report.find(format!("{}: {detail}", path.display()));
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

fn damaged(path: &Path) -> impl Fn(fjall::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::StoreDamaged { path: path.clone(), detail: told(&error) }
}

/// Opens the database, or names the file that is in the way. What cannot be opened is beyond repair.
fn open_or_name(options: &StoreOptions) -> Result<Tables, OpenError> {
    open_database(options).map_err(|error| match error.beyond_repair() {
        OpenError::StoreBeyondRepair { path, detail } => {
            let (path, detail) = find_damaged(&path).unwrap_or((path, detail));
            OpenError::StoreBeyondRepair { path, detail }
        }
        other => other,
    })
}

struct Scanned {
    journal: PathBuf,
    found: scan::Scan,
    /// The last group of the log that was applied up to what cannot be read, as far as the journals say.
    applied: Option<u64>,
    may_be_cut: bool,
}

fn scan_journals(path: &Path) -> Result<Vec<Scanned>, OpenError> {
    let journals = journals(path)?;
    let mut applied = applied_before(&journals);
    let last = journals.len().saturating_sub(1);
    let scan = |(index, journal): (usize, PathBuf)| {
        let content = std::fs::read(&journal).map_err(OpenError::io("read", &journal))?;
        let found = scan::scan(&content);
        applied = found.applied.or(applied);
        let may_be_cut = may_be_cut(path, index == last, applied, &found)?;
        let scanned = Scanned { journal, found, applied, may_be_cut };
        applied = found.applied_behind.or(applied);
        Ok(scanned)
    };
    journals.into_iter().enumerate().map(scan).collect()
}

/// Keeps the whole batches of the journals. Gives the last group of the log before the first of them that lost some which
/// may have said what others behind it do not; the log has those still, or the tables.
fn repair_journals(path: &Path, report: &mut Report) -> Result<Option<u64>, OpenError> {
    let mut doubted = None;
    for Scanned { journal, found, applied, may_be_cut } in scan_journals(path)? {
        if found.verdict == Verdict::Whole {
            continue;
        }
        if may_be_cut {
            cut_off(&journal, found.whole_bytes, found.other_bytes)?;
        } else {
            keep_whole_batches(&journal)?;
            // Without a number all that the log has is in doubt.
            doubted.get_or_insert_with(|| applied.unwrap_or_default());
        }
        let what =
            format!("{}: what could not be read from byte {} on", journal.display(), found.whole_bytes);
        report.find(what.clone());
        report.remove(what);
    }
    Ok(doubted)
}

/// Writes a journal anew with its whole batches only.
fn keep_whole_batches(journal: &Path) -> Result<(), OpenError> {
    let content = std::fs::read(journal).map_err(OpenError::io("read", journal))?;
    let batches = scan::salvage(&content);
    let whole: Vec<&[u8]> = batches.into_iter().filter_map(|range| content.get(range)).collect();
    let temporary = journal.with_extension("tmp");
    let write = || {
        std::fs::write(&temporary, whole.concat())?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, journal)
    };
    write().map_err(OpenError::io("rewrite", journal))?;
    file::sync_directory(journal.parent().unwrap_or(journal))
}

fn remove(tables: &Tables, space: Space, key: &[u8]) -> fjall::Result<()> {
    tables.of(space).remove(key)
}

/// Copies what can be read to a new database, which is all that it is to be: a start may put it in place.
fn build(options: &StoreOptions, old: Tables, found: &Found) -> Result<(), OpenError> {
    let fresh = layout::repaired_path(&options.path);
    let new_options = StoreOptions { path: fresh.clone(), ..options.clone() };
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(OpenError::io("remove", &fresh))?;
    }
    std::fs::create_dir_all(&fresh).map_err(OpenError::io("make", &fresh))?;
    let new = open_database(&new_options)?;
    let mut unused = Report::default();
    let mut copied = |space, key: &[u8], value: &[u8]| new.insert(space, key, value);
    Walk::new(&mut unused).run(&old, &mut copied)?;
    recount(&new, &fresh, found)?;
    drop((old, new));
    Ok(())
}

/// Makes the records of all addresses agree with what is stored. Ledgers are counted anew when the store is open.
fn recount(tables: &Tables, path: &Path, found: &Found) -> Result<(), OpenError> {
    remove(tables, Space::State, &[key::LEDGER_TALLY]).map_err(damaged(path))?;
    for address in found.addresses.keys().chain(found.stored.keys()) {
        let saved = found.addresses.get(address).copied();
        let mut record = saved.unwrap_or_else(|| AddressRecord::new(Retention::default()));
        (record.count, record.bytes, record.counted) =
            found.stored.get(address).copied().unwrap_or((0, 0, record.counted));
        let key = key::address(address);
        if saved != Some(record) {
            tables.insert(Space::State, &key, &record.encode(&key)).map_err(damaged(path))?;
        }
    }
    tables.db.persist(fjall::PersistMode::SyncAll).map_err(damaged(path))
}

#[cfg(test)]
mod tests;
