//! Reading: from the socket to whoever waits for it.

use super::Left;
use super::link::decoded;
use super::socket::{Inbound, Receiver};
use crate::codecs::{Codecs, Unreadable};
use crate::events::Event;
use crate::limits::{CLOSE_TIMEOUT, INBOUND_BYTES_MAX, REST_BYTES_MAX};
use crate::request;
use crate::shared::Shared;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use waspmq_core::settings::Overflow as OverflowAction;
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

    /// Ends when nothing was heard for so long while the socket was read.
    pub(super) async fn silence(&self, longest: Duration) {
        loop {
            tokio::time::sleep_until(self.silent(longest)).await;
            // Where the program was held up, what came meanwhile is read first.
            tokio::task::yield_now().await;
            if self.silent(longest) <= Instant::now() {
                return;
            }
        }
    }

    /// When it will have been silent for so long.
    fn silent(&self, longest: Duration) -> Instant {
        self.0.lock().unwrap().get().unwrap_or_else(Instant::now) + longest
    }
}

pub(super) struct Reader<'a> {
    pub(super) profile: Profile,
    pub(super) codecs: &'a mut Codecs,
    pub(super) messages: &'a mpsc::Sender<Message>,
    pub(super) shared: &'a Shared,
    pub(super) heard: &'a Heard,
    /// What was read and not handled yet.
    pub(super) pending: VecDeque<Received>,
    /// Why the broker closes, once it has said so on the connection itself.
    pub(super) said: Option<Close>,
}

impl<'a> Reader<'a> {
    /// Reads until the connection ends. Cancel safe: what was read and has no place yet is kept for the next call.
    pub(super) async fn read(&mut self, receiver: &mut Receiver) -> Left {
        loop {
            if self.handle_pending().await.is_err() {
                return Left::Lost;
            }
            match receiver.next().await {
                Inbound::Message(bytes) => {
                    self.heard.set(Some(Instant::now()));
                    self.pending = decoded(self.profile, &bytes).into();
                }
                Inbound::SignOfLife => self.heard.set(Some(Instant::now())),
                Inbound::Closed { code, reason } => return Left::Closed { code, reason },
                Inbound::Ended(_) => return Left::Lost,
            }
        }
    }

    /// What the broker said on the connection decides over how that looks to have ended, also where it waits behind messages
    /// that the program has no room for.
    pub(super) fn explained(&self, left: Left) -> Left {
        let in_line = self.pending.iter().find_map(|frame| match frame {
            Received::Close(close) => Some(close),
            _ => None,
        });
        match (left, self.said.as_ref().or(in_line)) {
            (
                Left::Lost | Left::Broken | Left::Closed { .. } | Left::Finished { for_good: false },
                Some(close),
            ) => Left::Closed { code: close.code, reason: close.reason().to_owned() },
            (left, _) => left,
        }
    }

    /// Takes what is left on a connection that is over, up to its end: answers, and why it ended. Messages have no place, as the program
    /// does not take those before them: they come again, where they are kept.
    pub(super) async fn read_rest(&mut self, receiver: &mut Receiver) -> Left {
        let reading = async {
            let mut bytes_left = REST_BYTES_MAX;
            loop {
                for frame in std::mem::take(&mut self.pending) {
                    self.handle(frame);
                }
                match receiver.next().await {
                    Inbound::Message(bytes) if bytes.len() > bytes_left => return Left::Lost,
                    Inbound::Message(bytes) => {
                        bytes_left -= bytes.len();
                        self.pending = decoded(self.profile, &bytes).into();
                    }
                    Inbound::SignOfLife => {}
                    Inbound::Closed { code, reason } => return Left::Closed { code, reason },
                    Inbound::Ended(_) => return Left::Lost,
                }
            }
        };
        tokio::time::timeout(CLOSE_TIMEOUT, reading).await.unwrap_or(Left::Lost)
    }

