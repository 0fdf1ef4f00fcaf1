//! Queues: sessions that share the messages of a pattern, each message going to one of them.

use crate::address::Name;
use crate::id::SessionId;
use crate::policy::QueueMembers;
use crate::queue::QueueId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts a queue member's messages that are not written to its connection yet. Dropping it ends one.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One session of a queue.
#[derive(Debug, Clone)]
pub struct Member {
    pub session: SessionId,
    pub worker: u8,
    user: Name,
    device: Option<Name>,
    in_flight: Arc<AtomicU32>,
}

impl Member {
    pub fn new(session: SessionId, worker: u8, user: Name, device: Option<Name>) -> Self {
        Self { session, worker, user, device, in_flight: Arc::default() }
    }

    /// Counts one message in flight until the answer is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.in_flight.clone())
    }

    /// Messages chosen for this member and not yet written.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.as_ref().map_or("-", Name::as_str);
        write!(f, "{}/{device}/{}", self.user, self.session)
    }
}

/// What each member of a queue has in flight, in their order. It is read as it is at the moment, without a lock.
#[derive(Debug, Clone, Default)]
pub struct Loads(Arc<[Arc<AtomicU32>]>);

impl Loads {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
        self.0.iter().map(|in_flight| in_flight.load(Ordering::Relaxed))
    }
}

/// Counts that stay as they are, of members that are not sessions of this broker.
impl FromIterator<u32> for Loads {
    fn from_iter<I: IntoIterator<Item = u32>>(counts: I) -> Self {
        Self(counts.into_iter().map(|count| Arc::new(AtomicU32::new(count))).collect())
    }
}

impl PartialEq for Loads {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Loads {}

/// A member named by a routing policy; it counts only for the queue whose state has this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub version: u64,
    pub index: u32,
}

/// The members of one queue at one moment; changes make a new value.
#[derive(Debug)]
pub struct Queue {
    pub id: QueueId,
    /// Unique over all queues and all their states, ascending.
    pub version: u64,
    pub members: Vec<Member>,
    /// The worker that keeps the queue's progress; `None` where nothing it is sent is stored.
    pub home: Option<u8>,
    /// Where the search for the least loaded member begins next, so that equals take turns.
    turn: AtomicU32,
}

impl Queue {
    pub(super) const fn new(id: QueueId, version: u64, members: Vec<Member>, home: Option<u8>) -> Self {
        Self { id, version, members, home, turn: AtomicU32::new(0) }
    }

    /// The member for one message: the policy's pick if it names this state, else by key hash if there is a
    /// key, else the one with the least in flight. `excluded` is passed over.
    pub fn choose(&self, key: &[u8], pick: Option<Pick>, excluded: Option<SessionId>) -> Option<&Member> {
        self.choose_but(key, pick, |session| Some(session) == excluded)
    }

    /// The same with more than one member left out.
    pub fn choose_but(
        &self,
        key: &[u8],
        pick: Option<Pick>,
        is_excluded: impl Fn(SessionId) -> bool,
    ) -> Option<&Member> {
        let picked = pick
            .filter(|pick| pick.version == self.version)
            .and_then(|pick| self.members.get(pick.index as usize))
            .filter(|member| !is_excluded(member.session));
        if picked.is_some() {
            return picked;
        }
        if key.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize % self.members.len().max(1);
            let in_turn = self.members.iter().skip(turn).chain(self.members.iter().take(turn));
            let candidates = in_turn.filter(|member| !is_excluded(member.session));
            return candidates.min_by_key(|member| member.in_flight());
        }
        let candidates = self.members.iter().filter(|member| !is_excluded(member.session));
        let key = fnv1a(key);
        candidates.max_by_key(|member| mix(key ^ member.session.as_u64()))
    }

    /// Chooses members for several messages in a row: it looks at each member's load once, and at what it chose itself.
    pub const fn choosing(&self, excluded: Option<SessionId>) -> Choosing<'_> {
        Choosing { queue: self, excluded, chosen: 0, loads: BinaryHeap::new() }
    }

    /// The state as told to policies.
    pub fn to_members(&self) -> QueueMembers {
        QueueMembers {
            pattern: self.id.pattern().to_string(),
            queue: self.id.name().clone(),
            version: self.version,
            members: self.members.iter().map(ToString::to_string).collect(),
            loads: Loads(self.members.iter().map(|member| member.in_flight.clone()).collect()),
        }
    }
}

