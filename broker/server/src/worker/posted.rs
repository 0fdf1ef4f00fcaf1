//! `POST /frames`, `/publish` and `/ack`: what the client of a session says whose events another connection is sent.
//!
//! | state of the connection | input | next |
//! | --- | --- | --- |
//! | between requests | a head with the session's resume token | body |
//! | body | all of it, valid | asked: the session's worker has it |
//! | asked | that worker's answer | between requests |
//!
//! The token in `Authorization: Bearer` says which session it is; it is not used up. The body is what a WebSocket message of
//! the JSON profile has, is checked here as a whole, and is taken by the session's worker as if it had come on the session's
//! connection: answers to frames are events. The answer to the request says only that the session has them.

use super::Worker;
use super::connection::{Connection, Stage};
use super::counters::{Ended, Transport};
use super::events::Events;
use super::mailbox::Entry;
use crate::clock::Moment;
use crate::resumes::{self, Holder, TokenHash};
use waspmq_core::{Code, Reject, SessionId};
use waspmq_protocol::client::Frame;
use waspmq_protocol::{Profile, decode, encode, server};
use waspmq_transport::http;

/// The status of an answer, and its reason phrase.
type Status = (u16, &'static str);

/// Milliseconds after which a client whose session has no room may try again.
const BUSY_RETRY_MS: u32 = 1_000;

/// What a connection of plain HTTP is used for.
#[derive(Debug)]
pub(crate) enum Http {
    Events(Events),
    Post(Post),
}

impl Http {
    pub(super) const fn events(&mut self) -> Option<&mut Events> {
        match self {
            Self::Events(events) => Some(events),
            Self::Post(_) => None,
        }
    }
}

/// Which frames a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Publish,
    Ack,
    Frames,
}

impl Path {
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "/publish" => Some(Self::Publish),
            "/ack" => Some(Self::Ack),
            "/frames" => Some(Self::Frames),
            _ => None,
        }
    }

    fn check(self, frame: &Frame<'_>) -> Result<(), Reject> {
        let (takes_it, what) = match self {
            Self::Publish => (matches!(frame, Frame::Publish(_)), "/publish takes `publish` frames"),
            Self::Ack => (
                matches!(frame, Frame::Ack { .. } | Frame::Nack { .. } | Frame::Read { .. }),
                "/ack takes `ack`, `nack` and `read` frames",
            ),
            Self::Frames => (
                !matches!(frame, Frame::Connect(_)),
                "/frames takes every frame but `connect`, which GET /sse is",
            ),
        };
        if takes_it { Ok(()) } else { Err(Reject::new(Code::InvalidFrame, what)) }
    }
}

/// A request whose head was taken.
#[derive(Debug)]
pub(crate) struct Post {
    path: Path,
    body_bytes: usize,
    session: SessionId,
    /// The one that has the session.
    worker: u8,
    hash: TokenHash,
    origin: Option<Box<str>>,
    /// Whether the client ends the connection behind the answer.
    is_last: bool,
    /// The number under which the session's worker was asked.
    asked: Option<u64>,
}

/// The body of a request on its way to the session's worker.
#[derive(Debug)]
pub(crate) struct Posted {
    session: SessionId,
    hash: TokenHash,
    frames: Box<[u8]>,
    count: usize,
    from: Asker,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
struct Asker {
    worker: u8,
    number: u32,
    ticket: u64,
}

/// What became of the body of a request.
#[derive(Debug)]
pub(crate) struct Taken {
    asker: Asker,
    result: Result<usize, Refused>,
}

/// Why a session did not take a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It is not there any more.
    Gone,
    /// It is not connected by events.
    Elsewhere,
    /// What was posted before waits for the store, or its client does not read.
    Busy,
}

