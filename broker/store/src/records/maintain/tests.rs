//! Rounds that meet damage, and a shelf that does not take what is to be saved.

use crate::key;
use crate::records::{Bounds, MemoryStore, Records};
use crate::samples;
use crate::shelf::{Change, Memory, MemoryView, Shelf, Space, View};
use crate::store::{Durability, ResumeRecord, Store as _, StoreError, Usage, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, MessageId};

fn message(to: &str, offset: u64) -> Write {
    samples::message(to, offset, Retention { age_ms: 10, ..Retention::default() })
}

/// Cuts off most of the first record between two keys.
fn damage(store: &MemoryStore, space: Space, (from, to): (&[u8], &[u8])) {
    let (key, value) = {
        let view = store.shelf.view().unwrap();
        View::range(&view, space, from, to).next().unwrap().unwrap()
    };
    let change = Change { space, key: key.to_vec(), value: Some(value.get(..3).unwrap().to_vec()) };
    store.shelf.write(vec![change], Durability::Buffered).unwrap();
}

#[test]
fn damage_stops_retention_where_it_is_and_nowhere_else() {
    let store = MemoryStore::new(Bounds { ledger_age_ms: 10, ..Bounds::default() });
    let resume = |n| Write::Resume(ResumeRecord { token_hash: [n; 32], expires_unix_ms: 9, body: vec![n] });
    let ledger = Write::Ledger { id: MessageId::new(1, 1, 0, 1), body: vec![1] };
    let addresses = ["user/a", "user/b", "user/c"];
    let mut writes: Vec<_> = addresses.iter().map(|to| message(to, 1)).collect();
    writes.extend([resume(1), resume(2), ledger]);
    store.commit(&writes, Durability::Buffered).unwrap();
    // What is known of them is read again.
    store.forget(&mut store.tallies.lock().unwrap()).unwrap();
    damage(&store, Space::Messages, (&key::run("user/a", (0, 0)), &key::runs_end("user/a")));
    damage(&store, Space::State, (&key::address("user/b"), &key::address("user/c")));
    damage(&store, Space::State, (&[key::RESUME], &[key::RESUME + 1]));
    for _ in 0..2 {
        let error = store.maintain(1_000).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
    let last = |to: &str| store.last(&Address::parse(to).unwrap());
    assert!(last("user/a").is_err() && last("user/b").is_err());
    assert_eq!(last("user/c"), Ok(None));
    assert_eq!(store.ledger(MessageId::new(1, 1, 0, 1)).unwrap(), None);
    assert!(store.resume(&[1; 32]).is_err());
    assert_eq!(store.resume(&[2; 32]).unwrap(), None);
}

/// A shelf in memory that can refuse.
#[derive(Debug, Default)]
struct Refusing {
    inner: Memory,
    refuses: AtomicBool,
}

impl Shelf for Refusing {
    type View<'a> = MemoryView<'a>;

    fn view(&self) -> Result<MemoryView<'_>, StoreError> {
        self.inner.view()
    }

    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), StoreError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable { reason: "refused".into() });
        }
        self.inner.write(changes, durability)
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn room(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn what_was_not_saved_counts_once_all_the_same() {
    let store = Records::over(Refusing::default(), Bounds::default(), Usage::default());
    let put = |offset| store.commit(&[message("user/a", offset)], Durability::Buffered);
    (1..=3).for_each(|offset| put(offset).unwrap());
    let usage = store.usage();
    store.shelf.refuses.store(true, Ordering::Relaxed);
    store.maintain(2).unwrap_err();
    store.forget(&mut store.tallies.lock().unwrap()).unwrap_err();
    // What is known of the address is forgotten with this, and read again.
    put(4).unwrap_err();
    store.shelf.refuses.store(false, Ordering::Relaxed);
    put(4).unwrap();
    assert_eq!((usage.messages, store.usage().messages), (3, 4));
    assert!(store.usage().bytes < 2 * usage.bytes, "{:?}", store.usage());
}
