//! An I/O worker: one thread, one runtime, its own listener socket and its own connections.
//!
//! Everything of a worker lies in one `Worker` that only its thread touches, so there are no locks: tasks
//! borrow it between two awaits and never across one. A turn is what the runtime does between two waits for
//! the network: connections that are readable are read and their messages enter mailboxes; the mail task
//! fills outbound queues; the flush task writes each connection that became dirty once.
//!
//! *Invariants.* Messages of one address are delivered in the order of the mailbox, which is offset order. A
//! connection's slot is empty only while it is being worked on, within one borrow. Other workers are reached
//! through their mailbox alone.

mod access;
mod acks;
pub(crate) mod alone;
mod batch;
mod beside;
mod catchup;
mod chunks;
mod compression;
mod connection;
mod control;
pub mod counters;
mod datagrams;
mod delayed;
mod delivery;
mod dictionaries;
pub(crate) mod drain;
mod enqueue;
mod events;
mod framing;
mod history;
mod inbound;
pub(crate) mod kept;
pub(crate) mod ledger;
mod lifecycle;
mod link;
pub(crate) mod mailbox;
mod memberships;
mod obey;
mod outbox;
mod posted;
mod presence;
mod publish;
mod queues;
mod quic;
mod receipts;
mod recipients;
mod resume;
mod room;
mod scan;
mod segment;
mod streams;
mod subscribe;
mod tail;
mod tasks;
mod tls;
mod tracking;
mod unpack;
mod upgrade;

pub(crate) use delayed::Unread;
pub(crate) use history::storage as storage_error;
pub(crate) use tasks::{CLOSES_WITHIN, run};

use crate::access::AccessControl;
use crate::clock::{Clock, Moment};
use crate::dictionaries::Library;
use crate::phase::PhaseCell;
use crate::queues::KeptQueues;
use crate::resumes::Resumes;
use crate::tail::Tails;
use crate::tls::Tls;
use access::AccessWork;
use acks::{Answers, Moved};
use alone::PutOff;
use batch::OpenBatch;
use compression::Compression;
use connection::Connection;
use control::Control;
use counters::Counters;
use delivery::Encoded;
use hashbrown::HashMap;
use kept::Kept;
use lifecycle::Late;
use link::Link;
use mailbox::Mailboxes;
use outbox::{Flushed, Outbox};
use presence::Watchers;
use queues::Desk;
use receipts::Receipts;
use recipients::Recipients;
use segment::Encoder;
use slab::Slab;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use tls::Handshakes;
use tokio::sync::Notify;
use waspmq_core::SessionId;
use waspmq_core::compression::{Adaptive, Budget};
use waspmq_core::delivery::{Bounds, Delays, Event, Tracker};
use waspmq_core::message::Batch;
use waspmq_core::publish::Plan;
use waspmq_core::registry::Registry;
use waspmq_core::settings::{Rules, Settled};
use waspmq_policy::{Host, WorkerPolicies};
use waspmq_protocol::codec::Unpacker;
use waspmq_store::{Journal, Write};
use waspmq_transport::websocket::Inflater;

/// Bytes read from a connection at once, into a buffer that all connections of the worker share.
const READ_BYTES: usize = 64 * 1024;
/// Mailbox entries handled before others run.
const ENTRIES_PER_TURN: usize = 256;
/// Bytes of messages, each with [`FRAME_OVERHEAD_BYTES`], that are queued for connections before they are
/// written: a connection that keeps up must not overflow within one turn.
const DELIVERED_BYTES_PER_TURN: usize = 256 * 1024;
/// More than what an encoding adds to a short message.
const FRAME_OVERHEAD_BYTES: usize = 256;

const _: () = assert!(
    DELIVERED_BYTES_PER_TURN * 4 <= waspmq_core::limits::OUTBOUND_BYTES_MAX,
    "base64 and batches of several publishers still fit an empty queue"
);

