//! The tracker and the window by example: each cause, each quorum, the ledger and the bounds.

use super::*;
use crate::address::{Address, Pattern};
use crate::id::{MessageId, Position, SessionId, Stream};
use crate::level::Level;
use crate::limits;
use crate::message::{Batch, Envelope, Slice};
use crate::policy::{Acking, Acknowledgement, BySettings, Decision, Failure, Message};
use crate::settings::Settings;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

static TO: LazyLock<Address> = LazyLock::new(|| Address::parse("user/bob").unwrap());
const PUBLISHER: SessionId = SessionId::new(1, 0, 77);
const DEVICE: SessionId = SessionId::new(1, 1, 5);

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn user(text: &str) -> Recipient {
    Recipient::User(name(text))
}

pub(super) fn id(count: u64) -> MessageId {
    MessageId::new(1_000, 1, 0, count)
}

pub(super) fn position(offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch: 1 }, offset }
}

/// Messages with counts and offsets from `first` on, published at 1000 ms on both clocks.
pub(super) fn batch_to(to: &str, first: u64, expires_unix_ms: &[u64]) -> Arc<Batch> {
    let envelope = |(index, &expires_unix_ms): (usize, &u64)| Envelope {
        id: id(first + index as u64),
        is_json: true,
        priority: 0,
        expires_unix_ms,
        payload: Slice::default(),
        headers: Slice::default(),
        key: Slice::default(),
        reply_to: Slice::default(),
    };
    Arc::new(Batch {
        to: Address::parse(to).unwrap(),
        from: Some(name("alice")),
        origin: Some(PUBLISHER),
        exclude_origin: false,
        level: Level::Delivered,
        is_kept: true,
        unix_ms: 1_000,
        published_us: 1_000_000,
        first: position(first),
        messages: expires_unix_ms.iter().enumerate().map(envelope).collect(),
        bytes: Vec::new(),
    })
}

fn batch(first: u64, messages: usize) -> Arc<Batch> {
    batch_to("user/bob", first, &vec![0; messages])
}

const PLAN: AckPlan = AckPlan {
    quorum: Quorum::All,
    timeout_ms: 100,
    attempts: 3,
    backoff: Backoff { initial_ms: 10, max_ms: 40, jitter_percent: 0 },
    exhausted: Exhausted::DeadLetter,
};

/// A tracker with a clock, whose events are shown as text.
struct Bench {
    tracker: Tracker,
    now_ms: u64,
    acking: Box<dyn Acking>,
    events: Vec<Event>,
}

impl Bench {
    fn new() -> Self {
        Self::with(BySettings)
    }

    fn with(acking: impl Acking + 'static) -> Self {
        let tracker = Tracker::new(Bounds::default(), 7);
        Self { tracker, now_ms: 1_000, acking: Box::new(acking), events: Vec::new() }
    }

    fn run(&mut self, call: impl FnOnce(&mut Tracker, &mut Turn<'_>)) -> Vec<String> {
        let mut turn = Turn { now_ms: self.now_ms, acking: &mut *self.acking, out: &mut self.events };
        call(&mut self.tracker, &mut turn);
        let shown = self.events.drain(..).map(|event| show(&event)).collect();
        let stats = self.tracker.stats();
        assert_eq!((stats.flights, stats.flights == 0), (stats.timers, stats.deliveries == 0), "{stats:?}");
        assert!(stats.flights > 0 || (stats.waiting == 0 && stats.bytes == 0), "{stats:?}");
        shown
    }

    fn begin(&mut self, batch: &Arc<Batch>, recipients: &[Recipient], plan: AckPlan) -> Vec<String> {
        self.begin_with(batch, recipients, &[], plan)
    }

    fn begin_with(
        &mut self,
        batch: &Arc<Batch>,
        recipients: &[Recipient],
        offline: &[Recipient],
        plan: AckPlan,
    ) -> Vec<String> {
        let mut references = References::default();
        for index in 0..u16::try_from(batch.messages.len()).unwrap() {
            references.push(500 + u64::from(index), index);
        }
        let flight = Flight {
            batch: batch.clone(),
            recipients: recipients.iter().cloned().collect(),
            offline: offline.to_vec(),
            plan,
            publisher: Some(PUBLISHER),
            references,
        };
        self.run(|tracker, turn| tracker.begin(flight, turn))
    }

    /// What is known of a message that has one address.
    fn entry(&self, id: MessageId) -> Option<LedgerEntry> {
        let mut entries = self.tracker.entries(id);
        assert!(entries.len() < 2, "{entries:#?}");
        entries.pop()
    }

    fn acked(&mut self, counts: Range<u64>, recipient: &Recipient) -> Vec<String> {
        let report = Report { session: Some(DEVICE), ..report(counts, recipient, 1) };
        self.run(|tracker, turn| tracker.handle_acked(&report, turn.now_ms, turn.out))
    }

    fn failed(&mut self, report: &Report<'_>, cause: Cause, retry_ms: Option<u32>) -> Vec<String> {
        self.run(|tracker, turn| {
            tracker.handle_failed(report, Failed { retry_ms, ..Failed::by(cause) }, turn)
        })
    }

    /// Lets time pass, stopping wherever the tracker wants to be asked.
    fn until(&mut self, at_ms: u64) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some(due_ms) = self.tracker.next_due_ms().filter(|due_ms| *due_ms <= at_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            let now_ms = self.now_ms;
            let events = self.run(|tracker, turn| tracker.advance(turn));
            shown.extend(events.into_iter().map(|event| format!("{now_ms} {event}")));
        }
        self.now_ms = at_ms;
        shown
    }
}

