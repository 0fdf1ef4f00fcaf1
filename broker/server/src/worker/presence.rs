//! Presence for clients: the answer to `presence`, lists of watched users, and what watchers are told.
//!
//! A change reaches a worker once, however many of its sessions watch the user, is encoded once per profile, and
//! goes to those sessions. A session is told of a user in ascending order, and never of a state older than one it
//! has been told.
//!
//! *Full queues.* A change is left out for a connection that owes much, and for a whole worker whose mailbox is
//! full. Both catch up at the next sweep: each user is told whose state is a newer one, the changes in between
//! are not. So a watcher may miss that somebody was away for a moment, but not where they are now.
//!
//! Not here: who is online, which the registry knows, and times of earlier runs.

use super::Worker;
use super::catchup::{busy, hand_over};
use super::connection::Connection;
use super::control::encode;
use super::history::storage;
use super::inbound::name;
use super::mailbox::Entry;
use super::recipients::Listeners;
use super::segment::Encoding;
use hashbrown::HashMap;
use indexmap::IndexSet;
use std::borrow::Cow;
use std::collections::VecDeque;
use waspmq_core::access::Action;
use waspmq_core::registry::{Presence, PresenceChange};
use waspmq_core::{Address, Code, Kind, Name, Reject, SessionId, limits};
use waspmq_protocol::limits::PRESENCE_USERS_MAX;
use waspmq_protocol::server;
use waspmq_store::{Full, Store, StoreError};

type Names = IndexSet<Name, foldhash::fast::RandomState>;

/// Users looked at in one sweep for watchers that are behind; the others stay behind until the next one.
const CATCH_UP_USERS: usize = 10_000;

/// What one session watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    users: HashMap<Name, Told, foldhash::fast::RandomState>,
    /// Whether changes were left out, and the connection is on the worker's list of those that catch up.
    is_behind: bool,
}

/// Users and where they are, for a session that asked or that watches them, on the way by the store.
#[derive(Debug, Clone)]
pub(crate) struct PresenceOf {
    asker: SessionId,
    /// What is answered; `None` of those that the session watches.
    question: Option<Question>,
    users: Vec<(Name, Presence)>,
    /// Why the store did not say when a user was seen last.
    unread: Option<StoreError>,
}

/// Who is there was asked.
#[derive(Debug, Clone)]
struct Question {
    reference: Option<u64>,
    of: Address,
    more: bool,
}

impl PresenceOf {
    /// Whether nobody but the store knows when some of them were there last.
    fn has_unknown(&self) -> bool {
        self.users.iter().any(|(_, presence)| !presence.is_known)
    }

    /// Fills in when those were there last of whom only the store knows. One that cannot be read has not been nowhere.
    fn read(&mut self, last_seen: impl Fn(&Name) -> Result<Option<u64>, StoreError>) {
        for (user, presence) in self.users.iter_mut().filter(|(_, presence)| !presence.is_known) {
            match last_seen(user) {
                Ok(unix_ms) => presence.last_seen_unix_ms = unix_ms,
                Err(error) => {
                    self.unread = Some(error);
                    return;
                }
            }
        }
    }
}

impl Question {
    fn answer(self, users: Vec<(Name, Presence)>) -> server::Frame {
        let shown = |(user, presence): (Name, Presence)| server::UserPresence {
            user: user.to_string(),
            online: presence.online,
            sessions: presence.sessions,
            last_seen_unix_ms: presence.last_seen_unix_ms,
            seq: presence.seq,
        };
        let users = users.into_iter().map(shown).collect();
        let Self { reference, of, more } = self;
        server::Frame::Presence(server::Presence { reference, of: of.to_string(), users, more })
    }
}

/// The state of a user that a session was told last.
#[derive(Debug, Clone, Copy)]
struct Told {
    seq: u64,
    online: bool,
}

impl Told {
    /// Whether the state is worth telling. Of a user that nothing is known of the number says nothing.
    const fn is_outdated_by(self, presence: &Presence) -> bool {
        presence.seq > self.seq && (presence.is_known || self.online)
    }
}

/// Who watches whom on one worker.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    of: HashMap<Name, Listeners, foldhash::fast::RandomState>,
    /// Connections whose watches are behind.
    behind: VecDeque<u32>,
    /// Changes that the mailbox had no room for, as far as the watchers were set behind for them.
    lost: u64,
}

impl Watchers {
    fn add(&mut self, user: &Name, connection: u32) {
        self.of.entry_ref(user).or_default().insert(connection);
    }

