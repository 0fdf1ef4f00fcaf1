//! How many messages a second reach stable storage, against a file that is only appended to and synced.
//!
//! `cargo run --release -p waspmq-store --example commit_rate [directory] [publishers] [seconds] [payload bytes]`
//!
//! Both ways go through the same journal thread with the same publishers, each with one message on its way: what
//! differs is the store behind it, and the log before it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails may end")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Level, MessageId, Name, Pattern, Position, QueueId, Stream};
use waspmq_store::*;

/// As in the broker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Appends and syncs; keeps nothing to read.
#[derive(Debug)]
struct Bare(Mutex<(File, Vec<u8>)>);

impl Store for Bare {
    fn commit(&self, writes: &[Write], durability: Durability) -> Result<(), StoreError> {
        let mut guard = self.0.lock().unwrap();
        let (file, buffer) = &mut *guard;
        buffer.clear();
        for write in writes {
            if let Write::Messages { batch, .. } = write {
                buffer.extend_from_slice(batch.to.as_str().as_bytes());
                buffer.extend_from_slice(&[0; 90]);
                buffer.extend_from_slice(&batch.bytes);
            }
        }
        file.write_all(buffer).unwrap();
        if durability == Durability::Synced {
            file.sync_data().unwrap();
        }
        Ok(())
    }
    fn messages(&self, _: &Query) -> Result<Page, StoreError> {
        Ok(Page::default())
    }
    fn find(&self, _: &Search) -> Result<Found, StoreError> {
        Ok(Found::Nowhere)
    }
    fn find_delayed(&self, _: &Search) -> Result<Found, StoreError> {
        Ok(Found::Nowhere)
    }
    fn first(&self, _: &Address) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
    fn last(&self, _: &Address) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
    fn count_after(&self, _: &Address, _: Option<Position>, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }
    fn addresses(&self, _: &Pattern, _: Option<&Address>, _: usize) -> Result<Vec<Address>, StoreError> {
        Ok(Vec::new())
    }
    fn cursor(&self, _: &Name, _: Option<&Name>, _: &Address) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
    fn member_since(&self, _: &Name, _: &Name) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
    fn resumes(&self, _: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError> {
        Ok(())
    }
    fn cursors(&self, _: &Name, _: &Address, _: usize) -> Result<Vec<(Option<Name>, Position)>, StoreError> {
        Ok(Vec::new())
    }
    fn read_mark(&self, _: &Name, _: &Address) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
    fn groups(&self, _: &mut dyn FnMut(Name)) -> Result<(), StoreError> {
        Ok(())
    }
    fn members(&self, _: &mut dyn FnMut(Member)) -> Result<(), StoreError> {
        Ok(())
    }
    fn resume(&self, _: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError> {
        Ok(None)
    }
    fn dead_letters(&self, _: Option<(MessageId, &str)>, _: usize) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(Vec::new())
    }
    fn dead_letter(&self, _: MessageId) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(Vec::new())
    }
    fn ledger(&self, _: MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
    fn delayed(&self, _: Option<(u64, MessageId)>, _: (usize, usize)) -> Result<DelayedPage, StoreError> {
        Ok(DelayedPage::default())
    }
    fn seen(&self, _: &Name) -> Result<Option<Seen>, StoreError> {
        Ok(None)
    }
    fn queues(&self, _: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError> {
        Ok(())
    }
    fn queue_cursor(&self, _: &QueueId, _: u64, _: &Address) -> Result<Option<QueueCursor>, StoreError> {
        Ok(None)
    }
    fn dedup_keys(&self, _: u16) -> Result<(Vec<dedup::Key>, usize), StoreError> {
        Ok((Vec::new(), 0))
    }
    fn maintain(&self, _: u64) -> Result<Maintained, StoreError> {
        Ok(Maintained::default())
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

struct ToWorker(Mutex<Sender<Vec<u64>>>);

impl Answers for ToWorker {
    fn committed(&self, _: u8, tokens: &[u64], result: Result<(), StoreError>) {
        result.unwrap();
        // The worker has ended when its time is over.
        self.0.lock().unwrap().send(tokens.to_vec()).unwrap_or_default();
    }
}

fn message(publisher: u64, offset: u64, payload: &[u8]) -> Write {
    let address = Address::parse(&format!("user/user-{publisher}")).unwrap();
    let mut batch = Batch {
        to: address,
        from: Some(Name::parse("publisher").unwrap()),
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: true,
        unix_ms: 1_800_000_000_000 + offset,
        published_us: 0,
        first: Position { stream: Stream { shard: 0, epoch: 1 }, offset },
        messages: Vec::with_capacity(1),
        bytes: Vec::with_capacity(payload.len()),
    };
    let payload = batch.store(payload);
    batch.messages.push(Envelope {
        id: MessageId::new(1_800_000_000_000, 1, 0, offset),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload,
        headers: Default::default(),
        key: Default::default(),
        reply_to: Default::default(),
    });
    Write::Messages { batch: Arc::new(batch), retention: Retention::default() }
}

/// Messages a second, and what the journal counted.
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn run(
    (store, log): (Arc<dyn Store>, Option<LogOptions>),
    publishers: u64,
    time: Duration,
    payload: &[u8],
) -> (f64, JournalMetrics) {
    let (sender, answers) = channel();
    let options = JournalOptions { log, ..JournalOptions::new(Arc::new(|| 1_800_000_000_000)) };
    let (journal, threads) = Journal::start(store, options, Arc::new(ToWorker(Mutex::new(sender)))).unwrap();
    let mut offset = 0;
    let began = Instant::now();
    // As in the broker, who finds no room waits.
    let (mut ready, mut done): (Vec<u64>, usize) = ((0..publishers).collect(), 0);
    while began.elapsed() < time {
        while let Some(publisher) = ready.pop_if(|_| journal.has_room()) {
            let ticket = Some(Ticket { worker: 0, token: publisher });
            journal.push(message(publisher, offset, payload), ticket).unwrap();
            offset += 1;
        }
        let most = if ready.is_empty() { time } else { Duration::from_micros(100) };
        if let Ok(tokens) = answers.recv_timeout(most) {
            done += tokens.len();
            ready.extend(tokens);
        }
    }
    let rate = done as f64 / began.elapsed().as_secs_f64();
    threads.stop(Duration::from_secs(10)).unwrap();
    (rate, journal.metrics())
}

#[expect(clippy::print_stdout, reason = "it reports")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("commit-rate");
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (publishers, seconds, bytes) = (number(64), number(5), number(128));
    let payload = vec![b'x'; usize::try_from(bytes).unwrap()];
    let mut ratios: [Vec<f64>; 2] = Default::default();
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{publishers} publishers, {bytes} bytes; load {}", load().trim());
    // In turns, because a disk is not equally fast all the time.
    for round in 0..7 {
        std::fs::create_dir_all(&directory).unwrap();
        let time = Duration::from_secs(seconds);
        let bare = Bare(Mutex::new((File::create(directory.join("bare")).unwrap(), Vec::new())));
        let (bare, metrics) = run((Arc::new(bare), None), publishers, time, &payload);
        let mean = |metrics: &JournalMetrics| {
            let commits = metrics.commits as f64;
            let us = metrics.commit_seconds.sum / commits * 1e6;
            format!("{us:.0} us for {:.0}", metrics.writes as f64 / commits)
        };
        print!("{round}: bare {bare:.0}/s ({})", mean(&metrics));
        for (logged, ratios) in [false, true].into_iter().zip(&mut ratios) {
            let path = directory.join(format!("store-{logged}"));
            let (store, _) = FjallStore::open(StoreOptions::new(&path), &mut |_| {}).unwrap();
            let log = logged.then(|| LogOptions::of_store(&path));
            let (rate, metrics) = run((Arc::new(store), log), publishers, time, &payload);
            let way = if logged { "with a log" } else { "store" };
            print!(", {way} {rate:.0}/s ({}): {:.2}", mean(&metrics), rate / bare);
            ratios.push(rate / bare);
        }
        println!();
        std::fs::remove_dir_all(&directory).unwrap();
    }
    for ratios in &mut ratios {
        ratios.sort_by(f64::total_cmp);
    }
    let [store, logged] = ratios.map(|ratios| ratios[ratios.len() / 2]);
    println!("medians: store {store:.2}, with a log {logged:.2}; load {}", load().trim());
}
