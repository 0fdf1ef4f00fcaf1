//! The journal: order, tickets, bounds, failures and its end.

use crate::support::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::registry::JoinedBy;
use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId};
use waspmq_store::*;

/// A memory store that can be made to wait and to fail.
#[derive(Debug)]
pub(crate) struct Trying {
    inner: MemoryStore,
    held: Mutex<bool>,
    wake: Condvar,
    /// Commits so far: how many writes, and whether synced.
    commits: Mutex<Vec<(usize, Durability)>>,
    full: AtomicBool,
    pub(crate) broken: AtomicBool,
    /// Whatever says when somebody was last seen meets a damaged record.
    pub(crate) damaged: AtomicBool,
    /// Nothing is synced, or kept in order.
    pub(crate) unsynced: AtomicBool,
    pub(crate) untidy: AtomicBool,
    /// So many commits of nothing fail, which is how groups are marked as applied.
    pub(crate) unmarked: AtomicU64,
    rounds: AtomicU64,
}

impl Trying {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(Bounds::default()),
            held: Mutex::new(false),
            wake: Condvar::new(),
            commits: Mutex::default(),
            full: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            unsynced: AtomicBool::new(false),
            untidy: AtomicBool::new(false),
            unmarked: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        })
    }

    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.wake.notify_all();
    }
}

