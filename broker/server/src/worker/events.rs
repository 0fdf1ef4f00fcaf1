//! `GET /sse`: a session whose frames are the events of one HTTP answer that does not end (WHATWG HTML, 9.2), for
//! networks that let nothing else through. What its client sends comes by [`super::posted`].
//!
//! | query | is | of |
//! | --- | --- | --- |
//! | `user`, `device`, `token` | as in `connect`; the token may come by `Authorization: Bearer` instead | `connect` |
//! | `to`, any number | a subscription; a session that is resumed has its own | `subscribe` |
//! | `from` | where these begin | `subscribe` |
//! | `last_event_id` | as the header `Last-Event-ID`, which a browser sends by itself | `resume` |
//!
//! The id of an event is all that the session is resumed with: its token and the latest position of each stream that was
//! written. It differs between connections, so it comes behind the messages, which all connections share, in an event of
//! its own that no page sees (an event without data only changes the last id).

use super::Worker;
use super::connection::{Connection, Stage};
use super::counters::{Ended, Transport};
use super::framing::Framing;
use super::link::Link;
use crate::clock::Moment;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use waspmq_core::outbound::Class;
use waspmq_core::{Close, Code, Position, Reject, Stream};
use waspmq_protocol::client::{Connect, Resume};
use waspmq_protocol::{From, Profile, Secret, encode, server};
use waspmq_transport::http;

/// Positions that an id may have: one for each shard, of its latest stream. More: the request is refused.
const POSITIONS_MAX: usize = 64;
/// Subscriptions that a request may name. More: 400.
const SUBSCRIPTIONS_MAX: usize = 64;
/// A connection that never comes to rest is told its id behind so many bytes.
const ID_EVERY_BYTES: usize = 64 * 1024;
/// Milliseconds before a browser tries again, where nothing else was said.
const RETRY_MS: u32 = 1_000;

/// What a connection that is sent events has.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By what the session is resumed, when it can be.
    token: Option<Secret<'static>>,
    /// The latest epoch and offset that was written, by shard.
    written: BTreeMap<u16, (u32, u64)>,
    /// Whether the session went on, with its subscriptions.
    is_resumed: bool,
    /// Whether these are ahead of the last id.
    has_moved: bool,
    /// Bytes written since the last id.
    since_id_bytes: usize,
    /// Wakes the task that reads the connection: there is something that was posted and waits.
    wake: Rc<Notify>,
}

impl Events {
    fn new(seen: &[Position]) -> Self {
        let mut events = Self::default();
        seen.iter().for_each(|&position| events.note(position));
        events
    }

    fn note(&mut self, Position { stream, offset }: Position) {
        let latest = self.written.entry(stream.shard).or_default();
        *latest = (stream.epoch, offset).max(*latest);
    }

    /// The session goes on, or is a new one: what its client names of another has no meaning there.
    pub(super) fn begin(&mut self, is_resumed: bool) {
        self.is_resumed = is_resumed;
        if !is_resumed {
            self.written.clear();
        }
    }

    pub(super) fn set_token(&mut self, token: Secret<'static>) {
        self.token = Some(token);
    }

    pub(super) const fn wake(&self) -> &Rc<Notify> {
        &self.wake
    }

    /// A segment of this class was written whole.
    pub(super) fn note_written(&mut self, class: &Class) {
        self.note(Position { stream: class.first.stream, offset: class.last_offset });
        self.has_moved = true;
    }

    pub(super) const fn note_bytes(&mut self, count: usize) {
        self.since_id_bytes += count;
    }

    /// The id, if what was written since the last one is worth it: everything was, or much.
    pub(super) fn take_id(&mut self, is_all: bool) -> Option<Vec<u8>> {
        let is_due = self.has_moved && (is_all || self.since_id_bytes >= ID_EVERY_BYTES);
        if is_due { self.id() } else { None }
    }

