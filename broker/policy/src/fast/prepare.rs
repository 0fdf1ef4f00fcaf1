//! From a component that may serve to one that is ready for the fast lane: compiled modules, every import of
//! theirs resolved, and adapters for what it imports of the broker.

use super::adapter;
use super::broker;
use super::plan::{Encoding, Hook, Item, Plan, Unsuited};
use super::types::Function;
use super::world;
use crate::bindings::HOST;
use crate::state::State;
use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Engine, ExternType, Linker, Module, Result, format_err};

/// The trusted modules, compiled once per broker, and the functions they import.
pub(crate) struct Adapters {
    pub(crate) broker: Linker<State>,
    /// In the order of [`world::HOT`], for a guest that leaves results as they are and for one that frees them.
    hooks: Vec<[Module; 2]>,
}

/// A component ready to be started on the fast lane.
pub(crate) struct Prepared {
    pub(crate) adapters: Arc<Adapters>,
    /// Those of its imports alone: what an instance has of them costs it time and memory. One for imports whose results the guest has
    /// to make room for, and one for the others, which a guest may have before it has an allocator.
    pub(crate) imports: [Option<Module>; 2],
    pub(crate) steps: Vec<Start>,
    pub(crate) memory: Item,
    pub(crate) realloc: Option<Item>,
    /// The adapter of imports needs the guest's allocator.
    pub(crate) imports_allocate: bool,
    pub(crate) encoding: Encoding,
    /// Those of [`world::exports`] that the component has.
    pub(crate) hooks: Vec<Hook>,
}

/// A module with what its imports are, in their order.
pub(crate) struct Start {
    pub(crate) module: Module,
    pub(crate) imports: Vec<Item>,
}

impl Adapters {
    pub(crate) fn new(engine: &Engine) -> Result<Self> {
        let module = |function: &Function, frees_result| {
            let bytes = adapter::hook(function, frees_result);
            let bytes = bytes.ok_or_else(|| format_err!("`{}` has no adapter", function.name))?;
            Module::from_binary(engine, &bytes)
        };
        let both = |function: &&Function| Ok([module(function, false)?, module(function, true)?]);
        Ok(Self {
            broker: broker::functions(engine)?,
            hooks: world::HOT.iter().map(both).collect::<Result<_>>()?,
        })
    }

    /// The adapter of one hook of a component.
    pub(crate) fn of(&self, hook: &Hook) -> Option<&Module> {
        let index = world::HOT.iter().position(|function| function.name == hook.name)?;
        let [leaves, frees] = self.hooks.get(index)?;
        Some(if hook.post_return.is_some() { frees } else { leaves })
    }
}

impl Prepared {
    /// `component` is what the component API made of `bytes`, so they are valid and of the contract's types.
    pub(crate) fn new(
        engine: &Engine,
        adapters: &Arc<Adapters>,
        component: &Component,
        bytes: &[u8],
    ) -> Result<Self, Unsuited> {
        let plan = Plan::read(bytes)?;
        check_descriptions(engine, component)?;
        let modules = plan.modules.iter().map(|range| {
            let module = bytes.get(range.clone()).unwrap_or_default();
            Module::from_binary(engine, module).map_err(|error| Unsuited::Start(format!("{error:#}")))
        });
        let modules: Vec<Module> = modules.collect::<Result<_, _>>()?;
        let steps = plan.steps.iter().map(|step| {
            let module = modules.get(step.module).cloned();
            let module = module.ok_or_else(|| Unsuited::Unread("a module is missing".to_owned()))?;
            let imports = module.imports().map(|import| {
                let item = step.import(import.module(), import.name());
                item.ok_or_else(|| Unsuited::Unread(format!("nothing to import as {}", import.name())))
            });
            Ok(Start { imports: imports.collect::<Result<_, Unsuited>>()?, module })
        });
        let mut prepared = Self {
            adapters: Arc::clone(adapters),
            imports: [None, None],
            steps: steps.collect::<Result<_, Unsuited>>()?,
            memory: plan.memory,
            realloc: plan.realloc,
            imports_allocate: plan.imports_allocate,
            encoding: plan.encoding,
            hooks: plan.hooks,
        };
        prepared.check_memory()?;
        prepared.check_order()?;
        prepared.imports = [prepared.adapter(engine, true)?, prepared.adapter(engine, false)?];
        Ok(prepared)
    }

