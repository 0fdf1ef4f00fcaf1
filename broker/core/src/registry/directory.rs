//! Users, their sessions and their memberships: one shard of the directory.

use crate::address::Name;
use crate::id::SessionId;
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
    /// Transport and profile, such as `websocket+json`.
    pub transport: &'static str,
    pub remote: SocketAddr,
    pub connected_unix_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) sessions: SmallVec<[SessionEntry; 1]>,
    pub(super) groups: Vec<Name>,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) users: HashMap<Name, User, foldhash::fast::RandomState>,
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
