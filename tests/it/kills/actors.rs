//! The clients of a crash test: library clients and raw peers, publishing and receiving.

use super::dice::Dice;
use super::rounds::{PICKY, USERS};
use super::verdict::{Arrival, Message, Notes, Promise};
use crate::harness::{Broker, PATIENCE, Peer};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use waspmq_client::{Backoff, Client, Level, Payload, PublishOptions};

type Shared = Arc<Mutex<Notes>>;
type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Publishes of level `stored` that one publisher waits for; what paces it.
const STORED_IN_FLIGHT: usize = 32;
/// The one number that ends every user's messages.
pub(crate) const END: u64 = u64::MAX;

/// A fixed port in front of a broker whose port changes; shut, it closes what connects.
#[derive(Debug)]
pub(crate) struct Gate {
    address: String,
    to: Arc<Mutex<Option<String>>>,
    doorman: JoinHandle<()>,
}

impl Gate {
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let to = Arc::new(Mutex::new(None::<String>));
        let seen = to.clone();
        let doorman = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = seen.lock().unwrap().clone();
                tokio::spawn(async move {
                    let Some(to) = to else { return };
                    if let Ok(mut broker) = TcpStream::connect(to).await {
                        // It ends when the broker is killed, which is no surprise here.
                        _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
                    }
                });
            }
        });
        Self { address, to, doorman }
    }

    pub(crate) fn lead_to(&self, to: Option<String>) {
        *self.to.lock().unwrap() = to;
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.doorman.abort();
    }
}

/// Starts every recipient of the run.
pub(crate) async fn recipients(gate: &Gate, notes: &Shared) -> Vec<JoinHandle<()>> {
    let mut recipients = Vec::new();
    for user in USERS {
        let backoff = Backoff { first_ms: 10, max_ms: 40 };
        let builder = Client::builder(gate.url()).user(user).device("library").backoff(backoff);
        let (client, mut messages) = builder.connect().await.unwrap();
        let notes = notes.clone();
        recipients.push(tokio::spawn(async move {
            while let Some(received) = messages.recv().await {
                let message = Message::parse(&serde_json::from_slice(&received.payload).unwrap());
                let (id, attempt) = (received.id.to_string(), received.attempt.map(u64::from));
                let arrival = Arrival { message, id, attempt, connection: 0, is_acked: true };
                notes.lock().unwrap().arrive(user, "library", arrival);
            }
            panic!("the client of {user} ended: {:?}", client.close().await);
        }));
    }
    for user in [USERS[0], USERS[1], PICKY] {
        recipients.push(tokio::spawn(receive_raw(gate.url(), user, notes.clone())));
    }
    recipients
}

