//! Where things are: the workspace's root, its target directory, and what cargo puts there.
//!
//! The root is the parent of xtask's own manifest, so a command works from any folder of the tree.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The two folders every command needs. Both are absolute.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
}

impl Workspace {
    /// Reads `CARGO_TARGET_DIR`; a relative one counts from the current folder, as it does for cargo.
    pub(crate) fn find() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?.to_owned();
        let target_dir = match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            Some(value) => env::current_dir().context("the current folder is gone")?.join(value),
            None => root.join("target"),
        };
        Ok(Self { root, target_dir })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Where the components are collected, one `<name>.wasm` each.
    pub(crate) fn plugins_dir(&self) -> PathBuf {
        self.target_dir.join("plugins")
    }

    /// Where plugins are made from the templates, each in a folder of its own.
    pub(crate) fn templates_dir(&self) -> PathBuf {
        self.target_dir.join("templates")
    }

    /// Where cargo leaves the guests: `<target>/<triple>/<profile>`.
    pub(crate) fn guest_artifacts_dir(&self) -> PathBuf {
        self.target_dir.join(crate::guests::TARGET).join(crate::guests::PROFILE)
    }

    /// Tools that are installed for this tree only, as `cargo install --root` lays them out.
    pub(crate) fn tools_dir(&self) -> PathBuf {
        self.target_dir.join("tools")
    }

    /// Relative to the root where that is possible: children run there, and short lines read better.
    pub(crate) fn display_path(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }
}

/// Writes a file and renames it into place, so that a broker or a test that reads it meanwhile never sees half of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        let workspace = Workspace::find().unwrap();
        let manifest = std::fs::read_to_string(workspace.root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
        assert!(workspace.target_dir().is_absolute());
    }

    #[test]
    fn paths_inside_the_root_are_shown_relative_to_it() {
        let workspace = Workspace { root: "/a/b".into(), target_dir: "/a/b/target".into() };
        assert_eq!(workspace.display_path(&workspace.plugins_dir()), Path::new("target/plugins"));
        assert_eq!(workspace.display_path(Path::new("/c/plugins")), Path::new("/c/plugins"));
    }
}
