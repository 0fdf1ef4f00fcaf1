//! Queues whose progress is kept: one table for all workers, written through to the journal.
//!
//! A queue begins with its first subscription, at a place that the first subscriber names, and is known until it had no
//! members for [`limits::QUEUE_UNATTENDED_MS_MAX`]. Invariant: the journal has a queue's record before the registry has its
//! first member, so whatever is published to it comes behind. At most [`limits::KEPT_QUEUES_MAX`]; one more is refused.
//! Not here: how far queues are (`worker::queues`), and who their members are (the registry).

use hashbrown::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard};
use waspmq_core::registry::Registry;
use waspmq_core::trie::Trie;
use waspmq_core::{Address, Code, QueueId, Reject, limits};
use waspmq_store::{Journal, QueueBegin, QueueRecord, Write};

/// A queue with members whose record says that it had some longer ago than this is written anew.
const SEEN_EVERY_MS: u64 = 24 * 3_600_000;
/// The time between two looks at the table.
const TEND_EVERY_MS: u64 = 60_000;

/// The table. Its lock is held for a look-up, a change and the writing of one record to the journal's queue, and once a
/// minute for a look at all records.
#[derive(Debug)]
pub(crate) struct KeptQueues {
    workers: usize,
    hasher: foldhash::fast::FixedState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<QueueId, Arc<QueueRecord>, foldhash::fast::RandomState>,
    /// How many queues each pattern has.
    patterns: Trie<u32>,
    tended_unix_ms: u64,
}

impl KeptQueues {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: workers.max(1),
            hasher: foldhash::fast::FixedState::default(),
            table: Mutex::default(),
        }
    }

    /// The worker that keeps a queue's progress.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of workers, which fits 8 bits")]
    pub(crate) fn home(&self, id: &QueueId) -> u8 {
        (self.hasher.hash_one(id) % self.workers as u64) as u8
    }

    /// Makes a queue known that begins here, unless it is known. Says whether it was not.
    pub(crate) fn open(
        &self,
        id: &QueueId,
        begin: QueueBegin,
        (now_unix_ms, journal): (u64, &Journal),
    ) -> Result<bool, Reject> {
        let mut table = self.table();
        if let Some(record) = table.records.get_mut(id) {
            // Its members have come back, and it is not forgotten while they subscribe.
            *record = Arc::new(QueueRecord { seen_unix_ms: now_unix_ms, ..(**record).clone() });
            return Ok(false);
        }
        if table.records.len() >= limits::KEPT_QUEUES_MAX {
            let message = format!("the broker knows {} queues already", table.records.len());
            return Err(Reject::new(Code::QueueFull, message));
        }
        let (born_unix_ms, seen_unix_ms) = (now_unix_ms, now_unix_ms);
        let record = QueueRecord { id: id.clone(), born_unix_ms, seen_unix_ms, begin };
        if journal.push(Write::Queue(record.clone()), None).is_err() {
            let message = "more waits for the disk than the journal may hold";
            return Err(Reject::new(Code::Overloaded, message).retry_after(100));
        }
        table.insert(record);
        Ok(true)
    }

    /// A queue that was made known did not begin after all.
    pub(crate) fn forget(&self, id: &QueueId, journal: &Journal) {
        self.table().remove(id);
        if journal.push(Write::NoQueue { id: id.clone() }, None).is_err() {
            tracing::debug!(queue = %id, "the journal has no room to forget a queue");
        }
    }

    pub(crate) fn get(&self, id: &QueueId) -> Option<Arc<QueueRecord>> {
        self.table().records.get(id).cloned()
    }

    /// Whether a queue that has no members now reads later what is stored for this address.
    pub(crate) fn reads_later(&self, to: &Address) -> bool {
        !self.table().patterns.matches(to).is_empty()
    }

    /// The last member has left.
    pub(crate) fn handle_left(&self, id: &QueueId, (now_unix_ms, journal): (u64, &Journal)) {
        self.table().see(id, (now_unix_ms, journal));
    }

    /// Forgets queues that had no members for long. Looks once a minute.
    pub(crate) fn tend(&self, registry: &Registry, (now_unix_ms, journal): (u64, &Journal)) {
        let mut table = self.table();
        if now_unix_ms < table.tended_unix_ms.saturating_add(TEND_EVERY_MS) {
            return;
        }
        table.tended_unix_ms = now_unix_ms;
        let is_due =
            |record: &Arc<QueueRecord>| now_unix_ms >= record.seen_unix_ms.saturating_add(SEEN_EVERY_MS);
        let due: Vec<_> = table.records.values().filter(|record| is_due(record)).cloned().collect();
        for record in due {
            if registry.queue(&record.id).is_some() {
                table.see(&record.id, (now_unix_ms, journal));
            } else if now_unix_ms >= record.seen_unix_ms.saturating_add(limits::QUEUE_UNATTENDED_MS_MAX)
                && journal.push(Write::NoQueue { id: record.id.clone() }, None).is_ok()
            {
                tracing::info!(queue = %record.id, "a queue without members is forgotten");
                table.remove(&record.id);
            }
        }
    }

    /// Brings back a queue of an earlier run. False without room.
    pub(crate) fn restore(&self, record: QueueRecord) -> bool {
        let mut table = self.table();
        if table.records.len() >= limits::KEPT_QUEUES_MAX {
            return false;
        }
        table.insert(record);
        true
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }
}

impl Table {
    fn insert(&mut self, record: QueueRecord) {
        *self.patterns.entry(record.id.pattern()) += 1;
        self.records.insert(record.id.clone(), Arc::new(record));
    }