/// See [`Queue::choosing`].
#[derive(Debug)]
pub struct Choosing<'a> {
    queue: &'a Queue,
    excluded: Option<SessionId>,
    /// Messages without a key so far.
    chosen: usize,
    /// Members by what they have in flight; of equals first the one whose turn is next. Made for the second message,
    /// so that one alone costs a look and no memory.
    loads: BinaryHeap<Reverse<(u32, usize, usize)>>,
}

impl<'a> Choosing<'a> {
    /// The member for the next message, as [`Queue::choose`] says it.
    pub fn choose(&mut self, key: &[u8], pick: Option<Pick>) -> Option<&'a Member> {
        let is_picked = pick.is_some_and(|pick| pick.version == self.queue.version);
        if is_picked || !key.is_empty() {
            // The member has one more in flight then: the others are looked at again.
            self.chosen = self.chosen.min(1);
            return self.queue.choose(key, pick, self.excluded);
        }
        self.chosen += 1;
        match self.chosen {
            1 => return self.queue.choose(key, None, self.excluded),
            2 => self.loads = self.loads(),
            _ => {}
        }
        let Reverse((in_flight, turn, index)) = self.loads.pop()?;
        // Behind the others, when they have as much.
        self.loads.push(Reverse((in_flight.saturating_add(1), turn + self.queue.members.len(), index)));
        self.queue.turn.fetch_add(1, Ordering::Relaxed);
        self.queue.members.get(index)
    }

    fn loads(&self) -> BinaryHeap<Reverse<(u32, usize, usize)>> {
        let members = &self.queue.members;
        let next = self.queue.turn.load(Ordering::Relaxed) as usize % members.len().max(1);
        let turn = |index: usize| (index + members.len() - next) % members.len().max(1);
        let all = members.iter().enumerate().filter(|(_, member)| Some(member.session) != self.excluded);
        all.map(|(index, member)| Reverse((member.in_flight(), turn(index), index))).collect()
    }
}

