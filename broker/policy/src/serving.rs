//! What serves a policy on one worker: an instance of its plugin, or its rules.
//!
//! The one place where the two are told apart; whoever asks, times, counts, compares or replaces sees a
//! [`Serving`]. Rules answer without a deadline, since the bounds of a table see to it that no answer takes long, and never break.

use crate::bindings;
use crate::codecs::Choice;
use crate::instance::{Failure, Instance};
use crate::queues::Changes;
use crate::rules::Judge;
use crate::verdict::Routed;
use std::time::Duration;
use waspmq_core::compression::Audience;
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Message, Overflowed};
use waspmq_core::settings::{Overflow, Settings};

#[derive(Debug)]
pub(crate) enum Serving {
    Guest(Instance),
    Rules(Judge),
}

impl Serving {
    /// Asks for the verdict on one message, to which earlier policies set the headers `set`.
    pub(crate) fn route(
        &mut self,
        message: &Message<'_>,
        set: &[(String, String)],
        deadline_ms: u32,
    ) -> Result<Routed, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.route(message, set, deadline_ms),
            Self::Rules(judge) => Ok(judge.route(message, set)),
        }
    }

    /// Asks for the plan of one message; nothing when it is left to others.
    pub(crate) fn plan(
        &mut self,
        message: &Message<'_>,
        settings: &Settings,
        deadline_ms: u32,
    ) -> Result<Option<Acknowledgement>, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.plan(message, settings, deadline_ms),
            Self::Rules(judge) => judge.plan(message, settings).map_err(|bad| Failure::bad_verdict(&bad)),
        }
    }

    /// Asks what is done about a failed attempt; nothing when it is left to others.
    pub(crate) fn failed(
        &mut self,
        told: bindings::Failure<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Decision>, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.failed(told, deadline_ms),
            Self::Rules(judge) => judge.failed(&told).map_err(|bad| Failure::bad_verdict(&bad)),
        }
    }

    /// Asks whether a message is taken in; nothing when it is left to others.
    pub(crate) fn admit(
        &mut self,
        message: &Message<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Admittance>, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.admit(message, deadline_ms),
            Self::Rules(judge) => Ok(judge.admit(message)),
        }
    }

    /// Asks what is done about a full queue; nothing when it is left to others.
    pub(crate) fn overflow(
        &mut self,
        what: &Overflowed<'_>,
        deadline_ms: u32,
    ) -> Result<Option<Overflow>, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.overflow(what, deadline_ms),
            Self::Rules(judge) => Ok(judge.overflow(what)),
        }
    }

    /// Asks what a message is sent with; no codec where it is left to others.
    pub(crate) fn choose(
        &mut self,
        message: &Message<'_>,
        audience: Audience,
        deadline_ms: u32,
    ) -> Result<Choice, Box<Failure>> {
        match self {
            Self::Guest(instance) => instance.choose(message, audience, deadline_ms),
            Self::Rules(judge) => Ok(judge.choose(message)),
        }
    }

    /// Tells of the queues that changed; rules choose no members, so they need not know.
    pub(crate) fn members_changed(&mut self, changes: &Changes) -> Result<(), Failure> {
        match self {
            Self::Guest(instance) => instance.members_changed(changes),
            Self::Rules(_) => Ok(()),
        }
    }

    /// The number of the last member change it was told of.
    #[inline]
    pub(crate) fn members_seen(&self) -> u64 {
        match self {
            Self::Guest(instance) => instance.members_seen,
            Self::Rules(_) => 0,
        }
    }

    /// About the CPU time that a guest used for the latest call, where that was measured.
    pub(crate) fn cpu_time_used(&self) -> Option<Duration> {
        match self {
            Self::Guest(instance) => instance.cpu_time_used(),
            Self::Rules(_) => None,
        }
    }

    /// Bytes of a guest's memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Guest(instance) => instance.memory_bytes(),
            Self::Rules(_) => 0,
        }
    }

    /// Whether it served long enough.
    #[inline]
    pub(crate) fn is_worn(&self) -> bool {
        match self {
            Self::Guest(instance) => instance.is_worn(),
            Self::Rules(_) => false,
        }
    }
}
