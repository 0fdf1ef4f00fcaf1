//! Senders and receivers in a closed loop while the revision of a policy alternates, or a revision and rules.
//!
//! Each receiver checks that its sender's messages arrive exactly once and in order, and that the stamps the
//! policy puts on them never go back. The swapper waits for each stamp to be seen before it goes on.

use crate::harness::Broker;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use waspmq_protocol::client::{Connect, Frame, Publish};
use waspmq_protocol::server::Received;
use waspmq_protocol::{Content, Profile, decode, encode};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) pairs: usize,
    /// Messages a sender has outstanding.
    pub(crate) window: u64,
    /// Swaps to make; with 0 the load runs as long as `pause`.
    pub(crate) swaps: u64,
    /// Time between swaps.
    pub(crate) pause: Duration,
    /// Every second version is of rules.
    pub(crate) with_rules: bool,
    /// How everybody is connected.
    pub(crate) spoken: &'static str,
}

/// What happened.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) swaps_seen: u64,
    pub(crate) per_second: f64,
    /// Quantile 0.999 of the time between two arrivals at one receiver, microseconds.
    pub(crate) gap_p999_us: u64,
}

/// What the tasks share.
#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    /// The largest stamp any receiver has seen.
    stamp: AtomicU64,
}

/// What a sender and its receiver share.
#[derive(Debug, Default)]
struct Pair {
    sent: AtomicU64,
    received: AtomicU64,
    room: Notify,
}

/// Runs the load with plugin `stamp`, whose revisions 1 and 2 must be uploaded.
pub(crate) async fn run(broker: &Broker, load: Load) -> Report {
    let progress = Arc::new(Progress::default());
    set_stamp(broker, 0, load.with_rules);
    let (mut senders, mut receivers, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..load.pairs {
        let pair = Arc::new(Pair::default());
        let topic = format!("topic/swap.{number}");
        let receiver = connect(broker, load.spoken, &format!("r{number}"), Some(&topic)).await;
        let sender = connect(broker, load.spoken, &format!("s{number}"), None).await;
        receivers.push(tokio::spawn(receive(receiver, pair.clone(), progress.clone())));
        senders.push((sender, topic, pair.clone()));
        pairs.push(pair);
    }
    let started = Instant::now();
    let senders: Vec<_> = senders
        .into_iter()
        .map(|(socket, topic, pair)| tokio::spawn(send(socket, topic, pair, progress.clone(), load.window)))
        .collect();
    let swaps_seen = tokio::task::block_in_place(|| swap(broker, load, &progress));
    let elapsed = started.elapsed();
    let delivered: u64 = pairs.iter().map(|pair| pair.received.load(Ordering::SeqCst)).sum();
    progress.stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.expect("a sender's connection stays open");
    }
    let mut gaps = new_histogram();
    for receiver in receivers {
        gaps.add(receiver.await.expect("a receiver's messages are in order")).unwrap();
    }
    let total = |count: fn(&Pair) -> &AtomicU64| -> u64 {
        pairs.iter().map(|pair| count(pair).load(Ordering::SeqCst)).sum()
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = delivered as f64 / elapsed.as_secs_f64();
    let lost = total(|pair| &pair.sent) - total(|pair| &pair.received);
    Report { delivered, lost, swaps_seen, per_second, gap_p999_us: gaps.value_at_quantile(0.999) }
}

type WebSocket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A connection that knows how its frames are encoded.
struct Socket {
    inner: WebSocket,
    profile: Profile,
}

impl Socket {
    async fn send(&mut self, frames: impl IntoIterator<Item = Frame<'_>>) {
        let mut out = Vec::new();
        for frame in frames {
            encode::client(self.profile, &frame, &mut out).unwrap();
        }
        let message = match self.profile {
            Profile::Json => Message::text(String::from_utf8(out).unwrap()),
            Profile::Binary => Message::binary(out),
        };
        self.inner.send(message).await.unwrap();
    }

    /// The frames of the next message that has some.
    async fn receive(&mut self) -> Vec<Received> {
        let data = loop {
            match self.inner.next().await.unwrap().unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => break message.into_data(),
            }
        };
        let mut frames = Vec::new();
        match self.profile {
            Profile::Json => {
                let lines = data.split(|&byte| byte == b'\n');
                frames.extend(lines.map(|line| decode::server_json(line).unwrap().0));
            }
            Profile::Binary => {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let (received, consumed) = decode::server_binary(rest).unwrap();
                    rest = &rest[consumed..];
                    frames.push(received);
                }
            }
        }
        frames
    }
}

