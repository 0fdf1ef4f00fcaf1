//! A CPU profile of a process that does what is hard to profile: it allocates, panics and computes on several threads,
//! and waits in system calls meanwhile.

#![expect(clippy::unwrap_used, reason = "tests: a surprise ends the test")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use waspmq_profile::{Error, Profile, Stop, cpu};

#[inline(never)]
fn computes_for_the_profile(from: u64) -> u64 {
    (0..50_000).fold(from, |sum, n| black_box(sum.wrapping_mul(31).wrapping_add(n)))
}

#[inline(never)]
fn allocates_for_the_profile(from: u64) -> u64 {
    let texts: Vec<String> = (from..from + 500).map(|n| n.to_string()).collect();
    black_box(texts).len() as u64
}

#[inline(never)]
fn unwinds_for_the_profile(depth: u64) -> u64 {
    if depth == 0 {
        resume_unwind(Box::new(7_u64));
    }
    black_box(unwinds_for_the_profile(depth - 1)) + 1
}

fn echo(stop: &AtomicBool, rounds: &AtomicU64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut bytes = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        // None of these may fail with EINTR.
        near.write_all(&[1; 64]).unwrap();
        far.read_exact(&mut bytes).unwrap();
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Profiles that are taken until everything was seen in one of them.
const PROFILES_MAX: u32 = 15;

/// A thread's name, and what it does.
type Work = (&'static str, fn(u64) -> u64);

/// Runs `works` until the profile is taken.
fn during(profile_for: Duration, works: &[Work]) -> Profile {
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let profile = std::thread::scope(|scope| {
        let (stop, rounds) = (&stop, &rounds);
        for (name, work) in works {
            let body = move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n = work(n % 1_000);
                }
            };
            std::thread::Builder::new().name((*name).to_owned()).spawn_scoped(scope, body).unwrap();
        }
        let echo = std::thread::Builder::new()
            .name("echo".to_owned())
            .spawn_scoped(scope, || echo(stop, rounds))
            .unwrap();
        let profile = cpu::profile(profile_for, &Stop::default());
        // One that has failed goes no further round, and its panic is the scope's.
        while rounds.load(Ordering::Relaxed) == 0 && !echo.is_finished() {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        profile
    });
    profile.unwrap()
}

fn unwinds(_: u64) -> u64 {
    let caught = catch_unwind(|| unwinds_for_the_profile(40));
    *caught.unwrap_err().downcast::<u64>().unwrap()
}

/// Samples with a function in their stack, by thread.
fn samples(profile: &Profile, thread: &str, function: &str) -> i64 {
    let has = |place: &u32| profile.frames[*place as usize].name.contains(function);
    let of_thread = profile.samples.iter().filter(|sample| sample.thread.as_deref() == Some(thread));
    of_thread.filter(|sample| sample.stack.iter().any(has)).map(|sample| sample.values[0]).sum()
}

/// One test, because a process has one `SIGPROF`.
#[test]
fn profiles_are_taken_again_and_again() {
    let works: [Work; 3] = [
        ("computing", computes_for_the_profile),
        ("allocating", allocates_for_the_profile),
        ("unwinding", unwinds),
    ];
    let wanted = [
        ("computing", "computes_for_the_profile"),
        ("allocating", "allocates_for_the_profile"),
        ("unwinding", "unwinds_for_the_profile"),
    ];
    let mut seen = [false; 3];
    for round in 1..=PROFILES_MAX {
        let profile = during(Duration::from_secs(2), &works);
        for (seen, (thread, function)) in seen.iter_mut().zip(wanted) {
            *seen |= samples(&profile, thread, function) > 0;
        }
        assert_eq!(samples(&profile, "unwinding", "computes_for_the_profile"), 0, "{profile:#?}");
        assert_eq!(profile.total(1), profile.total(0) * 10_000_000);
        // Stacks end where threads begin.
        let whole = samples(&profile, "computing", "thread");
        assert_eq!(whole, samples(&profile, "computing", ""), "{profile:#?}");
        assert!(profile.notes.is_empty(), "{:?}", profile.notes);
        // A machine that has little time for this process has few samples of it.
        if round >= 3 && seen == [true; 3] {
            break;
        }
        assert!(round < PROFILES_MAX, "{seen:?} {profile:#?}");
    }
    one_at_a_time();
    a_signal_between_two_profiles_does_nothing();
    a_system_without_timers_is_told_of();
}

fn one_at_a_time() {
    let stop = Stop::default();
    let first = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            // The one below may be the first.
            loop {
                match cpu::profile(Duration::from_secs(3_600), &stop) {
                    Err(Error::Running) => std::thread::yield_now(),
                    taken => return taken,
                }
            }
        })
    };
    // Refused as soon as the other one has begun.
    let already = Stop::default();
    already.stop();
    while !matches!(cpu::profile(Duration::from_secs(1), &already), Err(Error::Running)) {
        std::thread::yield_now();
    }
    stop.stop();
    let first = first.join().unwrap().unwrap();
    assert!(first.duration_ns < 3_600_000_000_000);
}

fn a_signal_between_two_profiles_does_nothing() {
    let own = std::process::id().to_string();
    let sent = std::process::Command::new("sh").args(["-c", "kill -PROF \"$0\"", &own]).status().unwrap();
    assert!(sent.success());
}

fn a_system_without_timers_is_told_of() {
    let before = getrlimit(Resource::Sigpending);
    setrlimit(Resource::Sigpending, Rlimit { current: Some(0), ..before }).unwrap();
    let refused = cpu::profile(Duration::from_secs(3_600), &Stop::default());
    setrlimit(Resource::Sigpending, before).unwrap();
    assert!(matches!(refused, Err(Error::NoTimers(_))), "{refused:?}");
}
