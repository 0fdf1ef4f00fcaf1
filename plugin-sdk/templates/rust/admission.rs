//! Takes in so many messages a second of each sender.

use serde::Deserialize;
use waspmq_plugin_sdk::{Admission, Admittance, Message, Policy, export_policy, host};

/// When to try again, for who was refused.
const RETRY_MS: u32 = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rate {
    per_second: u32,
    /// As many are taken in at once.
    burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 10, burst: 20 }
    }
}

impl Policy for Rate {
    fn configure(config: &str) -> Result<Self, String> {
        let rate: Self = serde_json::from_str(config).map_err(|error| error.to_string())?;
        if rate.per_second == 0 || rate.burst == 0 {
            return Err("`per_second` and `burst` must be at least 1".to_owned());
        }
        Ok(rate)
    }
}

impl Admission for Rate {
    fn admit(&mut self, message: &Message) -> Admittance {
        let bucket = format!("from/{}", message.sender);
        if host::take(&bucket, 1, self.per_second, self.burst) {
            return Admittance::Continue;
        }
        host::counter("refused", 1);
        Admittance::refuse(format!("more than {} messages a second", self.per_second), RETRY_MS)
    }
}

export_policy!(Rate: admission);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_nothing_is_no_rate() {
        let error = Rate::configure(r#"{"per_second":0}"#).unwrap_err();
        assert!(error.contains("`per_second`"), "{error}");
    }
}
