//! The client against a scripted peer on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acks;
mod client;
mod questions;
mod sessions;
mod support;
