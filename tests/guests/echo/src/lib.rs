//! A policy for measurements and tests: decides in the configured way, as little or as much as a policy can do.

use serde::Deserialize;
use waspmq_plugin_sdk::{
    Ack, AckPlan, Action, Admission, Admittance, Audience, Choice, Codec, Codecs, Compression, Decision,
    Failure, Message, Overflow, Overflowing, Policy, Quorum, Routing, Verdict, export_policy, host,
};

/// `{"how": "redirect", "to": "topic/b"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Echo {
    how: How,
    #[serde(default)]
    to: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Passes everything on.
    Pass,
    /// Redirects everything to `to`.
    Redirect,
    /// Looks at the header `to` and passes on.
    Header,
    /// Shows all it is told in what it answers and counts.
    Echo,
}

impl Policy for Echo {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Echo {
    fn route(&mut self, message: &Message) -> Verdict {
        match self.how {
            How::Pass => Verdict::pass(),
            How::Redirect => Verdict::redirect(self.to.as_str()),
            How::Header if host::header(&self.to).is_some_and(|value| value == "drop") => {
                Verdict::refuse("asked to")
            }
            How::Header => Verdict::pass(),
            How::Echo => echo(message),
        }
    }
}

/// Every bit of what it is told comes back in the plan or in a counter.
impl Ack for Echo {
    fn plan(&mut self, message: &Message, configured: &AckPlan) -> Option<AckPlan> {
        count(message);
        host::counter("attempts", configured.attempts.into());
        host::counter("jitter", configured.jitter_percent.into());
        host::counter("levels", configured.level as u64);
        host::counter("timeouts", configured.timeout_ms.into());
        let texts = message.sender.len() + message.address.len() + message.key.len();
        (!message.size.is_multiple_of(5)).then(|| AckPlan {
            quorum: if message.size % 5 == 1 {
                Quorum::Count(u32::try_from(texts + 1).unwrap_or(1))
            } else {
                configured.quorum
            },
            ..*configured
        })
    }

    fn failed(&mut self, failure: &Failure) -> Decision {
        host::counter("failed", failure.messages.into());
        host::counter("causes", failure.cause as u64);
        host::counter("attempt", failure.attempt.into());
        host::counter("attempts", failure.attempts.into());
        host::counter("waited", failure.waited_ms);
        host::counter("random", failure.random >> 8);
        host::counter("texts", sum(&[&failure.address, &failure.sender, &failure.recipient]));
        match (failure.random % 4, failure.retry_ms) {
            (0, Some(retry_ms)) => Decision::Retry(retry_ms),
            (1, Some(retry_ms)) => Decision::Wait(retry_ms),
            (2, _) => Decision::GiveUp,
            _ => Decision::Continue,
        }
    }
}

impl Admission for Echo {
    fn admit(&mut self, message: &Message) -> Admittance {
        count(message);
        match message.size % 4 {
            0 => Admittance::Continue,
            1 => Admittance::Accept,
            _ => {
                let reason = format!("{} to {} by {}", message.sender, message.address, message.key);
                Admittance::refuse(reason, u32::from(message.priority) * 1_000)
            }
        }
    }
}

impl Overflow for Echo {
    fn overflow(&mut self, what: &Overflowing) -> Action {
        host::counter("texts", sum(&[&what.address, &what.recipient]));
        host::counter("kinds", what.kind as u64);
        host::counter("priorities", what.priority.into());
        host::counter("queued", what.queued_bytes.into());
        host::counter("limits", what.queued_bytes_max.into());
        match what.size % 7 {
            0 => Action::Continue,
            1 => Action::DropOldest,
            2 => Action::DropNewest,
            3 => Action::Conflate,
            4 => Action::Spill,
            5 => Action::Close,
            _ => what.configured,
        }
    }
}

impl Compression for Echo {
    fn choose(&mut self, message: &Message, audience: &Audience) -> Choice {
        count(message);
        let all = [Codecs::LZ4, Codecs::ZSTD, Codecs::ZSTD_DICTIONARY, Codecs::DEFLATE];
        let bits = (0..).zip(all).map(|(place, codec)| u64::from(audience.takes(codec)) << place);
        host::counter("codecs", bits.sum());
        host::counter("dictionaries", u64::from(audience.dictionary));
        let level = u8::try_from(message.size % 9).unwrap_or(0);
        // Seldom a level that there is not, so that failures are alike, too.
        let zstd = if message.priority == 255 { 100 } else { level.cast_signed() * 2 - 7 };
        Choice::of(match message.ts % 7 {
            0 => Codec::Continue,
            1 => Codec::None,
            2 => Codec::Lz4,
            3 => Codec::Zstd(zstd),
            4 => Codec::ZstdDictionary(String::new()),
            5 => Codec::Deflate(level + 1),
            _ => Codec::ZstdDictionary(format!("größe-{}", message.key.len())),
        })
    }
}

export_policy!(Echo: routing, ack, admission, overflow, compression);

/// A number that differs when a byte or its place does.
fn sum(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    (1..).zip(bytes).map(|(place, byte)| place * u64::from(byte)).sum()
}

fn count(message: &Message) {
    host::counter("messages", 1);
    host::counter("sizes", u64::from(message.size));
    host::counter("times", message.ts);
    host::counter("priorities", u64::from(message.priority));
    host::counter("kinds", message.kind as u64);
    host::counter("texts", sum(&[&message.sender, &message.address, &message.key]));
    let payload = host::payload();
    host::counter("payload", payload.iter().map(|&byte| u64::from(byte)).sum());
}

/// The kind of verdict follows the message's size, so that messages of all sizes meet all kinds.
fn echo(message: &Message) -> Verdict {
    count(message);
    let headers = host::headers();
    let mut verdict = match message.size % 7 {
        0 => Verdict::pass(),
        1 => Verdict::deliver(),
        2 => Verdict::redirect(message.address.as_str()),
        3 => Verdict::fan_out(headers.iter().map(|(_, value)| value.as_str())),
        4 => Verdict::pick(message.ts, message.size),
        5 => Verdict::refuse(message.sender.as_str()),
        _ => Verdict::fan_out([message.address.as_str(), "topic/copies"]),
    };
    if let Some(value) = host::header("x") {
        verdict = verdict.with_header("x-was", value);
    }
    verdict.set_headers.extend(headers);
    verdict.with_header("sender", message.sender.as_str()).with_header("key", message.key.as_str())
}
