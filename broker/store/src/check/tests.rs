//! A repair that ends in the middle.

use super::*;
use crate::samples;
use crate::store::{Durability, Store, Write};
use std::fs;

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
    let (walked, _) = walk(&tables, &mut Report::default()).unwrap();
    build(&options, tables, &walked).unwrap();
    // The repair ends between the two renames, and what follows is a start.
    fs::rename(layout::db_path(&options.path), options.path.join("db.damaged-1")).unwrap();
    let (store, recovered) = FjallStore::open(options, &mut |_| {}).unwrap();
    assert_eq!((store.usage().messages, recovered.messages), (4, 4));
}
