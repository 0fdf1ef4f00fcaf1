//! What every store does.

use crate::support::*;
use std::sync::Arc;
use waspmq_core::dedup::Key;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::registry::JoinedBy;
use waspmq_core::settings::Retention;
use waspmq_core::{Name, Pattern, limits};
use waspmq_store::{
    Bounds, DeadLetter, Delayed, Durability, Member, MemoryStore, Query, QueueBegin, QueueRecord,
    ResumeRecord, Store, StoreError, Write,
};

#[test]
fn messages_read_back_as_published() {
    on_both(|store| {
        let mut written = batch("user/bob", at(1, 5), 3, 1_000);
        put(store, written.clone());
        written.is_kept = false;
        (written.from, written.origin, written.exclude_origin) = (None, None, false);
        written.first = at(1, 8);
        put(store, written.clone());
        let page = store.messages(&query("user/bob")).unwrap();
        assert_eq!((page.messages.len(), page.more, page.gap), (6, false, false));
        for (index, read) in page.messages.iter().enumerate() {
            let (stored, given) = (written.messages[index % 3], read.messages[0]);
            assert_eq!(read.first, at(1, 5 + index as u64));
            assert_eq!((&read.to, read.level, read.unix_ms), (&written.to, written.level, 1_000));
            assert_eq!(
                (read.from.is_some(), read.origin.is_some(), read.exclude_origin),
                (index < 3, index < 3, index < 3)
            );
            assert!(read.is_kept && read.messages.len() == 1);
            assert_eq!(
                (given.id, given.is_json, given.priority),
                (stored.id, stored.is_json, stored.priority)
            );
            for (a, b) in [
                (given.payload, stored.payload),
                (given.headers, stored.headers),
                (given.key, stored.key),
                (given.reply_to, stored.reply_to),
            ] {
                assert_eq!(read.slice(a), written.slice(b));
            }
        }
        assert_eq!(page.messages[0].origin, batch("all", at(1, 0), 1, 0).origin);
        assert_eq!(page.messages[0].from, Some(name("alice")));
    });
}

#[test]
fn addresses_do_not_mix() {
    on_both(|store| {
        for (index, to) in
            ["topic/a", "topic/a.b", "topic/a-", "topic/aa", "user/a", "all"].iter().enumerate()
        {
            put(store, batch(to, at(1, index as u64), 1, 0));
        }
        assert_eq!(offsets(store, &query("topic/a")), [0]);
        assert_eq!(offsets(store, &query("topic/a.b")), [1]);
        assert_eq!(offsets(store, &query("all")), [5]);
        assert_eq!(offsets(store, &query("topic/b")), [0; 0]);
        let found_behind = |pattern: &str, after: Option<&str>, most| {
            let after = after.map(address);
            let found =
                store.addresses(&Pattern::parse_scope(pattern).unwrap(), after.as_ref(), most).unwrap();
            found.iter().map(|address| address.as_str().to_owned()).collect::<Vec<_>>()
        };
        let found = |pattern: &str, most| found_behind(pattern, None, most);
        assert_eq!(found("topic/>", 9), ["topic/a", "topic/a-", "topic/a.b", "topic/aa"]);
        assert_eq!(found("topic/a.*", 9), ["topic/a.b"]);
        assert_eq!(found("topic/*", 2), ["topic/a", "topic/a-"]);
        assert_eq!(found("user/*", 9), ["user/a"]);
        assert_eq!(found("topic/a", 9), ["topic/a"]);
        assert_eq!(found("topic/zzz", 9), [""; 0]);
        assert_eq!(found_behind("topic/>", Some("topic/a"), 2), ["topic/a-", "topic/a.b"]);
        assert_eq!(found_behind("topic/>", Some("topic/a.a"), 9), ["topic/a.b", "topic/aa"]);
        assert_eq!(found_behind("topic/>", Some("topic/aa"), 9), [""; 0]);
        assert_eq!(found_behind("topic/a.*", Some("topic/a"), 9), ["topic/a.b"], "before all that match");
        assert_eq!(found_behind("topic/a", Some("topic/a"), 9), [""; 0]);
        assert_eq!(found_behind("topic/a", Some("topic/b"), 9), [""; 0]);
    });
}

