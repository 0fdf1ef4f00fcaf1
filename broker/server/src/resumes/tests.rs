//! The table's bounds, its tokens and its stored form.

use super::*;
use crate::clock::Clock;
use crate::worker::mailbox::Mailboxes;
use std::sync::Arc;
use waspmq_core::delivery::Sending;
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::{Level, MessageId, Stream};

fn journal() -> Journal {
    crate::storage::in_memory::open(Clock::new(), &Arc::new(Mailboxes::new(1))).1
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn record(user: &str) -> Record {
    let at = |shard, offset| Position { stream: Stream { shard, epoch: 3 }, offset };
    Record {
        session: SessionId::new(3, 1, 9),
        former: vec![SessionId::new(3, 0, 8)],
        worker: 1,
        user: name(user),
        device: Some(name("phone")),
        is_generated: false,
        subscriptions: vec![Subscribed {
            subscription: Subscription {
                pattern: Pattern::parse("topic/a.>").unwrap(),
                queue: Some(name("q")),
            },
            since: [at(0, 4), at(1, 5)].into(),
            told: [at(0, 4), at(1, 5)].into(),
            number: None,
        }],
        implied: vec![Implied::new(Address::all(), at(7, 2))],
        watched: vec![name("bob")],
        replays: vec![
            Replay {
                of: Pattern::parse("topic/b").unwrap(),
                begin: Begin::After(at(2, 8)),
                until: Some((at(2, 9), at(2, 11))),
            },
            Replay { of: Pattern::parse("all").unwrap(), begin: Begin::Time(77), until: None },
        ],
        window: Vec::new(),
        cursors: None,
        has_cursors: false,
        left_unix_ms: None,
        has_missed: false,
        is_saved: false,
    }
}

fn left(user: &str, unix_ms: u64) -> Record {
    Record { left_unix_ms: Some(unix_ms), ..record(user) }
}

fn key(number: u8) -> TokenHash {
    [number; 32]
}

#[test]
fn members_without_a_name_of_their_own_are_told_once_when_they_cannot_come_back() {
    let mut resumes = Resumes::new(100);
    resumes.most = 2;
    let at = Position { stream: Stream { shard: 0, epoch: 3 }, offset: 1 };
    let member = |user, unix_ms| {
        let implied = vec![Implied::new(Address::parse("group/eng").unwrap(), at)];
        Record { is_generated: true, implied, ..left(user, unix_ms) }
    };
    let strangers =
        [Record { implied: vec![], ..member("b", 10) }, Record { is_generated: false, ..member("c", 10) }];
    for (number, record) in (1..).zip([member("a", 10)].into_iter().chain(strangers)) {
        assert!(resumes.insert(key(number), record, 20));
        assert_eq!(resumes.take_ended(20), if number == 3 { vec![name("a")] } else { vec![] }, "no room");
    }
    assert!(resumes.insert(key(4), member("d", 30), 109));
    assert_eq!(resumes.take_ended(129), [], "the others were no such members");
    assert_eq!((resumes.take_ended(130), resumes.take_ended(200)), (vec![name("d")], vec![]));
    let live = |user| Record { left_unix_ms: None, ..member(user, 0) };
    assert!(resumes.insert(key(5), live("e"), 200) && resumes.insert(key(6), live("f"), 200));
    assert!(!resumes.insert(key(7), live("g"), 200) && !resumes.insert(key(8), member("h", 200), 200));
    assert_eq!(resumes.take_ended(500), [name("h")]);
}

#[test]
fn who_left_first_makes_room() {
    let table = Resumes { most: 3, ..Resumes::new(1_000) };
    assert!(table.insert(key(1), left("a", 20), 20));
    assert!(table.insert(key(2), left("b", 10), 20));
    assert!(table.insert(key(3), record("c"), 20));
    assert!(table.insert(key(4), record("d"), 20));
    assert_eq!(table.peek(&key(2), 20), None);
    assert!(table.peek(&key(1), 20).is_some());
    assert!(table.insert(key(5), record("e"), 20));
    assert!(!table.insert(key(6), record("f"), 20), "live ones do not give way");
    assert_eq!(table.table().records.len(), 3);
    assert!(table.table().left.is_empty());
}

/// With a message in flight that takes this much memory.
fn with_window(user: &str, bytes: usize) -> Record {
    let envelope = Envelope {
        id: MessageId::new(1, 1, 0, 1),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload: Slice::default(),
        headers: Slice::default(),
        key: Slice::default(),
        reply_to: Slice::default(),
    };
    let batch = Batch {
        to: Address::parse("topic/a.b").unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Delivered,
        is_kept: false,
        unix_ms: 1,
        published_us: 1,
        first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: 0 },
        messages: [envelope].into_iter().collect(),
        bytes: vec![0; bytes],
    };
    let mut window = Window::default();
    window.sent(&Arc::new(batch), 0..1, Sending { attempt: 1, ..Sending::default() });
    Record { window: vec![window], ..record(user) }
}

