//! The WIT package as text: worlds, the functions they export, those of the broker, and types.

use super::{bounds, head, row};
use std::fmt::Write;
use wit_parser::{
    Docs, Function, Interface, Resolve, Result_, Type, TypeDef, TypeDefKind, TypeId, World, WorldItem,
};

/// The package, read anew for each use.
pub(super) struct Contract {
    resolve: Resolve,
}

/// One name of the contract: what the headings call it, and what is said about it.
struct Item<'a> {
    path: String,
    docs: &'a Docs,
}

impl Contract {
    pub(super) fn read() -> Self {
        let mut resolve = Resolve::default();
        resolve.push_str("policy.wit", include_str!("../../../../../plugin-sdk/wit/policy.wit")).unwrap();
        Self { resolve }
    }

    pub(super) fn write(&self, page: &mut String) {
        let (_, package) = self.resolve.packages.iter().next().unwrap();
        writeln!(page, "## Worlds of `{}`\n", package.name).unwrap();
        page.push_str(
            "Exports are functions of the world itself, not of an interface. A component exports the life cycle, and of each \
             hook that it has all functions.\n\n",
        );
        for (_, world) in self.resolve.worlds.iter().filter(|(_, world)| !is_part(world)) {
            self.write_world(page, world);
        }
        for (_, world) in self.resolve.worlds.iter().filter(|(_, world)| is_part(world)) {
            writeln!(page, "## {}\n\n{}\n", part_title(&world.name), text(&world.docs)).unwrap();
            for function in exports(world) {
                self.write_function(page, &world.name, function);
            }
        }
        let host = self.interface("host");
        writeln!(page, "## What a policy may ask of the broker: `host`\n\n{}\n", text(&host.docs)).unwrap();
        for function in host.functions.values() {
            self.write_function(page, "host", function);
        }
        writeln!(page, "## Types\n\n{}\n", text(&self.interface("types").docs)).unwrap();
        for name in ["types", "host"] {
            for id in self.interface(name).types.values() {
                self.write_type(page, &self.resolve.types[*id]);
            }
        }
    }

    /// What has no words yet.
    pub(super) fn undocumented(&self) -> Vec<String> {
        let items = self.items();
        items.into_iter().filter(|item| item.docs.contents.is_none()).map(|item| item.path).collect()
    }

    /// What is said about `interface/function`, `world/export`, `type` or `type/part`.
    pub(super) fn documentation(&self, path: &str) -> String {
        let found = self.items().into_iter().find(|item| item.path == path);
        text(found.unwrap_or_else(|| panic!("the contract has no {path}")).docs)
    }

    fn interface(&self, name: &str) -> &Interface {
        let named = |interface: &&Interface| interface.name.as_deref() == Some(name);
        self.resolve.interfaces.iter().map(|(_, interface)| interface).find(named).unwrap()
    }

