//! What tails see of messages that are not batched, on one worker without a thread.

use super::*;
use crate::tail::{Shown, Tail, Wanted};
use crate::worker::alone::tests::worker;
use crate::worker::counters::Outcome;
use crate::worker::receipts::Asker;
use std::task::{Context, Poll, Waker};
use waspmq_core::{Code, Level};
use waspmq_protocol::Content as Kind;

/// Publishes `1` to `topic/asked`, or to what a policy chose instead.
fn publish(worker: &mut Worker, instead: &[&str], change: impl FnOnce(&mut Publish<'_>)) -> Option<Code> {
    let to = Address::parse("topic/asked").unwrap();
    let target = (to.clone(), worker.shared.rules.of(&to).clone());
    let destination = if instead.is_empty() {
        Destination::AsAddressed(None)
    } else {
        Destination::Instead(instead.iter().map(|to| Address::parse(to).unwrap()).collect())
    };
    let headers = Some(vec![("set".to_owned(), "by a policy".to_owned())]);
    let mut publish = Publish::new("topic/asked", Kind::Json, &b"1"[..]);
    change(&mut publish);
    let plan = Plan { destination, headers, level: publish.ack, ack: None, trace: None };
    let now = worker.shared.clock.now();
    let (id, from) = (worker.next_message_id(now), Name::parse("alice").unwrap());
    let source = Source { from: Some(&from), origin: None, exclude_origin: false, now };
    let alone = Alone { target: &target, plan: &plan, publish: &publish, id, source };
    worker.publish_alone(&alone, Asker::Nobody).err().map(|reject| reject.code)
}

fn open(worker: &Worker) -> Tail {
    worker.shared.tails.open(Wanted { payload: true, ..Wanted::default() }).unwrap()
}

/// What there is, as outcome, address, other addresses, whether it has an id and a position, and recipients.
fn read(tail: &mut Tail) -> Vec<(Outcome, String, usize, bool, bool, Option<u32>)> {
    let mut found = Vec::new();
    while let Poll::Ready(Some(shown)) = tail.poll_next(&mut Context::from_waker(Waker::noop())) {
        let Shown::Message(seen, 0) = shown else { panic!("{shown:?}") };
        let fate = &seen.fate;
        let has_id = seen.messages[0].id.is_some();
        let instead = seen.instead.len();
        found.push((
            fate.outcome,
            seen.to.to_string(),
            instead,
            has_id,
            fate.first.is_some(),
            fate.recipients,
        ));
        assert_eq!(seen.from.as_ref().map(Name::as_str), Some("alice"));
        let content = seen.messages[0].content.as_ref().unwrap();
        assert_eq!((&*content.payload, content.headers[0].0.as_str()), (&b"1"[..], "set"));
    }
    found
}

#[test]
fn each_way_of_a_message_is_shown_once() {
    let (mut worker, _) = worker();
    let mut tail = open(&worker);
    let asked = |outcome, instead, has_place, recipients| {
        vec![(outcome, "topic/asked".to_owned(), instead, true, has_place, recipients)]
    };
    let accepted = Outcome::Accepted;
    assert_eq!(publish(&mut worker, &[], |_| ()), None);
    assert_eq!(read(&mut tail), asked(accepted, 0, true, Some(0)), "as addressed");
    publish(&mut worker, &["topic/b"], |_| ());
    assert_eq!(read(&mut tail), asked(accepted, 1, true, Some(0)), "redirected: its place there");
    publish(&mut worker, &["topic/b", "topic/c"], |_| ());
    assert_eq!(read(&mut tail), asked(accepted, 2, false, Some(0)), "fanned out: it has several places");
    publish(&mut worker, &[], |publish| publish.delay_ms = 60_000);
    assert_eq!(read(&mut tail), asked(accepted, 0, false, None), "delayed: who will hear it is not known");
    worker.publish_due(worker.shared.clock.now().us / 1_000 + 60_001);
    assert_eq!(read(&mut tail), [], "its time is no publish");
    publish(&mut worker, &[], |publish| publish.dedup = Some("k".into()));
    publish(&mut worker, &[], |publish| publish.dedup = Some("k".into()));
    let repeated = [asked(accepted, 0, true, Some(0)), asked(Outcome::Duplicate, 0, false, Some(0))];
    assert_eq!(read(&mut tail), repeated.concat());
    publish(&mut worker, &["topic/b"], |publish| publish.dedup = Some("l".into()));
    assert_eq!(read(&mut tail), asked(accepted, 1, true, Some(0)), "with a key, redirected");
    assert_eq!(worker.counters().published.accepted.of(waspmq_core::Kind::Topic).load(), 6);
}

#[test]
fn an_address_that_refuses_its_part_is_shown_by_itself() {
    let (mut worker, _) = worker();
    let mut tail = open(&worker);
    let stored = |publish: &mut Publish<'_>| publish.ack = Level::Stored;
    assert_eq!(publish(&mut worker, &["topic/kept", "topic/never"], stored), None);
    let found = read(&mut tail);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].0, found[0].2, found[0].4), (Outcome::Accepted, 2, false));
    let part = (Outcome::Rejected, "topic/never".to_owned(), 0, true, false, None);
    assert_eq!(found[1], part);
    // One that none takes is shown by who tells its publisher.
    assert_eq!(publish(&mut worker, &["topic/never"], stored), Some(Code::NotStored));
    assert_eq!(read(&mut tail), []);
}
