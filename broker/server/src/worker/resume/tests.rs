//! Where reading begins again, by what the session had and what its client has seen.

use super::*;
use crate::resumes::{Begin, Replay};
use waspmq_core::Stream;

fn at(epoch: u32, offset: u64) -> Position {
    Position { stream: Stream { shard: 5, epoch }, offset }
}

pub(in crate::worker) fn record(replays: Vec<Replay>) -> Record {
    let subscribed = |pattern: &str, queue: Option<&str>, since| Subscribed {
        subscription: Subscription {
            pattern: Pattern::parse(pattern).unwrap(),
            queue: queue.map(|queue| Name::parse(queue).unwrap()),
        },
        since: [since].into(),
        told: [since].into(),
        number: None,
    };
    Record {
        session: SessionId::new(3, 1, 9),
        former: Vec::new(),
        worker: 1,
        user: Name::parse("alice").unwrap(),
        device: None,
        is_generated: false,
        subscriptions: vec![
            subscribed("topic/a", None, at(3, 50)),
            subscribed("topic/>", None, at(3, 40)),
            subscribed("topic/a", Some("q"), at(3, 1)),
        ],
        implied: vec![Implied::new(Address::all(), at(3, 30))],
        watched: Vec::new(),
        replays,
        window: Vec::new(),
        cursors: None,
        has_cursors: true,
        left_unix_ms: Some(1),
        has_missed: false,
        is_saved: false,
    }
}

/// Where `to` begins: the offset behind which is read and the flag; `None` where only the store knows.
#[track_caller]
fn check(record: &Record, seen: &[Position], to: &str, expected: Option<(u64, bool)>) {
    let start = Seen::new(record, seen).start(&Address::parse(to).unwrap(), 5, true);
    let found = start.map(|(start, is_ordered)| match start {
        Start::After(position) | Start::CursorUpTo { upto: position, .. } => (position.offset, is_ordered),
        other => panic!("{other:?}"),
    });
    assert_eq!(found, expected, "{to}");
}

#[test]
fn the_earliest_subscription_and_the_latest_position_count() {
    let record = record(Vec::new());
    check(&record, &[], "topic/a", Some((40, true)));
    check(&record, &[], "topic/b", Some((40, true)));
    check(&record, &[at(3, 45)], "topic/a", Some((45, true)));
    check(&record, &[at(2, 99)], "topic/a", Some((40, true)));
    check(&record, &[at(2, 99), at(3, 41)], "all", Some((41, true)));
    check(&record, &[], "group/eng", None);
}

#[test]
fn what_was_being_read_is_read_again() {
    let replay = |begin, until| Replay { of: Pattern::parse("topic/b").unwrap(), begin, until };
    let open = record(vec![replay(Begin::After(at(3, 7)), None)]);
    check(&open, &[at(3, 60)], "topic/b", Some((7, false)));
    check(&open, &[at(3, 60)], "topic/a", Some((60, true)));
    let ended = record(vec![replay(Begin::After(at(3, 7)), Some((at(3, 20), at(3, 60))))]);
    check(&ended, &[at(3, 60)], "topic/b", Some((7, false)));
    check(&ended, &[at(3, 61)], "topic/b", Some((61, true)));
    check(&ended, &[at(3, 20)], "topic/b", Some((40, true)));
    let of = Pattern::parse("topic/>").unwrap();
    let elsewhere = Position { stream: Stream { shard: 6, epoch: 3 }, offset: 2 };
    let by_shard = |place| Replay { of: of.clone(), begin: Begin::After(place), until: None };
    let by_shard = record(vec![by_shard(elsewhere), by_shard(at(3, 7))]);
    check(&by_shard, &[at(3, 60)], "topic/b", Some((7, false)));
    let by_cursor = record(vec![replay(Begin::Cursor, None)]);
    check(&by_cursor, &[at(3, 60)], "topic/b", None);
}

#[test]
fn the_last_message_is_that_before_the_session_had_its_address() {
    let replay = |of: &str, begin| Replay { of: Pattern::parse(of).unwrap(), begin, until: None };
    let last = || replay("topic/>", Begin::Last);
    let start = |replays| {
        Seen::new(&record(replays), &[at(3, 60)]).start(&Address::parse("topic/b").unwrap(), 5, true)
    };
    let is_before = |replays, offset| match start(replays) {
        Some((Start::LastBefore(before), false)) => before == at(3, offset),
        _ => false,
    };
    assert!(is_before(vec![last()], 41), "what waited behind it comes, too");
    // As a session that was lost twice has it.
    assert!(is_before(vec![last(), replay("topic/>", Begin::After(at(3, 30)))], 31));
    // A client may name any position of an earlier run.
    let stream = Stream { epoch: 0, ..at(3, 0).stream };
    let end = Position { stream, offset: u64::MAX };
    let start_of_end = start(vec![last(), replay("topic/b", Begin::After(end))]);
    assert!(matches!(start_of_end, Some((Start::LastBefore(before), false)) if before == end));
    for replays in
        [vec![last(), replay("topic/b", Begin::Earliest)], vec![replay("topic/b", Begin::Earliest), last()]]
    {
        assert!(matches!(start(replays), Some((Start::Earliest, false))));
    }
}

#[test]
fn what_was_read_beside_other_messages_leaves_its_shard_unclear() {
    let replay = |of, until| Replay { of: Pattern::parse(of).unwrap(), begin: Begin::Earliest, until };
    let unclear = |replays, seen: &[Position]| Seen::new(&record(replays), seen).unclear_shards(|_| 5);
    assert_eq!(unclear(vec![], &[at(3, 60)]), 0);
    assert_eq!(unclear(vec![replay("topic/b", None)], &[at(3, 60)]), 1 << 5);
    let ended = || vec![replay("topic/b", Some((at(3, 20), at(3, 60))))];
    for (seen, expected) in [(19, 1 << 5), (20, 0), (21, 1 << 5), (60, 1 << 5), (61, 0)] {
        assert_eq!(unclear(ended(), &[at(3, seen)]), expected, "{seen}");
    }
    assert_eq!(unclear(vec![replay("topic/>", None)], &[at(3, 60)]), u64::MAX, "not known which");
    let of_shard = Replay { begin: Begin::After(at(3, 7)), ..replay("topic/>", None) };
    assert_eq!(unclear(vec![of_shard], &[at(3, 60)]), 1 << 5);
}

#[test]
fn without_its_cursors_those_of_the_store_count() {
    let record = Record { has_cursors: false, ..record(Vec::new()) };
    check(&record, &[at(3, 45)], "all", Some((45, false)));
    check(&record, &[at(3, 45)], "topic/a", Some((45, true)));
}

#[test]
fn who_may_not_go_back_begins_where_it_had_the_address() {
    let replay = |begin| Replay { of: Pattern::parse("topic/b").unwrap(), begin, until: None };
    for (begin, expected) in [
        (Begin::Earliest, 40),
        (Begin::Last, 40),
        (Begin::Time(1), 40),
        (Begin::After(at(3, 7)), 40),
        (Begin::After(at(3, 44)), 44),
    ] {
        let seen = Seen::new(&record(vec![replay(begin)]), &[at(3, 60)]);
        let start = seen.start(&Address::parse("topic/b").unwrap(), 5, false);
        assert!(
            matches!(start, Some((Start::After(after), false)) if after == at(3, expected)),
            "{begin:?}: {start:?}"
        );
    }
}
