//! `waspmq profile`: where a broker spends CPU time, and what it allocates and keeps.

use super::api::Access;
use super::capture::beside;
use super::failure::Failure;
use super::output;
use crate::admin::limits::{CPU_PROFILE_SECONDS_DEFAULT, HEAP_PROFILE_SECONDS_DEFAULT, PROFILE_SECONDS_MAX};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Bytes of a profile. More: the command fails.
const PROFILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Take a profile of a running broker
#[derive(Debug, Args)]
#[command(after_help = "\
The broker samples itself while it serves, which costs it little meanwhile and nothing before and
after. docs/PROFILING.md tells how to read what comes out. Ctrl-C ends a profile, and nothing is
written.

Examples:
  waspmq profile cpu -o cpu.pb.gz && go tool pprof -http : cpu.pb.gz
  waspmq profile cpu --seconds 30 -o cpu.svg
  waspmq profile heap --seconds 60 --format svg > heap.svg")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU time of its threads, by function
    Cpu {
        /// How long, 1 to 60
        #[arg(long, value_name = "N", default_value_t = CPU_PROFILE_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=PROFILE_SECONDS_MAX))]
        seconds: u64,
        #[command(flatten)]
        out: Out,
    },
    /// Memory that is allocated meanwhile, and what of it is still in use at the end, by function
    Heap {
        /// How long, 1 to 60
        #[arg(long, value_name = "N", default_value_t = HEAP_PROFILE_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=PROFILE_SECONDS_MAX))]
        seconds: u64,
        #[command(flatten)]
        out: Out,
    },
}

#[derive(Debug, Args)]
struct Out {
    /// A gzipped protocol buffer for `go tool pprof` and others, or a flame graph; by default what the name of FILE
    /// says, else pprof
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where it goes, instead of standard output; what is there is replaced
    #[arg(short, long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pprof,
    Svg,
}

impl Out {
    fn format(&self) -> Format {
        let extension = self.output.as_deref().and_then(Path::extension);
        let is_svg = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        self.format.unwrap_or(if is_svg { Format::Svg } else { Format::Pprof })
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (kind, seconds, out) = match &arguments.command {
        Command::Cpu { seconds, out } => ("cpu", seconds.to_string(), out),
        Command::Heap { seconds, out } => ("heap", seconds.to_string(), out),
    };
    let format = out.format();
    let name = if format == Format::Svg { "svg" } else { "pprof" };
    // A place to write is looked for before anybody is asked; nothing is left there by a Ctrl-C.
    out.output.as_deref().map(beside).transpose().map(drop)?;
    if out.output.is_none() && format == Format::Pprof && std::io::stdout().is_terminal() {
        let why = "a profile is no text for a terminal; give -o FILE, or --format svg, or redirect it";
        return Err(Failure::Usage(why.to_owned()));
    }
    let api = arguments.access.open()?;
    output::note(format_args!("profiling for {seconds} s; Ctrl-C ends it without a result"));
    let mut bytes = Vec::new();
    api.download(
        &["profile", kind],
        &[("seconds", &seconds), ("format", name)],
        PROFILE_BYTES_MAX,
        &mut bytes,
    )?;
    let Some(path) = &out.output else {
        let mut stdout = std::io::stdout().lock();
        return Ok(stdout.write_all(&bytes).and_then(|()| stdout.flush())?);
    };
    let cannot = || format!("cannot write {}", path.display());
    let mut file = beside(path)?;
    file.write_all(&bytes).with_context(cannot)?;
    file.persist(path).with_context(cannot)?;
    if arguments.access.json {
        return Ok(output::json(
            &json!({ "file": path.display().to_string(), "format": name, "bytes": bytes.len() }),
        )?);
    }
    let shown = path.display().to_string();
    Ok(output::line(format_args!("{}: {} bytes of {name}", output::printable(&shown), bytes.len()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_says_the_format_unless_it_is_given() {
        let check = |format, output: Option<&str>, expected| {
            assert_eq!(Out { format, output: output.map(PathBuf::from) }.format(), expected, "{output:?}");
        };
        check(None, None, Format::Pprof);
        check(None, Some("a.pb.gz"), Format::Pprof);
        check(None, Some("a.SVG"), Format::Svg);
        check(Some(Format::Pprof), Some("a.svg"), Format::Pprof);
        check(Some(Format::Svg), None, Format::Svg);
    }
}
