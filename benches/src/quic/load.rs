//! Pairs over QUIC: one thread, a task per pair, and what came of their messages.
//!
//! A pair writes a batch in one write and waits until its receiver has all of it: never more than a batch is
//! outstanding. Set-up, warm-up, measured interval and drain are those of [`crate::load`], and so are the counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quinn::{Connection, Endpoint, SendStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::client::{self, Ear, Heard, Link};
use super::framing::push_message;
use crate::load::nanoseconds;
use crate::process::{self, Cpu};
use crate::sample::{Faults, Mark, Sample};
use crate::server::Server;
use crate::wire::{Target, Wire};

/// The most a drain waits for messages under way.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a receiver that has everything listens for more.
const STRAYS_WITHIN: Duration = Duration::from_millis(100);

/// How often it is looked whether a connection ended.
const TICK: Duration = Duration::from_millis(50);

/// The load, as the command line has it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Load {
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 2.0)]
    pub(super) seconds: f64,
    /// Seconds under load before that
    #[arg(long, default_value_t = 0.7)]
    pub(super) warm_up: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    pub(super) payload: usize,
    /// Messages of one write, all of which arrive before the next
    #[arg(long, default_value_t = 64)]
    pub(super) window: u32,
    /// Pairs of one sender and one receiver
    #[arg(long, default_value_t = 100)]
    pub(super) pairs: u16,
}

impl Load {
    /// # Errors
    /// A value is out of bounds.
    pub(super) fn check(&self, pairs_max: u16) -> Result<()> {
        ensure!((1..=pairs_max).contains(&self.pairs), "--pairs is between 1 and {pairs_max}");
        ensure!((0.05..=600.0).contains(&self.seconds), "--seconds is between 0.05 and 600");
        ensure!((0.0..=600.0).contains(&self.warm_up), "--warm-up is between 0 and 600");
        ensure!((1..=1 << 20).contains(&self.payload), "--payload is between 1 and 1048576");
        ensure!((1..=4_096).contains(&self.window), "--window is between 1 and 4096");
        Ok(())
    }

    /// A run of it against a server, from so many sockets.
    pub(super) fn plan(&self, wire: Wire, server: &Server, sockets: u16) -> Plan {
        Plan {
            wire,
            port: server.port(),
            pid: server.pid(),
            pairs: self.pairs,
            sockets,
            batch: self.window,
            payload_bytes: self.payload,
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.seconds),
        }
    }
}

/// What one run does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) wire: Wire,
    pub(super) port: u16,
    pub(super) pid: u32,
    pub(super) pairs: u16,
    /// Of the clients; connections are spread over them.
    pub(super) sockets: u16,
    pub(super) batch: u32,
    pub(super) payload_bytes: usize,
    pub(super) warm_up: Duration,
    pub(super) measure: Duration,
}

/// Counters of all pairs, and whether they go on.
#[derive(Debug, Default)]
struct Board {
    sent: Cell<u64>,
    delivered: Cell<u64>,
    bytes: Cell<u64>,
    duplicated: Cell<u64>,
    disconnected: Cell<u64>,
    complaints: Cell<u64>,
    first_complaint: RefCell<Option<String>>,
    is_over: Cell<bool>,
}

/// A sender and its receiver.
#[derive(Debug)]
struct Pair {
    send: SendStream,
    receiver: Ear,
    batch: Vec<u8>,
    count: u64,
}

/// Kept because a connection ends with its last handle, and a stream with its own.
#[derive(Debug)]
struct Held(
    #[expect(dead_code, reason = "kept")] Connection,
    #[expect(dead_code, reason = "kept")] SendStream,
    #[expect(dead_code, reason = "kept")] Connection,
);

/// Runs a plan against a server that is up.
///
/// # Errors
/// When set-up fails or `/proc` cannot be read; faults during the run are in the sample.
pub(super) fn run(plan: &Plan) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, drive(plan))
}

async fn drive(plan: &Plan) -> Result<Sample> {
    let endpoints: Vec<_> = (0..plan.sockets).map(|_| client::endpoint()).collect::<Result<_>>()?;
    let board = Rc::new(Board::default());
    let (pairs, held) = set_up(plan, &endpoints, &board).await?;
    let start = Instant::now();
    let tasks: Vec<_> = pairs.into_iter().map(|pair| spawn_local(pair.run(board.clone()))).collect();
    board.go_on(plan.warm_up).await;
    let begin = board.mark(plan, &start)?;
    board.go_on(plan.measure).await;
    let end = board.mark(plan, &start)?;
    board.is_over.set(true);
    let drained = async {
        for task in tasks {
            drop(task.await);
        }
    };
    let stalled = timeout(DRAIN, drained).await.is_err();
    let mut sample = Sample::between(&begin, &end, board.faults(stalled));
    sample.seconds_in_all = start.elapsed().as_secs_f64();
    sample.published_in_all = board.sent.get();
    sample.server_resident_bytes = process::resident_bytes(plan.pid)?;
    drop(held);
    Ok(sample)
}

