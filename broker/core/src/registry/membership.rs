//! Sessions come and go, users join and leave groups: the changes that touch a user and several addresses.

use super::directory::{Connected, Directory, JoinedBy, LoginPolicy, Membership, Session, SessionEntry};
use super::shard::Audience;
use super::{Change, Locked, Registry, Step, Workers, overloaded};
use crate::address::{Address, Name};
use crate::id::{Position, SessionId};
use crate::limits;
use crate::reject::{Code, Reject};
use std::sync::MutexGuard;

impl Registry {
    /// Makes a session known and reachable. Its addresses are its user's own, `all`, and its user's groups.
    ///
    /// # Errors
    /// `too_many_sessions` by the login policy; `overloaded` when there is no room for one more user, or on a
    /// worker that has to close a replaced session.
    pub fn connect(&self, entry: SessionEntry, workers: &dyn Workers) -> Result<Connected, Reject> {
        self.begin(entry, None, workers)
    }

    /// As [`Self::connect`], in the place of a session of the same user, which is forgotten in the same step with its own
    /// addresses: the user is there all the time, has no more sessions than before, and stays in all groups. The caller has its
    /// worker close it.
    pub fn take_over(
        &self,
        entry: SessionEntry,
        old: &Session,
        workers: &dyn Workers,
    ) -> Result<Connected, Reject> {
        self.begin(entry, Some(old), workers)
    }

    fn begin(
        &self,
        entry: SessionEntry,
        old: Option<&Session>,
        workers: &dyn Workers,
    ) -> Result<Connected, Reject> {
        let session = entry.session.clone();
        let mut directory = self.directory(&session.user);
        directory.check_room(&session.user)?;
        let sessions = directory.users.get(&session.user).map_or(&[][..], |user| &user.sessions);
        let is_first = sessions.is_empty();
        let old = old.filter(|old| sessions.iter().any(|entry| entry.session.id == old.id));
        let others = sessions.iter().map(|entry| &entry.session);
        let others = others.filter(|other| old.is_none_or(|old| old.id != other.id));
        let replaced = admit(self.login, &session.user, others)?;
        if replaced.iter().chain(old).any(|session| !workers.has_room(session.worker)) {
            return Err(overloaded());
        }
        let user = directory.users.entry(session.user.clone()).or_default();
        user.sessions.retain(|entry| old.is_none_or(|old| old.id != entry.session.id));
        user.is_generated = entry.is_generated;
        user.sessions.push(entry);
        let own = [Address::user(&session.user), Address::all()];
        let addresses = own.into_iter().chain(user.group_addresses());
        let attach = |address: Address| {
            let mut locked = self.lock(&address);
            locked.shard.attach(&address, &session);
            if let Some(old) = old {
                locked.shard.detach(&address, old);
            }
            let last = locked.last();
            drop(locked);
            (address, last)
        };
        let addresses = addresses.map(attach).collect();
        if is_first {
            self.come(&mut directory, &session.user, workers);
        }
        Ok(Connected { addresses, replaced, is_first })
    }

    /// Forgets a session and its own addresses; memberships of a generated name end with it. Its subscriptions,
    /// queues and what it watches are the caller's to remove.
    pub fn disconnect(&self, session: &Session, now_unix_ms: u64, workers: &dyn Workers) {
        self.end(session, (now_unix_ms, false), workers);
    }

    /// As [`Self::disconnect`], of a session that somebody may go on with: memberships of a generated name stay until
    /// [`Self::end_generated`].
    pub fn lose(&self, session: &Session, now_unix_ms: u64, workers: &dyn Workers) {
        self.end(session, (now_unix_ms, true), workers);
    }

    /// Nobody comes back under a generated name any more: its memberships end, unless it has a session.
    pub fn end_generated(&self, user: &Name) {
        let mut directory = self.directory(user);
        let entry = directory.users.get_mut(user);
        let Some(entry) = entry.filter(|entry| entry.is_generated && entry.sessions.is_empty()) else {
            return;
        };
        self.drop_memberships(user, &mut entry.groups);
        directory.tidy(user);
    }

