//! Reading the log: at a start, for a check and for a repair.

use super::segment::{self, End, Scan};
use super::{entry, log_path};
use crate::disk::Cut;
use crate::disk::layout::db_path;
use crate::error::OpenError;
use crate::file;
use crate::store::{Durability, Store, StoreError, Write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a replay did.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) writes: u64,
    /// Writes that met a damaged record of the store.
    pub(crate) lost: u64,
    pub(crate) bytes: u64,
    pub(crate) cut: Option<Cut>,
}

/// A place in the log where something is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) file: PathBuf,
    pub(crate) detail: String,
}

/// A segment and what it holds.
struct Segment {
    path: PathBuf,
    first: u64,
    file: Vec<u8>,
    scan: Scan,
}

impl Segment {
    fn read(first: u64, path: PathBuf) -> Result<Self, OpenError> {
        let file = fs::read(&path).map_err(OpenError::io("read", &path))?;
        let scan = segment::scan(&file, first);
        Ok(Self { path, first, file, scan })
    }

    /// The number that follows its last group.
    fn next(&self) -> u64 {
        self.first.saturating_add(self.scan.groups.len() as u64)
    }

    fn body(&self, group: &segment::Group) -> &[u8] {
        self.file.get(group.body.clone()).unwrap_or_default()
    }

    fn cut(&self) -> Cut {
        let kept = self.scan.whole_bytes;
        let rest = self.file.get(kept..).unwrap_or_default();
        let cut = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Cut { file: self.path.clone(), kept_bytes: kept as u64, cut_bytes: cut as u64 }
    }

    fn damage(&self) -> Damage {
        let detail = format!("group {} at byte {} cannot be read", self.next(), self.scan.whole_bytes);
        Damage { file: self.path.clone(), detail }
    }

    /// Whether everything before `follower` can be read, and when not, how.
    fn judge(&self, follower: Option<u64>) -> Result<Option<Cut>, Damage> {
        match (self.scan.end, follower) {
            // What lies behind the last group is a number that was given again, so it was refused.
            (_, Some(follower)) if follower == self.next() => Ok(None),
            (_, Some(_)) | (End::Damaged, None) => Err(self.damage()),
            (End::Torn, None) => Ok(Some(self.cut())),
            (End::Clean, None) => Ok(None),
        }
    }
}

/// The segments that may hold groups behind `applied`: older ones were synced by the store.
fn needed(directory: &Path, applied: u64) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut segments = segment::list(directory)?;
    let older = segments.iter().rposition(|(first, _)| *first <= applied.saturating_add(1));
    segments.drain(..older.unwrap_or(0));
    Ok(segments)
}

fn missing(directory: &Path, applied: u64, segments: &[(u64, PathBuf)]) -> Option<Damage> {
    let (first, _) = segments.first()?;
    let wanted = applied.saturating_add(1);
    (*first > wanted).then(|| Damage {
        file: directory.to_owned(),
        detail: format!("the segment with group {wanted} is missing; the oldest begins with {first}"),
    })
}

fn damaged(Damage { file: path, detail }: Damage) -> OpenError {
    OpenError::StoreDamaged { path, detail }
}

/// What fails for a while, a full disk say, is no damage.
fn failed(store: &Path) -> impl Fn(StoreError) -> OpenError {
    let (db, log) = (db_path(store), log_path(store));
    move |error| match error.is_retryable() {
        true => OpenError::Io { action: "apply the log", path: log.clone(), source: io::Error::other(error) },
        false => {
            let detail = format!("the log cannot be applied: {error}");
            OpenError::StoreDamaged { path: db.clone(), detail }
        }
    }
}

/// Applies groups. Where a damaged record of the store is in the way of some of the writes, the others are applied one by
/// one, as when a broker runs. Gives how many were not.
fn apply(store: &dyn Store, writes: &[Write], groups: (u64, u64)) -> Result<u64, StoreError> {
    match store.apply(writes, groups) {
        Err(error) if !error.is_retryable() => {}
        other => return other.map(|()| 0),
    }
    let lost = apply_all_alone(store, writes)?;
    store.apply(&[], groups).map(|()| lost)
}

fn apply_all_alone(store: &dyn Store, writes: &[Write]) -> Result<u64, StoreError> {
    let mut alone = Alone::default();
    alone.apply(store, writes)?;
    Ok(alone.lost as u64)
}

/// How far writes are that are applied one by one, as a damaged record is in the way of some.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    pub(crate) done: usize,
    /// How many of them met damage.
    pub(crate) lost: usize,
}

impl Alone {
    /// Goes on from where it got to before.
    pub(crate) fn apply(&mut self, store: &dyn Store, writes: &[Write]) -> Result<(), StoreError> {
        while let Some(write) = writes.get(self.done) {
            match store.apply_alone(write) {
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "a write meets a damaged record of the store and is lost");
                    self.lost += 1;
                }
                Ok(()) => {}
            }
            self.done += 1;
        }
        Ok(())
    }
}

