//! Messages are found by their id alone.

use crate::support::*;
use proptest::prelude::*;
use std::sync::Arc;
use waspmq_core::MessageId;
use waspmq_core::message::Batch;
use waspmq_core::settings::Retention;
use waspmq_store::{Bounds, Durability, Found, MemoryStore, Search, Store, Write};

fn search(id: MessageId) -> Search {
    Search { id, looks_max: usize::MAX, now_unix_ms: 0 }
}

/// A batch whose ids say in which run of the broker it was published.
fn published(to: &str, (epoch, offset): (u32, u64), count: u64, unix_ms: u64) -> Batch {
    let mut batch = batch(to, at(epoch, offset), count, unix_ms);
    for (message, offset) in batch.messages.iter_mut().zip(offset..) {
        message.id = MessageId::new(unix_ms, epoch, 2, offset);
    }
    batch
}

#[track_caller]
fn check(store: &dyn Store, id: MessageId, expected: Option<(&str, u64)>) {
    match (store.find(&search(id)).unwrap(), expected) {
        (Found::Message(found), Some((to, offset))) => {
            assert_eq!((found.to.as_str(), found.first.offset), (to, offset));
            assert_eq!((found.messages.len(), found.messages[0].id), (1, id));
        }
        (Found::Nowhere, None) => {}
        (found, expected) => panic!("{id}: {found:?}, not {expected:?}"),
    }
}

#[test]
fn a_message_is_found_wherever_it_is() {
    on_both(|store| {
        let mut ids = Vec::new();
        for (epoch, hour) in [(1, 0), (2, 10)] {
            for run in 0..40 {
                for (index, to) in (0..).zip(["all", "group/eng", "topic/a.b", "topic/a.c", "user/bob"]) {
                    let unix_ms = (hour * 3_600 + run * 60 + index) * 1_000;
                    let batch = published(to, (epoch, run * 1_000 + index * 10), 3, unix_ms);
                    let offsets = batch.first.offset..;
                    let found = batch.messages.iter().zip(offsets);
                    ids.extend(found.map(|(message, offset)| (message.id, to, offset)));
                    put(store, batch);
                }
            }
        }
        for (id, to, offset) in ids {
            check(store, id, Some((to, offset)));
        }
        for (unix_ms, epoch) in [(0, 1), (1_000, 3), (60_000, 2), (39_000_000, 2), (u64::MAX >> 20, 1)] {
            check(store, MessageId::new(unix_ms, epoch, 2, 99), None);
        }
    });
}

#[test]
fn what_is_gone_is_not_found() {
    on_both(|store| {
        let short = Retention { count: 4, ..LONG };
        let old = published("topic/a", (1, 1), 3, 1_000);
        let new = published("topic/a", (1, 4), 3, 1_000);
        let ids: Vec<_> = old.messages.iter().chain(&new.messages).map(|message| message.id).collect();
        store.commit(&[messages(old, short), messages(new, short)], Durability::Buffered).unwrap();
        let kept: Vec<_> =
            ids.iter().map(|id| matches!(store.find(&search(*id)), Ok(Found::Message(_)))).collect();
        assert_eq!(kept, [false, false, true, true, true, true], "removed by retention");
        let late = Search { now_unix_ms: LONG.age_ms + 1_001, ..search(ids[5]) };
        assert!(matches!(store.find(&late), Ok(Found::Nowhere)), "too old");
        let mut brief = batch_of("user/a", at(1, 1), 5_000, vec![("x".into(), 6_000)]);
        brief.messages[0].id = id(5_000, 1);
        put(store, brief);
        check(store, id(5_000, 1), Some(("user/a", 1)));
        let late = Search { now_unix_ms: 6_000, ..search(id(5_000, 1)) };
        assert!(matches!(store.find(&late), Ok(Found::Nowhere)), "expired");
    });
}

#[test]
fn a_search_is_bounded_and_says_so() {
    let store = MemoryStore::new(Bounds::default());
    for number in 0..100 {
        put(&store, published(&format!("user/u{number:03}"), (1, number * 10 + 1), 1, number * 60_000));
    }
    let id = |number: u64| MessageId::new(number * 60_000, 1, 2, number * 10 + 1);
    let with = |looks_max, number| store.find(&Search { looks_max, ..search(id(number)) }).unwrap();
    assert!(matches!(with(10, 0), Found::Message(_)), "the first address");
    assert!(matches!(with(10, 99), Found::Unfinished));
    // Two or three records for each address, and a few for the one that has it.
    assert!(matches!(with(310, 99), Found::Message(_)));
    assert!(matches!(with(0, 0), Found::Unfinished));
}

#[test]
fn what_waits_for_its_time_is_found_there() {
    on_both(|store| {
        let delayed = |count: u64, due_unix_ms| {
            let batch = published("topic/a", (1, count), 1, 5_000);
            Write::Delayed { due_unix_ms, batch: Arc::new(batch) }
        };
        let writes: Vec<_> = (1..=9).map(|count| delayed(count, 5_000 + count)).collect();
        store.commit(&writes, Durability::Buffered).unwrap();
        let id = |count| MessageId::new(5_000, 1, 2, count);
        let find = |count, looks_max| {
            let found = store.find_delayed(&Search { looks_max, ..search(id(count)) }).unwrap();
            match found {
                Found::Delayed(found) => {
                    assert_eq!((found.batch.to.as_str(), found.batch.messages[0].id), ("topic/a", id(count)));
                    format!("due at {}", found.due_unix_ms)
                }
                other => format!("{other:?}"),
            }
        };
        assert_eq!((find(1, 1), find(9, 9)), ("due at 5001".into(), "due at 5009".into()));
        assert_eq!((find(9, 8), find(10, 9)), ("Unfinished".into(), "Nowhere".into()));
        assert!(matches!(store.find(&search(id(1))).unwrap(), Found::Nowhere));
    });
}

#[test]
fn a_long_history_takes_few_looks() {
    let store = MemoryStore::new(Bounds::default());
    // Busy in the morning, quiet in the afternoon.
    let unix_ms = |run: u64| if run < 9_000 { run * 100 } else { 900_000 + (run - 9_000) * 60_000 };
    for run in 0..10_000 {
        put(&store, published("topic/a", (1, run * 7 + 1), 1, unix_ms(run)));
    }
    for run in [0, 1, 17, 4_500, 8_999, 9_000, 9_001, 9_500, 9_999] {
        let id = MessageId::new(unix_ms(run), 1, 2, run * 7 + 1);
        let found = store.find(&Search { looks_max: 70, ..search(id) }).unwrap();
        assert!(matches!(found, Found::Message(_)), "{run}: {found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Clocks step, neighbours are swapped, addresses share a shard's offsets.
    #[test]
    fn every_message_is_found_and_nothing_else(
        runs in prop::collection::vec((0_usize..4, 0_u64..3_000, 0_u64..900, 1_u64..4), 1..60)
    ) {
        let store = MemoryStore::new(Bounds::default());
        let (mut offset, mut clock, mut ids) = (1, 10_000, Vec::new());
        for (address, step_ms, early_ms, count) in runs {
            let to = ["topic/a", "topic/b", "user/a", "all"][address];
            clock += step_ms;
            put(&store, published(to, (1, offset), count, clock - early_ms));
            ids.extend((offset..offset + count).map(|offset| (MessageId::new(clock - early_ms, 1, 2, offset), to, offset)));
            offset += count;
        }
        for (id, to, offset) in ids {
            check(&store, id, Some((to, offset)));
            check(&store, MessageId::new(id.unix_ms(), 1, 3, id.count()), None);
        }
    }
}
