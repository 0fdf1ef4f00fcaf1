//! Reads a component's core level: which modules it instantiates with what, and which core functions its hooks
//! are. Says why when there is anything that the fast lane does not speak.
//!
//! The bytes have passed full validation and the type check of the contract, so indexes are in range; where one
//! is not after all, that is a reason as any other and never a panic.
//!
//! Invariant: it takes memory and time in proportion to the bytes. What a component may name again and again, an instance
//! or an item, is shared and never copied, and found by its name without a search.

use super::world;
use crate::bindings::HOST;
use crate::engine::CORE_INSTANCES_PER_COMPONENT;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExport, ComponentExternalKind,
    ComponentImport, ComponentTypeRef, ExternalKind, Instance, Parser, Payload,
};

/// Why a component is called through the component API instead; completes "because it ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsuited {
    #[error("contains {0}")]
    Contains(String),
    #[error("passes strings as {0}")]
    Encoding(&'static str),
    #[error("uses more than one {0} in its hooks and imports")]
    Mixed(&'static str),
    #[error("has more than {CORE_INSTANCES_PER_COMPONENT} core instances")]
    Instances,
    #[error("calls the broker before it has a realloc function")]
    EarlyImports,
    #[error("exports {0} in a way that is not a function of its own")]
    Hook(&'static str),
    #[error("cannot be read: {0}")]
    Unread(String),
    #[error("does not start on it: {0}")]
    Start(String),
}

/// How strings lie in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    #[default]
    Utf8,
    Utf16,
}

impl Encoding {
    /// Bytes of a code unit, which is also the alignment.
    pub(crate) const fn unit(self) -> u32 {
        match self {
            Self::Utf8 => 1,
            Self::Utf16 => 2,
        }
    }
}

/// A core item: an export of the n-th core instance, or a function of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Export { instance: usize, name: Arc<str> },
    Broker { name: &'static str },
}

/// One module made an instance of.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) module: usize,
    args: BTreeMap<String, Source>,
}

/// What a module's imports of one name are taken from.
#[derive(Debug, Clone)]
enum Source {
    Instance(usize),
    Bag(Arc<BTreeMap<String, Item>>),
}

/// The core function of a hook, and what frees its result.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) function: Item,
    pub(crate) post_return: Option<Item>,
}

/// All that has to be done to have an instance of the component.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) modules: Vec<Range<usize>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) memory: Item,
    pub(crate) realloc: Option<Item>,
    /// Imports return what the guest has to make room for.
    pub(crate) imports_allocate: bool,
    pub(crate) encoding: Encoding,
    /// Those of [`world::exports`] that the component has.
    pub(crate) hooks: Vec<Hook>,
}

impl Step {
    /// What the module is given for one of its imports.
    pub(crate) fn import(&self, module: &str, name: &str) -> Option<Item> {
        self.args.get(module)?.export(name)
    }
}

impl Source {
    fn export(&self, name: &str) -> Option<Item> {
        match self {
            Self::Instance(instance) => Some(Item::Export { instance: *instance, name: name.into() }),
            Self::Bag(items) => items.get(name).cloned(),
        }
    }
}

impl Plan {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unsuited> {
        Replay::of(bytes)?.finish()
    }
}

/// The index spaces of a component while its sections are read in order.
#[derive(Debug, Default)]
struct Replay {
    modules: Vec<Range<usize>>,
    steps: Vec<Step>,
    instances: Vec<Source>,
    functions: Vec<Item>,
    memories: Vec<Item>,
    tables: Vec<Item>,
    globals: Vec<Item>,
    interfaces: Vec<String>,
    component_functions: Vec<ComponentFunction>,
    hooks: Vec<(&'static str, ComponentFunction)>,
    memory: Option<Item>,
    realloc: Option<Item>,
    imports_allocate: bool,
    encoding: Option<Encoding>,
}

#[derive(Debug, Clone)]
enum ComponentFunction {
    Broker(&'static str),
    Lifted { function: Item, post_return: Option<Item> },
}

impl Replay {
    fn of(bytes: &[u8]) -> Result<Self, Unsuited> {
        let mut replay = Self::default();
        // Payloads of an embedded module are passed over.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(unread)?;
            match &payload {
                Payload::End(_) if depth > 0 => depth -= 1,
                Payload::ModuleSection { unchecked_range, .. } if depth == 0 => {
                    replay.modules.push(unchecked_range.clone());
                    depth += 1;
                }
                _ if depth > 0 => {}
                _ => replay.section(payload)?,
            }
        }
        Ok(replay)
    }

