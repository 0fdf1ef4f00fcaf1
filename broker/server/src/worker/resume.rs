//! Resuming: a session whose connection was lost goes on in another one.
//!
//! The table (`crate::resumes`) knows what the session had; the client says how far it has read each stream. What was
//! stored behind that is read again per address, see [`Seen::start`]. What was not stored is missed where the registry's
//! [`Mark`] of an address or a pattern lies behind what the client has seen of the stream; what was missed before the
//! session's last `welcome` was said there, to the client that has the token which came with it. The session keeps its id when its old connection
//! has ended; one that is taken over from a connection that still seems to live gets a new one.
//!
//! Invariants: everything the session had is attached before it is judged whether something was missed, so what is
//! missed is missed on one side only: `recovered` may be false without a loss, never true with one. Records are
//! written to the journal by the sweep, one to two seconds after a change, so short sessions write nothing.

mod progress;
mod seen;
mod takeover;

pub(super) use seen::Seen;
pub(super) use takeover::{Asked, Takeover, Taker};

use super::Worker;
use super::catchup::Start;
use super::connection::{Connection, Stage};
use super::counters::Ended;
use crate::clock::Moment;
use crate::resumes::{self, ALIVE, Absence, Alive, Implied, Record, Subscribed, TokenHash};
use progress::{Progress, replays};
use std::sync::Arc;
use takeover::Approach;
use waspmq_core::registry::{self, Mark, SessionEntry};
use waspmq_core::session::{Subscribe, Subscription};
use waspmq_core::settings::Keep;
use waspmq_core::{Address, Kind, Name, Pattern, Position, Reject, SessionId};
use waspmq_protocol::client::Connect;
use waspmq_protocol::{From, Secret};
use waspmq_store::{ResumeRecord, Write};

/// How often it is written down that the broker is alive. After a crash, what was published since then to `all` and to
/// groups is sent again to users who acknowledge nothing.
const ALIVE_EVERY_US: u64 = 30_000_000;
/// Ids of which a session knows that they were its own. One that was taken over more often may be sent what it published
/// under the oldest although it left itself out.
const FORMER_MAX: usize = 64;

/// A token that may be taken.
pub(super) struct Claim {
    hash: TokenHash,
    /// The session that gave a generated name.
    pub(super) named_by: Option<SessionId>,
}

/// A session that goes on.
pub(super) struct Resumed {
    hash: TokenHash,
    record: Record,
    seen: Arc<Seen>,
    /// Until it has its subscriptions again.
    absence: Absence,
}

impl Resumed {
    /// The session's id, when nobody else has it.
    pub(super) fn id(&self) -> Option<SessionId> {
        self.record.left_unix_ms.is_some().then_some(self.record.session)
    }
}

impl Worker {
    /// Makes a session. Where [`Connection::awaits_holder`] says so then, not yet: `connect` is to be taken again.
    pub(super) fn connect(
        &mut self,
        connection: &mut Connection,
        connect: &Connect<'_>,
        now: Moment,
    ) -> Result<(), Reject> {
        let mut claim = self.look_up(connect, now);
        match self.approach(connection, claim.as_ref(), now) {
            Approach::Ready => {}
            Approach::Waits => return Ok(()),
            Approach::Silent => claim = None,
        }
        self.begin_session(connection, (connect, claim), now)
    }

    /// Looks for the session that `connect` wants to go on with.
    fn look_up(&self, connect: &Connect<'_>, now: Moment) -> Option<Claim> {
        let resume = connect.resume.as_ref().filter(|_| self.shared.resumes.is_on())?;
        let hash = resumes::hash(resume.token.expose());
        let peek = self.shared.resumes.peek(&hash, now.unix_ms)?;
        let named_by = peek.user.as_str().strip_prefix("anonymous-").filter(|_| peek.is_generated);
        Some(Claim { hash, named_by: named_by.and_then(|id| id.parse().ok()) })
    }

