//! Who is reachable where: users and their sessions, groups and their members, subscriptions and queues.
//!
//! Two sets of [`limits::SHARD_COUNT`] mutexes. **Directory** shards hold users; they are taken when sessions
//! come and go or memberships change, never for a publish. **Address** shards hold audiences and the offsets
//! of their stream; a publish takes exactly one. Lock order is directory, address, wildcard trie; nobody
//! holds two of the same set.
//!
//! Invariants: an audience counts a worker while a session of that worker listens; a worker is told of
//! membership changes that happen elsewhere under the address lock, so its order of changes and messages is
//! the registry's. Not here: the workers' own recipient lists, and any queue of messages.

mod directory;
mod marks;
mod membership;
mod presence;
mod queue;
mod recipients;
mod shard;
mod wildcards;

pub use directory::{Connected, JoinedBy, LoginPolicy, Session, SessionEntry};
pub use marks::{Attached, Mark};
pub use membership::Added;
pub use presence::{Presence, PresenceChange, PresencePage};
pub use queue::{Choosing, InFlight, Loads, Member, Pick, Queue};
pub use recipients::{Excluded, Recipients};
pub use shard::Targets;

use crate::address::{Address, Kind, Pattern};
use crate::dedup;
use crate::id::{Position, SessionId, Stream};
use crate::limits;
use crate::queue::QueueId;
use crate::reject::{Code, Reject};
use shard::{Audience, CachedMatch, Shard};
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use wildcards::Wildcards;

/// A set of workers by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerSet(u64);

impl WorkerSet {
    pub const fn insert(&mut self, worker: u8) {
        self.0 |= 1 << (worker as u64 % 64);
    }

    pub const fn contains(self, worker: u8) -> bool {
        self.0 & (1 << (worker as u64 % 64)) != 0
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |&worker| self.contains(worker))
    }
}

/// What a worker must do because a membership changed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub session: SessionId,
    pub address: Address,
    pub step: Step,
    /// The address's last position before.
    pub last: Position,
}

/// What a change of membership is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Attach,
    Detach,
    /// Detach, and tell the session that it is by a right that its user has no more.
    Forbid,
}

/// The way to the workers, for changes of membership and presence. Called under a lock of the registry: it must
/// neither block nor call back.
pub trait Workers {
    /// Whether `worker` can take a change now.
    fn has_room(&self, worker: u8) -> bool;

    /// Queues a change behind everything queued before.
    fn notify(&self, worker: u8, change: Change);

    /// Hands over a change of presence for the worker's watchers. Without room it is dropped, and the worker
    /// has to look again at what its sessions watch.
    fn presence(&self, worker: u8, change: PresenceChange);
}

/// The registry of one broker.
#[derive(Debug)]
pub struct Registry {
    epoch: u32,
    login: LoginPolicy,
    hasher: foldhash::fast::FixedState,
    directory: Box<[Mutex<directory::Directory>]>,
    shards: Box<[Mutex<Shard>]>,
    wildcards: RwLock<Wildcards>,
    /// Changes with every change of `wildcards`, under its write lock; 0 while there never was one.
    wildcard_version: AtomicU64,
    queue_version: AtomicU64,
}

