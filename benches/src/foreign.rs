//! Servers that others made, as references: NATS with `JetStream`, and mosquitto. They are started as the distribution
//! installs them, with only what the scenario needs configured.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::server::Server;
use crate::talk;

/// When `JetStream` syncs its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Every minute or two, depending on the version: a message is acknowledged when it is written, not when it is
    /// on disk.
    Default,
    /// After each message; NATS 2.10 and later.
    Always,
}

/// What a program says of its version, in one line; `None` when it is not installed.
pub(crate) fn version(program: &str) -> Option<String> {
    // mosquitto tells its version with its usage, and then fails.
    let argument = if program == "mosquitto" { "-h" } else { "--version" };
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}

/// Whether the NATS server that is installed can sync after each message.
pub(crate) fn nats_syncs_always() -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let path = folder.path().join("nats.conf");
    let Ok(()) = fs::write(&path, nats_configuration(folder.path(), Sync::Always)) else { return false };
    let checked = Command::new("nats-server").arg("-t").arg("-c").arg(path).output();
    checked.is_ok_and(|output| output.status.success())
}

/// Starts NATS with its store in `dir` and makes the stream.
///
/// # Errors
/// When it does not come up, with the end of its output, or refuses the stream.
pub(crate) fn nats(dir: &Path, sync: Sync) -> Result<Server> {
    let server = Server::launch("NATS server", dir, |command, ports, folder| {
        let path = folder.join("nats.conf");
        fs::write(&path, nats_configuration(folder, sync))?;
        command
            .args(["nats-server", "--addr", "127.0.0.1", "--port", &ports.clients.to_string(), "-c"])
            .arg(path);
        Ok(())
    })?;
    talk::create_stream(server.port()).context("making the stream")?;
    Ok(server)
}

fn nats_configuration(folder: &Path, sync: Sync) -> String {
    let always = if sync == Sync::Always { "\n  sync_interval: always" } else { "" };
    format!("jetstream {{\n  store_dir: \"{}\"{always}\n}}\n", folder.join("store").display())
}

/// Starts mosquitto without persistence, with `window` messages in flight to each client.
///
/// # Errors
/// When it does not come up, with the end of its output.
pub(crate) fn mosquitto(dir: &Path, window: u16) -> Result<Server> {
    Server::launch("mosquitto", dir, |command, ports, folder| {
        let path = folder.join("mosquitto.conf");
        let configuration = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages {window}\n\
             connection_messages false\n",
            ports.clients
        );
        fs::write(&path, configuration)?;
        command.arg("mosquitto").arg("-c").arg(path);
        Ok(())
    })
}
