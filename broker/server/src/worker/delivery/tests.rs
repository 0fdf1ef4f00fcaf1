//! Runs against connections that do not read, without a thread: what each overflow action leaves in the queue,
//! what is counted, and what the client is told when it reads.

use super::*;
use crate::admin::tests::control;
use crate::control::Control;
use crate::worker::connection::{Connection, Stage};
use crate::worker::counters::Transport;
use crate::worker::counters::{Counters, Ended};
use crate::worker::lifecycle::Way;
use crate::worker::link::Link;
use crate::worker::queues::Given;
use crate::worker::tracking::Redelivery;
use crate::worker::{CompressionSettings, Settings, Shared as WorkerShared};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use waspmq_core::delivery::Give;
use waspmq_core::delivery::window::{Bounds, Window};
use waspmq_core::message::Envelope;
use waspmq_core::registry::Member;
use waspmq_core::settings::{self, Keep, Overflow, Rules};
use waspmq_core::{Address, Level, MessageId, Name, Pattern, Position, QueueId, SessionId, Stream};
use waspmq_protocol::client::Connect;

const QUEUE_BYTES: usize = 1_000;

/// One worker on a runtime that the test drives.
pub(in crate::worker) struct Bench {
    pub(in crate::worker) worker: Worker,
    pub(in crate::worker) runtime: tokio::runtime::Runtime,
    offset: u64,
}

impl Bench {
    /// A worker on which `topic/t` has these settings.
    pub(in crate::worker) fn new(overflow: Overflow, keep: Keep) -> Self {
        Self::of(control(), (overflow, keep), QUEUE_BYTES)
    }

    /// The same as a part of a broker, with outbound queues of so many bytes.
    pub(in crate::worker) fn of(
        control: Control,
        (overflow, keep): (Overflow, Keep),
        outbound_bytes_max: usize,
    ) -> Self {
        let of_topic =
            settings::Settings { overflow, keep, ..settings::Settings::of_kind(waspmq_core::Kind::Topic) };
        let shared = WorkerShared {
            clock: control.clock,
            node: control.node,
            settings: Settings {
                check_host: false,
                allowed_hosts: Vec::new(),
                allowed_origins: Vec::new(),
                connections_max: 10,
                message_bytes_max: 1_000,
                outbound_bytes_max,
                worker_outbound_bytes_max: 1_000_000,
                inbound_bytes_max: 1_000_000,
                publishes_per_second: 0,
                publish_burst: 0,
                connect_timeout_us: 60_000_000,
                heartbeat_ms: 60_000,
                compression: CompressionSettings { budget: None, permessage_deflate: false },
            },
            phase: control.phase,
            registry: control.registry,
            policies: control.policies,
            access: control.access,
            tls: control.tls,
            journal: control.journal,
            kept: Arc::default(),
            unread: Arc::default(),
            resumes: Arc::new(crate::resumes::Resumes::new(1_000)),
            queues: Arc::new(crate::queues::KeptQueues::new(2)),
            dictionaries: control.dictionaries.clone(),
            tails: control.tails.clone(),
            mailboxes: control.mailboxes,
            rules: Arc::new(Rules::new(vec![(Pattern::parse("topic/t").unwrap(), of_topic)])),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { worker: Worker::new(0, Arc::new(shared)), runtime, offset: 0 }
    }

    /// A session that listens to everything, and its client's end.
    pub(in crate::worker) fn connect(&mut self) -> (u32, TcpStream) {
        let (number, client) = self.open();
        let mut connection = self.worker.connections[number as usize].take().unwrap();
        let connect = Connect { user: Some("reader".into()), ..Connect::default() };
        let now = self.worker.shared.clock.now();
        self.worker.connect(&mut connection, &connect, now).unwrap();
        self.worker.put_back(number, connection);
        self.worker.recipients.subscribe(&Pattern::parse("topic/>").unwrap(), number);
        (number, client)
    }

    /// A connection that has no session yet, and its client's end.
    pub(in crate::worker) fn open(&mut self) -> (u32, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, remote) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let _guard = self.runtime.enter();
        let number = self.worker.open(
            (Link::Tcp(Rc::new(tokio::net::TcpStream::from_std(stream).unwrap())), remote),
            Way::Socket(None),
        );
        let mut connection = self.worker.connections[number as usize].take().unwrap();
        connection.stage = Stage::Open;
        self.runtime.block_on(connection.link.writable()).unwrap();
        self.worker.put_back(number, connection);
        (number, client)
    }

