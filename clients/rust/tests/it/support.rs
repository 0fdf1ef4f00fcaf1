//! A scripted peer: a server whose every answer is written out by the test.

#[cfg(feature = "quic")]
use crate::udp::Stream as QuicStream;
use futures_util::{SinkExt, StreamExt};
use std::collections::VecDeque;
#[cfg(feature = "quic")]
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as SocketMessage;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use waspmq_client::{Backoff, Client, Content, Level, MessageId, Messages, Position, Profile};
use waspmq_core::{Code, Reject, Stream};
use waspmq_protocol::server::{Frame, Goaway, HistoryHead, MessageFrame, Receipt, Welcome};
use waspmq_protocol::{HeaderBlock, Secret, decode, encode};

pub(crate) struct Server {
    listener: TcpListener,
    profile: Profile,
    tls: Option<TlsAcceptor>,
}

/// A connection with or without TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A client frame, as far as the tests look at it.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) kind: &'static str,
    pub(crate) reference: Option<u64>,
    /// The whole frame.
    pub(crate) text: String,
}

enum Socket {
    WebSocket(Box<WebSocketStream<Box<dyn Io>>>),
    #[cfg(feature = "quic")]
    Stream(Box<QuicStream>),
}

pub(crate) struct Peer {
    socket: Socket,
    profile: Profile,
    got: VecDeque<Got>,
}

impl Server {
    pub(crate) async fn start(profile: Profile) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), profile)
    }

    pub(crate) const fn on(listener: TcpListener, profile: Profile) -> Self {
        Self { listener, profile, tls: None }
    }

    #[cfg(feature = "quic")]
    pub(crate) fn with_tls(self, config: rustls::ServerConfig) -> Self {
        Self { tls: Some(Arc::new(config).into()), ..self }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/ws", self.listener.local_addr().unwrap())
    }

    /// The next connection, before its `connect`.
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        let stream: Box<dyn Io> = match &self.tls {
            Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
            None => Box::new(stream),
        };
        let profile = self.profile;
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["sec-websocket-protocol"], profile.subprotocol());
            let chosen = profile.subprotocol().parse().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", chosen);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.unwrap();
        Peer { socket: Socket::WebSocket(Box::new(socket)), profile, got: VecDeque::new() }
    }

    /// The next connection, welcomed.
    pub(crate) async fn welcome(&self) -> Peer {
        self.welcome_with(60_000, 65_536).await
    }

    pub(crate) async fn welcome_with(&self, heartbeat_ms: u32, max_message_bytes: u32) -> Peer {
        self.accept().await.welcomed_with(heartbeat_ms, max_message_bytes).await
    }

    /// The next connection, welcomed as a session that can be resumed, and its `connect`.
    pub(crate) async fn welcome_session(&self, resume_token: &'static str, resumed: bool) -> (Peer, Got) {
        self.accept().await.welcomed_session(resume_token, resumed).await
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: "0000010000000001".to_owned(),
        resume_token: None,
        node: "aabbccdd".to_owned(),
        resumed: false,
        recovered: false,
        heartbeat_ms: 60_000,
        max_message_bytes: 65_536,
        codecs: Vec::new(),
    }
}

impl Peer {
    #[cfg(feature = "quic")]
    pub(crate) fn over(stream: QuicStream) -> Self {
        Self { socket: Socket::Stream(Box::new(stream)), profile: Profile::Binary, got: VecDeque::new() }
    }

    #[cfg(feature = "quic")]
    pub(crate) fn stream(&mut self) -> &mut QuicStream {
        let Socket::Stream(stream) = &mut self.socket else { panic!("a WebSocket") };
        stream
    }

    pub(crate) async fn welcomed_with(mut self, heartbeat_ms: u32, max_message_bytes: u32) -> Self {
        self.expect("connect").await;
        self.send(&Frame::Welcome(Welcome { heartbeat_ms, max_message_bytes, ..welcome() })).await;
        self
    }

    #[cfg(feature = "quic")]
    pub(crate) async fn send_welcome(&mut self, max_message_bytes: u32) {
        self.send(&Frame::Welcome(Welcome { max_message_bytes, ..welcome() })).await;
    }

    pub(crate) async fn welcomed_session(mut self, resume_token: &'static str, resumed: bool) -> (Self, Got) {
        let connect = self.expect("connect").await;
        let resume_token = Some(Secret::new(resume_token));
        let recovered = resumed;
        self.send(&Frame::Welcome(Welcome { resume_token, resumed, recovered, ..welcome() })).await;
        (self, connect)
    }

    /// The next message; `None` when the client has gone.
    async fn read(&mut self) -> Option<Vec<u8>> {
        match &mut self.socket {
            Socket::WebSocket(socket) => loop {
                let message = socket.next().await?.ok()?;
                if message.is_text() || message.is_binary() {
                    return Some(message.into_data().into());
                }
            },
            #[cfg(feature = "quic")]
            Socket::Stream(stream) => stream.read().await,
        }
    }

