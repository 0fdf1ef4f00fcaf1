//! The calls of a started component on the fast lane.
//!
//! What is asked about messages goes through adapters, one crossing into WebAssembly. The rest is rare and called step
//! by step: room for each block, the hook, the reading of its result, the freeing. All of them are functions of the
//! same core instances, so a guest has one state.

use super::answers;
use super::brief;
use super::broker::Answered;
use super::outbox::Lower;
use super::world;
use crate::answers::BadAnswer;
use crate::bindings;
use crate::codecs;
use crate::state::State;
use crate::verdict::{BadVerdict, Routed};
use std::borrow::Cow;
use wasmtime::error::Context as _;
use wasmtime::{Func, Global, Result, Store, Trap, TypedFunc, Val, bail};
use waspmq_core::compression::Audience;
use waspmq_core::policy::QueueMembers;

/// What one instance is called for. To be used with the store it was started in.
pub(crate) struct Hooks {
    pub(super) unit: u32,
    pub(super) configure: Stepwise<(u32, u32), u32>,
    pub(super) self_test: Stepwise<(), u32>,
    pub(super) hot: Hot,
    pub(super) realloc: Option<TypedFunc<(u32, u32, u32, u32), u32>>,
    pub(super) may_leave: Global,
    /// A call did not come to its end, so the guest is in the middle of something.
    pub(super) is_broken: bool,
}

/// The functions of the hook that an instance serves.
pub(super) enum Hot {
    None,
    Routing { route: TypedFunc<AboutMessage, i32>, members_changed: Stepwise<MembersChanged, ()> },
    Ack { plan: TypedFunc<AboutPlan, i32>, failed: TypedFunc<AboutFailure, i32> },
    Admission { admit: TypedFunc<AboutMessage, i32> },
    Overflow { overflow: TypedFunc<AboutQueue, u32> },
    Compression { choose: TypedFunc<AboutDelivery, i32> },
}

/// Unit of strings, lengths of sender and address, kind, length of the key, size, priority, time.
type AboutMessage = (u32, u32, u32, u32, u32, u32, u32, u64);

/// Unit of strings, lengths of sender, address and key; the rest lies in the record.
type AboutPlan = (u32, u32, u32, u32);

/// Unit of strings, lengths of address, sender and recipient, cause, attempt, messages, time waited, whether there
/// is a wait asked for and which, attempts, random number.
type AboutFailure = (u32, u32, u32, u32, u32, u32, u32, u64, u32, u32, u32, u64);

/// Unit of strings, lengths of address and recipient, kind, priority, size, bytes queued and their limit, action.
type AboutQueue = (u32, u32, u32, u32, u32, u32, u32, u32, u32);

/// As about a message; then the codecs as bits, and whether there is a dictionary.
type AboutDelivery = (u32, u32, u32, u32, u32, u32, u32, u64, u32, u32);

/// Pointer and length of pattern and queue, the version, pointer and count of the members.
type MembersChanged = (u32, u32, u32, u32, u64, u32, u32);

/// A hook that is called step by step, and what frees its result.
pub(super) struct Stepwise<P, R> {
    pub(super) function: TypedFunc<P, R>,
    pub(super) post_return: Option<Func>,
}

impl Hooks {
    pub(crate) fn route(
        &mut self,
        store: &mut Store<State>,
        message: &bindings::Message<'_>,
    ) -> Result<Result<Routed, Box<BadVerdict>>> {
        self.enter()?;
        let Hot::Routing { route, .. } = &self.hot else { return other_hook() };
        let told = about_message(store, self.unit, message)?;
        let answer = route.call(&mut *store, told)?;
        if let Some([case, cache]) = brief::split(answer) {
            let answer = answers::brief_route(case, cache)?;
            self.is_broken = false;
            return Ok(Ok(answer));
        }
        match self.answered(store) {
            Some(Answered::Route(answer)) => Ok(answer),
            _ => no_answer(),
        }
    }

    pub(crate) fn plan(
        &mut self,
        store: &mut Store<State>,
        message: &bindings::Message<'_>,
        configured: &bindings::AckPlan,
    ) -> Result<Option<bindings::AckPlan>> {
        self.enter()?;
        let Hot::Ack { plan, .. } = &self.hot else { return other_hook() };
        let outbox = &mut store.data_mut().lane.outbox;
        outbox.value(&(message, configured))?;
        let [sender, address, key] = outbox.units()?;
        if brief::split(plan.call(&mut *store, (self.unit, sender, address, key))?).is_some() {
            self.is_broken = false;
            return Ok(None);
        }
        match self.answered(store) {
            Some(Answered::Plan(answer)) => Ok(answer),
            _ => no_answer(),
        }
    }

