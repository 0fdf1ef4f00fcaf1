//! Batches while they are filled: consecutive messages of one session to one address.

use super::connection::Connection;
use crate::clock::Moment;
use std::sync::Arc;
use waspmq_core::delivery::AckPlan;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::publish::Plan;
use waspmq_core::registry::{self, Pick};
use waspmq_core::settings::Settings;
use waspmq_core::{Address, Code, MessageId, Name, Position, Reject, SessionId, Stream, limits};
use waspmq_protocol::client::Publish;
use waspmq_protocol::{Content, HeaderBlock};

/// A batch being filled by the connection that is read at the moment.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) batch: Batch,
    pub(super) settings: Arc<Settings>,
    /// The plan of its messages, where a policy made one.
    pub(super) ack: Option<AckPlan>,
    /// By index of the message; shorter than the batch when the rest has none.
    pub(super) picks: Vec<Option<Pick>>,
    /// References to answer, with the index of their message.
    pub(super) receipts: Vec<(u64, usize)>,
    /// Messages without a reference to answer.
    pub(super) unanswered: u64,
}

/// Whom a batch comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) from: Option<&'a Name>,
    pub(super) origin: Option<SessionId>,
    pub(super) exclude_origin: bool,
    pub(super) now: Moment,
}

impl<'a> Source<'a> {
    pub(super) fn of(
        connection: &Connection,
        identity: Option<&'a registry::Session>,
        exclude_origin: bool,
        now: Moment,
    ) -> Self {
        let from = identity.map(|identity| &identity.user);
        Self { from, origin: connection.session_id, exclude_origin, now }
    }
}

/// A batch is closed when it has this many bytes, so that it crosses to other workers while it is warm.
const BATCH_BYTES: usize = 64 * 1024;

impl OpenBatch {
    pub(super) fn new((to, settings): (Address, Arc<Settings>), plan: &Plan, source: Source<'_>) -> Self {
        let batch = Batch {
            to,
            from: source.from.cloned(),
            origin: source.origin,
            exclude_origin: source.exclude_origin,
            level: plan.level,
            is_kept: false,
            unix_ms: source.now.unix_ms,
            published_us: source.now.us,
            first: Position { stream: Stream { shard: 0, epoch: 0 }, offset: 0 },
            messages: Vec::new(),
            bytes: Vec::new(),
        };
        let ack = plan.ack;
        Self { batch, settings, ack, picks: Vec::new(), receipts: Vec::new(), unanswered: 0 }
    }

    /// Whether a message belongs to this batch: it has one publisher, and what is tracked together one level and one plan.
    pub(super) fn takes(&self, to: &Address, source: Source<'_>, plan: &Plan) -> bool {
        self.batch.to == *to
            && self.batch.origin == source.origin
            && self.batch.from.as_ref() == source.from
            && self.batch.exclude_origin == source.exclude_origin
            && self.batch.level == plan.level
            && self.ack == plan.ack
            && self.batch.messages.len() < limits::BATCH_MESSAGES_MAX
            && self.batch.bytes.len() < BATCH_BYTES
    }

    /// Appends one message; `headers` replace its own.
    pub(super) fn push(
        &mut self,
        id: MessageId,
        publish: &Publish<'_>,
        headers: Option<&[(String, String)]>,
    ) -> Result<(), Reject> {
        let batch = &mut self.batch;
        let ttl_ms = publish.ttl_ms.filter(|&ttl_ms| ttl_ms > 0);
        let start = batch.end();
        let encoded = match headers {
            Some(headers) => HeaderBlock::encode(headers, &mut batch.bytes),
            None => HeaderBlock::encode(&publish.headers, &mut batch.bytes),
        };
        encoded.map_err(|error| Reject::new(Code::InvalidFrame, format!("headers: {error}")))?;
        let headers = batch.since(start);
        let key = batch.store(publish.key.as_deref().unwrap_or_default().as_bytes());
        let reply_to = batch.store(publish.reply_to.as_deref().unwrap_or_default().as_bytes());
        let payload = batch.store(&publish.payload);
        batch.messages.push(Envelope {
            id,
            is_json: publish.content == Content::Json,
            priority: publish.priority,
            expires_unix_ms: ttl_ms.map_or(0, |ttl_ms| batch.unix_ms.saturating_add(ttl_ms)),
            payload,
            headers,
            key,
            reply_to,
        });
        Ok(())
    }
}

/// A batch of one message.
pub(super) fn single(
    (to, settings): (&Address, &Arc<Settings>),
    plan: &Plan,
    (id, publish): (MessageId, &Publish<'_>),
    source: Source<'_>,
) -> Result<Batch, Reject> {
    let mut open = OpenBatch::new((to.clone(), settings.clone()), plan, source);
    open.push(id, publish, plan.headers.as_deref())?;
    Ok(open.batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::publish::Destination;
    use waspmq_core::{Kind, Level};

    const PLAN: Plan = Plan {
        destination: Destination::AsAddressed(None),
        headers: None,
        level: Level::Accepted,
        ack: None,
        trace: None,
    };

    #[test]
    fn a_time_to_live_of_zero_is_none() {
        let (to, settings) = (Address::parse("topic/t").unwrap(), Arc::new(Settings::of_kind(Kind::Topic)));
        let now = Moment { unix_ms: 1_000, us: 1 };
        let source = Source { from: None, origin: None, exclude_origin: false, now };
        let expires = |ttl_ms| {
            let publish = Publish { ttl_ms, ..Publish::new("topic/t", Content::Json, b"1") };
            let batch = single((&to, &settings), &PLAN, (MessageId::new(1_000, 1, 0, 1), &publish), source);
            batch.unwrap().messages[0].expires_unix_ms
        };
        assert_eq!([None, Some(0), Some(1)].map(expires), [0, 0, 1_001]);
        assert_eq!(expires(Some(u64::MAX)), u64::MAX);
    }

    #[test]
    fn a_batch_has_one_publisher() {
        let to = Address::parse("topic/t").unwrap();
        let [ana, bo] = ["ana", "bo"].map(|user| Name::parse(user).unwrap());
        let [first, second] = [1, 2].map(|number| Some(SessionId::new(1, 0, number)));
        let now = Moment { unix_ms: 1, us: 1 };
        let source = |from, origin| Source { from: Some(from), origin, exclude_origin: false, now };
        let settings = Arc::new(Settings::of_kind(Kind::Topic));
        let open = OpenBatch::new((to.clone(), settings), &PLAN, source(&ana, first));
        assert!(open.takes(&to, source(&ana, first), &PLAN));
        assert!(!open.takes(&to, source(&ana, second), &PLAN), "receipts go to the session");
        assert!(!open.takes(&to, source(&bo, first), &PLAN));
    }
}
