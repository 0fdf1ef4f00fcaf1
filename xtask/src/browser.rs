//! The checks of `tests/browser`: the broker, its console and the example of `docs/browser` in headless Chromium.
//!
//! Not here: the checks themselves, which are programs for Node.js.

use std::env;
use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::guests;
use crate::process::Step;
use crate::tools;
use crate::workspace::Workspace;

/// Without a browser first: what those find the others would only find again.
const CHECKS: [(&str, &str); 7] = [
    ("the example's frames", "node --test tests/browser/binary.mjs"),
    ("the example's requests beside events", "node --test tests/browser/events.mjs"),
    ("the example's streams", "node --test tests/browser/streams.mjs"),
    ("the console's parts", "node --test tests/browser/console-parts.mjs"),
    ("WebSocket in Chromium", "node tests/browser/websocket.mjs"),
    ("the example in Chromium", "node tests/browser/webtransport.mjs"),
    ("the console in Chromium", "node tests/browser/console.mjs"),
];

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let chromium = chromium(workspace)?;
    tools::ensure_browser_driver(workspace)?;
    guests::build(workspace)?;
    Step::cargo(workspace, "broker", "build -p waspmq --bin waspmq").run()?;
    Step::cargo(workspace, "echo server", "build -p waspmq-transport --example ws_echo").run()?;
    for (name, command) in CHECKS {
        Step::new(workspace, name, command).env("CHROMIUM", &chromium).run()?;
    }
    Ok(())
}

/// The browser, which has to be there: it is half a gigabyte, and comes with updates of the system.
fn chromium(workspace: &Workspace) -> Result<OsString> {
    let named = env::var_os("CHROMIUM").filter(|value| !value.is_empty());
    let chromium = named.unwrap_or_else(|| "chromium".into());
    let shown = chromium.display();
    if Step::new(workspace, "browser check", "env").arg(&chromium).arg("--version").output().is_err() {
        bail!(
            "{shown} cannot be run: install Chromium (on Debian: apt-get install chromium), or say in CHROMIUM which one to take"
        );
    }
    Ok(chromium)
}
