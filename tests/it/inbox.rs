//! What is stored: the inbox, histories, read marks, and sessions that begin in the past.

use crate::harness::{Broker, Peer};
use crate::levels::{PROFILES, publish, with};
use serde_json::{Value, json};

/// Offsets of positions within one stream.
fn offset(frame: &Value) -> u64 {
    frame["pos"].as_str().unwrap().split_once(':').unwrap().1.parse().unwrap()
}

fn payloads(messages: &Value) -> Vec<Value> {
    messages.as_array().unwrap().iter().map(|message| message["payload"].clone()).collect()
}

const KEEPS: &str = "[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n\
                     [[address]]\nmatch = \"user/*\"\nkeep = \"always\"\n\
                     [[address]]\nmatch = \"group/*\"\nkeep = \"always\"\n";

async fn publish_accepted(peer: &mut Peer, to: &str, numbers: std::ops::Range<u64>) {
    let count = numbers.clone().count();
    peer.send_all(&numbers.map(|i| publish(i, to, i, "accepted")).collect::<Vec<_>>()).await;
    for _ in 0..count {
        assert_eq!(peer.receive().await["type"], "receipt");
    }
}

#[tokio::test]
async fn the_inbox_comes_first_and_in_order_for_every_device_that_has_not_acked() {
    let broker = Broker::start();
    for profile in PROFILES {
        let user = profile.replace('.', "-");
        let to = format!("user/{user}");
        let mut alice = broker.connect_as("alice", "a", profile).await;
        publish_accepted(&mut alice, &to, 0..50).await;
        let mut phone = broker.connect_as(&user, "phone", profile).await;
        publish_accepted(&mut alice, &to, 50..52).await;
        let mut frames = Vec::new();
        for i in 0..52_u64 {
            frames.push(phone.expect_message(i).await);
        }
        assert!(frames.windows(2).all(|pair| offset(&pair[0]) < offset(&pair[1])), "positions ascend");
        let acks: Vec<_> = frames.iter().map(|frame| frame.get("ack").is_some()).collect();
        assert_eq!(acks.iter().filter(|&&ack| ack).count(), 50, "only what was stored wants an ack");
        // Cumulatively up to the 40th, and two more singly.
        phone.ask_ok(json!({"type": "ack", "ref": 1, "to": to, "upto": frames[39]["pos"]})).await;
        phone.ack(&frames[41]).await;
        phone.ack(&frames[40]).await;
        drop(phone);
        let mut phone = broker.connect_as(&user, "phone", profile).await;
        for (i, first) in frames.iter().enumerate().take(50).skip(42) {
            assert_eq!(phone.expect_message(i).await["id"], first["id"]);
        }
        phone.expect_quiet().await;
        // Another device has its own cursor.
        let mut laptop = broker.connect_as(&user, "laptop", profile).await;
        for i in 0..50_u64 {
            laptop.expect_message(i).await;
        }
        laptop.expect_quiet().await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_stays_so_over_a_kill() {
    let mut broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    for i in 0..3 {
        alice.send(&publish(i, "user/bob", i, "stored")).await;
        alice.expect_receipt(i, "stored").await;
    }
    let mut bob = broker.connect_as("bob", "phone", PROFILES[0]).await;
    let mut last = Value::Null;
    for i in 0..2_u64 {
        last = bob.expect_message(i).await;
    }
    bob.expect_message(2).await;
    bob.ask_ok(json!({"type": "ack", "ref": 1, "to": "user/bob", "upto": last["pos"]})).await;
    // Something synced behind the ack makes sure that the ack is on the disk.
    alice.send(&publish(9, "user/carol", 9, "stored")).await;
    alice.expect_receipt(9, "stored").await;
    broker.restart();
    let mut bob = broker.connect_as("bob", "phone", PROFILES[0]).await;
    bob.expect_message(2).await;
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_second_session_of_a_device_sees_the_acks_of_the_first() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut first = broker.connect_as("bob", "phone", PROFILES[0]).await;
    publish_accepted(&mut alice, "user/bob", 0..2).await;
    let message = first.expect_message(0).await;
    first.expect_message(1).await;
    first.ack(&message).await;
    // The client came back before the broker noticed that it had gone.
    let mut second = broker.connect_as("bob", "phone", PROFILES[0]).await;
    second.expect_message(1).await;
    second.expect_quiet().await;
}

#[tokio::test]
async fn exclude_self_holds_for_what_is_stored() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect_as("alice", "one", PROFILES[0]).await;
    let mut other = broker.connect_as("alice", "two", PROFILES[0]).await;
    alice.send(&with(publish(1, "user/alice", "note", "stored"), json!({"exclude_self": true}))).await;
    alice.expect_receipt(1, "stored").await;
    other.expect_message("note").await;
    let page = alice.ask(json!({"type": "history", "ref": 2, "of": "user/alice"})).await;
    assert_eq!(page["messages"], json!([]), "its own publish is left out");
    let page = other.ask(json!({"type": "history", "ref": 2, "of": "user/alice"})).await;
    assert_eq!(payloads(&page["messages"]), ["note"]);
    alice.ask_ok(json!({"type": "subscribe", "ref": 3, "to": "user/alice", "from": "earliest"})).await;
    alice.expect_quiet().await;
    // Another session of the same device did not publish it.
    let mut again = broker.connect_as("alice", "one", PROFILES[0]).await;
    again.expect_message("note").await;
}

/// Publishes to a group that the publisher is in, and gives the message. A fast disk may answer before it arrives.
async fn publish_to_own_group(peer: &mut Peer, number: u64) -> Value {
    peer.send(&publish(number, "group/g", number, "stored")).await;
    let frames = [peer.receive().await, peer.receive().await];
    let of = |kind: &str| {
        frames.iter().find(|frame| frame["type"] == kind).unwrap_or_else(|| panic!("{frames:?}"))
    };
    let (message, receipt) = (of("message"), of("receipt"));
    assert_eq!((&message["payload"], &receipt["ref"]), (&json!(number), &json!(number)));
    assert_eq!(receipt["level"], "stored");
    message.clone()
}

#[tokio::test]
async fn a_member_who_was_away_catches_up_with_the_group() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect_as("bob", "phone", PROFILES[0]).await;
    for peer in [&mut alice, &mut bob] {
        peer.ask_ok(json!({"type": "join", "ref": 1, "group": "g"})).await;
    }
    let message = publish_to_own_group(&mut alice, 1).await;
    bob.expect_message(1).await;
    bob.ask_ok(json!({"type": "ack", "ref": 1, "to": "group/g", "upto": message["pos"]})).await;
    drop(bob);
    for i in 2..5 {
        publish_to_own_group(&mut alice, i).await;
    }
    let mut bob = broker.connect_as("bob", "phone", PROFILES[0]).await;
    for i in 2..5_u64 {
        bob.expect_message(i).await;
    }
    bob.expect_quiet().await;
    // Who never was there and is no member gets nothing.
    let mut carol = broker.connect("carol").await;
    carol.expect_quiet().await;
    carol.send(&json!({"type": "history", "ref": 1, "of": "group/g"})).await;
    carol.expect_error(1403).await;
    carol.send(&json!({"type": "history", "ref": 2, "of": "user/bob"})).await;
    assert_eq!(carol.expect_error(1403).await["ref"], 2);
    carol.send(&json!({"type": "subscribe", "ref": 3, "to": "user/bob", "from": "earliest"})).await;
    assert_eq!(carol.expect_error(1403).await["ref"], 3);
    carol.send(&json!({"type": "subscribe", "ref": 4, "to": "group/g", "from": "earliest"})).await;
    assert_eq!(carol.expect_error(1403).await["ref"], 4);
    carol.send(&json!({"type": "read", "ref": 5, "of": "user/bob", "upto": "s1e1:1"})).await;
    assert_eq!(carol.expect_error(1403).await["ref"], 5);
}