impl Refused {
    /// The status of the answer, and what it says.
    fn told(self) -> (Status, Reject) {
        match self {
            Self::Gone => {
                let message = "the session has no connection; open GET /sse with its Last-Event-ID";
                ((409, "Conflict"), Reject::new(Code::NotConnected, message))
            }
            Self::Elsewhere => {
                let message = "the session goes on over another transport; send its frames there";
                ((409, "Conflict"), Reject::new(Code::NotConnected, message))
            }
            Self::Busy => {
                let message = "the session has no room for more right now; nothing of the body was taken";
                let reject = Reject::new(Code::Overloaded, message).retry_after(BUSY_RETRY_MS);
                ((503, "Service Unavailable"), reject)
            }
        }
    }
}

impl Posted {
    pub(super) const fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.frames.len()
    }
}

impl Connection {
    pub(super) fn events(&mut self) -> Option<&mut Events> {
        self.http.as_deref_mut().and_then(Http::events)
    }

    pub(super) fn post(&self) -> Option<&Post> {
        match self.http.as_deref() {
            Some(Http::Post(post)) => Some(post),
            _ => None,
        }
    }

    /// Its answer is its last.
    pub(super) fn end_behind_answer(&mut self) {
        if let Some(Http::Post(post)) = self.http.as_deref_mut() {
            post.is_last = true;
        }
    }

    /// Whether another worker has the body of its request: it is not read meanwhile.
    pub(super) fn has_asked(&self) -> bool {
        self.post().is_some_and(|post| post.asked.is_some())
    }
}

