//! Receipts that wait: for the disk, or for all parts of a publish that went to several addresses.
//!
//! An entry is made before anything is enqueued and ends exactly once: with a receipt, with a refusal, or with
//! its publisher. Bounded by the journal's and the tracker's own bounds, which admit the messages behind it.

use super::Worker;
use super::alone::PutOff;
use super::connection::Connection;
use crate::control::Published;
use hashbrown::{HashMap, HashSet};
use slab::Slab;
use smallvec::SmallVec;
use std::sync::Arc;
use tokio::sync::mpsc;
use waspmq_core::dedup::{Key, Remembered};
use waspmq_core::delivery::Cause;
use waspmq_core::{Address, Level, MessageId, Reject, SessionId};
use waspmq_protocol::server;
use waspmq_store::Write;

/// The publisher of flights whose references are tokens of receipts that wait. No epoch is 0, so no session
/// has it.
pub(super) const INTERNAL: SessionId = SessionId::new(0, 0, 0);

/// Who is to be told.
#[derive(Debug)]
pub(super) enum Asker {
    /// A session's connection, by the references of its publishes.
    Session {
        id: SessionId,
        references: SmallVec<[(u64, MessageId); 4]>,
    },
    Operator {
        id: MessageId,
        answer: mpsc::Sender<Result<Published, Reject>>,
    },
    /// A delayed message that was promised to be stored and is due: it waits again where it is not.
    Promised(Box<PutOff>),
    /// A dead letter: it is counted as one when it is kept.
    Letter {
        id: MessageId,
        recipient: Arc<str>,
        cause: Cause,
    },
    Nobody,
}

/// A publish that was enqueued and has not reached its level.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asker: Asker,
    pub(super) level: Level,
    pub(super) recipients: u32,
    /// Addresses that have not reached the level.
    pub(super) waits: u32,
    pub(super) failure: Option<Reject>,
    pub(super) dedup: Option<Dedup>,
}

impl Pending {
    /// Something else than a publish that waits for the store.
    pub(super) const fn of_store(asker: Asker) -> Self {
        Self { asker, level: Level::Stored, recipients: 0, waits: 1, failure: None, dedup: None }
    }
}

/// A dedup key that is to be finished or freed.
#[derive(Debug, Clone)]
pub(super) struct Dedup {
    /// The address whose shard has it.
    pub(super) to: Address,
    pub(super) key: Key,
    /// Whether it was handed to the journal.
    pub(super) is_kept: bool,
}

/// The receipts of one worker that wait, by token.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    pending: Slab<Pending>,
}

impl Receipts {
    pub(super) fn insert(&mut self, pending: Pending) -> u64 {
        self.pending.insert(pending) as u64
    }

    pub(super) fn get_mut(&mut self, token: u64) -> Option<&mut Pending> {
        self.pending.get_mut(usize::try_from(token).ok()?)
    }

    /// The sessions that are told soon: what waits for the disk, and what is tracked here where any is. The rest waits for
    /// its time.
    pub(super) fn askers(&self, is_tracked: bool) -> HashSet<SessionId> {
        let of = |(_, pending): (_, &Pending)| match pending.asker {
            Asker::Session { id, .. } if pending.level < Level::Delivered || is_tracked => Some(id),
            _ => None,
        };
        self.pending.iter().filter_map(of).collect()
    }