    fn drop_memberships(&self, user: &Name, groups: &mut Vec<Membership>) {
        for Membership { group, .. } in groups.drain(..) {
            self.lock(&Address::group(&group)).shard.remove_member(&group, user);
        }
    }

    fn end(&self, session: &Session, (now_unix_ms, can_go_on): (u64, bool), workers: &dyn Workers) {
        let mut directory = self.directory(&session.user);
        let Some(user) = directory.users.get_mut(&session.user) else { return };
        let Some(index) = user.sessions.iter().position(|entry| entry.session.id == session.id) else {
            return;
        };
        let is_generated = user.sessions.remove(index).is_generated;
        let is_last = user.sessions.is_empty();
        let mut addresses = vec![Address::user(&session.user), Address::all()];
        addresses.extend(user.group_addresses());
        for address in &addresses {
            self.lock(address).shard.detach(address, session);
        }
        if is_last && is_generated && !can_go_on {
            self.drop_memberships(&session.user, &mut user.groups);
        }
        if is_last {
            self.go(&mut directory, (&session.user, is_generated), now_unix_ms, workers);
        }
        directory.tidy(&session.user);
    }

    /// Makes a user a member of a group by their own wish, on all their sessions. Joining twice is fine. Gives the last
    /// position of the group before the user became a member; `None` when they were one already.
    pub fn join(&self, user: &Name, group: &Name, workers: &dyn Workers) -> Result<Option<Position>, Reject> {
        let mut directory = self.directory(user);
        if directory.users.get(user).is_some_and(|entry| entry.is_in(group)) {
            return Ok(None);
        }
        self.enter(&mut directory, (user, group, JoinedBy::Member), workers).map(Some)
    }

    /// Makes a user a member of a group by an operator's wish. Of somebody who joined, the membership is the
    /// operator's from now on. `None` when it was so already.
    pub fn add_member(
        &self,
        user: &Name,
        group: &Name,
        workers: &dyn Workers,
    ) -> Result<Option<Added>, Reject> {
        let mut directory = self.directory(user);
        let groups = directory.users.get_mut(user).map(|entry| &mut entry.groups);
        if let Some(membership) = groups.into_iter().flatten().find(|membership| membership.group == *group) {
            let earlier = std::mem::replace(&mut membership.by, JoinedBy::Operator);
            return Ok((earlier == JoinedBy::Member).then_some(Added::TakenOver));
        }
        let since = self.enter(&mut directory, (user, group, JoinedBy::Operator), workers)?;
        Ok(Some(Added::New(since)))
    }

    /// Makes somebody a member who is not one.
    fn enter(
        &self,
        directory: &mut Directory,
        (user, group, by): (&Name, &Name, JoinedBy),
        workers: &dyn Workers,
    ) -> Result<Position, Reject> {
        let address = Address::group(group);
        directory.check_room(user)?;
        let entry = directory.users.entry(user.clone()).or_default();
        let mut locked = self.lock(&address);
        let refused = if entry.groups.len() >= limits::GROUPS_PER_USER_MAX {
            Some(Reject::new(
                Code::TooManyGroups,
                format!("user {user} is in {} groups already", entry.groups.len()),
            ))
        } else if locked.shard.groups.get(group).is_some_and(|g| g.members.len() >= limits::GROUP_MEMBERS_MAX)
        {
            Some(Reject::new(
                Code::GroupFull,
                format!("group {group} has {} members", limits::GROUP_MEMBERS_MAX),
            ))
        } else if !locked.shard.groups.contains_key(group)
            && locked.shard.groups.len() >= limits::GROUPS_PER_SHARD_MAX
        {
            Some(Reject::new(Code::Overloaded, "the broker holds as many groups as it may"))
        } else if entry.sessions.iter().any(|e| !workers.has_room(e.session.worker)) {
            Some(overloaded())
        } else {
            None
        };
        if let Some(reject) = refused {
            drop(locked);
            directory.tidy(user);
            return Err(reject);
        }
        entry.groups.push(Membership { group: group.clone(), by });
        locked.shard.groups.entry(group.clone()).or_default().members.insert(user.clone());
        for SessionEntry { session, .. } in &entry.sessions {
            locked.shard.attach(&address, session);
            workers.notify(session.worker, change(session, &locked, (&address, Step::Attach)));
        }
        Ok(locked.last())
    }

