//! The composition root: builds every part of a broker in order, and stops them in the reverse order.
//!
//! | start | stop |
//! | --- | --- |
//! | 1. data directory: lock, epoch | 6. data directory: unlock |
//! | 2. policy host, with the plugins and policies of the last run; dictionaries | 5. policy host |
//! | 3. listeners bound | 4. admin listener |
//! | 4. workers; QUIC; what replaces the certificate | 3. workers stop, late ones are named |
//! | 5. admin listener | 2. `goaway` spread over at most half the drain time, no new connections, sessions finish |
//! | 6. ready | 1. not ready |

use crate::access::{self, AccessControl};
use crate::admin::{self, AdminState};
use crate::clock::Clock;
use crate::config::{self, Config, Login};
use crate::control::Control;
use crate::dictionaries::Library;
use crate::listeners;
use crate::phase::{Phase, PhaseCell};
use crate::policies;
use crate::queues::KeptQueues;
use crate::quic::{self, Handed};
use crate::resumes::Resumes;
use crate::storage;
use crate::surroundings::Surroundings;
use crate::tls::Tls;
use crate::worker::drain::Span;
use crate::worker::kept::Kept;
use crate::worker::mailbox::{Entry, Mailboxes};
use crate::worker::{self, CompressionSettings, Settings, Shared};
use anyhow::Context;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use waspmq_core::compression::Budget;
use waspmq_core::limits;
use waspmq_core::registry::LoginPolicy;
use waspmq_core::registry::Registry;
use waspmq_core::settings::Rules;
use waspmq_policy::{Host, HostOptions};
use waspmq_store::{DataDir, JournalThreads};
use waspmq_transport::quic::Windows;

/// A running broker. Dropping it without [`Broker::stop`] ends it at once.
#[derive(Debug)]
pub struct Broker {
    control: Control,
    address: SocketAddr,
    admin_address: SocketAddr,
    token_path: PathBuf,
    /// Turns true when everything that still runs has to end.
    cut: watch::Sender<bool>,
    /// The same for the thread of QUIC, a moment earlier.
    cut_quic: watch::Sender<bool>,
    workers: Vec<JoinHandle<std::io::Result<()>>>,
    admin: Option<JoinHandle<std::io::Result<()>>>,
    quic: Option<JoinHandle<std::io::Result<()>>>,
    /// Replaces the certificate, where there is one.
    certificate: Option<JoinHandle<std::io::Result<()>>>,
    journal: Option<JournalThreads>,
    /// Last, so that the directory is unlocked when nothing uses it any more.
    data_dir: DataDir,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every session was sent away; those that read got everything queued for them.
    Drained,
    /// The drain time ended first, and the rest was cut.
    Cut { connections_left: u64 },
}

/// How often a stop looks whether threads have ended.
const STOP_POLL: Duration = Duration::from_millis(5);
/// What the journal gets to write what waits.
const JOURNAL_GRACE: Duration = Duration::from_secs(10);
/// What peers get to take the close that ends the drain time: as long as the workers wait for one that is gone, and a moment for
/// what these do behind that.
const CLOSE_GRACE: Duration = worker::CLOSES_WITHIN.saturating_add(Duration::from_secs(1));
/// What peers of QUIC get to hear that their connections are over.
const QUIC_GRACE: Duration = Duration::from_secs(1);
/// What threads get to end by themselves after they were told to: longer than the admin API takes to finish its requests.
const CUT_GRACE: Duration = Duration::from_secs(6);

impl Broker {
    /// Starts a broker; when this answers, clients can connect.
    ///
    /// # Errors
    /// The data directory is in use or unreadable, an address is in use, or a part cannot start. Nothing is
    /// left running then.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let clock = Clock::new();
        let data_dir = DataDir::open(&config.data_dir, clock.now().unix_ms)?;
        let token = admin_token(config, &data_dir)?;
        let gate = access::gate(&config.access)?;
        let tls = Tls::open(&config.tls, config.quic.enabled, (&config.data_dir, clock))
            .context("cannot use TLS")?
            .map(Arc::new);
        let worker_count = worker_count(config.workers);
        let registry = registry(&data_dir, login(config));
        let options = HostOptions {
            workers: worker_count,
            policies_max: config.policy.max_policies,
            ..HostOptions::default()
        };
        let policies = Host::start(options, Arc::new(Surroundings(registry.clone())))
            .context("cannot start the policy host")?;
        let audit = policies::open(&data_dir, &policies, clock)?;
        let dictionaries = Arc::new(Library::open(&data_dir, audit.clone())?);
        let (listeners, datagrams) = bind(config, worker_count)?;
        let address = listeners.first().context("no listener")?.local_addr()?;
        let admin_listener = bind_admin(config)?;
        let admin_address = admin_listener.local_addr()?;

