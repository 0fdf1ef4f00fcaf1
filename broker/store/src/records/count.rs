//! Counting what an end without order left uncounted: messages behind the `counted` of their address's record.
//!
//! A start sums up the saved records, which takes no look at a message. What lies behind them is counted in one pass over
//! all addresses, by the start for a moment and then by the rounds of maintenance; and again after a failed write, with
//! which tallies were forgotten. Addresses with a tally were counted when it was loaded.

use super::maintain::Damage;
use super::tally::{Tallies, Tally};
use super::{Records, read};
use crate::key;
use crate::record::AddressRecord;
use crate::shelf::{Shelf, Space, View};
use crate::store::{Durability, StoreError};

/// Addresses, and about how many bytes of uncounted messages, that a round looks at.
const ROUND_ADDRESSES_MAX: usize = 2_048;
const ROUND_BYTES_MAX: i64 = 16 * 1024 * 1024;

/// The key of the address with which the pass goes on; `None` when it is over.
#[derive(Debug)]
pub(super) struct Uncounted(Option<Vec<u8>>);

impl Default for Uncounted {
    fn default() -> Self {
        Self(Some(vec![key::ADDRESS]))
    }
}

impl<S: Shelf> Records<S> {
    /// Takes rounds until the pass is over, or `goes_on` says no. What is in their way is told by the rounds of maintenance.
    pub(crate) fn count_at_start(&self, goes_on: impl Fn() -> bool) {
        let mut tallies = self.tallies.lock().unwrap();
        while (tallies.uncounted.0.is_some() || Self::has_uncounted_ledgers(&tallies)) && goes_on() {
            let damage = &mut Damage::default();
            let counted = self.count_uncounted(&mut tallies, damage);
            if let Err(error) = counted.and_then(|()| self.count_ledgers(&mut tallies, damage)) {
                tracing::warn!(%error, "what an end without order left uncounted is counted later");
                return;
            }
        }
    }

    /// Takes one round of the pass, where it is not over.
    pub(super) fn count_uncounted(
        &self,
        tallies: &mut Tallies,
        damage: &mut Damage,
    ) -> Result<(), StoreError> {
        let Some(from) = &tallies.uncounted.0 else { return Ok(()) };
        let (mut changes, mut messages, mut bytes, mut next) = (Vec::new(), 0, 0, None);
        {
            let view = self.shelf.view()?;
            for (looks, entry) in view.range(Space::State, from, &[key::ADDRESS + 1]).enumerate() {
                let Some((key, value)) = damage.pass(entry.map(Some))? else { break };
                if looks >= ROUND_ADDRESSES_MAX || bytes >= ROUND_BYTES_MAX {
                    next = Some(key.to_vec());
                    break;
                }
                let count = || {
                    let address = read::parse_address(&key)?;
                    if tallies.of.contains_key(&address) {
                        return Ok(None);
                    }
                    let record = AddressRecord::parse(&key, &value)?;
                    Tally::load(&view, &address, record.retention).map(|tally| Some((address, tally)))
                };
                let Some((address, mut tally)) = damage.pass(count())? else { continue };
                if tally.is_saved() {
                    continue;
                }
                let (more_messages, more_bytes) = tally.unsaved();
                (messages, bytes) = (messages + more_messages, bytes + more_bytes);
                changes.push(tally.save(&address));
            }
        }
        if !changes.is_empty() {
            self.shelf.write(changes, Durability::Buffered)?;
            self.account(messages, bytes);
        }
        tallies.uncounted.0 = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Bounds, MemoryStore};
    use crate::samples;
    use crate::store::{Store as _, Usage, Write};
    use waspmq_core::settings::Retention;

    /// Two messages to each of some addresses; of the second one the record of the address does not know.
    fn writes(addresses: usize) -> [Vec<Write>; 2] {
        [1, 2].map(|offset| {
            let to = |n| format!("user/{n:05}");
            (0..addresses).map(|n| samples::message(&to(n), offset, Retention::default())).collect()
        })
    }

    /// A store with the same records, as a start finds them after a crash.
    fn crashed(store: MemoryStore) -> MemoryStore {
        let mut usage = Usage::default();
        for entry in store.shelf.view().unwrap().range(Space::State, &[key::ADDRESS], &[key::ADDRESS + 1]) {
            let (key, value) = entry.unwrap();
            let record = AddressRecord::parse(&key, &value).unwrap();
            (usage.messages, usage.bytes) = (usage.messages + record.count, usage.bytes + record.bytes);
        }
        let mut store = std::mem::ManuallyDrop::new(store);
        Records::over(std::mem::take(&mut store.shelf), Bounds::default(), usage)
    }

    #[test]
    fn what_a_crash_left_uncounted_is_counted_by_rounds() {
        const ADDRESSES: usize = ROUND_ADDRESSES_MAX + 1;
        let store = MemoryStore::new(Bounds::default());
        for writes in writes(ADDRESSES) {
            store.commit(&writes, Durability::Buffered).unwrap();
        }
        let all = store.usage();
        let store = crashed(store);
        assert_eq!(store.usage().messages, ADDRESSES as u64);
        // What is written to is counted at once.
        store.commit(&writes(1)[1], Durability::Buffered).unwrap();
        assert_eq!(store.usage().messages, ADDRESSES as u64 + 1);
        store.maintain(1).unwrap();
        assert_eq!(store.usage().messages, all.messages - 1);
        store.maintain(1).unwrap();
        assert_eq!(store.usage(), all);
        assert_eq!(crashed(store).usage(), all, "and is saved");
    }
}
