//! The queues that one instance was told of, to answer what their members have in flight.
//!
//! Kept with the instance, so that a guest that asks takes no lock: the counts are those of the members, read as they
//! are at the moment. A version that is not the queue's latest one, as far as the instance knows, is not known any more.

use std::sync::Arc;
use waspmq_core::policy::QueueMembers;
use waspmq_core::registry::Loads;

/// As many as there are queues with members: at most [`crate::limits::QUEUES_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By version, which is how they are asked for.
    queues: Vec<Arc<QueueMembers>>,
}

impl Told {
    /// Takes in a later state of a queue; one without members is gone.
    pub(crate) fn change(&mut self, members: &Arc<QueueMembers>) {
        self.queues.retain(|known| known.queue != members.queue || known.pattern != members.pattern);
        if !members.members.is_empty() {
            let index = self.queues.partition_point(|known| known.version < members.version);
            self.queues.insert(index, Arc::clone(members));
        }
    }

    /// The counts of the queue whose members have this version.
    pub(crate) fn loads(&self, version: u64) -> Option<&Loads> {
        let index = self.queues.binary_search_by_key(&version, |known| known.version).ok()?;
        self.queues.get(index).map(|known| &known.loads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::address::Name;

    fn members(queue: &str, version: u64, loads: &[u32]) -> Arc<QueueMembers> {
        Arc::new(QueueMembers {
            pattern: "topic/a".to_owned(),
            queue: Name::parse(queue).unwrap(),
            version,
            members: loads.iter().map(|i| format!("u{i}/d/s")).collect(),
            loads: loads.iter().copied().collect(),
        })
    }

    #[test]
    fn the_latest_version_of_each_queue_is_known() {
        let mut told = Told::default();
        for (queue, version, loads) in [("b", 9, &[7][..]), ("a", 3, &[1, 2]), ("c", 5, &[4])] {
            told.change(&members(queue, version, loads));
        }
        let known = |told: &Told, version| told.loads(version).map(|loads| loads.iter().collect::<Vec<_>>());
        assert_eq!([3, 5, 9].map(|version| known(&told, version).unwrap()[0]), [1, 4, 7]);
        assert_eq!(known(&told, 4), None);
        told.change(&members("a", 10, &[8]));
        assert_eq!((known(&told, 3), known(&told, 10)), (None, Some(vec![8])));
        told.change(&members("c", 11, &[]));
        assert_eq!((known(&told, 5), known(&told, 11)), (None, None));
    }
}
