//! `waspmq serve`: the broker in the foreground.

use super::failure::Failure;
use super::{open_files, output};
use crate::access::{self, AccessControl};
use crate::broker::{Broker, Stopped};
use crate::config::{self, Config, Flags, LogConfig, LogFormat, Sources};
use crate::tls::Tls;
use anyhow::{Context, anyhow};
use clap::Args;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Run the broker
#[derive(Debug, Args)]
#[command(after_help = "\
Without configuration: data in ./waspmq-data, listeners on loopback. Environment variables such as
WASPMQ_LIMITS__HEARTBEAT_MS override the file, flags override both. All keys: docs/CONFIG.md.
SIGTERM and Ctrl-C drain; a second one stops at once. SIGHUP reads access keys and rules again and
applies them to live sessions, and the TLS certificate, which is for new connections; every other
key needs a restart.

Exit codes: 0 stopped and drained, 1 cannot start, stopped at once by a second signal, or a part of
the broker failed (the log says where): the rest is drained then as at a stop, and a supervisor is
to start it again; 2 usage, 64 bad configuration.

Examples:
  waspmq serve
  waspmq serve --config waspmq.toml --listen 127.0.0.1:9470
  WASPMQ_PROFILE=low-latency waspmq serve --print-config")]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "WASPMQ_CONFIG")]
    config: Option<PathBuf>,
    /// The broker's own directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients connect: an IP address and a port
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Where the admin API and metrics are: an IP address and a port
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Print the effective configuration and end
    #[arg(long)]
    print_config: bool,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9470 or [::1]:9470")
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let environment = config::environment(std::env::vars_os()).map_err(Failure::Configuration)?;
    let sources = Sources {
        file: arguments.config,
        environment,
        flags: Flags { data_dir: arguments.data_dir, listen: arguments.listen, admin: arguments.admin },
    };
    let loaded = config::load(&sources).map_err(Failure::Configuration)?;
    if arguments.print_config {
        return Ok(output::line(format_args!("{}", loaded.to_toml().trim_end()))?);
    }
    start_log(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    open_files::raise(loaded.config.limits.connections_max);
    if !loaded.config.huge_pages {
        do_without_huge_pages();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything runs, so that a signal in between is not lost.
    let mut signals = runtime.block_on(async { Signals::new() }).context("cannot listen for signals")?;
    let hangups =
        runtime.block_on(async { signal(SignalKind::hangup()) }).context("cannot listen for signals")?;
    let broker = Broker::start(&loaded.config)?;
    banner(&broker, &loaded.config);
    let drain = Duration::from_millis(u64::from(loaded.config.drain_ms));
    let (access, tls) = (broker.control().access.clone(), broker.control().tls.clone());
    let reload = move || reload(&sources, &access, tls.as_deref());
    runtime.block_on(async {
        let stop = obey(|| broker.ended_thread(), &mut signals, hangups, reload).await;
        drain_and_stop(broker, signals, drain).await?;
        match stop {
            Stop::Asked => Ok(()),
            Stop::Failed { thread } => Err(Failure::Failed(anyhow!("the thread {thread} ended by itself"))),
        }
    })
}

/// Has the kernel back what is allocated from now on by pages of the usual size.
fn do_without_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "memory is backed by huge pages as the system likes: `huge_pages` has no effect");
    }
}

/// Why a broker is stopped.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    Asked,
    /// A part of it does not work any more, which only a new start mends.
    Failed {
        thread: String,
    },
}

/// How often is looked whether all threads run.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Serves until a signal says to stop, or a thread has ended.
async fn obey<'a>(
    ended_thread: impl Fn() -> Option<&'a str>,
    signals: &mut Signals,
    hangups: Signal,
    reload: impl Fn() + Clone + Send + 'static,
) -> Stop {
    let ended = async {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if let Some(thread) = ended_thread() {
                return thread;
            }
        }
    };
    // Biased: a stop is seen at once.
    tokio::select! {
        biased;
        () = signals.next() => Stop::Asked,
        thread = ended => {
            tracing::error!(thread, "a thread ended by itself: the broker is stopped");
            Stop::Failed { thread: thread.to_owned() }
        }
        never = obey_hangups(hangups, reload) => match never {},
    }
}

/// A hang-up applies what the configuration now says about access and TLS; one that comes meanwhile is obeyed behind it.
async fn obey_hangups(mut hangups: Signal, reload: impl Fn() + Clone + Send + 'static) -> Infallible {
    loop {
        if hangups.recv().await.is_none() {
            return std::future::pending().await;
        }
        let (end, ended) = oneshot::channel::<()>();
        let reload = reload.clone();
        // A plain thread: files may lie on a disk that does not answer, and unlike a blocking task it does not keep the
        // process from ending.
        let reloading = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            reload();
            drop(end);
        });
        match reloading {
            // An error: nobody says anything, the thread has ended.
            Ok(_) => drop(ended.await),
            Err(error) => tracing::error!(%error, "nothing can be read again: nothing was changed"),
        }
    }
}

