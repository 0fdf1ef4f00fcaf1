//! Whether the numbered messages of one publisher came all, once and in order, at one receiver or at the members of a queue together.

use super::limits::GAPS_MAX;
use std::collections::BTreeMap;

/// What came of the numbers from 0 on.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Behind the highest number that came.
    next: u64,
    /// Numbers below it that did not come: from the first to behind the last one.
    gaps: BTreeMap<u64, u64>,
    /// Of gaps that are no longer remembered.
    given_up: u64,
    received: u64,
    repeated: u64,
    reordered: u64,
}

impl Sequence {
    /// A message came; false for a repeat.
    pub(super) fn handle(&mut self, number: u64) -> bool {
        if number >= self.next {
            if number > self.next {
                self.add_gap(self.next, number);
            }
            self.next = number + 1;
        } else if self.fill(number) {
            self.reordered += 1;
        } else {
            self.repeated += 1;
            return false;
        }
        self.received += 1;
        true
    }

    fn add_gap(&mut self, first: u64, end: u64) {
        self.gaps.insert(first, end);
        if self.gaps.len() > GAPS_MAX
            && let Some((first, end)) = self.gaps.pop_first()
        {
            self.given_up += end - first;
        }
    }

    /// Takes a number out of the gap that it is in.
    fn fill(&mut self, number: u64) -> bool {
        let Some((&first, &end)) = self.gaps.range(..=number).next_back() else { return false };
        if number >= end {
            return false;
        }
        self.gaps.remove(&first);
        if first < number {
            self.gaps.insert(first, number);
        }
        if number + 1 < end {
            self.gaps.insert(number + 1, end);
        }
        true
    }

    /// Numbers that came, each counted once.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Numbers that came again.
    pub(super) const fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Numbers that came behind a higher one.
    pub(super) const fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Of the first `sent` numbers, those that did not come.
    pub(super) fn missing(&self, sent: u64) -> u64 {
        let in_gaps: u64 = self.gaps.iter().map(|(first, end)| end - first).sum();
        self.given_up + in_gaps + sent.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_counted_once() {
        // received, repeated, reordered, missing
        let check = |numbers: &[u64], sent: u64, expected: (u64, u64, u64, u64)| {
            let mut sequence = Sequence::default();
            for &number in numbers {
                sequence.handle(number);
            }
            let found =
                (sequence.received(), sequence.repeated(), sequence.reordered(), sequence.missing(sent));
            assert_eq!(found, expected, "{numbers:?}");
            assert_eq!(found.0 + found.3, sent.max(sequence.next), "each number came or is missing");
        };
        check(&[], 0, (0, 0, 0, 0));
        check(&[], 3, (0, 0, 0, 3));
        check(&[0, 1, 2], 3, (3, 0, 0, 0));
        check(&[0, 1, 2], 5, (3, 0, 0, 2));
        check(&[1, 2], 3, (2, 0, 0, 1));
        check(&[0, 2], 3, (2, 0, 0, 1));
        check(&[0, 2, 1], 3, (3, 0, 1, 0));
        check(&[0, 0, 1, 1], 2, (2, 2, 0, 0));
        check(&[0, 4, 2, 2, 1, 3, 3], 5, (5, 2, 3, 0));
        check(&[5, 0, 4], 6, (3, 0, 2, 3));
        check(&[3, 1, 1], 4, (2, 1, 1, 2));
    }

    #[test]
    fn more_gaps_than_are_remembered_stay_lost() {
        let mut sequence = Sequence::default();
        for number in 0..=GAPS_MAX as u64 {
            assert!(sequence.handle(2 * number + 1));
        }
        let sent = 2 * (GAPS_MAX as u64 + 1);
        assert_eq!((sequence.gaps.len(), sequence.missing(sent)), (GAPS_MAX, sent / 2));
        assert!(!sequence.handle(0), "given up");
        assert!(sequence.handle(2));
        assert_eq!((sequence.missing(sent), sequence.repeated()), (sent / 2 - 1, 1));
    }
}
