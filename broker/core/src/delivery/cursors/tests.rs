//! Cursors by example and with acks in any order.

use super::*;
use crate::id::Stream;
use crate::level::Level;
use crate::message::{Envelope, Slice};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn batch(to: &str, first_offset: u64, first_count: u64, messages: u64) -> Batch {
    let envelope = |count| Envelope {
        id: MessageId::new(7, 1, 0, count),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload: Slice::default(),
        headers: Slice::default(),
        key: Slice::default(),
        reply_to: Slice::default(),
    };
    Batch {
        to: Address::parse(to).unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: true,
        unix_ms: 0,
        published_us: 0,
        first: at(first_offset),
        messages: (first_count..first_count + messages).map(envelope).collect(),
        bytes: Vec::new(),
    }
}

fn at(offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch: 1 }, offset }
}

fn moved(cursors: &mut Cursors) -> Option<u64> {
    cursors.take_moved().map(|(_, position)| position.offset).next()
}

#[test]
fn what_came_to_its_end_is_passed() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    cursors.pass(&to, at(1), 9);
    cursors.sent(&batch("user/a", 10, 1, 3), 0..3);
    cursors.sent(&batch("user/a", 20, 4, 3), 0..3);
    cursors.pass(&to, at(12), 20);
    assert_eq!(moved(&mut cursors), None, "two before them are not acknowledged");
    assert!(cursors.ack_id(MessageId::new(7, 1, 0, 1)) && cursors.ack_id(MessageId::new(7, 1, 0, 2)));
    assert_eq!(moved(&mut cursors), Some(20));
    cursors.pass(&to, at(1), u64::MAX);
    assert_eq!(moved(&mut cursors), Some(22));
    assert!(cursors.is_settled());
}

#[test]
fn cumulative_acks_move_over_everything() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    assert_eq!(cursors.ack_upto(&to, at(1)), Err(NotSent));
    cursors.sent(&batch("user/a", 10, 1, 3), 0..3);
    cursors.sent(&batch("user/a", 20, 4, 2), 0..2);
    assert_eq!(cursors.ack_upto(&to, at(22)), Err(NotSent));
    assert_eq!(cursors.ack_upto(&to, at(20)), Ok(()));
    assert_eq!((moved(&mut cursors), moved(&mut cursors)), (Some(20), None));
    assert!(!cursors.is_settled());
    assert_eq!(cursors.ack_upto(&to, at(12)), Ok(()), "an old ack is no fault");
    assert_eq!(moved(&mut cursors), None);
    assert_eq!(cursors.ack_upto(&to, at(21)), Ok(()));
    assert!(cursors.is_settled());
}

#[test]
fn an_id_of_another_worker_is_not_found() {
    let mut cursors = Cursors::default();
    cursors.sent(&batch("user/a", 10, 5, 3), 0..3);
    for (worker, count) in [(1, 1), (1, 6), (0, 4), (0, 8)] {
        assert!(!cursors.ack_id(MessageId::new(7, 1, worker, count)), "{worker} {count}");
    }
    assert!(cursors.ack_id(MessageId::new(7, 1, 0, 5)));
}

proptest! {
    #[test]
    fn single_acks_move_over_what_is_complete(order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle()) {
        let mut cursors = Cursors::default();
        // Three batches with gaps between their offsets.
        for part in 0..3 {
            cursors.sent(&batch("user/a", 100 * (part + 1), 1 + 4 * part, 4), 0..4);
        }
        let offset = |index: u64| 100 * (index / 4 + 1) + index % 4;
        let mut acked = BTreeSet::new();
        for index in order {
            prop_assert!(cursors.ack_id(MessageId::new(7, 1, 0, 1 + index)));
            acked.insert(index);
            let to = Address::parse("user/a").unwrap();
            for index in 0..12 {
                prop_assert_eq!(cursors.is_acked(&to, at(offset(index))), acked.contains(&index));
            }
            let complete = (0..12).take_while(|i| acked.contains(i)).last();
            if let Some(position) = moved(&mut cursors) {
                prop_assert_eq!(Some(position), complete.map(offset));
            }
            let progress = cursors.addresses.values().next().unwrap();
            prop_assert_eq!(progress.cursor.map(|p| p.offset), complete.map(offset));
        }
        prop_assert!(cursors.is_settled());
        prop_assert!(!cursors.ack_id(MessageId::new(7, 1, 0, 99)));
    }
}

