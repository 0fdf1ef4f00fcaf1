//! Sessions against rustls's own client, over pipes in memory.

use super::*;
use crate::limits::{TLS_CHUNK_BYTES, TLS_READS_PER_TURN};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

mod certificates;

const NOW: u64 = 1_800_000_000;

/// The broker's end of a socket.
#[derive(Debug, Default)]
struct Pipe {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
    /// Bytes of a read, at most.
    step: Option<usize>,
    /// Bytes that it still takes.
    room: Option<usize>,
    is_ended: bool,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() && !self.is_ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = into.len().min(self.step.unwrap_or(usize::MAX));
        self.incoming.read(&mut into[..most])
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = from.len().min(self.room.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.outgoing.extend_from_slice(&from[..count]);
        self.room = self.room.map(|room| room - count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn credentials() -> (Credentials, Vec<u8>) {
    let made = self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned()], NOW).unwrap();
    let credentials =
        Credentials::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap();
    (credentials, made.certificate_pem.into_bytes())
}

/// The time at which certificates are looked at; otherwise as usual.
#[derive(Debug)]
struct At(Arc<rustls::client::WebPkiServerVerifier>, u64);

impl ServerCertVerifier for At {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.1));
        self.0.verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client_config(
    certificate: &[u8],
    now: u64,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate).unwrap()).unwrap();
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = At(verifier.build().unwrap(), now);
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth()
}

/// A client and the session that serves it.
struct Pair {
    client: ClientConnection,
    session: Session,
    pipe: Pipe,
    received: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let (credentials, certificate) = credentials();
        Self::with(&credentials, client_config(&certificate, NOW, rustls::ALL_VERSIONS))
    }

    fn with(credentials: &Credentials, config: ClientConfig) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let session = credentials.accept().unwrap();
        Self { client, session, pipe: Pipe::default(), received: Vec::new() }
    }

    /// Moves what each side has for the other; the session's reads have this much room.
    fn turn(&mut self, room: usize) -> io::Result<usize> {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.pipe.incoming).unwrap();
        }
        let mut buffer = vec![0; room];
        let mut total = 0;
        let read = loop {
            match self.session.read(&mut self.pipe, &mut buffer) {
                Ok(0) => break Ok(total),
                Ok(count) => {
                    total += count;
                    self.received.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(total),
                Err(error) => break Err(error),
            }
        };
        self.deliver().unwrap();
        read
    }

    /// Gives the client what the session has written.
    fn deliver(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let outgoing = std::mem::take(&mut self.pipe.outgoing);
        let (mut rest, mut plain) = (outgoing.as_slice(), Vec::new());
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets()?;
            _ = self.client.reader().read_to_end(&mut plain);
        }
        Ok(plain)
    }

    fn shake_hands(&mut self) {
        for _ in 0..8 {
            self.turn(1024).unwrap();
        }
        assert!(!self.client.is_handshaking() && !self.session.is_handshaking());
    }
}

#[test]
fn both_versions_carry_bytes_both_ways() {
    let (credentials, certificate) = credentials();
    for version in rustls::ALL_VERSIONS {
        let config = client_config(&certificate, NOW, &[version]);
        let mut pair = Pair::with(&credentials, config);
        pair.shake_hands();
        assert_eq!(pair.client.protocol_version(), Some(version.version));
        pair.client.writer().write_all(b"to the broker").unwrap();
        assert_eq!(pair.turn(1024).unwrap(), 13);
        assert_eq!(pair.received, b"to the broker");
        let pieces = [IoSlice::new(b"to "), IoSlice::new(b"the client")];
        assert_eq!(pair.session.write_vectored(&mut pair.pipe, &pieces).unwrap(), 13);
        assert_eq!(pair.deliver().unwrap(), b"to the client");
        assert_eq!(pair.session.sealed_bytes(), 0);
    }
}

#[test]
fn a_stream_that_comes_byte_by_byte_is_the_same_stream() {
    let mut pair = Pair::new();
    pair.pipe.step = Some(1);
    pair.shake_hands();
    pair.client.writer().write_all(b"slowly").unwrap();
    pair.turn(1024).unwrap();
    assert_eq!(pair.received, b"slowly");
}

#[test]
fn a_large_message_comes_whole_through_a_small_buffer() {
    let mut pair = Pair::new();
    pair.client.set_buffer_limit(None);
    pair.shake_hands();
    let message: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    pair.client.writer().write_all(&message).unwrap();
    // 1000 does not divide a record: each leaves decrypted bytes behind that the socket no longer has.
    pair.turn(1000).unwrap();
    assert!(pair.received == message);
}

