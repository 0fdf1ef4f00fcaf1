//! The broker's functions that adapters call: the imports of the world, and the writing and reading of values.
//!
//! The imports keep the bounds of the component API's lane and do the same things in the same order. Each runs
//! behind the adapter's check that the guest may call the broker now.

use super::adapter::{self, BROKER, FILL, FIRST, NO_BLOCK, PLACE, REFUSE};
use super::lift::{self, Reader};
use super::outbox::{List, Outbox, SharedBytes};
use super::plan::Encoding;
use super::world;
use crate::state::State;
use crate::verdict::{self, Answer, BadVerdict, Routed};
use std::sync::Arc;
use wasmtime::{Caller, Engine, Linker, Memory, Result, Trap, bail};

/// What a call keeps in the store of its instance.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The guest's memory, from the moment it exists.
    pub(crate) memory: Option<Memory>,
    pub(crate) outbox: Outbox,
    pub(crate) verdict: Option<Result<Routed, BadVerdict>>,
}

/// Stands in for the allocator of a guest that has none; nothing that needs one is called then.
pub(crate) const NO_REALLOC: &str = "no realloc";

/// All functions under the names by which adapters import them.
pub(crate) fn functions(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(BROKER, REFUSE, || -> Result<()> { Err(Trap::CannotLeaveComponent.into()) })?;
    linker.func_wrap(BROKER, NO_REALLOC, |_: u32, _: u32, _: u32, _: u32| -> Result<u32> {
        bail!("the guest has no realloc function")
    })?;
    writing(&mut linker)?;
    effects(&mut linker)?;
    pulls(&mut linker)?;
    linker.func_wrap(
        BROKER,
        &adapter::lifted(world::ROUTE.name),
        |mut caller: Caller<'_, State>, pointer: u32| {
            let (memory, state) = memory_and_state(&mut caller)?;
            let answer: Answer<'_> = state.reader(memory).result(pointer)?;
            state.lane.verdict = Some(verdict::check(answer));
            Ok(())
        },
    )?;
    Ok(linker)
}

/// Writing what is in the outbox.
fn writing(linker: &mut Linker<State>) -> Result<()> {
    #[rustfmt::skip]
    linker.func_wrap(BROKER, FILL, |mut caller: Caller<'_, State>,
        a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.fill(memory, &[a, b, c, d, e, f, g, h])
    })?;
    linker.func_wrap(BROKER, FIRST, |caller: Caller<'_, State>| next(&caller.data().lane.outbox))?;
    linker.func_wrap(BROKER, PLACE, |mut caller: Caller<'_, State>, pointer: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.place(memory, pointer)?;
        Ok(next(&state.lane.outbox))
    })?;
    Ok(())
}

/// `log` and `counter`.
fn effects(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(BROKER, "log", |mut caller: Caller<'_, State>, level: u32, text: u32, len: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        let level = lift::level(level)?;
        let text = state.reader(memory).text(text, len)?;
        if state.may_log() {
            state.write_line(level, &text.decode()?);
        }
        Ok(())
    })?;
    linker.func_wrap(
        BROKER,
        "counter",
        |mut caller: Caller<'_, State>, name: u32, len: u32, delta: u64| {
            let (memory, state) = memory_and_state(&mut caller)?;
            let name = state.reader(memory).text(name, len)?;
            if state.spend_hostcall() {
                state.count(&name.decode()?, delta);
            }
            Ok(())
        },
    )?;
    Ok(())
}

/// `header`, `headers` and `payload`: the root of each result goes to the place the guest names.
fn pulls(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        BROKER,
        "header",
        |mut caller: Caller<'_, State>, name: u32, len: u32, result: u32| -> Result<i64> {
            let (memory, state) = memory_and_state(&mut caller)?;
            let name = state.reader(memory).text(name, len)?;
            let name = if state.spend_hostcall() { Some(name.decode()?) } else { None };
            let found = name.and_then(|name| state.headers.iter().find(|(known, _)| **known == *name));
            let value = found.map(|(_, value)| value.as_str());
            state.lane.outbox.result(&value, memory, result)?;
            Ok(next(&state.lane.outbox))
        },
    )?;
    linker.func_wrap(BROKER, "headers", |mut caller: Caller<'_, State>, result: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut caller)?;
        let shown = if state.spend_hostcall() { state.headers.as_slice() } else { &[] };
        let headers = shown.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        state.lane.outbox.result(&List(headers), memory, result)?;
        Ok(next(&state.lane.outbox))
    })?;
    linker.func_wrap(BROKER, "payload", |mut caller: Caller<'_, State>, result: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut caller)?;
        let shown = state.spend_hostcall().then(|| Arc::clone(&state.payload));
        let payload = SharedBytes(shown.unwrap_or_default());
        state.lane.outbox.result(&payload, memory, result)?;
        Ok(next(&state.lane.outbox))
    })?;
    Ok(())
}

impl State {
    /// Reads from the guest's memory; one reader is one budget.
    pub(crate) const fn reader<'a>(&self, memory: &'a [u8]) -> Reader<'a> {
        Reader::new(memory, self.lane.outbox.encoding())
    }
}

impl Lane {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self { outbox: Outbox::new(encoding), ..Self::default() }
    }
}

#[inline]
fn memory_and_state<'a>(caller: &'a mut Caller<'_, State>) -> Result<(&'a mut [u8], &'a mut State)> {
    match caller.data().lane.memory {
        Some(memory) => Ok(memory.data_and_store_mut(caller)),
        None => bail!("the guest has no memory yet"),
    }
}

/// The next block that the guest has to make room for, as adapters take it.
fn next(outbox: &Outbox) -> i64 {
    match outbox.next() {
        Some((align, len)) => i64::from(align) << 32 | i64::from(len),
        None => NO_BLOCK,
    }
}
