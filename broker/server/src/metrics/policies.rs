//! What policies did. Their names are labels: an operator chose them, and there are at most
//! `waspmq_policy::limits::POLICIES_MAX`.

use super::encode::{Observed, counter, counter_of_seconds, described, gauge, histogram};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt::Error;
use std::sync::Arc;
use waspmq_policy::{Host, Kept, PolicyMetrics};

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
        let metric = described("policy_call", "Time of the calls");
        let latencies = policies.iter().map(|policy| {
            let latency = &policy.latency;
            let bounds = latency.bounds.iter().copied();
            (labels(policy), Observed::new(bounds, &latency.counts, latency.sum_seconds))
        });
        histogram(&mut encoder, metric, latencies)?;
        let metric = described("policy_values", "Values kept for the policy");
        gauge(&mut encoder, metric, kept(&policies, |kept| kept.values as u64))?;
        let metric = described("policy_value_bytes", "Bytes of these values and their keys");
        gauge(&mut encoder, metric, kept(&policies, |kept| kept.value_bytes as u64))?;
        let metric = described("policy_buckets", "Token buckets kept for the policy");
        gauge(&mut encoder, metric, kept(&policies, |kept| kept.buckets as u64))?;
        let metric =
            described("policy_kept_refused", "Values and buckets refused because they are over a bound");
        counter(&mut encoder, metric, kept(&policies, |kept| kept.refused))?;
        let metric = described("policy_limits", "Times that calls went over limits that do not end them");
        let exceeded = policies.iter().flat_map(|policy| {
            let of = move |(limit, count)| ([("policy", &*policy.policy), ("limit", limit)], count);
            policy.exceeded.into_iter().map(of)
        });
        counter(&mut encoder, metric, exceeded)?;
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
        encode_compression(&mut encoder, &policies)?;
        self.encode_captures(&mut encoder)?;
        let metric = described("policy_generation", "The number of the active set of policies");
        gauge(&mut encoder, metric, [(NO_LABELS, self.host.generation())])?;
        let metric = described(
            "policy_queues_refused",
            "Changes of queue members that policies were not told of, for want of room",
        );
        counter(&mut encoder, metric, [(NO_LABELS, self.host.queues_refused())])?;
        let metric = described(
            "policy_rollbacks_not_kept",
            "Automatic rollbacks that were made and could not be written down",
        );
        counter(&mut encoder, metric, [(NO_LABELS, self.host.changes_not_kept())])
    }
}

impl Policies {
    fn encode_captures(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let counts = self.host.capture_counts();
        let metric = described("capture_records", "Records that captures took down");
        counter(encoder, metric, [(NO_LABELS, counts.recorded)])?;
        let metric = described("capture_left_out", "What captures left out, by reason");
        let left_out = counts.left_out.into_iter().map(|(reason, count)| ([("reason", reason)], count));
        counter(encoder, metric, left_out)
    }
}

/// What compressing by the choice of policies came to.
fn encode_compression(encoder: &mut DescriptorEncoder<'_>, policies: &[PolicyMetrics]) -> Result<(), Error> {
    let all = || policies.iter().flat_map(|policy| policy.compressed.iter().map(|of| (&*policy.policy, of)));
    let metric = described(
        "policy_compression_bytes",
        "Bytes of messages before and after compressing them by a policy's choice",
    );
    let bytes = all().flat_map(|(policy, &(codec, of))| {
        let side = |side, bytes| ([("policy", policy), ("codec", codec), ("side", side)], bytes);
        [side("plain_out", of.plain_bytes), side("wire_out", of.packed_bytes)]
    });
    counter(encoder, metric, bytes)?;
    let metric = described("policy_compression", "CPU time of compressing by a policy's choice");
    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 53 bits")]
    let spent = all()
        .map(|(policy, &(codec, of))| ([("policy", policy), ("codec", codec)], of.spent_ns as f64 / 1e9));
    counter_of_seconds(encoder, metric, spent)
}

const NO_LABELS: [(&str, &str); 0] = [];

/// One figure of what is kept for each policy.
fn kept(policies: &[PolicyMetrics], of: fn(&Kept) -> u64) -> impl Iterator<Item = Labelled<'_>> {
    policies.iter().map(move |policy| (labels(policy), of(&policy.kept)))
}

type Labelled<'a> = ([(&'a str, &'a str); 2], u64);

fn labels(policy: &PolicyMetrics) -> [(&str, &str); 2] {
    [("policy", &policy.policy), ("hook", policy.hook)]
}
