//! Messages with addresses from a policy and with a delay, on one worker without a thread.

use super::*;
use crate::admin::tests::control;
use crate::control::Control;
use crate::storage::in_memory::open_bounded;
use crate::worker::delivery::tests::Bench;
use crate::worker::{CompressionSettings, Settings, Shared};
use std::time::Duration;
use waspmq_core::delivery::{Cause, Event, Recipient, Report};
use waspmq_core::settings::{self, Overflow, Retention, Rules};
use waspmq_core::{Kind, Pattern, QueueId, SessionId, registry};
use waspmq_protocol::Content;
use waspmq_store::{DeadLetter, Query, Store};

/// A worker on which `topic/kept` keeps everything for a second and `topic/never` nothing, and what is published to
/// `topic/stored` is stored.
pub(in crate::worker) fn worker() -> (Worker, Arc<dyn Store>) {
    worker_of(control())
}

fn worker_of(control: Control) -> (Worker, Arc<dyn Store>) {
    let keeping = |keep| {
        let retention = Retention { age_ms: 1_000, ..Retention::default() };
        settings::Settings { keep, retention, ..settings::Settings::of_kind(Kind::Topic) }
    };
    let storing = settings::Settings { level: Level::Stored, ..settings::Settings::of_kind(Kind::Topic) };
    let rules = [
        ("topic/kept", keeping(Keep::Always)),
        ("topic/never", keeping(Keep::Never)),
        ("topic/stored", storing),
    ];
    let rules = rules.map(|(pattern, settings)| (Pattern::parse(pattern).unwrap(), settings));
    let shared = Shared {
        clock: control.clock,
        node: control.node,
        settings: Settings {
            check_host: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            connections_max: 10,
            message_bytes_max: 1_000,
            outbound_bytes_max: 1_000,
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
        rules: Arc::new(Rules::new(rules.into())),
    };
    (Worker::new(0, Arc::new(shared)), control.store)
}

type Outcome = Result<Option<Published>, Reject>;
type Later = mpsc::Receiver<Result<Published, Reject>>;

/// Publishes to `topic/asked`, which a policy sends to these addresses instead, ten seconds ago.
fn publish(worker: &mut Worker, level: Level, instead: &[&str], delay_ms: u64) -> (Outcome, Later) {
    publish_with_key(worker, level, instead, (delay_ms, None))
}

fn publish_with_key(
    worker: &mut Worker,
    level: Level,
    instead: &[&str],
    (delay_ms, key): (u64, Option<&str>),
) -> (Outcome, Later) {
    let to = Address::parse("topic/asked").unwrap();
    let target = (to.clone(), worker.shared.rules.of(&to).clone());
    let instead = instead.iter().map(|to| Address::parse(to).unwrap()).collect();
    let plan =
        Plan { destination: Destination::Instead(instead), headers: None, level, ack: None, trace: None };
    let mut publish = Publish::new("topic/asked", Content::Json, &b"1"[..]);
    publish.delay_ms = delay_ms;
    publish.dedup = key.map(Into::into);
    let now = worker.shared.clock.now();
    let now = Moment { unix_ms: now.unix_ms - 10_000, ..now };
    let id = worker.next_message_id(now);
    let source = Source { from: None, origin: None, exclude_origin: false, now };
    let alone = Alone { target: &target, plan: &plan, publish: &publish, id, source };
    let (answer, later) = mpsc::channel(1);
    (worker.publish_alone(&alone, Asker::Operator { id, answer }), later)
}

/// Asks again until there is something, for at most half a minute: the machine may be busy.
pub(in crate::worker) fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..30_000 {
        if let Some(found) = ask() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it did not come");
}

fn answer(worker: &mut Worker, later: &mut Later) -> Result<Published, Reject> {
    wait(|| {
        worker.take_mail();
        later.try_recv().ok()
    })
}

#[test]
fn a_level_is_reached_by_all_addresses_or_not_at_all() {
    let (mut worker, _) = worker();
    let (outcome, mut later) = publish(&mut worker, Level::Stored, &["topic/kept"], 0);
    assert_eq!(outcome, Ok(None));
    assert_eq!(answer(&mut worker, &mut later).unwrap().level, Level::Stored);
    let (outcome, mut later) = publish(&mut worker, Level::Stored, &["topic/kept", "topic/never"], 0);
    assert_eq!(outcome, Ok(None), "one address has it, and the answer waits for its disk");
    assert_eq!(answer(&mut worker, &mut later).unwrap_err().code, Code::NotStored);
    let published = &worker.counters().published;
    let counted = (published.rejected.of(Kind::Topic).load(), published.overloaded.of(Kind::Topic).load());
    assert_eq!(counted, (1, 0), "as what it was");
    let (outcome, _) = publish(&mut worker, Level::Accepted, &["topic/kept", "topic/never"], 0);
    assert!(outcome.unwrap().is_some_and(|published| published.level == Level::Accepted));
}

/// Somebody who shares the messages of a topic.
fn join(worker: &Worker, topic: &str) -> QueueId {
    let queue = QueueId::new(Pattern::parse(topic).unwrap(), Name::parse("w").unwrap());
    let (id, user) = (SessionId::new(1, 0, 1), Name::parse("u").unwrap());
    let session = registry::Session { id, worker: 0, user, device: None };
    worker.shared.registry.join_queue(&queue, &session, None).unwrap();
    queue
}

#[test]
fn a_receipt_counts_the_recipients_of_all_addresses_with_a_delay_and_without() {
    let (mut worker, _) = worker();
    let addresses = ["topic/o1", "topic/o2", "topic/o3"];
    let queues = addresses.map(|topic| join(&worker, topic));
    for delay_ms in [0, 60_000] {
        let (outcome, mut later) = publish(&mut worker, Level::Delivered, &addresses, delay_ms);
        assert_eq!(outcome, Ok(None));
        let now_ms = worker.shared.clock.now().us / 1_000;
        worker.publish_due(now_ms + delay_ms + 1);
        let first = MessageId::new(0, worker.shared.registry.epoch(), 0, worker.message_count);
        for (to, queue) in addresses.iter().zip(&queues) {
            let report = Report {
                first,
                messages: 1,
                to: &Address::parse(to).unwrap(),
                recipient: &Recipient::Queue(queue.clone()),
                device: None,
                session: Some(SessionId::new(1, 0, 1)),
                attempt: 1,
                sent_ms: now_ms,
            };
            worker.tracker.handle_acked(&report, now_ms, &mut worker.events);
        }
        worker.handle_events();
        let receipt = later.try_recv().unwrap().unwrap();
        assert_eq!((receipt.level, receipt.recipients), (Level::Delivered, 3), "{delay_ms}");
    }
}

#[test]
fn a_copy_has_the_level_that_its_address_demands_and_the_receipt_the_one_that_all_reached() {
    let (mut worker, store) = worker();
    join(&worker, "topic/stored");
    let now_unix_ms = worker.shared.clock.now().unix_ms;
    let stored = |address: &str| {
        let address = Address::parse(address).unwrap();
        let query = Query {
            address,
            after: None,
            from_unix_ms: None,
            last: None,
            limit: 10,
            max_bytes: 1_000,
            now_unix_ms,
        };
        store.messages(&query).unwrap().messages.len()
    };
    let both = ["topic/plain", "topic/stored"];
    let (outcome, _) = publish(&mut worker, Level::Accepted, &both, 0);
    assert_eq!(outcome.unwrap().unwrap().level, Level::Accepted);
    wait(|| (stored("topic/stored") == 1).then_some(()));
    let (outcome, mut later) = publish(&mut worker, Level::None, &["topic/stored"], 0);
    assert_eq!(outcome, Ok(None));
    assert_eq!(answer(&mut worker, &mut later).unwrap().level, Level::Stored, "as if published there");
    let (outcome, _) = publish(&mut worker, Level::Accepted, &both, 60_000);
    assert_eq!(outcome.unwrap().unwrap().level, Level::Accepted);
    worker.publish_due(worker.shared.clock.now().us / 1_000 + 60_001);
    wait(|| (stored("topic/stored") == 3).then_some(()));
    assert_eq!(stored("topic/plain"), 0);
    let (outcome, mut later) = publish(&mut worker, Level::Accepted, &["topic/stored"], 60_000);
    assert_eq!(outcome, Ok(None));
    assert_eq!(answer(&mut worker, &mut later).unwrap().level, Level::Stored);
}

#[test]
fn a_delayed_message_that_an_address_will_not_store_is_refused_at_once() {
    let (mut worker, _) = worker();
    let (outcome, _) = publish(&mut worker, Level::Stored, &["topic/kept", "topic/never"], 60_000);
    assert_eq!(outcome.unwrap_err().code, Code::NotStored);
    assert!(worker.delays.is_empty(), "nothing of it waits");
}

#[test]
fn a_delayed_message_enters_the_history_when_it_is_due() {
    let (mut worker, store) = worker();
    let (outcome, mut later) = publish(&mut worker, Level::Stored, &["topic/kept"], 60_000);
    assert_eq!(outcome, Ok(None));
    assert_eq!(answer(&mut worker, &mut later).unwrap().level, Level::Stored);
    let now = worker.shared.clock.now();
    worker.publish_due(now.us / 1_000 + 60_001);
    let query = |from_unix_ms| Query {
        address: Address::parse("topic/kept").unwrap(),
        after: None,
        from_unix_ms,
        last: None,
        limit: 10,
        max_bytes: 1_000,
        now_unix_ms: now.unix_ms + 100,
    };
    // It was published longer ago than messages are kept.
    let kept = wait(|| store.messages(&query(Some(now.unix_ms))).unwrap().messages.pop());
    assert!(kept.unix_ms >= now.unix_ms);
}

#[test]
fn the_member_of_a_large_queue_is_chosen_for_a_publish_with_a_key() {
    let (mut worker, _) = worker();
    let to = Address::parse("topic/asked").unwrap();
    let queue = QueueId::new(Pattern::from(&to), Name::parse("w").unwrap());
    for number in 0..100 {
        let (id, user) = (SessionId::new(1, 0, number), Name::parse("u").unwrap());
        let session = registry::Session { id, worker: 0, user, device: None };
        worker.shared.registry.join_queue(&queue, &session, None).unwrap();
    }
    let target = (to.clone(), worker.shared.rules.of(&to).clone());
    let plan = Plan {
        destination: Destination::AsAddressed(None),
        headers: None,
        level: Level::Accepted,
        ack: None,
        trace: None,
    };
    let mut publish = Publish::new("topic/asked", Content::Json, &b"1"[..]);
    publish.dedup = Some("once".into());
    let mut answers = Vec::new();
    for _ in 0..2 {
        let now = worker.shared.clock.now();
        let id = worker.next_message_id(now);
        let source = Source { from: None, origin: None, exclude_origin: false, now };
        let alone = Alone { target: &target, plan: &plan, publish: &publish, id, source };
        answers.push(worker.publish_alone(&alone, Asker::Nobody).unwrap().unwrap());
    }
    assert_eq!((answers[0].recipients, answers[0].id), (1, answers[1].id), "the second is the first");
    let members = &worker.shared.registry.queue(&queue).unwrap().members;
    assert_eq!(members.iter().map(registry::Member::in_flight).sum::<u32>(), 1);
}

/// The dedup keys of `topic/asked` in the store, when the journal has written everything.
fn keys(worker: &Worker, store: &Arc<dyn Store>) -> Vec<Key> {
    let (sender, done) = std::sync::mpsc::channel();
    worker.shared.journal.read(Box::new(move |_| sender.send(()).unwrap())).unwrap();
    done.recv().unwrap();
    let shard = worker.shared.registry.shard_of(&Address::parse("topic/asked").unwrap());
    let (mut keys, _) = store.dedup_keys(shard).unwrap();
    keys.sort_by_key(|key| key.number);
    keys
}

#[test]
fn a_dedup_key_is_stored_with_what_is_stored() {
    let (mut worker, store) = worker();
    let mut accept = |key: &str, instead: &[&str]| {
        let (outcome, _) = publish_with_key(&mut worker, Level::Accepted, instead, (0, Some(key)));
        outcome.unwrap().unwrap().id
    };
    accept("kept nowhere", &["topic/never"]);
    let ids = [
        accept("a", &["topic/kept"]),
        accept("b", &["topic/never", "topic/kept"]),
        accept("c", &["topic/kept", "topic/never"]),
    ];
    assert_eq!(accept("a", &["topic/kept"]), ids[0], "a repeat");
    let found = keys(&worker, &store);
    let found: Vec<_> = found.iter().map(|key| (&*key.text, key.answer)).collect();
    let expected = |text, id| (text, Remembered { id, recipients: 0, level: Level::Accepted });
    let texts = ["#topic/asked#a", "#topic/asked#b", "#topic/asked#c"];
    assert_eq!(found, [0, 1, 2].map(|n| expected(texts[n], ids[n])));
}

#[test]
fn what_is_only_stored_in_part_is_not_told_as_stored_behind_a_crash() {
    let (mut worker, store) = worker();
    for (number, to) in [(1, "topic/kept"), (2, "topic/never")] {
        let queue = QueueId::new(Pattern::parse(to).unwrap(), Name::parse("w").unwrap());
        let (id, user) = (SessionId::new(1, 0, number), Name::parse("u").unwrap());
        let session = registry::Session { id, worker: 0, user, device: None };
        worker.shared.registry.join_queue(&queue, &session, None).unwrap();
    }
    let mut deliver = |key: &str, instead: &[&str]| {
        let (outcome, later) = publish_with_key(&mut worker, Level::Delivered, instead, (0, Some(key)));
        assert_eq!(outcome.unwrap(), None, "nobody has acknowledged it");
        later
    };
    let _later = [
        deliver("a", &["topic/never", "topic/kept"]),
        deliver("b", &["topic/kept", "topic/never"]),
        deliver("c", &["topic/kept", "topic/kept"]),
        deliver("d", &["topic/kept"]),
    ];
    let texts: Vec<_> =
        keys(&worker, &store).iter().map(|key| (key.text.clone(), key.answer.level)).collect();
    assert_eq!(texts, ["#topic/asked#c", "#topic/asked#d"].map(|text| (text.into(), Level::Stored)));
}

#[test]
fn the_dedup_key_of_a_publish_that_failed_leaves_the_store() {
    let (mut worker, store) = worker();
    for delay_ms in [0, 60_000] {
        let key = (delay_ms, Some("k"));
        let (_, mut later) = publish_with_key(&mut worker, Level::Stored, &["topic/kept"], key);
        let published = answer(&mut worker, &mut later).unwrap();
        let found = keys(&worker, &store).pop().unwrap();
        assert_eq!((found.answer.id, found.answer.level), (published.id, Level::Stored));
        worker.free(&Address::parse("topic/asked").unwrap(), &found, true);
        assert_eq!(keys(&worker, &store), []);
    }
    for instead in [["topic/kept", "topic/never"], ["topic/never", "topic/kept"]] {
        let (_, mut later) = publish_with_key(&mut worker, Level::Stored, &instead, (0, Some("k")));
        assert_eq!(answer(&mut worker, &mut later).unwrap_err().code, Code::NotStored);
        assert_eq!(keys(&worker, &store), [], "it may be tried again");
    }
}

/// A worker whose store can be filled: it has room for 20 kB, which a letter takes that can be removed.
struct Cramped {
    worker: Worker,
    store: Arc<dyn Store>,
    letter: DeadLetter,
}

impl Cramped {
    fn new() -> Self {
        let control = control();
        let (store, journal) = open_bounded(20_000, (control.clock, &control.mailboxes));
        let (worker, store) = worker_of(Control { store, journal, ..control });
        let id = MessageId::new(1, 99, 0, 1);
        let batch =
            Bench::new(Overflow::DropOldest, Keep::Never).batch("topic/full", Level::None, &[("", 0, 0)]);
        let (recipient, cause) = ("user/full".to_owned(), "timeout".to_owned());
        let (detail, unix_ms) = ("x".repeat(30_000), worker.shared.clock.now().unix_ms);
        let letter =
            DeadLetter { id, recipient, unix_ms, cause, attempts: 1, detail, batch: Arc::new(batch) };
        Self { worker, store, letter }
    }

    fn fill(&self) {
        self.write(Write::DeadLetter(self.letter.clone()));
    }

    fn empty(&self) {
        self.write(Write::NoDeadLetter { id: self.letter.id, place: self.letter.place() });
    }

    /// Writes, and waits for it.
    fn write(&self, write: Write) {
        let journal = &self.worker.shared.journal;
        journal.push(write, None).unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        journal.read(Box::new(move |_| sender.send(()).unwrap())).unwrap();
        done.recv().unwrap();
    }

    fn await_room(&self) {
        wait(|| self.worker.shared.journal.check_room().ok());
    }

    fn delayed_count(&self) -> usize {
        self.store.delayed(None, (10, usize::MAX)).unwrap().messages.len()
    }

    fn history(&self, address: &str) -> Vec<Batch> {
        let query = Query {
            address: Address::parse(address).unwrap(),
            after: None,
            from_unix_ms: None,
            last: None,
            limit: 10,
            max_bytes: 10_000,
            now_unix_ms: self.worker.shared.clock.now().unix_ms,
        };
        self.store.messages(&query).unwrap().messages
    }
}

#[test]
fn a_delayed_message_that_is_stored_waits_for_room_when_it_is_due() {
    let mut cramped = Cramped::new();
    let (_, mut later) = publish(&mut cramped.worker, Level::Stored, &["topic/kept"], 60_000);
    let id = answer(&mut cramped.worker, &mut later).unwrap().id;
    cramped.fill();
    let due_ms = cramped.worker.shared.clock.now_us() / 1_000 + 120_000;
    cramped.worker.publish_due(due_ms);
    assert!(cramped.worker.delays.is_empty(), "it is on its way to the journal");
    wait(|| {
        cramped.worker.take_mail();
        (!cramped.worker.delays.is_empty()).then_some(())
    });
    assert!(cramped.worker.shared.journal.check_room().is_err());
    cramped.worker.publish_due(due_ms);
    assert_eq!(cramped.worker.delays.len(), 1, "nobody is sent what is known to find no room");
    let refused = cramped.worker.counters().published.rejected.of(Kind::Topic).load();
    assert_eq!(refused, 0, "what waits is not refused, however often it is tried");
    assert_eq!((cramped.delayed_count(), cramped.history("topic/kept").len()), (1, 0));
    cramped.empty();
    cramped.await_room();
    cramped.worker.publish_due(due_ms + 60_000);
    let kept = wait(|| cramped.history("topic/kept").pop());
    assert_eq!(kept.messages[0].id, id);
    assert_eq!(cramped.delayed_count(), 0, "in the same commit");
    wait(|| {
        cramped.worker.take_mail();
        cramped.worker.receipts.is_empty().then_some(())
    });
    assert!(cramped.worker.delays.is_empty());
}

#[test]
fn a_delayed_message_that_is_known_to_find_no_room_is_refused_at_once() {
    let mut cramped = Cramped::new();
    let put_off = |worker: &mut Worker| publish(worker, Level::Stored, &["topic/kept"], 60_000);
    cramped.fill();
    publish(&mut cramped.worker, Level::Accepted, &["topic/kept"], 0).0.unwrap();
    wait(|| cramped.worker.shared.journal.check_room().err());
    assert_eq!(put_off(&mut cramped.worker).0.unwrap_err().code, Code::StorageFull);
    assert!(cramped.worker.delays.is_empty(), "its publisher tries again, and it is there once");
    cramped.empty();
    cramped.await_room();
    let (_, mut later) = put_off(&mut cramped.worker);
    answer(&mut cramped.worker, &mut later).unwrap();
    assert_eq!((cramped.worker.delays.len(), cramped.delayed_count()), (1, 1));
}

#[test]
fn a_message_to_nobody_but_a_full_inbox_is_refused() {
    let mut cramped = Cramped::new();
    let accept = |worker: &mut Worker, to| publish(worker, Level::Accepted, &[to], 0).0;
    accept(&mut cramped.worker, "user/away").unwrap();
    cramped.fill();
    // Only then is it known.
    accept(&mut cramped.worker, "user/away").unwrap();
    wait(|| cramped.worker.shared.journal.check_room().err());
    let refused = accept(&mut cramped.worker, "user/away").unwrap_err();
    assert_eq!((refused.code, refused.retry_ms), (Code::StorageFull, 1_000));
    accept(&mut cramped.worker, "topic/kept").unwrap();
    cramped.empty();
    cramped.await_room();
    accept(&mut cramped.worker, "user/away").unwrap();
    wait(|| (cramped.history("user/away").len() == 2).then_some(()));
}

#[test]
fn a_dead_letter_counts_when_it_is_kept() {
    let mut cramped = Cramped::new();
    let batch =
        Bench::new(Overflow::DropOldest, Keep::Never).batch("user/b", Level::Delivered, &[("", 0, 0)]);
    let given_up = Event::DeadLetter {
        batch: Arc::new(batch),
        range: 0..1,
        recipient: Recipient::User(Name::parse("b").unwrap()),
        cause: Cause::Nack,
        attempts: 1,
        reason: None,
    };
    let bury = |cramped: &mut Cramped| {
        cramped.worker.events.push(given_up.clone());
        cramped.worker.handle_events();
        wait(|| {
            cramped.worker.take_mail();
            cramped.worker.receipts.is_empty().then_some(())
        });
        let counters = cramped.worker.counters();
        (counters.dead_letters(Cause::Nack).load(), counters.given_up(Cause::Nack).load())
    };
    assert_eq!(bury(&mut cramped), (1, 0));
    cramped.fill();
    assert_eq!(bury(&mut cramped), (1, 1));
}