    /// Delivers a run of messages of about 300 bytes each: key, priority, and when it expires.
    fn deliver(&mut self, to: &str, level: Level, messages: &[(&str, u8, u64)]) {
        let batch = self.batch(to, level, messages);
        self.worker.deliver(&mut vec![Arc::new(batch)]);
    }

    /// The next messages.
    pub(in crate::worker) fn batch(&mut self, to: &str, level: Level, messages: &[(&str, u8, u64)]) -> Batch {
        let stream = Stream { shard: u16::from(to == "topic/t"), epoch: 1 };
        let mut batch = Batch {
            to: Address::parse(to).unwrap(),
            from: None,
            origin: None,
            exclude_origin: false,
            level,
            is_kept: level == Level::Stored,
            unix_ms: 1,
            published_us: 0,
            first: Position { stream, offset: self.offset + 1 },
            messages: Vec::new(),
            bytes: Vec::new(),
        };
        for &(key, priority, expires_unix_ms) in messages {
            self.offset += 1;
            let payload = format!("\"<{}>{}\"", self.offset, "x".repeat(170));
            let envelope = Envelope {
                id: MessageId::new(1, self.worker.shared.registry.epoch(), 0, self.offset),
                is_json: true,
                priority,
                expires_unix_ms,
                payload: batch.store(payload.as_bytes()),
                headers: batch.store(b""),
                key: batch.store(key.as_bytes()),
                reply_to: batch.store(b""),
            };
            batch.messages.push(envelope);
        }
        batch
    }

    /// Delivers messages of their own runs; gives nothing back.
    fn deliver_each(&mut self, to: &str, level: Level, keys: &[&str]) {
        keys.iter().for_each(|key| self.deliver(to, level, &[(key, 0, 0)]));
    }

    fn counters(&mut self) -> &Counters {
        self.worker.sweep();
        self.worker.counters()
    }

    /// Messages that were acted upon.
    fn acted(&mut self) -> Vec<(&'static str, u64)> {
        let counters = self.counters();
        let all = Overflow::ALL.map(|action| (action.as_str(), counters.slow_consumers.of(action).load()));
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Lets the client read: the numbers of its messages, and its `overflow` frames.
    pub(in crate::worker) fn read(&mut self, number: u32, client: &mut TcpStream) -> (Vec<u64>, Vec<String>) {
        let _guard = self.runtime.enter();
        let has_more = |connection: &Connection| !connection.out.is_empty() || connection.out.has_reports();
        while self.worker.connections[number as usize].as_deref().is_some_and(has_more) {
            assert!(self.worker.flush(number).is_none(), "little is written");
        }
        client.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        let ended = client.read_to_end(&mut bytes);
        assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let numbers = text.split("\"<").skip(1).map(|rest| rest.split('>').next().unwrap().parse().unwrap());
        let frames = text.split("{\"type\":").skip(1).filter(|frame| frame.starts_with("\"overflow\""));
        let overflows =
            frames.map(|frame| frame.split_once(',').unwrap().1.split('}').next().unwrap().to_owned());
        (numbers.collect(), overflows.collect())
    }
}

fn told(to: &str, dropped: u64, action: &str) -> Vec<String> {
    vec![format!("\"to\":\"{to}\",\"dropped\":{dropped},\"action\":\"{action}\"")]
}

const NONE: [&str; 6] = [""; 6];

#[test]
fn the_oldest_make_room() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::None, &NONE);
    assert_eq!(bench.acted(), [("drop_oldest", 3)]);
    assert_eq!(bench.counters().slow_consumers.dropped(), 3);
    assert_eq!(bench.read(number, &mut client), (vec![4, 5, 6], told("topic/t", 3, "drop_oldest")));
    bench.deliver_each("topic/t", Level::None, &[""]);
    assert_eq!(bench.read(number, &mut client), (vec![7], vec![]), "told once");
    assert_eq!(bench.counters().delivered.of(Transport::WebSocket).of(waspmq_core::Kind::Topic).load(), 4);
}

#[test]
fn the_newest_is_dropped() {
    let mut bench = Bench::new(Overflow::DropNewest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::None, &NONE);
    assert_eq!(bench.acted(), [("drop_newest", 3)]);
    assert_eq!(bench.read(number, &mut client), (vec![1, 2, 3], told("topic/t", 3, "drop_newest")));
}

