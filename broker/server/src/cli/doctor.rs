//! `waspmq doctor`: whether this machine is set up for many connections.

use super::failure::Failure;
use super::open_files::FILES_ELSEWHERE;
use super::output;
use crate::config::Config;
use crate::{listeners, quic};
use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use waspmq_policy::{HostOptions, maps_needed};
use waspmq_transport::quic::{Offload, offload as offload_here};

/// Check this machine's limits, and print the fix for each that is low
#[derive(Debug, Args)]
#[command(after_help = "\
What is wanted is for the configuration that a broker has by itself. Limits of a process are those
of this shell: a service has its own. Nothing is changed. The exit code is 0 even with warnings.")]
pub(super) struct Arguments {
    /// Print a list of JSON objects: check, found, and advice, which is null where nothing is to be done
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    found: String,
    /// What it means and what to do, when it is too low.
    advice: Option<String>,
}

/// The length of the broker's accept queues; the kernel cuts it at `somaxconn`.
const BACKLOG_WANTED: u64 = listeners::BACKLOG as u64;

/// What the broker asks for its UDP socket; the kernel gives at most `rmem_max` and `wmem_max`.
const UDP_BUFFER_WANTED: u64 = quic::SOCKET_BUFFER_BYTES as u64;

/// The kernel's own default range has this many.
const PORTS_WANTED: u64 = 28_000;

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let checks = checks(&Config::default());
    if arguments.json {
        return Ok(output::json(&serde_json::to_value(&checks)?)?);
    }
    for Check { name, found, advice } in &checks {
        let verdict = if advice.is_some() { "warn" } else { "ok" };
        output::line(format_args!("{verdict:4}  {name}: {found}"))?;
        if let Some(advice) = advice {
            output::line(format_args!("      {advice}"))?;
        }
    }
    let has_settings = checks.iter().any(|check| check.advice.as_ref().is_some_and(|it| it.contains(SYSCTL)));
    if has_settings {
        output::line(format_args!(
            "\nWhat {SYSCTL} sets lasts until the machine starts again; a file in /etc/sysctl.d with the same `name = value` keeps it."
        ))?;
    }
    Ok(())
}

const SYSCTL: &str = "sysctl -w";

fn checks(config: &Config) -> Vec<Check> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = HostOptions {
        workers: crate::broker::worker_count(config.workers),
        policies_max: config.policy.max_policies,
        ..HostOptions::default()
    };
    vec![
        open_files(getrlimit(Resource::Nofile).maximum, config.limits.connections_max as u64),
        backlog(read("/proc/sys/net/core/somaxconn").as_deref()),
        ports(read("/proc/sys/net/ipv4/ip_local_port_range").as_deref()),
        buffer(
            "UDP receive buffer (net.core.rmem_max)",
            "rmem_max",
            read("/proc/sys/net/core/rmem_max").as_deref(),
        ),
        buffer(
            "UDP send buffer (net.core.wmem_max)",
            "wmem_max",
            read("/proc/sys/net/core/wmem_max").as_deref(),
        ),
        offload(offload_here().ok()),
        memory_maps(read("/proc/sys/vm/max_map_count").as_deref(), maps_needed(options) as u64),
        workers(cores),
    ]
}

/// The hard limit: the broker raises its own as far as it lets.
fn open_files(limit: Option<u64>, connections_max: u64) -> Check {
    let wanted = connections_max.saturating_add(FILES_ELSEWHERE);
    let advice = limit.filter(|&limit| limit < wanted).map(|_| {
        format!(
            "each connection takes one; limits.connections_max is {connections_max} unless changed. \
             Fix: ulimit -n {wanted} as root before the broker is started, or LimitNOFILE={wanted} in the systemd unit"
        )
    });
    let found = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    Check { name: "open files", found, advice }
}

fn memory_maps(text: Option<&str>, wanted: u64) -> Check {
    let value = text.and_then(|text| text.trim().parse::<u64>().ok());
    let advice = match value {
        Some(value) if value < wanted => Some(format!(
            "there is room for fewer policies than policy.max_policies, or for none. Fix: {SYSCTL} vm.max_map_count={wanted}"
        )),
        _ => None,
    };
    Check { name: "memory maps (vm.max_map_count)", found: shown(value), advice }
}

fn backlog(text: Option<&str>) -> Check {
    let value = text.and_then(|text| text.trim().parse::<u64>().ok());
    let advice = match value {
        Some(value) if value < BACKLOG_WANTED => Some(format!(
            "connections that come in a burst beyond it are dropped and retried. Fix: {SYSCTL} net.core.somaxconn={BACKLOG_WANTED}"
        )),
        _ => None,
    };
    Check { name: "accept queue (net.core.somaxconn)", found: shown(value), advice }
}

