//! Sessions that go on while their old connection is still there, on either of two workers.

use super::*;
use crate::admin::tests::control;
use crate::resumes::{Record, hash};
use crate::worker::delivery::tests::Bench;
use crate::worker::lifecycle::tests::{Socket, Workers};
use crate::worker::resume::tests::record;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;
use waspmq_core::registry::LoginPolicy;
use waspmq_core::settings::{Keep, Overflow};
use waspmq_protocol::Secret;
use waspmq_protocol::client::{Connect, Resume};

async fn frame(socket: &mut Socket) -> Value {
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("the connection ended") };
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn what_the_old_connection_was_still_to_be_sent_comes_by_the_new_one() {
    let workers = Workers::of(control(), LoginPolicy::Coexist);
    let (mut publisher, _) = workers.connect("publisher").await;
    // On which worker a connection comes is the kernel's choice: both are among so many.
    for round in 0..16 {
        let user = format!("user{round}");
        for payload in 1..=6 {
            let to = format!("user/{user}");
            let publish =
                json!({"type": "publish", "ref": payload, "to": to, "payload": payload, "ack": "stored"});
            publisher.send(Message::text(publish.to_string())).await.unwrap();
            assert_eq!(frame(&mut publisher).await["type"], "receipt");
        }
        let (mut old, welcome) = workers.connect(&user).await;
        let mut seen = Value::Null;
        for payload in 1..=3 {
            let message = frame(&mut old).await;
            assert_eq!(message["payload"], payload, "{message}");
            seen = message["pos"].clone();
        }
        let resume = json!({"token": welcome["resume_token"], "positions": [seen]});
        let (mut new, welcome) = workers.begin(json!({"user": user, "resume": resume})).await;
        assert_eq!((&welcome["resumed"], &welcome["recovered"]), (&json!(true), &json!(true)), "{welcome}");
        // Nothing was acknowledged, so that the first three may come again.
        let mut found = Vec::new();
        while found.last() != Some(&6) {
            found.extend(frame(&mut new).await["payload"].as_u64());
        }
        assert!(found.ends_with(&[4, 5, 6]), "{found:?}");
    }
}

#[tokio::test]
async fn what_a_lost_connection_brought_is_acknowledged_by_the_next_one() {
    let workers = Workers::of(control(), LoginPolicy::Coexist);
    let (mut publisher, _) = workers.connect("publisher").await;
    for round in 0..16 {
        let (user, to) = (format!("user{round}"), format!("topic/patient.{round}"));
        let (mut old, mut welcome) = workers.connect(&user).await;
        old.send(Message::text(json!({"type": "subscribe", "to": to}).to_string())).await.unwrap();
        assert_eq!(frame(&mut old).await["type"], "ok");
        let publish = json!({"type": "publish", "ref": round, "to": to, "payload": 1, "ack": "delivered"});
        publisher.send(Message::text(publish.to_string())).await.unwrap();
        let message = frame(&mut old).await;
        // By the connection after the next.
        let mut old = Some(old);
        for is_live in [true, false] {
            if !is_live {
                drop(old.take());
            }
            let resume = json!({"token": welcome["resume_token"], "positions": [message["pos"]]});
            let (new, next) = workers.begin(json!({"user": user, "resume": resume})).await;
            assert_eq!(next["resumed"], true, "{next}");
            (old, welcome) = (Some(new), next);
        }
        // A session that does not go on from it was not sent it.
        let (other, _) = workers.connect(&user).await;
        let ack = match round % 2 {
            0 => json!({"type": "ack", "ref": 1, "ids": [message["id"]]}),
            _ => json!({"type": "ack", "ref": 1, "to": to, "upto": message["pos"]}),
        };
        for (mut socket, expected) in [(other, "error"), (old.unwrap(), "ok")] {
            socket.send(Message::text(ack.to_string())).await.unwrap();
            let answer = frame(&mut socket).await;
            assert_eq!(answer["type"], expected, "{answer}");
        }
        let receipt = frame(&mut publisher).await;
        assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(round)), "{receipt}");
        assert_eq!(receipt["level"], "delivered");
    }
    assert_eq!(workers.counted(|counters| counters.redeliveries.load()), 0);
}

