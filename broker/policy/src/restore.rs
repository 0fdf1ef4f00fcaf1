//! How plugins and policies outlive the process: what a change writes down, and how a start brings it back.
//!
//! A start takes the manifest as it is or not at all. A component that is not what it was costs its revision and the
//! versions that need it, and policies that have no other to be asked, each by name; everything else serves. What was refused stays in the manifest, so that a file
//! that is put right brings it back with the next start.

use crate::admin::PutError;
use crate::archive::{Archive, ArchiveError, Change};
use crate::binding::lock;
use crate::document::{Mode, PolicyDocument};
use crate::host::Host;
use crate::instance::SharedCompiled;
use crate::lineup::Generation;
use crate::lost::{Lost, RefusedVersion};
use crate::manifest::{
    BadManifest, Manifest, SavedCandidate, SavedPlugin, SavedPolicy, SavedProbation, SavedRevision,
    SavedVersion,
};
use crate::plugin::{self, Kept, Plugin, Refused, Revision, Workbench};
use crate::registry::{Policy, Tried, Version};
use crate::rules::Table;
use crate::shared::Shared;
use crate::source::Source;
use std::sync::{Arc, OnceLock};

/// Why a host does not go on where it ended. It has nothing then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the host has an archive or was changed already")]
    NotFresh,
    #[error("{0}")]
    Manifest(BadManifest),
    #[error("{0}")]
    Archive(ArchiveError),
}

/// What a start brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    pub revisions: usize,
    pub refused_revisions: usize,
    pub policies: usize,
    pub refused_policies: usize,
    pub generation: u64,
}

impl Host {
    /// Brings back what the archive has, and writes every change to it from now on. To be called once, before anything
    /// else changes the host.
    ///
    /// # Errors
    /// The manifest cannot be read. What it names and is damaged is no error, see [`Host::refused_policies`].
    pub fn open_archive(&self, archive: Arc<dyn Archive>) -> Result<Restored, RestoreError> {
        let _no_uploads = lock(&self.uploading);
        let _one_at_a_time = lock(&self.shared.changing);
        if self.shared.archive.get().is_some() || self.generation() > 0 || !self.registry().plugins.is_empty()
        {
            return Err(RestoreError::NotFresh);
        }
        let manifest = match archive.load_manifest().map_err(RestoreError::Archive)? {
            Some(bytes) => Manifest::parse(&bytes).map_err(RestoreError::Manifest)?,
            None => {
                self.shared.archive.get_or_init(|| archive);
                return Ok(Restored::default());
            }
        };
        archive.keep_components(&manifest.digests());
        let archive = self.shared.archive.get_or_init(|| archive);
        let mut restored = Restored { generation: manifest.generation, ..Restored::default() };
        self.registry().removed = manifest.removed;
        for (name, saved) in manifest.plugins {
            let plugin = restore_plugin(&**archive, &name, saved);
            restored.revisions += plugin.kept.len();
            restored.refused_revisions += plugin.refused.len();
            self.registry().plugins.insert(name, plugin);
        }
        let mut lineups = Vec::new();
        // An empty policy, as earlier versions kept one of which only a candidate was left, is none.
        let policies = manifest.policies.into_iter().filter(|(_, saved)| !saved.is_empty());
        for (name, saved) in policies {
            match self.shared.restore_policy(&name, &saved, restored.policies) {
                Ok(policy) => {
                    restored.policies += 1;
                    if let Some((_, reason)) = policy.lost.active.as_ref().filter(|_| saved.is_required()) {
                        self.note_missing(&name, reason);
                    }
                    lineups.push(Arc::new(policy.lineup(&name)));
                    self.registry().policies.insert(name, policy);
                }
                Err(reason) => {
                    tracing::error!(
                        policy = name,
                        reason,
                        "the policy is not brought back and decides nothing"
                    );
                    restored.refused_policies += 1;
                    if saved.is_required() {
                        self.note_missing(&name, &reason);
                    }
                    self.registry().refused.insert(name, (saved, reason));
                }
            }
        }
        self.shared.active.store(Arc::new(Generation::new(restored.generation, lineups)));
        self.shared.wake_keeper();
        Ok(restored)
    }
}