#[test]
fn a_read_that_fills_the_buffer_may_leave_bytes_that_the_socket_does_not_have() {
    let mut pair = Pair::new();
    pair.shake_hands();
    pair.client.writer().write_all(&[7; 100]).unwrap();
    pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
    let mut buffer = [0; 60];
    assert_eq!(pair.session.read(&mut pair.pipe, &mut buffer).unwrap(), 60);
    assert!(pair.pipe.incoming.is_empty());
    assert_eq!(pair.session.read(&mut pair.pipe, &mut buffer).unwrap(), 40);
    let error = pair.session.read(&mut pair.pipe, &mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn one_read_asks_a_socket_that_always_has_more_so_many_times() {
    let mut pair = Pair::new();
    pair.shake_hands();
    // Records of one byte each, and a socket that gives half of one at a time.
    for byte in 0..100 {
        pair.client.writer().write_all(&[byte]).unwrap();
    }
    while pair.client.wants_write() {
        pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
    }
    let record = pair.pipe.incoming.len() / 100;
    pair.pipe.step = Some(record.div_ceil(2));
    let mut buffer = [0; 64];
    let before = pair.pipe.incoming.len();
    let count = pair.session.read(&mut pair.pipe, &mut buffer).unwrap();
    assert!(count > 0 && count < buffer.len(), "{count}");
    assert_eq!(before - pair.pipe.incoming.len(), TLS_READS_PER_TURN * record.div_ceil(2));
    // So few that not one record comes to its end.
    let record = [22, 3, 1, 1, 0].into_iter().chain([1; 256]);
    pair.pipe = Pipe { incoming: record.collect(), step: Some(1), ..Pipe::default() };
    let mut session = credentials().0.accept().unwrap();
    let error = session.read(&mut pair.pipe, &mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn what_is_not_complete_is_counted_until_data_comes() {
    let mut pair = Pair::new();
    let hello = [22, 3, 1, 64, 0, 1, 0, 0xff, 0].into_iter().chain([0; 16 * 1024 - 4]);
    let mut half = credentials().0.accept().unwrap();
    let mut pipe = Pipe { incoming: hello.collect(), ..Pipe::default() };
    let said = pipe.incoming.len();
    assert_eq!(half.read(&mut pipe, &mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(half.unfinished_bytes(), said);
    // A handshake that is over has nothing left; a record is counted until its data is there.
    pair.shake_hands();
    assert_eq!(pair.session.unfinished_bytes(), 0);
    pair.client.writer().write_all(&[7; 10_000]).unwrap();
    while pair.client.wants_write() {
        pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
    }
    let rest = pair.pipe.incoming.split_off(5_000);
    assert_eq!(pair.turn(1_000).unwrap(), 0);
    assert_eq!(pair.session.unfinished_bytes(), 5_000);
    pair.pipe.incoming.extend(rest);
    assert_eq!(pair.turn(1_000).unwrap(), 10_000);
    assert_eq!(pair.session.unfinished_bytes(), 0);
}

#[test]
fn what_the_socket_does_not_take_is_bounded_and_comes_later() {
    let mut pair = Pair::new();
    pair.shake_hands();
    let message: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    pair.pipe.room = Some(10_000);
    let mut sent = pair.session.write_vectored(&mut pair.pipe, &[IoSlice::new(&message)]).unwrap();
    assert!(sent > 10_000 && sent <= TLS_CHUNK_BYTES, "{sent}");
    assert_eq!(pair.session.sealed_bytes(), sent);
    assert!(pair.session.wants_write());
    // Nothing more is sealed while something waits.
    for _ in 0..3 {
        let error =
            pair.session.write_vectored(&mut pair.pipe, &[IoSlice::new(&message[sent..])]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(pair.session.sealed_bytes(), sent);
    }
    pair.pipe.room = None;
    while sent < message.len() {
        sent += pair.session.write_vectored(&mut pair.pipe, &[IoSlice::new(&message[sent..])]).unwrap();
    }
    assert!(pair.deliver().unwrap() == message);
}

#[test]
fn an_answer_of_the_handshake_waits_for_a_socket_that_is_full() {
    let mut pair = Pair::new();
    pair.pipe.room = Some(100);
    pair.turn(1024).unwrap();
    assert!(pair.session.wants_write() && pair.session.is_handshaking());
    pair.pipe.room = None;
    pair.session.flush(&mut pair.pipe).unwrap();
    pair.shake_hands();
}

#[test]
fn the_end_of_a_stream_is_an_end_with_and_without_goodbye() {
    for says_goodbye in [true, false] {
        let mut pair = Pair::new();
        pair.shake_hands();
        pair.client.writer().write_all(b"last words").unwrap();
        if says_goodbye {
            pair.client.send_close_notify();
        }
        pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
        pair.pipe.is_ended = true;
        let mut buffer = [0; 64];
        assert_eq!(pair.session.read(&mut pair.pipe, &mut buffer).unwrap(), 10);
        assert_eq!(pair.session.read(&mut pair.pipe, &mut buffer).unwrap(), 0);
        assert_eq!(pair.session.read(&mut pair.pipe, &mut buffer).unwrap(), 0);
    }
}

#[test]
fn a_record_that_is_cut_off_is_never_given() {
    let mut pair = Pair::new();
    pair.shake_hands();
    pair.client.writer().write_all(b"half of this is lost").unwrap();
    pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
    pair.pipe.incoming.pop_back();
    pair.pipe.is_ended = true;
    assert_eq!(pair.session.read(&mut pair.pipe, &mut [0; 64]).unwrap(), 0);
}

#[test]
fn the_peer_is_told_of_an_end_in_order_once() {
    let mut pair = Pair::new();
    pair.shake_hands();
    pair.session.close();
    pair.session.flush(&mut pair.pipe).unwrap();
    let said = pair.pipe.outgoing.len();
    assert!(said > 0);
    pair.session.close();
    pair.session.flush(&mut pair.pipe).unwrap();
    assert_eq!(pair.pipe.outgoing.len(), said);
    pair.client.read_tls(&mut pair.pipe.outgoing.as_slice()).unwrap();
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn what_is_no_tls_is_refused_with_an_alert() {
    let check = |bytes: &[u8]| {
        let mut session = credentials().0.accept().unwrap();
        let mut pipe = Pipe { incoming: bytes.iter().copied().collect(), ..Pipe::default() };
        let error = session.read(&mut pipe, &mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert_eq!(pipe.outgoing.first(), Some(&21), "an alert");
        // Whoever asks again learns the same.
        let error = session.read(&mut pipe, &mut [0; 64]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::WouldBlock), "{error}");
    };
    check(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check(&[0xff; 64]);
    check(&[22, 3, 1, 0, 4, 99, 0, 0, 0]);
}

#[test]
fn a_changed_record_breaks_the_connection_behind_what_came_before_it() {
    let mut pair = Pair::new();
    pair.shake_hands();
    for record in [&b"first, "[..], b"second", b"changed"] {
        pair.client.writer().write_all(record).unwrap();
    }
    while pair.client.wants_write() {
        pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
    }
    if let Some(last) = pair.pipe.incoming.back_mut() {
        *last ^= 1;
    }
    let mut buffer = [0; 10];
    // Also where a reader has room for a part of it only.
    for expected in [&b"first, sec"[..], b"ond"] {
        let count = pair.session.read(&mut pair.pipe, &mut buffer).unwrap();
        assert_eq!(buffer[..count], *expected);
    }
    let error = pair.session.read(&mut pair.pipe, &mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[test]
fn a_client_with_other_protocols_only_is_turned_away() {
    let (credentials, certificate) = credentials();
    let check = |offered: &[&[u8]], is_served: bool| {
        let mut config = client_config(&certificate, NOW, rustls::ALL_VERSIONS);
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let mut pair = Pair::with(&credentials, config);
        while pair.client.wants_write() {
            pair.client.write_tls(&mut pair.pipe.incoming).unwrap();
        }
        let error = pair.session.read(&mut pair.pipe, &mut [0; 64]).unwrap_err();
        assert_eq!(error.kind() == ErrorKind::WouldBlock, is_served, "{offered:?}: {error}");
    };
    check(&[], true);
    check(&[b"http/1.1"], true);
    check(&[b"h2", b"http/1.1"], true);
    check(&[b"h2"], false);
}

#[test]
fn keys_may_be_renewed_without_end_as_long_as_there_is_data() {
    let (credentials, certificate) = credentials();
    let config = client_config(&certificate, NOW, &[&rustls::version::TLS13]);
    let mut pair = Pair::with(&credentials, config);
    pair.shake_hands();
    // More often than rustls lets a peer do it without data in between.
    for round in 0..100_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(&[round]).unwrap();
        pair.turn(64).unwrap();
    }
    assert_eq!(pair.received, (0..100).collect::<Vec<u8>>());
    // Without, it is closed: nobody has others work for nothing.
    for _ in 0..100 {
        pair.client.refresh_traffic_keys().unwrap();
    }
    assert_eq!(pair.turn(64).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_second_connection_may_resume_the_first() {
    let (credentials, certificate) = credentials();
    let config = Arc::new(client_config(&certificate, NOW, rustls::ALL_VERSIONS));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut pair = Pair::with(&credentials, ClientConfig::clone(&config));
        pair.shake_hands();
        kinds.push(pair.client.handshake_kind());
    }
    assert_eq!(kinds, [Some(rustls::HandshakeKind::Full), Some(rustls::HandshakeKind::Resumed)]);
}