#[test]
fn what_is_acknowledged_is_known() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    let acked = |cursors: &Cursors| -> Vec<u64> {
        (9..24).filter(|&offset| cursors.is_acked(&to, at(offset))).collect()
    };
    assert_eq!(acked(&cursors), [] as [u64; 0], "nothing was sent");
    cursors.sent(&batch("user/a", 10, 1, 4), 0..4);
    cursors.sent(&batch("user/a", 20, 5, 2), 0..2);
    assert!(cursors.ack_id(MessageId::new(7, 1, 0, 6)));
    assert_eq!(acked(&cursors), [21]);
    cursors.lose(&to, at(11), 11);
    assert_eq!(cursors.ack_upto(&to, at(13)), Ok(()));
    assert!(!cursors.is_acked(&to, at(11)), "it was lost on its way");
    assert!(cursors.is_acked(&to, at(10)) && cursors.is_acked(&to, at(13)));
    assert!(!cursors.is_acked(&to, at(20)) && !cursors.is_acked(&to, at(22)));
    assert!(!cursors.is_acked(&Address::all(), at(10)));
    assert!(!cursors.is_acked(&to, Position { stream: Stream { shard: 4, epoch: 1 }, offset: 10 }));
}

#[test]
fn runs_are_bounded() {
    let mut cursors = Cursors::default();
    for i in 0..=limits::CURSOR_RUNS_MAX as u64 {
        cursors.sent(&batch("user/a", i + 1, i + 1, 1), 0..1);
    }
    assert_eq!(cursors.addresses.values().next().unwrap().runs.len(), limits::CURSOR_RUNS_MAX);
    assert!(!cursors.ack_id(MessageId::new(7, 1, 0, 1)), "the oldest is forgotten");
    let single = |count| MessageId::new(7, 1, 0, count);
    assert!(cursors.ack_id(single(2)));
    assert_eq!(moved(&mut cursors), None, "the first one was not acknowledged");
    let to = Address::parse("user/a").unwrap();
    assert_eq!(cursors.ack_upto(&to, at(1)), Ok(()));
    assert!(cursors.ack_id(single(3)));
    assert_eq!(moved(&mut cursors), Some(3));
}

#[test]
fn the_cursor_stays_before_what_was_lost() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    cursors.sent(&batch("user/a", 10, 1, 4), 0..4);
    cursors.sent(&batch("user/a", 20, 5, 2), 0..2);
    cursors.lose(&to, at(11), 12);
    assert_eq!(cursors.ack_upto(&to, at(21)), Ok(()));
    assert_eq!((moved(&mut cursors), moved(&mut cursors)), (Some(10), None));
    assert!(!cursors.is_settled(), "the loss is to be remembered");
    let single = |count| MessageId::new(7, 1, 0, count);
    assert!(!cursors.ack_id(single(2)), "it was not received");
    // Sent again: an ack of what was sent before does not say that it was received.
    cursors.sent(&batch("user/a", 11, 2, 2), 0..2);
    assert_eq!(cursors.ack_upto(&to, at(21)), Ok(()));
    assert_eq!(moved(&mut cursors), None);
    assert!(cursors.ack_id(single(2)));
    assert_eq!(moved(&mut cursors), Some(11));
    assert!(cursors.ack_id(single(3)));
    assert_eq!(moved(&mut cursors), Some(21), "all is acknowledged now");
    assert!(cursors.is_settled());
}

#[test]
fn a_later_ack_covers_what_was_sent_again() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    cursors.sent(&batch("user/a", 10, 1, 3), 0..3);
    cursors.lose(&to, at(10), 10);
    cursors.lose(&to, at(500), 600);
    cursors.sent(&batch("user/a", 10, 1, 1), 0..1);
    cursors.lose(&to, at(10), 10);
    cursors.sent(&batch("user/a", 20, 4, 1), 0..1);
    assert_eq!(cursors.ack_upto(&to, at(20)), Ok(()));
    assert_eq!(moved(&mut cursors), Some(9), "it was lost a second time");
    cursors.sent(&batch("user/a", 10, 1, 1), 0..1);
    cursors.sent(&batch("user/a", 30, 5, 1), 0..1);
    assert_eq!(cursors.ack_upto(&to, at(30)), Ok(()));
    assert_eq!(moved(&mut cursors), Some(30));
    assert!(cursors.is_settled());
}

#[test]
fn what_is_forgotten_can_be_lost() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    for i in 0..=limits::CURSOR_RUNS_MAX as u64 {
        cursors.sent(&batch("user/a", i + 1, i + 1, 1), 0..1);
    }
    cursors.lose(&to, at(1), 1);
    assert_eq!(cursors.ack_upto(&to, at(7)), Ok(()));
    assert_eq!(moved(&mut cursors), Some(0));
}

