//! What every manifest of the workspace says.

use crate::report::Findings;

/// Rule: a member takes the workspace's lints and has a licence.
pub(crate) fn manifest_gaps(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    if !has_line(text, "[lints]", &["workspace = true"]) {
        findings.add(path, "[lints] workspace = true is missing");
    }
    if !has_line(text, "[package]", &["license.workspace = true"]) {
        findings.add(path, "[package] license.workspace = true is missing");
    }
    findings
}

fn has_line(text: &str, section: &str, wanted: &[&str]) -> bool {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    lines.take_while(|line| !line.starts_with('[')).any(|line| wanted.contains(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nlicense.workspace = true\n\n[lints]\nworkspace = true\n";

    #[test]
    fn a_complete_manifest_passes() {
        manifest_gaps("a/Cargo.toml", GOOD).assert_none();
    }

    #[test]
    fn missing_lints_are_found() {
        let bad = GOOD.replace(
            "workspace = true\n\n[lints]\nworkspace = true",
            "workspace = true\n\n[lib]\nworkspace = true",
        );
        manifest_gaps("a/Cargo.toml", &bad).assert_one("a/Cargo.toml: [lints]");
    }

    #[test]
    fn a_missing_licence_is_found() {
        manifest_gaps("a/Cargo.toml", &GOOD.replace("license", "edition")).assert_one("license");
    }

    #[test]
    fn a_file_that_is_not_there_has_every_gap() {
        let findings = manifest_gaps("gone/Cargo.toml", "");
        assert!(format!("{findings:?}").contains("lints") && format!("{findings:?}").contains("license"));
    }
}
