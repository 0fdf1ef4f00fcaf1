//! One session that reads stored messages, on a worker without a thread.

use super::*;
use crate::admin::tests::control;
use crate::resumes::Replay;
use crate::worker::delivery::tests::Bench;
use crate::worker::resume::Seen;
use crate::worker::resume::tests::record;
use crate::worker::tracking::Redelivery;
use std::net::TcpStream;
use waspmq_core::delivery::window::{Bounds, Window};
use waspmq_core::settings::{Keep, Overflow, Retention};
use waspmq_core::{Level, Pattern, Stream, limits};
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
        Self::of(Overflow::DropOldest, outbound_bytes_max)
    }

    fn of(overflow: Overflow, outbound_bytes_max: usize) -> Self {
        let control = control();
        let store = control.store.clone();
        let mut bench = Bench::of(control, (overflow, Keep::Always), outbound_bytes_max);
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

    /// The same until everything is read, which is so many at least.
    fn read_all(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..1_000_000 {
            numbers.extend(self.read());
            if self.is_idle() && numbers.len() >= count {
                break;
            }
        }
        numbers.sort_unstable();
        numbers
    }

    /// Takes the part of a listing that is on its way.
    fn list(&mut self) {
        loop {
            match self.bench.worker.shared.mailboxes.of(0).pop() {
                Some(Entry::Listing(listing)) => return self.bench.worker.handle_listing(*listing),
                Some(other) => drop(self.bench.worker.obey(other)),
                None => std::thread::yield_now(),
            }
        }
    }

    fn ack(&mut self, to: &'static str, offset: u64) {
        let mut upto = self.bench.worker.end_of(&Address::parse(to).unwrap());
        upto.stream.shard = u16::from(to == "topic/t");
        upto.stream.epoch = 1;
        let what = Acked::UpTo { to: to.into(), upto: Position { offset, ..upto } };
        self.with(|worker, connection| worker.take_ack(connection, what, None)).unwrap();
    }

    /// The page that is on its way comes as a damaged one.
    fn damage_page(&mut self) {
        self.bench.read(self.number, &mut self.client);
        for _ in 0..100_000 {
            match self.bench.worker.shared.mailboxes.of(0).pop() {
                Some(Entry::Page(page)) => {
                    let what = "a record".to_owned();
                    let page = PageOf { page: Err(StoreError::Corrupt { what }), ..*page };
                    return self.bench.worker.handle_page(page);
                }
                Some(other) => drop(self.bench.worker.obey(other)),
                None => std::thread::yield_now(),
            }
        }
        panic!("no page comes");
    }

    /// Where the cursor is to be moved to.
    fn cursor(&mut self) -> Option<u64> {
        let moved = self.bench.connection(self.number).cursors.take_moved();
        moved.map(|(_, upto)| upto.offset).last()
    }

    fn is_idle(&mut self) -> bool {
        self.bench.connection(self.number).catching.is_idle()
    }

    fn in_flight(&mut self) -> usize {
        self.bench.connection(self.number).window.len()
    }
}

/// What a resume reads of a session that had `topic/>` since a position, which is the same in all shards.
fn seen(since: Position) -> Start {
    let of_shard = |shard| Position { stream: Stream { shard, ..since.stream }, ..since };
    let all: Arc<[_]> = (0..64).map(of_shard).collect();
    let mut record = record(Vec::new());
    record.subscriptions.iter_mut().for_each(|subscribed| subscribed.since = all.clone());
    Start::Seen(Arc::new(Seen::new(&record, &[])))
}

