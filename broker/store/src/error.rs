//! Why the data directory cannot be used.

use std::io;
use std::path::PathBuf;

/// Every text names the path, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
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
}
