//! The templates, part of this program: `plugin-sdk/templates` has them as files.
//!
//! A project has what its language brings, what its hook brings, the vectors of the hook, which are the same in all languages,
//! and the WIT package. What is between double braces is filled in by [`super::scaffold`].

use crate::language::{Hook, Language};

/// One file of a new project.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    /// Where it goes in the project.
    pub(crate) path: &'static str,
    pub(crate) text: &'static str,
}

/// Files of `plugin-sdk/templates`, with the places they go to in a project.
macro_rules! files {
    ($($path:literal: $from:literal),+ $(,)?) => {
        &[$(Template { path: $path, text: include_str!(concat!("../../templates/", $from)) }),+]
    };
}

/// The files of one language and hook: first the language's, then the hook's.
type Files = (&'static [Template], [&'static [Template]; 4]);

const SHARED: [&[Template]; 4] = [
    files!("vectors.toml": "shared/routing.vectors.toml"),
    files!("vectors.toml": "shared/ack.vectors.toml"),
    files!("vectors.toml": "shared/admission.vectors.toml"),
    files!("vectors.toml": "shared/overflow.vectors.toml"),
];

const WIT: Template = Template { path: "wit/policy.wit", text: include_str!("../../wit/policy.wit") };

const RUST: Files = (
    files!(
        "Cargo.toml": "rust/Cargo.toml.in", ".cargo/config.toml": "rust/cargo-config.toml",
        "README.md": "rust/README.md", "plugin.toml": "rust/plugin.toml", ".gitignore": "rust/gitignore",
    ),
    [
        files!("src/lib.rs": "rust/routing.rs"),
        files!("src/lib.rs": "rust/ack.rs"),
        files!("src/lib.rs": "rust/admission.rs"),
        files!("src/lib.rs": "rust/overflow.rs"),
    ],
);

/// The SDK as part of a project: it is not published, and a project has the one that fits its WIT package.
const RUST_SDK: &[Template] = files!(
    "sdk/Cargo.toml": "rust/sdk-Cargo.toml.in",
    "sdk/src/allocator.rs": "../rust/src/allocator.rs",
    "sdk/src/bindings.rs": "../rust/src/bindings.rs",
    "sdk/src/export.rs": "../rust/src/export.rs",
    "sdk/src/host.rs": "../rust/src/host.rs",
    "sdk/src/lib.rs": "../rust/src/lib.rs",
    "sdk/src/pattern.rs": "../rust/src/pattern.rs",
    "sdk/src/verdict.rs": "../rust/src/verdict.rs",
);

const C: Files = (
    files!(
        "waspmq.h": "c/waspmq.h", "json.h": "c/json.h", "README.md": "c/README.md",
        "plugin.toml": "c/plugin.toml", ".gitignore": "c/gitignore",
    ),
    [
        files!("policy.c": "c/routing.c"),
        files!("policy.c": "c/ack.c"),
        files!("policy.c": "c/admission.c"),
        files!("policy.c": "c/overflow.c"),
    ],
);

const ZIG: Files = (
    files!(
        "waspmq.zig": "zig/waspmq.zig", "README.md": "zig/README.md", "plugin.toml": "zig/plugin.toml",
        ".gitignore": "zig/gitignore",
    ),
    [
        files!("policy.zig": "zig/routing.zig"),
        files!("policy.zig": "zig/ack.zig"),
        files!("policy.zig": "zig/admission.zig"),
        files!("policy.zig": "zig/overflow.zig"),
    ],
);

const ASSEMBLYSCRIPT: Files = (
    files!(
        "waspmq.ts": "assemblyscript/waspmq.ts", "json.ts": "assemblyscript/json.ts",
        "README.md": "assemblyscript/README.md", "plugin.toml": "assemblyscript/plugin.toml",
        "package.json": "assemblyscript/package.json", "package-lock.json": "assemblyscript/package-lock.json",
        ".gitignore": "assemblyscript/gitignore",
    ),
    [
        files!(
            "policy.ts": "assemblyscript/routing.policy.ts", "types.ts": "assemblyscript/routing.types.ts",
            "exports.ts": "assemblyscript/routing.exports.ts",
        ),
        files!(
            "policy.ts": "assemblyscript/ack.policy.ts", "types.ts": "assemblyscript/ack.types.ts",
            "exports.ts": "assemblyscript/ack.exports.ts",
        ),
        files!(
            "policy.ts": "assemblyscript/admission.policy.ts", "types.ts": "assemblyscript/admission.types.ts",
            "exports.ts": "assemblyscript/admission.exports.ts",
        ),
        files!(
            "policy.ts": "assemblyscript/overflow.policy.ts", "types.ts": "assemblyscript/overflow.types.ts",
            "exports.ts": "assemblyscript/overflow.exports.ts",
        ),
    ],
);