#[tokio::test]
async fn positions_that_an_address_cannot_have_had_hide_nothing() {
    let broker = Broker::start_with_config("[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n");
    let mut alice = broker.connect("alice").await;
    publish_accepted(&mut alice, "topic/a", 1..4).await;
    let page = alice.ask(json!({"type": "history", "ref": 1, "of": "topic/a"})).await;
    let last = page["messages"][2]["pos"].as_str().unwrap();
    let (stream, offset) = last.split_once(':').unwrap();
    let (shard, epoch) = stream[1..].split_once('e').unwrap();
    let shard: u16 = shard.parse().unwrap();
    let unknown = [
        format!("s{}e{epoch}:1", (shard + 1) % 64),
        format!("s{shard}e{}:1", epoch.parse::<u32>().unwrap() + 1),
        format!("s{shard}e{epoch}:{}", offset.parse::<u64>().unwrap() + 1),
    ];
    for after in &unknown {
        let page = alice.ask(json!({"type": "history", "ref": 2, "of": "topic/a", "after": after})).await;
        assert_eq!((payloads(&page["messages"]).len(), &page["gap"]), (3, &json!(true)), "{after}");
        let mut bob = broker.connect("bob").await;
        bob.send(&json!({"type": "subscribe", "ref": 1, "to": "topic/a", "from": after})).await;
        assert_eq!(bob.receive().await, json!({"type": "overflow", "to": "topic/a", "dropped": 0}));
        assert_eq!(bob.receive().await["type"], "ok");
        for payload in 1..4 {
            assert_eq!(bob.receive().await["payload"], payload, "{after}");
        }
    }
    let page = alice.ask(json!({"type": "history", "ref": 3, "of": "topic/a", "after": last})).await;
    assert_eq!((&page["messages"], &page["gap"]), (&json!([]), &json!(false)));
    let mut bob = broker.connect("bob").await;
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/a", "from": last})).await;
    bob.expect_quiet().await;
}

