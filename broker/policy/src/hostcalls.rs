//! What guests may ask of the host beyond the message, whichever way a call came in.
//!
//! None of these fails: what is over a bound is cut, or left out and counted, and answers nothing. Whoever brings a call
//! here has spent it before ([`State::spend_hostcall`]). Deliberately not here: how strings and lists get out of a
//! guest's memory.

use crate::bindings::{Level, cut};
use crate::exceeded::Limit;
use crate::limits;
use crate::memory::Rate;
use crate::state::State;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// What policies may ask about the broker around them. Asked while a message waits, so an answer takes no longer than
/// a look-up.
pub trait Surroundings: Debug + Send + Sync {
    /// Whether a user has a session now.
    fn is_online(&self, user: &str) -> bool;

    /// The members of a group now; 0 when there is no such group.
    fn group_size(&self, group: &str) -> u32;
}

/// Surroundings without users and groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Surroundings for Nobody {
    fn is_online(&self, _user: &str) -> bool {
        false
    }

    fn group_size(&self, _group: &str) -> u32 {
        0
    }
}

/// Numbers that look random: splitmix64, seeded by the operating system once for each instance.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded() -> Self {
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    /// The same numbers for the same seed.
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

impl State {
    /// Writes one line to the log, cut to its bound; [`State::may_log`] was asked before.
    pub(crate) fn write_line(&self, level: Level, text: &str) {
        let (policy, text) = (&*self.context.name, cut(text, limits::LOG_BYTES_MAX));
        match level {
            Level::Debug => tracing::debug!(target: "plugin", policy, text),
            Level::Info => tracing::info!(target: "plugin", policy, text),
            Level::Warn => tracing::warn!(target: "plugin", policy, text),
            Level::Error => tracing::error!(target: "plugin", policy, text),
        }
    }

    pub(crate) fn count(&self, name: &str, delta: u64) {
        if !self.context.stats.counters.add(self.context.worker, name, delta) {
            self.context.exceed(Limit::Counters);
        }
    }

    pub(crate) fn observe(&self, name: &str, value: u64) {
        if !self.context.stats.histograms.add(self.context.worker, name, value) {
            self.context.exceed(Limit::Histograms);
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all_headers(&mut self) -> Arc<Vec<(String, String)>> {
        self.pulled.headers = true;
        Arc::clone(&self.headers)
    }

    pub(crate) fn whole_payload(&mut self) -> Arc<Vec<u8>> {
        self.pulled.payload = true;
        Arc::clone(&self.payload)
    }

    pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.context.memory.values.get(key, self.context.clock.ms())
    }

    pub(crate) fn set_value(&self, key: &str, value: &[u8], ttl_ms: u64) -> bool {
        let memory = &self.context.memory;
        let set = memory.values.set(key, value, ttl_ms, self.context.clock.ms());
        self.context.kept(Limit::Values, set).is_some()
    }

    pub(crate) fn delete_value(&self, key: &str) {
        self.context.memory.values.delete(key);
    }

    pub(crate) fn compare_and_set_value(
        &self,
        (key, expected): (&str, Option<&[u8]>),
        value: &[u8],
        ttl_ms: u64,
    ) -> bool {
        let memory = &self.context.memory;
        let set = memory.values.compare_and_set((key, expected), value, ttl_ms, self.context.clock.ms());
        self.context.kept(Limit::Values, set).is_some()
    }

    pub(crate) fn add_to_value(&self, key: &str, delta: i64, ttl_ms: u64) -> Option<i64> {
        let sum = self.context.memory.values.add(key, delta, ttl_ms, self.context.clock.ms());
        self.context.kept(Limit::Values, sum)
    }

    pub(crate) fn take_tokens(&self, bucket: &str, amount: u32, rate: Rate) -> bool {
        let taken = self.context.memory.buckets.take(bucket, amount, rate, self.context.clock.ms());
        self.context.kept(Limit::Buckets, taken).is_some()
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.context.clock.unix_ms()
    }

    pub(crate) const fn draw(&mut self) -> u64 {
        self.random.next()
    }

    pub(crate) fn is_online(&self, user: &str) -> bool {
        self.context.surroundings.is_online(user)
    }

    /// What the members of the queue with this version have in flight; the fast lane reads it in place.
    pub(crate) fn in_flight(&self, version: u64) -> Vec<u32> {
        self.told.loads(version).map(|loads| loads.iter().collect()).unwrap_or_default()
    }

    pub(crate) fn group_size(&self, group: &str) -> u32 {
        self.context.surroundings.group_size(group)
    }
}
