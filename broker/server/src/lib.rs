//! The WaspMQ broker: composition, workers, admin API, metrics, configuration and command line.
//!
//! The only crate that sees all others. [`broker::Broker`] is a whole broker in a value; the binary starts one.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
mod listeners;
pub mod metrics;
pub mod phase;
pub mod worker;
