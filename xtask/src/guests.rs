//! Builds the WebAssembly components: every crate under `plugins/` that is one, and every guest under `tests/guests/`.
//!
//! Invariant: what lands in the target directory's `plugins` folder is a component (checked by its first bytes) and is
//! named after its package, `route-mirror.wasm`. The linker that makes components is set in `.cargo/config.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Step, Stopwatch, seconds};
use crate::workspace::{Workspace, write_whole};
use waspmq_plugin_kit::is_component;

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// The profile of the workspace manifest that guests are built with.
pub(crate) const PROFILE: &str = "plugin";

/// Folders whose subfolders are guest crates.
const FOLDERS: [&str; 2] = ["plugins", "tests/guests"];

/// Guests that are built more than once, because tests swap one build for the other.
const VARIANTS: [Variant; 2] = [
    Variant { package: "guest-stamp", features: "", artifact: "stamp-a" },
    Variant { package: "guest-stamp", features: "second", artifact: "stamp-b" },
];

#[derive(Debug)]
struct Variant {
    package: &'static str,
    features: &'static str,
    artifact: &'static str,
}

/// Makes sure of the WebAssembly target, builds all guests and collects them.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let clock = Stopwatch::start();
    ensure_target(workspace)?;
    let packages = packages(workspace.root())?;
    ensure!(!packages.is_empty(), "no guest crate under {}", FOLDERS.join(" or "));
    let plugins = workspace.plugins_dir();
    fs::create_dir_all(&plugins).with_context(|| format!("cannot create {}", plugins.display()))?;

    let (varied, plain): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| VARIANTS.iter().any(|variant| variant.package == **package));
    let flags = plain.iter().flat_map(|package| ["-p", package.as_str()]);
    cargo_build(workspace, "plugins").args(flags).run()?;
    for package in &plain {
        collect(workspace, package, package)?;
    }
    for variant in VARIANTS.iter().filter(|variant| varied.iter().any(|package| *package == variant.package))
    {
        let step = cargo_build(workspace, variant.artifact).args(["-p", variant.package]);
        step.args(["--features", variant.features]).run()?;
        collect(workspace, variant.package, variant.artifact)?;
    }
    eprintln!(
        "    plugins are in {} ({})",
        workspace.display_path(&plugins).display(),
        seconds(clock.elapsed())
    );
    Ok(())
}

fn cargo_build(workspace: &Workspace, name: &str) -> Step {
    Step::cargo(workspace, name, &format!("build --profile {PROFILE} --target {TARGET}"))
}

/// Installs the standard library of the target where the active toolchain lacks it.
fn ensure_target(workspace: &Workspace) -> Result<()> {
    let question = format!("rustc --print target-libdir --target {TARGET}");
    let libdir = Step::new(workspace, "target check", &question).output()?;
    if Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    Step::new(workspace, TARGET, &format!("rustup target add {TARGET}")).run().with_context(|| {
        format!(
            "the toolchain has no standard library for {TARGET}, which plugins need, and rustup could not add it; \
             install rustup (https://rustup.rs) or add the target the way your toolchain was installed"
        )
    })
}

/// The package names of all crates that become components, sorted.
fn packages(root: &Path) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for folder in FOLDERS.map(|folder| root.join(folder)).iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let manifest = entry?.path().join("Cargo.toml");
            if manifest.is_file() {
                let text = fs::read_to_string(&manifest)?;
                let name =
                    package_name(&text).with_context(|| format!("no package in {}", manifest.display()))?;
                // What plugins share is a crate, and no component.
                if text.contains("\"cdylib\"") {
                    packages.push(name.to_owned());
                }
            }
        }
    }
    packages.sort();
    Ok(packages)
}

/// The `name` of a manifest's `[package]` section.
fn package_name(manifest: &str) -> Option<&str> {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[package]").skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).find_map(|line| {
        let value = line.strip_prefix("name")?.trim_start().strip_prefix('=')?;
        value.trim().strip_prefix('"')?.split('"').next()
    })
}

/// Copies a package's artifact to the plugins folder.
fn collect(workspace: &Workspace, package: &str, name: &str) -> Result<()> {
    let built = workspace.guest_artifacts_dir().join(format!("{}.wasm", package.replace('-', "_")));
    let bytes = fs::read(&built)
        .with_context(|| format!("{package} left no {}; is its crate-type [\"cdylib\"]?", built.display()))?;
    if !is_component(&bytes) {
        bail!("{} is no component: cargo did not link it with wasm-component-ld", built.display());
    }
    let path = workspace.plugins_dir().join(format!("{name}.wasm"));
    write_whole(&path, &bytes)?;
    eprintln!("    {name}.wasm: {} KiB", bytes.len().div_ceil(1024));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_name_is_read_from_its_section_only() {
        assert_eq!(
            package_name("[package]\nversion = \"1\"\nname = \"route-mirror\" # why\n"),
            Some("route-mirror")
        );
        assert_eq!(package_name("[lib]\nname = \"other\"\n[package]\nname=\"own\"\n"), Some("own"));
        assert_eq!(package_name("[package]\nversion = \"1\"\n[lib]\nname = \"other\"\n"), None);
        assert_eq!(package_name("[workspace]\n"), None);
    }

    #[test]
    fn the_plugins_of_the_tree_are_found() {
        let packages = packages(Workspace::find().unwrap().root()).unwrap();
        assert!(packages.iter().any(|name| name == "route-mirror"), "{packages:?}");
        assert!(!packages.iter().any(|name| name == "waspmq-plugin-common"), "{packages:?}");
        assert!(packages.is_sorted());
    }
}
