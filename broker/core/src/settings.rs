//! What holds for the messages of an address unless a policy or the publisher says otherwise.
//!
//! Settings come from the operator's configuration by pattern: the first rule that matches an address counts, and
//! behind all rules stand the defaults of the address's kind. They are values; nothing here reads a file.

use crate::address::{Address, Kind, Pattern};
use crate::delivery::AckPlan;
use crate::level::Level;
use crate::limits;
use crate::trie::Trie;
use hashbrown::HashMap;
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

/// The rules of a broker, of which the first that matches counts, and the defaults behind them.
///
/// Found by hash: a look-up costs one for the rules of single addresses, and for topics one for each token as far as
/// rules with wildcards go, however many rules there are.
#[derive(Debug, Clone)]
pub struct Rules {
    /// In their order; the numbers below are places here.
    settings: Vec<Arc<Settings>>,
    addresses: HashMap<Address, usize, foldhash::fast::RandomState>,
    topics: Trie<Option<usize>>,
    users: Option<usize>,
    groups: Option<usize>,
    defaults: [Arc<Settings>; 4],
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Rules {
    pub fn new(rules: Vec<(Pattern, Settings)>) -> Self {
        let mut new = Self {
            settings: Vec::with_capacity(rules.len()),
            addresses: HashMap::default(),
            topics: Trie::default(),
            users: None,
            groups: None,
            defaults: Kind::ALL.map(|kind| Arc::new(Settings::of_kind(kind))),
        };
        for (index, (pattern, settings)) in rules.into_iter().enumerate() {
            new.settings.push(Arc::new(settings));
            // An earlier rule for the same hides a later one.
            match (pattern.to_address(), pattern.kind()) {
                (Some(address), _) => _ = new.addresses.entry(address).or_insert(index),
                (None, Kind::User) => _ = new.users.get_or_insert(index),
                (None, Kind::Group) => _ = new.groups.get_or_insert(index),
                (None, Kind::Topic | Kind::All) => _ = new.topics.entry(&pattern).get_or_insert(index),
            }
        }
        new
    }

    /// The settings of an address.
    pub fn of(&self, address: &Address) -> &Arc<Settings> {
        self.at(self.place(address), address.kind())
    }

    /// The settings at a place, or the defaults of the kind.
    fn at(&self, place: Option<usize>, kind: Kind) -> &Arc<Settings> {
        let [user, group, topic, all] = &self.defaults;
        let default = match kind {
            Kind::User => user,
            Kind::Group => group,
            Kind::Topic => topic,
            Kind::All => all,
        };
        place.and_then(|place| self.settings.get(place)).unwrap_or(default)
    }

    /// The first rule that matches.
    fn place(&self, address: &Address) -> Option<usize> {
        let own = if self.addresses.is_empty() { None } else { self.addresses.get(address).copied() };
        let wider = match address.kind() {
            Kind::User => self.users,
            Kind::Group => self.groups,
            Kind::Topic => self.topics.matches(address).into_iter().copied().flatten().min(),
            Kind::All => None,
        };
        own.into_iter().chain(wider).min()
    }
}

/// Rules with the answers about the last topics, where rules have wildcards: one hash for an address whatever the
/// rules. At most [`limits::SETTLED_TOPICS_MAX`] topics; more, and all are forgotten.
#[derive(Debug)]
pub struct Settled {
    rules: Arc<Rules>,
    topics: HashMap<Address, Option<usize>, foldhash::fast::RandomState>,
}

impl Settled {
    /// Other rules need another one of these.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self { rules, topics: HashMap::default() }
    }

    /// The settings of an address.
    pub fn of(&mut self, address: &Address) -> &Arc<Settings> {
        let kind = address.kind();
        if kind != Kind::Topic || self.rules.topics.is_empty() {
            return self.rules.of(address);
        }
        let place = match self.topics.get(address) {
            Some(place) => *place,
            None => self.remember(address),
        };
        self.rules.at(place, kind)
    }

    fn remember(&mut self, address: &Address) -> Option<usize> {
        let place = self.rules.place(address);
        if self.topics.len() >= limits::SETTLED_TOPICS_MAX {
            self.topics.clear();
        }
        self.topics.insert(address.clone(), place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_looking_at_each_rule(
            patterns in prop::collection::vec(0_usize..12, 0..20),
        ) {
            const PATTERNS: [&str; 12] = [
                "topic/a", "topic/a.b", "topic/*", "topic/a.*", "topic/*.b", "topic/>", "topic/a.>", "user/*",
                "user/a", "group/*", "group/a", "all",
            ];
            // Each rule is known by its number of messages.
            let rules: Vec<_> = (1..)
                .zip(patterns)
                .map(|(count, pattern)| {
                    let retention = Retention { count, ..Retention::default() };
                    let settings = Settings { retention, ..Settings::of_kind(Kind::Topic) };
                    (Pattern::parse_scope(PATTERNS[pattern]).unwrap(), settings)
                })
                .collect();
            let found = Arc::new(Rules::new(rules.clone()));
            let mut settled = Settled::new(found.clone());
            for text in ["topic/a", "topic/a.b", "topic/c.b", "topic/a.b.c", "user/a", "user/b", "group/a", "group/b", "all"] {
                let address = Address::parse(text).unwrap();
                let first = rules.iter().find(|(pattern, _)| pattern.matches(&address));
                let expected = first.map_or_else(|| Settings::of_kind(address.kind()), |(_, settings)| settings.clone());
                prop_assert_eq!(&**found.of(&address), &expected, "{}", text);
                for _ in 0..2 {
                    prop_assert_eq!(&**settled.of(&address), &expected, "{}", text);
                }
            }
        }
    }

    #[test]
    fn answers_about_topics_are_bounded_and_others_are_not_kept() {
        let keeps = Settings { keep: Keep::Always, ..Settings::of_kind(Kind::Topic) };
        let rules = |pattern| Arc::new(Rules::new(vec![(Pattern::parse(pattern).unwrap(), keeps.clone())]));
        let topic = |i: usize| Address::parse(&format!("topic/a.{i}")).unwrap();
        let mut settled = Settled::new(rules("topic/a.*"));
        for i in 0..=limits::SETTLED_TOPICS_MAX {
            assert_eq!(settled.of(&topic(i)).keep, Keep::Always);
            assert!(settled.topics.len() <= limits::SETTLED_TOPICS_MAX);
        }
        assert_eq!(settled.topics.len(), 1, "all were forgotten, and the last one is known");
        assert_eq!(settled.of(&topic(0)).keep, Keep::Always);
        settled.of(&Address::all());
        assert_eq!(settled.topics.len(), 2);
        let mut without = Settled::new(rules("topic/a"));
        without.of(&topic(1));
        assert!(without.topics.is_empty(), "without wildcards there is nothing to remember");
    }

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
