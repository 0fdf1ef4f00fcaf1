//! How plugins and policies change: everything is prepared first, then one generation replaces another.
//!
//! A change that fails leaves no trace. Where there is an archive, a change is written down just before it becomes visible.
//! Every change that succeeds is one event of the target `audit`.

use crate::archive::{ArchiveError, Change};
use crate::audited;
use crate::binding::lock;
use crate::document::{BadDocument, Decider, PolicyDocument};
use crate::host::Host;
use crate::limits;
use crate::lost::Lost;
use crate::manifest::SavedPolicy;
use crate::plugin::{self, Kept, Plugin, Revision, Unfit};
use crate::registry::{Policy, PolicyState, RefusedPolicy, RefusedRevision, Version};
use crate::rules::{BadRule, Table};
use crate::shared::Shared;
use crate::source::Source;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// Why a policy is not put in place. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error(
        "{name:?} is not a policy name: 1 to {} of a-z, 0-9, '-', '_' and '.', not \".\" or \"..\"",
        limits::NAME_BYTES_MAX
    )]
    Name { name: String },
    #[error("{field}: {reason}")]
    Invalid { field: Cow<'static, str>, reason: String },
    #[error("there is no plugin {plugin:?}")]
    UnknownPlugin { plugin: String },
    #[error("plugin {plugin:?} has no revision {revision}: {}", what_became_of(*revision, *last))]
    UnknownRevision {
        plugin: String,
        revision: u32,
        /// The number of its last upload.
        last: u32,
    },
    #[error(
        "revision {revision} of plugin {plugin:?} is refused since the start: {reason}; upload the component again"
    )]
    RefusedRevision { plugin: String, revision: u32, reason: String },
    #[error("the plugin does not take this policy: {reason}")]
    Guest { reason: String },
    #[error("there is room for {policies_max} policies, and all of it is taken")]
    NoCapacity { policies_max: usize },
    #[error("the plugin's component cannot be read: {0}")]
    Component(ArchiveError),
    #[error("the change cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

fn what_became_of(revision: u32, last: u32) -> String {
    if revision > last { format!("the last one is {last}") } else { "it is not kept any more".to_owned() }
}

/// Why a policy is not rolled back. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("there is no policy {name:?}")]
    UnknownPolicy { name: String },
    #[error("policy {name:?} has nothing to go back to: it has no candidate, and no version before")]
    NoPrevious { name: String },
    #[error(
        "policy {name:?} has no candidate, and the version before, {version}, was taken back by the broker; put that anew to have it all the same"
    )]
    TakenBack { name: String, version: String },
    #[error("policy {name:?} is of generation {generation}, not of {seen}: it was changed meanwhile")]
    OtherGeneration { name: String, seen: u64, generation: u64 },
    #[error("policy {name:?} was not brought back at the start: {reason}; put it anew or remove it")]
    Refused { name: String, reason: String },
    #[error(transparent)]
    Put(#[from] PutError),
}

/// Why a candidate does not become what decides. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    #[error("there is no policy {name:?}")]
    UnknownPolicy { name: String },
    #[error("policy {name:?} has no candidate: put one with mode \"shadow\" or a canary_percent")]
    NoCandidate { name: String },
    #[error("policy {name:?} is of generation {generation}, not of {seen}: it was changed meanwhile")]
    OtherGeneration { name: String, seen: u64, generation: u64 },
    #[error("policy {name:?} was not brought back at the start: {reason}; put it anew or remove it")]
    Refused { name: String, reason: String },
    #[error(transparent)]
    Put(#[from] PutError),
}

/// Why a policy or a plugin is not removed. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no policy {name:?}")]
    UnknownPolicy { name: String },
    #[error("there is no plugin {name:?}")]
    UnknownPlugin { name: String },
    #[error("plugin {name:?} is used by policy {policy:?}; remove that first")]
    InUse { name: String, policy: String },
    #[error("the change cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

impl Host {
    /// Takes a component in as the next revision of `name`. The bytes of the latest revision again give that
    /// revision again, and are kept again where they were lost.
    pub fn upload(&self, name: &str, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let _one_at_a_time = lock(&self.uploading);
        let revision = plugin::unnumbered(name, bytes);
        let latest = self.registry().plugins.get(name).and_then(|plugin| plugin.kept.last()).cloned();
        match latest {
            Some(kept) if kept.revision.digest == revision.digest => {
                // What keeps it may have lost it since.
                self.shared.keep_component(&revision.digest, bytes)?;
                Ok(kept.revision)
            }
            _ => self.take_in(revision, bytes, who),
        }
    }

