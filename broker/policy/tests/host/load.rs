//! Many messages: swaps under load lose nothing, and calls that the operating system sets aside are not cut.

use crate::guests::{Guest, built};
use crate::{decide, document, host, now, outcome};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use waspmq_core::policy::Policies;

#[test]
fn swaps_under_load_meet_every_message_with_one_whole_generation() {
    const SWAPS: u64 = 40;
    let host = host(2);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    host.upload("stamp", &built("stamp-b"), "test").unwrap();
    let put = |n: u64| {
        let (plugin, stamp) = if n.is_multiple_of(2) { ("stamp@1", "1") } else { ("stamp@2", "2") };
        let more =
            json!({ "config": { "stamp": stamp }, "on_failure": "closed", "limits": { "cpu_share": 1.0 } });
        host.put_policy("s", document(plugin, &["topic/>"], more), "test").unwrap();
    };
    put(0);
    let done = AtomicBool::new(false);
    let seen = [AtomicU64::new(0), AtomicU64::new(0)];
    let messages: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (mut routing, done, seen) = (host.worker(worker), &done, &seen);
                scope.spawn(move || {
                    let (mut messages, mut generation) = (0, 0);
                    while !done.load(Relaxed) {
                        assert!(routing.bound("topic/a").routing);
                        let headers = decide(&mut routing, "topic/a").set_headers;
                        assert_eq!(
                            headers[0].1, headers[1].1,
                            "configuration and code are of one generation"
                        );
                        assert!(routing.generation() >= generation);
                        generation = routing.generation();
                        messages += 1;
                        seen[worker].store(generation, Relaxed);
                    }
                    messages
                })
            })
            .collect();
        for n in 1..=SWAPS {
            put(n);
            let current = host.generation();
            let started = now();
            while seen.iter().any(|seen| seen.load(Relaxed) < current) {
                assert!(started.elapsed() < Duration::from_secs(8), "workers see generation {current}");
                std::thread::yield_now();
            }
        }
        done.store(true, Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let state = host.policy("s").unwrap();
    assert_eq!((state.generation, outcome(&host, "s", "ok")), (SWAPS + 1, messages), "{:?}", state.outcomes);
    assert_eq!(state.calls, messages);
    let metrics = host.metrics();
    assert_eq!(metrics[0].outcomes, state.outcomes);
    assert_eq!(metrics[0].latency.counts.iter().sum::<u64>(), state.latency.timed_calls);
    // Quick calls are not all timed.
    let timed = state.latency.timed_calls;
    assert!(
        timed <= messages && timed >= messages.min(256) && state.latency.p50_ns > 0,
        "{timed} of {messages}"
    );
}

/// The guest works for about a microsecond, so that many of the calls are under way when the thread is set aside.
#[test]
fn a_healthy_call_is_never_cut_however_long_the_system_sets_it_aside() {
    const CALLS: u64 = 1_000_000;
    let host = host(1);
    let busy = "(loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 200))))
        (i32.const 1024)";
    host.upload("p", &Guest::routing(busy), "test").unwrap();
    let whole = json!({ "limits": { "cpu_share": 1.0 } });
    host.put_policy("p", document("p", &["topic/>"], whole), "test").unwrap();
    let done = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let competitors = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..competitors {
            scope.spawn(|| {
                let mut x = 1u64;
                while !done.load(Relaxed) {
                    x = std::hint::black_box(x.wrapping_mul(3));
                }
            });
        }
        let mut routing = host.worker(0);
        let (started, mut longest, mut last) = (now(), Duration::ZERO, now());
        let mut calls = 0;
        while calls < CALLS && started.elapsed() < Duration::from_secs(6) {
            decide(&mut routing, "topic/a");
            calls += 1;
            let end = now();
            longest = longest.max(end - last);
            last = end;
        }
        done.store(true, Relaxed);
        assert_eq!(outcome(&host, "p", "ok"), calls, "{:?}", host.policy("p").unwrap().outcomes);
        assert!(calls > CALLS / 10, "{calls} calls are too few to show anything");
        println!("{calls} calls in {:?}, longest {longest:?}", started.elapsed());
        longest
    });
    assert!(longest > Duration::from_millis(2), "nothing was set aside, so nothing was shown: {longest:?}");
}
