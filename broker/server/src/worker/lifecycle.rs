//! Connections open, become sessions, fall silent, drain and end.

use super::Worker;
use super::catchup::Start;
use super::connection::{Connection, Stage};
use super::counters::{Counters, Ended, Transport};
use super::framing::Framing;
use super::link::{Goodbye, Link};
use super::mailbox::Entry;
use super::outbox::end_of;
use super::resume::{Claim, Resumed};
use crate::clock::Moment;
use std::net::{Shutdown, SocketAddr};
use waspmq_core::admission::Rate;
use waspmq_core::registry::{self, SessionEntry};
use waspmq_core::session::{Session, State, Subscription};
use waspmq_core::settings::Overflow;
use waspmq_core::{Address, Close, Code, Kind, Position, QueueId, Reject, SessionId};
use waspmq_protocol::client::Connect;
use waspmq_protocol::{Profile, Secret, server};
use waspmq_transport::quic::Protocol;
use waspmq_transport::{tls, websocket};

/// Connections a sweep acts on; the rest is still due at the next one.
const LATE_PER_SWEEP: usize = 1024;
/// The codecs of payloads that the broker takes, the best first.
const CODECS: [&str; 3] = ["zstd-dict", "zstd", "lz4"];
/// How long a closing peer may take to close its side.
pub(super) const CLOSE_WAIT_US: u64 = 3_000_000;

/// How a connection came to be.
#[derive(Debug)]
pub(super) enum Way {
    /// A socket, with its TLS where the listener has a certificate.
    Socket(Option<Box<tls::Session>>),
    /// A stream of QUIC.
    Stream(Protocol),
}

impl Worker {
    /// Whether the broker has as many connections as it may have; whoever comes is turned away.
    pub(super) fn is_crowded(&self, remote: SocketAddr) -> bool {
        let shared = &self.shared;
        let connections: u64 =
            shared.mailboxes.iter().map(|mailbox| mailbox.counters.connections.load()).sum();
        if connections < shared.settings.connections_max {
            return false;
        }
        self.counters().handshakes_refused.add(1);
        tracing::warn!(%remote, connections, "connection refused: limits.connections_max is reached");
        true
    }

    /// Takes an open connection; gives its number for the task that reads it.
    pub(super) fn open(&mut self, (link, remote): (Link, SocketAddr), way: Way) -> u32 {
        let now = self.shared.clock.now();
        let settings = &self.shared.settings;
        let session = Session::new(Rate::new(settings.publishes_per_second, settings.publish_burst));
        let slot = self.connections.vacant_entry();
        let number = u32::try_from(slot.key()).unwrap_or(u32::MAX);
        let mut connection = Box::new(Connection::new(number, (link, remote), session, now.us));
        match way {
            Way::Socket(tls) => connection.tls = tls,
            Way::Stream(protocol) => {
                connection.stage = Stage::Open;
                connection.encoding.profile = Profile::Binary;
                connection.encoding.framing = Framing::Stream;
                connection.transport = match protocol {
                    Protocol::Quic => Transport::Quic,
                    Protocol::WebTransport => Transport::WebTransport,
                };
            }
        }
        let transport = connection.transport;
        slot.insert(Some(connection));
        self.counters().connections_opened.add(1);
        self.counters().connections.add(1);
        self.counters().connections_by.of(transport).add(1);
        number
    }

