//! How messages are acknowledged and retried, in tiers: by address and priority, each with a plan, waits that grow as it
//! says, and what is done by cause when a delivery fails.
//!
//! A failure does not say the message's priority. Where tiers differ by it, the number of attempts in the plan tells which
//! tier planned a message, and the configuration has to have a number for each.

mod tier;

use serde::Deserialize;
use tier::Tier;
use waspmq_plugin_common::{List, read};
use waspmq_plugin_sdk::{Ack, AckPlan, Decision, Failure, Message, Policy, export_policy};

const TIERS_MAX: usize = 32;

/// `{"tiers": [{"match": ["topic/paid.>"], "level": "delivered", "attempts": 5, "waits_ms": [100, 1000, 10000]}]}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckTiers {
    tiers: List<Tier, TIERS_MAX>,
    /// Whether a failure belongs to the tier with its number of attempts.
    #[serde(skip)]
    by_attempts: bool,
}

impl Policy for AckTiers {
    fn configure(config: &str) -> Result<Self, String> {
        let mut policy: Self = read(config)?;
        let tiers = &policy.tiers;
        for (index, tier) in tiers.iter().enumerate() {
            tier.check().map_err(|fault| format!("tiers[{index}]{fault}"))?;
        }
        policy.by_attempts =
            tiers.iter().any(Tier::asks_priority) && tiers.iter().any(Tier::decides_failures);
        if policy.by_attempts {
            for (index, tier) in policy.tiers.iter().enumerate() {
                let others = policy.tiers.iter().take(index);
                if tier.attempts().is_none()
                    || others.into_iter().any(|other| other.attempts() == tier.attempts())
                {
                    return Err(format!(
                        "tiers[{index}].attempts: where tiers differ by priority and say what is done about failures, \
                         each has a number of attempts of its own"
                    ));
                }
            }
        }
        Ok(policy)
    }
}

impl Ack for AckTiers {
    fn plan(&mut self, message: &Message, configured: &AckPlan) -> Option<AckPlan> {
        let tier = self.tiers.iter().find(|tier| tier.takes(&message.address, message.priority))?;
        Some(tier.plan(configured))
    }

    fn failed(&mut self, failure: &Failure) -> Decision {
        let is_of = |tier: &&Tier| {
            tier.is_for(&failure.address)
                && (!self.by_attempts || tier.attempts() == Some(u32::from(failure.attempts)))
        };
        self.tiers.iter().find(is_of).map_or(Decision::Continue, |tier| tier.failed(failure))
    }
}

export_policy!(AckTiers: ack);

#[cfg(test)]
mod tests;