#[test]
fn a_page_ends_at_its_bounds() {
    on_both(|store| {
        for first in [0, 10, 20] {
            put(store, batch("group/g", at(1, first), 10, 0));
        }
        let page = store.messages(&Query { limit: 15, ..query("group/g") }).unwrap();
        assert_eq!((page.messages.len(), page.more), (15, true));
        let after = Some(page.messages.last().unwrap().first);
        let page = store.messages(&Query { after, limit: 15, ..query("group/g") }).unwrap();
        assert_eq!((page.messages.len(), page.more, page.messages[0].first), (15, false, at(1, 15)));
        let page = store.messages(&Query { max_bytes: 1, ..query("group/g") }).unwrap();
        assert_eq!((page.messages.len(), page.more), (1, true), "one message is always given");
        let page = store.messages(&Query { max_bytes: 500, ..query("group/g") }).unwrap();
        assert!(page.more && page.messages.len() > 3 && page.messages.len() < 10, "{}", page.messages.len());
        let page = store.messages(&Query { limit: 0, ..query("group/g") }).unwrap();
        assert_eq!((page.messages.len(), page.more), (0, true));
    });
}

#[test]
fn the_newest_come_last() {
    on_both(|store| {
        put(store, batch("group/g", at(1, 0), 10, 0));
        put(store, batch_of("group/g", at(1, 10), 0, vec![("x".into(), 5), ("y".into(), 0)]));
        let last = |last| Query { last: Some(last), now_unix_ms: 5, ..query("group/g") };
        assert_eq!(offsets(store, &last(1)), [11]);
        assert_eq!(offsets(store, &last(3)), [8, 9, 11], "what has expired does not count");
        assert_eq!(offsets(store, &last(0)), [0; 0]);
        assert_eq!(offsets(store, &last(100)).len(), 11);
        let both = Query { after: Some(at(1, 8)), ..last(5) };
        assert_eq!(offsets(store, &both), [9, 11]);
        let page = store.messages(&Query { limit: 2, ..last(4) }).unwrap();
        assert_eq!((page.messages[0].first.offset, page.more), (7, true));
    });
}

#[test]
fn a_time_begins_at_its_message() {
    on_both(|store| {
        for offset in 0..200_u64 {
            // Publish times of neighbours are swapped, and an epoch ends in between.
            let (epoch, time) = (1 + u32::from(offset >= 100), 10_000 + 100 * (offset ^ 1));
            put(store, batch("topic/t", at(epoch, (offset % 100) * 3), 1, time));
        }
        let all = places(store, &query("topic/t"));
        assert_eq!(all.len(), 200);
        for time in [0, 9_999, 10_000, 10_001, 15_050, 20_000, 20_100, 29_900] {
            let found = places(store, &Query { from_unix_ms: Some(time), ..query("topic/t") });
            let fits = |(n, _): &(u64, _)| 10_000 + 100 * (n ^ 1) >= time;
            let expected: Vec<_> = (0..200).zip(all.clone()).filter(fits).map(|(_, place)| place).collect();
            assert_eq!(found, expected, "{time}");
        }
        assert_eq!(places(store, &Query { from_unix_ms: Some(29_901), ..query("topic/t") }), []);
    });
}