    /// Ends a membership. Leaving a group one is not in is `not_found`.
    pub fn leave(&self, user: &Name, group: &Name, workers: &dyn Workers) -> Result<(), Reject> {
        self.end_membership((user, group), Step::Detach, workers)
    }

    /// Ends a membership for which the user has no right any more, as [`Self::leave`] does. One that is an operator's by now is
    /// not ended: `not_found`, as of one that has ended.
    pub fn forbid(&self, user: &Name, group: &Name, workers: &dyn Workers) -> Result<(), Reject> {
        self.end_membership((user, group), Step::Forbid, workers)
    }

    fn end_membership(
        &self,
        (user, group): (&Name, &Name),
        step: Step,
        workers: &dyn Workers,
    ) -> Result<(), Reject> {
        let address = Address::group(group);
        let mut directory = self.directory(user);
        let is_meant =
            |one: &Membership| one.group == *group && (step != Step::Forbid || one.by == JoinedBy::Member);
        let entry = directory.users.get_mut(user).filter(|entry| entry.groups.iter().any(is_meant));
        let Some(entry) = entry else {
            return Err(Reject::new(Code::NotFound, format!("user {user} is not in group {group}")));
        };
        if entry.sessions.iter().any(|e| !workers.has_room(e.session.worker)) {
            return Err(overloaded());
        }
        entry.groups.retain(|membership| membership.group != *group);
        let mut locked = self.lock(&address);
        for SessionEntry { session, .. } in &entry.sessions {
            locked.shard.detach(&address, session);
            workers.notify(session.worker, change(session, &locked, (&address, step)));
        }
        locked.shard.remove_member(group, user);
        drop(locked);
        directory.tidy(user);
        Ok(())
    }

    /// Makes an empty group; making one that exists is fine.
    pub fn create_group(&self, group: &Name) -> Result<(), Reject> {
        let mut locked = self.lock(&Address::group(group));
        if locked.shard.groups.len() >= limits::GROUPS_PER_SHARD_MAX
            && !locked.shard.groups.contains_key(group)
        {
            return Err(Reject::new(Code::Overloaded, "the broker holds as many groups as it may"));
        }
        locked.shard.groups.entry(group.clone()).or_default().is_kept = true;
        Ok(())
    }

    /// Ends all memberships of a group and the group. On an error some members may be left, and the call can
    /// be repeated.
    pub fn remove_group(&self, group: &Name, workers: &dyn Workers) -> Result<(), Reject> {
        let Some(members) = self.group_members(group) else {
            return Err(Reject::new(Code::NotFound, format!("there is no group {group}")));
        };
        for user in members {
            match self.leave(&user, group, workers) {
                Err(reject) if reject.code != Code::NotFound => return Err(reject),
                _ => {}
            }
        }
        let mut locked = self.lock(&Address::group(group));
        if locked.shard.groups.get(group).is_some_and(|entry| entry.members.is_empty()) {
            locked.shard.groups.remove(group);
        }
        Ok(())
    }

    /// The members of a group in order of name, `None` when there is no such group.
    pub fn group_members(&self, group: &Name) -> Option<Vec<Name>> {
        let locked = self.lock(&Address::group(group));
        Some(locked.shard.groups.get(group)?.members.iter().cloned().collect())
    }

    /// The members of a group, 0 when there is no such group.
    pub fn group_size(&self, group: &Name) -> usize {
        let locked = self.lock(&Address::group(group));
        locked.shard.groups.get(group).map_or(0, |entry| entry.members.len())
    }

    /// Whether a user has a session.
    pub fn is_online(&self, user: &Name) -> bool {
        self.directory(user).users.get(user).is_some_and(|entry| !entry.sessions.is_empty())
    }

    /// The sessions of one user.
    pub fn sessions_of(&self, user: &Name) -> Vec<Session> {
        let directory = self.directory(user);
        let sessions = directory.users.get(user).map(|entry| &entry.sessions);
        sessions.into_iter().flatten().map(|entry| entry.session.clone()).collect()
    }

    /// Whether a user is one of a session only, which the broker gave its name.
    pub fn is_generated(&self, user: &Name) -> bool {
        self.directory(user).users.get(user).is_some_and(|entry| entry.is_generated)
    }

