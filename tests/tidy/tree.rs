//! The text files of the repository, read once per test.
//!
//! What git tracks or would track; without git (a source archive) what lies in the folders, build output left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{fs, str};

/// Folders that hold build output or data where git is not there to say so.
const SKIPPED: [&str; 6] = [".git", "target", "waspmq-data", "corpus", "artifacts", "node_modules"];

/// Paths relative to the root, with `/`, and the text of those that are text.
pub(crate) struct Tree(BTreeMap<String, Option<String>>);

impl Tree {
    pub(crate) fn read() -> Self {
        let root = waspmq_tests::root();
        let paths = listed_by_git(root).unwrap_or_else(|| {
            let mut found = Vec::new();
            walk(root, root, &mut found);
            found
        });
        // A path that git knows and that is gone is a deletion not yet committed.
        let read = |path: String| {
            let bytes = fs::read(root.join(&path)).ok()?;
            Some((path, String::from_utf8(bytes).ok()))
        };
        Self(paths.into_iter().filter_map(read).collect())
    }

    /// Whether that path is a file of the tree or a folder of one; the root is `""`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        path.is_empty() || self.0.contains_key(path) || self.0.keys().any(|known| known.starts_with(&folder))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.as_deref()
    }

    pub(crate) fn texts(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.0.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)));
        texts.filter(move |(path, _)| wanted(path))
    }
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
    let paths: Vec<_> =
        str::from_utf8(&output.stdout).ok()?.split_terminator('\0').map(str::to_owned).collect();
    // An archive unpacked inside some other repository is unknown to that one.
    (output.status.success() && paths.iter().any(|path| path == "Cargo.toml")).then_some(paths)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                walk(root, &path, found);
            }
        } else if let Some(path) = path.strip_prefix(root).unwrap().to_str() {
            found.push(path.replace('\\', "/"));
        }
    }
}

#[test]
fn both_ways_of_listing_find_the_sources() {
    let root = waspmq_tests::root();
    let mut walked = Vec::new();
    walk(root, root, &mut walked);
    assert!(walked.iter().any(|path| path == "tests/tidy/tree.rs"));
    assert!(walked.iter().all(|path| !path.starts_with("target/") && !path.starts_with(".git/")));
    let tree = Tree::read();
    assert!(tree.text("Cargo.toml").unwrap().contains("[workspace]"));
    assert!(tree.contains("broker/core/src") && tree.contains("") && !tree.contains("broker/core/sr"));
}
