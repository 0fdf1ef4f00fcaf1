//! What members did with what they were given.

use super::done::{Place, place};
use super::progress::State;
use super::{Backlog, Key};
use crate::address::Address;
use crate::delivery::backoff::draw;
use crate::delivery::{Cause, Event, Exhausted, Failed, Recipient, Turn};
use crate::id::{Position, SessionId};
use crate::limits;
use crate::policy::{Decision, Failure};

/// The wait before a message is given again whose member was gone, or had no room in its session.
const AGAIN_MS: u64 = 50;

/// Consecutive messages of one address, and who did something with them.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    pub to: &'a Address,
    pub first: Position,
    pub messages: u16,
    /// `None` when it is not a member's doing.
    pub session: Option<SessionId>,
    /// The attempt this is about.
    pub attempt: u16,
}

impl Answered<'_> {
    fn keys(&self) -> impl Iterator<Item = Key> + use<'_> {
        let (epoch, first) = place(self.first);
        (0..u64::from(self.messages)).map(move |index| (self.to.clone(), (epoch, first + index)))
    }
}

impl Backlog {
    /// The messages are done: acknowledged, or ended by their tracker. Whoever has them now, and however late it is.
    pub fn handle_done(&mut self, answered: &Answered<'_>, now_ms: u64) {
        if let Some(session) = answered.session {
            self.loads.handle_heard(session, now_ms);
        }
        for key in answered.keys() {
            self.finish(&key);
        }
        self.tidy(answered.to);
    }

    /// A member does not have the messages any more, or never got them. Counts for the attempt it names and no other.
    pub fn handle_failed(&mut self, answered: &Answered<'_>, failed: Failed, turn: &mut Turn<'_>) {
        if failed.cause == Cause::QueueFull
            && let Some(session) = answered.session
        {
            self.loads.handle_full(session);
        }
        if failed.cause == Cause::Nack
            && let Some(session) = answered.session
        {
            self.loads.handle_heard(session, turn.now_ms);
        }
        for key in answered.keys() {
            let Some(open) = self.addresses.get(&key.0).and_then(|progress| progress.open.get(&key.1)) else {
                continue;
            };
            let is_current =
                matches!(open.state, State::Given { session, .. } if Some(session) == answered.session);
            if is_current && open.attempt == answered.attempt {
                self.fail(&key, failed.clone(), turn);
            }
        }
        self.tidy(answered.to);
    }

    /// What is due: attempts that took too long, and waits that are over.
    pub fn handle_time(&mut self, turn: &mut Turn<'_>) {
        while let Some((due_ms, _)) = self.resting.first()
            && *due_ms <= turn.now_ms
            && let Some((due_ms, key)) = self.resting.pop_first()
        {
            let open = self.addresses.get_mut(&key.0).and_then(|progress| progress.open.get_mut(&key.1));
            let is_due = |state: &State| matches!(state, State::Resting { due_ms: at } if *at == due_ms);
            if let Some(open) = open.filter(|open| is_due(&open.state)) {
                open.state = State::Ready;
                self.ready.push_front(key);
            }
        }
        if self.due_ms > turn.now_ms {
            return;
        }
        let (late, due_ms) = self.find_late(turn.now_ms);
        self.due_ms = due_ms;
        for (key, session) in late {
            self.loads.handle_silent(session);
            self.fail(&key, Failed::by(Cause::Timeout), turn);
            self.tidy(&key.0);
        }
    }

    /// When to call [`Self::handle_time`] next; never later than something is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        let resting = self.resting.first().map(|(due_ms, _)| *due_ms);
        resting.into_iter().chain((self.due_ms != u64::MAX).then_some(self.due_ms)).min()
    }

    /// Given messages whose time is over, each with its member, and when the next one's is. A member that acknowledges is
    /// alive, and has time for what it was given meanwhile.
    fn find_late(&self, now_ms: u64) -> (Vec<(Key, SessionId)>, u64) {
        let (mut late, mut next_ms) = (Vec::new(), u64::MAX);
        for (to, progress) in &self.addresses {
            for (at, open) in &progress.open {
                let State::Given { session, sent_ms, .. } = open.state else { continue };
                let since_ms = sent_ms.max(self.loads.of(session).heard_ms);
                let due_ms = since_ms.saturating_add(open.plan.timeout_ms.max(1).into());
                if due_ms <= now_ms {
                    late.push(((to.clone(), *at), session));
                } else {
                    next_ms = next_ms.min(due_ms);
                }
            }
        }
        (late, next_ms)
    }

    /// Decides about a given message whose attempt failed.
    fn fail(&mut self, key: &Key, failed: Failed, turn: &mut Turn<'_>) {
        let now_ms = turn.now_ms;
        let recipient = Recipient::Queue(self.id.clone());
        let Some(open) = self.addresses.get_mut(&key.0).and_then(|progress| progress.open.get_mut(&key.1))
        else {
            return;
        };
        let State::Given { session, .. } = open.state else { return };
        self.loads.remove(session, open.batch.size_bytes());
        open.avoid = Some(session);
        if matches!(failed.cause, Cause::Offline | Cause::QueueFull) {
            // It was not sent, so this was no attempt.
            open.attempt = open.attempt.saturating_sub(1);
            return self.rest(key, now_ms + AGAIN_MS);
        }
        let Some(envelope) = open.batch.messages.first() else { return };
        let decision = turn.acking.failed(&Failure {
            to: &key.0,
            from: open.batch.from.as_ref(),
            id: envelope.id,
            messages: 1,
            recipient: &recipient,
            cause: failed.cause,
            attempt: open.attempt,
            waited_ms: open.waited_ms(now_ms),
            retry_ms: failed.retry_ms,
            plan: &open.plan,
            random: draw(self.seed, envelope.id.count(), open.attempt),
        });
        let wait_ms = match decision {
            Decision::Retry { after_ms } | Decision::Wait { at_most_ms: after_ms } => after_ms,
            Decision::GiveUp => return self.give_up(key, failed, turn),
        };
        if open.attempt >= limits::ATTEMPTS_MAX {
            return self.give_up(key, failed, turn);
        }
        self.rest(key, now_ms + wait_ms.clamp(1, limits::RETRY_WAIT_MS_MAX));
    }

    /// Ends a message without an ack.
    fn give_up(&mut self, key: &Key, failed: Failed, turn: &mut Turn<'_>) {
        let Failed { cause, reason, .. } = failed;
        let recipient = Recipient::Queue(self.id.clone());
        let open = self.addresses.get(&key.0).and_then(|progress| progress.open.get(&key.1));
        if let Some(open) = open {
            let (batch, attempts, range) = (open.batch.clone(), open.attempt, 0..1);
            let is_kept = cause != Cause::Expired && open.plan.exhausted == Exhausted::DeadLetter;
            turn.out.push(if is_kept {
                Event::DeadLetter { batch, range, recipient, cause, attempts, reason }
            } else {
                Event::Dropped { batch, range, recipient, cause, attempts }
            });
        }
        self.finish(key);
    }

    fn finish(&mut self, (to, at): &(Address, Place)) {
        let Some(progress) = self.addresses.get_mut(to) else { return };
        if let Some(open) = progress.open.remove(at) {
            let bytes = open.batch.size_bytes();
            self.open -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
            match open.state {
                State::Given { session, .. } => self.loads.remove(session, bytes),
                State::Resting { due_ms } => drop(self.resting.remove(&(due_ms, (to.clone(), *at)))),
                State::Ready | State::Tracked => {}
            }
        } else if progress.is_reached(*at) {
            return;
        }
        progress.finish(*at);
        self.note_moved(to);
    }
}
