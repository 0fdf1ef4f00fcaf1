//! What there is: plugins with their kept revisions, policies with their versions, and how they are shown.
//!
//! Plain data behind the host's mutex, never held while guests run. Deliberately not here: changing it.

use crate::admin::PutError;
use crate::binding::Binding;
use crate::breaker::BreakerState;
use crate::document::{Mode, PolicyDocument};
use crate::hook::Hook;
use crate::lineup::{Candidate, Lineup, Trial};
use crate::lost::{Lost, RefusedVersion};
use crate::manifest::{Manifest, SavedCandidate, SavedPolicy, SavedProbation, SavedVersion, TakenBack};
use crate::measures::Distribution;
use crate::memory::{Kept, Memory};
use crate::plugin::{self, Plugin};
use crate::removed::Removed;
use crate::shadow::Comparison;
use crate::source::Source;
use crate::stats::{Compressed, Latency, PolicyStats};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a policy is made of: now, in a trial, or before its last change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyVersion {
    pub document: PolicyDocument,
    /// The revision that `document.plugin` stood for; none of rules.
    pub revision: Option<u32>,
    /// BLAKE3 of the component, or of the rules as JSON.
    pub digest: String,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    pub version: String,
}

/// A policy as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyState {
    pub name: String,
    /// What decides; nothing while there is only a candidate.
    #[serde(flatten)]
    pub current: Option<PolicyVersion>,
    /// How calls reach the version that decides, or the candidate where there is only that: `core` or `component` for
    /// a plugin, `native` for rules.
    pub lane: &'static str,
    /// The generation it came with.
    pub generation: u64,
    /// What a rollback goes back to.
    pub previous: Option<PolicyVersion>,
    pub candidate: Option<CandidateState>,
    /// Whether the version that decides is new and compared with the one before.
    pub on_probation: bool,
    /// The worst breaker of all workers.
    pub breaker: BreakerState,
    /// Calls of all outcomes but those in which the plugin was not asked.
    pub calls: u64,
    /// Calls by outcome, in the order of [`crate::CallOutcome::ALL`].
    #[serde(serialize_with = "as_map")]
    pub outcomes: Vec<(&'static str, u64)>,
    pub latency: Latency,
    pub instances: Instances,
    /// What the plugin counts.
    pub counters: BTreeMap<String, u64>,
    pub histograms: BTreeMap<String, Distribution>,
    /// How often calls went over limits that do not end them, by limit; those that were kept to are left out.
    #[serde(serialize_with = "as_map")]
    pub exceeded: Vec<(&'static str, u64)>,
    /// What its choices of a codec came to, by codec.
    #[serde(serialize_with = "as_map")]
    pub compressed: Vec<(&'static str, Compressed)>,
    /// What the host keeps for it.
    pub kept: Kept,
    /// Versions taken back, by reason.
    #[serde(serialize_with = "as_map")]
    pub rollbacks: Vec<(&'static str, u64)>,
    pub last_rollback: Option<Rollback>,
    /// Versions of an earlier run that could not be brought back, and why.
    pub refused: Vec<RefusedVersion>,
}

/// A version on trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateState {
    #[serde(flatten)]
    pub version: PolicyVersion,
    pub breaker: BreakerState,
    pub calls: u64,
    pub failures: u64,
    /// Messages it would have decided, had its breaker not been open or its instance missing.
    pub passed_by: u64,
    pub mean_ns: Option<u64>,
    /// Of a shadow.
    pub comparison: Option<Comparison>,
}

/// A version that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rollback {
    /// `failures` and `latency` are automatic, `operator` is not.
    pub reason: &'static str,
    /// The figures that were the reason.
    pub detail: String,
    pub from: String,
    pub to: String,
    pub generation: u64,
}

/// Instances of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Instances {
    /// Workers that have one.
    pub serving: usize,
    /// Workers with a spare that is ready.
    pub spare: usize,
    /// Spares made since the policy was first put, to replace failed, outdated and worn ones.
    pub replaced: u64,
    /// Instances given up because they served long enough or filled their memory.
    pub recycled: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) plugins: BTreeMap<String, Plugin>,
    pub(crate) policies: BTreeMap<String, Policy>,
    /// Numbers of plugins that are not there any more.
    pub(crate) removed: Removed,
    /// Of an earlier run, by name: what could not be brought back, until it is put anew or removed.
    pub(crate) refused: BTreeMap<String, (SavedPolicy, String)>,
    /// Required policies that ought to be there, and why they are not.
    pub(crate) missing: BTreeMap<String, String>,
}

