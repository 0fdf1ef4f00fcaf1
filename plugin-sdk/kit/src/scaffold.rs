//! New projects: a template, filled in and written to a folder that is new or empty.

use crate::language::{Hook, Language};
use crate::templates::{self, Template};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a plugin's name: it names a package, a file and a plugin of the broker.
const NAME_BYTES_MAX: usize = 64;

/// A project to be written.
#[derive(Debug, Clone, Copy)]
pub struct Project<'a> {
    /// The plugin's name; checked when the project is read.
    pub name: &'a str,
    pub language: Language,
    pub hook: Hook,
    /// The folder of the Rust SDK; none: its source becomes part of the project.
    pub sdk: Option<&'a Path>,
}

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    #[error("{0:?} is not a name for a plugin: 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', a letter first")]
    Name(String),
    #[error("--sdk is for Rust; {} needs none", .0.as_str())]
    SdkNotNeeded(Language),
    #[error("{0}: there is no SDK (no Cargo.toml of a package waspmq-plugin-sdk)")]
    NoSdk(PathBuf),
    #[error("{0} is there already and is not empty; nothing was written")]
    NotEmpty(PathBuf),
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
}

impl Project<'_> {
    /// Writes the project's files; answers their paths within the folder.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>, ScaffoldError> {
        self.check_name()?;
        let sdk = self.sdk_path()?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ScaffoldError::Io { path, source }
        };
        if folder.exists() && !is_empty_folder(folder).map_err(failed(folder))? {
            return Err(ScaffoldError::NotEmpty(folder.to_owned()));
        }
        let mut written = Vec::new();
        for Template { path, text } in templates::of(self.language, self.hook, self.sdk.is_none()) {
            let file = folder.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            // Not even a file that came meanwhile is overwritten.
            let mut new = fs::File::create_new(&file).map_err(failed(&file))?;
            io::Write::write_all(&mut new, self.filled(text, &sdk).as_bytes()).map_err(failed(&file))?;
            written.push(path.to_owned());
        }
        Ok(written)
    }

    fn check_name(&self) -> Result<(), ScaffoldError> {
        let name = self.name;
        let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_fine) {
            return Ok(());
        }
        Err(ScaffoldError::Name(name.to_owned()))
    }

    /// What the manifest says about where the SDK is.
    fn sdk_path(&self) -> Result<String, ScaffoldError> {
        let Some(sdk) = self.sdk else { return Ok("sdk".to_owned()) };
        if self.language != Language::Rust {
            return Err(ScaffoldError::SdkNotNeeded(self.language));
        }
        let manifest = fs::read_to_string(sdk.join("Cargo.toml")).unwrap_or_default();
        if !manifest.contains("name = \"waspmq-plugin-sdk\"") {
            return Err(ScaffoldError::NoSdk(sdk.to_owned()));
        }
        let absolute = fs::canonicalize(sdk);
        let absolute = absolute.map_err(|source| ScaffoldError::Io { path: sdk.to_owned(), source })?;
        Ok(absolute.display().to_string())
    }

    fn filled(&self, text: &str, sdk: &str) -> String {
        text.replace("{{name}}", self.name)
            .replace("{{hook}}", self.hook.as_str())
            .replace("{{version}}", env!("CARGO_PKG_VERSION"))
            .replace("{{config}}", templates::config(self.hook))
            .replace("{{fuel}}", templates::fuel_max(self.language))
            .replace("{{sdk}}", &sdk.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn is_empty_folder(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str) -> Project<'_> {
        Project { name, language: Language::Rust, hook: Hook::Routing, sdk: None }
    }

    #[test]
    fn every_language_and_hook_has_a_complete_project() {
        for language in Language::ALL {
            for hook in Hook::ALL {
                let folder = tempfile::tempdir().unwrap();
                let project = Project { name: "orders-2", language, hook, sdk: None };
                let written = project.write(folder.path()).unwrap();
                for path in &written {
                    let text = fs::read_to_string(folder.path().join(path)).unwrap();
                    assert!(!text.contains("{{"), "{language:?} {hook:?} {path}: a place was not filled in");
                }
                for path in ["README.md", "plugin.toml", "vectors.toml", "wit/policy.wit", ".gitignore"] {
                    assert!(written.iter().any(|known| known == path), "{language:?} {hook:?}: no {path}");
                }
                let file = crate::ProjectFile::read(folder.path()).unwrap();
                assert_eq!(
                    (file.component.name, file.component.world),
                    ("orders-2".into(), hook.as_str().into())
                );
            }
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "text").unwrap();
        let error = project("orders").write(folder.path()).unwrap_err();
        assert!(matches!(error, ScaffoldError::NotEmpty(_)), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = folder.path().join("mine");
        assert!(matches!(project("orders").write(&file), Err(ScaffoldError::Io { .. })));
        let new = folder.path().join("new");
        project("orders").write(&new).unwrap();
        assert!(matches!(project("orders").write(&new), Err(ScaffoldError::NotEmpty(_))));
    }

    #[test]
    fn names_are_those_of_packages() {
        for name in ["", "-a", "1a", "Orders", "a_b", "a/b", "..", "größe", &"a".repeat(65)] {
            let folder = tempfile::tempdir().unwrap();
            let error = project(name).write(&folder.path().join("new")).unwrap_err();
            assert!(matches!(error, ScaffoldError::Name(_)), "{name}: {error}");
            assert!(!folder.path().join("new").exists());
        }
    }

    #[test]
    fn an_sdk_somewhere_else_is_named_in_the_manifest() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rust");
        let folder = tempfile::tempdir().unwrap();
        let with = |sdk| Project { sdk: Some(sdk), ..project("orders") };
        let written = with(&sdk).write(folder.path()).unwrap();
        assert!(!written.iter().any(|path| path.starts_with("sdk/")), "{written:?}");
        let manifest = fs::read_to_string(folder.path().join("Cargo.toml")).unwrap();
        let expected = fs::canonicalize(&sdk).unwrap();
        assert!(manifest.contains(&format!("path = \"{}\"", expected.display())), "{manifest}");
        let other = folder.path().join("other");
        assert!(matches!(with(folder.path()).write(&other), Err(ScaffoldError::NoSdk(_))));
        let zig = Project { language: Language::Zig, ..with(&sdk) };
        assert!(matches!(zig.write(&other), Err(ScaffoldError::SdkNotNeeded(_))));
    }
}
