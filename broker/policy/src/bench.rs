//! What calls of a component cost, beside a bare call into WebAssembly in the same run.
//!
//! Everything is asked in turns, many times: the machine's moods fall on all alike, and the ratio to the bare call is what
//! stays the same from machine to machine. Deliberately not here: files, and what people are shown.

use crate::document::PolicyLimits;
use crate::hook::Hook;
use crate::limits;
use crate::plugin::Unfit;
use crate::side::{Ground, Side};
use crate::state::Pulls;
use crate::stats::now;
use crate::vectors::{Prepared, Vectors};
use serde::Serialize;
use serde_json::{Map, Value};
use std::hint::black_box;
use std::time::Duration;
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, Module, TypeSection, ValType,
};
use wasmtime::{Engine, Instance, Store, TypedFunc};

/// How long one sample takes, about, and the calls it has.
const SAMPLE: Duration = Duration::from_micros(100);
const SAMPLE_CALLS_MAX: u32 = 500;

/// Calls before anything is measured, and how long they take at most.
const WARM_UP_CALLS: u32 = 2_000;
const WARM_UP: Duration = Duration::from_millis(200);

/// Calls of each sample that are timed one by one.
const SINGLE_CALLS: u32 = 50;

/// Why nothing is measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Engine(String),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("there is nothing to ask: no vector without a configuration of its own that is answered")]
    Nothing,
    #[error("there are more than {} questions", limits::BENCH_QUESTIONS_MAX)]
    TooMany,
    #[error("{name:?}: {reason}")]
    Question { name: String, reason: String },
}

/// What one question was measured to cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    pub name: String,
    pub hook: Hook,
    /// The median of the samples' means.
    pub median_ns: f64,
    /// Of calls timed one by one, less what the clock takes.
    pub p99_ns: u64,
    /// The median as a multiple of a bare call's.
    pub of_bare: f64,
}

/// Questions that are asked over and over.
pub struct Bench {
    ground: Ground,
    side: Side,
    asked: Vec<Asked>,
    bare: Bare,
    bare_ns: Vec<f64>,
    clock_ns: Vec<u64>,
}

struct Asked {
    question: Prepared,
    calls: u32,
    means_ns: Vec<f64>,
    singles_ns: Vec<u64>,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("questions", &self.asked.len()).finish_non_exhaustive()
    }
}

impl Bench {
    /// Sets the component up with one configuration and warms it up with all questions.
    pub fn new(
        component: &[u8],
        vectors: &Vectors,
        config: &Map<String, Value>,
        memory_mb: u32,
    ) -> Result<Self, BenchError> {
        let mut ground = Ground::new().map_err(BenchError::Engine)?;
        let bare = Bare::new(&ground.engine).map_err(|error| BenchError::Engine(format!("{error:#}")))?;
        let limits =
            PolicyLimits { deadline_ms: limits::DEADLINE_MS_MAX, memory_mb, ..PolicyLimits::default() };
        let config = Value::Object(config.clone()).to_string();
        let mut side = Side::new(&ground, ("bench", component), config, limits)?;
        let questions = vectors
            .prepare(&side, &mut ground)
            .map_err(|error| BenchError::Question { name: error.0, reason: error.1 })?;
        match questions.len() {
            0 => return Err(BenchError::Nothing),
            count if count > limits::BENCH_QUESTIONS_MAX => return Err(BenchError::TooMany),
            _ => {}
        }
        for hook in Hook::ALL {
            let Some(first) = questions.iter().find(|question| question.hook() == hook) else { continue };
            side.open(&ground, hook).map_err(|error| BenchError::Question {
                name: first.name().to_owned(),
                reason: error.to_string(),
            })?;
            let pulls = side.compiled.pulls;
            side.give(hook, pulls);
        }
        let asked = |question| Asked { question, calls: 1, means_ns: Vec::new(), singles_ns: Vec::new() };
        let asked = questions.into_iter().map(asked).collect();
        let mut bench = Self { ground, side, asked, bare, bare_ns: Vec::new(), clock_ns: Vec::new() };
        bench.warm_up()?;
        Ok(bench)
    }

