//! Which policies the broker must not be without, and does not have.

use crate::binding::Cell;
use crate::breaker::BreakerState;
use crate::host::Host;
use crate::registry::Policy;

/// A required policy that does not serve, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    pub policy: String,
    pub reason: String,
}

impl Host {
    /// The required policies that do not serve, in the order of their names.
    pub fn unready(&self) -> Vec<Unready> {
        let registry = self.registry();
        let missing = registry.missing.iter().map(|(policy, reason)| (policy, reason.clone()));
        let policies = registry.policies.iter();
        let idle = policies.filter(|(name, _)| !registry.missing.contains_key(*name));
        let idle = idle.filter_map(|(name, policy)| Some((name, policy.why_unready()?.to_owned())));
        let mut all: Vec<Unready> =
            missing.chain(idle).map(|(policy, reason)| Unready { policy: policy.clone(), reason }).collect();
        all.sort_by(|a, b| a.policy.cmp(&b.policy));
        all
    }

    /// Notes that a required policy which ought to be there is not; until one of that name is put or removed.
    pub fn note_missing(&self, name: &str, reason: &str) {
        self.registry().missing.insert(name.to_owned(), reason.to_owned());
    }
}

impl Policy {
    fn why_unready(&self) -> Option<&'static str> {
        let tried = self.candidate.as_ref().map(|tried| &tried.version);
        // An active version that could not be brought back is missing where it is required, whatever is tried beside it.
        let decisive = self.active.as_ref().or(tried).filter(|_| self.lost.active.is_none());
        decisive.filter(|version| version.document.required)?;
        if self.active.is_none() {
            return Some("it is only tried");
        }
        let Some(binding) = self.active_binding() else { return Some("it is off") };
        let can_serve = |cell: &Cell| cell.is_serving() || cell.has_spare();
        if binding.breaker() == BreakerState::Open {
            Some("its breaker is open")
        } else if !binding.cells.iter().all(can_serve) {
            Some("a worker has no instance of it")
        } else {
            None
        }
    }
}
