//! What became of messages behind their publish: acks, repeats, dead letters, and what is still under way.

use super::broker::Workers;
use super::encode::{counter, described, gauge, histogram};
use crate::control::Control;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt::Error;
use waspmq_core::delivery::Cause;

const NO_LABELS: [(&str, &str); 0] = [];

#[derive(Debug)]
pub(crate) struct Delivery {
    workers: Workers,
}

impl Delivery {
    pub(crate) const fn new(control: Control) -> Self {
        Self { workers: Workers::new(control) }
    }
}

impl Collector for Delivery {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (encoder, workers) = (&mut encoder, &self.workers);
        let metric = described("ack_latency", "From sending a message to its ack");
        histogram(encoder, metric, [(NO_LABELS, workers.observed(|c| &c.ack_latency))])?;
        let metric = described("acks_ignored", "Acks and nacks for messages not in flight to their session");
        counter(encoder, metric, [(NO_LABELS, workers.total(|c| &c.acks_not_in_flight))])?;
        let metric = described("redeliveries", "Messages that were delivered again, per recipient");
        counter(encoder, metric, [(NO_LABELS, workers.total(|c| &c.redeliveries))])?;
        let metric = described("dead_letters", "Messages given up for a recipient and kept as dead letters");
        let letters = Cause::OF_DEAD_LETTERS
            .map(|cause| ([("reason", cause.as_str())], workers.total(|c| c.dead_letters(cause))));
        counter(encoder, metric, letters)?;
        let metric = described("deliveries_given_up", "Messages given up for a recipient and not kept");
        let given_up =
            Cause::ALL.map(|cause| ([("reason", cause.as_str())], workers.total(|c| c.given_up(cause))));
        counter(encoder, metric, given_up)?;
        let metric = described("deliveries_in_flight", "Messages that wait for an ack, per recipient");
        gauge(encoder, metric, [(NO_LABELS, workers.total(|c| &c.tracked_deliveries))])?;
        let metric = described("deliveries_offline", "Recipients without a session that deliveries wait for");
        gauge(encoder, metric, [(NO_LABELS, workers.total(|c| &c.waiting_offline))])?;
        let metric = described("deliveries", "Memory of the messages that wait for an ack");
        gauge(encoder, metric.in_unit(&Unit::Bytes), [(NO_LABELS, workers.total(|c| &c.tracked_bytes))])
    }
}
