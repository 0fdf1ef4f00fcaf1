//! What a client asks besides publishing and subscribing, and what it hears besides messages.

use crate::support::{Got, Peer, Server, pair, tracked};
use std::time::Duration;
use waspmq_client::{
    CORRELATION_ID, Client, Code, Error, Event, Level, Overflow, OverflowAction, Payload, Position, Presence,
    PresenceChange, Profile, PublishOptions, Read, Stats, UserPresence,
};
use waspmq_core::Stream;
use waspmq_protocol::HeaderBlock;
use waspmq_protocol::server::{Frame, HistoryHead, MessageFrame};

const PLACE: Position = Position { stream: Stream { shard: 1, epoch: 1 }, offset: 40 };

fn options() -> PublishOptions {
    PublishOptions::default()
}

#[tokio::test]
async fn pages_of_history() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        let answering = async {
            let got = peer.expect("history").await;
            assert!(got.text.contains("offset: 40") && got.text.contains("limit: Some(2)"), "{}", got.text);
            let head = HistoryHead {
                reference: got.reference,
                of: "topic/a",
                more: true,
                gap: true,
                unread: Some(3),
            };
            peer.history(head, &[tracked(41), tracked(44)]).await;
            let got = peer.expect("history").await;
            peer.refuse(got.reference, Code::NotStored).await;
        };
        let asking = async {
            let page = client.history("topic/a", Some(PLACE), Some(2)).await.unwrap();
            assert_eq!((&*page.of, page.more, page.gap, page.unread), ("topic/a", true, true, Some(3)));
            let offsets: Vec<_> = page.messages.iter().map(|message| message.position.offset).collect();
            assert_eq!(offsets, [41, 44]);
            client.history("topic/b", None, None).await
        };
        let (refused, ()) = tokio::join!(asking, answering);
        assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::NotStored)));
        // A page is no delivery: what comes as one is new.
        peer.deliver(tracked(41)).await;
        assert_eq!(messages.recv().await.unwrap().position.offset, 41);
    }
}

#[tokio::test]
async fn presence_reading_and_their_events() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, _messages, mut peer) = pair(&server, profile).await;
        let mut events = client.events();
        let bob = UserPresence {
            user: "bob".to_owned(),
            online: true,
            sessions: 2,
            last_seen_unix_ms: Some(1_790_000_000_000),
            seq: 12,
        };
        let change =
            PresenceChange { user: "bob".to_owned(), online: false, last_seen_unix_ms: None, seq: 13 };
        let read = Read { of: "group/eng".to_owned(), upto: PLACE, unread: Some(0) };
        let overflow = |dropped: u64, action: OverflowAction| Overflow {
            to: "topic/a".to_owned(),
            dropped,
            action: Some(action),
        };
        let (overflow, spill) =
            (overflow(5, OverflowAction::DropOldest), overflow(70, OverflowAction::Spill));
        let answering = async {
            let got = peer.expect("presence").await;
            let users = vec![bob.clone()];
            let (of, reference) = ("group/eng".to_owned(), got.reference);
            peer.send(&Frame::Presence(Presence { reference, of, users, more: false })).await;
            let got = peer.expect_ok("read").await;
            assert!(got.text.contains("offset: 40"), "{}", got.text);
            peer.send(&Frame::PresenceChange(change.clone())).await;
            peer.send(&Frame::Read(read.clone())).await;
            peer.send(&Frame::Overflow(overflow.clone())).await;
            peer.send(&Frame::Overflow(spill.clone())).await;
        };
        let asking = async {
            let presence = client.presence("group/eng").await.unwrap();
            assert_eq!((presence.users, presence.more), (vec![bob.clone()], false));
            client.read("group/eng", PLACE).await.unwrap();
        };
        tokio::join!(asking, answering);
        assert_eq!(events.recv().await, Some(Event::Presence(change)));
        assert_eq!(events.recv().await, Some(Event::Read(read)));
        assert_eq!(events.recv().await, Some(Event::Overflow(overflow)));
        assert_eq!(events.recv().await, Some(Event::Overflow(spill)));
        assert_eq!(events.try_recv(), None);
        assert_eq!(
            client.stats(),
            Stats { overflowed: 5, ..Stats::default() },
            "what is spilled comes later"
        );
        drop(client);
        assert_eq!(events.recv().await, None);
    }
}

