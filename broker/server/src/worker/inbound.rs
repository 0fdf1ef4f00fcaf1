//! Reading: bytes to WebSocket messages and frames, and what each frame does.

use super::connection::{Connection, Stage};
use super::counters::Ended;
use super::enqueue::journal_full;
use super::framing::Framing;
use super::link::Link;
use super::publish::Taken;
use super::tls::{is_handshaking, unfinished_bytes};
use super::unpack::Unpacking;
use super::{READ_BYTES, Worker};
use crate::clock::Moment;
use std::io::ErrorKind;
use waspmq_core::access::Action;
use waspmq_core::session::Request;
use waspmq_core::{Address, Close, Code, Name, Reject};
use waspmq_protocol::client::Frame;
use waspmq_protocol::decode::{self, Frames};
use waspmq_protocol::{From, Profile, server};
use waspmq_transport::websocket::{self, Event, Limits, Violation, close_code};

/// Connections that hold less are left alone when the worker's bound of unfinished bytes is reached.
pub(super) const HELD_FLOOR_BYTES: usize = 4 * 1024;
/// When so much of the bound is taken, connections without a session get nothing more of it: less than what publishes
/// that wait for the journal leave.
pub(super) const STRANGERS_DIVISOR: usize = 4;

/// Bytes that compressed WebSocket messages of one connection may inflate to before others have their turn: what one read
/// brings may come to a thousand times its size.
const INFLATED_BYTES_PER_TURN: usize = 1024 * 1024;

/// What inflating a message came to.
fn inflated_by(event: &Event<'_>) -> usize {
    match event {
        Event::Message { data, compressed_bytes: Some(_), .. } => data.len(),
        _ => 0,
    }
}

/// What the task of a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait until there is more to read.
    Read,
    /// Let others run first: there may be more right now.
    Yield,
    /// As [`Next::Yield`], where there is more for certain of which the socket does not know.
    Unread,
    /// Wait until there is more to read, or to be done with what was posted: the connection is sent events.
    Listen,
    /// The peer sends no more; what it is owed is still being written.
    Ended,
    /// The connection is gone.
    Gone,
}

/// What follows a read with data. After a short one the socket is empty, which tokio learns without another
/// system call; readiness comes back with the next event.
pub(super) fn after_read(connection: &Connection, is_short: bool) -> Next {
    // A stream of QUIC tells once that it has something.
    if connection.link.is_quic() {
        return if is_short { Next::Read } else { Next::Unread };
    }
    // What TLS decrypted and found no room for is not in the socket. A short read may have asked for all that one turn
    // may ask for; if it did find the socket empty, the next one waits.
    if connection.tls.is_some() {
        return if is_short { Next::Yield } else { Next::Unread };
    }
    if !is_short {
        return Next::Yield;
    }
    connection.link.note_empty();
    Next::Read
}