/// A policy of an earlier run that could not be brought back; it decides nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RefusedPolicy {
    pub name: String,
    /// The generation it came with.
    pub generation: u64,
    /// As it was kept.
    pub document: serde_json::Value,
    /// None of rules.
    pub revision: Option<u32>,
    /// BLAKE3 of the component that it needs, or of its rules.
    pub digest: String,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    pub version: String,
    pub reason: String,
}

/// A revision of an earlier run whose component was changed or is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRevision {
    pub name: String,
    pub revision: u32,
    pub digest: String,
    pub reason: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) active: Option<Version>,
    pub(crate) candidate: Option<Tried>,
    pub(crate) previous: Option<Version>,
    /// What should be in these places, and could not be brought back.
    pub(crate) lost: Lost,
    /// While the active version is compared with the one before.
    pub(crate) probation: Option<Probation>,
    pub(crate) generation: u64,
    pub(crate) stats: Arc<PolicyStats>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) rollbacks: Rollbacks,
}

#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) document: PolicyDocument,
    pub(crate) source: Source,
    /// None while the mode is off, and for a previous version whose instances were given back.
    pub(crate) binding: Option<Arc<Binding>>,
    /// Of a previous version: who went back from it.
    pub(crate) taken_back: Option<TakenBack>,
}

/// A candidate; its binding is there.
#[derive(Debug, Clone)]
pub(crate) struct Tried {
    pub(crate) version: Version,
    pub(crate) candidate: Candidate,
}

/// What a new version is measured by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probation {
    /// Mean time of a call of the version before.
    pub(crate) before_ns: Option<u64>,
    /// Windows with enough calls that it passed, and when the next one is over.
    pub(crate) windows: u32,
    pub(crate) window_due: Instant,
}

/// Versions that were taken back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rollbacks {
    failures: u64,
    latency: u64,
    operator: u64,
    pub(crate) last: Option<Rollback>,
}

impl Rollbacks {
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        [("failures", self.failures), ("latency", self.latency), ("operator", self.operator)]
    }

    pub(crate) fn note(&mut self, rollback: Rollback) {
        match rollback.reason {
            "failures" => self.failures += 1,
            "latency" => self.latency += 1,
            _ => self.operator += 1,
        }
        self.last = Some(rollback);
    }
}

impl Version {
    /// A version without instances that was never taken back.
    pub(crate) const fn new(document: PolicyDocument, source: Source) -> Self {
        Self { document, source, binding: None, taken_back: None }
    }

    /// Whether it is the same, put again.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.document == other.document && self.source.digest() == other.source.digest()
    }

    pub(crate) fn show(&self) -> PolicyVersion {
        PolicyVersion {
            document: self.document.clone(),
            revision: self.source.plugin().map(|kept| kept.revision.revision),
            digest: self.source.digest().to_owned(),
            version: self.source.label(),
        }
    }

    fn saved(&self) -> serde_json::Result<SavedVersion> {
        let revision = self.source.plugin().map(|kept| &kept.revision);
        Ok(SavedVersion {
            plugin: revision.map_or_else(String::new, |revision| revision.name.clone()),
            revision: revision.map_or(0, |revision| revision.revision),
            digest: self.source.digest().to_owned(),
            document: serde_json::to_value(&self.document)?,
            taken_back: self.taken_back,
        })
    }

    fn lane(&self) -> &'static str {
        self.source.lane(self.document.lane)
    }

    pub(crate) fn label(&self) -> String {
        let how = match self.document.trial() {
            Some(Trial::Shadow) => " (shadow)".to_owned(),
            Some(Trial::Canary { percent }) => format!(" (canary {percent} %)"),
            None if self.document.mode == Mode::Off => " (off)".to_owned(),
            None => String::new(),
        };
        format!("{}{how}", self.source.label())
    }
}