#[test]
fn a_newer_message_replaces_those_of_its_key() {
    let mut bench = Bench::new(Overflow::Conflate, Keep::Requested);
    let (number, mut client) = bench.connect();
    // One run, so that messages of one segment would go together.
    let keyed = ["a", "b", "a", "a", "b", "a"].map(|key| (key, 0, 0));
    bench.deliver("topic/t", Level::None, &keyed);
    assert_eq!(bench.acted(), [("conflate", 4)]);
    assert_eq!(bench.read(number, &mut client), (vec![5, 6], told("topic/t", 4, "conflate")));
}

#[test]
fn what_is_stored_is_left_to_the_store() {
    let mut bench = Bench::new(Overflow::Spill, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::Stored, &NONE);
    assert_eq!(bench.acted(), [("spill", 1)], "those behind it wait in the store for their turn");
    assert_eq!(bench.counters().slow_consumers.dropped(), 0, "they come later");
    let connection = bench.worker.connections[number as usize].as_ref().unwrap();
    assert_eq!(connection.out.spilled()[0].first.offset, 4);
    assert!(!connection.catching.is_idle());
    assert_eq!(bench.read(number, &mut client).0, [1, 2, 3]);
    bench.deliver_each("topic/t", Level::Stored, &[""]);
    assert_eq!(bench.read(number, &mut client).0, [] as [u64; 0], "7 must not pass 4");
}

#[test]
fn what_is_not_stored_cannot_be_left_to_the_store() {
    for (keep, level) in [(Keep::Requested, Level::Accepted), (Keep::Never, Level::Delivered)] {
        let mut bench = Bench::new(Overflow::Spill, keep);
        bench.connect();
        bench.deliver_each("topic/t", level, &NONE);
        assert_eq!(bench.acted(), [("drop_oldest", 3)]);
    }
}

#[test]
fn the_connection_is_closed() {
    let mut bench = Bench::new(Overflow::Close, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::None, &NONE);
    assert_eq!(bench.acted(), [("close", 1)], "it gets nothing more");
    let connection = bench.worker.connections[number as usize].as_ref().unwrap();
    assert!(matches!(connection.stage, Stage::Closing { reason: Ended::Overloaded, .. }));
    assert!(bench.worker.numbers.is_empty(), "the session has ended");
    assert_eq!(bench.read(number, &mut client), (vec![1, 2, 3], told("topic/t", 1, "close")));
}

#[test]
fn one_full_queue_is_nobody_elses() {
    let mut bench = Bench::new(Overflow::Close, Keep::Requested);
    let (stalled, _client) = bench.connect();
    let (healthy, mut client) = bench.connect();
    for offset in 1..=6 {
        bench.deliver_each("topic/t", Level::None, &[""]);
        assert_eq!(bench.read(healthy, &mut client), (vec![offset], vec![]));
    }
    assert!(bench.worker.connections[stalled as usize].as_ref().unwrap().is_closing());
    assert!(!bench.worker.connections[healthy as usize].as_ref().unwrap().is_closing());
}

#[test]
fn other_addresses_keep_their_own_action() {
    let mut bench = Bench::new(Overflow::DropNewest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::None, &["", ""]);
    bench.deliver_each("topic/other", Level::None, &["", ""]);
    bench.deliver_each("topic/t", Level::None, &[""]);
    assert_eq!(bench.acted(), [("drop_oldest", 1), ("drop_newest", 1)]);
    let (numbers, mut overflows) = bench.read(number, &mut client);
    overflows.sort();
    assert_eq!(numbers, [1, 2, 4]);
    assert_eq!(
        overflows,
        [told("topic/other", 1, "drop_oldest"), told("topic/t", 1, "drop_newest")].concat()
    );
}

#[test]
fn segments_change_with_the_priority_and_go_ahead_of_other_streams() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.read(number, &mut client); // The welcome, which nothing passes.
    bench.deliver("topic/other", Level::None, &[("", 0, 0)]);
    bench.deliver("topic/t", Level::None, &[("", 7, 0), ("", 0, 0)]);
    assert_eq!(bench.read(number, &mut client).0, [2, 1, 3]);
}

