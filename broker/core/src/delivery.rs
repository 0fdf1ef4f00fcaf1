//! What becomes of a message behind its publish: who must acknowledge it, what happens when one does not.
//!
//! Sans-IO: time is an argument, randomness is a seed, what is to be done comes back as events.

mod plan;

pub use plan::{AckPlan, Backoff, Cause, Exhausted, Quorum};

use crate::address::Name;

/// Who a message is for, as far as its delivery is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recipient {
    /// A user; one device's ack counts for all.
    User(Name),
    /// A queue, by its name: one of its members at a time.
    Queue(Name),
}
