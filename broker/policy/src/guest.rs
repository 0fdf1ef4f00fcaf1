//! What a component exports: which hooks it has, and its functions as typed ones.
//!
//! The life cycle is asked of every component, a hook with all of its functions or not at all. Types are checked
//! once, at upload; an instance looks its functions up by the places found then.

use crate::bindings::{self, ABI};
use crate::hook::Hook;
use crate::plugin::Unfit;
use crate::state::State;
use wasmtime::component::types::{self, ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, Instance, TypedFunc};
use wasmtime::{Engine, Store};

type Answer = (Result<(), String>,);
type Planned = (bindings::Message<'static>, bindings::AckPlan);
type Delivered = (bindings::Message<'static>, bindings::Audience);

/// Where the functions of a component are.
pub(crate) struct Exports {
    configure: ComponentExportIndex,
    self_test: ComponentExportIndex,
    routing: Option<[ComponentExportIndex; 2]>,
    ack: Option<[ComponentExportIndex; 2]>,
    admission: Option<[ComponentExportIndex; 1]>,
    overflow: Option<[ComponentExportIndex; 1]>,
    compression: Option<[ComponentExportIndex; 1]>,
}

/// The functions of one instance. Of each hook all are there or none.
pub(crate) struct Guest {
    pub(crate) configure: TypedFunc<(&'static str,), Answer>,
    pub(crate) self_test: TypedFunc<(), Answer>,
    pub(crate) members_changed: Option<TypedFunc<(bindings::QueueMembers<'static>,), ()>>,
    pub(crate) route: Option<TypedFunc<(bindings::Message<'static>,), (bindings::Verdict,)>>,
    pub(crate) plan: Option<TypedFunc<Planned, (Option<bindings::AckPlan>,)>>,
    pub(crate) failed: Option<TypedFunc<(bindings::Failure<'static>,), (bindings::Decision,)>>,
    pub(crate) admit: Option<TypedFunc<(bindings::Message<'static>,), (bindings::Admission,)>>,
    pub(crate) overflow: Option<TypedFunc<(bindings::Overflowing<'static>,), (bindings::Action,)>>,
    pub(crate) choose: Option<TypedFunc<Delivered, (bindings::Choice,)>>,
}

impl Exports {
    /// Checks the exports and finds them.
    pub(crate) fn of(engine: &Engine, component: &Component) -> Result<Self, Unfit> {
        let look = Look { engine, component, ty: component.component_type() };
        let [configure, self_test] = look.all("lifecycle", LIFECYCLE)?;
        let exports = Self {
            configure,
            self_test,
            routing: look.hook("routing", ROUTING)?,
            ack: look.hook("ack", ACK)?,
            admission: look.hook("admission", ADMISSION)?,
            overflow: look.hook("overflow", OVERFLOW)?,
            compression: look.hook("compression", COMPRESSION)?,
        };
        if exports.hooks().is_empty() {
            return Err(Unfit::NoHook { hint: look.hint("route") });
        }
        Ok(exports)
    }

    pub(crate) fn hooks(&self) -> Vec<Hook> {
        let has = |hook: &Hook| match hook {
            Hook::Routing => self.routing.is_some(),
            Hook::Ack => self.ack.is_some(),
            Hook::Admission => self.admission.is_some(),
            Hook::Overflow => self.overflow.is_some(),
            Hook::Compression => self.compression.is_some(),
        };
        Hook::ALL.into_iter().filter(has).collect()
    }

    /// The functions of an instance of the component.
    pub(crate) fn load(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Guest> {
        let [members_changed, route] = split(self.routing.as_ref());
        let [plan, failed] = split(self.ack.as_ref());
        let [admit] = split(self.admission.as_ref());
        let [overflow] = split(self.overflow.as_ref());
        let [choose] = split(self.compression.as_ref());
        Ok(Guest {
            configure: instance.get_typed_func(&mut *store, self.configure)?,
            self_test: instance.get_typed_func(&mut *store, self.self_test)?,
            members_changed: members_changed
                .map(|at| instance.get_typed_func(&mut *store, at))
                .transpose()?,
            route: route.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
            plan: plan.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
            failed: failed.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
            admit: admit.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
            overflow: overflow.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
            choose: choose.map(|at| instance.get_typed_func(&mut *store, at)).transpose()?,
        })
    }
}

fn split<const N: usize>(found: Option<&[ComponentExportIndex; N]>) -> [Option<&ComponentExportIndex>; N] {
    found.map_or([None; N], |found| found.each_ref().map(Some))
}

type Check = fn(&ComponentFunc, &types::Component) -> wasmtime::Result<()>;
type Asked<const N: usize> = [(&'static str, Check); N];

const LIFECYCLE: Asked<2> = [
    ("configure", |f, ty| f.typecheck::<(&str,), Answer>(&ty.instance_type())),
    ("self-test", |f, ty| f.typecheck::<(), Answer>(&ty.instance_type())),
];
const ROUTING: Asked<2> = [
    ("members-changed", |f, ty| f.typecheck::<(bindings::QueueMembers<'_>,), ()>(&ty.instance_type())),
    ("route", |f, ty| f.typecheck::<(bindings::Message<'_>,), (bindings::Verdict,)>(&ty.instance_type())),
];
const ACK: Asked<2> = [
    ("plan", |f, ty| {
        f.typecheck::<(bindings::Message<'_>, bindings::AckPlan), (Option<bindings::AckPlan>,)>(
            &ty.instance_type(),
        )
    }),
    ("failed", |f, ty| f.typecheck::<(bindings::Failure<'_>,), (bindings::Decision,)>(&ty.instance_type())),
];
const ADMISSION: Asked<1> =
    [("admit", |f, ty| f.typecheck::<(bindings::Message<'_>,), (bindings::Admission,)>(&ty.instance_type()))];
const OVERFLOW: Asked<1> = [("overflow", |f, ty| {
    f.typecheck::<(bindings::Overflowing<'_>,), (bindings::Action,)>(&ty.instance_type())
})];
const COMPRESSION: Asked<1> = [("choose", |f, ty| {
    f.typecheck::<(bindings::Message<'_>, bindings::Audience), (bindings::Choice,)>(&ty.instance_type())
})];

struct Look<'a> {
    engine: &'a Engine,
    component: &'a Component,
    ty: types::Component,
}

impl Look<'_> {
    /// All functions of a hook, or nothing when none of them is exported.
    fn hook<const N: usize>(
        &self,
        world: &'static str,
        asked: Asked<N>,
    ) -> Result<Option<[ComponentExportIndex; N]>, Unfit> {
        let is_there = |name: &str| self.ty.get_export(self.engine, name).is_some();
        if asked.iter().any(|(name, _)| is_there(name)) { self.all(world, asked).map(Some) } else { Ok(None) }
    }

    fn all<const N: usize>(
        &self,
        world: &'static str,
        asked: Asked<N>,
    ) -> Result<[ComponentExportIndex; N], Unfit> {
        let mut found = Vec::with_capacity(N);
        for (export, check) in asked {
            let ill_typed = |reason| Unfit::IllTypedExport { export, reason };
            match self.ty.get_export(self.engine, export).map(|export| export.ty) {
                Some(ComponentItem::ComponentFunc(function)) => {
                    check(&function, &self.ty).map_err(|error| ill_typed(format!("{error:#}")))?;
                }
                Some(_) => return Err(ill_typed("it is not a function".to_owned())),
                None => return Err(Unfit::MissingExport { export, world, hint: self.hint(export) }),
            }
            found.extend(self.component.get_export_index(None, export));
        }
        found.try_into().map_err(|_| Unfit::Invalid { reason: format!("exports of {ABI} cannot be found") })
    }

    /// Says so when the function is there, but inside of an exported interface.
    fn hint(&self, wanted: &str) -> &'static str {
        let inside = self.ty.exports(self.engine).any(|(_, export)| match export.ty {
            ComponentItem::ComponentInstance(instance) => instance.get_export(self.engine, wanted).is_some(),
            _ => false,
        });
        if inside { "; it is there inside of an interface, but has to be an export of the world" } else { "" }
    }
}
