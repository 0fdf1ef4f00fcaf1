//! Serves some messages before others: each class of messages has members of a queue of its own, or an address of its own.
//!
//! A message is of the first class that one of its conditions puts it in: its sender, a header, its priority. Members that a class
//! has are not given other messages. Where nobody of a class is there the members of no class serve, and where there are none of
//! these all do, so no message waits for a class to be staffed.

use serde::Deserialize;
use std::collections::BTreeMap;
use waspmq_plugin_common::{
    Glob, Groups, List, MemberGlob, Queues, Reserve, Target, Text, Within, any_matches, read,
};
use waspmq_plugin_sdk::{Message, Policy, QueueMembers, Routing, Verdict, export_policy, host};

/// Headers that one class looks at.
const HEADERS_MAX: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    queue: Option<Text<256>>,
    classes: List<Class, 16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    senders: Option<List<Glob, 64>>,
    header: Option<BTreeMap<String, List<Glob, 16>>>,
    priority_min: Option<Within<0, 9>>,
    members: Option<List<MemberGlob, 16>>,
    first: Option<Within<1, 1000>>,
    to: Option<Target>,
}

/// `{"queue": "workers", "classes": [{"senders": ["vip-*"], "priority_min": 7, "first": 2}]}`
#[derive(Debug)]
pub struct Priority {
    classes: List<Class, 16>,
    queues: Option<Queues<Groups>>,
}

impl Policy for Priority {
    fn configure(config: &str) -> Result<Self, String> {
        let Config { queue, classes } = read(config)?;
        for (index, class) in classes.iter().enumerate() {
            class.check(queue.is_some()).map_err(|fault| format!("classes[{index}]{fault}"))?;
        }
        if queue.is_some() && classes.iter().all(|class| class.to.is_some()) {
            return Err("queue: no class has members of it".to_owned());
        }
        Ok(Self { classes, queues: queue.as_ref().map(Queues::new) })
    }
}

impl Class {
    /// The error begins with the key in the class.
    fn check(&self, has_queue: bool) -> Result<(), String> {
        let named = [self.members.is_some(), self.first.is_some(), self.to.is_some()];
        if named.iter().filter(|is_named| **is_named).count() != 1 {
            return Err(": a class has one of \"members\", \"first\" and \"to\"".to_owned());
        }
        if self.to.is_none() && !has_queue {
            let key = if self.first.is_some() { "first" } else { "members" };
            return Err(format!(".{key}: members of which \"queue\" is not said"));
        }
        if self.senders.is_none() && self.header.is_none() && self.priority_min.is_none() {
            return Err(
                ": a class has at least one of \"senders\", \"header\" and \"priority_min\"".to_owned()
            );
        }
        match &self.header {
            Some(headers) if headers.is_empty() || headers.len() > HEADERS_MAX => {
                Err(format!(".header: 1 to {HEADERS_MAX} headers are expected, not {}", headers.len()))
            }
            _ => Ok(()),
        }
    }

    fn has(&self, message: &Message, header: impl Fn(&str) -> Option<String>) -> bool {
        self.priority_min.is_some_and(|least| u32::from(message.priority) >= least.0)
            || self.senders.as_ref().is_some_and(|senders| any_matches(senders, &message.sender))
            || self
                .header
                .iter()
                .flatten()
                .any(|(name, values)| header(name).is_some_and(|value| any_matches(values, &value)))
    }

    /// Members that are set aside for it; none, but in its place, for one that goes elsewhere.
    fn reserve(&self) -> Reserve<'_> {
        match (&self.members, self.first) {
            (Some(globs), _) => Reserve::Named(globs),
            (None, first) => Reserve::First(first.map_or(0, |first| first.0)),
        }
    }
}

impl Routing for Priority {
    fn members_changed(&mut self, members: QueueMembers) {
        let Self { classes, queues } = self;
        if let Some(queues) = queues {
            let reserves = classes.iter().map(Class::reserve);
            queues.change(members, |_, names| Groups::new(names, reserves, host::random()));
        }
    }

    fn route(&mut self, message: &Message) -> Verdict {
        self.decide(message, host::header, host::in_flight)
    }
}

export_policy!(Priority: routing);

