//! `GET /v1/tail` as a client meets it: what is refused, and what the events say.

use super::*;
use crate::tail::{Content, Fate, Line, Seen, limits as bounds};
use axum::body::BodyDataStream;
use futures_util::stream::Stream as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use waspmq_core::{Address, Code, Position, Reject, Stream};

/// An answer that goes on.
struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    async fn open(api: &Api, path: &str) -> Self {
        let response = api.router.clone().oneshot(empty(operator("GET", path))).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The events that are there, by their names, and whether it is over.
    async fn read(&mut self) -> (Vec<(String, Value)>, bool) {
        // As long as something is there, however long that is for one turn of a task.
        let reading = poll_fn(|context| {
            loop {
                match Pin::new(&mut self.body).poll_next(context) {
                    Poll::Pending => return Poll::Ready(false),
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Ready(Some(piece)) => self.text += str::from_utf8(&piece.unwrap()).unwrap(),
                }
            }
        });
        let is_over = tokio::task::unconstrained(reading).await;
        let text = std::mem::take(&mut self.text);
        let events = text.split_terminator("\n\n").map(|event| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name.to_owned(), serde_json::from_str(data).unwrap())
        });
        (events.collect(), is_over)
    }

    async fn next(&mut self) -> Value {
        let (mut events, _) = self.read().await;
        assert_eq!((events.len(), events[0].0.as_str()), (1, "message"), "{events:?}");
        events.remove(0).1
    }
}

fn seen(payload: &[u8], is_json: bool, fate: Fate) -> Seen {
    let line = |id: u64, payload: &[u8]| Line {
        id: Some(MessageId::new(5, 7, 1, id)),
        payload_bytes: payload.len(),
        priority: 2,
        content: Some(Content::new((payload, is_json), [("k", "v")])),
    };
    Seen {
        to: Address::parse("topic/a").unwrap(),
        from: Some(Name::parse("alice").unwrap()),
        unix_ms: 5,
        level: Level::Accepted,
        instead: Vec::new(),
        delay_ms: 0,
        messages: vec![line(1, payload)],
        fate,
    }
}

fn accepted() -> Fate {
    Fate::accepted(Some(Position { stream: Stream { shard: 3, epoch: 1 }, offset: 57 }), Some(2))
}

