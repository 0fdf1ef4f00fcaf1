//! One connection of a worker: its socket, its session, what it still has to be sent.

use super::access::SessionAccess;
use super::catchup::Catching;
use super::counters::{Ended, Transport};
use super::dictionaries::Dictionaries;
use super::link::{Goodbye, Link};
use super::posted::Http;
use super::presence::Watches;
use super::publish::Target;
use super::resume;
use super::room::Held;
use super::segment::{Encoding, Shared};
use super::streams::Sides;
use super::tls::has_sealed;
use crate::resumes::TokenHash;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use tokio::sync::Notify;
use waspmq_core::compression::Codecs;
use waspmq_core::delivery::{Cursors, Window};
use waspmq_core::outbound::Queue;
use waspmq_core::registry;
use waspmq_core::session::Session;
use waspmq_core::{Address, SessionId};
use waspmq_protocol::Profile;
use waspmq_transport::tls;
use waspmq_transport::websocket::Decoder;

/// Where a connection is in its life.
///
/// | stage | input | next |
/// | --- | --- | --- |
/// | http | request head | open, or closing |
/// | open | frames | open, or closing |
/// | closing | skipped | gone, at the peer's end of stream or the deadline |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Http,
    Open,
    Closing { deadline_us: u64, reason: Ended },
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its number in the worker; used again after its end.
    pub(crate) number: u32,
    pub(crate) link: Link,
    pub(crate) remote: SocketAddr,
    /// What lies between the socket and everything else, where the listener has a certificate.
    pub(crate) tls: Option<Box<tls::Session>>,
    pub(crate) stage: Stage,
    pub(crate) decoder: Decoder,
    pub(crate) encoding: Encoding,
    pub(crate) session: Session,
    pub(crate) session_id: Option<SessionId>,
    /// Who is answered later, by the references of this connection. Unlike the session's id, which a session that is
    /// resumed keeps, no other connection has it.
    pub(crate) asker: Option<SessionId>,
    /// The ids that the session had in connections it was taken over from: what it published then is its own.
    pub(crate) former: Vec<SessionId>,
    /// By what the session can be resumed, when it can be.
    pub(crate) resume_hash: Option<TokenHash>,
    /// Present while its `connect` waits for the worker of the connection it takes a session over from.
    pub(crate) takeover: Option<Box<resume::Asked>>,
    /// Whether there is something of the session that is to be written, so that it is on the worker's list of those.
    pub(crate) is_unsaved: bool,
    /// When its user's first session began, while the journal had no room for that.
    pub(crate) first_seen_unix_ms: Option<u64>,
    /// Whether the client ended the session.
    pub(crate) is_disconnected: bool,
    pub(crate) access: SessionAccess,
    pub(crate) out: Queue<Shared>,
    /// Bytes of a frame that has not arrived completely.
    pub(crate) partial: Vec<u8>,
    /// Bytes that the frame in `partial` will have, as far as known.
    pub(crate) wanted_bytes: usize,
    /// What this connection counts for in the worker's bound of inbound bytes.
    pub(crate) held_bytes: usize,
    /// Groups whose messages reach this connection.
    pub(crate) groups: Vec<Address>,
    pub(crate) watches: Watches,
    /// The address published to last, so that a run of messages parses it once.
    pub(crate) last_to: Option<Target>,
    /// Tracked messages that were sent and are not acknowledged.
    pub(crate) window: Window,
    /// How far stored messages are acknowledged.
    pub(crate) cursors: Cursors,
    /// Whether it is on the worker's list of connections whose cursors are to be saved.
    pub(crate) is_moved: bool,
    pub(crate) catching: Catching,
    /// Pages of history that were asked for and have not been answered, and when the last one was asked for.
    pub(crate) histories: (u8, u64),
    /// Number of the delivery that reached this connection last, so that a message reaches it once.
    pub(crate) last_delivery: u64,
    pub(crate) opened_us: u64,
    /// Since when its next step is waited for: `connect`, or the whole of a request.
    pub(crate) awaited_us: u64,
    pub(crate) heard_us: u64,
    pub(crate) pinged: bool,
    /// Whether the peer has ended its side.
    pub(crate) ended: bool,
    /// Whether it is on the worker's list of connections to write.
    pub(crate) dirty: bool,
    /// Whether a task waits until the socket takes bytes again.
    pub(crate) blocked: bool,
    /// Present while the task that reads the connection waits for room.
    pub(crate) paused: Option<Rc<Notify>>,
    /// A publish that waits for room in the journal, with everything behind it; the connection is not read meanwhile.
    pub(crate) held: Option<Box<Held>>,
    /// Until when this connection waits for room in the journal, while there is none for what it publishes.
    pub(crate) waits_until_us: Option<u64>,
    /// Messages dropped because the outbound queue was full.
    pub(crate) dropped: u64,
    /// Whether it was sent something beside its stream, of which nobody knows whether it was handled.
    pub(crate) has_beside: bool,
    pub(crate) sides: Sides,
    pub(crate) dictionaries: Dictionaries,
    pub(crate) transport: Transport,
    /// What a connection is used for that is neither WebSocket nor QUIC.
    pub(crate) http: Option<Box<Http>>,
    /// With what a connection of QUIC is closed.
    pub(crate) goodbye: Option<Box<Goodbye>>,
}

