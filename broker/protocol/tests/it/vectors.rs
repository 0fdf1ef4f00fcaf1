//! Golden vectors: one example of every frame, in both profiles, in files that other implementations can read.
//!
//! `tests/vectors/*.txt` holds, for each frame, its name, its JSON text and its binary form in hexadecimal. A
//! difference is a change of the wire. `BLESS=1 cargo test -p waspmq-protocol` writes the files anew.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;
use waspmq_core::settings::Overflow as OverflowAction;
use waspmq_core::{Code, MessageId, Position, Reject, Stream};
use waspmq_protocol::client::{Acked, Connect, Frame, Publish, Resume};
use waspmq_protocol::server::{
    self, Close, Goaway, History, HistoryHead, Message, MessageFrame, Overflow, Presence, PresenceChange,
    Read, Receipt, Received, UserPresence, Welcome,
};
use waspmq_protocol::{Content, HeaderBlock, Level, Profile, Secret, decode, encode};

const ID: MessageId =
    MessageId::from_bytes(*b"\x01\xa0\xc4\x1b\x78\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x2a");
const POSITION: Position = Position { stream: Stream { shard: 3, epoch: 1 }, offset: 57 };

fn text(text: &'static str) -> Option<Cow<'static, str>> {
    Some(text.into())
}

/// At least one of every type.
fn client_examples() -> Vec<(&'static str, Frame<'static>)> {
    [connect_examples(), publish_examples(), other_examples()].concat()
}

fn connect_examples() -> Vec<(&'static str, Frame<'static>)> {
    let resume = Resume { token: Secret::new("r-1"), positions: vec![POSITION] };
    vec![
        ("connect minimal", Frame::Connect(Connect::default())),
        (
            "connect",
            Frame::Connect(Connect {
                user: text("alice"),
                device: text("phone"),
                token: Some(Secret::new("t-1")),
                codecs: vec!["zstd".into(), "lz4".into()],
                batch: true,
                resume: Some(resume),
                ..Connect::default()
            }),
        ),
        ("connect datagrams", Frame::Connect(Connect { datagrams: true, ..Connect::default() })),
        ("connect streams", Frame::Connect(Connect { streams: true, ..Connect::default() })),
    ]
}

fn publish_examples() -> Vec<(&'static str, Frame<'static>)> {
    let full = Publish {
        reference: Some(1),
        headers: vec![("k".into(), "v".into()), ("lang".into(), "Grüße \"x\"".into())],
        ack: Level::Delivered,
        dedup: text("order-7-v2"),
        ttl_ms: Some(60_000),
        delay_ms: 5,
        priority: 3,
        key: text("order-7"),
        reply_to: text("user/alice"),
        exclude_self: true,
        ..Publish::new("user/bob", Content::Json, br#"{"text":"hi"}"#.as_slice())
    };
    let bytes = Publish::new("topic/orders.eu", Content::Bytes, [0, 1, 0xfe, 0xff].as_slice());
    vec![
        ("publish minimal", Frame::Publish(Publish::new("all", Content::Json, b"null".as_slice()))),
        ("publish", Frame::Publish(full)),
        ("publish bytes", Frame::Publish(bytes)),
    ]
}

fn other_examples() -> Vec<(&'static str, Frame<'static>)> {
    let reference = Some(2);
    vec![
        (
            "subscribe",
            Frame::Subscribe {
                reference,
                to: "topic/orders.>".into(),
                queue: text("workers"),
                from: text("now"),
            },
        ),
        ("unsubscribe", Frame::Unsubscribe { reference, to: "topic/orders.>".into(), queue: None }),
        ("join", Frame::Join { reference: Some(4), group: "eng".into() }),
        ("leave", Frame::Leave { reference: Some(5), group: "eng".into() }),
        ("ack ids", Frame::Ack { reference: None, what: Acked::Ids(vec![ID]), queue: text("workers") }),
        (
            "ack upto",
            Frame::Ack {
                reference: Some(300),
                what: Acked::UpTo { to: "user/bob".into(), upto: POSITION },
                queue: None,
            },
        ),
        (
            "nack",
            Frame::Nack { reference: None, id: ID, queue: None, reason: text("busy"), retry_ms: Some(500) },
        ),
        (
            "history",
            Frame::History {
                reference: Some(6),
                of: "group/eng".into(),
                after: Some(POSITION),
                limit: Some(100),
            },
        ),
        ("read", Frame::Read { reference: None, of: "group/eng".into(), upto: POSITION }),
        ("presence", Frame::Presence { reference: Some(7), of: "group/eng".into(), after: None }),
        (
            "presence after",
            Frame::Presence { reference: Some(8), of: "group/eng".into(), after: text("bob") },
        ),
        ("watch", Frame::Watch { reference: Some(8), users: vec!["bob".into(), "carol".into()] }),
        ("refresh", Frame::Refresh { reference: Some(9), token: Secret::new("t-2") }),
        ("ping", Frame::Ping),
        ("disconnect", Frame::Disconnect),
    ]
}

fn control_examples() -> Vec<(&'static str, server::Frame)> {
    let welcome = Welcome {
        session: "0000010000000001".into(),
        resume_token: Some(Secret::new("r-2")),
        node: "n1".into(),
        resumed: false,
        recovered: true,
        heartbeat_ms: 25_000,
        max_message_bytes: 1_048_576,
        codecs: Vec::new(),
    };
    let reject = Reject::new(Code::Overloaded, "no room").retry_after(250);
    let receipt = Receipt { reference: 1, id: ID, level: Level::Delivered, recipients: 1 };
    vec![
        ("welcome", server::Frame::Welcome(welcome.clone())),
        ("welcome without token", server::Frame::Welcome(Welcome { resume_token: None, ..welcome })),
        ("receipt", server::Frame::Receipt(receipt)),
        ("ok", server::Frame::Ok { reference: Some(2) }),
        ("error", server::Frame::Error { reference: Some(1), reject: reject.clone() }),
        ("error without ref", server::Frame::Error { reference: None, reject }),
        (
            "overflow",
            server::Frame::Overflow(Overflow { to: "topic/ticks".into(), dropped: 17, action: None }),
        ),
        (
            "overflow with action",
            server::Frame::Overflow(Overflow {
                to: "topic/ticks".into(),
                dropped: 17,
                action: Some(OverflowAction::DropOldest),
            }),
        ),
        ("presence", server::Frame::Presence(presence_example())),
        (
            "presence change",
            server::Frame::PresenceChange(PresenceChange {
                user: "bob".into(),
                online: false,
                last_seen_unix_ms: Some(1_790_000_000_000),
                seq: 13,
            }),
        ),
        ("read", server::Frame::Read(Read { of: "group/eng".into(), upto: POSITION, unread: Some(0) })),
        ("goaway", server::Frame::Goaway(Goaway { reason: "drain".into(), reconnect_ms: 1_500 })),
        ("close", server::Frame::Close(Close::new(4002, "kicked"))),
        ("close with message", server::Frame::Close(Close::new(4000, "not_connected"))),
        ("close without name", server::Frame::Close(Close::new(1000, ""))),
        ("pong", server::Frame::Pong),
    ]
}

fn presence_example() -> Presence {
    let bob = UserPresence {
        user: "bob".into(),
        online: true,
        sessions: 2,
        last_seen_unix_ms: Some(1_790_000_000_000),
        seq: 12,
    };
    let carol =
        UserPresence { user: "carol".into(), online: false, sessions: 0, last_seen_unix_ms: None, seq: 0 };
    Presence { reference: Some(7), of: "group/eng".into(), users: vec![bob, carol], more: false }
}

/// A full answer with every message example, and one with nothing.
fn history_examples() -> [(&'static str, HistoryHead<'static>, Vec<MessageFrame<'static>>); 2] {
    let full = HistoryHead { reference: Some(6), of: "group/eng", more: true, gap: true, unread: Some(3) };
    let nothing = HistoryHead { reference: None, of: "all", more: false, gap: false, unread: None };
    let messages = message_examples().into_iter().map(|(_, message)| message).collect();
    [("history", full, messages), ("history of nothing", nothing, Vec::new())]
}

fn message_examples() -> Vec<(&'static str, MessageFrame<'static>)> {
    let plain = MessageFrame {
        id: ID,
        to: "user/bob",
        from: Some("alice"),
        position: POSITION,
        content: Content::Json,
        payload: br#"{"text":"hi"}"#,
        packed: None,
        headers: HeaderBlock::from_encoded(b"\x01\0\x01\0k\x01\0v"),
        key: None,
        priority: 0,
        reply_to: None,
        queue: None,
        attempt: None,
        wants_ack: false,
        unix_ms: 1_790_000_000_000,
    };
    let full = MessageFrame {
        from: None,
        content: Content::Bytes,
        payload: &[0, 1, 0xfe, 0xff],
        headers: HeaderBlock::EMPTY,
        key: Some("order-7"),
        priority: 3,
        reply_to: Some("user/alice"),
        queue: Some("workers"),
        attempt: Some(2),
        wants_ack: true,
        ..plain
    };
    let acked = MessageFrame { wants_ack: true, ..plain };
    vec![("message", plain), ("message full", full), ("message to be acknowledged", acked)]
}

fn owned(frame: &MessageFrame<'_>) -> Message {
    let text = |text: Option<&str>| text.map(str::to_owned);
    Message {
        id: frame.id,
        to: frame.to.to_owned(),
        from: text(frame.from),
        position: frame.position,
        content: frame.content,
        payload: frame.payload.to_vec(),
        packed: frame.packed,
        headers: frame.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        key: text(frame.key),
        priority: frame.priority,
        reply_to: text(frame.reply_to),
        queue: text(frame.queue),
        attempt: frame.attempt,
        wants_ack: frame.wants_ack,
        unix_ms: frame.unix_ms,
    }
}

fn both(encode: impl Fn(Profile, &mut Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let (mut json, mut binary) = (Vec::new(), Vec::new());
    encode(Profile::Json, &mut json);
    encode(Profile::Binary, &mut binary);
    (json, binary)
}

/// Every client example with its JSON and its binary bytes.
pub(crate) fn client_frames() -> Vec<(Frame<'static>, Vec<u8>, Vec<u8>)> {
    let encoded = |(_, frame): (_, Frame<'static>)| {
        let (json, binary) = both(|profile, out| encode::client(profile, &frame, out).unwrap());
        (frame, json, binary)
    };
    client_examples().into_iter().map(encoded).collect()
}

/// Every broker example with its JSON and its binary bytes.
pub(crate) fn server_frames() -> Vec<(Received, Vec<u8>, Vec<u8>)> {
    named_server_frames().into_iter().map(|(_, received, json, binary)| (received, json, binary)).collect()
}

fn named_server_frames() -> Vec<(&'static str, Received, Vec<u8>, Vec<u8>)> {
    let mut frames = Vec::new();
    for (name, frame) in control_examples() {
        let (json, binary) = both(|profile, out| encode::control(profile, &frame, out));
        frames.push((name, frame.into(), json, binary));
    }
    for (name, frame) in message_examples() {
        let (json, binary) = both(|profile, out| encode::message(profile, &frame, out));
        frames.push((name, Received::Message(owned(&frame)), json, binary));
    }
    for (name, head, messages) in history_examples() {
        let (json, binary) = both(|profile, out| encode::history(profile, &head, messages.clone(), out));
        let history = History {
            reference: head.reference,
            of: head.of.to_owned(),
            messages: messages.iter().map(owned).collect(),
            more: head.more,
            gap: head.gap,
            unread: head.unread,
        };
        frames.push((name, Received::History(history), json, binary));
    }
    frames
}

fn entry(page: &mut String, name: &str, json: &[u8], binary: &[u8]) {
    let hex: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(page, "{name}\n{}\n{hex}\n", std::str::from_utf8(json).unwrap()).unwrap();
}

/// Compares `made` with the file, or writes it when asked to.
pub(crate) fn check_file(path: &Path, made: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, made).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(there, made, "{} differs; BLESS=1 writes it anew", path.display());
}

/// The frames of a vector file: name, JSON, binary.
fn entries(file: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file))
            .unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let entry = |entry: &str| {
        let lines: Vec<&str> = entry.lines().collect();
        let [name, json, hex] = lines[..] else { panic!("{entry}") };
        (name.to_owned(), json.as_bytes().to_vec(), hex.as_bytes().chunks(2).map(byte).collect())
    };
    page.trim_end().split("\n\n").map(entry).collect()
}

#[test]
fn files_are_what_is_encoded() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut page = String::new();
    for ((name, _), (_, json, binary)) in client_examples().iter().zip(client_frames()) {
        entry(&mut page, name, &json, &binary);
    }
    check_file(&vectors.join("client.txt"), &page);
    page.clear();
    for (name, _, json, binary) in named_server_frames() {
        entry(&mut page, name, &json, &binary);
    }
    check_file(&vectors.join("server.txt"), &page);
}

