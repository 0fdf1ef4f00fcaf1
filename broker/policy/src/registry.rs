//! What there is: plugins with their kept revisions, policies with their versions, and how they are shown.
//!
//! Plain data behind the host's mutex, never held while guests run. Deliberately not here: changing it.

use crate::admin::PutError;
use crate::binding::Binding;
use crate::document::{Lane, Mode, Plan, PolicyDocument};
use crate::manifest::{Manifest, SavedPolicy, SavedVersion};
use crate::measures::Distribution;
use crate::memory::{Kept, Memory};
use crate::plugin::{self, Plugin};
use crate::stats::{CallOutcome, Latency, PolicyStats};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a policy is made of: now, or before its last change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyVersion {
    pub document: PolicyDocument,
    /// The revision that `document.plugin` stood for.
    pub revision: u32,
    pub digest: String,
}

/// A policy as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyState {
    pub name: String,
    #[serde(flatten)]
    pub current: PolicyVersion,
    /// How calls reach the plugin: `core` or `component`.
    pub lane: &'static str,
    /// The generation it came with.
    pub generation: u64,
    /// What a rollback goes back to.
    pub previous: Option<PolicyVersion>,
    /// Calls of all outcomes but `unavailable` and `cached`, which are none.
    pub calls: u64,
    /// Calls by outcome, in the order of [`crate::CallOutcome::ALL`].
    #[serde(serialize_with = "as_map")]
    pub outcomes: Vec<(&'static str, u64)>,
    pub latency: Latency,
    pub instances: Instances,
    /// What the plugin counts.
    pub counters: BTreeMap<String, u64>,
    pub histograms: BTreeMap<String, Distribution>,
    /// What the host keeps for it.
    pub kept: Kept,
}

/// Instances of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Instances {
    /// Workers that have one.
    pub serving: usize,
    /// Workers with a spare that is ready.
    pub spare: usize,
    /// Spares made since the policy was first put, to replace failed or outdated ones.
    pub replaced: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) plugins: BTreeMap<String, Plugin>,
    pub(crate) policies: BTreeMap<String, Policy>,
    /// Of an earlier run, by name: what could not be brought back, until it is put anew or removed.
    pub(crate) refused: BTreeMap<String, (SavedPolicy, String)>,
}

/// A policy of an earlier run that could not be brought back; it decides nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RefusedPolicy {
    pub name: String,
    /// The generation it came with.
    pub generation: u64,
    /// As it was kept.
    pub document: serde_json::Value,
    pub revision: u32,
    /// BLAKE3 of the component that it needs.
    pub digest: String,
    pub reason: String,
}

/// A revision of an earlier run whose component was changed or is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRevision {
    pub revision: u32,
    pub digest: String,
    pub reason: String,
}

#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) current: Version,
    pub(crate) previous: Option<Version>,
    pub(crate) generation: u64,
    /// None while the mode is off.
    pub(crate) binding: Option<Arc<Binding>>,
    pub(crate) stats: Arc<PolicyStats>,
    pub(crate) memory: Arc<Memory>,
}

#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) document: PolicyDocument,
    pub(crate) kept: plugin::Kept,
}

impl Version {
    pub(crate) fn show(&self) -> PolicyVersion {
        PolicyVersion {
            document: self.document.clone(),
            revision: self.kept.revision.revision,
            digest: self.kept.revision.digest.clone(),
        }
    }

    fn saved(&self) -> serde_json::Result<SavedVersion> {
        let revision = &self.kept.revision;
        Ok(SavedVersion {
            plugin: revision.name.clone(),
            revision: revision.revision,
            digest: revision.digest.clone(),
            document: serde_json::to_value(&self.document)?,
        })
    }

    fn lane(&self) -> &'static str {
        match (self.document.lane, self.kept.compiled.get()) {
            (Lane::Auto, Some(compiled)) => compiled.lane(),
            (Lane::Auto, None) => self.kept.revision.lane,
            (Lane::Component, _) => plugin::LANE_COMPONENT,
        }
    }

    pub(crate) fn label(&self) -> String {
        let revision = &self.kept.revision;
        let off = if self.document.mode == Mode::Off { " (off)" } else { "" };
        format!("{}@{}{off}", revision.name, revision.revision)
    }
}

