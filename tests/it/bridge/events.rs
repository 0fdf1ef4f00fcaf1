//! A peer over server-sent events: `GET /sse` for what it is sent, `POST /frames` for what it says.

use crate::harness::Broker;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use url::form_urlencoded;

/// A connection to the broker that requests are written to.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
    host: String,
}

/// The head of an answer, and its body where it has a length.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What a stream of events has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Frame(Value),
    Id(String),
    Retry(u32),
    Comment,
    /// The stream is over.
    End,
}

impl Http {
    pub(crate) async fn connect(broker: &Broker) -> Self {
        let stream = TcpStream::connect(&broker.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host: broker.address.clone() }
    }

    /// Writes a request; `headers` end with a line break each.
    pub(crate) async fn write(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = &self.host;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}\r\n{body}");
        self.write_raw(&request).await;
    }

    pub(crate) async fn write_raw(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1)?.parse().ok()?;
        let (mut head, mut length) = (first, 0);
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            head = head + "\n" + &line;
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Posts frames of a session; gives the status and the body.
    pub(crate) async fn post(&mut self, path: &str, token: &str, frames: &str) -> (u16, Value) {
        self.write("POST", path, &format!("Authorization: Bearer {token}\r\n"), frames).await;
        let answer = self.answer().await.expect("an answer");
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// The next of the events.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            let Some(line) = self.line().await else { return Event::End };
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name {
                "data" => return Event::Frame(serde_json::from_str(value).unwrap()),
                "id" => return Event::Id(value.to_owned()),
                "retry" => return Event::Retry(value.parse().unwrap()),
                ":" => return Event::Comment,
                "" => {}
                other => panic!("not a field of an event: {other}"),
            }
        }
    }

    /// The next frame; everything else is skipped.
    pub(crate) async fn frame(&mut self) -> Option<Value> {
        loop {
            match self.event().await {
                Event::Frame(frame) => return Some(frame),
                Event::End => return None,
                Event::Id(_) | Event::Retry(_) | Event::Comment => {}
            }
        }
    }
}

/// The address of the events of a session that begins with this `connect`.
fn target(connect: &Value) -> String {
    let mut query = form_urlencoded::Serializer::new(String::from("/sse?"));
    for name in ["user", "device", "token"] {
        if let Some(value) = connect[name].as_str() {
            query.append_pair(name, value);
        }
    }
    if let Some(token) = connect["resume"]["token"].as_str() {
        let positions = connect["resume"]["positions"].as_array().into_iter().flatten();
        let id = positions.fold(token.to_owned(), |id, position| id + "," + position.as_str().unwrap());
        query.append_pair("last_event_id", &id);
    }
    query.finish()
}

/// Carries the messages of a WebSocket to a session of events and back.
pub(super) async fn relay(socket: WebSocketStream<TcpStream>, mut events: Http, mut posts: Http) {
    let (mut sink, mut source) = socket.split();
    let Some(Ok(Message::Text(connect))) = source.next().await else { return };
    let connect: Value = serde_json::from_str(&connect).unwrap();
    assert_eq!(connect["type"], "connect", "a request for events is the first frame");
    events.write("GET", &target(&connect), "", "").await;
    let Some(answer) = events.answer().await else { return };
    if answer.status != 200 {
        _ = sink.send(Message::text(answer.body)).await;
        return;
    }
    let Some(welcome) = events.frame().await else { return };
    let token = welcome["resume_token"].as_str().map(str::to_owned);
    if sink.send(Message::text(welcome.to_string())).await.is_err() {
        return;
    }
    let (refusals, mut refused) = tokio::sync::mpsc::channel::<Value>(16);
    let up = async {
        while let (Some(Ok(message)), Some(token)) = (source.next().await, &token) {
            let Message::Text(frames) = message else { continue };
            let mut answer = posts.post("/frames", token, &frames).await;
            while answer.0 == 503 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                answer = posts.post("/frames", token, &frames).await;
            }
            if answer.0 == 400 {
                refusals.send(answer.1).await.unwrap();
            }
        }
    };
    let down = async {
        loop {
            let frame = tokio::select! {
                biased;
                frame = events.frame() => frame,
                Some(refusal) = refused.recv() => Some(refusal),
            };
            let Some(frame) = frame else { return };
            let message = if frame["type"] == "close" {
                let code = u16::try_from(frame["code"].as_u64().unwrap()).unwrap();
                let reason = frame["name"].as_str().unwrap().to_owned();
                Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
            } else {
                Message::text(frame.to_string())
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    // Who goes away does so on all its connections.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