    /// Takes the session's record, if it is that of the user and device who ask.
    pub(super) fn take_claimed(
        &self,
        connect: &Connect<'_>,
        claim: &Claim,
        owner: (&Name, Option<&Name>),
        now: Moment,
    ) -> Option<Resumed> {
        let (record, absence) =
            self.shared.resumes.take(&claim.hash, owner, (now.unix_ms, &self.shared.journal))?;
        let positions = connect.resume.as_ref().map(|resume| &*resume.positions).unwrap_or_default();
        let seen = Arc::new(Seen::new(&record, positions));
        Some(Resumed { hash: claim.hash, record, seen, absence })
    }

    /// Makes a session known, in the place of the one that it takes over.
    pub(super) fn register(
        &self,
        entry: SessionEntry,
        resumed: Option<Resumed>,
        now: Moment,
    ) -> Result<(registry::Connected, Option<Resumed>), Reject> {
        let (registry, mailboxes) = (&self.shared.registry, &*self.shared.mailboxes);
        let old = resumed.as_ref().filter(|resumed| resumed.id().is_none()).map(|resumed| {
            let Record { session, worker, user, device, .. } = &resumed.record;
            registry::Session { id: *session, worker: *worker, user: user.clone(), device: device.clone() }
        });
        let connected = match &old {
            Some(old) => registry.take_over(entry, old, mailboxes),
            None => registry.connect(entry, mailboxes),
        };
        match connected {
            Ok(connected) => {
                self.close_replaced(old.as_slice());
                Ok((connected, resumed))
            }
            Err(reject) => {
                if let Some(Resumed { hash, record, absence, .. }) = resumed {
                    self.shared.resumes.insert(hash, record, now.unix_ms);
                    drop(absence);
                    self.shared.resumes.save(&hash, now.unix_ms, &self.shared.journal);
                }
                Err(reject)
            }
        }
    }

    /// The last position of an address before the session had it, of what the registry gave.
    pub(super) fn end_before(&self, to: &Address, before: &[(Address, Position)]) -> Position {
        let known = before.iter().find(|(address, _)| address == to);
        known.map_or_else(|| self.end_of(to), |(_, end)| *end)
    }

    pub(super) fn end_of(&self, to: &Address) -> Position {
        self.shared.registry.stream_end(self.shared.registry.shard_of(to))
    }

