//! The window against a naive model, and by example.

use super::*;
use crate::address::Pattern;
use crate::delivery::tests::{batch_to, id, name, position};
use crate::id::Stream;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PHONE: Sending<'_> = Sending { queue: None, attempt: 1, now_ms: 5 };

fn window() -> Window {
    Window::new(Bounds { messages_max: 1_000, bytes_max: 1 << 20 })
}

fn queue(pattern: &str, text: &str) -> QueueId {
    QueueId::new(Pattern::parse(pattern).unwrap(), name(text))
}

fn batch(first: u64, messages: usize) -> Arc<Batch> {
    batch_to("user/bob", first, &vec![0; messages])
}

fn shown(acked: &[Acked]) -> Vec<(u64, u16)> {
    acked.iter().map(|acked| (acked.first().unwrap().count(), acked.messages())).collect()
}

#[test]
fn cumulative_acks_take_whole_batches_and_parts() {
    let mut window = window();
    for first in [10, 20, 30] {
        window.sent(&batch(first, 4), 0..4, PHONE);
    }
    let to = Address::parse("user/bob").unwrap();
    let mut out = Vec::new();
    assert_eq!(window.ack_upto(&to, position(21), &mut out), Ok(()));
    assert_eq!(shown(&out), [(10, 4), (20, 2)]);
    assert_eq!(window.len(), 6);
    assert_eq!(window.ack_upto(&to, position(21), &mut out), Ok(()), "again");
    assert_eq!(window.ack_upto(&to, position(34), &mut out), Err(NotInFlight));
    let other = Position { stream: Stream { shard: 4, epoch: 1 }, offset: 22 };
    assert_eq!(window.ack_upto(&to, other, &mut out), Err(NotInFlight));
    assert_eq!(window.ack_upto(&Address::all(), position(21), &mut out), Err(NotInFlight));
    assert_eq!(out.len(), 2);
    assert_eq!(window.ack_upto(&to, position(33), &mut out), Ok(()));
    assert_eq!((window.len(), window.pinned_bytes()), (0, 0));
}

#[test]
fn what_fits_is_what_could_be_sent_one_by_one() {
    let bounds = Bounds { messages_max: 4, bytes_max: 1_000 };
    let check = |sent: usize, batches: &[(usize, usize)], expected: usize| {
        let mut window = Window::new(bounds);
        (0..sent as u64).for_each(|i| window.sent(&batch(10 * i, 1), 0..1, PHONE));
        assert_eq!(window.fits(batches.iter().copied()), expected, "{batches:?} behind {sent}");
    };
    check(0, &[(1, 10); 9], 4);
    check(0, &[(9, 9_999), (1, 10)], 1);
    check(0, &[(0, 0), (9, 9_999), (0, 0), (1, 10), (0, 0)], 3);
    check(2, &[(1, 10), (0, 0), (1, 10), (0, 0), (1, 10), (0, 0)], 4);
    check(2, &[(1, 1_000)], 0);
    check(4, &[(0, 0), (1, 1)], 1);
    check(4, &[], 0);
}

#[test]
fn a_window_is_filled_again_when_half_of_it_is_free() {
    let size = batch(1, 1).size_bytes();
    let mut window = Window::new(Bounds { messages_max: 4, bytes_max: 8 * size });
    (1..=4).for_each(|i| window.sent(&batch(10 * i, 1), 0..1, PHONE));
    let to = Address::parse("user/bob").unwrap();
    for (upto, expected) in [(10, false), (20, true), (40, true)] {
        window.ack_upto(&to, position(upto), &mut Vec::new()).unwrap();
        assert_eq!(window.is_half_free(size), expected, "{upto}");
    }
    window.sent(&batch(50, 1), 0..1, PHONE);
    assert!(
        window.is_half_free(7 * size) && !window.is_half_free(8 * size),
        "a large one waits for more room"
    );
}

#[test]
fn a_refused_message_is_not_in_flight_until_it_is_sent_again() {
    let (mut window, mut out) = (window(), Vec::new());
    let batch = batch(10, 4);
    window.sent(&batch, 0..4, PHONE);
    assert!(window.nack(id(12), None, &mut out));
    assert_eq!(out[0].range, 2..3);
    assert!(!window.nack(id(12), None, &mut out) && !window.nack(id(99), None, &mut out));
    window.ack_ids(&[10, 11, 13].map(id), None, &mut out);
    assert_eq!(window.len(), 0);
    window.sent(&batch, 2..3, Sending { attempt: 2, ..PHONE });
    assert_eq!(window.find(id(12)).collect::<Vec<_>>(), [(&batch.to, 5, 2)]);
    assert_eq!((window.ack_ids(&[id(12)], None, &mut out), window.len()), (0, 0));
}