#[test]
fn what_sessions_that_left_may_acknowledge_is_bounded() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    let windows = |number| table.table().records[&key(number)].window.len();
    let bytes = limits::WINDOWS_LEFT_BYTES_MAX / 3;
    for number in 1..=3 {
        table.insert(key(number), with_window("a", bytes), 0);
        table.leave(&key(number), (number.into(), &journal), |_| {});
    }
    assert_eq!([1, 2, 3].map(windows), [1, 1, 0], "the last one would have been too much");
    table.remove(&key(1), &journal);
    table.insert(key(4), with_window("a", bytes), 0);
    table.leave(&key(4), (4, &journal), |_| {});
    assert_eq!(windows(4), 1, "there is room again");
    [2, 3, 4].iter().for_each(|&number| table.remove(&key(number), &journal));
    assert_eq!(table.table().window_bytes, 0);
}

#[test]
fn who_left_reads_later() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    let address = |text: &str| Address::parse(text).unwrap();
    let plain = |user| {
        let mut record = record(user);
        record.subscriptions[0].subscription.queue = None;
        record
    };
    table.insert(key(1), plain("a"), 0);
    table.insert(key(2), record("b"), 0);
    assert!(!table.reads_later(&address("topic/a.b"), 0), "it is there");
    table.leave(&key(2), (10, &journal), |_| {});
    assert!(!table.reads_later(&address("topic/a.b"), 10), "a queue's messages go to others");
    assert!(table.reads_later(&Address::all(), 10));
    table.leave(&key(1), (20, &journal), |_| {});
    assert!(table.reads_later(&address("topic/a.b"), 119) && !table.reads_later(&address("topic/b"), 119));
    assert!(!table.reads_later(&address("topic/a.b"), 120));
    let table = table.table();
    assert!(table.absent.is_empty() && table.left.is_empty() && table.records.is_empty());
}

#[test]
fn a_crowd_whose_windows_end_together_is_forgotten_piece_by_piece() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    let (most, count) =
        (limits::RESUMES_FORGOTTEN_PER_LOOK_MAX, 2 * limits::RESUMES_FORGOTTEN_PER_LOOK_MAX + 7);
    let at = Position { stream: Stream { shard: 0, epoch: 3 }, offset: 1 };
    let token = |number: usize| hash(&number.to_string());
    for number in 0..count {
        let implied = vec![Implied::new(Address::parse("group/eng").unwrap(), at)];
        let member = Record { is_generated: true, implied, ..record(&format!("u{number}")) };
        assert!(table.insert(token(number), member, 0));
        table.leave(&token(number), (10, &journal), |_| {});
    }
    assert!(table.reads_later(&Address::all(), 109) && table.table().records.len() == count);
    assert!(table.peek(&token(0), 110).is_none(), "over, whether it is forgotten or not");
    let (mut told, mut left) = (Vec::new(), count);
    while left > 0 {
        told.extend(table.take_ended(110));
        let now_left = table.table().records.len();
        assert_eq!(now_left, left.saturating_sub(most));
        left = now_left;
    }
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), count, "each is told");
    assert!(!table.reads_later(&Address::all(), 110) && table.table().left.is_empty());
}

#[test]
fn who_is_on_its_way_reads_later() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    let to = Address::parse("topic/a.b").unwrap();
    let reads_later = || [&to, &Address::all()].map(|to| table.reads_later(to, 0));
    let mut plain = record("a");
    plain.subscriptions[0].subscription.queue = None;
    table.insert(key(1), plain, 0);
    assert_eq!(reads_later(), [false; 2], "it is there");
    let leaving = table.depart(&key(1));
    assert_eq!(reads_later(), [true; 2]);
    table.leave(&key(1), (0, &journal), |_| {});
    drop(leaving);
    assert_eq!(reads_later(), [true; 2]);
    let (_, coming) = table.take(&key(1), (&name("a"), Some(&name("phone"))), (0, &journal)).unwrap();
    assert_eq!(reads_later(), [true; 2]);
    drop(coming);
    assert_eq!(reads_later(), [false; 2]);
    assert!(table.table().absent.is_empty() && table.depart(&key(1)).is_none());
}

/// The records that the store has when everything was written.
fn stored(journal: &Journal) -> Vec<ResumeRecord> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let read = move |store: &dyn waspmq_store::Store| {
        let mut found = Vec::new();
        store.resumes(&mut |record| found.push(record)).unwrap();
        sender.send(found).unwrap();
    };
    journal.read(Box::new(read)).unwrap();
    receiver.recv().unwrap()
}

