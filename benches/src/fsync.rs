//! The reference for level `stored` alone: see [`crate::commit`].

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::commit::{self, BATCH_BYTES_MAX, Plan, Sample};
use crate::options::{Disk, Output, Stretch};
use crate::report::{self, Journal, Samples, Subject, Turns};
use crate::wire::Wire;

/// Bytes of a stored record besides its payload: position, id, time, level, checksum, and the lengths and texts of
/// two short names.
pub(crate) const HEADER_BYTES: usize = 64;

const PUBLISHERS_MAX: usize = 10_000;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    stretch: Stretch,
    #[command(flatten)]
    disk: Disk,
    #[command(flatten)]
    publishers: Publishers,
}

/// Who hands over records.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Publishers {
    /// Publishers
    #[arg(long, default_value_t = 64)]
    pub(crate) publishers: usize,
    /// Messages outstanding per publisher
    #[arg(long, default_value_t = 1)]
    pub(crate) window: u16,
    /// Threads that drive the publishers of the reference; 1 is the least there can be to pay for besides the disk
    #[arg(long, default_value_t = 1)]
    pub(crate) drivers: usize,
    /// Seconds of syncing, without a pause, before the first repetition: a disk with a burst allowance uses it up
    #[arg(long, default_value_t = 0.0)]
    pub(crate) wear_in: f64,
}

impl Publishers {
    /// # Errors
    /// When a figure is out of its range; names it.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            (1..=PUBLISHERS_MAX).contains(&self.publishers),
            "--publishers is between 1 and {PUBLISHERS_MAX}"
        );
        ensure!((1..=4096).contains(&self.window), "--window is between 1 and 4096");
        ensure!((1..=self.publishers).contains(&self.drivers), "--drivers is between 1 and --publishers");
        Ok(())
    }

    /// Runs the reference for `--wear-in`, unmeasured.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn wear_in(&self, stretch: &Stretch, disk: &Disk) -> Result<()> {
        ensure!((0.0..=3600.0).contains(&self.wear_in), "--wear-in is between 0 and 3600");
        if self.wear_in > 0.0 {
            let plan = self.plan(stretch, disk);
            let measure = Duration::from_secs_f64(self.wear_in);
            let sample = commit::run(&Plan { warm_up: Duration::ZERO, measure, bytes_min: 0, ..plan })?;
            eprintln!("{:>14}: {:.0} fsyncs/s", "worn in", sample.fsyncs_per_s);
        }
        Ok(())
    }

    /// The reference that writes what these publishers hand over.
    pub(crate) fn plan(&self, stretch: &Stretch, disk: &Disk) -> Plan {
        let interval = stretch.interval();
        let record_bytes = stretch.payload + HEADER_BYTES;
        Plan {
            dir: disk.path.clone(),
            publishers: self.publishers,
            drivers: self.drivers,
            window: usize::from(self.window),
            record_bytes: record_bytes.min(BATCH_BYTES_MAX),
            warm_up: interval.warm_up,
            measure: interval.measure,
            bytes_min: interval.bytes_min,
        }
    }
}

/// There is only one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reference;

impl Subject for Reference {
    fn name(self) -> &'static str {
        "fsync"
    }

    fn profile(self, _profile: Wire) -> String {
        "none".to_owned()
    }
}

/// True when every run wrote something.
///
/// # Errors
/// When an argument is out of range, the disk fails or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, stretch, disk, publishers } = arguments;
    stretch.check()?;
    publishers.check()?;
    let filesystem = disk.check()?;
    let mut journal = Journal::open("fsync", &output.results)?;
    let parameters = json!({
        "publishers": publishers.publishers, "window": publishers.window, "drivers": publishers.drivers,
        "payload": stretch.payload, "header": HEADER_BYTES, "bytes_min": stretch.bytes,
        "dir": disk.path, "filesystem": filesystem, "wear_in": publishers.wear_in,
    });
    publishers.wear_in(stretch, disk)?;
    let turns = Turns {
        subjects: &[Reference],
        repetitions: output.repetitions,
        back_and_forth: false,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |_| {
        let sample = commit::run(&publishers.plan(stretch, disk))?;
        progress(&sample);
        Ok(sample)
    })?;
    print!("{}", report::table(&rows(&samples)));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.records > 0))
}

/// One line per sample while the run goes on.
pub(crate) fn progress(sample: &Sample) {
    eprintln!(
        "{:>14}: {:.0} records/s, {:.0} fsyncs/s, {:.1} a batch, commit p50 {:.0} us, p99 {:.0} us",
        "fsync",
        sample.records_per_s,
        sample.fsyncs_per_s,
        sample.batch.mean,
        sample.commit.p50_us,
        sample.commit.p99_us
    );
}

fn rows(samples: &Samples<Sample, Reference>) -> Vec<Vec<String>> {
    let header = [
        "records/s",
        "fsyncs/s",
        "batch mean",
        "batch p99",
        "commit p50 us",
        "p99 us",
        "p99.9 us",
        "record p50 us",
        "record p99 us",
    ];
    let cell = |figure: fn(&Sample) -> f64, digits| report::median(samples.of(Reference, figure), digits);
    let row = vec![
        cell(|sample| sample.records_per_s, 0),
        cell(|sample| sample.fsyncs_per_s, 0),
        cell(|sample| sample.batch.mean, 1),
        cell(|sample| sample.batch.p99 as f64, 0),
        cell(|sample| sample.commit.p50_us, 0),
        cell(|sample| sample.commit.p99_us, 0),
        cell(|sample| sample.commit.p999_us, 0),
        cell(|sample| sample.latency.p50_us, 0),
        cell(|sample| sample.latency.p99_us, 0),
    ];
    vec![header.map(str::to_owned).to_vec(), row]
}