/// What the workers take from the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Whether `Host` must name this machine: on loopback, where a foreign page may resolve to us.
    pub(crate) check_host: bool,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) connections_max: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) outbound_bytes_max: usize,
    pub(crate) worker_outbound_bytes_max: usize,
    pub(crate) inbound_bytes_max: usize,
    /// 0 is unlimited.
    pub(crate) publishes_per_second: u32,
    pub(crate) publish_burst: u32,
    pub(crate) connect_timeout_us: u64,
    pub(crate) heartbeat_ms: u32,
    pub(crate) compression: CompressionSettings,
}

/// What is done about compression.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompressionSettings {
    /// What adaptive compression may spend; absent where it is off.
    pub(crate) budget: Option<Budget>,
    /// Whether permessage-deflate is negotiated.
    pub(crate) permessage_deflate: bool,
}

/// What all workers of a broker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) node: Arc<str>,
    pub(crate) settings: Settings,
    pub(crate) phase: Arc<PhaseCell>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) policies: Arc<Host>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) journal: Journal,
    pub(crate) kept: Arc<Kept>,
    pub(crate) unread: Arc<Unread>,
    pub(crate) access: Arc<AccessControl>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) resumes: Arc<Resumes>,
    pub(crate) queues: Arc<KeptQueues>,
    pub(crate) dictionaries: Arc<Library>,
    pub(crate) tails: Arc<Tails>,
}

/// A worker, for its own tasks. Empty where it has no thread.
type This = std::rc::Weak<RefCell<Worker>>;

/// The state of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    number: u8,
    this: This,
    shared: Arc<Shared>,
    access: AccessWork,
    /// What holds for an address: the shared rules, and what they said last.
    settled: Settled,
    policies: WorkerPolicies,
    connections: Slab<Option<Box<Connection>>>,
    /// Connections by their session.
    numbers: HashMap<SessionId, u32, foldhash::fast::RandomState>,
    recipients: Recipients,
    watchers: Watchers,
    outbox: Outbox,
    encoder: Encoder,
    unpacker: Unpacker,
    encoded: Encoded,
    control: Control,
    /// Batches for the same recipients, being put together.
    run: Vec<Arc<Batch>>,
    /// The batch of the connection that is read at the moment.
    open: Option<OpenBatch>,
    /// What was decided about the publish that is taken next, when it waited for room.
    planned: Option<Plan>,
    /// Connections that wait for room in the journal.
    waiting: BTreeSet<u32>,
    receipts: Receipts,
    tracker: Tracker,
    /// What the tracker asks for, until it is carried out.
    events: Vec<Event>,
    answers: Answers,
    desk: Desk,
    delays: Delays<PutOff>,
    /// Told when something may be due earlier than was thought.
    timers: Rc<Notify>,
    /// Connections with no room for tracked messages of the run at hand.
    full: Vec<u32>,
    /// Counts runs; the number of the run at hand marks connections it has reached.
    delivery: u64,
    message_count: u64,
    session_count: u32,
    /// Questions that were asked of other workers for sessions that are to be taken over.
    takeover_count: u32,
    /// Requests whose bodies were handed to a session.
    post_count: u64,
    read_buffer: Vec<u8>,
    handshakes: Handshakes,
    /// For the compressed messages of all connections, one at a time.
    inflater: Inflater,
    /// Bytes that connections hold of unfinished frames.
    held_bytes: usize,
    late: Vec<(u32, Late)>,
    /// Connections whose cursors are to be saved.
    moved: Moved,
    /// Connections whose records for resuming changed since the last sweep, and in the second before it.
    unsaved: Vec<u32>,
    unsaved_before: Vec<u32>,
    /// Changes of membership that the journal had no room for.
    memberships: VecDeque<Write>,
    /// When it is written next that the broker is alive.
    alive_due_us: u64,
    /// How long the drain takes, once it began.
    drain_span: drain::Span,
    drain: Rc<Notify>,
}

