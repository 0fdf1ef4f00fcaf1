//! Plugins, policies and the audit log on disk: what the policy host writes down, and what it starts with.

use crate::clock::Clock;
use anyhow::{Context, anyhow};
use std::collections::BTreeSet;
use std::sync::Arc;
use waspmq_policy::{Archive, ArchiveError, AuditEntry, Host, RestoreError};
use waspmq_store::{AuditLog, ContentFiles, DataDir, FileError};

/// Bytes of each text of an audit line. More: cut.
const TEXT_BYTES_MAX: usize = 1_024;

/// Opens the audit log, and brings back the plugins and policies of the last run. Says on the log what was found.
///
/// # Errors
/// A file cannot be opened, or the manifest is damaged. A damaged component is no error: it is refused by name.
pub(crate) fn open(data_dir: &DataDir, host: &Host, clock: Clock) -> anyhow::Result<Arc<AuditLog>> {
    let audit = AuditLog::open(data_dir.audit_path()).context("cannot open the audit log")?;
    let audit = Arc::new(audit);
    let files = ContentFiles::open_policies(data_dir.policies_path())
        .context("cannot open the plugins and policies")?;
    let manifest = files.manifest_path();
    let archive = Arc::new(OnDisk { files, audit: Arc::clone(&audit), clock });
    let restored = host.open_archive(archive).map_err(|error| match error {
        RestoreError::Manifest(bad) => anyhow!(
            "{} cannot be used: {bad}. Restore it from a backup; to start without plugins and policies, move the directory \
             {} away",
            manifest.display(),
            data_dir.policies_path().display()
        ),
        other => anyhow!("cannot bring back plugins and policies: {other}"),
    })?;
    tracing::info!(
        revisions = restored.revisions,
        refused_revisions = restored.refused_revisions,
        policies = restored.policies,
        refused_policies = restored.refused_policies,
        generation = restored.generation,
        "plugins and policies are as they were"
    );
    Ok(audit)
}

/// Notes a change that is not one of plugins or policies.
pub(crate) fn note(audit: &AuditLog, entry: &AuditEntry) {
    let noted = line(entry).and_then(|line| audit.append(&line).map_err(failed));
    if let Err(error) = noted {
        tracing::error!(%error, what = entry.what, "a change is in no audit log but this");
    }
}

#[derive(Debug)]
struct OnDisk {
    files: ContentFiles,
    audit: Arc<AuditLog>,
    clock: Clock,
}

impl Archive for OnDisk {
    fn now_unix_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    fn load_manifest(&self) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.files.read_manifest().map_err(failed)
    }

    fn load_component(&self, digest: &str) -> Result<Vec<u8>, ArchiveError> {
        self.files.read_content(digest).map_err(failed)
    }

    fn save_component(&self, digest: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.files.save_content(digest, bytes).map_err(failed)
    }

    fn commit(&self, manifest: &[u8], change: &AuditEntry) -> Result<(), ArchiveError> {
        let line = line(change)?;
        self.audit.append_if(&line, || self.files.save_manifest(manifest)).map(|_| ()).map_err(failed)
    }

    fn replace(&self, manifest: &[u8]) -> Result<(), ArchiveError> {
        self.files.save_manifest(manifest).map_err(failed)
    }

    fn note(&self, change: &AuditEntry) -> Result<(), ArchiveError> {
        self.audit.append(&line(change)?).map(|_| ()).map_err(failed)
    }

    fn remove_component(&self, digest: &str) {
        if let Err(error) = self.files.remove_content(digest) {
            tracing::warn!(error = error.chain(), "a component that nothing uses stays until the next start");
        }
    }

    fn keep_components(&self, digests: &BTreeSet<String>) {
        match self.files.sweep(|digest| digests.contains(digest)) {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "files that an earlier run left beside its components are gone")
            }
            Err(error) => tracing::warn!(error = error.chain(), "components that nothing uses stay"),
        }
    }
}

/// The line of a change, without its number.
pub(crate) fn line(entry: &AuditEntry) -> Result<String, ArchiveError> {
    let cut =
        |text: &str| text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned();
    let entry = AuditEntry {
        who: cut(&entry.who),
        name: cut(&entry.name),
        from: cut(&entry.from),
        to: cut(&entry.to),
        ..entry.clone()
    };
    serde_json::to_string(&entry).map_err(|error| ArchiveError::Failed { reason: error.to_string() })
}

pub(crate) fn failed(error: FileError) -> ArchiveError {
    let reason = error.chain();
    if error.is_full() { ArchiveError::Full { reason } } else { ArchiveError::Failed { reason } }
}
