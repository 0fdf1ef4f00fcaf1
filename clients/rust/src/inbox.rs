//! What the client remembers of the messages it was sent: which they were, how far it has read, and which
//! acknowledgements are to be written.
//!
//! The reader admits messages, the program takes them, the writer takes the acknowledgements. The mutex is held for
//! a look-up or an insertion, never across an await.

use crate::acks::Acks;
use crate::limits::ACK_BATCH;
use crate::passed::Passed;
use crate::places::{Places, is_wildcard};
use crate::seen::{Repeat, Seen};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;
use waspmq_core::Position;
use waspmq_protocol::From;
use waspmq_protocol::client::Frame;
use waspmq_protocol::server::Message;

#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Whether the program acknowledges by itself.
    manual: bool,
    /// Told when there is something to be written.
    pub(crate) work: Notify,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    acks: Acks,
    passed: Passed,
    places: Places,
}

impl Inbox {
    pub(crate) fn new(manual: bool) -> Self {
        Self { state: Mutex::default(), manual, work: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether a message is new. A repeat of one that was acknowledged is acknowledged again, as the broker did not
    /// hear of it; one that still waits for the program is acknowledged when its turn comes.
    pub(crate) fn admit(&self, message: &Message) -> bool {
        let mut state = self.state();
        state.places.handle_message(message);
        match state.seen.insert(message) {
            None => {
                if is_late(message) {
                    state.acks.hold(message);
                }
                true
            }
            Some(Repeat::PassedOver) => {
                self.pass(&mut state, message);
                false
            }
            Some(Repeat::Acknowledged) if message.wants_ack => {
                self.add(&mut state, message, true);
                false
            }
            Some(_) => false,
        }
    }

    /// The program has taken a message from the queue.
    pub(crate) fn handle_taken(&self, message: &Message) {
        if !self.manual {
            self.handle_done_in_order(message);
        }
    }

    /// The program is done with a message, and with all of its address that came before it.
    pub(crate) fn handle_done_in_order(&self, message: &Message) {
        self.done(message, message.queue.is_some() || message.attempt.is_some());
    }

    /// The program, or this library for it, is done with a message out of the queue's order.
    pub(crate) fn handle_done(&self, message: &Message) {
        self.done(message, true);
    }

    fn done(&self, message: &Message, alone: bool) {
        if message.wants_ack {
            let mut state = self.state();
            if is_late(message) {
                state.acks.release(message);
            }
            state.seen.set(message, Repeat::Acknowledged);
            self.add(&mut state, message, alone);
        }
    }

    /// The program leaves a message to others.
    pub(crate) fn pass_over(&self, message: &Message) {
        let mut state = self.state();
        if is_late(message) {
            state.acks.release(message);
        }
        state.seen.set(message, Repeat::PassedOver);
        self.pass(&mut state, message);
    }

    /// The program wants a message again.
    pub(crate) fn forget(&self, message: &Message) {
        let mut state = self.state();
        if is_late(message) {
            state.acks.release(message);
        }
        state.seen.remove(message);
    }

    /// The program wants everything of a pattern again, as far as it is sent.
    pub(crate) fn forget_all(&self, pattern: &str) {
        self.state().seen.remove_all((!is_wildcard(pattern)).then_some(pattern));
    }

    fn pass(&self, state: &mut State, message: &Message) {
        if !message.wants_ack {
            return;
        }
        state.passed.add(message);
        while let Some(back) = state.passed.poll_back() {
            if state.acks.give_back(back) {
                self.work.notify_one();
            }
        }
    }

    fn add(&self, state: &mut State, message: &Message, alone: bool) {
        if state.acks.add(message, alone) {
            self.work.notify_one();
        }
    }

    pub(crate) fn has_acks(&self) -> bool {
        self.state().acks.count() > 0
    }

    pub(crate) fn has_full_batch(&self) -> bool {
        self.state().acks.count() >= ACK_BATCH
    }

    pub(crate) fn take_acks(&self) -> Vec<Frame<'static>> {
        self.state().acks.take()
    }

    /// A new session has nothing in flight: what was not acknowledged comes again and is acknowledged then. One that was resumed is
    /// sent again what the program has passed over.
    pub(crate) fn handle_reconnected(&self, resumed: bool) {
        let mut state = self.state();
        state.passed.handle_reconnected();
        if !resumed {
            drop(state.acks.take());
        }
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        self.state().places.positions()
    }

    pub(crate) fn follow(&self, to: &str, is_wanted: bool) {
        self.state().places.follow(to, is_wanted);
    }

    pub(crate) fn again(&self, to: &str, from: Option<From>) -> Option<From> {
        self.state().places.again(to, from)
    }
}

/// Whether a message came behind later ones of its address.
const fn is_late(message: &Message) -> bool {
    message.wants_ack && message.attempt.is_some() && message.queue.is_none()
}