#[test]
fn positions_of_a_peer_are_checked() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    cursors.sent(&batch("user/a", 10, 1, 1), 0..1);
    let stream = |shard, epoch| Stream { shard, epoch };
    let other_shard = Position { stream: stream(4, 1), offset: 10 };
    assert_eq!(cursors.ack_upto(&to, other_shard), Err(NotSent));
    assert_eq!(cursors.ack_upto(&to, at(u64::MAX)), Err(NotSent));
    let earlier_epoch = Position { stream: stream(3, 0), offset: u64::MAX };
    assert_eq!(cursors.ack_upto(&to, earlier_epoch), Ok(()));
    assert!(!cursors.is_settled());
    cursors.sent(&batch("user/b", 10, 2, 1), 0..1);
    let ahead = Position { stream: stream(3, 2), offset: 1 };
    cursors.sent(&Batch { first: ahead, ..batch("user/a", 10, 3, 1) }, 0..1);
    assert_eq!(cursors.ack_upto(&to, at(u64::MAX)), Ok(()), "of an epoch that is over");
    assert!(cursors.ack_id(MessageId::new(7, 1, 0, 3)) && !cursors.ack_id(MessageId::new(7, 1, 0, 1)));
}

#[test]
fn acks_by_id_find_their_address_among_many() {
    let mut cursors = Cursors::default();
    assert!(!cursors.ack_id(MessageId::new(7, 1, 0, 1)), "the index is made");
    for i in 1..=500 {
        cursors.sent(&batch(&format!("user/{i}"), i, 10 * i, 3), 0..3);
    }
    for i in (1..=500).rev() {
        let single = |index| MessageId::new(7, 1, 0, 10 * i + index);
        assert!([2, 1, 0].into_iter().all(|index| cursors.ack_id(single(index))));
        assert!(!cursors.nack(single(0)) && !cursors.ack_id(single(0)) && !cursors.ack_id(single(3)));
        let moved: Vec<_> = cursors.take_moved().map(|(to, upto)| (to.to_string(), upto.offset)).collect();
        assert_eq!(moved, [(format!("user/{i}"), i + 2)]);
    }
    assert!(cursors.is_settled());
    for i in 1..=500 {
        cursors.sent(&batch("user/1", 1_000 + i, 10_000 + i, 1), 0..1);
        assert!(cursors.ack_id(MessageId::new(7, 1, 0, 10_000 + i)));
    }
    assert!(cursors.ids.as_ref().is_some_and(|ids| ids.len() <= IDS_SPARE * 2), "what is over is forgotten");
}

#[test]
fn an_ack_by_id_is_for_each_address_of_a_message() {
    let single = |count| MessageId::new(7, 1, 0, count);
    let both = ["topic/audit", "topic/orders"];
    let sent = |cursors: &mut Cursors, count: u64| {
        for (to, offset) in both.into_iter().zip([count, 100 + count]) {
            cursors.sent(&batch(to, offset, count, 1), 0..1);
        }
    };
    // With the index made by the first ack, and before.
    for is_made in [false, true] {
        let mut cursors = Cursors::default();
        if is_made {
            assert!(!cursors.ack_id(single(99)));
        }
        (1..=4).for_each(|count| sent(&mut cursors, count));
        assert!(cursors.ack_id(single(1)) && !cursors.ack_id(single(1)));
        let mut moved: Vec<_> =
            cursors.take_moved().map(|(to, upto)| (to.to_string(), upto.offset)).collect();
        moved.sort();
        assert_eq!(moved, [(both[0].to_owned(), 1), (both[1].to_owned(), 101)]);
        let [audit, orders] = both.map(|to| Address::parse(to).unwrap());
        assert_eq!(cursors.ack_upto(&audit, at(2)), Ok(()));
        assert!(cursors.ack_id(single(2)), "at the other one");
        assert!(cursors.nack(single(3)) && !cursors.nack(single(3)) && !cursors.ack_id(single(3)));
        assert!(cursors.ack_id(single(4)));
        assert_eq!([&audit, &orders].map(|to| cursors.cursor(to).unwrap().offset), [2, 102], "3 is refused");
        sent(&mut cursors, 3);
        assert!(cursors.ack_id(single(3)));
        assert_eq!([&audit, &orders].map(|to| cursors.cursor(to).unwrap().offset), [4, 104]);
        assert!(cursors.is_settled());
    }
}

#[test]
fn the_index_knows_a_message_once_in_each_address() {
    let (mut cursors, single) = (Cursors::default(), |count| MessageId::new(7, 1, 0, count));
    let to = Address::parse("user/a").unwrap();
    cursors.sent(&batch("user/a", 10, 1, 4), 0..4);
    cursors.lose(&to, at(11), 12);
    cursors.sent(&batch("user/a", 12, 3, 1), 0..1);
    assert!(!cursors.ack_id(single(99)), "the index is made");
    cursors.lose(&to, at(12), 12);
    cursors.sent(&batch("user/a", 11, 2, 2), 0..2);
    cursors.sent(&batch("user/a", 12, 3, 1), 0..1);
    cursors.sent(&batch("user/b", 70, 2, 1), 0..1);
    let known: Vec<_> = cursors.ids.iter().flatten().map(|(at, sent)| (at.1, sent.len())).collect();
    assert_eq!(known, [(1, 1), (2, 2), (4, 1)], "what lies within another is not kept");
    assert!((1..5).all(|count| cursors.ack_id(single(count))));
    assert!(cursors.is_settled());
}