impl Registry {
    /// A policy that uses this plugin (and revision), now or in a rollback.
    pub(crate) fn user_of(&self, plugin: &str, revision: Option<u32>) -> Option<&str> {
        let uses = |version: &Version| {
            let used = &version.kept.revision;
            used.name == plugin && revision.is_none_or(|revision| used.revision == revision)
        };
        let mut policies = self.policies.iter();
        let user = policies.find(|(_, policy)| uses(&policy.current) || policy.previous.iter().any(uses));
        let needs = |saved: &SavedVersion| {
            saved.plugin == plugin && revision.is_none_or(|revision| saved.revision == revision)
        };
        let mut refused = self.refused.iter();
        let user = user.map(|(name, _)| name);
        let user = user
            .or_else(|| refused.find(|(_, (saved, _))| saved.versions().any(needs)).map(|(name, _)| name));
        user.map(String::as_str)
    }

    /// What is kept of all this.
    pub(crate) fn manifest(&self, generation: u64) -> serde_json::Result<Manifest> {
        let plugins = self.plugins.iter().map(|(name, plugin)| (name.clone(), plugin.saved()));
        let refused = self.refused.iter().map(|(name, (saved, _))| Ok((name.clone(), saved.clone())));
        let policies = self.policies.iter().map(|(name, policy)| Ok((name.clone(), policy.saved()?)));
        Ok(Manifest {
            generation,
            plugins: plugins.collect(),
            policies: refused.chain(policies).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn refused(&self, name: &str) -> Option<RefusedPolicy> {
        let (saved, reason) = self.refused.get(name)?;
        let version = saved.versions().next();
        Some(RefusedPolicy {
            name: name.to_owned(),
            generation: saved.generation,
            document: version.map(|version| version.document.clone()).unwrap_or_default(),
            revision: version.map_or(0, |version| version.revision),
            digest: version.map(|version| version.digest.clone()).unwrap_or_default(),
            reason: reason.clone(),
        })
    }

    pub(crate) fn find(&self, plan: &Plan<'_>) -> Result<plugin::Kept, PutError> {
        let plugin = self.plugins.get(plan.plugin);
        let plugin = plugin.ok_or_else(|| PutError::UnknownPlugin { plugin: plan.plugin.to_owned() })?;
        let kept = match plan.revision {
            None => plugin.kept.last(),
            Some(revision) => plugin.kept.iter().find(|kept| kept.revision.revision == revision),
        };
        kept.cloned().ok_or_else(|| PutError::UnknownRevision {
            plugin: plan.plugin.to_owned(),
            revision: plan.revision.unwrap_or(0),
        })
    }
}

impl Policy {
    /// What the manifest says of it.
    pub(crate) fn saved(&self) -> serde_json::Result<SavedPolicy> {
        Ok(SavedPolicy {
            generation: self.generation,
            active: Some(self.current.saved()?),
            candidate: None,
            previous: self.previous.as_ref().map(Version::saved).transpose()?,
        })
    }

    pub(crate) fn show(&self, name: &str) -> PolicyState {
        let outcomes = self.stats.outcomes();
        let calls =
            outcomes.iter().filter(|(outcome, _)| CallOutcome::is_call(outcome)).map(|(_, n)| n).sum();
        let cells = self.binding.iter().flat_map(|binding| &binding.cells);
        let instances = cells.fold(Instances::default(), |count, cell| Instances {
            serving: count.serving + usize::from(cell.is_serving()),
            spare: count.spare + usize::from(cell.has_spare()),
            ..count
        });
        PolicyState {
            name: name.to_owned(),
            current: self.current.show(),
            lane: self.current.lane(),
            generation: self.generation,
            previous: self.previous.as_ref().map(Version::show),
            calls,
            outcomes,
            latency: self.stats.latency(),
            instances: Instances { replaced: self.stats.replaced.load(Ordering::Relaxed), ..instances },
            counters: self.stats.counters.totals(),
            histograms: self.stats.histograms.totals(),
            kept: self.memory.kept(),
        }
    }
}

fn as_map<S: Serializer>(outcomes: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(outcomes.iter().copied())
}
