//! Opening files that others put there, such that a broker which reads them again while it runs does not wait for them.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file to be read, and nothing that is none: whoever opens or reads a pipe waits for its other end.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkfifoat};

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let (file, pipe, link) =
            (directory.path().join("file"), directory.path().join("pipe"), directory.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert_eq!(io::read_to_string(open_regular(path).unwrap()).unwrap(), "text");
        }
        for path in [&pipe, directory.path(), Path::new("/dev/zero")] {
            let error = open_regular(path).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
        }
        let gone = open_regular(&directory.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
