//! Who is online, since when others are not, and which workers have somebody who wants to know.
//!
//! A user is online while there is a session of theirs; the first session and the end of the last one are
//! changes. A change is handed to the workers that have a watcher of that user, once per worker and under the
//! user's directory lock, so a worker sees the changes of one user in order. The worker tells its own watchers;
//! nothing here knows single sessions that watch, and nobody who is not watched costs anything at a change.
//!
//! *Numbers.* The changes of a user ascend: run of the broker in the upper bits, changes of the directory shard
//! in the lower ones. A state that is read has a number not below that of the user's last change and below that of
//! the next one, even when the user was forgotten in between; so whoever keeps the highest number knows what is
//! old. Not here: times of users that earlier runs saw ([`Presence::is_known`]), and who may ask.

use super::directory::{Directory, User};
use super::{Registry, Workers};
use crate::address::{Address, Name};
use crate::limits;
use crate::reject::{Code, Reject};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Bound;

/// What is known of a user's whereabouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub online: bool,
    pub sessions: u32,
    /// When the last session ended, milliseconds since 1970. `None` while online, and when it is not known.
    pub last_seen_unix_ms: Option<u64>,
    /// Ascends from change to change of this user.
    pub seq: u64,
    /// Whether this run has seen the user and remembers it. If not, the time has to come from elsewhere.
    pub is_known: bool,
}

/// A user came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    pub user: Name,
    pub online: bool,
    /// `None` when the user came.
    pub last_seen_unix_ms: Option<u64>,
    pub seq: u64,
}

/// Members of a group with their presence, in order of name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresencePage {
    pub users: Vec<(Name, Presence)>,
    /// Whether there are members behind the last one.
    pub more: bool,
}

/// Bits of a number that count the changes of one run; with the 24 of the epoch they are the 53 of whole numbers that every
/// reader of JSON keeps exactly. More changes pass into the bits of the epoch, which does no harm: epochs go with the minutes.
const CHANGE_BITS: u32 = 29;

impl Registry {
    /// Where a user is.
    pub fn presence(&self, user: &Name) -> Presence {
        self.presence_in(&self.directory(user), user)
    }

    /// The presence of a group's members behind `after` in order of name, `most` at a time. `None` when there
    /// is no such group. Each member is looked at by itself: the page is no snapshot.
    pub fn group_presence(&self, group: &Name, after: Option<&Name>, most: usize) -> Option<PresencePage> {
        let (names, more) = {
            let locked = self.lock(&Address::group(group));
            let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
            let members = &locked.shard.groups.get(group)?.members;
            let mut behind = members.range::<Name, _>((begin, Bound::Unbounded));
            let names: Vec<Name> = behind.by_ref().take(most).cloned().collect();
            (names, behind.next().is_some())
        };
        let users = names.into_iter().map(|name| {
            let presence = self.presence(&name);
            (name, presence)
        });
        Some(PresencePage { users: users.collect(), more })
    }

    /// Counts one more watcher on `worker` for each of these distinct users, or for none of them.
    ///
    /// # Errors
    /// `too_many_watchers` when one of them is watched by as many sessions as possible, `overloaded` when the
    /// broker has no room for one more watched user.
    pub fn watch(&self, worker: u8, users: &[Name]) -> Result<(), Reject> {
        for (count, user) in users.iter().enumerate() {
            if let Err(reject) = self.directory(user).add_watcher(user, worker) {
                self.unwatch(worker, users.iter().take(count));
                return Err(reject);
            }
        }
        Ok(())
    }