fn ports(text: Option<&str>) -> Check {
    let range: Option<Vec<u64>> =
        text.and_then(|text| text.split_whitespace().map(|word| word.parse().ok()).collect());
    let count = match range.as_deref() {
        Some([first, last]) if first <= last => Some(last - first + 1),
        _ => None,
    };
    let advice = match count {
        Some(count) if count < PORTS_WANTED => Some(
            "a proxy or load generator on this machine has one connection per port and address. \
             Fix: sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""
                .to_owned(),
        ),
        _ => None,
    };
    Check { name: "ephemeral ports (net.ipv4.ip_local_port_range)", found: shown(count), advice }
}

fn buffer(name: &'static str, key: &str, text: Option<&str>) -> Check {
    let value = text.and_then(|text| text.trim().parse::<u64>().ok());
    let advice = match value {
        Some(value) if value < UDP_BUFFER_WANTED => Some(format!(
            "QUIC loses datagrams in bursts and sends them again. Fix: {SYSCTL} net.core.{key}={UDP_BUFFER_WANTED}"
        )),
        _ => None,
    };
    Check { name, found: shown(value), advice }
}

fn offload(found: Option<Offload>) -> Check {
    let is_low = found.is_some_and(|offload| offload.send_segments < 2 || offload.receive_segments < 2);
    let found = found.map_or_else(
        || "unknown: no UDP socket could be opened".to_owned(),
        |Offload { send_segments, receive_segments }| {
            format!("{send_segments} datagrams per send (GSO), {receive_segments} per receive (GRO)")
        },
    );
    let advice = is_low.then(|| {
        "QUIC makes a system call for each datagram, which costs several times as much. The kernel has it from Linux 5.0 on"
            .to_owned()
    });
    Check { name: "UDP offload", found, advice }
}

fn workers(cores: usize) -> Check {
    Check {
        name: "cores",
        found: cores.to_string(),
        advice: (cores < 2).then(|| {
            "one worker serves everything, policies included; give the process another core for steady latencies"
                .to_owned()
        }),
    }
}

fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "unknown on this system".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(check: &Check, found: &str, fix: Option<&str>) {
        assert_eq!(check.found, found, "{check:?}");
        match (&check.advice, fix) {
            (None, None) => {}
            (Some(advice), Some(fix)) => assert!(advice.contains(fix), "{advice}"),
            _ => panic!("{check:?}, expected {fix:?}"),
        }
    }

    #[test]
    fn low_limits_come_with_their_fix() {
        check(&open_files(Some(1_024), 100_000), "1024", Some("ulimit -n 101024"));
        check(&open_files(Some(101_023), 100_000), "101023", Some("LimitNOFILE=101024"));
        check(&open_files(Some(101_024), 100_000), "101024", None);
        check(&open_files(None, 100_000), "unlimited", None);
        check(&memory_maps(Some("65530\n"), 65_530), "65530", None);
        check(&memory_maps(Some("65530\n"), 65_531), "65530", Some("sysctl -w vm.max_map_count=65531"));
        check(&memory_maps(None, 1), "unknown on this system", None);
        check(&backlog(Some("128\n")), "128", Some("somaxconn=4096"));
        check(&backlog(Some("4096\n")), "4096", None);
        check(&backlog(None), "unknown on this system", None);
        check(&ports(Some("32768\t60999\n")), "28232", None);
        // Above the broker's own ports: what connects from one of them keeps it from listening there.
        check(&ports(Some("60000 60999")), "1000", Some("ip_local_port_range=\"10240 65535\""));
        check(&ports(Some("nonsense")), "unknown on this system", None);
        let receive = |text| buffer("receive", "rmem_max", text);
        check(&receive(Some("212992\n")), "212992", Some("sysctl -w net.core.rmem_max=4194304"));
        check(&receive(Some("4194304\n")), "4194304", None);
        check(&receive(None), "unknown on this system", None);
        let segments = |send_segments, receive_segments| Some(Offload { send_segments, receive_segments });
        check(&offload(segments(64, 64)), "64 datagrams per send (GSO), 64 per receive (GRO)", None);
        check(
            &offload(segments(1, 64)),
            "1 datagrams per send (GSO), 64 per receive (GRO)",
            Some("each datagram"),
        );
        check(&offload(None), "unknown: no UDP socket could be opened", None);
        check(&workers(1), "1", Some("another core"));
        check(&workers(2), "2", None);
    }
}
