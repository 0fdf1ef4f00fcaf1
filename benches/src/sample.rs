//! What one run measured, and whether it may be believed.

use std::time::Duration;

use serde::Serialize;

use crate::latency::Summary;
use crate::process::Cpu;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) deliveries: u64,
    pub(crate) deliveries_per_s: f64,
    pub(crate) published_per_s: f64,
    pub(crate) server_us_per_delivery: f64,
    pub(crate) server_user_us_per_delivery: f64,
    pub(crate) server_system_us_per_delivery: f64,
    pub(crate) server_cores: f64,
    pub(crate) generator_us_per_delivery: f64,
    /// Bytes that the generator read, WebSocket headers included.
    pub(crate) received_bytes_per_delivery: f64,
    pub(crate) server_resident_bytes: u64,
    /// From the first publish to the end of the drain.
    pub(crate) seconds_in_all: f64,
    /// In those seconds.
    pub(crate) published_in_all: u64,
    #[serde(flatten)]
    pub(crate) faults: Faults,
    pub(crate) latency: Option<Summary>,
}

/// What must not happen, counted over the whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) disconnected: u64,
    pub(crate) complaints: u64,
    pub(crate) first_complaint: Option<String>,
    /// Deliveries stopped, or the server fell behind the rate for good.
    pub(crate) stalled: bool,
}

/// The counters at one end of the measured interval.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) ns: u64,
    pub(crate) server: Cpu,
    pub(crate) generator: Cpu,
    pub(crate) delivered: u64,
    pub(crate) published: u64,
    pub(crate) received_bytes: u64,
}

impl Sample {
    pub(crate) fn between(begin: &Mark, end: &Mark, faults: Faults) -> Self {
        let server = end.server.since(&begin.server);
        let generator = end.generator.since(&begin.generator);
        let deliveries = end.delivered - begin.delivered;
        let seconds = (end.ns - begin.ns).max(1) as f64 / 1e9;
        let per_delivery = |time: Duration| time.as_secs_f64() * 1e6 / deliveries.max(1) as f64;
        Self {
            seconds,
            deliveries,
            deliveries_per_s: deliveries as f64 / seconds,
            published_per_s: (end.published - begin.published) as f64 / seconds,
            server_us_per_delivery: per_delivery(server.total),
            server_user_us_per_delivery: per_delivery(server.user),
            server_system_us_per_delivery: per_delivery(server.system),
            server_cores: server.total.as_secs_f64() / seconds,
            generator_us_per_delivery: per_delivery(generator.total),
            received_bytes_per_delivery: (end.received_bytes - begin.received_bytes) as f64
                / deliveries.max(1) as f64,
            server_resident_bytes: 0,
            seconds_in_all: 0.0,
            published_in_all: 0,
            faults,
            latency: None,
        }
    }

    /// Whether every message arrived once, everybody stayed connected and nobody complained.
    pub(crate) fn is_clean(&self) -> bool {
        let Faults { lost, duplicated, disconnected, complaints, stalled, .. } = &self.faults;
        let unreadable = self.latency.map_or(0, |latency| latency.unreadable);
        lost + duplicated + disconnected + complaints + unreadable == 0 && !stalled && self.deliveries > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(faults: Faults, delivered: u64) -> Sample {
        let cpu = Cpu::of(std::process::id()).unwrap();
        let mark = |ns, delivered| Mark {
            ns,
            server: cpu,
            generator: cpu,
            delivered,
            published: delivered,
            received_bytes: delivered * 40 + 7,
        };
        Sample::between(&mark(1_000, 5), &mark(2_000_001_000, 5 + delivered), faults)
    }

    #[test]
    fn rates_are_over_the_measured_interval() {
        let sample = sample(Faults::default(), 300);
        assert!(
            (sample.seconds - 2.0).abs() < 1e-9 && (sample.deliveries_per_s - 150.0).abs() < 1e-6,
            "{sample:?}"
        );
        assert!((sample.received_bytes_per_delivery - 40.0).abs() < 1e-9, "{sample:?}");
    }

    #[test]
    fn each_fault_alone_makes_a_sample_unclean() {
        assert!(sample(Faults::default(), 1).is_clean());
        assert!(!sample(Faults::default(), 0).is_clean(), "nothing was delivered");
        for faults in [
            Faults { lost: 1, ..Faults::default() },
            Faults { duplicated: 1, ..Faults::default() },
            Faults { disconnected: 1, ..Faults::default() },
            Faults { complaints: 1, ..Faults::default() },
            Faults { stalled: true, ..Faults::default() },
        ] {
            assert!(!sample(faults.clone(), 1).is_clean(), "{faults:?}");
        }
    }
}