    /// Gives the session a token. Without room, or when sessions cannot be resumed, there is none.
    pub(super) fn issue_token(
        &mut self,
        connection: &mut Connection,
        before: &[(Address, Position)],
        now: Moment,
    ) -> Option<Secret<'static>> {
        let identity = connection.session.identity().filter(|_| self.shared.resumes.is_on())?;
        let token = resumes::new_token()?;
        let hash = resumes::hash(&token);
        let record = Record {
            session: identity.id,
            former: Vec::new(),
            worker: self.number,
            user: identity.user.clone(),
            device: identity.device.clone(),
            is_generated: connection.access.is_unnamed(),
            subscriptions: Vec::new(),
            implied: before.iter().map(|(to, last)| Implied::new(to.clone(), *last)).collect(),
            watched: Vec::new(),
            replays: Vec::new(),
            window: Vec::new(),
            cursors: None,
            has_cursors: false,
            left_unix_ms: None,
            has_missed: false,
            is_saved: false,
        };
        if !self.shared.resumes.insert(hash, record, now.unix_ms) {
            return None;
        }
        connection.resume_hash = Some(hash);
        self.mark_unsaved(connection);
        let token = Secret::new(token);
        if let Some(events) = connection.events() {
            events.set_token(token.clone());
        }
        Some(token)
    }

    /// Gives a session back what it had. Says whether nothing was missed, and what it may not have any more; whom it
    /// watched is for [`Self::restore_watches`].
    pub(super) fn restore(
        &mut self,
        connection: &mut Connection,
        resumed: &mut Resumed,
        before: &[(Address, Position)],
    ) -> (bool, Vec<Reject>) {
        let (seen, record) = (resumed.seen.clone(), &mut resumed.record);
        connection.window.go_on(std::mem::take(&mut record.window));
        if let Some(cursors) = record.cursors.take() {
            connection.cursors = *cursors;
        }
        let mut former = std::mem::take(&mut record.former);
        former.extend(record.left_unix_ms.is_none().then_some(record.session));
        former.drain(..former.len().saturating_sub(FORMER_MAX));
        connection.former.clone_from(&former);
        let mut refused = Vec::new();
        for Subscribed { subscription, since, .. } in &record.subscriptions {
            let since = since.iter().map(|since| seen.later(*since)).collect();
            if let Err(reject) = self.resubscribe(connection, subscription, since) {
                let pattern = &subscription.pattern;
                let message =
                    format!("the subscription to {pattern} ended with a resume: {}", reject.message);
                refused.push(Reject { message, ..reject });
            }
        }
        refused.extend(Self::ended_memberships(connection, record));
        self.note(connection, |record| {
            record.former = former;
            for Implied { to, since, .. } in &mut record.implied {
                *since = seen.upto(to, since.stream.shard).unwrap_or(*since);
            }
        });
        let is_complete = refused.is_empty() && self.is_recovered(record, &seen);
        self.read_missed(connection, &seen, before);
        (is_complete, refused)
    }

    /// Whether the session may read what was published to an address before it had it.
    pub(super) fn may_go_back(&self, connection: &Connection, to: &Address) -> bool {
        let user = connection.session.identity().map(|identity| &identity.user);
        user.is_some_and(|user| self.may_read(connection, user, to).is_ok())
    }

    fn resubscribe(
        &mut self,
        connection: &mut Connection,
        wanted: &Subscription,
        since: Arc<[Position]>,
    ) -> Result<(), Reject> {
        Self::check_subscribe(connection, wanted)?;
        if connection.session.handle_subscribe(wanted, |_| false)? == Subscribe::New {
            self.add_subscription(connection, wanted.clone(), (Some(since), From::Now))?;
        }
        Ok(())
    }

    /// Whether nothing was published unstored in what the session had, behind what its client has seen.
    fn is_recovered(&self, record: &Record, seen: &Seen) -> bool {
        let registry = &self.shared.registry;
        let unclear = seen.unclear_shards(|to| registry.shard_of(to));
        let is_seen = |told: Position, mark: Mark, has_queue: bool| {
            let is_clear = unclear & (1 << (told.stream.shard % 64)) == 0;
            let upto = if is_clear { seen.later(told) } else { told };
            // What went to a queue meanwhile went to others.
            let lost_upto = if has_queue { mark.last() } else { mark.unstored_upto(record.session) };
            upto.stream.epoch == registry.epoch() && lost_upto <= upto.offset
        };
        let is_kept = |address: &Address| self.shared.rules.of(address).keep == Keep::Always;
        let has_all = |Subscribed { subscription, told, number, .. }: &Subscribed| {
            let has_queue = subscription.queue.is_some();
            if let Some(to) = subscription.pattern.to_address() {
                let is_kept = !has_queue && is_kept(&to);
                return is_kept || told.iter().all(|told| is_seen(*told, registry.mark_of(&to), has_queue));
            }
            let number = number.filter(|number| registry.number_of(&subscription.pattern) == Some(*number));
            told.iter().all(|told| is_seen(*told, registry.mark_in(told.stream.shard, number), has_queue))
        };
        let has_implied =
            |Implied { to, told, .. }: &Implied| is_kept(to) || is_seen(*told, registry.mark_of(to), false);
        !record.has_missed
            && record.implied.iter().all(has_implied)
            && record.subscriptions.iter().all(has_all)
    }

    /// Begins to read what was stored and not seen.
    fn read_missed(&mut self, connection: &mut Connection, seen: &Arc<Seen>, before: &[(Address, Position)]) {
        let Some(identity) = connection.session.identity().cloned() else { return };
        let own = Address::user(&identity.user);
        let subscriptions = connection.session.subscriptions().iter();
        let plain = subscriptions.filter(|subscription| subscription.queue.is_none());
        let patterns: Vec<_> = plain.map(|subscription| subscription.pattern.clone()).collect();
        let topics = patterns.iter().filter_map(Pattern::to_address);
        let addresses: Vec<_> = [own.clone(), Address::all()]
            .into_iter()
            .chain(connection.groups.clone())
            .chain(topics)
            .collect();
        let has_wildcards = patterns.iter().any(Pattern::is_wildcard);
        for to in addresses {
            if has_wildcards && to.kind() == Kind::Topic {
                connection.catching.note_resumed(&to);
            }
            let shard = self.shared.registry.shard_of(&to);
            let may_go_back = self.may_go_back(connection, &to);
            let (start, is_ordered) = seen.start(&to, shard, may_go_back).unwrap_or_else(|| {
                let (user, device) = (identity.user.clone(), identity.device.clone());
                let is_own = to == own;
                (
                    if is_own {
                        Start::Cursor { user, device }
                    } else {
                        Start::CursorOrSeen { user, device, before: self.end_before(&to, before) }
                    },
                    false,
                )
            });
            if !is_ordered {
                connection.catching.note_passed(shard);
            }
            let is_at_end = matches!(start, Start::After(upto) if upto == self.end_of(&to));
            if !is_at_end && self.shared.kept.may_have(&to) {
                self.catch_up_resumed(connection, &to, start);
            }
        }
        for pattern in patterns.iter().filter(|pattern| pattern.is_wildcard()) {
            self.catch_up_pattern(connection, pattern, Start::Seen(seen.clone()));
        }
        connection.catching.tidy_resumed();
    }

    /// The session watches again whom it watched, and is told of them.
    pub(super) fn restore_watches(&mut self, connection: &mut Connection, resumed: Resumed) {
        for reject in self.watch_again(connection, resumed.record.watched) {
            self.refuse(connection, None, reject);
        }
    }

    /// What the session has changed: its record follows.
    pub(super) fn note(&mut self, connection: &mut Connection, change: impl FnOnce(&mut Record)) {
        if let Some(hash) = &connection.resume_hash {
            self.shared.resumes.change(hash, &self.shared.journal, change);
            self.mark_unsaved(connection);
        }
    }

    /// A membership of the session's user began or ended, behind this position of the group.
    pub(super) fn note_group(
        &mut self,
        connection: &mut Connection,
        group: &Address,
        (is_member, last): (bool, Position),
    ) {
        self.note(connection, |record| {
            record.implied.retain(|implied| implied.to != *group);
            if is_member {
                record.implied.push(Implied::new(group.clone(), last));
            }
        });
    }

    /// The session's record is written down anew, with what it reads then.
    pub(super) fn mark_unsaved(&mut self, connection: &mut Connection) {
        if !connection.is_unsaved {
            connection.is_unsaved = true;
            self.unsaved.push(connection.number);
        }
    }

    /// Once a second: writes the records that had changed by the call before. What the journal has no room for is written
    /// by a later one.
    pub(super) fn save_resumes(&mut self) {
        let now = self.shared.clock.now();
        let due = std::mem::replace(&mut self.unsaved_before, std::mem::take(&mut self.unsaved));
        for number in due {
            let slot = self.connections.get_mut(number as usize);
            let Some(mut connection) = slot.and_then(Option::take) else { continue };
            if std::mem::take(&mut connection.is_unsaved) {
                self.save_session(&mut connection, now.unix_ms);
            }
            self.put_back(number, connection);
        }
        let has_sessions = self.shared.mailboxes.iter().any(|mailbox| mailbox.counters.sessions.load() > 0);
        if self.number == 0 && has_sessions && now.us >= self.alive_due_us {
            self.alive_due_us = now.us + ALIVE_EVERY_US;
            let body = serde_json::to_vec(&Alive { unix_ms: now.unix_ms }).unwrap_or_default();
            let alive = ResumeRecord { token_hash: ALIVE, expires_unix_ms: u64::MAX, body };
            if self.shared.journal.push(Write::Resume(alive), None).is_err() {
                tracing::debug!("the journal has no room to write that the broker is alive");
            }
        }
    }

    /// Writes down what is to be written of a session, or leaves it to a later sweep.
    fn save_session(&mut self, connection: &mut Connection, now_unix_ms: u64) {
        if let Some(unix_ms) = connection.first_seen_unix_ms.take() {
            self.save_first_seen(connection, unix_ms);
        }
        let Some(hash) = &connection.resume_hash else { return };
        let (replays, _) = replays(connection);
        self.shared.resumes.update(hash, |record| record.replays = replays);
        if !self.shared.resumes.save(hash, now_unix_ms, &self.shared.journal) {
            self.mark_unsaved(connection);
        }
    }

    /// The session's end begins. Until this is dropped it counts as one that reads later, if it can be resumed.
    pub(super) fn depart(&self, connection: &Connection) -> Option<Absence> {
        let hash = connection.resume_hash.as_ref().filter(|_| !is_over(connection))?;
        self.shared.resumes.depart(hash)
    }

    /// The session ends with its connection: it can be resumed, unless it was its client or an operator who ended it.
    pub(super) fn leave(&mut self, connection: &mut Connection) {
        let Some(hash) = connection.resume_hash.take() else { return };
        let (resumes, journal) = (&self.shared.resumes, &self.shared.journal);
        if is_over(connection) {
            return resumes.remove(&hash, journal);
        }
        let progress = Progress::of(connection);
        let now_unix_ms = self.shared.clock.now().unix_ms;
        resumes.leave(&hash, (now_unix_ms, journal), |record| progress.write(record));
    }

    /// When the peer of a connection that ends was there last: now, or when it was heard last if it went silent.
    pub(super) fn heard_unix_ms(&self, connection: &Connection) -> u64 {
        let now = self.shared.clock.now();
        let is_silent = matches!(connection.stage, Stage::Closing { reason: Ended::Timeout, .. });
        let silent_us = if is_silent { now.us.saturating_sub(connection.heard_us) } else { 0 };
        // What keeps a connection of QUIC alive is not seen here: it was there until its time ran out, at the most.
        let most_us = 2_000 * u64::from(self.shared.settings.heartbeat_ms);
        let silent_us = if connection.link.is_quic() { silent_us.min(most_us) } else { silent_us };
        now.unix_ms.saturating_sub(silent_us / 1_000)
    }

    /// Notes that a user whose first session began has been there: after a crash nothing else may say so. What the journal has
    /// no room for is written by a later sweep.
    pub(super) fn save_first_seen(&mut self, connection: &mut Connection, unix_ms: u64) {
        let Some(user) = connection.session.identity().map(|identity| identity.user.clone()) else { return };
        if self.shared.journal.push(Write::FirstSeen { user, unix_ms }, None).is_err() {
            connection.first_seen_unix_ms = Some(unix_ms);
            self.mark_unsaved(connection);
        }
    }

    /// Notes when a user whose last session ended was there last.
    pub(super) fn save_last_seen(&self, connection: &Connection, user: &Name, unix_ms: u64) {
        // One that was still reading what it had missed before keeps the earlier time.
        if self.shared.registry.presence(user).online || connection.catching.reads_since_seen() {
            return;
        }
        let write = Write::LastSeen { user: user.clone(), unix_ms };
        if self.shared.journal.push(write, None).is_err() {
            tracing::debug!(%user, "the journal has no room for when a user was seen last");
        }
    }
}

/// Whether nobody may go on with a session that ends: its client or an operator ended it.
const fn is_over(connection: &Connection) -> bool {
    connection.is_disconnected
        || matches!(connection.stage, Stage::Closing { reason: Ended::Kicked | Ended::Protocol, .. })
}

#[cfg(test)]
pub(super) mod tests;
