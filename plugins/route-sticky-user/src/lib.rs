//! Keeps the messages of one sender on one member of a queue until that member leaves.
//!
//! Who serves whom is kept by the broker (`kv`), so it is the same on all workers and outlives swaps of the policy; two
//! workers that assign a sender at the same time end with one member, since a value is set by comparison. A sender that is new,
//! or whose member left, gets the member its name belongs to by hash. That also serves where there is no room to keep it.

use serde::Deserialize;
use std::collections::BTreeMap;
use waspmq_plugin_common::{Chooser, Queues, Text, Within, hash, read};
use waspmq_plugin_sdk::{Message, Policy, QueueMembers, Routing, Verdict, export_policy, host};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    queue: Text<256>,
    header: Option<Text<64>>,
    #[serde(default = "an_hour")]
    ttl_s: Within<1, 604_800>,
}

const fn an_hour() -> Within<1, 604_800> {
    Within(3_600)
}

/// `{"queue": "workers", "header": "user", "ttl_s": 600}`
#[derive(Debug)]
pub struct StickyUser {
    header: Option<Text<64>>,
    ttl_ms: u64,
    queues: Queues<Members>,
}

#[derive(Debug)]
struct Members {
    /// Tells assignments of one queue from those of another.
    pattern: u64,
    all: Vec<u32>,
    names: Vec<String>,
    indexes: BTreeMap<String, u32>,
    chooser: Chooser,
}

/// What is kept for the policy.
trait Kept {
    fn get(&mut self, key: &str) -> Option<Vec<u8>>;
    fn compare_and_set(&mut self, key: &str, change: (Option<&[u8]>, &[u8]), ttl_ms: u64) -> bool;
}

struct ByHost;

impl Kept for ByHost {
    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        host::kv_get(key)
    }

    fn compare_and_set(&mut self, key: &str, (expected, value): (Option<&[u8]>, &[u8]), ttl_ms: u64) -> bool {
        host::kv_compare_and_set(key, expected, value, ttl_ms)
    }
}

impl Policy for StickyUser {
    fn configure(config: &str) -> Result<Self, String> {
        let Config { queue, header, ttl_s } = read(config)?;
        Ok(Self { header, ttl_ms: u64::from(ttl_s.0) * 1_000, queues: Queues::new(&queue) })
    }
}

impl Routing for StickyUser {
    fn members_changed(&mut self, members: QueueMembers) {
        self.queues.change(members, |pattern, names| Members {
            pattern: hash(pattern.as_bytes()),
            all: (0..).take(names.len()).collect(),
            names: names.to_vec(),
            indexes: names.iter().cloned().zip(0..).collect(),
            chooser: Chooser::new(names, 0),
        });
    }

    fn route(&mut self, message: &Message) -> Verdict {
        let named = self.header.as_ref().and_then(|header| host::header(header));
        let who = named.as_deref().filter(|name| !name.is_empty()).unwrap_or(&message.sender);
        self.decide(message, who, &mut ByHost)
    }
}

export_policy!(StickyUser: routing);

impl StickyUser {
    fn decide(&mut self, message: &Message, who: &str, kept: &mut impl Kept) -> Verdict {
        let Some(known) = self.queues.of(&message.address) else { return Verdict::pass() };
        // The admin API may publish for nobody.
        if who.is_empty() {
            return Verdict::pass();
        }
        match known.of.member_of(who, (message.ts, self.ttl_ms), kept) {
            Some(index) => Verdict::pick(known.version, index),
            None => Verdict::pass(),
        }
    }
}

impl Members {
    fn member_of(&self, who: &str, (now_ms, ttl_ms): (u64, u64), kept: &mut impl Kept) -> Option<u32> {
        let key = format!("{:016x}", self.pattern ^ hash(who.as_bytes()));
        let by_hash = self.chooser.by_key(who, &self.all)?;
        // The second time around it is another worker that was quicker.
        for _ in 0..2 {
            let found = kept.get(&key);
            let assigned = found.as_deref().and_then(|value| self.assigned(value));
            let (index, is_fresh) = match assigned {
                Some((index, since_ms)) => (index, now_ms.saturating_sub(since_ms) < ttl_ms / 4),
                None => (by_hash, false),
            };
            // Written again now and then, so that it ends when the sender is quiet and not before.
            if is_fresh || kept.compare_and_set(&key, (found.as_deref(), &self.value(index, now_ms)), ttl_ms)
            {
                return Some(index);
            }
            if assigned.is_some() {
                return Some(index);
            }
        }
        Some(by_hash)
    }

    /// The member in a value that was kept, when it is still there, and when it was written.
    fn assigned(&self, value: &[u8]) -> Option<(u32, u64)> {
        let (since_ms, name) = value.split_first_chunk()?;
        let index = self.indexes.get(std::str::from_utf8(name).ok()?)?;
        Some((*index, u64::from_le_bytes(*since_ms)))
    }

    fn value(&self, index: u32, now_ms: u64) -> Vec<u8> {
        let name = self.names.get(index as usize).map(String::as_str).unwrap_or_default();
        [now_ms.to_le_bytes().as_slice(), name.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests;
