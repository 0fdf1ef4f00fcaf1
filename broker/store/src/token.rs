//! The admin token: made once, kept in a file that only its owner may read.

use crate::error::OpenError;
use crate::file;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "admin-token";

/// Random bytes of a token, twice as many hexadecimal digits in text.
const RANDOM_BYTES: usize = 32;

/// Length of a token that somebody else wrote into the file.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// A bearer token of the admin API. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(hidden)")
    }
}

/// The token that a broker keeps in this data directory, for programs that talk to it. Takes no lock.
pub fn read_admin_token(data_dir: &Path) -> Result<AdminToken, OpenError> {
    let path = path_in(data_dir);
    read(&path)?.ok_or(OpenError::TokenMissing { path })
}

pub(crate) fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

pub(crate) fn read_or_make(data_dir: &Path) -> Result<AdminToken, OpenError> {
    let path = path_in(data_dir);
    if let Some(token) = read(&path)? {
        return Ok(token);
    }
    let token = random_hex::<RANDOM_BYTES>()?;
    file::replace(&path, &token)?;
    Ok(AdminToken(token))
}

fn read(path: &Path) -> Result<Option<AdminToken>, OpenError> {
    let mode = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(OpenError::io("look at", path))?.permissions().mode() & 0o777,
    };
    if mode & 0o077 != 0 {
        return Err(OpenError::TokenExposed { path: path.to_owned(), mode });
    }
    let Some(text) = file::read(path)? else { return Ok(None) };
    if !TOKEN_BYTES.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            expected: "16 to 256 printable ASCII characters",
            remedy: "or remove it, and the next start makes a new token",
        });
    }
    Ok(Some(AdminToken(text)))
}

/// `BYTES` random bytes as hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, OpenError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(OpenError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
