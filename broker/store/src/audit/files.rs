//! The files of the audit log: appending, cutting, renaming, and reading lines.

use super::AUDIT_FILES_KEPT;
use crate::error::FileError;
use crate::file;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a line that are read. More: no line of this log.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// How every line begins.
const SEQ: &str = "{\"seq\":";

/// The file that is written.
#[derive(Debug)]
pub(super) struct Writing {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Something lies behind `bytes` that could not be cut off.
    is_torn: bool,
}

impl Writing {
    /// Opens the file and cuts off what a crash left of a line.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(FileError::io("open", path))?;
        let (whole, bytes) = whole_lines(&mut file).map_err(FileError::io("read", path))?;
        let mut writing = Self { path: path.to_owned(), file, bytes: whole, is_torn: bytes > whole };
        if writing.is_torn {
            tracing::warn!(file = %path.display(), kept_bytes = whole, cut_bytes = bytes - whole, "the audit log's last line was not completely written: cut off");
            writing.cut_to(whole)?;
        }
        writing.sync_name()?;
        Ok(writing)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a line; when this returns it is on disk. Gives where it begins. After a failure it is not there.
    pub(super) fn append(&mut self, line: &str) -> Result<u64, FileError> {
        let before = self.bytes;
        if self.is_torn {
            self.cut_to(before)?;
        }
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.is_torn = true;
            if let Err(torn) = self.cut_to(before) {
                tracing::error!(error = %torn.chain(), "a part of a line stays in the audit log until the next one");
            }
            return Err(FileError::io("write", &self.path)(error));
        }
        self.bytes += line.len() as u64;
        Ok(before)
    }

    /// Takes back what lies behind `bytes`.
    pub(super) fn cut_to(&mut self, bytes: u64) -> Result<(), FileError> {
        self.bytes = bytes;
        self.is_torn = true;
        let cut = self.file.set_len(bytes).and_then(|()| self.file.sync_data());
        cut.map_err(FileError::io("cut", &self.path))?;
        self.is_torn = false;
        Ok(())
    }

    /// Keeps the file under an older name, and begins a new one.
    pub(super) fn rotate(&mut self, path: &Path) -> Result<(), FileError> {
        // A rotation that failed half-way has done the first part already.
        if path.exists() {
            for age in (0..AUDIT_FILES_KEPT).rev() {
                match fs::rename(aged(path, age), aged(path, age + 1)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(FileError::io("rename", aged(path, age))(error));
                    }
                    _ => {}
                }
            }
        }
        *self = Self::open(path)?;
        Ok(())
    }

    /// Puts another file in the place of the one that is written.
    #[cfg(test)]
    pub(super) fn break_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    fn sync_name(&self) -> Result<(), FileError> {
        let directory = self.path.parent().unwrap_or(&self.path);
        file::sync_directory(directory).map_err(|error| match error {
            crate::OpenError::Io { action, path, source } => FileError::Io { action, path, source },
            other => FileError::Io {
                action: "sync",
                path: directory.to_owned(),
                source: std::io::Error::other(other),
            },
        })
    }
}

/// The name of the file that is `age` rotations old.
pub(super) fn aged(path: &Path, age: usize) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

/// The line of `fields`, which is a JSON object, under its number.
pub(super) fn line_with(seq: u64, fields: &str) -> String {
    let fields = fields.trim().strip_prefix('{').unwrap_or("}");
    let comma = if fields.trim_start().starts_with('}') { "" } else { "," };
    format!("{SEQ}{seq}{comma}{fields}\n")
}

/// Hands on every line of a file with its number, until `each` says that it has enough. No file, no lines.
pub(super) fn read_lines(path: &Path, each: &mut dyn FnMut(u64, &str) -> bool) -> Result<(), FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(FileError::io("open", path))?,
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = reader.by_ref().take(LINE_BYTES_MAX as u64);
        let read = bounded.read_until(b'\n', &mut line).map_err(FileError::io("read", path))?;
        if read == 0 {
            return Ok(());
        }
        let Some(text) = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()) else {
            continue;
        };
        if seq_of(text).is_some_and(|seq| !each(seq, text)) {
            return Ok(());
        }
    }
}

/// The number of a line.
fn seq_of(line: &str) -> Option<u64> {
    let rest = line.strip_prefix(SEQ).filter(|_| line.ends_with('}'))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Where the last whole line ends, and where the file does.
fn whole_lines(file: &mut File) -> std::io::Result<(u64, u64)> {
    let bytes = file.metadata()?.len();
    let mut end = bytes;
    let mut chunk = [0_u8; 4_096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = usize::try_from(end - start).ok().and_then(|len| chunk.get_mut(..len)).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok((start + at as u64 + 1, bytes));
        }
        end = start;
    }
    Ok((0, bytes))
}