impl Shared {
    /// Makes a policy as it was; the error is for people. A probation begins anew.
    fn restore_policy(&self, name: &str, saved: &SavedPolicy, policies: usize) -> Result<Policy, String> {
        if policies >= self.policies_max {
            return Err(self.no_capacity().to_string());
        }
        let mut policy = Policy { generation: saved.generation, ..Policy::new(self.workers) };
        let mut lost = Lost::default();
        if let Some(active) = &saved.active {
            let made = self.restore_version(name, &policy, active);
            policy.active = Lost::sort_out(&mut lost.active, active, made);
        }
        if let Some(previous) = &saved.previous {
            let may_be_asked = policy.falls_back() || saved.probation.is_some();
            let made = match may_be_asked && previous.taken_back.is_none() {
                true => self.restore_version(name, &policy, previous),
                false => self.find_saved(previous),
            };
            policy.previous = Lost::sort_out(&mut lost.previous, previous, made);
        }
        if let Some(candidate) = &saved.candidate {
            let made = self.restore_candidate(name, &policy, candidate);
            policy.candidate = Lost::sort_out(&mut lost.candidate, candidate, made);
        }
        if let Some(SavedProbation { before_ns }) = saved.probation {
            policy.begin_probation(before_ns);
        }
        policy.give_back_instances();
        lost.probation = saved.probation.filter(|_| lost.previous.is_some());
        policy.lost = lost;
        if !policy.is_served() {
            let nothing = || "it has no version that could be asked".to_owned();
            return Err(policy.why_refused().unwrap_or_else(nothing));
        }
        for RefusedVersion { role, version, reason } in policy.lost.show() {
            tracing::error!(
                policy = name,
                role,
                version,
                reason,
                "a version of the policy is not brought back"
            );
        }
        Ok(policy)
    }

    fn restore_candidate(
        &self,
        name: &str,
        policy: &Policy,
        saved: &SavedCandidate,
    ) -> Result<Tried, String> {
        let version = self.find_saved(&saved.version)?;
        let fits = policy.check_candidate(&version.document);
        let tried = fits.and_then(|()| self.try_out(name, policy, (version, saved.trial)));
        tried.map_err(|error| error.to_string())?.ok_or_else(|| "it is off".to_owned())
    }

    /// A version with instances, unless it is off.
    fn restore_version(&self, name: &str, policy: &Policy, saved: &SavedVersion) -> Result<Version, String> {
        let mut version = self.find_saved(saved)?;
        let lasting = (&policy.stats, &policy.memory);
        if version.document.mode != Mode::Off {
            version.binding = self.prepare(name, &version, lasting).map_err(|error| error.to_string())?;
        }
        Ok(version)
    }

    /// A version of the manifest with its rules, or with its revision, which has to be the same component.
    fn find_saved(&self, saved: &SavedVersion) -> Result<Version, String> {
        let SavedVersion { plugin, revision, digest, document, taken_back } = saved;
        let document: PolicyDocument = serde_json::from_value(document.clone())
            .map_err(|error| format!("its document is not one of this version: {error}"))?;
        if let Some(rules) = &document.rules {
            let table = Table::compile(document.hook, rules).map_err(|faults| {
                format!("its rules are not those of this version: {}", PutError::of_rules(faults))
            })?;
            if table.digest() != digest {
                let found = table.digest();
                return Err(format!("its rules were changed: expected digest {digest}, found {found}"));
            }
            let source = Source::Rules(Arc::new(table));
            return Ok(Version { taken_back: *taken_back, ..Version::new(document, source) });
        }
        let registry = self.registry();
        let shelf = registry.plugins.get(plugin);
        let kept = shelf.and_then(|shelf| shelf.kept.iter().find(|kept| kept.revision.revision == *revision));
        if let Some(kept) = kept.filter(|kept| kept.revision.digest == *digest) {
            let source = Source::Plugin(kept.clone());
            return Ok(Version { taken_back: *taken_back, ..Version::new(document, source) });
        }
        let refused =
            shelf.and_then(|shelf| shelf.refused.iter().find(|refused| refused.saved.revision == *revision));
        let reason = refused.map_or("it is not in the manifest", |refused| refused.reason.as_str());
        Err(format!("it needs {plugin}@{revision}, which is refused: {reason}"))
    }

    /// Writes a change down before it becomes visible; `edit` makes the manifest what it will be. Those that were made
    /// without being written down come first. Nothing is written without an archive.
    pub(crate) fn write_down(
        &self,
        change: &Change<'_>,
        edit: impl FnOnce(&mut Manifest) -> serde_json::Result<()>,
    ) -> Result<(), ArchiveError> {
        let Some(archive) = self.archive.get() else { return Ok(()) };
        self.catch_up()?;
        let bytes = self.manifest(change.generation, edit)?;
        archive.commit(&bytes, &change.entry(archive.now_unix_ms()))
    }

    /// Writes down the changes that were made without it, the last of them with the manifest as it is.
    pub(crate) fn catch_up(&self) -> Result<(), ArchiveError> {
        let Some(archive) = self.archive.get() else { return Ok(()) };
        let mut overdue = lock(&self.overdue);
        while let [entry, later @ ..] = &**overdue {
            if later.is_empty() {
                archive.commit(&self.manifest(self.active.load().number, |_| Ok(()))?, entry)?;
            } else {
                archive.note(entry)?;
            }
            overdue.remove(0);
        }
        Ok(())
    }

