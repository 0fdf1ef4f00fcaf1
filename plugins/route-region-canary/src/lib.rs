//! Sends a share of the senders, or those of some regions, to a canary: to another address, or to members of a queue that run
//! something new.
//!
//! Whether a sender is in the share follows from a hash of its name, so it is the same for all its messages, on all workers, and
//! after a swap; a larger share has all senders of a smaller one. Canary members get nothing else while others are there.

use serde::Deserialize;
use waspmq_plugin_common::{
    Glob, Groups, List, MemberGlob, Queues, Reserve, Share, Target, Text, any_matches, read, share_of,
};
use waspmq_plugin_sdk::{Cache, Message, Policy, QueueMembers, Routing, Verdict, export_policy, host};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "all")]
    percent: Share,
    regions: Option<List<Glob, 64>>,
    header: Option<Text<64>>,
    seed: Option<Text<64>>,
    to: Option<Target>,
    queue: Option<Text<256>>,
    members: Option<List<MemberGlob, 16>>,
}

const fn all() -> Share {
    Share::ALL
}

/// `{"percent": 5, "regions": ["eu-*"], "to": "topic/canary.{name}"}`
#[derive(Debug)]
pub struct RegionCanary {
    percent: Share,
    regions: Option<List<Glob, 64>>,
    header: String,
    seed: String,
    place: Place,
}

/// Where the canary is.
#[derive(Debug)]
enum Place {
    Address(Target),
    Members(List<MemberGlob, 16>, Queues<Groups>),
}

impl Policy for RegionCanary {
    fn configure(config: &str) -> Result<Self, String> {
        let Config { percent, regions, header, seed, to, queue, members } = read(config)?;
        let place = match (to, queue, members) {
            (Some(to), None, None) => Place::Address(to),
            (None, Some(queue), Some(members)) => Place::Members(members, Queues::new(&queue)),
            (Some(_), ..) => {
                return Err("to: the canary is an address or members of a queue, not both".to_owned());
            }
            (None, None, Some(_)) => return Err("members: members of which \"queue\" is not said".to_owned()),
            (None, Some(_), None) => return Err("queue: which \"members\" of it is not said".to_owned()),
            (None, None, None) => {
                return Err("to: where the canary is, is not said; or \"queue\" and \"members\"".to_owned());
            }
        };
        if header.is_some() && regions.is_none() {
            return Err("header: which \"regions\" are meant is not said".to_owned());
        }
        let header = header.map_or_else(|| "region".to_owned(), |header| header.to_string());
        let seed = seed.map(|seed| seed.to_string()).unwrap_or_default();
        Ok(Self { percent, regions, header, seed, place })
    }
}

impl Routing for RegionCanary {
    fn members_changed(&mut self, members: QueueMembers) {
        if let Place::Members(globs, queues) = &mut self.place {
            let reserves = [Reserve::Named(globs)];
            queues.change(members, |_, names| Groups::new(names, reserves.into_iter(), host::random()));
        }
    }

    fn route(&mut self, message: &Message) -> Verdict {
        self.decide(message, host::header, host::in_flight)
    }
}

export_policy!(RegionCanary: routing);

impl RegionCanary {
    fn decide(
        &mut self,
        message: &Message,
        header: impl Fn(&str) -> Option<String>,
        in_flight: impl Fn(u64) -> Vec<u32>,
    ) -> Verdict {
        let is_in = self.is_in(message, header);
        match &mut self.place {
            Place::Address(to) => {
                let to = if is_in { to.of(&message.address) } else { None };
                let verdict = to.map_or_else(Verdict::pass, Verdict::redirect);
                // Without a region it depends on the sender and the address alone.
                if self.regions.is_none() { verdict.cached(Cache::Connection) } else { verdict }
            }
            Place::Members(_, queues) => {
                let Some(known) = queues.of(&message.address) else { return Verdict::pass() };
                let version = known.version;
                match known.of.choose(is_in.then_some(0), message, || in_flight(version)) {
                    Some(index) => Verdict::pick(version, index),
                    None => Verdict::pass(),
                }
            }
        }
    }

