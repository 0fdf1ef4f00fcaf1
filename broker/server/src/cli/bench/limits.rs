//! The bounds of `waspmq bench`, and what happens when they are reached; `docs/CONFIG.md` lists them.

use std::time::Duration;

/// Clients of one run, and of `connections`. More: wrong usage. One address has no more ports to connect from to one other.
pub(super) const CLIENTS_MAX: usize = 60_000;

/// Clients that are being connected at a time. More: the next one waits, which counts as time that it took.
pub(super) const CONNECTING_MAX: usize = 256;

/// Threads that the clients run on. More: wrong usage.
pub(super) const THREADS_MAX: usize = 64;

/// Messages a second that may be asked for. More: wrong usage.
pub(super) const RATE_MAX: f64 = 10_000_000.0;

/// Messages on their way to each receiver, or receipts that one publisher waits for. More: wrong usage.
pub(super) const IN_FLIGHT_MAX: usize = 4_096;

/// A duration, a warm-up or a hold that may be asked for. Longer: wrong usage.
pub(super) const TIME_MAX: Duration = Duration::from_hours(24);

/// Receipts on their way from the thread that keeps the rate to the task that waits for them. More: that thread waits, and falls behind.
pub(super) const RECEIPTS_MAX: usize = IN_FLIGHT_MAX;

/// Gaps in the numbers of one publisher's messages that one receiver remembers. More: what is in the first one counts as lost, and as a
/// repeat where it comes after all.
pub(super) const GAPS_MAX: usize = 16_384;

/// Messages whose first and last receiver are looked for at a time. More: the oldest one is given up, and counted.
pub(super) const SPREADS_MAX: usize = 8_192;

/// Causes of failures that are told apart. More: they count as others.
pub(super) const CAUSES_MAX: usize = 32;

/// The longest latency that is told apart from longer ones.
pub(super) const LATENCY_MAX: Duration = Duration::from_mins(10);

/// How long nothing may come, behind the last publish, before what is missing counts as lost; and how long a full window may stay so
/// before what is in it counts as done. Longer than brokers usually wait for an acknowledgement before they repeat a message.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// How long a held connection may take for a sign of life. Longer: it is lost.
pub(super) const ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the broker's figures may take to have seen the connections that were opened. Longer: its memory is not shown.
pub(super) const FIGURES_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the broker's metrics that are read. More: its memory is not shown.
pub(super) const METRICS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Descriptors besides those of connections: the runtime, the terminal, files of trust.
pub(super) const FILES_ELSEWHERE: u64 = 64;

/// From which part of the asked rate on, in percent, it is said that the generator fell behind.
pub(super) const BEHIND_TOLD_PERCENT: f64 = 1.0;

const _: () =
    assert!(GAPS_MAX >= 2 * IN_FLIGHT_MAX, "what members of a queue overtake each other by is no loss");
const _: () = assert!(SPREADS_MAX >= 2 * IN_FLIGHT_MAX, "what a window holds is looked at to its end");
