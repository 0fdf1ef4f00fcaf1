//! Nanoseconds per question, by hook and lane, beside the bare call and the native decision in the same round.

use crate::bare::{Bare, Native};
use crate::questions::{self, Question, Subject};
use crate::{Fallible, Figure, Run, hosts, median};
use serde_json::json;
use std::hint::black_box;
use std::time::Instant;
use waspmq_core::policy::Routing as _;

pub(crate) const ROUNDS: usize = 9;
/// Samples of each column in a round, taken in turns; the round's value is their median.
const SAMPLES: usize = 31;
const CALLS: u32 = 500;

pub(crate) fn measure(run: &Run) -> Fallible<()> {
    for question in questions::all().iter().filter(|question| question.what.contains(&run.only)) {
        run.show(compare(question, run)?);
    }
    Ok(())
}

fn compare(question: &Question, run: &Run) -> Fallible<Vec<Figure>> {
    let [component, core] = ["component", "auto"].map(|lane| {
        let mut document = question.document.clone();
        if let Some(fields) = document.as_object_mut() {
            fields.insert("lane".to_owned(), json!(lane));
            // One policy has the whole worker here.
            fields.insert("limits".to_owned(), json!({ "cpu_share": 1.0 }));
        }
        hosts::with_policy(1, question.plugin, &document)
    });
    let hosts = [component?, core?];
    let [mut component, mut core] = hosts.each_ref().map(|host| host.worker(0));
    let subject = Subject::new()?;
    let mut bare = Bare::new()?;
    let mut native = question.native.map(Native);
    let mut columns = [const { Vec::new() }; 4];
    // One more round at the beginning, which warms everything up.
    for round in 0..=run.rounds {
        let mut samples = [const { Vec::new() }; 4];
        for _ in 0..SAMPLES {
            let taken = [
                if run.only_core { 0.0 } else { sample(|call| bare.call(call)) },
                if run.only_core { 0.0 } else { sample(|_| questions_of(native.as_mut(), &subject)) },
                if run.only_core { 0.0 } else { sample(|_| (question.ask)(&mut component, &subject)) },
                sample(|_| (question.ask)(&mut core, &subject)),
            ];
            samples.iter_mut().zip(taken).for_each(|(column, taken)| column.push(taken));
        }
        if round > 0 {
            columns.iter_mut().zip(samples).for_each(|(column, samples)| column.push(median(samples)));
        }
    }
    for host in &hosts {
        check(question, host)?;
    }
    let [bare, native, component, core] = columns;
    let figure = |column: &str, values| Figure::new(format!("{column}: {}", question.what), "ns", values);
    let mut figures = vec![figure("bare", bare), figure("component", component), figure("core", core)];
    if question.native.is_some() {
        figures.push(figure("native", native));
    }
    Ok(figures)
}

fn questions_of(native: Option<&mut Native>, subject: &Subject) {
    if let Some(native) = native {
        black_box(native.route(&black_box(subject.message())));
    }
}

/// A call that failed is not what was to be measured.
fn check(question: &Question, host: &waspmq_policy::Host) -> Fallible<()> {
    let failed: Vec<&str> = ["trap", "deadline", "memory", "bad_verdict", "unavailable", "breaker_open"]
        .into_iter()
        .filter(|outcome| hosts::outcome(host, outcome) > 0)
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{}: calls ended as {failed:?}", question.what).into())
    }
}

fn sample(mut ask: impl FnMut(u32)) -> f64 {
    let started = Instant::now();
    for call in 0..CALLS {
        ask(call);
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}
