//! What this worker knows about the delivery of one message, for whoever asks, and for the store when it is over.
//!
//! Only ledgers of stored messages are kept: a message that is not stored leaves nothing on the disk. Their write
//! is an ordinary one of the journal without a receipt; without room it is left out, and the ledger is known for as
//! long as the tracker remembers it.

use super::Worker;
use crate::ledger::Ledger;
use waspmq_core::delivery::LedgerEntry;
use waspmq_core::{Address, MessageId, Name, SessionId};
use waspmq_store::Write;

/// A message that a session was sent and has not answered.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) user: Name,
    pub(crate) device: Option<Name>,
    pub(crate) session: SessionId,
    pub(crate) to: Address,
    /// Milliseconds since 1970.
    pub(crate) sent_unix_ms: u64,
    pub(crate) attempt: u16,
}

/// One worker's part of the ledger of a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// From the worker that published it, one for each of its addresses.
    pub(crate) entries: Vec<LedgerEntry>,
    pub(crate) in_flight: Vec<InFlight>,
}

impl Worker {
    pub(super) fn find_delivery(&self, id: MessageId) -> Found {
        let is_here = id.worker() == self.number && id.epoch() == self.shared.registry.epoch();
        let now = self.shared.clock.now();
        let connections = self.connections.iter().filter_map(|(_, connection)| {
            let connection = connection.as_ref()?;
            Some((connection.identity()?, &connection.window))
        });
        let in_flight = connections.flat_map(|(identity, window)| {
            window.find(id).map(|(to, sent_ms, attempt)| InFlight {
                user: identity.user.clone(),
                device: identity.device.clone(),
                session: identity.id,
                to: to.clone(),
                sent_unix_ms: now.unix_ms.saturating_sub((now.us / 1_000).saturating_sub(sent_ms)),
                attempt,
            })
        });
        let entries = if is_here { self.tracker.entries(id) } else { Vec::new() };
        Found { entries, in_flight: in_flight.collect() }
    }

    /// Hands the ledgers of stored messages whose delivery has ended to the journal.
    pub(super) fn keep_ledgers(&mut self) {
        let ended = self.tracker.take_ended();
        for id in ended.iter().flat_map(|batch| batch.messages.iter().map(|envelope| envelope.id)) {
            // Where it is still under way, the end there writes it anew.
            let mut entries = self.tracker.entries(id);
            entries.retain(|entry| entry.recipients.iter().all(|row| row.state.is_end()));
            let Some(ledger) = Ledger::of(&entries) else { continue };
            let body = match serde_json::to_vec(&ledger) {
                Ok(body) => body,
                Err(error) => {
                    tracing::error!(%id, %error, "the ledger of a message could not be written");
                    continue;
                }
            };
            // What is left of the journal's room is for messages.
            let journal = &self.shared.journal;
            if !journal.has_room() || journal.push(Write::Ledger { id, body }, None).is_err() {
                tracing::debug!(%id, "the journal has no room for the ledger of a message");
            }
        }
    }
}