#[test]
fn what_has_expired_is_not_sent_and_counted_per_connection() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let readers = [bench.connect(), bench.connect()];
    bench.deliver("topic/t", Level::None, &[("", 0, 1), ("", 0, 0), ("", 0, u64::MAX)]);
    bench.deliver("topic/t", Level::None, &[("", 0, 1)]);
    for (number, mut client) in readers {
        assert_eq!(bench.read(number, &mut client), (vec![2, 3], vec![]));
    }
    assert_eq!(bench.counters().dropped_expired.load(), 4);
    assert_eq!(bench.acted(), []);
}

#[test]
fn what_expires_while_it_waits_is_not_sent() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let (number, mut client) = bench.connect();
    let soon = bench.worker.shared.clock.now().unix_ms + 30;
    bench.deliver("topic/t", Level::None, &[("", 0, soon)]);
    bench.deliver("topic/t", Level::None, &[("", 0, 0)]);
    assert_eq!(bench.worker.connections[number as usize].as_ref().unwrap().out.pending_frames(), 2);
    while bench.worker.shared.clock.now().unix_ms < soon {
        std::thread::yield_now();
    }
    assert_eq!(bench.read(number, &mut client), (vec![2], vec![]));
    assert_eq!(bench.counters().dropped_expired.load(), 1);
}

#[test]
fn what_has_expired_is_not_in_flight() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Always);
    let (number, mut client) = bench.connect();
    let deliver = |bench: &mut Bench, messages: &[(&str, u8, u64)]| {
        let mut batch = bench.batch("topic/t", Level::Delivered, messages);
        batch.is_kept = true;
        bench.worker.deliver(&mut vec![Arc::new(batch)]);
    };
    deliver(&mut bench, &[("", 0, 1), ("", 0, 0), ("", 0, 1)]);
    assert_eq!(bench.connection(number).window.len(), 1, "two were left out");
    // One that expires while it waits: its publisher is told, and the cursor does not wait for it.
    let soon = bench.worker.shared.clock.now().unix_ms + 30;
    deliver(&mut bench, &[("", 0, soon)]);
    assert_eq!(bench.connection(number).window.len(), 2);
    while bench.worker.shared.clock.now().unix_ms < soon {
        std::thread::yield_now();
    }
    let batch = Arc::new(bench.batch("topic/other", Level::Delivered, &[("", 0, soon + 1)]));
    bench.deliver_to_member(&batch, number);
    let waits = bench.connection(number).window.len();
    while bench.worker.shared.clock.now().unix_ms <= soon {
        std::thread::yield_now();
    }
    bench.worker.outbox.drop_expired(bench.worker.connections[number as usize].as_mut().unwrap(), soon + 1);
    bench.worker.handle_losses();
    let expired = Some(Cause::Expired);
    let told: Vec<_> = [(4, 1, expired), (5, 1, expired)].into_iter().take(waits - 1).collect();
    assert_eq!(bench.told(), told);
    assert_eq!(bench.connection(number).window.len(), 1);
    assert_eq!(bench.read(number, &mut client).0, [2]);
    let ids = vec![MessageId::new(1, bench.worker.shared.registry.epoch(), 0, 2)];
    let mut connection = bench.worker.connections[number as usize].take().unwrap();
    bench.worker.take_ack(&mut connection, waspmq_protocol::client::Acked::Ids(ids), None).unwrap();
    bench.worker.put_back(number, connection);
    let connection = bench.connection(number);
    assert!(connection.window.is_empty() && connection.cursors.is_settled());
    assert_eq!(connection.cursors.take_moved().map(|(_, upto)| upto.offset).collect::<Vec<_>>(), [4]);
}

fn window_of(messages_max: usize) -> Window {
    Window::new(Bounds { messages_max, bytes_max: 10_000 })
}

impl Bench {
    pub(in crate::worker) fn connection(&mut self, number: u32) -> &mut Connection {
        self.worker.connections[number as usize].as_deref_mut().unwrap()
    }

    /// Lets the client acknowledge everything of `topic/t` up to the latest message. Gives what the publisher's
    /// worker is told: the first message, how many, and the cause where they failed.
    fn ack_all(&mut self, number: u32) -> Vec<(u64, u16, Option<Cause>)> {
        let upto = Position { stream: Stream { shard: 1, epoch: 1 }, offset: self.offset };
        let mut connection = self.worker.connections[number as usize].take().unwrap();
        let what = waspmq_protocol::client::Acked::UpTo { to: "topic/t".into(), upto };
        self.worker.take_ack(&mut connection, what, None).unwrap();
        self.worker.put_back(number, connection);
        self.told()
    }

