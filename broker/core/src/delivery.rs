//! What becomes of a message behind its publish: who must acknowledge it, what happens when one does not.
//!
//! Sans-IO: time is an argument, randomness is a seed, what is to be done comes back as events.
//!
//! The origin worker's [`Tracker`] has the messages its publishers wait for, each recipient session's [`Window`]
//! what it was sent. An ack goes from the window as ranges to the tracker, and from there as a receipt to the
//! publisher; a timeout, a nack or a lost connection comes back from the tracker as a redelivery or an end.
//!
//! Stored messages wait for nobody's receipt: a session's [`Cursors`] and a queue's [`Backlog`] know how far they are
//! acknowledged.

mod backlog;
mod backoff;
mod cursors;
mod delays;
mod event;
mod flight;
mod held;
mod lane;
mod ledger;
mod live;
mod plan;
mod receipts;
mod tracker;
mod waiting;
mod wheel;
pub mod window;

pub use backlog::{Answered, Backlog, Give, Page, Place, QueueCursor, Read};
pub use cursors::{Cursors, NotSent};
pub use delays::Delays;
pub use event::{Event, References};
pub use flight::State;
pub use ledger::{DeviceRow, LedgerEntry, RecipientRow};
pub use plan::{AckPlan, Backoff, Cause, Exhausted, Quorum};
pub use tracker::{Bounds, Failed, Flight, Report, Share, Stats, Stopping, Tracker, Turn};
pub use window::{Acked, NotInFlight, Sending, Window};

use crate::address::Name;
use crate::queue::QueueId;
use std::fmt;

/// Who a message is for, as far as its delivery is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recipient {
    /// A user; one device's ack counts for all.
    User(Name),
    /// A queue: one of its members at a time.
    Queue(QueueId),
}

impl fmt::Display for Recipient {
    /// `user/<name>` or `queue/<name>/<pattern>`: how ledgers and dead letters name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user/{user}"),
            Self::Queue(queue) => write!(f, "queue/{queue}"),
        }
    }
}

#[cfg(test)]
mod tests;
