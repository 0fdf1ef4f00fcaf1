//! Sends a copy of messages to one more address, such as an audit topic: of all that it is bound to, or of a share of them.
//!
//! The mirror is not mirrored: a message already addressed there is passed on. The copy and the original are
//! not routed again, so a mirror cannot loop.

use serde::Deserialize;
use waspmq_plugin_common::{Share, Target, read};
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy, host};

/// `{"to": "topic/audit", "percent": 10}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    to: Target,
    #[serde(default = "all")]
    percent: Share,
}

const fn all() -> Share {
    Share::ALL
}

impl Policy for Mirror {
    fn configure(config: &str) -> Result<Self, String> {
        read(config)
    }
}

impl Routing for Mirror {
    fn route(&mut self, message: &Message) -> Verdict {
        self.decide(message, host::random)
    }
}

export_policy!(Mirror: routing);

impl Mirror {
    fn decide(&self, message: &Message, random: impl FnOnce() -> u64) -> Verdict {
        if self.percent != Share::ALL && !self.percent.has((random() % 1_000_000) as u32) {
            return Verdict::pass();
        }
        match self.to.of(&message.address) {
            Some(to) if to != message.address => Verdict::fan_out([message.address.clone(), to]),
            _ => Verdict::pass(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::{Kind, Route};

    fn message(address: &str) -> Message {
        Message {
            sender: "alice".to_owned(),
            address: address.to_owned(),
            kind: Kind::Topic,
            key: String::new(),
            size: 2,
            priority: 4,
            ts: 1,
        }
    }

    #[test]
    fn copies_everything_but_its_own_target() {
        let mut mirror = Mirror::configure(r#"{"to":"topic/audit"}"#).unwrap();
        let verdict = mirror.route(&message("topic/orders.1"));
        let Route::FanOut(to) = verdict.route else { panic!("{verdict:?}") };
        assert_eq!(to, ["topic/orders.1", "topic/audit"]);
        assert!(matches!(mirror.route(&message("topic/audit")).route, Route::Continue));
    }

    #[test]
    fn the_address_may_be_made_of_the_messages() {
        let mut mirror = Mirror::configure(r#"{"to":"topic/audit.{name}"}"#).unwrap();
        let verdict = mirror.route(&message("topic/orders.1"));
        let Route::FanOut(to) = verdict.route else { panic!("{verdict:?}") };
        assert_eq!(to, ["topic/orders.1", "topic/audit.orders.1"]);
        assert!(matches!(mirror.route(&message("all")).route, Route::Continue), "it has no name");
    }

    #[test]
    fn a_share_is_copied() {
        let mirror = Mirror::configure(r#"{"to":"topic/audit","percent":12.5}"#).unwrap();
        let is_copied = |random: u64| {
            let route = mirror.decide(&message("topic/orders.1"), || random).route;
            matches!(route, Route::FanOut(_))
        };
        assert_eq!((0..8).filter(|part| is_copied(part * 125_000)).count(), 1);
        assert!(is_copied(124_999) && !is_copied(125_000) && is_copied(1_000_000));
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        let check = |config: &str, expected: &str| {
            let error = Mirror::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        check("{}", "missing field `to`");
        check(r#"{"to":"audit"}"#, "to: an address such as");
        check(r#"{"to":"topic/"}"#, "to: an address such as");
        check(r#"{"to":"topic/a.>"}"#, "it is a pattern");
        check(r#"{"to":"all","percent":101}"#, "percent: a percentage from 0 to 100");
        check(r#"{"to":"all","from":1}"#, "unknown field `from`");
    }
}
