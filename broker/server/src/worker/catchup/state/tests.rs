//! Turns, lost pages, what is held, and what a resume has still to read.

use super::left::later;
use super::*;
use crate::resumes::Replay;
use crate::worker::resume::Seen;
use crate::worker::resume::tests::record;
use waspmq_core::delivery::Cursors;
use waspmq_core::message::{Envelope, Slice};
use waspmq_core::{Level, MessageId, Stream};

fn reading(addresses: &[&str]) -> (Catching, Vec<Address>) {
    let mut catching = Catching::new(1_000);
    let addresses: Vec<_> = addresses.iter().map(|to| Address::parse(to).unwrap()).collect();
    for to in &addresses {
        catching.begin(to, 1, (Start::Earliest, Begin::Earliest, None));
    }
    (catching, addresses)
}

#[test]
fn one_page_is_asked_for_at_a_time_and_addresses_take_turns() {
    let (mut catching, of) = reading(&["topic/a", "topic/b"]);
    for round in 0..4 {
        let (number, to) = catching.next_turn().map(|(number, to)| (number, to.clone())).unwrap();
        assert_eq!(to, of[round % 2]);
        catching.handle_asked(&to, 0);
        assert!(catching.next_turn().is_none(), "a page is on its way");
        catching.handle_page(number);
        assert!(catching.reading(&to, number).is_some());
        catching.pass_turn(number);
        assert!(catching.reading(&to, number).is_none(), "the same page twice is one page");
    }
}

#[test]
fn a_lost_page_is_asked_for_again_and_is_none_when_it_comes_late() {
    let (mut catching, of) = reading(&["topic/a"]);
    let (lost, _) = catching.next_turn().unwrap();
    catching.handle_asked(&of[0], 0);
    catching.handle_time(ANSWER_WAIT_US - 1);
    assert!(catching.next_turn().is_none());
    catching.handle_time(ANSWER_WAIT_US);
    let (number, to) = catching.next_turn().map(|(number, to)| (number, to.clone())).unwrap();
    assert!(number > lost && to == of[0]);
    catching.handle_asked(&to, ANSWER_WAIT_US);
    catching.handle_page(lost);
    assert!(catching.next_turn().is_none() && catching.reading(&to, lost).is_none());
}

