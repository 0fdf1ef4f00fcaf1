//! The tasks of a worker's thread: accept, read, mail, flush, sweep, access, timers, cursors, drain.
//!
//! Each borrows the [`Worker`] between awaits only. All of them end when the thread's `LocalSet` is dropped.

use super::drain::{drain_acks, drain_connections, stop_deliveries};
use super::inbound::Next;
use super::lifecycle::{CLOSE_WAIT_US, Way};
use super::link::Link;
use super::mailbox::Mailboxes;
use super::quic;
use super::room::Pause;
use super::{Shared, Worker};
use crate::listeners;
use crate::quic::Handed;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};

pub(super) type Cell = Rc<RefCell<Worker>>;

/// Pause after an error of `accept`, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Timers are looked at this often when nothing is due.
const IDLE_WAIT: Duration = Duration::from_secs(3_600);
/// The least wait between two looks, so that what is due at once does not starve the connections.
const TIMER_PAUSE: Duration = Duration::from_millis(1);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Within what time every connection is gone that is closed.
pub(crate) const CLOSES_WITHIN: Duration = Duration::from_micros(CLOSE_WAIT_US).saturating_add(SWEEP_EVERY);
/// How often it is looked for tokens that ended and for rules that changed: both take effect within a second.
const ACCESS_EVERY: Duration = Duration::from_millis(200);
/// How long acknowledgements are gathered before cursors are saved.
const CURSORS_WAIT: Duration = Duration::from_millis(20);
/// Connections written before others run.
const FLUSHES_PER_TURN: usize = 1024;

/// Runs a worker on this thread until it is drained or `stop` turns true.
pub(crate) fn run(
    number: u8,
    shared: Arc<Shared>,
    (listener, incoming): (std::net::TcpListener, Option<mpsc::Receiver<Handed>>),
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    // First, so that it is dropped last.
    let _ended = Ended(shared.mailboxes.clone(), number);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        let worker: Cell = Rc::new(RefCell::new(Worker::new(number, shared)));
        worker.borrow_mut().this = Rc::downgrade(&worker);
        let (mail, flush, sweep, access, timers, cursors) = (
            spawn_local(mail(worker.clone())),
            spawn_local(flush(worker.clone())),
            spawn_local(sweep(worker.clone())),
            spawn_local(access(worker.clone())),
            spawn_local(timers(worker.clone())),
            spawn_local(cursors(worker.clone())),
        );
        if let Some(incoming) = incoming {
            spawn_local(quic::accept(worker.clone(), incoming));
        }
        spawn_local(handshakes(worker.clone()));
        // The first six never end by themselves: without one of them the worker is of no use.
        let result = tokio::select! {
            ended = mail => Err(io::Error::other(format!("the mail task ended: {ended:?}"))),
            ended = flush => Err(io::Error::other(format!("the flush task ended: {ended:?}"))),
            ended = sweep => Err(io::Error::other(format!("the sweep task ended: {ended:?}"))),
            ended = access => Err(io::Error::other(format!("the access task ended: {ended:?}"))),
            ended = timers => Err(io::Error::other(format!("the timers task ended: {ended:?}"))),
            ended = cursors => Err(io::Error::other(format!("the cursors task ended: {ended:?}"))),
            () = serve(worker.clone(), listener) => Ok(()),
            _ = stop.wait_for(|&stop| stop) => Ok(()),
        };
        // What is left was published by those who are gone, or the drain was cut short.
        stop_deliveries(&worker).await;
        let worker = worker.borrow();
        // Whoever waits for the answer to a command learns that there is none.
        while worker.shared.mailboxes.of(number).pop().is_some() {}
        tracing::debug!(worker = number, connections_left = worker.connections.len(), "worker stopped");
        result
    })
}

/// A worker whose thread ends, in whatever way, has no connections any more: others wait for that at the end of a drain.
struct Ended(Arc<Mailboxes>, u8);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.of(self.1).counters.forget_connections();
    }
}

