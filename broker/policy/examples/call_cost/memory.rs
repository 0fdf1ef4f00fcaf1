//! Resident memory of instances of a policy written in Rust.

use crate::{Fallible, Figure, Run, hosts};
use serde_json::json;
use std::fs;
use std::hint::black_box;
use waspmq_core::policy::{Policies as _, Routing as _};
use waspmq_policy::HostOptions;

const WORKERS: usize = 64;
/// Policies put one after the other; the first one also pays for what all instances share.
const POLICIES: usize = 5;
/// Each worker has one that serves and a spare.
const INSTANCES: usize = WORKERS * 2;

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    let host = hosts::with_plugin(
        HostOptions { workers: WORKERS, policies_max: POLICIES, ..HostOptions::default() },
        "stamp-a",
    )?;
    let mut workers: Vec<_> = (0..WORKERS).map(|worker| host.worker(worker)).collect();
    let mut grown = Vec::new();
    let mut before = resident_kb()?;
    for number in 0..POLICIES {
        let document = hosts::document(&json!({ "config": { "stamp": "x" } }))?;
        host.put_policy(&format!("p{number}"), document, "bench")?;
        for policies in &mut workers {
            let message = hosts::message(&[]);
            policies.bound(message.to);
            black_box(policies.route(&message));
        }
        let now = resident_kb()?;
        if number > 0 {
            grown.push((now - before) / INSTANCES as f64);
        }
        before = now;
    }
    run.show([Figure::new("resident memory per instance, stamp", "kB", grown)]);
    Ok(())
}

fn resident_kb() -> Fallible<f64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