impl Worker {
    /// Reads once from a connection and handles everything complete in it.
    /// `link` tells whether the number still means the connection that the caller serves.
    pub(super) fn on_readable(&mut self, number: u32, link: &Link) -> Next {
        let slot = self.connections.get_mut(number as usize);
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(link))) else {
            return Next::Gone;
        };
        let mut next = self.read(&mut connection);
        if connection.events().is_some() && !matches!(next, Next::Ended | Next::Gone) {
            next = Next::Listen;
        }
        self.put_back(number, connection);
        if next == Next::Gone {
            self.remove(number);
        }
        self.settle();
        next
    }

    fn read(&mut self, connection: &mut Connection) -> Next {
        if is_handshaking(connection) && !self.handshakes.may_go_on() {
            return Next::Yield;
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let next = if connection.wanted_bytes > buffer.len() / 2 {
            self.read_large(connection)
        } else {
            self.read_small(connection, &mut buffer)
        };
        self.read_buffer = buffer;
        self.charge_held(connection);
        next
    }

    /// Reads behind the unfinished frame, both in the shared buffer: the usual way.
    fn read_small(&mut self, connection: &mut Connection, buffer: &mut [u8]) -> Next {
        let kept = connection.partial.len();
        let Some((front, rest)) = buffer.split_at_mut_checked(kept) else { return Next::Gone };
        front.copy_from_slice(&connection.partial);
        // What cannot be handled has to be held.
        let most = if self.shared.journal.is_busy() { HELD_FLOOR_BYTES } else { READ_BYTES };
        let room = rest.len().min(most);
        let Some(rest) = rest.get_mut(..room) else { return Next::Gone };
        let count = match self.receive(connection, rest) {
            Ok(count) if count > 0 => count,
            other => return self.take_end(connection, other.map(|_| ())),
        };
        let Some(bytes) = buffer.get_mut(..kept + count) else { return Next::Gone };
        let now = self.heard(connection, count);
        let consumed = self.take_bytes(connection, bytes, now);
        let left = bytes.get(consumed..).unwrap_or_default();
        if left.is_empty() {
            connection.partial = Vec::new();
        } else {
            connection.partial.clear();
            connection.partial.extend_from_slice(left);
        }
        after_read(connection, count < room)
    }

    /// Reads into the connection's own buffer, so that a large frame is not copied at each read.
    fn read_large(&mut self, connection: &mut Connection) -> Next {
        let missing = connection.wanted_bytes.saturating_sub(connection.partial.len());
        connection.partial.reserve(missing.clamp(1, READ_BYTES));
        let spare = connection.partial.capacity() - connection.partial.len();
        // TLS and QUIC are given room that is written first, and have no more than this in one turn.
        let is_written = connection.tls.is_some() || connection.link.is_quic();
        let room = if is_written { spare.min(READ_BYTES) } else { spare };
        let count = match self.receive_large(connection, room) {
            Ok(count) if count > 0 => count,
            other => return self.take_end(connection, other.map(|_| ())),
        };
        let now = self.heard(connection, count);
        self.take_partial(connection, now);
        after_read(connection, count < room)
    }

    /// Handles the complete part of what the connection's own buffer has.
    pub(super) fn take_partial(&mut self, connection: &mut Connection, now: Moment) {
        let mut partial = std::mem::take(&mut connection.partial);
        let consumed = self.take_bytes(connection, &mut partial, now);
        partial.drain(..consumed);
        connection.partial = if partial.is_empty() { Vec::new() } else { partial };
    }

    pub(super) fn heard(&self, connection: &mut Connection, count: usize) -> Moment {
        let now = self.shared.clock.now();
        connection.heard_us = now.us;
        connection.pinged = false;
        connection.wanted_bytes = 0;
        self.counters().bytes_read.add(count as u64);
        now
    }

    /// Nothing was read: there is nothing yet, or nothing more. A peer that only ended its side still gets
    /// what it is owed.
    pub(super) fn take_end(&mut self, connection: &mut Connection, read: std::io::Result<()>) -> Next {
        match read {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Read,
            // The socket may have more, and says so: waiting for it would not let others run.
            Err(error) if error.kind() == ErrorKind::Interrupted => Next::Yield,
            Ok(()) if connection.owes_something() || connection.sides.reading > 0 => {
                connection.ended = true;
                if !connection.is_closing() {
                    self.end_by_peer(connection);
                }
                self.outbox.mark(connection);
                Next::Ended
            }
            other => {
                let is_timed_out = connection.link.is_timed_out()
                    || matches!(&other, Err(error) if error.kind() == ErrorKind::TimedOut);
                // As a connection of WebSocket that misses its heartbeats: its peer was there last when it was heard.
                if is_timed_out && !connection.is_closing() {
                    self.start_closing(connection, Ended::Timeout);
                }
                Next::Gone
            }
        }
    }

    /// Handles the complete part of `bytes`; gives its length.
    fn take_bytes(&mut self, connection: &mut Connection, bytes: &mut [u8], now: Moment) -> usize {
        let mut consumed = self.take_requests(connection, bytes, now);
        if connection.stage != Stage::Open {
            return if connection.is_closing() { bytes.len() } else { consumed };
        }
        match connection.encoding.framing {
            Framing::WebSocket => {}
            Framing::Stream => return self.take_stream(connection, bytes, now),
            Framing::Events => {
                if consumed < bytes.len() {
                    self.refuse_input(connection);
                }
                return bytes.len();
            }
        }
        let mut inflater = connection.has_deflate().then(|| std::mem::take(&mut self.inflater));
        let mut inflated_bytes = 0;
        while connection.stage == Stage::Open && connection.held.is_none() {
            let Some(rest) = bytes.get_mut(consumed..).filter(|rest| !rest.is_empty()) else { break };
            let limits = self.message_limits(connection);
            let mut decoder = std::mem::take(&mut connection.decoder);
            let decoded = decoder.decode(rest, inflater.as_mut(), &limits);
            connection.decoder = decoder;
            match decoded {
                Ok(decoded) => {
                    consumed += decoded.consumed;
                    match decoded.event {
                        Event::NeedMore { at_least } => {
                            connection.wanted_bytes = at_least;
                            break;
                        }
                        event => {
                            inflated_bytes += inflated_by(&event);
                            self.take_event(connection, event, now);
                        }
                    }
                }
                Err(violation) => self.take_violation(connection, violation),
            }
            if inflated_bytes >= INFLATED_BYTES_PER_TURN && !connection.is_closing() {
                self.finish_batch(connection);
                self.hold_rest(connection);
            }
        }
        if let Some(inflater) = inflater {
            self.inflater = inflater;
        }
        self.finish_batch(connection);
        if connection.is_closing() { bytes.len() } else { consumed }
    }

    pub(super) fn message_limits(&self, connection: &Connection) -> Limits {
        if connection.session_id.is_some() {
            Limits { message_bytes_max: self.shared.settings.message_bytes_max, ..Limits::SESSION }
        } else {
            Limits::STRANGER
        }
    }

    fn take_event(&mut self, connection: &mut Connection, event: Event<'_>, now: Moment) {
        match event {
            Event::Message { is_text, data, compressed_bytes } => {
                if let Some(compressed_bytes) = compressed_bytes {
                    let deflate = self.counters().compression.deflate();
                    deflate.wire_in.add(compressed_bytes as u64);
                    deflate.plain_in.add(data.len() as u64);
                }
                if is_text != (connection.encoding.profile == Profile::Json) {
                    let expected = if is_text { "binary" } else { "text" };
                    let message = format!("this connection's profile has {expected} messages");
                    return self.refuse(connection, None, Reject::new(Code::WrongProfile, message));
                }
                self.take_message(connection, &data, now);
            }
            Event::Ping(payload) => {
                let mut pong = Vec::with_capacity(websocket::HEADER_MAX + payload.len());
                websocket::write_pong(payload, &mut pong);
                self.outbox.push_own(connection, &pong);
            }
            Event::Pong(_) | Event::NeedMore { .. } => {}
            Event::Close { code, .. } => {
                let code = if code == close_code::NO_STATUS { close_code::NORMAL } else { code };
                self.finish_batch(connection);
                self.close_with(connection, (code, ""), Ended::ByPeer);
            }
        }
    }

    fn take_violation(&mut self, connection: &mut Connection, violation: Violation) {
        self.finish_batch(connection);
        if violation.close_code() == close_code::MESSAGE_TOO_BIG {
            let limit = self.message_limits(connection).message_bytes_max;
            let message = format!("a message may have {limit} bytes here");
            return self.refuse(connection, None, Reject::new(Code::MessageTooLarge, message));
        }
        let reason = violation.to_string();
        if violation == Violation::TextUtf8 {
            // The close code is WebSocket's own, as the fault is.
            let reject = Reject::new(Code::WrongProfile, reason.as_str());
            self.counters().errors_sent.add(1);
            self.send(connection, &server::Frame::Error { reference: None, reject });
        }
        self.close_with(connection, (violation.close_code(), &reason), Ended::Protocol);
    }

    pub(super) fn take_message(&mut self, connection: &mut Connection, data: &[u8], now: Moment) {
        match connection.encoding.profile {
            Profile::Json => self.take_frames(connection, decode::json_frames(data), now),
            Profile::Binary => self.take_frames(connection, decode::binary_frames(data), now),
        }
    }

    fn take_frames<'a>(&mut self, connection: &mut Connection, mut frames: impl Frames<'a>, now: Moment) {
        let mut unpacking = Unpacking::new(self.shared.settings.message_bytes_max);
        loop {
            let rest = frames.rest();
            let Some(frame) = frames.next() else { return };
            match frame {
                Ok(Frame::Publish(publish)) => {
                    let taken = match publish.packed {
                        None => self.handle_publish(connection, &publish, now),
                        Some(packed) => {
                            self.handle_packed(connection, (publish, packed), &mut unpacking, now)
                        }
                    };
                    if taken == Taken::Waits {
                        return self.hold(connection, rest);
                    }
                }
                Ok(frame) => {
                    self.finish_batch(connection);
                    let reference = frame.reference();
                    match self.take_control(connection, frame, now) {
                        Ok(()) if connection.awaits_holder() => return self.hold(connection, rest),
                        Ok(()) => {}
                        Err(reject) if connection.session_id.is_none() => {
                            self.turn_away(connection, reference, reject)
                        }
                        Err(reject) => self.refuse(connection, reference, reject),
                    }
                }
                Err(error) => {
                    self.finish_batch(connection);
                    self.refuse_undecoded(connection, &error);
                }
            }
            self.close_unread(connection);
            if connection.is_closing() || connection.is_disconnected || unpacking.is_over() {
                return;
            }
        }
    }

    fn take_control(
        &mut self,
        connection: &mut Connection,
        frame: Frame<'_>,
        now: Moment,
    ) -> Result<(), Reject> {
        let request = if matches!(frame, Frame::Connect(_)) { Request::Connect } else { Request::Other };
        connection.session.handle_request(request)?;
        let reference = frame.reference();
        match frame {
            Frame::Publish(_) => return Ok(()),
            Frame::Connect(connect) => return self.connect(connection, &connect, now),
            Frame::Subscribe { to, queue, from, .. } => {
                let from = from.as_deref().map(From::parse).transpose();
                let from = from.map_err(|error| Reject::new(Code::InvalidFrame, error.to_string()))?;
                self.subscribe(connection, (&to, queue.as_deref()), from.unwrap_or(From::Now))?;
            }
            Frame::Unsubscribe { to, queue, .. } => self.unsubscribe(connection, &to, queue.as_deref())?,
            Frame::Join { group, .. } => self.change_membership(connection, &group, true)?,
            Frame::Leave { group, .. } => self.change_membership(connection, &group, false)?,
            Frame::Presence { of, after, .. } => {
                return self.answer_presence(connection, reference, (&of, after.as_deref()));
            }
            Frame::Watch { users, .. } => return self.watch(connection, reference, &users),
            Frame::Refresh { token, .. } => self.refresh(connection, token.expose(), now)?,
            Frame::Ack { what, queue, .. } => {
                if reference.is_some() && !self.shared.journal.has_room() {
                    return Err(journal_full());
                }
                let taken = self.take_ack(connection, what, queue.as_deref());
                // An ack that is answered holds for the sessions that begin behind the answer.
                if reference.is_some()
                    && connection.cursors.may_have_moved()
                    && let Some(identity) = connection.session.identity().cloned()
                {
                    self.save_cursors(&identity, connection);
                }
                return self.answer_if_asked(connection, reference, taken);
            }
            Frame::Nack { id, queue, reason, retry_ms, .. } => {
                let taken = self.take_nack(connection, (id, queue.as_deref()), (retry_ms, reason.as_deref()));
                return self.answer_if_asked(connection, reference, taken);
            }
            Frame::History { of, after, limit, .. } => {
                return self.take_history(connection, (reference, &of), (after, limit));
            }
            Frame::Read { of, upto, .. } => {
                let taken = self.take_read(connection, &of, upto);
                return self.answer_if_asked(connection, reference, taken);
            }
            Frame::Ping => {
                self.send(connection, &server::Frame::Pong);
                return Ok(());
            }
            Frame::Disconnect => {
                self.disconnect(connection);
                return Ok(());
            }
        }
        self.send(connection, &server::Frame::Ok { reference });
        Ok(())
    }

    /// Answers a frame that need not be answered: an ack that came too late is told only to who asks.
    fn answer_if_asked(
        &mut self,
        connection: &mut Connection,
        reference: Option<u64>,
        taken: Result<(), Reject>,
    ) -> Result<(), Reject> {
        match (taken, reference) {
            (Ok(()), Some(_)) => {
                self.send(connection, &server::Frame::Ok { reference });
                Ok(())
            }
            (Ok(()), None) => Ok(()),
            (Err(reject), None) if reject.code == Code::NotInFlight => Ok(()),
            (Err(reject), _) => Err(reject),
        }
    }

    fn change_membership(&mut self, connection: &Connection, group: &str, join: bool) -> Result<(), Reject> {
        let (group, identity) = (name(group)?, connection.session.identity());
        let Some(user) = identity.map(|identity| identity.user.clone()) else { return Ok(()) };
        if join {
            Self::access_check(connection, Action::Join, &Address::group(&group))?;
        }
        let is_saved = !connection.access.is_unnamed();
        if is_saved {
            self.check_journal()?;
        }
        let (registry, mailboxes) = (&self.shared.registry, &*self.shared.mailboxes);
        let since = if join { registry.join(&user, &group, mailboxes)? } else { None };
        if !join {
            registry.leave(&user, &group, mailboxes)?;
        }
        if is_saved && (since.is_some() || !join) {
            self.save_membership(&user, &group, since);
        }
        Ok(())
    }

    /// Sends an error frame, and closes where the peer broke the protocol.
    pub(super) fn refuse(&mut self, connection: &mut Connection, reference: Option<u64>, reject: Reject) {
        self.counters().errors_sent.add(1);
        let code = reject.code;
        self.send(connection, &server::Frame::Error { reference, reject });
        if code.closes() {
            let (close, ended) = match code {
                Code::ConnectTimeout => (Close::ConnectTimeout, Ended::Timeout),
                Code::Unauthorized => (Close::Refused, Ended::Refused),
                Code::TokenExpired => (Close::TokenExpired, Ended::Refused),
                Code::TooManySessions => (Close::Overloaded, Ended::Refused),
                _ => (Close::ProtocolViolation, Ended::Protocol),
            };
            self.close_with(connection, (close.number(), code.name()), ended);
        }
    }

    /// Counts the bytes a connection holds of unfinished frames; over the worker's bound it is closed. Who has no session
    /// has a part of that bound, so that strangers alone cannot close those who have one.
    pub(super) fn charge_held(&mut self, connection: &mut Connection) {
        let frames = connection.held.as_ref().map_or(0, |held| held.size_bytes());
        let held = connection.partial.capacity() + connection.decoder.held_bytes() + frames;
        let held = held + unfinished_bytes(connection) + connection.sides.held_bytes;
        self.held_bytes = self.held_bytes + held - connection.held_bytes;
        connection.held_bytes = held;
        let divisor = if connection.session_id.is_some() { 1 } else { STRANGERS_DIVISOR };
        // One whose frames a session has taken is told so first.
        if connection.has_asked() {
            return;
        }
        if self.held_bytes > self.shared.settings.inbound_bytes_max / divisor && held > HELD_FLOOR_BYTES {
            let close = (Close::Overloaded.number(), Close::Overloaded.name());
            self.close_with(connection, close, Ended::Overloaded);
        }
    }
}

/// A name from a frame.
pub(super) fn name(text: &str) -> Result<Name, Reject> {
    Name::parse(text).map_err(|error| Reject::new(Code::InvalidName, error.to_string()))
}