    /// Asks until caches are warm; finds how many calls make a sample.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        let Self { ground, side, asked, .. } = self;
        for asked in asked {
            let started = now();
            let mut calls = 0;
            while calls < WARM_UP_CALLS && started.elapsed() < WARM_UP {
                call(ground, side, &asked.question, 10)?;
                calls += 10;
            }
            let each = started.elapsed() / calls;
            let fit = SAMPLE.as_nanos() / each.as_nanos().max(1);
            asked.calls = u32::try_from(fit).unwrap_or(SAMPLE_CALLS_MAX).clamp(1, SAMPLE_CALLS_MAX);
        }
        Ok(())
    }

    /// One sample of everything.
    pub fn round(&mut self) -> Result<(), BenchError> {
        let Self { ground, side, asked, bare, bare_ns, clock_ns } = self;
        for asked in asked {
            let started = now();
            bare.call(SAMPLE_CALLS_MAX);
            bare_ns.push(per_call(started.elapsed(), SAMPLE_CALLS_MAX));
            let started = now();
            call(ground, side, &asked.question, asked.calls)?;
            asked.means_ns.push(per_call(started.elapsed(), asked.calls));
            for _ in 0..SINGLE_CALLS.min(asked.calls) {
                let (started, no_call) = (now(), now());
                call(ground, side, &asked.question, 1)?;
                let took = now().duration_since(no_call);
                clock_ns.push(nanoseconds(no_call.duration_since(started)));
                asked.singles_ns.push(nanoseconds(took));
            }
        }
        Ok(())
    }

    /// What a bare call costs.
    pub fn bare_ns(&self) -> f64 {
        median(&self.bare_ns)
    }

    /// What the rounds so far came to.
    pub fn measured(&self) -> Vec<Measured> {
        let (bare_ns, clock_ns) = (self.bare_ns(), quantile(&self.clock_ns, 50));
        let one = |asked: &Asked| {
            let median_ns = median(&asked.means_ns);
            Measured {
                name: asked.question.name().to_owned(),
                hook: asked.question.hook(),
                median_ns,
                p99_ns: quantile(&asked.singles_ns, 99).saturating_sub(clock_ns),
                of_bare: if bare_ns > 0.0 { median_ns / bare_ns } else { 0.0 },
            }
        };
        self.asked.iter().map(one).collect()
    }
}

/// Puts a question some times; an instance that served long enough is replaced behind them.
fn call(ground: &Ground, side: &mut Side, question: &Prepared, times: u32) -> Result<(), BenchError> {
    let failed = |reason: String| BenchError::Question { name: question.name().to_owned(), reason };
    let (hook, pulls) = (question.hook(), side.compiled.pulls);
    let Some(serving) = side.serving(hook) else { return Err(failed("there is no instance".to_owned())) };
    for _ in 0..times {
        question.put(serving, limits::DEADLINE_MS_MAX, ground.clock.unix_ms()).map_err(failed)?;
    }
    if serving.is_worn() {
        side.replace(ground, hook);
        side.give(hook, pulls);
    }
    Ok(())
}

/// The bare call: a core function takes the four scalars of a message and answers one. The deadline is set before each
/// call, as for policies; no text crosses, nothing is looked up, checked or counted.
struct Bare {
    store: Store<()>,
    function: TypedFunc<(u32, u32, u32, u64), u32>,
}

impl Bare {
    fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
        types.ty().function([ValType::I32, ValType::I32, ValType::I32, ValType::I64], [ValType::I32]);
        functions.function(0);
        let mut exports = ExportSection::new();
        exports.export("f", ExportKind::Func, 0);
        let mut body = Function::new([]);
        body.instructions().local_get(0).local_get(3).i32_wrap_i64().i32_xor().end();
        let mut code = CodeSection::new();
        code.function(&body);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&exports).section(&code);
        let module = wasmtime::Module::from_binary(engine, &module.finish())?;
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1);
        let function = Instance::new(&mut store, &module, &[])?.get_typed_func(&mut store, "f")?;
        Ok(Self { store, function })
    }

    fn call(&mut self, times: u32) {
        for number in 0..times {
            self.store.set_epoch_deadline(1);
            let called = self.function.call(&mut self.store, black_box((2, number, 4, 1_700_000_000_000)));
            black_box(called.unwrap_or_default());
        }
    }
}

fn per_call(took: Duration, calls: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(calls)
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn quantile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

/// The pulls of a component are all that there is to give.
impl Side {
    fn give(&mut self, hook: Hook, pulls: Pulls) {
        if let Some(crate::serving::Serving::Guest(instance)) = self.serving(hook) {
            instance.rehearse(0, pulls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_many() {
        assert_eq!((quantile(&[], 99), median(&[])), (0, 0.0));
        assert_eq!((quantile(&[7], 99), median(&[7.0])), (7, 7.0));
        let many: Vec<u64> = (0..1_000).rev().collect();
        assert_eq!((quantile(&many, 50), quantile(&many, 99)), (500, 990));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
