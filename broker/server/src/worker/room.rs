//! Back-pressure: connections that are not read until there is room.
//!
//! A publish that is to be kept waits at the connection while the journal is busy, and everything its peer sent behind it
//! does, so that the order of a session's frames stays. What is not kept is published meanwhile, as far as it does not
//! stand behind such a publish. A publish waits for [`JOURNAL_WAIT_MS`] at most; then, and where the worker holds too much
//! already, it is refused as when there is no room at all. Those that come later are refused at once until one has found
//! room. Not here: the mailboxes' room, for which all connections wait.

use super::Worker;
use super::connection::Connection;
use super::counters::Ended;
use super::enqueue::{is_kept, journal_full};
use super::inbound::Next;
use super::link::Link;
use super::publish::Target;
use crate::clock::Moment;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use waspmq_core::limits::JOURNAL_WAIT_MS;
use waspmq_core::publish::{Destination, Plan};
use waspmq_core::{Address, Close, Level, Reject};
use waspmq_protocol::client::Publish;

const JOURNAL_WAIT_US: u64 = JOURNAL_WAIT_MS * 1_000;
/// Waits for a peer that is told to go on, or whose connection ends.
const UNTIL_TOLD: Duration = Duration::from_secs(3_600);
/// Of the worker's bound of inbound bytes, what publishes that wait leave to unfinished frames.
const INBOUND_DIVISOR: usize = 2;

/// A publish that waits for room in the journal, or nothing but the turn.
#[derive(Debug)]
pub(crate) struct Held {
    /// The rest of its WebSocket message, which it begins.
    pub(super) frames: Vec<u8>,
    /// What was decided about it, so that it is decided once.
    pub(super) plan: Option<Plan>,
}

/// Whether a connection may be read.
#[derive(Debug)]
pub(super) enum Pause {
    /// To be asked again when told, or after this time.
    Wait(Rc<Notify>, Duration),
    /// `has_held`: what it holds back comes first.
    GoOn { has_held: bool },
}

impl Held {
    pub(super) const fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.frames.capacity()
    }
}

