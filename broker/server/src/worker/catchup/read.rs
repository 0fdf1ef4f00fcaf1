//! The part of catching up that runs on a reader thread: one page, or the list of addresses.

use super::{PAGE_MESSAGE_BYTES, PAGE_MESSAGES, Start, place};
use crate::worker::mailbox::{Entry, Mailboxes};
use std::time::Duration;
use waspmq_core::{Address, Kind, Name, Position};
use waspmq_store::{Page, Query, Store, StoreError};

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
                query.from_unix_ms = seen.map(|seen| seen.unix_ms);
                if seen.is_none() && since.is_none() {
                    // A user who was never seen has missed nothing.
                    query.after = Some(*before);
                }
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
    use super::*;
    use waspmq_core::Stream;
    use waspmq_core::registry::JoinedBy;
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

    #[test]
    fn of_the_first_session_only_its_beginning_is_known() {
        let store = MemoryStore::new(Bounds::default());
        let at = |offset| Position { stream: Stream { shard: 3, epoch: 2 }, offset };
        let [user, group] = ["bob", "eng"].map(|name| Name::parse(name).unwrap());
        let begin = |to: &Address| {
            let start = Start::CursorOrSeen { user: user.clone(), device: None, before: at(7) };
            read(&store, to, start, (1_000, 10)).0
        };
        let commit = |write: Write| store.commit(&[write], Durability::Synced).unwrap();
        let (user, since, by) = (user.clone(), at(4), JoinedBy::Operator);
        commit(Write::Member { group: group.clone(), user: user.clone(), since, by });
        commit(Write::FirstSeen { user: user.clone(), unix_ms: 5 });
        assert!(matches!(begin(&Address::all()), Start::Time(5)));
        let of_group = begin(&Address::group(&group));
        assert!(matches!(of_group, Start::After(after) if after == since), "{of_group:?}");
        commit(Write::LastSeen { user: user.clone(), unix_ms: 6 });
        let of_group = begin(&Address::group(&group));
        assert!(!matches!(of_group, Start::After(_)), "{of_group:?}");
    }
}
