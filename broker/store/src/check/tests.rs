//! A repair that ends in the middle, and damage of a record that a start passes over.

use super::*;
use crate::samples;
use crate::store::{Durability, Store, StoreError, Write};
use std::fs;
use waspmq_core::dedup::{Key, Remembered};
use waspmq_core::{Level, MessageId};

fn message(offset: u64) -> Write {
    samples::message("user/a", offset, Retention::default())
}

#[test]
fn a_database_that_was_built_is_counted_before_it_can_be_put_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::new(directory.path().join("store")) };
    let (store, _) = FjallStore::open(options.clone(), &mut |_| {}).unwrap();
    for offset in 0..5 {
        store.commit(&[message(offset)], Durability::Synced).unwrap();
    }
    drop(store);
    let tables = open_database(&options).unwrap();
    let (first, _) = tables.messages.iter().next().unwrap().into_inner().unwrap();
    tables.messages.insert(&*first, "damaged").unwrap();
    let walked = walk(&tables, &mut Report::default()).unwrap();
    build(&options, tables, &walked).unwrap();
    // The repair ends between the two renames, and what follows is a start.
    fs::rename(layout::db_path(&options.path), options.path.join("db.damaged-1")).unwrap();
    let (store, recovered) = FjallStore::open(options, &mut |_| {}).unwrap();
    assert_eq!((store.usage().messages, recovered.messages), (4, 4));
}

#[test]
fn a_damaged_dedup_key_is_found_and_costs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::new(directory.path().join("store")) };
    let (store, _) = FjallStore::open(options.clone(), &mut |_| {}).unwrap();
    let key = |number| {
        let answer =
            Remembered { id: MessageId::new(1, 1, 0, number), recipients: 0, level: Level::Accepted };
        Key { shard: 7, number, text: "u#user/a#k".into(), answer }
    };
    let writes = [1, 2].map(|number| message(number).with_key(Some(key(number))));
    store.commit(&writes, Durability::Synced).unwrap();
    drop(store);
    let tables = open_database(&options).unwrap();
    tables.state.insert(key::dedup(7, 1), "damaged").unwrap();
    drop(tables);
    assert_eq!(check(&options.path).unwrap().damaged, 1);
    let read = || {
        let (store, _) = FjallStore::open(options.clone(), &mut |_| {}).unwrap();
        let free = Write::NoDedupKey { shard: 7, number: 1, id: key(1).answer.id };
        (store.dedup_keys(7).unwrap(), store.commit(&[free], Durability::Buffered))
    };
    let (found, freed) = read();
    assert_eq!(found, (vec![key(2)], 1));
    assert!(matches!(freed, Err(StoreError::Corrupt { .. })), "{freed:?}");
    assert_eq!(repair(&options.path).unwrap().removed.len(), 1);
    assert_eq!(read(), ((vec![key(2)], 0), Ok(())));
}
