//! What leaves the stream where the client asked for it: short messages as datagrams, long ones on streams of their own.
//!
//! What goes to clients so has no position. It may come before others that were published earlier, and a client that named
//! such a position when it resumes would not be sent those. Nor does anybody know whether a client has handled it, so a
//! session that was sent something so has missed something when it is resumed. What is stored, is to be acknowledged or is for
//! a queue stays on the stream: cursors and `ack` with `upto` speak of an order.
//!
//! What has no room in the outbound queue is not sent around it: it is pushed as any other. From clients come publishes, and
//! nothing else.

use super::compression::Form;
use super::connection::Connection;
use super::counters::Counters;
use super::enqueue::journal_full;
use super::link::Link;
use super::outbox::Outbox;
use super::publish::Taken;
use super::segment::Shared;
use super::unpack::Unpacking;
use super::{This, Worker};
use super::{datagrams, streams};
use crate::clock::Moment;
use std::rc::Rc;
use tokio::task::spawn_local;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::{Code, Level, Reject};
use waspmq_protocol::client::{Connect, Frame, Publish};
use waspmq_protocol::decode::{self, Frames};
use waspmq_protocol::limits::BAD_FRAMES_MAX;
use waspmq_transport::limits::QUIC_DATAGRAM_BYTES_MAX;

/// A payload of so many bytes is a long message.
const LONG_FROM_BYTES: usize = 16 * 1024;

/// How a message leaves the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Datagram,
    Stream,
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) datagrams: bool,
    pub(crate) streams: bool,
}

impl Asked {
    pub(crate) const NOTHING: Self = Self { datagrams: false, streams: false };

    /// How a message is laid out to leave the stream, if it may: not so what may come only behind a dictionary.
    pub(super) fn of(self, (batch, envelope): (&Batch, &Envelope), form: &Form) -> Option<Beside> {
        if self == Self::NOTHING || batch.is_kept || form.dictionary().is_some() {
            return None;
        }
        let payload_bytes = batch.slice(envelope.payload).len();
        // What is longer than any path takes is none.
        let is_short = payload_bytes + batch.slice(envelope.headers).len() < QUIC_DATAGRAM_BYTES_MAX;
        let is_long = payload_bytes >= LONG_FROM_BYTES;
        match batch.level {
            Level::None if self.datagrams && is_short => Some(Beside::Datagram),
            Level::None | Level::Accepted if self.streams && is_long => Some(Beside::Stream),
            _ => None,
        }
    }
}

/// Sends a segment beside the stream; false when it has to go on it.
pub(super) fn send(
    connection: &mut Connection,
    segment: &Shared,
    (outbox, worker): (&mut Outbox, &This),
    (counters, now_us): (&Counters, u64),
) -> bool {
    match segment.segment().beside {
        None => false,
        Some(Beside::Datagram) => {
            outbox.has_room(connection, segment) && datagrams::send(connection, segment, (counters, now_us))
        }
        Some(Beside::Stream) => streams::send(connection, segment, (outbox, worker, counters)),
    }
}

/// What was done with the frames of a message.
#[derive(Debug)]
pub(super) struct Took<'a> {
    /// Whether all of them may come so.
    pub(super) is_clean: bool,
    /// What begins with a publish that waits for the journal. What was decided about it is at hand.
    pub(super) waits: Option<&'a [u8]>,
}

impl Worker {
    /// Begins to take what the session sends beside its stream, as far as it asked for that.
    pub(super) fn begin_beside(&self, connection: &mut Connection, connect: &Connect<'_>) {
        let Link::Quic(channel) = &connection.link else { return };
        let asked = Asked { datagrams: connect.datagrams, streams: connect.streams };
        connection.encoding.beside = asked;
        let Some(worker) = self.this.upgrade().filter(|_| asked != Asked::NOTHING) else { return };
        let (number, weak) = (connection.number, Rc::downgrade(channel));
        if asked.datagrams {
            spawn_local(datagrams::read(worker.clone(), number, weak.clone(), channel.datagrams()));
        }
        if asked.streams {
            spawn_local(streams::accept(worker, number, weak, channel.side_streams()));
        }
    }

    /// Connections that were sent something beside the stream for the first time: what their sessions miss from now on is
    /// not known.
    pub(super) fn note_beside(&mut self, began: &[u32]) {
        for &number in began {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            self.note(&mut connection, |record| record.has_missed = true);
            self.put_back(number, connection);
        }
    }

    /// Takes the frames of a message that came beside the stream.
    pub(super) fn take_beside<'a>(
        &mut self,
        connection: &mut Connection,
        message: &'a [u8],
        way: Beside,
        now: Moment,
    ) -> Took<'a> {
        let mut unpacking = Unpacking::new(self.shared.settings.message_bytes_max);
        let mut frames = decode::binary_frames(message);
        let mut bad = usize::from(message.is_empty());
        while bad < BAD_FRAMES_MAX && !unpacking.is_over() && !connection.is_closing() {
            let rest = frames.rest();
            let (reference, reject) = match frames.next() {
                None => break,
                Some(Ok(Frame::Publish(publish))) if way == Beside::Stream || publish.ack == Level::None => {
                    let reference = publish.reference;
                    if self.take_publish(connection, publish, &mut unpacking, now) == Taken::Done {
                        continue;
                    }
                    if way == Beside::Stream {
                        return Took { is_clean: bad == 0, waits: Some(rest) };
                    }
                    // What the connection's stream holds back is not to wait for a datagram.
                    self.planned = None;
                    self.refuse(connection, reference, journal_full());
                    continue;
                }
                Some(Ok(frame)) => {
                    let text = match way {
                        Beside::Datagram => "only `publish` with `ack` `none` comes in a datagram",
                        Beside::Stream => "only `publish` comes on a stream of its own",
                    };
                    (frame.reference(), Reject::new(Code::InvalidFrame, text))
                }
                Some(Err(error)) => (error.reference, error.reject()),
            };
            bad += 1;
            self.finish_batch(connection);
            self.refuse(connection, reference, reject);
        }
        Took { is_clean: bad == 0, waits: None }
    }

    fn take_publish(
        &mut self,
        connection: &mut Connection,
        publish: Publish<'_>,
        unpacking: &mut Unpacking,
        now: Moment,
    ) -> Taken {
        match publish.packed {
            None => self.handle_publish(connection, &publish, now),
            Some(packed) => self.handle_packed(connection, (publish, packed), unpacking, now),
        }
    }
}

#[cfg(test)]
mod tests;
