//! Reading: from the socket to whoever waits for it.

use super::Left;
use super::link::decoded;
use super::socket::{Inbound, Receiver};
use crate::codecs::{Codecs, Unreadable};
use crate::events::Event;
use crate::limits::INBOUND_BYTES_MAX;
use crate::request;
use crate::shared::Shared;
use std::cell::Cell;
use std::sync::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use waspmq_protocol::Profile;
use waspmq_protocol::server::{Close, Message, Received};

/// When the broker was heard last. While the program has no room for messages the socket is not read, and
/// silence means nothing.
#[derive(Debug)]
pub(super) struct Heard(Mutex<Cell<Option<Instant>>>);

impl Heard {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Cell::new(Some(Instant::now()))))
    }

    fn set(&self, when: Option<Instant>) {
        self.0.lock().unwrap().set(when);
    }

    /// `None` while the socket is not read.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.lock().unwrap().get()
    }
}

pub(super) struct Reader<'a> {
    pub(super) profile: Profile,
    pub(super) codecs: &'a mut Codecs,
    pub(super) messages: &'a mpsc::Sender<Message>,
    pub(super) shared: &'a Shared,
    pub(super) heard: &'a Heard,
    /// Why the broker closes, once it has said so on the connection itself.
    pub(super) said: Option<Close>,
}

impl Reader<'_> {
    /// Reads until the connection ends.
    pub(super) async fn read(&mut self, rest: Vec<Received>, receiver: &mut Receiver) -> Left {
        if self.handle(rest).await.is_err() {
            return Left::Lost;
        }
        loop {
            match receiver.next().await {
                Inbound::Message(bytes) => {
                    self.heard.set(Some(Instant::now()));
                    if self.handle(decoded(self.profile, &bytes)).await.is_err() {
                        return Left::Lost;
                    }
                }
                Inbound::SignOfLife => self.heard.set(Some(Instant::now())),
                Inbound::Closed { code, reason } => return Left::Closed { code, reason },
                Inbound::Ended(_) => return Left::Lost,
            }
        }
    }

    /// What the broker said on the connection decides over how that looks to have ended.
    pub(super) fn explained(&self, left: Left) -> Left {
        match (left, &self.said) {
            (Left::Lost | Left::Closed { .. } | Left::Finished { for_good: false }, Some(close)) => {
                Left::Closed { code: close.code, reason: close.reason().to_owned() }
            }
            (left, _) => left,
        }
    }

    /// An error ends the connection: what could not be read comes again, uncompressed, where it is kept.
    async fn handle(&mut self, frames: Vec<Received>) -> Result<(), Unreadable> {
        for frame in frames {
            match frame {
                Received::Message(mut message) => {
                    let unpacked = self.codecs.unpack(&mut message, INBOUND_BYTES_MAX);
                    self.readable(unpacked)?;
                    self.deliver(message).await;
                }
                Received::Dictionary(sent) => {
                    let taken = self.codecs.take(&sent);
                    self.readable(taken)?;
                }
                Received::Receipt(receipt) => self.shared.handle_receipt(receipt),
                Received::Ok { reference } => self.shared.handle_ok(reference),
                Received::Error { reference, refusal } => self.shared.handle_error(reference, refusal),
                Received::Overflow(overflow) => {
                    self.shared.count(|stats| stats.overflowed += overflow.dropped);
                    self.shared.handle_event(Event::Overflow(overflow));
                }
                Received::History(history) => self.shared.handle_history(history),
                Received::Presence(presence) => self.shared.handle_presence(presence),
                Received::PresenceChange(change) => self.shared.handle_event(Event::Presence(change)),
                Received::Read(read) => self.shared.handle_event(Event::Read(read)),
                Received::Goaway(goaway) => self.shared.handle_goaway(goaway.reconnect_ms),
                Received::Close(close) => self.said = Some(close),
                Received::Pong => self.shared.handle_pong(Instant::now()),
                Received::Welcome(_) | Received::Unknown { .. } => {}
            }
        }
        Ok(())
    }

    fn readable(&mut self, read: Result<(), Unreadable>) -> Result<(), Unreadable> {
        if read.is_err() {
            self.codecs.give_up();
            self.shared.count(|stats| stats.unreadable += 1);
        }
        read
    }

    async fn deliver(&mut self, message: Message) {
        if !self.shared.inbox.admit(&message) {
            self.shared.count(|stats| stats.duplicates += 1);
            return;
        }
        if let Some(number) = request::reply_number(&message, &self.shared.correlation) {
            self.shared.handle_reply(number, message);
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            self.heard.set(None);
            // A program that dropped its receiver does not want messages.
            drop(self.messages.send(message).await);
            self.heard.set(Some(Instant::now()));
        }
    }
}
