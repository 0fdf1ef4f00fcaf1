//! What fjall's errors mean here.

use crate::store::StoreError;
use fjall::LsmError;
use std::error::Error;
use std::io::ErrorKind;

/// Whether the file system had no space left.
pub(super) fn is_full(error: &fjall::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        source = error.source();
    }
    false
}

pub(super) fn store_error(error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Unavailable { reason: "an earlier write failed".into() },
        // What lies where a block should be cannot be read, and never will.
        fjall::Error::Storage(
            LsmError::ChecksumMismatch { .. }
            | LsmError::InvalidHeader(_)
            | LsmError::InvalidTrailer
            | LsmError::InvalidTag(_)
            | LsmError::InvalidVersion(_)
            | LsmError::Decompress(_)
            | LsmError::Utf8(_)
            | LsmError::Unrecoverable,
        )
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Decompress(_) => StoreError::Corrupt { what: "a table".into() },
        other => StoreError::Unavailable { reason: format!("{other:?}") },
    }
}

/// What keeps a database from being opened or written to, for a report.
pub(crate) fn told(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Storage(LsmError::ChecksumMismatch { .. }) => {
            "one of its files does not match a checksum".into()
        }
        fjall::Error::Storage(LsmError::InvalidVersion(_)) | fjall::Error::InvalidVersion(_) => {
            "one of its files has no version that is known".into()
        }
        fjall::Error::Storage(LsmError::Unrecoverable) | fjall::Error::Unrecoverable => {
            "its files are incomplete or contradict each other".into()
        }
        _ if matches!(store_error(error), StoreError::Corrupt { .. }) => {
            "one of its files holds what cannot be read".into()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_damage_and_what_fails_may_pass() {
        // A sector of zeros where a block begins, and where one ends.
        let damage =
            [LsmError::InvalidHeader("Block"), LsmError::InvalidTrailer, LsmError::InvalidTag(("x", 0))];
        for error in damage.into_iter().chain([LsmError::Unrecoverable]) {
            let error = store_error(&fjall::Error::Storage(error));
            assert!(matches!(error, StoreError::Corrupt { .. }) && !error.is_retryable(), "{error}");
        }
        let failed = std::io::Error::from(ErrorKind::Other);
        assert!(store_error(&fjall::Error::Storage(LsmError::Io(failed))).is_retryable());
        assert!(store_error(&fjall::Error::Poisoned).is_retryable());
    }
}
