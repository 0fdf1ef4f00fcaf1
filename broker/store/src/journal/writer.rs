//! The thread that writes.
//!
//! With a log it commits to that, and hands on what the store is to have; without one, to the store itself.

use super::backlog::Backlog;
use super::health::{Failing, Part, Refused};
use super::metrics::Meters;
use super::pace::Pace;
use super::queue::{Entry, Queue};
use super::readers::Readers;
use super::{Answers, JournalOptions, Reading, Ticket, durability};
use crate::log::Appender;
use crate::store::{Durability, Store, StoreError, Write};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Small writes nobody waits for that are kept for the next commit when one fails. More: lost and counted.
const CARRIED_MAX: usize = 65_536;

/// The wait before what failed is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    store: Arc<dyn Store>,
    options: JournalOptions,
    answers: Arc<dyn Answers>,
    queue: Arc<Queue>,
    meters: Arc<Meters>,
    readers: Arc<Readers>,
    taken: VecDeque<Entry>,
    group: Group,
    /// Writes that failed, are worth another try and nobody waits for; they go before everything else.
    carried: Vec<Write>,
    pace: Pace,
    unsynced_since: Option<Instant>,
    maintained: Instant,
    failing: Failing,
    /// When it was tried last whether something can be kept.
    tried: Instant,
    /// Bytes that the log had no space for.
    refused_bytes: u64,
    /// Writes and bytes of the current commit that are in the log: their room is given back when they are applied.
    handed: (usize, usize),
    /// Dropped last: the applier ends with it.
    logged: Option<Logged>,
}

/// The way through a log.
pub(super) struct Logged {
    pub(super) appender: Appender,
    pub(super) backlog: Arc<Backlog>,
}

impl Drop for Logged {
    /// The thread has ended, in whatever way.
    fn drop(&mut self) {
        self.backlog.close();
    }
}

/// What one commit takes.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    /// One for each write.
    tickets: Vec<Option<Ticket>>,
    readings: Vec<Reading>,
    /// How many of the writes have room in the queue, and their bytes there.
    queued: usize,
    bytes: usize,
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures commits and spaces out syncs; nothing stored depends on it"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

