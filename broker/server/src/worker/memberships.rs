//! Changes of membership on their way to the journal.
//!
//! A client's own change is refused while the journal has no room, or is known to write nothing; what the broker ends by itself waits here. Invariants:
//! changes are written in their order, and only while the registry says the same: workers do not know of each other's. Not
//! here: who is a member, which the registry knows.

use super::Worker;
use super::connection::Connection;
use super::enqueue::journal_full;
use super::storage_error;
use crate::resumes::Record;
use waspmq_core::access::Action;
use waspmq_core::registry::JoinedBy;
use waspmq_core::{Address, Code, Kind, Name, Position, Reject};
use waspmq_store::Write;

/// Changes of membership that wait for room in the journal, which are those that are not refused: who may no longer join
/// leaves. More: lost at the next start, with an error in the log.
const MEMBERSHIPS_UNSAVED_MAX: usize = 65_536;

impl Worker {
    /// Refuses a change that could not be written down.
    pub(super) fn check_journal(&self) -> Result<(), Reject> {
        self.shared.journal.check().map_err(|error| storage_error(&error))?;
        if self.shared.journal.has_room() { Ok(()) } else { Err(journal_full()) }
    }

    /// A member of a group, as the store is to know it. What the journal has no room for is written by a later tick.
    pub(super) fn save_membership(&mut self, user: &Name, group: &Name, since: Option<Position>) {
        let (group, user) = (group.clone(), user.clone());
        self.memberships.push_back(match since {
            Some(since) => Write::Member { group, user, since, by: JoinedBy::Member },
            None => Write::NoMember { group, user },
        });
        self.save_memberships();
        if self.memberships.len() > MEMBERSHIPS_UNSAVED_MAX && self.memberships.pop_back().is_some() {
            tracing::error!(
                "the journal has no room for a change of membership; the next start does not know it"
            );
        }
    }

    /// Writes changes of membership down, in their order, as far as the journal has room. One that is not so any more was
    /// changed again on another worker, which writes that. Gives whether none waits.
    pub(super) fn save_memberships(&mut self) -> bool {
        while self.shared.journal.has_room()
            && let Some(write) = self.memberships.front()
        {
            if self.is_as_registered(write) && self.shared.journal.push(write.clone(), None).is_err() {
                break;
            }
            self.memberships.pop_front();
        }
        self.memberships.is_empty()
    }

    /// Ends the memberships of generated names that nobody comes back under. One worker does it for all.
    pub(super) fn end_generated(&self) {
        if self.number == 0 {
            for user in self.shared.resumes.take_ended(self.shared.clock.now().unix_ms) {
                self.shared.registry.end_generated(&user);
            }
        }
    }

    /// Groups that the session's user was in and is not in any more, each with why. Whoever ended it told the sessions that were there.
    pub(super) fn ended_memberships(connection: &Connection, record: &Record) -> Vec<Reject> {
        let groups = record.implied.iter().map(|implied| &implied.to).filter(|to| to.kind() == Kind::Group);
        let ended = groups.filter(|group| !connection.groups.contains(group));
        let told = |group: &Address| match Self::access_check(connection, Action::Join, group) {
            Ok(()) => {
                let message = format!("the membership of {group} ended while the session was away");
                Reject::new(Code::NotFound, message)
            }
            Err(reject) => {
                let message = format!("the membership of {group} ended: it is no longer allowed");
                Reject { message, ..reject }
            }
        };
        ended.map(told).collect()
    }

    fn is_as_registered(&self, write: &Write) -> bool {
        let is_member = |user: &Name, group: &Name| self.shared.registry.is_member(user, group);
        match write {
            Write::Member { group, user, .. } => is_member(user, group),
            Write::NoMember { group, user } => !is_member(user, group),
            _ => true,
        }
    }
}
