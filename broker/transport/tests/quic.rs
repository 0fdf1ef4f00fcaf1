//! A listener of QUIC and quinn's own client.

#![expect(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use waspmq_transport::quic::{Channel, Listener, OpenError, Opened, Protocol, Secret, Sent, Windows};
use waspmq_transport::tls::{Credentials, SelfSigned, self_signed};
use web_transport_quinn::{http, proto};

const WINDOWS: Windows =
    Windows { receive_bytes: 64 * 1024, send_bytes: 16 * 1024, idle: Duration::from_secs(20) };

struct Bench {
    made: SelfSigned,
    listener: Listener,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "the client looks at the dates of the certificate")]
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let made = self_signed(&["localhost".to_owned()], now).unwrap();
        let listener = listen(&made, (Ipv4Addr::LOCALHOST, 0).into());
        Self { made, listener }
    }

    fn client(&self, alpn: &[u8]) -> Endpoint {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.made.certificate_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = QuicClientConfig::try_from(tls).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        endpoint
    }

    /// A client with its stream, of which the first byte is `!`, and the listener's side.
    async fn open(&self) -> (Endpoint, quinn::Connection, quinn::SendStream, quinn::RecvStream, Channel) {
        let endpoint = self.client(b"waspmq/1");
        let connecting = endpoint.connect(self.listener.local_addr().unwrap(), "localhost").unwrap();
        let accepting = async { serve(&self.listener).await };
        let connecting = async {
            let connection = connecting.await.unwrap();
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(b"!").await.unwrap();
            (connection, send, receive)
        };
        let (Opened { channel, protocol }, (connection, send, receive)) = tokio::join!(accepting, connecting);
        assert_eq!(protocol, Protocol::Quic);
        (endpoint, connection, send, receive, channel)
    }
}

fn listen(made: &SelfSigned, address: SocketAddr) -> Listener {
    let socket = UdpSocket::bind(address).unwrap();
    let credentials =
        Credentials::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    Listener::new(socket, (&credentials, &Secret([7; 32])), WINDOWS).unwrap()
}

async fn serve(listener: &Listener) -> Opened {
    let mut connected = listener.accept().await.unwrap().connect().await.unwrap();
    connected.open(|_| Ok(())).await.unwrap()
}

/// Reads until there are so many bytes, or the stream ends.
async fn read(channel: &Channel, most: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    while all.len() < most {
        match channel.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => channel.readable().await,
            Err(error) => panic!("{error}"),
        }
    }
    all
}

#[tokio::test]
async fn bytes_go_both_ways_and_the_end_is_seen() {
    let bench = Bench::new();
    let (_endpoint, connection, mut send, mut receive, channel) = bench.open().await;
    let sent: Vec<u8> = (0..=250).cycle().take(200_000).collect();
    let (_, received) = tokio::join!(
        async {
            send.write_all(&sent).await.unwrap();
            send.finish().unwrap();
        },
        read(&channel, usize::MAX)
    );
    assert!(received[1..] == sent);
    // Far more than the window: it has to block, and to tell when it does not any more.
    let mut blocked = 0;
    let write = async {
        let mut rest = &sent[..];
        while !rest.is_empty() {
            match channel.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked += 1;
                    channel.writable().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        channel.finish(4_100, "draining").await;
    };
    let (_, received) = tokio::join!(write, receive.read_to_end(usize::MAX));
    assert!(received.unwrap() == sent);
    assert!(blocked > 0);
    let ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!("it is closed") };
    assert_eq!((close.error_code.into_inner(), &*close.reason), (4_100, &b"draining"[..]));
    assert!(channel.try_write(b"more").is_err(), "it was finished");
}

#[tokio::test]
async fn what_is_lost_is_seen_by_who_reads() {
    let bench = Bench::new();
    let (_endpoint, connection, _send, _receive, channel) = bench.open().await;
    assert_eq!(read(&channel, 1).await, b"!");
    connection.close(7_u32.into(), b"");
    let mut buffer = [0; 16];
    loop {
        match channel.try_read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => channel.readable().await,
            Err(_) => break,
            Ok(count) => panic!("{count} bytes"),
        }
    }
}