        let mailboxes = Arc::new(Mailboxes::new(worker_count));
        let storage = storage::open(&data_dir, &config.store, (clock, &registry, &mailboxes))?;
        let control = Control {
            clock,
            node: data_dir.node_id().into(),
            phase: Arc::new(PhaseCell::default()),
            registry,
            policies,
            access: Arc::new(AccessControl::new(gate)),
            tls,
            quic: Arc::default(),
            dictionaries,
            tails: Arc::default(),
            mailboxes,
            store: storage.store,
            store_bytes_max: config.store.bytes_max,
            journal: storage.journal,
            audit: Some(audit),
        };
        let (cut, cut_seen) = watch::channel(false);
        let mut broker = Self {
            control,
            address,
            admin_address,
            token_path: data_dir.admin_token_path(),
            cut,
            cut_quic: watch::Sender::new(false),
            workers: Vec::with_capacity(worker_count),
            admin: None,
            quic: None,
            certificate: None,
            journal: Some(storage.threads),
            data_dir,
        };
        let (senders, receivers) = quic::hand_overs(datagrams.is_some(), worker_count);
        broker.start_workers(
            (&settings(config, address), Arc::new(config::address::rules(&config.address))),
            (storage.kept, storage.resumes, storage.queues),
            listeners.into_iter().zip(receivers).collect(),
            &cut_seen,
        )?;
        broker.start_quic((datagrams, windows(config)), senders)?;
        broker.start_certificate(&cut_seen)?;
        broker.start_admin(config, token, admin_listener, cut_seen)?;
        broker.control.phase.advance(Phase::Ready);
        Ok(broker)
    }

    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Where clients connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of that place, with the scheme that is spoken there.
    pub fn url(&self) -> String {
        let is_secure = self.control.tls.as_ref().is_some_and(|tls| tls.is_for_sockets());
        let scheme = if is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}/ws", self.address)
    }

    /// Where QUIC is spoken: the same address on UDP. `None` where it is off.
    pub fn quic_url(&self) -> Option<String> {
        self.quic.as_ref().map(|_| format!("quic://{}", self.address))
    }

    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The file with the admin token, unless the configuration has one.
    pub fn token_path(&self) -> &std::path::Path {
        &self.token_path
    }

    /// A thread that has ended, though nobody stopped the broker: it panicked or failed, and what it was there for is not
    /// done any more. The broker is to be stopped then, and started anew.
    pub fn ended_thread(&self) -> Option<&str> {
        let threads = self.workers.iter().chain(&self.quic).chain(&self.admin).chain(&self.certificate);
        let ended = threads.filter(|thread| thread.is_finished()).map(JoinHandle::thread).next();
        let writers = self.journal.iter().flat_map(JournalThreads::writers);
        let others = writers.chain(self.control.policies.thread());
        let ended =
            ended.or_else(|| others.filter(|thread| thread.is_finished()).map(JoinHandle::thread).next());
        ended.map(|thread| thread.name().unwrap_or("unnamed"))
    }

    /// Takes the broker out of service within `drain`, then stops it.
    pub fn stop(mut self, drain: Duration) -> Stopped {
        self.control.phase.advance(Phase::Draining);
        self.control.tails.close();
        let span = Span { spread: drain / 2, most: drain };
        for worker in 0..u8::try_from(self.workers.len()).unwrap_or(u8::MAX) {
            if self.control.mailboxes.send(worker, Entry::Drain(span)).is_err() {
                tracing::warn!(worker, "the worker has no room for the drain and will be cut");
            }
        }
        let most = drain + CLOSE_GRACE;
        let drained =
            wait_until(self.control.clock, most, || self.workers.iter().all(JoinHandle::is_finished));
        let connections_left: u64 = self.control.counters().map(|counters| counters.connections.load()).sum();
        self.end();
        if drained { Stopped::Drained } else { Stopped::Cut { connections_left } }
    }

    /// Ends what still runs and waits for it; threads that do not end are named and left.
    fn end(&mut self) {
        self.control.tails.close();
        // First: it is the workers that tell the peers of its connections.
        if self.cut_quic.send(true).is_ok() {
            wait_until(self.control.clock, QUIC_GRACE, || {
                self.quic.as_ref().is_none_or(JoinHandle::is_finished)
            });
        }
        if self.cut.send(true).is_err() {
            tracing::debug!("every thread had ended before it was told to");
        }
        let threads = self.workers.drain(..).chain(self.quic.take());
        let threads = threads.chain(self.admin.take()).chain(self.certificate.take());
        let threads: Vec<_> = threads.collect();
        wait_until(self.control.clock, CUT_GRACE, || threads.iter().all(JoinHandle::is_finished));
        for thread in threads {
            let name = thread.thread().name().unwrap_or("unnamed").to_owned();
            if !thread.is_finished() {
                tracing::error!(thread = name, "thread did not end in time");
                continue;
            }
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(thread = name, %error, "thread failed"),
                Err(_) => tracing::error!(thread = name, "thread panicked"),
            }
        }
        if let Some(journal) = self.journal.take()
            && let Err(late) = journal.stop(JOURNAL_GRACE)
        {
            tracing::error!(%late, "the journal was not written completely");
        }
        self.control.phase.advance(Phase::Stopped);
    }

    fn start_workers(
        &mut self,
        (settings, rules): (&Settings, Arc<Rules>),
        (kept, resumes, queues): (Arc<Kept>, Arc<Resumes>, Arc<KeptQueues>),
        inputs: Vec<(TcpListener, Option<mpsc::Receiver<Handed>>)>,
        cut: &watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let control = &self.control;
        let shared = Arc::new(Shared {
            clock: control.clock,
            node: control.node.clone(),
            settings: settings.clone(),
            phase: control.phase.clone(),
            registry: control.registry.clone(),
            policies: control.policies.clone(),
            mailboxes: control.mailboxes.clone(),
            rules,
            journal: control.journal.clone(),
            kept,
            unread: Arc::default(),
            access: control.access.clone(),
            tls: control.tls.clone(),
            resumes,
            queues,
            dictionaries: control.dictionaries.clone(),
            tails: control.tails.clone(),
        });
        for (number, inputs) in (0..).zip(inputs) {
            let (shared, cut) = (shared.clone(), cut.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            self.workers.push(thread.spawn(move || worker::run(number, shared, inputs, cut))?);
        }
        Ok(())
    }

    fn start_quic(
        &mut self,
        (socket, windows): (Option<UdpSocket>, Windows),
        workers: Vec<mpsc::Sender<Handed>>,
    ) -> std::io::Result<()> {
        let control = &self.control;
        let (Some(socket), Some(tls)) = (socket, control.tls.clone()) else { return Ok(()) };
        let parts = quic::Parts {
            socket,
            tls,
            windows,
            secret: quic::secret(&self.data_dir),
            phase: control.phase.clone(),
            mailboxes: control.mailboxes.clone(),
            counters: control.quic.clone(),
            workers,
        };
        let cut = self.cut_quic.subscribe();
        let thread = std::thread::Builder::new().name("quic".to_owned());
        self.quic = Some(thread.spawn(move || quic::run(&parts, cut))?);
        Ok(())
    }

    /// A thread of its own: files may lie where reading them takes long.
    fn start_certificate(&mut self, cut: &watch::Receiver<bool>) -> std::io::Result<()> {
        if let Some(tls) = self.control.tls.clone() {
            let cut = cut.clone();
            let thread = std::thread::Builder::new().name("certificate".to_owned());
            self.certificate = Some(thread.spawn(move || tls.watch(cut))?);
        }
        Ok(())
    }

    fn start_admin(
        &mut self,
        config: &Config,
        token: String,
        listener: TcpListener,
        mut cut: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let state = AdminState::new(self.control.clone(), token)
            .allow_origins(config.admin.allowed_origins.clone())
            .allow_hosts(config.admin.allowed_hosts.clone())
            .open_probes(config.admin.open_probes);
        let thread = std::thread::Builder::new().name("admin".to_owned());
        self.admin = Some(thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let shutdown = async move { _ = cut.wait_for(|&cut| cut).await };
                admin::serve(listener, state, shutdown).await
            })
        })?);
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // What is stopped has given the journal back; a start that failed may have nothing else.
        if self.journal.is_some() {
            self.end();
        }
    }
}