    pub(crate) fn failed(
        &mut self,
        store: &mut Store<State>,
        failure: &bindings::Failure<'_>,
    ) -> Result<bindings::Decision> {
        self.enter()?;
        let Hot::Ack { failed, .. } = &self.hot else { return other_hook() };
        let outbox = &mut store.data_mut().lane.outbox;
        outbox.clear();
        let address = outbox.string(failure.address)?;
        let sender = outbox.string(failure.sender)?;
        let recipient = outbox.string(failure.recipient)?;
        let told = (
            self.unit,
            address,
            sender,
            recipient,
            failure.cause as u32,
            u32::from(failure.attempt),
            u32::from(failure.messages),
            failure.waited_ms,
            u32::from(failure.retry_ms.is_some()),
            failure.retry_ms.unwrap_or_default(),
            u32::from(failure.attempts),
            failure.random,
        );
        if brief::split(failed.call(&mut *store, told)?).is_some() {
            self.is_broken = false;
            return Ok(bindings::Decision::Continue);
        }
        match self.answered(store) {
            Some(Answered::Failed(answer)) => Ok(answer),
            _ => no_answer(),
        }
    }

    pub(crate) fn admit(
        &mut self,
        store: &mut Store<State>,
        message: &bindings::Message<'_>,
    ) -> Result<bindings::Admission> {
        self.enter()?;
        let Hot::Admission { admit } = &self.hot else { return other_hook() };
        let told = about_message(store, self.unit, message)?;
        if let Some([case, _]) = brief::split(admit.call(&mut *store, told)?) {
            let answer = answers::brief_admission(case)?;
            self.is_broken = false;
            return Ok(answer);
        }
        match self.answered(store) {
            Some(Answered::Admit(answer)) => Ok(answer),
            _ => no_answer(),
        }
    }

    pub(crate) fn overflow(
        &mut self,
        store: &mut Store<State>,
        what: &bindings::Overflowing<'_>,
    ) -> Result<bindings::Action> {
        self.enter()?;
        let Hot::Overflow { overflow } = &self.hot else { return other_hook() };
        let outbox = &mut store.data_mut().lane.outbox;
        outbox.clear();
        let address = outbox.string(what.address)?;
        let recipient = outbox.string(what.recipient)?;
        let told = (
            self.unit,
            address,
            recipient,
            what.kind as u32,
            u32::from(what.priority),
            what.size,
            what.queued_bytes,
            what.queued_bytes_max,
            what.configured as u32,
        );
        let action = answers::action(overflow.call(&mut *store, told)?)?;
        self.is_broken = false;
        Ok(action)
    }

    pub(crate) fn choose(
        &mut self,
        store: &mut Store<State>,
        message: &bindings::Message<'_>,
        audience: Audience,
    ) -> Result<Result<codecs::Choice, BadAnswer>> {
        self.enter()?;
        let Hot::Compression { choose } = &self.hot else { return other_hook() };
        let (unit, sender, address, kind, key, size, priority, ts) =
            about_message(store, self.unit, message)?;
        let (codecs, dictionary) = (audience.codecs.bits().into(), audience.has_dictionary.into());
        let told = (unit, sender, address, kind, key, size, priority, ts, codecs, dictionary);
        if let Some([case, cache]) = brief::split(choose.call(&mut *store, told)?) {
            let answer = answers::brief_choice(case, cache)?;
            self.is_broken = false;
            return Ok(Ok(answer));
        }
        match self.answered(store) {
            Some(Answered::Choose(answer)) => Ok(answer),
            _ => no_answer(),
        }
    }

    /// What the adapter had read in a call that came to its end.
    fn answered(&mut self, store: &mut Store<State>) -> Option<Answered> {
        self.is_broken = false;
        store.data_mut().lane.answer.take()
    }

    pub(crate) fn configure(&mut self, store: &mut Store<State>, config: &str) -> Result<Result<(), String>> {
        self.enter()?;
        self.lower(store, &config)?;
        let text = kept_pair(store, 0)?;
        let pointer = self.configure.function.call(&mut *store, text)?;
        self.answer(store, pointer, self.configure.post_return)
    }

