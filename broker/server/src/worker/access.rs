//! What sessions of this worker may do: tokens at `connect` and `refresh`, rights at each request, and the end of
//! both while the session lives.
//!
//! A task calls [`Worker::apply_access`] several times a second: tokens that ended close their session, and after
//! the gate was replaced each session is judged again. A bounded number of sessions per call; the rest comes with
//! the next. Not here: what tokens and rights are (`crate::access`, `waspmq_core::access`).

use super::Worker;
use super::connection::Connection;
use super::counters::Ended;
use super::inbound::name;
use crate::access::{Gate, Token, unauthorized};
use crate::clock::Moment;
use hashbrown::HashSet;
use std::collections::BTreeSet;
use std::sync::Arc;
use waspmq_core::access::{Action, Rights};
use waspmq_core::session::{Request, State, Subscription};
use waspmq_core::{Address, Close, Code, Kind, Name, Pattern, Reject, SessionId, limits};
use waspmq_protocol::DecodeError;
use waspmq_protocol::client::Connect;

/// Connections looked at, and sessions closed, before others run.
const SESSIONS_PER_TURN: usize = 256;

/// What one connection's session may do, and how long.
#[derive(Debug, Default)]
pub(crate) struct SessionAccess {
    pub(super) rights: Rights,
    token: Option<Box<Token>>,
    /// Whether the broker gave the user's name.
    is_unnamed: bool,
    /// The version of the gate that gave the rights.
    version: u64,
    /// Whether the address published to last may be published to.
    last_publish: Option<bool>,
    /// Addresses that may be published to, as far as that was asked. Empty without rules.
    allowed: HashSet<Address, foldhash::fast::RandomState>,
    /// Groups whose membership has to end and could not yet: a worker had no room for the change.
    unended: Vec<Name>,
}

/// What a worker keeps to see whose time is over.
#[derive(Debug, Default)]
pub(super) struct AccessWork {
    /// When tokens end (milliseconds since 1970), and the connection's number. One entry a session at most.
    ends: BTreeSet<(u64, u32)>,
    /// The version that the connections below [`Self::next`] have.
    version: u64,
    /// The slot to judge next, while a new gate is being applied.
    next: Option<usize>,
}

/// Who connects, as far as the token or the lack of one says.
pub(super) struct Admitted {
    pub(super) user: Name,
    pub(super) device: Option<Name>,
    access: SessionAccess,
}

impl Worker {
    /// Whether the session may do this with the address.
    pub(super) fn access_check(
        connection: &Connection,
        action: Action,
        address: &Address,
    ) -> Result<(), Reject> {
        connection.access.rights.check(action, address)
    }

    /// Whether the session may do this with every address that the pattern matches.
    pub(super) fn access_check_pattern(
        connection: &Connection,
        action: Action,
        pattern: &Pattern,
    ) -> Result<(), Reject> {
        connection.access.rights.check_pattern(action, pattern)
    }

    /// Whether the session may have a subscription. Only topics are a matter of rules: a user's own address and
    /// `all` are everyone's, a group is its members', and other users' addresses are nobody's.
    pub(super) fn check_subscribe(connection: &Connection, wanted: &Subscription) -> Result<(), Reject> {
        match wanted.pattern.kind() {
            Kind::Topic => Self::access_check_pattern(connection, Action::Subscribe, &wanted.pattern),
            Kind::User | Kind::Group | Kind::All => Ok(()),
        }
    }

    /// Whether the session may publish to the address. `is_last` says that it is the address of the call before,
    /// whose answer is remembered.
    pub(super) fn check_publish(
        connection: &mut Connection,
        to: &Address,
        is_last: bool,
    ) -> Result<(), Reject> {
        connection.access.check_publish(to, is_last)
    }