/// A worker, and how a client asks for a session that another worker has.
fn asking() -> (Bench, Connect<'static>) {
    let bench = Bench::new(Overflow::DropOldest, Keep::Never);
    let live = Record { left_unix_ms: None, worker: 1, ..record(Vec::new()) };
    assert!(bench.worker.shared.resumes.insert(hash("a token"), live, 0));
    let resume = Resume { token: Secret::new("a token"), positions: Vec::new() };
    (bench, Connect { user: Some("alice".into()), resume: Some(resume), ..Connect::default() })
}

#[test]
fn a_late_answer_is_none_to_a_later_question() {
    let (mut bench, connect) = asking();
    let asked = bench.worker.shared.clock.now();
    let (number, _client) = bench.open();
    let mut connection = bench.worker.connections[number as usize].take().unwrap();
    // The second is of another client that got the same place.
    let [first, second] = [(); 2].map(|()| {
        connection.takeover = None;
        bench.worker.connect(&mut connection, &connect, asked).unwrap();
        connection.takeover.as_ref().unwrap().ticket
    });
    bench.worker.put_back(number, connection);
    for (ticket, is_answered) in [(first, false), (second, true)] {
        bench.worker.handle_written_down(Taker { worker: 0, number, ticket });
        let asked = bench.connection(number).takeover.as_ref().unwrap();
        assert_eq!(asked.is_answered, is_answered);
    }
}

#[test]
fn no_answer_is_waited_for_longer_than_a_connection_may_take() {
    for (connect_timeout_us, expected) in [(100_000, 100_000), (60_000_000, ANSWER_WAIT_US)] {
        let (mut bench, connect) = asking();
        let shared = Arc::get_mut(&mut bench.worker.shared).unwrap();
        shared.settings.connect_timeout_us = connect_timeout_us;
        let (number, _client) = bench.open();
        let mut connection = bench.worker.connections[number as usize].take().unwrap();
        let asked = bench.worker.shared.clock.now();
        bench.worker.connect(&mut connection, &connect, asked).unwrap();
        assert_eq!(connection.holder_wait(asked.us), Some(Duration::from_micros(expected)));
        bench.worker.put_back(number, connection);
    }
}

#[test]
fn a_session_whose_worker_does_not_answer_stays_there() {
    let (mut bench, connect) = asking();
    let token = hash("a token");
    let session = record(Vec::new()).session;
    let asked = bench.worker.shared.clock.now();
    for (is_answered, waited_us) in [(false, ANSWER_WAIT_US), (true, 1)] {
        let (number, _client) = bench.open();
        let mut connection = bench.worker.connections[number as usize].take().unwrap();
        bench.worker.connect(&mut connection, &connect, asked).unwrap();
        assert!(connection.awaits_holder() && connection.session_id.is_none());
        let ticket = connection.takeover.as_ref().unwrap().ticket;
        bench.worker.put_back(number, connection);
        if is_answered {
            bench.worker.handle_written_down(Taker { worker: 0, number, ticket });
        }
        let mut connection = bench.worker.connections[number as usize].take().unwrap();
        let later = Moment { us: asked.us + waited_us, ..asked };
        bench.worker.connect(&mut connection, &connect, later).unwrap();
        assert!(!connection.awaits_holder() && connection.session_id.is_some());
        let is_live = Some(Holder::Live { session, worker: 1 });
        let holder = bench.worker.shared.resumes.holder(&token, asked.unix_ms);
        assert_eq!(holder, is_live.filter(|_| !is_answered));
        bench.worker.put_back(number, connection);
    }
}
