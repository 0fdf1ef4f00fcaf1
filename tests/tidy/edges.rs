//! Which crate may depend on which, and where each heavy dependency lives.
//!
//! The two tables are the machine's copy of `docs/adr/0001-crate-edges.md`; a change here goes with an ADR.

use std::collections::BTreeMap;
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::report::Findings;

/// What each crate of the workspace may depend on in its normal dependencies. Development dependencies are free:
/// a test may use what the code under test may not.
const EDGES: [(&str, &[&str]); 10] = [
    ("waspmq-core", &[]),
    ("waspmq-protocol", &["waspmq-core"]),
    ("waspmq-transport", &["waspmq-protocol", "waspmq-core"]),
    ("waspmq-policy", &["waspmq-core"]),
    ("waspmq-store", &["waspmq-core"]),
    ("waspmq-profile", &[]),
    ("waspmq-client", &["waspmq-core", "waspmq-protocol"]),
    ("waspmq-plugin-sdk", &[]),
    ("waspmq-plugin-kit", &[]),
    (
        "waspmq",
        &[
            "waspmq-core",
            "waspmq-protocol",
            "waspmq-transport",
            "waspmq-policy",
            "waspmq-plugin-kit",
            "waspmq-store",
            "waspmq-profile",
            "waspmq-client",
        ],
    ),
];

/// Folders of guests: they see the SDK and what shipped policies share, and nothing of the broker.
const GUEST_FOLDERS: [&str; 2] = ["plugins/", "tests/guests/"];
const GUEST_EDGES: &[&str] = &["waspmq-plugin-sdk", "waspmq-plugin-common"];

/// Packages that nothing ships with: they may see everything.
const UNRESTRICTED: [&str; 3] = ["waspmq-tests", "waspmq-benches", "xtask"];

/// Dependencies that cost build time, size or trust, and the only packages whose manifest may name them.
const HOMES: [(&str, &[&str]); 24] = [
    ("wasmtime", &["waspmq-policy"]),
    ("wasmparser", &["waspmq-policy", "waspmq-plugin-kit"]),
    ("wasm-encoder", &["waspmq-policy", "waspmq-plugin-kit"]),
    ("fjall", &["waspmq-store"]),
    ("quinn", &["waspmq-transport", "waspmq-client", "waspmq", "waspmq-benches"]),
    ("rustls", &["waspmq-transport", "waspmq-client", "waspmq", "waspmq-benches"]),
    ("rcgen", &["waspmq-transport", "waspmq-client"]),
    ("web-transport-quinn", &["waspmq-transport", "waspmq-client", "waspmq"]),
    ("bincode", &["waspmq-protocol"]),
    ("zstd", &["waspmq-protocol"]),
    ("lz4_flex", &["waspmq-protocol"]),
    ("flate2", &["waspmq-transport", "waspmq-profile"]),
    ("framehop", &["waspmq-profile"]),
    ("axum", &["waspmq"]),
    ("aws-lc-rs", &["waspmq", "waspmq-transport"]),
    ("jsonwebtoken", &["waspmq"]),
    ("utoipa", &["waspmq"]),
    ("prometheus-client", &["waspmq"]),
    ("clap", &["waspmq", "xtask", "waspmq-benches"]),
    ("ratatui", &["waspmq"]),
    ("toml", &["waspmq", "waspmq-plugin-kit", "waspmq-policy"]),
    ("wit-bindgen", &["waspmq-plugin-sdk"]),
    ("wit-component", &["waspmq-plugin-kit"]),
    ("wit-parser", &["waspmq-plugin-kit", "waspmq"]),
];

/// The one file that speaks bincode: the bodies of control frames. Everything else is laid out by hand.
const BINCODE_FILE: &str = "broker/protocol/src/meta.rs";

/// One member of the workspace, as far as the rules look at it.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Path of its manifest relative to the root.
    pub(crate) manifest: String,
    /// Names of its normal dependencies, those of single targets included.
    pub(crate) normal: Vec<String>,
    /// Names of its development and build dependencies.
    pub(crate) other: Vec<String>,
}

