//! What `/proc` tells about a process: CPU time, resident memory, and the machine it runs on.
//!
//! CPU time is kept in two ways. The scheduler's figures of the threads alive now are exact to the nanosecond, but
//! a thread that ends takes its time with it; the process's own total keeps the time of ended threads, but counts
//! in clock ticks. A difference uses the first unless the second is larger by more than rounding explains.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// CPU time used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    living_threads: Duration,
    user: Duration,
    system: Duration,
}

/// CPU time used between two readings. The split between user and system counts in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) total: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    /// # Errors
    /// When the process is gone or `/proc` does not look as expected.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut living_threads = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).context("reading the server's threads")? {
            // A thread may end between the listing and the reading.
            let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            living_threads += parse_schedstat(&line).context("unexpected schedstat")?;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = parse_stat(&stat).context("unexpected stat")?;
        let ticks = |count: u64| tick().saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(Self { living_threads, user: ticks(user), system: ticks(system) })
    }

    pub(crate) fn since(&self, earlier: &Self) -> Used {
        let user = self.user.saturating_sub(earlier.user);
        let system = self.system.saturating_sub(earlier.system);
        let living_threads = self.living_threads.saturating_sub(earlier.living_threads);
        // Each of the two parts is cut to whole ticks at each of the two readings.
        let explained_by_rounding = user + system <= living_threads + 3 * tick();
        let total = if explained_by_rounding { living_threads } else { user + system };
        Used { total, user, system }
    }
}

fn tick() -> Duration {
    Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Resident bytes of a process.
///
/// # Errors
/// When the process is gone or `/proc` does not look as expected.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        && let Some(bytes) = parse_rollup(&rollup)
    {
        return Ok(bytes);
    }
    resident_bytes_now(pid)
}

/// As [`resident_bytes`], from counters that may lag by some pages per thread, but at no cost to the process.
///
/// # Errors
/// When the process is gone or `/proc` does not look as expected.
pub(crate) fn resident_bytes_now(pid: u32) -> Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).context("reading the server's memory")?;
    let pages: u64 = statm.split(' ').nth(1).context("unexpected statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Bytes of kernel memory in the buffers of all TCP sockets of the machine, in no process's resident memory.
///
/// # Errors
/// When `/proc` does not look as expected.
pub(crate) fn kernel_tcp_bytes() -> Result<u64> {
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    parse_sockstat(&sockstat)
        .context("unexpected sockstat")
        .map(|pages| pages * rustix::param::page_size() as u64)
}

/// Pages, the figure behind `mem` in the line of TCP.
fn parse_sockstat(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_once(" mem ")?.1.split_ascii_whitespace().next()?.parse().ok()
}

/// Raises the soft limit of open files to `count` at least, the hard one too where that is allowed. Children
/// inherit it.
///
/// # Errors
/// When neither is allowed; names the limit and what is needed.
pub(crate) fn allow_files(count: u64) -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    let hard = now.maximum.map(|maximum| maximum.max(count));
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: hard })
        .with_context(|| format!("{count} open files are needed, {:?} are allowed (ulimit -Hn)", now.maximum))
}

/// First field of `schedstat`: nanoseconds on a CPU.
fn parse_schedstat(line: &str) -> Option<Duration> {
    line.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// User and system ticks, fields 14 and 15 of `stat`. The name in field 2 may hold spaces and parentheses, so
/// counting starts behind its last one.
fn parse_stat(line: &str) -> Option<(u64, u64)> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn parse_rollup(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The machine a sample was taken on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: parse_cpu_model(&text("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

fn parse_cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_cpu_wait_slices() {
        assert_eq!(parse_schedstat("123456789 42 7\n"), Some(Duration::from_nanos(123_456_789)));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("none 0 0"), None);
    }

    #[test]
    fn stat_survives_a_name_with_spaces_and_parentheses() {
        let line = "77 (a (b) c) S 1 77 77 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 3 0 1000 0 0";
        assert_eq!(parse_stat(line), Some((250, 31)));
        assert_eq!(parse_stat("77 (a) S 1"), None);
    }

    #[test]
    fn rollup_is_in_kilobytes() {
        assert_eq!(parse_rollup("00400000-7ffc rollup\nRss:    3120 kB\nPss: 1 kB\n"), Some(3120 * 1024));
        assert_eq!(parse_rollup("Pss: 1 kB\n"), None);
    }

    #[test]
    fn sockstat_has_pages_of_tcp() {
        let text = "sockets: used 9\nTCP: inuse 27 orphan 0 tw 2 alloc 31 mem 385\nUDP: inuse 8 mem 2\n";
        assert_eq!(parse_sockstat(text), Some(385));
        assert_eq!(parse_sockstat("UDP: inuse 8 mem 2\n"), None);
    }

    #[test]
    fn the_first_cpu_names_the_machine() {
        assert_eq!(
            parse_cpu_model("processor : 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n"),
            Some("AMD EPYC")
        );
        assert_eq!(parse_cpu_model(""), None);
    }

    #[test]
    fn the_time_of_a_thread_that_ended_is_not_lost() {
        let reading = |living_ms, user_ms| Cpu {
            living_threads: Duration::from_millis(living_ms),
            user: Duration::from_millis(user_ms),
            system: Duration::ZERO,
        };
        let total = |before: &Cpu, after: &Cpu| after.since(before).total.as_millis();
        let before = reading(1_000, 1_000);
        assert_eq!(total(&before, &reading(1_503, 1_500)), 503, "exact while all threads live");
        assert_eq!(total(&before, &reading(1_503, 1_520)), 503, "two ticks are rounding");
        assert_eq!(total(&before, &reading(800, 1_500)), 500, "a thread took 700 ms with it");
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let before = Cpu::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for i in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
        }
        let used = Cpu::of(std::process::id()).unwrap().since(&before);
        assert!(used.total > Duration::ZERO, "sum {sum}");
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
    }
}
