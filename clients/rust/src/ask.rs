//! The calls of a client besides publishing and subscribing: acknowledging by hand, history, reading, presence, tokens.

use crate::client::Client;
use crate::error::Error;
use crate::events::Events;
use crate::interest::{Change, Interest};
use crate::waiting::Waiting;
use std::time::Duration;
use tokio::sync::oneshot;
use waspmq_core::Position;
use waspmq_protocol::Secret;
use waspmq_protocol::client::Frame;
use waspmq_protocol::server::{History, Message, Presence};

impl Client {
    /// Acknowledges one message, in a client built with [`crate::Builder::manual_acks`]. Does not wait: acknowledgements are
    /// written together. One that the connection's end has swallowed is made up for when the message comes again.
    pub fn ack(&self, message: &Message) {
        self.shared().inbox.handle_done(message);
    }

    /// As [`Self::ack`], for a program that is done with messages in the order they come: this one, and all of its address that came
    /// before it. However many there are, few frames say so, and none is too long ago for the broker to know it.
    pub fn ack_in_order(&self, message: &Message) {
        self.shared().inbox.handle_done_in_order(message);
    }

    /// Leaves a message to the user's other sessions, in a client built with [`crate::Builder::manual_acks`]: it is neither acknowledged nor
    /// given back. Its publisher is told `delivered` when another session acknowledges it, else that it was not delivered; what is stored
    /// waits for the next session. Of what was passed over, 1,024 messages or 1 MiB may be in flight; more, and the oldest is given back.
    pub fn pass_over(&self, message: &Message) {
        self.shared().inbox.pass_over(message);
    }

    /// Gives a message back: it comes again, to this client or to another member of its queue, after `retry` or
    /// when the broker sees fit.
    ///
    /// # Errors
    /// `not_in_flight` when the broker does not wait for this message, for example because it was acknowledged.
    pub async fn nack(
        &self,
        message: &Message,
        reason: Option<&str>,
        retry: Option<Duration>,
    ) -> Result<(), Error> {
        // Before the frame: the message may be back before its answer is.
        self.shared().inbox.forget(message);
        let reference = self.shared().reference();
        let bytes = self.encode(&Frame::Nack {
            reference: Some(reference),
            id: message.id,
            queue: message.queue.as_deref().map(Into::into),
            reason: reason.map(Into::into),
            retry_ms: retry.map(|retry| u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
        })?;
        self.request_ok(reference, bytes, Change::Nothing).await
    }

    /// A page of an address's messages, behind `after` or from the oldest. The next page begins behind the last
    /// message of this one. The broker chooses the page's size when `limit` is `None`.
    pub async fn history(
        &self,
        of: &str,
        after: Option<Position>,
        limit: Option<u32>,
    ) -> Result<History, Error> {
        let reference = self.shared().reference();
        let bytes =
            self.encode(&Frame::History { reference: Some(reference), of: of.into(), after, limit })?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting::History { answer, _slot: self.slot().await? };
        self.ask(reference, bytes, waiting, answered).await
    }

    /// Marks an address as read up to and including a position. The user's other sessions are told.
    pub async fn read(&self, of: &str, upto: Position) -> Result<(), Error> {
        let reference = self.shared().reference();
        let bytes = self.encode(&Frame::Read { reference: Some(reference), of: of.into(), upto })?;
        self.request_ok(reference, bytes, Change::Nothing).await
    }

    /// Who of a group, or whether a user, is there: `of` is `group/<name>` or `user/<name>`. Of a large group the first
    /// page; where it says `more`, [`Self::presence_after`] its last user brings the next one.
    pub async fn presence(&self, of: &str) -> Result<Presence, Error> {
        self.ask_presence(of, None).await
    }

    /// Who of a group is there, of the members behind this user in the order of their names. From a broker that knows
    /// no pages nobody.
    pub async fn presence_after(&self, group: &str, user: &str) -> Result<Presence, Error> {
        let mut page = self.ask_presence(group, Some(user)).await?;
        // Such a broker answers with the first page again, for ever.
        page.users.retain(|found| found.user.as_str() > user);
        page.more &= !page.users.is_empty();
        Ok(page)
    }

    async fn ask_presence(&self, of: &str, after: Option<&str>) -> Result<Presence, Error> {
        let reference = self.shared().reference();
        let after = after.map(Into::into);
        let bytes = self.encode(&Frame::Presence { reference: Some(reference), of: of.into(), after })?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting::Presence { answer, _slot: self.slot().await? };
        self.ask(reference, bytes, waiting, answered).await
    }

    /// Asks for an [`crate::Event::Presence`] whenever one of these users, by name, comes or goes. Replaces the watch
    /// before it; no users end it. Kept across reconnects.
    pub async fn watch(&self, users: &[&str]) -> Result<(), Error> {
        let watch = Interest::Watch(users.iter().map(|&user| user.to_owned()).collect());
        if users.is_empty() { self.remove(watch).await } else { self.add(watch).await }
    }

    /// What happens besides messages, from now on.
    pub fn events(&self) -> Events {
        Events { queue: self.shared().events() }
    }

    /// Gives the session a new access token before the old one ends, and keeps it for reconnects.
    ///
    /// # Errors
    /// `unauthorized` or `token_expired` when the broker does not take it; it closes the connection then.
    pub async fn refresh(&self, token: impl Into<String>) -> Result<(), Error> {
        let token = Secret::new(token.into());
        let reference = self.shared().reference();
        let bytes = self.encode(&Frame::Refresh { reference: Some(reference), token: token.clone() })?;
        self.request_ok(reference, bytes, Change::Token(token)).await
    }
}
