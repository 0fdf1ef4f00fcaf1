//! `waspmq demo`: a broker, real clients and a live policy swap, in one process and in seconds.
//!
//! Nothing is pretended: the broker listens on sockets, the clients are the client library in both profiles, the
//! policies go through the admin API as anybody's would. Every message carries a number, every phase counts what
//! each recipient must get against what it got, and one message lost or one effect unseen is exit code 1.

mod crowd;
mod plain;
mod report;
mod swap;

use super::api::Api;
use super::failure::Failure;
use super::output;
use super::serve::{Signals, start_log};
use crate::broker::Broker;
use crate::config::{Config, LogConfig, LogFormat};
use anyhow::{Context, bail};
use clap::Args;
use crowd::Crowd;
use report::Row;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Start a broker with real clients, swap a policy while messages flow, and count every message
#[derive(Debug, Args)]
#[command(after_help = "\
Afterwards the broker keeps running, for a look around from another terminal, until Ctrl-C. The
plugins are built by: cargo xtask plugins

Examples:
  waspmq demo
  waspmq demo --once --plugins target/plugins")]
pub(super) struct Arguments {
    /// End after the last phase
    #[arg(long)]
    once: bool,
    /// The folder with route-mirror.wasm and route-consistent-hash.wasm
    #[arg(long, value_name = "DIR", default_value = "target/plugins")]
    plugins: PathBuf,
    /// Where clients connect; any free port unless given
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the admin API is; any free port unless given
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// The broker's directory; a temporary one unless given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// How long the broker may take to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// The components that the demo puts live.
#[derive(Debug, Clone)]
pub(super) struct Plugins {
    mirror: PathBuf,
    hash: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plugins = Plugins::find(&arguments.plugins)?;
    for address in [arguments.listen, arguments.admin] {
        if !address.ip().is_loopback() {
            return Err(Failure::Usage(format!("{address}: the demo listens on loopback only")));
        }
    }
    start_log(&LogConfig { format: LogFormat::Text, filter: "warn".to_owned() })?;
    let temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
    let data_dir = arguments.data_dir.clone().unwrap_or_else(|| temporary.path().join("waspmq-data"));
    let config = config(arguments, data_dir.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() }).context("cannot listen for signals")?;
    let broker = Broker::start(&config)?;
    let url = format!("ws://{}/ws", broker.address());
    output::note(format_args!("broker on {url}, admin API on http://{}", broker.admin_address()));
    let token = waspmq_store::read_admin_token(&data_dir)?.into_string();
    let api = Api::new(&broker.admin_address().to_string(), &token);

    let outcome = runtime.block_on(async {
        // Biased: a signal ends the demo whatever its clients do.
        tokio::select! {
            biased;
            () = signals.next() => bail!("interrupted"),
            rows = play(&url, api, plugins) => rows,
        }
    });
    let verdict = outcome.and_then(|rows| summarise(&rows));
    if verdict.is_ok() && !arguments.once {
        output::note(format_args!("{}", invitation(&broker, &data_dir)));
        runtime.block_on(signals.next());
    }
    broker.stop(DRAIN);
    Ok(verdict?)
}

fn config(arguments: &Arguments, data_dir: PathBuf) -> Config {
    let mut config = Config { data_dir, listen: arguments.listen, ..Config::default() };
    config.admin.listen = arguments.admin;
    config
}

/// All phases, one row each.
async fn play(url: &str, api: Api, plugins: Plugins) -> anyhow::Result<Vec<Row>> {
    let mut crowd = Crowd::gather(url).await?;
    let mut rows = plain::play(&mut crowd).await?;
    rows.extend(swap::play(&mut crowd, api, plugins).await?);
    crowd.leave().await?;
    Ok(rows)
}

/// Prints the table; an error when anything was lost, repeated or unseen.
fn summarise(rows: &[Row]) -> anyhow::Result<()> {
    output::line(format_args!("\n{}\n", report::table(rows)))?;
    let (lost, repeated) = rows.iter().fold((0, 0), |(l, r), row| (l + row.lost, r + row.repeated));
    let unseen: Vec<_> = rows.iter().filter(|row| !row.seen).map(|row| row.phase).collect();
    output::line(format_args!("{lost} lost, {repeated} repeated"))?;
    if lost + repeated > 0 {
        bail!("{lost} messages were lost and {repeated} came more than once");
    }
    if !unseen.is_empty() {
        bail!("the effect was not seen in: {}", unseen.join(", "));
    }
    Ok(())
}

fn invitation(broker: &Broker, data_dir: &Path) -> String {
    let (url, admin, data_dir) = (broker.address(), broker.admin_address(), data_dir.display());
    format!(
        "\nThe broker keeps running; Ctrl-C ends it. From other terminals:\n  \
         waspmq sub 'topic/orders.>' user/bob --as bob --url ws://{url}/ws\n  \
         waspmq pub user/bob '{{\"text\":\"hi\"}}' --as alice --url ws://{url}/ws\n  \
         waspmq policy list --admin {admin} --data-dir {data_dir}"
    )
}

impl Plugins {
    fn find(directory: &Path) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let path = directory.join(name);
            if path.is_file() {
                return Ok(path);
            }
            bail!(
                "there is no {}; build the plugins with `cargo xtask plugins`, or name their folder with --plugins",
                path.display()
            )
        };
        Ok(Self { mirror: find("route-mirror.wasm")?, hash: find("route-consistent-hash.wasm")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_plugins_are_named_with_the_way_to_make_them() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("route-mirror.wasm"), "").unwrap();
        let error = Plugins::find(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("route-consistent-hash.wasm") && error.contains("cargo xtask plugins"),
            "{error}"
        );
    }

    fn row(lost: usize, repeated: usize, seen: bool) -> Row {
        Row {
            phase: "x",
            sent: 1,
            expected: 1,
            received: 1,
            lost,
            repeated,
            seen,
            effect: String::new(),
            elapsed: DRAIN,
        }
    }

    #[test]
    fn one_message_is_enough_to_fail() {
        assert!(summarise(&[row(0, 0, true)]).is_ok());
        assert!(
            summarise(&[row(0, 0, true), row(1, 0, true)])
                .unwrap_err()
                .to_string()
                .contains("1 messages were lost")
        );
        assert!(summarise(&[row(0, 1, true)]).is_err());
        assert!(summarise(&[row(0, 0, false)]).unwrap_err().to_string().contains("not seen in: x"));
    }
}
