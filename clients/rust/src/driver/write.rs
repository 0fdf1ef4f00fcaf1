//! Writing: from the queue of requests to the socket, with signs of life in between.

use super::socket::{Broken, Sender};
use super::{Command, Left};
use crate::limits::{ACK_DELAY, BATCH_BYTES_MAX, CLOSE_TIMEOUT, COMMANDS_MAX};
use crate::shared::Shared;
use crate::waiting::Waiting;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use waspmq_protocol::client::Frame;
use waspmq_protocol::{Profile, encode};

pub(super) struct Writer<'a> {
    pub(super) profile: Profile,
    pub(super) sender: &'a mut Sender,
    pub(super) shared: &'a Shared,
}

impl Writer<'_> {
    /// Writes until the connection ends or goodbye was said.
    pub(super) async fn write(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        heartbeat: Duration,
    ) -> Left {
        // A failed write is left to the reader, which may find the close frame that explains it.
        match self.write_all(commands, heartbeat).await {
            Ok(left) => left,
            Err(_) => {
                tokio::time::sleep(CLOSE_TIMEOUT).await;
                Left::Broken
            }
        }
    }

    async fn write_all(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        heartbeat: Duration,
    ) -> Result<Left, Broken> {
        self.restore().await?;
        let mut ticks = tokio::time::interval(heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick of an interval is at once, and `connect` was a sign of life.
        ticks.tick().await;
        let mut taken = Vec::with_capacity(COMMANDS_MAX);
        // When the acknowledgements that wait are written; some may have waited for this connection.
        let mut acks_due = self.shared.inbox.has_acks().then(Instant::now);
        loop {
            let is_leaving = self.shared.is_asked_to_leave();
            if is_leaving && !self.shared.has_waiting() {
                return self.goodbye(false).await;
            }
            // What is refused for the moment is asked for again on this connection, or on the next.
            let restore_due = self.shared.next_due().filter(|_| !is_leaving);
            // Biased, so that leaving and signs of life are not starved by a queue that is never empty. Every branch
            // is cancel safe: commands that were not taken stay in the queue, the others carry nothing.
            tokio::select! {
                biased;
                () = self.shared.leave.notified() => {}
                _ = ticks.tick() => {
                    if self.shared.may_ping() {
                        self.shared.ping_sent(Instant::now(), None);
                        self.send(&Frame::Ping).await?;
                    }
                }
                () = self.sender.progress() => {}
                () = self.shared.inbox.work.notified() => {
                    if self.shared.inbox.has_full_batch() {
                        acks_due = Some(Instant::now());
                    } else if self.shared.inbox.has_acks() && acks_due.is_none() {
                        acks_due = Some(Instant::now() + ACK_DELAY);
                    }
                }
                () = tokio::time::sleep_until(restore_due.unwrap_or_else(Instant::now)), if restore_due.is_some() => {
                    self.restore().await?;
                }
                () = tokio::time::sleep_until(acks_due.unwrap_or_else(Instant::now)), if acks_due.is_some() => {
                    acks_due = None;
                    self.flush_acks().await?;
                }
                count = commands.recv_many(&mut taken, COMMANDS_MAX), if !is_leaving => {
                    acks_due = None;
                    let is_closing = count == 0 || self.take(&mut taken).await?;
                    if is_closing {
                        return self.goodbye(true).await;
                    }
                }
            }
        }
    }

    async fn restore(&mut self) -> Result<(), Broken> {
        for interest in self.shared.take_due() {
            let reference = self.shared.reference();
            self.shared.wait(reference, Waiting::Restored(interest.clone()));
            self.send(&interest.frame(reference)).await?;
        }
        Ok(())
    }

    /// Writes what was taken, several requests in one message; true when the last one was to close.
    async fn take(&mut self, taken: &mut Vec<Command>) -> Result<bool, Broken> {
        let batch_max = BATCH_BYTES_MAX.min(self.shared.max_message_bytes());
        let mut batch = Vec::new();
        self.feed_acks(&mut batch, batch_max).await?;
        for command in taken.drain(..) {
            let bytes = match command {
                Command::Close => {
                    self.feed(&mut batch).await?;
                    return Ok(true);
                }
                Command::Ping(answer) => {
                    self.shared.ping_sent(Instant::now(), Some(answer));
                    self.encoded(&Frame::Ping)
                }
                Command::Publish { bytes, answer: None, .. } if self.sender.send_datagram(&bytes) => continue,
                Command::Publish { bytes, priority, answer } => {
                    if let Some((reference, waiting)) = answer {
                        self.shared.wait(reference, waiting);
                    }
                    if self.sender.begin_own(&bytes, priority) {
                        continue;
                    }
                    bytes
                }
                Command::Request { bytes, answer: (reference, waiting) } => {
                    self.shared.wait(reference, waiting);
                    bytes
                }
            };
            self.append(&mut batch, bytes, batch_max).await?;
        }
        self.feed(&mut batch).await?;
        self.sender.flush().await?;
        Ok(false)
    }

    /// Adds a frame to a batch; one that would be too long is written first.
    async fn append(
        &mut self,
        batch: &mut Vec<u8>,
        mut bytes: Vec<u8>,
        batch_max: usize,
    ) -> Result<(), Broken> {
        if batch.len() + bytes.len() + 1 > batch_max {
            self.feed(batch).await?;
        }
        if self.profile == Profile::Json && !batch.is_empty() {
            batch.push(b'\n');
        }
        batch.append(&mut bytes);
        Ok(())
    }

    async fn feed_acks(&mut self, batch: &mut Vec<u8>, batch_max: usize) -> Result<(), Broken> {
        for frame in self.shared.inbox.take_acks() {
            let bytes = self.encoded(&frame);
            self.append(batch, bytes, batch_max).await?;
        }
        Ok(())
    }

    async fn flush_acks(&mut self) -> Result<(), Broken> {
        let mut batch = Vec::new();
        self.feed_acks(&mut batch, BATCH_BYTES_MAX.min(self.shared.max_message_bytes())).await?;
        self.feed(&mut batch).await?;
        self.sender.flush().await
    }

    async fn feed(&mut self, batch: &mut Vec<u8>) -> Result<(), Broken> {
        if batch.is_empty() {
            return Ok(());
        }
        self.sender.feed(self.profile, std::mem::take(batch)).await
    }

    async fn goodbye(&mut self, for_good: bool) -> Result<Left, Broken> {
        // What is said on the main stream passes the others: the goodbye waits for them, and nothing else does.
        self.flush_acks().await?;
        self.sender.finish_own().await;
        self.flush_acks().await?;
        // `disconnect` ends the session; one that can be resumed is only left.
        if for_good || self.shared.welcome().resume_token.is_none() {
            self.send(&Frame::Disconnect).await?;
        }
        Ok(Left::Finished { for_good })
    }

    async fn send(&mut self, frame: &Frame<'_>) -> Result<(), Broken> {
        let bytes = self.encoded(frame);
        self.sender.send(self.profile, bytes).await
    }

    /// A frame of the driver's own: without user input, or with input that was encoded before.
    fn encoded(&self, frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let encoded = encode::client(self.profile, frame, &mut bytes);
        debug_assert!(encoded.is_ok());
        bytes
    }
}
