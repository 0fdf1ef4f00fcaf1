//! What the client's handle and its driver share.
//!
//! The one mutex is held for a look-up or an insertion, never across an await.

use crate::backoff::random;
use crate::error::Error;
use crate::events::Event;
use crate::inbox::Inbox;
use crate::interest::{Change, Interest};
use crate::limits::{EVENTS_MAX, PINGS_MAX};
use crate::restore::Restore;
use crate::stats::Stats;
use crate::transport::Transport;
use crate::waiting::Waiting;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::time::Instant;
use waspmq_core::Code;
use waspmq_protocol::Secret;
use waspmq_protocol::client::Resume;
use waspmq_protocol::server::{History, Message, Presence, Receipt, Refusal, Welcome};

/// What the broker says of something that it takes away, in front of its address.
const WITHDRAWALS: [&str; 2] = ["the subscription to ", "the membership of "];

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    next_reference: AtomicU64,
    pub(crate) inbox: Inbox,
    /// What the correlation ids of this client's requests begin with.
    pub(crate) correlation: String,
    /// Told when the broker wants the client to leave, and when the last answer came after that.
    pub(crate) leave: Notify,
    /// Told when the program wants to end while there is no connection.
    pub(crate) ending: Notify,
}

#[derive(Debug)]
struct State {
    waiting: HashMap<u64, Waiting>,
    pings: VecDeque<Ping>,
    interests: Vec<Interest>,
    /// Which of them this session does not have yet.
    restore: Restore,
    /// Requests that wait for another client's reply, by the number in their correlation id.
    replies: HashMap<u64, oneshot::Sender<Message>>,
    /// `None` once the client has ended.
    events: Option<broadcast::Sender<Event>>,
    /// For the next connect.
    token: Option<Secret<'static>>,
    welcome: Welcome,
    /// What the connection is, or was.
    transport: Transport,
    stats: Stats,
    /// Milliseconds to stay away, once the broker said goodbye.
    goaway_ms: Option<u32>,
    /// The last error that answers no request and ends the connection: it explains the close.
    complaint: Option<Refusal>,
    end: Option<Error>,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    answer: Option<oneshot::Sender<Duration>>,
}