#[test]
fn a_cumulative_ack_covers_a_repeat_only_when_it_may_have_been_seen() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    let (early, late) = (batch(10, 4), batch(20, 2));
    window.sent(&early, 0..4, PHONE);
    window.nack(id(11), None, &mut Vec::new());
    window.sent(&early, 1..2, PHONE);
    assert_eq!(window.ack_upto(&to, position(12), &mut out), Ok(()));
    assert_eq!(shown(&out), [(10, 1), (12, 1)], "the ack may be older than the repeat");
    out.clear();
    window.sent(&late, 0..2, PHONE);
    assert_eq!(window.ack_upto(&to, position(20), &mut out), Ok(()));
    assert_eq!(shown(&out), [(11, 1), (13, 1), (20, 1)], "20 was sent behind it");
    window.sent(&early, 2..3, PHONE);
    out.clear();
    assert_eq!(window.ack_upto(&to, position(12), &mut out), Ok(()));
    assert_eq!(shown(&out), [(12, 1)], "named itself");
}

#[test]
fn a_repeat_of_what_is_in_flight_is_as_old_as_that() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    let batch = batch(10, 4);
    window.sent(&batch, 0..4, PHONE);
    window.sent(&batch, 1..3, Sending { attempt: 2, ..PHONE });
    window.ack_upto(&to, position(13), &mut out).unwrap();
    assert_eq!((shown(&out), window.len()), (vec![(10, 1), (11, 2), (13, 1)], 0));
}

#[test]
fn plain_and_queues_are_apart() {
    let (mut window, batch, mut out) = (window(), batch(10, 4), Vec::new());
    let [jobs, more] = ["jobs", "more"].map(|name| queue("user/bob", name));
    window.sent(&batch, 0..4, PHONE);
    window.sent(&batch, 1..2, Sending { queue: Some(&jobs), ..PHONE });
    window.sent(&batch, 1..2, Sending { queue: Some(&more), ..PHONE });
    assert_eq!(window.len(), 6);
    assert_eq!(window.ack_ids(&[id(11), id(12)], Some(jobs.name()), &mut out), 1);
    assert_eq!(out[0].queue.as_ref(), Some(&jobs));
    assert_eq!(window.ack_ids(&[10, 11, 13, 14].map(id), None, &mut out), 1);
    assert_eq!(shown(&out), [(11, 1), (10, 2), (13, 1)]);
    let forged = MessageId::new(999, 1, 0, 12);
    assert_eq!(window.ack_ids(&[forged], None, &mut out), 1);
    let rest: Vec<_> = window.drain().collect();
    assert_eq!((rest.len(), window.len(), window.pinned_bytes()), (2, 0, 0));
}

