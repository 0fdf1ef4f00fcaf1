//! `plugin.toml`: what builds a project, and what the component is.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file's name in a project's folder.
pub(crate) const FILE: &str = "plugin.toml";

/// A project's `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectFile {
    pub build: BuildSection,
    pub component: ComponentSection,
}

/// `[build]`: the tool and what it makes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSection {
    /// Programs with first arguments; the first one that answers `probe` is used. One with a slash is a file of the project.
    pub programs: Vec<Vec<String>>,
    /// Arguments with which a program says that it is there.
    pub probe: Vec<String>,
    pub arguments: Vec<String>,
    /// What the program makes: a module or a component.
    pub output: PathBuf,
    /// Where to get the program; completes "install ...".
    pub needs: String,
}

/// `[component]`: the component that becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentSection {
    /// The component is `<name>.wasm` in the project's folder.
    pub name: String,
    /// The folder of the WIT package.
    pub wit: PathBuf,
    pub world: String,
    #[serde(default)]
    pub strings: Strings,
}

/// How texts cross to and from a module that does not say so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strings {
    #[default]
    Utf8,
    Utf16,
}

/// Why a folder is no project.
#[derive(Debug, thiserror::Error)]
pub enum BadProject {
    #[error("{}: there is no {FILE}; `waspmq plugin new` makes a project", .0.display())]
    Missing(PathBuf),
    #[error("{}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", .path.display())]
    Invalid { path: PathBuf, reason: String },
}

impl ProjectFile {
    /// Reads the file of a project's folder.
    pub fn read(folder: &Path) -> Result<Self, BadProject> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BadProject::Missing(folder.to_owned()));
            }
            Err(source) => return Err(BadProject::Unreadable { path, source }),
        };
        let invalid = |reason: String| BadProject::Invalid { path: path.clone(), reason };
        let file: Self = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        if file.build.programs.is_empty() || file.build.programs.iter().any(Vec::is_empty) {
            return Err(invalid("build.programs: must name a program".to_owned()));
        }
        let name = &file.component.name;
        if name.is_empty() || name.contains(['/', '\\']) {
            return Err(invalid("component.name: must be the name of a file without folders".to_owned()));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let outcome =
            ProjectFile::read(folder.path()).map_or_else(|e| e.to_string(), |file| format!("{file:?}"));
        assert!(outcome.contains(expected), "{text}: {outcome}");
    }

    #[test]
    fn files() {
        let build =
            "[build]\nprograms = [[\"cc\"]]\nprobe = []\narguments = []\noutput = \"a\"\nneeds = \"b\"\n";
        let with = |more: &str| format!("{build}[component]\nwit = \"wit\"\nworld = \"ack\"\n{more}");
        check(&with("name = \"n\""), "strings: Utf8");
        check(&with("name = \"n\"\nstrings = \"utf16\""), "strings: Utf16");
        check(&with("name = \"n\"\nstrings = \"ebcdic\""), "unknown variant `ebcdic`");
        check(&with("name = \"../n\""), "component.name: must be");
        check(&with(""), "missing field `name`");
        check(&with("name = \"n\"\ncolour = 1"), "unknown field `colour`");
        check(&with("name = \"n\"").replace("[[\"cc\"]]", "[[]]"), "build.programs: must name");
        check("=", "TOML parse error at line 1");
        let folder = tempfile::tempdir().unwrap();
        let error = ProjectFile::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("waspmq plugin new"), "{error}");
    }
}