impl Worker {
    /// Whether a publish waits for the journal; refuses one that has waited long enough.
    pub(super) fn waits_for_journal(
        &self,
        connection: &mut Connection,
        (target, publish): (&Target, &Publish<'_>),
        plan: &Plan,
        now: Moment,
    ) -> Result<bool, Reject> {
        if !self.shared.journal.is_busy() {
            connection.waits_until_us = None;
            return Ok(false);
        }
        if !self.is_for_journal((target, publish), plan) {
            return Ok(false);
        }
        if self.held_bytes >= self.shared.settings.inbound_bytes_max / INBOUND_DIVISOR {
            return Err(journal_full());
        }
        let until_us = *connection.waits_until_us.get_or_insert_with(|| {
            self.counters().journal_waits.add(1);
            now.us + JOURNAL_WAIT_US
        });
        if now.us >= until_us { Err(journal_full()) } else { Ok(true) }
    }

    /// Whether something of a publish is to be kept.
    fn is_for_journal(&self, ((to, _), publish): (&Target, &Publish<'_>), plan: &Plan) -> bool {
        let addresses = match &plan.destination {
            Destination::AsAddressed(_) => std::slice::from_ref(to),
            Destination::Instead(addresses) => addresses.as_slice(),
        };
        // One that is put off is kept until its time when its receipt says so, and published when it has come.
        if publish.delay_ms > 0 {
            let levels = addresses.iter().map(|to| plan.level.max(self.shared.rules.of(to).level));
            return levels.min() == Some(Level::Stored);
        }
        let recipients = |to: &Address| self.shared.registry.lock(to).targets(to).recipients;
        addresses.iter().any(|to| {
            let settings = self.shared.rules.of(to);
            is_kept((to, plan.level.max(settings.level)), settings.keep, || recipients(to))
        })
    }

    /// Keeps a publish and the frames behind it back until there is room. What was decided about it is at hand.
    pub(super) fn hold(&mut self, connection: &mut Connection, frames: &[u8]) {
        let held = Held { frames: frames.to_vec(), plan: self.planned.take() };
        connection.held = Some(Box::new(held));
    }

    /// Lets others have their turn before the rest of what was read of a connection is handled.
    pub(super) fn hold_rest(&mut self, connection: &mut Connection) {
        if connection.held.is_none() {
            connection.held = Some(Box::new(Held { frames: Vec::new(), plan: None }));
        }
    }

    /// Whether a connection may be read, or what its task waits for before. `link` tells whether the number still means
    /// the connection that the task serves.
    pub(super) fn pause(&mut self, number: u32, link: &Link) -> Pause {
        let held = |connection: &Connection| {
            connection.held.as_ref().map(|_| connection.waits_until_us.unwrap_or_default())
        };
        self.pause_stream(number, link, held).unwrap_or(Pause::GoOn { has_held: false })
    }

    /// [`Self::pause`] for one of the streams of a connection, which may hold something back until a time. `None` when the
    /// connection is gone.
    pub(super) fn pause_stream(
        &mut self,
        number: u32,
        link: &Link,
        waits_until_us: impl FnOnce(&Connection) -> Option<u64>,
    ) -> Option<Pause> {
        let now_us = self.shared.clock.now_us();
        let connection = self.connection_of(number, link)?;
        if connection.out.owes_much() || connection.has_asked() {
            return Some(Pause::Wait(connection.paused.get_or_insert_default().clone(), UNTIL_TOLD));
        }
        if let Some(left) = connection.holder_wait(now_us) {
            return Some(Pause::Wait(connection.paused.get_or_insert_default().clone(), left));
        }
        let Some(until_us) = waits_until_us(connection) else { return Some(Pause::GoOn { has_held: false }) };
        let paused = connection.paused.get_or_insert_default().clone();
        let left = Duration::from_micros(until_us.saturating_sub(now_us));
        if left.is_zero() || !self.shared.journal.await_room(self.number) {
            return Some(Pause::GoOn { has_held: true });
        }
        self.waiting.insert(number);
        Some(Pause::Wait(paused, left))
    }

    /// Gives up a peer that reads none of the many answers it is owed.
    pub(super) fn close_unread(&mut self, connection: &mut Connection) {
        if connection.out.owes_too_much() {
            self.finish_batch(connection);
            let close = (Close::Overloaded.number(), "too many answers are not read");
            self.close_with(connection, close, Ended::Overloaded);
        }
    }

    /// The journal has room, or had a moment ago: the connections that wait for it look.
    pub(super) fn handle_room(&mut self) {
        for number in std::mem::take(&mut self.waiting) {
            let connection = self.connections.get_mut(number as usize).and_then(Option::as_mut);
            if let Some(paused) = connection.and_then(|connection| connection.paused.take()) {
                paused.notify_waiters();
            }
        }
    }

    /// Handles what a connection holds back. It may have to wait again.
    pub(super) fn go_on(&mut self, number: u32, link: &Link) -> Next {
        let slot = self.connections.get_mut(number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(link))) else {
            return Next::Gone;
        };
        if let Some(held) = connection.held.take() {
            let Held { frames, plan } = *held;
            let now = self.heard(&mut connection, 0);
            self.planned = plan;
            if !frames.is_empty() {
                self.take_message(&mut connection, &frames, now);
                // A connection that is sent events takes nothing more from its own bytes.
                self.finish_batch(&mut connection);
            }
            self.planned = None;
            self.take_partial(&mut connection, now);
            self.charge_held(&mut connection);
        }
        // It may have become one.
        let next = if connection.events().is_some() { Next::Listen } else { Next::Yield };
        self.put_back(number, connection);
        self.settle();
        next
    }
}

#[cfg(test)]
mod tests;