#[tokio::test]
async fn pages_of_a_group() {
    let user = |user: &str| UserPresence {
        user: user.to_owned(),
        online: true,
        sessions: 1,
        last_seen_unix_ms: None,
        seq: 1,
    };
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, _messages, mut peer) = pair(&server, profile).await;
        let answering = async {
            // The last one is of a broker that knows no `after`.
            for (asked, users) in
                [("None", ["a", "b"]), ("Some(\"b\")", ["c", "d"]), ("Some(\"d\")", ["a", "b"])]
            {
                let got = peer.expect("presence").await;
                assert!(got.text.contains(&format!("after: {asked}")), "{}", got.text);
                let (of, users) = ("group/eng".to_owned(), users.map(user).into());
                let page = Presence { reference: got.reference, of, users, more: true };
                peer.send(&Frame::Presence(page)).await;
            }
        };
        let asking = async {
            let names = |page: &Presence| page.users.iter().map(|user| user.user.clone()).collect::<Vec<_>>();
            let page = client.presence("group/eng").await.unwrap();
            assert_eq!((names(&page), page.more), (vec!["a".to_owned(), "b".to_owned()], true));
            let page = client.presence_after("group/eng", "b").await.unwrap();
            assert_eq!((names(&page), page.more), (vec!["c".to_owned(), "d".to_owned()], true));
            let page = client.presence_after("group/eng", "d").await.unwrap();
            assert_eq!((names(&page), page.more), (vec![], false));
        };
        tokio::join!(asking, answering);
    }
}

#[tokio::test]
async fn events_that_nobody_takes_are_counted() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = pair(&server, Profile::Binary).await;
    let mut events = client.events();
    for seq in 0..1_100 {
        let change = PresenceChange { user: "bob".to_owned(), online: true, last_seen_unix_ms: None, seq };
        peer.send(&Frame::PresenceChange(change)).await;
    }
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
    assert_eq!(events.recv().await, Some(Event::Missed(76)));
    assert!(matches!(events.try_recv(), Some(Event::Presence(change)) if change.seq == 76));
}

#[tokio::test]
async fn a_receipt_comes_when_its_level_is_reached() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = pair(&server, Profile::Binary).await;
    for level in [Level::Stored, Level::Delivered] {
        let with_level = PublishOptions {
            ack: level,
            dedup: Some("d".to_owned()),
            ttl_ms: Some(1_000),
            delay_ms: 7,
            priority: 3,
            key: Some("k".to_owned()),
            exclude_self: true,
            ..options()
        };
        let receipt = client.publish("topic/a", Payload::bytes("x"), with_level).await.unwrap();
        let got = peer.expect("publish").await;
        let ack = format!("ack: {level:?}");
        for part in [
            &*ack,
            "dedup: Some(\"d\")",
            "ttl_ms: Some(1000)",
            "delay_ms: 7",
            "priority: 3",
            "exclude_self: true",
        ] {
            assert!(got.text.contains(part), "{part} {}", got.text);
        }
        peer.receipt_of(got.reference, 2, level).await;
        assert_eq!(receipt.await.unwrap().level, level);
    }
    let refused = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
    let got = peer.expect("publish").await;
    peer.refuse(got.reference, Code::NotDelivered).await;
    assert!(
        matches!(refused.await, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::NotDelivered))
    );
}