#[test]
fn a_name_is_for_the_queues_of_all_patterns() {
    let (mut window, batch, mut out) = (window(), batch(10, 4), Vec::new());
    let [token, rest, other] = [("topic/a.*", "jobs"), ("topic/a.>", "jobs"), ("topic/a.*", "more")]
        .map(|(of, name)| queue(of, name));
    for queue in [&token, &rest, &other] {
        window.sent(&batch, 0..3, Sending { queue: Some(queue), ..PHONE });
    }
    let of = |out: &[Acked]| out.iter().map(|acked| acked.queue.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(window.ack_ids(&[id(10)], Some(token.name()), &mut out), 0);
    assert_eq!((of(&out), window.len()), (vec![token.clone(), rest.clone()], 7));
    out.clear();
    assert_eq!(window.lose_of_queue(id(11), &rest, &batch.to).unwrap().queue.as_ref(), Some(&rest));
    assert!(window.lose_of_queue(id(11), &rest, &batch.to).is_none());
    assert!(window.lose_of_queue(id(10), &token, &batch.to).is_none());
    assert!(window.nack(id(11), Some(token.name()), &mut out));
    assert_eq!((of(&out), window.len()), (vec![token.clone()], 5));
    assert!(!window.nack(id(11), Some(token.name()), &mut out));
    let rest: Vec<_> = window.drain().map(|acked| (acked.queue.unwrap(), acked.range)).collect();
    assert_eq!(rest, [(token, 2..3), (queue("topic/a.>", "jobs"), 2..3), (other, 0..3)]);
    assert_eq!((window.len(), window.pinned_bytes()), (0, 0));
}

#[test]
fn an_ack_by_id_is_for_each_address_of_a_message() {
    let (mut window, mut out, jobs) = (window(), Vec::new(), queue("topic/>", "jobs"));
    let sent = |window: &mut Window, queue: Option<&QueueId>| {
        for (to, offset) in [("topic/audit", 7), ("topic/orders.x", 3)] {
            let mut batch = Arc::unwrap_or_clone(batch_to(to, 10, &[0]));
            batch.first = position(offset);
            window.sent(&Arc::new(batch), 0..1, Sending { queue, ..PHONE });
        }
    };
    let of = |out: &mut Vec<Acked>| out.drain(..).map(|acked| acked.batch.to.to_string()).collect::<Vec<_>>();
    let both = ["topic/audit", "topic/orders.x"];
    for queue in [None, Some(&jobs)] {
        let name = queue.map(QueueId::name);
        // With the index made meanwhile, and before.
        for _ in 0..2 {
            sent(&mut window, queue);
            sent(&mut window, queue);
            assert_eq!((window.len(), window.ack_ids(&[id(10)], name, &mut out)), (2, 0));
            let mut acked = of(&mut out);
            acked.sort();
            assert_eq!(
                (&acked[..], window.len(), window.pinned_bytes()),
                (&both.map(str::to_owned)[..], 0, 0)
            );
        }
        sent(&mut window, queue);
        let first = Address::parse(both[0]).unwrap();
        if let Some(queue) = queue {
            let other = window.lose_of_queue(id(10), queue, &Address::parse(both[1]).unwrap()).unwrap();
            assert_eq!(other.batch.to.as_str(), both[1]);
        } else {
            window.lose(&Address::parse(both[1]).unwrap(), position(3), 3, &mut Vec::new());
        }
        assert!(window.nack(id(10), name, &mut out), "at the one where it is in flight");
        assert_eq!((of(&mut out), window.ack_ids(&[id(10)], name, &mut out)), (vec![first.to_string()], 1));
    }
}

/// The window of the next connection.
fn next(window: &mut Window) -> Window {
    assert!(window.drain().all(|lost| lost.attempt > 0));
    let mut next = self::window();
    next.go_on(window.left());
    next
}

#[test]
fn what_was_in_flight_before_is_acknowledged_without_being_in_flight() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    window.sent(&batch(10, 4), 0..4, Sending { attempt: 3, ..PHONE });
    window.sent(&batch(20, 2), 0..2, PHONE);
    let mut window = next(&mut window);
    assert_eq!((window.len(), window.pinned_bytes(), window.find(id(11)).count()), (0, 0, 0));
    assert!(!window.nack(id(11), None, &mut out), "it comes again in any case");
    assert_eq!(window.ack_ids(&[11, 11, 99].map(id), None, &mut out), 2);
    assert_eq!((shown(&out), out[0].attempt, out[0].sent_ms), (vec![(11, 1)], 3, 5));
    assert_eq!((&out[0].batch.to, out[0].batch.bytes.len()), (&to, 0), "without its payload");
    out.clear();
    // An ack of what this connection was sent does not say that what the other was sent arrived.
    window.sent(&batch(30, 1), 0..1, PHONE);
    assert_eq!(window.ack_upto(&to, position(30), &mut out), Ok(()));
    assert_eq!(shown(&out), [(30, 1)]);
    out.clear();
    assert_eq!(window.ack_upto(&to, position(13), &mut out), Ok(()));
    assert_eq!(shown(&out), [(10, 1), (12, 2)]);
    out.clear();
    // What is sent again is in flight, and that only.
    window.sent(&batch(20, 2), 0..1, Sending { attempt: 2, ..PHONE });
    assert!(window.nack(id(20), None, &mut out));
    assert_eq!((window.ack_ids(&[20, 21].map(id), None, &mut out), shown(&out)), (1, vec![(20, 1), (21, 1)]));
}

