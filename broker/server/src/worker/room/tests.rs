//! Publishers of a journal without room, on one worker without a thread, and through a running worker.

use super::*;
use crate::admin::tests::control;
use crate::control::Control;
use crate::storage::in_memory::{Gate, break_log, open_behind, open_logged};
use crate::worker::connection::Stage;
use crate::worker::counters::{Counters, Ended};
use crate::worker::delivery::tests::Bench;
use crate::worker::framing::Framing;
use crate::worker::inbound::HELD_FLOOR_BYTES;
use crate::worker::lifecycle::tests::{Socket, Workers};
use crate::worker::streams::Receiving;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream as Client;
use std::rc::Weak;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;
use waspmq_core::registry::LoginPolicy;
use waspmq_core::settings::{Keep, Overflow};
use waspmq_core::{Kind, Name};
use waspmq_protocol::client::Frame as ClientFrame;
use waspmq_protocol::{Content, Profile, encode, stream};

/// How long another thread may take for what it does at once when the machine has nothing else to do.
const PATIENCE_US: u64 = 60_000_000;

/// Writes with which the journal is busy.
const ENTRIES: usize = 2;

/// A broker whose journal is busy with two writes, while its gate is shut.
fn behind_gate() -> (Control, Arc<Gate>) {
    let gate = Arc::<Gate>::default();
    let control = control();
    let (store, journal) = open_behind(&gate, ENTRIES, (control.clock, &control.mailboxes));
    gate.set_shut(true);
    (Control { store, journal, ..control }, gate)
}

/// A worker with one session that listens to topics, and a shut gate.
struct Publisher {
    bench: Bench,
    gate: Arc<Gate>,
    number: u32,
    client: Client,
}

impl Publisher {
    fn new() -> Self {
        let (control, gate) = behind_gate();
        let mut bench = Bench::of(control, (Overflow::DropOldest, Keep::Always), 1_000);
        let (number, client) = bench.connect();
        let mut publisher = Self { bench, gate, number, client };
        publisher.read();
        // Nobody is answered that a user was seen first, so the gate lets that pass.
        let journal = &publisher.bench.worker.shared.journal;
        while journal.metrics().queue_entries > 0 {
            std::thread::yield_now();
        }
        publisher
    }

    /// One whose journal has no room.
    fn busy() -> Self {
        let mut publisher = Self::new();
        (1..=ENTRIES).for_each(|reference| publisher.say(&[kept(reference)]));
        assert!(publisher.bench.worker.shared.journal.is_busy());
        publisher
    }

    /// Sends frames in one WebSocket message.
    fn say(&mut self, frames: &[Value]) {
        let frames: Vec<_> = frames.iter().map(Value::to_string).collect();
        let mut connection = self.bench.worker.connections[self.number as usize].take().unwrap();
        let now = self.bench.worker.shared.clock.now();
        self.bench.worker.take_message(&mut connection, frames.join("\n").as_bytes(), now);
        self.bench.worker.finish_batch(&mut connection);
        self.bench.worker.charge_held(&mut connection);
        self.bench.worker.put_back(self.number, connection);
    }

    /// The connection's `held`, as text.
    fn held(&mut self) -> Option<String> {
        let held = self.bench.connection(self.number).held.as_ref()?;
        Some(String::from_utf8(held.frames.clone()).unwrap())
    }

    fn pause(&mut self) -> Pause {
        let link = self.bench.connection(self.number).link.clone();
        self.bench.worker.pause(self.number, &link)
    }

    fn go_on(&mut self) {
        let link = self.bench.connection(self.number).link.clone();
        assert_eq!(self.bench.worker.go_on(self.number, &link), Next::Yield);
    }

    /// As if it had waited as long as it may.
    fn has_waited_long(&mut self) {
        let until_us = self.bench.connection(self.number).waits_until_us.as_mut().unwrap();
        assert!(*until_us >= JOURNAL_WAIT_US);
        *until_us = 0;
    }

    /// Lets the writer go on, and takes mail until the journal has nothing more to say.
    fn open(&mut self) {
        self.gate.set_shut(false);
        let (journal, clock) = (self.bench.worker.shared.journal.clone(), self.bench.worker.shared.clock);
        let since_us = clock.now_us();
        while journal.metrics().queue_entries > 0 {
            assert!(clock.now_us() < since_us + PATIENCE_US, "the journal does not go on");
            while self.bench.worker.take_mail() {}
            std::thread::yield_now();
        }
        while self.bench.worker.take_mail() {}
    }

