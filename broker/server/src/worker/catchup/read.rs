//! The part of catching up that runs on a reader thread: one page, or the list of addresses.

use super::{PAGE_MESSAGE_BYTES, PAGE_MESSAGES, Start, before, place};
use crate::worker::mailbox::{Entry, Mailboxes};
use std::time::Duration;
use waspmq_core::{Address, Kind, Name, Position, limits};
use waspmq_store::{Page, Query, Seen, Store, StoreError};

/// Messages that may be published to an address while a session finds its last one before. More: it begins with these.
const LIVE_MAX: usize = 65_536;
/// How long a reader thread tries to hand its answer to a full mailbox.
const HAND_OVER_TRIES: u32 = 1_000;

/// Reads one page of at most `max_bytes`. Gives where it began, as what later reads find to be the same place whatever
/// is acknowledged meanwhile.
pub(super) fn read(
    store: &dyn Store,
    to: &Address,
    start: Start,
    (max_bytes, now_unix_ms): (usize, u64),
) -> (Start, Result<Page, StoreError>) {
    let mut query = Query {
        address: to.clone(),
        after: None,
        from_unix_ms: None,
        last: None,
        limit: PAGE_MESSAGES.min(max_bytes / PAGE_MESSAGE_BYTES).max(1),
        max_bytes,
        now_unix_ms,
    };
    let page = begin(store, to, &start, &mut query).and_then(|()| store.messages(&query));
    let begun = match (query.after, query.from_unix_ms) {
        (Some(after), None) => Start::After(after),
        (None, Some(unix_ms)) => Start::Time(unix_ms),
        (None, None) if query.last.is_none() => Start::Earliest,
        _ => start,
    };
    (begun, page)
}

fn begin(store: &dyn Store, to: &Address, start: &Start, query: &mut Query) -> Result<(), StoreError> {
    match start {
        Start::Cursor { user, device } => {
            // What was there before the user was a member is no message for them.
            query.after = later(store.cursor(user, device.as_ref(), to)?, member_since(store, user, to)?);
        }
        Start::CursorOrSeen { user, device, before } => {
            let cursor = store.cursor(user, device.as_ref(), to)?;
            let since = member_since(store, user, to)?;
            query.after = later(cursor, since);
            if cursor.is_none() {
                // Of a member who was seen first and no more, nobody knows how far they read what came since they are one.
                let seen = store.seen(user)?.filter(|seen| !seen.is_first || since.is_none());
                let begin = match seen {
                    Some(seen) => {
                        let from_unix_ms = missed_from_unix_ms(seen);
                        Some(behind_what_was_before(store, query, (from_unix_ms, *before))?)
                    }
                    // A user who was never seen has missed nothing.
                    None => since.is_none().then_some(*before),
                };
                query.after = later(query.after, begin);
            }
        }
        Start::CursorUpTo { user, device, upto } => {
            let cursor = store.cursor(user, device.as_ref(), to)?;
            query.after = Some(cursor.filter(|cursor| place(*cursor) < place(*upto)).unwrap_or(*upto));
        }
        Start::After(after) => query.after = Some(*after),
        Start::Earliest | Start::Seen(_) => {}
        Start::Last | Start::LastUpto(_) => query.last = Some(1),
        Start::LastBefore(first) => {
            let before = Position { offset: first.offset.saturating_sub(1), ..*first };
            let count = store.count_after(to, Some(before), LIVE_MAX)?;
            if count < LIVE_MAX {
                query.last = Some(count + 1);
            } else {
                query.after = Some(before);
            }
        }
        Start::Time(unix_ms) => query.from_unix_ms = Some(*unix_ms),
    }
    Ok(())
}

/// The earliest time of a message that a user has missed. What took its time before the last session ended may have taken its
/// position behind that, and comes again if it did not. What came before the first session is none of theirs.
const fn missed_from_unix_ms(Seen { unix_ms, is_first }: Seen) -> u64 {
    if is_first { unix_ms } else { unix_ms.saturating_sub(limits::PUBLISH_SKEW_MS) }
}

/// The position in front of the first message that was published at this time or later; at most `end`, behind which the session has
/// all: publishers take the time before the position, so that what comes behind its beginning may have an earlier time.
fn behind_what_was_before(
    store: &dyn Store,
    query: &Query,
    (unix_ms, end): (u64, Position),
) -> Result<Position, StoreError> {
    let first = store.messages(&Query { from_unix_ms: Some(unix_ms), limit: 1, ..query.clone() })?;
    let first = first.messages.first().map(|batch| before(batch.first));
    Ok(first.filter(|first| place(*first) < place(end)).unwrap_or(end))
}

fn later(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    one.into_iter().chain(other).max_by_key(|position| place(*position))
}

/// Since when a user is a member, where the address is a group's.
fn member_since(store: &dyn Store, user: &Name, to: &Address) -> Result<Option<Position>, StoreError> {
    if to.kind() != Kind::Group {
        return Ok(None);
    }
    let Ok(group) = Name::parse(to.name()) else { return Ok(None) };
    store.member_since(&group, user)
}