#[test]
fn epochs_order_before_offsets() {
    on_both(|store| {
        put(store, batch("user/a", at(1, 1_000), 2, 0));
        put(store, batch("user/a", at(2, 0), 2, 0));
        assert_eq!(places(store, &query("user/a")), [(1, 1_000), (1, 1_001), (2, 0), (2, 1)]);
        let after = |position| places(store, &Query { after: Some(position), ..query("user/a") });
        assert_eq!(after(at(1, 1_000)), [(1, 1_001), (2, 0), (2, 1)]);
        assert_eq!(after(at(1, u64::MAX)), [(2, 0), (2, 1)]);
        assert_eq!(after(at(2, 1)), []);
        let (first, last) =
            (store.first(&address("user/a")).unwrap(), store.last(&address("user/a")).unwrap());
        assert_eq!((first, last), (Some(at(1, 1_000)), Some(at(2, 1))));
        let count = |after, most| store.count_after(&address("user/a"), after, most).unwrap();
        assert_eq!((count(None, 9), count(None, 3), count(Some(at(1, 1_000)), 9)), (4, 3, 3));
        assert_eq!((count(Some(at(2, 0)), 9), count(Some(at(2, 1)), 9)), (1, 0));
        assert_eq!(store.first(&address("user/b")).unwrap(), None);
    });
}

#[test]
fn retention_by_count_is_exact_when_small() {
    on_both(|store| {
        let retention = Retention { count: 5, ..LONG };
        let put = |first, count| {
            let write = messages(batch("user/a", at(1, first), count, 0), retention);
            store.commit(&[write], Durability::Buffered).unwrap();
        };
        put(0, 8);
        assert_eq!(offsets(store, &query("user/a")), [3, 4, 5, 6, 7], "also inside one batch");
        assert_eq!(store.first(&address("user/a")).unwrap(), Some(at(1, 3)));
        assert_eq!(store.count_after(&address("user/a"), None, 99).unwrap(), 5);
        put(8, 1);
        put(9, 1);
        assert_eq!(offsets(store, &query("user/a")), [5, 6, 7, 8, 9]);
        assert_eq!(store.usage().messages, 5);
        let gap =
            |offset| store.messages(&Query { after: Some(at(1, offset)), ..query("user/a") }).unwrap().gap;
        assert!(gap(0) && gap(3) && !gap(4) && !gap(9));
        assert!(!store.messages(&query("user/a")).unwrap().gap);
        put(10, 5);
        assert_eq!(offsets(store, &query("user/a")), [10, 11, 12, 13, 14]);
    });
}

#[test]
fn retention_by_bytes() {
    on_both(|store| {
        let retention = Retention { bytes: 10_000, ..LONG };
        for offset in 0..100 {
            let large = batch_of("topic/t", at(1, offset), 0, vec![("x".repeat(1_000), 0)]);
            store.commit(&[messages(large, retention)], Durability::Buffered).unwrap();
        }
        let left = offsets(store, &query("topic/t"));
        assert!((8..=9).contains(&left.len()) && left.ends_with(&[98, 99]), "{left:?}");
        assert!(store.usage().bytes <= 10_625, "{:?}", store.usage());
        let huge = batch_of("topic/t", at(1, 200), 0, vec![("x".repeat(20_000), 0)]);
        store.commit(&[messages(huge, retention)], Durability::Buffered).unwrap();
        assert_eq!(offsets(store, &query("topic/t")), [200], "the newest stays");
    });
}