    /// What the publisher's worker, which is this one, is told.
    fn told(&mut self) -> Vec<(u64, u16, Option<Cause>)> {
        let told = self.worker.answers.take_own().into_iter();
        let mut told: Vec<_> = told
            .map(|answer| (answer.first.count(), answer.messages, answer.failed.map(|failed| failed.cause)))
            .collect();
        told.sort_by_key(|told| told.0);
        told
    }

    /// Sends the latest message to a session that was chosen for it.
    fn deliver_to_member(&mut self, batch: &Arc<Batch>, number: u32) {
        let session = self.connection(number).session_id.unwrap();
        let name = |text| Name::parse(text).unwrap();
        let queue = QueueId::new(Pattern::parse("topic/>").unwrap(), name("q"));
        let in_flight = Member::new(session, 0, name("reader"), None).begin();
        let delivery = QueueDelivery { message: 0, session, queue, attempt: 1, in_flight };
        self.worker.deliver_to_members(batch, vec![delivery]);
    }

    /// Gives the latest stored message to a session as a queue's home does; says what the home is told.
    fn give(&mut self, batch: Batch, session: SessionId) -> Vec<(u64, Cause)> {
        let queue = QueueId::new(Pattern::parse("topic/>").unwrap(), Name::parse("q").unwrap());
        let give = Give { worker: 0, session, batch: Arc::new(batch), attempt: 1 };
        self.worker.deliver_given(vec![Given::new(&queue, give)]);
        self.worker.desk.take_failed()
    }
}

#[test]
fn what_was_dropped_is_not_delivered_by_a_later_ack() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Never);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::Delivered, &NONE);
    assert_eq!(bench.read(number, &mut client).0, [4, 5, 6]);
    assert_eq!(bench.connection(number).window.len(), 3);
    let full = Some(Cause::QueueFull);
    let told = bench.ack_all(number);
    assert_eq!(told, [(1, 1, full), (2, 1, full), (3, 1, full), (4, 1, None), (5, 1, None), (6, 1, None)]);
    assert!(bench.connection(number).window.is_empty());
}

#[test]
fn what_never_entered_the_queue_is_not_delivered_by_a_later_ack() {
    let mut bench = Bench::new(Overflow::DropNewest, Keep::Never);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::Delivered, &["", "", "", ""]);
    assert_eq!(bench.told(), [(4, 1, Some(Cause::QueueFull))]);
    assert_eq!(bench.read(number, &mut client).0, [1, 2, 3]);
    bench.deliver_each("topic/t", Level::Delivered, &[""]);
    assert_eq!(bench.ack_all(number), [1, 2, 3, 5].map(|offset| (offset, 1, None)));
}

#[test]
fn a_cursor_stays_before_what_was_dropped() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.deliver_each("topic/t", Level::Stored, &["", ""]);
    assert_eq!(bench.read(number, &mut client).0, [1, 2]);
    bench.deliver_each("topic/t", Level::Stored, &NONE);
    assert_eq!(bench.ack_all(number), []);
    let cursors = &mut bench.connection(number).cursors;
    assert_eq!(cursors.take_moved().map(|(_, upto)| upto.offset).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_cursor_stays_before_what_found_the_window_full() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
    let (number, mut client) = bench.connect();
    bench.connection(number).window = window_of(1);
    let kept = |bench: &mut Bench| {
        let mut batch = bench.batch("topic/t", Level::Delivered, &[("", 0, 0)]);
        batch.is_kept = true;
        bench.worker.deliver(&mut vec![Arc::new(batch)]);
    };
    (0..2).for_each(|_| kept(&mut bench));
    assert_eq!(bench.told(), [(2, 1, Some(Cause::QueueFull))]);
    bench.deliver_each("topic/t", Level::Stored, &[""]);
    assert_eq!(bench.read(number, &mut client).0, [1, 3]);
    assert_eq!(bench.ack_all(number), [(1, 1, None)]);
    let cursors = &mut bench.connection(number).cursors;
    assert_eq!(cursors.take_moved().map(|(_, upto)| upto.offset).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_was_read_and_acknowledged_before_its_publisher_sent_it_does_not_come_twice() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Always);
    let (number, mut client) = bench.connect();
    let mut batch = bench.batch("topic/t", Level::Delivered, &[("", 0, 0), ("", 0, 0), ("", 0, 0)]);
    batch.is_kept = true;
    let batch = Arc::new(batch);
    let redelivery = |attempt, session| Redelivery {
        batch: batch.clone(),
        range: 0..3,
        user: Name::parse("reader").unwrap(),
        attempt,
        sessions: vec![session],
        is_only: true,
    };
    // Read from the store, and the first two are acknowledged.
    let now_ms = bench.worker.shared.clock.now_us() / 1_000;
    let run = std::slice::from_ref(&batch);
    let terms = bench.worker.terms(run, &batch.to);
    acks::note_sent(bench.connection(number), run, terms, now_ms);
    let mut connection = bench.worker.connections[number as usize].take().unwrap();
    let ids = batch.messages[..2].iter().map(|envelope| envelope.id).collect();
    bench.worker.take_ack(&mut connection, waspmq_protocol::client::Acked::Ids(ids), None).unwrap();
    bench.worker.put_back(number, connection);
    assert_eq!(bench.told(), [(1, 2, None)]);
    bench.read(number, &mut client);
    // Only now the publisher's worker has heard that the user is there.
    let session = bench.connection(number).session_id.unwrap();
    bench.worker.handle_redelivery(&redelivery(1, session));
    assert_eq!(bench.read(number, &mut client).0, [] as [u64; 0], "nothing comes a second time");
    assert_eq!(bench.told(), [(1, 2, None)], "its publisher is told again what it may not have heard");
    assert_eq!(bench.connection(number).window.len(), 1, "the third is in flight, once");
    // What is asked for again because no acknowledgement arrived comes in any case.
    bench.worker.handle_redelivery(&redelivery(2, session));
    assert_eq!(bench.read(number, &mut client).0, [1, 2, 3]);
}