    pub(crate) fn self_test(&mut self, store: &mut Store<State>) -> Result<Result<(), String>> {
        self.enter()?;
        let pointer = self.self_test.function.call(&mut *store, ())?;
        self.answer(store, pointer, self.self_test.post_return)
    }

    pub(crate) fn members_changed(&mut self, store: &mut Store<State>, members: &QueueMembers) -> Result<()> {
        self.enter()?;
        let Hot::Routing { members_changed, .. } = &self.hot else { return other_hook() };
        self.lower(store, &members)?;
        let pattern = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("pattern") })?;
        let queue = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("queue") })?;
        let names = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("members") })?;
        let told = (pattern.0, pattern.1, queue.0, queue.1, members.version, names.0, names.1);
        members_changed.function.call(&mut *store, told)?;
        self.free(store, members_changed.post_return, &[])?;
        self.is_broken = false;
        Ok(())
    }

    /// Refuses a guest that did not come to the end of an earlier call; until this one does, it is in one.
    #[inline]
    fn enter(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(Trap::CannotEnterComponent.into());
        }
        Ok(())
    }

    /// Writes all parts of a value into the guest's memory; its root stays in the outbox.
    fn lower<T: Lower>(&self, store: &mut Store<State>, value: &T) -> Result<()> {
        store.data_mut().lane.outbox.parts(value)?;
        while let Some((align, len)) = store.data().lane.outbox.next() {
            let realloc = self.realloc.as_ref().context("the guest has no realloc function")?;
            self.may_leave.set(&mut *store, Val::I32(0))?;
            let pointer = realloc.call(&mut *store, (0, 0, align, len))?;
            self.may_leave.set(&mut *store, Val::I32(1))?;
            let (memory, state) = memory_and_state(store)?;
            state.lane.outbox.place(memory, pointer)?;
        }
        Ok(())
    }

    /// Reads a `result<_, string>` and has it freed.
    fn answer(
        &mut self,
        store: &mut Store<State>,
        pointer: u32,
        post_return: Option<Func>,
    ) -> Result<Result<(), String>> {
        let (memory, state) = memory_and_state(store)?;
        let answer: Result<(), Cow<'_, str>> = state.reader(memory).result(pointer)?;
        let answer = answer.map_err(Cow::into_owned);
        self.free(store, post_return, &[Val::I32(pointer.cast_signed())])?;
        self.is_broken = false;
        Ok(answer)
    }

    fn free(&self, store: &mut Store<State>, post_return: Option<Func>, result: &[Val]) -> Result<()> {
        let Some(post_return) = post_return else { return Ok(()) };
        self.may_leave.set(&mut *store, Val::I32(0))?;
        post_return.call(&mut *store, result, &mut [])?;
        self.may_leave.set(&mut *store, Val::I32(1))
    }
}

/// Puts a message's strings into the outbox; the rest of it is passed to adapters as it is.
#[inline]
fn about_message(
    store: &mut Store<State>,
    unit: u32,
    message: &bindings::Message<'_>,
) -> Result<AboutMessage> {
    let outbox = &mut store.data_mut().lane.outbox;
    outbox.clear();
    let sender = outbox.string(message.sender)?;
    let address = outbox.string(message.address)?;
    let key = outbox.string(message.key)?;
    let (kind, priority) = (message.kind as u32, u32::from(message.priority));
    Ok((unit, sender, address, kind, key, message.size, priority, message.ts))
}

/// An instance is asked by policies of the hook it was started for and no others.
#[cold]
fn other_hook<T>() -> Result<T> {
    bail!("the instance was started for another hook")
}

#[cold]
fn no_answer<T>() -> Result<T> {
    bail!("the hook gave no answer")
}

fn memory_and_state(store: &mut Store<State>) -> Result<(&mut [u8], &mut State)> {
    match store.data().lane.memory {
        Some(memory) => Ok(memory.data_and_store_mut(store)),
        None => bail!("the guest has no memory"),
    }
}

/// Pointer and length of a part of the value that was lowered last.
fn kept_pair(store: &Store<State>, at: usize) -> Result<(u32, u32)> {
    let outbox = &store.data().lane.outbox;
    Ok((u32::from_le_bytes(outbox.kept(at)?), u32::from_le_bytes(outbox.kept(at + 4)?)))
}
