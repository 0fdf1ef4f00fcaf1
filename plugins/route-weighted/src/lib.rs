//! Gives the members of a queue as many messages as their weights say; a weight of 0 is never picked.
//!
//! Messages without a key go round in turns in which each member comes as often as its weight, evenly spread. A message with a
//! key belongs to one member, to which as many keys belong as its weight says, and which keeps them when others come or go.
//! Every instance has turns of its own, which begin anew when members change.

mod turns;

use serde::Deserialize;
use std::collections::BTreeMap;
use turns::Turns;
use waspmq_plugin_common::{MemberGlob, Queues, Text, Within, hash, read, rendezvous};
use waspmq_plugin_sdk::{Message, Policy, QueueMembers, Routing, Verdict, export_policy};

const WEIGHTS_MAX: usize = 64;

type Weight = Within<0, 1000>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    queue: Text<256>,
    weights: Weights,
    #[serde(default = "one")]
    default: Weight,
    #[serde(default)]
    otherwise: Otherwise,
}

const fn one() -> Weight {
    Within(1)
}

/// What is done when all members have the weight 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    /// The broker chooses.
    #[default]
    Continue,
    Drop,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "BTreeMap<MemberGlob, Weight>")]
struct Weights(BTreeMap<MemberGlob, Weight>);

impl TryFrom<BTreeMap<MemberGlob, Weight>> for Weights {
    type Error = String;

    fn try_from(weights: BTreeMap<MemberGlob, Weight>) -> Result<Self, String> {
        match weights.len() {
            count if (1..=WEIGHTS_MAX).contains(&count) => Ok(Self(weights)),
            count => Err(format!("1 to {WEIGHTS_MAX} weights are expected, not {count}")),
        }
    }
}

impl Weights {
    /// Of several patterns that match, the one with the most characters that are not stars says the weight.
    fn of(&self, member: &str) -> Option<u32> {
        let matching = self.0.iter().filter(|(glob, _)| glob.matches(member));
        matching.max_by_key(|(glob, _)| glob.literal_bytes()).map(|(_, weight)| weight.0)
    }
}

/// `{"queue": "workers", "weights": {"big-*": 3, "small-*": 1}, "default": 0}`
#[derive(Debug)]
pub struct Weighted {
    weights: Weights,
    default: Weight,
    otherwise: Otherwise,
    queues: Queues<Members>,
}

#[derive(Debug)]
struct Members {
    hashes: Vec<u64>,
    turns: Turns,
}

impl Policy for Weighted {
    fn configure(config: &str) -> Result<Self, String> {
        let Config { queue, weights, default, otherwise } = read(config)?;
        Ok(Self { weights, default, otherwise, queues: Queues::new(&queue) })
    }
}

impl Routing for Weighted {
    fn members_changed(&mut self, members: QueueMembers) {
        let Self { weights, default, .. } = self;
        self.queues.change(members, |_, names| Members {
            hashes: names.iter().map(|name| hash(name.as_bytes())).collect(),
            turns: Turns::new(names.iter().map(|name| weights.of(name).unwrap_or(default.0))),
        });
    }

    fn route(&mut self, message: &Message) -> Verdict {
        let Some(known) = self.queues.of(&message.address) else { return Verdict::pass() };
        let Members { hashes, turns } = &mut known.of;
        let index = if message.key.is_empty() { turns.next() } else { of_key(&message.key, hashes, turns) };
        match (index, self.otherwise) {
            (Some(index), _) => Verdict::pick(known.version, index),
            (None, Otherwise::Continue) => Verdict::pass(),
            (None, Otherwise::Drop) => Verdict::refuse("no member of the queue has a weight"),
        }
    }
}

export_policy!(Weighted: routing);

