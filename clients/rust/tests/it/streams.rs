//! Streams of their own for long messages, in both directions.

use crate::support::{Peer, Server, message};
use crate::udp::{UdpServer, WAYS, pair, read, with_length};
use quinn::{TransportConfig, VarInt};
use std::cell::Cell;
use std::net::UdpSocket;
use std::time::Duration;
use waspmq_client::{
    Client, Error, Event, Messages, Payload, PendingReceipt, Profile, PublishOptions, Stats, Transport,
};
use waspmq_protocol::client::Frame;
use waspmq_protocol::decode;
use web_transport_quinn::{RecvStream, SendStream};

/// What one stream of the peer may carry before it is read.
const WINDOW: usize = 64 * 1024;
/// A publish that does not fit it.
const LONG: usize = 300_000;

fn options() -> PublishOptions {
    PublishOptions::default()
}

fn own(count: u64, payload: &[u8]) -> Vec<u8> {
    with_length(&message(Profile::Binary, count, payload))
}

/// A client that asked for streams, and its peer.
async fn asking(server: &UdpServer) -> (Client, Messages, Peer) {
    let accepting = async {
        let mut peer = server.accept().await;
        let connect = peer.expect("connect").await;
        assert!(connect.text.contains("streams: true"), "{}", connect.text);
        peer.send_welcome(2_000_000).await;
        peer
    };
    let (connected, peer) = tokio::join!(server.client().streams().connect(), accepting);
    let (client, messages) = connected.unwrap();
    (client, messages, peer)
}

/// A peer that leaves long streams standing until they are read.
fn narrow(way: Transport) -> UdpServer {
    let mut windows = TransportConfig::default();
    windows.stream_receive_window(VarInt::from_u32(WINDOW.try_into().unwrap()));
    UdpServer::with(UdpSocket::bind("127.0.0.1:0").unwrap(), way, windows)
}

async fn opened(peer: &mut Peer) -> SendStream {
    peer.stream().session.open_uni().await.unwrap()
}

async fn accepted(peer: &mut Peer) -> RecvStream {
    let accepting = peer.stream().session.accept_uni();
    tokio::time::timeout(Duration::from_secs(5), accepting).await.unwrap().unwrap()
}

/// The one publish of a stream: its reference, and of what and how much its payload is.
async fn published(stream: &mut RecvStream) -> (Option<u64>, Vec<u8>) {
    let reading = tokio::time::timeout(Duration::from_secs(5), read(stream));
    let bytes = reading.await.unwrap().unwrap();
    let mut rest = [0];
    assert_eq!(stream.read(&mut rest).await.unwrap(), None, "one message, and the end");
    let frames: Vec<_> = decode::binary_frames(&bytes).collect::<Result<_, _>>().unwrap();
    let [Frame::Publish(publish)] = &*frames else { panic!("{frames:?}") };
    (publish.reference, publish.payload.to_vec())
}

async fn publish(client: &Client, byte: u8, length: usize) -> PendingReceipt {
    client.publish("topic/a", Payload::bytes(vec![byte; length]), options()).await.unwrap()
}

#[tokio::test]
async fn messages_come_beside_the_main_stream_and_beside_each_other() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, mut messages, mut peer) = asking(&server).await;
        let long: Vec<_> = (1..=3).map(|count| own(count, &vec![1; 200_000])).collect();
        let mut streams = Vec::new();
        for bytes in &long {
            let mut stream = opened(&mut peer).await;
            stream.write_all(&bytes[..100_000]).await.unwrap();
            streams.push(stream);
        }
        // What is on the main stream passes them.
        peer.message(4, b"short").await;
        assert_eq!(messages.recv().await.unwrap().payload, b"short");
        for at in [2, 0, 1] {
            streams[at].write_all(&long[at][100_000..]).await.unwrap();
            streams[at].finish().unwrap();
            let got = messages.recv().await.unwrap();
            assert_eq!((got.position.offset, got.payload.len()), (at as u64 + 1, 200_000));
        }
        // More, one after the other, than may be open at a time.
        for count in 5..=60 {
            let mut stream = opened(&mut peer).await;
            stream.write_all(&own(count, b"x")).await.unwrap();
            stream.finish().unwrap();
        }
        let mut counts = Vec::new();
        for _ in 5..=60 {
            counts.push(messages.recv().await.unwrap().position.offset);
        }
        counts.sort_unstable();
        assert_eq!(counts, (5..=60).collect::<Vec<_>>());
        assert_eq!(client.stats(), Stats::default());
    }
}

#[tokio::test]
async fn what_comes_before_the_welcome_is_not_lost() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let accepting = async {
            let mut peer = server.accept().await;
            peer.expect("connect").await;
            for count in 1..=2 {
                let mut stream = opened(&mut peer).await;
                stream.write_all(&own(count, &[1; 20_000])).await.unwrap();
                stream.finish().unwrap();
                // The client's machine has it.
                stream.stopped().await.unwrap();
            }
            peer.send_welcome(65_536).await;
            peer
        };
        let (connected, _peer) = tokio::join!(server.client().streams().connect(), accepting);
        let (_client, mut messages) = connected.unwrap();
        let mut counts = Vec::new();
        for _ in 1..=2 {
            let received = tokio::time::timeout(Duration::from_secs(5), messages.recv()).await;
            counts.push(received.unwrap().unwrap().position.offset);
        }
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
    }
}

