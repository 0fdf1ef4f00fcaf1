//! Dictionaries as they are kept: opened at a start, pushed and removed while messages flow.
//!
//! A change is checked and prepared first, then its bytes are on disk, then its audit line and the index, and only
//! then readers see it. What fails before changes nothing. Deliberately not here: HTTP.

use super::index::{Index, SavedDictionary, SavedRevision};
use super::limits::{NAME_BYTES_MAX, NAMES_MAX, PATTERNS_MAX, REVISIONS_KEPT};
use super::{Dictionaries, Dictionary};
use crate::policies;
use anyhow::{Context, anyhow};
use arc_swap::{ArcSwap, Guard};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use waspmq_core::{AddressError, Name, Pattern};
use waspmq_policy::{ArchiveError, AuditEntry};
use waspmq_protocol::codec::{self, DictionaryError};
use waspmq_store::{AuditLog, ContentFiles, DataDir};

/// All dictionaries of a broker. Readers take the set of the moment; whoever changes it waits for the disk.
#[derive(Debug, Default)]
pub struct Library {
    current: ArcSwap<Dictionaries>,
    state: Mutex<State>,
    /// None in a broker that keeps nothing.
    files: Option<ContentFiles>,
    audit: Option<Arc<AuditLog>>,
}

/// What is kept, and what of it can be used, by id.
#[derive(Debug, Default)]
struct State {
    index: Index,
    usable: BTreeMap<u32, Arc<Dictionary>>,
    /// Why the others cannot be used.
    refused: BTreeMap<u32, String>,
}

/// Who changes something, when, and at which generation of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    pub who: String,
    pub unix_ms: u64,
    pub generation: u64,
}

/// What is pushed: checked words, and bytes that are yet to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    name: Name,
    patterns: Vec<Pattern>,
}

/// Why something cannot be pushed. Each message is a sentence for the person who pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(
        "{name:?} is not the name of a dictionary: 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '_' and '.', not \".\" or \"..\""
    )]
    Name { name: String },
    #[error("{pattern:?}: {error}")]
    Pattern { pattern: String, error: AddressError },
    #[error("a dictionary has 1 to {PATTERNS_MAX} patterns, not {count}")]
    Patterns { count: usize },
    #[error("these bytes are not a dictionary: {0}")]
    Unfit(#[from] DictionaryError),
    #[error("there are {NAMES_MAX} dictionaries already; remove one first")]
    TooMany,
    #[error("all 4,294,967,295 ids of this data directory were given out")]
    NoIds,
    #[error("the dictionary cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

/// Why a dictionary was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no dictionary {name:?}")]
    Unknown { name: String },
    #[error("the removal cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

/// A kept revision, as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub name: String,
    pub revision: u32,
    pub id: u32,
    /// 64 hexadecimal digits.
    pub digest: String,
    pub bytes: usize,
    pub patterns: Vec<String>,
    pub unix_ms: u64,
    /// Why it cannot be used, when it cannot.
    pub refused: Option<String>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub revision: Revision,
    /// False: the latest revision was the same.
    pub is_new: bool,
}

impl Push {
    /// Checks the words of a push.
    pub fn new<'a>(name: &str, patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PushError> {
        let is_plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain);
        let bad = || PushError::Name { name: name.chars().take(NAME_BYTES_MAX).collect() };
        let name = Name::parse(name).ok().filter(|_| is_name).ok_or_else(bad)?;
        let parsed = |text: &str| {
            Pattern::parse_scope(text).map_err(|error| PushError::Pattern { pattern: text.to_owned(), error })
        };
        let mut patterns: Vec<_> = patterns.into_iter().map(parsed).collect::<Result<_, _>>()?;
        patterns.sort_unstable();
        patterns.dedup();
        if !(1..=PATTERNS_MAX).contains(&patterns.len()) {
            return Err(PushError::Patterns { count: patterns.len() });
        }
        Ok(Self { name, patterns })
    }
}