fn report(counts: Range<u64>, recipient: &Recipient, attempt: u16) -> Report<'_> {
    let messages = u16::try_from(counts.end - counts.start).unwrap();
    Report {
        first: id(counts.start),
        messages,
        to: &TO,
        recipient,
        device: None,
        session: None,
        attempt,
        sent_ms: 1_000,
    }
}

fn show(event: &Event) -> String {
    let to = |recipient: &Recipient| match recipient {
        Recipient::User(name) => name.to_string(),
        Recipient::Queue(queue) => queue.name().to_string(),
    };
    match event {
        Event::Reached { reference, range, recipients, .. } => {
            format!("reached {range:?} ref {reference} by {recipients}")
        }
        Event::NotDelivered { reference, range, cause, attempts, .. } => {
            format!("not delivered {range:?} ref {reference} {} after {attempts}", cause.as_str())
        }
        Event::Redeliver { range, recipient, attempt, avoid, .. } => {
            let avoid = avoid.map_or(String::new(), |session| format!(" not {session}"));
            format!("redeliver {range:?} to {} attempt {attempt}{avoid}", to(recipient))
        }
        Event::DeadLetter { range, recipient, cause, attempts, .. } => {
            format!("dead letter {range:?} of {} {} after {attempts}", to(recipient), cause.as_str())
        }
        Event::Store { range, recipient, .. } => format!("store {range:?} of {}", to(recipient)),
        Event::Dropped { range, recipient, cause, attempts, .. } => {
            format!("dropped {range:?} of {} {} after {attempts}", to(recipient), cause.as_str())
        }
    }
}

#[test]
fn a_batch_acknowledged_as_a_whole() {
    let mut bench = Bench::new();
    assert_eq!(bench.begin(&batch(10, 512), &[user("bob")], PLAN), [""; 0]);
    assert_eq!(bench.acked(10..522, &user("bob")), ["reached 0..512 ref 500 by 1"]);
    assert_eq!(bench.tracker.stats().flights, 0);
    assert_eq!(bench.acked(10..522, &user("bob")), [""; 0]);
    assert_eq!(bench.tracker.stats().ignored, 512);
}

#[test]
fn timeouts_are_retried_and_then_a_dead_letter() {
    let mut bench = Bench::new();
    bench.begin(&batch(1, 2), &[user("bob")], PLAN);
    assert_eq!(bench.acked(1..2, &user("bob")), ["reached 0..1 ref 500 by 1"]);
    assert_eq!(
        bench.until(9_999),
        [
            "1110 redeliver 1..2 to bob attempt 2",
            "1230 redeliver 1..2 to bob attempt 3",
            "1330 dead letter 1..2 of bob timeout after 3",
            "1330 not delivered 1..2 ref 501 timeout after 3",
        ]
    );
}

#[test]
fn each_cause_leads_to_the_next_attempt_and_an_end() {
    for cause in [Cause::Timeout, Cause::Nack, Cause::QueueFull, Cause::ConnectionLost] {
        let mut bench = Bench::new();
        let bob = user("bob");
        bench.begin(&batch(1, 1), std::slice::from_ref(&bob), PLAN);
        for attempt in 1..=2 {
            assert_eq!(bench.failed(&report(1..2, &bob, attempt), cause, None), [""; 0]);
            let wait_ms = u64::from(10 * attempt);
            assert_eq!(bench.until(bench.now_ms + wait_ms - 1), [""; 0], "{cause:?}");
            let redelivered = format!("{} redeliver 0..1 to bob attempt {}", bench.now_ms + 1, attempt + 1);
            assert_eq!(bench.until(bench.now_ms + 1), [redelivered], "{cause:?}");
        }
        let (word, ignored) = (cause.as_str(), bench.tracker.stats().ignored);
        let ended = [
            format!("dead letter 0..1 of bob {word} after 3"),
            format!("not delivered 0..1 ref 500 {word} after 3"),
        ];
        assert_eq!(bench.failed(&report(1..2, &bob, 3), cause, None), ended);
        assert_eq!(bench.tracker.stats().flights, 0);
        let row = &bench.entry(id(1)).unwrap().recipients[0];
        assert_eq!((row.state, row.attempts, row.cause), (State::DeadLettered, 3, Some(cause)));
        assert_eq!((row.devices.len(), ignored), (3, 0));
        assert_eq!(bench.acked(1..2, &bob), [""; 0], "too late");
    }
}

#[test]
fn a_failure_counts_for_its_own_attempt_only() {
    let mut bench = Bench::new();
    let bob = user("bob");
    bench.begin(&batch(1, 1), std::slice::from_ref(&bob), PLAN);
    assert_eq!(bench.until(1_110), ["1110 redeliver 0..1 to bob attempt 2"]);
    bench.failed(&report(1..2, &bob, 1), Cause::Nack, None);
    assert_eq!(bench.tracker.stats().ignored, 1);
    assert_eq!(bench.until(1_209), [""; 0], "attempt 2 still has its time");
    assert_eq!(bench.acked(1..2, &bob), ["reached 0..1 ref 500 by 1"], "an ack counts for any");
}

