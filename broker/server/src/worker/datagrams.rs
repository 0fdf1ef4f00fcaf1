//! Messages that are datagrams of QUIC, in both directions, where the client asked for them.
//!
//! To clients go those of level `none` that are not stored, at their first delivery to plain recipients. They have no
//! position: a datagram may come before others that were published earlier, and a client that named it when it resumes
//! would not be sent those. What has no room in the outbound queue is not sent around it: it is pushed as any other, and so
//! is what does not fit a datagram. From clients come publishes of level `none`, which wait for nothing.
//!
//! *Invariants.* Nobody knows whether a datagram came, so a session that was sent one has missed something when it is
//! resumed. One that came, or was sent, is never repeated. A turn takes [`DATAGRAMS_PER_TURN`].

use super::Worker;
use super::compression::Form;
use super::connection::Connection;
use super::counters::{Counters, Ended};
use super::enqueue::journal_full;
use super::link::Link;
use super::outbox::count_delivered;
use super::publish::Taken;
use super::segment::{Encoding, Shared};
use super::tasks::{Cell, wait_for_mailboxes};
use super::unpack::Unpacking;
use crate::clock::Moment;
use bytes::Bytes;
use std::rc::Weak;
use tokio::task::yield_now;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::outbound::Segment as _;
use waspmq_core::{Close, Code, Level, Reject};
use waspmq_protocol::client::{Frame, Publish};
use waspmq_protocol::decode;
use waspmq_protocol::limits::BAD_FRAMES_MAX;
use waspmq_protocol::stream;
use waspmq_transport::limits::QUIC_DATAGRAM_BYTES_MAX;
use waspmq_transport::quic::{Channel, Datagrams, Sent};

/// Datagrams of one connection that are handled before others run.
const DATAGRAMS_PER_TURN: usize = 32;

/// Whether a message is laid out as a datagram: what is longer than any path takes is not, nor what may come only behind
/// a dictionary.
pub(super) fn is_one(encoding: Encoding, (batch, envelope): (&Batch, &Envelope), form: &Form) -> bool {
    encoding.datagrams
        && batch.level == Level::None
        && !batch.is_kept
        && form.dictionary().is_none()
        && batch.slice(envelope.payload).len() + batch.slice(envelope.headers).len() < QUIC_DATAGRAM_BYTES_MAX
}

/// Sends a segment as a datagram; false when it has to go on the stream.
pub(super) fn send(connection: &Connection, segment: &Shared, (counters, now_us): (&Counters, u64)) -> bool {
    let Link::Quic(channel) = &connection.link else { return false };
    let message = stream::length(segment).and_then(|(_, length_bytes)| segment.get(length_bytes..));
    let Some(message) = message else { return false };
    match channel.send_datagram(message) {
        Sent::Sent => {
            counters.datagrams.sent.add(1);
            counters.bytes_written.add(message.len() as u64);
            let of = segment.segment();
            let delivered = Some((of.kind, of.published_us, u64::from(segment.frames())));
            count_delivered(counters, connection.transport, delivered, now_us);
            true
        }
        Sent::TooLarge => {
            counters.datagrams.large.add(1);
            false
        }
        Sent::Full => {
            counters.datagrams.full.add(1);
            false
        }
    }
}

/// Reads the datagrams of one connection until it ends.
pub(super) async fn read(worker: Cell, number: u32, channel: Weak<Channel>, datagrams: Datagrams) {
    let mut received = Vec::new();
    while datagrams.receive(&mut received, DATAGRAMS_PER_TURN).await {
        let Some(channel) = channel.upgrade() else { return };
        if !worker.borrow_mut().take_datagrams(number, &Link::Quic(channel), &received) {
            return;
        }
        received.clear();
        yield_now().await;
        wait_for_mailboxes(&worker).await;
    }
}

impl Worker {
    /// Connections that were sent the first datagram of their session: what it misses from now on is not known.
    pub(super) fn note_datagrams(&mut self, began: &[u32]) {
        for &number in began {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            self.note(&mut connection, |record| record.has_missed = true);
            self.put_back(number, connection);
        }
    }

    /// Handles datagrams of a connection; false when it is gone.
    fn take_datagrams(&mut self, number: u32, link: &Link, datagrams: &[Bytes]) -> bool {
        let slot = self.connections.get_mut(number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(link))) else {
            return false;
        };
        let now = self.shared.clock.now();
        connection.heard_us = now.us;
        for datagram in datagrams {
            self.counters().bytes_read.add(datagram.len() as u64);
            let is_taken = connection.session_id.is_some()
                && connection.encoding.datagrams
                && !connection.is_closing()
                && !connection.out.owes_much();
            let counts = &self.counters().datagrams;
            if !is_taken {
                counts.dropped.add(1);
            } else if self.take_datagram(&mut connection, datagram, now) {
                self.counters().datagrams.taken.add(1);
            } else {
                self.counters().datagrams.refused.add(1);
            }
        }
        self.finish_batch(&mut connection);
        if connection.out.owes_too_much() {
            let close = (Close::Overloaded.number(), "too many answers are not read");
            self.close_with(&mut connection, close, Ended::Overloaded);
        }
        self.put_back(number, connection);
        self.settle();
        true
    }

    /// Takes the frames of a datagram. False when one of them may not come in one, or is none.
    fn take_datagram(&mut self, connection: &mut Connection, datagram: &[u8], now: Moment) -> bool {
        let mut unpacking = Unpacking::new(self.shared.settings.message_bytes_max);
        let mut frames = decode::binary_frames(datagram);
        let mut bad = usize::from(datagram.is_empty());
        while bad < BAD_FRAMES_MAX && !unpacking.is_over() && !connection.is_closing() {
            let (reference, reject) = match frames.next() {
                None => break,
                Some(Ok(Frame::Publish(publish))) if publish.ack == Level::None => {
                    self.publish_datagram(connection, publish, &mut unpacking, now);
                    continue;
                }
                Some(Ok(frame)) => {
                    let text = "only `publish` with `ack` `none` comes in a datagram";
                    (frame.reference(), Reject::new(Code::InvalidFrame, text))
                }
                Some(Err(error)) => (error.reference, error.reject()),
            };
            bad += 1;
            self.finish_batch(connection);
            self.refuse(connection, reference, reject);
        }
        bad == 0
    }

    /// Publishes what came in a datagram. What would have to wait for the journal is refused: what the connection's
    /// stream holds back is not to wait for it.
    fn publish_datagram(
        &mut self,
        connection: &mut Connection,
        publish: Publish<'_>,
        unpacking: &mut Unpacking,
        now: Moment,
    ) {
        let waits_until_us = connection.waits_until_us;
        let reference = publish.reference;
        let taken = match publish.packed {
            None => self.handle_publish(connection, &publish, now),
            Some(packed) => self.handle_packed(connection, (publish, packed), unpacking, now),
        };
        if taken == Taken::Waits {
            connection.waits_until_us = waits_until_us;
            self.planned = None;
            self.refuse(connection, reference, journal_full());
        }
    }
}

#[cfg(test)]
mod tests;
