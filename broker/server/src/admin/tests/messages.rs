//! The ledger, histories and dead letters through the router, with a store in memory and workers played by the test.

use super::*;
use crate::control::Publication;
use crate::worker::ledger::{Found, InFlight};
use waspmq_core::delivery::{
    AckPlan, Bounds, Cause, DeviceRow, Flight, LedgerEntry, Recipient, RecipientRow, References, State,
    Tracker, Turn,
};
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Code, Pattern, Position, QueueId, Reject, Stream};
use waspmq_protocol::HeaderBlock;
use waspmq_store::{DeadLetter, Durability, Write};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn id(count: u64) -> MessageId {
    MessageId::new(1_790_000_000_000, 7, 1, count)
}

fn position(offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch: 7 }, offset }
}

/// One message from alice.
fn batch(to: &str, count: u64, payload: &[u8], is_json: bool) -> Batch {
    let mut batch = Batch {
        to: Address::parse(to).unwrap(),
        from: Some(name("alice")),
        origin: None,
        exclude_origin: false,
        level: Level::Delivered,
        is_kept: true,
        unix_ms: 1_790_000_000_000,
        published_us: 0,
        first: position(count),
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    let start = batch.end();
    HeaderBlock::encode(&[("z", "1"), ("a", "2")], &mut batch.bytes).unwrap();
    let headers = batch.since(start);
    let (payload, reply_to) = (batch.store(payload), batch.store(b"user/alice"));
    batch.messages.push(Envelope {
        id: id(count),
        is_json,
        priority: 4,
        expires_unix_ms: 0,
        payload,
        headers,
        key: waspmq_core::message::Slice::default(),
        reply_to,
    });
    batch
}

fn letter(to: &str, recipient: &str, count: u64, cause: Cause) -> Write {
    Write::DeadLetter(DeadLetter {
        id: id(count),
        recipient: recipient.to_owned(),
        unix_ms: 1_790_000_000_500,
        cause: cause.as_str().to_owned(),
        attempts: 3,
        detail: "not delivered".to_owned(),
        batch: Arc::new(batch(to, count, br#"{"n":1.10}"#, true)),
    })
}

impl Api {
    fn store(&self, writes: &[Write]) {
        self.control.store.commit(writes, Durability::Buffered).unwrap();
    }

    /// Answers questions for ledgers as both workers would, until dropped.
    async fn call_with_workers(&self, path: &str, found: &Found) -> Answer {
        let workers = async {
            for worker in 0..2 {
                let mailbox = self.control.mailboxes.of(worker);
                mailbox.woken().await;
                let Some(Entry::Ledger { id: _, answer }) = mailbox.pop() else { panic!("no question") };
                // The second worker knows everything.
                let known = if worker == 1 { found.clone() } else { Found::default() };
                answer.try_send(known).unwrap();
                // A mailbox wakes its worker anew only after it was found empty.
                assert!(mailbox.pop().is_none());
            }
        };
        tokio::join!(self.call("GET", path), workers).0
    }

    /// Takes publications until the call has its answer.
    async fn call_with_publisher(
        &self,
        call: impl Future<Output = Answer>,
        mut publish: impl FnMut(&Publication) -> Result<Published, Reject>,
    ) -> Answer {
        let worker = async {
            let mailbox = self.control.mailboxes.of(0);
            loop {
                mailbox.woken().await;
                while let Some(entry) = mailbox.pop() {
                    let Entry::Publish { publication, answer } = entry else { panic!("{entry:?}") };
                    answer.try_send(publish(&publication)).unwrap();
                }
            }
        };
        tokio::select! {
            answer = call => answer,
            () = worker => unreachable!(),
        }
    }
}

fn entry(device: State) -> LedgerEntry {
    let is_acked = device == State::Acked;
    LedgerEntry {
        id: id(1),
        to: Address::parse("group/eng").unwrap(),
        from: Some(name("alice")),
        unix_ms: 100,
        level: Level::Delivered,
        plan: AckPlan::default(),
        recipients: vec![
            RecipientRow {
                recipient: Recipient::User(name("bob")),
                state: if is_acked { State::Acked } else { State::Sent },
                attempts: 1,
                cause: None,
                at_ms: 120,
                devices: vec![DeviceRow {
                    device: Some(name("phone")),
                    session: Some(SessionId::new(7, 0, 1)),
                    state: device,
                    sent_ms: 110,
                    acked_ms: is_acked.then_some(120),
                    reason: None,
                    cause: None,
                    attempt: 1,
                }],
            },
            RecipientRow {
                recipient: Recipient::Queue(QueueId::new(Pattern::parse("topic/a.>").unwrap(), name("pool"))),
                state: State::Sent,
                attempts: 1,
                cause: None,
                at_ms: 110,
                devices: Vec::new(),
            },
        ],
    }
}

fn in_flight(user: &str, session: u32) -> InFlight {
    let session = SessionId::new(7, 0, session);
    let to = Address::parse("group/eng").unwrap();
    InFlight { user: name(user), device: None, session, to, sent_unix_ms: 130, attempt: 1 }
}

#[tokio::test]
async fn the_ledger_is_put_together_from_all_workers() {
    let api = Api::new();
    let path = format!("/v1/messages/{}", id(1));
    let flying = vec![in_flight("bob", 1), in_flight("bob", 2), in_flight("carol", 3)];
    let found = Found { entries: vec![entry(State::Acked)], in_flight: flying };
    let ledger = api.call_with_workers(&path, &found).await.json();
    assert_eq!((&ledger["source"], &ledger["state"]), (&json!("memory"), &json!("under_way")), "{ledger}");
    assert_eq!(ledger["plan"], json!({"quorum": "all", "timeout_ms": 10_000, "attempts": 5}));
    let (bob, pool) = (&ledger["recipients"][0], &ledger["recipients"][1]);
    let devices: Vec<_> = bob["devices"].as_array().unwrap().iter().map(|device| &device["state"]).collect();
    assert_eq!(
        devices,
        [&json!("acked"), &json!("sent")],
        "an ack is not forgotten for what was sent before it"
    );
    assert_eq!(bob["devices"][0]["acked_at"], 120);
    assert_eq!((&pool["devices"][0]["user"], &pool["devices"][0]["sent_at"]), (&json!("carol"), &json!(130)));
    api.call_with_workers(&path, &Found::default()).await.problem(404, "not_found");
    api.call("GET", "/v1/messages/01").await.problem(400, "invalid_id");
    api.call("GET", &format!("{path}?to=nobody")).await.problem(400, "invalid_address");
}

#[tokio::test]
async fn each_address_of_a_message_has_its_recipients() {
    let api = Api::new();
    let path = format!("/v1/messages/{}", id(1));
    let to = |text: &str| Address::parse(text).unwrap();
    let of_bob = |to| LedgerEntry {
        to,
        recipients: vec![entry(State::Acked).recipients.remove(0)],
        ..entry(State::Acked)
    };
    let entries = vec![of_bob(to("topic/audit")), of_bob(to("group/eng"))];
    api.store(&[letter("topic/audit", "user/bob", 1, Cause::Nack)]);
    let found = Found { entries: entries.clone(), in_flight: vec![in_flight("bob", 2)] };
    let ledger = api.call_with_workers(&path, &found).await.json();
    let rows: Vec<_> = ledger["recipients"].as_array().unwrap().iter().collect();
    let told =
        |row: &Value| (row["to"].clone(), row["recipient"].clone(), row["devices"].as_array().unwrap().len());
    assert_eq!(
        rows.iter().map(|row| told(row)).collect::<Vec<_>>(),
        [(json!("topic/audit"), json!("user/bob"), 1), (json!("group/eng"), json!("user/bob"), 2),]
    );
    assert_eq!(
        (&ledger["to"], &ledger["dead_letters"][0]["to"]),
        (&json!("topic/audit"), &json!("topic/audit"))
    );
    // What an earlier version kept is read with the address of the whole.
    let mut kept = serde_json::to_value(crate::ledger::Ledger::of(&entries[1..]).unwrap()).unwrap();
    assert_eq!(kept["recipients"][0].as_object_mut().unwrap().remove("to"), Some(json!("group/eng")));
    api.store(&[Write::Ledger { id: id(1), body: serde_json::to_vec(&kept).unwrap() }]);
    let kept = api.call_with_workers(&path, &Found::default()).await.json();
    assert_eq!((&kept["source"], &kept["recipients"][0]["to"]), (&json!("ledger"), &json!("group/eng")));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_nothing_is_not_waited_for_for_ever() {
    let api = Api::new();
    api.call("GET", &format!("/v1/messages/{}", id(1))).await.problem(503, "overloaded");
}

#[tokio::test]
async fn what_the_store_knows_is_told_in_this_order() {
    let api = Api::new();
    let path = format!("/v1/messages/{}", id(1));
    let nothing = Found::default();
    api.store(&[letter("user/bob", "user/bob", 1, Cause::Nack)]);
    let letters = api.call_with_workers(&path, &nothing).await.json();
    assert_eq!((&letters["source"], &letters["state"]), (&json!("dead_letters"), &json!("incomplete")));
    assert_eq!(letters["recipients"][0]["cause"], "nack");
    let due_unix_ms = 1_790_000_060_000;
    api.store(&[Write::Delayed { due_unix_ms, batch: Arc::new(batch("user/bob", 1, b"1", true)) }]);
    for path in [&path, &format!("{path}?to=user/bob")] {
        let delayed = api.call_with_workers(path, &nothing).await.json();
        let (source, state) = (&delayed["source"], &delayed["state"]);
        assert_eq!((source, state), (&json!("delayed"), &json!("delayed")), "{path}");
        assert_eq!(
            (&delayed["due"], &delayed["level"]),
            (&json!(due_unix_ms), &json!("delivered")),
            "{path}"
        );
    }
    let stored = Write::Messages {
        batch: Arc::new(batch("user/bob", 1, b"1", true)),
        retention: Retention { age_ms: u64::MAX, count: 10, bytes: 1_000_000 },
    };
    let cursor = |device: &str, offset| Write::Cursor {
        user: name("bob"),
        device: Some(name(device)),
        address: Address::parse("user/bob").unwrap(),
        position: position(offset),
    };
    api.store(&[stored, cursor("laptop", 0), cursor("phone", 1)]);
    let history = api.call_with_workers(&format!("{path}?to=user/bob"), &nothing).await.json();
    assert_eq!(
        (&history["source"], &history["state"], &history["pos"]),
        (&json!("history"), &json!("acked"), &json!("s3e7:1"))
    );
    let devices = history["recipients"][0]["devices"].as_array().unwrap();
    assert_eq!((devices.len(), &devices[0]["device"]), (1, &json!("phone")));
    assert_eq!(history["dead_letters"][0]["cause"], "nack");
    let body = serde_json::to_vec(&crate::ledger::Ledger::of(&[entry(State::Acked)]).unwrap()).unwrap();
    api.store(&[Write::Ledger { id: id(1), body }]);
    let kept = api.call_with_workers(&format!("{path}?to=user/bob"), &nothing).await.json();
    assert_eq!((&kept["source"], &kept["to"]), (&json!("ledger"), &json!("group/eng")));
    api.store(&[Write::Ledger { id: id(1), body: b"{".to_vec() }]);
    api.call_with_workers(&path, &nothing).await.problem(503, "storage_failed");
}

#[tokio::test]
async fn histories_are_read_page_by_page() {
    let api = Api::new();
    assert_eq!(
        api.call("GET", "/v1/history/topic/a.b").await.json(),
        json!({"address": "topic/a.b", "messages": [], "next": null, "gap": false})
    );
    let write = |count, payload: &[u8], is_json| Write::Messages {
        batch: Arc::new(batch("topic/a.b", count, payload, is_json)),
        retention: Retention { age_ms: u64::MAX, count: 10, bytes: 1_000_000 },
    };
    api.store(&[write(1, b"1.10", true), write(2, b"\xff", false)]);
    let first = api.call("GET", "/v1/history/topic%2Fa.b?limit=1").await;
    assert!(first.text.contains("\"payload\":1.10"), "digits stay: {}", first.text);
    assert!(first.text.contains(r#""headers":{"z":"1","a":"2"}"#), "and so does the order: {}", first.text);
    let first = first.json();
    assert_eq!((&first["next"], &first["messages"][0]["priority"]), (&json!("s3e7:1"), &json!(4)));
    let second = api.call("GET", "/v1/history/topic/a.b?after=s3e7:1").await.json();
    assert_eq!((&second["next"], &second["messages"][0]["payload_b64"]), (&Value::Null, &json!("/w==")));
    assert_eq!(second["messages"].as_array().unwrap().len(), 1);
    api.call("GET", "/v1/history/nowhere").await.problem(400, "invalid_address");
    api.call("GET", "/v1/history/topic/a.b?after=x").await.problem(400, "invalid_query");
    api.call("GET", "/v1/history/topic/a.b?limit=0").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn letters_are_filtered_and_paged() {
    let api = Api::new();
    api.store(&[
        letter("user/bob", "user/bob", 1, Cause::Timeout),
        letter("topic/a.b", "user/bob", 2, Cause::Nack),
        letter("topic/a.b", "user/carol", 2, Cause::Nack),
        letter("topic/a.c", "queue/pool/topic/a.*", 3, Cause::Timeout),
    ]);
    let found = async |query: &str| {
        let page = api.call("GET", &format!("/v1/dead-letters{query}")).await.json();
        let letters = page["dead_letters"].as_array().unwrap().clone();
        let keys: Vec<_> = letters
            .iter()
            .map(|letter| {
                let id: MessageId = letter["id"].as_str().unwrap().parse().unwrap();
                (id.count(), letter["recipient"].as_str().unwrap().to_owned())
            })
            .collect();
        (keys, page["next"].clone())
    };
    let key = |count, recipient: &str| (count, recipient.to_owned());
    assert_eq!(found("").await.0.len(), 4);
    assert_eq!(found("?cause=nack").await.0, [key(2, "user/bob"), key(2, "user/carol")]);
    assert_eq!(found("?to=topic/a.%3E&recipient=user/bob").await.0, [key(2, "user/bob")]);
    assert_eq!(found("?to=topic/a.*&cause=timeout").await.0, [key(3, "queue/pool/topic/a.*")]);
    for (recipient, letters) in
        [("queue/pool", 1), ("queue/pool/topic/a.*", 1), ("queue/poo", 0), ("queue", 0)]
    {
        assert_eq!(found(&format!("?recipient={recipient}")).await.0.len(), letters, "{recipient}");
    }
    let (page, next) = found("?limit=2").await;
    assert_eq!(
        (page, &next),
        (vec![key(1, "user/bob"), key(2, "user/bob")], &json!(format!("{}:user/bob//topic/a.b", id(2))))
    );
    assert_eq!(
        found(&format!("?after={}", next.as_str().unwrap())).await,
        (vec![key(2, "user/carol"), key(3, "queue/pool/topic/a.*")], Value::Null)
    );
    assert_eq!(found(&format!("?after={}", id(2))).await.0, [key(3, "queue/pool/topic/a.*")]);
    assert_eq!(found("?limit=4").await.1, Value::Null);
    for query in ["?cause=boredom", "?limit=0", "?colour=red"] {
        api.call("GET", &format!("/v1/dead-letters{query}")).await.problem(400, "invalid_query");
    }
    api.call("GET", "/v1/dead-letters?to=nobody").await.problem(400, "invalid_address");
    let shown = api.call("GET", &format!("/v1/dead-letters/{}?recipient=user/carol", id(2))).await.json();
    let expected = json!({
        "id": id(2).to_string(), "recipient": "user/carol", "to": "topic/a.b", "from": "alice", "cause": "nack",
        "attempts": 3, "detail": "not delivered", "at": 1_790_000_000_500_u64, "ts": 1_790_000_000_000_u64,
        "generation": null, "payload": {"n": 1.10}, "headers": {"z": "1", "a": "2"}, "reply_to": "user/alice",
        "priority": 4,
    });
    assert_eq!(shown["dead_letters"], json!([expected]));
}

#[tokio::test]
async fn a_letter_is_published_to_the_one_who_failed_and_removed() {
    let api = Api::new();
    api.store(&[
        letter("topic/a.b", "user/bob", 1, Cause::Nack),
        letter("topic/a.b", "queue/pool", 1, Cause::Nack),
    ]);
    let mut seen = Vec::new();
    let path = format!("/v1/dead-letters/{}/requeue", id(1));
    let publish = |publication: &Publication| {
        seen.push(publication.clone());
        Ok(Published { id: id(100 + seen.len() as u64), level: Level::Accepted, recipients: 0 })
    };
    let requeued = api.call_with_publisher(api.call("POST", &path), publish).await.json();
    assert_eq!((&requeued["requeued"], &requeued["failed"]), (&json!(2), &json!(0)), "{requeued}");
    assert_eq!(requeued["messages"][0]["id"], id(101).to_string());
    // In the order of the recipients.
    let [queue, user] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((queue.to.as_str(), user.to.as_str()), ("topic/a.b", "user/bob"));
    assert_eq!((&user.from, user.level, user.answers_early), (&Some(name("alice")), Level::Delivered, true));
    assert_eq!((user.payload.as_slice(), user.is_json, user.priority), (&br#"{"n":1.10}"#[..], true, 4));
    assert_eq!(user.reply_to, "user/alice");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut headers = vec![pair("z", "1"), pair("a", "2"), pair("waspmq-original-id", &id(1).to_string())];
    assert_eq!(queue.headers, headers);
    headers.push(pair("waspmq-original-to", "topic/a.b"));
    assert_eq!(user.headers, headers);
    assert!(api.control.store.dead_letter(id(1)).unwrap().is_empty());
    api.call("POST", &path).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_letter_that_is_refused_stays() {
    let api = Api::new();
    let letters = (1..=3).map(|count| letter("user/bob", "user/bob", count, Cause::Timeout));
    api.store(&letters.collect::<Vec<_>>());
    let refuse = |_: &Publication| Err(Reject::new(Code::Overloaded, "no room").retry_after(100));
    let path = format!("/v1/dead-letters/{}/requeue", id(1));
    api.call_with_publisher(api.call("POST", &path), refuse).await.problem(503, "overloaded");
    let mut count = 0;
    let second_fails = |_: &Publication| {
        count += 1;
        if count == 2 {
            return Err(Reject::new(Code::NoRecipients, "nobody"));
        }
        Ok(Published { id: id(100 + count), level: Level::Accepted, recipients: 0 })
    };
    let all = api.call_with("POST", "/v1/dead-letters/requeue", r#"{"cause":"timeout"}"#);
    let answer = api.call_with_publisher(all, second_fails).await.json();
    assert_eq!(
        (&answer["requeued"], &answer["failed"], &answer["more"]),
        (&json!(2), &json!(1), &json!(false))
    );
    assert_eq!(
        answer["failures"],
        json!([{"id": id(2).to_string(), "recipient": "user/bob", "detail": "nobody"}])
    );
    assert_eq!(api.control.store.dead_letters(None, 10).unwrap().len(), 1);
    api.call_with("POST", "/v1/dead-letters/requeue", r#"{"colour":1}"#)
        .await
        .problem(422, "invalid_document");
    api.call_with("POST", "/v1/dead-letters/requeue?cause=nack", "{}").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn nothing_is_requeued_while_another_letter_would_find_no_room() {
    let control = control();
    let (store, journal) = open_bounded(10_000, (control.clock, &control.mailboxes));
    let api = Api::of(Control { store, journal, ..control });
    let of = |user: &str, count: u64, detail: String| {
        let Write::DeadLetter(letter) = letter(user, user, count, Cause::Timeout) else { panic!() };
        // Not so old that retention makes room.
        Write::DeadLetter(DeadLetter { detail, unix_ms: api.control.clock.now().unix_ms, ..letter })
    };
    api.store(&[of("user/bob", 1, String::new()), of("user/full", 2, "x".repeat(20_000))]);
    let path = format!("/v1/dead-letters/{}/requeue", id(1));
    api.call("POST", &path).await.problem(507, "storage_full");
    api.call_with("POST", "/v1/dead-letters/requeue", "{}").await.problem(507, "storage_full");
    assert_eq!(api.control.store.dead_letters(None, 10).unwrap().len(), 2);
    api.call("DELETE", &format!("/v1/dead-letters/{}", id(2))).await.json();
    let accept = |_: &Publication| Ok(Published { id: id(9), level: Level::Accepted, recipients: 0 });
    let answer = api.call_with_publisher(api.call("POST", &path), accept).await.json();
    assert_eq!(answer["requeued"], 1);
    assert!(api.control.store.dead_letters(None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn letters_are_purged_up_to_a_bound() {
    let api = Api::new();
    let most = limits::LETTERS_CHANGED_MAX as u64;
    let letters: Vec<_> =
        (1..=most + 1).map(|count| letter("user/bob", "user/bob", count, Cause::Timeout)).collect();
    api.store(&letters);
    api.store(&[letter("user/bob", "user/carol", 1, Cause::Nack)]);
    let purged = api.call("DELETE", &format!("/v1/dead-letters/{}?recipient=user/carol", id(1))).await.json();
    assert_eq!(purged, json!({"purged": 1, "more": false}));
    let none = api.call("DELETE", "/v1/dead-letters?cause=nack").await.json();
    assert_eq!(none, json!({"purged": 0, "more": false}));
    let first = api.call("DELETE", "/v1/dead-letters").await.json();
    assert_eq!(first, json!({"purged": most, "more": true}));
    let second = api.call("DELETE", "/v1/dead-letters").await.json();
    assert_eq!(second, json!({"purged": 1, "more": false}));
    assert!(api.control.store.dead_letters(None, 1).unwrap().is_empty());
}

/// What the store keeps of a delivery is what the tracker says of it when it has ended.
#[test]
fn the_tracker_gives_stored_batches_that_ended_once() {
    let mut tracker = Tracker::new(Bounds::default(), 1);
    let mut out = Vec::new();
    let mut acking = waspmq_core::policy::BySettings;
    for (count, is_kept) in [(1, true), (2, false)] {
        let batch = Arc::new(Batch { is_kept, ..batch("user/bob", count, b"1", true) });
        let flight = Flight {
            batch,
            recipients: [Recipient::User(name("bob"))].into_iter().collect(),
            offline: Vec::new(),
            plan: AckPlan::default(),
            publisher: None,
            references: References::default(),
        };
        tracker.begin(flight, &mut Turn { now_ms: 1, acking: &mut acking, out: &mut out });
        assert!(tracker.take_ended().is_empty());
        let report = waspmq_core::delivery::Report {
            first: id(count),
            messages: 1,
            to: &Address::parse("user/bob").unwrap(),
            recipient: &Recipient::User(name("bob")),
            device: None,
            session: None,
            attempt: 1,
            sent_ms: 1,
        };
        tracker.handle_acked(&report, 2, &mut out);
        let ended: Vec<_> = tracker.take_ended().iter().map(|batch| batch.messages[0].id).collect();
        assert_eq!(ended, if is_kept { vec![id(1)] } else { vec![] });
        assert!(tracker.take_ended().is_empty());
    }
    let ledger = crate::ledger::Ledger::of(&tracker.entries(id(1))).unwrap();
    assert_eq!((ledger.state.as_str(), ledger.recipients[0].state.as_str()), ("acked", "acked"));
}