#[test]
fn an_ack_ends_the_wait_for_a_repeat() {
    let mut bench = Bench::new();
    bench.begin(&batch(1, 1), &[user("bob")], PLAN);
    bench.failed(&report(1..2, &user("bob"), 1), Cause::ConnectionLost, None);
    assert_eq!(bench.acked(1..2, &user("bob")), ["reached 0..1 ref 500 by 1"]);
    assert_eq!(bench.until(9_999), [""; 0]);
}

#[test]
fn a_nack_says_why() {
    let mut bench = Bench::new();
    let (bob, plan) = (user("bob"), AckPlan { attempts: 1, ..PLAN });
    bench.begin(&batch(1, 1), std::slice::from_ref(&bob), plan);
    let failed = Failed { reason: Some("out of paper".into()), ..Failed::by(Cause::Nack) };
    let mut turn = Turn { now_ms: 1_001, acking: &mut BySettings, out: &mut bench.events };
    bench.tracker.handle_failed(&report(1..2, &bob, 1), failed, &mut turn);
    let said = bench.events.iter().find_map(|event| match event {
        Event::DeadLetter { reason, .. } => reason.as_deref(),
        _ => None,
    });
    assert_eq!(said, Some("out of paper"));
    let entry = bench.entry(id(1)).unwrap();
    assert_eq!(entry.recipients[0].devices[0].reason.as_deref(), Some("out of paper"));
}

#[test]
fn reasons_are_charged_until_they_are_forgotten() {
    let bob = user("bob");
    let size = batch(1, 1).size_bytes();
    let mut bench = Bench::new();
    bench.tracker = Tracker::new(Bounds { bytes_max: size + 700, ledger_max: 40, ..Bounds::default() }, 1);
    let plan = AckPlan { attempts: 4, ..PLAN };
    let nack = |bench: &mut Bench, first: u64, attempt: u16| {
        let failed = Failed { reason: Some("x".repeat(300).into()), ..Failed::by(Cause::Nack) };
        bench.run(|tracker, turn| {
            tracker.handle_failed(&report(first..first + 1, &bob, attempt), failed, turn)
        });
        bench.now_ms += 100;
        bench.run(|tracker, turn| tracker.advance(turn));
    };
    bench.begin(&batch(1, 1), std::slice::from_ref(&bob), plan);
    for (attempt, reasons) in [(1, 300), (2, 600), (3, 600)] {
        nack(&mut bench, 1, attempt);
        assert_eq!(bench.tracker.stats().bytes, size + reasons, "after {attempt}");
    }
    assert!(bench.tracker.has_room(1, 1, 100) && !bench.tracker.has_room(1, 1, 101));
    let told: Vec<_> = bench.entry(id(1)).unwrap().recipients[0].devices.clone();
    let has_reason: Vec<_> = told.iter().map(|device| device.reason.is_some()).collect();
    assert_eq!(has_reason, [true, true, false], "the third counts without one");
    bench.acked(1..2, &bob);
    assert_eq!((bench.tracker.stats().bytes, bench.tracker.stats().flights), (0, 0));
    let of_one = bench.tracker.stats().ledger;
    assert!(of_one > 600 / 100, "{of_one}");
    // What has reasons is forgotten earlier than what has none.
    for first in 10..40 {
        bench.begin(&batch(first, 1), std::slice::from_ref(&bob), plan);
        nack(&mut bench, first, 1);
        bench.acked(first..first + 1, &bob);
        assert!(bench.tracker.stats().ledger <= 40);
    }
    let known = (10..40).filter(|&first| bench.entry(id(first)).is_some()).count();
    assert!((2..12).contains(&known), "{known}");
}

#[test]
fn a_nack_names_its_wait() {
    let mut bench = Bench::new();
    bench.begin(&batch(1, 1), &[user("bob")], PLAN);
    bench.failed(&report(1..2, &user("bob"), 1), Cause::Nack, Some(5_000));
    assert_eq!(bench.until(6_050), ["6000 redeliver 0..1 to bob attempt 2"]);
}

#[test]
fn offline_takes_no_attempt_and_ends_with_the_patience_of_the_plan() {
    let mut bench = Bench::new();
    let bob = user("bob");
    assert_eq!(bench.begin_with(&batch(1, 1), &[], std::slice::from_ref(&bob), PLAN), [""; 0]);
    assert_eq!(bench.tracker.stats().waiting, 1);
    assert_eq!(
        bench.run(|tracker, turn| tracker.handle_online(&bob, turn)),
        ["redeliver 0..1 to bob attempt 1"]
    );
    bench.failed(&report(1..2, &bob, 1), Cause::Offline, None);
    assert_eq!(bench.tracker.stats().waiting, 1);
    // Looked for again every `max_ms`, each time without a session.
    let mut probes = 0;
    while bench.tracker.stats().flights > 0 {
        let due_ms = bench.tracker.next_due_ms().unwrap();
        let events = bench.until(due_ms);
        if !events.is_empty() {
            assert_eq!(events, [format!("{due_ms} redeliver 0..1 to bob attempt 1")]);
            probes += 1;
            let end = bench.failed(&report(1..2, &bob, 1), Cause::Offline, None);
            if bench.now_ms - 1_000 >= PLAN.longest_ms() {
                let expected =
                    ["dead letter 0..1 of bob offline after 0", "not delivered 0..1 ref 500 offline after 0"];
                assert_eq!(end, expected);
            }
        }
    }
    assert_eq!((probes, bench.now_ms), (PLAN.longest_ms().div_ceil(40), 1_000 + PLAN.longest_ms()));
}

