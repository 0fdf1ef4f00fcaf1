//! What policies did. Their names are labels: an operator chose them, and there are at most
//! `waspmq_policy::limits::POLICIES_MAX`.

use super::encode::{Observed, counter, described, gauge, histogram};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt::Error;
use std::sync::Arc;
use waspmq_policy::{Host, PolicyMetrics};

#[derive(Debug)]
pub(crate) struct Policies {
    host: Arc<Host>,
}

impl Policies {
    pub(crate) const fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

impl Collector for Policies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let policies = self.host.metrics();
        let metric = described("policy_calls", "Calls of policies, by how they ended");
        let calls = policies.iter().flat_map(|policy| {
            policy.outcomes.iter().map(move |&(outcome, calls)| {
                let [policy, hook] = labels(policy);
                ([policy, hook, ("outcome", outcome)], calls)
            })
        });
        counter(&mut encoder, metric, calls)?;
        let metric = described("policy_call", "Time of calls of policies");
        let latencies = policies.iter().map(|policy| {
            let latency = &policy.latency;
            let bounds = latency.bounds.iter().copied();
            (labels(policy), Observed::new(bounds, &latency.counts, latency.sum_seconds))
        });
        histogram(&mut encoder, metric, latencies)?;
        let metric =
            described("policy_breaker_state", "0 closed, 1 half-open, 2 open; the worst of all workers");
        let states = policies.iter().map(|policy| ([("policy", &*policy.policy)], policy.breaker as u64));
        gauge(&mut encoder, metric, states)?;
        let metric = described("policy_rollbacks", "Versions of policies taken back, by reason");
        let rollbacks = policies.iter().flat_map(|policy| {
            let of = move |(reason, count)| ([("policy", &*policy.policy), ("reason", reason)], count);
            policy.rollbacks.into_iter().map(of)
        });
        counter(&mut encoder, metric, rollbacks)?;
        let metric = described(
            "policy_instances_recycled",
            "Instances that served long enough or filled their memory",
        );
        let recycled = policies.iter().map(|policy| ([("policy", &*policy.policy)], policy.recycled));
        counter(&mut encoder, metric, recycled)?;
        let metric =
            described("policy_shadow", "Decisions of the present shadow beside those of the active version");
        let compared = policies.iter().flat_map(|policy| {
            let of = move |&(outcome, count): &(&'static str, u64)| {
                ([("policy", &*policy.policy), ("outcome", outcome)], count)
            };
            policy.shadow.iter().map(of)
        });
        counter(&mut encoder, metric, compared)?;
        const NO_LABELS: [(&str, &str); 0] = [];
        let metric = described("policy_generation", "The number of the active set of policies");
        gauge(&mut encoder, metric, [(NO_LABELS, self.host.generation())])?;
        let metric = described(
            "policy_queues_refused",
            "Changes of queue members that policies were not told of, for want of room",
        );
        counter(&mut encoder, metric, [(NO_LABELS, self.host.queues_refused())])
    }
}

fn labels(policy: &PolicyMetrics) -> [(&'static str, &str); 2] {
    [("policy", &policy.policy), ("hook", policy.hook)]
}