    /// The event that tells the id.
    fn id(&mut self) -> Option<Vec<u8>> {
        (self.has_moved, self.since_id_bytes) = (false, 0);
        let token = self.token.as_ref()?;
        let mut out = Vec::with_capacity(64 + 24 * self.written.len());
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(token.expose().as_bytes());
        for (&shard, &(epoch, offset)) in &self.written {
            // Writing to memory cannot fail.
            _ = write!(out, ",{}", Position { stream: Stream { shard, epoch }, offset });
        }
        out.extend_from_slice(b"\n\n");
        Some(out)
    }
}

/// What a request for events asks for.
#[derive(Debug, Default)]
struct Asked<'a> {
    connect: Connect<'a>,
    subscriptions: Vec<Cow<'a, str>>,
    from: Option<Cow<'a, str>>,
}

impl<'a> Asked<'a> {
    fn parse(request: &http::Request<'a>) -> Result<Self, Reject> {
        let invalid = |message: &str| Reject::new(Code::InvalidFrame, message);
        let mut asked = Self::default();
        let mut last_event_id = request.sole_header("last-event-id").map(Cow::Borrowed);
        for (name, value) in form_urlencoded::parse(request.query.unwrap_or_default().as_bytes()) {
            match &*name {
                "user" => asked.connect.user = Some(value),
                "device" => asked.connect.device = Some(value),
                "token" => asked.connect.token = Some(Secret::new(value)),
                "to" if asked.subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                    let most = SUBSCRIPTIONS_MAX;
                    return Err(invalid(&format!(
                        "a request has at most {most} `to`; POST /frames subscribes to more"
                    )));
                }
                "to" => asked.subscriptions.push(value),
                "from" => asked.from = Some(value),
                // A browser that comes back knows better than the address it began with.
                "last_event_id" if last_event_id.is_none() => last_event_id = Some(value),
                _ => {}
            }
        }
        if asked.connect.token.is_none() {
            asked.connect.token = request.bearer().map(Secret::new);
        }
        if let Some(id) = last_event_id.filter(|id| !id.is_empty()) {
            let resume = parse_id(&id);
            asked.connect.resume =
                Some(resume.ok_or_else(|| invalid("Last-Event-ID is no id of an event of this broker"))?);
        }
        Ok(asked)
    }
}

/// The token and the positions that an id consists of.
fn parse_id(id: &str) -> Option<Resume<'static>> {
    let mut parts = id.split(',');
    let token = Secret::new(parts.next()?.to_owned());
    let positions: Vec<Position> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (positions.len() <= POSITIONS_MAX).then_some(Resume { token, positions })
}

impl Worker {
    /// Makes a session of a request for events; gives the bytes of the request. `None` when it is refused.
    pub(super) fn open_events(
        &mut self,
        connection: &mut Connection,
        request: &http::Request<'_>,
        now: Moment,
    ) -> Option<usize> {
        self.note_transport(connection, Transport::Sse);
        if request.method != "GET" || request.content_length.is_some_and(|length| length > 0) {
            let message = "events are asked for with GET and without a body";
            self.refuse_method(connection, "GET", message, request.asker());
            return None;
        }
        // What is not written yet would come behind the head of these events.
        let is_behind = !connection.out.is_empty();
        let asked = match Asked::parse(request).and_then(|asked| self.check_asked(asked, is_behind)) {
            Ok(asked) => asked,
            Err(reject) => {
                self.refuse_events(connection, &reject, request.asker());
                return None;
            }
        };
        let positions = asked.connect.resume.as_ref().map(|resume| &*resume.positions).unwrap_or_default();
        connection.http = Some(Box::new(super::posted::Http::Events(Events::new(positions))));
        connection.encoding.framing = Framing::Events;
        connection.encoding.profile = Profile::Json;
        if let Err(reject) = self.connect(connection, &asked.connect, now) {
            self.refuse_events(connection, &reject, request.asker());
            return None;
        }
        if connection.awaits_holder() {
            // The request is taken again as a whole.
            connection.http = None;
            self.hold_rest(connection);
            return None;
        }
        if !connection.is_closing() {
            connection.stage = Stage::Open;
        }
        // A peer that is gone is noticed by what it does not acknowledge.
        let silence = Duration::from_millis(2 * u64::from(self.shared.settings.heartbeat_ms));
        connection.link.give_up_after(silence);
        let is_resumed = connection.events().is_some_and(|events| events.is_resumed);
        let mut head = Vec::with_capacity(512);
        http::events_response(request.origin, &mut head);
        self.outbox.push_own_first(connection, &head);
        let Some(id) = connection.events().and_then(Events::id) else {
            // Without a token nothing could be said in the session.
            let close =
                (Close::Overloaded.number(), "there is no room for another session that can be resumed");
            self.close_with(connection, close, Ended::Overloaded);
            return Some(request.head_bytes);
        };
        self.outbox.push_own(connection, &id);
        if !is_resumed {
            self.subscribe_asked(connection, &asked);
        }
        Some(request.head_bytes)
    }