#[test]
fn a_stop_ends_what_nobody_acknowledges() {
    let mut bench = Bench::new();
    let (ann, bob) = (user("ann"), user("bob"));
    let one = std::slice::from_ref;
    let group = batch_to("group/g", 1, &[0, 0]);
    bench.begin_with(&group, one(&bob), one(&ann), PLAN);
    bench.begin(&batch(10, 1), one(&bob), PLAN);
    let acked = Report { to: &group.to, session: Some(DEVICE), ..report(1..2, &bob, 1) };
    bench.run(|tracker, turn| tracker.handle_acked(&acked, turn.now_ms, turn.out));
    let stop = |bench: &mut Bench, over: Recipient, most: usize| {
        let is_over = |one: &Recipient| *one == over;
        let is_kept = |batch: &Batch, _: &Recipient| batch.to.name() == "bob";
        let stopping = Stopping { is_over: &is_over, is_kept: &is_kept };
        let share = Share { deliveries: most, bytes: usize::MAX };
        bench.run(|tracker, turn| _ = tracker.handle_stop(&stopping, (0, share), turn))
    };
    let of_ann = ["dead letter 0..2 of ann stopped after 0", "not delivered 0..2 ref 500 stopped after 0"];
    assert_eq!(stop(&mut bench, ann.clone(), 9), of_ann);
    assert_eq!(stop(&mut bench, ann, 9), [""; 0]);
    assert_eq!(stop(&mut bench, bob.clone(), 1), ["dead letter 1..2 of bob stopped after 1"]);
    let of_bob = ["store 0..1 of bob", "not delivered 0..1 ref 500 stopped after 1"];
    assert_eq!(stop(&mut bench, bob, 1), of_bob);
    assert_eq!(bench.entry(id(10)).unwrap().recipients[0].state, State::Stored);
    assert_eq!(bench.tracker.take_ended().len(), 1, "what the store has left to it has its ledger there");
    assert_eq!(bench.tracker.stats().flights, 0);
}

#[test]
fn a_stop_ends_as_many_bytes_at_once_as_it_may() {
    let mut bench = Bench::new();
    let all = ["a", "b", "c"].map(user);
    let (big, other) = (batch_to("group/g", 1, &[0]), batch_to("group/h", 5, &[0, 0]));
    bench.begin(&big, &all, PLAN);
    bench.begin(&other, &all[..1], PLAN);
    let is_over = |one: &Recipient| *one != all[1];
    let stopping = Stopping { is_over: &is_over, is_kept: &|_, _| false };
    let mut stop = |from: u64, deliveries: usize, bytes: usize| {
        let (mut next, share) = (None, Share { deliveries, bytes });
        let events = bench.run(|tracker, turn| next = tracker.handle_stop(&stopping, (from, share), turn));
        let letters = events.into_iter().filter(|event| event.starts_with("dead letter"));
        (letters.map(|event| event[..21].to_owned()).collect::<Vec<_>>(), next)
    };
    let size_bytes = big.size_bytes();
    assert_eq!(stop(0, 99, size_bytes), (vec!["dead letter 0..1 of a".to_owned()], Some(1)));
    assert_eq!(stop(1, 2, size_bytes + 1), (vec!["dead letter 0..1 of c".to_owned()], Some(5)));
    assert_eq!(stop(0, 1, 1), (vec![], Some(5)), "who is only looked at counts");
    assert_eq!(stop(5, 1, 1), (vec!["dead letter 0..2 of a".to_owned()], None));
    assert_eq!(stop(0, 99, 99), (vec![], None), "the other one goes on");
}

#[test]
fn who_has_its_receipts_is_not_waited_for() {
    let mut bench = Bench::new();
    let all = ["a", "b"].map(user);
    bench.begin(&batch(1, 2), &all, AckPlan { quorum: Quorum::Any, ..PLAN });
    bench.acked(1..2, &all[0]);
    assert!(bench.tracker.is_waited_for(PUBLISHER), "the other one's");
    bench.begin(&batch(10, 1), &all, PLAN);
    bench.acked(2..3, &all[1]);
    bench.acked(10..11, &all[0]);
    assert!(bench.tracker.is_waited_for(PUBLISHER), "of the other flight");
    assert_eq!(bench.acked(10..11, &all[1]), ["reached 0..1 ref 500 by 2"]);
    assert!(!bench.tracker.is_waited_for(PUBLISHER));
    assert_eq!(bench.tracker.stats().flights, 1, "goes on");
    bench.acked(1..2, &all[1]);
    let without_ref = Flight {
        batch: batch(20, 1),
        recipients: all.into_iter().collect(),
        offline: Vec::new(),
        plan: PLAN,
        publisher: Some(PUBLISHER),
        references: References::default(),
    };
    bench.run(|tracker, turn| tracker.begin(without_ref, turn));
    assert!(!bench.tracker.is_waited_for(PUBLISHER));
}

