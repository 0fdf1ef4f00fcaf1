//! Retention: removes what is too much or too old, in bounded rounds.
//!
//! Messages of an address are removed from the oldest on, so what is left is always one stretch without holes. The
//! place of the last one removed is kept, which makes a run that is only partly removed right at once and is how a
//! reader learns that it missed something.
//!
//! A damaged record is in nobody's way but its own: a round passes over it, does the rest, and tells of it at the end.

use super::tally::{TALLIES_MAX, Tallies, Tally};
use super::{Records, read};
use crate::key;
use crate::record::{self, AddressRecord};
use crate::shelf::{Change, Shelf, Space, View};
use crate::store::{Durability, Maintained, StoreError};
use std::sync::atomic::Ordering;
use waspmq_core::Address;

/// Runs removed from one address at once. More: the rest goes with the next commit or round.
const TRIM_RUNS_MAX: usize = 4_096;

/// Addresses that a round looks at, and cursors of queues in each of them.
const ROUND_ADDRESSES_MAX: usize = 512;
const ROUND_CURSORS_MAX: usize = 1_024;

/// How long the record of an address without messages stays at least: as long, a reader learns what it missed.
const EMPTY_AGE_MS: u64 = 24 * 3_600_000;

impl<S: Shelf> Records<S> {
    pub(super) fn maintain_once(&self, now_unix_ms: u64) -> Result<Maintained, StoreError> {
        self.free_bytes.store(self.shelf.free_bytes().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.shelf.ready()?;
        let mut tallies = self.tallies.lock().unwrap();
        let mut done = Maintained::default();
        if tallies.of.len() > TALLIES_MAX {
            self.forget(&mut tallies)?;
        }
        tallies.save(ROUND_ADDRESSES_MAX, |changes| self.shelf.write(changes, Durability::Buffered))?;
        let mut damage = Damage::default();
        self.count_uncounted(&mut tallies, &mut damage)?;
        self.maintain_ledgers(&mut tallies, now_unix_ms, &mut damage)?;
        for (address, record) in self.next_addresses(&mut tallies, &mut damage)? {
            done.addresses += 1;
            done.records += damage.pass(self.remove_queue_cursors(&address))?;
            done.messages +=
                damage.pass(self.maintain_address(&mut tallies, &address, &record, now_unix_ms))?;
        }
        done.records += self.remove_old_records(&mut tallies, now_unix_ms, &mut damage)?;
        damage.0.map_or(Ok(done), Err)
    }

    fn next_addresses(
        &self,
        tallies: &mut Tallies,
        damage: &mut Damage,
    ) -> Result<Vec<(Address, AddressRecord)>, StoreError> {
        let view = self.shelf.view()?;
        let from =
            if tallies.next_address.is_empty() { vec![key::ADDRESS] } else { tallies.next_address.clone() };
        let mut found = Vec::new();
        tallies.next_address.clear();
        for (index, entry) in view.range(Space::State, &from, &[key::ADDRESS + 1]).enumerate() {
            // Behind what fjall cannot read there is nothing to be found.
            let Some((key, value)) = damage.pass(entry.map(Some))? else { break };
            if index >= ROUND_ADDRESSES_MAX {
                tallies.next_address = key.to_vec();
                break;
            }
            let parse = || Ok(Some((read::parse_address(&key)?, AddressRecord::parse(&key, &value)?)));
            found.extend(damage.pass(parse())?);
        }
        Ok(found)
    }

    fn maintain_address(
        &self,
        tallies: &mut Tallies,
        address: &Address,
        record: &AddressRecord,
        now_unix_ms: u64,
    ) -> Result<u64, StoreError> {
        if let std::collections::hash_map::Entry::Vacant(entry) = tallies.of.entry(address.clone()) {
            // Most addresses have nothing to remove; those are not loaded.
            let oldest = {
                let view = self.shelf.view()?;
                let from = key::run(address.as_str(), key::behind(record.removed));
                let oldest = view
                    .range(Space::Messages, &from, &key::runs_end(address.as_str()))
                    .next()
                    .transpose()?;
                oldest.map(|(key, value)| read::measure(&key, &value)).transpose()?
            };
            let aged_before_ms = now_unix_ms.saturating_sub(record.retention.age_ms);
            match oldest {
                Some((_, _, unix_ms)) if unix_ms < aged_before_ms => {}
                None => {}
                Some(_) => return Ok(0),
            }
            let tally = Tally::load(&self.shelf.view()?, address, record.retention)?.in_round(tallies.round);
            let (messages, bytes) = tally.unsaved();
            entry.insert(tally);
            self.account(messages, bytes);
        }
        let removed = self.trim(tallies, address, now_unix_ms)?;
        self.remove_if_long_empty(tallies, address, now_unix_ms)?;
        Ok(removed)
    }

    /// Removes the cursors of queues that are no more.
    fn remove_queue_cursors(&self, address: &Address) -> Result<usize, StoreError> {
        let mut changes = Vec::new();
        {
            let view = self.shelf.view()?;
            let (from, to) = key::queue_cursors(address.as_str());
            for entry in view.range(Space::State, &from, &to).take(ROUND_CURSORS_MAX) {
                let (key, value) = entry?;
                let Some(id) = key::parse_queue(&key) else { continue };
                let queue = key::queue(&id);
                let queue = view.get(Space::State, &queue)?.map(|value| record::parse_queue(&queue, &value));
                let (born_unix_ms, _) = record::parse_queue_cursor(&key, &value)?;
                if queue.transpose()?.is_none_or(|queue| queue.born_unix_ms != born_unix_ms) {
                    changes.push(removal(&key));
                }
            }
        }
        let count = changes.len();
        if count > 0 {
            self.shelf.write(changes, Durability::Buffered)?;
        }
        Ok(count)
    }

    fn remove_if_long_empty(
        &self,
        tallies: &mut Tallies,
        address: &Address,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let Some(tally) = tallies.of.get_mut(address).filter(|tally| tally.record.count == 0) else {
            return Ok(());
        };
        let record = &mut tally.record;
        if record.emptied_unix_ms == 0 {
            // Emptied by a bound, which has no clock: the time counts from now.
            record.emptied_unix_ms = now_unix_ms;
        }
        let age_ms = record.retention.age_ms.clamp(EMPTY_AGE_MS, u64::MAX / 2);
        if now_unix_ms < record.emptied_unix_ms.saturating_add(age_ms) {
            return Ok(());
        }
        let mut changes = vec![removal(&key::address(address.as_str()))];
        let (from, to) = key::queue_cursors(address.as_str());
        for entry in self.shelf.view()?.range(Space::State, &from, &to).take(ROUND_CURSORS_MAX) {
            changes.push(removal(&entry?.0));
        }
        self.shelf.write(changes, Durability::Buffered)?;
        tallies.of.remove(address);
        Ok(())
    }

    /// Removes what is over the bounds of a loaded address and, when `now_unix_ms` is not 0, what is too old. Gives
    /// the number of messages.
    pub(super) fn trim(
        &self,
        tallies: &mut Tallies,
        address: &Address,
        now_unix_ms: u64,
    ) -> Result<u64, StoreError> {
        let Some(tally) = tallies.of.get_mut(address) else { return Ok(0) };
        let mut trimmed = tally.clone();
        let mut changes = {
            let view = self.shelf.view()?;
            trim_runs(&view, address, &mut trimmed, now_unix_ms)?
        };
        let removed = tally.record.count - trimmed.record.count;
        if removed == 0 {
            return Ok(0);
        }
        let freed = tally.record.bytes - trimmed.record.bytes;
        if trimmed.record.count == 0 {
            trimmed.record.emptied_unix_ms = now_unix_ms;
        }
        changes.push(trimmed.save(address));
        self.shelf.write(changes, Durability::Buffered)?;
        *tally = trimmed;
        self.account(-removed.cast_signed(), -freed.cast_signed());
        Ok(removed)
    }
}

/// The first damage that a round has met.
#[derive(Debug, Default)]
pub(super) struct Damage(Option<StoreError>);

impl Damage {
    /// Notes damage, which gives nothing. Anything else that failed ends the round.
    pub(super) fn pass<T: Default>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Err(error) if !error.is_retryable() => {
                self.0.get_or_insert(error);
                Ok(T::default())
            }
            result => result,
        }
    }

    #[cfg(test)]
    pub(super) const fn is_met(&self) -> bool {
        self.0.is_some()
    }
}

