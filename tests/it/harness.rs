//! A broker process for one test, a raw WebSocket peer, and the admin API.

use crate::binary::{from_binary, to_binary, try_binary};
use crate::bridge::{self, Way};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

/// Nothing on loopback takes this long unless it is lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker with a data directory of its own.
pub(crate) struct Broker {
    process: Child,
    pub(crate) data: Arc<tempfile::TempDir>,
    environment: Vec<(String, String)>,
    /// The lines of its log about changes.
    audit: Audit,
    pub(crate) address: String,
    pub(crate) admin: String,
    /// SHA-256 of its certificate, where it has one.
    pub(crate) fingerprint: Option<String>,
    /// Whether its sockets speak TLS.
    is_secure: bool,
    /// How [`Self::connect`] connects.
    spoken: &'static str,
}

/// What a broker says of itself when it is ready.
struct Ready {
    process: Child,
    address: String,
    admin: String,
    fingerprint: Option<String>,
    is_secure: bool,
}

type Audit = Arc<Mutex<Vec<String>>>;

impl Broker {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more environment variables.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_on(&Arc::new(tempfile::tempdir().unwrap()), environment)
    }

    /// Starts with a configuration file.
    pub(crate) fn start_with_config(toml: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(config_file(&data), toml).unwrap();
        Self::start_on(&Arc::new(data), &[])
    }

    /// Starts on a data directory that an earlier broker may have left.
    pub(crate) fn start_on(data: &Arc<tempfile::TempDir>, environment: &[(&str, &str)]) -> Self {
        let environment: Vec<_> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let audit = Audit::default();
        let Ready { process, address, admin, fingerprint, is_secure } =
            Self::launch(data, &environment, &audit);
        let (data, spoken) = (data.clone(), "waspmq.v1.json");
        Self { process, data, environment, audit, address, admin, fingerprint, is_secure, spoken }
    }

    /// Has peers connect in this profile, or by this way.
    pub(crate) const fn speaking(mut self, profile: &'static str) -> Self {
        self.spoken = profile;
        self
    }

    /// Kills the broker unless it has ended, and starts it again on the same directory and other ports.
    pub(crate) fn restart(&mut self) {
        self.restart_after("KILL");
    }

    /// As [`Self::restart`], ended by this signal.
    pub(crate) fn restart_after(&mut self, signal: &str) {
        if self.process.try_wait().unwrap().is_none() {
            self.signal(signal);
        }
        self.wait();
        let ready = Self::launch(&self.data, &self.environment, &self.audit);
        (self.process, self.address, self.admin) = (ready.process, ready.address, ready.admin);
        (self.fingerprint, self.is_secure) = (ready.fingerprint, ready.is_secure);
    }

    fn launch(data: &tempfile::TempDir, environment: &[(String, String)], audit: &Audit) -> Ready {
        let mut command = Self::command(data);
        if config_file(data).exists() {
            command.arg("--config").arg(config_file(data));
        }
        let mut process = command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut address, mut admin, mut fingerprint, mut said) = (None, None, None, String::new());
        let mut is_secure = false;
        while address.is_none() || admin.is_none() {
            let Some(line) = lines.next().transpose().unwrap() else { panic!("it did not start:\n{said}") };
            said += &line;
            said.push('\n');
            address = address.or_else(|| between(&line, "ws://", "/ws"));
            is_secure |= line.contains("wss://");
            address = address.or_else(|| between(&line, "wss://", "/ws"));
            let after = line.split_once("sha-256  ").map(|(_, sha256)| sha256.trim().to_owned());
            fingerprint = fingerprint.or(after);
            admin = admin.or_else(|| between(&line, "http://", "/"));
        }
        // The rest of the log is read so that the broker never waits for a full pipe; what matters is shown.
        let audit = Arc::clone(audit);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if ["WARN", "ERROR", "panicked"].iter().any(|word| line.contains(word)) {
                    eprintln!("broker: {line}");
                }
                let plain = without_colours(&line);
                if plain.contains(" audit: ") || plain.contains(" ERROR ") {
                    audit.lock().unwrap().push(plain);
                }
            }
        });
        Ready { process, address: address.unwrap(), admin: admin.unwrap(), fingerprint, is_secure }
    }

    pub(crate) fn command(data: &tempfile::TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.arg("serve").arg("--data-dir").arg(data.path()).env("WASPMQ_WORKERS", "2");
        command
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}/ws", self.address)
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.data.path().join("admin-token")).unwrap().trim().to_owned()
    }

    /// Connects without sending anything.
    pub(crate) async fn open(&self, subprotocol: Option<&str>) -> Peer {
        self.open_with(subprotocol, None).await.0
    }

    /// Connects with an offer of extensions, and gives what was answered to it.
    pub(crate) async fn open_with(
        &self,
        subprotocol: Option<&str>,
        offer: Option<&str>,
    ) -> (Peer, Option<String>) {
        if let Some(way) = subprotocol.and_then(Way::of) {
            let socket = bridge::bridge(self, way).await;
            return (Peer { socket, is_binary: way.is_binary() }, None);
        }
        let mut request = self.url().into_client_request().unwrap();
        for (name, value) in [("sec-websocket-protocol", subprotocol), ("sec-websocket-extensions", offer)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
        let answer = response.headers().get("sec-websocket-extensions");
        let answer = answer.map(|answer| answer.to_str().unwrap().to_owned());
        (Peer { socket, is_binary: subprotocol == Some("waspmq.v1.bin") }, answer)
    }

    /// Connects over TLS without sending anything.
    pub(crate) async fn open_secure(&self, connector: Connector, subprotocol: &str) -> Peer {
        let mut request = self.url().into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().unwrap());
        let connecting =
            tokio_tungstenite::connect_async_tls_with_config(request, None, true, Some(connector));
        Peer { socket: connecting.await.unwrap().0, is_binary: subprotocol == "waspmq.v1.bin" }
    }

    /// Connects as a user, in the JSON profile over WebSocket unless the broker is spoken to otherwise.
    pub(crate) async fn connect(&self, user: &str) -> Peer {
        let mut peer = self.open(Some(self.spoken)).await;
        peer.send(&json!({"type": "connect", "user": user})).await;
        assert_eq!(peer.receive().await["type"], "welcome");
        peer
    }

    /// Connects as a device of a user, in a profile.
    pub(crate) async fn connect_as(&self, user: &str, device: &str, profile: &str) -> Peer {
        let mut peer = self.open(Some(profile)).await;
        peer.send(&json!({"type": "connect", "user": user, "device": device})).await;
        assert_eq!(peer.receive().await["type"], "welcome");
        peer
    }

    /// An admin call; the answer's status and JSON body (null when it is not JSON).
    pub(crate) fn admin(&self, method: &str, path: &str, body: Option<(&str, Vec<u8>)>) -> (u16, Value) {
        let (status, text) = self.admin_text(method, path, body);
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) fn admin_text(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> (u16, String) {
        let token = format!("Bearer {}", self.token());
        self.http(method, path, &[("Authorization", &token)], body)
    }

    /// Any request to the admin listener.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
    ) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.admin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let content_type = body.as_ref().map(|(content_type, _)| *content_type);
        if let Some(content_type) = content_type.filter(|content_type| !content_type.is_empty()) {
            request = request.header("Content-Type", content_type);
        }
        let request = request.body(body.map_or_else(Vec::new, |(_, bytes)| bytes)).unwrap();
        let mut response = agent.run(request).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// A policy that says nothing of its limits gets generous ones: the default deadline is for a release build that has
    /// a processor, not for a debug build beside a hundred tests.
    pub(crate) fn put_json(&self, path: &str, document: &Value) -> (u16, Value) {
        let mut document = document.clone();
        if path.starts_with("/v1/policies/")
            && document.get("plugin").is_some()
            && document.get("limits").is_none()
        {
            document["limits"] = json!({"deadline_ms": 100, "cpu_share": 1.0});
        }
        self.admin("PUT", path, Some(("application/json", document.to_string().into_bytes())))
    }

    /// The value of a metric line that starts with `name`, labels included.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (status, text) = self.http("GET", "/metrics", &[], None);
        assert_eq!(status, 200);
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until a condition on the broker holds; for figures that workers publish once a second.
    pub(crate) fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let started = std::time::Instant::now();
        while !condition(self) {
            assert!(started.elapsed() < PATIENCE, "{what} did not come true");
            std::thread::yield_now();
        }
    }

    /// Waits until a line of the audit log, or an error, has all of these words.
    pub(crate) fn audited(&self, words: &[&str]) {
        let has = |line: &String| words.iter().all(|word| line.contains(word));
        self.eventually(&format!("an audit line with {words:?}"), |broker| {
            broker.audit.lock().unwrap().iter().any(has)
        });
    }

    pub(crate) fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A line of the log without the escape sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or("", |(_, text)| text))
}

