//! A policy for measurements that asks nothing of the host, as most policies do: what its calls cost is the least that
//! calls of a Rust guest cost.

use serde::Deserialize;
use waspmq_plugin_sdk::{Admission, Admittance, Cache, Message, Policy, Routing, Verdict, export_policy};

/// `{"how": "redirect", "to": "topic/b"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    how: How,
    #[serde(default)]
    to: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Passes everything on.
    Pass,
    /// Passes everything on, and says that this holds for all messages to the address.
    Keep,
    /// Redirects everything to `to`, and refuses everything for `to` as reason.
    Redirect,
}

impl Policy for Plain {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Plain {
    fn route(&mut self, _message: &Message) -> Verdict {
        match self.how {
            How::Pass => Verdict::pass(),
            How::Keep => Verdict::pass().cached(Cache::Address),
            How::Redirect => Verdict::redirect(self.to.as_str()),
        }
    }
}

impl Admission for Plain {
    fn admit(&mut self, _message: &Message) -> Admittance {
        match self.how {
            How::Pass | How::Keep => Admittance::Continue,
            How::Redirect => Admittance::refuse(self.to.as_str(), 0),
        }
    }
}

export_policy!(Plain: routing, admission);