#[tokio::test]
async fn history_pages_tell_more_gap_and_unread() {
    let config = "[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\nhistory_count = 20\n";
    let broker = Broker::start_with_config(config);
    for profile in PROFILES {
        let to = format!("topic/{}", profile.replace('.', "-"));
        let mut alice = broker.connect_as("alice", "a", profile).await;
        publish_accepted(&mut alice, &to, 0..10).await;
        let ask = |after: Option<&Value>, limit: u64| {
            let mut frame = json!({"type": "history", "ref": 5, "of": to, "limit": limit});
            if let Some(after) = after {
                frame["after"] = after.clone();
            }
            frame
        };
        let first = alice.ask(ask(None, 4)).await;
        assert_eq!(payloads(&first["messages"]), [0, 1, 2, 3]);
        assert!(first["messages"][0].get("ack").is_none(), "there is nothing to acknowledge");
        assert_eq!(
            (&first["more"], &first["gap"], &first["unread"]),
            (&json!(true), &json!(false), &json!(10))
        );
        let third = &first["messages"][3]["pos"];
        let second = alice.ask(ask(Some(third), 4)).await;
        assert_eq!(payloads(&second["messages"]), [4, 5, 6, 7]);
        let seventh = &second["messages"][3]["pos"];
        let rest = alice.ask(ask(Some(seventh), 4)).await;
        assert_eq!((payloads(&rest["messages"]), &rest["more"]), (vec![json!(8), json!(9)], &json!(false)));
        let none = alice.ask(ask(Some(&rest["messages"][1]["pos"]), 4)).await;
        assert_eq!((&none["messages"], &none["gap"]), (&json!([]), &json!(false)));
        // The mark moves the unread count, tells the other sessions, and never goes back.
        let mut other = broker.connect_as("alice", "other", profile).await;
        alice.ask_ok(json!({"type": "read", "ref": 6, "of": to, "upto": seventh})).await;
        let event = other.receive().await;
        assert_eq!(event, json!({"type": "read", "of": to, "upto": seventh, "unread": 2}));
        alice.ask_ok(json!({"type": "read", "ref": 7, "of": to, "upto": third})).await;
        let page = alice.ask(ask(None, 1)).await;
        assert_eq!(page["unread"], 2);
        for event in other.drain().await {
            assert_eq!(
                (&event["upto"], &event["unread"]),
                (seventh, &json!(2)),
                "the mark stays where it is"
            );
        }
        let mut stranger = broker.connect_as("stranger", "s", profile).await;
        assert_eq!(stranger.ask(ask(None, 1)).await["unread"], 10, "marks are the user's own");
        // 40 more push the first 30 out.
        publish_accepted(&mut alice, &to, 10..50).await;
        let page = alice.ask(ask(Some(third), 100)).await;
        assert_eq!(payloads(&page["messages"]), (30..50).map(Value::from).collect::<Vec<_>>());
        assert_eq!((&page["gap"], &page["more"], &page["unread"]), (&json!(true), &json!(false), &json!(20)));
        let page = alice.ask(ask(Some(&page["messages"][0]["pos"]), 100)).await;
        assert_eq!((payloads(&page["messages"]).len(), &page["gap"]), (19, &json!(false)));
    }
}