/// The pairs, and what has to live as long as they do.
async fn set_up(plan: &Plan, endpoints: &[Endpoint], board: &Rc<Board>) -> Result<(Vec<Pair>, Vec<Held>)> {
    let mut receivers = Vec::new();
    let mut endpoints = endpoints.iter().cycle();
    let mut next = || endpoints.next().context("no socket");
    for i in 0..plan.pairs {
        let mut link = Link::open(next()?, plan.wire, plan.port, &format!("r{i}")).await?;
        if plan.wire == Wire::Relay {
            link.subscribe(Target::Receiver(i)).await?;
        }
        receivers.push(Some(link));
    }
    let (mut pairs, mut held) = (Vec::new(), Vec::new());
    // Servers give connections to their threads in turn: in this order half of the pairs have both ends on one.
    for i in (0..plan.pairs).step_by(2).chain((1..plan.pairs).step_by(2)) {
        let Some(receiver) = receivers[usize::from(i)].take() else { continue };
        let sender = Link::open(next()?, plan.wire, plan.port, &format!("s{i}")).await?;
        let message = plan.wire.publish_message(Target::Receiver(i), plan.payload_bytes);
        let mut batch = Vec::new();
        (0..plan.batch).for_each(|_| push_message(&mut batch, &message));
        pairs.push(Pair { send: sender.send, receiver: receiver.ear, batch, count: u64::from(plan.batch) });
        spawn_local(listen(sender.ear, board.clone()));
        held.push(Held(receiver.connection, receiver.send, sender.connection));
    }
    Ok((pairs, held))
}

/// A sender is told nothing unless something is wrong.
async fn listen(mut ear: Ear, board: Rc<Board>) {
    while let Ok(heard) = ear.hear().await {
        board.hear(heard);
    }
    if !board.is_over.get() {
        add(&board.disconnected, 1);
    }
}

impl Pair {
    async fn run(mut self, board: Rc<Board>) {
        let outcome = self.exchange(&board).await;
        if outcome.is_err() {
            add(&board.disconnected, 1);
        }
    }

    async fn exchange(&mut self, board: &Board) -> Result<()> {
        let (mut sent, mut received) = (0, 0);
        while !board.is_over.get() {
            self.send.write_all(&self.batch).await?;
            sent += self.count;
            add(&board.sent, self.count);
            while received < sent {
                received += board.hear(self.receiver.hear().await?);
            }
        }
        if let Ok(more) = timeout(STRAYS_WITHIN, self.receiver.hear()).await {
            received += board.hear(more?);
        }
        add(&board.duplicated, received.saturating_sub(sent));
        Ok(())
    }
}

impl Board {
    /// Counts what was heard; gives how many messages.
    fn hear(&self, heard: Heard) -> u64 {
        add(&self.bytes, heard.bytes);
        add(&self.delivered, heard.messages);
        if let Some(complaint) = heard.complaint {
            add(&self.complaints, 1);
            self.first_complaint.borrow_mut().get_or_insert(complaint);
        }
        heard.messages
    }

    /// Lets the pairs work for so long, or until one of them cannot.
    async fn go_on(&self, how_long: Duration) {
        let start = Instant::now();
        while self.disconnected.get() == 0 {
            let left = how_long.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(TICK)).await;
        }
    }

    fn mark(&self, plan: &Plan, start: &Instant) -> Result<Mark> {
        Ok(Mark {
            ns: nanoseconds(start.elapsed()),
            server: Cpu::of(plan.pid)?,
            generator: Cpu::of(std::process::id())?,
            delivered: self.delivered.get(),
            published: self.sent.get(),
            received_bytes: self.bytes.get(),
        })
    }

    fn faults(&self, stalled: bool) -> Faults {
        let missing = self.sent.get() + self.duplicated.get();
        Faults {
            lost: missing.saturating_sub(self.delivered.get()),
            duplicated: self.duplicated.get(),
            disconnected: self.disconnected.get(),
            complaints: self.complaints.get(),
            first_complaint: self.first_complaint.borrow().clone(),
            stalled,
        }
    }
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}