#[test]
fn connections_of_the_run_before_are_told_that_they_are_over() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, client) = (runtime(), runtime());
    let (bench, address) = first.block_on(async {
        let bench = Bench::new();
        let address = bench.listener.local_addr().unwrap();
        (bench, address)
    });
    let endpoint = client.block_on(async { bench.client(b"waspmq/1") });
    let accepting = std::thread::spawn(move || {
        first.block_on(async {
            let opened = serve(&bench.listener).await;
            assert_eq!(read(&opened.channel, 1).await, b"!");
        });
        // As a crash: the runtime stops before anything can be said.
        first.shutdown_background();
        bench.made
    });
    let (connection, mut send) = client.block_on(async {
        let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(b"!").await.unwrap();
        while !accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        (connection, send)
    });
    let made = accepting.join().unwrap();
    let ended = client.block_on(async {
        let _listener = listen(&made, address);
        _ = send.write_all(b"still there?").await;
        connection.closed().await
    });
    assert!(matches!(ended, ConnectionError::Reset), "{ended}");
}

#[tokio::test]
async fn a_page_is_asked_about_and_may_be_turned_away() {
    let bench = Bench::new();
    let endpoint = bench.client(b"h3");
    let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
    let accepting = async {
        let incoming = bench.listener.accept().await.unwrap();
        let mut connected = incoming.connect().await.unwrap();
        connected
            .open(|page| {
                assert_eq!((page.path, page.authority, page.origin), ("/wt", "broker.example:9470", None));
                Err(403)
            })
            .await
    };
    let connecting = async {
        let request = url::Url::parse("https://broker.example:9470/wt").unwrap();
        web_transport_quinn::Session::connect(connecting.await.unwrap(), request).await.err().unwrap()
    };
    let (opened, error) = tokio::join!(
        async { tokio::time::timeout(Duration::from_secs(20), accepting).await.expect("in time") },
        connecting
    );
    assert!(matches!(opened, Err(OpenError::Refused(403))), "{opened:?}");
    assert!(error.to_string().contains("403"), "{error}");
}

#[tokio::test]
async fn who_waits_to_write_hears_of_the_end() {
    let bench = Bench::new();
    for is_finished in [true, false] {
        let (_endpoint, _connection, _send, _receive, channel) = bench.open().await;
        while channel.try_write(&[0; 8 * 1024]).is_ok() {}
        let end = async {
            if is_finished {
                // The peer reads nothing, so that this does not come to its end.
                drop(tokio::time::timeout(Duration::from_millis(1), channel.finish(0, "")).await);
            } else {
                channel.close(0, "");
            }
        };
        let wait = tokio::time::timeout(Duration::from_secs(20), channel.writable());
        let (waited, ()) = tokio::join!(wait, end);
        waited.unwrap();
        assert!(channel.try_write(b"more").is_err());
    }
}

#[tokio::test]
async fn what_is_shared_is_held_and_not_copied_until_the_peer_has_it() {
    let bench = Bench::new();
    let (_endpoint, _connection, _send, mut receive, channel) = bench.open().await;
    let window = WINDOWS.send_bytes as usize;
    let own = Bytes::from_static(b"before ");
    let shared = Bytes::from((0..=250).cycle().take(3 * window).collect::<Vec<u8>>());
    let wanted = [&own[..], &shared].concat();
    let mut chunks = [own, shared.clone()];
    let written = channel.try_write_chunks(&mut chunks).unwrap();
    // The window ends within the second: what was taken is gone, and the rest is still the same memory.
    assert_eq!((written, chunks[0].len()), (window, 0));
    assert_eq!(chunks[1].as_ptr(), shared[window - 7..].as_ptr());
    let blocked = channel.try_write_chunks(&mut chunks).unwrap_err();
    assert_eq!((blocked.kind(), chunks[1].len()), (ErrorKind::WouldBlock, 2 * window + 7));
    let write = async {
        while !chunks[1].is_empty() {
            match channel.try_write_chunks(&mut chunks) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => channel.writable().await,
                Err(error) => panic!("{error}"),
            }
        }
        // Whoever holds it now is the connection.
        chunks.fill(Bytes::new());
        assert!(!shared.is_unique(), "the peer has not acknowledged the last of it");
        channel.finish(0, "").await;
    };
    let ((), received) = tokio::join!(write, receive.read_to_end(usize::MAX));
    assert!(received.unwrap() == wanted);
    assert!(shared.is_unique(), "nothing is kept of what the peer has");
}

