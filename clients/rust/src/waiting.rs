//! Requests that wait for the broker's answer.

use crate::error::Error;
use crate::interest::{Change, Interest};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use waspmq_protocol::server::{History, Presence, Receipt};

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
    History {
        answer: oneshot::Sender<Result<History, Error>>,
        _slot: OwnedSemaphorePermit,
    },
    Presence {
        answer: oneshot::Sender<Result<Presence, Error>>,
        _slot: OwnedSemaphorePermit,
    },
    /// Made by the driver after a reconnect; nobody waits for it, and it stays owed until it is answered.
    Restored(Interest),
}

impl Waiting {
    /// Ends the waiting; nobody is told of a restored interest.
    pub(crate) fn fail(self, error: Error) {
        match self {
            Self::Receipt { answer, .. } => drop(answer.send(Err(error))),
            Self::Ok { answer, .. } => drop(answer.send(Err(error))),
            Self::History { answer, .. } => drop(answer.send(Err(error))),
            Self::Presence { answer, .. } => drop(answer.send(Err(error))),
            Self::Restored(_) => {}
        }
    }
}
