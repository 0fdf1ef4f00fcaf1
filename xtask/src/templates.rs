//! Plugins made from the templates, as `waspmq plugin new` and `build` make them: one for each language and hook.
//!
//! They land in the target directory's `templates` folder, `rust-routing.wasm` and so on; `components.txt` lists them for
//! tests. Invariant: what is listed was built by this run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use waspmq_plugin_kit::{Build, Hook, Language, Project};

use crate::process::{Step, Stopwatch, seconds};
use crate::tools;
use crate::workspace::{Workspace, remove, write_whole};

/// What is quick to install and to build; the rest is for those who ask for all.
const QUICK: [Language; 3] = [Language::Rust, Language::C, Language::AssemblyScript];

/// Builds the projects of the quick languages. A tool that cannot be had leaves its language out and says so; on a build
/// machine (`CI=true`) it is an error.
pub(crate) fn build_quick(workspace: &Workspace) -> Result<()> {
    let is_strict = env::var_os("CI").is_some_and(|value| value == "true");
    build(workspace, &QUICK, is_strict)
}

/// Builds the projects of all languages, and runs the tests that put their vectors to them and their policies into a broker.
pub(crate) fn build_all(workspace: &Workspace) -> Result<()> {
    build(workspace, &Language::ALL, true)?;
    Step::cargo(workspace, "vectors and templates in a broker", "test -p waspmq --test it kit::").run()
}

fn build(workspace: &Workspace, languages: &[Language], is_strict: bool) -> Result<()> {
    let clock = Stopwatch::start();
    let list = workspace.templates_dir().join("components.txt");
    // What an earlier run built is not listed when this one fails.
    remove(&list)?;
    let mut built = Vec::new();
    for &language in languages {
        match tools::ensure(workspace, language) {
            Err(error) if is_strict => return Err(error),
            Err(error) => {
                eprintln!("    left out: templates in {}: {error:#}", language.as_str());
                continue;
            }
            Ok(()) => {}
        }
        for hook in Hook::ALL {
            built.push(one(workspace, language, hook)?);
        }
    }
    write_whole(&list, (built.join("\n") + "\n").as_bytes())?;
    let folder = workspace.display_path(&workspace.templates_dir()).display().to_string();
    eprintln!("    {} plugins from templates are in {folder} ({})", built.len(), seconds(clock.elapsed()));
    Ok(())
}

fn name(language: Language, hook: Hook) -> String {
    format!("{}-{}", language.as_str(), hook.as_str())
}

fn folder(workspace: &Workspace, language: Language, hook: Hook) -> PathBuf {
    workspace.templates_dir().join(name(language, hook))
}

/// Makes one project anew and builds it.
fn one(workspace: &Workspace, language: Language, hook: Hook) -> Result<String> {
    let clock = Stopwatch::start();
    let (name, folder) = (name(language, hook), folder(workspace, language, hook));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Project { name: &name, language, hook, sdk: None }.write(&folder)?;
    if language == Language::Rust {
        share(workspace, &folder)?;
    }
    let build = Build::of(&folder)?.with_path(tools::search_path(workspace)?);
    let built = build.tool().and_then(|(words, _)| build.run(&words));
    let built = built.with_context(|| format!("{name} is not built"))?;
    write_whole(&workspace.templates_dir().join(format!("{name}.wasm")), &fs::read(&built.path)?)?;
    eprintln!("    {name}.wasm: {} KiB in {}", built.bytes.div_ceil(1024), seconds(clock.elapsed()));
    Ok(name)
}

/// Has the Rust projects share what they are built from: the versions that this tree locks, and what was compiled.
fn share(workspace: &Workspace, folder: &Path) -> Result<()> {
    fs::copy(workspace.root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    let shared = workspace.templates_dir().join("cargo");
    fs::create_dir_all(&shared)?;
    #[cfg(unix)]
    std::os::unix::fs::symlink(&shared, folder.join("target"))?;
    Ok(())
}