#[tokio::test]
async fn a_browser_is_written_shared_memory_too() {
    let bench = Bench::new();
    let endpoint = bench.client(b"h3");
    let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
    let browsing = async {
        let browser = Browser::ask(connecting).await;
        let (send, receive) = browser.stream().await;
        (browser, send, receive)
    };
    let (opened, (_browser, _send, mut receive)) =
        in_time(async { tokio::join!(serve(&bench.listener), browsing) }).await;
    let shared = Bytes::from(vec![7; 2_000]);
    assert_eq!(opened.channel.try_write_chunks(&mut [shared.clone()]).unwrap(), 2_000);
    assert!(!shared.is_unique());
    let mut received = vec![0; 2_000];
    in_time(receive.read_exact(&mut received)).await.unwrap();
    assert!(received == shared);
}

/// What a browser has open besides its session's stream. HTTP/3 calls the control stream critical: a browser that is told to
/// stop sending on it takes the connection for broken, whatever else was said.
struct Browser {
    connection: quinn::Connection,
    control: quinn::SendStream,
    _connect: quinn::SendStream,
    answers: quinn::RecvStream,
    status: http::StatusCode,
}

impl Browser {
    async fn ask(connecting: quinn::Connecting) -> Self {
        let connection = connecting.await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        let mut settings = proto::Settings::default();
        settings.enable_webtransport(1);
        settings.write(&mut control).await.unwrap();
        let (mut connect, mut answers) = connection.open_bi().await.unwrap();
        let request = url::Url::parse("https://localhost:9470/wt").unwrap();
        proto::ConnectRequest::new(request).write(&mut connect).await.unwrap();
        let status = match proto::ConnectResponse::read(&mut answers).await {
            Ok(answer) => answer.status,
            Err(proto::ConnectError::WrongStatus(Some(status))) => status,
            Err(error) => panic!("{error}"),
        };
        Self { connection, control, _connect: connect, answers, status }
    }

    /// The session's stream, with the first byte `!`.
    async fn stream(&self) -> (quinn::SendStream, quinn::RecvStream) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        // The frame type that makes it one of WebTransport, and the number of the request's stream.
        send.write_all(&[0x40, 0x41, 0, b'!']).await.unwrap();
        (send, receive)
    }

    /// Closes the connection, and tells whether it was asked to stop its control stream before.
    async fn was_stopped(self) -> bool {
        self.connection.close(0_u32.into(), b"");
        self.control.stopped().await.is_ok()
    }
}

