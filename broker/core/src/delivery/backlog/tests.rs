//! The backlog by example, and against a store, members and crashes of which everything is known.

use super::done::place;
use super::unread::{ANSWER_WAIT_MS, HELD_WAIT_MS};
use super::*;
use crate::address::{Name, Pattern};
use crate::delivery::{Backoff, Cause, Event, Exhausted, Failed, Quorum, Turn};
use crate::id::{MessageId, SessionId, Stream};
use crate::message::{Envelope, Slice};
use crate::policy::{Acking, Acknowledgement, BySettings, Decision, Failure, Message};
use crate::registry::{Registry, Session};
use crate::settings::Settings;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PLAN: AckPlan = AckPlan {
    quorum: Quorum::All,
    timeout_ms: 100,
    attempts: 3,
    backoff: Backoff { initial_ms: 10, max_ms: 10, jitter_percent: 0 },
    exhausted: Exhausted::DeadLetter,
};
const ROOM: usize = limits::QUEUES_OPEN_BYTES_MAX;

fn address(index: usize) -> Address {
    Address::parse(["topic/a.x", "topic/a.y", "topic/a.z"][index]).unwrap()
}

/// Whether a cursor says that a message is done.
fn covers(cursor: &QueueCursor, at: Place) -> bool {
    at <= place(cursor.upto) || cursor.done.iter().any(|(from, behind)| *from <= at && at < *behind)
}

/// A queue with a store, and members that do what the test says.
struct World {
    registry: Registry,
    id: QueueId,
    backlog: Backlog,
    epoch: u32,
    offset: u64,
    now_ms: u64,
    stored: BTreeMap<Address, Vec<Batch>>,
    saved: BTreeMap<Address, QueueCursor>,
    members: BTreeSet<u32>,
    /// What each member has, oldest first.
    hands: BTreeMap<u32, Vec<Give>>,
    /// What a tracker has.
    tracked: Vec<Batch>,
    /// What the store cannot read.
    damaged: BTreeSet<(Address, Place)>,
    /// Acknowledged, given up, or ended by a tracker.
    done: BTreeSet<(Address, Place)>,
    given: Vec<(Address, Place, u16)>,
    letters: Vec<u64>,
    /// When its clock was 0, milliseconds since 1970.
    clock_unix_ms: u64,
    /// How long each message had waited of which was decided.
    waited: Vec<u64>,
}

/// Decides as the plan says, and takes down how long a message had waited.
struct Noting<'a>(&'a mut Vec<u64>);

impl Acking for Noting<'_> {
    fn plan(&mut self, message: &Message<'_>, settings: &Settings) -> Option<Acknowledgement> {
        BySettings.plan(message, settings)
    }

    fn failed(&mut self, failure: &Failure<'_>) -> Decision {
        self.0.push(failure.waited_ms);
        BySettings.failed(failure)
    }
}

impl World {
    fn new(pattern: &str) -> Self {
        let id = QueueId::new(Pattern::parse(pattern).unwrap(), Name::parse("w").unwrap());
        Self {
            registry: Registry::new(1, 0),
            backlog: Backlog::new(id.clone(), 0, 7),
            id,
            epoch: 1,
            offset: 0,
            now_ms: 1_000,
            stored: BTreeMap::new(),
            saved: BTreeMap::new(),
            members: BTreeSet::new(),
            hands: BTreeMap::new(),
            tracked: Vec::new(),
            damaged: BTreeSet::new(),
            done: BTreeSet::new(),
            given: Vec::new(),
            letters: Vec::new(),
            clock_unix_ms: 1_700_000_000_000,
            waited: Vec::new(),
        }
    }

    fn session(number: u32) -> Session {
        let (id, user) = (SessionId::new(1, 0, number), Name::parse("u").unwrap());
        Session { id, worker: 0, user, device: None }
    }

    fn join(&mut self, number: u32) {
        if self.members.insert(number) {
            let (queue, _) = self.registry.join_queue(&self.id, &Self::session(number), Some(0)).unwrap();
            self.backlog.handle_members(&queue);
        }
    }