#[test]
fn retention_by_age() {
    on_both(|store| {
        let retention = Retention { age_ms: 1_000, ..LONG };
        for offset in 0..10 {
            let write = messages(batch("topic/t", at(1, offset), 1, offset * 100), retention);
            store.commit(&[write], Durability::Buffered).unwrap();
        }
        let now = |now_unix_ms| Query { now_unix_ms, ..query("topic/t") };
        assert_eq!(offsets(store, &now(1_000)).len(), 10);
        assert_eq!(offsets(store, &now(1_500)), [5, 6, 7, 8, 9], "too old counts at once");
        let page = store.messages(&Query { after: Some(at(1, 2)), ..now(1_500) }).unwrap();
        assert!(page.gap);
        assert_eq!(store.maintain(1_500).unwrap().messages, 5);
        assert_eq!(store.maintain(1_500).unwrap().messages, 0);
        assert_eq!(store.usage().messages, 5);
        assert_eq!(store.first(&address("topic/t")).unwrap(), Some(at(1, 5)));
        assert_eq!(store.maintain(10_000).unwrap().messages, 5);
        assert_eq!(store.usage(), Default::default());
        assert_eq!(store.addresses(&Pattern::parse("topic/>").unwrap(), None, 9).unwrap(), []);
        let gap = || store.messages(&Query { after: Some(at(1, 2)), ..now(10_000) }).unwrap().gap;
        assert!(gap(), "an empty address still knows what is gone");
        let month = 30 * 24 * 3_600_000;
        store.maintain(month).unwrap();
        store.maintain(2 * month).unwrap();
        assert!(!gap(), "not for ever");
    });
}

#[test]
fn cursors_and_marks_never_move_back() {
    on_both(|store| {
        let (user, to) = (name("bob"), address("group/g"));
        let cursor = |device: Option<Name>, position| Write::Cursor {
            user: user.clone(),
            device,
            address: to.clone(),
            position,
        };
        let mark = |position| Write::ReadMark { user: user.clone(), address: to.clone(), position };
        let phone = name("phone");
        store
            .commit(&[cursor(None, at(1, 9)), cursor(None, at(1, 3)), mark(at(2, 0))], Durability::Buffered)
            .unwrap();
        assert_eq!(store.cursor(&user, None, &to).unwrap(), Some(at(1, 9)));
        store
            .commit(
                &[cursor(None, at(1, 8)), cursor(Some(phone.clone()), at(1, 1)), mark(at(1, 99))],
                Durability::Synced,
            )
            .unwrap();
        assert_eq!(store.cursor(&user, None, &to).unwrap(), Some(at(1, 9)));
        assert_eq!(store.cursor(&user, Some(&phone), &to).unwrap(), Some(at(1, 1)));
        let other = Write::Cursor {
            user: user.clone(),
            device: Some(phone.clone()),
            address: address("all"),
            position: at(1, 7),
        };
        store.commit(&[other], Durability::Buffered).unwrap();
        let both = [(None, at(1, 9)), (Some(phone.clone()), at(1, 1))];
        assert_eq!(store.cursors(&user, &to, 10).unwrap(), both);
        assert_eq!(store.cursors(&user, &to, 1).unwrap(), both[..1]);
        assert_eq!(store.cursors(&name("bo"), &to, 10).unwrap(), []);
        assert_eq!(store.read_mark(&user, &to).unwrap(), Some(at(2, 0)));
        store.commit(&[cursor(None, at(2, 0))], Durability::Buffered).unwrap();
        assert_eq!(store.cursor(&user, None, &to).unwrap(), Some(at(2, 0)));
        assert_eq!(store.cursor(&name("carol"), None, &to).unwrap(), None);
    });
}

#[test]
fn groups_and_members() {
    on_both(|store| {
        let by = |n| if n == 2 { JoinedBy::Operator } else { JoinedBy::Member };
        let group = |group: &str| Write::Group { group: name(group) };
        let member = |group: &str, user: &str, n| Write::Member {
            group: name(group),
            user: name(user),
            since: at(1, n),
            by: by(n),
        };
        let first = [
            group("a"),
            group("b"),
            group("c"),
            member("a", "x", 1),
            member("a", "y", 2),
            member("b", "x", 3),
        ];
        store.commit(&first, Durability::Buffered).unwrap();
        let second =
            [Write::NoGroup { group: name("c") }, Write::NoMember { group: name("a"), user: name("x") }];
        store.commit(&second, Durability::Buffered).unwrap();
        let (mut groups, mut members) = (Vec::new(), Vec::new());
        store.groups(&mut |group| groups.push(group)).unwrap();
        store.members(&mut |member| members.push(member)).unwrap();
        assert_eq!(groups, [name("a"), name("b")]);
        let expected = |group: &str, user: &str, n| Member {
            group: name(group),
            user: name(user),
            since: at(1, n),
            by: by(n),
        };
        assert_eq!(members, [expected("a", "y", 2), expected("b", "x", 3)]);
    });
}

