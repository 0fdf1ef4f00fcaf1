//! What compression came to, by codec.

use super::broker::Workers;
use super::encode::{counter, counter_of_seconds, described};
use crate::control::Control;
use crate::worker::counters::{ByCodec, Compressed, Count};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt::Error;

const NO_LABELS: [(&str, &str); 0] = [];

#[derive(Debug)]
pub(crate) struct Compression {
    workers: Workers,
}

impl Compression {
    pub(crate) const fn new(control: Control) -> Self {
        Self { workers: Workers::new(control) }
    }

    /// One figure of each codec.
    fn each(&self, pick: impl Fn(&Compressed) -> &Count) -> impl Iterator<Item = (&'static str, u64)> {
        ByCodec::NAMES.into_iter().enumerate().map(move |(index, name)| {
            (name, self.workers.summed(|c| c.compression.each().get(index).map_or(0, |of| pick(of).load())))
        })
    }
}

/// Which bytes are counted: those of messages, or those on the wire, and the direction as the broker sees it.
type Side = (&'static str, fn(&Compressed) -> &Count);
const SIDES: [Side; 4] = [
    ("plain_out", |c| &c.plain_out),
    ("wire_out", |c| &c.wire_out),
    ("plain_in", |c| &c.plain_in),
    ("wire_in", |c| &c.wire_in),
];

impl Collector for Compression {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let encoder = &mut encoder;
        let metric = described("compression", "Bytes that were compressed or unpacked, each counted once")
            .in_unit(&Unit::Bytes);
        let bytes = SIDES.iter().flat_map(|&(side, pick)| {
            self.each(pick).map(move |(codec, bytes)| ([("codec", codec), ("side", side)], bytes))
        });
        counter(encoder, metric, bytes)?;
        let metric =
            described("compressed_messages", "Messages that were compressed, once for all recipients");
        counter(encoder, metric, self.each(|c| &c.messages).map(|(codec, n)| ([("codec", codec)], n)))?;
        let metric = described("compression", "Time of workers that compressing took");
        let spent = self.each(|c| &c.spent_ns).map(|(codec, ns)| ([("codec", codec)], ns as f64 / 1e9));
        counter_of_seconds(encoder, metric, spent)?;
        let metric = described("dictionaries_sent", "Dictionaries that connections were sent");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.dictionaries_sent))])?;
        let metric = described("unpack_failures", "Compressed messages that came and could not be unpacked");
        counter(encoder, metric, [(NO_LABELS, self.workers.total(|c| &c.unpack_failures))])
    }
}
