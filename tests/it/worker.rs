//! What peers do to the worker that serves them, and to each other: floods, bursts, resets, half-closed sockets.
//!
//! Several tests stop the broker's process while peers send, and let it go on when everything is there: one
//! turn then finds all of it, whatever the machine does meanwhile. Not here: readers that are too slow.

use crate::harness::{Broker, PATIENCE, Peer};
use futures_util::SinkExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use socket2::SockRef;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::{self, Message};

/// The socket below a peer.
fn tcp(peer: &Peer) -> &tokio::net::TcpStream {
    match peer.socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream,
        _ => panic!("these tests use no TLS"),
    }
}

/// Sends each frame as a WebSocket message of its own, all with one write.
async fn send_together(peer: &mut Peer, frames: impl Iterator<Item = Value>) {
    for frame in frames {
        peer.socket.feed(Message::text(frame.to_string())).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, peer.socket.flush()).await.expect("the kernel takes it").unwrap();
}

fn offset(frame: &Value) -> u64 {
    frame["pos"].as_str().unwrap().split_once(':').unwrap().1.parse().unwrap()
}

/// The inodes of the established connections of the broker's client listener.
fn served_sockets(broker: &Broker) -> HashSet<String> {
    let port = broker.address.parse::<std::net::SocketAddr>().unwrap().port();
    let (local, established) = (format!(":{port:04X}"), "01");
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", broker.id())).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local) && row[3] == established)
        .map(|row| row[9].to_owned())
        .collect()
}

/// The inodes of the sockets that the broker has descriptors of. A reset connection leaves the kernel's table
/// at once, but its inode stays here for as long as somebody holds it. A mere count of descriptors would also
/// see those that the workers' runtimes open when they start.
fn held_sockets(broker: &Broker) -> HashSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", broker.id())).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let inode = |link: std::path::PathBuf| {
        Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    links.filter_map(inode).collect()
}

#[tokio::test]
async fn a_peer_that_resets_while_it_is_not_read_leaves_no_descriptor() {
    let broker = Broker::start();
    let bad = json!({"type": "join", "ref": 1, "group": "not a name"});
    let bad_many = vec![bad.to_string(); 100].join("\n");
    let flood = async |user: &str| {
        let mut peer = broker.connect(user).await;
        assert_eq!(peer.ask(bad.clone()).await["type"], "error");
        // Nothing moves any more when the answers fill both sockets and the broker has stopped reading.
        let stalls = Duration::from_millis(500);
        while let Ok(sent) = tokio::time::timeout(stalls, peer.socket.send(Message::text(&*bad_many))).await {
            sent.unwrap();
        }
        peer
    };
    let peers = tokio::join!(flood("a"), flood("b"), flood("c"), flood("d"));
    let served = served_sockets(&broker);
    assert_eq!(served.len(), 4, "nobody was closed for flooding");
    assert!(served.is_subset(&held_sockets(&broker)), "the broker has a descriptor of each");
    for peer in [peers.0, peers.1, peers.2, peers.3] {
        SockRef::from(tcp(&peer)).set_linger(Some(Duration::ZERO)).unwrap();
    }
    broker.eventually("every descriptor is closed", |broker| held_sockets(broker).is_disjoint(&served));
}

#[tokio::test]
async fn a_burst_from_many_publishers_reaches_a_healthy_subscriber() {
    let (publishers, each) = (32, 30);
    let body = "x".repeat(2_100); // together more than an outbound queue holds, each publisher's less than one read
    for workers in ["1", "2"] {
        let broker = Broker::start_with(&[("WASPMQ_WORKERS", workers)]);
        let mut reader = broker.connect("reader").await;
        reader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
        let mut peers = Vec::new();
        for i in 0..publishers {
            peers.push(broker.connect(&format!("p{i}")).await);
        }
        let mut last = None;
        for _ in 0..3 {
            broker.signal("STOP");
            for peer in &mut peers {
                let publish = |n| json!({"type": "publish", "to": "topic/t", "payload": [n, body]});
                send_together(peer, (0..each).map(publish)).await;
            }
            broker.signal("CONT");
            let mut next_of = HashMap::new();
            for _ in 0..publishers * each {
                let frame = reader.receive().await;
                let offset = offset(&frame);
                assert!(last.is_none_or(|last| offset == last + 1), "{offset} after {last:?}");
                last = Some(offset);
                let next = next_of.entry(frame["from"].to_string()).or_insert(0);
                assert_eq!(frame["payload"][0], json!(*next));
                *next += 1;
            }
            reader.expect_quiet().await;
        }
    }
}

