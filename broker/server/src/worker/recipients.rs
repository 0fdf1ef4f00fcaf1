//! Which of a worker's connections listen to which address: plain lists that only the worker touches.

use hashbrown::HashMap;
use indexmap::IndexSet;
use smallvec::SmallVec;
use waspmq_core::trie::Trie;
use waspmq_core::{Address, Pattern};

/// Connections by their number in the worker, in no particular order; adding and removing is O(1).
pub(crate) type Listeners = IndexSet<u32, foldhash::fast::RandomState>;

/// The recipient lists of one worker.
#[derive(Debug, Default)]
pub(crate) struct Recipients {
    exact: HashMap<Address, Listeners, foldhash::fast::RandomState>,
    wildcards: Trie<Listeners>,
}

impl Recipients {
    pub(crate) fn attach(&mut self, address: &Address, connection: u32) {
        match self.exact.get_mut(address) {
            Some(listeners) => listeners.insert(connection),
            None => self.exact.entry(address.clone()).or_default().insert(connection),
        };
    }

    pub(crate) fn detach(&mut self, address: &Address, connection: u32) {
        if let Some(listeners) = self.exact.get_mut(address) {
            listeners.swap_remove(&connection);
            if listeners.is_empty() {
                self.exact.remove(address);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, pattern: &Pattern, connection: u32) {
        match pattern.to_address() {
            Some(address) => self.attach(&address, connection),
            None => _ = self.wildcards.entry(pattern).insert(connection),
        }
    }

    pub(crate) fn unsubscribe(&mut self, pattern: &Pattern, connection: u32) {
        if let Some(address) = pattern.to_address() {
            return self.detach(&address, connection);
        }
        if let Some(listeners) = self.wildcards.get_mut(pattern) {
            listeners.swap_remove(&connection);
            if listeners.is_empty() {
                self.wildcards.remove(pattern);
            }
        }
    }

    /// The lists that a message to `to` reaches. A connection can stand in several of them.
    pub(crate) fn of(&self, to: &Address) -> SmallVec<[&Listeners; 8]> {
        let mut lists = self.wildcards.matches(to);
        lists.extend(self.exact.get(to));
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_and_go() {
        let mut recipients = Recipients::default();
        let to = Address::parse("topic/a.b").unwrap();
        let (exact, wild) = (Pattern::from(&to), Pattern::parse("topic/a.*").unwrap());
        recipients.subscribe(&exact, 1);
        recipients.subscribe(&wild, 1);
        recipients.subscribe(&wild, 2);
        assert_eq!(recipients.of(&to).iter().map(|list| list.len()).sum::<usize>(), 3);
        recipients.unsubscribe(&wild, 1);
        recipients.unsubscribe(&exact, 1);
        assert_eq!(recipients.of(&to).len(), 1);
        recipients.unsubscribe(&wild, 2);
        assert!(recipients.exact.is_empty() && recipients.wildcards.is_empty());
    }
}