/// The value of the request's correlation id.
fn correlation(got: &Got) -> String {
    let (_, rest) = got.text.split_once(&format!("(\"{CORRELATION_ID}\", \"")).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

fn block(correlation: &str) -> Vec<u8> {
    let mut block = Vec::new();
    HeaderBlock::encode(&[(CORRELATION_ID, correlation)], &mut block).unwrap();
    block
}

async fn send_reply(peer: &mut Peer, count: u64, correlation: &str) {
    let block = block(correlation);
    let headers = HeaderBlock::from_encoded(&block);
    peer.deliver(MessageFrame { to: "user/alice", headers, payload: b"answer", ..tracked(count) }).await;
}

fn ask(client: &Client, timeout_ms: u64) -> impl Future<Output = Result<waspmq_client::Message, Error>> {
    let timeout = Duration::from_millis(timeout_ms);
    client.request("topic/a", Payload::bytes("question"), options(), timeout)
}

#[tokio::test]
async fn a_request_is_replied_to() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        let answering = async {
            let first = peer.expect("publish").await;
            let second = peer.expect("publish").await;
            assert!(first.text.contains("reply_to: Some(\"user/alice\")"), "{}", first.text);
            // The request itself, as somebody who listens to what was asked hears it, is no reply.
            let block = block(&correlation(&first));
            let headers = HeaderBlock::from_encoded(&block);
            peer.deliver(MessageFrame { headers, reply_to: Some("user/alice"), ..tracked(1) }).await;
            peer.receipt(second.reference, 1).await;
            // Before the receipt, and in the other order.
            send_reply(&mut peer, 2, &correlation(&second)).await;
            send_reply(&mut peer, 3, &correlation(&first)).await;
            (peer, first)
        };
        let (first, second, (mut peer, asked)) =
            tokio::join!(ask(&client, 5_000), ask(&client, 5_000), answering);
        assert_eq!((first.unwrap().position.offset, second.unwrap().position.offset), (3, 2));
        // Replies are acknowledged one by one: messages before them may still wait for the program.
        assert!(peer.expect("ack").await.text.contains("Ids"));
        let request = messages.recv().await.unwrap();
        assert_eq!(request.reply_to.as_deref(), Some("user/alice"));
        send_reply(&mut peer, 4, &correlation(&asked)).await;
        send_reply(&mut peer, 5, "0123456789abcdef-1").await;
        assert_eq!(messages.recv().await.unwrap().position.offset, 5, "the reply to another client");
        assert_eq!(client.stats(), Stats { late_replies: 1, ..Stats::default() });

        let receipt = client.reply(&request, Payload::bytes("answer")).await.unwrap();
        let mut got = peer.next().await.unwrap();
        while got.kind == "ack" {
            got = peer.next().await.unwrap();
        }
        assert!(got.text.contains("to: \"user/alice\""), "{}", got.text);
        assert_eq!(correlation(&got), correlation(&asked));
        peer.receipt(got.reference, 1).await;
        receipt.await.unwrap();
        let plain = waspmq_client::Message { reply_to: None, ..request };
        assert_eq!(client.reply(&plain, Payload::bytes("")).await.unwrap_err(), Error::NotARequest);
    }
}

#[tokio::test]
async fn a_request_that_fails_says_how() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = pair(&server, Profile::Binary).await;
    let refusing = async {
        let got = peer.expect("publish").await;
        peer.refuse(got.reference, Code::Forbidden).await;
    };
    let (refused, ()) = tokio::join!(ask(&client, 5_000), refusing);
    assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::Forbidden)));
    let silent = async {
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 0).await;
    };
    let (unanswered, ()) = tokio::join!(ask(&client, 30), silent);
    assert_eq!(unanswered.unwrap_err(), Error::NoReply { ms: 30 });
    let ended = async {
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 0).await;
        peer.close(4002).await;
    };
    let (unanswered, ()) = tokio::join!(ask(&client, 5_000), ended);
    assert!(matches!(unanswered, Err(Error::Closed { code: 4002, .. })), "{unanswered:?}");

    let connecting = Client::builder(server.url()).connect();
    let (made, _peer) = tokio::join!(connecting, server.welcome());
    let (nobody, _messages) = made.unwrap();
    assert_eq!(ask(&nobody, 5_000).await.unwrap_err(), Error::NoReplyAddress);
}
