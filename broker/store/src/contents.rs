//! Contents under their digests, and one manifest that says what there is: plugins with policies, and dictionaries.
//!
//! ```text
//! <data-dir>/policies/         mode 0700
//!   policies.json              mode 0600: the manifest, replaced as a whole
//!   components/<digest>.wasm   mode 0600: named after the BLAKE3 of its bytes, 64 hexadecimal digits
//! <data-dir>/dictionaries/     the same for dictionaries
//!   dictionaries.json
//!   <digest>.dict
//! ```
//! A file is complete and synced before its name points to it, and the name is on disk before a call returns. So
//! after a crash the manifest is the one before a change or the one behind it, and every content that it names is
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

/// How the files of one kind are named, and how many bytes of one are read. More: it is not what was written.
#[derive(Debug, Clone, Copy)]
struct Layout {
    manifest: &'static str,
    /// The directory of contents; none: they are beside the manifest.
    folder: Option<&'static str>,
    ending: &'static str,
    bytes_max: u64,
}

const PLUGINS: Layout = Layout {
    manifest: "policies.json",
    folder: Some("components"),
    ending: ".wasm",
    bytes_max: 64 * 1024 * 1024,
};

const DICTIONARIES: Layout =
    Layout { manifest: "dictionaries.json", folder: None, ending: ".dict", bytes_max: 1024 * 1024 };

/// The files of one kind of one broker, which has locked the data directory.
#[derive(Debug)]
pub struct ContentFiles {
    path: PathBuf,
    layout: Layout,
    system: Box<dyn FileSystem>,
    /// The manifest that a start would find.
    saved: Mutex<Option<Vec<u8>>>,
}

impl ContentFiles {
    /// Opens the directory of plugins and policies, making it where it does not exist.
    pub fn open_policies(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_on(path.into(), PLUGINS, Box::new(OperatingSystem))
    }

    /// Opens the directory of dictionaries, making it where it does not exist.
    pub fn open_dictionaries(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_on(path.into(), DICTIONARIES, Box::new(OperatingSystem))
    }

    fn open_on(path: PathBuf, layout: Layout, system: Box<dyn FileSystem>) -> Result<Self, FileError> {
        let folder = layout.folder.map(|folder| path.join(folder));
        for directory in std::iter::once(&path).chain(&folder) {
            if directory.is_dir() {
                continue;
            }
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.map_err(FileError::io("make the directory", directory))?;
            let parent = directory.parent().unwrap_or(directory);
            system.sync_directory(parent).map_err(FileError::io("sync", parent))?;
        }
        Ok(Self { path, layout, system, saved: Mutex::default() })
    }

    pub fn manifest_path(&self) -> PathBuf {
        self.path.join(self.layout.manifest)
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
                        "a refused change may be back after a crash"
                    );
                }
                Err(error)
            }
        }
    }

    /// The content with this digest, checked.
    pub fn read_content(&self, digest: &str) -> Result<Vec<u8>, FileError> {
        let path = self.content_path(digest)?;
        let bytes = read(&path, self.layout.bytes_max)?;
        let found = blake3::hash(&bytes).to_hex();
        if found.as_str() == digest {
            return Ok(bytes);
        }
        Err(FileError::Changed { path, expected: digest.to_owned(), found: found.to_string() })
    }

    /// Writes a content under its digest, also over a damaged one.
    pub fn save_content(&self, digest: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.content_path(digest)?;
        match self.read_content(digest) {
            // What is there may be what an earlier call could not sync.
            Ok(_) => self.sync(&self.folder()),
            Err(_) => self.replace(&path, bytes).map_err(Unreplaced::into_error),
        }
    }

    /// Removes a content that no manifest names any more. One that stays is removed at the next start.
    pub fn remove_content(&self, digest: &str) -> Result<(), FileError> {
        self.remove(&self.content_path(digest)?)
    }

    /// Removes what a crash left beside the contents that are in use; gives the number of files.
    pub fn sweep(&self, is_used: impl Fn(&str) -> bool) -> Result<usize, FileError> {
        let folder = self.folder();
        let mut removed = 0;
        for entry in std::fs::read_dir(&folder).map_err(FileError::io("read", &folder))? {
            let path = entry.map_err(FileError::io("read", &folder))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()?.strip_suffix(self.layout.ending));
            let is_manifest = path == self.manifest_path();
            if !is_manifest && !digest.is_some_and(&is_used) {
                self.remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn folder(&self) -> PathBuf {
        self.layout.folder.map_or_else(|| self.path.clone(), |folder| self.path.join(folder))
    }

    fn content_path(&self, digest: &str) -> Result<PathBuf, FileError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digest.len() != 64 || !digest.bytes().all(is_digit) {
            return Err(FileError::NoDigest { digest: digest.to_owned() });
        }
        Ok(self.folder().join(format!("{digest}{}", self.layout.ending)))
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
