//! Plugins and policies on disk: components under their digests, and one manifest that says what there is.
//!
//! ```text
//! <data-dir>/policies/         mode 0700
//!   policies.json              mode 0600: the manifest, replaced as a whole
//!   components/<digest>.wasm   mode 0600: named after the BLAKE3 of its bytes, 64 hexadecimal digits
//! ```
//! A file is complete and synced before its name points to it, and the name is on disk before a call returns. So
//! after a crash the manifest is the one before a change or the one behind it, and every component that it names is
//! there. What the manifest says is for whoever writes it; this module knows bytes.

mod filesystem;
#[cfg(test)]
mod tests;

use crate::error::FileError;
use filesystem::{FileSystem, OperatingSystem};
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of a manifest that are read. More: refused, because nothing here writes as much.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of a component that are read. More: it is not what was written.
const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The files of one broker, which has locked the data directory.
#[derive(Debug)]
pub struct PolicyFiles {
    path: PathBuf,
    system: Box<dyn FileSystem>,
    /// The manifest that a start would find.
    saved: Mutex<Option<Vec<u8>>>,
}

impl PolicyFiles {
    /// Opens the directory, making it where it does not exist.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_on(path.into(), Box::new(OperatingSystem))
    }

    fn open_on(path: PathBuf, system: Box<dyn FileSystem>) -> Result<Self, FileError> {
        let components = path.join("components");
        for directory in [&path, &components] {
            if directory.is_dir() {
                continue;
            }
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.map_err(FileError::io("make the directory", directory))?;
            let parent = directory.parent().unwrap_or(directory);
            system.sync_directory(parent).map_err(FileError::io("sync", parent))?;
        }
        Ok(Self { path, system, saved: Mutex::default() })
    }

    pub fn manifest_path(&self) -> PathBuf {
        self.path.join("policies.json")
    }

    /// The manifest; `None` where none was ever saved.
    pub fn read_manifest(&self) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.manifest_path();
        let bytes = match read(&path, MANIFEST_BYTES_MAX) {
            Err(FileError::Missing { .. }) => None,
            other => Some(other?),
        };
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&bytes);
        Ok(bytes)
    }

    /// Replaces the manifest. When this fails, a start finds the one before; where even that cannot be made sure, the
    /// log says so.
    pub fn save_manifest(&self, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.manifest_path();
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        match self.replace(&path, bytes) {
            Ok(()) => {
                *saved = Some(bytes.to_vec());
                Ok(())
            }
            Err(Unreplaced::Before(error)) => Err(error),
            // The new name may be on disk or not, and must not come back after it was refused.
            Err(Unreplaced::Unsynced(error)) => {
                let undone = match &*saved {
                    Some(before) => self.replace(&path, before).map_err(Unreplaced::into_error),
                    None => self.remove(&path).and_then(|()| self.sync(&self.path)),
                };
                if let Err(undone) = undone {
                    tracing::error!(
                        file = %path.display(),
                        error = %undone.chain(),
                        "a refused change of policies may be back after a crash"
                    );
                }
                Err(error)
            }
        }
    }

    /// The component with this digest, checked.
    pub fn read_component(&self, digest: &str) -> Result<Vec<u8>, FileError> {
        let path = self.component_path(digest)?;
        let bytes = read(&path, COMPONENT_BYTES_MAX)?;
        let found = blake3::hash(&bytes).to_hex();
        if found.as_str() == digest {
            return Ok(bytes);
        }
        Err(FileError::Changed { path, expected: digest.to_owned(), found: found.to_string() })
    }

    /// Writes a component under its digest, also over a damaged one.
    pub fn save_component(&self, digest: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.component_path(digest)?;
        match self.read_component(digest) {
            // What is there may be what an earlier call could not sync.
            Ok(_) => self.sync(&self.components()),
            Err(_) => self.replace(&path, bytes).map_err(Unreplaced::into_error),
        }
    }

    /// Removes a component that no manifest names any more. One that stays is removed at the next start.
    pub fn remove_component(&self, digest: &str) -> Result<(), FileError> {
        self.remove(&self.component_path(digest)?)
    }

    /// Removes what a crash left beside the components that are in use; gives the number of files.
    pub fn sweep(&self, is_used: impl Fn(&str) -> bool) -> Result<usize, FileError> {
        let components = self.components();
        let mut removed = 0;
        for entry in std::fs::read_dir(&components).map_err(FileError::io("read", &components))? {
            let path = entry.map_err(FileError::io("read", &components))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".wasm"));
            if !digest.is_some_and(&is_used) {
                self.remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn components(&self) -> PathBuf {
        self.path.join("components")
    }

    fn component_path(&self, digest: &str) -> Result<PathBuf, FileError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digest.len() != 64 || !digest.bytes().all(is_digit) {
            return Err(FileError::NoDigest { digest: digest.to_owned() });
        }
        Ok(self.components().join(format!("{digest}.wasm")))
    }

    /// The order makes it durable: content, name, directory.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Unreplaced> {
        let temporary = path.with_extension("tmp");
        let before = |action| {
            let path = path.to_owned();
            move |source| Unreplaced::Before(FileError::Io { action, path, source })
        };
        let written = self.system.write(&temporary, bytes).map_err(before("write"));
        let renamed = written.and_then(|()| self.system.rename(&temporary, path).map_err(before("replace")));
        if renamed.is_err() {
            // It holds space, which may be what is missing.
            drop(self.system.remove(&temporary));
        }
        renamed?;
        self.sync(path.parent().unwrap_or(path)).map_err(Unreplaced::Unsynced)
    }

    fn sync(&self, directory: &Path) -> Result<(), FileError> {
        self.system.sync_directory(directory).map_err(FileError::io("sync", directory))
    }

    fn remove(&self, path: &Path) -> Result<(), FileError> {
        match self.system.remove(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

/// How far a replacement came.
#[derive(Debug)]
enum Unreplaced {
    /// The name points to what it pointed to.
    Before(FileError),
    /// The name points to the new file, and which one a start would find is not known.
    Unsynced(FileError),
}

impl Unreplaced {
    fn into_error(self) -> FileError {
        match self {
            Self::Before(error) | Self::Unsynced(error) => error,
        }
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(FileError::Missing { path: path.to_owned() });
        }
        other => other.map_err(FileError::io("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}