#[tokio::test]
async fn a_message_that_breaks_off_is_dropped_without_a_word() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, mut messages, mut peer) = asking(&server).await;
        let bytes = own(1, &[1; 20_000]);
        let mut reset = opened(&mut peer).await;
        reset.write_all(&bytes[..10_000]).await.unwrap();
        let mut cut = opened(&mut peer).await;
        cut.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        let mut empty = opened(&mut peer).await;
        reset.reset(7).unwrap();
        for stream in [&mut cut, &mut empty] {
            stream.finish().unwrap();
        }
        // As many again as there may be at a time: none of these has kept its place.
        for count in 2..=40 {
            let mut stream = opened(&mut peer).await;
            stream.write_all(&own(count, b"x")).await.unwrap();
            stream.finish().unwrap();
            assert_eq!(messages.recv().await.unwrap().position.offset, count);
        }
        peer.message(50, b"last").await;
        assert_eq!(messages.recv().await.unwrap().payload, b"last");
        assert_eq!(client.stats(), Stats::default());
    }
}

#[tokio::test]
async fn what_is_not_one_message_of_the_bound_ends_the_connection() {
    for way in WAYS {
        let too_long = vec![0xbf, 0xff, 0xff, 0xff];
        let two = [own(1, b"x"), own(2, b"x")].concat();
        for wrong in [too_long, two] {
            let server = UdpServer::start(way);
            let (client, _messages, mut peer) = asking(&server).await;
            let mut events = client.events();
            let mut stream = opened(&mut peer).await;
            stream.write_all(&wrong).await.unwrap();
            assert_eq!(peer.stream().closed().await, 4000);
            let _peer = server.welcome().await;
            assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
        }
    }
}

#[tokio::test]
async fn what_came_before_the_end_counts() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, mut messages, mut peer) = asking(&server).await;
        let mut stream = opened(&mut peer).await;
        let bytes = own(1, &[1; 100_000]);
        stream.write_all(&bytes[..50_000]).await.unwrap();
        // The main stream is over first.
        peer.stream().finish().await;
        stream.write_all(&bytes[50_000..]).await.unwrap();
        stream.finish().unwrap();
        stream.stopped().await.unwrap();
        peer.stream().session.close(4002, b"reason");
        assert_eq!(messages.recv().await.unwrap().payload.len(), 100_000);
        assert!(messages.recv().await.is_none());
        assert!(matches!(client.close().await, Err(Error::Closed { code: 4002, .. })));
    }
}

#[tokio::test]
async fn who_did_not_ask_has_one_stream() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, _messages, mut peer) = pair(&server).await;
        let receipt = publish(&client, 1, 60_000).await;
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 1).await;
        receipt.await.unwrap();
        if way == Transport::Quic {
            let opening = tokio::time::timeout(Duration::ZERO, peer.stream().session.open_uni());
            assert!(opening.await.is_err(), "none is allowed");
        }
    }
}

#[tokio::test]
async fn over_websocket_it_has_no_effect() {
    for profile in [Profile::Json, Profile::Binary] {
        let server = Server::start(profile).await;
        let connecting = Client::builder(server.url()).user("alice").profile(profile).streams().connect();
        let (connected, mut peer) = tokio::join!(connecting, server.welcome());
        let (client, _messages) = connected.unwrap();
        let receipt = publish(&client, 1, 40_000).await;
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 1).await;
        assert_eq!(receipt.await.unwrap().recipients, 1);
    }
}

#[tokio::test]
async fn publishes_that_stand_are_passed_by_others() {
    for way in WAYS {
        let server = narrow(way);
        let (client, _messages, mut peer) = asking(&server).await;
        let mut receipts = Vec::new();
        for byte in 1..=4 {
            receipts.push(publish(&client, byte, LONG).await);
        }
        // Nobody reads the four.
        client.send("topic/a", Payload::bytes("short"), options()).await.unwrap();
        assert_eq!(peer.expect("publish").await.reference, None);
        let (answered, ()) = tokio::join!(client.ping(), peer.pong());
        answered.unwrap();
        // The fifth finds as many under way as there may be.
        receipts.push(publish(&client, 5, LONG).await);
        let fifth = peer.expect("publish").await;
        peer.receipt(fifth.reference, 5).await;
        let mut bytes = Vec::new();
        for _ in 1..=4 {
            let mut stream = accepted(&mut peer).await;
            let (reference, payload) = published(&mut stream).await;
            assert!(payload.len() == LONG && payload.iter().all(|&byte| byte == payload[0]));
            bytes.push(payload[0]);
            peer.receipt(reference, payload[0].into()).await;
        }
        bytes.sort_unstable();
        assert_eq!(bytes, [1, 2, 3, 4]);
        for (receipt, recipients) in receipts.into_iter().zip(1..) {
            assert_eq!(receipt.await.unwrap().recipients, recipients);
        }
        // There is room again, for what has no receipt, too.
        client.send("topic/a", Payload::bytes(vec![6; LONG]), options()).await.unwrap();
        let mut stream = accepted(&mut peer).await;
        assert_eq!(published(&mut stream).await, (None, vec![6; LONG]));
    }
}