impl Worker {
    fn new(number: u8, shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        let adaptive = settings.compression.budget.map(|budget| Adaptive::new(budget, shared.clock.now_us()));
        let outbox = Outbox::new(settings.outbound_bytes_max, settings.worker_outbound_bytes_max);
        Self {
            number,
            this: This::new(),
            access: AccessWork::default(),
            settled: Settled::new(shared.rules.clone()),
            policies: shared.policies.worker(number.into()),
            connections: Slab::new(),
            numbers: HashMap::default(),
            recipients: Recipients::default(),
            watchers: Watchers::default(),
            outbox,
            encoder: Encoder::new(Compression::new(shared.clock, adaptive)),
            unpacker: Unpacker::default(),
            encoded: Encoded::default(),
            control: Control::default(),
            run: Vec::new(),
            open: None,
            planned: None,
            waiting: BTreeSet::new(),
            receipts: Receipts::default(),
            tracker: Tracker::new(Bounds::default(), u64::from(number) + 1),
            events: Vec::new(),
            answers: Answers::default(),
            desk: Desk::default(),
            delays: Delays::default(),
            timers: Rc::default(),
            full: Vec::new(),
            delivery: 0,
            message_count: 0,
            session_count: 0,
            takeover_count: 0,
            post_count: 0,
            read_buffer: vec![0; READ_BYTES],
            handshakes: Handshakes::default(),
            inflater: Inflater::default(),
            held_bytes: 0,
            late: Vec::new(),
            moved: Moved::default(),
            unsaved: Vec::new(),
            unsaved_before: Vec::new(),
            memberships: VecDeque::new(),
            alive_due_us: 0,
            drain_span: drain::Span::default(),
            drain: Rc::default(),
            shared,
        }
    }

    fn counters(&self) -> &Counters {
        &self.shared.mailboxes.of(self.number).counters
    }

    fn begin_drain(&mut self, span: drain::Span) {
        self.drain_span = span;
        self.drain.notify_one();
    }

    /// Writes what one dirty connection has. Gives its link when somebody must wait for it to take more.
    fn flush(&mut self, number: u32) -> Option<Link> {
        let mut connection = self.connections.get_mut(number as usize)?.take()?;
        connection.blocked = false;
        // Behind the word that ends the connection nothing follows.
        if connection.out.has_reports() && !connection.is_closing() {
            self.tell_losses(&mut connection);
        }
        let counters = &self.shared.mailboxes.of(self.number).counters;
        let clock = &self.shared.clock;
        let now_unix_ms = if connection.out.has_expiring() { clock.now().unix_ms } else { 0 };
        let now = Moment { us: clock.now_us(), unix_ms: now_unix_ms };
        let flushed = self.outbox.flush(&mut connection, counters, now);
        let has_losses = self.outbox.has_losses();
        if !connection.out.owes_much()
            && let Some(paused) = connection.paused.take()
        {
            paused.notify_waiters();
        }
        let mut wait = None;
        match flushed {
            Flushed::Empty if connection.ended || connection.sides.under_way > 0 => {}
            Flushed::Empty if connection.is_closing() => connection.shutdown(Shutdown::Write),
            Flushed::Empty => {}
            Flushed::More => self.outbox.mark(&mut connection),
            Flushed::Blocked => {
                connection.blocked = true;
                wait = Some(connection.link.clone());
            }
            Flushed::Broken => {}
        }
        if !connection.blocked {
            connection.sides.go_on();
        }
        let is_owed_nothing = flushed == Flushed::Empty && connection.sides.under_way == 0;
        let has_ended = connection.ended && connection.is_closing();
        let is_over = flushed == Flushed::Broken || is_owed_nothing && has_ended;
        if has_losses {
            self.handle_losses_of(&mut connection);
            self.read_behind_window(&mut connection);
        }
        if !connection.catching.is_idle() {
            self.read_on(&mut connection);
        }
        self.put_back(number, connection);
        if is_over {
            self.remove(number);
        }
        if is_over || has_losses {
            self.settle();
        }
        wait
    }

    /// The socket takes bytes again.
    fn unblock(&mut self, number: u32, link: &Link) {
        let slot = self.connections.get_mut(number as usize);
        if let Some(mut connection) = slot.and_then(|slot| slot.take_if(|c| c.link.is(link))) {
            connection.blocked = false;
            self.outbox.mark(&mut connection);
            // Until it was written: what else waits for the network comes behind it.
            connection.blocked = true;
            self.put_back(number, connection);
        }
    }
}
