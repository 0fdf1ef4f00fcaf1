//! What one run does: which connections, which messages, how fast, for how long.

use std::time::Duration;

use crate::wire::{Target, Wire};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Fanout { subscribers: usize },
    Direct { pairs: u16 },
}

impl Shape {
    pub(crate) fn receivers(self) -> usize {
        match self {
            Self::Fanout { subscribers } => subscribers,
            Self::Direct { pairs } => usize::from(pairs),
        }
    }

    pub(crate) fn flows(self) -> usize {
        match self {
            Self::Fanout { .. } => 1,
            Self::Direct { pairs } => usize::from(pairs),
        }
    }

    /// What receiver `i` receives, and flow `i` sends to.
    pub(crate) fn target(self, i: usize) -> Target {
        match self {
            Self::Fanout { .. } => Target::Topic,
            Self::Direct { .. } => Target::Receiver(u16::try_from(i).unwrap_or(u16::MAX)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Messages outstanding per flow.
    Window(u32),
    /// Messages per second over all flows.
    Rate(f64),
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) wire: Wire,
    pub(crate) port: u16,
    /// Process whose CPU time is measured.
    pub(crate) pid: u32,
    pub(crate) batch: bool,
    pub(crate) shape: Shape,
    pub(crate) pace: Pace,
    pub(crate) payload_bytes: usize,
    /// Stamp messages and record latencies.
    pub(crate) latency: bool,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}