/// One message.
pub(in crate::worker::catchup) fn batch(to: &Address, is_kept: bool, bytes: usize) -> Arc<Batch> {
    let nothing = Slice::default();
    let message = Envelope {
        id: MessageId::new(1, 1, 0, 1),
        is_json: false,
        priority: 0,
        expires_unix_ms: 0,
        payload: nothing,
        headers: nothing,
        key: nothing,
        reply_to: nothing,
    };
    Arc::new(Batch {
        to: to.clone(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Accepted,
        is_kept,
        unix_ms: 1,
        published_us: 0,
        first: Position { stream: Stream { shard: 1, epoch: 1 }, offset: 1 },
        messages: vec![message],
        bytes: vec![0; bytes],
    })
}

#[test]
fn who_is_lost_while_it_holds_what_is_not_stored_has_missed_it() {
    let (mut catching, of) = reading(&["topic/a"]);
    assert_eq!(catching.hold(&[batch(&of[0], true, 10)], true), Some(0));
    assert!(!catching.holds_unstored(), "the store brings it");
    assert_eq!(catching.hold(&[batch(&of[0], false, 10)], true), Some(0));
    assert!(catching.holds_unstored() && !catching.has_gap);
    assert_eq!(catching.hold(&[batch(&of[0], false, limits::CATCH_UP_HELD_BYTES_MAX)], true), Some(1));
    assert!(catching.has_gap, "what was dropped was not said");
}

#[test]
fn what_the_latest_position_tells_is_not_read_again() {
    let to = Address::parse("topic/a").unwrap();
    let after = batch(&to, true, 1).first;
    let mut catching = Catching::new(1_000);
    catching.begin(&to, 1, (Start::After(after), Begin::After(after), None));
    assert_eq!(catching.replays(&Cursors::default()), []);
    catching.note_passed(2);
    assert_eq!(catching.replays(&Cursors::default()), [], "another shard");
    catching.note_passed(1);
    let again = Replay { of: Pattern::from(&to), begin: Begin::After(after), until: None };
    assert_eq!(catching.replays(&Cursors::default()), [again]);
    // What began anywhere else says nothing of what lies behind the position.
    let (catching, of) = reading(&["topic/a"]);
    let again = Replay { of: Pattern::from(&of[0]), begin: Begin::Earliest, until: None };
    assert_eq!(catching.replays(&Cursors::default()), [again]);
}

#[test]
fn what_was_acknowledged_is_not_read_again() {
    let (mut catching, of) = reading(&["topic/a"]);
    let first = batch(&of[0], true, 1);
    let at = |offset| Position { offset, ..first.first };
    let send = |cursors: &mut Cursors, offset| {
        cursors.sent(&Batch { first: at(offset), ..Batch::clone(&first) }, 0..1);
    };
    let begins = |catching: &Catching, cursors: &Cursors| -> Vec<_> {
        catching.replays(cursors).into_iter().map(|replay| replay.begin).collect()
    };
    let mut cursors = Cursors::default();
    (1..=3).for_each(|offset| send(&mut cursors, offset));
    assert_eq!(begins(&catching, &cursors), [Begin::Earliest]);
    cursors.ack_upto(&of[0], at(2)).unwrap();
    assert_eq!(begins(&catching, &cursors), [Begin::After(at(2))]);
    catching.note_passed(1);
    assert!(catching.end(&of[0], (Some(at(3)), at(9))).is_some());
    assert_eq!(begins(&catching, &cursors), [Begin::After(at(2))]);
    cursors.ack_upto(&of[0], at(3)).unwrap();
    assert_eq!(begins(&catching, &cursors), []);
    // An ack of what was sent before it began says nothing.
    catching.begin(&of[0], 1, (Start::Earliest, Begin::Earliest, cursors.last_sent(&of[0])));
    assert_eq!(begins(&catching, &cursors), [Begin::Earliest]);
    send(&mut cursors, 4);
    cursors.ack_upto(&of[0], at(4)).unwrap();
    assert_eq!(begins(&catching, &cursors), [Begin::After(at(4))]);
    assert_eq!(later(Begin::After(at(5)), Some(at(4))), Begin::After(at(5)));
}

#[test]
fn a_session_that_is_lost_while_its_resume_lists_has_still_to_read_what_it_had() {
    let of = |of| Replay { of: Pattern::parse(of).unwrap(), begin: Begin::Earliest, until: None };
    let before = vec![of("topic/a"), of("topic/b"), of("topic/c.d"), of("topic/c.>")];
    let seen = Arc::new(Seen::new(&record(before), &[]));
    let mut catching = Catching::new(1_000);
    catching.begin_listing(&Pattern::parse("topic/*").unwrap(), Start::Seen(seen));
    catching.note_resumed(&Address::parse("topic/b").unwrap());
    assert_eq!(catching.replays(&Cursors::default()), [of("topic/a"), of("topic/c.>")]);
}

#[test]
fn what_is_still_listed_is_said_before_the_addresses_that_are_read() {
    let (mut catching, of) = reading(&["topic/a", "topic/b"]);
    catching.note_all_passed();
    let position = batch(&of[0], true, 1).first;
    assert!(catching.end(&of[0], (Some(position), position)).is_some());
    let pattern = |of| Pattern::parse(of).unwrap();
    catching.begin_listing(&pattern("topic/>"), Start::Earliest);
    let left = catching.replays(&Cursors::default());
    let of: Vec<_> = left.iter().map(|replay| replay.of.as_str()).collect();
    assert_eq!(of, ["topic/>", "topic/a", "topic/b"]);
    let seen = Arc::new(Seen::new(&record(vec![left[0].clone()]), &[]));
    let (mut catching, _) = reading(&["topic/a"]);
    catching.begin_listing(&pattern("topic/*"), Start::Seen(seen));
    assert_eq!(catching.replays(&Cursors::default())[0], left[0]);
}

#[test]
fn what_is_listed_goes_on_where_it_was_although_its_shard_went_on() {
    let at = |shard, offset| Position { stream: Stream { shard, epoch: 3 }, offset };
    let after =
        |of, place| Replay { of: Pattern::parse(of).unwrap(), begin: Begin::After(place), until: None };
    let list = |catching: &mut Catching, seen: &Arc<Seen>| {
        for pattern in ["topic/>", "topic/*"] {
            catching.begin_listing(&Pattern::parse(pattern).unwrap(), Start::Seen(seen.clone()));
        }
    };
    // The session has `topic/>` in shard 5 since 40.
    let seen = Arc::new(Seen::new(&record(vec![after("topic/b", at(5, 7))]), &[at(5, 45)]));
    let mut catching = Catching::new(1_000);
    list(&mut catching, &seen);
    let carried = after("topic/b", at(5, 7));
    assert_eq!(catching.replays(&Cursors::default()), std::slice::from_ref(&carried), "once for both");
    catching.note_passed(6);
    assert_eq!(catching.replays(&Cursors::default()), std::slice::from_ref(&carried), "another shard");
    catching.note_passed(5);
    let left = catching.replays(&Cursors::default());
    assert_eq!(left, [carried, after("topic/>", at(5, 45))]);
    // Lost again in the same state, with a client that has seen more.
    let seen = Arc::new(Seen::new(&record(left.clone()), &[at(5, 60)]));
    let mut catching = Catching::new(1_000);
    list(&mut catching, &seen);
    catching.note_all_passed();
    assert_eq!(catching.replays(&Cursors::default()), left);
}

#[test]
fn a_store_that_fails_is_asked_again_by_the_next_sweep() {
    let (mut catching, of) = reading(&["topic/a"]);
    catching.is_stalled = true;
    assert!(catching.next_turn().is_none());
    catching.handle_time(1);
    assert!(catching.next_turn().is_some_and(|(_, to)| *to == of[0]));
}

#[test]
fn what_is_parked_has_no_turn_and_goes_on_behind_the_others() {
    let (mut catching, of) = reading(&["topic/a", "topic/b"]);
    let turn = |catching: &Catching| catching.next_turn().map(|(number, to)| (number, to.clone()));
    let (first, _) = turn(&catching).unwrap();
    catching.park(first, 70);
    assert!(turn(&catching).is_some_and(|(_, to)| to == of[1]));
    let (second, _) = turn(&catching).unwrap();
    catching.park(second, 50);
    assert_eq!((turn(&catching), catching.parked_bytes()), (None, Some(70)));
    assert!(!catching.is_idle());
    catching.unpark();
    assert_eq!(catching.parked_bytes(), None);
    let (number, to) = turn(&catching).unwrap();
    assert!(to == of[0] && number > second && catching.reading(&of[0], first).is_none());
}

#[test]
fn what_was_parked_and_begun_anew_has_one_turn() {
    let (mut catching, of) = reading(&["topic/a"]);
    let (first, _) = catching.next_turn().unwrap();
    catching.park(first, 1);
    catching.stop(&Pattern::from(&of[0]), |_| false);
    catching.begin(&of[0], 1, (Start::Earliest, Begin::Earliest, None));
    catching.unpark();
    assert_eq!(catching.turns.len(), 1);
    let (number, _) = catching.next_turn().unwrap();
    assert!(catching.reading(&of[0], number).is_some());
}

#[test]
fn what_is_not_wanted_any_more_has_no_turn() {
    let (mut catching, of) = reading(&["topic/a", "topic/b"]);
    catching.stop(&Pattern::from(&of[0]), |to| *to == of[1]);
    assert!(catching.next_turn().is_some_and(|(_, to)| *to == of[1]));
    catching.stop(&Pattern::from(&of[1]), |_| false);
    assert!(catching.is_idle() && catching.next_turn().is_none());
}
