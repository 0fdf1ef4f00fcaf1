//! What all scenarios are told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::server::Kind;
use crate::wire::Wire;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The broker's binary
    #[arg(long, default_value = "target/release/waspmq")]
    pub(crate) broker: PathBuf,
    /// One more argument for `waspmq serve`; may be given several times
    #[arg(long = "broker-arg", allow_hyphen_values = true)]
    pub(crate) broker_args: Vec<String>,
    /// What to measure, in this order in each repetition
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["relay", "broker"])]
    pub(crate) servers: Vec<Kind>,
    /// The broker's profile: binary or json
    #[arg(long, default_value_t = Wire::Binary)]
    pub(crate) profile: Wire,
    /// Repetitions of each server
    #[arg(long, default_value_t = 3)]
    pub(crate) repetitions: u32,
    /// Folder of the JSON lines
    #[arg(long, default_value = "benches/results")]
    pub(crate) results: PathBuf,
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
