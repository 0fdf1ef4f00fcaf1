//! The arguments of the scenarios, and how they are read.

use super::limits::{CLIENTS_MAX, IN_FLIGHT_MAX, RATE_MAX, THREADS_MAX, TIME_MAX};
use super::schedule::Until;
use crate::cli::DEFAULT_URL;
use crate::cli::identity::Reach;
use crate::cli::token::Signer;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use waspmq_client::{Level, Profile};
use waspmq_core::limits::MESSAGE_BYTES_MAX;

/// The encoding of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// Binary frames
    Binary,
    /// JSON, as browsers and scripts speak it; over WebSocket only
    Json,
}

/// What every scenario takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) reach: Reach,
    /// The broker: ws://host:port/ws, wss://host:port/ws, quic://host:port or wt://host:port/wt
    #[arg(long, env = "WASPMQ_URL", default_value = DEFAULT_URL)]
    pub(super) url: String,
    /// How frames are encoded
    #[arg(long, value_enum, default_value = "binary")]
    profile: Encoding,
    /// Threads that the clients run on; one per core unless given
    #[arg(long, value_name = "N", value_parser = count(THREADS_MAX))]
    threads: Option<usize>,
    /// Print one JSON object; docs/BENCH.md has its fields
    #[arg(long)]
    pub(super) json: bool,
    #[command(
        flatten,
        next_help_heading = "With access keys: sign a token for each client, instead of --token"
    )]
    pub(super) signer: Signer,
}

/// What the scenarios with messages take.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// Bytes of each payload, at least 24, with --profile json 50
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = count(MESSAGE_BYTES_MAX))]
    pub(super) size: usize,
    /// How long messages are sent, behind the warm-up: a number and ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    duration: Duration,
    /// Instead of a time: so many of each publisher, behind the warm-up
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    messages: Option<u64>,
    /// How long messages are sent before those that are measured; 1s, with --messages 0s
    #[arg(long, value_name = "TIME", value_parser = parse_time_or_none)]
    warmup: Option<Duration>,
}

/// At a rate or in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// So many a second, of all publishers together.
    Rate(f64),
    /// So many of each publisher on their way.
    Window(usize),
}

/// For scenarios that can do both.
#[derive(Debug, Args)]
pub(super) struct Drive {
    /// As fast as this many messages of a publisher on their way allow
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(IN_FLIGHT_MAX))]
    in_flight: usize,
    /// At this rate instead: messages a second, of all publishers together
    #[arg(long, value_name = "N", conflicts_with = "in_flight", value_parser = parse_rate)]
    rate: Option<f64>,
}

impl Common {
    pub(super) const fn profile(&self) -> Profile {
        match self.profile {
            Encoding::Binary => Profile::Binary,
            Encoding::Json => Profile::Json,
        }
    }

    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        self.threads.unwrap_or_else(cores)
    }
}

impl Load {
    /// Messages are those of each publisher.
    pub(super) fn until(&self) -> Until {
        self.messages.map_or(Until::Time(self.duration), Until::Messages)
    }

    pub(super) fn warmup(&self) -> Duration {
        let usual = if self.messages.is_some() { Duration::ZERO } else { Duration::from_secs(1) };
        self.warmup.unwrap_or(usual)
    }
}

impl Drive {
    pub(super) fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Window(self.in_flight), Pace::Rate)
    }
}

/// Where the admin API is, for the broker's own figures.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// The broker's admin listener, for its memory per connection
    #[arg(long, value_name = "ADDRESS", env = "WASPMQ_ADMIN_URL", default_value = "127.0.0.1:9471")]
    pub(super) admin: String,
    /// The admin token, which an admin listener on another machine wants; else read from the data directory
    #[arg(long, value_name = "TOKEN", env = "WASPMQ_ADMIN_TOKEN", hide_env_values = true)]
    pub(super) admin_token: Option<String>,
    /// The broker's data directory, for its admin token
    #[arg(long, value_name = "DIR", env = "WASPMQ_DATA_DIR", default_value = "waspmq-data")]
    pub(super) data_dir: PathBuf,
}

/// A number of things, from 1 to a bound.
fn count(max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| format!("must be a whole number from 1 to {max}"))
    }
}

pub(super) fn parse_clients(text: &str) -> Result<usize, String> {
    count(CLIENTS_MAX)(text)
}

pub(super) fn parse_in_flight(text: &str) -> Result<usize, String> {
    count(IN_FLIGHT_MAX)(text)
}

pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("must be a number from 0.001 to {RATE_MAX}"))
}

pub(super) fn parse_level(text: &str) -> Result<Level, String> {
    let level = Level::parse(text).filter(|level| *level != Level::None);
    level.ok_or_else(|| "expected accepted, stored or delivered".to_owned())
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    parse_time_or_none(text)
        .and_then(|time| if time.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(time) })
}

pub(super) fn parse_time_or_none(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "a time is a number and ms, s, m or h, such as 30s";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let time = number.checked_mul(unit_ms).map(Duration::from_millis).filter(|time| *time <= TIME_MAX);
    time.ok_or_else(|| format!("must be at most {} h", TIME_MAX.as_secs() / 3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected_ms: Option<u64>| {
            assert_eq!(parse_time_or_none(text).ok(), expected_ms.map(Duration::from_millis), "{text}");
        };
        check("0s", Some(0));
        check("250ms", Some(250));
        check("10s", Some(10_000));
        check("2m", Some(120_000));
        check("24h", Some(86_400_000));
        for wrong in ["", "s", "10", "-1s", "1 s", "1.5s", "25h", "1d", "ü", "99999999999999999999s"] {
            check(wrong, None);
        }
        assert!(parse_time("0ms").is_err() && parse_time("1ms").is_ok());
    }

    #[test]
    fn numbers_have_bounds() {
        let count = |text: &str| parse_clients(text).is_ok();
        assert!(count("1") && count("60000"));
        assert!(!count("0") && !count("60001") && !count("-1") && !count("x") && !count(""));
        let rate = |text: &str| parse_rate(text).is_ok();
        assert!(rate("0.5") && rate("1000") && rate("1e6"));
        assert!(!rate("0") && !rate("-1") && !rate("NaN") && !rate("inf") && !rate("1e8"));
        assert!(parse_level("stored").is_ok() && parse_level("none").is_err());
    }
}
