//! The broker's functions that adapters call to write values and read results.
//!
//! Deliberately not here: what guests import (`imports.rs`).

use super::adapter::{self, BROKER, FILL, FILL_FEW, FIRST, NO_BLOCK, PLACE, PLACE_FEW, REFUSE};
use super::imports;
use super::lift::Reader;
use super::outbox::Outbox;
use super::plan::Encoding;
use super::types::Function;
use super::world;
use crate::answers::BadAnswer;
use crate::bindings;
use crate::codecs;
use crate::state::State;
use crate::verdict::{self, Answer, BadVerdict, Routed};
use wasmtime::{Caller, Engine, Linker, Memory, Result, Trap, bail};

/// What a call keeps in the store of its instance.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The guest's memory, from the moment it exists.
    pub(crate) memory: Option<Memory>,
    pub(crate) outbox: Outbox,
    pub(crate) answer: Option<Answered>,
}

/// What a hook answered, read out of the guest's memory.
#[derive(Debug)]
pub(crate) enum Answered {
    Route(Result<Routed, Box<BadVerdict>>),
    Plan(Option<bindings::AckPlan>),
    Failed(bindings::Decision),
    Admit(bindings::Admission),
    Choose(Result<codecs::Choice, BadAnswer>),
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
    imports::offer(&mut linker)?;
    reading(&mut linker)?;
    Ok(linker)
}

/// Reading the result of each hook that has one in memory.
fn reading(linker: &mut Linker<State>) -> Result<()> {
    #[rustfmt::skip]
    linker.func_wrap(BROKER, &adapter::lifted(world::ROUTE.name), |mut caller: Caller<'_, State>, pointer: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        let answer: Answer<'_> = state.reader(memory).result(pointer)?;
        state.lane.answer = Some(Answered::Route(verdict::check(answer, &mut state.known).map_err(Box::new)));
        Ok(())
    })?;
    lifting(linker, &world::PLAN, |reader, pointer| reader.result(pointer).map(Answered::Plan))?;
    lifting(linker, &world::FAILED, |reader, pointer| reader.result(pointer).map(Answered::Failed))?;
    lifting(linker, &world::ADMIT, |reader, pointer| reader.result(pointer).map(Answered::Admit))?;
    #[rustfmt::skip]
    linker.func_wrap(BROKER, &adapter::lifted(world::CHOOSE.name), |mut caller: Caller<'_, State>, pointer: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        let answer: codecs::Answer<'_> = state.reader(memory).result(pointer)?;
        state.lane.answer = Some(Answered::Choose(codecs::check(answer, &mut state.known)));
        Ok(())
    })?;
    Ok(())
}

fn lifting(
    linker: &mut Linker<State>,
    hook: &Function,
    read: fn(&mut Reader<'_>, u32) -> Result<Answered>,
) -> Result<()> {
    linker.func_wrap(
        BROKER,
        &adapter::lifted(hook.name),
        move |mut caller: Caller<'_, State>, pointer: u32| -> Result<()> {
            let (memory, state) = memory_and_state(&mut caller)?;
            let answer = read(&mut state.reader(memory), pointer)?;
            state.lane.answer = Some(answer);
            Ok(())
        },
    )?;
    Ok(())
}

/// Writing what is in the outbox.
fn writing(linker: &mut Linker<State>) -> Result<()> {
    #[rustfmt::skip]
    linker.func_wrap(BROKER, FILL, |mut caller: Caller<'_, State>,
        a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.fill(memory, &[a, b, c, d, e, f, g, h])
    })?;
    linker.func_wrap(BROKER, FILL_FEW, |mut caller: Caller<'_, State>, a: u32, b: u32, c: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.fill(memory, &[a, b, c])
    })?;
    linker.func_wrap(BROKER, FIRST, |caller: Caller<'_, State>| next(&caller.data().lane.outbox))?;
    linker.func_wrap(BROKER, PLACE, |mut caller: Caller<'_, State>, pointer: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.place(memory, pointer)?;
        Ok(next(&state.lane.outbox))
    })?;
    #[rustfmt::skip]
    linker.func_wrap(BROKER, PLACE_FEW, |mut caller: Caller<'_, State>, root: u32, a: u32, b: u32, c: u32| {
        let (memory, state) = memory_and_state(&mut caller)?;
        state.lane.outbox.place_few(memory, root, &[a, b, c])
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
pub(crate) fn memory_and_state<'a>(
    caller: &'a mut Caller<'_, State>,
) -> Result<(&'a mut [u8], &'a mut State)> {
    match caller.data().lane.memory {
        Some(memory) => Ok(memory.data_and_store_mut(caller)),
        None => bail!("the guest has no memory yet"),
    }
}

/// The next block that the guest has to make room for, as adapters take it.
pub(crate) fn next(outbox: &Outbox) -> i64 {
    match outbox.next() {
        Some((align, len)) => i64::from(align) << 32 | i64::from(len),
        None => NO_BLOCK,
    }
}