#[test]
fn dropped_when_the_plan_says_so() {
    let mut bench = Bench::new();
    let plan = AckPlan { attempts: 1, exhausted: Exhausted::Drop, ..PLAN };
    bench.begin(&batch(1, 1), &[user("bob")], plan);
    assert_eq!(
        bench.until(1_100),
        ["1100 dropped 0..1 of bob timeout after 1", "1100 not delivered 0..1 ref 500 timeout after 1"]
    );
    assert_eq!(bench.entry(id(1)).unwrap().recipients[0].state, State::Dropped);
}

#[test]
fn time_to_live_ends_single_messages() {
    let mut bench = Bench::new();
    bench.begin(&batch_to("user/bob", 1, &[0, 1_050, 0, 1_105]), &[user("bob")], PLAN);
    assert_eq!(
        bench.until(1_110),
        [
            "1050 dropped 1..2 of bob expired after 1",
            "1050 not delivered 1..2 ref 501 expired after 1",
            "1105 dropped 3..4 of bob expired after 1",
            "1105 not delivered 3..4 ref 503 expired after 1",
            "1110 redeliver 0..1 to bob attempt 2",
            "1110 redeliver 2..3 to bob attempt 2",
        ]
    );
}

#[test]
fn each_quorum_is_told_once_and_the_others_go_on() {
    let all = ["a", "b", "c"].map(user);
    for (quorum, needed) in [(Quorum::Any, 1), (Quorum::Count(2), 2), (Quorum::Count(9), 3), (Quorum::All, 3)]
    {
        let mut bench = Bench::new();
        bench.begin(&batch(1, 3), &all, AckPlan { quorum, ..PLAN });
        for (count, recipient) in all.iter().enumerate() {
            let told = bench.acked(1..3, recipient);
            let expected = format!("reached 0..2 ref 500 by {needed}");
            let expected = if count + 1 == needed { vec![expected] } else { Vec::new() };
            assert_eq!(told, expected, "{quorum:?} {count}");
        }
        assert_eq!(bench.tracker.stats().deliveries, 3, "the third message");
        let failures = bench.until(99_999);
        let told: Vec<_> = failures.iter().filter(|event| event.contains("not delivered")).collect();
        assert_eq!(told, ["1330 not delivered 2..3 ref 502 timeout after 3"].iter().collect::<Vec<_>>());
        assert_eq!(failures.iter().filter(|event| event.contains("dead letter")).count(), 3);
    }
}

#[test]
fn after_the_quorum_failed_an_ack_tells_nothing() {
    let mut bench = Bench::new();
    bench.begin(&batch(1, 1), &["a", "b"].map(user), AckPlan { attempts: 1, ..PLAN });
    let events = bench.failed(&report(1..2, &user("a"), 1), Cause::Nack, None);
    assert_eq!(events, ["dead letter 0..1 of a nack after 1", "not delivered 0..1 ref 500 nack after 1"]);
    assert_eq!(bench.acked(1..2, &user("b")), [""; 0]);
    assert_eq!(bench.tracker.stats().flights, 0);
}

#[test]
fn a_queue_avoids_the_member_that_failed_last() {
    let mut bench = Bench::new();
    let jobs = Recipient::Queue(QueueId::new(Pattern::parse("topic/jobs").unwrap(), name("jobs")));
    bench.begin(&batch(1, 3), std::slice::from_ref(&jobs), PLAN);
    let member = SessionId::new(1, 0, 9);
    let of_member = Report { session: Some(member), ..report(2..3, &jobs, 1) };
    bench.failed(&of_member, Cause::ConnectionLost, None);
    assert_eq!(bench.until(1_010), [format!("1010 redeliver 1..2 to jobs attempt 2 not {member}")]);
    // Of the others it is known who has them only when that was told.
    bench.tracker.handle_sent(&Report { session: Some(DEVICE), ..report(3..4, &jobs, 1) });
    assert_eq!(
        bench.until(1_110),
        [
            "1110 redeliver 0..1 to jobs attempt 2".to_owned(),
            format!("1110 redeliver 2..3 to jobs attempt 2 not {DEVICE}")
        ]
    );
}

#[test]
fn a_publisher_that_is_gone_is_told_nothing() {
    let mut bench = Bench::new();
    bench.begin(&batch(1, 2), &[user("bob")], PLAN);
    bench.tracker.handle_publisher_gone(PUBLISHER);
    assert_eq!(bench.acked(1..2, &user("bob")), [""; 0]);
    let events = bench.until(9_999);
    assert_eq!(events.last().unwrap(), "1330 dead letter 1..2 of bob timeout after 3");
}

