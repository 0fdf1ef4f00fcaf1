//! The handle of a program: encodes requests, queues them, hands out their answers. More of its calls are in `ask` and
//! `request`.

use crate::builder::Builder;
use crate::driver::Command;
use crate::error::Error;
use crate::interest::{Change, Interest};
use crate::limits::{CLOSE_TIMEOUT, IN_FLIGHT_MAX, QUIC_ACKNOWLEDGE_TIMEOUT, REPLIES_MAX};
use crate::publish::{Payload, PendingReceipt, PublishOptions, frame};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::transport::Transport;
use crate::waiting::Waiting;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use waspmq_protocol::client::Frame;
use waspmq_protocol::server::Welcome;
use waspmq_protocol::{From, Profile, encode};

/// A connected client. Requests go out in the order they were made; share it between tasks in an `Arc`.
/// Dropping it ends the connection at once; [`Self::close`] lets it finish.
#[derive(Debug)]
pub struct Client {
    profile: Profile,
    /// As named to the builder.
    user: Option<String>,
    commands: mpsc::Sender<Command>,
    in_flight: Arc<Semaphore>,
    replies: Semaphore,
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

impl Client {
    /// Begins with the broker's URL, such as `ws://127.0.0.1:9470/ws`, or with TLS `wss://broker.example/ws`,
    /// `quic://broker.example:9470` and `wt://broker.example:9470/wt`.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn new(
        profile: Profile,
        user: Option<String>,
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        driver: JoinHandle<()>,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Self { profile, user, commands, in_flight, replies: Semaphore::new(REPLIES_MAX), shared, driver }
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Publishes, and gives the future of the receipt, which comes when the level asked for is reached. Waits only for
    /// room; awaiting the receipt later keeps many publishes in flight. At least level `accepted`.
    ///
    /// # Errors
    /// When the message cannot be sent as it is, or the client has ended. What the broker refuses is the
    /// receipt's error.
    pub async fn publish(
        &self,
        to: &str,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<PendingReceipt, Error> {
        let reference = self.shared.reference();
        let bytes = self.encode(&Frame::Publish(frame(to, &payload, &options, Some(reference))))?;
        let (answer, receipt) = oneshot::channel();
        let waiting = Waiting::Receipt { answer, _slot: self.slot().await? };
        let (priority, answer) = (options.priority, Some((reference, waiting)));
        self.queue(Command::Publish { bytes, priority, answer }).await?;
        Ok(PendingReceipt::new(receipt, self.shared.clone()))
    }

    /// Publishes without a receipt: a refusal is an [`crate::Event::Refused`] and counted ([`Stats::refused`]), and a message that was queued
    /// when the connection was lost may be lost too. With [`Builder::datagrams`] it may be a datagram.
    pub async fn send(&self, to: &str, payload: Payload, options: PublishOptions) -> Result<(), Error> {
        let bytes = self.encode(&Frame::Publish(frame(to, &payload, &options, None)))?;
        self.queue(Command::Publish { bytes, priority: options.priority, answer: None }).await
    }

    /// Subscribes to a pattern, with `queue` as a member of that queue. Kept across reconnects.
    pub async fn subscribe(&self, to: &str, queue: Option<&str>) -> Result<(), Error> {
        self.subscribe_at(to, queue, None).await
    }

    /// [`Self::subscribe`] that begins elsewhere than with the next message. A wildcard pattern takes no position. Without `queue`, what is
    /// kept from there on comes also where this client had it before: it comes once for each such call.
    pub async fn subscribe_from(&self, to: &str, queue: Option<&str>, from: From) -> Result<(), Error> {
        self.subscribe_at(to, queue, Some(from)).await
    }

    async fn subscribe_at(&self, to: &str, queue: Option<&str>, from: Option<From>) -> Result<(), Error> {
        if queue.is_none() && from.is_some_and(|from| from != From::Now) {
            self.shared.inbox.forget_all(to);
        }
        let (to, queue) = (to.to_owned(), queue.map(str::to_owned));
        self.add(Interest::Subscription { to, queue, from }).await
    }

    /// Ends a subscription; `queue` as when it was made.
    pub async fn unsubscribe(&self, to: &str, queue: Option<&str>) -> Result<(), Error> {
        let (to, queue) = (to.to_owned(), queue.map(str::to_owned));
        self.remove(Interest::Subscription { to, queue, from: None }).await
    }

    /// Joins a group, by name. Kept across reconnects.
    pub async fn join(&self, group: &str) -> Result<(), Error> {
        self.add(Interest::Group(group.to_owned())).await
    }

    pub async fn leave(&self, group: &str) -> Result<(), Error> {
        self.remove(Interest::Group(group.to_owned())).await
    }

    /// The time from a ping to its pong, both waiting in the same queues as everything else.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let (answer, pong) = oneshot::channel();
        self.queue(Command::Ping(answer)).await?;
        pong.await.map_err(|_| self.shared.end().unwrap_or(Error::ConnectionLost))
    }

