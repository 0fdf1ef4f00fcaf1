//! The journal: one thread that writes, one that applies what was written to the store, and a few that read.
//!
//! What waits is committed together, with one sync when anybody wants to be told, so a sync is shared by everyone who
//! came while the last one ran. With a log, a commit is an append to it, and the store follows behind;
//! without one, it is a commit of the store. Invariants: the order of pushes is the order of commits; every ticket is answered once;
//! work that reads runs after everything that was pushed before it, or finds a store that gives nothing but an error.
//! Pushing never waits: a queue that is full refuses.
//! Deliberately not here: what is stored.

mod applier;
mod backlog;
mod health;
mod metrics;
mod pace;
mod queue;
mod readers;
mod shut;
mod writer;

pub use metrics::{BATCH_BUCKETS, Histogram, JournalMetrics, SECONDS_BUCKETS};

use crate::error::OpenError;
use crate::log::{self, Appender, LogOptions};
use crate::store::{Durability, Store, StoreError, Write};
use applier::Applier;
use backlog::Backlog;
use health::Failing;
use metrics::Meters;
use queue::{Entry, Queue};
use readers::Readers;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use writer::Logged;

/// Who is told when a write is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub worker: u8,
    /// The worker's own.
    pub token: u64,
}

/// Where answers go. Called on the writer's thread: hand over and return.
pub trait Answers: Send + Sync {
    /// What became of these writes of one worker. With `Ok` they are on stable storage. Called once for each worker and
    /// result of a commit.
    fn committed(&self, worker: u8, tokens: &[u64], result: Result<(), StoreError>);

    /// The journal is not busy any more, for a worker that waits for this, see [`Journal::await_room`]. It may be again
    /// by now.
    fn room(&self, _worker: u8) {}
}

/// Work for a reader's thread.
pub type Reading = Box<dyn FnOnce(&dyn Store) + Send>;

/// The time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The bounds of a journal.
#[derive(Clone)]
pub struct JournalOptions {
    /// Writes that may wait, for the log or for the store, before publishers should: [`Journal::is_busy`]. At one and a half
    /// times as many [`Journal::has_room`] says no, at twice as many a push is refused.
    pub entries_max: usize,
    /// Bytes of the writes that may wait. As above.
    pub bytes_max: usize,
    /// Readings that may wait or run. More: refused.
    pub readings_max: usize,
    /// How long readings wait for a store that fails with what the log holds. Behind that they are refused until it does not.
    pub readings_wait: Duration,
    /// Writes and bytes of one commit. More: the next one.
    pub commit_entries_max: usize,
    pub commit_bytes_max: usize,
    pub reader_threads: usize,
    /// How long what nobody waits for may stay unsynced.
    pub sync_every: Duration,
    /// The time between two rounds of [`Store::maintain`].
    pub maintain_every: Duration,
    /// For what becomes too old.
    pub clock: Clock,
    /// Commits go to a log first. `None`: to the store at once, each with what its tables cost.
    pub log: Option<LogOptions>,
}

impl JournalOptions {
    pub fn new(clock: Clock) -> Self {
        Self {
            entries_max: 65_536,
            bytes_max: 64 * 1024 * 1024,
            readings_max: 1_024,
            readings_wait: Duration::from_secs(2),
            commit_entries_max: 4_096,
            commit_bytes_max: 4 * 1024 * 1024,
            reader_threads: 2,
            sync_every: Duration::from_secs(1),
            maintain_every: Duration::from_secs(1),
            clock,
            log: None,
        }
    }
}

impl fmt::Debug for JournalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalOptions").field("entries_max", &self.entries_max).finish_non_exhaustive()
    }
}

/// The journal takes nothing more: it is full, or it has been stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal takes nothing more now")]
pub struct Full;

/// The threads did not end in time; what they had not committed is not answered. With a log, some of it may be there, and
/// is applied at the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal did not end in time; {waiting} writes were not committed")]
pub struct Late {
    pub waiting: usize,
}

/// A handle to the threads; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    queue: Arc<Queue>,
    meters: Arc<Meters>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

impl Journal {
    /// Starts the threads. What an earlier journal left in the log is applied before.
    ///
    /// An error is the operating system's, which gave no thread or no file, or says how the log is damaged.
    pub fn start(
        store: Arc<dyn Store>,
        options: JournalOptions,
        answers: Arc<dyn Answers>,
    ) -> io::Result<(Self, JournalThreads)> {
        let queue = Arc::new(Queue::new(&options));
        let meters = Arc::new(Meters::default());
        let readers = Arc::new(Readers::default());
        let logged = options.log.clone().map(|log| begin_log(&store, log)).transpose()?;
        for index in 0..options.reader_threads.max(1) {
            let started = readers::start(index, &readers, &store, &queue);
            started.inspect_err(|_| readers.close())?;
        }
        let started = start_writers((store, options, answers), (&queue, &meters, &readers), logged);
        let writers = started.inspect_err(|_| readers.close())?;
        Ok((Self { queue: queue.clone(), meters }, JournalThreads { queue, readers, writers }))
    }