    /// All that was written to the client.
    fn read_bytes(&mut self) -> Vec<u8> {
        let Self { bench, number, client, .. } = self;
        let _guard = bench.runtime.enter();
        assert!(bench.worker.flush(*number).is_none(), "little is written");
        // The system may take its time to hand over what is written, so something is written behind it, and waited for.
        let end = b"the end of what is read";
        let Link::Tcp(stream) = &bench.connection(*number).link else { panic!("not of this bench") };
        assert_eq!(stream.try_write(end).unwrap(), end.len());
        client.set_read_timeout(Some(Duration::from_micros(PATIENCE_US))).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            let mut some = [0; 4_096];
            let count = client.read(&mut some).unwrap();
            assert!(count > 0, "it is not closed");
            bytes.extend_from_slice(&some[..count]);
        }
        bytes.truncate(bytes.len() - end.len());
        bytes
    }

    /// The control frames that came to the client: type, and reference or code.
    fn read(&mut self) -> Vec<(String, u64)> {
        let bytes = self.read_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let starts = text.match_indices("{\"type\":").map(|(at, _)| at);
        let frames = starts.map(|at| {
            let frame = serde_json::Deserializer::from_str(&text[at..]).into_iter().next().unwrap();
            let frame: Value = frame.unwrap();
            let number = if frame["type"] == "error" { &frame["code"] } else { &frame["ref"] };
            (frame["type"].as_str().unwrap().to_owned(), number.as_u64().unwrap_or_default())
        });
        frames.filter(|(kind, _)| kind != "message" && kind != "welcome").collect()
    }

    fn counted(&self, pick: impl Fn(&Counters) -> u64) -> u64 {
        pick(self.bench.worker.counters())
    }
}

fn kept(reference: usize) -> Value {
    // Addresses of their own, so that each is a write of its own. Nobody is there: it goes to an inbox.
    json!({"type": "publish", "ref": reference, "to": format!("user/k{reference}"), "payload": 1, "ack": "stored"})
}

fn passing(reference: usize) -> Value {
    json!({"type": "publish", "ref": reference, "to": "topic/p", "payload": 1})
}

fn receipts(references: &[u64]) -> Vec<(String, u64)> {
    references.iter().map(|reference| ("receipt".to_owned(), *reference)).collect()
}

fn refusals(count: usize) -> Vec<(String, u64)> {
    vec![("error".to_owned(), 1503); count]
}

#[test]
fn a_membership_that_the_journal_cannot_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let control = control();
    let (store, journal) = open_logged(directory.path(), (control.clock, &control.mailboxes));
    let control = Control { store, journal, ..control };
    let mut bench = Bench::of(control, (Overflow::DropOldest, Keep::Always), 1_000);
    let (number, client) = bench.connect();
    let mut publisher = Publisher { bench, gate: Arc::default(), number, client };
    publisher.read();
    let frame =
        |kind: &str, reference: u64, group: &str| json!({"type": kind, "ref": reference, "group": group});
    publisher.say(&[frame("join", 1, "g"), frame("join", 2, "h")]);
    assert_eq!(publisher.read(), [("ok".to_owned(), 1), ("ok".to_owned(), 2)]);
    break_log(directory.path(), &publisher.bench.worker.shared.journal);
    publisher.say(&[frame("join", 3, "i"), frame("leave", 4, "g")]);
    assert_eq!(publisher.read(), [("error".to_owned(), 1506), ("error".to_owned(), 1506)]);
    let of = |group: &str| publisher.bench.worker.shared.registry.group_members(&Name::parse(group).unwrap());
    assert_eq!((of("g").map(|members| members.len()), of("i")), (Some(1), None), "nothing has changed");
}

/// As its receipt comes: with the level that all of its addresses demand.
#[test]
fn a_delayed_publish_is_for_the_journal_where_its_receipt_says_stored() {
    let (worker, _) = crate::worker::alone::tests::worker();
    let to = Address::parse("topic/asked").unwrap();
    let target = (to.clone(), worker.shared.rules.of(&to).clone());
    let mut publish = Publish::new("topic/asked", Content::Json, &b"1"[..]);
    publish.delay_ms = 1;
    for (level, instead, expected) in [
        (Level::Accepted, &["topic/stored"][..], true),
        (Level::Accepted, &["topic/stored", "topic/plain"], false),
        (Level::Stored, &["topic/stored", "topic/plain"], true),
        (Level::Delivered, &["topic/stored"], false),
    ] {
        let destination =
            Destination::Instead(instead.iter().map(|to| Address::parse(to).unwrap()).collect());
        let plan = Plan { destination, headers: None, level, ack: None, trace: None };
        assert_eq!(worker.is_for_journal((&target, &publish), &plan), expected, "{level:?} {instead:?}");
    }
}

