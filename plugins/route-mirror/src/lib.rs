//! Sends a copy of every message it is bound to to one more address, such as an audit topic.
//!
//! The mirror is not mirrored: a message already addressed there is passed on. The copy and the original are
//! not routed again, so a mirror cannot loop.

use serde::Deserialize;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy};

/// `{"to": "topic/audit"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    to: String,
}

impl Policy for Mirror {
    fn configure(config: &str) -> Result<Self, String> {
        let mirror: Self = serde_json::from_str(config).map_err(|error| error.to_string())?;
        check_target(&mirror.to)?;
        Ok(mirror)
    }
}

impl Routing for Mirror {
    fn route(&mut self, message: &Message) -> Verdict {
        if message.address == self.to {
            return Verdict::pass();
        }
        Verdict::fan_out([message.address.as_str(), self.to.as_str()])
    }
}

export_policy!(Mirror: routing);

/// Refuses at configuration what would make every verdict a bad one.
fn check_target(to: &str) -> Result<(), String> {
    let named =
        ["topic/", "user/", "group/"].iter().any(|kind| to.strip_prefix(kind).is_some_and(|n| !n.is_empty()));
    if !named && to != "all" {
        return Err(format!("\"to\" must be an address such as topic/audit, not {to:?}"));
    }
    if to.contains(['*', '>']) {
        return Err(format!("\"to\" must be one address, not the pattern {to:?}"));
    }
    Ok(())
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
    fn refuses_what_is_not_an_address() {
        let check = |config: &str, expected: &str| {
            let error = Mirror::configure(config).unwrap_err();
            assert!(error.contains(expected), "{config}: {error}");
        };
        check("{}", "missing field `to`");
        check(r#"{"to":"audit"}"#, "must be an address");
        check(r#"{"to":"topic/"}"#, "must be an address");
        check(r#"{"to":"topic/a.>"}"#, "must be one address");
        check(r#"{"to":"all","from":1}"#, "unknown field `from`");
    }
}
