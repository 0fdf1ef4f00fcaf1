//! How many files the process may have open: each connection is one.
//!
//! Systems give programs a low limit for the sake of old ones that cannot do with more, and let each raise it up to a second,
//! "hard" one. Containers often have no other way.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files of the broker that are no connections of clients: store, plugins, listeners, admin API.
pub(super) const FILES_ELSEWHERE: u64 = 1_024;

/// Allows as many files as so many connections need, or as the hard limit lets.
pub(super) fn raise(connections_max: usize) {
    let wanted = u64::try_from(connections_max).unwrap_or(u64::MAX).saturating_add(FILES_ELSEWHERE);
    let now = getrlimit(Resource::Nofile);
    if let Some(current) = raised(&now, wanted)
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: now.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    if let Some(open_files) = getrlimit(Resource::Nofile).current.filter(|&allowed| allowed < wanted) {
        tracing::info!(
            open_files,
            connections_max,
            "fewer files may be open than limits.connections_max needs; `waspmq doctor` says how to allow more"
        );
    }
}

/// What the limit becomes, where it is too low and can be raised.
fn raised(now: &Rlimit, wanted: u64) -> Option<u64> {
    let current = now.current.filter(|&current| current < wanted)?;
    let possible = now.maximum.map_or(wanted, |hard| hard.min(wanted));
    (possible > current).then_some(possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_may() {
        let check = |current, maximum, expected| {
            assert_eq!(raised(&Rlimit { current, maximum }, 5_000), expected, "{current:?} {maximum:?}");
        };
        check(Some(1_024), Some(1_048_576), Some(5_000));
        check(Some(1_024), Some(4_096), Some(4_096));
        check(Some(1_024), None, Some(5_000));
        check(Some(1_024), Some(1_024), None);
        check(Some(5_000), Some(1_048_576), None);
        check(None, None, None);
    }
}
