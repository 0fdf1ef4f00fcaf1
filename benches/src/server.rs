//! The server under test: a fresh child process per repetition, on a free loopback port, ended with its owner.
//!
//! Fresh, because sessions, histories and allocator state left by one repetition would be charged to the next.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;
use tempfile::TempDir;

use crate::options::{Broker, Common};
use crate::report::Subject;
use crate::wire::Wire;

/// How long a server may take until it accepts connections.
const UP_WITHIN: Duration = Duration::from_secs(120);

/// The data folder of a broker that is not given one, in its own folder.
const OWN_DATA: &str = "data";

/// What has a broker speak TLS.
const SELF_SIGNED: &str = "[tls]\nself_signed = true\n";

/// Bytes of a failed server's output that are shown.
const SHOWN_BYTES: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Relay,
    Broker,
}

impl Subject for Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Broker => "broker",
        }
    }

    fn profile(self, profile: Wire) -> String {
        self.wire(profile).to_string()
    }
}

impl Kind {
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
    ports: Ports,
    /// Data and output; removed last.
    folder: TempDir,
}

/// Two ports on loopback that were free a moment ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) clients: u16,
    /// The broker's admin listener.
    pub(crate) admin: u16,
}

/// What a broker is started with besides its binary and ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) broker: &'a Broker,
    /// Where folders are made.
    pub(crate) dir: &'a Path,
    /// A data folder that outlives the server; one of the server's own when `None`.
    pub(crate) data: Option<&'a Path>,
    /// Text of a configuration file.
    pub(crate) configuration: &'a str,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not come up; with the end of its output.
    pub(crate) fn start(kind: Kind, common: &Common) -> Result<Self> {
        Self::start_over(kind, common, false)
    }

    /// As [`Server::start`], over TLS with a certificate of the server's own making, or without.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub(crate) fn start_over(kind: Kind, common: &Common, is_secure: bool) -> Result<Self> {
        let dir = std::env::temp_dir();
        let configuration = if is_secure { SELF_SIGNED } else { "" };
        match kind {
            Kind::Broker => {
                Self::broker(&Site { broker: &common.broker, dir: &dir, data: None, configuration })
            }
            Kind::Relay => {
                let bench = std::env::current_exe()?;
                Self::launch("relay", &dir, |command, ports, _| {
                    command.arg(&bench).args(["relay", "--listen", &format!("127.0.0.1:{}", ports.clients)]);
                    if is_secure {
                        command.arg("--tls");
                    }
                    Ok(())
                })
            }
        }
    }

    /// Starts a broker and waits until it accepts connections.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub(crate) fn broker(site: &Site<'_>) -> Result<Self> {
        Self::launch("broker", site.dir, |command, ports, folder| {
            let own = folder.join(OWN_DATA);
            command
                .arg(&site.broker.program)
                .args(["serve", "--listen", &format!("127.0.0.1:{}", ports.clients)])
                .args(["--admin", &format!("127.0.0.1:{}", ports.admin), "--data-dir"])
                .arg(site.data.unwrap_or(&own));
            if !site.configuration.is_empty() {
                let path = folder.join("configuration.toml");
                fs::write(&path, site.configuration)?;
                command.arg("--config").arg(path);
            }
            command.args(&site.broker.arguments);
            Ok(())
        })
    }

    /// Starts a program that `complete` names, with its arguments, and waits until it accepts connections. Its
    /// folder is made in `dir`.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not come up; with the end of its output.
    pub(crate) fn launch(
        name: &'static str,
        dir: &Path,
        complete: impl FnOnce(&mut Command, Ports, &Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(dir);
        let folder = folder.with_context(|| format!("making a folder in {}", dir.display()))?;
        let output_path = folder.path().join("output");
        let output = File::create(&output_path)?;
        let ports = free_ports()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("guard");
        complete(&mut command, ports, folder.path())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting the {name}"))?;
        let mut server = Self { child, ports, folder };
        if let Err(error) = server.wait_until_up() {
            bail!("the {name} did not come up: {error}; its output ends with:\n{}", end_of(&output_path));
        }
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports.clients
    }

    /// Port of the admin listener.
    pub(crate) fn admin(&self) -> u16 {
        self.ports.admin
    }

    /// A broker's data folder, unless it was given one.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join(OWN_DATA)
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
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.clients)).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("port {} stays closed", self.ports.clients)
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

fn free_ports() -> Result<Ports> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (first, second) = (bind()?, bind()?);
    Ok(Ports { clients: first.local_addr()?.port(), admin: second.local_addr()?.port() })
}

fn end_of(path: &Path) -> String {
    let output = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&output[output.len().saturating_sub(SHOWN_BYTES)..]).into_owned()
}
