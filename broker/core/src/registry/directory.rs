//! Users, their sessions, their memberships and who is watched: one shard of the directory.

use super::presence::{Left, Watchers};
use crate::address::{Address, Name};
use crate::id::{Position, SessionId};
use crate::limits;
use crate::reject::{Code, Reject};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::net::SocketAddr;

/// A session as subscriptions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub worker: u8,
    pub user: Name,
    pub device: Option<Name>,
}

/// A session as the admin API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEntry {
    pub session: Session,
    /// Transport and profile, such as `websocket+json` or `quic`.
    pub transport: &'static str,
    pub remote: SocketAddr,
    pub connected_unix_ms: u64,
    /// Whether the user's name was made for this session: memberships end with it.
    pub is_generated: bool,
}

/// How many sessions of one user there may be, and who gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginPolicy {
    /// Up to [`limits::SESSIONS_PER_USER_MAX`], side by side. More are refused.
    #[default]
    Coexist,
    /// This many, at least one. More are refused.
    Limit(u32),
    /// This many, at least one. One more takes the place of the oldest.
    ReplaceOldest(u32),
}

/// What a new session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The addresses the session listens to by itself, each with its last position before.
    pub addresses: Vec<(Address, Position)>,
    /// Sessions whose place it took, oldest first: the caller has their workers close them. Until then they
    /// are known like any other, and the next new session names them again.
    pub replaced: Vec<Session>,
    /// Whether the user had no other session.
    pub is_first: bool,
}

/// Who made a user a member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinedBy {
    /// The user, by `join`: the membership ends with the right to do so.
    Member,
    /// An operator: no right of the user's matters.
    Operator,
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) group: Name,
    pub(super) by: JoinedBy,
}

#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) sessions: SmallVec<[SessionEntry; 1]>,
    pub(super) groups: Vec<Membership>,
    /// Whether the broker made the name, for one session.
    pub(super) is_generated: bool,
    /// The number of the change by which the user came; of no meaning without a session.
    pub(super) online_seq: u64,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) users: HashMap<Name, User, foldhash::fast::RandomState>,
    /// Apart from `users`: strangers' names that are watched take no room from users.
    pub(super) watched: HashMap<Name, Watchers, foldhash::fast::RandomState>,
    pub(super) left: Left,
    /// Changes of presence in this shard and run.
    pub(super) changes: u64,
}

impl User {
    pub(super) fn is_in(&self, group: &Name) -> bool {
        self.groups.iter().any(|membership| membership.group == *group)
    }

    pub(super) fn group_addresses(&self) -> impl Iterator<Item = Address> {
        self.groups.iter().map(|membership| Address::group(&membership.group))
    }
}

impl Directory {
    /// Refuses a user that is not known yet when there is no room for one more.
    pub(super) fn check_room(&self, user: &Name) -> Result<(), Reject> {
        if self.users.len() < limits::USERS_PER_SHARD_MAX || self.users.contains_key(user) {
            return Ok(());
        }
        Err(Reject::new(Code::Overloaded, "the broker knows as many users as it may").retry_after(1_000))
    }

    /// Forgets a user of whom nothing is left to know.
    pub(super) fn tidy(&mut self, user: &Name) {
        if self.users.get(user).is_some_and(|entry| entry.sessions.is_empty() && entry.groups.is_empty()) {
            self.users.remove(user);
        }
    }
}