#[tokio::test]
async fn sessions_begin_where_they_say() {
    let broker = Broker::start_with_config(KEEPS);
    for profile in PROFILES {
        let base = format!("topic/{}", profile.replace('.', "-"));
        let (one, two) = (format!("{base}.one"), format!("{base}.two"));
        let mut alice = broker.connect_as("alice", "a", profile).await;
        publish_accepted(&mut alice, &one, 0..5).await;
        publish_accepted(&mut alice, &two, 100..103).await;
        let page = alice.ask(json!({"type": "history", "ref": 1, "of": one})).await;
        let (third, after) = (&page["messages"][2], &page["messages"][2]["pos"]);
        let time = third["ts"].as_u64().unwrap();
        let same_time = page["messages"].as_array().unwrap().iter().position(|m| m["ts"] == time).unwrap();
        let cases = [
            (&one, json!("now"), vec![]),
            (&one, json!("earliest"), vec![0, 1, 2, 3, 4]),
            (&one, json!("last"), vec![4]),
            (&one, after.clone(), vec![3, 4]),
            (&one, json!(time.to_string()), (same_time as u64..5).collect()),
            (&one, json!("2020-01-01T00:00:00Z"), vec![0, 1, 2, 3, 4]),
            (&format!("{base}.*"), json!("earliest"), vec![0, 1, 2, 3, 4, 100, 101, 102]),
            (&format!("{base}.>"), json!("last"), vec![4, 102]),
            (&format!("{base}.*"), json!("1000"), vec![0, 1, 2, 3, 4, 100, 101, 102]),
            (&format!("{base}.none.>"), json!("earliest"), vec![]),
        ];
        for (to, from, expected) in cases {
            let mut reader = broker.connect_as("reader", "r", profile).await;
            reader.ask_ok(json!({"type": "subscribe", "ref": 1, "to": to, "from": from})).await;
            let mut got = Vec::new();
            for _ in &expected {
                got.push(reader.receive().await["payload"].as_u64().unwrap());
            }
            got.sort_by_key(|payload| payload / 100);
            assert_eq!(got, expected, "{to} from {from}");
            reader.expect_quiet().await;
        }
        let mut reader = broker.connect_as("reader", "r", profile).await;
        let wild = format!("{base}.*");
        reader.send(&json!({"type": "subscribe", "ref": 2, "to": wild, "from": after})).await;
        reader.expect_error(1400).await;
    }
}

#[tokio::test]
async fn nobody_who_begins_at_the_earliest_misses_or_repeats_anything() {
    let broker = Broker::start_with_config(KEEPS);
    const COUNT: u64 = 4_000;
    let publisher = async {
        let mut alice = broker.connect("alice").await;
        for chunk in 0..COUNT / 40 {
            let frames: Vec<_> = (chunk * 40..(chunk + 1) * 40)
                .map(|i| json!({"type": "publish", "to": format!("topic/t.{}", i % 2), "payload": i}))
                .collect();
            alice.send_all(&frames).await;
            alice.expect_quiet().await;
        }
    };
    let reader = async |user: usize, to: &str, step: u64| {
        let mut peer = broker.connect_as(&format!("reader{user}"), "r", PROFILES[user % 2]).await;
        // Readers join all along.
        for _ in 0..user * 8 {
            peer.expect_quiet().await;
        }
        peer.send(&json!({"type": "subscribe", "ref": 1, "to": to, "from": "earliest"})).await;
        let (mut next_even, mut next_odd) = (0, 1);
        let mut received = 0;
        while received < COUNT / step {
            let frame = peer.receive().await;
            if frame["type"] == "ok" {
                continue;
            }
            let number = frame["payload"].as_u64().unwrap_or_else(|| panic!("{frame}"));
            let next = if number % 2 == 0 { &mut next_even } else { &mut next_odd };
            assert_eq!(number, *next, "{to}: in order, none twice, none missing");
            *next += 2;
            received += 1;
        }
        peer.expect_quiet().await;
    };
    let readers = futures_util::future::join_all((0..12).map(|user| {
        let (to, step) = if user % 3 == 0 { ("topic/t.*", 1) } else { ("topic/t.1", 2) };
        reader(user, to, step)
    }));
    tokio::join!(publisher, readers);
}

