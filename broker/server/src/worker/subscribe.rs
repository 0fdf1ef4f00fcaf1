//! Subscriptions of a session: rights, where to begin, and the lists they stand in.

use super::Worker;
use super::catchup::Start;
use super::connection::Connection;
use super::inbound::name;
use crate::resumes::Subscribed;
use std::sync::Arc;
use waspmq_core::access::Action;
use waspmq_core::registry::Attached;
use waspmq_core::session::{Subscribe, Subscription};
use waspmq_core::{Address, Code, Name, Pattern, Position, QueueId, Reject};
use waspmq_protocol::From;

impl Worker {
    pub(super) fn subscribe(
        &mut self,
        connection: &mut Connection,
        (to, queue): (&str, Option<&str>),
        from: From,
    ) -> Result<(), Reject> {
        let wanted = subscription(to, queue)?;
        Self::check_subscribe(connection, &wanted)?;
        let Some(identity) = connection.session.identity().cloned() else { return Ok(()) };
        let registry = &self.shared.registry;
        let is_member =
            |group: &str| Name::parse(group).is_ok_and(|group| registry.is_member(&identity.user, &group));
        let is_new = connection.session.handle_subscribe(&wanted, is_member)? == Subscribe::New;
        let unknown = self.unknown_place(&wanted, from);
        let from = if unknown.is_some() { From::Earliest } else { from };
        let start = self.start_of(connection, &wanted, from)?;
        if is_new {
            self.add_subscription(connection, wanted.clone(), (None, from))?;
        }
        // What is published from here on waits in the mailbox until this turn ends, so that what is read begins
        // before it and nothing lies between.
        let Some(start) = start else { return Ok(()) };
        // What is read now may lie before what the session has seen of the stream.
        match wanted.pattern.to_address() {
            Some(address) => connection.catching.note_passed(self.shared.registry.shard_of(&address)),
            None => connection.catching.note_all_passed(),
        }
        if let Some(to) = unknown {
            self.tell_gap(connection, &to);
        }
        self.catch_up_pattern(connection, &wanted.pattern, start);
        Ok(())
    }

    /// Adds a subscription that the session may have and does not have yet. `since` is where a resumed one goes on, `from`
    /// where a queue that is new begins.
    pub(super) fn add_subscription(
        &mut self,
        connection: &mut Connection,
        wanted: Subscription,
        (since, from): (Option<Arc<[Position]>>, From),
    ) -> Result<(), Reject> {
        let Some(identity) = connection.session.identity() else { return Ok(()) };
        let has_record = connection.resume_hash.is_some();
        let ends = (has_record && wanted.pattern.is_wildcard()).then(|| self.shared.registry.stream_ends());
        let attached = match &wanted.queue {
            Some(name) => {
                self.join_queue(&QueueId::new(wanted.pattern.clone(), name.clone()), identity, from)?
            }
            None => {
                self.recipients.subscribe(&wanted.pattern, connection.number);
                self.shared.registry.subscribe(&wanted.pattern, identity)
            }
        };
        if has_record {
            let (told, number): (Arc<[_]>, _) = match attached {
                Attached::To(last) => ([last].into(), None),
                Attached::Number(number) => (ends.unwrap_or_default().into(), Some(number)),
            };
            let since = since.unwrap_or_else(|| told.clone());
            let subscribed = Subscribed { subscription: wanted.clone(), since, told, number };
            self.note(connection, |record| record.subscriptions.push(subscribed));
        }
        connection.session.handle_subscribed(wanted);
        Ok(())
    }

    /// The address, where a subscription is to begin at a position that it cannot have had: what its client has seen before
    /// is not there any more.
    fn unknown_place(&self, wanted: &Subscription, from: From) -> Option<Address> {
        let From::Position(position) = from else { return None };
        wanted.pattern.to_address().filter(|to| !self.is_position_of(to, position))
    }

    /// Where a subscription begins to read what is stored; `None` with what is live. A place in a queue reads nothing: what
    /// the queue has not given out comes to all its members.
    fn start_of(
        &self,
        connection: &Connection,
        wanted: &Subscription,
        from: From,
    ) -> Result<Option<Start>, Reject> {
        let start = match from {
            From::Now => return Ok(None),
            From::Earliest => Start::Earliest,
            From::Last if wanted.pattern.is_wildcard() => {
                Start::LastUpto(self.shared.registry.stream_ends().into())
            }
            From::Last => Start::Last,
            From::Time(unix_ms) => Start::Time(unix_ms),
            From::Position(position) if !wanted.pattern.is_wildcard() => Start::After(position),
            From::Position(_) => {
                let message = "a position is in one address; with wildcards begin at a time";
                return Err(Reject::new(Code::InvalidFrame, message));
            }
        };
        match wanted.pattern.to_address() {
            Some(address) => {
                let Some(identity) = connection.session.identity() else { return Ok(None) };
                self.may_read(connection, &identity.user, &address)?;
            }
            None => Self::access_check_pattern(connection, Action::History, &wanted.pattern)?,
        }
        Ok(Some(start).filter(|_| wanted.queue.is_none()))
    }

    pub(super) fn unsubscribe(
        &mut self,
        connection: &mut Connection,
        to: &str,
        queue: Option<&str>,
    ) -> Result<(), Reject> {
        self.drop_subscription(connection, &subscription(to, queue)?)
    }

    fn drop_subscription(&mut self, connection: &mut Connection, ended: &Subscription) -> Result<(), Reject> {
        connection.session.handle_unsubscribe(ended)?;
        if let Some(identity) = connection.session.identity().cloned() {
            self.forget_subscription(&identity, connection.number, ended);
            self.stop_catching(connection, ended);
        }
        self.note(connection, |record| record.subscriptions.retain(|other| other.subscription != *ended));
        Ok(())
    }
}

fn subscription(to: &str, queue: Option<&str>) -> Result<Subscription, Reject> {
    let pattern = Pattern::parse(to)?;
    let queue = queue.map(name).transpose()?;
    Ok(Subscription { pattern, queue })
}