async fn connect(broker: &Broker, spoken: &'static str, user: &str, topic: Option<&str>) -> Socket {
    let inner = broker.open(Some(spoken)).await.socket;
    let is_json = matches!(spoken, "waspmq.v1.json" | "sse");
    let mut socket = Socket { inner, profile: if is_json { Profile::Json } else { Profile::Binary } };
    let connect = Connect { user: Some(user.into()), batch: true, ..Connect::default() };
    socket.send([Frame::Connect(connect)]).await;
    assert!(matches!(&socket.receive().await[..], [Received::Welcome(_)]));
    if let Some(topic) = topic {
        socket
            .send([Frame::Subscribe { reference: Some(1), to: topic.into(), queue: None, from: None }])
            .await;
        assert!(matches!(&socket.receive().await[..], [Received::Ok { .. }]));
    }
    socket
}

async fn send(mut socket: Socket, topic: String, pair: Arc<Pair>, progress: Arc<Progress>, window: u64) {
    while !progress.stop.load(Ordering::SeqCst) {
        let sent = pair.sent.load(Ordering::SeqCst);
        let room = window - (sent - pair.received.load(Ordering::SeqCst)).min(window);
        if room < window / 2 {
            // A lost wake-up would stall the pair, so the wait is bounded; the count is looked at again.
            _ = tokio::time::timeout(Duration::from_millis(20), pair.room.notified()).await;
            continue;
        }
        let publish = |sequence: u64| {
            Frame::Publish(Publish::new(topic.as_str(), Content::Bytes, sequence.to_le_bytes().to_vec()))
        };
        pair.sent.store(sent + room, Ordering::SeqCst);
        socket.send((sent..sent + room).map(publish)).await;
    }
    // The connection stays open until everything it sent has arrived.
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while pair.received.load(Ordering::SeqCst) < pair.sent.load(Ordering::SeqCst) && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn receive(mut socket: Socket, pair: Arc<Pair>, progress: Arc<Progress>) -> Histogram<u64> {
    let mut gaps = new_histogram();
    let (mut expected, mut stamp, mut last) = (0_u64, 0_u64, Instant::now());
    loop {
        let stopping = progress.stop.load(Ordering::SeqCst);
        if stopping && expected == pair.sent.load(Ordering::SeqCst) {
            return gaps;
        }
        let Ok(frames) = tokio::time::timeout(Duration::from_secs(2), socket.receive()).await else {
            if stopping {
                return gaps; // the report counts what is missing
            }
            continue;
        };
        let now = Instant::now();
        gaps.saturating_record(u64::try_from((now - last).as_micros()).unwrap());
        last = now;
        for received in frames {
            let Received::Message(message) = received else { panic!("{received:?}") };
            assert_eq!(message.payload, expected.to_le_bytes(), "exactly once and in order");
            expected += 1;
            let (_, text) =
                message.headers.iter().find(|(name, _)| name == "stamp").expect("every message is stamped");
            let seen: u64 = text.parse().unwrap();
            assert!(seen >= stamp, "stamps of one sender never go back");
            stamp = seen;
        }
        progress.stamp.fetch_max(stamp, Ordering::SeqCst);
        pair.received.store(expected, Ordering::SeqCst);
        pair.room.notify_one();
    }
}

/// Makes the swaps; gives how many were seen taking effect.
fn swap(broker: &Broker, load: Load, progress: &Progress) -> u64 {
    let started = Instant::now();
    let mut seen = 0;
    for number in 1..=load.swaps {
        std::thread::sleep(
            (started + load.pause * u32::try_from(number).unwrap()).saturating_duration_since(Instant::now()),
        );
        set_stamp(broker, number, load.with_rules);
        let deadline = Instant::now() + crate::harness::PATIENCE;
        while progress.stamp.load(Ordering::SeqCst) < number && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        seen += u64::from(progress.stamp.load(Ordering::SeqCst) >= number);
    }
    if load.swaps == 0 {
        std::thread::sleep(load.pause);
    }
    seen
}

fn set_stamp(broker: &Broker, number: u64, with_rules: bool) {
    let mut document = json!({
        "hook": "routing",
        "match": ["topic/swap.*"],
        // Every message has to be stamped, however much of an unoptimised broker that takes.
        "limits": {"cpu_share": 1.0},
    });
    if with_rules && number % 2 == 1 {
        document["rules"] = json!([{"then": {"set_headers": {"stamp": number.to_string()}}}]);
    } else {
        document["plugin"] = format!("stamp@{}", 1 + number % 2).into();
        document["config"] = json!({"stamp": number.to_string()});
    }
    let (status, body) = broker.put_json("/v1/policies/stamps", &document);
    assert!(status < 300, "{status} {body}");
}

/// Microseconds up to a minute; larger ones count as a minute.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).unwrap()
}
