//! Any sequence of commits, trims and reads, against a list.

use crate::support::*;
use proptest::prelude::*;
use waspmq_core::settings::Retention;
use waspmq_store::{Bounds, Durability, MemoryStore, Query, Store};

const ADDRESSES: [&str; 3] = ["user/a", "topic/a", "topic/a.b"];

#[derive(Debug, Clone)]
enum Step {
    /// Address, messages, whether a new epoch begins, and the time that has passed.
    Put(usize, u64, bool, u64),
    Maintain,
    /// The store is opened again.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize, 1..6_u64, prop::bool::weighted(0.1), 0..50_u64).prop_map(|(to, n, epoch, time)| Step::Put(to, n, epoch, time)),
        1 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
    ]
}

/// What an address should hold: places and times.
#[derive(Default)]
struct Model {
    kept: Vec<((u32, u64), u64)>,
    removed: Option<(u32, u64)>,
}

impl Model {
    fn trim(&mut self, retention: Retention, now: u64) {
        while self.kept.len() as u64 > retention.count
            || self.kept.first().is_some_and(|(_, time)| now > time + retention.age_ms)
        {
            self.removed = Some(self.kept.remove(0).0);
        }
    }
}

fn check(store: &dyn Store, models: &[Model], now: u64, after: (u32, u64)) {
    for (to, model) in ADDRESSES.iter().zip(models) {
        let all = Query { now_unix_ms: now, ..query(to) };
        let expected: Vec<_> = model.kept.iter().map(|(place, _)| *place).collect();
        assert_eq!(places(store, &all), expected, "{to}");
        let rest: Vec<_> = expected.iter().copied().filter(|place| *place > after).collect();
        let position = at(after.0, after.1);
        let page = store.messages(&Query { after: Some(position), limit: 3, ..all.clone() }).unwrap();
        let found: Vec<_> = page.messages.iter().map(|m| (m.first.stream.epoch, m.first.offset)).collect();
        assert_eq!(found, rest[..rest.len().min(3)], "{to} behind {after:?}");
        assert_eq!(page.more, rest.len() > 3);
        assert_eq!(page.gap, model.removed.is_some_and(|removed| removed > after));
        let newest = places(store, &Query { last: Some(4), ..all });
        assert_eq!(newest, expected[expected.len().saturating_sub(4)..]);
        let last = store.last(&address(to)).unwrap();
        assert_eq!(last.map(|p| (p.stream.epoch, p.offset)), expected.last().copied());
        let first = store.first(&address(to)).unwrap();
        assert_eq!(first.map(|p| (p.stream.epoch, p.offset)), expected.first().copied());
        assert_eq!(store.count_after(&address(to), Some(position), 5).unwrap(), rest.len().min(5));
    }
    let total: usize = models.iter().map(|model| model.kept.len()).sum();
    assert_eq!(store.usage().messages, total as u64);
}

fn run(
    steps: Vec<Step>,
    count: u64,
    after: (u32, u64),
    mut store: Box<dyn Store>,
    reopen: &dyn Fn(Box<dyn Store>) -> Box<dyn Store>,
) {
    let retention = Retention { age_ms: 100, count, bytes: u64::MAX };
    let mut models = [Model::default(), Model::default(), Model::default()];
    let (mut epoch, mut offset, mut now) = (1, 1, 1_000);
    for step in steps {
        match step {
            Step::Put(to, n, new_epoch, time) => {
                now += time;
                if new_epoch {
                    (epoch, offset) = (epoch + 1, 0);
                }
                let write = messages(batch(ADDRESSES[to], at(epoch, offset), n, now), retention);
                store.commit(&[write], Durability::Buffered).unwrap();
                models[to].kept.extend((0..n).map(|i| ((epoch, offset + i), now)));
                models[to].trim(retention, 0);
                offset += n + 2;
            }
            Step::Maintain => {}
            Step::Reopen => store = reopen(store),
        }
        // Saves what a crash would lose count of, and removes what is too old.
        store.maintain(now).unwrap();
        for model in &mut models {
            model.trim(retention, now);
        }
        check(&*store, &models, now, after);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn memory_is_a_list(steps in prop::collection::vec(step(), 1..40), count in 1..16_u64, after in (1..3_u32, 0..40_u64)) {
        run(steps, count, after, Box::new(MemoryStore::new(Bounds::default())), &|store| store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn disk_is_a_list(steps in prop::collection::vec(step(), 1..40), count in 1..16_u64, after in (1..3_u32, 0..40_u64)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        run(steps, count, after, Box::new(open(&path)), &|store| {
            drop(store);
            Box::new(open(&path))
        });
    }
}
