//! What a tail is handed, in which order, and what is told of what it is not.

use super::*;
use std::task::Waker;
use waspmq_core::{Kind, Stream};

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn wanted(patterns: &[&str]) -> Wanted {
    let patterns = patterns.iter().map(|text| Pattern::parse_scope(text).unwrap()).collect();
    Wanted { patterns, ..Wanted::default() }
}

/// Two messages of alice, the second of which has this payload.
fn batch(to: &str, payload: &[u8]) -> Batch {
    let mut batch = Batch {
        to: address(to),
        from: Some(name("alice")),
        origin: None,
        exclude_origin: false,
        level: Level::Accepted,
        is_kept: false,
        unix_ms: 7,
        published_us: 7,
        first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: 40 },
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    for (count, bytes) in [(1, &b"1"[..]), (2, payload)] {
        let start = batch.end();
        HeaderBlock::encode(&[("k", "v")], &mut batch.bytes).unwrap();
        let (headers, payload) = (batch.since(start), batch.store(bytes));
        let (id, nothing) = (MessageId::new(7, 1, 0, count), waspmq_core::message::Slice::default());
        let (priority, expires_unix_ms, key, reply_to) = (3, 0, nothing, nothing);
        batch.messages.push(Envelope {
            id,
            is_json: true,
            priority,
            expires_unix_ms,
            payload,
            headers,
            key,
            reply_to,
        });
    }
    batch
}

/// Publishes a batch as a worker does; says whether anything was taken down.
fn publish(tails: &Tails, batch: &Batch) -> bool {
    let seen = tails.see(batch);
    seen.map(|seen| tails.show(Seen { fate: Fate::accepted(Some(batch.first), Some(2)), ..*seen })).is_some()
}

/// What is there for a reader: messages by their place in their batch, from 1, or a minus and how many are missing.
fn read(tail: &mut Tail) -> Vec<i64> {
    let mut context = Context::from_waker(Waker::noop());
    let mut found = Vec::new();
    while let Poll::Ready(Some(shown)) = tail.poll_next(&mut context) {
        found.push(match shown {
            Shown::Message(_, index) => i64::try_from(index + 1).unwrap(),
            Shown::Dropped(count) => -i64::try_from(count).unwrap(),
        });
    }
    found
}

fn is_over(tail: &mut Tail) -> bool {
    matches!(tail.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None))
}

#[test]
fn a_tail_sees_what_it_asked_for() {
    let tails = Arc::<Tails>::default();
    assert!(!tails.is_open() && !publish(&tails, &batch("topic/a", b"2")));
    let mut all = tails.open(wanted(&[])).unwrap();
    let mut topics = tails.open(wanted(&["topic/b.>", "user/*"])).unwrap();
    let mut bo = tails.open(Wanted { from: Some(name("bo")), ..wanted(&[]) }).unwrap();
    assert!(tails.is_open() && tails.count() == 3);
    for to in ["topic/a", "topic/b.c", "user/x"] {
        assert!(publish(&tails, &batch(to, b"2")));
    }
    assert_eq!(read(&mut all), [1, 2, 1, 2, 1, 2]);
    assert_eq!(read(&mut topics), [1, 2, 1, 2]);
    assert_eq!(read(&mut bo), [0; 0]);
    assert_eq!((tails.taken(), tails.dropped()), (10, 0));
    drop((all, topics));
    assert!(!publish(&tails, &batch("topic/a", b"2")), "nobody wants it");
    drop(bo);
    assert!(!tails.is_open() && tails.count() == 0);
}

#[test]
fn where_policies_sent_it_counts_as_where_it_went() {
    let wanted = wanted(&["topic/audit"]);
    let (to, audit) = (address("topic/a"), address("topic/audit"));
    let takes = |instead: &[Address]| wanted.takes(Subject { to: &to, from: None, instead });
    assert!(!takes(&[]) && takes(&[to.clone(), audit]));
}