    /// Checks and compiles a component, and shelves it under the next number.
    fn take_in(&self, revision: Revision, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let name = revision.name.clone();
        if !plugin::is_name(&name) {
            return Err(Unfit::Name { name });
        }
        {
            let registry = self.registry();
            if !registry.plugins.contains_key(&name) && registry.plugins.len() >= limits::PLUGINS_MAX {
                return Err(Unfit::TooManyPlugins);
            }
        }
        let compiled = Arc::new(self.shared.workbench().compile(&name, bytes)?);
        let revision = Revision {
            hooks: compiled.exports.hooks(),
            lane: compiled.lane(),
            lane_reason: compiled.lane_reason().map(ToString::to_string),
            ..revision
        };
        let taken = (who.into(), self.shared.now_unix_ms());
        let kept = Kept { revision, compiled: Arc::new(OnceLock::from(compiled)), taken };
        let _no_policy_changes = self.shared.turn();
        self.shelve(&name, kept, bytes, who)
    }

    /// Puts a checked revision on its plugin's shelf, and lets go of what that pushes off.
    fn shelve(&self, name: &str, kept: Kept, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let (before, plugin, revision) = {
            let registry = self.registry();
            let last = registry.removed.last_of(name);
            let before = registry.plugins.get(name).cloned();
            let before = before.unwrap_or_else(|| Plugin { last, ..Plugin::default() });
            let mut plugin = before.clone();
            let revision = plugin.shelve(kept, |n| registry.user_of(name, Some(n)).is_some())?;
            let others = registry.plugins.iter().filter(|(other, _)| *other != name);
            let bytes: usize = others.map(|(_, plugin)| plugin.bytes()).sum();
            if bytes + plugin.bytes() > limits::COMPONENTS_BYTES_MAX {
                return Err(Unfit::TooManyBytes);
            }
            (before, plugin, revision)
        };
        let change = Change {
            who,
            what: "plugin upload",
            name,
            from: before.kept.last().map_or(0, |kept| kept.revision.revision).to_string(),
            to: revision.revision.to_string(),
            generation: self.generation(),
            details: &[("digest", revision.digest.clone())],
        };
        self.shared.keep_component(&revision.digest, bytes)?;
        let kept = self.shared.write_down(&change, |manifest| {
            manifest.plugins.insert(name.to_owned(), plugin.saved());
            manifest.removed.forget(name);
            Ok(())
        });
        if let Err(error) = kept {
            self.shared.forget_unused([revision.digest.clone()]);
            return Err(error.into());
        }
        let mut registry = self.registry();
        registry.plugins.insert(name.to_owned(), plugin);
        registry.removed.forget(name);
        drop(registry);
        self.shared.forget_unused(before.digests());
        change.log();
        Ok(revision)
    }

    /// The latest revision of every plugin.
    pub fn plugins(&self) -> Vec<Revision> {
        let registry = self.registry();
        registry.plugins.values().filter_map(|p| p.kept.last()).map(|kept| kept.revision.clone()).collect()
    }

    /// The kept revisions of one plugin, the oldest first.
    pub fn plugin(&self, name: &str) -> Option<Vec<Revision>> {
        let registry = self.registry();
        let plugin = registry.plugins.get(name)?;
        Some(plugin.kept.iter().map(|kept| kept.revision.clone()).collect())
    }

    /// Revisions that could not be brought back, of one plugin or of all, the oldest of each first.
    pub fn refused_revisions(&self, of: Option<&str>) -> Vec<RefusedRevision> {
        let registry = self.registry();
        let plugins = registry.plugins.iter().filter(|(name, _)| of.is_none_or(|of| of == *name));
        let refused = plugins.flat_map(|(name, plugin)| plugin.refused.iter().map(move |of| (name, of)));
        let show = |(name, refused): (&String, &plugin::Refused)| RefusedRevision {
            name: name.clone(),
            revision: refused.saved.revision,
            digest: refused.saved.digest.clone(),
            reason: refused.reason.clone(),
        };
        refused.map(show).collect()
    }

    /// Removes a plugin with all its revisions, unless a policy uses one or could roll back to it. Its number is remembered.
    pub fn remove_plugin(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _no_policy_changes = self.shared.turn();
        let (from, last, digests) = {
            let registry = self.registry();
            if let Some(policy) = registry.user_of(name, None) {
                return Err(RemoveError::InUse { name: name.to_owned(), policy: policy.to_owned() });
            }
            let plugin = registry.plugins.get(name);
            let plugin = plugin.ok_or_else(|| RemoveError::UnknownPlugin { name: name.to_owned() })?;
            let from = plugin.kept.last().map_or(0, |kept| kept.revision.revision);
            (from, plugin.last, plugin.digests())
        };
        let (from, to, generation) = (from.to_string(), "0".to_owned(), self.generation());
        let change = Change { who, what: "plugin remove", name, from, to, generation, details: &[] };
        self.shared.write_down(&change, |manifest| {
            manifest.plugins.remove(name);
            manifest.removed.note(name, last);
            Ok(())
        })?;
        let mut registry = self.registry();
        registry.plugins.remove(name);
        registry.removed.note(name, last);
        drop(registry);
        self.shared.forget_unused(digests);
        change.log();
        Ok(())
    }

