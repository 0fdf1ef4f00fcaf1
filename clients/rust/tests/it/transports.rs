//! QUIC and WebTransport: what is the same as over WebSocket, and what is their own.

use crate::support::{FAST, Server, message};
use crate::udp::{Identity, UdpServer, WAYS, pair};
use std::net::TcpListener;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use tokio_tungstenite::tungstenite;
use waspmq_client::{Client, Code, Error, Event, Payload, Profile, PublishOptions, Stats, Transport};
use waspmq_protocol::server::{Close, Frame};

fn options() -> PublishOptions {
    PublishOptions::default()
}

#[tokio::test]
async fn requests_and_messages_go_both_ways() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, mut messages, mut peer) = pair(&server).await;
        assert_eq!(client.transport(), way);
        let receipt = client.publish("topic/a", Payload::bytes(vec![7; 60_000]), options()).await.unwrap();
        let got = peer.expect("publish").await;
        peer.receipt(got.reference, 3).await;
        assert_eq!(receipt.await.unwrap().recipients, 3);
        peer.message(1, b"one").await;
        peer.send_batch(&[2, 3, 2, 4].map(|count| message(Profile::Binary, count, b"x"))).await;
        // More than a window, in one message.
        peer.message(5, &vec![5; 3_000_000]).await;
        for count in 1..=5 {
            assert_eq!(messages.recv().await.unwrap().position.offset, count);
        }
        assert_eq!(client.stats(), Stats { duplicates: 1, ..Stats::default() });
        let (answered, ()) = tokio::join!(client.ping(), peer.pong());
        answered.unwrap();
    }
}

#[tokio::test]
async fn close_codes_say_whether_to_come_back() {
    for way in WAYS {
        let check = async |code: u16, comes_back: bool| {
            let server = UdpServer::start(way);
            let (client, mut messages, mut peer) = pair(&server).await;
            let unanswered = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
            peer.expect("publish").await;
            // What comes before the close is not lost.
            peer.message(1, b"last").await;
            peer.close(code).await;
            assert_eq!(messages.recv().await.unwrap().payload, b"last");
            if comes_back {
                server.welcome().await;
                assert_eq!(unanswered.await, Err(Error::ConnectionLost), "{code}");
                return;
            }
            assert!(messages.recv().await.is_none(), "{code}");
            let ended = Error::Closed { code, reason: "reason".to_owned(), refusal: None };
            assert_eq!(unanswered.await, Err(ended.clone()));
            assert_eq!(client.close().await, Err(ended));
        };
        check(4000, false).await;
        check(4099, false).await;
        for code in [4100, 4199, 1000, 0] {
            check(code, true).await;
        }
    }
}

#[tokio::test]
async fn what_the_stream_says_of_the_end_decides() {
    for way in WAYS {
        let check = async |code: u16, connection: Option<u16>| {
            let server = UdpServer::start(way);
            let (client, mut messages, mut peer) = pair(&server).await;
            peer.message(1, b"last").await;
            peer.send(&Frame::Close(Close::new(code, "reason"))).await;
            match connection {
                Some(code) => peer.close(code).await,
                // The datagram that closes the connection is lost.
                None => peer.stream().finish().await,
            }
            assert_eq!(messages.recv().await.unwrap().payload, b"last");
            if code >= 4100 {
                server.welcome().await;
                return;
            }
            let end = tokio::time::timeout(Duration::from_secs(5), messages.recv()).await;
            assert!(end.expect("the client does not come back").is_none(), "{code}");
            let ended = Error::Closed { code, reason: "reason".to_owned(), refusal: None };
            assert_eq!(client.close().await, Err(ended));
        };
        check(4002, None).await;
        check(4002, Some(0)).await;
        check(4002, Some(4100)).await;
        check(4100, None).await;
        check(4100, Some(4002)).await;
    }
}

#[tokio::test]
async fn who_is_sent_away_does_not_come_back_however_slow_its_program_is() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, messages, mut peer) = pair(&server).await;
        let unanswered = client.publish("topic/a", Payload::bytes("x"), options()).await.unwrap();
        peer.expect("publish").await;
        // More than has a place in the program's queue, which nobody reads: the word is behind them.
        for count in 1..=2_000 {
            peer.message(count, b"x").await;
        }
        peer.send(&Frame::Close(Close::new(4002, "reason"))).await;
        peer.close(4002).await;
        let writing = async {
            loop {
                _ = client.send("topic/a", Payload::bytes("y"), options()).await;
                tokio::task::yield_now().await;
            }
        };
        let answered = tokio::select! {
            answered = unanswered => answered,
            () = writing => unreachable!("it never ends"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("{way}: it was not noticed"),
        };
        let ended = Error::Closed { code: 4002, reason: "reason".to_owned(), refusal: None };
        assert_eq!(answered, Err(ended), "{way}");
        drop(messages);
    }
}