impl Registry {
    /// `epoch` names the streams of this run and must grow with every start. `seed` decides which shard an address
    /// is in: the same for all runs on one data directory, because positions of earlier runs name shards.
    pub fn new(epoch: u32, seed: u64) -> Self {
        Self {
            epoch,
            login: LoginPolicy::default(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            directory: (0..limits::SHARD_COUNT).map(|_| Mutex::default()).collect(),
            shards: (0..limits::SHARD_COUNT).map(|_| Mutex::default()).collect(),
            wildcards: RwLock::default(),
            wildcard_version: AtomicU64::new(0),
            queue_version: AtomicU64::new(0),
        }
    }

    #[must_use]
    pub fn with_login_policy(self, login: LoginPolicy) -> Self {
        Self { login, ..self }
    }

    /// The offsets of this run are greater than this.
    #[must_use]
    pub fn beginning_behind(mut self, offset: u64) -> Self {
        for shard in &mut self.shards {
            shard.get_mut().unwrap().next_offset = offset;
        }
        self
    }

    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The shard that holds an address, which is its stream in every epoch.
    pub fn shard_of(&self, address: &Address) -> u16 {
        self.index(address.as_str())
    }

    /// The last position of a shard's stream in this epoch; where none was taken, that behind which it begins. Offset 0 when
    /// there is no such shard.
    pub fn stream_end(&self, shard: u16) -> Position {
        let stream = Stream { shard, epoch: self.epoch };
        let is_known = usize::from(shard) < limits::SHARD_COUNT;
        Position { stream, offset: if is_known { self.shard(shard).next_offset } else { 0 } }
    }

    /// The last position of every stream of this epoch, in the order of shards. Each is taken by itself.
    pub fn stream_ends(&self) -> Box<[Position]> {
        (0..limits::SHARD_COUNT)
            .map_while(|shard| u16::try_from(shard).ok())
            .map(|shard| self.stream_end(shard))
            .collect()
    }

    /// Takes back the dedup keys of a shard that a store kept; `now` in milliseconds since 1970, and of the clock of publishes.
    pub fn restore_dedup(&self, shard: u16, keys: Vec<dedup::Key>, now: (u64, u64)) {
        if usize::from(shard) < limits::SHARD_COUNT {
            self.shard(shard).dedup.restore(keys, now);
        }
    }

    /// Takes the lock of `address`'s shard. Everything a publish needs is behind it.
    pub fn lock(&self, address: &Address) -> Locked<'_> {
        let index = self.index(address.as_str());
        Locked { registry: self, index, shard: self.shard(index) }
    }

    /// Adds a plain subscription of a session.
    pub fn subscribe(&self, pattern: &Pattern, session: &Session) -> Attached {
        match pattern.to_address() {
            Some(address) => {
                let mut locked = self.lock(&address);
                locked.shard.attach(&address, session);
                Attached::To(locked.last())
            }
            None => self.change_wildcards(|wildcards| {
                let (audience, number) = wildcards.entry(pattern);
                audience.add(session);
                Attached::Number(number)
            }),
        }
    }

    pub fn unsubscribe(&self, pattern: &Pattern, session: &Session) {
        match pattern.to_address() {
            Some(address) => self.lock(&address).shard.detach(&address, session),
            None => _ = self.change_wildcard(pattern, |audience| audience.remove(session)),
        }
    }

    /// Adds a session to a queue and gives the queue's new state. `home` is the same for all its members.
    pub fn join_queue(
        &self,
        id: &QueueId,
        session: &Session,
        home: Option<u8>,
    ) -> Result<(Arc<Queue>, Attached), Reject> {
        match id.pattern().to_address() {
            Some(address) => {
                let mut locked = self.lock(&address);
                let audience = locked.shard.audience(&address);
                let queue = audience.add_member((id, home), session, self.next_queue_version())?;
                Ok((queue, Attached::To(locked.last())))
            }
            None => self.change_wildcards(|wildcards| {
                let (audience, number) = wildcards.entry(id.pattern());
                let queue = audience.add_member((id, home), session, self.next_queue_version())?;
                Ok((queue, Attached::Number(number)))
            }),
        }
    }

    /// Takes a session out of a queue and gives the queue's new state, without members when it ended.
    pub fn leave_queue(&self, id: &QueueId, session: &Session) -> Option<Arc<Queue>> {
        match id.pattern().to_address() {
            Some(address) => {
                let mut locked = self.lock(&address);
                let audience = locked.shard.audiences.get_mut(&address)?;
                let told = audience.remove_member(id, session, self.next_queue_version());
                locked.shard.tidy(&address);
                told
            }
            None => self.change_wildcard(id.pattern(), |audience| {
                audience.remove_member(id, session, self.next_queue_version())
            })?,
        }
    }

    /// A queue as it is now; `None` without members.
    pub fn queue(&self, id: &QueueId) -> Option<Arc<Queue>> {
        let of = |audience: &Audience| audience.queues.iter().find(|queue| queue.id == *id).cloned();
        match id.pattern().to_address() {
            Some(address) => of(self.lock(&address).shard.audiences.get(&address)?),
            None => of(self.wildcards.read().unwrap().get(id.pattern())?),
        }
    }