/// Highest random weight hashing (Thaler and Ravishankar, 1998) needs a hash that is the same in every process.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of splitmix64.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Pattern;

    fn queue(members: u32) -> Queue {
        let user = Name::parse("u").unwrap();
        let members =
            (0..members).map(|i| Member::new(SessionId::new(1, 0, i), 0, user.clone(), None)).collect();
        let id = QueueId::new(Pattern::parse("topic/a").unwrap(), Name::parse("q").unwrap());
        Queue::new(id, 7, members, None)
    }

    #[test]
    fn least_in_flight_without_a_key() {
        let queue = queue(3);
        let held: Vec<_> = (0..5).map(|_| queue.choose(b"", None, None).unwrap().begin()).collect();
        let mut counts: Vec<_> = queue.members.iter().map(Member::in_flight).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 2]);
        drop(held);
        assert!(queue.members.iter().all(|m| m.in_flight() == 0));
    }

    #[test]
    fn policies_are_told_what_is_in_flight_at_the_moment() {
        let queue = queue(3);
        let told = queue.to_members();
        assert_eq!(told.loads, [0, 0, 0].into_iter().collect());
        let held = [0, 2, 2].map(|index: usize| queue.members[index].begin());
        assert_eq!(told.loads.iter().collect::<Vec<_>>(), [1, 0, 2]);
        drop(held);
        assert_eq!(told.loads.iter().sum::<u32>(), 0);
        assert_eq!(Loads::default().iter().len(), 0);
    }

    #[test]
    fn idle_members_take_turns() {
        let queue = queue(3);
        let mut counts = [0; 3];
        for _ in 0..300 {
            let chosen = queue.choose(b"", None, None).unwrap().session;
            let index = queue.members.iter().position(|member| member.session == chosen).unwrap();
            counts[index] += 1;
        }
        assert_eq!(counts, [100; 3]);
    }

    #[test]
    fn messages_in_a_row_go_to_the_least_loaded_in_turns() {
        for members in [1, 2, 3, 7] {
            for busy in [vec![], vec![0], vec![0, 0, 0, 1]] {
                let queue = queue(members);
                let busy = busy.into_iter().filter_map(|index: usize| queue.members.get(index));
                let mut in_flight: Vec<_> = busy.map(Member::begin).collect();
                let mut choosing = queue.choosing(None);
                for message in 0..40 {
                    let chosen = choosing.choose(b"", None).unwrap();
                    let least = queue.members.iter().map(Member::in_flight).min();
                    assert_eq!(Some(chosen.in_flight()), least, "message {message} of {members} members");
                    in_flight.push(chosen.begin());
                    let keyed = choosing.choose(b"key", None).unwrap().session;
                    assert_eq!(keyed, queue.choose(b"key", None, None).unwrap().session);
                }
            }
        }
        // From batch to batch, too.
        let (idle, mut counts) = (queue(3), [0; 3]);
        for _ in 0..10 {
            let mut choosing = idle.choosing(None);
            for _ in 0..4 {
                let chosen = choosing.choose(b"", None).unwrap().session;
                counts[idle.members.iter().position(|member| member.session == chosen).unwrap()] += 1;
            }
        }
        assert!(counts.iter().all(|count| (13..=14).contains(count)), "{counts:?}");
        let queue = queue(3);
        let left_out = queue.members[1].session;
        let mut choosing = queue.choosing(Some(left_out));
        let chosen: Vec<_> = (0..6).map(|_| choosing.choose(b"", None).unwrap().session).collect();
        assert!(!chosen.contains(&left_out) && chosen[0] != chosen[1] && chosen[..2] == chosen[2..4]);
        let pick = Some(Pick { version: 7, index: 2 });
        assert_eq!(choosing.choose(b"", pick).unwrap().session, queue.members[2].session);
        assert!(queue.choosing(None).choose(b"", Some(Pick { version: 6, index: 2 })).is_some());
    }

    #[test]
    fn a_key_sticks_and_few_keys_move_when_a_member_leaves() {
        let (before, mut after) = (queue(10), queue(10));
        after.members.remove(3);
        let moved = (0..1000u32)
            .filter(|i| {
                let key = i.to_string();
                let session = |q: &Queue| q.choose(key.as_bytes(), None, None).unwrap().session;
                session(&before) != session(&after)
            })
            .count();
        assert!((50..200).contains(&moved), "{moved}");
    }

    #[test]
    fn a_pick_counts_for_its_version_only() {
        let queue = queue(4);
        let pick = |version, index| Some(Pick { version, index });
        assert_eq!(queue.choose(b"k", pick(7, 2), None).unwrap().session, queue.members[2].session);
        let fallback = queue.choose(b"k", None, None).unwrap().session;
        assert_eq!(queue.choose(b"k", pick(6, 2), None).unwrap().session, fallback);
        assert_eq!(queue.choose(b"k", pick(7, 9), None).unwrap().session, fallback);
    }

    #[test]
    fn the_excluded_session_is_passed_over() {
        let queue = queue(1);
        let only = queue.members[0].session;
        assert!(queue.choose(b"", None, Some(only)).is_none());
        assert!(queue.choose(b"k", Some(Pick { version: 7, index: 0 }), Some(only)).is_none());
    }
}
