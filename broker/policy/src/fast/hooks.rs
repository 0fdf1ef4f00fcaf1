//! A started component on the fast lane, and the calls of its hooks.
//!
//! `route` goes through its adapter, one crossing into WebAssembly. The other hooks are rare and called step by
//! step: room for each block, the hook, the reading of its result, the freeing. All of them are functions of the
//! same core instances, so a guest has one state.

use super::adapter::{BROKER, CALL, GUEST, HOOK, LANE, MAY_LEAVE, POST_RETURN, REALLOC};
use super::broker::{Lane, NO_REALLOC};
use super::outbox::{List, Lower, Outbox};
use super::plan::Item;
use super::prepare::Prepared;
use super::types::Type;
use super::world;
use crate::bindings;
use crate::state::State;
use crate::verdict::{BadVerdict, Routed};
use std::borrow::Cow;
use wasmtime::error::Context as _;
use wasmtime::{
    Extern, Func, Global, GlobalType, Instance, Module, Mutability, Result, Store, Trap, TypedFunc, Val,
    ValType, WasmParams, bail, format_err,
};
use waspmq_core::policy::QueueMembers;

/// The hooks of one instance. To be used with the store it was started in.
pub(crate) struct Hooks {
    unit: u32,
    route: TypedFunc<Route, ()>,
    configure: Stepwise<(u32, u32), u32>,
    self_test: Stepwise<(), u32>,
    members_changed: Stepwise<MembersChanged, ()>,
    realloc: Option<TypedFunc<(u32, u32, u32, u32), u32>>,
    may_leave: Global,
    /// A call did not come to its end, so the guest is in the middle of something.
    is_broken: bool,
}

/// Unit of strings, lengths of sender and address, kind, length of the key, size, priority, time.
type Route = (u32, u32, u32, u32, u32, u32, u32, u64);

/// Pointer and length of pattern and queue, the version, pointer and count of the members.
type MembersChanged = (u32, u32, u32, u32, u64, u32, u32);

/// A hook that is called step by step, and what frees its result.
struct Stepwise<P, R> {
    function: TypedFunc<P, R>,
    post_return: Option<Func>,
}

impl Hooks {
    /// Does what the component's instantiation does: its modules in order, with our functions for its imports.
    pub(crate) fn start(store: &mut Store<State>, prepared: &Prepared) -> Result<Self> {
        store.data_mut().lane = Lane::new(prepared.encoding);
        let may_leave = GlobalType::new(ValType::I32, Mutability::Var);
        let may_leave = Global::new(&mut *store, may_leave, Val::I32(1))?;
        let mut start = Starting { store, prepared, may_leave, instances: Vec::new(), imports: None };
        for (index, step) in prepared.steps.iter().enumerate() {
            let imports = step.imports.iter().map(|item| start.item(item)).collect::<Result<Vec<_>>>()?;
            start.instances.push(Instance::new(&mut *start.store, &step.module, &imports)?);
            if matches!(prepared.memory, Item::Export { instance, .. } if instance == index) {
                let memory = start.item(&prepared.memory)?.into_memory();
                start.store.data_mut().lane.memory = memory;
            }
        }
        start.hooks()
    }

    pub(crate) fn route(
        &mut self,
        store: &mut Store<State>,
        message: &bindings::Message<'_>,
    ) -> Result<Result<Routed, BadVerdict>> {
        self.enter()?;
        let outbox = &mut store.data_mut().lane.outbox;
        outbox.clear();
        let sender = outbox.string(message.sender)?;
        let address = outbox.string(message.address)?;
        let key = outbox.string(message.key)?;
        let (kind, priority) = (message.kind as u32, u32::from(message.priority));
        let told = (self.unit, sender, address, kind, key, message.size, priority, message.ts);
        self.route.call(&mut *store, told)?;
        self.is_broken = false;
        store.data_mut().lane.verdict.take().ok_or_else(|| format_err!("`route` gave no verdict"))
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
        self.lower(store, &members)?;
        let pattern = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("pattern") })?;
        let queue = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("queue") })?;
        let names = kept_pair(store, const { world::QUEUE_MEMBERS.field_at("members") })?;
        let told = (pattern.0, pattern.1, queue.0, queue.1, members.version, names.0, names.1);
        self.members_changed.function.call(&mut *store, told)?;
        self.free(store, self.members_changed.post_return, &[])?;
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