#[test]
fn each_connection_has_an_order_of_its_own() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    window.sent(&batch(10, 4), 0..4, PHONE);
    let mut window = next(&mut window);
    window.sent(&batch(20, 4), 0..4, PHONE);
    let mut window = next(&mut next(&mut window));
    assert_eq!(window.ack_upto(&to, position(21), &mut out), Ok(()));
    assert_eq!(shown(&out), [(20, 2)], "those of the first may never have arrived");
    out.clear();
    assert_eq!(window.ack_upto(&to, position(11), &mut out), Ok(()));
    assert_eq!(shown(&out), [(10, 2)]);
    assert_eq!(window.ack_ids(&[12, 13, 22, 23].map(id), None, &mut out), 0);
    assert!(window.left().is_empty());
}

#[test]
fn an_ack_of_what_came_before_says_nothing_of_what_is_sent_now() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    for at in [3, 5] {
        window.sent(&batch(at, 1), 0..1, PHONE);
    }
    // Dropped on its way, or refused: the device has never got it, or does not want it yet.
    window.lose(&to, position(3), 3, &mut out);
    let mut window = next(&mut window);
    window.sent(&batch(3, 1), 0..1, Sending { attempt: 2, ..PHONE });
    window.sent(&batch(7, 1), 0..1, PHONE);
    out.clear();
    let other = Position { stream: Stream { shard: 4, epoch: 1 }, offset: 5 };
    assert_eq!(window.ack_upto(&to, other, &mut out), Err(NotInFlight));
    assert_eq!(window.ack_upto(&to, position(5), &mut out), Ok(()));
    assert_eq!((shown(&out), window.len()), (vec![(5, 1)], 2));
    assert_eq!(window.ack_upto(&to, position(7), &mut out), Ok(()));
    assert_eq!((shown(&out), window.len()), (vec![(5, 1), (3, 1), (7, 1)], 0));
}

#[test]
fn what_a_queue_gave_is_not_left() {
    let (mut window, jobs, mut out) = (window(), queue("topic/>", "jobs"), Vec::new());
    window.sent(&batch(10, 4), 0..4, Sending { queue: Some(&jobs), ..PHONE });
    let mut window = next(&mut window);
    for queue in [None, Some(jobs.name())] {
        assert_eq!(window.ack_ids(&[id(10)], queue, &mut out), 1, "another member may have it");
    }
}

#[test]
fn what_is_left_is_bounded() {
    let (mut window, mut out) = (Window::default(), Vec::new());
    let ids: Vec<_> = (1..=limits::WINDOW_MESSAGES_MAX as u64).map(|at| id(2 * at)).collect();
    for id in &ids {
        window.sent(&batch(id.count(), 1), 0..1, PHONE);
    }
    let mut window = next(&mut window);
    let bytes: usize = window.before.iter().map(Window::pinned_bytes).sum();
    assert!(bytes <= limits::WINDOW_LEFT_BYTES_MAX, "{bytes}");
    let missing = window.ack_ids(&ids, None, &mut out);
    let first = ids.iter().zip(&out).all(|(id, acked)| acked.first() == Some(*id));
    assert!(first && out.len() > 1_000 && out.len() + missing == ids.len(), "{missing} of the last");
    out.clear();
    for at in 1..=limits::WINDOW_LEFT_CONNECTIONS_MAX as u64 + 1 {
        window.sent(&batch(10 * at, 1), 0..1, PHONE);
        window = next(&mut next(&mut window));
    }
    assert_eq!(window.ack_ids(&[10, 20, 90].map(id), None, &mut out), 1);
    assert_eq!(shown(&out), [(20, 1), (90, 1)], "the earliest is forgotten");
}

#[test]
fn an_empty_window_takes_any_batch() {
    let mut window = Window::new(Bounds { messages_max: 2, bytes_max: 10 });
    assert!(window.has_room(9, 9_999));
    window.sent(&batch(1, 1), 0..1, PHONE);
    assert!(!window.has_room(1, 0), "bytes");
    let mut window = Window::new(Bounds { messages_max: 2, bytes_max: 9_999 });
    window.sent(&batch(1, 1), 0..1, PHONE);
    assert!(window.has_room(1, 1) && !window.has_room(2, 1) && !window.has_room(1, 9_999));
}

#[test]
fn idle_addresses_are_forgotten_when_there_are_many() {
    let (mut window, mut out) = (window(), Vec::new());
    for index in 0..limits::WINDOW_IDLE_LANES_MAX as u64 + 9 {
        let batch = batch_to(&format!("topic/t{index}"), index, &[0]);
        window.sent(&batch, 0..1, PHONE);
        // However they left the window.
        match index % 3 {
            _ if index == 3 => {}
            0 => window.ack_upto(&batch.to, position(index), &mut out).unwrap(),
            1 => assert!(window.nack(id(index), None, &mut out)),
            _ => window.lose(&batch.to, position(index), index, &mut out),
        }
    }
    assert!(window.lanes.len() < 12 && window.find(id(3)).count() == 1);
}

