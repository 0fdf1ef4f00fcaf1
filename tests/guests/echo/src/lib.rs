//! A policy for measurements and tests: decides in the configured way, as little or as much as a policy can do.

use serde::Deserialize;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy, host};

/// `{"how": "redirect", "to": "topic/b"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Echo {
    how: How,
    #[serde(default)]
    to: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Passes everything on.
    Pass,
    /// Redirects everything to `to`.
    Redirect,
    /// Looks at the header `to` and passes on.
    Header,
    /// Shows all it is told in what it answers and counts.
    Echo,
}

impl Policy for Echo {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Echo {
    fn route(&mut self, message: &Message) -> Verdict {
        match self.how {
            How::Pass => Verdict::pass(),
            How::Redirect => Verdict::redirect(self.to.as_str()),
            How::Header if host::header(&self.to).is_some_and(|value| value == "drop") => {
                Verdict::refuse("asked to")
            }
            How::Header => Verdict::pass(),
            How::Echo => echo(message),
        }
    }
}

export_policy!(Echo: routing);

/// The kind of verdict follows the message's size, so that messages of all sizes meet all kinds.
fn echo(message: &Message) -> Verdict {
    host::counter("messages", 1);
    host::counter("sizes", u64::from(message.size));
    host::counter("times", message.ts);
    host::counter("priorities", u64::from(message.priority));
    host::counter("kinds", message.kind as u64);
    let payload = host::payload();
    host::counter("payload", payload.iter().map(|&byte| u64::from(byte)).sum());
    let headers = host::headers();
    let mut verdict = match message.size % 7 {
        0 => Verdict::pass(),
        1 => Verdict::deliver(),
        2 => Verdict::redirect(message.address.as_str()),
        3 => Verdict::fan_out(headers.iter().map(|(_, value)| value.as_str())),
        4 => Verdict::pick(message.ts, message.size),
        5 => Verdict::refuse(message.sender.as_str()),
        _ => Verdict::fan_out([message.address.as_str(), "topic/copies"]),
    };
    if let Some(value) = host::header("x") {
        verdict = verdict.with_header("x-was", value);
    }
    verdict.set_headers.extend(headers);
    verdict.with_header("sender", message.sender.as_str()).with_header("key", message.key.as_str())
}
