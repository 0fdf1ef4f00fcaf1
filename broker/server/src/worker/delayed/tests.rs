//! Delayed messages of an earlier run on one worker without a thread.

use super::*;
use crate::worker::alone::tests::{wait, worker};
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::{Address, Level, Position, Stream};
use waspmq_store::{Durability, Write};

const HOUR_MS: u64 = 3_600_000;

/// The message with this number for an address that keeps everything.
fn message(epoch: u32, number: u64) -> Arc<Batch> {
    let mut batch = Batch {
        to: Address::parse("topic/kept").unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: false,
        unix_ms: 1,
        published_us: 0,
        first: Position { stream: Stream { shard: 0, epoch }, offset: 0 },
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    let payload = batch.store(number.to_string().as_bytes());
    batch.messages.push(Envelope {
        id: MessageId::new(1, epoch, 0, number),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload,
        headers: Slice::default(),
        key: Slice::default(),
        reply_to: Slice::default(),
    });
    Arc::new(batch)
}

/// Stores messages of a run, each with its time.
fn store(store: &Arc<dyn Store>, epoch: u32, due_unix_ms: impl IntoIterator<Item = u64>) {
    let delayed = |(number, due_unix_ms)| Write::Delayed { due_unix_ms, batch: message(epoch, number) };
    let writes: Vec<_> = (1..).zip(due_unix_ms).map(delayed).collect();
    store.commit(&writes, Durability::Buffered).unwrap();
}

/// Messages in the history of the address.
fn published(store: &Arc<dyn Store>) -> usize {
    store.count_after(&Address::parse("topic/kept").unwrap(), None, usize::MAX).unwrap()
}

fn waiting(store: &Arc<dyn Store>) -> usize {
    store.delayed(None, (usize::MAX, usize::MAX)).unwrap().messages.len()
}

/// Lets the worker run until its reading has ended and begun no other.
fn settle(worker: &mut Worker) {
    wait(|| {
        worker.take_mail();
        (!worker.shared.unread.is_reading.load(Ordering::SeqCst)).then_some(())
    });
}

#[test]
fn those_that_do_not_fit_are_read_when_there_is_room() {
    let (mut worker, kept) = worker();
    let now = worker.shared.clock.now();
    let count = DELAYED_MESSAGES_MAX + 2_000;
    store(&kept, 0, (0..count as u64).map(|i| now.unix_ms + HOUR_MS + i));
    worker.read_delayed();
    settle(&mut worker);
    let held = worker.delays.len();
    assert!((DELAYED_MESSAGES_MAX / 2..=DELAYED_MESSAGES_MAX / 2 + PAGE_MESSAGES).contains(&held), "{held}");
    assert!(worker.delays.has_room(1, 1_000), "publishers find room");
    let due_ms = now.us / 1_000 + HOUR_MS;
    wait(|| {
        worker.publish_due(due_ms + count as u64 + 1_000);
        worker.take_mail();
        (published(&kept) == count && waiting(&kept) == 0).then_some(())
    });
    assert!(worker.delays.is_empty());
    assert_eq!(worker.shared.unread.due_unix_ms(), None);
}

#[test]
fn what_is_due_is_read_though_later_ones_take_all_room() {
    let (mut worker, kept) = worker();
    let now = worker.shared.clock.now();
    for number in 1..=DELAYED_MESSAGES_MAX as u64 {
        let later = PutOff::stored(now.unix_ms + HOUR_MS, Arc::unwrap_or_clone(message(1, number)));
        worker.delays.push(now.us / 1_000 + HOUR_MS, 100, later).unwrap();
    }
    let due = (0..3_000).map(|i| now.unix_ms - 5_000 + i);
    let later = (0..1_000).map(|i| now.unix_ms + 2 * HOUR_MS + i);
    store(&kept, 0, due.chain(later));
    worker.read_delayed();
    wait(|| {
        worker.take_mail();
        let held = worker.delays.len();
        assert!(held < DELAYED_MESSAGES_MAX + 2 * PAGE_MESSAGES, "{held}");
        worker.publish_due(worker.shared.clock.now_us() / 1_000);
        (published(&kept) == 3_000).then_some(())
    });
    settle(&mut worker);
    assert_eq!(worker.delays.len(), DELAYED_MESSAGES_MAX, "those due later stay in the store");
    assert_eq!(worker.shared.unread.due_unix_ms(), Some(now.unix_ms + 2 * HOUR_MS));
}

#[test]
fn what_this_run_has_put_off_is_not_read() {
    let (mut worker, kept) = worker();
    let (now, epoch) = (worker.shared.clock.now(), worker.shared.registry.epoch());
    let own = (PAGES_PER_READING + 1) * PAGE_MESSAGES;
    store(&kept, epoch, (0..own as u64).map(|i| now.unix_ms - 1_000 + i / 1_000));
    store(&kept, epoch - 1, [now.unix_ms]);
    worker.read_delayed();
    settle(&mut worker);
    assert!(worker.delays.is_empty(), "one reading passes over a bounded number");
    worker.read_delayed();
    settle(&mut worker);
    assert_eq!(worker.delays.len(), 1);
    assert_eq!(worker.shared.unread.due_unix_ms(), None);
}

#[test]
fn a_page_ends_with_its_bytes() {
    let (mut worker, kept) = worker();
    let now = worker.shared.clock.now();
    let large = |number| {
        let mut batch = Arc::unwrap_or_clone(message(0, number));
        batch.messages[0].payload = batch.store(&vec![b'x'; 1024 * 1024]);
        Write::Delayed { due_unix_ms: now.unix_ms + HOUR_MS, batch: Arc::new(batch) }
    };
    let writes: Vec<_> = (1..=20).map(large).collect();
    kept.commit(&writes, Durability::Buffered).unwrap();
    worker.read_delayed();
    settle(&mut worker);
    let bytes = worker.delays.bytes();
    assert!((DELAYED_BYTES_MAX / 2..DELAYED_BYTES_MAX / 2 + 2 * PAGE_BYTES).contains(&bytes), "{bytes}");
}