#[tokio::test]
async fn who_brings_no_stream_is_told_why_but_for_browsers() {
    let bench = Bench::new();
    for (protocol, code, reason) in [(&b"waspmq/1"[..], 4_102, "connect_timeout"), (b"h3", 0x100, "")] {
        let endpoint = bench.client(protocol);
        let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
        let accepting = async {
            let mut connected = bench.listener.accept().await.unwrap().connect().await.unwrap();
            let opened = tokio::time::timeout(Duration::ZERO, connected.open(|_| Ok(()))).await;
            assert!(opened.is_err());
            connected.close(4_102, "connect_timeout");
        };
        let closed = async { connecting.await.unwrap().closed().await };
        let ((), closed) = in_time(async { tokio::join!(accepting, closed) }).await;
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!((close.error_code.into_inner(), &*close.reason), (code, reason.as_bytes()));
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
}

#[tokio::test]
async fn a_browser_that_is_turned_away_keeps_a_sound_connection() {
    let bench = Bench::new();
    let endpoint = bench.client(b"h3");
    let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
    let accepting =
        async { bench.listener.accept().await.unwrap().connect().await.unwrap().open(|_| Err(403)).await };
    let browsing = async {
        let browser = Browser::ask(connecting).await;
        assert_eq!(browser.status, 403);
        browser.was_stopped().await
    };
    let (opened, was_stopped) = in_time(async { tokio::join!(accepting, browsing) }).await;
    assert!(matches!(opened, Err(OpenError::Refused(403))), "{opened:?}");
    assert!(!was_stopped);
}

#[tokio::test]
async fn a_browser_reads_how_its_session_ended_on_a_sound_connection() {
    let bench = Bench::new();
    let endpoint = bench.client(b"h3");
    let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
    let accepting = async {
        let Opened { channel, protocol } = serve(&bench.listener).await;
        assert_eq!((protocol, read(&channel, usize::MAX).await), (Protocol::WebTransport, b"!".to_vec()));
        channel.finish(4_100, "draining").await;
    };
    let browsing = async {
        let mut browser = Browser::ask(connecting).await;
        let (mut send, mut receive) = browser.stream().await;
        send.finish().unwrap();
        assert_eq!(receive.read_to_end(16).await.unwrap(), b"");
        let said = browser.answers.read_to_end(64).await.unwrap();
        // A DATA frame with the capsule (0x2843): the code in four bytes, and the reason.
        assert_eq!(said, [&[0, 15, 0x68, 0x43, 12, 0, 0, 0x10, 0x04], &b"draining"[..]].concat());
        browser.was_stopped().await
    };
    let ((), was_stopped) = in_time(async { tokio::join!(accepting, browsing) }).await;
    assert!(!was_stopped);
}

#[tokio::test]
async fn a_session_whose_stream_nobody_waits_for_any_more_is_closed() {
    let bench = Bench::new();
    let endpoint = bench.client(b"h3");
    let connecting = endpoint.connect(bench.listener.local_addr().unwrap(), "localhost").unwrap();
    let accepting =
        async { bench.listener.accept().await.unwrap().connect().await.unwrap().open(|_| Ok(())).await };
    let browser = tokio::select! {
        opened = accepting => panic!("without a stream: {opened:?}"),
        browser = Browser::ask(connecting) => browser,
    };
    let ended = in_time(browser.connection.closed()).await;
    assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{ended}");
}

#[tokio::test]
async fn datagrams_are_sent_while_there_is_room_and_taken_together() {
    let bench = Bench::new();
    let (_endpoint, connection, _send, _receive, channel) = bench.open().await;
    assert_eq!(channel.send_datagram(&[0; 2_000]), Sent::TooLarge);
    // Nothing leaves while this task does not wait: what there is no room for is not taken in place of another.
    let sent = (0..=255_u8).take_while(|&i| channel.send_datagram(&[i; 1_000]) == Sent::Sent).count();
    assert!((8..=16).contains(&sent), "{sent} of 1,000 bytes");
    assert_eq!(channel.send_datagram(&[255; 1_000]), Sent::Full);
    for i in 0..u8::try_from(sent).unwrap() {
        assert_eq!(in_time(connection.read_datagram()).await.unwrap(), [i; 1_000].as_slice());
    }
    let (datagrams, mut taken) = (channel.datagrams(), Vec::new());
    for i in 0..10_u8 {
        connection.send_datagram(vec![i; 10].into()).unwrap();
    }
    while taken.len() < 10 {
        let most = taken.len() + 4;
        assert!(in_time(datagrams.receive(&mut taken, most)).await);
        assert!(taken.len() <= most);
    }
    assert!((0_u8..).zip(&taken).all(|(i, datagram)| **datagram == [i; 10]));
    connection.close(0_u32.into(), b"");
    assert!(!in_time(datagrams.receive(&mut taken, 100)).await, "it is over");
}
