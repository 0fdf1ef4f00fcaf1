//! A policy for tests that breaks one rule in `route`, as configured.

use serde::Deserialize;
use std::hint::black_box;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy};

/// `{"how": "loop"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misbehave {
    how: How,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Never returns.
    Loop,
    /// Panics.
    Trap,
    /// Allocates until there is nothing left.
    Grow,
    /// Returns a header of ten megabytes.
    Huge,
    /// Redirects to something that is no address.
    Nowhere,
}

impl Policy for Misbehave {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Misbehave {
    fn route(&mut self, _message: &Message) -> Verdict {
        match self.how {
            How::Loop => loop {
                black_box(());
            },
            How::Trap => panic!("asked to"),
            How::Grow => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            How::Huge => Verdict::pass().with_header("huge", "x".repeat(10 << 20)),
            How::Nowhere => Verdict::redirect("no address"),
        }
    }
}

export_policy!(Misbehave: routing);
