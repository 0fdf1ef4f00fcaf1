//! Latencies, from the stamp inside a message to its receipt.
//!
//! A stamp is the nanosecond since the run's start at which a message was *due*: the scheduled time at a given
//! rate, the sending time in a closed loop. Messages due inside the measured interval count whenever they arrive,
//! also after its end; the others never do.

use std::ops::Range;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Bytes of a stamp: lower-case hexadecimal digits, so that it may stand in a JSON string.
pub(crate) const STAMP_BYTES: usize = 16;

/// The longest latency told apart from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

#[derive(Debug)]
pub(crate) struct Recorder {
    histogram: Histogram<u64>,
    due: Range<u64>,
    unreadable_count: u64,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) samples: u64,
    pub(crate) unreadable: u64,
}

impl Recorder {
    /// # Errors
    /// When the histogram cannot be laid out.
    pub(crate) fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
        Ok(Self { histogram, due: 0..0, unreadable_count: 0 })
    }

    /// Sets which messages count, by the time they were due at.
    pub(crate) fn measure(&mut self, due: Range<u64>) {
        self.due = due;
    }

    /// Takes one received message; `None` is a message without a readable stamp.
    pub(crate) fn record(&mut self, due_ns: Option<u64>, received_ns: u64) {
        match due_ns {
            Some(due_ns) if self.due.contains(&due_ns) => {
                self.histogram.saturating_record(received_ns.saturating_sub(due_ns).max(1));
            }
            Some(_) => {}
            None => self.unreadable_count += 1,
        }
    }

    /// Takes over what another recorder has.
    ///
    /// # Errors
    /// When it holds values that this one cannot.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.histogram.add(&other.histogram)?;
        self.unreadable_count += other.unreadable_count;
        Ok(())
    }

    pub(crate) fn summary(&self) -> Summary {
        let us = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Summary {
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.histogram.max() as f64 / 1_000.0,
            samples: self.histogram.len(),
            unreadable: self.unreadable_count,
        }
    }
}

pub(crate) fn encode_stamp(ns: u64) -> [u8; STAMP_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut stamp = [0; STAMP_BYTES];
    for (pair, byte) in stamp.as_chunks_mut::<2>().0.iter_mut().zip(ns.to_be_bytes()) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
    stamp
}

/// The stamp at the start of `bytes`.
pub(crate) fn decode_stamp(bytes: &[u8]) -> Option<u64> {
    let mut ns = 0;
    for digit in bytes.get(..STAMP_BYTES)? {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        ns = ns << 4 | u64::from(value);
    }
    Some(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_come_back() {
        for ns in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(decode_stamp(&encode_stamp(ns)), Some(ns));
        }
        assert_eq!(&encode_stamp(0xab), b"00000000000000ab");
        assert_eq!(decode_stamp(b"00000000000000a"), None, "too short");
        assert_eq!(decode_stamp(b"00000000000000aX"), None, "not a digit");
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut recorder = Recorder::new().unwrap();
        recorder.measure(0..1);
        for us in 1..=1_000_u64 {
            recorder.record(Some(0), us * 1_000);
        }
        let summary = recorder.summary();
        for (got, want) in [(summary.p50_us, 500.0), (summary.p99_us, 990.0), (summary.p999_us, 999.0)] {
            assert!((got - want).abs() <= want * 0.002, "{got} for {want}");
        }
        assert!((summary.max_us - 1_000.0).abs() <= 1.0, "{}", summary.max_us);
        assert_eq!(summary.samples, 1_000);
    }

    #[test]
    fn only_messages_due_in_the_interval_count_however_late() {
        let mut recorder = Recorder::new().unwrap();
        recorder.measure(100..200);
        recorder.record(Some(99), 150);
        recorder.record(Some(200), 250);
        recorder.record(Some(199), 1_000_199);
        recorder.record(None, 150);
        let summary = recorder.summary();
        assert_eq!((summary.samples, summary.unreadable), (1, 1));
        assert!((summary.max_us - 1_000.0).abs() <= 1.0, "{}", summary.max_us);
    }
}
