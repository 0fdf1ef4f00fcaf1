//! What is stored, and how the journal that stores messages gets on.

use super::broker::Workers;
use super::encode::{Observed, counter, described, gauge, histogram, histogram_of};
use crate::control::Control;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt::Error;
use waspmq_store::Histogram;

const NO_LABELS: [(&str, &str); 0] = [];

#[derive(Debug)]
pub(crate) struct Stored {
    control: Control,
    workers: Workers,
}

impl Stored {
    pub(crate) fn new(control: Control) -> Self {
        Self { workers: Workers::new(control.clone()), control }
    }
}

fn observed(histogram: &Histogram) -> Observed {
    Observed::new(histogram.bounds.iter().copied(), &histogram.counts, histogram.sum)
}

impl Collector for Stored {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let encoder = &mut encoder;
        let journal = self.control.journal.metrics();
        let metric = described("journal_commit", "Time of a commit, its sync included");
        histogram(encoder, metric, [(NO_LABELS, observed(&journal.commit_seconds))])?;
        let metric =
            described("journal_batch_messages", "Writes of a commit: messages, cursors and the rest");
        histogram_of(encoder, metric, [(NO_LABELS, observed(&journal.commit_writes))])?;
        let metric = described("journal_syncs", "Commits that ended with a sync");
        counter(encoder, metric, [(NO_LABELS, journal.syncs)])?;
        let metric = described("journal_failures", "Commits that failed");
        counter(encoder, metric, [(NO_LABELS, journal.failures)])?;
        let metric = described("journal_lost", "Writes that failed and that nobody waited for");
        counter(encoder, metric, [(NO_LABELS, journal.lost)])?;
        let metric = described("journal_refused", "Writes and readings for which there was no room");
        counter(encoder, metric, [(NO_LABELS, journal.refused)])?;
        let metric = described("journal_waits", "Connections that were not read because there was no room");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.journal_waits))])?;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let metric = described("journal_queue", "Bytes of writes that wait for a commit");
        gauge(encoder, metric.in_unit(&Unit::Bytes), [(NO_LABELS, count(journal.queue_bytes))])?;
        let metric = described("audit_failures", "Lines of the audit log that could not be written");
        let failures = self.control.audit.as_ref().map_or(0, |audit| audit.failures());
        counter(encoder, metric, [(NO_LABELS, failures)])?;
        let metric = described("dictionaries", "Compression dictionaries that can be used");
        gauge(encoder, metric, [(NO_LABELS, count(self.control.dictionaries.load().len()))])?;
        let usage = self.control.store.usage();
        let metric = described("inbox_messages", "Stored messages, of all addresses");
        gauge(encoder, metric, [(NO_LABELS, usage.messages)])?;
        let metric =
            described("store", "Bytes of stored messages, dead letters, delayed messages and ledgers");
        gauge(encoder, metric.in_unit(&Unit::Bytes), [(NO_LABELS, usage.bytes)])?;
        let metric = described("store_bytes_max", "The bound of waspmq_store_bytes");
        gauge(encoder, metric, [(NO_LABELS, self.control.store_bytes_max)])?;
        let metric = described("disk_free", "Bytes that are free on the disk of the store");
        let free = self.control.store.free_bytes().map(|free| (NO_LABELS, free));
        gauge(encoder, metric.in_unit(&Unit::Bytes), free)
    }
}