#[tokio::test]
async fn a_publish_is_an_event() {
    let api = Api::new();
    let mut events = Events::open(&api, "/v1/tail?match=topic/a&match=user/*&payload=true").await;
    let ready = json!({"node": "node-1", "match": ["topic/a", "user/*"], "payload": true});
    assert_eq!(events.read().await, (vec![("ready".to_owned(), ready)], false));
    let id = MessageId::new(5, 7, 1, 1).to_string();
    api.control.tails.show(seen(br#"{"x":1}"#, true, accepted()));
    let expected = json!({
        "id": id, "ts": 5, "to": "topic/a", "from": "alice", "pos": "s3e1:57", "kind": "topic", "outcome": "accepted",
        "recipients": 2, "ack": "accepted", "size": 7, "priority": 2, "headers": {"k": "v"}, "payload": {"x": 1}
    });
    assert_eq!(events.next().await, expected);
    api.control.tails.show(seen(b"\xff", false, accepted()));
    assert_eq!(events.next().await["payload_b64"], "/w==");
    // What is cut is no JSON any more, and may be cut within a character.
    let long = format!("\"{}\"", "ü".repeat(bounds::PAYLOAD_BYTES_MAX / 2));
    api.control.tails.show(seen(long.as_bytes(), true, accepted()));
    let cut = events.next().await;
    assert_eq!((&cut["truncated"], &cut["size"]), (&json!(true), &json!(long.len())));
    assert_eq!(cut["payload"].as_str().unwrap().len(), bounds::PAYLOAD_BYTES_MAX - 1);
    let reject = Reject::new(Code::DroppedByPolicy, "spam");
    let refused = Seen { from: None, ..seen(b"1", true, Fate::refused(&reject)) };
    api.control.tails.show(Seen { instead: vec![Address::parse("user/b").unwrap()], delay_ms: 9, ..refused });
    let refused = events.next().await;
    let words = ["outcome", "error", "reason"].map(|key| refused[key].as_str().unwrap());
    assert_eq!(words, ["dropped_by_policy", "dropped_by_policy", "spam"]);
    assert_eq!((&refused["instead"], &refused["delay_ms"]), (&json!(["user/b"]), &json!(9)));
    assert!(
        refused.get("from").is_none() && refused.get("pos").is_none() && refused.get("recipients").is_none()
    );
}

#[tokio::test]
async fn payload_and_headers_only_when_asked() {
    let api = Api::new();
    let mut full = Events::open(&api, "/v1/tail?payload=true").await;
    let mut plain = Events::open(&api, "/v1/tail").await;
    let mut others = Events::open(&api, "/v1/tail?from=bo").await;
    for events in [&mut full, &mut plain, &mut others] {
        events.read().await;
    }
    let mut two = seen(b"1", true, accepted());
    two.messages.extend(seen(b"22", true, accepted()).messages);
    api.control.tails.show(two);
    let (shown, _) = plain.read().await;
    let keys: Vec<_> = shown[1].1.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["ack", "from", "id", "kind", "outcome", "pos", "priority", "recipients", "size", "to", "ts"];
    assert_eq!(keys, expected);
    assert_eq!([&shown[0].1["pos"], &shown[1].1["pos"]], ["s3e1:57", "s3e1:58"]);
    assert_eq!(full.read().await.0[1].1["payload"], 22);
    assert_eq!(others.read().await, (vec![], false));
    let metrics = api.call("GET", "/metrics").await.text;
    for line in ["waspmq_tails 3", "waspmq_tail_messages_total{outcome=\"queued\"} 4"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_told_and_the_stream_ends_with_the_service() {
    let api = Api::new();
    let mut events = Events::open(&api, "/v1/tail").await;
    events.read().await;
    for _ in 0..bounds::QUEUE_ENTRIES_MAX + 17 {
        api.control.tails.show(seen(b"1", true, accepted()));
    }
    let (shown, _) = events.read().await;
    assert_eq!(shown.len(), bounds::QUEUE_ENTRIES_MAX + 1);
    assert_eq!(shown.last().unwrap(), &("dropped".to_owned(), json!({"count": 17})));
    api.control.tails.show(seen(b"1", true, accepted()));
    api.control.tails.close();
    let (shown, is_over) = events.read().await;
    assert_eq!((shown.len(), is_over), (1, true));
    api.call("GET", "/v1/tail").await.problem(503, "draining");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_tail_says_that_it_lives() {
    let api = Api::new();
    let mut events = Events::open(&api, "/v1/tail").await;
    events.read().await;
    let before = tokio::time::Instant::now();
    let sign = events.body.next().await.unwrap().unwrap();
    assert_eq!((&*sign, before.elapsed()), (&b":\n\n"[..], bounds::SILENCE_MAX));
}

#[tokio::test]
async fn queries_out_of_bounds_are_refused_by_key() {
    let api = Api::new();
    let many = "match=all&".repeat(bounds::PATTERNS_MAX + 1);
    for (query, name, key) in [
        ("match=user/a*", "invalid_address", json!("match")),
        ("match=orders", "invalid_address", json!("match")),
        (many.as_str(), "invalid_query", json!("match")),
        ("payload=yes", "invalid_query", json!("payload")),
        ("payload=true&payload=true", "invalid_query", json!("payload")),
        ("from=a%20b", "invalid_name", json!("from")),
        ("from=a&from=b", "invalid_query", json!("from")),
        ("matches=all", "invalid_query", Value::Null),
    ] {
        let problem = api.call("GET", &format!("/v1/tail?{query}")).await.problem(400, name);
        assert_eq!(problem["key"], key, "{problem}");
    }
    let mut open = Vec::new();
    for _ in 0..bounds::TAILS_MAX {
        open.push(Events::open(&api, "/v1/tail").await);
    }
    assert_eq!(api.call("GET", "/v1/tail").await.problem(503, "overloaded")["retry_ms"], 1_000);
    open.pop();
    Events::open(&api, "/v1/tail").await;
}

#[tokio::test]
async fn who_asks_for_payloads_is_on_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let audit = waspmq_store::AuditLog::open(directory.path().join("audit.log")).unwrap();
    let control = Control { audit: Some(Arc::new(audit)), ..control() };
    let api = Api { router: router(state(control.clone())), control };
    for query in ["", "?payload=true", "?match=topic/a&match=all&payload=true"] {
        Events::open(&api, &format!("/v1/tail{query}")).await;
    }
    let changes = api.call("GET", "/v1/audit").await.json();
    let lines = changes["changes"].as_array().unwrap();
    let told: Vec<_> = lines.iter().map(|line| (&line["what"], &line["name"], &line["to"])).collect();
    let (what, to) = (json!("tail open"), json!("with payload and headers"));
    assert_eq!(told, [(&what, &json!("everything"), &to), (&what, &json!("topic/a all"), &to)]);
}

/// Beyond the age of a connection that would be cut, and the time it would have to end.
#[tokio::test(start_paused = true)]
async fn a_tail_that_is_read_outlives_the_age_of_connections() {
    let signs =
        (limits::CONNECTION_AGE_MAX + 3 * limits::REQUEST_TIMEOUT).as_secs() / bounds::SILENCE_MAX.as_secs();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Before anything serves it, so that no time passes meanwhile.
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request =
        format!("GET /v1/tail HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    let reading = async {
        let (mut buffer, mut seen) = ([0; 1_024], 0);
        while seen < signs {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "cut off after {seen} signs");
            seen += buffer[..count].windows(3).filter(|bytes| bytes == b":\n\n").count() as u64;
        }
    };
    tokio::select! {
        served = serve(listener, state(control()), std::future::pending()) => panic!("{served:?}"),
        () = reading => {}
    }
}
