//! The echo example over real sockets: against another implementation as client, and byte by byte.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

#[path = "../examples/support/echo.rs"]
mod echo;
mod support;

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use support::{FIN, close, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Runs `test` against a server of its own; both end together.
fn with_server<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::select! {
            result = echo::serve(listener) => panic!("the server ended: {result:?}"),
            () = test(address) => {}
        }
    });
}

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Everything the server says until it ends the connection in order; a reset fails.
async fn answer(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the connection ends without a reset");
    answer
}

/// What the server says after its handshake to `bytes`.
async fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[HANDSHAKE.as_bytes(), bytes].concat()).await.unwrap();
    let answer = answer(stream).await;
    let head_bytes = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    answer[head_bytes..].to_vec()
}

#[test]
fn another_implementation_gets_its_messages_back() {
    with_server(async |address| {
        let (mut client, _) =
            tokio_tungstenite::connect_async(format!("ws://{address}/any/path")).await.unwrap();
        for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
            let messages = [Message::binary(vec![0xfe; length]), Message::text("é".repeat(length / 2))];
            for message in messages {
                client.send(message.clone()).await.unwrap();
                assert_eq!(client.next().await.unwrap().unwrap(), message);
            }
        }
        client.send(Message::Ping(Bytes::from_static(b"here?"))).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"here?")));
        let goodbye = CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() };
        client.close(Some(goodbye)).await.unwrap();
        let Some(Ok(Message::Close(Some(echoed)))) = client.next().await else { panic!("no close frame") };
        assert_eq!(u16::from(echoed.code), 4001);
        assert!(client.next().await.is_none());
    });
}

/// Many messages in one write come back complete and in order.
#[test]
fn pipelined_messages() {
    with_server(async |address| {
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for i in 0..2_000u32 {
            let payload = i.to_string();
            sent.extend(frame(FIN | 1, payload.as_bytes()));
            expected.push(0x81);
            expected.push(u8::try_from(payload.len()).unwrap());
            expected.extend_from_slice(payload.as_bytes());
        }
        sent.extend(frame(FIN | 8, &close(1000, b"done")));
        expected.extend([0x88, 2, 0x03, 0xe8]);
        assert_eq!(talk(address, &sent).await, expected);
    });
}

/// A peer that writes one byte at a time, frames right behind the request included.
#[test]
fn one_byte_at_a_time() {
    with_server(async |address| {
        let frames =
            [frame(1, b"\xce"), frame(FIN | 9, b"p"), frame(FIN, b"\xba"), frame(FIN | 8, b"")].concat();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in [HANDSHAKE.as_bytes(), &frames].concat() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let answer = answer(stream).await;
        assert!(answer.ends_with(&[0x8a, 1, b'p', 0x81, 2, 0xce, 0xba, 0x88, 0]), "{answer:x?}");
    });
}

/// The peer is told why, and reads it although it had sent more than the server looked at.
#[test]
fn violations_are_answered_before_the_connection_ends() {
    with_server(async |address| {
        let cases: [(&[u8], u16); 5] = [
            (&frame(0xc1, b"x"), 1002),
            (&[0x81, 1, b'x'], 1002),
            (&frame(FIN | 1, b"\xff"), 1007),
            (&frame(FIN | 8, &[0]), 1002),
            (&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
        ];
        for (bytes, code) in cases {
            let answer = talk(address, &[bytes, &[0; 100_000]].concat()).await;
            assert_eq!((answer[0], &answer[2..4]), (0x88, &code.to_be_bytes()[..]), "{bytes:x?}");
            assert_eq!(answer.len(), 2 + usize::from(answer[1]));
        }
    });
}

#[test]
fn requests_that_are_refused() {
    with_server(async |address| {
        let wrong_version = HANDSHAKE.replace("Version: 13", "Version: 7");
        for (request, status) in
            [("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "426"), ("BAD\r\n\r\n", "400"), (&wrong_version, "426")]
        {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = String::from_utf8(answer(stream).await).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    });
}
