//! Messages that are datagrams of QUIC, in both directions.
//!
//! To clients go those of level `none`, at their first delivery to plain recipients; what does not fit a datagram is pushed as
//! any other. From clients come publishes of level `none`, which wait for nothing.
//!
//! *Invariants.* One that came, or was sent, is never repeated. A turn takes [`DATAGRAMS_PER_TURN`].

use super::Worker;
use super::beside::Beside;
use super::connection::Connection;
use super::counters::Counters;
use super::link::Link;
use super::outbox::count_whole;
use super::segment::Shared;
use super::tasks::{Cell, wait_for_mailboxes};
use bytes::Bytes;
use std::rc::Weak;
use tokio::task::yield_now;
use waspmq_protocol::stream;
use waspmq_transport::quic::{Channel, Datagrams, Sent};

/// Datagrams of one connection that are handled before others run.
const DATAGRAMS_PER_TURN: usize = 32;

/// Sends a segment as a datagram; false when it has to go on the stream.
pub(super) fn send(connection: &Connection, segment: &Shared, (counters, now_us): (&Counters, u64)) -> bool {
    let Link::Quic(channel) = &connection.link else { return false };
    let message = stream::length(segment).and_then(|(_, length_bytes)| segment.get(length_bytes..));
    let Some(message) = message else { return false };
    match channel.send_datagram(message) {
        Sent::Sent => {
            counters.datagrams.sent.add(1);
            counters.bytes_written.add(message.len() as u64);
            count_whole(counters, connection.transport, segment, now_us);
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
            if connection.is_closing() || connection.is_disconnected || connection.out.owes_much() {
                self.counters().datagrams.dropped.add(1);
                continue;
            }
            let waits_until_us = connection.waits_until_us;
            let took = self.take_beside(&mut connection, datagram, Beside::Datagram, now);
            connection.waits_until_us = waits_until_us;
            let counts = &self.counters().datagrams;
            if took.is_clean {
                counts.taken.add(1);
            } else {
                counts.refused.add(1);
            }
        }
        self.finish_batch(&mut connection);
        self.close_unread(&mut connection);
        self.put_back(number, connection);
        self.settle();
        true
    }
}
