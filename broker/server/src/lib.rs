//! The WaspMQ broker: composition, workers, admin API, metrics, configuration and command line.
//!
//! The only crate that sees all others. [`broker::Broker`] is a whole broker in a value; the binary starts one.

pub mod access;
pub mod admin;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dictionaries;
mod files;
mod ledger;
mod listeners;
pub mod metrics;
pub mod phase;
mod policies;
mod queues;
pub mod quic;
mod resumes;
mod storage;
mod surroundings;
pub mod tail;
pub mod tls;
pub mod worker;
