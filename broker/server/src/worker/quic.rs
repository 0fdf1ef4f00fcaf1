//! Connections of QUIC in a worker: from the hand-over to a connection as any other, and their messages.
//!
//! *Invariants.* A handshake ends within the time that `connect` may take, and is counted once, as the ones of TLS.

use super::connection::{Connection, Stage};
use super::counters::Ended;
use super::lifecycle::Way;
use super::link::Link;
use super::tasks::{Cell, serve_link};
use super::{Settings, Worker};
use crate::clock::Moment;
use crate::phase::Phase;
use crate::quic::Handed;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, timeout_at};
use waspmq_core::{Close, Code, Reject};
use waspmq_protocol::stream::{self, Front};
use waspmq_transport::origin;
use waspmq_transport::quic::{Incoming, Opened, Page};

/// Opens the connections that the listener's thread hands over, until it ends.
pub(super) async fn accept(worker: Cell, mut handed: mpsc::Receiver<Handed>) {
    while let Some(Handed { incoming, handshake }) = handed.recv().await {
        if worker.borrow().is_crowded(incoming.remote()) {
            incoming.refuse();
            continue;
        }
        let worker = worker.clone();
        spawn_local(async move {
            open(&worker, incoming).await;
            drop(handshake);
        });
    }
}

async fn open(worker: &Cell, incoming: Incoming) {
    // A signature takes as long as hundreds of messages.
    while !worker.borrow_mut().handshakes.may_go_on() {
        yield_now().await;
    }
    let shared = worker.borrow().shared.clone();
    let remote = incoming.remote();
    let counters = &shared.mailboxes.of(worker.borrow().number).counters;
    let deadline = Instant::now() + Duration::from_micros(shared.settings.connect_timeout_us);
    let mut connected = match timeout_at(deadline, incoming.connect()).await {
        Ok(Ok(connected)) => connected,
        failed => {
            counters.tls_failed.add(1);
            return tracing::debug!(%remote, ?failed, "a handshake of QUIC failed");
        }
    };
    counters.tls_completed.add(1);
    let opening = connected.open(|page| admit(&page, &shared.settings));
    let Opened { channel, protocol } = match timeout_at(deadline, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            counters.handshakes_refused.add(1);
            return tracing::debug!(%remote, %error, "a connection of QUIC had no stream");
        }
        Err(_) => {
            // As one of TCP that says nothing: it was open, and ended.
            counters.connections_opened.add(1);
            counters.closed(Ended::Timeout).add(1);
            counters.connection_duration_us.observe(shared.settings.connect_timeout_us, 1);
            let close = Close::ConnectTimeout;
            connected.close(close.number().into(), close.name());
            return tracing::debug!(%remote, "a connection of QUIC had no stream in time");
        }
    };
    let is_leaving = shared.phase.load() > Phase::Ready;
    if is_leaving || worker.borrow().is_crowded(remote) {
        let close = if is_leaving { Close::Draining } else { Close::Overloaded };
        return channel.close(close.number().into(), close.name());
    }
    serve_link(worker, Link::Quic(Rc::new(channel)), remote, Way::Stream(protocol));
}

/// Whether a browser may have a session, by the rules of WebSocket's.
fn admit(page: &Page<'_>, settings: &Settings) -> Result<(), u16> {
    if page.path != "/wt" {
        return Err(404);
    }
    let host = Some(page.authority);
    if settings.check_host && !origin::host_allowed(host, &settings.allowed_hosts) {
        return Err(403);
    }
    if !origin::origin_allowed(page.origin, host, &settings.allowed_origins) {
        return Err(403);
    }
    Ok(())
}

impl Worker {
    /// A message that says it is longer than `limit`.
    pub(super) fn refuse_long(&mut self, connection: &mut Connection, limit: usize) {
        self.finish_batch(connection);
        let message = format!("a message may have {limit} bytes here");
        self.refuse(connection, None, Reject::new(Code::MessageTooLarge, message));
    }

    /// Handles the complete messages of a stream; gives their length.
    pub(super) fn take_stream(&mut self, connection: &mut Connection, bytes: &[u8], now: Moment) -> usize {
        let mut consumed = 0;
        while connection.stage == Stage::Open && connection.held.is_none() && !connection.is_disconnected {
            let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) else { break };
            let limit = self.message_limits(connection).message_bytes_max;
            match stream::front(rest, limit) {
                Front::Whole { message, bytes } => {
                    consumed += bytes;
                    self.take_message(connection, message, now);
                }
                Front::Part { wanted_bytes } => {
                    connection.wanted_bytes = wanted_bytes;
                    break;
                }
                Front::TooLong(_) => {
                    self.refuse_long(connection, limit);
                    break;
                }
            }
        }
        self.finish_batch(connection);
        // Behind a goodbye nothing is heard.
        if connection.is_closing() || connection.is_disconnected { bytes.len() } else { consumed }
    }
}
