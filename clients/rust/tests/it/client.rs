//! The client against a scripted peer on loopback, in both profiles where the encoding could matter.

use crate::support::{FAST, Server, message, pair};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use waspmq_client::{Backoff, Client, Code, Error, Payload, Profile, PublishOptions, Stats};

fn options() -> PublishOptions {
    PublishOptions::default()
}

#[tokio::test]
async fn connects_with_its_identity() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let client = Client::builder(server.url()).user("alice").device("phone").profile(profile);
        let peer = async {
            let mut peer = server.accept().await;
            let connect = peer.expect("connect").await;
            for part in ["alice", "phone", "batch: true"] {
                assert!(connect.text.contains(part), "{}", connect.text);
            }
            peer.refuse(None, Code::Unauthorized).await;
            peer.close(4001).await;
            peer
        };
        let (refused, _peer) = tokio::join!(client.connect(), peer);
        let Err(Error::Refused(refusal)) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.code(), Some(Code::Unauthorized));
    }
}

#[tokio::test]
async fn answers_reach_who_asked_in_any_order() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, _messages, mut peer) = pair(&server, profile).await;
        let first = client.publish("topic/a", Payload::bytes("1"), options()).await.unwrap();
        let second = client.publish("topic/a", Payload::json(&2).unwrap(), options()).await.unwrap();
        let third = client.publish("topic/a", Payload::bytes("3"), options()).await.unwrap();
        client.send("topic/b", Payload::bytes("4"), options()).await.unwrap();
        let mut references = Vec::new();
        for _ in 0..3 {
            let got = peer.expect("publish").await;
            assert!(got.text.contains("ack: Accepted"), "{}", got.text);
            references.push(got.reference);
        }
        let without = peer.expect("publish").await;
        assert_eq!(without.reference, None);
        assert!(without.text.contains("ack: None"), "{}", without.text);
        peer.receipt(references[2], 33).await;
        peer.refuse(references[1], Code::DroppedByPolicy).await;
        peer.receipt(references[0], 11).await;
        peer.refuse(None, Code::RateLimited).await;
        assert_eq!(first.await.unwrap().recipients, 11);
        assert!(
            matches!(second.await, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::DroppedByPolicy))
        );
        assert_eq!(third.await.unwrap().recipients, 33);
        let pong = async {
            peer.expect("ping").await;
            peer.send(&waspmq_protocol::server::Frame::Pong).await;
        };
        let (answered, ()) = tokio::join!(client.ping(), pong);
        answered.unwrap();
        assert_eq!(client.stats(), Stats { refused: 1, ..Stats::default() });
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_here() {
    let server = Server::start(Profile::Json).await;
    let connecting = Client::builder(server.url()).user("alice").profile(Profile::Json).connect();
    let (connected, mut peer) = tokio::join!(connecting, server.welcome_with(60_000, 1_000));
    let (client, _messages) = connected.unwrap();
    let large = client.publish("topic/a", Payload::bytes(vec![0; 1_000]), options()).await;
    assert!(matches!(large, Err(Error::TooLarge { bytes, max: 1_000 }) if bytes > 1_000), "{large:?}");
    let broken = client.publish("topic/a", Payload::json_text("{"), options()).await;
    assert!(matches!(broken, Err(Error::Encode(_))), "{broken:?}");
    client.send("topic/a", Payload::bytes("fits"), options()).await.unwrap();
    peer.expect("publish").await;
}