    fn section(&mut self, payload: Payload<'_>) -> Result<(), Unsuited> {
        match payload {
            Payload::InstanceSection(section) => {
                section.into_iter().try_for_each(|instance| self.instance(instance.map_err(unread)?))
            }
            Payload::ComponentAliasSection(section) => {
                section.into_iter().try_for_each(|alias| self.alias(&alias.map_err(unread)?))
            }
            Payload::ComponentImportSection(section) => {
                section.into_iter().try_for_each(|import| self.import(&import.map_err(unread)?))
            }
            Payload::ComponentCanonicalSection(section) => {
                section.into_iter().try_for_each(|function| self.canonical(function.map_err(unread)?))
            }
            Payload::ComponentExportSection(section) => {
                section.into_iter().try_for_each(|export| self.export(&export.map_err(unread)?))
            }
            Payload::Version { .. }
            | Payload::ComponentTypeSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::CustomSection(_)
            | Payload::End(_) => Ok(()),
            Payload::ComponentSection { .. } => Err(contains("a component inside of the component")),
            Payload::ComponentInstanceSection(_) => Err(contains("an instance of a component")),
            Payload::ComponentStartSection { .. } => Err(contains("a start function of the component")),
            other => Err(contains(&format!("a section that is not known: {other:?}"))),
        }
    }

    fn instance(&mut self, instance: Instance<'_>) -> Result<(), Unsuited> {
        let source = match instance {
            Instance::Instantiate { module_index, args } => {
                if self.steps.len() >= CORE_INSTANCES_PER_COMPONENT {
                    return Err(Unsuited::Instances);
                }
                let args = args
                    .iter()
                    .map(|arg| Ok((arg.name.to_owned(), at(&self.instances, arg.index).cloned()?)));
                let args = args.collect::<Result<_, Unsuited>>()?;
                self.steps.push(Step { module: index(module_index), args });
                Source::Instance(self.steps.len() - 1)
            }
            Instance::FromExports(exports) => {
                let item = |kind, index| match kind {
                    ExternalKind::Func => at(&self.functions, index),
                    ExternalKind::Memory => at(&self.memories, index),
                    ExternalKind::Table => at(&self.tables, index),
                    ExternalKind::Global => at(&self.globals, index),
                    _ => Err(contains("a core item that is not known")),
                };
                let items = exports
                    .iter()
                    .map(|export| Ok((export.name.to_owned(), item(export.kind, export.index)?.clone())));
                Source::Bag(Arc::new(items.collect::<Result<_, Unsuited>>()?))
            }
        };
        self.instances.push(source);
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), Unsuited> {
        match *alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
                let item = at(&self.instances, instance_index)?.export(name).ok_or_else(out_of_range)?;
                match kind {
                    ExternalKind::Func => self.functions.push(item),
                    ExternalKind::Memory => self.memories.push(item),
                    ExternalKind::Table => self.tables.push(item),
                    ExternalKind::Global => self.globals.push(item),
                    _ => return Err(contains("a core item that is not known")),
                }
                Ok(())
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Func, instance_index, name } => {
                let interface = at(&self.interfaces, instance_index)?;
                let known = world::IMPORTS.iter().find(|known| interface == HOST && known.name == name);
                let known = known.ok_or_else(|| contains(&format!("the import {interface}#{name}")))?;
                self.component_functions.push(ComponentFunction::Broker(known.name));
                Ok(())
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, .. } => Ok(()),
            ComponentAlias::InstanceExport { kind, .. } => {
                Err(contains(&format!("an alias of a {}", kind.desc())))
            }
            ComponentAlias::Outer { .. } => Err(contains("an alias of something outside of it")),
        }
    }

    fn import(&mut self, import: &ComponentImport<'_>) -> Result<(), Unsuited> {
        match import.ty {
            ComponentTypeRef::Instance(_) => self.interfaces.push(import.name.name.to_owned()),
            ComponentTypeRef::Type(_) => {}
            _ => return Err(contains(&format!("the import {}", import.name.name))),
        }
        Ok(())
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Result<(), Unsuited> {
        match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                // Every hook has a string in its type.
                let post_return = self.options(&options, true)?;
                let function = at(&self.functions, core_func_index)?.clone();
                self.component_functions.push(ComponentFunction::Lifted { function, post_return });
            }
            CanonicalFunction::Lower { func_index, options } => {
                let ComponentFunction::Broker(name) = *at(&self.component_functions, func_index)? else {
                    return Err(contains("a call of one of its own hooks"));
                };
                self.options(&options, world::passes_strings(name))?;
                self.imports_allocate |= options.iter().any(|o| matches!(o, CanonicalOption::Realloc(_)));
                self.functions.push(Item::Broker { name });
            }
            CanonicalFunction::ResourceNew { .. }
            | CanonicalFunction::ResourceDrop { .. }
            | CanonicalFunction::ResourceRep { .. } => return Err(contains("a resource")),
            _ => return Err(contains("an asynchronous or threaded built-in")),
        }
        Ok(())
    }

    /// Takes one function's options into what all functions have in common; returns its own one.
    fn options(
        &mut self,
        options: &[CanonicalOption],
        passes_strings: bool,
    ) -> Result<Option<Item>, Unsuited> {
        let (mut encoding, mut post_return) = (Encoding::Utf8, None);
        for option in options {
            match *option {
                CanonicalOption::UTF8 => encoding = Encoding::Utf8,
                CanonicalOption::UTF16 => encoding = Encoding::Utf16,
                CanonicalOption::CompactUTF16 => return Err(Unsuited::Encoding("latin1+utf16")),
                CanonicalOption::Memory(index) => {
                    one(&mut self.memory, at(&self.memories, index)?.clone(), "memory")?;
                }
                CanonicalOption::Realloc(index) => {
                    one(&mut self.realloc, at(&self.functions, index)?.clone(), "realloc function")?;
                }
                CanonicalOption::PostReturn(index) => post_return = Some(at(&self.functions, index)?.clone()),
                CanonicalOption::Async | CanonicalOption::Callback(_) => {
                    return Err(contains("an asynchronous function"));
                }
                CanonicalOption::CoreType(_) | CanonicalOption::Gc => {
                    return Err(contains("a function that passes garbage-collected values"));
                }
            }
        }
        // Where no string is passed, tools leave the encoding out, and the one that is the default then means nothing.
        if passes_strings {
            one(&mut self.encoding, encoding, "string encoding")?;
        }
        Ok(post_return)
    }

    fn export(&mut self, export: &ComponentExport<'_>) -> Result<(), Unsuited> {
        match export.kind {
            ComponentExternalKind::Func => {
                let function = at(&self.component_functions, export.index)?.clone();
                let name = export.name.name;
                if let Some(hook) = world::exports().find(|hook| hook.name == name) {
                    self.hooks.push((hook.name, function.clone()));
                }
                self.component_functions.push(function);
                Ok(())
            }
            ComponentExternalKind::Type => Ok(()),
            kind => Err(contains(&format!("an exported {}", kind.desc()))),
        }
    }

    fn finish(self) -> Result<Plan, Unsuited> {
        let hook = |(name, function): &(&'static str, ComponentFunction)| match function {
            ComponentFunction::Lifted { function: function @ Item::Export { .. }, post_return } => {
                Ok(Hook { name, function: function.clone(), post_return: post_return.clone() })
            }
            _ => Err(Unsuited::Hook(name)),
        };
        let hooks = self.hooks.iter().map(hook).collect::<Result<_, _>>()?;
        Ok(Plan {
            hooks,
            modules: self.modules,
            steps: self.steps,
            memory: self.memory.ok_or(Unsuited::Hook("memory"))?,
            realloc: self.realloc,
            imports_allocate: self.imports_allocate,
            encoding: self.encoding.unwrap_or_default(),
        })
    }
}

