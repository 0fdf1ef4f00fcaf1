//! Makes a component of a bare module, by the WIT package and the world that the module is for.
//!
//! Languages whose names have no dashes export `self_test` for `self-test`: such exports get the names of the world first.

use crate::project::Strings;
use std::borrow::Cow;
use std::path::Path;
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId, WorldItem};

/// The first bytes of WebAssembly, and of a component.
const MAGIC: [u8; 4] = *b"\0asm";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// The section that says what a module is for, when its language's bindings put it there.
const METADATA: &str = "component-type";

/// What frees the result of a function begins with this.
const POST_RETURN: &str = "cabi_post_";

/// What a module is for.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The folder of the WIT package.
    pub wit: &'a Path,
    pub name: &'a str,
    pub strings: Strings,
}

/// Why a module does not become a component.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    #[error("it is not WebAssembly")]
    NotWasm,
    #[error("the WIT package does not serve: {0}")]
    Wit(String),
    #[error("{0}")]
    Module(String),
}

/// Whether these bytes are a component, as far as their beginning tells.
pub fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(&COMPONENT)
}

/// The component of a module.
pub fn wrap(module: &[u8], world: World<'_>) -> Result<Vec<u8>, WrapError> {
    if !module.starts_with(&MAGIC) {
        return Err(WrapError::NotWasm);
    }
    let failed = |error: anyhow::Error| WrapError::Module(format!("{error:#}"));
    let mut module = Cow::Borrowed(module);
    if !has_metadata(&module) {
        let wit = |error: anyhow::Error| WrapError::Wit(format!("{error:#}"));
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(world.wit).map_err(wit)?;
        let id = resolve.select_world(&[package], Some(world.name)).map_err(wit)?;
        let mut named = with_dashes(&module, &dashed(&resolve, id))?;
        let encoding = match world.strings {
            Strings::Utf8 => StringEncoding::UTF8,
            Strings::Utf16 => StringEncoding::UTF16,
        };
        embed_component_metadata(&mut named, &resolve, id, encoding).map_err(failed)?;
        module = named.into();
    }
    let encoder = ComponentEncoder::default().module(&module).map_err(failed)?;
    encoder.validate(true).encode().map_err(failed)
}

fn has_metadata(module: &[u8]) -> bool {
    let sections = Parser::new(0).parse_all(module).map_while(Result::ok);
    sections.into_iter().any(|section| match section {
        Payload::CustomSection(custom) => custom.name().starts_with(METADATA),
        _ => false,
    })
}

/// The functions of a world whose names have dashes.
fn dashed(resolve: &Resolve, world: WorldId) -> Vec<String> {
    let exports = resolve.worlds.get(world).map(|world| &world.exports);
    let names = exports.into_iter().flatten().filter_map(|(_, item)| match item {
        WorldItem::Function(function) => Some(function.name.clone()),
        _ => None,
    });
    names.filter(|name| name.contains('-')).collect()
}

/// The module with these exports named as they are, where it says an underscore for each dash.
fn with_dashes(module: &[u8], names: &[String]) -> Result<Vec<u8>, WrapError> {
    let failed = |error: wasmparser::BinaryReaderError| WrapError::Module(error.to_string());
    let mut renamed = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(failed)?;
        if let Payload::ExportSection(exports) = payload {
            let mut section = ExportSection::new();
            for export in exports {
                let export = export.map_err(failed)?;
                let kind = match export.kind {
                    ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                    ExternalKind::Table => ExportKind::Table,
                    ExternalKind::Memory => ExportKind::Memory,
                    ExternalKind::Global => ExportKind::Global,
                    ExternalKind::Tag => ExportKind::Tag,
                };
                section.export(&with_dash(export.name, names), kind, export.index);
            }
            renamed.section(&section);
        } else if let Some((id, range)) = payload.as_section() {
            let data = module.get(range).ok_or(WrapError::NotWasm)?;
            renamed.section(&RawSection { id, data });
        }
    }
    Ok(renamed.finish())
}

fn with_dash<'a>(name: &'a str, names: &[String]) -> Cow<'a, str> {
    let (prefix, function) =
        name.strip_prefix(POST_RETURN).map_or(("", name), |function| (POST_RETURN, function));
    match names.iter().find(|dashed| dashed.replace('-', "_") == function) {
        Some(dashed) => format!("{prefix}{dashed}").into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(name: &str) -> (std::path::PathBuf, String) {
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"), name.to_owned())
    }

    fn wrapped(text: &str, name: &str, strings: Strings) -> Result<Vec<u8>, WrapError> {
        let (wit, name) = world(name);
        wrap(&wat::parse_str(text).unwrap(), World { wit: &wit, name: &name, strings })
    }

    const OVERFLOW: &str = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 64))
        (func (export "self_test") (result i32) (i32.const 64))
        (func (export "cabi_post_self_test") (param i32))
        (func (export "overflow") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 3)))"#;

    #[test]
    fn a_module_becomes_a_component_whatever_it_calls_a_dash() {
        for strings in [Strings::Utf8, Strings::Utf16] {
            let component = wrapped(OVERFLOW, "overflow", strings).unwrap();
            assert!(is_component(&component) && !is_component(&wat::parse_str(OVERFLOW).unwrap()));
        }
        let dashed = OVERFLOW.replace("self_test", "self-test");
        wrapped(&dashed, "overflow", Strings::Utf8).unwrap();
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let check = |text: &str, name: &str, expected: &str| {
            let error = wrapped(text, name, Strings::Utf8).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(OVERFLOW, "routing", "`members-changed`");
        check(OVERFLOW, "rerouting", "rerouting");
        check(&OVERFLOW.replace("(result i32) (i32.const 3)", ""), "overflow", "overflow");
        let (_, name) = world("routing");
        let nowhere = World { wit: Path::new("no-such-folder"), name: &name, strings: Strings::Utf8 };
        assert!(matches!(wrap(&wat::parse_str(OVERFLOW).unwrap(), nowhere), Err(WrapError::Wit(_))));
        assert!(matches!(wrap(b"text", nowhere), Err(WrapError::NotWasm)));
    }
}