/// How often another port is tried, where any will do and UDP has none of the same number.
const PORTS_TRIED_MAX: usize = 16;

/// The sockets for clients: one of TCP for each worker, and one of UDP, unless QUIC is off.
fn bind(config: &Config, workers: usize) -> anyhow::Result<(Vec<TcpListener>, Option<UdpSocket>)> {
    for tried in 1.. {
        let listeners = listeners::bind(config.listen, workers, config.limits.send_buffer_bytes)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listeners.first().context("no listener")?.local_addr()?;
        if !config.quic.enabled {
            return Ok((listeners, None));
        }
        match quic::bind(address) {
            Ok(socket) => return Ok((listeners, Some(socket))),
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && config.listen.port() == 0
                    && tried < PORTS_TRIED_MAX => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot listen on {address} for QUIC (UDP); quic.enabled = false does without")
                });
            }
        }
    }
    anyhow::bail!("no port is free")
}

/// The one that is configured, or else that of the data directory.
fn admin_token(config: &Config, data_dir: &DataDir) -> anyhow::Result<String> {
    match &config.admin.token {
        Some(token) => Ok(token.clone()),
        None => Ok(data_dir.admin_token()?.into_string()),
    }
}

fn bind_admin(config: &Config) -> anyhow::Result<TcpListener> {
    listeners::bind(config.admin.listen, 1, config.limits.send_buffer_bytes)
        .with_context(|| format!("cannot listen on {} for the admin API", config.admin.listen))?
        .pop()
        .context("no admin listener")
}