#[tokio::test]
async fn from_last_loses_nothing_that_is_published_behind_it() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    for (round, pattern) in [(0, "topic/l0"), (1, "topic/l1.*")] {
        let to = format!("topic/l{round}{}", if round == 0 { "" } else { ".x" });
        publish_accepted(&mut alice, &to, 0..3).await;
        for reader in 0..20_u64 {
            let mut peer = broker.connect(&format!("r{round}-{reader}")).await;
            // One read of the socket has the subscription and what is published behind it.
            let mut frames = vec![json!({"type": "subscribe", "ref": 1, "to": pattern, "from": "last"})];
            frames.extend((0..30).map(|i| json!({"type": "publish", "to": to, "payload": [reader, i]})));
            peer.send_all(&frames).await;
            assert_eq!(peer.receive().await["type"], "ok");
            let before = peer.receive().await;
            let expected = if reader == 0 { json!(2) } else { json!([reader - 1, 29]) };
            assert_eq!(before["payload"], expected, "{pattern}");
            for i in 0..30 {
                peer.expect_message(json!([reader, i])).await;
            }
            peer.expect_quiet().await;
        }
    }
}

#[tokio::test]
async fn a_subscription_that_ended_replays_nothing() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    publish_accepted(&mut alice, "topic/long", 0..3_000).await;
    for to in ["topic/long", "topic/*"] {
        let mut bob = broker.connect("bob").await;
        bob.send_all(&[
            json!({"type": "subscribe", "ref": 1, "to": to, "from": "earliest"}),
            json!({"type": "unsubscribe", "ref": 2, "to": to}),
        ])
        .await;
        while bob.receive().await["ref"] != 2 {}
        // The page that was asked for has been read when later ones have.
        for _ in 0..3 {
            let page = bob.ask(json!({"type": "history", "ref": 3, "of": "topic/long", "limit": 1})).await;
            assert_eq!(page["type"], "history", "nothing comes behind the ok");
        }
        assert!(bob.drain().await.is_empty());
    }
}

#[tokio::test]
async fn large_messages_are_stored_and_replayed() {
    let mut broker = Broker::start();
    let body = "x".repeat(1_000_000);
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", "a", profile).await;
        let to = format!("user/{}", profile.replace('.', "-"));
        for i in 0..4 {
            alice.send(&publish(i, &to, json!([i, body]), "stored")).await;
            alice.expect_receipt(i, "stored").await;
        }
    }
    broker.restart();
    for profile in PROFILES {
        let user = profile.replace('.', "-");
        let mut bob = broker.connect_as(&user, "b", profile).await;
        for i in 0..4 {
            let frame = bob.receive().await;
            assert_eq!(frame["payload"][0], i);
            assert_eq!(frame["payload"][1].as_str().unwrap().len(), body.len());
        }
        bob.expect_quiet().await;
        let page = bob.ask(json!({"type": "history", "ref": 1, "of": format!("user/{user}")})).await;
        let messages = page["messages"].as_array().unwrap();
        assert!((1..=2).contains(&messages.len()) && page["more"] == true, "a page ends behind 1 MiB");
    }
}

/// Reads until everything of `addresses` with `count` messages each has come once, in the order of each address.
async fn expect_replay(peer: &mut Peer, addresses: usize, count: u64) {
    let mut next = std::collections::BTreeMap::new();
    for _ in 0..addresses as u64 * count {
        let mut frame = peer.receive().await;
        while frame["type"] == "ok" {
            frame = peer.receive().await;
        }
        assert_eq!(frame["type"], "message", "nothing is lost: {:.200}", frame.to_string());
        let next = next.entry(frame["to"].as_str().unwrap().to_owned()).or_insert(0);
        assert_eq!(frame["payload"][0], *next, "{}: in order, none twice, none missing", frame["to"]);
        *next += 1;
    }
    assert_eq!(next.len(), addresses);
    peer.expect_quiet().await;
}