#[test]
fn members_of_queues_have_a_window_and_lose_what_is_dropped() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Never);
    let (number, _client) = bench.connect();
    bench.connection(number).window = window_of(4);
    let full = Some(Cause::QueueFull);
    for number_of in 1..=5 {
        let batch = Arc::new(bench.batch("topic/t", Level::Delivered, &[("", 0, 0)]));
        bench.deliver_to_member(&batch, number);
        let dropped: Vec<_> = (number_of > 3).then(|| (number_of - 3, 1, full)).into_iter().collect();
        assert_eq!(bench.told(), dropped, "the oldest makes room in the queue, and in the window");
    }
    assert_eq!(bench.connection(number).window.len(), 3);
    bench.connection(number).window = window_of(1);
    for expected in [vec![], vec![(7, 1, full)]] {
        let batch = Arc::new(bench.batch("topic/other", Level::Delivered, &[("", 0, 0)]));
        bench.deliver_to_member(&batch, number);
        let told: Vec<_> = bench.told().into_iter().filter(|told| told.0 > 5).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_member_is_given_what_it_has_room_for_and_the_rest_goes_back() {
    let mut bench = Bench::new(Overflow::DropOldest, Keep::Always);
    let (number, mut client) = bench.connect();
    let session = bench.connection(number).session_id.unwrap();
    let full = Cause::QueueFull;
    bench.connection(number).window = window_of(2);
    for expected in [vec![], vec![], vec![(3, full)]] {
        let batch = bench.batch("topic/t", Level::Stored, &[("", 0, 0)]);
        assert_eq!(bench.give(batch, session), expected);
    }
    assert_eq!(bench.read(number, &mut client).0, [1, 2]);
    // An address of its own for the same id cannot be told apart by an ack.
    bench.connection(number).window = window_of(9);
    let batch = bench.batch("topic/t", Level::Stored, &[("", 0, 0)]);
    assert_eq!(bench.give(batch.clone(), session), []);
    assert_eq!(bench.give(batch.clone(), session), [], "a repeat");
    let elsewhere = Batch { to: Address::parse("topic/other").unwrap(), ..batch };
    assert_eq!(bench.give(elsewhere, session), [(4, full)]);
    // The outbound queue has no room for one more.
    let batch = bench.batch("topic/t", Level::Stored, &[("", 0, 0)]);
    assert_eq!(bench.give(batch, session), [(5, full)]);
    let expired = bench.batch("topic/t", Level::Stored, &[("", 0, 1)]);
    assert_eq!(bench.give(expired, session), [(6, Cause::Expired)]);
    let gone = bench.batch("topic/t", Level::Stored, &[("", 0, 0)]);
    assert_eq!(bench.give(gone, SessionId::new(7, 0, 999)), [(7, Cause::Offline)]);
}
