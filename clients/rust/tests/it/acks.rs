//! Acknowledging: by the library, by the program, and of repeats.

use crate::support::{FAST, Peer, Server, message, pair, tracked};
use std::time::Duration;
use waspmq_client::{Client, Code, Error, Messages, Profile, Stats};
use waspmq_protocol::server::MessageFrame;

/// Everything that was sent is in the client's queue afterwards, and the client had nothing to say.
async fn settle(client: &Client, peer: &mut Peer) {
    let (answered, ()) = tokio::join!(client.ping(), peer.pong());
    answered.unwrap();
}

fn take(messages: &mut Messages, count: usize) {
    for _ in 0..count {
        assert!(messages.try_recv().is_some());
    }
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_once_per_address_and_queue() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        for count in 1..=100 {
            peer.deliver(tracked(count)).await;
        }
        peer.deliver(MessageFrame { to: "topic/b", ..tracked(101) }).await;
        for count in 102..=103 {
            peer.deliver(MessageFrame { queue: Some("workers"), ..tracked(count) }).await;
        }
        peer.message(104, b"not tracked").await;
        settle(&client, &mut peer).await;
        take(&mut messages, 104);
        for part in [
            "UpTo { to: \"topic/a\", upto: Position { stream: Stream { shard: 1, epoch: 1 }, offset: 100 } }",
            "UpTo { to: \"topic/b\", upto: Position { stream: Stream { shard: 1, epoch: 1 }, offset: 101 } }",
            "queue: Some(\"workers\")",
        ] {
            let ack = peer.expect("ack").await;
            assert!(ack.text.contains(part), "{part} {}", ack.text);
            assert_eq!(ack.text.matches("MessageId").count(), 2 * usize::from(part.contains("workers")));
        }
        settle(&client, &mut peer).await;
        assert_eq!(client.stats(), Stats::default());
    }
}

#[tokio::test]
async fn acknowledgements_go_along_with_requests() {
    let server = Server::start(Profile::Json).await;
    let (client, mut messages, mut peer) = pair(&server, Profile::Json).await;
    peer.deliver(tracked(1)).await;
    settle(&client, &mut peer).await;
    take(&mut messages, 1);
    let asking = async {
        peer.expect("ack").await;
        peer.pong().await;
    };
    let (answered, ()) = tokio::join!(client.ping(), asking);
    answered.unwrap();
}

#[tokio::test]
async fn repeats_are_acknowledged_again_once_the_first_one_was() {
    for profile in Profile::ALL {
        let server = Server::start(profile).await;
        let (client, mut messages, mut peer) = pair(&server, profile).await;
        peer.deliver(tracked(1)).await;
        peer.deliver(MessageFrame { attempt: Some(2), ..tracked(1) }).await;
        settle(&client, &mut peer).await;
        take(&mut messages, 1);
        assert!(messages.try_recv().is_none());
        assert!(peer.expect("ack").await.text.contains("UpTo"));
        peer.deliver(MessageFrame { attempt: Some(3), ..tracked(1) }).await;
        assert!(peer.expect("ack").await.text.contains("Ids([MessageId"));
        // A repeat whose first delivery never came is a message, and does not vouch for what came before it.
        peer.deliver(MessageFrame { attempt: Some(2), ..tracked(7) }).await;
        messages.recv().await.unwrap();
        assert!(peer.expect("ack").await.text.contains("Ids([MessageId"));
        assert_eq!(client.stats(), Stats { duplicates: 2, ..Stats::default() });
    }
}

