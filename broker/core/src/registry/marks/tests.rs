//! Marks against a list of everything that was published, and their bounds.

use super::super::tests::{name, session};
use super::super::{Attached, Registry, Session};
use super::*;
use crate::queue::QueueId;
use proptest::prelude::*;

struct Published {
    to: Address,
    position: Position,
    is_stored: bool,
    excluded: Option<SessionId>,
}

fn publish(registry: &Registry, to: &Address, is_stored: bool, excluded: Option<SessionId>) -> Published {
    let mut locked = registry.lock(to);
    let targets = locked.targets(to);
    let position = locked.take((to, &targets), 1, (is_stored, excluded));
    Published { to: to.clone(), position, is_stored, excluded }
}

/// What a session had of a pattern since it subscribed, whether it still does or not.
struct Had {
    session: Session,
    pattern: Pattern,
    attached: Attached,
    told: Box<[Position]>,
}

impl Had {
    fn subscribe(registry: &Registry, pattern: &Pattern, session: &Session) -> Self {
        let ends = registry.stream_ends();
        let attached = registry.subscribe(pattern, session);
        let told = match attached {
            Attached::To(position) => [position].into(),
            Attached::Number(_) => ends,
        };
        Self { session: session.clone(), pattern: pattern.clone(), attached, told }
    }

    fn mark(&self, registry: &Registry, shard: u16) -> Mark {
        match self.attached {
            Attached::To(_) => registry.mark_of(&self.pattern.to_address().unwrap()),
            Attached::Number(number) => {
                let number = registry.number_of(&self.pattern).filter(|now| *now == number);
                registry.mark_in(shard, number)
            }
        }
    }

    /// Per stream whether the session would be told that it missed something, and that anything was published.
    fn told(&self, registry: &Registry) -> Vec<(bool, bool)> {
        let of = |told: &Position| {
            let mark = self.mark(registry, told.stream.shard);
            (mark.unstored_upto(self.session.id) > told.offset, mark.last() > told.offset)
        };
        self.told.iter().map(of).collect()
    }

    fn expected(&self, published: &[Published]) -> Vec<(bool, bool)> {
        let of = |told: &Position| {
            let behind = published.iter().filter(|message| {
                self.pattern.matches(&message.to)
                    && message.position.stream == told.stream
                    && message.position.offset > told.offset
            });
            let (mut is_missed, mut is_any) = (false, false);
            for message in behind {
                is_any = true;
                is_missed |= !message.is_stored && message.excluded != Some(self.session.id);
            }
            (is_missed, is_any)
        };
        self.told.iter().map(of).collect()
    }
}

/// Addresses of one shard, so that each is in the others' way.
fn of_one_shard(registry: &Registry, prefix: &str, count: usize) -> Vec<Address> {
    (0..)
        .map(|i| Address::parse(&format!("topic/{prefix}{i}.x")).unwrap())
        .filter(|address| registry.shard_of(address) == 7)
        .take(count)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_session_is_told_of_what_it_missed_and_of_nothing_else(
        steps in prop::collection::vec((0_u8..4, 0_u32..3, 0_usize..6, any::<bool>()), 1..40)
    ) {
        let registry = Registry::new(1, 0);
        let topics = of_one_shard(&registry, "a", 4);
        let mut patterns: Vec<_> = topics.iter().map(Pattern::from).collect();
        patterns.extend(["topic/>", "topic/*.x"].map(|text| Pattern::parse(text).unwrap()));
        let (mut published, mut had, mut live) = (Vec::new(), Vec::<Had>::new(), Vec::new());
        for (step, who, what, flag) in steps {
            let session = session(who + 1, 0, &format!("u{who}"));
            match step {
                0 if !live.contains(&(who, what)) => {
                    had.push(Had::subscribe(&registry, &patterns[what], &session));
                    live.push((who, what));
                }
                1 if live.contains(&(who, what)) => {
                    registry.unsubscribe(&patterns[what], &session);
                    live.retain(|other| *other != (who, what));
                }
                _ => {
                    let excluded = (step == 3).then_some(session.id);
                    published.push(publish(&registry, &topics[what % topics.len()], flag, excluded));
                }
            }
            for had in &had {
                prop_assert_eq!(had.told(&registry), had.expected(&published), "{}", had.pattern);
            }
        }
    }
}