#[test]
fn what_was_taken_or_changed_while_it_was_written_down_is_not_handed_over() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    table.insert(key(1), left("a", 5), 5);
    let written = table.table().records[&key(1)].clone();
    assert!(table.take(&key(1), (&name("a"), Some(&name("phone"))), (5, &journal)).is_some());
    table.write(&key(1), written, (5, &journal));
    assert_eq!(stored(&journal), [], "a token that was taken does not come back");
    table.insert(key(2), record("b"), 5);
    let written = table.table().records[&key(2)].clone();
    table.update(&key(2), |record| record.watched.clear());
    assert!(!written.watched.is_empty(), "what is written down does not change");
    table.write(&key(2), written, (5, &journal));
    assert_eq!(stored(&journal), []);
    table.save(&key(2), 6, &journal);
    let saved = stored(&journal);
    let [saved] = &saved[..] else { panic!("{saved:?}") };
    assert!(body::parse(&saved.body).unwrap().0.watched.is_empty());
    table.remove(&key(2), &journal);
    assert_eq!(stored(&journal), [], "one that was handed over is forgotten with its session");
}

#[test]
fn what_was_saved_does_not_come_back_once_it_has_changed() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    table.insert(key(1), record("a"), 0);
    table.save(&key(1), 1, &journal);
    table.update(&key(1), |record| record.replays.clear());
    assert_eq!(stored(&journal).len(), 1, "how far it has read says nothing else than it did");
    table.change(&key(1), &journal, |record| record.subscriptions.clear());
    assert_eq!(stored(&journal), []);
    table.save(&key(1), 2, &journal);
    let saved = stored(&journal);
    assert!(saved.len() == 1 && body::parse(&saved[0].body).unwrap().0.subscriptions.is_empty());
}

#[test]
fn the_window_ends() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    table.insert(key(1), record("a"), 0);
    table.leave(&key(1), (50, &journal), |record| record.has_missed = true);
    assert!(table.peek(&key(1), 149).is_some());
    assert_eq!(table.peek(&key(1), 150), None);
    assert!(table.take(&key(1), (&name("a"), Some(&name("phone"))), (150, &journal)).is_none());
    table.insert(key(2), record("b"), 150);
    assert_eq!(table.table().records.len(), 1, "what is over makes room by itself");
    assert!(!Resumes::new(0).is_on());
}

#[test]
fn a_token_is_taken_once_and_by_its_owner() {
    let (table, journal) = (Arc::new(Resumes::new(100)), journal());
    table.insert(key(1), left("a", 5), 5);
    let phone = name("phone");
    assert!(table.take(&key(1), (&name("b"), Some(&phone)), (5, &journal)).is_none());
    assert!(table.take(&key(1), (&name("a"), None), (5, &journal)).is_none());
    assert!(table.take(&key(1), (&name("a"), Some(&phone)), (5, &journal)).is_some());
    assert!(table.take(&key(1), (&name("a"), Some(&phone)), (5, &journal)).is_none());
    assert!(table.table().left.is_empty());
    let (one, two) = (new_token().unwrap(), new_token().unwrap());
    assert!(one != two && one.len() == 32 && hash(&one) != hash(&two));
}

#[test]
fn what_was_written_is_restored() {
    let (table, next) = (Arc::new(Resumes::new(100)), Arc::new(Resumes::new(100)));
    let Write::Resume(stored) = table.record(key(1), &left("a", 40), 60) else { panic!("a record") };
    assert_eq!(stored.expires_unix_ms, 140);
    let restored = next.restore(&stored, 80).unwrap();
    assert!(restored.online.is_none() && restored.write.is_none());
    let journal = journal();
    let (read, _absence) = next.take(&key(1), (&name("a"), Some(&name("phone"))), (80, &journal)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", Record { is_saved: true, ..left("a", 40) }));
    let late = next.restore(&stored, 140).unwrap();
    assert!(matches!(late.write, Some(Write::NoResume { .. })) && next.peek(&key(1), 140).is_none());
}

#[test]
fn a_live_record_of_an_earlier_run_is_left_with_it() {
    let (table, next) = (Arc::new(Resumes::new(100)), Arc::new(Resumes::new(100)));
    let Write::Resume(stored) = table.record(key(1), &record("a"), 60) else { panic!("a record") };
    assert_eq!(stored.expires_unix_ms, u64::MAX);
    let restored = next.restore(&stored, 1_000).unwrap();
    assert_eq!(restored.online, Some((name("a"), 60)));
    assert!(matches!(&restored.write, Some(Write::Resume(again)) if again.expires_unix_ms == 1_100));
    assert!(next.peek(&key(1), 1_099).is_some() && next.peek(&key(1), 1_100).is_none());
    assert!(next.table().records.values().all(|record| record.has_missed));
    assert!(next.restore(&ResumeRecord { body: b"{}".to_vec(), ..stored }, 0).is_err());
}