    /// What the broker said at the last connect.
    pub fn welcome(&self) -> Welcome {
        self.shared.welcome()
    }

    /// What the connection is, or was while there is none: never [`Transport::Auto`].
    pub fn transport(&self) -> Transport {
        self.shared.transport()
    }

    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Sends what is queued, says goodbye and ends the connection.
    ///
    /// # Errors
    /// Why the client had ended before.
    pub async fn close(mut self) -> Result<(), Error> {
        self.shared.ending.notify_one();
        let written = match self.transport() {
            Transport::Auto | Transport::WebSocket => Duration::ZERO,
            // Streams of their own first, then the main one.
            Transport::Quic | Transport::WebTransport => 2 * QUIC_ACKNOWLEDGE_TIMEOUT,
        };
        // A driver that has ended takes no command, and one whose peer does not read is dropped.
        let goodbye = async {
            drop(self.commands.send(Command::Close).await);
            drop((&mut self.driver).await);
        };
        drop(tokio::time::timeout(written + 2 * CLOSE_TIMEOUT, goodbye).await);
        match self.shared.end() {
            None | Some(Error::Ended) => Ok(()),
            Some(error) => Err(error),
        }
    }

    pub(crate) async fn add(&self, interest: Interest) -> Result<(), Error> {
        let reference = self.shared.reference();
        let bytes = self.encode(&interest.frame(reference))?;
        self.request_ok(reference, bytes, Change::Add(interest)).await
    }

    pub(crate) async fn remove(&self, interest: Interest) -> Result<(), Error> {
        let reference = self.shared.reference();
        let bytes = self.encode(&interest.end_frame(reference))?;
        self.request_ok(reference, bytes, Change::Remove(interest)).await
    }

    pub(crate) async fn request_ok(
        &self,
        reference: u64,
        bytes: Vec<u8>,
        change: Change,
    ) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting::Ok { answer, change, _slot: self.slot().await? };
        self.ask(reference, bytes, waiting, answered).await
    }

    pub(crate) async fn ask<T>(
        &self,
        reference: u64,
        bytes: Vec<u8>,
        waiting: Waiting,
        answered: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        self.queue(Command::Request { bytes, answer: (reference, waiting) }).await?;
        answered.await.unwrap_or_else(|_| Err(self.shared.end().unwrap_or(Error::ConnectionLost)))
    }

    pub(crate) fn encode(&self, frame: &Frame<'_>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        encode::client(self.profile, frame, &mut bytes)?;
        let max = self.shared.max_message_bytes();
        if bytes.len() > max {
            return Err(Error::TooLarge { bytes: bytes.len(), max });
        }
        Ok(bytes)
    }

    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.in_flight.clone().acquire_owned().await.map_err(|_| Error::Ended)
    }

    /// Room for one more request to another client.
    pub(crate) async fn reply_slot(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.replies.acquire().await.map_err(|_| Error::Ended)
    }

    async fn queue(&self, command: Command) -> Result<(), Error> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| self.shared.end().unwrap_or(Error::Ended))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
        // A receipt outlives the client and keeps alive what its answer would come from: it is answered here.
        self.shared.handle_end(Error::Ended);
    }
}