#[tokio::test]
async fn a_program_may_acknowledge_and_give_back_by_itself() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = manual(&server).await;
    for count in 1..=3 {
        peer.deliver(MessageFrame { queue: Some("workers"), ..tracked(count) }).await;
    }
    let first = messages.recv().await.unwrap();
    let second = messages.recv().await.unwrap();
    let third = messages.recv().await.unwrap();
    settle(&client, &mut peer).await;
    client.ack(&third);
    client.ack(&first);
    let ack = peer.expect("ack").await;
    assert!(ack.text.contains("workers") && ack.text.matches("MessageId").count() == 2, "{}", ack.text);
    // Still worked on: the repeat is dropped, and not acknowledged.
    peer.deliver(MessageFrame { queue: Some("workers"), attempt: Some(2), ..tracked(2) }).await;
    settle(&client, &mut peer).await;
    let giving = async {
        let nack = peer.expect("nack").await;
        for part in ["busy", "Some(500)", "workers"] {
            assert!(nack.text.contains(part), "{}", nack.text);
        }
        peer.deliver(MessageFrame { queue: Some("workers"), attempt: Some(3), ..tracked(2) }).await;
        peer.ok(nack.reference).await;
    };
    let retry = Some(Duration::from_millis(500));
    let (given, ()) = tokio::join!(client.nack(&second, Some("busy"), retry), giving);
    given.unwrap();
    assert_eq!(messages.recv().await.unwrap().attempt, Some(3));
    let refusing = async {
        let nack = peer.expect("nack").await;
        peer.refuse(nack.reference, Code::NotInFlight).await;
    };
    let (refused, ()) = tokio::join!(client.nack(&first, None, None), refusing);
    assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code() == Some(Code::NotInFlight)));
    peer.refuse(None, Code::NotInFlight).await;
    settle(&client, &mut peer).await;
    assert_eq!(client.stats(), Stats { duplicates: 1, late_acks: 1, ..Stats::default() });
}

/// A client that leaves acknowledging to the program.
async fn manual(server: &Server) -> (Client, Messages, Peer) {
    let connecting = Client::builder(server.url()).user("alice").manual_acks().backoff(FAST).connect();
    let (connected, peer) = tokio::join!(connecting, server.welcome());
    let (client, messages) = connected.unwrap();
    (client, messages, peer)
}

#[tokio::test]
async fn a_program_that_goes_in_order_acknowledges_by_position() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = manual(&server).await;
    for count in 1..=3 {
        peer.deliver(tracked(count)).await;
    }
    // It came behind what a position is about, and waits for its turn.
    peer.deliver(MessageFrame { attempt: Some(2), ..tracked(0) }).await;
    settle(&client, &mut peer).await;
    for _ in 0..2 {
        client.ack_in_order(&messages.try_recv().unwrap());
    }
    assert!(peer.expect("ack").await.text.contains("Ids([MessageId"), "the position would cover the repeat");
    let (third, repeat) = (messages.try_recv().unwrap(), messages.try_recv().unwrap());
    client.ack_in_order(&repeat);
    assert!(peer.expect("ack").await.text.contains("Ids([MessageId"));
    client.ack_in_order(&third);
    assert!(peer.expect("ack").await.text.contains("offset: 3"));
    settle(&client, &mut peer).await;
}

#[tokio::test]
async fn what_is_passed_over_is_left_to_others_as_long_as_there_is_room() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = manual(&server).await;
    let own = |count| MessageFrame { to: "user/alice", ..tracked(count) };
    for count in 0..1_024 {
        peer.deliver(own(count)).await;
        client.pass_over(&messages.recv().await.unwrap());
    }
    peer.deliver(MessageFrame { attempt: Some(2), ..own(1_023) }).await;
    peer.deliver(tracked(2_000)).await;
    client.ack_in_order(&messages.recv().await.unwrap());
    assert!(peer.expect("ack").await.text.contains("offset: 2000"), "nothing is said of the others");
    peer.deliver(own(1_024)).await;
    client.pass_over(&messages.recv().await.unwrap());
    let nack = peer.expect("nack").await;
    assert!(nack.text.contains(&format!("{:?}", own(0).id)), "the oldest one: {}", nack.text);
    // Its answer is of no interest.
    peer.refuse(None, Code::NotInFlight).await;
    settle(&client, &mut peer).await;
    assert_eq!(client.stats(), Stats { duplicates: 1, late_acks: 1, ..Stats::default() });
}

#[tokio::test]
async fn closing_says_what_was_taken() {
    let server = Server::start(Profile::Binary).await;
    let (client, mut messages, mut peer) = pair(&server, Profile::Binary).await;
    peer.send_batch(&[message(Profile::Binary, 1, b"plain")]).await;
    peer.deliver(tracked(2)).await;
    settle(&client, &mut peer).await;
    take(&mut messages, 2);
    let reading = async {
        peer.expect("ack").await;
        peer.expect("disconnect").await;
        peer.close(1000).await;
    };
    let (closed, ()) = tokio::join!(client.close(), reading);
    closed.unwrap();
}