#[tokio::test]
async fn what_the_stream_says_of_a_connect_decides() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let peer = async {
            let mut peer = server.accept().await;
            peer.expect("connect").await;
            peer.send(&Frame::Close(Close::new(4003, "replaced"))).await;
            peer.stream().finish().await;
            peer
        };
        let (refused, _peer) = tokio::join!(server.client().connect(), peer);
        let expected = Error::Closed { code: 4003, reason: "replaced".to_owned(), refusal: None };
        assert_eq!(refused.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_connect_is_refused_with_a_reason() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let peer = async {
            let mut peer = server.accept().await;
            peer.expect("connect").await;
            peer.refuse(None, Code::Unauthorized).await;
            peer.close(4001).await;
            peer
        };
        let (refused, _peer) = tokio::join!(server.client().connect(), peer);
        assert!(matches!(&refused, Err(Error::Refused(it)) if it.code() == Some(Code::Unauthorized)));
        let peer = async {
            let mut peer = server.accept().await;
            peer.close(4002).await;
            peer
        };
        let (closed, _peer) = tokio::join!(server.client().connect(), peer);
        let expected = Error::Closed { code: 4002, reason: "reason".to_owned(), refusal: None };
        assert_eq!(closed.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn goodbye_is_said_and_the_brokers_close_awaited() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, mut messages, mut peer) = pair(&server).await;
        for _ in 0..200 {
            client.send("topic/a", Payload::bytes("x"), options()).await.unwrap();
        }
        let reading = async {
            let mut kinds = Vec::new();
            // The client's side of the stream ends.
            while let Some(got) = peer.next().await {
                kinds.push(got.kind);
            }
            peer.message(1, b"late").await;
            peer.close(0).await;
            kinds
        };
        let (closed, kinds) = tokio::join!(client.close(), reading);
        closed.unwrap();
        assert_eq!(kinds, [vec!["publish"; 200], vec!["disconnect"]].concat());
        assert_eq!(messages.recv().await.unwrap().payload, b"late");
        assert!(messages.recv().await.is_none());
    }
}

#[tokio::test]
async fn a_broker_that_does_not_close_is_closed_with_code_0() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, _messages, mut peer) = pair(&server).await;
        let (closed, code) = tokio::join!(client.close(), async {
            peer.expect("disconnect").await;
            peer.stream().closed().await
        });
        closed.unwrap();
        assert_eq!(code, 0);
    }
}

#[tokio::test]
async fn a_dropped_client_closes_its_connection() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (client, _messages, mut peer) = pair(&server).await;
        drop(client);
        assert_eq!(peer.stream().closed().await, 0);
    }
}

#[tokio::test]
async fn a_lost_connection_is_resumed() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let (connected, (peer, connect)) =
            tokio::join!(server.client().connect(), server.welcome_session("r-1", false));
        assert!(connect.text.contains("resume: None"), "{}", connect.text);
        let (client, _messages) = connected.unwrap();
        let mut events = client.events();
        drop(peer);
        let (_peer, connect) = server.welcome_session("r-2", true).await;
        assert!(connect.text.contains("resume: Some"), "{}", connect.text);
        assert_eq!(events.recv().await, Some(Event::Reconnected { resumed: true, recovered: true }));
        assert_eq!(client.transport(), way);
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_connection() {
    for way in WAYS {
        let server = UdpServer::start(way);
        // A length of 2^30 - 1.
        let too_long = [0xbf, 0xff, 0xff, 0xff];
        let peer = async {
            let mut peer = server.accept().await;
            peer.expect("connect").await;
            peer.stream().write_raw(&too_long).await;
            peer.stream().closed().await
        };
        let (refused, code) = tokio::join!(server.client().connect(), peer);
        assert!(refused.unwrap_err().to_string().contains("1073741823 bytes"));
        assert_eq!(code, 4000);
        let (client, _messages, mut peer) = pair(&server).await;
        let mut events = client.events();
        peer.stream().write_raw(&too_long).await;
        assert_eq!(peer.stream().closed().await, 4000);
        let _peer = server.welcome().await;
        assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
    }
}