#[test]
fn files_are_decoded() {
    let read = entries("client.txt");
    assert_eq!(read.len(), client_examples().len());
    for ((name, frame), (in_file, json, binary)) in client_examples().into_iter().zip(read) {
        assert_eq!(name, in_file);
        assert_eq!(decode::json(&json).unwrap(), frame, "{name}");
        assert_eq!(decode::binary(&binary).unwrap(), frame, "{name}");
    }
    let read = entries("server.txt");
    assert_eq!(read.len(), named_server_frames().len());
    for ((name, received, ..), (in_file, json, binary)) in named_server_frames().into_iter().zip(read) {
        assert_eq!(name, in_file);
        assert_eq!(decode::server_json(&json).unwrap(), (received.clone(), json.len()), "{name}");
        assert_eq!(decode::server_binary(&binary).unwrap(), (received, binary.len()), "{name}");
    }
}

/// A later minor revision appends to a body; this one reads what it knows.
#[test]
fn trailing_bytes_of_control_bodies_are_skipped() {
    let longer = |binary: &[u8]| {
        let mut bytes = binary.to_vec();
        bytes.extend_from_slice(b"\x01appended");
        let body_len = u32::try_from(bytes.len() - 6).unwrap();
        bytes[2..6].copy_from_slice(&body_len.to_le_bytes());
        bytes
    };
    for (frame, _, binary) in client_frames() {
        if !matches!(frame, Frame::Publish(_)) {
            assert_eq!(decode::binary(&longer(&binary)).unwrap(), frame);
        }
    }
    for (received, _, binary) in server_frames() {
        if !matches!(received, Received::Message(_) | Received::History(_)) {
            let bytes = longer(&binary);
            assert_eq!(decode::server_binary(&bytes).unwrap(), (received, bytes.len()));
        }
    }
}

