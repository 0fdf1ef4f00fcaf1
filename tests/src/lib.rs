//! What the test targets of this package share: where the tree is and where its built parts are.
//!
//! Not here: any test. `tidy/` checks the tree itself, each further folder is a test target of its own.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository, absolute.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, which `cargo xtask` always sets, or `target` in the root.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where `cargo xtask plugins` puts the component of that name (`route-mirror`), whether it exists or not.
pub fn plugin_path(name: &str) -> PathBuf {
    target_dir().join("plugins").join(format!("{name}.wasm"))
}
