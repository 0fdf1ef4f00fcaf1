//! Whether this process may open as many files as there are clients, asked before the first one connects.

use super::limits::{CONNECTING_MAX, FILES_ELSEWHERE};
use crate::cli::failure::Failure;
use anyhow::anyhow;
use rustix::process::{Resource, getrlimit};

pub(super) fn check(clients: usize) -> Result<(), Failure> {
    check_against(clients, getrlimit(Resource::Nofile).current)
}

/// One for each, and one more for those that are being connected: they may try two ways at a time.
fn check_against(clients: usize, limit: Option<u64>) -> Result<(), Failure> {
    let needed = (clients + clients.min(CONNECTING_MAX)) as u64 + FILES_ELSEWHERE;
    match limit {
        Some(limit) if limit < needed => Err(Failure::Failed(anyhow!(
            "{clients} clients need {needed} open files, and this process may have {limit}; before it: ulimit -n {needed}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_told_with_the_way_out() {
        let check = |clients, limit, expected: Option<&str>| match (check_against(clients, limit), expected) {
            (Ok(()), None) => {}
            (Err(Failure::Failed(error)), Some(expected)) => {
                assert!(error.to_string().ends_with(expected), "{error}");
            }
            (found, _) => panic!("{clients} {limit:?}: {found:?}"),
        };
        check(1, Some(1_024), None);
        check(704, Some(1_024), None);
        check(705, Some(1_024), Some("ulimit -n 1025"));
        check(10_000, Some(1_024), Some("ulimit -n 10320"));
        check(10_000, None, None);
    }
}
