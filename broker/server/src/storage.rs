//! The store of a broker: opened at start, with what of it must be in memory, and the way back to the workers.

use crate::clock::{Clock, Moment};
use crate::config::StoreConfig;
use crate::queues::KeptQueues;
use crate::resumes::{ALIVE, Alive, Resumes};
use crate::worker::kept::Kept;
use crate::worker::mailbox::{Entry, Mailboxes};
use crate::worker::storage_error;
use anyhow::Context;
use std::sync::Arc;
use waspmq_core::Pattern;
use waspmq_core::limits::SHARD_COUNT;
use waspmq_core::registry::{JoinedBy, Registry};
use waspmq_store::{
    Answers, Bounds, DataDir, Durability, FjallStore, Journal, JournalOptions, JournalThreads, LogOptions,
    Progress, Store, StoreError, StoreOptions, Write,
};

/// What was sent this shortly before the broker was known to be alive may not have been received.
const SEEN_MARGIN_MS: u64 = 2_000;

/// The parts of an open store.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) journal: Journal,
    pub(crate) threads: JournalThreads,
    pub(crate) kept: Arc<Kept>,
    pub(crate) resumes: Arc<Resumes>,
    pub(crate) queues: Arc<KeptQueues>,
}

/// Opens the store and starts its threads. Says on the log what was found, and how far a long opening is.
pub(crate) fn open(
    data_dir: &DataDir,
    config: &StoreConfig,
    (clock, registry, mailboxes): (Clock, &Registry, &Arc<Mailboxes>),
) -> anyhow::Result<Storage> {
    let log = LogOptions::of_store(&data_dir.store_path());
    let mut options = StoreOptions::new(data_dir.store_path());
    options.reserve_bytes = config.reserve_bytes;
    options.bounds =
        Bounds { bytes: config.bytes_max, ledger_age_ms: config.ledger_age_ms, ..Bounds::default() };
    let mut progress = |progress: Progress| tracing::info!(?progress, "opening the store");
    let (store, recovered) = FjallStore::open(options, &mut progress).context("cannot open the store")?;
    data_dir.note_epoch()?;
    for cut in recovered.truncated_tail.iter().chain(&recovered.log_cut) {
        tracing::warn!(
            ?cut,
            "the journal ended in a record that was never completely written; it was cut off"
        );
    }
    tracing::info!(
        messages = recovered.messages,
        bytes = recovered.bytes,
        addresses = recovered.addresses,
        log_writes = recovered.log_writes,
        log_lost = recovered.log_lost,
        took_ms = u64::try_from(recovered.took.as_millis()).unwrap_or(u64::MAX),
        "the store is open"
    );
    let store: Arc<dyn Store> = Arc::new(store);
    let kept = restore(&*store, registry, mailboxes).context("cannot read the store")?;
    let resumes = Resumes::new(config.resume_window_ms);
    restore_sessions(&*store, &resumes, clock.now().unix_ms)
        .context("cannot read what sessions are resumed from")?;
    restore_dedup(&*store, registry, clock.now());
    let queues = restore_queues(&*store, mailboxes.len()).context("cannot read which queues there are")?;
    let options =
        JournalOptions { log: Some(log), ..JournalOptions::new(Arc::new(move || clock.now().unix_ms)) };
    let answers = Arc::new(ToWorkers(mailboxes.clone()));
    let (journal, threads) =
        Journal::start(store.clone(), options, answers).context("cannot start the journal")?;
    Ok(Storage { store, journal, threads, kept, resumes: Arc::new(resumes), queues })
}