const JAVASCRIPT: Files = (
    files!(
        "README.md": "javascript/README.md", "plugin.toml": "javascript/plugin.toml",
        "package.json": "javascript/package.json", "package-lock.json": "javascript/package-lock.json",
        ".gitignore": "javascript/gitignore",
    ),
    [
        files!("policy.js": "javascript/routing.js"),
        files!("policy.js": "javascript/ack.js"),
        files!("policy.js": "javascript/admission.js"),
        files!("policy.js": "javascript/overflow.js"),
    ],
);

const PYTHON: Files = (
    files!(
        "README.md": "python/README.md", "plugin.toml": "python/plugin.toml",
        "requirements.txt": "python/requirements.txt", ".gitignore": "python/gitignore",
    ),
    [
        files!("policy.py": "python/routing.py"),
        files!("policy.py": "python/ack.py"),
        files!("policy.py": "python/admission.py"),
        files!("policy.py": "python/overflow.py"),
    ],
);

/// The files of a new project; for Rust with the SDK's source where that is wanted.
pub(crate) fn of(language: Language, hook: Hook, with_sdk: bool) -> Vec<Template> {
    let (common, of_hooks) = match language {
        Language::Rust => RUST,
        Language::C => C,
        Language::Zig => ZIG,
        Language::AssemblyScript => ASSEMBLYSCRIPT,
        Language::JavaScript => JAVASCRIPT,
        Language::Python => PYTHON,
    };
    let sdk = if with_sdk && language == Language::Rust { RUST_SDK } else { &[] };
    let one = |files: [&'static [Template]; 4]| match hook {
        Hook::Routing => files[0],
        Hook::Ack => files[1],
        Hook::Admission => files[2],
        Hook::Overflow => files[3],
    };
    [common, one(of_hooks), one(SHARED), sdk, &[WIT]].concat()
}

/// The fuel that the decision of a template's first vector may take: about twice what the dearest template of these languages was
/// seen to take, which is many times what others do. It finds what became dearer by far, and leaves room for other compilers.
pub(crate) const fn fuel_max(language: Language) -> &'static str {
    match language {
        Language::Rust | Language::C | Language::Zig => "6000",
        Language::AssemblyScript => "14000",
        Language::JavaScript | Language::Python => "2000000",
    }
}

/// A configuration that the templates of a hook take.
pub(crate) const fn config(hook: Hook) -> &'static str {
    match hook {
        Hook::Routing => r#"{"header":"region","to":"topic/orders."}"#,
        Hook::Ack => r#"{"urgent":7,"attempts":5,"timeout_ms":2000}"#,
        Hook::Admission => r#"{"per_second":10,"burst":20}"#,
        Hook::Overflow => r#"{"urgent":7}"#,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn texts_below(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                texts_below(&path, found);
            } else {
                found.insert(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    fn embedded() -> BTreeSet<String> {
        let each = |language| Hook::ALL.into_iter().flat_map(move |hook| of(language, hook, true));
        Language::ALL.into_iter().flat_map(each).map(|template| template.text.to_owned()).collect()
    }

    #[test]
    fn every_file_of_a_template_and_of_the_sdk_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        texts_below(&root.join("templates"), &mut found);
        texts_below(&root.join("rust/src"), &mut found);
        let embedded = embedded();
        let missing: Vec<_> = found.difference(&embedded).map(|text| text.lines().next()).collect();
        assert!(missing.is_empty(), "not part of any project: {missing:?}");
    }

    #[test]
    fn the_sdk_of_a_project_is_that_of_the_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read =
            |path: &str| std::fs::read_to_string(root.join(path)).unwrap().parse::<toml::Table>().unwrap();
        let (ours, workspace) = (read("plugin-sdk/rust/Cargo.toml"), read("Cargo.toml"));
        let theirs = read("plugin-sdk/templates/rust/sdk-Cargo.toml.in");
        assert_eq!(theirs["features"], ours["features"]);
        let dependencies = |table: &toml::Table| {
            table["dependencies"].as_table().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(dependencies(&theirs), dependencies(&ours));
        assert_eq!(
            theirs["dependencies"]["wit-bindgen"],
            workspace["workspace"]["dependencies"]["wit-bindgen"]
        );
        for key in ["edition", "rust-version", "license"] {
            assert_eq!(theirs["package"][key], workspace["workspace"]["package"][key], "{key}");
        }
    }
}