    fn items<'a>(&'a self) -> Vec<Item<'a>> {
        let mut items = Vec::new();
        for (_, world) in &self.resolve.worlds {
            items.push(Item { path: world.name.clone(), docs: &world.docs });
            let of = |function: &'a Function| Item {
                path: format!("{}/{}", world.name, function.name),
                docs: &function.docs,
            };
            items.extend(exports(world).map(of));
        }
        for interface in ["types", "host"] {
            let found = self.interface(interface);
            items.push(Item { path: interface.to_owned(), docs: &found.docs });
            let of = |function: &'a Function| Item {
                path: format!("{interface}/{}", function.name),
                docs: &function.docs,
            };
            items.extend(found.functions.values().map(of));
            for (name, id) in &found.types {
                let definition = &self.resolve.types[*id];
                items.push(Item { path: name.clone(), docs: &definition.docs });
                let of = |part: Part<'a>| Item { path: format!("{name}/{}", part.name), docs: part.docs };
                items.extend(parts(definition).into_iter().map(of));
            }
        }
        items
    }

    fn write_world(&self, page: &mut String, world: &World) {
        let names: Vec<_> = exports(world).map(|function| link(&function.name, &function.name)).collect();
        writeln!(page, "### World `{}`\n\n{}\n", world.name, text(&world.docs)).unwrap();
        writeln!(page, "Exports {}.\n", names.join(", ")).unwrap();
    }

    fn write_function(&self, page: &mut String, owner: &str, function: &Function) {
        let parameter = |(name, ty): (&str, Type)| format!("{name}: {}", self.type_text(ty));
        let parameters: Vec<_> =
            function.params.iter().map(|param| parameter((param.name.as_str(), param.ty))).collect();
        let result = function.result.map(|ty| format!(" -> {}", self.type_text(ty))).unwrap_or_default();
        writeln!(page, "### `{}`\n", function.name).unwrap();
        writeln!(page, "```wit\n{}: func({}){result}\n```\n", function.name, parameters.join(", ")).unwrap();
        writeln!(page, "{}\n", text(&function.docs)).unwrap();
        let types = function.params.iter().map(|param| param.ty).chain(function.result);
        let mut named = Vec::new();
        types.for_each(|ty| self.named_types(ty, &mut named));
        if !named.is_empty() {
            let links: Vec<_> = named.iter().map(|id| self.type_link(*id)).collect();
            writeln!(page, "Types: {}.\n", links.join(", ")).unwrap();
        }
        let path = format!("{owner}/{}", function.name);
        for line in bounds::of(&path) {
            writeln!(page, "- {line}").unwrap();
        }
        if !bounds::of(&path).is_empty() {
            page.push('\n');
        }
    }

    fn write_type(&self, page: &mut String, definition: &TypeDef) {
        writeln!(page, "### {}\n\n{}\n", title(&self.resolve, definition), text(&definition.docs)).unwrap();
        let of_parts = matches!(definition.kind, TypeDefKind::Record(_));
        page.push_str(&if of_parts { head(&["field", "type", "means"]) } else { head(&["case", "means"]) });
        for part in parts(definition) {
            let held = part.holds.map(|ty| self.type_text(ty)).unwrap_or_default();
            let docs = text(part.docs);
            let line = match (of_parts, held.is_empty()) {
                (true, _) => row(&[&format!("`{}`", part.name), &format!("`{held}`"), &docs]),
                (false, true) => row(&[&format!("`{}`", part.name), &docs]),
                (false, false) => row(&[&format!("`{}({held})`", part.name), &docs]),
            };
            page.push_str(&line);
        }
        page.push('\n');
    }

    /// A type as WIT writes it; a name that a world gave to one is that of the type.
    fn type_text(&self, ty: Type) -> String {
        let Type::Id(id) = ty else { return plain(ty).to_owned() };
        let definition = &self.resolve.types[self.original(id)];
        if let Some(name) = &definition.name {
            return name.clone();
        }
        match &definition.kind {
            TypeDefKind::List(of) => format!("list<{}>", self.type_text(*of)),
            TypeDefKind::Option(of) => format!("option<{}>", self.type_text(*of)),
            TypeDefKind::Tuple(of) => {
                let types: Vec<_> = of.types.iter().map(|ty| self.type_text(*ty)).collect();
                format!("tuple<{}>", types.join(", "))
            }
            TypeDefKind::Result(Result_ { ok, err }) => {
                let side = |side: &Option<Type>| side.map_or("_".to_owned(), |ty| self.type_text(ty));
                format!("result<{}, {}>", side(ok), side(err))
            }
            other => panic!("the page has no words for a {} in the contract yet", other.as_str()),
        }
    }

    /// Types with a heading of their own in this type, each once.
    fn named_types(&self, ty: Type, named: &mut Vec<TypeId>) {
        let Type::Id(id) = ty else { return };
        let id = self.original(id);
        let definition = &self.resolve.types[id];
        match (&definition.name, &definition.kind) {
            (Some(_), _) if named.contains(&id) => {}
            (Some(_), _) => named.push(id),
            (None, TypeDefKind::List(of) | TypeDefKind::Option(of)) => self.named_types(*of, named),
            (None, _) => {}
        }
    }

    fn type_link(&self, id: TypeId) -> String {
        let definition = &self.resolve.types[id];
        link(definition.name.as_deref().unwrap(), &title(&self.resolve, definition))
    }

    fn original(&self, mut id: TypeId) -> TypeId {
        while let TypeDefKind::Type(Type::Id(other)) = self.resolve.types[id].kind {
            id = other;
        }
        id
    }
}

/// A field or a case of a type.
struct Part<'a> {
    name: &'a str,
    docs: &'a Docs,
    holds: Option<Type>,
}

fn parts(definition: &TypeDef) -> Vec<Part<'_>> {
    match &definition.kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter();
            fields.map(|field| Part { name: &field.name, docs: &field.docs, holds: Some(field.ty) }).collect()
        }
        TypeDefKind::Variant(variant) => variant
            .cases
            .iter()
            .map(|case| Part { name: &case.name, docs: &case.docs, holds: case.ty })
            .collect(),
        TypeDefKind::Enum(cases) => {
            cases.cases.iter().map(|case| Part { name: &case.name, docs: &case.docs, holds: None }).collect()
        }
        TypeDefKind::Flags(flags) => {
            flags.flags.iter().map(|flag| Part { name: &flag.name, docs: &flag.docs, holds: None }).collect()
        }
        other => panic!("the page has no table for a {} in the contract yet", other.as_str()),
    }
}

/// The heading of a type. `host` has a `level` and so have plans.
fn title(resolve: &Resolve, definition: &TypeDef) -> String {
    let name = definition.name.as_deref().unwrap();
    let twice = resolve.interfaces.iter().filter(|(_, other)| other.types.contains_key(name)).count() > 1;
    let owner = match definition.owner {
        wit_parser::TypeOwner::Interface(id) if twice => resolve.interfaces[id].name.as_deref().unwrap(),
        _ => "",
    };
    let of = if owner == "host" { " of `host`" } else { "" };
    let mut kind = definition.kind.as_str().to_owned();
    kind.replace_range(..1, &kind[..1].to_uppercase());
    format!("{kind} `{name}`{of}")
}

/// A link to a heading of this page.
fn link(text: &str, heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    let anchor: String = kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect();
    format!("[`{text}`](#{anchor})")
}

fn exports(world: &World) -> impl Iterator<Item = &Function> {
    world.exports.values().filter_map(|item| match item {
        WorldItem::Function(function) => Some(function),
        _ => None,
    })
}

/// Whether a world is there to be included: the life cycle and the hooks.
fn is_part(world: &World) -> bool {
    world.name == "lifecycle" || world.name.ends_with("-hook")
}

fn part_title(world: &str) -> String {
    match world {
        "lifecycle" => "Life cycle: world `lifecycle`".to_owned(),
        hook => format!("Hook: world `{hook}`"),
    }
}

/// What is said, as one paragraph.
fn text(docs: &Docs) -> String {
    docs.contents.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(ty: Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S8 => "s8",
        Type::S16 => "s16",
        Type::S32 => "s32",
        Type::S64 => "s64",
        Type::F32 => "f32",
        Type::F64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext | Type::Id(_) => panic!("the contract has no such type"),
    }
}
