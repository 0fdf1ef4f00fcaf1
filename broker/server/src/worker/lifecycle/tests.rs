//! Logins under a policy and watchers of a full worker, through two running workers and real sockets.

use crate::admin::tests::control;
use crate::control::Control;
use crate::listeners;
use crate::phase::Phase;
use crate::worker::counters::Counters;
use crate::worker::{CompressionSettings, Settings, Shared, run};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waspmq_core::delivery::{AckPlan, Backoff};
use waspmq_core::registry::{
    Change, LoginPolicy, PresenceChange, Registry, Session, SessionEntry, Workers as _,
};
use waspmq_core::settings::{self, Rules};
use waspmq_core::{Kind, Name, Pattern, SessionId, limits, registry};

pub(in crate::worker) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Two workers that listen on a free port.
pub(in crate::worker) struct Workers {
    control: Control,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Workers {
    fn start(login: LoginPolicy) -> Self {
        Self::of(control(), login)
    }

    /// The same as a part of a broker. What is not acknowledged of `topic/patient.*` does not come again while a test runs.
    pub(in crate::worker) fn of(control: Control, login: LoginPolicy) -> Self {
        let control = Control { registry: Arc::new(Registry::new(7, 0).with_login_policy(login)), ..control };
        control.phase.advance(Phase::Ready);
        let backoff = Backoff { initial_ms: 600_000, max_ms: 600_000, jitter_percent: 0 };
        let ack = AckPlan { backoff, ..AckPlan::default() };
        let patient = settings::Settings { ack, ..settings::Settings::of_kind(Kind::Topic) };
        let shared = Arc::new(Shared {
            clock: control.clock,
            node: control.node.clone(),
            settings: settings(),
            phase: control.phase.clone(),
            registry: control.registry.clone(),
            policies: control.policies.clone(),
            access: control.access.clone(),
            tls: control.tls.clone(),
            rules: Arc::new(Rules::new(vec![(Pattern::parse("topic/patient.*").unwrap(), patient)])),
            journal: control.journal.clone(),
            kept: Arc::default(),
            unread: Arc::default(),
            resumes: Arc::new(crate::resumes::Resumes::new(60_000)),
            queues: Arc::new(crate::queues::KeptQueues::new(2)),
            dictionaries: control.dictionaries.clone(),
            tails: control.tails.clone(),
            mailboxes: control.mailboxes.clone(),
        });
        let listeners = listeners::bind("127.0.0.1:0".parse().unwrap(), 2, 64 * 1024).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let threads = (0..).zip(listeners).map(|(number, listener)| {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            std::thread::spawn(move || run(number, shared, (listener, None), stopped))
        });
        Self { control, address, stop, threads: threads.collect() }
    }

    pub(in crate::worker) fn counted(&self, pick: impl Fn(&Counters) -> u64) -> u64 {
        self.control.mailboxes.iter().map(|mailbox| pick(&mailbox.counters)).sum()
    }

    pub(in crate::worker) async fn connect(&self, user: &str) -> (Socket, Value) {
        self.begin(json!({"user": user})).await
    }

    /// Sends this as `connect`; gives the answer, too.
    pub(in crate::worker) async fn begin(&self, mut connect: Value) -> (Socket, Value) {
        connect["type"] = json!("connect");
        let (mut socket, _) =
            tokio_tungstenite::connect_async(format!("ws://{}/ws", self.address)).await.unwrap();
        socket.send(Message::text(connect.to_string())).await.unwrap();
        let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no answer") };
        (socket, serde_json::from_str(&text).unwrap())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
    }
}

fn settings() -> Settings {
    Settings {
        check_host: true,
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        connections_max: 100,
        message_bytes_max: limits::MESSAGE_BYTES_MAX,
        outbound_bytes_max: limits::OUTBOUND_BYTES_MAX,
        worker_outbound_bytes_max: 64 * limits::OUTBOUND_BYTES_MAX,
        inbound_bytes_max: 64 * limits::MESSAGE_BYTES_MAX,
        publishes_per_second: 0,
        publish_burst: 1,
        connect_timeout_us: 10_000_000,
        heartbeat_ms: 25_000,
        compression: CompressionSettings { budget: None, permessage_deflate: false },
    }
}

async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("expected a close frame, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_oldest_session_is_replaced_on_whichever_worker_it_is() {
    let workers = Workers::start(LoginPolicy::ReplaceOldest(2));
    let (mut sockets, mut ids) = (std::collections::VecDeque::new(), Vec::new());
    for count in 0..20 {
        let (socket, welcome) = workers.connect("alice").await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        sockets.push_back(socket);
        ids.push(welcome["session"].as_str().unwrap().to_owned());
        if count >= 2 {
            let mut oldest = sockets.pop_front().unwrap();
            assert_eq!(close_code(&mut oldest).await, 4003);
        }
    }
    let (_other, welcome) = workers.connect("bob").await;
    assert_eq!(welcome["type"], "welcome");
    let mut left = workers.control.sessions();
    left.retain(|entry| entry.session.user.as_str() == "alice");
    let mut left: Vec<_> = left.iter().map(|entry| entry.session.id.to_string()).collect();
    left.sort_unstable();
    let mut newest = ids.split_off(18);
    newest.sort_unstable();
    assert_eq!(left, newest);
}

/// Others would wait for its connections when they drain.
#[tokio::test]
async fn a_worker_that_has_ended_has_no_connections() {
    let mut workers = Workers::start(LoginPolicy::Coexist);
    let _alice = workers.connect("alice").await;
    let connections = |workers: &Workers| workers.counted(|counters| counters.connections.load());
    assert_eq!(connections(&workers), 1);
    workers.stop.send(true).unwrap();
    for thread in workers.threads.drain(..) {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(connections(&workers), 0);
}

#[tokio::test]
async fn one_login_too_many_is_refused() {
    let workers = Workers::start(LoginPolicy::Limit(1));
    let (mut first, _) = workers.connect("alice").await;
    let (mut second, refusal) = workers.connect("alice").await;
    assert_eq!((&refusal["type"], &refusal["code"]), (&json!("error"), &json!(1421)), "{refusal}");
    assert_eq!(close_code(&mut second).await, 4103);
    first.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(first.next().await, Some(Ok(Message::Text(text))) if text.contains("pong")));
}

/// Loses every change, as a full mailbox does.
struct Full;

impl registry::Workers for Full {
    fn has_room(&self, _worker: u8) -> bool {
        true
    }

