//! The members of all queues, as policies are told about them, numbered by the order of changes.
//!
//! An instance remembers the number it has seen; what is newer is what it has to be told. A queue that is gone
//! stays as an empty one until instances had the time to hear of it; an instance older than a forgotten one
//! has to be replaced.

use crate::limits;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use waspmq_core::policy::QueueMembers;

/// What one instance has to be told to have seen everything up to `sequence`.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) queues: Vec<Arc<QueueMembers>>,
    pub(crate) sequence: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Queues {
    table: Mutex<Table>,
    sequence: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Key, Entry>,
    /// Keys of queues without members, the longest gone first.
    gone: VecDeque<Key>,
    forgotten: u64,
    sequence: u64,
    member_count: usize,
    refused: u64,
}

type Key = (String, String);

#[derive(Debug)]
struct Entry {
    members: Arc<QueueMembers>,
    sequence: u64,
}

impl Queues {
    /// Takes in one change; nothing when it says nothing new or there is no room for one more queue.
    pub(crate) fn change(&self, members: QueueMembers) -> Option<Arc<QueueMembers>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = table.change(members);
        self.sequence.store(table.sequence, Ordering::Release);
        changed
    }

    /// The number of the latest change.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Changes that are not told for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).refused
    }

    /// All queues, for a new instance.
    pub(crate) fn all(&self) -> Changes {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.collect(|entry| !entry.members.members.is_empty())
    }

    /// What changed behind `seen`; nothing when an instance that old cannot be told and has to be replaced.
    pub(crate) fn since(&self, seen: u64) -> Option<Changes> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        (seen >= table.forgotten).then(|| table.collect(|entry| entry.sequence > seen))
    }
}

impl Table {
    fn change(&mut self, members: QueueMembers) -> Option<Arc<QueueMembers>> {
        let key = (members.pattern.clone(), members.queue.as_str().to_owned());
        let known = self.entries.get(&key);
        if known.is_some_and(|entry| entry.members.version >= members.version) {
            return None;
        }
        if known.is_none() && members.members.is_empty() {
            return None;
        }
        let before = known.map_or(0, |entry| entry.members.members.len());
        let after = self.member_count - before + members.members.len();
        let live = self.entries.len() - self.gone.len();
        let is_new = before == 0;
        if after > limits::QUEUE_MEMBERS_TOTAL_MAX || (is_new && live >= limits::QUEUES_MAX) {
            self.refused += 1;
            return None;
        }
        self.member_count = after;
        self.sequence += 1;
        self.note_gone(&key, is_new, members.members.is_empty());
        let members = Arc::new(members);
        self.entries.insert(key, Entry { members: Arc::clone(&members), sequence: self.sequence });
        Some(members)
    }

    /// Keeps `gone` equal to the set of entries without members.
    fn note_gone(&mut self, key: &Key, was_empty: bool, is_empty: bool) {
        if was_empty {
            self.gone.retain(|gone| gone != key);
        }
        if !is_empty {
            return;
        }
        self.gone.push_back(key.clone());
        if self.gone.len() > limits::GONE_QUEUES_MAX {
            let oldest = self.gone.pop_front().and_then(|key| self.entries.remove(&key));
            self.forgotten = oldest.map_or(self.forgotten, |entry| self.forgotten.max(entry.sequence));
        }
    }

    /// Chosen queues in the order of their changes.
    fn collect(&self, chosen: impl Fn(&Entry) -> bool) -> Changes {
        let mut entries: Vec<&Entry> = self.entries.values().filter(|entry| chosen(entry)).collect();
        entries.sort_unstable_by_key(|entry| entry.sequence);
        let queues = entries.into_iter().map(|entry| Arc::clone(&entry.members)).collect();
        Changes { queues, sequence: self.sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::address::Name;
    use waspmq_core::registry::Loads;

    fn members(queue: usize, version: u64, count: usize) -> QueueMembers {
        QueueMembers {
            pattern: "topic/a.>".to_owned(),
            queue: Name::parse(&format!("q{queue}")).unwrap(),
            version,
            members: (0..count).map(|i| format!("u{i}/d/s")).collect(),
            loads: Loads::default(),
        }
    }

    #[test]
    fn an_instance_is_told_what_is_newer_than_what_it_saw() {
        let queues = Queues::default();
        assert!(queues.change(members(1, 1, 2)).is_some());
        assert!(queues.change(members(2, 2, 1)).is_some());
        let seen = queues.all().sequence;
        assert!(queues.change(members(1, 4, 3)).is_some());
        assert!(
            queues.change(members(1, 3, 9)).is_none(),
            "an older state of the same queue is late, not news"
        );
        let changes = queues.since(seen).unwrap();
        assert_eq!(changes.queues.iter().map(|q| q.version).collect::<Vec<_>>(), [4]);
        assert!(queues.change(members(2, 5, 0)).is_some());
        assert_eq!(queues.since(seen).unwrap().queues.len(), 2, "the empty list is told");
        assert_eq!(queues.all().queues.len(), 1, "a new instance need not hear of a queue that is gone");
    }

    #[test]
    fn the_table_is_bounded() {
        let queues = Queues::default();
        let mut version = 0;
        for queue in 0..limits::QUEUES_MAX + 10 {
            version += 1;
            queues.change(members(queue, version, 1));
        }
        assert_eq!((queues.all().queues.len(), queues.refused()), (limits::QUEUES_MAX, 10));
        let old = queues.sequence() - 1;
        for queue in 0..limits::QUEUES_MAX {
            version += 1;
            assert!(queues.change(members(queue, version, 0)).is_some());
        }
        assert!(queues.since(old).is_none(), "forgotten queues cannot be told");
        assert!(queues.since(queues.sequence()).is_some());
        assert!(queues.change(members(9_999, version + 1, limits::QUEUE_MEMBERS_TOTAL_MAX + 1)).is_none());
        let table = queues.table.lock().unwrap();
        assert_eq!((table.entries.len(), table.member_count), (limits::GONE_QUEUES_MAX, 0));
    }
}
