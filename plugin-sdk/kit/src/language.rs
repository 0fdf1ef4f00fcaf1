//! The languages that there are templates for, and the hooks that a new plugin may have.

/// A language with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    C,
    Zig,
    AssemblyScript,
    JavaScript,
    Python,
}

impl Language {
    pub const ALL: [Self; 6] =
        [Self::Rust, Self::C, Self::Zig, Self::AssemblyScript, Self::JavaScript, Self::Python];

    /// Its name in commands and folders.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Zig => "zig",
            Self::AssemblyScript => "assemblyscript",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }
}

/// What a new plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Routing,
    Ack,
    Admission,
    Overflow,
}

impl Hook {
    pub const ALL: [Self; 4] = [Self::Routing, Self::Ack, Self::Admission, Self::Overflow];

    /// Its name in commands and policies; its world in the WIT package has the same.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Ack => "ack",
            Self::Admission => "admission",
            Self::Overflow => "overflow",
        }
    }
}
