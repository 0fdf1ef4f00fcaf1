//! A heap profile of a process whose allocator is the one that samples.

#![expect(clippy::unwrap_used, reason = "tests: a surprise ends the test")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use waspmq_profile::{Profile, Sampled, Stop, cpu, heap};

#[global_allocator]
static ALLOCATOR: Sampled<mimalloc::MiMalloc> = Sampled::new(mimalloc::MiMalloc);

const BLOCK: usize = 10_000;

#[inline(never)]
fn keeps_for_the_profile(kept: &mut Vec<Vec<u8>>) {
    kept.push(black_box(vec![1; BLOCK]));
}

#[inline(never)]
fn throws_away_for_the_profile() {
    drop(black_box(vec![1_u8; BLOCK]));
}

#[inline(never)]
fn grows_for_the_profile() -> Vec<u64> {
    // Moved and moved again: what counts as in use is its last place.
    (0..200_000).map(black_box).fold(Vec::new(), |mut all, n| {
        all.push(n);
        all
    })
}

/// The sum of a kind over stacks with a function in them.
fn sum(profile: &Profile, kind: &str, function: &str) -> i64 {
    let kind = profile.kinds.iter().position(|one| one.name == kind).unwrap();
    let has = |place: &u32| profile.frames[*place as usize].name.contains(function);
    let found = profile.samples.iter().filter(|sample| sample.stack.iter().any(has));
    found.map(|sample| sample.values[kind]).sum()
}

fn is_about(estimate: i64, actual: usize) -> bool {
    let actual = i64::try_from(actual).unwrap();
    (estimate - actual).abs() < actual / 3
}

/// One test, because a process has one allocator.
#[test]
fn what_is_kept_is_told_from_what_is_not() {
    for _ in 0..2 {
        let stop = Stop::default();
        let mut kept = Vec::with_capacity(20_000);
        let mut grown = Vec::with_capacity(64);
        let profile = std::thread::scope(|scope| {
            let profile = scope.spawn(|| heap::profile(Duration::from_secs(3_600), &stop));
            while !heap::is_on() {
                std::thread::yield_now();
            }
            for _ in 0..20_000 {
                keeps_for_the_profile(&mut kept);
                throws_away_for_the_profile();
            }
            grown.extend((0..60).map(|_| grows_for_the_profile()));
            stop.stop();
            profile.join().unwrap().unwrap()
        });
        let all = 20_000 * BLOCK;
        assert!(is_about(sum(&profile, "alloc_space", "keeps_for_the_profile"), all), "{profile:#?}");
        assert!(is_about(sum(&profile, "inuse_space", "keeps_for_the_profile"), all), "{profile:#?}");
        assert!(is_about(sum(&profile, "inuse_objects", "keeps_for_the_profile"), 20_000), "{profile:#?}");
        assert!(is_about(sum(&profile, "alloc_space", "throws_away_for_the_profile"), all), "{profile:#?}");
        assert_eq!(sum(&profile, "inuse_space", "throws_away_for_the_profile"), 0, "{profile:#?}");
        let in_use: usize = grown.iter().map(|one| one.capacity() * 8).sum();
        assert!(is_about(sum(&profile, "inuse_space", "grows_for_the_profile"), in_use), "{profile:#?}");
        assert!(sum(&profile, "alloc_space", "grows_for_the_profile") > i64::try_from(in_use).unwrap());
        // The hooks are in no stack.
        assert_eq!(sum(&profile, "alloc_space", "waspmq_profile::linux::heap::sample"), 0);
        assert!(profile.notes.is_empty(), "{:?}", profile.notes);
        drop((kept, grown));
    }
    both_kinds_at_once();
    errno_is_put_back();
}

/// Signals come within the hooks, and the hooks are at work on all threads.
fn both_kinds_at_once() {
    let (ends, stop) = (AtomicBool::new(false), Stop::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    throws_away_for_the_profile();
                    drop(black_box(grows_for_the_profile()));
                }
            });
        }
        let memory = scope.spawn(|| heap::profile(Duration::from_secs(3_600), &stop));
        let time = cpu::profile(Duration::from_secs(2), &Stop::default());
        stop.stop();
        let memory = memory.join().unwrap();
        ends.store(true, Ordering::Relaxed);
        assert!(sum(&time.unwrap(), "samples", "grows_for_the_profile") > 0);
        assert!(sum(&memory.unwrap(), "alloc_space", "grows_for_the_profile") > 0);
    });
}

/// What a call has failed with is still there when memory was asked for since.
fn errno_is_put_back() {
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let profile = scope.spawn(|| heap::profile(Duration::from_secs(3_600), &stop));
        while !heap::is_on() {
            std::thread::yield_now();
        }
        // Of 100 MiB some 200 are sampled, and asking the kernel about a page sets it.
        for _ in 0..10_000 {
            assert!(std::fs::File::open("/no/such/file").is_err());
            throws_away_for_the_profile();
            let errno = std::io::Error::last_os_error();
            assert_eq!(errno.kind(), std::io::ErrorKind::NotFound, "{errno}");
        }
        stop.stop();
        profile.join().unwrap().unwrap();
    });
}
