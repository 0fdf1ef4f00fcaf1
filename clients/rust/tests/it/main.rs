//! The client against a scripted peer on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acks;
#[cfg(feature = "quic")]
mod auto;
mod client;
mod questions;
mod sessions;
#[cfg(feature = "quic")]
mod streams;
mod support;
#[cfg(feature = "quic")]
mod transports;
#[cfg(feature = "quic")]
mod udp;
