//! Which flights wait until a recipient has a session again.

use super::Recipient;
use std::collections::BTreeSet;

/// The flights, by their first count and with their slots, that wait for each recipient.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeSet<(Recipient, (u64, u32))>);

impl Waiting {
    /// The slots of those that wait for a recipient, in the order of their messages.
    pub(super) fn take(&mut self, recipient: &Recipient) -> Vec<u32> {
        let range = (recipient.clone(), (0, 0))..=(recipient.clone(), (u64::MAX, u32::MAX));
        let flights: Vec<_> = self.0.range(range).map(|(_, flight)| *flight).collect();
        for &flight in &flights {
            self.remove(recipient, flight);
        }
        flights.into_iter().map(|(_, slot)| slot).collect()
    }

    pub(super) fn insert(&mut self, recipient: Recipient, flight: (u64, u32)) {
        self.0.insert((recipient, flight));
    }

    pub(super) fn remove(&mut self, recipient: &Recipient, flight: (u64, u32)) {
        self.0.remove(&(recipient.clone(), flight));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
