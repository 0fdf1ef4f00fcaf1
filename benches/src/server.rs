//! The server under test: a fresh child process per repetition, on a free loopback port, ended with its owner.
//!
//! Fresh, because sessions, histories and allocator state left by one repetition would be charged to the next.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;
use tempfile::TempDir;

use crate::options::Common;
use crate::wire::Wire;

/// How long a server may take until it accepts connections.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a failed server's output that are shown.
const SHOWN_BYTES: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Relay,
    Broker,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Broker => "broker",
        }
    }

    /// The dialect this server is driven in when the broker's is `profile`.
    pub(crate) fn wire(self, profile: Wire) -> Wire {
        match self {
            Self::Relay => Wire::Relay,
            Self::Broker => profile,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    /// Data and output; removed last.
    _folder: TempDir,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not come up; with the end of its output.
    pub(crate) fn start(kind: Kind, common: &Common) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let output_path = folder.path().join("output");
        let output = File::create(&output_path)?;
        let [port, admin] = free_ports()?;
        let bench = std::env::current_exe()?;
        let mut command = Command::new(&bench);
        command.arg("guard");
        let listen = format!("127.0.0.1:{port}");
        match kind {
            Kind::Relay => command.arg(&bench).args(["relay", "--listen", &listen]),
            Kind::Broker => command
                .arg(&common.broker)
                .args(["serve", "--listen", &listen, "--admin", &format!("127.0.0.1:{admin}"), "--data-dir"])
                .arg(folder.path().join("data"))
                .args(&common.broker_args),
        };
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting the {}", kind.name()))?;
        let mut server = Self { child, port, _folder: folder };
        if let Err(error) = server.wait_until_up() {
            bail!(
                "the {} did not come up: {error}; its output ends with:\n{}",
                kind.name(),
                end_of(&output_path)
            );
        }
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < UP_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("port {} stays closed", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nobody to end or to wait for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct GuardArguments {
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<std::ffi::OsString>,
}

/// Becomes the given program, with the kernel told to end it when the parent ends, so that an interrupted
/// benchmark leaves no server behind.
///
/// # Errors
/// Always, if it returns.
pub(crate) fn guard(arguments: &GuardArguments) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let [program, rest @ ..] = arguments.command.as_slice() else { bail!("no program given") };
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("running {}", Path::new(program).display()))
}

/// Ports that were free a moment ago, different from each other.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (first, second) = (bind()?, bind()?);
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}

fn end_of(path: &Path) -> String {
    let output = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&output[output.len().saturating_sub(SHOWN_BYTES)..]).into_owned()
}