#[tokio::test]
async fn replays_of_many_addresses_fit_a_short_outbound_queue() {
    let broker = Broker::start_with_config(&format!(
        "{KEEPS}[limits]\nmax_message_bytes = 131072\noutbound_bytes_max = 262144\n"
    ));
    let mut alice = broker.connect("alice").await;
    let mut bob = broker.connect_as("bob", "phone", PROFILES[0]).await;
    for group in 0..30 {
        bob.ask_ok(json!({"type": "join", "ref": 1, "group": format!("g{group}")})).await;
    }
    drop(bob);
    let connections = "waspmq_connections{transport=\"websocket\"}";
    broker.eventually("bob is gone", |broker| broker.metric(connections).is_some_and(|n| n == 1.0));
    // Pages end between these, and two of the large ones do not fit together.
    let body = "x".repeat(60_000);
    let large = "x".repeat(120_000);
    for address in 0..30 {
        for to in [format!("topic/w.{address}"), format!("group/g{address}")] {
            for i in 0..5 {
                let body = if i == 3 { &large } else { &body };
                alice.send(&publish(i, &to, json!([i, body]), "accepted")).await;
                alice.expect_receipt(i, "accepted").await;
            }
        }
    }
    let mut peers = Vec::new();
    for (device, profile) in ["phone", "laptop"].into_iter().zip(PROFILES) {
        let mut bob = broker.connect_as("bob", device, profile).await;
        expect_replay(&mut bob, 30, 5).await;
        bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/w.*", "from": "earliest"})).await;
        expect_replay(&mut bob, 30, 5).await;
        // Who is still there has not been seen last.
        peers.push(bob);
    }
    let dropped = broker.metric("waspmq_messages_dropped_total{reason=\"slow_consumer\"}");
    assert_eq!(dropped.unwrap_or_default(), 0.0);
}

#[tokio::test]
async fn an_address_that_is_being_read_is_read_again_for_who_asks() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    publish_accepted(&mut alice, "topic/twice", 0..1_500).await;
    let mut bob = broker.connect("bob").await;
    let subscribe = |number: u64, from: &str| json!({"type": "subscribe", "ref": number, "to": "topic/twice", "from": from});
    bob.send_all(&[subscribe(1, "last"), subscribe(2, "earliest")]).await;
    let mut got = Vec::new();
    while got.len() < 1_501 {
        let frame = bob.receive().await;
        if frame["type"] == "message" {
            got.push(frame["payload"].as_u64().unwrap());
        }
    }
    assert_eq!(got, std::iter::once(1_499).chain(0..1_500).collect::<Vec<_>>());
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_slow_reader_that_spills_gets_everything_in_order() {
    let broker = Broker::start_with_config(
        "[limits]\noutbound_bytes_max = 1600000\n\
         [[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\noverflow = \"spill\"\n",
    );
    let mut slow = broker.connect("slow").await;
    slow.ask_ok(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    let mut alice = broker.connect("alice").await;
    let body = "x".repeat(60_000);
    let count = 300; // 18 MB: more than the kernel and the outbound queue hold
    for i in 0..count {
        alice.send(&publish(i, "topic/t", json!([i, body]), "accepted")).await;
        alice.expect_receipt(i, "accepted").await;
    }
    broker.eventually("something is spilled", |broker| {
        broker.metric("waspmq_slow_consumers_total{action=\"spill\"}").is_some_and(|spilled| spilled > 0.0)
    });
    let mut next = 0;
    while next < count {
        let frame = slow.receive().await;
        if frame["type"] == "message" {
            assert_eq!(frame["payload"][0], next, "in order, none twice, none missing");
            next += 1;
        }
    }
    // Live again.
    alice.send(&publish(1, "topic/t", "live", "accepted")).await;
    slow.expect_message("live").await;
}

#[tokio::test]
async fn an_acknowledged_cursor_is_worth_nothing_for_others() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    let (mut bob, mut carol) = (broker.connect("bob").await, broker.connect("carol").await);
    publish_accepted(&mut alice, "user/bob", 0..2).await;
    let first = bob.expect_message(0).await;
    let second = bob.expect_message(1).await;
    // Not hers; counted, and told only to who asks.
    carol.send(&json!({"type": "ack", "ids": [first["id"]]})).await;
    carol.expect_quiet().await;
    carol.send(&json!({"type": "ack", "ref": 4, "ids": [first["id"]]})).await;
    assert_eq!(carol.expect_error(1430).await["ref"], 4);
    carol.send(&json!({"type": "ack", "ref": 5, "to": "user/bob", "upto": second["pos"]})).await;
    assert_eq!(carol.expect_error(1430).await["ref"], 5);
    // Behind what was sent.
    let beyond = second["pos"].as_str().unwrap().replace(':', ":9");
    bob.send(&json!({"type": "ack", "ref": 6, "to": "user/bob", "upto": beyond})).await;
    assert_eq!(bob.expect_error(1430).await["ref"], 6);
    // One of two is right: it counts, and the other is told.
    let unknown = "0".repeat(32);
    bob.send(&json!({"type": "ack", "ref": 7, "ids": [first["id"], unknown]})).await;
    assert_eq!(bob.expect_error(1430).await["ref"], 7);
    drop(bob);
    let mut bob = broker.connect("bob").await;
    bob.expect_message(1).await;
    bob.expect_quiet().await;
}