/// A raw peer that connects whenever it can.
async fn receive_raw(url: String, user: &'static str, notes: Shared) {
    let mut dice = Dice::new(u64::from(user.as_bytes()[1]));
    for connection in 1.. {
        if let Ok((mut socket, _)) = tokio_tungstenite::connect_async(&url).await {
            let connect = json!({"type": "connect", "user": user, "device": "raw"});
            if socket.send(Frame::text(connect.to_string())).await.is_ok() {
                receive_until_lost(&mut socket, (user, connection), (&notes, &mut dice)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn receive_until_lost(
    socket: &mut Socket,
    (user, connection): (&'static str, u64),
    (notes, dice): (&Shared, &mut Dice),
) {
    while let Some(Ok(frame)) = socket.next().await {
        let Frame::Text(text) = frame else { continue };
        for line in text.lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            if frame["type"] == "error" {
                panic!("{user} was told {frame}");
            }
            if frame["type"] != "message" {
                continue;
            }
            let message = Message::parse(&frame["payload"]);
            let wants_ack = frame["ack"] == json!(true);
            let is_acked = wants_ack && (user != PICKY || !notes.lock().unwrap().is_refused(&message));
            let id = frame["id"].as_str().unwrap().to_owned();
            let arrival = Arrival { message, id, attempt: frame["attempt"].as_u64(), connection, is_acked };
            // Before the ack is sent, so that no receipt can be ahead of the note.
            notes.lock().unwrap().arrive(user, "raw", arrival);
            let one_by_one = user == PICKY || frame["attempt"].is_u64() || dice.below(2) == 0;
            let ack = match one_by_one {
                true => json!({"type": "ack", "ids": [frame["id"]]}),
                false => json!({"type": "ack", "to": frame["to"], "upto": frame["pos"]}),
            };
            if is_acked && socket.send(Frame::text(ack.to_string())).await.is_err() {
                return;
            }
        }
    }
}

/// Starts the publishers of one round: two of the library and a raw one.
pub(crate) async fn publishers(
    broker: &Broker,
    (round, dice): (u32, &mut Dice),
    (notes, killed): (&Shared, &watch::Receiver<bool>),
) -> Vec<JoinHandle<()>> {
    notes.lock().unwrap().begin_round(round);
    let mut publishers = Vec::new();
    for number in 0..2 {
        let sender = format!("p{round}-{number}");
        let (client, _) = Client::builder(broker.url()).user(&*sender).connect().await.unwrap();
        let dice = Dice::new(dice.next());
        publishers.push(tokio::spawn(publish(
            client,
            (sender, round),
            dice,
            (notes.clone(), killed.clone()),
        )));
    }
    let sender = format!("p{round}-raw");
    let peer = broker.connect(&sender).await;
    publishers.push(tokio::spawn(publish_raw(peer, (sender, round), Dice::new(dice.next()), notes.clone())));
    publishers
}

fn choose(dice: &mut Dice) -> (&'static str, Level) {
    let user = [USERS[0], USERS[1], USERS[2], PICKY][usize::try_from(dice.below(4)).unwrap()];
    let level = match dice.below(20) {
        0 => Level::None,
        1..4 => Level::Accepted,
        4..11 => Level::Delivered,
        _ => Level::Stored,
    };
    (user, level)
}

/// Until the broker is killed.
async fn publish(
    client: Client,
    (sender, round): (String, u32),
    mut dice: Dice,
    (notes, mut killed): (Shared, watch::Receiver<bool>),
) {
    let room = Arc::new(Semaphore::new(STORED_IN_FLIGHT));
    let mut receipts = JoinSet::new();
    for n in 0.. {
        let (user, level) = choose(&mut dice);
        let message = Message { sender: sender.clone(), round, n };
        let payload = Payload::json(&message.to_json()).unwrap();
        let (to, options) =
            (format!("user/{user}"), PublishOptions { ack: level, ..PublishOptions::default() });
        if level == Level::None {
            tokio::select! {
                biased;
                _ = killed.changed() => break,
                sent = client.send(&to, payload, options) => sent.unwrap(),
            }
            continue;
        }
        let permit = match level {
            Level::Stored => tokio::select! {
                biased;
                _ = killed.changed() => break,
                permit = room.clone().acquire_owned() => Some(permit.unwrap()),
            },
            _ => None,
        };
        let receipt = tokio::select! {
            biased;
            _ = killed.changed() => break,
            receipt = client.publish(&to, payload, options) => receipt.unwrap(),
        };
        let notes = notes.clone();
        notes.lock().unwrap().published += 1;
        receipts.spawn(async move {
            match receipt.await {
                Ok(receipt) => {
                    let (level, id) = (receipt.level, receipt.id.to_string());
                    notes.lock().unwrap().promise(Promise { message, user, level, id });
                }
                Err(waspmq_client::Error::Refused(refusal)) => {
                    notes.lock().unwrap().refuse(refusal.number);
                }
                Err(_) => {} // whether the broker saw it is not known
            }
            drop(permit);
        });
    }
    drop(client); // answers what will never be answered
    receipts.join_all().await;
}

async fn publish_raw(peer: Peer, (sender, round): (String, u32), mut dice: Dice, notes: Shared) {
    let room = Arc::new(Semaphore::new(STORED_IN_FLIGHT));
    let waiting = Arc::new(Mutex::new(HashMap::<u64, (Message, &'static str, Level)>::new()));
    let (mut sink, mut stream) = peer.socket.split();
    let (noted, freed, asked) = (notes.clone(), room.clone(), waiting.clone());
    let reader = tokio::spawn(async move {
        while let Some(Ok(frame)) = stream.next().await {
            let Frame::Text(text) = frame else { continue };
            for line in text.lines() {
                let frame: Value = serde_json::from_str(line).unwrap();
                let reference = frame["ref"].as_u64().unwrap_or_else(|| panic!("{frame}"));
                let (message, user, level) = asked.lock().unwrap().remove(&reference).expect("one answer");
                let mut notes = noted.lock().unwrap();
                if frame["type"] == "receipt" {
                    assert_eq!(frame["level"], json!(level.as_str()), "{frame}");
                    let id = frame["id"].as_str().unwrap().to_owned();
                    notes.promise(Promise { message, user, level, id });
                } else {
                    notes.refuse(u16::try_from(frame["code"].as_u64().unwrap()).unwrap());
                }
                if level == Level::Stored {
                    freed.add_permits(1);
                }
            }
        }
        freed.close();
    });
    for n in 0.. {
        let (user, level) = choose(&mut dice);
        let message = Message { sender: sender.clone(), round, n };
        let mut frame =
            json!({"type": "publish", "to": format!("user/{user}"), "payload": message.to_json()});
        if level != Level::None {
            frame["ref"] = json!(n);
            frame["ack"] = json!(level.as_str());
            waiting.lock().unwrap().insert(n, (message, user, level));
            notes.lock().unwrap().published += 1;
        }
        if level == Level::Stored {
            match room.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => break,
            }
        }
        if sink.send(Frame::text(frame.to_string())).await.is_err() {
            break;
        }
    }
    reader.await.unwrap();
}

/// Publishes what ends every user's messages.
pub(crate) async fn publish_end(broker: &Broker) {
    let mut peer = broker.connect("end").await;
    let end = Message { sender: "end".to_owned(), round: u32::MAX, n: END };
    for user in USERS.into_iter().chain([PICKY]) {
        let to = format!("user/{user}");
        let publish =
            json!({"type": "publish", "ref": 1, "to": to, "payload": end.to_json(), "ack": "stored"});
        let receipt = peer.ask(publish).await;
        assert_eq!((&receipt["type"], &receipt["level"]), (&json!("receipt"), &json!("stored")), "{receipt}");
    }
}

/// What a device that was never there before is sent: everything that is stored.
pub(crate) async fn read_again(broker: &Broker, user: &str) -> Vec<(Message, String)> {
    let mut peer = broker.open(Some("waspmq.v1.json")).await;
    peer.send(&json!({"type": "connect", "user": user, "device": "new"})).await;
    let mut stored = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, peer.receive()).await;
        let frame = next.unwrap_or_else(|_| panic!("{user} got {} messages and no end", stored.len()));
        if frame["type"] != "message" {
            assert_eq!(frame["type"], "welcome", "{frame}");
            continue;
        }
        let message = Message::parse(&frame["payload"]);
        peer.send(&json!({"type": "ack", "to": frame["to"], "upto": frame["pos"]})).await;
        if message.n == END {
            return stored;
        }
        stored.push((message, frame["id"].as_str().unwrap().to_owned()));
    }
}
