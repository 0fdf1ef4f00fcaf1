//! What instances take of the machine, computed before anything is reserved.
//!
//! Address space is reserved at the start, which fails there if it does. Memory maps are taken one by one as instances
//! come to be, so a kernel that allows too few of them would show it later, to whoever needs the next map: a policy, a
//! thread, the store. Hence there are only as many policies as can have all their instances.

use crate::host::{HostOptions, StartError};
use crate::limits;

/// How many instances there can be at once, so that a change of any policies always finds room: what they may hold,
/// two per worker while a version is made, one in which an upload is tested, two in the hands of the policy thread.
/// Those that were given up are not among them: they are freed where they are in the way (`discards.rs`).
pub(crate) const fn instances(options: HostOptions) -> usize {
    options.workers * (options.policies_max * limits::INSTANCES_PER_POLICY + 2) + 3
}

/// Memory maps of a process whose host has all its instances: what `vm.max_map_count` ought to be at least.
#[must_use]
pub const fn maps_needed(options: HostOptions) -> usize {
    instances(options) * limits::MAPS_PER_INSTANCE + limits::MAPS_ELSEWHERE
}

/// The same options with as many policies as this machine can hold.
pub(crate) fn fit(options: HostOptions) -> Result<HostOptions, StartError> {
    // Elsewhere there is no such bound, or no way to ask for it.
    let Some(maps_max) = maps_allowed() else { return Ok(options) };
    let fitting = fit_into(options, maps_max)?;
    if fitting.policies_max < options.policies_max {
        let (asked, policies_max, needed) =
            (options.policies_max, fitting.policies_max, maps_needed(options));
        tracing::warn!(
            asked,
            policies_max,
            "there is room for fewer policies than asked for: vm.max_map_count is {maps_max} and ought to be {needed}"
        );
    }
    Ok(fitting)
}

fn fit_into(options: HostOptions, maps_max: usize) -> Result<HostOptions, StartError> {
    let with = |policies_max| HostOptions { policies_max, ..options };
    let most = (1..=options.policies_max).rev().map(with).find(|&options| maps_needed(options) <= maps_max);
    most.ok_or_else(|| StartError::Maps { maps_max, needed: maps_needed(with(1)) })
}

fn maps_allowed() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::limits::WORKERS_MAX;

    /// What Linux allows unless it is told otherwise.
    const USUAL: usize = 65_530;

    fn policies(workers: usize, policies_max: usize, maps_max: usize) -> Result<usize, String> {
        let options = HostOptions { workers, policies_max, ..HostOptions::default() };
        let fitting = fit_into(options, maps_max).map_err(|error| error.to_string())?;
        assert!(maps_needed(fitting) <= maps_max);
        assert_eq!(HostOptions { policies_max, ..fitting }, options, "nothing else changes");
        Ok(fitting.policies_max)
    }

    #[test]
    fn as_many_policies_as_have_room_for_their_maps() {
        assert_eq!(policies(2, 16, USUAL), Ok(16));
        assert_eq!(policies(16, 64, 10_000_000), Ok(64));
        let whole = HostOptions { workers: 8, policies_max: 64, ..HostOptions::default() };
        assert_eq!(policies(8, 64, maps_needed(whole)), Ok(64));
        assert_eq!(policies(8, 64, maps_needed(whole) - 1), Ok(63));
        let one = maps_needed(HostOptions { policies_max: 1, ..whole });
        assert_eq!(policies(8, 64, one), Ok(1));
        let refused = policies(8, 64, one - 1).unwrap_err();
        assert!(refused.contains(&format!("vm.max_map_count to at least {one}")), "{refused}");
    }

    #[test]
    fn a_usual_kernel_has_room_for_the_default_on_the_largest_machine() {
        let policies_max = HostOptions::default().policies_max;
        assert_eq!(policies(WORKERS_MAX, policies_max, USUAL), Ok(policies_max));
        assert_eq!(policies(WORKERS_MAX, 64, USUAL), Ok(16));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_its_bound() {
        assert!(maps_allowed().is_some_and(|maps| maps > 0));
    }
}
