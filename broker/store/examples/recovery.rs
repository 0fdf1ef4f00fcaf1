//! How long a large store takes to open.
//!
//! `cargo run --release -p waspmq-store --example recovery [directory] [messages] [addresses] [payload bytes]`

#![expect(clippy::unwrap_used, reason = "a measurement that fails may end")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Level, MessageId, Position, Stream};
use waspmq_store::{Durability, FjallStore, Query, Store, StoreOptions, Write};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages of one batch and batches of one commit.
const BATCH: u64 = 8;
const COMMIT: u64 = 128;

fn write(number: u64, addresses: u64, payload: &[u8]) -> Write {
    let mut batch = Batch {
        to: Address::parse(&format!("user/user-{}", number % addresses)).unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: true,
        unix_ms: 1_800_000_000_000,
        published_us: 0,
        first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: number * BATCH },
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    for index in 0..BATCH {
        let payload = batch.store(payload);
        batch.messages.push(Envelope {
            id: MessageId::new(1_800_000_000_000, 1, 0, number * BATCH + index),
            is_json: true,
            priority: 0,
            expires_unix_ms: 0,
            payload,
            headers: Default::default(),
            key: Default::default(),
            reply_to: Default::default(),
        });
    }
    let retention = Retention { bytes: u64::MAX, ..Retention::default() };
    Write::Messages { batch: Arc::new(batch), retention }
}

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures and reports")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("recovery");
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (messages, addresses, bytes) = (number(5_000_000), number(10_000), number(128));
    let payload = vec![b'x'; usize::try_from(bytes).unwrap()];
    let began = Instant::now();
    let (store, _) = FjallStore::open(StoreOptions::new(&directory), &mut |_| {}).unwrap();
    for commit in 0..messages / BATCH / COMMIT {
        let batches = commit * COMMIT..(commit + 1) * COMMIT;
        let writes: Vec<_> = batches.map(|number| write(number, addresses, &payload)).collect();
        store.commit(&writes, Durability::Buffered).unwrap();
    }
    store.commit(&[], Durability::Synced).unwrap();
    println!("{:?} stored in {:?}", store.usage(), began.elapsed());
    drop(store);
    let (store, recovered) = FjallStore::open(StoreOptions::new(&directory), &mut |_| {}).unwrap();
    println!("{recovered:?}");
    let began = Instant::now();
    let query = Query {
        address: Address::parse("user/user-1").unwrap(),
        after: None,
        from_unix_ms: None,
        last: Some(100),
        limit: 100,
        max_bytes: usize::MAX,
        now_unix_ms: 0,
    };
    println!(
        "{} of the newest messages read in {:?}",
        store.messages(&query).unwrap().messages.len(),
        began.elapsed()
    );
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
}