    /// Whether publishers should wait before they push more, so that nobody has to be refused. One that does asks
    /// [`Self::await_room`].
    pub fn is_busy(&self) -> bool {
        self.queue.is_busy()
    }

    /// Has a worker, one of at most 64, told once by [`Answers::room`] when the journal is not busy any more. False when it
    /// is not busy now; it may be told nevertheless.
    pub fn await_room(&self, worker: u8) -> bool {
        self.queue.await_room(worker)
    }

    /// Whether there is room for more. Never blocks; a push right behind it is taken, also when others pushed between.
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Queues a write. Never blocks on the disk. With a ticket, [`Answers`] are told when it is on stable storage.
    pub fn push(&self, write: Write, ticket: Option<Ticket>) -> Result<(), Full> {
        let pushed = self.queue.push(Entry::Write { write: Box::new(write), ticket });
        pushed.inspect_err(|_| self.meters.refused())
    }

    /// Whether the log cannot be written, the store does not take what is in it, so that readings are refused, or the store
    /// cannot be kept in order, and has not for as long as readings wait.
    pub fn is_failing(&self) -> bool {
        self.meters.health.is_failing()
    }

    /// The error with which a small write would be refused now, or wait: as far as the last one says. One relaxed load
    /// while there is none.
    pub fn check(&self) -> Result<(), StoreError> {
        self.meters.health.check(false)
    }

    /// The same for a write that [`needs room`](Write::needs_room).
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.meters.health.check(true)
    }

    /// Queues a reading. It runs on a reader's thread after everything pushed before was committed, or failed to be. Where
    /// the store fails for longer with what the log holds, it runs against one that answers everything with that error.
    pub fn read(&self, work: Reading) -> Result<(), Full> {
        self.queue.push(Entry::Read(work)).inspect_err(|_| self.meters.refused())
    }

    pub fn metrics(&self) -> JournalMetrics {
        let (queue_entries, queue_bytes) = self.queue.waiting();
        self.meters.read(queue_entries, queue_bytes)
    }
}

type Parts = (Arc<dyn Store>, JournalOptions, Arc<dyn Answers>);

/// A log behind which nothing waits, and the last group of the one before.
fn begin_log(store: &Arc<dyn Store>, options: LogOptions) -> io::Result<(Appender, u64)> {
    let begin = || {
        log::replay(&options.store, &**store)?;
        let path = options.store.clone();
        let applied = store.applied();
        let applied = applied.map_err(|error| OpenError::StoreDamaged { path, detail: error.to_string() })?;
        Ok((Appender::begin(options, applied)?, applied))
    };
    begin().map_err(|error: OpenError| io::Error::other(error))
}

fn start_writers(
    (store, options, answers): Parts,
    (queue, meters, readers): (&Arc<Queue>, &Arc<Meters>, &Arc<Readers>),
    log: Option<(Appender, u64)>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let parts = || (queue.clone(), meters.clone(), readers.clone());
    let logged = log.map(|(appender, applied)| {
        let (backlog, (queue, meters, readers)) = (Arc::<Backlog>::default(), parts());
        let segments = appender.segments();
        let logged = Logged { appender, backlog: backlog.clone() };
        let (store, options, answers) = (store.clone(), options.clone(), answers.clone());
        let applier = Applier {
            store,
            options,
            answers,
            backlog,
            segments,
            queue,
            meters,
            readers,
            applied,
            synced: applied,
            told: None,
            syncing: Failing::default(),
            upkeep: Failing::default(),
        };
        // When this or the next thread does not start, `logged` is dropped, which ends the applier.
        applier.start().map(|applying| (logged, applying))
    });
    let (logged, applying) = logged.transpose()?.unzip();
    let writing = writer::Writer::new(store, options, answers, parts(), logged).start()?;
    Ok(applying.into_iter().chain([writing]).collect())
}

/// Whoever started the journal waits for its end with this.
pub struct JournalThreads {
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    writers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for JournalThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalThreads").finish_non_exhaustive()
    }
}

impl JournalThreads {
    /// The threads that write, for who watches that they do not end before [`Self::stop`].
    pub fn writers(&self) -> &[JoinHandle<()>] {
        &self.writers
    }

    /// Takes no more, commits everything that waits with a sync, answers, runs the readings and ends the threads.
    #[expect(clippy::disallowed_methods, reason = "a wait for threads, not the time of anything")]
    pub fn stop(self, most: Duration) -> Result<(), Late> {
        let until = Instant::now() + most;
        self.queue.close();
        if self.queue.wait_for_end(until) && self.readers.wait_for_end(until) {
            return Ok(());
        }
        let (waiting, _) = self.queue.waiting();
        Err(Late { waiting })
    }
}

const fn durability(wanted: bool) -> Durability {
    if wanted { Durability::Synced } else { Durability::Buffered }
}