impl Priority {
    fn decide(
        &mut self,
        message: &Message,
        header: impl Fn(&str) -> Option<String>,
        in_flight: impl Fn(u64) -> Vec<u32>,
    ) -> Verdict {
        let class = self.classes.iter().position(|class| class.has(message, &header));
        let target = class.and_then(|class| self.classes.get(class)?.to.as_ref());
        if let Some(target) = target {
            return target.of(&message.address).map_or_else(Verdict::pass, Verdict::redirect);
        }
        let found = self.queues.as_mut().and_then(|queues| queues.of(&message.address));
        let Some(known) = found else { return Verdict::pass() };
        let version = known.version;
        match known.of.choose(class, message, || in_flight(version)) {
            Some(index) => Verdict::pick(version, index),
            None => Verdict::pass(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    fn message(sender: &str, priority: u8) -> Message {
        Message {
            sender: sender.to_owned(),
            address: "topic/jobs.1".to_owned(),
            kind: Kind::Topic,
            key: String::new(),
            size: 2,
            priority,
            ts: 1,
        }
    }

    fn policy(config: &str, names: &[&str]) -> Priority {
        let mut policy = Priority::configure(config).unwrap();
        policy.members_changed(QueueMembers {
            pattern: "topic/jobs.>".to_owned(),
            queue: "w".to_owned(),
            version: 7,
            members: names.iter().map(|&name| name.to_owned()).collect(),
        });
        policy
    }

    fn index(policy: &mut Priority, message: &Message, tier: Option<&str>) -> Option<u32> {
        let header = |name: &str| tier.filter(|_| name == "tier").map(str::to_owned);
        match policy.decide(message, header, |_| vec![0; 4]).route {
            Route::Pick(pick) => Some(pick.index),
            Route::Continue => None,
            other => panic!("{other:?}"),
        }
    }

    const CONFIG: &str = r#"{"queue":"w","classes":[
        {"senders":["boss","vip-*"],"header":{"tier":["gold"]},"priority_min":8,"first":1},
        {"priority_min":5,"members":["fast-*"]}]}"#;
    const NAMES: [&str; 4] = ["a/d/1", "b/d/2", "fast-1/d/3", "c/d/4"];

    #[test]
    fn one_condition_is_enough_and_the_first_class_counts() {
        let mut policy = policy(CONFIG, &NAMES);
        for (message, tier) in [
            (message("boss", 0), None),
            (message("vip-7", 0), None),
            (message("alice", 8), None),
            (message("alice", 6), Some("gold")),
        ] {
            assert_eq!(index(&mut policy, &message, tier), Some(0), "{message:?}");
        }
        assert_eq!(index(&mut policy, &message("alice", 6), Some("silver")), Some(2));
        let others: Vec<_> = (0..4).filter_map(|_| index(&mut policy, &message("alice", 4), None)).collect();
        assert!(others.iter().all(|index| [1, 3].contains(index)), "{others:?}");
    }

    #[test]
    fn without_members_the_rest_serves() {
        let mut policy = policy(CONFIG, &NAMES[..2]);
        assert_eq!(index(&mut policy, &message("alice", 6), None), Some(1), "nobody fast is there");
        let mut policy = self::policy(CONFIG, &NAMES[..1]);
        assert_eq!(index(&mut policy, &message("alice", 0), None), Some(0), "all are set aside");
        let mut policy = self::policy(CONFIG, &[]);
        assert_eq!(index(&mut policy, &message("boss", 9), None), None);
    }

    #[test]
    fn a_class_may_have_an_address() {
        let config = r#"{"classes":[{"senders":["vip-*"],"to":"topic/vip.{name}"}]}"#;
        let mut policy = policy(config, &NAMES);
        let mut route = |message: &Message| policy.decide(message, |_| None, |_| Vec::new()).route;
        assert!(matches!(route(&message("vip-1", 0)), Route::Redirect(to) if to == "topic/vip.jobs.1"));
        assert!(matches!(route(&message("alice", 9)), Route::Continue));
        let everyone = Message { address: "all".to_owned(), ..message("vip-1", 0) };
        assert!(matches!(route(&everyone), Route::Continue), "it has no name");
    }

    #[test]
    fn configuration_is_checked() {
        let check = |config: &str, expected: &str| {
            let error = Priority::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        let class =
            |text: &str| format!(r#"{{"queue":"w","classes":[{{"priority_min":5,"first":1}},{{{text}}}]}}"#);
        check("{}", "missing field `classes`");
        check(r#"{"classes":[]}"#, "classes: a list of 1 to 16");
        check(&class(r#""priority_min":5"#), "classes[1]: a class has one of");
        check(&class(r#""priority_min":5,"first":1,"to":"all""#), "classes[1]: a class has one of");
        check(&class(r#""first":1"#), "classes[1]: a class has at least one of");
        check(&class(r#""priority_min":10,"first":1"#), "classes[1].priority_min: a number from 0 to 9");
        check(&class(r#""senders":[""],"first":1"#), "classes[1].senders[0]: a pattern of 1 to 256");
        check(&class(r#""header":{},"first":1"#), "classes[1].header: 1 to 4 headers");
        check(&class(r#""senders":["a"],"to":"nowhere""#), "classes[1].to: an address such as");
        check(
            r#"{"classes":[{"priority_min":5,"first":1}]}"#,
            "classes[0].first: members of which \"queue\"",
        );
        check(r#"{"queue":"w","classes":[{"priority_min":5,"to":"all"}]}"#, "queue: no class");
    }
}
