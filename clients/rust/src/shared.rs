//! What the client's handle and its driver share.
//!
//! The one mutex is held for a look-up or an insertion, never across an await.

use crate::error::Error;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use waspmq_protocol::client::Frame;
use waspmq_protocol::server::{Receipt, Refusal, Welcome};

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) enum Waiting {
    Receipt {
        answer: oneshot::Sender<Result<Receipt, Error>>,
        _slot: OwnedSemaphorePermit,
    },
    Ok {
        answer: oneshot::Sender<Result<(), Error>>,
        change: Change,
        _slot: OwnedSemaphorePermit,
    },
    /// Made by the driver after a reconnect; nobody waits for it.
    Restored(Interest),
}

/// Something to be asked for again after a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interest {
    Subscription { to: String, queue: Option<String> },
    Group(String),
}

impl Interest {
    /// The request for it.
    pub(crate) fn frame(&self, reference: u64) -> Frame<'_> {
        let reference = Some(reference);
        match self {
            Self::Subscription { to, queue } => Frame::Subscribe {
                reference,
                to: to.as_str().into(),
                queue: queue.as_deref().map(Into::into),
                from: None,
            },
            Self::Group(group) => Frame::Join { reference, group: group.as_str().into() },
        }
    }

    /// The request to end it.
    pub(crate) fn end_frame(&self, reference: u64) -> Frame<'_> {
        let reference = Some(reference);
        match self {
            Self::Subscription { to, queue } => Frame::Unsubscribe {
                reference,
                to: to.as_str().into(),
                queue: queue.as_deref().map(Into::into),
            },
            Self::Group(group) => Frame::Leave { reference, group: group.as_str().into() },
        }
    }
}

/// What an `ok` changes.
#[derive(Debug)]
pub(crate) enum Change {
    Add(Interest),
    Remove(Interest),
}

/// What happened to a client so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub reconnects: u64,
    /// Repeats of messages, dropped here.
    pub duplicates: u64,
    /// Messages the broker dropped because this client did not keep up.
    pub overflowed: u64,
    /// Errors that answer no request, such as a refused [`crate::Client::send`], and subscriptions or groups the
    /// broker did not give back after a reconnect.
    pub refused: u64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    next_reference: AtomicU64,
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
    welcome: Welcome,
    stats: Stats,
    /// Milliseconds to stay away, once the broker said goodbye.
    goaway_ms: Option<u32>,
    /// The last error that answers no request: it may explain a close.
    complaint: Option<Refusal>,
    end: Option<Error>,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    answer: Option<oneshot::Sender<Duration>>,
}

impl Shared {
    pub(crate) fn new(welcome: Welcome) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: HashMap::new(),
                pings: VecDeque::new(),
                interests: Vec::new(),
                welcome,
                stats: Stats::default(),
                goaway_ms: None,
                complaint: None,
                end: None,
            }),
            next_reference: AtomicU64::new(1),
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
        self.fail_all(&self.end().unwrap_or(Error::Ended));
    }

    pub(crate) fn wait(&self, reference: u64, waiting: Waiting) {
        self.state().waiting.insert(reference, waiting);
    }

    pub(crate) fn ping_sent(&self, sent: Instant, answer: Option<oneshot::Sender<Duration>>) {
        self.state().pings.push_back(Ping { sent, answer });
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
                self.state().apply(change);
                drop(answer.send(Ok(())));
            }
            Some(Waiting::Receipt { .. } | Waiting::Restored(_)) | None => {}
        }
    }

    pub(crate) fn handle_error(&self, reference: Option<u64>, refusal: Refusal) {
        match reference.and_then(|reference| self.take(reference)) {
            Some(Waiting::Receipt { answer, .. }) => drop(answer.send(Err(Error::Refused(refusal)))),
            Some(Waiting::Ok { answer, .. }) => drop(answer.send(Err(Error::Refused(refusal)))),
            Some(Waiting::Restored(interest)) => {
                let mut state = self.state();
                state.apply(Change::Remove(interest));
                state.stats.refused += 1;
            }
            None => {
                let mut state = self.state();
                state.stats.refused += 1;
                state.complaint = Some(refusal);
            }
        }
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
            match waiting {
                Waiting::Receipt { answer, .. } => drop(answer.send(Err(error.clone()))),
                Waiting::Ok { answer, .. } => drop(answer.send(Err(error.clone()))),
                Waiting::Restored(_) => {}
            }
        }
    }

    pub(crate) fn handle_reconnected(&self, welcome: Welcome) -> Vec<Interest> {
        let mut state = self.state();
        state.welcome = welcome;
        state.stats.reconnects += 1;
        state.interests.clone()
    }
}

impl State {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Add(interest) if !self.interests.contains(&interest) => self.interests.push(interest),
            Change::Add(_) => {}
            Change::Remove(interest) => self.interests.retain(|other| *other != interest),
        }
    }
}
