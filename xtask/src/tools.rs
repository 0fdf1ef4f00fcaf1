//! Tools of the languages that plugins are written in, and what drives a browser: installed for this tree only, at fixed versions.
//!
//! They are found by `PATH`, in front of those of the machine. What is there is not installed again.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use waspmq_plugin_kit::Language;

use crate::process::Step;
use crate::workspace::{Workspace, remove};

/// Zig compiles C, too. The versions that the templates ask for.
const ZIG: &str = "ziglang==0.17.0";
const PYTHON_REQUIREMENTS: &str = "plugin-sdk/templates/python/requirements.txt";

/// The files that say what npm installs.
const NPM_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Makes sure of what builds a language's plugins.
pub(crate) fn ensure(workspace: &Workspace, language: Language) -> Result<()> {
    match language {
        // Made sure of with the guests.
        Language::Rust => Ok(()),
        Language::C | Language::Zig => zig(workspace),
        Language::AssemblyScript | Language::JavaScript => npm(workspace, language),
        Language::Python => {
            let text = fs::read_to_string(workspace.root().join(PYTHON_REQUIREMENTS))?;
            pip(workspace, text.trim(), "componentize-py")
        }
    }
}

/// `PATH` with the tools in front of it.
pub(crate) fn search_path(workspace: &Workspace) -> Result<OsString> {
    let mut folders = vec![venv(workspace).join("bin")];
    for language in [Language::AssemblyScript, Language::JavaScript] {
        folders.push(npm_folder(workspace, language).join("node_modules/.bin"));
    }
    let inherited = env::var_os("PATH").unwrap_or_default();
    env::join_paths(folders.into_iter().chain(env::split_paths(&inherited)))
        .context("PATH cannot be extended")
}

fn venv(workspace: &Workspace) -> PathBuf {
    workspace.tools_dir().join("python")
}

fn npm_folder(workspace: &Workspace, language: Language) -> PathBuf {
    workspace.tools_dir().join("npm").join(language.as_str())
}

fn zig(workspace: &Workspace) -> Result<()> {
    let command = venv(workspace).join("bin/zig");
    pip(workspace, ZIG, "zig")?;
    if command.is_file() {
        return Ok(());
    }
    // The package's own command has another name.
    fs::write(&command, "#!/bin/sh\nexec \"$(dirname \"$0\")/python3\" -m ziglang \"$@\"\n")?;
    executable(&command)
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn executable(_: &Path) -> Result<()> {
    Ok(())
}

/// Installs a Python package (`name==version`) into the tree's own environment, unless this very version is there.
fn pip(workspace: &Workspace, package: &str, what: &str) -> Result<()> {
    let venv = venv(workspace);
    // One of each package, so that going back to a version installs it again.
    let name = package.split_once("==").map_or(package, |(name, _)| name);
    let stamp = venv.join(format!("installed-{name}"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == package) {
        return Ok(());
    }
    // Before anything changes: what fails from here on has to be done again.
    remove(&stamp)?;
    if Step::new(workspace, "python check", "python3 --version").output().is_err() {
        bail!(
            "{what} is installed by Python, and there is no python3: install Python 3.10 or later (on Debian: apt-get install python3-venv)"
        );
    }
    fs::create_dir_all(workspace.tools_dir())?;
    if !venv.join("bin/pip").is_file() {
        let made = Step::new(workspace, "python environment", "python3 -m venv").arg(&venv).run();
        made.context("Python has no venv module: on Debian, apt-get install python3-venv")?;
    }
    // By the environment's own Python: the script `pip` names the folder that it was made for, and a tree may have been copied.
    let python = venv.join("bin/python3").display().to_string();
    let pip = [python.as_str(), "-m", "pip", "install", "--quiet", package];
    let install = Step::new(workspace, what, "env").args(pip);
    install.run().with_context(|| format!("{package} could not be installed; is there a network?"))?;
    fs::write(stamp, package)?;
    Ok(())
}

/// Installs what a template's lock file names.
fn npm(workspace: &Workspace, language: Language) -> Result<()> {
    let template = workspace.root().join("plugin-sdk/templates").join(language.as_str());
    let what = format!("the compiler for {}", language.as_str());
    npm_install(workspace, &what, &template, &npm_folder(workspace, language))
}

/// Installs what drives the browser of `tests/browser`.
pub(crate) fn ensure_browser_driver(workspace: &Workspace) -> Result<()> {
    let files = workspace.root().join("tests/browser");
    npm_install(workspace, "what drives the browser", &files, &workspace.tools_dir().join("browser"))
}

/// Installs into `folder` what the lock file of `source` names, unless it is there.
fn npm_install(workspace: &Workspace, what: &str, source: &Path, folder: &Path) -> Result<()> {
    let stamp = folder.join("installed");
    let mut is_there = stamp.is_file();
    let mut files = Vec::new();
    for name in NPM_FILES {
        let wanted = fs::read_to_string(source.join(name))?.replace("{{name}}", "tools");
        let file = folder.join(name);
        is_there &= fs::read_to_string(&file).is_ok_and(|text| text == wanted);
        files.push((file, wanted));
    }
    if is_there {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    remove(&stamp)?;
    for (file, wanted) in files {
        fs::write(file, wanted)?;
    }
    if Step::new(workspace, "npm check", "npm --version").output().is_err() {
        bail!("{what} is installed by npm, which is not there: install Node.js 20 or later");
    }
    let install = Step::new(workspace, what, "npm ci --no-audit --no-fund --loglevel=error --prefix");
    let done = install.arg(folder).run();
    done.with_context(|| format!("{what} could not be installed; is there a network?"))?;
    fs::write(stamp, "")?;
    Ok(())
}
