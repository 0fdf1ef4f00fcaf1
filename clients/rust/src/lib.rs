//! The Rust client: what it does is in its README, below.
//!
//! One task owns the connection: `driver` connects, reads, writes and reconnects. [`Client`] encodes requests and
//! queues them; [`Messages`] is the other end of the queue that the driver fills. What the two sides share,
//! requests waiting for an answer above all, is in `shared`.
//! What the driver and the program know of messages is in `inbox`: repeats (`seen`), acknowledgements (`acks`), what it left to others (`passed`) and how
//! far was read (`places`), with which a session is resumed. What a new session is asked for is in `restore`. Requests to other clients are in `request`.
//! Where the broker is says a `target`, whom the client trusts to be it `trust`. What lies below the frames is chosen by
//! `driver::route` and hidden by `driver::socket`; QUIC and WebTransport come with the feature `quic`, which is on by default.
#![doc = include_str!("../README.md")]

mod acks;
mod ask;
mod authorities;
mod backoff;
mod builder;
mod certificate;
mod client;
mod codecs;
mod driver;
mod error;
mod events;
mod inbox;
mod interest;
mod limits;
mod messages;
mod passed;
mod places;
mod publish;
mod request;
mod restore;
mod seen;
mod shared;
mod stats;
mod target;
mod token;
mod transport;
mod trust;
mod verifier;
mod waiting;

pub use backoff::Backoff;
pub use builder::Builder;
pub use client::Client;
pub use error::Error;
pub use events::{Event, Events};
pub use messages::Messages;
pub use publish::{Payload, PendingReceipt, PublishOptions};
pub use request::CORRELATION_ID;
pub use stats::Stats;
pub use transport::Transport;

pub use waspmq_core::settings::Overflow as OverflowAction;
pub use waspmq_core::{AddressError, Code, MessageId, Position};
pub use waspmq_protocol::server::{
    History as HistoryPage, Message, Overflow, Presence, PresenceChange, Read, Receipt, Refusal,
    UserPresence, Welcome,
};
pub use waspmq_protocol::{Content, EncodeError, From, FromError, Level, Profile};
