//! `waspmq dict train`: from messages to a dictionary in a file, and what it saves.

use super::super::capture::beside;
use super::super::failure::Failure;
use super::super::output;
use super::samples::Samples;
use super::savings::Savings;
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use waspmq_core::Pattern;
use waspmq_protocol::codec::{self, DICTIONARY_BYTES_MAX, Dictionary, TrainError};

/// Bytes below which a dictionary has room for its tables and little else.
const SIZE_MIN: usize = 512;

/// The part by which a dictionary has to beat the codec without one, to be worth sending.
const WORTH: f64 = 0.05;

#[derive(Debug, Args)]
#[command(after_help = "\
One message in ten is held out: not learned from, and what the dictionary saves is measured on
these. A few thousand messages make a good dictionary, a few hundred often do. Pieces of the
messages are in it.

Examples:
  waspmq dict train --from orders.jsonl --address 'topic/orders.>' -o orders.dict
  waspmq dict train --lines orders.log --size 32KiB -o orders.dict
  waspmq dict train samples/ -o orders.dict")]
pub(super) struct Arguments {
    /// Files with one message each, or directories of such files; - is standard input, one message a line
    #[arg(value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    files: Vec<PathBuf>,
    /// A capture with payloads, from `waspmq policy capture --payload`
    #[arg(long, value_name = "CAPTURE")]
    from: Option<PathBuf>,
    /// Of the capture, only messages to these addresses; may be given several times
    #[arg(long = "address", value_name = "PATTERN", requires = "from", value_parser = parse_pattern)]
    addresses: Vec<Pattern>,
    /// Each line of a file is a message
    #[arg(long, conflicts_with = "from")]
    lines: bool,
    /// Bytes of the dictionary at most, such as 16KiB; up to 128KiB
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = parse_size)]
    size: usize,
    /// Percent of the messages that are held out
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=50))]
    holdout: u8,
    /// Where the dictionary goes; what is there is replaced
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse_scope(text).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = text.strip_suffix("KiB").map_or((text, 1), |number| (number, 1024));
    let size = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (SIZE_MIN..=DICTIONARY_BYTES_MAX).contains(size)).ok_or_else(|| {
        format!("must be {SIZE_MIN} to {DICTIONARY_BYTES_MAX} bytes, as a number or with KiB behind it")
    })
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Arguments { files, from, addresses, lines, size, holdout, out } = arguments;
    // A place to write is looked for before anything is learned.
    let file = beside(out)?;
    let mut samples = Samples::default();
    match from {
        Some(capture) => samples.of_capture(capture, addresses)?,
        None => samples.of_paths(files, *lines)?,
    }
    for note in samples.left_out_notes() {
        output::note(format_args!("{note}"));
    }
    let (learned, held_out) = split(&samples.taken, *holdout);
    let bytes =
        codec::train(&learned, *size).map_err(|error| lacking(error, samples.taken.len(), *holdout))?;
    let savings = Savings::measure(&Dictionary::new(&bytes)?, &held_out)?;
    save(file, &bytes, out)?;
    if as_json {
        let document = json!({
            "file": out.display().to_string(), "bytes": bytes.len(), "digest": blake3::hash(&bytes).to_hex().as_str(),
            "learned": learned.len(), "held_out": held_out.len(), "left_out": samples.left_out(),
            "savings": savings.document(),
        });
        output::json(&document)?;
    } else {
        let (learned, held_out) = (learned.len(), held_out.len());
        output::line(format_args!(
            "{}: {} bytes, learned from {learned} messages; on {held_out} held out, each by itself:",
            output::printable(&out.display().to_string()),
            bytes.len()
        ))?;
        output::line(format_args!("{}", savings.table()))?;
    }
    if savings.beyond_zstd() < WORTH {
        output::note(format_args!(
            "it saves next to nothing that `zstd` does not: the messages are large, or have little in common"
        ));
    }
    Ok(())
}

/// What is learned from, and what is held out: evenly over all, so that both are of all times.
fn split(samples: &[Vec<u8>], holdout: u8) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let mut learned = Vec::with_capacity(samples.len());
    let mut held_out = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let part = if is_held_out(number, holdout) { &mut held_out } else { &mut learned };
        part.push(sample.as_slice());
    }
    (learned, held_out)
}

const fn is_held_out(number: usize, holdout: u8) -> bool {
    number * holdout as usize % 100 < holdout as usize
}

/// Writes all of it, and then takes the place of what is there.
fn save(mut file: NamedTempFile, bytes: &[u8], out: &Path) -> anyhow::Result<()> {
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    // What the library says of a failure repeats the cause.
    let saved = written.and_then(|()| file.persist(out).map_err(|error| error.error));
    saved.map(drop).with_context(|| format!("cannot write {}", out.display()))
}

/// Why nothing was made of `there` messages, and what would help.
fn lacking(error: TrainError, there: usize, holdout: u8) -> anyhow::Error {
    let TrainError::TooFew { least, .. } = error else {
        return anyhow!("{there} messages make no dictionary: {error}; more of them may");
    };
    let mut needed = there;
    let mut learned = (0..there).filter(|&number| !is_held_out(number, holdout)).count();
    while learned < least {
        learned += usize::from(!is_held_out(needed, holdout));
        needed += 1;
    }
    anyhow!(
        "{there} messages are too few: {needed} are needed, of which {} are held out; a few hundred make a good dictionary",
        needed - learned
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_kibibytes() {
        assert_eq!(parse_size("16KiB"), Ok(16 * 1024));
        assert_eq!(parse_size("128KiB"), Ok(DICTIONARY_BYTES_MAX));
        assert_eq!(parse_size("4096"), Ok(4_096));
        for bad in ["129KiB", "0", "511", "KiB", "16K", "-1", "18446744073709551615KiB", ""] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_written_says_why_once() {
        let folder = tempfile::tempdir().unwrap();
        let error = save(NamedTempFile::new_in(folder.path()).unwrap(), b"1", folder.path()).unwrap_err();
        let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
        let [what, why] = &causes[..] else { panic!("{causes:?}") };
        assert!(what.ends_with(&folder.path().display().to_string()) && !what.contains(why), "{causes:?}");
    }

    #[test]
    fn messages_are_held_out_evenly() {
        let samples: Vec<Vec<u8>> = (0..100).map(|number| vec![number]).collect();
        let (learned, held_out) = split(&samples, 10);
        assert_eq!((learned.len(), held_out.len()), (90, 10));
        assert_eq!(held_out[..3], [&[0][..], &[10], &[20]]);
        let (learned, held_out) = split(&samples, 33);
        assert_eq!((learned.len(), held_out.len()), (67, 33));
        assert_eq!(split(&samples[..1], 1), (vec![], vec![&[0][..]]), "there is always one to measure on");
    }

    #[test]
    fn too_few_messages_are_told_how_many_are_needed() {
        let error = lacking(TrainError::TooFew { there: 8, least: 10 }, 9, 10).to_string();
        assert!(
            error.starts_with("9 messages are too few: 12 are needed, of which 2 are held out;"),
            "{error}"
        );
        let twelve = vec![vec![0]; 12];
        assert_eq!(split(&twelve, 10).0.len(), 10);
        let error = lacking(TrainError::NothingInCommon, 50, 10).to_string();
        assert!(
            error.starts_with("50 messages make no dictionary: the samples have nothing in common"),
            "{error}"
        );
    }
}