/// Keeps the one value that all functions have to agree on.
fn one<T: PartialEq>(kept: &mut Option<T>, value: T, what: &'static str) -> Result<(), Unsuited> {
    match kept {
        Some(kept) if *kept != value => Err(Unsuited::Mixed(what)),
        Some(_) => Ok(()),
        None => {
            *kept = Some(value);
            Ok(())
        }
    }
}

fn at<T>(space: &[T], place: u32) -> Result<&T, Unsuited> {
    space.get(index(place)).ok_or_else(out_of_range)
}

const fn index(place: u32) -> usize {
    place as usize
}

fn contains(what: &str) -> Unsuited {
    Unsuited::Contains(what.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn unread(error: wasmparser::BinaryReaderError) -> Unsuited {
    Unsuited::Unread(error.to_string())
}

fn out_of_range() -> Unsuited {
    Unsuited::Unread("an index is out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(text: &str) -> Result<Replay, Unsuited> {
        Replay::of(&wat::parse_str(text).unwrap())
    }

    /// Each name costs some bytes once, however often it is used.
    #[test]
    fn what_a_component_names_again_and_again_is_not_copied() {
        const TIMES: usize = 1_000;
        let name = "n".repeat(10_000);
        let each = |text: &dyn Fn(usize) -> String| (0..TIMES).map(text).collect::<String>();
        let exports = each(&|n| format!(r#"(export "{n}" (func $f))"#));
        let args = each(&|n| format!(r#"(with "{n}" (instance $bag))"#));
        let aliases = each(&|n| format!(r#"(alias core export $bag "{n}" (core func))"#));
        let replay = replay(&format!(
            r#"(component
                 (core module $m (func (export "{name}")))
                 (core instance $i (instantiate $m))
                 (alias core export $i "{name}" (core func $f))
                 (core instance $bag {exports})
                 (core instance (instantiate $m {args}))
                 {aliases})"#
        ));
        let replay = replay.unwrap();
        let [_, Source::Bag(bag), _] = replay.instances.as_slice() else { panic!("{:?}", replay.instances) };
        assert_eq!(Arc::strong_count(bag), 1 + TIMES);
        let [Item::Export { name: known, .. }, ..] = replay.functions.as_slice() else { panic!() };
        assert_eq!((&**known, replay.functions.len()), (&*name, 1 + TIMES));
        assert_eq!(Arc::strong_count(known), 1 + 2 * TIMES, "in the bag, and by what is taken out of it");
    }

    #[test]
    fn core_instances_are_counted_while_they_are_read() {
        let component = |count: usize, behind: &str| {
            let instances = "(core instance (instantiate $m))".repeat(count);
            replay(&format!("(component (core module $m) {instances} {behind})"))
        };
        let most = CORE_INSTANCES_PER_COMPONENT;
        assert_eq!(component(most, "").unwrap().steps.len(), most);
        // Nothing behind them is read.
        assert_eq!(component(most + 1, "(component)").unwrap_err(), Unsuited::Instances);
    }
}