impl Store for Trying {
    fn commit(&self, writes: &[Write], durability: Durability) -> Result<(), StoreError> {
        drop(self.wake.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { reason: "broken".into() });
        }
        if self.unsynced.load(Ordering::SeqCst) && durability == Durability::Synced {
            return Err(StoreError::Unavailable { reason: "not synced".into() });
        }
        let less = |left: u64| left.checked_sub(1);
        if writes.is_empty()
            && durability == Durability::Buffered
            && self.unmarked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
        {
            return Err(StoreError::Unavailable { reason: "not marked".into() });
        }
        let is_hit = |write: &Write| matches!(write, Write::LastSeen { .. });
        if self.damaged.load(Ordering::SeqCst) && writes.iter().any(is_hit) {
            return Err(StoreError::Corrupt { what: "a record".into() });
        }
        if self.full.load(Ordering::SeqCst) && writes.iter().any(Write::needs_room) {
            return Err(StoreError::Full { reason: "full".into() });
        }
        self.commits.lock().unwrap().push((writes.len(), durability));
        self.inner.commit(writes, durability)
    }
    fn maintain(&self, now_unix_ms: u64) -> Result<Maintained, StoreError> {
        self.rounds.fetch_add(1, Ordering::SeqCst);
        if self.untidy.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { reason: "not kept in order".into() });
        }
        self.inner.maintain(now_unix_ms)
    }
    fn room(&self, _: u64) -> Result<(), StoreError> {
        let full = || StoreError::Full { reason: "full".into() };
        if self.full.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    }
    fn messages(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner.messages(query)
    }
    fn find(&self, search: &Search) -> Result<Found, StoreError> {
        self.inner.find(search)
    }
    fn find_delayed(&self, search: &Search) -> Result<Found, StoreError> {
        self.inner.find_delayed(search)
    }
    fn first(&self, address: &Address) -> Result<Option<Position>, StoreError> {
        self.inner.first(address)
    }
    fn last(&self, address: &Address) -> Result<Option<Position>, StoreError> {
        self.inner.last(address)
    }
    fn count_after(
        &self,
        address: &Address,
        after: Option<Position>,
        most: usize,
    ) -> Result<usize, StoreError> {
        self.inner.count_after(address, after, most)
    }
    fn addresses(
        &self,
        pattern: &Pattern,
        after: Option<&Address>,
        most: usize,
    ) -> Result<Vec<Address>, StoreError> {
        self.inner.addresses(pattern, after, most)
    }
    fn cursor(
        &self,
        user: &Name,
        device: Option<&Name>,
        to: &Address,
    ) -> Result<Option<Position>, StoreError> {
        self.inner.cursor(user, device, to)
    }
    fn member_since(&self, group: &Name, user: &Name) -> Result<Option<Position>, StoreError> {
        self.inner.member_since(group, user)
    }
    fn resumes(&self, each: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError> {
        self.inner.resumes(each)
    }
    fn cursors(
        &self,
        user: &Name,
        to: &Address,
        most: usize,
    ) -> Result<Vec<(Option<Name>, Position)>, StoreError> {
        self.inner.cursors(user, to, most)
    }
    fn read_mark(&self, user: &Name, address: &Address) -> Result<Option<Position>, StoreError> {
        self.inner.read_mark(user, address)
    }
    fn groups(&self, each: &mut dyn FnMut(Name)) -> Result<(), StoreError> {
        self.inner.groups(each)
    }
    fn members(&self, each: &mut dyn FnMut(Member)) -> Result<(), StoreError> {
        self.inner.members(each)
    }
    fn resume(&self, token_hash: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError> {
        self.inner.resume(token_hash)
    }
    fn dead_letters(
        &self,
        after: Option<(MessageId, &str)>,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters(after, most)
    }
    fn dead_letter(&self, id: MessageId) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letter(id)
    }
    fn ledger(&self, id: MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.ledger(id)
    }
    fn delayed(
        &self,
        after: Option<(u64, MessageId)>,
        bounds: (usize, usize),
    ) -> Result<DelayedPage, StoreError> {
        self.inner.delayed(after, bounds)
    }
    fn seen(&self, user: &Name) -> Result<Option<Seen>, StoreError> {
        self.inner.seen(user)
    }
    fn queues(&self, each: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError> {
        self.inner.queues(each)
    }
    fn queue_cursor(
        &self,
        id: &QueueId,
        born_unix_ms: u64,
        address: &Address,
    ) -> Result<Option<QueueCursor>, StoreError> {
        self.inner.queue_cursor(id, born_unix_ms, address)
    }
    fn dedup_keys(&self, shard: u16) -> Result<(Vec<dedup::Key>, usize), StoreError> {
        self.inner.dedup_keys(shard)
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

pub(crate) type Answer = (u8, Vec<u64>, Result<(), StoreError>);

struct Sent(Mutex<Sender<Answer>>);

impl Answers for Sent {
    fn committed(&self, worker: u8, tokens: &[u64], result: Result<(), StoreError>) {
        self.0.lock().unwrap().send((worker, tokens.to_vec(), result)).unwrap();
    }
}

/// Hands on who is told that there is room.
struct Room(Mutex<Sender<u8>>);

impl Answers for Room {
    fn committed(&self, _worker: u8, _tokens: &[u64], result: Result<(), StoreError>) {
        assert_eq!(result, Ok(()));
    }

    fn room(&self, worker: u8) {
        self.0.lock().unwrap().send(worker).unwrap();
    }
}

pub(crate) fn options() -> JournalOptions {
    JournalOptions::new(Arc::new(|| 1_000))
}

pub(crate) fn start(
    store: Arc<dyn Store>,
    options: JournalOptions,
) -> (Journal, JournalThreads, Receiver<Answer>) {
    let (sender, answers) = channel();
    let (journal, threads) = Journal::start(store, options, Arc::new(Sent(Mutex::new(sender)))).unwrap();
    (journal, threads, answers)
}

pub(crate) fn stop(threads: JournalThreads) {
    threads.stop(Duration::from_secs(10)).unwrap();
}

fn message(offset: u64) -> Write {
    messages(batch("user/a", at(1, offset), 1, 0), LONG)
}

pub(crate) const fn ticket(worker: u8, token: u64) -> Option<Ticket> {
    Some(Ticket { worker, token })
}

#[test]
fn tickets_are_answered_once_per_worker_and_commit() {
    let store = Trying::new();
    let (journal, threads, answers) = start(store.clone(), options());
    store.hold(true);
    journal.push(message(0), ticket(9, 0)).unwrap();
    for offset in 1..=6 {
        journal.push(message(offset), ticket((offset % 2) as u8, offset)).unwrap();
    }
    journal.push(message(7), None).unwrap();
    store.hold(false);
    let mut of_worker: HashMap<u8, Vec<u64>> = HashMap::new();
    while of_worker.values().map(Vec::len).sum::<usize>() < 7 {
        let (worker, tokens, result) = answers.recv().unwrap();
        assert_eq!(result, Ok(()));
        of_worker.entry(worker).or_default().extend(tokens);
    }
    stop(threads);
    assert_eq!(of_worker[&0], [2, 4, 6]);
    assert_eq!(of_worker[&1], [1, 3, 5]);
    assert!(answers.recv().is_err(), "no answer more");
    let commits = store.commits.lock().unwrap();
    assert!(commits.len() <= 3, "what waited went together: {commits:?}");
    assert_eq!(commits.last(), Some(&(0, Durability::Synced)), "the end is synced");
}

#[test]
fn order_holds_and_readings_see_what_came_before() {
    let store = Trying::new();
    let (journal, threads, _answers) = start(store, JournalOptions { commit_entries_max: 7, ..options() });
    let (sender, seen) = channel();
    let cursor =
        |n| Write::Member { group: name("g"), user: name("u"), since: at(1, n), by: JoinedBy::Member };
    for n in 0..500 {
        journal.push(message(n), None).unwrap();
        journal.push(cursor(n), None).unwrap();
        if n % 50 == 0 {
            let sender = sender.clone();
            let reading: Reading = Box::new(move |store| {
                let mut since = 0;
                store.members(&mut |member| since = member.since.offset).unwrap();
                sender.send((n, store.last(&address("user/a")).unwrap().unwrap().offset, since)).unwrap();
            });
            journal.read(reading).unwrap();
        }
    }
    journal.read(Box::new(|_| panic!("a reading that fails"))).unwrap();
    stop(threads);
    drop(sender);
    let seen: Vec<_> = seen.iter().collect();
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|(n, last, since)| last >= n && since >= n), "{seen:?}");
}

#[test]
fn without_tickets_nothing_is_synced_until_it_is_due() {
    let store = Trying::new();
    let options = JournalOptions {
        sync_every: Duration::from_millis(30),
        maintain_every: Duration::from_millis(10),
        ..options()
    };
    let (journal, threads, _answers) = start(store.clone(), options);
    journal.push(message(0), None).unwrap();
    while store.commits.lock().unwrap().len() < 2 || store.rounds.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    assert_eq!(store.commits.lock().unwrap()[..2], [(1, Durability::Buffered), (0, Durability::Synced)]);
    stop(threads);
}

#[test]
fn a_full_queue_refuses() {
    let store = Trying::new();
    let (journal, threads, answers) =
        start(store.clone(), JournalOptions { entries_max: 8, readings_max: 2, ..options() });
    store.hold(true);
    let mut pushed = 0;
    let mut busy_at = None;
    while journal.has_room() {
        if journal.is_busy() {
            busy_at.get_or_insert(pushed);
        }
        journal.push(message(pushed), ticket(0, pushed)).unwrap();
        pushed += 1;
    }
    assert_eq!((busy_at, pushed), (Some(8), 12), "publishers wait before anybody is refused");
    while journal.push(message(pushed), ticket(0, pushed)).is_ok() {
        pushed += 1;
    }
    assert_eq!(pushed, 16, "there is room for those who asked at the same time");
    assert_eq!(
        (0..3).map(|_| journal.read(Box::new(|_| ())).is_ok()).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!((journal.metrics().queue_entries, journal.metrics().refused), (16, 2));
    store.hold(false);
    let mut answered = 0;
    while answered < 16 {
        answered += answers.recv().unwrap().1.len();
    }
    while journal.metrics().queue_entries > 0 {
        std::thread::yield_now();
    }
    assert!(journal.has_room() && !journal.is_busy());
    stop(threads);
    assert!(!journal.has_room(), "what has ended promises nothing");
    assert!(!journal.is_busy(), "nobody waits for what has ended");
    assert_eq!(journal.push(message(99), None), Err(Full), "it has ended");
    let metrics = journal.metrics();
    assert_eq!((metrics.writes, metrics.failures, metrics.lost), (16, 0, 0));
    assert_eq!(metrics.commit_seconds.counts.iter().sum::<u64>(), metrics.commits);
}

/// Fills a journal, has workers wait, and gives who was told once the store goes on.
fn told_of_room(options: JournalOptions) -> Vec<u8> {
    let store = Trying::new();
    let (sender, told) = channel();
    let options = JournalOptions { entries_max: 8, commit_entries_max: 2, ..options };
    let (journal, threads) =
        Journal::start(store.clone(), options, Arc::new(Room(Mutex::new(sender)))).unwrap();
    assert!(!journal.await_room(5), "there is room now");
    store.hold(true);
    let mut pushed = 0;
    while journal.has_room() {
        journal.push(message(pushed), ticket(0, pushed)).unwrap();
        pushed += 1;
    }
    for worker in [0, 2, 63, 2] {
        assert!(journal.await_room(worker));
    }
    // Whoever came while there was room may be told, too, and is told by what was committed since.
    let early: Vec<u8> = told.try_iter().collect();
    assert!(early.is_empty() || early == [5], "{early:?}");
    store.hold(false);
    stop(threads);
    let mut workers: Vec<u8> = early.into_iter().chain(told).collect();
    workers.sort_unstable();
    workers
}

#[test]
fn who_waits_for_room_is_told_once() {
    assert_eq!(told_of_room(options()), [0, 2, 5, 63]);
    let directory = tempfile::tempdir().unwrap();
    let log = Some(LogOptions::of_store(directory.path()));
    assert_eq!(told_of_room(JournalOptions { log, ..options() }), [0, 2, 5, 63]);
}

#[test]
fn a_full_store_takes_what_is_small() {
    let store = Trying::new();
    store.full.store(true, Ordering::SeqCst);
    let (journal, threads, answers) = start(store.clone(), options());
    store.hold(true);
    journal.push(message(0), ticket(1, 10)).unwrap();
    journal.push(Write::LastSeen { user: name("a"), unix_ms: 5 }, ticket(1, 11)).unwrap();
    journal.push(Write::Group { group: name("g") }, None).unwrap();
    journal.push(message(1), None).unwrap();
    store.hold(false);
    stop(threads);
    let mut results = HashMap::new();
    for (_, tokens, result) in answers.iter() {
        results.extend(tokens.into_iter().map(|token| (token, result.is_ok())));
    }
    assert_eq!(results, HashMap::from([(10, false), (11, true)]));
    assert_eq!(store.last_seen(&name("a")).unwrap(), Some(5));
    assert_eq!(store.last(&address("user/a")).unwrap(), None);
    assert_eq!(journal.metrics().lost, 1);
}

#[test]
fn small_writes_survive_a_store_that_fails_for_a_while() {
    let store = Trying::new();
    store.broken.store(true, Ordering::SeqCst);
    let (journal, threads, answers) = start(store.clone(), options());
    journal.push(Write::LastSeen { user: name("a"), unix_ms: 1 }, None).unwrap();
    journal.push(message(0), ticket(1, 1)).unwrap();
    let (_, _, result) = answers.recv().unwrap();
    assert!(matches!(result, Err(StoreError::Unavailable { .. })));
    journal.push(Write::LastSeen { user: name("a"), unix_ms: 2 }, None).unwrap();
    store.broken.store(false, Ordering::SeqCst);
    while store.last_seen(&name("a")).unwrap() != Some(2) {
        std::thread::yield_now();
    }
    stop(threads);
    assert_eq!(store.last_seen(&name("a")).unwrap(), Some(2), "the order is kept");
    assert_eq!(journal.metrics().lost, 0);
}

#[test]
fn what_cannot_be_kept_is_known_until_it_can() {
    let store = Trying::new();
    let short = JournalOptions { readings_wait: Duration::from_millis(1), ..options() };
    let (journal, threads, answers) = start(store.clone(), short);
    let seen = || Write::LastSeen { user: name("a"), unix_ms: 1 };
    let known = || {
        let is_full = |checked| matches!(checked, Err(StoreError::Full { .. }));
        (journal.check().is_ok(), journal.check_room().is_ok(), is_full(journal.check_room()))
    };
    assert_eq!(known(), (true, true, false));
    store.full.store(true, Ordering::SeqCst);
    journal.push(message(0), ticket(1, 1)).unwrap();
    answers.recv().unwrap().2.unwrap_err();
    assert_eq!(known(), (true, false, true));
    journal.push(seen(), ticket(1, 2)).unwrap();
    answers.recv().unwrap().2.unwrap();
    assert_eq!(known(), (true, false, true), "what is small says nothing of room");
    store.full.store(false, Ordering::SeqCst);
    while journal.check_room().is_err() {
        std::thread::yield_now();
    }
    assert!(!journal.is_failing(), "a full store answers");
    store.broken.store(true, Ordering::SeqCst);
    journal.push(seen(), ticket(1, 3)).unwrap();
    answers.recv().unwrap().2.unwrap_err();
    assert_eq!(known(), (false, false, false));
    while !journal.is_failing() {
        std::thread::yield_now();
    }
    store.broken.store(false, Ordering::SeqCst);
    // Without another push; each is found out by itself.
    while journal.is_failing() || known() != (true, true, false) {
        std::thread::yield_now();
    }
    stop(threads);
}

#[test]
fn room_is_looked_for_while_small_writes_go_on() {
    let store = Trying::new();
    let (journal, threads, answers) = start(store.clone(), options());
    store.full.store(true, Ordering::SeqCst);
    journal.push(message(0), ticket(1, 1)).unwrap();
    answers.recv().unwrap().2.unwrap_err();
    assert!(journal.check_room().is_err());
    store.full.store(false, Ordering::SeqCst);
    #[expect(clippy::disallowed_methods, reason = "an end for a test that would go on for ever")]
    let began = std::time::Instant::now();
    // One commit behind the other, and nothing that would need room.
    for token in 2.. {
        if journal.check_room().is_ok() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nobody looks whether there is room");
        journal.push(Write::LastSeen { user: name("a"), unix_ms: token }, ticket(1, token)).unwrap();
        answers.recv().unwrap().2.unwrap();
    }
    stop(threads);
}

#[test]
fn a_write_that_cannot_be_done_fails_alone() {
    let store = Trying::new();
    let (journal, threads, answers) = start(store.clone(), options());
    store.hold(true);
    let letter = DeadLetter {
        id: id(0, 0),
        recipient: "user/a".into(),
        unix_ms: 0,
        cause: "timeout".into(),
        attempts: 1,
        detail: "x".repeat(70_000),
        batch: Arc::new(batch("user/a", at(1, 0), 1, 0)),
    };
    journal.push(message(0), ticket(0, 0)).unwrap();
    journal.push(Write::DeadLetter(letter), ticket(0, 1)).unwrap();
    journal.push(message(2), ticket(0, 2)).unwrap();
    store.hold(false);
    stop(threads);
    let mut results = HashMap::new();
    for (_, tokens, result) in answers.iter() {
        results.extend(tokens.into_iter().map(|token| (token, result.clone())));
    }
    assert_eq!((&results[&0], &results[&2]), (&Ok(()), &Ok(())));
    assert!(matches!(results[&1], Err(StoreError::TooLarge { .. })));
    assert_eq!(offsets(&*store, &query("user/a")), [0, 2]);
}

#[test]
fn an_end_that_takes_too_long_is_told() {
    let store = Trying::new();
    let (journal, threads, _answers) = start(store.clone(), options());
    store.hold(true);
    journal.push(message(0), ticket(0, 0)).unwrap();
    assert_eq!(threads.stop(Duration::from_millis(20)), Err(Late { waiting: 1 }));
    store.hold(false);
}

#[test]
fn everything_pushed_by_many_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store: Arc<dyn Store> = Arc::new(open(&path));
    let (journal, threads, answers) = start(store, options());
    std::thread::scope(|scope| {
        for worker in 0..8_u8 {
            let journal = journal.clone();
            scope.spawn(move || {
                for offset in 0..200 {
                    let write = messages(batch(&format!("user/u{worker}"), at(1, offset), 1, 0), LONG);
                    journal.push(write, ticket(worker, offset)).unwrap();
                }
            });
        }
    });
    let mut tokens: HashMap<u8, Vec<u64>> = HashMap::new();
    while tokens.values().map(Vec::len).sum::<usize>() < 1_600 {
        let (worker, more, result) = answers.recv().unwrap();
        assert_eq!(result, Ok(()));
        tokens.entry(worker).or_default().extend(more);
    }
    assert!(tokens.values().all(|tokens| tokens.iter().copied().eq(0..200)), "in the order of pushes");
    // Killed: nothing is closed.
    let killed = directory.path().join("killed");
    copy(&path, &killed);
    stop(threads);
    let store = open(&killed);
    for worker in 0..8 {
        assert_eq!(offsets(&store, &query(&format!("user/u{worker}"))).len(), 200);
    }
}