impl Writer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        options: JournalOptions,
        answers: Arc<dyn Answers>,
        (queue, meters, readers): (Arc<Queue>, Arc<Meters>, Arc<Readers>),
        logged: Option<Logged>,
    ) -> Self {
        Self {
            store,
            options,
            answers,
            queue,
            meters,
            readers,
            taken: VecDeque::new(),
            group: Group::default(),
            carried: Vec::new(),
            pace: Pace::default(),
            unsynced_since: None,
            maintained: now(),
            failing: Failing::default(),
            tried: now(),
            refused_bytes: 0,
            logged,
            handed: (0, 0),
        }
    }

    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store-write".into()).spawn(move || self.run())
    }

    fn run(mut self) {
        // With a log, the end is the applier's.
        let end =
            self.logged.is_none().then(|| End { queue: self.queue.clone(), readers: self.readers.clone() });
        loop {
            let most = self.time_to_next();
            if self.taken.is_empty() && self.queue.take(&mut self.taken, most, self.pace.company()) {
                break;
            }
            self.gather();
            self.commit();
            self.hand_over_readings();
            self.try_again();
            self.keep_house();
        }
        self.retry_carried();
        if let Err(error) = self.sync() {
            tracing::error!(%error, "the last sync of the store failed");
        }
        // Whoever waits for the end may open the store again. The way through the log is dropped behind the store.
        drop(self);
        drop(end);
    }

    fn time_to_next(&self) -> Duration {
        if !self.carried.is_empty() || self.meters.health.refuses_any() {
            return RETRY_WAIT;
        }
        let maintain = match self.logged {
            Some(_) => self.options.maintain_every,
            None => self.options.maintain_every.saturating_sub(self.maintained.elapsed()),
        };
        let sync = self.unsynced_since.map(|since| self.options.sync_every.saturating_sub(since.elapsed()));
        sync.map_or(maintain, |sync| sync.min(maintain))
    }

    /// Moves what one commit may hold into the group.
    fn gather(&mut self) {
        let group = &mut self.group;
        // They gave their room back when they failed.
        let bytes = self.carried.iter().map(Write::size_bytes).sum();
        self.queue.hold(self.carried.len(), bytes);
        (group.queued, group.bytes) = (self.carried.len(), bytes);
        group.writes.append(&mut self.carried);
        group.tickets.resize(group.writes.len(), None);
        while group.queued < self.options.commit_entries_max && group.bytes < self.options.commit_bytes_max {
            match self.taken.pop_front() {
                Some(Entry::Write { write, ticket }) => {
                    group.queued += 1;
                    group.bytes += write.size_bytes();
                    group.writes.push(*write);
                    group.tickets.push(ticket);
                }
                Some(Entry::Read(work)) => group.readings.push(work),
                None => break,
            }
        }
    }

    fn hand_over_readings(&mut self) {
        let readings = std::mem::take(&mut self.group.readings);
        match &self.logged {
            _ if readings.is_empty() => {}
            Some(logged) => logged.backlog.push_readings(readings),
            None => self.readers.push(readings.into_iter()),
        }
    }

    fn commit(&mut self) {
        let (mut writes, tickets) =
            (std::mem::take(&mut self.group.writes), std::mem::take(&mut self.group.tickets));
        let (queued, bytes) = (std::mem::take(&mut self.group.queued), std::mem::take(&mut self.group.bytes));
        if writes.is_empty() {
            return;
        }
        match self.commit_once(&mut writes, &tickets) {
            Err(StoreError::Full { reason }) => {
                self.commit_small(writes, &tickets, &StoreError::Full { reason })
            }
            Err(error) if !error.is_retryable() && writes.len() > 1 => self.commit_each(writes, &tickets),
            Err(error) => self.give_up(writes, &tickets, &error),
            Ok(()) => self.answer(&tickets, &Ok(())),
        }
        let (handed, handed_bytes) = std::mem::take(&mut self.handed);
        self.meters.bytes(bytes);
        self.queue.release(queued - handed, bytes - handed_bytes, &*self.answers);
    }

    /// Commits the writes, which are handed on when there is a log. On an error they are as before.
    fn commit_once(&mut self, writes: &mut Vec<Write>, tickets: &[Option<Ticket>]) -> Result<(), StoreError> {
        let awaited = tickets.iter().flatten().count();
        let synced = awaited > 0;
        let needs_room = writes.iter().any(Write::needs_room);
        let (began, count) = (now(), writes.len());
        let result = match self.logged {
            Some(_) => self.append(writes, durability(synced)),
            None => self.store.commit(writes, durability(synced)),
        };
        let took = began.elapsed();
        self.meters.commit(count, took, synced, result.is_ok());
        if synced {
            self.pace.committed(awaited, self.queue.awaited(), took);
        }
        match (&result, synced) {
            (Ok(()), true) => self.unsynced_since = None,
            (Ok(()), false) => self.unsynced_since = self.unsynced_since.or(Some(began)),
            (Err(_), _) => {}
        }
        // What is small and worked says nothing of room, however much of it there is.
        if needs_room || result.is_err() {
            self.tried = began;
        }
        self.note(&result, needs_room);
        result
    }

    /// Takes down what a try says about those to come.
    fn note(&mut self, result: &Result<(), StoreError>, needed_room: bool) {
        let health = &self.meters.health;
        health.set_failing(Part::Commit, self.failing.note(result, self.options.readings_wait));
        match result {
            Ok(()) => {
                health.take(Refused::Everything);
                if needed_room {
                    health.take(Refused::Large);
                }
            }
            Err(error @ StoreError::Full { .. }) if needed_room => health.refuse(Refused::Large, error),
            Err(error) if error.is_retryable() => health.refuse(Refused::Everything, error),
            // One write that can never be done says nothing of others.
            Err(_) => {}
        }
    }

    /// Tries whether what was refused can be kept now, so that this is known also where nobody pushes.
    fn try_again(&mut self) {
        if !self.meters.health.refuses_any() || self.tried.elapsed() < RETRY_WAIT {
            return;
        }
        self.tried = now();
        if self.meters.health.refuses(Refused::Everything) {
            let written = match &mut self.logged {
                Some(logged) => logged.appender.probe(),
                None => self.store.commit(&[], Durability::Synced),
            };
            self.note(&written, false);
        } else if self.room(self.refused_bytes).is_ok() {
            self.meters.health.take(Refused::Large);
        }
    }

    /// Whether the store has room for more than what is in the log only.
    fn room(&self, more_bytes: u64) -> Result<(), StoreError> {
        let waiting_bytes = self.logged.as_ref().map_or(0, |logged| logged.backlog.bytes());
        self.store.room(waiting_bytes.saturating_add(more_bytes))
    }

    /// What is in the log may not be refused any more, so whether there is room is asked before.
    fn append(&mut self, writes: &mut Vec<Write>, durability: Durability) -> Result<(), StoreError> {
        let bytes: usize = writes.iter().map(Write::size_bytes).sum();
        if writes.iter().any(Write::needs_room) {
            self.refused_bytes = 0;
            self.room(0)?;
            // Unless the log has space for it.
            self.refused_bytes = bytes as u64;
        }
        let Some(Logged { appender, backlog }) = &mut self.logged else { return Ok(()) };
        let sequence = appender.append(writes, durability)?;
        let writes = std::mem::take(writes);
        self.handed = (self.handed.0 + writes.len(), self.handed.1 + bytes);
        backlog.push_group(sequence, writes, bytes);
        Ok(())
    }

    /// Makes everything that was committed durable.
    fn sync(&mut self) -> Result<(), StoreError> {
        match &mut self.logged {
            Some(logged) => logged.appender.sync(),
            None => self.store.commit(&[], Durability::Synced),
        }
    }

    /// Without room, what needs some is refused and the rest committed.
    fn commit_small(&mut self, writes: Vec<Write>, tickets: &[Option<Ticket>], full: &StoreError) {
        let (mut small, mut small_tickets) = (Vec::new(), Vec::new());
        let (mut large, mut large_tickets) = (Vec::new(), Vec::new());
        for (write, ticket) in writes.into_iter().zip(tickets) {
            let (writes, tickets) = if write.needs_room() {
                (&mut large, &mut large_tickets)
            } else {
                (&mut small, &mut small_tickets)
            };
            writes.push(write);
            tickets.push(*ticket);
        }
        self.give_up(large, &large_tickets, full);
        if small.is_empty() {
            return;
        }
        match self.commit_once(&mut small, &small_tickets) {
            Ok(()) => self.answer(&small_tickets, &Ok(())),
            Err(error) => self.give_up(small, &small_tickets, &error),
        }
    }

    /// One write that can never be done must not fail the others.
    fn commit_each(&mut self, writes: Vec<Write>, tickets: &[Option<Ticket>]) {
        for (write, ticket) in writes.into_iter().zip(tickets) {
            let ticket = std::slice::from_ref(ticket);
            let mut alone = vec![write];
            match self.commit_once(&mut alone, ticket) {
                Ok(()) => self.answer(ticket, &Ok(())),
                Err(error) => self.give_up(alone, ticket, &error),
            }
        }
    }

    /// Answers with the error. Small writes that nobody waits for are kept for later when that may help.
    fn give_up(&mut self, writes: Vec<Write>, tickets: &[Option<Ticket>], error: &StoreError) {
        let mut lost = 0;
        for (write, ticket) in writes.into_iter().zip(tickets) {
            if ticket.is_some() {
                continue;
            }
            if error.is_retryable() && !write.needs_room() && self.carried.len() < CARRIED_MAX {
                self.carried.push(write);
            } else {
                lost += 1;
            }
        }
        if lost > 0 {
            tracing::warn!(lost, %error, "writes that nobody waits for were lost");
            self.meters.lost(lost);
        }
        self.answer(tickets, &Err(error.clone()));
    }

    fn answer(&self, tickets: &[Option<Ticket>], result: &Result<(), StoreError>) {
        let mut of_worker: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        for ticket in tickets.iter().flatten() {
            of_worker.entry(ticket.worker).or_default().push(ticket.token);
        }
        for (worker, tokens) in of_worker {
            self.answers.committed(worker, &tokens, result.clone());
        }
    }

    /// What is due besides commits.
    fn keep_house(&mut self) {
        let is_due = |since: Instant| since.elapsed() >= self.options.sync_every;
        if self.unsynced_since.is_some_and(is_due) {
            self.unsynced_since = None;
            let synced = self.sync();
            if synced.is_err() {
                self.note(&synced, false);
            }
            self.report(synced);
        }
        // With a log, one thread changes the store, and it is the applier.
        if self.logged.is_none() && self.maintained.elapsed() >= self.options.maintain_every {
            let now_unix_ms = (self.options.clock)();
            self.report(self.store.maintain(now_unix_ms).map(drop));
            self.maintained = now();
        }
    }

    fn report(&self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.meters.failed();
            tracing::warn!(%error, "keeping the store in order failed");
        }
    }

    fn retry_carried(&mut self) {
        let mut carried = std::mem::take(&mut self.carried);
        if carried.is_empty() {
            return;
        }
        let lost = carried.len();
        self.queue.hold(lost, carried.iter().map(Write::size_bytes).sum());
        let result = match self.logged {
            Some(_) => self.append(&mut carried, Durability::Synced),
            None => self.store.commit(&carried, Durability::Synced),
        };
        if let Err(error) = result {
            tracing::error!(lost, %error, "writes that nobody waits for were lost at the end");
            self.meters.lost(lost);
        }
    }
}

/// Lets those who wait for the end go on, also when the thread panics.
pub(super) struct End {
    pub(super) queue: Arc<Queue>,
    pub(super) readers: Arc<Readers>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.readers.close();
        self.queue.end();
    }
}
