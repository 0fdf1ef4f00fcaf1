//! Taking a session over from a connection that still seems to live: before its record is taken, that connection's worker
//! writes down what it has still to be sent.
//!
//! | the old connection's worker | the new connection |
//! | --- | --- |
//! | is its own | goes on at once |
//! | is another one | is not read until that one answers, for [`ANSWER_WAIT_US`] at most |
//! | has no room for the question, or does not answer | gets a new session: nobody knows what the old one would miss |
//!
//! What the old connection is sent behind the answer is of no matter: the client has named its positions before.

use super::super::Worker;
use super::super::connection::Connection;
use super::super::mailbox::Entry;
use super::{Claim, Progress};
use crate::clock::Moment;
use crate::resumes::{Holder, TokenHash};
use std::time::Duration;
use waspmq_core::SessionId;

/// How long the worker of the old connection may take, where a connection may take that long to get a session.
const ANSWER_WAIT_US: u64 = 3_000_000;

/// A session that another connection is about to take over.
#[derive(Debug)]
pub(crate) struct Takeover {
    session: SessionId,
    hash: TokenHash,
    taker: Taker,
}

/// The connection that waits for the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker {
    worker: u8,
    number: u32,
    ticket: u32,
}

/// What a connection waits for whose worker has asked another one.
#[derive(Debug)]
pub(crate) struct Asked {
    ticket: u32,
    until_us: u64,
    is_answered: bool,
}

/// Whether a record may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Approach {
    Ready,
    /// Not yet: `connect` is to be taken again when [`Connection::holder_wait`] is over.
    Waits,
    /// The session stays with its old connection.
    Silent,
}

impl Connection {
    /// How long it is not to be read yet, because it waits for the worker of the connection it takes a session over from.
    pub(in crate::worker) fn holder_wait(&self, now_us: u64) -> Option<Duration> {
        let asked = self.takeover.as_ref().filter(|asked| !asked.is_answered && now_us < asked.until_us)?;
        Some(Duration::from_micros(asked.until_us - now_us))
    }

    /// Whether its `connect` has to be taken again.
    pub(in crate::worker) const fn awaits_holder(&self) -> bool {
        self.takeover.is_some()
    }
}

impl Worker {
    /// Has written down what the session that is claimed has still to be sent, where a connection has it.
    pub(in crate::worker) fn approach(
        &mut self,
        connection: &mut Connection,
        claim: Option<&Claim>,
        now: Moment,
    ) -> Approach {
        if let Some(asked) = connection.takeover.take() {
            if asked.is_answered {
                return Approach::Ready;
            }
            if now.us < asked.until_us {
                connection.takeover = Some(asked);
                return Approach::Waits;
            }
            tracing::warn!("a session stays with its old connection, whose worker does not answer");
            return Approach::Silent;
        }
        let Some(Claim { hash, .. }) = claim else { return Approach::Ready };
        let Some(Holder::Live { session, worker }) = self.shared.resumes.holder(hash, now.unix_ms) else {
            return Approach::Ready;
        };
        if worker == self.number {
            self.write_down(session, hash);
            return Approach::Ready;
        }
        self.takeover_count = self.takeover_count.wrapping_add(1);
        let ticket = self.takeover_count;
        let taker = Taker { worker: self.number, number: connection.number, ticket };
        let takeover = Takeover { session, hash: *hash, taker };
        if self.shared.mailboxes.send(worker, Entry::Takeover(Box::new(takeover))).is_err() {
            tracing::warn!("a session stays with its old connection, whose worker has no room");
            return Approach::Silent;
        }
        let until_us = now.us + ANSWER_WAIT_US.min(self.shared.settings.connect_timeout_us);
        connection.takeover = Some(Box::new(Asked { ticket, until_us, is_answered: false }));
        Approach::Waits
    }

    /// A session of this worker is about to be taken over. One that has ended has left its record complete.
    pub(in crate::worker) fn handle_takeover(&mut self, takeover: &Takeover) {
        self.write_down(takeover.session, &takeover.hash);
        self.shared.mailboxes.answer(takeover.taker.worker, Entry::WrittenDown(takeover.taker));
    }

    fn write_down(&mut self, session: SessionId, hash: &TokenHash) {
        self.with_session(session, |worker, connection| {
            if connection.resume_hash.as_ref() == Some(hash) {
                let progress = Progress::of(connection);
                worker.note(connection, |record| progress.write(record));
            }
        });
    }

    /// The record that a connection of this worker waits for is complete.
    pub(in crate::worker) fn handle_written_down(&mut self, taker: Taker) {
        let connection = self.connections.get_mut(taker.number as usize).and_then(Option::as_mut);
        let Some(connection) = connection else { return };
        let asked = connection.takeover.as_mut().filter(|asked| asked.ticket == taker.ticket);
        let Some(asked) = asked else { return };
        asked.is_answered = true;
        if let Some(paused) = connection.paused.take() {
            paused.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
