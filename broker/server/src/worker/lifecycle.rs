//! Connections open, become sessions, fall silent, drain and end.

use super::Worker;
use super::connection::{Connection, Stage};
use super::counters::{Counters, Ended};
use super::inbound::name;
use super::outbox::end_of;
use super::segment::Encoding;
use crate::clock::Moment;
use socket2::SockRef;
use std::net::{Shutdown, SocketAddr};
use tokio::net::TcpStream;
use waspmq_core::admission::Rate;
use waspmq_core::registry::{self, SessionEntry};
use waspmq_core::session::{Session, State, Subscription};
use waspmq_core::{Address, Close, Code, Kind, Reject, SessionId};
use waspmq_protocol::client::Connect;
use waspmq_protocol::{Profile, server};
use waspmq_transport::websocket;

/// Connections a sweep acts on; the rest is still due at the next one.
const LATE_PER_SWEEP: usize = 1024;
/// How long a closing peer may take to close its side.
const CLOSE_WAIT_US: u64 = 3_000_000;

impl Worker {
    /// Takes an accepted socket; gives its number and stream for the task that reads it.
    pub(super) fn open(&mut self, stream: TcpStream, remote: SocketAddr) -> u32 {
        let now = self.shared.clock.now();
        let settings = &self.shared.settings;
        let session = Session::new(Rate::new(settings.publishes_per_second, settings.publish_burst));
        let slot = self.connections.vacant_entry();
        let number = u32::try_from(slot.key()).unwrap_or(u32::MAX);
        slot.insert(Some(Box::new(Connection::new(number, (stream, remote), session, now.us))));
        self.counters().connections_opened.add(1);
        self.counters().connections.add(1);
        number
    }

    pub(super) fn connect(
        &mut self,
        connection: &mut Connection,
        connect: &Connect<'_>,
        now: Moment,
    ) -> Result<(), Reject> {
        self.session_count += 1;
        let id = SessionId::new(self.shared.registry.epoch(), self.number, self.session_count);
        let user = match connect.user.as_deref() {
            Some(user) => name(user)?,
            None => name(&format!("anonymous-{id}"))?,
        };
        let device = connect.device.as_deref().map(name).transpose()?;
        let identity = registry::Session { id, worker: self.number, user, device };
        let entry = SessionEntry {
            session: identity.clone(),
            transport: match connection.encoding.profile {
                Profile::Json => "websocket+json",
                Profile::Binary => "websocket+binary",
            },
            remote: connection.remote,
            connected_unix_ms: now.unix_ms,
        };
        for address in self.shared.registry.connect(entry)? {
            self.recipients.attach(&address, connection.number);
            if address.kind() == Kind::Group {
                connection.groups.push(address);
            }
        }
        self.numbers.insert(id, connection.number);
        connection.session_id = Some(id);
        connection.session.handle_connected(identity);
        connection.encoding.batch = connect.batch;
        self.counters().sessions.add(1);
        let settings = &self.shared.settings;
        let welcome = server::Welcome {
            session: id.to_string(),
            resume_token: None,
            node: self.shared.node.to_string(),
            resumed: false,
            recovered: false,
            heartbeat_ms: settings.heartbeat_ms,
            max_message_bytes: u32::try_from(settings.message_bytes_max).unwrap_or(u32::MAX),
        };
        self.send(connection, &server::Frame::Welcome(welcome));
        Ok(())
    }

    /// Sends one control frame.
    pub(super) fn send(&mut self, connection: &mut Connection, frame: &server::Frame) {
        self.control.push(connection.encoding, frame);
        self.send_control(connection);
    }

    /// Sends what was put together in [`Worker::control`].
    pub(super) fn send_control(&mut self, connection: &mut Connection) {
        let Self { control, outbox, .. } = self;
        if !control.bytes.is_empty() {
            outbox.push_own(connection, &control.bytes);
            control.bytes.clear();
        }
    }

