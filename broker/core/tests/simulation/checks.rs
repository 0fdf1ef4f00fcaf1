//! What must hold, whatever happens.
//!
//! - A message that was stored reaches every device of its users that comes back, unless its plan was exhausted or
//!   its time ended; one of a queue reaches a member or comes to its end, unless the broker's memory is lost.
//! - A device that remembers ids applies each message once.
//! - First deliveries of an address to a session are in order (checked in [`crate::client`]).
//! - `reached` is told only with as many accepted acks as the plan asks for; a ref is told one thing, once; as long
//!   as broker and publisher live, it is told something.
//! - At the end there is no flight, timer, wait or unacknowledged entry.

use crate::world::{USERS, World, user};
use std::collections::{BTreeMap, BTreeSet};
use waspmq_core::delivery::{AckPlan, Event, Recipient};
use waspmq_core::{MessageId, SessionId};

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) reached: u64,
    pub(crate) failed: u64,
    pub(crate) redelivered: u64,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
    pub(crate) crashes: u64,
    pub(crate) not_in_flight: u64,
    /// Acknowledged by the connection after the one by which they came.
    pub(crate) late: u64,
    pub(crate) trace: u64,
}

impl Counts {
    pub(crate) const fn in_order(&self) -> [u64; 9] {
        [
            self.published,
            self.reached,
            self.failed,
            self.redelivered,
            self.dead,
            self.dropped,
            self.crashes,
            self.not_in_flight,
            self.late,
        ]
    }

    pub(crate) fn note(&mut self, values: &[u64]) {
        for value in values {
            self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
}

/// A message whose delivery was taken over.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) publisher: SessionId,
    pub(crate) reference: u64,
    pub(crate) plan: AckPlan,
    pub(crate) recipients: BTreeSet<Recipient>,
}

#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) promises: BTreeMap<MessageId, Promise>,
    pub(crate) acked: BTreeSet<(MessageId, Recipient)>,
    pub(crate) ended: BTreeSet<(MessageId, Recipient)>,
    pub(crate) gone: BTreeSet<SessionId>,
    told: BTreeMap<(SessionId, u64), bool>,
    pub(crate) counts: Counts,
}

impl Checks {
    pub(crate) fn note(&mut self, event: &Event) {
        let (kind, batch, range) = match event {
            Event::Reached { publisher, reference, batch, range, recipients } => {
                for (index, message) in range.clone().enumerate() {
                    let id = batch.messages[usize::from(message)].id;
                    self.tell(*publisher, reference + index as u64, true);
                    let promise = &self.promises[&id];
                    let acks =
                        promise.recipients.iter().filter(|by| self.acked.contains(&(id, (*by).clone())));
                    let (acks, all) = (acks.count() as u32, promise.recipients.len() as u32);
                    assert!(acks >= promise.plan.quorum.of(all), "{id} reached with {acks} acks of {all}");
                    assert_eq!(*recipients, promise.plan.quorum.of(all));
                    assert_eq!(
                        (promise.publisher, promise.reference),
                        (*publisher, reference + index as u64)
                    );
                }
                self.counts.reached += range.len() as u64;
                (1, batch, range)
            }
            Event::NotDelivered { publisher, reference, batch, range, .. } => {
                (0..range.len() as u64).for_each(|index| self.tell(*publisher, reference + index, false));
                self.counts.failed += range.len() as u64;
                (2, batch, range)
            }
            Event::Redeliver { batch, range, .. } => {
                self.counts.redelivered += range.len() as u64;
                (3, batch, range)
            }
            Event::DeadLetter { batch, range, recipient, .. }
            | Event::Dropped { batch, range, recipient, .. } => {
                for message in range.clone() {
                    let key = (batch.messages[usize::from(message)].id, recipient.clone());
                    assert!(!self.acked.contains(&key) || self.ended.insert(key.clone()), "one end");
                    self.ended.insert(key);
                }
                let is_dead = matches!(event, Event::DeadLetter { .. });
                *(if is_dead { &mut self.counts.dead } else { &mut self.counts.dropped }) +=
                    range.len() as u64;
                (4, batch, range)
            }
            Event::Store { .. } => panic!("no broker of this world leaves service"),
        };
        let first = batch.messages[usize::from(range.start)].id;
        self.counts.note(&[kind, first.count(), first.unix_ms(), range.len() as u64]);
    }

    fn tell(&mut self, publisher: SessionId, reference: u64, reached: bool) {
        assert!(!self.gone.contains(&publisher), "it does not want to know");
        assert_eq!(self.told.insert((publisher, reference), reached), None, "told twice");
    }
}

/// The end of a run: everything is quiet and every device is connected.
pub(crate) fn check_end(world: &World) {
    for tracker in &world.trackers {
        let stats = tracker.stats();
        let open = (stats.flights, stats.deliveries, stats.timers, stats.waiting, stats.bytes);
        assert_eq!(open, (0, 0, 0, 0, 0), "nothing is left behind");
    }
    for session in &world.sessions {
        let window = &session.window;
        assert_eq!((window.len(), window.pinned_bytes()), (0, 0), "nothing stays in flight");
    }
    for device in &world.devices {
        let distinct: BTreeSet<_> = device.applied.iter().collect();
        assert_eq!(distinct.len(), device.applied.len());
        for address in device.addresses() {
            for (batch, index) in &world.store.messages[address] {
                let envelope = batch.messages[usize::from(*index)];
                let ended = world.checks.ended.contains(&(envelope.id, user(device.user)));
                let got = device.processed.contains(&envelope.id);
                assert!(
                    got || ended || envelope.expires_unix_ms > 0,
                    "{} misses {}",
                    device.name,
                    envelope.id
                );
            }
        }
    }
    for (id, promise) in &world.checks.promises {
        let is_of_this_run = id.epoch() == world.epoch;
        let key = (promise.publisher, promise.reference);
        let told = world.checks.told.contains_key(&key) || world.checks.gone.contains(&promise.publisher);
        assert!(told || !is_of_this_run, "{id} is told nothing");
        for recipient in promise.recipients.iter().filter(|_| is_of_this_run) {
            let key = (*id, recipient.clone());
            let done = world.checks.acked.contains(&key) || world.checks.ended.contains(&key);
            assert!(done, "{id} has no end for {recipient:?}");
            if world.checks.acked.contains(&key) {
                let has = |user: Option<usize>| {
                    let mut devices =
                        world.devices.iter().filter(|by| user.is_none_or(|user| by.user == user));
                    devices.any(|device| device.processed.contains(id))
                };
                assert!(
                    has((0..USERS).find(|index| user(*index) == *recipient)),
                    "acked by nobody who has it"
                );
            }
        }
    }
}