#[test]
fn what_is_left_first_is_forgotten_first_and_then_the_shard_speaks() {
    let registry = Registry::new(1, 0);
    let most = limits::LEFT_ADDRESSES_PER_SHARD_MAX;
    let addresses = of_one_shard(&registry, "a", most + 2);
    let alice = session(1, 0, "alice");
    let had: Vec<_> = addresses
        .iter()
        .map(|address| {
            let had = Had::subscribe(&registry, &Pattern::from(address), &alice);
            registry.unsubscribe(&had.pattern, &alice);
            had
        })
        .collect();
    publish(&registry, &addresses[5], false, None);
    for (index, expected) in [(0, true), (1, true), (2, false), (5, true), (most + 1, false)] {
        assert_eq!(had[index].told(&registry), [(expected, expected)], "{index}");
    }
    // Whoever listens to a forgotten one again is not told of what the shard had before.
    assert_eq!(Had::subscribe(&registry, &had[0].pattern, &alice).told(&registry), [(false, false)]);
    let locked = registry.lock(&addresses[0]);
    let left = &locked.shard.left;
    assert!(left.marks.len() <= most && left.order.keys.len() <= 2 * most);
}

#[test]
fn one_that_comes_and_goes_takes_one_place() {
    let registry = Registry::new(1, 0);
    let (alice, bob) = (session(1, 0, "alice"), session(2, 0, "bob"));
    for text in ["topic/a", "topic/a.>"] {
        let pattern = Pattern::parse(text).unwrap();
        let had = Had::subscribe(&registry, &pattern, &alice);
        registry.unsubscribe(&pattern, &alice);
        for _ in 0..3 * limits::LEFT_ADDRESSES_PER_SHARD_MAX {
            registry.subscribe(&pattern, &bob);
            registry.unsubscribe(&pattern, &bob);
        }
        assert!(had.told(&registry).iter().all(|told| *told == (false, false)), "{text}");
    }
    let to = Address::parse("topic/a").unwrap();
    let locked = registry.lock(&to);
    assert_eq!(locked.shard.left.marks.len(), 1);
    assert!(locked.shard.left.order.keys.len() <= 2 * limits::LEFT_ADDRESSES_PER_SHARD_MAX);
}

#[test]
fn a_forgotten_pattern_leaves_nothing_behind() {
    let registry = Registry::new(1, 0);
    let (alice, to) = (session(1, 0, "alice"), Address::parse("topic/a0.x").unwrap());
    let pattern = |i: usize| Pattern::parse(&format!("topic/a{i}.>")).unwrap();
    let had = Had::subscribe(&registry, &pattern(0), &alice);
    registry.unsubscribe(&pattern(0), &alice);
    publish(&registry, &to, true, None);
    assert_eq!(registry.lock(&to).shard.patterns.len(), 1);
    for i in 1..=limits::LEFT_PATTERNS_MAX {
        assert!(registry.number_of(&pattern(0)).is_some(), "{i}");
        registry.join_queue(&QueueId::new(pattern(i), name("q")), &alice, None).unwrap();
        registry.leave_queue(&QueueId::new(pattern(i), name("q")), &alice).unwrap();
    }
    assert_eq!(registry.number_of(&pattern(0)), None);
    assert_eq!(registry.lock(&to).shard.patterns.len(), 0);
    // What is not known is taken for published, also under a number of later.
    publish(&registry, &to, false, None);
    let shard = usize::from(registry.shard_of(&to));
    assert_eq!(had.told(&registry)[shard], (true, true));
    let again = Had::subscribe(&registry, &pattern(0), &alice);
    assert_eq!(had.told(&registry)[shard], (true, true));
    assert_eq!(again.told(&registry)[shard], (false, false));
}
