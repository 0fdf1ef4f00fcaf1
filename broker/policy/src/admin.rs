//! How plugins and policies change: everything is prepared first, then one generation replaces another.
//!
//! A change that fails leaves no trace. Every change that succeeds is one event of the target `audit`.

use crate::binding::lock;
use crate::document::{BadDocument, PolicyDocument};
use crate::host::Host;
use crate::limits;
use crate::plugin::{self, Revision, Unfit, Workbench};
use crate::registry::{PolicyState, Version};
use std::sync::Arc;

/// Why a policy is not put in place. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error("{name:?} is not a policy name: 1 to {} of a-z, 0-9, '-', '_' and '.'", limits::NAME_BYTES_MAX)]
    Name { name: String },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("there is no plugin {plugin:?}")]
    UnknownPlugin { plugin: String },
    #[error("plugin {plugin:?} has no revision {revision}; it may have been dropped for newer ones")]
    UnknownRevision { plugin: String, revision: u32 },
    #[error("the plugin does not take this policy: {reason}")]
    Guest { reason: String },
    #[error("there is room for {policies_max} policies, and all of it is taken")]
    NoCapacity { policies_max: usize },
}

/// Why a policy is not rolled back. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("there is no policy {name:?}")]
    UnknownPolicy { name: String },
    #[error("policy {name:?} has nothing to go back to: it has no candidate, and no version before")]
    NoPrevious { name: String },
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
}

impl Host {
    /// Takes a component in as the next revision of `name`. The bytes of the latest revision again give that
    /// revision again.
    pub fn upload(&self, name: &str, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let _one_at_a_time = lock(&self.uploading);
        let revision = plugin::unnumbered(name, bytes);
        let latest = self.registry().plugins.get(name).and_then(|plugin| plugin.kept.last()).cloned();
        match latest {
            Some(kept) if kept.revision.digest == revision.digest => Ok(kept.revision),
            _ => self.take_in(revision, bytes, (who, "plugin upload")),
        }
    }

    /// Takes a component in under the number it had, as when a broker starts again. Numbers of one plugin have
    /// to ascend.
    pub fn restore(&self, name: &str, number: u32, bytes: &[u8], who: &str) -> Result<Revision, Unfit> {
        let _one_at_a_time = lock(&self.uploading);
        let revision = Revision { revision: number, ..plugin::unnumbered(name, bytes) };
        self.take_in(revision, bytes, (who, "plugin restore"))
    }

    /// Checks and compiles a component and shelves it; the number 0 stands for the next one.
    fn take_in(
        &self,
        revision: Revision,
        bytes: &[u8],
        (who, what): (&str, &str),
    ) -> Result<Revision, Unfit> {
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
        let shared = &self.shared;
        let bench = Workbench { engine: &shared.engine, linker: &shared.linker, ticker: &shared.ticker };
        let compiled = Arc::new(bench.compile(&name, bytes)?);
        let revision = Revision { hooks: compiled.exports.hooks(), ..revision };
        let _no_policy_changes = lock(&self.shared.changing);
        let mut registry = self.registry();
        let mut plugin = registry.plugins.remove(&name).unwrap_or_default();
        let from = plugin.kept.last().map_or(0, |kept| kept.revision.revision);
        let shelved = plugin.shelve(revision, compiled, |n| registry.user_of(&name, Some(n)).is_some());
        if !plugin.kept.is_empty() {
            registry.plugins.insert(name.clone(), plugin);
        }
        drop(registry);
        let revision = shelved?;
        let (to, digest, generation) = (revision.revision, &revision.digest, self.generation());
        tracing::info!(target: "audit", who, what, name, from, to, generation, digest);
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

    /// Removes a plugin with all its revisions, unless a policy uses one or could roll back to it.
    pub fn remove_plugin(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _no_policy_changes = lock(&self.shared.changing);
        let mut registry = self.registry();
        if let Some(policy) = registry.user_of(name, None) {
            return Err(RemoveError::InUse { name: name.to_owned(), policy: policy.to_owned() });
        }
        let removed = registry.plugins.remove(name);
        let removed = removed.ok_or_else(|| RemoveError::UnknownPlugin { name: name.to_owned() })?;
        drop(registry);
        let from = removed.kept.last().map_or(0, |kept| kept.revision.revision);
        tracing::info!(target: "audit", who, what = "plugin remove", name, from, to = 0, generation = self.generation());
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
        let _one_at_a_time = lock(&self.shared.changing);
        let (kept, policy) = {
            let registry = self.registry();
            let kept = registry.find(&document.check()?)?;
            check_hook(&document, &kept.revision)?;
            let policy = registry.policies.get(name).cloned();
            if policy.is_none() && registry.policies.len() >= self.shared.policies_max {
                return Err(self.shared.no_capacity());
            }
            (kept, policy)
        };
        self.shared.put(name, (policy, Version { document, kept, binding: None }), who)
    }

    /// Removes a policy; messages in the hands of its instances are decided by them.
    pub fn remove_policy(&self, name: &str, who: &str) -> Result<(), RemoveError> {
        let _one_at_a_time = lock(&self.shared.changing);
        let removed = {
            let mut registry = self.registry();
            registry.missing.remove(name);
            registry.policies.remove(name)
        };
        let removed = removed.ok_or_else(|| RemoveError::UnknownPolicy { name: name.to_owned() })?;
        let generation = self.shared.swap(name, None);
        let from = removed.active.as_ref().map_or_else(String::new, Version::label);
        tracing::info!(target: "audit", who, what = "policy remove", name, from, to = "", generation);
        Ok(())
    }

    /// All policies, in the order of their names.
    pub fn policies(&self) -> Vec<PolicyState> {
        self.registry().policies.iter().map(|(name, policy)| policy.show(name)).collect()
    }

    pub fn policy(&self, name: &str) -> Option<PolicyState> {
        self.registry().policies.get(name).map(|policy| policy.show(name))
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
        }
    }
}