fn windows(config: &Config) -> Windows {
    let clamp = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    Windows {
        receive_bytes: clamp(limits::QUIC_RECEIVE_BYTES),
        send_bytes: clamp(config.limits.send_buffer_bytes),
        idle: Duration::from_millis(2 * u64::from(config.limits.heartbeat_ms)),
    }
}

/// Workers for a configured number, where 0 is one per core.
pub(crate) fn worker_count(configured: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = if configured == 0 { cores() } else { configured };
    wanted.clamp(1, limits::WORKERS_MAX)
}

fn settings(config: &Config, address: SocketAddr) -> Settings {
    let limits = &config.limits;
    Settings {
        check_host: address.ip().is_loopback(),
        allowed_hosts: config.access.allowed_hosts.clone(),
        allowed_origins: config.access.allowed_origins.clone(),
        connections_max: limits.connections_max as u64,
        message_bytes_max: limits.max_message_bytes,
        outbound_bytes_max: limits.outbound_bytes_max,
        worker_outbound_bytes_max: limits.worker_outbound_bytes_max,
        inbound_bytes_max: limits.worker_inbound_bytes_max,
        publishes_per_second: limits.publishes_per_second,
        publish_burst: limits.publish_burst,
        connect_timeout_us: u64::from(limits.connect_timeout_ms) * 1_000,
        heartbeat_ms: limits.heartbeat_ms,
        compression: CompressionSettings {
            budget: config.compression.adaptive.then_some(Budget {
                cpu_percent: config.compression.cpu_percent,
                min_bytes: config.compression.min_bytes,
            }),
            permessage_deflate: config.compression.permessage_deflate,
        },
    }
}

fn registry(data_dir: &DataDir, login: LoginPolicy) -> Arc<Registry> {
    let registry = Registry::new(data_dir.epoch(), data_dir.shard_seed());
    Arc::new(registry.with_login_policy(login).beginning_behind(data_dir.first_offset()))
}

fn login(config: &Config) -> LoginPolicy {
    let sessions = u32::try_from(config.access.sessions_per_user).unwrap_or(u32::MAX);
    match config.access.login {
        Login::Coexist => LoginPolicy::Coexist,
        Login::Limit => LoginPolicy::Limit(sessions),
        Login::Replace => LoginPolicy::ReplaceOldest(sessions),
    }
}

/// Waits until `done` or for at most `most`; says which.
fn wait_until(clock: Clock, most: Duration, done: impl Fn() -> bool) -> bool {
    let deadline_us = clock.now_us() + u64::try_from(most.as_micros()).unwrap_or(u64::MAX / 2);
    while !done() {
        if clock.now_us() >= deadline_us {
            return false;
        }
        std::thread::sleep(STOP_POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_by_itself_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config { data_dir: directory.path().to_owned(), listen: local, ..Config::default() };
        (config.admin.listen, config.quic.enabled) = (local, false);
        let mut broker = Broker::start(&config).unwrap();
        assert_eq!(broker.ended_thread(), None);
        let failing = std::thread::Builder::new().name("failing".to_owned());
        broker.certificate = Some(failing.spawn(|| panic!("as the test wants it")).unwrap());
        let seen = wait_until(broker.control.clock, Duration::from_secs(5), || {
            broker.ended_thread() == Some("failing")
        });
        assert!(seen);
        assert_eq!(broker.stop(Duration::from_secs(5)), Stopped::Drained);
    }
}