#[tokio::test]
async fn silence_is_left_to_quic() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let accepting = async { server.accept().await.welcomed_with(20, 65_536).await };
        let (connected, mut peer) = tokio::join!(server.client().connect(), accepting);
        let (client, mut messages) = connected.unwrap();
        // Over WebSocket the third of these finds nobody, see `a_silent_broker_is_left`.
        for _ in 0..6 {
            peer.expect("ping").await;
        }
        peer.message(1, b"alive").await;
        assert_eq!(messages.recv().await.unwrap().payload, b"alive");
        assert_eq!(client.stats(), Stats::default());
    }
}

#[tokio::test]
async fn a_certificate_is_checked() {
    for way in WAYS {
        let server = UdpServer::start(way);
        let check = async |builder: waspmq_client::Builder, expected: &str| {
            let (refused, ()) = tokio::join!(builder.connect(), server.failed());
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Connect { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
        };
        let other = Identity::new();
        check(server.client().tls_fingerprint(other.fingerprint()), "another fingerprint").await;
        check(server.client().tls_ca(other.file()), "unknown issuer").await;
        let (connected, _peer) =
            tokio::join!(server.client().tls_ca(server.identity.file()).connect(), server.welcome());
        connected.unwrap();
    }
}

#[tokio::test]
async fn the_wrong_transport_is_named() {
    let quic = UdpServer::start(Transport::Quic);
    let client = quic.client().transport(Transport::WebTransport);
    let (refused, ()) = tokio::join!(client.connect(), quic.failed());
    assert!(refused.unwrap_err().to_string().contains("does not speak WebTransport here"));
    let http = UdpServer::start(Transport::WebTransport);
    let client = http.client().transport(Transport::Quic);
    let (refused, ()) = tokio::join!(client.connect(), http.failed());
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::Url { .. }) || error.to_string().contains("does not speak QUIC here"));
}

#[tokio::test]
async fn what_cannot_be_is_said_before_anything_is_sent() {
    let refused = async |url: &str, transport: Option<Transport>| {
        let builder = Client::builder(url).profile(Profile::Json);
        let builder = transport.into_iter().fold(builder, waspmq_client::Builder::transport);
        let error = builder.connect().await.unwrap_err();
        assert!(
            matches!(&error, Error::Url { message, .. } if message.contains("binary profile")),
            "{error}"
        );
    };
    refused("quic://127.0.0.1:1", None).await;
    refused("wt://127.0.0.1:1/wt", None).await;
    refused("ws://127.0.0.1:1/ws", Some(Transport::Quic)).await;
    let error = Client::builder("http://a/").connect().await.unwrap_err().to_string();
    assert!(error.contains("ws://, wss://, quic:// or wt://"), "{error}");
}

/// Every transport goes to an IPv6 address, and so does TLS with its name.
#[tokio::test]
async fn addresses_of_ipv6_have_brackets() {
    for way in WAYS {
        let server = UdpServer::on(UdpSocket::bind("[::1]:0").unwrap(), way);
        assert!(server.url().contains("[::1]:"));
        let client = server.client().tls_ca(server.identity.file());
        let (connected, _peer) = tokio::join!(client.connect(), server.welcome());
        connected.unwrap();
    }
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let server = Server::on(listener, Profile::Binary);
    assert!(server.url().starts_with("ws://[::1]:"));
    let (connected, _peer) = tokio::join!(Client::builder(server.url()).connect(), server.welcome());
    connected.unwrap();
}

/// A name may have an address of either family, and the server only one of them.
#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let server = UdpServer::start(Transport::Quic);
    let url = format!("quic://localhost:{}", server.address().port());
    let client = Client::builder(url).tls_ca(server.identity.file());
    let (connected, _peer) = tokio::join!(client.connect(), server.welcome());
    connected.unwrap();
}

#[tokio::test]
async fn wss_goes_to_ipv6() {
    let (identity, listener) = (Identity::new(), TcpListener::bind("[::1]:0").unwrap());
    let (address, config) = (listener.local_addr().unwrap(), Arc::new(identity.config("http/1.1")));
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
        #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
        let choose = |_: &tungstenite::handshake::server::Request,
                      mut response: tungstenite::handshake::server::Response| {
            let chosen = Profile::Binary.subprotocol().parse().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", chosen);
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(tls, choose).unwrap();
        // The client's `connect`; the answer is no welcome.
        assert!(socket.read().unwrap().is_binary());
    });
    let client = Client::builder(format!("wss://{address}/ws")).tls_ca(identity.file()).backoff(FAST);
    assert!(matches!(client.connect().await, Err(Error::Connect { .. })));
    serving.join().unwrap();
}