    pub(super) fn begin_session(
        &mut self,
        connection: &mut Connection,
        (connect, claim): (&Connect<'_>, Option<Claim>),
        now: Moment,
    ) -> Result<(), Reject> {
        self.session_count += 1;
        let fresh = SessionId::new(self.shared.registry.epoch(), self.number, self.session_count);
        let named_by = claim.as_ref().and_then(|claim| claim.named_by);
        let admitted = self.admit(connect, named_by.unwrap_or(fresh), now)?;
        let (user, device) = (admitted.user.clone(), admitted.device.clone());
        let resumed =
            claim.and_then(|claim| self.take_claimed(connect, &claim, (&user, device.as_ref()), now));
        let id = resumed.as_ref().and_then(Resumed::id).unwrap_or(fresh);
        let identity = registry::Session { id, worker: self.number, user, device };
        let entry = SessionEntry {
            session: identity.clone(),
            transport: connection.spoken(),
            remote: connection.remote,
            connected_unix_ms: now.unix_ms,
            is_generated: admitted.is_unnamed(),
        };
        let (connected, resumed) = self.register(entry, resumed, now)?;
        self.close_replaced(&connected.replaced);
        let before = connected.addresses;
        for (address, _) in &before {
            self.recipients.attach(address, connection.number);
            if address.kind() == Kind::Group {
                connection.groups.push(address.clone());
            }
        }
        for known_as in [id, fresh] {
            self.numbers.insert(known_as, connection.number);
        }
        (connection.session_id, connection.asker) = (Some(id), Some(fresh));
        connection.session.handle_connected(identity);
        self.begin_access(connection, admitted.into_access());
        connection.encoding.batch = connect.batch;
        self.begin_beside(connection, connect);
        connection.take_codecs(connect.codecs.iter().map(|name| &**name));
        self.counters().sessions.add(1);
        if connected.is_first && !connection.access.is_unnamed() {
            self.save_first_seen(connection, now.unix_ms);
        }
        let resume_token = self.issue_token(connection, &before, now);
        self.welcome(connection, (resume_token, resumed), &before);
        self.tell_online(connection);
        Ok(())
    }

    /// Gives the session back what it had, if it is resumed, tells it that it exists, and begins to read what it missed.
    fn welcome(
        &mut self,
        connection: &mut Connection,
        (resume_token, mut resumed): (Option<Secret<'static>>, Option<Resumed>),
        before: &[(Address, Position)],
    ) {
        let Some(session) = connection.session_id else { return };
        let (recovered, refused) = match &mut resumed {
            Some(resumed) => self.restore(connection, resumed, before),
            None => (false, Vec::new()),
        };
        if let Some(events) = connection.events() {
            events.begin(resumed.is_some());
        }
        let settings = &self.shared.settings;
        let welcome = server::Welcome {
            session: session.to_string(),
            resume_token,
            node: self.shared.node.to_string(),
            resumed: resumed.is_some(),
            recovered,
            heartbeat_ms: settings.heartbeat_ms,
            max_message_bytes: u32::try_from(settings.message_bytes_max).unwrap_or(u32::MAX),
            codecs: match connection.encoding.profile {
                Profile::Binary => CODECS.map(str::to_owned).to_vec(),
                Profile::Json => Vec::new(),
            },
        };
        self.send(connection, &server::Frame::Welcome(welcome));
        for reject in refused {
            self.refuse(connection, None, reject);
        }
        match resumed {
            Some(resumed) => self.restore_watches(connection, resumed),
            None => self.catch_up_own(connection, before),
        }
    }

    /// Begins to read what is stored of the session's own addresses behind the device's cursors.
    fn catch_up_own(&mut self, connection: &mut Connection, before: &[(Address, Position)]) {
        let Some(identity) = connection.session.identity() else { return };
        let (user, device) = (identity.user.clone(), identity.device.clone());
        let own = Address::user(&user);
        let groups = connection.groups.clone();
        for address in [own.clone(), Address::all()].into_iter().chain(groups) {
            if !self.shared.kept.may_have(&address) {
                continue;
            }
            // What is read lies before what a client may have seen of the stream in an earlier session.
            connection.catching.note_passed(self.shared.registry.shard_of(&address));
            let (user, device) = (user.clone(), device.clone());
            let start = if address == own {
                Start::Cursor { user, device }
            } else {
                let before = self.end_before(&address, before);
                Start::CursorOrSeen { user, device, before }
            };
            self.catch_up(connection, &address, start);
        }
    }

    /// Publishers that wait for this user deliver now.
    fn tell_online(&self, connection: &Connection) {
        let Some(identity) = connection.session.identity() else { return };
        for (worker, mailbox) in (0..).zip(self.shared.mailboxes.iter()) {
            let is_waited_for = mailbox.counters.waiting_offline.load() > 0;
            if is_waited_for
                && self.shared.mailboxes.send(worker, Entry::Online(identity.user.clone())).is_err()
            {
                tracing::debug!(
                    worker,
                    "a worker was not told that a user is back; it looks again by itself"
                );
            }
        }
    }

    /// Ends the sessions whose place a new one took. One that could not be told stays, and the user's next session
    /// names it again.
    pub(super) fn close_replaced(&self, replaced: &[registry::Session]) {
        for session in replaced {
            let entry = Entry::Close { session: session.id, close: Close::Replaced };
            if self.shared.mailboxes.send(session.worker, entry).is_err() {
                tracing::warn!(session = %session.id, "a replaced session could not be told to go");
            }
        }
    }

    /// Says why behind everything queued; the connection takes no more input.
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
            if connection.out.has_reports() {
                self.tell_losses(connection);
            }
            if connection.encoding.framing.has_close() {
                let mut frame = Vec::with_capacity(128);
                websocket::write_close(code, reason, &mut frame);
                self.outbox.push_own(connection, &frame);
            } else {
                // It is as sure to arrive as what is in front of it; the datagram that closes QUIC is sent once.
                self.send(connection, &server::Frame::Close(server::Close::new(code, reason)));
            }
        }
        if connection.link.is_quic() {
            connection.goodbye = Some(Box::new(Goodbye { code: code.into(), reason: reason.to_owned() }));
        }
        self.start_closing(connection, ended);
        self.outbox.mark(connection);
    }

