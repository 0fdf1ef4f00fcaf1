//! Reading across a damaged record.

use super::*;
use crate::records::{Bounds, MemoryStore};
use crate::shelf::{Change, Shelf as _};
use crate::store::{Durability, Store as _, Write};
use waspmq_core::Level;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::settings::Retention;

fn at(offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch: 1 }, offset }
}

/// Five messages, one record each.
fn store() -> MemoryStore {
    let store = MemoryStore::new(Bounds::default());
    let retention = Retention { age_ms: u64::MAX, ..Retention::default() };
    for offset in 1..=5 {
        let mut batch = Batch {
            to: Address::all(),
            from: None,
            origin: None,
            exclude_origin: false,
            level: Level::Stored,
            is_kept: true,
            unix_ms: 1,
            published_us: 0,
            first: at(offset),
            messages: Vec::new(),
            bytes: Vec::new(),
        };
        let [payload, headers, key, reply_to] = [&b"1"[..], b"", b"", b""].map(|bytes| batch.store(bytes));
        let id = MessageId::new(1, 1, 0, offset);
        let (is_json, priority, expires_unix_ms) = (true, 0, 0);
        batch.messages =
            vec![Envelope { id, is_json, priority, expires_unix_ms, payload, headers, key, reply_to }];
        let write = Write::Messages { batch: Arc::new(batch), retention };
        store.commit(&[write], Durability::Buffered).unwrap();
    }
    store
}

fn damage(store: &MemoryStore, offset: u64) {
    let (space, key) = (Space::Messages, key::run("all", (1, offset)));
    let view = store.shelf.view().unwrap();
    let mut value = view.get(space, &key).unwrap().unwrap().to_vec();
    drop(view);
    *value.last_mut().unwrap() ^= 1;
    store.shelf.write(vec![Change { space, key, value: Some(value) }], Durability::Buffered).unwrap();
}

/// The offsets of a page behind a position, and whether there is more.
fn read(store: &MemoryStore, after: u64) -> Result<(Vec<u64>, bool), StoreError> {
    let query = Query {
        address: Address::all(),
        after: Some(at(after)),
        from_unix_ms: None,
        last: None,
        limit: 100,
        max_bytes: 10_000,
        now_unix_ms: 2,
    };
    let page = store.messages(&query)?;
    Ok((page.messages.iter().map(|batch| batch.first.offset).collect(), page.more))
}

#[test]
fn what_lies_in_front_of_a_damaged_record_is_given() {
    let store = store();
    assert_eq!(read(&store, 0), Ok((vec![1, 2, 3, 4, 5], false)));
    damage(&store, 4);
    assert_eq!(read(&store, 0), Ok((vec![1, 2, 3], true)));
    assert!(matches!(read(&store, 3), Err(StoreError::Corrupt { .. })), "the damage itself is an error");
    assert_eq!(read(&store, 4), Ok((vec![5], false)));
    damage(&store, 1);
    assert!(matches!(read(&store, 0), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_dead_letter_that_is_kept_under_its_recipient_alone_is_read_and_removed() {
    let store = store();
    let Write::Messages { batch, .. } = crate::samples::message("topic/o1", 7, Retention::default()) else {
        panic!("messages")
    };
    let letter = DeadLetter {
        id: MessageId::new(1, 1, 0, 7),
        recipient: "user/r".to_owned(),
        unix_ms: 5,
        cause: "nack".to_owned(),
        attempts: 1,
        detail: String::new(),
        batch,
    };
    let key = key::dead_letter(letter.id, &letter.recipient);
    let value = Some(record::dead_letter(&key, &letter).unwrap());
    store.shelf.write(vec![Change { space: Space::State, key, value }], Durability::Buffered).unwrap();
    let found = || store.dead_letters(None, 9).unwrap();
    assert_eq!((&*found()[0].recipient, found()[0].place()), ("user/r", letter.place()));
    assert_eq!(store.dead_letters(Some((letter.id, &letter.place())), 9).unwrap().len(), 0);
    let remove = |place: &str| {
        let write = Write::NoDeadLetter { id: letter.id, place: place.to_owned() };
        store.commit(&[write], Durability::Buffered).unwrap();
        found().len()
    };
    assert_eq!(remove("user/r\0topic/o2"), 1, "of another address");
    assert_eq!(remove(&letter.place()), 0);
}