    /// Who a stranger is, before anything of a session exists.
    pub(super) fn admit(
        &self,
        connect: &Connect<'_>,
        id: SessionId,
        now: Moment,
    ) -> Result<Admitted, Reject> {
        let version = self.shared.access.version();
        let gate = self.shared.access.gate();
        let said_user = connect.user.as_deref().map(name).transpose()?;
        let said_device = connect.device.as_deref().map(name).transpose()?;
        let fresh = SessionAccess { version, ..SessionAccess::default() };
        if let (true, Some(token)) = (gate.is_on(), &connect.token) {
            let token = gate.verify(token.expose(), now.unix_ms)?;
            if said_user.is_some_and(|user| user != token.user) {
                return Err(forbidden("the token is another user's"));
            }
            let device = match (&token.device, said_device) {
                (Some(bound), Some(said)) if *bound != said => {
                    return Err(forbidden("the token is for another device"));
                }
                (bound, said) => bound.clone().or(said),
            };
            let (user, rights) = (token.user.clone(), gate.rights_of(&token));
            let access = SessionAccess { rights, token: Some(Box::new(token)), ..fresh };
            return Ok(Admitted { user, device, access });
        }
        if gate.is_on() && !gate.takes_anonymous() {
            return Err(unauthorized("`connect` needs a token"));
        }
        if gate.is_on() && said_user.is_some() {
            return Err(forbidden("a user's name needs a token"));
        }
        let is_unnamed = said_user.is_none();
        let user = said_user.map_or_else(|| name(&format!("anonymous-{id}")), Ok)?;
        let access = SessionAccess { rights: gate.rights_of_anonymous(&user), is_unnamed, ..fresh };
        Ok(Admitted { user, device: said_device, access })
    }

    /// The session exists from now on.
    pub(super) fn begin_access(&mut self, connection: &mut Connection, admitted: SessionAccess) {
        connection.access = admitted;
        if let Some(end) = connection.access.end() {
            self.access.ends.insert((end, connection.number));
        }
    }

    /// The session is over.
    pub(super) fn end_access(&mut self, connection: &mut Connection) {
        if let Some(end) = connection.access.end() {
            self.access.ends.remove(&(end, connection.number));
        }
        connection.access = SessionAccess::default();
    }

    /// Takes a new token for the session. Without keys nobody's token matters.
    pub(super) fn refresh(
        &mut self,
        connection: &mut Connection,
        token: &str,
        now: Moment,
    ) -> Result<(), Reject> {
        let version = self.shared.access.version();
        let gate = self.shared.access.gate();
        let Some(identity) = connection.session.identity().filter(|_| gate.is_on()) else { return Ok(()) };
        let token = gate.verify(token, now.unix_ms)?;
        if token.user != identity.user || connection.access.is_unnamed {
            return Err(forbidden("the token is another user's"));
        }
        if token.device.is_some() && token.device != identity.device {
            return Err(forbidden("the token is for another device"));
        }
        let unended = std::mem::take(&mut connection.access.unended);
        let before = std::mem::take(&mut connection.access.rights);
        let rights = gate.rights_of(&token);
        self.end_access(connection);
        let access = SessionAccess {
            rights,
            token: Some(Box::new(token)),
            version,
            unended,
            ..SessionAccess::default()
        };
        self.begin_access(connection, access);
        self.end_what_is_not_allowed(connection, &before);
        Ok(())
    }

    /// Ends what ran out of time and applies a replaced gate; true when more is to be done at once.
    pub(super) fn apply_access(&mut self) -> bool {
        let unix_ms = self.shared.clock.now().unix_ms;
        for _ in 0..SESSIONS_PER_TURN {
            let Some(&(end, number)) = self.access.ends.first().filter(|(end, _)| *end <= unix_ms) else {
                return self.judge_some();
            };
            self.access.ends.remove(&(end, number));
            self.close_for_token(number, "the session's token has ended");
        }
        true
    }

