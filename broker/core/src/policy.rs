//! What a routing policy is asked and what it may answer, and the built-in that serves without plugins.
//!
//! The traits are the seam to the host of sandboxed policies; nothing here knows WebAssembly. Decisions are
//! data: the publish pass carries them out.

use crate::address::{Address, Kind, Name};

/// A message as a routing policy sees it. Headers and payload are pulled by the policy, not pushed.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The publishing user.
    pub from: &'a str,
    pub to: &'a str,
    pub kind: Kind,
    /// The partition key, empty when there is none.
    pub key: &'a str,
    pub payload: &'a [u8],
    /// Whether `payload` is JSON.
    pub is_json: bool,
    pub headers: &'a [(String, String)],
    pub priority: u8,
    /// Publish time, milliseconds since 1970.
    pub unix_ms: u64,
}

/// A routing decision. Policies run by their order; `Continue` passes on, the first other verdict is final,
/// and headers set on the way are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    pub route: Route,
    /// Headers to set on the message, replacing those of the same name.
    pub set_headers: Vec<(String, String)>,
}

/// Where the message goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Route {
    /// Ask the next policy; behind the last one, deliver as addressed.
    #[default]
    Continue,
    /// Deliver as addressed and ask no further policy.
    Deliver,
    /// Deliver to this address instead.
    Redirect(Address),
    /// Deliver to these addresses, at most [`crate::limits::FANOUT_MAX`]; the original counts only when named.
    FanOut(Vec<Address>),
    /// As addressed, and of the queue whose members have this version take the member at this index.
    Pick { version: u64, index: u32 },
    /// Deliver to nobody; the publisher is told the reason.
    Drop(String),
}

/// The members of one queue, as told to policies whenever they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMembers {
    pub pattern: String,
    pub queue: Name,
    /// Unique over all queues of the broker and ascending: it names this queue and this state of it.
    pub version: u64,
    /// One entry per member session, in the order that an index means; text is `user/device/session`.
    pub members: Vec<String>,
}

/// What the pass of one message does when policies were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Decided(Verdict),
    /// A policy failed and is set to refuse messages then; the text says which, for the publisher.
    Refused(String),
}

/// The routing hooks of one worker, in order. Owned by the worker, so it takes `&mut self` and no lock.
pub trait Routing {
    /// Whether any policy is bound to `to`; when false, `route` need not be asked.
    fn applies(&mut self, to: &str) -> bool;

    fn route(&mut self, message: &Message<'_>) -> Outcome;
}

/// Delivers every message as addressed: what serves when no policy is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsAddressed;

impl Routing for AsAddressed {
    fn applies(&mut self, _to: &str) -> bool {
        false
    }

    fn route(&mut self, _message: &Message<'_>) -> Outcome {
        Outcome::Decided(Verdict::default())
    }
}
