//! What the writer knows of each address: how much is stored, and how far retention has removed it.
//!
//! A tally is loaded when its address is first written to, so opening a store costs nothing per message; what was
//! stored since its record was saved is counted then. Invariant: the store's usage is the sum of the saved records
//! plus what the loaded tallies hold unsaved.

use super::read;
use crate::key::{self, Place};
use crate::record::AddressRecord;
use crate::shelf::{Change, Space, View};
use crate::store::StoreError;
use foldhash::HashMap;
use waspmq_core::Address;
use waspmq_core::settings::Retention;

/// Addresses remembered, about 250 bytes each. More: all are saved and forgotten, and loaded when used again.
pub(super) const TALLIES_MAX: usize = 65_536;

/// Messages and bytes of an address after which its record is saved again: what loading it has to count at most.
const UNSAVED_MESSAGES_MAX: u64 = 1_024;
const UNSAVED_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// As of now, not as saved.
    pub(super) record: AddressRecord,
    /// Place of the newest message.
    pub(super) latest: Place,
    /// As saved; `None` when there is no record yet.
    saved: Option<AddressRecord>,
    /// The round in which it was saved or loaded last.
    round: u64,
}

impl Tally {
    pub(super) fn load(
        view: &impl View,
        address: &Address,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let saved = read::address_record(view, address.as_str())?;
        let mut record = saved.unwrap_or_else(|| AddressRecord::new(retention));
        record.retention = retention;
        let mut latest = record.counted;
        if saved.is_some() {
            let from = key::run(address.as_str(), key::behind(record.counted));
            for entry in view.range(Space::Messages, &from, &key::runs_end(address.as_str())) {
                let (key, value) = entry?;
                let (last, count, _) = read::measure(&key, &value)?;
                record.count += read::count_behind(last, count, record.removed.max(record.counted));
                record.bytes += (key.len() + value.len()) as u64;
                latest = last;
            }
        }
        Ok(Self { record, latest, saved, round: 0 })
    }

    pub(super) const fn in_round(self, round: u64) -> Self {
        Self { round, ..self }
    }

    /// Messages and bytes that no saved record counts.
    pub(super) fn unsaved(&self) -> (i64, i64) {
        let (count, bytes) = self.saved.map_or((0, 0), |saved| (saved.count, saved.bytes));
        (
            self.record.count.wrapping_sub(count).cast_signed(),
            self.record.bytes.wrapping_sub(bytes).cast_signed(),
        )
    }

    pub(super) fn add(&mut self, last: Place, count: u64, bytes: u64) {
        self.record.count += count;
        self.record.bytes += bytes;
        self.latest = self.latest.max(last);
    }

    /// Whether enough changed to save the record with the next commit.
    pub(super) fn is_due(&self) -> bool {
        let Some(saved) = self.saved else { return true };
        let (messages, bytes) = self.unsaved();
        saved.retention != self.record.retention
            || messages.unsigned_abs() >= UNSAVED_MESSAGES_MAX
            || bytes.unsigned_abs() >= UNSAVED_BYTES_MAX
    }

    /// The change that saves the record.
    pub(super) fn save(&mut self, address: &Address) -> Change {
        self.record.counted = self.latest;
        self.saved = Some(self.record);
        let key = key::address(address.as_str());
        let value = Some(self.record.encode(&key));
        Change { space: Space::State, key, value }
    }

    pub(super) fn is_saved(&self) -> bool {
        self.saved == Some(self.record) && self.record.counted == self.latest
    }

    /// Whether retention has work to do now. The slack makes it rare; small bounds are kept exactly.
    pub(super) fn is_over(&self) -> bool {
        let Retention { count, bytes, .. } = self.record.retention;
        self.record.count > count.saturating_add((count / 16).min(COUNT_SLACK_MAX))
            || self.record.bytes > bytes.saturating_add((bytes / 16).min(BYTES_SLACK_MAX))
    }
}

/// By how much an address may pass its bounds before it is trimmed.
const COUNT_SLACK_MAX: u64 = 512;
const BYTES_SLACK_MAX: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) of: HashMap<Address, Tally>,
    /// Where the next round of maintenance begins: the key of an address, or empty, and what is not of addresses.
    pub(super) next_address: Vec<u8>,
    pub(super) old: super::old::Next,
    pub(super) uncounted: super::count::Uncounted,
    pub(super) ledgers: super::ledgers::Ledgers,
    /// Rounds of saving.
    pub(super) round: u64,
}

impl Tallies {
    /// Saves what is unsaved, up to `most` addresses, by `write`; first those whose last turn is longest ago, so that each
    /// has one. What that does not write stays unsaved.
    pub(super) fn save(
        &mut self,
        most: usize,
        write: impl FnOnce(Vec<Change>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.round += 1;
        let mut unsaved: Vec<_> = self.of.iter().filter(|(_, tally)| !tally.is_saved()).collect();
        if unsaved.len() > most {
            unsaved.select_nth_unstable_by_key(most, |(_, tally)| tally.round);
            unsaved.truncate(most);
        }
        let (mut saved, mut changes) = (Vec::new(), Vec::new());
        for (address, tally) in unsaved {
            let mut tally = tally.clone().in_round(self.round);
            changes.push(tally.save(address));
            saved.push((address.clone(), tally));
        }
        if changes.is_empty() {
            return Ok(());
        }
        write(changes)?;
        self.of.extend(saved);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_address_has_its_turn_while_all_are_written_to() {
        let mut tallies = Tallies::default();
        let new = || Tally {
            record: AddressRecord::new(Retention::default()),
            latest: (1, 0),
            saved: None,
            round: 0,
        };
        let address = |n: usize| Address::parse(&format!("user/{n}")).unwrap();
        tallies.of.extend((0..100).map(|n| (address(n), new())));
        let mut turns = HashSet::new();
        for place in 1..=10 {
            tallies.of.values_mut().for_each(|tally| tally.add((1, place), 1, 1));
            let saved = |changes: Vec<Change>| {
                turns.extend(changes.into_iter().map(|change| change.key));
                Ok(())
            };
            tallies.save(10, saved).unwrap();
        }
        assert_eq!(turns.len(), 100);
    }
}
