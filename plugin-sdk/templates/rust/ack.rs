//! Has urgent messages delivered in several attempts, and waits for who is offline.

use serde::Deserialize;
use waspmq_plugin_sdk::{
    Ack, AckPlan, Cause, Decision, Failure, Level, Message, Policy, export_policy, host,
};

/// How long somebody who is offline is waited for until the broker looks again.
const OFFLINE_MS: u32 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Urgent {
    /// The least priority that is urgent.
    urgent: u8,
    attempts: u16,
    timeout_ms: u32,
}

impl Default for Urgent {
    fn default() -> Self {
        Self { urgent: 7, attempts: 5, timeout_ms: 2_000 }
    }
}

impl Policy for Urgent {
    fn configure(config: &str) -> Result<Self, String> {
        let policy: Self = serde_json::from_str(config).map_err(|error| error.to_string())?;
        if !(1..=1_000).contains(&policy.attempts) {
            return Err("`attempts` must be a number from 1 to 1000".to_owned());
        }
        if !(1..=86_400_000).contains(&policy.timeout_ms) {
            return Err("`timeout_ms` must be a number from 1 to 86400000".to_owned());
        }
        Ok(policy)
    }
}

impl Ack for Urgent {
    fn plan(&mut self, message: &Message, configured: &AckPlan) -> Option<AckPlan> {
        if message.priority < self.urgent {
            return None;
        }
        host::counter("urgent", 1);
        Some(AckPlan {
            level: Level::Delivered,
            attempts: self.attempts,
            timeout_ms: self.timeout_ms,
            ..*configured
        })
    }

    fn failed(&mut self, failure: &Failure) -> Decision {
        match (failure.cause, failure.retry_ms) {
            (Cause::Offline, _) => Decision::Wait(OFFLINE_MS),
            (Cause::Nack, Some(retry_ms)) => Decision::Retry(retry_ms),
            _ => Decision::Continue,
        }
    }
}

export_policy!(Urgent: ack);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_times_are_within_what_a_plan_may_have() {
        for (config, wrong) in [
            (r#"{"attempts":0}"#, "`attempts`"),
            (r#"{"attempts":1001}"#, "`attempts`"),
            (r#"{"timeout_ms":0}"#, "`timeout_ms`"),
            (r#"{"timeout_ms":86400001}"#, "`timeout_ms`"),
        ] {
            let error = Urgent::configure(config).unwrap_err();
            assert!(error.contains(wrong), "{config}: {error}");
        }
        assert!(Urgent::configure(r#"{"attempts":1000,"timeout_ms":86400000}"#).is_ok());
    }
}
