//! `waspmq top`: what a running broker does at this moment, as a screen that stays, as text, or for programs.
//!
//! A thin client of the admin API: `sample` asks, `delta` makes rates of what counts since the start, `figures` is
//! what is known then, and `lines` and `view` show it.

mod delta;
mod figures;
#[cfg(test)]
mod fixture;
mod lines;
mod number;
mod policy_figures;
mod poller;
mod sample;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use super::api::{Access, Api};
use super::failure::Failure;
use super::output;
use crate::clock::Clock;
use anyhow::Context;
use clap::Args;
use figures::Figures;
use ratatui::text::Line;
use sample::Sample;
use std::io::{self, IsTerminal};
use std::time::Duration;
use table::Theme;

/// Watch a running broker: rates, latencies and policies, as they are now
#[derive(Debug, Args)]
#[command(
    mut_arg("json", |json| json.help("Print figures as JSON, one object a line; docs/ADMIN.md has the fields")),
    after_help = "\
In a terminal it takes the screen until `q`; `?` shows the keys. Elsewhere, or with --once, --count
or --json, it prints the figures of one interval, or of as many as --count says. Rates are those of
the interval, per second, and so are quantiles. NO_COLOR is heeded.

Examples:
  waspmq top
  waspmq top --interval 5 --admin 10.0.0.7:9471
  waspmq top --once
  waspmq top --json --count 60 | jq .messages.published_per_s"
)]
pub(super) struct Arguments {
    /// Seconds between two looks, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print the figures of one interval and end
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// Print the figures of so many intervals and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    access: Access,
}

/// The longest time that one question may take; there are a few for each look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Columns of text that is not for a screen.
const TEXT_COLUMNS: usize = 100;

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it is a number from 0.1 to 3600".to_owned())
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { interval, once, count, access } = arguments;
    let api = access.open()?.within(PATIENCE);
    let has_screen = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    if has_screen && !once && count.is_none() && !access.json {
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        return Ok(watch::run(api, &access.admin, *interval, Theme { has_colours })?);
    }
    Ok(print(&api, access, *interval, count.unwrap_or(1))?)
}

/// The figures of so many intervals, one behind the other.
fn print(api: &Api, access: &Access, interval: Duration, count: u64) -> anyhow::Result<()> {
    let clock = Clock::new();
    let mut before = Sample::take(api, clock)?;
    for number in 0..count {
        std::thread::sleep(interval);
        let after = Sample::take(api, clock)?;
        let figures = Figures::between(&before, &after);
        if access.json {
            let json = serde_json::to_string(&figures).context("the figures are no JSON")?;
            output::line(format_args!("{json}"))?;
        } else {
            let gap = if number > 0 { "\n" } else { "" };
            output::lines(&format!("{gap}{}", text(&figures, &access.admin)))?;
        }
        before = after;
    }
    Ok(())
}

/// All that the screen shows of the broker, without sessions.
fn text(figures: &Figures, address: &str) -> String {
    let theme = Theme { has_colours: false };
    let mut blocks = vec![lines::header(figures, address, theme, TEXT_COLUMNS)];
    blocks.extend(lines::overview(figures, theme, TEXT_COLUMNS));
    blocks.push(lines::policies(figures, theme, TEXT_COLUMNS));
    table::plain(&blocks.join(&[Line::default()][..]))
}