#[test]
fn the_look_for_idle_addresses_is_shared_by_those_that_come() {
    let mut window = window();
    let many = 2 * limits::WINDOW_IDLE_LANES_MAX as u64;
    for index in 0..=many {
        window.sent(&batch_to(&format!("topic/t{index}"), index, &[0]), 0..1, PHONE);
    }
    assert_eq!(
        (window.len() as u64, window.tidy_at.0 as u64),
        (many + 1, 2 * many),
        "one look at each doubling"
    );
}

/// In flight, by address or queue and by count: attempt.
type Model = BTreeMap<(String, u64), Entry>;

#[derive(Debug, Clone, Copy)]
struct Entry {
    attempt: u16,
    turn: u16,
    is_late: bool,
}

/// Two addresses with three batches each, of which one worker's and another's lie in between.
fn batches() -> Vec<Arc<Batch>> {
    let batch = |index: u64| {
        let to = if index.is_multiple_of(2) { "user/bob" } else { "topic/a" };
        batch_to(to, 100 * index + 10, &[0; 9])
    };
    (0..6).map(batch).collect()
}

proptest! {
    #[test]
    fn like_the_model(
        steps in prop::collection::vec((0u8..8, 0usize..6, 0u16..9, 1u16..9, 0usize..3), 1..120),
    ) {
        let (batches, jobs, mut window) = (batches(), queue("topic/>", "jobs"), window());
        let (mut model, mut high, mut attempt) = (Model::new(), BTreeMap::<String, u64>::new(), 0);
        // What earlier connections left, the latest first.
        let mut before = Vec::<Model>::new();
        for (kind, batch, from, messages, queue) in steps {
            let batch = &batches[batch];
            let range = from..(from + messages).min(9);
            let queue = (queue == 0).then_some(&jobs);
            let lane = queue.map_or_else(|| batch.to.to_string(), |_| "queue".to_owned());
            let count = |index: u16| batch.messages[usize::from(index)].id.count();
            let mut out = Vec::new();
            let mut expected = Vec::new();
            match kind {
                0..3 => {
                    attempt += 1;
                    window.sent(batch, range.clone(), Sending { queue, attempt, now_ms: 1 });
                    let keys: Vec<_> = range.clone().map(|index| (lane.clone(), count(index))).collect();
                    let old: Vec<_> = keys.iter().filter_map(|key| model.get(key)).copied().collect();
                    let is_late = high.get(&lane).is_some_and(|last| count(range.start) <= *last);
                    let mut entry = Entry { attempt, turn: attempt, is_late };
                    if is_late && old.len() == keys.len() {
                        entry.turn = old.iter().map(|old| old.turn).max().unwrap();
                        entry.is_late = old.iter().any(|old| old.is_late);
                    }
                    before.iter_mut().for_each(|left| left.retain(|key, _| !keys.contains(key)));
                    model.extend(keys.into_iter().map(|key| (key, entry)));
                    let last = high.entry(lane).or_default();
                    *last = (*last).max(count(range.end - 1));
                }
                3 | 4 => {
                    let (to, upto) = (batch.to.to_string(), count(from));
                    let answer = window.ack_upto(&batch.to, position(upto), &mut out);
                    let known = high.get(&to).is_some_and(|last| upto <= *last);
                    let named = (to.clone(), upto);
                    let left = before.iter_mut().find(|left| left.contains_key(&named));
                    prop_assert_eq!(answer.is_ok(), known || left.is_some());
                    if let Some(model) = left.or_else(|| known.then_some(&mut model)) {
                        let turn = model.get(&named).map_or(0, |entry| entry.turn);
                        let covered = |(of, at): &(String, u64), entry: &Entry| {
                            *of == to && *at <= upto && (!entry.is_late || entry.turn <= turn)
                        };
                        expected.extend(model.extract_if(.., |key, entry| covered(key, entry)));
                    }
                }
                5 => {
                    let ids: Vec<_> = range.clone().map(|index| batch.messages[usize::from(index)].id).collect();
                    let missing = window.ack_ids(&ids, queue.map(QueueId::name), &mut out);
                    for index in range {
                        let key = (lane.clone(), count(index));
                        expected.extend(before.iter_mut().filter_map(|left| left.remove_entry(&key)));
                        expected.extend(model.remove_entry(&key));
                    }
                    prop_assert_eq!(missing, ids.len() - expected.len());
                }
                6 => {
                    window.nack(batch.messages[usize::from(from)].id, queue.map(QueueId::name), &mut out);
                    expected.extend(model.remove_entry(&(lane, count(from))));
                }
                _ if messages == 8 => {
                    out.extend(window.drain());
                    expected.extend(std::mem::take(&mut model));
                    high.clear();
                    let plain = expected.iter().filter(|((of, _), _)| of != "queue").cloned();
                    before.insert(0, plain.collect());
                    before.retain(|left| !left.is_empty());
                    before.truncate(limits::WINDOW_LEFT_CONNECTIONS_MAX);
                }
                _ => {
                    let attempt = model.iter().filter(|((_, at), _)| *at == count(from)).map(|(_, entry)| entry.attempt);
                    let found = window.find(batch.messages[usize::from(from)].id).map(|(.., attempt)| attempt).next();
                    let attempts: Vec<_> = attempt.collect();
                    prop_assert!(found.map_or(attempts.is_empty(), |found| attempts.contains(&found)));
                }
            }
            let mut taken: Vec<_> = out.iter().flat_map(|acked| {
                let lane = acked.queue.as_ref().map_or_else(|| acked.batch.to.to_string(), |_| "queue".to_owned());
                let first = acked.first().unwrap().count();
                (first..first + u64::from(acked.messages())).map(move |at| ((lane.clone(), at), acked.attempt))
            }).collect();
            let mut expected: Vec<_> =
                expected.into_iter().map(|(key, entry): (_, Entry)| (key, entry.attempt)).collect();
            taken.sort();
            expected.sort();
            prop_assert_eq!(taken, expected);
            prop_assert_eq!(window.len(), model.len());
            // Charged: each batch once per lane and stretch, so at least once and never more than once per message.
            let pinned: std::collections::BTreeSet<_> =
                model.keys().map(|(lane, at)| (lane.clone(), at / 100)).collect();
            let size = batch.size_bytes();
            prop_assert!(window.pinned_bytes() >= pinned.len() * size);
            prop_assert!(window.pinned_bytes() <= pinned.len() * size, "neighbours share");
        }
    }
}

