//! The Rust client: what it does is in its README, below.
//!
//! One task owns the connection: `driver` connects, reads, writes and reconnects. [`Client`] encodes requests and
//! queues them; [`Messages`] is the other end of the queue that the driver fills. What the two sides share,
//! requests waiting for an answer above all, is in `shared`.
//! Deliberately not here: resuming a session, and acknowledging messages.
#![doc = include_str!("../README.md")]

mod backoff;
mod builder;
mod client;
mod driver;
mod error;
mod limits;
mod messages;
mod publish;
mod seen;
mod shared;

pub use backoff::Backoff;
pub use builder::Builder;
pub use client::{Client, PendingReceipt};
pub use error::Error;
pub use messages::Messages;
pub use publish::{Payload, PublishOptions};
pub use shared::Stats;

pub use waspmq_core::{AddressError, Code, MessageId, Position};
pub use waspmq_protocol::server::{Message, Receipt, Refusal, Welcome};
pub use waspmq_protocol::{Content, EncodeError, Level, Profile};
