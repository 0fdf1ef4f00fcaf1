//! WebSocket messages that a client compresses (RFC 7692).

use crate::harness::{Broker, Peer};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use waspmq_transport::websocket::{Deflater, Opcode};

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What is compressed of a payload, without the frame around it.
fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Deflater::new(6).write_frame(Opcode::Text, plain, &mut frame);
    let header_bytes = match frame[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    frame.split_off(header_bytes)
}

/// Sends a frame whose message is compressed, or the first part of one.
async fn send_compressed(peer: &mut Peer, payload: Vec<u8>, kind: Data, is_final: bool) {
    let mut frame = Frame::message(payload, OpCode::Data(kind), is_final);
    frame.header_mut().rsv1 = kind != Data::Continue;
    // The broker may close while the rest is still being sent.
    _ = peer.socket.send(Message::Frame(frame)).await;
}

async fn say(peer: &mut Peer, frame: &Value) {
    send_compressed(peer, deflated(frame.to_string().as_bytes()), Data::Text, true).await;
}

async fn connect(broker: &Broker, user: &str) -> Peer {
    let (mut peer, answer) = broker.open_with(Some("waspmq.v1.json"), Some("permessage-deflate")).await;
    assert_eq!(answer.as_deref(), Some(ANSWER));
    say(&mut peer, &json!({"type": "connect", "user": user})).await;
    assert_eq!(peer.receive().await["type"], "welcome");
    peer
}

fn bytes(broker: &Broker, side: &str) -> f64 {
    broker.metric(&format!(r#"waspmq_compression_bytes_total{{codec="deflate",side="{side}"}}"#)).unwrap()
}

#[tokio::test]
async fn compressed_and_plain_messages_are_taken_alike() {
    let broker = Broker::start();
    let mut bob = broker.connect("bob").await;
    let mut alice = connect(&broker, "alice").await;
    let (wire, plain) = (bytes(&broker, "wire_in"), bytes(&broker, "plain_in"));
    alice.send(&json!({"type": "publish", "to": "user/bob", "payload": "plain"})).await;
    assert_eq!(bob.receive().await["payload"], "plain");
    assert_eq!(bytes(&broker, "wire_in"), wire, "a plain message is not counted");

    let text = "all work and no play ".repeat(2_000);
    let publish = json!({"type": "publish", "to": "user/bob", "payload": text}).to_string();
    let compressed = deflated(publish.as_bytes());
    let lengths = (compressed.len(), publish.len());
    send_compressed(&mut alice, compressed, Data::Text, true).await;
    assert_eq!(bob.receive().await["payload"], json!(text));
    assert_eq!(bytes(&broker, "wire_in") - wire, lengths.0 as f64);
    assert_eq!(bytes(&broker, "plain_in") - plain, lengths.1 as f64);

    // In three fragments, with a ping between them.
    let compressed = deflated(publish.as_bytes());
    let (first, rest) = compressed.split_at(7);
    let (middle, last) = rest.split_at(40);
    send_compressed(&mut alice, first.to_vec(), Data::Text, false).await;
    alice.socket.send(Message::Ping("p".into())).await.unwrap();
    send_compressed(&mut alice, middle.to_vec(), Data::Continue, false).await;
    send_compressed(&mut alice, last.to_vec(), Data::Continue, true).await;
    assert_eq!(bob.receive().await["payload"], json!(text));
    alice.expect_quiet().await;
}

#[tokio::test]
async fn what_one_read_brings_is_handled_whatever_it_inflates_to() {
    const MESSAGES: usize = 12;
    // Bob reads when all of it is sent.
    let broker = Broker::start_with_config("[limits]\noutbound_bytes_max = 8388608\n");
    let mut bob = broker.connect("bob").await;
    let mut alice = connect(&broker, "alice").await;
    // A few kilobytes in one write, more than three megabytes of messages, and nothing behind them.
    for number in 0..MESSAGES {
        let payload = format!("{number} {}", "all work and no play ".repeat(15_000));
        let publish = json!({"type": "publish", "to": "user/bob", "payload": payload}).to_string();
        let mut frame = Frame::message(deflated(publish.as_bytes()), OpCode::Data(Data::Text), true);
        frame.header_mut().rsv1 = true;
        alice.socket.feed(Message::Frame(frame)).await.unwrap();
    }
    alice.socket.flush().await.unwrap();
    for number in 0..MESSAGES {
        let payload = bob.receive().await["payload"].as_str().unwrap().to_owned();
        assert!(payload.starts_with(&format!("{number} all work")), "{}", &payload[..20]);
    }
}

#[tokio::test]
async fn a_bomb_is_refused_and_disturbs_nobody() {
    let broker = Broker::start();
    let mut bob = broker.connect("bob").await;
    let mut alice = connect(&broker, "alice").await;
    // 16 MiB in 16 KiB.
    let block = [&deflated(&vec![b' '; 1 << 20])[..], &[0, 0, 0xff, 0xff]].concat();
    send_compressed(&mut alice, block.repeat(16), Data::Text, true).await;
    alice.expect_error(1413).await;
    assert_eq!(alice.expect_close().await, 4000);
    // Who has no session yet may send less, compressed or not.
    let (mut stranger, _) = broker.open_with(None, Some("permessage-deflate")).await;
    send_compressed(&mut stranger, deflated(&vec![b' '; 1 << 20]), Data::Text, true).await;
    stranger.expect_error(1413).await;
    assert_eq!(stranger.expect_close().await, 4000);
    bob.expect_quiet().await;
}

#[tokio::test]
async fn broken_compression_ends_the_connection() {
    let broker = Broker::start();
    for (payload, error) in [(vec![0xff; 20], None), (deflated(b"\xff\xfe"), Some(1415))] {
        let mut alice = connect(&broker, "alice").await;
        send_compressed(&mut alice, payload, Data::Text, true).await;
        if let Some(code) = error {
            alice.expect_error(code).await;
        }
        assert_eq!(alice.expect_close().await, 1007);
    }
    // The bit without the extension.
    let (mut plain, answer) = broker.open_with(None, None).await;
    assert_eq!(answer, None);
    say(&mut plain, &json!({"type": "ping"})).await;
    assert_eq!(plain.expect_close().await, 1002);
}

#[tokio::test]
async fn an_offer_is_declined_where_it_cannot_be_taken_or_is_switched_off() {
    let broker = Broker::start();
    let small_window = "permessage-deflate; server_max_window_bits=9";
    assert_eq!(broker.open_with(None, Some(small_window)).await.1, None);
    let less_memory = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12";
    let answer = broker.open_with(None, Some(less_memory)).await.1;
    assert_eq!(answer, Some(format!("{ANSWER}; server_max_window_bits=12")));

    let broker = Broker::start_with(&[("WASPMQ_COMPRESSION__PERMESSAGE_DEFLATE", "false")]);
    let (mut peer, answer) = broker.open_with(None, Some("permessage-deflate")).await;
    assert_eq!(answer, None);
    peer.send(&json!({"type": "connect", "user": "alice"})).await;
    assert_eq!(peer.receive().await["type"], "welcome");
    say(&mut peer, &json!({"type": "ping"})).await;
    assert_eq!(peer.expect_close().await, 1002);
}