/// The members of the workspace.
pub(crate) fn packages() -> Vec<Package> {
    let root = waspmq_tests::root();
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec().unwrap();
    let read = |package: cargo_metadata::Package| {
        let (normal, other): (Vec<_>, Vec<_>) = package
            .dependencies
            .into_iter()
            .partition(|dependency| dependency.kind == DependencyKind::Normal);
        let names = |list: Vec<cargo_metadata::Dependency>| list.into_iter().map(|item| item.name).collect();
        Package {
            name: package.name.to_string(),
            manifest: package
                .manifest_path
                .as_std_path()
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/"),
            normal: names(normal),
            other: names(other),
        }
    };
    metadata.packages.into_iter().map(read).collect()
}

/// Everything that a package's normal build takes in, one `name version` a line.
pub(crate) fn dependency_tree(package: &str) -> String {
    let arguments = ["tree", "--package", package, "--edges", "normal", "--prefix", "none"];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(waspmq_tests::root()).output().unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Rule: an edge between two members is one of the table.
pub(crate) fn forbidden_edges(packages: &[Package]) -> Findings {
    let table: BTreeMap<_, _> = EDGES.into_iter().collect();
    let mut findings = Findings::default();
    for package in packages.iter().filter(|package| !UNRESTRICTED.contains(&package.name.as_str())) {
        let is_guest = GUEST_FOLDERS.iter().any(|folder| package.manifest.starts_with(folder));
        let allowed = if is_guest { Some(&GUEST_EDGES) } else { table.get(package.name.as_str()) };
        let Some(allowed) = allowed else {
            findings.add(
                &package.manifest,
                "a crate that the table in tests/tidy/edges.rs does not know; write an ADR first",
            );
            continue;
        };
        let members = package.normal.iter().filter(|name| packages.iter().any(|other| other.name == **name));
        for name in members.filter(|name| !allowed.contains(&name.as_str())) {
            let message =
                format!("{} may not depend on {name} (allowed: {})", package.name, allowed.join(", "));
            findings.add(&package.manifest, message);
        }
    }
    findings
}

/// Rule: a heavy dependency is named in the manifest of its home and nowhere else, whatever the kind.
pub(crate) fn misplaced_dependencies(packages: &[Package]) -> Findings {
    let mut findings = Findings::default();
    for package in packages {
        for name in package.normal.iter().chain(&package.other) {
            let home = HOMES.iter().find(|(heavy, _)| name == heavy || is_companion(name, heavy));
            if let Some((heavy, homes)) = home.filter(|(_, homes)| !homes.contains(&package.name.as_str())) {
                let message = format!("{name} belongs to the home of {heavy}: {}", homes.join(", "));
                findings.add(&package.manifest, message);
            }
        }
    }
    findings
}

/// `utoipa-axum` counts as `utoipa`: what extends a heavy dependency brings it along.
fn is_companion(name: &str, heavy: &str) -> bool {
    name.strip_prefix(heavy).is_some_and(|rest| rest.starts_with('-'))
}

/// Rule: the tier without IO takes in no runtime, not even through a dependency.
pub(crate) fn tokio_in_tree(package: &str, tree: &str) -> Findings {
    let mut findings = Findings::default();
    assert!(tree.starts_with(package), "not the tree of {package}: {tree}");
    for line in tree.lines().filter(|line| line.split_whitespace().next() == Some("tokio")) {
        findings.add(package, format!("takes in {line}; see `cargo tree -p {package} -e normal -i tokio`"));
    }
    findings
}

/// Rule: bincode is used in one file.
pub(crate) fn bincode_outside_its_file(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    let marks = [concat!("bincode", "::"), concat!("use bin", "code")];
    for (index, _) in
        text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)))
    {
        if path != BINCODE_FILE {
            findings
                .add(format!("{path}:{}", index + 1), format!("bincode is spoken in {BINCODE_FILE} only"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, manifest: &str, normal: &[&str], other: &[&str]) -> Package {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Package {
            name: name.to_owned(),
            manifest: manifest.to_owned(),
            normal: own(normal),
            other: own(other),
        }
    }

    fn with_core(package: Package) -> [Package; 2] {
        [package, self::package("waspmq-core", "broker/core/Cargo.toml", &[], &[])]
    }

    #[test]
    fn an_edge_upward_is_found() {
        let store = package("waspmq-store", "broker/store/Cargo.toml", &["waspmq-policy"], &[]);
        let policy = package("waspmq-policy", "broker/policy/Cargo.toml", &["waspmq-core"], &[]);
        forbidden_edges(&[store, policy]).assert_one("waspmq-store may not depend on waspmq-policy");
    }

    #[test]
    fn a_guest_sees_the_sdk_only() {
        let guest = package("route-mirror", "plugins/route-mirror/Cargo.toml", &["waspmq-core"], &[]);
        forbidden_edges(&with_core(guest)).assert_one("route-mirror may not depend on waspmq-core");
        let sdk = package("waspmq-plugin-sdk", "plugin-sdk/rust/Cargo.toml", &[], &[]);
        let guest = package("trap", "tests/guests/trap/Cargo.toml", &["waspmq-plugin-sdk"], &[]);
        forbidden_edges(&[guest, sdk]).assert_none();
    }

    #[test]
    fn an_unknown_crate_is_found() {
        let crates = with_core(package("waspmq-cluster", "broker/cluster/Cargo.toml", &["waspmq-core"], &[]));
        forbidden_edges(&crates).assert_one("does not know");
    }

    #[test]
    fn tests_and_development_dependencies_are_free() {
        forbidden_edges(&with_core(package("xtask", "xtask/Cargo.toml", &["waspmq-core"], &[])))
            .assert_none();
        let sdk = package("waspmq-plugin-sdk", "plugin-sdk/rust/Cargo.toml", &[], &["waspmq-core"]);
        forbidden_edges(&with_core(sdk)).assert_none();
    }

    #[test]
    fn a_second_home_is_found_even_for_tests() {
        let wasmtime =
            |name, manifest| misplaced_dependencies(&[package(name, manifest, &[], &["wasmtime"])]);
        wasmtime("waspmq", "broker/server/Cargo.toml").assert_one("wasmtime");
        wasmtime("waspmq-policy", "broker/policy/Cargo.toml").assert_none();
        let core = package("waspmq-core", "broker/core/Cargo.toml", &["utoipa-axum"], &[]);
        misplaced_dependencies(&[core]).assert_one("home of utoipa");
        let bench = package("waspmq-benches", "benches/Cargo.toml", &["clap", "tomlish"], &[]);
        misplaced_dependencies(&[bench]).assert_none();
    }

    #[test]
    fn tokio_is_found_at_any_depth() {
        let tree = "waspmq-core v0.1.0\nsmallvec v1.16.5\ntokio-util v0.8.0\n";
        tokio_in_tree("waspmq-core", tree).assert_none();
        tokio_in_tree("waspmq-core", &format!("{tree}tokio v1.54.1 (*)\n"))
            .assert_one("takes in tokio v1.54.1");
    }

    #[test]
    fn bincode_in_a_second_file_is_found() {
        let line = concat!("let x = bincode", "::encode();\n");
        bincode_outside_its_file("broker/protocol/src/frame.rs", line).assert_one("frame.rs:1");
        bincode_outside_its_file(BINCODE_FILE, line).assert_none();
    }

    #[test]
    fn the_members_of_the_tree_are_read() {
        let packages = packages();
        let protocol = packages.iter().find(|package| package.name == "waspmq-protocol").unwrap();
        assert_eq!(protocol.manifest, "broker/protocol/Cargo.toml");
        assert!(protocol.normal.iter().any(|name| name == "waspmq-core"));
    }
}
