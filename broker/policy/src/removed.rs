//! The numbers of removed plugins: a name that comes back goes on counting, so that `plugin@revision` never stands for two
//! components.

use crate::limits;
use serde::{Deserialize, Serialize};

/// Names of removed plugins with the numbers of their last uploads, the one that was removed last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Removed(Vec<(String, u32)>);

impl Removed {
    /// The number of the last upload under a name that is not taken; 0 for one that is not known.
    pub(crate) fn last_of(&self, name: &str) -> u32 {
        self.0.iter().find(|(known, _)| known == name).map_or(0, |&(_, last)| last)
    }

    /// The plugin of this name is there again and knows its number itself.
    pub(crate) fn forget(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// The plugin of this name is gone.
    pub(crate) fn note(&mut self, name: &str, last: u32) {
        self.forget(name);
        self.0.push((name.to_owned(), last));
        self.0.drain(..self.0.len().saturating_sub(limits::PLUGINS_REMOVED_MAX));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_names_are_forgotten() {
        let mut removed = Removed::default();
        for n in 0..=limits::PLUGINS_REMOVED_MAX {
            removed.note(&format!("p{n}"), 7);
        }
        removed.note("p1", 9);
        assert_eq!(["p0", "p1", "p2"].map(|name| removed.last_of(name)), [0, 9, 7]);
        assert_eq!(removed.0.len(), limits::PLUGINS_REMOVED_MAX);
        removed.forget("p1");
        assert_eq!(removed.last_of("p1"), 0);
    }
}