/// Hands an answer of a reader thread to a worker; waits for room for a while, because the session waits for it.
pub(in crate::worker) fn hand_over(mailboxes: &Mailboxes, worker: u8, mut entry: Entry) {
    for _ in 0..HAND_OVER_TRIES {
        match mailboxes.send(worker, entry) {
            Ok(()) => return,
            Err(back) => entry = back,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    tracing::error!(worker, "an answer of the store found no room and is lost");
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::batch;
    use super::*;
    use std::sync::Arc;
    use waspmq_core::Stream;
    use waspmq_core::message::Batch;
    use waspmq_core::registry::JoinedBy;
    use waspmq_core::settings::Retention;
    use waspmq_store::{Bounds, Durability, MemoryStore, Write};

    #[test]
    fn a_user_who_was_never_seen_begins_behind_the_position_before_the_session() {
        let store = MemoryStore::new(Bounds::default());
        let before = Position { stream: Stream { shard: 3, epoch: 2 }, offset: 7 };
        let (user, device) = (Name::parse("bob").unwrap(), None);
        let start = Start::CursorOrSeen { user, device, before };
        for now_unix_ms in [1, 1_000_000] {
            let (begun, page) = read(&store, &Address::all(), start.clone(), (1_000, now_unix_ms));
            assert!(matches!(begun, Start::After(after) if after == before), "{begun:?}");
            assert!(page.unwrap().messages.is_empty());
        }
    }

    /// A store with messages of each address, one a position from 1 on, published at these times.
    fn store_of(addresses: &[&Address], times_unix_ms: &[u64]) -> MemoryStore {
        let store = MemoryStore::new(Bounds::default());
        for to in addresses {
            for (offset, unix_ms) in (1..).zip(times_unix_ms) {
                let batch = batch(to, true, 1);
                let batch = Batch { first: at(offset), unix_ms: *unix_ms, ..Batch::clone(&batch) };
                let retention = Retention { age_ms: u64::MAX, ..Retention::default() };
                let write = Write::Messages { batch: Arc::new(batch), retention };
                store.commit(&[write], Durability::Buffered).unwrap();
            }
        }
        store
    }

    fn at(offset: u64) -> Position {
        Position { stream: Stream { shard: 3, epoch: 2 }, offset }
    }

    fn offsets(store: &MemoryStore, to: &Address, user: &Name, before: Position) -> Vec<u64> {
        let start = Start::CursorOrSeen { user: user.clone(), device: None, before };
        let page = read(store, to, start, (10_000, 10)).1.unwrap();
        page.messages.iter().map(|batch| batch.first.offset).collect()
    }

    #[test]
    fn of_the_first_session_only_its_beginning_is_known() {
        let [user, group] = ["bob", "eng"].map(|name| Name::parse(name).unwrap());
        let (all, of_group) = (Address::all(), Address::group(&group));
        let store = store_of(&[&all, &of_group], &[1, 2, 3, 4, 5, 6, 7, 8].map(|second| second * 1_000));
        let commit = |write: Write| store.commit(&[write], Durability::Synced).unwrap();
        commit(Write::Member { group, user: user.clone(), since: at(3), by: JoinedBy::Operator });
        commit(Write::FirstSeen { user: user.clone(), unix_ms: 6_000 });
        assert_eq!(offsets(&store, &all, &user, at(8)), [6, 7, 8]);
        assert_eq!(offsets(&store, &of_group, &user, at(8)), [4, 5, 6, 7, 8]);
        commit(Write::LastSeen { user: user.clone(), unix_ms: 7_900 });
        assert_eq!(offsets(&store, &of_group, &user, at(8)), [7, 8]);
    }

    #[test]
    fn what_comes_behind_the_beginning_of_a_session_comes_whatever_its_time_says() {
        let (user, all) = (Name::parse("bob").unwrap(), Address::all());
        // Its publisher took the time before the session began, and the position behind that.
        let store = store_of(&[&all], &[1, 2, 5, 4]);
        store.commit(&[Write::FirstSeen { user: user.clone(), unix_ms: 5 }], Durability::Synced).unwrap();
        assert_eq!(offsets(&store, &all, &user, at(3)), [3, 4]);
        assert_eq!(offsets(&store, &all, &user, at(2)), [3, 4]);
        let unix_ms = 6 + limits::PUBLISH_SKEW_MS;
        store.commit(&[Write::LastSeen { user: user.clone(), unix_ms }], Durability::Synced).unwrap();
        assert_eq!(offsets(&store, &all, &user, at(3)), [4]);
    }

    #[test]
    fn what_was_published_as_the_last_session_ended_is_not_passed_over() {
        let (user, all) = (Name::parse("bob").unwrap(), Address::all());
        // The last but one took its time a moment before the session ended, and its position behind that.
        let store = store_of(&[&all], &[1_000, 7_999, 8_001]);
        store.commit(&[Write::LastSeen { user: user.clone(), unix_ms: 8_000 }], Durability::Synced).unwrap();
        assert_eq!(offsets(&store, &all, &user, at(3)), [2, 3]);
        let cursor =
            Write::Cursor { user: user.clone(), device: None, address: all.clone(), position: at(2) };
        store.commit(&[cursor], Durability::Synced).unwrap();
        assert_eq!(offsets(&store, &all, &user, at(3)), [3], "whoever acknowledges is sent nothing again");
    }
}
