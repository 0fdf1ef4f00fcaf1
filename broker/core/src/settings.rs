//! What holds for the messages of an address unless a policy or the publisher says otherwise.
//!
//! Settings come from the operator's configuration by pattern: the first rule that matches an address counts, and
//! behind all rules stand the defaults of the address's kind. They are values; nothing here reads a file.

use crate::address::{Address, Kind, Pattern};
use crate::delivery::AckPlan;
use crate::level::Level;
use std::sync::Arc;

/// Which messages of an address are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// None, and level `stored` is refused.
    Never,
    /// Those of level `stored`.
    #[default]
    Requested,
    /// Those of level `stored`, and those of any level that find no session of their user.
    Offline,
    /// All.
    Always,
}

/// How long stored messages stay. Whichever bound is reached first ends the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub age_ms: u64,
    pub count: u64,
    /// Bytes of the stored records.
    pub bytes: u64,
}

/// What is done about a recipient whose outbound queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The oldest waiting messages make room.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// Waiting messages with the key of a newer one are dropped first, then the oldest.
    Conflate,
    /// The message is left in the store and read from there when the recipient catches up.
    Spill,
    /// The connection is closed; its client may come back and resume.
    Close,
}

impl Overflow {
    pub const ALL: [Self; 5] = [Self::DropOldest, Self::DropNewest, Self::Conflate, Self::Spill, Self::Close];

    /// The word in the configuration and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Conflate => "conflate",
            Self::Spill => "spill",
            Self::Close => "close",
        }
    }
}

/// What holds for the messages of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The least level of a publish: one that asks for less is raised to it.
    pub level: Level,
    pub ack: AckPlan,
    pub keep: Keep,
    pub retention: Retention,
    pub overflow: Overflow,
}

impl Settings {
    /// What holds for a kind of address that no rule matches: direct messages wait for a user who is away,
    /// everything else is stored when the publisher asks for it.
    pub fn of_kind(kind: Kind) -> Self {
        let keep = if kind == Kind::User { Keep::Offline } else { Keep::Requested };
        Self {
            level: Level::None,
            ack: AckPlan::default(),
            keep,
            retention: Retention::default(),
            overflow: Overflow::default(),
        }
    }
}

impl Default for Retention {
    /// A week, a million messages, 256 MiB.
    fn default() -> Self {
        Self { age_ms: 7 * 24 * 3_600_000, count: 1_000_000, bytes: 256 * 1024 * 1024 }
    }
}

/// The rules of a broker, in their order, and the defaults behind them.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<(Pattern, Arc<Settings>)>,
    defaults: [Arc<Settings>; 4],
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Rules {
    pub fn new(rules: Vec<(Pattern, Settings)>) -> Self {
        let rules = rules.into_iter().map(|(pattern, settings)| (pattern, Arc::new(settings))).collect();
        Self { rules, defaults: Kind::ALL.map(|kind| Arc::new(Settings::of_kind(kind))) }
    }

    /// The settings of an address. Costs one match per rule; callers keep the answer.
    pub fn of(&self, address: &Address) -> &Arc<Settings> {
        let [user, group, topic, all] = &self.defaults;
        let found = self.rules.iter().find(|(pattern, _)| pattern.matches(address));
        let of_kind = || match address.kind() {
            Kind::User => user,
            Kind::Group => group,
            Kind::Topic => topic,
            Kind::All => all,
        };
        found.map_or_else(of_kind, |(_, settings)| settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let settings = |keep| Settings { keep, ..Settings::of_kind(Kind::Topic) };
        let rules = Rules::new(vec![
            (Pattern::parse("topic/a.>").unwrap(), settings(Keep::Always)),
            (Pattern::parse_scope("user/*").unwrap(), settings(Keep::Never)),
            (Pattern::parse("topic/>").unwrap(), settings(Keep::Never)),
        ]);
        let keep = |text: &str| rules.of(&Address::parse(text).unwrap()).keep;
        assert_eq!(keep("topic/a.b"), Keep::Always);
        assert_eq!(keep("topic/b"), Keep::Never);
        assert_eq!(keep("user/x"), Keep::Never);
        assert_eq!(keep("group/x"), Keep::Requested);
        assert_eq!(Rules::default().of(&Address::parse("user/x").unwrap()).keep, Keep::Offline);
    }
}