#[test]
fn who_is_held_back_hears_from_the_broker_and_is_not_taken_for_gone() {
    let mut publisher = Publisher::busy();
    publisher.say(&[kept(3)]);
    publisher.read();
    // As if heartbeats were much shorter than a hold.
    Arc::get_mut(&mut publisher.bench.worker.shared).unwrap().settings.heartbeat_ms = 1;
    let sweep = |publisher: &mut Publisher| {
        let Publisher { bench, number, .. } = publisher;
        let (clock, heard_us) = (bench.worker.shared.clock, bench.connection(*number).heard_us);
        while clock.now_us() < heard_us + 3_000 {
            std::thread::yield_now();
        }
        let guard = bench.runtime.enter();
        bench.worker.sweep();
        drop(guard);
        publisher.read_bytes()
    };
    let mut ping = Vec::new();
    Framing::WebSocket.write_ping(&mut ping);
    for _ in 0..3 {
        assert_eq!(sweep(&mut publisher), ping, "its client hears that the broker is there");
        assert!(
            publisher.held().is_some() && publisher.bench.connection(publisher.number).stage == Stage::Open
        );
    }
    publisher.open();
    publisher.go_on();
    assert_eq!(publisher.read(), receipts(&[1, 2]));
    assert_eq!(sweep(&mut publisher), ping, "it is asked before it is closed, as anybody is");
}

#[test]
fn what_is_kept_waits_with_everything_behind_it_and_what_is_not_goes_on() {
    let mut publisher = Publisher::busy();
    publisher.say(&[passing(3), kept(4), passing(5), json!({"type": "ping"})]);
    assert_eq!(publisher.read(), receipts(&[3]), "in front of it");
    let rest = [kept(4), passing(5), json!({"type": "ping"})].map(|frame| frame.to_string()).join("\n");
    assert_eq!(publisher.held().unwrap().trim(), rest);
    assert!(
        matches!(publisher.pause(), Pause::Wait(_, most) if most <= Duration::from_micros(JOURNAL_WAIT_US))
    );
    publisher.go_on();
    assert_eq!(publisher.held().unwrap().trim(), rest, "there is still no room");
    assert_eq!(publisher.read(), []);
    assert_eq!(publisher.counted(|c| c.journal_waits.load()), 1, "it is one wait");
    let Pause::Wait(told, _) = publisher.pause() else { panic!("it waits") };
    let told = told.notified();
    publisher.open();
    publisher.bench.runtime.block_on(told);
    assert!(matches!(publisher.pause(), Pause::GoOn { has_held: true }));
    publisher.read();
    publisher.go_on();
    assert_eq!(publisher.held(), None);
    let told = publisher.read();
    assert_eq!(told, [receipts(&[5]), vec![("pong".to_owned(), 0)]].concat(), "4 waits for the disk");
    publisher.open();
    assert_eq!(publisher.read(), receipts(&[4]));
    assert!(matches!(publisher.pause(), Pause::GoOn { has_held: false }));
    assert_eq!(publisher.counted(|c| c.published.overloaded.of(Kind::User).load()), 0);
}

#[test]
fn what_was_posted_and_waited_goes_out_with_the_turn_of_its_own_session() {
    let mut publisher = Publisher::busy();
    publisher.bench.connection(publisher.number).encoding.framing = Framing::Events;
    publisher.say(&[kept(3)]);
    assert!(publisher.held().is_some());
    publisher.open();
    publisher.read();
    publisher.go_on();
    assert_eq!(publisher.held(), None);
    publisher.open();
    assert_eq!(publisher.read(), receipts(&[3]), "nothing had to come behind it");
}