    fn check_asked<'a>(&self, asked: Asked<'a>, is_behind: bool) -> Result<Asked<'a>, Reject> {
        if is_behind {
            return Err(Reject::new(Code::InvalidFrame, "wait for the answer to the last request first"));
        }
        if !self.shared.resumes.is_on() {
            let message = "events need sessions that can be resumed: store.resume_window_ms is 0 here";
            return Err(Reject::new(Code::NotSupported, message));
        }
        Ok(asked)
    }

    /// Subscribes to what the request names; what is refused is told by error frames.
    fn subscribe_asked(&mut self, connection: &mut Connection, asked: &Asked<'_>) {
        for to in &asked.subscriptions {
            let from = asked.from.as_deref().map(From::parse).transpose();
            let from = from.map_err(|error| Reject::new(Code::InvalidFrame, error.to_string()));
            let subscribed =
                from.and_then(|from| self.subscribe(connection, (to, None), from.unwrap_or(From::Now)));
            if let Err(reject) = subscribed {
                self.refuse(connection, None, reject);
            }
            if connection.is_closing() {
                return;
            }
        }
    }

    /// Answers a request that gets no session. A browser takes any status but 200 for its last word; where it is worth
    /// another try, it is given a stream that says so and ends.
    pub(super) fn refuse_events(
        &mut self,
        connection: &mut Connection,
        reject: &Reject,
        asker: http::Asker<'_>,
    ) {
        if !reject.code.is_retryable() {
            let status = match reject.code {
                Code::Unauthorized | Code::TokenExpired => (401, "Unauthorized"),
                Code::Forbidden => (403, "Forbidden"),
                _ => (400, "Bad Request"),
            };
            return self.refuse_request(connection, status, reject, asker);
        }
        self.counters().handshakes_refused.add(1);
        self.counters().errors_sent.add(1);
        let mut answer = Vec::with_capacity(512);
        http::events_response(asker.origin, &mut answer);
        if !asker.is_head {
            answer.extend_from_slice(&retry(reject.retry_ms));
            let begun = Framing::Events.begin(&mut answer);
            let frame = server::Frame::Error { reference: None, reject: reject.clone() };
            encode::control(Profile::Json, &frame, &mut answer);
            begun.end(&mut answer, Profile::Json);
        }
        self.outbox.push_own(connection, &answer);
        self.start_closing(connection, Ended::Refused);
    }

    /// What wakes the task that serves a connection that is sent events.
    pub(super) fn events_wake(&mut self, number: u32, link: &Link) -> Option<Rc<Notify>> {
        let connection = self.connections.get_mut(number as usize)?.as_mut()?;
        let events = connection.link.is(link).then(|| connection.events())??;
        Some(events.wake().clone())
    }

    /// What came on a connection that is sent events and has nothing to say.
    pub(super) fn refuse_input(&mut self, connection: &mut Connection) {
        let reason = "nothing may follow the request for events";
        self.close_with(connection, (Close::ProtocolViolation.number(), reason), Ended::Protocol);
    }
}

/// The line that says when to come back.
pub(super) fn retry(ms: u32) -> Vec<u8> {
    format!("retry: {}\n\n", if ms == 0 { RETRY_MS } else { ms }).into_bytes()
}

#[cfg(test)]
mod tests;
