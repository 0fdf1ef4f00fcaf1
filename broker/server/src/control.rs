//! What operators may ask of a running broker, from any thread: the one object behind the admin API.

use crate::access::AccessControl;
use crate::clock::Clock;
use crate::dictionaries::Library;
use crate::phase::{Phase, PhaseCell};
use crate::quic::QuicCounters;
use crate::tail::Tails;
use crate::tls::Tls;
use crate::worker::counters::Counters;
use crate::worker::ledger::Found;
use crate::worker::mailbox::{Entry, Mailboxes};
use crate::worker::storage_error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use waspmq_core::registry::{Added, JoinedBy, Registry, SessionEntry};
use waspmq_core::{Address, Close, Code, Level, MessageId, Name, Position, Reject, SessionId};
use waspmq_policy::{Explained, Host};
use waspmq_protocol::Content;
use waspmq_protocol::client::Publish;
use waspmq_store::{AuditLog, Journal, Store, StoreError, Write};

/// How long workers may take to say what they know of a message. Longer: refused, as a worker that is so busy must
/// not be asked more.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a question to the store waits for writes that are on their way to it.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// A message published through the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub to: Address,
    /// The user it is from; `None` is the operator.
    pub from: Option<Name>,
    pub payload: Vec<u8>,
    pub is_json: bool,
    pub headers: Vec<(String, String)>,
    pub key: String,
    pub priority: u8,
    /// How far the message must get before the answer comes.
    pub level: Level,
    pub ttl_ms: Option<u64>,
    pub delay_ms: u64,
    /// An address, or empty.
    pub reply_to: String,
    /// Whether the answer comes as soon as the message is accepted, and its level is reached without anybody being told.
    pub answers_early: bool,
}

impl Publication {
    /// As a client's, which asks for no receipt.
    pub(crate) fn as_publish(&self) -> Publish<'_> {
        let content = if self.is_json { Content::Json } else { Content::Bytes };
        Publish {
            headers: self.headers.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ack: self.level,
            key: (!self.key.is_empty()).then(|| self.key.as_str().into()),
            reply_to: (!self.reply_to.is_empty()).then(|| self.reply_to.as_str().into()),
            priority: self.priority,
            ttl_ms: self.ttl_ms,
            delay_ms: self.delay_ms,
            ..Publish::new(self.to.as_str(), content, self.payload.as_slice())
        }
    }
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub id: MessageId,
    pub level: Level,
    pub recipients: u32,
}

/// Handles of the parts that operators see.
#[derive(Debug, Clone)]
pub struct Control {
    pub clock: Clock,
    pub node: Arc<str>,
    pub phase: Arc<PhaseCell>,
    pub registry: Arc<Registry>,
    pub policies: Arc<Host>,
    pub access: Arc<AccessControl>,
    /// The certificate of the listener for clients; none where it is plain.
    pub tls: Option<Arc<Tls>>,
    pub quic: Arc<QuicCounters>,
    pub dictionaries: Arc<Library>,
    pub(crate) tails: Arc<Tails>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub store: Arc<dyn Store>,
    /// Bytes beyond which the store takes no more messages.
    pub store_bytes_max: u64,
    pub journal: Journal,
    /// Where changes are noted; nowhere in a broker that keeps nothing.
    pub audit: Option<Arc<AuditLog>>,
}

/// Why the broker does not serve its clients, or not all that they rely on.
#[derive(Debug)]
pub(crate) enum Unready {
    Phase(Phase),
    /// Policies that are required do not serve.
    Policies(Vec<waspmq_policy::Unready>),
    /// The store does not take what was written.
    Storage,
}

impl Control {
    /// `None` while the broker serves.
    pub(crate) fn unready(&self) -> Option<Unready> {
        let phase = self.phase();
        if phase != Phase::Ready {
            return Some(Unready::Phase(phase));
        }
        let policies = self.policies.unready();
        if !policies.is_empty() {
            return Some(Unready::Policies(policies));
        }
        self.journal.is_failing().then_some(Unready::Storage)
    }

    pub fn phase(&self) -> Phase {
        self.phase.load()
    }

