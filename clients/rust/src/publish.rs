//! What is published, a payload and its options, and the receipt for it.

use crate::error::Error;
use crate::shared::Shared;
use serde::Serialize;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use waspmq_protocol::client::Publish;
use waspmq_protocol::server::Receipt;
use waspmq_protocol::{Content, Level};

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    content: Content,
    bytes: Vec<u8>,
}

impl Payload {
    /// Any bytes. Clients of the JSON profile receive them as base64.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { content: Content::Bytes, bytes: bytes.into() }
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// When the value has no JSON form, such as a map whose keys are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self::json_text)
    }

    /// A text that is JSON already. It is checked when it is published.
    pub fn json_text(text: impl Into<Vec<u8>>) -> Self {
        Self { content: Content::Json, bytes: text.into() }
    }
}

/// How a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOptions {
    /// How far the message must get before the receipt comes.
    pub ack: Level,
    pub headers: Vec<(String, String)>,
    /// Publishes with the same key to the same address count once within the broker's window.
    pub dedup: Option<String>,
    /// How long the message is worth delivering; 0 is none, as `None` is.
    pub ttl_ms: Option<u64>,
    pub delay_ms: u64,
    /// 0 to 9.
    pub priority: u8,
    /// The partition key: in a queue, messages with the same key go to the same member.
    pub key: Option<String>,
    pub reply_to: Option<String>,
    /// Whether this session is left out of the recipients.
    pub exclude_self: bool,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            ack: Level::Accepted,
            headers: Vec::new(),
            dedup: None,
            ttl_ms: None,
            delay_ms: 0,
            priority: 0,
            key: None,
            reply_to: None,
            exclude_self: false,
        }
    }
}

/// The frame of a publish; with a reference, the broker answers.
pub(crate) fn frame<'a>(
    to: &'a str,
    payload: &'a Payload,
    options: &'a PublishOptions,
    reference: Option<u64>,
) -> Publish<'a> {
    let text = |text: &'a Option<String>| text.as_deref().map(Cow::Borrowed);
    let ack = if reference.is_some() { options.ack.max(Level::Accepted) } else { Level::None };
    let headers = options.headers.iter();
    Publish {
        reference,
        headers: headers.map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value))).collect(),
        ack,
        dedup: text(&options.dedup),
        ttl_ms: options.ttl_ms,
        delay_ms: options.delay_ms,
        priority: options.priority,
        key: text(&options.key),
        reply_to: text(&options.reply_to),
        exclude_self: options.exclude_self,
        ..Publish::new(to, payload.content, &*payload.bytes)
    }
}

/// A receipt on its way.
#[derive(Debug)]
#[must_use = "what the broker refuses is only told here"]
pub struct PendingReceipt {
    answer: oneshot::Receiver<Result<Receipt, Error>>,
    shared: Arc<Shared>,
}

impl PendingReceipt {
    pub(crate) const fn new(answer: oneshot::Receiver<Result<Receipt, Error>>, shared: Arc<Shared>) -> Self {
        Self { answer, shared }
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        // A request that was dropped on its way to the socket has no answer of its own.
        Poll::Ready(answer.unwrap_or_else(|_| Err(self.shared.end().unwrap_or(Error::ConnectionLost))))
    }
}