#[test]
fn a_message_of_several_addresses_is_acknowledged_at_each() {
    let mut bench = Bench::new();
    let (bob, ann) = (user("bob"), user("ann"));
    let to = ["topic/audit", "topic/orders.x"].map(|to| Address::parse(to).unwrap());
    let at = |index: usize, recipient| Report { to: &to[index], ..report(1..2, recipient, 1) };
    let begin = |bench: &mut Bench| {
        for (to, offline) in to.iter().zip([[bob.clone()].as_slice(), &[ann.clone(), bob.clone()]]) {
            let batch = batch_to(to.as_str(), 1, &[0]);
            assert_eq!(bench.begin_with(&batch, &[], offline, PLAN), [""; 0]);
        }
    };
    begin(&mut bench);
    assert_eq!((bench.tracker.stats().flights, bench.tracker.stats().waiting), (2, 3));
    let elsewhere = report(1..2, &bob, 1);
    assert_eq!(bench.run(|tracker, turn| tracker.handle_acked(&elsewhere, turn.now_ms, turn.out)), [""; 0]);
    let online = bench.run(|tracker, turn| tracker.handle_online(&bob, turn));
    assert_eq!(online, ["redeliver 0..1 to bob attempt 1"; 2]);
    let mut acked =
        |at: Report<'_>| bench.run(|tracker, turn| tracker.handle_acked(&at, turn.now_ms, turn.out));
    assert_eq!(acked(at(0, &bob)), ["reached 0..1 ref 500 by 1"]);
    assert_eq!(acked(at(0, &bob)), [""; 0]);
    assert_eq!(acked(at(1, &bob)), [""; 0], "ann has not");
    let told = bench.tracker.entries(id(1));
    assert_eq!(
        told.iter().map(|entry| &entry.to).collect::<Vec<_>>(),
        [&to[0], &to[1]],
        "what ended comes first"
    );
    assert_eq!(told[0].recipients[0].state, State::Acked);
    // One that ends does not take the other from those that wait.
    begin(&mut bench);
    bench.failed(&at(0, &bob), Cause::Nack, None);
    let mut acked =
        |at: Report<'_>| bench.run(|tracker, turn| tracker.handle_acked(&at, turn.now_ms, turn.out));
    assert_eq!(acked(at(0, &bob)), ["reached 0..1 ref 500 by 1"]);
}

#[test]
fn nobody_to_deliver_to() {
    let mut bench = Bench::new();
    assert_eq!(bench.begin(&batch(1, 2), &[], PLAN), ["not delivered 0..2 ref 500 offline after 0"]);
}

#[test]
fn reports_about_nothing_known_are_counted() {
    let mut bench = Bench::new();
    bench.begin(&batch(10, 4), &[user("bob")], PLAN);
    for (counts, recipient, ignored) in [(9..10, "bob", 1), (14..16, "bob", 3), (10..12, "eve", 5)] {
        assert_eq!(bench.acked(counts, &user(recipient)), [""; 0]);
        assert_eq!(bench.tracker.stats().ignored, ignored);
    }
    let bob = user("bob");
    let other_epoch = Report { first: MessageId::new(1_000, 2, 0, 10), ..report(10..14, &bob, 1) };
    bench.run(|tracker, turn| tracker.handle_acked(&other_epoch, turn.now_ms, turn.out));
    assert_eq!(bench.tracker.stats().ignored, 9);
    assert_eq!(bench.acked(12..20, &user("bob")), ["reached 2..4 ref 502 by 1"], "clipped to the flight");
}

/// A policy that repeats for ever, without a wait.
struct Stubborn;

impl Acking for Stubborn {
    fn plan(&mut self, _message: &Message<'_>, _settings: &Settings) -> Option<Acknowledgement> {
        None
    }

    fn failed(&mut self, failure: &Failure<'_>) -> Decision {
        match failure.attempt % 2 {
            _ if failure.cause == Cause::Offline => Decision::Retry { after_ms: 10 },
            0 => Decision::Retry { after_ms: 0 },
            _ => Decision::Wait { at_most_ms: 0 },
        }
    }
}

#[test]
fn no_policy_repeats_for_ever() {
    let mut bench = Bench::with(Stubborn);
    bench.begin(&batch(1, 1), &[user("bob")], PLAN);
    let events = bench.until(u64::MAX / 2);
    assert_eq!(events.len(), usize::from(limits::ATTEMPTS_MAX) + 1);
    assert!(events.last().unwrap().ends_with("not delivered 0..1 ref 500 timeout after 1000"));
}

/// What a plan or a policy asks for may be longer than a delivery's times can be told apart.
#[test]
fn no_delivery_goes_on_for_ever() {
    const DAY_MS: u32 = 24 * 3_600_000;
    let attempts = |events: &[String]| events.iter().filter(|event| event.contains("redeliver")).count();
    let plan = AckPlan { timeout_ms: DAY_MS, attempts: limits::ATTEMPTS_MAX, ..PLAN };
    let mut bench = Bench::new();
    bench.begin(&batch(1, 1), &[user("bob")], plan);
    let events = bench.until(u64::MAX / 2);
    // One each day; the last one had less than a day.
    assert_eq!(attempts(&events), 49, "{events:#?}");
    let end = events.last().unwrap();
    assert!(end.ends_with("not delivered 0..1 ref 500 timeout after 50"), "{end}");
    let at_ms: u64 = end.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(at_ms, 1_000 + limits::DELIVERY_MS_MAX);
    // Waiting for somebody to come online ends as well.
    let mut bench = Bench::new();
    let wait = Backoff { initial_ms: DAY_MS, max_ms: DAY_MS, jitter_percent: 0 };
    let plan = AckPlan { backoff: wait, ..plan };
    bench.begin_with(&batch(1, 1), &[], &[user("bob")], plan);
    let events = bench.until(u64::MAX / 2);
    assert!(attempts(&events) < 50 && !events.is_empty(), "{events:#?}");
}

/// A policy that waits for whoever is away, and looks for them from time to time.
struct Patient;

impl Acking for Patient {
    fn plan(&mut self, _: &Message<'_>, _: &Settings) -> Option<Acknowledgement> {
        None
    }

    fn failed(&mut self, _: &Failure<'_>) -> Decision {
        Decision::Wait { at_most_ms: 23 * 3_600_000 }
    }
}

