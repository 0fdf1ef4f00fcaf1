//! A client over QUIC that writes its frames by itself.

use crate::binary::{from_binary, to_binary};
use crate::bridge::{endpoint, framed, message};
use crate::harness::{Broker, PATIENCE};
use crate::levels::with;
use serde_json::{Value, json};

/// A client that writes its frames by itself.
pub(super) struct Raw {
    _endpoint: quinn::Endpoint,
    pub(super) connection: quinn::Connection,
    pub(super) send: quinn::SendStream,
    pub(super) receive: quinn::RecvStream,
    pub(super) welcome: Value,
}

impl Raw {
    /// `more` is added to what is asked for in `connect`.
    pub(super) async fn connect(broker: &Broker, user: &str, more: Value) -> Self {
        Self::connect_by(broker, endpoint(broker, b"waspmq/1"), user, more).await
    }

    /// The same with an endpoint of its own.
    pub(super) async fn connect_by(
        broker: &Broker,
        endpoint: quinn::Endpoint,
        user: &str,
        more: Value,
    ) -> Self {
        let address = broker.address.parse().unwrap();
        let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut raw = Self { _endpoint: endpoint, connection, send, receive, welcome: Value::Null };
        raw.welcome = raw.ask(with(json!({"type": "connect", "user": user}), more)).await;
        assert_eq!(raw.welcome["type"], "welcome", "{}", raw.welcome);
        raw
    }

    pub(super) async fn subscribed(broker: &Broker, user: &str, more: Value) -> Self {
        let mut raw = Self::connect(broker, user, more).await;
        let answer = raw.ask(json!({"type": "subscribe", "to": "topic/t", "ref": 1})).await;
        assert_eq!(answer["type"], "ok", "{answer}");
        raw
    }

    pub(super) async fn ask(&mut self, frame: Value) -> Value {
        self.send.write_all(&framed(&frame)).await.unwrap();
        self.next().await
    }

    /// The next frame of the stream.
    pub(super) async fn next(&mut self) -> Value {
        let message = tokio::time::timeout(PATIENCE, message(&mut self.receive)).await;
        from_binary(&message.expect("a message in time").unwrap())
    }

    /// The next datagram.
    pub(super) async fn datagram(&self) -> Value {
        let datagram = tokio::time::timeout(PATIENCE, self.connection.read_datagram()).await;
        from_binary(&datagram.expect("a datagram in time").unwrap())
    }

    pub(super) fn send_datagram(&self, frame: &Value) {
        self.connection.send_datagram(to_binary(&frame.to_string()).into()).unwrap();
    }
}
