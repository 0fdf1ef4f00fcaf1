//! What goes, what stays, and that each round goes on where the one before ended.

use super::*;
use crate::records::{Bounds, MemoryStore};
use crate::samples;
use crate::shelf::Entries;
use crate::store::{DeadLetter, Store as _, Write};
use fjall::Slice;
use waspmq_core::settings::Retention;

fn commit(store: &MemoryStore, writes: &[Write]) {
    store.commit(writes, Durability::Buffered).unwrap();
}

/// A letter of a message that was published at 1.
fn letter(count: u64, unix_ms: u64) -> Write {
    let Write::Messages { batch, .. } = samples::message("user/a", count, Retention::default()) else {
        unreachable!()
    };
    let (cause, detail) = ("timeout".to_owned(), String::new());
    let id = MessageId::new(1, 1, 0, count);
    Write::DeadLetter(DeadLetter {
        id,
        recipient: "user/a".into(),
        unix_ms,
        cause,
        attempts: 1,
        detail,
        batch,
    })
}

#[test]
fn a_letter_stays_as_long_as_it_was_given_up_not_published() {
    let store = MemoryStore::new(Bounds { dead_letter_age_ms: 100, ..Bounds::default() });
    // More than a round looks at lie in front of the one that is old.
    let young = ROUND_RECORDS_MAX as u64;
    let writes: Vec<_> = (0..young).map(|n| letter(n, 1_000)).chain([letter(young, 899)]).collect();
    commit(&store, &writes);
    let count = || store.dead_letters(None, usize::MAX).unwrap().len() as u64;
    let bytes = store.usage().bytes;
    assert_eq!((store.maintain(1_000).unwrap().records, count()), (0, young + 1));
    assert_eq!((store.maintain(1_000).unwrap().records, count()), (1, young));
    assert!(store.usage().bytes < bytes);
    let removed = (0..2).map(|_| store.maintain(1_101).unwrap().records as u64).sum::<u64>();
    assert_eq!((removed, count(), store.usage().bytes), (young, 0, 0));
}

/// What a disk gives that cannot read the third of four records.
struct Unreadable;

impl View for Unreadable {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Slice>, StoreError> {
        Ok(None)
    }

    fn range(&self, _: Space, _: &[u8], _: &[u8]) -> Entries<'_> {
        let entry = |n: u8| match n {
            2 => Err(StoreError::Corrupt { what: "a table".into() }),
            _ => Ok(([n].into(), b"value".into())),
        };
        Box::new((0..4).map(entry))
    }
}

#[test]
fn what_is_old_goes_up_to_what_cannot_be_read() {
    let mut damage = Damage::default();
    let mut round = Round::new(&Unreadable, &mut damage);
    let freed = round.pass(&mut Vec::new(), (&[0], &[9], 9), |_, _| Ok(Verdict::Remove)).unwrap();
    assert_eq!((freed, round.changes.len()), (12, 2), "and what goes is what counts as freed");
    assert!(damage.is_met());
}