#[tokio::test]
async fn messages_come_once_and_in_order() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        peer.message(1, b"one").await;
        peer.message(1, b"one").await;
        let batch = [2, 3, 2, 4].map(|count| message(profile, count, b"x"));
        peer.send_batch(&batch).await;
        for count in 1..=4 {
            let message = messages.recv().await.unwrap();
            assert_eq!(message.position.offset, count);
            assert_eq!((&*message.to, message.from.as_deref()), ("topic/a", Some("bob")));
        }
        assert_eq!(client.stats().duplicates, 2);
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again_with_everything_asked_for() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        let asking = async {
            client.subscribe("topic/a.*", None).await.unwrap();
            client.subscribe("topic/b", Some("workers")).await.unwrap();
            client.subscribe("topic/gone", None).await.unwrap();
            client.join("eng").await.unwrap();
            client.unsubscribe("topic/gone", None).await.unwrap();
            client.subscribe("topic/refused", None).await.unwrap_err()
        };
        let answering = async {
            for kind in ["subscribe", "subscribe", "subscribe", "join", "unsubscribe"] {
                let got = peer.expect(kind).await;
                peer.ok(got.reference).await;
            }
            let got = peer.expect("subscribe").await;
            peer.refuse(got.reference, Code::InvalidAddress).await;
        };
        let (refused, ()) = tokio::join!(asking, answering);
        assert!(matches!(refused, Error::Refused(refusal) if refusal.code() == Some(Code::InvalidAddress)));
        peer.message(1, b"before").await;
        messages.recv().await.unwrap();
        let unanswered = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
        peer.expect("publish").await;
        drop(peer);

        let mut peer = server.welcome().await;
        assert_eq!(unanswered.await, Err(Error::ConnectionLost));
        for part in ["topic/a.*", "workers", "eng"] {
            let got = peer.next().await.unwrap();
            assert!(got.text.contains(part), "{part} {}", got.text);
            peer.ok(got.reference).await;
        }
        let later = client.publish("topic/a", Payload::bytes("y"), options()).await.unwrap();
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 1).await;
        later.await.unwrap();
        peer.message(1, b"again").await;
        peer.message(2, b"after").await;
        assert_eq!(messages.recv().await.unwrap().payload, b"after");
        assert_eq!(client.stats(), Stats { reconnects: 1, duplicates: 1, ..Stats::default() });
    }
}

#[tokio::test]
async fn what_is_not_given_back_is_not_asked_for_twice() {
    let server = Server::start(Profile::Binary).await;
    let (client, _messages, mut peer) = pair(&server, Profile::Binary).await;
    let answering = async {
        let got = peer.expect("join").await;
        peer.ok(got.reference).await;
    };
    let (joined, ()) = tokio::join!(client.join("eng"), answering);
    joined.unwrap();
    drop(peer);
    let mut peer = server.welcome().await;
    let got = peer.expect("join").await;
    peer.refuse(got.reference, Code::GroupFull).await;
    peer.close(4103).await;
    let mut peer = server.welcome().await;
    client.send("topic/a", Payload::bytes("x"), options()).await.unwrap();
    peer.expect("publish").await;
    assert_eq!(client.stats(), Stats { reconnects: 2, refused: 1, ..Stats::default() });
}

#[tokio::test]
async fn close_codes_say_whether_to_come_back() {
    let check = async |code: u16, comes_back: bool| {
        let server = Server::start(Profile::Binary).await;
        let (client, mut messages, mut peer) = pair(&server, Profile::Binary).await;
        let unanswered = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
        peer.expect("publish").await;
        peer.close(code).await;
        if comes_back {
            server.welcome().await;
            assert_eq!(unanswered.await, Err(Error::ConnectionLost), "{code}");
            return;
        }
        assert!(messages.recv().await.is_none(), "{code}");
        let ended = Error::Closed { code, reason: "reason".to_owned(), refusal: None };
        assert_eq!(unanswered.await, Err(ended.clone()));
        assert_eq!(client.send("topic/a", Payload::bytes("x"), options()).await, Err(ended.clone()));
        assert_eq!(client.ping().await, Err(ended.clone()));
        assert_eq!(client.close().await, Err(ended));
    };
    for code in [4000, 4002, 4099] {
        check(code, false).await;
    }
    for code in [4100, 4199, 1001, 3000] {
        check(code, true).await;
    }
}

#[tokio::test]
async fn goaway_waits_for_answers_and_stays_away_as_long_as_asked() {
    let server = Server::start(Profile::Json).await;
    let (client, mut messages, mut peer) = pair(&server, Profile::Json).await;
    let receipt = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
    let got = peer.expect("publish").await;
    peer.goaway(300).await;
    peer.message(1, b"late").await;
    assert_eq!(messages.recv().await.unwrap().payload, b"late");
    let queued = client.publish("topic/a", Payload::bytes("y"), options()).await.unwrap();
    let asked = Instant::now();
    peer.receipt(got.reference, 1).await;
    receipt.await.unwrap();
    peer.expect("disconnect").await;
    peer.message(2, b"later").await;
    peer.close(4100).await;
    assert_eq!(messages.recv().await.unwrap().payload, b"later");
    let mut peer = server.welcome().await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
    let got = peer.expect("publish").await;
    peer.receipt(got.reference, 2).await;
    assert_eq!(queued.await.unwrap().recipients, 2);
}

