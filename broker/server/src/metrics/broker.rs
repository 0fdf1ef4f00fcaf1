//! What the workers count, summed over all of them, and the sizes of the registry.

use super::encode::{Observed, counter, described, gauge, histogram};
use crate::control::Control;
use crate::worker::counters::{
    Count, Counters, Datagrams, Ended, LATENCY_BOUNDS_US, Latency, Outcome, Streams, Transport,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt::Error;
use std::sync::atomic::Ordering;
use waspmq_core::Kind;
use waspmq_core::settings::Overflow;

/// The one transport of this version, as a label.
const fn label(transport: Transport) -> (&'static str, &'static str) {
    ("transport", transport.as_str())
}

const NO_LABELS: [(&str, &str); 0] = [];

/// The workers' counters, added up.
#[derive(Debug)]
pub(super) struct Workers {
    control: Control,
}

impl Workers {
    pub(super) const fn new(control: Control) -> Self {
        Self { control }
    }

    pub(super) fn total(&self, pick: impl Fn(&Counters) -> &Count) -> u64 {
        self.summed(|counters| pick(counters).load())
    }

    pub(super) fn summed(&self, pick: impl Fn(&Counters) -> u64) -> u64 {
        self.control.counters().fold(0, |total, counters| total.wrapping_add(pick(counters)))
    }

    pub(super) fn observed(&self, pick: impl Fn(&Counters) -> &Latency) -> Observed {
        let mut counts = [0_u64; LATENCY_BOUNDS_US.len() + 1];
        let mut sum_us = 0_u64;
        for latency in self.control.counters().map(pick) {
            counts.iter_mut().zip(latency.buckets()).for_each(|(total, count)| *total += count);
            sum_us = sum_us.saturating_add(latency.sum_us());
        }
        Observed::new(LATENCY_BOUNDS_US.iter().map(|&us| seconds(us)), &counts, seconds(sum_us))
    }
}

#[derive(Debug)]
pub(crate) struct Broker {
    workers: Workers,
}

impl Broker {
    pub(crate) const fn new(control: Control) -> Self {
        Self { workers: Workers::new(control) }
    }

    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metric = described("ready", "Whether /readyz answers 200");
        gauge(encoder, metric, [(NO_LABELS, u64::from(self.workers.control.unready().is_none()))])?;
        let metric = described("connections", "Open connections, with and without a session");
        let connections = Transport::ALL
            .map(|transport| ([label(transport)], self.workers.total(|c| c.connections_by.of(transport))));
        gauge(encoder, metric, connections)?;
        let metric = described("sessions", "Sessions");
        gauge(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.sessions))])?;
        let metric = described("connections_opened", "Connections accepted");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.connections_opened))])?;
        let metric = described("connections_closed", "Connections that ended, by why");
        let by_reason = Ended::ALL
            .map(|reason| ([("reason", reason.as_str())], self.workers.total(|c| c.closed(reason))));
        counter(encoder, metric, by_reason)?;
        let metric = described("connection_duration", "How long connections that ended had been open");
        histogram(encoder, metric, [(NO_LABELS, self.workers.observed(|c| &c.connection_duration_us))])?;
        let metric = described("handshakes_refused", "Requests for a connection that were refused");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.handshakes_refused))])?;
        self.tls(encoder)
    }

    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metric = described("tls_handshakes", "TLS handshakes with clients, by what became of them");
        let handshakes = [
            ([("outcome", "completed")], self.workers.total(|c| &c.tls_completed)),
            ([("outcome", "failed")], self.workers.total(|c| &c.tls_failed)),
        ];
        counter(encoder, metric, handshakes)?;
        let quic = &self.workers.control.quic;
        let metric = described(
            "quic_incoming",
            "Connections of QUIC that a crowd kept from beginning at once, by what was done with them",
        );
        let incoming = [
            ([("outcome", "retried")], quic.retried.load(Ordering::Relaxed)),
            ([("outcome", "refused")], quic.refused.load(Ordering::Relaxed)),
        ];
        counter(encoder, metric, incoming)?;
        self.datagrams(encoder)?;
        let metric = described(
            "tls_reloads",
            "Certificates that were to take the place of the one before, by what became of them",
        );
        let tls = self.workers.control.tls.as_ref();
        let reloads = [
            ([("outcome", "replaced")], tls.map_or(0, |tls| tls.replaced())),
            ([("outcome", "failed")], tls.map_or(0, |tls| tls.failed())),
        ];
        counter(encoder, metric, reloads)?;
        let metric = described(
            "tls_certificate_end_seconds",
            "When the certificate of the listener for clients ends, in seconds since 1970",
        );
        let end = tls.and_then(|tls| tls.credentials().ends_unix_s());
        gauge(encoder, metric, end.map(|end| (NO_LABELS, end)))
    }

    fn datagrams(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metric = described("quic_datagrams", "Datagrams of QUIC with messages, by what became of them");
        let datagrams = DATAGRAMS.map(|(direction, outcome, pick)| {
            ([("direction", direction), ("outcome", outcome)], self.workers.total(|c| pick(&c.datagrams)))
        });
        counter(encoder, metric, datagrams)?;
        let metric = described("quic_streams", "Streams of QUIC with long messages, by what became of them");
        let streams = STREAMS.map(|(direction, outcome, pick)| {
            ([("direction", direction), ("outcome", outcome)], self.workers.total(|c| pick(&c.streams)))
        });
        counter(encoder, metric, streams)
    }

    fn messages(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metric = described(
            "messages_published",
            "Messages that clients and the admin API published, by what became of them",
        );
        let published = Outcome::ALL.iter().flat_map(|&outcome| {
            Kind::ALL.map(|kind| {
                let labels = [("kind", kind.as_str()), ("outcome", outcome.as_str())];
                (labels, self.workers.total(|c| c.published.of(outcome).of(kind)))
            })
        });
        counter(encoder, metric, published)?;
        let metric = described("messages_delivered", "Messages completely written to a connection");
        let delivered = Transport::ALL.iter().flat_map(|&transport| {
            Kind::ALL.map(|kind| {
                let labels = [("kind", kind.as_str()), label(transport)];
                (labels, self.workers.total(|c| c.delivered.of(transport).of(kind)))
            })
        });
        counter(encoder, metric, delivered)?;
        let metric = described(
            "messages_dropped",
            "Messages that were enqueued for a connection, or meant for a queue, and not written",
        );
        let dropped = [
            ([("reason", "slow_consumer")], self.workers.summed(|c| c.slow_consumers.dropped())),
            ([("reason", "expired")], self.workers.total(|c| &c.dropped_expired)),
            ([("reason", "connection_lost")], self.workers.total(|c| &c.dropped_connection_lost)),
            ([("reason", "no_member")], self.workers.total(|c| &c.dropped_no_member)),
            ([("reason", "catching_up")], self.workers.total(|c| &c.dropped_catching_up)),
        ];
        counter(encoder, metric, dropped)?;
        let metric = described("slow_consumers", "Messages by what a full outbound queue did with them");
        let acted = Overflow::ALL.map(|action| {
            ([("action", action.as_str())], self.workers.total(|c| c.slow_consumers.of(action)))
        });
        counter(encoder, metric, acted)?;
        let metric = described("delivery_latency", "From publish to the write that finished the message");
        let latencies = Kind::ALL
            .map(|kind| ([("kind", kind.as_str())], self.workers.observed(|c| c.delivery_latency.of(kind))));
        histogram(encoder, metric, latencies)
    }

    fn tails(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let tails = &self.workers.control.tails;
        let metric = described("tails", "Operators' tails that are open");
        gauge(encoder, metric, [(NO_LABELS, u64::try_from(tails.count()).unwrap_or(u64::MAX))])?;
        let metric =
            described("tail_messages", "Messages for tails, by what became of them, once for each tail");
        let messages =
            [([("outcome", "queued")], tails.taken()), ([("outcome", "dropped")], tails.dropped())];
        counter(encoder, metric, messages)
    }

    fn bytes_and_errors(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metric = described("outbound_queue", "Bytes that outbound queues pin").in_unit(&Unit::Bytes);
        gauge(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.outbound_queue_bytes))])?;
        let metric = described("read", "Bytes read from connections").in_unit(&Unit::Bytes);
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.bytes_read))])?;
        let metric = described("written", "Bytes written to connections").in_unit(&Unit::Bytes);
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.bytes_written))])?;
        let metric = described("error_frames_sent", "Error frames sent to clients");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.errors_sent))])
    }

    fn registry(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let registry = &self.workers.control.registry;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let metric = described("watched_users", "Users whose presence somebody watches");
        gauge(encoder, metric, [(NO_LABELS, count(registry.watched_count()))])?;
        let metric = described(
            "presence_changes",
            "Changes of presence for watching sessions, by what became of them",
        );
        let lost = self.workers.control.mailboxes.iter().map(|mailbox| mailbox.presence_lost()).sum();
        let changes = [
            ([("outcome", "told")], self.workers.total(|c| &c.presence_told)),
            ([("outcome", "deferred")], self.workers.total(|c| &c.presence_deferred)),
            ([("outcome", "lost")], lost),
        ];
        counter(encoder, metric, changes)?;
        let metric = described("audiences", "Addresses that somebody listens to");
        gauge(encoder, metric, [(NO_LABELS, count(registry.audience_count()))])?;
        let metric = described("wildcard_patterns", "Patterns with wildcards that somebody subscribes to");
        gauge(encoder, metric, [(NO_LABELS, count(registry.wildcard_count()))])
    }
}

/// Direction and outcome of what travels beside streams, with the count behind them.
type Beside<T> = (&'static str, &'static str, fn(&T) -> &Count);

const DATAGRAMS: [Beside<Datagrams>; 6] = [
    ("out", "sent", |d| &d.sent),
    ("out", "large", |d| &d.large),
    ("out", "full", |d| &d.full),
    ("in", "taken", |d| &d.taken),
    ("in", "refused", |d| &d.refused),
    ("in", "dropped", |d| &d.dropped),
];

const STREAMS: [Beside<Streams>; 6] = [
    ("out", "sent", |s| &s.sent),
    ("out", "full", |s| &s.full),
    ("out", "stopped", |s| &s.stopped),
    ("in", "taken", |s| &s.taken),
    ("in", "refused", |s| &s.refused),
    ("in", "reset", |s| &s.reset),
];

#[expect(
    clippy::cast_precision_loss,
    reason = "seconds need no more than 53 bits of microseconds: 285 years"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl Collector for Broker {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.connections(&mut encoder)?;
        self.messages(&mut encoder)?;
        self.tails(&mut encoder)?;
        self.bytes_and_errors(&mut encoder)?;
        self.registry(&mut encoder)
    }
}
