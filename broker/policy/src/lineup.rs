//! Which versions of each policy serve, and the set of all of them.
//!
//! A policy has up to three versions with instances: the active one, which decides; a candidate, which is tried
//! beside it; and the one before, which is kept warm while the active one is on probation or falls back on it.
//! Both types are immutable; a change replaces the set as a whole.

use crate::binding::Binding;
use crate::hook::Hook;
use crate::shadow::Differences;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use waspmq_core::address::{Address, Kind};

/// The set of all policies; immutable, replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    /// In the order in which they are asked.
    pub(crate) lineups: Vec<Arc<Lineup>>,
    kinds: u8,
}

/// The policies of each hook that concern messages to one address, as masks of their indexes in the generation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Masks {
    hooks: [u64; Hook::ALL.len()],
    /// Of which the patterns of the active version match, of which those of the candidate, and of which those of the
    /// previous one.
    pub(crate) active: u64,
    pub(crate) candidate: u64,
    pub(crate) previous: u64,
}

/// The versions of one policy that have instances. All have the same hook, but for a previous one nobody asks.
#[derive(Debug)]
pub(crate) struct Lineup {
    pub(crate) name: Arc<str>,
    pub(crate) active: Option<Arc<Binding>>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) previous: Option<Arc<Binding>>,
    canary: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) binding: Arc<Binding>,
    pub(crate) trial: Trial,
    pub(crate) differences: Arc<Differences>,
}

/// How a candidate is tried; also a word of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trial {
    /// It is asked behind the active version, and its answers are compared and dropped.
    Shadow,
    /// It decides for this share of senders.
    Canary { percent: u8 },
}

impl Generation {
    pub(crate) fn new(number: u64, mut lineups: Vec<Arc<Lineup>>) -> Self {
        lineups.retain(|lineup| lineup.hook().is_some());
        lineups.sort_by(|a, b| (a.order(), &a.name).cmp(&(b.order(), &b.name)));
        let patterns = lineups.iter().flat_map(|lineup| lineup.asked()).flat_map(|b| &b.patterns);
        let kinds = patterns.fold(0, |kinds, pattern| kinds | kind_bit(pattern.kind()));
        Self { number, lineups, kinds }
    }

    /// The policies that concern messages to `to`.
    pub(crate) fn bound_to(&self, to: &Address) -> Masks {
        let mut masks = Masks::default();
        if self.kinds & kind_bit(to.kind()) == 0 {
            return masks;
        }
        let matches = |binding: Option<&Binding>| {
            binding.is_some_and(|binding| binding.patterns.iter().any(|pattern| pattern.matches(to)))
        };
        for (index, lineup) in self.lineups.iter().enumerate() {
            let bit = 1u64 << index;
            let active = matches(lineup.active.as_deref());
            let candidate = matches(lineup.candidate.as_ref().map(|candidate| &*candidate.binding));
            masks.active |= if active { bit } else { 0 };
            masks.candidate |= if candidate { bit } else { 0 };
            masks.previous |= if matches(lineup.previous.as_deref()) { bit } else { 0 };
            let hook = lineup.hook().filter(|_| active || candidate);
            if let Some(mask) = hook.and_then(|hook| masks.hooks.get_mut(hook as usize)) {
                *mask |= bit;
            }
        }
        masks
    }

    /// All versions that have instances.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.lineups.iter().flat_map(|lineup| lineup.bindings())
    }
}

impl Masks {
    /// The policies of one hook.
    #[inline]
    pub(crate) fn of(&self, hook: Hook) -> u64 {
        self.hooks.get(hook as usize).copied().unwrap_or(0)
    }
}

impl Lineup {
    pub(crate) fn new(
        name: &str,
        active: Option<Arc<Binding>>,
        candidate: Option<Candidate>,
        previous: Option<Arc<Binding>>,
    ) -> Self {
        Self { name: name.into(), active, candidate, previous, canary: mix(FNV_OFFSET, name.as_bytes()) }
    }

    /// The hook of all versions that are asked; none when there is no such version.
    fn hook(&self) -> Option<Hook> {
        self.asked().next().map(|binding| binding.hook)
    }

    /// A candidate takes the place of the active version until it is that itself.
    fn order(&self) -> i32 {
        self.asked().next().map_or(0, |binding| binding.order)
    }

    fn asked(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.active.iter().chain(self.candidate.iter().map(|candidate| &candidate.binding))
    }

    pub(crate) fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.asked().chain(&self.previous)
    }

    /// Whether the candidate decides for `sender`: the same answer for the same sender and policy, and whoever is
    /// in a share stays in a larger one.
    #[inline]
    pub(crate) fn is_canary_for(&self, sender: &str) -> bool {
        match self.candidate.as_ref().map(|candidate| candidate.trial) {
            Some(Trial::Canary { percent }) => {
                finish(mix(mix(self.canary, b"\0"), sender.as_bytes())) % 100 < u64::from(percent)
            }
            Some(Trial::Shadow) | None => false,
        }
    }
}

const fn kind_bit(kind: Kind) -> u8 {
    1 << kind as u8
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a: the same in every process, so that a canary's senders stay the same over restarts.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// Spreads the bits of a hash over all of them.
const fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(policy: &str, sender: &str) -> u64 {
        finish(mix(mix(mix(FNV_OFFSET, policy.as_bytes()), b"\0"), sender.as_bytes())) % 100
    }

    #[test]
    fn senders_spread_evenly_and_differently_for_each_policy() {
        let chosen = |policy: &str, percent: u64| {
            (0..10_000).filter(|n| share(policy, &format!("user-{n}")) < percent).count()
        };
        for percent in [1, 10, 50, 99] {
            let expected = usize::try_from(percent).unwrap() * 100;
            for policy in ["a", "b", "canary"] {
                let count = chosen(policy, percent);
                assert!(count.abs_diff(expected) < 150, "{policy} at {percent} %: {count} of 10,000");
            }
        }
        let both = (0..10_000).filter(|n| {
            let sender = format!("user-{n}");
            share("a", &sender) < 50 && share("b", &sender) < 50
        });
        assert!(both.count().abs_diff(2_500) < 200, "two policies choose independently");
    }

    #[test]
    fn a_sender_s_share_never_changes() {
        assert_eq!([share("p", "alice"), share("p", "bob"), share("q", "alice")], [25, 77, 81]);
    }
}