    /// Each worker's counters.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.mailboxes.iter().map(|mailbox| &mailbox.counters)
    }

    pub fn sessions(&self) -> Vec<SessionEntry> {
        self.registry.sessions()
    }

    /// Ends a session; its client is told not to come back by itself.
    pub fn close_session(&self, id: SessionId) -> Result<(), Reject> {
        let entry = self.registry.session(id);
        let entry = entry.ok_or_else(|| Reject::new(Code::NotFound, format!("there is no session {id}")))?;
        self.send(entry.session.worker, Entry::Close { session: id, close: Close::Kicked })
    }

    /// Makes a group that stays when it is empty, also after a restart.
    pub fn create_group(&self, group: &Name) -> Result<(), Reject> {
        self.check_journal()?;
        self.registry.create_group(group)?;
        self.save(Write::Group { group: group.clone() });
        Ok(())
    }

    /// Ends a group's memberships and the group.
    pub fn remove_group(&self, group: &Name) -> Result<(), Reject> {
        self.check_journal()?;
        let members = self.registry.group_members(group).unwrap_or_default();
        let removed = self.registry.remove_group(group, &*self.mailboxes);
        for user in members.into_iter().filter(|user| !self.registry.is_member(user, group)) {
            self.save(Write::NoMember { group: group.clone(), user });
        }
        removed?;
        self.save(Write::NoGroup { group: group.clone() });
        Ok(())
    }

    /// Makes a user a member. Of a name that was made for one session, nothing is kept behind its end.
    /// Says what it changed.
    pub fn add_member(&self, group: &Name, user: &Name) -> Result<Option<Added>, Reject> {
        self.check_journal()?;
        let added = self.registry.add_member(user, group, &*self.mailboxes)?;
        if let Some(added) = added.filter(|_| !self.registry.is_generated(user)) {
            let since = match added {
                Added::New(since) => since,
                Added::TakenOver => self.member_since(group, user),
            };
            let (group, user) = (group.clone(), user.clone());
            self.save(Write::Member { group, user, since, by: JoinedBy::Operator });
        }
        Ok(added)
    }

    /// Since when somebody is a member; since now where the store cannot say it.
    fn member_since(&self, group: &Name, user: &Name) -> Position {
        let known = self.store.member_since(group, user).ok().flatten();
        known.unwrap_or_else(|| self.registry.stream_end(self.registry.shard_of(&Address::group(group))))
    }

    /// Ends a membership.
    pub fn remove_member(&self, group: &Name, user: &Name) -> Result<(), Reject> {
        self.check_journal()?;
        self.registry.leave(user, group, &*self.mailboxes)?;
        self.save(Write::NoMember { group: group.clone(), user: user.clone() });
        Ok(())
    }

    /// Refuses what could not be written down, before anything is changed.
    fn check_journal(&self) -> Result<(), Reject> {
        self.journal.check().map_err(|error| storage_error(&error))?;
        if self.journal.has_room() {
            return Ok(());
        }
        Err(Reject::new(Code::Overloaded, "more waits for the disk than the journal may hold")
            .retry_after(100))
    }

    fn save(&self, write: Write) {
        if self.journal.push(write, None).is_err() {
            tracing::error!(
                "the journal had no room for a change of a group; the next start does not know it"
            );
        }
    }

    /// Publishes through the same pass as any session's message, on the first worker.
    pub async fn publish(&self, publication: Publication) -> Result<Published, Reject> {
        if self.phase() >= Phase::Draining {
            return Err(Reject::new(Code::Draining, "the broker is leaving service").retry_after(1_000));
        }
        if !self.mailboxes.of(0).takes_publishes() {
            return Err(no_room());
        }
        let (answer, mut answered) = mpsc::channel(1);
        self.send(0, Entry::Publish { publication: Box::new(publication), answer })?;
        let stopped = || Err(Reject::new(Code::Draining, "the broker stopped before it published"));
        answered.recv().await.unwrap_or_else(stopped)
    }

    /// What every worker knows about the delivery of a message.
    pub(crate) async fn find_delivery(&self, id: MessageId) -> Result<Vec<Found>, Reject> {
        let workers = self.mailboxes.len();
        let (answer, mut answers) = mpsc::channel(workers.max(1));
        for worker in (0..workers).filter_map(|worker| u8::try_from(worker).ok()) {
            self.send(worker, Entry::Ledger { id, answer: answer.clone() })?;
        }
        drop(answer);
        let collecting = async {
            let mut found = Vec::with_capacity(workers);
            while let Some(one) = answers.recv().await {
                found.push(one);
            }
            found
        };
        tokio::time::timeout(WORKERS_TIMEOUT, collecting).await.map_err(|_| {
            Reject::new(Code::Overloaded, "a worker did not say in time what it knows").retry_after(1_000)
        })
    }

    /// What policies decided about a message, by the worker that published it; none where its id is not of this run.
    pub(crate) async fn explain(&self, id: MessageId) -> Result<Option<Explained>, Reject> {
        let this_run = MessageId::new(0, self.registry.epoch(), 0, 0).epoch();
        if id.epoch() != this_run || usize::from(id.worker()) >= self.mailboxes.len() {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        self.send(id.worker(), Entry::Explain { id, answer })?;
        let late = || {
            Reject::new(Code::Overloaded, "the worker did not say in time what it knows").retry_after(1_000)
        };
        let answered = tokio::time::timeout(WORKERS_TIMEOUT, answered).await.map_err(|_| late())?;
        answered.map(Some).map_err(|_| late())
    }

    /// Refuses what may end as a dead letter while none could be kept.
    pub(crate) fn check_room(&self) -> Result<(), Reject> {
        let room = self.journal.check_room().and_then(|()| self.store.room(0));
        room.map_err(|error| storage_error(&error))
    }

    /// Removes dead letters, by message and place. When this returns they are gone from the store.
    pub(crate) async fn forget_letters(&self, letters: Vec<(MessageId, String)>) -> Result<(), Reject> {
        let full = || Reject::new(Code::Overloaded, "the journal has no room").retry_after(1_000);
        for (id, place) in &letters {
            let write = Write::NoDeadLetter { id: *id, place: place.clone() };
            self.journal.push(write, None).map_err(|_| full())?;
        }
        let (answer, answered) = oneshot::channel();
        // Readings run behind all writes before them; a write may have failed, so the store is asked.
        let look = move |store: &dyn Store| {
            let is_left = letters.iter().try_fold(false, |is_left, (id, place)| {
                let left = store.dead_letter(*id)?;
                Ok::<_, StoreError>(is_left || left.iter().any(|letter| letter.place() == *place))
            });
            if answer.send(is_left).is_err() {
                tracing::debug!("a removal of dead letters ended after its caller");
            }
        };
        self.journal.read(Box::new(look)).map_err(|_| full())?;
        let failed = || Reject::new(Code::StorageFailed, "the store did not remove them").retry_after(1_000);
        match answered.await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) | Err(_) => Err(failed()),
            Ok(Err(error)) => Err(storage_error(&error)),
        }
    }

    /// The store with everything that was pushed to the journal before, as far as that takes no longer than
    /// [`STORE_WAIT`]. Blocks: for threads that may.
    pub(crate) fn settled_store(&self) -> &dyn Store {
        let (passed, behind) = std::sync::mpsc::sync_channel(1);
        let pass = move |_: &dyn Store| {
            if passed.send(()).is_err() {
                tracing::debug!("whoever asked for the store has stopped waiting");
            }
        };
        let is_settled = self.journal.read(Box::new(pass)).is_ok() && behind.recv_timeout(STORE_WAIT).is_ok();
        if !is_settled {
            tracing::debug!("the store is asked although writes are still on their way to it");
        }
        &*self.store
    }

    fn send(&self, worker: u8, entry: Entry) -> Result<(), Reject> {
        self.mailboxes.send(worker, entry).map_err(|_| no_room())
    }
}

fn no_room() -> Reject {
    Reject::new(Code::Overloaded, "the worker has no room for the command").retry_after(100)
}