/// A component being started.
struct Starting<'a> {
    store: &'a mut Store<State>,
    prepared: &'a Prepared,
    may_leave: Global,
    instances: Vec<Instance>,
    /// The adapter of imports, once a module needs it.
    imports: Option<Instance>,
}

impl Starting<'_> {
    fn item(&mut self, item: &Item) -> Result<Extern> {
        match item {
            Item::Export { instance, name } => {
                let instance = self.instances.get(*instance).copied();
                let export = instance.and_then(|instance| instance.get_export(&mut *self.store, name));
                export.with_context(|| format!("there is no export {name}"))
            }
            Item::Broker { name } => {
                let imports = match self.imports {
                    Some(imports) => imports,
                    None => self.imports()?,
                };
                imports
                    .get_export(&mut *self.store, name)
                    .with_context(|| format!("there is no import {name}"))
            }
        }
    }

    fn imports(&mut self) -> Result<Instance> {
        let prepared = self.prepared;
        let imports = self.adapter(&prepared.adapters.imports, None)?;
        self.imports = Some(imports);
        Ok(imports)
    }

    /// Starts an adapter; `hook` is the function behind it and what frees its result.
    fn adapter(&mut self, module: &Module, hook: Option<(&Item, Option<&Item>)>) -> Result<Instance> {
        let prepared = self.prepared;
        let imports = module.imports().map(|import| match (import.module(), import.name(), hook) {
            (LANE, MAY_LEAVE, _) => Ok(Extern::Global(self.may_leave)),
            (GUEST, REALLOC, _) => match &prepared.realloc {
                Some(realloc) if hook.is_some() || prepared.imports_allocate => self.item(realloc),
                _ => self.broker(NO_REALLOC),
            },
            (GUEST, HOOK, Some((hook, _))) => self.item(hook),
            (GUEST, POST_RETURN, Some((_, Some(post_return)))) => self.item(post_return),
            (BROKER, name, _) => self.broker(name),
            (_, name, _) => Err(format_err!("an adapter imports {name}")),
        });
        let imports = imports.collect::<Result<Vec<_>>>()?;
        Instance::new(&mut *self.store, module, &imports)
    }

    fn broker(&mut self, name: &str) -> Result<Extern> {
        let function = self.prepared.adapters.broker.get(&mut *self.store, BROKER, name);
        function.with_context(|| format!("the broker has no function {name}"))
    }

    fn hooks(mut self) -> Result<Hooks> {
        let prepared = self.prepared;
        let [route, configure, self_test, members_changed] = prepared.hooks.as_slice() else {
            bail!("the hooks of another world");
        };
        let post_return = route.post_return.as_ref();
        let [leaves, frees] = &prepared.adapters.route;
        let module = if post_return.is_some() { frees } else { leaves };
        let adapter = self.adapter(module, Some((&route.function, post_return)))?;
        let realloc = prepared.realloc.as_ref().map(|realloc| self.function(realloc)).transpose()?;
        Ok(Hooks {
            unit: prepared.encoding.unit(),
            route: adapter.get_typed_func(&mut *self.store, CALL)?,
            configure: self.stepwise(configure)?,
            self_test: self.stepwise(self_test)?,
            members_changed: self.stepwise(members_changed)?,
            realloc: realloc.map(|realloc| realloc.typed(&*self.store)).transpose()?,
            may_leave: self.may_leave,
            is_broken: false,
        })
    }

    fn function(&mut self, item: &Item) -> Result<Func> {
        self.item(item)?.into_func().context("an export is not a function")
    }

    fn stepwise<P: WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        hook: &super::plan::Hook,
    ) -> Result<Stepwise<P, R>> {
        let post_return = hook.post_return.as_ref().map(|item| self.function(item)).transpose()?;
        Ok(Stepwise { function: self.function(&hook.function)?.typed(&*self.store)?, post_return })
    }
}

impl Lower for &QueueMembers {
    const TYPE: Type = world::QUEUE_MEMBERS;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        let [pattern, queue, version, members] =
            ["pattern", "queue", "version", "members"].map(|field| at + Self::TYPE.field_at(field));
        self.pattern.as_str().lay_out(outbox, block, pattern)?;
        self.queue.as_str().lay_out(outbox, block, queue)?;
        self.version.lay_out(outbox, block, version)?;
        List(self.members.iter()).lay_out(outbox, block, members)
    }
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
