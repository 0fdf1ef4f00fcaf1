//! A table as it serves one worker: what it is asked, and what that is answered with.
//!
//! Looking for the rule allocates nothing; an answer with texts is copied out of the table.

use super::admission::{Admitted, Limit};
use super::compression::Compressed;
use super::when::Facts;
use super::{Answers, Table};
use crate::answers::{self, BadAnswer};
use crate::bindings::{self, Cache};
use crate::codecs::Choice;
use crate::engine::{Live, Ticker};
use crate::exceeded;
use crate::state::Context;
use crate::verdict::{Routed, Ruling};
use std::sync::Arc;
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Message, Overflowed};
use waspmq_core::settings::{Overflow, Settings};

/// One worker's handle of a table.
#[derive(Debug)]
pub(crate) struct Judge {
    table: Arc<Table>,
    context: Context,
    /// Room for the name of a bucket.
    bucket: String,
    /// The clock goes on while somebody counts by it.
    _live: Option<Live>,
}

impl Judge {
    pub(crate) fn new(table: Arc<Table>, context: Context, ticker: &Ticker) -> Self {
        let live = table.has_limits().then(|| ticker.live());
        Self { table, context, bucket: String::new(), _live: live }
    }

    /// Where a message goes to which earlier policies set the headers `set`.
    pub(crate) fn route(&self, message: &Message<'_>, set: &[(String, String)]) -> Routed {
        let Answers::Routing(list) = &self.table.answers else {
            return Routed { ruling: Ruling::Continue, cache: Cache::Never };
        };
        let (answer, cache) = list.first(&facts(message, set));
        let ruling = answer.map_or(Ruling::Continue, |answer| answer.verdict(message.to).into());
        Routed { ruling, cache }
    }

    /// The plan of a message; what of it is out of bounds beside the settings of its address is a bad answer.
    pub(crate) fn plan(
        &self,
        message: &Message<'_>,
        settings: &Settings,
    ) -> Result<Option<Acknowledgement>, BadAnswer> {
        let Answers::Ack { plans, .. } = &self.table.answers else { return Ok(None) };
        let (changes, _) = plans.first(&facts(message, &[]));
        let plan = changes.and_then(|changes| changes.apply(answers::configured(settings)));
        plan.map(|plan| answers::ack_plan(plan, settings.keep)).transpose()
    }

    pub(crate) fn failed(&self, told: &bindings::Failure<'_>) -> Result<Option<Decision>, BadAnswer> {
        let Answers::Ack { failures, .. } = &self.table.answers else { return Ok(None) };
        let facts = Facts { user: told.sender, ..Facts::of_address(told.address) };
        let (causes, _) = failures.first(&facts);
        causes.map_or(Ok(None), |causes| answers::decision(causes.decide(told)))
    }

    pub(crate) fn admit(&mut self, message: &Message<'_>) -> Option<Admittance> {
        let Self { table, context, bucket, .. } = self;
        let Answers::Admission(list) = &table.answers else { return None };
        let refusal = match list.first(&facts(message, &[])).0? {
            Admitted::Continue => return None,
            Admitted::Accept => return Some(Admittance::Admitted),
            Admitted::Limit(limit) if is_within(limit, message, (context, bucket)) => return None,
            Admitted::Limit(limit) => &limit.refusal,
            Admitted::Refuse(refusal) => refusal,
        };
        Some(Admittance::Refused { reason: (*refusal.reason).to_owned(), retry_ms: refusal.retry_ms })
    }

    /// What a message is sent with.
    pub(crate) fn choose(&self, message: &Message<'_>) -> Choice {
        let Answers::Compression(list) = &self.table.answers else {
            return Choice { codec: None, cache: Cache::Never };
        };
        let (answer, cache) = list.first(&facts(message, &[]));
        Choice { codec: answer.and_then(|Compressed(codec)| codec.clone()), cache }
    }

    pub(crate) fn overflow(&self, what: &Overflowed<'_>) -> Option<Overflow> {
        let Answers::Overflow(list) = &self.table.answers else { return None };
        let facts = Facts {
            user: what.recipient.split('/').next().unwrap_or_default(),
            size: what.size_bytes,
            priority: what.priority,
            ..Facts::of_address(what.to.as_str())
        };
        list.first(&facts).0.and_then(|&action| answers::action(action))
    }
}

/// Takes a token for a message; when there is no room for its bucket, as when the bucket is empty, there is none.
fn is_within(limit: &Limit, message: &Message<'_>, (context, bucket): (&Context, &mut String)) -> bool {
    limit.name_bucket((message.from, message.to), bucket);
    let taken = context.memory.rule_buckets.take(bucket, limit.amount, limit.rate, context.clock.ms());
    context.kept(exceeded::Limit::Buckets, taken).is_some()
}

fn facts<'a>(message: &Message<'a>, set: &'a [(String, String)]) -> Facts<'a> {
    Facts {
        to: message.to,
        user: message.from,
        key: message.key,
        size: message.payload.len(),
        priority: message.priority,
        headers: [set, message.headers],
    }
}
