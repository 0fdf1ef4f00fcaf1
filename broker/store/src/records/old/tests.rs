//! What goes, what stays, and that each round goes on where the one before ended.

use super::*;
use crate::records::{Bounds, MemoryStore};
use crate::samples;
use crate::shelf::Entries;
use crate::store::{DeadLetter, Store as _, Write};
use fjall::Slice;
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Name, Position, Stream};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

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

fn at(offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch: 1 }, offset }
}

fn cursor(of: &str, offset: u64) -> [Write; 2] {
    let (user, address, position) = (name("u"), address(of), at(offset));
    let device = Some(name("d"));
    [
        Write::Cursor { user: user.clone(), device, address: address.clone(), position },
        Write::ReadMark { user, address, position },
    ]
}

/// Cursor and read mark in an address.
fn known(store: &MemoryStore, of: &str) -> [Option<u64>; 2] {
    let (user, device, of) = (name("u"), name("d"), address(of));
    [store.cursor(&user, Some(&device), &of).unwrap(), store.read_mark(&user, &of).unwrap()]
        .map(|found| found.map(|position| position.offset))
}

#[test]
fn cursors_and_marks_with_nothing_to_say_go_when_that_is_long_ago() {
    let store = MemoryStore::new(Bounds::default());
    // Of the messages of `user/a` the last two stay, of the others nothing was ever stored.
    let retention = Retention { count: 2, age_ms: u64::MAX, bytes: u64::MAX };
    for offset in 1..=4 {
        commit(&store, &[samples::message("user/a", offset, retention)]);
    }
    let maintain = |now_unix_ms| store.maintain(now_unix_ms).unwrap().records;
    commit(&store, &[cursor("user/a", 2), cursor("user/b", 1)].concat());
    assert_eq!(maintain(1), 0);
    commit(&store, &[cursor("user/a", 1), cursor("user/b", 2)].concat());
    commit(&store, &[samples::message("user/a", 5, retention)]);
    // What was written anew has no note any more; the cursor in `user/a` is behind from now on.
    assert_eq!(maintain(CURSOR_AGE_MS), 0);
    assert_eq!(maintain(2 * CURSOR_AGE_MS - 1), 0);
    assert_eq!((known(&store, "user/a"), known(&store, "user/b")), ([Some(2); 2], [Some(2); 2]));
    assert_eq!(maintain(2 * CURSOR_AGE_MS), 4);
    assert_eq!((known(&store, "user/a"), known(&store, "user/b")), ([None; 2], [None; 2]));

    commit(&store, &cursor("user/a", 3));
    assert_eq!((maintain(3 * CURSOR_AGE_MS), maintain(u64::MAX / 2)), (0, 0), "there is something behind it");
    assert_eq!(known(&store, "user/a"), [Some(3); 2]);
}

#[test]
fn devices_stay_known_where_little_is_published_to_many() {
    let store = MemoryStore::new(Bounds::default());
    let shared = ["all", "group/g"];
    shared.iter().for_each(|of| commit(&store, &cursor(of, 1)));
    let records = |now_unix_ms| store.maintain(now_unix_ms).unwrap().records;
    assert_eq!((records(1), records(CURSOR_AGE_MS + 1), records(LAST_SEEN_AGE_MS)), (0, 0, 0));
    assert_eq!(shared.map(|of| known(&store, of)), [[Some(1); 2]; 2]);
    assert_eq!(records(LAST_SEEN_AGE_MS + 1), 4);
    assert_eq!(shared.map(|of| known(&store, of)), [[None; 2]; 2]);
}

#[test]
fn a_note_goes_where_there_is_something_to_say_again() {
    let store = MemoryStore::new(Bounds::default());
    commit(&store, &cursor("user/a", 1));
    store.maintain(1).unwrap();
    commit(&store, &[samples::message("user/a", 2, Retention::default())]);
    store.maintain(2).unwrap();
    let view = store.shelf.view().unwrap();
    let key = key::cursor(&name("u"), Some(&name("d")), &address("user/a"));
    let value = view.get(Space::State, &key).unwrap().unwrap();
    assert_eq!(record::parse_place(&key, &value).unwrap(), (at(1), None));
}

#[test]
fn who_was_not_seen_for_a_year_was_never_seen() {
    let store = MemoryStore::new(Bounds::default());
    let seen = |user: &str, unix_ms| Write::LastSeen { user: name(user), unix_ms };
    commit(&store, &[seen("early", 9), seen("late", 10)]);
    assert_eq!(store.maintain(LAST_SEEN_AGE_MS + 10).unwrap().records, 1);
    let seen = ["early", "late"].map(|user| store.last_seen(&name(user)).unwrap());
    assert_eq!(seen, [None, Some(10)]);
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
