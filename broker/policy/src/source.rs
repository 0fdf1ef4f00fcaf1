//! What a version of a policy is made from: a revision of a plugin, or rules.

use crate::document::Lane;
use crate::plugin::{self, Kept};
use crate::rules::Table;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Plugin(Kept),
    Rules(Arc<Table>),
}

impl Source {
    /// `plugin@revision`, or `rules@` and the first digits of the digest.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Plugin(kept) => format!("{}@{}", kept.revision.name, kept.revision.revision),
            Self::Rules(table) => table.label(),
        }
    }

    /// BLAKE3 of the component, or of the rules as JSON.
    pub(crate) fn digest(&self) -> &str {
        match self {
            Self::Plugin(kept) => &kept.revision.digest,
            Self::Rules(table) => table.digest(),
        }
    }

    pub(crate) const fn plugin(&self) -> Option<&Kept> {
        match self {
            Self::Plugin(kept) => Some(kept),
            Self::Rules(_) => None,
        }
    }

    /// How calls reach it.
    pub(crate) fn lane(&self, asked: Lane) -> &'static str {
        match (self, asked) {
            (Self::Rules(_), _) => LANE_NATIVE,
            (Self::Plugin(_), Lane::Component) => plugin::LANE_COMPONENT,
            (Self::Plugin(kept), Lane::Auto) => {
                kept.compiled.get().map_or(kept.revision.lane, |compiled| compiled.lane())
            }
        }
    }
}

/// Rules are not called: the broker reads them itself.
const LANE_NATIVE: &str = "native";
