//! A policy for tests of new versions: sets the header `mark` to a configured value, fails now and then, and takes as
//! long as it is told.

use serde::Deserialize;
use std::hint::black_box;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy};

/// `{"mark": "2", "fail_one_in": 20, "turns": 1000}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    mark: String,
    /// One message in this many gets a verdict that is not valid; 0: none.
    #[serde(default)]
    fail_one_in: u32,
    /// Turns of a loop, each about a nanosecond.
    #[serde(default)]
    turns: u64,
    #[serde(skip)]
    messages: u32,
}

impl Policy for Trial {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Trial {
    fn route(&mut self, _message: &Message) -> Verdict {
        (0..self.turns).for_each(|turn| {
            black_box(turn);
        });
        self.messages = self.messages.wrapping_add(1);
        if self.fail_one_in > 0 && self.messages.is_multiple_of(self.fail_one_in) {
            return Verdict::redirect("no address");
        }
        Verdict::pass().with_header("mark", self.mark.as_str())
    }
}

export_policy!(Trial: routing);