    fn judge_some(&mut self) -> bool {
        let version = self.shared.access.version();
        if version != self.access.version {
            self.access.version = version;
            self.access.next = Some(0);
        }
        let Some(first) = self.access.next.take() else { return false };
        let gate = self.shared.access.gate();
        let behind = first + SESSIONS_PER_TURN;
        for slot in first..behind {
            if let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) {
                self.judge(&mut connection, &gate, version);
                self.put_back(connection.number, connection);
            }
        }
        self.access.next = (behind < self.connections.capacity()).then_some(behind);
        self.access.next.is_some()
    }

    /// Applies a gate to one session.
    fn judge(&mut self, connection: &mut Connection, gate: &Arc<Gate>, version: u64) {
        let Some(identity) = connection.session.identity() else { return };
        if connection.is_closing() || connection.access.version == version {
            return;
        }
        let rights = match &connection.access.token {
            Some(token) if gate.still_accepts(token) => Ok(gate.rights_of(token)),
            Some(_) => Err("the session's token is not accepted any more"),
            None if !gate.is_on() => Ok(Rights::Everything),
            None if gate.takes_anonymous() && connection.access.is_unnamed => {
                Ok(gate.rights_of_anonymous(&identity.user))
            }
            None => Err("sessions need a token from now on"),
        };
        match rights {
            Ok(rights) => {
                let before = connection.access.replace(rights, version);
                self.end_what_is_not_allowed(connection, &before);
            }
            Err(message) => self.refuse(connection, None, Reject::new(Code::TokenExpired, message)),
        }
    }

    /// Ends subscriptions that the session's rights do not hold, and what its user joined by rights that it had before
    /// and has no more, each with an error frame.
    fn end_what_is_not_allowed(&mut self, connection: &mut Connection, before: &Rights) {
        let Some(identity) = connection.session.identity().cloned() else { return };
        let refused = |subscription: &&Subscription| Self::check_subscribe(connection, subscription).is_err();
        let refused: Vec<_> = connection.session.subscriptions().iter().filter(refused).cloned().collect();
        for subscription in refused {
            if connection.session.handle_unsubscribe(&subscription).is_ok() {
                self.forget_subscription(&identity, connection.number, &subscription);
                self.stop_catching(connection, &subscription);
                self.note(connection, |record| {
                    record.subscriptions.retain(|other| other.subscription != subscription);
                });
            }
            let message =
                format!("the subscription to {} ended: it is no longer allowed", subscription.pattern);
            self.refuse(connection, None, forbidden(message));
        }
        for group in self.joined_without_right(connection, &identity.user, before) {
            self.leave_for(connection, &identity.user, group);
        }
        for user in self.end_forbidden_watches(connection) {
            let message = format!("the watch of user/{user} ended: it is no longer allowed");
            self.refuse(connection, None, forbidden(message));
        }
        self.close_unread(connection);
    }

    /// The groups that the user joined and that this session might join before, and may not now. It does not matter by
    /// which session, and in which run, the user joined: a membership is the user's.
    fn joined_without_right(&self, connection: &mut Connection, user: &Name, before: &Rights) -> Vec<Name> {
        let access = &mut connection.access;
        let unended = std::mem::take(&mut access.unended);
        if matches!(access.rights, Rights::Everything) {
            return Vec::new();
        }
        let joined = self.shared.registry.joined_by(user).into_iter();
        let is_lost = |group: &Name| {
            let address = Address::group(group);
            !access.rights.allows(Action::Join, &address)
                && (before.allows(Action::Join, &address) || unended.contains(group))
        };
        joined.filter(is_lost).collect()
    }

    /// Ends a membership that the user's session may no longer have.
    fn leave_for(&mut self, connection: &mut Connection, user: &Name, group: Name) {
        match self.shared.registry.forbid(user, &group, &*self.shared.mailboxes) {
            Ok(()) => {
                if !connection.access.is_unnamed {
                    self.save_membership(user, &group, None);
                }
                // The user's other sessions are told by their workers.
                let address = Address::group(&group);
                self.forbid_group(connection, &address, self.end_of(&address));
            }
            Err(reject) if reject.code == Code::NotFound => {}
            Err(reject) => {
                tracing::warn!(%group, reason = %reject, "a membership that is no longer allowed remains");
                connection.access.unended.push(group);
            }
        }
    }

    fn close_for_token(&mut self, number: u32, message: &str) {
        let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        if !connection.is_closing() {
            self.refuse(&mut connection, None, Reject::new(Code::TokenExpired, message));
        }
        self.put_back(number, connection);
    }

    /// Ends the connection of somebody who may not have a session.
    pub(super) fn turn_away(&mut self, connection: &mut Connection, reference: Option<u64>, reject: Reject) {
        let code = reject.code;
        self.refuse(connection, reference, reject);
        if code == Code::Forbidden && connection.session.state() == State::Handshake {
            self.close_with(connection, (Close::Refused.number(), code.name()), Ended::Refused);
        }
    }

    /// Tells what is wrong with a frame. A stranger has one frame to begin with: whatever is wrong with it ends the
    /// connection.
    pub(super) fn refuse_undecoded(&mut self, connection: &mut Connection, error: &DecodeError) {
        let is_stranger = connection.session.state() == State::Handshake;
        let request = if is_stranger && error.is_connect { Request::Connect } else { Request::Other };
        let reject = connection.session.handle_request(request).err();
        self.refuse(connection, error.reference, reject.unwrap_or_else(|| error.reject()));
        if is_stranger {
            let close = Close::ProtocolViolation;
            self.close_with(connection, (close.number(), error.problem.code().name()), Ended::Protocol);
        }
    }
}