#[tokio::test]
async fn the_bound_is_of_the_encoded_frame() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, _messages, mut peer) = asking(&server).await;
        // Without a reference, a publish to `topic/a` is 21 bytes longer than its payload.
        client.send("topic/a", Payload::bytes(vec![1; 16 * 1024 - 22]), options()).await.unwrap();
        peer.expect("publish").await;
        client.send("topic/a", Payload::bytes(vec![2; 16 * 1024 - 21]), options()).await.unwrap();
        let mut stream = accepted(&mut peer).await;
        assert_eq!(published(&mut stream).await.1[0], 2);
    }
}

#[tokio::test]
async fn a_publish_goes_on_while_the_main_stream_stands() {
    for way in WAYS {
        let server = narrow(way);
        let (client, _messages, mut peer) = asking(&server).await;
        let _receipt = publish(&client, 1, LONG).await;
        let mut stream = accepted(&mut peer).await;
        // More than the main stream and the queue in front of it take: the last one waits.
        let standing = async {
            for _ in 0..1_000 {
                client.send("topic/a", Payload::bytes(vec![2; 10_000]), options()).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            (_, payload) = published(&mut stream) => assert_eq!(payload.len(), LONG),
            () = standing => panic!("{way}: nothing stands"),
        }
    }
}

#[tokio::test]
async fn where_no_stream_is_allowed_everything_goes_on_the_main_one() {
    for way in WAYS {
        let mut windows = TransportConfig::default();
        // HTTP/3 has one for its settings.
        windows.max_concurrent_uni_streams(u8::from(way == Transport::WebTransport).into());
        let server = UdpServer::with(UdpSocket::bind("127.0.0.1:0").unwrap(), way, windows);
        let (client, _messages, mut peer) = asking(&server).await;
        for _ in 0..3 {
            let receipt = publish(&client, 1, LONG).await;
            let got = peer.expect("publish").await;
            peer.receipt(got.reference, 1).await;
            receipt.await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_goodbye_waits_for_what_is_under_way() {
    for way in WAYS {
        let server = narrow(way);
        let (client, _messages, mut peer) = asking(&server).await;
        for byte in 1..=3 {
            client.send("topic/a", Payload::bytes(vec![byte; LONG]), options()).await.unwrap();
        }
        let (closed, bytes) = tokio::join!(client.close(), async {
            let mut streams = Vec::new();
            for _ in 0..3 {
                streams.push(accepted(&mut peer).await);
            }
            let taken = Cell::new(0);
            let taking = async {
                let mut bytes = Vec::new();
                for stream in &mut streams {
                    bytes.push(published(stream).await.1[0]);
                    taken.set(taken.get() + 1);
                }
                bytes.sort_unstable();
                bytes
            };
            let goodbye = async {
                peer.expect("disconnect").await;
                assert!(taken.get() >= 2, "the others are behind at most one that has its end in its window");
            };
            let (bytes, ()) = tokio::join!(taking, goodbye);
            peer.close(0).await;
            bytes
        });
        closed.unwrap();
        assert_eq!(bytes, [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_lost_connection_ends_what_is_under_way() {
    for way in WAYS {
        let server = narrow(way);
        let (client, _messages, mut peer) = asking(&server).await;
        let receipt = publish(&client, 1, LONG).await;
        let mut stream = accepted(&mut peer).await;
        let mut some = [0; 1_000];
        stream.read_exact(&mut some).await.unwrap();
        drop(peer);
        assert_eq!(receipt.await, Err(Error::ConnectionLost));
        let mut peer = server.welcome().await;
        client.send("topic/a", Payload::bytes("again"), options()).await.unwrap();
        peer.expect("publish").await;
    }
}

/// What is given up is not taken for a whole message. WebTransport closes its session before the connection; without it, nothing comes
/// behind a close.
#[tokio::test]
async fn a_dropped_client_leaves_no_message_that_looks_whole() {
    let server = narrow(Transport::WebTransport);
    // Whether the end of the stream or of the session is seen first is open.
    for _ in 0..20 {
        let (client, _messages, mut peer) = asking(&server).await;
        client.send("topic/a", Payload::bytes(vec![1; LONG]), options()).await.unwrap();
        let mut stream = accepted(&mut peer).await;
        let mut some = [0; 1_000];
        stream.read_exact(&mut some).await.unwrap();
        drop(client);
        stream.read_to_end(LONG).await.unwrap_err();
    }
}
