//! Members of a queue that are set aside for some of its messages, and the rest.

use crate::choose::Chooser;
use crate::members::MemberGlob;
use waspmq_plugin_sdk::Message;

/// Which members are set aside.
#[derive(Debug)]
pub enum Reserve<'a> {
    /// Those that one of the patterns names.
    Named(&'a [MemberGlob]),
    /// The first so many, which are those that have been there longest.
    First(u32),
}

/// The members of one queue in groups. A member is in the first group that asks for it.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Vec<u32>>,
    rest: Vec<u32>,
    all: Vec<u32>,
    chooser: Chooser,
}

impl Groups {
    /// `turn` as in [`Chooser::new`].
    pub fn new<'a>(names: &[String], reserves: impl Iterator<Item = Reserve<'a>>, turn: u64) -> Self {
        let all: Vec<u32> = (0..).take(names.len()).collect();
        let mut rest = all.clone();
        let groups = reserves.map(|reserve| {
            let group: Vec<u32> = match reserve {
                Reserve::First(count) => rest.iter().copied().take(count as usize).collect(),
                Reserve::Named(globs) => {
                    let is_named = |index: &u32| {
                        let name = names.get(*index as usize);
                        name.is_some_and(|name| globs.iter().any(|glob| glob.matches(name)))
                    };
                    rest.iter().copied().filter(is_named).collect()
                }
            };
            rest.retain(|index| !group.contains(index));
            group
        });
        Self { groups: groups.collect(), rest, all, chooser: Chooser::new(names, turn) }
    }

    /// A member of a group, or of the rest when it is none or nobody of the group is there; of all when there is no rest. By the
    /// key where the message has one, else the one with the least in flight.
    pub fn choose(
        &mut self,
        group: Option<usize>,
        message: &Message,
        loads: impl FnOnce() -> Vec<u32>,
    ) -> Option<u32> {
        let Self { groups, rest, all, chooser } = self;
        let group = group.and_then(|group| groups.get(group));
        let among =
            [group, Some(&*rest), Some(&*all)].into_iter().flatten().find(|among| !among.is_empty())?;
        if message.key.is_empty() {
            chooser.least((&loads(), message.ts), among)
        } else {
            chooser.by_key(&message.key, among)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::Kind;

    fn groups(names: &[&str], reserves: Vec<Reserve<'_>>) -> Groups {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Groups::new(&names, reserves.into_iter(), 0)
    }

    fn chosen(groups: &mut Groups, group: Option<usize>) -> Vec<u32> {
        let message = |key: String, ts| Message {
            sender: "alice".to_owned(),
            address: "topic/a".to_owned(),
            kind: Kind::Topic,
            key,
            size: 0,
            priority: 0,
            ts,
        };
        let mut chosen: Vec<u32> =
            (0..60).filter_map(|ts| groups.choose(group, &message(String::new(), ts), Vec::new)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        let of_keys =
            (0..60).filter_map(|key| groups.choose(group, &message(format!("k{key}"), 0), Vec::new));
        let mut of_keys: Vec<u32> = of_keys.collect();
        of_keys.sort_unstable();
        of_keys.dedup();
        assert_eq!(of_keys, chosen, "keys go to the same members");
        chosen
    }

    #[test]
    fn groups_are_taken_in_their_order_and_the_rest_serves_for_whom_nobody_is_there() {
        let vip = [MemberGlob::try_from("vip-*".to_owned()).unwrap()];
        let reserves = || vec![Reserve::Named(&vip), Reserve::First(2)];
        let mut some = groups(&["a/d/1", "vip-1/d/2", "b/d/3", "c/d/4", "d/d/5"], reserves());
        assert_eq!(chosen(&mut some, Some(0)), [1]);
        assert_eq!(chosen(&mut some, Some(1)), [0, 2]);
        assert_eq!(chosen(&mut some, None), [3, 4]);
        let mut no_vip = groups(&["a/d/1", "b/d/3", "c/d/4"], reserves());
        assert_eq!(chosen(&mut no_vip, Some(0)), [2], "the rest, not another group");
        let mut no_rest = groups(&["a/d/1", "vip-1/d/2"], reserves());
        assert_eq!(chosen(&mut no_rest, None), [0, 1]);
        assert!(chosen(&mut groups(&[], reserves()), None).is_empty());
    }

    #[test]
    fn load_counts_within_a_group() {
        let mut groups = groups(&["a/d/1", "b/d/2", "c/d/3"], vec![Reserve::First(2)]);
        let message = Message {
            sender: String::new(),
            address: "topic/a".to_owned(),
            kind: Kind::Topic,
            key: String::new(),
            size: 0,
            priority: 0,
            ts: 1,
        };
        assert_eq!(groups.choose(Some(0), &message, || vec![5, 1, 0]), Some(1));
    }
}