#[test]
fn sessions_are_resumed_until_they_expire() {
    on_both(|store| {
        let record = |byte: u8, expires| ResumeRecord {
            token_hash: [byte; 32],
            expires_unix_ms: expires,
            body: vec![byte; 40],
        };
        let writes =
            [Write::Resume(record(0, 100)), Write::Resume(record(255, 200)), Write::Resume(record(7, 300))];
        store.commit(&writes, Durability::Buffered).unwrap();
        assert_eq!(store.resume(&[255; 32]).unwrap(), Some(record(255, 200)));
        store.commit(&[Write::NoResume { token_hash: [7; 32] }], Durability::Buffered).unwrap();
        assert_eq!(store.resume(&[7; 32]).unwrap(), None);
        assert_eq!(store.maintain(150).unwrap().records, 1);
        assert_eq!(store.resume(&[0; 32]).unwrap(), None);
        assert!(store.resume(&[255; 32]).unwrap().is_some());
    });
}

#[test]
fn whom_the_store_knows_is_not_seen_first() {
    on_both(|store| {
        let commit = |writes: &[Write]| store.commit(writes, Durability::Synced).unwrap();
        let first = |user, unix_ms| Write::FirstSeen { user: name(user), unix_ms };
        let last = |user, unix_ms| Write::LastSeen { user: name(user), unix_ms };
        let seen = |user| store.seen(&name(user)).unwrap().map(|seen| (seen.unix_ms, seen.is_first));
        commit(&[first("a", 5), first("a", 6), last("b", 7), first("b", 8)]);
        assert_eq!((seen("a"), seen("b"), seen("c")), (Some((5, true)), Some((7, false)), None));
        commit(&[first("a", 9), first("b", 9), first("c", 9)]);
        assert_eq!((seen("a"), seen("b"), seen("c")), (Some((5, true)), Some((7, false)), Some((9, true))));
        commit(&[last("a", 4)]);
        assert_eq!(seen("a"), Some((4, false)));
    });
}