    /// The member's connection is lost.
    fn leave(&mut self, number: u32) {
        if self.members.remove(&number) {
            for give in self.hands.remove(&number).unwrap_or_default() {
                self.fail(number, &give, Cause::ConnectionLost);
            }
            let queue = self.registry.leave_queue(&self.id, &Self::session(number)).unwrap();
            self.backlog.handle_members(&queue);
        }
    }

    /// Publishes keys of messages; an empty one is none.
    fn publish(&mut self, to: usize, level: Level, keys: &[&str]) {
        let stream = Stream { shard: u16::try_from(to).unwrap(), epoch: self.epoch };
        let mut batch = Batch {
            to: address(to),
            from: None,
            origin: None,
            exclude_origin: false,
            level,
            is_kept: true,
            unix_ms: self.clock_unix_ms + self.now_ms,
            published_us: self.now_ms * 1_000,
            first: Position { stream, offset: self.offset + 1 },
            messages: Vec::new(),
            bytes: Vec::new(),
        };
        for key in keys {
            self.offset += 1;
            let (key, none) = (batch.store(key.as_bytes()), Slice::default());
            let id = MessageId::new(1, self.epoch, 0, self.offset);
            let (payload, headers, reply_to) = (none, none, none);
            batch.messages.push(Envelope {
                id,
                is_json: true,
                priority: 0,
                expires_unix_ms: 0,
                payload,
                headers,
                key,
                reply_to,
            });
        }
        let alone: Vec<_> = (0..keys.len()).map(|index| batch.message_alone(index).unwrap()).collect();
        if level == Level::Delivered && self.backlog.has_members() {
            self.tracked.extend(alone.clone());
        }
        self.stored.entry(batch.to.clone()).or_default().extend(alone);
        self.backlog.handle_published(&Arc::new(batch), &[], (&PLAN, ROOM));
        self.offset += 3;
    }

