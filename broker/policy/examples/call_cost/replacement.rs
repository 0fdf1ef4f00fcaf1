//! What a failed instance costs: the message that meets it, and the policy thread that makes the next one.

use crate::{Fallible, Figure, Run, hosts};
use serde_json::json;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};
use waspmq_core::policy::{Policies as _, Routing as _};
use waspmq_policy::Host;

const WORKERS: usize = 64;
const ROUNDS: usize = 9;

/// How long the policy thread may take to have all spares ready again.
const READY_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    let mut on_path = Vec::new();
    let mut beside = Vec::new();
    for _ in 0..ROUNDS {
        let host = hosts::with_policy(WORKERS, "stamp-a", &json!({ "config": { "stamp": "x" } }))?;
        let before = policy_thread_ns()?;
        for worker in 0..WORKERS {
            let mut policies = host.worker(worker);
            let message = waspmq_core::policy::Message { payload: b"panic", ..hosts::message(&[]) };
            policies.bound(message.to);
            let started = Instant::now();
            black_box(policies.route(&message));
            on_path.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let replaced = all_replaced(&host)?;
        beside.push((policy_thread_ns()? - before) / replaced / 1e3);
    }
    run.show([
        Figure::new("a panic, until its message is served without it", "us", on_path),
        Figure::new("policy thread per instance freed and made", "us", beside),
    ]);
    Ok(())
}

fn all_replaced(host: &Host) -> Fallible<f64> {
    let started = Instant::now();
    loop {
        let replaced = host.policy(hosts::NAME).map_or(0, |state| state.instances.replaced);
        if replaced >= WORKERS as u64 {
            return Ok(replaced as f64);
        }
        if started.elapsed() > READY_WITHIN {
            return Err(format!("{replaced} of {WORKERS} instances were replaced").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// CPU time of the policy threads of this process.
fn policy_thread_ns() -> Fallible<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        let folder = thread?.path();
        if fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim_end() == "policy") {
            let times = fs::read_to_string(folder.join("schedstat"))?;
            sum += times.split(' ').next().unwrap_or("0").parse::<f64>()?;
        }
    }
    Ok(sum)
}
