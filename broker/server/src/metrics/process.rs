//! Figures of the process, sampled from `/proc/self` by a thread of their own, never at a scrape.
//!
//! Names follow the conventions of Prometheus client libraries and have no prefix of ours. Where a figure cannot
//! be read (another system than Linux), it is left out.

use super::encode::described;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt::Error;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, park_timeout};
use std::time::Duration;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where the kernel does not tell the number of descriptors (before Linux 6.2), they are counted one by one. With
/// a hundred thousand of them that takes tens of milliseconds, hence only every so many samples.
const COUNTED_EVERY: u32 = 100;

/// One sample. Counts are as the kernel keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sample {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    threads: Option<u64>,
    start_time_seconds: Option<f64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

/// Keeps the latest sample; its thread ends with it.
#[derive(Debug)]
pub(crate) struct Sampler {
    latest: Arc<Mutex<Sample>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Takes the first sample and starts the thread. Without a thread the first sample stays.
    pub(crate) fn start() -> Self {
        let constants = Constants::read();
        let latest = Arc::new(Mutex::new(constants.sample(Sample::default(), 0)));
        // The thread holds no strong reference, so it ends when the sampler is gone.
        let weak = Arc::downgrade(&latest);
        let thread = std::thread::Builder::new().name("process-metrics".to_owned()).spawn(move || {
            for round in 1_u32.. {
                park_timeout(INTERVAL);
                let Some(latest) = weak.upgrade() else { return };
                let before = *latest.lock().unwrap_or_else(PoisonError::into_inner);
                let sample = constants.sample(before, round);
                *latest.lock().unwrap_or_else(PoisonError::into_inner) = sample;
            }
        });
        let thread =
            thread.inspect_err(|error| tracing::warn!(%error, "process figures are not sampled")).ok();
        Self { latest, thread }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.latest = Arc::default();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it was reported by the panic hook.
            drop(thread.join());
        }
    }
}

/// What does not change while the process runs.
#[derive(Debug, Clone, Copy)]
struct Constants {
    ticks_per_second: f64,
    page_bytes: u64,
    boot_time_seconds: Option<f64>,
    max_fds: Option<u64>,
}

impl Constants {
    fn read() -> Self {
        #[expect(clippy::cast_precision_loss, reason = "100 on every system")]
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let max_fds = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
        Self {
            ticks_per_second,
            page_bytes,
            boot_time_seconds: boot.and_then(|text| text.trim().parse().ok()),
            max_fds: max_fds.and_then(|rest| rest.split_whitespace().next()?.parse().ok()),
        }
    }

    /// A sample; descriptors are taken over from `before` where counting them is dear and not due.
    fn sample(&self, before: Sample, round: u32) -> Sample {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let open_fds = match fs::metadata("/proc/self/fd").map(|metadata| metadata.len()) {
            Ok(0) if round.is_multiple_of(COUNTED_EVERY) => count_fds(),
            Ok(0) => before.open_fds,
            told => told.ok(),
        };
        Sample { open_fds, max_fds: self.max_fds, ..self.parse(&stat) }
    }

    /// Reads a line of `/proc/<pid>/stat` (proc_pid_stat(5)).
    fn parse(&self, stat: &str) -> Sample {
        // The second field is the program's name in brackets and may hold anything; count from behind it.
        let Some((_, behind)) = stat.rsplit_once(')') else { return Sample::default() };
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "ticks of centuries")]
        let seconds = |ticks: u64| ticks as f64 / self.ticks_per_second;
        let since_boot = field(22).map(seconds);
        Sample {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
            threads: field(20),
            start_time_seconds: since_boot.zip(self.boot_time_seconds).map(|(since, boot)| boot + since),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages.saturating_mul(self.page_bytes)),
            open_fds: None,
            max_fds: None,
        }
    }
}

/// Counts descriptors one by one, without the one that reading the folder takes.
fn count_fds() -> Option<u64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count.saturating_sub(1)).ok()
}

impl Collector for Sampler {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let sample = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cpu_seconds) = sample.cpu_seconds {
            let metric = described("process_cpu_seconds", "CPU time of the process, user and system");
            encoder
                .encode_descriptor(metric.name, metric.help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&cpu_seconds, None)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "bytes and counts below 2^53")]
        let float = |value: Option<u64>| value.map(|value| value as f64);
        let gauges = [
            ("process_resident_memory_bytes", "Memory in use", float(sample.resident_bytes)),
            (
                "process_virtual_memory_bytes",
                "Address space, most of it reserved",
                float(sample.virtual_bytes),
            ),
            ("process_threads", "Threads", float(sample.threads)),
            ("process_open_fds", "Open file descriptors", float(sample.open_fds)),
            ("process_max_fds", "File descriptors that may be open", float(sample.max_fds)),
            ("process_start_time_seconds", "When the process began, since 1970", sample.start_time_seconds),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_by_field() {
        let constants = Constants {
            ticks_per_second: 100.0,
            page_bytes: 4096,
            boot_time_seconds: Some(1_000.0),
            max_fds: None,
        };
        let numbers: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let sample = constants.parse(&format!("7 (a ) b) S {}", numbers.join(" ")));
        assert_eq!(
            sample,
            Sample {
                cpu_seconds: Some(0.29),
                threads: Some(20),
                start_time_seconds: Some(1_000.22),
                virtual_bytes: Some(23),
                resident_bytes: Some(24 * 4096),
                open_fds: None,
                max_fds: None,
            }
        );
        assert_eq!(constants.parse("garbage"), Sample::default());
    }

    #[test]
    fn this_process_has_figures() {
        let sample = Constants::read().sample(Sample::default(), 0);
        assert!(sample.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{sample:?}");
        assert!(sample.open_fds.is_some_and(|fds| fds >= 3), "{sample:?}");
        assert!(sample.threads.is_some_and(|threads| threads >= 1), "{sample:?}");
        assert!(sample.start_time_seconds.is_some_and(|start| start > 1e9), "{sample:?}");
        assert!(sample.max_fds.is_some(), "{sample:?}");
    }

    #[test]
    fn the_thread_ends_with_the_sampler() {
        let sampler = Sampler::start();
        let weak = Arc::downgrade(&sampler.latest);
        drop(sampler);
        assert!(weak.upgrade().is_none());
    }
}
