//! The store: the same suite over memory and disk, and what only a disk can suffer.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod find;
mod journal;
mod killed;
mod log;
mod model;
mod suite;
mod support;
mod trouble;