    fn remove(&mut self, user: &Name, connection: u32) {
        if let Some(listeners) = self.of.get_mut(user) {
            listeners.swap_remove(&connection);
            if listeners.is_empty() {
                self.of.remove(user);
            }
        }
    }
}

fn set_behind(connection: &mut Connection, behind: &mut VecDeque<u32>) {
    if !connection.watches.is_behind {
        connection.watches.is_behind = true;
        behind.push_back(connection.number);
    }
}

impl Worker {
    /// Answers who of a group is online, behind a name, or whether one user is.
    pub(super) fn answer_presence(
        &mut self,
        connection: &mut Connection,
        reference: Option<u64>,
        (of, after): (&str, Option<&str>),
    ) -> Result<(), Reject> {
        let address = Address::parse(of)?;
        let after = after.map(name).transpose()?;
        let Some(asker) = connection.asker else { return Ok(()) };
        self.may_see_presence(connection, &address)?;
        let name = name(address.name())?;
        let registry = &self.shared.registry;
        let (users, more) = if address.kind() == Kind::User {
            if after.is_some() {
                let message = "`after` is for the members of a group";
                return Err(Reject::new(Code::InvalidFrame, message));
            }
            let presence = registry.presence(&name);
            (vec![(name, presence)], false)
        } else {
            let page = registry.group_presence(&name, after.as_ref(), PRESENCE_USERS_MAX);
            let page = page.ok_or_else(|| Reject::new(Code::NotFound, format!("there is no {address}")))?;
            (page.users, page.more)
        };
        let question = Question { reference, of: address, more };
        let presence = PresenceOf { asker, question: Some(question), users, unread: None };
        if presence.has_unknown() {
            return self.read_presence(presence).map_err(|_| busy());
        }
        self.tell_presence(connection, presence);
        Ok(())
    }

    /// Asks the store of those of whom only it knows.
    fn read_presence(&self, mut presence: PresenceOf) -> Result<(), Full> {
        let (mailboxes, worker) = (self.shared.mailboxes.clone(), self.number);
        let read = move |store: &dyn Store| {
            presence.read(|user| store.last_seen(user));
            hand_over(&mailboxes, worker, Entry::PresenceOf(Box::new(presence)));
        };
        self.shared.journal.read(Box::new(read))
    }

    pub(super) fn handle_presence_of(&mut self, presence: PresenceOf) {
        self.with_asker(presence.asker, |worker, connection| worker.tell_presence(connection, presence));
    }

    fn tell_presence(&mut self, connection: &mut Connection, presence: PresenceOf) {
        let PresenceOf { question, users, unread, .. } = presence;
        match (question, unread) {
            (Some(question), Some(error)) => self.refuse(connection, question.reference, storage(&error)),
            (Some(question), None) => self.send(connection, &question.answer(users)),
            (None, _) => {
                for (user, presence) in users {
                    // A change that came meanwhile was told, and the session may watch others by now.
                    let told = connection.watches.users.get(&user);
                    if told.is_some_and(|told| told.seq == presence.seq) {
                        self.control.push(connection.encoding, &state(&user, &presence));
                    }
                }
                self.send_control(connection);
            }
        }
    }