impl Registry {
    /// A policy that uses this plugin (and revision), now or in a rollback.
    pub(crate) fn user_of(&self, plugin: &str, revision: Option<u32>) -> Option<&str> {
        let uses = |version: &Version| {
            version.source.plugin().map(|kept| &kept.revision).is_some_and(|used| {
                used.name == plugin && revision.is_none_or(|revision| used.revision == revision)
            })
        };
        let needs = |saved: &SavedVersion| {
            saved.plugin == plugin && revision.is_none_or(|revision| saved.revision == revision)
        };
        let mut policies = self.policies.iter();
        let user = policies.find(|(_, policy)| {
            policy.versions().any(uses) || policy.lost.saved(policy.generation).versions().any(needs)
        });
        let user = user.map(|(name, _)| name);
        let mut refused = self.refused.iter();
        let user = user
            .or_else(|| refused.find(|(_, (saved, _))| saved.versions().any(needs)).map(|(name, _)| name));
        user.map(String::as_str)
    }

    /// How many policies there are besides one, with those that the next start may bring back.
    pub(crate) fn others(&self, name: &str) -> usize {
        self.policies.keys().chain(self.refused.keys()).filter(|other| *other != name).count()
    }

    /// Makes `policy` what the name stands for: an empty one is removed, and one of which only versions are left that
    /// could not be brought back is refused.
    pub(crate) fn keep(&mut self, name: &str, policy: Policy) {
        self.refused.remove(name);
        self.policies.remove(name);
        if policy.is_served() {
            self.policies.insert(name.to_owned(), policy);
        } else if let (Some(reason), Ok(saved)) = (policy.why_refused(), policy.saved()) {
            // What cannot be saved was not written down before, so that it does not come here.
            self.refused.insert(name.to_owned(), (saved, reason));
        }
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
            removed: self.removed.clone(),
        })
    }

    pub(crate) fn refused(&self, name: &str) -> Option<RefusedPolicy> {
        let (saved, reason) = self.refused.get(name)?;
        let version = saved.versions().next();
        Some(RefusedPolicy {
            name: name.to_owned(),
            generation: saved.generation,
            document: version.map(|version| version.document.clone()).unwrap_or_default(),
            revision: version.map(|version| version.revision).filter(|&revision| revision > 0),
            digest: version.map(|version| version.digest.clone()).unwrap_or_default(),
            version: version.map(SavedVersion::label).unwrap_or_default(),
            reason: reason.clone(),
        })
    }

    /// A revision of a plugin, the latest one when none is named.
    pub(crate) fn find(&self, name: &str, revision: Option<u32>) -> Result<plugin::Kept, PutError> {
        let plugin = self.plugins.get(name);
        let plugin = plugin.ok_or_else(|| PutError::UnknownPlugin { plugin: name.to_owned() })?;
        let kept = match revision {
            None => plugin.kept.last(),
            Some(revision) => plugin.kept.iter().find(|kept| kept.revision.revision == revision),
        };
        kept.cloned().ok_or_else(|| plugin.lacking(name, revision))
    }
}

