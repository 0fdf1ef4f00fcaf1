//! What the shipped policies have in common: reading a configuration, texts with stars, targets of messages, members of
//! queues and the choice among them.
//!
//! A configuration is checked while it is read: each kind of value is a type that refuses what is outside of its
//! bounds, so every refusal names the key. Deliberately not here: what a policy decides, and calls of the host.

mod address;
mod choose;
mod config;
mod glob;
mod hash;
mod members;
mod reserved;

pub use address::{Pattern, Target};
pub use choose::Chooser;
pub use config::{List, Share, Text, Within, read};
pub use glob::{Glob, any_matches};
pub use hash::{hash, rendezvous, share_of, spread};
pub use members::{Known, MemberGlob, Queues, split_member};
pub use reserved::{Groups, Reserve};

/// What keeps messages together: the key, or the sender of those that have none.
pub fn key_of(message: &waspmq_plugin_sdk::Message) -> &str {
    if message.key.is_empty() { &message.sender } else { &message.key }
}