    /// Replaces what the session watches, or leaves it as it is when the list is refused. The answer is followed
    /// by the state of each watched user, in the order of the list, unless a change of it was told before.
    pub(super) fn watch(
        &mut self,
        connection: &mut Connection,
        reference: Option<u64>,
        users: &[Cow<'_, str>],
    ) -> Result<(), Reject> {
        let wanted = users.iter().map(|user| name(user)).collect::<Result<Names, _>>()?;
        let wanted = self.replace_watches(connection, wanted)?;
        self.send(connection, &server::Frame::Ok { reference });
        self.tell_watched(connection, wanted);
        Ok(())
    }

    /// Watches for a session that is resumed, which is told of the present states. Gives why it does not watch the others.
    pub(super) fn watch_again(&mut self, connection: &mut Connection, users: Vec<Name>) -> Vec<Reject> {
        let (mut wanted, mut refused) = (Names::default(), Vec::new());
        if users.is_empty() {
            return refused;
        }
        for user in users {
            match self.watch_one(connection, &user) {
                Ok(()) => _ = wanted.insert(user),
                Err(reject) => {
                    let message = format!("the watch of user/{user} ended with a resume: {}", reject.message);
                    refused.push(Reject { message, ..reject });
                }
            }
        }
        let watched: Vec<Name> = wanted.iter().cloned().collect();
        self.note(connection, |record| record.watched = watched);
        self.tell_watched(connection, wanted);
        refused
    }

    fn watch_one(&mut self, connection: &Connection, user: &Name) -> Result<(), Reject> {
        self.may_see_presence(connection, &Address::user(user))?;
        self.shared.registry.watch(self.number, std::slice::from_ref(user))?;
        self.watchers.add(user, connection.number);
        Ok(())
    }

    fn replace_watches(&mut self, connection: &mut Connection, wanted: Names) -> Result<Names, Reject> {
        if connection.session.identity().is_none() {
            return Ok(Names::default());
        }
        if wanted.len() > limits::WATCHED_PER_SESSION_MAX {
            let message = format!("a session may watch {} users", limits::WATCHED_PER_SESSION_MAX);
            return Err(Reject::new(Code::TooManyWatched, message));
        }
        for user in &wanted {
            self.may_see_presence(connection, &Address::user(user))?;
        }
        let registry = &self.shared.registry;
        let watched = &connection.watches.users;
        let added: Vec<Name> = wanted.iter().filter(|user| !watched.contains_key(*user)).cloned().collect();
        registry.watch(self.number, &added)?;
        let removed: Vec<Name> = watched.keys().filter(|user| !wanted.contains(*user)).cloned().collect();
        registry.unwatch(self.number, &removed);
        for user in &added {
            self.watchers.add(user, connection.number);
        }
        for user in &removed {
            self.watchers.remove(user, connection.number);
            connection.watches.users.remove(user);
        }
        let watched: Vec<Name> = wanted.iter().cloned().collect();
        self.note(connection, |record| record.watched = watched);
        Ok(wanted)
    }

    fn tell_watched(&mut self, connection: &mut Connection, wanted: Names) {
        let registry = &self.shared.registry;
        let states = wanted.into_iter().map(|user| {
            let presence = registry.presence(&user);
            (user, presence)
        });
        self.tell_states(connection, states.collect());
    }

    /// Tells where users are whom the session watches, when the store has said of them what only it knows. Where it does not, the
    /// time is left out.
    fn tell_states(&mut self, connection: &mut Connection, users: Vec<(Name, Presence)>) {
        let Some(asker) = connection.asker.filter(|_| !users.is_empty()) else { return };
        for (user, presence) in &users {
            let told = Told { seq: presence.seq, online: presence.online };
            connection.watches.users.insert(user.clone(), told);
        }
        let presence = PresenceOf { asker, question: None, users, unread: None };
        if !presence.has_unknown() || self.read_presence(presence.clone()).is_err() {
            self.tell_presence(connection, presence);
        }
    }

    /// Ends the watches that the session's rights do not hold any more; gives their users.
    pub(super) fn end_forbidden_watches(&mut self, connection: &mut Connection) -> Vec<Name> {
        let rights = &connection.access.rights;
        let is_forbidden = |user: &&Name| !rights.allows(Action::Presence, &Address::user(user));
        let ended: Vec<Name> = connection.watches.users.keys().filter(is_forbidden).cloned().collect();
        self.shared.registry.unwatch(self.number, &ended);
        for user in &ended {
            self.watchers.remove(user, connection.number);
            connection.watches.users.remove(user);
        }
        if !ended.is_empty() {
            self.note(connection, |record| record.watched.retain(|user| !ended.contains(user)));
        }
        ended
    }

    /// Forgets what a session watches.
    pub(super) fn end_watches(&mut self, connection: &mut Connection) {
        let watches = std::mem::take(&mut connection.watches);
        self.shared.registry.unwatch(self.number, watches.users.keys());
        for user in watches.users.keys() {
            self.watchers.remove(user, connection.number);
        }
    }

    /// Tells those who watch the user; gives the bytes queued.
    pub(super) fn tell_watchers(&mut self, change: &PresenceChange) -> usize {
        let Self { watchers: Watchers { of, behind, .. }, connections, outbox, .. } = self;
        let Some(listeners) = of.get(&change.user) else { return 0 };
        let frame = server::Frame::PresenceChange(server::PresenceChange {
            user: change.user.to_string(),
            online: change.online,
            last_seen_unix_ms: change.last_seen_unix_ms,
            seq: change.seq,
        });
        let mut encoded: [Vec<u8>; Encoding::CONTROL_COUNT] = Default::default();
        let (mut bytes, mut told_count, mut deferred) = (0, 0, 0);
        for &number in listeners {
            let Some(connection) = connections.get_mut(number as usize).and_then(Option::as_mut) else {
                continue;
            };
            if outbox.is_full() || connection.out.owes_much() {
                set_behind(connection, behind);
                deferred += 1;
                continue;
            }
            let Some(told) = connection.watches.users.get_mut(&change.user) else { continue };
            if told.seq >= change.seq {
                continue;
            }
            *told = Told { seq: change.seq, online: change.online };
            let Some(bytes_of) = encoded.get_mut(connection.encoding.control_index()) else { continue };
            if bytes_of.is_empty() {
                encode(connection.encoding, &frame, bytes_of);
            }
            outbox.push_own(connection, bytes_of);
            bytes += bytes_of.len();
            told_count += 1;
        }
        let counters = self.counters();
        counters.presence_told.add(told_count);
        counters.presence_deferred.add(deferred);
        bytes
    }

    /// Once a second: tells watchers that are behind what they missed, as far as it still holds.
    pub(super) fn catch_up_watchers(&mut self) {
        let lost = self.shared.mailboxes.of(self.number).presence_lost();
        if lost != self.watchers.lost {
            self.watchers.lost = lost;
            for (_, connection) in &mut self.connections {
                if let Some(connection) = connection.as_mut().filter(|c| !c.watches.users.is_empty()) {
                    set_behind(connection, &mut self.watchers.behind);
                }
            }
        }
        let mut left = CATCH_UP_USERS;
        for _ in 0..self.watchers.behind.len() {
            if left == 0 {
                return;
            }
            let Some(number) = self.watchers.behind.pop_front() else { return };
            let slot = self.connections.get_mut(number as usize);
            let Some(mut connection) = slot.and_then(Option::take) else { continue };
            if connection.watches.is_behind {
                connection.watches.is_behind = false;
                if self.outbox.is_full() || connection.out.owes_much() {
                    set_behind(&mut connection, &mut self.watchers.behind);
                } else {
                    left = left.saturating_sub(connection.watches.users.len());
                    self.catch_up_watches(&mut connection);
                }
            }
            self.put_back(number, connection);
        }
    }

    fn catch_up_watches(&mut self, connection: &mut Connection) {
        let registry = &self.shared.registry;
        let now = connection.watches.users.iter().map(|(user, told)| (user, told, registry.presence(user)));
        let outdated: Vec<_> = now
            .filter(|(_, told, presence)| told.is_outdated_by(presence))
            .map(|(user, _, presence)| (user.clone(), presence))
            .collect();
        self.counters().presence_told.add(outdated.len() as u64);
        self.tell_states(connection, outdated);
    }

    /// Whether a session may know of the presence of a user or of a group's members: of any user, and of the
    /// groups its own user is in.
    /// Both as far as rules allow it.
    fn may_see_presence(&self, connection: &Connection, of: &Address) -> Result<(), Reject> {
        Self::access_check(connection, Action::Presence, of)?;
        let is_member = |group: &Name| {
            let identity = connection.session.identity();
            identity.is_some_and(|identity| self.shared.registry.is_member(&identity.user, group))
        };
        match of.kind() {
            Kind::User => Ok(()),
            Kind::Group if is_member(&name(of.name())?) => Ok(()),
            Kind::Group => Err(Reject::new(Code::Forbidden, "not a member of this group")),
            Kind::Topic | Kind::All => {
                Err(Reject::new(Code::InvalidAddress, "presence is that of a user or of a group"))
            }
        }
    }
}

/// What a watcher is told without a change.
fn state(user: &Name, presence: &Presence) -> server::Frame {
    server::Frame::PresenceChange(server::PresenceChange {
        user: user.to_string(),
        online: presence.online,
        last_seen_unix_ms: presence.last_seen_unix_ms,
        seq: presence.seq,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_read_was_not_never_there() {
        let of =
            |is_known| Presence { online: false, sessions: 0, last_seen_unix_ms: None, seq: 0, is_known };
        let user = |text| Name::parse(text).unwrap();
        let mut presence = PresenceOf {
            asker: SessionId::new(1, 0, 1),
            question: None,
            users: vec![(user("a"), of(false)), (user("b"), of(true))],
            unread: None,
        };
        presence.read(|_| Ok(Some(5)));
        let seen: Vec<_> = presence.users.iter().map(|(_, presence)| presence.last_seen_unix_ms).collect();
        assert_eq!((seen, presence.unread.is_none()), (vec![Some(5), None], true));
        let shut = StoreError::Unavailable { reason: "shut".into() };
        presence.read(|_| Err(shut.clone()));
        assert_eq!(presence.unread, Some(shut));
    }
}
