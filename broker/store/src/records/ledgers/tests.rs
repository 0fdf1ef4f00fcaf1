//! That ledgers count, once each, and that there are never too many.

use super::*;
use crate::records::{Bounds, MemoryStore};
use crate::samples;
use crate::store::{Store as _, Usage, Write};
use waspmq_core::MessageId;
use waspmq_core::settings::Retention;

fn id(n: u64) -> MessageId {
    MessageId::new(n, 1, 0, n)
}

fn ledger(n: u64, bytes: usize) -> Write {
    Write::Ledger { id: id(n), body: vec![b'x'; bytes] }
}

fn commit(store: &MemoryStore, writes: &[Write]) {
    store.commit(writes, Durability::Buffered).unwrap();
}

fn is_there(store: &MemoryStore, n: u64) -> bool {
    store.ledger(id(n)).unwrap().is_some()
}

/// A store with the same records and no tally, as an earlier version leaves it.
fn of_an_earlier_version(mut store: MemoryStore) -> MemoryStore {
    let shelf = std::mem::take(&mut store.shelf);
    shelf.write(vec![removal(&KEY)], Durability::Buffered).unwrap();
    Records::over(shelf, Bounds::default(), Usage::default())
}

fn saved_bytes(store: &MemoryStore) -> u64 {
    LedgerTally::load(&store.shelf.view().unwrap()).unwrap().bytes
}

#[test]
fn ledgers_count_towards_the_bound_of_the_store() {
    let store = MemoryStore::new(Bounds { ledger_age_ms: 10, ..Bounds::default() });
    commit(&store, &[ledger(1, 100), ledger(2, 100)]);
    let two = store.usage().bytes;
    assert!(two > 200);
    commit(&store, &[ledger(2, 150)]);
    assert_eq!((store.usage().bytes, saved_bytes(&store)), (two + 50, two + 50), "each once");
    assert_eq!(store.maintain(12).unwrap().records, 1);
    assert_eq!(store.usage().bytes, two / 2 + 50);
    store.maintain(13).unwrap();
    assert_eq!((store.usage().bytes, saved_bytes(&store)), (0, 0));
}

#[test]
fn the_oldest_ledgers_go_where_there_are_too_many() {
    const COUNT: u64 = 1_000;
    let of_one = {
        let store = MemoryStore::new(Bounds::default());
        commit(&store, &[ledger(1, 100)]);
        store.usage().bytes
    };
    // Room for a hundred.
    let store = MemoryStore::new(Bounds { bytes: PART * of_one * 100, ..Bounds::default() });
    for n in 1..=COUNT {
        commit(&store, &[ledger(n, 100)]);
        assert!(store.usage().bytes <= of_one * 106);
    }
    // One whose delivery took long.
    commit(&store, &[ledger(0, 100)]);
    store.maintain(TOLD_EVERY_MS).unwrap();
    assert_eq!(store.usage().bytes, of_one * 100);
    let left: Vec<u64> = (0..=COUNT).filter(|n| is_there(&store, *n)).collect();
    assert_eq!(left, (COUNT - 99..=COUNT).collect::<Vec<_>>());
    assert_eq!(store.tallies.lock().unwrap().ledgers.removed, 0, "it was told");
    // Messages have what ledgers may not take.
    commit(&store, &[samples::message("user/a", 1, Retention::default())]);
}

#[test]
fn a_full_store_takes_no_ledgers_and_refuses_nothing_for_them() {
    let store = MemoryStore::new(Bounds { bytes: 1, ..Bounds::default() });
    let message = |offset| samples::message("user/a", offset, Retention::default());
    commit(&store, &[message(1)]);
    let bytes = store.usage().bytes;
    commit(&store, &[ledger(1, 1)]);
    assert_eq!((is_there(&store, 1), store.usage().bytes), (false, bytes));
    assert_eq!(store.tallies.lock().unwrap().ledgers.left_out, 1);
    store.maintain(TOLD_EVERY_MS).unwrap();
    assert_eq!(store.tallies.lock().unwrap().ledgers.left_out, 0, "it was told");
}

/// As behind one that cannot be read, or with another bound.
#[test]
fn there_are_not_more_where_the_oldest_do_not_go_at_once() {
    const COUNT: u64 = 2 * TRIM_MAX as u64;
    let mut store = MemoryStore::new(Bounds::default());
    commit(&store, &(1..=COUNT).map(|n| ledger(n, 1)).collect::<Vec<_>>());
    let usage = store.usage();
    let bounds = Bounds { bytes: PART * usage.bytes / COUNT * 10, ..Bounds::default() };
    store = Records::over(std::mem::take(&mut store.shelf), bounds, Usage { bytes: 0, ..usage });
    for n in COUNT + 1..=COUNT + 3 {
        assert_eq!(is_there(&store, 1), n == COUNT + 1, "the oldest go meanwhile");
        commit(&store, &[ledger(n, 1)]);
    }
    let left: Vec<u64> = (1..=COUNT + 3).filter(|n| is_there(&store, *n)).collect();
    assert_eq!(left, [(COUNT - 8..=COUNT).collect(), vec![COUNT + 3]].concat());
    assert_eq!(store.tallies.lock().unwrap().ledgers.left_out, 2);
}

#[test]
fn the_ledgers_of_an_earlier_version_are_counted_by_rounds() {
    const COUNT: u64 = ROUND_LEDGERS_MAX as u64 + 10;
    let store = MemoryStore::new(Bounds::default());
    commit(&store, &(1..=COUNT).map(|n| ledger(n, 1)).collect::<Vec<_>>());
    let all = store.usage().bytes;
    let of_one = all / COUNT;
    let store = of_an_earlier_version(store);
    assert_eq!(store.usage().bytes, 0);
    // Not counted yet, and again not counted twice.
    commit(&store, &[ledger(COUNT, 1), ledger(COUNT + 1, 1)]);
    assert_eq!(store.usage().bytes, 0);
    store.maintain(1).unwrap();
    assert_eq!(store.usage().bytes, of_one * ROUND_LEDGERS_MAX as u64);
    commit(&store, &[ledger(0, 1), ledger(1, 1), ledger(COUNT, 1)]);
    assert_eq!(store.usage().bytes, of_one * (ROUND_LEDGERS_MAX as u64 + 1));
    store.maintain(1).unwrap();
    assert_eq!((store.usage().bytes, saved_bytes(&store)), (all + 2 * of_one, all + 2 * of_one));
    store.maintain(1).unwrap();
    assert_eq!(store.usage().bytes, all + 2 * of_one);
}

#[test]
fn a_damaged_tally_is_made_anew() {
    let store = MemoryStore::new(Bounds::default());
    commit(&store, &[ledger(1, 1)]);
    let store = of_an_earlier_version(store);
    let damaged = Change { space: Space::State, key: KEY.to_vec(), value: Some(b"damaged".to_vec()) };
    store.shelf.write(vec![damaged], Durability::Buffered).unwrap();
    commit(&store, &[ledger(2, 1)]);
    store.count_at_start(|| true);
    assert_eq!((store.usage().bytes, saved_bytes(&store) > 2), (saved_bytes(&store), true));
}