    fn change_wildcards<T>(&self, change: impl FnOnce(&mut Wildcards) -> T) -> T {
        let mut wildcards = self.wildcards.write().unwrap();
        let result = change(&mut wildcards);
        self.wildcard_version.fetch_add(1, Ordering::Release);
        result
    }

    /// Changes the audience of one pattern, which ends when nobody is left.
    fn change_wildcard<T>(&self, pattern: &Pattern, change: impl FnOnce(&mut Audience) -> T) -> Option<T> {
        let (result, forgotten) = self.change_wildcards(|wildcards| wildcards.change(pattern, change));
        if let Some(number) = forgotten {
            // Whoever matched the pattern before has noted what was published by the time its shard's lock is free.
            for shard in &self.shards {
                shard.lock().unwrap().patterns.remove(&number);
            }
        }
        result
    }

    /// Taken under the queue's lock, so that a later state has a higher version.
    fn next_queue_version(&self) -> u64 {
        self.queue_version.fetch_add(1, Ordering::Relaxed) + 1
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to the shard count, which fits 16 bits")]
    fn index(&self, text: &str) -> u16 {
        (self.hasher.hash_one(text) as usize & (limits::SHARD_COUNT - 1)) as u16
    }

    #[expect(clippy::indexing_slicing, reason = "indexes come from `index`, which masks to the shard count")]
    fn shard(&self, index: u16) -> MutexGuard<'_, Shard> {
        self.shards[index as usize].lock().unwrap()
    }
}

/// The lock of one address shard.
#[derive(Debug)]
pub struct Locked<'a> {
    registry: &'a Registry,
    index: u16,
    shard: MutexGuard<'a, Shard>,
}

impl Locked<'_> {
    /// What a message to `to` reaches now. `to` must be the address the lock was taken for.
    pub fn targets(&mut self, to: &Address) -> Targets {
        let mut targets = Targets::default();
        let version = self.registry.wildcard_version.load(Ordering::Acquire);
        if version > 0 && to.kind() == Kind::Topic {
            self.extend_by_wildcards(to, version, &mut targets);
        }
        if let Some(audience) = self.shard.audiences.get(to) {
            audience.extend(&mut targets);
        }
        targets
    }

    /// Takes `count` offsets for messages to `to` that are or are not stored, and that leave the session out which
    /// published them or nobody; gives the position of the first. `targets` are those of the address.
    pub fn take(
        &mut self,
        (to, targets): (&Address, &Targets),
        count: usize,
        (is_stored, excluded): (bool, Option<SessionId>),
    ) -> Position {
        let offset = self.shard.next_offset + 1;
        self.shard.next_offset += count as u64;
        self.shard.note((to, targets), (is_stored, excluded));
        Position { stream: Stream { shard: self.index, epoch: self.registry.epoch }, offset }
    }

    /// The last position that was taken; where none was, that behind which the run begins.
    pub fn last(&self) -> Position {
        let stream = Stream { shard: self.index, epoch: self.registry.epoch };
        Position { stream, offset: self.shard.next_offset }
    }

    /// The dedup keys of this shard.
    pub fn dedup(&mut self) -> &mut dedup::Window {
        &mut self.shard.dedup
    }

    fn extend_by_wildcards(&mut self, to: &Address, version: u64, targets: &mut Targets) {
        if let Some(found) = self.shard.matches.get(to)
            && found.version == version
        {
            let Targets { workers, recipients, queues, patterns } = &found.targets;
            (targets.workers, targets.recipients) = (*workers, *recipients);
            targets.queues.clone_from(queues);
            targets.patterns = SmallVec::from_slice(patterns);
            return;
        }
        let wildcards = self.registry.wildcards.read().unwrap();
        let version = self.registry.wildcard_version.load(Ordering::Acquire);
        wildcards.extend(to, targets);
        drop(wildcards);
        self.shard.remember_match(to, CachedMatch { version, targets: targets.clone() });
    }
}

/// The refusal of a change because a worker's queue is full.
fn overloaded() -> Reject {
    Reject::new(Code::Overloaded, "a worker has no room for the change").retry_after(100)
}

#[cfg(test)]
mod tests;
