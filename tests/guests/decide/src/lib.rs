//! A policy for tests that has every hook and decides as configured.
//!
//! One plugin is bound once for each hook a test needs; what a hook's part of the configuration does not say is left
//! to the next policy. As a routing policy it also does what the header `do` asks of the host.

mod commands;

use serde::Deserialize;
use waspmq_plugin_sdk::{
    Ack, AckPlan, Action, Admission, Admittance, Cache, Cause, Decision, Exhausted, Failure, Level, Message,
    Overflow, Overflowing, Policy, Routing, Verdict, export_policy, host,
};

/// `{"ack": {…}, "admission": {…}, "overflow": "close", "routing": {…}}`, each of them optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decide {
    ack: AckConfig,
    admission: Option<Bucket>,
    overflow: Option<String>,
    routing: RoutingConfig,
    #[serde(skip)]
    calls: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AckConfig {
    level: Option<String>,
    attempts: Option<u16>,
    timeout_ms: Option<u32>,
    /// Wait before a repeat.
    backoff_ms: Option<u32>,
    /// `drop` or `dead-letter`.
    exhausted: Option<String>,
    /// `give-up`, or milliseconds to retry after.
    on_nack: Option<OnNack>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnNack {
    GiveUp,
    RetryMs(u32),
}

/// As many messages of each sender as a bucket of tokens allows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    /// Tokens for one message.
    amount: u32,
    per_second: u32,
    burst: u32,
    retry_ms: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RoutingConfig {
    /// `address` or `connection`: verdicts may be kept.
    cache: Option<String>,
}

impl Policy for Decide {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Decide {
    fn route(&mut self, _message: &Message) -> Verdict {
        self.calls += 1;
        let done = host::header("do").map(|commands| commands::run(&commands));
        let cache = match self.routing.cache.as_deref() {
            Some("address") => Cache::Address,
            Some("connection") => Cache::Connection,
            _ => Cache::Never,
        };
        let mut verdict = Verdict::pass().with_header("call", self.calls.to_string()).cached(cache);
        if let Some(done) = done {
            verdict = verdict.with_header("done", done);
        }
        verdict
    }
}

impl Ack for Decide {
    fn plan(&mut self, _message: &Message, configured: &AckPlan) -> Option<AckPlan> {
        let asked = &self.ack;
        let level = match asked.level.as_deref()? {
            "none" => Level::None,
            "accepted" => Level::Accepted,
            "stored" => Level::Stored,
            _ => Level::Delivered,
        };
        let wait_ms = asked.backoff_ms.unwrap_or(configured.initial_ms);
        Some(AckPlan {
            level,
            attempts: asked.attempts.unwrap_or(configured.attempts),
            timeout_ms: asked.timeout_ms.unwrap_or(configured.timeout_ms),
            initial_ms: wait_ms,
            max_ms: wait_ms.max(configured.max_ms),
            exhausted: match asked.exhausted.as_deref() {
                Some("drop") => Exhausted::Drop,
                Some("dead-letter") => Exhausted::DeadLetter,
                _ => configured.exhausted,
            },
            ..*configured
        })
    }

    fn failed(&mut self, failure: &Failure) -> Decision {
        host::counter("failed", u64::from(failure.messages));
        match (failure.cause, self.ack.on_nack) {
            (Cause::Nack, Some(OnNack::GiveUp)) => Decision::GiveUp,
            (Cause::Nack, Some(OnNack::RetryMs(ms))) => Decision::Retry(ms),
            _ => Decision::Continue,
        }
    }
}

impl Admission for Decide {
    fn admit(&mut self, message: &Message) -> Admittance {
        let Some(bucket) = &self.admission else { return Admittance::Continue };
        if host::take(&format!("of {}", message.sender), bucket.amount, bucket.per_second, bucket.burst) {
            return Admittance::Accept;
        }
        host::histogram("refused_bytes", u64::from(message.size));
        Admittance::refuse("too many at once", bucket.retry_ms)
    }
}

impl Overflow for Decide {
    fn overflow(&mut self, what: &Overflowing) -> Action {
        host::histogram("overflow_bytes", u64::from(what.size));
        match self.overflow.as_deref() {
            Some("drop-oldest") => Action::DropOldest,
            Some("drop-newest") => Action::DropNewest,
            Some("conflate") => Action::Conflate,
            Some("spill") => Action::Spill,
            Some("close") => Action::Close,
            _ => Action::Continue,
        }
    }
}

export_policy!(Decide: routing, ack, admission, overflow);
