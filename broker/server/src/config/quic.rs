//! Whether QUIC is spoken beside TCP: the section `quic`.

use serde::{Deserialize, Serialize};

/// The UDP side of `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuicConfig {
    pub enabled: bool,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}