    /// Carries out everything that can be done now.
    fn serve(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 100_000, "it comes to an end: {:?}", self.backlog);
            while let Some(give) = self.backlog.poll_give(self.now_ms) {
                let at = (give.batch.to.clone(), place(give.batch.first));
                assert!(!self.done.contains(&at), "{at:?} was acknowledged");
                let number = u32::try_from(give.session.as_u64() & u64::from(u32::MAX)).unwrap();
                assert!(self.members.contains(&number));
                self.given.push((at.0, at.1, give.attempt));
                let hand = self.hands.entry(number).or_default();
                hand.retain(|other| other.batch.first != give.batch.first || other.batch.to != give.batch.to);
                hand.push(give);
                assert!(hand.len() <= limits::QUEUE_MEMBER_MESSAGES_MAX);
            }
            let Some(read) = self.backlog.poll_read(self.now_ms) else { break };
            self.answer(read);
        }
        self.save();
    }

    fn answer(&mut self, read: Read) {
        match read {
            Read::Addresses { number, after } => {
                let is_behind = |(to, batches): &(&Address, &Vec<Batch>)| {
                    let last = batches.last().map(|batch| place(batch.first));
                    self.saved.get(*to).map(|cursor| place(cursor.upto)) < last
                };
                // Two are looked at, whether they have something or not.
                let rest: Vec<_> = self
                    .stored
                    .iter()
                    .filter(|(to, _)| after.as_ref().is_none_or(|after| *to > after))
                    .collect();
                let looked_at = &rest[..rest.len().min(2)];
                let upto = looked_at.last().filter(|_| rest.len() > 2).map(|(to, _)| (*to).clone());
                let found = looked_at.iter().copied().filter(|of| is_behind(of)).map(|(to, _)| to.clone());
                self.backlog.handle_addresses(number, found.collect(), upto);
            }
            Read::Page { number, to, after, limit } => {
                let none = Position { stream: Stream { shard: 0, epoch: 0 }, offset: 0 };
                let begun = after.is_none().then(|| {
                    self.saved.get(&to).cloned().unwrap_or(QueueCursor { upto: none, done: Vec::new() })
                });
                let from = after.unwrap_or_else(|| begun.as_ref().unwrap().upto);
                let stored = self.stored.get(&to).map(Vec::as_slice).unwrap_or_default();
                let behind = stored.iter().filter(|batch| place(batch.first) > place(from));
                let mut messages: Vec<_> =
                    behind.map(|batch| Batch { published_us: 0, ..batch.clone() }).collect();
                let is_whole = |batch: &Batch| !self.damaged.contains(&(to.clone(), place(batch.first)));
                let whole = messages.iter().take_while(|batch| is_whole(batch)).count();
                if whole == 0 && !messages.is_empty() && begun.is_none() {
                    return self.backlog.handle_unread(number, false);
                }
                let clock_unix_ms = self.clock_unix_ms;
                let limit = limit.min(3).min(whole);
                let more = messages.len() > limit;
                messages.truncate(limit);
                self.backlog.handle_page(number, Page { begun, messages, clock_unix_ms, more }, &PLAN);
            }
        }
    }

    /// Saves what moved; nothing that is not done may be covered.
    fn save(&mut self) {
        while let Some((to, cursor)) = self.backlog.poll_moved() {
            for batch in self.stored.get(&to).into_iter().flatten() {
                let at = place(batch.first);
                assert!(
                    !covers(&cursor, at) || self.done.contains(&(to.clone(), at)),
                    "{at:?} is covered by {cursor:?}"
                );
            }
            assert!(cursor.done.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{cursor:?}");
            self.saved.insert(to, cursor);
        }
    }

    fn answered<T>(give: &Give, work: impl FnOnce(&Answered<'_>) -> T) -> T {
        let (to, first) = (&give.batch.to, give.batch.first);
        work(&Answered { to, first, messages: 1, session: Some(give.session), attempt: give.attempt })
    }

    fn ack(&mut self, number: u32, index: usize) {
        let Some(hand) = self.hands.get_mut(&number).filter(|hand| !hand.is_empty()) else { return };
        let give = hand.remove(index % hand.len());
        self.done.insert((give.batch.to.clone(), place(give.batch.first)));
        Self::answered(&give, |answered| self.backlog.handle_done(answered, self.now_ms));
    }

    fn refuse(&mut self, number: u32, index: usize, cause: Cause) {
        let Some(hand) = self.hands.get_mut(&number).filter(|hand| !hand.is_empty()) else { return };
        let give = hand.remove(index % hand.len());
        self.fail(number, &give, cause);
    }

    fn fail(&mut self, _number: u32, give: &Give, cause: Cause) {
        let mut events = Vec::new();
        let turn = &mut Turn { now_ms: self.now_ms, acking: &mut Noting(&mut self.waited), out: &mut events };
        let failed = Failed::by(cause);
        Self::answered(give, |answered| self.backlog.handle_failed(answered, failed, turn));
        self.note(events);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let mut events = Vec::new();
        let turn = &mut Turn { now_ms: self.now_ms, acking: &mut Noting(&mut self.waited), out: &mut events };
        self.backlog.handle_time(turn);
        if self.backlog.next_due_ms().is_some_and(|due_ms| due_ms <= self.now_ms) {
            panic!("what is due was handled");
        }
        self.note(events);
        self.backlog.handle_tick(self.now_ms);
    }

    fn note(&mut self, events: Vec<Event>) {
        for event in events {
            let Event::DeadLetter { batch, attempts, .. } = event else { panic!("{event:?}") };
            assert_eq!(attempts, PLAN.attempts);
            self.done.insert((batch.to.clone(), place(batch.first)));
            self.letters.push(batch.first.offset);
        }
    }

    /// The tracker's member acknowledges, or it gives up.
    fn end_tracked(&mut self, index: usize) {
        if self.tracked.is_empty() {
            return;
        }
        let batch = self.tracked.remove(index % self.tracked.len());
        self.done.insert((batch.to.clone(), place(batch.first)));
        let (to, first) = (&batch.to, batch.first);
        let answered = Answered { to, first, messages: 1, session: None, attempt: 0 };
        self.backlog.handle_done(&answered, self.now_ms);
    }

    /// The broker is killed and starts again; what was not saved is not known any more.
    fn crash(&mut self) {
        self.registry = Registry::new(1, 0);
        self.backlog = Backlog::new(self.id.clone(), 0, 7);
        self.members.clear();
        self.hands.clear();
        self.tracked.clear();
        (self.epoch, self.offset) = (self.epoch + 1, 0);
        let saved = std::mem::take(&mut self.done)
            .into_iter()
            .filter(|(to, at)| self.saved.get(to).is_some_and(|cursor| covers(cursor, *at)));
        self.done = saved.collect();
    }

    /// Offsets that were given since this was asked last.
    fn given(&mut self) -> Vec<(u64, u16)> {
        self.given.drain(..).map(|(_, at, attempt)| (at.1, attempt)).collect()
    }

    /// One member acknowledges everything; then all is done.
    fn finish(&mut self) {
        let mut rounds = 0;
        loop {
            self.join(99);
            self.serve();
            for number in self.members.clone() {
                while self.hands.get(&number).is_some_and(|hand| !hand.is_empty()) {
                    self.ack(number, 0);
                }
            }
            while !self.tracked.is_empty() {
                self.end_tracked(0);
            }
            self.pass(1_000);
            self.serve();
            let is_done = |(to, batches): (&Address, &Vec<Batch>)| {
                batches.iter().all(|batch| self.done.contains(&(to.clone(), place(batch.first))))
            };
            if self.stored.iter().all(is_done) && self.hands.values().all(Vec::is_empty) {
                break;
            }
            rounds += 1;
            assert!(rounds < 200, "it comes to an end: {:?}", self.backlog);
        }
        self.save();
        assert!(self.backlog.is_empty() && self.backlog.pinned_bytes() == 0, "{:?}", self.backlog);
        for (to, batches) in &self.stored {
            let cursor = self.saved.get(to).expect("all of it is acknowledged");
            assert!(batches.iter().all(|batch| covers(cursor, place(batch.first))), "{to} {cursor:?}");
        }
    }
}

#[test]
fn what_is_published_goes_to_members_in_turns_and_each_once() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    world.join(2);
    world.serve();
    world.publish(0, Level::Stored, &["", "", ""]);
    world.publish(1, Level::Accepted, &[""]);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (2, 1), (3, 1), (7, 1)]);
    assert_eq!(world.hands.values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    world.finish();
}

