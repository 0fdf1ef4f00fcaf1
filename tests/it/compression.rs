//! Compressed messages: codecs that clients name, dictionaries, and what is refused.

use crate::harness::{Broker, PATIENCE};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as SocketMessage;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waspmq_client::{Client, Payload, PublishOptions};
use waspmq_protocol::client::{Connect, Frame, Publish};
use waspmq_protocol::codec::{self, Dictionary, Method, Packed, PackedCodec, Packer, Unpacker};
use waspmq_protocol::server::{Message, Received, SentDictionary};
use waspmq_protocol::{Content, Profile, decode, encode};
use waspmq_transport::websocket::Inflater;

/// A client of the binary profile that shows what comes as it comes.
pub(crate) struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Raw {
    pub(crate) async fn connect(broker: &Broker, user: &str, codecs: &[&str]) -> Self {
        let mut raw = Self { socket: broker.open(Some("waspmq.v1.bin")).await.socket };
        let codecs = codecs.iter().map(|&name| name.into()).collect();
        raw.send(&Frame::Connect(Connect { user: Some(user.into()), codecs, ..Connect::default() })).await;
        let Received::Welcome(welcome) = raw.next().await else { panic!("no welcome") };
        assert_eq!(welcome.codecs, ["zstd-dict", "zstd", "lz4"]);
        raw
    }

    async fn send(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        encode::client(Profile::Binary, frame, &mut bytes).unwrap();
        self.socket.send(SocketMessage::binary(bytes)).await.unwrap();
    }

    async fn next(&mut self) -> Received {
        loop {
            match self.socket.next().await.unwrap().unwrap() {
                SocketMessage::Binary(bytes) => return decode::server_binary(&bytes).unwrap().0,
                SocketMessage::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn message(&mut self) -> Message {
        match self.next().await {
            Received::Message(message) => message,
            other => panic!("not a message: {other:?}"),
        }
    }

    pub(crate) async fn subscribe(&mut self, to: &str) {
        let (reference, to) = (Some(1), to.into());
        self.send(&Frame::Subscribe { reference, to, queue: None, from: None }).await;
        assert_eq!(self.next().await, Received::Ok { reference: Some(1) });
    }
}

fn order(number: u32) -> Value {
    json!({
        "order": number, "customer": {"id": number * 7919 % 10_007, "tier": "gold", "country": "DE"},
        "items": [{"sku": format!("A-{}", number % 997), "qty": number % 5 + 1, "price": "19.99"}],
        "status": "created", "currency": "EUR", "warehouse": "hamburg-2", "priority": false,
        "note": format!("order {number} of customer {} is to be delivered to the usual place", number % 100),
    })
}

/// Several of them, which any codec makes shorter.
pub(crate) fn orders(from: u32) -> Value {
    (from..from + 4).map(order).collect()
}

fn publish(number: u32, to: &str) -> Frame<'_> {
    let payload = orders(number).to_string().into_bytes();
    Frame::Publish(Publish::new(to, Content::Json, payload))
}

/// A dictionary for orders, learned from those behind this one.
fn trained(from: u32) -> Vec<u8> {
    let samples: Vec<Vec<u8>> = (from..from + 1_000).map(|i| order(i).to_string().into_bytes()).collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    codec::train(&samples, 4 * 1024).unwrap()
}

/// A broker with so many workers, whose budget is not passed when the machine is slow for a moment.
fn start(workers: &str) -> Broker {
    Broker::start_with(&[("WASPMQ_WORKERS", workers), ("WASPMQ_COMPRESSION__CPU_PERCENT", "100")])
}

fn push(broker: &Broker, name: &str, bytes: Vec<u8>) -> u32 {
    let path = format!("/v1/dictionaries/{name}/revisions?match=topic/orders.%3E");
    let (status, answer) = broker.admin("POST", &path, Some(("application/octet-stream", bytes)));
    assert_eq!(status, 201, "{answer}");
    u32::try_from(answer["id"].as_u64().unwrap()).unwrap()
}

#[tokio::test]
async fn each_client_gets_what_it_can_read() {
    let broker = start("2");
    let mut plain = Raw::connect(&broker, "plain", &[]).await;
    let mut lz4 = Raw::connect(&broker, "lz4", &["br", "lz4"]).await;
    let mut zstd = Raw::connect(&broker, "zstd", &["zstd", "lz4"]).await;
    for raw in [&mut plain, &mut lz4, &mut zstd] {
        raw.subscribe("topic/orders.>").await;
    }
    let mut json = broker.connect("json").await;
    json.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.>"})).await;
    plain.send(&publish(1, "topic/orders.eu")).await;
    let expected = orders(1).to_string().into_bytes();
    assert_eq!(json.receive().await["payload"], orders(1));
    let message = plain.message().await;
    assert_eq!((message.packed, &message.payload), (None, &expected));
    let mut unpacker = Unpacker::default();
    for (raw, name) in [(&mut lz4, "lz4"), (&mut zstd, "zstd")] {
        let mut message = raw.message().await;
        assert_eq!(message.packed.map(|packed| packed.codec.name()), Some(name));
        assert!(message.payload.len() < expected.len(), "{name}");
        message.unpack(&mut unpacker, None, 4_000).unwrap();
        assert_eq!(message.payload, expected, "{name}");
    }
    // Small ones are not worth it.
    plain.send(&Frame::Publish(Publish::new("topic/orders.eu", Content::Json, b"1".as_slice()))).await;
    assert_eq!(zstd.message().await.packed, None);
    broker.eventually("what was compressed is counted", |broker| {
        let of = |side: &str| {
            broker
                .metric(&format!("waspmq_compression_bytes_total{{codec=\"zstd\",side=\"{side}\"}}"))
                .unwrap()
        };
        of("wire_out") > 0.0 && of("wire_out") < of("plain_out")
    });
}

#[tokio::test]
async fn a_dictionary_is_sent_once_and_then_used() {
    let broker = start("2");
    let bytes = trained(0);
    let id = push(&broker, "orders", bytes.clone());
    let mut with = Raw::connect(&broker, "with", &["zstd-dict"]).await;
    let mut without = Raw::connect(&broker, "without", &["zstd"]).await;
    let mut elsewhere = Raw::connect(&broker, "elsewhere", &["zstd-dict"]).await;
    for raw in [&mut with, &mut without] {
        raw.subscribe("topic/orders.>").await;
    }
    elsewhere.subscribe("topic/other").await;
    let dictionary = Dictionary::new(&bytes).unwrap();
    let sent = SentDictionary { id, digest: *dictionary.digest(), bytes };
    let mut unpacker = Unpacker::default();
    let mut sizes = (0, 0);
    for number in 0..5 {
        without.send(&publish(number, "topic/orders.eu")).await;
        if number == 0 {
            assert_eq!(with.next().await, Received::Dictionary(sent.clone()));
        }
        let mut message = with.message().await;
        assert_eq!(message.packed.map(|packed| packed.codec), Some(PackedCodec::Dictionary { id }));
        sizes.0 += message.payload.len();
        message.unpack(&mut unpacker, Some(&dictionary), 4_000).unwrap();
        assert_eq!(message.payload, orders(number).to_string().into_bytes());
        let message = without.message().await;
        assert_eq!(message.packed.map(|packed| packed.codec), Some(PackedCodec::Zstd));
        sizes.1 += message.payload.len();
    }
    assert!(sizes.0 * 4 < sizes.1 * 3, "{sizes:?}");
    // Where there is no dictionary for the address, those who take one get the next best thing.
    without.send(&publish(9, "topic/other")).await;
    assert_eq!(elsewhere.message().await.packed.map(|packed| packed.codec), Some(PackedCodec::Zstd));
    // A client that has it from before is told its number and nothing else.
    let held = format!("zstd-dict:{}", codec::digest_text(&sent.digest));
    let mut again = Raw::connect(&broker, "again", &["zstd-dict", &held]).await;
    again.subscribe("topic/orders.>").await;
    without.send(&publish(10, "topic/orders.eu")).await;
    assert_eq!(again.next().await, Received::Dictionary(SentDictionary { bytes: Vec::new(), ..sent }));
    assert!(again.message().await.packed.is_some());
}

/// It does not take the place of the message that it is sent for.
#[tokio::test]
async fn a_dictionary_of_any_size_is_sent_whatever_may_wait() {
    let broker = Broker::start_with_config(
        "workers = 1\n[limits]\nmax_message_bytes = 40000\noutbound_bytes_max = 65536\n[compression]\ncpu_percent = 100\n\
         [[address]]\nmatch = \"topic/orders.close\"\noverflow = \"close\"\n",
    );
    let mut large = trained(0);
    large.resize(codec::DICTIONARY_BYTES_MAX, b'.');
    push(&broker, "orders", large.clone());
    let dictionary = Dictionary::new(&large).unwrap();
    for to in ["topic/orders.eu", "topic/orders.close"] {
        let mut raw = Raw::connect(&broker, "raw", &["zstd-dict"]).await;
        raw.subscribe(to).await;
        raw.send(&publish(1, to)).await;
        let Received::Dictionary(sent) = raw.next().await else { panic!("no dictionary") };
        assert_eq!(sent.bytes.len(), large.len());
        let mut message = raw.message().await;
        message.unpack(&mut Unpacker::default(), Some(&dictionary), 4_000).unwrap();
        assert_eq!(message.payload, orders(1).to_string().into_bytes());
    }
}

#[tokio::test]
async fn dictionaries_change_while_clients_are_connected_and_nothing_is_lost() {
    const EACH: u32 = 50;
    let broker = start("2");
    let ends = async |user: &str, compressed: bool| {
        let builder = Client::builder(broker.url()).user(user);
        let builder = if compressed { builder.compression() } else { builder };
        let (client, messages) = builder.connect().await.unwrap();
        client.subscribe("topic/orders.>", None).await.unwrap();
        (client, messages)
    };
    let (publisher, _unread) = Client::builder(broker.url()).user("publisher").connect().await.unwrap();
    let mut receivers = vec![ends("one", true).await, ends("two", true).await, ends("three", false).await];
    for round in 0..4 {
        push(&broker, "orders", trained(round * 10_000));
        for number in 0..EACH {
            let payload = Payload::json(&order(number)).unwrap();
            let options = PublishOptions::default();
            publisher.publish("topic/orders.eu", payload, options).await.unwrap().await.unwrap();
        }
        for (client, messages) in &mut receivers {
            for number in 0..EACH {
                let message = messages.recv().await.unwrap();
                let payload: Value = serde_json::from_slice(&message.payload).unwrap();
                assert_eq!(payload, order(number), "round {round}");
            }
            assert_eq!(client.stats().unreadable, 0);
        }
    }
    broker.eventually("each of the four is sent to two clients, once", |broker| {
        broker.metric("waspmq_dictionaries_sent_total") == Some(8.0)
    });
}

/// A publish with a compressed payload.
fn packed(method: Method<'_>, codec: PackedCodec, plain: &[u8]) -> Publish<'static> {
    let mut bytes = Vec::new();
    assert!(Packer::default().pack(method, plain, &mut bytes));
    let packed = Some(Packed { codec, plain_bytes: u32::try_from(plain.len()).unwrap() });
    Publish { packed, reference: Some(7), ..Publish::new("user/reader", Content::Json, bytes) }
}

/// A broker where messages have at most 64 KiB.
fn start_small() -> Broker {
    Broker::start_with(&[
        ("WASPMQ_LIMITS__MAX_MESSAGE_BYTES", "65536"),
        ("WASPMQ_COMPRESSION__CPU_PERCENT", "100"),
    ])
}

#[tokio::test]
async fn compressed_publishes_are_unpacked_within_their_bounds() {
    let broker = start_small();
    let id = push(&broker, "orders", trained(0));
    let mut reader = broker.connect("reader").await;
    let dictionary = Dictionary::new(&trained(0)).unwrap();
    let mut sender = Raw::connect(&broker, "sender", &["zstd-dict"]).await;
    let plain = orders(5).to_string().into_bytes();
    // A dictionary is of use to those alone who were sent it.
    let with_dictionary = packed(Method::Dictionary(&dictionary), PackedCodec::Dictionary { id }, &plain);
    let error = async |sender: &mut Raw, publish: Publish<'_>| {
        sender.send(&Frame::Publish(publish)).await;
        match sender.next().await {
            Received::Error { reference: Some(7), refusal } => refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error(&mut sender, with_dictionary.clone()).await.number, 1412);
    sender.subscribe("topic/orders.>").await;
    sender.send(&publish(1, "topic/orders.eu")).await;
    assert!(matches!(sender.next().await, Received::Dictionary(_)));
    assert!(sender.message().await.packed.is_some());
    let good = [
        packed(Method::Lz4, PackedCodec::Lz4, &plain),
        packed(Method::Zstd { level: 3 }, PackedCodec::Zstd, &plain),
        with_dictionary,
    ];
    for publish in good.clone() {
        sender.send(&Frame::Publish(publish)).await;
        assert_eq!(reader.receive().await["payload"], orders(5));
    }
    // Who was sent a dictionary may use it whatever becomes of it.
    let (status, answer) = broker.admin("DELETE", "/v1/dictionaries/orders", None);
    assert!(status < 300, "{answer}");
    sender.send(&Frame::Publish(good[2].clone())).await;
    assert_eq!(reader.receive().await["payload"], orders(5));
    // Damaged, of another size than announced, not the JSON it says, of a dictionary that nobody has.
    let [_, zstd, with_dictionary] = good;
    let mut bytes = zstd.payload.to_vec();
    bytes.truncate(bytes.len() - 3);
    let damaged = Publish { payload: bytes.into(), ..zstd.clone() };
    let said = Some(Packed { codec: PackedCodec::Zstd, plain_bytes: 10_000 });
    let other_size = Publish { packed: said, ..zstd.clone() };
    let not_json = packed(Method::Zstd { level: 1 }, PackedCodec::Zstd, &b"{not JSON".repeat(20));
    let unknown = Packed { codec: PackedCodec::Dictionary { id: id + 99 }, plain_bytes: 100 };
    let nobodys = Publish { packed: Some(unknown), ..with_dictionary };
    for bad in [damaged, other_size, not_json, nobodys] {
        let refusal = error(&mut sender, bad).await;
        assert_eq!(refusal.number, 1412, "{refusal:?}");
    }
    // The connection lives on.
    sender.send(&Frame::Publish(zstd)).await;
    assert_eq!(reader.receive().await["payload"], orders(5));
    // Bombs: 16 MiB in a few bytes, honest and not.
    let zeros = vec![b' '; 16 * 1024 * 1024];
    for (method, codec) in [(Method::Lz4, PackedCodec::Lz4), (Method::Zstd { level: 1 }, PackedCodec::Zstd)] {
        let bomb = packed(method, codec, &zeros);
        if bomb.payload.len() < 60_000 {
            let said = Some(Packed { codec, plain_bytes: 1_000 });
            let liar = Publish { packed: said, ..bomb.clone() };
            assert_eq!(error(&mut sender, liar).await.number, 1412);
            let mut honest = Raw::connect(&broker, "bomber", &[]).await;
            let refusal = error(&mut honest, bomb).await;
            assert_eq!(refusal.number, 1413);
            let text = "the payload has 16777216 bytes when it is unpacked, the limit is 65536";
            assert_eq!(refusal.message, text);
        }
    }
    broker.eventually("what could not be unpacked is counted", |broker| {
        broker.metric("waspmq_unpack_failures_total") >= Some(7.0)
    });
}

#[tokio::test]
async fn payloads_of_one_websocket_message_are_bounded_together() {
    let broker = start_small();
    let mut reader = broker.connect("reader").await;
    // Many payloads in one WebSocket message, each within the bounds of a message, all together far from them.
    let spaces = packed(
        Method::Zstd { level: 1 },
        PackedCodec::Zstd,
        &[b"[".as_slice(), &[b' '; 60_000], b"]"].concat(),
    );
    let mut all = Vec::new();
    for _ in 0..50 {
        encode::client(Profile::Binary, &Frame::Publish(spaces.clone()), &mut all).unwrap();
    }
    let mut many = Raw::connect(&broker, "many", &[]).await;
    many.socket.send(SocketMessage::binary(all)).await.unwrap();
    match many.next().await {
        Received::Error { refusal, .. } => assert_eq!(refusal.number, 1413),
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.receive().await["payload"], json!([]), "the first of them");
    // Damaged ones end the reading of their WebSocket message, as other bad frames do.
    let mut all = Vec::new();
    let bad = Publish { payload: b"damaged".as_slice().into(), ..spaces };
    for _ in 0..100 {
        encode::client(Profile::Binary, &Frame::Publish(bad.clone()), &mut all).unwrap();
    }
    let mut careless = Raw::connect(&broker, "careless", &[]).await;
    careless.socket.send(SocketMessage::binary(all)).await.unwrap();
    careless.send(&Frame::Ping).await;
    let mut errors = 0;
    while matches!(careless.next().await, Received::Error { .. }) {
        errors += 1;
    }
    assert_eq!(errors, 16);
}

/// A JSON client that negotiated permessage-deflate and sees frames as they are.
struct Browser {
    stream: std::net::TcpStream,
    inflater: Inflater,
}

impl Browser {
    fn connect(broker: &Broker, user: &str) -> Self {
        let mut stream = std::net::TcpStream::connect(&broker.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            broker.address
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(String::from_utf8(head).unwrap().contains("permessage-deflate"));
        let mut browser = Self { stream, inflater: Inflater::default() };
        browser.send(&json!({"type": "connect", "user": user}));
        assert_eq!(browser.receive().0["type"], "welcome");
        browser
    }

    fn send(&mut self, frame: &Value) {
        let text = frame.to_string();
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        let mut bytes = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        bytes.extend_from_slice(text.as_bytes());
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame, and the bytes it had when it was compressed.
    fn receive(&mut self) -> (Value, Option<usize>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length).unwrap();
                usize::from(u16::from_be_bytes(length))
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        match head[0] {
            0x81 => (serde_json::from_slice(&payload).unwrap(), None),
            0xc1 => {
                let plain = self.inflater.inflate(&payload, 100_000).unwrap();
                (serde_json::from_slice(plain).unwrap(), Some(length))
            }
            other => panic!("opcode {other:#x}"),
        }
    }

    fn subscribe(&mut self, to: &str) {
        self.send(&json!({"type": "subscribe", "ref": 1, "to": to}));
        assert_eq!(self.receive().0["type"], "ok");
    }
}

/// A compressor that is given up in the middle of each of them would be out of order at the second.
#[tokio::test]
async fn browsers_are_sent_what_does_not_compress() {
    let broker = start("1");
    let mut browser = Browser::connect(&broker, "a");
    browser.subscribe("topic/noise.>");
    let mut plain = broker.connect("plain").await;
    let mut state = 1_u32;
    // Two bytes each, and nine bits for nearly all of them.
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_u32(0xc0 + (state >> 8) % 0x740).unwrap()
    };
    // Compression is tried anew for each of the topics.
    for number in 0..10 {
        let noise: String = (0..20_000).map(|_| letter()).collect();
        let to = format!("topic/noise.{number}");
        plain.send(&json!({"type": "publish", "to": to, "payload": noise})).await;
        assert_eq!(browser.receive().0["payload"], noise);
    }
    let tried = broker.metric("waspmq_compressed_messages_total{codec=\"deflate\"}");
    assert!(tried.is_some_and(|tried| tried > 1.0), "{tried:?}");
}

#[tokio::test]
async fn browsers_are_sent_compressed_messages() {
    let broker = start("1");
    let mut browsers = [Browser::connect(&broker, "a"), Browser::connect(&broker, "b")];
    browsers.iter_mut().for_each(|browser| browser.subscribe("topic/orders.>"));
    let mut plain = broker.connect("plain").await;
    plain.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.>"})).await;
    for number in 0..3 {
        plain.send(&json!({"type": "publish", "to": "topic/orders.eu", "payload": orders(number)})).await;
        let expected = plain.receive().await;
        assert_eq!(expected["payload"], orders(number));
        for browser in &mut browsers {
            let (frame, bytes) = browser.receive();
            assert_eq!(frame, expected);
            assert!(bytes.unwrap() * 2 < expected.to_string().len(), "{bytes:?}");
        }
    }
    plain.send(&json!({"type": "publish", "to": "topic/orders.eu", "payload": 1})).await;
    assert_eq!(browsers[0].receive().1, None, "not worth it");
    // Compressed once, whoever gets it.
    broker.eventually("compressed messages are counted", |broker| {
        broker.metric("waspmq_compressed_messages_total{codec=\"deflate\"}") == Some(3.0)
    });
}

#[tokio::test]
async fn nothing_is_compressed_without_adaptive_compression_and_policies() {
    let broker = Broker::start_with(&[("WASPMQ_COMPRESSION__ADAPTIVE", "false")]);
    let mut zstd = Raw::connect(&broker, "zstd", &["zstd", "lz4"]).await;
    let mut browser = Browser::connect(&broker, "browser");
    zstd.subscribe("topic/orders.>").await;
    browser.subscribe("topic/orders.>");
    zstd.send(&publish(1, "topic/orders.eu")).await;
    assert_eq!(zstd.message().await.packed, None);
    assert_eq!(browser.receive().1, None);
}