impl Policy {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            active: None,
            candidate: None,
            previous: None,
            lost: Lost::default(),
            probation: None,
            generation: 0,
            stats: Arc::new(PolicyStats::new(workers)),
            memory: Arc::default(),
            rollbacks: Rollbacks::default(),
        }
    }

    /// What the manifest says of it.
    pub(crate) fn saved(&self) -> serde_json::Result<SavedPolicy> {
        let candidate = |tried: &Tried| {
            Ok(SavedCandidate { trial: tried.candidate.trial, version: tried.version.saved()? })
        };
        let lost = self.lost.saved(self.generation);
        let probation = self.probation.map(|probation| SavedProbation { before_ns: probation.before_ns });
        Ok(SavedPolicy {
            generation: self.generation,
            active: self.active.as_ref().map(Version::saved).transpose()?.or(lost.active),
            candidate: self.candidate.as_ref().map(candidate).transpose()?.or(lost.candidate),
            previous: self.previous.as_ref().map(Version::saved).transpose()?.or(lost.previous),
            probation: probation.or(lost.probation),
        })
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = &Version> {
        let candidate = self.candidate.iter().map(|tried| &tried.version);
        self.active.iter().chain(candidate).chain(&self.previous)
    }

    /// Whether nothing is left of it: what was there was only tried.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions().next().is_none() && self.lost.is_empty()
    }

    /// Whether it has a version that could be asked.
    pub(crate) const fn is_served(&self) -> bool {
        self.active.is_some() || self.candidate.is_some()
    }

    /// Why a policy that is not served is not; nothing where that is as it should be.
    pub(crate) fn why_refused(&self) -> Option<String> {
        self.lost.show().into_iter().next().map(|lost| lost.reason)
    }

    /// Whether one is tried, or would be had it been brought back.
    pub(crate) const fn has_candidate(&self) -> bool {
        self.candidate.is_some() || self.lost.candidate.is_some()
    }

    /// Whether a rollback drops the candidate: one that was not brought back is in the way of no version to go back to.
    pub(crate) const fn drops_candidate(&self) -> bool {
        self.candidate.is_some() || (self.lost.candidate.is_some() && self.previous.is_none())
    }

    pub(crate) fn hook(&self) -> Option<Hook> {
        self.versions().next().map(|version| version.document.hook)
    }

    pub(crate) fn active_binding(&self) -> Option<&Arc<Binding>> {
        self.active.as_ref().and_then(|version| version.binding.as_ref())
    }

    /// The versions that serve.
    pub(crate) fn lineup(&self, name: &str) -> Lineup {
        let of = |version: &Option<Version>| version.as_ref().and_then(|version| version.binding.clone());
        let candidate = self.candidate.as_ref().map(|tried| tried.candidate.clone());
        Lineup::new(name, of(&self.active), candidate, of(&self.previous))
    }

    /// The worst breaker of the versions that decide.
    pub(crate) fn breaker(&self) -> BreakerState {
        let canary = self.candidate.as_ref().filter(|tried| tried.candidate.trial != Trial::Shadow);
        let canary = canary.map(|tried| &tried.candidate.binding);
        self.active_binding().into_iter().chain(canary).map(|b| b.breaker()).max().unwrap_or_default()
    }

    pub(crate) fn comparison(&self) -> Vec<(&'static str, u64)> {
        let shadow = self.candidate.as_ref().filter(|tried| tried.candidate.trial == Trial::Shadow);
        shadow.map_or_else(Vec::new, |tried| tried.candidate.differences.counts().to_vec())
    }

    pub(crate) fn show(&self, name: &str) -> PolicyState {
        let cells = self.active_binding().into_iter().flat_map(|binding| &binding.cells);
        let instances = cells.fold(Instances::default(), |count, cell| Instances {
            serving: count.serving + usize::from(cell.is_serving()),
            spare: count.spare + usize::from(cell.has_spare()),
            ..count
        });
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (replaced, recycled) = (of(&self.stats.replaced), of(&self.stats.recycled));
        PolicyState {
            name: name.to_owned(),
            current: self.active.as_ref().map(Version::show),
            lane: self.versions().next().map_or("", Version::lane),
            generation: self.generation,
            previous: self.previous.as_ref().map(Version::show),
            candidate: self.candidate.as_ref().map(Tried::show),
            on_probation: self.probation.is_some(),
            breaker: self.breaker(),
            calls: self.stats.calls(),
            outcomes: self.stats.outcomes(),
            latency: self.stats.latency(),
            instances: Instances { replaced, recycled, ..instances },
            counters: self.stats.counters.totals(),
            histograms: self.stats.histograms.totals(),
            exceeded: self.stats.exceeded.totals().into_iter().filter(|&(_, count)| count > 0).collect(),
            compressed: self.stats.compressed_totals(),
            kept: self.memory.kept(),
            rollbacks: self.rollbacks.counts().to_vec(),
            last_rollback: self.rollbacks.last.clone(),
            refused: self.lost.show(),
        }
    }
}

impl Tried {
    fn show(&self) -> CandidateState {
        let binding = &self.candidate.binding;
        let totals = binding.totals();
        let is_shadow = self.candidate.trial == Trial::Shadow;
        CandidateState {
            version: self.version.show(),
            breaker: binding.breaker(),
            calls: totals.calls,
            failures: totals.failures,
            passed_by: totals.passed_by,
            mean_ns: totals.mean_ns(),
            comparison: is_shadow.then(|| self.candidate.differences.show()),
        }
    }
}

fn as_map<T: Serialize + Copy, S: Serializer>(
    outcomes: &[(&'static str, T)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(outcomes.iter().copied())
}