    fn is_in(&self, message: &Message, header: impl Fn(&str) -> Option<String>) -> bool {
        if !self.percent.has(share_of(&self.seed, &message.sender)) {
            return false;
        }
        let is_of = |regions: &List<Glob, 64>| {
            header(&self.header).is_some_and(|region| any_matches(regions, &region))
        };
        self.regions.as_ref().is_none_or(is_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    fn message(sender: &str) -> Message {
        Message {
            sender: sender.to_owned(),
            address: "topic/jobs.1".to_owned(),
            kind: Kind::Topic,
            key: String::new(),
            size: 2,
            priority: 4,
            ts: 1,
        }
    }

    fn canary(config: &str) -> RegionCanary {
        RegionCanary::configure(config).unwrap()
    }

    fn is_redirected(canary: &mut RegionCanary, sender: &str, region: Option<&str>) -> bool {
        let header = |name: &str| region.filter(|_| name == "region").map(str::to_owned);
        match canary.decide(&message(sender), header, |_| Vec::new()).route {
            Route::Redirect(to) => to == "topic/canary.jobs.1",
            Route::Continue => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_share_of_the_senders_is_stable_and_grows() {
        let of = |percent: f64, seed: &str| -> Vec<bool> {
            let mut canary =
                canary(&format!(r#"{{"percent":{percent},"to":"topic/canary.{{name}}"{seed}}}"#));
            (0..2_000).map(|i| is_redirected(&mut canary, &format!("user{i}"), None)).collect()
        };
        let (five, twenty) = (of(5.0, ""), of(20.0, ""));
        let count = |list: &[bool]| list.iter().filter(|is_in| **is_in).count();
        assert!((70..130).contains(&count(&five)) && (340..460).contains(&count(&twenty)));
        assert!(five.iter().zip(&twenty).all(|(small, large)| *large || !small), "it grows");
        assert_eq!(five, of(5.0, ""));
        assert_ne!(five, of(5.0, r#","seed":"other""#));
        assert_eq!((count(&of(0.0, "")), count(&of(100.0, ""))), (0, 2_000));
    }

    #[test]
    fn regions_are_asked_for() {
        let mut canary = canary(r#"{"regions":["eu-*","us"],"to":"topic/canary.{name}"}"#);
        let mut is_in = |region| is_redirected(&mut canary, "alice", region);
        assert_eq!(
            [Some("eu-1"), Some("us"), Some("us-1"), None].map(&mut is_in),
            [true, true, false, false]
        );
        assert_eq!(canary.decide(&message("alice"), |_| None, |_| Vec::new()).cache, Cache::Never);
    }

    #[test]
    fn what_depends_on_the_sender_alone_is_kept() {
        let mut canary = canary(r#"{"percent":50,"to":"topic/canary.{name}"}"#);
        for sender in ["a", "b", "c", "d", "e"] {
            let verdict = canary.decide(&message(sender), |_| panic!("no header"), |_| Vec::new());
            assert_eq!(verdict.cache, Cache::Connection);
        }
    }

    #[test]
    fn canary_members_serve_the_share_and_nothing_else() {
        let mut canary = canary(r#"{"regions":["eu"],"queue":"w","members":["new-*"]}"#);
        let tell = |canary: &mut RegionCanary, names: &[&str]| {
            canary.members_changed(QueueMembers {
                pattern: "topic/jobs.>".to_owned(),
                queue: "w".to_owned(),
                version: 7,
                members: names.iter().map(|&name| name.to_owned()).collect(),
            });
        };
        let picks = |canary: &mut RegionCanary, region: &str| -> Vec<u32> {
            let header = |_: &str| Some(region.to_owned());
            let one = |_| match canary.decide(&message("alice"), header, |_| vec![0; 3]).route {
                Route::Pick(pick) => pick.index,
                other => panic!("{other:?}"),
            };
            (0..4).map(one).collect()
        };
        tell(&mut canary, &["a/d/1", "new-1/d/2", "b/d/3"]);
        assert_eq!(picks(&mut canary, "eu"), [1; 4]);
        assert_eq!(picks(&mut canary, "us").iter().filter(|index| **index == 1).count(), 0);
        tell(&mut canary, &["a/d/1"]);
        assert_eq!(picks(&mut canary, "eu"), [0; 4], "the canary left");
    }

    #[test]
    fn configuration_is_checked() {
        let check = |config: &str, expected: &str| {
            let error = RegionCanary::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        check("{}", "to: where the canary is");
        check(r#"{"to":"canary"}"#, "to: an address such as");
        check(r#"{"to":"all","percent":"5"}"#, "percent: invalid type");
        check(r#"{"to":"all","queue":"w","members":["a"]}"#, "to: the canary is an address or");
        check(r#"{"members":["a"]}"#, "members: members of which");
        check(r#"{"queue":"w"}"#, "queue: which \"members\"");
        check(r#"{"to":"all","header":"zone"}"#, "header: which \"regions\"");
        check(r#"{"to":"all","regions":[]}"#, "regions: a list of 1 to 64");
        check(r#"{"to":"all","region":"eu"}"#, "unknown field `region`");
    }
}