    pub fn is_member(&self, user: &Name, group: &Name) -> bool {
        self.directory(user).users.get(user).is_some_and(|entry| entry.is_in(group))
    }

    /// The groups a user is in, in order of name.
    pub fn groups_of(&self, user: &Name) -> Vec<Name> {
        let mut groups = self.memberships(user, |_| true);
        groups.sort_unstable();
        groups
    }

    /// The groups a user is in by their own `join` alone.
    pub fn joined_by(&self, user: &Name) -> Vec<Name> {
        self.memberships(user, |membership| membership.by == JoinedBy::Member)
    }

    fn memberships(&self, user: &Name, is_wanted: impl Fn(&Membership) -> bool) -> Vec<Name> {
        let directory = self.directory(user);
        let groups = directory.users.get(user).map_or(&[][..], |user| &user.groups);
        groups.iter().filter(|one| is_wanted(one)).map(|one| one.group.clone()).collect()
    }

    /// All groups with their number of members, in order of name.
    pub fn groups(&self) -> Vec<(Name, usize)> {
        let mut groups = Vec::new();
        for shard in &self.shards {
            groups.extend(
                shard.lock().unwrap().groups.iter().map(|(name, entry)| (name.clone(), entry.members.len())),
            );
        }
        groups.sort_unstable();
        groups
    }

    /// All sessions, in order of id.
    pub fn sessions(&self) -> Vec<SessionEntry> {
        let mut sessions = Vec::new();
        for directory in &self.directory {
            let directory = directory.lock().unwrap();
            sessions.extend(directory.users.values().flat_map(|user| user.sessions.iter().cloned()));
        }
        sessions.sort_unstable_by_key(|entry| entry.session.id);
        sessions
    }

    pub fn session(&self, id: SessionId) -> Option<SessionEntry> {
        self.directory.iter().find_map(|directory| {
            let directory = directory.lock().unwrap();
            directory
                .users
                .values()
                .flat_map(|user| &user.sessions)
                .find(|entry| entry.session.id == id)
                .cloned()
        })
    }

    #[expect(clippy::indexing_slicing, reason = "indexes come from `index`, which masks to the shard count")]
    pub(super) fn directory(&self, user: &Name) -> MutexGuard<'_, Directory> {
        self.directory[self.index(user.as_str()) as usize].lock().unwrap()
    }

    /// Patterns with wildcards that somebody subscribes to.
    pub fn wildcard_count(&self) -> usize {
        self.wildcards.read().unwrap().len()
    }

    /// Addresses somebody listens to.
    pub fn audience_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().audiences.len()).sum()
    }
}

/// What an operator's wish changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The user was no member; the last position of the group before.
    New(Position),
    /// The user had joined.
    TakenOver,
}

/// Which sessions give way to one more, oldest first, or why there may not be one more. Sessions that were
/// replaced and are not closed yet count against a bound of their own.
fn admit<'a>(
    login: LoginPolicy,
    user: &Name,
    sessions: impl Iterator<Item = &'a Session> + Clone,
) -> Result<Vec<Session>, Reject> {
    let count = sessions.clone().count();
    let within = |count: u32| (count as usize).clamp(1, limits::SESSIONS_PER_USER_MAX);
    let (kept, most) = match login {
        LoginPolicy::Coexist => (limits::SESSIONS_PER_USER_MAX, limits::SESSIONS_PER_USER_MAX),
        LoginPolicy::Limit(count) => (within(count), within(count)),
        LoginPolicy::ReplaceOldest(count) => (within(count), within(count) + limits::SESSIONS_PER_USER_MAX),
    };
    if count >= most {
        let message = format!("user {user} has {count} sessions already");
        return Err(Reject::new(Code::TooManySessions, message));
    }
    let excess = (count + 1).saturating_sub(kept);
    Ok(sessions.take(excess).cloned().collect())
}

fn change(session: &Session, locked: &Locked<'_>, (address, step): (&Address, Step)) -> Change {
    Change { session: session.id, address: address.clone(), step, last: locked.last() }
}

const _: () = assert!(size_of::<Audience>() <= 128, "there is one per connected user");