#[test]
fn what_was_lost_is_in_no_ack() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    let (first, second) = (batch(10, 4), batch(20, 4));
    window.sent(&first, 0..4, PHONE);
    window.sent(&second, 0..4, PHONE);
    window.lose(&to, position(12), 21, &mut out);
    assert_eq!(shown(&out), [(12, 2), (20, 2)]);
    out.clear();
    window.lose(&Address::all(), position(10), 23, &mut out);
    window.lose(&to, Position { stream: Stream { shard: 4, epoch: 1 }, offset: 10 }, 23, &mut out);
    assert!(out.is_empty(), "of another stream");
    assert_eq!(window.ack_upto(&to, position(23), &mut out), Ok(()));
    assert_eq!(shown(&out), [(10, 2), (22, 2)]);
    assert_eq!((window.len(), window.pinned_bytes()), (0, 0));
    out.clear();
    window.sent(&first, 2..4, Sending { attempt: 2, ..PHONE });
    window.sent(&second, 0..2, Sending { attempt: 2, ..PHONE });
    window.lose(&to, position(13), 13, &mut out);
    assert_eq!((shown(&out), window.len()), (vec![(13, 1)], 3), "out of the middle");
    assert_eq!((window.ack_ids(&[12, 20, 21].map(id), None, &mut out), window.len()), (0, 0));
}

#[test]
fn an_ack_may_name_a_message_that_is_not_tracked() {
    let (mut window, to, mut out) = (window(), Address::parse("user/bob").unwrap(), Vec::new());
    window.ack_before(&to, position(9), &mut out);
    window.sent(&batch(10, 4), 0..4, PHONE);
    assert_eq!(window.ack_upto(&to, position(30), &mut out), Err(NotInFlight));
    window.ack_before(&to, Position { stream: Stream { shard: 4, epoch: 1 }, offset: 30 }, &mut out);
    assert!(out.is_empty());
    window.ack_before(&to, position(30), &mut out);
    assert_eq!((shown(&out), window.is_empty()), (vec![(10, 4)], true));
}