#[test]
fn a_member_that_comes_after_a_crash_gets_what_was_not_acknowledged() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &["", "", "", "", "", ""]);
    world.serve();
    // The second, the fourth and the fifth.
    for index in [1, 2, 2] {
        world.ack(1, index);
    }
    world.save();
    world.given();
    world.crash();
    world.publish(0, Level::Stored, &[""]);
    world.join(5);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (3, 1), (6, 1), (1, 1)]);
    world.finish();
}

#[test]
fn what_was_published_while_nobody_was_there_comes_first() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &["", ""]);
    world.serve();
    world.leave(1);
    world.publish(0, Level::Stored, &[""]);
    world.given();
    world.join(2);
    // Before the store was read.
    world.publish(0, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (2, 1), (6, 1), (10, 1)]);
    world.finish();
}

#[test]
fn a_late_ack_of_a_queue_without_members_counts_while_it_is_known() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &["", "", ""]);
    world.serve();
    let hand = world.hands.remove(&1).unwrap();
    world.leave(1);
    world.done.insert((address(0), place(hand[1].batch.first)));
    World::answered(&hand[1], |answered| world.backlog.handle_done(answered, 0));
    world.save();
    world.pass(1_000);
    assert!(world.backlog.is_over(), "{:?}", world.backlog);
    world.given();
    world.join(2);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (3, 1)]);
}

#[test]
fn a_refused_message_goes_to_another_and_is_given_up_in_the_end() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.join(2);
    world.serve();
    world.publish(0, Level::Stored, &[""]);
    let mut had = Vec::new();
    for attempt in 1..=3 {
        world.serve();
        assert_eq!(world.given(), [(1, attempt)]);
        let member = *world.hands.iter().find(|(_, hand)| !hand.is_empty()).unwrap().0;
        had.push(member);
        world.refuse(member, 0, Cause::Nack);
        world.serve();
        assert_eq!(world.given(), [], "not before its time");
        world.pass(10);
    }
    assert_ne!(had[0], had[1]);
    assert_ne!(had[1], had[2]);
    assert_eq!(world.letters, [1]);
    world.finish();
}