#[test]
fn dead_letters_ledgers_and_delays() {
    on_both(|store| {
        let letter = |n: u64, recipient: &str| DeadLetter {
            id: id(1_000, n),
            recipient: recipient.into(),
            unix_ms: 5,
            cause: "timeout".into(),
            attempts: 4,
            detail: "no answer".into(),
            batch: Arc::new(batch("user/bob", at(1, n), 1, 1_000)),
        };
        let writes = [
            Write::DeadLetter(letter(1, "user/bob")),
            Write::DeadLetter(letter(1, "queue/q")),
            Write::DeadLetter(letter(2, "user/bob")),
            Write::Ledger { id: id(1_000, 1), body: b"state".to_vec() },
            Write::Delayed { due_unix_ms: 300, batch: Arc::new(batch("user/c", at(0, 0), 1, 1_000)) },
            Write::Delayed { due_unix_ms: 200, batch: Arc::new(batch("user/d", at(0, 1), 1, 1_000)) },
            Write::LastSeen { user: name("bob"), unix_ms: 77 },
        ];
        store.commit(&writes, Durability::Synced).unwrap();
        let all = store.dead_letters(None, 10).unwrap();
        assert_eq!(
            all.iter().map(|letter| (letter.id, &*letter.recipient)).collect::<Vec<_>>(),
            [(id(1_000, 1), "queue/q"), (id(1_000, 1), "user/bob"), (id(1_000, 2), "user/bob"),]
        );
        let one = &all[1];
        assert_eq!((one.unix_ms, &*one.cause, one.attempts, &*one.detail), (5, "timeout", 4, "no answer"));
        assert_eq!(one.batch.text(one.batch.messages[0].payload), "payload 1");
        assert_eq!(one.batch.to, address("user/bob"));
        assert_eq!(
            store.dead_letters(Some((id(1_000, 1), &all[0].place())), 1).unwrap()[0].recipient,
            "user/bob"
        );
        assert_eq!(store.dead_letter(id(1_000, 1)).unwrap().len(), 2);
        assert_eq!(store.ledger(id(1_000, 1)).unwrap().as_deref(), Some(&b"state"[..]));
        let delayed = |after, bounds| {
            let page = store.delayed(after, bounds).unwrap();
            let of = |delayed: &Delayed| (delayed.due_unix_ms, delayed.batch.to.to_string());
            (page.messages.iter().map(of).collect::<Vec<_>>(), page.next_due_unix_ms)
        };
        let (first, second) = ((200, "user/d".to_owned()), (300, "user/c".to_owned()));
        assert_eq!(delayed(None, (10, 10_000)), (vec![first.clone(), second.clone()], None));
        assert_eq!(delayed(None, (1, 10_000)), (vec![first.clone()], Some(300)));
        assert_eq!(delayed(None, (10, 1)), (vec![first], Some(300)), "one that is larger is given");
        assert_eq!(delayed(Some((200, id(1_000, 1))), (10, 1)), (vec![second], None));
        assert_eq!(delayed(Some((300, id(1_000, 0))), (10, 1)), (vec![], None));
        assert_eq!(store.last_seen(&name("bob")).unwrap(), Some(77));
        assert!(store.usage().bytes > 0);
        let gone = [
            Write::NoDeadLetter { id: id(1_000, 1), place: letter(1, "user/bob").place() },
            Write::NoDeadLetter { id: id(1_000, 1), place: "queue/q".into() },
            Write::NoDelayed { due_unix_ms: 300, id: id(1_000, 0) },
            Write::NoDelayed { due_unix_ms: 200, id: id(1_000, 1) },
        ];
        store.commit(&gone, Durability::Buffered).unwrap();
        assert_eq!(delayed(None, (10, 10_000)).0, []);
        assert_eq!(
            store.maintain(31 * 24 * 3_600_000).unwrap().records,
            2,
            "a dead letter and a ledger, by age"
        );
        assert_eq!(store.dead_letters(None, 10).unwrap().len(), 0);
        assert_eq!(store.ledger(id(1_000, 1)).unwrap(), None);
        assert_eq!(store.usage().bytes, 0);
    });
}

#[test]
fn what_is_due_takes_the_place_of_what_waited() {
    on_both(|store| {
        let waiting = Arc::new(batch("user/c", at(0, 3), 1, 1_000));
        store.commit(&[Write::Delayed { due_unix_ms: 300, batch: waiting }], Durability::Buffered).unwrap();
        let now = Arc::new(batch("user/c", at(1, 3), 1, 1_000));
        let due = Write::Due { due_unix_ms: 300, batch: now, retention: LONG };
        assert!(due.needs_room());
        store.commit(std::slice::from_ref(&due), Durability::Buffered).unwrap();
        store.commit(&[due], Durability::Buffered).unwrap();
        assert_eq!(offsets(store, &query("user/c")), [3]);
        assert!(store.delayed(None, (10, 10_000)).unwrap().messages.is_empty());
        assert_eq!(store.usage().messages, 1);
    });
}

