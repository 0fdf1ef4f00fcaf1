//! Write a WaspMQ policy in Rust: implement [`Policy`] and one or more hooks, name the type and its hooks in
//! [`export_policy!`], build for `wasm32-unknown-unknown`.
//!
//! ```
//! use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy};
//!
//! struct Audit;
//!
//! impl Policy for Audit {
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl Routing for Audit {
//!     fn route(&mut self, message: &Message) -> Verdict {
//!         Verdict::fan_out([message.address.as_str(), "topic/audit"]).with_header("seen-by", "audit")
//!     }
//! }
//!
//! export_policy!(Audit: routing);
//! ```
//!
//! The hooks are [`Routing`], [`Ack`], [`Admission`], [`Overflow`] and [`Compression`], written `routing`, `ack`,
//! `admission`, `overflow` and `compression`. A plugin with several is bound to addresses by one policy for each hook, and each of these has
//! instances of its own. Everything here also compiles for the host, so that a policy's logic has ordinary unit tests;
//! the exports exist only in a component. Deliberately not here: reading JSON, which is the plugin's choice.

#[cfg(any(test, all(target_arch = "wasm32", feature = "allocator")))]
mod allocator;
#[doc(hidden)]
pub mod bindings;
mod export;
pub mod host;
mod pattern;
mod verdict;

pub use bindings::waspmq::policy::types::{
    AckPlan, Action, Admission as Admittance, Audience, Cache, Cause, Choice, Codec, Codecs, Decision,
    Exhausted, Failure, Kind, Level, Message, Overflowing, Pick, QueueMembers, Quorum, Refusal, Route,
    Verdict,
};
pub use pattern::matches;

/// The allocator of a plugin that has the feature `allocator`, as it has by default.
#[cfg(all(target_arch = "wasm32", feature = "allocator"))]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator::new();

/// What every policy is. Each worker of the broker has an instance of its own; an instance may be replaced at any
/// time by a new one, so its memory is a cache. What has to stay is kept with the host.
pub trait Policy: Sized {
    /// Makes the policy from its configuration, one JSON object. An error is shown to the operator, and the
    /// policy is not put in place.
    fn configure(config: &str) -> Result<Self, String>;

    /// Tries out what can be tried without a message, behind `configure`. Not called while nothing is configured.
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Decides where messages go.
pub trait Routing: Policy {
    /// Hears of every queue before the first message, and of changes later; no members: the queue is gone.
    fn members_changed(&mut self, members: QueueMembers) {
        let _ = members;
    }

    /// Decides one message.
    fn route(&mut self, message: &Message) -> Verdict;
}

/// Decides how messages are acknowledged, and what is done when one is not.
pub trait Ack: Policy {
    /// The plan of one message, such as `AckPlan { attempts: 2, ..*configured }`. `None`: the next policy's, or what
    /// is configured.
    fn plan(&mut self, message: &Message, configured: &AckPlan) -> Option<AckPlan> {
        let _ = (message, configured);
        None
    }

    /// What is done about a failed attempt. By default, what the plan says.
    fn failed(&mut self, failure: &Failure) -> Decision {
        let _ = failure;
        Decision::Continue
    }
}

/// Decides which messages are taken in.
pub trait Admission: Policy {
    /// Decides one message, before it is routed.
    fn admit(&mut self, message: &Message) -> Admittance;
}

/// Decides what is done when a recipient does not keep up.
pub trait Overflow: Policy {
    /// Decides about messages that do not fit their recipient's queue.
    fn overflow(&mut self, what: &Overflowing) -> Action;
}

/// Decides how the bytes of messages are made fewer on their way to recipients.
///
/// ```
/// use waspmq_plugin_sdk::{Audience, Choice, Codec, Codecs, Compression, Message, Policy, export_policy};
///
/// struct Large;
///
/// impl Policy for Large {
///     fn configure(_config: &str) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// impl Compression for Large {
///     fn choose(&mut self, message: &Message, audience: &Audience) -> Choice {
///         if message.size < 1_024 || !audience.takes(Codecs::ZSTD) {
///             return Choice::pass();
///         }
///         Choice::of(Codec::Zstd(3))
///     }
/// }
///
/// export_policy!(Large: compression);
///
/// let audience = Audience { codecs: Codecs::ZSTD | Codecs::LZ4, dictionary: false };
/// # use waspmq_plugin_sdk::Kind;
/// # let (sender, address, key) = ("alice".to_owned(), "topic/a".to_owned(), String::new());
/// # let message = Message { sender, address, kind: Kind::Topic, key, size: 4_096, priority: 4, ts: 1 };
/// assert!(matches!(Large.choose(&message, &audience).codec, Codec::Zstd(3)));
/// ```
pub trait Compression: Policy {
    /// Decides what a message is sent with to the recipients that take these codecs.
    fn choose(&mut self, message: &Message, audience: &Audience) -> Choice;
}