#[test]
fn a_message_has_waited_since_its_publish_however_often_it_was_given_since() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    world.publish(0, Level::Stored, &[""]);
    world.serve();
    world.pass(30);
    world.refuse(1, 0, Cause::Nack);
    world.pass(20);
    world.serve();
    world.refuse(1, 0, Cause::Nack);
    assert_eq!(std::mem::take(&mut world.waited), [30, 50]);
    world.crash();
    // The clock of the next run begins 5 seconds later.
    world.clock_unix_ms += world.now_ms + 5_000;
    world.now_ms = 7;
    world.join(1);
    world.serve();
    world.refuse(1, 0, Cause::Nack);
    assert_eq!(world.waited, [50 + 5_000 + 7]);
}

#[test]
fn a_silent_member_loses_what_it_has_and_is_asked_carefully() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &["", "", "", ""]);
    world.serve();
    world.join(2);
    world.pass(99);
    world.serve();
    assert_eq!(world.given().len(), 4);
    // A member that acknowledges is alive, and has time for the rest.
    world.ack(1, 0);
    world.pass(99);
    world.serve();
    assert_eq!(world.given(), []);
    world.pass(1);
    world.pass(10);
    world.serve();
    assert_eq!(world.given(), [(4, 2), (3, 2), (2, 2)]);
    assert_eq!(world.hands[&2].len(), 3, "{:?}", world.hands);
    world.publish(0, Level::Stored, &["", ""]);
    world.serve();
    assert_eq!(world.hands[&1].len() - 3, 1, "one, to see whether it is back");
    world.hands.get_mut(&1).unwrap().clear();
    world.pass(200);
    world.finish();
}

#[test]
fn a_member_without_room_is_passed_over_and_its_attempt_does_not_count() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &["", ""]);
    world.serve();
    world.refuse(1, 0, Cause::QueueFull);
    world.pass(0);
    world.given();
    world.join(2);
    world.pass(50);
    world.serve();
    assert_eq!((world.given(), world.hands[&2].len()), (vec![(1, 1)], 1));
    world.finish();
}

#[test]
fn a_key_waits_for_its_member() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.join(2);
    world.serve();
    let keys: Vec<_> = (0..40).map(|index| ["one", "two", "three", "four"][index % 4]).collect();
    world.publish(0, Level::Stored, &keys);
    world.serve();
    let mut of_key = BTreeMap::new();
    for (member, hand) in &world.hands {
        for give in hand {
            let key = give.batch.text(give.batch.messages[0].key).to_owned();
            assert_eq!(*of_key.entry(key).or_insert(*member), *member);
        }
        assert!(hand.is_sorted_by_key(|give| give.batch.first.offset));
    }
    assert_eq!(of_key.len(), 4);
    world.finish();
}

#[test]
fn members_are_given_no_more_than_they_may_have() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    for _ in 0..40 {
        world.publish(0, Level::Stored, &[""; 100]);
        world.serve();
    }
    let most = limits::QUEUE_MEMBER_MESSAGES_MAX;
    assert_eq!(world.hands[&1].len(), most);
    assert!(world.backlog.len() <= most + limits::QUEUE_READY_MAX, "{}", world.backlog.len());
    world.ack(1, 0);
    world.serve();
    assert_eq!(world.hands[&1].len(), most);
    world.finish();
    let mut offsets = world.given().into_iter().map(|(offset, _)| offset);
    assert!(offsets.by_ref().is_sorted(), "in the order of the stream");
}

#[test]
fn the_session_that_published_and_is_left_out_waits_for_another() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Stored, &[""]);
    let stored = world.stored.get_mut(&address(0)).unwrap();
    stored[0].exclude_origin = true;
    stored[0].origin = Some(World::session(1).id);
    world.crash();
    world.join(1);
    world.serve();
    assert_eq!(world.given(), []);
    world.publish(0, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.given(), [(1, 1)], "the others do not wait for it");
    world.join(2);
    world.pass(1_000);
    world.serve();
    assert_eq!(world.given(), [(1, 1)]);
    assert_eq!(world.hands[&2].len(), 1);
    world.finish();
}