#[test]
fn a_message_has_a_dead_letter_for_each_address_where_a_recipient_did_not_take_it() {
    on_both(|store| {
        let letter = |recipient: &str, to: &str| DeadLetter {
            id: id(1_000, 1),
            recipient: recipient.into(),
            unix_ms: 5,
            cause: "nack".into(),
            attempts: 4,
            detail: String::new(),
            batch: Arc::new(batch(to, at(1, 1), 1, 1_000)),
        };
        let [one, two] = ["topic/o1", "topic/o2"].map(|to| letter("user/r", to));
        let other = letter("user/ray", "topic/o1");
        let places = || {
            let all = store.dead_letters(None, 10).unwrap();
            assert_eq!(all.len(), store.dead_letter(id(1_000, 1)).unwrap().len());
            all.iter().map(|of| (of.recipient.clone(), of.batch.to.to_string())).collect::<Vec<_>>()
        };
        let place = |of: &DeadLetter| (of.recipient.clone(), of.batch.to.to_string());
        let writes = [&two, &one, &other, &one].map(|letter| Write::DeadLetter(letter.clone()));
        store.commit(&writes, Durability::Synced).unwrap();
        assert_eq!(places(), [place(&one), place(&two), place(&other)]);
        let behind = store.dead_letters(Some((one.id, &one.place())), 1).unwrap();
        assert_eq!(place(&behind[0]), place(&two));
        let remove = |place: String| Write::NoDeadLetter { id: one.id, place };
        store.commit(&[remove(one.place())], Durability::Synced).unwrap();
        assert_eq!(places(), [place(&two), place(&other)]);
        // As a log of before letters were told apart by address says it, of what is there and what comes with it.
        store.commit(&[Write::DeadLetter(one.clone()), remove("user/r".into())], Durability::Synced).unwrap();
        assert_eq!(places(), [place(&other)]);
    });
}

#[test]
fn queues_and_their_cursors() {
    on_both(|store| {
        let found = || {
            let mut queues = Vec::new();
            store.queues(&mut |queue| queues.push(queue)).unwrap();
            queues
        };
        let records = [
            queue_record("a", QueueBegin::Earliest),
            queue_record("b", QueueBegin::Last([at(1, 1), at(2, 2)].into())),
            queue_record("c", QueueBegin::Time(7)),
            queue_record("d", QueueBegin::After([at(1, 1), at(2, 2)].into())),
        ];
        store.commit(&records.clone().map(Write::Queue), Durability::Synced).unwrap();
        assert_eq!(found(), records);
        let other = QueueRecord { id: queue("topic/a.*", "a"), ..records[0].clone() };
        let seen = QueueRecord { seen_unix_ms: 99, ..records[0].clone() };
        store
            .commit(&[Write::Queue(other.clone()), Write::Queue(seen.clone())], Durability::Buffered)
            .unwrap();
        assert_eq!(found()[..2], [other, seen], "another pattern is another queue");
        let of = |name, born, to| store.queue_cursor(&queue("topic/a.>", name), born, &address(to)).unwrap();
        let stretches = [((1, 9), (1, 12)), ((1, 20), (2, 3))];
        store.commit(&[queue_cursor("a", at(1, 7), &stretches)], Durability::Buffered).unwrap();
        assert_eq!(of("a", 5, "topic/a.b"), Some(QueueCursor { upto: at(1, 7), done: stretches.to_vec() }));
        store.commit(&[queue_cursor("a", at(1, 3), &[])], Durability::Buffered).unwrap();
        assert_eq!(of("a", 5, "topic/a.b"), Some(QueueCursor { upto: at(1, 3), done: Vec::new() }));
        assert_eq!(of("a", 6, "topic/a.b"), None, "of an earlier queue");
        assert_eq!((of("b", 5, "topic/a.b"), of("a", 5, "topic/a")), (None, None));
    });
}

