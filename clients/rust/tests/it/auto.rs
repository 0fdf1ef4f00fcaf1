//! `Transport::Auto`: QUIC where it works, WebSocket where it does not, and sessions that go from one to the other.

use crate::support::{FAST, Server};
use crate::udp::{Identity, UdpServer};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use waspmq_client::{Builder, Client, Error, Event, Profile, Transport};

/// The same port of TCP and of UDP.
fn sockets() -> (TcpListener, UdpSocket) {
    let both = || {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
        tcp.set_nonblocking(true).unwrap();
        Some((tcp, udp))
    };
    std::iter::repeat_with(both).take(100).flatten().next().unwrap()
}

fn plain(tcp: TcpListener) -> Server {
    Server::on(tokio::net::TcpListener::from_std(tcp).unwrap(), Profile::Binary)
}

fn websocket(tcp: TcpListener, identity: &Identity) -> Server {
    plain(tcp).with_tls(identity.config("http/1.1"))
}

/// Somebody whose handshake passes, and nothing behind it.
async fn unanswered(quic: &UdpServer) {
    drop(quic.accept().await);
}

fn client(server: &Server) -> Builder {
    Client::builder(server.url()).user("alice").backoff(FAST).transport(Transport::Auto)
}

/// Who has sent something to a socket that never answers: each attempt has a socket of its own.
fn senders(silent: &UdpSocket) -> HashSet<SocketAddr> {
    silent.set_nonblocking(true).unwrap();
    let received = std::iter::from_fn(|| silent.recv_from(&mut [0; 2_048]).ok());
    received.map(|(_, sender)| sender).collect()
}

#[tokio::test]
async fn quic_comes_first() {
    let (tcp, udp) = sockets();
    let quic = UdpServer::on(udp, Transport::Quic);
    let server = websocket(tcp, &quic.identity);
    let client = client(&server).tls_fingerprint(quic.identity.fingerprint());
    let (connected, peer) = tokio::join!(client.connect(), quic.welcome());
    let (client, _messages) = connected.unwrap();
    assert_eq!(client.transport(), Transport::Quic);
    let mut events = client.events();
    drop(peer);
    let _peer = quic.welcome().await;
    assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
    assert_eq!(client.transport(), Transport::Quic);
}

