//! What all scenarios are told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::exchange::Interval;
use crate::server::Kind;
use crate::wire::Wire;

/// The broker under test.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Broker {
    /// The broker's binary
    #[arg(long = "broker", default_value = "target/release/waspmq")]
    pub(crate) program: PathBuf,
    /// One more argument for `waspmq serve`; may be given several times
    #[arg(long = "broker-arg", allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// How often, and where the samples go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Output {
    /// Repetitions of each
    #[arg(long, default_value_t = 3)]
    pub(crate) repetitions: u32,
    /// Folder of the JSON lines
    #[arg(long, default_value = "benches/results")]
    pub(crate) results: PathBuf,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) broker: Broker,
    /// What to measure, in this order in each repetition
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["relay", "broker"])]
    pub(crate) servers: Vec<Kind>,
    /// The broker's profile: binary or json
    #[arg(long, default_value_t = Wire::Binary)]
    pub(crate) profile: Wire,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How long a run of acknowledged messages is, and on which disk.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Stretch {
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds under load before that
    #[arg(long, default_value_t = 0.7)]
    pub(crate) warm_up: f64,
    /// Bytes of payload that a measured interval lasts for at least, however many seconds that takes (600 at most)
    #[arg(long, default_value_t = 0)]
    pub(crate) bytes: u64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
}

impl Stretch {
    /// # Errors
    /// When a figure is out of its range; names it.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((0.05..=600.0).contains(&self.seconds), "--seconds is between 0.05 and 600");
        ensure!((0.0..=600.0).contains(&self.warm_up), "--warm-up is between 0 and 600");
        ensure!((1..=512 * 1024).contains(&self.payload), "--payload is between 1 and 524288");
        Ok(())
    }

    pub(crate) fn interval(&self) -> Interval {
        Interval {
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.seconds),
            bytes_min: self.bytes,
        }
    }
}

/// Where servers and the reference keep their files.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Disk {
    /// Where servers and the reference keep their files, each in a folder of its own
    #[arg(long = "dir", default_value_os_t = std::env::temp_dir())]
    pub(crate) path: PathBuf,
}

impl Disk {
    /// The file system's magic number (`statfs`), for the record.
    ///
    /// # Errors
    /// When the folder is not there, or is in memory, where syncing costs nothing.
    pub(crate) fn check(&self) -> Result<String> {
        const TMPFS: u64 = 0x0102_1994;
        let found = rustix::fs::statfs(&self.path).with_context(|| format!("{}", self.path.display()))?;
        let magic = u64::try_from(found.f_type).unwrap_or_default();
        ensure!(magic != TMPFS, "{} is in memory; name a folder on a disk by --dir", self.path.display());
        Ok(format!("{magic:#x}"))
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Timing {
    /// Seconds measured in each repetition
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds under load before that
    #[arg(long, default_value_t = 0.7)]
    pub(crate) warm_up: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
    /// Messages outstanding per sender
    #[arg(long, default_value_t = 64)]
    pub(crate) window: u32,
    /// Messages per second over all senders, open loop, instead of a window
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Let the broker put several frames into one WebSocket message
    #[arg(long)]
    pub(crate) batch: bool,
}

impl Timing {
    /// # Errors
    /// When a figure is out of its range; names it.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((0.05..=3600.0).contains(&self.seconds), "--seconds is between 0.05 and 3600");
        ensure!((0.0..=3600.0).contains(&self.warm_up), "--warm-up is between 0 and 3600");
        ensure!((16..=1 << 20).contains(&self.payload), "--payload is between 16 and 1048576");
        ensure!((1..=1 << 20).contains(&self.window), "--window is between 1 and 1048576");
        ensure!(
            self.rate.is_none_or(|rate| (0.1..=1e7).contains(&rate)),
            "--rate is between 0.1 and 10000000"
        );
        Ok(())
    }

    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn warming(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}