#[test]
fn a_publish_waits_only_so_long_and_the_next_ones_not_at_all() {
    let mut publisher = Publisher::busy();
    publisher.say(&[kept(3), passing(4)]);
    publisher.has_waited_long();
    assert!(matches!(publisher.pause(), Pause::GoOn { has_held: true }));
    publisher.go_on();
    assert_eq!(publisher.read(), [refusals(1), receipts(&[4])].concat());
    publisher.say(&[kept(5), passing(6), kept(7)]);
    assert_eq!(publisher.held(), None);
    assert_eq!(publisher.read(), [refusals(1), receipts(&[6]), refusals(1)].concat());
    publisher.open();
    assert_eq!(publisher.read(), receipts(&[1, 2]));
    publisher.say(&[kept(8)]);
    publisher.open();
    assert_eq!(publisher.read(), receipts(&[8]));
    publisher.gate.set_shut(true);
    (9..9 + ENTRIES).for_each(|reference| publisher.say(&[kept(reference)]));
    publisher.say(&[kept(20)]);
    assert!(publisher.held().is_some(), "there was room in between, so it is patient again");
    assert_eq!(publisher.counted(|c| c.journal_waits.load()), 2);
    publisher.open();
}

#[test]
fn what_waits_is_bounded_by_the_workers_memory() {
    let mut publisher = Publisher::busy();
    publisher.bench.worker.held_bytes = publisher.bench.worker.shared.settings.inbound_bytes_max / 2;
    publisher.say(&[kept(3)]);
    assert_eq!((publisher.held(), publisher.read()), (None, refusals(1)));
    assert_eq!(publisher.counted(|c| c.journal_waits.load()), 0, "it did not wait");
    publisher.bench.worker.held_bytes = 0;
    publisher.say(&[kept(4)]);
    let held = publisher.bench.worker.held_bytes;
    assert!(held >= kept(4).to_string().len(), "{held}");
    let Publisher { bench: Bench { worker, .. }, number, .. } = &mut publisher;
    let mut connection = worker.connections[*number as usize].take().unwrap();
    worker.close_with(&mut connection, (1000, ""), Ended::ByPeer);
    worker.charge_held(&mut connection);
    assert!(connection.held.is_none());
    assert_eq!(publisher.bench.worker.held_bytes, 0, "whoever closes waits for nothing");
    publisher.open();
}

#[test]
fn a_publish_to_somebody_who_listens_is_not_kept_and_does_not_wait() {
    let mut publisher = Publisher::busy();
    let to = |user: &str| json!({"type": "publish", "ref": 3, "to": format!("user/{user}"), "payload": 1});
    publisher.say(&[to("reader")]);
    assert_eq!((publisher.held(), publisher.read()), (None, receipts(&[3])));
    publisher.say(&[to("nobody")]);
    assert!(publisher.held().is_some(), "it would go to the inbox");
    publisher.open();
}

#[test]
fn a_publish_that_waits_is_decided_and_counted_once() {
    let mut publisher = Publisher::busy();
    let publish = json!({"type": "publish", "ref": 3, "to": "topic/t", "payload": 1, "dedup": "a"});
    publisher.say(std::slice::from_ref(&publish));
    assert!(publisher.bench.connection(publisher.number).held.as_ref().unwrap().plan.is_some());
    publisher.go_on();
    assert!(publisher.bench.connection(publisher.number).held.as_ref().unwrap().plan.is_some());
    let accepted = |publisher: &Publisher| publisher.counted(|c| c.published.accepted.of(Kind::Topic).load());
    let before = accepted(&publisher);
    publisher.open();
    publisher.go_on();
    assert_eq!(accepted(&publisher), before + 1);
    publisher.say(&[publish]);
    assert_eq!(publisher.counted(|c| c.published.duplicate.of(Kind::Topic).load()), 1);
    assert_eq!(accepted(&publisher), before + 1);
}

#[test]
fn while_there_is_no_room_little_is_read_at_once() {
    let Publisher { mut bench, gate, number, client } = Publisher::busy();
    // Texts of 2 KiB of white space, masked with zeros.
    let mut frame = vec![0x81, 0xfe, 0x08, 0x00, 0, 0, 0, 0];
    frame.resize(frame.len() + 2_048, b' ');
    (&client).write_all(&frame.repeat(10)).unwrap();
    let link = bench.connection(number).link.clone();
    bench.runtime.block_on(link.readable()).unwrap();
    let before = bench.worker.counters().bytes_read.load();
    assert_eq!(bench.worker.on_readable(number, &link), Next::Yield);
    assert_eq!(bench.worker.counters().bytes_read.load() - before, HELD_FLOOR_BYTES as u64);
    gate.set_shut(false);
}

