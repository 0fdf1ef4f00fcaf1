//! Patterns with wildcards: who subscribes to them, and the numbers under which shards note what they match.
//!
//! A pattern keeps its number for a while when nobody subscribes any more: it is matched as before, and reaches nobody.
//! At most [`limits::LEFT_PATTERNS_MAX`] of those; more, and the one that was left first is forgotten.

use super::marks::Order;
use super::shard::{Audience, Targets};
use crate::address::{Address, Pattern};
use crate::limits;
use crate::trie::Trie;

#[derive(Debug, Default)]
struct Wildcard {
    audience: Audience,
    /// 0 until it is given.
    number: u64,
}

/// The number of a pattern that was left, and that of its leaving.
#[derive(Debug, Default)]
struct LeftPattern {
    number: u64,
    count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Wildcards {
    subscribed: Trie<Wildcard>,
    left: Trie<LeftPattern>,
    order: Order<Pattern>,
    /// Numbers given so far.
    numbers: u64,
}

impl Wildcards {
    /// Patterns that somebody subscribes to.
    pub(super) const fn len(&self) -> usize {
        self.subscribed.len()
    }

    /// The audience of a pattern that somebody subscribes to.
    pub(super) fn get(&self, pattern: &Pattern) -> Option<&Audience> {
        self.subscribed.get(pattern).map(|wildcard| &wildcard.audience)
    }

    /// The audience of a pattern, and its number.
    pub(super) fn entry(&mut self, pattern: &Pattern) -> (&mut Audience, u64) {
        let Wildcard { audience, number } = self.subscribed.entry(pattern);
        if *number == 0 {
            *number = match self.left.remove(pattern) {
                Some(left) => left.number,
                None => {
                    self.numbers += 1;
                    self.numbers
                }
            };
        }
        (audience, *number)
    }

    /// Changes the audience of a pattern, if it has one. The second is the number of a pattern that is forgotten.
    pub(super) fn change<T>(
        &mut self,
        pattern: &Pattern,
        change: impl FnOnce(&mut Audience) -> T,
    ) -> (Option<T>, Option<u64>) {
        let Some(Wildcard { audience, number }) = self.subscribed.get_mut(pattern) else {
            return (None, None);
        };
        let (result, is_unused) = (change(audience), audience.is_unused());
        let number = *number;
        let mut forgotten = None;
        if is_unused {
            self.subscribed.remove(pattern);
            forgotten = self.leave(pattern, number);
        }
        (Some(result), forgotten)
    }

    fn leave(&mut self, pattern: &Pattern, number: u64) -> Option<u64> {
        let Self { left, order, .. } = self;
        let count = order.push(pattern.clone());
        *left.entry(pattern) = LeftPattern { number, count };
        let mut forgotten = None;
        if left.len() > limits::LEFT_PATTERNS_MAX {
            let is_left =
                |pattern: &Pattern, count| left.get(pattern).is_some_and(|left| left.count == count);
            let oldest = order.pop(is_left);
            forgotten = oldest.and_then(|oldest| left.remove(&oldest)).map(|left| left.number);
        }
        let is_left = |pattern: &Pattern, count| left.get(pattern).is_some_and(|left| left.count == count);
        order.tidy(limits::LEFT_PATTERNS_MAX, is_left);
        forgotten
    }

    /// Of a pattern that somebody subscribes to, or did until lately.
    pub(super) fn number_of(&self, pattern: &Pattern) -> Option<u64> {
        let subscribed = self.subscribed.get(pattern).map(|wildcard| wildcard.number);
        subscribed.or_else(|| self.left.get(pattern).map(|left| left.number))
    }

    /// The audiences of the patterns that match.
    pub(super) fn matches(&self, to: &Address) -> impl Iterator<Item = &Audience> {
        self.subscribed.matches(to).into_iter().map(|wildcard| &wildcard.audience)
    }

    /// Adds what the patterns that match reach, and the numbers of them all.
    pub(super) fn extend(&self, to: &Address, targets: &mut Targets) {
        for Wildcard { audience, number } in self.subscribed.matches(to) {
            audience.extend(targets);
            targets.patterns.push(*number);
        }
        targets.patterns.extend(self.left.matches(to).into_iter().map(|left| left.number));
    }
}