/// Weighted rendezvous hashing: a member's hash of the key is a number between 0 and 1, taken to the power of one part in its
/// weight, and the key belongs to the highest. That compares as the logarithm divided by the weight.
fn of_key(key: &str, hashes: &[u64], turns: &Turns) -> Option<u32> {
    let key = hash(key.as_bytes());
    let distance = |member: u64, weight: u32| {
        let number = ((rendezvous(key, member) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -number.ln() / f64::from(weight)
    };
    let weighted = (0..).zip(hashes.iter().zip(turns.weights())).filter(|(_, (_, weight))| *weight > 0);
    let distances = weighted.map(|(index, (member, weight))| (index, distance(*member, weight)));
    distances.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    const MEMBERS: [&str; 4] = ["ann/big-1/s1", "bob/big-2/s2", "cat/small-1/s3", "dan/tv/s4"];

    fn message(key: &str) -> Message {
        Message {
            sender: "alice".to_owned(),
            address: "topic/jobs.1".to_owned(),
            kind: Kind::Topic,
            key: key.to_owned(),
            size: 2,
            priority: 4,
            ts: 1,
        }
    }

    fn policy(config: &str, members: &[&str]) -> Weighted {
        let mut policy = Weighted::configure(config).unwrap();
        policy.members_changed(QueueMembers {
            pattern: "topic/jobs.>".to_owned(),
            queue: "workers".to_owned(),
            version: 7,
            members: members.iter().map(|&name| name.to_owned()).collect(),
        });
        policy
    }

    fn picks(policy: &mut Weighted, keys: impl Iterator<Item = String>) -> [u32; 4] {
        let mut counts = [0; 4];
        for key in keys {
            let Route::Pick(pick) = policy.route(&message(&key)).route else { panic!("a pick") };
            counts[pick.index as usize] += 1;
        }
        counts
    }

    const CONFIG: &str = r#"{"queue":"workers","weights":{"big-*":3,"big-2":5,"small-*":1},"default":0}"#;

    #[test]
    fn shares_are_as_the_weights_say() {
        let mut policy = policy(CONFIG, &MEMBERS);
        assert_eq!(picks(&mut policy, (0..900).map(|_| String::new())), [300, 500, 100, 0]);
        let [ann, bob, cat, dan] = picks(&mut policy, (0..9_000).map(|i| format!("key{i}")));
        assert!(ann.abs_diff(3_000) < 200 && bob.abs_diff(5_000) < 200 && cat.abs_diff(1_000) < 150);
        assert_eq!(dan, 0, "a weight of 0 is never picked");
    }

    #[test]
    fn keys_stay_when_a_member_comes() {
        let (mut before, mut after) = (policy(CONFIG, &MEMBERS[..2]), policy(CONFIG, &MEMBERS));
        let mut moved = 0;
        for key in (0..900).map(|i| format!("key{i}")) {
            let [old, new] = [&mut before, &mut after].map(|policy| {
                let Route::Pick(pick) = policy.route(&message(&key)).route else { panic!("a pick") };
                pick.index
            });
            assert!(old == new || new == 2, "{key} goes from {old} to {new}");
            moved += u32::from(old != new);
        }
        assert!((50..150).contains(&moved), "{moved} of 900, where 100 are due");
    }

    #[test]
    fn nobody_with_a_weight() {
        let none = |more: &str| format!(r#"{{"queue":"workers","weights":{{"*":0}}{more}}}"#);
        for key in ["", "k"] {
            let verdict = policy(&none(""), &MEMBERS).route(&message(key));
            assert!(matches!(verdict.route, Route::Continue));
            let verdict = policy(&none(r#","otherwise":"drop""#), &MEMBERS).route(&message(key));
            assert!(matches!(verdict.route, Route::Drop(_)));
        }
        let verdict = policy(CONFIG, &[]).route(&message(""));
        assert!(matches!(verdict.route, Route::Continue), "without members the broker decides");
    }

    #[test]
    fn configuration_is_checked() {
        let check = |config: &str, expected: &str| {
            let error = Weighted::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        check(r#"{"queue":"w"}"#, "missing field `weights`");
        check(r#"{"queue":"w","weights":{}}"#, "weights: 1 to 64 weights");
        check(r#"{"queue":"w","weights":{"a":1001}}"#, "weights.a: a number from 0 to 1000");
        check(r#"{"queue":"w","weights":{"":1}}"#, "weights");
        check(r#"{"queue":"w","weights":{"a":1},"otherwise":"wait"}"#, "otherwise: unknown variant `wait`");
        check(r#"{"queue":"w","weights":{"a":-1}}"#, "weights.a: ");
    }
}
