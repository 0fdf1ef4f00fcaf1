//! From nothing to a component: new plugin projects in six languages ([`Project`]), and what builds them ([`Build`]).
//!
//! The story: [`Project::write`] puts a template, the WIT package and, for Rust, the SDK's source into a new folder. The
//! folder's `plugin.toml` says which tool makes a module or a component of it; [`Build::run`] runs that tool, and [`wrap`]
//! makes a component of a bare module. Invariants: no file is overwritten; a tool that is missing is named with where to
//! get it. Deliberately not here: what a component decides, and whether a broker takes it (`waspmq-policy`).

mod build;
mod language;
mod probe;
mod project;
mod scaffold;
mod templates;
mod wrap;

pub use build::{Build, BuildError, Built};
pub use language::{Hook, Language};
pub use project::{BadProject, BuildSection, ComponentSection, ProjectFile, Strings};
pub use scaffold::{Project, ScaffoldError};
pub use wrap::{World, WrapError, is_component, wrap};