#[test]
fn a_membership_that_cannot_be_kept_is_refused_and_an_end_of_one_waits() {
    let mut publisher = Publisher::new();
    let (user, group) = (Name::parse("reader").unwrap(), Name::parse("g").unwrap());
    publisher.say(&[json!({"type": "join", "ref": 7, "group": "g"})]);
    assert_eq!(publisher.read(), [("ok".to_owned(), 7)]);
    // Its answer is what the gate holds the writer at.
    publisher.say(&[kept(1)]);
    let journal = publisher.bench.worker.shared.journal.clone();
    let registry = publisher.bench.worker.shared.registry.clone();
    for reference in 0.. {
        if !journal.has_room() {
            break;
        }
        let user = Name::parse(&format!("u{reference}")).unwrap();
        journal.push(waspmq_store::Write::LastSeen { user, unix_ms: 1 }, None).unwrap();
    }
    publisher.say(&[
        json!({"type": "leave", "ref": 8, "group": "g"}),
        json!({"type": "join", "ref": 9, "group": "h"}),
    ]);
    assert_eq!(publisher.read(), refusals(2));
    assert!(registry.is_member(&user, &group) && !registry.is_member(&user, &Name::parse("h").unwrap()));
    // What the broker ends by itself is not refused.
    registry.forbid(&user, &group, &*publisher.bench.worker.shared.mailboxes).unwrap();
    publisher.bench.worker.save_membership(&user, &group, None);
    assert_eq!(publisher.bench.worker.memberships.len(), 1, "it waits");
    let is_member = || {
        let ((sender, found), group, user) = (std::sync::mpsc::channel(), group.clone(), user.clone());
        let read = move |store: &dyn waspmq_store::Store| {
            sender.send(store.member_since(&group, &user).unwrap().is_some()).unwrap();
        };
        journal.read(Box::new(read)).unwrap();
        found.recv().unwrap()
    };
    publisher.open();
    // Unless a tick has done it meanwhile.
    publisher.bench.worker.save_memberships();
    publisher.open();
    assert!(!is_member());
    // One that waited while the user joined on another worker, which has written that.
    registry.join(&user, &group, &*publisher.bench.worker.shared.mailboxes).unwrap();
    publisher.bench.worker.save_membership(&user, &group, None);
    let since = waspmq_core::Position { stream: waspmq_core::Stream { shard: 0, epoch: 1 }, offset: 1 };
    let (since, by) = (since, waspmq_core::registry::JoinedBy::Member);
    let joined = waspmq_store::Write::Member { group: group.clone(), user: user.clone(), since, by };
    journal.push(joined, None).unwrap();
    assert!(publisher.bench.worker.save_memberships());
    publisher.open();
    assert!(is_member());
}

#[test]
fn what_is_to_be_known_of_a_session_is_saved_when_there_is_room() {
    let mut publisher = Publisher::new();
    let number = publisher.number;
    publisher.say(&[kept(1)]);
    let journal = publisher.bench.worker.shared.journal.clone();
    let users = (0..).map(|user| Name::parse(&format!("u{user}")).unwrap());
    let mut writes = users.map(|user| waspmq_store::Write::LastSeen { user, unix_ms: 1 });
    assert!(writes.any(|write| journal.push(write, None).is_err()));
    let is_unsaved = |publisher: &mut Publisher| {
        // What changed up to one call is saved by the next.
        publisher.bench.worker.save_resumes();
        publisher.bench.worker.save_resumes();
        publisher.bench.connection(number).is_unsaved
    };
    assert!(publisher.bench.connection(number).resume_hash.is_some());
    let mut connection = publisher.bench.worker.connections[number as usize].take().unwrap();
    publisher.bench.worker.save_first_seen(&mut connection, 5);
    publisher.bench.worker.put_back(number, connection);
    assert!(is_unsaved(&mut publisher));
    assert_eq!(publisher.bench.connection(number).first_seen_unix_ms, Some(5));
    publisher.open();
    assert!(!is_unsaved(&mut publisher));
    assert_eq!(publisher.bench.connection(number).first_seen_unix_ms, None);
}

async fn send(socket: &mut Socket, frames: &[Value]) {
    for frame in frames {
        socket.send(Message::text(frame.to_string())).await.unwrap();
    }
}

