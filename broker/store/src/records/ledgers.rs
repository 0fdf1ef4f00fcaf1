//! The bytes of ledgers: they count towards the store's bound, and have a bound of their own within it.
//!
//! How many bytes there are is a record, which changes in the same write as the ledgers: a start reads it and looks at no
//! ledger. Invariant: it says what lies in front of `behind`. A store of a version without that record, and one that was
//! repaired, is counted by rounds like [`super::count`]'s, each of which moves `behind`.

use super::Records;
use super::maintain::{Damage, removal};
use super::tally::Tallies;
use crate::key;
use crate::record;
use crate::shelf::{Change, Shelf, Space, View};
use crate::store::{Durability, StoreError};

/// The part of [`super::Bounds::bytes`] that ledgers may take. More: the oldest go.
const PART: u64 = 8;

/// The part of their bound by which a commit may pass it; what is over goes in rounds of maintenance.
const SLACK_PART: u64 = 16;

/// Ledgers that are removed at once because there are too many; no less than a commit adds.
const TRIM_MAX: usize = 4_096;

/// Ledgers and bytes of them that a round counts.
const ROUND_LEDGERS_MAX: usize = 2_048;
const ROUND_BYTES_MAX: i64 = 16 * 1024 * 1024;

/// Between two lines in the log about ledgers that went early.
const TOLD_EVERY_MS: u64 = 60_000;

const KEY: [u8; 1] = [key::LEDGER_TALLY];
const FIRST: [u8; 1] = [key::LEDGER];
const END: [u8; 1] = [key::LEDGER + 1];

/// How many bytes of ledgers there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerTally {
    pub(crate) bytes: u64,
    /// The first key that is not counted.
    behind: Vec<u8>,
}

impl LedgerTally {
    /// Without a record that can be read, nothing is counted.
    pub(crate) fn load(view: &impl View) -> Result<Self, StoreError> {
        if let Some(value) = view.get(Space::State, &KEY)?
            && let Ok((_, mut reader)) = record::open(&KEY, &value)
            && let Some(bytes) = reader.u64()
        {
            return Ok(Self { bytes, behind: reader.rest.to_vec() });
        }
        let is_empty = view.range(Space::State, &FIRST, &END).next().is_none();
        Ok(Self { bytes: 0, behind: if is_empty { END.to_vec() } else { FIRST.to_vec() } })
    }

    pub(super) fn counts(&self, key: &[u8]) -> bool {
        key < self.behind.as_slice()
    }

    pub(super) fn add(&mut self, bytes: i64) {
        self.bytes = self.bytes.saturating_add_signed(bytes);
    }

    /// The end of what is counted, at most `end`.
    pub(super) fn end<'a>(&'a self, end: &'a [u8]) -> &'a [u8] {
        end.min(&self.behind)
    }

    /// The change that saves it.
    pub(super) fn save(&self) -> Change {
        let value = record::opaque(&KEY, &[&self.bytes.to_be_bytes(), &*self.behind].concat());
        Change { space: Space::State, key: KEY.to_vec(), value: Some(value) }
    }
}

/// What is known of ledgers besides their bytes.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    /// Whether the pass that counts them is over.
    is_counted: bool,
    /// In front of this, trimming found none since the last round of maintenance.
    begin: Vec<u8>,
    /// Removed because there were too many.
    removed: u64,
    /// Not written because the store was full, or there were too many.
    pub(super) left_out: u64,
    told_unix_ms: u64,
}

impl<S: Shelf> Records<S> {
    const fn ledger_bytes_max(&self) -> u64 {
        self.bounds.bytes / PART
    }

    /// Whether a commit that leaves so many bytes of ledgers has to trim them.
    pub(super) const fn are_ledgers_over(&self, bytes: u64) -> bool {
        let most = self.ledger_bytes_max();
        bytes > most.saturating_add(most / SLACK_PART)
    }

    /// Removes the oldest ledgers that are too many, up to one that cannot be read.
    pub(super) fn trim_ledgers(&self, tallies: &mut Tallies) -> Result<(), StoreError> {
        let (mut changes, mut freed) = (Vec::new(), 0);
        let mut next = Vec::new();
        let mut tally = {
            let view = self.shelf.view()?;
            let tally = LedgerTally::load(&view)?;
            let over = tally.bytes.saturating_sub(self.ledger_bytes_max()).cast_signed();
            let end = tally.end(&END);
            let begin = tallies.ledgers.begin.as_slice().clamp(&FIRST, end);
            for entry in view.range(Space::State, begin, end).take(TRIM_MAX) {
                let Some((key, value)) = entry.ok().filter(|_| freed < over) else { break };
                freed += size(&key, &value);
                changes.push(removal(&key));
                next = key.to_vec();
            }
            tally
        };
        if changes.is_empty() {
            return Ok(());
        }
        let removed = changes.len() as u64;
        tally.add(-freed);
        changes.push(tally.save());
        self.shelf.write(changes, Durability::Buffered)?;
        self.account(0, -freed);
        tallies.ledgers.begin = next;
        tallies.ledgers.removed += removed;
        Ok(())
    }

    /// Counts a round of ledgers, where that is not over; trims them; tells what went early.
    pub(super) fn maintain_ledgers(
        &self,
        tallies: &mut Tallies,
        now_unix_ms: u64,
        damage: &mut Damage,
    ) -> Result<(), StoreError> {
        self.count_ledgers(tallies, damage)?;
        // One whose delivery took long may have been written in front of those that are left.
        tallies.ledgers.begin.clear();
        self.trim_ledgers(tallies)?;
        let Ledgers { removed, left_out, told_unix_ms, .. } = &mut tallies.ledgers;
        if *removed + *left_out > 0 && now_unix_ms >= told_unix_ms.saturating_add(TOLD_EVERY_MS) {
            let most = self.ledger_bytes_max();
            tracing::warn!(
                removed,
                left_out,
                bytes_max = most,
                "ledgers of messages went early or are not kept"
            );
            (*removed, *left_out, *told_unix_ms) = (0, 0, now_unix_ms);
        }
        Ok(())
    }

    /// Whether there is more to be counted.
    pub(super) const fn has_uncounted_ledgers(tallies: &Tallies) -> bool {
        !tallies.ledgers.is_counted
    }

    /// Counts a round. What lies behind damage is taken for nothing; a repair has all of them counted anew.
    pub(super) fn count_ledgers(&self, tallies: &mut Tallies, damage: &mut Damage) -> Result<(), StoreError> {
        if tallies.ledgers.is_counted {
            return Ok(());
        }
        let (mut counted, mut behind) = (0, END.to_vec());
        let mut tally = {
            let view = self.shelf.view()?;
            let tally = LedgerTally::load(&view)?;
            for (looks, entry) in view.range(Space::State, &tally.behind, &END).enumerate() {
                let Some((key, value)) = damage.pass(entry.map(Some))? else { break };
                if looks >= ROUND_LEDGERS_MAX || counted >= ROUND_BYTES_MAX {
                    behind = key.to_vec();
                    break;
                }
                counted += size(&key, &value);
            }
            tally
        };
        let is_over = behind == END;
        if tally.behind != behind {
            tally.add(counted);
            tally.behind = behind;
            self.shelf.write(vec![tally.save()], Durability::Buffered)?;
            self.account(0, counted);
        }
        tallies.ledgers.is_counted = is_over;
        Ok(())
    }
}

const fn size(key: &[u8], value: &[u8]) -> i64 {
    (key.len() + value.len()) as i64
}

#[cfg(test)]
mod tests;
