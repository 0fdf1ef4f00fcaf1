//! What policies may ask about the broker around them, answered out of the registry.

use std::sync::Arc;
use waspmq_core::Name;
use waspmq_core::registry::Registry;

/// The users and groups of this broker. Asked by guests, at a moment when no lock of the registry is held.
#[derive(Debug)]
pub(crate) struct Surroundings(pub(crate) Arc<Registry>);

impl waspmq_policy::Surroundings for Surroundings {
    fn is_online(&self, user: &str) -> bool {
        Name::parse(user).is_ok_and(|user| self.0.is_online(&user))
    }

    fn group_size(&self, group: &str) -> u32 {
        let size = Name::parse(group).map_or(0, |group| self.0.group_size(&group));
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}