/// Applies every group the store has not applied, syncs the store and removes the log.
///
/// Damage before the last group that was on stable storage is an error, and changes nothing in the log.
pub(crate) fn replay(path: &Path, store: &dyn Store) -> Result<Replayed, OpenError> {
    let directory = log_path(path);
    let mut done = Replayed::default();
    let mut applied = store.applied().map_err(failed(path))?;
    let segments = needed(&directory, applied)?;
    if let Some(damage) = missing(&directory, applied, &segments) {
        return Err(damaged(damage));
    }
    for (index, (first, file)) in segments.iter().enumerate() {
        let segment = Segment::read(*first, file.clone())?;
        done.bytes += segment.scan.whole_bytes as u64;
        done.cut = segment.judge(segments.get(index + 1).map(|(first, _)| *first)).map_err(damaged)?;
        for group in segment.scan.groups.iter().filter(|group| group.sequence > applied) {
            let parsed = entry::parse_all(segment.body(group));
            let writes = parsed.ok_or_else(|| damaged(segment.damage()))?;
            let lost = apply(store, &writes, (group.sequence, group.sequence)).map_err(failed(path))?;
            done.lost += lost;
            done.writes += writes.len() as u64 - lost;
        }
        applied = applied.max(segment.next() - 1);
    }
    if !is_empty(path)? {
        store.commit(&[], Durability::Synced).map_err(failed(path))?;
        remove_all(path)?;
    }
    Ok(done)
}

pub(crate) fn is_empty(store: &Path) -> Result<bool, OpenError> {
    Ok(segment::list(&log_path(store))?.is_empty())
}

/// The last group of the log where it holds all of those behind `applied`, or behind its own begin; `None` where it does
/// not.
pub(crate) fn last_behind(store: &Path, applied: Option<u64>) -> Result<Option<u64>, OpenError> {
    let directory = log_path(store);
    let begin = || Ok(segment::list(&directory)?.first().map_or(0, |(first, _)| first.saturating_sub(1)));
    let applied = applied.map_or_else(begin, Ok)?;
    let segments = needed(&directory, applied)?;
    if missing(&directory, applied, &segments).is_some() {
        return Ok(None);
    }
    let mut last = None;
    for (index, (first, path)) in segments.iter().enumerate() {
        let segment = Segment::read(*first, path.clone())?;
        if segment.judge(segments.get(index + 1).map(|(first, _)| *first)).is_err() {
            return Ok(None);
        }
        last = Some(segment.next() - 1);
    }
    Ok(last)
}

/// Looks at the log of a store that has applied the groups up to `applied`. Gives the writes that it has not, and what
/// cannot be read.
pub(crate) fn examine(store: &Path, applied: u64) -> Result<(u64, Vec<Damage>), OpenError> {
    let directory = log_path(store);
    let segments = needed(&directory, applied)?;
    let mut found: Vec<Damage> = missing(&directory, applied, &segments).into_iter().collect();
    let mut writes = 0;
    for (index, (first, path)) in segments.iter().enumerate() {
        let segment = Segment::read(*first, path.clone())?;
        match segment.judge(segments.get(index + 1).map(|(first, _)| *first)) {
            Ok(None) => {}
            Ok(Some(cut)) => found.push(Damage {
                file: cut.file,
                detail: format!(
                    "was not completely written from byte {} on ({} bytes)",
                    cut.kept_bytes, cut.cut_bytes
                ),
            }),
            Err(damage) => found.push(damage),
        }
        let groups = segment.scan.groups.iter().filter(|group| group.sequence > applied);
        writes += groups.map(|group| u64::from(group.writes)).sum::<u64>();
    }
    Ok((writes, found))
}

/// Applies every whole group the store has not applied, also those behind damage, and syncs the store. Those behind
/// `doubted` are applied although it says that they were: journals lost some of what they said. Gives the number of writes
/// that it had not applied, and what could not be read.
pub(crate) fn salvage(
    path: &Path,
    store: &dyn Store,
    doubted: Option<u64>,
) -> Result<(u64, Vec<Damage>), OpenError> {
    let directory = log_path(path);
    let mut applied = store.applied().map_err(failed(path))?;
    let mut at = doubted.map_or(applied, |doubted| doubted.min(applied));
    let mut done = 0;
    let (_, mut lost) = examine(path, applied)?;
    for (first, file) in needed(&directory, at)? {
        let segment = Segment::read(first, file.clone())?;
        let mut lose = |detail: String| lost.push(Damage { file: file.clone(), detail });
        for group in segment::later(&segment.file, 0, first.max(at.saturating_add(1))) {
            // Groups that were refused and written again have a number that was applied by now.
            if group.sequence <= at {
                continue;
            }
            let Some(writes) = entry::parse_all(segment.body(&group)) else {
                lose(format!("group {} says nothing that is known", group.sequence));
                continue;
            };
            at = group.sequence;
            let refused = if at <= applied {
                apply_all_alone(store, &writes).map_err(failed(path))?
            } else {
                let refused = apply(store, &writes, (applied + 1, at)).map_err(failed(path))?;
                applied = at;
                done += writes.len() as u64 - refused;
                refused
            };
            if refused > 0 {
                lose(format!("{refused} writes of group {at} meet damaged records"));
            }
        }
    }
    store.commit(&[], Durability::Synced).map_err(failed(path))?;
    Ok((done, lost))
}

/// Removes the log of a store that has synced all of it. Newest last: while the oldest is there nothing looks missing.
pub(crate) fn remove_all(store: &Path) -> Result<(), OpenError> {
    let directory = log_path(store);
    let segments = segment::list(&directory)?;
    for (_, path) in &segments {
        fs::remove_file(path).map_err(OpenError::io("remove", path))?;
    }
    if segments.is_empty() { Ok(()) } else { file::sync_directory(&directory) }
}
