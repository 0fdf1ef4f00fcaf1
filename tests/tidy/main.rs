//! Rules about the tree itself, checked on every run of the tests: which crate may depend on which, how a source
//! file looks, and that documents and code name the same things.
//!
//! Each rule is a function from text to findings and has unit tests that show it failing; this file only reads
//! the tree and feeds the rules. `docs/STYLE.md` marks with **(T)** what is checked here. A new crate edge or a
//! new home for a heavy dependency needs an ADR and a line in `edges.rs`.

#![expect(clippy::unwrap_used, reason = "a test target: an unreadable tree ends the test")]

mod deployment;
mod documents;
mod edges;
mod manifests;
mod report;
mod sources;
mod tree;

use report::Findings;
use tree::Tree;

/// Runs a rule on every file that `wanted` selects.
fn check_files(wanted: impl Fn(&str) -> bool, rule: impl Fn(&str, &str) -> Findings) {
    let tree = Tree::read();
    let mut findings = Findings::default();
    let mut seen = 0;
    for (path, text) in tree.texts(wanted) {
        findings.extend(rule(path, text));
        seen += 1;
    }
    assert!(seen > 0, "no file was looked at: the rule's selection is wrong");
    findings.assert_none();
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

#[test]
fn crate_edges_point_downward() {
    edges::forbidden_edges(&edges::packages()).assert_none();
}

#[test]
fn heavy_dependencies_have_one_home() {
    edges::misplaced_dependencies(&edges::packages()).assert_none();
}

#[test]
fn the_domain_and_the_codec_are_free_of_tokio() {
    for package in ["waspmq-core", "waspmq-protocol"] {
        edges::tokio_in_tree(package, &edges::dependency_tree(package)).assert_none();
    }
}

#[test]
fn bincode_is_spoken_in_one_file() {
    check_files(is_rust, edges::bincode_outside_its_file);
}

#[test]
fn members_take_the_workspace_lints_and_a_licence() {
    let tree = Tree::read();
    let mut findings = Findings::default();
    for package in edges::packages() {
        findings.extend(manifests::manifest_gaps(
            &package.manifest,
            tree.text(&package.manifest).unwrap_or_default(),
        ));
    }
    findings.assert_none();
}

#[test]
fn source_files_say_what_they_are() {
    check_files(|path| is_rust(path) && !path.starts_with("tests/fuzz/"), sources::missing_opening);
}

#[test]
fn source_files_are_short() {
    check_files(is_rust, sources::too_long);
}

#[test]
fn nothing_is_left_for_later() {
    check_files(is_rust, sources::leftovers);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    check_files(|_| true, documents::machine_paths);
}

#[test]
fn links_between_documents_resolve() {
    let tree = Tree::read();
    let exists = |path: &str| tree.contains(path);
    check_files(|path| path.ends_with(".md"), |path, text| documents::broken_links(path, text, exists));
}

#[test]
fn the_readme_names_the_two_commands() {
    let tree = Tree::read();
    documents::missing_commands("README.md", tree.text("README.md").unwrap_or_default()).assert_none();
}

#[test]
fn every_limit_is_documented() {
    let tree = Tree::read();
    let limits = documents::constants(tree.text("broker/core/src/limits.rs").unwrap_or_default());
    let guide = tree.text("docs/CONFIG.md").unwrap_or_default();
    documents::undocumented("docs/CONFIG.md", "limit", guide, &limits).assert_none();
}

#[test]
fn every_configuration_key_is_documented() {
    let tree = Tree::read();
    let is_config = |path: &str| path.starts_with("broker/server/src/config") && is_rust(path);
    let keys: Vec<_> = tree.texts(is_config).flat_map(|(_, text)| documents::config_keys(text)).collect();
    let guide = tree.text("docs/CONFIG.md").unwrap_or_default();
    documents::undocumented("docs/CONFIG.md", "configuration key", guide, &keys).assert_none();
}

#[test]
fn every_error_number_is_documented() {
    use waspmq_core::{Close, Code};
    let codes = Code::ALL.iter().map(|code| (code.number(), code.name()));
    let closes = Close::ALL.iter().map(|close| (close.number(), close.name()));
    let tree = Tree::read();
    let text = tree.text("docs/ERRORS.md").unwrap_or_default();
    documents::wrong_numbers("docs/ERRORS.md", text, &codes.chain(closes).collect::<Vec<_>>()).assert_none();
}

#[test]
fn deployed_files_name_metrics_that_there_are() {
    let tree = Tree::read();
    let documented = deployment::documented(tree.text("docs/METRICS.md").unwrap_or_default());
    assert!(documented.len() > 50, "the tables of docs/METRICS.md are read otherwise than they are written");
    check_files(
        |path| path.starts_with("deploy/"),
        |path, text| deployment::unknown_metrics(path, text, &documented),
    );
}

#[test]
fn the_image_is_built_with_our_toolchain() {
    let tree = Tree::read();
    let text = |path| tree.text(path).unwrap_or_default();
    let path = "deploy/Dockerfile";
    deployment::other_toolchain(path, text(path), text("rust-toolchain.toml")).assert_none();
}