    /// Sends a close frame behind everything queued; the connection takes no more input.
    pub(super) fn close_with(
        &mut self,
        connection: &mut Connection,
        (code, reason): (u16, &str),
        ended: Ended,
    ) {
        if connection.is_closing() {
            return;
        }
        if connection.stage == Stage::Open {
            let mut frame = Vec::with_capacity(128);
            websocket::write_close(code, reason, &mut frame);
            self.outbox.push_own(connection, &frame);
        }
        self.start_closing(connection, ended);
        self.outbox.mark(connection);
    }

    /// Ends the session at once; the connection lives on until what it is owed is written.
    pub(super) fn start_closing(&mut self, connection: &mut Connection, reason: Ended) {
        let deadline_us = self.shared.clock.now_us() + CLOSE_WAIT_US;
        connection.stage = Stage::Closing { deadline_us, reason };
        self.end_session(connection);
    }

    /// Forgets a session and everything it was subscribed to.
    fn end_session(&mut self, connection: &mut Connection) {
        let Some((identity, subscriptions)) = connection.session.handle_close() else { return };
        self.shared.registry.disconnect(&identity);
        self.numbers.remove(&identity.id);
        self.recipients.detach(&Address::user(&identity.user), connection.number);
        self.recipients.detach(&Address::all(), connection.number);
        for subscription in &subscriptions {
            self.forget_subscription(&identity, connection.number, subscription);
        }
        for group in &connection.groups {
            self.recipients.detach(group, connection.number);
        }
        let counters = self.counters();
        counters.sessions.set(counters.sessions.load().saturating_sub(1));
    }

    /// Closes a connection that is not being read at the moment.
    pub(super) fn close_number(&mut self, number: u32, close: Close) {
        let ended = match close {
            Close::Kicked | Close::Replaced => Ended::Kicked,
            Close::Draining => Ended::Drained,
            Close::HeartbeatLost | Close::ConnectTimeout => Ended::Timeout,
            Close::Overloaded | Close::SlowConsumer => Ended::Overloaded,
            Close::Refused | Close::TokenExpired => Ended::Refused,
            Close::ProtocolViolation => Ended::Protocol,
        };
        if let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) {
            self.close_with(&mut connection, (close.number(), close.name()), ended);
            self.put_back(number, connection);
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, number: u32) {
        if !self.connections.contains(number as usize) {
            return;
        }
        let Some(mut connection) = self.connections.remove(number as usize) else { return };
        let now_us = self.shared.clock.now_us();
        self.end_session(&mut connection);
        self.outbox.forget(&connection);
        self.held_bytes -= connection.held_bytes;
        // The task that reads the connection may wait for either of these; it finds that the connection is gone.
        if let Some(paused) = connection.paused.take() {
            paused.notify_one();
        }
        shutdown(&connection, Shutdown::Both);
        let counters = self.counters();
        counters.dropped_connection_lost.add(connection.out.pending_frames());
        counters.connections.set(counters.connections.load().saturating_sub(1));
        counters.closed(end_of(&connection)).add(1);
        counters.connection_duration_us.observe(now_us.saturating_sub(connection.opened_us), 1);
        tracing::debug!(
            remote = %connection.remote,
            reason = end_of(&connection).as_str(),
            dropped = connection.dropped,
            "connection closed"
        );
    }

    pub(super) fn forget_subscription(
        &mut self,
        identity: &registry::Session,
        number: u32,
        subscription: &Subscription,
    ) {
        let registry = &self.shared.registry;
        let Some(queue) = &subscription.queue else {
            registry.unsubscribe(&subscription.pattern, identity);
            self.recipients.unsubscribe(&subscription.pattern, number);
            return;
        };
        if let Some(queue) = registry.leave_queue(&subscription.pattern, queue, identity) {
            self.shared.policies.queue_changed(queue.to_members());
        }
    }