/// Where a test's configuration lies.
fn config_file(data: &tempfile::TempDir) -> std::path::PathBuf {
    data.path().join("test.toml")
}

fn between(line: &str, before: &str, after: &str) -> Option<String> {
    let rest = line.split_once(before)?.1;
    let (address, _) = rest.split_once(after)?;
    address.parse::<std::net::SocketAddr>().ok().map(|address| address.to_string())
}

/// A WebSocket client that sends and sees exactly what a test says.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    is_binary: bool,
}

impl Peer {
    pub(crate) async fn send(&mut self, frame: &Value) {
        let text = frame.to_string();
        if self.is_binary {
            self.socket.send(Message::binary(to_binary(&text))).await.unwrap();
        } else {
            self.send_text(&text).await;
        }
    }

    /// Sends several frames in one WebSocket message, so that the broker reads them in one turn.
    pub(crate) async fn send_all(&mut self, frames: &[Value]) {
        let texts = frames.iter().map(Value::to_string);
        if self.is_binary {
            let bytes: Vec<u8> = texts.flat_map(|text| to_binary(&text)).collect();
            self.socket.send(Message::binary(bytes)).await.unwrap();
        } else {
            self.send_text(&texts.collect::<Vec<_>>().join("\n")).await;
        }
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends a text that may be no frame. Says whether the profile has a way to.
    pub(crate) async fn send_if_it_can_be(&mut self, text: &str) -> bool {
        if !self.is_binary {
            self.send_text(text).await;
            return true;
        }
        let Some(bytes) = try_binary(text) else { return false };
        self.socket.send(Message::binary(bytes)).await.unwrap();
        true
    }

    /// The next frame; panics when there is none in time.
    pub(crate) async fn receive(&mut self) -> Value {
        match self.next().await {
            Ok(Message::Text(text)) if !self.is_binary => serde_json::from_str(&text).unwrap(),
            Ok(Message::Binary(bytes)) if self.is_binary => from_binary(&bytes),
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match next.unwrap_or(Err(Error::ConnectionClosed)) {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => return other,
            }
        }
    }

    /// Sends a frame and gives the answer.
    pub(crate) async fn ask(&mut self, frame: Value) -> Value {
        self.send(&frame).await;
        self.receive().await
    }

    /// Expects an error frame with this code.
    pub(crate) async fn expect_error(&mut self, code: u16) -> Value {
        let frame = self.receive().await;
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(code)), "{frame}");
        frame
    }

    /// Expects the close frame and gives its code.
    pub(crate) async fn expect_close(&mut self) -> u16 {
        match self.next().await {
            Ok(Message::Close(Some(CloseFrame { code, .. }))) => code.into(),
            other => panic!("expected a close frame, got {other:?}"),
        }
    }

    /// Everything up to a marker that `sender` now sends to this peer's user. What the sender published before
    /// reaches this peer's worker first, so nothing of it comes later.
    pub(crate) async fn receive_until_marker(&mut self, user: &str, sender: &mut Self) -> Vec<Value> {
        sender.send(&json!({"type": "publish", "to": format!("user/{user}"), "payload": "marker"})).await;
        let mut frames = Vec::new();
        loop {
            let frame = self.receive().await;
            if frame["payload"] == "marker" {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// Shows that the session is alive and nothing unexpected is waiting.
    pub(crate) async fn expect_quiet(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping"})).await, json!({"type": "pong"}));
    }
}
