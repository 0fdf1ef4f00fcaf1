//! Requests to other clients, and replies to them.
//!
//! A request is a message whose `reply_to` is the asking user's own address and whose header `correlation-id` is
//! `<client>-<number>`: 16 hexadecimal digits that are random for each client, and a number. A reply carries the header
//! back and has no `reply_to`, which tells it from the request itself. The user's other sessions get the reply too;
//! this library hands them over as plain messages there.

use crate::client::Client;
use crate::error::Error;
use crate::publish::{Payload, PendingReceipt, PublishOptions};
use crate::shared::Shared;
use std::time::Duration;
use tokio::sync::oneshot;
use waspmq_protocol::server::Message;

/// The header that a reply carries back.
pub const CORRELATION_ID: &str = "correlation-id";

impl Client {
    /// Publishes a request and waits for the first reply. Replies are read in turn with messages: keep receiving.
    ///
    /// The reply comes to `options.reply_to`, which this session must listen to, or else to the user that was named to the
    /// builder.
    ///
    /// # Errors
    /// [`Error::NoReply`] after `timeout`, [`Error::NoReplyAddress`], and those of [`Self::publish`] and its receipt.
    /// Whether the request was worked on is unknown after [`Error::NoReply`] and [`Error::ConnectionLost`].
    pub async fn request(
        &self,
        to: &str,
        payload: Payload,
        mut options: PublishOptions,
        timeout: Duration,
    ) -> Result<Message, Error> {
        if options.reply_to.is_none() {
            let user = self.user().ok_or(Error::NoReplyAddress)?;
            options.reply_to = Some(format!("user/{user}"));
        }
        let shared = self.shared();
        let number = shared.reference();
        options.headers.retain(|(name, _)| name != CORRELATION_ID);
        options.headers.push((CORRELATION_ID.to_owned(), format!("{}-{number}", shared.correlation)));
        let asking = async {
            let _room = self.reply_slot().await?;
            let (answer, reply) = oneshot::channel();
            shared.await_reply(number, answer);
            let _forgotten_at_the_end = Waited { shared, number };
            let receipt = self.publish(to, payload, options).await?;
            tokio::pin!(receipt);
            tokio::pin!(reply);
            // A reply may be here before the receipt, and counts.
            let reply = tokio::select! {
                biased;
                reply = &mut reply => reply,
                receipt = &mut receipt => {
                    receipt?;
                    reply.await
                }
            };
            reply.map_err(|_| shared.end().unwrap_or(Error::Ended))
        };
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        tokio::time::timeout(timeout, asking).await.unwrap_or(Err(Error::NoReply { ms }))
    }

    /// Answers a request: publishes to its `reply_to`, with its `correlation-id`.
    ///
    /// # Errors
    /// [`Error::NotARequest`] when the message has no `reply_to`, and those of [`Self::publish`].
    pub async fn reply(&self, request: &Message, payload: Payload) -> Result<PendingReceipt, Error> {
        let to = request.reply_to.as_deref().ok_or(Error::NotARequest)?;
        let correlation = request.headers.iter().find(|(name, _)| name == CORRELATION_ID).cloned();
        let headers = correlation.into_iter().collect();
        self.publish(to, payload, PublishOptions { headers, ..PublishOptions::default() }).await
    }
}

/// Forgets that somebody waits, however the waiting ends.
struct Waited<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        self.shared.forget_reply(self.number);
    }
}

/// The number of the request that a message is a reply to, when it is one of the client with this prefix.
pub(crate) fn reply_number(message: &Message, prefix: &str) -> Option<u64> {
    if message.reply_to.is_some() {
        return None;
    }
    let (_, id) = message.headers.iter().find(|(name, _)| name == CORRELATION_ID)?;
    id.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}