    /// The references of sessions that were not answered. Nobody is told when their messages reach their level.
    pub(super) fn take_references(&mut self, askers: &HashSet<SessionId>) -> HashMap<SessionId, Vec<u64>> {
        let mut taken = HashMap::<_, Vec<_>>::new();
        if askers.is_empty() {
            return taken;
        }
        for (_, pending) in &mut self.pending {
            if let Asker::Session { id, references } = &pending.asker
                && askers.contains(id)
            {
                taken.entry(*id).or_default().extend(references.iter().map(|(reference, _)| *reference));
                pending.asker = Asker::Nobody;
            }
        }
        taken
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Forgets an entry whose publish did not go through.
    pub(super) fn take(&mut self, token: u64) -> Option<Pending> {
        self.pending.try_remove(usize::try_from(token).ok()?)
    }
}

impl Worker {
    /// One address of a publish reached its level, or will not. The last one answers.
    pub(super) fn handle_reached(&mut self, token: u64, result: Result<(), Reject>) {
        let Some(pending) = self.receipts.get_mut(token) else { return };
        pending.waits = pending.waits.saturating_sub(1);
        if let Err(reject) = result {
            pending.failure.get_or_insert(reject);
        }
        if pending.waits == 0
            && let Some(pending) = self.receipts.take(token)
        {
            self.conclude(pending);
        }
    }

    fn conclude(&mut self, pending: Pending) {
        let Pending { asker, level, recipients, failure, dedup, .. } = pending;
        if let Some(Dedup { to, key, is_kept }) = dedup {
            let answer = Remembered { recipients, level, ..key.answer };
            match &failure {
                None => self.shared.registry.lock(&to).dedup().finish(&key.text, key.number, answer),
                Some(_) => self.free(&to, &key, is_kept),
            }
        }
        match asker {
            Asker::Nobody => {}
            Asker::Promised(again) => {
                if let Some(reject) = failure {
                    self.handle_unkept(*again, &reject);
                }
            }
            Asker::Letter { id, recipient, cause } => match failure {
                None => self.counters().dead_letters(cause).add(1),
                Some(reject) => {
                    self.counters().given_up(cause).add(1);
                    tracing::error!(%id, %recipient, %reject, "a dead letter could not be kept; it is lost");
                }
            },
            Asker::Operator { id, answer } => {
                let published = failure.map_or(Ok(Published { id, level, recipients }), Err);
                if answer.try_send(published).is_err() {
                    tracing::debug!("an operator's publish ended after its caller");
                }
            }
            Asker::Session { id, references } => {
                let frames = references.into_iter().map(|(reference, id)| match &failure {
                    None => server::Frame::Receipt(server::Receipt { reference, id, level, recipients }),
                    Some(reject) => {
                        server::Frame::Error { reference: Some(reference), reject: reject.clone() }
                    }
                });
                self.send_to_asker(id, frames);
            }
        }
    }

    /// Frees the key of a publish that failed, here and in the store.
    pub(super) fn free(&self, to: &Address, key: &Key, is_kept: bool) {
        self.shared.registry.lock(to).dedup().forget(&key.text, key.number);
        let (shard, number, id) = (key.shard, key.number, key.answer.id);
        if is_kept && self.shared.journal.push(Write::NoDedupKey { shard, number, id }, None).is_err() {
            // Behind a restart, a repeat is answered by what is stored.
            tracing::warn!(%to, "the journal has no room to free a dedup key");
        }
    }

    /// Sends answers to the connection that asked; to nobody when it has ended, also when its session goes on.
    pub(super) fn send_to_asker(
        &mut self,
        asker: SessionId,
        frames: impl IntoIterator<Item = server::Frame>,
    ) {
        self.with_asker(asker, |worker, connection| worker.send_all(connection, frames));
    }

    /// Sends control frames to a session of this worker; to nobody when it has ended.
    pub(super) fn send_to_session(
        &mut self,
        session: SessionId,
        frames: impl IntoIterator<Item = server::Frame>,
    ) {
        self.with_session(session, |worker, connection| worker.send_all(connection, frames));
    }

    /// Sends control frames that the peer may not have asked for just now: one that reads none of them is closed.
    fn send_all(&mut self, connection: &mut Connection, frames: impl IntoIterator<Item = server::Frame>) {
        for frame in frames {
            if matches!(frame, server::Frame::Error { .. }) {
                self.counters().errors_sent.add(1);
            }
            self.control.push(connection.encoding, &frame);
        }
        self.send_control(connection);
        self.close_unread(connection);
    }
}