    /// Once a second: deadlines of hand-shakes, heartbeats and closing connections.
    pub(super) fn sweep(&mut self) {
        let now_us = self.shared.clock.now_us();
        let settings = &self.shared.settings;
        let (connect_us, heartbeat_us) =
            (settings.connect_timeout_us, u64::from(settings.heartbeat_ms) * 1_000);
        let mut late = std::mem::take(&mut self.late);
        late.extend(
            self.connections
                .iter()
                .filter_map(|(number, connection)| {
                    let connection = connection.as_ref()?;
                    let silent_us = now_us.saturating_sub(connection.heard_us);
                    let action = match connection.stage {
                        Stage::Closing { deadline_us, .. } if now_us >= deadline_us => Late::Remove,
                        Stage::Closing { .. } => return None,
                        _ if connection.session.state() == State::Handshake => {
                            (now_us.saturating_sub(connection.opened_us) >= connect_us)
                                .then_some(Late::Connect)?
                        }
                        _ if silent_us >= 2 * heartbeat_us => Late::Close,
                        _ if silent_us >= heartbeat_us && !connection.pinged => Late::Ping,
                        _ => return None,
                    };
                    Some((u32::try_from(number).ok()?, action))
                })
                .take(LATE_PER_SWEEP),
        );
        for (number, action) in late.drain(..) {
            self.handle_late(number, action);
        }
        self.late = late;
        self.publish_gauges();
    }

    fn handle_late(&mut self, number: u32, action: Late) {
        if action == Late::Remove {
            return self.remove(number);
        }
        let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        match action {
            Late::Connect if connection.stage == Stage::Open => {
                let reject =
                    Reject::new(Code::ConnectTimeout, "`connect` did not arrive in time").retry_after(1_000);
                self.refuse(&mut connection, None, reject);
            }
            Late::Connect => {
                self.start_closing(&mut connection, Ended::Timeout);
                self.outbox.mark(&mut connection);
            }
            Late::Ping => {
                let mut ping = Vec::with_capacity(websocket::HEADER_MAX);
                websocket::write_ping(b"", &mut ping);
                self.outbox.push_own(&mut connection, &ping);
                connection.pinged = true;
            }
            Late::Close | Late::Remove => {
                let close = Close::HeartbeatLost;
                self.close_with(&mut connection, (close.number(), close.name()), Ended::Timeout);
            }
        }
        self.put_back(number, connection);
    }

    /// Tells one connection to go and closes it behind what it still has to be sent.
    pub(super) fn drain_connection(&mut self, number: u32, reconnect_ms: u32) {
        let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        if connection.session_id.is_some() && !connection.is_closing() {
            connection.session.handle_drain();
            let goaway = server::Goaway { reason: "drain".to_owned(), reconnect_ms };
            self.send(&mut connection, &server::Frame::Goaway(goaway));
        }
        let close = Close::Draining;
        self.close_with(&mut connection, (close.number(), close.name()), Ended::Drained);
        self.put_back(number, connection);
    }

    /// Puts back a connection that was taken out of its slot to be worked on.
    pub(super) fn put_back(&mut self, number: u32, connection: Box<Connection>) {
        if let Some(slot) = self.connections.get_mut(number as usize) {
            *slot = Some(connection);
        }
    }

    fn publish_gauges(&self) {
        let counters: &Counters = self.counters();
        counters.outbound_queue_bytes.set(self.outbox.pinned_bytes() as u64);
        counters.dropped_slow_consumer.set(self.outbox.dropped);
    }
}

/// Ends one or both directions of a connection's socket.
pub(super) fn shutdown(connection: &Connection, how: Shutdown) {
    if let Err(error) = SockRef::from(&*connection.stream).shutdown(how) {
        tracing::trace!(%error, "the socket was closed already");
    }
}

/// What a sweep found due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    Connect,
    Ping,
    Close,
    Remove,
}

/// Control frames for one connection, put together before they are queued.
#[derive(Debug, Default)]
pub(super) struct Control {
    bytes: Vec<u8>,
}

impl Control {
    /// Appends one frame as a WebSocket message of its own.
    pub(super) fn push(&mut self, encoding: Encoding, frame: &server::Frame) {
        let start = websocket::begin_frame(&mut self.bytes);
        waspmq_protocol::encode::control(encoding.profile, frame, &mut self.bytes);
        websocket::end_frame(&mut self.bytes, start, encoding.opcode());
    }
}