    /// A message is not counted as seen before it has a place in the program's queue: one that has none when the connection ends comes
    /// again. An error ends the connection: what could not be read comes again, uncompressed, where it is kept.
    async fn handle_pending(&mut self) -> Result<(), Unreadable> {
        while let Some(frame) = self.pending.front() {
            let place = match frame {
                Received::Message(message) => self.place(message).await,
                _ => Place::None,
            };
            match self.pending.pop_front() {
                Some(Received::Message(mut message)) => {
                    let unpacked = self.codecs.unpack(&mut message, INBOUND_BYTES_MAX);
                    self.readable(unpacked)?;
                    self.deliver(message, place);
                }
                Some(Received::Dictionary(sent)) => {
                    let taken = self.codecs.take(&sent);
                    self.readable(taken)?;
                }
                Some(frame) => self.handle(frame),
                None => {}
            }
        }
        Ok(())
    }

    fn handle(&mut self, frame: Received) {
        match frame {
            Received::Receipt(receipt) => self.shared.handle_receipt(receipt),
            Received::Ok { reference } => self.shared.handle_ok(reference),
            Received::Error { reference, refusal } => self.shared.handle_error(reference, refusal),
            Received::Overflow(overflow) => {
                if overflow.action != Some(OverflowAction::Spill) {
                    self.shared.count(|stats| stats.overflowed += overflow.dropped);
                }
                self.shared.handle_event(Event::Overflow(overflow));
            }
            Received::History(history) => self.shared.handle_history(history),
            Received::Presence(presence) => self.shared.handle_presence(presence),
            Received::PresenceChange(change) => self.shared.handle_event(Event::Presence(change)),
            Received::Read(read) => self.shared.handle_event(Event::Read(read)),
            Received::Goaway(goaway) => self.shared.handle_goaway(goaway.reconnect_ms),
            Received::Close(close) => self.said = Some(close),
            Received::Pong => self.shared.handle_pong(Instant::now()),
            Received::Message(_)
            | Received::Dictionary(_)
            | Received::Welcome(_)
            | Received::Unknown { .. } => {}
        }
    }

    fn readable(&mut self, read: Result<(), Unreadable>) -> Result<(), Unreadable> {
        if read.is_err() {
            self.codecs.give_up();
            self.shared.count(|stats| stats.unreadable += 1);
        }
        read
    }

    /// Waits until a message may be taken.
    async fn place(&self, message: &Message) -> Place<'a> {
        if let Some(number) = request::reply_number(message, &self.shared.correlation) {
            return Place::Asker(number);
        }
        let messages = self.messages;
        match messages.try_reserve() {
            Ok(permit) => Place::Queue(permit),
            Err(mpsc::error::TrySendError::Full(())) => {
                self.heard.set(None);
                let permit = messages.reserve().await;
                self.heard.set(Some(Instant::now()));
                permit.map_or(Place::None, Place::Queue)
            }
            Err(mpsc::error::TrySendError::Closed(())) => Place::None,
        }
    }

    fn deliver(&self, message: Message, place: Place<'_>) {
        if !self.shared.inbox.admit(&message) {
            self.shared.count(|stats| stats.duplicates += 1);
            return;
        }
        match place {
            Place::Asker(number) => self.shared.handle_reply(number, message),
            Place::Queue(permit) => permit.send(message),
            // A program that dropped its receiver does not want messages.
            Place::None => {}
        }
    }
}

/// Where a message goes.
enum Place<'a> {
    /// To who waits for this reply.
    Asker(u64),
    Queue(mpsc::Permit<'a, Message>),
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_came_while_the_program_was_held_up_is_no_silence() {
        let (heard, longest) = (Heard::new(), Duration::from_millis(20));
        let silence = async {
            heard.silence(longest).await;
            Instant::now()
        };
        let reading = async {
            tokio::task::yield_now().await;
            std::thread::sleep(3 * longest);
            tokio::task::yield_now().await;
            let now = Instant::now();
            heard.set(Some(now));
            now
        };
        let (silent, last) = tokio::join!(biased; silence, reading);
        assert!(silent.duration_since(last) >= longest);
    }
}
