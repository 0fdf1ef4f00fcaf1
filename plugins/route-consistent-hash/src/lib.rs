//! Gives messages with the same key to the same member of a queue, and moves few keys when members come or go.
//!
//! Each member stands at [`VIRTUAL_NODES`] places of a ring of hashes; a key belongs to the next place. A member
//! that leaves gives its keys, about one in n, to the others; all other keys stay. Without members known, the
//! message is passed on and the broker chooses. Which members a place stands for is a version of the queue, so
//! a decision by outdated members is recognised by the broker.

mod ring;

use ring::Ring;
use serde::Deserialize;
use waspmq_plugin_common::{Queues, Text, key_of, read};
use waspmq_plugin_sdk::{Message, Policy, QueueMembers, Routing, Verdict, export_policy};

/// Places of one member on the ring: enough that shares differ by about a tenth.
pub const VIRTUAL_NODES: u32 = 150;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    queue: Text<256>,
}

/// `{"queue": "workers"}`
#[derive(Debug)]
pub struct ConsistentHash {
    rings: Queues<Ring>,
}

impl Policy for ConsistentHash {
    fn configure(config: &str) -> Result<Self, String> {
        let config: Config = read(config)?;
        Ok(Self { rings: Queues::new(&config.queue) })
    }
}

impl Routing for ConsistentHash {
    fn members_changed(&mut self, members: QueueMembers) {
        self.rings.change(members, |_, names| Ring::new(names, VIRTUAL_NODES));
    }

    fn route(&mut self, message: &Message) -> Verdict {
        let found = self.rings.of(&message.address);
        match found.and_then(|known| Some((known.version, known.of.member_of(key_of(message))?))) {
            Some((version, index)) => Verdict::pick(version, index),
            None => Verdict::pass(),
        }
    }
}

export_policy!(ConsistentHash: routing);

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    fn message(address: &str, sender: &str, key: &str) -> Message {
        Message {
            sender: sender.to_owned(),
            address: address.to_owned(),
            kind: Kind::Topic,
            key: key.to_owned(),
            size: 2,
            priority: 4,
            ts: 1,
        }
    }

    fn members(pattern: &str, queue: &str, version: u64, names: &[&str]) -> QueueMembers {
        QueueMembers {
            pattern: pattern.to_owned(),
            queue: queue.to_owned(),
            version,
            members: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn pick(policy: &mut ConsistentHash, message: &Message) -> Option<(u64, u32)> {
        match policy.route(message).route {
            Route::Pick(pick) => Some((pick.version, pick.index)),
            Route::Continue => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn picks_by_key_then_by_sender() {
        let mut policy = ConsistentHash::configure(r#"{"queue":"workers"}"#).unwrap();
        let by_key = message("topic/jobs.1", "alice", "k");
        assert_eq!(pick(&mut policy, &by_key), None, "no ring yet");
        policy.members_changed(members("topic/jobs.>", "workers", 7, &["a/1/1", "b/1/1", "c/1/1"]));
        let (version, index) = pick(&mut policy, &by_key).unwrap();
        assert!(version == 7 && index < 3);
        assert_eq!(pick(&mut policy, &message("topic/jobs.9", "bob", "k")), Some((7, index)));
        let by_sender = pick(&mut policy, &message("topic/jobs.1", "k", ""));
        assert_eq!(by_sender, Some((7, index)), "the sender stands in for the key");
        assert_eq!(pick(&mut policy, &message("topic/other", "alice", "k")), None);
    }

    #[test]
    fn other_queues_do_not_matter_and_a_gone_one_is_forgotten() {
        let mut policy = ConsistentHash::configure(r#"{"queue":"workers"}"#).unwrap();
        policy.members_changed(members("topic/jobs.>", "others", 1, &["a/1/1"]));
        assert_eq!(pick(&mut policy, &message("topic/jobs.1", "a", "k")), None);
        policy.members_changed(members("topic/jobs.>", "workers", 2, &["a/1/1"]));
        assert_eq!(pick(&mut policy, &message("topic/jobs.1", "a", "k")), Some((2, 0)));
        policy.members_changed(members("topic/jobs.>", "workers", 3, &[]));
        assert_eq!(pick(&mut policy, &message("topic/jobs.1", "a", "k")), None);
    }

    #[test]
    fn configuration_is_checked() {
        assert!(ConsistentHash::configure("{}").unwrap_err().contains("missing field `queue`"));
        assert!(ConsistentHash::configure(r#"{"queue":""}"#).unwrap_err().contains("queue: a text of 1"));
        assert!(ConsistentHash::configure(r#"{"queue":"w","n":1}"#).unwrap_err().contains("unknown field"));
    }
}