#[test]
fn no_policy_waits_for_ever_for_who_is_away() {
    // When the last look is made, which finds nobody either, and what follows.
    let end_of = |plan: AckPlan| {
        let (bob, mut bench, mut looks) = (user("bob"), Bench::with(Patient), 0);
        bench.begin_with(&batch(1, 1), &[], std::slice::from_ref(&bob), plan);
        loop {
            let due_ms = bench.tracker.next_due_ms().unwrap();
            let look = bench.until(due_ms);
            if look.is_empty() {
                continue;
            }
            assert!(look.len() == 1 && look[0].contains("redeliver"), "{look:?}");
            looks += 1;
            let end = bench.failed(&report(1..2, &bob, 1), Cause::Offline, None);
            if !end.is_empty() {
                return (due_ms - 1_000, looks, end);
            }
        }
    };
    let (after_ms, looks, end) = end_of(PLAN);
    assert_eq!((after_ms, looks), (limits::OFFLINE_WAIT_MS_MAX, 8));
    assert_eq!(
        end,
        ["dead letter 0..1 of bob offline after 0", "not delivered 0..1 ref 500 offline after 0"]
    );
    let longer = AckPlan { timeout_ms: 24 * 3_600_000, attempts: 10, ..PLAN };
    assert_eq!(end_of(longer).0, longer.longest_ms(), "a plan that says so takes longer");
}

#[test]
fn the_ledger_tells_each_message_and_forgets_the_oldest() {
    let bounds = Bounds { ledger_max: 8, ..Bounds::default() };
    let mut bench = Bench::new();
    bench.tracker = Tracker::new(bounds, 1);
    let recipients = ["a", "b"].map(user);
    bench.begin(&batch(1, 2), &recipients, PLAN);
    bench.now_ms = 1_030;
    let phone = name("phone");
    let of_a = Report { device: Some(&phone), session: Some(DEVICE), ..report(2..3, &recipients[0], 1) };
    bench.run(|tracker, turn| tracker.handle_acked(&of_a, turn.now_ms, turn.out));
    bench.failed(&Report { first: id(2), ..of_a }, Cause::Nack, None);
    bench.failed(&report(2..3, &recipients[1], 1), Cause::Nack, None);
    let entry = bench.entry(id(2)).unwrap();
    assert_eq!(
        (entry.id, entry.to.as_str(), entry.unix_ms, entry.level),
        (id(2), "user/bob", 1_000, Level::Delivered)
    );
    let [a, b] = &entry.recipients[..] else { panic!("two recipients") };
    assert_eq!(
        (&a.recipient, a.state, a.attempts, a.cause, a.at_ms),
        (&user("a"), State::Acked, 1, None, 1_030)
    );
    let device = &a.devices[0];
    assert_eq!(
        (device.device.as_ref(), device.session, device.state),
        (Some(&phone), Some(DEVICE), State::Acked)
    );
    assert_eq!((device.sent_ms, device.acked_ms, device.attempt), (1_000, Some(1_030), 1));
    assert_eq!((b.state, b.cause, b.devices[0].state), (State::Retrying, Some(Cause::Nack), State::Nacked));
    let other = bench.entry(id(1)).unwrap();
    assert!(other.recipients.iter().all(|row| row.state == State::Sent && row.devices.is_empty()));
    assert_eq!(bench.entry(id(3)), None);
    bench.until(9_999);
    let ended = bench.entry(id(2)).unwrap();
    assert_eq!(ended.recipients[1].state, State::DeadLettered);
    assert_eq!(ended.recipients[0], entry.recipients[0]);
    for first in [10, 20, 30] {
        bench.begin(&batch(first, 4), &recipients[..1], PLAN);
        bench.acked(first..first + 4, &recipients[0]);
    }
    assert_eq!(bench.tracker.stats().ledger, 8);
    let known = [1, 10, 20, 33].map(|count| bench.entry(id(count)).is_some());
    assert_eq!(known, [false, false, true, true]);
}

/// A user who does not come is asked for again and again.
#[test]
fn a_wait_for_a_recipient_is_one_report_of_the_attempt() {
    let mut bench = Bench::new();
    let bob = user("bob");
    bench.begin(&batch(1, 4), std::slice::from_ref(&bob), AckPlan { attempts: 100, ..PLAN });
    let reports = |bench: &Bench, count: u64| {
        let devices = bench.entry(id(count)).unwrap().recipients[0].devices.clone();
        devices.iter().map(|row| (row.cause, row.attempt)).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        bench.now_ms += 1;
        // In whatever parts it is reported.
        for counts in [1..5, 1..3, 3..5] {
            bench.failed(&report(counts, &bob, 1), Cause::Offline, None);
        }
    }
    assert_eq!(reports(&bench, 1), [(Some(Cause::Offline), 1)]);
    bench.failed(&report(1..2, &bob, 2), Cause::Offline, None);
    bench.failed(&report(1..2, &bob, 2), Cause::Nack, None);
    bench.failed(&report(1..2, &bob, 2), Cause::Nack, None);
    assert_eq!(reports(&bench, 4).len(), 1);
    let causes: Vec<_> =
        reports(&bench, 1).into_iter().map(|(cause, attempt)| (cause.unwrap(), attempt)).collect();
    assert_eq!(causes[..2], [(Cause::Offline, 1), (Cause::Offline, 2)]);
    assert!(causes[2..].iter().all(|of| *of == (Cause::Nack, 2)), "others are told as before: {causes:?}");
}

