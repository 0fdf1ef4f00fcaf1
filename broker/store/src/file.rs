//! Small files that are there whole or not at all, even after a power cut.

use crate::error::OpenError;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a file that this crate reads. More: read as damaged, because nothing here writes as much.
const BYTES_MAX: u64 = 1024;

/// The file's text without white space around it; `None` when there is no such file. Bytes that are not UTF-8
/// become replacement characters, which no caller accepts.
pub(crate) fn read(path: &Path) -> Result<Option<String>, OpenError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(OpenError::io("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(OpenError::io("read", path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Replaces the file by one that holds `line`, readable by its owner only.
///
/// The order makes it durable: the new content is on disk before the name points to it, and the name before this
/// returns.
pub(crate) fn replace(path: &Path, line: &str) -> Result<(), OpenError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        // A leftover may have another mode, and a mode applies to new files only.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{line}")?;
        file.sync_all()
    };
    write().map_err(OpenError::io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(OpenError::io("replace", path))?;
    sync_directory(path.parent().unwrap_or(path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|directory| directory.sync_all()).map_err(OpenError::io("sync", path))
}
