//! Members of queues: which queue an address belongs to, and how members are named in a configuration.

use crate::config::Text;
use crate::glob::Glob;
use serde::Deserialize;
use std::collections::BTreeMap;
use waspmq_plugin_sdk::{QueueMembers, matches};

/// The queues of one name, one for each pattern that has members, with what a policy makes of these.
///
/// An address that matches several of the patterns is decided for the first one in the order of their texts: a verdict picks a
/// member of one queue.
#[derive(Debug)]
pub struct Queues<T> {
    queue: String,
    known: BTreeMap<String, Known<T>>,
}

/// One of the queues.
#[derive(Debug)]
pub struct Known<T> {
    /// Names the members that `of` was made of.
    pub version: u64,
    pub of: T,
}

impl<T> Queues<T> {
    pub fn new(queue: &Text<256>) -> Self {
        Self { queue: queue.to_string(), known: BTreeMap::new() }
    }

    /// Takes in a change of members; those of other queues are passed over.
    pub fn change(&mut self, members: QueueMembers, make: impl FnOnce(&str, &[String]) -> T) {
        if members.queue != self.queue {
            return;
        }
        if members.members.is_empty() {
            self.known.remove(&members.pattern);
            return;
        }
        let of = make(&members.pattern, &members.members);
        self.known.insert(members.pattern, Known { version: members.version, of });
    }

    /// The queue that gets messages to an address, when it has members.
    pub fn of(&mut self, address: &str) -> Option<&mut Known<T>> {
        self.known.iter_mut().find(|(pattern, _)| matches(pattern, address)).map(|(_, known)| known)
    }
}

/// User and device of `user/device/session`; a session without a device has `-`.
pub fn split_member(member: &str) -> (&str, &str) {
    let (user, rest) = member.split_once('/').unwrap_or((member, ""));
    (user, rest.split_once('/').map_or(rest, |(device, _)| device))
}

/// Names members by `user/device`, or by the user or the device when it has no slash: `big-*`, `alice/*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct MemberGlob(String);

impl TryFrom<String> for MemberGlob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        for part in text.splitn(2, '/') {
            Glob::try_from(part.to_owned())?;
        }
        Ok(Self(text))
    }
}

impl MemberGlob {
    /// Whether it names the member. Asked when members change, not for each message.
    pub fn matches(&self, member: &str) -> bool {
        let (user, device) = split_member(member);
        let is = |pattern: &str, text: &str| {
            Glob::try_from(pattern.to_owned()).is_ok_and(|glob| glob.matches(text))
        };
        match self.0.split_once('/') {
            Some((of_user, of_device)) => is(of_user, user) && is(of_device, device),
            None => is(&self.0, user) || is(&self.0, device),
        }
    }

    /// How much of it is not a star: of two that match, the one with more says more.
    pub fn literal_bytes(&self) -> usize {
        self.0.bytes().filter(|byte| *byte != b'*').count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(pattern: &str, queue: &str, version: u64, names: &[&str]) -> QueueMembers {
        QueueMembers {
            pattern: pattern.to_owned(),
            queue: queue.to_owned(),
            version,
            members: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn queues_are_found_by_address() {
        let mut queues = Queues::new(&Text::try_from("w".to_owned()).unwrap());
        let change = |queues: &mut Queues<usize>, members| queues.change(members, |_, names| names.len());
        change(&mut queues, members("topic/jobs.>", "w", 1, &["a/1/1"]));
        change(&mut queues, members("topic/jobs.*", "w", 2, &["a/1/1", "b/1/1"]));
        change(&mut queues, members("topic/other", "x", 3, &["a/1/1"]));
        let found =
            |queues: &mut Queues<usize>, address| queues.of(address).map(|known| (known.version, known.of));
        assert_eq!(found(&mut queues, "topic/jobs.a"), Some((2, 2)));
        assert_eq!(found(&mut queues, "topic/jobs.a.b"), Some((1, 1)));
        assert_eq!(found(&mut queues, "topic/other"), None);
        change(&mut queues, members("topic/jobs.*", "w", 4, &[]));
        assert_eq!(found(&mut queues, "topic/jobs.a"), Some((1, 1)));
    }

    #[test]
    fn members_are_named_by_user_or_device() {
        let check = |glob: &str, member: &str, expected: bool| {
            let glob = MemberGlob::try_from(glob.to_owned()).unwrap();
            assert_eq!(glob.matches(member), expected, "{glob:?} {member}");
        };
        check("big-*", "alice/big-1/s", true);
        check("big-*", "big-ann/phone/s", true);
        check("big-*", "alice/phone/big-1", false);
        check("alice/*", "alice/phone/s", true);
        check("alice/*", "bob/alice/s", false);
        check("*/big", "bob/big/s", true);
        check("*", "bob/-/s", true);
        assert!(MemberGlob::try_from(String::new()).is_err());
        assert!(MemberGlob::try_from("alice/".to_owned()).is_err());
    }
}