    fn manifest(
        &self,
        generation: u64,
        edit: impl FnOnce(&mut Manifest) -> serde_json::Result<()>,
    ) -> Result<Vec<u8>, ArchiveError> {
        let write = || {
            let mut manifest = self.registry().manifest(generation)?;
            edit(&mut manifest)?;
            manifest.to_bytes()
        };
        write().map_err(|error: serde_json::Error| ArchiveError::Failed { reason: error.to_string() })
    }

    /// Writes down what a policy is about to be; an empty one is not there.
    pub(crate) fn write_down_policy(&self, change: &Change<'_>, policy: &Policy) -> Result<(), ArchiveError> {
        self.write_down(change, |manifest| {
            if policy.is_empty() {
                manifest.policies.remove(change.name);
            } else {
                manifest.policies.insert(change.name.to_owned(), policy.saved()?);
            }
            Ok(())
        })
    }

    /// Writes down that a probation is over, which is no change of what decides.
    pub(crate) fn write_down_settled(&self, name: &str, policy: &Policy) -> Result<(), ArchiveError> {
        let Some(archive) = self.archive.get() else { return Ok(()) };
        self.catch_up()?;
        archive.replace(&self.manifest(self.active.load().number, |manifest| {
            manifest.policies.insert(name.to_owned(), policy.saved()?);
            Ok(())
        })?)
    }

    pub(crate) const fn workbench(&self) -> Workbench<'_> {
        Workbench {
            engine: &self.engine,
            linker: &self.linker,
            adapters: &self.adapters,
            ticker: &self.ticker,
            discards: &self.discards,
        }
    }

    pub(crate) fn keep_component(&self, digest: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.archive.get().map_or(Ok(()), |archive| archive.save_component(digest, bytes))
    }

    /// Forgets those of the components that no revision has any more.
    pub(crate) fn forget_unused(&self, digests: impl IntoIterator<Item = String>) {
        let Some(archive) = self.archive.get() else { return };
        let used: std::collections::BTreeSet<_> =
            self.registry().plugins.values().flat_map(Plugin::digests).collect();
        digests
            .into_iter()
            .filter(|digest| !used.contains(digest))
            .for_each(|digest| archive.remove_component(&digest));
    }

    /// 0 without an archive, where nobody asks for it.
    pub(crate) fn now_unix_ms(&self) -> u64 {
        self.archive.get().map_or(0, |archive| archive.now_unix_ms())
    }

    /// The code of a revision; of one of an earlier run, compiled when it is first needed.
    pub(crate) fn compiled(&self, kept: &Kept) -> Result<SharedCompiled, PutError> {
        if let Some(compiled) = kept.compiled.get() {
            return Ok(Arc::clone(compiled));
        }
        let gone = || ArchiveError::Failed { reason: "nothing keeps it".to_owned() };
        let archive = self.archive.get().ok_or_else(|| PutError::Component(gone()))?;
        let bytes = archive.load_component(&kept.revision.digest).map_err(PutError::Component)?;
        let compiled = self.workbench().compile(&kept.revision.name, &bytes);
        let compiled = compiled.map_err(|unfit| PutError::Guest { reason: unfit.to_string() })?;
        Ok(Arc::clone(kept.compiled.get_or_init(|| Arc::new(compiled))))
    }
}

/// A plugin with those of its revisions whose components are what they were.
fn restore_plugin(archive: &dyn Archive, name: &str, saved: SavedPlugin) -> Plugin {
    let mut plugin = Plugin { last: saved.last, ..Plugin::default() };
    for saved in saved.revisions {
        match archive.load_component(&saved.digest) {
            Ok(bytes) => plugin.kept.push(restore_revision(name, &saved, &bytes)),
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(plugin = name, revision = saved.revision, reason, "the revision is refused");
                plugin.refused.push(Refused { saved, reason });
            }
        }
    }
    plugin
}

fn restore_revision(name: &str, saved: &SavedRevision, bytes: &[u8]) -> Kept {
    let revision = Revision {
        revision: saved.revision,
        hooks: saved.hooks.clone(),
        lane: if saved.is_direct { plugin::LANE_CORE } else { plugin::LANE_COMPONENT },
        lane_reason: saved.lane_reason.clone(),
        ..plugin::unnumbered(name, bytes)
    };
    Kept { revision, compiled: Arc::new(OnceLock::new()), taken: (saved.who.as_str().into(), saved.unix_ms) }
}