/// Publishes to `topic/flood` as fast as it goes until `stop`; gives the messages sent.
fn flood(address: &str, stop: &AtomicBool) -> u64 {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = tungstenite::client(format!("ws://{address}/ws"), stream).unwrap();
    socket.send(Message::text(json!({"type": "connect", "user": "flooder"}).to_string())).unwrap();
    assert!(socket.read().unwrap().to_string().contains("welcome"));
    let text = json!({"type": "publish", "to": "topic/flood", "payload": 1}).to_string();
    // A masked text message, with a mask that changes nothing.
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    let (chunk, mut sent) = (frame.repeat(1_000), 0);
    while !stop.load(Ordering::Relaxed) {
        socket.get_mut().write_all(&chunk).unwrap();
        sent += 1_000;
    }
    sent
}

#[tokio::test]
async fn flooding_publishers_starve_nobody() {
    for has_subscriber in [false, true] {
        let broker = Broker::start_with(&[("WASPMQ_WORKERS", "1")]);
        let mut subscriber = broker.connect("subscriber").await;
        if has_subscriber {
            // It never reads, so that the flood fills its queue as well.
            subscriber.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/flood"})).await;
        }
        let mut healthy = broker.connect("healthy").await;
        let stop = Arc::new(AtomicBool::new(false));
        // Several, so that the worker always has more to read, however slow each of them is.
        let flooders = [(); 3].map(|()| {
            let (address, stop) = (broker.address.clone(), stop.clone());
            std::thread::spawn(move || flood(&address, &stop))
        });
        // The flood has begun when the broker counts what it brings.
        let accepted = "waspmq_messages_published_total{kind=\"topic\",outcome=\"accepted\"}";
        broker.eventually("the flood begins", |broker| broker.metric(accepted).is_some_and(|n| n > 10_000.0));
        let (started, mut round_trips) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(1) {
            healthy.expect_quiet().await;
            round_trips += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = flooders.into_iter().map(|flooder| flooder.join().expect("it was served")).sum();
        assert!(sent > 20_000, "{sent} messages are no flood");
        assert!(round_trips >= 5, "{round_trips} round trips in a second");
    }
}

#[tokio::test]
async fn a_half_closed_client_gets_all_its_receipts() {
    let broker = Broker::start();
    let mut peer = broker.connect("alice").await;
    broker.signal("STOP");
    let publish = |n| json!({"type": "publish", "ref": n, "to": "topic/t", "payload": n});
    send_together(&mut peer, (0..200).map(publish)).await;
    peer.socket.get_mut().shutdown().await.unwrap();
    broker.signal("CONT");
    for n in 0..200 {
        let receipt = peer.receive().await;
        assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(n)));
    }
    let after = peer.next().await;
    assert!(!matches!(after, Ok(Message::Text(_))), "{after:?}");
}