pub(super) fn removal(key: &[u8]) -> Change {
    Change { space: Space::State, key: key.to_vec(), value: None }
}

/// Moves `tally` behind what has to go, and gives the runs that are removed as a whole.
fn trim_runs(
    view: &impl View,
    address: &Address,
    tally: &mut Tally,
    now_unix_ms: u64,
) -> Result<Vec<Change>, StoreError> {
    let record = &mut tally.record;
    let aged_before_ms =
        if now_unix_ms == 0 { 0 } else { now_unix_ms.saturating_sub(record.retention.age_ms) };
    let mut changes = Vec::new();
    let from = key::run(address.as_str(), key::behind(record.removed));
    for entry in view.range(Space::Messages, &from, &key::runs_end(address.as_str())) {
        let (key, value) = entry?;
        let (last, count, unix_ms) = read::measure(&key, &value)?;
        let left = read::count_behind(last, count, record.removed);
        let excess = record.count.saturating_sub(record.retention.count);
        // The newest run stays whatever its size: one large batch must not empty its address.
        let too_large = record.bytes > record.retention.bytes && last < tally.latest;
        let whole = unix_ms < aged_before_ms || too_large || excess >= left;
        if !whole {
            if excess > 0 {
                record.removed = (last.0, last.1 - (left - excess));
                record.count -= excess;
            }
            break;
        }
        if changes.len() >= TRIM_RUNS_MAX {
            break;
        }
        record.removed = last;
        record.count = record.count.saturating_sub(left);
        record.bytes = record.bytes.saturating_sub((key.len() + value.len()) as u64);
        changes.push(Change { space: Space::Messages, key: key.to_vec(), value: None });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests;
