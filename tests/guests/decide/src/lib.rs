//! A policy for tests that has every hook and decides as configured.
//!
//! One plugin is bound once for each hook a test needs; what a hook's part of the configuration does not say is left
//! to the next policy. As a routing policy it also does what the header `do` asks of the host.

mod commands;

use serde::Deserialize;
use waspmq_plugin_sdk::{
    Ack, AckPlan, Action, Admission, Admittance, Audience, Cache, Cause, Choice, Codec, Compression,
    Decision, Exhausted, Failure, Level, Message, Overflow, Overflowing, Policy, Routing, Verdict,
    export_policy, host,
};

/// `{"ack": {…}, "admission": {…}, "overflow": "close", "routing": {…}, "compression": {…}}`, each of them optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decide {
    ack: AckConfig,
    admission: Option<Bucket>,
    overflow: Option<String>,
    routing: RoutingConfig,
    compression: CompressionConfig,
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CompressionConfig {
    codec: Option<CodecConfig>,
    /// `address` or `connection`: choices may be kept.
    cache: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CodecConfig {
    None,
    Lz4,
    Zstd(i8),
    Dictionary(String),
    Deflate(u8),
    /// The level of `zstd` is the first byte of the payload, and its dictionary is named by the header `dictionary`.
    Asked,
}

fn cache(word: Option<&str>) -> Cache {
    match word {
        Some("address") => Cache::Address,
        Some("connection") => Cache::Connection,
        _ => Cache::Never,
    }
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
        let cache = cache(self.routing.cache.as_deref());
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

impl Compression for Decide {
    fn choose(&mut self, message: &Message, _audience: &Audience) -> Choice {
        host::counter("chosen_bytes", u64::from(message.size));
        let codec = match self.compression.codec.clone() {
            None => Codec::Continue,
            Some(CodecConfig::None) => Codec::None,
            Some(CodecConfig::Lz4) => Codec::Lz4,
            Some(CodecConfig::Zstd(level)) => Codec::Zstd(level),
            Some(CodecConfig::Dictionary(name)) => Codec::ZstdDictionary(name),
            Some(CodecConfig::Deflate(level)) => Codec::Deflate(level),
            Some(CodecConfig::Asked) => match host::header("dictionary") {
                Some(name) => Codec::ZstdDictionary(name),
                None => Codec::Zstd(host::payload().first().map_or(0, |&byte| byte.cast_signed())),
            },
        };
        Choice::of(codec).cached(cache(self.compression.cache.as_deref()))
    }
}

export_policy!(Decide: routing, ack, admission, overflow, compression);