    fn remove(&mut self, id: &QueueId) {
        if self.records.remove(id).is_some()
            && let Some(count) = self.patterns.get_mut(id.pattern())
        {
            *count -= 1;
            if *count == 0 {
                self.patterns.remove(id.pattern());
            }
        }
    }

    /// The queue has, or had until now, members.
    fn see(&mut self, id: &QueueId, (now_unix_ms, journal): (u64, &Journal)) {
        let Some(record) = self.records.get_mut(id) else { return };
        *record = Arc::new(QueueRecord { seen_unix_ms: now_unix_ms, ..(**record).clone() });
        if journal.push(Write::Queue((**record).clone()), None).is_err() {
            tracing::debug!(queue = %id, "the journal has no room for when a queue had members");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::worker::mailbox::Mailboxes;
    use waspmq_core::{Name, Pattern, SessionId, registry};
    use waspmq_store::Store;

    fn id(index: usize) -> QueueId {
        QueueId::new(Pattern::parse("topic/a.*").unwrap(), Name::parse(&format!("q{index}")).unwrap())
    }

    struct Bench {
        queues: KeptQueues,
        registry: Registry,
        store: Arc<dyn Store>,
        journal: Journal,
    }

    impl Bench {
        fn new() -> Self {
            let (store, journal) =
                crate::storage::in_memory::open(Clock::new(), &Arc::new(Mailboxes::new(1)));
            Self { queues: KeptQueues::new(3), registry: Registry::new(1, 0), store, journal }
        }

        fn open(&self, index: usize, begin: QueueBegin, now_unix_ms: u64) -> Result<bool, Reject> {
            self.queues.open(&id(index), begin, (now_unix_ms, &self.journal))
        }

        fn tend(&self, now_unix_ms: u64) {
            self.queues.tend(&self.registry, (now_unix_ms, &self.journal));
        }

        /// Names and times of the records in the store.
        fn stored(&self) -> Vec<(String, u64)> {
            let (done, wait) = std::sync::mpsc::channel();
            self.journal.read(Box::new(move |_| done.send(()).unwrap())).unwrap();
            wait.recv().unwrap();
            let mut found = Vec::new();
            let mut each = |queue: QueueRecord| found.push((queue.id.name().to_string(), queue.seen_unix_ms));
            self.store.queues(&mut each).unwrap();
            found
        }
    }

    #[test]
    fn a_queue_begins_where_its_first_subscriber_says() {
        let bench = Bench::new();
        assert_eq!(bench.open(1, QueueBegin::Earliest, 10), Ok(true));
        assert_eq!(bench.open(1, QueueBegin::Time(5), 20), Ok(false));
        let record = bench.queues.get(&id(1)).unwrap();
        assert_eq!(
            (&record.begin, record.born_unix_ms, record.seen_unix_ms),
            (&QueueBegin::Earliest, 10, 20)
        );
        assert_eq!(bench.stored(), [("q1".to_owned(), 10)]);
        bench.open(2, QueueBegin::Earliest, 10).unwrap();
        bench.queues.forget(&id(2), &bench.journal);
        assert_eq!((bench.stored().len(), bench.queues.get(&id(2))), (1, None));
        let reads = |to| bench.queues.reads_later(&Address::parse(to).unwrap());
        assert!(reads("topic/a.b") && !reads("topic/a") && !reads("topic/a.b.c"));
        assert!((0..100).map(|index| bench.queues.home(&id(index))).all(|home| home < 3));
    }

    #[test]
    fn a_queue_without_members_is_forgotten_in_the_end() {
        let bench = Bench::new();
        for index in [1, 2] {
            bench.open(index, QueueBegin::Earliest, 0).unwrap();
        }
        let user = Name::parse("u").unwrap();
        let session = registry::Session { id: SessionId::new(1, 0, 1), worker: 0, user, device: None };
        bench.registry.join_queue(&id(2), &session, Some(0)).unwrap();
        bench.queues.handle_left(&id(1), (1_000, &bench.journal));
        let age = limits::QUEUE_UNATTENDED_MS_MAX;
        bench.tend(age + 999);
        assert_eq!(bench.stored(), [("q1".to_owned(), 1_000), ("q2".to_owned(), age + 999)]);
        bench.tend(age + 1_000);
        assert_eq!(bench.stored().len(), 2, "once a minute");
        bench.tend(age + 999 + TEND_EVERY_MS);
        assert_eq!(bench.stored(), [("q2".to_owned(), age + 999)]);
        assert!(bench.queues.get(&id(1)).is_none() && bench.queues.get(&id(2)).is_some());
        assert!(bench.queues.reads_later(&Address::parse("topic/a.b").unwrap()), "the other");
    }

    #[test]
    fn one_more_than_there_may_be_is_refused() {
        let bench = Bench::new();
        let record = |index| QueueRecord {
            id: id(index),
            born_unix_ms: 1,
            seen_unix_ms: 1,
            begin: QueueBegin::Earliest,
        };
        assert!((0..limits::KEPT_QUEUES_MAX).all(|index| bench.queues.restore(record(index))));
        assert!(!bench.queues.restore(record(limits::KEPT_QUEUES_MAX)));
        bench.open(7, QueueBegin::Earliest, 5).unwrap();
        let refused = bench.open(limits::KEPT_QUEUES_MAX, QueueBegin::Earliest, 5).unwrap_err();
        assert_eq!(refused.code, Code::QueueFull);
    }
}
