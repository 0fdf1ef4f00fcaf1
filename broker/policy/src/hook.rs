//! The hooks: what a policy may decide about.

use serde::{Deserialize, Serialize};

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Where a message goes.
    Routing,
    /// How a message is acknowledged, and what is done when it is not.
    Ack,
    /// Whether a message is taken in.
    Admission,
    /// What is done when a recipient does not keep up.
    Overflow,
    /// How the bytes of a message are made fewer on their way.
    Compression,
}

impl Hook {
    pub const ALL: [Self; 5] = [Self::Routing, Self::Ack, Self::Admission, Self::Overflow, Self::Compression];

    /// The word in documents and the closed label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Ack => "ack",
            Self::Admission => "admission",
            Self::Overflow => "overflow",
            Self::Compression => "compression",
        }
    }
}