#[test]
fn what_a_tracker_has_is_not_given_out_beside_it() {
    let mut world = World::new("topic/a.x");
    world.join(1);
    world.serve();
    world.publish(0, Level::Delivered, &["", ""]);
    world.publish(0, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.given(), [(6, 1)]);
    world.leave(1);
    world.join(2);
    world.publish(0, Level::Delivered, &[""]);
    world.serve();
    assert_eq!(world.given(), [(6, 1)]);
    world.end_tracked(1);
    world.save();
    assert_eq!(world.saved[&address(0)].upto.offset, 0);
    assert_eq!(world.saved[&address(0)].done, [((1, 2), (1, 6))]);
    world.crash();
    world.join(1);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (6, 1), (10, 1)], "their tracker is gone");
    world.finish();
}

#[test]
fn what_is_done_before_the_store_has_answered_is_saved_when_it_has() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    world.publish(0, Level::Delivered, &["", "", ""]);
    world.end_tracked(1);
    world.save();
    assert!(world.saved.is_empty() && world.backlog.is_unsaved(), "where the queue was is not known");
    world.leave(1);
    world.serve();
    assert!(!world.backlog.is_unsaved());
    assert_eq!(world.saved[&address(0)].done, [((1, 2), (1, 3))]);
    world.crash();
    world.join(1);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (3, 1)]);
    world.finish();
}

#[test]
fn what_cannot_be_read_is_held_and_what_lies_behind_it_is_not_lost() {
    let mut world = World::new("topic/a.*");
    world.publish(0, Level::Stored, &["", "", "", "", ""]);
    world.damaged.insert((address(0), (1, 3)));
    world.join(1);
    world.serve();
    // The queue goes on with what is published now.
    world.publish(0, Level::Stored, &[""]);
    world.publish(0, Level::Delivered, &[""]);
    world.publish(1, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.given(), [(1, 1), (2, 1), (9, 1), (17, 1)]);
    while !world.hands[&1].is_empty() {
        world.ack(1, 0);
    }
    world.end_tracked(0);
    world.save();
    let cursor = world.saved[&address(0)].clone();
    assert_eq!((place(cursor.upto), &*cursor.done), ((1, 2), &[((1, 9), (1, 10)), ((1, 13), (1, 14))][..]));
    world.pass(HELD_WAIT_MS - 1);
    assert_eq!(world.backlog.poll_read(world.now_ms), None, "not asked without end");
    let whole = world.damaged.clone();
    for damaged in [whole, BTreeSet::new()] {
        // Once it is asked in vain, then the store can read it.
        world.damaged = damaged;
        world.pass(HELD_WAIT_MS);
        world.serve();
    }
    assert_eq!(world.given(), [(3, 1), (4, 1), (5, 1)], "what came live is not given twice");
    world.finish();
}

#[test]
fn what_is_held_waits_for_its_turn_once() {
    let mut world = World::new("topic/a.x");
    world.publish(0, Level::Stored, &["", "", ""]);
    world.damaged.insert((address(0), (1, 1)));
    world.join(1);
    world.serve();
    // The store is not asked meanwhile.
    for _ in 0..5 {
        world.pass(HELD_WAIT_MS);
    }
    assert_eq!(world.backlog.turns, [address(0)]);
}

#[test]
fn what_cannot_be_read_comes_behind_a_repair_and_a_start() {
    for leaves in [false, true] {
        let mut world = World::new("topic/a.x");
        world.publish(0, Level::Stored, &["", "", ""]);
        world.damaged.insert((address(0), (1, 1)));
        world.join(1);
        world.serve();
        world.publish(0, Level::Stored, &[""]);
        world.serve();
        assert_eq!(world.given(), [(7, 1)]);
        world.ack(1, 0);
        if leaves {
            world.leave(1);
        }
        world.serve();
        world.damaged.clear();
        world.crash();
        world.join(2);
        world.serve();
        assert_eq!(world.given(), [(1, 1), (2, 1), (3, 1)]);
        world.finish();
    }
}

