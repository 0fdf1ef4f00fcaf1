//! The effective configuration as TOML that can be used as a file again.

use super::error::Origin;
use super::layers::Loaded;

impl Loaded {
    /// Every key with its value; a comment names who set it, where that was not the default. Secrets stay
    /// hidden: the admin token and those of access keys.
    pub fn to_toml(&self) -> String {
        let mut shown = self.config.clone();
        shown.admin.token = None;
        let text = toml::to_string(&shown).unwrap_or_else(|error| format!("# {error}\n"));
        let mut printed = String::with_capacity(text.len() * 2);
        let mut section = String::new();
        for line in text.lines() {
            printed.push_str(line);
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((key, _)) = line.split_once(" = ") {
                let origin = self.origins.get(&format!("{section}{key}"));
                if let Some(origin) = origin.filter(|origin| **origin != Origin::Preset) {
                    printed.push_str(&format!("  # {origin}"));
                }
            }
            printed.push('\n');
            if line == "[[access.keys]]" {
                printed.push_str("# secret: not shown, if there is one\n");
            }
            if line == "[admin]" && self.config.admin.token.is_some() {
                let origin = self.origins.get("admin.token").unwrap_or(&Origin::Preset);
                printed.push_str(&format!("# token is set (hidden)  # {origin}\n"));
            }
        }
        printed
    }
}