    /// Ends the session at once; the connection lives on until what it is owed is written.
    pub(super) fn start_closing(&mut self, connection: &mut Connection, reason: Ended) {
        let deadline_us = self.shared.clock.now_us() + CLOSE_WAIT_US;
        connection.stage = Stage::Closing { deadline_us, reason };
        // What a closing connection sends is skipped, and what it has sent and not been heard about, too.
        connection.held = None;
        if let Some(paused) = connection.paused.take() {
            paused.notify_waiters();
        }
        self.end_session(connection);
    }

    /// Forgets a session and everything it was subscribed to.
    fn end_session(&mut self, connection: &mut Connection) {
        let Some((identity, subscriptions)) = connection.session.handle_close() else { return };
        let absence = self.depart(connection);
        self.fail_in_flight(&identity, connection);
        self.save_cursors(&identity, connection);
        if let Some(asker) = connection.asker.take() {
            self.tracker.handle_publisher_gone(asker);
            self.numbers.remove(&asker);
        }
        let is_unnamed = connection.access.is_unnamed();
        self.end_access(connection);
        self.end_watches(connection);
        let seen_unix_ms = self.heard_unix_ms(connection);
        let (registry, mailboxes) = (&self.shared.registry, &*self.shared.mailboxes);
        match &absence {
            Some(_) => registry.lose(&identity, seen_unix_ms, mailboxes),
            None => registry.disconnect(&identity, seen_unix_ms, mailboxes),
        }
        if !is_unnamed {
            self.save_last_seen(connection, &identity.user, seen_unix_ms);
        }
        self.numbers.remove(&identity.id);
        self.recipients.detach(&Address::user(&identity.user), connection.number);
        self.recipients.detach(&Address::all(), connection.number);
        for subscription in &subscriptions {
            self.forget_subscription(&identity, connection.number, subscription);
        }
        for group in &connection.groups {
            self.recipients.detach(group, connection.number);
        }
        // Last: from here on another worker may resume the session and take what it had, places in queues too.
        self.leave(connection);
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

    /// Closes the connections that did not keep up and whose address says so.
    pub(super) fn close_slow(&mut self) {
        while let Some(number) = self.outbox.take_slow() {
            self.close_number(number, Close::SlowConsumer);
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
            paused.notify_waiters();
        }
        connection.sides.go_on();
        let counters = self.counters();
        super::tls::end(&mut connection, counters);
        connection.shutdown(Shutdown::Both);
        counters.dropped_connection_lost.add(connection.out.pending_frames());
        counters.connections.set(counters.connections.load().saturating_sub(1));
        let by_transport = counters.connections_by.of(connection.transport);
        by_transport.set(by_transport.load().saturating_sub(1));
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
        self.leave_queue(&QueueId::new(subscription.pattern.clone(), queue.clone()), identity);
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
                            // A session that has its frames, or a worker that is asked for its own, answers first.
                            let is_asking = connection.has_asked() || connection.awaits_holder();
                            let most_us = if is_asking { 2 * connect_us } else { connect_us };
                            (now_us.saturating_sub(connection.awaited_us) >= most_us)
                                .then_some(Late::Connect)?
                        }
                        // QUIC itself finds out who is gone.
                        _ if connection.link.is_quic() => return None,
                        // It is not read, so it is not known to be silent.
                        _ if connection.held.is_some() => of_hold(silent_us, heartbeat_us)?,
                        _ => of_silence(silent_us, heartbeat_us, connection.pinged)?,
                    };
                    Some((u32::try_from(number).ok()?, action))
                })
                .take(LATE_PER_SWEEP),
        );
        for (number, action) in late.drain(..) {
            self.handle_late(number, action);
        }
        self.late = late;
        self.tick_queues();
        self.settle();
        self.save_memberships();
        self.save_resumes();
        self.end_generated();
        self.read_on_all();
        self.read_delayed();
        self.catch_up_watchers();
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
            Late::Connect if connection.post().is_some() => {
                let reject = Reject::new(Code::ConnectTimeout, "the request did not arrive in time");
                self.refuse_request(&mut connection, (408, "Request Timeout"), &reject, Default::default());
            }
            Late::Connect => {
                self.start_closing(&mut connection, Ended::Timeout);
                self.outbox.mark(&mut connection);
            }
            Late::Ping => {
                let mut ping = Vec::with_capacity(websocket::HEADER_MAX);
                connection.encoding.framing.write_ping(&mut ping);
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

    /// Puts back a connection that was taken out of its slot to be worked on.
    pub(super) fn put_back(&mut self, number: u32, connection: Box<Connection>) {
        if let Some(slot) = self.connections.get_mut(number as usize) {
            *slot = Some(connection);
        }
    }

    fn publish_gauges(&self) {
        let counters: &Counters = self.counters();
        counters.outbound_queue_bytes.set(self.outbox.pinned_bytes() as u64);
        for (action, acted) in Overflow::ALL.into_iter().zip(self.outbox.acted) {
            counters.slow_consumers.of(action).set(acted);
        }
        counters.dictionaries_sent.set(self.outbox.dictionaries_sent);
    }
}

/// What is due for a session that was not heard for so long. It is asked for a sign of life at least a sweep before it is closed,
/// also where sweeps come late or as seldom as heartbeats.
fn of_silence(silent_us: u64, heartbeat_us: u64, pinged: bool) -> Option<Late> {
    match pinged {
        false if silent_us >= heartbeat_us => Some(Late::Ping),
        true if silent_us >= 2 * heartbeat_us => Some(Late::Close),
        _ => None,
    }
}

/// What is due for a session that is held back. Its own signs of life are not read and not answered, so it is given some, or its client
/// would take the broker for dead where heartbeats are shorter than a hold: one with each sweep.
fn of_hold(silent_us: u64, heartbeat_us: u64) -> Option<Late> {
    (silent_us >= heartbeat_us / 2).then_some(Late::Ping)
}

/// What a sweep found due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    Connect,
    Ping,
    Close,
    Remove,
}

#[cfg(test)]
pub(super) mod tests;