    /// The adapter of those imports whose results have blocks, or of the others; nothing where there are none.
    fn adapter(&self, engine: &Engine, has_blocks: bool) -> Result<Option<Module>, Unsuited> {
        let hooks = self.hooks.iter().flat_map(|hook| iter::once(&hook.function).chain(&hook.post_return));
        let items = self.steps.iter().flat_map(|step| &step.imports).chain(hooks);
        let used: BTreeSet<&str> = items
            .filter_map(|item| match item {
                Item::Broker { name } => Some(*name),
                Item::Export { .. } => None,
            })
            .collect();
        let is_asked =
            |function: &&Function| function.result_has_blocks() == has_blocks && used.contains(function.name);
        let functions: Vec<&Function> = world::IMPORTS.into_iter().filter(is_asked).collect();
        if functions.is_empty() {
            return Ok(None);
        }
        let module = Module::from_binary(engine, &adapter::imports(&functions));
        module.map(Some).map_err(|error| Unsuited::Start(format!("{error:#}")))
    }

    /// A function that the component exports.
    pub(crate) fn hook(&self, function: &Function) -> Result<&Hook> {
        let hook = self.hooks.iter().find(|hook| hook.name == function.name);
        hook.ok_or_else(|| format_err!("the component has no `{}`", function.name))
    }

    fn check_memory(&self) -> Result<(), Unsuited> {
        let found = match &self.memory {
            Item::Export { instance, name } => {
                self.steps.get(*instance).and_then(|step| step.module.get_export(name))
            }
            Item::Broker { .. } => None,
        };
        match found {
            Some(ExternType::Memory(memory)) if !memory.is_64() && !memory.is_shared() => Ok(()),
            _ => Err(Unsuited::Contains("a memory with 64-bit addresses, or one that is shared".to_owned())),
        }
    }

    /// The guest's allocator has to be there before the adapter of imports that needs it.
    fn check_order(&self) -> Result<(), Unsuited> {
        let allocates = |item: &Item| match item {
            Item::Broker { name } => world::has_blocks(name),
            Item::Export { .. } => false,
        };
        let first = self.steps.iter().position(|step| step.imports.iter().any(allocates));
        match (&self.realloc, first) {
            (Some(Item::Export { instance, .. }), Some(first))
                if self.imports_allocate && *instance >= first =>
            {
                Err(Unsuited::EarlyImports)
            }
            (Some(Item::Broker { .. }), _) => Err(Unsuited::EarlyImports),
            _ => Ok(()),
        }
    }
}

/// The descriptions in [`world`] against what the component was type-checked with.
fn check_descriptions(engine: &Engine, component: &Component) -> Result<(), Unsuited> {
    let ty = component.component_type();
    let differs = |function: &Function| {
        Unsuited::Unread(format!("`{}` is not what the fast lane takes it for", function.name))
    };
    let describes = |function: &Function, item: Option<ComponentItem>| match item {
        Some(ComponentItem::ComponentFunc(theirs)) => function.describes(&theirs),
        _ => false,
    };
    for hook in world::exports() {
        let export = ty.get_export(engine, hook.name).map(|export| export.ty);
        if export.is_some() && !describes(hook, export) {
            return Err(differs(hook));
        }
    }
    let Some(ComponentItem::ComponentInstance(host)) = ty.get_import(engine, HOST).map(|import| import.ty)
    else {
        return Ok(());
    };
    for import in world::IMPORTS {
        let used = host.get_export(engine, import.name).map(|export| export.ty);
        if used.is_some() && !describes(import, used) {
            return Err(differs(import));
        }
    }
    Ok(())
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapters").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_what_a_component_imports_and_nothing_else() {
        let engine = Engine::default();
        let module = Module::new(&engine, wat::parse_str("(module)").unwrap()).unwrap();
        let of = |name| Item::Broker { name };
        let own = || Item::Export { instance: 0, name: "own".into() };
        let offered = |used: [&[&'static str]; 2]| {
            let [imports, hooks] = used;
            let prepared = Prepared {
                adapters: Arc::new(Adapters::new(&engine).unwrap()),
                imports: [None, None],
                steps: vec![Start {
                    module: module.clone(),
                    imports: imports.iter().copied().map(of).chain([own()]).collect(),
                }],
                memory: own(),
                realloc: None,
                imports_allocate: false,
                encoding: Encoding::Utf8,
                hooks: hooks
                    .iter()
                    .map(|&name| Hook { name: "self-test", function: own(), post_return: Some(of(name)) })
                    .collect(),
            };
            [true, false].map(|has_blocks| {
                let adapter = prepared.adapter(&engine, has_blocks).unwrap();
                adapter.map(|adapter| {
                    adapter.exports().map(|export| export.name().to_owned()).collect::<Vec<_>>()
                })
            })
        };
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(offered([&[], &[]]), [None, None]);
        assert_eq!(offered([&["log", "log"], &[]]), [None, names(&["log"])]);
        assert_eq!(offered([&["payload"], &["log"]]), [names(&["payload"]), names(&["log"])]);
        let all = world::IMPORTS.map(|import| import.name);
        let made: usize = offered([&all, &[]]).into_iter().flatten().map(|names| names.len()).sum();
        assert_eq!(made, all.len(), "each can be made");
    }
}