/// Brings back groups, their members, and which addresses have messages.
fn restore(store: &dyn Store, registry: &Registry, mailboxes: &Mailboxes) -> Result<Arc<Kept>, StoreError> {
    let mut refused = 0_usize;
    store.groups(&mut |group| refused += usize::from(registry.create_group(&group).is_err()))?;
    store.members(&mut |member| {
        let is_refused = match member.by {
            JoinedBy::Member => registry.join(&member.user, &member.group, mailboxes).is_err(),
            JoinedBy::Operator => registry.add_member(&member.user, &member.group, mailboxes).is_err(),
        };
        refused += usize::from(is_refused);
    })?;
    if refused > 0 {
        tracing::error!(refused, "groups or members of the store do not fit this broker's bounds");
    }
    let kept = Kept::default();
    for pattern in ["user/*", "group/*", "topic/>", "all"] {
        let Ok(pattern) = Pattern::parse_scope(pattern) else { continue };
        for address in store.addresses(&pattern, None, usize::MAX)? {
            kept.insert(&address);
        }
    }
    Ok(Arc::new(kept))
}

/// Brings back the queues whose progress is kept.
fn restore_queues(store: &dyn Store, workers: usize) -> Result<Arc<KeptQueues>, StoreError> {
    let (queues, mut refused) = (KeptQueues::new(workers), 0_usize);
    store.queues(&mut |record| refused += usize::from(!queues.restore(record)))?;
    if refused > 0 {
        tracing::error!(refused, "queues of the store do not fit this broker's bounds");
    }
    Ok(Arc::new(queues))
}

/// Brings back the dedup keys of publishes. One that cannot be read costs no more than that its publish may be repeated.
fn restore_dedup(store: &dyn Store, registry: &Registry, now: Moment) {
    let mut damaged = 0;
    for shard in (0..).take(SHARD_COUNT) {
        match store.dedup_keys(shard) {
            Ok((keys, of_shard)) => {
                damaged += of_shard;
                registry.restore_dedup(shard, keys, (now.unix_ms, now.us / 1_000));
            }
            Err(error) => {
                tracing::warn!(shard, %error, "dedup keys cannot be read; repeats are published again")
            }
        }
    }
    if damaged > 0 {
        tracing::warn!(damaged, "dedup keys of the store are damaged; repeats with them are published again");
    }
}

/// Brings back what sessions are resumed from. Where the broker ended without ending its sessions, their users were
/// seen when it was alive last.
fn restore_sessions(store: &dyn Store, resumes: &Resumes, now_unix_ms: u64) -> Result<(), StoreError> {
    let (mut writes, mut online, mut alive_unix_ms, mut unreadable) = (Vec::new(), Vec::new(), 0, 0_usize);
    store.resumes(&mut |record| {
        if record.token_hash == ALIVE {
            alive_unix_ms = serde_json::from_slice(&record.body).map_or(0, |alive: Alive| alive.unix_ms);
            return;
        }
        match resumes.restore(&record, now_unix_ms) {
            Ok(restored) => {
                writes.extend(restored.write);
                online.extend(restored.online);
            }
            Err(_) => {
                unreadable += 1;
                writes.push(Write::NoResume { token_hash: record.token_hash });
            }
        }
    })?;
    if unreadable > 0 {
        tracing::warn!(unreadable, "sessions of an earlier version cannot be resumed");
    }
    for (user, saved_unix_ms) in online {
        let unix_ms = alive_unix_ms.max(saved_unix_ms).saturating_sub(SEEN_MARGIN_MS);
        if store.last_seen(&user)?.is_none_or(|earlier| earlier < unix_ms) {
            writes.push(Write::LastSeen { user, unix_ms });
        }
    }
    if writes.is_empty() {
        return Ok(());
    }
    store.commit(&writes, Durability::Buffered)
}

/// Stores in memory, for tests; their threads end with the process.
#[cfg(test)]
pub(crate) mod in_memory {
    use super::*;
    use std::path::Path;
    use std::sync::{Condvar, Mutex};
    use waspmq_core::MessageId;

    pub(crate) fn open(clock: Clock, mailboxes: &Arc<Mailboxes>) -> (Arc<dyn Store>, Journal) {
        start(options(clock), Bounds::default(), ToWorkers(mailboxes.clone()))
    }