#[test]
fn cursors_of_queues_that_are_no_more_go() {
    on_both(|store| {
        let of = |name| store.queue_cursor(&queue("topic/a.>", name), 5, &address("topic/a.b")).unwrap();
        let retention = Retention { age_ms: 1_000, ..LONG };
        let mut writes = vec![messages(batch("topic/a.b", at(1, 1), 1, 0), retention)];
        for name in ["a", "b", "c"] {
            writes.push(Write::Queue(queue_record(name, QueueBegin::Earliest)));
            writes.push(queue_cursor(name, at(1, 1), &[]));
        }
        store.commit(&writes, Durability::Buffered).unwrap();
        assert_eq!(store.maintain(10).unwrap().records, 0);
        let reborn = QueueRecord { born_unix_ms: 6, ..queue_record("b", QueueBegin::Earliest) };
        let changes = [Write::NoQueue { id: queue("topic/a.>", "a") }, Write::Queue(reborn)];
        store.commit(&changes, Durability::Buffered).unwrap();
        assert_eq!(store.maintain(10).unwrap().records, 2);
        assert_eq!((of("a"), of("b"), of("c").is_some()), (None, None, true));
        let month = 30 * 24 * 3_600_000;
        store.maintain(month).unwrap();
        store.maintain(2 * month).unwrap();
        assert_eq!(of("c"), None, "with the address, which has had no messages for long");
    });
}

#[test]
fn dedup_keys_take_the_places_of_older_ones() {
    on_both(|store| {
        const PLACES: u64 = limits::DEDUP_KEYS_PER_SHARD as u64;
        let write =
            |key: &Key| messages(batch("user/a", at(1, key.number), 1, 0), LONG).with_key(Some(key.clone()));
        let [first, second, third] = [1, 2, 1 + PLACES].map(dedup_key);
        let other = Key { shard: 4, ..dedup_key(3) };
        let last = Key { shard: u16::MAX, ..dedup_key(PLACES - 1) };
        store.commit(&[&first, &second, &other, &last].map(write), Durability::Buffered).unwrap();
        assert_eq!(dedup_keys(store, 3), [first.clone(), second.clone()]);
        assert_eq!((dedup_keys(store, 4), dedup_keys(store, u16::MAX)), (vec![other], vec![last]));
        let free = |key: &Key| Write::NoDedupKey { shard: 3, number: key.number, id: key.answer.id };
        store.commit(&[write(&third), free(&first)], Durability::Buffered).unwrap();
        assert_eq!(dedup_keys(store, 3), [second.clone(), third.clone()], "a later publish has the place");
        store.commit(&[free(&third), free(&third)], Durability::Buffered).unwrap();
        let alone = Write::DedupKey { key: first.clone(), message: None };
        store.commit(&[alone, free(&second)], Durability::Buffered).unwrap();
        assert_eq!(dedup_keys(store, 3), [first]);
        assert_eq!(store.count_after(&address("user/a"), None, 9).unwrap(), 5, "their messages stay");
        store.maintain(1 << 40).unwrap();
        assert_eq!(dedup_keys(store, 3).len(), 1);
    });
}

#[test]
fn a_message_that_finds_no_room_has_no_dedup_key() {
    let store = MemoryStore::new(Bounds { bytes: 1, ..Bounds::default() });
    let write =
        |number| messages(batch("user/a", at(1, number), 1, 0), LONG).with_key(Some(dedup_key(number)));
    store.commit(&[write(1)], Durability::Buffered).unwrap();
    assert!(matches!(store.commit(&[write(2)], Durability::Buffered), Err(StoreError::Full { .. })));
    assert_eq!(dedup_keys(&store, 3), [dedup_key(1)]);
    let free = Write::NoDedupKey { shard: 3, number: 1, id: dedup_key(1).answer.id };
    store.commit(&[free], Durability::Buffered).unwrap();
    assert_eq!(dedup_keys(&store, 3), []);
}

#[test]
fn a_round_tells_what_the_disk_has_free() {
    let memory = MemoryStore::new(Bounds::default());
    memory.maintain(1).unwrap();
    assert_eq!(memory.free_bytes(), None);
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    assert_eq!(store.free_bytes(), None, "before the first round");
    store.maintain(1).unwrap();
    assert!(store.free_bytes().is_some_and(|free| free > 0));
}
