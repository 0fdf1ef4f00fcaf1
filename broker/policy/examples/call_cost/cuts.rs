//! Guests that loop: how long until a worker goes on; and guests that work nearly as long as they may, which must not
//! be cut.
//!
//! A deadline counts the thread's own CPU time, so what the machine gives to others lengthens a cut.

use crate::{Fallible, Figure, Run, hosts};
use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};
use waspmq_core::policy::{Outcome, Policies as _, Routing as _};

/// Each worker's instance is cut once per host: the next one comes at a bounded pace.
const WORKERS: usize = 64;
const HOSTS: usize = 4;

/// Calls that are not to be cut at a deadline of 2 ms: of a quarter of that, and of nearly half of it. A call is never cut
/// that used less than 1.2 ms of CPU time, and a busy machine makes one of 0.9 ms take that long now and then.
const HEALTHY: [(&str, Duration); 2] = [
    ("calls of 0.5 ms that were cut", Duration::from_micros(500)),
    ("calls of 0.9 ms that were cut", Duration::from_micros(900)),
];
const HEALTHY_CALLS: u64 = 1_000;

/// How long a round may take.
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    let mut cuts = Vec::new();
    for _ in 0..HOSTS {
        let host = hosts::with_policy(WORKERS, "guest-misbehave", &json!({ "config": { "how": "loop" } }))?;
        for worker in 0..WORKERS {
            let mut policies = host.worker(worker);
            let message = hosts::message(&[]);
            policies.bound(message.to);
            let started = Instant::now();
            black_box(policies.route(&message));
            cuts.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let cut = hosts::outcome(&host, "deadline");
        if cut != WORKERS as u64 {
            return Err(format!("{cut} of {WORKERS} loops were cut").into());
        }
    }
    run.show([Figure::new("cut of a loop", "ms", cuts)]);
    HEALTHY.into_iter().try_for_each(|(name, time)| healthy(run, name, time))
}

/// Calls that were cut in each round. One that is has others pass by its policy until the next instance is there.
fn healthy(run: &Run, name: &str, time: Duration) -> Fallible<()> {
    let config = json!({ "mark": "1", "turns": turns_within(time)? });
    let mut cut = Vec::new();
    for _ in 0..3 {
        let document = json!({ "config": config, "limits": { "cpu_share": 1.0 } });
        let host = hosts::with_policy(1, "guest-trial", &document)?;
        let mut policies = host.worker(0);
        let message = hosts::message(&[]);
        let (started, mut put) = (Instant::now(), 0);
        while put < HEALTHY_CALLS {
            policies.bound(message.to);
            match policies.route(&message) {
                Outcome::Decided(verdict) if !verdict.set_headers.is_empty() => put += 1,
                _ if started.elapsed() > WITHIN => {
                    return Err(format!("{put} {name}, then none served").into());
                }
                // It was cut, or the next instance is not there yet.
                _ => {
                    std::thread::sleep(Duration::from_millis(5));
                    put = hosts::outcome(&host, "ok") + hosts::outcome(&host, "deadline");
                }
            }
        }
        cut.push(hosts::outcome(&host, "deadline") as f64);
    }
    run.show([Figure::new(name, "", cut)]);
    Ok(())
}

/// Turns of the loop in `guest-trial` that take as long: the quickest of some tries, which nothing interrupted.
pub(crate) fn turns_within(time: Duration) -> Fallible<u64> {
    const TURNS: u64 = 100_000;
    let document = json!({ "config": { "mark": "1", "turns": TURNS }, "limits": { "cpu_share": 1.0 } });
    let host = hosts::with_policy(1, "guest-trial", &document)?;
    let mut policies = host.worker(0);
    let message = hosts::message(&[]);
    let mut quickest = Duration::MAX;
    for _ in 0..50 {
        policies.bound(message.to);
        let started = Instant::now();
        black_box(policies.route(&message));
        quickest = quickest.min(started.elapsed());
    }
    let turns = TURNS as f64 * time.as_secs_f64() / quickest.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of turns")]
    Ok(turns as u64)
}