impl Shared {
    pub(crate) fn new(
        (welcome, transport): (Welcome, Transport),
        token: Option<Secret<'static>>,
        manual_acks: bool,
        correlation: String,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: HashMap::new(),
                pings: VecDeque::new(),
                interests: Vec::new(),
                restore: Restore::default(),
                replies: HashMap::new(),
                events: Some(broadcast::Sender::new(EVENTS_MAX)),
                token,
                welcome,
                transport,
                stats: Stats::default(),
                goaway_ms: None,
                complaint: None,
                end: None,
            }),
            next_reference: AtomicU64::new(1),
            inbox: Inbox::new(manual_acks),
            correlation,
            leave: Notify::new(),
            ending: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn reference(&self) -> u64 {
        self.next_reference.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn welcome(&self) -> Welcome {
        self.state().welcome.clone()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.state().transport
    }

    pub(crate) fn max_message_bytes(&self) -> usize {
        usize::try_from(self.state().welcome.max_message_bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.state().stats
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Stats)) {
        count(&mut self.state().stats);
    }

    /// Why the client ended.
    pub(crate) fn end(&self) -> Option<Error> {
        self.state().end.clone()
    }

    pub(crate) fn handle_end(&self, error: Error) {
        self.state().end.get_or_insert(error);
        self.end_waiting();
        self.fail_all(&self.end().unwrap_or(Error::Ended));
    }

    pub(crate) fn wait(&self, reference: u64, waiting: Waiting) {
        let mut state = self.state();
        // Nobody would take it out again.
        if let Some(end) = state.end.clone() {
            drop(state);
            return waiting.fail(end);
        }
        // What is about to be ended is not asked for in between.
        if let Waiting::Ok { change: Change::Remove(interest), .. } = &waiting {
            state.restore.handle_done(interest);
        }
        state.waiting.insert(reference, waiting);
    }

    pub(crate) fn ping_sent(&self, sent: Instant, answer: Option<oneshot::Sender<Duration>>) {
        self.state().pings.push_back(Ping { sent, answer });
    }

    pub(crate) fn may_ping(&self) -> bool {
        self.state().pings.len() < PINGS_MAX
    }

    pub(crate) fn handle_pong(&self, now: Instant) {
        let ping = self.state().pings.pop_front();
        if let Some(Ping { sent, answer: Some(answer) }) = ping {
            // The caller may have stopped waiting.
            answer.send(now.duration_since(sent)).unwrap_or_default();
        }
    }

    pub(crate) fn handle_receipt(&self, receipt: Receipt) {
        if let Some(Waiting::Receipt { answer, .. }) = self.take(receipt.reference) {
            drop(answer.send(Ok(receipt)));
        }
    }

    pub(crate) fn handle_ok(&self, reference: Option<u64>) {
        match reference.and_then(|reference| self.take(reference)) {
            Some(Waiting::Ok { answer, change, .. }) => {
                self.apply(change);
                drop(answer.send(Ok(())));
            }
            Some(Waiting::Restored(interest)) => self.state().restore.handle_done(&interest),
            _ => {}
        }
    }

    pub(crate) fn handle_history(&self, history: History) {
        if let Some(Waiting::History { answer, .. }) = history.reference.and_then(|it| self.take(it)) {
            drop(answer.send(Ok(history)));
        }
    }

    pub(crate) fn handle_presence(&self, presence: Presence) {
        if let Some(Waiting::Presence { answer, .. }) = presence.reference.and_then(|it| self.take(it)) {
            drop(answer.send(Ok(presence)));
        }
    }

    pub(crate) fn handle_event(&self, event: Event) {
        if let Some(events) = &self.state().events {
            // An error means that nobody listens.
            drop(events.send(event));
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        let state = self.state();
        // Once the client has ended, a receiver whose sender is gone already.
        state.events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    pub(crate) fn await_reply(&self, number: u64, answer: oneshot::Sender<Message>) {
        self.state().replies.insert(number, answer);
    }

    pub(crate) fn forget_reply(&self, number: u64) {
        self.state().replies.remove(&number);
    }

    /// A message with a correlation id of this client. It is done with, whether somebody waits for it or not.
    pub(crate) fn handle_reply(&self, number: u64, message: Message) {
        self.inbox.handle_done(&message);
        let answer = self.state().replies.remove(&number);
        let is_late = answer.is_none_or(|answer| answer.send(message).is_err());
        if is_late {
            self.count(|stats| stats.late_replies += 1);
        }
    }

    /// Nothing comes any more: who waits for events or replies is told.
    pub(crate) fn end_waiting(&self) {
        let mut state = self.state();
        state.events = None;
        state.replies.clear();
    }

    pub(crate) fn handle_error(&self, reference: Option<u64>, refusal: Refusal) {
        match reference.and_then(|reference| self.take(reference)) {
            Some(Waiting::Restored(interest)) => {
                let when = (Instant::now(), random());
                let is_lost = self.state().restore.handle_refused(&interest, &refusal, when);
                if is_lost {
                    let of = interest.address().map(Cow::into_owned);
                    self.apply(Change::Remove(interest));
                    self.handle_refused(of, refusal);
                }
                // The writer looks again when something is due.
                self.inbox.work.notify_one();
            }
            Some(Waiting::Ok { answer, change: change @ Change::Remove(_), .. })
                if refusal.code() == Some(Code::NotFound) =>
            {
                // Nor is it to be given back, where the broker only did not have it yet.
                self.apply(change);
                drop(answer.send(Err(Error::Refused(refusal))));
            }
            Some(waiting) => waiting.fail(Error::Refused(refusal)),
            None if refusal.code() == Some(Code::NotInFlight) => {
                self.count(|stats| stats.late_acks += 1);
            }
            None => {
                if refusal.code().is_some_and(Code::closes) {
                    self.state().complaint = Some(refusal.clone());
                }
                if !self.doubts(&refusal) {
                    self.handle_refused(None, refusal);
                }
            }
        }
    }

    /// Nobody waits for this answer.
    fn handle_refused(&self, of: Option<String>, refusal: Refusal) {
        self.count(|stats| stats.refused += 1);
        self.handle_event(Event::Refused { of, refusal });
    }

    /// Whether an error that answers no request says that something was taken away. Only its text names the address, so the broker
    /// is asked for it again: what it still gives goes on, and its answer is the one that is told.
    fn doubts(&self, refusal: &Refusal) -> bool {
        if refusal.code() != Some(Code::Forbidden) {
            return false;
        }
        // A message that may not be published names its address too.
        let ended = WITHDRAWALS.iter().find_map(|of| refusal.message.strip_prefix(of));
        let Some(ended) = ended.and_then(|named| named.split(' ').next()) else { return false };
        let is_named = |interest: &&Interest| interest.address().is_some_and(|address| address == ended);
        let named: Vec<_> = self.state().interests.iter().filter(is_named).cloned().collect();
        let is_one_named = !named.is_empty();
        for interest in named {
            let interest = self.where_it_was(interest);
            self.state().restore.handle_doubt(interest, Instant::now());
        }
        self.inbox.work.notify_one();
        is_one_named
    }

    fn take(&self, reference: u64) -> Option<Waiting> {
        let mut state = self.state();
        let waiting = state.waiting.remove(&reference);
        if state.goaway_ms.is_some() && state.waiting.is_empty() {
            self.leave.notify_one();
        }
        waiting
    }

    pub(crate) fn handle_goaway(&self, reconnect_ms: u32) {
        self.state().goaway_ms = Some(reconnect_ms);
        self.leave.notify_one();
    }

    pub(crate) fn is_asked_to_leave(&self) -> bool {
        self.state().goaway_ms.is_some()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// What the broker asked for before the connection ended: the time to stay away, and its complaint.
    pub(crate) fn take_farewell(&self) -> (Option<u32>, Option<Refusal>) {
        let mut state = self.state();
        (state.goaway_ms.take(), state.complaint.take())
    }

    /// The connection is gone, and with it every answer.
    pub(crate) fn fail_all(&self, error: &Error) {
        let (waiting, pings) = {
            let mut state = self.state();
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.pings))
        };
        drop(pings);
        for waiting in waiting.into_values() {
            waiting.fail(error.clone());
        }
    }

    pub(crate) fn token(&self) -> Option<Secret<'static>> {
        self.state().token.clone()
    }

    /// What the next `connect` says to go on with the session.
    pub(crate) fn resume(&self) -> Option<Resume<'static>> {
        let token = self.state().welcome.resume_token.clone()?;
        Some(Resume { token, positions: self.inbox.positions() })
    }

    /// Another connection: what this session does not have, and the one before had, is due, each from where it was.
    pub(crate) fn handle_reconnected(&self, welcome: Welcome, transport: Transport) {
        let (resumed, now) = (welcome.resumed, Instant::now());
        let owed = if resumed { None } else { Some(self.to_be_restored()) };
        let recovered = {
            let mut state = self.state();
            let recovered = welcome.recovered && state.restore.is_empty();
            state.welcome = welcome;
            state.transport = transport;
            state.stats.reconnects += 1;
            match owed {
                Some(owed) => state.restore.handle_new_session(owed, now),
                None => state.restore.handle_resumed(now),
            }
            recovered
        };
        self.handle_event(Event::Reconnected { resumed, recovered });
        self.inbox.handle_reconnected(resumed);
    }

    fn to_be_restored(&self) -> Vec<Interest> {
        let interests: Vec<_> = {
            let state = self.state();
            let owed = |interest: &Interest| (interest.clone(), state.restore.owed(interest).cloned());
            state.interests.iter().map(owed).collect()
        };
        // What came meanwhile, by other subscriptions, is not how far one has read that is still owed.
        let again = |(interest, owed): (_, Option<_>)| owed.unwrap_or_else(|| self.where_it_was(interest));
        interests.into_iter().map(again).collect()
    }

    fn where_it_was(&self, interest: Interest) -> Interest {
        match interest {
            Interest::Subscription { to, queue: None, from } => {
                let from = self.inbox.again(&to, from);
                Interest::Subscription { to, queue: None, from }
            }
            // A queue goes on where its members are.
            Interest::Subscription { to, queue, .. } => Interest::Subscription { to, queue, from: None },
            other => other,
        }
    }

    /// What is to be asked for now because this session does not have it.
    pub(crate) fn take_due(&self) -> Vec<Interest> {
        self.state().restore.poll_due(Instant::now())
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.state().restore.next_due()
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Token(token) => self.state().token = Some(token),
            Change::Add(interest) => {
                if let Interest::Subscription { to, queue: None, .. } = &interest {
                    self.inbox.follow(to, true);
                }
                let mut state = self.state();
                state.restore.handle_done(&interest);
                state.interests.retain(|other| !interest.is_same(other));
                state.interests.push(interest);
            }
            Change::Remove(interest) => {
                if let Interest::Subscription { to, queue: None, .. } = &interest {
                    self.inbox.follow(to, false);
                }
                let mut state = self.state();
                state.restore.handle_done(&interest);
                state.interests.retain(|other| !interest.is_same(other));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;
    use waspmq_core::Reject;

    fn topic(to: &str) -> Interest {
        Interest::Subscription { to: to.to_owned(), queue: None, from: None }
    }

    /// A client that has subscribed to `topic/a` and is a member of `group/eng`.
    fn shared() -> Arc<Shared> {
        let welcome = Welcome {
            session: "a session".to_owned(),
            resume_token: None,
            node: "a node".to_owned(),
            resumed: false,
            recovered: false,
            heartbeat_ms: 1_000,
            max_message_bytes: 1_000,
            codecs: Vec::new(),
        };
        let shared = Shared::new((welcome, Transport::WebSocket), None, false, "c".to_owned());
        shared.apply(Change::Add(topic("topic/a")));
        shared.apply(Change::Add(Interest::Group("eng".to_owned())));
        shared
    }

    fn forbid(shared: &Shared, message: &str) {
        shared.handle_error(None, Refusal::from(Reject::new(Code::Forbidden, message)));
    }

    #[test]
    fn only_what_is_said_to_have_ended_is_asked_for_again() {
        let shared = shared();
        for message in [
            "publishing to topic/a is not allowed",
            "the subscription to topic/b ended: it is no longer allowed, as topic/a",
            "the membership of eng ended",
        ] {
            forbid(&shared, message);
            assert!(shared.take_due().is_empty(), "{message}");
        }
        assert_eq!(shared.stats().refused, 3, "the program is told");
        for message in ["the subscription to topic/a ended: why", "the membership of group/eng ended: why"] {
            forbid(&shared, message);
            assert_eq!(shared.take_due().len(), 1, "{message}");
        }
        assert_eq!(shared.stats().refused, 3);
    }

    #[test]
    fn only_what_ends_the_connection_explains_its_end() {
        let shared = shared();
        forbid(&shared, "publishing to topic/a is not allowed");
        assert_eq!(shared.take_farewell().1, None);
        let ended = Refusal::from(Reject::new(Code::TokenExpired, "the session's token has ended"));
        shared.handle_error(None, ended.clone());
        forbid(&shared, "publishing to topic/a is not allowed");
        assert_eq!(shared.take_farewell().1, Some(ended));
    }

    #[test]
    fn what_is_about_to_be_ended_is_not_asked_for_again() {
        let shared = shared();
        forbid(&shared, "the subscription to topic/a ended: why");
        assert!(shared.next_due().is_some());
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (answer, _answered) = oneshot::channel();
        shared.wait(1, Waiting::Ok { answer, change: Change::Remove(topic("topic/a")), _slot: slot });
        assert!(shared.next_due().is_none() && shared.take_due().is_empty());
    }
}
