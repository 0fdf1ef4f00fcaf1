//! As many policies as there may be, on two workers, all put anew at once: each change is made or refused for want of
//! room, and whatever happened, every policy serves afterwards.

use crate::{Fallible, Figure, Run, hosts};
use serde_json::json;
use std::time::Instant;
use waspmq_core::policy::{Message, Outcome, Policies as _, Routing as _};
use waspmq_policy::limits::POLICIES_MAX;
use waspmq_policy::{Host, HostOptions, PutError, WorkerPolicies};

const WORKERS: usize = 2;
const CHANGERS: usize = 4;
const ROUNDS: usize = 3;

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    let host = hosts::with_plugin(
        HostOptions { workers: WORKERS, policies_max: POLICIES_MAX, ..HostOptions::default() },
        "stamp-a",
    )?;
    let mut workers: Vec<_> = (0..WORKERS).map(|worker| host.worker(worker)).collect();
    let first = put_all(&host, 0);
    if first.done() != POLICIES_MAX {
        return Err(
            format!("{} of {POLICIES_MAX} policies could be put: {:?}", first.done(), first.odd).into()
        );
    }
    let mut figures = [const { Vec::new() }; 3];
    for round in 1..=ROUNDS {
        // Workers are idle meanwhile, so what they had before is not given back, which is the worst there is.
        let started = Instant::now();
        let swapped = put_all(&host, round);
        let took_ms = started.elapsed().as_secs_f64() * 1e3 / POLICIES_MAX as f64;
        if let Some(odd) = swapped.odd.first() {
            return Err(format!("a swap ended otherwise than done or refused: {odd}").into());
        }
        let counts = [swapped.done() as f64, swapped.refused as f64, took_ms];
        figures.iter_mut().zip(counts).for_each(|(figure, count)| figure.push(count));
        workers.iter_mut().try_for_each(|policies| all_serve(policies, &swapped.stamps))?;
    }
    let [done, refused, took_ms] = figures;
    run.show([
        Figure::new("64 policies swapped at once: done", "", done),
        Figure::new("64 policies swapped at once: refused for want of room", "", refused),
        Figure::new("64 policies swapped at once: time of each", "ms", took_ms),
    ]);
    Ok(())
}

/// Every policy decides as it was put last.
fn all_serve(policies: &mut WorkerPolicies, stamps: &[(usize, String)]) -> Fallible<()> {
    for (number, stamp) in stamps {
        let to = address(*number);
        let message = Message { to: &to, ..hosts::message(&[]) };
        policies.bound(&to);
        let outcome = policies.route(&message);
        let Outcome::Decided(verdict) = &outcome else { return Err(format!("{to}: {outcome:?}").into()) };
        if verdict.set_headers.first().is_none_or(|(_, value)| value != stamp) {
            return Err(format!("{to} is stamped otherwise than by {stamp}: {outcome:?}").into());
        }
    }
    Ok(())
}

fn address(number: usize) -> String {
    format!("topic/{number}")
}

#[derive(Default)]
struct Swapped {
    /// What was put, by the number of its policy.
    stamps: Vec<(usize, String)>,
    refused: usize,
    odd: Vec<String>,
}

impl Swapped {
    fn done(&self) -> usize {
        self.stamps.len()
    }
}

/// Puts every policy from several threads.
fn put_all(host: &Host, round: usize) -> Swapped {
    let mut sum = Swapped::default();
    std::thread::scope(|scope| {
        let changers: Vec<_> =
            (0..CHANGERS).map(|changer| scope.spawn(move || put_some(host, round, changer))).collect();
        for changer in changers {
            let Ok(some) = changer.join() else {
                sum.odd.push("a thread panicked".to_owned());
                continue;
            };
            sum.stamps.extend(some.stamps);
            sum.refused += some.refused;
            sum.odd.extend(some.odd);
        }
    });
    sum
}

fn put_some(host: &Host, round: usize, changer: usize) -> Swapped {
    let mut sum = Swapped::default();
    for number in (changer..POLICIES_MAX).step_by(CHANGERS) {
        let stamp = format!("{round}-{number}");
        let more = json!({ "config": { "stamp": stamp }, "match": [address(number)] });
        let put = hosts::document(&more)
            .map_err(|error| error.to_string())
            .map(|document| host.put_policy(&format!("p{number}"), document, "bench"));
        match put {
            Ok(Ok(_)) => sum.stamps.push((number, stamp)),
            Ok(Err(PutError::NoCapacity { .. })) => sum.refused += 1,
            Ok(Err(error)) => sum.odd.push(error.to_string()),
            Err(error) => sum.odd.push(error),
        }
    }
    sum
}