    /// Puts a policy in place, new or instead of the one of that name, or a candidate beside it. Its instances are made,
    /// configured and tested before the swap; messages meet the old set or the new one.
    pub fn put_policy(
        &self,
        name: &str,
        document: PolicyDocument,
        who: &str,
    ) -> Result<PolicyState, PutError> {
        if !plugin::is_name(name) {
            return Err(PutError::Name { name: name.to_owned() });
        }
        // Compiling is long; which revisions are replaced or removed meanwhile is found out below.
        let found = self.shared.find_source(&document)?;
        if let Source::Plugin(kept) = &found {
            self.shared.compiled(kept)?;
        }
        let _one_at_a_time = self.shared.turn();
        let source = match found {
            Source::Plugin(_) => self.shared.find_source(&document)?,
            rules @ Source::Rules(_) => rules,
        };
        let policy = {
            let registry = self.registry();
            let policy = registry.policies.get(name).cloned();
            if policy.is_none() && registry.others(name) >= self.shared.policies_max {
                return Err(self.shared.no_capacity());
            }
            policy.or_else(|| Some(self.shared.refused(registry.refused.get(name)?)))
        };
        self.shared.put(name, (policy, Version::new(document, source)), who)
    }

    /// Removes a policy; messages in the hands of its instances are decided by them.
    pub fn remove_policy(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _one_at_a_time = self.shared.turn();
        let from = {
            let registry = self.registry();
            let active = |policy: &Policy| {
                let active = policy.active.as_ref();
                (audited::label(active), audited::details(active, None))
            };
            let there = registry.policies.get(name).map(active);
            there.or_else(|| registry.refused.get(name).map(|_| ("(refused)".to_owned(), Vec::new())))
        };
        let (from, details) = from.ok_or_else(|| RemoveError::UnknownPolicy { name: name.to_owned() })?;
        let (to, generation) = (String::new(), self.generation() + 1);
        let change = Change { who, what: "policy remove", name, from, to, generation, details: &details };
        self.shared.write_down(&change, |manifest| {
            manifest.policies.remove(name);
            Ok(())
        })?;
        let mut registry = self.registry();
        registry.missing.remove(name);
        registry.refused.remove(name);
        registry.policies.remove(name);
        drop(registry);
        self.shared.swap(name, None);
        change.log();
        Ok(())
    }

    /// All policies, in the order of their names.
    pub fn policies(&self) -> Vec<PolicyState> {
        self.registry().policies.iter().map(|(name, policy)| policy.show(name)).collect()
    }

    pub fn policy(&self, name: &str) -> Option<PolicyState> {
        self.registry().policies.get(name).map(|policy| policy.show(name))
    }

    /// Policies of an earlier run that could not be brought back, in the order of their names.
    pub fn refused_policies(&self) -> Vec<RefusedPolicy> {
        let registry = self.registry();
        registry.refused.keys().filter_map(|name| registry.refused(name)).collect()
    }
}

impl Shared {
    /// A policy of an earlier run of which nothing came back.
    fn refused(&self, (saved, reason): &(SavedPolicy, String)) -> Policy {
        let lost = Lost::whole(saved.clone(), reason);
        Policy { generation: saved.generation, lost, ..Policy::new(self.workers) }
    }

    /// What a document wants to be decided by, checked against its hook.
    fn find_source(&self, document: &PolicyDocument) -> Result<Source, PutError> {
        match document.check()?.decider {
            Decider::Plugin { name, revision } => {
                let kept = self.registry().find(name, revision)?;
                check_hook(document, &kept.revision)?;
                Ok(Source::Plugin(kept))
            }
            Decider::Rules(rules) => {
                let table = Table::compile(document.hook, rules).map_err(PutError::of_rules)?;
                Ok(Source::Rules(Arc::new(table)))
            }
        }
    }
}

impl PutError {
    /// The first fault, and how many there are.
    pub(crate) fn of_rules(faults: Vec<BadRule>) -> Self {
        let more = faults.len().saturating_sub(1);
        let first = faults.into_iter().next();
        let BadRule { path, mut reason } =
            first.unwrap_or_else(|| BadRule { path: "rules".to_owned(), reason: String::new() });
        if more > 0 {
            reason.push_str(&format!(" (and {more} more rules have faults)"));
        }
        Self::Invalid { field: path.into(), reason }
    }
}

fn check_hook(document: &PolicyDocument, revision: &Revision) -> Result<(), PutError> {
    if revision.hooks.contains(&document.hook) {
        return Ok(());
    }
    let has: Vec<&str> = revision.hooks.iter().map(|hook| hook.as_str()).collect();
    let (hook, has) = (document.hook.as_str(), has.join(", "));
    let reason = format!("{}@{} has no hook {hook}, it has {has}", revision.name, revision.revision);
    Err(PutError::Invalid { field: "hook".into(), reason })
}

impl From<BadDocument> for PutError {
    fn from(bad: BadDocument) -> Self {
        match bad {
            BadDocument::Invalid { field, reason } => Self::Invalid { field, reason },
        }
    }
}
