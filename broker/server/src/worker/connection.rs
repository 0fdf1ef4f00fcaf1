//! One connection of a worker: its socket, its session, what it still has to be sent.

use super::counters::Ended;
use super::segment::{Encoding, Shared};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use waspmq_core::outbound::Queue;
use waspmq_core::session::Session;
use waspmq_core::{Address, SessionId};
use waspmq_protocol::Profile;
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
    pub(crate) stream: Rc<TcpStream>,
    pub(crate) remote: SocketAddr,
    pub(crate) stage: Stage,
    pub(crate) decoder: Decoder,
    pub(crate) encoding: Encoding,
    pub(crate) session: Session,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) out: Queue<Shared>,
    /// Bytes of a frame that has not arrived completely.
    pub(crate) partial: Vec<u8>,
    /// Bytes that the frame in `partial` will have, as far as known.
    pub(crate) wanted_bytes: usize,
    /// What this connection counts for in the worker's bound of inbound bytes.
    pub(crate) held_bytes: usize,
    /// Groups whose messages reach this connection.
    pub(crate) groups: Vec<Address>,
    /// The address published to last, so that a run of messages parses it once.
    pub(crate) last_to: Option<Address>,
    /// Number of the delivery that reached this connection last, so that a message reaches it once.
    pub(crate) last_delivery: u64,
    pub(crate) opened_us: u64,
    pub(crate) heard_us: u64,
    pub(crate) pinged: bool,
    /// Whether the peer has ended its side.
    pub(crate) ended: bool,
    /// Whether it is on the worker's list of connections to write.
    pub(crate) dirty: bool,
    /// Whether a task waits until the socket takes bytes again.
    pub(crate) blocked: bool,
    /// Present while the connection is not read because it owes too much.
    pub(crate) paused: Option<Rc<Notify>>,
    /// Messages dropped because the outbound queue was full.
    pub(crate) dropped: u64,
}

impl Connection {
    pub(crate) fn new(
        number: u32,
        (stream, remote): (TcpStream, SocketAddr),
        session: Session,
        now_us: u64,
    ) -> Self {
        Self {
            number,
            stream: Rc::new(stream),
            remote,
            stage: Stage::Http,
            decoder: Decoder::new(),
            encoding: Encoding { profile: Profile::Json, batch: false },
            session,
            session_id: None,
            out: Queue::default(),
            partial: Vec::new(),
            wanted_bytes: 0,
            held_bytes: 0,
            groups: Vec::new(),
            last_to: None,
            last_delivery: 0,
            opened_us: now_us,
            heard_us: now_us,
            pinged: false,
            ended: false,
            dirty: false,
            blocked: false,
            paused: None,
            dropped: 0,
        }
    }

    pub(crate) const fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. })
    }
}