#[test]
fn a_turn_handles_a_bounded_number_of_flights() {
    let mut bench = Bench::new();
    for first in 0..600 {
        bench.begin(&batch(first, 1), &[user("bob")], PLAN);
    }
    bench.now_ms = 1_110;
    let handled = [0; 3].map(|_| bench.run(|tracker, turn| tracker.advance(turn)));
    assert_eq!(bench.tracker.stats().timers, 600);
    assert!(handled.iter().all(Vec::is_empty), "timeouts first, then the wait");
    bench.now_ms = 1_120;
    let handled = [0; 3].map(|_| bench.run(|tracker, turn| tracker.advance(turn)).len());
    assert_eq!(handled, [limits::FLIGHTS_PER_TURN_MAX, limits::FLIGHTS_PER_TURN_MAX, 88]);
}

#[test]
fn room_for_deliveries_and_bytes() {
    let bytes_max = 3 * batch(1, 4).size_bytes();
    let mut bench = Bench::new();
    bench.tracker = Tracker::new(Bounds { deliveries_max: 20, bytes_max, ledger_max: 9 }, 1);
    assert!(bench.tracker.has_room(100, 100, usize::MAX), "an empty one takes anything");
    bench.begin(&batch(1, 4), &["a", "b"].map(user), PLAN);
    assert!(bench.tracker.has_room(4, 3, bytes_max / 3) && !bench.tracker.has_room(13, 1, 0));
    assert!(!bench.tracker.has_room(1, 1, bytes_max));
}

proptest::proptest! {
    /// Whatever is reported: a message is told once at most, and the counts end at nothing.
    #[test]
    fn told_once(
        quorum in 0u32..5,
        recipients in 1usize..5,
        steps in proptest::collection::vec((0u8..6, 0usize..5, 0u64..9, 1u64..9, 0u64..300), 0..60),
    ) {
        let mut bench = Bench::new();
        let all: Vec<_> = ["a", "b", "c", "d", "e"].iter().take(recipients).map(|name| user(name)).collect();
        let quorum = if quorum == 0 { Quorum::All } else { Quorum::Count(quorum) };
        let needed = quorum.of(u32::try_from(recipients).unwrap());
        bench.begin(&batch(0, 8), &all, AckPlan { quorum, ..PLAN });
        let mut told = [0; 8];
        let mut acked = vec![[false; 8]; recipients];
        let mut note = |events: &[String], acked: &[[bool; 8]]| {
            for event in events.iter().filter(|event| event.contains("ref 5")) {
                let words: Vec<_> = event.split(' ').collect();
                let range = words.iter().find_map(|word| word.split_once("..")).unwrap();
                for index in range.0.parse::<usize>().unwrap()..range.1.parse().unwrap() {
                    told[index] += 1;
                    let acks = u32::try_from(acked.iter().filter(|of| of[index]).count()).unwrap();
                    assert_eq!(event.contains("reached"), acks == needed, "{event} with {acks} acks");
                }
            }
        };
        for (kind, recipient, from, messages, wait_ms) in steps {
            let recipient = recipient % recipients;
            let counts = from..(from + messages).min(8).max(from);
            match kind {
                0..3 => {
                    for index in counts.clone() {
                        let entry = bench.entry(id(index)).unwrap();
                        let state = entry.recipients[recipient].state;
                        acked[recipient][usize::try_from(index).unwrap()] |= !state.is_end();
                    }
                    let events = bench.acked(counts, &all[recipient]);
                    note(&events, &acked);
                }
                3 => {
                    let attempt = u16::try_from(messages % 3 + 1).unwrap();
                    let cause = Cause::ALL[usize::try_from(from).unwrap() % 5];
                    let events = bench.failed(&report(counts, &all[recipient], attempt), cause, None);
                    note(&events, &acked);
                }
                4 => {
                    let online = all[recipient].clone();
                    bench.run(|tracker, turn| tracker.handle_online(&online, turn));
                }
                _ => {
                    let events = bench.until(bench.now_ms + wait_ms);
                    note(&events, &acked);
                }
            }
        }
        let events = bench.until(1_000_000);
        note(&events, &acked);
        assert_eq!(told, [1; 8]);
        assert_eq!(bench.tracker.stats(), Stats { ledger: bench.tracker.stats().ledger, ignored: bench.tracker.stats().ignored, ..Stats::default() });
    }
}

#[test]
fn a_recipient_who_stays_away_is_not_tried_for_ever() {
    let mut bench = Bench::with(Stubborn);
    let bob = user("bob");
    bench.begin_with(&batch(1, 1), &[], std::slice::from_ref(&bob), PLAN);
    let mut ended = Vec::new();
    while let Some(due_ms) = bench.tracker.next_due_ms() {
        let events = bench.until(due_ms);
        if !events.is_empty() {
            assert_eq!(events, [format!("{due_ms} redeliver 0..1 to bob attempt 1")]);
            ended = bench.failed(&report(1..2, &bob, 1), Cause::Offline, None);
        }
    }
    assert_eq!(
        ended,
        ["dead letter 0..1 of bob offline after 0", "not delivered 0..1 ref 500 offline after 0"]
    );
    assert_eq!(bench.now_ms, 1_000 + PLAN.longest_ms(), "as long as its attempts could have taken");
}
