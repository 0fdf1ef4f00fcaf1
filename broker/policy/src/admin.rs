//! How plugins and policies change: everything is prepared first, then one generation replaces another.
//!
//! A change that fails leaves no trace. Where there is an archive, a change is written down just before it becomes visible.
//! Every change that succeeds is one event of the target `audit`.

use crate::archive::{ArchiveError, Change};
use crate::binding::{Binding, Generation, Parts};
use crate::document::{BadDocument, Mode, PolicyDocument};
use crate::host::Host;
use crate::instance::SetupError;
use crate::limits;
use crate::memory::Memory;
use crate::plugin::{self, Kept, Revision, Unfit, Workbench};
use crate::registry::{Policy, PolicyState, RefusedPolicy, RefusedRevision, Version};
use crate::stats::PolicyStats;
use std::sync::{Arc, OnceLock, PoisonError};

/// Why a policy is not put in place. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error("{name:?} is not a policy name: 1 to {} of a-z, 0-9, '-', '_' and '.'", limits::NAME_BYTES_MAX)]
    Name { name: String },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("{what} is not supported in this version")]
    NotSupported { what: &'static str },
    #[error("there is no plugin {plugin:?}")]
    UnknownPlugin { plugin: String },
    #[error("plugin {plugin:?} has no revision {revision}; it may have been dropped for newer ones")]
    UnknownRevision { plugin: String, revision: u32 },
    #[error("the plugin does not take this policy: {reason}")]
    Guest { reason: String },
    #[error("there is room for {policies_max} policies, and all of it is taken")]
    NoCapacity { policies_max: usize },
    #[error("the plugin's component cannot be read: {0}")]
    Component(ArchiveError),
    #[error("the change cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

/// Why a policy is not rolled back. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("there is no policy {name:?}")]
    UnknownPolicy { name: String },
    #[error("policy {name:?} has nothing to go back to: it was put once")]
    NoPrevious { name: String },
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
    /// revision again.
    pub fn upload(&self, name: &str, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let _one_at_a_time = self.uploading.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = plugin::unnumbered(name, bytes);
        let latest = self.registry().plugins.get(name).and_then(|plugin| plugin.kept.last()).cloned();
        match latest {
            Some(kept) if kept.revision.digest == revision.digest => Ok(kept.revision),
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
        let compiled = Arc::new(self.workbench().compile(&name, bytes)?);
        let revision = Revision {
            hooks: compiled.exports.hooks(),
            lane: compiled.lane(),
            lane_reason: compiled.lane_reason().map(ToString::to_string),
            ..revision
        };
        let taken = (who.into(), self.now_unix_ms());
        let kept = Kept { revision, compiled: Arc::new(OnceLock::from(compiled)), taken };
        let _no_policy_changes = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.shelve(&name, kept, bytes, who)
    }

    /// Puts a checked revision on its plugin's shelf, and lets go of what that pushes off.
    fn shelve(&self, name: &str, kept: Kept, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let (before, plugin, revision) = {
            let registry = self.registry();
            let before = registry.plugins.get(name).cloned().unwrap_or_default();
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
            digest: Some(&revision.digest),
        };
        self.keep_component(&revision.digest, bytes)?;
        let kept = self.write_down(&change, |manifest| {
            manifest.plugins.insert(name.to_owned(), plugin.saved());
            Ok(())
        });
        if let Err(error) = kept {
            self.forget_unused([revision.digest.clone()]);
            return Err(error.into());
        }
        self.registry().plugins.insert(name.to_owned(), plugin);
        self.forget_unused(before.digests());
        change.log();
        Ok(revision)
    }

    pub(crate) fn workbench(&self) -> Workbench<'_> {
        let shared = &self.shared;
        Workbench {
            engine: &shared.engine,
            linker: &shared.linker,
            adapters: &shared.adapters,
            ticker: &shared.ticker,
        }
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

    /// Revisions of one plugin that could not be brought back, the oldest first.
    pub fn refused_revisions(&self, name: &str) -> Vec<RefusedRevision> {
        let registry = self.registry();
        let refused = registry.plugins.get(name).into_iter().flat_map(|plugin| &plugin.refused);
        let show = |refused: &plugin::Refused| RefusedRevision {
            revision: refused.saved.revision,
            digest: refused.saved.digest.clone(),
            reason: refused.reason.clone(),
        };
        refused.map(show).collect()
    }

    /// Removes a plugin with all its revisions, unless a policy uses one or could roll back to it.
    pub fn remove_plugin(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _no_policy_changes = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, digests) = {
            let registry = self.registry();
            if let Some(policy) = registry.user_of(name, None) {
                return Err(RemoveError::InUse { name: name.to_owned(), policy: policy.to_owned() });
            }
            let plugin = registry.plugins.get(name);
            let plugin = plugin.ok_or_else(|| RemoveError::UnknownPlugin { name: name.to_owned() })?;
            (plugin.kept.last().map_or(0, |kept| kept.revision.revision), plugin.digests())
        };
        let (from, to, generation) = (from.to_string(), "0".to_owned(), self.generation());
        let change = Change { who, what: "plugin remove", name, from, to, generation, digest: None };
        self.write_down(&change, |manifest| {
            manifest.plugins.remove(name);
            Ok(())
        })?;
        self.registry().plugins.remove(name);
        self.forget_unused(digests);
        change.log();
        Ok(())
    }

    /// Puts a policy in place, new or instead of the one of that name. Its instances are made, configured and
    /// tested before the swap; messages meet the old set or the new one.
    pub fn put_policy(
        &self,
        name: &str,
        document: PolicyDocument,
        who: &str,
    ) -> Result<PolicyState, PutError> {
        if !plugin::is_name(name) {
            return Err(PutError::Name { name: name.to_owned() });
        }
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let registry = self.registry();
            let kept = registry.find(&document.check()?)?;
            check_hook(&document, &kept.revision)?;
            if !registry.policies.contains_key(name) && registry.policies.len() >= self.options.policies_max {
                return Err(self.no_capacity());
            }
            kept
        };
        self.replace(name, Version { document, kept }, who, "policy put")
    }

    /// Goes back to what the policy was before its last change; a second time returns from there.
    pub fn rollback(&self, name: &str, who: &str) -> Result<PolicyState, RollbackError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = {
            let registry = self.registry();
            if let Some((_, reason)) = registry.refused.get(name) {
                return Err(RollbackError::Refused { name: name.to_owned(), reason: reason.clone() });
            }
            let policy = registry.policies.get(name);
            let policy = policy.ok_or_else(|| RollbackError::UnknownPolicy { name: name.to_owned() })?;
            policy.previous.clone().ok_or_else(|| RollbackError::NoPrevious { name: name.to_owned() })?
        };
        Ok(self.replace(name, previous, who, "policy rollback")?)
    }

    /// Removes a policy; messages in the hands of its instances are decided by them.
    pub fn remove_policy(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let from = {
            let registry = self.registry();
            let label = registry.policies.get(name).map(|policy| policy.current.label());
            label.or_else(|| registry.refused.get(name).map(|_| "(refused)".to_owned()))
        };
        let from = from.ok_or_else(|| RemoveError::UnknownPolicy { name: name.to_owned() })?;
        let (to, generation) = (String::new(), self.generation() + 1);
        let change = Change { who, what: "policy remove", name, from, to, generation, digest: None };
        self.write_down(&change, |manifest| {
            manifest.policies.remove(name);
            Ok(())
        })?;
        let mut registry = self.registry();
        registry.policies.remove(name);
        registry.refused.remove(name);
        drop(registry);
        self.swap(name, None);
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

    /// Prepares a version, swaps it in, and keeps what it replaces for a rollback.
    fn replace(
        &self,
        name: &str,
        version: Version,
        who: &str,
        what: &'static str,
    ) -> Result<PolicyState, PutError> {
        let (lasting, previous) = {
            let registry = self.registry();
            let policy = registry.policies.get(name);
            let lasting = |policy: &Policy| (Arc::clone(&policy.stats), Arc::clone(&policy.memory));
            (policy.map(lasting), policy.map(|policy| policy.current.clone()))
        };
        let fresh = || (Arc::new(PolicyStats::new(self.shared.workers)), Arc::default());
        let (stats, memory) = lasting.unwrap_or_else(fresh);
        let binding = self.prepare(name, &version, (&stats, &memory))?;
        let generation = self.generation() + 1;
        let from = previous.as_ref().map_or_else(String::new, Version::label);
        let to = version.label();
        let policy = Policy { current: version, previous, generation, binding, stats, memory };
        let change = Change { who, what, name, from, to, generation, digest: None };
        self.write_down(&change, |manifest| {
            manifest.policies.insert(name.to_owned(), policy.saved()?);
            Ok(())
        })?;
        self.swap(name, policy.binding.clone());
        let state = policy.show(name);
        let mut registry = self.registry();
        registry.refused.remove(name);
        registry.policies.insert(name.to_owned(), policy);
        drop(registry);
        change.log();
        Ok(state)
    }

    /// A binding whose workers may start at once, or none for a version that is off (tried out all the same).
    pub(crate) fn prepare(
        &self,
        name: &str,
        version: &Version,
        (stats, memory): (&Arc<PolicyStats>, &Arc<Memory>),
    ) -> Result<Option<Arc<Binding>>, PutError> {
        let document = &version.document;
        let plan = document.check()?;
        let parts = Parts {
            name: name.into(),
            hook: document.hook,
            order: document.order,
            on_failure: document.on_failure,
            limits: document.limits,
            patterns: plan.patterns,
            lane: document.lane,
            stats: Arc::clone(stats),
            memory: Arc::clone(memory),
            surroundings: Arc::clone(&self.shared.surroundings),
            config: plan.config,
            compiled: self.compiled(&version.kept)?,
        };
        let binding = Binding::new(parts, self.shared.workers);
        let changes = self.shared.queues.all();
        let refused = |error: SetupError| match error {
            SetupError::Failed { failure, .. } if failure.no_capacity => self.no_capacity(),
            error => PutError::Guest { reason: error.to_string() },
        };
        if document.mode == Mode::Off {
            return binding.set_up(&self.shared.ticker, 0, &changes).map(|_| None).map_err(refused);
        }
        binding.warm(&self.shared.ticker, &changes).map_err(refused)?;
        Ok(Some(Arc::new(binding)))
    }

    /// Makes the generation in which `binding` is what `name` stands for.
    fn swap(&self, name: &str, binding: Option<Arc<Binding>>) {
        let old = self.shared.active.load_full();
        let others = old.bindings.iter().filter(|other| *other.name != *name).cloned();
        let generation = Generation::new(old.number + 1, others.chain(binding).collect());
        self.shared.active.store(Arc::new(generation));
        old.bindings.iter().filter(|gone| *gone.name == *name).for_each(|gone| gone.retire());
        // Members may have changed while instances were made.
        self.shared.wake_keeper();
    }

    pub(crate) const fn no_capacity(&self) -> PutError {
        PutError::NoCapacity { policies_max: self.options.policies_max }
    }
}

fn check_hook(document: &PolicyDocument, revision: &Revision) -> Result<(), PutError> {
    if revision.hooks.contains(&document.hook) {
        return Ok(());
    }
    let has: Vec<&str> = revision.hooks.iter().map(|hook| hook.as_str()).collect();
    let (hook, has) = (document.hook.as_str(), has.join(", "));
    let reason = format!("{}@{} has no hook {hook}, it has {has}", revision.name, revision.revision);
    Err(PutError::Invalid { field: "hook", reason })
}

impl From<BadDocument> for PutError {
    fn from(bad: BadDocument) -> Self {
        match bad {
            BadDocument::Invalid { field, reason } => Self::Invalid { field, reason },
            BadDocument::NotSupported { what } => Self::NotSupported { what },
        }
    }
}
