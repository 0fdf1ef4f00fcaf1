//! One look at a broker: what its admin API says at one moment.

use super::super::api::{Api, Refusal};
use super::super::exposition::Exposition;
use crate::clock::Clock;
use anyhow::bail;
use serde_json::Value;

/// The metric that every broker has, whatever it does.
const PROOF: &str = "waspmq_build_info";

/// Service Unavailable.
const NOT_READY: u16 = 503;

#[derive(Debug)]
pub(super) struct Sample {
    /// By the clock of this program, when the metrics were there.
    pub(super) at_us: u64,
    pub(super) unix_ms: u64,
    /// `/v1/status`
    pub(super) status: Value,
    /// Why `/readyz` says that the broker is not.
    pub(super) unready: Option<String>,
    pub(super) metrics: Exposition,
    /// The items of `/v1/policies`
    pub(super) policies: Vec<Value>,
}

impl Sample {
    /// Asks for everything. The status comes first: it needs the token, which the metrics need not.
    pub(super) fn take(api: &Api, clock: Clock) -> anyhow::Result<Self> {
        let status = api.get(&["status"])?;
        let unready = match api.get_text("/readyz") {
            Ok(_) => None,
            Err(error) => match error.downcast::<Refusal>() {
                Ok(Refusal { status: NOT_READY, said }) => Some(said),
                Ok(refusal) => return Err(refusal.into()),
                Err(error) => return Err(error),
            },
        };
        let mut policies = api.get(&["policies"])?;
        let metrics = Exposition::parse(&api.get_text("/metrics")?);
        if metrics.series(PROOF).next().is_none() {
            bail!("/metrics has no {PROOF}, which every WaspMQ broker has; is --admin its address?");
        }
        let moment = clock.now();
        let policies = match policies.get_mut("policies").map(Value::take) {
            Some(Value::Array(policies)) => policies,
            _ => Vec::new(),
        };
        Ok(Self { at_us: moment.us, unix_ms: moment.unix_ms, status, unready, metrics, policies })
    }
}