#[test]
fn content_is_taken_down_where_somebody_wants_it_and_cut() {
    let tails = Arc::<Tails>::default();
    let mut plain = tails.open(wanted(&[])).unwrap();
    publish(&tails, &batch("topic/a", b"2"));
    let mut full = tails.open(Wanted { payload: true, ..wanted(&["topic/a"]) }).unwrap();
    let long = vec![b'x'; limits::PAYLOAD_BYTES_MAX + 1];
    publish(&tails, &batch("topic/a", &long));
    publish(&tails, &batch("topic/b", b"2"));
    let mut context = Context::from_waker(Waker::noop());
    let mut next = |tail: &mut Tail| match tail.poll_next(&mut context) {
        Poll::Ready(Some(Shown::Message(seen, index))) => (seen, index),
        other => panic!("{other:?}"),
    };
    let (seen, index) = next(&mut plain);
    assert!(seen.messages[index].content.is_none());
    assert_eq!((seen.fate.recipients, seen.to.kind()), (Some(2), Kind::Topic));
    let (seen, index) = next(&mut full);
    let short = seen.messages[index].content.as_ref().unwrap();
    assert_eq!((&*short.payload, short.is_cut, short.headers.len()), (&b"1"[..], false, 1));
    let (seen, index) = next(&mut full);
    let cut = seen.messages[index].content.as_ref().unwrap();
    assert_eq!((cut.payload.len(), cut.is_cut), (limits::PAYLOAD_BYTES_MAX, true));
    assert_eq!(seen.messages[index].payload_bytes, long.len());
    assert_eq!(read(&mut full), [0; 0]);
    assert_eq!(read(&mut plain), [2, 1, 2, 1, 2]);
}

#[test]
fn headers_beyond_the_bound_of_a_message_are_cut() {
    let long = "x".repeat(bounds::HEADER_BYTES_MAX - 1);
    let content = Content::new((b"", false), [("a", long.as_str()), ("b", "c")]);
    assert_eq!((content.headers.len(), content.is_cut), (1, true));
}

#[test]
fn a_slow_reader_is_told_what_is_missing_where_it_is_missing() {
    let tails = Arc::<Tails>::default();
    let mut slow = tails.open(wanted(&[])).unwrap();
    let mut quick = tails.open(wanted(&[])).unwrap();
    let more = 5;
    let mut seen_by_quick = 0;
    for _ in 0..limits::QUEUE_ENTRIES_MAX + more {
        publish(&tails, &batch("topic/a", b"2"));
        seen_by_quick += read(&mut quick).len();
    }
    assert_eq!(seen_by_quick, 2 * (limits::QUEUE_ENTRIES_MAX + more), "others miss nothing");
    let missing = -2 * i64::try_from(more).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    // One entry makes room for one more, before which the others are missing.
    for _ in 0..2 {
        assert!(matches!(slow.poll_next(&mut context), Poll::Ready(Some(Shown::Message(..)))));
    }
    publish(&tails, &batch("topic/a", b"2"));
    let mut found = read(&mut slow);
    assert_eq!(found.split_off(found.len() - 3), [missing, 1, 2]);
    assert!(found.len() == 2 * (limits::QUEUE_ENTRIES_MAX - 1) && found.iter().all(|&place| place > 0));
    assert_eq!(tails.dropped(), 2 * more as u64);
}

#[test]
fn what_is_missing_at_the_end_is_told_too() {
    let tails = Arc::<Tails>::default();
    let mut tail = tails.open(Wanted { payload: true, ..wanted(&[]) }).unwrap();
    let payload = vec![b'x'; limits::PAYLOAD_BYTES_MAX];
    let fitting = limits::QUEUE_BYTES_MAX / limits::PAYLOAD_BYTES_MAX;
    for _ in 0..2 * fitting {
        publish(&tails, &batch("topic/a", &payload));
    }
    assert!(!publish(&tails, &batch("topic/a", b"2")), "nothing is taken down for who has no room");
    let found = read(&mut tail);
    let (missing, shown) = found.split_last().unwrap();
    assert!(shown.len() <= 2 * fitting && shown.iter().all(|&place| place > 0), "bounded by bytes");
    let all = i64::try_from(4 * fitting + 2).unwrap();
    assert_eq!(i64::try_from(shown.len()).unwrap() - missing, all);
    publish(&tails, &batch("topic/a", b"2"));
    assert_eq!(read(&mut tail), [1, 2], "there is room again");
}

#[test]
fn so_many_are_open_at_most_and_none_behind_the_end() {
    let tails = Arc::<Tails>::default();
    let mut open: Vec<_> = (0..limits::TAILS_MAX).map(|_| tails.open(wanted(&[])).unwrap()).collect();
    assert_eq!(tails.open(wanted(&[])).unwrap_err(), Unopened::TooMany);
    drop(open.pop());
    let mut last = tails.open(wanted(&[])).unwrap();
    publish(&tails, &batch("topic/a", b"2"));
    tails.close();
    assert!(!tails.is_open());
    assert_eq!(read(&mut last), [1, 2], "what was queued is shown");
    assert!(is_over(&mut last));
    assert_eq!(tails.open(wanted(&[])).unwrap_err(), Unopened::Closed);
}
