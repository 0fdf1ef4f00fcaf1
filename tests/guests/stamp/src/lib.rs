//! A policy for tests: sets the header `stamp` to a configured value and passes on.
//!
//! The feature `second` changes the component's digest and the header `stamp-build`, nothing else, so that
//! tests have two revisions of one plugin. The payload `panic` makes it panic.

use serde::Deserialize;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy, host};

/// `{"stamp": "text"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    stamp: String,
}

const BUILD: &str = if cfg!(feature = "second") { "2" } else { "1" };

impl Policy for Stamp {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Stamp {
    fn route(&mut self, message: &Message) -> Verdict {
        // Most messages are not of that size, so the payload is rarely pulled.
        assert!(message.size != 5 || host::payload() != b"panic", "asked to");
        Verdict::pass().with_header("stamp", self.stamp.as_str()).with_header("stamp-build", BUILD)
    }
}

export_policy!(Stamp: routing);