impl Connection {
    pub(crate) fn new(
        number: u32,
        (link, remote): (Link, SocketAddr),
        session: Session,
        now_us: u64,
    ) -> Self {
        Self {
            number,
            link,
            remote,
            tls: None,
            stage: Stage::Http,
            decoder: Decoder::new(),
            encoding: Encoding::START,
            session,
            session_id: None,
            asker: None,
            former: Vec::new(),
            resume_hash: None,
            takeover: None,
            is_unsaved: false,
            first_seen_unix_ms: None,
            is_disconnected: false,
            access: SessionAccess::default(),
            out: Queue::default(),
            partial: Vec::new(),
            wanted_bytes: 0,
            held_bytes: 0,
            groups: Vec::new(),
            watches: Watches::default(),
            last_to: None,
            window: Window::default(),
            cursors: Cursors::default(),
            is_moved: false,
            catching: Catching::new(now_us),
            histories: (0, 0),
            last_delivery: 0,
            opened_us: now_us,
            awaited_us: now_us,
            heard_us: now_us,
            pinged: false,
            ended: false,
            dirty: false,
            blocked: false,
            paused: None,
            held: None,
            waits_until_us: None,
            dropped: 0,
            has_beside: false,
            sides: Sides::default(),
            dictionaries: Dictionaries::default(),
            transport: Transport::WebSocket,
            http: None,
            goodbye: None,
        }
    }

    /// Who this is, while there is a session.
    pub(crate) const fn identity(&self) -> Option<&registry::Session> {
        self.session.identity()
    }

    /// Whether this session published something under this id.
    pub(crate) fn has_id(&self, origin: Option<SessionId>) -> bool {
        origin.is_some_and(|origin| self.session_id == Some(origin) || self.former.contains(&origin))
    }

    /// What people call the way it is connected.
    pub(crate) const fn spoken(&self) -> &'static str {
        match (self.transport, self.encoding.profile) {
            (Transport::WebSocket, Profile::Json) => "websocket+json",
            (Transport::WebSocket, Profile::Binary) => "websocket+binary",
            (transport, _) => transport.as_str(),
        }
    }

    /// Whether permessage-deflate was negotiated: either side may compress any of its messages.
    pub(crate) const fn has_deflate(&self) -> bool {
        self.encoding.codecs.contains(Codecs::DEFLATE)
    }

    /// Settles which codecs this connection is sent, from what its client names.
    pub(crate) fn take_codecs<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) {
        if self.encoding.profile == Profile::Binary {
            let codecs = self.encoding.codecs.with(Codecs::from_names(names.clone()));
            self.encoding.codecs = codecs;
            self.dictionaries = Dictionaries::held(names);
        }
    }

    /// A connection that has as many dictionaries as it may have gets no others: what it has goes on to be of use only
    /// to messages that are on their way.
    pub(crate) fn note_dictionaries(&mut self) {
        if self.dictionaries.is_full() {
            self.encoding.codecs = self.encoding.codecs.without(Codecs::DICTIONARY);
        }
    }

    /// Ends one or both directions of the link.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        self.link.shutdown(how, self.goodbye.as_deref(), !self.out.is_empty() || self.sides.under_way > 0);
    }

    /// Whether its peer has not been handed everything.
    pub(crate) fn owes_something(&self) -> bool {
        !self.out.is_empty() || self.sides.under_way > 0 || has_sealed(self)
    }

    pub(crate) const fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. })
    }
}