/// A configuration that is not valid changes nothing. Access and TLS are replaced or stay each by itself.
fn reload(sources: &Sources, access: &AccessControl, tls: Option<&Tls>) {
    match config::reload(sources) {
        Ok(loaded) => {
            reload_access(access, &loaded.config);
            reload_tls(tls, &loaded.config);
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::error!(
                error = format!("{error:#}"),
                "the configuration cannot be used: nothing was changed"
            );
        }
    }
}

fn reload_access(access: &AccessControl, config: &Config) {
    let replaced = access::gate(&config.access).and_then(|gate| Ok(access.replace(gate)?));
    if let Err(error) = replaced {
        tracing::error!(error = format!("{error:#}"), "access was not changed");
    }
}

/// Takes the certificate that the configuration now names.
fn reload_tls(tls: Option<&Tls>, config: &Config) {
    match tls {
        Some(tls) => tls.reload(&config.tls),
        None if config.tls.is_on() => {
            tracing::warn!("the configuration has a TLS certificate now; to listen with it needs a restart");
        }
        None => {}
    }
}

/// Waits for the broker's stop or another signal.
async fn drain_and_stop(broker: Broker, mut signals: Signals, drain: Duration) -> Result<(), Failure> {
    output::note(format_args!(
        "draining for at most {} ms; a second signal stops at once",
        drain.as_millis()
    ));
    let (done, stopped) = oneshot::channel();
    // A plain thread: unlike a blocking task, it does not keep the process from ending.
    let stopping = std::thread::Builder::new().name("stop".to_owned());
    stopping.spawn(move || done.send(broker.stop(drain)))?;
    tokio::select! {
        biased;
        stopped = stopped => match stopped {
            Ok(Stopped::Drained) => Ok(()),
            Ok(Stopped::Cut { connections_left }) => {
                output::note(format_args!("the drain time ended first; connections cut: {connections_left}"));
                Ok(())
            }
            Err(_) => Err(Failure::Failed(anyhow!("the broker could not be stopped in order"))),
        },
        () = signals.next() => Err(Failure::Failed(anyhow!("stopped at once by a second signal"))),
    }
}

/// SIGTERM and SIGINT, which mean the same.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on, the two signals no longer end the process.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Where the log goes and what is in it.
pub(super) fn start_log(log: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.filter)?;
    // Colours are for people: what goes to a file or another program has none.
    let has_colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(has_colours);
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow!("cannot start the log: {error}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is an event like others, in the format of the log.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no text");
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(thread, place, panic = message, trace, "panicked");
}

fn banner(broker: &Broker, config: &Config) {
    let token = match &config.admin.token {
        Some(_) => "from the configuration".to_owned(),
        None => broker.token_path().display().to_string(),
    };
    let quic = broker.quic_url().map(|url| format!("\n  quic     {url}  (WebTransport at /wt)"));
    let fingerprint = broker.control().tls.as_ref().map(|tls| format!("\n  sha-256  {}", tls.fingerprint()));
    output::note(format_args!(
        "waspmq {} is ready\n  clients  {}{}{}\n  admin    http://{}/  (console in a browser)\n  token    {token}",
        env!("CARGO_PKG_VERSION"),
        broker.url(),
        quic.unwrap_or_default(),
        fingerprint.unwrap_or_default(),
        broker.admin_address(),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Sent, getpid, kill_process};
    use std::sync::Mutex;
    use std::sync::mpsc;

    /// Signals go to the whole process, so what needs them is one test.
    #[tokio::test]
    async fn what_does_not_answer_when_it_is_read_again_holds_up_nothing() {
        let mut signals = Signals::new().unwrap();
        let (begun, begins) = mpsc::channel();
        let (_answer, answers) = mpsc::channel::<()>();
        let answers = std::sync::Arc::new(Mutex::new(answers));
        let reload = move || {
            begun.send(()).unwrap();
            assert!(answers.lock().unwrap().recv().is_err(), "no answer comes while the test lasts");
        };

        let hangups = signal(SignalKind::hangup()).unwrap();
        kill_process(getpid(), Sent::HUP).unwrap();
        let has_begun = std::cell::Cell::new(false);
        let ended_thread = || {
            has_begun.set(has_begun.get() || begins.try_recv().is_ok());
            has_begun.get().then_some("worker-0")
        };
        let stop = obey(ended_thread, &mut signals, hangups, reload.clone()).await;
        assert_eq!(stop, Stop::Failed { thread: "worker-0".to_owned() });

        let hangups = signal(SignalKind::hangup()).unwrap();
        kill_process(getpid(), Sent::HUP).unwrap();
        let stop = std::thread::spawn(move || {
            begins.recv().unwrap();
            kill_process(getpid(), Sent::TERM).unwrap();
        });
        assert_eq!(obey(|| None, &mut signals, hangups, reload).await, Stop::Asked);
        stop.join().unwrap();
    }
}