/// Accepts until the drain begins, then drains.
async fn serve(worker: Cell, listener: TcpListener) {
    let drain = worker.borrow().drain.clone();
    loop {
        // Biased: a drain is seen at once; both branches are cancel-safe.
        let accepted = tokio::select! {
            biased;
            () = drain.notified() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => open(&worker, stream, remote),
            Err(error) => {
                tracing::warn!(%error, "accept failed; check the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Err(error) = accept_backlog(&worker, listener) {
        tracing::warn!(%error, "connections of the backlog are lost");
    }
    drain_connections(&worker).await;
    drain_acks(&worker).await;
}

/// Takes what waits in the backlog, which the kernel has told its peers is connected, and closes the listener.
fn accept_backlog(worker: &Cell, listener: TcpListener) -> io::Result<()> {
    let listener = listener.into_std()?;
    for _ in 0..listeners::BACKLOG {
        match listener.accept() {
            Ok((stream, remote)) => {
                stream.set_nonblocking(true)?;
                open(worker, TcpStream::from_std(stream)?, remote);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => tracing::debug!(%error, "a connection of the backlog was gone"),
        }
    }
    Ok(())
}

fn open(worker: &Cell, stream: TcpStream, remote: SocketAddr) {
    let shared = worker.borrow().shared.clone();
    if worker.borrow().is_crowded(remote) {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "the connection was gone before it was served");
        return;
    }
    let tls = match shared.tls.as_ref().and_then(|tls| tls.accept()).transpose() {
        Ok(tls) => tls.map(Box::new),
        Err(error) => return tracing::error!(%remote, %error, "connection refused: TLS cannot be used"),
    };
    serve_link(worker, Link::Tcp(Rc::new(stream)), remote, Way::Socket(tls));
}

/// Takes an open connection into the worker and reads it from now on.
pub(super) fn serve_link(worker: &Cell, link: Link, remote: SocketAddr, way: Way) {
    let number = worker.borrow_mut().open((link.clone(), remote), way);
    spawn_local(read(worker.clone(), number, link));
}

/// Serves the input of one connection.
async fn read(worker: Cell, number: u32, link: Link) {
    // Whether bytes wait that left the socket before.
    let mut is_unread = false;
    loop {
        let has_held = match may_go_on(&worker, number, &link) {
            Some(has_held) => has_held,
            // Boxed: what a wait needs is more than all else of this task, and few connections ever wait.
            None => Box::pin(wait_for_room(&worker, number, &link)).await,
        };
        let next = if has_held {
            worker.borrow_mut().go_on(number, &link)
        } else {
            if !is_unread && link.readable().await.is_err() {
                return;
            }
            let next = worker.borrow_mut().on_readable(number, &link);
            is_unread = next == Next::Unread;
            next
        };
        match next {
            Next::Read => {}
            Next::Yield | Next::Unread => yield_now().await,
            // Boxed, as the wait above is.
            Next::Listen => return Box::pin(listen(worker, number, link)).await,
            Next::Ended | Next::Gone => return,
        }
    }
}

/// Serves what little comes of a connection that is sent events: its end, and what was posted for it and had to wait.
async fn listen(worker: Cell, number: u32, link: Link) {
    let Some(wake) = worker.borrow_mut().events_wake(number, &link) else { return };
    loop {
        while wait_for_room(&worker, number, &link).await {
            if worker.borrow_mut().go_on(number, &link) == Next::Gone {
                return;
            }
        }
        // Both branches are cancel-safe.
        tokio::select! {
            () = wake.notified() => {}
            readable = link.readable() => {
                if readable.is_err() {
                    return;
                }
                let next = worker.borrow_mut().on_readable(number, &link);
                if matches!(next, Next::Ended | Next::Gone) {
                    return;
                }
                yield_now().await;
            }
        }
    }
}

/// What [`wait_for_room`] gives, where there is nothing to wait for.
fn may_go_on(worker: &Cell, number: u32, link: &Link) -> Option<bool> {
    let mut worker = worker.borrow_mut();
    match worker.pause(number, link) {
        Pause::GoOn { has_held } if worker.busy_workers().is_empty() => Some(has_held),
        Pause::GoOn { .. } | Pause::Wait(..) => None,
    }
}

/// Back-pressure: while mailboxes are full, the journal is for what this peer publishes, or the peer does not read what
/// it is owed, it is not read. Gives whether it has sent something that waits.
async fn wait_for_room(worker: &Cell, number: u32, link: &Link) -> bool {
    let has_held = loop {
        let pause = worker.borrow_mut().pause(number, link);
        match pause {
            Pause::Wait(paused, most) => drop(tokio::time::timeout(most, paused.notified()).await),
            Pause::GoOn { has_held } => break has_held,
        }
    };
    wait_for_mailboxes(worker).await;
    has_held
}

/// Waits until every mailbox has room for what publishers send.
pub(super) async fn wait_for_mailboxes(worker: &Cell) {
    let busy = worker.borrow().busy_workers();
    if !busy.is_empty() {
        let mailboxes = worker.borrow().shared.mailboxes.clone();
        for busy in busy.iter() {
            mailboxes.of(busy).room().await;
        }
    }
}

async fn mail(worker: Cell) {
    let (shared, number) = {
        let worker = worker.borrow();
        (worker.shared.clone(), worker.number)
    };
    let mailbox = shared.mailboxes.of(number);
    loop {
        mailbox.woken().await;
        loop {
            let more = worker.borrow_mut().take_mail();
            if !more {
                break;
            }
            yield_now().await;
        }
    }
}

async fn flush(worker: Cell) {
    let wake = worker.borrow().outbox.wake.clone();
    let mut dirty = Vec::new();
    loop {
        wake.notified().await;
        worker.borrow_mut().outbox.take_dirty(&mut dirty);
        for (index, number) in dirty.drain(..).enumerate() {
            if index % FLUSHES_PER_TURN == FLUSHES_PER_TURN - 1 {
                yield_now().await;
            }
            let blocked = worker.borrow_mut().flush(number);
            if let Some(link) = blocked {
                spawn_local(unblock(worker.clone(), number, link));
            }
        }
    }
}

/// Lets as many handshakes go on as before, once everything else that is ready has run.
async fn handshakes(worker: Cell) {
    let wake = worker.borrow().handshakes.wake.clone();
    loop {
        wake.notified().await;
        yield_now().await;
        worker.borrow_mut().handshakes.begin_turn();
    }
}

/// Waits until a blocked socket takes bytes again.
async fn unblock(worker: Cell, number: u32, link: Link) {
    if link.writable().await.is_ok() {
        worker.borrow_mut().unblock(number, &link);
    }
}

async fn sweep(worker: Cell) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        worker.borrow_mut().sweep();
    }
}

async fn access(worker: Cell) {
    let mut ticks = tokio::time::interval(ACCESS_EVERY);
    loop {
        ticks.tick().await;
        loop {
            let more = worker.borrow_mut().apply_access();
            // Sessions that ended had messages in flight.
            worker.borrow_mut().settle();
            if !more {
                break;
            }
            yield_now().await;
        }
    }
}

/// Acts when something of the tracker or the delays is due.
async fn timers(worker: Cell) {
    let (wake, clock) = {
        let worker = worker.borrow();
        (worker.timers.clone(), worker.shared.clock)
    };
    loop {
        let due_ms = worker.borrow_mut().advance();
        let wait_us = due_ms.map(|due_ms| (due_ms * 1_000).saturating_sub(clock.now_us()));
        let wait = wait_us.map_or(IDLE_WAIT, |us| Duration::from_micros(us).clamp(TIMER_PAUSE, IDLE_WAIT));
        // Both branches are cancel-safe.
        tokio::select! {
            () = wake.notified() => tokio::time::sleep(TIMER_PAUSE).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Saves how far sessions have acknowledged, a moment after they did.
async fn cursors(worker: Cell) {
    let wake = worker.borrow().moved.wake.clone();
    loop {
        wake.notified().await;
        tokio::time::sleep(CURSORS_WAIT).await;
        worker.borrow_mut().save_moved();
    }
}
