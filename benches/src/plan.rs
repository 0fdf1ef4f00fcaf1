//! What one run does: which connections, which messages, how fast, for how long.

use std::ops::Range;
use std::time::Duration;

use crate::wire::{Reads, Target, Wire};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Fanout {
        subscribers: usize,
    },
    Direct {
        pairs: u16,
    },
    /// Subscribers spread evenly over the first topics, one each; behind those come topics that none of them reads.
    Topics {
        subscribers: usize,
        topics: u16,
        unread: u16,
    },
}

impl Shape {
    pub(crate) fn receivers(self) -> usize {
        match self {
            Self::Fanout { subscribers } | Self::Topics { subscribers, .. } => subscribers,
            Self::Direct { pairs } => usize::from(pairs),
        }
    }

    pub(crate) fn flows(self) -> usize {
        match self {
            Self::Fanout { .. } => 1,
            Self::Direct { pairs } => usize::from(pairs),
            Self::Topics { topics, unread, .. } => usize::from(topics) + usize::from(unread),
        }
    }

    /// What a flow sends to.
    pub(crate) fn target(self, flow: usize) -> Target {
        let number = u16::try_from(flow).unwrap_or(u16::MAX);
        match self {
            Self::Fanout { .. } => Target::Topic,
            Self::Direct { .. } => Target::Receiver(number),
            Self::Topics { .. } => Target::Numbered(number),
        }
    }

    /// The flow that receiver `i` receives.
    pub(crate) fn flow_of(self, i: usize) -> usize {
        match self {
            Self::Fanout { .. } => 0,
            Self::Direct { .. } => i,
            Self::Topics { subscribers, topics, .. } => i * usize::from(topics) / subscribers.max(1),
        }
    }

    /// The receivers of a flow.
    pub(crate) fn receivers_of(self, flow: usize) -> Range<usize> {
        match self {
            Self::Fanout { subscribers } => 0..subscribers,
            Self::Direct { .. } => flow..flow + 1,
            Self::Topics { subscribers, topics, .. } => {
                let start = |flow: usize| (flow * subscribers).div_ceil(usize::from(topics)).min(subscribers);
                start(flow)..start(flow + 1)
            }
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
    /// Over TLS; readers read plain messages only then.
    pub(crate) is_secure: bool,
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

/// What is published and who reads it, where that is not letters for clients that take no compression.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic<'a> {
    /// JSON values that each flow publishes in turn; letters when there are none. A plan that has them records no
    /// latencies, for they have no room for stamps.
    pub(crate) documents: &'a [Vec<u8>],
    /// What receivers say they read, one after the other and again from the first.
    pub(crate) readers: &'a [Reads],
}

impl Traffic<'_> {
    pub(crate) const LETTERS: Self = Self { documents: &[], readers: &[Reads::PLAIN] };

    /// What receiver `i` says it reads.
    pub(crate) fn reads(self, i: usize) -> Reads {
        self.readers.get(i % self.readers.len().max(1)).copied().unwrap_or(Reads::PLAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receiver_is_among_those_of_its_flow_and_of_no_other() {
        let topics = |subscribers, topics| Shape::Topics { subscribers, topics, unread: 2 };
        for shape in [
            Shape::Fanout { subscribers: 5 },
            Shape::Direct { pairs: 4 },
            topics(1000, 20),
            topics(7, 3),
            topics(2, 5),
        ] {
            let mut seen = vec![0; shape.receivers()];
            for flow in 0..shape.flows() {
                for receiver in shape.receivers_of(flow) {
                    assert_eq!(shape.flow_of(receiver), flow, "{shape:?}");
                    seen[receiver] += 1;
                }
            }
            assert!(seen.iter().all(|&count| count == 1), "{shape:?}: {seen:?}");
        }
    }
}
