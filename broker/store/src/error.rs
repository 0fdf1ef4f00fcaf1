//! Why the data directory, or a file in it, cannot be used.

use std::io;
use std::path::PathBuf;

/// Every text names the path, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot make the data directory: {} {found}", path.display())]
    NoDirectory { path: PathBuf, found: String },
    #[error("the data directory {} is in use by another broker; stop it or choose another --data-dir", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged: expected {expected}. Restore it from a backup; {remedy}", path.display())]
    Corrupt { path: PathBuf, expected: &'static str, remedy: &'static str },
    #[error("the epoch in {} has reached its maximum; message ids would repeat. Start with a new data directory", path.display())]
    EpochExhausted { path: PathBuf },
    #[error("{0} can be read by other users (mode {mode:03o}), so the token in it is no secret. Remove the file for a new token, or run: chmod 600 {0}", path.display())]
    TokenExposed { path: PathBuf, mode: u32 },
    #[error("there is no admin token at {}; is the broker running with this data directory?", path.display())]
    TokenMissing { path: PathBuf },
    #[error("the store in {} was written by a newer waspmq (format {found:?}, this one writes {known}); run that version, or start with a new data directory", path.display())]
    StoreNewer { path: PathBuf, found: String, known: u32 },
    #[error("{} is damaged: {detail}. Stop the broker and run `waspmq store check` for a report, then `waspmq store repair` to keep what can be read, or restore a backup", path.display())]
    StoreDamaged { path: PathBuf, detail: String },
    #[error("{} is damaged so that no repair helps: {detail}. Restore a backup, or start with a new data directory", path.display())]
    StoreBeyondRepair { path: PathBuf, detail: String },
    #[error("the store in {} is open in another process", path.display())]
    StoreLocked { path: PathBuf },
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl OpenError {
    /// For `map_err`: an I/O error with what was being done to which file.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Damage that a repair met, and so cannot be told to run one.
    pub(crate) fn beyond_repair(self) -> Self {
        match self {
            Self::StoreDamaged { path, detail } => Self::StoreBeyondRepair { path, detail },
            other => other,
        }
    }
}

/// Why a small file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is missing", path.display())]
    Missing { path: PathBuf },
    #[error("{} was changed: its BLAKE3 ought to be {expected} and is {found}", path.display())]
    Changed { path: PathBuf, expected: String, found: String },
    #[error("{} has more than {bytes_max} bytes, so it is not what was written", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{digest:?} is not a digest of 64 hexadecimal digits")]
    NoDigest { digest: String },
}

impl FileError {
    /// For `map_err`: an I/O error with what was being done to which file.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether there was no space left.
    pub fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The text with that of the operating system behind it.
    pub fn chain(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