#[test]
fn addresses_are_bounded() {
    let mut cursors = Cursors::default();
    for i in 1..=20_000 {
        cursors.sent(&batch(&format!("user/{i}"), i, i, 1), 0..1);
        assert!(cursors.ack_id(MessageId::new(7, 1, 0, i)));
        if i % 100 == 0 {
            assert_eq!(cursors.take_moved().count(), 100, "none is forgotten before it is saved");
        }
    }
    assert!(cursors.addresses.len() <= 3 * TIDY_EVERY);
    for i in 1..=2 * limits::CURSOR_ADDRESSES_MAX as u64 {
        cursors.sent(&batch(&format!("group/{i}"), i, i, 1), 0..1);
    }
    assert_eq!(cursors.addresses.len(), limits::CURSOR_ADDRESSES_MAX);
    assert!(!cursors.is_settled());
}

#[test]
fn what_is_refused_or_passed_over_holds_the_cursor() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    let single = |count| MessageId::new(7, 1, 0, count);
    let passed = batch("user/a", 5, 1, 2);
    cursors.pass_over(&passed, 0..2);
    assert_eq!(cursors.ack_upto(&to, at(5)), Err(NotSent));
    cursors.sent(&batch("user/a", 10, 4, 3), 0..3);
    assert_eq!(cursors.ack_upto(&to, at(10)), Ok(()));
    assert_eq!(moved(&mut cursors), Some(4));
    cursors.keep_moved([to.clone()]);
    assert_eq!((moved(&mut cursors), moved(&mut cursors)), (Some(4), None), "could not be saved at first");
    cursors.sent(&passed, 0..2);
    assert!(cursors.ack_id(single(1)) && cursors.ack_id(single(2)));
    assert_eq!(moved(&mut cursors), Some(10));
    assert!(cursors.nack(single(5)) && !cursors.nack(single(5)) && !cursors.ack_id(single(5)));
    assert_eq!(cursors.ack_upto(&to, at(12)), Ok(()));
    assert_eq!(moved(&mut cursors), None, "11 is refused");
    cursors.pass_over(&batch("user/a", 20, 7, 1), 0..1);
    cursors.sent(&batch("user/a", 20, 7, 1), 0..1);
    cursors.sent(&batch("user/a", 11, 5, 1), 0..1);
    assert!(cursors.ack_id(single(5)));
    assert_eq!(moved(&mut cursors), Some(12), "20 is in flight");
    assert_eq!(cursors.ack_upto(&to, at(20)), Ok(()));
    assert!(cursors.is_settled());
}

#[test]
fn what_cannot_be_read_holds_the_cursor() {
    let to = Address::parse("user/a").unwrap();
    for (after, expected) in [(Some(4), Some(4)), (Some(9), Some(9)), (Some(12), Some(21)), (None, None)] {
        let mut cursors = Cursors::default();
        cursors.hold(&to, after.map(at), at(12));
        cursors.sent(&batch("user/a", 20, 1, 2), 0..2);
        assert_eq!(cursors.ack_upto(&to, at(21)), Ok(()));
        assert_eq!(moved(&mut cursors), expected, "behind {after:?}");
        assert_eq!(cursors.is_settled(), expected == Some(21));
    }
    // Behind what was sent and acknowledged, and what of it comes after all.
    let mut cursors = Cursors::default();
    cursors.sent(&batch("user/a", 1, 1, 4), 0..4);
    cursors.hold(&to, Some(at(4)), at(12));
    assert_eq!(cursors.ack_upto(&to, at(4)), Ok(()));
    cursors.sent(&batch("user/a", 11, 5, 3), 0..3);
    assert_eq!(cursors.ack_upto(&to, at(13)), Ok(()));
    assert_eq!(moved(&mut cursors), Some(4));
    cursors.sent(&batch("user/a", 5, 8, 6), 0..6);
    assert_eq!(moved(&mut cursors), None);
    assert!((8..14).all(|count| cursors.ack_id(MessageId::new(7, 1, 0, count))));
    assert_eq!(moved(&mut cursors), Some(13));
}

#[test]
fn an_ack_may_name_a_message_that_is_not_stored() {
    let (mut cursors, to) = (Cursors::default(), Address::parse("user/a").unwrap());
    cursors.ack_before(&to, at(9));
    cursors.sent(&batch("user/a", 10, 1, 2), 0..2);
    cursors.ack_before(&to, at(10));
    assert_eq!(moved(&mut cursors), Some(10));
    cursors.ack_before(&to, at(15));
    assert_eq!(moved(&mut cursors), Some(11));
    assert!(cursors.is_settled());
}