#[tokio::test]
async fn a_silent_broker_is_left() {
    let server = Server::start(Profile::Binary).await;
    let connecting = Client::builder(server.url()).user("alice").backoff(FAST).connect();
    let (connected, mut peer) = tokio::join!(connecting, server.welcome_with(20, 65_536));
    let (client, _messages) = connected.unwrap();
    peer.expect("ping").await;
    let mut second = server.welcome_with(20, 65_536).await;
    second.expect("ping").await;
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test]
async fn a_silent_broker_is_left_while_it_is_written_to() {
    let server = Server::start(Profile::Binary).await;
    let connecting = Client::builder(server.url()).user("alice").backoff(FAST).connect();
    let (connected, _unread) = tokio::join!(connecting, server.welcome_with(100, 65_536));
    let (client, _messages) = connected.unwrap();
    let flooding = async {
        loop {
            client.send("topic/a", Payload::bytes(vec![0; 60_000]), options()).await.unwrap();
        }
    };
    let coming_back = async {
        let mut second = server.welcome_with(60_000, 65_536).await;
        // What was queued goes on.
        second.expect("publish").await;
    };
    tokio::select! {
        () = flooding => {}
        came_back = tokio::time::timeout(Duration::from_secs(5), coming_back) => came_back.unwrap(),
    }
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test]
async fn a_slow_program_stops_the_reading_and_loses_nothing() {
    const COUNT: u64 = 2_000;
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = pair(&server, Profile::Binary).await;
    let sent = AtomicU64::new(0);
    let sending = async {
        let payload = vec![7; 32 * 1024];
        for count in 0..COUNT {
            peer.message(count, &payload).await;
            sent.store(count + 1, Ordering::Relaxed);
        }
    };
    let receiving = async {
        // The peer stands still for a while: every buffer between the two is full.
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = sent.load(Ordering::Relaxed);
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
        assert!(last < COUNT, "everything was read although nobody received");
        for count in 0..COUNT {
            assert_eq!(messages.recv().await.unwrap().position.offset, count);
        }
    };
    tokio::join!(sending, receiving);
    assert_eq!(client.stats(), Stats::default());
}

#[tokio::test]
async fn closing_sends_what_is_queued() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        for _ in 0..200 {
            client.send("topic/a", Payload::bytes("x"), options()).await.unwrap();
        }
        let reading = async {
            let mut publishes = 0;
            while let Some(got) = peer.next().await {
                publishes += u32::from(got.kind == "publish");
                if got.kind == "disconnect" {
                    break;
                }
            }
            peer.close(1000).await;
            publishes
        };
        let (closed, publishes) = tokio::join!(client.close(), reading);
        assert_eq!((closed, publishes), (Ok(()), 200));
        assert!(messages.recv().await.is_none());
    }
}

#[tokio::test]
async fn closing_while_reconnecting_is_quick() {
    let server = Server::start(Profile::Binary).await;
    let connecting = Client::builder(server.url())
        .user("alice")
        .backoff(Backoff { first_ms: u32::MAX, max_ms: u32::MAX })
        .connect();
    let (connected, mut peer) = tokio::join!(connecting, server.welcome());
    let (client, mut messages) = connected.unwrap();
    let unanswered = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
    peer.expect("publish").await;
    drop(peer);
    assert_eq!(unanswered.await, Err(Error::ConnectionLost));
    let begun = Instant::now();
    assert_eq!(client.close().await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(messages.recv().await.is_none());
}

#[tokio::test]
async fn no_broker_and_no_url_are_told_apart() {
    let connect = async |url: String| Client::builder(url).connect().await.unwrap_err();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect(format!("ws://{nobody}/ws")).await;
    assert!(matches!(&error, Error::Connect { url, .. } if url.contains(&nobody.to_string())), "{error}");
    for wrong in ["", "127.0.0.1:9470", "http://127.0.0.1:9470/ws", "wss:/127.0.0.1:1/ws"] {
        let error = connect(wrong.to_owned()).await;
        assert!(matches!(error, Error::Url { .. }), "{wrong:?} {error:?}");
    }
}
