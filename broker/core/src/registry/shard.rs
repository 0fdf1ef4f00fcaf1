//! One registry shard: audiences of addresses, group members, the shard's stream of offsets.

use super::marks::{LeftMarks, Mark};
use super::queue::{Member, Queue};
use super::{Session, WorkerSet};
use crate::address::{Address, Name};
use crate::dedup;
use crate::id::SessionId;
use crate::limits;
use crate::queue::QueueId;
use crate::reject::{Code, Reject};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Who listens to one address or pattern.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Workers with plain subscribers, and how many sessions each has.
    workers: SmallVec<[(u8, u32); 2]>,
    /// Distinct users among the plain subscribers, with their sessions.
    pub(super) users: Map<Name, u32>,
    pub(super) queues: Vec<Arc<Queue>>,
    /// Of an address, and not of a pattern with wildcards.
    pub(super) mark: Mark,
}

/// What a message to an address reaches.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// Workers that have plain recipients.
    pub workers: WorkerSet,
    /// Recipient users, per matching pattern, without those of queues.
    pub recipients: u32,
    pub queues: SmallVec<[Arc<Queue>; 1]>,
    /// The numbers of the patterns with wildcards that match, also of those without an audience.
    pub(super) patterns: SmallVec<[u64; 2]>,
}

impl Audience {
    pub(super) fn add(&mut self, session: &Session) {
        match self.workers.iter_mut().find(|(worker, _)| *worker == session.worker) {
            Some((_, count)) => *count += 1,
            None => self.workers.push((session.worker, 1)),
        }
        *self.users.entry(session.user.clone()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, session: &Session) {
        if let Some(index) = self.workers.iter().position(|(worker, _)| *worker == session.worker)
            && let Some((_, count)) = self.workers.get_mut(index)
        {
            *count -= 1;
            if *count == 0 {
                self.workers.swap_remove(index);
            }
        }
        if let Some(count) = self.users.get_mut(&session.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&session.user);
            }
        }
    }

    /// Adds a member to a queue, which begins with its first member.
    pub(super) fn add_member(
        &mut self,
        (id, home): (&QueueId, Option<u8>),
        session: &Session,
        version: u64,
    ) -> Result<Arc<Queue>, Reject> {
        let index = self.queues.iter().position(|queue| queue.id == *id);
        let mut members = index.and_then(|i| self.queues.get(i)).map_or_else(Vec::new, |q| q.members.clone());
        if members.len() >= limits::QUEUE_MEMBERS_MAX {
            let message = format!("queue {} has {} members already", id.name(), members.len());
            return Err(Reject::new(Code::QueueFull, message));
        }
        if index.is_none() && self.queues.len() >= limits::QUEUES_PER_ADDRESS_MAX {
            let message = format!("{} has {} queues already", id.pattern(), self.queues.len());
            return Err(Reject::new(Code::QueueFull, message));
        }
        members.push(Member::new(session.id, session.worker, session.user.clone(), session.device.clone()));
        let queue = Arc::new(Queue::new(id.clone(), version, members, home));
        match index.and_then(|i| self.queues.get_mut(i)) {
            Some(slot) => *slot = queue.clone(),
            None => self.queues.push(queue.clone()),
        }
        Ok(queue)
    }

    /// Takes a member out; the queue ends with its last member.
    pub(super) fn remove_member(
        &mut self,
        id: &QueueId,
        session: &Session,
        version: u64,
    ) -> Option<Arc<Queue>> {
        let index = self.queues.iter().position(|queue| queue.id == *id)?;
        let slot = self.queues.get_mut(index)?;
        let mut members = slot.members.clone();
        members.retain(|member| member.session != session.id);
        let queue = Arc::new(Queue::new(id.clone(), version, members, slot.home));
        if queue.members.is_empty() {
            self.queues.swap_remove(index);
        } else {
            *slot = queue.clone();
        }
        Some(queue)
    }

    pub(super) fn is_unused(&self) -> bool {
        self.workers.is_empty() && self.queues.is_empty()
    }

    pub(super) fn extend(&self, targets: &mut Targets) {
        for &(worker, _) in &self.workers {
            targets.workers.insert(worker);
        }
        targets.recipients += u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        targets.queues.extend(self.queues.iter().cloned());
    }
}

/// The wildcard patterns that match an address, as found at one version of the wildcard trie.
#[derive(Debug)]
pub(super) struct CachedMatch {
    pub(super) version: u64,
    pub(super) targets: Targets,
}

/// The members of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// In order, so that a page of them costs what it shows.
    pub(super) members: BTreeSet<Name>,
    /// Whether an operator made it, so that it stays when it is empty.
    pub(super) is_kept: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) next_offset: u64,
    /// The offset of the last message that was not stored.
    pub(super) unstored_upto: u64,
    pub(super) audiences: Map<Address, Audience>,
    /// Of addresses that have no audience any more.
    pub(super) left: LeftMarks,
    /// Of patterns with wildcards, by their number, since something was published here that matches.
    pub(super) patterns: Map<u64, Mark>,
    pub(super) groups: Map<Name, Group>,
    pub(super) matches: Map<Address, CachedMatch>,
    pub(super) dedup: dedup::Window,
}

impl Shard {
    /// The audience of an address, made when there is none.
    pub(super) fn audience(&mut self, address: &Address) -> &mut Audience {
        let of_shard = Mark::of_shard(self);
        let Self { audiences, left, .. } = self;
        audiences.entry(address.clone()).or_insert_with(|| {
            let mark = left.take(address).unwrap_or(of_shard);
            Audience { mark, ..Audience::default() }
        })
    }

    /// Ends an audience that has nobody any more.
    pub(super) fn tidy(&mut self, address: &Address) {
        if self.audiences.get(address).is_some_and(Audience::is_unused)
            && let Some((address, audience)) = self.audiences.remove_entry(address)
        {
            self.left.insert(address, audience.mark);
        }
    }

    pub(super) fn attach(&mut self, address: &Address, session: &Session) {
        self.audience(address).add(session);
    }

    pub(super) fn detach(&mut self, address: &Address, session: &Session) {
        if let Some(audience) = self.audiences.get_mut(address) {
            audience.remove(session);
            self.tidy(address);
        }
    }

    /// Takes down that something was published, up to the last offset that was taken.
    pub(super) fn note(
        &mut self,
        (to, targets): (&Address, &Targets),
        (is_stored, excluded): (bool, Option<SessionId>),
    ) {
        let offset = self.next_offset;
        if !is_stored {
            self.unstored_upto = offset;
        }
        let mark = self.audiences.get_mut(to).map(|audience| &mut audience.mark);
        if let Some(mark) = mark.or_else(|| self.left.get_mut(to)) {
            mark.note(offset, is_stored, excluded);
        }
        for number in &targets.patterns {
            self.patterns.entry(*number).or_default().note(offset, is_stored, excluded);
        }
    }

    /// Takes a member out; a group that nobody made ends with its last member.
    pub(super) fn remove_member(&mut self, group: &Name, user: &Name) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.members.remove(user);
            if entry.members.is_empty() && !entry.is_kept {
                self.groups.remove(group);
            }
        }
    }

    pub(super) fn remember_match(&mut self, address: &Address, found: CachedMatch) {
        if self.matches.len() >= limits::MATCH_CACHE_MAX {
            self.matches.clear();
        }
        self.matches.insert(address.clone(), found);
    }
}
