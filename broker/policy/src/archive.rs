//! Where plugins and policies outlive the process: the seam to whoever keeps them.
//!
//! The host writes a change down before it becomes visible, and makes no change that cannot be written. Without an
//! archive, which is how it starts, it keeps nothing. Deliberately not here: files.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// What keeps plugins and policies. All methods may block for as long as a disk takes; changes come one at a time.
pub trait Archive: Debug + Send + Sync {
    /// Milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;

    /// The manifest of the last commit; `None` before the first.
    fn load_manifest(&self) -> Result<Option<Vec<u8>>, ArchiveError>;

    /// The component with this digest (BLAKE3, 64 hexadecimal digits), checked.
    fn load_component(&self, digest: &str) -> Result<Vec<u8>, ArchiveError>;

    /// Keeps a component; when this returns, it outlives a power cut.
    fn save_component(&self, digest: &str, bytes: &[u8]) -> Result<(), ArchiveError>;

    /// Replaces the manifest and notes the change; when this returns, both outlive a power cut. After a failure a start
    /// finds the manifest before.
    fn commit(&self, manifest: &[u8], change: &AuditEntry) -> Result<(), ArchiveError>;

    /// Replaces the manifest by one that says no more of what decides; otherwise as [`Self::commit`].
    fn replace(&self, manifest: &[u8]) -> Result<(), ArchiveError>;

    /// Notes a change that was made before it could be kept.
    fn note(&self, change: &AuditEntry) -> Result<(), ArchiveError>;

    /// Forgets a component that the manifest names no more. One that stays is in nobody's way.
    fn remove_component(&self, digest: &str);

    /// Forgets all components but these.
    fn keep_components(&self, digests: &BTreeSet<String>);
}

/// Why something was not kept, or is not there. The reason names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    #[error("there is no space left: {reason}")]
    Full { reason: String },
    #[error("{reason}")]
    Failed { reason: String },
}

/// One change, as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub unix_ms: u64,
    /// `broker` for what the broker does by itself.
    pub who: String,
    pub what: String,
    pub name: String,
    pub from: String,
    pub to: String,
    /// The generation from the change on.
    pub generation: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// A change that is about to be made.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) who: &'a str,
    pub(crate) what: &'static str,
    pub(crate) name: &'a str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) generation: u64,
    /// Of a component: its digest; of a policy: what it is made of before and behind, and which keys of its document differ; of an
    /// automatic rollback also the reason and its detail.
    pub(crate) details: &'a [(&'static str, String)],
}

impl Change<'_> {
    pub(crate) fn entry(&self, unix_ms: u64) -> AuditEntry {
        let details = self.details.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        AuditEntry {
            unix_ms,
            who: self.who.to_owned(),
            what: self.what.to_owned(),
            name: self.name.to_owned(),
            from: self.from.clone(),
            to: self.to.clone(),
            generation: self.generation,
            details: details.collect(),
        }
    }

    /// Tells the broker's own log, once the change is made.
    pub(crate) fn log(&self) {
        let Self { who, what, name, from, to, generation, details } = self;
        let of = |wanted| details.iter().find(|(key, _)| *key == wanted).map(|(_, value)| &**value);
        let (digest, reason, detail) = (of("digest"), of("reason"), of("detail"));
        let (changed, from_digest, to_digest) = (of("changed"), of("from_digest"), of("to_digest"));
        let (from_document, to_document) = (of("from_document"), of("to_document"));
        tracing::info!(
            target: "audit", who, what, name, from, to, generation, digest, reason, detail, changed, from_digest,
            from_document, to_digest, to_document,
        );
    }
}
