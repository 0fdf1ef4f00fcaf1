//! One session that reads stored messages, on a worker without a thread.

use super::*;
use crate::admin::tests::control;
use crate::worker::delivery::tests::Bench;
use std::net::TcpStream;
use waspmq_core::Level;
use waspmq_core::delivery::window::{Bounds, Window};
use waspmq_core::settings::{Keep, Overflow, Retention};
use waspmq_protocol::client::Acked;
use waspmq_store::{Durability, Write};

/// A session that may have four tracked messages in flight.
struct Reader {
    bench: Bench,
    store: Arc<dyn Store>,
    number: u32,
    client: TcpStream,
}

impl Reader {
    /// Pages are a quarter of the outbound queue.
    fn new(outbound_bytes_max: usize) -> Self {
        let control = control();
        let store = control.store.clone();
        let mut bench = Bench::of(control, (Overflow::DropOldest, Keep::Always), outbound_bytes_max);
        let (number, client) = bench.connect();
        bench.connection(number).window = Window::new(Bounds { messages_max: 4, bytes_max: 1 << 20 });
        Self { bench, store, number, client }
    }

    /// The next messages of an address, one batch each.
    fn batches(&mut self, to: &str, level: Level, count: usize) -> Vec<Arc<Batch>> {
        let mut next = || Batch { is_kept: true, ..self.bench.batch(to, level, &[("", 0, 0)]) };
        (0..count).map(|_| Arc::new(next())).collect()
    }

    fn store(&mut self, to: &str, level: Level, count: usize) -> Vec<Arc<Batch>> {
        let batches = self.batches(to, level, count);
        let retention = Retention { age_ms: u64::MAX, ..Retention::default() };
        let write = |batch: &Arc<Batch>| Write::Messages { batch: batch.clone(), retention };
        let writes: Vec<_> = batches.iter().map(write).collect();
        self.store.commit(&writes, Durability::Buffered).unwrap();
        batches
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Worker, &mut Connection) -> T) -> T {
        let mut connection = self.bench.worker.connections[self.number as usize].take().unwrap();
        let done = work(&mut self.bench.worker, &mut connection);
        self.bench.worker.put_back(self.number, connection);
        done
    }

    /// Delivers live.
    fn deliver(&mut self, batch: Arc<Batch>) {
        let entry = Entry::Deliver { batch, plain: true, queues: Vec::new() };
        self.bench.worker.shared.mailboxes.send(0, entry).unwrap();
    }

    fn catch_up(&mut self, to: &str) {
        let to = Address::parse(to).unwrap();
        self.with(|worker, connection| worker.catch_up(connection, &to, Start::Earliest));
    }

    /// Takes the pages that come until none is on its way, and gives the numbers of the messages that were sent.
    fn read(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            numbers.extend(self.bench.read(self.number, &mut self.client).0);
            while self.bench.worker.take_mail() {}
            let connection = self.bench.connection(self.number);
            if !connection.catching.is_asked() && connection.out.is_empty() {
                return numbers;
            }
            std::thread::yield_now();
        }
    }

    fn ack(&mut self, to: &'static str, offset: u64) {
        let mut upto = self.bench.worker.end_of(&Address::parse(to).unwrap());
        upto.stream.shard = u16::from(to == "topic/t");
        upto.stream.epoch = 1;
        let what = Acked::UpTo { to: to.into(), upto: Position { offset, ..upto } };
        self.with(|worker, connection| worker.take_ack(connection, what, None)).unwrap();
    }

    fn is_idle(&mut self) -> bool {
        self.bench.connection(self.number).catching.is_idle()
    }

    fn in_flight(&mut self) -> usize {
        self.bench.connection(self.number).window.len()
    }
}

const NONE: [u64; 0] = [];

#[test]
fn a_full_window_pauses_and_acks_go_on() {
    // Pages of one message, and one page for all.
    for outbound_bytes_max in [1_000, 100_000] {
        let mut reader = Reader::new(outbound_bytes_max);
        reader.store("topic/t", Level::Delivered, 11);
        reader.catch_up("topic/t");
        assert_eq!((reader.read(), reader.in_flight()), (vec![1, 2, 3, 4], 4));
        reader.ack("topic/t", 1);
        assert_eq!(reader.read(), NONE, "the store is not read for every ack");
        reader.ack("topic/t", 2);
        assert_eq!((reader.read(), reader.in_flight()), (vec![5, 6], 4));
        reader.ack("topic/t", 6);
        assert_eq!(reader.read(), [7, 8, 9, 10]);
        assert!(!reader.is_idle());
        reader.ack("topic/t", 9);
        assert_eq!(reader.read(), [11]);
        assert!(reader.is_idle());
        assert_eq!(reader.in_flight(), 2);
    }
}

#[test]
fn what_needs_no_place_in_the_window_goes_on_in_other_addresses() {
    let mut reader = Reader::new(100_000);
    reader.store("topic/t", Level::Delivered, 6);
    reader.store("topic/other", Level::Stored, 6);
    reader.catch_up("topic/t");
    reader.catch_up("topic/other");
    assert_eq!(reader.read(), [1, 2, 3, 4, 7, 8, 9, 10, 11, 12]);
    reader.ack("topic/t", 4);
    assert_eq!(reader.read(), [5, 6]);
    assert!(reader.is_idle());
}

#[test]
fn live_messages_wait_behind_what_is_paused() {
    let mut reader = Reader::new(100_000);
    reader.store("topic/t", Level::Delivered, 6);
    reader.catch_up("topic/t");
    assert_eq!(reader.read(), [1, 2, 3, 4]);
    // One that is kept, and one that is not.
    let live = reader.store("topic/t", Level::Accepted, 1).pop().unwrap();
    let passing = reader.batches("topic/t", Level::Accepted, 1).pop().unwrap();
    let passing = Batch { is_kept: false, ..Batch::clone(&passing) };
    reader.deliver(live);
    reader.deliver(Arc::new(passing));
    assert_eq!(reader.read(), NONE);
    reader.ack("topic/t", 4);
    assert_eq!(reader.read(), [5, 6, 7, 8]);
    assert!(reader.is_idle());
}

#[test]
fn messages_larger_than_the_window_go_one_by_one() {
    let mut reader = Reader::new(100_000);
    reader.store("topic/t", Level::Delivered, 5);
    let bounds = Bounds { messages_max: 4, bytes_max: 1 };
    reader.bench.connection(reader.number).window = Window::new(bounds);
    reader.catch_up("topic/t");
    for offset in 1..=5 {
        assert_eq!((reader.read(), reader.in_flight()), (vec![offset], 1));
        reader.ack("topic/t", offset);
    }
    assert!(reader.is_idle());
}
