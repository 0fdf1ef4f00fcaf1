//! One tier: which messages, their plan, and what is done about failures.

use serde::{Deserialize, Deserializer, de};
use waspmq_plugin_common::{List, Pattern, Within};
use waspmq_plugin_sdk::{AckPlan, Cause, Decision, Exhausted, Failure, Level, Quorum};

/// A day, which is the longest wait of a plan.
const WAIT_MS_MAX: u32 = 86_400_000;

type Wait = Within<1, WAIT_MS_MAX>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    r#match: Option<List<Pattern, 16>>,
    priority_min: Option<Within<0, 9>>,
    level: Option<LevelName>,
    #[serde(default, deserialize_with = "quorum")]
    quorum: Option<Quorum>,
    timeout_ms: Option<Wait>,
    attempts: Option<Within<1, 1000>>,
    waits_ms: Option<List<Wait, 16>>,
    jitter_percent: Option<Within<0, 100>>,
    offline_ms: Option<Wait>,
    give_up_on: Option<List<CauseName, 5>>,
    exhausted: Option<ExhaustedName>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LevelName {
    None,
    Accepted,
    Stored,
    Delivered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CauseName {
    Timeout,
    Nack,
    QueueFull,
    Offline,
    ConnectionLost,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExhaustedName {
    DeadLetter,
    Drop,
}

/// `"any"`, `"all"`, or a number of recipients.
fn quorum<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quorum>, D::Error> {
    struct Words;

    impl de::Visitor<'_> for Words {
        type Value = Quorum;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("\"any\", \"all\" or a number from 1")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Quorum, E> {
            match word {
                "any" => Ok(Quorum::Any),
                "all" => Ok(Quorum::All),
                other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_u64<E: de::Error>(self, count: u64) -> Result<Quorum, E> {
            match u32::try_from(count) {
                Ok(count) if count > 0 => Ok(Quorum::Count(count)),
                _ => Err(E::invalid_value(de::Unexpected::Unsigned(count), &self)),
            }
        }
    }

    deserializer.deserialize_any(Words).map(Some)
}

impl Tier {
    /// The error begins with the key in the tier.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.jitter_percent.is_some() && self.waits_ms.is_none() {
            return Err(".jitter_percent: of which \"waits_ms\" is not said".to_owned());
        }
        let gives_up_offline = self.give_up_on.iter().flat_map(|causes| causes.iter());
        if self.offline_ms.is_some() && gives_up_offline.into_iter().any(|cause| *cause == CauseName::Offline)
        {
            return Err(".offline_ms: the tier gives up on \"offline\" at once".to_owned());
        }
        Ok(())
    }

    pub(crate) const fn asks_priority(&self) -> bool {
        self.priority_min.is_some()
    }

    pub(crate) const fn decides_failures(&self) -> bool {
        self.waits_ms.is_some() || self.offline_ms.is_some() || self.give_up_on.is_some()
    }

    pub(crate) fn attempts(&self) -> Option<u32> {
        self.attempts.map(|attempts| attempts.0)
    }

    pub(crate) fn is_for(&self, address: &str) -> bool {
        self.r#match.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(address)))
    }

    pub(crate) fn takes(&self, address: &str, priority: u8) -> bool {
        self.priority_min.is_none_or(|least| u32::from(priority) >= least.0) && self.is_for(address)
    }

    /// What the tier does not say stays as it is configured.
    pub(crate) fn plan(&self, configured: &AckPlan) -> AckPlan {
        let mut plan = AckPlan { ..*configured };
        if let Some(level) = self.level {
            plan.level = match level {
                LevelName::None => Level::None,
                LevelName::Accepted => Level::Accepted,
                LevelName::Stored => Level::Stored,
                LevelName::Delivered => Level::Delivered,
            };
        }
        if let Some(quorum) = self.quorum {
            plan.quorum = quorum;
        }
        if let Some(timeout) = self.timeout_ms {
            plan.timeout_ms = timeout.0;
        }
        if let Some(attempts) = self.attempts() {
            plan.attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
        }
        if let Some(waits) = &self.waits_ms {
            // These serve when the policy does not: they double, from the first of the waits to the longest.
            plan.initial_ms = waits.first().map_or(plan.initial_ms, |first| first.0);
            plan.max_ms = waits.iter().map(|wait| wait.0).max().unwrap_or(plan.max_ms);
            plan.jitter_percent = self
                .jitter_percent
                .and_then(|percent| u8::try_from(percent.0).ok())
                .unwrap_or(plan.jitter_percent);
        }
        if let Some(exhausted) = self.exhausted {
            plan.exhausted = match exhausted {
                ExhaustedName::DeadLetter => Exhausted::DeadLetter,
                ExhaustedName::Drop => Exhausted::Drop,
            };
        }
        plan
    }

    pub(crate) fn failed(&self, failure: &Failure) -> Decision {
        let cause = match failure.cause {
            Cause::Timeout => CauseName::Timeout,
            Cause::Nack => CauseName::Nack,
            Cause::QueueFull => CauseName::QueueFull,
            Cause::Offline => CauseName::Offline,
            Cause::ConnectionLost => CauseName::ConnectionLost,
        };
        if self.give_up_on.as_ref().is_some_and(|causes| causes.contains(&cause)) {
            return Decision::GiveUp;
        }
        if cause == CauseName::Offline {
            return self.offline_ms.map_or(Decision::Continue, |limit| wait(limit.0, failure.waited_ms));
        }
        let Some(waits) = &self.waits_ms else { return Decision::Continue };
        if failure.attempt >= failure.attempts {
            return Decision::GiveUp;
        }
        let index = usize::from(failure.attempt).saturating_sub(1).min(waits.len() - 1);
        let wait = waits.get(index).map_or(WAIT_MS_MAX, |wait| wait.0);
        let jitter = self.jitter_percent.map_or(0, |percent| percent.0);
        let wait = shortened(wait, jitter, failure.random).max(failure.retry_ms.unwrap_or(0));
        Decision::Retry(wait.clamp(1, WAIT_MS_MAX))
    }
}

/// For whoever is offline until `limit_ms` behind the publish.
fn wait(limit_ms: u32, waited_ms: u64) -> Decision {
    match u64::from(limit_ms).saturating_sub(waited_ms) {
        0 => Decision::GiveUp,
        left_ms => Decision::Wait(u32::try_from(left_ms).unwrap_or(limit_ms)),
    }
}

/// A wait less a part of it that is random, at most so many of a hundred.
fn shortened(wait_ms: u32, jitter_percent: u32, random: u64) -> u32 {
    let most = u64::from(wait_ms) * u64::from(jitter_percent) / 100;
    let less = random % (most + 1);
    wait_ms.saturating_sub(u32::try_from(less).unwrap_or(0))
}
