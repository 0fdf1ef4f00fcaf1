//! What lies in an outbound queue: shared segments, the connection's own frames, and the places of what was dropped.

use super::Segment;

/// Bytes on their way to one connection.
#[derive(Debug)]
pub(super) enum Item<S> {
    Shared(S),
    Own(Vec<u8>),
    /// Was dropped; never the first item.
    Gone,
}

impl<S: Segment> Item<S> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(segment) => segment,
            Self::Own(bytes) => bytes,
            Self::Gone => &[],
        }
    }

    pub(super) const fn segment(&self) -> Option<&S> {
        match self {
            Self::Shared(segment) => Some(segment),
            Self::Own(_) | Self::Gone => None,
        }
    }
}
