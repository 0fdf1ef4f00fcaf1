//! A policy that takes 0.9 ms a call, on a worker that serves other messages in turn with its own: how many of those
//! others the worker still serves, of what it serves without the policy.

use crate::{Fallible, Figure, Run, cuts, hosts};
use serde_json::json;
use std::hint::black_box;
use std::time::{Duration, Instant};
use waspmq_core::policy::{Message, Policies as _, Routing as _};
use waspmq_policy::WorkerPolicies;

const SLOW: Duration = Duration::from_micros(900);
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
/// Other messages for each one of the policy's; one takes about as long as a message takes a worker at full load.
const OTHERS: u32 = 10;

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    let document = json!({ "config": { "mark": "1", "turns": cuts::turns_within(SLOW)? } });
    let mut kept = Vec::new();
    for _ in 0..ROUNDS {
        let host = hosts::with_policy(1, "guest-trial", &document)?;
        let mut policies = host.worker(0);
        let without = others_served(&mut policies, "user/bob");
        let with = others_served(&mut policies, "topic/slow");
        if hosts::outcome(&host, "breaker_open") == 0 {
            return Err("the breaker never opened".into());
        }
        kept.push(with / without);
    }
    run.show([Figure::new("other messages beside a policy of 0.9 ms", "of 1", kept)]);
    Ok(())
}

/// Others served in a round, with one message to `to` after each few of them.
fn others_served(policies: &mut WorkerPolicies, to: &str) -> f64 {
    let (started, mut served) = (Instant::now(), 0.0);
    while started.elapsed() < ROUND {
        for _ in 0..OTHERS {
            serve(policies, "user/alice");
        }
        served += f64::from(OTHERS);
        serve(policies, to);
    }
    served
}

/// One message's pass: its policies, and about a microsecond for the rest of a publish.
fn serve(policies: &mut WorkerPolicies, to: &str) {
    let message = Message { to, ..hosts::message(&[]) };
    if policies.bound(message.to).routing {
        black_box(policies.route(&message));
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
}