impl Worker {
    /// Takes the head of a request; gives its bytes. `None` when it is refused.
    pub(super) fn take_post(
        &mut self,
        connection: &mut Connection,
        (request, path): (&http::Request<'_>, Path),
        now: Moment,
    ) -> Option<usize> {
        self.note_transport(connection, Transport::Sse);
        let invalid = |message: &str| Reject::new(Code::InvalidFrame, message);
        let most = self.shared.settings.message_bytes_max;
        if request.method != "POST" {
            self.refuse_method(connection, "POST", "frames are sent with POST", request.asker());
            return None;
        }
        let refused = match request.content_length {
            None | Some(0) => {
                Some(((411, "Length Required"), invalid("the body, which has frames, is missing")))
            }
            Some(length) if length > most as u64 => {
                let message = format!("a body may have {most} bytes here");
                Some(((413, "Content Too Large"), Reject::new(Code::MessageTooLarge, message)))
            }
            Some(_) => None,
        };
        if let Some((status, reject)) = refused {
            self.refuse_request(connection, status, &reject, request.asker());
            return None;
        }
        let (hash, session, worker) = match self.session_of(request, now) {
            Ok(found) => found,
            Err((status, reject)) => {
                self.refuse_request(connection, status, &reject, request.asker());
                return None;
            }
        };
        connection.awaited_us = now.us;
        if request.expects_continue() {
            self.outbox.push_own(connection, http::CONTINUE);
        }
        let post = Post {
            path,
            body_bytes: request.content_length.and_then(|length| length.try_into().ok()).unwrap_or(most),
            session,
            worker,
            hash,
            origin: request.origin.map(Into::into),
            is_last: request.is_last(),
            asked: None,
        };
        connection.http = Some(Box::new(Http::Post(post)));
        Some(request.head_bytes)
    }

    /// The session that a request is for, and the worker that has it.
    fn session_of(
        &self,
        request: &http::Request<'_>,
        now: Moment,
    ) -> Result<(TokenHash, SessionId, u8), (Status, Reject)> {
        let hash = request.bearer().map(resumes::hash);
        let holder = hash.and_then(|hash| Some((hash, self.shared.resumes.holder(&hash, now.unix_ms)?)));
        match holder {
            Some((hash, Holder::Live { session, worker })) => Ok((hash, session, worker)),
            Some((_, Holder::Left)) => Err(Refused::Gone.told()),
            None => {
                let message = "send `Authorization: Bearer` with the resume_token of the last `welcome`";
                Err(((401, "Unauthorized"), Reject::new(Code::Unauthorized, message)))
            }
        }
    }

    /// Takes the body of a request once all of it is there; gives its bytes.
    pub(super) fn take_body(&mut self, connection: &mut Connection, bytes: &[u8]) -> Option<usize> {
        let post = connection.post().filter(|post| post.asked.is_none())?;
        let (path, session, worker, hash) = (post.path, post.session, post.worker, post.hash);
        let body_bytes = post.body_bytes;
        let Some(body) = bytes.get(..body_bytes) else {
            connection.wanted_bytes = body_bytes;
            return None;
        };
        let count = match checked(path, body) {
            Ok(count) => count,
            Err((reference, reject)) => {
                self.answer_post(connection, (400, "Bad Request"), &error(reference, &reject), 0);
                return Some(body_bytes);
            }
        };
        self.post_count += 1;
        let ticket = self.post_count;
        let from = Asker { worker: self.number, number: connection.number, ticket };
        let posted = Posted { session, hash, frames: body.into(), count, from };
        let mailboxes = &self.shared.mailboxes;
        let is_sent = mailboxes.of(worker).takes_publishes()
            && mailboxes.send(worker, Entry::Posted(Box::new(posted))).is_ok();
        if is_sent {
            if let Some(Http::Post(post)) = connection.http.as_deref_mut() {
                post.asked = Some(ticket);
            }
        } else {
            self.answer_refused(connection, Refused::Busy);
        }
        Some(body_bytes)
    }

    /// Takes what was posted for a session of this worker.
    pub(super) fn take_posted(&mut self, posted: &Posted) {
        let mut result = Err(Refused::Gone);
        self.with_session(posted.session, |worker, connection| {
            if connection.resume_hash != Some(posted.hash) || connection.is_closing() {
                return;
            }
            if connection.events().is_none() {
                result = Err(Refused::Elsewhere);
                return;
            }
            if connection.held.is_some() || connection.out.owes_much() {
                result = Err(Refused::Busy);
                return;
            }
            result = Ok(posted.count);
            let now = worker.shared.clock.now();
            worker.take_message(connection, &posted.frames, now);
            worker.finish_batch(connection);
            worker.charge_held(connection);
            if connection.held.is_some()
                && let Some(events) = connection.events()
            {
                events.wake().notify_one();
            }
        });
        let taken = Taken { asker: posted.from, result };
        self.shared.mailboxes.answer(posted.from.worker, Entry::Taken(taken));
    }

    /// Tells a client of this worker what became of its request.
    pub(super) fn handle_taken(&mut self, taken: &Taken) {
        let Asker { number, ticket, .. } = taken.asker;
        let slot = self.connections.get_mut(number as usize);
        let is_asker = |connection: &mut Box<Connection>| {
            connection.stage == Stage::Http
                && connection.post().is_some_and(|post| post.asked == Some(ticket))
        };
        let Some(mut connection) = slot.and_then(|slot| slot.take_if(is_asker)) else { return };
        match taken.result {
            Ok(count) => {
                let body = format!("{{\"frames\":{count}}}");
                self.answer_post(&mut connection, (202, "Accepted"), body.as_bytes(), 0);
            }
            Err(refused) => self.answer_refused(&mut connection, refused),
        }
        if !connection.is_closing() && !connection.partial.is_empty() {
            self.hold_rest(&mut connection);
        }
        if let Some(paused) = connection.paused.take() {
            paused.notify_waiters();
        }
        self.put_back(number, connection);
    }

    fn answer_refused(&mut self, connection: &mut Connection, refused: Refused) {
        let (status, reject) = refused.told();
        self.answer_post(connection, status, &error(None, &reject), reject.retry_ms);
    }

    /// Answers a request whose body was read; the connection takes another one.
    fn answer_post(
        &mut self,
        connection: &mut Connection,
        (status, reason): Status,
        body: &[u8],
        retry_ms: u32,
    ) {
        let Some(Http::Post(post)) = connection.http.take().map(|http| *http) else { return };
        let retry_after_s = retry_ms.div_ceil(1_000);
        let asker = http::Asker { origin: post.origin.as_deref(), is_head: false };
        let mut answer = Vec::with_capacity(256 + body.len());
        http::Answer { status, reason, body, allow: "", retry_after_s, asker, is_kept: !post.is_last }
            .write(&mut answer);
        self.outbox.push_own(connection, &answer);
        connection.awaited_us = self.shared.clock.now_us();
        if post.is_last {
            self.start_closing(connection, Ended::ByPeer);
        }
    }

    /// Answers a request that is not served, and closes.
    pub(super) fn refuse_request(
        &mut self,
        connection: &mut Connection,
        status: Status,
        reject: &Reject,
        asker: http::Asker<'_>,
    ) {
        self.end_request(connection, (status, ""), reject, asker);
    }

    /// Refuses a request whose method is none of those that its path takes.
    pub(super) fn refuse_method(
        &mut self,
        connection: &mut Connection,
        allow: &'static str,
        message: &str,
        asker: http::Asker<'_>,
    ) {
        let reject = Reject::new(Code::InvalidFrame, message);
        self.end_request(connection, ((405, "Method Not Allowed"), allow), &reject, asker);
    }

    fn end_request(
        &mut self,
        connection: &mut Connection,
        ((status, reason), allow): (Status, &'static str),
        reject: &Reject,
        asker: http::Asker<'_>,
    ) {
        self.counters().handshakes_refused.add(1);
        let retry_after_s = reject.retry_ms.div_ceil(1_000);
        let body = &*error(None, reject);
        let mut answer = Vec::with_capacity(512);
        http::Answer { status, reason, body, allow, retry_after_s, asker, is_kept: false }.write(&mut answer);
        self.outbox.push_own(connection, &answer);
        self.start_closing(connection, Ended::Refused);
    }

    /// Answers a browser that asks whether a page may send what it is about to; gives the bytes of the request. A browser
    /// waits for the answer, so one with anything behind it is the last.
    pub(super) fn answer_preflight(
        &mut self,
        connection: &mut Connection,
        request: &http::Request<'_>,
        there_bytes: usize,
    ) -> Option<usize> {
        let has_body = request.content_length.is_some_and(|length| length > 0);
        let is_kept = !has_body && there_bytes == request.head_bytes && !request.is_last();
        let mut answer = Vec::with_capacity(256);
        http::preflight_response(request.origin, is_kept, &mut answer);
        self.outbox.push_own(connection, &answer);
        if !is_kept {
            self.start_closing(connection, Ended::ByPeer);
            return None;
        }
        Some(request.head_bytes)
    }

    /// A connection turns out to come over something else than it was counted for.
    pub(super) fn note_transport(&self, connection: &mut Connection, transport: Transport) {
        let by_transport = &self.counters().connections_by;
        let before = by_transport.of(connection.transport);
        before.set(before.load().saturating_sub(1));
        by_transport.of(transport).add(1);
        connection.transport = transport;
    }
}

/// The number of frames of a body, all of which are valid and may come this way.
fn checked(path: Path, body: &[u8]) -> Result<usize, (Option<u64>, Reject)> {
    let mut count = 0;
    for frame in decode::json_frames(body) {
        let frame = frame.map_err(|error| (error.reference, error.reject()))?;
        path.check(&frame).map_err(|reject| (frame.reference(), reject))?;
        count += 1;
    }
    if count == 0 { Err((None, Reject::new(Code::InvalidFrame, "the body has no frame"))) } else { Ok(count) }
}

/// An error frame as the body of an answer.
fn error(reference: Option<u64>, reject: &Reject) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    encode::control(Profile::Json, &server::Frame::Error { reference, reject: reject.clone() }, &mut body);
    body
}
