//! What operators may ask of a running broker, from any thread: the one object behind the admin API.

use crate::clock::Clock;
use crate::phase::{Phase, PhaseCell};
use crate::worker::counters::Counters;
use crate::worker::mailbox::{Entry, Mailboxes};
use std::sync::Arc;
use tokio::sync::oneshot;
use waspmq_core::registry::{Registry, SessionEntry};
use waspmq_core::{Address, Close, Code, MessageId, Name, Reject, SessionId};
use waspmq_policy::Host;

/// A message published through the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub to: Address,
    pub payload: Vec<u8>,
    pub is_json: bool,
    pub headers: Vec<(String, String)>,
    pub key: String,
    pub priority: u8,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub id: MessageId,
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
    pub(crate) mailboxes: Arc<Mailboxes>,
}

impl Control {
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

    pub fn create_group(&self, group: &Name) -> Result<(), Reject> {
        self.registry.create_group(group)
    }

    pub fn remove_group(&self, group: &Name) -> Result<(), Reject> {
        self.registry.remove_group(group, &*self.mailboxes)
    }

    pub fn add_member(&self, group: &Name, user: &Name) -> Result<(), Reject> {
        self.registry.join(user, group, &*self.mailboxes)
    }

    pub fn remove_member(&self, group: &Name, user: &Name) -> Result<(), Reject> {
        self.registry.leave(user, group, &*self.mailboxes)
    }

    /// Publishes through the same pass as any session's message, on the first worker.
    pub async fn publish(&self, publication: Publication) -> Result<Published, Reject> {
        if self.phase() >= Phase::Draining {
            return Err(Reject::new(Code::Draining, "the broker is leaving service").retry_after(1_000));
        }
        if !self.mailboxes.of(0).takes_publishes() {
            return Err(no_room());
        }
        let (answer, answered) = oneshot::channel();
        self.send(0, Entry::Publish { publication: Box::new(publication), answer })?;
        answered
            .await
            .unwrap_or_else(|_| Err(Reject::new(Code::Draining, "the broker stopped before it published")))
    }

    fn send(&self, worker: u8, entry: Entry) -> Result<(), Reject> {
        self.mailboxes.send(worker, entry).map_err(|_| no_room())
    }
}

fn no_room() -> Reject {
    Reject::new(Code::Overloaded, "the worker has no room for the command").retry_after(100)
}