#[test]
fn a_list_that_cannot_be_read_is_asked_for_again() {
    let mut world = World::new("topic/a.*");
    world.publish(0, Level::Stored, &[""]);
    world.join(1);
    let Some(Read::Addresses { number, .. }) = world.backlog.poll_read(world.now_ms) else {
        panic!("a list")
    };
    world.backlog.handle_unread(number, false);
    world.publish(1, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.given(), [(5, 1)], "what is published is found nevertheless");
    world.pass(HELD_WAIT_MS);
    world.serve();
    assert_eq!(world.given(), [(1, 1)]);
    world.finish();
}

#[test]
fn a_cursor_moves_over_what_turns_out_to_be_done_when_it_is_read() {
    let mut world = World::new("topic/a.*");
    world.join(2);
    world.publish(1, Level::Delivered, &[""]);
    world.leave(2);
    world.end_tracked(0);
    world.publish(0, Level::Stored, &[""]);
    world.publish(2, Level::Stored, &[""]);
    world.serve();
    assert_eq!(world.saved[&address(1)].upto.offset, 0);
    // More addresses than one list holds: what stays behind would be listed without end.
    world.join(0);
    world.serve();
    assert_eq!(world.saved[&address(1)].upto.offset, 1);
    world.finish();
}

#[test]
fn a_store_that_fails_is_asked_again_later() {
    let mut world = World::new("topic/a.*");
    world.publish(0, Level::Stored, &[""]);
    world.join(1);
    for passes in [true, false] {
        let Some(Read::Addresses { number, .. }) = world.backlog.poll_read(0) else { panic!("a list first") };
        world.backlog.handle_unread(number - 1, true);
        world.backlog.handle_unread(number, passes);
        assert_eq!(world.backlog.poll_read(0), None);
        world.backlog.handle_tick(0);
    }
    assert_eq!(world.backlog.poll_read(0), None, "what cannot be listed is not asked for without end");
    world.crash();
    world.join(1);
    let Some(Read::Addresses { number, .. }) = world.backlog.poll_read(0) else { panic!("a list first") };
    world.backlog.handle_unasked(number);
    world.backlog.handle_tick(0);
    let Some(Read::Addresses { .. }) = world.backlog.poll_read(0) else { panic!("a list first") };
    world.backlog.handle_tick(ANSWER_WAIT_MS);
    let Some(read) = world.backlog.poll_read(ANSWER_WAIT_MS) else { panic!("the answer was lost") };
    world.answer(read);
    let Some(Read::Page { number, .. }) = world.backlog.poll_read(0) else { panic!("a page") };
    world.backlog.handle_unread(number, true);
    world.backlog.handle_tick(0);
    world.finish();
}