async fn next(socket: &mut Socket) -> Value {
    let told = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("it hangs");
    let Some(Ok(Message::Text(text))) = told else { panic!("no answer") };
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn publishers_slow_down_and_go_on_as_soon_as_there_is_room() {
    let (control, gate) = behind_gate();
    let workers = Workers::of(control, LoginPolicy::Coexist);
    let mut publishers = Vec::new();
    for user in ["a", "b", "c", "d"] {
        publishers.push(workers.connect(user).await.0);
    }
    let (mut other, _) = workers.connect("other").await;
    let frames: Vec<_> = (0..50).map(kept).chain([json!({"type": "ping"})]).collect();
    for socket in &mut publishers {
        send(socket, &frames).await;
    }
    // Each publisher meets the full journal.
    while workers.counted(|c| c.journal_waits.load()) < 4 {
        tokio::task::yield_now().await;
    }
    send(&mut other, &[passing(1), json!({"type": "ping"})]).await;
    let answers = [next(&mut other).await, next(&mut other).await];
    let kinds = answers.map(|answer| answer["type"].as_str().unwrap().to_owned());
    assert_eq!(kinds, ["receipt", "pong"], "others go on");
    gate.set_shut(false);
    for socket in &mut publishers {
        let mut expected = 0;
        let mut has_pong = false;
        while expected < 50 || !has_pong {
            let answer = next(socket).await;
            if answer["type"] == "pong" {
                has_pong = true;
                continue;
            }
            assert_eq!((&answer["type"], &answer["ref"]), (&json!("receipt"), &json!(expected)), "{answer}");
            expected += 1;
        }
    }
    assert_eq!(workers.counted(|c| c.published.overloaded.of(Kind::User).load()), 0);
}

/// Adds a stored publish to what came on a stream.
fn come(side: &mut Receiving, reference: u64) {
    let publish = Publish {
        reference: Some(reference),
        ack: Level::Stored,
        ..Publish::new(format!("user/k{reference}"), Content::Json, &b"1"[..])
    };
    let start = stream::begin(&mut side.partial);
    encode::client(Profile::Binary, &ClientFrame::Publish(publish), &mut side.partial).unwrap();
    stream::end(&mut side.partial, start);
}

#[test]
fn a_stream_of_its_own_waits_by_itself() {
    let mut publisher = Publisher::busy();
    let mut side = Receiving::new(publisher.number, Weak::new());
    let take = |publisher: &mut Publisher, side: &mut Receiving| {
        let number = publisher.number;
        let mut connection = publisher.bench.worker.connections[number as usize].take().unwrap();
        publisher.bench.worker.take_side_messages(&mut connection, side, 0);
        publisher.bench.worker.put_back(number, connection);
    };
    let pause = |publisher: &mut Publisher, side: &Receiving| {
        let link = publisher.bench.connection(publisher.number).link.clone();
        let waits_until_us = side.held.as_ref().map(|_| side.waits_until_us.unwrap());
        publisher.bench.worker.pause_stream(publisher.number, &link, |_| waits_until_us).unwrap()
    };
    come(&mut side, 3);
    come(&mut side, 4);
    take(&mut publisher, &mut side);
    assert!(side.held.is_some() && !side.partial.is_empty(), "what is behind it waits, too");
    assert!(matches!(pause(&mut publisher, &side), Pause::Wait(..)));
    assert_eq!(publisher.held(), None, "the connection's stream does not");
    assert!(matches!(publisher.pause(), Pause::GoOn { has_held: false }));
    publisher.open();
    publisher.read();
    assert!(matches!(pause(&mut publisher, &side), Pause::GoOn { has_held: true }));
    take(&mut publisher, &mut side);
    assert!(side.held.is_none() && side.partial.is_empty());
    publisher.open();
    assert_eq!(publisher.read(), receipts(&[3, 4]));
    // One that has waited long enough is refused.
    let mut publisher = Publisher::busy();
    publisher.read();
    come(&mut side, 5);
    take(&mut publisher, &mut side);
    assert!(side.waits_until_us.unwrap() >= JOURNAL_WAIT_US);
    side.waits_until_us = Some(0);
    take(&mut publisher, &mut side);
    assert!(side.held.is_none());
    assert_eq!(publisher.bench.connection(publisher.number).waits_until_us, None, "it has not waited");
    assert_eq!(publisher.read(), refusals(1));
}