#[tokio::test]
async fn a_session_is_sent_a_window_and_the_rest_as_it_acknowledges() {
    const MESSAGES: usize = 5_000;
    let broker = Broker::start();
    let mut alice = broker.connect("alice").await;
    let publishes: Vec<_> =
        (0..MESSAGES).map(|i| publish(i as u64, "user/bob", i as u64, "delivered")).collect();
    for some in publishes.chunks(500) {
        alice.send_all(some).await;
    }
    alice.expect_quiet().await;
    let mut bob = broker.connect("bob").await;
    let mut positions = Vec::new();
    while positions.len() < waspmq_core::limits::WINDOW_MESSAGES_MAX {
        let message = bob.expect_message(positions.len() as u64).await;
        assert_eq!(message["ack"], true);
        positions.push(message["pos"].clone());
    }
    bob.expect_quiet().await;
    // A page that was asked for before the window was full may go on at once; otherwise half of it has to be free.
    bob.ask_ok(json!({"type": "ack", "ref": 1, "to": "user/bob", "upto": positions[2_000]})).await;
    bob.send(&json!({"type": "ack", "to": "user/bob", "upto": positions[2_100]})).await;
    while positions.len() < MESSAGES {
        let message = bob.expect_message(positions.len() as u64).await;
        positions.push(message["pos"].clone());
    }
    bob.ask_ok(json!({"type": "ack", "ref": 2, "to": "user/bob", "upto": positions[MESSAGES - 1]})).await;
    for i in 0..MESSAGES {
        alice.expect_receipt(i as u64, "delivered").await;
    }
}

#[tokio::test]
async fn a_connection_waits_for_few_pages_at_once() {
    let broker = Broker::start_with_config(KEEPS);
    for profile in PROFILES {
        let mut alice = broker.connect_as("alice", profile, profile).await;
        publish_accepted(&mut alice, "topic/a", 0..3).await;
        let ask = |i: u64| json!({"type": "history", "ref": i, "of": "topic/a"});
        // One message, so that all are read before the first can be answered.
        alice.send_all(&(0..200).map(ask).collect::<Vec<_>>()).await;
        let (mut pages, mut refused) = (Vec::new(), 0);
        for _ in 0..200 {
            let frame = alice.receive().await;
            if frame["type"] == "history" {
                pages.push(frame["ref"].as_u64().unwrap());
            } else {
                assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(1503)), "{frame}");
                refused += 1;
            }
        }
        // Two threads read; which of them is done first is chance.
        pages.sort_unstable();
        assert_eq!((pages, refused), (vec![0, 1], 198));
        assert_eq!(alice.ask(ask(200)).await["type"], "history", "those that were answered are over");
    }
}

#[tokio::test]
async fn a_read_mark_stays_within_its_address() {
    let broker = Broker::start_with_config(KEEPS);
    let mut alice = broker.connect("alice").await;
    publish_accepted(&mut alice, "topic/a", 0..2).await;
    let page = alice.ask(json!({"type": "history", "ref": 1, "of": "topic/a"})).await;
    let last = page["messages"][1]["pos"].as_str().unwrap();
    let (stream, offset) = last.split_once(':').unwrap();
    let (shard, epoch) = stream[1..].split_once('e').unwrap();
    let (shard, epoch, offset): (u16, u32, u64) =
        (shard.parse().unwrap(), epoch.parse().unwrap(), offset.parse().unwrap());
    let foreign = [
        format!("s{}e{epoch}:1", shard ^ 1),
        format!("s{shard}e{}:1", epoch + 1),
        format!("s{shard}e{epoch}:{}", offset + 1),
        format!("s{shard}e{epoch}:{}", u64::MAX),
    ];
    for upto in foreign {
        alice.send(&json!({"type": "read", "ref": 2, "of": "topic/a", "upto": upto})).await;
        alice.expect_error(1400).await;
    }
    let page = alice.ask(json!({"type": "history", "ref": 3, "of": "topic/a"})).await;
    assert_eq!(page["unread"], 2, "no mark was set");
    alice.ask_ok(json!({"type": "read", "ref": 4, "of": "topic/a", "upto": last})).await;
}
