//! Starts a component on the fast lane: its modules, the adapters, and the functions to call.

use super::adapter::{BROKER, CALL, GUEST, HOOK, LANE, MAY_LEAVE, MEMORY, POST_RETURN, REALLOC};
use super::broker::{Lane, NO_REALLOC};
use super::hooks::{Hooks, Hot, Stepwise};
use super::plan::Item;
use super::prepare::Prepared;
use super::types::Function;
use super::world;
use crate::hook::Hook;
use crate::state::State;
use wasmtime::error::Context as _;
use wasmtime::{
    Extern, Func, Global, GlobalType, Instance, Module, Mutability, Result, Store, TypedFunc, Val, ValType,
    WasmParams, WasmResults, format_err,
};

impl Hooks {
    /// Does what the component's instantiation does: its modules in order, with our functions for its imports. Then
    /// the functions of `hook` can be called, or those of the life cycle alone.
    pub(crate) fn start(store: &mut Store<State>, prepared: &Prepared, hook: Option<Hook>) -> Result<Self> {
        store.data_mut().lane = Lane::new(prepared.encoding);
        let may_leave = GlobalType::new(ValType::I32, Mutability::Var);
        let may_leave = Global::new(&mut *store, may_leave, Val::I32(1))?;
        let mut start = Starting { store, prepared, may_leave, instances: Vec::new(), imports: [None; 2] };
        for (index, step) in prepared.steps.iter().enumerate() {
            let imports = step.imports.iter().map(|item| start.item(item)).collect::<Result<Vec<_>>>()?;
            start.instances.push(Instance::new(&mut *start.store, &step.module, &imports)?);
            if matches!(prepared.memory, Item::Export { instance, .. } if instance == index) {
                let memory = start.item(&prepared.memory)?.into_memory();
                start.store.data_mut().lane.memory = memory;
            }
        }
        start.hooks(hook)
    }
}

/// A component being started.
struct Starting<'a> {
    store: &'a mut Store<State>,
    prepared: &'a Prepared,
    may_leave: Global,
    instances: Vec<Instance>,
    /// The adapters of imports, once a module needs them, as in [`Prepared::imports`].
    imports: [Option<Instance>; 2],
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
                let imports = self.imports(world::has_blocks(name))?;
                imports
                    .get_export(&mut *self.store, name)
                    .with_context(|| format!("there is no import {name}"))
            }
        }
    }

    fn imports(&mut self, has_blocks: bool) -> Result<Instance> {
        let prepared = self.prepared;
        let [of_blocks, of_others] = &prepared.imports;
        let module = if has_blocks { of_blocks } else { of_others };
        let module = module.as_ref().context("there is no adapter of imports")?;
        let [blocks, others] = self.imports;
        if let Some(known) = if has_blocks { blocks } else { others } {
            return Ok(known);
        }
        let started = self.adapter(module, None)?;
        self.imports = if has_blocks { [Some(started), others] } else { [blocks, Some(started)] };
        Ok(started)
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
            (GUEST, MEMORY, _) => self.item(&prepared.memory),
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

    fn hooks(mut self, hook: Option<Hook>) -> Result<Hooks> {
        let prepared = self.prepared;
        let hot = match hook {
            None => Hot::None,
            Some(Hook::Routing) => Hot::Routing {
                route: self.hot(&world::ROUTE)?,
                members_changed: self.stepwise(&world::MEMBERS_CHANGED)?,
            },
            Some(Hook::Ack) => Hot::Ack { plan: self.hot(&world::PLAN)?, failed: self.hot(&world::FAILED)? },
            Some(Hook::Admission) => Hot::Admission { admit: self.hot(&world::ADMIT)? },
            Some(Hook::Overflow) => Hot::Overflow { overflow: self.hot(&world::OVERFLOW)? },
            Some(Hook::Compression) => Hot::Compression { choose: self.hot(&world::CHOOSE)? },
        };
        let realloc = prepared.realloc.as_ref().map(|realloc| self.function(realloc)).transpose()?;
        Ok(Hooks {
            unit: prepared.encoding.unit(),
            configure: self.stepwise(&world::CONFIGURE)?,
            self_test: self.stepwise(&world::SELF_TEST)?,
            hot,
            realloc: realloc.map(|realloc| realloc.typed(&*self.store)).transpose()?,
            may_leave: self.may_leave,
            is_broken: false,
        })
    }

    /// A function through its adapter.
    fn hot<P: WasmParams, R: WasmResults>(&mut self, function: &Function) -> Result<TypedFunc<P, R>> {
        let prepared = self.prepared;
        let hook = prepared.hook(function)?;
        let module = prepared.adapters.of(hook).context("there is no adapter")?;
        let adapter = self.adapter(module, Some((&hook.function, hook.post_return.as_ref())))?;
        adapter.get_typed_func(&mut *self.store, CALL)
    }

    fn function(&mut self, item: &Item) -> Result<Func> {
        self.item(item)?.into_func().context("an export is not a function")
    }

    fn stepwise<P: WasmParams, R: WasmResults>(&mut self, function: &Function) -> Result<Stepwise<P, R>> {
        let hook = self.prepared.hook(function)?;
        let post_return = hook.post_return.as_ref().map(|item| self.function(item)).transpose()?;
        Ok(Stepwise { function: self.function(&hook.function)?.typed(&*self.store)?, post_return })
    }
}
