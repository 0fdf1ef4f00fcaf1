//! What fjall's errors mean here.

use crate::store::StoreError;
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
        fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) => {
            StoreError::Corrupt { what: "a table".into() }
        }
        other => StoreError::Unavailable { reason: format!("{other:?}") },
    }
}
