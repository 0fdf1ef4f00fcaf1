//! The certificate of the listener for clients: where it comes from, and how another one takes its place.
//!
//! | source | looked at | replaced |
//! | --- | --- | --- |
//! | two files | every second, and at a hang-up | when they changed and then stayed for a second |
//! | of our own making | every second | three days before it ends |
//!
//! *Invariants.* There is always a certificate that was good when it was read: one that cannot be used changes nothing. A
//! connection keeps what it was accepted with. Nobody waits for files that somebody else reads: a disk that does not answer holds
//! up who asks it. Plain brokers have none of this.

mod own;
#[cfg(test)]
mod tests;

use crate::access::read_bounded;
use crate::clock::Clock;
use crate::config::{Problem, TlsConfig};
use anyhow::anyhow;
use arc_swap::ArcSwap;
use own::Own;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use waspmq_transport::tls::{Credentials, CredentialsError, Session};

/// How often it is looked whether files changed, or it is time for another certificate.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// A file cannot be read; the text names it.
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Key(String),
    /// Both were read.
    #[error("{} and {}: {problem}", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, problem: CredentialsError },
}

impl FilesError {
    /// The configuration key that it is about, and what is wrong.
    pub(crate) fn of_key(&self) -> Problem {
        let key = match self {
            Self::Key(_) | Self::Unusable { problem: CredentialsError::Key(_), .. } => "tls.key",
            Self::Certificate(_) | Self::Unusable { .. } => "tls.certificate",
        };
        (key.into(), self.to_string())
    }
}

/// Reads a certificate and its key.
pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Credentials, FilesError> {
    let certificate_pem = read_bounded(certificate).map_err(FilesError::Certificate)?;
    let key_pem = read_bounded(key).map_err(FilesError::Key)?;
    Credentials::from_pem(&certificate_pem, &key_pem).map_err(|problem| FilesError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        problem,
    })
}

/// What tells a file from what it was: when it or who may read it was changed, its length, and which file it is.
type Stamp = Option<((i64, i64), u64, u64)>;

/// Where the certificate comes from.
#[derive(Debug)]
enum Source {
    Files { certificate: PathBuf, key: PathBuf, looked: Mutex<Looked> },
    Own(Own),
}

/// What was tried last, and what was seen last.
#[derive(Debug, Clone, Copy)]
struct Looked {
    tried: [Stamp; 2],
    seen: [Stamp; 2],
}

/// The certificate in force.
#[derive(Debug)]
pub struct Tls {
    clock: Clock,
    /// Whether sockets speak TLS; otherwise it is for QUIC alone.
    is_for_sockets: bool,
    credentials: ArcSwap<Credentials>,
    changed: Notify,
    /// Locked to be read or replaced, with the credentials of it, and never while files are read.
    source: Mutex<Arc<Source>>,
    /// Certificates that took the place of another one, and those that could not.
    replaced: AtomicU64,
    failed: AtomicU64,
}