    /// The next frame; `None` when the client has gone.
    pub(crate) async fn next(&mut self) -> Option<Got> {
        while self.got.is_empty() {
            let data = tokio::time::timeout(Duration::from_secs(5), self.read()).await.unwrap()?;
            let frames: Vec<_> = match self.profile {
                Profile::Json => decode::json_frames(&data).collect(),
                Profile::Binary => decode::binary_frames(&data).collect(),
            };
            self.got.extend(frames.into_iter().map(|frame| {
                let frame = frame.unwrap();
                Got { kind: frame.type_name(), reference: frame.reference(), text: format!("{frame:?}") }
            }));
        }
        self.got.pop_front()
    }

    pub(crate) async fn expect(&mut self, kind: &str) -> Got {
        let got = self.next().await.unwrap();
        assert_eq!(got.kind, kind, "{}", got.text);
        got
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        encode::control(self.profile, frame, &mut bytes);
        self.send_bytes(bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        match (&mut self.socket, self.profile) {
            (Socket::WebSocket(socket), Profile::Json) => {
                socket.send(SocketMessage::text(String::from_utf8(bytes).unwrap())).await.unwrap();
            }
            (Socket::WebSocket(socket), Profile::Binary) => {
                socket.send(SocketMessage::binary(bytes)).await.unwrap();
            }
            #[cfg(feature = "quic")]
            (Socket::Stream(stream), _) => stream.write(&bytes).await,
        }
    }

    /// Several frames in one message.
    pub(crate) async fn send_batch(&mut self, frames: &[Vec<u8>]) {
        let separator: &[u8] = if self.profile == Profile::Json { b"\n" } else { b"" };
        self.send_bytes(frames.join(separator)).await;
    }

    pub(crate) async fn message(&mut self, count: u64, payload: &[u8]) {
        self.send_bytes(message(self.profile, count, payload)).await;
    }

    pub(crate) async fn deliver(&mut self, frame: MessageFrame<'_>) {
        let mut bytes = Vec::new();
        encode::message(self.profile, &frame, &mut bytes);
        self.send_bytes(bytes).await;
    }

    pub(crate) async fn history(&mut self, head: HistoryHead<'_>, messages: &[MessageFrame<'_>]) {
        let mut bytes = Vec::new();
        encode::history(self.profile, &head, messages.iter().copied(), &mut bytes);
        self.send_bytes(bytes).await;
    }

    /// The next frame is a ping: whatever the client had to send before it was sent.
    pub(crate) async fn pong(&mut self) {
        self.expect("ping").await;
        self.send(&Frame::Pong).await;
    }

    pub(crate) async fn expect_ok(&mut self, kind: &str) -> Got {
        let got = self.expect(kind).await;
        self.ok(got.reference).await;
        got
    }

    pub(crate) async fn ok(&mut self, reference: Option<u64>) {
        self.send(&Frame::Ok { reference }).await;
    }

    pub(crate) async fn refuse(&mut self, reference: Option<u64>, code: Code) {
        self.send(&Frame::Error { reference, reject: Reject::new(code, "because") }).await;
    }

    pub(crate) async fn receipt(&mut self, reference: Option<u64>, recipients: u32) {
        self.receipt_of(reference, recipients, Level::Accepted).await;
    }

    pub(crate) async fn receipt_of(&mut self, reference: Option<u64>, recipients: u32, level: Level) {
        let id = MessageId::new(1, 1, 1, 1);
        let receipt = Receipt { reference: reference.unwrap(), id, level, recipients };
        self.send(&Frame::Receipt(receipt)).await;
    }

    pub(crate) async fn goaway(&mut self, reconnect_ms: u32) {
        self.send(&Frame::Goaway(Goaway { reason: "drain".to_owned(), reconnect_ms })).await;
    }

    pub(crate) async fn close(&mut self, code: u16) {
        match &mut self.socket {
            Socket::WebSocket(socket) => {
                let frame = CloseFrame { code: code.into(), reason: "reason".into() };
                socket.as_mut().close(Some(frame)).await.unwrap();
            }
            #[cfg(feature = "quic")]
            Socket::Stream(stream) => stream.close(code.into(), "reason").await,
        }
    }
}

pub(crate) fn message(profile: Profile, count: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::message(profile, &MessageFrame { payload, wants_ack: false, ..tracked(count) }, &mut bytes);
    bytes
}

/// A message to `topic/a` that wants to be acknowledged.
pub(crate) fn tracked(count: u64) -> MessageFrame<'static> {
    MessageFrame {
        id: MessageId::new(1, 1, 1, count),
        to: "topic/a",
        from: Some("bob"),
        position: Position { stream: Stream { shard: 1, epoch: 1 }, offset: count },
        content: Content::Bytes,
        payload: b"x",
        packed: None,
        headers: HeaderBlock::EMPTY,
        key: None,
        priority: 0,
        reply_to: None,
        queue: None,
        attempt: None,
        wants_ack: true,
        unix_ms: 1,
    }
}

/// Reconnects at once.
pub(crate) const FAST: Backoff = Backoff { first_ms: 1, max_ms: 5 };

/// A connected client and its peer.
pub(crate) async fn pair(server: &Server, profile: Profile) -> (Client, Messages, Peer) {
    let connecting = Client::builder(server.url()).user("alice").profile(profile).backoff(FAST).connect();
    let (connected, peer) = tokio::join!(connecting, server.welcome());
    let (client, messages) = connected.unwrap();
    (client, messages, peer)
}
