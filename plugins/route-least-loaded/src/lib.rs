//! Gives each message to the member of a queue that has the fewest in flight; equals take turns.
//!
//! What is in flight is asked of the broker for each message, so all workers see the same. Messages that are decided in
//! the same turn are not yet among these; the instance adds its own. Where the broker does not know the members any more, or
//! there are none, the message is passed on and the broker chooses.

use serde::Deserialize;
use waspmq_plugin_common::{Chooser, Queues, Text, read};
use waspmq_plugin_sdk::{Message, Policy, QueueMembers, Routing, Verdict, export_policy, host};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    queue: Text<256>,
    #[serde(default)]
    keep_keys: bool,
}

/// `{"queue": "workers", "keep_keys": true}`
#[derive(Debug)]
pub struct LeastLoaded {
    keep_keys: bool,
    queues: Queues<Members>,
}

#[derive(Debug)]
struct Members {
    all: Vec<u32>,
    chooser: Chooser,
}

impl Policy for LeastLoaded {
    fn configure(config: &str) -> Result<Self, String> {
        let config: Config = read(config)?;
        Ok(Self { keep_keys: config.keep_keys, queues: Queues::new(&config.queue) })
    }
}

impl Routing for LeastLoaded {
    fn members_changed(&mut self, members: QueueMembers) {
        self.queues.change(members, |_, names| Members {
            all: (0..).take(names.len()).collect(),
            chooser: Chooser::new(names, host::random()),
        });
    }

    fn route(&mut self, message: &Message) -> Verdict {
        self.decide(message, host::in_flight)
    }
}

export_policy!(LeastLoaded: routing);

impl LeastLoaded {
    fn decide(&mut self, message: &Message, in_flight: impl FnOnce(u64) -> Vec<u32>) -> Verdict {
        if self.keep_keys && !message.key.is_empty() {
            return Verdict::pass();
        }
        let Some(known) = self.queues.of(&message.address) else { return Verdict::pass() };
        let loads = in_flight(known.version);
        let Members { all, chooser } = &mut known.of;
        // Of other members the counts would say nothing, and the pick would not count.
        if loads.len() != all.len() {
            return Verdict::pass();
        }
        match chooser.least((&loads, message.ts), all) {
            Some(index) => Verdict::pick(known.version, index),
            None => Verdict::pass(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    fn message(key: &str, ts: u64) -> Message {
        Message {
            sender: "alice".to_owned(),
            address: "topic/jobs.1".to_owned(),
            kind: Kind::Topic,
            key: key.to_owned(),
            size: 2,
            priority: 4,
            ts,
        }
    }

    fn policy(config: &str) -> LeastLoaded {
        let mut policy = LeastLoaded::configure(config).unwrap();
        policy.members_changed(QueueMembers {
            pattern: "topic/jobs.>".to_owned(),
            queue: "workers".to_owned(),
            version: 7,
            members: ["a/1/1", "b/1/1", "c/1/1"].map(str::to_owned).to_vec(),
        });
        policy
    }

    fn pick(policy: &mut LeastLoaded, message: &Message, loads: &[u32]) -> Option<u32> {
        let known = |version| if version == 7 { loads.to_vec() } else { Vec::new() };
        match policy.decide(message, known).route {
            Route::Pick(pick) => Some(pick.index),
            Route::Continue => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_loaded_member_is_picked_whatever_the_key() {
        let mut policy = policy(r#"{"queue":"workers"}"#);
        assert_eq!(pick(&mut policy, &message("", 1), &[3, 2, 4]), Some(1));
        assert_eq!(pick(&mut policy, &message("k", 2), &[3, 4, 0]), Some(2));
        assert_eq!(pick(&mut policy, &message("k", 3), &[0, 4, 1]), Some(0));
    }

    #[test]
    fn idle_members_take_turns_and_those_of_one_turn_are_counted() {
        let mut policy = policy(r#"{"queue":"workers"}"#);
        let picks: Vec<_> = (0..6).filter_map(|ts| pick(&mut policy, &message("", ts), &[0, 0, 0])).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        let picks: Vec<_> = (0..4).filter_map(|_| pick(&mut policy, &message("", 9), &[2, 0, 9])).collect();
        assert_eq!(picks.iter().filter(|index| **index == 1).count(), 3, "{picks:?}");
        assert!(!picks.contains(&2));
    }

    #[test]
    fn what_is_not_known_is_left_to_the_broker() {
        let mut keeping = policy(r#"{"queue":"workers","keep_keys":true}"#);
        assert_eq!(pick(&mut keeping, &message("k", 1), &[0, 0, 0]), None);
        assert!(pick(&mut keeping, &message("", 1), &[0, 0, 0]).is_some());
        assert_eq!(pick(&mut keeping, &message("", 1), &[]), None, "the version is not current");
        assert_eq!(pick(&mut policy(r#"{"queue":"others"}"#), &message("", 1), &[0, 0, 0]), None);
    }

    #[test]
    fn configuration_is_checked() {
        let check = |config: &str, expected: &str| {
            let error = LeastLoaded::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        check("{}", "missing field `queue`");
        check(r#"{"queue":""}"#, "queue: a text of 1 to 256 bytes");
        check(r#"{"queue":"w","keep_keys":1}"#, "keep_keys: invalid type");
        check(r#"{"queue":"w","n":1}"#, "unknown field `n`");
    }
}