/// Where an address would be read again if the session were lost now.
fn begins(reader: &mut Reader) -> Vec<Begin> {
    let Connection { catching, cursors, .. } = reader.bench.connection(reader.number);
    catching.note_all_passed();
    catching.replays(cursors).into_iter().map(|replay| replay.begin).collect()
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

#[test]
fn a_cursor_stays_before_a_damaged_page_and_the_client_is_told() {
    // Pages of one message.
    let mut reader = Reader::new(1_000);
    reader.store("topic/t", Level::Stored, 5);
    reader.catch_up("topic/t");
    while reader
        .bench
        .connection(reader.number)
        .catching
        .addresses
        .values()
        .any(|of| of.start.after().is_none())
    {
        reader.bench.read(reader.number, &mut reader.client);
        reader.bench.worker.take_mail();
    }
    reader.ack("topic/t", 1);
    assert_eq!(reader.cursor(), Some(1));
    reader.damage_page();
    let errors = reader.bench.worker.counters().errors_sent.load();
    let (numbers, overflows) = reader.bench.read(reader.number, &mut reader.client);
    assert_eq!(
        (numbers, overflows, errors),
        (vec![], vec!["\"to\":\"topic/t\",\"dropped\":0".to_owned()], 1)
    );
    assert!(reader.is_idle(), "it goes on live");
    let live = reader.batches("topic/t", Level::Stored, 2);
    live.into_iter().for_each(|batch| reader.deliver(batch));
    assert_eq!(reader.read(), [6, 7]);
    reader.ack("topic/t", 7);
    assert_eq!(reader.cursor(), None, "2 to 5 were not delivered");
    assert!(reader.bench.connection(reader.number).catching.has_gap, "a resume says so");
}

#[test]
fn a_cursor_does_not_move_at_all_when_the_first_page_is_damaged() {
    let mut reader = Reader::new(1_000);
    reader.store("topic/t", Level::Stored, 2);
    reader.catch_up("topic/t");
    reader.damage_page();
    let live = reader.batches("topic/t", Level::Stored, 1);
    live.into_iter().for_each(|batch| reader.deliver(batch));
    assert_eq!(reader.read(), [3]);
    reader.ack("topic/t", 3);
    assert_eq!(reader.cursor(), None, "where it should be is not known");
}

#[test]
fn what_was_left_to_a_store_that_is_damaged_is_not_acknowledged_by_what_follows() {
    let mut reader = Reader::new(1_000);
    let (first, live) =
        (reader.store("topic/t", Level::Stored, 1), reader.batches("topic/t", Level::Stored, 1));
    first.into_iter().for_each(|batch| reader.deliver(batch));
    assert_eq!(reader.read(), [1]);
    let after = Position { offset: 1, ..live[0].first };
    let to = live[0].to.clone();
    // As a session does whose outbound queue was full.
    reader.with(|worker, connection| {
        let terms = worker.terms(&live, &to);
        acks::note_sent(connection, &live, terms, 0);
        worker.catch_up(connection, &to, Start::After(after));
    });
    reader.damage_page();
    let next = reader.batches("topic/t", Level::Stored, 1);
    next.into_iter().for_each(|batch| reader.deliver(batch));
    assert_eq!(reader.read(), [3]);
    reader.ack("topic/t", 3);
    assert_eq!(reader.cursor(), Some(1));
}

#[test]
fn who_was_seen_last_stays_so_when_what_came_since_cannot_be_read() {
    for is_damaged in [false, true] {
        let mut reader = Reader::new(1_000);
        reader.store("all", Level::Stored, 1);
        let to = Address::all();
        let (user, before) = (Name::parse("reader").unwrap(), reader.bench.worker.end_of(&to));
        let start = Start::CursorOrSeen { user: user.clone(), device: None, before };
        reader.with(|worker, connection| worker.catch_up(connection, &to, start));
        assert!(reader.bench.connection(reader.number).catching.reads_since_seen());
        if is_damaged {
            reader.damage_page();
        } else {
            reader.read();
        }
        let catching = &reader.bench.connection(reader.number).catching;
        assert_eq!((catching.is_idle(), catching.reads_since_seen()), (true, is_damaged));
    }
}

#[test]
fn what_is_sent_past_a_reading_leaves_its_place_unclear() {
    let mut reader = Reader::new(100_000);
    let to = Address::parse("topic/y").unwrap();
    let live = reader.batches("topic/x", Level::Accepted, 1).pop().unwrap();
    let shard = reader.bench.worker.shared.registry.shard_of(&to);
    let at = |offset| Position { stream: Stream { shard, epoch: 1 }, offset };
    let live = Arc::new(Batch { is_kept: false, first: at(5), ..Batch::clone(&live) });
    let again = Replay { of: Pattern::from(&to), begin: Begin::After(at(1)), until: None };
    // What a listing held.
    reader.store("topic/y", Level::Stored, 1);
    reader.bench.worker.shared.kept.insert(&live.to);
    reader.with(|worker, connection| {
        worker.catch_up_pattern(connection, &Pattern::parse("topic/>").unwrap(), seen(at(1)));
        assert_eq!(connection.catching.hold(std::slice::from_ref(&live), true), Some(0));
    });
    reader.list();
    reader.with(|_, connection| {
        assert_eq!(connection.catching.replays(&connection.cursors), std::slice::from_ref(&again));
    });
    // A repeat.
    let mut reader = Reader::new(100_000);
    let session = reader.with(|worker, connection| {
        worker.catch_up(connection, &to, Start::After(at(1)));
        assert_eq!(connection.catching.replays(&connection.cursors), []);
        connection.session_id.unwrap()
    });
    let user = Name::parse("reader").unwrap();
    let sessions = vec![session];
    let redelivery = Redelivery { batch: live, range: 0..1, user, attempt: 2, sessions, is_only: true };
    reader.bench.worker.handle_redelivery(&redelivery);
    let connection = reader.bench.connection(reader.number);
    assert_eq!(connection.catching.replays(&connection.cursors), [again]);
}

#[test]
fn a_wildcard_brings_every_address_whatever_their_number() {
    let count = limits::CATCH_UP_ADDRESSES_MAX + 10;
    let names: Vec<_> = (0..count).map(|index| format!("topic/n{index:05}")).collect();
    for is_resume in [false, true] {
        let mut reader = Reader::new(1 << 20);
        names.iter().for_each(|to| drop(reader.store(to, Level::Stored, 1)));
        let start = if is_resume {
            seen(Position { stream: Stream { shard: 0, epoch: 0 }, offset: 0 })
        } else {
            Start::Earliest
        };
        reader.with(|worker, connection| {
            worker.catch_up_pattern(connection, &Pattern::parse("topic/>").unwrap(), start);
        });
        let mut numbers = reader.read_all(count);
        assert_eq!(numbers.len(), count);
        numbers.dedup();
        assert_eq!(numbers.len(), count, "each once");
        assert!(reader.is_idle());
    }
}

#[test]
fn what_is_published_while_a_wildcard_is_listed_comes_from_the_store_once() {
    let mut reader = Reader::new(100_000);
    let first = reader.store("topic/b", Level::Stored, 1).pop().unwrap();
    reader.bench.worker.shared.kept.insert(&first.to);
    reader.with(|worker, connection| {
        worker.catch_up_pattern(connection, &Pattern::parse("topic/>").unwrap(), Start::Earliest);
    });
    // An address that the part on its way may not have, one that it has, and one behind it.
    for to in ["topic/a", "topic/b", "topic/c"] {
        let live = reader.store(to, Level::Stored, 1).pop().unwrap();
        reader.bench.worker.shared.kept.insert(&live.to);
        reader.deliver(live);
    }
    assert_eq!(reader.read_all(4), [1, 2, 3, 4]);
}

#[test]
fn the_last_message_and_what_came_since_do_not_depend_on_when_an_address_is_listed() {
    let mut reader = Reader::new(100_000);
    reader.store("topic/a", Level::Stored, 2);
    let upto = reader.store("topic/b", Level::Stored, 2).pop().unwrap().first;
    let of_shard = |shard| Position { stream: Stream { shard, ..upto.stream }, ..upto };
    let start = Start::LastUpto((0..64).map(of_shard).collect());
    reader.store("topic/b", Level::Stored, 2);
    reader.with(|worker, connection| {
        worker.catch_up_pattern(connection, &Pattern::parse("topic/>").unwrap(), start);
    });
    assert_eq!(reader.read_all(4), [2, 4, 5, 6]);
}

#[test]
fn who_reads_is_told_what_could_not_be_held() {
    // What is not stored does not come later, so it is not told as spilled.
    for (is_listed, overflow, told) in [
        (true, Overflow::DropOldest, "drop_oldest"),
        (false, Overflow::DropOldest, "drop_oldest"),
        (true, Overflow::Spill, "drop_newest"),
        (false, Overflow::Spill, "drop_newest"),
    ] {
        let mut reader = Reader::of(overflow, 100_000);
        let stored = reader.store("topic/t", Level::Stored, 1).pop().unwrap();
        reader.bench.worker.shared.kept.insert(&stored.to);
        if is_listed {
            reader.with(|worker, connection| {
                worker.catch_up_pattern(connection, &Pattern::parse("topic/*").unwrap(), Start::Earliest);
            });
        } else {
            reader.catch_up("topic/t");
        }
        let live = reader.batches("topic/t", Level::Accepted, 1).pop().unwrap();
        let bytes = vec![0; limits::CATCH_UP_HELD_BYTES_MAX];
        let live = Arc::new(Batch { is_kept: false, bytes, ..Batch::clone(&live) });
        reader.bench.worker.deliver(&mut vec![live]);
        let (_, overflows) = reader.bench.read(reader.number, &mut reader.client);
        let expected = format!("\"to\":\"topic/t\",\"dropped\":1,\"action\":\"{told}\"");
        assert_eq!(overflows, [expected]);
        assert_eq!(reader.bench.worker.counters().dropped_catching_up.load(), 1);
    }
}

#[test]
fn acks_of_what_was_sent_before_say_nothing_of_what_a_resume_reads() {
    let at = |offset| Position { stream: Stream { shard: 1, epoch: 1 }, offset };
    for (start, is_begun, expected) in [
        (Start::Earliest, false, Begin::Earliest),
        (Start::After(at(1)), false, Begin::After(at(2))),
        (Start::After(at(1)), true, Begin::Earliest),
    ] {
        let mut reader = Reader::new(100_000);
        let stored = reader.store("topic/t", Level::Stored, 2);
        stored.iter().for_each(|batch| reader.deliver(batch.clone()));
        assert_eq!(reader.read(), [1, 2]);
        reader.ack("topic/t", 1);
        if is_begun {
            reader.catch_up("topic/t");
        }
        let to = stored[0].to.clone();
        reader.with(|worker, connection| worker.catch_up_resumed(connection, &to, start));
        reader.ack("topic/t", 2);
        assert_eq!(begins(&mut reader), [expected]);
    }
}