    /// Takes back what [`Registry::watch`] counted.
    pub fn unwatch<'a>(&self, worker: u8, users: impl IntoIterator<Item = &'a Name>) {
        for user in users {
            self.directory(user).remove_watcher(user, worker);
        }
    }

    /// Users that somebody watches.
    pub fn watched_count(&self) -> usize {
        self.directory.iter().map(|directory| directory.lock().unwrap().watched.len()).sum()
    }

    /// A first session came: the user is online.
    pub(super) fn come(&self, directory: &mut Directory, user: &Name, workers: &dyn Workers) {
        let seq = self.next_seq(directory);
        if let Some(entry) = directory.users.get_mut(user) {
            entry.online_seq = seq;
        }
        directory.left.forget(user);
        let user = user.clone();
        directory.tell(workers, &PresenceChange { user, online: true, last_seen_unix_ms: None, seq });
    }

    /// The last session went. Names that were made for one session are not remembered.
    pub(super) fn go(
        &self,
        directory: &mut Directory,
        (user, is_generated): (&Name, bool),
        now_unix_ms: u64,
        workers: &dyn Workers,
    ) {
        let seq = self.next_seq(directory);
        if !is_generated {
            directory.left.remember(user, Seen { unix_ms: now_unix_ms, seq });
        }
        let (user, last_seen_unix_ms) = (user.clone(), Some(now_unix_ms));
        directory.tell(workers, &PresenceChange { user, online: false, last_seen_unix_ms, seq });
    }

    pub(super) fn presence_in(&self, directory: &Directory, user: &Name) -> Presence {
        let sessions = directory.users.get(user).map_or(0, |entry| entry.sessions.len());
        let away = Presence {
            online: false,
            sessions: 0,
            last_seen_unix_ms: None,
            seq: self.seq(directory.changes),
            is_known: false,
        };
        match (directory.users.get(user), directory.left.users.get(user)) {
            (Some(User { online_seq: seq, .. }), _) if sessions > 0 => Presence {
                online: true,
                sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
                seq: *seq,
                is_known: true,
                ..away
            },
            (_, Some(Seen { unix_ms, seq })) => {
                Presence { last_seen_unix_ms: Some(*unix_ms), seq: *seq, is_known: true, ..away }
            }
            _ => away,
        }
    }

    fn next_seq(&self, directory: &mut Directory) -> u64 {
        directory.changes += 1;
        self.seq(directory.changes)
    }

    const fn seq(&self, changes: u64) -> u64 {
        ((self.epoch as u64) << CHANGE_BITS).saturating_add(changes)
    }
}

/// How many sessions of each worker watch a user.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    workers: SmallVec<[(u8, u32); 2]>,
}

impl Watchers {
    fn count(&self) -> usize {
        self.workers.iter().map(|(_, count)| *count as usize).sum()
    }
}

impl Directory {
    fn add_watcher(&mut self, user: &Name, worker: u8) -> Result<(), Reject> {
        let Some(watchers) = self.watched.get_mut(user) else {
            if self.watched.len() >= limits::WATCHED_PER_SHARD_MAX {
                let message = "as many users are watched as the broker can keep";
                return Err(Reject::new(Code::Overloaded, message).retry_after(1_000));
            }
            let watchers = Watchers { workers: SmallVec::from_slice(&[(worker, 1)]) };
            self.watched.insert(user.clone(), watchers);
            return Ok(());
        };
        if watchers.count() >= limits::WATCHERS_PER_USER_MAX {
            let message = format!("user {user} is watched by {} sessions already", watchers.count());
            return Err(Reject::new(Code::TooManyWatchers, message));
        }
        match watchers.workers.iter_mut().find(|(number, _)| *number == worker) {
            Some((_, count)) => *count += 1,
            None => watchers.workers.push((worker, 1)),
        }
        Ok(())
    }

    fn remove_watcher(&mut self, user: &Name, worker: u8) {
        let Some(watchers) = self.watched.get_mut(user) else { return };
        if let Some((_, count)) = watchers.workers.iter_mut().find(|(number, _)| *number == worker) {
            *count -= 1;
        }
        watchers.workers.retain(|(_, count)| *count > 0);
        if watchers.workers.is_empty() {
            self.watched.remove(user);
        }
    }

    fn tell(&self, workers: &dyn Workers, change: &PresenceChange) {
        let Some(watchers) = self.watched.get(&change.user) else { return };
        for &(worker, _) in &watchers.workers {
            workers.presence(worker, change.clone());
        }
    }
}

/// When a user was seen last, and the number of that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    unix_ms: u64,
    seq: u64,
}

/// The users of one shard that left last.
#[derive(Debug, Default)]
pub(super) struct Left {
    users: HashMap<Name, Seen, foldhash::fast::RandomState>,
    /// In order of leaving, with those that came back since.
    order: VecDeque<(Name, u64)>,
}

impl Left {
    fn remember(&mut self, user: &Name, seen: Seen) {
        self.users.insert(user.clone(), seen);
        self.order.push_back((user.clone(), seen.seq));
        while self.users.len() > limits::LEFT_USERS_PER_SHARD_MAX {
            let Some((oldest, seq)) = self.order.pop_front() else { break };
            if self.users.get(&oldest).is_some_and(|seen| seen.seq == seq) {
                self.users.remove(&oldest);
            }
        }
        if self.order.len() > 2 * limits::LEFT_USERS_PER_SHARD_MAX {
            let users = &self.users;
            self.order.retain(|(user, seq)| users.get(user).is_some_and(|seen| seen.seq == *seq));
        }
    }

    fn forget(&mut self, user: &Name) {
        self.users.remove(user);
    }
}

#[cfg(test)]
mod tests;