impl Tls {
    /// Reads or makes the certificate; `None` where nothing speaks TLS. QUIC always does: where the configuration has
    /// none, `for_quic` makes one.
    ///
    /// # Errors
    /// There is to be one, and it cannot be used.
    pub fn open(
        config: &TlsConfig,
        for_quic: bool,
        (data_dir, clock): (&Path, Clock),
    ) -> anyhow::Result<Option<Self>> {
        let is_for_sockets = config.is_on();
        let (credentials, source) = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => files(certificate, key)?,
            _ if config.self_signed || for_quic => {
                let (credentials, own) = Own::open(data_dir, &config.self_signed_names, unix_s(clock))?;
                (credentials, Source::Own(own))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            clock,
            is_for_sockets,
            changed: Notify::new(),
            credentials: ArcSwap::from_pointee(credentials),
            source: Mutex::new(Arc::new(source)),
            replaced: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }))
    }

    /// Begins to serve a socket, where sockets speak TLS.
    pub(crate) fn accept(&self) -> Option<Result<Session, CredentialsError>> {
        self.is_for_sockets.then(|| self.credentials.load().accept())
    }

    /// Whether sockets speak TLS.
    pub const fn is_for_sockets(&self) -> bool {
        self.is_for_sockets
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// Waits until there are other credentials than before. For one who waits.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` writes it.
    pub fn fingerprint(&self) -> String {
        let mut text = String::with_capacity(32 * 3);
        for byte in self.credentials.load().fingerprint() {
            let colon = if text.is_empty() { "" } else { ":" };
            // Writing to a string does not fail.
            _ = write!(text, "{colon}{byte:02X}");
        }
        text
    }

    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Takes the certificate of this configuration. Reads files: for a thread that may wait.
    pub fn reload(&self, config: &TlsConfig) {
        let taken = match (&config.certificate, &config.key) {
            _ if config.is_on() && !self.is_for_sockets => {
                Err(anyhow!("the configuration has a TLS certificate now; to listen with it needs a restart"))
            }
            _ if !config.is_on() && self.is_for_sockets => Err(anyhow!(
                "the configuration has no certificate any more; a plain listener needs a restart"
            )),
            (Some(certificate), Some(key)) => files(certificate, key),
            _ => match &**self.source() {
                Source::Own(own) if own.is_for(&config.self_signed_names) => return,
                _ => Err(anyhow!("tls.self_signed and its names need a restart")),
            },
        };
        match taken {
            Ok((credentials, new)) => {
                let mut source = self.source();
                *source = Arc::new(new);
                self.replace(credentials);
            }
            Err(error) => self.keep(&error),
        }
    }

    fn source(&self) -> MutexGuard<'_, Arc<Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once a second until the broker ends.
    pub(crate) fn watch(&self, mut cut: watch::Receiver<bool>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(async {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                // Both branches are cancel-safe.
                tokio::select! {
                    _ = cut.wait_for(|&cut| cut) => return Ok(()),
                    _ = ticks.tick() => self.tick(),
                }
            }
        })
    }

    /// Once a second: takes what changed, renews what ends. Reads files: for a thread that may wait.
    pub(crate) fn tick(&self) {
        let looked_at = self.source().clone();
        if let Some(found) = looked_at.look(unix_s(self.clock)) {
            self.take(&looked_at, found);
        }
    }

    /// Takes what was found in a source, unless another one was named meanwhile.
    fn take(&self, looked_at: &Arc<Source>, found: anyhow::Result<Credentials>) {
        let source = self.source();
        match found {
            _ if !Arc::ptr_eq(&source, looked_at) => {}
            Ok(credentials) => self.replace(credentials),
            Err(error) => self.keep(&error),
        }
    }

    /// The same certificate stays as it is, with the tickets that clients have of it.
    fn replace(&self, credentials: Credentials) {
        if self.credentials.load().is_same(&credentials) {
            return;
        }
        self.credentials.store(Arc::new(credentials));
        self.replaced.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        tracing::info!(sha256 = self.fingerprint(), "new connections get another TLS certificate");
    }

    fn keep(&self, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            error = format!("{error:#}"),
            "the TLS certificate was not replaced; the one before serves"
        );
    }
}

impl Source {
    /// Looks whether there is another certificate, and reads it.
    fn look(&self, now_unix_s: u64) -> Option<anyhow::Result<Credentials>> {
        match self {
            Self::Files { certificate, key, looked } => {
                let now = [stamp(certificate), stamp(key)];
                let is_next = looked.lock().unwrap_or_else(PoisonError::into_inner).is_next(now);
                is_next.then(|| read(certificate, key).map_err(anyhow::Error::from))
            }
            Self::Own(own) => own.renew(now_unix_s),
        }
    }
}

impl Looked {
    /// Whether the files are to be tried, as they are now.
    fn is_next(&mut self, now: [Stamp; 2]) -> bool {
        // Two files are not written at once: what just changed may be half of it.
        let is_settled = std::mem::replace(&mut self.seen, now) == now;
        is_settled && std::mem::replace(&mut self.tried, now) != now
    }
}

fn files(certificate: &Path, key: &Path) -> anyhow::Result<(Credentials, Source)> {
    // Before they are read: what changes while they are is looked at again.
    let tried = [stamp(certificate), stamp(key)];
    let credentials = read(certificate, key)?;
    let (certificate, key) = (certificate.to_owned(), key.to_owned());
    let looked = Mutex::new(Looked { tried, seen: tried });
    Ok((credentials, Source::Files { certificate, key, looked }))
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some(((metadata.ctime(), metadata.ctime_nsec()), metadata.len(), metadata.ino()))
}

fn unix_s(clock: Clock) -> u64 {
    clock.now().unix_ms / 1_000
}