#[tokio::test]
async fn where_nothing_answers_websocket_is_used_and_remembered() {
    let (tcp, silent) = sockets();
    let identity = Identity::new();
    let server = websocket(tcp, &identity);
    let client = client(&server).tls_ca(identity.file());
    let (connected, mut peer) = tokio::join!(client.connect(), server.welcome());
    let (client, _messages) = connected.unwrap();
    assert_eq!(client.transport(), Transport::WebSocket);
    let mut events = client.events();
    let mut seen = senders(&silent);
    assert_eq!(seen.len(), 1);
    for reconnect in 1..=10 {
        drop(peer);
        peer = server.welcome().await;
        assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
        seen.extend(senders(&silent));
        assert_eq!(seen.len(), if reconnect < 10 { 1 } else { 2 }, "{reconnect}");
    }
    assert_eq!(client.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_not_used() {
    let (tcp, udp) = sockets();
    let (quic, other) = (UdpServer::on(udp, Transport::Quic), Identity::new());
    let server = websocket(tcp, &other);
    let client = client(&server).tls_fingerprint(other.fingerprint());
    let (connected, _peer, ()) = tokio::join!(client.connect(), server.welcome(), quic.failed());
    let (client, _messages) = connected.unwrap();
    assert_eq!(client.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn a_session_goes_on_over_the_other_transport() {
    let (tcp, udp) = sockets();
    let quic = UdpServer::on(udp, Transport::Quic);
    let server = websocket(tcp, &quic.identity);
    let client = client(&server).tls_fingerprint(quic.identity.fingerprint());
    let (connected, (peer, _)) = tokio::join!(client.connect(), quic.welcome_session("r-1", false));
    let (client, _messages) = connected.unwrap();
    let mut events = client.events();
    drop(peer);
    drop(quic);
    let (_peer, connect) = server.welcome_session("r-2", true).await;
    assert!(connect.text.contains("resume: Some"), "{}", connect.text);
    assert_eq!(events.recv().await, Some(Event::Reconnected { resumed: true, recovered: true }));
    assert_eq!(client.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn quic_that_brings_no_answer_gives_way_to_websocket() {
    let (tcp, udp) = sockets();
    let quic = UdpServer::on(udp, Transport::Quic);
    let server = websocket(tcp, &quic.identity);
    let client = client(&server).tls_fingerprint(quic.identity.fingerprint());
    let (connected, (), mut peer) = tokio::join!(client.connect(), unanswered(&quic), server.welcome());
    let (client, _messages) = connected.unwrap();
    let mut events = client.events();
    for _ in 0..3 {
        assert_eq!(client.transport(), Transport::WebSocket);
        drop(peer);
        peer = server.welcome().await;
        assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
    }
    assert_eq!(client.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn quic_that_worked_before_gives_way_too() {
    let (tcp, udp) = sockets();
    let quic = UdpServer::on(udp, Transport::Quic);
    let server = websocket(tcp, &quic.identity);
    let client = client(&server).tls_fingerprint(quic.identity.fingerprint());
    let (connected, peer) = tokio::join!(client.connect(), quic.welcome());
    let (client, _messages) = connected.unwrap();
    let mut events = client.events();
    drop(peer);
    let ((), _peer) = tokio::join!(unanswered(&quic), server.welcome());
    assert!(matches!(events.recv().await, Some(Event::Reconnected { .. })));
    assert_eq!(client.transport(), Transport::WebSocket);
}

/// Who names a certificate does not want to be without one because QUIC does not work.
#[tokio::test]
async fn a_certificate_that_was_named_is_not_done_without() {
    let (tcp, udp) = sockets();
    let (server, quic, other) = (plain(tcp), UdpServer::on(udp, Transport::Quic), Identity::new());
    for named in [client(&server).tls_fingerprint(other.fingerprint()), client(&server).tls_ca(other.file())]
    {
        let refused = tokio::select! {
            (refused, ()) = async { tokio::join!(named.connect(), quic.failed()) } => refused,
            _ = server.accept() => panic!("a connection without TLS"),
        };
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("fingerprint") && text.contains("use wss:// or quic://"), "{text}");
    }
    let json = client(&server).tls_ca(other.file()).profile(Profile::Json).connect().await;
    assert!(
        matches!(json.unwrap_err(), Error::Url { message, .. } if message.contains("use wss:// or quic://"))
    );
    // Who asks for plain WebSocket by its name gets it.
    let plain = Client::builder(server.url()).tls_ca(other.file());
    let (connected, _peer) = tokio::join!(plain.connect(), server.welcome());
    assert_eq!(connected.unwrap().0.transport(), Transport::WebSocket);
}

#[tokio::test]
async fn json_goes_over_websocket_alone() {
    let (tcp, silent) = sockets();
    let server = Server::on(tokio::net::TcpListener::from_std(tcp).unwrap(), Profile::Json);
    let (connected, _peer) = tokio::join!(client(&server).profile(Profile::Json).connect(), server.welcome());
    assert_eq!(connected.unwrap().0.transport(), Transport::WebSocket);
    assert!(senders(&silent).is_empty());
}

#[tokio::test]
async fn where_neither_works_both_say_why() {
    let (tcp, udp) = sockets();
    let quic = UdpServer::on(udp, Transport::Quic);
    let url = format!("wss://{}/ws", tcp.local_addr().unwrap());
    drop(tcp);
    let other = Identity::new();
    let client = Client::builder(url).transport(Transport::Auto).tls_ca(other.file());
    let (refused, ()) = tokio::join!(client.connect(), quic.failed());
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("over QUIC: the certificate is of an unknown issuer"), "{error}");
}