impl Library {
    /// Opens what the last run kept. Says on the log what was found.
    ///
    /// # Errors
    /// The directory cannot be used or the index is damaged. Damaged bytes are no error: their revision is refused by
    /// name, and the rest serves.
    pub(crate) fn open(data_dir: &DataDir, audit: Arc<AuditLog>) -> anyhow::Result<Self> {
        let path = data_dir.dictionaries_path();
        let files = ContentFiles::open_dictionaries(&path).context("cannot open the dictionaries")?;
        let bytes = files.read_manifest().context("cannot read the dictionaries")?;
        let index = bytes.map(|bytes| Index::parse(&bytes)).transpose().map_err(|bad| {
            anyhow!(
                "{} cannot be used: {bad}. Restore it from a backup; to start without dictionaries, move the directory {} away",
                files.manifest_path().display(),
                path.display()
            )
        })?;
        let mut state = State { index: index.unwrap_or_default(), ..State::default() };
        for (name, saved) in state.index.revisions() {
            match restore(&files, name, saved) {
                Ok(dictionary) => drop(state.usable.insert(saved.id, Arc::new(dictionary))),
                Err(reason) => {
                    tracing::error!(name, revision = saved.revision, reason, "a dictionary is refused");
                    state.refused.insert(saved.id, reason);
                }
            }
        }
        match files.sweep(|digest| state.index.uses(digest)) {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "files that an earlier run left beside its dictionaries are gone")
            }
            Err(error) => tracing::warn!(error = error.chain(), "dictionaries that nothing uses stay"),
        }
        let (revisions, refused_revisions) = (state.usable.len(), state.refused.len());
        tracing::info!(revisions, refused_revisions, "dictionaries are as they were");
        let current = ArcSwap::from_pointee(state.set());
        Ok(Self { current, state: Mutex::new(state), files: Some(files), audit: Some(audit) })
    }

    /// The set of this moment.
    pub fn load(&self) -> Guard<Arc<Dictionaries>> {
        self.current.load()
    }

    /// Makes `bytes` the next revision of a dictionary. The bytes and patterns of the latest one again give that one
    /// again. Waits for the disk.
    pub fn push(&self, push: &Push, bytes: &[u8], by: &By) -> Result<Pushed, PushError> {
        let prepared = codec::Dictionary::new(bytes)?;
        let digest = blake3::hash(bytes);
        let saved = SavedRevision {
            revision: 0,
            id: 0,
            digest: digest.to_hex().to_string(),
            size: bytes.len(),
            patterns: push.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            who: by.who.clone(),
            unix_ms: by.unix_ms,
        };
        let mut state = self.state();
        let name = push.name.as_str();
        let latest = state.index.dictionaries.get(name).and_then(|kept| kept.revisions.last());
        let same =
            latest.filter(|latest| (&latest.digest, &latest.patterns) == (&saved.digest, &saved.patterns));
        if let Some(same) = same.filter(|same| state.usable.contains_key(&same.id)) {
            return Ok(Pushed { revision: state.shown(name, same), is_new: false });
        }
        // A refused one comes back with its number and its id when its bytes do.
        let (is_new, same) = (same.is_none(), same.cloned());
        let from = latest.map(|latest| format!("{name}@{}", latest.revision)).unwrap_or_default();
        let (index, saved) = match same {
            Some(same) => (state.index.clone(), same),
            None => state.index.with(name, saved)?,
        };
        let index = Index { generation: index.generation + 1, ..index };
        if let Some(files) = &self.files {
            files.save_content(&saved.digest, bytes).map_err(policies::failed)?;
        }
        let details = [("digest", saved.digest.clone()), ("match", saved.patterns.join(" "))];
        let change = entry(by, "dictionary push", name, details);
        self.commit(&index, &AuditEntry { from, to: format!("{name}@{}", saved.revision), ..change })?;
        let dictionary = Dictionary {
            id: saved.id,
            name: push.name.clone(),
            revision: saved.revision,
            digest: *digest.as_bytes(),
            patterns: push.patterns.clone(),
            bytes: bytes.into(),
            prepared,
        };
        state.usable.insert(saved.id, Arc::new(dictionary));
        state.refused.remove(&saved.id);
        self.put_in_place(&mut state, index);
        Ok(Pushed { revision: state.shown(name, &saved), is_new })
    }

    /// Removes a dictionary with all its revisions. Waits for the disk.
    pub fn remove(&self, name: &str, by: &By) -> Result<(), RemoveError> {
        let mut state = self.state();
        let mut index = state.index.clone();
        let removed = index.dictionaries.remove(name).and_then(|kept| kept.revisions.last().cloned());
        let removed = removed.ok_or_else(|| RemoveError::Unknown { name: name.to_owned() })?;
        index.generation += 1;
        let change = entry(by, "dictionary remove", name, [("digest", removed.digest)]);
        self.commit(&index, &AuditEntry { from: format!("{name}@{}", removed.revision), ..change })?;
        self.put_in_place(&mut state, index);
        Ok(())
    }

    /// The latest revision of every dictionary, in the order of their names.
    pub fn list(&self) -> Vec<Revision> {
        let state = self.state();
        let latest =
            state.index.dictionaries.iter().filter_map(|(name, kept)| Some((name, kept.revisions.last()?)));
        latest.map(|(name, saved)| state.shown(name, saved)).collect()
    }

    /// The kept revisions of one dictionary, the oldest first.
    pub fn revisions(&self, name: &str) -> Option<Vec<Revision>> {
        let state = self.state();
        let kept = state.index.dictionaries.get(name)?;
        Some(kept.revisions.iter().map(|saved| state.shown(name, saved)).collect())
    }

    /// Has a change on disk, with its audit line. When this fails, a start finds the index before.
    fn commit(&self, index: &Index, change: &AuditEntry) -> Result<(), ArchiveError> {
        let failed = |error: serde_json::Error| ArchiveError::Failed { reason: error.to_string() };
        let bytes = index.to_bytes().map_err(failed)?;
        let save = || self.files.as_ref().map_or(Ok(()), |files| files.save_manifest(&bytes));
        match &self.audit {
            Some(audit) => {
                let line = policies::line(change)?;
                audit.append_if(&line, save).map(drop).map_err(policies::failed)?;
            }
            None => save().map_err(policies::failed)?,
        }
        let AuditEntry { who, what, name, from, to, generation, .. } = change;
        tracing::info!(target: "audit", who, what, name, from, to, generation);
        Ok(())
    }

    /// Shows a change that is on disk to readers, and forgets what it left behind.
    fn put_in_place(&self, state: &mut State, index: Index) {
        let before = std::mem::replace(&mut state.index, index);
        let gone = |id: &u32| !state.index.revisions().any(|(_, saved)| saved.id == *id);
        state.usable.retain(|id, _| !gone(id));
        state.refused.retain(|id, _| !gone(id));
        self.current.store(Arc::new(state.set()));
        let Some(files) = &self.files else { return };
        for (_, saved) in before.revisions().filter(|(_, saved)| !state.index.uses(&saved.digest)) {
            if let Err(error) = files.remove_content(&saved.digest) {
                tracing::warn!(
                    error = error.chain(),
                    "a dictionary that nothing uses stays until the next start"
                );
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&self) -> Dictionaries {
        let latest = |kept: &SavedDictionary| {
            let mut newest_first = kept.revisions.iter().rev();
            newest_first.find_map(|saved| self.usable.get(&saved.id)).cloned()
        };
        let serving: Vec<_> = self.index.dictionaries.values().filter_map(latest).collect();
        Dictionaries::new(self.index.generation, &serving)
    }

    fn shown(&self, name: &str, saved: &SavedRevision) -> Revision {
        Revision {
            name: name.to_owned(),
            revision: saved.revision,
            id: saved.id,
            digest: saved.digest.clone(),
            bytes: saved.size,
            patterns: saved.patterns.clone(),
            unix_ms: saved.unix_ms,
            refused: self.refused.get(&saved.id).cloned(),
        }
    }
}

impl Index {
    /// This with one more revision, which gets its numbers; the oldest one may go for it.
    fn with(&self, name: &str, saved: SavedRevision) -> Result<(Self, SavedRevision), PushError> {
        let mut index = self.clone();
        if index.dictionaries.len() >= NAMES_MAX && !index.dictionaries.contains_key(name) {
            return Err(PushError::TooMany);
        }
        index.last_id = index.last_id.checked_add(1).ok_or(PushError::NoIds)?;
        let kept = index.dictionaries.entry(name.to_owned()).or_default();
        kept.last = kept.last.saturating_add(1);
        let saved = SavedRevision { revision: kept.last, id: index.last_id, ..saved };
        if kept.revisions.len() >= REVISIONS_KEPT {
            kept.revisions.remove(0);
        }
        kept.revisions.push(saved.clone());
        Ok((index, saved))
    }
}

/// Brings a revision of an earlier run back; the error says why it cannot be.
fn restore(files: &ContentFiles, name: &str, saved: &SavedRevision) -> Result<Dictionary, String> {
    let bytes = files.read_content(&saved.digest).map_err(|error| error.chain())?;
    let prepared = codec::Dictionary::new(&bytes).map_err(|error| error.to_string())?;
    let push =
        Push::new(name, saved.patterns.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    Ok(Dictionary {
        id: saved.id,
        name: push.name,
        revision: saved.revision,
        digest: *blake3::hash(&bytes).as_bytes(),
        patterns: push.patterns,
        bytes: bytes.into(),
        prepared,
    })
}

fn entry<const N: usize>(
    by: &By,
    what: &'static str,
    name: &str,
    details: [(&'static str, String); N],
) -> AuditEntry {
    AuditEntry {
        unix_ms: by.unix_ms,
        who: by.who.clone(),
        what: what.to_owned(),
        name: name.to_owned(),
        from: String::new(),
        to: String::new(),
        generation: by.generation,
        details: details.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}