/// Asks for the next part of the list: behind which address, and the number of the question.
fn list(backlog: &mut Backlog) -> (Option<Address>, u64) {
    match backlog.poll_read(1_000) {
        Some(Read::Addresses { number, after }) => (after, number),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_of_the_list_follow_each_other_also_where_nothing_is_left_to_do() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    let (after, number) = list(&mut world.backlog);
    assert_eq!(after, None);
    world.backlog.handle_addresses(number, Vec::new(), Some(address(0)));
    let (after, number) = list(&mut world.backlog);
    assert_eq!(after, Some(address(0)));
    world.backlog.handle_addresses(number, vec![address(1)], Some(address(1)));
    let Some(Read::Page { number, to, .. }) = world.backlog.poll_read(1_000) else { panic!("a page first") };
    assert_eq!(to, address(1));
    world.backlog.handle_page(
        number,
        Page { begun: None, messages: Vec::new(), more: false, clock_unix_ms: 0 },
        &PLAN,
    );
    let (after, number) = list(&mut world.backlog);
    assert_eq!(after, Some(address(1)));
    world.backlog.handle_addresses(number, Vec::new(), None);
    assert_eq!(world.backlog.poll_read(1_000), None, "everything is known");
}

#[test]
fn what_finds_no_place_begins_the_next_part() {
    let mut world = World::new("topic/>");
    world.join(1);
    let all = |index| Address::parse(&format!("topic/n{index:05}")).unwrap();
    // As many as there is place for are being read already.
    for index in 0..limits::QUEUE_ADDRESSES_MAX - 1 {
        world.backlog.read_later(&all(index));
    }
    world.backlog.turns.clear();
    let behind: Vec<_> = (limits::QUEUE_ADDRESSES_MAX..).map(all).take(3).collect();
    let (_, number) = list(&mut world.backlog);
    world.backlog.handle_addresses(number, behind.clone(), None);
    assert!(world.backlog.knows(&behind[0]) && !world.backlog.knows(&behind[1]));
    world.backlog.addresses.clear();
    world.backlog.turns.clear();
    let (after, number) = list(&mut world.backlog);
    assert_eq!(after.as_ref(), Some(&behind[0]));
    world.backlog.handle_addresses(number, behind[1..].to_vec(), None);
    assert!(world.backlog.is_complete);
}

#[test]
fn a_pass_that_left_something_out_is_not_the_last() {
    let mut world = World::new("topic/a.*");
    world.join(1);
    let (_, number) = list(&mut world.backlog);
    world.backlog.handle_addresses(number, Vec::new(), Some(address(1)));
    let all = |index| Address::parse(&format!("topic/n{index:05}")).unwrap();
    for index in 0..limits::QUEUE_ADDRESSES_MAX {
        world.backlog.read_later(&all(index));
    }
    world.publish(0, Level::Stored, &[""]);
    assert!(!world.backlog.knows(&address(0)));
    world.backlog.addresses.clear();
    world.backlog.turns.clear();
    let (_, number) = list(&mut world.backlog);
    world.backlog.handle_addresses(number, Vec::new(), None);
    assert!(!world.backlog.is_complete);
    world.backlog.handle_tick(1_000);
    let (after, number) = list(&mut world.backlog);
    assert_eq!(after, None, "from the beginning");
    world.backlog.handle_addresses(number, vec![address(0)], None);
    assert!(world.backlog.is_complete && world.backlog.knows(&address(0)));
}

#[derive(Debug, Clone)]
enum Step {
    Publish(usize, bool, usize, bool),
    Join(u32),
    Leave(u32),
    Ack(u32, usize),
    Nack(u32, usize),
    Full(u32, usize),
    EndTracked(usize),
    Pass(u64),
    Serve,
    Save,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, any::<bool>(), 1..6_usize, prop::bool::weighted(0.2))
            .prop_map(|(to, keyed, count, tracked)| Step::Publish(to, keyed, count, tracked)),
        3 => (0..3_u32).prop_map(Step::Join),
        2 => (0..3_u32).prop_map(Step::Leave),
        8 => (0..3_u32, 0..9_usize).prop_map(|(member, index)| Step::Ack(member, index)),
        2 => (0..3_u32, 0..9_usize).prop_map(|(member, index)| Step::Nack(member, index)),
        1 => (0..3_u32, 0..9_usize).prop_map(|(member, index)| Step::Full(member, index)),
        2 => (0..9_usize).prop_map(Step::EndTracked),
        2 => (1..200_u64).prop_map(Step::Pass),
        8 => Just(Step::Serve),
        2 => Just(Step::Save),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_that_was_saved_repeats(
        is_wild in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(if is_wild { "topic/a.*" } else { "topic/a.x" });
        for step in steps {
            match step {
                Step::Publish(to, keyed, count, tracked) => {
                    let level = if tracked { Level::Delivered } else { Level::Stored };
                    let keys: Vec<_> = (0..count).map(|index| if keyed { ["k", "l"][index % 2] } else { "" }).collect();
                    world.publish(if is_wild { to } else { 0 }, level, &keys);
                }
                Step::Join(member) => world.join(member),
                Step::Leave(member) => world.leave(member),
                Step::Ack(member, index) => world.ack(member, index),
                Step::Nack(member, index) => world.refuse(member, index, Cause::Nack),
                Step::Full(member, index) => world.refuse(member, index, Cause::QueueFull),
                Step::EndTracked(index) => world.end_tracked(index),
                Step::Pass(ms) => world.pass(ms),
                Step::Serve => world.serve(),
                Step::Save => world.save(),
                Step::Crash => world.crash(),
            }
        }
        world.finish();
    }
}
