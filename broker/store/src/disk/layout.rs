//! What is in the directory of a store before it is opened.
//!
//! Invariants: a store is made in the order database, format, log, so one with a format has a database; a database that a
//! repair built takes the place of the damaged one by two renames, and what a crash between them left is finished. Nothing
//! here lets fjall make anew what was there.

use crate::error::OpenError;
use crate::file;
use crate::log;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The layout that is written. A store with a greater number is refused: 1 knows no log, so it would lose what is there;
/// 2 knows no queues, so it would take what the log says of them for damage; 3 takes the log's segments for empty ones; 4 would
/// take a message with a dedup key for damage.
const FORMAT: u32 = 5;

/// The oldest layout that is read; everything in it means the same now.
const FORMAT_OLDEST: u32 = 1;

/// The oldest layout with a log, which is made before anything is acknowledged, and the oldest that is marked last: those
/// between were marked before there was a database.
const FORMAT_LOG: u32 = 2;
const FORMAT_LAST: u32 = 4;

/// Keyspaces of a database, besides fjall's own.
const KEYSPACES: usize = 2;

pub(crate) fn db_path(path: &Path) -> PathBuf {
    path.join("db")
}

/// Where a repair builds a database.
pub(crate) fn repaired_path(path: &Path) -> PathBuf {
    path.join("repaired")
}

fn format_path(path: &Path) -> PathBuf {
    path.join("format")
}

/// Makes the directory where there is none, and refuses what cannot be opened, or only with losses.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    make_directory(path)?;
    finish_rebuild(path)?;
    // Without a log, and without a format or with one that was written first, it was never completely made.
    match (format(path)?, log::log_path(path).is_dir()) {
        (Some(FORMAT_LOG..FORMAT_LAST), false) | (None, false) => Ok(()),
        (Some(_), _) => is_complete(path),
        (None, true) => Err(no_format(path)),
    }
}

pub(crate) fn no_format(path: &Path) -> OpenError {
    OpenError::StoreDamaged { path: format_path(path), detail: "the file is missing".into() }
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(OpenError::io("make the store", path))?;
    file::sync_directory(path.parent().unwrap_or(path))
}

/// The format the store is marked with. One that is not read is an error.
pub(crate) fn format(path: &Path) -> Result<Option<u32>, OpenError> {
    let file = format_path(path);
    let Some(found) = file::read(&file)? else { return Ok(None) };
    match found.parse::<u32>() {
        Ok(number @ FORMAT_OLDEST..=FORMAT) => Ok(Some(number)),
        Ok(number) if number > FORMAT => {
            Err(OpenError::StoreNewer { path: path.to_owned(), found, known: FORMAT })
        }
        _ => Err(OpenError::StoreDamaged { path: file, detail: format!("{found:?} is not a format") }),
    }
}

/// Marks the store with the format that is written.
pub(crate) fn mark(path: &Path) -> Result<(), OpenError> {
    let (file, format) = (format_path(path), FORMAT.to_string());
    match file::read(&file)? {
        Some(found) if found == format => Ok(()),
        _ => file::replace(&file, &format),
    }
}

/// An error where a part of the database is missing. fjall would make it anew without a word, and remove what it knows
/// nothing of then.
pub(crate) fn is_complete(path: &Path) -> Result<(), OpenError> {
    let (db, keyspaces) = (db_path(path), db_path(path).join("keyspaces"));
    // What says which keyspaces there are.
    let index = keyspaces.join("0");
    for path in [db.clone(), db.join("version"), index.join("current")] {
        if !path.exists() {
            return Err(OpenError::StoreBeyondRepair { path, detail: "it is missing".into() });
        }
    }
    let mut found = 0;
    for entry in fs::read_dir(&keyspaces).map_err(OpenError::io("read", &keyspaces))? {
        let keyspace = entry.map_err(OpenError::io("read", &keyspaces))?.path();
        let current = keyspace.join("current");
        if keyspace.is_dir() && !current.exists() {
            return Err(OpenError::StoreDamaged { path: current, detail: "it is missing".into() });
        }
        found += usize::from(keyspace.is_dir() && keyspace != index);
    }
    if found < KEYSPACES {
        let detail = format!("it holds {found} of {KEYSPACES} keyspaces");
        return Err(OpenError::StoreDamaged { path: keyspaces, detail });
    }
    Ok(())
}

/// Whether a repair ended between the renames of [`replace_db`].
pub(crate) fn is_rebuild_unfinished(path: &Path) -> bool {
    !db_path(path).exists() && db_path(&repaired_path(path)).is_dir()
}

/// Puts a database that a repair built in place of the one there. Gives where the latter is kept.
pub(crate) fn replace_db(path: &Path) -> Result<PathBuf, OpenError> {
    let (db, repaired) = (db_path(path), repaired_path(path));
    let aside = (1..).map(|n| path.join(format!("db.damaged-{n}"))).find(|path| !path.exists());
    let aside = aside.unwrap_or_else(|| path.join("db.damaged"));
    file::sync_directory(&repaired)?;
    file::sync_directory(path)?;
    fs::rename(&db, &aside).map_err(OpenError::io("put aside", &db))?;
    file::sync_directory(path)?;
    finish_rebuild(path)?;
    Ok(aside)
}

/// Takes the second step of [`replace_db`] where it is missing.
pub(crate) fn finish_rebuild(path: &Path) -> Result<(), OpenError> {
    if !is_rebuild_unfinished(path) {
        return Ok(());
    }
    let (db, repaired) = (db_path(path), repaired_path(path));
    fs::rename(db_path(&repaired), &db).map_err(OpenError::io("put in place", &db))?;
    file::sync_directory(path)?;
    fs::remove_dir(&repaired).map_err(OpenError::io("remove", &repaired))?;
    file::sync_directory(path)
}