impl SessionAccess {
    fn check_publish(&mut self, to: &Address, is_last: bool) -> Result<(), Reject> {
        if matches!(self.rights, Rights::Everything) || is_last && self.last_publish == Some(true) {
            return Ok(());
        }
        if !self.allowed.contains(to) {
            self.last_publish = Some(false);
            self.rights.check(Action::Publish, to)?;
            if self.allowed.len() >= limits::ALLOWED_ADDRESSES_MAX {
                self.allowed.clear();
            }
            self.allowed.insert(to.clone());
        }
        self.last_publish = Some(true);
        Ok(())
    }

    /// Other rights, of a later gate: what was allowed before says nothing. Gives the earlier ones.
    fn replace(&mut self, rights: Rights, version: u64) -> Rights {
        (self.version, self.last_publish) = (version, None);
        self.allowed.clear();
        std::mem::replace(&mut self.rights, rights)
    }

    /// Whether the broker gave the user's name, which ends with the session.
    pub(super) const fn is_unnamed(&self) -> bool {
        self.is_unnamed
    }

    fn end(&self) -> Option<u64> {
        self.token.as_ref()?.expires_unix_ms
    }
}

impl Admitted {
    /// Whether the broker made the user's name for this session alone.
    pub(super) const fn is_unnamed(&self) -> bool {
        self.access.is_unnamed
    }

    pub(super) fn into_access(self) -> SessionAccess {
        self.access
    }
}

fn forbidden(message: impl Into<String>) -> Reject {
    Reject::new(Code::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::access::{Grants, Rule, Subject, Template};

    fn rights(patterns: &[&str]) -> Rights {
        let rule = Rule {
            patterns: patterns.iter().map(|pattern| Template::parse(pattern).unwrap()).collect(),
            allow: [Action::Publish].into_iter().collect(),
        };
        let user = Name::parse("alice").unwrap();
        Rights::Granted(Grants::new([&rule], &Subject { user: &user, device: None, claims: &[] }))
    }

    fn topic(text: &str) -> Address {
        Address::parse(&format!("topic/{text}")).unwrap()
    }

    #[test]
    fn what_was_allowed_is_remembered_until_the_rights_change() {
        let mut access = SessionAccess { rights: rights(&["topic/a.*"]), ..SessionAccess::default() };
        for _ in 0..2 {
            access.check_publish(&topic("a.1"), false).unwrap();
            access.check_publish(&topic("a.2"), false).unwrap();
            access.check_publish(&topic("a.2"), true).unwrap();
            assert!(access.check_publish(&topic("b"), false).is_err());
            assert!(access.check_publish(&topic("b"), true).is_err());
        }
        assert_eq!(access.allowed.len(), 2);
        access.replace(rights(&["topic/a.1", "topic/b"]), 1);
        assert!(access.check_publish(&topic("a.2"), true).is_err(), "not by what was allowed before");
        access.check_publish(&topic("b"), false).unwrap();
        access.check_publish(&topic("a.1"), false).unwrap();
    }

    #[test]
    fn answers_are_bounded() {
        let mut access = SessionAccess { rights: rights(&["topic/>"]), ..SessionAccess::default() };
        for i in 0..=limits::ALLOWED_ADDRESSES_MAX {
            access.check_publish(&topic(&format!("t{i}")), false).unwrap();
            assert!(access.allowed.len() <= limits::ALLOWED_ADDRESSES_MAX);
        }
        assert_eq!(access.allowed.len(), 1);
        let mut free = SessionAccess::default();
        free.check_publish(&topic("a"), false).unwrap();
        assert!(free.allowed.is_empty());
    }
}