    /// One that has room for so many bytes.
    pub(crate) fn open_bounded(
        bytes: u64,
        (clock, mailboxes): (Clock, &Arc<Mailboxes>),
    ) -> (Arc<dyn Store>, Journal) {
        let bounds = Bounds { bytes, ..Bounds::default() };
        start(options(clock), bounds, ToWorkers(mailboxes.clone()))
    }

    /// One whose journal has a log of small segments in a directory.
    pub(crate) fn open_logged(
        directory: &Path,
        (clock, mailboxes): (Clock, &Arc<Mailboxes>),
    ) -> (Arc<dyn Store>, Journal) {
        let log = LogOptions { segment_bytes: 4_096, ..LogOptions::of_store(directory) };
        let options = JournalOptions { log: Some(log), ..options(clock) };
        start(options, Bounds::default(), ToWorkers(mailboxes.clone()))
    }

    /// Takes the log's directory away, so that nothing can be written from the next segment on.
    pub(crate) fn break_log(directory: &Path, journal: &Journal) {
        std::fs::rename(directory.join("log"), directory.join("away")).unwrap();
        while journal.check().is_ok() {
            let write = Write::Ledger { id: MessageId::new(1, 1, 0, 1), body: vec![0; 4_096] };
            journal.push(write, None).unwrap();
            std::thread::yield_now();
        }
    }

    /// One whose journal is busy with so many writes and gives no room back while the gate is shut.
    pub(crate) fn open_behind(
        gate: &Arc<Gate>,
        entries_max: usize,
        (clock, mailboxes): (Clock, &Arc<Mailboxes>),
    ) -> (Arc<dyn Store>, Journal) {
        let options = JournalOptions { entries_max, ..options(clock) };
        start(options, Bounds::default(), Gated { gate: gate.clone(), inner: ToWorkers(mailboxes.clone()) })
    }

    fn options(clock: Clock) -> JournalOptions {
        JournalOptions::new(Arc::new(move || clock.now().unix_ms))
    }

    fn start(
        options: JournalOptions,
        bounds: Bounds,
        answers: impl Answers + 'static,
    ) -> (Arc<dyn Store>, Journal) {
        let store: Arc<dyn Store> = Arc::new(waspmq_store::MemoryStore::new(bounds));
        let (journal, _threads) = Journal::start(store.clone(), options, Arc::new(answers)).unwrap();
        (store, journal)
    }

    /// What a writer that has something to answer waits for.
    #[derive(Debug, Default)]
    pub(crate) struct Gate {
        is_shut: Mutex<bool>,
        changed: Condvar,
    }

    impl Gate {
        pub(crate) fn set_shut(&self, is_shut: bool) {
            *self.is_shut.lock().unwrap() = is_shut;
            self.changed.notify_all();
        }
    }

    struct Gated {
        gate: Arc<Gate>,
        inner: ToWorkers,
    }

    impl Answers for Gated {
        fn committed(&self, worker: u8, tokens: &[u64], result: Result<(), StoreError>) {
            let is_shut = self.gate.is_shut.lock().unwrap();
            drop(self.gate.changed.wait_while(is_shut, |is_shut| *is_shut).unwrap());
            self.inner.committed(worker, tokens, result);
        }

        fn room(&self, worker: u8) {
            self.inner.room(worker);
        }
    }
}

/// Tells workers what became of their writes.
#[derive(Debug)]
struct ToWorkers(Arc<Mailboxes>);

impl Answers for ToWorkers {
    fn committed(&self, worker: u8, tokens: &[u64], result: Result<(), StoreError>) {
        let result = result.map_err(|error| storage_error(&error));
        self.0.answer(worker, Entry::Stored { tokens: tokens.into(), result });
    }

    fn room(&self, worker: u8) {
        self.0.answer(worker, Entry::Room);
    }
}