/// In a history answer the messages come last, so a later revision appends in front of them.
#[test]
fn appended_fields_of_a_history_answer_are_skipped() {
    let mut seen = 0;
    for (received, _, binary) in server_frames() {
        let Received::History(history) = &received else { continue };
        let mut messages = Vec::new();
        for (_, frame) in message_examples().iter().take(history.messages.len()) {
            encode::message(Profile::Binary, frame, &mut messages);
        }
        let mut bytes = binary.clone();
        let at = bytes.len() - messages.len();
        assert_eq!(bytes[at..], messages);
        bytes.splice(at..at, *b"\x01appended");
        let body_len = u32::try_from(bytes.len() - 6).unwrap();
        bytes[2..6].copy_from_slice(&body_len.to_le_bytes());
        assert_eq!(decode::server_binary(&bytes).unwrap(), (received, bytes.len()));
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// A question as clients wrote it before groups had pages, and as later ones may.
#[test]
fn a_presence_question_is_read_with_fewer_and_with_more_fields() {
    let question = |after| Frame::Presence { reference: Some(7), of: "all".into(), after };
    let check = |body: &[u8], expected: Frame<'_>| {
        let mut bytes = vec![0x0b, 1];
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        assert_eq!(decode::binary(&bytes), Ok(expected));
    };
    check(b"\x01\x07\x03all", question(None));
    check(b"\x01\x07\x03all\0", question(None));
    check(b"\x01\x07\x03all\x01\x03bob", question(text("bob")));
    check(b"\x01\x07\x03all\x01\x03bobmore", question(text("bob")));
    let cut = decode::binary(b"\x0b\x01\x08\0\0\0\x01\x07\x03all\x01\x03").unwrap_err();
    assert_eq!(cut.reference, Some(7));
}

/// A connect as clients wrote it before they asked for datagrams, and before they asked for streams, and as later ones may.
#[test]
fn a_connect_is_read_with_fewer_and_with_more_fields() {
    let connect = |datagrams, streams| Frame::Connect(Connect { datagrams, streams, ..Connect::default() });
    let check = |appended: &[u8], expected: Result<Frame<'_>, Code>| {
        let body = [b"\0\0\0\0\0\0", appended].concat();
        let mut bytes = vec![0x01, 1];
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        assert_eq!(decode::binary(&bytes).map_err(|error| error.reject().code), expected);
    };
    check(b"", Ok(connect(false, false)));
    check(b"\x01", Ok(connect(true, false)));
    check(b"\0\x01", Ok(connect(false, true)));
    check(b"\x01\x01more", Ok(connect(true, true)));
    check(b"\0", Ok(connect(false, false)));
    check(b"\x02", Err(Code::InvalidFrame));
    check(b"\x01\x02", Err(Code::InvalidFrame));
}

/// An overflow as brokers wrote it before it had an action.
#[test]
fn an_overflow_without_the_appended_field_is_read() {
    let bytes = b"\x86\x01\x0d\0\0\0\x0btopic/ticks\x11";
    let overflow = Overflow { to: "topic/ticks".into(), dropped: 17, action: None };
    assert_eq!(decode::server_binary(bytes).unwrap(), (Received::Overflow(overflow), bytes.len()));
}