#[tokio::test]
async fn idle_members_of_a_queue_take_turns() {
    // One worker: a message is in flight until its worker has noted that it is written, which another worker's
    // publisher may look at a moment too early.
    let broker = Broker::start_with(&[("WASPMQ_WORKERS", "1")]);
    let mut members = Vec::new();
    for i in 0..3 {
        let mut member = broker.connect(&format!("m{i}")).await;
        member.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/jobs", "queue": "pool"})).await;
        members.push(member);
    }
    let mut publisher = broker.connect("publisher").await;
    for n in 0..90 {
        let publish = json!({"type": "publish", "ref": n, "to": "topic/jobs", "payload": n});
        assert_eq!(publisher.ask(publish).await["recipients"], json!(1));
        // Whoever got it has it before the next one is published, so that all members are idle again.
        let member = &mut members[n % 3];
        assert_eq!(member.receive().await["payload"], json!(n));
    }
    for member in &mut members {
        member.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_subscriber_that_is_a_queue_member_too_sees_offsets_in_order() {
    let broker = Broker::start();
    let mut both = broker.connect("both").await;
    both.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    both.ask(json!({"type": "subscribe", "ref": 2, "to": "topic/t", "queue": "pool"})).await;
    let mut publisher = broker.connect("publisher").await;
    let (messages, each) = (10, 20);
    for _ in 0..messages {
        let frames: Vec<_> = (0..each)
            .map(|n| json!({"type": "publish", "to": "topic/t", "payload": n}).to_string())
            .collect();
        publisher.socket.feed(Message::text(frames.join("\n"))).await.unwrap();
    }
    publisher.socket.flush().await.unwrap();
    let (mut plain, mut queued) = (Vec::new(), Vec::new());
    for _ in 0..2 * messages * each {
        let frame = both.receive().await;
        let offset = offset(&frame);
        if frame.get("queue").is_some() {
            queued.push(offset);
        } else {
            let ahead = queued.last().copied().unwrap_or_default();
            assert!(
                ahead <= offset,
                "the queue was at {ahead} before the plain subscription was at {offset}"
            );
            plain.push(offset);
        }
    }
    assert_eq!(plain.len(), messages * each);
    assert_eq!(plain, queued);
    assert!(plain.windows(2).all(|pair| pair[0] < pair[1]), "{plain:?}");
}

#[tokio::test]
async fn a_session_ends_at_disconnect_although_its_socket_stays_open() {
    let broker = Broker::start();
    let subscribe = json!({"type": "subscribe", "ref": 1, "to": "topic/jobs", "queue": "pool"});
    let mut other = broker.connect("other").await;
    other.ask(subscribe.clone()).await;
    let mut leaving = Vec::new();
    for _ in 0..64 {
        let mut peer = broker.connect("many").await;
        peer.ask(subscribe.clone()).await;
        leaving.push(peer);
    }
    let mut publisher = broker.connect("publisher").await;
    for peer in &mut leaving {
        peer.send(&json!({"type": "disconnect"})).await;
    }
    // The close frame is looked at, not taken: taking it would answer it and end the connection.
    let close_frame = [0x88, 2, 0x03, 0xe8];
    for peer in &leaving {
        let mut seen = [0; 64];
        let count = tokio::time::timeout(PATIENCE, tcp(peer).peek(&mut seen)).await.unwrap().unwrap();
        assert_eq!(seen[..count], close_frame);
    }
    let mut next = broker.connect("many").await; // the 65th
    for n in 0..100 {
        let publish = json!({"type": "publish", "ref": n, "to": "topic/jobs", "payload": n});
        assert_eq!(publisher.ask(publish).await["recipients"], json!(1));
        assert_eq!(other.receive().await["payload"], json!(n));
    }
    publisher.ask(json!({"type": "publish", "ref": 1, "to": "user/many", "payload": "hello"})).await;
    assert_eq!(next.receive().await["payload"], json!("hello"));
    publisher.ask(json!({"type": "publish", "ref": 1, "to": "all", "payload": "hello"})).await;
    for peer in &leaving {
        let mut seen = [0; 64];
        let count = tcp(peer).peek(&mut seen).await.unwrap();
        assert_eq!(seen[..count], close_frame, "nothing follows the close frame");
    }
}

#[test]
fn connections_that_wait_when_the_broker_leaves_are_answered_or_closed() {
    let mut broker = Broker::start_with(&[("WASPMQ_DRAIN_MS", "2000")]);
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        broker.address
    );
    // A stopped process accepts nothing: the kernel keeps all of them for it.
    broker.signal("STOP");
    let waiting: Vec<_> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(&broker.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    broker.signal("TERM");
    broker.signal("CONT");
    for (index, mut stream) in waiting.into_iter().enumerate() {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(ended.is_ok(), "connection {index}: {ended:?} after {answer:?}");
        let statuses = ["HTTP/1.1 101 ", "HTTP/1.1 503 "];
        assert!(
            answer.is_empty() || statuses.iter().any(|status| answer.starts_with(status)),
            "connection {index}: {answer:?}"
        );
    }
    assert_eq!(broker.wait().code(), Some(0));
}

#[tokio::test]
async fn a_dedup_key_counts_once_when_many_connections_use_it_at_once() {
    let broker = Broker::start();
    let mut reader = broker.connect("reader").await;
    reader.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/t"})).await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        writers.push(broker.connect("writer").await); // several, so that both workers have one
    }
    let (rounds, keys) = (50, 20);
    let mut ids: Vec<Value> = Vec::new();
    for round in 0..rounds {
        let publish = |n: usize| {
            let key = round * keys + n;
            json!({"type": "publish", "ref": n, "to": "topic/t", "payload": key, "dedup": format!("k{key}")})
        };
        broker.signal("STOP");
        for writer in &mut writers {
            send_together(writer, (0..keys).map(publish)).await;
        }
        broker.signal("CONT");
        let receipts = join_all(writers.iter_mut().map(async |writer| {
            let mut ids = Vec::new();
            for n in 0..keys {
                let receipt = writer.receive().await;
                assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(n)));
                ids.push(receipt["id"].clone());
            }
            ids
        }))
        .await;
        assert!(receipts.iter().all(|ids| *ids == receipts[0]), "round {round}: {receipts:?}");
        ids.extend(receipts.into_iter().next().unwrap());
    }
    // Behind everything else of the address, repeats included.
    writers[0].send(&json!({"type": "publish", "to": "topic/t", "payload": "end"})).await;
    let mut received = HashMap::new();
    loop {
        let frame = reader.receive().await;
        let Some(key) = frame["payload"].as_u64() else { break };
        let repeated = received.insert(usize::try_from(key).unwrap(), frame["id"].clone());
        assert_eq!(repeated, None, "key {key} arrived twice");
    }
    assert_eq!(received, ids.into_iter().enumerate().collect());
}

#[tokio::test]
async fn one_message_with_thousands_of_publishes_gets_all_receipts() {
    let broker = Broker::start();
    let mut peer = broker.connect("alice").await;
    let count = 5_000;
    let frames: Vec<_> = (0..count)
        .map(|n| json!({"type": "publish", "ref": n, "to": "topic/t", "payload": n}).to_string())
        .collect();
    peer.send_text(&frames.join("\n")).await;
    for n in 0..count {
        let receipt = peer.receive().await;
        assert_eq!((&receipt["type"], &receipt["ref"]), (&json!("receipt"), &json!(n)));
    }
    peer.expect_quiet().await;
}
