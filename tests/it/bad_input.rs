//! Everything a peer can get wrong has a stable answer and disturbs nobody else.

use crate::harness::Broker;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

over_every_transport!(refused_frames_leave_the_session_alive,);

async fn refused_frames_leave_the_session_alive(profile: &'static str) {
    let broker = Broker::start().speaking(profile);
    let mut peer = broker.connect("alice").await;
    let long = "x".repeat(300);
    let deep = format!(
        r#"{{"type":"publish","ref":1,"to":"user/b","payload":{}1{}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let cases: Vec<(String, u16)> = vec![
        ("nonsense".into(), 1400),
        ("[]".into(), 1400),
        ("{}".into(), 1400),
        (r#"{"type":"publish","to":"user/b"}"#.into(), 1400),
        (r#"{"type":"publish","ref":1,"to":"user/b","payload":1,"priority":12}"#.into(), 1400),
        (r#"{"type":"frobnicate"}"#.into(), 1405),
        (r#"{"type":"publish","ref":1,"to":"nowhere","payload":1}"#.into(), 1410),
        (r#"{"type":"publish","ref":1,"to":"topic/a.*","payload":1}"#.into(), 1410),
        (format!(r#"{{"type":"publish","ref":1,"to":"user/{long}","payload":1}}"#), 1410),
        (format!(r#"{{"type":"join","ref":1,"group":"{long}"}}"#), 1411),
        (r#"{"type":"subscribe","ref":1,"to":"topic/a","queue":"a b"}"#.into(), 1411),
        (r#"{"type":"publish","ref":1,"to":"user/b","payload":"\ud800"}"#.into(), 1412),
        (deep, 1412),
        (r#"{"type":"subscribe","ref":1,"to":"user/bob"}"#.into(), 1403),
        (r#"{"type":"subscribe","ref":1,"to":"group/secret"}"#.into(), 1403),
        (r#"{"type":"unsubscribe","ref":1,"to":"topic/never"}"#.into(), 1404),
        (r#"{"type":"leave","ref":1,"group":"never"}"#.into(), 1404),
        (r#"{"type":"publish","ref":1,"to":"topic/none","payload":1,"ack":"delivered"}"#.into(), 1510),
        (r#"{"type":"publish","ref":1,"to":"user/b","payload":1,"delay_ms":999999999999}"#.into(), 1400),
        (r#"{"type":"history","ref":1,"of":"group/a"}"#.into(), 1403),
        (r#"{"type":"history","ref":1,"of":"user/other"}"#.into(), 1403),
        (r#"{"type":"ack","ref":1,"ids":["00000000000000000000000000000001"]}"#.into(), 1430),
        (r#"{"type":"nack","ref":1,"id":"00000000000000000000000000000001"}"#.into(), 1430),
        (r#"{"type":"presence","ref":1,"of":"group/a"}"#.into(), 1403),
        (r#"{"type":"subscribe","ref":1,"to":"topic/a","from":"sideways"}"#.into(), 1400),
    ];
    let mut sent = 0;
    for (text, code) in cases {
        // What is no frame can be said in text only.
        if !peer.send_if_it_can_be(&text).await {
            continue;
        }
        sent += 1;
        let error = peer.receive().await;
        assert_eq!(error["code"], json!(code), "{} -> {error}", &text[..text.len().min(120)]);
    }
    assert!(sent >= 12, "{sent}");
    peer.expect_quiet().await;
}

#[tokio::test]
async fn frames_before_connect_close_the_connection() {
    let broker = Broker::start();
    let mut peer = broker.open(None).await;
    peer.send(&json!({"type": "publish", "to": "all", "payload": 1})).await;
    peer.expect_error(1406).await;
    assert_eq!(peer.expect_close().await, 4000);
    let mut twice = broker.connect("alice").await;
    twice.send(&json!({"type": "connect", "user": "alice"})).await;
    twice.expect_error(1407).await;
    assert_eq!(twice.expect_close().await, 4000);
}

/// What is wrong with a `connect` is told, as nobody could mend it otherwise.
#[tokio::test]
async fn a_connect_that_is_wrong_is_told_what_is_wrong() {
    let broker = Broker::start();
    let positions = vec!["\"s1e1:1\""; 1_025].join(",");
    let resume =
        format!(r#"{{"type":"connect","user":"a","resume":{{"token":"t","positions":[{positions}]}}}}"#);
    for (text, names) in [
        (r#"{"type":"connect","user":1}"#, "user"),
        (r#"{"type":"connect","user":"a","batch":"yes"}"#, "batch"),
        (r#"{"type":"connect","user":"a","ref":"x"}"#, "u64"),
        (r#"{"type":"connect","user":"a","resume":{"token":"t","positions":["x"]}}"#, "positions"),
        (&resume, "positions"),
    ] {
        let mut peer = broker.open(None).await;
        peer.send_text(text).await;
        let error = peer.expect_error(1400).await;
        assert!(error["message"].as_str().unwrap().contains(names), "{error}");
        assert_eq!(peer.expect_close().await, 4000, "{text}");
    }
    let mut binary = broker.open(Some("waspmq.v1.bin")).await;
    futures_util::SinkExt::send(&mut binary.socket, Message::binary(vec![1, 1, 2, 0, 0, 0, 1, 9]))
        .await
        .unwrap();
    let Ok(Message::Binary(error)) = binary.next().await else { panic!("an error frame") };
    let text = String::from_utf8_lossy(&error);
    assert!(text.contains("body") && !text.contains("not_connected"), "{text}");
    assert_eq!(binary.expect_close().await, 4000);
    // What is no frame is told so, without the broker's own words for it.
    let mut peer = broker.connect("alice").await;
    for text in ["[]", "5", "nonsense"] {
        peer.send_text(text).await;
        assert_eq!(peer.expect_error(1400).await["message"], "a frame is a JSON object");
    }
    let both = json!({"type": "ack", "ref": 1, "to": "topic/a", "upto": "s1e1:1", "queue": "q"});
    peer.send(&both).await;
    peer.expect_error(1400).await;
    peer.send(&json!({"type": "history", "ref": 1, "of": "topic/a.*"})).await;
    let error = peer.expect_error(1410).await;
    assert!(!error["message"].as_str().unwrap().contains("publishing"), "{error}");
}

#[tokio::test]
async fn a_text_that_is_not_utf8_is_told_so() {
    use tokio::io::AsyncWriteExt;
    let broker = Broker::start();
    let mut peer = broker.connect("alice").await;
    // A text frame with a mask of zeros and one byte that is none.
    let frame = [0x81, 0x81, 0, 0, 0, 0, 0xff];
    peer.socket.get_mut().write_all(&frame).await.unwrap();
    peer.expect_error(1415).await;
    assert_eq!(peer.expect_close().await, 1007);
}

#[tokio::test]
async fn the_wrong_profile_and_garbage_are_told_apart() {
    let broker = Broker::start();
    let mut json = broker.connect("alice").await;
    futures_util::SinkExt::send(&mut json.socket, Message::binary(vec![1, 2, 3])).await.unwrap();
    json.expect_error(1415).await;
    assert_eq!(json.expect_close().await, 4000);
    let mut binary = broker.open(Some("waspmq.v1.bin")).await;
    futures_util::SinkExt::send(&mut binary.socket, Message::binary(vec![0xff; 64])).await.unwrap();
    let Ok(Message::Binary(error)) = binary.next().await else { panic!("an error frame") };
    assert_eq!(error[0], 0x85);
    assert_eq!(binary.expect_close().await, 4000);
}

#[tokio::test]
async fn an_oversize_frame_is_refused_from_its_header() {
    let broker = Broker::start();
    let mut witness = broker.connect("bob").await;
    let mut peer = broker.connect("alice").await;
    let large = json!({"type": "publish", "to": "user/bob", "payload": "x".repeat(1_100_000)}).to_string();
    // The broker may close while the rest is still being sent.
    _ = futures_util::SinkExt::send(&mut peer.socket, Message::text(large)).await;
    peer.expect_error(1413).await;
    assert_eq!(peer.expect_close().await, 4000);
    witness.expect_quiet().await;
}

#[tokio::test]
async fn the_largest_message_passes_and_raw_newlines_become_spaces() {
    let broker = Broker::start();
    let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
    let text = "x".repeat(1_048_576 - 64);
    alice.send_text(&format!(r#"{{"type":"publish","to":"user/bob","payload":"{text}"}}"#)).await;
    assert_eq!(bob.receive().await["payload"], json!(text));
    alice.send_text("{\"type\":\"publish\",\"to\":\"user/bob\",\"payload\":{\"a\":\r\n[1,\n2]}}").await;
    let Ok(Message::Text(raw)) = bob.next().await else { panic!("a frame") };
    assert!(!raw.contains('\n') && raw.contains(r#"{"a":  [1, 2]}"#), "{raw}");
}

#[tokio::test]
async fn ten_thousand_subscriptions_stop_at_the_limit() {
    let broker = Broker::start();
    let mut peer = broker.connect("alice").await;
    let batch: Vec<_> = (0..10_000)
        .map(|i| json!({"type": "subscribe", "ref": i, "to": format!("topic/t{i}.*")}).to_string())
        .collect();
    for part in batch.chunks(1_000) {
        peer.send_text(&part.join("\n")).await;
    }
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..10_000 {
        match peer.receive().await["code"].as_u64() {
            None => accepted += 1,
            Some(1420) => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    assert_eq!((accepted, refused), (1_000, 9_000));
    peer.expect_quiet().await;
}