    fn notify(&self, _worker: u8, _change: Change) {}

    fn presence(&self, _worker: u8, _change: PresenceChange) {}
}

#[tokio::test]
async fn watchers_catch_up_on_what_a_full_mailbox_lost() {
    let workers = Workers::start(LoginPolicy::Coexist);
    let (mut alice, _) = workers.connect("alice").await;
    alice.send(Message::text(r#"{"type":"watch","users":["bob","noise"]}"#)).await.unwrap();
    for kind in ["ok", "presence", "presence"] {
        let Some(Ok(Message::Text(text))) = alice.next().await else { panic!("no answer") };
        assert!(text.contains(&format!(r#""type":"{kind}""#)), "{text}");
    }
    let Control { registry, mailboxes, .. } = &workers.control;
    let worker = registry.sessions()[0].session.worker;
    let [bob, noise] = ["bob", "noise"].map(|user| Name::parse(user).unwrap());
    let session = Session { id: SessionId::new(7, 9, 1), worker, user: bob, device: None };
    let entry = SessionEntry {
        session,
        transport: "test",
        remote: workers.address,
        connected_unix_ms: 0,
        is_generated: false,
    };
    registry.connect(entry, &Full).unwrap();
    let mut seq = registry.presence(&noise).seq;
    while mailboxes.of(worker).presence_lost() == 0 {
        seq += 1;
        let user = noise.clone();
        mailboxes.presence(worker, PresenceChange { user, online: true, last_seen_unix_ms: None, seq });
    }
    let told = async {
        loop {
            let Some(Ok(Message::Text(text))) = alice.next().await else { panic!("the session ended") };
            if text.contains("bob") {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(10), told).await.expect("bob's state is not lost");
    assert!(text.contains(r#""online":true"#), "{text}");
}

#[test]
fn nobody_is_closed_for_silence_without_having_been_asked() {
    use super::{Late, of_silence};
    assert_eq!(of_silence(999, 1_000, false), None);
    assert_eq!(of_silence(1_000, 1_000, false), Some(Late::Ping));
    assert_eq!(of_silence(2_000, 1_000, false), Some(Late::Ping), "the last sweep was just too early");
    assert_eq!(of_silence(1_999, 1_000, true), None);
    assert_eq!(of_silence(2_000, 1_000, true), Some(Late::Close));
}
